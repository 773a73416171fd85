"""A factor of the stated error that varies over the box, learned from how well each run is predicted by all others.

==========  =================================================================  ============
symbol      meaning                                                            shape
==========  =================================================================  ============
u           inputs in the unit cube                                            (k, d)
v           u - 1/2, with u at most at the ends of the box                     (k, d)
f           1, v, 2 v² - 1/6, and √8 v v' of all pairs of inputs               (k, m)
c           coefficients, of each hyperparameter draw and score                (H, q, m)
r           the local scale: r^-8 = exp(-8 f · c) + R^-8                       (k,)
R           what r does not exceed                                             (q,)
e, v        left-out errors of the runs, and their variances                   (n, q)
z²          e² / v                                                             (n, q)
==========  =================================================================  ============

The error of a score at u is r(u) times that of its process: it stays one random function, and the mean stays as it is.
A stationary process says almost the same error wherever the runs are equally dense. Where a function is calm in a part
of the box and wild in another, left-out errors show it. Given c and no R, z² is r² times a square of a standard normal.
The prior of c is normal, and for squares and products of inputs the same in all rotated inputs. Each hyperparameter
draw has a draw of c from the normal approximation to its posterior.

Few runs show how large errors are where they are largest, in a corner of the box, while exp(f · c) goes on to grow
there, and a mean over the box, as in a Sobol' index, is mostly the error of that corner. So R is at most the largest
exp(f · c) of the runs, and such that the stated variances of the runs, the sum of r² v, are together at most `SLACK`
times the sum of v. The limit is higher if the sum of e² is larger than that of v: by the ratio of the two sums, to the
power n / (n + `FEW`), where n is the effective number of runs in the sum of exp(2 f · c) v.

A score has a local scale where z² are more probable with it than with r = 1. Its own z² must be so by `CLEAR` nats. As
a simulator is calm in the same part of the box for many of its scores, its coefficients may also have the prior that
all other scores together give, each with a level of its own: there they differ by `OWN`. What the other scores say
counts from `CLEAR` nats on. If z² scatter more than the model says, next to a kink or because those of several scores
at the same run are alike, each counts less (McCullagh & Nelder 1989, Generalized Linear Models, section 9.2).

References
----------
Harvey (1976), Estimating regression models with multiplicative heteroscedasticity, doi:10.2307/1913974.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq, minimize

from uqms._typing import Array, Bools, Ints
from uqms.surrogates.fitting import own_order
from uqms.surrogates.left_out import left_out_scores, own_jitter
from uqms.surrogates.process import SHARPNESS, ScoreProcess, limited, local_features

__all__ = ["changes_over_box", "scales_at_runs", "with_local_scale"]

LEVEL = 3.0  # prior sd of the first coefficient, one factor for the whole box: of linear outputs it is a thousandth
SPREAD = 1.0  # of the others: from the middle of the box to its ends the scale changes by factors of 1.6
OWN = 0.5  # sd of the coefficients of a score around those that the others have in common
CLEAR = 3.0  # nats
SLACK, FEW = 2.0, 2.0  # of the limit R
LEAST = 1e-6  # of z²: errors that are smaller than a thousandth of the stated ones are rounding
ENOUGH = 1e-6  # nats by a coefficient at which the search of the mode ends


def with_local_scale(process: ScoreProcess, orders: Sequence[int]) -> ScoreProcess:
    """Return the process with the local scales that its left-out errors ask for; itself where none does.

    `orders` (q,) name the random numbers of each score. What is found does not depend on the order of runs and inputs.
    """
    rows, inputs = own_order(process.x, np.nan_to_num(process.y[:, 0]))
    f, left = local_features(process.x[np.ix_(rows, inputs)]), _left_out(process, rows)
    c, limit = np.zeros((process.draws, process.q, f.shape[1])), np.zeros((process.draws, process.q, 1))
    for j, found in enumerate(_of_scores(f, left.ratio, process.x.shape[1])):
        if found is not None:
            m = len(found.mode)
            c[:, j, :m] = found.mode
            if process.draws > 1:
                c[:, j, :m] += _normals(process.draws, m, orders[j]) @ found.root.T
            limit[:, j] = _limit(f[:, :m] @ found.mode, left.square[:, j], left.variance[:, j])
    if not c.any():
        return process
    return process.with_local(np.concatenate([_reordered(c, np.argsort(inputs)), limit], axis=2))


def scales_at_runs(
    x: Float[np.ndarray, "n d"], error: Float[np.ndarray, "n q"], variance: Float[np.ndarray, "n q"]
) -> Float[np.ndarray, "n q"]:
    """Return the local scales of scores at the runs x, with the modes of c; NaN errors: a run has no value."""
    square = np.divide(error**2, variance, out=np.full(error.shape, np.nan), where=variance > 0.0)
    f, out = local_features(x), np.ones(square.shape)
    for j, found in enumerate(_of_scores(f, square, x.shape[1])):
        if found is not None:
            g = f[:, : len(found.mode)] @ found.mode
            out[:, j] = limited(g, _limit(g, error[:, j] ** 2, variance[:, j]))
    return out


def changes_over_box(x: Float[np.ndarray, "n d"], square: Float[np.ndarray, "n q"]) -> Bools:
    """Return whether squared errors over their variances, each score's up to a factor, depend on the input (q,)."""
    f = local_features(x)
    sizes = _sizes(f, x.shape[1], len(x))
    relative = np.maximum(square / square.mean(axis=0), LEAST)
    found = [max((_found(f[:, :m], one, _wide(m)) for m in sizes), key=_evidence) for one in relative.T]
    return np.array([one.evidence >= CLEAR for one in found], dtype=bool)


