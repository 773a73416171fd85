"""Run a design: record how every run ends, reuse stored runs, and continue when runs fail."""

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
from uqms.ensemble.states import state_words
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
_FIRST = 3  # points at which a plain function is tried, to learn its outputs
_DASK = "uqms.runs.dask"  # imported only if a Dask cluster is used
_PLANNED = Record(RunState.PLANNED, math.nan, "not run, since too many other runs failed")


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

    A run that fails does not stop the other runs. Its state, message and seconds are recorded, and a warning counts the
    runs that did not complete. With a store, every run is saved as soon as it ends. If the script stops for any reason,
    repeat the same call: it continues with the runs that are missing.

    Parameters
    ----------
    simulator
        A simulator, or a plain Python function that takes the inputs by name and returns a number, a mapping of output
        names to numbers, or DataArrays with coordinates. A plain function is called once more in this process, to learn
        its outputs. `FunctionSimulator` declares the outputs instead.
    design
        The points at which the simulator runs: a design, as `uqms.sobol` and the other design functions return it, or a
        mapping of input names to columns. A point that occurs twice is run once. If the simulator has a seed, the
        second occurrence is another replicate.
    store
        Path of a run store (an SQLite file), or an open `RunStore`. Without it, the runs are in memory only.
    replicates
        Number of runs at each point, each with its own seed. For simulators that draw random numbers.
    rng
        Whole number that determines the seeds of all runs. The seed of a run depends only on this number, the inputs
        and the replicate. So more points, more replicates or more workers do not change runs that exist already.
    fidelity
        A word for the level of fidelity, if the simulator has several levels.
    workers
        Number of processes on this machine, by default the number of cores; or a `distributed.Client`, to run on its
        Dask cluster. With 0, the simulator runs in this process, for a debugger; it then cannot have a timeout.
    timeout
        Seconds after which a run is killed, with every process that it has started. By default runs have no timeout,
        since only you know how long a run may take.
    failures
        Whether failed runs are tried again, and when the campaign stops; see `FailurePolicy`. By default failed runs
        are recorded and the campaign continues.
    retry_failed
        Whether runs that failed in an earlier call are run again. By default they keep their record, since a
        deterministic simulator fails again. A run that gave some of its outputs keeps them if the new attempt gives
        none.
    progress
        Whether a progress bar is shown; by default it is shown if standard error is a terminal.
    collect
        With False, the outputs remain in the store and the returned table does not contain them. For outputs that do
        not fit into memory.

    Returns
    -------
    xarray.Dataset
        An ensemble (see `uqms.ensemble`). Its rows are in the order of the design; replicates of a point follow one
        another.

    Raises
    ------
    InputError
        When the simulator cannot take these inputs or cannot be sent to another process, or when it is a plain function
        that returns arrays without coordinates.
    DataError
        When the design holds a number that is not finite, a variable without a role, or a name that a table of runs
        cannot have.
    CampaignLocked
        When another process writes to the store.
    CampaignMismatch
        When the store has runs of this simulator with other outputs.
    CampaignStopped
        When more runs failed than `failures` allows. Its attribute `ensemble` holds the results so far.
    KeyboardInterrupt
        When you press Ctrl+C. The message states how many runs are stored; repeat the call to continue.
    StorageError
        When the store cannot be written. Runs that were stored before are safe.

    Warns
    -----
    DataWarning
        When runs did not complete, and when the store has runs of a simulator with this name that has changed since.

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
    # An empty table is made first: what a table cannot hold is an error before the first run.
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
    """The runs of one call: the records that are known, and the loop that runs the missing points."""

    def __init__(
        self, plan: Plan, policy: FailurePolicy, retry_failed: bool, progress: bool | None, collect: bool
    ) -> None:
        self.plan = plan
        self.policy = policy
        self.retry_failed = retry_failed
        self.progress = progress
        self.collect = collect
        self.rows: dict[bytes, int] = {}  # the first row of each run, by its key
        for row, key in enumerate(plan.keys):
            self.rows.setdefault(key, row)
        self.found: dict[bytes, Record] = {}
        self.tried: dict[
            bytes, Record | None
        ] = {}  # runs that this call has started, with the record of the last attempt
        self.failed = 0
        self.first = ""  # message of the first run that failed
        self.outputs: dict[str, Array] = {}

    def finish(self, store: RunStore | None, about: dict[str, str], backend: "Opener") -> str:
        """Run the missing points; return the reason if the campaign stopped early, else an empty string."""
        if store is not None:
            with store.moment():
                self._read(store)
                if not self._pending() or self._too_many():
                    self._collect(store)
                    return self._stopped()
        with nullcontext() if store is None else store.lease():
            if store is not None:
                store.register(self.plan.campaign, {**about, "runs": digest(self.rows)})
                self._read(store)  # another process may have stored runs since the first reading
                self._warn_of_relatives(store)
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
        """Return the first row of each run that is still missing."""
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
            f"{self.policy.stop_above:g} allows; {idle} runs were not started. The first run that failed: "
            f"{self.first}. The results so far are in the attribute `ensemble` of this error, and in the store if you "
            "gave one. Correct the cause, then call run(..., retry_failed=True)."
        )

    def _warn_of_relatives(self, store: RunStore) -> None:
        if not store.has_runs(self.plan.campaign) and (others := store.relatives(self.plan.campaign)):
            warnings.warn(
                f"{store.path} has {others} runs of {self.plan.campaign.name!r} that are not used: the code, settings, "
                "outputs or coordinates of the simulator have changed since, so it counts as another simulator and all "
                "points run again. To control this yourself, pass version='...' to the simulator, and change the "
                "version only when the results change.",
                DataWarning,
                skip_file_prefixes=PACKAGE,
            )

    @contextmanager
    def _bar(self, pending: int) -> Iterator["tqdm[None]"]:
        # With None, tqdm shows the bar only if standard error is a terminal.
        disable = None if self.progress is None else not self.progress
        total = len(self.rows)
        with tqdm(total=total, initial=total - pending, unit="run", disable=disable, smoothing=0.1) as bar:
            yield bar

    def _drive(self, backend: Backend, pending: Sequence[int], store: RunStore | None, bar: "tqdm[None]") -> None:
        """Submit points, store records, try failed runs again as the policy allows, and stop if too many fail."""
        ready: deque[int] = deque(pending)
        later: list[tuple[float, int]] = []  # times of further attempts, with their rows
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
        """Store runs that ended together in one transaction, and remember their records."""
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
        """Return whether a new attempt gave no outputs where the store has some outputs of the run."""
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
        """Return the message of an interrupted call: how many runs are stored or lost."""
        done, total = sum(key in self.found for key in self.rows), len(self.rows)
        if store is None:
            return (
                f"{done} of {total} runs had ended and are lost; with run(..., store='runs.db') every run is saved as "
                "soon as it ends."
            )
        return f"{done} of {total} runs are stored in {store.path.name}; repeat the call to continue."

    def records(self) -> list[Record]:
        """Return the record of every row; rows that were not run get a record in the state "planned"."""
        return [self.found.get(key) or self._broken_off(key) for key in self.plan.keys]

    def _broken_off(self, key: bytes) -> Record:
        if key not in self.tried:
            return _PLANNED
        last = self.tried[key]
        if last is None:
            return replace(_PLANNED, message="stopped before it ended, since too many other runs failed")
        return replace(
            _PLANNED, message=f"not tried again, since too many other runs failed; the last attempt: {last.message}"
        )

    def _collect(self, store: RunStore | None) -> None:
        """Collect the outputs of every row, with NaN for missing outputs."""
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
            f"workers is {workers!r}; give a number of processes, 0 to run in this process, None for one process per "
            "core, or a distributed.Client."
        )
    if not collect and store is None:
        raise InputError(
            "collect=False leaves the outputs in the run store, but store is None; give a path: "
            "run(..., store='runs.db', collect=False)."
        )
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
        raise InputError(f"timeout is {timeout!r}; give a number of seconds above 0, or None for no timeout.")
    if workers == 0:
        raise InputError(
            f"timeout is {timeout!r} but workers is 0: the simulator then runs in this process, where it cannot be "
            "stopped; use workers=1, or timeout=None."
        )


