"""A hash of what a Python function computes, the same in every process and on every machine.

Two functions must not share stored results when they differ in their source (comments and layout left out), in the
values that they close over or read from their module, or in a function of the user's own that they call. Installed
packages count by name: what they compute is theirs to version.
"""

import ast
import dataclasses
import functools
import hashlib
import inspect
import os
import sysconfig
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from types import CodeType, FunctionType, MethodType, ModuleType

import numpy as np
from numpy.typing import NDArray

__all__ = ["code_hash"]

_USER = f"{os.name}_user"
_INSTALLED = (
    *(sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")),
    *(sysconfig.get_path(key, _USER) for key in ("purelib", "platlib")),
)


def code_hash(function: object) -> str:
    """Return the SHA-256 of what `function` computes."""
    return hashlib.sha256(repr(_Describer().value(function)).encode()).hexdigest()


class _Describer:
    """Says what a value is in nested tuples of words, without addresses."""

    def __init__(self) -> None:
        self.code: dict[int, int] = {}  # functions and classes already described, which may call each other
        self.open: list[int] = []  # containers being described, which may hold themselves

    def value(self, value: object) -> object:
        if isinstance(value, float):
            return ("float", value.hex())
        if value is None or isinstance(value, bool | int | complex | str | bytes | PurePath):
            return (type(value).__name__, str(value))
        if isinstance(value, np.ndarray | np.generic):
            return _array(np.asarray(value))
        if id(value) in self.open:
            return ("itself", self.open.index(id(value)))
        self.open.append(id(value))
        try:
            return self.compound(value)
        finally:
            self.open.pop()

    def compound(self, value: object) -> object:
        if isinstance(value, list | tuple):
            return (type(value).__name__, tuple(map(self.value, value)))
        if isinstance(value, set | frozenset):
            return ("set", tuple(sorted(repr(self.value(item)) for item in value)))
        if isinstance(value, Mapping):
            return ("mapping", tuple((self.value(k), self.value(v)) for k, v in value.items()))
        if isinstance(value, functools.partial):
            return ("partial", *map(self.value, (value.func, value.args, value.keywords)))
        if isinstance(value, MethodType):
            return ("method", self.value(value.__func__), self.value(value.__self__))
        plain = inspect.unwrap(getattr(value, "py_func", value))  # type: ignore[arg-type]
        if isinstance(plain, ModuleType):
            return ("module", plain.__name__)
        return self.source(plain) if isinstance(plain, FunctionType | type) else self.instance(plain)

    def source(self, thing: FunctionType | type) -> object:
        if _installed(thing):
            return ("installed", thing.__module__, thing.__qualname__)
        if id(thing) in self.code:
            return ("again", self.code[id(thing)])
        self.code[id(thing)] = len(self.code)
        if isinstance(thing, type):
            methods = [item for item in vars(thing).values() if isinstance(item, FunctionType)]
            return ("class", thing.__qualname__, _source(thing), tuple(map(self.value, methods)))
        reads = tuple((name, self.value(item)) for name, item in _reads(thing))
        defaults = self.value(thing.__defaults__), self.value(thing.__kwdefaults__)
        # The source of a lambda is its whole line, on which another one may stand.
        text = "" if thing.__name__ == "<lambda>" else _source(thing)
        return ("function", text or _compiled(thing.__code__), reads, defaults)

    def instance(self, thing: object) -> object:
        kind = type(thing)
        named = (
            "object",
            kind.__module__,
            kind.__qualname__,
            *(getattr(thing, a, "") for a in ("__module__", "__name__")),
        )
        if _installed(kind):
            return named
        state = vars(thing) if hasattr(thing, "__dict__") else {}
        if dataclasses.is_dataclass(thing):  # slots too
            state = {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
        return (*named, self.value(kind), self.value(state))


def _array(value: NDArray[np.generic]) -> tuple[object, ...]:
    if value.dtype.hasobject:
        return ("objects", repr(value.tolist()))
    return (value.dtype.str, value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest())


def _installed(thing: object) -> bool:
    try:
        return inspect.getfile(thing).startswith(_INSTALLED)  # type: ignore[arg-type]
    except (TypeError, OSError):  # built in; or typed into a prompt, which is the user's own
        return getattr(thing, "__module__", None) != "__main__" and not isinstance(thing, FunctionType)


def _reads(function: FunctionType) -> Iterator[tuple[str, object]]:
    """Yield the variables that a function takes from around it: closure cells and globals, with their names."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not filled yet
            yield name, None
    for name in sorted(_names(function.__code__)):
        if name in function.__globals__:
            yield name, function.__globals__[name]


def _names(code: CodeType) -> set[str]:
    inner = [_names(c) for c in code.co_consts if isinstance(c, CodeType)]
    return set(code.co_names).union(*inner)


def _source(thing: object) -> str:
    """Return the source without comments and layout, or nothing where there is none."""
    try:
        text = textwrap.dedent(inspect.getsource(thing))  # type: ignore[arg-type]
    except (OSError, TypeError):
        return ""
    try:
        return ast.unparse(ast.parse(text))
    except SyntaxError:  # a function that was made from a text
        return text.strip()


def _compiled(code: CodeType) -> str:
    consts = tuple(_compiled(c) if isinstance(c, CodeType) else _Describer().value(c) for c in code.co_consts)
    return repr((code.co_code.hex(), code.co_names, code.co_varnames, consts))