def _limit(g: Float[np.ndarray, " n"], square: Float[np.ndarray, " n"], variance: Float[np.ndarray, " n"]) -> float:
    """Return R^-8 of a score from f · c, e² and v at the runs; they are NaN where a run has no value."""
    known = np.isfinite(square)
    g, square, variance = g[known], square[known], variance[known]
    stated = np.exp(2.0 * g) * variance
    runs = stated.sum() ** 2 / np.sum(stated**2)
    most = SLACK * variance.sum() * max(1.0, square.sum() / variance.sum()) ** (runs / (runs + FEW))

    def above(log_r: float) -> float:
        return float(np.log(np.sum(limited(g, np.exp(-SHARPNESS * log_r)) ** 2 * variance) / most))

    largest = float(g.max())
    if above(largest) > 0.0:
        largest = brentq(above, 0.5 * np.log(most / variance.sum()), largest)  # all r are at most R
    return float(np.exp(-SHARPNESS * largest))


class _LeftOut(NamedTuple):
    """e², v and z² (n, q), means over the hyperparameter draws; NaN where a run has no value."""

    square: Array
    variance: Array
    ratio: Array


def _left_out(process: ScoreProcess, rows: Ints) -> _LeftOut:
    """Return what is known of left-out runs; of scores that do not vary, or have a nugget, nothing is."""
    weights = np.exp(process.log_weights - np.logaddexp.reduce(process.log_weights))
    out = np.full((3, *process.y.shape), np.nan)
    for j in range(process.q):
        known = process.known(j)
        if process.y[known, j].any() and not process.nugget[:, j].any():
            out[:, known, j] = 0.0
            for h, weight in enumerate(weights):
                error, variance, _ = left_out_scores(process, h, j)
                square, variance = error[known] ** 2, (variance - own_jitter(process, h, j, variance))[known]
                out[:, known, j] += weight * np.stack([square, variance, square / variance])
    return _LeftOut(*out[:, rows])


def _of_scores(f: Float[np.ndarray, "n m"], square: Float[np.ndarray, "n q"], d: int) -> list["_Found | None"]:
    """Return the coefficients of every score, None where it needs none."""
    counts = np.isfinite(square)
    square = np.where(counts, np.maximum(square, LEAST), 0.0)
    return [_of_score(f, square, counts, j, d) for j in range(square.shape[1])]


def _of_score(f: Array, square: Array, counts: Bools, j: int, d: int) -> "_Found | None":
    """Return the coefficients of score j: found alone, or with what the other scores say of theirs."""
    known = counts[:, j]
    if not known.any():
        return None
    own = square[known, j]
    sizes = _sizes(f, d, len(own))
    several = [_found(f[known, :m], own, _wide(m)) for m in sizes]
    several = [one._replace(evidence=one.evidence - CLEAR) for one in several]
    others = np.delete(np.arange(square.shape[1]), j)
    others = others[counts[:, others].any(axis=0)]
    if len(others):
        level = square[:, others].sum(axis=0) / counts[:, others].sum(axis=0)
        total, count = (square[:, others] / level).sum(axis=1), counts[:, others].sum(axis=1).astype(float)
        common = max((_found(f[:, :m], total, _wide(m), count) for m in sizes), key=_evidence)
        if common.evidence >= CLEAR:
            several.append(_found(f[known, : len(common.mode)], own, _around(common)))
    found = max(several, key=_evidence)
    return found if found.evidence >= 0.0 else None


