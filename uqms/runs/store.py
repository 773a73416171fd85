"""The run store: one SQLite file that keeps every run as soon as it has ended.

Contract
--------
- A run that was acknowledged (`put` returned) is on the disk: write-ahead log, full synchronisation, one commit for
  each run. Killing the process, or the power, loses none of them.
- A run is found again by what it computes: SHA-256 of the simulator's identity and of its inputs, bit for bit. Several
  simulators may share a file.
- One process at a time writes (`lease`); any number of them read.
- Nothing is pickled: inputs are JSON of hexadecimal floats, outputs are little-endian float64 with their own checksum.
"""

import fcntl
import hashlib
import json
import math
import os
import socket
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import batched
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, final

import numpy as np

from uqms._typing import Array
from uqms.ensemble import RunState
from uqms.errors import CampaignLocked, FormatError, FormatVersionError, IntegrityError, StorageError
from uqms.runs.records import Record
from uqms.simulators import Simulator

__all__ = ["RunStore", "run_keys"]

_APPLICATION = 0x75716D73  # "uqms", where SQLite keeps what a file is for
_FORMAT = 1
_SCHEMA = """
CREATE TABLE simulators (
    id TEXT PRIMARY KEY,      -- SHA-256 of identity
    identity TEXT NOT NULL,   -- JSON
    layout TEXT NOT NULL      -- JSON: dims, shapes and units of the outputs in the order of runs.outputs, coordinates
);
CREATE TABLE runs (
    key TEXT PRIMARY KEY,     -- SHA-256 of simulator and point
    simulator TEXT NOT NULL REFERENCES simulators (id),
    point TEXT NOT NULL,      -- JSON: input -> hexadecimal float
    state INTEGER NOT NULL,   -- 1 completed, 2 failed, 3 timeout, 4 invalid
    seconds REAL NOT NULL,
    message TEXT NOT NULL,
    ended TEXT NOT NULL,      -- UTC
    outputs BLOB,             -- little-endian float64, one output after the other
    checksum BLOB             -- SHA-256 of outputs
);
"""


