"""Distribution function, quantiles and moments of a prior that has only a density: quadrature and root finding.

==========  ======================================================================  ======
symbol      meaning                                                                 shape
==========  ======================================================================  ======
z           parameter in the unconstrained space of its support                     (...)
g           density of z                                                            (...)
edges       of panels on which 16 Gauss-Legendre nodes integrate g to rounding      (m + 1,)
below       mass below each edge                                                    (m + 1,)
==========  ======================================================================  ======

The panels begin at the mode and grow geometrically until the density has fallen by `DROP`; then they are halved until
halving changes nothing. Kinks of the density cost panels, not accuracy.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol, final

import numpy as np

from uqms._typing import Array, ScaleName
from uqms.errors import InputError
from uqms.parameters.moments import Moments
from uqms.parameters.scale import SCALES, Interval

__all__ = ["Table", "table"]

DROP = 45.0  # of the log-density; exp(-45) is far below the smallest probability that draws use, 2**-54
SEARCHED = np.concatenate([-np.geomspace(1e15, 1e-6, 127), [0.0], np.geomspace(1e-6, 1e15, 127)])
TOLERANCE = 1e-14  # of the whole mass, of a panel
MAX_ROUNDS, MAX_STEPS = 60, 200
UNIT_MASS = 1e-6  # how far from one a density may integrate
TAIL = 1e-6  # of its maximum: where an integrand has not fallen further at the outermost edges, it has no integral
_X, _W = np.polynomial.legendre.leggauss(16)
NODES, WEIGHTS = 0.5 * (_X + 1.0), 0.5 * _W


class Density(Protocol):
    """What is asked of a prior: a density on its support, and the scale on which it is smooth."""

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


@lru_cache(maxsize=256)
def table(prior: Density) -> "Table":
    """Return the distribution function of a prior, from its density.

    Raises
    ------
    InputError
        When the density is nowhere finite, or does not integrate to one.
    """
    interval = Interval.of(*prior.support, SCALES[prior.scale])

    def log_density(z: Array) -> Array:
        with np.errstate(all="ignore"):
            value = prior.log_density(interval.from_real(z)) + interval.log_jacobian(z)
        return np.where(np.isfinite(value), value, -np.inf)

    edges, masses = _panels(log_density, prior.label)
    total = float(masses.sum())
    if not abs(total - 1.0) < UNIT_MASS:
        raise InputError(
            f"{prior.label}: the density integrates to {total:.8g} over the support {prior.support}; it has to "
            "integrate to 1. Add the normalising constant to _log_density, or correct the support. Where the density "
            "is right but too narrow or has too many modes to be found, give _cdf, _quantile and moments too."
        )
    return Table(interval, log_density, edges, masses / total, total)


@final
@dataclass(frozen=True, eq=False)
class Table:
    """The mass of a density by panels."""

    interval: Interval
    log_density: Callable[[Array], Array]
    edges: Array
    masses: Array
    total: float

    @cached_property
    def below(self) -> Array:
        """Mass below each edge (m + 1,)."""
        return np.concatenate([[0.0], np.cumsum(self.masses)])

    def cdf(self, x: Array) -> Array:
        """Return the distribution function at x (...)."""
        z = np.asarray(self.interval.to_real(x))
        inner = self._below(np.clip(np.nan_to_num(z), self.edges[0], self.edges[-1]))
        return np.where(np.isnan(z), np.nan, np.where(z >= self.edges[-1], 1.0, inner))

    def quantile(self, p: Array) -> Array:
        """Return the quantiles (...) at probabilities p in [0, 1]: Newton's steps within a bracket."""
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
        ends = self.interval.from_real(np.array([-np.inf, np.inf]))
        inner = np.asarray(self.interval.from_real(z))
        return np.where(p <= 0.0, ends[0], np.where(p >= 1.0, ends[1], inner))

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
        rough = np.abs(left + right - masses) > TOLERANCE * float(masses.sum())
        rough &= (middle > edges[:-1]) & (middle < edges[1:])
        if not rough.any():
            break
        every = np.empty((len(masses), 2))
        every[:, 0], every[:, 1] = np.where(rough, left, masses), np.where(rough, right, np.nan)
        edges = np.unique(np.concatenate([edges, middle[rough]]))
        masses = every.ravel()[~np.isnan(every.ravel())]
    return edges, masses
