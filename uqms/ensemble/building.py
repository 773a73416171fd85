"""Ensembles from arrays, with every number checked."""

import json
import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from uqms import __version__
from uqms._teaching import taught
from uqms._typing import Array, Ints, Named
from uqms.ensemble.filling import box_when_filled
from uqms.ensemble.labels import check_labels, refuse_masks, reordered, with_mask
from uqms.ensemble.states import RunState, flag_attrs, state_codes
from uqms.ensemble.table import FORMAT, RESERVED, check, input_names, listed, match_names, refuse_gaps
from uqms.errors import DataError, InputError, UnitError
from uqms.parameters import Box, ParameterSpace

__all__ = ["build", "frame_column", "input_columns", "provenance"]


@taught
def build(
    inputs: xr.Dataset | pd.DataFrame | Named | ArrayLike,
    outputs: xr.Dataset | pd.DataFrame | Mapping[str, object],
    states: ArrayLike | None = None,
    seconds: ArrayLike | None = None,
    messages: ArrayLike | None = None,
    seeds: ArrayLike | None = None,
    replicates: ArrayLike | None = None,
    fidelity: ArrayLike | None = None,
    space: ParameterSpace | None = None,
    box: Box | None = None,
    units: Mapping[str, str] | None = None,
    simulator: str | None = None,
) -> xr.Dataset:
    """Make an ensemble of runs that somebody already has.

    Use it when the numbers are in arrays; `from_table` reads a pandas table or a CSV file, `uqms.run` runs a simulator.

    Parameters
    ----------
    inputs
        A design, a table, or name -> one number for each run. An array (n, d) will do when `space` names its columns.
    outputs
        Name -> n numbers, or a curve as ``("day", values (n, m), days (m,))``, or a DataArray with dim ``run``, of
        which the coordinates of its dims are kept. What is masked is missing, as NaN is.
    states
        How each run ended (codes, `RunState` values or names); completed by default. Partial runs have NaN where an
        entry is missing; outputs of all others become NaN.
    seconds, messages
        One for each run.
    seeds, replicates
        The seed of each run, and which repetition of its inputs it is (0, 1, ...), both whole numbers.
    fidelity
        The level of each run, or one word for all of them.
    space, box
        The parameter space and the design box; those of a design are taken from it. Columns are matched by name.
        Without a box it is that of the space when the runs fill it (a test of the gaps between the outermost runs and
        its faces, at level 1 %; the attribute "box_note" says so), else the range of the runs. Give ``space.box()``
        when the runs were made over the space and leave more free.
    units
        Name -> unit, for inputs and outputs.
    simulator
        Identity of the simulator as JSON, for the record.

    Returns
    -------
    xarray.Dataset
        Dims ``run`` and those of the outputs; all numbers float64.

    Raises
    ------
    DataError
        Names the variable, run and coordinate that cannot be used. Rows are paired by their position, so labels (a
        pandas index, a coordinate ``run``) that say something else are an error.
    UnitError
        When `units` contradicts the space or the units that a variable brings.

    Examples
    --------
    >>> outputs = {"y": [3.0, 4.0], "c": ("day", [[0, 1], [2, 3]], [0.5, 1.5])}
    >>> table = build({"a": [1.0, 2.0]}, outputs, units={"y": "mm"})
    >>> dict(table.sizes)
    {'run': 2, 'day': 2}
    """
    attrs = _carried(inputs, space, box)
    known = ParameterSpace.from_json(attrs["space"]) if "space" in attrs else None
    columns = input_columns(inputs, known)
    if known is not None and "box" not in attrs:
        attrs |= box_when_filled(known, columns)
    given = _given(outputs)
    _check_names(columns, given)
    if box is not None and (lacking := [name for name in columns if name not in box.names]):
        raise DataError(f"the box has {listed(box.names)} but no {listed(lacking)}; give it all of the inputs.")
    n = len(next(iter(columns.values())))
    per_run = {"states": states, "seconds": seconds, "messages": messages, "seeds": seeds}
    per_run |= {"replicates": replicates, "fidelity": fidelity}
    check_labels(inputs, [*given.items(), *per_run.items()], n)
    for name, values in per_run.items():
        if name != "seconds":  # these may be unknown
            refuse_masks(values, name)
    codes = state_codes(states, n)
    unit = _units(units or {}, known, [*columns, *given])
    described = _descriptions(inputs, columns, known)
    data: dict[str, xr.DataArray] = {}
    for name, column in columns.items():
        role = {"role": "input", **described[name], "unit": _agreed(name, unit, described[name]["unit"])}
        data[name] = xr.DataArray(_per_run(column, n, name), dims="run", attrs=role)
    for name, output in given.items():
        data[name] = _output(name, output, n, ~np.isin(codes, _WITH_OUTPUTS), unit)
    _check_dims({name: data[name] for name in given}, data)
    data["state"] = xr.DataArray(codes, dims="run", attrs=flag_attrs())
    taken = np.full(n, np.nan) if seconds is None else _real(seconds, "seconds")
    data["seconds"] = xr.DataArray(_per_run(taken, n, "seconds"), dims="run", attrs={"role": "seconds", "unit": "s"})
    words = _per_run(np.full(n, "", object) if messages is None else np.asarray(messages, object), n, "messages")
    words = np.array(["" if pd.isna(word) else str(word) for word in words], dtype=object)
    data["message"] = xr.DataArray(words, dims="run", attrs={"role": "message"})
    if seeds is not None:
        data["seed"] = xr.DataArray(_whole(seeds, n, "seeds"), dims="run", attrs={"role": "seed"})
    coords: dict[str, xr.DataArray] = {}
    if replicates is not None:
        coords["replicate"] = xr.DataArray(_whole(replicates, n, "replicates"), dims="run")
    if fidelity is not None:
        levels = np.asarray(fidelity, dtype=object)
        levels = np.full(n, levels) if levels.ndim == 0 else _per_run(levels, n, "fidelity")
        if (unknown := np.flatnonzero(pd.isna(levels))).size:
            raise DataError(f"'fidelity' is {levels[unknown[0]]} in run {unknown[0]}; give each run its level.")
        coords["fidelity"] = xr.DataArray(levels.astype(str).astype(object), dims="run")
    ensemble = xr.Dataset(
        data, coords, attrs={**attrs, **provenance(), **({"simulator": simulator} if simulator else {})}
    )
    check(ensemble)
    return ensemble


