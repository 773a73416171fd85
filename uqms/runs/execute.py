"""Run a design: every run ends in a state, what has run before is not run again, the rest goes on when one fails."""

import heapq
import json
import logging
import math
import os
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import pandas as pd
import xarray as xr
from tqdm import tqdm

from uqms._teaching import taught
from uqms._typing import Array, Named
from uqms.ensemble import RunState, build, get_space, input_columns
from uqms.errors import PACKAGE, CampaignStopped, DataWarning, InputError
from uqms.parameters import ParameterSpace
from uqms.runs.campaign import digest
from uqms.runs.plan import Plan, check_inputs, plan_runs
from uqms.runs.policies import FailurePolicy
from uqms.runs.pool import Backend, InThisProcess, Local, payload_of, usable_cpus
from uqms.runs.records import Record
from uqms.runs.store import Row, RunStore
from uqms.simulators import Simulator
from uqms.simulators.function import simulator_of

if TYPE_CHECKING:
    from distributed import Client

    from uqms.runs.dask import Dask

__all__ = ["run"]

_logger = logging.getLogger(__name__)
_FIRST = 3  # points at which a plain function may be tried for its outputs
_DASK = "uqms.runs.dask"  # imported only by those who use it
_PLANNED = Record(RunState.PLANNED, math.nan, "not run: too many others failed")


@taught
def run(
    simulator: Simulator | Callable[..., Any],
    design: xr.Dataset | pd.DataFrame | Named,
    store: RunStore | str | os.PathLike[str] | None = None,
    *,
    replicates: int = 1,
    rng: int | None = None,
    fidelity: str = "",
    workers: "int | Client | Dask | None" = None,
    timeout: float | None = None,
    failures: FailurePolicy | None = None,
    retry_failed: bool = False,
    progress: bool | None = None,
    collect: bool = True,
) -> xr.Dataset:
    """Run a simulator at every point of a design, in parallel processes or on a cluster.

    A run that fails does not stop the others: its state, message and seconds are recorded, and a warning counts such
    runs. With a store, every run is kept as it ends; when the script stops, for whatever reason, the same call goes on
    where it was.

    Parameters
    ----------
    simulator
        What computes one run: a simulator, or a plain Python function that takes the inputs by name and returns a
        number, a mapping of output name to number, or DataArrays with coordinates. To learn the outputs of a plain
        function it is called once more, in this process; `FunctionSimulator` declares them instead.
    design
        Points as `uqms.sobol` and its siblings give them, or name -> column. A point that stands twice is run once; for
        a simulator with a seed these are two replicates.
    store
        Path of a run store (SQLite), or an open one. Without it the runs live in memory only.
    replicates
        How often each point runs, with a seed of its own each time; for simulators that draw random numbers.
    rng
        Whole number from which the seeds of all runs follow. A run's seed depends on this number, its inputs and its
        replicate alone, so more points, more replicates or more workers change no run that is there.
    fidelity
        A word for the level at which the simulator runs, where there are several.
    workers
        Number of processes on this machine, as many as cores by default; or a `distributed.Client`, to run on its Dask
        cluster. 0 runs in this process, for a debugger; it knows no timeout.
    timeout
        Seconds after which a run is killed, with everything that it has started. None by default: only you know how
        long a run may take.
    failures
        Whether failed runs are tried again and when everything stops; see `FailurePolicy`. By default neither.
    retry_failed
        Run those again that failed in an earlier call. By default they keep their record: a simulator without chance
        fails again. A run that gave some of its outputs keeps these when the new attempt gives none.
    progress
        Show a progress bar; by default when standard error is a terminal.
    collect
        False leaves the outputs in the store and returns the table without them; for more than fits into memory.

    Returns
    -------
    xarray.Dataset
        An ensemble, its rows in the order of the design, the replicates of a point one after the other (see
        `uqms.ensemble`).

    Raises
    ------
    InputError
        When the simulator cannot take these inputs or cannot be sent to another process; when it is a plain function
        that returns arrays without coordinates.
    DataError
        When the design holds a number that is not finite, a variable of which it is not said what it is, or a name that
        no table of runs can have.
    CampaignLocked
        When another process writes to the store.
    CampaignMismatch
        When the store has runs of this simulator with other outputs.
    CampaignStopped
        When more runs failed than `failures` allows; its `ensemble` holds what there is.
    KeyboardInterrupt
        When you press Ctrl+C; its text says how many runs are stored. Call again to continue.
    StorageError
        When the store cannot be written; what was kept before is safe.

    Warns
    -----
    DataWarning
        When runs did not complete, and when the store has runs of a simulator of this name that has changed since.

    Examples
    --------
    >>> import uqms as uq
    >>> def square(a):
    ...     return {"y": a**2}
    >>> run(square, {"a": [1.0, 2.0, 3.0]}, workers=0)["y"].values
    array([1., 4., 9.])
    """
    _check_settings(workers, timeout, collect, store)
    _check_order(simulator, design)
    columns = input_columns(design, get_space(design) if isinstance(design, xr.Dataset) else None)
    check_inputs(design, columns)
    if not isinstance(simulator, Simulator):
        points = [
            {name: float(column[row]) for name, column in columns.items()}
            for row in range(min(_FIRST, len(next(iter(columns.values())))))
        ]
        simulator = simulator_of(simulator, points)
    simulator.prepare(tuple(columns))
    plan = plan_runs(simulator, columns, fidelity, replicates, rng)
    # What would not fit into one table is told now and not when everything has run.
    _tabulate(first := plan.part(slice(1)), design, _nothing(first), [_PLANNED], rng)
    campaign = _Execution(plan, failures or FailurePolicy(), retry_failed, progress, collect)
    with nullcontext(store) if store is None or isinstance(store, RunStore) else RunStore(store) as opened:
        try:
            stopped = campaign.finish(opened, _about(design, rng), lambda n: _backend(simulator, workers, timeout, n))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(campaign.interrupted(opened)) from None
    records = campaign.records()
    ensemble = _tabulate(plan, design, campaign.outputs, records, rng)
    if stopped:
        raise CampaignStopped(stopped, ensemble)
    _report(records)
    return ensemble


