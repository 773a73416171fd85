"""Figures of populations: what stands in them are the right numbers, and nothing is left out silently."""

from dataclasses import replace

import matplotlib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from calibration.population.test_population import COVARIATES, SPACE, observations, problem, surrogate, table
from calibration.population.test_prediction import one_parameter, posterior_of
from matplotlib.colors import to_rgba
from plots_of_populations import with_subjects
from scipy.special import ndtr
from scipy.stats import chi2
from test_plots import assert_tidy, line

import uqms as uq
from uqms.calibration.population.subject_prediction import Measured
from uqms.calibration.posterior import Posterior
from uqms.diagnostics.covariates import own_trend
from uqms.errors import InputError
from uqms.plots import _individual_fits, _population
from uqms.plots._style import VERMILION

HEIGHT = COVARIATES.assign(height=[160.0, 175.0, 170.0, 181.0, 168.0])


@pytest.fixture(scope="module")
def posterior() -> Posterior:
    return with_subjects(posterior_of(problem(), 60))


@pytest.fixture(scope="module")
def check() -> uq.diagnostics.VisualPredictiveCheck:
    """Return a result as it may be: two bins, three percentiles, one of them outside."""
    dims = ("bin", "level")
    lower, median, upper = (np.array([[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]]) + step for step in (0.0, 0.5, 1.0))
    observed = median.copy()
    observed[1, 2] = 8.0
    coords = {
        "level": [0.05, 0.5, 0.95],
        "bin": [0, 1],
        "low": ("bin", [0.0, 2.0]),
        "high": ("bin", [2.0, 6.0]),
        "middle": ("bin", [0.7, 4.0]),
        "measurements": ("bin", [3, 2]),
    }
    parts = {"observed": observed, "median": median, "lower": lower, "upper": upper}
    quantiles = xr.Dataset({name: (dims, one, {"unit": "mg/L"}) for name, one in parts.items()}, coords)
    replicated = xr.DataArray(np.stack([median] * 4), coords, ("replicate", *dims))
    data = pd.DataFrame({"subject": list("abcab"), "time": [0.0, 0.7, 1.0, 3.0, 5.0], "value": [2.0, 3, 5, 4, 8]})
    return uq.diagnostics.VisualPredictiveCheck(
        quantiles, replicated, data.assign(bin=[0, 0, 0, 1, 1]), "conc", "time", 0.95, True, 2, 0.0
    )


def test_figures_change_no_settings_and_are_tidy(
    posterior: Posterior, check: uq.diagnostics.VisualPredictiveCheck
) -> None:
    before = dict(matplotlib.rcParams)
    figures = [
        uq.plots.individual_fits(posterior),
        uq.plots.individuals(posterior),
        uq.plots.shrinkage(posterior),
        uq.plots.effects(posterior),
        uq.plots.covariates(posterior, HEIGHT),
        uq.plots.visual_predictive_check(check),
    ]
    for figure in figures:
        assert_tidy(figure)
        assert figure.get_label()
    assert dict(matplotlib.rcParams) == before


# ----------------------------------------------------------------------------------------------------- individual fits
def test_individual_fits_draw_each_subjects_own_law(posterior: Posterior) -> None:
    figure = uq.plots.individual_fits(posterior, coords={"t": [0.0, 0.5, 2.0]}, labels={"t": "time (h)"})
    one, shared = posterior.problem, posterior.hierarchy.shared
    assert len(figure.axes) == 6  # the first subject was measured under two conditions
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles[0] == "s0, x 0.2"
    assert titles[1] == "s0, x 0.7"
    assert titles[5] == "s4, x 0.4"
    assert [ax.get_xlabel() for ax in figure.axes] == ["", "", "", "time (h)", "time (h)", "time (h)"]
    assert [ax.get_ylabel() for ax in figure.axes] == ["y", "", "", "y", "", ""]
    k = int(np.flatnonzero(one.data.cells.unit == 2)[0])
    ax = figure.axes[titles.index("s2, x 0.2")]
    decoder = one.surrogate.decode("y", {"t": np.array([0.0, 0.5, 2.0])})
    u = one.data.unit_inputs(shared.own)[:, [k]]
    mean, variance, _ = shared.predict(u, Measured.of(one.data.cells, np.array([k])), decoder, np.random.default_rng(0))
    mean, sd, sigma = mean[:, 0], np.sqrt(variance[:, 0]), shared.own["sigma"][:, None]
    edges = [one.get_ydata() for one in ax.lines if one.get_label() in ("simulator, median", "simulator, 95 %")]
    for level, edge in zip((0.5, 0.025, 0.975), edges, strict=True):
        np.testing.assert_allclose(ndtr((edge - mean) / sd).mean(axis=0), level, atol=1e-6)
    band = ax.collections[0].get_paths()[0].vertices
    total = np.sqrt(sd**2 + sigma**2)
    top = np.array([band[band[:, 0] == t, 1].max() for t in (0.0, 0.5, 2.0)])
    np.testing.assert_allclose(ndtr((top - mean) / total).mean(axis=0), 0.975, atol=1e-6)
    rows = np.flatnonzero(one.observations.subject == "s2")
    points = line(ax, "data")
    np.testing.assert_allclose(points, np.column_stack([one.observations.coords["t"], one.observations.value])[rows])
    own = one.individuals(shared.theta, np.zeros_like(shared.z))
    m = shared.scores(one.data.unit_inputs(own)[:, [k]])[0][:, 0]
    np.testing.assert_allclose(line(ax, "typical subject")[:, 1], np.median(decoder[0] + m @ decoder[1].T, axis=0))
    assert len({ax.get_ylim() for ax in figure.axes}) == 1


