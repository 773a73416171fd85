"""Derivatives of the process's mean by the parameters, compiled: an orthogonal discrepancy is orthogonal to them.

Central differences of the scores, for one draw h of the process's hyperparameters; symbols as in `_gaussian`.
"""

import numpy as np

from uqms._native import A1, A2, A3, NONE, I, deferred
from uqms._typing import Array
from uqms.surrogates.fused import forward, reverse

__all__ = ["STEP", "score_slopes", "score_slopes_reverse"]

STEP = 1e-4  # of the unit cube


@deferred(NONE, A1, I, A1, A2, A2, A3)
def score_slopes(process: Array, h: int, columns: Array, u: Array, slopes: Array, kept: Array) -> None:
    """Fill slopes (o, K q) of the scores, input by input, by the inputs' columns (o,) at u (K, d).

    `kept` (2 o q, K, n) are radial slopes of the kernel at the shifted inputs, for `score_slopes_reverse`.
    """
    inputs, scores = u.shape[0], int(process[1])
    column, nothing = np.empty(inputs), np.empty((0, 0))
    for i in range(len(columns)):
        slopes[i, :] = 0.0
        for side in range(2):
            sign = 2.0 * side - 1.0
            shifted = u.copy()
            shifted[:, int(columns[i])] += sign * STEP
            for j in range(scores):
                forward(process, h, j, shifted, column, nothing, kept[(2 * i + side) * scores + j], nothing, nothing)
                for k in range(inputs):
                    slopes[i, k * scores + j] += sign * column[k] / (2.0 * STEP)


@deferred(NONE, A1, I, A1, A2, A2, A3, A2)
def score_slopes_reverse(
    process: Array, h: int, columns: Array, u: Array, slopes_bar: Array, kept: Array, u_bar: Array
) -> None:
    """Add to u_bar (K, d) the derivative of slopes : slopes_bar, exactly that of the central differences."""
    inputs, scores, n, b = u.shape[0], int(process[1]), int(process[2]), int(process[4])
    t, v, nothing = np.zeros((inputs, n)), np.zeros((inputs, b)), np.zeros((inputs, inputs))  # of the covariance
    bar = np.empty(inputs)
    for i in range(len(columns)):
        for side in range(2):
            sign = 2.0 * side - 1.0
            shifted = u.copy()
            shifted[:, int(columns[i])] += sign * STEP
            for j in range(scores):
                for k in range(inputs):
                    bar[k] = sign * slopes_bar[i, k * scores + j] / (2.0 * STEP)
                reverse(process, h, j, shifted, kept[(2 * i + side) * scores + j], t, v, bar, nothing, u_bar)
