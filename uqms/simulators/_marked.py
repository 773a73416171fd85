"""How worker processes are started. The child loads this module, so it imports little."""

import secrets
from typing import Any

from loky.backend.context import LokyContext
from loky.backend.process import LokyProcess

from uqms.simulators._processes import MARK

__all__ = ["Context", "MarkedProcess"]


class MarkedProcess(LokyProcess):  # type: ignore[misc]
    """A fresh process that never imports the user's script again, unlike multiprocessing's spawn.

    It bears a mark in its environment from its first moment, which whatever it forks has too: a daemon that a run has
    forked is found by it when the worker died before it could end the daemon.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "env": {MARK: f"{secrets.token_hex(8)}-worker"}})


class Context(LokyContext):  # type: ignore[misc]
    """What a pool starts its processes with."""

    Process = MarkedProcess
