"""Length scales of one Gaussian process by maximum a posteriori, with everything else in closed form.

==========  ==========================================================  =========
symbol      meaning                                                     shape
==========  ==========================================================  =========
x, y        training inputs in the unit cube, one centred, scaled score (n, d), (n,)
F           trend basis: ones, then the inputs, then their products     (n, b)
K           correlation + jitter I + nugget diag(w)                     (n, n)
w           noise of the runs: ones, or their known variances           (n,)
beta        generalised least squares: (F' K^-1 F)^-1 F' K^-1 y         (b,)
s2          variance: residual' K^-1 residual / (n - b); 1 / nugget     ()
            where the variances of the noise are known
==========  ==========================================================  =========

The objective is the marginal likelihood with `beta` integrated out under a flat prior and `s2` at its optimum, plus the
log-prior of the length scales. With beta held at its estimate the Gaussian part is the marginal log-likelihood of
GPyTorch at the same hyperparameters; `marginal_log_likelihood` returns that part.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float
from scipy.linalg import blas, lapack, solve_triangular
from scipy.optimize import minimize
from scipy.stats import qmc

from uqms._threads import one_thread
from uqms._typing import Array, Ints
from uqms.errors import FitError
from uqms.surrogates._dense import fill_adjoint
from uqms.surrogates.kernels import (
    Kernel,
    Linearised,
    correlation,
    hyperparameter_count,
    places,
    scale_count,
)

__all__ = [
    "AtMode",
    "Density",
    "Hyperparameters",
    "Noise",
    "Rival",
    "bounds_of",
    "density",
    "factorise",
    "fits_exactly",
    "hyperparameters_at",
    "log_posterior",
    "log_posteriors",
    "lower_factor",
    "marginal_log_likelihood",
    "nugget_of",
    "objective",
    "prior_of",
    "starting_points",
    "subset",
    "taken",
    "train",
    "trend_basis",
    "trend_columns",
    "trend_reverse",
    "variances_known",
    "with_nuggets",
]

type Noise = bool | Array
"""Noise of the runs: none (False), one variance that is trained (True), or known variances (n,), not all zero."""

LOG_TWO_PI = math.log(2.0 * math.pi)
JITTER_FIRST, JITTER_LAST = 1e-12, 1e-6
ELL_BOUNDS = (1e-2, 1e3)
NUGGET_BOUNDS = (1e-8, 1e2)
SCALE_BOUNDS = (1e-8, 1e6)  # of 1 / s2, where the variances of the noise are known
APART = 4.0
EXACT = 1e-10  # of y: what the trend leaves is rounding
STARTS, STARTS_MORE, START_TOLERANCE = 2, 8, 0.1
SHORT = 0.125  # of the range of starts: where the second one is
NUGGETS, LONGER = (1e-4, 1e-2), 2.0  # of starts from exact runs; times the length scales, of the second
SUBSET = 200  # runs on which starts are compared when there are at least twice as many


@final
@dataclass(frozen=True)
class Hyperparameters:
    """What training found for one score, and how it went."""

    ell: Array  # (p,), see `kernels`
    nugget: float  # 1 / s2 where the variances of the noise are known
    jitter: float
    objective: float
    starts: int
    at_bound: bool
    factor: float = 1.0  # the variance over its estimate in closed form
    cheap: bool = True  # whether the cheap model has a part in the mean, if there is one
    rivals: tuple["Rival", ...] = ()  # what was compared, where the runs choose the kernel


class AtMode(NamedTuple):
    """The mode of the density of p, the inverse of its curvature there, and the log evidence of Laplace's method."""

    mode: Array  # (k,)
    covariance: Array  # (k, k)
    log_evidence: float


class Rival(NamedTuple):
    """A kernel that could have been chosen for a score; inputs and runs are in an order of their own."""

    kernel: Kernel
    at: AtMode
    log_odds: float = 0.0  # before runs


def trend_basis(
    x: Float[np.ndarray, "n d"], columns: int, cheap: Float[np.ndarray, " n"] | None = None
) -> Float[np.ndarray, "n b"]:
    """Return the first `columns` trend functions at `x`: the constant, each input, then squares and cross products.

    They are the products of pairs of (1, x_1, ..., x_d), in the order of the upper triangle of a matrix of them. The
    values of a cheap model, if there is one, stand behind the constant.
    """
    if cheap is not None:
        return trend_basis(np.column_stack([cheap, x]), columns)
    extended = np.column_stack([np.ones(len(x)), x])
    if columns <= extended.shape[1]:
        return np.ascontiguousarray(extended[:, :columns])
    first, second = (index[:columns] for index in np.triu_indices(extended.shape[1]))
    return np.ascontiguousarray(extended[:, first] * extended[:, second])


