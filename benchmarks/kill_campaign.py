"""Kill everything that takes part in a campaign, again and again: nothing is lost, repeated, changed or left behind.

    python benchmarks/kill_campaign.py [--quick] [--only PART] [--gigabytes 10]

Coordinators (C1 of the list of tests): 300 kills at named points and random times (see `crash_points`), and 25 of a
script with 2 worker processes, 40 points of 50 ms, killed at a random moment between the first and the last run. Aims:
acknowledged runs that are lost, that run again, rows too many, damaged stores, result tables that differ from an
uninterrupted run, worker processes that live one second after the kill: 0.

Dask workers (C2): 20 kills in the middle of a campaign of 60 points of 50 ms on 2 Dask workers, in turn by exit, by a
segmentation fault and by SIGSTOP; the scheduler's own notice of silent workers is switched off, so that only the
campaign's deadline of 1 s (and 3 s of patience) can notice the last kind. Besides, one point ends its Dask worker each
time that it runs. Aims: campaigns that do not complete, other points that do not complete, results that differ: 0; the
bad point is given up after 3 attempts.

Hanging simulators (C3): programs that fork all the time (see `hanging`), and Python functions that sleep, that never
give the interpreter's lock back, and that wait for a child (see `bad_workers`); 100 of each kind, all of which ignore
signals and leave daemons behind. Aims: the longest life of a run's last process after its begin at most the deadline
and 2 s; runs that do not end as a timeout, processes left after the campaign: 0.

Memory (C10): 10 000 runs with outputs of 1 MB and `collect=False`; the coordinator's resident size may grow by 200 MB.
It needs 10 GB in the folder for temporary files (TMPDIR); --gigabytes makes it smaller.

``--quick`` makes 36 and 3 kills of coordinators, 3 of Dask workers, 10 programs and 6 functions of each kind hang, and
the outputs are 0.5 GB; the aims are the same. Seeds are 1...k.
"""

import argparse
import ctypes
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bad_workers
import crash_points
import hanging
import numpy as np
import psutil
import xarray as xr
from _report import Aim, aim, finish
from run_overhead import largest

import uqms
from uqms.ensemble import from_netcdf
from uqms.errors import DataWarning, IntegrityError
from uqms.runs import RunState, RunStore, run
from uqms.simulators import FunctionSimulator

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


# --------------------------------------------------------------------------------------------- a script that is killed
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


def has_kept(folder: Path) -> bool:
    """Return whether a run is in the store, while the script writes to it."""
    path = folder / "runs.db"
    if not path.exists():
        return False
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        try:
            return bool(db.execute("SELECT count(*) FROM runs WHERE state = 1").fetchone()[0])
        except sqlite3.OperationalError:  # it has no table yet
            return False


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
    """Kill the script at a random moment after its first run was kept, check what is left, and let it end."""
    after = np.random.default_rng(seed).uniform(0.0, 0.95 * RUNS * SECONDS / WORKERS)
    process = start(folder)
    while not has_kept(folder) and process.poll() is None:
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
    except IntegrityError:
        damaged = True
    same = all(table[name].identical(reference[name]) for name in ("a", "b", "y", "state", "message"))
    extra = sum(n - 1 for n in counts.values())
    return Outcome(len(safe), len(safe & repeated), extra, damaged, not same or len(counts) != RUNS, survivors)


# ------------------------------------------------------------------------------------------------------------ the parts
def coordinators(quick: bool, root: Path) -> list[Aim]:
    """Kill coordinators at named points and at random times."""
    number = 36 if quick else 300
    with crash_points.Helper() as helper:
        reference = crash_points.whole(helper, root / "whole")
        outcomes = []
        for i, kill in enumerate(crash_points.kills(number)):
            outcomes.append(crash_points.kill_once(helper, kill, root / str(i), reference))
            shutil.rmtree(root / str(i))
    total = {name: sum(getattr(o, name) for o in outcomes) for name in ("killed", "lost", "repeated", "duplicates")}
    total |= {name: sum(getattr(o, name) for o in outcomes) for name in ("damaged", "differs")}
    return [
        aim("coordinators killed before their end", total["killed"], low=0.9 * number, n=number),
        aim("acknowledged runs lost", total["lost"], high=0, n=number),
        aim("acknowledged runs that ran again", total["repeated"], high=0, n=number),
        aim("rows too many or too few", total["duplicates"], high=0, n=number),
        aim("damaged files", total["damaged"], high=0, n=number),
        aim("variables that differ", total["differs"], high=0, n=number),
    ]


