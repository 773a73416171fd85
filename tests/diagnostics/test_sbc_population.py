"""Simulation-based calibration of populations: eight subjects, the surrogate's error above the noise."""

import numpy as np
import pandas as pd
import pytest
from calibration.problems import given_surrogate

import uqms as uq
from uqms.diagnostics import (
    ImportanceSampler,
    RankStatistics,
    TemperedSampler,
    simulation_based_calibration,
)
from uqms.errors import InputError

SPACE = uq.ParameterSpace(a=uq.Normal(0.5, 0.2), conditions={"x": uq.Condition(0.0, 1.0)})
NOISE = 0.1


@pytest.fixture(scope="module")
def problem() -> uq.PopulationCalibration:
    x = np.random.default_rng(3).random((6, 2))
    surrogate = given_surrogate(x, 2.0 * x[:, :1] + np.sin(3.0 * x[:, 1:]), names=("a", "x"), ell=0.7, space=SPACE)
    frame = pd.DataFrame(
        {"id": [f"s{j}" for j in range(8)], "x": np.tile([0.1, 0.4, 0.6, 0.9], 2), "y": np.linspace(1.2, 1.9, 8)}
    )
    data = uq.Observations.from_table(frame, output="y", value="y", conditions=["x"], subject="id")
    population = uq.Population(SPACE, individual=("a",), spread=uq.LogNormal(median=0.06, sigma=0.4))
    return uq.Calibration(surrogate, data, uq.GaussianNoise(sd=NOISE), population=population, outside="extrapolate")


def ranked(problem: uq.PopulationCalibration, n: int = 50, **settings: object) -> RankStatistics:
    sampler = TemperedSampler(particles=400)
    return simulation_based_calibration(problem, n, sampler=sampler, rng=1, **settings)


def test_the_surrogate_matters(problem: uq.PopulationCalibration) -> None:
    own = problem.individuals(problem.prior_draws(100, 1), np.random.default_rng(1).standard_normal((100, 8)))
    scores = problem.surrogate.scores(problem.data.unit_inputs(own))
    sd = np.sqrt(np.diagonal(scores.covariance[0, :, 0], axis1=1, axis2=2).mean())
    assert 1.0 < sd / NOISE < 4.0


@pytest.mark.slow
def test_populations_are_calibrated(problem: uq.PopulationCalibration) -> None:
    found = ranked(problem, quantities={"largest": lambda draws, one: draws["latents"].max(axis=1)})
    assert found.quantities == ("a", "omega_a", "a[s0]", "log_likelihood", "misfit", "largest")
    assert found.passed, str(found)
    assert found.fits["ess"].min() > 99


def test_what_samplers_cannot_do_is_said(problem: uq.PopulationCalibration) -> None:
    with pytest.raises(InputError, match="latents"):
        simulation_based_calibration(problem, 10, sampler=ImportanceSampler(), rng=1)
    with pytest.raises(InputError, match=r"names \['a\[s0\]'\] are taken"):
        simulation_based_calibration(problem, 10, rng=1, quantities={"a[s0]": lambda draws, one: draws["a"]})
