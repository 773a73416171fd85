"""A factor of the stated error that varies over the box, learned from how well each run is predicted by all others.

==========  =================================================================  ============
symbol      meaning                                                            shape
==========  =================================================================  ============
u           inputs in the unit cube                                            (k, d)
v           u - 1/2, with u at most at the ends of the box                     (k, d)
f           1, v and 2 v² - 1/6                                                (k, 1 + 2 d)
c           coefficients, of each hyperparameter draw and score                (H, q, 1 + 2 d)
r           exp(f · c), the local scale                                        (k,)
z²          squares of the left-out errors of the runs, over their variances   (n,)
==========  =================================================================  ============

The error of a score at u is r(u) times that of its process: it stays one random function, and the mean stays as it is.
A stationary process says almost the same error wherever the runs are equally dense. Where a function is calm in a part
of the box and wild in another, left-out errors show it. Given c, z² is r² times a square of a standard normal; c has a
normal prior with mean 0. Each hyperparameter draw has a draw of c from the normal approximation to its posterior. A
score has a local scale only where z² are more probable by `CLEAR` nats than with r = 1. Where z² scatter more than the
model says, each counts less (McCullagh & Nelder 1989, Generalized Linear Models, section 9.2).

References
----------
Harvey (1976), Estimating regression models with multiplicative heteroscedasticity, doi:10.2307/1913974.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from uqms._typing import Array
from uqms.surrogates.fitting import own_order
from uqms.surrogates.left_out import left_out_scores, own_jitter
from uqms.surrogates.process import ScoreProcess, local_features

__all__ = ["with_local_scale"]

LEVEL = 3.0  # prior sd of the first coefficient, one factor for the whole box: of linear outputs it is a thousandth
SPREAD = 1.0  # of the others: from the middle of the box to its ends the scale changes by factors of 1.6
CLEAR = 3.0  # nats
LEAST = 1e-6  # of z²: errors that are smaller than a thousandth of the stated ones are rounding
ENOUGH = 1e-6  # nats by a coefficient at which the search of the mode ends


def with_local_scale(process: ScoreProcess, orders: Sequence[int]) -> ScoreProcess:
    """Return the process with the local scales that its left-out errors ask for; itself where none does.

    `orders` (q,) name the random numbers of each score. What is found does not depend on the order of runs and inputs.
    """
    d = process.x.shape[1]
    found = np.zeros((process.draws, process.q, 1 + 2 * d))
    for j in range(process.q):
        known = process.known(j)
        if process.y[known, j].any():
            found[:, j] = _of_score(process, j, orders[j])
    return process.with_local(found) if found.any() else process


def _of_score(process: ScoreProcess, j: int, order: int) -> Float[np.ndarray, "H m"]:
    """Return the coefficients of a score, zeros where it needs none."""
    known, weights = process.known(j), np.exp(process.log_weights - np.logaddexp.reduce(process.log_weights))
    square = np.zeros(int(known.sum()))
    for h, weight in enumerate(weights):
        error, variance, _ = left_out_scores(process, h, j)
        variance = variance - own_jitter(process, h, j, variance)
        square += weight * error[known] ** 2 / variance[known]
    d, x = process.x.shape[1], process.x[known]
    rows, inputs = own_order(x, process.y[known, j])
    if not np.isfinite(square).all():
        return np.zeros((process.draws, 1 + 2 * d))
    found = _found(local_features(x[np.ix_(rows, inputs)]), np.maximum(square[rows], LEAST))
    if found.evidence < CLEAR:
        return np.zeros((process.draws, 1 + 2 * d))
    out = np.tile(found.mode, (process.draws, 1))
    if process.draws > 1:
        out += _normals(len(out), out.shape[1], order) @ found.root.T
    by_input = out[:, 1:].reshape(-1, 2, d)
    out[:, 1:] = by_input[:, :, np.argsort(inputs)].reshape(-1, 2 * d)
    return out


def _normals(draws: int, size: int, order: int) -> Array:
    """Return standard normals (draws, size) whose columns have exactly the mean 0 and the sd 1."""
    xi = np.random.default_rng(order).standard_normal((draws, size))
    xi -= xi.mean(axis=0)
    return np.asarray(xi / xi.std(axis=0))


class _Found(NamedTuple):
    """Normal approximation to the posterior of c, and by how many nats z² are more probable than with r = 1."""

    mode: Array  # (m,)
    root: Array  # (m, m), of its covariance
    evidence: float  # nats


def _found(f: Float[np.ndarray, "n m"], square: Float[np.ndarray, " n"]) -> _Found:
    """Return what z² say of c, by Laplace's method.

    Where z² / r² scatter more than squares of normals do, as next to a kink that f cannot follow, the log-likelihood is
    divided by the ratio of the two variances.
    """
    first = _mode(f, square, 1.0)
    left = square * np.exp(-2.0 * (f @ first.mode))
    scatter = float(np.mean((left / left.mean() - 1.0) ** 2))
    return first if scatter <= 2.0 else _mode(f, square, 2.0 / scatter)


def _mode(f: Array, square: Array, share: float) -> _Found:
    """Return the normal approximation to the posterior of c whose log-likelihood is multiplied by `share`.

    The log posterior is concave. Its curvature is the expected information, 2 f' f, which is the same at every c.
    """
    precision = np.array([LEVEL] + [SPREAD] * (f.shape[1] - 1)) ** -2.0

    def value(c: Array) -> float:
        size = f @ c
        return float(share * np.sum(size + 0.5 * square * np.exp(-2.0 * size)) + 0.5 * precision @ c**2)

    def slope(c: Array) -> Array:
        return np.asarray(share * f.T @ (1.0 - square * np.exp(-2.0 * (f @ c))) + precision * c)

    def curvature(c: Array) -> Array:
        weights = 2.0 * share * square * np.exp(-2.0 * (f @ c))
        return np.asarray((f * weights[:, None]).T @ f + np.diag(precision))

    zero = np.zeros(f.shape[1])
    start = zero.copy()
    start[0] = 0.5 * np.log(square.mean())  # from r = 1 steps would be far too long where z² are large
    c = minimize(value, start, jac=slope, hess=curvature, method="trust-exact", options={"gtol": ENOUGH}).x
    lower = np.linalg.cholesky(2.0 * share * f.T @ f + np.diag(precision))
    evidence = value(zero) - value(c) - float(np.sum(np.log(np.diag(lower)))) + 0.5 * float(np.sum(np.log(precision)))
    return _Found(c, np.linalg.inv(lower).T, evidence)
