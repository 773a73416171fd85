"""The policy for runs that fail: whether they are tried again, and when the campaign stops."""

from dataclasses import dataclass
from typing import final

from uqms import _checks as check
from uqms._teaching import taught
from uqms.ensemble import RunState
from uqms.errors import InputError

__all__ = ["FailurePolicy"]

_LONGEST = 1e9  # seconds, the upper bound of `backoff`
_EXACT = 1 + 1e-12  # rounding: 0.29 * 100 is a little less than 29 in float64
_MENDABLE = (RunState.FAILED, RunState.TIMEOUT)


@taught
@final
@dataclass(frozen=True, kw_only=True)
class FailurePolicy:
    """Whether failed runs are tried again, and how many runs may fail before the campaign stops.

    By default a failed run is recorded and the other runs continue. ``FailurePolicy(stop_above=0.0)`` stops at the
    first failure. ``FailurePolicy(attempts=3, backoff=10.0)`` suits a licence server or a cluster that fails now and
    then. ``FailurePolicy(stop_above=0.2)`` stops as soon as more than a fifth of all runs have failed.

    Parameters
    ----------
    attempts
        Total number of attempts for a run that failed or exceeded its timeout. A run that ended with invalid outputs is
        not tried again, since the same inputs give the same outputs.
    backoff
        Seconds before the second attempt. The waiting time doubles with every further attempt. Other runs continue
        meanwhile.
    stop_above
        Fraction of all runs of the design, 0 to 1, that may end without all of their outputs. When more runs do, `run`
        raises `CampaignStopped`. With 1 the campaign never stops.

    Raises
    ------
    InputError
        When a value is out of its range.

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
            raise InputError(
                f"attempts is {self.attempts!r}; give a whole number of at least 1, where 1 means that no run is tried "
                "again."
            )
        bounds = (
            ("backoff", _LONGEST, f"a number of seconds from 0 to {_LONGEST:g}"),
            ("stop_above", 1.0, "a fraction of the runs from 0 to 1"),
        )
        for name, most, wanted in bounds:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
                raise InputError(f"{name} is {value!r}; give {wanted}.")

    def again(self, state: RunState, attempts: int) -> bool:
        """Return whether a run that ended in `state` after so many attempts is tried again."""
        return state in _MENDABLE and attempts < self.attempts

    def pause(self, attempts: int) -> float:
        """Return the seconds to wait before the next attempt, after so many attempts."""
        return float(self.backoff) * 2.0 ** (attempts - 1)

    def stops(self, failed: int, planned: int) -> bool:
        """Return whether the campaign stops when `failed` of `planned` runs did not complete."""
        return failed > self.stop_above * planned * _EXACT
