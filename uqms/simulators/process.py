"""What happens inside a worker process: load the simulator once, run points, and end when the coordinator has ended.

This module is loaded by every worker, so it imports little.
"""

import os
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import cloudpickle
from threadpoolctl import threadpool_limits

from uqms._typing import Array
from uqms.errors import OutputError, UqmsError
from uqms.simulators.protocol import Simulator

__all__ = ["Attempt", "Unloadable", "attempt", "evaluate", "start"]

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Unloadable(UqmsError):
    """The simulator cannot be loaded in a worker process."""


_coordinator = 0
_simulator: Simulator | Unloadable = Unloadable("this process is no worker")


@final
@dataclass(frozen=True)
class Attempt:
    """What came of one run: outputs, or what went wrong.

    `wrong_output` tells a run that ended with unusable outputs from one that raised.
    """

    outputs: Mapping[str, Array] | None
    seconds: float
    message: str = ""
    wrong_output: bool = False


def start(payload: bytes, coordinator: int) -> None:
    """Begin a worker: watch the coordinator, use one thread, and load the simulator.

    It is loaded here and not with the first point, so that what it imports does not count against a deadline.
    """
    global _simulator, _coordinator
    _coordinator = coordinator
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
        time.sleep(0.2)


def _leave_orphaned() -> None:
    """End at once when the coordinator is gone: nobody would keep the result."""
    if os.getppid() != _coordinator:
        os._exit(1)


def evaluate(point: Mapping[str, float]) -> Attempt:
    """Run the worker's simulator at one point.

    Raises
    ------
    Unloadable
        When it cannot be loaded here, so that no point can be run.
    """
    _leave_orphaned()
    if isinstance(_simulator, Unloadable):
        raise _simulator
    return attempt(_simulator, point)


def attempt(simulator: Simulator, point: Mapping[str, float]) -> Attempt:
    """Run once, and tell failure instead of raising it."""
    begin = time.perf_counter()
    try:
        outputs = simulator.evaluate(point)
    except (Exception, SystemExit) as error:
        return Attempt(None, time.perf_counter() - begin, _told(error), isinstance(error, OutputError))
    return Attempt(outputs, time.perf_counter() - begin)


def _told(error: BaseException) -> str:
    """Return the exception's type, text and place in one line."""
    text = " ".join(str(error).split())
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.basename(last.filename)}:{last.lineno} in {last.name}" + (f": {last.line}" if last.line else "")
    return f"{type(error).__name__}: {text[:2000]} [{place[:200]}]"
