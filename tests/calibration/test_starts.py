"""Chains start where the posterior's mass is: narrow posteriors, two modes, several parameters in their order."""

import numpy as np
import pytest
import xarray as xr
from calibration.problems import given_surrogate, linear_surrogate, replicates
from scipy.special import ndtri

import uqms as uq
from uqms.calibration.starts import starting_points


def test_starts_are_draws_of_a_posterior_far_narrower_than_the_prior(rng: np.random.Generator) -> None:
    noise = 1e-4
    problem = uq.Calibration(
        linear_surrogate(1.0, 1e-5), replicates(np.full((1, 1), 1.7), np.array([0.5])), uq.GaussianNoise(sd=noise)
    )
    found = starting_points(problem, 200, rng)["theta"]
    sd = np.sqrt(noise**2 + 1e-10)
    assert found.mean() == pytest.approx(1.7, abs=5 * sd / np.sqrt(40))
    assert 0.5 * sd < found.std() < 1.5 * sd


def two_modes() -> uq.Calibration:
    """Return a problem whose output is (theta - 0.5)²: theta and 1 - theta fit alike."""
    x = np.linspace(0.0, 1.0, 15)[:, None]
    surrogate = given_surrogate(x, 10.0 * (x - 0.5) ** 2, ell=0.6, variance=4.0)
    return uq.Calibration(surrogate, xr.DataArray(0.9, name="y"), uq.GaussianNoise(sd=0.01))


def test_two_modes_get_starts_by_their_mass(rng: np.random.Generator) -> None:
    found = starting_points(two_modes(), 200, rng)["theta"]
    assert np.abs(np.abs(found - 0.5) - 0.3).max() < 0.02
    assert 0.25 < np.mean(found > 0.5) < 0.75


def test_chains_in_two_modes_are_told() -> None:
    posterior = two_modes().sample(uq.NUTS(chains=8, draws=200, tune=300), rng=1)
    assert posterior.verdict.status == "fail"
    assert posterior.verdict["R-hat"].status == "fail"
    assert "two modes" in posterior.verdict["R-hat"].remedy


@pytest.mark.slow
def test_narrow_posterior_of_several_parameters_and_scales_is_found() -> None:
    """Before chains started here, half of them stayed in a corner of the box; mixed-up parameters would too.

    With the scales that the runs choose the surrogate's error in the corner is larger, and 256 particles end there.
    """
    space = uq.ParameterSpace(a=uq.LogNormal(1.0, 0.5), b=uq.Uniform(-1.0, 1.0), c=uq.Beta(3.0, 3.0))
    design = uq.sobol(space, 60, rng=1)
    t = np.linspace(0.0, 1.0, 8)

    def curve(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        return np.exp(-a[:, None] * t) + b[:, None] * t + 3.0 * c[:, None] * np.sin(6.0 * t)

    curves = curve(*(design[name].values for name in "abc"))
    output = xr.DataArray(curves, dims=("run", "t"), coords={"t": t})
    surrogate = uq.GaussianProcess(scales="given").fit(uq.ensemble.build(design, {"y": output}, space=space))
    seen = curve(*(np.array([v]) for v in (1.6, 0.4, 0.3)))[0]
    data = xr.DataArray(seen, dims="t", coords={"t": t}, name="y")
    posterior = uq.Calibration(surrogate, data, uq.GaussianNoise(sd=0.002)).sample(uq.NUTS(draws=2000), rng=1)
    summary = posterior.summary()
    for name, truth in (("a", 1.6), ("b", 0.4), ("c", 0.3)):
        assert abs(summary.loc[name, "mean"] - truth) < 4 * summary.loc[name, "sd"]
    assert summary.loc["a", "sd"] < 0.05
    assert posterior.verdict["R-hat"].status == "pass"


def test_starts_of_a_wide_posterior_are_like_the_prior(rng: np.random.Generator) -> None:
    problem = uq.Calibration(
        linear_surrogate(1e-3, 1e-3), replicates(np.zeros((1, 1)), np.array([0.5])), uq.GaussianNoise(sd=10.0)
    )
    found = np.sort(starting_points(problem, 200, rng)["theta"])
    expected = ndtri((np.arange(200) + 0.5) / 200)
    assert np.abs(found - expected)[20:-20].max() < 0.5