_WITH_OUTPUTS = (RunState.COMPLETED, RunState.PARTIAL)


def _whole(values: ArrayLike, n: int, name: str) -> Ints:
    array = _per_run(np.asarray(values), n, name)
    if array.dtype.kind not in "iu":
        raise DataError(f"{name!r} has dtype {array.dtype}; it must hold whole numbers.")
    if array.dtype.kind == "u" and (array > np.iinfo(np.int64).max).any():
        raise DataError(f"{name!r} holds {array.max()}; the largest number that it can hold is 2**63 - 1.")
    return array.astype(np.int64)


def _given(outputs: object) -> dict[str, object]:
    """Return what was given for each output, by its name."""
    if isinstance(outputs, pd.DataFrame):
        named = _by_name({name: None for name in outputs.columns}, "output")
        return {name: pd.Series(frame_column(outputs, name), outputs.index) for name in named}
    if not isinstance(outputs, Mapping):
        raise DataError(
            f"outputs is a {type(outputs).__name__}; give name -> one number (or curve) for each run, such as "
            "{'peak': [...]}."
        )
    return _by_name({name: outputs[name] for name in outputs}, "output")


def _by_name(values: Mapping[Any, object], what: str) -> dict[str, object]:
    for name in values:
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"an {what} is called {name!r}; give each a name that is a text.")
    return dict(values)


def provenance() -> dict[str, str]:
    """Return the attrs that say when, and with which versions, a table was made."""
    versions = {
        "uqms": __version__,
        "numpy": np.__version__,
        "xarray": xr.__version__,
        "python": platform.python_version(),
    }
    return {
        "uqms_format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": json.dumps(versions),
    }


