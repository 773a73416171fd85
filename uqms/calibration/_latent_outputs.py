"""Outputs of the cells from sampled latents, for noise that is not normal: counts, censoring, long tails, transforms.

The outputs are y = m (offset + B scores + E omega + W xi) + delta, with m = 1 + a scale discrepancy. W xi is the
deviation of one run of a stochastic simulator from its mean (`realisation`). The surrogate's error, truncation and
discrepancy are L eta. eta is standard normal, and is sampled together with the parameters.

==========  ==========================================================================  ===========
symbol      meaning                                                                     shape
==========  ==========================================================================  ===========
S           covariances of each score between inputs; or, for correlated scores, one     (q, K, K)
            covariance of all scores, input by input                                    (1, K q, K q)
W           square-root factor of the noise of one run, for each experiment              (N, r)
eta         latents: scores (K q, experiment-major), truncation (K t), discrepancy      (L,)
            (N), runs (K r)
==========  ==========================================================================  ===========

Other letters as in `_gaussian` and `_terms`.
"""

import math

import numpy as np

from uqms._compiled import compiled
from uqms._native import A1, A2, NONE, deferred
from uqms._typing import Array
from uqms.calibration._mean_slopes import score_slopes, score_slopes_reverse
from uqms.calibration._terms import fields, terms, terms_reverse
from uqms.surrogates.fused_scores import forward_of, reverse_of, size_of

__all__ = [
    "fused_outputs",
    "fused_outputs_reverse",
    "latent_count",
    "linear_outputs",
    "outputs",
    "outputs_reverse",
    "roots",
]

JITTER = 1e-9  # relative, of discrepancy and correlated noise that are sampled
ROUNDING = 1e-15  # relative, of an entry of a product of square-root factors
ZERO = 1e-14  # relative pivot below which a covariance is singular


# --- latents that are sampled -----------------------------------------------------------------------------------------


@compiled
def latent_count(data: Array) -> int:
    """Return the number of latents eta."""
    K, q, N, t, T = int(data[0]), int(data[1]), int(data[2]), int(data[4]), int(data[5])
    return K * q + K * t + (N if T > 0 else 0) + K * int(data[7])


