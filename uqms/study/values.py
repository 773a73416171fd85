"""From plain values of a study file to arguments and objects, by the annotations of what is called.

A table becomes an object: `kind` names a public class of uqms ("LogNormal"), one of its constructors
("LogNormal.from_quantiles") or a class of the study's folder ("model:Triangular"), and the other keys are its
arguments. What an argument accepts is read from its annotation, so that names in a study file are the names in Python.
"""

import builtins
import collections.abc
import difflib
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, Literal, NamedTuple, Union, final

import numpy as np
from numpy.typing import ArrayLike

import uqms
from uqms._import_names import is_name
from uqms._teaching import renamed
from uqms._typing import Array
from uqms.errors import InputError, UqmsError
from uqms.parameters import Prior
from uqms.study.folder import Folder
from uqms.study.positions import Path

__all__ = ["LOST", "Mistake", "Reading", "hints_of", "near"]

LOST: Any = type("Lost", (), {"__repr__": lambda self: "LOST"})()  # stands for a value with a mistake in it

# Settings that a study file cannot have: programs of their own would come with them, or a secret.
CLOSED: Mapping[tuple[str, str], str] = {
    ("ExecutableSimulator", "environment"): "set it in the program of the study's folder",
    ("ExecutableSimulator", "inherit"): "set what the program needs in the program of the study's folder",
    ("UMBridgeSimulator", "token"): "a file that is passed on holds no secret; use a script",
    ("UMBridgeSimulator", "vectors"): "use a script",
}
RANGE = ("start", "stop", "num")  # keys of a table that stands for equally spaced numbers


class Mistake(NamedTuple):
    """A mistake in a study file.

    Attributes
    ----------
    line
        Its line, from 1 on; 0 where there is no file.
    where
        The key, such as "noise.sd".
    message
        What is wrong, and what is accepted.
    """

    line: int
    where: str
    message: str

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        return f"{place}{self.where}: {self.message}" if self.where else f"{place}{self.message}"


class _Closed(type):
    """The type of annotations that name what a study file cannot hold."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return cls


class Unsettable(metaclass=_Closed):
    """An annotation that no plain value satisfies."""


class _Names(dict[str, Any]):
    """Names of annotations that a module imports for type checkers only."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        self.known = known

    def __missing__(self, name: str) -> Any:
        if name in self.known or hasattr(builtins, name):
            raise KeyError(name)
        return getattr(uqms, name) if name in uqms.__all__ else Unsettable


def hints_of(target: Any) -> dict[str, Any]:
    """Return the annotations of a class's constructor, or of a function, by argument."""
    made = vars(target).get("__init__") or getattr(target, "__init__") if isinstance(target, type) else target  # noqa: B009
    function: Any = inspect.unwrap(getattr(made, "__func__", made))
    names = getattr(function, "__globals__", {})
    hints = typing.get_type_hints(function, names, _Names(names))
    hints.pop("return", None)
    return hints


def near(name: object, names: Sequence[str]) -> str:
    """Return "; did you mean 'x'?" where a name is similar to one of several, or all names."""
    found = difflib.get_close_matches(str(name).lower(), [one.lower() for one in names], 1, 0.6)
    if found:
        return f"; did you mean {next(one for one in names if one.lower() == found[0])!r}?"
    return f"; known are {', '.join(names)}" if names else ""


