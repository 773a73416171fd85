"""Intervals from resampled estimates, and outputs of runs as arrays.

==========  ===============================================================  ===========
symbol      meaning                                                          shape
==========  ===============================================================  ===========
B           resamples
n           independent things that were resampled (trajectories, runs)
w           weights of the things, one row a resample                        (B, n)
==========  ===============================================================  ===========
"""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from scipy.special import ndtr, stdtrit

from uqms import ensemble as table
from uqms._typing import Array
from uqms.errors import DataError, InputError

__all__ = [
    "bayesian_weights",
    "chosen_outputs",
    "equal_tailed",
    "one_of",
    "output_values",
    "values_at",
    "with_bounds",
]


def one_of(indices: Mapping[str, xr.Dataset], output: str, owner: str) -> xr.Dataset:
    """Return what was found of one output.

    Raises
    ------
    InputError
        When there is none of that name.
    """
    if output not in indices:
        raise InputError(f"{owner}: there is no output {output!r}; there are {', '.join(indices)}.")
    return indices[output]


def with_bounds(estimate: xr.DataArray, lower: Array, upper: Array) -> xr.DataArray:
    """Return estimate, lower and upper end along a new dim "bound"."""
    return xr.DataArray(
        np.stack([estimate.values, lower, upper]),
        dims=("bound", *estimate.dims),
        coords={"bound": ["estimate", "lower", "upper"], **estimate.coords},
        attrs=dict(estimate.attrs),
    )


def bayesian_weights(n: int, count: int, rng: np.random.Generator) -> Array:
    """Return weights (count, n) of the Bayesian bootstrap (Rubin 1981, doi:10.1214/aos/1176345338), of mean 1.

    None of them is zero, so that a mean over few things exists in every resample.
    """
    w = rng.standard_exponential((count, n))
    return np.asarray(w / w.mean(axis=1, keepdims=True))


def equal_tailed(resampled: Array, n: Array | float, prob: float) -> tuple[Array, Array]:
    """Return the ends of an equal-tailed interval over the first axis of estimates that were resampled from n things.

    Levels are widened as Student's t is beyond the normal law, and for the bootstrap's variance, which is (n - 1) /
    (n + 1) of the unbiased one: percentiles of 10 things would cover about 90 % (Hesterberg 2015,
    doi:10.1080/00031305.2015.1089789).
    """
    n = np.broadcast_to(np.asarray(n, dtype=np.float64), resampled.shape[1:])
    few = np.maximum(n, 2.0)
    tail = ndtr(np.sqrt((few + 1.0) / (few - 1.0)) * stdtrit(few - 1.0, 0.5 - 0.5 * prob))
    ordered = np.sort(resampled, axis=0)
    return values_at(ordered, tail), values_at(ordered, 1.0 - tail)


def values_at(ordered: Array, level: Array) -> Array:
    """Return the quantiles of increasing values (B, ...) at levels (...)."""
    place = level * (len(ordered) - 1)
    below = np.minimum(np.floor(place).astype(np.int64), len(ordered) - 2)
    low, high = (np.take_along_axis(ordered, (below + i)[None], 0)[0] for i in (0, 1))
    return np.asarray(low + (place - below) * (high - low))


def chosen_outputs(owner: str, ensemble: xr.Dataset, outputs: object) -> tuple[str, ...]:
    """Return the outputs that were asked for, all by default.

    Raises
    ------
    InputError
        When one of them is not there.
    DataError
        When the runs are of several levels of fidelity.
    """
    if "fidelity" in ensemble.coords and len(levels := sorted(set(map(str, ensemble["fidelity"].values)))) > 1:
        raise DataError(
            f"{owner}: the ensemble has runs of several levels of fidelity, {levels}; choose one: "
            f"ensemble.isel(run=ensemble.fidelity == {levels[-1]!r})."
        )
    known = table.output_names(ensemble)
    if outputs is None:
        return known
    wanted = (outputs,) if isinstance(outputs, str) else tuple(outputs)  # type: ignore[arg-type]
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise InputError(f"{owner}: outputs is {outputs!r}; the ensemble has {', '.join(known)}.")
    return wanted


def output_values(ensemble: xr.Dataset, name: str) -> tuple[Array, tuple[str, ...], Mapping[str, Array]]:
    """Return an output (run, ...), NaN where a run has none, with its other dims and their coordinates."""
    values = ensemble[name].transpose("run", ...)
    dims = tuple(str(dim) for dim in values.dims[1:])
    array = np.asarray(values.values, dtype=np.float64)
    if np.isinf(array).any():
        raise DataError(f"output {name!r} has infinite values in run {int(np.argwhere(np.isinf(array))[0][0])}.")
    return array, dims, {dim: values[dim].values for dim in dims}