@compiled
def _root(S: Array, own: bool) -> Array:
    """Return lower L with L L' = S; a column of zeros where S is singular (the simulator was run at that input).

    A pivot counts as zero if it is small relative to the largest variance, or relative to its `own` variance where
    units differ between rows.

    Where many inputs are close to each other, pivots are sums of rounding errors. Entries that are divided by the
    square roots of these pivots grow from column to column: with 300 subjects, draws were up to 40 sds off. A small
    multiple of the largest variance is therefore added to each pivot, just enough to keep this growth below one. The
    effect on a draw is negligible: 1e-5 of its sd at 300 inputs.
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


@compiled
def roots(S: Array, own: bool) -> Array:
    """Return the square-root factors of several covariances (S, n, n); `own` for those of terms."""
    out = np.empty_like(S)
    for s in range(S.shape[0]):
        out[s] = _root(S[s], own)
    return out


@compiled
def _root_reverse(L: Array, L_bar: Array) -> Array:
    """Return the symmetric derivative by S from the derivative by L = `_root(S)`; zero columns have none."""
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


@compiled
def _score_roots(S: Array) -> Array:
    """Return the square-root factors (m, n, n) of S (m, n, n): of each score, or one for all scores."""
    L = np.empty_like(S)
    for j in range(S.shape[0]):
        L[j] = _root(S[j], False)
    return L


@compiled
def _errors(L: Array, eta: Array, scores: Array) -> None:
    """Add the errors L eta to scores (K, q)."""
    K, q = scores.shape
    if L.shape[1] != K:
        for i in range(K * q):
            for m in range(i + 1):
                scores[i // q, i % q] += L[0, i, m] * eta[m]
        return
    for j in range(q):
        for k in range(K):
            for m in range(k + 1):
                scores[k, j] += L[j, k, m] * eta[m * q + j]


@compiled
def _errors_reverse(L: Array, eta: Array, scores_bar: Array, S_bar: Array, eta_bar: Array) -> None:
    """Fill the derivative by S and add the derivative by eta, from the derivative by the errors, scores_bar (K, q)."""
    K, q = scores_bar.shape
    n = L.shape[1]
    L_bar = np.empty((n, n))
    if n != K:
        L_bar[:] = 0.0
        for i in range(n):
            for m in range(i + 1):
                L_bar[i, m] = scores_bar[i // q, i % q] * eta[m]
                eta_bar[m] += L[0, i, m] * scores_bar[i // q, i % q]
        S_bar[0] = _root_reverse(L[0], L_bar)
        return
    for j in range(q):
        L_bar[:] = 0.0
        for k in range(K):
            for m in range(k + 1):
                L_bar[k, m] = scores_bar[k, j] * eta[m * q + j]
                eta_bar[m * q + j] += L[j, k, m] * scores_bar[k, j]
        S_bar[j] = _root_reverse(L[j], L_bar)


@compiled
def outputs(
    data: Array,
    mean: Array,
    covariance: Array,
    phi: Array,
    J: Array,
    W: Array,
    offset: Array,
    basis: Array,
    truncation: Array,
    eta: Array,
) -> Array:
    """Return y (N,) for one set of scores, parameters and latents eta (L,)."""
    K, q, N, t, T = int(data[0]), int(data[1]), int(data[2]), int(data[4]), int(data[5])
    parts = fields(data)
    experiment, factor = parts[0], parts[2]
    scores = mean.copy()
    _errors(_score_roots(covariance), eta, scores)
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
        y += _root(_jittered(terms(data[fields(data)[9] :], T, N, phi, J, True, True)), True) @ eta[K * q + K * t : own]
    return y


@compiled
def linear_outputs(
    data: Array,
    mean: Array,
    covariance: Array,
    phi: Array,
    J: Array,
    W: Array,
    offset: Array,
    basis: Array,
    truncation: Array,
) -> tuple[Array, Array]:
    """Return y0 (N,) and B (N, L), with which `outputs` are y0 + B eta; square-root factors are computed once."""
    K, q, N, t, T = int(data[0]), int(data[1]), int(data[2]), int(data[4]), int(data[5])
    parts = fields(data)
    experiment, factor = parts[0], parts[2]
    first, r = K * q, W.shape[1]
    own = first + K * t + (N if T > 0 else 0)
    y, B = np.empty(N), np.zeros((N, latent_count(data)))
    L = _score_roots(covariance)
    for i in range(N):
        k = int(experiment[i])
        for j in range(q):
            if L.shape[1] != K:
                for m in range(k * q + j + 1):
                    B[i, m] += basis[i, j] * L[0, k * q + j, m]
            else:
                for m in range(k + 1):
                    B[i, m * q + j] = basis[i, j] * L[j, k, m]
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
        R = _root(_jittered(terms(data[fields(data)[9] :], T, N, phi, J, True, True)), True)
        for i in range(N):
            for e in range(N):
                B[i, first + K * t + e] = R[i, e]
    return y, B


@compiled
def _jittered(R: Array) -> Array:
    for i in range(R.shape[0]):
        R[i, i] *= 1.0 + JITTER
    return R


@compiled
def outputs_reverse(
    data: Array,
    mean: Array,
    covariance: Array,
    phi: Array,
    J: Array,
    W: Array,
    offset: Array,
    basis: Array,
    truncation: Array,
    eta: Array,
    y_bar: Array,
    mean_bar: Array,
    cov_bar: Array,
    phi_bar: Array,
    J_bar: Array,
    W_bar: Array,
    rows_bar: Array,
    eta_bar: Array,
) -> None:
    """Fill mean_bar (K, q), cov_bar and J_bar (N, o); add to phi_bar, W_bar and eta_bar.

    Where rows_bar has rows, it is filled with derivatives by offset, basis and truncation, (N, 1 + q + t).
    """
    K, q, N, t, T = int(data[0]), int(data[1]), int(data[2]), int(data[4]), int(data[5])
    parts = fields(data)
    experiment, factor = parts[0], parts[2]
    mean_bar[:], cov_bar[:], J_bar[:] = 0.0, 0.0, 0.0
    scores = mean.copy()
    roots = _score_roots(covariance)
    _errors(roots, eta, scores)
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
        if rows_bar.shape[0] > 0:
            rows_bar[i, 0] = bar
            for j in range(q):
                rows_bar[i, 1 + j] = bar * scores[k, j]
            for a in range(t):
                rows_bar[i, 1 + q + a] = bar * eta[first + k * t + a]
    _errors_reverse(roots, eta, mean_bar, cov_bar, eta_bar)
    if T > 0:
        start = first + K * t
        L = _root(_jittered(terms(data[fields(data)[9] :], T, N, phi, J, True, True)), True)
        R_bar = np.zeros((N, N))
        for i in range(N):
            for e in range(i + 1):
                R_bar[i, e] = y_bar[i] * eta[start + e]
                eta_bar[start + e] += L[i, e] * y_bar[i]
        Q = _jittered(_root_reverse(L, R_bar))
        terms_reverse(data[fields(data)[9] :], T, phi, J, True, True, Q, phi_bar, J_bar)


# --- surrogate and data in one block ----------------------------------------------------------------------------------


@compiled
def _jacobian(block: Array, data: Array, u: Array) -> tuple[Array, Array]:
    """Return J (H, N, o), empty without orthogonal terms, and the arrays that `_jacobian_reverse` needs."""
    draws, q, n, N, o = int(block[0]), int(block[1]), abs(int(block[2])), int(data[2]), int(data[6])
    J, kept = np.zeros((draws, N, o)), np.empty((draws, 2 * o * q, u.shape[0] if o else 0, n))
    if o == 0:
        return J, kept
    parts = fields(data)
    experiment, basis, columns = parts[0], parts[4], parts[6]
    slopes = np.empty((o, u.shape[0] * q))
    for h in range(draws):
        score_slopes(block, h, columns, u, slopes, kept[h])
        for c in range(N):
            for i in range(o):
                for j in range(q):
                    J[h, c, i] += basis[c, j] * slopes[i, int(experiment[c]) * q + j]
    return J, kept


@compiled
def _jacobian_reverse(block: Array, data: Array, u: Array, J_bar: Array, kept: Array, u_bar: Array) -> None:
    """Add to u_bar the derivative of J : J_bar."""
    draws, q, N, o = int(block[0]), int(block[1]), int(data[2]), int(data[6])
    if o == 0:
        return
    parts = fields(data)
    experiment, basis, columns = parts[0], parts[4], parts[6]
    for h in range(draws):
        slopes_bar = np.zeros((o, u.shape[0] * q))
        for c in range(N):
            for i in range(o):
                for j in range(q):
                    slopes_bar[i, int(experiment[c]) * q + j] += basis[c, j] * J_bar[h, c, i]
        score_slopes_reverse(block, h, columns, u, slopes_bar, kept[h], u_bar)


@compiled
def _scores(block: Array, u: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Return means (H, K, q), covariances (H, q, K, K) and the work arrays of `reverse`."""
    draws, q, n, b = int(block[0]), int(block[1]), abs(int(block[2])), int(block[4])
    K = u.shape[0]
    means, covariances = np.empty((draws, K, q)), np.empty((draws, q, K, K))
    kg, t, v = np.empty((draws, q, K, n)), np.empty((draws, q, K, n)), np.empty((draws, q, K, b))
    column = np.empty(K)
    for h in range(draws):
        for j in range(q):
            forward_of(block, h, j, u, column, covariances[h, j], kg[h, j], t[h, j], v[h, j])
            means[h, :, j] = column
    return means, covariances, kg, t, v


