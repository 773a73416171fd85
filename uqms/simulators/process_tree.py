"""Ending processes for good: whole trees and sessions, also of programs that fork while they are being killed.

A signal to one process is not enough: `subprocess`'s own timeout around a wrapper script ends the wrapper and leaves
the simulator running. What is found here is stopped first, so that it cannot fork any more, then looked for again until
nothing new turns up, then killed.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "MARK",
    "alarm_at_end_of",
    "become_subreaper",
    "end_all",
    "family",
    "is_subreaper",
    "kill_runs_of",
    "kill_session",
    "kill_tree",
    "marked",
    "session",
    "snapshot",
]

MARK = "UQMS_RUN"  # the variable by which what a run has started is known, wherever it went

_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE = 2.0  # seconds for what the system does not let die, such as a process that waits for a network disk
_LONGEST = 60.0  # seconds for what goes on to appear, such as a program each of whose processes starts more
_subreaper = False


class Process(NamedTuple):
    """What is known of one process."""

    parent: int
    session: int
    lives: bool  # False: it has ended and nobody has waited for it yet
    runs: bool = False  # it has a processor or waits for one, so that a signal may not have reached it yet


Processes = dict[int, Process]


def become_subreaper() -> None:
    """Make daemons (forked twice, in a session of their own) stay descendants of this process; Linux only.

    Elsewhere they become children of the first process of the system, and only `MARK` tells them.
    """
    global _subreaper
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        _subreaper = libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def is_subreaper() -> bool:
    """Return whether orphans of this process's descendants come to this process."""
    return _subreaper