@final
class _Execution:
    """The runs of one call: what is known of each, and the loop that gets the rest."""

    def __init__(
        self, plan: Plan, policy: FailurePolicy, retry_failed: bool, progress: bool | None, collect: bool
    ) -> None:
        self.plan = plan
        self.policy = policy
        self.retry_failed = retry_failed
        self.progress = progress
        self.collect = collect
        self.rows: dict[bytes, int] = {}  # first row of each run
        for row, key in enumerate(plan.keys):
            self.rows.setdefault(key, row)
        self.found: dict[bytes, Record] = {}
        self.tried: dict[bytes, Record | None] = {}  # what this call has begun, with its last attempt
        self.failed = 0
        self.first = ""  # message of the first that failed
        self.outputs: dict[str, Array] = {}

    def finish(self, store: RunStore | None, about: dict[str, str], backend: "Opener") -> str:
        """Get the record of every run; return why it stopped early, or nothing."""
        if store is not None:
            with store.moment():
                self._read(store)
                if not self._pending() or self._too_many():
                    self._collect(store)
                    return self._stopped()
        with nullcontext() if store is None else store.lease():
            if store is not None:
                store.register(self.plan.campaign, {**about, "runs": digest(self.rows)})
                self._read(store)  # another writer may have come first
                self._tell_of_relatives(store)
            pending = self._pending()
            with self._bar(len(pending)) as bar, backend(len(pending)) as running:
                self._drive(running, pending, store, bar)
            self._collect(store)
        return self._stopped()

    def _read(self, store: RunStore) -> None:
        kept = store.kept(self.plan.campaign, self.rows.keys())
        self.found = {key: kept[key] for key in self.rows if key in kept}
        failed = [r for r in self.found.values() if r.state != RunState.COMPLETED and not self.retry_failed]
        self.failed, self.first = len(failed), failed[0].message if failed else ""

    def _pending(self) -> list[int]:
        """Return the first row of each run that has to run."""
        return [row for key, row in self.rows.items() if not self._settled(self.found.get(key))]

    def _settled(self, record: Record | None) -> bool:
        return record is not None and (record.state == RunState.COMPLETED or not self.retry_failed)

    def _too_many(self) -> bool:
        return self.policy.stops(self.failed, len(self.rows))

    def _stopped(self) -> str:
        if not self._too_many():
            return ""
        idle = sum(key not in self.tried and not self._settled(self.found.get(key)) for key in self.rows)
        return (
            f"{self.failed} of {len(self.rows)} runs did not complete, more than stop_above="
            f"{self.policy.stop_above:g} allows; {idle} runs were not begun. The first that failed: "
            f"{self.first}. What ran is in the error's `ensemble` and in the store; mend the cause and call "
            "run(..., retry_failed=True)."
        )

    def _tell_of_relatives(self, store: RunStore) -> None:
        if not store.has_runs(self.plan.campaign) and (others := store.relatives(self.plan.campaign)):
            warnings.warn(
                f"{store.path} has {others} runs of {self.plan.campaign.name!r} that are not used: its code, settings, "
                "outputs or coordinates have changed since, so they count as another simulator. When a change does not "
                "touch the results, say so with version='...' from the beginning.",
                DataWarning,
                skip_file_prefixes=PACKAGE,
            )

    @contextmanager
    def _bar(self, pending: int) -> Iterator["tqdm[None]"]:
        # None leaves the choice to tqdm: it is silent where standard error is no terminal.
        disable = None if self.progress is None else not self.progress
        total = len(self.rows)
        with tqdm(total=total, initial=total - pending, unit="run", disable=disable, smoothing=0.1) as bar:
            yield bar

    def _drive(self, backend: Backend, pending: Sequence[int], store: RunStore | None, bar: "tqdm[None]") -> None:
        """Hand out points, keep what ends, try again what may be tried again, stop when too many fail."""
        ready: deque[int] = deque(pending)
        later: list[tuple[float, int]] = []  # when to try again, and what
        attempts: Counter[int] = Counter()
        flying = 0
        while (ready or later or flying) and not self._too_many():
            while later and later[0][0] <= time.monotonic():
                ready.append(heapq.heappop(later)[1])
            for _ in range(min(backend.free(), len(ready))):
                row = ready.popleft()
                self.tried.setdefault(self.plan.keys[row])
                backend.submit(row, self.plan.point(row))
                flying += 1
            pause = max(0.0, later[0][0] - time.monotonic()) if later else None
            ended = []
            for row, record in backend.ended(pause):
                flying -= 1
                attempts[row] += 1
                if self.policy.again(record.state, attempts[row]):
                    self.tried[self.plan.keys[row]] = record
                    _logger.info("run at %s: %s; it is tried again", self.plan.point(row), record.message)
                    heapq.heappush(later, (time.monotonic() + self.policy.pause(attempts[row]), row))
                else:
                    ended.append((row, replace(record, attempts=attempts[row])))
            self._keep(ended, store)
            self._show(bar, len(ended), len(later))

    def _keep(self, ended: Sequence[tuple[int, Record]], store: RunStore | None) -> None:
        """Put what has ended on the disk, all that came together in one commit, and remember how it ended."""
        better = [(row, record) for row, record in ended if not self._loses(row, record)]
        if store is not None and better:
            store.put(self.plan.campaign, [self._row(row, record) for row, record in better])
        for row, record in better:
            self.found[self.plan.keys[row]] = record if store is None else replace(record, outputs=None)
        for row, record in ended:
            if record.state != RunState.COMPLETED:
                self.failed += 1
                self.first = self.first or record.message
                _logger.info("run at %s: %s", self.plan.point(row), record.message)

    def _loses(self, row: int, record: Record) -> bool:
        """Tell whether a run that is tried again gave less than the store has of it."""
        before = self.found.get(self.plan.keys[row])
        return before is not None and before.state == RunState.PARTIAL and record.outputs is None

    def _row(self, row: int, record: Record) -> Row:
        plan = self.plan
        seed = None if plan.seeds is None else int(plan.seeds[row])
        replicate = 0 if plan.replicates is None else int(plan.replicates[row])
        return Row(plan.keys[row], plan.x[row], record, seed, replicate)

    def _show(self, bar: "tqdm[None]", ended: int, again: int) -> None:
        words = [f"{self.failed} failed"] * bool(self.failed) + [f"{again} to try again"] * bool(again)
        if words:
            bar.set_postfix_str(", ".join(words), refresh=False)
        bar.update(ended)

    def interrupted(self, store: RunStore | None) -> str:
        """Say what an interrupted call leaves."""
        done, total = sum(key in self.found for key in self.rows), len(self.rows)
        if store is None:
            return f"{done} of {total} runs had ended and are lost; with store='runs.db' each would have been kept."
        return f"{done} of {total} runs are stored in {store.path.name}; call again to continue."

    def records(self) -> list[Record]:
        """Return the record of every row; of what was not run, one that says so."""
        return [self.found.get(key) or self._broken_off(key) for key in self.plan.keys]

    def _broken_off(self, key: bytes) -> Record:
        if key not in self.tried:
            return _PLANNED
        last = self.tried[key]
        if last is None:
            return replace(_PLANNED, message="broken off: too many others failed")
        return replace(_PLANNED, message=f"not tried again, too many others failed; before: {last.message}")

    def _collect(self, store: RunStore | None) -> None:
        """Read the outputs of every row, NaN where there are none."""
        if not self.collect:
            return
        if store is not None:
            self.outputs = store.outputs(self.plan.campaign, self.plan.keys)
            return
        self.outputs = _nothing(self.plan)
        for row, key in enumerate(self.plan.keys):
            given = self.found[key].outputs if key in self.found else None
            for name, values in self.outputs.items():
                if given is not None:
                    values[row] = given[name]


