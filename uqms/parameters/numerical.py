"""Distribution function, quantiles and moments of a prior that has only a density: quadrature and root finding.

==========  ======================================================================  ======
symbol      meaning                                                                 shape
==========  ======================================================================  ======
z           parameter in the unconstrained space of its support                     (...)
g           density of z                                                            (...)
edges       of panels on which 16 Gauss-Legendre nodes integrate g to rounding      (m + 1,)
below       mass below each edge                                                    (m + 1,)
t           distance from where a tail begins, outwards                             (...)
beyond      mass of the tail beyond each of its edges, times exp(SHIFT)             (n + 1,)
==========  ======================================================================  ======

The panels begin at the mode and grow geometrically until the density has fallen by `DROP`; then they are halved until
halving changes no more than the rounding of the nodes does. Kinks of the density cost panels, not accuracy; of a
density with very many steps, halving ends at `MOST` panels. The outer `TAIL_MASS` on either side is
integrated again from the outside in: there a difference from 1, or from the whole mass, has no digits left.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol, final

import numpy as np

from uqms._typing import Array, ScaleName
from uqms.errors import PACKAGE, InputError, NumericalWarning
from uqms.parameters.moments import Moments
from uqms.parameters.scale import SCALES, Interval

__all__ = ["Table", "Tail", "table", "upper_tail"]

DROP = 45.0  # of the log-density; exp(-45) is far below the smallest probability that draws use, 2**-54
SEARCHED = np.concatenate([-np.geomspace(1e15, 1e-6, 127), [0.0], np.geomspace(1e-6, 1e15, 127)])
TOLERANCE = 1e-14  # of the whole mass, of a panel
ULPS = 4.0  # of a node, by which its density may be off: no panel is halved for that
MAX_ROUNDS, MAX_STEPS, MOST = 60, 200, 20_000  # of halvings, of Newton's steps; panels, of a density in many steps
UNIT_MASS = 1e-6  # how far from one a density may integrate
TAIL = 1e-6  # of its maximum: where an integrand has not fallen further at the outermost edges, it has no integral
TAIL_MASS = 1e-3  # on either side, where the mass beyond a point is integrated by itself
LARGEST_LEVEL = 1.0 - 2.0**-53  # below 1
TAIL_TOLERANCE = 1e-13  # of the mass beyond a panel's inner edge
SHIFT = 350.0  # of log-densities in a tail: masses of 1e-300, and what they are sums of, are no denormal numbers
LEAST_LOG_MASS = -730.0  # at which a tail ends, 1e-317; a standard normal has it at 38 sds
SMALLEST, LARGEST = 1e-305, 1e305  # of the size of values, next to the ends of the range of a float
ABRUPT = -650.0  # log of the mass from which on a tail that ends is reported
_X, _W = np.polynomial.legendre.leggauss(16)
NODES, WEIGHTS = 0.5 * (_X + 1.0), 0.5 * _W


class Density(Protocol):
    """What is asked of a prior: a density on its support, and the scale on which it is smooth."""

    def __hash__(self) -> int:
        """Return the hash of the value."""

    @property
    def support(self) -> tuple[float, float]:
        """Where the density is positive."""

    @property
    def scale(self) -> ScaleName:
        """Name of the scale, see `SCALES`."""

    @property
    def label(self) -> str:
        """Name for messages."""

    def log_density(self, x: Array) -> Array:
        """Return the log-density, elementwise."""

    def cdf(self, x: Array) -> Array:
        """Return the distribution function, elementwise."""

    def quantile(self, p: Array) -> Array:
        """Return the quantile, elementwise."""


@lru_cache(maxsize=256)
def table(prior: Density) -> "Table":
    """Return the distribution function of a prior, from its density.

    Raises
    ------
    InputError
        When the density is nowhere finite, or does not integrate to one.
    """
    interval, log_density = _in_unconstrained_space(prior)
    edges, masses = _panels(log_density, prior.label)
    total = float(masses.sum())
    if not abs(total - 1.0) < UNIT_MASS:
        raise InputError(
            f"{prior.label}: the density integrates to {total:.8g} over the support {prior.support}; it has to "
            "integrate to 1. Add the normalising constant to _log_density, or correct the support. Where the density "
            "is right but too narrow or has too many modes to be found, give _cdf, _quantile and moments too."
        )
    return Table(interval, log_density, edges, masses / total, total, prior.label)


def _in_unconstrained_space(prior: Density) -> tuple[Interval, Callable[[Array], Array]]:
    """Return the map of the support to the unconstrained space, and the log-density there."""
    interval = Interval.of(*prior.support, SCALES[prior.scale])

    def log_density(z: Array) -> Array:
        with np.errstate(all="ignore"):
            value = prior.log_density(interval.from_real(z)) + interval.log_jacobian(z)
        return np.where(np.isfinite(value), value, -np.inf)

    return interval, log_density


@lru_cache(maxsize=256)
def upper_tail(prior: Density) -> "UpperTail":
    """Return the survival function of a prior, from its density in the upper tail and from its `cdf` below it."""
    interval, log_density = _in_unconstrained_space(prior)
    start = float(interval.to_real(float(prior.quantile(np.asarray(1.0 - TAIL_MASS)))))
    try:
        seeds = table(prior).edges
    except InputError:  # the prior has a distribution function of its own, because its density is too narrow
        seeds = np.empty(0)
    tail = _tail(log_density, interval, start, 1.0, seeds, prior.label)
    return UpperTail(prior, interval, tail if tail.beyond[0] > 0.0 else None)


@final
@dataclass(frozen=True, eq=False)
class UpperTail:
    """Survival function and its inverse; those of the prior's own functions where its density has no tail."""

    prior: Density
    interval: Interval
    tail: "Tail | None"

    def sf(self, x: Array) -> Array:
        """Return the probability of a value above x (...)."""
        if self.tail is None:
            return 1.0 - self.prior.cdf(x)
        z = np.asarray(self.interval.to_real(x))
        return np.where(z > self.tail.start, self.tail.mass(z), 1.0 - self.prior.cdf(x))

    def isf(self, q: Array) -> Array:
        """Return the values (...) that are exceeded with probabilities q in [0, 1]."""
        if self.tail is None:
            return np.where(q <= 0.0, self.prior.support[1], self.prior.quantile(np.minimum(1.0 - q, LARGEST_LEVEL)))
        inner = self.interval.from_real(self.tail.point(np.clip(q, np.nextafter(0.0, 1.0), TAIL_MASS)))
        far = np.where(q <= 0.0, self.interval.from_real(np.inf), inner)
        return np.where(q < TAIL_MASS, far, self.prior.quantile(1.0 - q))


