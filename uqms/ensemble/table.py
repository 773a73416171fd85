"""The convention that every ensemble follows, and functions that check and read ensembles.

An ensemble is an `xarray.Dataset` with the dimension ``run``:

=============  =====================  ====================================================================
variable       dims, dtype            attrs
=============  =====================  ====================================================================
an input       (run) float64          role="input", kind="parameter" | "condition", unit, description
an output      (run, ...) float64     role="output", unit; every further dim has a coordinate
``state``      (run) str              role="state"; how the run ended, in words (see `RunState`)
``seconds``    (run) float64          role="seconds"; NaN where the duration is unknown
``message``    (run) str              role="message"; why a run did not complete
``seed``       (run) int64            role="seed"; only for stochastic simulators
=============  =====================  ====================================================================

Optional coordinates along ``run`` are ``replicate`` (int64, numbers the runs at the same inputs) and ``fidelity``
(str). Outputs of runs that did not complete are NaN; partial runs have NaN only for the missing entries. The attributes
of the Dataset are ``uqms_format``, ``created``, ``versions`` and, if they are known, ``space``, ``box``, ``design`` and
``simulator`` (each JSON). Files hold ``state`` as int8 codes with their meanings, and so may Datasets of earlier
versions: read states with `run_states`, which accepts both.
"""

import json
from collections.abc import Hashable, Iterable

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from uqms._teaching import taught
from uqms._typing import Array
from uqms.ensemble.states import RunState, state_words
from uqms.errors import DataError, InputError
from uqms.parameters import Box, ParameterSpace

__all__ = [
    "FORMAT",
    "RESERVED",
    "check",
    "check_runs",
    "completed",
    "get_box",
    "get_space",
    "input_array",
    "input_names",
    "listed",
    "match_names",
    "missing_entries",
    "output_names",
    "refuse_gaps",
    "run_states",
]

FORMAT = "2"  # 2: runs with part of their outputs, seeds, replicates, fidelities
RESERVED = frozenset({"run", "state", "seconds", "message", "seed", "replicate", "fidelity", "cost"})


# ------------------------------------------------------------------------------------------------------------- reading
@taught
def input_names(ensemble: xr.Dataset) -> tuple[str, ...]:
    """Return the names of the inputs, in the order of the ensemble."""
    return _names(ensemble, "input")


@taught
def output_names(ensemble: xr.Dataset) -> tuple[str, ...]:
    """Return the names of the outputs, in the order of the ensemble."""
    return _names(ensemble, "output")


def _names(ensemble: xr.Dataset, role: str) -> tuple[str, ...]:
    return tuple(str(name) for name, v in ensemble.data_vars.items() if v.attrs.get("role") == role)


@taught
def input_array(ensemble: xr.Dataset, names: Iterable[str] | None = None) -> Array:
    """Return the inputs as one array.

    Parameters
    ----------
    ensemble
        An ensemble or a design.
    names
        Names of the columns, in their order; by default all inputs.

    Returns
    -------
    Array
        ``x (n, d)``, one row per run and one column per input, in the unit of the input.

    Raises
    ------
    InputError
        When a name is not an input.
    """
    known = input_names(ensemble)
    wanted = known if names is None else tuple(names)
    for name in wanted:
        if name not in known:
            raise InputError(
                f"{name!r} is not an input of this ensemble; give names among its inputs, {listed(known)}."
            )
    if not wanted:
        return np.empty((ensemble.sizes.get("run", 0), 0))
    return np.stack([np.asarray(ensemble[name].values, dtype=np.float64) for name in wanted], axis=1)


@taught
def completed(ensemble: xr.Dataset) -> xr.Dataset:
    """Return the runs that completed, which gave all of their outputs.

    Surrogates are fitted to these runs, and to the outputs that partial runs gave.

    Examples
    --------
    >>> from uqms.ensemble import build
    >>> table = build({"a": [1.0, 2.0]}, {"y": [3.0, np.nan]}, states=["completed", "failed"])
    >>> completed(table).sizes["run"]
    1
    """
    return ensemble.isel(run=np.flatnonzero(_states_of(ensemble) == RunState.COMPLETED))


