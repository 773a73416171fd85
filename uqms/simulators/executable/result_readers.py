"""What a run has left in its directory, read into named numbers.

A reader never trusts the file: it may be missing, empty, truncated, too large, binary, or a link to somewhere else.
Numbers that are not finite are passed on, so that a run is told with their place. Outputs that a file does not have are
left out, so that the others are kept.
"""

import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, final, runtime_checkable

from uqms._teaching import taught
from uqms._typing import Array
from uqms.errors import InputError, OutputError, UnsafeFileError
from uqms.simulators._json import spelled
from uqms.simulators.executable.run_folder import inside, result_file

__all__ = ["JSONFile", "NetCDFFile", "Reader", "TextTable"]

_LIMIT = 256 * 2**20

Dims = Mapping[str, tuple[str, ...]]
Place = str | Sequence[str | int]


@runtime_checkable
class Reader(Protocol):
    """What reads one result file; `JSONFile`, `TextTable` and `NetCDFFile` look like this."""

    @property
    def path(self) -> str:
        """The file, relative to the run directory."""
        ...

    @property
    def names(self) -> tuple[str, ...] | None:
        """The outputs to look for; None to look for every output under its own name."""
        ...

    def read(self, folder: Path, outputs: Dims) -> dict[str, object]:
        """Return those of `outputs` (name -> dims) that the file has.

        What it returns under the name of a dim are coordinates, which have to be the declared ones.
        """
        ...


