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
normal prior around 0, and a normal law at its mode, from which each hyperparameter draw has its own. A score has a
local scale only where that makes z² more probable by `CLEAR` nats than r = 1 does. Where z² are more dispersed than the
model says, they count less (McCullagh & Nelder 1989, Generalized Linear Models, section 9.2).

References
----------
Harvey (1976), Estimating regression models with multiplicative heteroscedasticity, doi:10.2307/1913974.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import cho_solve

from uqms._typing import Array
from uqms.surrogates.fitting import own_order
from uqms.surrogates.left_out import left_out_scores, own_jitter
from uqms.surrogates.process import ScoreProcess, local_features

__all__ = ["with_local_scale"]

LEVEL = 3.0  # prior sd of the first coefficient, one factor for the whole box: of linear outputs it is a thousandth
SPREAD = 1.0  # of the others: from the middle of the box to its ends the scale changes by factors of 1.6
CLEAR = 3.0  # nats
STEPS, SMALLEST, ENOUGH = 100, 1e-6, 1e-9  # steps to the mode, the smallest part of one, nats at which they end
TINY = 1e-300


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
    found = _found(local_features(x[np.ix_(rows, inputs)]), square[rows])
    if not found.evidence >= CLEAR:
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
    """The normal law of c given z², and how much more probable z² is with it than with r = 1."""

    mode: Array  # (m,)
    root: Array  # (m, m), of its covariance
    evidence: float  # nats


def _found(f: Float[np.ndarray, "n m"], square: Float[np.ndarray, " n"]) -> _Found:
    """Return what z² say of c, by Laplace's method.

    Where z² / r² vary more than squares of normals do, as next to a kink that f cannot follow, runs say less of c by
    the factor of their variances.
    """
    first = _mode(f, square, 1.0)
    left = square * np.exp(-2.0 * (f @ first.mode))
    spread = float(np.mean((left / max(float(left.mean()), TINY) - 1.0) ** 2))
    return first if spread <= 2.0 else _mode(f, square, 2.0 / spread)


def _mode(f: Array, square: Array, share: float) -> _Found:
    """Return the law of c when each run counts as a share of one.

    The steps are Newton's with the expected information, 2 f' f for whole runs, which is the same at every c.
    """
    precision = np.array([LEVEL] + [SPREAD] * (f.shape[1] - 1)) ** -2.0
    lower = np.linalg.cholesky(2.0 * share * f.T @ f + np.diag(precision))

    def value(c: Array) -> float:
        size = f @ c
        of_runs = -np.sum(size + 0.5 * square * (np.exp(-2.0 * size) - 1.0))
        return float(share * of_runs - 0.5 * precision @ c**2)

    c = np.zeros(f.shape[1])
    at = value(c)
    for _ in range(STEPS):
        slope = share * f.T @ (square * np.exp(-2.0 * (f @ c)) - 1.0) - precision * c
        step = cho_solve((lower, True), slope)
        part = 1.0
        while (following := value(c + part * step)) < at and part > SMALLEST:
            part *= 0.5
        if following <= at + ENOUGH:
            break
        c, at = c + part * step, following
    evidence = at - float(np.sum(np.log(np.diag(lower)))) + 0.5 * float(np.sum(np.log(precision)))
    return _Found(c, np.linalg.inv(lower).T, evidence)
