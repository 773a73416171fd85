"""A few well-chosen draws of the hyperparameters of one score, instead of their best values.

==========  =====================================================================  =========
symbol      meaning                                                                shape
==========  =====================================================================  =========
p           log length scales and shares, then the log nugget when it is trained   (k,)
log pi      log posterior density of p, with trend and variance integrated out     ()
C           covariance of the proposal, a Student t around the mode of log pi      (k, k)
w           importance weights of all points that were tried                       (N,)
factor      variance over its estimate: (n - b) / chi-squared of n - b             ()
==========  =====================================================================  =========

Point estimates are overconfident with few runs: intervals of 95 % then cover 80 to 90 % (`benchmarks/coverage.py`). The
posterior of p has few dims and costs one factorisation a point, so it is found by importance sampling in rounds, each
with the moments of those before, beside a share from the prior that bounds the weights (Cappé et al. 2004,
doi:10.1198/106186004X12803). The H draws have its marginal distributions and its rank correlations: they are the images
of H points that represent the standard normal best in energy distance (Mak & Joseph 2018, doi:10.1214/17-AOS1629). All
is deterministic, and a small change of the data changes the draws little.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import LinAlgError, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.special import chdtri, gammaln, ndtr, ndtri
from scipy.stats import qmc

from uqms._threads import one_thread
from uqms._typing import Array
from uqms.surrogates.kernels import Kernel, correlation, hyperparameter_count, scale_count
from uqms.surrogates.training import (
    AtMode,
    Hyperparameters,
    Noise,
    bounds_of,
    factorise,
    log_posterior,
    log_posteriors,
    nugget_of,
    objective,
    prior_of,
    trend_basis,
    variances_known,
)

__all__ = [
    "CHEAP",
    "DRAWS",
    "ROUNDS_MORE",
    "Sample",
    "approximate",
    "around",
    "at_mode",
    "at_zero",
    "between_share",
    "draws_of",
    "explore",
    "inverse_curvature",
    "logarithms",
    "sample",
    "sample_from",
    "without_cheap",
]

DRAWS = 16
DEGREES = 5.0  # of the proposal's Student t
ROUNDS, ROUNDS_MORE = 3, 8
ENOUGH = 4  # effective points for each draw that is kept
CANDIDATES = 1024  # points among which those that stand for the normal are chosen
APPROXIMATED = 128  # points of Laplace's approximation
STEP, LONGEST_STEP = 1e-3, 3e-2
SHARE_OF_SD = 0.03  # of the width of a density, for a step in which its curvature is the same
CHEAP = (0.5, 1.0)  # mean and sd of the normal prior of a doubted cheap model's coefficient


class Sample(NamedTuple):
    """Weighted points p, how many equally weighted ones they are worth, and the log evidence of the kernel and trend.

    Evidences compare kernels with the same trend: they have a constant in common that depends on its length.
    """

    points: Array  # (N, k)
    weights: Array  # (N,)
    effective: float
    log_evidence: float = 0.0


def at_mode(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, " n"],
    kernel: Kernel,
    columns: int,
    noise: Noise,
    start: Float[np.ndarray, " k"],
    cheap: Float[np.ndarray, " n"] | None = None,
    accuracy: float = 2.2e-9,
) -> AtMode:
    """Return the mode of the hyperparameters' posterior that is climbed to from p; accuracy as L-BFGS-B takes it."""
    trend = trend_basis(x, columns, cheap)
    with one_thread():
        mode = _mode(x, y, trend, kernel, noise, start, accuracy)
    return around(x, y, kernel, columns, noise, mode, cheap=cheap)


def around(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, " n"],
    kernel: Kernel,
    columns: int,
    noise: Noise,
    mode: Float[np.ndarray, " k"],
    covariance: Float[np.ndarray, "k k"] | None = None,
    cheap: Float[np.ndarray, " n"] | None = None,
    about: Float[np.ndarray, "k k"] | None = None,
) -> AtMode:
    """Return the mode with its log evidence, by a covariance or, where none is given, by the curvature there.

    Differences for the curvature are in steps that fit `about`, an approximate covariance.
    """
    trend = trend_basis(x, columns, cheap)
    scale = prior_of(kernel, x.shape[1], noise)[1]
    if covariance is None:
        with one_thread():
            covariance = _inverse_curvature_at(mode, x, y, trend, kernel, noise, scale, about)
    volume = 0.5 * float(np.linalg.slogdet(2.0 * math.pi * covariance)[1])
    value = log_posterior(mode, x, y, trend, kernel, noise) + volume - _log_prior_mass(scale)
    return AtMode(mode, covariance, value)


