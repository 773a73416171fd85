"""Worker processes that die, stop or hang in the middle of a run: their point alone pays, and nothing stays behind."""

import ctypes
import os
import signal
import threading
import time
from collections import Counter
from contextlib import suppress

import numpy as np
import psutil
import pytest

from uqms.errors import DataWarning
from uqms.runs import FailurePolicy, RunState, run
from uqms.simulators import FunctionSimulator

KILLS = 5  # of each kind; benchmarks/kill_campaign.py makes more
HANGS = 10


def one(function):
    return FunctionSimulator(function, outputs={"y": ()}, version="1")


WAYS = {
    "exit": lambda: os._exit(5),
    "segfault": lambda: ctypes.string_at(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
}


@pytest.mark.parametrize(
    ("way", "state", "words"),
    [
        ("exit", RunState.FAILED, "SimulatorFailed: the worker process died (exit code 5)"),
        ("segfault", RunState.FAILED, "SimulatorFailed: the worker process died (signal SIGSEGV)"),
        ("kill", RunState.FAILED, "SimulatorFailed: the worker process died (signal SIGKILL: out of memory?)"),
        ("stop", RunState.TIMEOUT, "SimulatorTimeout: no end after 0.5 s, killed"),
    ],
)
def test_a_worker_that_dies_in_the_middle_costs_its_own_run_only(tmp_path, way, state, words):
    bad = {float(a) for a in range(2, 4 * KILLS, 4)}
    die, path = WAYS[way], tmp_path / "calls"

    def model(a):
        with open(path, "a") as file:
            file.write(f"{a} ")
        time.sleep(0.02)
        if a in bad:
            die()
        return 2 * a

    points = np.arange(4.0 * KILLS)
    attempts = 1 if way == "stop" else 2
    policy = FailurePolicy(attempts=attempts, backoff=0.01)
    begin = time.monotonic()
    with pytest.warns(DataWarning, match=f"{KILLS} of {4 * KILLS} runs did not complete"):
        table = run(one(model), {"a": points}, tmp_path / "runs.db", workers=3, timeout=0.5, failures=policy)
    hurt = np.isin(points, list(bad))
    assert (table["state"].values[hurt] == state).all()
    assert set(table["message"].values[hurt]) == {words}
    assert (table["state"].values[~hurt] == RunState.COMPLETED).all()
    np.testing.assert_array_equal(table["y"].values[~hurt], 2 * points[~hurt])
    calls = Counter(map(float, path.read_text().split()))
    assert calls == {a: attempts if a in bad else 1 for a in points.tolist()}
    if way == "stop":
        assert (table["seconds"].values[hurt] < 0.5 + 2.0).all()
        assert time.monotonic() - begin < KILLS * (0.5 + 2.0)  # pebble alone waits three seconds for each good-bye


class Watch(threading.Thread):
    """Notes when each process whose number stands in a file was last seen alive."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path = path
        self.seen = {}
        self.over = threading.Event()

    def run(self):
        while not self.over.is_set():
            pids = self.path.read_text().split() if self.path.exists() else ()
            for pid in map(int, pids):
                with suppress(psutil.NoSuchProcess):
                    if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                        self.seen[pid] = time.time()
            time.sleep(0.02)


def ignore_signals():
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


def note(*paths):
    for path in paths:
        with open(path, "a") as file:
            file.write(f"{os.getpid()} ")


def leave_behind(*paths):
    """Fork a child, and two grandchildren: one is a daemon, in a session of its own and with no parent any more."""
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


HANGS_BY = {
    "sleeping": lambda: time.sleep(600),
    # The interpreter's lock is never given back: no other thread of the process runs any more.
    "holding the lock": lambda: ctypes.PyDLL(None).sleep(600),
    "waiting for a child": lambda: os.waitpid(-1, 0),
}


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("kind", HANGS_BY)
def test_what_hangs_ignores_signals_and_forks_is_gone_two_seconds_after_its_deadline(tmp_path, kind):
    path, hang = tmp_path / "pids", HANGS_BY[kind]

    def model(a):
        begun = time.time()
        ignore_signals()
        mine = f"{path}-{a}"
        with open(mine, "w") as file:
            file.write(f"{begun!r} ")
        note(path, mine)
        leave_behind(path, mine)
        while len(open(mine).read().split()) < 5:
            time.sleep(0.005)
        hang()
        return a

    watch = Watch(path)
    watch.start()
    count = HANGS if kind == "holding the lock" else 4
    with pytest.warns(DataWarning, match=f"{count} timeout"):
        table = run(one(model), {"a": np.arange(float(count))}, workers=5, timeout=0.5)
    time.sleep(0.1)
    watch.over.set()
    watch.join()
    assert (table["state"] == RunState.TIMEOUT).all()
    assert set(table["message"].values) == {"SimulatorTimeout: no end after 0.5 s, killed"}
    assert (table["seconds"] >= 0.5).all()
    assert len(path.read_text().split()) == 4 * count
    for a in range(count):
        begun, *pids = (tmp_path / f"pids-{float(a)}").read_text().split()
        assert len(pids) == 4
        assert max(watch.seen[int(pid)] for pid in pids if int(pid) in watch.seen) - float(begun) < 0.5 + 2.0