def trend_reverse(u: Float[np.ndarray, "k d"], bar: Float[np.ndarray, "k b"]) -> Float[np.ndarray, "k d"]:
    """Return the derivative of sum(trend_basis(u, b) * bar) by u."""
    (k, d), b = u.shape, bar.shape[1]
    extended = np.column_stack([np.ones(k), u])
    pairs = np.zeros((k, d + 1, d + 1))
    first, second = (index[:b] for index in np.triu_indices(d + 1))
    pairs[:, first, second] = bar
    return np.asarray(np.einsum("kij,kj->ki", pairs + pairs.transpose(0, 2, 1), extended)[:, 1:])


def trend_columns(d: int) -> dict[str, int]:
    """Return the number of trend functions of each kind of trend, the shortest first."""
    return {"constant": 1, "linear": 1 + d, "quadratic": (d + 1) * (d + 2) // 2}


def fits_exactly(trend: Float[np.ndarray, "n b"], y: Float[np.ndarray, " n"]) -> bool:
    """Return whether the trend leaves nothing but rounding of y, so that there is no process to train."""
    left = y - trend @ np.linalg.lstsq(trend, y, rcond=None)[0]
    return bool(left @ left <= EXACT**2 * (y @ y))


def variances_known(noise: Noise) -> bool:
    """Return whether noise is given by the variances of the runs."""
    return not isinstance(noise, bool)


def taken(noise: Noise, rows: Ints) -> Noise:
    """Return the noise of some of the runs."""
    return noise if isinstance(noise, bool) else noise[rows]


def _profile(noise: Noise) -> Array:
    """Return w, up to its length."""
    return np.ones(1) if isinstance(noise, bool) else noise


def nugget_of(parameters: Array, noise: Noise) -> Array:
    """Return the nugget times w, (n,) or (1,)."""
    if noise is False:
        return np.zeros(1)
    return math.exp(parameters[-1]) * _profile(noise)


def factorise(
    correlation_matrix: Float[np.ndarray, "n n"], nugget: float | Array
) -> tuple[Float[np.ndarray, "n n"], float]:
    """Return the lower Cholesky factor of K + diag(nugget) + jitter I, and the smallest jitter that works.

    Raises
    ------
    FitError
        When even the last jitter does not make the matrix positive definite.
    """
    lower, jitter = _factorised(correlation_matrix, nugget)
    return np.ascontiguousarray(lower), jitter


def _factorised(correlation_matrix: Array, nugget: float | Array) -> tuple[Array, float]:
    """Return the same, the factor in LAPACK's order."""
    n = len(correlation_matrix)
    jitter = JITTER_FIRST
    while jitter <= JITTER_LAST * 1.001:
        matrix = correlation_matrix.copy()
        matrix.flat[:: n + 1] += nugget + jitter
        lower, info = lapack.dpotrf(matrix.T, lower=1, clean=1, overwrite_a=1)  # its own transpose, in LAPACK's order
        if info == 0 and np.isfinite(lower[-1, -1]):  # some LAPACKs let NaN pass
            return lower, jitter
        jitter *= 10.0
    raise FitError(_not_definite(n))


def _not_definite(n: int) -> str:
    return (
        f"A {n} x {n} correlation matrix is not positive definite with a relative jitter of {JITTER_LAST:g}. "
        "Are there NaN inputs, or many runs at almost the same point? Remove near-duplicates or fit a nugget."
    )


def prior_of(kernel: Kernel, d: int, noise: Noise) -> tuple[Array, Array]:
    """Return location and scale of the normal priors of log length scales, log shares and, if trained, log nugget.

    Their medians are 0.75 sqrt(d), so that the runs' distances, which grow with the dimension, keep their meaning, and
    0.01. Widths and medians were chosen by coverage and log score on functions from known processes in 2 and 5 inputs.
    Weights of a sum's terms have the median of that of the first, and the variance that of a score, 1, where it is not
    in closed form.
    """
    return _prior(kernel, d, noise is not False, variances_known(noise))


@cache
def _prior(kernel: Kernel, d: int, noisy: bool, known: bool) -> tuple[Array, Array]:
    scales, size = scale_count(kernel, d), hyperparameter_count(kernel, d)
    location = np.full(size + noisy, math.log(0.75))
    for part in places(kernel, d):
        seen = part[part >= 0]
        location[seen] += 0.5 * math.log(len(seen))
    scale = np.full(len(location), 1.3)
    location[:scales] += np.log(kernel.spans(d))
    location[scales:size], scale[scales:size], _ = kernel.more(d)
    if noisy:
        location[size], scale[size] = 0.0 if known else math.log(1e-2), 3.0
    location.flags.writeable = scale.flags.writeable = False
    return location, scale


def bounds_of(kernel: Kernel, d: int, noise: Noise) -> Array:
    """Return lower and upper bounds of the logarithms, shape (p, 2)."""
    of_noise = [] if noise is False else [SCALE_BOUNDS if variances_known(noise) else NUGGET_BOUNDS]
    ell, more = np.log([ELL_BOUNDS] * scale_count(kernel, d)), kernel.more(d)[2]
    return np.concatenate([ell, more, np.log(of_noise).reshape(-1, 2)])


def _log_prior(parameters: Array, kernel: Kernel, d: int, noise: Noise) -> tuple[float, Array]:
    """Return log density, up to a constant, and gradient of the hyperparameters' priors by their logarithms.

    The density is that of the length scale itself, so its mode lies below its median, and of the log nugget.
    """
    scales = scale_count(kernel, d)
    location, scale = prior_of(kernel, d, noise)
    z = (parameters - location) / scale
    gradient = -z / scale
    gradient[:scales] -= 1.0
    return float(-0.5 * np.sum(z * z) - np.sum(parameters[:scales])), gradient


def _solve(lower: Array, right: Array) -> Array:
    return np.asarray(solve_triangular(lower, right, lower=True, check_finite=False))


def objective(parameters: Array, x: Array, y: Array, trend: Array, kernel: Kernel, noise: Noise) -> tuple[float, Array]:
    """Return the negative log posterior of (log ell, log nugget) and its gradient."""
    found = density(parameters, x, y, trend, kernel, noise)
    return found.value, found.gradient


class Density(NamedTuple):
    """The negative log posterior of hyperparameters, its gradient, and what its curvature is made of."""

    value: float
    gradient: Array  # (p,)
    at_runs: Linearised
    lower: Array  # (n, n), of K, in LAPACK's order
    projection: tuple[Array, Array]  # (n, b), K^-1 F and the same times (F' K^-1 F)^-1
    weights: Array  # (n,), K^-1 (y - F beta)
    inverse_variance: float


def density(parameters: Array, x: Array, y: Array, trend: Array, kernel: Kernel, noise: Noise) -> Density:
    """Return the negative log posterior of (log ell, log nugget), with its gradient."""
    n, d = x.shape
    b = trend.shape[1]
    size = len(parameters) - (noise is not False)
    nugget = nugget_of(parameters, noise)
    at_runs = kernel.linearised(x, x, np.exp(parameters[:size]))
    lower, _ = _factorised(at_runs.kappa, nugget)
    inverse, _ = lapack.dpotri(lower, lower=1)  # its lower triangle
    log_det = 2.0 * float(np.sum(np.log(np.diag(lower))))
    solved = blas.dsymm(1.0, inverse, np.column_stack([trend, y]), lower=1)
    solved_trend, solved_y = solved[:, :b], solved[:, b]
    information = trend.T @ solved_trend
    if b == 1:  # by far the most frequent trend, and NumPy's functions of matrices take as long as a factorisation
        half, log_det_trend = 1.0 / information, math.log(abs(information.item()))
    else:
        half, log_det_trend = np.linalg.inv(information), np.linalg.slogdet(information)[1] if b else 0.0
    projected = solved_trend @ half
    weights = solved_y - projected @ (trend.T @ solved_y)
    squares = max(float(y @ weights), 1e-300)
    degrees = n - b
    if variances_known(noise):
        inverse_variance = math.exp(parameters[size])
        value = -0.5 * (inverse_variance * squares - degrees * parameters[size] + log_det + log_det_trend)
    else:
        inverse_variance = degrees / squares
        value = -0.5 * (degrees * math.log(squares / degrees) + log_det + log_det_trend)
    # d value / d K = (w w' / s2 - Q) / 2, with Q the projected inverse.
    adjoint = inverse.T
    fill_adjoint(
        adjoint, np.ascontiguousarray(projected.T), np.ascontiguousarray(solved_trend.T), weights, inverse_variance
    )
    prior, gradient = _log_prior(parameters, kernel, d, noise)
    gradient[:size] += at_runs.reverse_logs(adjoint)
    if noise is not False:
        gradient[size] += float(np.sum(nugget * np.diagonal(adjoint)))
    if variances_known(noise):
        gradient[size] += 0.5 * (degrees - inverse_variance * squares)
    return Density(-(value + prior), -gradient, at_runs, lower, (solved_trend, projected), weights, inverse_variance)


def log_posterior(parameters: Array, x: Array, y: Array, trend: Array, kernel: Kernel, noise: Noise) -> float:
    """Return the log density of (log ell, log nugget), trend and variance integrated out, up to a constant.

    The variance has the density 1 / s2, so integrating it or taking its optimum differ by a constant only. Where the
    variances of the noise are known it is one of the parameters.
    """
    return float(log_posteriors(parameters[None], x, y, trend, kernel, noise)[0])


def log_posteriors(parameters: Array, x: Array, y: Array, trend: Array, kernel: Kernel, noise: Noise) -> Array:
    """Return `log_posterior` of each row."""
    location, scale = prior_of(kernel, x.shape[1], noise)
    prior = -0.5 * np.sum(((parameters - location) / scale) ** 2, axis=1)
    return np.asarray(prior + [_log_likelihood(one, x, y, trend, kernel, noise) for one in parameters])


def _log_likelihood(parameters: Array, x: Array, y: Array, trend: Array, kernel: Kernel, noise: Noise) -> float:
    n, b = trend.shape
    size = len(parameters) - (noise is not False)
    lower = lower_factor(kernel, x, np.exp(parameters[:size]), nugget_of(parameters, noise))
    half, _ = lapack.dtrtrs(lower, np.column_stack([trend, y]), lower=1)
    # R of the QR decomposition of L^-1 [F, y]: its last entry is the root of the residual sum of squares.
    root = np.abs(np.diag(lapack.dgeqrf(half, overwrite_a=1)[0]))
    log_det = float(np.sum(np.log(np.diag(lower)))) + float(np.sum(np.log(root[:b])))
    if variances_known(noise):
        fit = 0.5 * (math.exp(parameters[size]) * float(root[b]) ** 2 - (n - b) * float(parameters[size]))
    else:
        fit = (n - b) * math.log(max(float(root[b]), 1e-150))
    return float(-log_det - fit)


def lower_factor(kernel: Kernel, x: Array, ell: Array, nugget: Array) -> Array:
    """Return the factor of `factorise` in LAPACK's order, its upper triangle undefined; of adapted kernels sooner."""
    jitter = JITTER_FIRST
    # Of a plain kernel the passes save less than a third, and its fits keep every digit that they had.
    while (kappa := kernel.upper(x, ell)) is not None:
        if jitter > JITTER_LAST * 1.001:
            raise FitError(_not_definite(len(x)))
        kappa.flat[:: len(x) + 1] += nugget + jitter
        lower, info = lapack.dpotrf(kappa.T, lower=1, clean=0, overwrite_a=1)
        if info == 0 and np.isfinite(lower[-1, -1]):
            return np.asarray(lower)
        jitter *= 10.0
    return _factorised(kernel.correlation(x, x, ell), nugget)[0]


def marginal_log_likelihood(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, " n"],
    kernel: Kernel,
    ell: Float[np.ndarray, " p"],
    variance: float,
    diagonal: float,
    mean: Float[np.ndarray, " n"],
) -> float:
    """Return log N(y; mean, variance * kappa + diagonal * I), the objective of exact Gaussian-process training.

    Examples
    --------
    >>> import numpy as np
    >>> from uqms.surrogates import Matern52
    >>> value = marginal_log_likelihood(np.zeros((1, 1)), np.zeros(1), Matern52(), np.ones(1), 1.0, 0.0, np.zeros(1))
    >>> bool(np.isclose(value, -0.5 * np.log(2 * np.pi)))
    True
    """
    kappa = correlation(kernel, x, x, ell)
    covariance = variance * kappa
    covariance.flat[:: len(x) + 1] += diagonal
    lower = np.linalg.cholesky(covariance)
    whitened = _solve(lower, y - mean)
    return -0.5 * (float(whitened @ whitened) + len(y) * LOG_TWO_PI) - float(np.sum(np.log(np.diag(lower))))


