"""What tests of run stores share: a campaign, some of its runs, and edits of the file behind the store's back."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np

from uqms.runs import Record, RunState, RunStore
from uqms.runs.campaign import Campaign
from uqms.runs.format import CAMPAIGN, row_checksum
from uqms.runs.store import Row
from uqms.simulators import FunctionSimulator

DAYS = [0.0, 0.1, 3.0]
FROZEN = Path(__file__).parent / "data"


def nothing(a, b):
    """Stand in for a model; these tests never run it."""


def simulator(**changes):
    """Return a simulator with a scalar and a curve."""
    options = {
        "outputs": {"y": (), "c": ("day",)},
        "coords": {"day": DAYS},
        "units": {"y": "mm"},
        "version": "1",
        "name": "frozen",
    }
    return FunctionSimulator(nothing, **{**options, **changes})


def campaign(inputs=("a", "b"), fidelity="", **changes):
    return Campaign(simulator(**changes), inputs, fidelity)


def completed(y, c, seconds=0.25):
    return Record(RunState.COMPLETED, seconds, "", {"y": np.asarray(y, float), "c": np.asarray(c, float)})


def rows(of, n, seeds=None, start=0):
    """Return n completed runs at a = start, start + 1, ..., b = -0.5."""
    x = np.array([[float(i) if name == "a" else -0.5 for name in of.inputs] for i in range(start, start + n)])
    keys = of.keys(x, None if seeds is None else np.array(seeds))
    made = []
    for i, (key, values) in enumerate(zip(keys, x, strict=True)):
        record = completed(10.0 * (start + i), [start + i, -0.0, 1e-300])
        made.append(Row(key, values, record, None if seeds is None else seeds[i], i if seeds is not None else 0))
    return made


def fill(path, of=None, n=5, **options):
    """Make a store with n runs of a campaign; return these."""
    of = campaign() if of is None else of
    made = rows(of, n, **options)
    with RunStore(path) as store:
        store.register(of)
        store.put(of, made)
    return made


def edit(path, *statements):
    """Change a file behind the store's back."""
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(*statement) if isinstance(statement, tuple) else db.execute(statement)


def seal(path):
    """Compute the checksums of the campaigns again after a change."""
    for number, *row in ask(path, f"SELECT number, {CAMPAIGN} FROM campaigns"):
        edit(path, ("UPDATE campaigns SET checksum = ? WHERE number = ?", (row_checksum(row), number)))


def ask(path, query):
    """Return the rows of a query."""
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()
