"""Export runs from the store as an ensemble, as a netCDF file of any size, or as a CSV table."""

import csv
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import h5netcdf
import numpy as np
import xarray as xr

from uqms._typing import Array
from uqms.ensemble import build, to_netcdf
from uqms.ensemble.netcdf import atomic_path
from uqms.ensemble.states import flag_attrs, state_of
from uqms.errors import InputError
from uqms.parameters import Box
from uqms.runs.campaign import digest
from uqms.runs.format import Layout, Stored
from uqms.runs.reading import Index, Outputs

__all__ = ["ensemble", "export"]

_IN_MEMORY = 2**27  # bytes of outputs up to which a netCDF file is written at once
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # characters by which spreadsheets recognise a formula


def export(known: Stored, index: Index, outputs: Outputs, path: Path) -> None:
    """Write the runs of a campaign to a file, completely or not at all."""
    if path.suffix not in (".nc", ".csv"):
        raise InputError(
            f"the name of the export file {str(path)!r} selects no format; give a name that ends in .nc (netCDF) or "
            ".csv (table)."
        )
    if path.suffix == ".csv":
        _to_csv(known, index, outputs, path)
    elif 8 * known.layout.width * len(index.keys) <= _IN_MEMORY:
        to_netcdf(ensemble(known, index, outputs.of(index.keys)), path)
    else:
        _to_netcdf_in_blocks(known, index, outputs, path)


def ensemble(known: Stored, index: Index, outputs: Mapping[str, Array]) -> xr.Dataset:
    """Return the ensemble that `uqms.run` returned, with rows in the order of their inputs."""
    return _build(known, index, {name: _array(known.layout, name, values) for name, values in outputs.items()})


def _build(known: Stored, index: Index, table: Mapping[str, object], with_states: bool = True) -> xr.Dataset:
    made = build(
        _design(known, index),
        table,
        states=index.states if with_states else None,
        seconds=index.seconds,
        messages=np.array(index.messages, dtype=object),
        seeds=index.seeds,
        replicates=None if index.seeds is None else index.replicates,
        fidelity=known.fidelity or None,
        units={name: unit for name, (_, unit) in known.layout.outputs.items() if unit and name in table},
        simulator=known.identity,
    )
    return made.assign_attrs(rng=known.about["rng"]) if "rng" in known.about and _of_one_call(known, index) else made


def _array(layout: Layout, name: str, values: Array) -> xr.DataArray:
    dims = layout.outputs[name][0]
    return xr.DataArray(values, dims=("run", *dims), coords={dim: np.array(layout.coords[dim]) for dim in dims})


def _design(known: Stored, index: Index) -> xr.Dataset:
    keys = ("space", "box", "design") if _of_one_call(known, index) else ("space", "box")
    about = {key: known.about[key] for key in keys if key in known.about}
    if "box" in about:
        box = Box.from_dict(json.loads(about["box"]))
        x = index.x[:, [known.inputs.index(name) for name in box.names]]
        if not ((np.array(box.lower) <= x) & (x <= np.array(box.upper))).all():
            # The store has runs of other designs outside of this box, so the design box is the range of all runs.
            about = {key: text for key, text in about.items() if key == "space"}
    return xr.Dataset({name: ("run", index.x[:, i]) for i, name in enumerate(known.inputs)}, attrs=about)


def _of_one_call(known: Stored, index: Index) -> bool:
    """Return whether the stored runs are exactly the runs of the last call of `run`."""
    return known.about.get("runs") == digest(index.keys)


# -------------------------------------------------------------------------------------------------------------- netCDF
def _to_netcdf_in_blocks(known: Stored, index: Index, outputs: Outputs, path: Path) -> None:
    """Write a netCDF file block by block, for outputs that do not fit into memory; `from_netcdf` reads it as usual."""
    first = ensemble(known, index.part(slice(1)), outputs.of(index.keys[:1]))
    names = tuple(known.layout.outputs)
    # Everything except the outputs fits into memory. `build` requires an output, so it gets a placeholder.
    small = _build(known, index, {names[0]: np.zeros(len(index.keys))}, with_states=False).drop_vars(names[0])
    small = small.assign(state=xr.Variable("run", index.states.astype(np.int8), flag_attrs()))
    small = small.assign_coords({dim: first[dim].variable for dim in known.layout.coords})
    with atomic_path(path) as part:
        small.to_netcdf(part, engine="h5netcdf", encoding={name: {"_FillValue": None} for name in small.variables})
        with h5netcdf.File(part, "a") as file:
            for name in names:
                file.create_variable(name, first[name].dims, "<f8").attrs.update(first[name].attrs)
            for rows in _blocks(index, outputs):
                for name, values in outputs.of(index.keys[rows]).items():
                    file.variables[name][rows] = values
            file.attrs["uqms_sha256"] = _checksum(small, file, names, list(_blocks(index, outputs)))


def _blocks(index: Index, outputs: Outputs) -> Iterator[slice]:
    n, step = len(index.keys), outputs.at_once
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def _checksum(small: xr.Dataset, file: h5netcdf.File, outputs: Sequence[str], blocks: Sequence[slice]) -> str:
    """Return the checksum that `uqms.ensemble.netcdf` writes to every netCDF file, computed block by block."""
    digest = hashlib.sha256()
    for name in sorted([*map(str, small.variables), *outputs]):
        if name in outputs:
            variable = file.variables[name]
            digest.update(repr((name, tuple(variable.dimensions), tuple(variable.shape), "<f8")).encode())
            for rows in blocks:
                digest.update(np.ascontiguousarray(variable[rows]).tobytes())
            continue
        values = small.variables[name].values
        text = values.dtype.kind in "OUT"
        kind = "str" if text else values.dtype.str
        digest.update(repr((name, small.variables[name].dims, values.shape, kind)).encode())
        digest.update(repr([str(v) for v in values.ravel()]).encode() if text else values.tobytes())
    return digest.hexdigest()


# ----------------------------------------------------------------------------------------------------------------- CSV
def _to_csv(known: Stored, index: Index, outputs: Outputs, path: Path) -> None:
    header = [*known.inputs, "state", "seconds", "message", "replicate", "seed"]
    header += [column for name in known.layout.outputs for column in _columns(known.layout, name)]
    with atomic_path(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(map(_neutral, header))
        for rows in _blocks(index, outputs):
            block = outputs.of(index.keys[rows])
            wide = np.concatenate([values.reshape(len(values), -1) for values in block.values()], axis=1)
            for row, values in zip(range(rows.start, rows.stop), wide, strict=True):
                writer.writerow([*_about(index, row), *map(_number, values.tolist())])


def _columns(layout: Layout, name: str) -> list[str]:
    dims = layout.outputs[name][0]
    places = itertools.product(*(layout.coords[dim] for dim in dims))
    return [f"{name}[{','.join(map(str, place))}]" for place in places] if dims else [name]


def _about(index: Index, row: int) -> list[str]:
    seed = "" if index.seeds is None else str(index.seeds[row])
    state = state_of(index.states[row]).value
    said = [state, _number(float(index.seconds[row])), _neutral(index.messages[row]), str(index.replicates[row]), seed]
    return [*map(_number, index.x[row].tolist()), *said]


def _number(value: float) -> str:
    return "" if value != value else repr(value)


def _neutral(text: str) -> str:
    """Return a text that no spreadsheet interprets as a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text
