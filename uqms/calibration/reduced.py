"""The Gaussian likelihood with independent noise, in matrix products: many cells reduced to few, once for all draws.

Letters as in `_marginal`. Cells of one experiment and one noise group have the variances sigma² / weight, so that
dividing by 1 / sqrt(weight) makes the noise of all of them equal. Then only what lies in the span of their basis and
truncation rows depends on the surrogate:

==========  ==========================================================================  ===========
symbol      meaning                                                                     shape
==========  ==========================================================================  ===========
M           [G, E] of the n cells of an experiment and a group, times sqrt(weight)      (n, c)
Q           orthonormal columns whose span holds that of M                              (n, r)
y           sqrt(weight) (zbar - offset)                                                (n,)
lambda      variance beside sigma² along each column of Q, where E E' is diagonal       (r,)
==========  ==========================================================================  ===========

Q' y has the covariance Q' C Q, and y - Q Q' y is noise alone: n - r normal numbers of variance sigma², of which the sum
of squares is enough. So the value costs the same for 50 cells and 10 000. C^-1 = (1 - Q Q') / sigma² + Q (Q' C Q)^-1 Q'
gives what is needed by cell.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np

from uqms._typing import Array, Bools, Ints
from uqms.calibration._marginal import LOG_TWO_PI, NUMBERS, PRECISION

__all__ = ["Reduced", "reduce_cells"]

UNTIED = 1e-12  # relative covariance of truncation between groups that is rounding


class _Block(NamedTuple):
    """Cells of one experiment and one noise group, and what they are reduced to."""

    group: int
    rows: Ints  # (n,), among all cells
    root: Array  # (n,), sqrt(weight)
    frame: Array | None  # Q (n, r); None where cells are too few to be reduced
    own: slice  # place of the reduced numbers within the experiment
    outside: Array  # (n,), y - Q Q' y
    missing: Array  # (n,), 1 - diag Q Q'


class _Experiment(NamedTuple):
    """Reduced numbers of one experiment, n in all."""

    blocks: tuple[_Block, ...]
    group: Ints  # (n,)
    value: Array  # (n,)
    variance: Array  # (n,), lambda
    basis: Array  # (n, q)
    factor: Array  # (n, t), what lambda does not hold of the truncation


class _Inner(NamedTuple):
    """What evaluation leaves for the cells: arrays of one experiment."""

    alpha: Array  # (S, n), R^-1 residual
    d: Array  # (S or 1, n)
    half: Array  # (S or 1, n, t): R^-1 = D^-1 - half half'
    V: Array  # (S or 1, n, q), R^-1 G


@final
@dataclass(frozen=True, eq=False)
class Reduced:
    """Observations as few numbers with the same likelihood, see `reduce_cells`.

    Attributes
    ----------
    experiments
        What depends on the surrogate, by experiment.
    cells
        Number of cells N.
    count, squares
        By noise group: how many normal numbers of variance sigma² stand beside, and their sum of squares.
    constant
        What depends on neither.
    """

    experiments: tuple[_Experiment, ...]
    cells: int
    count: Array
    squares: Array
    constant: float

    def values(self, means: Array, covariances: Array, sigma: Array) -> Array:
        """Return the log-likelihood (S,) of scores (S, K, q), (S, q, K, K) and noise sds (S, groups)."""
        out, sigma = np.empty(len(means)), sigma[:, : len(self.count)]
        with np.errstate(all="ignore"):  # what is too far off for numbers is -inf or NaN
            for now in self._steps(means, sum(len(one.value) for one in self.experiments)):
                out[now] = self._evaluate(means[now], covariances[now], sigma[now])[0]
        return out

    def terms(self, means: Array, covariances: Array, sigma: Array) -> tuple[Array, Array, Array]:
        """Return log-likelihood (S,), and by cell alpha = C^-1 residual and precision = diag C^-1, both (S, N)."""
        values, sigma = np.empty(len(means)), sigma[:, : len(self.count)]
        alpha, precision = np.zeros((len(means), self.cells)), np.zeros((len(means), self.cells))
        with np.errstate(all="ignore"):
            for now in self._steps(means, self.cells):
                values[now], alpha[now], precision[now] = self._terms(means[now], covariances[now], sigma[now])
        return values, alpha, precision

    def _terms(self, means: Array, covariances: Array, sigma: Array) -> tuple[Array, Array, Array]:
        values, inner, of_scores, Mw, bad = self._evaluate(means, covariances, sigma)
        alpha, precision = np.zeros((len(means), self.cells)), np.zeros((len(means), self.cells))
        for k, (experiment, found) in enumerate(zip(self.experiments, inner, strict=True)):
            a = found.alpha - np.matmul(found.V, Mw[:, k, :, None])[..., 0]
            root = of_scores[:, k]
            if len(self.experiments) > 1:  # M of one experiment has no more columns than scores
                root = _root(np.matmul(root, np.swapaxes(root, 1, 2)))
            parts = found.half, np.matmul(found.V, root)
            for block in experiment.blocks:
                alpha[:, block.rows], precision[:, block.rows] = _of_cells(
                    block, a[:, block.own], found.d[:, block.own], [one[:, block.own] for one in parts], sigma
                )
        alpha[bad], precision[bad] = 0.0, 0.0
        return values, alpha, precision

    def _steps(self, means: Array, rows: int) -> Iterator[slice]:
        """Return slices of the draws whose arrays fit into memory."""
        _, K, q = means.shape
        t = max((one.factor.shape[1] for one in self.experiments), default=0)
        size = max(1, NUMBERS // max(rows * (q + 1 + t), t * t, (K * q) ** 2))
        yield from (slice(start, start + size) for start in range(0, len(means), size))

    def _evaluate(
        self, mean: Array, covariance: Array, sigma: Array
    ) -> tuple[Array, list[_Inner], Array, Array, Bools]:
        """Return values (S,), what each experiment leaves, a root (S, K, q, Kq) of M, M w (S, K, q), and failures."""
        S, K, q = mean.shape
        size = K * q
        if (sigma == sigma[:1]).all():  # known noise: what does not depend on the draw is done once
            sigma = sigma[:1]
        beside = -0.5 * np.sum(self.count * (LOG_TWO_PI + 2.0 * np.log(sigma)) + self.squares / sigma**2, axis=1)
        quadratic, log_det, bad = np.zeros(S), np.zeros(S), np.zeros(S, dtype=np.bool_)
        W, w, inner = np.empty((len(sigma), K, q, q)), np.empty((S, K, q)), []
        for k, one in enumerate(self.experiments):
            s2 = sigma[:, one.group] ** 2
            d, G, E = s2 + one.variance, one.basis, one.factor
            residual = one.value - mean[:, k] @ G.T
            V, r, half = G / d[..., None], residual / d, np.zeros((len(d), len(one.value), 0))
            bad |= (1.0 + one.variance / s2).max(axis=1, initial=1.0) > PRECISION
            log_det = log_det + np.log(d).sum(axis=1)
            if E.shape[1]:
                scaled = E / d[..., None]  # (S, n, t)
                root, one_log_det, wrong = _inverse_root(np.matmul(E.T, scaled) + np.eye(E.shape[1]))
                bad |= wrong
                half, log_det = np.matmul(scaled, root), log_det + one_log_det
                V = V - np.matmul(half, np.matmul(np.swapaxes(half, 1, 2), G))
                r = r - np.matmul(half, np.matmul(np.swapaxes(half, 1, 2), residual[..., None]))[..., 0]
            quadratic += np.sum(residual * r, axis=1)
            W[:, k], w[:, k] = np.matmul(G.T, V), r @ G
            inner.append(_Inner(r, d, half, V))
        spread = np.zeros((S, K, q, K, q))
        root = _root(covariance)  # any root serves: the likelihood does not depend on which
        for j in range(q):
            spread[:, :, j, :, j] = root[:, j]
        L = spread.reshape(S, size, size)
        WL = np.matmul(W, spread.reshape(S, K, q, size)).reshape(S, size, size)
        root, one_log_det, wrong = _inverse_root(np.matmul(np.swapaxes(L, 1, 2), WL) + np.eye(size))
        bad |= wrong
        half = np.matmul(L, root)  # M = half half'
        of_data = np.matmul(np.swapaxes(half, 1, 2), w.reshape(S, size, 1))
        quadratic -= np.sum(of_data[..., 0] ** 2, axis=1)
        parts = half.reshape(S, K, q, size)
        log_det = log_det + one_log_det
        n = sum(len(one.value) for one in self.experiments)
        values = self.constant + beside - 0.5 * (n * LOG_TWO_PI + log_det + quadratic)
        values[bad] = -np.inf
        Mw = np.matmul(half, of_data).reshape(S, K, q)
        return values, inner, parts, Mw, bad


def reduce_cells(
    starts: Ints,
    group: Ints,
    offset: Array,
    basis: Array,
    factors: Sequence[Array],
    row_cell: Ints,
    row_variance: Array,
    z: Array,
) -> Reduced:
    """Return the reduced likelihood of rows z (R,) of cells that are sorted by experiment.

    Arguments as in `Cells`: `starts` (K + 1,) is where each experiment begins, `factors` its truncation (cells, t).
    """
    N, groups = len(offset), int(group.max(initial=0)) + 1
    weight = np.bincount(row_cell, 1.0 / row_variance, N)
    mean = np.bincount(row_cell, z / row_variance, N) / weight
    within = np.bincount(row_cell, (z - mean[row_cell]) ** 2 / row_variance, N)
    count = np.bincount(group, np.bincount(row_cell, minlength=N) - 1.0, groups)
    squares = np.bincount(group, within, groups)
    root = np.sqrt(weight)
    y, scaled = root * (mean - offset), root[:, None] * basis
    experiments = []
    for k, factor in enumerate(factors):
        at = np.arange(starts[k], starts[k + 1])
        E = root[at, None] * factor
        inside = [np.flatnonzero(group[at] == g) for g in np.unique(group[at])]
        experiments.append(_experiment(at, inside, group[at], root[at], y[at], scaled[at], E))
        for block in experiments[-1].blocks:
            if block.frame is not None:
                count[block.group] += len(block.rows) - block.frame.shape[1]
                squares[block.group] += float(block.outside @ block.outside)
    return Reduced(tuple(experiments), N, count, squares, -0.5 * float(np.log(row_variance).sum()))


def _experiment(
    at: Ints, inside: Sequence[Ints], group: Ints, root: Array, y: Array, G: Array, E: Array
) -> _Experiment:
    """Return the reduced numbers of one experiment's cells; `inside` are those of each group."""
    alone = len(inside) == 1 or not _tied(E, inside)
    blocks: list[_Block] = []
    parts: list[tuple[Ints, Array, Array, Array, Array]] = []
    start = 0
    for rows in inside:
        frame, variance = _frame(G[rows], E[rows], alone)
        value, basis, factor = y[rows], G[rows], E[rows]
        outside, missing = np.zeros(len(rows)), np.zeros(len(rows))
        if frame is not None:
            value, basis, factor = frame.T @ value, frame.T @ basis, frame.T @ factor
            outside, missing = y[rows] - frame @ value, 1.0 - np.sum(frame**2, axis=1)
        if alone and frame is not None:  # the truncation is in the variances
            factor = np.zeros((len(value), 0))
        own = slice(start, start := start + len(value))
        blocks.append(_Block(int(group[rows[0]]), at[rows], root[rows], frame, own, outside, missing))
        parts.append((np.full(len(value), group[rows[0]]), value, variance, basis, factor))
    width = max(factor.shape[1] for *_, factor in parts)
    padded = [np.pad(factor, ((0, 0), (0, width - factor.shape[1]))) for *_, factor in parts]
    of_group, value, variance, basis = (np.concatenate([part[i] for part in parts]) for i in range(4))
    return _Experiment(tuple(blocks), of_group, value, variance, basis, np.concatenate(padded))


