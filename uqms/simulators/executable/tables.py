"""Columns of numbers in a text, as people and Fortran programs write them."""

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from uqms._typing import Array
from uqms.errors import OutputError

__all__ = ["Table", "parse"]

_EXPONENT = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))([+-]\d{3})")  # Fortran leaves the E out of 1.0E-100
_STARS = re.compile(r"\*+")  # and writes these for what does not fit

Column = str | int | Sequence[str | int]


@final
@dataclass(frozen=True)
class Table:
    """Cells of a file, with the numbers of their lines."""

    name: str
    header: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]

    def has(self, column: Column) -> bool:
        """Return whether there is such a column, or all of them."""
        wide = len(self.cells[0])
        return all(c in self.header if isinstance(c, str) else -wide <= c < wide for c in _list(column))

    def numbers(self, column: Column) -> Array:
        """Return the columns as numbers, shape (rows, columns)."""
        places = [self.header.index(c) if isinstance(c, str) else c for c in _list(column)]
        return np.array([[self._number(r, p) for p in places] for r in range(len(self.cells))], dtype=np.float64)

    def _number(self, row: int, place: int) -> float:
        text = self.cells[row][place].strip()
        value = number(text)
        if value is None:
            called = f"column {self.header[place]!r}" if self.header else f"column {place}"
            raise OutputError(f"{self.name}, line {self.lines[row]}, {called}: {text[:40]!r} is not a number.")
        return value


def parse(text: str, name: str, delimiter: str | None, header: bool, comment: str | None, skip: int) -> Table:
    """Split a text into cells.

    Raises
    ------
    OutputError
        When there is no header, no row, or a row of another length.
    """
    rows, lines, said = [], [], ""
    for at, line in enumerate(text.splitlines()[skip:], skip + 1):
        before, mark, after = line.partition(comment) if comment else (line, "", "")
        if before.strip():
            rows.append(_cells(before, delimiter))
            lines.append(at)
        elif mark and not rows:
            said = after
    titles: tuple[str, ...] = ()
    if header:
        titles = _cells(said, delimiter) if said.strip() else ()
        words = sum(number(cell) is None for cell in rows[0]) if rows else 0
        above = rows and len(titles) == len(rows[0]) and words < len(rows[0])
        if words and not above:
            titles, rows, lines = rows[0], rows[1:], lines[1:]
        if rows and len(titles) != len(rows[0]):
            raise OutputError(
                f"{name} has no header that names its {len(rows[0])} columns (found: {' '.join(titles)[:80]!r}); write "
                "one, or give header=False and columns by number."
            )
    if not rows:
        raise OutputError(f"{name} has no row of numbers.")
    for cells, at in zip(rows, lines, strict=True):
        if len(cells) != len(rows[0]):
            raise OutputError(
                f"{name}, line {at} has {len(cells)} columns instead of {len(rows[0])}; was the file cut off?"
            )
    return Table(name, titles, tuple(rows), tuple(lines))


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


def _cells(line: str, delimiter: str | None) -> tuple[str, ...]:
    if delimiter is None:
        return tuple(line.split())
    try:
        return tuple(cell.strip() for cell in next(csv.reader([line], delimiter=delimiter)))
    except csv.Error:
        return tuple(cell.strip() for cell in line.split(delimiter))


def _list(column: Column) -> list[str | int]:
    return [column] if isinstance(column, str | int) else list(column)
