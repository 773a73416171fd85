"""Draws reweighted to another size of the surrogate's error, against constructors, closed forms and brute force."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from calibration.gridded import sampled
from calibration.problems import given_surrogate, linear_surrogate, matern52, replicates

import uqms as uq
from uqms.calibration.checks import Check
from uqms.calibration.misfit import check_validation
from uqms.calibration.reweighting import error_scaled, reweighted
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
    assert "times what the surrogate says" in large.message
    small = judged(0.1, 1e-4)
    assert small.status == "warn"
    assert small.value < 0.1
    assert "narrow the box (uq.refine)" in small.remedy
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
