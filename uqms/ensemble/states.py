"""The states in which runs end: words in a table of runs, integer codes in files."""

from enum import StrEnum
from typing import cast

import numpy as np
from numpy.typing import NDArray

from uqms.errors import DataError

__all__ = ["LOST", "RunState", "flag_attrs", "state_codes", "state_of", "state_words"]


class RunState(StrEnum):
    """The state in which a run ended, as a word; ``int(state)`` is its code in files and run stores.

    The variable ``state`` of an ensemble holds these words. Select runs by a word,
    ``ensemble.isel(run=ensemble["state"] == "failed")``, or by ``RunState.FAILED``, which is the same word. Surrogates
    are fitted to the completed runs, and to the outputs that partial runs gave.

    Examples
    --------
    >>> RunState.FAILED == "failed", int(RunState.FAILED)
    (True, 2)
    >>> RunState(1).value
    'completed'
    """

    PLANNED = "planned"
    """The run has not been run yet."""
    COMPLETED = "completed"
    """The run gave all of its outputs."""
    FAILED = "failed"
    """The run raised an error, crashed or was killed."""
    TIMEOUT = "timeout"
    """The run did not end before its deadline."""
    INVALID = "invalid"
    """The run ended, but no output can be used: outputs are missing, not finite or of the wrong shape."""
    PARTIAL = "partial"
    """The run gave some of its outputs; missing entries are NaN."""

    @property
    def code(self) -> int:
        """Return the integer code of the state, as in files and run stores."""
        return _CODES[self.value]

    def __int__(self) -> int:
        """Return the code of the state."""
        return self.code

    @classmethod
    def _missing_(cls, value: object) -> "RunState | None":
        if isinstance(value, str):
            return next((state for state in cls if state.value == value.lower()), None)
        if isinstance(value, int | np.integer) and not isinstance(value, bool):
            return list(cls)[int(value)] if 0 <= value < len(cls) else None
        return None


LOST = (RunState.FAILED, RunState.TIMEOUT, RunState.INVALID)
"""The states of runs that gave no outputs."""

_WORDS = np.array([state.value for state in RunState])  # by code
_CODES = {state.value: code for code, state in enumerate(RunState)}


def state_of(value: object) -> RunState:
    """Return the state of a word or of a code.

    Raises
    ------
    ValueError
        When the value is neither the word nor the code of a state.
    """
    return RunState(cast("str", value))  # `_missing_` takes codes


def flag_attrs() -> dict[str, object]:
    """Return the attributes of ``state`` in a file: its codes and their meanings, as in the CF conventions."""
    return {
        "role": "state",
        "flag_values": np.arange(len(_WORDS), dtype=np.int8),
        "flag_meanings": " ".join(_WORDS.tolist()),
    }


def state_words(states: object, n: int) -> NDArray[np.str_]:
    """Return the n states (words, codes or `RunState` values; None: all completed) as an array of words.

    Raises
    ------
    DataError
        When the number of states is not n, or a value is not a state.
    """
    return _WORDS[state_codes(states, n)]


def state_codes(states: object, n: int) -> NDArray[np.int8]:
    """Return the n states (words, codes or `RunState` values; None: all completed) as int8 codes.

    Raises
    ------
    DataError
        When the number of states is not n, or a value is not a state.
    """
    if states is None:
        return np.full(n, RunState.COMPLETED.code, dtype=np.int8)
    # A list may mix words and codes, so the values are not converted to one type.
    given = np.asarray(states, dtype=object)
    if given.shape != (n,):
        raise DataError(f"states has shape {given.shape} but there are {n} runs; give one state per run.")
    known: dict[tuple[type, object], int] = {}  # True == 1, but True is not a code
    codes = np.empty(n, dtype=np.int8)
    for row, value in enumerate(given.tolist()):
        key = (type(value), value)
        if key not in known:
            known[key] = _code(value, row)
        codes[row] = known[key]
    return codes


def _code(value: object, row: int) -> int:
    try:
        return state_of(value).code
    except ValueError:
        wanted = ", ".join(f"{state} ({state.code})" for state in RunState)
        raise DataError(
            f"the state of run {row} is {value!r}; give the word or the code of a state: {wanted}."
        ) from None
