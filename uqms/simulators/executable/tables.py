"""Columns of numbers in a text, as people and Fortran programs write them."""

import csv
from array import array
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import final

import numpy as np

from uqms._typing import Array
from uqms.errors import OutputError
from uqms.simulators._labels import number
from uqms.simulators.contract import Coordinate

__all__ = ["Table", "parse"]

Titles = tuple[str, ...]


@final
@dataclass(frozen=True, eq=False)
class Table:
    """Rows of a file with the numbers of their lines; as numbers at once when all of them are."""

    name: str
    header: Titles
    width: int
    delimiter: str | None
    rows: Sequence[str]
    lines: Sequence[int]
    all_numbers: Array | None

    def has(self, column: object) -> bool:
        """Return whether there is such a column."""
        return column in self.header if isinstance(column, str) else -self.width <= int(str(column)) < self.width

    def numbers(self, columns: Sequence[str | int]) -> Array:
        """Return columns as numbers, shape (rows, columns).

        Raises
        ------
        OutputError
            When a cell is no number, or when two columns have a title that is asked for.
        """
        places = [self._place(column) for column in columns]
        if self.all_numbers is not None:
            return self.all_numbers[:, places]
        return np.array([[self._number(at, cells, p) for p in places] for at, cells in self._cells()], dtype=np.float64)

    def coordinate(self, title: str) -> Coordinate:
        """Return the column of a dim, numbers or words, shape (rows,)."""
        place = self._place(title)
        if self.all_numbers is not None:
            return self.all_numbers[:, place]
        words = [cells[place] for _, cells in self._cells()]
        values = [number(word) for word in words]
        return np.array(words if None in values else values)

    def _place(self, column: str | int) -> int:
        if isinstance(column, int):
            return column
        if self.header.count(column) > 1:
            raise OutputError(f"{self.name} has two columns {column!r}; choose one by its number, from 0.")
        return self.header.index(column)

    def _cells(self) -> Iterator[tuple[int, Titles]]:
        for at, row in zip(self.lines, self.rows, strict=True):
            yield at, _cells(row, self.delimiter)

    def _number(self, line: int, cells: Titles, place: int) -> float:
        value = number(cells[place])
        if value is None:
            called = f"column {self.header[place]!r}" if self.header else f"column {place}"
            raise OutputError(f"{self.name}, line {line}, {called}: {cells[place][:40]!r} is not a number.")
        return value


def parse(
    text: str,
    name: str,
    delimiter: str | None,
    header: bool,
    comment: str | None,
    skip: int,
    asked: Collection[str] = (),
) -> Table:
    """Split a text into rows; `asked` are the titles that somebody looks for.

    Raises
    ------
    OutputError
        When there is no header or none that is clear, no row, or a row of another length.
    """
    rows, lines, said = [], array("q"), []
    for at, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n")[skip:], skip + 1):
        before, mark, after = line.partition(comment) if comment else (line, "", "")
        if before and not before.isspace():
            rows.append(before)
            lines.append(at)
        elif mark and not rows and after.strip():
            said.append(after)
    titles: Titles = ()
    if header and rows:
        first = _cells(rows[0], delimiter)
        titles = _titles(name, lines[0], first, [_cells(words, delimiter) for words in said], asked)
        if titles == first and any(number(cell) is None for cell in first):
            del rows[0], lines[0]
        if titles and rows and len(titles) != len(_cells(rows[0], delimiter)):
            raise _no_header(name, len(_cells(rows[0], delimiter)), titles)
    if not rows:
        raise OutputError(f"{name} has no row of numbers.")
    width = len(_cells(rows[0], delimiter))
    return Table(name, titles, width, delimiter, rows, lines, _all_numbers(name, rows, lines, delimiter, width))


def _titles(name: str, line: int, first: Titles, comments: Sequence[Titles], asked: Collection[str]) -> Titles:
    """Return the titles of the columns; `first` are the cells of the first line that is no comment.

    A comment above fits when it has as many words as there are columns; so does the first line when not all of it is
    numbers. Of several, the one that names what is asked for counts.
    """
    words = sum(number(cell) is None for cell in first)
    fit = list(dict.fromkeys([*(cells for cells in comments if len(cells) == len(first)), *([first] if words else [])]))
    named = [cells for cells in fit if not set(asked).isdisjoint(cells)]
    if not fit:
        raise _no_header(name, len(first), comments[-1] if comments else ())
    if len(named) == 1:
        return named[0]
    if named or (not asked and 0 < words < len(first)):
        options = " and ".join(repr(" ".join(cells)[:80]) for cells in named or [first])
        raise OutputError(
            f"{name} has no clear header: {options} may name its columns or not (line {line} is the first without a "
            "comment); leave out what stands above the table by skip=, or give header=False and columns by number."
        )
    return fit[-1] if asked or words or len(fit) == 1 else ()  # no titles are needed


def _no_header(name: str, columns: int, found: Titles) -> OutputError:
    return OutputError(
        f"{name} has no header that names its {columns} columns (found: {' '.join(found)[:80]!r}); write one, or give "
        "header=False and columns by number."
    )


def _all_numbers(
    name: str, rows: Sequence[str], lines: Sequence[int], delimiter: str | None, width: int
) -> Array | None:
    """Return all cells, shape (rows, columns), or None when some need a closer look; refuse rows of another length."""
    with suppress(ValueError):  # numpy reads a part of what `number` does, and that alike, in far less time and memory
        return np.loadtxt(rows, np.float64, comments=None, delimiter=delimiter, ndmin=2)
    for line, row in zip(lines, rows, strict=True):
        cells = len(_cells(row, delimiter))
        if cells != width:
            raise OutputError(f"{name}, line {line} has {cells} columns instead of {width}; was the file cut off?")
    return None


def _cells(line: str, delimiter: str | None) -> Titles:
    if delimiter is None:
        return tuple(line.split())
    try:
        return tuple(cell.strip() for cell in next(csv.reader([line], delimiter=delimiter)))
    except csv.Error:
        return tuple(cell.strip() for cell in line.split(delimiter))