def _nothing(plan: Plan) -> dict[str, Array]:
    simulator = plan.campaign.simulator
    shapes = {name: [len(simulator.coords[dim]) for dim in dims] for name, dims in simulator.outputs.items()}
    return {name: np.full((len(plan.x), *shape), np.nan) for name, shape in shapes.items()}


type Opener = Callable[[int], Backend]


def _backend(
    simulator: Simulator, workers: "int | Client | Dask | None", timeout: float | None, points: int
) -> Backend:
    if workers is None or isinstance(workers, int):
        if workers == 0:
            return InThisProcess(simulator)
        return Local(payload_of(simulator), min(workers or usable_cpus(), points), timeout)
    from uqms.runs.dask import Dask, DaskBackend

    cluster = workers if isinstance(workers, Dask) else Dask(workers)
    return DaskBackend(cluster, payload_of(simulator), timeout)


def _check_settings(workers: object, timeout: object, collect: object, store: object) -> None:
    if isinstance(workers, bool) or (isinstance(workers, int) and workers < 0) or not _can_work(workers):
        raise InputError(
            f"workers is {workers!r}; give a number of processes, 0 for this process, None for one per core, or a "
            "distributed.Client."
        )
    if not collect and store is None:
        raise InputError("collect=False leaves the outputs in the store; give one: run(..., store='runs.db').")
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
        raise InputError(f"timeout is {timeout!r}; give seconds > 0, or None for no deadline.")
    if workers == 0:
        raise InputError("workers=0 runs in this process, which nothing can stop at a timeout; use workers=1.")


