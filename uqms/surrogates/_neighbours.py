"""The compiled local predictor: weights of a point's nearest runs, covariance of its errors, and the derivative.

==========  =============================================================  ==========
symbol      meaning                                                        shape
==========  =============================================================  ==========
u_a         input a; N_a its m runs, F_a their trend functions             (d,), (m, d), (m, b)
K, k        correlation of the runs (with nugget), of runs and input       (m, m), (m,)
lambda      K^-1 (k - F M (F' K^-1 k - t)), M = (F' K^-1 F)^-1             (m,)
P, Q        lambda = P k + Q t: K^-1 - Q F' K^-1 and K^-1 F M              (m, m), (m, b)
error       e(u) = f(u) - lambda' y(N), for any trend
SS          (y - F beta)' K^-1 (y - F beta): roughness of the output near u scalar
s2_a        s2 (nu + SS_a / typical) / (nu + m - b): smaller where the     scalar
            output is smooth
==========  =============================================================  ==========

    Cov[e_a, e_e] = s_a s_e [k(u_a, u_e) - lambda_a' k(N_a, u_e) - lambda_e' k(N_e, u_a)
                             + lambda_a' K(N_a, N_e) lambda_e]

This is the covariance of the predictor's errors, also where two inputs have different runs. It is a Gram matrix, so
it does not depend on the other inputs of a call.
"""

import math

import numpy as np

from uqms._compiled import compiled
from uqms._typing import Array, Ints
from uqms.surrogates.kernels import FAST, SINGLE, composite_of, correlation_of, layout_of

__all__ = ["local_left_out", "local_reverse", "local_scores"]

STEPS = 10  # of the jitter, each ten times the previous


@compiled(fastmath=FAST)
def _kappa(code: int, codes: Ints, terms: Ints, shares: Array, scales: Array, a: Array, b: Array, g: Array) -> float:
    """Return the correlation between two inputs and fill g (parts,) of its slope; scales (parts, d) are inverse."""
    if code >= SINGLE:
        return float(composite_of(codes, terms, shares, scales, a, b, g))
    r2 = 0.0
    for c in range(len(a)):
        step = (a[c] - b[c]) * scales[0, c]
        r2 += step * step
    value, g[0] = correlation_of(code, r2)
    return float(value)


@compiled(fastmath=FAST)
def _factorise(K: Array, first: float) -> tuple[Array, float]:
    """Return the Cholesky factor of K with the smallest sufficient jitter, from `first` on, or NaN."""
    m = K.shape[0]
    L = np.zeros((m, m))
    jitter = first
    for _ in range(STEPS):
        good = True
        for i in range(m):
            for j in range(i + 1):
                s = 0.0
                for c in range(j):
                    s += L[i, c] * L[j, c]
                if i == j:
                    left = K[i, i] + jitter - s
                    if not left > 0.0:
                        good = False
                        break
                    L[i, i] = math.sqrt(left)
                else:
                    L[i, j] = (K[i, j] - s) / L[j, j]
            if not good:
                break
        if good:
            return L, jitter
        jitter *= 10.0
    L[:] = np.nan
    return L, jitter


@compiled
def _trend(u: Array, b: int, out: Array) -> None:
    """Fill the trend functions (b,) of an input; see `training.trend_basis`."""
    first = second = -1
    for c in range(b):
        out[c] = (1.0 if first < 0 else u[first]) * (1.0 if second < 0 else u[second])
        second += 1
        if second == len(u):
            first += 1
            second = first


@compiled(fastmath=FAST)
def _back(L: Array, x: Array) -> None:
    """Solve L x = x and L' x = x in turn, in place: x = (L L')^-1 x."""
    m = L.shape[0]
    for i in range(m):
        s = x[i]
        for c in range(i):
            s -= L[i, c] * x[c]
        x[i] = s / L[i, i]
    for i in range(m - 1, -1, -1):
        x[i] /= L[i, i]
        for c in range(i):
            x[c] -= L[i, c] * x[i]


