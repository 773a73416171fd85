"""Classes and functions of a user's own in files: stored by the name under which they are imported, and found again.

The name is "module:qualified name", such as "my_priors:Triangular". A file must not be able to run what it likes: a
class that this process has defined already is used as it is; otherwise its module is imported, but only when the
module's source defines a class of that name, and the class is used only when it is of the kind that is expected.

A function has no kind that could be checked. It is used only when it is the user's own: its source lies neither in
Python's own library nor among installed packages, so that a file cannot name `shutil.rmtree`.
"""

import ast
import difflib
import importlib
import importlib.util
import keyword
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from types import FunctionType
from typing import Any

from uqms.errors import InputError

__all__ = [
    "UnknownClassError",
    "class_named",
    "class_with",
    "function_named",
    "importable",
    "is_name",
    "name_of",
    "name_of_function",
    "stored_name",
]


class UnknownClassError(InputError):
    """A class or function cannot be imported; the text says how to make it so."""


def name_of(cls: type | FunctionType) -> str:
    """Return the name by which `class_named` finds a class again, and `function_named` a function."""
    return f"{cls.__module__}:{cls.__qualname__}"


def stored_name(cls: type, kind: str) -> str:
    """Return the name for a file; of classes of uqms that are public, the public one, wherever they live.

    Raises
    ------
    InputError
        When the class is not found by its name.
    """
    if getattr(sys.modules["uqms"], cls.__name__, None) is cls:
        return f"uqms:{cls.__name__}"
    name = name_of(cls)
    found: Any = sys.modules.get(cls.__module__)
    for part in cls.__qualname__.split("."):
        found = getattr(found, part, None)
    if found is not cls:
        raise InputError(
            f"the {kind} {name} cannot be saved: a file holds the import name of its class, and this one is not found "
            f"by that. Define `class {cls.__name__}` at the top level of a module, not inside a function."
        )
    return name


def name_of_function(function: object) -> str | None:
    """Return the name by which `function_named` finds a function again; None where it cannot: a lambda, a method."""
    if not isinstance(function, FunctionType) or "<" in function.__qualname__ or not _users_own(function):
        return None
    return name_of(function) if getattr(sys.modules.get(function.__module__), function.__name__, None) else None


def is_name(text: str) -> bool:
    """Return whether a text has the form of such a name."""
    module, _, qualname = text.partition(":")
    return _identifiers(module) and _identifiers(qualname.replace(".<locals>", ""))


def importable(cls: type) -> bool:
    """Return whether another process can find a class by its name: not one of a script, a notebook or a function."""
    source = _source(cls.__module__)
    return source is not None and _defines(source, cls.__qualname__)


def class_named[T](text: str, base: type[T], kind: str) -> type[T]:
    """Return the class that a file names, a subclass of `base`, which is called `kind` in messages.

    Raises
    ------
    UnknownClassError
        When the module cannot be found or imported, or does not define the class.
    InputError
        When the text is no name, or what it names is no subclass of `base`.
    """
    known = [cls for cls in _subclasses(base) if name_of(cls) == text and cls.__module__ in sys.modules]
    if known:
        return known[-1]  # the one defined last, where a notebook's cell ran several times
    if not is_name(text):
        raise InputError(f"{text!r} is no import name of a {kind}")
    found = _found(text, kind, "class", _defines)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise InputError(f"{text} is no {kind}")
    return found


def class_with(text: str, members: Sequence[str], kind: str) -> type:
    """Return the dataclass that a file names, which has all `members`: of a kind without a base class.

    Raises
    ------
    UnknownClassError, InputError
        As `class_named`.
    """
    if not is_name(text):
        raise InputError(f"{text!r} is no import name of a {kind}")
    found = _found(text, kind, "class", lambda source, name: _defines(source, name, based=False))
    if not isinstance(found, type) or not is_dataclass(found):
        raise InputError(f"{text} is no {kind}: it is no dataclass")
    lost = [name for name in members if not hasattr(found, name) and name not in found.__dataclass_fields__]
    if lost:
        raise InputError(f"{text} is no {kind}: it has no {', '.join(lost)}")
    return found


