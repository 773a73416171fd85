"""What running through uqms costs beside the simulator: time per run, time to resume, memory of the coordinator.

    python benchmarks/run_overhead.py [--quick]

Time per run: a function of 1 ms (a sleep) on 2 worker processes, with the run store on, every run committed to the
disk. Beside our local pool stands plain `concurrent.futures.ProcessPoolExecutor` (submit, as_completed), beside our
Dask plain `Client.map` with `as_completed` on the same `LocalCluster`; the plain ones keep nothing. The four alternate.
Each function returns the time at which it ended; a repeat's time per run is that between the 10 % and the 90 % quantile
of these times, divided by the runs between: without the start of the processes. Aims, medians over the repeats:

- ours / plain, local: at most 2;
- ours / plain, Dask: at most 2.

Resuming: `run` on a finished campaign of 100 000 runs, the whole call with the ensemble that it returns. Aim: 2 s.

Memory: the coordinator's largest resident size in a campaign of 20 000 runs less that of 2 000 runs, with outputs of
4 kB and `collect=False`, each in a process of its own. The outputs that the longer one has more are 72 MB; what stays
is the design, the keys and the records without outputs, about 0.3 kB a run while it runs and 0.9 kB with the table that
it returns. Aim, frozen at what the first correct version needed and half as much again: at most 24 MB.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from _report import Aim, aim, finish

import uqms
from uqms.runs import Record, RunState, RunStore, run
from uqms.runs.campaign import Campaign
from uqms.runs.store import Row
from uqms.simulators import FunctionSimulator

WORKERS = 2
RESUMED = 100_000


def one_millisecond(a: float) -> float:
    """Return when it ended."""
    time.sleep(0.001)
    return time.monotonic()


SIMULATOR = FunctionSimulator(one_millisecond, outputs={"ended": ()}, version="1")


def per_run(ended: np.ndarray) -> float:
    """Return milliseconds per run in the middle 80 % of a campaign."""
    low, high = np.quantile(ended, [0.1, 0.9])
    return float(1000 * (high - low) / (0.8 * len(ended)))


def plain_local(n: int) -> float:
    """Run `n` points through concurrent.futures."""
    with ProcessPoolExecutor(WORKERS) as pool:
        futures = [pool.submit(one_millisecond, float(a)) for a in range(n)]
        return per_run(np.array([future.result() for future in as_completed(futures)]))


def ours(n: int, workers: object) -> float:
    """Run `n` points through uqms, with a run store."""
    with tempfile.TemporaryDirectory() as folder:
        table = run(SIMULATOR, {"a": np.arange(float(n))}, Path(folder) / "runs.db", workers=workers, progress=False)
    return per_run(table["ended"].values)


def plain_dask(n: int, client: object) -> float:
    """Run `n` points through distributed."""
    from distributed import as_completed as dask_as_completed

    futures = client.map(one_millisecond, [float(a) for a in range(n)], pure=False)
    return per_run(np.array([value for _, value in dask_as_completed(futures, with_results=True)]))


def compared(name: str, repeats: list[tuple[float, float]], n: int) -> list[Aim]:
    """Turn repeats of (ours, plain) into an aim on their ratio, with both times for information."""
    mine, plain = (np.array(column) for column in zip(*repeats, strict=True))
    ratios = mine / plain
    mcse = 1.2533 * float(np.std(ratios, ddof=1)) / len(ratios) ** 0.5
    about = f"{n} runs of 1 ms, {WORKERS} workers"
    return [
        aim(f"ours, {name} [ms per run]", float(np.median(mine)), n=len(mine), reason=about),
        aim(f"plain {name} [ms per run]", float(np.median(plain)), n=len(plain), reason=about),
        aim(f"ours / plain, {name}", float(np.median(ratios)), high=2.0, mcse=mcse, n=len(ratios)),
    ]


def overhead(repeats: int, n: int) -> list[Aim]:
    """Measure the four ways in turn."""
    from distributed import Client, LocalCluster

    local, dask = [], []
    options = {"n_workers": WORKERS, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "memory_limit": 0}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        for _ in range(repeats + 1):
            local.append((ours(n, WORKERS), plain_local(n)))
            dask.append((ours(n, client), plain_dask(n, client)))
    return compared("local", local[1:], n) + compared("Dask", dask[1:], n)  # the first ones load what is imported


def finished_store(path: Path, design: dict[str, np.ndarray]) -> None:
    """Write a store in which every run of the design has completed."""
    campaign = Campaign(SIMULATOR, tuple(design))
    x = np.stack(list(design.values()), axis=1)
    record = Record(RunState.COMPLETED, 0.001, "", {"ended": np.array(1.0)})
    rows = [Row(key, x[i], record) for i, key in enumerate(campaign.keys(x, None))]
    with RunStore(path) as store, store.lease():
        store.register(campaign, {})
        for start in range(0, len(rows), 10_000):
            store.put(campaign, rows[start : start + 10_000])


def resume(repeats: int) -> Aim:
    """Measure the call on a finished campaign."""
    design = {"a": np.arange(float(RESUMED))}
    times = []
    with tempfile.TemporaryDirectory() as folder:
        finished_store(Path(folder) / "runs.db", design)
        for _ in range(repeats):
            begin = time.perf_counter()
            table = run(SIMULATOR, design, Path(folder) / "runs.db", workers=0)
            times.append(time.perf_counter() - begin)
            if not (table["ended"] == 1.0).all():
                raise RuntimeError("the resumed campaign ran something again")
    mcse = 1.2533 * statistics.stdev(times) / len(times) ** 0.5
    name = f"resuming a finished campaign of {RESUMED} runs [s]"
    return aim(name, statistics.median(times), high=2.0, mcse=mcse, n=repeats)


@contextmanager
def largest() -> Iterator[list[float]]:
    """Watch this process's resident size; the list holds the largest one in MB (the system's own counts the parent)."""
    sizes, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            sizes[0] = max(sizes[0], psutil.Process().memory_info().rss / 2**20)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield sizes
    finally:
        over.set()
        thread.join()


def largest_size(n: int) -> None:
    """Run a campaign, and print this process's largest resident size in MB: called in a process of its own."""
    simulator = FunctionSimulator(
        lambda a: np.full(500, a), outputs={"y": ("i",)}, coords={"i": np.arange(500)}, version="1"
    )
    with tempfile.TemporaryDirectory() as folder, largest() as sizes:
        run(simulator, {"a": np.arange(float(n))}, Path(folder) / "runs.db", workers=WORKERS, collect=False)
    print(json.dumps(sizes[0]))


def memory(repeats: int) -> Aim:
    """Measure how the coordinator grows with the number of runs."""
    growth = []
    for _ in range(repeats):
        sizes = []
        for n in (2_000, 20_000):
            command = [sys.executable, __file__, "--largest-size", str(n)]
            sizes.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        growth.append(sizes[1] - sizes[0])
    name = "growth of the coordinator from 2 000 to 20 000 runs [MB]"
    return aim(name, statistics.median(growth), high=24.0, n=repeats)


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats and runs")
    parser.add_argument("--largest-size", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.largest_size:
        largest_size(options.largest_size)
        return 0
    quick = options.quick
    parts: list[Callable[[], list[Aim]]] = [
        lambda: overhead(3 if quick else 7, 1000 if quick else 2000),
        lambda: [resume(3 if quick else 5)],
        lambda: [memory(1 if quick else 3)],
    ]
    return finish([each for part in parts for each in part()])


if __name__ == "__main__":
    print("uqms", uqms.__version__, file=sys.stderr)
    sys.exit(main())
