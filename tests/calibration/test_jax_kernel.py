"""A kernel that is a JAX function in the likelihoods, against the built-in one of the same formula and differences."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from calibration.problems import dense_covariance, given_surrogate, replicates
from scipy.stats import multivariate_normal

import uqms as uq
from uqms.calibration.population.shared_error import SharedError
from uqms.calibration.population.subject_prediction import covariances_of, featured, subjects_of
from uqms.surrogates import GaussianProcessSurrogate
from uqms.surrogates.kernels import Kernel
from uqms.surrogates.process import condition
from uqms.surrogates.training import Hyperparameters

pytest.importorskip("jax")
from surrogates.jax_kernels import Bent, Mine  # noqa: E402

SPACE = uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0)})


def surrogate_of(kernel: Kernel, hyperparameters: Any = "averaged") -> GaussianProcessSurrogate:
    design = uq.sobol(SPACE, 12, rng=1)
    y = np.sin(1.4 * design["theta"].values) + 0.35 * design["x"].values ** 2
    runs = uq.ensemble.build(design, {"y": y}, space=SPACE)
    fitted = uq.GaussianProcess(hyperparameters=hyperparameters).fit(runs)
    if isinstance(kernel, Bent):
        return uq.GaussianProcess(kernel, hyperparameters=hyperparameters).fit(runs)
    return replace(fitted, process=replace(fitted.process, kernel=kernel))  # the same numbers for both kernels


def problem_of(kernel: Kernel, noise: Any, hyperparameters: Any = "averaged") -> uq.Calibration:
    values = np.random.default_rng(8).normal(0.8, 0.05, (3, 2))
    return uq.Calibration(surrogate_of(kernel, hyperparameters), replicates(values, np.array([0.2, 0.5, 0.9])), noise)


def test_the_likelihood_is_that_of_the_built_in_kernel() -> None:
    ours, theirs = (problem_of(kernel, uq.GaussianNoise(sd=0.05)) for kernel in (Mine(), uq.Matern52()))
    assert ours.data_model.process is None
    assert theirs.data_model.process is not None
    theta = ours.prior_draws(6, 1)
    np.testing.assert_allclose(ours.log_likelihood(theta), theirs.log_likelihood(theta), rtol=1e-9)


def test_the_likelihood_is_the_normal_density_of_the_dense_covariance() -> None:
    problem = problem_of(Bent(), uq.GaussianNoise(sd=0.05), "point")
    for theta in (0.4, 0.7):
        mean, covariance = dense_covariance(problem, {"theta": theta}, np.array([0.05]))
        expected = multivariate_normal(mean, covariance).logpdf(problem.cells.z)
        assert float(problem.log_likelihood({"theta": theta})) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(
    "noise",
    [uq.GaussianNoise(sd=uq.HalfNormal(0.2)), pytest.param(uq.StudentTNoise(scale=0.05), marks=pytest.mark.slow)],
    ids=str,
)
def test_the_model_has_the_density_and_gradient_of_the_built_in_kernel(noise: Any, interpreted: None) -> None:
    found = []
    for kernel in (Mine(), uq.Matern52()):
        model = problem_of(kernel, noise).model()
        function = model.compile_fn([model.logp(), model.dlogp()], point_fn=False, inputs=model.value_vars)
        found.append(function(*(np.asarray(value) + 0.1 for value in model.initial_point().values())))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_as_tensor_has_the_law_and_the_slope_of_the_built_in_kernel(interpreted: None) -> None:
    found = []
    for kernel in (Mine(), uq.Matern52()):
        with pm.Model() as model:
            theta = pm.Uniform("theta", 0.0, 1.0, default_transform=None)
            y = uq.as_tensor(surrogate_of(kernel), {"theta": theta, "x": np.array([0.2, 0.9])})
            pm.Potential("sum", y.mean.sum() + 1e4 * y.covariance.sum())
        found.append([model.compile_logp()({"theta": 0.3}), model.compile_dlogp()({"theta": 0.3})])
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-9)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-7)


def test_draws_have_the_mean_and_sd_of_the_posterior_on_a_grid() -> None:
    problem = problem_of(Bent(), uq.GaussianNoise(sd=0.1))
    theta = np.linspace(0.0, 1.0, 801)[1:-1]
    logs = problem.log_likelihood({"theta": theta})
    weights = np.exp(logs - logs.max())
    mean = np.sum(weights * theta) / weights.sum()
    sd = np.sqrt(np.sum(weights * (theta - mean) ** 2) / weights.sum())
    posterior = problem.sample(uq.NUTS(draws=500, tune=500, chains=2), rng=1)
    draws = posterior.draws["theta"].values.ravel()
    effective = float(posterior.summary().loc["theta", "ess_bulk"])
    assert effective > 200
    assert abs(draws.mean() - mean) < 4.0 * sd / np.sqrt(effective)
    assert draws.std() == pytest.approx(sd, rel=0.2)


POPULATION = uq.ParameterSpace(a=uq.Normal(0.5, 0.05), b=uq.LogNormal(median=0.4, sigma=0.1))


def population_of(kernel: Kernel, **settings: Any) -> uq.PopulationCalibration:
    rng = np.random.default_rng(3)
    x = rng.random((12, 2))
    scores = np.column_stack([np.sin(3.0 * x[:, 0]) + x[:, 1], x[:, 1] - x[:, 0]])
    given = given_surrogate(x, scores, names=("a", "b"), ell=0.8, space=POPULATION)
    one = Hyperparameters(np.full(2, 0.8), 0.0, 1e-12, 0.0, 1, False)
    surrogate = replace(given, process=condition(kernel, x, scores, 1, [one] * 2, [1.0] * 2))
    rows = [{"id": f"s{j}", "t": t, "y": rng.normal(0.5, 0.3)} for j in range(6) for t in (0.0, 1.0)]
    data = uq.Observations.from_table(pd.DataFrame(rows), output="y", value="y", coords={"t": "t"}, subject="id")
    population = uq.Population(
        POPULATION, individual=("a", "b"), spread={"a": uq.HalfNormal(0.05), "b": uq.HalfNormal(0.1)}
    )
    noise = uq.GaussianNoise(sd=uq.HalfNormal(0.3))
    return uq.Calibration(surrogate, data, noise, population=population, outside="extrapolate", **settings)


def test_a_population_has_the_density_and_gradient_of_the_built_in_kernel(interpreted: None) -> None:
    ours, theirs = (population_of(kernel) for kernel in (Mine(), uq.Matern52()))
    theta = ours.prior_draws(3, 1)
    latents = np.random.default_rng(2).standard_normal((3, ours.latents))
    np.testing.assert_allclose(*(one.log_likelihood(theta, latents) for one in (ours, theirs)), rtol=1e-8)
    found = []
    for one in (ours, theirs):
        model = one.model()
        point = [np.asarray(value) + 0.1 for value in model.initial_point().values()]
        found.append(model.compile_fn([model.logp(), model.dlogp()], point_fn=False, inputs=model.value_vars)(*point))
    for mine, built_in in zip(*found, strict=True):
        np.testing.assert_allclose(mine, built_in, rtol=1e-7, atol=1e-7)


def test_a_population_has_features() -> None:
    """Through the surrogate's protocol: with all inputs as points, the density is that of their covariance."""
    one = population_of(Mine(), surrogate_error="exact")
    assert one.limitations.keys().isdisjoint({"predict", "new_subject", "visual_predictive_check"})
    data, theta = one.data, one.prior_draws(3, 1)
    latents = np.random.default_rng(2).standard_normal((3, one.latents))
    own = one.individuals(theta, latents)
    u, sigma, wanted = data.unit_inputs(own), data.noise.phi(own, (3,)), one.log_likelihood(theta, latents)
    for s in range(3):
        error = SharedError.through(covariances_of(data.data_model, data.cells.used), u[s])
        lowrank = featured(data.data_model, error, data.cells.used, subjects_of(data))
        found = lowrank.evaluate(u[[s]], sigma[[s]], data.cells.z)[0] + data.wall(own)[s]
        np.testing.assert_allclose(found, wanted[s], rtol=1e-7)


@pytest.mark.slow
def test_a_population_is_sampled_with_gradients() -> None:
    posterior = population_of(Mine()).sample(uq.NUTS(draws=200, tune=200, chains=2), rng=1)
    assert float(posterior.summary()["r_hat"].max()) < 1.1