@final
class Reading:
    """Reads the values of one study file, and collects its mistakes.

    Parameters
    ----------
    folder
        Where functions and files come from.
    lines
        Line of each key.
    """

    def __init__(self, folder: Folder, lines: Mapping[Path, int]) -> None:
        self.folder, self.lines = folder, lines
        self.mistakes: list[Mistake] = []
        self.code: dict[Path, Any] = {}  # functions and classes of the folder
        self.files: dict[Path, FilePath] = {}

    # -------------------------------------------------------------------------------------------------------- mistakes
    def wrong(self, path: Path, message: str) -> Any:
        """Note a mistake and return `LOST`."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")
        self.mistakes.append(Mistake(self.lines.get(known, 1 if self.lines else 0), where, message.strip()))
        return LOST

    def trying(self, path: Path, call: Callable[[], Any], keys: Sequence[str] = ()) -> Any:
        """Return what a call returns; note what it raises at the key that the message names."""
        try:
            return call()
        except UqmsError as error:
            message = str(error.args[0]) if error.args else str(error)
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, OSError) as error:
            message = f"{type(error).__name__}: {error}"
        named = [key for key in keys if re.search(rf"\b{re.escape(key)}\b", message)]
        return self.wrong((*path, named[0]) if len(named) == 1 else path, message)

    # ---------------------------------------------------------------------------------------------------------- values
    def value(self, value: Any, hint: Any, path: Path) -> Any:
        """Return a plain value as an annotation asks for it, or `LOST` after noting a mistake."""
        hint = _bare(hint)
        if not isinstance(value, str | bool | int | float | list | dict):  # a date or a time
            return self.wrong(path, f"got {value!r}, which no argument takes.")
        origin, inside = typing.get_origin(hint), typing.get_args(hint)
        if hint is ArrayLike or origin is np.ndarray:
            return self.array(value, path)
        if hint is Any or hint is object:
            return self.anything(value, path)
        if origin is Union or isinstance(hint, types.UnionType):
            return self._union(value, [one for one in map(_bare, inside) if one is not type(None)], path)
        if origin is Literal:
            return self._literal(value, inside, path)
        if hint in (float, int, bool, str):
            return self._scalar(value, hint, path)
        if hint is FilePath:
            return self.file(value, path)
        if origin is collections.abc.Callable or hint is collections.abc.Callable:
            return self.function(value, path)
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return self._mapping(value, inside[0], inside[1], path)
        if isinstance(origin, type) and issubclass(origin, collections.abc.Iterable):
            return self._sequence(value, origin, inside, path)
        if isinstance(hint, type) and hint is not Unsettable:
            return self.object(value, hint, path)
        return self.wrong(path, "a study file cannot set this; use a script.")

    def _scalar(self, value: Any, hint: type, path: Path) -> Any:
        accepted = {float: int | float, int: int, bool: bool, str: str}[hint]
        if isinstance(value, accepted) and (hint is bool or not isinstance(value, bool)):
            return float(value) if hint is float else value
        return self.wrong(path, f"got {_said(value)}, expected {_WORDS[hint]}.")

    def _literal(self, value: Any, words: Sequence[Any], path: Path) -> Any:
        if any(type(value) is type(one) and value == one for one in words):
            return value
        return self.wrong(path, f"got {_said(value)}{near(value, list(map(str, words)))}")

    def _union(self, value: Any, hints: list[Any], path: Path) -> Any:
        """Return the value by the first alternative that takes it; of failures note the one that fits best."""
        best: tuple[int, list[Mistake]] | None = None
        for hint in sorted(hints, key=lambda one: not _meant(value, one)):
            start = len(self.mistakes)
            got = self.value(value, hint, path)
            if len(self.mistakes) == start:
                return got
            new, self.mistakes[start:] = self.mistakes[start:], []
            if best is None and _meant(value, hint):
                best = (0, new)
        if best is not None:
            self.mistakes += best[1]
            return LOST
        expected = " or ".join(dict.fromkeys(_named(hint) for hint in hints if hint is not Unsettable))
        return self.wrong(path, f"got {_said(value)}, expected {expected or 'nothing: use a script'}.")

    def _mapping(self, value: Any, key_hint: Any, hint: Any, path: Path) -> Any:
        if not isinstance(value, dict):
            return self.wrong(path, f"got {_said(value)}, expected a table.")
        result = {}
        for name, one in value.items():
            key: Any = name
            if _bare(key_hint) is float:
                try:
                    key = float(name)
                except ValueError:
                    key = self.wrong((*path, name), f"the key is {name!r}, expected a number in quotes.")
            result[key] = self.value(one, hint, (*path, name))
        return LOST if any(one is LOST for pair in result.items() for one in pair) else result

    def _sequence(self, value: Any, origin: type, inside: Sequence[Any], path: Path) -> Any:
        if not isinstance(value, list):
            return self.wrong(path, f"got {_said(value)}, expected an array in brackets.")
        if origin is tuple and inside and inside[-1] is not Ellipsis:
            if len(value) != len(inside):
                return self.wrong(path, f"got {len(value)} values, expected {len(inside)}.")
            hints = list(inside)
        else:
            hints = [inside[0] if inside else Any] * len(value)
        made = [self.value(one, hint, (*path, i)) for i, (one, hint) in enumerate(zip(value, hints, strict=True))]
        if any(one is LOST for one in made):
            return LOST
        return tuple(made) if origin is tuple else made

    def array(self, value: Any, path: Path) -> Any:
        """Return an array of numbers or text: a list, equally spaced numbers, or what a function returns."""
        if isinstance(value, dict) and set(value) == set(RANGE):
            start, stop = (self.value(value[key], float, (*path, key)) for key in RANGE[:2])
            count = self.value(value["num"], int, (*path, "num"))
            return LOST if LOST in (start, stop, count) else np.linspace(start, stop, count)
        if isinstance(value, dict) and set(value) == {"function"}:
            function = self.function(value["function"], (*path, "function"))
            return LOST if function is LOST else self.trying(path, lambda: np.asarray(function()))
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, list):
            return self.wrong(
                path,
                f"got {_said(value)}, expected an array such as [0.0, 1.0], {{ start, stop, num }} or {{ function }}.",
            )
        made: Array = np.asarray(value, dtype=None if _texts(value) else np.float64) if _regular(value) else LOST
        return made if made is not LOST else self.wrong(path, "expected numbers, or text, in rows of equal length.")

    def anything(self, value: Any, path: Path) -> Any:
        """Return a value of no stated type: tables with a `kind` become objects."""
        if isinstance(value, dict):
            if "kind" in value:
                return self.object(value, object, path)
            if set(value) in (set(RANGE), {"function"}):
                return self.array(value, path)
            return self._mapping(value, str, Any, path)
        return self._sequence(value, list, (Any,), path) if isinstance(value, list) else value

    # ---------------------------------------------------------------------------------------------------- code, files
    def function(self, value: Any, path: Path) -> Any:
        """Return a function of the study's folder."""
        if not isinstance(value, str):
            return self.wrong(path, f"got {_said(value)}, expected the import name of a function, such as 'model:f'.")
        found = self.trying(path, lambda: self.folder.function(value))
        if found is not LOST:
            self.code[path] = found
        return found

    def file(self, value: Any, path: Path) -> Any:
        """Return the path of a file that exists in the study's folder."""
        if not isinstance(value, str):
            return self.wrong(path, f"got {_said(value)}, expected the path of a file in the study's folder.")
        found = self.trying(path, lambda: self.folder.file(value))
        if found is not LOST:
            self.files[path] = found
        return found

    # --------------------------------------------------------------------------------------------------------- objects
    def object(
        self, value: Any, base: Any, path: Path, supplied: Mapping[str, Any] | None = None, offers: str = ""
    ) -> Any:
        """Return the object that a table describes: of a subclass of `base`, or of a class that has a method.

        `supplied` are arguments that the study gives, and a table cannot.
        """
        target, table = self.target(value, base, path, offers)
        if target is LOST:
            return LOST
        return self.called(target, table, path, supplied)

    def target(self, value: Any, base: Any, path: Path, offers: str = "") -> tuple[Any, dict[str, Any]]:
        """Return what a table's `kind` names, and the other keys."""
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, dict):
            return self.wrong(path, f"got {_said(value)}, expected a table with a `kind`{_example(base, value)}."), {}
        table = {key: one for key, one in value.items() if key != "kind"}
        kind = value.get("kind")
        if kind is None:
            if isinstance(base, type) and base is not object and not inspect.isabstract(base) and _public(base):
                return base, table
            return self.wrong(path, f"`kind` is missing: one of {', '.join(_kinds(base, offers))}."), {}
        if not isinstance(kind, str):
            return self.wrong((*path, "kind"), f"got {_said(kind)}, expected a name such as 'LogNormal'."), {}
        if ":" in kind and is_name(kind):
            root = base if isinstance(base, type) and not getattr(base, "_is_protocol", False) else object
            if root is object:
                return self.wrong((*path, "kind"), f"{kind!r}: here only classes of uqms can stand; use a script."), {}
            found = self.trying((*path, "kind"), lambda: self.folder.named_class(kind, root, "class"))
            if found is not LOST:
                self.code[(*path, "kind")] = found
            return found, table
        name, _, method = kind.partition(".")
        cls = getattr(uqms, name) if name in uqms.__all__ else None
        if cls is None or not isinstance(cls, type) or not _fits(cls, base, offers):
            known = _kinds(base, offers)
            return self.wrong((*path, "kind"), f"there is no {kind!r} here{near(name, known)}"), {}
        if not method:
            return cls, table
        made = getattr(cls, method, None)
        if method.startswith("_") or not inspect.ismethod(made) or made.__self__ is not cls:
            return self.wrong((*path, "kind"), f"{name} has no constructor {method!r}."), {}
        return made, table

    def called(
        self, target: Any, table: Mapping[str, Any], path: Path, supplied: Mapping[str, Any] | None = None
    ) -> Any:
        """Return what a class or function returns for the arguments of a table."""
        given = self.arguments(target, table, path, without=tuple(supplied or ()))
        if given is LOST:
            return LOST
        first, named = _by_place(target, {**given, **(supplied or {})})
        return self.trying(path, lambda: target(*first, **named), tuple(table))

    def arguments(
        self,
        target: Any,
        table: Any,
        path: Path,
        *,
        without: Sequence[str] = (),
        overrides: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the keys of a table as arguments of a class or function, or `LOST`.

        Parameters
        ----------
        target
            What will be called.
        table
            The plain values.
        path
            Of the table.
        without
            Arguments that the table cannot set.
        overrides
            Annotations in the place of those of `target`.
        """
        if not isinstance(table, dict):
            return self.wrong(path, f"got {_said(table)}, expected a table of settings.")
        parameters = list(inspect.signature(target).parameters.values())
        hints = hints_of(target) | dict(overrides or {})
        called = getattr(target, "__name__", str(target))
        rest = next((one.name for one in parameters if one.kind is one.VAR_KEYWORD), None)
        usual = [one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
        names = [one.name for one in usual if one.name not in (*without, "self")]
        given: dict[str, Any] = {}
        meant = ""  # names that are suggested for keys that do not exist
        for key, value in table.items():
            closed = CLOSED.get((called, key))
            if closed:
                given[key] = self.wrong((*path, key), f"a study file cannot set this: {closed}.")
            elif key in names:
                given[key] = self._argument(called, key, value, hints.get(key, Any), (*path, key))
            elif rest is not None and key not in without:
                given[key] = self.value(value, hints.get(rest, Any), (*path, key))
            else:
                advice = renamed(called, key, names)
                meant += advice
                given[key] = self.wrong((*path, key), advice + _listed(names))
        needed = [one.name for one in usual if one.default is one.empty and one.name in names]
        lost = [name for name in needed if name not in table and f"'{name}'" not in meant]
        if lost:
            needs = " and ".join(f"`{name}`" for name in lost)
            return self.wrong(path, f"{needs} {'is' if len(lost) == 1 else 'are'} missing.")
        return LOST if any(one is LOST for one in given.values()) else given

    def _argument(self, called: str, key: str, value: Any, hint: Any, path: Path) -> Any:
        if (called, key) == ("ExecutableSimulator", "command"):
            return self._command(value, path)
        if (called, key) in (("ExecutableSimulator", "templates"), ("ExecutableSimulator", "files")):
            return self._mapping(value, str, FilePath, path)
        if (called, key) == ("ExecutableSimulator", "folder"):
            return self.trying(path, lambda: self.folder.place(value))
        return self.value(value, hint, path)

    def _command(self, value: Any, path: Path) -> Any:
        """Return a command: a program of the study's folder, and words that it gets as they are."""
        words = self._sequence(value, list, (str,), path)
        if words is LOST or not words:
            return words if words is LOST else self.wrong(path, "the command is empty.")
        program = self.trying((*path, 0), lambda: self.folder.program(words[0]))
        if program is LOST:
            return LOST
        self.files[(*path, 0)] = program
        return [program, *words[1:]]


_WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "a text in quotes"}


