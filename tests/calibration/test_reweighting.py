"""Draws reweighted to another size of the surrogate's error, against constructors, closed forms and brute force."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from calibration.gridded import sampled
from calibration.problems import given_surrogate, linear_surrogate, matern52, replicates

import uqms as uq
from uqms.calibration.checks import Check, Sampled
from uqms.calibration.context import Context
from uqms.calibration.misfit import check_validation
from uqms.calibration.reweighting import error_scaled, reweighted, smoothed
from uqms.calibration.verdict import size_of_error
from uqms.errors import InputError
from uqms.surrogates import GaussianProcessSurrogate
from uqms.surrogates.process import average

X = np.linspace(0.0, 1.0, 8)[:, None]


def curves() -> GaussianProcessSurrogate:
    """Return a surrogate of a curve with two hyperparameter draws, truncation and an estimated trend."""
    rng = np.random.default_rng(1)
    basis, truncation = rng.standard_normal((5, 2)), 0.1 * rng.standard_normal((5, 1))
    scores = np.column_stack([np.sin(4.0 * X[:, 0]), X[:, 0] ** 2])
    first, second = (
        given_surrogate(X, scores, ell=ell, variance=0.5, basis=basis, truncation=truncation) for ell in (0.2, 0.4)
    )
    return replace(first, process=average([first.process, second.process]))


def test_scaled_variances_leave_means_as_they_are() -> None:
    one = curves()
    factor = np.array([[2.0, 3.0], [4.0, 0.5]])
    u = np.array([[0.13], [0.71]])
    before = one.scores(u)
    after = replace(one, process=one.process.scaled(factor)).scores(u)
    np.testing.assert_allclose(after.mean, before.mean, rtol=1e-12)
    np.testing.assert_allclose(after.covariance, factor[:, :, None, None] * before.covariance, rtol=1e-9)
    noisy = replace(one.process, noise=np.full((2, 8), 0.1))
    with pytest.raises(InputError, match="noise of known variances"):
        noisy.scaled(factor)


def test_a_problem_with_another_error_is_the_one_that_the_constructor_makes() -> None:
    one = curves()
    data = xr.DataArray(np.linspace(0.0, 1.0, 5), dims="t", coords={"t": np.arange(5.0)}, name="y")
    problem = uq.Calibration(one, data, uq.GaussianNoise(sd=uq.HalfNormal(1.0)))
    other = replace(one, process=one.process.scaled(np.full((2, 2), 4.0)))
    bases = tuple(replace(basis, truncation=3.0 * basis.truncation) for basis in one.bases)
    made = problem.with_surrogate(replace(other, bases=bases))
    theta = {"theta": np.linspace(0.05, 0.95, 7), "sigma": np.linspace(0.1, 1.0, 7)}
    found = problem.with_error(other, 3.0).log_likelihood(theta)
    np.testing.assert_allclose(found, made.log_likelihood(theta), rtol=1e-12)
    assert np.abs(found - problem.log_likelihood(theta)).max() > 0.1


@pytest.mark.parametrize("factor", [0.25, 1.0, 2.0])
def test_the_sd_follows_the_error_as_in_closed_form(factor: float) -> None:
    # y = theta + error + noise, a wide prior: the variance is error² + noise², whatever the datum
    error, noise = 0.3, 0.4
    problem = uq.Calibration(
        linear_surrogate(1.0, error), replicates(np.array([[0.7]]), np.array([0.5])), uq.GaussianNoise(sd=noise)
    )
    posterior = sampled(problem, 4000, seed=1, size=2000)
    found = error_scaled(problem, posterior.flat(), np.array([factor]))
    assert found is not None
    assert found.trusted
    exact = np.sqrt((factor * error**2 + noise**2) / (error**2 + noise**2))
    assert found.ratio["theta"] == pytest.approx(exact, rel=4.0 / np.sqrt(2000))
    assert abs(found.shift["theta"]) < 4.0 / np.sqrt(1000)
    assert found.scaled_most == ("theta", found.ratio["theta"])


def test_equal_weights_move_nothing() -> None:
    found = reweighted({"a": np.arange(10.0)}, np.full(10, 3.0))
    assert found.shift == {"a": pytest.approx(0.0, abs=1e-12)}
    assert found.ratio == {"a": pytest.approx(1.0)}
    assert found.k_hat == -np.inf


def test_weights_without_a_tail_are_used_as_they_are() -> None:
    few = smoothed(np.array([0.0, 0.1, 0.2, 0.3]))
    assert few.trusted
    assert np.isnan(few.k_hat)
    np.testing.assert_allclose(
        few.weights, np.exp([0.0, 0.1, 0.2, 0.3]) / np.exp([0.0, 0.1, 0.2, 0.3]).sum(), rtol=1e-12
    )
    repeated = np.concatenate([np.linspace(-1.0, -0.5, 900), np.zeros(100)])  # one draw, a hundred times
    assert smoothed(repeated).trusted
    assert not smoothed(100.0 * repeated).trusted  # it has all the weight


def judged(size: float, noise: float) -> Check:
    """Return the check of a surrogate whose runs vary `size` times as much as it states, around a precise datum."""
    x = np.linspace(0.0, 1.0, 20)[:, None]
    root = np.linalg.cholesky(matern52(x - x.T, 0.2) + 1e-12 * np.eye(20))
    scores = size * root @ np.random.default_rng(3).standard_normal((20, 1))
    surrogate = given_surrogate(x, scores, ell=0.2, variance=1.0, columns=1)
    problem = uq.Calibration(surrogate, xr.DataArray(float(scores[9, 0]), name="y"), uq.GaussianNoise(sd=noise))
    posterior = sampled(problem, 2000, 1, size=4000)
    check = check_validation(problem, posterior.flat(), np.zeros(1))
    assert check is not None
    return check


def test_errors_of_another_size_warn_where_they_change_the_posterior() -> None:
    """The linearised fraction is given as 0 throughout: it does not overrule what reweighted draws show."""
    assert judged(1.0, 0.05).status == "pass"
    large = judged(6.0, 0.002)
    assert large.status == "warn"
    assert large.value > 9.0
    assert "times the stated errors" in large.message
    small = judged(0.1, 1e-4)
    assert small.status == "warn"
    assert small.value < 0.1
    assert "Narrow the box (uq.refine(posterior, n))" in small.remedy
    # against a large noise they do not: what is understated is noted, what is overstated passes
    assert judged(6.0, 3.0).status == "note"
    assert judged(0.1, 3.0).status == "pass"


def test_where_draws_cannot_be_reweighted_the_linearised_fraction_decides() -> None:
    x = np.linspace(0.0, 1.0, 20)[:, None]
    root = np.linalg.cholesky(matern52(x - x.T, 0.2) + 1e-12 * np.eye(20))
    scores = 6.0 * root @ np.random.default_rng(3).standard_normal((20, 1))
    problem = uq.Calibration(
        given_surrogate(x, scores, ell=0.2), xr.DataArray(1.0, name="y"), uq.StudentTNoise(scale=0.5)
    )
    theta = {"theta": np.linspace(0.4, 0.6, 400)}
    assert error_scaled(problem, theta, np.ones(1)) is None
    assert check_validation(problem, theta, np.array([0.2])).status == "warn"  # type: ignore[union-attr]
    assert check_validation(problem, theta, np.array([1e-6])).status == "note"  # type: ignore[union-attr]


# --------------------------------------------------------------------------- half the stated error, of every quantity
def with_truncation(left_out: float) -> uq.Calibration:
    """Return data of 12 coordinates around theta, with `left_out` the sd of the truncation; noise is inferred."""
    rng = np.random.default_rng(2)
    basis, truncation = np.ones((12, 1)), left_out * np.eye(12)
    surrogate = given_surrogate(X, X, ell=0.5, variance=1e-4, basis=basis, truncation=truncation)
    data = xr.DataArray(0.5 + 0.05 * rng.standard_normal(12), dims="t", coords={"t": np.arange(12.0)}, name="y")
    return uq.Calibration(
        surrogate, data, uq.GaussianNoise(sd=uq.HalfNormal(0.1)), derived={"twice": lambda p: 2.0 * p["sigma"]}
    )


def on_a_grid(problem: uq.Calibration, size: int = 120) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return a grid of theta and sigma, and weights of the posterior."""
    theta, sigma = np.meshgrid(np.linspace(0.3, 0.7, size), np.linspace(5e-4, 0.2, size), indexing="ij")
    grid = {"theta": theta.ravel(), "sigma": sigma.ravel()}
    log = problem.log_likelihood(grid) + problem.priors["sigma"].log_density(grid["sigma"])
    weight = np.exp(log - log.max())
    return grid, weight / weight.sum()


