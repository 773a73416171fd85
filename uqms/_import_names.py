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
from importlib.machinery import ModuleSpec, PathFinder

from uqms.errors import InputError

__all__ = ["class_named", "importable", "is_name", "name_of"]


def name_of(cls: type) -> str:
    """Return the name by which `class_named` finds a class again."""
    return f"{cls.__module__}:{cls.__qualname__}"


def is_name(text: str) -> bool:
    """Return whether a text has the form of such a name."""
    module, _, qualname = text.partition(":")
    return _identifiers(module) and _identifiers(qualname.replace(".<locals>", ""))


def importable(cls: type) -> bool:
    """Return whether another process can find a class by its name: not one of a script, a notebook or a function."""
    return _defines(cls.__module__, cls.__qualname__)


def class_named[T](text: str, base: type[T]) -> type[T]:
    """Return the class that a file names, a subclass of `base`.

    Raises
    ------
    InputError
        When the module cannot be found, does not define the class, or the class is no subclass of `base`.
    """
    known = [cls for cls in _subclasses(base) if name_of(cls) == text]
    if known:
        return known[-1]  # the one defined last, where a notebook's cell ran several times
    module, _, qualname = text.partition(":")
    if not _defines(module, qualname):
        raise InputError(
            f"The file needs the class {text!r}, which is not found here. Put the file {module.split('.')[0]}.py that "
            f"defines {qualname} where Python finds it (beside your script, or installed), or define the class before "
            "you load the file."
        )
    found: object = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise InputError(f"The file names {text!r}, which is no subclass of {base.__name__}.")
    return found


def _identifiers(dotted: str) -> bool:
    return all(part.isidentifier() and not keyword.iskeyword(part) for part in dotted.split("."))


def _subclasses[T](base: type[T]) -> list[type[T]]:
    return [one for cls in base.__subclasses__() for one in (cls, *_subclasses(cls))]


def _defines(module: str, qualname: str) -> bool:
    """Return whether the source of a module defines a class, without running the module or its packages."""
    if not _identifiers(module) or not _identifiers(qualname) or module.split(".")[0] in sys.stdlib_module_names:
        return False
    spec = _spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return False
    try:
        with open(spec.origin, encoding="utf-8") as stream:
            body = ast.parse(stream.read()).body
    except (OSError, ValueError, SyntaxError):
        return False
    for part in qualname.split("."):
        inner = next((node for node in body if isinstance(node, ast.ClassDef) and node.name == part), None)
        if inner is None:
            return False
        body = inner.body
    return True


def _spec(module: str) -> ModuleSpec | None:
    first, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(first)
        name = first
        for part in rest:
            if spec is None or spec.submodule_search_locations is None:
                return None
            name = f"{name}.{part}"
            spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    except (ImportError, ValueError):
        return None
    return spec
