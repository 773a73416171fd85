r"""Numbers and words of a report, each with the object that it comes from; and how a source is read.

A source is a path and keys, ``posterior.summary:beta:mean``. The path starts with the name of an argument of
`credibility_report` and goes through attributes; a method is called without arguments. Each key is a row or a column
of a table, a key of a mapping, the place in an array, or again an attribute. Rows without a name of their own are
"#0", "#1", ...; a colon inside of a key is written "\:".
"""

import inspect
import math
import numbers
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import pandas as pd
import xarray as xr

from uqms.errors import UnknownKeyError

__all__ = ["Number", "Sources", "Words", "in_words", "row_keys", "shown", "source_of"]


@final
@dataclass(frozen=True)
class Number:
    """A number as it is printed, its exact value, and its source."""

    value: float
    source: str
    text: str


@final
@dataclass(frozen=True)
class Words:
    """Text of an object, and its source; `display` is how it is printed, where that differs."""

    text: str
    source: str
    display: str = ""


def shown(value: Any) -> str:
    """Return a number with four significant digits, whole numbers in full, NaN in words."""
    if not math.isfinite(value):
        return "not available" if math.isnan(value) else ("infinite" if value > 0 else "minus infinity")
    if isinstance(value, numbers.Integral) or (float(value).is_integer() and abs(value) < 1e6):
        return f"{int(value)}"
    return f"{value:.4g}"


def in_words(value: object) -> str:
    """Return text, and of anything else what Python prints for it, without addresses in memory."""
    value = value.item() if isinstance(value, np.generic) else value
    return re.sub(r" at 0x[0-9a-fA-F]+", "", value if isinstance(value, str) else repr(value))


def source_of(path: str, *keys: object) -> str:
    """Return a source in text."""
    return ":".join([path, *(str(key).replace("\\", "\\\\").replace(":", "\\:") for key in keys)])


@final
@dataclass(frozen=True, eq=False)
class Sources:
    """The objects of a report by name, and what was read from them; methods are called once."""

    objects: Mapping[str, Any]
    _read: dict[str, Any] = field(default_factory=dict)

    def at(self, path: str, *keys: object) -> Any:
        """Return what a source stands for.

        Raises
        ------
        UnknownKeyError
            When there is no such object, attribute, row or column.
        """
        found: Any = self.objects
        so_far = ""
        for name in path.split("."):
            so_far = f"{so_far}.{name}" if so_far else name
            found = self._once(so_far, found, name)
        for i, key in enumerate(keys):
            if isinstance(found, pd.DataFrame):
                return _cell(found, [str(key) for key in keys[i:]])
            so_far = source_of(so_far, key)
            found = self._once(so_far, found, str(key))
        return found

    def _once(self, name: str, owner: Any, key: str) -> Any:
        if name not in self._read:
            self._read[name] = _step(owner, key)
        return self._read[name]

    def number(self, path: str, *keys: object, text: str | None = None) -> Number:
        """Return a number with its source; `text` is how it is printed, four significant digits by default."""
        value = self.at(path, *keys)
        value = value.item() if hasattr(value, "item") else value
        return Number(value, source_of(path, *keys), shown(value) if text is None else text)

    def words(self, path: str, *keys: object) -> Words:
        """Return text with its source; of anything else, what Python prints for it."""
        return Words(in_words(self.at(path, *keys)), source_of(path, *keys))

    def value(self, path: str, *keys: object) -> Number | Words:
        """Return a number, or the text of anything else, with its source."""
        value = self.at(path, *keys)
        plain = isinstance(value, numbers.Real | np.generic) and not isinstance(value, bool | np.bool_ | np.str_)
        scalar = isinstance(value, xr.DataArray) and value.ndim == 0
        return self.number(path, *keys) if plain or scalar else self.words(path, *keys)


def _step(owner: Any, key: str) -> Any:
    if isinstance(owner, Mapping) and key in owner:
        return owner[key]
    if isinstance(owner, xr.DataArray) and "bound" in owner.coords and key in owner["bound"].values:
        return owner.sel(bound=key)
    if key.isdigit() and isinstance(owner, list | tuple | np.ndarray | xr.DataArray) and int(key) < len(owner):
        return owner[int(key)]
    if not key.startswith("_") and hasattr(owner, key):
        found = getattr(owner, key)
        return found() if inspect.isroutine(found) else found
    raise UnknownKeyError(f"a report has no {key!r} in a {type(owner).__name__}.")


def row_keys(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """Return the keys of each row: its label as text, of several levels one each; "#place" where labels repeat."""
    labels = [tuple(map(str, label)) if isinstance(label, tuple) else (str(label),) for label in table.index]
    numbered = isinstance(table.index, pd.RangeIndex) or len(set(labels)) < len(labels)
    return [(f"#{i}",) for i in range(len(labels))] if numbered else labels


def _cell(table: pd.DataFrame, keys: list[str]) -> Any:
    columns, rows = [str(name) for name in table.columns], row_keys(table)
    if len(keys) > 2 and keys[-1].isdigit() and keys[-2] in columns:  # an end of a range
        return _cell(table, keys[:-1])[int(keys[-1])]
    *row, column = keys
    if column not in columns or tuple(row) not in rows:
        raise UnknownKeyError(f"a report has no row {row} with a column {column!r} in a table of {columns}.")
    return table.iat[rows.index(tuple(row)), columns.index(column)]
