"""Backends that run points in this process, or in parallel processes on this machine.

A backend takes points, and returns a `Record` for each point when its run has ended. When its ``with`` block ends, it
stops all runs in progress. `uqms.runs.dask` has the backend for other machines.
"""

import math
import os
import queue
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self, final

import cloudpickle
import psutil
from pebble import ProcessExpired, ProcessPool

from uqms.errors import CampaignError, InputError, SimulatorFailed
from uqms.runs.records import Record
from uqms.simulators import Simulator
from uqms.simulators.marked_process import VANISHED, Context
from uqms.simulators.process_tree import MARK, end_all, family, kill_runs_of, kill_session, kill_tree, marked, snapshot
from uqms.simulators.worker import GRACE, LIFELINE, OVERDUE, Unloadable, attempt, evaluate, start

__all__ = [
    "Backend",
    "InThisProcess",
    "Local",
    "Pace",
    "Point",
    "payload_of",
    "size_of",
    "usable_cpus",
]

Point = Mapping[str, float]

_AHEAD = 0.02  # seconds of work in the queue of a worker; a kill of this process loses at most so much finished work
_MOST_AHEAD = 64  # points in the queue of a worker, at most
_MOST_BYTES = 16e6  # bytes of outputs that wait to be stored, at most
_BREAKS = 3  # times that the workers may end without a result before the campaign stops
_LOOK = 0.25  # seconds between checks for runs that exceed their timeout
_PATIENCE = 1.0  # seconds after the timeout when a worker counts as unable to end itself


class Backend(Protocol):
    """The protocol of objects that run points."""

    def free(self) -> int:
        """Return how many more points the backend takes now."""
        ...

    def submit(self, ticket: int, point: Point) -> None:
        """Take a point; `ended` returns its record with this ticket."""
        ...

    def ended(self, timeout: float | None) -> list[tuple[int, Record]]:
        """Wait about `timeout` seconds until a run has ended, and return all runs that have ended, possibly none."""
        ...

    def __enter__(self) -> Self:
        """Prepare the backend."""
        ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Stop all runs in progress."""
        ...


def usable_cpus() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@final
class InThisProcess:
    """Backend that runs one point after the other in this process, for debugging; runs have no timeout."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self._waiting: tuple[int, Point] | None = None

    def free(self) -> int:
        """Return 1 if no point waits, else 0."""
        return 0 if self._waiting else 1

    def submit(self, ticket: int, point: Point) -> None:
        """Take a point, which the next call of `ended` runs."""
        self._waiting = (ticket, point)

    def ended(self, timeout: float | None) -> list[tuple[int, Record]]:
        """Run the waiting point and return its record."""
        if self._waiting is None:
            time.sleep(timeout or 0.0)
            return []
        (ticket, point), self._waiting = self._waiting, None
        return [(ticket, Record.of(attempt(self.simulator, point)))]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._waiting = None


def payload_of(simulator: Simulator) -> bytes:
    """Return a simulator as bytes that can be sent to other processes.

    Raises
    ------
    InputError
        When the simulator cannot be pickled.
    """
    try:
        return bytes(cloudpickle.dumps(simulator))
    except Exception as error:  # the user's own objects may raise errors of any type
        raise InputError(
            f"the simulator cannot be sent to worker processes, since it cannot be pickled ({type(error).__name__}: "
            f"{error}). Open files and connections, and create solvers, inside of the function; or use workers=0 to "
            "run in this process."
        ) from error


