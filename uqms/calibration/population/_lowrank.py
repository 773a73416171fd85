"""The likelihood of `_marginal` with an error that different inputs share through a few features: linear in inputs.

==========  ===================================================================  ============
symbol      meaning                                                              shape
==========  ===================================================================  ============
k           surrogate input u_k, with its cells; K of them                       (K, d)
V           Nyström points; score j uses the first m_j of them                   (m, d)
W           w(u)' = (L^-1 k(x, u))' of all inputs; L, v, t as in `process`       (K, n)
P_j         fixed matrix of score j: Phi_j = [k(u, V), w', v'] P_j               (m_j+n+b, r_j)
Phi_j       features; error of score j: Phi_j(u_k) w_j + what is its own         (K, r_j)
rho         what is its own: exact variance minus |Phi_j|², not below 0          (K, q)
D, E, G     noise variance, truncation rows, basis rows of an input's cells      (c_k, .)
R           D + E E'                                                             (c_k, c_k)
C           R + G diag(rho) G'                                                   (c_k, c_k)
T, t        G' C^-1 G, G' C^-1 residual                                          (K, q, q)
F_k         block-diagonal: Phi_j(u_k) of all scores                             (q, M)
A           I + sum_k F_k' T_k F_k, M = sum_j r_j                                (M, M)
c           A^-1 sum_k F_k' t_k: mean of w given the data                        (M,)
y, Q        F_k c, F_k A^-1 F_k': mean and covariance of what is shared          (K, q, ...)
a           G' (total covariance)^-1 residual = t - T y                          (K, q)
==========  ===================================================================  ============

With the total covariance S = blockdiag(C) + (G F)(G F)': log|S| = sum log|C_k| + log|A|, and the quadratic form is that
of C less (F' t)' A^-1 (F' t). Nothing divides by rho or by the surrogate's variance.

Matrices are handed to BLAS and LAPACK by name, as flat arrays with an offset and the length of a row: then one version
of each call is compiled. LAPACK's order is by columns, in which a matrix stored by rows is its transpose.
"""

import ctypes
import math
from typing import Any

import llvmlite.binding  # type: ignore[import-untyped]
import numba
import numpy as np
from numba import types
from numba.extending import get_cython_function_address

from uqms._typing import Array, Ints
from uqms.calibration._marginal import DATA_HEADER, LOG_TWO_PI, PRECISION, collapsed
from uqms.surrogates._fused import HEADER, _shares, block_size, inputs_at, kernel_of, kernel_size, score_size
from uqms.surrogates.kernels import FAST, SINGLE, composite_of

__all__ = ["as_operation", "function", "fused"]

NAME = "uqms_lowrank_1"  # another number for other arguments: what is on disk knows only the name
_POINTER = types.CPointer(types.double)
_INT, _CHAR = types.CPointer(types.int32), types.CPointer(types.uint8)
SIGNATURE = types.double(
    *(_POINTER, types.int64),  # block and its length
    *(_POINTER, types.int64, types.int64),  # u (K, d)
    *(_POINTER, types.int64),  # sigma
    *(_POINTER, types.int64),  # z
    *(_POINTER, _POINTER),  # the derivatives by u and sigma, which are filled
)


def _named(module: str, name: str, *arguments: Any) -> Any:
    """Make a function of BLAS or LAPACK known to LLVM, so that what calls it can be kept on disk."""
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
_dpotrf = _named("cython_lapack", "dpotrf", _CHAR, _INT, _POINTER, _INT, _INT)
_dpotri = _named("cython_lapack", "dpotri", _CHAR, _INT, _POINTER, _INT, _INT)

