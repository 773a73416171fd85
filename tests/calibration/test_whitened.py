"""The space where the prior is a standard normal: there and back, its density, and latents as the last columns."""

import numpy as np
import pytest
import xarray as xr
from calibration.problems import FakeProblem, given_surrogate
from scipy.stats import kstest, norm

import uqms as uq
from uqms.calibration.whitened import Whitened


def problem() -> uq.Calibration:
    """Return a problem whose priors reach beyond the box [0, 1]² a little, with unknown noise."""
    x = np.random.default_rng(1).random((20, 2))
    space = uq.ParameterSpace(a=uq.TruncatedNormal(0.5, 0.2, low=0.0), b=uq.Beta(2.0, 3.0))
    surrogate = given_surrogate(x, x.sum(axis=1)[:, None], names=("a", "b"), space=space)
    return uq.Calibration(surrogate, xr.DataArray(1.1, name="y"), uq.GaussianNoise(sd=uq.HalfNormal(0.3)))


def test_standard_normals_become_draws_of_the_conditioned_prior(rng: np.random.Generator) -> None:
    calibration = problem()
    space = Whitened(calibration)
    theta = space.theta(rng.standard_normal((4000, 3)))
    assert space.dimension == 3
    for name, prior in calibration.priors.items():
        low, high = calibration.limits(name)
        assert low <= theta[name].min() <= theta[name].max() <= high
        ends = prior.cdf(low), prior.cdf(high)
        assert kstest((prior.cdf(theta[name]) - ends[0]) / (ends[1] - ends[0]), "uniform").pvalue > 1e-3


def test_there_and_back(rng: np.random.Generator) -> None:
    space = Whitened(problem())
    z = rng.uniform(-4.0, 4.0, (50, 3))
    np.testing.assert_allclose(space.from_theta(space.theta(z)), z, atol=1e-9)


def test_density_is_that_of_likelihood_and_prior(rng: np.random.Generator) -> None:
    calibration = problem()
    space = Whitened(calibration)
    z = rng.standard_normal((10, 3))
    expected = calibration.log_likelihood(space.theta(z))
    np.testing.assert_allclose(space.log_likelihood(z), expected)
    np.testing.assert_allclose(space.log_density(z), expected + norm.logpdf(z).sum(axis=1))


def test_latents_are_the_last_columns_and_no_likelihood_is_minus_infinity(rng: np.random.Generator) -> None:
    fake = FakeProblem(
        lambda theta, latents: np.where(theta["a"] > 0.0, theta["a"] + 10.0 * latents[:, 1], np.nan), 1, 2
    )
    space = Whitened(fake)  # type: ignore[arg-type]
    z = rng.standard_normal((20, 3))
    assert space.dimension == 3
    np.testing.assert_allclose(space.log_likelihood(z), np.where(z[:, 0] > 0.0, z[:, 0] + 10.0 * z[:, 2], -np.inf))


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_ends_of_the_prior_are_infinite(end: float) -> None:
    z = Whitened(problem()).from_theta({"a": np.array([0.5]), "b": np.array([end]), "sigma": np.array([0.1])})
    assert z[0, 1] == (-np.inf if end == 0.0 else np.inf)