def _check_order(simulator: object, design: object) -> None:
    """Refuse swapped arguments, and what is no simulator.

    Raises
    ------
    InputError
        With the call that was meant.
    """
    table = isinstance(simulator, xr.Dataset | pd.DataFrame | Mapping)
    if table and (callable(design) or isinstance(design, Simulator)):
        raise InputError("run: simulator and design are swapped; call uq.run(simulator, design).")
    if isinstance(simulator, type) or not (isinstance(simulator, Simulator) or callable(simulator)):
        what = f"the class {simulator.__name__}" if isinstance(simulator, type) else f"a {type(simulator).__name__}"
        if hasattr(simulator, "predict"):
            raise InputError(f"run: simulator is {what}, which is asked by surrogate.predict(points), not run.")
        raise InputError(
            f"run: simulator is {what}; give a Python function, uq.FunctionSimulator(function, outputs=...), "
            "uq.ExecutableSimulator(...) or uq.UMBridgeSimulator(...)."
        )
    if isinstance(design, ParameterSpace | int | float):
        raise InputError(
            f"run: design is a {type(design).__name__}; give a design over the space, uq.run(simulator, "
            "uq.sobol(space, 64, rng=1))."
        )


def _can_work(workers: object) -> bool:
    package = type(workers).__module__
    return workers is None or isinstance(workers, int) or package.split(".")[0] == "distributed" or package == _DASK