def _tied(E: Array, inside: Sequence[Ints]) -> bool:
    """Return whether the truncation correlates cells of different groups."""
    largest = np.abs(E).max(initial=0.0) ** 2
    return any(
        np.abs(E[one] @ E[other].T).max(initial=0.0) > UNTIED * largest
        for i, one in enumerate(inside)
        for other in inside[:i]
    )


def _frame(G: Array, E: Array, diagonal: bool) -> tuple[Array | None, Array]:
    """Return Q (n, r) and lambda (r,), zero unless the truncation is to be `diagonal`; None where n is too small."""
    n, q = G.shape
    if n <= 2 * (q + E.shape[1]):
        return None, np.zeros(n)
    if not diagonal:
        return np.linalg.qr(np.hstack([G, E]))[0], np.zeros(q + E.shape[1])
    left, singular = np.zeros((n, 0)), np.zeros(0)
    if E.shape[1]:
        left, singular, _ = np.linalg.svd(E, full_matrices=False)
    frame = np.linalg.qr(np.hstack([left, G]))[0]
    frame[:, : left.shape[1]] = left  # up to signs it is that already
    return frame, np.concatenate([singular**2, np.zeros(q)])


def _of_cells(block: _Block, a: Array, d: Array, parts: list[Array], sigma: Array) -> tuple[Array, Array]:
    """Return alpha and precision (S, n) of a block's cells from those of the reduced numbers."""
    if block.frame is None:
        precision = 1.0 / d - sum(np.sum(part**2, axis=2) for part in parts)
        return block.root * a, block.root**2 * precision
    Q, s2 = block.frame, sigma[:, block.group, None] ** 2
    precision = block.missing / s2 + (1.0 / d) @ (Q**2).T
    for part in parts:
        if part.shape[2]:
            precision = precision - np.sum(np.matmul(Q, part) ** 2, axis=2)
    return block.root * (block.outside / s2 + a @ Q.T), block.root**2 * precision


