"""The Gaussian likelihood with the surrogate's error integrated out: value, derivatives and leave-one-out parts.

==========  ===================================================================  ===========
symbol      meaning                                                              shape
==========  ===================================================================  ===========
k           experiment: one known condition, one surrogate input u_k             K
c           cell: an output at a coordinate of one experiment; replicates share  N
r           row of the table of observations                                     R
z           observed values                                                      (R,)
mu, S       scores' mean, and covariance between inputs                          (K, q), (q, K, K)
G, E        basis and truncation rows of the cells                               (N, q), (N, t_k)
D           noise variance of a cell's weighted mean: sigma² / sum of weights    (N,)
R_k         D + E E' of one experiment's cells                                   (c_k, c_k)
W, w        G' R^-1 G (block-diagonal), G' R^-1 residual                         (Kq, Kq), (Kq,)
L           S = L L' (scores are independent, inputs are not)                    (Kq, Kq)
A           I + L' W L                                                           (Kq, Kq)
M           L A^-1 L': covariance of the surrogate's errors given the data       (Kq, Kq)
==========  ===================================================================  ===========

With C = R + G S G': C^-1 = R^-1 - R^-1 G M G' R^-1, log|C| = log|R| + log|A|. Nothing divides by S, so runs at the very
input (S = 0) are no special case. Replicates of a cell collapse exactly to their weighted mean and sum of squares.
"""

import math
from typing import Any, NamedTuple

import numba
import numpy as np

from uqms._typing import Array, Ints

__all__ = ["collapsed", "evaluate", "fused", "marginal", "mixed"]

