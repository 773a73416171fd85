"""The line of each key of a TOML text, which `tomllib` does not report."""

import bisect
import tomllib
from contextlib import suppress
from typing import final

__all__ = ["Path", "lines_of"]

type Path = tuple[str | int, ...]

BLANK = " \t"
ENDS = ",]}\n\r#"  # characters that end a number, a date or a word


def lines_of(text: str) -> dict[Path, int]:
    """Return the line, from 1 on, of each key, table and array element of a text that `tomllib` has read.

    The path of a value has a string for each key and a whole number for each place in an array, as one would index
    what `tomllib.loads` returns.
    """
    scanner = _Scanner(text)
    with suppress(ValueError, IndexError):  # a text that `tomllib` would refuse: what comes later has no line
        scanner.document()
    return scanner.lines


@final
class _Scanner:
    """Reads TOML that is known to be valid, and notes where keys are."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text.replace("\r\n", "\n"), 0
        self.breaks = [i for i, character in enumerate(self.text) if character == "\n"]
        self.lines: dict[Path, int] = {}
        self._sizes: dict[Path, int] = {}  # of arrays of tables

    def _note(self, path: Path, at: int) -> None:
        self.lines.setdefault(path, bisect.bisect_left(self.breaks, at) + 1)

    def _skip(self, characters: str) -> None:
        while self.at < len(self.text) and self.text[self.at] in characters:
            self.at += 1

    def _skip_lines(self) -> None:
        """Pass over spaces, line breaks and comments."""
        while True:
            self._skip(BLANK + "\n")
            if not self.text.startswith("#", self.at):
                return
            end = self.text.find("\n", self.at)
            self.at = len(self.text) if end < 0 else end

    def document(self) -> None:
        """Read everything."""
        table: Path = ()
        while True:
            self._skip_lines()
            if self.at >= len(self.text):
                return
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Path:
        start, several = self.at, self.text.startswith("[[", self.at)
        self.at += 1 + several
        keys = self._keys()
        self.at += 1 + several
        path: Path = ()
        for key in keys[:-1]:
            path = (*path, key)
            self._note(path, start)
            if path in self._sizes:
                path = (*path, self._sizes[path] - 1)
        path = (*path, keys[-1])
        self._note(path, start)
        if several:
            self._sizes[path] = self._sizes.get(path, 0) + 1
            path = (*path, self._sizes[path] - 1)
            self._note(path, start)
        return path

    def _keys(self) -> list[str]:
        """Return the parts of a dotted key."""
        keys = []
        while True:
            self._skip(BLANK)
            start = self.at
            if self.text[start] in "\"'":
                self._string()
                keys.append(str(tomllib.loads(f"key = {self.text[start : self.at]}")["key"]))
            else:
                while self.text[self.at] not in BLANK + ".=]":
                    self.at += 1
                keys.append(self.text[start : self.at])
            self._skip(BLANK)
            if self.text[self.at] != ".":
                return keys
            self.at += 1

    def _pair(self, table: Path) -> None:
        start = self.at
        path = table
        for key in self._keys():
            path = (*path, key)
            self._note(path, start)
        self.at += 1  # the equals sign
        self._skip(BLANK)
        self._value(path)

    def _value(self, path: Path) -> None:
        first = self.text[self.at]
        if first in "\"'":
            self._string()
        elif first == "[":
            self._array(path)
        elif first == "{":
            self._table(path)
        else:
            start = self.at
            while self.at < len(self.text) and self.text[self.at] not in ENDS:
                self.at += 1
            if self.at == start:
                raise ValueError("there is no value")

    def _string(self) -> None:
        quote = self.text[self.at]
        end = quote * 3 if self.text.startswith(quote * 3, self.at) else quote
        self.at += len(end)
        while not self.text.startswith(end, self.at):
            self.at += 2 if quote == '"' and self.text[self.at] == "\\" else 1
            if self.at >= len(self.text):
                raise ValueError("the string does not end")
        self.at += len(end)
        if len(end) == 3:  # up to two quotes may stand before the end
            self._skip(quote)

    def _array(self, path: Path) -> None:
        self.at += 1
        place = 0
        while True:
            self._skip_lines()
            if self.text[self.at] == "]":
                self.at += 1
                return
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self._note((*path, place), self.at)
            self._value((*path, place))
            place += 1

    def _table(self, path: Path) -> None:
        self.at += 1
        while True:
            self._skip_lines()
            if self.text[self.at] == "}":
                self.at += 1
                return
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self._pair(path)
