"""Scalar outputs whose errors correlate: jointly modelled scores, whose errors do not.

==========  =====================================================================  =========
symbol      meaning                                                                shape
==========  =====================================================================  =========
y           scalar outputs, centred and divided by their sds                       (n, g)
Q_i         inverse covariance of output i, less the part that the trend takes     (n, n)
C           correlation of the errors: y_i' Q_i y_j over its norms, and transposed (g, g)
s           root mean square of the left-out errors of each output                 (g,)
V           eigenvectors of C, in the space that y / s spans                       (g, r)
t           scores: y / s @ V, divided by their sds                                (n, r)
A           y = t A'                                                               (g, r)
==========  =====================================================================  =========

Given y_j, y_i' Q_i y_j of an independent y_i is normal with the variance y_j' Q_i y_j, so that its correlation has the
standard error of n independent pairs. Left-out errors themselves depend on their neighbours: their correlation has that
of 0.4 n, and with 20 runs does not tell a correlation of 0.95 from none.

Outputs that are exactly linear combinations of others (EDV, ESV and SV = EDV - ESV) have r < g joint scores; their
draws obey the identity to rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular
from scipy.sparse.csgraph import connected_components

from uqms._typing import Array, Bools, Ints
from uqms.surrogates.kernels import Kernel, correlation
from uqms.surrogates.outputs import OutputBasis, score_columns
from uqms.surrogates.training import Hyperparameters, factorise

__all__ = ["LeftOut", "left_out_errors", "with_scores_in_common"]

# Correlation of errors below which scores in common gain less (0.14 nats per run) than their own training may lose.
MATERIAL = 0.5
CLEAR = 3.0  # standard errors of the correlation of independent outputs that it must be beyond
EXACT = 1e-9  # of an output's sd: less than this is rounding
SMALL = 0.05  # of an output's left-out error: less than this, such as the digits of a table, is none of a combination
SPARE = 2  # runs more than coefficients that an exact combination must hold for
SHARE = 0.5  # of the runs: at most so many scores are found from the correlation of their errors


class LeftOut(NamedTuple):
    """Left-out errors (n,) of one score, their variances, the process' own, and correlations with outputs (m,)."""

    error: Array
    variance: Array
    of_process: float
    correlation: Array

    @property
    def log_score(self) -> float:
        """Sum of the log densities of the left-out runs."""
        return float(-0.5 * np.sum(np.log(2.0 * np.pi * self.variance) + self.error**2 / self.variance))


class _Rotation(NamedTuple):
    """Scores of a group of outputs, y = scores @ basis.T, and what training found for them."""

    scores: Array  # (n, r)
    basis: Array  # (g, r)
    found: list[Hyperparameters]


def left_out_errors(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, " n"],
    trend: Float[np.ndarray, "n b"],
    kernel: Kernel,
    one: Hyperparameters,
    others: Float[np.ndarray, "n m"],
) -> LeftOut:
    """Return the left-out errors of a score in closed form, and its correlation with others under its process."""
    n, b = trend.shape
    lower, _ = factorise(correlation(kernel, x, x, one.ell), one.nugget)
    half = solve_triangular(lower, np.eye(n), lower=True, check_finite=False)
    basis, _ = np.linalg.qr(half @ trend)
    half -= basis @ (basis.T @ half)
    size = np.maximum(np.sum(half * half, axis=0), 1e-300)  # diagonal of Q, see `validation`
    own, rest = half @ y, half @ others
    squares = max(float(own @ own), 1e-300)
    found = own @ rest / np.sqrt(squares * np.maximum(np.sum(rest * rest, axis=0), 1e-300))
    of_process = squares / (n - b)
    return LeftOut(half.T @ own / size, of_process / size, of_process, found)


def with_scores_in_common(
    y: Float[np.ndarray, "n q"],
    bases: Sequence[OutputBasis],
    found: Sequence[Hyperparameters],
    train: Callable[[Array], Hyperparameters],
    left_out: Callable[[Array, Hyperparameters, Array], LeftOut],
) -> tuple[Array, list[OutputBasis], list[Hyperparameters], Bools]:
    """Return scores, bases, hyperparameters and which scores were kept, with joint scores where errors correlate.

    Outputs are modelled jointly when their errors correlate clearly or they are exact combinations of each other, they
    are known in the same runs without a nugget, and the scores predict left-out runs better.

    Parameters
    ----------
    y
        Scores, NaN in runs that lack their output.
    bases
        One basis an output, each with its own scores.
    found
        What training found for each score.
    train, left_out
        What finds it for a score, and its left-out errors.
    """
    scalar = [
        (i, int(at[0]))
        for i, at in enumerate(score_columns(bases))
        if not bases[i].dims and bases[i].basis.any() and not found[int(at[0])].nugget
    ]
    known = np.isfinite(y)
    y, new, trained, kept = y.copy(), dict(enumerate(bases)), list(found), np.ones(y.shape[1], dtype=bool)
    for runs in {known[:, j].tobytes(): known[:, j] for _, j in scalar}.values():
        outputs, columns = np.array([(i, j) for i, j in scalar if (known[:, j] == runs).all()]).T
        if len(columns) < 2:
            continue
        errors = [left_out(y[:, j], found[j], y[:, columns]) for j in columns]
        correlated = np.stack([one.correlation for one in errors])
        correlated = 0.5 * (correlated + correlated.T)
        for group in _groups(y[np.ix_(runs, columns)], errors, correlated):
            mine = columns[group]

            def fit(score: Array, runs: Bools = runs) -> tuple[Hyperparameters, LeftOut]:
                everywhere = np.full(len(runs), np.nan)
                everywhere[runs] = score
                one = train(everywhere)
                return one, left_out(everywhere, one, everywhere[:, None])

            among = correlated[np.ix_(group, group)]
            best = _rotation(y[np.ix_(runs, mine)], [found[j] for j in mine], [errors[k] for k in group], among, fit)
            if best is None:
                continue
            own = mine[: len(best.found)]
            y[np.ix_(runs, own)] = best.scores
            kept[mine[len(own) :]] = False
            for j, one in zip(own, best.found, strict=True):
                trained[j] = one
            for i, row in zip(outputs[group], best.basis, strict=True):
                new[i] = replace(bases[i], basis=bases[i].basis * row, scores=tuple(own.tolist()))
    if all(basis.scores is None for basis in new.values()):
        return y, list(bases), list(found), kept
    place = np.cumsum(kept) - 1
    before = [at if new[i].scores is None else np.array(new[i].scores) for i, at in enumerate(score_columns(bases))]
    moved = [replace(new[i], scores=tuple(place[at].tolist())) for i, at in enumerate(before)]
    return y[:, kept], moved, [one for one, keep in zip(trained, kept, strict=True) if keep], kept