def _bare(hint: Any) -> Any:
    """Return an annotation without the names and notes around it."""
    while hint is not ArrayLike:
        origin = typing.get_origin(hint)
        if isinstance(hint, typing.TypeAliasType):
            hint = hint.__value__
        elif isinstance(origin, typing.TypeAliasType):
            hint = origin.__value__[typing.get_args(hint)]
        else:
            break
    return _bare(typing.get_args(hint)[0]) if typing.get_origin(hint) is typing.Annotated else hint


def _meant(value: Any, hint: Any) -> bool:
    """Return whether a value of this form is probably meant for an annotation."""
    origin = typing.get_origin(hint)
    if isinstance(value, dict):
        mapping = isinstance(origin, type) and issubclass(origin, Mapping)
        alone = isinstance(hint, type) and hint not in (float, int, bool, str, FilePath, Unsettable)
        return alone if "kind" in value else mapping or (alone and not inspect.isabstract(hint))
    if isinstance(value, list):
        return origin is not collections.abc.Callable and origin is not None and not issubclass(origin, Mapping)
    if isinstance(value, bool):
        return hint is bool
    if isinstance(value, str):
        return hint is str or (":" in value and origin is collections.abc.Callable) or origin is Literal
    return hint in (float, int)


def _named(hint: Any) -> str:
    """Return what an annotation accepts, in words."""
    origin = typing.get_origin(hint)
    if hint in _WORDS:
        return _WORDS[hint]
    if hint is FilePath:
        return "a file"
    if origin is Literal:
        return " or ".join(repr(one) for one in typing.get_args(hint))
    if origin is collections.abc.Callable:
        return "the import name of a function"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a table"
    if origin is np.ndarray or (isinstance(origin, type) and issubclass(origin, collections.abc.Iterable)):
        return "an array"
    return f"a table with `kind` ({getattr(hint, '__name__', hint)})"


