"""The influenza outbreak of the benchmarks: data, simulator, and the posterior of two parameters by quadrature.

The model is SIR in a school of 763 boys: S' = -beta S I / N, I' = beta S I / N - gamma I, S(0) = 762, I(0) = 1; the
output is the square root of the number infected on days 1..14. The data are the 14 daily counts of boys confined to
bed in BMJ 1978;1:587.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy.integrate import solve_ivp
from scipy.ndimage import maximum_filter

import uqms as uq

BOYS = 763.0
DAYS = np.arange(1.0, 15.0)
IN_BED = (3, 8, 26, 76, 225, 298, 258, 233, 189, 128, 68, 29, 14, 4)
STEPS_A_DAY = 40
COARSE = 64  # cells a side of the first grid
NEGLIGIBLE = 1e-7  # share of the mass below which a cell is never split
SHARE = 0.004  # a cell with more of the mass than this is split
ROUGH = 0.7  # so is one whose log-density differs by more nats from its neighbours'

Array = np.ndarray


def space() -> uq.ParameterSpace:
    """Return the two rates with their priors."""
    return uq.ParameterSpace(
        beta=uq.LogNormal(median=1.8, sigma=0.3, unit="1/day", description="transmission rate"),
        gamma=uq.LogNormal(median=0.5, sigma=0.3, unit="1/day", description="recovery rate"),
    )


def sqrt_infected(beta: Array, gamma: Array) -> Array:
    """Return sqrt(I) on days 1..14, shape (..., 14): Runge-Kutta of order 4 in (log S, log I), all points at once."""
    beta, gamma = np.broadcast_arrays(np.asarray(beta, dtype=float), np.asarray(gamma, dtype=float))
    step = 1.0 / STEPS_A_DAY
    force = beta / BOYS

    def slope(s: Array, i: Array) -> tuple[Array, Array]:
        return -force * np.exp(i), force * np.exp(s) - gamma

    s, i = np.full(beta.shape, np.log(BOYS - 1.0)), np.zeros(beta.shape)
    out = np.empty((*beta.shape, len(DAYS)))
    for day in range(len(DAYS)):
        for _ in range(STEPS_A_DAY):
            s1, i1 = slope(s, i)
            s2, i2 = slope(s + 0.5 * step * s1, i + 0.5 * step * i1)
            s3, i3 = slope(s + 0.5 * step * s2, i + 0.5 * step * i2)
            s4, i4 = slope(s + step * s3, i + step * i3)
            s = s + step / 6.0 * (s1 + 2.0 * s2 + 2.0 * s3 + s4)
            i = i + step / 6.0 * (i1 + 2.0 * i2 + 2.0 * i3 + i4)
        out[..., day] = np.exp(0.5 * i)
    return out


def solver_error(points: int = 50) -> float:
    """Return the largest difference between `sqrt_infected` and scipy's solve_ivp over the design box."""
    design = uq.sobol(space(), points, rng=0)
    corners = np.array([[b, g] for b in (0, 1) for g in (0, 1)], dtype=float)
    x = np.vstack([uq.ensemble.input_array(design), uq.ensemble.get_box(design).from_unit(corners)])
    mine = sqrt_infected(x[:, 0], x[:, 1])
    worst = 0.0
    for row, (beta, gamma) in enumerate(x):

        def slope(_: float, y: Array, beta: float = beta, gamma: float = gamma) -> list[float]:
            new = beta * y[0] * y[1] / BOYS
            return [-new, new - gamma * y[1]]

        solved = solve_ivp(slope, (0.0, 14.0), [BOYS - 1.0, 1.0], method="DOP853", t_eval=DAYS, rtol=1e-12, atol=1e-12)
        worst = max(worst, float(np.abs(np.sqrt(solved.y[1]) - mine[row]).max()))
    return worst


def ensemble(runs: int, seed: int) -> xr.Dataset:
    """Return a Sobol design over the prior with its runs."""
    design = uq.sobol(space(), runs, rng=seed)
    curves = sqrt_infected(design["beta"].values, design["gamma"].values)
    output = xr.DataArray(curves, dims=("run", "day"), coords={"day": DAYS})
    return uq.ensemble.build(design, {"sqrt_infected": output}, space=space())


