"""Compiled scores of a block, which is that of a process (`fused`) or of linear levels of fidelity (`fused_levels`)."""

import numpy as np

from uqms._compiled import compiled
from uqms._typing import Array
from uqms.surrogates.fused import block_size, forward, reverse
from uqms.surrogates.fused_levels import climbed, climbed_reverse

__all__ = ["forward_of", "reverse_of", "scores_flat", "scores_flat_reverse", "size_of"]


@compiled
def forward_of(
    block: Array, h: int, j: int, u: Array, mean: Array, covariance: Array, kg: Array, t: Array, v: Array
) -> None:
    """Fill mean (k,), covariance (k, k) and the work arrays kg, t (k, n) and v (k, b), n without its sign."""
    if block[2] < 0.0:
        climbed(block, h, j, u, mean, covariance, kg, t, v)
    else:
        forward(block, h, j, u, mean, covariance, kg, t, v)


@compiled
def reverse_of(
    block: Array, h: int, j: int, u: Array, kg: Array, t: Array, v: Array, mean_bar: Array, cov_bar: Array, u_bar: Array
) -> None:
    """Add to u_bar (k, d) the derivative of mean · mean_bar + covariance : cov_bar (cov_bar symmetric)."""
    if block[2] < 0.0:
        climbed_reverse(block, h, j, u, kg, t, v, mean_bar, cov_bar, u_bar)
    else:
        reverse(block, h, j, u, kg, t, v, mean_bar, cov_bar, u_bar)


@compiled
def size_of(block: Array) -> int:
    """Return how many numbers the block has; others may stand behind it."""
    return int(block[8]) if block[2] < 0.0 else int(block_size(block))


@compiled
def scores_flat(block: Array, u: Array) -> tuple[Array, Array]:
    """Return mean (H, k, q) and covariance (H, q, k, k) at the rows of u."""
    draws, q, n, b = int(block[0]), int(block[1]), abs(int(block[2])), int(block[4])
    k = u.shape[0]
    mean = np.empty((draws, k, q))
    covariance = np.empty((draws, q, k, k))
    kg, t, v, column = np.empty((k, n)), np.empty((k, n)), np.empty((k, b)), np.empty(k)
    for h in range(draws):
        for j in range(q):
            forward_of(block, h, j, u, column, covariance[h, j], kg, t, v)
            mean[h, :, j] = column
    return mean, covariance


@compiled
def scores_flat_reverse(block: Array, u: Array, mean_bar: Array, cov_bar: Array) -> Array:
    """Return the derivative (k, d) of sum(mean * mean_bar) + sum(covariance * cov_bar) with respect to u."""
    draws, q, n, d, b = int(block[0]), int(block[1]), abs(int(block[2])), int(block[3]), int(block[4])
    k = u.shape[0]
    u_bar = np.zeros((k, d))
    kg, t, v = np.empty((k, n)), np.empty((k, n)), np.empty((k, b))
    column, joint = np.empty(k), np.empty((k, k))
    for h in range(draws):
        for j in range(q):
            forward_of(block, h, j, u, column, joint, kg, t, v)
            symmetric = 0.5 * (cov_bar[h, j] + cov_bar[h, j].T)
            reverse_of(block, h, j, u, kg, t, v, mean_bar[h, :, j].copy(), symmetric, u_bar)
    return u_bar
