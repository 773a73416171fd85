"""Plain values as TOML text: tables, lists, numbers, booleans and strings."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from uqms.errors import InputError

__all__ = ["text_of"]

WIDTH = 120  # a table that fits into a line of this many characters is written in one line
BARE = re.compile(r"[A-Za-z0-9_-]+")


def text_of(document: Mapping[str, Any]) -> str:
    """Return TOML that `tomllib.loads` turns into the same values.

    Raises
    ------
    InputError
        When a value is none of those that TOML has, such as None.
    """
    return "\n".join(_table(document, ())).strip() + "\n"


def _table(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    later = {}
    for key, value in table.items():
        if _has_header(key, value, path):
            later[key] = value
        else:
            yield f"{_key(key)} = {_value(value, (*path, key))}"
    for key, value in later.items():
        inside = (*path, key)
        name = ".".join(map(_key, inside))
        several = not isinstance(value, Mapping)
        for one in value if several else [value]:
            lines = list(_table(one, inside))
            if several or not _only_headers(one, inside) or not one:
                yield from ("", f"[[{name}]]" if several else f"[{name}]")
            yield from lines


def _has_header(key: str, value: object, path: tuple[str, ...]) -> bool:
    if isinstance(value, list | tuple):
        return not path and bool(value) and all(isinstance(one, Mapping) for one in value)
    if not isinstance(value, Mapping):
        return False
    return not path or len(f"{_key(key)} = {_value(value, (*path, key))}") > WIDTH


def _only_headers(table: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    return all(_has_header(key, value, path) for key, value in table.items())


def _key(key: object) -> str:
    text = str(key)
    return text if BARE.fullmatch(text) else _string(text)


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: object, path: tuple[str, ...]) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(one, path) for one in value)}]"
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(key)} = {_value(one, (*path, str(key)))}" for key, one in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    raise InputError(f"{'.'.join(path)} is {value!r} ({type(value).__name__}), which TOML does not have; leave it out.")