def _inverse_root(matrix: Array) -> tuple[Array, Array, Any]:
    """Return R with R R' the inverse of I + something positive, its log-determinant, and where precision is lost."""
    n = matrix.shape[-1]
    if n == 0:
        return matrix, np.zeros(len(matrix)), np.zeros(len(matrix), dtype=np.bool_)
    bad = ~(np.diagonal(matrix, axis1=1, axis2=2).max(axis=1) <= PRECISION) | ~np.isfinite(matrix).all(axis=(1, 2))
    good = np.where(bad[:, None, None], np.eye(n), 0.5 * (matrix + np.swapaxes(matrix, 1, 2)))
    try:
        root = np.linalg.cholesky(good)
        inverse = np.linalg.solve(root, np.broadcast_to(np.eye(n), root.shape))
        return np.swapaxes(inverse, 1, 2), 2.0 * np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1), bad
    except np.linalg.LinAlgError:  # rounding brings eigenvalues below 1, but never the truth
        values, vectors = np.linalg.eigh(good)
        values = np.maximum(values, 1.0)
        return vectors / np.sqrt(values)[:, None, :], np.log(values).sum(axis=1), bad


def _root(covariance: Array) -> Array:
    """Return R (..., k, k) with R R' the covariance, which may be singular."""
    if covariance.shape[-1] == 1:
        return np.sqrt(np.maximum(covariance, 0.0))
    values, vectors = np.linalg.eigh(np.where(np.isfinite(covariance), covariance, 0.0))
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0))[..., None, :])
