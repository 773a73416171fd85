"""Run the points of a campaign on a Dask cluster, on one machine or many.

The cluster only runs points. The results are stored by this process, in the run store. A point that is lost with a Dask
worker is sent again, alone, at most a few times. A task that has not returned long after its deadline counts as lost
too, whatever state the scheduler reports. Few points are on the cluster at a time, so the load of the scheduler does
not depend on the length of the campaign.
"""

import importlib.util
import json
import logging
import math
import queue
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, final

from uqms._teaching import taught
from uqms.errors import CampaignError, InputError, UqmsError
from uqms.runs._dask_checks import check_connection, check_versions
from uqms.runs.pool import Pace, Point, size_of
from uqms.runs.records import Record

__all__ = ["Dask", "DaskBackend"]

_logger = logging.getLogger(__name__)

_AHEAD = 0.1  # seconds of work in one task of a fast simulator
_LEAST_TASKS = 16  # tasks on the cluster at a time, at least, so that an adaptive cluster starts workers
_LOSSES = 3  # lost Dask workers after which a point counts as the cause, and its run as failed
_TURN = 1.0  # seconds between two checks of the cluster
_SILENCE = 300.0  # seconds without an answer after which the scheduler counts as lost; Dask waits as long for a worker
_PATIENCE = 60.0  # seconds after its deadline when a task counts as lost
_ASTRAY = 5.0  # seconds after which a task for workers that have left is sent to other workers
_FAREWELL = 5.0  # seconds that the end of a campaign waits for the workers to end their processes


@taught
@final
@dataclass(frozen=True)
class Dask:
    """A Dask cluster that runs the points of a campaign.

    ``uq.run(..., workers=client)`` is enough if the connection is safe: the cluster is on this machine alone, or uses
    TLS. Anyone who can reach an open port of Dask can run any code under your name. So other clusters are refused,
    unless you declare with `unencrypted` that no stranger can reach your network.

    Parameters
    ----------
    client
        A `distributed.Client`.
    unencrypted
        Accept connections between machines without TLS.

    Raises
    ------
    InputError
        When `client` is not a `distributed.Client`, is asynchronous or has been closed.

    Examples
    --------
    >>> Dask("tcp://10.0.0.5:8786")
    Traceback (most recent call last):
    uqms.errors.InputError: client is 'tcp://10.0.0.5:8786'; give a distributed.Client that is connected to it.
    """

    client: Any
    unencrypted: bool = field(kw_only=True, default=False)

    def __post_init__(self) -> None:
        if importlib.util.find_spec("distributed") is None:
            raise InputError(
                'a Dask cluster needs the package distributed, which is not installed: pip install "uqms[dask]".'
            )
        from distributed import Client

        if not isinstance(self.client, Client):
            raise InputError(f"client is {self.client!r}; give a distributed.Client that is connected to it.")
        if self.client.asynchronous:
            raise InputError(
                "the Dask client is asynchronous, but a synchronous client is required; make one: "
                "Client(cluster, asynchronous=False)."
            )
        if self.client.status != "running":
            raise InputError(
                f"the Dask client is {self.client.status}, but a running client is required; make one: Client(cluster)."
            )


@dataclass(eq=False)
class _Run:
    """A point that is sent to the cluster, and the number of Dask workers that were lost with it."""

    ticket: int
    point: Point
    losses: int = 0


@final
@dataclass(eq=False)
class _Task:
    """A Dask task that runs one or several points."""

    future: Any
    runs: Sequence[_Run]
    since: float  # when it was sent, on the clock that stands still while there are no workers
    ahead: int  # number of tasks sent before it that had not returned
    alone: str | None = None  # the worker that runs this suspect; it gets no other suspect meanwhile
    workers: Sequence[str] = ()  # the workers that may run it; empty: any worker