def test_many_subjects_are_pages_that_say_so(posterior: Posterior, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_individual_fits, "A_PAGE", 4)
    first = uq.plots.individual_fits(posterior)
    assert len(first.axes) == 4
    assert first.get_suptitle() == "panels 1 to 4 of 6; page 1 of 2, choose with page="
    second = uq.plots.individual_fits(posterior, page=2)
    assert [ax.get_title(loc="left") for ax in second.axes] == ["s3, x 0.3", "s4, x 0.4"]
    chosen = uq.plots.individual_fits(posterior, subjects=["s4", "s1"])
    assert [ax.get_title(loc="left")[:2] for ax in chosen.axes] == ["s4", "s1"]
    assert chosen.get_suptitle() == ""
    for figure in (first, second, chosen):
        assert_tidy(figure)
    with pytest.raises(InputError, match="there are 2, 1 to 2"):
        uq.plots.individual_fits(posterior, page=3)
    with pytest.raises(InputError, match="subjects is \\['zz'\\]"):
        uq.plots.individual_fits(posterior, subjects=["zz"])
    with pytest.raises(InputError, match="expected 't'"):
        uq.plots.individual_fits(posterior, coords={"x": [1.0]})


# --------------------------------------------------------------------------------------------------------- individuals
def test_individuals_draw_every_subjects_interval_in_order(posterior: Posterior) -> None:
    figure = uq.plots.individuals(posterior, reference={"b": 0.4})
    assert [ax.get_xlabel() for ax in figure.axes] == ["a", "b"]
    assert [ax.get_xscale() for ax in figure.axes] == ["linear", "log"]
    ax = figure.axes[1]
    own = posterior.individuals["b"].values.reshape(-1, 5)
    middle = np.median(own, axis=0)
    points = line(ax, "subject, median and 95 %")
    np.testing.assert_allclose(points[:, 0], middle)
    assert np.all(np.diff(points[np.argsort(-points[:, 1]), 0]) <= 0.0)  # the largest on top
    names = {place: text.get_text() for place, text in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)}
    assert names[points[2, 1]] == "s2"
    ends = np.array([path.vertices[:, 0] for path in ax.collections[0].get_paths()])
    np.testing.assert_allclose(ends, np.quantile(own, [0.025, 0.975], axis=0).T)
    assert any(one.get_label() == "reference" and one.get_xdata()[0] == 0.4 for one in ax.lines)
    typical = line(ax, "typical value")
    assert typical[np.argmax(typical[:, 1]), 0] == pytest.approx(np.median(posterior.draws["b"].values), rel=0.05)
    with pytest.raises(InputError, match="reference has \\['sigma'\\]"):
        uq.plots.individuals(posterior, reference={"sigma": 0.2})


@pytest.mark.parametrize("settings", [{}, {"occasions": ("a",)}])
def test_new_subjects_have_the_spread_between_subjects_alone(settings: dict) -> None:
    found = posterior_of(problem(**settings), 80)
    new = _population._new_subjects(found.hierarchy)[:, 0]
    flat = found.flat()
    assert new.mean() == pytest.approx(flat["a"].mean(), abs=4 * new.std() / np.sqrt(len(new)))
    wanted = flat["a"].var() + np.mean(flat["omega_a"] ** 2)
    assert new.var() == pytest.approx(wanted, rel=4 * np.sqrt(2 / len(new)))


