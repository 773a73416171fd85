"""Simulators in Python that take their worker process with them, or never end: for the tests and ``kill_campaign.py``.

`DEATHS` end or stop the process in the middle of a run. `HANGS` ignore signals and wait for ever; before that, each run
forks a child, a grandchild and a daemon, which is in a session of its own and has no parent any more.
"""

import ctypes
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from uqms.errors import DataWarning
from uqms.runs import RunState, run
from uqms.simulators import FunctionSimulator

DEADLINE, LATE = 0.5, 2.0

DEATHS: dict[str, Callable[[], object]] = {
    "exit": lambda: os._exit(5),
    "segfault": lambda: ctypes.string_at(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
}
HANGS: dict[str, Callable[[], object]] = {
    "sleeping": lambda: time.sleep(600),
    # The interpreter's lock is never given back: no other thread of the process runs any more.
    "holding the lock": lambda: ctypes.PyDLL(None).sleep(600),
    # It returns when its children are killed, and must not give a result then.
    "waiting for a child": lambda: os.waitpid(-1, 0),
}


def note(*paths: str) -> None:
    """Leave this process's number in files."""
    for path in paths:
        with open(path, "a") as file:
            file.write(f"{os.getpid()} ")


def ignore_signals() -> None:
    """Ignore whatever asks a process to end."""
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


def fork_family(*paths: str) -> None:
    """Fork a child, a grandchild, and a daemon."""
    warnings.simplefilter("ignore", DeprecationWarning)  # a worker process has threads; a user's fork does not ask
    if os.fork() == 0:
        ignore_signals()
        note(*paths)
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                note(*paths)
                time.sleep(600)
            os._exit(0)
        if os.fork() == 0:
            note(*paths)
        time.sleep(600)


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that ended and that nobody has waited for yet does not."""
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


class Watch(threading.Thread):
    """Notes when each process whose number stands in a file was last seen alive."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path = path
        self.seen: dict[int, float] = {}
        self.over = threading.Event()

    def run(self) -> None:
        """Look every 20 ms."""
        while not self.over.wait(0.02):
            pids = self.path.read_text().split() if self.path.exists() else []
            for pid in map(int, pids):
                if alive(pid):
                    self.seen[pid] = time.time()


@dataclass(frozen=True)
class Hung:
    """How a campaign of hanging runs ended."""

    other_states: int  # runs that did not end as "timeout"
    other_words: int
    lives: list[float]  # of each run: seconds from its begin until its last process was seen
    left: int  # processes that live when the campaign has ended


def hang(folder: Path, kind: str, runs: int, workers: int) -> Hung:
    """Run a campaign in which every run hangs, and watch its processes."""
    path, hangs = folder / "pids", HANGS[kind]

    def model(a: float) -> float:
        begun, mine = time.time(), f"{path}-{a}"
        ignore_signals()
        with open(mine, "w") as file:
            file.write(f"{begun!r} ")
        note(str(path), mine)
        fork_family(str(path), mine)
        while len(Path(mine).read_text().split()) < 5:
            time.sleep(0.005)
        hangs()
        return a

    simulator = FunctionSimulator(model, outputs={"y": ()}, version="1")
    watch = Watch(path)
    watch.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        table = run(simulator, {"a": np.arange(float(runs))}, workers=workers, timeout=DEADLINE)
    time.sleep(0.1)
    watch.over.set()
    watch.join()
    lives = []
    for a in range(runs):
        begun, *pids = (folder / f"pids-{float(a)}").read_text().split()
        lives.append(max(watch.seen[int(pid)] for pid in pids if int(pid) in watch.seen) - float(begun))
    words = f"SimulatorTimeout: the run did not end within {DEADLINE:g} s and was killed"
    return Hung(
        int((table["state"].values != RunState.TIMEOUT).sum()),
        int((table["message"].values != words).sum()),
        lives,
        sum(alive(int(pid)) for pid in path.read_text().split()),
    )
