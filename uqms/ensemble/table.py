"""The table's convention: what an ensemble is, how it is checked and read.

An ensemble is an `xarray.Dataset` with dim ``run``:

=============  =====================  ====================================================================
variable       dims, dtype            attrs
=============  =====================  ====================================================================
an input       (run) float64          role="input", kind="parameter" | "condition", unit, description
an output      (run, ...) float64     role="output", unit; every further dim has a coordinate
``state``      (run) int8             role="state", flag_values, flag_meanings (see `RunState`)
``seconds``    (run) float64          role="seconds"; NaN where it is not known
``message``    (run) str              role="message"; why a run did not complete
``seed``       (run) int64            role="seed"; only of simulators with chance
=============  =====================  ====================================================================

Coordinates along ``run``, where they are meant: ``replicate`` (int64, counts runs at the same inputs) and ``fidelity``
(str). Outputs of runs that did not complete are NaN, those of partial runs where an entry is missing. The Dataset's
attrs carry ``uqms_format``, ``created``, ``versions`` and, where they are known, ``space``, ``box``, ``design``,
``simulator`` (each JSON).
"""

import json
from collections.abc import Hashable, Iterable

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from uqms._teaching import taught
from uqms._typing import Array
from uqms.ensemble.states import RunState, state_codes
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
    """Return the names of the inputs, in their order."""
    return _names(ensemble, "input")


@taught
def output_names(ensemble: xr.Dataset) -> tuple[str, ...]:
    """Return the names of the outputs, in their order."""
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
        Columns and their order; all of the inputs by default.

    Returns
    -------
    Array
        ``x (n, d)``, rows are runs, each column in its input's own unit.

    Raises
    ------
    InputError
        When a name is not an input.
    """
    known = input_names(ensemble)
    wanted = known if names is None else tuple(names)
    for name in wanted:
        if name not in known:
            raise InputError(f"{name!r} is not an input of this ensemble; its inputs are {listed(known)}.")
    if not wanted:
        return np.empty((ensemble.sizes.get("run", 0), 0))
    return np.stack([np.asarray(ensemble[name].values, dtype=np.float64) for name in wanted], axis=1)


@taught
def completed(ensemble: xr.Dataset) -> xr.Dataset:
    """Return the runs that completed; surrogates are fitted to these and to what partial runs gave.

    Examples
    --------
    >>> from uqms.ensemble import build
    >>> table = build({"a": [1.0, 2.0]}, {"y": [3.0, np.nan]}, states=["completed", "failed"])
    >>> completed(table).sizes["run"]
    1
    """
    if "state" not in ensemble:
        raise DataError(
            "this Dataset has no variable 'state': it is no ensemble of runs. Run a design by uq.run(simulator, "
            "design), or make an ensemble of runs that you have by uq.ensemble.build(inputs, outputs)."
        )
    return ensemble.isel(run=np.flatnonzero(ensemble["state"].values == RunState.COMPLETED))


@taught
def run_states(ensemble: xr.Dataset) -> xr.DataArray:
    """Return how each run ended, in words, along the dimension ``run``.

    The variable ``state`` holds integer codes, which files and figures use. Comparing the codes with a word is False
    for every run. Compare the result of this function instead.

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
        When `ensemble` is no table of runs, or a code is not that of a state.

    Examples
    --------
    >>> from uqms.ensemble import build
    >>> table = build({"a": [1.0, 2.0]}, {"y": [3.0, np.nan]}, states=["completed", "failed"])
    >>> run_states(table).values.tolist()
    ['completed', 'failed']
    >>> table.isel(run=run_states(table) == "failed")["a"].values
    array([2.])
    """
    words = [RunState(code).name.lower() for code in _check_state(ensemble)]
    return ensemble["state"].copy(data=words).drop_attrs().rename("run_states")


@taught
def missing_entries(ensemble: xr.Dataset) -> xr.Dataset:
    """Return where outputs are missing: a Dataset of the outputs, True where a run gave no value.

    Use it on an ensemble with runs that ended in the state *partial*; runs without any output are True throughout.

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
    """Return the parameter space that the ensemble carries, or None."""
    text = ensemble.attrs.get("space")
    return None if text is None else ParameterSpace.from_json(text)


