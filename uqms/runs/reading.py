"""Runs of one campaign out of the file: who they are (`read_index`) and what they gave (`Outputs`), both in bulk."""

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import batched
from pathlib import Path
from typing import Any, final

import numpy as np

from uqms._typing import Array, Ints
from uqms.errors import IntegrityError
from uqms.runs.connection import number, rescue, told
from uqms.runs.format import CAMPAIGN, Stored, intact

__all__ = ["Index", "Outputs", "read_campaigns", "read_index", "read_rows"]

_BLOCK = 2**24  # bytes of outputs that are decoded at once


def read_campaigns(db: sqlite3.Connection, path: Path, where: str = "", *values: object) -> list[Stored]:
    """Return the campaigns as they stand in the file."""
    with told(path):
        rows = db.execute(
            f"SELECT number, {CAMPAIGN}, checksum FROM campaigns {where} ORDER BY number", values
        ).fetchall()
    try:
        return [Stored.of(row) for row in rows]
    except IntegrityError as error:
        raise IntegrityError(f"{path} is damaged ({error}); {rescue(path)}") from error


def read_rows(
    db: sqlite3.Connection, known: Stored, columns: str, keys: Collection[bytes] | None = None
) -> Iterator[tuple[Any, ...]]:
    """Yield columns of a campaign's runs, of all or of those with these keys; the key comes first in each row.

    What it costs grows with the number of keys, not with that of the runs which are there.
    """
    query, mine = f"SELECT key, {columns} FROM runs WHERE", f"campaign = {known.number}"
    most = 0 if keys is None else 2 * len(keys)
    if keys is None or number(db, f"SELECT count(*) FROM (SELECT 1 FROM runs WHERE {mine} LIMIT {most})") < most:
        rows = db.execute(f"{query} {mine}")
        yield from (row for row in rows if keys is None or row[0] in keys)
        return
    for some in batched(keys, 500):
        marks = ", ".join("?" * len(some))
        # The plus keeps SQLite from going through all runs of the campaign instead of through the keys.
        yield from db.execute(f"{query} +{mine} AND key IN ({marks})", some)


@final
@dataclass(frozen=True, eq=False)
class Index:
    """All runs of a campaign without their outputs, ordered by their inputs, then by replicate and seed.

    So the order does not depend on which run ended first. `x (n, d)` has its columns in the campaign's order; `seeds`
    is None for a simulator without chance.
    """

    keys: list[bytes]
    x: Array
    seeds: Ints | None
    replicates: Ints
    states: Ints
    seconds: Array
    attempts: Ints
    messages: list[str]
    ended: list[str]

    def part(self, rows: slice) -> "Index":
        """Return some of the runs."""
        taken: dict[str, Any] = {name: None if v is None else v[rows] for name, v in vars(self).items()}
        return Index(**taken)


def read_index(db: sqlite3.Connection, path: Path, known: Stored) -> Index:
    """Return who the runs of a campaign are.

    Raises
    ------
    IntegrityError
        When inputs are not those of the campaign.
    """
    with told(path):
        rows = list(read_rows(db, known, "x, seed, replicate, state, seconds, attempts, message, ended"))
    d = len(known.inputs)
    if any(not isinstance(row[0], bytes) or not isinstance(row[1], bytes) or len(row[1]) != 8 * d for row in rows):
        raise IntegrityError(f"runs in {path} have other inputs than their campaign; {rescue(path)}")
    keys, blobs, seeds, replicates, states, seconds, attempts, messages, ended = (
        zip(*rows, strict=True) if rows else ((),) * 9
    )
    place = [sorted(known.inputs).index(name) for name in known.inputs]
    x = np.frombuffer(b"".join(blobs), dtype="<f8").astype(np.float64).reshape(-1, d)[:, place]
    chance = None if all(seed is None for seed in seeds) else np.array([-1 if s is None else s for s in seeds])
    counts = np.array(replicates, dtype=np.int64)
    order = np.lexsort([*([] if chance is None else [chance]), counts, *x.T[::-1]]).tolist()
    return Index(
        [keys[i] for i in order],
        x[order],
        None if chance is None else chance[order],
        _distinct(x[order], counts[order]),
        np.array(states, dtype=np.int64)[order],
        np.array(seconds, dtype=np.float64)[order],
        np.array(attempts, dtype=np.int64)[order],
        [messages[i] for i in order],
        [ended[i] for i in order],
    )


def _distinct(x: Array, replicates: Ints) -> Ints:
    """Return the replicates, counted anew where runs of several `rng` have the same one at the same inputs."""
    again = (x[1:] == x[:-1]).all(axis=1)
    if not (again & (replicates[1:] == replicates[:-1])).any():
        return replicates
    rows = np.arange(len(x))
    first = np.maximum.accumulate(np.where(np.concatenate([[False], again]), 0, rows))
    return rows - first


@final
class Outputs:
    """The outputs of a campaign's runs, each verified when it is read.

    Raises
    ------
    IntegrityError
        When a run is not what was written.
    """

    def __init__(self, db: sqlite3.Connection, path: Path, known: Stored) -> None:
        self.db = db
        self.path = path
        self.known = known
        # Before memory is claimed for outputs that the file does not hold.
        query = "SELECT length(outputs) FROM runs WHERE campaign = ? AND outputs IS NOT NULL LIMIT 1"
        with told(path):
            found = db.execute(query, (known.number,)).fetchone()
        if found and found[0] != 8 * known.layout.width:
            raise IntegrityError(f"runs in {path} have outputs of another length than their campaign; {rescue(path)}")

    @property
    def at_once(self) -> int:
        """How many runs make a block of moderate size."""
        return max(1, _BLOCK // max(8 * self.known.layout.width, 1))

    def of(self, keys: Sequence[bytes]) -> dict[str, Array]:
        """Return arrays (len(keys), ...) in the order of the keys, NaN where a run has no outputs."""
        parts = self.known.layout.parts
        values = {name: np.full((len(keys), *part.shape), np.nan) for name, part in parts.items()}
        places: dict[bytes, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, []).append(place)
        for some, blobs in self._blocks(places):
            block = np.frombuffer(blobs, dtype="<f8").reshape(len(some), -1)
            where = [place for key in some for place in places[key]]
            take = [index for index, key in enumerate(some) for _ in places[key]]
            for name, part in parts.items():
                values[name][where] = block[take, part.start : part.stop].reshape(-1, *part.shape)
        return values

    def _blocks(self, places: Mapping[bytes, object]) -> Iterator[tuple[list[bytes], bytes]]:
        """Yield keys and joined outputs of some runs at a time."""
        keys: list[bytes] = []
        blobs: list[bytes] = []
        columns = "x, seed, replicate, state, seconds, attempts, message, checksum, outputs"
        size, most = 8 * self.known.layout.width, self.at_once
        with told(self.path):
            for key, x, seed, replicate, state, seconds, attempts, message, digest, blob in read_rows(
                self.db, self.known, columns, places.keys()
            ):
                whole = intact(digest, x, seed, replicate, state, seconds, attempts, message, blob)
                if not whole or (blob is not None and len(blob) != size):
                    raise IntegrityError(
                        f"run {key.hex()[:12]} in {self.path} is not what was written; {rescue(self.path)}"
                    )
                if blob is not None:
                    keys.append(key)
                    blobs.append(blob)
                if len(keys) == most:
                    yield keys, b"".join(blobs)
                    keys, blobs = [], []
        if keys:
            yield keys, b"".join(blobs)
