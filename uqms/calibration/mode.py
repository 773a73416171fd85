"""Modes: where a log-density of the whitened space is largest, from several starts at once.

==========  ====================================================================  ======
symbol      meaning                                                               shape
==========  ====================================================================  ======
z           one point for every start, on the scale of the standard normal prior  (S, D)
x           the same in units of the particles' spread: z = centre + root x       (S, D)
==========  ====================================================================  ======

Starts are particles of a short tempered sequential Monte Carlo, which also tells the scale on which to take
differences. Gradients are central differences; those of all starts are one batched call, and so are all lengths of a
line search. The directions are those of BFGS.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np
from scipy.special import ndtri

from uqms._typing import Array, Bools
from uqms.calibration.exploration import explored
from uqms.calibration.whitened import Whitened

if TYPE_CHECKING:
    from uqms.calibration.base import Problem

__all__ = ["Climb", "Mode", "Modes", "bfgs", "find_modes", "maximum_a_posteriori", "same_place"]

PARTICLES = 256
ITERATIONS = 60
STEP = 1e-3  # of central differences, in units of the particles' spread
LENGTHS = 2.0 ** np.arange(2, -10, -1)
END = 37.0  # |z| up to which the prior's quantiles are exact
SAME = 0.2  # of the spread


@final
@dataclass(frozen=True, eq=False)
class Modes:
    """Ends of the search from every start: points (S, D), values (S,), scales (S, D, D) of their surroundings."""

    z: Array
    value: Array
    root: Array


@final
@dataclass(frozen=True)
class Mode:
    """The parameters at which the posterior density is largest.

    A point says nothing of uncertainty, and the mode moves when a parameter is expressed otherwise (its logarithm): use
    it to start something else, or to compare with a least-squares fit.

    Attributes
    ----------
    theta
        Every inferred quantity by name, in its own unit.
    log_density
        Log-likelihood plus log-prior there.
    values
        The same at the end of the search from every start, the largest first.
    agreeing
        Number of starts whose search ended at the same place; fewer than all say that there are several modes.
    at_end
        Quantities that lie at an end of their prior.
    """

    theta: Mapping[str, float]
    log_density: float
    values: tuple[float, ...]
    agreeing: int
    at_end: tuple[str, ...]


def maximum_a_posteriori(problem: "Problem", starts: int, rng: np.random.Generator) -> Mode:
    """Return the mode of the posterior density of the quantities in their own units."""
    space = Whitened(problem)

    def log_density(z: Array) -> Array:
        terms = problem.conditioned_prior.log_terms(space.theta(z))
        total = space.of_data(z) + np.sum(list(terms.values()), axis=0)
        return np.asarray(total - 0.5 * np.sum(z[:, len(space.names) :] ** 2, axis=1))

    found = find_modes(space, log_density, starts, rng)
    best = int(np.argmax(found.value))
    theta = {name: float(values[0]) for name, values in space.theta(found.z[[best]]).items()}
    edge = -float(ndtri(1e-3))
    alone = problem.conditioned_prior.alone_normal({name: np.array([value]) for name, value in theta.items()})[0]
    at_end = tuple(name for name, z in zip(space.names, alone, strict=True) if abs(z) > edge and _ends(problem, name))
    values = tuple(sorted(map(float, found.value), reverse=True))
    return Mode(theta, float(found.value[best]), values, int(same_place(found, found.z[best]).sum()), at_end)


def same_place(found: Modes, z: Array) -> Bools:
    """Return which searches ended at z, up to a fifth of the spread around it."""
    return np.asarray(np.linalg.norm(np.linalg.solve(found.root, (found.z - z)[:, :, None])[:, :, 0], axis=1) < SAME)


def _ends(problem: "Problem", name: str) -> bool:
    """Whether the prior's density is not zero at one of its ends, so that the mode may lie there."""
    return any(np.isfinite(problem.priors[name].log_density(end)) for end in problem.limits(name))


