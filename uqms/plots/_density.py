"""Densities of draws in one and two dimensions: counts on a fine grid, smoothed, mirrored at the ends of a support."""

from typing import NamedTuple

import numpy as np
from arviz_stats.base import array_stats
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from uqms._typing import Array, Bools

__all__ = ["Contours", "contours", "density"]

CELLS = 160  # a side, in two dimensions
FINE = 1000  # in one
SMOOTHING, SMOOTHING_2D = 1.25, 1.5  # times the usual bandwidths: outlines should not show the sampler's noise
REACH = 4.0  # bandwidths beyond the outermost draws
Limits = tuple[float, float]
ANYWHERE: Limits = (-np.inf, np.inf)


def density(draws: Array, limits: Limits = ANYWHERE) -> tuple[Array, Array] | None:
    """Return grid and density of draws (S,), zero outside of the limits; None when the draws do not differ."""
    if np.ptp(draws) <= 1e-12 * np.abs(draws).max(initial=0.0):
        return None
    width = SMOOTHING * float(array_stats.kde(draws)[2])
    low = max(draws.min() - REACH * width, limits[0])
    high = min(draws.max() + REACH * width, limits[1])
    counts, edges = np.histogram(draws, FINE, (low, high))
    step = edges[1] - edges[0]
    # Beyond its last draw a density falls to zero within the reach, so mirroring matters at the limits alone.
    values = gaussian_filter1d(counts.astype(np.float64), width / step, mode="reflect") / (len(draws) * step)
    return 0.5 * (edges[1:] + edges[:-1]), values


class Contours(NamedTuple):
    """A density on a sheared grid x, y (CELLS, CELLS), its heights by the mass above them, the draws (S,) below all."""

    x: Array
    y: Array
    values: Array
    heights: Array
    outside: Bools


def contours(
    x: Array, y: Array, masses: tuple[float, ...], limits: tuple[Limits, Limits] = (ANYWHERE, ANYWHERE)
) -> Contours | None:
    """Return the joint density of draws with the heights of its smallest regions of given masses.

    Draws are counted on a grid in decorrelated coordinates, so a narrow ridge is not smeared across itself. Draws are
    mirrored at finite limits; what the figure shows is to be cut off there. None when the draws lie on a line.
    """
    both = np.stack([x, y])
    centre, spread = both.mean(axis=1), both.std(axis=1)
    if not (spread > 1e-12 * np.abs(both).max(axis=1)).all():
        return None
    standard = (both - centre[:, None]) / spread[:, None]
    correlation = float(np.mean(standard[0] * standard[1]))
    if abs(correlation) > 1.0 - 1e-9:
        return None
    root = np.linalg.cholesky(np.array([[1.0, correlation], [correlation, 1.0]]))
    z = np.linalg.solve(root, standard)
    width = SMOOTHING_2D * len(x) ** (-1.0 / 6.0)  # Scott's rule at unit variance
    edges = [np.linspace(row.min() - REACH * width, row.max() + REACH * width, CELLS + 1) for row in z]
    steps = [float(edge[1] - edge[0]) for edge in edges]
    mirrored = np.linalg.solve(root, (_mirrored(both, limits) - centre[:, None]) / spread[:, None])
    counts, _, _ = np.histogram2d(mirrored[0], mirrored[1], bins=edges)
    values = gaussian_filter(counts, [width / step for step in steps], mode="constant")
    mesh = np.stack(np.meshgrid(*(0.5 * (edge[1:] + edge[:-1]) for edge in edges), indexing="ij"))
    back = np.einsum("ij,jab->iab", root, mesh) * spread[:, None, None] + centre[:, None, None]
    cells = [
        np.clip((row - edge[0]) / step, 0, CELLS - 1).astype(int)
        for row, edge, step in zip(z, edges, steps, strict=True)
    ]
    # The region that holds a share of the draws, not of their smoothed density, which is wider.
    found = values[cells[0], cells[1]]
    heights = np.quantile(found, 1.0 - np.asarray(masses))
    return Contours(back[0], back[1], values, heights, found < heights.min())


def _mirrored(both: Array, limits: tuple[Limits, Limits]) -> Array:
    """Return the draws (2, S) with their mirror images at each finite limit."""
    for row, ends in enumerate(limits):
        images = [both]
        for end in ends:
            if np.isfinite(end):
                image = both.copy()
                image[row] = 2.0 * end - image[row]
                images.append(image)
        both = np.hstack(images)
    return both
