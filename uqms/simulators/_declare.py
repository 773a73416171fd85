"""What every simulator says of itself: outputs, dims, coordinates, units, fixed settings, the name of its seed."""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import ArrayLike

from uqms.errors import InputError
from uqms.simulators.contract import Coordinate

__all__ = ["Declared", "Setting", "declared"]

Setting = float | int | bool | str


@final
@dataclass(frozen=True)
class Declared:
    """Checked and normalised declarations."""

    outputs: Mapping[str, tuple[str, ...]]
    coords: Mapping[str, Coordinate]
    units: Mapping[str, str]
    config: Mapping[str, Setting]
    seed: str | None

    def identity(self) -> dict[str, object]:
        """Return the part of a simulator's identity that follows from this, as JSON values."""
        said: dict[str, object] = {
            "outputs": {name: list(dims) for name, dims in self.outputs.items()},
            "coords": {dim: _coordinate_hash(values) for dim, values in self.coords.items()},
        }
        if self.config:
            said["config"] = {name: _exact(value) for name, value in sorted(self.config.items())}
        if self.seed is not None:
            said["seed"] = self.seed
        return said

    def refuse_clash(self, inputs: Iterable[str], called: str) -> None:
        """Raise an InputError when an input has the name of an output, a dim, a setting or the seed."""
        for name in inputs:
            if name in self.outputs or name in self.coords:
                raise InputError(f"{name!r} is an input and an output or dim of {called}; give each its own name.")
            if name in self.config:
                raise InputError(f"{name!r} is an input and stands in config of {called}; take it out of one of them.")
            if name == self.seed:
                raise InputError(
                    f"{name!r} is an input and the seed of {called}; seeds are given by run(..., rng=), "
                    "take it out of the design."
                )


def declared(
    outputs: object,
    coords: Mapping[str, ArrayLike],
    units: Mapping[str, str],
    config: object = None,
    seed: object = None,
) -> Declared:
    """Check what a simulator declares.

    Raises
    ------
    InputError
        Names the output, dim, coordinate, unit or setting that cannot be meant.
    """
    # Workers load this module and get a simulator that was checked; they have no use for pandas and xarray.
    from uqms.ensemble import RESERVED

    checked = _checked_dims(outputs, RESERVED)
    used = {dim for dims in checked.values() for dim in dims}
    places = {str(dim): _checked_coordinate(str(dim), values) for dim, values in dict(coords).items()}
    for name, dims in checked.items():
        for dim in dims:
            if dim not in places:
                raise InputError(
                    f"output {name!r} has the dim {dim!r}, which has no coords; give coords={{{dim!r}: ...}}."
                )
    for dim in places:
        if dim not in used:
            raise InputError(f"coords names {dim!r}, which is the dim of no output; the dims are {sorted(used)}.")
        if dim in checked or dim in RESERVED:
            raise InputError(f"a dim cannot be called {dim!r}: an output or a column of every ensemble is called so.")
    for name in units:
        if name not in checked:
            raise InputError(f"units names {name!r}, which is not an output; the outputs are {sorted(checked)}.")
    if seed is not None and (not isinstance(seed, str) or not seed.isidentifier()):
        raise InputError(f"seed is {seed!r}; give the name under which the simulator takes its seed, such as 'seed'.")
    settings = _checked_config(config)
    if seed in settings:
        raise InputError(f"{seed!r} is the seed and stands in config; take it out of one of them.")
    return Declared(checked, places, dict(units), settings, seed)


def _checked_dims(outputs: object, reserved: frozenset[str]) -> dict[str, tuple[str, ...]]:
    if not isinstance(outputs, Mapping) or not outputs:
        raise InputError(
            f"outputs is {outputs!r}; give each output its dims, for example {{'conc': ('day',), 'peak': ()}}."
        )
    checked = {}
    for name, dims in outputs.items():
        if not isinstance(name, str) or not name.strip() or "/" in name:
            raise InputError(f"an output is called {name!r}; give it a name without '/'.")
        if name in reserved:
            raise InputError(
                f"an output cannot be called {name!r}: every ensemble has a column of that name; rename it."
            )
        if isinstance(dims, str) or not all(isinstance(dim, str) for dim in dims):
            raise InputError(
                f"output {name!r} has the dims {dims!r}; give a tuple of names such as ('day',), or () for a scalar."
            )
        if len(set(dims)) < len(tuple(dims)):
            raise InputError(f"output {name!r} has the dims {dims!r}; each dim stands once.")
        checked[name] = tuple(dims)
    return checked


def _checked_coordinate(dim: str, given: ArrayLike) -> Coordinate:
    values = np.array(given)
    if values.ndim != 1 or values.size == 0 or values.dtype.kind not in "fiuU":
        raise InputError(
            f"coords of {dim!r} have shape {values.shape} and dtype {values.dtype}; give m numbers or m words."
        )
    if values.dtype.kind in "fiu":
        values = values.astype(np.float64)
        if not np.isfinite(values).all():
            raise InputError(f"coords of {dim!r} hold {values[~np.isfinite(values)][0]}; they must be finite.")
    unique, counts = np.unique(values, return_counts=True)
    if (counts > 1).any():
        raise InputError(f"coords of {dim!r} hold {unique[counts > 1][0]} twice; each place stands once.")
    values.flags.writeable = False
    return values


def _checked_config(config: object) -> dict[str, Setting]:
    if config is None:
        return {}
    if not isinstance(config, Mapping):
        raise InputError(f"config is {config!r}; give fixed settings by name, for example {{'cells': 200}}.")
    settings = {name: value.item() if isinstance(value, np.generic) else value for name, value in config.items()}
    for name, value in settings.items():
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"a setting in config is called {name!r}; give it a name.")
        if not isinstance(value, float | int | bool | str) or (isinstance(value, float) and not math.isfinite(value)):
            raise InputError(f"config has {name!r} = {value!r}; a setting is a finite number, a text, True or False.")
    return settings


def _coordinate_hash(values: Coordinate) -> str:
    text = [float(v).hex() for v in values] if values.dtype.kind == "f" else [str(v) for v in values]
    return hashlib.sha256(repr(text).encode()).hexdigest()


def _exact(value: Setting) -> str:
    """Return a setting with its type and every bit: 1, 1.0, True and "1" are four settings."""
    return f"{type(value).__name__} {float(value).hex() if isinstance(value, float) else value}"
