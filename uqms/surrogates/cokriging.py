"""Kernels over levels of fidelity, and over an input and a lower level's value there.

==========  ======================================================================  ===========
symbol      meaning                                                                 shape
==========  ======================================================================  ===========
T           number of levels                                                        ()
rho_t       scale of level t in level t + 1                                         (T - 1,)
s_r         variance of what is new in level r, over that of the first              (T,)
a_rt        product of rho_r ... rho_(t-1): what is new in level r, in level t      (T, T)
N           sum over r of s_r a_rT², so that the highest level has variance 1       ()
==========  ======================================================================  ===========
"""

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from uqms._typing import Array, Ints
from uqms.errors import InputError
from uqms.surrogates.averaging import CHEAP
from uqms.surrogates.kernels import (
    NEVER,
    Matern32,
    Matern52,
    Product,
    RadialKernel,
    SquaredExponential,
    Structured,
    Sum,
    correlation_slopes,
    hyperparameter_count,
    places,
)
from uqms.surrogates.training import JITTER_FIRST

__all__ = ["RHO", "CoKriging", "WithLower", "expanded", "second_slope"]

RHO = CHEAP  # mean and sd of the normal prior of rho, of levels that are scaled to sd 1
RHO_BOUNDS = (-10.0, 10.0)


@final
@dataclass(frozen=True)
class CoKriging(Structured):
    """Autoregressive levels as one process: f_t(u) = rho_(t-1) f_(t-1)(u) + what is new in level t.

    Its first T - 1 inputs say the level of a run: 1 at the place of its level, of those from the second on. Logarithms
    of what it has beside length scales are log s_2 ... log s_T and rho itself: it may be negative, so `ell` holds its
    exponential.
    """

    part: RadialKernel
    levels: int

    def __post_init__(self) -> None:
        if not isinstance(self.part, RadialKernel) or type(self.levels) is not int or not 2 <= self.levels <= 64:
            raise InputError(f"CoKriging: part is {self.part!r} and levels {self.levels!r}; give Matern52() and 2.")

    def places(self, d: int) -> Ints:
        """Return the place in `ell` of each length scale."""
        own = d - self.levels + 1
        unseen = np.full((self.levels, self.levels - 1), -1)
        return np.hstack([unseen, np.arange(self.levels * own).reshape(self.levels, own)])

    def more(self, d: int) -> tuple[Array, Array, Array]:
        """Return location, sd and bounds of log s and of rho."""
        t = self.levels - 1
        location = np.repeat([0.0, RHO[0]], t)
        bounds = np.repeat([[math.log(1e-8), math.log(1e6)], RHO_BOUNDS], t, axis=0)
        return location, np.repeat([2.0, RHO[1]], t), bounds

    def doubted(self, d: int) -> int | None:
        """Return the place of the last rho."""
        return hyperparameter_count(self, d) - 1

    def scales(self, ell: Array) -> tuple[Array, Array]:
        """Return s (T,) and a (T, T) of the hyperparameters."""
        t = self.levels
        s, rho = np.append(1.0, ell[-2 * (t - 1) : -(t - 1)]), np.log(ell[-(t - 1) :])
        return s, _products(rho)

    def correlation_slopes(self, u: Array, x: Array, ell: Array) -> tuple[Array, Array, Array]:
        """Return the correlation, g of each part, and the derivatives by log s and rho."""
        t = self.levels
        s, a = self.scales(ell)
        rows, columns = self.level_of(u), self.level_of(x)
        own, scales = (u[:, t - 1 :], x[:, t - 1 :]), ell[: -2 * (t - 1)].reshape(t, -1)
        if u is x:
            own = (own[0], own[0])
        total = float(np.sum(s * a[:, -1] ** 2))
        each, slopes = [], []
        for r in range(t):
            kappa, g, _ = correlation_slopes(self.part, *own, scales[r])
            if u is x:  # a lower level may vary far more than the highest, of which the jitter of all is a share
                kappa.flat[:: len(x) + 1] += JITTER_FIRST
            weight = s[r] / total * np.outer(a[r, rows], a[r, columns])
            each.append(kappa)
            slopes.append(weight * g[0])
        weights = [s[r] / total * np.outer(a[r, rows], a[r, columns]) for r in range(t)]
        kappa = sum((w * k for w, k in zip(weights, each, strict=True)), np.zeros(each[0].shape))
        by = [weights[r] * each[r] - kappa * (s[r] * a[r, -1] ** 2 / total) for r in range(1, t)]
        for place in range(t - 1):
            moved = _products(np.log(ell[-(t - 1) :]), place)
            slope = -kappa * (2.0 * float(np.sum(s * a[:, -1] * moved[:, -1])) / total)
            for r in range(t):
                both = np.outer(moved[r, rows], a[r, columns]) + np.outer(a[r, rows], moved[r, columns])
                slope += s[r] / total * both * each[r]
            by.append(slope)
        return kappa, np.stack(slopes), np.array(by)

    def level_of(self, u: Array) -> Ints:
        """Return the level 0 ... T - 1 of every row."""
        dummies = u[:, : self.levels - 1]
        return np.asarray(np.where(dummies.any(axis=1), dummies.argmax(axis=1) + 1, 0))


