"""Coordinators that are killed with SIGKILL at named points and at random times, and what is left of their campaigns.

Imported by the tests (50 kills) and by ``kill_campaign.py`` (more of them). One helper process imports the library
once, and every victim is forked from it. A victim runs 20 points of 1 ms in its own process with a run store. Each call
of the simulator leaves a line in a file, and so does each run whose `put` has returned: it is acknowledged. After the
kill the same campaign is called again until it ends::

    with Helper() as helper:
        reference = whole(helper, folder / "whole")
        outcomes = [kill_once(helper, kill, folder / str(i), reference) for i, kill in enumerate(kills(300))]
"""

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["POINTS", "Helper", "Kill", "Outcome", "kill_once", "kills", "whole"]

RUNS, HALF = 20, 10
FAILING = (7, 15)

# Point -> what has been done before the victim begins ("old": in a store of format 1), and what the victim does.
POINTS = {
    "while the file is made": ("", "run"),
    "before register": ("", "run"),
    "after register": ("", "run"),
    "before encode": ("", "run"),
    "in the middle of encode": ("half", "run"),
    "after INSERT, before COMMIT": ("", "run"),
    "after COMMIT, before put returns": ("half", "run"),
    "in kept of a resumed campaign": ("half", "run"),
    "in the middle of an upgrade": ("old", "run"),
    "before COMMIT of an upgrade": ("old", "run"),
    "between writing and renaming an export": ("run", "export"),
    "before COMMIT of an invalidation": ("run", "invalidate"),
}
_OFTEN = ("before encode", "in the middle of encode", "after INSERT, before COMMIT", "after COMMIT, before put returns")


@dataclass(frozen=True)
class Kill:
    """A kill at a named point, the nth time that it comes by; without a point at a random moment of the campaign.

    That is `delay` seconds after so many calls of the simulator, whatever the speed of the machine.
    """

    point: str | None
    nth: int = 0
    calls: int = 0
    delay: float = 0.0


def kills(number: int) -> list[Kill]:
    """Return as many kills, 14 of 50 at random times and the others at the named points in turn."""
    rng = np.random.default_rng(1)
    random = round(number * 14 / 50)
    named = []
    for i in range(number - random):
        point, turn = tuple(POINTS)[i % len(POINTS)], i // len(POINTS)
        often = {"in the middle of an upgrade": turn % HALF, "in kept of a resumed campaign": turn % 2}
        named.append(Kill(point, nth=4 * turn % 9 if point in _OFTEN else often.get(point, 0)))
    moments = zip(rng.integers(0, RUNS, random), rng.uniform(0.0, 0.01, random), strict=True)
    return [*named, *(Kill(None, calls=int(calls), delay=float(delay)) for calls, delay in moments)]


@dataclass(frozen=True)
class Outcome:
    """What one kill did; all but the first two are meant to be 0."""

    killed: bool
    acknowledged: int
    lost: int  # acknowledged runs that were not in the store
    repeated: int  # acknowledged runs that ran again
    duplicates: int  # rows with the same inputs, or rows too many or too few
    damaged: int  # checks that failed; upgrades and exports that were half done; campaigns that could not go on
    differs: int  # variables that are not those of an uninterrupted run


# ------------------------------------------------------------------------------------------------------------- victims
def _line(folder: Path, name: str, words: object) -> None:
    handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(handle, f"{words}\n".encode())
    os.close(handle)


def _lines(folder: Path, name: str) -> list[int]:
    path = folder / name
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def _given(a: float, b: float) -> dict[str, object]:
    return {"y": a / 3, "c": [a, b, 1e-300]}


def _simulator(folder: Path) -> Any:
    from uqms.simulators import FunctionSimulator

    def model(a: float, b: float) -> dict[str, object]:
        _line(folder, "calls", int(a))
        time.sleep(0.001)
        if a in FAILING:
            raise ValueError("no root")
        return _given(a, b)

    outputs = {"y": (), "c": ("day",)}
    return FunctionSimulator(model, outputs=outputs, coords={"day": [0.0, 0.1, 3.0]}, version="1", name="victim")


def _work(job: str, folder: Path) -> None:
    """Do what a coordinator does."""
    from uqms.ensemble import to_netcdf
    from uqms.runs import RunStore, run

    warnings.simplefilter("ignore")  # that runs failed
    store = folder / "runs.db"
    if job == "old":
        _write_format_1(folder)
    elif job == "export":
        with RunStore(store, readonly=True) as opened:
            opened.export(folder / "export.csv")
    elif job == "invalidate":
        with RunStore(store) as opened:
            opened.invalidate(state="completed")
    else:
        a = np.arange(float(RUNS if job == "run" else HALF))
        table = run(_simulator(folder), {"b": -0.5 * a, "a": a}, store, workers=0, progress=False)
        to_netcdf(table, folder / "table.nc")


