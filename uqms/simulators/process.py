"""What happens inside a worker process: load the simulator once, run points, and end when its time is over.

A worker leads a session of its own, so that what its runs leave behind is found and ended with it. It ends, with all of
its descendants, when a run is over its deadline and when the coordinator is gone. Every worker loads this module, so it
imports little.
"""

import faulthandler
import math
import os
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import cloudpickle
from threadpoolctl import threadpool_limits

from uqms._typing import Array
from uqms.errors import OutputError, SimulatorTimeout, UqmsError
from uqms.simulators._processes import MARK, become_subreaper, kill_session, kill_tree
from uqms.simulators.deadline import deadline
from uqms.simulators.protocol import Simulator

__all__ = ["GRACE", "OVERDUE", "Attempt", "Unloadable", "attempt", "evaluate", "start"]

GRACE = 0.3  # seconds in which a simulator may tell of its deadline itself
OVERDUE = 117  # exit code of a worker that ended because of a deadline

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_LOOK = 0.1  # seconds between looks at the clock and at the coordinator
_LONGEST = 4_000_000.0  # seconds that faulthandler's clock can hold


class Unloadable(UqmsError):
    """The simulator cannot be loaded in a worker process."""


_coordinator = 0
_simulator: Simulator | Unloadable = Unloadable("this process is no worker")
_doom = math.inf  # when this process ends (monotonic)
_judging = threading.Lock()  # once the end has begun, a run whose children are killed must not go on and give a result
_nothing = -1  # a file descriptor for what nobody reads
_card = Path()  # the file that stands for this process


@final
@dataclass(frozen=True)
class Attempt:
    """What came of one run, how it ended and what went wrong.

    The words of `ended` are the states of an ensemble in lower case; importing those would make workers heavy.
    """

    ended: Literal["completed", "failed", "timeout", "invalid", "partial"]
    seconds: float
    outputs: Mapping[str, Array] | None = None
    message: str = ""


def start(payload: bytes, coordinator: int, folder: str) -> None:
    """Begin a worker: watch the coordinator, use one thread, and load the simulator.

    It is loaded here and not with the first point, so that what it imports does not count against a deadline. A file
    named after this process, with its mark, stands in `folder`, for whoever ends what it leaves behind.
    """
    global _simulator, _coordinator, _nothing, _card
    _coordinator = coordinator
    with suppress(PermissionError):  # a process that leads a group already
        os.setsid()
    become_subreaper()
    _card = Path(folder, str(os.getpid()))
    _card.write_text(os.environ.get(MARK, ""))  # whatever a run starts can be told by it
    _nothing = os.open(os.devnull, os.O_WRONLY)
    threading.Thread(target=_watch, daemon=True, name="uqms-watch").start()
    for name in _THREADS:  # for libraries that are loaded later
        os.environ.setdefault(name, "1")
    try:
        _simulator = cloudpickle.loads(payload)
    except Exception as error:  # told with the first point: a worker that ends here could not say why
        _simulator = Unloadable(f"{type(error).__name__}: {error}")
    threadpool_limits(int(os.environ["OMP_NUM_THREADS"].split(",")[0]))


def _watch() -> None:
    while True:
        _leave_orphaned()
        with _judging:
            if time.monotonic() > _doom:
                _end(OVERDUE)
        time.sleep(_LOOK)


def _leave_orphaned() -> None:
    """End at once when the coordinator is gone: nobody would keep the result."""
    if os.getppid() != _coordinator:
        with suppress(OSError):  # the last one takes the folder with it
            _card.unlink()
            _card.parent.rmdir()
        _end(1)


def _end(code: int) -> None:
    """End this process and everything that its runs have started."""
    kill_tree(os.getpid(), itself=False)
    if os.getsid(0) == os.getpid():
        kill_session(os.getpid())
    os._exit(code)


@contextmanager
def _doomed(seconds: float | None) -> Iterator[None]:
    """End this process when the block takes longer than that."""
    global _doom
    if seconds is None:
        yield
        return
    _doom = time.monotonic() + seconds + GRACE
    # A function that never lets another thread run stops the watch too; this clock runs outside of the interpreter.
    faulthandler.dump_traceback_later(min(seconds + 2 * GRACE, _LONGEST), exit=True, file=_nothing)
    try:
        yield
    finally:
        with _judging:
            _doom = math.inf
        faulthandler.cancel_dump_traceback_later()


def evaluate(point: Mapping[str, float], seconds: float | None = None) -> Attempt:
    """Run the worker's simulator at one point; the process ends `GRACE` after that many seconds.

    Raises
    ------
    Unloadable
        When it cannot be loaded here, so that no point can be run.
    """
    _leave_orphaned()
    if isinstance(_simulator, Unloadable):
        raise _simulator
    with _doomed(seconds), deadline(seconds):
        return attempt(_simulator, point)


def attempt(simulator: Simulator, point: Mapping[str, float]) -> Attempt:
    """Run once, and tell failure instead of raising it."""
    begin = time.perf_counter()
    try:
        outputs = simulator.evaluate(point)
    except OutputError as error:
        ended: Literal["invalid", "partial"] = "invalid" if error.partial is None else "partial"
        return Attempt(ended, time.perf_counter() - begin, error.partial, _told(error))
    except SimulatorTimeout as error:
        return Attempt("timeout", time.perf_counter() - begin, None, _told(error))
    except (Exception, SystemExit) as error:
        return Attempt("failed", time.perf_counter() - begin, None, _told(error))
    return Attempt("completed", time.perf_counter() - begin, outputs)


def _told(error: BaseException) -> str:
    """Return the exception's type and text; in one line with its place when it is not one of ours."""
    kind = type(error).__name__
    if isinstance(error, UqmsError):
        return f"{kind}: {str(error).strip()[:4000]}"
    text = " ".join(str(error).split())
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.basename(last.filename)}:{last.lineno} in {last.name}" + (f": {last.line}" if last.line else "")
    return f"{kind}: {text[:2000]} [{place[:200]}]"
