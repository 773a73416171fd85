"""From a problem to draws with gradients: starting points, the log-density that nutpie calls, and the sampling."""

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from uqms.calibration import compiled
from uqms.calibration.base import Problem
from uqms.calibration.samplers.shared import import_beside
from uqms.calibration.starts import starting_points

if TYPE_CHECKING:
    from uqms.calibration.samplers.nuts import NUTS

__all__ = ["run"]

STARTS = 256  # points of which each chain takes one


def run(problem: Problem, sampler: "NUTS", seed: int) -> xr.DataTree:
    """Return nutpie's DataTree; without a PyMC model where compiled code knows all of the problem."""
    import_beside("nutpie")
    points = starting_points(problem, STARTS, np.random.default_rng([seed, 1]))
    target = compiled.target(problem)
    trace: xr.DataTree
    if target is None:
        from uqms.calibration import graph

        general = graph.model_target(problem.model())
        trace = sampler.sample_target(general, seed, problem.on_the_real_line(points), cautious=True)
    else:
        trace = sampler.sample_target(target, seed, compiled.on_the_line(problem, points))
    trace["starts"] = xr.Dataset(
        {name: (("start", "latent")[: values.ndim], values) for name, values in points.items()}
    )
    return trace