def _carried(inputs: object, space: ParameterSpace | None, box: Box | None) -> dict[str, str]:
    """Return what the design says of itself, with what the caller says put over it."""
    for name, value, wanted in (("space", space, ParameterSpace), ("box", box, Box)):
        if value is not None and not isinstance(value, wanted):
            raise InputError(f"{name} is a {type(value).__name__}; give a uq.{wanted.__name__}.")
    design = inputs.attrs if isinstance(inputs, xr.Dataset) else {}
    attrs = {key: str(design[key]) for key in ("space", "box", "design") if key in design}
    if space is not None:
        attrs["space"] = space.to_json()
    if box is not None:
        attrs["box"] = json.dumps(box.to_dict())
    return attrs


@taught
def input_columns(inputs: object, space: ParameterSpace | None) -> dict[str, Array]:
    """Return the inputs of a design or a table as name -> float64 column (n,), in the space's order.

    Raises
    ------
    DataError
        Names the column and the run that cannot be used.
    """
    if isinstance(inputs, xr.Dataset):
        columns = _design_columns(inputs, space)
    elif isinstance(inputs, pd.DataFrame):
        named = _by_name({name: None for name in inputs.columns}, "input")
        columns = {name: frame_column(inputs, name) for name in named}
    elif isinstance(inputs, Mapping):
        columns = {name: _column(name, values) for name, values in _by_name(inputs, "input").items()}
    else:
        columns = _split(inputs, space)
    if not columns:
        raise DataError("there are no inputs; give name -> one number for each run.")
    for name, values in columns.items():
        if values.ndim != 1:
            raise DataError(
                f"input {name!r} has shape {values.shape}; an input has one number for each run, shape (n,)."
            )
    _refuse_reserved(columns)
    lengths = {name: len(values) for name, values in columns.items()}
    first = next(iter(lengths))
    for name, length in lengths.items():
        if length != lengths[first]:
            raise DataError(
                f"input {name!r} has {length} rows but input {first!r} has {lengths[first]}; give one row for each run."
            )
    if not lengths[first]:
        raise DataError("the inputs have no runs; give at least one row.")
    for name, values in columns.items():
        refuse_gaps(name, values)
    if space is None:
        return columns
    match_names(tuple(columns), space.inputs)
    return {name: columns[name] for name in space.inputs}


def _design_columns(design: xr.Dataset, space: ParameterSpace | None) -> dict[str, Array]:
    """Return the columns of a design: the variables that have the role input, or all where none has a role."""
    variables = _by_name(dict(design.data_vars), "input")
    named = input_names(design) or tuple(variables)
    other = [name for name in variables if name not in named and "role" not in design[name].attrs]
    if other := [name for name in other if name not in RESERVED]:
        raise DataError(
            f"{listed(other)} of the design has no role while {listed(named)} is an input; set its attrs['role'] = "
            "'input', or drop it."
        )
    units = {} if space is None else space.units
    for name in named:
        _agreed(name, units, str(design[name].attrs.get("unit", "")))
    return {name: _column(name, design[name]) for name in named}


def _column(name: str, values: object) -> Array:
    if isinstance(values, xr.DataArray) and values.dims != ("run",):
        raise DataError(
            f"input {name!r} has dims {values.dims}; it has one number for each run, dims ('run',). Say which dim "
            "counts the runs: inputs.rename(sample='run')."
        )
    return _real(values, name)


def _split(inputs: object, space: ParameterSpace | None) -> dict[str, Array]:
    if isinstance(inputs, xr.DataArray):
        raise DataError(
            f"inputs is a DataArray with dims {inputs.dims}; make its columns variables, inputs.to_dataset('column'), "
            "so that they are matched by name."
        )
    x = _real(inputs, "x")
    if space is None:
        raise DataError(f"inputs is an array of shape {x.shape} without names; give name -> column, or space=.")
    d = len(space.inputs)
    if x.ndim == 1 and d == 1:
        x = x[:, None]
    if x.ndim != 2 or x.shape[1] != d:
        raise DataError(
            f"x has shape {x.shape} but the space has {d} inputs ({listed(space.inputs)}); give shape (n, {d})."
        )
    return dict(zip(space.inputs, x.T.copy(), strict=True))


