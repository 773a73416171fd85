"""Compiled functions, kept on disk until their module or a module that it imports changes.

Numba keeps a compiled function on disk beside its module, and compiles it again when that module's text changes. But
compiled code contains the functions that it calls. If one of these changes in another module, for example in an upgrade
of this library, numba would silently use the old code. Here, a function is also compiled again when a module changes
that its own module imports, directly or indirectly. The same digest is part of the key under which PyTensor keeps
compiled code that calls these functions.
"""

import functools
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import caching

__all__ = ["compiled", "digest", "version"]

_PACKAGE = Path(__file__).parent
_IMPORTED = re.compile(r"^from ([\w.]+) import (\([^)]*\)|[^\n]*)", re.MULTILINE)  # top-level imports of a module


def compiled(*given: Any, **options: Any) -> Callable[..., Any]:
    """Compile a function as `numba.njit` does, without Python's lock, and keep it on disk.

    A number divided by zero is infinite, as in NumPy: inside of a C function an exception would be printed, not raised.
    """
    options.setdefault("error_model", "numpy")
    made: Callable[..., Any] = numba.njit(*given, cache=True, nogil=True, **options)
    return made


@functools.cache
def digest(module: str) -> str:
    """Return a digest of a file of this library and of all files of it that the file imports, directly or not."""
    found: dict[Path, None] = {Path(module): None}
    queue = list(found)
    while queue:
        for one in _imported(queue.pop()):
            if one not in found:
                found[one] = None
                queue.append(one)
    parts = ((str(one.relative_to(_PACKAGE.parent)), one.read_bytes()) for one in sorted(found))
    return hashlib.sha256(repr(list(parts)).encode()).hexdigest()


def version(module: str) -> int:
    """Return the digest as a number, as PyTensor requires for an operation's compiled code."""
    return int(digest(module)[:15], 16)


@functools.cache
def _imported(path: Path) -> tuple[Path, ...]:
    """Return the files of this library that a file imports at its top level."""
    found = []
    for package, names in _IMPORTED.findall(path.read_text(encoding="utf-8")):
        if package.split(".")[0] == _PACKAGE.name:
            base = _PACKAGE.parent.joinpath(*package.split("."))
            for name in re.findall(r"\w+", names):
                inner = base / name
                places = (
                    inner.with_suffix(".py"),
                    inner / "__init__.py",
                    base.with_suffix(".py"),
                    base / "__init__.py",
                )
                found += [one for one in places if one.exists()][:1]
    return tuple(found)


def _to_the_end_of_imports(locator: type) -> type:
    """Return a cache locator of Numba whose stamp is the digest, for functions of this library only."""

    class Locator(locator):  # type: ignore[misc]
        def get_source_stamp(self) -> str:
            return digest(self._py_file)

        @classmethod
        def from_function(cls, py_func: Any, py_file: str) -> Any:
            inside = Path(py_file).is_relative_to(_PACKAGE) and Path(py_file).exists()
            return super().from_function(py_func, py_file) if inside else None

    return Locator


_LOCATORS = caching.CacheImpl._locator_classes
_LOCATORS[:0] = [
    _to_the_end_of_imports(one) for one in _LOCATORS if issubclass(one, caching._SourceFileBackedLocatorMixin)
]
