"""SQLite's connections to a run store: opened with what makes it safe, its errors told as ours."""

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

_PATIENCE = 30.0  # seconds for which a statement waits for another connection
_MAGIC = b"SQLite format 3\0"
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.ProgrammingError as error:
        raise CampaignError(
            f"{path}: {error} A store works until it is closed, in the thread that opened it; open another one there: "
            "RunStore(path)."
        ) from error
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_NOTADB:
            raise FormatError(f"{path} is not a run store (no SQLite file); choose another path.") from error
        if code == sqlite3.SQLITE_CORRUPT:
            raise IntegrityError(f"{path} is damaged ({error}); {rescue(path)}") from error
        if code in _LOCKED:
            raise CampaignLocked(
                f"{path} is in use by another process ({error}); wait until it has ended, then run again: what was "
                "kept before is safe."
            ) from error
        raise StorageError(
            f"{path} cannot be used ({error}); check the folder, its rights and the free space, then run "
            "again: what was kept before is safe."
        ) from error


def rescue(path: Path) -> str:
    """Return what to do with a damaged file."""
    return f'take the runs that are well into a new file: uqms runs salvage "{path}" NEW.db'


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Do all of the block or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk has ended it already
            db.execute("ROLLBACK")
        raise


def number(db: sqlite3.Connection, query: str) -> int:
    """Return the one number that a query gives."""
    return int(db.execute(query).fetchone()[0])


def open_writing(path: Path, network: str | None) -> sqlite3.Connection:
    """Open a run store for writing; make it when it is not there, bring an older format up to date."""
    _refuse_truncated(path)
    # A path that is a URI or a folder would be opened as something else than meant.
    db = sqlite3.connect(path.absolute(), timeout=_PATIENCE, isolation_level=None)
    try:
        if network:
            # Without shared memory nobody else may have the write-ahead log open, be it only to leave it.
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
        found = _format(path, db)
        mode = "DELETE" if network else "WAL"
        if db.execute(f"PRAGMA journal_mode = {mode}").fetchone()[0].upper() != mode:
            raise StorageError(f"{path} cannot be switched to the journal mode {mode}; another process has it open.")
        db.execute("PRAGMA locking_mode = NORMAL")
        db.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # gives the lock back
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        if found == 0:
            with transaction(db):
                if _format(path, db) == 0:  # another process may have come first
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
            raise FormatError(f"{path} is empty; it is not a run store.")
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
    """Return a connection that cannot write, whether or not another process writes and the folder can be written to.

    `damaged` opens a file that is shorter than it says, too.
    """
    if not path.is_file():
        raise StorageError(f"{path} is not there, or is no file; check the path.")
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
        # The write-ahead log needs a file for its memory beside it. Where that cannot be made nobody writes either.
        return sqlite3.connect(f"{uri}?mode=ro&immutable=1", uri=True, isolation_level=None)
    except BaseException:
        db.close()
        raise
    return db


def tidy(path: Path) -> None:
    """Remove the files that reading has made beside the store, unless somebody uses them."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(path.absolute(), timeout=0.0)) as db:
        db.execute("PRAGMA schema_version").fetchone()  # the last one that closes a store takes them away


def _format(path: Path, db: sqlite3.Connection) -> int:
    """Return the format of the file, 0 for one that is new."""
    application, found = number(db, "PRAGMA application_id"), number(db, "PRAGMA user_version")
    if application == 0 and found == 0 and number(db, "SELECT count(*) FROM sqlite_schema") == 0:
        return 0
    if application != APPLICATION or found < 1:
        raise FormatError(f"{path} is an SQLite file, but not a run store; choose another path.")
    if found > FORMAT:
        raise FormatVersionError(f"{path} has format {found}, this uqms reads up to {FORMAT}; update uqms.")
    _refuse_foreign_objects(path, db, found)
    return found


def _refuse_foreign_objects(path: Path, db: sqlite3.Connection, found: int) -> None:
    """Raise a FormatError for tables, indices, triggers and views that uqms did not make.

    SQLite runs the SQL of a trigger whenever a run is written, and a view may stand in the place of a table.
    """
    ours = OBJECTS[found]
    foreign = []
    for kind, name, table, sql in db.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY rowid"):
        of_key = kind == "index" and sql is None and ("table", table) in ours  # SQLite makes these for UNIQUE columns
        statistics = kind == "table" and str(name).startswith("sqlite_stat")  # of ANALYZE
        if (kind, name) not in ours and not of_key and not statistics:
            foreign.append((str(kind), str(name)))
    if foreign:
        kind, name = foreign[0]
        drop = f"DROP {kind.upper()} " + '"' + name.replace('"', '""') + '"'
        raise FormatError(
            f"{path} contains {', '.join(f'the {kind} {name!r}' for kind, name in foreign[:3])}, which uqms did not "
            f"make. A run store has the tables {' and '.join(n for k, n in ours if k == 'table')} only; SQL of "
            "a trigger or view would change runs as they are written or read. Take the runs into a new file, "
            f'uqms runs salvage "{path}" NEW.db; or, if you added it yourself, remove it with sqlite3: {drop};'
        )


def _refuse_truncated(path: Path) -> None:
    """Raise a FormatError when the file is shorter than its header says."""
    log = Path(f"{path}-wal")
    if not path.is_file() or (log.exists() and log.stat().st_size):  # what is missing may stand in the log
        return
    try:
        with path.open("rb") as file:
            head = file.read(100)
            held = os.fstat(file.fileno()).st_size
    except OSError:  # SQLite says it better
        return
    if not held:  # what SQLite makes before it writes anything
        return
    if not head.startswith(_MAGIC):
        raise FormatError(f"{path} is not a run store (no SQLite file); choose another path.")
    page = int.from_bytes(head[16:18], "big")
    claimed = (65536 if page == 1 else page) * int.from_bytes(head[28:32], "big")
    if held < 100 or (head[24:28] == head[92:96] and held < claimed):
        raise FormatError(f"{path} is truncated ({held} of {claimed} bytes); {rescue(path)}")
