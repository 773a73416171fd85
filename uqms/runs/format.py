"""How runs lie in the SQLite file: tables, the layout of the outputs, and the checksum of a run (format 2)."""

import hashlib
import json
import math
import platform
import sqlite3
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self, final

import numpy as np

from uqms import __version__
from uqms._typing import Array
from uqms.errors import DataError, IntegrityError
from uqms.runs.campaign import Campaign, canonical

__all__ = [
    "APPLICATION",
    "CAMPAIGN",
    "COLUMNS",
    "FORMAT",
    "OBJECTS",
    "SCHEMA",
    "Layout",
    "Part",
    "Stored",
    "begin",
    "checksum",
    "create",
    "intact",
    "row_checksum",
    "versions",
]

APPLICATION = 0x75716D73  # "uqms", where SQLite keeps what a file is for
FORMAT = 2

SCHEMA = (
    """CREATE TABLE campaigns (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,  -- SHA-256 of identity, inputs and fidelity
        identity TEXT NOT NULL,   -- JSON: what the simulator computes
        inputs TEXT NOT NULL,     -- JSON: names, in the order of the design
        fidelity TEXT NOT NULL,
        layout TEXT NOT NULL,     -- JSON: dims, shapes, units of the outputs in the order of runs.outputs; coordinates
        about TEXT NOT NULL,      -- JSON: what the last design says of itself (space, box, design, rng, runs)
        created TEXT NOT NULL,    -- UTC
        versions TEXT NOT NULL,   -- JSON
        checksum BLOB NOT NULL    -- SHA-256 of all of the above from id on
    )""",
    """CREATE TABLE runs (
        key BLOB PRIMARY KEY NOT NULL,  -- SHA-256 of campaign, inputs and seed
        campaign INTEGER NOT NULL REFERENCES campaigns (number),
        x BLOB NOT NULL,           -- little-endian float64, one for each input in the order of the sorted names
        seed INTEGER,              -- NULL for a simulator without chance
        replicate INTEGER NOT NULL,
        state INTEGER NOT NULL,    -- 1 completed, 2 failed, 3 timeout, 4 invalid, 5 partial
        seconds REAL,              -- NULL where it is not known
        attempts INTEGER NOT NULL,
        message TEXT NOT NULL,
        ended TEXT NOT NULL,       -- UTC
        checksum BLOB NOT NULL,    -- SHA-256 of all of the above from x on (without ended) and of outputs
        outputs BLOB               -- little-endian float64, one output after the other; NaN where one is missing
    )""",
    "CREATE INDEX runs_of_campaign ON runs (campaign)",
)

OBJECTS = {  # type and name of everything that a file holds, by format
    1: (("table", "simulators"), ("table", "runs")),
    2: (("table", "campaigns"), ("table", "runs"), ("index", "runs_of_campaign")),
}

COLUMNS = "key, campaign, x, seed, replicate, state, seconds, attempts, message, ended, checksum, outputs"

CAMPAIGN = "id, identity, inputs, fidelity, layout, about, created, versions"  # what the checksum is of, in this order

_HEAD = struct.Struct("<qqqqqd?")
_INSERT = f"INSERT OR IGNORE INTO campaigns ({CAMPAIGN}, checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


def create(db: sqlite3.Connection) -> None:
    """Make the tables, inside of the caller's transaction."""
    for statement in (*SCHEMA, f"PRAGMA application_id = {APPLICATION}", f"PRAGMA user_version = {FORMAT}"):
        db.execute(statement)


def begin(db: sqlite3.Connection, row: tuple[str, ...]) -> None:
    """Write the row of a campaign (see `CAMPAIGN`), unless it is there, inside of the caller's transaction."""
    db.execute(_INSERT, (*row, row_checksum(row)))


def row_checksum(row: Sequence[object]) -> bytes:
    """Return the SHA-256 of a campaign's row."""
    return hashlib.sha256(canonical(list(row)).encode()).digest()


def versions() -> str:
    """Return what a campaign is begun with, as JSON."""
    said = {"uqms": __version__, "numpy": np.__version__, "python": platform.python_version()}
    return json.dumps({**said, "sqlite": sqlite3.sqlite_version})


def checksum(
    x: bytes, seed: int | None, replicate: int, state: int, seconds: float | None, attempts: int, message: str,
    outputs: bytes | None,
) -> bytes:  # fmt: skip
    """Return the SHA-256 of what is kept of a run."""
    text = message.encode()
    seconds = math.nan if seconds is None or seconds != seconds else seconds
    head = _HEAD.pack(-1 if seed is None else seed, replicate, state, attempts, len(text), seconds, outputs is not None)
    return hashlib.sha256(b"".join((head, x, text, outputs or b""))).digest()


def intact(
    digest: object, x: bytes, seed: int | None, replicate: int, state: int, seconds: float | None, attempts: int,
    message: str, outputs: bytes | None,
) -> bool:  # fmt: skip
    """Tell whether a run is what was written; SQLite would also hold values of other types."""
    try:
        return checksum(x, seed, replicate, state, seconds, attempts, message, outputs) == digest
    except (TypeError, AttributeError, struct.error):
        return False


