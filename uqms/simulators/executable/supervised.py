"""Running one program under supervision: a deadline, limits, its words in a file, and nothing of it left behind."""

import itertools
import math
import mmap
import os
import re
import secrets
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, final

from uqms.simulators import process_tree as processes
from uqms.simulators.deadline import end_if_abandoned, remaining

__all__ = ["Ended", "can_limit_memory", "supervise"]

_TOLD_BEFORE = 0.02  # seconds; the worker process itself is killed a little after the run's deadline
_LOOK = 0.05  # seconds between two looks at the size of the log
_TAIL_LINES, _TAIL_CHARACTERS = 20, 2000

can_limit_memory = sys.platform == "linux"


@final
@dataclass(frozen=True)
class Ended:
    """How a program ended.

    Parameters
    ----------
    returncode
        Exit code; minus the signal's number when a signal ended it; None when the system did not let it die.
    seconds
        From its start until nothing of it was left.
    timed_out
        It was killed at its deadline.
    log_too_large
        It was killed because it wrote more than its log may hold.
    left
        How many processes of it, besides itself, had to be killed.
    tail
        The last lines that it wrote to standard output and standard error.
    error_line
        The first line there that means failure, None without one.
    """

    returncode: int | None
    seconds: float
    timed_out: bool
    log_too_large: bool
    left: int
    tail: str
    error_line: str | None


