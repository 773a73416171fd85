"""Quantiles of what a calibrated simulator and a new measurement show, without the roughness of random draws.

==========  ===============================================================  =========
symbol      meaning                                                          shape
==========  ===============================================================  =========
mean        the output at P points given the data, for S posterior draws     (S, P)
sd          its standard deviation: the surrogate's error given the data     (S, P)
sigma       standard deviation of the noise                                  (S, P)
==========  ===============================================================  =========

For each draw of the parameters the output is Gaussian, so the posterior predictive is a mixture of S Gaussians whose
quantiles are found by bisection.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from uqms._typing import Array, Ints
from uqms.calibration import Posterior
from uqms.calibration.predict import Targets, conditional_moments, make_grid, own_cells

__all__ = ["LEVELS", "Bands", "bands_at", "bands_of_cells", "mixture_quantiles"]

LEVELS = (0.025, 0.25, 0.5, 0.75, 0.975)
DRAWS = 1000
BLOCK = 64  # points whose joint covariance is made at once; only its diagonal is wanted


class Bands(NamedTuple):
    """Quantiles (5, P) at LEVELS of the simulator's output and of a new measurement (None: its noise is unknown)."""

    output: Array
    measurement: Array | None


def mixture_quantiles(mean: Array, sd: Array, levels: tuple[float, ...]) -> Array:
    """Return quantiles (levels, P) of equal mixtures of S Gaussians, mean and sd (S, P)."""
    size = max(float(np.abs(mean).max(initial=0.0)), float(sd.max(initial=0.0)), 1e-300)
    sd = np.maximum(sd, 1e-12 * size)
    wanted = np.asarray(levels)[:, None]
    low = np.broadcast_to((mean - 9.0 * sd).min(axis=0), (len(levels), mean.shape[1])).copy()
    high = np.broadcast_to((mean + 9.0 * sd).max(axis=0), low.shape).copy()
    for _ in range(50):
        middle = 0.5 * (low + high)
        below = ndtr((middle[:, None, :] - mean) / sd).mean(axis=1) < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return 0.5 * (low + high)


def _draws(posterior: Posterior) -> tuple[dict[str, Array], Ints]:
    h = posterior.tree["sample_stats"]["hyperparameter_draw"].values.ravel()
    picked = np.unique(np.linspace(0, len(h) - 1, min(DRAWS, len(h))).astype(int))
    names = posterior.problem.priors
    return {name: posterior.draws[name].values.ravel()[picked] for name in names}, h[picked]


def _part(targets: Targets, rows: slice) -> Targets:
    """Return some of the points to predict, with the inputs that they belong to."""
    used, experiment = np.unique(targets.experiment[rows], return_inverse=True)
    return Targets(
        targets.conditions[used],
        experiment.reshape(-1).astype(np.int64),
        targets.offset[rows],
        targets.basis[rows],
        targets.truncation[rows],
    )


def _moments(posterior: Posterior, targets: Targets) -> tuple[Array, Array]:
    theta, h = _draws(posterior)
    size = len(targets.offset)
    mean, sd = np.empty((len(h), size)), np.empty((len(h), size))
    for start in range(0, size, BLOCK):
        points = slice(start, min(start + BLOCK, size))
        for rows, moments in conditional_moments(posterior.problem, theta, h, _part(targets, points)):
            mean[rows, points] = moments.mean
            variance = np.diagonal(moments.covariance, axis1=1, axis2=2)
            sd[rows, points] = np.sqrt(np.maximum(variance, 0.0))
    return mean, sd


def bands_at(
    posterior: Posterior, output: str, conditions: Mapping[str, object] | None, coords: Mapping[str, object] | None
) -> tuple[Bands, Array]:
    """Return the bands of an output, (5, K * points), and the conditions (K, c) that they are for."""
    problem = posterior.problem
    grid = make_grid(problem, output, conditions, coords)
    mean, sd = _moments(posterior, grid.targets)
    theta, h = _draws(posterior)
    found = problem.surrogate.layouts[output].transform.inverse(mixture_quantiles(mean, sd, LEVELS))
    groups = problem.noise
    measurement = None
    if output in groups.outputs:
        group = groups.outputs.index(output)
        cells = problem.cells
        relative = cells.row_variance[cells.group[cells.row_cell] == group]
        if np.allclose(relative, relative[0]):  # else the noise is known row by row, and that of a new one is not
            variance = groups.values(theta, (len(h),))[:, group, None] ** 2 * relative[0]
            measurement = mixture_quantiles(mean, np.sqrt(sd**2 + variance), LEVELS)
    return Bands(found, measurement), grid.targets.conditions


def bands_of_cells(posterior: Posterior) -> Bands:
    """Return the bands at the observed cells, (5, N); measurements are single ones with the cell's mean variance."""
    cells = posterior.problem.cells
    mean, sd = _moments(posterior, own_cells(cells))
    theta, h = _draws(posterior)
    count = np.bincount(cells.row_cell, minlength=len(cells.offset))
    variance = np.bincount(cells.row_cell, cells.row_variance, minlength=len(cells.offset)) / count
    sigma = posterior.problem.noise.values(theta, (len(h),))[:, cells.group]
    measurement = mixture_quantiles(mean, np.sqrt(sd**2 + sigma**2 * variance), LEVELS)
    return Bands(mixture_quantiles(mean, sd, LEVELS), measurement)