def find_modes(space: Whitened, log_density: Callable[[Array], Array], starts: int, rng: np.random.Generator) -> Modes:
    """Return where `log_density`, from z (n, D) to (n,), ends from several starts."""
    pilot = explored(space, PARTICLES, rng, correlation=0.2, most_moves=10)
    part = pilot.mixture.component(pilot.z, rng)
    # the best particle of each component first: a small mode must not be missed
    first = [rows[np.argmax(pilot.value[rows])] for k in np.unique(part) for rows in [np.flatnonzero(part == k)]]
    rows = np.array([*first, *range(starts)])[: max(starts, len(first))]
    climb = Climb(log_density, pilot.mixture.root[part[rows]])
    z = pilot.z[rows]
    count, d = z.shape
    value = climb.evaluate(z[:, None])[:, 0]
    slope, inverse = climb.slope(z, value), np.tile(np.eye(d), (count, 1, 1))
    for _ in range(ITERATIONS):
        step = climb.step(z, value, np.einsum("sij,sj->si", inverse, slope))
        z, value = step.z, step.value
        if np.all(step.gain < 1e-7):
            break
        now = climb.slope(z, value)
        inverse = bfgs(inverse, step.moved, slope - now)
        inverse[step.gain == 0.0] = np.eye(d)  # no way up in this direction: begin anew along the gradient
        slope = now
    return Modes(z, value, climb.root)


class Step(NamedTuple):
    """Where each point is after a line search (S, D), values (S,), what was gained, and the move of x (S, D)."""

    z: Array
    value: Array
    gain: Array
    moved: Array


@final
@dataclass(frozen=True, eq=False)
class Climb:
    """Values, slopes and line searches of a log-density of z, for several points at once, each in units of its root."""

    log_density: Callable[[Array], Array]
    root: Array

    def evaluate(self, points: Array) -> Array:
        """Return values (...) at points (..., D); -inf beyond where the prior's quantiles are exact."""
        value = self.log_density(np.clip(points, -END, END).reshape(-1, points.shape[-1])).reshape(points.shape[:-1])
        return np.where(np.isfinite(value) & np.all(np.abs(points) <= END, axis=-1), value, -np.inf)

    def slope(self, z: Array, value: Array) -> Array:
        """Return derivatives by x (S, D) at z (S, D), whose values are known; one batched call."""
        d = z.shape[1]
        shifts = STEP * np.swapaxes(self.root, 1, 2)  # (S, D, D), row j the move of x_j
        ends = self.evaluate(np.concatenate([z[:, None] + shifts, z[:, None] - shifts], axis=1))
        upper, lower = ends[:, :d], ends[:, d:]
        with np.errstate(invalid="ignore"):
            central = (upper - lower) / (2.0 * STEP)
            one_sided = np.where(np.isfinite(upper), upper - value[:, None], value[:, None] - lower) / STEP
        return np.nan_to_num(np.where(np.isfinite(central), central, one_sided), posinf=0.0, neginf=0.0)

    def step(self, z: Array, value: Array, way: Array) -> Step:
        """Go from z along `way` (S, D), a move of x, as far as is best of several lengths."""
        tried = z[:, None] + LENGTHS[:, None] * np.einsum("sij,sj->si", self.root, way)[:, None]
        values = self.evaluate(tried)
        pick, every = np.argmax(values, axis=1), np.arange(len(z))
        better = values[every, pick] > value
        gain = np.where(better, values[every, pick] - value, 0.0)
        moved = np.where(better[:, None], LENGTHS[pick][:, None] * way, 0.0)
        z = np.where(better[:, None], tried[every, pick], z)
        return Step(z, np.where(better, values[every, pick], value), gain, moved)


def bfgs(inverse: Array, s: Array, y: Array) -> Array:
    """Return the BFGS update of inverse curvatures (S, D, D) for moves s and falls of the gradient y, both (S, D)."""
    sy = np.sum(s * y, axis=1)
    usable = sy > 1e-12
    rho = np.where(usable, 1.0 / np.where(usable, sy, 1.0), 0.0)[:, None, None]
    left = np.eye(s.shape[1]) - rho * s[:, :, None] * y[:, None, :]
    out = left @ inverse @ np.swapaxes(left, 1, 2) + rho * s[:, :, None] * s[:, None, :]
    return np.asarray(np.where(usable[:, None, None], out, inverse))