@compiled
def _scores_reverse(
    block: Array, u: Array, kg: Array, t: Array, v: Array, mean_bars: Array, cov_bars: Array, u_bar: Array
) -> None:
    column = np.empty(u.shape[0])
    for h in range(mean_bars.shape[0]):
        for j in range(mean_bars.shape[2]):
            column[:] = mean_bars[h, :, j]
            reverse_of(block, h, j, u, kg[h, j], t[h, j], v[h, j], column, cov_bars[h, j], u_bar)


@deferred(A2, A1, A2, A1, A1)
def _fused_outputs(block: Array, u: Array, phi: Array, eta: Array) -> Array:
    data = block[size_of(block) :]
    means, covariances, _, _, _ = _scores(block, u)
    J, _ = _jacobian(block, data, u)
    W = np.zeros((int(data[2]), 0))
    y = np.empty((means.shape[0], int(data[2])))
    _, _, _, offset, basis, truncation, _, _, _, _ = fields(data)
    for h in range(means.shape[0]):
        y[h] = outputs(data, means[h], covariances[h], phi, J[h], W, offset, basis, truncation, eta)
    return y


@deferred(NONE, A1, A2, A1, A1, A2, A2, A1, A1)
def _fused_outputs_reverse(
    block: Array, u: Array, phi: Array, eta: Array, y_bar: Array, u_bar: Array, phi_bar: Array, eta_bar: Array
) -> None:
    """Add to u_bar, phi_bar and eta_bar."""
    data = block[size_of(block) :]
    means, covariances, kg, t, v = _scores(block, u)
    J, kept = _jacobian(block, data, u)
    W = np.zeros((int(data[2]), 0))
    W_bar = np.zeros(W.shape)
    mean_bars, cov_bars, J_bars = np.empty(means.shape), np.empty(covariances.shape), np.empty(J.shape)
    _, _, _, offset, basis, truncation, _, _, _, _ = fields(data)
    no_rows = np.empty((0, 0))
    for h in range(means.shape[0]):
        outputs_reverse(
            data,
            means[h],
            covariances[h],
            phi,
            J[h],
            W,
            offset,
            basis,
            truncation,
            eta,
            y_bar[h],
            mean_bars[h],
            cov_bars[h],
            phi_bar,
            J_bars[h],
            W_bar,
            no_rows,
            eta_bar,
        )
    _scores_reverse(block, u, kg, t, v, mean_bars, cov_bars, u_bar)
    _jacobian_reverse(block, data, u, J_bars, kept, u_bar)