def of_size(problem: uq.Calibration) -> Check:
    """Return the check with draws from the grid."""
    grid, weight = on_a_grid(problem)
    picked = np.random.default_rng(1).choice(len(weight), 4000, p=weight)
    theta = {name: values[picked] for name, values in grid.items()}
    sampled_draws = Sampled(theta, np.zeros(4000, dtype=np.int64), (4, 1000), (4, 1000))
    (check,) = size_of_error(Context(problem, replace(sampled_draws, derived={"twice": 2.0 * theta["sigma"]})))
    return check


def test_a_noise_sd_that_takes_up_an_overstated_truncation_is_found() -> None:
    problem = with_truncation(0.05)
    check = of_size(problem)
    assert "the mean of sigma moves by +" in check.message or "the mean of twice moves by +" in check.message
    # by brute force: the posterior with half the sd of all that is stated
    surrogate = problem.surrogate
    assert isinstance(surrogate, GaussianProcessSurrogate)
    halved = replace(surrogate, process=surrogate.process.scaled(np.full((1, 1), 0.25)))
    (grid, before), (_, after) = on_a_grid(problem), on_a_grid(problem.with_error(halved, 0.5))
    mean = before @ grid["sigma"]
    sd = np.sqrt(before @ (grid["sigma"] - mean) ** 2)
    assert check.value == pytest.approx((after @ grid["sigma"] - mean) / sd, abs=4.0 * 1.5 / np.sqrt(1000))
    assert check.value > 0.5
    assert check.status == ("warn" if check.value > 1.0 else "note")
    assert of_size(with_truncation(0.002)).status == "pass"


def test_the_size_of_no_error_is_not_judged() -> None:
    direct = uq.DirectSimulator(
        lambda theta: {"y": theta}, outputs={"y": ()}, space=uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0))
    )
    problem = uq.Calibration(direct, xr.DataArray(0.4, name="y"), uq.GaussianNoise(sd=0.1))
    theta = {"theta": np.linspace(0.1, 0.9, 50)}
    assert size_of_error(Context(problem, Sampled(theta, np.zeros(50, dtype=np.int64), (1, 50), (1, 50)))) == []
