"""Ensembles from arrays, with every number checked."""

import json
import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from uqms import __version__
from uqms._typing import Array, Ints, Named
from uqms.ensemble.states import RunState, flag_attrs, state_codes
from uqms.ensemble.table import FORMAT, RESERVED, check, input_names, listed, match_names, refuse_gaps
from uqms.errors import DataError, InputError, UnitError
from uqms.parameters import Box, ParameterSpace

__all__ = ["build", "frame_column", "input_columns", "provenance"]


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
        Name -> n numbers, or a curve as ``("day", values (n, m), days (m,))``, or a DataArray with dim ``run``.
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
        Names the variable, run and coordinate that cannot be used.
    UnitError
        When `units` contradicts the space.

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
    _check_names(columns, outputs)
    n = len(next(iter(columns.values())))
    codes = state_codes(states, n)
    unit = _units(units or {}, known, [*columns, *map(str, outputs)])
    described = _descriptions(inputs, columns, known)
    data: dict[str, xr.DataArray] = {}
    for name, values in columns.items():
        role = {"role": "input", **described[name], **({"unit": unit[name]} if name in unit else {})}
        data[name] = xr.DataArray(_per_run(values, n, name), dims="run", attrs=role)
    for key in outputs:
        data[str(key)] = _output(str(key), outputs[key], n, ~np.isin(codes, _WITH_OUTPUTS), unit)  # type: ignore[index]
    data["state"] = xr.DataArray(codes, dims="run", attrs=flag_attrs())
    taken = np.full(n, np.nan) if seconds is None else _real(seconds, "seconds")
    data["seconds"] = xr.DataArray(_per_run(taken, n, "seconds"), dims="run", attrs={"role": "seconds", "unit": "s"})
    words = (
        np.full(n, "", dtype=object)
        if messages is None
        else np.array([str(m) for m in np.asarray(messages)], dtype=object)
    )
    data["message"] = xr.DataArray(_per_run(words, n, "messages"), dims="run", attrs={"role": "message"})
    if seeds is not None:
        data["seed"] = xr.DataArray(_whole(seeds, n, "seeds"), dims="run", attrs={"role": "seed"})
    coords: dict[str, xr.DataArray] = {}
    if replicates is not None:
        coords["replicate"] = xr.DataArray(_whole(replicates, n, "replicates"), dims="run")
    if fidelity is not None:
        levels = np.asarray(fidelity, dtype=str)
        levels = np.full(n, levels) if levels.ndim == 0 else _per_run(levels, n, "fidelity")
        coords["fidelity"] = xr.DataArray(levels.astype(object), dims="run")
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
    return array.astype(np.int64)


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
    design = inputs.attrs if isinstance(inputs, xr.Dataset) else {}
    attrs = {key: str(design[key]) for key in ("space", "box", "design") if key in design}
    if space is not None:
        attrs["space"] = space.to_json()
    if box is not None:
        attrs["box"] = json.dumps(box.to_dict())
    return attrs


def input_columns(inputs: object, space: ParameterSpace | None) -> dict[str, Array]:
    """Return the inputs of a design or a table as name -> float64 column (n,), in the space's order.

    Raises
    ------
    DataError
        Names the column and the run that cannot be used.
    """
    if isinstance(inputs, xr.Dataset):
        named = input_names(inputs) or tuple(str(name) for name in inputs.data_vars)
        columns = {name: _real(inputs[name].values, name) for name in named}
    elif isinstance(inputs, pd.DataFrame):
        columns = {name: frame_column(inputs, name) for name in map(str, inputs.columns)}
    elif isinstance(inputs, Mapping):
        columns = {str(name): _real(values, str(name)) for name, values in inputs.items()}
    else:
        columns = _split(inputs, space)
    if not columns:
        raise DataError("there are no inputs; give name -> one number for each run.")
    for name, values in columns.items():
        if values.ndim != 1:
            raise DataError(
                f"input {name!r} has shape {values.shape}; an input has one number for each run, shape (n,)."
            )
    lengths = {name: len(values) for name, values in columns.items()}
    first = next(iter(lengths))
    for name, length in lengths.items():
        if length != lengths[first]:
            raise DataError(
                f"input {name!r} has {length} rows but input {first!r} has {lengths[first]}; give one row for each run."
            )
    for name, values in columns.items():
        refuse_gaps(name, values)
    if space is None:
        return columns
    match_names(tuple(columns), space.inputs)
    return {name: columns[name] for name in space.inputs}


