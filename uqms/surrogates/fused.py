"""The compiled prediction of `ScoreProcess.flat()` and its reverse derivative; letters as in `process`.

The block begins with H, q, n, d, b, the number of the kernel's parts, H log weights, `Kernel.layout` (two numbers for
each part) and the inputs x. What each draw and score have follows, see `ScoreProcess.flat`.

One pass over each row of L^-1 gives w = L^-1 k and t = L^-T w, from which value and derivative follow. `scores_at` in
`process` is the same algebra in matrix products for many points; a test holds the two to 1e-10 of each other.
"""

import numpy as np

from uqms._compiled import compiled
from uqms._typing import Array, Ints
from uqms.surrogates.kernels import FAST, SINGLE, composite_of, correlation_of, layout_of

__all__ = [
    "HEADER",
    "block_size",
    "fill_shares",
    "forward",
    "inputs_at",
    "kernel_of",
    "kernel_size",
    "reverse",
    "score_size",
    "scores_flat",
    "scores_flat_reverse",
]

HEADER = 6


@compiled
def block_size(block: Array) -> int:
    """Return how many numbers the flat block of a process has; others may stand behind it."""
    draws, q, n, d = int(block[0]), int(block[1]), int(block[2]), int(block[3])
    return int(inputs_at(block) + n * d + draws * q * score_size(block))


@compiled
def kernel_of(block: Array) -> tuple[int, Ints, Ints]:
    """Return the code of the kernel, and code and term of each part; see `layout_of`."""
    at = HEADER + int(block[0])
    return layout_of(block[at : at + 2 * int(block[5])])  # type: ignore[no-any-return]


@compiled
def inputs_at(block: Array) -> int:
    """Return where the inputs x begin."""
    return int(HEADER + int(block[0]) + 2 * int(block[5]))


@compiled
def kernel_size(block: Array) -> int:
    """Return how many hyperparameters the kernel has: length scales, and shares of the terms but the first."""
    return int(int(block[5]) * int(block[3]) + int(block[inputs_at(block) - 1]))


@compiled
def score_size(block: Array) -> int:
    """Return how many numbers each draw and score have."""
    n, b = int(block[2]), int(block[4])
    return int(kernel_size(block) + 1 + b + 2 * n + n * n + 2 * n * b + b * b)


@compiled
def fill_shares(relative: Array, shares: Array) -> None:
    """Fill the share of each term from those of the others over that of the first."""
    total = 1.0  # number by number: slices that are assigned arrays take seconds to compile
    for i in range(len(relative)):
        total += relative[i]
    shares[0] = 1.0 / total
    for i in range(len(relative)):
        shares[i + 1] = relative[i] / total


