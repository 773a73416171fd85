"""Visual predictive checks: intervals against order statistics in closed form, coverage, and planted mistakes."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from calibration.population.test_population import problem as curves
from calibration.population.test_prediction import exact_error
from calibration.problems import linear_surrogate
from scipy.stats import beta, norm

import uqms as uq
from uqms.calibration.population.layout import WALL
from uqms.calibration.population.subject_prediction import Shared, featured
from uqms.calibration.posterior import Posterior
from uqms.calibration.predict import Targets, conditional_moments
from uqms.diagnostics import vpc
from uqms.errors import InputError

OMEGA, SIGMA, TYPICAL = 1.0, 2.0, 0.5
LEVELS = (0.05, 0.5, 0.95)


def study(subjects: int, x: list[float], seed: int = 1) -> uq.Observations:
    """Return one measurement a subject at each of some conditions x."""
    rng = np.random.default_rng(seed)
    rows = [{"id": f"s{j}", "x": one, "y": rng.normal(TYPICAL, 1.0)} for j in range(subjects) for one in x]
    return uq.Observations.from_table(pd.DataFrame(rows), output="y", value="y", conditions=["x"], subject="id")


def problem(data: uq.Observations, error: float = 1.0, outside: str = "extrapolate") -> uq.PopulationCalibration:
    space = uq.ParameterSpace(theta=uq.Normal(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0)})
    population = uq.Population(space, individual=("theta",), spread=uq.HalfNormal(1.0))
    surrogate = linear_surrogate(1.0, error)
    return uq.Calibration(surrogate, data, uq.GaussianNoise(sd=SIGMA), population=population, outside=outside)


def given_posterior(
    one: uq.PopulationCalibration,
    draws: int,
    typical: float = TYPICAL,
    omega: float = OMEGA,
    z: np.ndarray | None = None,
) -> Posterior:
    """Return a posterior whose draws are all the same point."""
    z = np.zeros(one.latents) if z is None else z
    values = {"theta": np.full((1, draws), typical), "omega_theta": np.full((1, draws), omega)}
    groups = {
        "posterior": xr.Dataset({name: (("chain", "draw"), column) for name, column in values.items()}),
        "latents": xr.Dataset({"value": (("chain", "draw", "latent"), np.tile(z, (1, draws, 1)))}),
    }
    return Posterior(xr.DataTree.from_dict(groups), one, None, None)  # type: ignore[arg-type]


def order_statistic(n: int, level: float) -> tuple[float, float]:
    """Return mean and variance of a percentile of n standard normals, where it is one of them."""
    k = round((n - 1) * level) + 1
    u = (np.arange(200_000) + 0.5) / 200_000
    x = norm.ppf(beta.ppf(u, k, n + 1 - k))
    return float(x.mean()), float(x.var())


def test_percentiles_have_the_law_of_order_statistics_and_one_error_for_all_subjects() -> None:
    """y = theta_j + e + noise: the error e given the data is common to all subjects of a study, those are new."""
    n = 21
    one = problem(study(n, [0.3]))
    z = np.random.default_rng(2).standard_normal(one.latents)
    found = uq.diagnostics.visual_predictive_check(given_posterior(one, 500, z=z), bins=1, replicates=4000, rng=3)
    residual = one.observations.value - TYPICAL - OMEGA * z
    variance = 1.0 / (1.0 + n / SIGMA**2)  # of e given the data and the subjects
    mean = variance * residual.sum() / SIGMA**2
    spread = np.hypot(OMEGA, SIGMA)
    for k, level in enumerate(LEVELS):
        middle, own = order_statistic(n, level)
        wanted = variance + spread**2 * own
        drawn = found.replicated.values[:, 0, k]
        # 500 draws of the error, each for eight studies
        error = np.sqrt(variance / 500 + spread**2 * own / 4000)
        assert drawn.mean() == pytest.approx(TYPICAL + mean + spread * middle, abs=4 * error)
        assert drawn.var() == pytest.approx(wanted, rel=4 * np.sqrt(2 / 500))
        assert wanted < 0.75 * (1.0 + spread**2 * own)  # what an error that ignores the data would give


def test_studies_have_the_exact_law_given_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves with truncation: with given new effects, all measurements of a study are jointly normal given the data."""
    one, S = curves(), 20_000
    rng = np.random.default_rng(7)
    theta = {name: np.repeat(values, S) for name, values in one.prior_draws(1, 4).items()}
    z, new = (np.repeat(rng.standard_normal((1, one.latents)), S, axis=0) for _ in range(2))
    own, other = one.individuals(theta, z), one.individuals(theta, new)
    single = {name: values[:1] for name, values in own.items()}
    fresh = {name: values[:1] for name, values in other.items()}
    u = one.data.unit_inputs(single)
    error = exact_error(one, np.concatenate([u[0], one.data.unit_inputs(fresh)[0]]))
    sigma = one.data.noise.phi(single, (1,))[:, :1]
    data = one.data.cells
    law = featured(one.data.data_model, error, np.arange(error.q), data.unit).condition(u, sigma, data.z)
    step = np.linalg.solve(law.factor[0, 0].T, rng.standard_normal((law.mean.shape[2], S))).T
    shared = Shared(one, theta, own, z, np.zeros(S, dtype=int), law.mean[0, 0] + step, error)
    posterior = Posterior(xr.DataTree(), one, None, None)  # type: ignore[arg-type]
    posterior.hierarchy.__dict__["shared"] = shared
    monkeypatch.setattr(vpc, "_effects", lambda *_: (new, 0.0))
    drawn, _ = vpc._studies(posterior.hierarchy, S, np.random.default_rng(1))
    both = {name: np.concatenate([a, fresh[name]], axis=1) if a.ndim == 2 else a for name, a in single.items()}
    targets = Targets(
        data.conditions,
        data.experiment,
        data.output,
        data.coords,
        data.offset,
        data.basis,
        data.truncation,
        observed=np.full(data.experiments, -1),
        unit=data.unit + len(one.subjects),
    )
    ((_, moments),) = conditional_moments(one.data, both, np.zeros(1, dtype=int), targets)
    covariance = (moments.covariance[0] + sigma[0, 0] ** 2 * np.eye(len(data.offset)))[data.row_cell][:, data.row_cell]
    sd = np.sqrt(np.diagonal(covariance))
    np.testing.assert_allclose(drawn.mean(axis=0), moments.mean[0][data.row_cell], atol=4 * sd.max() / np.sqrt(S))
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=6 * sd.max() ** 2 / np.sqrt(S))
    apart = one.observations.subject[:, None] != one.observations.subject[None]
    assert abs(covariance[apart]).max() > 12 * sd.max() ** 2 / np.sqrt(S)  # errors of subjects that differ are common


