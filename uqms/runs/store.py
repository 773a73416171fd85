"""The run store: one SQLite file that keeps every run as soon as it has ended.

Contract
--------
- A run that was acknowledged (`put` returned) is on the disk: write-ahead log, full synchronisation, one commit for
  what ended together. Killing the process, or the power, loses none of them.
- A run is found again by what it computes (`uqms.runs.campaign`). Several simulators may share a file.
- One process at a time writes (`lease`); any number of them read. On disks of a network, where the write-ahead log
  does not work, a rollback journal takes its place, and readers wait for the writer.
- Nothing is pickled: inputs and outputs are little-endian float64 with a checksum for each run.
"""

import json
import os
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self, final

import numpy as np

from uqms import _checks as check
from uqms._teaching import taught
from uqms._typing import Array
from uqms.ensemble import RunState
from uqms.errors import PACKAGE, CampaignError, CampaignMismatch, DataWarning, IntegrityError, StorageError
from uqms.runs.campaign import Campaign, sorted_columns
from uqms.runs.connection import number, open_reading, open_writing, rescue, tidy, told, transaction
from uqms.runs.format import COLUMNS, Layout, Stored, begin, checksum, row_checksum, versions
from uqms.runs.lease import Lease, hold, network_file_system
from uqms.runs.reading import Outputs, read_campaigns, read_index, read_rows
from uqms.runs.records import Record

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from uqms.runs.reading import Index
    from uqms.runs.selection import States, Where

__all__ = ["Row", "RunStore"]

_STATES = {int(state): state for state in RunState}
_PUT = (
    f"INSERT INTO runs ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in COLUMNS.split(", ")[2:])
    + " WHERE campaign = excluded.campaign AND x = excluded.x AND seed IS excluded.seed"
)


class Row(NamedTuple):
    """One run as it is handed to the store: key, inputs (d,) in the campaign's order, record, seed, replicate."""

    key: bytes
    x: Array
    record: Record
    seed: int | None = None
    replicate: int = 0


