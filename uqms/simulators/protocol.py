"""The seam between a campaign of runs and what computes one of them."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from uqms._typing import Array
from uqms.errors import OutputError

__all__ = ["Simulator", "checked_output"]

Coordinate = NDArray[np.generic]


@runtime_checkable
class Simulator(Protocol):
    """What `uqms.run` asks of a simulator; a Python function, an executable and a service all look like this.

    Write your own when `FunctionSimulator` does not fit. An instance is sent to worker processes (cloudpickle), so it
    holds settings, never open files or connections.
    """

    @property
    def identity(self) -> Mapping[str, object]:
        """What makes two simulators the same one, as JSON values: results are kept and found again under it."""
        ...

    @property
    def outputs(self) -> Mapping[str, tuple[str, ...]]:
        """Name of each output and its dims, ``()`` for a scalar."""
        ...

    @property
    def coords(self) -> Mapping[str, Coordinate]:
        """Coordinate values of every dim, shape (m,)."""
        ...

    @property
    def units(self) -> Mapping[str, str]:
        """Units of the outputs, where they are known."""
        ...

    def prepare(self, inputs: Sequence[str]) -> None:
        """Raise before the first run when this simulator cannot run at all, or not with these inputs."""
        ...

    def evaluate(self, point: Mapping[str, float]) -> dict[str, Array]:
        """Run once: named inputs to named float64 outputs, shaped by their dims.

        Raises
        ------
        OutputError
            When outputs are missing, not finite or of the wrong shape. Any other exception means that the run failed.
        """
        ...


def checked_output(name: str, got: object, dims: tuple[str, ...], coords: Mapping[str, Coordinate]) -> Array:
    """Return `got` as the float64 array that `dims` and `coords` declare.

    Raises
    ------
    OutputError
        Names the output and says what came instead.
    """
    if got is None:
        raise OutputError(f"output {name!r} is None; the simulator must return its value.")
    try:
        values = np.asarray(got)
    except ValueError as error:
        raise OutputError(f"output {name!r} is not an array: {error}.") from error
    if values.dtype.kind not in "fiu":
        raise OutputError(f"output {name!r} has dtype {values.dtype} ({_brief(got)}); it must be real numbers.")
    shape = tuple(len(coords[dim]) for dim in dims)
    if values.shape != shape:
        wanted = f"dims {dims} of shape {shape}" if dims else "a scalar, shape ()"
        raise OutputError(f"output {name!r} has shape {values.shape}, but it is declared as {wanted}.")
    array = np.array(values, dtype=np.float64)
    if not np.isfinite(array).all():
        where = tuple(np.argwhere(~np.isfinite(array))[0])
        at = ", ".join(f"{dim}={coords[dim][i]}" for dim, i in zip(dims, where, strict=True))
        raise OutputError(f"output {name!r} is {array[where]}{f' at {at}' if at else ''}; every output must be finite.")
    return array


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
