"""What is kept of one run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, final

from uqms._typing import Array
from uqms.ensemble import RunState
from uqms.simulators.worker import Attempt

__all__ = ["Record"]


@final
@dataclass(frozen=True)
class Record:
    """How one run ended, with the outputs that it gave.

    Parameters
    ----------
    state
        See `RunState`.
    seconds
        What the run took; until its death was noticed when it did not end by itself.
    message
        Why it did not complete.
    outputs
        Output -> float64 array, or None; of a partial run with NaN for what is missing.
    attempts
        How often it was tried.
    """

    state: RunState
    seconds: float
    message: str = ""
    outputs: Mapping[str, Array] | None = None
    attempts: int = 1

    @classmethod
    def of(cls, attempt: Attempt) -> Self:
        """Return what is kept of an attempt."""
        return cls(RunState[attempt.ended.upper()], attempt.seconds, attempt.message, attempt.outputs)

    @classmethod
    def failed(cls, seconds: float, message: str) -> Self:
        """Return the record of a run that crashed."""
        return cls(RunState.FAILED, seconds, message)

    @classmethod
    def timed_out(cls, seconds: float, message: str) -> Self:
        """Return the record of a run that was killed at its deadline."""
        return cls(RunState.TIMEOUT, seconds, message)
