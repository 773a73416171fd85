"""Build an ensemble from a pandas table or a CSV file of existing runs."""

import csv
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr

from uqms import _checks as check_path
from uqms._teaching import taught
from uqms._typing import ArrayLike
from uqms.ensemble.building import build, frame_column
from uqms.ensemble.labels import refuse_masks
from uqms.ensemble.states import RunState
from uqms.errors import DataError, FormatError, InputError
from uqms.parameters import Box, ParameterSpace

__all__ = ["from_table"]

Columns = str | tuple[str, Iterable[str], ArrayLike]


@taught
def from_table(
    table: pd.DataFrame | str | Path,
    inputs: ParameterSpace | Iterable[str],
    outputs: Mapping[str, Columns] | Iterable[str],
    *,
    missing: Literal["raise", "failed", "partial"] = "raise",
    box: Box | None = None,
    units: Mapping[str, str] | None = None,
) -> xr.Dataset:
    """Make an ensemble from a table with one row per run.

    Use it when the simulator has already run elsewhere. Columns that are neither inputs nor outputs are left out.

    Parameters
    ----------
    table
        A pandas table or the path of a CSV file with a header line.
    inputs
        The parameter space, whose inputs are columns of the table, or the names of the input columns.
    outputs
        Mapping of each output's name to its column or, for a curve, to ``(dim, columns, coordinates)``. A list of
        column names is enough when all outputs are scalars.
    missing
        Treatment of empty or NaN output cells: "raise" raises an error. "failed" marks the run as failed. "partial"
        keeps the other entries of the run, and marks a run without any entry as failed.
    box, units
        As in `build`.

    Raises
    ------
    DataError
        When a cell cannot be used; the message names the column and the row.
    FormatError
        When the file is not a CSV table.

    Examples
    --------
    >>> frame = pd.DataFrame({"a": [1.0, 2.0], "p": [5.0, 6.0], "c0": [0.0, 1.0], "c7": [2.0, 3.0]})
    >>> table = from_table(frame, ["a"], {"pressure": "p", "conc": ("day", ["c0", "c7"], [0.0, 7.0])})
    >>> table["conc"].sel(day=7.0).values
    array([2., 3.])
    """
    if missing not in ("raise", "failed", "partial"):
        raise InputError(f"missing is {missing!r}; give 'raise', 'failed' or 'partial'.")
    for what, names in (("inputs", inputs), ("outputs", outputs)):
        if isinstance(names, str):
            raise InputError(f"{what} is {names!r}; give a list of names: [{names!r}].")
    frame = table if isinstance(table, pd.DataFrame) else _read_csv(check_path.existing_file("from_table", table))
    if not len(frame):
        raise DataError("the table has no rows; give one row per run.")
    space = inputs if isinstance(inputs, ParameterSpace) else None
    names = space.inputs if space is not None else tuple(str(name) for name in inputs)
    wanted = dict(outputs) if isinstance(outputs, Mapping) else {str(name): str(name) for name in outputs}
    values = {name: _output(frame, name, columns) for name, columns in wanted.items()}
    gaps = [output.isnull().values.reshape(len(frame), -1) for output in values.values()]
    lacking = np.any([gap.any(axis=1) for gap in gaps], axis=0)
    if missing == "raise" and lacking.any():
        row = int(np.argmax(lacking))
        empty = [name for name, gap in zip(values, gaps, strict=True) if gap[row].any()]
        raise DataError(
            f"from_table: {int(lacking.sum())} of {len(frame)} rows lack outputs, the first is run {row}: "
            f"{', '.join(map(repr, empty))}. State what an empty cell means: from_table(..., missing='failed') marks "
            "the run as failed, missing='partial' keeps its other entries."
        )
    lost = lacking if missing == "failed" else np.all([gap.all(axis=1) for gap in gaps], axis=0)
    states = np.where(lacking, np.where(lost, RunState.FAILED, RunState.PARTIAL), RunState.COMPLETED)
    words = np.where(lost, "the table has no output of this run", "some outputs of this run are missing in the table")
    return build(
        {name: frame_column(frame, name) for name in names},
        values,
        states=None if missing == "raise" else states,
        messages=None if missing == "raise" else np.where(lacking, words, ""),
        space=space,
        box=box,
        units=units,
    )


def _output(frame: pd.DataFrame, name: str, columns: object) -> xr.DataArray:
    if isinstance(columns, str):
        return xr.DataArray(frame_column(frame, columns), dims="run")
    if not isinstance(columns, tuple) or len(columns) != 3:
        raise InputError(
            f"output {name!r} is {columns!r}; give the name of a column, or for a curve (dim, columns, coordinates), "
            'such as ("day", ["c0", "c7"], [0.0, 7.0]).'
        )
    dim, parts, places = columns
    if dim == "run":
        raise InputError(
            f"output {name!r} has the dim 'run', which counts the rows of the table; give the dim of its columns "
            "another name, such as 'day'."
        )
    parts = list(parts)
    refuse_masks(places, str(dim))
    coordinate = np.asarray(places)
    if not parts or coordinate.shape != (len(parts),):
        raise DataError(
            f"output {name!r} has {len(parts)} columns but coordinates of shape {coordinate.shape}; give one "
            "coordinate per column."
        )
    stacked = np.stack([frame_column(frame, str(part)) for part in parts], axis=1)
    return xr.DataArray(stacked, dims=("run", dim), coords={dim: coordinate})


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            # pandas takes the first line that is not empty as the header, so the same line is taken here.
            header = next((row for row in csv.reader(file, skipinitialspace=True) if row), [])
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # pandas only warns of a row longer than the header
            # `frame_column` converts text to numbers: it can name the wrong cell, and loses no digit.
            frame = pd.read_csv(path, encoding="utf-8-sig", dtype=str, skipinitialspace=True, index_col=False)
    except FileNotFoundError:
        raise
    except (UnicodeDecodeError, csv.Error, pd.errors.ParserError, pd.errors.ParserWarning, ValueError) as error:
        raise FormatError(
            f"{path} is not a CSV table with a header line: {error}. Give a file in UTF-8 whose first line has the "
            "names of the columns, with one row of numbers per run."
        ) from error
    # pandas silently renames the second of two columns with one name; `frame_column` must see the same name twice.
    frame.columns = pd.Index([name.strip() for name in header])
    return frame
