"""The run store: one SQLite file that saves every run as soon as it ends.

Contract
--------
- When `put` has returned, its runs are on the disk. SQLite uses a write-ahead log with full synchronisation, and runs
  that ended together are one transaction. A kill of the process or a power cut loses none of these runs.
- A run is found again by what it computes (`uqms.runs.campaign`). Several simulators can share a file.
- One process at a time writes (`lease`); any number of processes read. On network disks, where the write-ahead log does
  not work, SQLite uses a rollback journal instead, and readers wait for the writer.
- Nothing is pickled: inputs and outputs are little-endian float64, with a checksum for each run.
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
    """One run to be stored: key, inputs (d,) in the order of the campaign, record, seed, replicate."""

    key: bytes
    x: Array
    record: Record
    seed: int | None = None
    replicate: int = 0


@taught
@final
class RunStore:
    """A file of stored runs, so that no finished run is repeated.

    `uqms.run` opens a run store when it gets a path. Open it yourself to look at the stored runs, to export them or to
    remove runs. The command ``uqms runs`` does the same from the command line.

    Parameters
    ----------
    path
        The SQLite file, which is created if it does not exist. Its folder must exist; "~" is the home folder.
    readonly
        Open without changing anything. This also works while another process writes, and in a folder without write
        permission.

    Raises
    ------
    FormatError
        When the file is not a run store or is truncated. `FormatVersionError` when a newer version of uqms wrote it.
    IntegrityError
        When the file is damaged.
    StorageError
        When the file cannot be opened for writing.

    Warns
    -----
    DataWarning
        When the file is on a network disk.

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
        )  # links are resolved, so that all paths of a file have the same lock
        self.readonly = readonly
        folder = self.path.parent
        if self.path.is_dir():
            raise StorageError(f"{self.path} is a folder; give a file in it, such as {str(self.path / 'runs.db')!r}.")
        if not readonly and not folder.is_dir():
            raise StorageError(
                f"{self.path} cannot be created: there is no folder {folder}. Create the folder first, "
                f"pathlib.Path({str(folder)!r}).mkdir(parents=True), or give another path."
            )
        self._network = None if readonly else network_file_system(self.path.parent)
        self._known: tuple[Campaign, Stored] | None = None  # the campaign that was looked up last
        self._lease: Lease | None = None
        self._litter = readonly and not Path(f"{self.path}-wal").exists()
        with told(self.path):
            self._db = open_reading(self.path) if readonly else open_writing(self.path, self._network)
        if self._network:
            warnings.warn(
                f"{self.path} is on a network disk ({self._network}), where SQLite cannot use its write-ahead log. "
                "Writing is slower, and other processes wait while one process writes. Keep the store on a local "
                "disk instead, and copy the file afterwards.",
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
        """Write a campaign to the store, with everything that is needed to read its runs without the simulator.

        Parameters
        ----------
        campaign
            The campaign of the runs that will be stored.
        about
            Attributes of the design ("space", "box", "design", each JSON, and "rng"), which exports include, and as
            "runs" the `digest` of the runs to which "design" and "rng" apply.

        Raises
        ------
        CampaignMismatch
            When the stored runs of this campaign have other outputs, dims, coordinates or units.
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
        """Return the number of runs of simulators with the same name and a different identity.

        Simulators that differ only in their settings (`config`) are not counted: settings are changed on purpose.
        """
        known, mine = read_campaigns(self._db, self.path), _without_config(campaign.identity)
        numbers = [c.number for c in known if c.name == campaign.name and _without_config(c.identity) != mine]
        if not campaign.name or not numbers:
            return 0
        with told(self.path):
            return number(self._db, f"SELECT count(*) FROM runs WHERE campaign IN ({', '.join(map(str, numbers))})")

    def has_runs(self, campaign: Campaign) -> bool:
        """Return whether the store has any run of a campaign."""
        known = self._find(campaign)
        if known is None:
            return False
        with told(self.path):
            return number(self._db, f"SELECT EXISTS (SELECT 1 FROM runs WHERE campaign = {known.number})") == 1

    def kept(self, campaign: Campaign, keys: Collection[bytes] | None = None) -> dict[bytes, Record]:
        """Return records of a campaign by key, without outputs: of all runs, or of the runs with these keys."""
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
            raise IntegrityError(
                f"{self.path} is damaged: a run has the unknown state {error}; {rescue(self.path)}"
            ) from error

    def put(self, campaign: Campaign, rows: Sequence[Row]) -> None:
        """Store runs in one transaction; when this returns, they are on the disk. A run with the same key is replaced.

        Raises
        ------
        CampaignError
            When the campaign is not registered. `CampaignLocked` when another process took the lock.
            `CampaignMismatch` when the store has a different run under a key.
        StorageError
            When the disk is full or cannot be written to. Runs that were stored before are safe.
        """
        self._check_lease()
        known = self._find(campaign)
        if known is None:
            raise CampaignError(
                f"this campaign of {campaign.name!r} is not registered in {self.path}; call store.register(campaign) "
                "first."
            )
        ended = datetime.now(UTC).isoformat(timespec="milliseconds")
        encoded = _encode(known, campaign.inputs, rows, ended)
        with told(self.path), transaction(self._db):
            before = self._db.total_changes
            self._db.executemany(_PUT, encoded)
            if self._db.total_changes - before != len(encoded):
                raise CampaignMismatch(
                    f"{self.path} has a different run under the key of a new run, so the new run cannot be stored; "
                    "give another path."
                )

    def outputs(self, campaign: Campaign, keys: Sequence[bytes]) -> dict[str, Array]:
        """Return the outputs of runs as arrays (len(keys), ...) in the order of the keys, NaN if a run has no outputs.

        Raises
        ------
        IntegrityError
            When a run was changed after it was written.
        """
        known = self._find(campaign)
        if known is None:
            shapes = {name: part.shape for name, part in Layout.of(campaign).parts.items()}
            return {name: np.full((len(keys), *shape), np.nan) for name, shape in shapes.items()}
        return Outputs(self._db, self.path, known).of(keys)

    def _find(self, campaign: Campaign) -> Stored | None:
        """Return the campaign as it is stored, or None; raise if its layout is not the layout of the simulator."""
        if self._known is not None and self._known[0] is campaign:
            return self._known[1]
        found = read_campaigns(self._db, self.path, "WHERE id = ?", campaign.id)
        if not found:
            return None
        words = found[0].layout.differences(Layout.of(campaign))
        if words:
            raise CampaignMismatch(
                f"{self.path} holds runs of {campaign.name or 'this simulator'} with other outputs: "
                f"{'; '.join(words)}. Give the simulator a new version, version='2', or give another path."
            )
        self._known = campaign, found[0]
        return found[0]

    # ------------------------------------------------------------------------------------------------- what is in there
    def campaigns(self) -> "pd.DataFrame":
        """Return a table with one row per campaign: simulator, inputs, number of runs by state, total seconds."""
        from uqms.runs.selection import campaigns_table

        with self.moment():
            return campaigns_table(self._db, self.path)

    def runs(self, campaign: str | None = None) -> "pd.DataFrame":
        """Return a table with one row per run of a campaign: key, inputs, state, seconds, message, seed.

        Parameters
        ----------
        campaign
            The name of the simulator, or at least 6 characters of the beginning of the campaign's id. It is not needed
            if the store has one campaign.

        Raises
        ------
        InputError
            When no campaign or several campaigns match; the message lists them.
        """
        from uqms.runs.selection import runs_table

        with self.moment():
            return runs_table(*self._index(campaign))

    def ensemble(self, campaign: str | None = None) -> "xr.Dataset":
        """Return the runs of a campaign as an ensemble, as `uqms.run` returned it; the simulator is not needed.

        The rows are sorted by their inputs, since the order in which runs ended has no meaning.

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

        The netCDF file is the ensemble, which `uqms.ensemble.from_netcdf` reads. It may be larger than the memory. The
        CSV table has one row per run, and a column ``name[coordinate]`` for each entry of an output with dims. The file
        is written completely or not at all.

        Parameters
        ----------
        path
            Path of the file; its ending, ``.nc`` or ``.csv``, selects the format.
        campaign
            As in `runs`.

        Raises
        ------
        InputError
            When the path has another ending, or no campaign or several campaigns match.
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
        """Read everything in the block as it was at one moment, also while another process writes."""
        with told(self.path):
            self._db.execute("BEGIN")
        try:
            yield
        finally:
            if self._db.in_transaction:  # an error of the disk has ended the transaction already
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
        """Remove the runs that match all conditions, so that they run again; return their number.

        Use it when some of the results are known to be wrong, for example because of an error in one corner of the box,
        or of a broken computer last night. All runs are removed in one transaction.

        Parameters
        ----------
        campaign
            As in `runs`; by default runs of all campaigns. Without another condition, all runs of the campaign are
            removed. If several campaigns have the same name, give the id of one of them.
        state
            One or several states, such as "failed".
        where
            Mapping of input names to ranges (low, high), which include both ends.
        before
            Runs that ended before this time: a datetime, or a text such as "2026-01-31". A time without a zone is in
            the time zone of this computer.
        keys
            Keys from the table that `runs` returns.
        dry_run
            Return the number of runs, but do not remove them.

        Raises
        ------
        InputError
            When there is no condition, or a name is unknown.
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
        """Read the whole file, recompute all hashes, and raise an IntegrityError if something is damaged.

        It checks SQLite's own structure, the checksum of every run, and that keys and ids match the stored identities,
        inputs and seeds.
        """
        from uqms.runs.care import check

        check(self._db, self.path)

    def salvage(self, target: str | os.PathLike[str]) -> int:
        """Write the undamaged runs of a damaged file to a new store, and return their number.

        Raises
        ------
        IntegrityError
            When no run can be read.
        StorageError
            When the new store exists already or cannot be written.
        """
        from uqms.runs.care import salvage

        return salvage(self.path, Path(target))

    # ------------------------------------------------------------------------------------------------------------ lease
    @contextmanager
    def lease(self) -> Iterator[None]:
        """Hold the lock of the store while the block runs, so that no other process writes to it.

        A lock whose process has died does not count.

        Raises
        ------
        CampaignLocked
            When another process writes to the store; the message names the process.
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
            raise StorageError(
                f"{self.path} was opened with readonly=True and cannot be changed; open it with uq.RunStore(path) "
                "instead."
            )

    def _check_lease(self) -> None:
        self._check_writable()
        if self._lease is not None:
            self._lease.check()
        elif self._network:
            raise CampaignError(
                f"{self.path} is on a network disk, where writing requires the lock; write within "
                "`with store.lease():`."
            )


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