@compiled(fastmath=FAST)
def _weights(
    layout: Array,
    shares: Array,
    scales: Array,
    nugget: float,
    jitter: float,
    b: int,
    x: Array,
    y: Array,
    runs: Ints,
    u: Array,
) -> tuple[Array, Array, Array, Array, Array, float, float]:
    """Return lambda (m,), k (m,), L (m, m), K^-1 F (m, b), M (b, b), the jitter and SS of one input."""
    m = len(runs)
    code, codes, terms = layout_of(layout)
    g = np.empty(len(codes))
    K = np.empty((m, m))
    k = np.empty(m)
    for i in range(m):
        for j in range(i):
            K[i, j] = _kappa(code, codes, terms, shares, scales, x[runs[i]], x[runs[j]], g)
        K[i, i] = 1.0 + nugget
        k[i] = _kappa(code, codes, terms, shares, scales, u, x[runs[i]], g)
    L, used = _factorise(K, jitter)
    solved = np.empty((m, b))
    F = np.empty((m, b))
    column = np.empty(m)
    for i in range(m):
        _trend(x[runs[i]], b, F[i])
    for c in range(b):
        column[:] = F[:, c]
        _back(L, column)
        solved[:, c] = column
    M = np.linalg.inv(F.T @ solved)
    weights = k.copy()
    _back(L, weights)
    t = np.empty(b)
    _trend(u, b, t)
    weights -= solved @ (M @ (F.T @ weights - t))
    rest = np.empty(m)
    for i in range(m):
        rest[i] = y[runs[i]]
    rest -= F @ (M @ (solved.T @ rest))
    squares = 0.0
    for i in range(m):  # |L^-1 rest|^2
        value = rest[i]
        for c in range(i):
            value -= L[i, c] * rest[c]
        rest[i] = value / L[i, i]
        squares += rest[i] * rest[i]
    return weights, k, L, solved, M, used, squares


@compiled
def _variance(variance: float, strength: float, typical: float, squares: float, degrees: int) -> float:
    """Return s2_a."""
    return float(variance * (strength + squares / typical) / (strength + degrees))


@compiled(fastmath=FAST)
def _own_variance(weights: Array, k: Array, L: Array) -> float:
    """Return 1 - 2 lambda' k + lambda' K lambda, as 1 - 2 lambda' k + |L' lambda|^2."""
    total = 1.0
    m = len(k)
    for i in range(m):
        total -= 2.0 * weights[i] * k[i]
    for c in range(m):
        s = 0.0
        for i in range(c, m):
            s += L[i, c] * weights[i]
        total += s * s
    return max(total, 0.0)


@compiled(fastmath=FAST)
def _between(
    codes: Ints,
    code: int,
    terms: Ints,
    shares: Array,
    scales: Array,
    diagonal: float,
    x: Array,
    here: Ints,
    there: Ints,
    weights: Array,
    u: Array,
    out: Array,
) -> None:
    """Fill out (m,) = k(N_here, u) - K(N_here, N_there) weights, u the input whose runs and weights are `there`."""
    g = np.empty(len(codes))
    for i in range(len(here)):
        s = _kappa(code, codes, terms, shares, scales, x[here[i]], u, g)
        for j in range(len(there)):
            value = 1.0 + diagonal
            if here[i] != there[j]:
                value = _kappa(code, codes, terms, shares, scales, x[here[i]], x[there[j]], g)
            s -= value * weights[j]
        out[i] = s


@compiled
def local_scores(
    layout: Array,
    shares: Array,
    scales: Array,
    variance: float,
    strength: float,
    typical: float,
    nugget: float,
    jitter: float,
    b: int,
    x: Array,
    y: Array,
    runs: Ints,
    u: Array,
    joint: bool,
) -> tuple[Array, Array]:
    """Return mean (S, k) and covariance (S, k, k), its diagonal only unless `joint`, at u (S, k, d), runs (S, k, m)."""
    S, K, _ = u.shape
    m = runs.shape[2]
    code, codes, terms = layout_of(layout)
    g = np.empty(len(codes))
    mean, covariance = np.empty((S, K)), np.zeros((S, K, K))
    weights, rest, used, sd = np.empty((K, m)), np.empty(m), np.empty(K), np.empty(K)
    for s in range(S):
        for a in range(K):
            weights[a], k, L, _, _, used[a], squares = _weights(
                layout, shares, scales, nugget, jitter, b, x, y, runs[s, a], u[s, a]
            )
            total = 0.0
            for i in range(m):
                total += weights[a, i] * y[runs[s, a, i]]
            mean[s, a] = total
            own = _variance(variance, strength, typical, squares, m - b)
            covariance[s, a, a] = own * _own_variance(weights[a], k, L)
            sd[a] = math.sqrt(own)
        if not joint:
            continue
        for a in range(K):
            for e in range(a):
                diagonal = nugget + max(used[a], used[e])
                _between(
                    codes, code, terms, shares, scales, diagonal, x, runs[s, a], runs[s, e], weights[e], u[s, e], rest
                )
                total = _kappa(code, codes, terms, shares, scales, u[s, a], u[s, e], g)
                for i in range(m):
                    total -= weights[a, i] * rest[i]
                    total -= weights[e, i] * _kappa(code, codes, terms, shares, scales, x[runs[s, e, i]], u[s, a], g)
                covariance[s, a, e] = sd[a] * sd[e] * total
                covariance[s, e, a] = covariance[s, a, e]
    return mean, covariance


