"""Classes of a user's own in files: stored by the name under which they are imported, and found by it again.

The name is "module:qualified name", such as "my_priors:Triangular". A file must not be able to run what it likes: a
class that this process has defined already is used as it is; otherwise its module is imported, but only when the
module's source defines a class of that name, and the class is used only when it is of the kind that is expected.
"""

import ast
import importlib
import importlib.util
import keyword
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from uqms.errors import InputError

__all__ = ["UnknownClassError", "class_named", "importable", "is_name", "name_of"]


class UnknownClassError(InputError):
    """A class cannot be imported; the text says how to make it so."""


def name_of(cls: type) -> str:
    """Return the name by which `class_named` finds a class again."""
    return f"{cls.__module__}:{cls.__qualname__}"


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
    module, _, qualname = text.partition(":")
    found: Any = _module(text, module, qualname, kind)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise UnknownClassError(
            f"the {kind} {text} is needed, and the module {module} has no {qualname}. Give the class its old name again"
            + _advice(module)
        )
    if not (isinstance(found, type) and issubclass(found, base)):
        raise InputError(f"{text} is no {kind}")
    return found


def _identifiers(dotted: str) -> bool:
    return all(part.isidentifier() and not keyword.iskeyword(part) for part in dotted.split("."))


def _subclasses[T](base: type[T]) -> list[type[T]]:
    return [one for cls in base.__subclasses__() for one in (cls, *_subclasses(cls))]


def _module(text: str, module: str, qualname: str, kind: str) -> Any:
    """Return the module, importing it only if its source defines the class."""
    if module in sys.modules:
        return sys.modules[module]
    source = _source(module)
    if source is None:
        raise UnknownClassError(
            f"the {kind} {text} is needed, and there is no module {module}. Put the file that defines "
            f"`class {qualname}` where Python finds it (beside your script, or in PYTHONPATH)" + _advice(module)
        )
    if not _defines(source, qualname):
        raise UnknownClassError(
            f"the {kind} {text} is needed, and {source} has no `class {qualname}`; it was not imported. Give the "
            "class its old name again" + _advice(module)
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


def _defines(source: Path, qualname: str) -> bool:
    """Return whether a source has a class statement of that name, with a base; the source is read, not run."""
    try:
        body: list[ast.stmt] = ast.parse(source.read_bytes()).body
    except (SyntaxError, ValueError, OSError):
        return False
    for name in qualname.split("."):
        classes = [one for one in body if isinstance(one, ast.ClassDef) and one.name == name]
        if not classes:
            return False
        body = classes[-1].body
    return bool(classes[-1].bases)