@compiled
def fused_outputs(block: Array, u: Array, phi: Array, eta: Array) -> Array:
    """Return y (H, N) at u (K, d), hyperparameters phi and latents eta."""
    u, phi, eta = np.ascontiguousarray(u), np.ascontiguousarray(phi), np.ascontiguousarray(eta)
    y: Array = _fused_outputs(block, u, phi, eta)
    return y


@compiled
def fused_outputs_reverse(block: Array, u: Array, phi: Array, eta: Array, y_bar: Array) -> tuple[Array, Array, Array]:
    """Return the derivatives of y : y_bar by u, phi and eta."""
    u, phi, eta = np.ascontiguousarray(u), np.ascontiguousarray(phi), np.ascontiguousarray(eta)
    u_bar, phi_bar, eta_bar = np.zeros(u.shape), np.zeros(phi.shape), np.zeros(eta.shape)
    _fused_outputs_reverse(block, u, phi, eta, np.ascontiguousarray(y_bar), u_bar, phi_bar, eta_bar)
    return u_bar, phi_bar, eta_bar


@compiled
def outputs_of(
    data: Array,
    means: Array,
    covariances: Array,
    phi: Array,
    J: Array,
    W: Array,
    offset: Array,
    basis: Array,
    truncation: Array,
    eta: Array,
) -> Array:
    """Return latent outputs (H, S, N).

    Of scores (H, S, K, q), their covariances (H, S, ...) as in `_latent_outputs`, phi, J (H, S, N, o), W, rows (H or 1,
    S or 1, N, ...) and eta (S, L).
    """
    draws, count = means.shape[:2]
    y = np.empty((draws, count, int(data[2])))
    for h in range(draws):
        for s in range(count):
            i, j = h % offset.shape[0], s % offset.shape[1]
            y[h, s] = outputs(
                data,
                means[h, s],
                covariances[h, s],
                phi[s],
                J[h, s],
                W[s],
                offset[i, j],
                basis[i, j],
                truncation[i, j],
                eta[s],
            )
    return y


@compiled
def maps_of(
    data: Array,
    means: Array,
    covariances: Array,
    phi: Array,
    J: Array,
    W: Array,
    offset: Array,
    basis: Array,
    truncation: Array,
) -> tuple[Array, Array]:
    """Return y0 (H, S, N) and B (H, S, N, L) of latent outputs y0 + B eta; arguments as those of `outputs_of`."""
    draws, count = means.shape[:2]
    y = np.empty((draws, count, int(data[2])))
    B = np.empty((draws, count, int(data[2]), latent_count(data)))
    for h in range(draws):
        for s in range(count):
            i, j = h % offset.shape[0], s % offset.shape[1]
            y[h, s], B[h, s] = linear_outputs(
                data,
                means[h, s],
                covariances[h, s],
                phi[s],
                J[h, s],
                W[s],
                offset[i, j],
                basis[i, j],
                truncation[i, j],
            )
    return y, B
