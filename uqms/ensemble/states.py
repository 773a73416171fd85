"""How a run ended."""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from uqms.errors import DataError

__all__ = ["LOST", "RunState", "flag_attrs", "state_codes"]


class RunState(IntEnum):
    """How a run ended.

    Use it to select rows, ``ensemble.isel(run=ensemble["state"] == RunState.FAILED)``, or compare `run_states` with a
    word. Surrogates are fitted to the completed runs, and to the outputs that partial runs have.

    Examples
    --------
    >>> RunState(1).name
    'COMPLETED'
    """

    PLANNED = 0
    """not run yet"""
    COMPLETED = 1
    """ended with all of its outputs"""
    FAILED = 2
    """raised, crashed or was killed"""
    TIMEOUT = 3
    """did not end before its deadline"""
    INVALID = 4
    """ended, but no output can be used: missing, not finite or of the wrong shape"""
    PARTIAL = 5
    """ended with part of its outputs; NaN stands where an entry is missing"""


LOST = (RunState.FAILED, RunState.TIMEOUT, RunState.INVALID)
"""States of runs that gave nothing."""


def flag_attrs() -> dict[str, object]:
    """Attributes of the variable ``state``, as the CF conventions write flags."""
    return {
        "role": "state",
        "flag_values": np.array([int(s) for s in RunState], dtype=np.int8),
        "flag_meanings": " ".join(s.name.lower() for s in RunState),
    }


def state_codes(states: object, n: int) -> NDArray[np.int8]:
    """Return `states` (codes, RunState values or names; None means completed) as n int8 codes.

    Raises
    ------
    DataError
        When there are not n of them or one of them is not a state.
    """
    if states is None:
        return np.full(n, RunState.COMPLETED, dtype=np.int8)
    # Names and codes may stand side by side, so nothing is cast.
    given = np.asarray(states, dtype=object)
    if given.shape != (n,):
        raise DataError(f"states has shape {given.shape} but there are {n} runs; give one state for each run.")
    return np.array([_code(value, row) for row, value in enumerate(given.tolist())], dtype=np.int8)


def _code(value: object, row: int) -> int:
    if isinstance(value, str) and value.upper() in RunState.__members__:
        return RunState[value.upper()]
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) in RunState:
        return int(value)
    wanted = ", ".join(f"{s.name.lower()} ({int(s)})" for s in RunState)
    raise DataError(f"state of run {row} is {value!r}; a state is one of {wanted}.")