@final
@dataclass(frozen=True, eq=False)
class Tail:
    """The mass of a density beyond points of one tail, as exact relative to itself at 1e-300 as at 1e-3."""

    log_density: Callable[[Array], Array]
    start: float
    sign: float
    edges: Array
    beyond: Array

    @property
    def _factor(self) -> float:
        """What makes the mass beyond the start `TAIL_MASS`."""
        return TAIL_MASS / float(self.beyond[0])

    def mass(self, z: Array) -> Array:
        """Return the mass beyond z (...); that beyond the start where z is not within the tail."""
        return np.asarray(self._factor * self._beyond(np.clip(self.sign * (z - self.start), 0.0, self.edges[-1])))

    def point(self, p: Array) -> Array:
        """Return z (...) beyond which the mass is p (...) in (0, TAIL_MASS]: Newton's steps on its log in a bracket."""
        target = np.asarray(p) / self._factor
        k = np.clip(len(self.beyond) - 1 - np.searchsorted(self.beyond[::-1], target), 0, len(self.beyond) - 2)
        low, high = self.edges[k], self.edges[k + 1]
        t = 0.5 * (low + high)
        for _ in range(MAX_STEPS):
            mass = self._beyond(t)
            low, high = np.where(mass > target, t, low), np.where(mass < target, t, high)
            with np.errstate(all="ignore"):
                density = np.exp(self.log_density(self.start + self.sign * t) + SHIFT)
                new = t + np.log(mass / target) * mass / density
            new = np.where((new >= low) & (new <= high), new, 0.5 * (low + high))
            moved, t = np.abs(new - t), new
            if not np.any(moved > 4.0 * np.finfo(float).eps * np.maximum(np.abs(t), abs(self.start))):
                break
        return np.asarray(self.start + self.sign * t)

    def _beyond(self, t: Array) -> Array:
        k = np.clip(np.searchsorted(self.edges, t, side="right") - 1, 0, len(self.edges) - 2)
        return self.beyond[k + 1] + _outwards(self.log_density, self.start, self.sign, t, self.edges[k + 1])


