"""Open SQLite connections to a run store with safe settings, and translate SQLite's errors into errors of uqms."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from uqms.errors import CampaignError, CampaignLocked, FormatError, FormatVersionError, IntegrityError, StorageError
from uqms.runs.format import APPLICATION, FORMAT, OBJECTS, create
from uqms.runs.lease import hold
from uqms.runs.upgrade import convert, upgrade

__all__ = [
    "connect_reading",
    "number",
    "open_reading",
    "open_writing",
    "rescue",
    "tidy",
    "told",
    "transaction",
]

_PATIENCE = 30.0  # seconds that a statement waits for another connection
_MAGIC = b"SQLite format 3\0"
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_NO_SQLITE = "{path} is not a run store, since it is no SQLite file; give another path."


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Translate SQLite's errors in the block into errors of uqms."""
    try:
        yield
    except sqlite3.ProgrammingError as error:
        raise CampaignError(
            f"{path}: {error} A RunStore can be used until it is closed, and only in the thread that opened it; open "
            "another one: uq.RunStore(path)."
        ) from error
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_NOTADB:
            raise FormatError(_NO_SQLITE.format(path=path)) from error
        if code == sqlite3.SQLITE_CORRUPT:
            raise IntegrityError(f"{path} is damaged ({error}); {rescue(path)}") from error
        if code in _LOCKED:
            raise CampaignLocked(
                f"{path} is in use by another process ({error}); wait until that process has ended, then repeat the "
                "call. Runs that were stored before are safe."
            ) from error
        raise StorageError(
            f"{path} cannot be used ({error}); check the folder, its permissions and the free space, then repeat the "
            "call. Runs that were stored before are safe."
        ) from error


def rescue(path: Path) -> str:
    """Return the advice for a damaged file, for the end of a message."""
    return f'save the undamaged runs to a new file from the command line: uqms runs salvage "{path}" NEW.db'


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Run the block as one transaction: all of its changes are stored, or none."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk has ended the transaction already
            db.execute("ROLLBACK")
        raise


def number(db: sqlite3.Connection, query: str) -> int:
    """Return the result of a query that gives one number."""
    return int(db.execute(query).fetchone()[0])


def open_writing(path: Path, network: str | None) -> sqlite3.Connection:
    """Open a run store for writing; create it if it does not exist, and convert an older format to the current one."""
    _refuse_truncated(path)
    # The path is made absolute, so that SQLite does not interpret it as a URI or as a special name.
    db = sqlite3.connect(path.absolute(), timeout=_PATIENCE, isolation_level=None)
    try:
        if network:
            # SQLite has no shared memory on a network disk. Even to leave the mode of the write-ahead log, this
            # connection must be the only one.
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
        found = _format(path, db)
        mode = "DELETE" if network else "WAL"
        if db.execute(f"PRAGMA journal_mode = {mode}").fetchone()[0].upper() != mode:
            raise StorageError(
                f"{path} cannot be switched to the journal mode {mode}, since another process has it open; wait until "
                "that process has ended, then repeat the call."
            )
        db.execute("PRAGMA locking_mode = NORMAL")
        db.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # SQLite releases the lock with the next access
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        if found == 0:
            with transaction(db):
                if _format(path, db) == 0:  # another process may have created the tables meanwhile
                    create(db)
        elif found < FORMAT:
            with hold(path, bool(network)), transaction(db):
                if _format(path, db) < FORMAT:
                    upgrade(db, path)
    except BaseException:
        db.close()
        raise
    return db


def open_reading(path: Path) -> sqlite3.Connection:
    """Open a run store without changing it; an older format is converted into a private temporary database."""
    _refuse_truncated(path)
    db = connect_reading(path)
    try:
        found = _format(path, db)
        if found == 0:
            raise FormatError(f"{path} is empty, so it is not a run store; check the path.")
        if found == FORMAT:
            return db
    except BaseException:
        db.close()
        raise
    with closing(db):
        newer = sqlite3.connect("", isolation_level=None)
        try:
            with transaction(newer):
                create(newer)
                convert(db, newer, path)
        except BaseException:
            newer.close()
            raise
    return newer


