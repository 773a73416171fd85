"""A Python function as a simulator."""

import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike

from uqms._typing import Array
from uqms.errors import InputError, OutputError
from uqms.simulators._identity import code_hash
from uqms.simulators.protocol import Coordinate, checked_output

__all__ = ["FunctionSimulator"]


@final
@dataclass(frozen=True, eq=False)
class FunctionSimulator:
    """A Python function that takes named numbers and returns named outputs.

    Use it for a model written in Python, or for one that a Python function starts. The function runs in worker
    processes: what it changes in its module stays there.

    Parameters
    ----------
    function
        Called as ``function(**point)`` with one float for each input. Returns a mapping output -> number or array; when
        there is one output, its value alone will do. A DataArray is matched by its dims and coordinates.
    outputs
        Name of each output and its dims, ``()`` for a scalar: ``{"conc": ("day",), "peak": ()}``.
    coords
        Values of every dim, shape (m,): ``{"day": days}``.
    units
        Units of the outputs.
    version
        Your own word for what the function computes. Stored runs are found again under it; without it, under a hash of
        the function's source (comments left out), of your functions that it calls and of the values that it reads.
    name
        The function's own name by default.

    Raises
    ------
    InputError
        When an output, dim or coordinate cannot be meant.

    Examples
    --------
    >>> import numpy as np
    >>> def decay(rate):
    ...     return np.exp(-rate * np.array([0.0, 1.0]))
    >>> simulator = FunctionSimulator(decay, outputs={"amount": ("hour",)}, coords={"hour": [0.0, 1.0]})
    >>> simulator.evaluate({"rate": 2.0})
    {'amount': array([1.   , 0.135])}
    """

    function: Callable[..., Any]
    outputs: Mapping[str, tuple[str, ...]] = field(kw_only=True)
    coords: Mapping[str, Coordinate] = field(kw_only=True, default_factory=dict)
    units: Mapping[str, str] = field(kw_only=True, default_factory=dict)
    version: str | None = field(kw_only=True, default=None)
    name: str | None = field(kw_only=True, default=None)

    def __post_init__(self) -> None:
        # Workers load this module and get a simulator that was checked; they have no use for pandas and xarray.
        from uqms.ensemble import RESERVED

        if not callable(self.function):
            raise InputError(f"function is {self.function!r}, which cannot be called; give a Python function.")
        outputs = _checked_dims(self.outputs, RESERVED)
        used = {dim for dims in outputs.values() for dim in dims}
        coords = {str(dim): _checked_coordinate(str(dim), values) for dim, values in dict(self.coords).items()}
        for name, dims in outputs.items():
            for dim in dims:
                if dim not in coords:
                    raise InputError(
                        f"output {name!r} has the dim {dim!r}, which has no coords; give coords={{{dim!r}: ...}}."
                    )
        for dim in coords:
            if dim not in used:
                raise InputError(f"coords names {dim!r}, which is the dim of no output; the dims are {sorted(used)}.")
            if dim in outputs or dim in RESERVED:
                raise InputError(
                    f"a dim cannot be called {dim!r}: an output or a column of every ensemble is called so."
                )
        for name in self.units:
            if name not in outputs:
                raise InputError(f"units names {name!r}, which is not an output; the outputs are {sorted(outputs)}.")
        if self.version is not None and not isinstance(self.version, str):
            raise InputError(f"version is {self.version!r}; give a text such as '1.2'.")
        called = self.name or getattr(self.function, "__qualname__", type(self.function).__name__)
        for key, value in (("outputs", outputs), ("coords", coords), ("units", dict(self.units)), ("name", called)):
            object.__setattr__(self, key, value)

    @cached_property
    def identity(self) -> Mapping[str, object]:
        """What makes two simulators the same one: name, version (or hash of the code), outputs, coordinates."""
        code = {"code": code_hash(self.function)} if self.version is None else {"version": self.version}
        return {
            "kind": "function",
            "name": self.name,
            **code,
            "outputs": {name: list(dims) for name, dims in self.outputs.items()},
            "coords": {dim: _coordinate_hash(values) for dim, values in self.coords.items()},
        }

    def prepare(self, inputs: Sequence[str]) -> None:
        """Raise an InputError when the function cannot be called with these inputs."""
        both = [name for name in inputs if name in self.outputs or name in self.coords]
        if both:
            raise InputError(f"{both[0]!r} is an input and an output or dim of {self.name}; give each its own name.")
        try:
            inspect.signature(self.function).bind(**dict.fromkeys(inputs, 0.0))
        except TypeError as error:
            raise InputError(
                f"{self.name}{inspect.signature(self.function)} cannot be called with the inputs "
                f"{', '.join(inputs)}: {error}."
            ) from error
        except ValueError:  # a compiled function that does not say what it takes
            return

    def evaluate(self, point: Mapping[str, float]) -> dict[str, Array]:
        """Run the function once and check what it returns.

        Parameters
        ----------
        point
            One number for each input.

        Returns
        -------
        dict
            Output -> float64 array, shaped by its dims.

        Raises
        ------
        OutputError
            When an output is missing, unknown, not finite or of the wrong shape. What the function raises passes on.
        """
        got = self.function(**point)
        if not isinstance(got, Mapping):
            if len(self.outputs) > 1:
                raise OutputError(
                    f"{self.name} returned {type(got).__name__}, but it has {len(self.outputs)} outputs; "
                    f"return a mapping with {', '.join(self.outputs)}."
                )
            got = dict.fromkeys(self.outputs, got)
        missing = [name for name in self.outputs if name not in got]
        extra = [str(name) for name in got if name not in self.outputs]
        if missing or extra:
            parts = [f"without {', '.join(missing)}"] * bool(missing) + [f"with unknown {', '.join(extra)}"] * bool(
                extra
            )
            raise OutputError(
                f"{self.name} returned outputs {' and '.join(parts)}; declared are {', '.join(self.outputs)}."
            )
        return {
            name: checked_output(name, _aligned(name, got[name], dims, self.coords), dims, self.coords)
            for name, dims in self.outputs.items()
        }


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


def _coordinate_hash(values: Coordinate) -> str:
    text = [float(v).hex() for v in values] if values.dtype.kind == "f" else [str(v) for v in values]
    return hashlib.sha256(repr(text).encode()).hexdigest()


def _aligned(name: str, got: object, dims: tuple[str, ...], coords: Mapping[str, Coordinate]) -> object:
    """Put a DataArray's dims into the declared order; its coordinates must be the declared ones."""
    labelled = sys.modules.get("xarray")  # what returns a DataArray has loaded it
    if labelled is None or not isinstance(got, labelled.DataArray):
        return got
    if set(got.dims) != set(dims):
        raise OutputError(f"output {name!r} has the dims {got.dims}, but it is declared with {dims}.")
    for dim in dims:
        if dim in got.coords and not np.array_equal(got.coords[dim].values, coords[dim]):
            raise OutputError(f"output {name!r} comes at other values of {dim!r} than declared in coords.")
    return got.transpose(*dims).values