def frame_column(frame: pd.DataFrame, name: str) -> Array:
    """Return one column of a pandas table as float64.

    Raises
    ------
    DataError
        When there is no such column, or two, or one with something else than real numbers (row and value named).
    """
    count = int((frame.columns == name).sum())
    if count != 1:
        raise DataError(
            f"the table has {count or 'no'} columns named {name!r}; its columns are {listed(frame.columns)}."
        )
    series = frame[name]
    if pd.api.types.is_bool_dtype(series.dtype):
        raise DataError(f"{name!r} has dtype {series.dtype}; it must hold real numbers (float or integer).")
    if pd.api.types.is_numeric_dtype(series.dtype):
        return _real(series.to_numpy(), name)
    cells = series.to_numpy(dtype=object, na_value=np.nan)
    for row, cell in enumerate(cells):
        if not _is_number(cell):
            raise DataError(f"column {name!r} holds {cell!r} in row {row}; it must hold real numbers.")
    return cells.astype(np.float64)


def _is_number(cell: object) -> bool:
    # Python reads 1_000 and True as numbers; in a table they are slips.
    if isinstance(cell, bool | np.bool_) or (isinstance(cell, str) and "_" in cell):
        return False
    try:
        float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _real(values: object, name: str) -> Array:
    """Return real numbers as a float64 array of its own, NaN where they are masked."""
    try:
        array = with_mask(values)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"{name!r} is not an array: {error}.") from error
    if array.dtype.kind not in "fiu":
        raise DataError(f"{name!r} has dtype {array.dtype}; it must hold real numbers (float or integer).")
    return np.asarray(np.ma.filled(array.astype(np.float64), np.nan))


def _per_run[T: np.generic](values: NDArray[T], n: int, name: str) -> NDArray[T]:
    if values.shape != (n,):
        raise DataError(f"{name!r} has shape {values.shape} but there are {n} runs; give one for each run.")
    return values


def _output(name: str, given: object, n: int, lost: NDArray[np.bool_], unit: Mapping[str, str]) -> xr.DataArray:
    if isinstance(given, xr.DataArray):
        array = given
    elif isinstance(given, tuple):
        if len(given) != 3:
            raise DataError(
                f"output {name!r} is a tuple of {len(given)}; a curve is (dim, values (n, m), coordinate (m,))."
            )
        array = _curve(name, *given)
    else:
        values = _real(given, name)
        if values.ndim != 1:
            raise DataError(
                f"output {name!r} has shape {values.shape}; an array with more than one dim needs names: "
                f'("day", values, days) or a DataArray.'
            )
        array = xr.DataArray(values, dims="run")
    if "run" not in array.dims:
        raise DataError(
            f"output {name!r} has dims {array.dims}; one of them must be 'run': say which one counts the runs, "
            ".rename(sample='run')."
        )
    if len(set(array.dims)) < array.ndim:
        raise DataError(f"output {name!r} has dims {array.dims}; each dim stands once.")
    if array.sizes["run"] != n:
        raise DataError(
            f"{name!r} has {array.sizes['run']} rows but x has {n} runs; give one row for each run, failed ones too."
        )
    array = array.transpose("run", ...)
    values = _real(array.values, name)
    values[lost] = np.nan
    attrs = {"role": "output", "unit": _agreed(name, unit, str(array.attrs.get("unit", "")))}
    if array.attrs.get("description"):
        attrs["description"] = str(array.attrs["description"])
    coords = {dim: array.coords[dim].variable for dim in array.dims[1:] if dim in array.coords}
    return xr.DataArray(values, dims=array.dims, coords=coords, attrs=attrs)