@taught
def run_states(ensemble: xr.Dataset) -> xr.DataArray:
    """Return how each run ended, in words, along the dimension ``run``.

    In an ensemble of this version, ``ensemble["state"]`` holds the same words, and
    ``ensemble["state"] == "failed"`` selects runs as well. Use this function for a Dataset that may hold integer codes:
    one that xarray read from a file, or that an earlier version made.

    Parameters
    ----------
    ensemble
        The table of runs.

    Returns
    -------
    xarray.DataArray
        "planned", "completed", "partial", "failed", "timeout" or "invalid" for each run, with the coordinates of the
        ensemble along ``run``.

    Raises
    ------
    DataError
        When `ensemble` is not a table of runs, or a value is neither the word nor the code of a state.

    Examples
    --------
    >>> from uqms.ensemble import build
    >>> table = build({"a": [1.0, 2.0]}, {"y": [3.0, np.nan]}, states=["completed", "failed"])
    >>> run_states(table).values.tolist()
    ['completed', 'failed']
    >>> run_states(table.assign(state=("run", [1, 2]))).values.tolist()
    ['completed', 'failed']
    """
    words = _states_of(ensemble)
    return ensemble["state"].copy(data=words).drop_attrs().rename("run_states")


@taught
def missing_entries(ensemble: xr.Dataset) -> xr.Dataset:
    """Return a Dataset of the outputs that is True where an entry is missing.

    Use it on an ensemble with runs in the state *partial*. All entries are True for runs that gave no outputs.

    Examples
    --------
    >>> from uqms.ensemble import build
    >>> table = build({"a": [1.0, 2.0]}, {"y": [3.0, np.nan], "z": [5.0, 6.0]}, states=["completed", "partial"])
    >>> missing_entries(table)["y"].values
    array([False,  True])
    """
    return xr.Dataset({name: ensemble[name].isnull() for name in output_names(ensemble)})


@taught
def get_space(ensemble: xr.Dataset) -> ParameterSpace | None:
    """Return the parameter space in the attributes of the ensemble, or None."""
    text = ensemble.attrs.get("space")
    return None if text is None else ParameterSpace.from_json(text)


@taught
def get_box(ensemble: xr.Dataset) -> Box:
    """Return the design box in the attributes of the ensemble, or else the range of its inputs.

    The box of the range has the scales of the parameter space (log for positive parameters), if the space is known.
    An input that does not vary gets a narrow range around its value.
    """
    text = ensemble.attrs.get("box")
    if text is not None:
        try:
            return Box.from_dict(json.loads(text))
        except (json.JSONDecodeError, TypeError) as error:
            raise DataError(
                f"uqms did not write the attribute 'box' of this ensemble ({error}); remove it: "
                "del ensemble.attrs['box']."
            ) from error
    names = input_names(ensemble)
    x = input_array(ensemble, names)
    if not x.size:
        raise DataError(
            "the ensemble has no runs or no inputs, so its design box is unknown; give the box when you make the "
            "ensemble: uq.ensemble.build(inputs, outputs, box=...)."
        )
    low, high = x.min(axis=0), x.max(axis=0)
    flat = low == high
    # A margin of a thousandth of the value keeps positive values positive, as a log scale requires.
    margin = np.where(flat, 1e-3 * np.where(low == 0, 1.0, np.abs(low)), 0.0)
    lower, upper = tuple((low - margin).tolist()), tuple((high + margin).tolist())
    space = get_space(ensemble)
    if space is None:
        return Box(names, lower, upper)
    prior = space.frame().select(names)
    hard = tuple(
        (h[0] and lo == plo, h[1] and hi == phi)
        for h, lo, plo, hi, phi in zip(prior.hard, lower, prior.lower, upper, prior.upper, strict=True)
    )
    return Box(names, lower, upper, prior.scale, hard)


# ------------------------------------------------------------------------------------------------------------ checking
@taught
def check(ensemble: xr.Dataset) -> None:
    """Raise an error if `ensemble` is not a valid ensemble; return nothing if it is.

    Use it on a Dataset that was not made by `build` or `run`, for example after you edited an ensemble.

    Raises
    ------
    DataError
        When the dataset is not a valid ensemble. The message names the variable and, when a number is not finite, the
        run and the coordinate.
    """
    state = check_runs(ensemble)
    outputs = output_names(ensemble)
    if not outputs:
        raise DataError(
            f"{_NO_ROLE.format(role='output')} After uq.run(..., collect=False) the outputs are in the run store: read "
            "them with uq.RunStore(path).ensemble()."
        )
    for name in outputs:
        _check_output(ensemble[name], state)
    _check_partial([ensemble[name] for name in outputs], state)