def _write_format_1(folder: Path) -> None:
    """Leave a store with half of the runs as an older uqms wrote it."""
    simulator = _simulator(folder)
    identity = json.dumps(simulator.identity, sort_keys=True, separators=(",", ":"))
    identifier = hashlib.sha256(identity.encode()).hexdigest()
    outputs = {"y": {"dims": [], "shape": [], "unit": ""}, "c": {"dims": ["day"], "shape": [3], "unit": ""}}
    layout = json.dumps({"outputs": outputs, "coords": {"day": [0.0, 0.1, 3.0]}})
    with closing(sqlite3.connect(folder / "runs.db")) as db, db:
        db.execute("CREATE TABLE simulators (id TEXT PRIMARY KEY, identity TEXT NOT NULL, layout TEXT NOT NULL)")
        db.execute(
            "CREATE TABLE runs (key TEXT PRIMARY KEY, simulator TEXT NOT NULL REFERENCES simulators (id), point TEXT, "
            "state INTEGER, seconds REAL, message TEXT, ended TEXT, outputs BLOB, checksum BLOB)"
        )
        db.execute("INSERT INTO simulators VALUES (?, ?, ?)", (identifier, identity, layout))
        for a in map(float, range(HALF)):
            point = json.dumps({"a": a.hex(), "b": (-0.5 * a + 0.0).hex()}, separators=(",", ":"))
            key = hashlib.sha256(f"{identifier}\n{point}".encode()).hexdigest()
            blob = np.array([a / 3, a, -0.5 * a, 1e-300], dtype="<f8").tobytes()
            row: tuple[object, ...] = (1, 0.1, "", "2026-01-01T00:00:00.000+00:00", blob, hashlib.sha256(blob).digest())
            if a in FAILING:
                row = (2, 0.1, "ValueError: no root", "2026-01-01T00:00:00.000+00:00", None, None)
            db.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (key, identifier, point, *row))
            _line(folder, "acknowledged", int(a))
        db.execute(f"PRAGMA application_id = {0x75716D73}")
        db.execute("PRAGMA user_version = 1")


# ---------------------------------------------------------------------------- the library changed in a victim's process
def _acknowledge(folder: Path, plant: str | None) -> None:
    """Leave a line for each run whose put has returned; `plant` breaks the library in a way that must be seen."""
    from uqms.runs import connection
    from uqms.runs.store import RunStore

    put = RunStore.put

    def told(store: Any, campaign: Any, rows: Any) -> None:
        if plant != "acknowledged early":
            put(store, campaign, rows)
        for row in rows:
            _line(folder, "acknowledged", int(row.x[campaign.inputs.index("a")]))
        if plant == "acknowledged early":
            put(store, campaign, rows)

    RunStore.put = told  # type: ignore[method-assign]
    if plant == "nothing is found":
        RunStore.kept = lambda store, campaign, keys=None: {}  # type: ignore[method-assign, misc]
    if plant == "no transaction":
        connection.transaction = lambda db: nullcontext()


def _arm(point: str, nth: int) -> None:
    """Change the library in this process so that it dies at a point."""
    from uqms.ensemble import netcdf
    from uqms.runs import connection, format, store, upgrade

    passed = iter(range(10**9))

    def due() -> None:
        if next(passed) == nth:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60.0)

    def call(owner: Any, name: str, after: bool = False) -> None:
        function = getattr(owner, name)

        def dying(*args: Any, **options: Any) -> Any:
            if not after:
                due()
            result = function(*args, **options)
            if after:
                due()
            return result

        setattr(owner, name, dying)

    def commit(owner: Any, statement: str, after: bool = False) -> None:
        owner.transaction = _dying_transaction(connection.transaction, statement, after, due)

    arms: dict[str, Callable[[], None]] = {
        "while the file is made": lambda: commit(connection, "CREATE"),
        "before register": lambda: call(store.RunStore, "register"),
        "after register": lambda: call(store.RunStore, "register", after=True),
        "before encode": lambda: call(store, "_encode"),
        "in the middle of encode": lambda: call(format.Layout, "encode", after=True),
        "after INSERT, before COMMIT": lambda: commit(store, "INSERT INTO runs"),
        "after COMMIT, before put returns": lambda: commit(store, "INSERT INTO runs", after=True),
        "in kept of a resumed campaign": lambda: call(store.RunStore, "kept", after=True),
        "in the middle of an upgrade": lambda: call(upgrade.Converter, "insert"),
        "before COMMIT of an upgrade": lambda: commit(connection, "ALTER"),
        "between writing and renaming an export": lambda: call(netcdf, "_make_permanent"),
        "before COMMIT of an invalidation": lambda: commit(store, "DELETE"),
    }
    arms[point]()


def _dying_transaction(real: Any, statement: str, after: bool, due: Callable[[], None]) -> Any:
    """Return a `transaction` that dies just before or just after the COMMIT of one that begins with a statement."""

    @contextmanager
    def transaction(db: sqlite3.Connection) -> Iterator[None]:
        seen: list[bool] = []

        def trace(text: str) -> None:
            if text == "COMMIT" and any(seen) and not after:
                due()  # SQLite tells of a statement before it does it
            seen.append(text.startswith(statement))

        db.set_trace_callback(trace)
        with real(db):
            yield
        db.set_trace_callback(None)
        if any(seen) and after:
            due()

    return transaction


