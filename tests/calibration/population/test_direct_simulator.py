"""A population through a simulator without a surrogate: the density of its subjects' data against normal densities."""

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
import pytest
from scipy import stats

import uqms as uq

HOURS = np.array([0.0, 1.0, 2.0, 4.0])


def test_subjects_of_a_direct_simulator_have_normal_densities_without_surrogate_error(rng: np.random.Generator) -> None:
    space = uq.ParameterSpace(k=uq.LogNormal(median=0.5, sigma=0.5), volume=uq.LogNormal(median=10.0, sigma=0.3))
    drug = uq.DirectSimulator(
        lambda k, volume: 100.0 / volume * pt.exp(-k * HOURS),
        space=space,
        outputs={"conc": ("hour",)},
        coords={"hour": HOURS},
        backend="pytensor",
    )
    rates, volume = np.array([0.3, 0.5, 0.9]), 9.0
    means = 100.0 / volume * np.exp(-rates[:, None] * HOURS)
    values = means + 0.3 * rng.standard_normal(means.shape)
    table = pd.DataFrame({"who": np.repeat(["a", "b", "c"], 4), "h": np.tile(HOURS, 3), "mg": values.ravel()})
    data = uq.Observations.from_table(table, output="conc", value="mg", coords={"hour": "h"}, subject="who")
    population = uq.Population(space, individual=("k",))
    problem = uq.Calibration(drug, data, uq.GaussianNoise(sd=0.3), population=population)
    with pm.Model() as model:
        k = pm.LogNormal("k", np.log(0.5), 0.3, shape=3)
        uq.observe(problem, {"k": k, "volume": volume}, name="data")
    found = model.compile_logp(vars=[model["data"]])({"k_log__": np.log(rates)})
    assert float(found) == pytest.approx(stats.norm(means, 0.3).logpdf(values).sum(), rel=1e-9)
