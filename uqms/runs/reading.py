"""Read the runs of one campaign in bulk: `read_index` reads everything except outputs, `Outputs` reads the outputs."""

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

_BLOCK = 2**24  # bytes of outputs that are decoded in one block


def read_campaigns(db: sqlite3.Connection, path: Path, where: str = "", *values: object) -> list[Stored]:
    """Return the campaigns in the file; `where` is an SQL condition with `values`."""
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
    """Yield columns of the runs of a campaign, of all runs or of the runs with these keys; the key comes first.

    With keys, the time grows with the number of keys, and not with the number of stored runs.
    """
    query, mine = f"SELECT key, {columns} FROM runs WHERE", f"campaign = {known.number}"
    most = 0 if keys is None else 2 * len(keys)
    if keys is None or number(db, f"SELECT count(*) FROM (SELECT 1 FROM runs WHERE {mine} LIMIT {most})") < most:
        rows = db.execute(f"{query} {mine}")
        yield from (row for row in rows if keys is None or row[0] in keys)
        return
    for some in batched(keys, 500):
        marks = ", ".join("?" * len(some))
        # The plus sign disables the index of campaigns, so that SQLite looks up the keys and does not scan all runs.
        yield from db.execute(f"{query} +{mine} AND key IN ({marks})", some)


@final
@dataclass(frozen=True, eq=False)
class Index:
    """All runs of a campaign without their outputs, sorted by their inputs, then by replicate and seed.

    So the order does not depend on which run ended first. The columns of `x (n, d)` are in the order of the campaign's
    inputs. `seeds` is None for a deterministic simulator.
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
        """Return the index of some rows."""
        taken: dict[str, Any] = {name: None if v is None else v[rows] for name, v in vars(self).items()}
        return Index(**taken)


def read_index(db: sqlite3.Connection, path: Path, known: Stored) -> Index:
    """Return the index of the runs of a campaign.

    Raises
    ------
    IntegrityError
        When a run does not have the number of inputs of its campaign.
    """
    with told(path):
        rows = list(read_rows(db, known, "x, seed, replicate, state, seconds, attempts, message, ended"))
    d = len(known.inputs)
    if any(not isinstance(row[0], bytes) or not isinstance(row[1], bytes) or len(row[1]) != 8 * d for row in rows):
        raise IntegrityError(f"{path} is damaged: runs have other inputs than their campaign; {rescue(path)}")
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
    """Return the replicates, numbered again if runs with several `rng` have the same replicate at the same inputs."""
    again = (x[1:] == x[:-1]).all(axis=1)
    if not (again & (replicates[1:] == replicates[:-1])).any():
        return replicates
    rows = np.arange(len(x))
    first = np.maximum.accumulate(np.where(np.concatenate([[False], again]), 0, rows))
    return rows - first


@final
class Outputs:
    """The outputs of the runs of a campaign; every run is verified when it is read.

    Raises
    ------
    IntegrityError
        When a run was changed after it was written.
    """

    def __init__(self, db: sqlite3.Connection, path: Path, known: Stored) -> None:
        self.db = db
        self.path = path
        self.known = known
        # Checked first: a wrong layout would allocate memory for outputs that the file does not hold.
        query = "SELECT length(outputs) FROM runs WHERE campaign = ? AND outputs IS NOT NULL LIMIT 1"
        with told(path):
            found = db.execute(query, (known.number,)).fetchone()
        if found and found[0] != 8 * known.layout.width:
            raise IntegrityError(
                f"{path} is damaged: runs have outputs of another length than their campaign; {rescue(path)}"
            )

    @property
    def at_once(self) -> int:
        """The number of runs in one block of outputs."""
        return max(1, _BLOCK // max(8 * self.known.layout.width, 1))

    def of(self, keys: Sequence[bytes]) -> dict[str, Array]:
        """Return arrays (len(keys), ...) in the order of the keys, with NaN for runs without outputs."""
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
        """Yield the keys and the joined outputs of runs, block by block."""
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
                        f"{self.path} is damaged: run {key.hex()[:12]} was changed, its hash does not match; "
                        f"{rescue(self.path)}"
                    )
                if blob is not None:
                    keys.append(key)
                    blobs.append(blob)
                if len(keys) == most:
                    yield keys, b"".join(blobs)
                    keys, blobs = [], []
        if keys:
            yield keys, b"".join(blobs)