_NO_ROLE = (
    "no variable of this Dataset has the role '{role}'. Set ensemble['name'].attrs['role'] = '{role}' for every "
    "{role}, or make the ensemble with uq.ensemble.build(inputs, outputs)."
)


_ONE_PER_RUN = "{name} has dims {dims}, but it must have one value per run and the dims ('run',)."


def check_runs(ensemble: xr.Dataset) -> NDArray[np.str_]:
    """Check everything except the outputs, which ``uqms.run(..., collect=False)`` leaves out; return the states.

    Raises
    ------
    DataError
        When the dataset is not a valid ensemble. The message names the variable and, when a number is not finite, the
        run.
    """
    if not isinstance(ensemble, xr.Dataset):
        raise _no_dataset(ensemble)
    if "run" not in ensemble.dims:
        raise DataError(
            f"this Dataset has the dims {listed(ensemble.dims)}, but an ensemble needs the dim 'run'. Rename the dim "
            "that counts the runs, dataset.rename(sample='run'), or make the ensemble with uq.ensemble.build(inputs, "
            "outputs)."
        )
    for name in ensemble.variables:
        if not isinstance(name, str):
            raise DataError(
                f"a variable is called {name!r}; rename it to a string: dataset.rename({{{name!r}: 'name'}})."
            )
    inputs = input_names(ensemble)
    if not inputs:
        raise DataError(_NO_ROLE.format(role="input"))
    if ensemble.sizes["run"] == 0:
        raise DataError("the ensemble has no runs; give a Dataset with at least one row along the dim 'run'.")
    state = _states_of(ensemble)
    for name in inputs:
        _check_input(ensemble[name])
    for name in ("seconds", "message", "seed", "replicate", "fidelity"):
        if name in ensemble and ensemble[name].dims != ("run",):
            raise DataError(_ONE_PER_RUN.format(name=repr(name), dims=ensemble[name].dims))
    space = get_space(ensemble)
    if space is not None:
        match_names(inputs, space.inputs)
    return state


def _no_dataset(ensemble: object) -> DataError:
    fix = "make it with uq.ensemble.build(inputs, outputs)"
    if isinstance(ensemble, list | tuple):
        fix = "join several with uq.ensemble.combine(*ensembles)"
    return DataError(f"the ensemble is a {type(ensemble).__name__}, not an xarray.Dataset; {fix}.")


def _states_of(ensemble: xr.Dataset) -> NDArray[np.str_]:
    """Return the states in words, whether the Dataset holds words or codes.

    Raises
    ------
    DataError
        When the Dataset has no states, or a value is not a state.
    """
    if "state" not in ensemble:
        raise DataError(
            "this Dataset has no variable 'state', so it is not an ensemble of runs. Run a design with "
            "uq.run(simulator, design), or make an ensemble from existing runs with uq.ensemble.build(inputs, outputs)."
        )
    if ensemble["state"].dims != ("run",):
        raise DataError(_ONE_PER_RUN.format(name="'state'", dims=ensemble["state"].dims))
    return state_words(ensemble["state"].values, ensemble.sizes["run"])


def _check_dtype(name: Hashable, dtype: np.dtype) -> None:
    if dtype != np.float64:
        raise DataError(
            f"{name!r} has dtype {dtype}, but inputs and outputs must be float64; convert it with "
            f"ensemble[{name!r}].astype(float). uq.ensemble.build(inputs, outputs) converts all real numbers."
        )


def _check_input(column: xr.DataArray) -> None:
    if column.dims != ("run",):
        raise DataError(_ONE_PER_RUN.format(name=f"input {column.name!r}", dims=column.dims))
    _check_dtype(column.name, column.dtype)
    refuse_gaps(column.name, column.values)


def refuse_gaps(name: Hashable, values: Array) -> None:
    """Raise a DataError that names the first run in which the input is not finite."""
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        more = f" (and {bad.size - 1} more runs)" if bad.size > 1 else ""
        raise DataError(
            f"input {name!r} is {values[bad[0]]} in run {bad[0]}{more}, but every input must be a finite number. Give "
            "the number, or remove the run."
        )