def sample(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, " n"],
    kernel: Kernel,
    columns: int,
    noise: Noise,
    found: Hyperparameters,
    cheap: Float[np.ndarray, " n"] | None = None,
) -> Sample:
    """Return weighted points of the posterior of the hyperparameters, starting from the trained ones."""
    return sample_from(
        x, y, kernel, columns, noise, at_mode(x, y, kernel, columns, noise, logarithms(found, noise), cheap), cheap
    )


def sample_from(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, " n"],
    kernel: Kernel,
    columns: int,
    noise: Noise,
    found: AtMode,
    cheap: Float[np.ndarray, " n"] | None = None,
    rounds: tuple[int, int] = (ROUNDS, ROUNDS_MORE),
    draws: float = float(DRAWS),
    most: int = 2**30,
) -> Sample:
    """Return weighted points of the posterior of the hyperparameters, whose mode is known, enough for some draws.

    A round has at most `most` points, beside those of the prior.
    """
    d = x.shape[1]
    trend, count = trend_basis(x, columns, cheap), 32 * (hyperparameter_count(kernel, d) + 2)
    with one_thread():
        return explore(
            lambda points: log_posteriors(points, x, y, trend, kernel, noise),
            (found.mode, found.covariance),
            prior_of(kernel, d, noise),
            bounds_of(kernel, d, noise),
            min(count, most),
            rounds if count <= most else (rounds[0], 2 * rounds[1] - 1),
            ENOUGH * float(draws),
        )


def approximate(found: AtMode, scale: Float[np.ndarray, " k"], bounds: Float[np.ndarray, "k 2"]) -> Sample:
    """Return points of Laplace's approximation to the posterior: normal around the mode, inside of the bounds.

    `scale` is that of the prior, which limits a covariance that is not positive definite.
    """
    lower = _root(found.covariance, scale)
    quasi = qmc.Sobol(len(found.mode), scramble=True, rng=0)
    points = np.clip(found.mode + ndtri(_open(quasi.random(APPROXIMATED))) @ lower.T, *bounds.T)
    return Sample(points, np.full(APPROXIMATED, 1.0 / APPROXIMATED), float(APPROXIMATED), found.log_evidence)