def supervise(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    log: Path,
    timeout: float | None = None,
    memory: int | None = None,
    log_limit: float = math.inf,
    error_pattern: str | None = None,
) -> Ended:
    """Run a program to its end, or kill it with all that it has started.

    Parameters
    ----------
    command
        Program and arguments, passed on as they are; no shell reads them.
    folder
        Its current directory.
    environment
        All of its environment variables, but for one that marks what it starts.
    log
        File for its standard output and standard error; it must not exist.
    timeout
        Seconds; the deadline of the run that is going on counts too.
    memory
        Bytes of address space that each of its processes may have (Linux).
    log_limit
        Bytes of the log after which it is killed.
    error_pattern
        A regular expression for lines of the log that mean failure.

    Raises
    ------
    OSError
        When it cannot be started.
    """
    begin = time.monotonic()
    until = begin + min(math.inf if timeout is None else timeout, remaining() - _TOLD_BEFORE)
    with log.open("xb+") as words:
        mark = f"{os.getpid()}-{secrets.token_hex(8)}"
        traces = _Traces(f"{processes.MARK}={mark}")
        stopped, quiet, program = "", False, None
        try:
            program = subprocess.Popen(
                _limited(command, memory),
                cwd=folder,
                env={**environment, processes.MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            traces.leader = program.pid
            stopped = _wait(program, until, words, log_limit)
            quiet = not stopped
        finally:  # an interrupt too leaves nothing behind
            left = traces.erase(quiet)
            if program is not None:
                with suppress(subprocess.TimeoutExpired):
                    program.wait(1.0)
        too_large = os.fstat(words.fileno()).st_size > log_limit
        if too_large:
            words.truncate(int(log_limit))
        # By the open file: the program may have removed its name.
        tail, error_line = _tail(words), None if error_pattern is None else _matching(words, error_pattern)
    seconds = time.monotonic() - begin
    return Ended(program.returncode, seconds, stopped == "deadline", too_large, left, tail, error_line)


def _limited(command: Sequence[str], memory: int | None) -> list[str]:
    # The limit has to be there before the program begins: set from outside, it comes too late on a busy machine, and a
    # function that Python runs in the child is not safe with threads. This shell reads nothing of the command.
    if memory is None:
        return list(command)
    return ["/bin/sh", "-c", f'ulimit -v {memory // 1024} && exec "$@"', "sh", *command]


def _wait(program: "subprocess.Popen[bytes]", until: float, words: BinaryIO, log_limit: float) -> str:
    """Wait until the program ends; return why it has to be ended, nothing when it has ended by itself."""
    with _End(program) as end:
        while not end.within(min(_LOOK, until - time.monotonic())):
            end_if_abandoned()
            if os.fstat(words.fileno()).st_size > log_limit:
                return "log"
            if time.monotonic() >= until:
                return "deadline"
    return ""


@final
class _End:
    """Waits for the end of a process without asking again and again, where the system can do that."""

    def __init__(self, program: "subprocess.Popen[bytes]") -> None:
        self.program = program
        self.handle = -1
        if sys.platform == "linux":
            with suppress(OSError):  # kernels before 5.3
                self.handle = os.pidfd_open(program.pid)
        self.poll = select.poll()
        if self.handle >= 0:
            self.poll.register(self.handle, select.POLLIN)

    def __enter__(self) -> "_End":
        return self

    def __exit__(self, *_: object) -> None:
        if self.handle >= 0:
            os.close(self.handle)

    def within(self, seconds: float) -> bool:
        """Return whether the process ends within that time."""
        if self.handle >= 0:
            return bool(self.poll.poll(max(0, math.ceil(seconds * 1000))))
        with suppress(subprocess.TimeoutExpired):
            self.program.wait(max(0.0, seconds))
            return True
        return False


_lock = threading.Lock()
_numbers = itertools.count()
_running = 0
_last = -1


@final
class _Traces:
    """What one program has started, wherever it went: its session, its descendants, and what carries its mark.

    A daemon that also emptied its environment has none of these. As long as orphans come to this process and it runs
    nothing else, such a daemon is known as a child, with a session of its own, that nobody here has started.
    """

    def __init__(self, mark: str) -> None:
        global _running, _last
        self.mark = mark
        self.leader = 0
        self.me = os.getpid()
        self.before = _children() if processes.is_subreaper() else set()
        with _lock:
            _running += 1
            self.alone = _running == 1
            self.number = _last = next(_numbers)

    def erase(self, ended: bool) -> int:
        """Kill all of it and return how many there were beside the program; `ended` says that this has ended itself."""
        global _running
        try:
            if ended and not self.suspected():
                return 0
            killed = processes.end_all(self.find)
            if processes.is_subreaper():
                self.bury(killed)
            return len(killed - {self.leader})
        finally:
            with _lock:
                _running -= 1

    def suspected(self) -> bool:
        """Return whether there may be something left, at little cost."""
        if not processes.is_subreaper():
            return True
        return bool(_children() - self.before - {self.leader} or processes.session(self.leader) - {self.leader})

    def find(self, found: processes.Processes) -> set[int]:
        mine = {pid for pid, process in found.items() if self.leader and process.session == self.leader}
        mine |= {self.leader} if self.leader else set()
        mine |= self.adopted(found)
        near = processes.family(found, [self.me]) if processes.is_subreaper() else set(found)
        mine |= processes.marked(near - {self.me}, self.mark)
        return processes.family(found, mine)

    def adopted(self, found: processes.Processes) -> set[int]:
        """Return the orphans that came to this process since the start; a session of their own tells them."""
        # Asked after `found` was taken: a program of another thread that began later is not in it.
        if not (self.alone and _last == self.number and processes.is_subreaper()):
            return set()
        children = {pid for pid, process in found.items() if process.parent == self.me} - self.before - {self.leader}
        return {pid for pid in children if found[pid].session != found[self.me].session}

    def bury(self, killed: set[int]) -> None:
        """Wait for orphans that have ended, which would stay in the system's table otherwise."""
        found = processes.snapshot()
        mine = killed | self.adopted(found) | {pid for pid in found if found[pid].session == self.leader}
        for pid in mine - {self.leader}:
            if pid in found and found[pid].parent == self.me:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)


def _children() -> set[int]:
    """Return the children of this process, ended ones included."""
    try:
        lists = [Path(f"/proc/self/task/{task}/children").read_bytes() for task in os.listdir("/proc/self/task")]
    except OSError:  # the kernel does not list them, or a thread ended meanwhile
        return {pid for pid, process in processes.snapshot().items() if process.parent == os.getpid()}
    return {int(word) for text in lists for word in text.split()}


def _matching(words: BinaryIO, pattern: str) -> str | None:
    """Return the beginning of the first line in which a pattern is found."""
    if os.fstat(words.fileno()).st_size == 0:
        return None
    with mmap.mmap(words.fileno(), 0, access=mmap.ACCESS_READ) as text:
        match = re.search(pattern.encode(), text, re.MULTILINE)
        if match is None:
            return None
        begin = text.rfind(b"\n", 0, match.start()) + 1
        return text[begin : begin + 200].partition(b"\n")[0].rstrip().decode(errors="replace")


def _tail(words: BinaryIO) -> str:
    """Return the last lines without what would move a terminal's cursor."""
    words.seek(max(0, words.seek(0, os.SEEK_END) - 4 * _TAIL_CHARACTERS))
    lines = [line.rstrip() for line in words.read().decode(errors="replace").splitlines()]
    text = "\n".join([line for line in lines if line][-_TAIL_LINES:])
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)[-_TAIL_CHARACTERS:]