def _products(rho: Array, slope: int | None = None) -> Array:
    """Return a (T, T), or its derivative by one of the rho."""
    t = len(rho) + 1
    a = np.zeros((t, t))
    for r in range(t):
        for level in range(r, t):
            factors = rho[r:level].copy()
            if slope is not None:
                if not r <= slope < level:
                    continue
                factors[slope - r] = 1.0
            a[r, level] = np.prod(factors)
    return a


@final
@dataclass(frozen=True)
class WithLower(Structured):
    """Kernel of the nonlinear levels (Perdikaris et al. 2017): k_rho(c) k_f(u) + k_delta(u), inputs (c, u).

    c is the lower level's value at u. `full` is the same as a sum of products that prediction knows, with length scales
    that never matter where a part does not see an input.
    """

    lower: RadialKernel
    part: RadialKernel

    @property
    def full(self) -> Sum:
        """The sum of products of which each part sees all inputs."""
        return Sum((Product((self.lower, self.part)), self.part))

    def places(self, d: int) -> Ints:
        """Return the place in `ell` of each length scale."""
        out = np.full((3, d), -1)
        out[0, 0] = 0
        out[1:, 1:] = 1 + np.arange(2 * (d - 1)).reshape(2, d - 1)
        return out

    def more(self, d: int) -> tuple[Array, Array, Array]:
        """Return location, sd and bounds of the log weight of k_delta."""
        return np.zeros(1), np.full(1, 2.0), np.log([[1e-6, 1e6]])

    def spans(self, d: int) -> Array:
        """Return the width of a uniform law with the sd of levels, 1, and ones."""
        return np.append(math.sqrt(12.0), np.ones(2 * (d - 1)))

    def correlation_slopes(self, u: Array, x: Array, ell: Array) -> tuple[Array, Array, Array]:
        """Return the correlation, g of each part, and the derivative by the log share."""
        return correlation_slopes(self.full, u, x, expanded(self, u.shape[1], ell))


def expanded(kernel: WithLower, d: int, ell: Array) -> Array:
    """Return `ell` of the full sum of products."""
    at = places(kernel, d)
    scales = np.where(at < 0, NEVER, ell[at])
    out = np.append(scales.ravel(), ell[at.max() + 1 :])
    assert len(out) == hyperparameter_count(kernel.full, d)  # noqa: S101
    return out


def second_slope(kernel: RadialKernel, t: Array) -> tuple[Array, Array, Array]:
    """Return a kernel of one scaled distance t, and its first and second derivative by it."""
    if isinstance(kernel, SquaredExponential):
        value = np.exp(-0.5 * t * t)
        return value, -t * value, (t * t - 1.0) * value
    if isinstance(kernel, Matern32):
        a = math.sqrt(3.0) * np.abs(t)
        value = np.exp(-a)
        return (1.0 + a) * value, -3.0 * t * value, -3.0 * (1.0 - a) * value
    assert isinstance(kernel, Matern52)  # noqa: S101
    a = math.sqrt(5.0) * np.abs(t)
    value = np.exp(-a)
    return (1.0 + a + a * a / 3.0) * value, -5.0 / 3.0 * t * (1.0 + a) * value, -5.0 / 3.0 * (1.0 + a - a * a) * value
