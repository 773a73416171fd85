"""Convert run stores from format 1 to format 2.

Format 1 has simulators instead of campaigns, and stores the inputs of a run as JSON of hexadecimal floats.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from uqms.errors import IntegrityError
from uqms.runs.campaign import campaign_id, canonical, run_keys
from uqms.runs.format import COLUMNS, Layout, begin, checksum, create, versions

__all__ = ["OLD_RUNS", "Converter", "convert", "upgrade"]

OLD_RUNS = "SELECT key, simulator, point, state, seconds, message, ended, outputs, checksum FROM runs"
_INSERT = f"INSERT OR REPLACE INTO runs ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class Converter:
    """Converter of rows of format 1 to rows of format 2, with a campaign for each simulator and set of inputs.

    `target` must have the tables of format 2 and an open transaction.
    """

    def __init__(self, source: sqlite3.Connection, simulators: str, target: sqlite3.Connection, path: Path) -> None:
        rows = source.execute(f"SELECT id, identity, layout FROM {simulators}")
        self.simulators: dict[str, tuple[str, str]] = {row[0]: (row[1], row[2]) for row in rows}
        self.target = target
        self.path = path
        self.begun: dict[tuple[str, tuple[str, ...]], tuple[int, str, int]] = {}

    def insert(self, row: tuple[Any, ...]) -> None:
        """Write one run to the target.

        Raises
        ------
        IntegrityError
            When the run was changed after it was written.
        """
        key, simulator, point, state, seconds, message, ended, outputs, old = row
        try:
            values = {name: float.fromhex(value) for name, value in json.loads(point).items()}
            names = tuple(sorted(values))
            campaign, identifier, width = self._campaign(simulator, names)
            expected = hashlib.sha256(f"{simulator}\n{point}".encode()).hexdigest()
            whole = outputs is None or (hashlib.sha256(outputs).digest() == old and len(outputs) == 8 * width)
            if expected != key or not whole:
                raise ValueError("its hash does not match")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(
                f"{self.path} is damaged: run {str(key)[:12]} was changed ({error}); save the undamaged runs to a new "
                "file "
                f'from the command line: uqms runs salvage "{self.path}" NEW.db'
            ) from error
        x = np.array([values[name] for name in names], dtype="<f8")
        (new,) = run_keys(identifier, x[None, :])
        said = checksum(x.tobytes(), None, 0, state, seconds, 1, message, outputs)
        self.target.execute(
            _INSERT, (new, campaign, x.tobytes(), None, 0, state, seconds, 1, message, ended, said, outputs)
        )

    def _campaign(self, simulator: str, names: tuple[str, ...]) -> tuple[int, str, int]:
        if (simulator, names) not in self.begun:
            text, layout = self.simulators[simulator]
            identity = canonical(json.loads(text))
            identifier = campaign_id(identity, names, "")
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            begin(self.target, (identifier, identity, json.dumps(names), "", layout, "{}", now, versions()))
            query = "SELECT number FROM campaigns WHERE id = ?"
            number = int(self.target.execute(query, (identifier,)).fetchone()[0])
            self.begun[simulator, names] = number, identifier, Layout.from_json(layout).width
        return self.begun[simulator, names]


def upgrade(db: sqlite3.Connection, path: Path) -> None:
    """Convert a file of format 1 to format 2, within the transaction of the caller."""
    db.execute("ALTER TABLE simulators RENAME TO simulators_1")
    db.execute("ALTER TABLE runs RENAME TO runs_1")
    create(db)
    converter = Converter(db, "simulators_1", db, path)
    for row in _rows(db, OLD_RUNS + "_1"):
        converter.insert(row)
    db.execute("DROP TABLE runs_1")
    db.execute("DROP TABLE simulators_1")


def convert(source: sqlite3.Connection, target: sqlite3.Connection, path: Path) -> None:
    """Copy the runs of a file of format 1 to new tables of format 2."""
    converter = Converter(source, "simulators", target, path)
    for row in _rows(source, OLD_RUNS):
        converter.insert(row)


def _rows(db: sqlite3.Connection, query: str) -> Iterator[tuple[Any, ...]]:
    yield from db.execute(f"{query} ORDER BY rowid")