def scripts(quick: bool, root: Path) -> list[Aim]:
    """Kill a script with worker processes."""
    kills = 3 if quick else 25
    (root / "whole").mkdir()
    reference = finish_script(root / "whole")
    outcomes = []
    for seed in range(1, kills + 1):
        folder = root / str(seed)
        folder.mkdir()
        outcomes.append(kill_once(folder, seed, reference))
    middle = sum(0 < outcome.kept < RUNS for outcome in outcomes)
    return [
        aim("scripts killed in the middle of the runs", middle, low=0.5 * kills, n=kills),
        aim("kept runs that ran again", sum(o.kept_and_repeated for o in outcomes), high=0, n=kills),
        aim("runs repeated by one kill, at most", max(o.repeated for o in outcomes), high=WORKERS, n=kills),
        aim("damaged stores", sum(o.damaged for o in outcomes), high=0, n=kills),
        aim("tables that differ", sum(o.differs for o in outcomes), high=0, n=kills),
        aim("workers alive after a second", sum(o.survivors for o in outcomes), high=0, n=kills),
    ]


def _end_dask_worker(client: Any, way: str) -> int:
    """End one Dask worker, and return its process."""
    address, pid = next(iter(client.run(os.getpid, on_error="ignore").items()))
    if way == "exit":
        client.run(os._exit, 1, workers=[address], on_error="ignore")
    elif way == "segfault":
        client.run(ctypes.string_at, 0, workers=[address], on_error="ignore")
    else:
        os.kill(pid, signal.SIGSTOP)
    return int(pid)


def _dask_campaign(client: Any, way: str, folder: Path) -> tuple[int, int, int]:
    """Run a campaign in which a Dask worker dies, and return other points that failed, differences, bad attempts."""

    def model(a: float) -> float:
        if a == 30:
            with open(folder / "attempts", "a") as file:
                file.write("x")
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(5.0)
        time.sleep(0.05)
        with open(folder / "calls", "a") as file:
            file.write("x")
        return a / 3

    simulator = FunctionSimulator(model, outputs={"y": ()}, version="1")
    killed = []

    def kill() -> None:
        while not (folder / "calls").exists() or (folder / "calls").stat().st_size < 10:
            time.sleep(0.01)
        killed.append(_end_dask_worker(client, way))

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        table = run(simulator, {"a": np.arange(60.0)}, folder / "runs.db", workers=client, timeout=1.0)
    finally:
        killer.join()
        if way == "stop":
            os.kill(killed[0], signal.SIGKILL)  # its nanny starts another one
    good = np.arange(60) != 30
    others = int((table["state"].values[good] != RunState.COMPLETED).sum())
    different = int((table["y"].values[good] != np.arange(60.0)[good] / 3).sum())
    return others, different, len((folder / "attempts").read_text())


def dask_workers(quick: bool, root: Path) -> list[Aim]:
    """Kill Dask workers in the middle of a campaign."""
    import dask
    from distributed import Client, LocalCluster

    import uqms.runs.dask

    uqms.runs.dask._PATIENCE = 3.0
    kills = 3 if quick else 20
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "memory_limit": 0}
    outcomes = []
    # LocalCluster closes the nanny of a worker for good that is starting again 15 s after an earlier death: with a kill
    # every few seconds that happens.
    settings = {"distributed.scheduler.worker-ttl": None, "distributed.deploy.lost-worker-timeout": "1 hour"}
    with dask.config.set(settings):
        with LocalCluster(**options, silence_logs=50) as cluster, Client(cluster) as client:
            for i in range(kills):
                client.wait_for_workers(2, timeout=60)
                (root / str(i)).mkdir()
                outcomes.append(_dask_campaign(client, ("exit", "segfault", "stop")[i % 3], root / str(i)))
    others, different, attempts = zip(*outcomes, strict=True)
    return [
        aim("campaigns on Dask that completed", len(outcomes), low=kills, n=kills),
        aim("Dask: other points that did not complete", sum(others), high=0, n=kills),
        aim("Dask: results that differ", sum(different), high=0, n=kills),
        aim("Dask: attempts of the bad point, fewest", min(attempts), low=3, n=kills),
        aim("Dask: attempts of the bad point, most", max(attempts), high=3, n=kills),
    ]


