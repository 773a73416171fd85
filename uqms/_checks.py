"""Checks of arguments that all rooms share: what was got, what is accepted, and how to mend it."""

import json
import keyword
import math
import numbers
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from uqms._typing import Array, ArrayLike
from uqms.errors import InputError, MissingFileError

# Words that the ensemble (run, state, ...) and ArviZ (chain, draw) use beside the names of parameters.
RESERVED = ("run", "state", "seconds", "message", "seed", "replicate", "fidelity", "cost", "chain", "draw")


def number(owner: str, field: str, value: object, *, infinite: bool = False) -> float:
    """Return `value` as a float, or raise an InputError that names the owner and the field."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise InputError(f"{owner}: {field} is {value!r} ({type(value).__name__}); give a number.")
    try:
        out = float(value)
    except OverflowError:
        raise InputError(f"{owner}: {field} is too large for a float; give a number below 1.8e308.") from None
    if math.isnan(out):
        raise InputError(f"{owner}: {field} is NaN; give a number.")
    if math.isinf(out) and not infinite:
        raise InputError(f"{owner}: {field} is {out}; give a finite number.")
    return out


def positive(owner: str, field: str, value: object) -> float:
    """Return `value` as a finite float above zero."""
    out = number(owner, field, value)
    if out <= 0.0:
        raise InputError(f"{owner}: {field} is {out:g}; it has to be above 0.")
    return out


def ordered(owner: str, low: float, high: float) -> None:
    """Raise unless low < high."""
    if not low < high:
        hint = "swap them" if low > high else "a value that is known needs no prior: write it into the simulator"
        raise InputError(f"{owner}: low is {low:g} and high is {high:g}; low has to be below high ({hint}).")


def text(owner: str, field: str, value: object) -> str:
    """Return `value` when it is a str."""
    if not isinstance(value, str):
        raise InputError(f"{owner}: {field} is {value!r} ({type(value).__name__}); give a str.")
    return value


def name(value: object, kind: str) -> str:
    """Return `value` when it can be the name of an input: simulators get their inputs as keyword arguments."""
    if not isinstance(value, str):
        raise InputError(f"The name of a {kind} is {value!r} ({type(value).__name__}); give a str.")
    if not value.strip():
        raise InputError(f"The name of a {kind} is empty ({value!r}); give it a name such as 'beta'.")
    if not value.isidentifier() or keyword.iskeyword(value):
        raise InputError(
            f"{value!r} cannot be the name of a {kind}: simulators get it as a keyword argument, so it has to be a "
            "Python identifier (letters, digits and _, not beginning with a digit) and not a Python keyword."
        )
    if unicodedata.normalize("NFKC", value) != value:
        raise InputError(
            f"{value!r} cannot be the name of a {kind}: Python reads it as {unicodedata.normalize('NFKC', value)!r}; "
            "use that spelling."
        )
    if value in RESERVED:
        raise InputError(
            f"{value!r} cannot be the name of a {kind}: tables of runs and posteriors use the words "
            f"{', '.join(RESERVED)} themselves; choose another name."
        )
    return value


def real_array(value: ArrayLike, what: str) -> Array:
    """Return `value` as float64; bool, str, object and complex are refused (none of them is meant as a number)."""
    try:
        raw = np.asarray(value)
    except ValueError as error:
        raise InputError(f"{what} cannot be read as an array ({error}); give rows of equal length.") from None
    if raw.dtype.kind not in "iuf":
        raise InputError(f"{what} has dtype {raw.dtype}; give real numbers.")
    return raw.astype(np.float64, copy=False)


def columns(values: Any, names: Sequence[str], what: str) -> Array:
    """Return `values` as (..., d) with the columns `names`, from an array or from a mapping or table."""
    if not hasattr(values, "keys"):
        out = real_array(values, what)
        if out.ndim == 0 or out.shape[-1] != len(names):
            raise InputError(
                f"{what} has shape {out.shape}; its last axis has to hold the {len(names)} columns {', '.join(names)}."
            )
        return out
    missing = [n for n in names if n not in values]
    if missing:
        raise InputError(f"{what} has no {', '.join(missing)}; it needs {', '.join(names)}.")
    parts = [real_array(values[n], f"{what}[{n!r}]") for n in names]
    try:
        return np.stack(np.broadcast_arrays(*parts), axis=-1)
    except ValueError:
        shapes = ", ".join(f"{n} {p.shape}" for n, p in zip(names, parts, strict=True))
        raise InputError(f"The columns of {what} differ in shape: {shapes}.") from None


def fields(owner: str, data: object, wanted: Iterable[str], optional: Iterable[str] = ()) -> dict[str, Any]:
    """Return the JSON object `data` when it has exactly the wanted keys (and perhaps optional ones)."""
    if not isinstance(data, Mapping):
        raise InputError(f"{owner}: expected a JSON object, got {type(data).__name__}.")
    missing = [key for key in wanted if key not in data]
    unknown = [str(key) for key in data if key not in {*wanted, *optional}]
    if missing or unknown:
        parts = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has unknown {', '.join(unknown)}"] * bool(unknown)
        raise InputError(f"{owner}: the JSON object {' and '.join(parts)}; it holds {', '.join([*wanted, *optional])}.")
    return dict(data)


def to_number(value: float) -> float | str:
    """Encode a float for strict JSON, which has no infinity."""
    return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def from_number(value: object) -> object:
    """Undo `to_number`; everything else is left to the checks of the prior."""
    return {"inf": math.inf, "-inf": -math.inf}.get(value, value) if isinstance(value, str) else value


def load_json(source: str | bytes, owner: str) -> Any:
    """Parse strict JSON: duplicate keys, NaN and numbers beyond float64 are refused."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                raise InputError(f"{owner}: the key {key!r} stands twice in the JSON; keep one.")
            seen[key] = value
        return seen

    def constant(word: str) -> NoReturn:
        raise InputError(f"{owner}: {word} is not JSON; give numbers.")

    def finite(digits: str) -> float:
        if math.isinf(value := float(digits)):
            raise InputError(f"{owner}: the number {digits[:40]} in the JSON is too large for a float.")
        return value

    try:
        return json.loads(
            source, object_pairs_hook=unique, parse_constant=constant, parse_float=finite, parse_int=finite
        )
    except InputError:
        raise
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{owner}: this is not JSON that uqms wrote ({error}).") from None