def alarm_at_end_of(pipe: Path) -> None:
    """End this process about a second after the last writer of a named pipe has gone, whatever it does; Linux only.

    The second is for the threads of this process that end it in a better way: a function which holds the interpreter's
    lock stops them. So nothing here is Python: the system sends SIGHUP when the pipe hangs up, its handler is the C
    library's `alarm`, called with the number of the signal, which is 1, as the seconds. The system's own death signal
    (prctl) would not do: it comes when the *thread* ends that started this process.
    """
    if sys.platform == "linux":
        import fcntl

        libc = ctypes.CDLL(None)
        libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
        libc.signal(signal.SIGHUP, ctypes.cast(libc.alarm, ctypes.c_void_p))
        end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(end, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(end, fcntl.F_SETSIG, signal.SIGHUP)
        fcntl.fcntl(end, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)


# ------------------------------------------------------------------------------------------------------------- killing
def kill_tree(pid: int, *, itself: bool = True) -> None:
    """Kill every descendant of a process, and then the process itself.

    Parameters
    ----------
    pid
        The process; one that has ended already is no error.
    itself
        False leaves the process itself alone, for instance because it is the caller.
    """
    leave = set() if itself else {pid}
    sessions: set[int] = set()  # whose first process is of the tree, so that all others descend from it

    def find(processes: Processes) -> set[int]:
        tree = family(processes, [pid]) - leave
        sessions.update({processes[each].session for each in tree & processes.keys()} & tree)
        return tree | {each for each, process in processes.items() if process.session in sessions}

    end_all(find)
    if itself and pid == os.getpid():
        os.kill(pid, signal.SIGKILL)


def kill_session(sid: int) -> None:
    """Kill every process of a session, except the caller."""
    end_all(lambda processes: {pid for pid, process in processes.items() if process.session == sid})


def kill_runs_of(pid: int) -> None:
    """Kill what the runs of process `pid` have started and what outlived it, after it was killed itself."""
    mark = f"{MARK}={pid}-"
    end_all(lambda processes: family(processes, marked(processes, mark)))


def end_all(find: Callable[[Processes], set[int]]) -> set[int]:
    """Kill the processes that `find` gives until it gives none that lives, and return them; never the caller.

    It gives up after two seconds in which nothing new turned up: then something is left that the system does not let
    die. One look can take longer than that where thousands of processes run, and whoever forks would be killed before
    what it has forked meanwhile was found.
    """
    untouchable = {0, 1, os.getpid()}
    last = time.monotonic() + _LONGEST
    until = time.monotonic() + _PATIENCE
    ended: set[int] = set()
    while time.monotonic() < until:
        stopped: set[int] = set()
        quiet = 0  # looks that found no more; one is not enough, what forks is not stopped at once
        while quiet < 2 and time.monotonic() < until:
            fresh = _living(find(processes := snapshot()), processes) - untouchable - stopped
            # On a busy machine what was stopped can be waiting for a processor, with a fork begun.
            busy = any(pid in processes and processes[pid].runs for pid in stopped)
            quiet = 0 if fresh or busy else quiet + 1 if stopped else 2
            untouchable |= {pid for pid in fresh if not _send(pid, signal.SIGSTOP)}
            stopped |= fresh - untouchable
            if fresh - ended:
                until = min(time.monotonic() + _PATIENCE, last)
        if not stopped:
            break
        for pid in stopped:
            _send(pid, signal.SIGKILL)
        if stopped - ended:
            until = min(time.monotonic() + _PATIENCE, last)
        ended |= stopped
        # It takes the system a moment, in which orphans may already be out of sight for `find`.
        while _living(stopped, snapshot()) and time.monotonic() < until:
            time.sleep(0.001)
    return ended


def _living(pids: Iterable[int], processes: Processes) -> set[int]:
    return {pid for pid in pids if pid in processes and processes[pid].lives}


def _send(pid: int, what: signal.Signals) -> bool:
    """Send a signal; return False when this process may not."""
    with suppress(ProcessLookupError):
        try:
            os.kill(pid, what)
        except PermissionError:
            return False
    return True


# ------------------------------------------------------------------------------------------------------------- finding
def snapshot() -> Processes:
    """Return all processes that there are now."""
    if sys.platform != "linux":
        return _portable_snapshot()
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with suppress(OSError):
                with open(f"/proc/{entry}/stat", "rb", buffering=0) as file:
                    # The name stands in parentheses and may hold anything, parentheses too.
                    state, parent, _, session = file.read(1024).rpartition(b")")[2].split()[:4]
                found[int(entry)] = Process(int(parent), int(session), state not in b"ZX", state == b"R")
    return found


def _portable_snapshot() -> Processes:
    import psutil

    found = {}
    for process in psutil.process_iter(["ppid", "status"]):
        with suppress(OSError):
            lives = process.info["status"] not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
            runs = process.info["status"] == psutil.STATUS_RUNNING
            found[process.pid] = Process(process.info["ppid"] or 0, os.getsid(process.pid), lives, runs)
    return found


def session(sid: int) -> set[int]:
    """Return the processes of a session, ended ones included; cheaper than a snapshot."""
    found = set()
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if sys.platform == "linux" else snapshot():
        with suppress(OSError):
            if os.getsid(pid) == sid:
                found.add(pid)
    return found


def family(processes: Processes, pids: Iterable[int]) -> set[int]:
    """Return these processes with all of their descendants."""
    children: dict[int, list[int]] = {}
    for pid, process in processes.items():
        children.setdefault(process.parent, []).append(pid)
    found: set[int] = set()
    open_ends = list(pids)
    while open_ends:
        pid = open_ends.pop()
        if pid not in found:
            found.add(pid)
            open_ends += children.get(pid, [])
    return found


def marked(processes: Iterable[int], mark: str) -> set[int]:
    """Return the processes that have a variable which begins like this in the environment they were started with."""
    found = set()
    for pid in processes:
        with suppress(OSError):
            if any(variable.startswith(mark) for variable in _environment(pid)):
                found.add(pid)
    return found


def _environment(pid: int) -> list[str]:
    if sys.platform != "linux":
        return _portable_environment(pid)
    with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
        return file.read().decode(errors="replace").split("\0")


def _portable_environment(pid: int) -> list[str]:
    import psutil

    try:
        return [f"{key}={value}" for key, value in psutil.Process(pid).environ().items()]
    except psutil.Error:
        return []
