"""What happens inside a worker process: load the simulator once, run points, and end when its time is over.

A worker leads a session of its own, so that what its runs leave behind is found and ended with it. It ends, with all of
its descendants, when a run is over its deadline and when the coordinator is gone; a function that never lets another
thread run cannot keep it alive. Every worker loads this module, so it
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
from uqms.simulators.contract import Simulator, checked_outputs
from uqms.simulators.deadline import deadline
from uqms.simulators.process_tree import MARK, alarm_at_end_of, become_subreaper, kill_session, kill_tree

__all__ = ["GRACE", "LIFELINE", "OVERDUE", "Attempt", "Unloadable", "attempt", "evaluate", "start"]

GRACE = 0.3  # seconds in which a simulator may tell of its deadline itself
OVERDUE = 117  # exit code of a worker that ended because of a deadline
LIFELINE = "lifeline"  # a pipe that the coordinator holds open while it lives

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
    named after this process, with its mark, stands in `folder`, for whoever ends what it leaves behind; and the
    coordinator's lifeline, where it gives one.
    """
    global _simulator, _coordinator, _nothing, _card
    _coordinator = coordinator
    with suppress(PermissionError):  # a process that leads a group already
        os.setsid()
    become_subreaper()
    _card = Path(folder, str(os.getpid()))
    _card.write_text(os.environ.get(MARK, ""))  # whatever a run starts can be told by it
    _nothing = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError):
        alarm_at_end_of(_card.with_name(LIFELINE))
    threading.Thread(target=_watch, daemon=True, name="uqms-watch").start()
    for name in _THREADS:  # for libraries that are loaded later
        if not _wanted_threads(name):  # empty, or a word such as "auto"
            os.environ[name] = "1"
    try:
        _simulator = cloudpickle.loads(payload)
    except BaseException as error:  # told with the first point: a worker that ends here could not say why
        _simulator = Unloadable(_clean(f"{type(error).__name__}: {_text(error)}"))
    threadpool_limits(_wanted_threads("OMP_NUM_THREADS"))


def _wanted_threads(name: str) -> int:
    """Return the number of threads that a variable asks for; 0 when it asks for none."""
    first = os.environ.get(name, "").split(",")[0].strip()
    return int(first) if first.isdecimal() else 0


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
            _card.with_name(LIFELINE).unlink(missing_ok=True)
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
    """Run once, check what it gave, and tell failure, whatever it raises, instead of raising it."""
    begin = time.perf_counter()
    try:
        outputs = checked_outputs(simulator.evaluate(point), simulator.outputs, simulator.coords)
    except OutputError as error:
        ended: Literal["invalid", "partial"] = "invalid" if error.partial is None else "partial"
        return Attempt(ended, time.perf_counter() - begin, error.partial, _told(error))
    except SimulatorTimeout as error:
        return Attempt("timeout", time.perf_counter() - begin, None, _told(error))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and not _coordinator:
            raise  # somebody pressed Ctrl+C; workers do not get to know of that
        return Attempt("failed", time.perf_counter() - begin, None, _told(error))
    return Attempt("completed", time.perf_counter() - begin, outputs)


def _told(error: BaseException) -> str:
    """Return the exception's type and text; in one line with its place when it is not one of ours."""
    kind = type(error).__name__
    if isinstance(error, UqmsError):
        return _clean(f"{kind}: {_text(error).strip()[:4000]}")
    text = " ".join(_text(error).split())
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.basename(last.filename)}:{last.lineno} in {last.name}" + (f": {last.line}" if last.line else "")
    return _clean(f"{kind}: {text[:2000]} [{place[:200]}]")


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as trouble:  # the user's own code, too
        return f"(no text: its __str__ raised {type(trouble).__name__})"


def _clean(text: str) -> str:
    """Return a text that every file can hold: halves of characters and NUL are written out."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")
