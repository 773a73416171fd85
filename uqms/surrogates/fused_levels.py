"""The compiled prediction of linear levels of fidelity, and its reverse derivative; symbols as in `fidelity.ladder`.

The block begins like the block of a process, but with minus the number n of runs of all levels, which marks levels:
H, q, -n, d, b. Behind these are the number T of levels, the largest number of runs and of trend functions of one level,
and the length of the block; n is T times the one, b is T times one more than the other. After H log weights there are,
by level, member and score, where its process begins and the factor A of the covariance below. Every process is a block
of `fused` with one member and one score. Levels above the lowest are functions of (c, u).

`climbed` and `climbed_reverse` have the arguments of `forward` and `reverse` in `fused`. The work arrays kg, t and v
hold those of all levels, one level after the other; the last numbers of v are the means (T, k) of the levels.
"""

import numpy as np

from uqms._compiled import compiled
from uqms._native import A1, A2, NONE, I, deferred
from uqms._typing import Array
from uqms.surrogates.fused import HEADER, forward, reverse

__all__ = ["climbed", "climbed_reverse", "climbing_block"]


def climbing_block(blocks: list[list[list[Array]]], factor: Array, log_weights: Array, d: int) -> Array:
    """Return the block of levels.

    `blocks` holds the block of each process, by level, member and score; `factor` is A (T, H, q).
    """
    T, H, q = factor.shape
    every = [block for level in blocks for member in level for block in member]
    n, b = (max(int(block[at]) for block in every) for at in (2, 4))
    begin = HEADER + H + 2 * len(every)
    size = begin + sum(len(block) for block in every)
    head = [H, q, -T * n, d, T * (b + 1), T, n, b, size, 0, *log_weights]
    starts = begin + np.cumsum([0, *(len(block) for block in every[:-1])])
    return np.concatenate([head, np.column_stack([starts, factor.ravel()]).ravel(), *every])


@compiled
def _place(block: Array, level: int, h: int, j: int) -> int:
    """Return where beginning and factor of a level's process stand."""
    H, q = int(block[0]), int(block[1])
    return HEADER + H + 2 * ((level * H + h) * q + j)


@compiled
def _of_level(work: Array, level: int, columns: int) -> Array:
    """Return the work array (k, columns) of a level within that of all levels (k, ...)."""
    size = work.shape[0] * columns
    return work.reshape(-1)[level * size : (level + 1) * size].reshape(work.shape[0], columns)


@deferred(NONE, A1, I, I, A2, A1, A2, A2, A2, A2)
def climbed(
    block: Array, h: int, j: int, u: Array, mean: Array, covariance: Array, kg: Array, t: Array, v: Array
) -> None:
    """Fill mean (k,), covariance (k, k) of score j of the highest level, and the work arrays."""
    levels, n, b = int(block[5]), int(block[6]), int(block[7])
    k, d = u.shape
    own, above = np.empty((k, k)), np.empty((k, d + 1))
    means = v.reshape(-1)[levels * k * b : levels * k * (b + 1)].reshape(levels, k)
    for a in range(k):
        for c in range(d):
            above[a, c + 1] = u[a, c]
    for level in range(levels):
        at = _place(block, level, h, j)
        process, factor = block[int(block[at]) :], block[at + 1]
        own_kg, own_t, own_v = _of_level(kg, level, n), _of_level(t, level, n), _of_level(v, level, b)
        if level == 0:
            forward(process, 0, 0, u, mean, covariance, own_kg, own_t, own_v)
        else:
            for a in range(k):
                above[a, 0] = mean[a]
            forward(process, 0, 0, above, mean, own, own_kg, own_t, own_v)
            for a in range(k):
                for e in range(k):
                    covariance[a, e] = own[a, e] + factor * covariance[a, e]
        for a in range(k):
            means[level, a] = mean[a]


@deferred(NONE, A1, I, I, A2, A2, A2, A2, A1, A2, A2)
def climbed_reverse(
    block: Array, h: int, j: int, u: Array, kg: Array, t: Array, v: Array, mean_bar: Array, cov_bar: Array, u_bar: Array
) -> None:
    """Add to u_bar (k, d) the derivative of mean · mean_bar + covariance : cov_bar (cov_bar symmetric)."""
    levels, n, b = int(block[5]), int(block[6]), int(block[7])
    k, d = u.shape
    above, by, bar, joint = np.empty((k, d + 1)), np.empty((k, d + 1)), np.empty(k), np.empty((k, k))
    means = v.reshape(-1)[levels * k * b : levels * k * (b + 1)].reshape(levels, k)
    for a in range(k):
        bar[a] = mean_bar[a]
        for e in range(k):
            joint[a, e] = cov_bar[a, e]
        for c in range(d):
            above[a, c + 1] = u[a, c]
    for level in range(levels - 1, -1, -1):
        at = _place(block, level, h, j)
        process, factor = block[int(block[at]) :], block[at + 1]
        own_kg, own_t, own_v = _of_level(kg, level, n), _of_level(t, level, n), _of_level(v, level, b)
        if level == 0:
            reverse(process, 0, 0, u, own_kg, own_t, own_v, bar, joint, u_bar)
        else:
            for a in range(k):
                above[a, 0] = means[level - 1, a]
                for c in range(d + 1):
                    by[a, c] = 0.0
            reverse(process, 0, 0, above, own_kg, own_t, own_v, bar, joint, by)
            for a in range(k):
                bar[a] = by[a, 0]
                for c in range(d):
                    u_bar[a, c] += by[a, c + 1]
                for e in range(k):
                    joint[a, e] *= factor