def _split(inputs: object, space: ParameterSpace | None) -> dict[str, Array]:
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
    if pd.api.types.is_numeric_dtype(series.dtype):
        return _real(series.to_numpy(), name)
    try:
        return series.to_numpy(dtype=object, na_value=np.nan).astype(np.float64)
    except (TypeError, ValueError):
        row = int(np.flatnonzero(pd.to_numeric(series, errors="coerce").isna() & series.notna())[0])
        raise DataError(
            f"column {name!r} holds {series.iloc[row]!r} in row {row}; it must hold real numbers."
        ) from None


def _real(values: object, name: str) -> Array:
    """Return real numbers as a float64 array of its own."""
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"{name!r} is not an array: {error}.") from error
    if array.dtype.kind not in "fiu":
        raise DataError(f"{name!r} has dtype {array.dtype}; it must hold real numbers (float or integer).")
    return np.array(array, dtype=np.float64)


def _per_run[T: np.generic](values: NDArray[T], n: int, name: str) -> NDArray[T]:
    if values.shape != (n,):
        raise DataError(f"{name!r} has shape {values.shape} but there are {n} runs; give one for each run.")
    return values


def _output(name: str, given: object, n: int, lost: NDArray[np.bool_], unit: Mapping[str, str]) -> xr.DataArray:
    if isinstance(given, xr.DataArray):
        array = given if "run" in given.dims or not given.dims else given.rename({given.dims[0]: "run"})
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
        raise DataError(f"output {name!r} has dims {array.dims}; one of them must be 'run'.")
    if array.sizes["run"] != n:
        raise DataError(
            f"{name!r} has {array.sizes['run']} rows but x has {n} runs; give one row for each run, failed ones too."
        )
    array = array.transpose("run", ...)
    values = _real(array.values, name)
    values[lost] = np.nan
    attrs = {"role": "output", "unit": unit.get(name, str(array.attrs.get("unit", "")))}
    if array.attrs.get("description"):
        attrs["description"] = str(array.attrs["description"])
    coords = {dim: array.coords[dim].variable for dim in array.dims[1:] if dim in array.coords}
    return xr.DataArray(values, dims=array.dims, coords=coords, attrs=attrs)


def _curve(name: str, dim: object, values: object, coordinate: object) -> xr.DataArray:
    y = _real(values, name)
    places = np.asarray(coordinate)
    if y.ndim != 2 or y.shape[1:] != places.shape:
        raise DataError(
            f"output {name!r} has shape {y.shape} and its coordinate {dim!r} has shape {places.shape}; "
            "give values (n, m) and m coordinates."
        )
    return xr.DataArray(y, dims=("run", str(dim)), coords={str(dim): places})


def _check_names(columns: Mapping[str, object], outputs: object) -> None:
    names = [str(name) for name in outputs]  # type: ignore[attr-defined]
    if not names:
        raise DataError("there are no outputs; give name -> one number (or curve) for each run.")
    for name in [*columns, *names]:
        if name in RESERVED:
            raise DataError(
                f"{name!r} is the name of a column of its own in every ensemble; call your variable something else."
            )
    both = [name for name in names if name in columns]
    if both:
        raise DataError(f"{listed(both)} stand among the inputs and the outputs; give each variable its own name.")


def _units(given: Mapping[str, str], space: ParameterSpace | None, names: list[str]) -> dict[str, str]:
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
