"""A user's kernel in the likelihoods: value and gradient against dense matrices, NUTS and a population."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
import pytest
from calibration.problems import dense_covariance, given_surrogate, replicates
from scipy.stats import multivariate_normal

import uqms as uq
from uqms.calibration.compiled import on_the_line, target
from uqms.surrogates import GaussianProcessSurrogate
from uqms.surrogates.kernels import Stationary
from uqms.surrogates.process import condition
from uqms.surrogates.training import Hyperparameters

SPACE = uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0)})


@dataclass(frozen=True)
class Cauchy(uq.RadialKernel):
    """1 / (1 + r²)^power, as a user writes it."""

    power: float = 0.5

    def radial(self, r2: float) -> tuple[float, float]:
        base = 1.0 + r2
        return base**-self.power, -2.0 * self.power * base ** (-self.power - 1.0)


@dataclass(frozen=True)
class Mine(uq.RadialKernel):
    """Matérn 5/2 as a user writes it."""

    def radial(self, r2: float) -> tuple[float, float]:
        a = math.sqrt(5.0 * r2)
        return (1.0 + a + a * a / 3.0) * math.exp(-a), -(5.0 / 3.0) * (1.0 + a) * math.exp(-a)


def surrogate_of(
    kernel: Stationary, hyperparameters: Literal["averaged", "point"], rate: float
) -> GaussianProcessSurrogate:
    design = uq.sobol(SPACE, 12, rng=1)
    y = np.sin(rate * design["theta"].values) + 0.25 * rate * design["x"].values ** 2
    runs = uq.ensemble.build(design, {"y": y}, space=SPACE)
    return uq.GaussianProcess(kernel, hyperparameters=hyperparameters).fit(runs)


def problem_of(
    kernel: Stationary, noise: object, hyperparameters: Literal["averaged", "point"] = "averaged", rate: float = 4.0
) -> uq.Calibration:
    values = np.random.default_rng(8).normal(0.8, 0.05, (3, 2))
    data = replicates(values, np.array([0.2, 0.5, 0.9]))
    return uq.Calibration(surrogate_of(kernel, hyperparameters, rate), data, noise=noise)  # type: ignore[arg-type]


KERNELS = [Cauchy(), Cauchy(1.5) + Mine() * uq.Matern32()]


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_the_likelihood_is_the_normal_density_of_the_dense_covariance(kernel: Stationary) -> None:
    problem = problem_of(kernel, uq.GaussianNoise(sd=0.05), "point")
    for theta in (0.4, 0.7):
        mean, covariance = dense_covariance(problem, {"theta": theta}, np.array([0.05]))
        expected = multivariate_normal(mean, covariance).logpdf(problem.cells.z)
        assert float(problem.log_likelihood({"theta": theta})) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_the_density_that_is_sampled_has_the_slope_of_differences(kernel: Stationary) -> None:
    problem = problem_of(kernel, uq.GaussianNoise(sd=uq.HalfNormal(0.2)))
    assert problem.surrogate.process.draws == 16
    found = target(problem)
    assert found is not None
    for z in on_the_line(problem, problem.prior_draws(4, 5)):
        _, slope = found.evaluate(z)
        for i in range(2):
            step = 1e-4 * np.eye(2)[i]  # of steps from 1e-7 to 1e-3 the one with the smallest error of differences
            numeric = (found.evaluate(z + step)[0] - found.evaluate(z - step)[0]) / 2e-4
            assert slope[i] == pytest.approx(numeric, rel=1e-5, abs=1e-5)


def test_latent_errors_have_the_slope_of_differences(interpreted: None) -> None:
    model = problem_of(KERNELS[1], uq.StudentTNoise(scale=0.05), "point").model()
    function = model.compile_fn([model.logp(), model.dlogp()], point_fn=False, inputs=model.value_vars)
    point = [np.asarray(value) + 0.1 for value in model.initial_point().values()]
    _, slope = function(*point)
    begins = np.cumsum([0, *(value.size for value in point)])
    for i, value in enumerate(point):
        for at in np.ndindex(value.shape):
            moved = []
            for sign in (1.0, -1.0):
                other = [np.array(one) for one in point]
                other[i][at] += sign * 1e-5
                moved.append(float(function(*other)[0]))
            place = begins[i] + (np.ravel_multi_index(at, value.shape) if at else 0)
            assert slope[place] == pytest.approx((moved[0] - moved[1]) / 2e-5, rel=1e-4, abs=1e-4)


@pytest.mark.slow
def test_draws_have_the_mean_and_sd_of_the_posterior_on_a_grid() -> None:
    problem = problem_of(KERNELS[1], uq.GaussianNoise(sd=0.1), rate=1.4)  # increasing: one mode
    theta = np.linspace(0.0, 1.0, 2001)[1:-1]
    logs = problem.log_likelihood({"theta": theta})
    weights = np.exp(logs - logs.max())
    mean = np.sum(weights * theta) / weights.sum()
    sd = np.sqrt(np.sum(weights * (theta - mean) ** 2) / weights.sum())
    posterior = problem.sample(uq.NUTS(draws=1000), rng=1)
    draws = posterior.draws["theta"].values.ravel()
    effective = float(posterior.summary().loc["theta", "ess_bulk"])
    assert effective > 400
    assert abs(draws.mean() - mean) < 4.0 * sd / np.sqrt(effective)
    assert draws.std() == pytest.approx(sd, rel=0.15)


POPULATION = uq.ParameterSpace(a=uq.Normal(0.5, 0.05), b=uq.LogNormal(median=0.4, sigma=0.1))


def population_of(kernel: Stationary, surrogate_error: str) -> uq.PopulationCalibration:
    rng = np.random.default_rng(3)
    x = rng.random((12, 2))
    scores = np.column_stack([np.sin(3.0 * x[:, 0]) + x[:, 1], x[:, 1] - x[:, 0]])
    given = given_surrogate(x, scores, names=("a", "b"), ell=0.8, space=POPULATION)
    one = Hyperparameters(np.full(2, 0.8), 0.0, 1e-12, 0.0, 1, False)
    surrogate = replace(given, process=condition(kernel, x, scores, 1, [one] * 2, [1.0] * 2))
    rows = [{"id": f"s{j}", "t": t, "y": rng.normal(0.5, 0.3)} for j in range(6) for t in (0.0, 1.0)]
    data = uq.Observations.from_table(pd.DataFrame(rows), output="y", value="y", coords={"t": "t"}, subject="id")
    population = uq.Population(
        POPULATION,
        individual=("a", "b"),
        spread={"a": uq.HalfNormal(0.05), "b": uq.HalfNormal(0.1)},
    )
    return uq.Calibration(
        surrogate,
        data,
        uq.GaussianNoise(sd=uq.HalfNormal(0.3)),
        population=population,
        outside="extrapolate",
        surrogate_error=surrogate_error,
    )


@pytest.mark.parametrize("surrogate_error", ["exact", "low-rank"])
def test_a_population_has_the_density_of_the_built_in_kernel(surrogate_error: str) -> None:
    own, built_in = (population_of(kernel, surrogate_error) for kernel in (Mine(), uq.Matern52()))
    theta = own.prior_draws(3, 1)
    latents = np.random.default_rng(2).standard_normal((3, own.latents))
    ours, theirs = own.log_likelihood(theta, latents), built_in.log_likelihood(theta, latents)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


@pytest.mark.slow
def test_a_population_is_sampled_with_gradients() -> None:
    posterior = population_of(Cauchy(), "exact").sample(uq.NUTS(draws=300), rng=1)
    assert float(posterior.summary()["r_hat"].max()) < 1.05