def test_intervals_are_quantiles_of_order_statistics() -> None:
    n = 21
    found = uq.diagnostics.visual_predictive_check(
        given_posterior(problem(study(n, [0.3]), error=1e-3), 50), bins=1, replicates=8000, prob=0.9
    )
    spread = np.hypot(OMEGA, SIGMA)
    for k, level in enumerate(LEVELS):
        place = round((n - 1) * level) + 1
        for key, tail in (("lower", 0.05), ("median", 0.5), ("upper", 0.95)):
            wanted = TYPICAL + spread * norm.ppf(beta.ppf(tail, place, n + 1 - place))
            density = norm.pdf((wanted - TYPICAL) / spread) / spread
            density *= beta.pdf(beta.ppf(tail, place, n + 1 - place), place, n + 1 - place)
            error = np.sqrt(tail * (1.0 - tail) / 8000) / density
            assert float(found.quantiles[key][0, k]) == pytest.approx(wanted, abs=4 * error)


@pytest.fixture(scope="module")
def three_bins() -> Posterior:
    """Return 60 subjects with a measurement in each of three bins, and a surrogate next to without error."""
    return given_posterior(problem(study(60, [0.1, 0.5, 0.9]), error=1e-3), 100)


@pytest.fixture(scope="module")
def checked(three_bins: Posterior) -> uq.diagnostics.VisualPredictiveCheck:
    return uq.diagnostics.visual_predictive_check(three_bins, bins=3, replicates=2000, rng=7)


def with_data(
    checked: uq.diagnostics.VisualPredictiveCheck, values: np.ndarray
) -> uq.diagnostics.VisualPredictiveCheck:
    """Return the check of other data: without the surrogate's error, the intervals do not depend on them."""
    place = checked.data["bin"].to_numpy()
    observed = np.stack([np.quantile(values[place == b], LEVELS) for b in range(3)])
    return replace(checked, quantiles=checked.quantiles.assign(observed=(("bin", "level"), observed)))