def starting_points(kernel: Kernel, d: int, count: int, noise: Noise) -> Array:
    """Return deterministic starts: the middle of the prior's useful range first, then a Sobol sequence around it.

    The second has short length scales: an output that turns often, under a smooth kernel, looks like noise to all that
    start in the middle, and they agree on that. Parts of a sum or product start a factor apart: equal ones have equal
    gradients, and would stay equal.
    """
    scales, size = scale_count(kernel, d), hyperparameter_count(kernel, d)
    cube = qmc.Sobol(size + 1, scramble=False).random(STARTS_MORE)[:count]
    points = np.zeros((count, size + (noise is not False)))
    at = places(kernel, d)
    for part, columns in enumerate(at):
        seen = columns[columns >= 0]
        root = math.sqrt(len(seen))
        low, high = math.log(0.1), math.log(3.0 * root)
        points[:, seen] = low + (high - low) * cube[:, seen]
        points[1:2, seen] = low + (high - low) * SHORT
        points[0, seen] = math.log(0.5 * root) + math.log(APART) * (0.5 * (len(at) - 1) - part)
    points[:, :scales] += np.log(kernel.spans(d))
    points[:, scales:size] = kernel.more(d)[0]
    if noise is not False:
        low, high = np.log((1e-1, 1e1) if variances_known(noise) else (1e-4, 1e-1))
        points[:, size] = low + (high - low) * cube[:, size]
    return points