def is_whole(value: object, least: int) -> bool:
    """Return whether a value is a whole number of at least `least`; bool is none."""
    return not isinstance(value, bool | np.bool_) and isinstance(value, numbers.Integral) and int(value) >= least


def whole(owner: str, field: str, value: object, *, least: int = 1, optional: bool = False) -> None:
    """Raise unless `value` is a whole number of at least `least`, or None where it is `optional`."""
    if not (is_whole(value, least) or (optional and value is None)):
        hint = ", or None" if optional else ""
        raise InputError(f"{owner}: {field} is {value!r}; give a whole number of at least {least}{hint}.")


def is_number(value: object) -> bool:
    """Return whether a value is a finite real number; bool is none."""
    return not isinstance(value, bool | np.bool_) and isinstance(value, numbers.Real) and math.isfinite(value)


def probability(owner: str, field: str, value: object) -> float:
    """Return `value` as a float strictly between 0 and 1."""
    if not (is_number(value) and 0.0 < float(value) < 1.0):  # type: ignore[arg-type]
        raise InputError(f"{owner}: {field} is {value!r}; give a probability between 0 and 1, such as 0.95.")
    return float(value)  # type: ignore[arg-type]


def count(field: str, value: object) -> int:
    """Return `value` as an int above zero."""
    if not is_whole(value, 1):
        raise InputError(f"{field} is {value!r}; give a whole number above 0.")
    return int(value)  # type: ignore[call-overload, no-any-return]


def path(owner: str, value: object) -> Path:
    """Return `value` as a path; a leading "~" is the home folder."""
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"{owner}: path is {value!r} ({type(value).__name__}); give a path such as 'results.nc'.")
    try:
        return Path(value).expanduser()
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"{owner}: path is {value!r}, which is no path ({error}); give one such as 'results.nc'."
        ) from None


def existing_file(owner: str, value: object) -> Path:
    """Return `value` as the path of a file that exists."""
    found = path(owner, value)
    if found.is_file():
        return found
    if found.is_dir():
        raise MissingFileError(f"{owner}: {found} is a folder; give the path of the file in it.")
    folder = found.parent
    if not folder.is_dir():
        raise MissingFileError(f"{owner}: there is no file {found}, since there is no folder {folder.resolve()}.")
    like = sorted(one.name for one in folder.iterdir() if one.suffix == found.suffix and one.is_file())
    beside = f"; it has {', '.join(like[:5])}{', ...' if len(like) > 5 else ''}" if like else ""
    raise MissingFileError(f"{owner}: there is no file {found.name!r} in the folder {folder.resolve()}{beside}.")