# ----------------------------------------------------------------------------------------------------------- shrinkage
def test_shrinkage_draws_means_and_sds_in_units_of_the_spread(posterior: Posterior) -> None:
    figure = uq.plots.shrinkage(posterior)
    numbers = posterior.shrinkage()
    for ax, name in zip(figure.axes, ("a", "b"), strict=True):
        values = posterior.effects[name].values.reshape(-1, 5)
        omega = np.sqrt(np.mean(posterior.draws[f"omega_{name}"].values ** 2))
        wanted = np.column_stack([values.std(axis=0), values.mean(axis=0)]) / omega
        unlike = wanted[:, 1] ** 2 > 1.959964**2 * np.maximum(1.0 - wanted[:, 0] ** 2, 0.0)
        np.testing.assert_allclose(line(ax, "subject"), wanted[~unlike])
        if unlike.any():
            np.testing.assert_allclose(line(ax, "subject unlike the others"), wanted[unlike])
        assert [text.get_text() for text in ax.texts] == [f"s{j}" for j in np.flatnonzero(unlike)]
        number = f"{numbers.loc[name, 'shrinkage']:.2f}".replace("-", "−")
        assert ax.get_title(loc="left") == f"{name}: shrinkage {number}"
        edge = line(ax, "95 % of a normal population")
        np.testing.assert_allclose((edge[:, 1] / 1.959964) ** 2 + edge[:, 0] ** 2, 1.0, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------- effects
def test_effects_draw_pairs_with_the_population_around_them(posterior: Posterior) -> None:
    (ax,) = uq.plots.effects(posterior).axes
    r = posterior.draws["corr_b_a"].values.ravel()
    numbers = [f"{value:.2f}".replace("-", "−") for value in (r.mean(), *np.quantile(r, [0.025, 0.975]))]
    assert ax.get_title(loc="left") == f"in the model:\n{numbers[0]} [{numbers[1]}, {numbers[2]}]"
    assert ax.get_ylabel() == "effect on log b"
    covariance = np.diag([posterior.hierarchy.moments(name).between for name in ("a", "b")])
    covariance[0, 1] = covariance[1, 0] = r.mean() * np.sqrt(covariance[0, 0] * covariance[1, 1])
    ellipse = line(ax, "95 % of the population")
    square = np.einsum("ni,ij,nj->n", ellipse, np.linalg.inv(covariance), ellipse)
    np.testing.assert_allclose(square, chi2.ppf(0.95, 2), rtol=1e-6)
    with pytest.raises(InputError, match="pairs need two"):
        uq.plots.effects(with_subjects(posterior_of(one_parameter(), 40)))


# ---------------------------------------------------------------------------------------------------------- covariates
def test_covariates_draw_effects_of_the_model_and_trends_of_others(posterior: Posterior) -> None:
    figure = uq.plots.covariates(posterior, HEIGHT)
    axes = np.array(figure.axes).reshape(2, 3)
    fitted = axes[1, 0]
    size = posterior.draws["beta_b_weight"].values.ravel()
    curve = line(fitted, "effect in the model")
    np.testing.assert_allclose(curve[:, 1], np.median(size) * np.log(curve[:, 0] / 70.0), atol=1e-12)
    weight = COVARIATES["weight"].to_numpy()
    own = posterior.effects["b"].values.reshape(-1, 5) + size[:, None] * np.log(weight / 70.0)
    points = next(one for one in fitted.lines if one.get_marker() == "o").get_xydata()
    np.testing.assert_allclose(points, np.column_stack([weight, own.mean(axis=0)]))
    assert fitted.get_title(loc="left").startswith("log(weight / 70): ")
    assert axes[1, 1].get_title(loc="left") == "effect: 0.1, known"
    other = axes[0, 2]
    trend = own_trend(*posterior.hierarchy.moments("a"), HEIGHT["height"].to_numpy())
    drawn = line(other, "trend, not in the model")
    np.testing.assert_allclose(drawn[:, 1], trend.band(drawn[:, 0], 0.95)[0])
    low, high = trend.slope_interval(0.95)
    red = to_rgba(other._left_title.get_color()) == to_rgba(VERMILION)  # type: ignore[attr-defined]
    assert red == (low > 0.0 or high < 0.0)
    assert axes[1, 2].get_xlabel() == "height"
    few = uq.plots.covariates(posterior, HEIGHT, names=["a"], covariates=["height"], labels={"height": "height (cm)"})
    assert few.axes[0].get_xlabel() == "height (cm)"
    assert_tidy(few)


def test_an_effect_of_several_columns_is_drawn_by_its_expression() -> None:
    population = uq.Population(
        SPACE,
        individual=("a", "b"),
        covariates={"b": {"weight / height": uq.Normal(0.0, 0.1)}},
        spread={"a": uq.HalfNormal(0.05), "b": uq.HalfNormal(0.1)},
    )
    one = uq.Calibration(
        surrogate(),
        observations(table()),
        uq.GaussianNoise(sd=uq.HalfNormal(0.3)),
        population=population,
        subjects=HEIGHT,
        outside="extrapolate",
    )
    found = with_subjects(posterior_of(one, 40))
    axes = np.array(uq.plots.covariates(found).axes).reshape(2, 3)
    assert [ax.get_xlabel() for ax in axes[1]] == ["weight", "height", "weight / height"]
    kinds = [[one.get_label() for one in ax.lines if not one.get_label().startswith("_")] for ax in axes.ravel()]
    assert kinds == [["trend, not in the model"]] * 5 + [["effect in the model"]]
    curve = line(axes[1, 2], "effect in the model")
    size = np.median(found.draws["beta_b_weight_height"].values)
    np.testing.assert_allclose(curve[:, 1], size * curve[:, 0], atol=1e-12)
    assert_tidy(axes[0, 0].figure)


def test_a_trend_that_is_sure_is_red(posterior: Posterior) -> None:
    """Effects that follow one covariate, and not the other."""
    order = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    effects = posterior.tree["effects"].dataset
    spread = np.sqrt(posterior.hierarchy.moments("a").between)
    shifted = effects.assign(
        a=effects["a"] - effects["a"].mean(("chain", "draw")) + 5.0 * spread * xr.DataArray(order, dims="subject")
    )
    groups = {name: group.dataset for name, group in posterior.tree.children.items()} | {"effects": shifted}
    other = replace(posterior, tree=xr.DataTree.from_dict(groups))
    columns = COVARIATES.assign(order=order, none=[1.0, -1.0, 0.0, -1.0, 1.0])
    figure = uq.plots.covariates(other, columns, names=["a"], covariates=["order", "none"])
    red = [to_rgba(ax._left_title.get_color()) == to_rgba(VERMILION) for ax in figure.axes]  # type: ignore[attr-defined]
    assert red == [True, False]


# ---------------------------------------------------------------------------------------------- visual predictive check
def test_the_check_draws_boxes_of_bins_and_marks_what_is_outside(
    check: uq.diagnostics.VisualPredictiveCheck,
) -> None:
    (ax,) = uq.plots.visual_predictive_check(check, labels={"time": "time (h)"}).axes
    one = check.quantiles
    boxes = np.array([[bar.get_x(), bar.get_width(), bar.get_y(), bar.get_height()] for bar in ax.patches])
    wanted = [[[0.0, 2.0, one["lower"][0, k], 1.0], [2.0, 4.0, one["lower"][1, k], 1.0]] for k in range(3)]
    np.testing.assert_allclose(boxes, np.reshape(wanted, (6, 4)))
    np.testing.assert_allclose(line(ax, "outside"), [[4.0, 8.0]])
    np.testing.assert_allclose(line(ax, "percentiles of the data (5, 50, 95 %)")[:, 1], one["observed"][:, 1])
    np.testing.assert_allclose(line(ax, "data"), check.data[["time", "value"]])
    assert ax.get_title(loc="left") == "inside 5 of 6, expected 6.0 (p = 0); 2 values not corrected"
    assert ax.get_xlabel() == "time (h)"
    assert ax.get_ylabel() == "prediction-corrected conc (mg/L)"
    with pytest.raises(InputError, match="got a int"):
        uq.plots.visual_predictive_check(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["individual_fits", "individuals", "shrinkage", "effects", "covariates"])
def test_figures_want_a_population(name: str) -> None:
    with pytest.raises(InputError, match=f"plots.{name}: got int"):
        getattr(uq.plots, name)(3)
