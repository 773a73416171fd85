"""Posteriors of every kind, small: draws that are given where that is possible, else a few draws of a sampler."""

import warnings
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import xarray as xr
from calibration import test_chain, test_dosing, test_parts, test_posterior
from calibration.population import test_population

import uqms as uq
from uqms.errors import UqmsWarning


class Given:
    """A sampler that returns draws in two chains."""

    def __init__(self, **theta: np.ndarray) -> None:
        self.theta = theta

    def run(self, problem: Any, seed: int) -> xr.DataTree:
        rng, count = np.random.default_rng(seed), len(next(iter(self.theta.values())))
        draws = {name: (("chain", "draw"), values.reshape(2, -1)) for name, values in self.theta.items()}
        if problem.latents:
            z = rng.standard_normal((2, count // 2, problem.latents))
            draws["latents"] = (("chain", "draw", "latent"), z)
        return xr.DataTree.from_dict({"posterior": xr.Dataset(draws)})


def problem(**options: Any) -> uq.Calibration:
    """Return the calibration of a curve under two conditions and a number."""
    made = test_posterior.surrogate()
    bases = tuple(replace(one, left_out=np.zeros((len(made.process.x), 0))) for one in made.bases)
    surrogate = replace(made, bases=bases)
    noise = {"conc": uq.GaussianNoise(sd=uq.HalfNormal(0.5)), "peak": uq.GaussianNoise()}
    derived = {"half_life": uq.Derived(lambda p: np.log(2.0) / p["rate"], unit="h")}
    return uq.Calibration(surrogate, test_posterior.observations(), noise, derived=derived, **options)


def draws() -> dict[str, np.ndarray]:
    """Return 800 independent draws of it, about where the posterior is."""
    rng = np.random.default_rng(8)
    names = {"rate": rng.normal(0.4, 0.02, 800), "volume": rng.normal(0.6, 0.03, 800)}
    return names | {"sigma_conc": rng.uniform(0.07, 0.13, 800)}


@cache
def one() -> uq.Posterior:
    """Return that of one subject."""
    return problem().sample(Given(**draws()), rng=1)


@cache
def parts() -> uq.Posterior:
    """Return that of two simulators with one parameter in common."""
    return test_parts.joint().sample(Given(theta=np.random.default_rng(1).normal(0.4, 0.3, 400)), rng=1)


@cache
def chain() -> uq.Posterior:
    """Return that of two scales."""
    made, mean, sd = test_chain.linear_problem()
    return made.sample(Given(g=np.random.default_rng(1).normal(mean, sd, 400)), rng=1)


def decay() -> uq.Calibration:
    """Return the calibration of a rate, with the simulator itself."""
    days = np.array([0.0, 1.0, 2.0, 4.0])
    space = uq.ParameterSpace(rate=uq.LogNormal(median=0.5, sigma=0.5, unit="1/day"))
    simulator = uq.DirectSimulator(
        lambda rate: np.exp(-rate * days), space=space, outputs={"amount": ("day",)}, coords={"day": days}
    )
    data = xr.DataArray([1.02, 0.61, 0.38, 0.11], dims="day", coords={"day": days}, name="amount")
    return uq.Calibration(simulator, data, uq.GaussianNoise(sd=uq.HalfNormal(0.2)))


def of_decay(apart: float = 0.0) -> dict[str, np.ndarray]:
    """Return 800 draws of it; the second chain is `apart` from the first."""
    rng = np.random.default_rng(9)
    rate = rng.normal(0.5, 0.02, 800) + np.repeat([0.0, apart], 400)
    return {"rate": rate, "sigma": rng.uniform(0.02, 0.06, 800)}


@cache
def direct() -> uq.Posterior:
    """Return that of a simulator in the place of a surrogate."""
    return decay().sample(Given(**of_decay()), rng=1)


@cache
def failing() -> uq.Posterior:
    """Return chains that sit in different places."""
    return decay().sample(Given(**of_decay(0.3)), rng=1)


@cache
def population() -> uq.Posterior:
    """Return that of several subjects."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UqmsWarning)
        made = test_population.problem()
        return made.sample(Given(**made.prior_draws(200, 1)), rng=1)


@cache
def regimens() -> uq.Posterior:
    """Return that of patients with different regimens."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UqmsWarning)
        data = test_dosing.study(3)
        superposed = uq.Superposition(test_dosing.fitted(40), data.regimens, tolerance=0.3)
        made = uq.Calibration(
            superposed,
            data,
            uq.GaussianNoise(sd=test_dosing.NOISE),
            population=test_dosing.POPULATION,
            outside="extrapolate",
        )
        return made.sample(Given(**made.prior_draws(100, 1)), rng=1)


KINDS: dict[str, Any] = {
    "one": one,
    "failing": failing,
    "parts": parts,
    "chain": chain,
    "direct": direct,
    "population": population,
    "regimens": regimens,
}
