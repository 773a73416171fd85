"""Figures: what stands in them are the right numbers, nothing overlaps, and nothing global is left changed."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations

import matplotlib
import numpy as np
import pytest
import xarray as xr
from calibration.problems import given_surrogate, replicates
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy import stats

import uqms as uq
from uqms.calibration.posterior import Posterior, build_posterior
from uqms.ensemble import RunState
from uqms.errors import ExtrapolationError, InputError
from uqms.plots import _density, _style
from uqms.plots._bands import LEVELS, bands_at, bands_of_cells, mixture_quantiles
from uqms.surrogates import GaussianProcessSurrogate, Layout
from uqms.surrogates.outputs import OutputBasis


# --------------------------------------------------------------------------------------------------------------- tools
def posterior_of(problem: uq.Calibration, seed: int = 1, chains: int = 4, draws: int = 250) -> Posterior:
    """Return a posterior whose draws are resampled from the prior by their likelihood: no sampler, no compiling."""
    rng = np.random.default_rng(seed)
    prior = problem.prior_draws(8000, rng)
    log_weight = problem.log_likelihood(prior)
    weight = np.exp(log_weight - log_weight.max())
    rows = rng.choice(len(weight), size=chains * draws, p=weight / weight.sum())
    shaped = {name: (("chain", "draw"), values[rows].reshape(chains, draws)) for name, values in prior.items()}
    posterior = xr.Dataset(shaped).assign_coords(chain=np.arange(chains), draw=np.arange(draws))
    diverging = xr.Dataset({"diverging": (("chain", "draw"), np.zeros((chains, draws), dtype=bool))})
    trace = xr.DataTree.from_dict({"posterior": posterior, "sample_stats": diverging})
    return build_posterior(problem, uq.NUTS(draws=draws, chains=chains), trace, seed)


def curve_problem(noise: uq.GaussianNoise | None = None, **settings: object) -> uq.Calibration:
    """Return a calibration of theta from a curve y(t) = sin(3 theta) t over t = 0..4."""
    x = np.linspace(0.0, 1.0, 8)[:, None]
    basis = np.arange(5.0)[:, None]
    surrogate = given_surrogate(x, np.sin(3 * x), basis=basis)
    data = xr.DataArray([0.1, 0.8, 1.9, 2.4, 3.5], dims="t", coords={"t": np.arange(5.0)}, name="y")
    return uq.Calibration(surrogate, data, noise=noise or uq.GaussianNoise(sd=uq.HalfNormal(0.5)), **settings)  # type: ignore[arg-type]


def conditioned_problem(values: np.ndarray, at: np.ndarray, **settings: object) -> uq.Calibration:
    """Return a calibration of theta from a scalar y(theta, x) measured at several conditions x."""
    rng = np.random.default_rng(2)
    points = rng.random((20, 2))
    space = uq.ParameterSpace(theta=uq.Uniform(0, 1), conditions={"x": uq.Condition(0, 1, unit="mg")})
    surrogate = given_surrogate(points, (points[:, :1] + points[:, 1:]) ** 2, names=("theta", "x"), space=space)
    return uq.Calibration(surrogate, replicates(values, at), noise=uq.GaussianNoise(sd=0.2), **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def curve() -> Posterior:
    derived = {
        "double": lambda p: 2.0 * p["theta"],
        "inverse": uq.Derived(lambda p: 1.0 / (0.1 + p["theta"]), unit="s", description="time until it is over"),
    }
    return posterior_of(curve_problem(derived=derived))


@pytest.fixture(scope="module")
def conditioned() -> Posterior:
    return posterior_of(conditioned_problem(np.array([[0.2, 0.3], [0.8, 0.9], [1.6, 1.5]]), np.array([0.1, 0.5, 0.9])))


def texts(figure: Figure) -> Iterator[Text]:
    """Yield what is written into a figure: no empty texts, no labels of ticks that are out of view."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if text.get_visible() and text.get_text().strip():
            yield text


