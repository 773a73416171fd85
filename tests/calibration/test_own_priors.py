"""Priors of one's own in calibrations: likelihood, the PyMC model with derivatives, NUTS, a population, noise."""

from typing import Any

import numpy as np
import pandas as pd
import pytensor
import pytest
import xarray as xr
from calibration.problems import given_surrogate
from parameters.own_priors import OwnLogNormal, Triangular, Weibull
from scipy.stats import norm

import uqms as uq
from uqms.calibration import bridge
from uqms.calibration.compiled import target
from uqms.parameters.functions import NumPyFunctions

RNG = np.random.default_rng(0)
X = RNG.random((12, 2))
CURVES = np.column_stack([np.sin(3.0 * X[:, 0]), X[:, 0] * X[:, 1], np.cos(2.0 * X[:, 1])])
BASIS = RNG.standard_normal((7, 3))
OWN = {"a": Triangular(0.0, 0.3, 1.0), "b": OwnLogNormal(0.5, 0.2)}
SD = Weibull(1.5, 0.2)


def problem(priors: dict[str, uq.Prior], sd: uq.Prior) -> uq.Calibration:
    space = uq.ParameterSpace(**priors)
    surrogate = given_surrogate(X, CURVES, basis=BASIS, names=("a", "b"), space=space)
    values = surrogate.predict({"a": np.array([0.4]), "b": np.array([0.6])}).mean["y"].values[0]
    noisy = values + 0.1 * np.random.default_rng(1).standard_normal(7)
    data = xr.DataArray(noisy, dims="t", coords={"t": np.arange(7.0)}, name="y")
    return uq.Calibration(surrogate, data, uq.GaussianNoise(sd=sd))


def test_the_same_prior_gives_the_same_posterior_density() -> None:
    """With a prior of one's own the model is a PyTensor graph, with the library's the compiled density."""
    own = problem({"a": uq.Uniform(0.0, 1.0), "b": OwnLogNormal(0.5, 0.2)}, uq.HalfNormal(0.3))
    library = problem({"a": uq.Uniform(0.0, 1.0), "b": uq.LogNormal(0.5, 0.2)}, uq.HalfNormal(0.3))
    theta = own.prior_draws(4, 1)
    np.testing.assert_allclose(theta["b"], library.prior_draws(4, 1)["b"], rtol=1e-9)
    np.testing.assert_allclose(own.log_likelihood(theta), library.log_likelihood(theta), rtol=1e-12)
    assert target(own) is None
    compiled = target(library)
    assert compiled is not None
    model = own.model()
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        density = model.compile_fn([model.logp(), model.dlogp()], point_fn=False, inputs=model.value_vars)
    line = own.on_the_real_line({**theta, "latents": np.zeros((4, 0))})
    for z in line:
        value, gradient = density(*z)
        expected, slope = compiled.evaluate(z)
        assert float(value) == pytest.approx(expected, rel=1e-9)
        np.testing.assert_allclose(gradient, slope, rtol=1e-7, atol=1e-7 * np.abs(slope).max())


def test_the_model_has_the_density_of_own_priors_and_its_derivative() -> None:
    one = problem(OWN, SD)
    theta = one.prior_draws(5, 2)
    model = one.model()
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        density = model.compile_fn([model.logp(), model.dlogp()], point_fn=False, inputs=model.value_vars)
        plain = model.compile_fn(model.logp(jacobian=False), point_fn=False, inputs=model.value_vars)
    line = one.on_the_real_line({**theta, "latents": np.zeros((5, 0))})
    expected = one.log_likelihood(theta) + np.sum(list(one.conditioned_prior.log_terms(theta).values()), axis=0)
    for z, value in zip(line, expected, strict=True):
        assert float(plain(*z)) == pytest.approx(value, rel=1e-9, abs=1e-9)
        h = 1e-5
        finite = [(density(*(z + h * e))[0] - density(*(z - h * e))[0]) / (2.0 * h) for e in np.eye(3)]
        np.testing.assert_allclose(density(*z)[1], finite, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_nuts_samples_the_same_posterior() -> None:
    own = problem({"a": uq.Uniform(0.0, 1.0), "b": OwnLogNormal(0.5, 0.2)}, uq.HalfNormal(0.3))
    library = problem({"a": uq.Uniform(0.0, 1.0), "b": uq.LogNormal(0.5, 0.2)}, uq.HalfNormal(0.3))
    found, expected = (one.sample(uq.NUTS(draws=500, tune=400), rng=1).draws for one in (own, library))
    for name in ("a", "b", "sigma"):
        first, second = found[name].values.ravel(), expected[name].values.ravel()
        assert first.mean() == pytest.approx(second.mean(), abs=0.15 * second.std())
        assert first.std() == pytest.approx(second.std(), rel=0.15)


def population(**settings: Any) -> uq.PopulationCalibration:
    frame = pd.DataFrame(
        [(f"s{j}", t, RNG.normal(0.3, 0.3)) for j in range(4) for t in (0.0, 2.0, 5.0)], columns=["id", "t", "y"]
    )
    space = uq.ParameterSpace(a=Triangular(0.2, 0.4, 0.8), b=Triangular(0.2, 0.5, 0.7))
    surrogate = given_surrogate(X, CURVES, basis=BASIS, names=("a", "b"), space=space)
    data = uq.Observations.from_table(frame, output="y", value="y", coords={"t": "t"}, subject="id")
    individual = uq.Population(space, individual=("a",), spread={"a": OwnLogNormal(0.04, 0.3)})
    return uq.Calibration(surrogate, data, uq.GaussianNoise(sd=SD), population=individual, **settings)


@pytest.mark.slow
def test_the_model_of_a_population_has_the_same_density() -> None:
    one = population(outside="extrapolate")
    model = one.model()
    theta, z = one.prior_draws(3, 2), np.random.default_rng(5).standard_normal((3, one.latents))
    x, _ = one.layout.standardised(z)
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        density = model.compile_logp(jacobian=False)
    lines = bridge.real_lines(one.conditioned_prior)
    prior = np.sum(list(one.conditioned_prior.log_terms(theta).values()), axis=0)
    for i in range(3):
        point = {
            model.rvs_to_values[model[name]].name: np.asarray(line.point(theta[name][i], NumPyFunctions, {}))
            for name, line in lines.items()
        }
        point["effect_a"] = x[i, :, 0]
        wanted = prior[i] + norm.logpdf(z[i]).sum()
        wanted += one.log_likelihood({name: values[i] for name, values in theta.items()}, z[i])
        assert float(density(point)) == pytest.approx(wanted, rel=1e-8)


@pytest.mark.slow
def test_nuts_samples_a_population() -> None:
    posterior = population(outside="extrapolate").sample(uq.NUTS(draws=200, tune=300), rng=1)
    low, high = posterior.draws["a"].values.min(), posterior.draws["a"].values.max()
    assert 0.2 <= low < high <= 0.8
    assert posterior.draws["omega_a"].values.min() > 0.0
