"""The mode of the density of hyperparameters, climbed to in steps whose size comes from the information in the runs.

==========  ============================================================================  =========
symbol      meaning                                                                       shape
==========  ============================================================================  =========
p           logarithms of hyperparameters, see `training`                                 (k,)
D_i         derivative of K by p_i                                                        (n, n)
w, Q        K^-1 (y - F beta), and K^-1 less what the trend takes                         (n,), (n, n)
I           average information (w' D_i Q D_j w / s2 - a_i a_j / (n - b)) / 2, with       (k, k)
            a_i = w' D_i w / s2; beside it the precision of the priors
==========  ============================================================================  =========

Directions and length scales have a narrow curved ridge in common, along which a search that learns the curvature from
its steps takes hundreds of them. The average of observed and expected information costs less than one evaluation, since
it needs products of matrices with one vector only (Gilmour, Thompson & Cullis 1995, doi:10.2307/2533274). Steps of the
quasi-Newton method of Broyden, Fletcher, Goldfarb and Shanno start from it, and from it again after progress.
"""

from collections.abc import Callable
from typing import NamedTuple, final

import numpy as np
from scipy.linalg import lapack

from uqms._typing import Array, Bools
from uqms.errors import FitError
from uqms.surrogates.adapted import forward_logs
from uqms.surrogates.kernels import Kernel, scale_count
from uqms.surrogates.training import Density, Noise, bounds_of, density, nugget_of, prior_of, variances_known

__all__ = ["FINE", "Climb", "climb"]

FINE = 1e-5  # nats from the mode at which climbs end where kernels are compared
LARGEST_STEP = 1.0  # of a logarithm
STEPS, SHORTER = 200, 12  # at most: steps, and lengths that are tried for each
ROUNDING, TRIED = 1e-2, 3  # nats: below it rounding may hide the gain of a step, and so many lengths are tried
HOPE = 3.0  # times the gain that the quadratic promises: more is not expected
PROGRESS = 1.0  # nats, after which the information is computed again
ENOUGH = 1e-4  # of the decrease that the slope promises


@final
class Climb(NamedTuple):
    """Where a climb ended: the negative log density, the point, the inverse of the average information there."""

    value: float
    point: Array  # (k,)
    covariance: Array  # (k, k)


def climb(
    x: Array,
    y: Array,
    trend: Array,
    kernel: Kernel,
    noise: Noise,
    start: Array,
    tolerance: float,
    of_logs: bool = False,
    hopeless: float = np.inf,
) -> Climb:
    """Return the mode of the hyperparameters' density that is climbed to from p, within `tolerance` nats of it.

    The density is that of length scales as `training.train` has it, or with `of_logs` that of their logarithms. A climb
    that will end above the negative log density `hopeless` stops early.
    """
    jacobian = np.zeros(len(start))
    jacobian[: scale_count(kernel, x.shape[1])] = float(of_logs)
    low, high = bounds_of(kernel, x.shape[1], noise).T
    precision = np.diag(prior_of(kernel, x.shape[1], noise)[1] ** -2.0)

    def evaluated(p: Array) -> tuple[float, Array, Density]:
        found = density(p, x, y, trend, kernel, noise)
        return found.value - float(jacobian @ p), found.gradient - jacobian, found

    def inverse_information(p: Array, found: Density) -> Array:
        return np.asarray(np.linalg.inv(_information(p, found, y, noise) + precision))

    p = np.clip(start, low, high)
    value, gradient, found = evaluated(p)
    inverse, before, fresh = inverse_information(p, found), value, True
    for _ in range(STEPS):
        free = ~(((p <= low) & (gradient > 0.0)) | ((p >= high) & (gradient < 0.0)))
        step = _step(inverse, gradient, free)
        with np.errstate(over="ignore", invalid="ignore"):  # runs that the trend passes through
            gain = -0.5 * float(gradient @ step)
        if gain < tolerance or value - HOPE * gain > hopeless:
            break
        moved = _along(evaluated, p, value, gradient, step, (low, high), SHORTER if gain > ROUNDING else TRIED)
        if moved is None:
            if fresh or gain <= ROUNDING:
                break
            inverse, before, fresh = inverse_information(p, found), value, True
            continue
        there, value, slope, found = moved
        if before - value > PROGRESS:
            inverse, before, fresh = inverse_information(there, found), value, True
        else:
            inverse, fresh = _updated(inverse, there - p, slope - gradient), False
        p, gradient = there, slope
    return Climb(value, p, inverse if fresh else inverse_information(p, found))


def _step(inverse: Array, gradient: Array, free: Bools) -> Array:
    """Return the step of Newton's method among the coordinates that no bound holds, none of them too long."""
    step = np.zeros(len(gradient))
    step[free] = -inverse[np.ix_(free, free)] @ gradient[free]
    return step


def _along(
    evaluated: Callable[[Array], tuple[float, Array, Density]],
    p: Array,
    value: float,
    gradient: Array,
    step: Array,
    bounds: tuple[Array, Array],
    lengths: int,
) -> tuple[Array, float, Array, Density] | None:
    """Return the first point along a step that is better, with what was found there; None when there is none."""
    length = min(1.0, LARGEST_STEP / float(np.abs(step).max()))
    for _ in range(lengths):
        there = np.clip(p + length * step, *bounds)
        expected = float(gradient @ (there - p))
        try:
            at_it, slope, found = evaluated(there)
        except FitError:  # runs that cannot be told apart: a step too far
            length *= 0.1
            continue
        if at_it <= value + ENOUGH * expected:
            return there, at_it, slope, found
        above = at_it - value - expected
        length *= float(np.clip(-0.5 * expected / above, 0.1, 0.5)) if above > 0.0 else 0.1
    return None


def _updated(inverse: Array, step: Array, change: Array) -> Array:
    """Return the inverse curvature after a step with a change of the gradient."""
    along = float(step @ change)
    if along <= 1e-10 * float(np.linalg.norm(step) * np.linalg.norm(change)):
        return inverse
    turned = inverse @ change
    both = np.outer(turned, step) / along
    return np.asarray(inverse - both - both.T + np.outer(step, step) * (1.0 + float(change @ turned) / along) / along)


def _information(p: Array, found: Density, y: Array, noise: Noise) -> Array:
    """Return the average information of the runs."""
    weights, known = found.weights, variances_known(noise)
    moved = forward_logs(found.at_runs, weights)
    if noise is not False:
        last = -found.at_runs.kappa @ weights if known else nugget_of(p, noise) * weights
        moved = np.column_stack([moved, last])
    half, _ = lapack.dtrtrs(found.lower, moved, lower=1)
    solved_trend, projected = found.projection
    taken = solved_trend.T @ moved
    information = half.T @ half - (projected.T @ moved).T @ taken
    if not known:
        each = weights @ moved
        information -= np.outer(each, each) / max(float(y @ weights), 1e-300)
    with np.errstate(over="ignore", invalid="ignore"):
        information = 0.5 * found.inverse_variance * 0.5 * (information + information.T)
    # Runs that the trend passes through leave no residual and no information: the priors are left.
    return np.where(np.isfinite(information).all(), information, 0.0)
