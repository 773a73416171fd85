"""Build ensembles from arrays, and check every number."""

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
from uqms.ensemble.states import RunState, state_words
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
    """Make an ensemble from runs that already exist.

    Use it when the numbers are in arrays. `from_table` reads a pandas table or a CSV file, and `uqms.run` runs a
    simulator.

    Parameters
    ----------
    inputs
        A design, a pandas table, or a mapping of each input's name to one number per run. An array (n, d) is accepted
        when `space` names its columns.
    outputs
        Mapping of each output's name to n numbers, to a curve ``("day", values (n, m), days (m,))``, or to a DataArray
        with the dimension ``run``, whose other coordinates are kept. Masked values count as missing, like NaN.
    states
        How each run ended: words, `RunState` values or their codes. By default all runs completed. Partial runs have
        NaN where an entry is missing. Outputs of runs that neither completed nor are partial become NaN.
    seconds, messages
        One value per run.
    seeds, replicates
        Whole numbers: the seed of each run, and which repetition of its inputs it is (0, 1, ...).
    fidelity
        The level of fidelity of each run, or one word for all runs.
    space, box
        The parameter space and the design box. By default both are those of the design. Columns are matched by name.
        Without a box, uqms tests at level 1 % whether the runs fill the box of the space: whether the gaps between the
        outermost runs and its faces are small enough. If the runs fill it, the design box is the box of the space, and
        the attribute "box_note" reports that. Otherwise the design box is the range of the runs. Pass ``space.box()``
        when the runs were made over the space although their gaps are larger.
    units
        Mapping of names of inputs and outputs to units.
    simulator
        Identity of the simulator as JSON. It is stored as an attribute.

    Returns
    -------
    xarray.Dataset
        The dimensions are ``run`` and those of the outputs. All numbers are float64.

    Raises
    ------
    DataError
        When a value cannot be used; the message names the variable, run and coordinate. Also when the labels of rows (a
        pandas index, a coordinate ``run``) differ between variables, since rows are paired by position.
    UnitError
        When `units` contradicts the space, or the unit that a variable carries in its attributes.

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
        raise DataError(
            f"the box has the inputs {listed(box.names)} but not {listed(lacking)}; give a uq.Box of all inputs."
        )
    n = len(next(iter(columns.values())))
    per_run = {"states": states, "seconds": seconds, "messages": messages, "seeds": seeds}
    per_run |= {"replicates": replicates, "fidelity": fidelity}
    check_labels(inputs, [*given.items(), *per_run.items()], n)
    for name, values in per_run.items():
        if name != "seconds":  # the duration of a run may be unknown
            refuse_masks(values, name)
    ended = state_words(states, n)
    unit = _units(units or {}, known, [*columns, *given])
    described = _descriptions(inputs, columns, known)
    data: dict[str, xr.DataArray] = {}
    for name, column in columns.items():
        role = {"role": "input", **described[name], "unit": _agreed(name, unit, described[name]["unit"])}
        data[name] = xr.DataArray(_per_run(column, n, name), dims="run", attrs=role)
    for name, output in given.items():
        data[name] = _output(name, output, n, ~np.isin(ended, _WITH_OUTPUTS), unit)
    _check_dims({name: data[name] for name in given}, data)
    data["state"] = xr.DataArray(ended, dims="run", attrs={"role": "state"})
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
            raise DataError(
                f"'fidelity' is {levels[unknown[0]]} in run {unknown[0]}; give every run a level of fidelity, such as "
                "'coarse'."
            )
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
        raise DataError(f"{name!r} has dtype {array.dtype}; it must hold whole numbers. Convert it: .astype(int).")
    if array.dtype.kind == "u" and (array > np.iinfo(np.int64).max).any():
        raise DataError(f"{name!r} holds {array.max()}; give whole numbers up to 2**63 - 1.")
    return array.astype(np.int64)


def _given(outputs: object) -> dict[str, object]:
    """Return the values that the caller passed for each output, by name."""
    if isinstance(outputs, pd.DataFrame):
        named = _by_name({name: None for name in outputs.columns}, "output")
        return {name: pd.Series(frame_column(outputs, name), outputs.index) for name in named}
    if not isinstance(outputs, Mapping):
        raise DataError(
            f"outputs is a {type(outputs).__name__}; give a mapping of each output's name to one number (or curve) per "
            "run, such as {'peak': [...]}."
        )
    return _by_name({name: outputs[name] for name in outputs}, "output")


def _by_name(values: Mapping[Any, object], what: str) -> dict[str, object]:
    for name in values:
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"an {what} is called {name!r}; give each {what} a name that is a non-empty string.")
    return dict(values)


def provenance() -> dict[str, str]:
    """Return the attributes with the time at which a table was made, and the versions of the packages."""
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
    """Return the attributes that describe the design; the caller's space and box replace those of the design."""
    for name, value, wanted in (("space", space, ParameterSpace), ("box", box, Box)):
        if value is not None and not isinstance(value, wanted):
            raise InputError(f"{name} is a {type(value).__name__}; give {name}=uq.{wanted.__name__}(...).")
    design = inputs.attrs if isinstance(inputs, xr.Dataset) else {}
    attrs = {key: str(design[key]) for key in ("space", "box", "design") if key in design}
    if space is not None:
        attrs["space"] = space.to_json()
    if box is not None:
        attrs["box"] = json.dumps(box.to_dict())
    return attrs