@pytest.mark.slow
def test_data_of_the_model_are_inside_as_often_as_said(
    three_bins: Posterior, checked: uq.diagnostics.VisualPredictiveCheck
) -> None:
    count = 200
    truth = {"theta": np.full(count, TYPICAL), "omega_theta": np.full(count, OMEGA)}
    found = [with_data(checked, one) for one in three_bins.problem.simulate(truth, np.random.default_rng(5))]
    of_sets = np.array([one.inside.values.mean() for one in found])
    assert of_sets.mean() == pytest.approx(0.95, abs=4 * of_sets.std() / np.sqrt(count))
    p = np.array([one.summary.loc["all", "p"] for one in found[:60]])
    assert np.mean(p <= 0.3) < 0.3 + 4 * np.sqrt(0.21 / len(p))
    assert p.min() > 1e-3


def test_a_wrong_spread_is_seen(three_bins: Posterior) -> None:
    """Subjects that differ three times as much as the calibration says: outer percentiles leave their intervals."""
    truth = {"theta": np.array([TYPICAL]), "omega_theta": np.array([3.0 * OMEGA])}
    other = three_bins.problem.with_values(three_bins.problem.simulate(truth, 3)[0])
    settings = {"bins": 3, "replicates": 400}
    found = uq.diagnostics.visual_predictive_check(replace(three_bins, problem=other), **settings)
    assert found.summary.loc["5%", "inside"] + found.summary.loc["95%", "inside"] <= 3  # of 6; 5.7 are expected
    assert found.summary.loc["all", "p"] < 0.01
    right = uq.diagnostics.visual_predictive_check(given_posterior(other, 100, omega=3.0 * OMEGA), **settings)
    assert right.summary.loc["all", "p"] > 0.05


def test_the_summary_counts_bins(three_bins: Posterior, checked: uq.diagnostics.VisualPredictiveCheck) -> None:
    summary, table = checked.summary, checked.table
    assert list(summary.index) == ["5%", "50%", "95%", "all"]
    assert summary.loc["all", "of"] == 9
    assert summary.loc["all", "inside"] == summary["inside"].iloc[:3].sum() == table["inside"].sum()
    np.testing.assert_allclose(summary["expected"].iloc[:3], 0.95 * 3, rtol=0.01)
    assert table.loc[table["level"] == 0.5, "measurements"].tolist() == [60, 60, 60]
    words = repr(checked)
    assert "[0.1, 0.3)" in words
    assert "[0.7, 0.9]" in words
    assert "50% inside in" in words
    again = uq.diagnostics.visual_predictive_check(three_bins, bins=3, replicates=2000, rng=7)
    xr.testing.assert_identical(again.replicated, checked.replicated)


@pytest.mark.parametrize("bound", [0.0, -2.0, -np.inf])
def test_prediction_correction_is_that_of_bergstrand(bound: float) -> None:
    """By hand from equations 3 to 5: y = b + (y - b) (M - b) / (m - b), with the bin's median M; the limit adds."""
    rng = np.random.default_rng(1)
    typical, place = rng.uniform(1.0, 5.0, 12), np.repeat([0, 1, 2], 4)
    y = typical * rng.lognormal(0.0, 0.3, 12)
    factor, shift, left = vpc._correction(typical, place, 3, bound)
    found = factor * y + shift
    assert left == 0
    for b in range(3):
        rows = np.flatnonzero(place == b)
        middle = np.median(typical[rows])
        for i in rows:
            if bound == -np.inf:
                wanted = y[i] + middle - typical[i]
            else:
                wanted = bound + (y[i] - bound) * (middle - bound) / (typical[i] - bound)
            assert found[i] == pytest.approx(wanted, rel=1e-12)
    far = vpc._correction(typical, place, 3, -1e9)
    additive = vpc._correction(typical, place, 3, -np.inf)
    np.testing.assert_allclose(far[0] * y + far[1], additive[0] * y + additive[1], atol=1e-6)


def test_predictions_at_the_bound_are_left_and_told() -> None:
    typical, place = np.array([0.0, 1e-4, 4.0, 2.0, 1.0, 3.0]), np.array([0, 0, 0, 0, 1, 1])
    factor, shift, left = vpc._correction(typical, place, 2, 0.0)
    assert left == 2
    np.testing.assert_allclose(factor, [1.0, 1.0, 3.0 / 4.0, 3.0 / 2.0, 2.0, 2.0 / 3.0])
    assert not shift.any()


def test_correction_takes_out_what_conditions_do() -> None:
    """Two conditions in one bin: the predictions are the surrogate's, and both groups get the same middle."""
    one = problem(study(20, [0.2, 0.8], seed=4), error=1.0)
    posterior = given_posterior(one, 200)
    typical = vpc._typical(posterior.hierarchy)
    w = posterior.hierarchy.shared
    u = one.data.unit_inputs(one.individuals(w.theta, np.zeros((len(w.h), one.latents))))
    mean = w.scores(u)[0].mean(axis=0)[:, 0]
    np.testing.assert_allclose(typical, mean[one.data.cells.experiment][one.data.cells.row_cell], rtol=1e-10)
    found = uq.diagnostics.visual_predictive_check(
        posterior, bins=1, corrected=True, lower_bound=-np.inf, replicates=60
    )
    middle = np.median(typical)
    np.testing.assert_allclose(found.data["value"], one.observations.value + middle - typical)
    assert found.corrected
    assert "prediction-corrected y" in repr(found)