def _example(base: Any, value: Any) -> str:
    """Return an example of a table in the place of a number or a range, where a prior is expected."""
    if not (isinstance(base, type) and issubclass(base, Prior)):
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (
            f', such as {{ kind = "LogNormal", median = {value:g}, sigma = 0.3 }}; a known parameter has a prior too, '
            "and its value in [calibration.fixed]"
        )
    if isinstance(value, list) and len(value) == 2:
        return f', such as {{ kind = "Uniform", low = {value[0]}, high = {value[1]} }}'
    return ""


def _said(value: Any) -> str:
    """Return a plain value with its type, in the words of TOML."""
    for kinds, word in ((bool, "boolean"), (str, "text"), (int, "whole number"), (float, "number"), (dict, "table")):
        if isinstance(value, kinds):
            shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
            return f"a {word}" if kinds is dict else f"the {word} {shown}"
    return "an array" if isinstance(value, list) else repr(value)


def _listed(names: Sequence[str]) -> str:
    return f"; known are {', '.join(names)}." if names else "; there are no settings here."


def _texts(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and bool(value) and _texts(value[0]))


def _regular(value: Any) -> bool:
    """Return whether a list has entries of one type, in rows of equal length."""
    flat: list[Any] = []

    def shape(one: Any) -> tuple[Any, ...]:
        if not isinstance(one, list):
            flat.append(one)
            return ()
        inside = {shape(part) for part in one}
        return (len(one), *next(iter(inside))) if len(inside) == 1 else ((len(one),) if not inside else (math.nan,))

    ragged = math.nan in shape(value)
    same = all(isinstance(one, str) for one in flat) or all(
        isinstance(one, int | float) and not isinstance(one, bool) for one in flat
    )
    return same and not ragged