def connect_reading(path: Path, damaged: bool = False) -> sqlite3.Connection:
    """Return a read-only connection, also while another process writes, and in a folder without write permission.

    With `damaged`, a file that is shorter than its header states is opened too.
    """
    if not path.is_file():
        raise StorageError(f"there is no file {path}; check the path.")
    uri = path.absolute().as_uri()
    db = sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=_PATIENCE, isolation_level=None)
    try:
        if damaged:
            db.execute("PRAGMA writable_schema = ON")
        db.execute("PRAGMA schema_version").fetchone()
    except sqlite3.OperationalError:
        db.close()
        log = Path(f"{path}-wal")
        if log.exists() and log.stat().st_size:
            raise
        # SQLite needs a file for the shared memory of the write-ahead log. If it cannot be created in this folder, no
        # other process can write to the store either, so the file does not change while it is read.
        return sqlite3.connect(f"{uri}?mode=ro&immutable=1", uri=True, isolation_level=None)
    except BaseException:
        db.close()
        raise
    return db


def tidy(path: Path) -> None:
    """Remove the files that reading has created next to the store, unless another process uses them."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(path.absolute(), timeout=0.0)) as db:
        db.execute("PRAGMA schema_version").fetchone()  # SQLite removes the files when the last connection closes


def _format(path: Path, db: sqlite3.Connection) -> int:
    """Return the format of the file, 0 for a new file."""
    application, found = number(db, "PRAGMA application_id"), number(db, "PRAGMA user_version")
    if application == 0 and found == 0 and number(db, "SELECT count(*) FROM sqlite_schema") == 0:
        return 0
    if application != APPLICATION or found < 1:
        raise FormatError(f"{path} is an SQLite file, but not a run store; give another path.")
    if found > FORMAT:
        raise FormatVersionError(
            f"{path} has format {found}, but this version of uqms reads formats up to {FORMAT}; update uqms: "
            "pip install --upgrade uqms."
        )
    _refuse_foreign_objects(path, db, found)
    return found


def _refuse_foreign_objects(path: Path, db: sqlite3.Connection, found: int) -> None:
    """Raise a FormatError for tables, indices, triggers and views that uqms did not create.

    SQLite runs the SQL of a trigger whenever a run is written, and a view can replace a table.
    """
    ours = OBJECTS[found]
    foreign = []
    for kind, name, table, sql in db.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY rowid"):
        of_key = kind == "index" and sql is None and ("table", table) in ours  # SQLite's own index of a UNIQUE column
        statistics = kind == "table" and str(name).startswith("sqlite_stat")  # written by SQLite's ANALYZE
        if (kind, name) not in ours and not of_key and not statistics:
            foreign.append((str(kind), str(name)))
    if foreign:
        kind, name = foreign[0]
        drop = f"DROP {kind.upper()} " + '"' + name.replace('"', '""') + '"'
        raise FormatError(
            f"{path} contains {', '.join(f'the {kind} {name!r}' for kind, name in foreign[:3])}, which uqms did not "
            f"make. A run store has only the tables {' and '.join(n for k, n in ours if k == 'table')}, since the SQL "
            "of a trigger or a view could change runs when they are written or read. Copy the runs to a new file from "
            f'the command line, uqms runs salvage "{path}" NEW.db; or, if you added the {kind} yourself, remove it '
            f"with sqlite3: {drop};"
        )


def _refuse_truncated(path: Path) -> None:
    """Raise a FormatError if the file is shorter than its header states."""
    log = Path(f"{path}-wal")
    if not path.is_file() or (log.exists() and log.stat().st_size):  # the write-ahead log may hold the missing pages
        return
    try:
        with path.open("rb") as file:
            head = file.read(100)
            held = os.fstat(file.fileno()).st_size
    except OSError:  # SQLite will report a more specific error
        return
    if not held:  # SQLite creates an empty file before it writes anything
        return
    if not head.startswith(_MAGIC):
        raise FormatError(_NO_SQLITE.format(path=path))
    page = int.from_bytes(head[16:18], "big")
    claimed = (65536 if page == 1 else page) * int.from_bytes(head[28:32], "big")
    if held < 100 or (head[24:28] == head[92:96] and held < claimed):
        raise FormatError(f"{path} is truncated to {held} of {claimed} bytes; {rescue(path)}")
