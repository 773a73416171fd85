"""The part of a box where a function is at most one: its volume, and points that fill it, however small it is.

==========  ======================================================================  ==============
symbol      meaning                                                                 shape
==========  ======================================================================  ==============
v           points in the unit cube                                                 (n, d)
g(v)        the function; what remains is g <= 1                                    (n,)
l           levels of g, from infinity down to 1                                    ()
R, N        ensembles, which are independent of each other, and points in each      ()
==========  ======================================================================  ==============

Subset simulation (Au & Beck 2001): the volume is a product of shares that are each about a fifth, of points below the
next level among points that fill {g <= l}. Points move within {g <= l} by differences of two other points of their
ensemble (ter Braak 2006): the steps have the shape of what remains, a thin curved sheet or several pieces, without any
setting, and a uniform law stays uniform, since a step and its reverse are equally probable. The scatter of the R
ensembles gives the Monte Carlo error.

Below a level nothing may be left at all. When levels stop falling while they are above one, the least g is searched for
by a simplex from the lowest points, and what was found is returned with `empty`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy.optimize import minimize
from scipy.stats import qmc

from uqms._typing import Array, Bools

__all__ = ["Remaining", "remaining"]

PLAIN = 12  # 2**12 points of a sequence first
ENOUGH = 200  # of them, so that their share says the volume
ENSEMBLES, POINTS = 6, 200
SHARE, SWEEPS = 0.2, 2  # of points that go on; sweeps for each input, of three at least
LEAST = 1e-15  # of the volume
STALLED = 0.02  # of the logarithm of the level, which it has to fall by
SEARCHES, STEPS = 3, 60  # simplex searches, and steps for each input


@final
@dataclass(frozen=True, eq=False)
class Remaining:
    """What remains of the unit cube.

    Attributes
    ----------
    points
        Points that fill it about evenly, (n, d); none where `empty`.
    volume, error
        Its volume, and the Monte Carlo standard error of that.
    pool, values, weights
        Points of all levels (P, d), g there (P,) and the volume that each stands for (P,): a sample of the whole cube.
    best, least
        The point with the least g that was found, and that g.
    """

    points: Array
    volume: float
    error: float
    pool: Array
    values: Array
    weights: Array
    best: Array
    least: float

    @property
    def empty(self) -> bool:
        """Whether nothing remains."""
        return not self.least <= 1.0


def remaining(g: Callable[[Array], Array], d: int, n: int, rng: np.random.Generator) -> Remaining:
    """Return what remains of the unit cube in d dimensions, with at least n points unless it is empty."""
    v = qmc.Sobol(d, seed=rng).random_base2(PLAIN)
    values = g(v)
    inside = values <= 1.0
    if inside.sum() >= ENOUGH:
        share = float(inside.mean())
        weights = np.full(len(v), 1.0 / len(v))
        points = _more(g, v[inside], n, rng)
        best = int(values.argmin())
        error = float(np.sqrt(share * (1.0 - share) / len(v)))
        return Remaining(points, share, error, v, values, weights, v[best], float(values[best]))
    return _Subset(g, d, rng).run(v, values, n)


class _Subset:
    """R ensembles on their way down the levels."""

    def __init__(self, g: Callable[[Array], Array], d: int, rng: np.random.Generator) -> None:
        self.g, self.d, self.rng = g, d, rng

    def run(self, first: Array, values: Array, n: int) -> Remaining:
        R, N, rng = ENSEMBLES, POINTS, self.rng
        # The lowest points of a long sequence that is dealt out to the ensembles are the first level of each.
        order = rng.permutation(len(first))[: R * (len(first) // R)].reshape(R, -1)
        v, at = first[order], values[order]
        log_volume, level, scale = np.zeros(R), np.full(R, np.inf), np.ones(R)
        pool: list[tuple[Array, Array, Array]] = []
        stalled = 0
        while True:
            falls = level > 1.0
            before = level.copy()
            for r in np.flatnonzero(falls).tolist():
                cut = float(np.sort(at[r])[int(np.ceil(SHARE * len(at[r]))) - 1])
                new = max(1.0, cut)
                keep = at[r] <= new
                # Of independent points the mean volume below the k-th of n is k / (n + 1).
                share = float(keep.sum()) / (len(keep) + (cut > 1.0))
                beyond = ~keep
                each = np.exp(log_volume[r]) * (1.0 - share) / max(int(beyond.sum()), 1) / R
                pool.append((v[r][beyond], at[r][beyond], np.full(int(beyond.sum()), each)))
                log_volume[r] += np.log(share)
                level[r] = new
            seeds = [np.resize(rng.permutation(np.flatnonzero(at[r] <= level[r])), N) for r in range(R)]
            v = np.stack([v[r][seeds[r]] for r in range(R)])
            at = np.stack([at[r][seeds[r]] for r in range(R)])
            for _ in range(SWEEPS * max(self.d, 3)):
                self.sweep(v, at, level, scale, falls)
            if not (level > 1.0).any():
                break
            with np.errstate(invalid="ignore", divide="ignore"):
                fallen = np.log(before) - np.log(level) > STALLED * np.log(level)
            stalled = 0 if fallen[falls].any() else stalled + 1
            if stalled == 2 or log_volume[level > 1.0].max() < np.log(LEAST):
                found = self.search(v, at)
                if found is not None:
                    return self.nothing(pool, *found)
                stalled = 0
                if log_volume[level > 1.0].max() < np.log(LEAST):
                    return self.nothing(pool, *self.lowest(v, at))
        volumes = np.exp(log_volume)
        points = [v.reshape(-1, self.d)]
        everything = np.ones(R, dtype=np.bool_)
        while sum(map(len, points)) < n:
            for _ in range(2):
                self.sweep(v, at, level, scale, everything)
            points.append(v.reshape(-1, self.d).copy())
        for r in range(R):
            pool.append((v[r], at[r], np.full(N, volumes[r] / N / R)))
        best, least = self.lowest(v, at)
        volume = float(np.exp(log_volume.mean()))  # errors of levels multiply, so logarithms are about normal
        error = volume * float(log_volume.std(ddof=1) / np.sqrt(R))
        return Remaining(np.vstack(points), volume, error, *_joined(pool), best, least)

    def sweep(self, v: Array, at: Array, level: Array, scale: Array, active: Bools) -> None:
        """Move every point of the active ensembles once, by differences of two points of another ensemble."""
        R, N, d = v.shape
        rows = np.flatnonzero(active)
        partner = v[(rows + self.rng.integers(1, R)) % R]
        proposal = _reflected(v[rows] + _steps(partner, (len(rows), N), scale[rows], self.rng))
        new = self.g(proposal.reshape(-1, d)).reshape(len(rows), N)
        taken = new <= level[rows, None]
        v[rows] = np.where(taken[..., None], proposal, v[rows])
        at[rows] = np.where(taken, new, at[rows])
        scale[rows] = np.clip(scale[rows] * np.exp(taken.mean(axis=1) - 0.3), 1e-3, 1.5)

    def lowest(self, v: Array, at: Array) -> tuple[Array, float]:
        """Return the lowest point."""
        best = int(at.argmin())
        return v.reshape(-1, self.d)[best], float(at.ravel()[best])

    def search(self, v: Array, at: Array) -> tuple[Array, float] | None:
        """Return the least that simplex searches find, None where that is below one: levels have to go on."""
        order = np.argsort(at.ravel())[:: max(1, at.size // (4 * SEARCHES))][:SEARCHES]
        best, least = self.lowest(v, at)

        def logarithm(one: Array) -> float:
            return float(np.log(self.g(_reflected(one[None]))[0]))

        for start in v.reshape(-1, self.d)[order]:
            found = minimize(
                logarithm,
                start,
                method="Nelder-Mead",
                options={"maxfev": STEPS * self.d, "xatol": 1e-6, "fatol": 1e-6},
            )
            if np.exp(found.fun) < least:
                best, least = _reflected(found.x[None])[0], float(np.exp(found.fun))
        return None if least <= 1.0 else (best, least)

    def nothing(self, pool: list[tuple[Array, Array, Array]], best: Array, least: float) -> Remaining:
        return Remaining(np.empty((0, self.d)), 0.0, 0.0, *_joined(pool), best, least)


def _joined(pool: list[tuple[Array, Array, Array]]) -> tuple[Array, Array, Array]:
    points, values, weights = (np.concatenate(one) for one in zip(*pool, strict=True))
    return points, values, weights


def _steps(other: Array, shape: tuple[int, int], scale: Array, rng: np.random.Generator) -> Array:
    """Return steps (R, n, d): differences of points (R, M, d), with a random size, in some of the directions."""
    R, M, d = other.shape
    first = rng.integers(M, size=shape)
    second = (first + rng.integers(1, M, size=shape)) % M
    ensemble = np.arange(R)[:, None]
    size = scale[:, None] * np.exp(rng.uniform(np.log(0.2), np.log(2.0), shape)) * 1.2 / np.sqrt(d)
    size = np.where(rng.random(shape) < 0.1, 1.0, size)  # between pieces
    step = size[..., None] * (other[ensemble, first] - other[ensemble, second])
    return np.asarray(step + 1e-3 * scale[:, None, None] * other.std(axis=1)[:, None] * rng.standard_normal(step.shape))


def _reflected(v: Array) -> Array:
    """Return points that left the unit cube reflected at its sides."""
    return np.asarray(1.0 - np.abs(np.mod(v, 2.0) - 1.0))


def _more(g: Callable[[Array], Array], v: Array, n: int, rng: np.random.Generator) -> Array:
    """Return at least n points that fill what remains, from some that do."""
    if len(v) >= n:
        return v
    one = _Subset(g, v.shape[1], rng)
    half = len(v) // 2
    now = v[rng.permutation(len(v))][: 2 * half].reshape(2, half, -1).copy()
    at, level, scale, found = np.zeros((2, half)), np.ones(2), np.ones(2), [v]
    while sum(map(len, found)) < n:
        for _ in range(3):
            one.sweep(now, at, level, scale, np.ones(2, dtype=np.bool_))
        found.append(now.reshape(2 * half, -1).copy())
    return np.vstack(found)