def _public(cls: Any) -> bool:
    return getattr(uqms, getattr(cls, "__name__", ""), None) is cls


def _fits(cls: type, base: Any, offers: str) -> bool:
    """Return whether a public class can stand where `base` is expected, or where a method is."""
    if inspect.isabstract(cls) or getattr(cls, "_is_protocol", False) or issubclass(cls, BaseException):
        return False
    if offers:
        return callable(getattr(cls, offers, None))
    if base is object:
        return hasattr(cls, "__dataclass_fields__")
    if getattr(base, "_is_protocol", False):
        own = {*dir(cls), *getattr(cls, "__dataclass_fields__", ())}
        return own >= set(getattr(base, "__protocol_attrs__", ()))
    return isinstance(base, type) and issubclass(cls, base)


def _kinds(base: Any, offers: str) -> list[str]:
    """Return the names of all public classes that can stand where `base` is expected."""
    classes = ((name, getattr(uqms, name)) for name in uqms.__all__ if name[0].isupper())
    return [name for name, cls in classes if isinstance(cls, type) and _fits(cls, base, offers)]


def _by_place(target: Any, given: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return arguments that have to be given by place, and the others."""
    first = [one.name for one in inspect.signature(target).parameters.values() if one.kind is one.POSITIONAL_ONLY]
    return [given[name] for name in first if name in given], {k: v for k, v in given.items() if k not in first}


def checked_name(name: str) -> str:
    """Return a name of a member or prediction, which is part of a file's name.

    Raises
    ------
    InputError
        When it is no identifier.
    """
    if not name.isidentifier() or not name.isascii():
        raise InputError(f"{name!r} is no name; use letters, digits and _, not beginning with a digit.")
    return name
