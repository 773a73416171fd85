"""The deadline of the run that is going on in this process, for simulators that wait for something."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["deadline", "remaining"]

_END: ContextVar[float] = ContextVar("uqms_deadline", default=math.inf)


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Give the run inside the block that many seconds; an earlier deadline around it stays."""
    end = min(_END.get(), math.inf if seconds is None else time.monotonic() + seconds)
    token = _END.set(end)
    try:
        yield
    finally:
        _END.reset(token)


def remaining() -> float:
    """Return the seconds that are left for this run, at least 0, infinity without a deadline.

    A simulator that waits for a process or for a service asks here how long, and raises `SimulatorTimeout` itself, with
    what it knows: a run that is killed from outside cannot tell what it was doing.
    """
    return max(0.0, _END.get() - time.monotonic())
