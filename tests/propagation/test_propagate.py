"""Propagation against linear-Gaussian closed forms, brute force, and a planted bug: errors drawn anew at each input."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from calibration.problems import given_surrogate, linear_surrogate, matern52, replicates
from calibration.test_predict import fabricated
from scipy.special import ndtr, ndtri
from scipy.stats import norm

import uqms as uq
from uqms.errors import DataError, ExtrapolationError, ExtrapolationWarning, InputError
from uqms.propagation import drawing, joint_draws

SLOPE, ERROR_SD, NOISE_SD, ELL = 2.0, 0.6, 0.5, 0.3
FUNCTIONS = 400


@pytest.fixture(scope="module")
def prior() -> uq.Propagation:
    """What follows from the prior: y = 2 theta + error(x) + noise, at two conditions."""
    surrogate = linear_surrogate(SLOPE, ERROR_SD, ell_x=ELL)
    return uq.propagate(
        surrogate, conditions={"x": [0.2, 0.8]}, noise={"y": NOISE_SD}, functions=FUNCTIONS, draws=1024, rng=1
    )


def test_parts_of_variance_are_those_of_the_closed_form(prior: uq.Propagation) -> None:
    relative = 4 * np.sqrt(2 / FUNCTIONS)
    parts = prior.variance["y"]
    assert list(parts["part"].values) == ["parameter", "surrogate", "noise"]
    np.testing.assert_allclose(parts.sel(part="parameter"), SLOPE**2, rtol=0.08)
    np.testing.assert_allclose(parts.sel(part="surrogate"), ERROR_SD**2, rtol=relative)
    np.testing.assert_allclose(parts.sel(part="noise"), NOISE_SD**2, rtol=0.02)
    np.testing.assert_allclose(prior.sd["y"], np.sqrt(SLOPE**2 + ERROR_SD**2 + NOISE_SD**2), rtol=0.04)
    # The error is the same at all theta: all of it is in the error of the mean.
    np.testing.assert_allclose(prior.mean_error["y"].sel(source="surrogate"), ERROR_SD, rtol=relative / 2)
    np.testing.assert_allclose(prior.mean["y"], 0.0, atol=4 * ERROR_SD / np.sqrt(FUNCTIONS))
    # Errors at two conditions are correlated as the surrogate says: the variance of their difference.
    means = prior.draws["y"].mean(["sample", "noise"])
    apart = means.isel(condition=0) - means.isel(condition=1)
    expected = 2 * ERROR_SD**2 * (1 - matern52(np.array(0.6), ELL))
    assert float(apart.var()) == pytest.approx(float(expected), rel=relative)


def test_exceedance_holds_surrogate_and_monte_carlo_error(prior: uq.Propagation) -> None:
    level = 4.0
    found = prior.exceedance(level)
    sd = np.hypot(SLOPE, NOISE_SD)
    errors = ERROR_SD * ndtri((np.arange(4000) + 0.5) / 4000)
    given = norm.sf(level, errors, sd)
    np.testing.assert_allclose(found["probability"], given.mean(), atol=4 * given.std() / np.sqrt(FUNCTIONS))
    np.testing.assert_allclose(found["surrogate"], given.std(), rtol=0.25)
    low, high = np.quantile(given, [0.025, 0.975])
    np.testing.assert_allclose(found["lower"], low, rtol=0.25)
    np.testing.assert_allclose(found["upper"], high, rtol=0.12)
    np.testing.assert_allclose(
        prior.exceedance([level, 0.0], below=True)["probability"].sel(threshold=0.0), 0.5, atol=0.05
    )


def test_errors_drawn_anew_at_each_input_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: independent errors at each input cancel in the mean, and the surrogate's part of its error vanishes."""
    surrogate = linear_surrogate(SLOPE, ERROR_SD, ell_x=ELL)

    def independent(surrogate: object, n: int, u: np.ndarray, rng: np.random.Generator) -> object:
        scores = surrogate.marginal_scores(u)
        return lambda u: scores.mean[0] + np.sqrt(scores.covariance[0].T) * rng.standard_normal((n, len(u), 1))

    right = uq.propagate(surrogate, conditions={"x": 0.5}, functions=128, rng=1)
    monkeypatch.setattr(drawing, "joint_draws", independent)
    wrong = uq.propagate(surrogate, conditions={"x": 0.5}, functions=128, rng=1)
    assert float(wrong.variance["y"].sel(part="surrogate")) == pytest.approx(ERROR_SD**2, rel=0.05)
    assert float(right.mean_error["y"].sel(source="surrogate")) == pytest.approx(ERROR_SD, rel=0.25)
    assert float(wrong.mean_error["y"].sel(source="surrogate")) < 0.1 * ERROR_SD