# -------------------------------------------------------------------------------------------------------------- helper
def _serve() -> None:
    """Fork a victim for every line that comes in, and say how it ended."""
    with tempfile.TemporaryDirectory() as name:
        for job in ("half", "export", "invalidate"):  # loads what victims need, once for all of them
            _work(job, Path(name))
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # pandas has a thread
    for line in sys.stdin:
        said = json.loads(line)
        folder = Path(said["folder"])
        pid = os.fork()
        if not pid:
            signal.alarm(60)
            try:
                _acknowledge(folder, said["plant"])
                if said["point"]:
                    _arm(said["point"], said["nth"])
                _work(said["job"], folder)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        if said["calls"] is not None:
            ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
            while len(_lines(folder, "calls")) < said["calls"] and os.waitid(os.P_PID, pid, ended) is None:
                time.sleep(0.0003)
            time.sleep(said["delay"])
            os.kill(pid, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


class Helper:
    """The process from which victims are forked."""

    def __enter__(self) -> Self:
        """Start it."""
        threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}  # a fork has one thread
        root = Path(__file__).resolve().parent.parent
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **threads, "PYTHONPATH": str(root)},
        )
        return self

    def __exit__(self, *error: object) -> None:
        """End it."""
        self.process.communicate()

    def do(self, job: str, folder: Path, kill: Kill | None = None, plant: str | None = None) -> int:
        """Let a process do a job and return its exit code, which is minus the signal that ended it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        said: dict[str, object] = {"job": job, "folder": str(folder), "plant": plant}
        said |= {"point": None, "nth": 0, "calls": None} if kill is None else vars(kill)
        if kill is not None and kill.point is not None:
            said["calls"] = None
        self.process.stdin.write(f"{json.dumps(said)}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


# --------------------------------------------------------------------------------------------------------------- judge
def whole(helper: Helper, folder: Path) -> "xr.Dataset":
    """Return the table of an uninterrupted campaign."""
    from uqms.ensemble import from_netcdf

    folder.mkdir()
    status = helper.do("run", folder)
    if status:
        raise RuntimeError(f"an uninterrupted campaign ended with {status}")
    return from_netcdf(folder / "table.nc")


def kill_once(helper: Helper, kill: Kill, folder: Path, reference: "xr.Dataset", plant: str | None = None) -> Outcome:
    """Kill a coordinator, look at what is left, let the campaign go on to its end and judge."""
    folder.mkdir()
    before, job = ("", "run") if kill.point is None else POINTS[kill.point]
    if before:
        helper.do(before, folder)
    (folder / "export.csv").write_text("old")
    status = helper.do(job, folder, kill, plant)
    acknowledged = set(_lines(folder, "acknowledged"))
    present = _present(folder)
    damaged = int((folder / "export.csv").read_text() != "old")
    damaged += before == "old" and _ask(folder, "PRAGMA user_version") != [(1,)]
    calls = Counter(_lines(folder, "calls"))
    damaged += helper.do("run", folder, plant=plant if plant == "nothing is found" else None) != 0
    again = Counter(_lines(folder, "calls")) - calls
    rows = _ask(folder, "SELECT count(*), count(DISTINCT x) FROM runs") if not damaged else [(RUNS, RUNS)]
    return Outcome(
        status == -signal.SIGKILL,
        len(acknowledged),
        len(acknowledged - present),
        len(acknowledged & set(again)),
        abs(rows[0][0] - RUNS) + rows[0][0] - rows[0][1],
        damaged + _unsound(folder),
        _differences(folder, reference),
    )


def _present(folder: Path) -> set[int]:
    """Return the runs that are in the store."""
    from uqms.errors import FileError
    from uqms.runs import RunStore

    try:
        with RunStore(folder / "runs.db", readonly=True) as store:
            return set(store.runs()["a"].astype(int)) if len(store) else set()
    except FileError:  # killed before there was one
        return set()


def _ask(folder: Path, query: str) -> list[tuple[int, ...]]:
    with closing(sqlite3.connect(folder / "runs.db")) as db:
        return db.execute(query).fetchall()


def _unsound(folder: Path) -> int:
    from uqms.errors import FileError
    from uqms.runs import RunStore

    try:
        with RunStore(folder / "runs.db", readonly=True) as store:
            store.integrity_check()
    except FileError:
        return 1
    return 0


def _differences(folder: Path, reference: "xr.Dataset") -> int:
    from uqms.ensemble import from_netcdf
    from uqms.errors import FileError

    names = ("a", "b", "y", "c", "state")
    try:
        table = from_netcdf(folder / "table.nc")
    except (FileError, FileNotFoundError):
        return len(names)
    return sum(not table[name].identical(reference[name]) for name in names)


if __name__ == "__main__":
    _serve()
