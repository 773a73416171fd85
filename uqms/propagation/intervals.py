"""Intervals of probabilities and quantiles that hold the surrogate's error and the Monte Carlo error.

==========  ============================================================================  =========
symbol      meaning                                                                       shape
==========  ============================================================================  =========
p_f         fraction of the draws of the inputs at which the event happens, by function f (F, ...)
n           how many independent draws of the inputs there were                           (...)
==========  ============================================================================  =========

Given a function, the probability has a Beta law after n draws of which n p_f happened (Jeffreys' prior, so that no
probability is ever known to be zero); over the functions it is a mixture of those.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import betainc, betaincinv, expit, ndtri

from uqms._typing import Array, Bools
from uqms.propagation.variance_parts import Parts, Sampling, crossed, effective, mean_variance

__all__ = [
    "Probability",
    "crossed_probability",
    "crossed_quantile",
    "functions_given_data",
    "nested_probability",
    "nested_quantile",
]

HALVINGS, REACH = 40, 40.0  # of log odds
LEVELS = 100  # at which the law of a quantile's level is represented
NORMALS = 64  # that represent functions after a calibration


class Probability(NamedTuple):
    """A probability, its interval, and the two parts of its error as standard deviations, all (...)."""

    value: Array
    lower: Array
    upper: Array
    surrogate: Array
    monte_carlo: Array


def crossed_probability(event: Bools, sampling: Sampling, prob: float) -> Probability:
    """Return the probability of an event (F, S, D, N, ...); every function at the same draws of the inputs."""
    y = event.astype(np.float64)
    parts = crossed(y, sampling)
    by_function, n = _shrunk(y, parts), effective(y.mean(axis=(0, 2, 3)), sampling)
    tail = 0.5 * (1.0 - prob)
    value = y.mean(axis=(0, 1, 2, 3))
    low, high = (_mixture_quantile(by_function, n, level) for level in (tail, 1.0 - tail))
    return Probability(value, low, high, parts.shared, _never_zero(value, n, parts.monte_carlo))


def _shrunk(y: Array, parts: Parts) -> Array:
    """Return the means (F, ...) by function without the part of their spread that finite numbers of draws make."""
    by_function = y.mean(axis=(1, 2, 3))
    if len(by_function) == 1:
        return by_function
    spread = by_function.std(axis=0, ddof=1)
    mean = by_function.mean(axis=0)
    ratio = np.where(spread > 0.0, parts.shared / np.maximum(spread, 1e-300), 0.0)
    return np.asarray(mean + np.minimum(ratio, 1.0) * (by_function - mean))


def _never_zero(value: Array, n: Array, error: Array) -> Array:
    share = (value * n + 2.0) / (n + 4.0)  # Agresti & Coull (1998)
    return np.asarray(np.maximum(error, np.sqrt(share * (1.0 - share) / (n + 4.0)) * (error == 0.0)))


def _mixture_quantile(p: Array, n: Array, level: float) -> Array:
    a, b = n * p + 0.5, n * (1.0 - p) + 0.5
    low, high = np.full(p.shape[1:], -REACH), np.full(p.shape[1:], REACH)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        below = betainc(a, b, expit(middle)).mean(axis=0) < level
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray(expit(0.5 * (low + high)))


def nested_probability(y: Array, level: float, below: bool, parts: Parts, prob: float) -> Probability:
    """Return the probability that draws (F, S, D, N, ...) whose functions belong to one input each pass a level.

    Functions are those of `functions_given_data`: the mixture is over them.
    """
    event = (y < level) if below else (y > level)
    value, n = event.mean(axis=(0, 1, 2, 3)), effective(event.mean(axis=(0, 2, 3)), "ordered")
    z, centred, shift = functions_given_data(y, parts)
    by_function = np.stack(
        [
            ((centred < level - one) if below else (centred > level - one)).mean(axis=(0, 1, 2, 3))
            for one in z.reshape(-1, *(1,) * shift.ndim) * shift
        ]
    )
    tail = 0.5 * (1.0 - prob)
    low, high = (_mixture_quantile(by_function, n, end) for end in (tail, 1.0 - tail))
    sampled = np.sqrt(mean_variance(event.mean(axis=(0, 2, 3)), "ordered"))
    return Probability(value, low, high, by_function.std(axis=0), _never_zero(value, n, sampled))


def functions_given_data(y: Array, parts: Parts) -> tuple[Array, Array, Array]:
    """Return equally likely normals (K,), draws (F, S, D, N, ...) around their mean, and how far a normal shifts them.

    With the simulator itself in the surrogate's place the mean would be another one, by `parts.shared`, and the draws
    would vary less by as much.
    """
    total = parts.variance.sum(axis=0)
    mean = y.mean(axis=(0, 1, 2, 3))
    shrunk = np.sqrt(np.maximum(1.0 - parts.shared**2 / np.where(total > 0.0, total, np.inf), 0.0))
    if not parts.shared.any():
        return np.zeros(1), y, parts.shared
    z = ndtri((np.arange(NORMALS) + 0.5) / NORMALS)
    return z / z.std(), mean + shrunk * (y - mean), parts.shared


def crossed_quantile(y: Array, level: float, sampling: Sampling, prob: float) -> tuple[Array, Array, Array]:
    """Return the quantile of draws (F, S, D, N, ...) and the ends of its interval, all (...)."""
    pooled = np.quantile(y, level, axis=(0, 1, 2, 3))
    by_function = y.reshape(len(y), -1, *y.shape[4:])
    n = float(np.min(effective(y.mean(axis=(0, 2, 3)), sampling)))
    found = np.quantile(by_function, _levels(level, n), axis=1)  # (LEVELS, F, ...)
    tail = 0.5 * (1.0 - prob)
    low, high = np.quantile(found, [tail, 1.0 - tail], axis=(0, 1))
    return pooled, low, high


def nested_quantile(y: Array, level: float, parts: Parts, prob: float) -> tuple[Array, Array, Array]:
    """Return the quantile of draws (F, S, D, N, ...) whose functions belong to one input each, and its interval."""
    pooled = np.quantile(y, level, axis=(0, 1, 2, 3))
    n = float(np.min(effective(y.mean(axis=(0, 2, 3)), "ordered")))
    z, centred, shift = functions_given_data(y, parts)
    found = np.quantile(centred, _levels(level, n), axis=(0, 1, 2, 3))  # (LEVELS, ...)
    every = found[:, None] + z.reshape(-1, *(1,) * shift.ndim) * shift
    tail = 0.5 * (1.0 - prob)
    low, high = np.quantile(every, [tail, 1.0 - tail], axis=(0, 1))
    return pooled, low, high


def _levels(level: float, n: float) -> Array:
    """Return equally likely levels that the sample quantile of n draws has."""
    at = (np.arange(LEVELS) + 0.5) / LEVELS
    return np.asarray(betaincinv(level * n + 0.5, (1.0 - level) * n + 0.5, at))
