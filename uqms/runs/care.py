"""Check that every stored run is unchanged, and salvage the undamaged runs of a damaged run store."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from itertools import batched
from pathlib import Path
from typing import Any

import numpy as np

from uqms.ensemble.netcdf import atomic_path
from uqms.errors import FormatError, IntegrityError, StorageError
from uqms.runs.campaign import campaign_id, run_keys
from uqms.runs.connection import connect_reading, number, rescue, told, transaction
from uqms.runs.format import APPLICATION, CAMPAIGN, COLUMNS, FORMAT, Stored, create, intact
from uqms.runs.reading import read_campaigns
from uqms.runs.upgrade import OLD_RUNS, Converter

__all__ = ["check", "salvage"]

_SOME = 2**24  # bytes of outputs that are checked in one block
_SMALLEST = 64  # lower bound of the bytes of a row


def check(db: sqlite3.Connection, path: Path) -> None:
    """Read the whole file, recompute every hash, and raise an IntegrityError if something was changed."""
    with told(path):
        words = [str(row[0]) for row in db.execute("PRAGMA integrity_check(3)")]
        orphans = len(db.execute("PRAGMA foreign_key_check(runs)").fetchall())
    if words != ["ok"]:
        raise IntegrityError(f"{path} is damaged ({'; '.join(words)}); {rescue(path)}")
    if orphans:
        raise IntegrityError(f"{path} is damaged ({orphans} runs belong to no campaign); {rescue(path)}")
    for known in read_campaigns(db, path):
        if not _sound(known):
            raise IntegrityError(
                f"{path} is damaged: campaign {known.id[:12]} was changed, its hash does not match; {rescue(path)}"
            )
        with told(path):
            rows = db.execute(f"SELECT {COLUMNS} FROM runs WHERE campaign = {known.number}")
            for some in batched(rows, max(1, min(256, _SOME // (8 * known.layout.width + 1)))):
                for row, right in zip(some, _right(known, some), strict=True):
                    if not right:
                        raise IntegrityError(
                            f"{path} is damaged: run {_called(row[0])} was changed, its hash does not match; "
                            f"{rescue(path)}"
                        )


def _called(key: object) -> str:
    return (key.hex() if isinstance(key, bytes) else str(key))[:12]


def _sound(known: Stored) -> bool:
    return campaign_id(known.identity, known.inputs, known.fidelity) == known.id


def _right(known: Stored, rows: Sequence[tuple[Any, ...]]) -> list[bool]:
    """Return for each row whether its key and its checksum match its content."""
    d, width = len(known.inputs), known.layout.width
    right = []
    for key, _, x, seed, replicate, state, seconds, attempts, message, _, digest, blob in rows:
        sound = intact(digest, x, seed, replicate, state, seconds, attempts, message, blob)
        if sound and len(x) == 8 * d and (blob is None or len(blob) == 8 * width):
            values = np.frombuffer(x, dtype="<f8").reshape(1, d)
            (wanted,) = run_keys(known.id, values, None if seed is None else np.array([seed]))
            right.append(wanted == key)
        else:
            right.append(False)
    return right


# ------------------------------------------------------------------------------------------------------------- salvage
def salvage(path: Path, target: Path) -> int:
    """Write the undamaged runs of a damaged file to a new store, and return their number.

    Raises
    ------
    FormatError
        When the file does not identify itself as a run store.
    IntegrityError
        When no campaign, or none of the runs in the file, can be read.
    StorageError
        When the new store exists already or cannot be written.
    """
    if target.exists():
        raise StorageError(f"{target} exists already; give the path of a file that does not exist.")
    with told(path), closing(connect_reading(path, damaged=True)) as source:
        application, found = number(source, "PRAGMA application_id"), number(source, "PRAGMA user_version")
        if application != APPLICATION or not 1 <= found <= FORMAT:
            raise FormatError(
                f"{path} is not a run store that this version of uqms can read, so no run can be salvaged from it; "
                "check the path."
            )
        with atomic_path(target) as part, closing(sqlite3.connect(part, isolation_level=None)) as new:
            with told(target), transaction(new):
                create(new)
                saved = sum(_old_rows(source, new, path) if found == 1 else _rows(source, new, path))
                if not saved and not _empty(source):
                    raise IntegrityError(
                        f"{path} is damaged so much that no run can be read; use a copy of the file, or run the design "
                        "again with a new store."
                    )
                return saved


def _empty(source: sqlite3.Connection) -> bool:
    try:
        return number(source, "SELECT count(*) FROM runs") == 0
    except sqlite3.DatabaseError:
        return False


def _rows(source: sqlite3.Connection, new: sqlite3.Connection, path: Path) -> Iterator[int]:
    campaigns: dict[int, Stored] = {}
    names = f"number, {CAMPAIGN}, checksum"
    for _, *said in _readable(source, f"SELECT rowid, {names} FROM campaigns", path):
        with suppress(IntegrityError):
            campaign = Stored.of(tuple(said))
            if _sound(campaign):
                campaigns[campaign.number] = campaign
                new.execute(f"INSERT INTO campaigns ({names}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", said)
    if not campaigns:
        raise IntegrityError(
            f"{path} is damaged so much that no campaign can be read, and hence no run; use a copy of the file, or run "
            "the design again with a new store."
        )
    insert = f"INSERT OR IGNORE INTO runs ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    for _, *row in _readable(source, f"SELECT rowid, {COLUMNS} FROM runs", path):
        known = campaigns.get(row[1])
        if known is not None and _right(known, [tuple(row)])[0]:
            yield new.execute(insert, row).rowcount


def _old_rows(source: sqlite3.Connection, new: sqlite3.Connection, path: Path) -> Iterator[int]:
    try:
        converter = Converter(source, "simulators", new, path)
    except sqlite3.DatabaseError as error:
        raise IntegrityError(
            f"{path} is damaged so much that no simulator can be read ({error}), and hence no run; use a copy of the "
            "file, or run the design again with a new store."
        ) from error
    for _, *row in _readable(source, OLD_RUNS.replace("SELECT ", "SELECT rowid, ", 1), path):
        with suppress(IntegrityError):
            converter.insert(tuple(row))
            yield 1


def _readable(db: sqlite3.Connection, query: str, path: Path) -> Iterator[tuple[Any, ...]]:
    """Yield the readable rows of a table, with the rowid as first column; skip damaged pages."""
    last, most = 0, None
    while True:
        try:
            for row in db.execute(f"{query} WHERE rowid > ? ORDER BY rowid", (last,)):
                if row[0] <= last:
                    raise sqlite3.DatabaseError("rows are not in the order of their rowid")
                yield row
                last = row[0]
            return
        except sqlite3.DatabaseError:
            most = _most(db, query, path) if most is None else most
        for candidate in range(last + 1, most + 1):
            with suppress(sqlite3.DatabaseError):
                row = db.execute(f"{query} WHERE rowid = ?", (candidate,)).fetchone()
                if row is not None:
                    yield row
                    last = candidate
                    break
        else:
            return


def _most(db: sqlite3.Connection, query: str, path: Path) -> int:
    """Return an upper bound of the rowids."""
    with suppress(sqlite3.DatabaseError, TypeError):
        return number(db, f"SELECT max(rowid) FROM {query.rsplit(' ', 1)[1]}")
    return os.stat(path).st_size // _SMALLEST
