"""The compiled log-density of a standard problem on the real line with its gradient, as the C function nutpie calls.

One flat block of numbers holds everything: header, priors, inputs, noise, map, surrogate, data. New data of the same
problem are a new block; nothing is compiled again, and what was compiled is kept on disk by numba.

==========  ======================================================================  ===========
symbol      meaning                                                                 shape
==========  ======================================================================  ===========
w           what the sampler moves: independent of each other as far as the map can (P,)
z           parameters on the real line, z = map(w)                                 (P,)
v           parameters on the surrogate-input scale (identity, log or logit)        (P,)
theta       parameters in their own units                                           (P,)
u           surrogate inputs in the unit cube                                       (K, d)
sigma       noise sds                                                               (g,)
y, B, d     reduced data: value, basis row and noise variance sigma_g² + lambda     (N,), (N, q)
W, w, A, M  as in `_marginal`                                                       (Kq, Kq)
==========  ======================================================================  ===========
"""

import math

import numba
import numpy as np
from numba import types

from uqms._typing import Array
from uqms.calibration._map import from_line, to_line
from uqms.calibration._marginal import PRECISION, _cholesky, _solve_lower
from uqms.parameters.compiled_density import BETA, GAMMA, INVERSE_GAMMA, LOG_NORMAL, LOG_UNIFORM, NORMAL
from uqms.surrogates._fused import forward, reverse

__all__ = ["PRIOR", "density_function", "expand_function"]