def assert_tidy(figure: Figure) -> None:
    """Fail when two texts overlap, or one is cut off at the figure's edge."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    hidden = set()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if not low <= tick.get_loc() <= high or not tick.label1.get_visible() or not axis.get_visible():
                    hidden |= {tick.label1, tick.label2}
                hidden.add(tick.label2)
        if not ax.axison:
            hidden |= set(ax.xaxis.findobj(Text)) | set(ax.yaxis.findobj(Text))
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts(figure) if t not in hidden]
    assert boxes
    width, height = figure.bbox.width, figure.bbox.height
    for words, box in boxes:
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -1, f"cut off: {words!r}"
    for (one, a), (other, b) in combinations(boxes, 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        down = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert across <= 1 or down <= 1, f"{one!r} lies on {other!r}"


def line(ax: Axes, name: str) -> np.ndarray:
    """Return the points (n, 2) of the first line of that name."""
    found = [one for one in ax.lines if one.get_label() == name]
    return np.asarray(found[0].get_xydata())


# -------------------------------------------------------------------------------------------------- what all have alike
def every_figure(curve: Posterior, conditioned: Posterior) -> dict[str, Callable[[], Figure]]:
    design = uq.sobol(curve.problem.space, 16, rng=1)
    return {
        "design": lambda: uq.plots.design(design),
        "leave_one_out": lambda: uq.plots.leave_one_out(uq.leave_one_out(curve.problem.surrogate)),  # type: ignore[arg-type]
        "coverage": lambda: uq.plots.coverage(uq.leave_one_out(curve.problem.surrogate)),  # type: ignore[arg-type]
        "prior_posterior": lambda: uq.plots.prior_posterior(curve),
        "pairs": lambda: uq.plots.pairs(curve),
        "predictive": lambda: uq.plots.predictive(curve),
        "conditions": lambda: uq.plots.predictive(conditioned),
    }


def test_figures_change_no_settings_and_show_nothing(curve: Posterior, conditioned: Posterior) -> None:
    before = dict(matplotlib.rcParams)
    for draw in every_figure(curve, conditioned).values():
        figure = draw()
        assert isinstance(figure, Figure)
        assert_tidy(figure)
    assert dict(matplotlib.rcParams) == before
    with pytest.raises(InputError):
        uq.plots.pairs(curve, names=["nothing"])
    assert dict(matplotlib.rcParams) == before


@pytest.mark.slow
def test_figures_need_neither_pyplot_nor_a_screen() -> None:
    script = (
        "import sys, uqms as uq; 'matplotlib' in sys.modules and sys.exit('too early')\n"
        "figure = uq.plots.design(uq.sobol(uq.ParameterSpace(a=uq.Uniform(0, 1)), 8, rng=1)); figure._repr_png_()\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "matplotlib.figure" in loaded
    assert loaded.isdisjoint({"matplotlib.pyplot", "torch", "gpytorch", "pymc", "pytensor"})


def test_a_figure_shows_itself_in_a_notebook_with_words_for_those_who_do_not_see_it(curve: Posterior) -> None:
    figure = uq.plots.pairs(curve, names=["theta"])
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    html = figure._repr_html_()  # type: ignore[attr-defined]
    assert html.startswith("<img ")
    assert 'alt="Posterior in pairs of theta"' in html


# -------------------------------------------------------------------------------------------------------------- design
def four_inputs() -> xr.Dataset:
    space = uq.ParameterSpace(
        a=uq.LogNormal(2.0, 0.5, unit="mL"), b=uq.Uniform(-1, 1), conditions={"dose": uq.Condition(50, 400, unit="mg")}
    )
    return uq.sobol(space, 16, rng=1)


def test_design_draws_every_pair_once_on_the_scale_of_the_surrogate() -> None:
    design = four_inputs()
    figure = uq.plots.design(design)
    assert len(figure.axes) == 3
    first = figure.axes[0]
    points = np.asarray(first.collections[0].get_offsets())
    np.testing.assert_allclose(points, np.column_stack([design["a"], design["b"]]))
    assert [ax.get_xscale() for ax in figure.axes] == ["log", "log", "linear"]
    assert figure.axes[1].get_xlabel() == "a (mL)"
    assert figure.axes[1].get_ylabel() == "dose (mg)"
    assert_tidy(figure)


def test_design_frames_the_box() -> None:
    design = four_inputs()
    box = uq.ensemble.get_box(design)
    frame = uq.plots.design(design).axes[0].patches[0]
    np.testing.assert_allclose(
        frame.get_extents().transformed(frame.axes.transData.inverted()).get_points(),  # type: ignore[union-attr]
        [[box.lower[0], box.lower[1]], [box.upper[0], box.upper[1]]],
    )


def test_design_tells_states_apart_by_colour_and_marker() -> None:
    design = four_inputs()
    states = ["completed"] * 10 + ["failed"] * 3 + ["timeout"] * 2 + ["invalid"]
    y = np.where(np.arange(16) < 10, 1.0 + np.arange(16), np.nan)
    ensemble = uq.ensemble.build(design, {"y": y}, states=states)
    figure = uq.plots.design(ensemble)
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["completed (10)", "failed (3)", "timeout (2)", "invalid (1)", "design box"]
    failed = figure.axes[0].collections[1]
    rows = ensemble["state"].values == RunState.FAILED
    np.testing.assert_allclose(failed.get_offsets(), np.column_stack([design["a"], design["b"]])[rows])
    looks = {
        (tuple(one.get_facecolor()[0]), one.get_paths()[0].vertices.tobytes()) for one in figure.axes[0].collections
    }
    assert len(looks) == 4
    assert len({shape for _, shape in looks}) == 4


def test_probability_draws_the_map_with_its_runs_and_reliability_the_curve() -> None:
    space = uq.ParameterSpace(a=uq.LogNormal(median=2.0, sigma=0.5, unit="mg"), b=uq.Uniform(0, 1))
    points = uq.sobol(space, 48, rng=1)
    lost = points["a"].values > 2.5
    states = np.where(lost, "failed", "completed")
    runs = uq.ensemble.build(points, {"y": np.zeros(48)}, states=states)
    success = uq.SuccessProbability(hyperparameters="point").fit(runs)
    figure = uq.plots.probability(success)
    ax = figure.axes[0]
    marks = {c.get_label(): np.asarray(c.get_offsets()) for c in ax.collections if "run that" in str(c.get_label())}
    assert len(marks["run that failed"]) == lost.sum()
    np.testing.assert_allclose(marks["run that failed"][:, 0], points["a"].values[lost])
    mesh = next(c for c in ax.collections if c.get_array() is not None and c.get_array().size == 81 * 81)
    corners = {"a": list(success.domain.from_unit([[0.0, 0.0], [1.0, 1.0]])[:, 0]), "b": [0.0, 1.0]}
    drawn = np.asarray(mesh.get_array()).reshape(81, 81)
    np.testing.assert_allclose(drawn[[0, -1], [0, -1]], success.probability(corners), atol=1e-9)
    assert ax.get_xscale() == "log"
    line = uq.plots.probability(success, names=["a"], at={"b": 0.3}).axes[0].lines[0]
    np.testing.assert_allclose(line.get_ydata(), success.probability({"a": line.get_xdata(), "b": 0.3}))
    honest = uq.plots.reliability(success, bins=5)
    table = success.reliability(5)
    np.testing.assert_allclose([bar.get_height() for bar in honest.axes[1].patches], table["count"])
    for one in (figure, honest):
        assert_tidy(one)
    with pytest.raises(InputError, match="plots.probability: names is"):
        uq.plots.probability(success, names=["z"])
    with pytest.raises(InputError, match="plots.reliability: got int"):
        uq.plots.reliability(3)  # type: ignore[arg-type]


def test_failures_draws_shares_intervals_and_the_region() -> None:
    space = uq.ParameterSpace(a=uq.LogNormal(median=2.0, sigma=0.5, unit="mg"), b=uq.Uniform(0, 1))
    points = uq.sobol(space, 64, rng=1)
    lost = points["a"].values > 2.5
    states = np.where(lost, "failed", "completed")
    ensemble = uq.ensemble.build(points, {"y": np.zeros(64)}, states=states)
    figure = uq.plots.failures(ensemble)
    first, second = figure.axes
    bars = first.patches[:-1]  # the last is the region
    edges = [bar.get_x() for bar in bars] + [bars[-1].get_x() + bars[-1].get_width()]
    inside = [
        (points["a"].values >= low) & (points["a"].values < high) for low, high in zip(edges, edges[1:], strict=False)
    ]
    shares = [lost[rows].mean() for rows in inside if rows.any()]
    np.testing.assert_allclose([bar.get_height() for bar in bars], shares)
    assert first.get_xscale() == "log"
    told = uq.ensemble.failures(ensemble)
    assert first.lines[0].get_xdata()[0] == told.region[0].value
    assert not second.lines
    marks = next(c for c in first.collections if c.get_label() == "failed")
    assert len(marks.get_offsets()) == lost.sum()
    assert str(told.lost) in str(figure.get_label())
    assert_tidy(figure)
    with pytest.raises(InputError, match="plots.failures: names is"):
        uq.plots.failures(ensemble, names=["z"])


def test_one_input_is_drawn_against_the_run() -> None:
    design = four_inputs()
    figure = uq.plots.design(design, names=["b"])
    points = np.asarray(figure.axes[0].collections[0].get_offsets())
    np.testing.assert_allclose(points, np.column_stack([design["b"], np.arange(16)]))
    assert_tidy(figure)


@pytest.mark.parametrize(
    ("thing", "names", "words"),
    [
        (3.0, None, "float"),
        (xr.Dataset({"a": ("run", [1.0])}), None, "without inputs"),
        ("design", ["c"], "'a', 'b', 'dose'"),
        ("design", [], "some of"),
        ("design", ["a", "a"], "each once"),
        ("design", "a", r"give a sequence, \['a'\]"),
    ],
)
def test_design_refuses_what_it_cannot_draw(thing: object, names: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        uq.plots.design(four_inputs() if isinstance(thing, str) else thing, names=names)  # type: ignore[arg-type]


def test_too_many_inputs_are_refused_until_some_are_named() -> None:
    names = [f"k{i}" for i in range(11)]
    design = uq.halton(uq.ParameterSpace(**dict.fromkeys(names, uq.Uniform(0, 1))), 8, rng=1)
    with pytest.raises(InputError, match="11 names are more than a figure holds, 10"):
        uq.plots.design(design)
    assert len(uq.plots.design(design, names=names[:4]).axes) == 6


# ---------------------------------------------------------------------------------------------------------- validation
def two_outputs() -> GaussianProcessSurrogate:
    space = uq.ParameterSpace(a=uq.Uniform(0, 1), b=uq.Uniform(0, 1))
    design = uq.sobol(space, 16, rng=1)
    curve = np.sin(3 * design["a"].values)[:, None] * np.arange(1.0, 5.0)
    outputs = {
        "y": np.exp(design["b"].values),
        "curve": xr.DataArray(curve, dims=("run", "t"), coords={"t": np.arange(4.0)}, attrs={"unit": "mmHg"}),
    }
    return uq.GaussianProcess().fit(uq.ensemble.build(design, outputs))


def test_leave_one_out_draws_the_validations_numbers() -> None:
    validation = uq.leave_one_out(two_outputs())
    figure = uq.plots.leave_one_out(validation, labels={"t": "time (s)"})
    assert len(figure.axes) == 6
    agreement, errors, density = figure.axes[3:]
    points = [one for one in agreement.lines if one.get_marker() == "o"][0].get_xydata()
    expected = [validation.observed["curve"].values.ravel(), validation.mean["curve"].values.ravel()]
    np.testing.assert_allclose(points, np.column_stack(expected))
    points = [one for one in errors.lines if one.get_marker() == "o"][0].get_xydata()
    np.testing.assert_allclose(points[:, 0], np.tile(np.arange(4.0), 16))
    np.testing.assert_allclose(points[:, 1], validation.standardised["curve"].values.ravel())
    assert errors.get_xlabel() == "time (s)"
    assert agreement.get_xlabel() == "simulated (mmHg)"
    assert agreement.get_title(loc="left").startswith("curve\nQ² ")
    assert f"cover {100 * validation.table.loc['curve', 'coverage_95%']:.1f} %" in errors.get_title(loc="left")
    area = sum(bar.get_height() * bar.get_width() for bar in density.patches)
    assert area == pytest.approx(np.mean(np.abs(validation.standardised["curve"].values) <= 4.0))
    assert_tidy(figure)


def test_leave_one_out_bars_are_95_percent_intervals() -> None:
    validation = uq.leave_one_out(two_outputs())
    ax = uq.plots.leave_one_out(validation, names=["y"]).axes[0]
    segments = np.array([np.asarray(one) for one in ax.collections[0].get_segments()])  # type: ignore[attr-defined]
    np.testing.assert_allclose(np.ptp(segments[:, :, 1], axis=1), 2 * 1.959964 * validation.sd["y"].values, rtol=1e-6)


def test_leave_one_out_of_a_constant_output_says_so_without_dividing_by_zero() -> None:
    design = uq.sobol(uq.ParameterSpace(a=uq.Uniform(0, 1)), 8, rng=1)
    with pytest.warns(uq.errors.ConstantOutputWarning):
        surrogate = uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": np.full(8, 3.0), "z": design["a"].values}))
    validation = uq.leave_one_out(surrogate)
    with np.errstate(all="raise"):
        uq.plots.leave_one_out(validation)._repr_png_()  # type: ignore[attr-defined]


@pytest.mark.parametrize("names", [["z"], "y"])
def test_leave_one_out_refuses_unknown_outputs(names: object) -> None:
    with pytest.raises(InputError, match="plots.leave_one_out: names is"):
        uq.plots.leave_one_out(uq.leave_one_out(two_outputs()), names=names)  # type: ignore[arg-type]


def test_leave_one_out_wants_a_validation() -> None:
    with pytest.raises(InputError, match=r"give uq.leave_one_out\(surrogate\)"):
        uq.plots.leave_one_out(two_outputs())  # type: ignore[arg-type]


def test_coverage_draws_the_validations_numbers() -> None:
    validation = uq.leave_one_out(two_outputs())
    figure = uq.plots.coverage(validation, labels={"curve": "pressure"})
    assert len(figure.axes) == 6
    share, histogram, pivots = figure.axes[3:]
    one = validation.coverage_curve.sel(output="curve")
    np.testing.assert_allclose(line(share, "found"), 100 * np.column_stack([one["level"], one["coverage"]]))
    assert share.get_title(loc="left") == "pressure"
    steps = histogram.patches[0].get_data()  # type: ignore[attr-defined]
    np.testing.assert_allclose(steps.values, validation.pit_histogram["density"].sel(output="curve"))
    np.testing.assert_allclose(steps.edges, np.linspace(0, 1, 11), atol=1e-12)
    errors = validation.pivoted.query("output == 'curve'")
    points = np.asarray([one for one in pivots.lines if one.get_marker() == "o"][0].get_xydata())
    np.testing.assert_allclose(points[:, 1], errors["error"])
    np.testing.assert_allclose(points[:, 0], errors.groupby("score").cumcount() + 1)
    assert_tidy(figure)
    with pytest.raises(InputError, match=r"give uq.leave_one_out\(surrogate\)"):
        uq.plots.coverage(two_outputs())  # type: ignore[arg-type]


def test_coverage_names_the_distance_of_held_out_runs_and_its_range() -> None:
    k = np.linspace(0.0, 6.0, 24)
    runs = uq.ensemble.build({"k": k}, {"y": np.abs(np.sin(k)), "z": np.sin(k)})
    validation = uq.k_fold(uq.GaussianProcess(hyperparameters="point"), runs, rng=1)
    figure = uq.plots.coverage(validation)
    assert figure.axes[2].get_title(loc="left").startswith(f"D²/m {validation.table.loc['y', 'mahalanobis']:.2f}\n")
    assert_tidy(figure)


def test_local_error_draws_left_out_errors_and_marks_those_near_the_posterior() -> None:
    x = np.linspace(0.0, 1.0, 30)
    surrogate = given_surrogate(x[:, None], np.sin(3 * x[:, None]), basis=np.arange(5.0)[:, None])
    data = xr.DataArray([0.1, 0.8, 1.9, 2.4, 3.5], dims="t", coords={"t": np.arange(5.0)}, name="y")
    curve = posterior_of(uq.Calibration(surrogate, data, noise=uq.GaussianNoise(sd=0.05)))
    design = uq.verification_design(curve, 6, rng=1)
    y = np.sin(3 * design["theta"].values)[:, None] * np.arange(5.0)
    runs = uq.ensemble.build(design, {"y": xr.DataArray(y, dims=("run", "t"), coords={"t": np.arange(5.0)})})
    figure = uq.plots.local_error(surrogate, curve, runs)
    assert_tidy(figure)
    ax = figure.axes[0]
    told = uq.leave_one_out(surrogate)
    stated = np.sqrt(np.mean(told.sd["y"].values ** 2, axis=1))
    actual = np.sqrt(np.mean((told.observed["y"] - told.mean["y"]).values ** 2, axis=1))
    draws = curve.flat()["theta"]
    picked = draws[np.unique(np.linspace(0, len(draws) - 1, 200).astype(int))]
    nearest = np.sort(np.argsort(np.abs(x[:, None] - picked).min(axis=1), kind="stable")[:10])
    others = np.setdiff1d(np.arange(30), nearest)
    for name, rows in (("nearest to the posterior", nearest), ("left-out runs", others)):
        np.testing.assert_allclose(line(ax, name), np.column_stack([stated[rows], actual[rows]]), rtol=1e-9)
    new = uq.held_out(surrogate, runs)
    errors = np.sqrt(np.mean((new.observed["y"] - new.mean["y"]).values ** 2, axis=1))
    np.testing.assert_allclose(line(ax, "runs at its draws")[:, 1], errors, rtol=1e-9)
    assert_tidy(uq.plots.local_error(surrogate, curve))
    with pytest.raises(InputError, match=r"give a fitted uq\.GaussianProcess"):
        uq.plots.local_error(curve, curve)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="in the place of a posterior"):
        uq.plots.local_error(surrogate, design)  # type: ignore[arg-type]


def test_learning_curve_draws_errors_and_their_power() -> None:
    k = np.linspace(0.0, 6.0, 32)
    runs = uq.ensemble.build({"k": k}, {"y": np.abs(np.sin(k)), "long name of an output": np.abs(np.cos(k))})
    curve = uq.learning_curve(uq.GaussianProcess(hyperparameters="point"), runs, rng=1)
    figure = uq.plots.learning_curve(curve)
    ax = figure.axes[0]
    points = np.asarray([one for one in ax.lines if one.get_marker() == "o"][0].get_xydata())
    np.testing.assert_allclose(points[:, 1], curve.table["rmse"].xs("y", level="output"))
    power = np.log(np.asarray(ax.lines[0].get_xydata()))
    slope = np.diff(power[:, 1]) / np.diff(power[:, 0])
    np.testing.assert_allclose(slope, -curve.rates.loc["y", "exponent"], rtol=1e-6)
    assert_tidy(figure)
    # Noise of single runs is where the line ends, and all that is drawn when nothing else is left.
    noisy = replace(curve, rates=curve.rates.assign(noise=0.5 * points[:, 1].min()))
    line = np.asarray(uq.plots.learning_curve(noisy).axes[0].lines[0].get_xydata())
    beyond = np.log(line[:, 1] ** 2 - 0.25 * points[:, 1].min() ** 2)
    slope = 0.5 * np.diff(beyond) / np.diff(np.log(line[:, 0]))
    np.testing.assert_allclose(slope, -curve.rates.loc["y", "exponent"], rtol=1e-6)
    only = uq.plots.learning_curve(replace(noisy, rates=noisy.rates.assign(exponent=np.nan)))
    assert "left: noise, sd" in only.axes[0].get_title(loc="left")
    assert_tidy(only)
    with pytest.raises(InputError, match="give uq.learning_curve"):
        uq.plots.learning_curve(runs)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------------- densities
def test_density_of_normal_draws(rng: np.random.Generator) -> None:
    grid, values = _density.density(rng.standard_normal(40_000))  # type: ignore[misc]
    assert np.trapezoid(values, grid) == pytest.approx(1.0, abs=1e-3)
    np.testing.assert_allclose(values, stats.norm.pdf(grid), atol=0.012)


def test_density_does_not_fall_at_the_ends_of_a_support(rng: np.random.Generator) -> None:
    grid, values = _density.density(rng.random(40_000), (0.0, 1.0))  # type: ignore[misc]
    assert 0.0 <= grid[0] < 0.01 < 0.99 < grid[-1] <= 1.0
    np.testing.assert_allclose(values, 1.0, atol=0.05)


def test_draws_that_do_not_differ_have_no_density() -> None:
    assert _density.density(np.full(100, 3.0)) is None


def test_contours_of_correlated_normal_draws_are_their_ellipses(rng: np.random.Generator) -> None:
    z = rng.standard_normal((2, 60_000))
    found = _density.contours(z[0], 0.95 * z[0] + np.sqrt(1 - 0.95**2) * z[1], (0.5, 0.95))
    assert found is not None
    assert found.outside.mean() == pytest.approx(0.05, abs=1e-3)
    radius = np.hypot(found.x, (found.y - 0.95 * found.x) / np.sqrt(1 - 0.95**2))
    for height, mass in zip(found.heights, (0.5, 0.95), strict=True):
        expected = np.sqrt(stats.chi2(2).ppf(mass))
        np.testing.assert_allclose(radius[found.values >= height].max(), expected, rtol=0.08)
        np.testing.assert_allclose(radius[found.values < height].min(), expected, rtol=0.08)


def test_contours_reach_the_end_of_a_support(rng: np.random.Generator) -> None:
    x, y = rng.random(40_000), rng.standard_normal(40_000)
    found = _density.contours(x, y, (0.95,), ((0.0, 1.0), (-np.inf, np.inf)))
    assert found is not None
    row = np.abs(found.y) < 0.2
    edge, middle = row & (np.abs(found.x) < 0.02), row & (np.abs(found.x - 0.5) < 0.05)
    assert found.values[edge].mean() == pytest.approx(found.values[middle].mean(), rel=0.08)


def test_draws_on_a_line_have_no_contours(rng: np.random.Generator) -> None:
    x = rng.random(100)
    assert _density.contours(x, 2.0 * x, (0.5,)) is None
    assert _density.contours(x, np.ones(100), (0.5,)) is None


# ------------------------------------------------------------------------------------------------- prior and posterior
def test_prior_posterior_draws_the_exact_prior_and_the_posteriors_interval(curve: Posterior) -> None:
    figure = uq.plots.prior_posterior(curve, reference={"theta": 0.5})
    panels = {ax.get_xlabel(): ax for ax in figure.axes if ax.axison}
    assert list(panels) == ["theta", "sigma", "double", "inverse (s)"]
    prior = line(panels["sigma"], "prior")
    inside = prior[:, 0] >= 0
    np.testing.assert_allclose(prior[inside][1:-1, 1], stats.halfnorm(scale=0.5).pdf(prior[inside][1:-1, 0]), rtol=1e-6)
    np.testing.assert_allclose(np.interp([0.2, 0.5, 0.8], *line(panels["theta"], "prior").T), 1.0)
    grid, values = line(panels["theta"], "posterior").T
    assert np.trapezoid(values, grid) == pytest.approx(1.0, abs=2e-3)
    draws = curve.draws["theta"].values.ravel()
    low, high = np.quantile(draws, [0.025, 0.975])
    shade = panels["theta"].collections[0].get_paths()[0].vertices
    assert shade[:, 0].min() == pytest.approx(low, abs=2e-3)
    assert shade[:, 0].max() == pytest.approx(high, abs=2e-3)
    assert panels["theta"].get_title(loc="left").split()[1] == _style.rounded([draws.mean()], draws.std())[0]
    assert panels["inverse (s)"].get_title(loc="left").startswith("time until it is over\n")
    assert line(panels["theta"], "reference")[0, 0] == 0.5
    assert_tidy(figure)


def test_the_prior_of_a_derived_quantity_is_a_density(curve: Posterior) -> None:
    ax = uq.plots.prior_posterior(curve, names=["double"]).axes[0]
    grid, values = line(ax, "prior").T
    assert np.trapezoid(values, grid) == pytest.approx(0.99, abs=0.02)  # its central part is shown
    np.testing.assert_allclose(values[(grid > 0.3) & (grid < 1.7)], 0.5, atol=0.08)


def test_a_prior_that_is_far_wider_leaves_the_posterior_visible() -> None:
    x = np.linspace(0.0, 1.0, 40)[:, None]
    problem = uq.Calibration(given_surrogate(x, x), xr.DataArray(0.5, name="y"), noise=uq.GaussianNoise(sd=0.001))
    posterior = posterior_of(problem)
    ax = uq.plots.prior_posterior(posterior).axes[0]
    width = np.ptp(posterior.draws["theta"].values)
    assert width < 0.01
    assert 20.0 * width < np.diff(ax.get_xlim())[0] < 30.0 * width


# --------------------------------------------------------------------------------------------------------------- pairs
def test_pairs_show_inferred_quantities_and_derived_ones_when_asked(curve: Posterior) -> None:
    figure = uq.plots.pairs(curve)
    assert len(figure.axes) == 3
    assert figure.axes[1].get_xlabel() == "theta"
    assert figure.axes[1].get_ylabel() == "sigma"
    assert_tidy(figure)
    figure = uq.plots.pairs(curve, names=["theta", "double", "inverse"], reference={"double": 1.0})
    assert len(figure.axes) == 6
    assert_tidy(figure)


def test_pairs_mark_divergent_draws(curve: Posterior) -> None:
    diverging = np.zeros((4, 250), dtype=bool)
    diverging[1, 7] = True
    tree = curve.tree.copy()
    tree["sample_stats"] = xr.DataTree(tree["sample_stats"].dataset.assign(diverging=(("chain", "draw"), diverging)))
    figure = uq.plots.pairs(Posterior(tree, curve.problem, curve.verdict, curve.surrogate_share))
    crosses = [one for one in figure.axes[1].lines if one.get_marker() == "x"]
    expected = [[curve.draws["theta"].values[1, 7], curve.draws["sigma"].values[1, 7]]]
    np.testing.assert_allclose(crosses[0].get_xydata(), expected)
    assert "divergent draws" in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize("draw", [uq.plots.pairs, uq.plots.prior_posterior])
def test_figures_of_a_posterior_refuse_what_they_cannot_draw(draw: Callable[..., Figure], curve: Posterior) -> None:
    for wrong in (curve.tree, None, curve.draws):
        with pytest.raises(InputError, match="give the posterior that"):
            draw(wrong)
    with pytest.raises(InputError, match="'theta', 'sigma', 'double', 'inverse'"):
        draw(curve, names=["beta"])
    with pytest.raises(InputError, match="reference has"):
        draw(curve, reference={"beta": 1.0})


# --------------------------------------------------------------------------------------------------------------- bands
def test_mixture_quantiles_are_quantiles(rng: np.random.Generator) -> None:
    mean, sd = rng.normal(size=(50, 3)), rng.gamma(2.0, size=(50, 3))
    found = mixture_quantiles(mean, sd, LEVELS)
    for level, row in zip(LEVELS, found, strict=True):
        np.testing.assert_allclose(stats.norm(mean, sd).cdf(row).mean(axis=0), level, atol=1e-9)
    single = mixture_quantiles(np.full((1, 1), 2.0), np.full((1, 1), 3.0), LEVELS)[:, 0]
    np.testing.assert_allclose(single, stats.norm(2.0, 3.0).ppf(LEVELS), rtol=1e-9)


def test_mixture_quantiles_without_spread_are_those_of_the_means() -> None:
    found = mixture_quantiles(np.arange(101.0)[:, None], np.zeros((101, 1)), LEVELS)
    np.testing.assert_allclose(found[2], 50.0, atol=1e-6)


@pytest.mark.parametrize("noise", [False, True])
def test_bands_agree_with_draws_of_predict(curve: Posterior, noise: bool) -> None:
    bands, _ = bands_at(curve, "y", None, {"t": np.arange(5.0)})
    found = bands.measurement if noise else bands.output
    draws = np.concatenate([curve.predict(noise=noise, draws=1000, rng=seed).draws["y"].values for seed in range(20)])
    assert found is not None
    off = (found - np.quantile(draws, LEVELS, axis=0))[:, 1:] / draws.std(axis=0)[1:]  # the curve is 0 at t = 0
    np.testing.assert_allclose(off, 0.0, atol=0.08)


def test_bands_at_observed_cells_are_those_of_the_curve(curve: Posterior) -> None:
    of_cells, (at, _) = bands_of_cells(curve), bands_at(curve, "y", None, {"t": np.arange(5.0)})
    np.testing.assert_allclose(of_cells.output, at.output, atol=1e-8)
    np.testing.assert_allclose(of_cells.measurement, at.measurement, atol=1e-8)


def test_bands_in_blocks_are_the_same(curve: Posterior, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = bands_at(curve, "y", None, {"t": np.linspace(0, 4, 11)})
    monkeypatch.setattr("uqms.plots._bands.BLOCK", 3)
    parts, _ = bands_at(curve, "y", None, {"t": np.linspace(0, 4, 11)})
    np.testing.assert_allclose(parts.output, whole.output, atol=1e-9)


# ---------------------------------------------------------------------------------------------------------- predictive
def test_predictive_draws_the_data_and_the_bands(curve: Posterior) -> None:
    figure = uq.plots.predictive(curve, labels={"y": "amount", "t": "time (h)"})
    (ax,) = figure.axes
    bands, _ = bands_at(curve, "y", None, {"t": np.arange(5.0)})
    np.testing.assert_allclose(line(ax, "data"), [[0, 0.1], [1, 0.8], [2, 1.9], [3, 2.4], [4, 3.5]])
    np.testing.assert_allclose(line(ax, "simulator, median")[:, 1], bands.output[2])
    np.testing.assert_allclose(line(ax, "simulator, 95 %")[:, 1], bands.output[0])
    outer = ax.collections[0].get_paths()[0].vertices
    assert bands.measurement is not None
    assert outer[:, 1].min() == pytest.approx(bands.measurement[0].min())
    assert outer[:, 1].max() == pytest.approx(bands.measurement[4].max())
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time (h)", "amount")
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["data", "50 % of new measurements", "95 % of new measurements", *words[3:]]
    assert_tidy(figure)
    legend, panel = figure.legends[0].get_window_extent(), ax.get_window_extent()
    assert legend.x0 > panel.x1


def test_predictive_at_coordinates_that_are_given(curve: Posterior) -> None:
    ax = uq.plots.predictive(curve, coords={"t": [3.0, 1.5]}).axes[0]
    np.testing.assert_allclose(line(ax, "simulator, median")[:, 0], [1.5, 3.0])
    with pytest.raises(ExtrapolationError):
        uq.plots.predictive(curve, coords={"t": [5.0]})


def test_scalars_at_conditions_stand_side_by_side(conditioned: Posterior) -> None:
    figure = uq.plots.predictive(conditioned)
    (ax,) = figure.axes
    bands, _ = bands_at(conditioned, "y", None, None)
    assert ax.get_xlabel() == "x (mg)"
    np.testing.assert_allclose(line(ax, "simulator, median")[:, 1], bands.output[2])
    np.testing.assert_allclose(np.sort(line(ax, "data")[:, 1]), [0.2, 0.3, 0.8, 0.9, 1.5, 1.6])
    bars = ax.containers[0].patches  # type: ignore[attr-defined]
    assert bands.measurement is not None
    np.testing.assert_allclose([bar.get_y() for bar in bars], bands.measurement[0])
    np.testing.assert_allclose([bar.get_y() + bar.get_height() for bar in bars], bands.measurement[4])
    assert_tidy(figure)


def test_other_conditions_have_no_data(conditioned: Posterior) -> None:
    ax = uq.plots.predictive(conditioned, conditions={"x": [0.2, 0.5, 0.7, 0.8]}).axes[0]
    assert len(line(ax, "simulator, median")) == 4
    np.testing.assert_allclose(np.sort(line(ax, "data")[:, 1]), [0.8, 0.9])  # x = 0.5 was observed
    figure = uq.plots.predictive(conditioned, conditions={"x": 0.3})
    assert line(figure.axes[0], "simulator, median")[0, 0] == pytest.approx(0.3)
    assert "data" not in [text.get_text() for text in figure.legends[0].get_texts()]
    assert_tidy(figure)


def curves_at_conditions(at: np.ndarray) -> Posterior:
    rng = np.random.default_rng(2)
    points = rng.random((20, 2))
    space = uq.ParameterSpace(theta=uq.Uniform(0, 1), conditions={"x": uq.Condition(0, 1, unit="mg")})
    basis = np.arange(1.0, 5.0)[:, None]
    scores = points[:, :1] + points[:, 1:]
    surrogate = given_surrogate(points, scores, names=("theta", "x"), space=space, basis=basis)
    data = xr.DataArray(
        (0.5 + at)[:, None] * np.arange(1.0, 5.0),
        dims=("experiment", "t"),
        coords={"experiment": np.arange(len(at)), "t": np.arange(4.0), "x": ("experiment", at)},
        name="y",
    )
    observations = uq.Observations.from_xarray(data, conditions=("x",))
    return posterior_of(uq.Calibration(surrogate, observations, noise=uq.GaussianNoise(sd=0.2)))


def test_curves_at_conditions_have_a_panel_each_on_one_scale() -> None:
    figure = uq.plots.predictive(curves_at_conditions(np.array([0.4, 0.8])))
    one, other = figure.axes
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["x = 0.4 mg", "x = 0.8 mg"]
    np.testing.assert_allclose(line(other, "data")[:, 1], 1.3 * np.arange(1.0, 5.0))
    assert one.get_ylim() == other.get_ylim()
    assert_tidy(figure)


def test_curves_at_other_conditions_are_drawn_without_data() -> None:
    figure = uq.plots.predictive(curves_at_conditions(np.array([0.4, 0.8])), conditions={"x": [0.4, 0.6]})
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["x = 0.4 mg", "x = 0.6 mg"]
    assert [sum(one.get_label() == "data" for one in ax.lines) for ax in figure.axes] == [1, 0]


def test_of_very_many_conditions_the_first_are_shown_and_the_figure_says_so() -> None:
    figure = uq.plots.predictive(curves_at_conditions(np.linspace(0.05, 0.95, 14)))
    assert len(figure.axes) == 12
    assert figure.get_suptitle().startswith("the first 12 of 14 panels")
    assert_tidy(figure)


def test_noise_known_row_by_row_is_drawn_at_the_data() -> None:
    t = np.arange(5.0)
    sd = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    data = xr.DataArray([0.1, 0.8, 1.9, 2.4, 3.5], dims="t", coords={"t": t, "sd": ("t", sd)}, name="y")
    problem = curve_problem()
    posterior = posterior_of(uq.Calibration(problem.surrogate, data, noise=uq.GaussianNoise()))
    figure = uq.plots.predictive(posterior)
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["data with 95 % of their known error", "simulator, median", "simulator, 95 %"]
    segments = figure.axes[0].containers[0].lines[2][0].get_segments()  # type: ignore[attr-defined]
    np.testing.assert_allclose([np.ptp(one[:, 1]) for one in segments], 2 * 1.959964 * sd, rtol=1e-6)


def field_problem() -> uq.Calibration:
    """Return a calibration from a field y(lead, t), of which three places were observed."""
    x = np.linspace(0.0, 1.0, 8)[:, None]
    simple = given_surrogate(x, x, basis=np.ones((6, 1)))
    layout = Layout(("lead", "t"), {"lead": np.array([1.0, 2.0]), "t": np.arange(3.0)}, "mV")
    field = OutputBasis("y", layout, np.zeros(6), np.arange(1.0, 7.0)[:, None], np.zeros((6, 0)))
    unobserved = OutputBasis("z", Layout(), np.zeros(1), np.zeros((1, 0)), np.zeros((1, 0)))
    surrogate = GaussianProcessSurrogate(simple.domain, simple.process, (field, unobserved), simple.attrs)
    observations = uq.Observations(
        output=np.array(["y"] * 3),
        value=np.array([0.5, 1.6, 2.9]),
        coords={"lead": np.array([1.0, 2.0, 2.0]), "t": np.array([0.0, 0.0, 2.0])},
        conditions={},
        subject=np.full(3, ""),
        experiment=np.full(3, ""),
        replicate=None,
        sd=np.full(3, np.nan),
    )
    return uq.Calibration(surrogate, observations, noise=uq.GaussianNoise(sd=0.2))


def test_a_field_is_drawn_at_its_observed_places() -> None:
    posterior = posterior_of(field_problem())
    figure = uq.plots.predictive(posterior)
    (ax,) = figure.axes
    np.testing.assert_allclose(line(ax, "data")[:, 1], [0.5, 1.6, 2.9])
    np.testing.assert_allclose(line(ax, "simulator, median")[:, 1], bands_of_cells(posterior).output[2])
    assert ax.get_xlabel().replace("\n", " ") == "observed place, in order of lead, t"
    assert ax.get_ylabel() == "y (mV)"
    assert_tidy(figure)
    with pytest.raises(InputError, match="no curve over numbers"):
        uq.plots.predictive(posterior, coords={"lead": [1.0], "t": [1.0]})


def test_an_output_that_was_not_observed_has_no_band_of_measurements() -> None:
    figure = uq.plots.predictive(posterior_of(field_problem()), output="z")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["simulator, median", "simulator, 95 %"]


def test_predictive_refuses_what_it_cannot_draw(curve: Posterior, conditioned: Posterior) -> None:
    with pytest.raises(InputError, match="give the posterior that"):
        uq.plots.predictive(curve.tree)
    with pytest.raises(InputError, match="unknown output 'z'"):
        uq.plots.predictive(curve, output="z")
    with pytest.raises(InputError, match="coords are given for"):
        uq.plots.predictive(curve, coords={"day": [1.0]})
    with pytest.raises(InputError, match="conditions"):
        uq.plots.predictive(curve, conditions={"dose": 1.0})
    with pytest.raises(ExtrapolationError):
        uq.plots.predictive(conditioned, conditions={"x": 2.0})


# ------------------------------------------------------------------------------------------------------ words, numbers
def test_labels_name_units_and_powers_of_ten() -> None:
    assert _style.label("beta", "1/day", None) == "beta (1/day)"
    assert _style.label("beta", "", {"beta": r"$\beta$"}) == r"$\beta$"
    assert _style.label("C", "mL/mmHg", None, -6) == "C ($10^{-6}$ mL/mmHg)"
    assert _style.label("price", "$", None) == r"price (\$)"


def test_long_names_are_wrapped_at_underscores() -> None:
    assert _style.wrapped("systemic_vascular_resistance (mmHg s/mL)", 20) == (
        "systemic_vascular_\nresistance\n(mmHg s/mL)"
    )
    assert _style.wrapped("beta (1/day)", 20) == "beta (1/day)"


@pytest.mark.parametrize(
    ("low", "high", "exponent"), [(0.0, 1.0, 0), (0.012, 0.02, 0), (8e-6, 3e-5, -6), (-4e6, 1e6, 6), (0.0, 0.0, 0)]
)
def test_numbers_that_are_very_large_or_small_are_scaled(low: float, high: float, exponent: int) -> None:
    assert _style.exponent_of(low, high) == exponent


def test_numbers_keep_the_digits_that_their_sd_allows() -> None:
    assert _style.rounded([1.70081, -0.5], 0.0431) == ["1.701", "−0.500"]
    assert _style.rounded([1234.5], 260.0) == ["1234"]
    assert _style.rounded([3.0], 0.0) == ["3.00"]


def long_names() -> Posterior:
    space = uq.ParameterSpace(
        systemic_vascular_resistance_of_the_distal_bed=uq.Uniform(0, 1, unit="mmHg s/mL"),
        k=uq.Uniform(0, 1, description="a rate about which there is a lot to be said, all of it in its description"),
        pulmonary_compliance=uq.Uniform(0, 1, unit="mL/mmHg"),
        venous_tone=uq.Uniform(0, 1),
        contractility=uq.Uniform(0, 1, unit="kPa"),
    )
    x = np.random.default_rng(1).random((30, 5))
    surrogate = given_surrogate(x, x @ np.arange(1.0, 6.0)[:, None], names=space.names, space=space, ell=1.0)
    return posterior_of(
        uq.Calibration(surrogate, xr.DataArray(8.0, name="y"), noise=uq.GaussianNoise(sd=uq.HalfNormal(2.0)))
    )


def test_five_parameters_with_long_names_keep_apart() -> None:
    posterior = long_names()
    assert_tidy(uq.plots.prior_posterior(posterior))
    assert_tidy(uq.plots.pairs(posterior))
    assert_tidy(uq.plots.design(uq.sobol(posterior.problem.space, 32, rng=1)))
    assert_tidy(uq.plots.predictive(posterior))