@compiled
def _add_slope(
    code: int, codes: Ints, terms: Ints, shares: Array, scales: Array, a: Array, b: Array, bar: float, out: Array
) -> None:
    """Add to out (d,) bar times the derivative of the correlation by its first input."""
    g = np.empty(len(codes))
    _kappa(code, codes, terms, shares, scales, a, b, g)
    for p in range(len(codes)):
        for c in range(len(a)):
            out[c] += bar * g[p] * (a[c] - b[c]) * scales[p, c] * scales[p, c]


@compiled
def local_reverse(
    layout: Array,
    shares: Array,
    scales: Array,
    variance: float,
    strength: float,
    typical: float,
    nugget: float,
    jitter: float,
    b: int,
    x: Array,
    y: Array,
    runs: Ints,
    u: Array,
    mean_bar: Array,
    covariance_bar: Array,
) -> Array:
    """Return the derivative (k, d) at u (k, d), runs (k, m), with the runs of every input held fixed."""
    K, d = u.shape
    m = runs.shape[1]
    code, codes, terms = layout_of(layout)
    u_bar = np.zeros((K, d))
    weights, rest = np.empty((K, m)), np.empty(m)
    used, sd, k_of = np.empty(K), np.empty(K), np.empty((K, m))
    L_of, solved_of, M_of = np.empty((K, m, m)), np.empty((K, m, b)), np.empty((K, b, b))
    for a in range(K):
        weights[a], k_of[a], L_of[a], solved_of[a], M_of[a], used[a], squares = _weights(
            layout, shares, scales, nugget, jitter, b, x, y, runs[a], u[a]
        )
        sd[a] = math.sqrt(_variance(variance, strength, typical, squares, m - b))
    for a in range(K):
        weights_bar = np.empty(m)
        for i in range(m):
            weights_bar[i] = mean_bar[a] * y[runs[a, i]]
        k_bar = np.zeros(m)
        for e in range(K):
            bar = sd[a] * sd[e] * (covariance_bar[a, e] + covariance_bar[e, a])
            if bar == 0.0:
                continue
            if e == a:
                for i in range(m):  # K lambda = L L' lambda
                    rest[i] = k_of[a, i]
                column = np.zeros(m)
                for c in range(m):
                    for i in range(c, m):
                        column[c] += L_of[a, i, c] * weights[a, i]
                for i in range(m):
                    for c in range(i + 1):
                        rest[i] -= L_of[a, i, c] * column[c]
                    weights_bar[i] -= bar * rest[i]
                    k_bar[i] -= bar * weights[a, i]
                continue
            diagonal = nugget + max(used[a], used[e])
            _between(codes, code, terms, shares, scales, diagonal, x, runs[a], runs[e], weights[e], u[e], rest)
            for i in range(m):
                weights_bar[i] -= bar * rest[i]
                _add_slope(code, codes, terms, shares, scales, u[a], x[runs[e, i]], -bar * weights[e, i], u_bar[a])
            _add_slope(code, codes, terms, shares, scales, u[a], u[e], bar, u_bar[a])
        # lambda = P k + Q t, P symmetric: k_bar += P lambda_bar, t_bar = Q' lambda_bar.
        through = weights_bar.copy()
        _back(L_of[a], through)
        t_bar = M_of[a].T @ (solved_of[a].T @ weights_bar)
        F_through = np.zeros(b)
        f = np.empty(b)
        for i in range(m):
            _trend(x[runs[a, i]], b, f)
            for c in range(b):
                F_through[c] += f[c] * through[i]
        through -= solved_of[a] @ (M_of[a] @ F_through)
        for i in range(m):
            _add_slope(code, codes, terms, shares, scales, u[a], x[runs[a, i]], k_bar[i] + through[i], u_bar[a])
        first = second = -1
        for c in range(b):
            if first >= 0:
                u_bar[a, first] += t_bar[c] * u[a, second]
            if second >= 0:
                u_bar[a, second] += t_bar[c] * (1.0 if first < 0 else u[a, first])
            second += 1
            if second == d:
                first += 1
                second = first
    return u_bar


@compiled
def local_left_out(
    layout: Array,
    shares: Array,
    scales: Array,
    nugget: float,
    jitter: float,
    b: int,
    x: Array,
    y: Array,
    runs: Ints,
    left: Ints,
) -> tuple[Array, Array, Array]:
    """Return error (N,), variance over s2 (N,) with nugget, SS (N,) of runs `left` predicted from others (N, m)."""
    error, relative, squares = np.empty(len(left)), np.empty(len(left)), np.empty(len(left))
    for i in range(len(left)):
        weights, k, L, _, _, used, squares[i] = _weights(
            layout, shares, scales, nugget, jitter, b, x, y, runs[i], x[left[i]]
        )
        total = y[left[i]]
        for j in range(len(weights)):
            total -= weights[j] * y[runs[i, j]]
        error[i] = total
        relative[i] = _own_variance(weights, k, L) + nugget + used
    return error, relative, squares
