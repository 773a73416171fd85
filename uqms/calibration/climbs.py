"""Batched climbs of a log-density on the scale where the prior is standard normal.

==========  ====================================================================  ==========
symbol      meaning                                                               shape
==========  ====================================================================  ==========
z           points on the scale of the standard normal prior                      (S, D)
x           the same in units of a root: z = centre + root x                      (S, D)
==========  ====================================================================  ==========

Gradients are central differences; those of all points are one batched call, and so are all lengths of a line search.
The directions are those of BFGS. Where one call costs much and a point in it little, as with a surrogate that is not
compiled, this is what makes many climbs affordable.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np

from uqms._typing import Array, Bools

__all__ = ["Climb", "Climbed", "bfgs"]

STEP = 1e-3  # of central differences, in units of the root
LENGTHS = 2.0 ** np.arange(2, -10, -1)
END = 37.0  # |z| up to which the prior's quantiles are exact
GAIN = 1e-7  # nats by which the last step of a climb may still gain


class Climbed(NamedTuple):
    """Ends of climbs (S, D), values (S,), and inverse curvatures of x that BFGS estimates (S, D, D)."""

    z: Array
    value: Array
    inverse: Array


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

    def some(self, rows: Bools) -> "Climb":
        """Return the climbs of some of the points."""
        return Climb(self.log_density, self.root[rows])

    def up(self, z: Array, iterations: int) -> Climbed:
        """Climb from z (S, D); points whose last step gains less than `GAIN` stop, the others go on.

        First steps are the gradient's, in units of the root.
        """
        count, d = z.shape
        z, value = z.copy(), self.evaluate(z[:, None])[:, 0]
        slope, inverse = self.slope(z, value), np.tile(np.eye(d), (count, 1, 1))
        fresh = np.ones(count, bool)
        going = np.isfinite(value)
        for _ in range(iterations):
            if not going.any():
                break
            some, was, known = self.some(going), slope[going], inverse[going]
            step = some.step(z[going], value[going], np.einsum("sij,sj->si", known, was))
            now = some.slope(step.z, step.value)
            known = bfgs(known, step.moved, was - now)
            stuck = step.gain == 0.0
            known[stuck] = np.eye(d)  # no way up in this direction: begin anew along the gradient
            z[going], value[going], slope[going], inverse[going] = step.z, step.value, now, known
            ended = (step.gain < GAIN) & (fresh[going] | ~stuck)
            fresh[going] = stuck
            going[going] = ~ended
        return Climbed(z, value, inverse)

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
