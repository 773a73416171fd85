"""How many models compute at once, who waits, and who is sent away."""

import asyncio
import atexit
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import final
from weakref import WeakSet

from uqms.simulators.deadline import deadline
from uqms.simulators.process_tree import kill_runs_of
from uqms.simulators.umbridge.served import Refusal

__all__ = ["Slots"]

GRACE = 0.2  # s after the deadline in which a model that heeds it may still say so itself
PATIENCE = 0.6  # s for evaluations that nobody waits for any more, in which a program ends and its directory goes

_evaluations: "WeakSet[threading.Thread]" = WeakSet()


@atexit.register
def _end_programs() -> None:
    """End the programs of evaluations that still run: these threads end in silence, their programs would go on."""
    if any(thread.is_alive() for thread in list(_evaluations)):
        kill_runs_of(os.getpid())


@final
class Slots:
    """Threads for `workers` evaluations at once; `queue` more wait. All methods run in one event loop.

    A thread cannot be stopped: an evaluation that ignores its deadline keeps its place until it ends. When all places
    are lost in that way, requests are refused at once. A program is ended when its client leaves or the server stops.
    """

    def __init__(self, workers: int, queue: int, timeout: float | None) -> None:
        self.workers, self.queue, self.timeout = workers, queue, timeout
        self.free = workers
        self.lost = 0
        self.waiting: deque[asyncio.Future[None]] = deque()
        self.threads: WeakSet[threading.Thread] = WeakSet()

    def join(self) -> None:
        """Wait a moment for evaluations that have been abandoned."""
        until = time.monotonic() + PATIENCE
        for thread in list(self.threads):
            thread.join(max(0.0, until - time.monotonic()))

    async def run(self, work: Callable[[], bytes]) -> bytes:
        """Return what `work` returns, computed in a thread.

        Raises
        ------
        Refusal
            When nobody is free in time.
        """
        await self._take()
        loop = asyncio.get_running_loop()
        result: asyncio.Future[bytes] = loop.create_future()
        overdue = False
        abandoned = threading.Event()

        def end(value: bytes, error: Exception | None) -> None:
            if timer is not None:
                timer.cancel()
            self.lost -= overdue
            self._give()
            if not result.done():  # otherwise it was overdue, or the client has gone
                result.set_result(value) if error is None else result.set_exception(error)

        def late() -> None:
            nonlocal overdue
            overdue = True
            self._lose()
            if not result.done():
                result.set_exception(Refusal(504, "Timeout", f"The model did not answer within {self.timeout:g} s."))

        def thread() -> None:
            value, raised = b"", None
            try:
                with deadline(self.timeout, abandoned):
                    value = work()
            except BaseException as error:  # SystemExit too: it would end the thread in silence
                raised = error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")
                if isinstance(raised, StopIteration):  # which a future cannot hold
                    raised = RuntimeError("StopIteration")
            with contextlib.suppress(RuntimeError):  # the server has been closed
                loop.call_soon_threadsafe(end, value, raised)

        timer = None if self.timeout is None else loop.call_later(self.timeout + GRACE, late)
        evaluation = threading.Thread(target=thread, daemon=True, name="uqms-umbridge-model")
        self.threads.add(evaluation)
        _evaluations.add(evaluation)
        evaluation.start()
        try:
            return await result
        finally:
            abandoned.set()

    async def _take(self) -> None:
        if self.lost >= self.workers:
            raise self._stuck()
        if self.free:
            self.free -= 1
            return
        if len(self.waiting) >= self.queue:
            raise Refusal(503, "Busy", f"{self.workers} evaluations run and {self.queue} wait; try again later.")
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place in self.waiting:
                self.waiting.remove(place)
            elif place.done() and not place.cancelled() and place.exception() is None:
                self._give()
            raise

    def _give(self) -> None:
        while self.waiting:
            place = self.waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.free += 1

    def _lose(self) -> None:
        self.lost += 1
        if self.lost >= self.workers:
            while self.waiting:
                place = self.waiting.popleft()
                if not place.done():
                    place.set_exception(self._stuck())

    def _stuck(self) -> Refusal:
        return Refusal(503, "Busy", f"All {self.workers} workers are held by evaluations beyond their deadline.")
