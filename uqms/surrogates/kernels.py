"""Stationary kernels, and the compiled kernel algebra that training, prediction and likelihoods share.

==========  ===================================================  ==================
symbol      meaning                                              shape
==========  ===================================================  ==================
u           inputs in the unit cube of the design box            (k, d)
x           training inputs, same map                            (n, d)
ell         length scales, one an input                          (d,)
kappa       correlation, a function f(r) of r = |(u - x) / ell|  (k, n)
g           f'(r) / r, so that d kappa / d u = g (u - x) / ell²  (k, n)
==========  ===================================================  ==================
"""

import math
from dataclasses import dataclass
from typing import ClassVar, final

import numba
import numpy as np
from jaxtyping import Float

from uqms._typing import Array

__all__ = ["KINDS", "Kernel", "Matern32", "Matern52", "SquaredExponential"]

# Sums may be re-ordered for speed; NaN and infinity keep their meaning.
FAST = {"reassoc", "contract", "arcp", "nsz"}


@final
@dataclass(frozen=True)
class SquaredExponential:
    """Squared-exponential (Gaussian, RBF) kernel with one length scale an input: for outputs that are analytic.

    When in doubt use `Matern52`, which does not believe in infinite smoothness.

    Examples
    --------
    >>> SquaredExponential().code
    0
    """

    code: ClassVar[int] = 0


@final
@dataclass(frozen=True)
class Matern32:
    """Matérn kernel of smoothness 3/2 with one length scale an input: for outputs with kinks.

    Examples
    --------
    >>> Matern32().code
    1
    """

    code: ClassVar[int] = 1


@final
@dataclass(frozen=True)
class Matern52:
    """Matérn kernel of smoothness 5/2 with one length scale an input: the default for simulators.

    Examples
    --------
    >>> Matern52().code
    2
    """

    code: ClassVar[int] = 2


Kernel = SquaredExponential | Matern32 | Matern52
KINDS: dict[int, Kernel] = {0: SquaredExponential(), 1: Matern32(), 2: Matern52()}


@numba.njit(cache=True, nogil=True, fastmath=FAST, inline="always")  # type: ignore[untyped-decorator]
def correlation_of(code: int, r2: float) -> tuple[float, float]:
    """Return kappa and g for a squared scaled distance."""
    if code == 0:
        value = math.exp(-0.5 * r2)
        return value, -value
    if code == 1:
        a = math.sqrt(3.0 * r2)
        value = math.exp(-a)
        return (1.0 + a) * value, -3.0 * value
    a = math.sqrt(5.0 * r2)
    value = math.exp(-a)
    return (1.0 + a + a * a / 3.0) * value, -(5.0 / 3.0) * (1.0 + a) * value


@numba.njit(cache=True, nogil=True, fastmath=FAST)  # type: ignore[untyped-decorator]
def _cross(code: int, u: Array, x: Array, inverse_ell: Array, kappa: Array, g: Array) -> None:
    for i in range(u.shape[0]):
        for j in range(x.shape[0]):
            r2 = 0.0
            for c in range(u.shape[1]):
                step = (u[i, c] - x[j, c]) * inverse_ell[c]
                r2 += step * step
            kappa[i, j], g[i, j] = correlation_of(code, r2)


def correlation(
    kernel: Kernel, u: Float[np.ndarray, "k d"], x: Float[np.ndarray, "n d"], ell: Float[np.ndarray, " d"]
) -> tuple[Float[np.ndarray, "k n"], Float[np.ndarray, "k n"]]:
    """Return the correlation between the rows of `u` and `x`, and its radial derivative g."""
    kappa = np.empty((len(u), len(x)))
    g = np.empty_like(kappa)
    _cross(kernel.code, np.ascontiguousarray(u), np.ascontiguousarray(x), 1.0 / ell, kappa, g)
    return kappa, g
