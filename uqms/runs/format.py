"""The format of the SQLite file (format 2): its tables, the layout of the outputs, and the checksum of a run."""

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

APPLICATION = 0x75716D73  # "uqms", as SQLite's application id, which identifies the type of a file
FORMAT = 2

SCHEMA = (
    """CREATE TABLE campaigns (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,  -- SHA-256 of identity, inputs and fidelity
        identity TEXT NOT NULL,   -- JSON: what the simulator computes
        inputs TEXT NOT NULL,     -- JSON: names, in the order of the design
        fidelity TEXT NOT NULL,
        layout TEXT NOT NULL,     -- JSON: dims, shapes, units of the outputs in the order of runs.outputs; coordinates
        about TEXT NOT NULL,      -- JSON: attributes of the last design (space, box, design, rng, runs)
        created TEXT NOT NULL,    -- UTC
        versions TEXT NOT NULL,   -- JSON
        checksum BLOB NOT NULL    -- SHA-256 of all of the above from id on
    )""",
    """CREATE TABLE runs (
        key BLOB PRIMARY KEY NOT NULL,  -- SHA-256 of campaign, inputs and seed
        campaign INTEGER NOT NULL REFERENCES campaigns (number),
        x BLOB NOT NULL,           -- little-endian float64, one for each input in the order of the sorted names
        seed INTEGER,              -- NULL for a deterministic simulator
        replicate INTEGER NOT NULL,
        state INTEGER NOT NULL,    -- 1 completed, 2 failed, 3 timeout, 4 invalid, 5 partial
        seconds REAL,              -- NULL if unknown
        attempts INTEGER NOT NULL,
        message TEXT NOT NULL,
        ended TEXT NOT NULL,       -- UTC
        checksum BLOB NOT NULL,    -- SHA-256 of all of the above from x on (without ended) and of outputs
        outputs BLOB               -- little-endian float64, one output after the other; NaN where one is missing
    )""",
    "CREATE INDEX runs_of_campaign ON runs (campaign)",
)

OBJECTS = {  # type and name of all tables and indices in a file, by format
    1: (("table", "simulators"), ("table", "runs")),
    2: (("table", "campaigns"), ("table", "runs"), ("index", "runs_of_campaign")),
}

COLUMNS = "key, campaign, x, seed, replicate, state, seconds, attempts, message, ended, checksum, outputs"

CAMPAIGN = "id, identity, inputs, fidelity, layout, about, created, versions"  # the columns in the checksum, in order

_HEAD = struct.Struct("<qqqqqd?")
_INSERT = f"INSERT OR IGNORE INTO campaigns ({CAMPAIGN}, checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


def create(db: sqlite3.Connection) -> None:
    """Create the tables, within the transaction of the caller."""
    for statement in (*SCHEMA, f"PRAGMA application_id = {APPLICATION}", f"PRAGMA user_version = {FORMAT}"):
        db.execute(statement)


def begin(db: sqlite3.Connection, row: tuple[str, ...]) -> None:
    """Write the row of a campaign (see `CAMPAIGN`) unless it exists, within the transaction of the caller."""
    db.execute(_INSERT, (*row, row_checksum(row)))


def row_checksum(row: Sequence[object]) -> bytes:
    """Return the SHA-256 hash of the row of a campaign."""
    return hashlib.sha256(canonical(list(row)).encode()).digest()


def versions() -> str:
    """Return the versions of uqms, NumPy, Python and SQLite as JSON; they are stored with every new campaign."""
    said = {"uqms": __version__, "numpy": np.__version__, "python": platform.python_version()}
    return json.dumps({**said, "sqlite": sqlite3.sqlite_version})


def checksum(
    x: bytes, seed: int | None, replicate: int, state: int, seconds: float | None, attempts: int, message: str,
    outputs: bytes | None,
) -> bytes:  # fmt: skip
    """Return the SHA-256 hash of the stored values of a run."""
    text = message.encode()
    seconds = math.nan if seconds is None or seconds != seconds else seconds
    head = _HEAD.pack(-1 if seed is None else seed, replicate, state, attempts, len(text), seconds, outputs is not None)
    return hashlib.sha256(b"".join((head, x, text, outputs or b""))).digest()


def intact(
    digest: object, x: bytes, seed: int | None, replicate: int, state: int, seconds: float | None, attempts: int,
    message: str, outputs: bytes | None,
) -> bool:  # fmt: skip
    """Return whether a run has the checksum `digest`; values of wrong types, which SQLite accepts, give False."""
    try:
        return checksum(x, seed, replicate, state, seconds, attempts, message, outputs) == digest
    except (TypeError, AttributeError, struct.error):
        return False