def _about(design: object, rng: int | None) -> dict[str, str]:
    """Return what the store keeps beside the runs, so that an ensemble can be made of them without this script."""
    attrs = design.attrs if isinstance(design, xr.Dataset) else {}
    about = {key: str(attrs[key]) for key in ("space", "box", "design") if key in attrs}
    return about if rng is None else {**about, "rng": str(rng)}


def _report(records: Sequence[Record]) -> None:
    """Warn of runs that did not complete, with the first of each kind."""
    counts = Counter(record.state for record in records)
    lost = len(records) - counts[RunState.COMPLETED]
    if not lost:
        return
    kinds = []
    for state in (RunState.FAILED, RunState.TIMEOUT, RunState.INVALID, RunState.PARTIAL):
        rows = [row for row, record in enumerate(records) if record.state == state]
        if rows:
            kinds.append(f"{len(rows)} {state.name.lower()} (run {rows[0]}: {records[rows[0]].message})")
    warnings.warn(
        f"{lost} of {len(records)} runs did not complete: {'; '.join(kinds)}. ensemble['state'] and "
        "ensemble['message'] tell of each; surrogates use the others. To run them again: run(..., retry_failed=True).",
        DataWarning,
        skip_file_prefixes=PACKAGE,
    )


def _tabulate(
    plan: Plan,
    design: xr.Dataset | pd.DataFrame | Named,
    outputs: dict[str, Array],
    records: Sequence[Record],
    rng: int | None,
) -> xr.Dataset:
    simulator = plan.campaign.simulator
    table: dict[str, object] = {}
    for name, values in outputs.items():
        dims = simulator.outputs[name]
        table[name] = xr.DataArray(values, dims=("run", *dims), coords={dim: simulator.coords[dim] for dim in dims})
    inputs: xr.Dataset | Named = dict(zip(plan.campaign.inputs, plan.x.T, strict=True))
    if isinstance(design, xr.Dataset):  # it describes its columns
        inputs = design.isel(run=plan.origin)
    states = [record.state for record in records]
    ensemble = build(
        inputs,
        table or {"_": np.zeros(len(records))},  # an ensemble has outputs; this one is taken out again
        states=states if table else None,
        seconds=[record.seconds for record in records],
        messages=[record.message for record in records],
        seeds=plan.seeds,
        replicates=plan.replicates,
        fidelity=plan.campaign.fidelity or None,
        units=simulator.units if table else None,
        simulator=json.dumps(simulator.identity),
    )
    if not table:
        codes = np.array(states, dtype=np.int8)
        ensemble = ensemble.drop_vars("_").assign(state=ensemble["state"].copy(data=codes))
    return ensemble if rng is None else ensemble.assign_attrs(rng=str(rng))
