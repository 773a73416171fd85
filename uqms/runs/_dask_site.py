"""The part of a campaign that runs on the machines of a Dask cluster. Importing it requires `distributed`.

Dask has no deadlines for tasks and cannot stop a thread, and a segmentation fault in a task ends the whole Dask worker.
So the threads of a Dask worker do not run the simulator themselves. Each thread starts a worker process, the same kind
of process that a campaign on one machine uses, and waits for it.
"""

import asyncio
import json
import math
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import process
from typing import Any, final

from distributed import SchedulerPlugin, WorkerPlugin, get_worker
from distributed.scheduler import heartbeat_interval

from uqms.runs.pool import Local, Point
from uqms.runs.records import Record
from uqms.simulators.marked_process import Context, MarkedProcess

__all__ = ["Herald", "Site", "crew", "evaluate"]

_FULL = 0.25  # seconds after which a task starts no further point
_READY = 4  # points that a process runs, or has in its queue
_LOOK = 0.25  # seconds between checks whether the campaign still waits for a run
_BEATS = 10  # heartbeats that a Dask worker may miss before it gets no more points


def evaluate(campaign: str, points: str) -> dict[int, Record]:
    """Run points (a JSON list) on this Dask worker, one after the other, for a limited time; return their records."""
    worker: Any = get_worker()
    site: Site = worker.plugins[campaign]
    return site.evaluate(worker.get_current_task(), json.loads(points))


class _Unwanted(Exception):
    """The campaign no longer waits for a run."""


@final
class Site(WorkerPlugin):  # type: ignore[misc, unused-ignore]
    """The processes of one campaign on one Dask worker.

    Dask sends this plugin to every worker, including workers that join later, so each worker gets the simulator once.
    When the campaign has ended, Dask removes the plugin and its processes.
    """

    def __init__(self, payload: bytes, timeout: float | None) -> None:
        self.payload = payload
        self.timeout = timeout

    def setup(self, worker: Any) -> None:
        """Prepare a worker; its processes start with the first points."""
        self._changed = threading.Condition()
        self._idle: list[Local] = []
        self._busy = 0
        self._wanted: set[str] = set()
        self._open = True

    async def teardown(self, worker: Any) -> None:
        """End all processes, since the campaign or the worker has ended."""
        await asyncio.to_thread(self._close)

    def transition(self, key: Any, start: str, finish: str, **more: Any) -> None:
        """Note that the campaign no longer waits for a run, which Dask itself does not stop."""
        if start == "executing" and finish == "released":
            self._wanted.discard(key)

    def evaluate(self, key: str, points: Sequence[Point]) -> dict[int, Record]:
        """Run points in one process for at most `_FULL` seconds; return records by the position of their point."""
        records: dict[int, Record] = {}
        sent, full = 0, math.inf
        with suppress(_Unwanted), self._process(key) as local:
            while len(records) < sent or (sent < len(points) and time.monotonic() < full):
                for _ in range(min(local.free(), _READY - (sent - len(records)), len(points) - sent)):
                    local.submit(sent, points[sent])
                    sent += 1
                records.update(local.ended(_LOOK))
                if records and full == math.inf:  # the first point may include the start of the process
                    full = time.monotonic() + _FULL
                if key not in self._wanted:
                    raise _Unwanted
        return records

    @contextmanager
    def _process(self, key: str) -> Iterator[Local]:
        """Yield a process to a thread. It ends if the block raises an error; otherwise the next task reuses it."""
        with self._changed:
            if not self._open:
                raise _Unwanted
            local = self._idle.pop() if self._idle else Local(self.payload, 1, self.timeout, _Context()).__enter__()
            self._busy += 1
            self._wanted.add(key)
        sound = False
        try:
            yield local
            sound = True
        finally:
            if not sound:
                local.__exit__(None, None, None)
            with self._changed:
                self._wanted.discard(key)
                self._busy -= 1
                self._idle += [local] * sound
                self._changed.notify_all()

    def _close(self) -> None:
        with self._changed:
            self._open = False
            self._wanted.clear()
            self._changed.wait_for(lambda: not self._busy)
        with ThreadPoolExecutor() as threads:
            for local in self._idle:
                threads.submit(local.__exit__, None, None, None)
        self._idle.clear()


def crew(dask_scheduler: Any) -> tuple[dict[str, int], int]:
    """Return the number of threads by running worker, and the number of workers that send no heartbeat any more.

    Dask calls this function on the scheduler.
    """
    running = {address: worker for address, worker in dask_scheduler.workers.items() if worker.status.name == "running"}
    latest = time.time() - _BEATS * heartbeat_interval(len(dask_scheduler.workers))
    threads = {address: worker.nthreads for address, worker in running.items() if worker.last_seen > latest}
    return threads, len(running) - len(threads)


@final
class Herald(SchedulerPlugin):  # type: ignore[misc, unused-ignore]
    """Plugin of the scheduler that reports a lost task at once, and cleans up when the campaign's process dies."""

    def __init__(self, campaign: str, client: str) -> None:
        self.campaign = campaign
        self.client = client

    def update_graph(self, scheduler: Any, *, keys: Any, **more: Any) -> None:
        """Let tasks of this campaign fail with their worker.

        By default Dask would start them again, and count the loss against all tasks of that worker.
        """
        for key in keys:
            if str(key).startswith(self.campaign):
                scheduler.tasks[key].suspicious = scheduler.allowed_failures

    def remove_client(self, scheduler: Any, client: str) -> None:
        """End the campaign on all workers when the process that started it has disappeared."""
        if client == self.client and self.campaign in scheduler.worker_plugins:
            scheduler.loop.add_callback(self._end, scheduler)

    async def _end(self, scheduler: Any) -> None:
        await scheduler.unregister_worker_plugin(None, self.campaign)
        await scheduler.unregister_scheduler_plugin(self.campaign)


class _Process(MarkedProcess):
    """A process that a daemonic process may start.

    Dask's nanny runs its workers as daemonic processes. multiprocessing forbids these to start processes, which could
    be orphaned. Processes of this class watch their parent and end with it, so the flag that forbids them is removed
    while a process starts. The flag belongs to the current process only; Dask's configuration does not change.
    """

    _starting = threading.Lock()

    def start(self) -> None:
        config = process.current_process()._config  # type: ignore[attr-defined, unused-ignore]
        with self._starting:
            daemon = config.pop("daemon", None)
            try:
                super().start()
            finally:
                if daemon is not None:
                    config["daemon"] = daemon


class _Context(Context):
    kind = _Process
