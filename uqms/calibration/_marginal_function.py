"""The likelihood of `_marginal` and its derivatives as a C function that other compiled code calls by name.

Compiled code that calls a numba function is optimised together with all that it calls, again in each layer. By name,
it is compiled once and kept on disk; what PyTensor makes around it takes a second, not twenty. The name is made known
to LLVM when this module is imported, which is before any code that calls it is compiled or read from disk.
"""

import ctypes
import math
from typing import Any

import llvmlite.binding  # type: ignore[import-untyped]
import numba
import numpy as np
from numba import types

from uqms._typing import Array
from uqms.calibration._marginal import marginal
from uqms.surrogates._fused import block_size, forward, reverse

__all__ = ["as_operation", "function"]

NAME = "uqms_marginal_1"  # another number for other arguments: what is on disk knows only the name
_POINTER = types.CPointer(types.double)
SIGNATURE = types.double(
    *(_POINTER, types.int64),  # block and its length
    *(_POINTER, types.int64, types.int64),  # u (K, d)
    *(_POINTER, types.int64),  # sigma
    *(_POINTER, types.int64),  # z
    *(_POINTER, _POINTER),  # the derivatives by u and sigma, which are filled
)


@numba.cfunc(SIGNATURE, cache=True)
def _function(block_at, length, u_at, K, d, sigma_at, groups, z_at, rows, u_bar_at, sigma_bar_at):  # type: ignore[no-untyped-def]
    """Average over draws of hyperparameters one by one: what was summed is scaled down when a larger one comes.

    It has no function of its own that it would call, since that would be compiled twice.
    """
    block, u, sigma = numba.carray(block_at, (length,)), numba.carray(u_at, (K, d)), numba.carray(sigma_at, (groups,))
    z, u_bar, sigma_bar = (
        numba.carray(z_at, (rows,)),
        numba.carray(u_bar_at, (K, d)),
        numba.carray(sigma_bar_at, (groups,)),
    )
    draws, q, n, b = int(block[0]), int(block[1]), int(block[2]), int(block[4])
    data = block[block_size(block) :]
    N, g = int(data[2]), groups
    mean, covariance = np.empty((K, q)), np.empty((q, K, K))
    mean_bar, cov_bar, s_bar = np.empty((K, q)), np.empty((q, K, K)), np.empty(g)
    kg, t, v = np.empty((q, K, n)), np.empty((q, K, n)), np.empty((q, K, b))
    alpha, precision, column, part = np.empty(N), np.empty(N), np.empty(K), np.empty((K, d))
    top, norm = -np.inf, 0.0
    for k in range(K):
        for c in range(d):
            u_bar[k, c] = 0.0
    for i in range(g):
        sigma_bar[i] = 0.0
    for h in range(draws):
        for j in range(q):
            forward(block, h, j, u, column, covariance[j], kg[j], t[j], v[j])
            for k in range(K):
                mean[k, j] = column[k]
        value = block[6 + h] + marginal(data, mean, covariance, sigma, z, mean_bar, cov_bar, s_bar, alpha, precision)
        if not value > -np.inf:
            continue
        for k in range(K):
            for c in range(d):
                part[k, c] = 0.0
        for j in range(q):
            for k in range(K):
                column[k] = mean_bar[k, j]
            reverse(block, h, j, u, kg[j], t[j], v[j], column, cov_bar[j], part)
        largest = max(top, value)
        old, new = math.exp(top - largest), math.exp(value - largest)
        top, norm = largest, norm * old + new
        for k in range(K):
            for c in range(d):
                u_bar[k, c] = u_bar[k, c] * old + part[k, c] * new
        for i in range(g):
            sigma_bar[i] = sigma_bar[i] * old + s_bar[i] * new
    if not norm > 0.0:
        return -np.inf
    for k in range(K):
        for c in range(d):
            u_bar[k, c] /= norm
    for i in range(g):
        sigma_bar[i] /= norm
    return float(top + math.log(norm))


llvmlite.binding.add_symbol(NAME, _function.address)
_by_name = types.ExternalFunction(NAME, SIGNATURE)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def as_operation(block: Array, u: Array, sigma: Array, z: Array) -> tuple[Array, Array, Array]:
    """Return value and derivatives as arrays, as a PyTensor operation wants them."""
    block, u, sigma, z = (
        np.ascontiguousarray(block),
        np.ascontiguousarray(u),
        np.ascontiguousarray(sigma),
        np.ascontiguousarray(z),
    )
    (K, d), g = u.shape, len(sigma)
    value, u_bar, sigma_bar = np.empty(()), np.empty((K, d)), np.empty(g)
    value[()] = _by_name(
        block.ctypes, len(block), u.ctypes, K, d, sigma.ctypes, g, z.ctypes, len(z), u_bar.ctypes, sigma_bar.ctypes
    )
    return value, u_bar, sigma_bar


def function(block: Array, u: Array, sigma: Array, z: Array, u_bar: Array, sigma_bar: Array) -> float:
    """Return the value and fill the derivatives, from Python; all arrays contiguous."""
    at: Any = [one.ctypes.data_as(ctypes.POINTER(ctypes.c_double)) for one in (block, u, sigma, z, u_bar, sigma_bar)]
    sizes = (len(block), *u.shape, len(sigma), len(z))
    return float(
        _function.ctypes(at[0], sizes[0], at[1], sizes[1], sizes[2], at[2], sizes[3], at[3], sizes[4], at[4], at[5])
    )
