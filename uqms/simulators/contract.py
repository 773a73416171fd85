"""The seam between a campaign of runs and what computes one of them."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from uqms._typing import Array
from uqms.errors import OutputError

__all__ = ["Coordinate", "Simulator", "checked_outputs"]

Coordinate = NDArray[np.generic]


@runtime_checkable
class Simulator(Protocol):
    """Protocol of a simulator for `uqms.run`; a Python function, an executable and a service all follow it.

    Write your own when `FunctionSimulator` does not fit. An instance is sent to worker processes (cloudpickle), so it
    holds settings, never open files or connections.
    """

    @property
    def identity(self) -> Mapping[str, object]:
        """What identifies a simulator, as JSON values: results are kept and found again under it."""
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

    @property
    def seed(self) -> str | None:
        """Name of the input that takes the seed of a run; None for a simulator without chance."""
        ...

    def prepare(self, inputs: Sequence[str]) -> None:
        """Raise before the first run when this simulator cannot run at all, or not with these inputs.

        The seed is not among them.
        """
        ...

    def evaluate(self, point: Mapping[str, float]) -> dict[str, Array]:
        """Run once: named inputs to named float64 outputs, shaped by their dims.

        `point` has one float for each input; a simulator with a seed also finds that there, an int in [0, 2**31).

        Raises
        ------
        OutputError
            When outputs are missing, not finite or of the wrong shape; its `partial` keeps what can be used.
        SimulatorTimeout
            At a deadline of its own, or that of the run (`uqms.simulators.deadline.remaining`). Any other exception
            means that the run failed.
        """
        ...


def checked_outputs(
    got: Mapping[str, object], outputs: Mapping[str, tuple[str, ...]], coords: Mapping[str, Coordinate]
) -> dict[str, Array]:
    """Return what a run gave as the float64 arrays that `outputs` and `coords` declare; masked entries are missing.

    Raises
    ------
    OutputError
        Names the first output that is wrong and says what came instead. When some entries can be used, `partial` holds
        all outputs with NaN for what is missing.
    """
    if not isinstance(got, Mapping):
        raise OutputError(
            f"the simulator returned {type(got).__name__}; it must return a mapping with {', '.join(outputs)}."
        )
    missing = [name for name in outputs if name not in got]
    extra = [str(name) for name in got if name not in outputs]
    values, wrong = {}, []
    for name, dims in outputs.items():
        shape = tuple(len(coords[dim]) for dim in dims)
        try:
            values[name] = np.full(shape, np.nan) if name in missing else _real(name, got[name], dims, shape)
        except OutputError as error:
            values[name] = np.full(shape, np.nan)
            wrong.append(str(error))
            continue
        if name not in missing and not np.isfinite(values[name]).all():
            wrong.append(_place(name, values[name], dims, coords))
            values[name] = np.where(np.isfinite(values[name]), values[name], np.nan)
    if missing or extra:
        parts = [f"without {', '.join(missing)}"] * bool(missing) + [f"with unknown {', '.join(extra)}"] * bool(extra)
        wrong.insert(0, f"the run gave outputs {' and '.join(parts)}; declared are {', '.join(outputs)}.")
    if not wrong:
        return values
    usable = not extra and any(np.isfinite(array).any() for array in values.values())
    more = f" (and {len(wrong) - 1} more outputs are wrong)" if len(wrong) > 1 else ""
    raise OutputError(wrong[0] + more, values if usable else None)


def _real(name: str, got: object, dims: tuple[str, ...], shape: tuple[int, ...]) -> Array:
    if got is None:
        raise OutputError(f"output {name!r} is None; the simulator must return its value.")
    try:
        values = np.asarray(got)
    except ValueError as error:
        raise OutputError(f"output {name!r} is not an array: {error}.") from error
    if values.dtype.kind not in "fiu":
        raise OutputError(f"output {name!r} has dtype {values.dtype} ({_brief(got)}); it must be real numbers.")
    if values.shape != shape:
        wanted = f"dims {dims} of shape {shape}" if dims else "a scalar, shape ()"
        raise OutputError(f"output {name!r} has shape {values.shape}, but it is declared as {wanted}.")
    real = np.array(values, dtype=np.float64)
    if isinstance(got, np.ma.MaskedArray):
        real[np.ma.getmaskarray(got)] = np.nan
    return real


def _place(name: str, array: Array, dims: tuple[str, ...], coords: Mapping[str, Coordinate]) -> str:
    where = tuple(np.argwhere(~np.isfinite(array))[0])
    at = ", ".join(f"{dim}={coords[dim][i]}" for dim, i in zip(dims, where, strict=True))
    count = int((~np.isfinite(array)).sum())
    more = f" ({count} of {array.size} entries are not finite)" if count > 1 else ""
    return f"output {name!r} is {array[where]}{f' at {at}' if at else ''}; every output must be finite{more}."


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