class Part(NamedTuple):
    """The dims, shape and unit of an output, and the positions of its values among the numbers of a run."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    unit: str
    start: int
    stop: int


@final
@dataclass(frozen=True)
class Layout:
    """Names, dims and units of the outputs in the order in which they are stored, and the coordinates of the dims."""

    outputs: Mapping[str, tuple[tuple[str, ...], str]]
    coords: Mapping[str, tuple[float | str, ...]]

    @classmethod
    def of(cls, campaign: Campaign) -> Self:
        """Return the layout of the outputs that the simulator of a campaign declares."""
        simulator = campaign.simulator
        outputs = {name: (tuple(dims), str(simulator.units.get(name, ""))) for name, dims in simulator.outputs.items()}
        return cls(outputs, {dim: tuple(np.asarray(values).tolist()) for dim, values in simulator.coords.items()})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the layout from JSON that `to_json` wrote.

        Raises
        ------
        IntegrityError
            When the text is not the JSON of a layout.
        """
        try:
            said = json.loads(text)
            outputs = {name: (tuple(v["dims"]), str(v["unit"])) for name, v in said["outputs"].items()}
            layout = cls(outputs, {dim: tuple(values) for dim, values in said["coords"].items()})
            if any(list(p.shape) != said["outputs"][name]["shape"] for name, p in layout.parts.items()):
                raise ValueError("the shapes of outputs do not match their coordinates")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"the layout of the outputs of a campaign cannot be read: {error}") from error
        return layout

    def to_json(self) -> str:
        """Return the layout as JSON."""
        outputs = {
            name: {"dims": part.dims, "shape": part.shape, "unit": part.unit} for name, part in self.parts.items()
        }
        return json.dumps({"outputs": outputs, "coords": {dim: list(v) for dim, v in self.coords.items()}})

    @cached_property
    def parts(self) -> dict[str, Part]:
        """The position of each output among the numbers of a run, by its name."""
        parts, start = {}, 0
        for name, (dims, unit) in self.outputs.items():
            shape = tuple(len(self.coords[dim]) for dim in dims)
            parts[name] = Part(dims, shape, unit, start, start + math.prod(shape))
            start = parts[name].stop
        return parts

    @property
    def width(self) -> int:
        """The number of values in all outputs of a run."""
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
                    f"output {name!r} has shape {values.shape}, but it is stored with shape {part.shape}; declare the "
                    "new shape in the simulator and give it a new version, or return outputs of the stored shape."
                )
            flat[part.start : part.stop] = values.ravel()
        return flat.tobytes()

    def with_units_of(self, other: "Layout") -> "Layout":
        """Return this layout, with units from `other` for outputs that have no unit here."""
        outputs = {name: (dims, unit or other.outputs[name][1]) for name, (dims, unit) in self.outputs.items()}
        return Layout(outputs, self.coords)

    def differences(self, other: "Layout") -> list[str]:
        """Return how this layout of a store differs from the layout of a simulator; the order does not matter."""
        words = []
        for name in sorted({*self.outputs, *other.outputs}):
            mine, its = self.outputs.get(name), other.outputs.get(name)
            if mine is None or its is None:
                words.append(f"only the {'simulator' if mine is None else 'store'} has the output {name!r}")
            elif mine[0] != its[0]:
                words.append(f"output {name!r} has the dims {mine[0]} in the store and {its[0]} in the simulator")
            elif mine[1] and its[1] and mine[1] != its[1]:
                words.append(f"output {name!r} has the unit {mine[1]!r} in the store and {its[1]!r} in the simulator")
        for dim in sorted({*self.coords} & {*other.coords}):
            if self.coords[dim] != other.coords[dim]:
                here, there = len(self.coords[dim]), len(other.coords[dim])
                words.append(
                    f"dim {dim!r} has {here} coordinates in the store and {there} different coordinates in the "
                    "simulator"
                )
        return words


@final
@dataclass(frozen=True)
class Stored:
    """A campaign as it is stored in the file."""

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
        """Return the campaign from a row of the table: its number, the columns `CAMPAIGN` and its checksum.

        Raises
        ------
        IntegrityError
            When the row was changed. Its runs cannot be read then, since it has the names and coordinates of the
            outputs.
        """
        number, identifier, identity, inputs, fidelity, layout, about, created, said, digest = row
        try:
            if row_checksum(row[1:-1]) != digest:
                raise ValueError("its hash does not match")
            names, attrs, _ = tuple(map(str, json.loads(inputs))), dict(json.loads(about)), dict(json.loads(identity))
        except (ValueError, TypeError) as error:
            raise IntegrityError(f"campaign {str(identifier)[:12]} was changed, {error}") from error
        return cls(number, identifier, identity, names, fidelity, Layout.from_json(layout), attrs, created, said)

    @property
    def name(self) -> str:
        """The name of the simulator, or an empty string."""
        return str(json.loads(self.identity).get("name") or "")

    def __str__(self) -> str:
        level = f", fidelity {self.fidelity!r}" if self.fidelity else ""
        return f"{self.id[:12]} ({self.name or 'a simulator without name'}{level}; inputs {', '.join(self.inputs)})"
