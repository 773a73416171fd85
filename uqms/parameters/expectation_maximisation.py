"""Gaussian mixtures of weighted points by expectation maximisation.

==========  ====================================================================  ========
symbol      meaning                                                               shape
==========  ====================================================================  ========
x           points, in coordinates in which they have about unit covariance       (n, d)
weight      of the points; they sum to one                                        (n,)
size        effective number of points                                            ()
==========  ====================================================================  ========
"""

import numpy as np
from scipy.linalg import solve_triangular

from uqms._typing import Array

__all__ = ["POINTS_EACH", "gaussian_mixture"]

POINTS_EACH = 4  # effective points that a component needs, times its d + 1 (centre and widths)


def gaussian_mixture(
    x: Array,
    weight: Array,
    size: float,
    count: int,
    rng: np.random.Generator,
    iterations: int = 25,
    tolerance: float = 1e-4,
) -> tuple[Array, Array, Array, float] | None:
    """Return weights, centres, Cholesky factors and mean log-density of a Gaussian mixture; None when one dies out.

    The log-density lacks the constant d/2 log(2 pi).
    """
    n, d = x.shape
    if count == 1:
        share = np.ones((n, 1))
    else:
        seeds = [int(rng.choice(n, p=weight))]
        near = np.sum((x - x[seeds[0]]) ** 2, axis=1)
        for _ in range(count - 1):
            chance = weight * near
            if chance.sum() <= 0.0:
                return None
            seeds.append(int(rng.choice(n, p=chance / chance.sum())))
            near = np.minimum(near, np.sum((x - x[seeds[-1]]) ** 2, axis=1))
        distance = np.sum((x[:, None, :] - x[seeds]) ** 2, axis=2)
        share = (distance == distance.min(axis=1, keepdims=True)).astype(float)
        share /= share.sum(axis=1, keepdims=True)
    last = -np.inf
    for _ in range(iterations):
        mass = weight @ share
        if np.any(mass * size < POINTS_EACH * (d + 1) * (count > 1)):
            return None
        m = (share * weight[:, None]).T @ x / mass[:, None]
        terms, roots = np.empty((n, count)), np.empty((count, d, d))
        for k in range(count):
            part = (x - m[k]) * np.sqrt(weight * share[:, k] / mass[k])[:, None]
            roots[k] = np.linalg.cholesky(part.T @ part + 1e-12 * np.eye(d))
            whitened = solve_triangular(roots[k], (x - m[k]).T, lower=True)
            terms[:, k] = np.log(mass[k]) - 0.5 * np.sum(whitened**2, axis=0) - np.sum(np.log(np.diag(roots[k])))
        total = np.logaddexp.reduce(terms, axis=1)
        mean = float(weight @ total)
        share = np.exp(terms - total[:, None])
        if count == 1 or mean - last < tolerance:
            break
        last = mean
    return mass, m, roots, mean