@taught
@final
class RunStore:
    """Runs on disk, so that what has been computed is never computed again.

    `uqms.run` opens one when it gets a path. Open it yourself to look at what is in it, to export it or to remove runs;
    the command ``uqms runs`` does the same from a shell.

    Parameters
    ----------
    path
        The SQLite file; it is made when it does not exist. Its folder must exist; "~" is the home folder.
    readonly
        Open without changing anything, also while another process writes and in a folder that may not be written to.

    Raises
    ------
    FormatError
        When the file is something else or truncated; `FormatVersionError` when a newer uqms made it.
    IntegrityError
        When it is damaged.
    StorageError
        When it cannot be opened for writing.

    Warns
    -----
    DataWarning
        When it lies on a disk of a network.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, RunStore(folder + "/runs.db") as store:
    ...     store.integrity_check()
    ...     len(store)
    0
    """

    def __init__(self, path: str | os.PathLike[str], *, readonly: bool = False) -> None:
        self.path = Path(
            os.path.realpath(check.path("RunStore", path))
        )  # one file has one lock, whatever links lead to it
        self.readonly = readonly
        folder = self.path.parent
        if self.path.is_dir():
            raise StorageError(f"{self.path} is a folder; give a file in it, such as {str(self.path / 'runs.db')!r}.")
        if not readonly and not folder.is_dir():
            raise StorageError(
                f"{self.path} cannot be made: there is no folder {folder}. Make it first, "
                f"pathlib.Path({str(folder)!r}).mkdir(parents=True), or give another path."
            )
        self._network = None if readonly else network_file_system(self.path.parent)
        self._known: tuple[Campaign, Stored] | None = None  # the campaign that was asked for last
        self._lease: Lease | None = None
        self._litter = readonly and not Path(f"{self.path}-wal").exists()
        with told(self.path):
            self._db = open_reading(self.path) if readonly else open_writing(self.path, self._network)
        if self._network:
            warnings.warn(
                f"{self.path} lies on a disk of a network ({self._network}), which has no write-ahead log: one process "
                "writes at a time and the others wait for it. A local disk is faster; copy the file afterwards.",
                DataWarning,
                skip_file_prefixes=PACKAGE,
            )

    def close(self) -> None:
        """Close the file."""
        self._db.close()
        if self._litter and Path(f"{self.path}-wal").exists():
            tidy(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __len__(self) -> int:
        with told(self.path):
            return number(self._db, "SELECT count(*) FROM runs")

    def __repr__(self) -> str:
        return f"RunStore({str(self.path)!r}{', readonly=True' if self.readonly else ''})"

    # ----------------------------------------------------------------------------------------------- runs of a campaign
    def register(self, campaign: Campaign, about: Mapping[str, str] | None = None) -> None:
        """Note a campaign, with what is needed to read its runs without its simulator.

        Parameters
        ----------
        campaign
            What the runs that come will belong to.
        about
            What the design says of itself ("space", "box", "design", each JSON, "rng"), and `digest` of the runs for
            which "design" and "rng" hold as "runs"; an export repeats it.

        Raises
        ------
        CampaignMismatch
            When its runs in the store have other outputs, dims, coordinates or units.
        """
        self._check_lease()
        known, layout = self._find(campaign), Layout.of(campaign)
        about = dict(about or {})
        created, made = datetime.now(UTC).isoformat(timespec="milliseconds"), versions()
        if known is not None:
            layout, created, made = known.layout.with_units_of(layout), known.created, known.versions
            about = {**{key: known.about[key] for key in ("space", "box") if key in known.about}, **about}
        inputs, texts = json.dumps(campaign.inputs), (layout.to_json(), json.dumps(about), created, made)
        row = (campaign.id, campaign.identity, inputs, campaign.fidelity, *texts)
        with told(self.path), transaction(self._db):
            begin(self._db, row)
            query = "UPDATE campaigns SET inputs = ?, layout = ?, about = ?, checksum = ? WHERE id = ?"
            self._db.execute(query, (inputs, *texts[:2], row_checksum(row), campaign.id))
        self._known = None

    def relatives(self, campaign: Campaign) -> int:
        """Return how many runs there are of a simulator with the same name and another identity.

        Other settings (`config`) do not count: they are changed on purpose.
        """
        known, mine = read_campaigns(self._db, self.path), _without_config(campaign.identity)
        numbers = [c.number for c in known if c.name == campaign.name and _without_config(c.identity) != mine]
        if not campaign.name or not numbers:
            return 0
        with told(self.path):
            return number(self._db, f"SELECT count(*) FROM runs WHERE campaign IN ({', '.join(map(str, numbers))})")

    def has_runs(self, campaign: Campaign) -> bool:
        """Tell whether there is any run of a campaign."""
        known = self._find(campaign)
        if known is None:
            return False
        with told(self.path):
            return number(self._db, f"SELECT EXISTS (SELECT 1 FROM runs WHERE campaign = {known.number})") == 1

    def kept(self, campaign: Campaign, keys: Collection[bytes] | None = None) -> dict[bytes, Record]:
        """Return the records of a campaign's runs by key, without outputs: of all, or of those with these keys."""
        known = self._find(campaign)
        if known is None:
            return {}
        try:
            with told(self.path):
                return {
                    key: Record(_STATES[state], np.nan if seconds is None else seconds, message, None, attempts)
                    for key, state, seconds, message, attempts in read_rows(
                        self._db, known, "state, seconds, message, attempts", keys
                    )
                }
        except KeyError as error:
            raise IntegrityError(f"{self.path} has a run in the unknown state {error}; {rescue(self.path)}") from error

    def put(self, campaign: Campaign, rows: Sequence[Row]) -> None:
        """Keep runs in one transaction; when this returns they are on the disk. A run of the same key is replaced.

        Raises
        ------
        CampaignError
            When the campaign is not registered; `CampaignLocked` when another process took the lease;
            `CampaignMismatch` when a key stands for another run.
        StorageError
            When the disk is full or may not be written to; what was put before is safe.
        """
        self._check_lease()
        known = self._find(campaign)
        if known is None:
            raise CampaignError(f"{self.path} does not know this campaign of {campaign.name!r}; register it first.")
        ended = datetime.now(UTC).isoformat(timespec="milliseconds")
        encoded = _encode(known, campaign.inputs, rows, ended)
        with told(self.path), transaction(self._db):
            before = self._db.total_changes
            self._db.executemany(_PUT, encoded)
            if self._db.total_changes - before != len(encoded):
                raise CampaignMismatch(f"{self.path} keeps another run under the key of a new one; use another path.")

    def outputs(self, campaign: Campaign, keys: Sequence[bytes]) -> dict[str, Array]:
        """Return the outputs of runs as arrays (len(keys), ...) in the order of the keys, NaN where a run has none.

        Raises
        ------
        IntegrityError
            When a run is not what was written.
        """
        known = self._find(campaign)
        if known is None:
            shapes = {name: part.shape for name, part in Layout.of(campaign).parts.items()}
            return {name: np.full((len(keys), *shape), np.nan) for name, shape in shapes.items()}
        return Outputs(self._db, self.path, known).of(keys)

    def _find(self, campaign: Campaign) -> Stored | None:
        """Return the campaign as it stands in the file; its layout must be that of the simulator."""
        if self._known is not None and self._known[0] is campaign:
            return self._known[1]
        found = read_campaigns(self._db, self.path, "WHERE id = ?", campaign.id)
        if not found:
            return None
        words = found[0].layout.differences(Layout.of(campaign))
        if words:
            raise CampaignMismatch(
                f"{self.path} holds runs of {campaign.name or 'this simulator'} with other outputs: "
                f"{'; '.join(words)}. Give the simulator another version, or choose another path."
            )
        self._known = campaign, found[0]
        return found[0]

    # ------------------------------------------------------------------------------------------------- what is in there
    def campaigns(self) -> "pd.DataFrame":
        """Return a table with one row for each campaign: simulator, inputs, how many runs ended how, their seconds."""
        from uqms.runs.selection import campaigns_table

        with self.moment():
            return campaigns_table(self._db, self.path)

    def runs(self, campaign: str | None = None) -> "pd.DataFrame":
        """Return a table with one row for each run of a campaign: key, inputs, state, seconds, message, seed.

        Parameters
        ----------
        campaign
            The simulator's name, or 6 characters or more of the beginning of the campaign's id; may be left out when
            there is one campaign.

        Raises
        ------
        InputError
            When it is not clear which campaign is meant; names all.
        """
        from uqms.runs.selection import runs_table

        with self.moment():
            return runs_table(*self._index(campaign))

    def ensemble(self, campaign: str | None = None) -> "xr.Dataset":
        """Return the runs of a campaign as an ensemble, without the simulator: what `uqms.run` returned.

        Its rows are ordered by their inputs, since the order in which runs ended says nothing.

        Parameters
        ----------
        campaign
            As in `runs`.
        """
        from uqms.runs.export import ensemble

        with self.moment():
            known, index = self._index(campaign)
            outputs = Outputs(self._db, self.path, known).of(index.keys)
        return ensemble(known, index, outputs)

    def export(self, path: str | os.PathLike[str], campaign: str | None = None) -> Path:
        """Write the runs of a campaign to a netCDF file (.nc) or a CSV table (.csv), which other programs read.

        The netCDF file is the ensemble, which `uqms.ensemble.from_netcdf` reads; it may be larger than the memory. The
        table has one row for each run and a column ``name[coordinate]`` for each entry of an output with dims. The file
        appears whole or not at all.

        Parameters
        ----------
        path
            Where to; the ending says what.
        campaign
            As in `runs`.

        Raises
        ------
        InputError
            When the ending is another one, or it is not clear which campaign is meant.
        StorageError
            When the file cannot be written.
        """
        from uqms.runs.export import export

        with self.moment():
            known, index = self._index(campaign)
            export(known, index, Outputs(self._db, self.path, known), Path(path))
        return Path(path)

    @contextmanager
    def moment(self) -> Iterator[None]:
        """Read everything in the block as it is at one moment, also while another process writes."""
        with told(self.path):
            self._db.execute("BEGIN")
        try:
            yield
        finally:
            if self._db.in_transaction:  # an error of the disk has ended it already
                self._db.execute("ROLLBACK")

    def _index(self, campaign: str | None) -> "tuple[Stored, Index]":
        from uqms.runs.selection import choose_campaign

        known = choose_campaign(self._db, self.path, campaign)
        return known, read_index(self._db, self.path, known)

    # ------------------------------------------------------------------------------------------------------------- care
    def invalidate(
        self,
        campaign: str | None = None,
        *,
        state: "States | Iterable[States] | None" = None,
        where: "Where | None" = None,
        before: datetime | str | None = None,
        keys: Iterable[str | bytes] | None = None,
        dry_run: bool = False,
    ) -> int:
        """Remove the runs that fit everything that is asked, in one step, so that they run again; return how many.

        Use it when some of the results are known to be wrong: a bug in one corner of the box, a broken node last night.

        Parameters
        ----------
        campaign
            As in `runs`; all campaigns when it is left out. Alone it removes all runs of that campaign. Where several
            have the name, give the id of one.
        state
            One or several states, such as "failed".
        where
            Input -> (low, high); both ends belong to it.
        before
            Runs that ended before this moment, a datetime or a text such as "2026-01-31"; without a zone it is meant in
            the time of this computer.
        keys
            Keys as in the table of `runs`.
        dry_run
            Count, but remove nothing.

        Raises
        ------
        InputError
            When nothing says which runs are meant, or a name is unknown.
        CampaignLocked
            When another process writes to the store.
        """
        from uqms.runs.selection import choose_runs

        if dry_run:
            with self.moment():
                return len(choose_runs(self._db, self.path, campaign, state, where, before, keys))
        with self.lease():
            chosen = choose_runs(self._db, self.path, campaign, state, where, before, keys)
            with told(self.path), transaction(self._db):
                self._db.executemany("DELETE FROM runs WHERE key = ?", [(key,) for key in chosen])
        return len(chosen)

    def integrity_check(self) -> None:
        """Read the whole file, compute all hashes again, and raise an IntegrityError when something is damaged.

        Checked are SQLite's own structure, the checksum of every run, and whether keys and ids follow from the
        identity, inputs and seeds that stand beside them.
        """
        from uqms.runs.care import check

        check(self._db, self.path)

    def salvage(self, target: str | os.PathLike[str]) -> int:
        """Write the runs that are well into a new store, and return how many; for a file that is damaged.

        Raises
        ------
        IntegrityError
            When nothing can be read any more.
        StorageError
            When the new store exists already or cannot be written.
        """
        from uqms.runs.care import salvage

        return salvage(self.path, Path(target))

    # ------------------------------------------------------------------------------------------------------------ lease
    @contextmanager
    def lease(self) -> Iterator[None]:
        """Be the only writer while the block runs.

        A lock whose process has died does not count.

        Raises
        ------
        CampaignLocked
            Names the process that writes.
        """
        if self._lease is not None:
            yield
            return
        self._check_writable()
        with hold(self.path, bool(self._network)) as self._lease:
            try:
                yield
            finally:
                self._lease = None

    def _check_writable(self) -> None:
        if self.readonly:
            raise StorageError(f"{self.path} was opened with readonly=True; open it with RunStore(path) to change it.")

    def _check_lease(self) -> None:
        self._check_writable()
        if self._lease is not None:
            self._lease.check()
        elif self._network:
            raise CampaignError(f"{self.path} lies on a disk of a network: write inside of `with store.lease():`.")


def _without_config(identity: str) -> dict[str, object]:
    return {key: value for key, value in json.loads(identity).items() if key != "config"}


def _encode(known: Stored, inputs: tuple[str, ...], rows: Sequence[Row], ended: str) -> list[tuple[object, ...]]:
    columns = sorted_columns(
        inputs, np.array([row.x for row in rows], dtype=np.float64).reshape(len(rows), len(inputs))
    )
    encoded: list[tuple[object, ...]] = []
    for row, values in zip(rows, columns, strict=True):
        record, x = row.record, values.tobytes()
        blob = None if record.outputs is None else known.layout.encode(record.outputs)
        seed = None if row.seed is None else int(row.seed)
        said = (int(row.replicate), int(record.state), float(record.seconds), int(record.attempts), record.message)
        encoded.append((row.key, known.number, x, seed, *said, ended, checksum(x, seed, *said, blob), blob))
    return encoded
