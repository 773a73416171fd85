"""What to do about runs that fail."""

from dataclasses import dataclass
from typing import final

from uqms import _checks as check
from uqms._teaching import taught
from uqms.ensemble import RunState
from uqms.errors import InputError

__all__ = ["FailurePolicy"]

_LONGEST = 1e9  # seconds
_EXACT = 1 + 1e-12  # 0.29 * 100 is a little less than 29
_MENDABLE = (RunState.FAILED, RunState.TIMEOUT)


@taught
@final
@dataclass(frozen=True, kw_only=True)
class FailurePolicy:
    """Whether failed runs are tried again, and how many may fail before everything stops.

    By default a run that fails is recorded and the others go on. ``FailurePolicy(stop_above=0.0)`` aborts with the
    first failure, ``FailurePolicy(attempts=3, backoff=10.0)`` suits a licence server or a cluster with moods,
    ``FailurePolicy(stop_above=0.2)`` notices early that something is broken.

    Parameters
    ----------
    attempts
        How often a run that failed or was over its deadline is tried in all. One that ended with wrong outputs is not
        tried again: the same point gives them again.
    backoff
        Seconds before the second attempt; they double with every further one. Other runs go on meanwhile.
    stop_above
        Share of all runs of the design, 0 to 1, that may end without all of their outputs; one more raises
        `CampaignStopped`. 1 never stops.

    Raises
    ------
    InputError
        When a number cannot be meant.

    Examples
    --------
    >>> FailurePolicy(attempts=3, backoff=2.0).pause(2)
    4.0
    """

    attempts: int = 1
    backoff: float = 1.0
    stop_above: float = 1.0

    def __post_init__(self) -> None:
        if not check.is_whole(self.attempts, 1):
            raise InputError(f"attempts is {self.attempts!r}; give a whole number >= 1 (1 tries nothing again).")
        for name, most, wanted in (("backoff", _LONGEST, "seconds >= 0"), ("stop_above", 1.0, "a share from 0 to 1")):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
                raise InputError(f"{name} is {value!r}; give {wanted}.")

    def again(self, state: RunState, attempts: int) -> bool:
        """Return whether a run that ended so, after that many attempts, is tried again."""
        return state in _MENDABLE and attempts < self.attempts

    def pause(self, attempts: int) -> float:
        """Return the seconds to wait after that many attempts."""
        return float(self.backoff) * 2.0 ** (attempts - 1)

    def stops(self, failed: int, planned: int) -> bool:
        """Return whether so many failed runs out of all that were planned are too many."""
        return failed > self.stop_above * planned * _EXACT