def exact() -> uq.DirectSimulator:
    """Return the simulator itself, in a surrogate's place: a calibration with it gives the reference posterior."""
    outputs = {"sqrt_infected": ("day",)}
    return uq.DirectSimulator(sqrt_infected, space=space(), outputs=outputs, coords={"day": DAYS}, vectorized=True)


def observation(values: Array) -> xr.DataArray:
    """Return 14 daily measurements of the output as the calibration takes them."""
    return xr.DataArray(values, dims="day", coords={"day": DAYS}, name="sqrt_infected")


# --- two-dimensional posteriors by quadrature -------------------------------------------------------------------------


class Quadrature(NamedTuple):
    """A density over the unit square as square cells, small where the mass is.

    Attributes
    ----------
    centres, steps, weights
        Shapes (m, 2), (m,), (m,): the cells' middles, sides and shares of the mass.
    log_mass
        Log of the integral of the density that was given.
    """

    centres: Array
    steps: Array
    weights: Array
    log_mass: float

    def quantile(self, axis: int, p: Array) -> Array:
        """Return quantiles of one coordinate, the density being flat within a cell."""
        low = self.centres[:, axis] - 0.5 * self.steps
        edges = np.append(low, low + self.steps)
        slope = self.weights / self.steps
        order = np.argsort(edges, kind="stable")
        edges = edges[order]
        density = np.cumsum(np.append(slope, -slope)[order])
        return np.interp(p, np.append(0.0, np.cumsum(density[:-1] * np.diff(edges))), edges)


def information(mean: Callable[[Array], Array], noise: float) -> Array:
    """Return J' J / noise² (its trace) in each cell of the first grid, the largest of the cell and those around it."""
    corner = np.arange(COARSE + 1) / COARSE
    points = np.stack(np.meshgrid(corner, corner, indexing="ij"), axis=-1).reshape(-1, 2)
    curves = mean(points).reshape(COARSE + 1, COARSE + 1, -1)
    along, across = np.diff(curves, axis=0), np.diff(curves, axis=1)
    along = np.maximum(np.sum(along[:, 1:] ** 2, axis=-1), np.sum(along[:, :-1] ** 2, axis=-1))
    across = np.maximum(np.sum(across[1:] ** 2, axis=-1), np.sum(across[:-1] ** 2, axis=-1))
    return maximum_filter((along + across) * (COARSE / noise) ** 2, size=3, mode="nearest")


def quadrature(log_density: Callable[[Array], Array], info: Array) -> Quadrature:
    """Integrate a density over the unit square on cells that are split in four where the mass is, and only there.

    A cell's centre is at most step / sqrt(2) away from a mode within the cell, which hides at most
    information * step² / 4 nats. A cell is left as it is when even with these it would be negligible, or when they are
    below 1 nat, its log-density is like its neighbours', and its mass is small. So no mode is lost on the way.

    Parameters
    ----------
    log_density
        From points (m, 2) to (m,).
    info
        Upper bound of the information in each cell of the first grid, shape (COARSE, COARSE), from `information`.
    """
    side = (np.arange(0, COARSE, 2) + 1.0) / COARSE
    parents = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
    children = 0.5 * np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    step, log_mass = 1.0 / COARSE, -np.inf
    leaves: list[tuple[Array, Array, float]] = []
    while len(parents) and step > 1e-7:
        centres = parents[:, None, :] + step * children  # four siblings in a row
        values = log_density(centres.reshape(-1, 2)).reshape(-1, 4)
        masses = values + 2.0 * np.log(step)
        total = np.logaddexp(log_mass, np.logaddexp.reduce(masses, axis=None))
        i, j = np.moveaxis((centres * COARSE).astype(int), -1, 0)
        hidden = 0.25 * info[i, j] * step**2
        unclear = (hidden > 1.0) | (np.ptp(values, axis=1, keepdims=True) > ROUGH) | (masses > total + np.log(SHARE))
        split = unclear & (masses + hidden > total + np.log(NEGLIGIBLE))
        leaves.append((centres[~split], masses[~split], step))
        log_mass = np.logaddexp.reduce(np.append(masses[~split], log_mass))
        parents, step = centres[split], 0.5 * step
    centres, masses = (np.concatenate([leaf[part] for leaf in leaves]) for part in (0, 1))
    steps = np.concatenate([np.full(len(leaf[1]), leaf[2]) for leaf in leaves])
    log_mass = float(np.logaddexp.reduce(masses))
    return Quadrature(centres, steps, np.exp(masses - log_mass), log_mass)
