"""Left-out and held-out errors against refits; the reference range of their coverage against functions drawn."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from calibration.problems import given_surrogate
from scipy.stats import binom

import uqms as uq
from uqms.surrogates import GaussianProcessSurrogate, Matern52
from uqms.surrogates.kernels import correlation
from uqms.surrogates.process import condition, scores_at
from uqms.surrogates.training import Hyperparameters
from uqms.surrogates.validation import held_out, leave_one_out

ELL = 0.3


def drawn_function(x: np.ndarray, q: int, rng: np.random.Generator) -> np.ndarray:
    """Return q functions of the Gaussian process with unit variance and a flat mean at x (n, q)."""
    kappa = correlation(Matern52(), x, x, np.full(x.shape[1], ELL))
    lower = np.linalg.cholesky(kappa + 1e-10 * np.eye(len(x)))
    return 2.0 + lower @ rng.standard_normal((len(x), q))


def curve_surrogate(seed: int, n: int = 24) -> tuple[GaussianProcessSurrogate, np.ndarray, np.ndarray]:
    """Return a surrogate with the right hyperparameters, and held-out inputs with their curves."""
    rng = np.random.default_rng(seed)
    x = rng.random((n + 20, 2))
    scores = drawn_function(x, 2, rng)
    basis, truncation = np.array([[1.0, 0.2], [0.5, -0.4], [0.0, 1.0]]), np.array([[0.1], [0.2], [0.0]])
    surrogate = given_surrogate(x[:n], scores[:n], ell=ELL, basis=basis, truncation=truncation, names=("a", "b"))
    omegas = rng.standard_normal((n + 20, 1))
    curves = scores @ basis.T + omegas @ truncation.T
    bases = (replace(surrogate.bases[0], left_out=omegas[:n]),)
    return replace(surrogate, bases=bases), x[n:], curves[n:]


def as_runs(x: np.ndarray, curves: np.ndarray) -> xr.Dataset:
    output = xr.DataArray(curves, dims=("run", "t"), coords={"t": np.arange(float(curves.shape[1]))})
    return uq.ensemble.build({"a": x[:, 0], "b": x[:, 1]}, {"y": output})


def test_left_out_errors_equal_refits() -> None:
    surrogate, _, _ = curve_surrogate(3)
    found = leave_one_out(surrogate)
    process = surrogate.process
    one = Hyperparameters(np.full(2, ELL), 0.0, 1e-12, 0.0, 1, False)
    for i in (0, 7, 23):
        keep = np.arange(24) != i
        refit = condition(Matern52(), process.x[keep], process.y[keep], 1, [one] * 2, [1.0, 1.0])
        scores = scores_at(refit, process.x[i : i + 1])
        offset, basis, truncation = surrogate.decode("y")
        variance = scores.covariance[0, :, 0, 0] @ (basis**2).T + np.sum(truncation**2, axis=1)
        np.testing.assert_allclose(found.mean["y"][i], offset + scores.mean[0, 0] @ basis.T, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(found.sd["y"][i], np.sqrt(variance), rtol=1e-6)
        seen = offset + process.y[i] @ basis.T + surrogate.bases[0].left_out[i] @ truncation[:, :1].T
        np.testing.assert_allclose(found.observed["y"][i], seen, rtol=1e-10)


def test_q2_and_rmse_are_their_definitions() -> None:
    surrogate, x, curves = curve_surrogate(4)
    found = held_out(surrogate, as_runs(x, curves))
    error = curves - surrogate.predict({"a": x[:, 0], "b": x[:, 1]}).mean["y"].values
    assert found.table.loc["y", "rmse"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-10)
    expected = 1.0 - np.mean(error**2) / np.mean((curves - curves.mean(axis=0)) ** 2)
    assert found.table.loc["y", "q2"] == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(found.standardised["y"], error / found.sd["y"], rtol=1e-9)


def outside(seed: int, factor: float = 1.0) -> tuple[bool, bool]:
    """Return whether the 95 % coverage leaves its range, left-out and held-out, with variances off by a factor."""
    surrogate, x, curves = curve_surrogate(seed)
    process = surrogate.process
    if factor != 1.0:
        one = Hyperparameters(np.full(2, ELL), 0.0, 1e-12, 0.0, 1, False)
        process = condition(Matern52(), process.x, process.y, 1, [one] * 2, [factor, factor])
        truncated = replace(surrogate.bases[0], truncation=surrogate.bases[0].truncation * np.sqrt(factor))
        surrogate = replace(surrogate, process=process, bases=(truncated,))
    rows = [found.table.loc["y"] for found in (leave_one_out(surrogate), held_out(surrogate, as_runs(x, curves)))]
    sides = [not row["range_95%"][0] <= row["coverage_95%"] <= row["range_95%"][1] for row in rows]
    return sides[0], sides[1]


def test_reference_range_holds_the_coverage_of_right_surrogates() -> None:
    """Of 100 right surrogates about one leaves the 99 % range."""
    found = np.array([outside(seed) for seed in range(1, 101)])
    assert (found.sum(axis=0) <= binom(100, 0.01).ppf(0.9999)).all()


def noisy_runs(n: int, seed: int) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    k = rng.uniform(0.0, 6.0, n)
    return uq.ensemble.build({"k": k}, {"y": np.sin(k) + 0.1 * rng.standard_normal(n)})


def test_held_out_runs_of_a_stochastic_simulator_carry_its_noise() -> None:
    """Runs scatter by the simulator's own noise about what the surrogate predicts: sd of 0.1, not of its mean."""
    surrogate = uq.GaussianProcess(noise="fitted").fit(noisy_runs(128, 1))
    test = noisy_runs(128, 2)
    found = held_out(surrogate, test)
    row = found.table.loc["y"]
    assert row["range_95%"][0] <= row["coverage_95%"] <= row["range_95%"][1]
    # Independent noise is most of the errors, so the range is about a binomial's.
    assert row["range_95%"][1] - row["range_95%"][0] < 0.15
    nugget = (surrogate.process.nugget * surrogate.process.variance).item() * surrogate.bases[0].basis.item() ** 2
    latent = surrogate.predict({"k": test["k"].values}).variance["y"].values
    np.testing.assert_allclose(found.sd["y"].values ** 2, latent + nugget, rtol=1e-8)
    assert np.sqrt(nugget) == pytest.approx(0.1, rel=0.2)


