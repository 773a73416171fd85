"""The likelihood with correlated errors beside the surrogate's: Gaussian with all integrated out, or sampled latents.

Two uses of the same model of the cells, f = offset + B scores + E omega + W xi, y = m f + delta (m = 1 + a scale
discrepancy); W is what one run of a stochastic simulator does beside its mean, see `realisation`:

- `gaussian`: all errors are normal; the covariance C of the cell means is dense, its density in closed form;
- `outputs`: noise is not normal (counts, censoring, long tails, an output with a transform); the surrogate's error,
  truncation and discrepancy are L eta with eta standard normal, which the sampler draws beside the parameters.

==========  ==========================================================================  ===========
symbol      meaning                                                                     shape
==========  ==========================================================================  ===========
W           factor of the noise of one run of the simulator, an experiment's own         (N, r)
F           covariance of f: scores' errors between inputs, truncation and W of an      (N, N)
            experiment
C           m F m' + terms + D                                                          (N, N)
Q           (alpha alpha' - C^-1) / 2, the derivative of the log-density by C           (N, N)
eta         latents: scores (K q, experiment-major), truncation (K t), discrepancy      (L,)
            (N), runs (K r)
==========  ==========================================================================  ===========

Other letters as in `_marginal` and `_terms`.
"""

import math

import numba
import numpy as np

from uqms._typing import Array
from uqms.calibration._marginal import LOG_TWO_PI, PRECISION, collapsed
from uqms.calibration._terms import fields, terms, terms_reverse
from uqms.surrogates._fused import block_size, forward, reverse

__all__ = [
    "evaluate_gaussian",
    "fused_gaussian",
    "fused_outputs",
    "fused_outputs_reverse",
    "jacobian_step",
    "latent_count",
    "linear_outputs",
    "mixed_gaussian",
    "outputs",
    "outputs_reverse",
    "roots",
]

