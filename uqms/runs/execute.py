"""Run a design: every run ends in a state, what has run before is not run again, the rest goes on when one fails."""

import json
import logging
import math
import os
import warnings
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import final

import numpy as np
import pandas as pd
import xarray as xr
from tqdm import tqdm

from uqms._typing import Named
from uqms.ensemble import RunState, build, get_space, input_columns
from uqms.errors import DataWarning, InputError
from uqms.runs.pool import Point, in_processes, in_this_process, usable_cpus
from uqms.runs.records import Record
from uqms.runs.store import RunStore, run_keys
from uqms.simulators import Simulator

__all__ = ["run"]

_logger = logging.getLogger(__name__)


def run(
    simulator: Simulator,
    design: xr.Dataset | pd.DataFrame | Named,
    store: RunStore | str | os.PathLike[str] | None = None,
    *,
    workers: int | None = None,
    timeout: float | None = None,
    progress: bool | None = None,
    retry_failed: bool = False,
) -> xr.Dataset:
    """Run a simulator at every point of a design, in parallel processes.

    A run that fails does not stop the others: its state, message and seconds are recorded, and a warning counts such
    runs. With a store, every run is kept as it ends; when the script stops, for whatever reason, the same call goes on
    where it was.

    Parameters
    ----------
    simulator
        What computes one run.
    design
        Points as `uqms.sobol` and its siblings give them, or name -> column. A point that stands twice is run once.
    store
        Path of a run store (SQLite), or an open one. Without it the runs live in memory only.
    workers
        Number of processes; as many as cores by default. 0 runs in this process, for a debugger; it knows no timeout.
    timeout
        Seconds after which a run is killed. None by default: only you know how long a run may take.
    progress
        Show a progress bar; by default when standard error is a terminal.
    retry_failed
        Run those again that failed before. By default they keep their record: a simulator without chance fails again.

    Returns
    -------
    xarray.Dataset
        An ensemble, its rows in the order of the design (see `uqms.ensemble`).

    Raises
    ------
    InputError
        When the simulator cannot take these inputs or cannot be sent to another process.
    DataError
        When the design holds a number that is not finite.
    CampaignLocked
        When another process writes to the store.
    StorageError
        When the store cannot be written; what was kept before is safe.

    Warns
    -----
    DataWarning
        When runs did not complete.

    Examples
    --------
    >>> import uqms as uq
    >>> simulator = uq.FunctionSimulator(lambda a: a**2, outputs={"y": ()})
    >>> run(simulator, {"a": [1.0, 2.0, 3.0]}, workers=0)["y"].values
    array([1., 4., 9.])
    """
    _check_settings(workers, timeout)
    columns = input_columns(design, get_space(design) if isinstance(design, xr.Dataset) else None)
    simulator.prepare(tuple(columns))
    points = [dict(zip(columns, row, strict=True)) for row in np.stack(list(columns.values()), axis=1).tolist()]
    keys = run_keys(simulator, points)
    campaign = _Campaign(simulator, dict(zip(keys, points, strict=True)), workers, timeout, progress, retry_failed)
    with nullcontext(store) if store is None or isinstance(store, RunStore) else RunStore(store) as opened:
        found = campaign.finish(opened)
    records = [found[key] for key in keys]
    _report(records)
    return _tabulate(simulator, design, records)


@final
@dataclass(frozen=True)
class _Campaign:
    """Distinct points by key, and how to run them."""

    simulator: Simulator
    points: Mapping[str, Point]
    workers: int | None
    timeout: float | None
    progress: bool | None
    retry_failed: bool

    def finish(self, store: RunStore | None) -> dict[str, Record]:
        """Return the record of every point, running those that the store does not have."""
        found = {} if store is None else store.get(self.simulator, self.points)
        if self._pending(found):
            with nullcontext() if store is None else store.lease():
                if store is not None:
                    store.register(self.simulator)
                    found = store.get(self.simulator, self.points)  # another writer may have come first
                self._run(found, store)
        return found

    def _pending(self, found: Mapping[str, Record]) -> list[str]:
        settled = {key for key, r in found.items() if r.state == RunState.COMPLETED or not self.retry_failed}
        return [key for key in self.points if key not in settled]

    def _run(self, found: dict[str, Record], store: RunStore | None) -> None:
        pending = self._pending(found)
        # None leaves the choice to tqdm: it is silent where standard error is no terminal.
        disable = None if self.progress is None else not self.progress
        bar = tqdm(total=len(self.points), initial=len(self.points) - len(pending), unit="run", disable=disable)
        failed = 0
        with bar, closing(self._results([self.points[key] for key in pending])) as results:
            for index, record in results:
                key = pending[index]
                if store is not None:
                    store.put(self.simulator, key, self.points[key], record)
                found[key] = record
                if record.state != RunState.COMPLETED:
                    failed += 1
                    bar.set_postfix_str(f"{failed} failed", refresh=False)
                    _logger.info("run at %s: %s", dict(self.points[key]), record.message)
                bar.update()

    def _results(self, points: Sequence[Point]) -> Generator[tuple[int, Record]]:
        if self.workers == 0:
            return in_this_process(self.simulator, points)
        workers = min(self.workers or usable_cpus(), max(len(points), 1))
        return in_processes(self.simulator, points, workers, self.timeout)


def _check_settings(workers: object, timeout: object) -> None:
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 0):
        raise InputError(
            f"workers is {workers!r}; give a number of processes, 0 for this process, None for one per core."
        )
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
        raise InputError(f"timeout is {timeout!r}; give seconds > 0, or None for no deadline.")
    if workers == 0:
        raise InputError("workers=0 runs in this process, which nothing can stop at a timeout; use workers=1.")


def _report(records: Sequence[Record]) -> None:
    """Warn of runs that did not complete, with the first of each kind."""
    counts = Counter(record.state for record in records)
    lost = len(records) - counts[RunState.COMPLETED]
    if not lost:
        return
    kinds = []
    for state in (RunState.FAILED, RunState.TIMEOUT, RunState.INVALID):
        rows = [row for row, record in enumerate(records) if record.state == state]
        if rows:
            kinds.append(f"{len(rows)} {state.name.lower()} (run {rows[0]}: {records[rows[0]].message})")
    warnings.warn(
        f"{lost} of {len(records)} runs did not complete: {'; '.join(kinds)}. ensemble['state'] and "
        "ensemble['message'] tell of each; surrogates use the others. To run them again: run(..., retry_failed=True).",
        DataWarning,
        stacklevel=3,
    )


def _tabulate(simulator: Simulator, design: xr.Dataset | pd.DataFrame | Named, records: Sequence[Record]) -> xr.Dataset:
    outputs: dict[str, object] = {}
    for name, dims in simulator.outputs.items():
        values = np.full((len(records), *(len(simulator.coords[dim]) for dim in dims)), np.nan)
        for row, record in enumerate(records):
            if record.outputs is not None:
                values[row] = record.outputs[name]
        coords = {dim: simulator.coords[dim] for dim in dims}
        outputs[name] = xr.DataArray(values, dims=("run", *dims), coords=coords)
    return build(
        design,
        outputs,
        states=[record.state for record in records],
        seconds=[record.seconds for record in records],
        messages=[record.message for record in records],
        units=simulator.units,
        simulator=json.dumps(simulator.identity),
    )
