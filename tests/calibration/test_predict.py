"""Prediction after calibration against joint Gaussians that are written out by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from calibration.problems import given_surrogate, linear_surrogate, matern52, replicates

import uqms as uq
from uqms.calibration import predict as predict_module
from uqms.calibration.posterior import build_posterior
from uqms.calibration.predict import conditional_moments, own_cells

SLOPE, ERROR_SD, NOISE_SD, ELL, TRUNCATION = 2.0, 0.6, 0.5, 0.3, 0.3


def fabricated(problem: uq.Calibration, theta: dict[str, np.ndarray]) -> object:
    """Return the posterior object around draws that are given, so that only prediction is under test."""
    shape = next(iter(theta.values())).shape
    posterior = xr.Dataset({name: (("chain", "draw"), values) for name, values in theta.items()})
    posterior = posterior.assign_coords(chain=np.arange(shape[0]), draw=np.arange(shape[1]))
    stats = xr.Dataset({"diverging": (("chain", "draw"), np.zeros(shape, dtype=bool))})
    trace = xr.DataTree.from_dict({"posterior": posterior, "sample_stats": stats})
    return build_posterior(problem, uq.NUTS(draws=shape[1], chains=shape[0]), trace, 1)


def exact(x_seen: np.ndarray, copies: int, values: np.ndarray, x_new: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return mean and sd of theta, and of y at x_new, from the joint Gaussian of theta, error, truncation and data."""
    x = np.concatenate([x_seen, x_new])
    same = x[:, None] == x[None, :]
    error = ERROR_SD**2 * matern52(x[:, None] - x[None, :], ELL) + TRUNCATION**2 * same
    k = len(x_seen)
    prior = SLOPE**2 + error
    data = prior[:k, :k] + NOISE_SD**2 / copies * np.eye(k)
    gain = np.linalg.solve(data, prior[:k, k:])
    mean = gain.T @ values.mean(axis=1)
    variance = np.diag(prior[k:, k:] - prior[k:, :k] @ gain)
    solved = np.linalg.solve(error[:k, :k] + NOISE_SD**2 / copies * np.eye(k), np.full(k, SLOPE))
    precision = 1.0 + SLOPE * solved.sum()
    return solved @ values.mean(axis=1) / precision, precision**-0.5, mean, np.sqrt(variance)


@pytest.mark.parametrize("copies", [1, 20])
def test_predictive_sd_is_exact_at_old_and_new_inputs(copies: int, rng: np.random.Generator) -> None:
    x_seen, x_new = np.array([0.3, 0.6]), np.array([0.3, 0.6, 0.45, 0.9])
    values = 1.0 + NOISE_SD * rng.standard_normal((2, copies))
    surrogate = linear_surrogate(SLOPE, ERROR_SD, ell_x=ELL, truncation=np.full((1, 1), TRUNCATION))
    problem = uq.Calibration(surrogate, replicates(values, x_seen), uq.GaussianNoise(sd=NOISE_SD))
    centre, spread, mean, sd = exact(x_seen, copies, values, x_new)
    # Evenly spaced quantiles in place of draws: the moments of theta are then exact to a few parts in ten thousand.
    from scipy.special import ndtri

    quantiles = centre + spread * ndtri((np.arange(4000) + 0.5) / 4000)
    posterior = fabricated(problem, {"theta": rng.permutation(quantiles).reshape(4, 1000)})
    found = posterior.predict(conditions={"x": x_new}, draws=4000)
    np.testing.assert_allclose(found.mean["y"], mean, atol=2e-3)
    np.testing.assert_allclose(found.sd["y"], sd, rtol=0.01)
    drawn = found.draws["y"].std("sample")
    np.testing.assert_allclose(drawn, sd, rtol=5 / np.sqrt(2 * 4000))