def _check_order(simulator: object, design: object) -> None:
    """Raise if the arguments are swapped, or `simulator` is not a simulator.

    Raises
    ------
    InputError
        The message shows the correct call.
    """
    table = isinstance(simulator, xr.Dataset | pd.DataFrame | Mapping)
    if table and (callable(design) or isinstance(design, Simulator)):
        raise InputError("run: simulator and design are swapped; call uq.run(simulator, design).")
    if isinstance(simulator, type) or not (isinstance(simulator, Simulator) or callable(simulator)):
        what = f"the class {simulator.__name__}" if isinstance(simulator, type) else f"a {type(simulator).__name__}"
        if hasattr(simulator, "predict"):
            raise InputError(
                f"run: simulator is {what}, which has a method predict; call surrogate.predict(points) instead of run."
            )
        raise InputError(
            f"run: simulator is {what}; give a Python function, uq.FunctionSimulator(function, outputs=...), "
            "uq.ExecutableSimulator(...) or uq.UMBridgeSimulator(...)."
        )
    if isinstance(design, ParameterSpace | int | float):
        raise InputError(
            f"run: design is a {type(design).__name__}; give the points at which to run, for example a Sobol design "
            "over the space: uq.run(simulator, uq.sobol(space, 64, rng=1))."
        )
    if hasattr(design, "best") and hasattr(design, "table"):
        raise InputError(
            f"run: design is a {type(design).__name__}, a plan of measurements, which are made, not run. Points for "
            "the simulator are uq.next_runs(posterior, n).design."
        )
    if hasattr(design, "designs"):
        raise InputError(
            f"run: design is a {type(design).__name__}; its points are plan.design, or plan.designs[name] where there "
            "are several kinds of runs: uq.run(simulator, plan.design)."
        )