def _curve(name: str, dim: object, values: object, coordinate: object) -> xr.DataArray:
    if isinstance(values, xr.DataArray) and values.dims != ("run", dim):
        raise DataError(
            f"output {name!r} is a DataArray with dims {values.dims} in a tuple for ('run', {dim!r}); give the "
            "DataArray itself."
        )
    if dim == "run":
        raise DataError(f"output {name!r} has the dims ('run', 'run'); each dim stands once, so give it another name.")
    y = _real(values, name)
    refuse_masks(coordinate, str(dim))
    places = np.asarray(coordinate)
    if isinstance(values, pd.DataFrame) and reordered(values.columns, pd.Index(places.ravel())):
        raise DataError(
            f"output {name!r} has the columns {listed(values.columns)} but its coordinate {dim!r} has another order; "
            "give both in one order."
        )
    if y.ndim != 2 or y.shape[1:] != places.shape:
        raise DataError(
            f"output {name!r} has shape {y.shape} and its coordinate {dim!r} has shape {places.shape}; "
            "give values (n, m) and m coordinates."
        )
    return xr.DataArray(y, dims=("run", str(dim)), coords={str(dim): places})


def _check_names(columns: Mapping[str, object], outputs: Mapping[str, object]) -> None:
    if not outputs:
        raise DataError("there are no outputs; give name -> one number (or curve) for each run.")
    _refuse_reserved(outputs)
    both = [name for name in outputs if name in columns]
    if both:
        raise DataError(f"{listed(both)} stand among the inputs and the outputs; give each variable its own name.")


def _refuse_reserved(names: Iterable[str]) -> None:
    for name in names:
        if name in RESERVED:
            raise DataError(
                f"{name!r} is the name of a column of its own in every ensemble; call your variable something else."
            )


def _check_dims(outputs: Mapping[str, xr.DataArray], columns: Mapping[str, object]) -> None:
    """Raise when a dim is called like a variable, or two outputs have different coordinates along one dim.

    xarray would take such a variable for the coordinate, and fill up what the other coordinate lacks.
    """
    first: dict[str, str] = {}
    for name, output in outputs.items():
        for dim in map(str, output.dims[1:]):
            if dim in columns or dim in RESERVED:
                raise DataError(f"output {name!r} has a dim called {dim!r}, as a variable is; rename one of them.")
            other = first.setdefault(dim, name)
            if not output.get_index(dim).equals(outputs[other].get_index(dim)):
                raise DataError(
                    f"outputs {other!r} and {name!r} have different coordinates along the dim {dim!r}; give one of "
                    "them a dim of its own."
                )


def _agreed(name: str, units: Mapping[str, str], own: str) -> str:
    """Return the unit of a variable: the one that is known, or the one that it brings when that does not differ."""
    known = units.get(name, "")
    if own and known and own != known:
        raise UnitError(
            f"{name!r} brings the unit {own!r} but its unit is said to be {known!r}; convert the numbers first."
        )
    return known or own


def _units(given: Mapping[str, str], space: ParameterSpace | None, names: list[str]) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise InputError(f"units is a {type(given).__name__}; give name -> unit, such as {{'peak': 'mm'}}.")
    units = {} if space is None else {str(name): str(unit) for name, unit in space.units.items()}
    for name, unit in given.items():
        if name not in names:
            raise InputError(f"units names {name!r}, which is neither an input nor an output ({listed(names)}).")
        if units.get(name) not in (None, "", unit):
            raise UnitError(
                f"the unit of {name!r} is {units[name]!r} in the space but {unit!r} in units=; "
                "convert the numbers first."
            )
        units[name] = unit
    return units


def _descriptions(inputs: object, names: Iterable[str], space: ParameterSpace | None) -> dict[str, dict[str, str]]:
    """Return the unit, kind and description of each input, from the space, else from the design's own attrs."""
    found = {name: {"unit": "", "kind": "parameter", "description": ""} for name in names}
    if space is not None:
        for name in found:
            condition = space.conditions.get(name)
            text = space.priors[name].description if condition is None else condition.description
            found[name].update(kind="parameter" if condition is None else "condition", description=text)
    elif isinstance(inputs, xr.Dataset):
        for name, words in found.items():
            words.update({key: str(inputs[name].attrs[key]) for key in words if key in inputs[name].attrs})
    return found