def test_prediction_with_nuts_end_to_end(rng: np.random.Generator) -> None:
    x_seen, x_new = np.array([0.3, 0.6]), np.array([0.3, 0.9])
    values = 1.0 + NOISE_SD * rng.standard_normal((2, 20))
    surrogate = linear_surrogate(SLOPE, ERROR_SD, ell_x=ELL, truncation=np.full((1, 1), TRUNCATION))
    problem = uq.Calibration(surrogate, replicates(values, x_seen), uq.GaussianNoise(sd=NOISE_SD))
    posterior = problem.sample(uq.NUTS(draws=4000), rng=2)
    centre, spread, mean, sd = exact(x_seen, 20, values, x_new)
    row = posterior.summary().loc["theta"]
    se = spread / np.sqrt(row["ess_bulk"])
    assert row["mean"] == pytest.approx(centre, abs=4 * se)
    assert row["sd"] == pytest.approx(spread, rel=4 / np.sqrt(2 * row["ess_tail"]))
    found = posterior.predict(conditions={"x": x_new}, draws=16000)
    np.testing.assert_allclose(found.mean["y"], mean, atol=4 * SLOPE * se)
    np.testing.assert_allclose(found.sd["y"], sd, rtol=0.01)
    observed = posterior.tree["posterior_predictive"]["value"]
    _, _, _, at_seen = exact(x_seen, 20, values, x_seen)
    expected = np.repeat(np.sqrt(at_seen**2 + NOISE_SD**2), 20)
    np.testing.assert_allclose(observed.std(("chain", "draw")), expected, rtol=5 / np.sqrt(2 * 1000))