def _outwards(log_density: Callable[[Array], Array], start: float, sign: float, low: Array, high: Array) -> Array:
    """Return the mass between two distances from the start, times exp(SHIFT)."""
    return _integral(lambda t: log_density(start + sign * t) + SHIFT, low, high)


def _tail(
    log_density: Callable[[Array], Array], interval: Interval, start: float, sign: float, seeds: Array, label: str
) -> Tail:
    """Return a tail: panels that grow geometrically until nothing is left, halved until that changes nothing."""
    at_start = float(log_density(np.asarray(start)))
    size = TAIL_MASS * math.exp(-at_start) if abs(at_start) < 700.0 else 1e-6 * max(abs(start), 1.0)
    with np.errstate(all="ignore"):
        steps = size * 2.0 ** np.arange(-2.0, 1000.0)
        steps = steps[np.isfinite(start + sign * steps)]
        logs = log_density(start + sign * steps) + np.log(steps)
    inside = np.flatnonzero(logs > LEAST_LOG_MASS)
    last = int(inside[-1]) if len(inside) else 0
    outer = float(steps[min(last + 1, len(steps) - 1)])
    if logs[last] > ABRUPT and not np.isfinite(log_density(np.asarray(start + sign * outer))):
        outer = _report_end(log_density, interval, start, sign, (float(steps[last]), outer), label)
    more = sign * (seeds - start)
    ends = interval.from_real(np.array([-np.inf, np.inf]))

    def rounding(t: Array) -> Array:
        """Return the rounding of x relative to its distance from the nearer end of the support."""
        x = np.asarray(interval.from_real(start + sign * t))
        with np.errstate(all="ignore"):
            return np.asarray(16.0 * np.spacing(np.abs(x)) / np.minimum(x - ends[0], ends[1] - x))

    edges = np.unique(np.concatenate([[0.0], steps[: last + 1], more[(more > 0.0) & (more < outer)], [outer]]))
    masses = _outwards(log_density, start, sign, edges[:-1], edges[1:])
    for _ in range(MAX_ROUNDS):
        middle = 0.5 * (edges[:-1] + edges[1:])
        halves = [_outwards(log_density, start, sign, a, b) for a, b in ((edges[:-1], middle), (middle, edges[1:]))]
        beyond = np.cumsum(masses[::-1])[::-1]
        nodes = ULPS * np.spacing(np.abs(start + sign * middle)) * _slopes(log_density, start + sign * edges) * masses
        rough = np.abs(halves[0] + halves[1] - masses) > np.maximum(TAIL_TOLERANCE, rounding(middle)) * beyond + nodes
        rough &= (middle > edges[:-1]) & (middle < edges[1:])
        if not rough.any() or len(edges) > MOST:
            break
        every = np.stack([np.where(rough, halves[0], masses), np.where(rough, halves[1], np.nan)], axis=1).ravel()
        edges, masses = np.unique(np.concatenate([edges, middle[rough]])), every[~np.isnan(every)]
    return Tail(log_density, start, sign, edges, np.append(np.cumsum(masses[::-1])[::-1], 0.0))


