"""Calibration through two levels of fidelity against the posterior of the exact simulator, on a grid and by NUTS."""

import numpy as np
import pandas as pd
import pytest

import uqms as uq
from uqms.surrogates.fidelity import nonlinear

HOURS = np.array([0.5, 1.0, 2.0, 3.0, 5.0, 8.0])
SPACE = uq.ParameterSpace(ke=uq.LogNormal(median=0.4, sigma=0.3), ka=uq.LogNormal(median=1.8, sigma=0.3))
TRUTH = {"ke": 0.47, "ka": 1.6}
NOISE = 0.02
BOX = SPACE.box()


def fine(ke, ka):
    """Absorption and elimination, exactly."""
    ke, ka = np.asarray(ke)[..., None], np.asarray(ka)[..., None]
    return ka / (ka - ke) * (np.exp(-ke * HOURS) - np.exp(-ka * HOURS))


def coarse(ke, ka):
    """The same by explicit Euler steps of a quarter of an hour."""
    gut, blood, out = np.ones_like(ke), np.zeros_like(ke), []
    for step in range(1, int(HOURS[-1] * 4) + 1):
        gut, blood = gut - 0.25 * ka * gut, blood + 0.25 * (ka * gut - ke * blood)
        if np.isclose(step / 4, HOURS).any():
            out.append(blood)
    return np.stack(out, axis=-1)


def unrelated(ke, ka):
    """Curves that turn with the parameters in ways of their own."""
    ke, ka = np.asarray(ke)[..., None], np.asarray(ka)[..., None]
    return np.sin(9.0 * ke * ka + HOURS) + np.cos(7.0 * ka)


def fitted(lower, runs, settings=uq.MultiFidelity):
    designs = uq.nested(SPACE, dict(zip(("coarse", "fine"), runs, strict=True)), rng=1)
    parts = []
    for level, function in (("coarse", lower), ("fine", fine)):
        ke, ka = (designs[level][name].values for name in SPACE.inputs)
        parts.append(uq.ensemble.build(designs[level], {"c": ("hour", function(ke, ka), HOURS)}, fidelity=level))
    return settings(levels=("coarse", "fine")).fit(uq.ensemble.combine(*parts))


def calibration(surrogate):
    data = fine(**TRUTH) + NOISE * np.random.default_rng(3).standard_normal(len(HOURS))
    observations = uq.Observations.from_table(
        pd.DataFrame({"c": data, "hour": HOURS}), output="c", value="c", coords={"hour": "hour"}
    )
    return uq.Calibration(surrogate, observations, noise=uq.GaussianNoise(sd=NOISE), space=SPACE), data


GRID = np.stack(np.meshgrid(*(np.linspace(0.01, 0.99, 40),) * 2, indexing="ij"), axis=-1).reshape(-1, 2)


def moments(log_likelihood):
    """Return mean and sd of the logarithms of both parameters."""
    x = BOX.from_unit(GRID)
    log = log_likelihood + SPACE.log_density(x) - np.log(np.abs(BOX.unit_gradient(x))).sum(axis=-1)
    weights = np.exp(log - log.max())
    weights /= weights.sum()
    mean = weights @ np.log(x)
    return mean, np.sqrt(weights @ (np.log(x) - mean) ** 2)


def through(problem):
    x = BOX.from_unit(GRID)
    return moments(problem.log_likelihood(dict(zip(SPACE.inputs, x.T, strict=True))))


def exact(data):
    x = BOX.from_unit(GRID)
    return moments(-0.5 * np.sum(((data - fine(x[:, 0], x[:, 1])) / NOISE) ** 2, axis=-1))


@pytest.mark.parametrize(
    "settings", [uq.MultiFidelity, pytest.param(uq.NonlinearMultiFidelity, marks=pytest.mark.slow)]
)
def test_few_fine_runs_and_many_coarse_ones_give_the_exact_posterior(settings, monkeypatch):
    monkeypatch.setattr(nonlinear, "MEMBERS", 8)
    problem, data = calibration(fitted(coarse, (32, 8), settings))
    mean, sd = through(problem)
    wanted, wanted_sd = exact(data)
    assert (np.abs(mean - wanted) < 0.2 * wanted_sd).all()
    assert (sd / wanted_sd > 0.8).all()
    assert (sd / wanted_sd < 1.25).all()


@pytest.mark.slow
def test_a_misleading_lower_level_makes_it_wider_not_wrong():
    problem, data = calibration(fitted(unrelated, (40, 16)))
    mean, sd = through(problem)
    wanted, wanted_sd = exact(data)
    assert (np.abs(mean - wanted) < 0.2 * np.maximum(sd, wanted_sd)).all()
    assert (sd / wanted_sd > 0.8).all()
    few, _ = calibration(fitted(unrelated, (40, 7)))
    mean, sd = through(few)
    assert (np.abs(mean - wanted) < 2.0 * sd).all()
    assert (sd > 0.95 * wanted_sd).all()
