"""A posterior of a population with everything that figures read, without sampling."""

from dataclasses import replace

import numpy as np
import xarray as xr

from uqms.calibration.population.posterior import PopulationPosterior, _of_subjects, _population


def with_subjects(posterior: PopulationPosterior) -> PopulationPosterior:
    """Return the same draws with the groups of subjects and of correlations that a calibration adds."""
    draws = posterior.tree["posterior"].dataset
    shape = draws.sizes["chain"], draws.sizes["draw"]
    here = {"chain": np.arange(shape[0]), "draw": np.arange(shape[1])}
    groups = {
        "posterior": _population(posterior.problem, draws.assign_coords(here)),
        "latents": posterior.tree["latents"].dataset,
        **_of_subjects(posterior.problem, posterior.flat(), posterior.latents, shape, here),
    }
    return replace(posterior, tree=xr.DataTree.from_dict(groups))
