"""Checks of left-out errors of some runs: whether a surrogate is correct in a part of the box."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import beta, chi2

from uqms._typing import Array, Ints
from uqms.surrogates.gp import GaussianProcessSurrogate
from uqms.surrogates.left_out import left_out_scores
from uqms.surrogates.process import ScoreProcess

__all__ = ["LocalErrors", "local_errors", "nearest_runs"]

NEAREST, AT_LEAST = 0.2, 10  # share of the runs, and number, that count as near


@final
@dataclass(frozen=True)
class LocalErrors:
    """Squared left-out errors over what the surrogate states, and their probabilities if it is right.

    Attributes
    ----------
    ratio, p
        Of the score, or all together, whose errors are the largest, and the probability of larger ones.
    least, p_least
        Of the score whose errors are the smallest, and the probability of smaller ones.
    ratios
        Of every score, (q,); 1 where none is known.
    """

    ratio: float
    p: float
    least: float
    p_least: float
    ratios: Array


def local_errors(surrogate: GaussianProcessSurrogate, runs: Ints, scores: Ints) -> LocalErrors | None:
    """Compare the left-out errors of `runs` with their joint distribution, for the worst of the `scores` on each side.

    Beside every score, all together are compared.

    The squared Mahalanobis distance of m errors is chi-square with m degrees of freedom. Where the variance was
    estimated from all f errors, its fraction of f is Beta(m / 2, (f - m) / 2). Averaged hyperparameters average the
    probabilities. That of the worst is multiplied by their number (Bonferroni). None when they cannot be judged.
    """
    process = surrogate.process
    weights = np.exp(process.log_weights)
    every = np.ones(process.q)
    ratios, levels, lows = [], [], []
    pooled: list[tuple[Array, Array]] = []
    for j in scores:
        known = process.known(int(j))
        near = runs[known[runs]]
        freedom = int(known.sum()) - process.beta.shape[2]
        if len(near) < 2:
            continue
        found = [_distance(process, h, int(j), near) for h in range(process.draws)]
        distance, m = (np.array(column) for column in zip(*found, strict=True))
        if _estimated(process, int(j), freedom):
            if m[0] >= freedom:
                continue
            law: Any = beta(0.5 * m, 0.5 * (freedom - m))
            distance_of_law = np.minimum(distance / freedom, 1.0)
        else:
            law, distance_of_law = chi2(m), distance
            pooled.append((distance, m))
        every[j] = float(weights @ (distance / m))
        ratios.append(every[j])
        levels.append(float(weights @ law.sf(distance_of_law)))
        lows.append(float(weights @ law.cdf(distance_of_law)))
    if not levels:
        return None
    if len(pooled) > 1:  # what is off in every score is clearer in all together
        distance, m = (np.sum(column, axis=0) for column in zip(*pooled, strict=True))
        ratios.append(float(weights @ (distance / m)))
        levels.append(float(weights @ chi2(m).sf(distance)))
        lows.append(float(weights @ chi2(m).cdf(distance)))
    worst, least = int(np.argmin(levels)), int(np.argmin(lows))
    p, p_least = (min(1.0, len(levels) * one) for one in (levels[worst], lows[least]))
    return LocalErrors(ratios[worst], p, ratios[least], p_least, every)


def nearest_runs(surrogate: GaussianProcessSurrogate, u: Array) -> Ints:
    """Return which runs lie nearest to inputs u (k, d) of the unit cube, in length scales: a fifth, at least ten."""
    d = surrogate.domain.d
    x, stretch = surrogate.process.x[:, :d], surrogate.process.stretch()[:d]
    near = np.argsort(cdist(x * stretch, u * stretch).min(axis=1), kind="stable")
    return np.sort(near[: min(len(x), max(AT_LEAST, int(np.ceil(NEAREST * len(x)))))])


def _distance(process: ScoreProcess, h: int, j: int, runs: Ints) -> tuple[float, int]:
    """Return the squared Mahalanobis distance of left-out errors, and the rank of their covariance."""
    error, variance, root = left_out_scores(process, h, j)
    scale = np.sqrt(variance[runs])
    values, vectors = np.linalg.eigh(_gram(root[runs] / scale[:, None]))
    kept = values > 1e-10 * values[-1]
    return float(np.sum((vectors[:, kept].T @ (error[runs] / scale)) ** 2 / values[kept])), int(kept.sum())


def _gram(root: Array) -> Array:
    return np.asarray(root @ root.T)


def _estimated(process: ScoreProcess, j: int, freedom: int) -> bool:
    """Whether the variance of a score was estimated in closed form, and stands for all others."""
    return process.draws == 1 and abs(float(np.sum(process.target[0, j] ** 2)) - freedom) < 1e-6 * freedom