class _Part(NamedTuple):
    """Where one output lies among the numbers of a run."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int


@final
class RunStore:
    """Runs on disk, so that what has been computed is never computed again.

    `uqms.run` opens one when it gets a path. Open it yourself to count or to check what is in it.

    Parameters
    ----------
    path
        The SQLite file; it is made when it does not exist. Its folder must exist.

    Raises
    ------
    FormatError
        When the file is something else; `FormatVersionError` when a newer uqms made it.
    StorageError
        When it cannot be opened for writing.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, RunStore(folder + "/runs.db") as store:
    ...     store.integrity_check()
    ...     len(store)
    0
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with self._told():
            # A path that is a URI or a folder would be opened as something else than meant.
            self._db = sqlite3.connect(self.path.absolute(), timeout=30.0, isolation_level=None)
        try:
            with self._told():
                self._open()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        application = self._number("PRAGMA application_id")
        version = self._number("PRAGMA user_version")
        empty = self._number("SELECT count(*) FROM sqlite_master") == 0
        if application != _APPLICATION and not (empty and application == 0 and version == 0):
            raise FormatError(f"{self.path} is an SQLite file but not a run store; choose another path.")
        if version > _FORMAT:
            raise FormatVersionError(f"{self.path} has format {version}, this uqms reads up to {_FORMAT}; update uqms.")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        if empty:
            marks = f"PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {_FORMAT};"
            self._db.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA.replace('TABLE', 'TABLE IF NOT EXISTS')} {marks} COMMIT;"
            )

    def _number(self, query: str) -> int:
        with self._told():
            return int(self._db.execute(query).fetchone()[0])

    def close(self) -> None:
        """Close the file; what was put is on the disk already."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __len__(self) -> int:
        return self._number("SELECT count(*) FROM runs")

    def __repr__(self) -> str:
        return f"RunStore({str(self.path)!r})"

    # ------------------------------------------------------------------------------------------------------------- runs
    def get(self, simulator: Simulator, keys: Iterable[str]) -> dict[str, Record]:
        """Return the records of those keys that are in the store.

        Raises
        ------
        IntegrityError
            When the outputs of a run are not those that were written.
        """
        parts = _parts(simulator)
        found = {}
        for some in batched(keys, 500):
            marks = ", ".join("?" * len(some))
            with self._told():
                rows = self._db.execute(
                    f"SELECT key, state, seconds, message, outputs, checksum FROM runs WHERE key IN ({marks})", some
                ).fetchall()
            for key, state, seconds, message, blob, checksum in rows:
                outputs = None if blob is None else self._outputs(parts, key, blob, checksum)
                found[key] = Record(RunState(state), seconds, message, outputs)
        return found

    def _outputs(self, parts: Sequence[_Part], key: str, blob: bytes, checksum: bytes) -> dict[str, Array]:
        if hashlib.sha256(blob).digest() != checksum or len(blob) != 8 * parts[-1].stop:
            raise IntegrityError(
                f"the outputs of run {key[:12]} in {self.path} are not those that were written; take a copy of the "
                "file, or start a new one."
            )
        values = np.frombuffer(blob, dtype="<f8").astype(np.float64)
        return {part.name: values[part.start : part.stop].reshape(part.shape) for part in parts}

    def register(self, simulator: Simulator) -> None:
        """Note a simulator, with what is needed to read its outputs without it."""
        identity = _canonical(simulator.identity)
        row = (_hash(identity), identity, _layout(simulator))
        with self._told():
            self._db.execute("INSERT OR IGNORE INTO simulators VALUES (?, ?, ?)", row)

    def put(self, simulator: Simulator, key: str, point: Mapping[str, float], record: Record) -> None:
        """Keep one run; when this returns it is on the disk. A record of the same key is replaced.

        Raises
        ------
        StorageError
            When the disk is full or may not be written to; what was put before is safe.
        """
        blob = None
        if record.outputs is not None:
            blob = b"".join(record.outputs[name].astype("<f8").tobytes() for name in simulator.outputs)
        ended = datetime.now(UTC).isoformat(timespec="milliseconds")
        row = (
            key,
            _hash(_canonical(simulator.identity)),
            _point_json(point),
            int(record.state),
            record.seconds,
            record.message,
            ended,
            blob,
            None if blob is None else hashlib.sha256(blob).digest(),
        )
        with self._told():
            self._db.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    # ------------------------------------------------------------------------------------------------------------- care
    def integrity_check(self) -> None:
        """Read the whole file and raise an IntegrityError when something in it is damaged."""
        with self._told():
            words = [row[0] for row in self._db.execute("PRAGMA integrity_check(3)")]
            if words != ["ok"]:
                raise IntegrityError(f"{self.path} is damaged ({'; '.join(words)}); take a copy, or start a new file.")
            rows = self._db.execute("SELECT key, outputs, checksum FROM runs WHERE outputs IS NOT NULL")
            for key, blob, checksum in rows:
                if hashlib.sha256(blob).digest() != checksum:
                    raise IntegrityError(
                        f"the outputs of run {key[:12]} in {self.path} are not those that were written."
                    )

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Be the only writer while the block runs.

        The system drops the lock of a process that dies, so a stale one needs no care.

        Raises
        ------
        CampaignLocked
            Names the process that writes.
        """
        path = self.path.with_name(self.path.name + ".lock")
        handle = self._lock(path)
        try:
            os.ftruncate(handle, 0)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()} since {now}".encode())
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(handle)

    def _lock(self, path: Path) -> int:
        while True:
            try:
                handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise StorageError(f"{path} cannot be written: {error}.") from error
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                    return handle
            except BlockingIOError:
                holder = os.read(handle, 200).decode(errors="replace") or "another process"
                os.close(handle)
                raise CampaignLocked(
                    f"{self.path} is being written by {holder}; wait until it has ended, or give another path."
                ) from None
            os.close(handle)  # the holder before us removed the file between our two steps

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn SQLite's errors into ours."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_NOTADB:
                raise FormatError(f"{self.path} is not a run store (no SQLite file); choose another path.") from error
            if code == sqlite3.SQLITE_CORRUPT:
                raise IntegrityError(
                    f"{self.path} is damaged ({error}); take a copy of it, or start a new file."
                ) from error
            raise StorageError(
                f"{self.path} cannot be used ({error}); check the folder, its rights and the free space, then run "
                "again: what was kept before is safe."
            ) from error


def run_keys(simulator: Simulator, points: Iterable[Mapping[str, float]]) -> list[str]:
    """Return the key of each point, whatever the order of its inputs."""
    prefix = _hash(_canonical(simulator.identity))
    return [_hash(f"{prefix}\n{_point_json(point)}") for point in points]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _point_json(point: Mapping[str, float]) -> str:
    # Adding zero makes -0.0 the same number as 0.0.
    return _canonical({name: (float(value) + 0.0).hex() for name, value in point.items()})


def _parts(simulator: Simulator) -> list[_Part]:
    parts, start = [], 0
    for name, dims in simulator.outputs.items():
        shape = tuple(len(simulator.coords[dim]) for dim in dims)
        parts.append(_Part(name, shape, start, start + math.prod(shape)))
        start = parts[-1].stop
    return parts


def _layout(simulator: Simulator) -> str:
    outputs = {
        name: {"dims": dims, "shape": [len(simulator.coords[d]) for d in dims], "unit": simulator.units.get(name, "")}
        for name, dims in simulator.outputs.items()
    }
    coords = {dim: values.tolist() for dim, values in simulator.coords.items()}
    return json.dumps({"outputs": outputs, "coords": coords}, allow_nan=False)
