"""Quantiles of what a calibrated simulator and a new measurement show, without the roughness of random draws.

==========  ===============================================================  =========
symbol      meaning                                                          shape
==========  ===============================================================  =========
mean        the output at P points given the data, for S posterior draws     (S, P)
sd          its standard deviation: the surrogate's error given the data     (S, P)
sigma       standard deviation of the noise                                  (S, P)
==========  ===============================================================  =========

For each draw of the parameters the output is Gaussian (on the scale of its transform), so the posterior predictive is a
mixture of S Gaussians whose quantiles are found by bisection.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from uqms._typing import Array
from uqms.calibration import Posterior
from uqms.calibration.density import correlated_noise, draw_rows
from uqms.calibration.discrepancy import NOISE
from uqms.calibration.posterior import thinned
from uqms.calibration.predict import (
    NewNoise,
    Targets,
    conditional_moments,
    make_grid,
    new_noise,
    own_cells,
)
from uqms.errors import InputError
from uqms.surrogates.transforms import Identity, Transform

__all__ = ["LEVELS", "Bands", "bands_at", "bands_of_cells", "mixture_quantiles"]

LEVELS = (0.025, 0.25, 0.5, 0.75, 0.975)
DRAWS = 1000
REPEATS = 10  # draws of the noise for each posterior draw, where it is not normal
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


def _part(targets: Targets, rows: slice) -> Targets:
    """Return some of the points to predict, with the inputs that they belong to."""
    used, experiment = np.unique(targets.experiment[rows], return_inverse=True)
    return Targets(
        targets.conditions[used],
        experiment.reshape(-1).astype(np.int64),
        targets.output[rows],
        {dim: column[rows] for dim, column in targets.coords.items()},
        targets.offset[rows],
        targets.basis[rows],
        targets.truncation[rows],
        observed=None if targets.observed is None else targets.observed[used],
        group=None if targets.group is None else targets.group[rows],
    )


def _moments(posterior: Posterior, targets: Targets) -> tuple[Array, Array]:
    """Return mean and sd (S, P) of the latent output, on the scale on which it is normal."""
    theta, h, latents = thinned(posterior, DRAWS)
    size = len(targets.offset)
    mean, sd = np.empty((len(h), size)), np.empty((len(h), size))
    for start in range(0, size, BLOCK):
        points = slice(start, min(start + BLOCK, size))
        part = _part(targets, points)
        for rows, moments in conditional_moments(posterior.single, theta, h, part, latents):
            mean[rows, points] = moments.mean
            sd[rows, points] = np.sqrt(moments.variance)
    return mean, sd


def _measured(noise: NewNoise, theta: Mapping[str, Array], mean: Array, sd: Array, transform: Transform) -> Array:
    """Return quantiles (5, P) of a new measurement: of the mixture when its noise is normal, else of draws."""
    phi = noise.phi(theta)
    if noise.variance is not None:
        total = np.sqrt(sd**2 + noise.variance(phi)[:, None])
        return np.asarray(transform.inverse(mixture_quantiles(mean, total, LEVELS)))
    rng = np.random.default_rng(0)
    drawn = [noise.draw(mean + sd * rng.standard_normal(mean.shape), phi, rng) for _ in range(REPEATS)]
    return np.quantile(np.concatenate(drawn), LEVELS, axis=0)


def bands_at(
    posterior: Posterior, output: str, conditions: Mapping[str, object] | None, coords: Mapping[str, object] | None
) -> tuple[Bands, Array]:
    """Return the bands of an output, (5, K * points), and the conditions (K, c) that they are for."""
    problem = posterior.single
    grid = make_grid(problem.data_model, output, conditions, coords)
    mean, sd = _moments(posterior, grid.targets)
    theta, _, _ = thinned(posterior, DRAWS)
    transform = problem.surrogate.layouts[output].transform
    found = transform.inverse(mixture_quantiles(mean, sd, LEVELS))
    measurement = None
    if (group := problem.noise.group_of(output)) >= 0:
        try:
            noise = new_noise(problem.data_model, group, grid.targets)
        except InputError:  # known row by row, so that that of a new measurement is not known
            noise = None
        if noise is not None:
            measurement = _measured(noise, theta, mean, sd, transform)
    return Bands(found, measurement), grid.targets.conditions


def bands_of_cells(posterior: Posterior) -> Bands:
    """Return the bands at the observed cells, (5, N); measurements are single ones, of a cell's first row."""
    problem = posterior.single
    cells = problem.cells
    mean, sd = _moments(posterior, own_cells(cells))
    theta, h, _ = thinned(posterior, DRAWS)
    phi, rng = problem.noise.phi(theta, (len(h),)), np.random.default_rng(0)
    output, measurement = mixture_quantiles(mean, sd, LEVELS), np.empty((len(LEVELS), len(cells.offset)))
    for g, name in enumerate(problem.noise.outputs):
        transform, at = problem.surrogate.layouts[name].transform, cells.group == g
        output[:, at] = transform.inverse(output[:, at])
        if problem.noise.models[g].gaussian and isinstance(cells.responses[g], Identity):
            count = np.bincount(cells.row_cell, minlength=len(cells.offset))
            relative = np.bincount(cells.row_cell, cells.row_variance, minlength=len(cells.offset)) / count
            variance = phi[:, g, None] ** 2 * relative[at]
            for term in problem.noise.terms:
                if term.role == NOISE and term.group == g:
                    variance = variance + problem.noise.named(phi)[term.amplitude][:, None] ** 2
            found = mixture_quantiles(mean[:, at], np.sqrt(sd[:, at] ** 2 + variance), LEVELS)
            measurement[:, at] = transform.inverse(found)
    gaussian = all(one.gaussian and one.growth is None for one in problem.noise.models)
    if not gaussian or not problem.data_model.closed_form or cells.transformed:
        drawn = []
        for _ in range(REPEATS):
            latent = mean + sd * rng.standard_normal(mean.shape)
            drawn.append(
                draw_rows(cells, problem.noise, latent, phi, rng, correlated_noise(problem.data_model, phi, rng))
            )
        first = np.unique(cells.row_cell, return_index=True)[1]
        measurement = np.quantile(np.concatenate(drawn)[:, first], LEVELS, axis=0)
    return Bands(output, measurement)
