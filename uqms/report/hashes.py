"""Hashes of what a report rests on: data, runs and code."""

import functools
import hashlib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from uqms.calibration.base import Problem

__all__ = ["fingerprint", "hash_of_code", "hash_of_data", "hash_of_model", "hash_of_runs"]


def fingerprint(value: object) -> str:
    """Return the SHA-256 of the numbers, texts and settings that a value consists of."""
    digest = hashlib.sha256()
    for piece in _pieces(value, 0):
        digest.update(len(piece).to_bytes(8, "little") + piece)
    return digest.hexdigest()


def _pieces(value: object, depth: int) -> Iterable[bytes]:
    if depth > 40:
        yield type(value).__name__.encode()
    elif isinstance(value, np.ndarray) and value.dtype != object:
        array = np.ascontiguousarray(value)
        yield f"{array.dtype.str}{array.shape}".encode()
        yield array.tobytes()
    elif isinstance(value, pd.DataFrame):
        yield value.to_csv(float_format="%r").encode()
    elif isinstance(value, xr.Dataset | xr.DataArray):
        plain = value.to_dataset(name="values") if isinstance(value, xr.DataArray) else value
        for name in sorted(map(str, plain.variables)):
            yield from _pieces((name, plain[name].dims, plain[name].values), depth + 1)
    elif isinstance(value, FunctionType):
        yield _source_of(value).encode()
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield str(key).encode()
            yield from _pieces(value[key], depth + 1)
    elif isinstance(value, list | tuple | np.ndarray):
        yield f"{type(value).__name__}{len(value)}".encode()
        for one in value:
            yield from _pieces(one, depth + 1)
    elif is_dataclass(value) and not isinstance(value, type):
        yield type(value).__name__.encode()
        for field in fields(value):
            yield field.name.encode()
            yield from _pieces(getattr(value, field.name), depth + 1)
    elif isinstance(value, str | int | float | bool | None | np.generic | type):
        yield repr(value.item() if isinstance(value, np.generic) else value).encode()
    else:
        yield type(value).__name__.encode()


def _source_of(function: FunctionType) -> str:
    """Return the source of a function, or its name where there is none."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return f"{function.__module__}.{function.__qualname__}"


def hash_of_data(problem: Problem) -> str:
    """Return the hash of all measurements, with their coordinates, conditions, subjects and regimens."""
    return fingerprint({name: part.observations for name, part in problem.named_parts.items()})


def hash_of_runs(surrogate: Any) -> str:
    """Return the hash of a surrogate: the runs that it was trained on, as it keeps them, and what it learned of them.

    Of a chain it is that of all members and links, of a simulator that is used directly that of its code.
    """
    members = getattr(surrogate, "members", None)
    if isinstance(members, Mapping):
        links = getattr(surrogate, "links", {})
        return fingerprint(({name: hash_of_runs(one) for name, one in members.items()}, links))
    return fingerprint(surrogate)


def hash_of_model(problem: Problem) -> str:
    """Return the hash of the model: parameters and priors, fixed values, constraints, noise and discrepancy."""
    settings = ("noise", "discrepancy", "outside", "expansion", "failures")
    parts = {name: {key: part.settings.get(key) for key in settings} for name, part in problem.named_parts.items()}
    constraints = [one.text for one in problem.constraints]
    return fingerprint((problem.space.to_json(), problem.priors, problem.fixed, constraints, parts))


@functools.cache
def hash_of_code() -> str:
    """Return the hash of the source files of this library."""
    folder = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
