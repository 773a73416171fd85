"""Length scales of one Gaussian process by maximum a posteriori, with everything else in closed form.

==========  ==========================================================  =========
symbol      meaning                                                     shape
==========  ==========================================================  =========
x, y        training inputs in the unit cube, one centred, scaled score (n, d), (n,)
F           trend basis: ones, then the inputs, then their products     (n, b)
K           correlation + (jitter + nugget) I                           (n, n)
beta        generalised least squares: (F' K^-1 F)^-1 F' K^-1 y         (b,)
s2          variance: residual' K^-1 residual / (n - b)                 ()
==========  ==========================================================  =========

The objective is the marginal likelihood with `beta` integrated out under a flat prior and `s2` at its optimum, plus the
log-prior of the length scales. With beta held at its estimate the Gaussian part is the marginal log-likelihood of
GPyTorch at the same hyperparameters; `marginal_log_likelihood` returns that part.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import final

import numpy as np
from jaxtyping import Float
from scipy.linalg import lapack, solve_triangular
from scipy.optimize import minimize
from scipy.stats import qmc
from threadpoolctl import threadpool_limits

from uqms._typing import Array, Ints
from uqms.errors import FitError
from uqms.surrogates.kernels import Kernel, correlation, correlation_slopes, hyperparameter_count, scale_count

__all__ = [
    "Hyperparameters",
    "bounds_of",
    "factorise",
    "log_posterior",
    "marginal_log_likelihood",
    "objective",
    "prior_of",
    "subset",
    "train",
    "trend_basis",
    "trend_columns",
]

LOG_TWO_PI = math.log(2.0 * math.pi)
JITTER_FIRST, JITTER_LAST = 1e-12, 1e-6
ELL_BOUNDS = (1e-2, 1e3)
NUGGET_BOUNDS = (1e-8, 1e2)
SHARE_BOUNDS = (1e-6, 1e6)  # of a term of a sum, over that of the first
APART = 4.0
STARTS, STARTS_MORE, START_TOLERANCE = 2, 8, 0.1
SUBSET = 200  # runs on which starts are compared when there are at least twice as many


@final
@dataclass(frozen=True)
class Hyperparameters:
    """What training found for one score, and how it went."""

    ell: Array  # (p,), see `kernels`
    nugget: float
    jitter: float
    objective: float
    starts: int
    at_bound: bool
    factor: float = 1.0  # the variance over its estimate in closed form


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
    first, second = (index[:columns] for index in np.triu_indices(extended.shape[1]))
    return np.ascontiguousarray(extended[:, first] * extended[:, second])


def trend_columns(d: int) -> dict[str, int]:
    """Return the number of trend functions of each kind of trend, the shortest first."""
    return {"constant": 1, "linear": 1 + d, "quadratic": (d + 1) * (d + 2) // 2}


def factorise(correlation_matrix: Float[np.ndarray, "n n"], nugget: float) -> tuple[Float[np.ndarray, "n n"], float]:
    """Return the lower Cholesky factor of K + (nugget + jitter) I, and the smallest jitter of the ladder that works.

    Raises
    ------
    FitError
        When even the last jitter does not make the matrix positive definite.
    """
    n = len(correlation_matrix)
    jitter = JITTER_FIRST
    while jitter <= JITTER_LAST * 1.001:
        matrix = correlation_matrix.copy()
        matrix.flat[:: n + 1] += nugget + jitter
        lower, info = lapack.dpotrf(matrix.T, lower=1, clean=1, overwrite_a=1)  # its own transpose, in LAPACK's order
        if info == 0 and np.isfinite(lower[-1, -1]):  # some LAPACKs let NaN pass
            return np.ascontiguousarray(lower), jitter
        jitter *= 10.0
    raise FitError(
        f"A {n} x {n} correlation matrix is not positive definite with a relative jitter of {JITTER_LAST:g}. "
        "Are there NaN inputs, or many runs at almost the same point? Remove near-duplicates or fit a nugget."
    )


@cache
def prior_of(kernel: Kernel, d: int, noisy: bool) -> tuple[Array, Array]:
    """Return location and scale of the normal priors of log length scales, log shares and, if trained, log nugget.

    Their medians are 0.75 sqrt(d), so that the runs' distances, which grow with the dimension, keep their meaning, and
    0.01. Widths and medians were chosen by coverage and log score on functions from known processes in 2 and 5 inputs.
    Shares of a sum's terms have the median of that of the first.
    """
    scales, size = scale_count(kernel, d), hyperparameter_count(kernel, d)
    location = np.full(size + noisy, math.log(0.75) + 0.5 * math.log(d))
    scale = np.full(size + noisy, 1.3)
    location[scales:], scale[scales:] = 0.0, 2.0
    if noisy:
        location[size], scale[size] = math.log(1e-2), 3.0
    location.flags.writeable = scale.flags.writeable = False
    return location, scale


def bounds_of(kernel: Kernel, d: int, noisy: bool) -> Array:
    """Return lower and upper bounds of the logarithms, shape (p, 2)."""
    scales, size = scale_count(kernel, d), hyperparameter_count(kernel, d)
    return np.log(np.array([ELL_BOUNDS] * scales + [SHARE_BOUNDS] * (size - scales) + [NUGGET_BOUNDS] * noisy))


def _log_prior(parameters: Array, kernel: Kernel, d: int, noisy: bool) -> tuple[float, Array]:
    """Return log density, up to a constant, and gradient of the hyperparameters' priors by their logarithms.

    The density is that of the length scale itself, so its mode lies below its median, and of the log nugget.
    """
    scales = scale_count(kernel, d)
    location, scale = prior_of(kernel, d, noisy)
    z = (parameters - location) / scale
    gradient = -z / scale
    gradient[:scales] -= 1.0
    return float(-0.5 * np.sum(z * z) - np.sum(parameters[:scales])), gradient


def _solve(lower: Array, right: Array) -> Array:
    return np.asarray(solve_triangular(lower, right, lower=True, check_finite=False))


def objective(parameters: Array, x: Array, y: Array, trend: Array, kernel: Kernel, noisy: bool) -> tuple[float, Array]:
    """Return the negative log posterior of (log ell, log nugget) and its gradient."""
    n, d = x.shape
    b = trend.shape[1]
    size = len(parameters) - noisy
    nugget = math.exp(parameters[size]) if noisy else 0.0
    kappa, g, by_share = correlation_slopes(kernel, x, x, np.exp(parameters[:size]))
    lower, _ = factorise(kappa, nugget)
    inverse, _ = lapack.dpotri(lower, lower=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    log_det = 2.0 * float(np.sum(np.log(np.diag(lower))))
    solved_trend = inverse @ trend
    information = trend.T @ solved_trend
    half, log_det_trend = np.linalg.inv(information), np.linalg.slogdet(information)[1] if b else 0.0
    projected = inverse - solved_trend @ half @ solved_trend.T
    weights = projected @ y
    squares = max(float(y @ weights), 1e-300)
    degrees = n - b
    value = -0.5 * (degrees * math.log(squares / degrees) + log_det + log_det_trend)
    # d value / d K = (w w' / s2 - Q) / 2, with Q the projected inverse; chain rule through each r² in one product.
    adjoint = 0.5 * (np.outer(weights, weights) * (degrees / squares) - projected)
    prior, gradient = _log_prior(parameters, kernel, d, noisy)
    for part, slope in enumerate(g):
        pairs = adjoint * slope
        spread = 2.0 * (pairs.sum(axis=1) @ (x * x) - np.sum(x * (pairs @ x), axis=0))
        columns = slice(part * d, (part + 1) * d)
        gradient[columns] -= spread * np.exp(-2.0 * parameters[columns])
    for i, slope in enumerate(by_share):
        gradient[len(g) * d + i] += float(np.vdot(adjoint, slope))
    if noisy:
        gradient[size] += nugget * float(np.trace(adjoint))
    return -(value + prior), -gradient


def log_posterior(parameters: Array, x: Array, y: Array, trend: Array, kernel: Kernel, noisy: bool) -> float:
    """Return the log density of (log ell, log nugget), trend and variance integrated out, up to a constant.

    The variance has the density 1 / s2, so integrating it or taking its optimum differ by a constant only.
    """
    (n, d), b = x.shape, trend.shape[1]
    size = len(parameters) - noisy
    nugget = math.exp(parameters[size]) if noisy else 0.0
    lower, _ = factorise(correlation(kernel, x, x, np.exp(parameters[:size])), nugget)
    half, _ = lapack.dtrtrs(lower.T, np.column_stack([trend, y]), lower=0, trans=1)
    # R of the QR decomposition of L^-1 [F, y]: its last entry is the root of the residual sum of squares.
    root = np.abs(np.diag(lapack.dgeqrf(half, overwrite_a=1)[0]))
    log_det = float(np.sum(np.log(np.diag(lower)))) + float(np.sum(np.log(root[:b])))
    residual = math.log(max(float(root[b]), 1e-150))
    prior = _log_prior(parameters, kernel, d, noisy)[0] + float(np.sum(parameters[: scale_count(kernel, d)]))
    return float(prior - log_det - (n - b) * residual)


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


def _starting_points(kernel: Kernel, d: int, count: int, noisy: bool) -> Array:
    """Return deterministic starts: the middle of the prior's useful range first, then a Sobol sequence around it.

    Parts of a sum or product start a factor apart: equal ones have equal gradients, and would stay equal.
    """
    scales, size = scale_count(kernel, d), hyperparameter_count(kernel, d)
    cube = qmc.Sobol(size + 1, scramble=False).random(STARTS_MORE)[:count]
    low, high = math.log(0.1), math.log(3.0 * math.sqrt(d))
    points = np.zeros((count, size + noisy))
    points[:, :scales] = low + (high - low) * cube[:, :scales]
    parts = np.repeat(np.arange(scales // d), d)
    points[0, :scales] = math.log(0.5 * math.sqrt(d)) + math.log(APART) * (0.5 * (scales // d - 1) - parts)
    if noisy:
        points[:, size] = math.log(1e-4) + (math.log(1e-1) - math.log(1e-4)) * cube[:, size]
    return points


def train(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, " n"],
    kernel: Kernel,
    trend: Float[np.ndarray, "n b"],
    noisy: bool,
) -> Hyperparameters:
    """Return the best of 2 starts; of 8 when those differ by more than 0.1 nat or end at a bound.

    With many runs the starts are compared on some of them, and the best goes on with all.

    Parameters
    ----------
    x, y
        Inputs in the unit cube and one score, centred and scaled.
    kernel
        Its length scales, and the shares of a sum's terms, are what is trained.
    trend
        Trend basis at `x`.
    noisy
        Whether a nugget (noise variance over process variance) is trained too.
    """
    d = x.shape[1]
    bounds = bounds_of(kernel, d, noisy)
    starts = _starting_points(kernel, d, STARTS_MORE, noisy)
    rows = subset(len(x)) if len(x) >= 2 * SUBSET else np.arange(len(x))
    found: list[tuple[float, Array]] = []

    def climb(start: Array, rows: Ints) -> tuple[float, Array]:
        result = minimize(
            objective,
            start,
            args=(x[rows], y[rows], trend[rows], kernel, noisy),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"ftol": 1e-9, "gtol": 1e-4, "maxiter": 200},
        )
        return float(result.fun), np.asarray(result.x)

    with threadpool_limits(1):  # two BLAS threads on 200 x 200 matrices are several times slower than one
        for index, start in enumerate(starts):
            found.append(climb(start, rows))
            if index == STARTS - 1:
                values = [value for value, _ in found]
                if max(values) - min(values) <= START_TOLERANCE and not _at_bound(min(found, key=_first)[1], bounds):
                    break
        best, point = min(found, key=_first)
        if len(rows) < len(x):
            best, point = climb(point, np.arange(len(x)))
        size = len(point) - noisy
        ell = np.exp(point[:size])
        nugget = math.exp(point[size]) if noisy else 0.0
        _, jitter = factorise(correlation(kernel, x, x, ell), nugget)
    return Hyperparameters(ell, nugget, jitter, -best, len(found), _at_bound(point, bounds))


def subset(n: int) -> Ints:
    """Return `SUBSET` of n rows, always the same; every second point of a Sobol sequence would be half of the box."""
    return np.sort(np.random.default_rng(0).permutation(n)[:SUBSET])


def _first(pair: tuple[float, Array]) -> float:
    return pair[0]


def _at_bound(point: Array, bounds: Array) -> bool:
    return any(min(value - low, high - value) < 1e-6 for value, (low, high) in zip(point, bounds, strict=True))
