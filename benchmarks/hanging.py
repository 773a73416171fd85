"""A simulator that does not want to end: it ignores SIGTERM, forks all the time, and leaves daemons behind.

Each run starts a shell that ignores signals, children of it, a loop that forks without end, a daemon in a session of
its own, and one more that has also emptied its environment. Every run has a deadline of 0.3 s. Aims, over all repeats
(each repeat is one run of a campaign, so that nothing but the run's own deadline ends it):

- runs whose state is not "timeout": 0;
- processes of a run that live 2 s after its deadline: 0;
- processes that are left when the campaign has ended: 0.

``--quick`` makes 20 runs, otherwise 100.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import xarray as xr
from _report import aim, finish

import uqms as uq
from uqms.errors import DataWarning
from uqms.runs import RunState
from uqms.simulators.executable import ExecutableSimulator
from uqms.simulators.executable.result_readers import JSONFile

DEADLINE, LATE = 0.3, 2.0

# The number of the run stands in the command line of each process, so that all of them can be found from outside.
SCRIPT = """
trap "" TERM INT HUP
(sleep "$1" & sleep "$1") &
(setsid sh -c 'trap "" TERM; sleep "$0" & sleep "$0"' "$1" &)
{daemon}
while :; do (sleep "$1" &); sleep 0.005; done
"""
# It has no variable by which it could be told; only a worker process, to which orphans come, can end it.
NAMELESS = """(setsid env -i sh -c 'trap "" TERM; sleep "$0" & sleep "$0"' "$1" &)"""


def hanging(folder: Path, *, nameless: bool = True) -> ExecutableSimulator:
    """Return the simulator; its input is the number of the run."""
    return ExecutableSimulator(
        ["sh", "hang.sh", "{{ '%d' | format(number) }}"],
        templates={"hang.sh": SCRIPT.format(daemon=NAMELESS if nameless else "")},
        outputs={"y": ()},
        read=JSONFile("result.json"),
        folder=folder,
        keep="never",
    )


def numbers(runs: int) -> list[float]:
    """Return numbers for runs that no other process has in its command line; sleep takes them as seconds."""
    first = 10**9 * (1 + os.getpid()) + time.monotonic_ns() % 10**6 * 10**3
    return [float(first + run) for run in range(runs)]


def processes(watch: Iterable[float]) -> dict[float, set[int]]:
    """Return the living processes of each of these runs, where there are any."""
    words = {f"{number:.0f}": number for number in watch}
    found: dict[float, set[int]] = {}
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        try:
            line = Path("/proc", entry, "cmdline").read_text(errors="replace")  # empty when it has ended
        except OSError:
            continue
        for word in words.keys() & set(line.split("\0")):
            found.setdefault(words[word], set()).add(int(entry))
    return found


def living(number: float) -> set[int]:
    """Return the living processes of one run."""
    return processes([number]).get(number, set())


@contextmanager
def watched(watch: list[float]) -> Iterator[dict[float, tuple[float, float]]]:
    """Give for each run the times when a process of it was seen first and last."""
    seen: dict[float, tuple[float, float]] = {}
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            for number in processes(watch):
                now = time.monotonic()
                seen[number] = (seen.get(number, (now, now))[0], now)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()


def campaign(runs: int, folder: Path, workers: int = 2) -> tuple[xr.Dataset, dict[float, tuple[float, float]], int]:
    """Run, and return the ensemble, when each run was seen, and how many processes are left."""
    points = numbers(runs)
    with watched(points) as seen, warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        ensemble = uq.run(hanging(folder), {"number": points}, workers=workers, timeout=DEADLINE)
    return ensemble, seen, sum(map(len, processes(points).values()))


def main() -> int:
    """Run as often as asked and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 runs instead of 100")
    runs = 20 if parser.parse_args().quick else 100
    with tempfile.TemporaryDirectory() as name:
        ensemble, seen, left = campaign(runs, Path(name))
    lives = [last - first for first, last in seen.values()]
    other = int((ensemble["state"].values != RunState.TIMEOUT).sum())
    late = sum(life > DEADLINE + LATE for life in lives)
    return finish(
        [
            aim("runs that were seen", len(lives), low=runs, high=runs, n=runs),
            aim("runs that did not end as timeout", other, high=0, n=runs),
            aim("runs with a process 2 s after the deadline", late, high=0, n=runs),
            aim("longest life of a run's processes in s", max(lives), high=DEADLINE + LATE, n=runs),
            aim("processes left after the campaign", left, high=0, n=runs),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
