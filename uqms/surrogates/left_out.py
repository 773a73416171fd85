"""What a process says of each of its runs from all others, in closed form.

References
----------
Dubrule (1983), doi:10.1007/BF01033232.
"""

import numpy as np
from jaxtyping import Float

from uqms._typing import Array
from uqms.surrogates.process import ScoreProcess

__all__ = ["left_out_scores", "own_jitter", "truncation_share"]

ROUNDED = 0.1  # share of a left-out variance that is left of it at least without the jitter


def left_out_scores(process: ScoreProcess, h: int, j: int) -> tuple[Array, Array, Array]:
    """Return left-out errors, their variances, and a square-root factor of their joint covariance."""
    inverse = process.inverse_factor[h, j]
    g, root = process.trend_factor[h, j], process.trend_root[h, j]
    # Q = L^-T (I - G R' R G') L^-1, and I - G R' R G' is a projection or, with a fixed trend, the identity.
    half = inverse - g @ (root.T @ (root @ (g.T @ inverse)))
    diagonal = np.maximum(np.sum(half * half, axis=0), 1e-300)
    diagonal[~process.known(j)] = 1.0  # any number: these runs are not counted
    error = inverse.T @ process.target[h, j] / diagonal
    if not process.local.size:
        return error, 1.0 / diagonal, half.T / diagonal[:, None]
    own = own_jitter(process, h, j, 1.0 / diagonal)
    wider = process.local_scale(h, j, process.x) ** 2 * (1.0 - own * diagonal) + own * diagonal
    return error, wider / diagonal, half.T * (np.sqrt(wider) / diagonal)[:, None]


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