def with_nuggets(kernel: Kernel, d: int, at: Float[np.ndarray, " p"]) -> Float[np.ndarray, "2 p1"]:
    """Return where a search with a nugget starts when exact runs have these logarithms: there, and at longer scales."""
    longer = at + math.log(LONGER) * (np.arange(len(at)) < scale_count(kernel, d))
    return np.stack([np.append(one, math.log(nugget)) for one, nugget in zip((at, longer), NUGGETS, strict=True)])


def train(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, " n"],
    kernel: Kernel,
    trend: Float[np.ndarray, "n b"],
    noise: Noise,
    starts: Float[np.ndarray, "s p"] | None = None,
    search: Callable[[Array, Ints], tuple[float, Array]] | None = None,
) -> Hyperparameters:
    """Return the best of 2 starts; of 8 when those differ by more than 0.1 nat or end at a bound.

    With many runs the starts are compared on some of them, and the best goes on with all.

    Parameters
    ----------
    x, y
        Inputs in the unit cube and one score, centred and scaled.
    kernel
        Its length scales, and the weights of a sum's terms, are what is trained.
    trend
        Trend basis at `x`.
    noise
        Whether a nugget (noise variance over process variance) is trained too, or the known variances of the runs.
    starts
        Logarithms of hyperparameters to start from, in the place of those.
    search
        What returns the least `objective` from a start, of some of the runs, and where it is; L-BFGS-B by default.
    """
    d = x.shape[1]
    bounds = bounds_of(kernel, d, noise)
    starts = starting_points(kernel, d, STARTS_MORE, noise) if starts is None else starts
    rows = subset(len(x)) if len(x) >= 2 * SUBSET else np.arange(len(x))
    found: list[tuple[float, Array]] = []

    def least(start: Array, rows: Ints) -> tuple[float, Array]:
        result = minimize(
            objective,
            start,
            args=(x[rows], y[rows], trend[rows], kernel, taken(noise, rows)),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"ftol": 1e-9, "gtol": 1e-4, "maxiter": 200},
        )
        return float(result.fun), np.asarray(result.x)

    climb = least if search is None else search
    with one_thread():  # two BLAS threads on 200 x 200 matrices are several times slower than one
        for index, start in enumerate(starts):
            found.append(climb(start, rows))
            if index == STARTS - 1:
                values = [value for value, _ in found]
                if max(values) - min(values) <= START_TOLERANCE and not _at_bound(min(found, key=_first)[1], bounds):
                    break
        best, point = min(found, key=_first)
        if len(rows) < len(x):
            best, point = climb(point, np.arange(len(x)))
    return hyperparameters_at(point, -best, x, kernel, noise, len(found))


def hyperparameters_at(
    point: Array, value: float, x: Array, kernel: Kernel, noise: Noise, starts: int = 1
) -> Hyperparameters:
    """Return the hyperparameters that a search found, at their logarithms, with the log posterior there."""
    size = len(point) - (noise is not False)
    ell = np.exp(point[:size])
    nugget = 0.0 if noise is False else math.exp(point[size])
    with one_thread():
        _, jitter = factorise(correlation(kernel, x, x, ell), nugget_of(point, noise))
    at_bound = _at_bound(point, bounds_of(kernel, x.shape[1], noise))
    return Hyperparameters(ell, nugget, jitter, value, starts, at_bound)


def subset(n: int, size: int = SUBSET) -> Ints:
    """Return some of n rows, always the same; every second point of a Sobol sequence would be half of the box."""
    return np.sort(np.random.default_rng(0).permutation(n)[:size])


def _first(pair: tuple[float, Array]) -> float:
    return pair[0]


def _at_bound(point: Array, bounds: Array) -> bool:
    return any(min(value - low, high - value) < 1e-6 for value, (low, high) in zip(point, bounds, strict=True))