@final
class Local:
    """Backend with worker processes on this machine; a worker that dies or exceeds the timeout loses only its own run.

    The worker itself enforces the timeout, by a monotonic clock (the timeouts of pebble follow the wall clock, which
    can change). If the worker cannot end itself, because it is suspended or blocked in a system call, this process ends
    it.
    """

    def __init__(self, payload: bytes, workers: int, timeout: float | None, context: Context | None = None) -> None:
        self.workers = workers
        self._context = context or Context()
        self._payload = payload
        self._timeout = timeout
        self._pace = Pace(workers)
        self._flying: dict[int, _Flight] = {}
        self._ended: queue.SimpleQueue[tuple[int, Future[Any]]] = queue.SimpleQueue()
        self._idle_breaks = 0
        self._looked = -math.inf

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="uqms-workers-"))
        self._lifeline = _held(self._folder / LIFELINE)
        self._pool = self._new_pool()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self._close_pool()
        finally:
            if self._lifeline is not None:
                os.close(self._lifeline)
            shutil.rmtree(self._folder, ignore_errors=True)

    def _new_pool(self) -> ProcessPool:
        return ProcessPool(
            self.workers,
            initializer=start,
            initargs=(self._payload, os.getpid(), str(self._folder)),
            context=self._context,
        )

    def _close_pool(self) -> None:
        workers = {pid for pid in self._workers() if _whose(pid) == "ours"}
        processes = snapshot() if workers else {}
        started = {pid: processes[pid].session for pid in family(processes, workers) - workers if pid in processes}
        if self._flying:  # otherwise pebble would wait seconds for the processes to end
            end_all(lambda processes: family(processes, workers))
        self._pool.stop()
        self._context.end_late(set(self._workers()))
        self._pool.join()
        self._sweep()
        # Processes that a completed run has left in a session of their own have a new parent now: end them too.
        if started:
            end_all(lambda now: family(now, [p for p, sid in started.items() if p in now and now[p].session == sid]))

    def free(self) -> int:
        """Return how many more points may be submitted, including points that wait in the queues of workers."""
        return max(0, self._pace.window - len(self._flying))

    def submit(self, ticket: int, point: Point) -> None:
        """Send a point to the workers."""
        flight = self._flying[ticket] = _Flight(dict(point))
        try:
            flight.future = self._pool.schedule(evaluate, args=(flight.point, self._timeout))
        except RuntimeError as error:  # the pool has broken in the meantime
            flight.future = Future()
            flight.future.set_exception(BrokenProcessPool(str(error)))
        flight.future.add_done_callback(_put(self._ended, ticket))

    def ended(self, timeout: float | None) -> list[tuple[int, Record]]:
        """Return the records of runs that have ended.

        Raises
        ------
        SimulatorFailed
            When the workers cannot load the simulator.
        CampaignError
            When the worker processes end several times in a row without a result.
        """
        records = []
        for ticket, future in self._arrivals(timeout):
            flight = self._flying.get(ticket)
            if flight is None or flight.future is not future:
                continue  # the pool of this future broke, and its point runs again in a new pool
            if _broken(future) or (future.cancelled() and not flight.overdue):
                self._mend(future)
                continue
            record = self._record(future, flight)
            self._idle_breaks = 0
            self._pace.saw(record.seconds, size_of(record))
            del self._flying[ticket]
            records.append((ticket, record))
        return records

    def _arrivals(self, timeout: float | None) -> list[tuple[int, Future[Any]]]:
        """Wait for the first run to end, and return all that have ended; end runs that exceed the timeout meanwhile."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        arrived: list[tuple[int, Future[Any]]] = []
        while not arrived:
            self._end_overdue()
            left = max(0.0, end - time.monotonic())
            pause = left if self._timeout is None else min(left, _LOOK)
            try:
                arrived.append(self._ended.get(timeout=None if math.isinf(pause) else pause))
            except queue.Empty:
                if left <= pause:
                    return []
        while not self._ended.empty():
            arrived.append(self._ended.get())
        return arrived

    def _end_overdue(self) -> None:
        now = time.monotonic()
        if self._timeout is None or now < self._looked + _LOOK:
            return
        self._looked = now
        for flight in self._flying.values():
            late = flight.running(now) - self._timeout - 2 * GRACE
            if late > 0:
                self._end_stopped()
            if late > _PATIENCE:
                flight.overdue = True
                flight.future.cancel()

    def _end_stopped(self) -> None:
        """End workers that a signal has suspended; pebble would wait seconds for them to end."""
        for pid in self._workers():
            with suppress(psutil.NoSuchProcess):
                if _whose(pid) == "ours" and psutil.Process(pid).status() == psutil.STATUS_STOPPED:
                    kill_tree(pid)

    def _mend(self, future: Future[Any]) -> None:
        """Start new workers, and send them the points that the old workers did not finish."""
        self._idle_breaks += 1
        if self._idle_breaks == _BREAKS:
            error = None if future.cancelled() else future.exception()
            raise CampaignError(
                f"the worker processes ended {_BREAKS} times before they gave a result ({error}); {len(self._flying)} "
                "runs have not ended. Check that there is enough memory for this number of workers. With workers=0 the "
                "simulator runs in this process, where its error is visible."
            ) from error
        self._close_pool()
        self._pool = self._new_pool()
        for ticket, flight in list(self._flying.items()):
            given = flight.future.done() and not flight.future.cancelled() and not _broken(flight.future)
            if not given and not flight.overdue:
                self.submit(ticket, flight.point)

    def _record(self, future: Future[Any], flight: "_Flight") -> Record:
        now = time.monotonic()
        try:
            return Record.of(future.result())
        except ProcessExpired as error:
            self._sweep()
            late = self._timeout is not None and flight.running(now) >= self._timeout
            if late or error.exitcode == OVERDUE:
                return self._killed(flight.taken(now))
            words = f"SimulatorFailed: the worker process died ({_cause(error.exitcode)})"
            return Record.failed(flight.taken(now), words)
        except CancelledError:
            self._sweep()
            return self._killed(flight.taken(now))
        except Unloadable as error:
            raise SimulatorFailed(
                f"the simulator cannot be loaded in a worker process ({error}). Modules that it imports must be "
                "installed, or importable from the working directory of the workers. With workers=0 the simulator runs "
                "in this process."
            ) from error

    def _killed(self, seconds: float) -> Record:
        return Record.timed_out(
            seconds, f"SimulatorTimeout: the run did not end within {self._timeout:g} s and was killed"
        )

    def _workers(self) -> list[int]:
        return [int(file.name) for file in self._folder.iterdir() if file.name != LIFELINE]

    def _sweep(self) -> None:
        """End processes that workers have left behind."""
        for pid in self._workers():
            if (whose := _whose(pid)) == "ours":
                continue
            card = self._folder / str(pid)
            if whose == "nobody's":
                kill_session(pid)
                kill_runs_of(pid)
                _kill_marked(card.read_text())
            card.unlink(missing_ok=True)


def _held(pipe: Path) -> int | None:
    """Create a named pipe, which stays open until this process has ended; None on systems without named pipes."""
    if not hasattr(os, "mkfifo"):
        return None
    os.mkfifo(pipe)
    return os.open(pipe, os.O_RDWR)


def _kill_marked(mark: str) -> None:
    if mark:
        end_all(lambda processes: family(processes, marked(processes, f"{MARK}={mark}")))


@final
class _Flight:
    """A point that was sent to a worker, and the time at which it was first seen running."""

    def __init__(self, point: Point) -> None:
        self.point = point
        self.future: Future[Any] = Future()
        self.overdue = False
        self._sent = time.monotonic()
        self._began: float | None = None

    def running(self, now: float) -> float:
        """Return the seconds since it was first seen running, 0 before; the timeout counts from then."""
        if self._began is None and self.future.running():
            self._began = now
        return 0.0 if self._began is None else now - self._began

    def taken(self, now: float) -> float:
        """Return the seconds to record for a run that could not measure them itself."""
        return now - (self._sent if self._began is None else self._began)


def _put(ended: "queue.SimpleQueue[tuple[int, Future[Any]]]", ticket: int) -> Callable[[Future[Any]], None]:
    return lambda future: ended.put((ticket, future))


def _broken(future: Future[Any]) -> bool:
    return future.done() and not future.cancelled() and isinstance(future.exception(), BrokenProcessPool)


def _whose(pid: int) -> Literal["ours", "nobody's", "another's"]:
    """Return whether a process is a running worker ("ours"), has ended, or is another process with its old number."""
    try:
        process = psutil.Process(pid)
        if process.ppid() != os.getpid():
            return "another's"
        return "nobody's" if process.status() == psutil.STATUS_ZOMBIE else "ours"
    except psutil.NoSuchProcess:
        return "nobody's"


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {0 if code == VANISHED else code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    return f"signal {name}" + (": out of memory?" if name == "SIGKILL" else "")


def size_of(record: Record) -> int:
    """Return the number of bytes of the outputs of a run."""
    return sum(values.nbytes for values in (record.outputs or {}).values())


@final
class Pace:
    """The number of points to submit: one per worker, and more for fast simulators, so that workers do not wait."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.seconds = math.nan
        self.size = 0.0

    def saw(self, seconds: float, size: int = 0) -> None:
        """Note the duration of a run, and the bytes of its outputs."""
        self.seconds = seconds if math.isnan(self.seconds) else 0.8 * self.seconds + 0.2 * seconds
        self.size = max(float(size), 0.9 * self.size)

    @property
    def window(self) -> int:
        """The number of points that may be submitted and not yet ended."""
        return self.workers + self.workers * self.ahead(_AHEAD, self.workers)

    def ahead(self, seconds: float, parts: int = 1) -> int:
        """Return how many points take so many seconds; 0 for slow simulators, and fewer if the outputs are large."""
        if not self.seconds < seconds:
            return 0
        most = min(_MOST_AHEAD, _MOST_BYTES / (parts * self.size) if self.size else math.inf)
        return int(min(most, math.ceil(seconds / max(self.seconds, 1e-9))))