STEP = 1e-4  # of the unit cube, for the derivative of the mean that orthogonal discrepancies need
JITTER = 1e-9  # relative, of discrepancy and correlated noise that are sampled
ROUNDING = 1e-15  # relative, of an entry of a product of roots
ZERO = 1e-14  # relative pivot below which a covariance is singular


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def jacobian_step() -> float:
    """Return the step of the central differences that give J."""
    return STEP


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _invert(C: Array) -> tuple[Array, float]:
    """Return the inverse and log-determinant of a positive definite matrix; a log-determinant of inf when it is not."""
    log_det = 0.0
    try:
        L = np.linalg.cholesky(C)
    except Exception:  # numba knows no narrower one
        return C.copy(), math.inf
    for i in range(C.shape[0]):
        log_det += 2.0 * math.log(L[i, i])
    return np.ascontiguousarray(np.linalg.inv(C)), log_det


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _cells(data: Array, mean: Array, covariance: Array, W: Array) -> tuple[Array, Array]:
    """Return mean (N,) and covariance F (N, N) of f."""
    q, N, t = int(data[1]), int(data[2]), int(data[4])
    experiment, _, _, offset, basis, truncation, _, _, _, _ = fields(data)
    f, F = np.empty(N), np.empty((N, N))
    for i in range(N):
        k = int(experiment[i])
        s = offset[i]
        for j in range(q):
            s += basis[i, j] * mean[k, j]
        f[i] = s
        for e in range(i + 1):
            m = int(experiment[e])
            s = 0.0
            for j in range(q):
                s += basis[i, j] * basis[e, j] * covariance[j, k, m]
            if k == m:
                for a in range(t):
                    s += truncation[i, a] * truncation[e, a]
                for a in range(W.shape[1]):
                    s += W[i, a] * W[e, a]
            F[i, e] = s
            F[e, i] = s
    return f, F


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def gaussian(
    data: Array,
    mean: Array,
    covariance: Array,
    phi: Array,
    z: Array,
    J: Array,
    W: Array,
    mean_bar: Array,
    cov_bar: Array,
    phi_bar: Array,
    J_bar: Array,
    W_bar: Array,
    alpha: Array,
    precision: Array,
) -> float:
    """Return log p(z | scores, phi); fill its derivatives, alpha = C^-1 residual and precision = diag C^-1 (N,)."""
    q, N = int(data[1]), int(data[2])
    experiment, group, factor, _, basis, _, _, _, _, _ = fields(data)
    mean_bar[:], cov_bar[:], phi_bar[:], J_bar[:], alpha[:], precision[:] = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    W_bar[:] = 0.0
    parts = fields(data)
    weight, zbar, squares, count, total = collapsed(parts[7], parts[8], z, N)
    f, F = _cells(data, mean, covariance, W)
    m = np.ones(N)
    for i in range(N):
        if factor[i] >= 0.0:
            m[i] += phi[int(factor[i])]
    C = terms(data, phi, J, True, True)
    largest = 0.0
    for i in range(N):
        s2 = phi[int(group[i])] ** 2
        total -= (
            0.5 * (count[i] - 1.0) * (LOG_TWO_PI + math.log(s2)) + 0.5 * math.log(weight[i]) + 0.5 * squares[i] / s2
        )
        for e in range(N):
            C[i, e] += m[i] * m[e] * F[i, e]
        if int(data[5]) == 0:  # with terms the covariance has other parts than noise and a few scores: Cholesky tells
            largest = max(largest, C[i, i] * weight[i] / s2)
        C[i, i] += s2 / weight[i]
    if not largest < PRECISION:
        return -np.inf
    inverse, log_det = _invert(C)
    if log_det == math.inf:
        return -np.inf
    residual = zbar - m * f
    alpha[:] = inverse @ residual
    quadratic = float(residual @ alpha)
    Q = np.empty((N, N))
    for i in range(N):
        precision[i] = inverse[i, i]
        for e in range(N):
            Q[i, e] = 0.5 * (alpha[i] * alpha[e] - inverse[i, e])
    for i in range(N):
        k, g = int(experiment[i]), int(group[i])
        for j in range(q):
            mean_bar[k, j] += m[i] * basis[i, j] * alpha[i]
        phi_bar[g] += (
            2.0 * Q[i, i] * phi[g] / weight[i] - (count[i] - 1.0) / phi[g] + squares[i] / (phi[g] * phi[g] * phi[g])
        )
        for e in range(N):
            other, bar = int(experiment[e]), m[i] * m[e] * Q[i, e]
            for j in range(q):
                cov_bar[j, k, other] += bar * basis[i, j] * basis[e, j]
            if k == other:
                for a in range(W.shape[1]):
                    W_bar[i, a] += 2.0 * bar * W[e, a]
        if factor[i] >= 0.0:
            s = alpha[i] * f[i]
            for e in range(N):
                s += 2.0 * Q[i, e] * F[i, e] * m[e]
            phi_bar[int(factor[i])] += s
    terms_reverse(data, phi, J, True, True, Q, phi_bar, J_bar)
    return float(total - 0.5 * (N * LOG_TWO_PI + log_det + quadratic))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def mixed_gaussian(
    data: Array, means: Array, covariances: Array, log_weight: Array, phi: Array, z: Array, J: Array, W: Array
) -> tuple[float, Array, Array, Array, Array, Array]:
    """Return log sum_h w_h p(z | scores h, phi) and its derivatives by means, covariances, phi, J (H, N, o), and W."""
    draws, K, q = means.shape
    N = int(data[2])
    mean_bars, cov_bars = np.empty(means.shape), np.empty(covariances.shape)
    phi_bars, J_bars = np.empty((draws, len(phi))), np.empty(J.shape)
    W_bars, W_bar = np.empty((draws, *W.shape)), np.zeros(W.shape)
    alpha, precision, values = np.empty(N), np.empty(N), np.empty(draws)
    for h in range(draws):
        values[h] = log_weight[h] + gaussian(
            data,
            means[h],
            covariances[h],
            phi,
            z,
            J[h],
            W,
            mean_bars[h],
            cov_bars[h],
            phi_bars[h],
            J_bars[h],
            W_bars[h],
            alpha,
            precision,
        )
    top = values.max()
    if top == -np.inf:
        mean_bars[:], cov_bars[:], J_bars[:] = 0.0, 0.0, 0.0
        return top, mean_bars, cov_bars, np.zeros(len(phi)), J_bars, W_bar
    share = np.exp(values - top)
    norm = share.sum()
    phi_bar = np.zeros(len(phi))
    for h in range(draws):
        s = share[h] / norm
        mean_bars[h] *= s
        cov_bars[h] *= s
        J_bars[h] *= s
        phi_bar += s * phi_bars[h]
        W_bar += s * W_bars[h]
    return top + math.log(norm), mean_bars, cov_bars, phi_bar, J_bars, W_bar


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def evaluate_gaussian(
    data: Array, means: Array, covariances: Array, phis: Array, z: Array, J: Array, W: Array
) -> tuple[Array, Array, Array]:
    """Return log-likelihood (S,), alpha and precision (S, N) for S draws of scores (S, K, q), (S, q, K, K)."""
    draws, K, q = means.shape
    N = int(data[2])
    values, alpha, precision = np.empty(draws), np.empty((draws, N)), np.empty((draws, N))
    mean_bar, cov_bar, phi_bar = np.empty((K, q)), np.empty((q, K, K)), np.empty(phis.shape[1])
    J_bar, W_bar = np.empty(J.shape[1:]), np.empty(W.shape[1:])
    for s in range(draws):
        values[s] = gaussian(
            data,
            means[s],
            covariances[s],
            phis[s],
            z,
            J[s],
            W[s],
            mean_bar,
            cov_bar,
            phi_bar,
            J_bar,
            W_bar,
            alpha[s],
            precision[s],
        )
    return values, alpha, precision


