"""Exact simultaneous bands for the empirical distribution function of ranks.

Counts of ranks below each point are a path of a random walk. A pointwise level gamma cuts every count's binomial law at
gamma / 2 in both tails; the chance that the whole path stays between the cuts is found by a recursion over the points,
without simulation: given their sum, the increments are those of a Poisson process, so a step is a convolution.

==========  ===================================================================  ======
symbol      meaning                                                              shape
==========  ===================================================================  ======
z           points in (0, 1) where counts are taken, increasing                  (K,)
C_i         how many of n uniform numbers are at most z_i                        (K,)
gamma       pointwise level: C_i is inside when both its tail chances are at     ()
            least gamma / 2
==========  ===================================================================  ======

Säilynoja, Bürkner & Vehtari (2022), doi:10.1007/s11222-022-10090-6; the convolutions: Moscovich & Nadler (2017),
doi:10.1016/j.spl.2016.11.027.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import final

import numpy as np
from scipy.special import bdtr, bdtrc, gammaln

from uqms import _checks as check
from uqms._teaching import taught
from uqms._typing import Array, Bools, Ints
from uqms.errors import InputError

__all__ = ["RankBand", "path_probability", "pointwise_level", "rank_band"]

ROUNDING = 1e-9  # relative: equal tail chances of different points differ by rounding


@taught
@final
@dataclass(frozen=True, eq=False)
class RankBand:
    """Counts between which the empirical distribution function of uniform ranks stays with a given probability.

    Attributes
    ----------
    n
        Number of ranks.
    points
        Where counts are taken, shape (K,).
    lower, upper
        Smallest and largest count at each point that is inside, shape (K,).
    gamma
        Pointwise level that the band was cut at.
    probability
        Exact probability that all counts are inside: at least what was asked for, since counts are whole numbers.
    """

    n: int
    points: Array
    lower: Ints
    upper: Ints
    gamma: float
    probability: float

    def contains(self, counts: Ints) -> bool:
        """Return whether counts (K,) are inside at all points."""
        return bool(np.all((counts >= self.lower) & (counts <= self.upper)))


@taught
def rank_band(n: int, points: Array, probability: float) -> RankBand:
    """Return the narrowest simultaneous band of its kind for n uniform ranks, of at least the given probability.

    Parameters
    ----------
    n
        Number of ranks.
    points
        Increasing numbers in (0, 1), shape (K,). Ranks among L draws are uniform on 0...L: take i / (L + 1), i = 1...L.
    probability
        Of the whole function inside, e.g. 0.95.

    Returns
    -------
    RankBand
        Counts, pointwise level and the exact probability.

    Raises
    ------
    InputError
        When n is below 1, points are not increasing within (0, 1), or the probability is not between 0 and 1.

    References
    ----------
    Säilynoja, Bürkner & Vehtari (2022), doi:10.1007/s11222-022-10090-6.

    Examples
    --------
    >>> import numpy as np
    >>> band = rank_band(200, np.arange(1, 100) / 100, 0.95)
    >>> 0.95 <= band.probability < 0.951
    True
    """
    points = np.asarray(points, dtype=np.float64)
    if not check.is_whole(n, 1):
        raise InputError(f"rank_band: n is {n!r}; give the number of ranks, a whole number of at least 1.")
    if points.ndim != 1 or not len(points) or not np.all(np.diff([0.0, *points, 1.0]) > 0):
        raise InputError("rank_band: points must be increasing numbers between 0 and 1, e.g. np.arange(1, 100) / 100.")
    if not 0.0 < probability < 1.0:
        raise InputError(f"rank_band: probability is {probability!r}; give a number between 0 and 1, e.g. 0.95.")
    return _band(int(n), tuple(points.tolist()), float(probability))


@lru_cache(maxsize=64)
def _band(n: int, points: tuple[float, ...], probability: float) -> RankBand:
    """Find the level by bisection over the values that a tail chance can have: the probability falls with it."""
    z = np.array(points)
    tails = _tails(n, z)
    # Levels above 2 (1 - probability) are cut out by one point alone; far tails that no level reaches are not sorted.
    levels = np.unique(tails[(tails > 0.0) & (tails <= 2.0 * (1.0 - probability) + 1e-12)])
    low, high = 0, len(levels)  # levels[low] keeps the probability; levels[high] does not
    while high - low > 1:
        middle = (low + high) // 2
        if path_probability(n, z, *_cut(tails, levels[middle])) >= probability:
            low = middle
        else:
            high = middle
    gamma = float(levels[low]) if len(levels) else 0.0
    lower, upper = _cut(tails, gamma)
    for array in (z, lower, upper):
        array.setflags(write=False)
    return RankBand(n, z, lower, upper, gamma, path_probability(n, z, lower, upper))


def _tails(n: int, points: Array) -> Array:
    """Return twice the smaller tail chance of every count 0...n at every point, shape (K, n + 1)."""
    counts = np.arange(n + 1)
    below = bdtr(counts, n, points[:, None])
    above = np.ones_like(below)  # at least none: certain
    above[:, 1:] = bdtrc(counts[:-1], n, points[:, None])
    return np.asarray(2.0 * np.minimum(below, above))


def _cut(tails: Array, gamma: float) -> tuple[Ints, Ints]:
    """Return the smallest and largest count whose tail chances reach a level, each (K,)."""
    return _ends(tails >= gamma * (1.0 - ROUNDING))


def _ends(inside: Bools) -> tuple[Ints, Ints]:
    last = inside.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)
    return inside.argmax(axis=1).astype(np.int64), last.astype(np.int64)


def path_probability(n: int, points: Array, lower: Ints, upper: Ints) -> float:
    """Return the exact probability that counts of n uniform numbers lie in [lower, upper] (K,) at all points (K,)."""
    mass, first = np.ones(1), 0  # of a Poisson process of rate n: chances of the counts first, first + 1, ...
    steps = np.diff([0.0, *points, 1.0])
    ends = [*zip(lower.tolist(), upper.tolist(), strict=True), (n, n)]
    for step, (low, high) in zip(steps, ends, strict=True):
        if high < low or high < first:
            return 0.0
        jumps = np.arange(high - first + 1)
        jump = np.exp(jumps * np.log(n * step) - n * step - gammaln(jumps + 1.0))
        grown = np.convolve(mass, jump)
        start = max(low, first)
        mass, first = grown[start - first : high - first + 1], start
    return float(min(1.0, mass[0] * np.exp(n - n * np.log(n) + gammaln(n + 1.0))))


def pointwise_level(n: int, points: Array, counts: Ints) -> tuple[float, float]:
    """Return the smallest pointwise level of counts (K,), and the exact chance of one as small or smaller: a p-value.

    Counts are inside of the band of probability P exactly when the p-value is above 1 - P.
    """
    tails = _tails(n, points)
    level = float(tails[np.arange(len(points)), counts].min())
    inside = tails > level * (1.0 + ROUNDING)
    if not inside.any(axis=1).all():
        return level, 1.0
    return level, float(np.clip(1.0 - path_probability(n, points, *_ends(inside)), 0.0, 1.0))
