"""Labels that results carry, against those that a simulator declares."""

import math
import re
import sys
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from uqms.errors import OutputError
from uqms.simulators.contract import Coordinate

__all__ = ["aligned", "number", "refuse_other_places"]

_ROUNDED = 1e-3  # of the distance between coordinates: a file may have few digits
_EXPONENT = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))([+-]\d{3})")  # Fortran leaves the E out of 1.0E-100
_STARS = re.compile(r"\*+")  # and writes these for what does not fit


def refuse_other_places(what: str, dim: str, got: object, declared: Coordinate, hint: str = "") -> None:
    """Raise when results come at other coordinates; those of another number are told by the shape of the outputs.

    Raises
    ------
    OutputError
        Names the first that differs.
    """
    values = np.asarray(got)
    if values.shape != declared.shape:
        return
    other = ~_close(values, declared)
    if other.any():
        at = int(other.argmax())
        raise OutputError(
            f"{what} comes at other values of {dim!r} than declared in coords: number {at} is {values[at]} instead of "
            f"{declared[at]}{hint}."
        )


def _close(got: Coordinate, declared: Coordinate) -> NDArray[np.bool_]:
    if declared.dtype.kind != "f":
        return np.array([_is_word(str(word), str(wanted)) for word, wanted in zip(got, declared, strict=True)])
    values = got.astype(np.float64) if got.dtype.kind in "fiu" else np.array([_number(str(word)) for word in got])
    wanted = declared.astype(np.float64)
    gaps = np.diff(np.sort(wanted))
    slack = _ROUNDED * gaps.min() if gaps.size else np.finfo(np.float32).eps * np.abs(wanted)
    return np.asarray(np.abs(values - wanted) <= slack)


def _is_word(word: str, wanted: str) -> bool:
    return word.strip() == wanted or _number(word) == _number(wanted)  # NaN, of words, equals nothing


def _number(word: str) -> float:
    value = number(word)
    return math.nan if value is None else value


def aligned(
    name: str,
    got: object,
    dims: tuple[str, ...],
    coords: Mapping[str, Coordinate],
    unit: str | None,
) -> object:
    """Put labelled values into the declared order; coordinates and unit must be the declared ones.

    Raises
    ------
    OutputError
        When dims, coordinates or unit are other ones.
    """
    xarray, pandas = sys.modules.get("xarray"), sys.modules.get("pandas")
    if pandas is not None and isinstance(got, pandas.Series | pandas.DataFrame):
        for axis, dim in zip(got.axes, dims, strict=False):
            if axis.name == dim or not (isinstance(axis, pandas.RangeIndex) and (axis.start, axis.step) == (0, 1)):
                hint = "; reindex it, or go by position with .to_numpy()"
                refuse_other_places(f"output {name!r}", dim, axis, coords[dim], hint)
    if xarray is None or not isinstance(got, xarray.DataArray):
        return got
    if set(got.dims) != set(dims):
        raise OutputError(f"output {name!r} has the dims {got.dims}, but it is declared with {dims}.")
    for dim in dims:
        if dim in got.coords:
            refuse_other_places(f"output {name!r}", dim, got.coords[dim].values, coords[dim])
    its = got.attrs.get("units")
    if unit is not None and isinstance(its, str) and its.split() != unit.split():
        raise OutputError(f"output {name!r} comes in {its!r}, but units declares {unit!r}; write it as it is.")
    return got.transpose(*dims).values


def number(text: str) -> float | None:
    """Return the number that a cell holds, NaN where Fortran had no room for it, or None."""
    if "_" in text:  # Python's own way of writing 1000
        return None
    text = text.strip()
    if _STARS.fullmatch(text):
        return math.nan
    plain = _EXPONENT.sub(r"\1E\2", text) if _EXPONENT.fullmatch(text) else text
    try:
        return float(plain.replace("D", "E").replace("d", "e"))
    except ValueError:
        return None
