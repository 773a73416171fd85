"""Objects as plain values of a study file: the reverse of `values`."""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

import uqms
from uqms._import_names import name_of, name_of_function, stored_name
from uqms.errors import InputError
from uqms.study.folder import Folder

__all__ = ["plain"]


def plain(value: object, folder: Folder, what: str) -> Any:
    """Return a value as a study file holds it.

    Parameters
    ----------
    value
        Numbers, text, arrays, mappings, functions of the study's folder, and dataclasses of these.
    folder
        The study's folder, to which paths are relative.
    what
        Name of the value for messages.

    Raises
    ------
    InputError
        When a file cannot hold it: a lambda, a fitted surrogate, data.
    """
    if isinstance(value, np.generic):
        return plain(value.item(), folder, what)
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value.relative_to(folder.path)) if value.is_relative_to(folder.path) else str(value)
    if isinstance(value, np.ndarray):
        return plain(value.tolist(), folder, what)
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one, folder, f"{what}[{i}]") for i, one in enumerate(value)]
    if isinstance(value, Mapping):
        return {str(key): plain(one, folder, f"{what}.{key}") for key, one in value.items()}
    if isinstance(value, FunctionType):
        return _function(value, folder, what)
    if is_dataclass(value) and not isinstance(value, type):
        return _object(value, folder, what)
    raise InputError(
        f"{what} is a {type(value).__name__}, which a study file cannot hold; it holds settings, import names of "
        "functions in the study's folder and paths of files there."
    )


def _function(value: FunctionType, folder: Folder, what: str) -> str:
    name = name_of_function(value)
    if name is None or not Path(value.__code__.co_filename).resolve().is_relative_to(folder.path):
        raise InputError(
            f"{what} is the function {value.__qualname__!r}, which is not at the top level of a module in the study's "
            f"folder {folder.path}; define it with `def` in a file there, such as model.py."
        )
    return name


def _object(value: Any, folder: Folder, what: str) -> dict[str, Any]:
    cls = type(value)
    public = getattr(uqms, cls.__name__, None) is cls
    kind = cls.__name__ if public else stored_name(cls, "class")
    if not public and name_of(cls).startswith("uqms"):
        raise InputError(f"{what} is a {cls.__name__}, which a study file cannot hold; it is made by the study's run.")
    table = {"kind": kind}
    for field in sorted(fields(value), key=lambda one: bool(one.kw_only)):
        given = getattr(value, field.name)
        if field.init and not _is_default(field, given, folder):
            table[field.name] = plain(given, folder, f"{what}.{field.name}")
    return table


def _is_default(field: "Field[Any]", given: object, folder: Folder) -> bool:
    if field.default_factory is not MISSING:
        usual = field.default_factory()
    elif field.default is MISSING:
        return False
    else:
        usual = field.default
    if given is usual:
        return True
    if given is None or usual is None:
        return False
    try:
        return bool(plain(given, folder, "") == plain(usual, folder, ""))
    except InputError:
        return False