# --- latents that are sampled -----------------------------------------------------------------------------------------


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def latent_count(data: Array) -> int:
    """Return how many latents eta there are."""
    K, q, N, t, T = int(data[0]), int(data[1]), int(data[2]), int(data[4]), int(data[5])
    return K * q + K * t + (N if T > 0 else 0) + K * int(data[7])


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _root(S: Array, own: bool) -> Array:
    """Return lower L with L L' = S; a column of zeros where S is singular (a run at the very input).

    Singular is what is small beside the largest variance, or beside its `own`, where units differ between rows.

    Where many inputs are close to each other, pivots are sums of rounding errors, and what is divided by their roots
    grows from column to column (300 subjects: draws were up to 40 sds off). So the largest variance adds to each pivot
    what keeps such growth below one, which is far below what a draw could show: 1e-5 of its sd at 300 inputs.
    """
    n = S.shape[0]
    L = np.zeros((n, n))
    largest = 0.0
    for i in range(n):
        largest = max(largest, S[i, i])
    more = 0.0 if own or n == 1 else ROUNDING * n * n * largest
    for j in range(n):
        pivot = S[j, j] + more
        for m in range(j):
            pivot -= L[j, m] * L[j, m]
        if not pivot > ZERO * (S[j, j] if own else largest):
            continue
        L[j, j] = math.sqrt(pivot)
        for i in range(j + 1, n):
            s = S[i, j]
            for m in range(j):
                s -= L[i, m] * L[j, m]
            L[i, j] = s / L[j, j]
    return L


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def roots(S: Array, own: bool) -> Array:
    """Return the roots of several covariances (S, n, n); `own` for those of terms."""
    out = np.empty_like(S)
    for s in range(S.shape[0]):
        out[s] = _root(S[s], own)
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _root_reverse(L: Array, L_bar: Array) -> Array:
    """Return the symmetric derivative by S from that by L = `_root(S)`; what went into zero columns is lost."""
    n = L.shape[0]
    bar = L_bar.copy()
    out = np.zeros((n, n))
    for j in range(n - 1, -1, -1):
        if L[j, j] == 0.0:
            continue
        for i in range(n - 1, j, -1):
            s = bar[i, j] / L[j, j]
            out[i, j] += s
            bar[j, j] -= s * L[i, j]
            for m in range(j):
                bar[i, m] -= s * L[j, m]
                bar[j, m] -= s * L[i, m]
        s = bar[j, j] / (2.0 * L[j, j])
        out[j, j] += s
        for m in range(j):
            bar[j, m] -= 2.0 * s * L[j, m]
    return 0.5 * (out + out.T)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def outputs(data: Array, mean: Array, covariance: Array, phi: Array, J: Array, W: Array, eta: Array) -> Array:
    """Return y (N,) for one value of everything; eta (L,)."""
    K, q, N, t, T = int(data[0]), int(data[1]), int(data[2]), int(data[4]), int(data[5])
    experiment, _, factor, offset, basis, truncation, _, _, _, _ = fields(data)
    scores = mean.copy()
    for j in range(q):
        L = _root(covariance[j], False)
        for k in range(K):
            for m in range(k + 1):
                scores[k, j] += L[k, m] * eta[m * q + j]
    omega = eta[K * q : K * q + K * t]
    own = K * q + K * t + (N if T > 0 else 0)
    r = W.shape[1]
    y = np.empty(N)
    for i in range(N):
        k = int(experiment[i])
        s = offset[i]
        for j in range(q):
            s += basis[i, j] * scores[k, j]
        for a in range(t):
            s += truncation[i, a] * omega[k * t + a]
        for a in range(r):
            s += W[i, a] * eta[own + k * r + a]
        y[i] = s * (1.0 + phi[int(factor[i])]) if factor[i] >= 0.0 else s
    if T > 0:
        y += _root(_jittered(terms(data, phi, J, True, True)), True) @ eta[K * q + K * t : own]
    return y


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def linear_outputs(data: Array, mean: Array, covariance: Array, phi: Array, J: Array, W: Array) -> tuple[Array, Array]:
    """Return y0 (N,) and B (N, L), with which `outputs` are y0 + B eta: its roots are taken once."""
    K, q, N, t, T = int(data[0]), int(data[1]), int(data[2]), int(data[4]), int(data[5])
    experiment, _, factor, offset, basis, truncation, _, _, _, _ = fields(data)
    first, r = K * q, W.shape[1]
    own = first + K * t + (N if T > 0 else 0)
    y, B = np.empty(N), np.zeros((N, latent_count(data)))
    for j in range(q):
        L = _root(covariance[j], False)
        for i in range(N):
            k = int(experiment[i])
            for m in range(k + 1):
                B[i, m * q + j] = basis[i, j] * L[k, m]
    for i in range(N):
        k = int(experiment[i])
        s = offset[i]
        for j in range(q):
            s += basis[i, j] * mean[k, j]
        for a in range(t):
            B[i, first + k * t + a] = truncation[i, a]
        for a in range(r):
            B[i, own + k * r + a] = W[i, a]
        y[i] = s
        if factor[i] >= 0.0:
            scale = 1.0 + phi[int(factor[i])]
            y[i] *= scale
            for m in range(B.shape[1]):
                B[i, m] *= scale
    if T > 0:
        R = _root(_jittered(terms(data, phi, J, True, True)), True)
        for i in range(N):
            for e in range(N):
                B[i, first + K * t + e] = R[i, e]
    return y, B


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _jittered(R: Array) -> Array:
    for i in range(R.shape[0]):
        R[i, i] *= 1.0 + JITTER
    return R


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def outputs_reverse(
    data: Array,
    mean: Array,
    covariance: Array,
    phi: Array,
    J: Array,
    W: Array,
    eta: Array,
    y_bar: Array,
    mean_bar: Array,
    cov_bar: Array,
    phi_bar: Array,
    J_bar: Array,
    W_bar: Array,
    eta_bar: Array,
) -> None:
    """Fill mean_bar (K, q), cov_bar (q, K, K) and J_bar (N, o); add to phi_bar, W_bar and eta_bar."""
    K, q, N, t, T = int(data[0]), int(data[1]), int(data[2]), int(data[4]), int(data[5])
    experiment, _, factor, offset, basis, truncation, _, _, _, _ = fields(data)
    mean_bar[:], cov_bar[:], J_bar[:] = 0.0, 0.0, 0.0
    scores = mean.copy()
    roots = np.empty((q, K, K))
    for j in range(q):
        roots[j] = _root(covariance[j], False)
        for k in range(K):
            for m in range(k + 1):
                scores[k, j] += roots[j, k, m] * eta[m * q + j]
    first, r = K * q, W.shape[1]
    own = K * q + K * t + (N if T > 0 else 0)
    for i in range(N):
        k = int(experiment[i])
        bar = y_bar[i]
        if factor[i] >= 0.0:
            s = offset[i]
            for j in range(q):
                s += basis[i, j] * scores[k, j]
            for a in range(t):
                s += truncation[i, a] * eta[first + k * t + a]
            for a in range(r):
                s += W[i, a] * eta[own + k * r + a]
            phi_bar[int(factor[i])] += bar * s
            bar *= 1.0 + phi[int(factor[i])]
        for j in range(q):
            mean_bar[k, j] += basis[i, j] * bar
        for a in range(t):
            eta_bar[first + k * t + a] += truncation[i, a] * bar
        for a in range(r):
            eta_bar[own + k * r + a] += W[i, a] * bar
            W_bar[i, a] += eta[own + k * r + a] * bar
    L_bar = np.empty((K, K))
    for j in range(q):
        L_bar[:] = 0.0
        for k in range(K):
            for m in range(k + 1):
                L_bar[k, m] = mean_bar[k, j] * eta[m * q + j]
                eta_bar[m * q + j] += roots[j, k, m] * mean_bar[k, j]
        cov_bar[j] = _root_reverse(roots[j], L_bar)
    if T > 0:
        start = first + K * t
        L = _root(_jittered(terms(data, phi, J, True, True)), True)
        R_bar = np.zeros((N, N))
        for i in range(N):
            for e in range(i + 1):
                R_bar[i, e] = y_bar[i] * eta[start + e]
                eta_bar[start + e] += L[i, e] * y_bar[i]
        Q = _jittered(_root_reverse(L, R_bar))
        terms_reverse(data, phi, J, True, True, Q, phi_bar, J_bar)


