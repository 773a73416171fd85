"""The folder of a study: its functions, classes and files. Nothing outside of it is read, written or imported."""

import hashlib
import importlib
import importlib.util
import linecache
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import final

from uqms._import_names import class_named, function_named, is_name
from uqms.errors import InputError, PathError

__all__ = ["Folder", "sha256_of"]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@final
class Folder:
    """The folder in which a study file lies.

    Parameters
    ----------
    path
        The folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().resolve()

    def __repr__(self) -> str:
        return f"<folder of a study: {self.path}>"

    # ------------------------------------------------------------------------------------------------------------ files
    def place(self, text: str) -> Path:
        """Return the path of a file in the folder, which need not exist.

        Raises
        ------
        PathError
            When the path is absolute, has "..", or leaves the folder by a symbolic link.
        """
        given = Path(text)
        if not text or "\0" in text or given.is_absolute() or ".." in given.parts or text.startswith("~"):
            raise PathError(
                f"{text!r} leads out of the study's folder; give a path in it, without '..', such as 'data.csv'."
            )
        whole = self.path / given
        try:
            inside = whole.resolve().is_relative_to(self.path)
        except (OSError, RuntimeError):  # links in a circle
            inside = False
        if not inside:
            raise PathError(f"{text!r} is a link that leads out of the study's folder; put the file itself there.")
        return whole

    def file(self, text: str) -> Path:
        """Return the path of a file that exists in the folder.

        Raises
        ------
        PathError
            As `place`.
        InputError
            When there is no such file.
        """
        path = self.place(text)
        if path.is_file():
            return path
        like = sorted(one.name for one in self.path.iterdir() if one.suffix == path.suffix and one.is_file())
        beside = f"; there are {', '.join(like[:5])}" if like else ""
        raise InputError(f"there is no file {text!r} in the study's folder{beside}.")

    def program(self, text: str) -> Path:
        """Return the path of a program that lies in the folder.

        Raises
        ------
        PathError
            As `place`.
        InputError
            When there is no such file, or it cannot be executed.
        """
        path = self.file(text)
        if not path.stat().st_mode & stat.S_IXUSR:
            raise InputError(f"{text!r} cannot be executed; mark it as a program: chmod +x {text}.")
        return path

    # ------------------------------------------------------------------------------------------------------------- code
    def source(self, name: str) -> Path:
        """Return the file of the module in "module:name".

        Raises
        ------
        InputError
            When the text is no such name, or the folder has no such module.
        PathError
            When the module is a link that leads out of the folder.
        """
        if not is_name(name):
            raise InputError(f"{name!r} is no import name; write 'module:name', such as 'model:simulate'.")
        module = name.partition(":")[0].replace(".", "/")
        for relative in (f"{module}.py", f"{module}/__init__.py"):
            path = self.place(relative)
            if path.is_file():
                self._check_first(name.partition(":")[0].partition(".")[0])
                return path
        modules = sorted(one.stem for one in self.path.glob("*.py"))
        has = f"it has {', '.join(modules)}" if modules else "it has no Python file"
        raise InputError(
            f"{name!r}: there is no {module}.py in the study's folder; {has}. Functions come from there only."
        )

    def _check_first(self, top: str) -> None:
        """Refuse a module that Python would take from elsewhere."""
        if top in _LOADED:
            return
        try:
            spec = importlib.util.find_spec(top)
            where = spec.origin if spec is not None else None
        except ValueError:  # of a module without a specification, such as a script's
            where = getattr(sys.modules.get(top), "__file__", None) or "the script that runs"
        if where is None or Path(where).resolve().is_relative_to(self.path):
            return
        if any(Path(where).resolve().is_relative_to(one) for one in map(Path, _FOLDERS)):
            return
        raise InputError(f"Python has another module {top!r} ({where}); rename the {top}.py of the study.")

    def function(self, name: str) -> FunctionType:
        """Return a function of the folder by its import name.

        Raises
        ------
        InputError, PathError
            As `source`; when the module cannot be imported, or does not define the function.
        """
        return self._imported(name, lambda: function_named(name, "function"))

    def named_class[T](self, name: str, base: type[T], kind: str) -> type[T]:
        """Return a class of the folder by its import name, a subclass of `base`.

        Raises
        ------
        InputError, PathError
            As `source`; when the module cannot be imported, or does not define such a class.
        """
        return self._imported(name, lambda: class_named(name, base, kind))

    def enter(self) -> None:
        """Let Python find the modules of this folder, and not those of another study or of an earlier text."""
        mine = {name: one for name, one in _LOADED.items() if one[0].resolve().is_relative_to(self.path)}
        old = any(not file.is_file() or sha256_of(file) != text for file, text in mine.values())
        for name in list(_LOADED):
            top = name.partition(".")[0]
            same = (self.path / f"{top}.py").exists() or (self.path / top).is_dir()
            if old if name in mine else same:
                sys.modules.pop(name, None)
                del _LOADED[name]
        _FOLDERS.add(str(self.path))
        if sys.path[-1:] != [str(self.path)] or _FOLDERS.intersection(sys.path[:-1]):
            sys.path[:] = [*(one for one in sys.path if one not in _FOLDERS), str(self.path)]
        importlib.invalidate_caches()
        linecache.checkcache()

    def _imported[T](self, name: str, found: Callable[[], T]) -> T:
        self.source(name)
        self.enter()
        before, written = set(sys.modules), sys.dont_write_bytecode
        sys.dont_write_bytecode = True  # a study's folder holds what its author put there
        try:
            return found()
        finally:
            sys.dont_write_bytecode = written
            for module in set(sys.modules) - before:
                file = getattr(sys.modules.get(module), "__file__", None)
                if file and Path(file).resolve().is_relative_to(self.path):
                    _LOADED[module] = (Path(file), sha256_of(Path(file)))


# Python's table of modules is one for the whole process, and so is the record of what studies have put into it.
_FOLDERS: set[str] = set()  # of all studies of this process
_LOADED: dict[str, tuple[Path, str]] = {}  # name of a module → its file, and the SHA-256 of the text that was imported
