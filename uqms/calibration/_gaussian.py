"""The Gaussian likelihood, compiled once: from the surrogate's joint error, noise and data to value and derivatives.

The rows of an input k are y = f(m (offset + B (mean + error) + E omega)) + noise, with the surrogate's error integrated
out. f is the identity; or, where the surrogate is one of the logarithm or logit, their inverse: then rows are expanded
to first order in the errors, f(s) + f'(s) m (B error + E omega), and a discrepancy, which is on the scale of s, is
multiplied by f'(s). Where noise grows with the output, its variance is that at f(s), sigma² + (b |f(s)|^c)², which is
the same expansion. The covariance R of the noise is diagonal, a sum of Ornstein-Uhlenbeck processes along series of
rows and independent noise (both linear in the rows), or dense. All rows are whitened by R first, X -> R^-1/2 X.
After that all noise has unit variance, and derivatives pass back through the whitening.

==========  =======================================================================  =================
symbol      meaning                                                                  shape
==========  =======================================================================  =================
k           surrogate input, with its rows; K of them
mean        of the scores                                                            (K, q)
lambda      variance of the idiosyncratic (independent) errors of each input         (K, q)
S, Phi      covariance of the errors between inputs, all scores; or its features     (K q, K q), (K, r_j)
            of each score, or of all scores together                                 (K, q, M)
B, E        basis and truncation rows; omega ~ N(0, 1) is new with each input        (N, q), (N, t)
m           1 + scale discrepancy                                                    (N,)
s, f, f'    m (offset + B mean), the output there in the noise's unit, its slope     (N,)
b, c        factor and power of noise that grows with the output                     ()
X           whitened f' m [B, E] and residual                                        (N, p + 1), p = q + t
V, v        X_k' X_k without and with the residual                                   (p, p), (p,)
H           1 + Lambda^1/2 V Lambda^1/2, Lambda = diag(lambda, 1)                    (p, p)
T, t        V - V Lambda^1/2 H^-1 Lambda^1/2 V, and likewise for v                   (p, p), (p,)
A           1 + sum_k F_k' T_k F_k, F the Cholesky factor of S, or the features      (M, M)
y, Q        mean and covariance of the shared errors given the data                  (K, q), (K, q, q)
e, Sigma    mean and covariance of all errors of an input given the data             (p,), (p, p)
alpha       C^-1 residual, C the covariance of the rows                              (N,)
precision   diagonal of C^-1                                                         (N,)
==========  =======================================================================  =================

log|C| = log|R| + sum log|H_k| + log|A|. Nothing divides by a variance of the surrogate, so an input at which the
simulator was run is no special case. Derivatives: dl/dr = -alpha, dl/dX_k = alpha e' - X_k Sigma,
dl/dlambda = (a² - P) / 2, dl/dS = (a a' - P) / 2 with a = t - T y and P = T - T Q T. Derivatives by
f' go to s, and from there to mean, offset and basis.
"""

import math

import numpy as np

from uqms._compiled import compiled
from uqms._native import A1, A2, A3, NONE, B, F, I, deferred, native
from uqms._typing import Array
from uqms.calibration import blocks
from uqms.calibration._blas import factor, gemm, inverted, solve_lower
from uqms.calibration._spectral import spectral_grams, spectral_grams_reverse
from uqms.calibration._terms import terms, terms_reverse
from uqms.calibration.blocks import view
from uqms.surrogates.fused_transforms import respond
from uqms.surrogates.kernels import FAST

__all__ = [
    "DENSE",
    "FEATURES",
    "LOG_TWO_PI",
    "OWN",
    "PRECISION",
    "SERIES",
    "SHARED",
    "SPECTRAL",
    "batch",
    "collapse",
    "gaussian",
    "gaussian_at",
    "parts_at",
    "sizes_of",
]

LOG_TWO_PI = math.log(2.0 * math.pi)
# Beyond this ratio of surrogate variance to noise variance, double precision loses whole nats: no density is given.
PRECISION = 1e13
OWN, SHARED, FEATURES = 0, 1, 2  # errors of different inputs: independent, with a covariance, through features
INDEPENDENT, SERIES, DENSE, SPECTRAL = 0, 1, 2, 3  # structures of the noise; the last one has no rows, see `_spectral`
VALUE, SLOPES, PRECISIONS = 0, 1, 2  # requested results; alpha comes with either of the last two
SMALL = 4096  # products of fewer numbers are faster without BLAS

# fmt: off
(SIZES, CONSTANT, COUNT, SQUARES, STARTS, VALUES, OWN_VARIANCE, WEIGHT, GROUP, SCALE, OFFSET, BASIS, TRUNCATION,
 RANKS, ORDER, FRESH, GAP, AMPLITUDE, LENGTH, TERMS, ROW_CELL, ROW_VARIANCE, RESPONSE, GROWTH, SPECTRA) = range(
    len(blocks.Data._fields)
)
# fmt: on


@compiled
def sizes_of(data: Array) -> tuple[int, int, int, int, int, int, int, int, int, int, bool]:
    """Return K, q, N, t, g, P, o, number of terms, form, structure, and whether basis and truncation are parts."""
    s = view(data, SIZES)
    return (
        int(s[0]),
        int(s[1]),
        int(s[2]),
        int(s[3]),
        int(s[4]),
        int(s[5]),
        int(s[6]),
        int(s[7]),
        int(s[8]),
        int(s[9]),
        s[10] > 0.0,
    )