@taught
@final
@dataclass(frozen=True)
class JSONFile:
    """Results in a JSON file.

    Use it when you can choose what the simulator writes: numbers keep all of their digits.

    Parameters
    ----------
    path
        The file, relative to the run directory.
    keys
        Output -> where it stands: ``"flow.peak"`` is ``{"flow": {"peak": ...}}``, ``"cells.0.v"`` goes through a list,
        a sequence such as ``("p.mean", 0)`` takes keys that hold a dot. By default each output stands at the top under
        its own name; a file that is one number or one list is the only output. A list at the top under the name of a
        dim holds its coordinates; they must be the declared ones.
    size_limit
        Bytes; a larger file is not read.

    Raises
    ------
    PathError
        When `path` leads out of the run directory.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "out.json").write_text('{"flow": {"peak": 2.5}}')
    ...     JSONFile("out.json", keys={"q": "flow.peak"}).read(Path(folder), {"q": ()})
    {'q': 2.5}
    """

    path: str
    keys: Mapping[str, Place] | None = None
    size_limit: int = _LIMIT

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", inside(self.path, "path"))
        if self.keys is not None:
            object.__setattr__(self, "keys", _checked_places(self.keys, "keys", "'p.mean' or ('p', 0)", _is_way))

    @property
    def names(self) -> tuple[str, ...] | None:
        """The outputs to look for; None to look for every output under its own name."""
        return None if self.keys is None else tuple(self.keys)

    def read(self, folder: Path, outputs: Dims) -> dict[str, object]:
        """Return those of `outputs` (name -> dims) that the file has.

        Raises
        ------
        OutputError
            When the file is missing, empty, truncated, too large or no JSON.
        """
        data = result_file(folder, self.path, self.size_limit).read_bytes()
        try:
            found = self._parsed(data)
        except (ValueError, RecursionError) as error:
            raise OutputError(f"{self.path} is not JSON ({error}); it {_looks(data)}.") from error
        if not isinstance(found, dict) and self.keys is None and len(outputs) == 1:
            return {next(iter(outputs)): _holes(found)}
        got = {}
        for name in outputs:
            if self.keys is None or name in self.keys:
                place = _at(found, [name] if self.keys is None else _steps(self.keys[name]))
                if place is not _NOTHING:
                    got[name] = _holes(place)
        there = found if isinstance(found, dict) else {"one value without a name": found}
        return _some(got, outputs, self.path, there) | {
            dim: _holes(there[dim]) for dim in _dims(outputs) if isinstance(there.get(dim), list)
        }

    def _parsed(self, data: bytes) -> object:
        # Every number becomes a float at once. NaN and Infinity are no JSON, but Python writes them; C has nan and inf.
        loads = functools.partial(json.loads, parse_int=float, object_pairs_hook=self._unique)
        try:
            return loads(data)
        except json.JSONDecodeError:
            readable = spelled(data.decode("utf-8", errors="surrogateescape"))
            try:
                return loads(readable)
            except ValueError:
                pass
            raise  # about the text as it is

    def _unique(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
            raise OutputError(f"{self.path} holds {twice!r} twice; which one counts?")
        return found


@taught
@final
@dataclass(frozen=True)
class TextTable:
    r"""Results in columns of a text file: CSV, tabs, or what a Fortran program writes.

    An output with one dim is a whole column. A scalar output is the only row, or the one that `row` says. A column with
    the name of that dim holds its coordinates, which must be the declared ones.

    Parameters
    ----------
    path
        The file, relative to the run directory.
    columns
        Output -> name or number (from 0) of its column, or a list of them: then the columns are the last dim, after the
        rows when the output has two dims. By default each output is the column of its own name; without a header the
        outputs are all columns in their order.
    delimiter
        What stands between columns; by default a comma in a file called .csv, a tab in .tsv, white space elsewhere.
    header
        A line names the columns: the first one, or a comment above it that has as many words as there are columns. When
        several can be meant, the one that names an output counts; when that is not clear, the file is refused.
    comment
        What begins a line (or the rest of one) that is no data; None when nothing does.
    skip
        Lines to leave out at the start.
    row
        The row of scalar outputs, -1 for the last. By default there must be one row only.
    final_newline
        The file ends with the end of a line; one that does not may have lost digits of its last number. False for
        programs that never write that.
    size_limit
        Bytes; a larger file is not read.

    Raises
    ------
    InputError
        When something cannot be meant, such as names in `columns` without a header.
    PathError
        When `path` leads out of the run directory.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "out.dat").write_text("# t p\n 0.0 1.0D+1\n 0.5 12.5\n")
    ...     TextTable("out.dat").read(Path(folder), {"p": ("t",)})
    {'p': array([10. , 12.5]), 't': array([0. , 0.5])}
    """

    path: str
    columns: Mapping[str, str | int | Sequence[str | int]] | None = None
    delimiter: str | None = None
    header: bool = True
    comment: str | None = "#"
    skip: int = 0
    row: int | None = None
    final_newline: bool = True
    size_limit: int = _LIMIT

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", inside(self.path, "path"))
        if self.columns is not None:
            columns = _checked_places(self.columns, "columns", "a name, a number from 0 or a list of them", _is_column)
            object.__setattr__(self, "columns", columns)
            named = [c for column in columns.values() for c in _each(column) if isinstance(c, str)]
            if named and not self.header:
                raise InputError(f"columns names {named[0]!r}, but header=False; give numbers from 0.")
        if self.delimiter is not None and (not isinstance(self.delimiter, str) or len(self.delimiter) != 1):
            raise InputError(f"delimiter is {self.delimiter!r}; give one character, or None for white space.")
        if not _is_whole(self.skip) or self.skip < 0:
            raise InputError(f"skip is {self.skip!r}; give a number of lines.")
        if self.row is not None and not _is_whole(self.row):
            raise InputError(f"row is {self.row!r}; give a number from 0, or -1 for the last row.")

    @property
    def names(self) -> tuple[str, ...] | None:
        """The outputs to look for; None to look for every output under its own name."""
        return None if self.columns is None else tuple(self.columns)

    def read(self, folder: Path, outputs: Dims) -> dict[str, object]:
        """Return those of `outputs` (name -> dims) that the file has.

        Raises
        ------
        OutputError
            When the file is missing, empty, truncated, too large or no table of numbers.
        """
        from uqms.simulators.executable.tables import parse

        data = result_file(folder, self.path, self.size_limit).read_bytes()
        if b"\0" in data:
            raise OutputError(f"{self.path} is no text; it {_looks(data)}.")
        delimiter = self.delimiter or {".csv": ",", ".tsv": "\t"}.get(Path(self.path).suffix.lower())
        text = data.decode("utf-8-sig", errors="replace")
        if self.final_newline and not text.endswith(("\n", "\r")):
            raise OutputError(
                f"{self.path} does not end with the end of a line (but with {text[-20:]!r}): was it cut off? If the "
                "program never writes that, give TextTable(..., final_newline=False)."
            )
        wanted = self.columns
        if wanted is None:
            wanted = {name: name if self.header else number for number, name in enumerate(outputs)}
        places = {name: _each(wanted[name]) for name in outputs if name in wanted}
        asked = {title for columns in places.values() for title in columns if isinstance(title, str)}
        table = parse(text, self.path, delimiter, self.header, self.comment, self.skip, asked)
        if self.columns is None and not self.header and table.width > len(outputs):
            raise OutputError(
                f"{self.path} has {table.width} columns, but there are {len(outputs)} outputs ({', '.join(outputs)}); "
                f"name their columns: TextTable(..., columns={{{next(iter(outputs))!r}: 0}}, header=False)."
            )
        found = {name: columns for name, columns in places.items() if all(map(table.has, columns))}
        numbers = table.numbers([column for columns in found.values() for column in columns])
        got: dict[str, object] = {}
        at = 0
        for name, columns in found.items():
            got[name] = self._shaped(name, numbers[:, at : at + len(columns)], outputs[name], wanted[name])
            at += len(columns)
        along = {outputs[name][0] for name in found if len(outputs[name]) == 1 + (not _is_one(wanted[name]))}
        there = table.header or [f"{table.width} columns without names"]
        return _some(got, outputs, self.path, there) | {
            dim: table.coordinate(dim) for dim in along if dim in table.header
        }

    def _shaped(self, name: str, values: Array, dims: tuple[str, ...], column: object) -> object:
        """Return rows (r, c) as an output with these dims."""
        several = not _is_one(column)
        if len(dims) == 1 + several:
            return values if several else values[:, 0]
        if len(dims) != several:
            return values  # told by its shape
        if self.row is None and len(values) != 1:
            raise OutputError(
                f"{self.path} has {len(values)} rows, but {name!r} is one value of each run; write one row, or "
                "choose one: TextTable(..., row=-1)."
            )
        try:
            chosen = values[0 if self.row is None else self.row]
        except IndexError:
            raise OutputError(f"{self.path} has {len(values)} rows, none with the number {self.row}.") from None
        return chosen if several else chosen[0]


@taught
@final
@dataclass(frozen=True)
class NetCDFFile:
    """Results in a netCDF file: version 4 (HDF5) or classic.

    Dims of the file that are called as declared are brought into the declared order, and their coordinates must be the
    declared ones; when none is called so, the order of the file counts. The attribute ``units`` must be the declared
    unit where there are both. Fill values become NaN.

    Parameters
    ----------
    path
        The file, relative to the run directory.
    variables
        Output -> name of its variable; its own name by default.
    size_limit
        Bytes; a larger file is not read.

    Raises
    ------
    PathError
        When `path` leads out of the run directory.
    """

    path: str
    variables: Mapping[str, str] | None = None
    size_limit: int = _LIMIT

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", inside(self.path, "path"))
        if self.variables is not None:
            object.__setattr__(self, "variables", _checked_places(self.variables, "variables", "a name", _is_name))

    @property
    def names(self) -> tuple[str, ...] | None:
        """The outputs to look for; None to look for every output under its own name."""
        return None if self.variables is None else tuple(self.variables)

    def read(self, folder: Path, outputs: Dims) -> dict[str, object]:
        """Return those of `outputs` (name -> dims) that the file has.

        Raises
        ------
        OutputError
            When the file is missing, empty, truncated, too large or no netCDF.
        UnsafeFileError
            When it would read other files or fill the memory.
        """
        import xarray as xr

        from uqms.ensemble.netcdf import refuse_unsafe

        file = result_file(folder, self.path, self.size_limit)
        with file.open("rb") as opened:
            head = opened.read(64)
        classic = head.startswith((b"CDF\x01", b"CDF\x02"))
        try:
            if not classic:
                refuse_unsafe(file)
            engine: Literal["scipy", "h5netcdf"] = "scipy" if classic else "h5netcdf"
            with xr.open_dataset(file, engine=engine, decode_times=False, decode_timedelta=False) as dataset:
                wanted = {name: name for name in outputs} if self.variables is None else self.variables
                found = {n: dataset[wanted[n]].load() for n in outputs if wanted.get(n) in dataset.variables}
                there = list(map(str, dataset.variables))
        except UnsafeFileError:
            raise
        except Exception as error:  # a damaged file may raise anything
            raise OutputError(f"{self.path} is not a whole netCDF file ({error}); it {_looks(head)}.") from error
        got: dict[str, object] = {
            name: array
            if set(array.dims) & set(outputs[name]) or array.ndim != len(outputs[name])
            else xr.DataArray(array.values, dims=outputs[name], attrs=array.attrs)
            for name, array in found.items()
        }
        return _some(got, outputs, self.path, there)


_NOTHING = object()


def _some(got: dict[str, object], outputs: Dims, path: str, there: Iterable[str]) -> dict[str, object]:
    """Return what was found; nothing at all means that the places are wrong."""
    if not got:
        names = list(there)
        held = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        raise OutputError(
            f"{path} holds {held or 'nothing'}, but none of the outputs {', '.join(outputs)} at its place."
        )
    return got


def _dims(outputs: Dims) -> set[str]:
    return {dim for dims in outputs.values() for dim in dims}


def _checked_places(given: object, what: str, example: str, fits: Callable[[object], bool]) -> dict[str, Any]:
    if not isinstance(given, Mapping) or not given or not all(isinstance(name, str) for name in given):
        raise InputError(f"{what} is {given!r}; give each output its place in the file, or None for its own name.")
    for name, place in given.items():
        if not fits(place):
            raise InputError(f"{what} has {name!r} = {place!r}; give {example}.")
    return dict(given)


def _is_name(place: object) -> bool:
    return isinstance(place, str)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_one(place: object) -> bool:
    return isinstance(place, str) or _is_whole(place)


def _is_way(place: object) -> bool:
    return _is_name(place) or (isinstance(place, Sequence) and len(place) > 0 and all(map(_is_one, place)))


def _is_column(place: object) -> bool:
    return _is_one(place) or _is_way(place)


def _each(column: Any) -> list[Any]:
    return [column] if _is_one(column) else list(column)


def _steps(place: Place) -> Sequence[str | int]:
    return place.split(".") if isinstance(place, str) else place


def _at(found: object, steps: Sequence[str | int]) -> object:
    for step in steps:
        if isinstance(found, dict) and str(step) in found:
            found = found[str(step)]
        elif isinstance(found, list) and str(step).isdecimal() and int(step) < len(found):
            found = found[int(step)]
        else:
            return _NOTHING
    return found


def _holes(value: object) -> object:
    """Return the value with NaN for null, as many programs write what is not a number; true and false are words."""
    if isinstance(value, list):
        return [_holes(item) for item in value]
    if isinstance(value, bool):
        return str(value).lower()
    return math.nan if value is None else value


def _looks(data: bytes) -> str:
    """Say in a few words what a file holds."""
    text = data[:40]
    if any(byte < 9 or 13 < byte < 32 or byte > 126 for byte in text):
        return f"begins with the bytes {text[:16].hex(' ')}"
    return f"begins with {text.decode('ascii')!r}"
