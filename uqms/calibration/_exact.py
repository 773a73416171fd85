"""The Gaussian likelihood of a simulator that is used directly: without scores' errors it costs a sum over the cells.

Letters as in `_marginal`; C = R has noise and the error of interpolation between coordinates only, which is zero where
measurements were made at simulated coordinates. `test_direct` holds it equal to `_marginal` with S = 0.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from uqms._typing import Array
from uqms.calibration.likelihood import Cells, by_experiment

if TYPE_CHECKING:
    from uqms.calibration.problem import Calibration

__all__ = ["cell_means", "expression", "terms", "values"]

LOG_TWO_PI = float(np.log(2.0 * np.pi))
CHUNK = 2_000_000  # numbers in one block


def cell_means(cells: Cells, mean: Any) -> Any:
    """Return the prediction of every cell (..., N) from scores (..., K, q), arrays or tensors.

    A cell is one of the simulator's outputs, or, between its coordinates, a sum of several: (N, width) of them.
    """
    basis = sparse.csr_array(cells.basis)
    width = np.diff(basis.indptr)
    place = np.arange(int(width.max(initial=1))) < width[:, None]
    column, weight = np.zeros(place.shape, dtype=np.int64), np.zeros(place.shape)
    column[place], weight[place] = basis.indices, basis.data
    if place.shape[1] == 1 and (weight == 1.0).all() and not cells.offset.any():
        return mean[..., cells.experiment, column[:, 0]]
    return cells.offset + (mean[..., cells.experiment[:, None], column] * weight).sum(axis=-1)


def values(problem: "Calibration", theta: Mapping[str, Array]) -> Iterator[Array]:
    """Yield the log-likelihoods (1, s) alone: a sum of squares by noise group where nothing is interpolated."""
    cells, groups = problem.cells, len(problem.noise.outputs)
    if any(factor.shape[1] for factor in cells.factors):
        yield from (found for _, found, _, _ in terms(problem, theta))
        return
    row, count = cells.row_cell, np.bincount(cells.row_group, minlength=groups)
    root, zbar = np.sqrt(cells.weight), cells.cell_mean
    within = np.bincount(cells.row_group, (cells.z - zbar[row]) ** 2 / cells.row_variance, groups)
    constant = -0.5 * (len(row) * LOG_TWO_PI + np.log(cells.row_variance).sum())
    size = max(1, CHUNK // max(cells.experiments * cells.basis.shape[1], len(zbar)))
    for start in range(0, len(next(iter(theta.values()))), size):
        now = {name: given[start : start + size] for name, given in theta.items()}
        mean = problem.surrogate.scores(problem.unit_inputs(now)).mean[0]
        residual = root * (zbar - cells.offset - cells.at(mean))
        squares = [np.einsum("sn,sn->s", part, part) for part in (residual[:, cells.group == g] for g in range(groups))]
        sigma = problem.noise.values(now, (len(mean),))
        found = constant - np.sum(count * np.log(sigma) + 0.5 * (within + np.stack(squares, 1)) / sigma**2, axis=1)
        yield np.where(np.isnan(residual).any(axis=1), -np.inf, found)[None]


def terms(problem: "Calibration", theta: Mapping[str, Array]) -> Iterator[tuple[Array, Array, Array, Array]]:
    """Yield what `Calibration.log_likelihood_terms` does; where the simulator fails, the log-likelihood is -inf."""
    cells, surrogate = problem.cells, problem.surrogate
    factor, row = by_experiment(cells), cells.row_cell
    weight, zbar = cells.weight, cells.cell_mean
    count = np.bincount(row, minlength=len(zbar))
    squares = np.bincount(row, (cells.z - zbar[row]) ** 2 / cells.row_variance, minlength=len(zbar))
    constant = -0.5 * (len(row) * LOG_TWO_PI + np.log(cells.row_variance).sum() + np.log(weight).sum())
    total = len(next(iter(theta.values())))
    size = max(1, CHUNK // max(cells.experiments * cells.basis.shape[1], len(zbar) * max(1, factor.shape[1])))
    for start in range(0, total, size):
        now = {name: values[start : start + size] for name, values in theta.items()}
        predicted = cells.offset + cells.at(surrogate.scores(problem.unit_inputs(now)).mean[0])
        sigma = np.ascontiguousarray(problem.noise.values(now, (len(predicted),)))
        variance = sigma[:, cells.group] ** 2
        alpha, precision = (zbar - predicted) * weight / variance, weight / variance
        quadratic = np.sum((zbar - predicted) * alpha, axis=1)
        log_det = np.sum(np.log(variance / weight), axis=1)
        if factor.shape[1]:
            scaled = factor * precision[:, :, None]  # D^-1 E
            inner = np.eye(factor.shape[1]) + factor.T @ scaled
            lower = np.linalg.cholesky(inner)
            half = np.linalg.solve(lower, scaled.transpose(0, 2, 1))
            projected = np.einsum("stn,sn->st", half, zbar - predicted)
            quadratic -= np.sum(projected**2, axis=1)
            alpha = alpha - np.einsum("stn,st->sn", half, projected)
            precision = precision - np.sum(half**2, axis=1)
            log_det += 2.0 * np.sum(np.log(np.diagonal(lower, axis1=1, axis2=2)), axis=1)
        replicates = np.sum(0.5 * (count - 1) * np.log(variance) + 0.5 * squares / variance, axis=1)
        value = constant - replicates - 0.5 * (log_det + quadratic)
        yield sigma, np.where(np.isnan(predicted).any(axis=1), -np.inf, value)[None], alpha[None], precision[None]


def expression(cells: Cells, mean: Any, sigma: Any, z: Any) -> Any:
    """Return the log-likelihood of rows z (R,) as a PyTensor expression of scores (K, q) and noise sds (groups,)."""
    import pytensor.tensor as pt

    row = cells.row_cell
    residual = z - cell_means(cells, mean)[row]
    precision = 1.0 / (sigma[cells.group[row]] ** 2 * cells.row_variance)
    total = 0.5 * pt.sum(pt.log(precision) - residual**2 * precision) - 0.5 * len(row) * LOG_TWO_PI
    factor = by_experiment(cells)[row]
    if factor.shape[1]:
        inner = np.eye(factor.shape[1]) + pt.dot(factor.T, precision[:, None] * factor)
        lower = pt.linalg.cholesky(inner)
        projected = pt.linalg.solve_triangular(lower, pt.dot(factor.T, precision * residual), lower=True)
        total += 0.5 * pt.sum(projected**2) - pt.sum(pt.log(pt.diag(lower)))
    return pt.switch(pt.isnan(total), -np.inf, total)
