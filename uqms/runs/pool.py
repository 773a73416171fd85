"""Where points run: in this process, or in parallel local processes.

Both are backends. A backend is the seam behind which other machines come: it takes points, and gives a `Record` for
each as it ends. Leaving its block stops everything that still runs.
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

_AHEAD = 0.02  # seconds of work that lie ready for a worker; it is what a kill of the coordinator can lose
_MOST_AHEAD = 64
_MOST_BYTES = 16e6  # of outputs that wait to be kept
_BREAKS = 3
_LOOK = 0.25  # seconds between looks for runs that are over their deadline
_PATIENCE = 1.0  # seconds over the deadline after which a worker is taken for one that cannot end itself


class Backend(Protocol):
    """What runs points."""

    def free(self) -> int:
        """Return how many more points it would take now."""
        ...

    def submit(self, ticket: int, point: Point) -> None:
        """Take a point; its record comes with this ticket."""
        ...

    def ended(self, timeout: float | None) -> list[tuple[int, Record]]:
        """Wait until a run has ended, or about `timeout` seconds, and return all that have; there may be none."""
        ...

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Stop everything that still runs."""
        ...


def usable_cpus() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@final
class InThisProcess:
    """One point after the other, without another process: for debugging. It knows no deadline."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self._waiting: tuple[int, Point] | None = None

    def free(self) -> int:
        """Return 1 when there is nothing to do."""
        return 0 if self._waiting else 1

    def submit(self, ticket: int, point: Point) -> None:
        """Take a point."""
        self._waiting = (ticket, point)

    def ended(self, timeout: float | None) -> list[tuple[int, Record]]:
        """Run the point that was taken."""
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
    """Return a simulator as it travels to other processes.

    Raises
    ------
    InputError
        When it cannot travel.
    """
    try:
        return bytes(cloudpickle.dumps(simulator))
    except Exception as error:  # whatever the user's objects raise when they are pickled
        raise InputError(
            f"the simulator cannot be sent to worker processes ({type(error).__name__}: {error}); open files, "
            "connections and solvers inside the function, or use workers=0."
        ) from error


@final
class Local:
    """Worker processes on this machine; one that dies or is over its deadline costs its own run only.

    Deadlines are kept by the worker itself, by a clock that cannot be set (pebble's own follow the wall clock); what
    cannot end itself, because it is stopped or waits inside the system, is ended from here.
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
        if self._flying:  # pebble asks politely first, for seconds
            end_all(lambda processes: family(processes, workers))
        self._pool.stop()
        self._context.end_late(set(self._workers()))
        self._pool.join()
        self._sweep()
        # What a run that completed has left, in a session and an environment of its own, goes to another parent now.
        if started:
            end_all(lambda now: family(now, [p for p, sid in started.items() if p in now and now[p].session == sid]))

    def free(self) -> int:
        """Return how many points may lie ready, on top of those that run."""
        return max(0, self._pace.window - len(self._flying))

    def submit(self, ticket: int, point: Point) -> None:
        """Send a point to the workers."""
        flight = self._flying[ticket] = _Flight(dict(point))
        try:
            flight.future = self._pool.schedule(evaluate, args=(flight.point, self._timeout))
        except RuntimeError as error:  # the pool broke meanwhile
            flight.future = Future()
            flight.future.set_exception(BrokenProcessPool(str(error)))
        flight.future.add_done_callback(_put(self._ended, ticket))

    def ended(self, timeout: float | None) -> list[tuple[int, Record]]:
        """Return the records of what has ended.

        Raises
        ------
        SimulatorFailed
            When the workers cannot load the simulator.
        CampaignError
            When the pool breaks again and again without a single result.
        """
        records = []
        for ticket, future in self._arrivals(timeout):
            flight = self._flying.get(ticket)
            if flight is None or flight.future is not future:
                continue  # of a pool that broke; it runs again in another one
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
        """Wait for the first, looking for runs over their deadline meanwhile, and take all that lie there."""
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
        """End workers that do not run because somebody stopped them; pebble would wait seconds for their good-bye."""
        for pid in self._workers():
            with suppress(psutil.NoSuchProcess):
                if _whose(pid) == "ours" and psutil.Process(pid).status() == psutil.STATUS_STOPPED:
                    kill_tree(pid)

    def _mend(self, future: Future[Any]) -> None:
        """Begin with new workers and send them what the old ones did not end."""
        self._idle_breaks += 1
        if self._idle_breaks == _BREAKS:
            error = None if future.cancelled() else future.exception()
            raise CampaignError(
                f"the worker processes ended {_BREAKS} times before they gave a result ({error}), {len(self._flying)} "
                "runs are left; is there enough memory? workers=0 runs in this process and shows more."
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
                f"the simulator cannot be loaded in a worker process ({error}); what it imports must be importable "
                "from there too. workers=0 runs in this process."
            ) from error

    def _killed(self, seconds: float) -> Record:
        return Record.timed_out(seconds, f"SimulatorTimeout: no end after {self._timeout:g} s, killed")

    def _workers(self) -> list[int]:
        return [int(file.name) for file in self._folder.iterdir() if file.name != LIFELINE]

    def _sweep(self) -> None:
        """End what workers that are gone have left behind."""
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
    """Make a named pipe and hold it open until this process has ended; None on systems that have none."""
    if not hasattr(os, "mkfifo"):
        return None
    os.mkfifo(pipe)
    return os.open(pipe, os.O_RDWR)


def _kill_marked(mark: str) -> None:
    if mark:
        end_all(lambda processes: family(processes, marked(processes, f"{MARK}={mark}")))


@final
class _Flight:
    """A point that was sent, and when it was first seen running."""

    def __init__(self, point: Point) -> None:
        self.point = point
        self.future: Future[Any] = Future()
        self.overdue = False
        self._sent = time.monotonic()
        self._began: float | None = None

    def running(self, now: float) -> float:
        """Return the seconds since it was first seen running, by which its deadline counts; 0 before."""
        if self._began is None and self.future.running():
            self._began = now
        return 0.0 if self._began is None else now - self._began

    def taken(self, now: float) -> float:
        """Return the seconds to tell of a run that could not tell itself."""
        return now - (self._sent if self._began is None else self._began)


def _put(ended: "queue.SimpleQueue[tuple[int, Future[Any]]]", ticket: int) -> Callable[[Future[Any]], None]:
    return lambda future: ended.put((ticket, future))


def _broken(future: Future[Any]) -> bool:
    return future.done() and not future.cancelled() and isinstance(future.exception(), BrokenProcessPool)


def _whose(pid: int) -> Literal["ours", "nobody's", "another's"]:
    """Tell whether a worker lives, has ended, or has ended so long ago that its number belongs to somebody else."""
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
    """Return the bytes of a run's outputs."""
    return sum(values.nbytes for values in (record.outputs or {}).values())


@final
class Pace:
    """How many points to hand out: one for each worker, and for fast simulators some that lie ready."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.seconds = math.nan
        self.size = 0.0

    def saw(self, seconds: float, size: int = 0) -> None:
        """Note how long a run took, and how many bytes it gave."""
        self.seconds = seconds if math.isnan(self.seconds) else 0.8 * self.seconds + 0.2 * seconds
        self.size = max(float(size), 0.9 * self.size)

    @property
    def window(self) -> int:
        """Number of points that may be out."""
        return self.workers + self.workers * self.ahead(_AHEAD, self.workers)

    def ahead(self, seconds: float, parts: int = 1) -> int:
        """Return how many points make so many seconds of work; 0 for slow ones, fewer where outputs are large."""
        if not self.seconds < seconds:
            return 0
        most = min(_MOST_AHEAD, _MOST_BYTES / (parts * self.size) if self.size else math.inf)
        return int(min(most, math.ceil(seconds / max(self.seconds, 1e-9))))