def test_the_range_of_held_out_coverage_holds_the_noise_too() -> None:
    """Simulated errors without the noise would be far smaller than the sd, and cover 100 %."""
    found = held_out(uq.GaussianProcess(noise="fitted").fit(noisy_runs(128, 1)), noisy_runs(128, 2))
    low, high = found.table.loc["y", "range_50%"]
    assert low < 0.5 < high < 0.7


def test_coordinates_of_one_score_do_not_count_as_independent() -> None:
    """Sixteen coordinates that move together say no more than one: the range is several times a binomial's."""
    rng = np.random.default_rng(1)
    x = rng.random((24, 2))
    surrogate = given_surrogate(x, drawn_function(x, 1, rng), ell=ELL, basis=np.ones((16, 1)), names=("a", "b"))
    low, high = leave_one_out(surrogate).table.loc["y", "range_95%"]
    binomial = [binom(24 * 16, 0.95).ppf(p) / (24 * 16) for p in (0.005, 0.995)]
    assert high - low > 3.0 * (binomial[1] - binomial[0])


def test_half_the_variance_is_seen_as_too_narrow() -> None:
    found = np.array([outside(seed, factor=0.3) for seed in range(1, 31)])
    assert found.mean() > 0.6


def test_point_estimates_with_few_runs_are_said() -> None:
    surrogate, _, _ = curve_surrogate(5)
    found = leave_one_out(surrogate)
    assert found.point_estimated
    assert "point-estimated" in str(found)
    assert "Q²" in str(found)


def test_other_coordinates_are_refused() -> None:
    surrogate, x, curves = curve_surrogate(6)
    runs = as_runs(x, curves)
    with pytest.raises(uq.errors.InputError, match="coordinates 't'"):
        held_out(surrogate, runs.assign_coords(t=[0.0, 1.0, 5.0]))
    with pytest.raises(uq.errors.DataError, match="at least two"):
        held_out(surrogate, runs.isel(run=slice(0, 1)))


def test_errors_far_beyond_their_sd_are_said() -> None:
    """A function that is flat but for one corner: coverage looks right, the errors in the corner are not."""
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
    designs = [uq.sobol(space, n, rng=n) for n in (64, 256)]
    curves = [np.maximum(d["a"].values + d["b"].values - 1.5, 0.0) ** 0.5 for d in designs]
    train, test = (uq.ensemble.build(d, {"y": y}, space=space) for d, y in zip(designs, curves, strict=True))
    found = held_out(uq.GaussianProcess().fit(train), test)
    share = np.mean(np.abs(found.standardised["y"]) > 4.0)
    assert found.table.loc["y", "beyond_4"] == pytest.approx(float(share))
    assert share > 0.002
    assert "beyond 4 sd" in str(found)
    surrogate, x, smooth = curve_surrogate(3)
    assert "beyond 4 sd" not in str(held_out(surrogate, as_runs(x, smooth)))
