"""Counts of a surrogate whose mean may be negative: refused, or ruled out in density and draws alike."""

import math

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from calibration.problems import linear_surrogate
from calibration.test_noise_models import COUNTS, curve, observed
from scipy import stats

import uqms as uq
from uqms.calibration.noise import NoiseModel
from uqms.calibration.predict import Moments, NewNoise, predicted
from uqms.diagnostics import simulation_based_calibration
from uqms.errors import InputError
from uqms.surrogates.transforms import IDENTITY

MEAN, ERROR = 3.0, 1.4  # P(mean < 0) is 1.6 %
NEGATIVE = stats.norm(MEAN, ERROR).cdf(0.0)
ONE = pd.DataFrame({"y": [2.0], "x": [0.5]})


def counts(error: float = ERROR) -> uq.Calibration:
    surrogate = linear_surrogate(1.0, error, prior=uq.Normal(MEAN, 0.01))
    data = uq.Observations.from_table(ONE, output="y", value="y", conditions=["x"])
    return uq.Calibration(surrogate, data, uq.PoissonNoise())


@pytest.mark.parametrize("noise", [uq.PoissonNoise(), uq.NegativeBinomialNoise(0.3)])
def test_means_that_are_often_negative_are_refused(noise: NoiseModel) -> None:
    with pytest.raises(InputError, match=r"of 'y': somewhere the mean is negative at \d+% .*transform=uq.Log\(\)"):
        uq.Calibration(curve(), observed(COUNTS), noise)
    with pytest.raises(InputError, match="limit 5%"):
        counts(2.5)
    uq.Calibration(curve(uq.Log()), observed(COUNTS), noise)


def test_means_that_are_no_probability_are_refused() -> None:
    with pytest.raises(InputError, match=r"mean is outside of 0 to 1 at .*transform=uq.Logit\(\)"):
        uq.Calibration(curve(IDENTITY), observed(COUNTS), uq.BinomialNoise(9))


def test_simulated_counts_have_the_law_of_the_density() -> None:
    """p(z | theta) is the integral of the density over the error, over the mass where a count is possible."""
    problem, count = counts(), 40_000
    drawn = problem.simulate({"theta": np.full(count, MEAN)}, 1)[:, 0]
    assert np.isfinite(drawn).all()
    eta = np.linspace(-6.0, 6.0, 2001)
    weight = stats.norm.pdf(eta) * (eta[1] - eta[0])
    latents = np.zeros((len(eta), problem.latents))
    latents[:, 0] = eta
    theta = {"theta": np.full(len(eta), MEAN)}
    expected = []
    for z in range(12):
        density = np.exp(problem.with_values(np.array([float(z)])).log_likelihood(theta, latents))
        assert np.all(density[eta < -MEAN / ERROR - 1e-9] == 0.0)
        expected.append(weight @ density / (1.0 - NEGATIVE))
    found = np.bincount(drawn.astype(int), minlength=12)[:12] / count
    error = np.sqrt(np.array(expected) / count)
    assert np.abs((found - expected) / error).max() < 4.5
    # and the mean is that of the cut normal, which a clip at 0 would miss by 10 standard errors and more
    cut = stats.truncnorm(-MEAN / ERROR, np.inf, MEAN, ERROR).mean()
    assert abs(drawn.mean() - cut) < 4.0 * drawn.std() / math.sqrt(count)


def test_given_latents_that_are_impossible_have_no_data() -> None:
    problem = counts()
    latents = np.full((2, problem.latents), -4.0)
    theta = {"theta": np.full(2, MEAN)}
    assert np.isnan(problem.simulate(theta, 1, latents)).all()
    assert np.isneginf(problem.log_likelihood(theta, latents)).all()


@pytest.mark.slow
def test_simulation_based_calibration_goes_through() -> None:
    found = simulation_based_calibration(counts(), 15, rng=1)
    assert found.passed, str(found)


def predicts(mean: float) -> np.ndarray:
    count = 20_000
    noise = NewNoise(
        lambda y, phi, rng: np.where(y >= 0.0, rng.poisson(np.maximum(y, 0.0)), np.nan),
        None,
        lambda theta: np.zeros((count, 0)),
        lambda y: y >= 0.0,
    )
    moments = Moments(np.full((count, 1), mean), np.full((count, 1, 1), ERROR**2))
    return predicted(moments, IDENTITY, noise, {}, np.random.default_rng(0))[2]


def test_predicted_counts_are_those_of_possible_means() -> None:
    drawn = predicts(MEAN)
    cut = stats.truncnorm(-MEAN / ERROR, np.inf, MEAN, ERROR).mean()
    assert abs(drawn.mean() - cut) < 4.0 * drawn.std() / math.sqrt(len(drawn))
    with pytest.raises(InputError, match="predict: at .* posterior draws the mean of a count"):
        predicts(-30.0)


def test_a_posterior_of_counts_predicts_counts() -> None:
    posterior = counts().sample(uq.SMC(particles=300), rng=1)
    found = posterior.predict(noise=True, draws=500)
    assert np.isfinite(found.draws["y"]).all()
    assert isinstance(found.draws, xr.Dataset)
    assert np.isfinite(posterior.tree["posterior_predictive"]["value"]).all()
