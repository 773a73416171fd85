"""The compiled prediction of `ScoreProcess.flat()` and its reverse derivative; symbols as in `process`.

The block begins with H, q, n, d, b, the number of the kernel's parts, whether directions and an amplitude are learned,
whether each score has a kernel of its own, the number of coefficients of the local scale (0: errors have none), H log
weights, `Kernel.layout` (two numbers for each part) and the inputs x. The arrays of each draw and score follow, see
`ScoreProcess.flat`. The amplitude at the runs is a factor of the columns of L^-1, so k has only the amplitude at u.
Every score has its own inputs in learned directions.

Only compiled code calls `forward` and `reverse`. Each is compiled once for all its callers.

One pass over each row of L^-1 gives w = L^-1 k and t = L^-T w, from which value and derivative follow. `scores_at` in
`process` is the same algebra in matrix products for many points; a test holds the two to 1e-10 of each other.
"""

import math

import numpy as np

from uqms._compiled import compiled
from uqms._native import A1, A2, NONE, I, deferred
from uqms._typing import Array, Ints
from uqms.surrogates.effects import effects
from uqms.surrogates.kernels import EFFECTS, FAST, SINGLE, composite_of, composite_slope, correlation_of, layout_of
from uqms.surrogates.process import SHARPNESS

__all__ = [
    "HEADER",
    "adapted_at",
    "add_local_slopes",
    "block_size",
    "fill_local",
    "fill_shares",
    "forward",
    "inputs_at",
    "kernel_of",
    "kernel_size",
    "own_code",
    "reverse",
    "score_begin",
    "score_size",
    "see",
]

HEADER = 10


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
    """Return the number of hyperparameters of the kernel: length scales, and weights of all terms but the first."""
    return int(int(block[5]) * int(block[3]) + int(abs(block[inputs_at(block) - 1])))


@compiled
def score_size(block: Array) -> int:
    """Return how many numbers each draw and score have."""
    n, d, b = int(block[2]), int(block[3]), int(block[4])
    own = int(block[6]) * (d + n) * d + int(block[7]) * d + int(block[8]) + int(block[9])
    return int(adapted_at(n, b) + kernel_size(block) + own)


@compiled
def score_begin(block: Array, h: int, j: int) -> int:
    """Return where the arrays of score j of draw h begin."""
    return int(inputs_at(block) + int(block[2]) * int(block[3]) + (h * int(block[1]) + j) * score_size(block))


@compiled
def adapted_at(n: int, b: int) -> int:
    """Return where, behind the kernel's hyperparameters of a score, its directions and its amplitude begin."""
    return 1 + b + 2 * n + n * n + 2 * n * b + b * b


@compiled(inline="always")
def own_code(block: Array, at: int, code: int, codes: Ints) -> int:
    """Return the code of the kernel of a score, which may have one of its own; `at` is where its directions begin."""
    if block[8] > 0.0:
        n, d = int(block[2]), int(block[3])
        own = int(block[at + int(block[6]) * (d + n) * d + int(block[7]) * d])
        for part in range(len(codes)):
            codes[part] = own
        return int(min(own, SINGLE)) if len(codes) == 1 else code
    return code


@compiled(fastmath=FAST, inline="always")
def see(block: Array, at: int, u: Array, z: Array, amplitude: Array) -> None:
    """Fill u (k, d) in the directions of a score, z, and its amplitude (k,); `at` is where these begin in the block."""
    k, d = u.shape
    for a in range(k):
        for c in range(d):
            z[a, c] = u[a, c]
        amplitude[a] = 1.0
    if block[6] > 0.0:
        for a in range(k):
            for c in range(d):
                for e in range(c):
                    z[a, c] += block[at + c * d + e] * u[a, e]
        at += (d + int(block[2])) * d
    if block[7] > 0.0:
        for a in range(k):
            s = 0.0
            for c in range(d):
                s += block[at + c] * (u[a, c] - 0.5)
            amplitude[a] = math.exp(s)


