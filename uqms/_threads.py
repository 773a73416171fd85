"""One BLAS thread where matrices are small: two threads on 200 x 200 matrices take several times as long as one.

The number of threads of OpenBLAS belongs to the process, so the limit is counted: it begins with the first caller, in
any thread, and ends with the last. OpenMP and MKL have a number per thread, which every thread limits for itself. A
library that is loaded while the limit holds is limited by the next caller.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, final

__all__ = ["one_thread", "single_threaded"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit BLAS and OpenMP to one thread; entering it again inside of itself costs microseconds.

    Examples
    --------
    >>> import numpy as np
    >>> with one_thread():
    ...     root = np.linalg.cholesky(np.eye(3))
    """
    _limit.enter()
    try:
        yield
    finally:
        _limit.leave()


def single_threaded[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    """Let a function run in `one_thread`: for methods that a user calls, not for what these call in loops.

    Examples
    --------
    >>> @single_threaded
    ... def double(x: float) -> float:
    ...     return 2.0 * x
    >>> double(2.0)
    4.0
    """

    @wraps(function)
    def limited(*arguments: P.args, **settings: P.kwargs) -> R:
        with one_thread():
            return function(*arguments, **settings)

    return limited


@final
class _Limit:
    """How many callers hold the limit, and what restores the libraries behind them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.callers = 0  # in all threads
        self.shared: dict[str, Callable[[], None]] = {}  # by file, what restores a library of the whole process
        self.thread = threading.local()  # the same for libraries that count threads per thread
        self.libraries: list[Any] = []
        self.modules = 0  # imported when the libraries were looked up

    def enter(self) -> None:
        """Limit every library that is not limited yet."""
        with self.lock:
            self._look()
            self.callers += 1
            own = vars(self.thread)
            own["callers"] = own.get("callers", 0) + 1
            mine = own.setdefault("restore", {})
            for library in self.libraries:
                restore = self.shared if _of_the_process(library) else mine
                if library.filepath not in restore:
                    restore[library.filepath] = _limited(library)

    def leave(self) -> None:
        """Restore the libraries that no caller limits any more."""
        with self.lock:
            self.callers -= 1
            own = vars(self.thread)
            own["callers"] -= 1
            if own["callers"] == 0:
                _restore(own["restore"])
            if self.callers == 0:
                _restore(self.shared)

    def forked(self) -> None:
        """Forget, in a child process, the threads that exist in the parent only."""
        self.lock = threading.Lock()
        self.callers = vars(self.thread).get("callers", 0)
        if self.callers == 0:
            _restore(self.shared)

    def _look(self) -> None:
        """Look up which libraries are loaded: it takes milliseconds, so only after further modules were imported."""
        if len(sys.modules) != self.modules:
            from threadpoolctl import ThreadpoolController

            self.libraries = list(ThreadpoolController().lib_controllers)
            self.modules = len(sys.modules)


def _of_the_process(library: Any) -> bool:
    """Return whether the number of threads is one for all threads of the process."""
    per_thread = library.internal_api in ("openmp", "mkl") or getattr(library, "threading_layer", "") == "openmp"
    return not per_thread


def _limited(library: Any) -> Callable[[], None]:
    """Limit a library and return the function that restores it."""
    before = library.get_num_threads()
    _set(library, 1)
    return lambda: _set(library, before)


def _set(library: Any, threads: int) -> None:
    """Set the number of threads from any Python thread; threadpoolctl lets only one set that of OpenBLAS."""
    clear = getattr(library, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)
    library.set_num_threads(threads)
    if clear is not None:
        clear(force=True)


def _restore(restore: dict[str, Callable[[], None]]) -> None:
    for each in restore.values():
        each()
    restore.clear()


_limit = _Limit()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_limit.forked)