def _can_work(workers: object) -> bool:
    package = type(workers).__module__
    return workers is None or isinstance(workers, int) or package.split(".")[0] == "distributed" or package == _DASK


def _about(design: object, rng: int | None) -> dict[str, str]:
    """Return the attributes that are stored with the runs, so that an ensemble can be made without this script."""
    attrs = design.attrs if isinstance(design, xr.Dataset) else {}
    about = {key: str(attrs[key]) for key in ("space", "box", "design") if key in attrs}
    return about if rng is None else {**about, "rng": str(rng)}


def _report(records: Sequence[Record]) -> None:
    """Warn of runs that did not complete, with the message of the first run in each state."""
    counts = Counter(record.state for record in records)
    lost = len(records) - counts[RunState.COMPLETED]
    if not lost:
        return
    kinds = []
    for state in (RunState.FAILED, RunState.TIMEOUT, RunState.INVALID, RunState.PARTIAL):
        rows = [row for row, record in enumerate(records) if record.state == state]
        if rows:
            kinds.append(f"{len(rows)} {state} (run {rows[0]}: {records[rows[0]].message})")
    warnings.warn(
        f"{lost} of {len(records)} runs did not complete: {'; '.join(kinds)}. How each run ended is in "
        "ensemble['state'], and why in ensemble['message']. Surrogates use the outputs that the runs gave. "
        "To run the failed runs again, call run(..., retry_failed=True).",
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
    if isinstance(design, xr.Dataset):  # its attributes describe the columns
        inputs = design.isel(run=plan.origin)
    states = [record.state for record in records]
    ensemble = build(
        inputs,
        table or {"_": np.zeros(len(records))},  # `build` requires an output; this placeholder is removed below
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
        ended = state_words(states, len(states))
        ensemble = ensemble.drop_vars("_").assign(state=ensemble["state"].copy(data=ended))
    return ensemble if rng is None else ensemble.assign_attrs(rng=str(rng))
