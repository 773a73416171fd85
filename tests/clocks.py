"""Clocks that stand in for the module `time`, so that deadlines do not depend on how busy the machine is."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from uqms.runs import execute, pool
from uqms.simulators import worker

GUARD = 60.0  # s after which a test that waits for an event gives up


class Clock:
    """A clock that only advances when somebody sleeps by it, or sets it."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Leaping:
    """The system's clock, except that an hour passes as soon as an event has happened."""

    def __init__(self, happened: Callable[[], bool]) -> None:
        self.happened = happened
        self.leap = 0.0

    def monotonic(self) -> float:
        if not self.leap and self.happened():
            self.leap = 3600.0
        return time.monotonic() + self.leap


def wait_for(condition: Callable[[], object], seconds: float = GUARD) -> None:
    """Wait until a condition holds; the guard against hangs is generous, because it is no part of any test."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited for {seconds:g} s in vain"
        time.sleep(0.01)


class _Patient:
    """A simulator as it travels to a worker, which then gives it a minute to tell of its deadline itself."""

    def __init__(self, simulator: object) -> None:
        self.simulator = simulator

    def __reduce__(self) -> tuple[Callable[[object], object], tuple[object]]:
        return _patiently, (self.simulator,)


def _patiently(simulator: object) -> object:
    worker.GRACE = GUARD
    return simulator


@contextmanager
def patient_workers() -> Iterator[None]:
    """Let runs tell of their deadline themselves, as on a machine that is not busy: nobody ends them before they do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "_PATIENCE", GUARD)
        patch.setattr(execute, "payload_of", lambda simulator: pool.payload_of(_Patient(simulator)))
        yield