def _report_end(
    log_density: Callable[[Array], Array],
    interval: Interval,
    start: float,
    sign: float,
    between: tuple[float, float],
    label: str,
) -> float:
    """Return the distance at which a density stops to be finite; warn if mass is left on a side without an end."""
    low, high = between
    for _ in range(60):
        middle = 0.5 * (low + high)
        finite = bool(np.isfinite(log_density(np.asarray(start + sign * middle))))
        low, high = (middle, high) if finite else (low, middle)
    left = float(log_density(np.asarray(start + sign * low))) + math.log(low)
    x, end = (float(interval.from_real(z)) for z in (start + sign * low, sign * np.inf))
    represented = SMALLEST < abs(x) < LARGEST  # beyond these no value is left, whatever the density is
    if left > ABRUPT and represented and not math.isfinite(float(interval.scale.forward(end))):
        warnings.warn(
            f"{label}: _log_density is not finite beyond {x:.6g}, where a "
            f"probability of about 1e{left / math.log(10.0):.0f} is left. Samplers without gradients do not go beyond "
            "that value. Write _log_density so that it does not overflow, or give _sf and _isf.",
            NumericalWarning,
            skip_file_prefixes=PACKAGE,
        )
    return high


@final
@dataclass(frozen=True, eq=False)
class Table:
    """The mass of a density by panels."""

    interval: Interval
    log_density: Callable[[Array], Array]
    edges: Array
    masses: Array
    total: float
    label: str

    @cached_property
    def below(self) -> Array:
        """Mass below each edge (m + 1,)."""
        return np.concatenate([[0.0], np.cumsum(self.masses)])

    def cdf(self, x: Array) -> Array:
        """Return the distribution function at x (...)."""
        z = np.asarray(self.interval.to_real(x))
        inner = self._below(np.clip(np.nan_to_num(z), self.edges[0], self.edges[-1]))
        if np.any(z < self.lower.start):
            inner = np.where(z < self.lower.start, self.lower.mass(np.nan_to_num(z)), inner)
        return np.where(np.isnan(z), np.nan, np.where(z >= self.edges[-1], 1.0, inner))

    def quantile(self, p: Array) -> Array:
        """Return the quantiles (...) at probabilities p in [0, 1]."""
        p = np.asarray(p)
        z = self._inner(np.maximum(p, TAIL_MASS))
        if np.any(p < TAIL_MASS):
            z = np.where(p < TAIL_MASS, self.lower.point(np.clip(p, np.nextafter(0.0, 1.0), TAIL_MASS)), z)
        ends = self.interval.from_real(np.array([-np.inf, np.inf]))
        inner = np.asarray(self.interval.from_real(z))
        return np.where(p <= 0.0, ends[0], np.where(p >= 1.0, ends[1], inner))

    @cached_property
    def lower(self) -> Tail:
        """The lower tail."""
        start = float(self._inner(np.asarray(TAIL_MASS)))
        return _tail(self.log_density, self.interval, start, -1.0, self.edges, self.label)

    def _inner(self, p: Array) -> Array:
        """Return z (...) below which the mass is p (...), outside of the lower tail: Newton's steps in a bracket."""
        k = np.clip(np.searchsorted(self.below, p, side="right") - 1, 0, len(self.masses) - 1)
        low, high = self.edges[k], self.edges[k + 1]
        z = 0.5 * (low + high)
        for _ in range(MAX_STEPS):
            off = self._below(z) - p
            low, high = np.where(off < 0.0, z, low), np.where(off > 0.0, z, high)
            with np.errstate(all="ignore"):
                new = z - off * self.total / np.exp(self.log_density(z))
            new = np.where((new >= low) & (new <= high), new, 0.5 * (low + high))
            moved, z = np.abs(new - z), new
            if not np.any(moved > 4.0 * np.finfo(float).eps * np.abs(z)):
                break
        return np.asarray(z)

    @cached_property
    def moments(self) -> Moments:
        """Mean and standard deviation; infinite where their integrals have not converged in the tails."""
        widths = np.diff(self.edges)
        z = self.edges[:-1, None] + widths[:, None] * NODES
        weight = widths[:, None] * WEIGHTS * np.exp(self.log_density(z)) / self.total
        x = self.interval.from_real(z)
        if self._diverges(np.abs(x), z, 1.0):
            return Moments(math.inf, math.inf)
        mean = float(np.sum(weight * x))
        variance = math.inf if self._diverges(np.abs(x - mean), z, 2.0) else float(np.sum(weight * (x - mean) ** 2))
        return Moments(mean, math.sqrt(variance))

    def _diverges(self, size: Array, z: Array, power: float) -> bool:
        with np.errstate(all="ignore"):
            log = self.log_density(z) + power * np.log(size)
        return bool(max(log[0, 0], log[-1, -1]) > np.nanmax(log) + math.log(TAIL))

    def _below(self, z: Array) -> Array:
        """Return the mass below z (...) within the edges."""
        k = np.clip(np.searchsorted(self.edges, z, side="right") - 1, 0, len(self.masses) - 1)
        begin = self.edges[k]
        return self.below[k] + _integral(self.log_density, begin, z) / self.total


