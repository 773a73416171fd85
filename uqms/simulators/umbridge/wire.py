"""What goes over the wire in UM-Bridge: JSON objects that hold vectors of numbers.

Both sides are strict with what they write. The client also reads what servers in the field really send where JSON has
no number: `nan` and `inf` in Python's spelling or in JavaScript's, and null.
"""

import json
import math
from collections.abc import Iterable, Sequence

import numpy as np

from uqms._typing import Array
from uqms.simulators._json import spelled

__all__ = [
    "PROTOCOL",
    "WireError",
    "dumps",
    "loads",
    "loads_answer",
    "numbers",
    "shortened",
    "sizes",
    "split",
    "strict_numbers",
]

PROTOCOL = 1.0


class WireError(ValueError):
    """A message that is not what the protocol says."""


def dumps(message: object) -> bytes:
    """Return strict JSON.

    Raises
    ------
    ValueError
        When a number is not finite: JSON has no word for it.
    """
    return json.dumps(message, allow_nan=False, separators=(",", ":")).encode()


def loads(body: bytes) -> dict[str, object]:
    """Read a JSON object strictly: UTF-8, each key once, finite numbers only.

    Raises
    ------
    WireError
        Says what is wrong, without repeating the text.
    """
    try:
        message = json.loads(
            body.decode("utf-8"),
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_integer,
            object_pairs_hook=_once,
        )
    except WireError:
        raise
    except UnicodeDecodeError:
        raise WireError("the body is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise WireError(f"the body is not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise WireError("the body is nested too deeply") from None
    if not isinstance(message, dict):
        raise WireError(f"the body is {_kind(message)}; it must be a JSON object")
    return message


def loads_answer(body: bytes) -> dict[str, object]:
    """Read a server's answer: a JSON object, in which numbers may be missing or not finite.

    Raises
    ------
    WireError
        When it is not such an object.
    """
    text = body.decode("utf-8", errors="replace")
    try:
        try:
            message = json.loads(text, parse_constant=float)
        except json.JSONDecodeError:
            message = json.loads(spelled(text), parse_constant=float)
    except (ValueError, RecursionError):
        raise WireError(f"no JSON: {shortened(text, 200)}") from None
    if not isinstance(message, dict):
        raise WireError(f"{_kind(message)} where an object is due: {shortened(text, 200)}")
    return message


def numbers(values: object) -> Array:
    """Return a vector (m,) of a server's answer; null is NaN.

    Raises
    ------
    WireError
        When it is no list of numbers.
    """
    if not isinstance(values, list):
        raise WireError(f"{_kind(values)} where a list of numbers is due")
    strange = set(map(type, values)) - {float, int, type(None)}
    if strange:
        raise WireError(f"a list with {', '.join(sorted(kind.__name__ for kind in strange))} where numbers are due")
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        raise WireError("a whole number beyond double precision") from None


def strict_numbers(values: object, what: str, size: int | None = None) -> Array:
    """Return a vector (size,) of finite numbers that a client sent.

    Raises
    ------
    WireError
        Names `what` is wrong.
    """
    try:
        vector = numbers(values)
    except WireError as error:
        raise WireError(f"{what} is {error}") from None
    if size is not None and len(vector) != size:
        raise WireError(f"{what} has {len(vector)} entries, expected {size}")
    if not np.isfinite(vector).all():
        raise WireError(f"{what} holds null; every entry must be a number")
    return vector


def shortened(text: str, most: int = 1000) -> str:
    """Return the text in one line of at most `most` characters."""
    line = " ".join(text[: 4 * most].split())
    return line if len(line) <= most and len(text) <= 4 * most else f"{line[: most - 3]}..."


def sizes(values: object) -> tuple[int, ...]:
    """Return the sizes of input or output vectors from a server's answer.

    Raises
    ------
    WireError
        When they are no whole numbers >= 0.
    """
    if not isinstance(values, list) or not all(_whole(value) for value in values):
        raise WireError(f"{shortened(repr(values), 200)} where a list of sizes is due")
    return tuple(int(value) for value in values)


def split(values: Array, lengths: Sequence[int]) -> list[Array]:
    """Cut a vector (sum of lengths,) into vectors of these lengths."""
    return np.split(values, np.cumsum(lengths)[:-1])


def _whole(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and value == int(value)


def _refuse(word: str) -> float:
    raise WireError(f"the body holds {word}, which is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise WireError(f"the body holds {text[:40]}, which is beyond double precision")
    return value


def _integer(text: str) -> int:
    if len(text) > 300:
        raise WireError(f"the body holds a whole number of {len(text)} digits")
    return int(text)


def _once(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    message: dict[str, object] = {}
    for key, value in pairs:
        if key in message:
            raise WireError(f"the body has the key {shortened(key, 60)!r} twice")
        message[key] = value
    return message


def _kind(value: object) -> str:
    words = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return words.get(type(value), "a number")