@taught
def get_box(ensemble: xr.Dataset) -> Box:
    """Return the design box: the one that the ensemble carries, else the range of its inputs.

    The range is taken on the scale that the parameter space names (log for positive parameters), or as it is where no
    space is known. An input that never changes gets a narrow range around its value.
    """
    text = ensemble.attrs.get("box")
    if text is not None:
        try:
            return Box.from_dict(json.loads(text))
        except (json.JSONDecodeError, TypeError) as error:
            raise DataError(f"the attribute 'box' is no box that uqms wrote ({error}); drop it.") from error
    names = input_names(ensemble)
    x = input_array(ensemble, names)
    if not x.size:
        raise DataError("the ensemble has no runs or no inputs, so its design box is not known; give box= to build.")
    low, high = x.min(axis=0), x.max(axis=0)
    flat = low == high
    # One part in a thousand keeps a positive value positive, so that a log scale still works.
    margin = np.where(flat, 1e-3 * np.where(low == 0, 1.0, np.abs(low)), 0.0)
    lower, upper = tuple((low - margin).tolist()), tuple((high + margin).tolist())
    space = get_space(ensemble)
    if space is None:
        return Box(names, lower, upper)
    prior = space.box().select(names)
    hard = tuple(
        (h[0] and lo == plo, h[1] and hi == phi)
        for h, lo, plo, hi, phi in zip(prior.hard, lower, prior.lower, upper, prior.upper, strict=True)
    )
    return Box(names, lower, upper, prior.scale, hard)


# ------------------------------------------------------------------------------------------------------------ checking
@taught
def check(ensemble: xr.Dataset) -> None:
    """Raise when `ensemble` does not follow the convention; say nothing when it does.

    Use it on a Dataset that did not come from `build` or `run`, for instance after your own editing.

    Raises
    ------
    DataError
        Names the variable, and the run and coordinate where a number is not finite.
    """
    state = check_runs(ensemble)
    outputs = output_names(ensemble)
    if not outputs:
        raise DataError(
            f"{_NO_ROLE.format(role='output')} After run(..., collect=False) they are in the store: export it."
        )
    for name in outputs:
        _check_output(ensemble[name], state)
    _check_partial([ensemble[name] for name in outputs], state)


_NO_ROLE = (
    "no variable has the role {role}; set its attrs['role'] = '{role}' or make the table with ensemble.build(...)."
)


def check_runs(ensemble: xr.Dataset) -> NDArray[np.int8]:
    """Check all but the outputs, which `uqms.run` leaves in the store where it is told so; return the states.

    Raises
    ------
    DataError
        Names the variable, and the run where a number is not finite.
    """
    if not isinstance(ensemble, xr.Dataset):
        raise DataError(f"an ensemble is an xarray.Dataset, not a {type(ensemble).__name__}; see ensemble.build(...).")
    if "run" not in ensemble.dims:
        raise DataError(f"an ensemble has the dim 'run', this Dataset has the dims {listed(ensemble.dims)}.")
    for name in ensemble.variables:
        if not isinstance(name, str):
            raise DataError(f"a variable is called {name!r}; give each a name that is a text.")
    inputs = input_names(ensemble)
    if not inputs:
        raise DataError(_NO_ROLE.format(role="input"))
    if ensemble.sizes["run"] == 0:
        raise DataError("the ensemble has no runs.")
    state = _check_state(ensemble)
    for name in inputs:
        _check_input(ensemble[name])
    for name in ("seconds", "message", "seed", "replicate", "fidelity"):
        if name in ensemble and ensemble[name].dims != ("run",):
            raise DataError(f"{name!r} has dims {ensemble[name].dims}; it has one value for each run, dims ('run',).")
    space = get_space(ensemble)
    if space is not None:
        match_names(inputs, space.inputs)
    return state


def _check_state(ensemble: xr.Dataset) -> NDArray[np.int8]:
    if "state" not in ensemble:
        raise DataError(
            "the ensemble has no variable 'state': it is no table of runs. Run a design by uq.run(simulator, design), "
            "or make the table of runs that you have with uq.ensemble.build(...)."
        )
    if ensemble["state"].dims != ("run",):
        raise DataError(f"'state' has dims {ensemble['state'].dims}; it has one value for each run, dims ('run',).")
    return state_codes(ensemble["state"].values, ensemble.sizes["run"])


def _check_dtype(name: Hashable, dtype: np.dtype) -> None:
    if dtype != np.float64:
        raise DataError(f"{name!r} has dtype {dtype}, it must be float64; ensemble.build(...) converts real numbers.")