@pytest.mark.slow
def test_intervals_of_normal_tails_cover() -> None:
    """A surrogate that is exact up to 1e-3, so that the interval is that of Monte Carlo: 95 % of 40 seeds."""
    surrogate = linear_surrogate(SLOPE, 1e-3, ell_x=ELL)
    inside, widths = [], []
    for seed in range(40):
        result = uq.propagate(surrogate, conditions={"x": 0.5}, functions=4, draws=1024, rng=seed)
        found = result.exceedance([3.0, 4.0]).compute()
        truth = norm.sf([1.5, 2.0])
        inside.append((found["lower"].values <= truth) & (truth <= found["upper"].values))
        quantile = result.quantile([0.9])["y"].sel(quantile=0.9)
        z = SLOPE * ndtri(0.9)
        inside[-1] = np.append(inside[-1], (quantile[1] <= z) & (z <= quantile[2]))
        widths.append(float(found["upper"][0] - found["lower"][0]))
    assert np.mean(inside) >= 0.92
    assert np.mean(widths) < 4 * np.sqrt(0.0668 * 0.93 / 1024)  # not wider than independent draws would need


def test_draws_at_many_inputs_follow_the_joint_law(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """More inputs than anchors: moments at anchors are exact, elsewhere close, and a call repeats itself."""
    monkeypatch.setattr(joint_draws, "ANCHORS", 40)
    x = rng.random((7, 2))
    surrogate = given_surrogate(x, rng.standard_normal((7, 2)), names=("a", "b"), columns=3)
    u = rng.random((120, 2))
    draws = joint_draws.joint_draws(surrogate, 4000, u, np.random.default_rng(1))
    values = draws(u)
    scores = surrogate.scores(u)
    for j in range(2):
        exact = scores.covariance[0, j]
        found = np.cov(values[:, :, j].T)
        sd = np.sqrt(np.diag(exact))
        np.testing.assert_allclose(
            values[:, :, j].mean(axis=0), scores.mean[0, :, j], atol=4.5 * sd.max() / np.sqrt(4000)
        )
        at = np.flatnonzero((u[:, None] == draws.anchors).all(axis=2).any(axis=1))
        assert len(at) == 40
        np.testing.assert_allclose((found / np.outer(sd, sd))[at], (exact / np.outer(sd, sd))[at], atol=0.1)
        np.testing.assert_allclose(np.diag(found), np.diag(exact), rtol=0.12)
    np.testing.assert_allclose(draws(u[50:60]), values[:, 50:60], atol=1e-7)
    # The variance of the average, which independent errors would make 1 / 120 of that at one input.
    weights = np.full(120, 1 / 120)
    assert values[:, :, 0].mean(axis=1).var() == pytest.approx(weights @ scores.covariance[0, 0] @ weights, rel=0.1)


@pytest.mark.slow
def test_an_average_over_inputs_scatters_as_the_surrogate_part_says() -> None:
    """New functions, designs of 8 runs: errors of a population's mean over what is said of them are standard normal."""
    ratios, inside = [], []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        x = rng.random((208, 2))
        scaled = x / 0.4
        kappa = matern52(np.sqrt(((scaled[:, None] - scaled) ** 2).sum(axis=2)), 1.0)
        y = np.linalg.cholesky(kappa + 1e-10 * np.eye(208)) @ rng.standard_normal(208)
        surrogate = given_surrogate(x[:8], y[:8, None], names=("a", "b"))
        people = {"a": x[8:, 0], "b": x[8:, 1]}
        result = uq.propagate(surrogate, people, functions=64, rng=seed)
        said = float(result.mean_error["y"].sel(source="surrogate"))
        ratios.append((float(result.mean["y"]) - y[8:].mean()) / said)
        share, seen, half = result.exceedance(0.5), np.mean(y[8:] > 0.5), 0.5 / 200  # of 200 people, none may be seen
        inside.append((float(share["lower"]) <= seen + half) & (seen - half <= float(share["upper"])))
    assert np.sqrt(np.mean(np.square(ratios))) == pytest.approx(1.0, abs=3 * (2 * 80) ** -0.5 + 0.02)
    assert np.mean(inside) >= 0.88


# -------------------------------------------------------------------------------------------------- after calibration
def gaussian(keep: np.ndarray, given: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return the covariance of linear combinations `keep` (k, v) of variables given others `given` (g, v)."""
    cross, own = keep @ covariance @ given.T, given @ covariance @ given.T
    return keep @ covariance @ keep.T - cross @ np.linalg.solve(own, cross.T)


def test_parts_given_data_are_those_of_the_closed_form(rng: np.random.Generator) -> None:
    """y = 2 theta + e(x) + offset, measured at x = 0.3 and predicted there and at 0.9."""
    offset, copies, x = 0.4, 10, np.array([0.3, 0.9])
    values = 1.0 + NOISE_SD * rng.standard_normal((1, copies))
    surrogate = linear_surrogate(SLOPE, ERROR_SD, ell_x=ELL)
    problem = uq.Calibration(
        surrogate, replicates(values, x[:1]), uq.GaussianNoise(sd=NOISE_SD), discrepancy=uq.OffsetDiscrepancy(sd=offset)
    )
    # Variables: theta, e(0.3), e(0.9), offset, mean of the noise.
    covariance = np.zeros((5, 5))
    covariance[0, 0], covariance[3, 3], covariance[4, 4] = 1.0, offset**2, NOISE_SD**2 / copies
    covariance[1:3, 1:3] = ERROR_SD**2 * matern52(x[:, None] - x[None, :], ELL)
    data, theta = np.array([[SLOPE, 1.0, 0.0, 1.0, 1.0]]), np.eye(5)[[0]]
    spread = float(np.sqrt(gaussian(theta, data, covariance)[0, 0]))
    centre = float((theta @ covariance @ data.T / (data @ covariance @ data.T))[0, 0] * values.mean())
    draws = centre + spread * ndtri((np.arange(4000) + 0.5) / 4000)
    posterior = fabricated(problem, {"theta": rng.permutation(draws).reshape(4, 1000)})
    result = uq.propagate(posterior, conditions={"x": x}, noise=True, draws=2000, functions=4, rng=1)
    parts = result.variance["y"]
    assert list(parts["part"].values) == ["parameter", "surrogate", "discrepancy", "noise"]
    for i in range(2):
        simulated = np.zeros((1, 5))
        simulated[0, [0, 1 + i]] = SLOPE, 1.0
        known = np.vstack([data, theta, np.eye(5)[[1, 2]]])  # theta and what the simulator gives at both
        real = simulated + np.eye(5)[[3]]
        total = gaussian(real, data, covariance)[0, 0]
        given_theta = gaussian(real, np.vstack([data, theta]), covariance)[0, 0]
        given_both = gaussian(real, known, covariance)[0, 0]
        expected = [total - given_theta, given_theta - given_both, given_both, NOISE_SD**2]
        np.testing.assert_allclose(parts.isel(condition=i), expected, rtol=0.06, atol=0.008)
        np.testing.assert_allclose(result.sd["y"][i], np.sqrt(total + NOISE_SD**2), rtol=0.02)
    np.testing.assert_allclose(result.sd["y"], posterior.predict(conditions={"x": x}, noise=True).sd["y"], rtol=0.02)
    simulator = uq.propagate(posterior, conditions={"x": x}, discrepancy=False, draws=2000, rng=1)
    np.testing.assert_allclose(
        simulator.sd["y"], posterior.predict(conditions={"x": x}, discrepancy=False).sd["y"], rtol=0.02
    )
    assert "discrepancy" not in simulator.variance["part"].values
    # With the simulator known, e at both conditions is, and the data say something else of theta, too.
    of = {"y": "y", "theta": lambda table: table["theta"]}
    both = uq.propagate(posterior, of=of, conditions={"x": x}, discrepancy=False, draws=2000, rng=1)
    quantities = [np.array([[SLOPE, 1.0, 0, 0, 0]]), np.array([[SLOPE, 0, 1.0, 0, 0]]), theta]
    known = np.vstack([data, np.eye(5)[[1, 2]]])
    left = np.array([gaussian(one, known, covariance)[0, 0] for one in quantities])
    shared = np.sqrt([gaussian(one, data, covariance)[0, 0] - v for one, v in zip(quantities, left, strict=True)])
    error = both.mean_error.sel(source="surrogate")
    np.testing.assert_allclose([*error["y"].values, float(error["theta"])], shared, rtol=0.03, atol=0.03)
    real = [one + np.eye(5)[[3]] for one in quantities[:2]]  # the discrepancy gives way when the simulator is known
    moved = np.sqrt([float((gaussian(v, data, covariance) - gaussian(v, known, covariance))[0, 0]) for v in real])
    np.testing.assert_allclose(result.mean_error["y"].sel(source="surrogate"), moved, rtol=0.03, atol=0.03)
    # Quantiles and probabilities under one function: normal, of the variance that is left, around a mean that errs.
    ends = both.quantile([0.9])["y"].isel(quantile=0, condition=1)
    middle = float(both.mean["y"][1])
    inner = middle + np.sqrt(left[1]) * ndtri(0.9)
    np.testing.assert_allclose(ends[1:], inner + ndtri([0.025, 0.975]) * shared[1], atol=0.08)
    level = middle + 1.0
    by_function = norm.sf(level, middle + shared[1] * ndtri((np.arange(4000) + 0.5) / 4000), np.sqrt(left[1]))
    found = both.exceedance(level, "y").isel(condition=1)
    assert float(found["surrogate"]) == pytest.approx(by_function.std(), rel=0.1)
    np.testing.assert_allclose([found["lower"], found["upper"]], np.quantile(by_function, [0.025, 0.975]), atol=0.06)
    found = both.density("y", condition=1)
    centres = middle + shared[1] * ndtri((np.arange(1000) + 0.5) / 1000)
    band = np.quantile(norm.pdf(found["value"].values[:, None], centres, np.sqrt(left[1])), [0.025, 0.975], axis=1)
    highest = norm.pdf(0.0) / np.sqrt(left[1])
    off = np.abs(np.stack([found["lower"], found["upper"]]) - band) / highest
    assert off.max() < 0.1
    assert off.mean() < 0.02
    # Means of two losses that err together: the first is least where that of y is 0.6 below what is expected.
    decision = both.decide(
        lambda t, half: (1.0 - half) * t["y"].isel(condition=1) + half * middle - 0.6 * half, [0.0, 0.5]
    )
    expected = norm.cdf(-0.6 / shared[1])
    np.testing.assert_allclose(decision.table["probability_best"], [expected, 1.0 - expected], atol=0.05)
    # An exact tail of what is measured next.
    level = float(result.mean["y"][1]) + float(result.sd["y"][1])
    found = result.exceedance(level).isel(condition=1)
    assert float(found["probability"]) == pytest.approx(1 - ndtr(1.0), abs=4 * float(found["monte_carlo"]) + 0.005)
    assert float(found["lower"]) < 1 - ndtr(1.0) < float(found["upper"])


def test_several_outputs_are_drawn_together_after_calibration() -> None:
    """A curve and a number that was not observed, through functions of both."""
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0))
    design, hours = uq.sobol(space, 5, rng=1), np.array([0.0, 1.0, 2.0])
    curve = np.sin(4.0 * design["a"].values)[:, None] * (1.0 + hours)
    outputs = {"y": xr.DataArray(curve, dims=("run", "hour"), coords={"hour": hours}), "first": curve[:, 0]}
    surrogate = uq.GaussianProcess(hyperparameters="point").fit(uq.ensemble.build(design, outputs, space=space))
    data = xr.DataArray([0.9, 1.9, 2.8], dims="hour", coords={"hour": hours}, name="y")
    problem = uq.Calibration(surrogate, data, uq.GaussianNoise(sd=0.05))
    draws = np.random.default_rng(1).uniform(0.3, 0.5, (2, 100))
    posterior = fabricated(problem, {"a": draws})
    of = {
        "sum": lambda table: table["y"].sel(hour=0.0) + table["first"],
        "peak": lambda t: uq.functionals.peak(t["y"], "hour"),
    }
    result = uq.propagate(posterior, of=of, noise=False, draws=200, functions=4, rng=1)
    assert result.draws.sizes == {"function": 4, "sample": 200}
    predicted = posterior.predict(outputs=["y"], draws=200)
    assert float(result.mean["peak"]) == pytest.approx(float(predicted.mean["y"].max()), abs=0.02)
    assert float(result.mean["sum"]) == pytest.approx(2 * float(predicted.mean["y"][0]), abs=0.1)
    with pytest.raises(InputError, match="not observed"):
        uq.propagate(posterior, of=["first"], noise=True)
    with pytest.raises(InputError, match="leave inputs out"):
        uq.propagate(posterior, {"a": [0.1, 0.2]})
    with pytest.raises(InputError, match="give True"):
        uq.propagate(posterior, noise=0.1)


# --------------------------------------------------------------------------------------------- inputs, functions, words
def test_draws_of_ones_own_and_a_chain_of_functions() -> None:
    surrogate = linear_surrogate(SLOPE, 1e-4, ell_x=ELL)
    theta = np.random.default_rng(1).normal(1.0, 0.5, 3000)
    of = {
        "square": lambda table: table["y"] ** 2,
        "root": lambda table: np.sqrt(table["square"]) - SLOPE * table["theta"].where(table["y"] > 0, -table["theta"]),
    }
    table = uq.propagate(surrogate, pd.DataFrame({"theta": theta}), conditions={"x": 0.5}, of=of, functions=2, rng=1)
    assert table.sampling == "ordered"
    expected = np.mean((SLOPE * theta) ** 2)
    assert float(table.mean["square"]) == pytest.approx(expected, abs=2e-3)
    assert float(np.abs(table.draws["root"]).max()) < 1e-3
    chains = xr.Dataset(
        {"theta": (("chain", "draw"), theta.reshape(4, 750)), "sigma": (("chain", "draw"), np.ones((4, 750)))}
    )
    again = uq.propagate(surrogate, chains, conditions={"x": 0.5}, of=of, functions=2, rng=1)
    xr.testing.assert_identical(again.draws, table.draws)
    both = uq.propagate(surrogate, {"theta": theta, "x": np.full(3000, 0.5)}, of="y", functions=2, rng=1)
    assert float(both.mean["y"]) == pytest.approx(SLOPE * theta.mean(), abs=1e-3)


def test_correlated_draws_have_a_larger_monte_carlo_error() -> None:
    surrogate = linear_surrogate(SLOPE, 1e-4, ell_x=ELL)
    rng = np.random.default_rng(2)
    steps, rho = rng.standard_normal(8000) * np.sqrt(1 - 0.9**2), 0.9
    theta = np.empty(8000)
    theta[0] = rng.standard_normal()
    for i in range(1, 8000):
        theta[i] = rho * theta[i - 1] + steps[i]
    result = uq.propagate(surrogate, {"theta": theta}, conditions={"x": 0.5}, functions=2, rng=1)
    said = float(result.mean_error["y"].sel(source="Monte Carlo"))
    assert said == pytest.approx(SLOPE * np.sqrt((1 + rho) / (1 - rho) / 8000), rel=0.3)


def test_densities_integrate_to_one_and_are_normal(prior: uq.Propagation) -> None:
    found = prior.density(condition=1)
    assert float(np.trapezoid(found["density"], found["value"])) == pytest.approx(1.0, abs=2e-3)
    exact = norm.pdf(found["value"], 0.0, np.sqrt(SLOPE**2 + ERROR_SD**2 + NOISE_SD**2))
    np.testing.assert_allclose(found["density"], exact, atol=0.04 * exact.max())
    assert bool((found["lower"] <= found["density"]).all() and (found["density"] <= found["upper"]).all())
    one = prior.interval()["y"].isel(condition=0)
    np.testing.assert_allclose(one, 1.96 * np.sqrt(SLOPE**2 + ERROR_SD**2 + NOISE_SD**2) * np.array([-1, 1]), rtol=0.08)


def test_results_repeat_with_their_seed_and_say_what_they_hold(prior: uq.Propagation) -> None:
    surrogate = linear_surrogate(SLOPE, ERROR_SD, ell_x=ELL)
    first, second, other = (uq.propagate(surrogate, conditions={"x": 0.5}, functions=4, rng=seed) for seed in (3, 3, 4))
    xr.testing.assert_identical(first.draws, second.draws)
    assert not first.draws.equals(other.draws)
    assert prior.holds == ("parameters", "surrogate", "noise")
    assert "fraction from parameter" in repr(first)
    assert list(first.table().index) == ["y"]
    assert list(prior.table().index) == ["y, x=0.2", "y, x=0.8"]


def test_noise_models_and_a_simulator_that_is_used_directly() -> None:
    space = uq.ParameterSpace(a=uq.LogNormal(median=2.0, sigma=0.2))
    exact = uq.DirectSimulator(lambda a: a**2, space=space, outputs={"y": ()})
    result = uq.propagate(exact, noise=uq.LogNormalNoise(sigma=0.1), draws=4096, rng=1)
    assert result.holds == ("parameters", "noise")
    assert result.draws.sizes["function"] == 1
    assert float(result.variance["y"].sel(part="surrogate")) == 0.0
    np.testing.assert_allclose(np.log(result.draws["y"]).std(), np.hypot(0.4, 0.1), rtol=0.03)
    counts = uq.propagate(exact, noise={"y": uq.PoissonNoise()}, draws=4096, rng=1)
    assert float(counts.variance["y"].sel(part="noise")) == pytest.approx(4.0 * np.exp(0.08), rel=0.05)


SURROGATE = linear_surrogate(SLOPE, ERROR_SD, ell_x=ELL)
THETA = {"theta": np.zeros(5)}


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({}, InputError, "no value is given for"),
        ({"conditions": {"x": 0.5, "z": 1.0}}, InputError, "conditions has"),
        ({"conditions": {"x": 0.5}, "of": "z"}, InputError, "some of the outputs"),
        ({"conditions": {"x": 0.5}, "of": {"a": lambda t: 1.0}}, InputError, "has the dim 'draw'"),
        ({"conditions": {"x": 0.5}, "of": {"a": lambda t: t["y"] * np.nan}}, DataError, "no value"),
        ({"conditions": {"x": [0.5, np.nan]}}, DataError, "finite"),
        ({"conditions": {"x": 0.5}, "coords": {"t": [1.0]}}, InputError, "coords has"),
        ({"conditions": {"x": 0.5}, "noise": {"y": -1.0}}, InputError, "positive standard deviation"),
        ({"conditions": {"x": 0.5}, "noise": True}, InputError, "does not know how"),
        ({"conditions": {"x": 0.5}, "noise": {"z": 1.0}}, InputError, "noise is given for"),
        ({"conditions": {"x": 0.5}, "noise": uq.AutocorrelatedNoise(1.0, 1.0, 1.0)}, InputError, "independent"),
        ({"conditions": {"x": 0.5}, "draws": 1}, InputError, "at least 2"),
        ({"conditions": {"x": 0.5}, "functions": True}, InputError, "whole number"),
        ({"conditions": {"x": 0.5}, "outside": "clip"}, InputError, "'error' or 'extrapolate'"),
        ({"conditions": {"x": 0.5}, "draws": 10**6, "functions": 1000}, InputError, "numbers"),
        ({"conditions": {"x": 0.5}, "inputs": np.zeros(4)}, InputError, "draws by name"),
        ({"conditions": {"x": 0.5}, "inputs": {"theta": [0.0, np.inf]}}, DataError, "draw 1"),
        ({"conditions": {"x": 0.5}, "inputs": {"theta": ["a", "b"]}}, DataError, "not numbers"),
        ({"conditions": {"x": 0.5}, "inputs": {"theta": [0.0]}}, DataError, "at least 2"),
        ({"inputs": {"theta": [0.0, 1.0], "x": [0.1]}}, DataError, "the same number"),
        ({"conditions": {"x": 0.5}, "inputs": THETA | {"other": np.zeros(5)}}, InputError, "inputs has"),
        ({"conditions": {"x": 0.5}, "inputs": uq.ParameterSpace(k=uq.Normal(0, 1))}, InputError, "no inputs"),
        (
            {"conditions": {"x": 0.5}, "inputs": uq.ParameterSpace(theta=uq.Normal(7, 1))},
            ExtrapolationError,
            "prior's mass",
        ),
        ({"conditions": {"x": 0.5}, "inputs": {"theta": [0.0, 9.0]}}, ExtrapolationError, "outside of the design box"),
    ],
)
def test_bad_inputs_raise_typed_errors(settings: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        uq.propagate(SURROGATE, **settings)


def test_noise_that_outputs_cannot_have_is_refused() -> None:
    space = uq.ParameterSpace(a=uq.Normal(0.0, 1.0))
    simulator = uq.DirectSimulator(lambda a: a, space=space, outputs={"y": ()}, vectorized=True)
    for noise in (uq.PoissonNoise(), uq.LogNormalNoise(0.1)):
        with pytest.raises(InputError, match=r"50.*% of the draws of 'y'.*PoissonNoise|LogNormalNoise"):
            uq.propagate(simulator, noise={"y": noise}, rng=1)


def test_more_bad_inputs(prior: uq.Propagation) -> None:
    with pytest.raises(InputError, match="a surrogate or a posterior"):
        uq.propagate("surrogate")
    with pytest.warns(ExtrapolationWarning, match="outside of the design box"):
        far = uq.propagate(SURROGATE, {"theta": [0.0, 9.0]}, conditions={"x": 0.5}, outside="extrapolate", functions=2)
    assert far.outside == 0.5
    for call in (
        lambda: prior.exceedance(np.nan),
        lambda: prior.exceedance(1.0, "z"),
        lambda: prior.exceedance(1.0, prob=1.0),
        lambda: prior.quantile([0.0]),
        lambda: prior.density(),
        lambda: prior.density(condition=7),
        lambda: prior.interval(2.0),
    ):
        with pytest.raises(InputError):
            call()
