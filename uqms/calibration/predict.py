"""Prediction after calibration: the simulator's output given the data, draw by draw in closed form.

For each posterior draw of the parameters, observed cells and points to predict are jointly Gaussian: their scores'
errors are correlated as their inputs are, truncation is shared where the input is the same. Conditioning on the data
leaves the prediction; draws of the error that ignore the data would make bands several times too wide.

==========  ===============================================================  =================
symbol      meaning                                                          shape
==========  ===============================================================  =================
s           posterior draws                                                  S
T           observed cells and points to predict together, N + P             T
joint       covariance of the output at all T, without noise                 (S, T, T)
==========  ===============================================================  =================
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import xarray as xr

from uqms._typing import Array, Ints
from uqms.calibration.direct import is_exact
from uqms.calibration.likelihood import Cells, check_conditions, merge_close
from uqms.calibration.problem import Calibration
from uqms.errors import DataError, InputError

__all__ = ["Moments", "PosteriorPrediction", "Targets", "conditional_moments", "own_cells"]

CHUNK = 4_000_000  # numbers in one covariance block


@final
@dataclass(frozen=True, eq=False)
class Targets:
    """Points to predict: which input each belongs to, and its rows of the decoder."""

    conditions: Array  # (n, conditions), own units
    experiment: Ints  # (P,)
    offset: Array  # (P,)
    basis: Array  # (P, q)
    truncation: Array  # (P, t)


@final
@dataclass(frozen=True, eq=False)
class Moments:
    """Mean (S, P) and covariance (S, P, P) of the output at the targets, for each posterior draw."""

    mean: Array
    covariance: Array


def own_cells(cells: Cells) -> Targets:
    """Return the observed cells themselves as targets."""
    return Targets(cells.conditions, cells.experiment, cells.offset, cells.basis, cells.truncation)


def _different(problem: Calibration, targets: Targets) -> tuple[Array, Ints]:
    """Return the different conditions (K, c), and which of them each of the observed and the targets' has."""
    conditions = np.vstack([problem.cells.conditions, targets.conditions])
    if not conditions.shape[1]:
        return conditions[:1], np.zeros(len(conditions), dtype=np.int64)  # without conditions there is one input
    merged = merge_close(problem.surrogate, problem.condition_names, conditions)
    conditions, place = np.unique(merged, axis=0, return_inverse=True)
    return conditions, place.reshape(-1)


def _joint_moments(problem: Calibration, theta: Mapping[str, Array], h: Ints, targets: Targets) -> tuple[Array, Array]:
    """Return mean (S, T) and covariance (S, T, T) of the output at observed cells and targets."""
    cells = problem.cells
    conditions, place = _different(problem, targets)
    index = np.concatenate(
        [place[: cells.experiments][cells.experiment], place[cells.experiments :][targets.experiment]]
    )
    basis = np.vstack([cells.basis, targets.basis])
    truncation = np.vstack([cells.truncation, targets.truncation])
    offset = np.concatenate([cells.offset, targets.offset])
    scores = problem.surrogate.scores(problem.unit_inputs(theta, conditions))
    draws = np.arange(len(h))
    means, covariances = scores.mean[h, draws], scores.covariance[h, draws]
    mean = offset + np.einsum("snq,nq->sn", means[:, index, :], basis)
    joint = np.zeros((len(h), len(index), len(index)))
    for j in range(0 if is_exact(problem.surrogate) else basis.shape[1]):
        joint += covariances[:, j][:, index[:, None], index[None, :]] * (basis[:, j, None] * basis[:, j])
    joint += (index[:, None] == index[None, :]) * (truncation @ truncation.T)
    return mean, joint