@final
class DaskBackend:
    """Backend that runs points on a Dask cluster, in separate processes on its workers (see `Backend`).

    Parameters
    ----------
    cluster
        The cluster, or its client.
    payload
        The simulator, pickled by cloudpickle.
    timeout
        Seconds for one run, or None.

    Raises
    ------
    InputError
        On entering the block, when others could reach the cluster, or when its versions differ from those used here.
    CampaignError
        When the scheduler has ended or does not answer.
    """

    def __init__(self, cluster: Any, payload: bytes, timeout: float | None) -> None:
        self._cluster = cluster if isinstance(cluster, Dask) else Dask(cluster)
        self._client = self._cluster.client
        self._payload = payload
        self._timeout = timeout
        self._name = f"uqms-0{uuid.uuid4().hex[:11]}"  # because of the digit, Dask groups such tasks under "uqms"
        self._told: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._fresh: deque[_Run] = deque()
        self._lost: deque[_Run] = deque()
        self._tasks: dict[str, _Task] = {}
        self._sent = 0
        self._pace = Pace(1)
        self._threads: Mapping[str, int] = {}
        self._silent = 0
        self._alone = False
        self._clock = 0.0
        self._looked = self._answered = 0.0
        self._asking = False

    def __enter__(self) -> Self:
        from uqms.runs._dask_site import Herald, Site, crew

        if not self._cluster.unencrypted:
            check_connection(self._client)
        check_versions(self._client)
        try:
            self._client.register_plugin(Herald(self._name, self._client.id), name=self._name)
            self._client.register_plugin(Site(self._payload, self._timeout), name=self._name)
            self._set_crew(*self._client.run_on_scheduler(crew))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self._looked = self._answered = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._client.status != "running":
            return
        try:
            self._client.sync(self._leave, callback_timeout=_FAREWELL)
        except Exception as trouble:  # the campaign has ended; an error of Dask while cleaning up must not fail it
            _logger.warning(
                "worker processes of this campaign may still run on the Dask cluster, since it could not be cleaned up "
                "(%s: %s); they end with the Dask workers",
                type(trouble).__name__,
                trouble,
            )

    async def _leave(self) -> None:
        await self._client.cancel([task.future for task in self._tasks.values()])
        await self._client.unregister_scheduler_plugin(self._name)
        await self._client.unregister_worker_plugin(self._name)

    # ------------------------------------------------------------------------------------------------------- points out
    def free(self) -> int:
        """Return how many more points this backend takes now."""
        tasks = max(2 * sum(self._threads.values()), _LEAST_TASKS)
        out = len(self._fresh) + len(self._lost) + sum(len(task.runs) for task in self._tasks.values())
        return max(0, tasks * self._points - out)

    @property
    def _points(self) -> int:
        """Number of points in one task: 1, or more for a fast simulator."""
        return max(1, self._pace.ahead(_AHEAD, 2 * max(1, sum(self._threads.values()))))

    def submit(self, ticket: int, point: Point) -> None:
        """Take a point, which the next call of `ended` sends to the cluster."""
        self._fresh.append(_Run(ticket, point))

    def _send(self) -> None:
        groups: list[list[_Run]] = []
        suspects: list[_Run] = []
        while self._lost:
            run = self._lost.popleft()
            (groups.append([run]) if run.losses < _LOSSES - 1 else suspects.append(run))
        while self._fresh:
            groups.append([self._fresh.popleft() for _ in range(min(self._points, len(self._fresh)))])
        if groups:
            self._keep(groups)
        # With one more loss, a suspect counts as failed. So one worker never runs two suspects: the loss of the worker
        # would be counted against both.
        taken = {task.alone for task in self._tasks.values()}
        for worker in [worker for worker in self._threads if worker not in taken][: len(suspects)]:
            self._keep([[suspects.pop()]], worker)
        self._lost.extend(suspects)

    def _keep(self, groups: Sequence[Sequence[_Run]], alone: str | None = None) -> None:
        """Send tasks to the cluster, and remember them until they return."""
        from uqms.runs._dask_site import evaluate

        first, self._sent = self._sent, self._sent + len(groups)
        keys = [f"{self._name}-{number}" for number in range(first, self._sent)]
        # The points are sent as one text, since Dask would search every list and mapping for other tasks.
        points = [json.dumps([dict(run.point) for run in runs]) for runs in groups]
        # The scheduler sends tasks to a worker without heartbeats, which seems idle, until it declares it dead minutes
        # later. So tasks are restricted to the workers that do send heartbeats.
        workers = [alone] if alone else list(self._threads) if self._silent else []
        names = [self._name] * len(keys)
        futures = self._client.map(evaluate, names, points, key=keys, pure=False, retries=0, workers=workers or None)
        for runs, future in zip(groups, futures, strict=True):
            self._tasks[future.key] = _Task(future, runs, self._clock, len(self._tasks), alone, workers)
            self._client.loop.add_callback(self._fetch, future)

    async def _fetch(self, future: Any) -> None:
        """Wait for a task, on the thread of the client."""
        try:
            result = await future
        except BaseException as error:  # every outcome is reported, also that the task was cancelled
            result = error.with_traceback(None)  # the traceback would keep the task on the cluster
        self._told.put((future.key, result))

    # ----------------------------------------------------------------------------------------------------- records back
    def ended(self, timeout: float | None) -> list[tuple[int, Record]]:
        """Wait at most `timeout` seconds until a run has ended, and return all runs that have ended, possibly none."""
        self._send()
        ended: list[tuple[int, Record]] = []
        try:
            wait = _TURN if timeout is None else min(timeout, _TURN)
            while True:
                what, told = self._told.get(timeout=wait)
                self._take(what, told, ended)
                wait = 0.0
        except queue.Empty:
            self._look(ended)
        return ended

    def _take(self, what: str, told: Any, ended: list[tuple[int, Record]]) -> None:
        if what == "crew":
            self._asking, self._answered = False, time.monotonic()
            self._set_crew(*told)
        elif (task := self._tasks.pop(what, None)) is not None:
            self._finish(task, told, ended)

    def _finish(self, task: _Task, told: Any, ended: list[tuple[int, Record]]) -> None:
        from distributed import KilledWorker

        if isinstance(told, UqmsError):
            raise told
        if isinstance(told, KilledWorker):
            left = told.last_worker.address
            self._threads = {worker: threads for worker, threads in self._threads.items() if worker != left}
            self._lose(task, f"the Dask worker {left} was lost", ended)
            return
        if isinstance(told, BaseException):
            self._lose(task, f"{type(told).__name__}: {told}", ended)
            return
        for number, record in told.items():
            ended.append((task.runs[number].ticket, record))
            self._pace.saw(record.seconds, size_of(record))
        # Points that the task did not start go to the front of the queue.
        self._fresh.extendleft(run for number, run in enumerate(task.runs) if number not in told)

    def _lose(self, task: _Task, reason: str, ended: list[tuple[int, Record]]) -> None:
        """Send the runs of a lost task again, each alone, or record them as failed after `_LOSSES` losses."""
        for run in task.runs:
            run.losses += 1
            if run.losses < _LOSSES:
                _logger.info("a run is sent to the Dask cluster again: %s", reason)
                self._lost.append(run)
                continue
            message = (
                f"SimulatorFailed: the run was lost {run.losses} times on the Dask cluster; the last time, {reason}"
            )
            ended.append((run.ticket, Record.failed(self._clock - task.since, message)))

    # ----------------------------------------------------------------------------------------------------- the cluster
    def _look(self, ended: list[tuple[int, Record]]) -> None:
        """Check from time to time whether the scheduler answers, and whether tasks are overdue."""
        if self._client.status != "running":
            raise CampaignError(
                f"the Dask scheduler is gone (its client is {self._client.status}) while {len(self._tasks)} tasks were "
                "running; start a new cluster and client, and repeat the call. Runs that had ended are in the store, "
                "if you gave one."
            )
        now = time.monotonic()
        if now - self._looked < _TURN:
            return
        self._clock += now - self._looked if self._threads else 0.0
        self._looked = now
        if now - self._answered > _SILENCE:
            raise CampaignError(
                f"the Dask scheduler has not answered for {_SILENCE:g} s; start a new cluster and client, and repeat "
                "the call. Runs that had ended are in the store, if you gave one."
            )
        if not self._asking:
            self._asking = True
            self._client.loop.add_callback(self._ask)
        for key, task in list(self._tasks.items()):
            age = self._clock - task.since
            if age > self._limit(task):
                self._client.cancel([self._tasks.pop(key).future])
                self._lose(task, f"its task had not returned {age:.0f} s after it was sent", ended)
            elif age > _ASTRAY and task.workers and not any(worker in self._threads for worker in task.workers):
                # All workers of this task left before they got it, and the scheduler would wait for them forever.
                self._client.cancel([self._tasks.pop(key).future])
                self._lost.extend(task.runs)

    def _limit(self, task: _Task) -> float:
        if self._timeout is None:
            return math.inf
        turns = 1 + task.ahead // max(1, sum(self._threads.values()))
        return turns * (self._timeout + 1.0) + _PATIENCE

    async def _ask(self) -> None:
        """Ask the scheduler for its workers, without blocking, since the scheduler may hang."""
        from uqms.runs._dask_site import crew

        try:
            self._told.put(("crew", await self._client.run_on_scheduler(crew)))
        except OSError as error:  # the connection broke; `_look` checks the status of the client
            _logger.info("the Dask scheduler did not answer: %s", error)
            self._asking = False

    def _set_crew(self, threads: Mapping[str, int], silent: int) -> None:
        if not threads and not self._alone:
            _logger.warning("the Dask cluster has no workers; the campaign waits until workers join")
        self._alone = not threads
        self._threads, self._silent = threads, silent
