"""How far means and sds move with draws reweighted to another prior scale, or another size of the surrogate's error.

==========  ====================================================================  ===========
symbol      meaning                                                               shape
==========  ====================================================================  ===========
log w       log of the other posterior's density over that of the draws           (S,)
f           factor of the surrogate's variance, of each score                     (q,)
==========  ====================================================================  ===========

Weights are smoothed (Pareto-smoothed importance sampling: Vehtari et al. 2024, JMLR 25:72). With f times the variance
log w is the difference of the log-likelihoods. Nothing is linearised, so noise sds and derived quantities are judged as
parameters are.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from uqms._typing import Array
from uqms.calibration.context import evenly
from uqms.calibration.direct import is_exact
from uqms.surrogates.gp import GaussianProcessSurrogate

if TYPE_CHECKING:
    from uqms.calibration.single import SingleCalibration

__all__ = [
    "EVEN",
    "K_HAT",
    "Reweighted",
    "Smoothed",
    "error_scaled",
    "error_weight",
    "reweighted",
    "reweighted_finite",
    "smoothed",
    "width_of",
]

DRAWS = 1000
K_HAT = 0.7
TAILS = (0.025, 0.975)
FEWEST = 6  # draws in a tail
EVEN = 0.5  # of the draws: where weights are worth more than that, their tail has no meaning


class Smoothed(NamedTuple):
    """Weights that sum to one, the index of their tail, and whether they may be used."""

    weights: Array
    k_hat: float
    trusted: bool


def smoothed(log_weight: Array) -> Smoothed:
    """Return the smoothed weights of log weights (S,), which need not be normalised.

    The tail of weights that are nearly equal has no meaning: where they are worth at least half of the draws they are
    used as they are, whatever the index of their tail.
    """
    from arviz_stats.base import array_stats

    count = len(log_weight)
    if np.ptp(log_weight) < 1e-12:  # nothing to smooth
        return Smoothed(np.full(count, 1.0 / count), -np.inf, True)
    plain = _normalised(log_weight)
    even = bool(1.0 / np.sum(plain**2) >= EVEN * count)
    tail = np.sort(log_weight)[-max(1, int(min(0.2 * count, 3.0 * math.sqrt(count)))) :]
    if len(tail) < FEWEST or np.ptp(tail) < 1e-12 * max(1.0, float(np.abs(tail).max())):
        return Smoothed(plain, np.nan, even)  # no tail that could be fitted: too few draws, or the same one many times
    found, k_hat = array_stats.psislw(-(log_weight - log_weight.max()))  # of log-likelihoods, whose inverse weights are
    k_hat = float(k_hat) if np.isfinite(k_hat) else np.inf  # NaN: nearly all weight is that of a few draws
    if k_hat < K_HAT:
        return Smoothed(_normalised(found), k_hat, True)
    return Smoothed(plain if even else _normalised(found), k_hat, even)


def _normalised(log_weight: Array) -> Array:
    weight = np.exp(log_weight - np.max(log_weight))
    return np.asarray(weight / weight.sum())


class Reweighted(NamedTuple):
    """What reweighted draws say.

    Attributes
    ----------
    shift
        By quantity: mean less mean, in posterior sds.
    ratio
        By quantity: sd over sd.
    k_hat
        Of the weights.
    trusted
        Whether the figures may be used: k-hat is below 0.7, or the weights are nearly equal.
    width
        By quantity: width of the central 95 % interval over what it was.
    """

    shift: Mapping[str, float]
    ratio: Mapping[str, float]
    k_hat: float
    trusted: bool
    width: Mapping[str, float]

    @property
    def furthest(self) -> tuple[str, float]:
        """The quantity whose mean moves furthest, and by how many sds."""
        name = max(self.shift, key=lambda one: abs(self.shift[one]))
        return name, self.shift[name]

    @property
    def scaled_most(self) -> tuple[str, float]:
        """The quantity whose sd changes most, and its sd over what it was."""
        name = max(self.ratio, key=lambda one: abs(self.ratio[one] - 1.0))
        return name, self.ratio[name]


def reweighted(draws: Mapping[str, Array], log_weight: Array) -> Reweighted:
    """Return how quantities (S,) move with log weights (S,), which need not be normalised."""
    weight, k_hat, trusted = smoothed(log_weight)
    shift, ratio, width = {}, {}, {}
    for name, values in draws.items():
        mean = float(weight @ values)
        sd = max(float(values.std()), 1e-300)
        shift[name] = (mean - float(values.mean())) / sd
        ratio[name] = float(np.sqrt(weight @ (values - mean) ** 2)) / sd
        width[name] = width_of(values, weight) / max(width_of(values), 1e-300)
    return Reweighted(shift, ratio, k_hat, trusted, width)


def width_of(values: Array, weight: Array | None = None) -> float:
    """Return the width of the central 95 % interval of draws (S,), with weights (S,) that sum to one."""
    if weight is None:
        low, high = np.quantile(values, TAILS)
    else:
        order = np.argsort(values)
        below = np.cumsum(weight[order]) - 0.5 * weight[order]
        low, high = np.interp(TAILS, below, values[order])
    return float(high - low)


def error_scaled(
    problem: "SingleCalibration", theta: Mapping[str, Array], factor: Array, truncation: float = 1.0
) -> Reweighted | None:
    """Return how the posterior moves when the surrogate's error has `factor` times the variance.

    Parameters
    ----------
    problem
        Of one surrogate.
    theta
        Draws of everything inferred, by name (S,); at most 1000 are used, spread evenly.
    factor
        Of the variance of each score, (q,).
    truncation
        That of the variance of what the bases leave out.

    Returns
    -------
    Reweighted or None
        None where `error_weight` is.
    """
    picked = evenly(len(next(iter(theta.values()))), DRAWS)
    some = {name: values[picked] for name, values in theta.items()}
    log_weight = error_weight(problem, some, factor, truncation)
    return None if log_weight is None else reweighted_finite(some, log_weight)


def reweighted_finite(draws: Mapping[str, Array], log_weight: Array) -> Reweighted | None:
    """Return how quantities move, without draws whose weight is not known; None where that of none is."""
    known = np.isfinite(log_weight)
    if not known.any():
        return None
    return reweighted({name: values[known] for name, values in draws.items()}, log_weight[known])


def error_weight(
    problem: "SingleCalibration", theta: Mapping[str, Array], factor: Array | float, truncation: float
) -> Array | None:
    """Return log p(data | theta) with `factor` times the variances less that with the stated ones, (S,).

    It is None where the likelihood has no closed form, or the surrogate's variance cannot be scaled: noise of runs,
    subjects with parameters of their own, surrogates other than a Gaussian process.
    """
    surrogate = problem.surrogate
    if is_exact(surrogate) and not problem.cells.truncation.any():
        return np.zeros(len(next(iter(theta.values()))))
    if (
        not isinstance(surrogate, GaussianProcessSurrogate)
        or not problem.data_model.closed_form
        or problem.individual
        or problem.realisation is not None
        or surrogate.process.noise.any()
    ):
        return None
    factors = np.broadcast_to(factor, surrogate.process.variance.shape)
    other = problem.with_error(replace(surrogate, process=surrogate.process.scaled(factors)), np.sqrt(truncation))
    return np.asarray(other.log_likelihood(theta) - problem.log_likelihood(theta))