# --- both, with the surrogate in front of the data in one block -------------------------------------------------------


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _jacobian(block: Array, data: Array, u: Array) -> Array:
    """Return J (H, N, o) by central differences; empty without orthogonal terms."""
    draws, q, n, b = int(block[0]), int(block[1]), int(block[2]), int(block[4])
    N, o = int(data[2]), int(data[6])
    K = u.shape[0]
    J = np.zeros((draws, N, o))
    if o == 0:
        return J
    parts = fields(data)
    experiment, basis, columns = parts[0], parts[4], parts[6]
    kg, t, v = np.empty((K, n)), np.empty((K, n)), np.empty((K, b))
    column, joint = np.empty(K), np.empty((K, K))
    for i in range(o):
        for sign in (-1.0, 1.0):
            shifted = u.copy()
            shifted[:, int(columns[i])] += sign * STEP
            for h in range(draws):
                for j in range(q):
                    forward(block, h, j, shifted, column, joint, kg, t, v)
                    for c in range(N):
                        J[h, c, i] += sign * basis[c, j] * column[int(experiment[c])] / (2.0 * STEP)
    return J


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _jacobian_reverse(block: Array, data: Array, u: Array, J_bar: Array, u_bar: Array) -> None:
    """Add to u_bar the derivative of J : J_bar, exactly that of the central differences."""
    draws, q, n, b = int(block[0]), int(block[1]), int(block[2]), int(block[4])
    N, o = int(data[2]), int(data[6])
    K = u.shape[0]
    if o == 0:
        return
    parts = fields(data)
    experiment, basis, columns = parts[0], parts[4], parts[6]
    kg, t, v = np.empty((K, n)), np.empty((K, n)), np.empty((K, b))
    column, joint, nothing = np.empty(K), np.empty((K, K)), np.zeros((K, K))
    bar = np.empty(K)
    for i in range(o):
        for sign in (-1.0, 1.0):
            shifted = u.copy()
            shifted[:, int(columns[i])] += sign * STEP
            for h in range(draws):
                for j in range(q):
                    bar[:] = 0.0
                    for c in range(N):
                        bar[int(experiment[c])] += sign * basis[c, j] * J_bar[h, c, i] / (2.0 * STEP)
                    forward(block, h, j, shifted, column, joint, kg, t, v)
                    reverse(block, h, j, shifted, kg, t, v, bar, nothing, u_bar)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _scores(block: Array, u: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Return means (H, K, q), covariances (H, q, K, K) and the work arrays of `reverse`."""
    draws, q, n, b = int(block[0]), int(block[1]), int(block[2]), int(block[4])
    K = u.shape[0]
    means, covariances = np.empty((draws, K, q)), np.empty((draws, q, K, K))
    kg, t, v = np.empty((draws, q, K, n)), np.empty((draws, q, K, n)), np.empty((draws, q, K, b))
    column = np.empty(K)
    for h in range(draws):
        for j in range(q):
            forward(block, h, j, u, column, covariances[h, j], kg[h, j], t[h, j], v[h, j])
            means[h, :, j] = column
    return means, covariances, kg, t, v


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _scores_reverse(
    block: Array, u: Array, kg: Array, t: Array, v: Array, mean_bars: Array, cov_bars: Array, u_bar: Array
) -> None:
    column = np.empty(u.shape[0])
    for h in range(mean_bars.shape[0]):
        for j in range(mean_bars.shape[2]):
            column[:] = mean_bars[h, :, j]
            reverse(block, h, j, u, kg[h, j], t[h, j], v[h, j], column, cov_bars[h, j], u_bar)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def fused_gaussian(block: Array, u: Array, phi: Array, z: Array) -> tuple[Array, Array, Array]:
    """Return log p(z | u, phi) and its derivatives by u (K, d) and phi; the data stand behind the surrogate."""
    draws = int(block[0])
    log_weight, data = block[6 : 6 + draws], block[block_size(block) :]
    means, covariances, kg, t, v = _scores(block, u)
    J, W = _jacobian(block, data, u), np.zeros((int(data[2]), 0))
    value, mean_bars, cov_bars, phi_bar, J_bar, _ = mixed_gaussian(data, means, covariances, log_weight, phi, z, J, W)
    u_bar = np.zeros(u.shape)
    _scores_reverse(block, u, kg, t, v, mean_bars, cov_bars, u_bar)
    _jacobian_reverse(block, data, u, J_bar, u_bar)
    return np.asarray(value), u_bar, phi_bar


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def fused_outputs(block: Array, u: Array, phi: Array, eta: Array) -> Array:
    """Return y (H, N) at u (K, d), hyperparameters phi and latents eta."""
    data = block[block_size(block) :]
    means, covariances, _, _, _ = _scores(block, u)
    J, W = _jacobian(block, data, u), np.zeros((int(data[2]), 0))
    y = np.empty((means.shape[0], int(data[2])))
    for h in range(means.shape[0]):
        y[h] = outputs(data, means[h], covariances[h], phi, J[h], W, eta)
    return y


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def fused_outputs_reverse(block: Array, u: Array, phi: Array, eta: Array, y_bar: Array) -> tuple[Array, Array, Array]:
    """Return the derivatives of y : y_bar by u, phi and eta."""
    data = block[block_size(block) :]
    means, covariances, kg, t, v = _scores(block, u)
    J, W = _jacobian(block, data, u), np.zeros((int(data[2]), 0))
    W_bar = np.zeros(W.shape)
    mean_bars, cov_bars, J_bars = np.empty(means.shape), np.empty(covariances.shape), np.empty(J.shape)
    u_bar, phi_bar, eta_bar = np.zeros(u.shape), np.zeros(phi.shape), np.zeros(eta.shape)
    for h in range(means.shape[0]):
        outputs_reverse(
            data,
            means[h],
            covariances[h],
            phi,
            J[h],
            W,
            eta,
            y_bar[h],
            mean_bars[h],
            cov_bars[h],
            phi_bar,
            J_bars[h],
            W_bar,
            eta_bar,
        )
    _scores_reverse(block, u, kg, t, v, mean_bars, cov_bars, u_bar)
    _jacobian_reverse(block, data, u, J_bars, u_bar)
    return u_bar, phi_bar, eta_bar