PRIOR = 8  # family, scale, lower, upper (both scaled), two arguments, reference point, constant


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _sigmoid(x: float) -> float:
    if x >= 0.0:
        return 1.0 / (1.0 + math.exp(-x))
    e = math.exp(x)
    return e / (1.0 + e)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _parameter(row: Array, z: float) -> tuple[float, float, float, float, float, float]:
    """Return v, theta, log prior density of z, its derivative by z, dv/dz and dtheta/dv."""
    family, scale, low, high, a, b, c = int(row[0]), int(row[1]), row[2], row[3], row[4], row[5], row[6]
    if low > -np.inf and high < np.inf:
        s = _sigmoid(z)
        v, slope = low + (high - low) * s, (high - low) * s * (1.0 - s)
        value, by_z = math.log(high - low) - _softplus(-z) - _softplus(z), 1.0 - 2.0 * s
    elif low > -np.inf:
        slope = math.exp(z)
        v, value, by_z = low + slope, z, 1.0
    elif high < np.inf:
        slope = math.exp(-z)
        v, value, by_z = high - slope, -z, -1.0
    else:
        v, slope, value, by_z = z, 1.0, 0.0, 0.0
    theta, unit, by_v = v, 1.0, 0.0
    if scale == 1:
        theta = math.exp(v)
        unit = theta
        value += v
        by_v = 1.0
    elif scale == 2:
        theta = _sigmoid(v)
        unit = theta * (1.0 - theta)
        value -= _softplus(-v) + _softplus(v)
        by_v = 1.0 - 2.0 * theta
    if family == LOG_UNIFORM:
        value -= v
        by_v -= 1.0
    elif family == NORMAL:  # truncated or not: a mean, b sd, c the standardised point of reference
        t = (theta - a) / b
        value -= 0.5 * (t - c) * (t + c)
        by_v -= t / b * unit
    elif family == LOG_NORMAL:
        t = (v - a) / b
        value -= 0.5 * (t - c) * (t + c) + v
        by_v -= t / b + 1.0
    elif family == BETA:
        value -= (a - 1.0) * _softplus(-v) + (b - 1.0) * _softplus(v)
        by_v += (a - 1.0) * (1.0 - theta) - (b - 1.0) * theta
    elif family == GAMMA:
        value += (a - 1.0) * v - b * theta
        by_v += a - 1.0 - b * theta
    elif family == INVERSE_GAMMA:
        value -= (a + 1.0) * v + b / theta
        by_v += b / theta - a - 1.0
    return v, theta, value + row[7], by_z + by_v * slope, slope, unit


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _reduced(
    data: Array, mean: Array, covariance: Array, sigma: Array, mean_bar: Array, cov_bar: Array, sigma_bar: Array
) -> float:
    """Return log p(data | scores, sigma) and fill its derivatives, for data whose noise is independent."""
    K, q, N, g = int(data[0]), int(data[1]), int(data[2]), int(data[3])
    total = data[4]
    at = 5
    for i in range(g):
        s = sigma[i]
        total -= data[at + i] * math.log(s) + 0.5 * data[at + g + i] / (s * s)
        sigma_bar[i] = data[at + g + i] / (s * s * s) - data[at + i] / s
    at += 2 * g
    starts = data[at : at + K + 1]
    at += K + 1
    y = data[at : at + N]
    own = data[at + N : at + 2 * N]
    group = data[at + 2 * N : at + 3 * N]
    basis = data[at + 3 * N : at + (3 + q) * N].reshape(N, q)
    size = K * q
    W, w = np.zeros((K, q, q)), np.zeros(size)
    residual, precision = np.empty(N), np.empty(N)
    for k in range(K):
        for c in range(int(starts[k]), int(starts[k + 1])):
            d = own[c]
            if group[c] >= 0.0:
                d += sigma[int(group[c])] ** 2
            r = y[c]
            for j in range(q):
                r -= basis[c, j] * mean[k, j]
            p = 1.0 / d
            total -= 0.5 * (math.log(d) + r * r * p)
            residual[c], precision[c] = r, p
            for j in range(q):
                b = basis[c, j] * p
                w[k * q + j] += b * r
                for m in range(j + 1):
                    W[k, j, m] += b * basis[c, m]
        for j in range(q):
            for m in range(j):
                W[k, m, j] = W[k, j, m]

    # L has one lower triangle a score, (k, j), (m, j) with m <= k, so products with it are short.
    F = np.empty((q, K, K))
    A, half = np.empty((size, size)), np.zeros((size, size))
    for j in range(q):
        for k in range(K):
            for m in range(K):
                F[j, k, m] = covariance[j, k, m]
        _cholesky(F[j], 0.0)
    worst = 0.0
    for a in range(size):
        ka, ja = a // q, a % q
        for b in range(a + 1):
            kb, jb = b // q, b % q
            s = 0.0
            for k in range(max(ka, kb), K):
                s += F[ja, k, ka] * W[k, ja, jb] * F[jb, k, kb]
            A[a, b], A[b, a] = s, s
        A[a, a] += 1.0
        worst = max(worst, A[a, a])
        for k in range(ka, K):
            half[a, k * q + ja] = F[ja, k, ka]
    if not worst <= PRECISION:
        return -np.inf
    total -= 0.5 * _cholesky(A, 1.0)
    _solve_lower(A, half)
    M = np.zeros((size, size))
    for a in range(size):
        for b in range(size):
            h = half[a, b]
            if h != 0.0:
                for c in range(b + 1):
                    M[b, c] += h * half[a, c]
    for b in range(size):
        for c in range(b):
            M[c, b] = M[b, c]
    Mw = np.zeros(size)
    for a in range(size):
        for b in range(size):
            Mw[a] += M[a, b] * w[b]
        total += 0.5 * w[a] * Mw[a]
    for k in range(K):
        for j in range(q):
            s = w[k * q + j]
            for m in range(q):
                s -= W[k, j, m] * Mw[k * q + m]
            mean_bar[k, j] = s
    for k in range(K):
        for j in range(q):
            for m in range(K):
                here = W[k, j, j] if k == m else 0.0
                for i in range(q):
                    s = 0.0
                    for e in range(q):
                        s += W[k, j, e] * M[k * q + e, m * q + i]
                    here -= s * W[m, i, j]
                cov_bar[j, k, m] = 0.5 * (mean_bar[k, j] * mean_bar[m, j] - here)
    for k in range(K):
        for c in range(int(starts[k]), int(starts[k + 1])):
            if group[c] < 0.0:
                continue
            e, p = residual[c], 0.0
            for j in range(q):
                e -= basis[c, j] * Mw[k * q + j]
                for m in range(q):
                    p += basis[c, j] * M[k * q + j, k * q + m] * basis[c, m]
            e *= precision[c]
            p = precision[c] * (1.0 - precision[c] * p)
            i = int(group[c])
            sigma_bar[i] += (e * e - p) * sigma[i]
    return float(total)


_POINTER = types.CPointer(types.double)


