"""Correlations from squared distances, in place: one pass over numbers that are in the processor's cache.

numpy takes a pass each for root, exponential, products and sums, and its exponential is a scalar one on many machines.
Here all of it is one loop that the compiler turns into vector instructions; the exponential is exp(-a) =
2^n exp(r) with |r| <= log(2) / 2 and a polynomial, right to a few units in the last place.
"""

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic

from uqms._compiled import compiled
from uqms._typing import Array
from uqms.surrogates.kernels import SINGLE, before_decay, part_of

__all__ = ["decay", "factor_of", "radial", "radial_slopes"]

MAGIC = 6755399441055744.0  # 1.5 * 2^52: adding it rounds to a whole number, which the last bits then hold
PER_LOG2 = 1.4426950408889634
LOG2_HIGH, LOG2_LOW = 0.6931471803691238, 1.9082149292705877e-10
LARGEST = 700.0  # of a: exp(-700) is 1e-304


@intrinsic  # type: ignore[untyped-decorator]
def _as_bits(typing: Any, x: Any) -> Any:
    """Return the bits of a float64 as an int64."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), code


@intrinsic  # type: ignore[untyped-decorator]
def _as_float(typing: Any, bits: Any) -> Any:
    """Return the float64 of the bits of an int64."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), code


@compiled(fastmath={"contract"})
def decay(a: float) -> float:
    """Return exp(-a) for a >= 0, in steps that the compiler takes for several a at a time.

    It has flags of its own: a caller that reorders sums would take the rounding by `MAGIC` for nothing.
    """
    a = min(a, LARGEST)
    shifted = MAGIC - a * PER_LOG2
    n = shifted - MAGIC
    r = -a - n * LOG2_HIGH - n * LOG2_LOW
    p = 1.0 / 479001600.0  # Taylor's, to the power 12
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    return p * _as_float((_as_bits(shifted) + 1023) << 52)  # type: ignore[no-any-return]


def factor_of(code: int) -> float:
    """Return by what `radial` takes squared distances: 3, 5, 7 and 11 for Matérn 3/2, 5/2, 7/2 and 11/2."""
    return (1.0, 3.0, 5.0, 7.0, 11.0)[code] if code < SINGLE else 1.0


@compiled(fastmath={"contract"})
def radial(code: int, r2: Array) -> None:
    """Make correlations of squared distances in length scales, times `factor_of(code)`.

    `code` is that of `kernels`; `r2` is contiguous, of any shape.
    """
    flat = r2.ravel()
    if code >= SINGLE:
        for i in range(flat.size):
            flat[i] = part_of(code, max(flat[i], 0.0))[0]
    elif code == 0:
        for i in range(flat.size):
            flat[i] = decay(0.5 * max(flat[i], 0.0))
    elif code == 1:
        for i in range(flat.size):
            a = np.sqrt(max(flat[i], 0.0))
            flat[i] = (1.0 + a) * decay(a)
    elif code == 2:
        for i in range(flat.size):
            x = max(flat[i], 0.0)
            a = np.sqrt(x)
            flat[i] = (1.0 + a + x * (1.0 / 3.0)) * decay(a)
    elif code == 3:
        for i in range(flat.size):
            x = max(flat[i], 0.0)
            a = np.sqrt(x)
            flat[i] = (1.0 + a + x * (0.4 + a * (1.0 / 15.0))) * decay(a)
    else:
        for i in range(flat.size):
            a = np.sqrt(max(flat[i], 0.0))
            flat[i] = before_decay(a)[0] * decay(a)


@compiled(fastmath={"contract"})
def radial_slopes(code: int, r2: Array, g: Array) -> None:
    """Make correlations of squared distances in length scales r2 (n,), and fill their radial slopes g (n,)."""
    n = len(r2)
    if code >= SINGLE:
        for i in range(n):
            r2[i], g[i] = part_of(code, r2[i])
    elif code == 0:
        for i in range(n):
            r2[i] = decay(0.5 * r2[i])
            g[i] = -r2[i]
    elif code == 1:
        for i in range(n):
            a = np.sqrt(3.0 * r2[i])
            value = decay(a)
            r2[i], g[i] = (1.0 + a) * value, -3.0 * value
    elif code == 2:
        for i in range(n):
            a = np.sqrt(5.0 * r2[i])
            value = decay(a)
            r2[i], g[i] = (1.0 + a + a * a * (1.0 / 3.0)) * value, -(5.0 / 3.0) * (1.0 + a) * value
    elif code == 3:
        for i in range(n):
            a = np.sqrt(7.0 * r2[i])
            value = decay(a)
            rougher = 1.0 + a + a * a * (1.0 / 3.0)
            r2[i], g[i] = (1.0 + a + a * a * (0.4 + a * (1.0 / 15.0))) * value, -1.4 * rougher * value
    else:
        for i in range(n):
            a = np.sqrt(11.0 * r2[i])
            value = decay(a)
            both = before_decay(a)
            r2[i], g[i] = both[0] * value, both[1] * value
