"""The features of `shared_error` compiled, with their derivatives: linear in the number of inputs.

==========  ===================================================================  ============
symbol      meaning                                                              shape
==========  ===================================================================  ============
V           Nyström points; score j uses the first m_j of them                   (m, d)
W           w(u)' = (L^-1 k(x, u))' of all inputs; L, v, t as in `process`       (K, n)
P_j         fixed matrix of score j: Phi_j = [k(u, V), w', v'] P_j               (m_j+n+b, r_j)
Phi_j       features; error of score j: Phi_j(u_k) w_j + independent error       (K, r_j)
lambda      independent variance: exact variance minus |Phi_j|², not below 0     (K, q)
z, s        inputs in the directions of a score, and its amplitude there         (K, d), (K,)
==========  ===================================================================  ============

Letters of the kernel as in `adapted`: k(u, x) = variance s(u) s(x) kappa_0(z(u), z(x)), where L^-1 has s at the runs.
"""

import numpy as np

from uqms._compiled import compiled
from uqms._native import A1, A2, NONE, I, deferred
from uqms._typing import Array, Ints
from uqms.calibration._blas import gemm, times_lower
from uqms.surrogates.effects import effects
from uqms.surrogates.fused import (
    adapted_at,
    add_local_slopes,
    fill_local,
    fill_shares,
    inputs_at,
    kernel_of,
    kernel_size,
    own_code,
    score_begin,
    see,
)
from uqms.surrogates.kernels import EFFECTS, FAST, SINGLE, composite_of, composite_slope
from uqms.surrogates.radial import radial_slopes

__all__ = ["features", "features_reverse", "features_size"]

# --- kernels ----------------------------------------------------------------------------------------------------------


@compiled(fastmath=FAST)
def _correlations(
    code: int,
    codes: Ints,
    terms: Ints,
    variances: Array,
    scales: Array,
    shares: Array,
    u: Array,
    points: Array,
    columns: Array,
    kappa: Array,
    g: Array,
) -> None:
    """Fill kappa and g (K, n), times variances (K,), between inputs and points (n, d); `scales` (parts, d) are inverse.

    Sums and products of kernels leave g empty: `_slopes` computes it. `columns` (d, n) is work space.
    """
    K, d = u.shape
    n = len(points)
    if code >= SINGLE:
        radials = np.empty(len(codes))
        for a in range(K):
            if code == EFFECTS:
                effects(codes[0], shares, scales, u[a], points, kappa[a], radials[:0], radials[:0])
                for i in range(n):
                    kappa[a, i] *= variances[a]
                continue
            for i in range(n):
                kappa[a, i] = variances[a] * composite_of(codes, terms, shares, scales, u[a], points[i], radials)
        return
    for c in range(d):
        for i in range(n):
            columns[c, i] = points[i, c] * scales[0, c]
    for a in range(K):
        r2 = kappa[a]
        for i in range(n):
            r2[i] = 0.0
        for c in range(d):
            at = u[a, c] * scales[0, c]
            for i in range(n):
                step = at - columns[c, i]
                r2[i] += step * step
        radial_slopes(code, r2, g[a])
        for i in range(n):
            kappa[a, i] *= variances[a]
            g[a, i] *= variances[a]


