"""Small populations with a surrogate whose error is as large as the noise: what `populations.py` looks at."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

import uqms as uq

TIMES = np.array([0.0, 1.0, 2.0])
CONDITIONS = (0.1, 0.35, 0.65, 0.9)


@cache
def curve_surrogate(runs: int = 14) -> tuple[uq.Surrogate, uq.ParameterSpace]:
    """Return the surrogate of a curve of an individual parameter, a shared one and a condition; few runs."""
    space = uq.ParameterSpace(
        a=uq.Normal(1.0, 0.15), b=uq.LogNormal(median=0.7, sigma=0.15), conditions={"x": uq.Condition(0.0, 1.0)}
    )
    population = uq.Population(space, individual=("a", "b"), spread={"a": 0.2, "b": 0.2})
    design = uq.sobol(population.box(), runs, rng=1)
    a, b, x = (design[name].values[:, None] for name in ("a", "b", "x"))
    y = 1.5 * np.sin(1.2 * a + x) * np.exp(-b * TIMES) + 0.3 * a * TIMES * x
    curves = xr.DataArray(y, dims=("run", "t"), coords={"t": TIMES})
    settings = uq.GaussianProcess(outputs={"y": uq.Curve(max_scores=2)}, hyperparameters="point")
    return settings.fit(uq.ensemble.build(design, {"y": curves})), space


def table(subjects: int, missing: float = 0.2, seed: int = 1) -> uq.Observations:
    """Return the layout of measurements, four conditions in turn, some missing; values are to be replaced."""
    rng = np.random.default_rng(seed)
    rows = [
        {"id": f"s{j:03d}", "t": t, "x": CONDITIONS[j % len(CONDITIONS)], "y": 0.5 + 0.1 * t}
        for j in range(subjects)
        for t in TIMES
        if t == TIMES[j % 3] or rng.random() > missing
    ]
    return uq.Observations.from_table(
        pd.DataFrame(rows), output="y", value="y", coords={"t": "t"}, conditions=["x"], subject="id"
    )


def small(*, centred: bool, **settings: Any) -> uq.PopulationCalibration:
    """Return a population of eight subjects in which two parameters differ."""
    surrogate, space = curve_surrogate()
    spread = {"a": uq.LogNormal(median=0.12, sigma=0.25), "b": uq.LogNormal(median=0.12, sigma=0.25)}
    population = uq.Population(space, individual=("a", "b"), spread=spread, centred=centred, **settings)
    return uq.Calibration(surrogate, table(8), uq.GaussianNoise(sd=0.03), population=population)
