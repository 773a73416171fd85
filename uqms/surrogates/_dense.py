"""Passes over the matrices of one process, compiled: one in the place of several in NumPy."""

import numpy as np

from uqms._compiled import compiled
from uqms._typing import Array
from uqms.surrogates.radial import radial

__all__ = ["fill_adjoint", "fill_correlation", "fill_sum"]

TILE = 16  # columns that are mirrored together, so that both sides stay in the processor's cache


@compiled(fastmath={"contract"})
def fill_adjoint(inverse: Array, left: Array, right: Array, weights: Array, factor: float) -> None:
    """Replace the upper triangle of K^-1 by (factor w w' - K^-1 + left' right) / 2, and mirror it.

    `left` and `right` are (b, n), the two factors of the matrix that the trend subtracts from K^-1.
    """
    n = inverse.shape[0]
    for i in range(n):
        row, own = inverse[i], 0.5 * factor * weights[i]
        for j in range(i, n):
            row[j] = own * weights[j] - 0.5 * row[j]
        for k in range(left.shape[0]):
            half = 0.5 * left[k, i]
            for j in range(i, n):
                row[j] += half * right[k, j]
    for first in range(0, n, TILE):
        for i in range(first, n):
            for j in range(first, min(first + TILE, i)):
                inverse[i, j] = inverse[j, i]


@compiled(fastmath={"contract"}, inline="always")
def _fill_squares(z: Array, i: int, r2: Array) -> None:
    """Fill the squared distances r2 (n - i,) of input i to those from i on; `z` (d, n)."""
    r2[:] = 0.0
    for c in range(len(z)):
        here, others = z[c, i], z[c, i:]
        for j in range(len(r2)):
            step = here - others[j]
            r2[j] += step * step


@compiled(fastmath={"contract"})
def fill_sum(code: int, z: Array, alone: Array, shares: Array, kappa: Array) -> None:
    """Fill the upper triangle (n, n) of a sum: of a correlation of all inputs and of one of each, with these shares.

    `z` (d, n) are inputs as `fill_correlation` takes them, `alone` the same in the length scales of single inputs.
    """
    d, n = z.shape
    for i in range(n):
        total, r2 = kappa[i, i:], np.empty(n - i)
        _fill_squares(z, i, r2)
        radial(code, r2)
        for j in range(len(r2)):
            total[j] = shares[0] * r2[j]
        for c in range(d):
            _fill_squares(alone[c : c + 1], i, r2)
            radial(code, r2)
            for j in range(len(r2)):
                total[j] += shares[1 + c] * r2[j]


@compiled(fastmath={"contract"})
def fill_correlation(code: int, z: Array, amplitude: Array, kappa: Array) -> None:
    """Fill the upper triangle (n, n) of the correlation between inputs with themselves.

    `z` (d, n) are inputs in length scales, times the square root of `radial.factor_of(code)`; see `kernels` for `code`.
    """
    n = z.shape[1]
    for i in range(n):
        r2 = kappa[i, i:]
        _fill_squares(z, i, r2)
        radial(code, r2)
        sizes = amplitude[i:]
        for j in range(len(r2)):
            r2[j] *= sizes[0] * sizes[j]
