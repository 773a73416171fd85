"""Stochastic simulators: known noise of the runs, a variance from replicates, and the two parts of predictions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.linalg import cho_solve
from scipy.special import ndtr
from scipy.stats import multivariate_normal

import uqms as uq
from uqms._typing import Array
from uqms.errors import DesignError, DesignWarning, InputError
from uqms.surrogates import GaussianProcessSurrogate
from uqms.surrogates import training as T
from uqms.surrogates.kernels import Matern52, correlation
from uqms.surrogates.outputs import Layout, OutputBasis
from uqms.surrogates.process import condition, draw_at, scores_at
from uqms.surrogates.run_noise import (
    Drift,
    Normality,
    Replicates,
    SimulatorNoise,
    _drift,
    _log_variances,
    _normality,
    _Output,
    replicated,
)

SPACE = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
TIME = np.linspace(0.0, 1.0, 24)
INPUTS, REPLICATES = 30, 8


# ----------------------------------------------------------------------------------------- known variances of the runs
def known_noise(n: int = 12, d: int = 2, seed: int = 1) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    x, noise = rng.random((n, d)), np.exp(rng.normal(-2.0, 1.0, n))
    noise[0] = 0.0
    return x, np.sin(5.0 * x[:, 0]) + np.sqrt(noise) * rng.standard_normal(n), noise


@pytest.mark.parametrize("columns", [0, 1, 3])
def test_the_objective_is_the_restricted_likelihood_of_the_dense_covariance(columns: int) -> None:
    x, y, noise = known_noise()
    trend, ell, s2 = T.trend_basis(x, columns), np.array([0.4, 0.9]), 1.7
    point = np.log([*ell, 1.0 / s2])
    covariance = s2 * (correlation(Matern52(), x, x, ell) + 1e-12 * np.eye(len(x))) + np.diag(noise)
    inverse = np.linalg.inv(covariance)
    information = trend.T @ inverse @ trend
    beta = np.linalg.solve(information, trend.T @ inverse @ y)
    expected = multivariate_normal(trend @ beta, covariance).logpdf(y) - 0.5 * np.linalg.slogdet(information)[1]
    # The objective leaves out 2 pi, and counts the trend's information in units of s2, with the same sum.
    expected += 0.5 * len(x) * np.log(2.0 * np.pi)
    found = -T.objective(point, x, y, trend, Matern52(), noise)[0] - T._log_prior(point, Matern52(), 2, noise)[0]
    assert found == pytest.approx(expected, rel=1e-9)


def test_the_gradient_is_that_of_differences() -> None:
    x, y, noise = known_noise()
    args = x, y, T.trend_basis(x, 1), Matern52(), noise
    point = np.log([0.4, 0.9, 0.6])
    gradient = T.objective(point, *args)[1]
    steps = 1e-5 * np.eye(3)
    differences = [(T.objective(point + e, *args)[0] - T.objective(point - e, *args)[0]) / 2e-5 for e in steps]
    np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-7)


def test_the_log_posterior_differs_from_the_objective_by_the_length_scales_measure() -> None:
    x, y, noise = known_noise()
    args = x, y, T.trend_basis(x, 3), Matern52(), noise
    points = np.log(np.random.default_rng(2).uniform(0.2, 2.0, (6, 3)))
    expected = np.array([-T.objective(p, *args)[0] + p[:2].sum() for p in points])
    found = np.array([T.log_posterior(p, *args) for p in points])
    np.testing.assert_allclose(found - found[0], expected - expected[0], rtol=1e-9, atol=1e-9)


def test_predictions_are_those_of_the_dense_formula() -> None:
    x, y, noise = known_noise()
    ell, s2 = np.array([0.4, 0.9]), 1.7
    found = T.Hyperparameters(ell, 1.0 / s2, 0.0, 0.0, 0, False)
    process = condition(Matern52(), x, y[:, None], 0, [found], noise=noise[:, None])
    u = np.random.default_rng(3).random((5, 2))
    scores = scores_at(process, u)
    k = s2 * correlation(Matern52(), u, x, ell)
    lower = np.linalg.cholesky(s2 * correlation(Matern52(), x, x, ell) + np.diag(noise + 1e-12 * s2))
    np.testing.assert_allclose(scores.mean[0, :, 0], k @ cho_solve((lower, True), y), rtol=1e-8)
    expected = s2 * correlation(Matern52(), u, u, ell) - k @ cho_solve((lower, True), k.T)
    np.testing.assert_allclose(scores.covariance[0, 0], expected, atol=1e-9)
    rng = np.random.default_rng(4)
    drawn = draw_at(process, 0, 0, u, rng.standard_normal((20_000, 5)), rng.standard_normal((20_000, 0)))
    np.testing.assert_allclose(np.cov(drawn.T), expected, atol=5.0 * np.sqrt(2.0 / 20_000) * expected.max())


def test_the_trained_scale_is_that_of_the_functions() -> None:
    """The mean over functions of the trained log variance is right: the noise is known, so nothing absorbs it."""
    logs = []
    for seed in range(1, 21):
        rng = np.random.default_rng(seed)
        x, noise = rng.random((40, 1)), np.full(40, 0.05)
        kappa = 4.0 * correlation(Matern52(), x, x, np.array([0.2]))
        y = np.linalg.cholesky(kappa + 1e-10 * np.eye(40)) @ rng.standard_normal(40)
        y += np.sqrt(noise) * rng.standard_normal(40)
        logs.append(-np.log(T.train(x, y - y.mean(), Matern52(), T.trend_basis(x, 1), noise).nugget))
    assert np.mean(logs) == pytest.approx(np.log(4.0), abs=4.0 * np.std(logs, ddof=1) / np.sqrt(20))


# ------------------------------------------------------------------------------------------------- from replicates
def noise_sd(a: Array, b: Array) -> Array:
    return np.asarray(0.1 * np.exp(1.5 * a - b))


def number(a: Array, b: Array) -> Array:
    return np.asarray(np.sin(4.0 * a) + b**2)


def curve(a: Array, b: Array) -> Array:
    return np.exp(-np.multiply.outer(1.0 + 3.0 * a, TIME)) * (1.0 + np.multiply.outer(b, np.sin(5.0 * TIME)))


def noisy(a: Array, b: Array, rng: np.random.Generator) -> dict[str, xr.DataArray | Array]:
    """Return runs: a number, one whose noise has a correlation of 0.8 with it, one without noise, a curve."""
    sd = noise_sd(a, b)
    first, second = rng.standard_normal((2, len(a)))
    shapes = np.outer(first, np.sin(3.0 * TIME)) + 0.5 * np.outer(rng.standard_normal(len(a)), TIME)
    values = curve(a, b) + sd[:, None] * (shapes + 0.2 * rng.standard_normal((len(a), len(TIME))))
    return {
        "y": number(a, b) + sd * first,
        "same": 100.0 + 10.0 * (a - b + 0.3 * (0.8 * first + 0.6 * second)),
        "exact": a * b,
        "curve": xr.DataArray(values, dims=("run", "t"), coords={"t": TIME}),
    }


def repeated(seed: int, inputs: int = INPUTS, replicates: int = REPLICATES, *only: str) -> xr.Dataset:
    design = uq.latin_hypercube(SPACE, inputs, rng=seed)
    a, b = (np.repeat(design[name].values, replicates) for name in "ab")
    runs = uq.ensemble.build({"a": a, "b": b}, noisy(a, b, np.random.default_rng(seed)), space=SPACE)
    return runs.drop_vars([name for name in uq.ensemble.output_names(runs) if only and name not in only])


@pytest.fixture(scope="module")
def runs() -> xr.Dataset:
    return repeated(1)


@pytest.fixture(scope="module")
def surrogate(runs: xr.Dataset) -> GaussianProcessSurrogate:
    settings = {"curve": uq.Curve(max_scores=3)}
    return uq.GaussianProcess(noise="heteroscedastic", hyperparameters="point", outputs=settings).fit(runs)


@pytest.fixture(scope="module")
def at() -> dict[str, Array]:
    inner = np.random.default_rng(5).uniform(0.1, 0.9, (200, 2))
    return {"a": inner[:, 0], "b": inner[:, 1]}


def test_replicates_are_grouped_in_the_order_in_which_inputs_come() -> None:
    x = np.array([[0.5], [0.2], [0.5], [0.9], [0.2]])
    found = replicated(x)
    np.testing.assert_array_equal(found.x[:, 0], [0.5, 0.2, 0.9])
    np.testing.assert_array_equal(found.group, [0, 1, 0, 2, 1])
    values = np.array([[1.0], [2.0], [3.0], [np.nan], [4.0]])
    mean, count = found.means(values)
    np.testing.assert_array_equal(mean[:, 0], [2.0, 3.0, np.nan])
    np.testing.assert_array_equal(count, [2, 2, 0])


def test_inputs_that_differ_by_rounding_are_the_same() -> None:
    grid = np.round(np.random.default_rng(1).random((40, 2)), 9)  # on boundaries of a grid of 1e-9
    x = np.repeat(grid, 5, axis=0) + 2e-16 * np.random.default_rng(2).integers(-1, 2, (200, 2))
    np.testing.assert_array_equal(replicated(x).group, np.repeat(np.arange(40), 5))
    np.testing.assert_array_equal(replicated(np.array([[0.5], [0.5 + 1e-8]])).group, [0, 1])


def test_one_run_of_the_surrogate_is_the_mean_over_replicates(
    surrogate: GaussianProcessSurrogate, runs: xr.Dataset
) -> None:
    assert surrogate.runs == INPUTS
    means = runs["y"].values.reshape(INPUTS, REPLICATES).mean(axis=1)
    basis = surrogate.bases[0]
    np.testing.assert_allclose(basis.offset + basis.basis[0, 0] * surrogate.process.y[:, 0], means, atol=1e-12)


def test_the_aleatory_part_is_the_simulators_noise(surrogate: GaussianProcessSurrogate, at: dict[str, Array]) -> None:
    prediction = surrogate.predict(at)
    truth = noise_sd(**at) ** 2
    found = prediction.aleatory_variance
    # 30 inputs with 7 degrees of freedom each: the level of the noise is known to 10 % (one sd).
    assert np.mean(found["y"].values) == pytest.approx(truth.mean(), rel=0.25)
    assert np.corrcoef(np.log(found["y"].values), np.log(truth))[0, 1] > 0.9
    assert np.mean(found["same"].values) == pytest.approx(9.0, rel=0.25)
    assert np.std(np.log(found["same"].values)) < 0.2
    assert np.all(found["exact"].values < 1e-20)
    shape = np.sin(3.0 * TIME) ** 2 + 0.25 * TIME**2 + 0.04
    np.testing.assert_allclose(found["curve"].mean("point").values, truth.mean() * shape, rtol=0.35)


def test_the_epistemic_part_is_the_error_of_the_mean(surrogate: GaussianProcessSurrogate, at: dict[str, Array]) -> None:
    prediction = surrogate.predict(at)
    error = (prediction.mean["y"].values - number(**at)) / prediction.sd["y"].values
    assert 0.4 < np.std(error) < 1.3
    # The noise of a mean over replicates is far below that of a run: the error must not hold the whole of it.
    assert np.mean(prediction.variance["y"].values) < 0.5 * np.mean(prediction.aleatory_variance["y"].values)
    assert np.all(np.abs(prediction.mean["exact"].values - at["a"] * at["b"]) < 5e-3)
    error = (prediction.mean["curve"].values - curve(**at)) / prediction.sd["curve"].values
    assert 0.4 < np.sqrt(np.mean(error**2)) < 1.3


def test_intervals_of_the_next_run_hold_both_parts(surrogate: GaussianProcessSurrogate, at: dict[str, Array]) -> None:
    prediction = surrogate.predict(at)

    def covered(low: Array, high: Array) -> float:
        """Return the probability that a new run lies inside."""
        z = [(end - number(**at)) / noise_sd(**at) for end in (low, high)]
        return float(np.mean(ndtr(z[1]) - ndtr(z[0])))

    # The level of the noise is known to 10 %, which moves this by 0.015.
    assert 0.905 < covered(*prediction.interval(0.95, noise=True)["y"].values) < 0.985
    assert covered(*prediction.interval(0.95)["y"].values) < 0.8
    variance = prediction.law("y", noise=True).moments()[1][:, 0]
    parts = prediction.variance["y"].values + prediction.aleatory_variance["y"].values
    np.testing.assert_allclose(variance, parts, rtol=1e-10)


def test_draws_of_new_runs_have_the_noise_of_all_outputs_together(surrogate: GaussianProcessSurrogate) -> None:
    points = {"a": [0.3, 0.7], "b": [0.6, 0.4]}
    prediction, n = surrogate.predict(points), 2_000
    draws, plain = prediction.draws(n, rng=1, noise=True), prediction.draws(n, rng=1)
    for name in ("y", "same"):
        total = prediction.variance[name] + prediction.aleatory_variance[name]
        np.testing.assert_allclose(draws[name].var("draw").values, total.values, rtol=0.1)
        np.testing.assert_allclose(plain[name].var("draw").values, prediction.variance[name].values, rtol=0.1)
    off = {name: (draws[name] - plain[name]).values for name in ("y", "same")}
    between = np.corrcoef(off["y"][:, 0], off["same"][:, 0])[0, 1]
    assert between == pytest.approx(0.8, abs=0.1)
    assert abs(np.corrcoef(off["y"][:, 0], off["y"][:, 1])[0, 1]) < 0.1  # new runs have noise of their own
    noise = (draws["curve"] - plain["curve"]).values[:, 0]
    sd = noise_sd(np.array([0.3]), np.array([0.6]))[0]
    truth = np.outer(np.sin(3.0 * TIME), np.sin(3.0 * TIME)) + 0.25 * np.outer(TIME, TIME) + 0.04 * np.eye(len(TIME))
    np.testing.assert_allclose(np.cov(noise.T), sd**2 * truth, atol=0.35 * sd**2)


def test_noise_that_a_curve_shares_is_uncorrelated_in_its_basis(surrogate: GaussianProcessSurrogate) -> None:
    assert surrogate.noise is not None
    correlation_of_curve = surrogate.noise.correlation[3:, 3:]
    np.testing.assert_allclose(correlation_of_curve, np.eye(3), atol=0.35)


def test_truncation_is_without_the_noise(surrogate: GaussianProcessSurrogate) -> None:
    assert surrogate.noise is not None
    basis = surrogate.bases[3]
    total = np.sum(surrogate.noise.truncations[3] ** 2)
    noise = np.sum(surrogate.noise.residuals[3] ** 2) / REPLICATES
    assert noise > 0.5 * total  # what this basis leaves out is mostly noise
    assert np.sum(basis.truncation**2) < 0.6 * total


@pytest.mark.slow
def test_validation_counts_the_noise(surrogate: GaussianProcessSurrogate) -> None:
    left_out = uq.leave_one_out(surrogate)
    # A run of the surrogate is a mean: in its scores and outside of them it is predicted with its own noise.
    assert left_out.table.loc["y", "coverage_95%"] > 0.85
    new = uq.held_out(surrogate, repeated(9, 60, 1))
    for name in ("y", "curve"):
        low, high = new.table.loc[name, "range_95%"]
        assert low - 0.05 < new.table.loc[name, "coverage_95%"] <= max(high, 0.99)


def test_averaged_hyperparameters_and_uncertain_variances_make_a_mixture(at: dict[str, Array]) -> None:
    few = repeated(2, 10, 4, "y")
    averaged = uq.GaussianProcess(noise="heteroscedastic").fit(few)
    assert averaged.noise is not None
    assert averaged.noise.process.draws == 16
    law = averaged.predict(at).law("y", noise=True)
    assert law.mean.shape[0] == 16
    levels = averaged.noise.variances(np.array([[0.5, 0.5]]))
    assert levels.shape == (16, 1, 1)
    assert levels.max() > 2.0 * levels.min()
    np.testing.assert_allclose(levels.mean(axis=0), averaged.noise.variance(np.array([[0.5, 0.5]])), rtol=1e-12)


def test_fitted_noise_is_the_aleatory_part_too() -> None:
    one = uq.GaussianProcess(noise="fitted", hyperparameters="point").fit(repeated(1, 40, 1, "same"))
    prediction = one.predict({"a": 0.5, "b": 0.5})
    expected = one.bases[0].basis[0, 0] ** 2 * one.process.variance[0, 0] * one.process.nugget[0, 0]
    np.testing.assert_allclose(prediction.aleatory_variance["same"].values, expected, rtol=1e-12)
    exact = uq.GaussianProcess(hyperparameters="point").fit(repeated(1, 12, 1, "exact"))
    assert exact.predict({"a": 0.5, "b": 0.5}).aleatory_variance["exact"].values == 0.0


def test_a_saved_surrogate_has_its_noise(surrogate: GaussianProcessSurrogate, tmp_path: Path) -> None:
    surrogate.save(tmp_path / "s.npz")
    same = uq.load_surrogate(tmp_path / "s.npz")
    points = {"a": [0.3, 0.7], "b": [0.6, 0.4]}
    ours, theirs = (one.predict(points).draws(5, rng=3, noise=True) for one in (surrogate, same))
    xr.testing.assert_identical(ours, theirs)
    xr.testing.assert_identical(surrogate.predict(points).aleatory_variance, same.predict(points).aleatory_variance)
    tables = [repr(uq.leave_one_out(one).table.to_dict()) for one in (surrogate, same)]
    assert tables[0] == tables[1]


def test_without_replicates_the_error_says_what_to_do() -> None:
    with pytest.raises(DesignError, match=r"0 inputs were run more than once; at least d \+ 2 = 4.*replicates=5"):
        uq.GaussianProcess(noise="heteroscedastic").fit(repeated(1, 12, 1))
    with pytest.raises(DesignError, match="3 different completed runs"):
        uq.GaussianProcess(noise="heteroscedastic").fit(repeated(1, 3, 5))


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(InputError, match="'none'.*'fitted' or 'heteroscedastic'"):
        uq.GaussianProcess(noise="replicates")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cheap model"):
        uq.GaussianProcess(noise="heteroscedastic", mean=uq.Physics(lambda at: {"y": at["a"]}))


def test_transformed_outputs_stay_inside_with_noise() -> None:
    rng = np.random.default_rng(3)
    design = uq.latin_hypercube(SPACE, 20, rng=3)
    a, b = (np.repeat(design[name].values, 5) for name in "ab")
    share = 1.0 / (1.0 + np.exp(-(3.0 * a - 4.0 * b + (0.2 + a) * rng.standard_normal(len(a)))))
    table = uq.ensemble.build({"a": a, "b": b}, {"share": share}, space=SPACE)
    settings = uq.GaussianProcess(
        noise="heteroscedastic", hyperparameters="point", outputs={"share": uq.Scalar(transform="logit")}
    )
    prediction = settings.fit(table).predict({"a": [0.1, 0.9], "b": [0.9, 0.1]})
    draws = prediction.draws(5_000, rng=1, noise=True)["share"].values
    assert ((draws > 0.0) & (draws < 1.0)).all()
    low, high = prediction.interval(0.9, noise=True)["share"].values
    np.testing.assert_allclose(np.mean((draws > low) & (draws < high), axis=0), 0.9, atol=0.025)


def test_two_replicates_an_input_show_the_level_of_the_noise() -> None:
    """A log variance of one degree of freedom is 1.27 too low on average, a factor of 3.6."""
    few = uq.GaussianProcess(noise="heteroscedastic", hyperparameters="point").fit(repeated(4, 60, 2, "same"))
    found = few.predict({"a": [0.3, 0.5, 0.7], "b": [0.6, 0.5, 0.4]}).aleatory_variance["same"].values
    np.testing.assert_allclose(found, 9.0, rtol=0.4)


# --------------------------------------------------------------------------- replicates that agree, are few, have tails
LINE = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0))


def on_a_line(noise: Array, inputs: int, replicates: int, seed: int = 1) -> xr.Dataset:
    """Return runs of sin(3a) + 0.1 a and noise."""
    a = np.repeat(uq.sobol(LINE, inputs, rng=seed)["a"].values, replicates)
    return uq.ensemble.build({"a": a}, {"y": np.sin(3.0 * a) + 0.1 * a + noise}, space=LINE)


def test_replicates_that_agree_up_to_rounding_have_a_small_variance() -> None:
    """The mean of five equal numbers is off by an ulp: its log square, -75, made variances of 1e51 elsewhere."""
    a = np.repeat(uq.sobol(LINE, 16, rng=1)["a"].values, 5)
    sd = np.maximum(0.0, a - 0.5)
    runs = on_a_line(sd * np.random.default_rng(1).standard_normal(80), 16, 5)
    surrogate = uq.GaussianProcess(noise="heteroscedastic").fit(runs)
    at = np.linspace(a.min(), a.max(), 25)[1:-1]
    prediction = surrogate.predict({"a": at})
    found = prediction.aleatory_variance["y"].values
    assert np.all(found[at < 0.4] < 1e-3)
    assert np.mean(found[at > 0.5]) == pytest.approx(np.mean((at[at > 0.5] - 0.5) ** 2), rel=0.6)
    assert found.max() < 1.0
    drawn = prediction.draws(4_000, rng=1, noise=True)["y"].values.var(axis=0)
    total = found + prediction.variance["y"].values
    np.testing.assert_allclose(drawn[at > 0.5], total[at > 0.5], rtol=0.25)


def test_the_largest_variance_is_held_to_what_was_seen() -> None:
    """Expectation, levels and draws are those of a log-normal variance cut at the same place."""
    x = np.linspace(0.0, 1.0, 5)[:, None]
    y = np.array([-6.0, 6.0, -6.0, 6.0, -6.0])[:, None]
    process = condition(Matern52(), x, y, 1, [T.Hyperparameters(np.array([0.05]), 0.0, 0.0, 0.0, 0, False)])
    noise = SimulatorNoise(process, np.array([1.0]), np.eye(1), (), ())
    u = np.array([[0.4], [0.6]])
    mean, variance, _ = noise._logs(u)
    z = np.random.default_rng(1).standard_normal((400_000, 1))
    draws = np.exp(np.minimum(mean[0, :, 0] + np.sqrt(variance[0, :, 0]) * z, 1.0 + 6.0 + np.log(4.0)))
    expected = noise.variance(u)[:, 0]
    np.testing.assert_allclose(expected, draws.mean(axis=0), atol=5.0 * draws.std(axis=0).max() / np.sqrt(len(draws)))
    np.testing.assert_allclose(noise.variances(u).mean(axis=0)[:, 0], expected, rtol=1e-12)
    squares = noise.draws(u, 40_000, np.random.default_rng(2))[..., 0] ** 2
    error = np.sqrt(3.0 * np.mean(draws**2, axis=0).max() / 40_000)
    np.testing.assert_allclose(squares.mean(axis=0), expected, atol=5.0 * error)


@pytest.mark.parametrize(("inputs", "replicates"), [(8, 3), (16, 2), (20, 5), (40, 2)])
def test_the_level_is_that_of_the_pooled_variance(inputs: int, replicates: int) -> None:
    group = replicated(np.repeat(np.linspace(0.0, 1.0, inputs)[:, None], replicates, axis=0))
    ratios = []
    for seed in range(2):
        values = np.random.default_rng(seed).standard_normal((inputs * replicates, 1))
        off = values - group.means(values)[0][group.group]
        process, centre, _ = _log_variances(group, off, np.full((inputs, 1), replicates))
        noise = SimulatorNoise(process, centre, np.eye(1), (), ())
        pooled = np.sum(off**2) / (inputs * (replicates - 1))
        assert np.mean(noise.variance(group.x)) == pytest.approx(pooled, rel=1e-9)
        ratios.append(np.mean(noise.variance(np.random.default_rng(9).random((200, 1)))) / pooled)
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.15)


def test_few_replicates_warn() -> None:
    few = on_a_line(np.random.default_rng(1).standard_normal(16), 8, 2)
    with pytest.warns(DesignWarning, match=r"8 replicates beyond .* 10 d \+ 10 = 20 .*replicates=5"):
        uq.GaussianProcess(noise="heteroscedastic", hyperparameters="point").fit(few)


def test_long_tails_make_variances_less_certain() -> None:
    rng, group = np.random.default_rng(3), replicated(np.repeat(np.linspace(0.0, 1.0, 24)[:, None], 8, axis=0))
    # A variance that grows a hundredfold along the line is no long tail.
    grows = np.exp(2.3 * group.x[group.group, 0]) * rng.standard_normal(192)
    values = np.column_stack([grows, rng.exponential(size=192)])
    off = values - group.means(values)[0][group.group]
    process, _, _ = _log_variances(group, off, np.full((24, 2), 8))
    plain = 0.3304  # trigamma(3.5)
    assert process.noise[0] == pytest.approx(plain, rel=0.1)
    assert np.all(process.noise[1] > 1.3 * plain)


def test_laws_have_the_correlation_of_noise_between_scores() -> None:
    """The variance of a coordinate is that of draws, where the noise of scores is correlated in part of the box."""
    a = np.repeat(uq.sobol(LINE, 16, rng=1)["a"].values, 8)
    z, w = np.random.default_rng(1).standard_normal((2, len(a))), 1.0 / (1.0 + np.exp(-12.0 * (a - 0.5)))
    first = np.sin(3.0 * a) * 5.0 + (1.0 - w) * z[0] / np.sqrt(2.0) + 0.3 * w * z[0]
    second = np.cos(4.0 * a) * 5.0 + (1.0 - w) * z[0] / np.sqrt(2.0) + 0.02 * w * z[1]
    curves = xr.DataArray(np.column_stack([first, second]), dims=("run", "t"), coords={"t": [0.0, 1.0]})
    runs = uq.ensemble.build({"a": a}, {"c": curves}, space=LINE)
    surrogate = uq.GaussianProcess(noise="heteroscedastic", hyperparameters="point").fit(runs)
    prediction = surrogate.predict({"a": [0.1, 0.5, 0.9]})
    drawn = prediction.draws(4_000, rng=1, noise=True)["c"].var("draw").values
    total = (prediction.variance + prediction.aleatory_variance)["c"].values
    np.testing.assert_allclose(total, drawn, rtol=0.12)
    decoder, sd = surrogate.decode("c"), np.sqrt(surrogate.noise_at(prediction.u))
    brute = np.einsum("lki,ij,lkj,mi,mj->lkm", sd, surrogate.noise_correlation, sd, decoder.basis, decoder.basis)
    np.testing.assert_allclose(prediction._noise("c", decoder, slice(None)), brute, rtol=1e-9)
    without = sd**2 @ (decoder.basis**2).T
    assert np.max(np.abs(without / brute - 1.0)) > 0.1


class Silent:
    """A surrogate that says nothing of noise."""

    def __init__(self, other: GaussianProcessSurrogate) -> None:
        self.layouts, self.decode, self.functions = other.layouts, other.decode, other.functions


def test_noise_of_a_surrogate_that_knows_none_is_refused(surrogate: GaussianProcessSurrogate) -> None:
    known = surrogate.predict({"a": 0.5, "b": 0.5})
    prediction = uq.surrogates.Prediction(Silent(surrogate), known.u, known.scores, known.inside)  # type: ignore
    for ask in (
        lambda: prediction.interval(0.95, noise=True),
        lambda: prediction.quantile(0.5, noise=True),
        lambda: prediction.draws(2, rng=1, noise=True),
        lambda: prediction.law("y", noise=True),
        lambda: prediction.aleatory_variance,
    ):
        with pytest.raises(InputError, match="Silent does not know the noise.*Leave noise=True out.*replicates"):
            ask()
    assert prediction.mean["y"].shape == (1,)


def test_with_a_transform_the_prediction_is_the_median() -> None:
    a = np.repeat(uq.sobol(LINE, 16, rng=1)["a"].values, 20)
    values = np.exp(np.sin(3.0 * a) + np.random.default_rng(0).standard_normal(len(a)))
    settings = {"y": uq.Scalar(transform="log")}
    runs = uq.ensemble.build({"a": a}, {"y": values}, space=LINE)
    prediction = uq.GaussianProcess(noise="heteroscedastic", hyperparameters="point", outputs=settings).fit(runs)
    found = prediction.predict({"a": 0.5})
    assert found.mean["y"].item() == pytest.approx(np.exp(np.sin(1.5)), rel=0.2)
    drawn = found.draws(5_000, rng=1, noise=True)["y"].values.mean()
    assert drawn == pytest.approx(np.exp(np.sin(1.5) + 0.5), rel=0.25)


# ------------------------------------------------------------------------------------------- is the noise a normal law?
def normality(draws: Array) -> Normality:
    """Return what is said of noise (g, r, q), with a variance that differs a hundredfold between inputs."""
    g, r, q = draws.shape
    noise = draws * np.exp(np.linspace(-2.3, 2.3, g))[:, None, None]
    off = (noise - noise.mean(axis=1, keepdims=True)).reshape(g * r, q)
    basis = OutputBasis("y", Layout(), np.zeros(q), np.eye(q), np.zeros((q, 0)))
    output = _Output(basis, np.zeros((g, q)), off, np.full(g, r), np.zeros((q, 0)))
    return _normality([output], np.repeat(np.arange(g), r))


@pytest.mark.parametrize("replicates", [4, 20])
def test_normal_noise_whose_variance_changes_is_called_normal(replicates: int) -> None:
    rng = np.random.default_rng(replicates)
    levels = np.array([normality(rng.standard_normal((20, replicates, 3))).p for _ in range(300)])
    # Two statistics of three scores: Bonferroni's level holds, up to the long tail of averaged kurtoses.
    assert np.mean(levels < 0.05) < 0.08
    assert np.mean(levels < 1e-4) <= 1 / 300


def test_skewed_or_long_tailed_noise_is_found() -> None:
    rng = np.random.default_rng(1)
    skewed = normality(rng.exponential(size=(20, 20, 1)))
    assert skewed.p < 1e-9
    assert 1.0 < skewed.skewness < 2.5  # 2
    tailed = normality(rng.standard_t(5.0, size=(40, 20, 1)))
    assert tailed.p < 1e-6
    assert tailed.kurtosis > 1.0
    mixed = normality(
        np.concatenate([rng.standard_normal((20, 20, 1)), 0.1 * rng.exponential(size=(20, 20, 1))], axis=2)
    )
    assert mixed.p > 1e-4  # the skewed score holds a hundredth of the noise


# ------------------------------------------------------------------------------- is its correlation one for all inputs?
def drift(
    correlation: Array, r: int, seed: int, draws: Callable[[np.random.Generator, tuple[int, ...]], Array]
) -> Drift:
    """Return what is said of two scores with the given correlation at each input, and variances that change."""
    g, rng = len(correlation), np.random.default_rng(seed)
    e = draws(rng, (g, r, 2))
    e[..., 1] = correlation[:, None] * e[..., 0] + np.sqrt(1.0 - correlation**2)[:, None] * e[..., 1]
    e *= np.exp(np.linspace(-1.0, 1.0, g))[:, None, None] * np.array([1.0, 0.6])
    off = (e - e.mean(axis=1, keepdims=True)).reshape(g * r, 2)
    basis = OutputBasis("y", Layout(), np.zeros(2), np.eye(2), np.zeros((2, 0)))
    output = _Output(basis, np.zeros((g, 2)), off, np.full(g, r), np.zeros((2, 0)))
    x = np.column_stack([np.linspace(0.0, 1.0, g), rng.random(g)])
    return _drift([output], Replicates(x, np.repeat(np.arange(g), r)))


NORMAL = lambda rng, shape: rng.standard_normal(shape)  # noqa: E731
LONG = lambda rng, shape: rng.standard_t(5.0, size=shape)  # noqa: E731


@pytest.mark.parametrize(("replicates", "draws"), [(5, NORMAL), (20, NORMAL), (20, LONG)])
def test_a_correlation_that_is_the_same_everywhere_is_left_alone(replicates: int, draws: Any) -> None:
    levels = np.array([drift(np.full(24, 0.6), replicates, seed, draws).p for seed in range(400)])
    assert np.mean(levels < 0.05) < 0.085  # binomial, 0.999
    assert np.mean(levels < 1e-4) <= 1 / 400


def test_a_correlation_that_changes_is_found() -> None:
    found = drift(np.linspace(-0.5, 0.7, 20), 20, 1, NORMAL)
    assert found.p < 1e-6
    assert (found.low, found.high) == (pytest.approx(-0.5, abs=0.25), pytest.approx(0.7, abs=0.25))


def test_few_replicates_say_nothing_of_a_changing_correlation() -> None:
    assert drift(np.linspace(-0.5, 0.7, 20), 3, 1, NORMAL).p == 1.0