@compiled(fastmath=FAST)
def forward(
    block: Array, h: int, j: int, u: Array, mean: Array, covariance: Array, kg: Array, t: Array, v: Array
) -> None:
    """Fill mean (k,), covariance (k, k) of score j, and the work arrays that `reverse` needs.

    With an empty covariance only the mean and kg are filled, in n operations a point in the place of n².
    """
    q, n, d, b = int(block[1]), int(block[2]), int(block[3]), int(block[4])
    code, codes, terms = kernel_of(block)
    at = inputs_at(block)
    x = block[at : at + n * d].reshape(n, d)
    at += n * d + (h * q + j) * score_size(block)
    size = kernel_size(block)
    parts = len(codes)
    inverse_ell = block[at : at + d]
    each_inverse_ell = block[at : at + parts * d].reshape(parts, d)
    k = u.shape[0]
    w, room = (
        np.empty((0 if covariance.shape[0] == 0 else k, n)),
        np.empty(n + b + 2 * parts),
    )  # an array costs as much as a hundred operations
    kv, rho, radials, shares = room[:n], room[n : n + b], room[n + b : n + b + parts], room[n + b + parts :]
    fill_shares(block[at + parts * d : at + size], shares)
    variance = block[at + size]
    at += size + 1
    beta = block[at : at + b]
    target, alpha = block[at + b : at + b + n], block[at + b + n : at + b + 2 * n]
    at += b + 2 * n
    factor = block[at : at + n * n].reshape(n, n)
    at += n * n
    g = block[at : at + n * b].reshape(n, b)
    root = block[at + 2 * n * b : at + 2 * n * b + b * b].reshape(b, b)
    mean_only = covariance.shape[0] == 0
    for a in range(k):
        total = 0.0
        for i in range(n):
            if code >= SINGLE:
                kv[i] = variance * composite_of(codes, terms, shares, each_inverse_ell, u[a], x[i], radials)
                kg[a, i] = variance * radials[0]  # all there is, where the kernel has one part
                continue
            r2 = 0.0
            for c in range(d):
                step = (u[a, c] - x[i, c]) * inverse_ell[c]
                r2 += step * step
            kappa, radial = correlation_of(code, r2)
            kv[i] = variance * kappa
            kg[a, i] = variance * radial
        if mean_only:
            for i in range(n):
                total += kv[i] * alpha[i]
        else:
            for i in range(n):
                t[a, i] = 0.0
            for i in range(n):
                row = factor[i]
                s = 0.0
                for m in range(i + 1):
                    s += row[m] * kv[m]
                w[a, i] = s
                total += s * target[i]
                for m in range(i + 1):
                    t[a, m] += s * row[m]
        first = second = -1  # of the pair whose product the trend function is; -1 is the constant 1
        for c in range(b):
            basis = (1.0 if first < 0 else u[a, first]) * (1.0 if second < 0 else u[a, second])
            second += 1
            if second == d:
                first += 1
                second = first
            total += basis * beta[c]
            if mean_only:
                continue
            rho[c] = basis
            for i in range(n):
                rho[c] -= g[i, c] * w[a, i]
        mean[a] = total
        if mean_only:
            continue
        for c in range(b):
            s = 0.0
            for m in range(b):
                s += root[c, m] * rho[m]
            v[a, c] = s
    for a in range(covariance.shape[0]):
        for e in range(a + 1):
            if code >= SINGLE:
                s = variance * composite_of(codes, terms, shares, each_inverse_ell, u[a], u[e], radials)
            else:
                r2 = 0.0
                for c in range(d):
                    step = (u[a, c] - u[e, c]) * inverse_ell[c]
                    r2 += step * step
                kappa, _ = correlation_of(code, r2)
                s = variance * kappa
            for i in range(n):
                s -= w[a, i] * w[e, i]
            for c in range(b):
                s += v[a, c] * v[e, c]
            covariance[a, e] = s
            covariance[e, a] = s
        covariance[a, a] = max(covariance[a, a], 0.0)


