"""BLAS and LAPACK for compiled code, bound by name so that their callers can be kept on disk.

Matrices are flat arrays with an offset and the length of a row, so that one version of each function is compiled.
LAPACK stores matrices by columns, in which a matrix that is stored by rows is its transpose.
"""

import math
from typing import Any

import llvmlite.binding  # type: ignore[import-untyped]
import numpy as np
from numba import types
from numba.extending import get_cython_function_address

from uqms._native import A1, NONE, B, F, I, native
from uqms._typing import Array

__all__ = ["factor", "gemm", "inverted", "solve_lower", "times_lower"]

_POINTER = types.CPointer(types.double)
_INT, _CHAR = types.CPointer(types.int32), types.CPointer(types.uint8)


def _named(module: str, name: str, *arguments: Any) -> Any:
    """Make a function of BLAS or LAPACK known to LLVM, so that its callers can be kept on disk."""
    llvmlite.binding.add_symbol(f"uqms_{name}", get_cython_function_address(f"scipy.linalg.{module}", name))
    return types.ExternalFunction(f"uqms_{name}", types.void(*arguments))


_dgemm = _named(
    "cython_blas",
    "dgemm",
    *(_CHAR, _CHAR, _INT, _INT, _INT, _POINTER, _POINTER, _INT, _POINTER, _INT, _POINTER, _POINTER, _INT),
)
_dtrmm = _named(
    "cython_blas", "dtrmm", *(_CHAR, _CHAR, _CHAR, _CHAR, _INT, _INT, _POINTER, _POINTER, _INT, _POINTER, _INT)
)
_dtrsm = _named(
    "cython_blas", "dtrsm", *(_CHAR, _CHAR, _CHAR, _CHAR, _INT, _INT, _POINTER, _POINTER, _INT, _POINTER, _INT)
)
_dpotrf = _named("cython_lapack", "dpotrf", _CHAR, _INT, _POINTER, _INT, _INT)
_dpotri = _named("cython_lapack", "dpotri", _CHAR, _INT, _POINTER, _INT, _INT)

UPPER, LOWER, LEFT, RIGHT, PLAIN, TRANSPOSED = ord("U"), ord("L"), ord("L"), ord("R"), ord("N"), ord("T")


@native(NONE, B, B, I, I, I, F, A1, I, I, A1, I, I, F, A1, I, I)
def gemm(
    turn_a: bool,
    turn_b: bool,
    m: int,
    n: int,
    k: int,
    alpha: float,
    a: Array,
    a_at: int,
    a_row: int,
    b: Array,
    b_at: int,
    b_row: int,
    beta: float,
    c: Array,
    c_at: int,
    c_row: int,
) -> None:
    """Fill c (m, n) with alpha a b + beta c, where a (m, k) and b (k, n) are transposed first if requested."""
    flags, sizes, factors = np.empty(2, dtype=np.uint8), np.empty(6, dtype=np.int32), np.empty(2)
    flags[0], flags[1] = TRANSPOSED if turn_b else PLAIN, TRANSPOSED if turn_a else PLAIN
    sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5] = n, m, k, b_row, a_row, c_row
    factors[0], factors[1] = alpha, beta
    _dgemm(
        flags[0:].ctypes,
        flags[1:].ctypes,
        sizes[0:].ctypes,
        sizes[1:].ctypes,
        sizes[2:].ctypes,
        factors[0:].ctypes,
        b[b_at:].ctypes,
        sizes[3:].ctypes,
        a[a_at:].ctypes,
        sizes[4:].ctypes,
        factors[1:].ctypes,
        c[c_at:].ctypes,
        sizes[5:].ctypes,
    )


@native(NONE, B, I, I, A1, I, A1, I)
def times_lower(turned: bool, rows: int, n: int, lower: Array, lower_at: int, b: Array, b_at: int) -> None:
    """Replace b (rows, n) by b lower, or by b lower' if `turned`."""
    flags, sizes, factor = np.empty(4, dtype=np.uint8), np.empty(2, dtype=np.int32), np.ones(1)
    flags[0], flags[1], flags[2], flags[3] = LEFT, UPPER, TRANSPOSED if turned else PLAIN, PLAIN
    sizes[0], sizes[1] = n, rows
    _dtrmm(
        flags[0:].ctypes,
        flags[1:].ctypes,
        flags[2:].ctypes,
        flags[3:].ctypes,
        sizes[0:].ctypes,
        sizes[1:].ctypes,
        factor.ctypes,
        lower[lower_at:].ctypes,
        sizes[0:].ctypes,
        b[b_at:].ctypes,
        sizes[0:].ctypes,
    )


@native(F, A1, I)
def inverted(matrix: Array, n: int) -> float:
    """Replace a symmetric matrix (n, n) by its inverse and return the log-determinant; NaN if not positive definite."""
    flag, sizes = np.empty(1, dtype=np.uint8), np.empty(2, dtype=np.int32)
    flag[0], sizes[0] = LOWER, n  # by columns; the upper triangle by rows
    _dpotrf(flag.ctypes, sizes[0:].ctypes, matrix.ctypes, sizes[0:].ctypes, sizes[1:].ctypes)
    if sizes[1] != 0:
        return np.nan
    log_det = 0.0
    for i in range(n):
        log_det += 2.0 * math.log(matrix[i * n + i])
    _dpotri(flag.ctypes, sizes[0:].ctypes, matrix.ctypes, sizes[0:].ctypes, sizes[1:].ctypes)
    for i in range(n):
        for j in range(i):
            matrix[i * n + j] = matrix[j * n + i]
    return log_det


@native(F, A1, I)
def factor(matrix: Array, n: int) -> float:
    """Replace the lower triangle of a symmetric matrix (n, n) by its Cholesky factor; return the log-determinant.

    NaN where the matrix is not positive definite.
    """
    flag, sizes = np.empty(1, dtype=np.uint8), np.empty(2, dtype=np.int32)
    flag[0], sizes[0] = UPPER, n  # by columns; the lower triangle by rows
    _dpotrf(flag.ctypes, sizes[0:].ctypes, matrix.ctypes, sizes[0:].ctypes, sizes[1:].ctypes)
    if sizes[1] != 0:
        return np.nan
    log_det = 0.0
    for i in range(n):
        log_det += 2.0 * math.log(matrix[i * n + i])
    return log_det


@native(NONE, B, I, I, A1, A1)
def solve_lower(turned: bool, n: int, columns: int, lower: Array, b: Array) -> None:
    """Replace b (n, columns) by lower^-1 b, or by lower^-T b if `turned`."""
    flags, sizes, one = np.empty(4, dtype=np.uint8), np.empty(2, dtype=np.int32), np.ones(1)
    flags[0], flags[1], flags[2], flags[3] = RIGHT, UPPER, TRANSPOSED if turned else PLAIN, PLAIN
    sizes[0], sizes[1] = columns, n
    _dtrsm(
        flags[0:].ctypes,
        flags[1:].ctypes,
        flags[2:].ctypes,
        flags[3:].ctypes,
        sizes[0:].ctypes,
        sizes[1:].ctypes,
        one.ctypes,
        lower.ctypes,
        sizes[1:].ctypes,
        b.ctypes,
        sizes[0:].ctypes,
    )