class Part(NamedTuple):
    """Where one output lies among the numbers of a run."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    unit: str
    start: int
    stop: int


@final
@dataclass(frozen=True)
class Layout:
    """Names, dims and units of the outputs, in the order in which they are stored, and the coordinates of the dims."""

    outputs: Mapping[str, tuple[tuple[str, ...], str]]
    coords: Mapping[str, tuple[float | str, ...]]

    @classmethod
    def of(cls, campaign: Campaign) -> Self:
        """Return the layout that a campaign's simulator declares."""
        simulator = campaign.simulator
        outputs = {name: (tuple(dims), str(simulator.units.get(name, ""))) for name, dims in simulator.outputs.items()}
        return cls(outputs, {dim: tuple(np.asarray(values).tolist()) for dim, values in simulator.coords.items()})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises
        ------
        IntegrityError
            When it is something else.
        """
        try:
            said = json.loads(text)
            outputs = {name: (tuple(v["dims"]), str(v["unit"])) for name, v in said["outputs"].items()}
            layout = cls(outputs, {dim: tuple(values) for dim, values in said["coords"].items()})
            if any(list(p.shape) != said["outputs"][name]["shape"] for name, p in layout.parts.items()):
                raise ValueError("shapes that are not those of the coordinates")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"the layout of a campaign cannot be read ({error}).") from error
        return layout

    def to_json(self) -> str:
        """Return it as JSON."""
        outputs = {
            name: {"dims": part.dims, "shape": part.shape, "unit": part.unit} for name, part in self.parts.items()
        }
        return json.dumps({"outputs": outputs, "coords": {dim: list(v) for dim, v in self.coords.items()}})

    @cached_property
    def parts(self) -> dict[str, Part]:
        """Where each output lies."""
        parts, start = {}, 0
        for name, (dims, unit) in self.outputs.items():
            shape = tuple(len(self.coords[dim]) for dim in dims)
            parts[name] = Part(dims, shape, unit, start, start + math.prod(shape))
            start = parts[name].stop
        return parts

    @property
    def width(self) -> int:
        """How many numbers a run has."""
        return sum(part.stop - part.start for part in self.parts.values())

    def encode(self, outputs: Mapping[str, Array]) -> bytes:
        """Return the outputs of one run as bytes.

        Raises
        ------
        DataError
            When an output is missing or has another shape.
        """
        flat = np.empty(self.width, dtype="<f8")
        for name, part in self.parts.items():
            values = np.asarray(outputs.get(name))
            if values.shape != part.shape:
                raise DataError(
                    f"output {name!r} has shape {values.shape}, but the run store keeps it with shape {part.shape}."
                )
            flat[part.start : part.stop] = values.ravel()
        return flat.tobytes()

    def with_units_of(self, other: "Layout") -> "Layout":
        """Return the same layout with the units that stand in `other` alone."""
        outputs = {name: (dims, unit or other.outputs[name][1]) for name, (dims, unit) in self.outputs.items()}
        return Layout(outputs, self.coords)

    def differences(self, other: "Layout") -> list[str]:
        """Return what is not the same in another layout, in words; the order of the outputs does not count."""
        words = []
        for name in sorted({*self.outputs, *other.outputs}):
            mine, its = self.outputs.get(name), other.outputs.get(name)
            if mine is None or its is None:
                words.append(f"output {name!r} is {'missing here' if mine is None else 'new'}")
            elif mine[0] != its[0]:
                words.append(f"output {name!r} has the dims {mine[0]}, there {its[0]}")
            elif mine[1] and its[1] and mine[1] != its[1]:
                words.append(f"output {name!r} has the unit {mine[1]!r}, there {its[1]!r}")
        for dim in sorted({*self.coords} & {*other.coords}):
            if self.coords[dim] != other.coords[dim]:
                here, there = len(self.coords[dim]), len(other.coords[dim])
                words.append(f"dim {dim!r} has other coordinates ({here}, there {there})")
        return words


@final
@dataclass(frozen=True)
class Stored:
    """A campaign as it stands in the file."""

    number: int
    id: str
    identity: str
    inputs: tuple[str, ...]
    fidelity: str
    layout: Layout
    about: Mapping[str, str]
    created: str
    versions: str

    @classmethod
    def of(cls, row: tuple[Any, ...]) -> Self:
        """Read a row of the table: its number, `CAMPAIGN` and its checksum.

        Raises
        ------
        IntegrityError
            When it is not what was written: without the names, order and coordinates of the outputs no run is.
        """
        number, identifier, identity, inputs, fidelity, layout, about, created, said, digest = row
        try:
            if row_checksum(row[1:-1]) != digest:
                raise ValueError("the hash of its content is another one")
            names, attrs, _ = tuple(map(str, json.loads(inputs))), dict(json.loads(about)), dict(json.loads(identity))
        except (ValueError, TypeError) as error:
            raise IntegrityError(f"campaign {str(identifier)[:12]} is not what was written: {error}.") from error
        return cls(number, identifier, identity, names, fidelity, Layout.from_json(layout), attrs, created, said)

    @property
    def name(self) -> str:
        """What the simulator is called."""
        return str(json.loads(self.identity).get("name") or "")

    def __str__(self) -> str:
        level = f", fidelity {self.fidelity!r}" if self.fidelity else ""
        return f"{self.id[:12]} ({self.name or 'a simulator without name'}{level}; inputs {', '.join(self.inputs)})"