@taught
def input_columns(inputs: object, space: ParameterSpace | None) -> dict[str, Array]:
    """Return the inputs of a design or a table by name, each as a float64 column (n,), in the order of the space.

    Raises
    ------
    DataError
        When a value cannot be used; the message names the column and the run.
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
        raise DataError(
            "there are no inputs; give a mapping of each input's name to one number per run, such as {'a': [1.0, 2.0]}."
        )
    for name, values in columns.items():
        if values.ndim != 1:
            raise DataError(
                f"input {name!r} has shape {values.shape}; give one number per run, shape (n,), and each column of a "
                "matrix a name of its own."
            )
    _refuse_reserved(columns)
    lengths = {name: len(values) for name, values in columns.items()}
    first = next(iter(lengths))
    for name, length in lengths.items():
        if length != lengths[first]:
            raise DataError(
                f"input {name!r} has {length} rows but input {first!r} has {lengths[first]}; give both one row per run."
            )
    if not lengths[first]:
        raise DataError("the inputs have no rows, so there are no runs; give at least one row.")
    for name, values in columns.items():
        refuse_gaps(name, values)
    if space is None:
        return columns
    match_names(tuple(columns), space.inputs)
    return {name: columns[name] for name in space.inputs}


def _design_columns(design: xr.Dataset, space: ParameterSpace | None) -> dict[str, Array]:
    """Return the columns of a design: the variables with the role input, or all variables if none has a role."""
    variables = _by_name(dict(design.data_vars), "input")
    named = input_names(design) or tuple(variables)
    other = [name for name in variables if name not in named and "role" not in design[name].attrs]
    if other := [name for name in other if name not in RESERVED]:
        raise DataError(
            f"the design has the inputs {listed(named)}, and the variables {listed(other)} without a role. Set "
            f"design[{other[0]!r}].attrs['role'] = 'input' if this variable is an input, or remove it: "
            f"design.drop_vars({other[0]!r})."
        )
    units = {} if space is None else space.units
    for name in named:
        _agreed(name, units, str(design[name].attrs.get("unit", "")))
    return {name: _column(name, design[name]) for name in named}


def _column(name: str, values: object) -> Array:
    if isinstance(values, xr.DataArray) and values.dims != ("run",):
        raise DataError(
            f"input {name!r} has dims {values.dims}; an input has one number per run and the dims ('run',). Rename the "
            "dim that counts the runs, for example inputs.rename(sample='run')."
        )
    return _real(values, name)


def _split(inputs: object, space: ParameterSpace | None) -> dict[str, Array]:
    if isinstance(inputs, xr.DataArray):
        raise DataError(
            f"inputs is a DataArray with dims {inputs.dims}. Give a Dataset with one variable per input, so that "
            "columns are matched by name: inputs.to_dataset('column'), with the name of the dim of the columns."
        )
    x = _real(inputs, "inputs")
    if space is None:
        raise DataError(
            f"inputs is an array of shape {x.shape} without names; give a mapping of names to columns, such as "
            "{'a': x[:, 0]}, or name the columns by space=."
        )
    d = len(space.inputs)
    if x.ndim == 1 and d == 1:
        x = x[:, None]
    if x.ndim != 2 or x.shape[1] != d:
        raise DataError(
            f"the array of inputs has shape {x.shape} but the space has {d} inputs ({listed(space.inputs)}); give an "
            f"array of shape (n, {d}), one row per run."
        )
    return dict(zip(space.inputs, x.T.copy(), strict=True))


def frame_column(frame: pd.DataFrame, name: str) -> Array:
    """Return one column of a pandas table as float64.

    Raises
    ------
    DataError
        When there is no such column, when two columns have this name, or when a cell is no real number; the message
        then names the row and the value.
    """
    count = int((frame.columns == name).sum())
    if count != 1:
        raise DataError(
            f"the table has {count or 'no'} columns named {name!r}; its columns are {listed(frame.columns)}. Give the "
            "name of a column that occurs once."
        )
    series = frame[name]
    if pd.api.types.is_bool_dtype(series.dtype):
        raise DataError(
            f"{name!r} has dtype {series.dtype}; it must hold real numbers (float or integer). Convert it: "
            ".astype(float)."
        )
    if pd.api.types.is_numeric_dtype(series.dtype):
        return _real(series.to_numpy(), name)
    cells = series.to_numpy(dtype=object, na_value=np.nan)
    for row, cell in enumerate(cells):
        if not _is_number(cell):
            raise DataError(
                f"column {name!r} holds {cell!r} in row {row}; it must hold real numbers. Replace this cell, or leave "
                "it empty if the number is missing."
            )
    return cells.astype(np.float64)


def _is_number(cell: object) -> bool:
    # Python's float accepts True and the text 1_000; in a table they are mistakes.
    if isinstance(cell, bool | np.bool_) or (isinstance(cell, str) and "_" in cell):
        return False
    try:
        float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _real(values: object, name: str) -> Array:
    """Return a new float64 array of the real numbers in `values`, with NaN where they are masked."""
    try:
        array = with_mask(values)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"{name!r} is not an array: {error}. Give rows of equal length.") from error
    if array.dtype.kind not in "fiu":
        raise DataError(
            f"{name!r} has dtype {array.dtype}; it must hold real numbers (float or integer). Convert it: "
            "np.asarray(values, dtype=float)."
        )
    return np.asarray(np.ma.filled(array.astype(np.float64), np.nan))


def _per_run[T: np.generic](values: NDArray[T], n: int, name: str) -> NDArray[T]:
    if values.shape != (n,):
        raise DataError(
            f"{name!r} has shape {values.shape} but there are {n} runs; give one value per run, shape ({n},)."
        )
    return values


def _output(name: str, given: object, n: int, lost: NDArray[np.bool_], unit: Mapping[str, str]) -> xr.DataArray:
    if isinstance(given, xr.DataArray):
        array = given
    elif isinstance(given, tuple):
        if len(given) != 3:
            raise DataError(
                f"output {name!r} is a tuple of length {len(given)}; give a curve as (dim, values, coordinate), for "
                'example ("day", values, days) with values of shape (n, m) and days of shape (m,).'
            )
        array = _curve(name, *given)
    else:
        values = _real(given, name)
        if values.ndim != 1:
            raise DataError(
                f"output {name!r} has shape {values.shape}; an array with more than one dim needs names. Give a curve "
                'as ("day", values, days), or a DataArray.'
            )
        array = xr.DataArray(values, dims="run")
    if "run" not in array.dims:
        raise DataError(
            f"output {name!r} has dims {array.dims}; one of them must be 'run'. Rename the dim that counts the runs, "
            "for example output.rename(sample='run')."
        )
    if len(set(array.dims)) < array.ndim:
        raise DataError(f"output {name!r} has dims {array.dims}; give each dim a different name.")
    if array.sizes["run"] != n:
        raise DataError(
            f"output {name!r} has {array.sizes['run']} rows but the inputs have {n}; give one row per run, with NaN "
            "for runs that failed."
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
            f"output {name!r} is a tuple that holds a DataArray with dims {values.dims} where the dims ('run', "
            f"{dim!r}) are expected; give the DataArray itself instead of the tuple."
        )
    if dim == "run":
        raise DataError(f"output {name!r} has the dims ('run', 'run'); give the dim of the curve another name.")
    y = _real(values, name)
    refuse_masks(coordinate, str(dim))
    places = np.asarray(coordinate)
    if isinstance(values, pd.DataFrame) and reordered(values.columns, pd.Index(places.ravel())):
        raise DataError(
            f"output {name!r} has the columns {listed(values.columns)} but its coordinate {dim!r} has another order: "
            f"{places.ravel().tolist()}. Give both in the same order."
        )
    if y.ndim != 2 or y.shape[1:] != places.shape:
        raise DataError(
            f"output {name!r} has shape {y.shape} and its coordinate {dim!r} has shape {places.shape}; "
            "give values of shape (n, m) and a coordinate of shape (m,)."
        )
    return xr.DataArray(y, dims=("run", str(dim)), coords={str(dim): places})


def _check_names(columns: Mapping[str, object], outputs: Mapping[str, object]) -> None:
    if not outputs:
        raise DataError(
            "there are no outputs; give a mapping of each output's name to one number (or curve) per run, such as "
            "{'peak': [3.0, 4.0]}."
        )
    _refuse_reserved(outputs)
    both = [name for name in outputs if name in columns]
    if both:
        raise DataError(
            f"{listed(both)} occurs both among the inputs and among the outputs; give every variable a different name."
        )


def _refuse_reserved(names: Iterable[str]) -> None:
    for name in names:
        if name in RESERVED:
            raise DataError(
                f"{name!r} is a reserved name: ensembles use it for a column of their own. Rename your variable; all "
                f"reserved names are {listed(sorted(RESERVED))}."
            )


def _check_dims(outputs: Mapping[str, xr.DataArray], columns: Mapping[str, object]) -> None:
    """Raise when a dim has the name of a variable, or two outputs have different coordinates along one dim.

    xarray would use the variable as the coordinate of the dim, and would fill missing coordinates with NaN.
    """
    first: dict[str, str] = {}
    for name, output in outputs.items():
        for dim in map(str, output.dims[1:]):
            if dim in columns or dim in RESERVED:
                raise DataError(
                    f"output {name!r} has the dim {dim!r}, which is also the name of a variable; rename one of them."
                )
            other = first.setdefault(dim, name)
            if not output.get_index(dim).equals(outputs[other].get_index(dim)):
                raise DataError(
                    f"outputs {other!r} and {name!r} have different coordinates along the dim {dim!r}; give the dim "
                    "of one of them another name."
                )


def _agreed(name: str, units: Mapping[str, str], own: str) -> str:
    """Return the unit of a variable from the space or `units`, else from its own attributes; both must agree."""
    known = units.get(name, "")
    if own and known and own != known:
        raise UnitError(
            f"the attributes of {name!r} have the unit {own!r} but the space or units= has {known!r}; convert the "
            "numbers first, and correct the unit."
        )
    return known or own


def _units(given: Mapping[str, str], space: ParameterSpace | None, names: list[str]) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise InputError(
            f"units is a {type(given).__name__}; give a mapping of names to units, such as {{'peak': 'mm'}}."
        )
    units = {} if space is None else {str(name): str(unit) for name, unit in space.units.items()}
    for name, unit in given.items():
        if name not in names:
            raise InputError(
                f"units has {name!r}, which is neither an input nor an output; the inputs and outputs are "
                f"{listed(names)}."
            )
        if units.get(name) not in (None, "", unit):
            raise UnitError(
                f"the unit of {name!r} is {units[name]!r} in the space but {unit!r} in units=; "
                "convert the numbers to the unit of the space first."
            )
        units[name] = unit
    return units


def _descriptions(inputs: object, names: Iterable[str], space: ParameterSpace | None) -> dict[str, dict[str, str]]:
    """Return the unit, kind and description of each input, from the space, else from the attributes of the design."""
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
