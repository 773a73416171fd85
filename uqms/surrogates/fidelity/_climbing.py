"""The compiled prediction of linear levels at a few inputs, and its reverse derivative; symbols as in `ladder`.

Blocks are those of `fused`: one for each level, member and score. Levels above the lowest are functions of (c, u).
"""

import numpy as np

from uqms._compiled import compiled
from uqms._typing import Array, Ints
from uqms.surrogates.fused import forward, reverse

__all__ = ["climb", "climb_reverse"]


@compiled
def _sizes(blocks: Array, starts: Ints) -> tuple[int, int]:
    """Return the largest number of runs and of trend functions."""
    n = b = 0
    for t in range(starts.shape[0]):
        n = max(n, int(blocks[starts[t, 0, 0] + 2]))
        b = max(b, int(blocks[starts[t, 0, 0] + 4]))
    return n, b


@compiled
def climb(blocks: Array, starts: Ints, factor: Array, u: Array) -> tuple[Array, Array]:
    """Return mean (H, k, q) and covariance (H, q, k, k) at the rows of u; `starts` and `factor` (A) are (T, H, q)."""
    levels, draws, q = starts.shape
    k, d = u.shape
    n, b = _sizes(blocks, starts)
    mean, covariance = np.empty((draws, k, q)), np.empty((draws, q, k, k))
    kg, t, v = np.empty((k, n)), np.empty((k, n)), np.empty((k, b))
    column, own, above = np.empty(k), np.empty((k, k)), np.empty((k, d + 1))
    above[:, 1:] = u
    for h in range(draws):
        for j in range(q):
            forward(blocks[starts[0, h, j] :], 0, 0, u, column, covariance[h, j], kg, t, v)
            for level in range(1, levels):
                above[:, 0] = column
                forward(blocks[starts[level, h, j] :], 0, 0, above, column, own, kg, t, v)
                for a in range(k):
                    for e in range(k):
                        covariance[h, j, a, e] = own[a, e] + factor[level, h, j] * covariance[h, j, a, e]
            mean[h, :, j] = column
    return mean, covariance


@compiled
def climb_reverse(blocks: Array, starts: Ints, factor: Array, u: Array, mean_bar: Array, cov_bar: Array) -> Array:
    """Return the derivative (k, d) of sum(mean * mean_bar) + sum(covariance * cov_bar) with respect to u."""
    levels, draws, q = starts.shape
    k, d = u.shape
    n, b = _sizes(blocks, starts)
    kg, t, v = np.empty((k, n)), np.empty((k, n)), np.empty((k, b))
    means, own = np.empty((levels, k)), np.empty((k, k))
    above, u_bar = np.empty((k, d + 1)), np.zeros((k, d))
    above[:, 1:] = u
    for h in range(draws):
        for j in range(q):
            forward(blocks[starts[0, h, j] :], 0, 0, u, means[0], own, kg, t, v)
            for level in range(1, levels):
                above[:, 0] = means[level - 1]
                forward(blocks[starts[level, h, j] :], 0, 0, above, means[level], own, kg, t, v)
            bar = mean_bar[h, :, j].copy()
            symmetric = 0.5 * (cov_bar[h, j] + cov_bar[h, j].T)
            for level in range(levels - 1, 0, -1):
                block, by = blocks[starts[level, h, j] :], np.zeros((k, d + 1))
                above[:, 0] = means[level - 1]
                forward(block, 0, 0, above, means[level], own, kg, t, v)
                reverse(block, 0, 0, above, kg, t, v, bar, symmetric, by)
                for a in range(k):
                    bar[a] = by[a, 0]
                    for c in range(d):
                        u_bar[a, c] += by[a, c + 1]
                    for e in range(k):
                        symmetric[a, e] *= factor[level, h, j]
            forward(blocks[starts[0, h, j] :], 0, 0, u, means[0], own, kg, t, v)
            reverse(blocks[starts[0, h, j] :], 0, 0, u, kg, t, v, bar, symmetric, u_bar)
    return u_bar