def test_planted_fresh_errors_are_caught(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the error drawn anew instead of given the data, the band is several times too wide at 20 replicates."""
    x_seen = np.array([0.3])
    values = 1.0 + NOISE_SD * rng.standard_normal((1, 20))
    surrogate = linear_surrogate(SLOPE, ERROR_SD, ell_x=ELL, truncation=np.full((1, 1), TRUNCATION))
    problem = uq.Calibration(surrogate, replicates(values, x_seen), uq.GaussianNoise(sd=NOISE_SD))
    centre, spread, _, sd = exact(x_seen, 20, values, x_seen)
    posterior = fabricated(problem, {"theta": centre + spread * rng.standard_normal((4, 250))})
    right = posterior.predict().sd["y"].item()
    errors_of = predict_module.Errors.of

    def fresh(*args: Any) -> Any:
        errors = errors_of(*args)
        return replace(errors, design=np.where(np.arange(len(errors.design))[:, None] < 1, 0.0, errors.design))

    monkeypatch.setattr(predict_module.Errors, "of", fresh)
    wrong = posterior.predict().sd["y"].item()
    assert right == pytest.approx(sd[0], rel=0.01)
    assert wrong > 5 * sd[0]


def test_conditional_moments_equal_brute_force_with_a_gaussian_process(rng: np.random.Generator) -> None:
    q, m = 2, 3
    basis, truncation = rng.standard_normal((m, q)), 0.2 * rng.standard_normal((m, 2))
    surrogate = given_surrogate(
        rng.random((7, 2)),
        rng.standard_normal((7, q)),
        basis=basis,
        truncation=truncation,
        names=("theta", "x"),
        space=uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0)}),
    )
    data = xr.DataArray(
        rng.standard_normal((2, m)),
        dims=("experiment", "t"),
        coords={"x": ("experiment", [0.2, 0.7]), "t": np.arange(3.0)},
        name="y",
    )
    observations = uq.Observations.from_xarray(data, conditions=("x",))
    problem = uq.Calibration(surrogate, observations, uq.GaussianNoise(sd=0.3))
    theta = {"theta": rng.random(5)}
    for rows, moments in conditional_moments(problem, theta, np.zeros(5, dtype=np.int64), own_cells(problem.cells)):
        for s in range(*rows.indices(5)):
            scores = surrogate.scores(np.array([[theta["theta"][s], 0.2], [theta["theta"][s], 0.7]]))
            prior = np.einsum("aj,jkl,bj->kalb", basis, scores.covariance[0], basis).reshape(2 * m, 2 * m)
            prior += np.kron(np.eye(2), truncation @ truncation.T)
            gain = prior @ np.linalg.inv(prior + 0.09 * np.eye(2 * m))
            mean = (scores.mean[0] @ basis.T).ravel()
            expected = mean + gain @ (data.values.ravel() - mean)
            np.testing.assert_allclose(moments.mean[s], expected, rtol=1e-9)
            np.testing.assert_allclose(moments.covariance[s], prior - gain @ prior, rtol=1e-7, atol=1e-10)


def test_curve_between_simulated_coordinates_carries_the_interpolation_error(rng: np.random.Generator) -> None:
    days = np.linspace(0.0, 10.0, 11)
    space = uq.ParameterSpace(k=uq.Uniform(0.5, 2.0))
    design = uq.sobol(space, 24, rng=1)
    curves = np.sin(design["k"].values[:, None] * days)
    runs = uq.ensemble.build(design, {"y": xr.DataArray(curves, dims=("run", "t"), coords={"t": days})}, space=space)
    surrogate = uq.GaussianProcess().fit(runs)
    seen = xr.DataArray(np.sin(1.2 * days), dims="t", coords={"t": days}, name="y")
    problem = uq.Calibration(surrogate, seen, uq.GaussianNoise(sd=0.02))
    draws = np.full((4, 100), 1.2) + 0.001 * rng.standard_normal((4, 100))
    posterior = fabricated(problem, {"k": draws})
    between = np.array([0.5, 1.5, 2.5, 4.5])
    found = posterior.predict(coords={"t": between})
    at_grid = posterior.predict(coords={"t": days[:4]})
    error = np.abs(found.mean["y"] - np.sin(1.2 * between))
    assert (error < 4 * found.sd["y"]).all()
    assert (found.sd["y"] > 1.5 * at_grid.sd["y"].mean()).all()
    bounds = found.interval(0.9)["y"]
    assert (bounds.sel(bound="lower") < bounds.sel(bound="upper")).all()


def test_outputs_of_very_different_units_keep_their_own_spread(rng: np.random.Generator) -> None:
    space = uq.ParameterSpace(k=uq.Uniform(0.5, 2.0))
    design = uq.sobol(space, 20, rng=1)
    k = design["k"].values
    runs = uq.ensemble.build(design, {"p": 1e9 * np.sin(k), "q": 1e-5 * np.cos(k)}, space=space)
    parts = [uq.Observations.from_xarray(xr.DataArray(value, name=name)) for name, value in (("p", 8e8), ("q", 5e-6))]
    noise = {"p": uq.GaussianNoise(sd=3e7), "q": uq.GaussianNoise(sd=1e-6)}
    problem = uq.Calibration(uq.GaussianProcess().fit(runs), uq.Observations.concat(parts), noise)
    posterior = fabricated(problem, {"k": 1.0 + 0.02 * rng.standard_normal((4, 250))})
    drawn = posterior.tree["posterior_predictive"]["value"].std(("chain", "draw")).values
    assert drawn[1] == pytest.approx(np.hypot(1e-6, 1e-5 * np.sin(1.0) * 0.02), rel=0.1)


def test_a_condition_off_by_rounding_is_the_observed_input(rng: np.random.Generator) -> None:
    surrogate = linear_surrogate(SLOPE, ERROR_SD, ell_x=ELL, truncation=np.full((1, 1), TRUNCATION))
    problem = uq.Calibration(
        surrogate, replicates(1.0 + rng.standard_normal((1, 20)), np.array([0.1 + 0.2])), uq.GaussianNoise(sd=NOISE_SD)
    )
    posterior = fabricated(problem, {"theta": 0.5 + 0.1 * rng.standard_normal((4, 250))})
    found = [posterior.predict(conditions={"x": x}).sd["y"].item() for x in (0.3, 0.1 + 0.2)]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


@pytest.mark.parametrize("discrepancy", [None, uq.OffsetDiscrepancy(sd=0.5)], ids=["noise alone", "discrepancy"])
def test_without_errors_the_surrogate_is_the_simulator(
    discrepancy: uq.OffsetDiscrepancy | None, rng: np.random.Generator
) -> None:
    """Data far from the mean say nothing of errors that are not there; only a discrepancy follows them."""
    values = 3.0 + NOISE_SD * rng.standard_normal((2, 3))
    surrogate = linear_surrogate(SLOPE, ERROR_SD, ell_x=ELL, truncation=np.full((1, 1), TRUNCATION))
    noise = uq.GaussianNoise(sd=NOISE_SD)
    problem = uq.Calibration(surrogate, replicates(values, np.array([0.3, 0.6])), noise, discrepancy=discrepancy)
    theta, targets = rng.standard_normal(5), own_cells(problem.cells)
    h = np.zeros(5, dtype=np.int64)
    for errors in (False, True):
        found = conditional_moments(
            problem, {"theta": theta}, h, targets, np.empty((5, 0)), discrepancy=False, errors=errors
        )
        mean = np.concatenate([moments.mean for _, moments in found])
        away = np.abs(mean - SLOPE * theta[:, None]).max()
        assert away > 0.1 if errors else away < 1e-12
