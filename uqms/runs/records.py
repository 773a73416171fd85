"""The record of one run."""

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
    """The state in which a run ended, and the outputs that it gave.

    Parameters
    ----------
    state
        The state, see `RunState`.
    seconds
        The duration of the run. If the run did not end by itself, the time until this was noticed.
    message
        Why the run did not complete; empty if it completed.
    outputs
        Mapping of each output's name to a float64 array, with NaN for the missing entries of a partial run; or None.
    attempts
        Number of attempts.
    """

    state: RunState
    seconds: float
    message: str = ""
    outputs: Mapping[str, Array] | None = None
    attempts: int = 1

    @classmethod
    def of(cls, attempt: Attempt) -> Self:
        """Return the record of an attempt."""
        return cls(RunState[attempt.ended.upper()], attempt.seconds, attempt.message, attempt.outputs)

    @classmethod
    def failed(cls, seconds: float, message: str) -> Self:
        """Return the record of a run that crashed."""
        return cls(RunState.FAILED, seconds, message)

    @classmethod
    def timed_out(cls, seconds: float, message: str) -> Self:
        """Return the record of a run that was killed at its timeout."""
        return cls(RunState.TIMEOUT, seconds, message)
