"""Kill a design in the middle of its runs, again and again: nothing that was kept may be lost, repeated or changed.

A script without a main guard runs 40 points of 50 ms with a run store and 2 workers; each call of the simulator leaves
a line in a file. It is killed with SIGKILL at a random moment between the first and the last run, then started again
until it ends. Aims, over all repeats:

- runs that were in the store at the kill and ran again: 0;
- runs that ran more than once, at most one for each worker (what was in flight);
- stores that fail SQLite's or our own integrity check: 0;
- result tables that differ from an uninterrupted run: 0;
- worker processes that live one second after the kill: 0.

``--quick`` makes 5 kills, otherwise 25; the seeds are 1...k.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from _report import aim, finish

import uqms
from uqms.ensemble import from_netcdf
from uqms.runs import RunStore

RUNS, SECONDS, WORKERS = 40, 0.05, 2

SCRIPT = f"""
import os, sys, time
import uqms as uq
from uqms.ensemble import to_netcdf
from uqms.runs import run

folder = sys.argv[1]

def model(a, b):
    time.sleep({SECONDS})
    with open(folder + "/calls", "a") as file:
        file.write(f"{{a.hex()}} {{os.getpid()}}\\n")
    return a - b

space = uq.ParameterSpace(a=uq.Uniform(0, 1), b=uq.Uniform(0, 1))
simulator = uq.FunctionSimulator(model, outputs={{"y": ()}}, version="1")
table = run(simulator, uq.sobol(space, {RUNS}, rng=1), store=folder + "/runs.db", workers={WORKERS})
to_netcdf(table, folder + "/table.nc")
"""


@dataclass(frozen=True)
class Outcome:
    """What one kill did."""

    kept: int
    kept_and_repeated: int
    repeated: int
    damaged: bool
    differs: bool
    survivors: int


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Start the script in its folder."""
    (folder / "script.py").write_text(SCRIPT)
    env = {**os.environ, "PYTHONPATH": str(Path(uqms.__file__).parents[1])}
    return subprocess.Popen([sys.executable, folder / "script.py", folder], env=env)


def calls(folder: Path) -> list[list[str]]:
    """Return the inputs and the process of every call of the simulator so far."""
    path = folder / "calls"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def kept(folder: Path) -> set[str]:
    """Return the inputs of the runs that are in the store."""
    with RunStore(folder / "runs.db") as store:
        rows = store._db.execute("SELECT x FROM runs WHERE state = 1")
        return {float(np.frombuffer(x)[0]).hex() for (x,) in rows}


def finish_script(folder: Path) -> xr.Dataset:
    """Run the script to its end and return its table."""
    process = start(folder)
    if process.wait(timeout=120):
        raise RuntimeError(f"the script ended with exit code {process.returncode}")
    return from_netcdf(folder / "table.nc")


def alive(pids: set[int]) -> int:
    """Count the processes that still run (a zombie does not)."""
    count = 0
    for pid in pids:
        try:
            count += Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
        except OSError:
            continue
    return count


def kill_once(folder: Path, seed: int, reference: xr.Dataset) -> Outcome:
    """Kill the script at a random moment of its runs, check what is left, and let it end."""
    after = np.random.default_rng(seed).uniform(0.0, 0.95 * RUNS * SECONDS / WORKERS)
    process = start(folder)
    while not calls(folder):
        time.sleep(0.005)
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1.0)
    before = calls(folder)
    survivors = alive({int(pid) for _, pid in before})
    safe = kept(folder)
    table = finish_script(folder)
    counts = Counter(a for a, _ in calls(folder))
    repeated = {a for a, n in counts.items() if n > 1}
    try:
        with RunStore(folder / "runs.db") as store:
            store.integrity_check()
            damaged = False
    except uqms.errors.IntegrityError:
        damaged = True
    same = all(table[name].identical(reference[name]) for name in ("a", "b", "y", "state", "message"))
    extra = sum(n - 1 for n in counts.values())
    return Outcome(len(safe), len(safe & repeated), extra, damaged, not same or len(counts) != RUNS, survivors)


def main() -> int:
    """Kill as often as asked and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 kills instead of 25")
    kills = 5 if parser.parse_args().quick else 25
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "whole").mkdir()
        reference = finish_script(root / "whole")
        outcomes = []
        for seed in range(1, kills + 1):
            folder = root / str(seed)
            folder.mkdir()
            outcomes.append(kill_once(folder, seed, reference))
            print(seed, outcomes[-1], flush=True)
    middle = sum(0 < outcome.kept < RUNS for outcome in outcomes)
    return finish(
        [
            aim("kills in the middle of the runs", middle, low=0.5 * kills, n=kills),
            aim("kept runs that ran again", sum(o.kept_and_repeated for o in outcomes), high=0, n=kills),
            aim("runs repeated by one kill, at most", max(o.repeated for o in outcomes), high=WORKERS, n=kills),
            aim("damaged stores", sum(o.damaged for o in outcomes), high=0, n=kills),
            aim("tables that differ", sum(o.differs for o in outcomes), high=0, n=kills),
            aim("workers alive after a second", sum(o.survivors for o in outcomes), high=0, n=kills),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
