"""What is kept of one run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, final

from uqms._typing import Array
from uqms.ensemble import RunState
from uqms.simulators.process import Attempt

__all__ = ["Record"]


@final
@dataclass(frozen=True)
class Record:
    """How one run ended, with its outputs when it completed.

    Parameters
    ----------
    state
        See `RunState`.
    seconds
        What the run took; until its death was noticed when it did not end by itself.
    message
        Why it did not complete.
    outputs
        Output -> float64 array, or None.
    """

    state: RunState
    seconds: float
    message: str = ""
    outputs: Mapping[str, Array] | None = None

    @classmethod
    def of(cls, attempt: Attempt) -> Self:
        """Return what is kept of an attempt."""
        if attempt.outputs is not None:
            return cls(RunState.COMPLETED, attempt.seconds, "", attempt.outputs)
        return cls(RunState.INVALID if attempt.wrong_output else RunState.FAILED, attempt.seconds, attempt.message)

    @classmethod
    def failed(cls, seconds: float, message: str) -> Self:
        """Return the record of a run that crashed."""
        return cls(RunState.FAILED, seconds, message)

    @classmethod
    def timed_out(cls, seconds: float, message: str) -> Self:
        """Return the record of a run that was killed at its deadline."""
        return cls(RunState.TIMEOUT, seconds, message)