def explore(
    log_densities: Callable[[Array], Array],
    start: tuple[Float[np.ndarray, " k"], Float[np.ndarray, "k k"]],
    prior: tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]],
    bounds: Float[np.ndarray, "k 2"],
    count: int,
    rounds: tuple[int, int] = (ROUNDS, ROUNDS_MORE),
    enough: float = ENOUGH * DRAWS,
) -> Sample:
    """Return weighted points of a density, in rounds of `count` from where `start` (mode, covariance) says it is.

    `prior` is location and scale of normal distributions, from which a part of the points comes. It ends between the
    least and the most `rounds`, when the points are worth `enough` equally weighted ones.
    """
    location, scale = prior
    (centre, covariance), (low, high) = start, bounds.T
    quasi = qmc.Sobol(len(location) + 1, scramble=True, rng=0)
    points = location + scale * ndtri(_open(quasi.random(_power(count // 4))[:, :-1]))
    parts, values = [points], log_densities(points)
    proposals: list[tuple[Array, Array]] = []
    for turn in range(rounds[1]):
        lower = _root(covariance, scale)
        fresh = np.clip(centre + _student(quasi.random(_power(count))) @ lower.T, low, high)
        values = np.append(values, log_densities(fresh))
        proposals.append((centre, lower))
        parts.append(fresh)
        points = np.vstack(parts)
        weights, evidence = _weights(values, points, len(parts[0]), (location, scale), proposals)
        effective = 1.0 / float(np.sum(weights**2))
        if turn >= rounds[0] - 1 and effective >= enough:
            break
        share = min(1.0, effective / (ENOUGH * len(scale)))  # of moments that few points have, in the next proposal
        mean = weights @ points
        spread = points - mean
        found = (spread * weights[:, None]).T @ spread + np.diag(1e-4 * scale**2)
        centre = centre + share * (mean - centre)
        covariance = covariance + share * (found - covariance)
    return Sample(points, weights, effective, evidence - _log_prior_mass(scale))


def _root(covariance: Array, scale: Array) -> Array:
    """Return the lower root of a covariance; of one that a density without curvature gave, in the prior's units."""
    try:
        return np.asarray(cholesky(covariance, lower=True))
    except (LinAlgError, ValueError):  # an output that is exactly its trend says nothing of length scales
        with np.errstate(all="ignore"):
            relative = np.nan_to_num(covariance / np.outer(scale, scale), nan=0.0, posinf=1.0, neginf=-1.0)
        values, vectors = np.linalg.eigh(0.5 * (relative + relative.T))
        proper = (vectors * np.clip(values, 1e-4, 1.0)) @ vectors.T
        return np.asarray(cholesky(proper * np.outer(scale, scale), lower=True))


def _log_prior_mass(scale: Array) -> float:
    """Return the log integral of the priors as `log_posterior` has them."""
    return float(np.sum(np.log(scale)) + 0.5 * len(scale) * math.log(2.0 * math.pi))


def draws_of(found: Sample, degrees: int, noise: Noise, order: int, count: int = DRAWS) -> list[Hyperparameters]:
    """Return `count` equally weighted draws; scores get them in different orders, as they are independent."""
    k, size = found.points.shape[1], found.points.shape[1] - (noise is not False)
    # The variance is inverse chi-squared given p, whatever p is: one quantile for each draw. It is one of p, and the
    # factor without meaning, where the variances of the noise are known.
    z = np.random.default_rng(order).permutation(_normal_points(k + 1, count))
    sorting = np.argsort(found.points, axis=0)
    values = np.take_along_axis(found.points, sorting, axis=0)
    weights = found.weights[sorting]
    levels = np.cumsum(weights, axis=0) - 0.5 * weights
    scores = np.empty_like(values)
    np.put_along_axis(scores, sorting, ndtri(_open(levels)), axis=0)
    correlated = z[:, :k] @ cholesky(_correlation(scores, found.weights), lower=True).T
    p = np.column_stack([np.interp(ndtr(correlated[:, i]), levels[:, i], values[:, i]) for i in range(k)])
    factors = degrees / chdtri(degrees, 1.0 - ndtr(z[:, k]))
    return [
        Hyperparameters(
            np.exp(one[:size]), 0.0 if noise is False else math.exp(one[-1]), 0.0, 0.0, 0, False, float(factor)
        )
        for one, factor in zip(p, factors, strict=True)
    ]


class Doubt(NamedTuple):
    """How probable it is that a cheap model, or a lower level, says nothing.

    Both cases are as probable before the runs. `log_evidence` is that of the two together, over the evidence with a
    flat prior of what the cheap model is multiplied by; it is comparable between kernels.
    """

    share: float
    sample: Sample  # of the case that it says nothing
    log_evidence: float


def without_cheap(
    found: Sample,
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, " n"],
    kernel: Kernel,
    columns: int,
    noise: Noise,
    cheap: Float[np.ndarray, " n"],
) -> Doubt:
    """Return how probable it is that the cheap model has no part in the mean.

    It is that of a coefficient of zero against one of the prior `CHEAP`, by the ratio of the density of zero after and
    before the runs (Dickey 1971, doi:10.1214/aoms/1177693507): given p the coefficient has a Student t in closed form.
    Cheap values are thought to have the sd 1, as y has.
    """
    n, d = x.shape
    trend = trend_basis(x, columns, cheap)
    degrees = n - columns
    at_zero, before = np.full(len(found.points), -np.inf), np.full(len(found.points), -np.inf)
    size = found.points.shape[1] - (noise is not False)
    for i in np.flatnonzero(found.weights > 1e-9 * found.weights.max()):
        p = found.points[i]
        lower, _ = factorise(correlation(kernel, x, x, np.exp(p[:size])), nugget_of(p, noise))
        half = solve_triangular(lower, np.column_stack([trend, y]), lower=True, check_finite=False)
        information = half[:, :-1].T @ half[:, :-1]
        beta = np.linalg.solve(information, half[:, :-1].T @ half[:, -1])
        variance = math.exp(-p[size]) if variances_known(noise) else 0.0
        variance = variance or max(float(np.sum((half[:, -1] - half[:, :-1] @ beta) ** 2)), 1e-300) / degrees
        spread = variance * float(np.linalg.inv(information)[1, 1])
        at_zero[i] = (
            gammaln(0.5 * (degrees + 1)) - gammaln(0.5 * degrees) - 0.5 * math.log(degrees * math.pi * spread)
            - 0.5 * (degrees + 1) * math.log1p(beta[1] ** 2 / spread / degrees)
        )  # fmt: skip
        wide = CHEAP[1] ** 2 + spread
        before[i] = -0.5 * (math.log(2.0 * math.pi * wide) + (beta[1] - CHEAP[0]) ** 2 / wide)
    logs = np.log(np.maximum(found.weights, 1e-300))
    zero, other = np.logaddexp.reduce(logs + at_zero), np.logaddexp.reduce(logs + before)
    weights = np.exp(logs + at_zero - zero)
    whole = float(np.logaddexp(zero, other))
    return Doubt(float(np.exp(zero - whole)), Sample(found.points, weights, 1.0 / float(weights @ weights)), whole)


def at_zero(found: Sample, place: int, location: float, scale: float) -> Doubt:
    """Return how probable it is that one p is zero, against its normal prior.

    The density of zero after the runs is that of a normal kernel around each point (Silverman's width).
    """
    values = found.points[:, place]
    sd = math.sqrt(float(found.weights @ (values - found.weights @ values) ** 2))
    width = 1.06 * max(sd, 1e-6) * found.effective**-0.2
    near = np.log(np.maximum(found.weights, 1e-300)) - 0.5 * (values / width) ** 2 - math.log(width)
    after = np.logaddexp.reduce(near)
    before = -0.5 * (location / scale) ** 2 - math.log(scale)
    weights = np.exp(near - after)
    points = found.points.copy()
    points[:, place] = 0.0
    whole = float(np.logaddexp(after, before))
    return Doubt(float(np.exp(after - whole)), Sample(points, weights, 1.0 / float(weights @ weights)), whole)


def _correlation(scores: Array, weights: Array) -> Array:
    """Return the weighted correlation of normal scores."""
    off = scores - weights @ scores
    covariance = (off * weights[:, None]).T @ off + 1e-6 * np.eye(scores.shape[1])
    sd = np.sqrt(np.diag(covariance))
    return np.asarray(covariance / np.outer(sd, sd))


def between_share(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, " n"],
    kernel: Kernel,
    columns: int,
    noise: Noise,
    found: Hyperparameters,
    cheap: Float[np.ndarray, " n"] | None = None,
) -> tuple[Array, Array]:
    """Return, of each left-out run (n,), its variance from uncertain hyperparameters, to first order, and its own.

    The derivative of the left-out mean comes from the same d evaluations as the curvature of the posterior.
    """
    trend = trend_basis(x, columns, cheap)
    p = logarithms(found, noise)
    location, scale = prior_of(kernel, x.shape[1], noise)
    with one_thread():
        mean, variance = _left_out(p, x, y, trend, kernel, noise)
        base = objective(p, x, y, trend, kernel, noise)[1]
        curvature = np.empty((len(p), len(p)))
        slopes = np.empty((len(p), len(y)))
        for i in range(len(p)):
            step = np.zeros(len(p))
            step[i] = STEP if p[i] < location[i] else -STEP
            curvature[i] = (objective(p + step, x, y, trend, kernel, noise)[1] - base) / step[i]
            slopes[i] = (_left_out(p + step, x, y, trend, kernel, noise)[0] - mean) / step[i]
    covariance = inverse_curvature(curvature, scale)
    return np.einsum("in,ij,jn->n", slopes, covariance, slopes), variance


def _left_out(p: Array, x: Array, y: Array, trend: Array, kernel: Kernel, noise: Noise) -> tuple[Array, Array]:
    n, size = len(x), len(p) - (noise is not False)
    lower, _ = factorise(correlation(kernel, x, x, np.exp(p[:size])), nugget_of(p, noise))
    half = solve_triangular(lower, np.column_stack([np.eye(n), trend]), lower=True, check_finite=False)
    inverse, g = half[:, :n], half[:, n:]
    if g.shape[1]:
        q, _ = np.linalg.qr(g)
        inverse = inverse - q @ (q.T @ inverse)
    diagonal = np.sum(inverse * inverse, axis=0)
    weights = inverse.T @ (inverse @ y)
    variance = max(float(y @ weights), 1e-300) / (n - trend.shape[1])
    if variances_known(noise):
        variance = math.exp(-p[size])
    return y - weights / diagonal, variance / diagonal


def logarithms(found: Hyperparameters, noise: Noise) -> Array:
    """Return p of hyperparameters."""
    return np.log(found.ell) if noise is False else np.log(np.append(found.ell, found.nugget))


def _mode(x: Array, y: Array, trend: Array, kernel: Kernel, noise: Noise, start: Array, accuracy: float) -> Array:
    """Return the mode of the density of p."""
    d = x.shape[1]
    jacobian = np.zeros(len(start))  # from the length scale, whose density is trained, to its log
    jacobian[: scale_count(kernel, d)] = 1.0

    def negative(p: Array) -> tuple[float, Array]:
        value, gradient = objective(p, x, y, trend, kernel, noise)
        return value - float(jacobian @ p), gradient - jacobian

    bounds = bounds_of(kernel, d, noise)
    found = minimize(negative, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": accuracy})
    return np.asarray(found.x)


def _inverse_curvature_at(
    mode: Array, x: Array, y: Array, trend: Array, kernel: Kernel, noise: Noise, scale: Array, about: Array | None
) -> Array:
    """Return the inverse of the curvature of the density of p, by differences of its gradient.

    Where runs almost determine each other, gradients have an error by rounding, which a step that is short beside the
    width of the density makes large; a long one would leave a narrow ridge.
    """
    base = objective(mode, x, y, trend, kernel, noise)[1]
    steps = np.full(len(mode), STEP)
    if about is not None:
        steps = np.clip(SHARE_OF_SD * np.diag(np.linalg.inv(about)) ** -0.5, STEP, LONGEST_STEP)
    ends = [objective(mode + e, x, y, trend, kernel, noise)[1] for e in np.diag(steps)]
    curvature = (np.array(ends) - base) / steps[:, None]
    return inverse_curvature(curvature, scale)


def inverse_curvature(curvature: Array, scale: Array) -> Array:
    """Return a covariance from a curvature, nowhere wider than the prior."""
    values, vectors = np.linalg.eigh(0.5 * (curvature + curvature.T))
    return np.asarray((vectors / np.maximum(values, 1.0 / scale.max() ** 2)) @ vectors.T)


def _weights(
    values: Array, points: Array, first: int, prior: tuple[Array, Array], proposals: list[tuple[Array, Array]]
) -> tuple[Array, float]:
    """Return normalised weights against the mixture of all that points were drawn from, and their log mean."""
    total = len(points)
    each = (total - first) // len(proposals)
    logs = [math.log(first / total) + _log_normal(points, *prior)]
    logs += [math.log(each / total) + _log_student(points, centre, lower) for centre, lower in proposals]
    log_weights = values - np.logaddexp.reduce(logs, axis=0)
    weights = np.exp(log_weights - log_weights.max())
    return weights / weights.sum(), float(log_weights.max() + np.log(weights.mean()))


def _log_normal(points: Array, location: Array, scale: Array) -> Array:
    z = (points - location) / scale
    return np.asarray(-0.5 * np.sum(z * z, axis=1) - np.sum(np.log(scale)) - 0.5 * len(scale) * math.log(2 * math.pi))


def _log_student(points: Array, centre: Array, lower: Array) -> Array:
    k = len(centre)
    z = solve_triangular(lower, (points - centre).T, lower=True, check_finite=False)
    constant = gammaln(0.5 * (DEGREES + k)) - gammaln(0.5 * DEGREES) - 0.5 * k * math.log(DEGREES * math.pi)
    tail = 0.5 * (DEGREES + k) * np.log1p(np.sum(z * z, axis=0) / DEGREES)
    return np.asarray(constant - np.sum(np.log(np.diag(lower))) - tail)


def _student(u: Array) -> Array:
    """Return points (N, k) of a standard Student t from points (N, k + 1) of the unit cube."""
    u = _open(u)
    return np.asarray(ndtri(u[:, :-1]) * np.sqrt(DEGREES / chdtri(DEGREES, u[:, -1:])))


def _open(u: Array) -> Array:
    return np.clip(u, 1e-12, 1.0 - 1e-12)


def _power(count: int) -> int:
    """Return the next power of two, which Sobol points want."""
    return 1 << (count - 1).bit_length()


@cache
def _normal_points(dims: int, count: int) -> Array:
    """Return points (count, dims) that stand for the standard normal: those nearest to it in energy distance."""
    z = ndtri(_open(qmc.Sobol(dims, scramble=True, rng=0).random(CANDIDATES)))
    distance = np.sqrt(np.maximum(np.sum(z * z, 1)[:, None] + np.sum(z * z, 1) - 2.0 * z @ z.T, 0.0))
    to_all = distance.mean(axis=1)
    kept: list[int] = []
    to_kept = np.zeros(len(z))
    for size in range(1, count + 1):
        kept.append(int(np.argmin(to_all - to_kept / size)))
        to_kept += distance[kept[-1]]
    for place in [*range(count)] * 3:
        rest = to_kept - distance[kept[place]]
        kept[place] = int(np.argmin(to_all - rest / count))
        to_kept = rest + distance[kept[place]]
    points = z[kept] - z[kept].mean(axis=0)
    # Points that are few lie too near to the middle.
    if count > 2 * dims:
        points = points @ np.linalg.inv(np.linalg.cholesky(points.T @ points / count)).T
    elif count > 1:
        points /= points.std(axis=0)
    points.flags.writeable = False
    return points
