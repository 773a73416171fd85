"""Noise models of one's own in calibrations: NUTS against importance sampling, populations, simulation, files."""

import inspect
import os
import pickle
import subprocess
import sys
from pathlib import Path

import arviz as az
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from calibration import own_noise
from calibration.own_noise import Laplace
from calibration.problems import given_surrogate

import uqms as uq
from uqms.calibration import NoiseModel
from uqms.errors import InputError

X = np.random.default_rng(0).random((12, 2))
SCORES = np.column_stack([np.sin(3.0 * X[:, 0]), X[:, 0] * X[:, 1]])
BASIS = np.random.default_rng(1).standard_normal((5, 2))
SPACE = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
SURROGATE = given_surrogate(X, SCORES, basis=BASIS, names=("a", "b"), space=SPACE)


def problem(noise: NoiseModel) -> uq.Calibration:
    clean = SURROGATE.predict({"a": np.array([0.4]), "b": np.array([0.6])}).mean["y"].values[0]
    noisy = clean + 0.1 * np.random.default_rng(1).laplace(size=5)
    return uq.Calibration(SURROGATE, xr.DataArray(noisy, dims="t", coords={"t": np.arange(5.0)}, name="y"), noise)


def test_a_model_is_short() -> None:
    lines = [line for line in inspect.getsource(own_noise.Laplace).splitlines() if line.strip()]
    assert len(lines) <= 30


@pytest.mark.slow
def test_nuts_samples_the_posterior_of_importance_weights(tmp_path: Path) -> None:
    """The reference takes the arrays' density of draws of the prior, NUTS the expression's with its derivative."""
    one = problem(Laplace(uq.HalfNormal(0.3)))
    draws = 200_000
    theta = one.prior_draws(draws, 1)
    latents = np.random.default_rng(2).standard_normal((draws, one.latents))
    weight = one.log_likelihood(theta, latents)
    weight = np.exp(weight - weight.max())
    weight /= weight.sum()
    assert 1.0 / np.sum(weight**2) > 500.0
    posterior = one.sample(uq.NUTS(draws=600, tune=500), rng=1)
    for name in ("a", "b", "scale"):
        mean = float(weight @ theta[name])
        sd = float(np.sqrt(weight @ (theta[name] - mean) ** 2))
        found = posterior.draws[name].values
        assert found.mean() == pytest.approx(mean, abs=0.2 * sd)
        assert found.std() == pytest.approx(sd, rel=0.2)
    posterior.to_netcdf(tmp_path / "own.nc")
    code = (
        "import arviz as az, sys; p = az.from_netcdf(sys.argv[1])['posterior']; "
        "print(repr(float(p['scale'].sum())), 'own_noise' in ' '.join(sys.modules))"
    )
    read = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "own.nc")],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    total, imported = read.stdout.split()
    assert float(total) == pytest.approx(float(posterior.draws["scale"].sum()), rel=1e-12)
    assert imported == "False"
    assert float(az.from_netcdf(tmp_path / "own.nc")["posterior"]["scale"].sum()) == float(total)


def test_a_model_goes_to_another_process() -> None:
    model = Laplace(uq.HalfNormal(0.3))
    assert pickle.loads(pickle.dumps(model)) == model


def test_the_prior_predictive_has_the_noise() -> None:
    one = problem(Laplace(scale=0.2))
    theta = {name: np.full(40_000, 0.5) for name in ("a", "b")}
    latents = np.zeros((40_000, one.latents))
    drawn = one.simulate(theta, 1, latents)
    off = drawn - np.median(drawn, axis=0)
    # Laplace: mean absolute deviation b, variance 2 b²
    assert np.abs(off).mean(axis=0) == pytest.approx(0.2, rel=0.03)
    assert off.var(axis=0) == pytest.approx(0.08, rel=0.06)


def test_a_scale_has_the_unit_of_its_output() -> None:
    assert problem(Laplace(uq.HalfNormal(0.3))).noise.unit_of("scale") == "y"


def population(noise: NoiseModel) -> uq.PopulationCalibration:
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(
        [(f"s{j}", t, rng.normal(0.3, 0.3)) for j in range(4) for t in (0.0, 2.0, 4.0)], columns=["id", "t", "y"]
    )
    data = uq.Observations.from_table(frame, output="y", value="y", coords={"t": "t"}, subject="id")
    space = uq.ParameterSpace(a=uq.LogitNormal(0.4, 0.3), b=uq.Uniform(0.1, 0.9))
    surrogate = given_surrogate(X, SCORES, basis=BASIS, names=("a", "b"), space=space)
    individual = uq.Population(space, individual=("a",), spread={"a": uq.HalfNormal(0.2)})
    return uq.Calibration(surrogate, data, noise, population=individual, outside="extrapolate")


@pytest.mark.filterwarnings("ignore::uqms.errors.CapabilityWarning")
def test_a_population_has_the_density_of_its_rows() -> None:
    """Two problems that differ in the scale alone: their log-likelihoods differ as Laplace's law says."""
    values, draws = [], 3
    for scale in (1e6, 2e6):  # so wide that residuals say nothing: each row adds -log(2 b)
        one = population(Laplace(scale))
        theta = one.prior_draws(draws, 2)
        latents = np.random.default_rng(3).standard_normal((draws, one.latents))
        values.append(
            [one.log_likelihood({name: value[i] for name, value in theta.items()}, latents[i]) for i in range(draws)]
        )
    assert np.subtract(*values) == pytest.approx(12 * np.log(2.0), abs=1e-4)


@pytest.mark.filterwarnings("ignore::uqms.errors.CapabilityWarning")
@pytest.mark.slow
def test_nuts_samples_a_population() -> None:
    posterior = population(Laplace(uq.HalfNormal(0.3))).sample(uq.NUTS(draws=200, tune=300), rng=1)
    assert 0.05 < float(posterior.draws["scale"].mean()) < 0.8
    assert np.isfinite(posterior.predict().mean["y"]).all()
    with pytest.raises(InputError, match="closed form"):
        posterior.new_subject()


def test_what_is_no_noise_model_is_refused() -> None:
    with pytest.raises(InputError, match=r"is the class Laplace; give an instance of it, Laplace\(\.\.\.\)"):
        problem(Laplace)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"give an instance of it, uq\.GaussianNoise\(\.\.\.\)"):
        problem(uq.GaussianNoise)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"subclass of uqms\.calibration\.NoiseModel"):
        problem("laplace")  # type: ignore[arg-type]