@compiled(fastmath=FAST)
def reverse(
    block: Array, h: int, j: int, u: Array, kg: Array, t: Array, v: Array, mean_bar: Array, cov_bar: Array, u_bar: Array
) -> None:
    """Add to u_bar (k, d) the derivative of mean · mean_bar + covariance : cov_bar (cov_bar symmetric)."""
    q, n, d, b = int(block[1]), int(block[2]), int(block[3]), int(block[4])
    code, codes, terms = kernel_of(block)
    at = inputs_at(block)
    x = block[at : at + n * d].reshape(n, d)
    at += n * d + (h * q + j) * score_size(block)
    size = kernel_size(block)
    parts = len(codes)
    inverse_ell = block[at : at + d]
    each_inverse_ell = block[at : at + parts * d].reshape(parts, d)
    room = np.empty(n + b + 2 * parts)
    k_bar, v_bar, radials, shares = room[:n], room[n : n + b], room[n + b : n + b + parts], room[n + b + parts :]
    fill_shares(block[at + parts * d : at + size], shares)
    variance = block[at + size]
    at += size + 1
    beta = block[at : at + b]
    alpha = block[at + b + n : at + b + 2 * n]
    at += b + 2 * n + n * n + n * b
    solved = block[at : at + n * b].reshape(n, b)
    root = block[at + n * b : at + n * b + b * b].reshape(b, b)
    k = u.shape[0]
    for a in range(k):
        for i in range(n):
            k_bar[i] = mean_bar[a] * alpha[i]
        for c in range(b):
            v_bar[c] = 0.0
        for e in range(k):
            bar = 2.0 * cov_bar[a, e]
            if bar == 0.0:
                continue
            for i in range(n):
                k_bar[i] -= bar * t[e, i]
            for c in range(b):
                v_bar[c] += bar * v[e, c]
            if e != a and code >= SINGLE:
                composite_of(codes, terms, shares, each_inverse_ell, u[a], u[e], radials)
                for p in range(parts):
                    for c in range(d):
                        step = (u[a, c] - u[e, c]) * each_inverse_ell[p, c]
                        u_bar[a, c] += bar * variance * radials[p] * step * each_inverse_ell[p, c]
            elif e != a:
                r2 = 0.0
                for c in range(d):
                    step = (u[a, c] - u[e, c]) * inverse_ell[c]
                    r2 += step * step
                _, radial = correlation_of(code, r2)
                for c in range(d):
                    u_bar[a, c] += bar * variance * radial * (u[a, c] - u[e, c]) * inverse_ell[c] * inverse_ell[c]
        first = second = -1
        for m in range(b):
            rho_bar = 0.0
            for c in range(b):
                rho_bar += root[c, m] * v_bar[c]
            for i in range(n):
                k_bar[i] -= solved[i, m] * rho_bar
            rho_bar += mean_bar[a] * beta[m]
            if first >= 0:
                u_bar[a, first] += rho_bar * u[a, second]
            if second >= 0:
                u_bar[a, second] += rho_bar * (1.0 if first < 0 else u[a, first])
            second += 1
            if second == d:
                first += 1
                second = first
        if parts > 1:
            for i in range(n):
                composite_of(codes, terms, shares, each_inverse_ell, u[a], x[i], radials)
                for p in range(parts):
                    for c in range(d):
                        step = (u[a, c] - x[i, c]) * each_inverse_ell[p, c]
                        u_bar[a, c] += k_bar[i] * variance * radials[p] * step * each_inverse_ell[p, c]
            continue
        for c in range(d):
            s = 0.0
            for i in range(n):
                s += k_bar[i] * kg[a, i] * (u[a, c] - x[i, c])
            u_bar[a, c] += s * inverse_ell[c] * inverse_ell[c]


@compiled
def scores_flat(block: Array, u: Array) -> tuple[Array, Array]:
    """Return mean (H, k, q) and covariance (H, q, k, k) at the rows of u."""
    draws, q, n, b = int(block[0]), int(block[1]), int(block[2]), int(block[4])
    k = u.shape[0]
    mean = np.empty((draws, k, q))
    covariance = np.empty((draws, q, k, k))
    kg, t, v, column = np.empty((k, n)), np.empty((k, n)), np.empty((k, b)), np.empty(k)
    for h in range(draws):
        for j in range(q):
            forward(block, h, j, u, column, covariance[h, j], kg, t, v)
            mean[h, :, j] = column
    return mean, covariance


@compiled
def scores_flat_reverse(block: Array, u: Array, mean_bar: Array, cov_bar: Array) -> Array:
    """Return the derivative (k, d) of sum(mean * mean_bar) + sum(covariance * cov_bar) with respect to u."""
    draws, q, n, d, b = int(block[0]), int(block[1]), int(block[2]), int(block[3]), int(block[4])
    k = u.shape[0]
    u_bar = np.zeros((k, d))
    kg, t, v = np.empty((k, n)), np.empty((k, n)), np.empty((k, b))
    column, joint = np.empty(k), np.empty((k, k))
    for h in range(draws):
        for j in range(q):
            forward(block, h, j, u, column, joint, kg, t, v)
            symmetric = 0.5 * (cov_bar[h, j] + cov_bar[h, j].T)
            reverse(block, h, j, u, kg, t, v, mean_bar[h, :, j].copy(), symmetric, u_bar)
    return u_bar
