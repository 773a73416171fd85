"""A user's kernel in the likelihoods: value and gradient against dense matrices, NUTS and a population."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from calibration.problems import dense_covariance, replicates
from scipy.stats import multivariate_normal

import uqms as uq
from uqms.calibration.graph import model_target
from uqms.surrogates import GaussianProcessSurrogate

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


def surrogate_of(kernel: object, hyperparameters: str = "averaged") -> GaussianProcessSurrogate:
    design = uq.sobol(SPACE, 12, rng=1)
    y = np.sin(4.0 * design["theta"].values) + design["x"].values ** 2
    runs = uq.ensemble.build(design, {"y": y}, space=SPACE)
    return uq.GaussianProcess(kernel, hyperparameters=hyperparameters).fit(runs)  # type: ignore[arg-type]


def problem_of(kernel: object, hyperparameters: str = "averaged", **settings: object) -> uq.Calibration:
    values = np.random.default_rng(8).normal(0.8, 0.05, (3, 2))
    noise = settings.pop("noise", uq.GaussianNoise(sd=uq.HalfNormal(0.2)))
    data = replicates(values, np.array([0.2, 0.5, 0.9]))
    return uq.Calibration(surrogate_of(kernel, hyperparameters), data, noise=noise, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", [Cauchy(), Cauchy(1.5) + Mine() * uq.Matern32()], ids=str)
def test_the_likelihood_is_the_normal_density_of_the_dense_covariance(kernel: object) -> None:
    problem = problem_of(kernel, "point")
    for theta, sd in ((0.4, 0.2), (0.7, 0.05)):
        found = problem.log_likelihood({"theta": theta, "y_sd": sd} if "y_sd" in problem.names else {"theta": theta, "sd": sd})
        mean, covariance = dense_covariance(problem, {"theta": theta}, np.array([sd]))
        assert float(found) == pytest.approx(multivariate_normal(mean, covariance).logpdf(problem.cells.z), rel=1e-8)
