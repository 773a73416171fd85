"""What a process says of each of its runs from all others, in closed form.

References
----------
Dubrule (1983), doi:10.1007/BF01033232.
"""

import numpy as np
from jaxtyping import Float

from uqms._typing import Array
from uqms.surrogates.process import ScoreProcess

__all__ = ["left_out_scores", "truncation_share"]


def left_out_scores(process: ScoreProcess, h: int, j: int) -> tuple[Array, Array, Array]:
    """Return left-out errors, their variances, and a square-root factor of their joint covariance."""
    inverse = process.inverse_factor[h, j]
    g, root = process.trend_factor[h, j], process.trend_root[h, j]
    # Q = L^-T (I - G R' R G') L^-1, and I - G R' R G' is a projection or, with a fixed trend, the identity.
    half = inverse - g @ (root.T @ (root @ (g.T @ inverse)))
    diagonal = np.maximum(np.sum(half * half, axis=0), 1e-300)
    diagonal[~process.known(j)] = 1.0  # any number: these runs are not counted
    error = inverse.T @ process.target[h, j] / diagonal
    scale = process.local_scale(h, j, process.x)
    return error, scale**2 / diagonal, half.T * (scale / diagonal)[:, None]


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
