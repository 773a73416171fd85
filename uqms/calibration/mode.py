"""Modes: where a log-density of the whitened space is largest, from several starts at once.

Starts are particles of a short tempered sequential Monte Carlo, which also tells the scale on which to take
differences; see `climbs`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from scipy.special import ndtri

from uqms._typing import Array, Bools
from uqms.calibration.climbs import Climb
from uqms.calibration.exploration import explored
from uqms.calibration.whitened import Whitened

if TYPE_CHECKING:
    from uqms.calibration.base import Problem

__all__ = ["Mode", "Modes", "find_modes", "maximum_a_posteriori", "same_place"]

PARTICLES = 256
ITERATIONS = 60
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
    ends = climb.up(pilot.z[rows], ITERATIONS)
    return Modes(ends.z, ends.value, climb.root)