def test_new_subjects_lie_inside_of_the_box() -> None:
    """The population's law has a wall at the design box; its mean with the wall is an integral."""
    one = problem(study(200, [0.3]), error=1e-3, outside="error")
    posterior = given_posterior(one, 100, typical=7.5)
    found = uq.diagnostics.visual_predictive_check(posterior, bins=1, replicates=400, levels=[0.5])
    x = np.linspace(0.0, 14.0, 20_001)
    wall = np.exp(-0.5 * (np.maximum(x - 8.0, 0.0) / (16.0 * WALL)) ** 2)
    weight = norm.pdf(x, 7.5, OMEGA) * wall
    mean = np.sum(weight * x) / weight.sum()
    share = 1.0 - weight.sum() * (x[1] - x[0])
    assert found.outside == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 80_000))
    z, _ = vpc._effects(one, posterior.flat(), 100, np.random.default_rng(0))
    drawn = 7.5 + OMEGA * z
    assert drawn.mean() == pytest.approx(mean, abs=4 * drawn.std() / np.sqrt(drawn.size))
    assert "outside of the design box" in repr(found)


def test_bins_hold_about_as_many_and_no_coordinate_twice() -> None:
    at = np.repeat([0.0, 1.0, 2.0, 5.0, 9.0], [10, 3, 3, 4, 10])
    np.testing.assert_allclose(vpc._edges(at, 3, 5), [0.0, 0.5, 7.0, 9.0])
    np.testing.assert_allclose(vpc._edges(at, 1, 5), [0.0, 9.0])
    np.testing.assert_allclose(vpc._edges(at, [0.0, 4.0, 9.0], 5), [0.0, 4.0, 9.0])
    assert len(vpc._edges(at, None, 5)) <= 1 + 30 // vpc.ROWS_A_BIN
    np.testing.assert_allclose(vpc._edges(np.full(4, 3.0), 5, 2), [2.5, 3.5])


@pytest.mark.filterwarnings("ignore::uqms.errors.CapabilityWarning")
def test_an_exact_simulator_has_no_error() -> None:
    space = uq.ParameterSpace(theta=uq.Normal(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0)})
    simulator = uq.DirectSimulator(lambda theta, x: theta + 0.0 * x, space=space, outputs={"y": ()}, vectorized=True)
    population = uq.Population(space, individual=("theta",), spread=uq.HalfNormal(1.0))
    one = uq.Calibration(simulator, study(21, [0.3]), uq.GaussianNoise(sd=SIGMA), population=population)
    found = uq.diagnostics.visual_predictive_check(
        given_posterior(one, 50), bins=1, replicates=2000, corrected=True, lower_bound=-np.inf
    )
    middle, own = order_statistic(21, 0.95)
    spread = np.hypot(OMEGA, SIGMA)
    drawn = found.replicated.values[:, 0, 2]
    assert drawn.mean() == pytest.approx(TYPICAL + spread * middle, abs=4 * spread * np.sqrt(own / 2000))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"levels": [0.5, 0.5]}, "increasing numbers"),
        ({"prob": 1.0}, "probability"),
        ({"replicates": 10}, "at least 40"),
        ({"lower_bound": np.nan}, "lower_bound"),
        ({"output": "z"}, "observed \\['y'\\]"),
        ({"along": "t"}, "can lie on \\['x'\\]"),
        ({"bins": 0}, "at least 1"),
        ({"bins": [0.0, 0.0, 1.0]}, "increasing edges"),
        ({"bins": [0.2, 1.0]}, "10 measurements lie outside"),
        ({"bins": [0.0, 0.2, 0.3, 1.0]}, "no measurement"),
    ],
)
def test_settings_that_are_refused(settings: dict, words: str) -> None:
    posterior = given_posterior(problem(study(10, [0.1, 0.5, 0.9])), 20)
    with pytest.raises(InputError, match=words):
        uq.diagnostics.visual_predictive_check(posterior, **settings)
    with pytest.raises(InputError, match="posterior of a population"):
        uq.diagnostics.visual_predictive_check(3.0)  # type: ignore[arg-type]