@compiled
def parts_at(data: Array) -> tuple[int, int, int, int, int, int]:
    """Return where the parts of the joint error begin: lambda, S or Phi, offset, basis, truncation, J; then the end.

    The mean begins at 0. There is no lambda beside a covariance, and no S or Phi without shared errors.
    """
    K, q, N, t, _, _, o, _, form, _, varying = sizes_of(data)
    shared = K * q + (0 if form == SHARED else K * q)
    offset = shared
    if form == SHARED:
        offset += K * q * K * q
    elif form == FEATURES:
        ranks = view(data, RANKS)
        for j in range(len(ranks)):
            offset += K * int(ranks[j]) * (q // len(ranks))
    rows = N if varying else 0
    J = offset + rows * (1 + q + t)
    return shared, offset, offset + rows, offset + rows * (1 + q), J, J + N * o


@native(NONE, A1, A1, A1, A1)
def collapse(data: Array, z: Array, value: Array, squares: Array) -> None:
    """Fill the value of each row (N,) and the sums of squares (g,) for measured values z (R,), or those of the data."""
    row_cell, row_variance, weight = view(data, ROW_CELL), view(data, ROW_VARIANCE), view(data, WEIGHT)
    group = view(data, GROUP)
    if not len(row_cell) or not len(z):
        value[:], squares[:] = view(data, VALUES), view(data, SQUARES)
        return
    value[:], squares[:] = 0.0, 0.0
    for r in range(len(z)):
        value[int(row_cell[r])] += z[r] / row_variance[r]
    for c in range(len(value)):
        value[c] /= weight[c]
    for r in range(len(z)):
        c = int(row_cell[r])
        off = z[r] - value[c]
        squares[int(group[c])] += off * off / row_variance[r]


# --- the noise --------------------------------------------------------------------------------------------------------


@native(NONE, A1, A1, A2, fastmath=FAST)
def _steps(data: Array, phi: Array, steps: Array) -> None:
    """Fill variance and length of the process at each place of the order, in columns 0 and 3 (N, 4); 0 without one.

    Between them stand a and 1 - a² for its correlation a with the place before.
    """
    amplitude, lengths, fresh, gap = view(data, AMPLITUDE), view(data, LENGTH), view(data, FRESH), view(data, GAP)
    known_gap, known_length, a, new = -1.0, -1.0, 0.0, 1.0
    for i in range(steps.shape[0]):
        place = int(amplitude[i])
        if place < 0:
            steps[i, 0], steps[i, 1], steps[i, 2], steps[i, 3] = 0.0, 0.0, 1.0, 1.0
            continue
        length = phi[int(lengths[i])]
        steps[i, 0], steps[i, 3] = phi[place] ** 2, length
        if fresh[i] > 0.0:
            steps[i, 1], steps[i, 2] = 0.0, 1.0
            continue
        if gap[i] != known_gap or length != known_length:  # most recordings have equal steps
            known_gap, known_length = gap[i], length
            a, new = math.exp(-gap[i] / length), -math.expm1(-2.0 * gap[i] / length)
        steps[i, 1], steps[i, 2] = a, new


@native(F, A1, A2, fastmath=FAST)
def _whiten_rows(d: Array, X: Array) -> float:
    """Replace X (N, m) by R^-1/2 X where R = diag(d); return log|R|."""
    log_det = 0.0
    for c in range(X.shape[0]):
        root = 1.0 / math.sqrt(d[c])
        log_det += math.log(d[c])
        for j in range(X.shape[1]):
            X[c, j] *= root
    return log_det


@native(NONE, A1, A2, A2, A1, fastmath=FAST)
def _whiten_rows_reverse(d: Array, X: Array, X_bar: Array, d_bar: Array) -> None:
    """Do as `_whiten_series_reverse` where R = diag(d)."""
    for c in range(X.shape[0]):
        root, squares = 1.0 / math.sqrt(d[c]), 0.0
        for j in range(X.shape[1]):
            squares += X_bar[c, j] * X[c, j]
            X_bar[c, j] *= root
        d_bar[c] = -0.5 * (1.0 + squares) / d[c]


@deferred(F, A1, A2, A1, A2, A1, A1, fastmath=FAST)
def _whiten_series(data: Array, steps: Array, d: Array, X: Array, total: Array, before: Array) -> float:
    """Replace X (N, m) by R^-1/2 X; fill the innovations' variances and those of the process before each row (N,).

    A Kalman filter along each series: R is D plus a Markov process. Returns log|R|.
    """
    N, m = X.shape
    order = view(data, ORDER)
    state = np.zeros(m)
    log_det, after = 0.0, 0.0
    for i in range(N):
        c = int(order[i])
        s2, a, new = steps[i, 0], steps[i, 1], steps[i, 2]
        P = a * a * after + s2 * new
        S = P + d[c]
        root, gain = 1.0 / math.sqrt(S), P / S
        if s2 == 0.0:
            for j in range(m):
                X[c, j] *= root
        else:
            for j in range(m):
                expected = a * state[j]
                off = X[c, j] - expected
                X[c, j] = off * root
                state[j] = expected + gain * off
        after = P * d[c] / S
        total[c], before[c] = S, P
        log_det += math.log(S)
    return log_det


@deferred(NONE, A1, A1, A2, A1, A2, A2, A1, A1, A2, A1, A1, fastmath=FAST)
def _whiten_series_reverse(
    data: Array,
    phi: Array,
    steps: Array,
    d: Array,
    X: Array,
    original: Array,
    total: Array,
    before: Array,
    X_bar: Array,
    d_bar: Array,
    phi_bar: Array,
) -> None:
    """Turn the derivative by whitened X into that by X, in place; fill that by d and add to that by phi.

    The log-likelihood's own log|R| is taken into account.
    """
    N, m = X.shape
    order, fresh = view(data, ORDER), view(data, FRESH)
    state_bar = np.zeros(m)
    after_bar = 0.0  # of the variance before the next row
    for i in range(N - 1, -1, -1):
        c = int(order[i])
        S, P = total[c], before[c]
        deviation, gain = math.sqrt(S), P / S
        root = 1.0 / deviation
        s2 = steps[i, 0]
        squares = 0.0
        if s2 == 0.0:
            for j in range(m):
                squares += X_bar[c, j] * X[c, j]
                X_bar[c, j] *= root
            d_bar[c] = -0.5 * (1.0 + squares) / S
            after_bar = 0.0
            continue
        follows = i + 1 < N and fresh[i + 1] == 0.0
        a, new, length = 0.0, 1.0, 1.0
        a_bar, gain_bar = 0.0, 0.0
        if follows:
            a, new, length = steps[i + 1, 1], steps[i + 1, 2], steps[i + 1, 3]
            of_states, of_offs = 0.0, 0.0
            for j in range(m):
                x, x_bar, after = X[c, j], X_bar[c, j], state_bar[j]
                of_states += after * original[c, j]
                of_offs += after * x
                squares += x_bar * x
                off_bar = x_bar * root + gain * a * after
                state_bar[j] = a * after - off_bar
                X_bar[c, j] = off_bar
            a_bar = of_states - (1.0 - gain) * deviation * of_offs
            gain_bar = a * deviation * of_offs
        else:
            for j in range(m):
                squares += X_bar[c, j] * X[c, j]
                X_bar[c, j] *= root
                state_bar[j] = -X_bar[c, j]
        S_bar = -0.5 * (1.0 + squares) / S
        post_bar, s2_bar = 0.0, 0.0
        if follows:
            a_bar += after_bar * 2.0 * a * (P * d[c] / S - s2)
            s2_bar += after_bar * new
            post_bar = a * a * after_bar
            phi_bar[int(view(data, LENGTH)[i + 1])] += a_bar * a * view(data, GAP)[i + 1] / (length * length)
        S_bar -= post_bar * P * d[c] / (S * S) + gain_bar * P / (S * S)
        P_bar = post_bar * d[c] / S + gain_bar / S + S_bar
        d_bar[c] = post_bar * P / S + S_bar
        if fresh[i] > 0.0:
            s2_bar += P_bar
            for j in range(m):
                state_bar[j] = 0.0
            after_bar = 0.0
        else:
            after_bar = P_bar
        place = int(view(data, AMPLITUDE)[i])
        phi_bar[place] += 2.0 * phi[place] * s2_bar


@deferred(NONE, A1, A2, A1, A1, A2, A1, fastmath=FAST)
def _turned_series(data: Array, steps: Array, total: Array, before: Array, X: Array, diagonal: Array) -> None:
    """Replace X (N, m) by R^-1/2' X and fill the diagonal of R^-1 (N,)."""
    N, m = X.shape
    order, fresh = view(data, ORDER), view(data, FRESH)
    state, spread = np.zeros(m), 0.0
    for i in range(N - 1, -1, -1):
        c = int(order[i])
        S = total[c]
        root, gain = 1.0 / math.sqrt(S), before[c] / S
        a = 0.0
        if i + 1 < N and fresh[i + 1] == 0.0:
            a = steps[i + 1, 1]
        diagonal[c] = 1.0 / S + (a * gain) ** 2 * spread
        spread = 1.0 / S + (a * (1.0 - gain)) ** 2 * spread
        for j in range(m):
            after = a * state[j]
            value = X[c, j] * root + gain * after
            state[j] = after - value
            X[c, j] = value


@deferred(A2, A1, A1, A1, A2, A1)
def _dense(data: Array, phi: Array, d: Array, J: Array, slope: Array) -> Array:
    """Return R (N, N) with its terms of noise and discrepancy, which is on the surrogate's scale."""
    numbers, count, N, scaled = view(data, TERMS), sizes_of(data)[7], len(d), len(view(data, RESPONSE)) > 0
    R = terms(numbers, count, N, phi, J, True, not scaled)
    if scaled:
        delta = terms(numbers, count, N, phi, J, False, True)
        for i in range(N):
            for j in range(N):
                R[i, j] += slope[i] * slope[j] * delta[i, j]
    for c in range(N):
        R[c, c] += d[c]
    return R  # type: ignore[no-any-return]


# --- errors of each input ---------------------------------------------------------------------------------------------


@compiled(fastmath=FAST)
def _gram(X: Array, first: int, last: int, out: Array) -> None:
    """Fill out (m, m) with X' X over the rows from `first` to `last`."""
    m = X.shape[1]
    if (last - first) * m * m > SMALL:
        gemm(True, False, m, m, last - first, 1.0, X.reshape(-1), first * m, m, X.reshape(-1), first * m, m,
             0.0, out.reshape(-1), 0, m)  # fmt: skip
        return
    for a in range(m):
        for b in range(a + 1):
            out[a, b] = 0.0
    for c in range(first, last):
        for a in range(m):
            x = X[c, a]
            for b in range(a + 1):
                out[a, b] += x * X[c, b]
    for a in range(m):
        for b in range(a):
            out[b, a] = out[a, b]


@compiled(fastmath=FAST)
def _factor(matrix: Array, n: int) -> float:
    """Factor 1 + a positive semidefinite matrix in place (lower); return the log-determinant. Pivots are at least 1."""
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


@compiled(fastmath=FAST)
def _forward_solve(lower: Array, n: int, right: Array) -> None:
    """Replace the first n rows of `right` by lower^-1 times these rows."""
    m = right.shape[1]
    for i in range(n):
        for j in range(i):
            f = lower[i, j]
            for c in range(m):
                right[i, c] -= f * right[j, c]
        inverse = 1.0 / lower[i, i]
        for c in range(m):
            right[i, c] *= inverse


@native(F, A1, I, A2, A3, A2, A3, A1, fastmath=FAST)
def _of_inputs(starts: Array, q: int, X: Array, grams: Array, lam: Array, T: Array, each: Array) -> float:
    """Fill T (K, p, p + 1), with t in its last column, and (K,) the term of each input in -2 log p; return the sum.

    T and t come from whitened rows, or from their products `grams` (K, m, m) where there are no rows, with the
    idiosyncratic errors of the inputs.
    """
    K, m = lam.shape[0], X.shape[1]
    p = m - 1
    room, active = np.empty((3, m, m)), np.empty(p, dtype=np.int64)
    V, whole, half, roots = room[0], room[1].reshape(-1), room[2], room[2, p]
    total = 0.0
    for k in range(K):
        if grams.shape[0]:
            V = grams[k]
        else:
            _gram(X, int(starts[k]), int(starts[k + 1]), V)
        before = total
        total += V[p, p]
        n = 0
        for j in range(p):
            variance = lam[k, j] if j < q else 1.0
            if variance > 0.0 and V[j, j] != 0.0:
                active[n], roots[n] = j, math.sqrt(variance)
                n += 1
        H = whole[: n * n].reshape(n, n)
        for a in range(n):
            for b in range(a + 1):
                H[a, b] = roots[a] * V[active[a], active[b]] * roots[b]
            H[a, a] += 1.0
            if not H[a, a] <= PRECISION:
                return np.inf
            for c in range(m):
                half[a, c] = roots[a] * V[active[a], c]
        many = n * n * n > SMALL
        if many:
            total += factor(whole, n)
            solve_lower(False, n, m, whole, half.reshape(-1))
        else:
            total += _factor(H, n)
            _forward_solve(H, n, half)
        for a in range(n):
            total -= half[a, p] * half[a, p]
        for i in range(p):
            for c in range(m):
                T[k, i, c] = V[i, c]
        if many:
            gemm(True, False, p, m, n, -1.0, half.reshape(-1), 0, m, half.reshape(-1), 0, m,
                 1.0, T.reshape(-1), k * p * m, m)  # fmt: skip
        for a in range(0 if many else n):
            for i in range(p):
                f = half[a, i]
                for c in range(m):
                    T[k, i, c] -= f * half[a, c]
        if len(each):
            each[k] = total - before
    return total


# --- errors that inputs share -----------------------------------------------------------------------------------------


@compiled(fastmath=FAST)
def _root(S: Array, step: int, L: Array) -> None:
    """Fill L (n, n) with the lower Cholesky factor of S, which may be singular: then a column of zeros.

    Entries whose indices do not differ by a multiple of `step` are zero.
    """
    n = S.shape[0]
    for j in range(n):
        for i in range(n):
            L[i, j] = 0.0
        pivot = S[j, j]
        for e in range(j % step, j, step):
            pivot -= L[j, e] * L[j, e]
        if not pivot > 1e-14 * S[j, j]:
            continue
        L[j, j] = math.sqrt(pivot)
        for i in range(j + step, n, step):
            s = S[i, j]
            for e in range(j % step, j, step):
                s -= L[i, e] * L[j, e]
            L[i, j] = s / L[j, j]


@compiled(fastmath=FAST)
def _by_block(T: Array, q: int, right: Array, out: Array) -> None:
    """Fill out (K q, n) with blockdiag(T) right."""
    K, n = T.shape[0], right.shape[1]
    for k in range(K):
        for i in range(q):
            row = k * q + i
            for c in range(n):
                out[row, c] = 0.0
            for j in range(q):
                f = T[k, i, j]
                if f != 0.0:
                    for c in range(n):
                        out[row, c] += f * right[k * q + j, c]


@deferred(F, A2, A3, I, A2, A3, A2, A2, B, fastmath=FAST)
def _shared(S: Array, T: Array, q: int, y: Array, Q: Array, a: Array, S_bar: Array, slopes: bool) -> float:
    """Fill y, Q, a = t - T y and the derivative by S; return the term of the shared errors in -2 log p."""
    K, p = T.shape[0], T.shape[1]
    n = K * q
    L, TL, A, M, centre = np.empty((n, n)), np.empty((n, n)), np.empty(n * n), np.empty((n, n)), np.empty(n)
    step = q  # from one entry of a score to the next, where scores have independent errors: other entries are zero
    for row in range(n):
        for column in range(row):
            if S[row, column] != 0.0 and (row - column) % q:
                step = 1
    _root(S, step, L)
    _by_block(T, q, L, TL)
    gemm(True, False, n, n, n, 1.0, L.reshape(-1), 0, n, TL.reshape(-1), 0, n, 0.0, A, 0, n)
    for e in range(n):
        A[e * n + e] += 1.0
        if not A[e * n + e] <= PRECISION:
            return np.inf
    half = TL  # of M = L A^-1 L'
    for i in range(n):
        for j in range(n):
            half[i, j] = L[j, i]
    if n * n * n > SMALL:
        total = factor(A, n)
        if not total < np.inf:
            return np.inf
        solve_lower(False, n, n, A, half.reshape(-1))
    else:
        square = A.reshape(n, n)
        total = _factor(square, n)
        _forward_solve(square, n, half)
    gemm(True, False, n, n, n, 1.0, half.reshape(-1), 0, n, half.reshape(-1), 0, n, 0.0, M.reshape(-1), 0, n)
    for row in range(n):
        s = 0.0
        for k in range(K):
            for j in range(q):
                s += M[row, k * q + j] * T[k, j, p]
        centre[row] = s
    for k in range(K):
        for j in range(q):
            y[k, j] = centre[k * q + j]
            total -= y[k, j] * T[k, j, p]
            s = T[k, j, p]
            for i in range(q):
                s -= T[k, j, i] * centre[k * q + i]
                Q[k, j, i] = M[k * q + j, k * q + i]
            a[k, j] = s
    if not slopes:
        return float(total)
    TM = half
    _by_block(T, q, M, TM)
    for k in range(K):
        for j in range(q):
            row = k * q + j
            for m in range(K):
                for i in range(q):
                    s = a[k, j] * a[m, i]
                    for e in range(q):
                        s += TM[row, m * q + e] * T[m, e, i]
                    S_bar[row, m * q + i] = 0.5 * s
            for i in range(q):
                S_bar[row, k * q + i] -= 0.5 * T[k, j, i]
    return float(total)


@deferred(NONE, A1, A1, A3, I, A1, A1, fastmath=FAST)
def _precision_of_features(ranks: Array, phi: Array, T: Array, q: int, A: Array, right: Array) -> None:
    """Fill A (M, M) and right = sum_k F_k' t_k (M,): given the data, the features' weights are N(A^-1 right, A^-1).

    Features are those of each score, (K, r_j) score after score, or of all scores together, (K, q, M).
    """
    K, p, M = T.shape[0], T.shape[1], len(right)
    A[:], right[:] = 0.0, 0.0
    if len(ranks) < q:
        rows, scaled = phi[: K * q * M].reshape(K * q, M), np.empty((K * q, M))
        _by_block(T, q, rows, scaled)
        gemm(True, False, M, M, K * q, 1.0, phi, 0, M, scaled.reshape(-1), 0, M, 0.0, A, 0, M)
        for k in range(K):
            for j in range(q):
                f = T[k, j, p]
                for e in range(M):
                    right[e] += f * rows[k * q + j, e]
    else:
        widest = 0
        for j in range(q):
            widest = max(widest, int(ranks[j]))
        of_score = np.empty(K * widest)
        row = 0  # where the features of score i and of score j begin
        for i in range(q):
            r, column = int(ranks[i]), 0
            for j in range(i + 1):
                width, some = int(ranks[j]), False
                for k in range(K):
                    some = some or T[k, i, j] != 0.0
                if some:
                    for k in range(K):
                        f = T[k, i, j]
                        for e in range(width):
                            of_score[k * width + e] = f * phi[K * column + k * width + e]
                    gemm(
                        True, False, width, r, K, 1.0, of_score, 0, width, phi, K * row, r, 0.0, A, column * M + row, M
                    )
                column += width
            for k in range(K):
                f = T[k, i, p]
                for e in range(r):
                    right[row + e] += f * phi[K * row + k * r + e]
            row += r
    for e in range(M):
        A[e * M + e] += 1.0


@deferred(F, A1, A1, A3, I, A2, A3, A2, A1, fastmath=FAST)
def _features(ranks: Array, phi: Array, T: Array, q: int, y: Array, Q: Array, a: Array, phi_bar: Array) -> float:
    """Fill y, Q, a = t - T y and the derivative by the features, in their order; return as `_shared`.

    The derivative is that at a fixed lambda.
    """
    K, p = T.shape[0], T.shape[1]
    M, widest = 0, 0
    for j in range(len(ranks)):
        M, widest = M + int(ranks[j]), max(widest, int(ranks[j]))
    A, right, centre = np.empty(M * M), np.empty(M), np.zeros(M)
    _precision_of_features(ranks, phi, T, q, A, right)
    for e in range(M):
        if not A[e * M + e] <= PRECISION:
            return np.inf
    total = inverted(A, M)
    if not total < np.inf:
        return np.inf
    for e in range(M):
        s = 0.0
        for i in range(M):
            s += A[e * M + i] * right[i]
        centre[e] = s
        total -= s * right[e]
    if len(ranks) < q:
        _joint_features(phi[: K * q * M].reshape(K * q, M), T, q, A, centre, y, Q, a, phi_bar)
        return float(total)
    scaled = np.empty(K * widest)
    column = 0
    for j in range(q):
        r = int(ranks[j])
        for k in range(K):
            s = 0.0
            for e in range(r):
                s += phi[K * column + k * r + e] * centre[column + e]
                phi_bar[K * column + k * r + e] = 0.0
            y[k, j] = s
        row = 0
        for i in range(q):
            width = int(ranks[i])
            gemm(False, False, K, r, width, 1.0, phi, K * row, width, A, row * M + column, M, 0.0, scaled, 0, r)
            for k in range(K):
                f, s = T[k, j, i], 0.0
                for e in range(r):
                    s += scaled[k * r + e] * phi[K * column + k * r + e]
                    phi_bar[K * column + k * r + e] -= f * scaled[k * r + e]
                Q[k, i, j] = s
            row += width
        column += r
    for k in range(K):
        column = 0
        for j in range(q):
            s = T[k, j, p]
            for i in range(q):
                s -= T[k, j, i] * y[k, i]
            a[k, j] = s
            r = int(ranks[j])
            for e in range(r):
                phi_bar[K * column + k * r + e] += s * centre[column + e]
            column += r
    return float(total)


@deferred(NONE, A2, A3, I, A1, A1, A2, A3, A2, A1, fastmath=FAST)
def _joint_features(
    phi: Array, T: Array, q: int, inverse: Array, centre: Array, y: Array, Q: Array, a: Array, phi_bar: Array
) -> None:
    """Fill y, Q, a and the derivative as `_features`, by features of all scores together (K q, M), with A^-1 (M, M)."""
    (n, M), p = phi.shape, T.shape[1]
    spread, weighted = np.empty((n, M)), np.empty((n, M))
    gemm(False, False, n, M, M, 1.0, phi.reshape(-1), 0, M, inverse, 0, M, 0.0, spread.reshape(-1), 0, M)
    _by_block(T, q, spread, weighted)
    for row in range(n):
        k, j = row // q, row % q
        s = 0.0
        for e in range(M):
            s += phi[row, e] * centre[e]
        y[k, j] = s
        for i in range(q):
            s = 0.0
            for e in range(M):
                s += spread[row, e] * phi[k * q + i, e]
            Q[k, j, i] = s
    for row in range(n):
        k, j = row // q, row % q
        s = T[k, j, p]
        for i in range(q):
            s -= T[k, j, i] * y[k, i]
        a[k, j] = s
        for e in range(M):
            phi_bar[row * M + e] = s * centre[e] - weighted[row, e]


# --- the likelihood ---------------------------------------------------------------------------------------------------


@deferred(NONE, A1, I, A2, A2, A3, A2, A3, A2, A3, A3, fastmath=FAST)
def _given_data(
    starts: Array,
    q: int,
    X: Array,
    lam: Array,
    T: Array,
    y: Array,
    Q: Array,
    X_bar: Array,
    Sigma: Array,
    grams_bar: Array,
) -> None:
    """Fill Sigma (K, p, p) and the derivative by the whitened rows, whose last column is then -alpha, whitened.

    Where there are no rows, the derivative by their products (K, m, m) is filled instead. y and Q are empty where
    inputs share no errors.
    """
    K, m, common = lam.shape[0], X.shape[1], q if Q.shape[0] else 0
    p = m - 1
    room = np.empty((4, m, m))
    left, middle, whole, e, variance = room[0], room[1], room[2], room[3, 0], room[3, p]
    flat, flat_bar = X.reshape(-1), X_bar.reshape(-1)
    for k in range(K):
        for i in range(p):
            variance[i] = lam[k, i] if i < q else 1.0
            s = T[k, i, p]
            for j in range(common):
                s -= T[k, i, j] * y[k, j]
                left[i, j] = (1.0 if i == j else 0.0) - variance[i] * T[k, i, j]
            e[i] = (y[k, i] if i < common else 0.0) + variance[i] * s
        for i in range(p):
            for j in range(common):
                s = 0.0
                for c in range(common):
                    s += left[i, c] * Q[k, c, j]
                middle[i, j] = s
        for i in range(p):
            for j in range(i + 1):
                s = (variance[i] if i == j else 0.0) - variance[i] * T[k, i, j] * variance[j]
                for c in range(common):
                    s += middle[i, c] * left[j, c]
                Sigma[k, i, j] = s
                Sigma[k, j, i] = s
        first, last = int(starts[k]), int(starts[k + 1])
        spectral = grams_bar.shape[0] > 0
        if spectral or (last - first) * p * p > SMALL:  # [X, r] [[-Sigma - e e', e], [e', -1]], one pass over many rows
            for i in range(p):
                for j in range(p):
                    whole[i, j] = -Sigma[k, i, j] - e[i] * e[j]
                whole[i, p] = e[i]
                whole[p, i] = e[i]
            whole[p, p] = -1.0
            if spectral:
                for i in range(m):
                    for j in range(m):
                        grams_bar[k, i, j] = 0.5 * whole[i, j]
                continue
            gemm(False, False, last - first, m, m, 1.0, flat, first * m, m, whole.reshape(-1), 0, m,
                 0.0, flat_bar, first * m, m)  # fmt: skip
            continue
        for c in range(first, last):
            for i in range(p):
                s = 0.0
                for j in range(p):
                    s += X[c, j] * Sigma[k, j, i]
                X_bar[c, i] = -s
            s = X[c, p]
            for i in range(p):
                s -= X[c, i] * e[i]
            X_bar[c, p] = -s
            for i in range(p):
                X_bar[c, i] += s * e[i]


@compiled
def _inverse(lower: Array) -> Array:
    """Return (lower lower')^-1."""
    n = lower.shape[0]
    out = np.zeros((n, n))
    for i in range(n):
        out[i, i] = 1.0
    solve_lower(False, n, n, lower.reshape(-1), out.reshape(-1))
    solve_lower(True, n, n, lower.reshape(-1), out.reshape(-1))
    return out


@deferred(NONE, A1, A1, A2, A2, A2, A2, A3, A1, A1, A1, A2, A1, fastmath=FAST)
def _dense_reverse(
    data: Array,
    phi: Array,
    J: Array,
    R: Array,
    X: Array,
    X_bar: Array,
    Sigma: Array,
    slope: Array,
    d_bar: Array,
    phi_bar: Array,
    J_bar: Array,
    slope_bar: Array,
) -> None:
    """Turn the derivative by whitened rows into that by rows, and fill those by d, phi and J; R is its factor.

    Add to that by the rows' slopes. Dense noise ties all rows to each other, so there is one input whose Sigma is that
    of all errors.
    """
    N, m = X.shape
    p = m - 1
    solve_lower(True, N, m, R.reshape(-1), X_bar.reshape(-1))
    bar = _inverse(R)  # C^-1 = R^-1 - (R^-1/2' X) Sigma (R^-1/2' X)'
    B, BS = X[:, :p].copy(), np.empty((N, p))
    solve_lower(True, N, p, R.reshape(-1), B.reshape(-1))
    gemm(False, False, N, p, p, 1.0, B.reshape(-1), 0, p, Sigma.reshape(-1), 0, p, 0.0, BS.reshape(-1), 0, p)
    gemm(False, True, N, N, p, 0.5, BS.reshape(-1), 0, p, B.reshape(-1), 0, p, -0.5, bar.reshape(-1), 0, N)
    for i in range(N):
        for j in range(N):
            bar[i, j] += 0.5 * X_bar[i, p] * X_bar[j, p]
        d_bar[i] = bar[i, i]
    for i in range(J_bar.shape[0]):
        for j in range(J_bar.shape[1]):
            J_bar[i, j] = 0.0
    numbers, count, scaled = view(data, TERMS), sizes_of(data)[7], len(view(data, RESPONSE)) > 0
    terms_reverse(numbers, count, phi, J, True, not scaled, bar, phi_bar, J_bar)
    if scaled:
        delta = terms(numbers, count, N, phi, J, False, True)
        for i in range(N):
            for j in range(N):
                slope_bar[i] += (bar[i, j] + bar[j, i]) * delta[i, j] * slope[j]
        for i in range(N):
            for j in range(N):
                bar[i, j] *= slope[i] * slope[j]
        terms_reverse(numbers, count, phi, J, False, True, bar, phi_bar, J_bar)


@native(NONE, A1, A2, A2, A2, A2, A3, A1, A1, A1, A1, fastmath=FAST)
def _precisions(
    data: Array,
    steps: Array,
    R: Array,
    X: Array,
    X_bar: Array,
    Sigma: Array,
    total_variance: Array,
    before: Array,
    alpha: Array,
    precision: Array,
) -> None:
    """Fill alpha and the diagonal of C^-1 (N,)."""
    N, m = X.shape
    p = m - 1
    starts = view(data, STARTS)
    rows = np.empty((N, m))
    for c in range(N):
        for j in range(p):
            rows[c, j] = X[c, j]
        rows[c, p] = -X_bar[c, p]
    if R.shape[0]:
        solve_lower(True, N, m, R.reshape(-1), rows.reshape(-1))
        inverse = _inverse(R)
        for c in range(N):
            precision[c] = inverse[c, c]
    else:
        _turned_series(data, steps, total_variance, before, rows, precision)
    for k in range(Sigma.shape[0]):
        for c in range(int(starts[k]), int(starts[k + 1])):
            alpha[c] = rows[c, p]
            for i in range(p):
                s = 0.0
                for j in range(p):
                    s += Sigma[k, i, j] * rows[c, j]
                precision[c] -= rows[c, i] * s


@native(F, F, F, F, fastmath=FAST)
def grown(output: float, factor: float, power: float) -> float:
    """Return the part of the noise's sd that grows with the output, factor |output|^power."""
    size = abs(output)
    if power == 1.0:
        return float(factor * size)
    return float(factor * size**power) if size > 0.0 else 0.0


@native(F, F, A1, I, I, F, A1, fastmath=FAST)
def _grown_reverse(output: float, phi: Array, factor_at: int, power_at: int, bar: float, phi_bar: Array) -> float:
    """Return the derivative by the output, given the derivative `bar` by the square of `grown`; add those by phi."""
    factor, power, size = phi[factor_at], phi[power_at], abs(output)
    sd = grown(output, factor, power)
    if sd == 0.0:
        return 0.0
    phi_bar[factor_at] += 2.0 * bar * sd * sd / factor
    phi_bar[power_at] += 2.0 * bar * sd * sd * math.log(size)
    return float(2.0 * bar * sd * sd * power / output)


@native(NONE, A1, A1, A1, A1, A2, A1, A1, A1, A1, A2, fastmath=FAST)
def _rows(
    data: Array,
    parts: Array,
    phi: Array,
    value: Array,
    X: Array,
    d: Array,
    f: Array,
    factors: Array,
    slope: Array,
    lam: Array,
) -> None:
    """Fill X (N, p + 1) before whitening, variance of the independent noise, s / m, m and f' (N,), lambda (K, q)."""
    K, q, N, t, _, _, _, _, form, _, varying = sizes_of(data)
    _, offset_at, basis_at, truncation_at, J_at, _ = parts_at(data)
    starts, group, weight, scale = view(data, STARTS), view(data, GROUP), view(data, WEIGHT), view(data, SCALE)
    own_variance, mean = view(data, OWN_VARIANCE), parts[: K * q].reshape(K, q)
    response, growth, slopes = view(data, RESPONSE), view(data, GROWTH), np.ones(2)
    if varying:
        offset = parts[offset_at:basis_at]
        basis = parts[basis_at:truncation_at].reshape(N, q)
        truncation = parts[truncation_at:J_at].reshape(N, t)
    else:
        offset = view(data, OFFSET)
        basis, truncation = view(data, BASIS).reshape(N, q), view(data, TRUNCATION).reshape(N, t)
    for k in range(K):
        for j in range(q):
            lam[k, j] = 0.0 if form == SHARED else max(parts[K * q + k * q + j], 0.0)
        for c in range(int(starts[k]), int(starts[k + 1])):
            at = int(group[c])
            d[c] = own_variance[c] + (phi[at] * phi[at] / weight[c] if at >= 0 else 0.0)
            factors[c] = 1.0 + (phi[int(scale[c])] if scale[c] >= 0.0 else 0.0)
            s = offset[c]
            for j in range(q):
                s += basis[c, j] * mean[k, j]
            f[c] = s
            s *= factors[c]
            output = respond(response, c, s, slopes) if len(response) else s
            X[c, q + t] = value[c] - output
            slope[c] = slopes[0]
            if len(growth) and growth[2 * c] >= 0.0:
                sd = grown(output, phi[int(growth[2 * c])], phi[int(growth[2 * c + 1])])
                d[c] += sd * sd / weight[c]
            gain = factors[c] * slope[c]
            for j in range(q):
                X[c, j] = gain * basis[c, j]
            for j in range(t):
                X[c, q + j] = gain * truncation[c, j]


@native(F, A1, A1, A1, A1, A1, I, A1, A1, A1, A1, fastmath=FAST)
def gaussian(
    data: Array,
    parts: Array,
    phi: Array,
    value: Array,
    squares: Array,
    asked: int,
    parts_bar: Array,
    phi_bar: Array,
    alpha: Array,
    precision: Array,
) -> float:
    """Return log p(data | parts, phi) and fill the requested arrays: derivatives and alpha, or alpha and precision.

    `parts` are those of the surrogate's joint error in the order of `parts_at`; their derivatives have the same order.
    `value` (N,) and `squares` (g,) take the place of the data's own.
    """
    K, q, N, t, g, P, o, _, form, structure, varying = sizes_of(data)
    lambda_at = K * q
    shared_at, offset_at, basis_at, truncation_at, J_at, end = parts_at(data)
    p = q + t
    m = p + 1
    starts, group, weight, scale = view(data, STARTS), view(data, GROUP), view(data, WEIGHT), view(data, SCALE)
    replicates, response, slopes = view(data, COUNT), view(data, RESPONSE), np.ones(2)
    growth = view(data, GROWTH)
    mean = parts[: K * q].reshape(K, q)
    basis, truncation = view(data, BASIS).reshape(-1, q), view(data, TRUNCATION).reshape(-1, t)
    if varying:
        basis = parts[basis_at:truncation_at].reshape(N, q)
        truncation = parts[truncation_at:J_at].reshape(N, t)
    J = parts[J_at:end].reshape(N, o)

    total = float(view(data, CONSTANT)[0])
    for i in range(g):
        s = phi[i]
        if s > 0.0:  # s is 0 if the noise is only proportional; there are no replicates then
            total -= replicates[i] * math.log(s) + 0.5 * squares[i] / (s * s)
    # Allocate few arrays and use slices of them: an allocation costs as much as a hundred operations.
    of_rows, of_columns, of_scores = np.empty((8, N)), np.empty((2, N, m)), np.empty((3, K, q))
    d, f, factors, slope, total_variance, before = (
        of_rows[0],
        of_rows[1],
        of_rows[2],
        of_rows[3],
        of_rows[4],
        of_rows[5],
    )
    X, X_bar, lam, y, a = of_columns[0], of_columns[1], of_scores[0], of_scores[1], of_scores[2]
    products = np.empty((2 * K if structure == SPECTRAL else 0, m, m))
    grams, grams_bar = products[: len(products) // 2], products[len(products) // 2 :]
    _rows(data, parts, phi, value, X, d, f, factors, slope, lam)
    own_variance = view(data, OWN_VARIANCE)
    for c in range(N):
        at = int(group[c])
        if at >= 0 and own_variance[c] * weight[c] > PRECISION * phi[at] * phi[at]:
            return -np.inf
    original, R, steps = X, X[:0], X[:0]
    if structure == DENSE:
        R = _dense(data, phi, d, J, slope)
        log_det = factor(R.reshape(-1), N)
        if not log_det < np.inf:
            return -np.inf
        solve_lower(False, N, m, R.reshape(-1), X.reshape(-1))
    elif structure == SPECTRAL:
        log_det = spectral_grams(view(data, SPECTRA), phi, mean, t, grams)
    elif structure == SERIES:
        original, steps = X.copy(), np.empty((N, 4))
        _steps(data, phi, steps)
        log_det = _whiten_series(data, steps, d, X, total_variance, before)
    else:
        log_det = _whiten_rows(d, X)

    T, Q, each = np.empty((K, p, m)), np.empty((0 if form == OWN else K, q, q)), of_rows[0, :0]
    added = log_det + _of_inputs(starts, q, X, grams, lam, T, each)
    if not added < np.inf:
        return -np.inf
    if form == SHARED:
        S = parts[shared_at:offset_at].reshape(K * q, K * q)
        added += _shared(S, T, q, y, Q, a, parts_bar[shared_at:offset_at].reshape(K * q, K * q), asked == SLOPES)
    elif form == FEATURES:
        added += _features(view(data, RANKS), parts[shared_at:offset_at], T, q, y, Q, a, parts_bar[shared_at:offset_at])
    else:
        for k in range(K):
            for j in range(q):
                a[k, j] = T[k, j, p]
    total -= 0.5 * added
    if not total > -np.inf:
        return -np.inf
    if asked == VALUE:
        return float(total)

    Sigma = np.empty((K, p, p))
    _given_data(starts, q, X, lam, T, y, Q, X_bar, Sigma, grams_bar)
    if asked == PRECISIONS:
        if structure == INDEPENDENT:
            for c in range(N):
                total_variance[c], before[c] = d[c], 0.0
        _precisions(data, steps, R, X, X_bar, Sigma, total_variance, before, alpha, precision)
        return float(total)

    for k in range(K):
        for j in range(q):
            parts_bar[k * q + j] = a[k, j]
            if form == SHARED:
                continue
            s = T[k, j, j]
            if form != OWN:
                for i in range(q):
                    for e in range(q):
                        s -= T[k, j, i] * Q[k, i, e] * T[k, e, j]
            bar = 0.5 * (a[k, j] * a[k, j] - s) if lam[k, j] > 0.0 else 0.0  # none where lambda was cut off at 0
            parts_bar[lambda_at + k * q + j] = bar
    for i in range(P):
        phi_bar[i] = 0.0
    for i in range(g):
        s = phi[i]
        if s > 0.0:
            phi_bar[i] = squares[i] / (s * s * s) - replicates[i] / s
    d_bar, slope_bar = of_rows[6], of_rows[7]
    for c in range(N):
        slope_bar[c] = 0.0
    if structure == DENSE:
        J_bar = parts_bar[J_at:end].reshape(N, o)
        _dense_reverse(data, phi, J, R, X, X_bar, Sigma, slope, d_bar, phi_bar, J_bar, slope_bar)
    elif structure == SPECTRAL:
        spectral_grams_reverse(view(data, SPECTRA), phi, mean, t, grams_bar, phi_bar)
    elif structure == INDEPENDENT:
        _whiten_rows_reverse(d, X, X_bar, d_bar)
    else:
        _whiten_series_reverse(data, phi, steps, d, X, original, total_variance, before, X_bar, d_bar, phi_bar)
    for k in range(K):
        for c in range(int(starts[k]), int(starts[k + 1])):
            alpha[c] = -X_bar[c, p]
            at = int(group[c])
            if at >= 0:
                phi_bar[at] += 2.0 * d_bar[c] * phi[at] / weight[c]
            s_bar = alpha[c] * slope[c]  # of the latent output at the mean of the errors
            error_bar = 0.0  # of the slope, by the errors that it multiplies
            if scale[c] >= 0.0 or len(response):
                for j in range(q):
                    error_bar += X_bar[c, j] * basis[c, j]
                for j in range(t):
                    error_bar += X_bar[c, q + j] * truncation[c, j]
            bends, bent, output = False, 0.0, factors[c] * f[c]
            if len(response):
                bends, output = True, respond(response, c, output, slopes)
                bent = (factors[c] * error_bar + slope_bar[c]) * slopes[1]
            if len(growth) and growth[2 * c] >= 0.0:
                bends = True
                bent += slope[c] * _grown_reverse(
                    output, phi, int(growth[2 * c]), int(growth[2 * c + 1]), d_bar[c] / weight[c], phi_bar
                )
            if bends:
                s_bar += bent
                for j in range(q):
                    parts_bar[k * q + j] += factors[c] * basis[c, j] * bent
            if scale[c] >= 0.0:
                phi_bar[int(scale[c])] += s_bar * f[c] + slope[c] * error_bar
            if varying:
                gain = factors[c] * slope[c]
                parts_bar[offset_at + c] = factors[c] * s_bar
                for j in range(q):
                    parts_bar[basis_at + c * q + j] = gain * X_bar[c, j] + factors[c] * s_bar * mean[k, j]
                for j in range(t):
                    parts_bar[truncation_at + c * t + j] = gain * X_bar[c, q + j]
    return float(total)


# --- from Python ------------------------------------------------------------------------------------------------------


@compiled
def gaussian_at(
    data: Array, parts: Array, phi: Array, value: Array, squares: Array, asked: int
) -> tuple[float, Array, Array, Array, Array]:
    """Return what `gaussian` does: value, parts_bar, phi_bar, alpha and precision."""
    parts_bar, phi_bar = np.zeros(len(parts)), np.zeros(len(phi))
    alpha, precision = np.zeros(len(value)), np.zeros(len(value))
    out = gaussian(data, parts, phi, value, squares, asked, parts_bar, phi_bar, alpha, precision)
    return out, parts_bar, phi_bar, alpha, precision


@compiled
def batch(
    data: Array, parts: Array, phi: Array, value: Array, squares: Array, asked: int
) -> tuple[Array, Array, Array]:
    """Return log p (S,), and alpha and precision (S, N) if requested, at parts (S, size) and phi (S, P).

    `value` (S or 1, N) and `squares` (S or 1, g) are the measured values.
    """
    S, N = parts.shape[0], value.shape[1]
    rows = S if asked != VALUE else 1
    out, alpha, precision = np.empty(S), np.zeros((rows, N)), np.zeros((rows, N))
    parts_bar, phi_bar = np.empty(parts.shape[1]), np.empty(phi.shape[1])
    for s in range(S):
        i, j = s % value.shape[0], s % rows
        out[s] = gaussian(
            data, parts[s], phi[s], value[i], squares[i], asked, parts_bar, phi_bar, alpha[j], precision[j]
        )
    return out, alpha, precision


@compiled
def of_inputs(data: Array, parts: Array, phi: Array, value: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Return the information of each input's cells about its scores, and of all cells about the features' weights.

    At parts (S, size) and phi (S, P). T (S, K, q, q), t (S, K, q) and the term of each input in -2 log p (S, K) come
    first, without shared errors and without constants of the measurements; the term is infinite where double precision
    is too little. Then follow A (S, M, M) and right (S, M) of the features' weights. For noise that is not dense.
    """
    K, q, N, t = sizes_of(data)[:4]
    S, p = len(parts), q + t
    T, right, each = np.empty((S, K, q, q)), np.empty((S, K, q)), np.empty((S, K))
    X, d, f, factors, lam = np.empty((N, p + 1)), np.empty(N), np.empty(N), np.empty(N), np.empty((K, q))
    slope = np.empty(N)
    whole, before, total, steps = np.empty((K, p, p + 1)), np.empty(N), np.empty(N), np.empty((N, 4))
    starts, ranks, none = view(data, STARTS), view(data, RANKS), np.empty((0, p + 1, p + 1))
    shared_at, offset_at = parts_at(data)[:2]
    M = int(ranks.sum())
    A, of_features = np.zeros((S, M, M)), np.zeros((S, M))
    for s in range(S):
        _rows(data, parts[s], phi[s], value, X, d, f, factors, slope, lam)
        _steps(data, phi[s], steps)
        _whiten_series(data, steps, d, X, total, before)
        if not _of_inputs(starts, q, X, none, lam, whole, each[s]) < np.inf:
            each[s] = np.inf
        elif M:
            flat = A[s].reshape(M * M)
            _precision_of_features(ranks, parts[s, shared_at:offset_at], whole, q, flat, of_features[s])
        for k in range(K):
            for c in range(int(starts[k]), int(starts[k + 1])):
                each[s, k] += math.log(total[c])
            for i in range(q):
                right[s, k, i] = whole[k, i, p]
                for j in range(q):
                    T[s, k, i, j] = whole[k, i, j]
    return T, right, each, A, of_features


@compiled
def collapse_into(data: Array, z: Array, value: Array, squares: Array) -> None:
    """Call `collapse`."""
    collapse(data, z, value, squares)


@compiled
def mixed(data: Array, parts: Array, log_weights: Array, phi: Array, z: Array) -> tuple[Array, Array, Array]:
    """Return log sum_h w_h p(z | parts h, phi), shape (), and its derivatives by parts (H, size) and phi (P,).

    Hyperparameter draws are averaged over the whole data set: one h for all coordinates, replicates and experiments.
    """
    data, parts = np.ascontiguousarray(data), np.ascontiguousarray(parts)
    phi, z = np.ascontiguousarray(phi), np.ascontiguousarray(z)
    H, size = parts.shape
    value, squares = np.empty(sizes_of(data)[2]), np.empty(sizes_of(data)[4])
    collapse(data, z, value, squares)
    bars, phi_bars, values, alpha = np.zeros((H, size)), np.zeros((H, len(phi))), np.empty(H), np.empty(len(value))
    for h in range(H):
        values[h] = log_weights[h] + gaussian(
            data, parts[h], phi, value, squares, SLOPES, bars[h], phi_bars[h], alpha, alpha
        )
    top, norm = values.max(), 0.0
    out, phi_bar = np.empty(()), np.zeros(len(phi))
    if not top > -np.inf:
        out[()] = -np.inf
        return out, np.zeros((H, size)), phi_bar
    for h in range(H):
        norm += math.exp(values[h] - top)
    for h in range(H):
        share = math.exp(values[h] - top) / norm
        for i in range(size):
            bars[h, i] = bars[h, i] * share if share > 0.0 else 0.0
        for i in range(len(phi)):
            phi_bar[i] += phi_bars[h, i] * share if share > 0.0 else 0.0
    out[()] = top + math.log(norm)
    return out, bars, phi_bar