def function_named(text: str, kind: str) -> FunctionType:
    """Return the function that a file names, from a module of the user's own.

    Raises
    ------
    UnknownClassError
        When the module cannot be found or imported, or does not define the function.
    InputError
        When the text is no name, or what it names is no function of the user's own.
    """
    if not is_name(text) or "." in text.partition(":")[2]:
        raise InputError(f"{text!r} is no import name of a {kind}")
    found = _found(text, kind, "def", lambda source, name: not _installed(source) and _defines_function(source, name))
    if not isinstance(found, FunctionType) or not _users_own(found):
        raise InputError(f"{text} is no {kind}: it is no function in a module of your own")
    return found


def _found(text: str, kind: str, word: str, defines: Callable[[Path, str], bool]) -> Any:
    module, _, qualname = text.partition(":")
    found: Any = _module(text, module, qualname, kind, word, defines)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if found is None:
        public = [name for name in vars(sys.modules.get(module, sys)) if not name.startswith("_")]
        near = difflib.get_close_matches(qualname, public, 1, 0.4)
        raise UnknownClassError(
            f"the {kind} {text} is needed, and the module {module} has no {qualname}"
            + (f"; did you mean {near[0]}? Or give" if near else ". Give")
            + " it its old name again"
            + _advice(module)
        )
    return found


def _users_own(function: FunctionType) -> bool:
    return function.__module__ != "builtins" and not _installed(Path(function.__code__.co_filename))


def _installed(source: Path) -> bool:
    """Return whether a source belongs to Python's own library or to installed packages."""
    if {"site-packages", "dist-packages"}.intersection(source.parts) or str(source).startswith("<frozen"):
        return True
    library = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}
    return bool(library.intersection(source.resolve().parents))


def _identifiers(dotted: str) -> bool:
    return all(part.isidentifier() and not keyword.iskeyword(part) for part in dotted.split("."))


def _subclasses[T](base: type[T]) -> list[type[T]]:
    return [one for cls in base.__subclasses__() for one in (cls, *_subclasses(cls))]


def _module(text: str, module: str, qualname: str, kind: str, word: str, defines: Callable[[Path, str], bool]) -> Any:
    """Return the module, importing it only if its source defines the class or function."""
    if module in sys.modules:
        return sys.modules[module]
    source = _source(module)
    if source is None:
        raise UnknownClassError(
            f"the {kind} {text} is needed, and there is no module {module}. Put the file that defines "
            f"`{word} {qualname}` where Python finds it (beside your script, or in PYTHONPATH)" + _advice(module)
        )
    if not defines(source, qualname):
        raise UnknownClassError(
            f"the {kind} {text} is needed, and {source} has no `{word} {qualname}`; it was not imported. Give it its "
            "old name again" + _advice(module)
        )
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise UnknownClassError(
            f"the {kind} {text} is needed, and importing {module} failed ({type(error).__name__}: {error}). Try "
            f"`import {module}` by itself first."
        ) from error


def _advice(module: str) -> str:
    if module == "__main__":
        return (
            ". It was defined in a script or notebook: define it here before loading, or move it to a module, import "
            "it from there and save again."
        )
    return ", or make anew what was saved."


def _source(module: str) -> Path | None:
    """Return the file of a module without importing anything, packages that it is in included."""
    first, *rest = module.split(".")
    try:
        spec, full = importlib.util.find_spec(first), first
        for part in rest:
            if spec is None or spec.submodule_search_locations is None:
                return None
            full = f"{full}.{part}"
            spec = PathFinder.find_spec(full, list(spec.submodule_search_locations))
    except (ImportError, ValueError):
        return None
    return None if spec is None or not spec.origin or not spec.origin.endswith(".py") else Path(spec.origin)


def _statements(source: Path) -> list[ast.stmt]:
    """Return the statements of a source, which is read, not run; none where it cannot be read."""
    try:
        return ast.parse(source.read_bytes()).body
    except (SyntaxError, ValueError, OSError):
        return []


def _defines_function(source: Path, name: str) -> bool:
    """Return whether a source has a def statement of that name at its top level."""
    return any(isinstance(one, ast.FunctionDef) and one.name == name for one in _statements(source))


def _defines(source: Path, qualname: str, *, based: bool = True) -> bool:
    """Return whether a source has a class statement of that name, with a base where it has to have one."""
    body = _statements(source)
    for name in qualname.split("."):
        classes = [one for one in body if isinstance(one, ast.ClassDef) and one.name == name]
        if not classes:
            return False
        body = classes[-1].body
    return bool(classes[-1].bases) or not based