@compiled(fastmath=FAST, inline="always")
def fill_local(block: Array, at: int, u: Array, scale: Array) -> None:
    """Fill the local scale (k,) at u (k, d) of a score whose arrays begin at `at`; ones where there is none."""
    k, d = u.shape
    begin = at + score_size(block) - int(block[9])
    for a in range(k):
        scale[a] = 1.0
    if block[9] > 0.0:
        for a in range(k):
            s = block[begin]
            for c in range(d):
                step = min(max(u[a, c], 0.0), 1.0) - 0.5
                s += block[begin + 1 + c] * step + block[begin + 1 + d + c] * (2.0 * step * step - 1.0 / 6.0)
            here = begin + 1 + 2 * d
            for c in range(d):
                step = math.sqrt(8.0) * (min(max(u[a, c], 0.0), 1.0) - 0.5)
                for e in range(c + 1, d):
                    s += block[here] * step * (min(max(u[a, e], 0.0), 1.0) - 0.5)
                    here += 1
            scale[a] = (math.exp(-SHARPNESS * s) + block[here]) ** (-1.0 / SHARPNESS)


@compiled(fastmath=FAST, inline="always")
def add_local_slopes(block: Array, at: int, bar: float, u: Array, scale: float, u_bar: Array) -> None:
    """Add to u_bar (d,) the derivative by u (d,) of bar times the logarithm of the local scale, which is `scale`."""
    d = len(u)
    end = at + score_size(block)
    begin = end - int(block[9]) + 1
    bar *= 1.0 - block[end - 1] * scale**SHARPNESS
    for c in range(d):
        if 0.0 < u[c] < 1.0:
            s = block[begin + c] + block[begin + d + c] * 4.0 * (u[c] - 0.5)
            for e in range(d):
                if e != c:
                    low, high = min(c, e), max(c, e)
                    here = begin + 2 * d + low * d - low * (low + 1) // 2 + high - low - 1
                    s += math.sqrt(8.0) * block[here] * (min(max(u[e], 0.0), 1.0) - 0.5)
            u_bar[c] += bar * s


@compiled
def fill_shares(relative: Array, shares: Array) -> None:
    """Fill the weights of the terms, which sum to 1, from the weights relative to the first term."""
    total = 1.0  # number by number: slices that are assigned arrays take seconds to compile
    for i in range(len(relative)):
        total += relative[i]
    shares[0] = 1.0 / total
    for i in range(len(relative)):
        shares[i + 1] = relative[i] / total


@deferred(NONE, A1, I, I, A2, A1, A2, A2, A2, A2, fastmath=FAST)
def forward(
    block: Array, h: int, j: int, u: Array, mean: Array, covariance: Array, kg: Array, t: Array, v: Array
) -> None:
    """Fill mean (k,), covariance (k, k) of score j, and the work arrays that `reverse` needs.

    With an empty covariance only the mean and kg are filled, in n operations a point in the place of n². The
    rows of t and v are multiplied by the local scale.
    """
    n, d, b = int(block[2]), int(block[3]), int(block[4])
    code, codes, terms = kernel_of(block)
    at = inputs_at(block)
    x = block[at : at + n * d].reshape(n, d)
    at = score = score_begin(block, h, j)
    size = kernel_size(block)
    parts = len(codes)
    inverse_ell = block[at : at + d]
    each_inverse_ell = block[at : at + parts * d].reshape(parts, d)
    k = u.shape[0]
    w, room = (
        np.empty((0 if covariance.shape[0] == 0 else k, n)),
        np.empty(n + b + 2 * parts + k * d + 2 * k),
    )  # an array costs as much as a hundred operations
    kv, rho, radials = room[:n], room[n : n + b], room[n + b : n + b + parts]
    begin = n + b + 2 * parts
    shares, z = room[n + b + parts : begin], room[begin : begin + k * d].reshape(k, d)
    amplitude, local = room[-2 * k : -k], room[-k:]
    own = at + size + adapted_at(n, b)
    code = own_code(block, own, code, codes)
    see(block, own, u, z, amplitude)
    if block[6] > 0.0:
        x = block[own + d * d : own + (d + n) * d].reshape(n, d)
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
        scale = variance * amplitude[a]
        if code == EFFECTS:
            effects(codes[0], shares, each_inverse_ell, z[a], x, kv, room[:0], room[:0])
        for i in range(n):
            if code == EFFECTS:
                kv[i] *= scale
                continue
            if code >= SINGLE:
                kv[i] = scale * composite_of(codes, terms, shares, each_inverse_ell, z[a], x[i], radials)
                kg[a, i] = scale * radials[0]  # all there is, where the kernel has one part
                continue
            r2 = 0.0
            for c in range(d):
                step = (z[a, c] - x[i, c]) * inverse_ell[c]
                r2 += step * step
            kappa, radial = correlation_of(code, r2)
            kv[i] = scale * kappa
            kg[a, i] = scale * radial
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
    if mean_only:
        return
    fill_local(block, score, u, local)
    for a in range(k):
        for e in range(a + 1):
            if code >= SINGLE:
                s = composite_of(codes, terms, shares, each_inverse_ell, z[a], z[e], radials)
            else:
                r2 = 0.0
                for c in range(d):
                    step = (z[a, c] - z[e, c]) * inverse_ell[c]
                    r2 += step * step
                s, _ = correlation_of(code, r2)
            s *= variance * amplitude[a] * amplitude[e]
            for i in range(n):
                s -= w[a, i] * w[e, i]
            for c in range(b):
                s += v[a, c] * v[e, c]
            s *= local[a] * local[e]
            covariance[a, e] = s
            covariance[e, a] = s
        covariance[a, a] = max(covariance[a, a], 0.0)
    if block[9] > 0.0:
        for a in range(k):
            for i in range(n):
                t[a, i] *= local[a]
            for c in range(b):
                v[a, c] *= local[a]


