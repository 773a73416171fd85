"""What a process says of each of its runs from all others, in closed form.

Trailing scores are made of the runs that they describe, in which they vary less than in others. Where no other run
predicts such a score, its left-out errors are its values in held-out runs, and these give its variance.

References
----------
Dubrule (1983), doi:10.1007/BF01033232.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from uqms._typing import Array
from uqms.surrogates.process import ScoreProcess

__all__ = ["left_out_scores", "own_jitter", "truncation_share", "with_held_out"]

ROUNDED = 0.1  # share of a left-out variance that is left of it at least without the jitter


def left_out_scores(process: ScoreProcess, h: int, j: int) -> tuple[Array, Array, Array]:
    """Return left-out errors, their variances, and a square-root factor of their joint covariance.

    Values in held-out runs are independent errors.
    """
    inverse = process.inverse_factor[h, j]
    g, root = process.trend_factor[h, j], process.trend_root[h, j]
    # Q = L^-T (I - G R' R G') L^-1, and I - G R' R G' is a projection or, with a fixed trend, the identity.
    half = inverse - g @ (root.T @ (root @ (g.T @ inverse)))
    diagonal = np.maximum(np.sum(half * half, axis=0), 1e-300)
    diagonal[~process.known(j)] = 1.0  # any number: these runs are not counted
    error, wider = inverse.T @ process.target[h, j] / diagonal, np.ones(len(diagonal))
    if process.local.size:
        own = own_jitter(process, h, j, 1.0 / diagonal)
        wider = process.local_scale(h, j, process.x) ** 2 * (1.0 - own * diagonal) + own * diagonal
    variance = wider / diagonal
    if process.held_out[j].any():
        return process.held_out[j], variance, np.diag(np.sqrt(variance))
    return error, variance, half.T * (np.sqrt(wider) / diagonal)[:, None]


def with_held_out(process: ScoreProcess, held_out: Float[np.ndarray, "q n"]) -> ScoreProcess:
    """Return the process whose left-out errors are these where a row is not zero, with their mean square stated."""
    factor, found = np.ones(process.variance.shape), replace(process, held_out=held_out)
    for h, j in np.ndindex(factor.shape):
        if held_out[j].any():
            error, variance, _ = left_out_scores(found, h, j)
            factor[h, j] = np.mean(error**2 / (variance - own_jitter(found, h, j, variance)))
    return found.scaled(factor)


def own_jitter(process: ScoreProcess, h: int, j: int, variance: Array) -> Array:
    """Return the part of left-out variances that is the jitter of the run itself, which a new input has not."""
    return np.asarray(np.minimum(process.jitter[h, j] * process.variance[h, j], (1.0 - ROUNDED) * variance))


def truncation_share(
    basis: Float[np.ndarray, "m q"],
    truncation: Float[np.ndarray, "m t"],
    variance: Float[np.ndarray, "H n q"],
    log_weights: Float[np.ndarray, " H"],
) -> float:
    """Return truncation's fraction of the variance that is stated of left-out curves, all coordinates together.

    `variance` is that of the left-out scores.
    """
    left = float(np.sum(truncation**2))
    if left == 0.0:
        return 0.0
    weights = np.exp(log_weights - np.logaddexp.reduce(log_weights))
    return left / (left + float(weights @ (variance.mean(axis=1) @ np.sum(basis**2, axis=0))))