UPPER, LOWER, LEFT, PLAIN, TRANSPOSED = ord("U"), ord("L"), ord("L"), ord("N"), ord("T")


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _gemm(
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
    """Fill c (m, n) with alpha a b + beta c, where a (m, k) and b (k, n) are turned first if asked."""
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


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _times_lower(turned: bool, rows: int, n: int, lower: Array, lower_at: int, b: Array, b_at: int) -> None:
    """Replace b (rows, n) by b lower, or by b lower' if turned."""
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


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _inverted(matrix: Array, n: int) -> float:
    """Replace a symmetric matrix (n, n) by its inverse and return its log-determinant; NaN where there is none."""
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


# --- kernels ----------------------------------------------------------------------------------------------------------

LOG2_E, MAGIC = 1.0 / math.log(2.0), 1.5 * 2.0**52  # adding it rounds to an integer, which stands in the last bits
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # ln 2 = their sum


@numba.njit(cache=True, nogil=True, fastmath={"contract"})  # type: ignore[untyped-decorator]
def _exp(x: float) -> float:
    """Return exp(x) of x <= 0 to the last digit or two, in steps that the compiler takes for several x at a time."""
    x = max(x, -700.0)
    shifted = x * LOG2_E + MAGIC
    n = shifted - MAGIC
    f = (x - n * LN2_HIGH) - n * LN2_LOW
    p = 1.0 / 6227020800.0
    p = p * f + 1.0 / 479001600.0
    p = p * f + 1.0 / 39916800.0
    p = p * f + 1.0 / 3628800.0
    p = p * f + 1.0 / 362880.0
    p = p * f + 1.0 / 40320.0
    p = p * f + 1.0 / 5040.0
    p = p * f + 1.0 / 720.0
    p = p * f + 1.0 / 120.0
    p = p * f + 1.0 / 24.0
    p = p * f + 1.0 / 6.0
    p = p * f + 0.5
    p = p * f + 1.0
    p = p * f + 1.0
    power = (np.float64(shifted).view(np.int64) << np.int64(52)) + (np.int64(1023) << np.int64(52))
    return float(p * np.int64(power).view(np.float64))


@numba.njit(cache=True, nogil=True, fastmath=FAST)  # type: ignore[untyped-decorator]
def _correlations(
    code: int,
    codes: Ints,
    terms: Ints,
    variance: float,
    scales: Array,
    shares: Array,
    u: Array,
    points: Array,
    columns: Array,
    kappa: Array,
    g: Array,
) -> None:
    """Fill kappa and g (K, n), times the variance, between inputs and points (n, d); `scales` (parts, d) are inverse.

    Sums and products of kernels leave g empty: `_slopes` takes it again. `columns` (d, n) is work space.
    """
    K, d = u.shape
    n = len(points)
    if code >= SINGLE:
        radials = np.empty(len(codes))
        for a in range(K):
            for i in range(n):
                kappa[a, i] = variance * composite_of(codes, terms, shares, scales, u[a], points[i], radials)
        return
    for c in range(d):
        for i in range(n):
            columns[c, i] = points[i, c] * scales[0, c]
    for a in range(K):
        r2 = g[a]
        for i in range(n):
            r2[i] = 0.0
        for c in range(d):
            at = u[a, c] * scales[0, c]
            for i in range(n):
                step = at - columns[c, i]
                r2[i] += step * step
        if code == 0:
            for i in range(n):
                value = variance * _exp(-0.5 * r2[i])
                kappa[a, i], g[a, i] = value, -value
        elif code == 1:
            for i in range(n):
                r = math.sqrt(3.0 * r2[i])
                value = variance * _exp(-r)
                kappa[a, i], g[a, i] = (1.0 + r) * value, -3.0 * value
        else:
            for i in range(n):
                r = math.sqrt(5.0 * r2[i])
                value = variance * _exp(-r)
                kappa[a, i], g[a, i] = (1.0 + r + r * r / 3.0) * value, -(5.0 / 3.0) * (1.0 + r) * value


@numba.njit(cache=True, nogil=True, fastmath=FAST)  # type: ignore[untyped-decorator]
def _slopes(
    code: int,
    codes: Ints,
    terms: Ints,
    variance: float,
    scales: Array,
    shares: Array,
    u: Array,
    points: Array,
    kappa_bar: Array,
    g: Array,
    u_bar: Array,
) -> None:
    """Add to u_bar (K, d) the derivative of kappa : kappa_bar; g is overwritten."""
    K, d = u.shape
    n = len(points)
    if code >= SINGLE:
        radials = np.empty(len(codes))
        for a in range(K):
            for i in range(n):
                composite_of(codes, terms, shares, scales, u[a], points[i], radials)
                bar = kappa_bar[a, i] * variance
                for p in range(len(codes)):
                    for c in range(d):
                        s = scales[p, c]
                        u_bar[a, c] += bar * radials[p] * (u[a, c] - points[i, c]) * s * s
        return
    moved = np.empty((K, d))
    total = np.empty(K)
    for a in range(K):
        s = 0.0
        for i in range(n):
            g[a, i] *= kappa_bar[a, i]
            s += g[a, i]
        total[a] = s
    flat = points.reshape(n * d)
    _gemm(False, False, K, d, n, 1.0, g.reshape(K * n), 0, n, flat, 0, d, 0.0, moved.reshape(K * d), 0, d)
    for a in range(K):
        for c in range(d):
            u_bar[a, c] += (total[a] * u[a, c] - moved[a, c]) * scales[0, c] * scales[0, c]


@numba.njit(cache=True, nogil=True, fastmath=FAST)  # type: ignore[untyped-decorator]
def _trend(u: Array, t: Array) -> None:
    """Fill the trend functions (K, b), see `training.trend_basis`."""
    K, d = u.shape
    for a in range(K):
        first = second = -1
        for c in range(t.shape[1]):
            t[a, c] = (1.0 if first < 0 else u[a, first]) * (1.0 if second < 0 else u[a, second])
            second += 1
            if second == d:
                first += 1
                second = first


@numba.njit(cache=True, nogil=True, fastmath=FAST)  # type: ignore[untyped-decorator]
def _trend_reverse(u: Array, t_bar: Array, u_bar: Array) -> None:
    """Add to u_bar (K, d) the derivative of the trend functions : t_bar (K, b)."""
    K, d = u.shape
    for a in range(K):
        first = second = -1
        for c in range(t_bar.shape[1]):
            if first >= 0:
                u_bar[a, first] += t_bar[a, c] * u[a, second]
            if second >= 0:
                u_bar[a, second] += t_bar[a, c] * (1.0 if first < 0 else u[a, first])
            second += 1
            if second == d:
                first += 1
                second = first


# --- features ---------------------------------------------------------------------------------------------------------


@numba.njit(cache=True, nogil=True, fastmath=FAST)  # type: ignore[untyped-decorator]
def _features(
    block: Array,
    rank: int,
    points: Array,
    P: Array,
    h: int,
    j: int,
    u: Array,
    W: Array,
    g: Array,
    g_points: Array,
    v: Array,
    mean: Array,
    phi: Array,
    own: Array,
) -> None:
    """Fill W (K, n), g (K, n), g_points (K, m), v (K, b), column j of mean and own (K, q), and phi (K, rank)."""
    q, n, d, b = int(block[1]), int(block[2]), int(block[3]), int(block[4])
    code, codes, terms = kernel_of(block)
    K, m = u.shape[0], len(points)
    at = inputs_at(block)
    x = block[at : at + n * d].reshape(n, d)
    at += n * d + (h * q + j) * score_size(block)
    size, parts = kernel_size(block), len(codes)
    scales = block[at : at + parts * d].reshape(parts, d)
    shares = _shares(block[at + parts * d : at + size])
    variance = block[at + size]
    at += size + 1
    beta = block[at : at + b]
    target = block[at + b : at + b + n]
    at += b + 2 * n
    factor_at, g_at = at, at + n * n
    root_at = g_at + 2 * n * b

    columns = np.empty((d, max(n, m)))
    _correlations(code, codes, terms, variance, scales, shares, u, x, columns, W, g)
    flat_w, flat_v, flat_phi, flat_p = W.reshape(K * n), v.reshape(K * b), phi.reshape(K * rank), P.reshape(-1)
    _times_lower(True, K, n, block, factor_at, flat_w, 0)
    rest = np.empty((K, b))
    flat_rest = rest.reshape(K * b)
    _trend(u, rest)
    for a in range(K):
        total = 0.0
        for c in range(b):
            total += rest[a, c] * beta[c]
        for i in range(n):
            total += W[a, i] * target[i]
        mean[a, j] = total
    if b:
        _gemm(False, False, K, b, n, -1.0, flat_w, 0, n, block, g_at, b, 1.0, flat_rest, 0, b)
        _gemm(False, True, K, b, b, 1.0, flat_rest, 0, b, block, root_at, b, 0.0, flat_v, 0, b)
    kv = np.empty((K, m))
    _correlations(code, codes, terms, variance, scales, shares, u, points, columns, kv, g_points)
    _gemm(False, False, K, rank, m, 1.0, kv.reshape(K * m), 0, m, flat_p, 0, rank, 0.0, flat_phi, 0, rank)
    _gemm(False, False, K, rank, n, 1.0, flat_w, 0, n, flat_p, m * rank, rank, 1.0, flat_phi, 0, rank)
    if b:
        _gemm(False, False, K, rank, b, 1.0, flat_v, 0, b, flat_p, (m + n) * rank, rank, 1.0, flat_phi, 0, rank)
    for a in range(K):
        s = variance
        for i in range(n):
            s -= W[a, i] * W[a, i]
        for c in range(b):
            s += v[a, c] * v[a, c]
        for i in range(rank):
            s -= phi[a, i] * phi[a, i]
        own[a, j] = max(s, 0.0)


@numba.njit(cache=True, nogil=True, fastmath=FAST)  # type: ignore[untyped-decorator]
def _features_reverse(
    block: Array,
    rank: int,
    points: Array,
    P: Array,
    h: int,
    j: int,
    u: Array,
    W: Array,
    g: Array,
    g_points: Array,
    v: Array,
    mean_bar: Array,
    phi_bar: Array,
    own_bar: Array,
    u_bar: Array,
) -> None:
    """Add to u_bar the derivative of what `_features` filled; W, g and g_points are overwritten.

    `phi_bar` holds already what own does through the features.
    """
    q, n, d, b = int(block[1]), int(block[2]), int(block[3]), int(block[4])
    code, codes, terms = kernel_of(block)
    K, m = u.shape[0], len(points)
    at = inputs_at(block)
    x = block[at : at + n * d].reshape(n, d)
    at += n * d + (h * q + j) * score_size(block)
    size, parts = kernel_size(block), len(codes)
    scales = block[at : at + parts * d].reshape(parts, d)
    shares = _shares(block[at + parts * d : at + size])
    variance = block[at + size]
    at += size + 1
    beta = block[at : at + b]
    target = block[at + b : at + b + n]
    at += b + 2 * n
    factor_at, g_at = at, at + n * n
    root_at = g_at + 2 * n * b

    flat_w, flat_p, flat_phi = W.reshape(K * n), P.reshape(-1), phi_bar.reshape(K * rank)
    for a in range(K):  # W becomes its own derivative
        s, e = -2.0 * own_bar[a, j], mean_bar[a, j]
        for i in range(n):
            W[a, i] = s * W[a, i] + e * target[i]
    _gemm(False, True, K, n, rank, 1.0, flat_phi, 0, rank, flat_p, m * rank, rank, 1.0, flat_w, 0, n)
    if b:
        v_bar, t_bar = np.empty((K, b)), np.empty((K, b))
        flat_v, flat_t = v_bar.reshape(K * b), t_bar.reshape(K * b)
        for a in range(K):
            for c in range(b):
                v_bar[a, c] = 2.0 * own_bar[a, j] * v[a, c]
        _gemm(False, True, K, b, rank, 1.0, flat_phi, 0, rank, flat_p, (m + n) * rank, rank, 1.0, flat_v, 0, b)
        _gemm(False, False, K, b, b, 1.0, flat_v, 0, b, block, root_at, b, 0.0, flat_t, 0, b)
        _gemm(False, True, K, n, b, -1.0, flat_t, 0, b, block, g_at, b, 1.0, flat_w, 0, n)
        for a in range(K):
            for c in range(b):
                t_bar[a, c] += mean_bar[a, j] * beta[c]
        _trend_reverse(u, t_bar, u_bar)
    _times_lower(False, K, n, block, factor_at, flat_w, 0)
    _slopes(code, codes, terms, variance, scales, shares, u, x, W, g, u_bar)
    kv_bar = np.empty((K, m))
    _gemm(False, True, K, m, rank, 1.0, flat_phi, 0, rank, flat_p, 0, rank, 0.0, kv_bar.reshape(K * m), 0, m)
    _slopes(code, codes, terms, variance, scales, shares, u, points, kv_bar, g_points, u_bar)


# --- the likelihood, given features -----------------------------------------------------------------------------------


@numba.njit(cache=True, nogil=True, fastmath=FAST)  # type: ignore[untyped-decorator]
def _factor(matrix: Array, n: int) -> float:
    """Factor I + something positive in place (lower) and return its log-determinant."""
    log_det = 0.0
    for j in range(n):
        pivot = matrix[j, j]
        for e in range(j):
            pivot -= matrix[j, e] * matrix[j, e]
        root = math.sqrt(max(pivot, 1.0))
        log_det += 2.0 * math.log(root)
        matrix[j, j] = root
        for i in range(j + 1, n):
            s = matrix[i, j]
            for e in range(j):
                s -= matrix[i, e] * matrix[j, e]
            matrix[i, j] = s / root
    return log_det


@numba.njit(cache=True, nogil=True, fastmath=FAST)  # type: ignore[untyped-decorator]
def _forward_solve(lower: Array, n: int, right: Array, m: int) -> None:
    """Replace the first n rows and m columns of `right` by lower^-1 of them."""
    for i in range(n):
        for j in range(i):
            factor = lower[i, j]
            for c in range(m):
                right[i, c] -= factor * right[j, c]
        inverse = 1.0 / lower[i, i]
        for c in range(m):
            right[i, c] *= inverse


@numba.njit(cache=True, nogil=True, fastmath=FAST)  # type: ignore[untyped-decorator]
def _noise_of(
    E: Array,
    first: int,
    last: int,
    basis: Array,
    rg: Array,
    rr: Array,
    rdiag: Array,
    inner: Array,
    half: Array,
    Y: Array,
) -> tuple[float, float]:
    """Turn D^-1 G, D^-1 residual and diag D^-1 of an input's cells into those of R, and return what truncation adds.

    That is to the log-determinant and to the quadratic form: R^-1 = D^-1 - half' half, where half is
    (1 + E' D^-1 E)^-1/2 E' D^-1.
    """
    width, q = E.shape[1], basis.shape[1]
    quadratic = 0.0
    for a in range(width):
        for b in range(a + 1):
            s = 1.0 if a == b else 0.0
            for c in range(first, last):
                s += E[c - first, a] * E[c - first, b] * rdiag[c]
            inner[a, b] = s
        if not inner[a, a] <= PRECISION:
            return np.inf, 0.0
        for c in range(first, last):
            half[a, c - first] = E[c - first, a] * rdiag[c]
    log_det = _factor(inner, width)
    _forward_solve(inner, width, half, last - first)
    for a in range(width):
        for j in range(q + 1):
            Y[a, j] = 0.0
        for c in range(first, last):
            for j in range(q):
                Y[a, j] += half[a, c - first] * basis[c, j]
            Y[a, q] += half[a, c - first] * rr[c] / rdiag[c]
        quadratic -= Y[a, q] * Y[a, q]
    for c in range(first, last):
        for a in range(width):
            f = half[a, c - first]
            for j in range(q):
                rg[c, j] -= f * Y[a, j]
            rr[c] -= f * Y[a, q]
            rdiag[c] -= f * f
    return log_det, quadratic


@numba.njit(cache=True, nogil=True, fastmath=FAST)  # type: ignore[untyped-decorator]
def _of_inputs(
    data: Array,
    sigma: Array,
    weight: Array,
    zbar: Array,
    mean: Array,
    own: Array,
    rg: Array,
    rr: Array,
    rdiag: Array,
    T: Array,
    t: Array,
) -> float:
    """Fill R^-1 G (N, q), R^-1 residual, diag R^-1 (N,), T and t; return log-determinant and quadratic form of C."""
    K, q, N, R = int(data[0]), int(data[1]), int(data[2]), int(data[3])
    starts, widths = data[DATA_HEADER : DATA_HEADER + K + 1], data[DATA_HEADER + K + 1 : DATA_HEADER + 2 * K + 1]
    at = DATA_HEADER + 2 * K + 1
    offset, group = data[at : at + N], data[at + N : at + 2 * N]
    basis = data[at + 2 * N : at + (2 + q) * N].reshape(N, q)
    at += (2 + q) * N + 2 * R
    most, widest = 0, 0
    for k in range(K):
        most, widest = max(most, int(starts[k + 1] - starts[k])), max(widest, int(widths[k]))
    inner, half, Y = np.empty((widest, widest)), np.empty((widest, most)), np.empty((widest, q + 1))
    W, w, H, X = np.empty((q, q)), np.empty(q), np.empty((q, q)), np.empty((q, q + 1))
    total = 0.0
    for k in range(K):
        first, last, width = int(starts[k]), int(starts[k + 1]), int(widths[k])
        for c in range(first, last):
            p = weight[c] / sigma[int(group[c])] ** 2
            e = zbar[c] - offset[c]
            for j in range(q):
                e -= basis[c, j] * mean[k, j]
                rg[c, j] = basis[c, j] * p
            rr[c], rdiag[c] = e * p, p
            total += e * e * p - math.log(p)
        if width:
            E = data[at : at + (last - first) * width].reshape(last - first, width)
            at += (last - first) * width
            log_det, quadratic = _noise_of(E, first, last, basis, rg, rr, rdiag, inner, half, Y)
            total += log_det + quadratic
            if not total < np.inf:
                return np.inf
        for j in range(q):
            w[j] = 0.0
            for i in range(q):
                W[j, i] = 0.0
        for c in range(first, last):
            for j in range(q):
                w[j] += basis[c, j] * rr[c]
                for i in range(q):
                    W[j, i] += basis[c, j] * rg[c, i]
        # C^-1 = R^-1 - R^-1 G root(rho) H^-1 root(rho) G' R^-1, H = 1 + root(rho) W root(rho)
        for j in range(q):
            root = math.sqrt(own[k, j])
            for i in range(j + 1):
                H[j, i] = root * W[j, i] * math.sqrt(own[k, i]) + (1.0 if i == j else 0.0)
            if not H[j, j] <= PRECISION:
                return np.inf
            for i in range(q):
                X[j, i] = root * W[j, i]
            X[j, q] = root * w[j]
        total += _factor(H, q)
        _forward_solve(H, q, X, q + 1)
        for j in range(q):
            total -= X[j, q] * X[j, q]
            e = w[j]
            for i in range(q):
                e -= X[i, j] * X[i, q]
                s = W[j, i]
                for a in range(q):
                    s -= X[a, j] * X[a, i]
                T[k, j, i] = s
            t[k, j] = e
    return float(total)


@numba.njit(cache=True, nogil=True, fastmath=FAST)  # type: ignore[untyped-decorator]
def _shared(ranks: Ints, phi: Array, T: Array, t: Array, c_mean: Array, y: Array, Q: Array, phi_bar: Array) -> float:
    """Fill c (M,), y, Q and the part of phi_bar that is not of single inputs; return what sharing adds to C's forms."""
    K, q = t.shape
    M = len(c_mean)
    A, right = np.zeros(M * M), np.zeros(M)
    scaled = np.empty(K * int(ranks.max()))
    row = 0  # where the features of score i and of score j begin
    for i in range(q):
        r, column = ranks[i], 0
        for j in range(i + 1):
            some = False
            for k in range(K):
                some = some or T[k, i, j] != 0.0
            if some:
                for k in range(K):
                    f = T[k, i, j]
                    for e in range(ranks[j]):
                        scaled[k * ranks[j] + e] = f * phi[K * column + k * ranks[j] + e]
                _gemm(True, False, ranks[j], r, K, 1.0, scaled, 0, ranks[j], phi, K * row, r, 0.0, A,
                      column * M + row, M)  # fmt: skip
            column += ranks[j]
        for k in range(K):
            f = t[k, i]
            for e in range(r):
                right[row + e] += f * phi[K * row + k * r + e]
        row += r
    for e in range(M):
        A[e * M + e] += 1.0
        if not A[e * M + e] <= PRECISION:
            return np.inf
    total = _inverted(A, M)
    if not total < np.inf:
        return np.inf
    for e in range(M):
        s = 0.0
        for i in range(M):
            s += A[e * M + i] * right[i]
        c_mean[e] = s
        total -= s * right[e]
    column = 0
    for j in range(q):
        r = ranks[j]
        for k in range(K):
            s = 0.0
            for e in range(r):
                s += phi[K * column + k * r + e] * c_mean[column + e]
                phi_bar[K * column + k * r + e] = 0.0
            y[k, j] = s
        row = 0
        for i in range(q):
            _gemm(False, False, K, r, ranks[i], 1.0, phi, K * row, ranks[i], A, row * M + column, M,
                  0.0, scaled, 0, r)  # fmt: skip
            for k in range(K):
                f, s = T[k, j, i], 0.0
                for e in range(r):
                    s += scaled[k * r + e] * phi[K * column + k * r + e]
                    phi_bar[K * column + k * r + e] -= f * scaled[k * r + e]
                Q[k, i, j] = s
            row += ranks[i]
        column += r
    return float(total)


@numba.njit(cache=True, nogil=True, fastmath=FAST)  # type: ignore[untyped-decorator]
def _slopes_of_inputs(
    ranks: Ints,
    phi: Array,
    own: Array,
    T: Array,
    t: Array,
    c_mean: Array,
    y: Array,
    Q: Array,
    phi_bar: Array,
    mean_bar: Array,
    own_bar: Array,
    covariance: Array,
) -> None:
    """Fill mean_bar, own_bar (K, q) and the covariance of all errors of an input given the data (K, q, q).

    Their mean takes the place of y. Adds to phi_bar. Where own is 0 it was cut off there, and has no derivative.
    """
    K, q = t.shape
    left, middle = np.empty((q, q)), np.empty((q, q))  # 1 - rho T, and that times Q
    for k in range(K):
        for j in range(q):
            s = t[k, j]
            for i in range(q):
                s -= T[k, j, i] * y[k, i]
                left[j, i] = (1.0 if i == j else 0.0) - own[k, j] * T[k, j, i]
            mean_bar[k, j] = s
        column = 0
        for j in range(q):
            p = T[k, j, j]
            for i in range(q):
                s = 0.0
                for e in range(q):
                    s += left[j, e] * Q[k, e, i]
                    p -= T[k, j, i] * Q[k, i, e] * T[k, e, j]
                middle[j, i] = s
            bar = 0.5 * (mean_bar[k, j] * mean_bar[k, j] - p) if own[k, j] > 0.0 else 0.0
            own_bar[k, j] = bar
            at, a = K * column + k * ranks[j], mean_bar[k, j]
            for e in range(ranks[j]):
                phi_bar[at + e] += a * c_mean[column + e] - 2.0 * bar * phi[at + e]
            column += ranks[j]
        for j in range(q):
            for i in range(q):
                s = own[k, j] * left[i, j]  # rho - rho T rho
                for e in range(q):
                    s += middle[j, e] * left[i, e]
                covariance[k, j, i] = s
        for j in range(q):
            y[k, j] += own[k, j] * mean_bar[k, j]


@numba.njit(cache=True, nogil=True, fastmath=FAST)  # type: ignore[untyped-decorator]
def _likelihood(
    data: Array,
    sigma: Array,
    z: Array,
    mean: Array,
    own: Array,
    ranks: Ints,
    phi: Array,
    mean_bar: Array,
    own_bar: Array,
    phi_bar: Array,
    sigma_bar: Array,
) -> float:
    """Return log p(z | mean, own, phi, sigma) and fill its derivatives; phi holds (K, r_j), score after score."""
    K, q, N, R = int(data[0]), int(data[1]), int(data[2]), int(data[3])
    starts, at = data[DATA_HEADER : DATA_HEADER + K + 1], DATA_HEADER + 2 * K + 1 + N
    group = data[at : at + N]
    at += N + N * q
    weight, zbar, squares, count, total = collapsed(data[at : at + R], data[at + R : at + 2 * R], z, N)
    for i in range(len(sigma)):
        sigma_bar[i] = 0.0
    for c in range(N):
        s2 = sigma[int(group[c])] ** 2
        total -= 0.5 * ((count[c] - 1.0) * math.log(s2) + count[c] * LOG_TWO_PI + math.log(weight[c]) + squares[c] / s2)
    T, t, y, Q = np.empty((K, q, q)), np.empty((K, q)), np.empty((K, q)), np.empty((K, q, q))
    rg, rr, rdiag, c_mean = np.empty((N, q)), np.empty(N), np.empty(N), np.empty(ranks.sum())
    total -= 0.5 * _of_inputs(data, sigma, weight, zbar, mean, own, rg, rr, rdiag, T, t)
    if not total > -np.inf:
        return -np.inf
    total -= 0.5 * _shared(ranks, phi, T, t, c_mean, y, Q, phi_bar)
    if not total > -np.inf:
        return -np.inf
    covariance = np.empty((K, q, q))
    _slopes_of_inputs(ranks, phi, own, T, t, c_mean, y, Q, phi_bar, mean_bar, own_bar, covariance)
    for k in range(K):
        for c in range(int(starts[k]), int(starts[k + 1])):
            s, p = rr[c], rdiag[c]
            for j in range(q):
                s -= rg[c, j] * y[k, j]
                for i in range(q):
                    p -= rg[c, j] * covariance[k, j, i] * rg[c, i]
            i = int(group[c])
            sigma_bar[i] += (
                (s * s - p) * sigma[i] / weight[c] - (count[c] - 1.0) / sigma[i] + squares[c] / sigma[i] ** 3
            )
    return float(total)


# --- all of it, as a C function ---------------------------------------------------------------------------------------


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _data_size(data: Array) -> int:
    """Return how many numbers `Cells.flat` has."""
    K, q, N, R = int(data[0]), int(data[1]), int(data[2]), int(data[3])
    size = DATA_HEADER + 2 * K + 1 + 2 * N + N * q + 2 * R
    for k in range(K):
        starts = DATA_HEADER + k
        size += int((data[starts + 1] - data[starts]) * data[DATA_HEADER + K + 1 + k])
    return int(size)


@numba.cfunc(SIGNATURE, cache=True)
def _function(block_at, length, u_at, K, d, sigma_at, groups, z_at, rows, u_bar_at, sigma_bar_at):  # type: ignore[no-untyped-def]
    """Average over draws of hyperparameters one by one: what was summed is scaled down when a larger one comes."""
    block, u, sigma = numba.carray(block_at, (length,)), numba.carray(u_at, (K, d)), numba.carray(sigma_at, (groups,))
    z, u_bar, sigma_bar = (
        numba.carray(z_at, (rows,)),
        numba.carray(u_bar_at, (K, d)),
        numba.carray(sigma_bar_at, (groups,)),
    )
    draws, q, n, b = int(block[0]), int(block[1]), int(block[2]), int(block[4])
    at = block_size(block)
    data = block[at:]
    at += _data_size(data)
    most = int(block[at])
    ranks, counts = np.empty(q, dtype=np.int64), np.empty(q, dtype=np.int64)
    for j in range(q):
        ranks[j], counts[j] = int(block[at + 1 + j]), int(block[at + 1 + q + j])
    at += 1 + 2 * q
    points = block[at : at + most * d].reshape(most, d)
    at += most * d
    M = ranks.sum()
    W, g, g_points, v = np.empty((q, K, n)), np.empty((q, K, n)), np.empty((q, K * most)), np.empty((q, K, b))
    phi, phi_bar = np.empty(K * M), np.empty(K * M)
    mean, own, mean_bar, own_bar = np.empty((K, q)), np.empty((K, q)), np.empty((K, q)), np.empty((K, q))
    part, s_bar = np.empty((K, d)), np.empty(groups)
    top, norm = -np.inf, 0.0
    for k in range(K):
        for c in range(d):
            u_bar[k, c] = 0.0
    for i in range(groups):
        sigma_bar[i] = 0.0
    for h in range(draws):
        begin = 0
        here = at
        for j in range(q):
            r, m = ranks[j], counts[j]
            P = block[here : here + (m + n + b) * r].reshape(m + n + b, r)
            here += (m + n + b) * r
            _features(block, r, points[:m], P, h, j, u, W[j], g[j], g_points[j, : K * m].reshape(K, m), v[j], mean,
                      phi[K * begin : K * (begin + r)].reshape(K, r), own)  # fmt: skip
            begin += r
        value = block[HEADER + h] + _likelihood(
            data, sigma, z, mean, own, ranks, phi, mean_bar, own_bar, phi_bar, s_bar
        )
        if not value > -np.inf:
            at = here
            continue
        for k in range(K):
            for c in range(d):
                part[k, c] = 0.0
        begin = 0
        here = at
        for j in range(q):
            r, m = ranks[j], counts[j]
            P = block[here : here + (m + n + b) * r].reshape(m + n + b, r)
            here += (m + n + b) * r
            _features_reverse(block, r, points[:m], P, h, j, u, W[j], g[j], g_points[j, : K * m].reshape(K, m), v[j],
                              mean_bar, phi_bar[K * begin : K * (begin + r)].reshape(K, r), own_bar, part)  # fmt: skip
            begin += r
        at = here
        largest = max(top, value)
        old, new = math.exp(top - largest), math.exp(value - largest)
        top, norm = largest, norm * old + new
        for k in range(K):
            for c in range(d):
                u_bar[k, c] = u_bar[k, c] * old + part[k, c] * new
        for i in range(groups):
            sigma_bar[i] = sigma_bar[i] * old + s_bar[i] * new
    if not norm > 0.0:
        return -np.inf
    for k in range(K):
        for c in range(d):
            u_bar[k, c] /= norm
    for i in range(groups):
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


def fused(block: Array, u: Array, sigma: Array, z: Array) -> tuple[float, Array, Array]:
    """Return log p(z | u, sigma) and its derivatives by u (K, d) and sigma.

    The block holds the surrogate (`ScoreProcess.flat`), the data (`Cells.flat`) and the features (`SharedError.flat`).
    """
    block, u, sigma, z = (np.ascontiguousarray(one, dtype=np.float64) for one in (block, u, sigma, z))
    u_bar, sigma_bar = np.empty(u.shape), np.empty(sigma.shape)
    value = function(block, u, sigma, z, u_bar, sigma_bar)
    return value, u_bar, sigma_bar