@deferred(NONE, A1, I, I, A2, A2, A2, A2, A1, A2, A2, fastmath=FAST)
def reverse(
    block: Array, h: int, j: int, u: Array, kg: Array, t: Array, v: Array, mean_bar: Array, cov_bar: Array, u_bar: Array
) -> None:
    """Add to u_bar (k, d) the derivative of mean · mean_bar + covariance : cov_bar (cov_bar symmetric).

    With an empty cov_bar only that of the mean, for which t and v are not read.
    """
    n, d, b = int(block[2]), int(block[3]), int(block[4])
    code, codes, terms = kernel_of(block)
    at = inputs_at(block)
    x = block[at : at + n * d].reshape(n, d)
    at = score = score_begin(block, h, j)
    size = kernel_size(block)
    parts = len(codes)
    inverse_ell = block[at : at + d]
    each_inverse_ell = block[at : at + parts * d].reshape(parts, d)
    k, begin = u.shape[0], n + b + 2 * parts
    room = np.empty(begin + k * d + 2 * k + d + n)
    kappas, room = room[-n:], room[:-n]
    k_bar, v_bar, radials = room[:n], room[n : n + b], room[n + b : n + b + parts]
    shares, z = room[n + b + parts : begin], room[begin : begin + k * d].reshape(k, d)
    amplitude, local, z_bar = room[-2 * k - d : -k - d], room[-k - d : -d], room[-d:]
    own = at + size + adapted_at(n, b)
    code = own_code(block, own, code, codes)
    see(block, own, u, z, amplitude)
    if block[6] > 0.0:
        x = block[own + d * d : own + (d + n) * d].reshape(n, d)
    fill_shares(block[at + parts * d : at + size], shares)
    variance = block[at + size]
    at += size + 1
    beta = block[at : at + b]
    alpha = block[at + b + n : at + b + 2 * n]
    at += b + 2 * n + n * n + n * b
    solved = block[at : at + n * b].reshape(n, b)
    root = block[at + n * b : at + n * b + b * b].reshape(b, b)
    fill_local(block, score, u, local)
    scaled = block[9] > 0.0 and cov_bar.shape[0] > 0
    for a in range(k):
        for c in range(d):
            z_bar[c] = 0.0
        by_amplitude = by_trend = of_mean = 0.0
        for i in range(n):
            k_bar[i] = mean_bar[a] * alpha[i]
        for c in range(b):
            v_bar[c] = 0.0
        for e in range(cov_bar.shape[0]):
            bar = 2.0 * cov_bar[a, e]
            if bar == 0.0:
                continue
            bar *= local[a]
            for i in range(n):
                k_bar[i] -= bar * t[e, i]
            for c in range(b):
                v_bar[c] += bar * v[e, c]
            bar *= variance * amplitude[a] * amplitude[e] * local[e]
            if e == a:
                by_amplitude += bar
            elif code >= SINGLE:
                by_amplitude += bar * composite_of(codes, terms, shares, each_inverse_ell, z[a], z[e], radials)
                composite_slope(bar, radials, each_inverse_ell, z[a], z[e], z_bar)
            else:
                r2 = 0.0
                for c in range(d):
                    step = (z[a, c] - z[e, c]) * inverse_ell[c]
                    r2 += step * step
                kappa, radial = correlation_of(code, r2)
                by_amplitude += bar * kappa
                for c in range(d):
                    z_bar[c] += bar * radial * (z[a, c] - z[e, c]) * inverse_ell[c] * inverse_ell[c]
        first = second = -1
        for m in range(b):
            rho_bar = 0.0
            if cov_bar.shape[0] > 0:
                for c in range(b):
                    rho_bar += root[c, m] * v_bar[c]
                for i in range(n):
                    k_bar[i] -= solved[i, m] * rho_bar
                if scaled:
                    by_trend += rho_bar * (1.0 if first < 0 else u[a, first]) * (1.0 if second < 0 else u[a, second])
            rho_bar += mean_bar[a] * beta[m]
            if first >= 0:
                u_bar[a, first] += rho_bar * u[a, second]
            if second >= 0:
                u_bar[a, second] += rho_bar * (1.0 if first < 0 else u[a, first])
            second += 1
            if second == d:
                first += 1
                second = first
        scale = variance * amplitude[a]
        if code == EFFECTS:
            for i in range(n):
                k_bar[i] *= scale
            effects(codes[0], shares, each_inverse_ell, z[a], x, kappas, k_bar, z_bar)
            for i in range(n):
                by_amplitude += k_bar[i] * kappas[i]
                of_mean += alpha[i] * scale * kappas[i]
        elif parts > 1:
            for i in range(n):
                bar = k_bar[i] * scale
                kappa = composite_of(codes, terms, shares, each_inverse_ell, z[a], x[i], radials)
                by_amplitude += bar * kappa
                of_mean += alpha[i] * scale * kappa
                composite_slope(bar, radials, each_inverse_ell, z[a], x[i], z_bar)
        else:
            for c in range(d):
                s = 0.0
                for i in range(n):
                    s += k_bar[i] * kg[a, i] * (z[a, c] - x[i, c])
                z_bar[c] += s * inverse_ell[c] * inverse_ell[c]
            if (block[7] > 0.0 or scaled) and code >= SINGLE:  # kappa again: only its slope was kept
                for i in range(n):
                    kappa = composite_of(codes, terms, shares, each_inverse_ell, z[a], x[i], radials)
                    by_amplitude += k_bar[i] * scale * kappa
                    of_mean += alpha[i] * scale * kappa
            elif block[7] > 0.0 or scaled:
                for i in range(n):
                    r2 = 0.0
                    for c in range(d):
                        step = (z[a, c] - x[i, c]) * inverse_ell[c]
                        r2 += step * step
                    kappa, _ = correlation_of(code, r2)
                    by_amplitude += k_bar[i] * scale * kappa
                    of_mean += alpha[i] * scale * kappa
        if scaled:  # covariances are linear in what belongs to their row: covariances before runs, k, trend functions
            by_local = by_amplitude + by_trend - mean_bar[a] * of_mean
            add_local_slopes(block, score, by_local, u[a], local[a], u_bar[a])
        for c in range(d):
            u_bar[a, c] += z_bar[c]
        if block[6] > 0.0:
            for c in range(d):
                for e in range(c):
                    u_bar[a, e] += block[own + c * d + e] * z_bar[c]
        if block[7] > 0.0:
            slopes = own + (int(block[6]) * (d + n)) * d
            for c in range(d):
                u_bar[a, c] += by_amplitude * block[slopes + c]