def _integral(log_density: Callable[[Array], Array], low: Array, high: Array) -> Array:
    width = np.asarray(high - low)
    at = np.asarray(low)[..., None] + width[..., None] * NODES
    return np.asarray(width * (np.exp(log_density(at)) @ WEIGHTS))


def _slopes(log_density: Callable[[Array], Array], edges: Array) -> Array:
    """Return sizes of the slope of a log-density between edges; 0 where it is not finite."""
    with np.errstate(all="ignore"):
        slopes = np.abs(np.diff(log_density(edges)) / np.diff(edges))
    return np.where(np.isfinite(slopes), slopes, 0.0)


def _panels(log_density: Callable[[Array], Array], label: str) -> tuple[Array, Array]:
    """Return edges (m + 1,) and masses (m,) of panels that hold the mass."""
    from scipy.optimize import minimize_scalar

    values = log_density(SEARCHED)
    best = int(np.argmax(values))
    if not np.isfinite(values[best]):
        raise InputError(f"{label}: the density is nowhere finite on its support; correct _log_density or support.")
    around = (SEARCHED[max(best - 1, 0)], SEARCHED[min(best + 1, len(SEARCHED) - 1)])
    refined = minimize_scalar(
        lambda z: -float(np.maximum(log_density(np.asarray(z)), -1e300)),
        bounds=around,
        method="bounded",
        options={"xatol": 1e-12 * max(abs(around[0]), abs(around[1]), 1e-6)},
    )
    mode = float(refined.x) if -refined.fun >= values[best] else float(SEARCHED[best])
    top = float(log_density(np.asarray(mode)))
    sides = []
    for sign in (-1.0, 1.0):
        steps = 1e-14 * max(abs(mode), 1e-6) * 2.0 ** np.arange(130.0)
        high = np.flatnonzero(log_density(mode + sign * steps) > top - DROP)
        last = int(high[-1]) + 2 if len(high) else 1
        sides.append(mode + sign * steps[max(last - 12, 0) : last])
    edges = np.unique(np.concatenate([sides[0], [mode], sides[1]]))
    masses = _integral(log_density, edges[:-1], edges[1:])
    for _ in range(MAX_ROUNDS):
        middle = 0.5 * (edges[:-1] + edges[1:])
        left, right = (_integral(log_density, a, b) for a, b in ((edges[:-1], middle), (middle, edges[1:])))
        rounding = np.spacing(np.abs(middle)) * _slopes(log_density, edges) * masses
        rough = np.abs(left + right - masses) > np.maximum(TOLERANCE * float(masses.sum()), ULPS * rounding)
        rough &= (middle > edges[:-1]) & (middle < edges[1:])
        if not rough.any() or len(edges) > MOST:
            break
        every = np.empty((len(masses), 2))
        every[:, 0], every[:, 1] = np.where(rough, left, masses), np.where(rough, right, np.nan)
        edges = np.unique(np.concatenate([edges, middle[rough]]))
        masses = every.ravel()[~np.isnan(every.ravel())]
    return edges, masses
