"""Planted bugs of the likelihood: mistakes that are easily made, which simulation-based calibration has to find."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from uqms._typing import Array, ArrayLike
from uqms.calibration import SingleCalibration
from uqms.errors import InputError
from uqms.testing.planted import with_covariance

__all__ = ["LIKELIHOOD_BUGS", "LikelihoodBug"]

IGNORED = 1e12  # relative variance of rows that are to say nothing
NEGLIGIBLE = 1e-12

LogLikelihood = Callable[[SingleCalibration, Mapping[str, ArrayLike]], Array]


class LikelihoodBug(NamedTuple):
    """A mistake of the likelihood; `uqms.testing.LIKELIHOOD_BUGS` holds those that the diagnostics are tried on.

    Attributes
    ----------
    name
        The mistake.
    wrong
        From the right likelihood, a problem and parameters to the wrong value.

    Examples
    --------
    >>> [bug.name for bug in LIKELIHOOD_BUGS][:2]
    ['surrogate variance dropped', 'sd in place of the variance']
    """

    name: str
    wrong: Callable[[LogLikelihood, SingleCalibration, Mapping[str, ArrayLike]], Array]

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Make `log_likelihood` of every `SingleCalibration` wrong in a ``with`` block, also of others' problems.

        Samplers that compile a model of their own, as NUTS does, do not call it and stay right.
        """
        right = SingleCalibration.log_likelihood

        def log_likelihood(
            problem: SingleCalibration, theta: Mapping[str, ArrayLike], latents: ArrayLike | None = None
        ) -> Array:
            def given(other: SingleCalibration, values: Mapping[str, ArrayLike]) -> Array:
                return right(other, values, latents)

            return self.wrong(given, problem, theta)

        SingleCalibration.log_likelihood = log_likelihood  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            SingleCalibration.log_likelihood = right  # type: ignore[method-assign]


def _other_errors(
    change: Callable[[Array], Array],
) -> Callable[[LogLikelihood, SingleCalibration, Mapping[str, ArrayLike]], Array]:
    """Return the likelihood with other variances (..., k, k) of the surrogate's errors, truncation included."""

    def wrong(right: LogLikelihood, problem: SingleCalibration, theta: Mapping[str, ArrayLike]) -> Array:
        if problem.cells.by_input is not None or problem.data_model.correlated_scores:
            raise InputError("This bug is planted in scores that are independent and rows that are fixed over the box.")
        rows = np.sum(problem.cells.truncation**2, axis=1)
        factor = change(rows[:, None, None])[:, 0, 0] / np.maximum(rows, 1e-300)
        cells = replace(problem.cells, truncation=problem.cells.truncation * np.sqrt(factor)[:, None])
        surrogate = with_covariance(problem.surrogate, change)
        return right(problem.with_data_model(surrogate=surrogate, cells=cells), theta)

    return wrong


def _sd_for_variance(covariance: Array) -> Array:
    sd = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
    return np.asarray(covariance / np.sqrt(np.maximum(sd[..., :, None] * sd[..., None, :], 1e-300)))


def _doubled(right: LogLikelihood, problem: SingleCalibration, theta: Mapping[str, ArrayLike]) -> Array:
    return 2.0 * right(problem, theta)


def _no_data(right: LogLikelihood, problem: SingleCalibration, theta: Mapping[str, ArrayLike]) -> Array:
    return np.zeros(np.broadcast_shapes(*(np.shape(values) for values in theta.values())))


def _first_output(right: LogLikelihood, problem: SingleCalibration, theta: Mapping[str, ArrayLike]) -> Array:
    cells = problem.cells
    first = cells.output[cells.row_cell] == cells.output[0]
    cells = replace(cells, row_variance=np.where(first, cells.row_variance, IGNORED * cells.row_variance))
    return right(problem.with_data_model(cells=cells), theta)


def _no_determinant(right: LogLikelihood, problem: SingleCalibration, theta: Mapping[str, ArrayLike]) -> Array:
    """Return the log-likelihood without its normalisation: -1/2 residual' C^-1 residual, replicates included.

    Raises
    ------
    InputError
        Where errors are not all normal: there is no determinant.
    """
    if problem.latents:
        raise InputError("The bug 'determinant left out' is one of normal errors; errors of this problem are not.")
    arrays = np.broadcast_arrays(*(np.asarray(values, dtype=np.float64) for values in theta.values()))
    flat = {name: array.ravel() for name, array in zip(theta, arrays, strict=True)}
    cells = problem.cells
    off = (cells.z - cells.cell_mean[cells.row_cell]) ** 2 / cells.row_variance
    within = np.bincount(cells.row_cell, off, minlength=len(cells.offset))
    found, start = [], 0
    for sigma, log_values, alpha, _ in problem.log_likelihood_terms(flat):
        rows = slice(start, start + len(sigma))
        start += len(sigma)
        joint = problem.data_model.joint_error(
            problem.unit_inputs({name: values[rows] for name, values in flat.items()})
        )
        scores, mean = joint.scores, joint.mean
        for group, place in problem.noise.factors.items():
            mean[:, :, cells.group == group] *= 1.0 + sigma[:, place, None]
        quadratic = np.sum((cells.cell_mean - cells.responded(mean)[0]) * alpha, axis=-1)
        repeated = within > 0.0
        quadratic += np.sum(within[repeated] / sigma[:, cells.group[repeated]] ** 2, axis=-1)
        value = np.logaddexp.reduce(scores.log_weights[:, None] - 0.5 * quadratic, axis=0)
        found.append(np.where(np.isfinite(log_values).any(axis=0), value, -np.inf))
    return np.concatenate(found).reshape(arrays[0].shape)


LIKELIHOOD_BUGS = (
    LikelihoodBug("surrogate variance dropped", _other_errors(lambda c: NEGLIGIBLE * c)),
    LikelihoodBug("sd in place of the variance", _other_errors(_sd_for_variance)),
    LikelihoodBug("likelihood counted twice", _doubled),
    LikelihoodBug("data ignored", _no_data),
    LikelihoodBug("one output only", _first_output),
    LikelihoodBug("determinant left out", _no_determinant),
    LikelihoodBug("surrogate variance doubled", _other_errors(lambda c: 2.0 * c)),
)
