"""The deadline of the run that is going on in this process, for simulators that wait for something."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["Abandoned", "deadline", "end_if_abandoned", "remaining"]

_END: ContextVar[float] = ContextVar("uqms_deadline", default=math.inf)
_ABANDONED: ContextVar[threading.Event | None] = ContextVar("uqms_abandoned", default=None)


class Abandoned(BaseException):
    """Nobody waits for this run any more. Like an interrupt, it is no failure of the run."""


@contextmanager
def deadline(seconds: float | None, abandoned: threading.Event | None = None) -> Iterator[None]:
    """Give the run inside the block that many seconds; an earlier deadline around it stays.

    `abandoned` is set, by another thread, when nobody waits for the run any more.
    """
    end = min(_END.get(), math.inf if seconds is None else time.monotonic() + seconds)
    tokens = _END.set(end), _ABANDONED.set(abandoned or _ABANDONED.get())
    try:
        yield
    finally:
        _END.reset(tokens[0])
        _ABANDONED.reset(tokens[1])


def end_if_abandoned() -> None:
    """Raise `Abandoned` when nobody waits for this run any more."""
    abandoned = _ABANDONED.get()
    if abandoned is not None and abandoned.is_set():
        raise Abandoned


def remaining() -> float:
    """Return the seconds that are left for this run, at least 0, infinity without a deadline.

    A simulator that waits for a process or for a service asks here how long, and raises `SimulatorTimeout` itself, with
    what it knows: a run that is killed from outside cannot tell what it was doing.
    """
    return max(0.0, _END.get() - time.monotonic())
