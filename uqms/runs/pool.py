"""Points to attempts: in this process, or in parallel local processes.

Both are the seam behind which other machines come: an iterator of (index of the point, `Record`) in the order in which
runs end. Closing it early stops what is running.
"""

import math
import os
import queue
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any, final

import cloudpickle
from loky.backend import get_context
from pebble import ProcessExpired, ProcessPool

from uqms.errors import CampaignError, InputError, SimulatorFailed
from uqms.runs.records import Record
from uqms.simulators import Simulator
from uqms.simulators.process import Unloadable, attempt, evaluate, start

__all__ = ["Point", "in_processes", "in_this_process", "usable_cpus"]

Point = Mapping[str, float]

_AHEAD = 0.02  # seconds of work that lie ready for a worker; it is what a kill of the coordinator can lose
_MOST_AHEAD = 64
_BREAKS = 3


def usable_cpus() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_this_process(simulator: Simulator, points: Sequence[Point]) -> Generator[tuple[int, Record]]:
    """Run one point after the other, without another process: for debugging."""
    for index, point in enumerate(points):
        yield index, Record.of(attempt(simulator, point))


def in_processes(
    simulator: Simulator, points: Sequence[Point], workers: int, timeout: float | None
) -> Generator[tuple[int, Record]]:
    """Run points in worker processes; a worker that dies or is killed at its deadline costs its own point only.

    Raises
    ------
    InputError
        When the simulator cannot be sent to another process.
    SimulatorFailed
        When the workers cannot load it.
    CampaignError
        When the pool breaks again and again without a single result.
    """
    payload = _payload(simulator)
    left = dict(enumerate(points))
    idle_breaks = 0
    while left:
        before = len(left)
        try:
            for index, record in _one_pool(payload, left, workers, timeout):
                del left[index]
                yield index, record
        except BrokenProcessPool as error:
            idle_breaks = idle_breaks + 1 if len(left) == before else 0
            if idle_breaks == _BREAKS:
                raise CampaignError(
                    f"the worker processes ended {_BREAKS} times before they gave a result ({error}), {len(left)} runs "
                    "are left; is there enough memory? workers=0 runs in this process and shows more."
                ) from error


def _payload(simulator: Simulator) -> bytes:
    try:
        return bytes(cloudpickle.dumps(simulator))
    except Exception as error:  # whatever the user's objects raise when they are pickled
        raise InputError(
            f"the simulator cannot be sent to worker processes ({type(error).__name__}: {error}); open files, "
            "connections and solvers inside the function, or use workers=0."
        ) from error


def _one_pool(
    payload: bytes, left: Mapping[int, Point], workers: int, timeout: float | None
) -> Generator[tuple[int, Record]]:
    # loky's processes are fresh ones that never import the user's script again, unlike multiprocessing's spawn.
    pool: Any = ProcessPool(workers, initializer=start, initargs=(payload, os.getpid()), context=get_context("loky"))
    waiting, flying = deque(left), dict[int, float]()
    ended: queue.SimpleQueue[tuple[int, Future[Any]]] = queue.SimpleQueue()
    pace = _Pace(workers)
    try:
        while waiting or flying:
            while waiting and len(flying) < pace.window:
                index = waiting.popleft()
                flying[index] = time.perf_counter()
                future = _schedule(pool, left[index], timeout)
                future.add_done_callback(_put(ended, index))
            index, future = ended.get()
            record = _record(future, time.perf_counter() - flying.pop(index), timeout)
            pace.saw(record.seconds)
            yield index, record
    finally:
        pool.stop()
        pool.join()


def _schedule(pool: ProcessPool, point: Point, timeout: float | None) -> Future[Any]:
    try:
        future: Future[Any] = pool.schedule(evaluate, args=(dict(point),), timeout=timeout)
    except RuntimeError as error:
        raise BrokenProcessPool(str(error)) from error
    return future


def _put(ended: "queue.SimpleQueue[tuple[int, Future[Any]]]", index: int) -> Callable[[Future[Any]], None]:
    return lambda future: ended.put((index, future))


def _record(future: Future[Any], elapsed: float, timeout: float | None) -> Record:
    try:
        return Record.of(future.result())
    except TimeoutError:
        return Record.timed_out(elapsed, f"SimulatorTimeout: no end after {timeout:g} s, killed")
    except ProcessExpired as error:
        return Record.failed(elapsed, f"SimulatorFailed: the worker process died ({_cause(error.exitcode)})")
    except Unloadable as error:
        raise SimulatorFailed(
            f"the simulator cannot be loaded in a worker process ({error}); what it imports must be importable from "
            "there too. workers=0 runs in this process."
        ) from error


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    return f"signal {name}" + (": out of memory?" if name == "SIGKILL" else "")


@final
class _Pace:
    """How many points to hand out: one for each worker, and for fast simulators some that lie ready."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.seconds = math.nan

    def saw(self, seconds: float) -> None:
        self.seconds = seconds if math.isnan(self.seconds) else 0.8 * self.seconds + 0.2 * seconds

    @property
    def window(self) -> int:
        if not self.seconds < _AHEAD:
            return self.workers
        return self.workers * (1 + min(_MOST_AHEAD, math.ceil(_AHEAD / max(self.seconds, 1e-9))))