def hanging_programs(quick: bool, root: Path) -> list[Aim]:
    """Let programs hang that fork all the time."""
    runs = 10 if quick else 100
    table, seen, left = hanging.campaign(runs, root)
    lives = [last - first for first, last in seen.values()]
    other = int((table["state"].values != RunState.TIMEOUT).sum())
    return [
        aim("hanging programs: longest life [s]", max(lives), high=hanging.DEADLINE + hanging.LATE, n=runs),
        aim("hanging programs: other states", other, high=0, n=runs),
        aim("hanging programs: processes left", left, high=0, n=runs),
    ]


def hanging_functions(quick: bool, root: Path) -> list[Aim]:
    """Let Python functions hang."""
    runs = 6 if quick else 100
    aims = []
    for kind in bad_workers.HANGS:
        folder = root / kind
        folder.mkdir()
        outcome = bad_workers.hang(folder, kind, runs, workers=2)
        high = bad_workers.DEADLINE + bad_workers.LATE
        aims += [
            aim(f"function {kind}: longest life [s]", max(outcome.lives), high=high, n=runs),
            aim(f"function {kind}: other states", outcome.other_states, high=0, n=runs),
            aim(f"function {kind}: processes left", outcome.left, high=0, n=runs),
        ]
    return aims


def memory(gigabytes: float, root: Path) -> list[Aim]:
    """Run many points with large outputs, in a process of its own."""
    runs = int(gigabytes * 1000)
    free = shutil.disk_usage(root).free / 1e9
    name = f"growth of the coordinator in {runs} runs with outputs of 1 MB [MB]"
    if free < 1.2 * gigabytes:
        return [aim(name, None, reason=f"needs {1.2 * gigabytes:.0f} GB in {root}, which has {free:.0f}")]
    command = [sys.executable, __file__, "--large-outputs", str(runs)]
    environment = {**os.environ, "TMPDIR": str(root)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return [aim(name, float(done.stdout), high=200.0, n=runs)]


def large_outputs(runs: int) -> None:
    """Run a campaign with outputs of 1 MB, and print by how many MB this process grew: in a process of its own."""
    size = 125_000
    simulator = FunctionSimulator(
        lambda a: np.full(size, a), outputs={"y": ("i",)}, coords={"i": np.arange(size)}, version="1"
    )
    with tempfile.TemporaryDirectory() as folder:
        run(simulator, {"a": np.arange(4.0)}, Path(folder) / "first.db", workers=WORKERS, collect=False)  # loads all
        before = psutil.Process().memory_info().rss / 2**20
        with largest() as sizes:
            run(simulator, {"a": np.arange(float(runs))}, Path(folder) / "runs.db", workers=WORKERS, collect=False)
    print(json.dumps(sizes[0] - before))


def main() -> int:
    """Kill as often as asked and judge."""
    parts: dict[str, Callable[[bool, Path], list[Aim]]] = {
        "coordinators": coordinators,
        "scripts": scripts,
        "dask": dask_workers,
        "programs": hanging_programs,
        "functions": hanging_functions,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer kills, smaller outputs")
    parser.add_argument("--only", choices=[*parts, "memory"], help="one part")
    parser.add_argument("--gigabytes", type=float, help="size of all outputs of the part on memory")
    parser.add_argument("--large-outputs", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.large_outputs:
        large_outputs(options.large_outputs)
        return 0
    # Processes that are killed cannot tidy up, which loky's tracker of semaphores tells each time.
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker:UserWarning"
    gigabytes = options.gigabytes or (0.5 if options.quick else 10.0)
    parts["memory"] = lambda quick, root: memory(gigabytes, root)
    aims = []
    for name, part in parts.items():
        if options.only in (None, name):
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore", DataWarning)  # that runs failed: they are meant to
                begin = time.perf_counter()
                aims += part(options.quick, Path(folder))
                print(f"{name}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    return finish(aims)


if __name__ == "__main__":
    sys.exit(main())