LOG_TWO_PI = math.log(2.0 * math.pi)
DATA_HEADER = 5
# Beyond this ratio of surrogate variance to noise variance, double precision loses whole nats: no density is given.
PRECISION = 1e13
NUMBERS = 2_000_000  # in the largest array of `evaluate`


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _cholesky(matrix: Array, least: float) -> float:
    """Factor a symmetric matrix in place (lower) and return its log-determinant.

    With least = 0 the matrix may be singular: a zero pivot gives a zero column. With least = 1 it is I + something
    positive, whose pivots rounding may bring below 1, but never the truth.
    """
    n = matrix.shape[0]
    largest = 0.0
    for i in range(n):
        largest = max(largest, matrix[i, i])
    log_det = 0.0
    for j in range(n):
        pivot = matrix[j, j]
        for m in range(j):
            pivot -= matrix[j, m] * matrix[j, m]
        pivot = max(pivot, least)
        if least == 0.0 and pivot <= 1e-14 * largest:
            for i in range(j, n):
                matrix[i, j] = 0.0
            continue
        root = math.sqrt(pivot)
        log_det += 2.0 * math.log(root)
        matrix[j, j] = root
        for i in range(j + 1, n):
            s = matrix[i, j]
            for m in range(j):
                s -= matrix[i, m] * matrix[j, m]
            matrix[i, j] = s / root
    for i in range(n):
        for j in range(i + 1, n):
            matrix[i, j] = 0.0
    return log_det


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _solve_lower(lower: Array, right: Array) -> None:
    """Replace right (n, m) by lower^-1 right."""
    n, m = right.shape
    for i in range(n):
        for j in range(i):
            factor = lower[i, j]
            if factor != 0.0:
                for c in range(m):
                    right[i, c] -= factor * right[j, c]
        inverse = 1.0 / lower[i, i]
        for c in range(m):
            right[i, c] *= inverse


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def collapsed(row_cell: Array, row_variance: Array, z: Array, cells: int) -> tuple[Array, Array, Array, Array, float]:
    """Return weight, mean, within-sum of squares and count of each cell's replicates (N,), and a constant."""
    weight, zbar, squares, count = np.zeros(cells), np.zeros(cells), np.zeros(cells), np.zeros(cells)
    constant = 0.0
    for r in range(len(z)):
        c = int(row_cell[r])
        weight[c] += 1.0 / row_variance[r]
        zbar[c] += z[r] / row_variance[r]
        count[c] += 1.0
        constant -= 0.5 * math.log(row_variance[r])
    for c in range(cells):
        zbar[c] /= weight[c]
    for r in range(len(z)):
        c = int(row_cell[r])
        off = z[r] - zbar[c]
        squares[c] += off * off / row_variance[r]
    return weight, zbar, squares, count, constant


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def marginal(
    data: Array,
    mean: Array,
    covariance: Array,
    sigma: Array,
    z: Array,
    mean_bar: Array,
    cov_bar: Array,
    sigma_bar: Array,
    alpha: Array,
    precision: Array,
) -> float:
    """Return log p(z | scores, sigma); fill its derivatives, alpha = C^-1 residual and precision = diag C^-1 (N,)."""
    K, q, N, R = int(data[0]), int(data[1]), int(data[2]), int(data[3])
    at = DATA_HEADER
    starts = data[at : at + K + 1]
    at += K + 1
    ranks = data[at : at + K]
    at += K
    offset = data[at : at + N]
    at += N
    group = data[at : at + N]
    at += N
    basis = data[at : at + N * q].reshape(N, q)
    at += N * q
    row_cell = data[at : at + R]
    at += R
    row_variance = data[at : at + R]
    at += R  # the truncation factors follow, one experiment after the other
    for k in range(K):  # element by element: slices that are assigned to take seconds to compile
        for j in range(q):
            mean_bar[k, j] = 0.0
            for m in range(K):
                cov_bar[j, k, m] = 0.0
    for g in range(len(sigma)):
        sigma_bar[g] = 0.0
    for c in range(N):
        alpha[c], precision[c] = 0.0, 0.0

    weight, zbar, squares, count, total = collapsed(row_cell, row_variance, z, N)
    for c in range(N):
        s2 = sigma[int(group[c])] ** 2
        total -= (
            0.5 * (count[c] - 1.0) * (LOG_TWO_PI + math.log(s2)) + 0.5 * math.log(weight[c]) + 0.5 * squares[c] / s2
        )

    size = K * q
    W = np.zeros((K, q, q))
    w = np.zeros((K, q))
    rg = np.empty((N, q))  # R^-1 G
    rr = np.empty(N)  # R^-1 residual
    rdiag = np.empty(N)  # diag R^-1
    quadratic, log_det = 0.0, 0.0
    for k in range(K):
        first, last, t = int(starts[k]), int(starts[k + 1]), int(ranks[k])
        n = last - first
        E = data[at : at + n * t].reshape(n, t)
        at += n * t
        X = np.empty((n, q + 1))
        for i in range(n):
            c = first + i
            d = sigma[int(group[c])] ** 2 / weight[c]
            log_det += math.log(d)
            residual = zbar[c] - offset[c]
            for j in range(q):
                residual -= basis[c, j] * mean[k, j]
                X[i, j] = basis[c, j] / d
            X[i, q] = residual / d
            rr[c] = residual
            rdiag[c] = 1.0 / d
        if t:
            inner = np.eye(t)
            for a in range(t):
                for b in range(a + 1):
                    s = 0.0
                    for i in range(n):
                        s += E[i, a] * E[i, b] * rdiag[first + i]
                    inner[a, b] += s
            for a in range(t):
                for b in range(a):
                    inner[b, a] = inner[a, b]
            for a in range(t):
                if inner[a, a] > PRECISION:
                    return -np.inf
            log_det += _cholesky(inner, 1.0)
            half = np.empty((t, n))  # inner^-1/2 E' D^-1
            for a in range(t):
                for i in range(n):
                    half[a, i] = E[i, a] * rdiag[first + i]
            _solve_lower(inner, half)
            Y = np.zeros((t, q + 1))
            for a in range(t):
                for i in range(n):
                    d = 1.0 / rdiag[first + i]
                    for j in range(q + 1):
                        Y[a, j] += half[a, i] * X[i, j] * d
            for i in range(n):
                for a in range(t):
                    for j in range(q + 1):
                        X[i, j] -= half[a, i] * Y[a, j]
            for i in range(n):
                s = 0.0
                for a in range(t):
                    s += half[a, i] * half[a, i]
                rdiag[first + i] -= s
        for i in range(n):
            c = first + i
            quadratic += rr[c] * X[i, q]
            for j in range(q):
                w[k, j] += basis[c, j] * X[i, q]
                rg[c, j] = X[i, j]
                for m in range(q):
                    W[k, j, m] += basis[c, j] * X[i, m]
            rr[c] = X[i, q]

    L = np.zeros((size, size))  # index k * q + j
    factor = np.empty((K, K))
    for j in range(q):
        for k in range(K):
            for m in range(K):
                factor[k, m] = covariance[j, k, m]
        _cholesky(factor, 0.0)
        for k in range(K):
            for m in range(k + 1):
                L[k * q + j, m * q + j] = factor[k, m]
    WL = np.zeros((size, size))
    for k in range(K):
        for j in range(q):
            for m in range(k + 1):
                for i in range(q):
                    WL[k * q + j, m * q + i] = W[k, j, i] * L[k * q + i, m * q + i]
    A = L.T @ WL
    worst = 0.0
    for i in range(size):
        A[i, i] += 1.0
        worst = max(worst, A[i, i])
    if worst > PRECISION:
        return -np.inf
    log_det += _cholesky(A, 1.0)
    half_m = L.T.copy()
    _solve_lower(A, half_m)
    M = half_m.T @ half_m
    flat_w = w.reshape(size)
    Mw = np.zeros(size)
    for a in range(size):
        for b in range(size):
            Mw[a] += M[a, b] * flat_w[b]
        quadratic -= flat_w[a] * Mw[a]

    WM = np.zeros((size, size))
    a_bar = np.empty(size)
    for k in range(K):
        for j in range(q):
            a_bar[k * q + j] = w[k, j]
            for i in range(q):
                a_bar[k * q + j] -= W[k, j, i] * Mw[k * q + i]
                for c in range(size):
                    WM[k * q + j, c] += W[k, j, i] * M[k * q + i, c]
    for k in range(K):
        for m in range(K):
            for j in range(q):
                here = W[k, j, j] if k == m else 0.0
                for i in range(q):
                    here -= WM[k * q + j, m * q + i] * W[m, i, j]
                cov_bar[j, k, m] = 0.5 * (a_bar[k * q + j] * a_bar[m * q + j] - here)
        for j in range(q):
            mean_bar[k, j] = a_bar[k * q + j]

    for k in range(K):
        own = M[k * q : (k + 1) * q, k * q : (k + 1) * q].copy()
        for c in range(int(starts[k]), int(starts[k + 1])):
            s = float(rr[c])
            p = float(rdiag[c])
            for j in range(q):
                s -= rg[c, j] * Mw[k * q + j]
                for m in range(q):
                    p -= rg[c, j] * own[j, m] * rg[c, m]
            alpha[c] = s
            precision[c] = p
            g = int(group[c])
            sigma_bar[g] += (
                (s * s - p) * sigma[g] / weight[c] - (count[c] - 1.0) / sigma[g] + squares[c] / sigma[g] ** 3
            )
    return float(total - 0.5 * (N * LOG_TWO_PI + log_det + quadratic))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def mixed(
    data: Array, means: Array, covariances: Array, log_weight: Array, sigma: Array, z: Array
) -> tuple[float, Array, Array, Array]:
    """Return log sum_h w_h p(z | scores h, sigma) and its derivatives by means, covariances and sigma.

    Hyperparameter draws are averaged over the whole data set: one h for all coordinates, replicates and experiments.
    """
    draws, K, q = means.shape
    N = int(data[2])
    mean_bars, cov_bars = np.empty(means.shape), np.empty(covariances.shape)
    s_bars = np.empty((draws, len(sigma)))
    alpha, precision, values = np.empty(N), np.empty(N), np.empty(draws)
    for h in range(draws):
        values[h] = log_weight[h] + marginal(
            data, means[h], covariances[h], sigma, z, mean_bars[h], cov_bars[h], s_bars[h], alpha, precision
        )
    top = values.max()
    if top == -np.inf:
        return top, np.zeros(means.shape), np.zeros(covariances.shape), np.zeros(len(sigma))
    share = np.exp(values - top)
    norm = share.sum()
    sigma_bar = np.zeros(len(sigma))
    for h in range(draws):
        mean_bars[h] *= share[h] / norm
        cov_bars[h] *= share[h] / norm
        sigma_bar += share[h] / norm * s_bars[h]
    return top + math.log(norm), mean_bars, cov_bars, sigma_bar