@numba.cfunc(types.int64(types.uint64, _POINTER, _POINTER, _POINTER, _POINTER), cache=True)
def density_function(size, point, gradient, value_at, user):  # type: ignore[no-untyped-def]
    """Evaluate log-density and gradient as nutpie asks: 0 when all is finite, 3 or 4 for what is not.

    It has no function of its own that it would call, since that would be compiled twice.
    """
    block = numba.carray(user, (int(user[0]),))
    w, w_bar = numba.carray(point, (size,)), numba.carray(gradient, (size,))
    K, d, g = int(block[2]), int(block[3]), int(block[4])
    z, phi, slope = np.empty(size), np.empty(size), np.empty(size)
    to_line(block, w, z, phi, slope)
    total = block[11]
    v, theta, z_bar, by_z, unit = np.empty(size), np.empty(size), np.empty(size), np.empty(size), np.empty(size)
    for i in range(size):
        at = int(block[5]) + i * PRIOR
        v[i], theta[i], value, z_bar[i], by_z[i], unit[i] = _parameter(block[at : at + PRIOR], z[i])
        total += value

    u, by_u = np.empty((K, d)), np.zeros(d)
    at = int(block[6])
    for c in range(d):
        i, scale, low, width = int(block[at + 4 * c]), int(block[at + 4 * c + 1]), block[at + 4 * c + 2], 0.0
        width = block[at + 4 * c + 3]
        if i < 0:
            for k in range(K):
                u[k, c] = block[at + 4 * d + k * d + c]
            continue
        own = int(block[int(block[5]) + i * PRIOR + 1])
        if scale == own:
            s, ds = v[i], by_z[i]
        else:
            ds = unit[i] * by_z[i]
            if scale == 1:
                s, ds = math.log(theta[i]), ds / theta[i]
            elif scale == 2:
                s, ds = math.log(theta[i]) - math.log1p(-theta[i]), ds / (theta[i] * (1.0 - theta[i]))
            else:
                s = theta[i]
        by_u[c] = ds / width
        for k in range(K):
            u[k, c] = (s - low) / width
    sigma, sigma_bar = np.empty(g), np.zeros(g)
    at = int(block[7])
    for j in range(g):
        i = int(block[at + 2 * j])
        sigma[j] = block[at + 2 * j + 1] if i < 0 else theta[i]

    process, data = block[int(block[9]) :], block[int(block[10]) :]
    H, q, n, b = int(process[0]), int(process[1]), int(process[2]), int(process[4])
    kg, t, vv = np.empty((q, K, n)), np.empty((q, K, n)), np.empty((q, K, b))
    mean, covariance = np.empty((K, q)), np.empty((q, K, K))
    mean_bar, cov_bar, column = np.empty((K, q)), np.empty((q, K, K)), np.empty(K)
    u_bar, part, s_bar = np.zeros((K, d)), np.zeros((K, d)), np.zeros(g)
    top, norm = -np.inf, 0.0
    # One draw of hyperparameters after the other; what was summed is scaled down when a larger one comes.
    for h in range(H):
        for j in range(q):
            forward(process, h, j, u, column, covariance[j], kg[j], t[j], vv[j])
            for k in range(K):
                mean[k, j] = column[k]
        value = process[6 + h] + _reduced(data, mean, covariance, sigma, mean_bar, cov_bar, s_bar)
        if not value > -np.inf:
            continue
        part[:, :] = 0.0
        for j in range(q):
            for k in range(K):
                column[k] = mean_bar[k, j]
            reverse(process, h, j, u, kg[j], t[j], vv[j], column, cov_bar[j], part)
        largest = max(top, value)
        old, new = math.exp(top - largest), math.exp(value - largest)
        top, norm = largest, norm * old + new
        for k in range(K):
            for c in range(d):
                u_bar[k, c] = u_bar[k, c] * old + part[k, c] * new
        for j in range(g):
            sigma_bar[j] = sigma_bar[j] * old + s_bar[j] * new
    if not norm > 0.0:
        value_at[0] = -np.inf
        return 4
    total += top + math.log(norm)

    at = int(block[6])
    for c in range(d):
        i = int(block[at + 4 * c])
        if i >= 0:
            for k in range(K):
                z_bar[i] += u_bar[k, c] / norm * by_u[c]
    at = int(block[7])
    for j in range(g):
        i = int(block[at + 2 * j])
        if i >= 0:
            z_bar[i] += sigma_bar[j] / norm * unit[i] * by_z[i]
    from_line(block, z_bar, phi, slope, w_bar)
    value_at[0] = total
    if not math.isfinite(total):
        return 4
    for i in range(size):
        if not math.isfinite(w_bar[i]):
            return 3
    return 0


@numba.cfunc(types.int64(types.uint64, types.uint64, _POINTER, _POINTER, _POINTER), cache=True)
def expand_function(size, expanded, point, out_at, user):  # type: ignore[no-untyped-def]
    """Return theta and z of a draw, one after the other, as nutpie asks."""
    block = numba.carray(user, (int(user[0]),))
    w, out = numba.carray(point, (size,)), numba.carray(out_at, (expanded,))
    z, phi, slope = np.empty(size), np.empty(size), np.empty(size)
    to_line(block, w, z, phi, slope)
    for i in range(size):
        at = int(block[5]) + i * PRIOR
        out[i] = _parameter(block[at : at + PRIOR], z[i])[1]
        out[size + i] = z[i]
    return 0
