"""A posterior of a population with everything that figures read, without sampling."""

from dataclasses import replace

import numpy as np
import xarray as xr

from uqms.calibration.assembly import with_derived
from uqms.calibration.posterior import Posterior


def with_subjects(posterior: Posterior) -> Posterior:
    """Return the same draws with the groups of subjects and of correlations that a calibration adds."""
    draws = posterior.tree["posterior"].dataset
    shape = draws.sizes["chain"], draws.sizes["draw"]
    here = {"chain": np.arange(shape[0]), "draw": np.arange(shape[1])}
    groups = {
        "posterior": with_derived(posterior.problem, draws.assign_coords(here)),
        "latents": posterior.tree["latents"].dataset,
        **posterior.problem.of_subjects(posterior.flat(), posterior.latents, shape),
    }
    return replace(posterior, tree=xr.DataTree.from_dict(groups))