def conditional_moments(
    problem: Calibration, theta: Mapping[str, Array], h: Ints, targets: Targets
) -> Iterator[tuple[slice, Moments]]:
    """Yield the moments at the targets given the data, a block of posterior draws at a time.

    Parameters
    ----------
    problem
        The calibration.
    theta
        Draws of everything inferred, each (S,).
    h
        Hyperparameter draw of each posterior draw, (S,).
    targets
        Points to predict.
    """
    cells = problem.cells
    problem.check_errors_between(
        _different(problem, targets)[0], "Prediction at other conditions than the observed one"
    )
    n, total = len(cells.offset), len(cells.offset) + len(targets.offset)
    inputs = cells.experiments + len(targets.conditions)
    size = max(1, CHUNK // max(total * total, problem.cells.basis.shape[1] * inputs * inputs))
    for start in range(0, len(h), size):
        rows = slice(start, min(start + size, len(h)))
        part = {name: values[rows] for name, values in theta.items()}
        mean, joint = _joint_moments(problem, part, h[rows], targets)
        if not joint.any():  # a simulator that is used directly: the data say nothing of an error that is not there
            yield rows, Moments(mean[:, n:], joint[:, n:, n:])
            continue
        sigma = problem.noise.values(part, (len(h[rows]),))[:, cells.group]
        data = joint[:, :n, :n].copy()
        data[:, np.arange(n), np.arange(n)] += sigma**2 / cells.weight
        gain = np.linalg.solve(data, joint[:, :n, n:])  # C^-1 Cov(z, y*), (S, N, P)
        residual = cells.cell_mean - mean[:, :n]
        posterior_mean = mean[:, n:] + np.einsum("snp,sn->sp", gain, residual)
        covariance = joint[:, n:, n:] - joint[:, n:, :n] @ gain
        yield rows, Moments(posterior_mean, 0.5 * (covariance + covariance.transpose(0, 2, 1)))


def draw_jointly(moments: Moments, rng: np.random.Generator) -> Array:
    """Return one joint draw (S, P) a posterior draw."""
    p = moments.mean.shape[1]
    if not moments.covariance.any():  # of a simulator that is used directly
        return moments.mean
    # Outputs of very different units stand in one covariance: a jitter is relative to each entry, never to their mean.
    sd = np.sqrt(np.maximum(np.diagonal(moments.covariance, axis1=1, axis2=2), 1e-300))
    covariance = moments.covariance / (sd[:, :, None] * sd[:, None, :])
    covariance[:, np.arange(p), np.arange(p)] += 1e-10
    try:
        root = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    z = rng.standard_normal(moments.mean.shape)
    return np.asarray(moments.mean + sd * np.einsum("spr,sr->sp", root, z))


@final
@dataclass(frozen=True, eq=False)
class PosteriorPrediction:
    """Prediction of outputs after calibration.

    Attributes
    ----------
    mean, sd
        By law of total variance from the closed form of each posterior draw; datasets with the outputs' dims (and
        "condition" when several were asked for).
    draws
        Joint draws of whole curves, with a leading dim "sample".
    holds
        Which uncertainties are in it: "parameters", "surrogate" and, when asked for, "noise".
    """

    mean: xr.Dataset
    sd: xr.Dataset
    draws: xr.Dataset
    holds: tuple[str, ...]

    def interval(self, prob: float = 0.95) -> xr.Dataset:
        """Return equal-tailed intervals of the draws, dim "bound" with "lower" and "upper".

        Raises
        ------
        InputError
            When `prob` is not between 0 and 1.
        """
        if not 0.0 < prob < 1.0:
            raise InputError(f"interval: prob is {prob!r}; give a probability between 0 and 1.")
        tail = 0.5 * (1.0 - prob)
        bounds = self.draws.quantile([tail, 1.0 - tail], dim="sample").rename(quantile="bound")
        return bounds.assign_coords(bound=["lower", "upper"])


@final
@dataclass(frozen=True, eq=False)
class Grid:
    """Targets of one output on the outer product of conditions and coordinates."""

    output: str
    targets: Targets
    conditions: Mapping[str, Array]
    scalar: bool
    coords: Mapping[str, Array]

    def labelled(self, values: Array, lead: tuple[str, ...], unit: str) -> xr.DataArray:
        """Return values (..., P) with named dims."""
        sizes = [len(column) for column in self.coords.values()]
        count = len(self.targets.conditions)
        shaped = values.reshape(*values.shape[:-1], count, *sizes)
        labels = {name: ("condition", column) for name, column in self.conditions.items()}
        out = xr.DataArray(
            shaped,
            dims=(*lead, "condition", *self.coords),
            coords={**self.coords, **labels},
            name=self.output,
            attrs={"unit": unit},
        )
        return out.isel(condition=0) if self.scalar else out


def make_grid(
    problem: Calibration,
    output: str,
    conditions: Mapping[str, object] | None,
    coords: Mapping[str, object] | None,
) -> Grid:
    """Return the targets of an output for conditions and coordinates that a user gave (None: all there are).

    Raises
    ------
    InputError
        Unknown or missing conditions or dims.
    ExtrapolationError
        Outside of what was simulated.
    """
    layout = problem.surrogate.layouts[output]
    names = problem.condition_names
    columns, scalar = _conditions(problem, conditions)
    axes = {dim: np.atleast_1d(np.asarray((coords or layout.coords)[dim], dtype=np.float64)) for dim in layout.dims}
    mesh = np.meshgrid(*axes.values(), indexing="ij")
    points = {dim: grid.ravel() for dim, grid in zip(axes, mesh, strict=True)}
    offset, basis, truncation = problem.surrogate.decode(output, points if layout.dims else None)
    count, p = len(columns), len(offset)
    targets = Targets(
        conditions=columns,
        experiment=np.repeat(np.arange(count), p),
        offset=np.tile(offset, count),
        basis=np.tile(basis, (count, 1)),
        truncation=np.tile(truncation, (count, 1)),
    )
    return Grid(output, targets, dict(zip(names, columns.T, strict=True)), scalar, axes)


def _conditions(problem: Calibration, given: Mapping[str, object] | None) -> tuple[Array, bool]:
    names = problem.condition_names
    if given is None:
        return problem.cells.conditions, problem.cells.experiments == 1
    if set(given) != set(names):
        raise InputError(
            f"predict: got conditions {sorted(given)}, the surrogate has {list(names)}. Give each of them."
        )
    arrays = [np.asarray(given[name], dtype=np.float64) for name in names]
    if any(array.ndim > 1 for array in arrays):
        raise DataError("predict: conditions are numbers or one-dimensional arrays of one length.")
    count = max((array.size for array in arrays), default=1)
    if any(array.size not in (1, count) for array in arrays):
        raise DataError(f"predict: conditions have lengths {[array.size for array in arrays]}; give one length.")
    columns = (
        np.column_stack([np.broadcast_to(array.ravel(), count) for array in arrays]) if names else np.zeros((1, 0))
    )
    check_conditions(problem.surrogate, names, columns)
    return columns, all(array.ndim == 0 for array in arrays)