def _check_output(output: xr.DataArray, state: NDArray[np.str_]) -> None:
    name = output.name
    if not output.dims or output.dims[0] != "run":
        raise DataError(
            f"output {name!r} has dims {output.dims}, but its first dim must be 'run': use "
            f"ensemble[{name!r}].transpose('run', ...)."
        )
    _check_dtype(name, output.dtype)
    for dim in output.dims[1:]:
        _check_coordinate(name, str(dim), output.coords[dim].values if dim in output.coords else None)
    values = output.values
    rows = state.reshape(-1, *(1,) * (values.ndim - 1))
    endless = np.isinf(values) & (rows != RunState.COMPLETED)
    if endless.any():
        where = tuple(np.argwhere(endless)[0])
        raise DataError(
            f"output {name!r} is {values[where]} in run {where[0]}, which did not complete; write NaN for values that "
            "are missing."
        )
    bad = ~np.isfinite(values) & (rows == RunState.COMPLETED)
    if bad.any():
        where = tuple(np.argwhere(bad)[0])
        at = "".join(
            f", {dim}={output.coords[dim].values[i]}" for dim, i in zip(output.dims[1:], where[1:], strict=True)
        )
        more = f" (and {int(bad.sum()) - 1} more values)" if bad.sum() > 1 else ""
        raise DataError(
            f"output {name!r} is {values[where]} in run {where[0]}{at}{more}, but the state of that run is "
            "'completed'. Set its state to 'failed', or to 'partial' if its other entries can be used: "
            "uq.ensemble.build(inputs, outputs, states=...)."
        )


def _check_partial(outputs: list[xr.DataArray], state: NDArray[np.str_]) -> None:
    """Raise when a run in the state 'partial' has all of its entries or none."""
    finite = [np.isfinite(o.values).reshape(len(state), -1) for o in outputs]
    some = np.any([f.any(axis=1) for f in finite], axis=0)
    every = np.all([f.all(axis=1) for f in finite], axis=0)
    for wrong, words, right in ((~some, "none of its outputs", "invalid"), (every, "all of its outputs", "completed")):
        rows = np.flatnonzero(wrong & (state == RunState.PARTIAL))
        if rows.size:
            raise DataError(
                f"the state of run {rows[0]} is 'partial', but it has {words}; set its state to {right!r}: "
                "uq.ensemble.build(inputs, outputs, states=...)."
            )


def _check_coordinate(name: Hashable, dim: str, values: NDArray[np.generic] | None) -> None:
    if values is None:
        raise DataError(
            f"dim {dim!r} of output {name!r} has no coordinate; add the positions of the values, "
            f"dataset.assign_coords({{{dim!r}: [...]}})."
        )
    if values.dtype.kind in "bcO" and not all(isinstance(place, str) for place in values[~pd.isna(values)]):
        raise DataError(
            f"coordinate {dim!r} of output {name!r} has values of mixed or unsupported types; give numbers only, "
            "strings only, or times only."
        )
    bad = pd.isna(values) | (np.isinf(values) if values.dtype.kind == "f" else False)
    if bad.any():
        raise DataError(
            f"coordinate {dim!r} of output {name!r} holds {values[bad][0]}; give a finite value for every position."
        )
    twice = pd.Index(values).duplicated()
    if twice.any():
        raise DataError(
            f"coordinate {dim!r} of output {name!r} has {values[twice][0]} twice; give every position once, and remove "
            "or average the repeated values."
        )


def match_names(got: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    """Raise a DataError unless `got` holds the names in `wanted`, in any order."""
    missing = [name for name in wanted if name not in got]
    extra = [name for name in got if name not in wanted]
    if missing or extra:
        parts = [f"{listed(missing)} missing"] * bool(missing) + [f"{listed(extra)} not in the space"] * bool(extra)
        raise DataError(
            f"the inputs are {listed(got)} but the space has {listed(wanted)} ({', '.join(parts)}); give every column "
            "the name of its input in the space."
        )


def listed(names: Iterable[Hashable]) -> str:
    """Return names for a message, each in quotes and separated by commas."""
    return ", ".join(repr(name) for name in names) or "none"
