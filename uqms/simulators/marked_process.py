"""How worker processes are started. The child loads this module, so it imports little."""

import secrets
from collections.abc import Container
from typing import Any
from weakref import WeakSet

from loky.backend.context import LokyContext
from loky.backend.process import LokyProcess

from uqms.simulators.process_tree import MARK

__all__ = ["VANISHED", "Context", "MarkedProcess"]

VANISHED = 256  # which no process can end with


class MarkedProcess(LokyProcess):  # type: ignore[misc]
    """A fresh process that never imports the user's script again, unlike multiprocessing's spawn.

    It bears a mark in its environment from its first moment, which whatever it forks has too: a daemon that a run has
    forked is found by it when the worker died before it could end the daemon.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "env": {MARK: f"{secrets.token_hex(8)}-worker"}})

    @property
    def exitcode(self) -> int | None:
        """The exit code, `VANISHED` instead of 0.

        Workers have no end of their own: in one that ends with 0 a run has called exit. The pool takes 0 for a worker
        that nobody waits for, and would wait for its run for ever.
        """
        code: int | None = super().exitcode
        return VANISHED if code == 0 else code


class Context(LokyContext):  # type: ignore[misc]
    """What a pool starts its processes with."""

    kind: type[MarkedProcess] = MarkedProcess

    def __init__(self) -> None:
        super().__init__()
        self._made: WeakSet[MarkedProcess] = WeakSet()

    def Process(self, *args: Any, **options: Any) -> MarkedProcess:  # noqa: N802
        """Return a process that is not started yet."""
        process = self.kind(*args, **options)
        self._made.add(process)
        return process

    def end_late(self, ready: Container[int]) -> None:
        """End processes that still start.

        A pool that closes takes away the semaphores first; who has yet to open them would write a traceback to the
        user's screen.
        """
        for process in list(self._made):
            if process.pid is not None and process.pid not in ready:
                process.terminate()
