"""The states in which runs end, and their integer codes."""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from uqms.errors import DataError

__all__ = ["LOST", "STATE_NOTE", "RunState", "flag_attrs", "state_codes"]


class RunState(IntEnum):
    """The state in which a run ended, as an integer code.

    The variable ``state`` of an ensemble holds these codes. Select runs by a code,
    ``ensemble.isel(run=ensemble["state"] == RunState.FAILED)``, or by a word,
    ``ensemble.isel(run=run_states(ensemble) == "failed")``. A comparison of the codes with a word is False for every
    run. Surrogates are fitted to the completed runs, and to the outputs that partial runs gave.

    Examples
    --------
    >>> RunState(1).name
    'COMPLETED'
    """

    PLANNED = 0
    """The run has not been run yet."""
    COMPLETED = 1
    """The run gave all of its outputs."""
    FAILED = 2
    """The run raised an error, crashed or was killed."""
    TIMEOUT = 3
    """The run did not end before its deadline."""
    INVALID = 4
    """The run ended, but no output can be used: outputs are missing, not finite or of the wrong shape."""
    PARTIAL = 5
    """The run gave some of its outputs; missing entries are NaN."""


LOST = (RunState.FAILED, RunState.TIMEOUT, RunState.INVALID)
"""The states of runs that gave no outputs."""


STATE_NOTE = "integer codes; in words: uqms.ensemble.run_states(ensemble)"
"""What `print` shows with an ensemble and with its variable ``state``: comparing these codes with a word is False."""


def flag_attrs() -> dict[str, object]:
    """Return the attributes of the variable ``state``: its codes and their meanings, as in the CF conventions."""
    return {
        "role": "state",
        "comment": STATE_NOTE,
        "flag_values": np.array([int(s) for s in RunState], dtype=np.int8),
        "flag_meanings": " ".join(s.name.lower() for s in RunState),
    }


def state_codes(states: object, n: int) -> NDArray[np.int8]:
    """Return the n states (codes, `RunState` values or names; None: all completed) as int8 codes.

    Raises
    ------
    DataError
        When the number of states is not n, or a value is not a state.
    """
    if states is None:
        return np.full(n, RunState.COMPLETED, dtype=np.int8)
    # A list may mix names and codes, so the values are not converted to one type.
    given = np.asarray(states, dtype=object)
    if given.shape != (n,):
        raise DataError(f"states has shape {given.shape} but there are {n} runs; give one state per run.")
    return np.array([_code(value, row) for row, value in enumerate(given.tolist())], dtype=np.int8)


def _code(value: object, row: int) -> int:
    if isinstance(value, str) and value.upper() in RunState.__members__:
        return RunState[value.upper()]
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) in RunState:
        return int(value)
    wanted = ", ".join(f"{s.name.lower()} ({int(s)})" for s in RunState)
    raise DataError(f"the state of run {row} is {value!r}; give the name or the code of a state: {wanted}.")