def _sizes(f: Float[np.ndarray, "n m"], d: int, runs: int) -> list[int]:
    """Return how many features are tried: also products of inputs, where all are no more than the runs."""
    return [1 + 2 * d] + ([f.shape[1]] if 1 + 2 * d < f.shape[1] <= runs else [])


def _reordered(c: Float[np.ndarray, "H q m"], order: Ints) -> Float[np.ndarray, "H q m"]:
    """Return the coefficients of inputs that are taken in another order."""
    d = len(order)
    pairs, (first, second) = np.zeros((*c.shape[:2], d, d)), np.triu_indices(d, 1)
    pairs[..., first, second] = pairs[..., second, first] = c[..., 1 + 2 * d :]
    products = pairs[..., order[first], order[second]]
    return np.concatenate([c[..., :1], c[..., 1 + order], c[..., 1 + d + order], products], axis=-1)


def _normals(draws: int, size: int, order: int) -> Array:
    """Return standard normals (draws, size) whose columns have exactly the mean 0 and the sd 1."""
    xi = np.random.default_rng(order).standard_normal((draws, size))
    xi -= xi.mean(axis=0)
    return np.asarray(xi / xi.std(axis=0))


class _Prior(NamedTuple):
    """A normal prior of c."""

    centre: Array  # (m,)
    covariance: Array  # (m, m)


def _wide(m: int) -> _Prior:
    """Return the prior of a score of which nothing is known."""
    return _Prior(np.zeros(m), np.diag(np.array([LEVEL] + [SPREAD] * (m - 1)) ** 2))


class _Found(NamedTuple):
    """Normal approximation to the posterior of c, and by how many nats z² are more probable than with r = 1."""

    mode: Array  # (m,)
    root: Array  # (m, m), of its covariance
    evidence: float  # nats


def _around(common: _Found) -> _Prior:
    """Return the prior of a score where the other scores have coefficients in common; its level is its own."""
    m = len(common.mode)
    covariance = np.diag(np.array([LEVEL] + [OWN] * (m - 1)) ** 2)
    covariance[1:, 1:] += (common.root @ common.root.T)[1:, 1:]
    return _Prior(np.append(0.0, common.mode[1:]), covariance)


def _evidence(found: _Found) -> float:
    return found.evidence


def _found(f: Array, square: Array, prior: _Prior, count: Array | None = None) -> _Found:
    """Return what z² (n,) say of c, by Laplace's method; what sums of `count` (n,) of them say where that is given.

    Where z² / r² scatter more than squares of normals do, as next to a kink that f cannot follow, the log-likelihood is
    divided by the ratio of the two variances.
    """
    count = np.ones(len(f)) if count is None else count
    first = _mode(f, square, prior, count, 1.0)
    some = count > 0
    left = square[some] / count[some] * np.exp(-2.0 * (f[some] @ first.mode))
    scatter = float(np.mean(count[some] * (left / left.mean() - 1.0) ** 2))
    return first if scatter <= 2.0 else _mode(f, square, prior, count, 2.0 / scatter)


def _mode(f: Array, square: Array, prior: _Prior, count: Array, share: float) -> _Found:
    """Return the normal approximation to the posterior of c whose log-likelihood is multiplied by `share`.

    The log posterior is concave. Its curvature is the expected information, 2 f' f, which is the same at every c.
    """
    at, precision = prior.centre, np.linalg.inv(prior.covariance)

    def value(c: Array) -> float:
        size = f @ c
        fit = share * np.sum(count * size + 0.5 * square * np.exp(-2.0 * size))
        return float(fit + 0.5 * (c - at) @ precision @ (c - at))

    def slope(c: Array) -> Array:
        fit = share * f.T @ (count - square * np.exp(-2.0 * (f @ c)))
        return np.asarray(fit + precision @ (c - at))

    def curvature(c: Array) -> Array:
        weights = 2.0 * share * square * np.exp(-2.0 * (f @ c))
        return np.asarray((f * weights[:, None]).T @ f + precision)

    start = at.copy()
    start[0] = 0.5 * np.log(np.sum(square * np.exp(-2.0 * (f @ at))) / count.sum())  # from r = 1 steps are far too long
    c = minimize(value, start, jac=slope, hess=curvature, method="trust-exact", options={"gtol": ENOUGH}).x
    lower = np.linalg.cholesky(2.0 * share * (f * count[:, None]).T @ f + precision)
    none = 0.5 * share * float(square.sum())
    evidence = none - value(c) - float(np.sum(np.log(np.diag(lower)))) + 0.5 * float(np.linalg.slogdet(precision)[1])
    return _Found(c, np.linalg.inv(lower).T, evidence)