@compiled(fastmath=FAST)
def _slopes(
    code: int,
    codes: Ints,
    terms: Ints,
    variances: Array,
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
        radials, bars, unused = np.empty(len(codes)), np.empty(n), np.empty(n)
        for a in range(K):
            if code == EFFECTS:
                for i in range(n):
                    bars[i] = kappa_bar[a, i] * variances[a]
                effects(codes[0], shares, scales, u[a], points, unused, bars, u_bar[a])
                continue
            for i in range(n):
                composite_of(codes, terms, shares, scales, u[a], points[i], radials)
                bar = kappa_bar[a, i] * variances[a]
                composite_slope(bar, radials, scales, u[a], points[i], u_bar[a])
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
    gemm(False, False, K, d, n, 1.0, g.reshape(K * n), 0, n, flat, 0, d, 0.0, moved.reshape(K * d), 0, d)
    for a in range(K):
        for c in range(d):
            u_bar[a, c] += (total[a] * u[a, c] - moved[a, c]) * scales[0, c] * scales[0, c]


@compiled(fastmath=FAST)
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


@compiled(fastmath=FAST)
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


@compiled
def _arrays_of(block: Array, h: int, j: int, parts: int) -> tuple[Array, Array, Array, float, Array, Array, int, int]:
    """Return z (n, d) of the runs, inverse scales (parts, d), kernel weights, variance, beta (b,) and target (n,).

    The last values are positions: where L^-1 (n, n), G (n, b), an array that is not needed here (n, b), R (b, b), and
    the learned directions and amplitude begin.
    """
    n, d, b = int(block[2]), int(block[3]), int(block[4])
    begin = inputs_at(block)
    x = block[begin : begin + n * d].reshape(n, d)
    at = score_begin(block, h, j)
    size = kernel_size(block)
    scales = block[at : at + parts * d].reshape(parts, d)
    shares = np.empty(parts)
    fill_shares(block[at + parts * d : at + size], shares)
    variance = block[at + size]
    adapted = at + size + adapted_at(n, b)
    if block[6] > 0.0:
        x = block[adapted + d * d : adapted + (d + n) * d].reshape(n, d)
    at += size + 1
    return x, scales, shares, variance, block[at : at + b], block[at + b : at + b + n], at + b + 2 * n, adapted


@compiled
def _seen(block: Array, adapted: int, u: Array) -> tuple[Array, Array]:
    """Return z (K, d) and s (K,) at inputs."""
    z, s = np.empty(u.shape), np.empty(len(u))
    see(block, adapted, u, z, s)
    return z, s


@compiled
def _local(block: Array, h: int, j: int, u: Array) -> Array:
    """Return the local scale (K,) at inputs."""
    scale = np.empty(len(u))
    fill_local(block, score_begin(block, h, j), u, scale)
    return scale


@deferred(NONE, A1, I, A2, A2, I, I, A2, A2, A2, A2, A2, A2, A2, A2, fastmath=FAST)
def _score(
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
    n, b = int(block[2]), int(block[4])
    code, codes, terms = kernel_of(block)
    K, m = u.shape[0], len(points)
    x, scales, shares, variance, beta, target, factor_at, adapted = _arrays_of(block, h, j, len(codes))
    code = own_code(block, adapted, code, codes)
    g_at = factor_at + n * n
    root_at = g_at + 2 * n * b

    columns = np.empty((u.shape[1], max(n, m)))
    (z, amplitude), (z_points, at_points) = _seen(block, adapted, u), _seen(block, adapted, points)
    variances = variance * amplitude
    _correlations(code, codes, terms, variances, scales, shares, z, x, columns, W, g)
    flat_w, flat_v, flat_phi, flat_p = W.reshape(K * n), v.reshape(K * b), phi.reshape(K * rank), P.reshape(-1)
    times_lower(True, K, n, block, factor_at, flat_w, 0)
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
        gemm(False, False, K, b, n, -1.0, flat_w, 0, n, block, g_at, b, 1.0, flat_rest, 0, b)
        gemm(False, True, K, b, b, 1.0, flat_rest, 0, b, block, root_at, b, 0.0, flat_v, 0, b)
    kv = np.empty((K, m))
    _correlations(code, codes, terms, variances, scales, shares, z, z_points, columns, kv, g_points)
    kv *= at_points * _local(block, h, j, points)
    gemm(False, False, K, rank, m, 1.0, kv.reshape(K * m), 0, m, flat_p, 0, rank, 0.0, flat_phi, 0, rank)
    gemm(False, False, K, rank, n, 1.0, flat_w, 0, n, flat_p, m * rank, rank, 1.0, flat_phi, 0, rank)
    if b:
        gemm(False, False, K, rank, b, 1.0, flat_v, 0, b, flat_p, (m + n) * rank, rank, 1.0, flat_phi, 0, rank)
    local = _local(block, h, j, u)
    for a in range(K):
        s = variances[a] * amplitude[a]
        for i in range(n):
            s -= W[a, i] * W[a, i]
        for c in range(b):
            s += v[a, c] * v[a, c]
        s *= local[a] * local[a]
        for i in range(rank):
            phi[a, i] *= local[a]
            s -= phi[a, i] * phi[a, i]
        own[a, j] = max(s, 0.0)


@deferred(NONE, A1, I, A2, A2, I, I, A2, A2, A2, A2, A2, A2, A2, A2, A2, fastmath=FAST)
def _score_reverse(
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
    """Add to u_bar the derivative of the arrays that `_score` filled; W, g and g_points are overwritten.

    `phi_bar` already includes the effect of the independent variance, which depends on the features. Both
    derivatives are by the features and the variance before they are multiplied by the local scale.
    """
    n, b = int(block[2]), int(block[4])
    code, codes, terms = kernel_of(block)
    K, m = u.shape[0], len(points)
    x, scales, shares, variance, beta, target, factor_at, adapted = _arrays_of(block, h, j, len(codes))
    code = own_code(block, adapted, code, codes)
    g_at = factor_at + n * n
    root_at = g_at + 2 * n * b
    (z, amplitude), (z_points, at_points) = _seen(block, adapted, u), _seen(block, adapted, points)
    variances = variance * amplitude

    flat_w, flat_p, flat_phi = W.reshape(K * n), P.reshape(-1), phi_bar.reshape(K * rank)
    for a in range(K):  # W becomes its own derivative
        s, e = -2.0 * own_bar[a, j], mean_bar[a, j]
        for i in range(n):
            W[a, i] = s * W[a, i] + e * target[i]
    gemm(False, True, K, n, rank, 1.0, flat_phi, 0, rank, flat_p, m * rank, rank, 1.0, flat_w, 0, n)
    if b:
        v_bar, t_bar = np.empty((K, b)), np.empty((K, b))
        flat_v, flat_t = v_bar.reshape(K * b), t_bar.reshape(K * b)
        for a in range(K):
            for c in range(b):
                v_bar[a, c] = 2.0 * own_bar[a, j] * v[a, c]
        gemm(False, True, K, b, rank, 1.0, flat_phi, 0, rank, flat_p, (m + n) * rank, rank, 1.0, flat_v, 0, b)
        gemm(False, False, K, b, b, 1.0, flat_v, 0, b, block, root_at, b, 0.0, flat_t, 0, b)
        gemm(False, True, K, n, b, -1.0, flat_t, 0, b, block, g_at, b, 1.0, flat_w, 0, n)
        for a in range(K):
            for c in range(b):
                t_bar[a, c] += mean_bar[a, j] * beta[c]
        _trend_reverse(u, t_bar, u_bar)
    times_lower(False, K, n, block, factor_at, flat_w, 0)
    kv_bar = np.empty((K, m))
    gemm(False, True, K, m, rank, 1.0, flat_phi, 0, rank, flat_p, 0, rank, 0.0, kv_bar.reshape(K * m), 0, m)
    kv_bar *= at_points * _local(block, h, j, points)
    if block[7] > 0.0:  # kappa again: W has taken its place
        slopes = adapted + int(block[6]) * (u.shape[1] + n) * u.shape[1]
        kappa, unused, columns = np.empty((K, max(n, m))), np.empty((K, max(n, m))), np.empty((u.shape[1], max(n, m)))
        by_amplitude = 2.0 * own_bar[:, j] * variances * amplitude
        for against, bar in ((x, W), (z_points, kv_bar)):
            _correlations(code, codes, terms, variances, scales, shares, z, against, columns, kappa, unused)
            for a in range(K):
                for i in range(len(against)):
                    by_amplitude[a] += bar[a, i] * kappa[a, i]
        for a in range(K):
            for c in range(u.shape[1]):
                u_bar[a, c] += by_amplitude[a] * block[slopes + c]
    z_bar = np.zeros(u.shape)
    _slopes(code, codes, terms, variances, scales, shares, z, x, W, g, z_bar)
    _slopes(code, codes, terms, variances, scales, shares, z, z_points, kv_bar, g_points, z_bar)
    for a in range(K):
        for c in range(u.shape[1]):
            u_bar[a, c] += z_bar[a, c]
            if block[6] > 0.0:
                for e in range(c):
                    u_bar[a, e] += block[adapted + c * u.shape[1] + e] * z_bar[a, c]


# --- all scores -------------------------------------------------------------------------------------------------------


@compiled
def features_size(shared: Array, K: int, q: int, n: int, b: int) -> int:
    """Return the size of the work space of `features`: W, g, g at the points, and v of each score."""
    return q * K * (2 * n + b + int(shared[0]))


@compiled
def _weights_at(shared: Array, h: int, q: int, n: int, b: int, d: int) -> int:
    """Return where the matrices P of draw h begin in the block of `SharedError.flat`."""
    most, size = int(shared[0]), 0
    for j in range(q):
        size += (int(shared[1 + q + j]) + n + b) * int(shared[1 + j])
    return 1 + 2 * q + most * d + h * size


@deferred(NONE, A1, A1, I, A2, A1, A1)
def features(process: Array, shared: Array, h: int, u: Array, parts: Array, work: Array) -> None:
    """Fill mean, lambda and the features, score after score, in the order of the likelihood's parts."""
    (K, d), q, n, b = u.shape, int(process[1]), int(process[2]), int(process[4])
    most, here = int(shared[0]), _weights_at(shared, h, q, n, b, d)
    points = shared[1 + 2 * q : 1 + 2 * q + most * d].reshape(most, d)
    mean, own = parts[: K * q].reshape(K, q), parts[K * q : 2 * K * q].reshape(K, q)
    begin, size = 2 * K * q, K * (2 * n + b + most)
    for j in range(q):
        r, m, at = int(shared[1 + j]), int(shared[1 + q + j]), j * size
        P = shared[here : here + (m + n + b) * r].reshape(m + n + b, r)
        W, g = work[at : at + K * n].reshape(K, n), work[at + K * n : at + 2 * K * n].reshape(K, n)
        v = work[at + 2 * K * n : at + K * (2 * n + b)].reshape(K, b)
        g_points = work[at + K * (2 * n + b) : at + K * (2 * n + b + m)].reshape(K, m)
        phi = parts[begin : begin + K * r].reshape(K, r)
        _score(process, r, points[:m], P, h, j, u, W, g, g_points, v, mean, phi, own)
        here += (m + n + b) * r
        begin += K * r


@deferred(NONE, A1, A1, I, A2, A1, A1, A1, A2)
def features_reverse(
    process: Array, shared: Array, h: int, u: Array, parts: Array, parts_bar: Array, work: Array, u_bar: Array
) -> None:
    """Add to u_bar the derivative of the arrays that `features` filled; `parts_bar` and `work` are overwritten.

    Lambda depends on the features: -2 lambda_bar Phi is added to the derivative by the features here.
    """
    (K, d), q, n, b = u.shape, int(process[1]), int(process[2]), int(process[4])
    most, here = int(shared[0]), _weights_at(shared, h, q, n, b, d)
    points = shared[1 + 2 * q : 1 + 2 * q + most * d].reshape(most, d)
    mean_bar, own_bar = parts_bar[: K * q].reshape(K, q), parts_bar[K * q : 2 * K * q].reshape(K, q)
    begin, size = 2 * K * q, K * (2 * n + b + most)
    for j in range(q):
        r, m, at = int(shared[1 + j]), int(shared[1 + q + j]), j * size
        P = shared[here : here + (m + n + b) * r].reshape(m + n + b, r)
        W, g = work[at : at + K * n].reshape(K, n), work[at + K * n : at + 2 * K * n].reshape(K, n)
        v = work[at + 2 * K * n : at + K * (2 * n + b)].reshape(K, b)
        g_points = work[at + K * (2 * n + b) : at + K * (2 * n + b + m)].reshape(K, m)
        phi_bar = parts_bar[begin : begin + K * r].reshape(K, r)
        for k in range(K):
            for e in range(r):
                phi_bar[k, e] -= 2.0 * own_bar[k, j] * parts[begin + k * r + e]
        if process[9] > 0.0:
            local, lambdas, phi = _local(process, h, j, u), parts[K * q : 2 * K * q], parts[begin : begin + K * r]
            for k in range(K):
                before, by_local = lambdas[k * q + j], 0.0
                for e in range(r):
                    before += phi[k * r + e] ** 2
                    by_local += phi_bar[k, e] * phi[k * r + e]
                    phi_bar[k, e] *= local[k]
                by_local += 2.0 * own_bar[k, j] * before
                own_bar[k, j] *= local[k] ** 2
                add_local_slopes(process, score_begin(process, h, j), by_local, u[k], local[k], u_bar[k])
        _score_reverse(process, r, points[:m], P, h, j, u, W, g, g_points, v, mean_bar, phi_bar, own_bar, u_bar)
        here += (m + n + b) * r
        begin += K * r