def _groups(y: Float[np.ndarray, "n m"], errors: Sequence[LeftOut], correlated: Float[np.ndarray, "m m"]) -> list[Ints]:
    """Return groups of outputs whose errors correlate, or of which some are exact combinations of the others."""
    clear = np.abs(correlated) > max(MATERIAL, CLEAR / np.sqrt(len(y)))
    linked = clear | _combinations(y, np.argsort([one.log_score for one in errors])[::-1], _rounding(errors))
    _, label = connected_components(linked, directed=False)
    groups = [np.flatnonzero(label == i) for i in range(label.max() + 1)]
    return [group for group in groups if len(group) > 1]


def _rotation(
    y: Float[np.ndarray, "n g"],
    found: Sequence[Hyperparameters],
    errors: Sequence[LeftOut],
    correlated: Float[np.ndarray, "g g"],
    train: Callable[[Array], tuple[Hyperparameters, LeftOut]],
) -> _Rotation | None:
    """Return the scores of a group of outputs, or None when independent processes predict left-out runs better.

    Of outputs that are exact combinations of others, the others are compared; they are the scores when rotated ones
    are no better.

    Parameters
    ----------
    y
        Outputs of the group, centred and divided by their sds.
    found, errors
        What training found for each output, and its left-out errors.
    correlated
        Correlation of the outputs' errors.
    train
        Does the same for a score.
    """
    n, g = y.shape
    own = _spanning(y, np.argsort([one.log_score for one in errors])[::-1], _rounding(errors))
    if len(own) > SHARE * n:
        return None
    s = np.array([np.sqrt(np.mean(one.error**2)) for one in errors])
    whole = np.eye(g) if len(own) == g else np.linalg.svd(y / s, full_matrices=False)[2][: len(own)].T
    _, vectors = np.linalg.eigh(whole.T @ correlated @ whole)
    scores = (y / s) @ (whole @ vectors)
    sd = scores.std(axis=0)
    scores, basis = scores / sd, s[:, None] * (whole @ vectors) * sd
    pairs = [train(scores[:, j]) for j in range(len(own))]
    # The density of the outputs that the others are combinations of: scores = outputs @ inverse(A).
    joint = sum(one.log_score for _, one in pairs) - n * float(np.linalg.slogdet(basis[own])[1])
    if joint > sum(errors[j].log_score for j in own):
        return _Rotation(scores, basis, [one for one, _ in pairs])
    if len(own) == g:
        return None
    basis = np.linalg.lstsq(y[:, own], y, rcond=None)[0].T
    basis[own] = np.eye(len(own))
    return _Rotation(y[:, own], basis, [found[j] for j in own])


def _rounding(errors: Sequence[LeftOut]) -> Array:
    """Return the root mean square (m,) below which the rest of a combination is none."""
    return np.maximum(EXACT, SMALL * np.array([np.sqrt(np.mean(one.error**2)) for one in errors]))


def _spanning(y: Array, order: Ints, rounding: Array) -> Ints:
    """Return outputs of which all others are exact combinations, the first in the order as far as possible."""
    kept: list[int] = []
    for j in order:
        if _combination(y, kept, int(j), float(rounding[j])) is None:
            kept.append(int(j))
    return np.array(kept)


def _combination(y: Array, kept: list[int], j: int, rounding: float) -> Array | None:
    """Return the coefficients of an output as an exact combination of others, or None when it is none."""
    if not kept or len(kept) + SPARE >= len(y):
        return None
    weights = np.linalg.lstsq(y[:, kept], y[:, j], rcond=None)[0]
    exact = np.sqrt(np.mean((y[:, j] - y[:, kept] @ weights) ** 2)) <= rounding
    return np.asarray(weights) if exact else None


def _combinations(y: Array, order: Ints, rounding: Array) -> Bools:
    """Return which outputs (m, m) are linked by an exact combination."""
    linked = np.eye(y.shape[1], dtype=bool)
    kept: list[int] = []
    for j in order:
        weights = _combination(y, kept, int(j), float(rounding[j]))
        if weights is None:
            kept.append(int(j))
        else:
            linked[j, np.array(kept)[np.abs(weights) > 1e-6]] = True
    return linked | linked.T