def _check_input(column: xr.DataArray) -> None:
    if column.dims != ("run",):
        raise DataError(
            f"input {column.name!r} has dims {column.dims}; an input has one value for each run, dims ('run',)."
        )
    _check_dtype(column.name, column.dtype)
    refuse_gaps(column.name, column.values)


def refuse_gaps(name: Hashable, values: Array) -> None:
    """Raise a DataError that names the first run in which an input is not finite."""
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        more = f" (and {bad.size - 1} more runs)" if bad.size > 1 else ""
        raise DataError(
            f"input {name!r} is {values[bad[0]]} in run {bad[0]}{more}; every input of every run is a finite number: "
            "fill it in or drop the run."
        )


def _check_output(output: xr.DataArray, state: NDArray[np.int8]) -> None:
    name = output.name
    if not output.dims or output.dims[0] != "run":
        raise DataError(f"output {name!r} has dims {output.dims}; its first dim is 'run'.")
    _check_dtype(name, output.dtype)
    for dim in output.dims[1:]:
        _check_coordinate(name, str(dim), output.coords[dim].values if dim in output.coords else None)
    values = output.values
    rows = state.reshape(-1, *(1,) * (values.ndim - 1))
    endless = np.isinf(values) & (rows != RunState.COMPLETED)
    if endless.any():
        where = tuple(np.argwhere(endless)[0])
        raise DataError(f"output {name!r} is {values[where]} in run {where[0]}; what is missing is NaN.")
    bad = ~np.isfinite(values) & (rows == RunState.COMPLETED)
    if bad.any():
        where = tuple(np.argwhere(bad)[0])
        at = "".join(
            f", {dim}={output.coords[dim].values[i]}" for dim, i in zip(output.dims[1:], where[1:], strict=True)
        )
        more = f" (and {int(bad.sum()) - 1} more values)" if bad.sum() > 1 else ""
        raise DataError(
            f"output {name!r} is {values[where]} in run {where[0]}{at}{more}, but that run says it completed; "
            f"give it the state 'failed', or 'partial' when other entries can be used (states= of ensemble.build)."
        )


def _check_partial(outputs: list[xr.DataArray], state: NDArray[np.int8]) -> None:
    """Raise when a run that says it is partial has all of its entries or none."""
    finite = [np.isfinite(o.values).reshape(len(state), -1) for o in outputs]
    some = np.any([f.any(axis=1) for f in finite], axis=0)
    every = np.all([f.all(axis=1) for f in finite], axis=0)
    for wrong, words in ((~some, "it has no entry: its state is 'invalid'"), (every, "it lacks none: 'completed'")):
        rows = np.flatnonzero(wrong & (state == RunState.PARTIAL))
        if rows.size:
            raise DataError(f"run {rows[0]} says it gave part of its outputs, but {words}.")


def _check_coordinate(name: Hashable, dim: str, values: NDArray[np.generic] | None) -> None:
    if values is None:
        raise DataError(
            f"dim {dim!r} of output {name!r} has no coordinate; say where its values are, e.g. coords={{{dim!r}: ...}}."
        )
    if values.dtype.kind in "bcO" and not all(isinstance(place, str) for place in values[~pd.isna(values)]):
        raise DataError(f"coordinate {dim!r} of output {name!r} is not made of numbers, words or times alone.")
    bad = pd.isna(values) | (np.isinf(values) if values.dtype.kind == "f" else False)
    if bad.any():
        raise DataError(f"coordinate {dim!r} of output {name!r} holds {values[bad][0]}; it must be finite.")
    twice = pd.Index(values).duplicated()
    if twice.any():
        raise DataError(f"coordinate {dim!r} of output {name!r} has {values[twice][0]} twice; every place stands once.")


def match_names(got: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    """Raise a DataError unless the names got are those wanted, in any order."""
    missing = [name for name in wanted if name not in got]
    extra = [name for name in got if name not in wanted]
    if missing or extra:
        parts = [f"{listed(missing)} missing"] * bool(missing) + [f"{listed(extra)} not in the space"] * bool(extra)
        raise DataError(
            f"the inputs are {listed(got)} but the space has {listed(wanted)} ({', '.join(parts)}); "
            "name each column as in the space."
        )


def listed(names: Iterable[Hashable]) -> str:
    """Return names for a message."""
    return ", ".join(repr(name) for name in names) or "none"