def fused(block: Array, u: Array, sigma: Array, z: Array) -> tuple[float, Array, Array]:
    """Return log p(z | u, sigma) and its derivatives by u (K, d) and sigma.

    The block holds the surrogate first (`ScoreProcess.flat`) and the data behind it (`Cells.flat`).
    """
    from uqms.calibration._marginal_function import function

    block, u, sigma, z = (np.ascontiguousarray(one, dtype=np.float64) for one in (block, u, sigma, z))
    u_bar, sigma_bar = np.empty(u.shape), np.empty(sigma.shape)
    value = function(block, u, sigma, z, u_bar, sigma_bar)
    return value, u_bar, sigma_bar


def evaluate(data: Array, means: Array, covariances: Array, sigmas: Array, z: Array) -> tuple[Array, Array, Array]:
    """Return log-likelihood (S,), alpha and precision (S, N) for S draws of scores (S, K, q), (S, q, K, K).

    `marginal` of many draws at once, in matrix products: nothing is compiled for it.
    """
    draws, K, q = means.shape
    parts = _read(data)
    t = max((factor.shape[1] for factor in parts.factors), default=0)
    each = max(len(parts.offset) * (q + 1 + t), t * t, (K * q) ** 2)
    step = max(1, NUMBERS // each)
    values, alpha, precision = (
        np.empty(draws),
        np.zeros((draws, len(parts.offset))),
        np.zeros((draws, len(parts.offset))),
    )
    with np.errstate(all="ignore"):  # what is too far off for numbers is -inf or NaN
        for begin in range(0, draws, step):
            now = slice(begin, begin + step)
            found = _evaluate(parts, means[now], covariances[now], sigmas[now], z)
            values[now], alpha[now], precision[now] = found
    return values, alpha, precision


class _Parts(NamedTuple):
    """What `Cells.flat` holds; `starts` and `factors` (cells, t) by experiment."""

    starts: Ints
    offset: Array
    group: Ints
    basis: Array
    row_cell: Ints
    row_variance: Array
    factors: tuple[Array, ...]


def _read(data: Array) -> _Parts:
    K, q, N, R = (int(n) for n in data[:4])
    cuts = np.cumsum([DATA_HEADER, K + 1, K, N, N, N * q, R, R])
    starts, ranks, offset, group, basis, row_cell, row_variance = (
        data[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True)
    )
    begins = starts.astype(np.int64)
    sizes = np.diff(begins) * ranks.astype(np.int64)
    flat = np.split(data[cuts[-1] : cuts[-1] + sizes.sum()], np.cumsum(sizes)[:-1])
    factors = tuple(
        one.reshape(n, -1) if len(one) else np.zeros((n, 0)) for one, n in zip(flat, np.diff(begins), strict=True)
    )
    return _Parts(
        begins, offset, group.astype(np.int64), basis.reshape(N, q), row_cell.astype(np.int64), row_variance, factors
    )


def _evaluate(parts: _Parts, mean: Array, covariance: Array, sigma: Array, z: Array) -> tuple[Array, Array, Array]:
    S, K, q = mean.shape
    N, size = len(parts.offset), K * q
    weight = np.bincount(parts.row_cell, 1.0 / parts.row_variance, N)
    zbar = np.bincount(parts.row_cell, z / parts.row_variance, N) / weight
    squares = np.bincount(parts.row_cell, (z - zbar[parts.row_cell]) ** 2 / parts.row_variance, N)
    count = np.bincount(parts.row_cell, minlength=N)
    if (sigma == sigma[:1]).all():  # known noise: what does not depend on the draw is done once
        sigma = sigma[:1]
    s2 = sigma[:, parts.group] ** 2  # (S, N) or (1, N)
    total = -0.5 * np.log(parts.row_variance).sum() - np.sum(
        0.5 * (count - 1.0) * (LOG_TWO_PI + np.log(s2)) + 0.5 * np.log(weight) + 0.5 * squares / s2, axis=1
    )
    D = s2 / weight
    W, w = np.empty((len(s2), K, q, q)), np.empty((S, K, q))
    rg, rr, rdiag = np.empty((len(s2), N, q)), np.empty((S, N)), 1.0 / D
    quadratic, log_det, bad = np.zeros(S), np.log(D).sum(axis=1), np.zeros(S, dtype=bool)
    for k, E in enumerate(parts.factors):
        at = slice(parts.starts[k], parts.starts[k + 1])
        G, d = parts.basis[at], D[:, at]
        residual = zbar[at] - parts.offset[at] - mean[:, k] @ G.T
        V, r = G / d[..., None], residual / d
        if E.shape[1]:
            scaled = E / d[..., None]  # (S, n, t)
            inner = np.matmul(E.T, scaled) + np.eye(E.shape[1])
            inverse, one_log_det, wrong = _inverse(inner)
            bad |= wrong
            P = np.matmul(scaled, inverse)
            log_det = log_det + one_log_det
            V = V - np.matmul(P, np.matmul(E.T, V))
            r = r - (np.matmul(P, (r @ E)[..., None])[..., 0] if len(P) > 1 else (r @ E) @ P[0].T)
            rdiag[:, at] -= np.sum(P * scaled, axis=2)
        rg[:, at], rr[:, at] = V, r
        quadratic += np.sum(residual * r, axis=1)
        W[:, k], w[:, k] = np.matmul(G.T, V), r @ G

    spread = np.zeros((S, K, q, K, q))
    root = _root(covariance)  # any root serves: the likelihood does not depend on which
    for j in range(q):
        spread[:, :, j, :, j] = root[:, j]
    L = spread.reshape(S, size, size)
    WL = np.matmul(W, spread.reshape(S, K, q, size)).reshape(S, size, size)
    inverse, one_log_det, wrong = _inverse(np.matmul(np.swapaxes(L, 1, 2), WL) + np.eye(size))
    bad |= wrong
    M = np.matmul(np.matmul(L, inverse), np.swapaxes(L, 1, 2))
    Mw = np.matmul(M, w.reshape(S, size, 1)).reshape(S, K, q)
    quadratic -= np.sum(w * Mw, axis=(1, 2))
    log_det = log_det + one_log_det
    alpha, precision = rr.copy(), np.broadcast_to(rdiag, (S, N)).copy()
    for k in range(K):
        at = slice(parts.starts[k], parts.starts[k + 1])
        own = M[:, k * q : (k + 1) * q, k * q : (k + 1) * q]
        alpha[:, at] -= np.matmul(rg[:, at], Mw[:, k, :, None])[..., 0]
        precision[:, at] -= np.sum(np.matmul(rg[:, at], own) * rg[:, at], axis=2)
    values = total - 0.5 * (N * LOG_TWO_PI + log_det + quadratic)
    values[bad], alpha[bad], precision[bad] = -np.inf, 0.0, 0.0
    return values, alpha, precision


def _inverse(matrix: Array) -> tuple[Array, Array, Any]:
    """Return inverse and log-determinant of I + something positive, and where double precision is too little for it."""
    n = matrix.shape[-1]
    if n == 0:
        return matrix, np.zeros(len(matrix)), np.zeros(len(matrix), dtype=bool)
    bad = ~(np.diagonal(matrix, axis1=1, axis2=2).max(axis=1) <= PRECISION) | ~np.isfinite(matrix).all(axis=(1, 2))
    good = np.where(bad[:, None, None], np.eye(n), 0.5 * (matrix + np.swapaxes(matrix, 1, 2)))
    try:
        root = np.linalg.cholesky(good)
        return np.linalg.inv(good), 2.0 * np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1), bad
    except np.linalg.LinAlgError:  # rounding brings eigenvalues below 1, but never the truth
        values, vectors = np.linalg.eigh(good)
        values = np.maximum(values, 1.0)
        return np.matmul(vectors / values[:, None, :], np.swapaxes(vectors, 1, 2)), np.log(values).sum(axis=1), bad


def _root(covariance: Array) -> Array:
    """Return R (..., k, k) with R R' the covariance, which may be singular."""
    if covariance.shape[-1] == 1:
        return np.sqrt(np.maximum(covariance, 0.0))
    values, vectors = np.linalg.eigh(np.where(np.isfinite(covariance), covariance, 0.0))
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0))[..., None, :])
