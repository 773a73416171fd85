"""One writer at a time for a run store, on local disks and on those of a network.

Local disks: the system's own lock (flock), which ends with its process. Disks of a network do not all know such locks,
nor the shared memory that SQLite's write-ahead log needs. There the lock is a file that only one can create. It says
who holds it, and its time of change is a heartbeat. A holder of this computer is asked for by its process and the
moment when that started. Of another computer nothing but the heartbeat is known, in the time of the disk itself; since
any clock may jump, a heartbeat that looks old is also watched before it counts as dead.
"""

import fcntl
import json
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import final

import psutil

from uqms.errors import CampaignLocked, StorageError

__all__ = ["Lease", "hold", "network_file_system"]

BEAT = 1.0  # seconds between two heartbeats
WATCH = 4.0  # seconds for which a heartbeat that looks old is watched
STALE = 60.0  # seconds after which it looks old

# No lock and no memory that programs on two computers could share, or only with options that nobody can ask for.
_NETWORK = frozenset(
    "9p afp afpfs afs beegfs beegfs_nodev ceph cifs coda davfs gfs gfs2 glusterfs gpfs lustre ncpfs nfs nfs3 nfs4 "
    "ocfs2 orangefs panfs prl_fs pvfs2 smb smb2 smb3 smbfs vboxsf virtiofs vmhgfs webdav wekafs".split()
)
_LOCAL_FUSE = frozenset(f"fuse.{name}" for name in "bindfs cryfs encfs fuse-overlayfs gocryptfs mergerfs".split())
_held: set[int] = set()  # locks of this process


def network_file_system(folder: Path) -> str | None:
    """Return the kind of file system on which a folder lies when several computers may use it, else None."""
    place = folder.resolve()
    mounts = [
        (len(Path(part.mountpoint).parts), index, part.fstype)
        for index, part in enumerate(psutil.disk_partitions(all=True))
        if place.is_relative_to(part.mountpoint)
    ]
    kind = max(mounts)[2].lower() if mounts else ""  # of two on the same place the later one is seen
    shared = kind in _NETWORK or (kind.startswith("fuse.") and kind not in _LOCAL_FUSE)
    return kind if shared else None


@final
class Lease:
    """What the holder knows of its lock."""

    def __init__(self) -> None:
        self.lost = ""

    def check(self) -> None:
        """Raise a CampaignLocked when somebody else took the lock, after a long halt of this process for instance."""
        if self.lost:
            raise CampaignLocked(f"{self.lost}; this process writes no more. Run again when the other has ended.")


@contextmanager
def hold(path: Path, network: bool) -> Iterator[Lease]:
    """Be the only writer of a run store while the block runs.

    Raises
    ------
    CampaignLocked
        Names the process that writes; after a few seconds at most.
    StorageError
        When the lock cannot be written.
    """
    lock = path.with_name(path.name + ".lock")
    with _by_file(path, lock) if network else _by_system(path, lock) as lease:
        yield lease


@contextmanager
def _told(lock: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{lock} cannot be written: {error}.") from error


def _locked(path: Path, holder: str) -> CampaignLocked:
    return CampaignLocked(f"{path} is being written by {holder}; wait until it has ended, or give another path.")


# ---------------------------------------------------------------------------------------------------------- local disks
@contextmanager
def _by_system(path: Path, lock: Path) -> Iterator[Lease]:
    with _told(lock):
        handle = _flock(path, lock)
    _held.add(handle)
    try:
        with _told(lock):
            os.ftruncate(handle, 0)
            os.write(handle, _named(_self()).encode())
        yield Lease()
    finally:
        if handle in _held:  # else this is a fork of the holder
            _held.remove(handle)
            lock.unlink(missing_ok=True)
            os.close(handle)


def _let_go() -> None:
    """Close the locks in a process that a holder has forked: they would outlive the holder in it."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)


def _flock(path: Path, lock: Path) -> int:
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock.exists() and os.path.samestat(os.fstat(handle), lock.stat()):
                return handle
        except BlockingIOError:
            holder = os.read(handle, 200).decode(errors="replace") or "another process"
            os.close(handle)
            raise _locked(path, holder) from None
        os.close(handle)  # the holder before us removed the file between our two steps


# --------------------------------------------------------------------------------------------------- disks of a network
@contextmanager
def _by_file(path: Path, lock: Path) -> Iterator[Lease]:
    mine = {**_self(), "token": uuid.uuid4().hex}
    with _told(lock):
        while not _create(lock, mine):
            _reclaim(path, lock)
    lease, stop = Lease(), threading.Event()
    beat = threading.Thread(target=_beat, args=(lock, mine, lease, stop), daemon=True, name="uqms-lease")
    beat.start()
    try:
        yield lease
    finally:
        stop.set()
        beat.join()
        if mine["pid"] == os.getpid() and _read(lock) == mine:  # not in a fork of the holder
            lock.unlink(missing_ok=True)


def _self() -> dict[str, object]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {**_place(), "pid": os.getpid(), "born": _born(os.getpid()), "since": now}


def _place() -> dict[str, object]:
    """Return what processes have in common that see each other: two containers may have one name."""
    boot, inside = "", ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        inside = os.readlink("/proc/self/ns/pid")
    return {"host": socket.gethostname(), "boot": boot, "inside": inside}


def _born(pid: int) -> str | None:
    """Return when a process started, None when there is none, in a count that no change of the clock moves."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return None if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def _create(lock: Path, mine: dict[str, object]) -> bool:
    try:
        handle = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    try:
        os.write(handle, json.dumps(mine).encode())
        os.fsync(handle)
    finally:
        os.close(handle)
    return True


def _read(lock: Path) -> dict[str, object] | None:
    """Return who holds the lock; {} when that is not written yet, None without a lock."""
    try:
        text = lock.read_text()
    except FileNotFoundError:
        return None
    try:
        said = json.loads(text)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _beat(lock: Path, mine: dict[str, object], lease: Lease, stop: threading.Event) -> None:
    while not stop.wait(BEAT):
        with suppress(OSError):  # the server may be away for a while
            holder = _read(lock)
            if holder != mine:
                lease.lost = f"the lock {lock} was taken by {_named(holder or {})}"
                return
            os.utime(lock)


def _reclaim(path: Path, lock: Path) -> None:
    """Remove the lock of a dead holder.

    Raises
    ------
    CampaignLocked
        When the holder lives.
    """
    holder = _read(lock)
    if holder is None:
        return
    here = _place()
    if all(holder.get(key) == value for key, value in here.items()):
        born = _born(int(str(holder.get("pid", 0))))
        alive = born is not None and born == holder.get("born")
    else:
        alive = _heartbeat(lock)
    if alive:
        raise _locked(path, _named(holder))
    aside = lock.with_name(f"{lock.name}.{uuid.uuid4().hex}")
    with suppress(FileNotFoundError):
        lock.rename(aside)  # of several that see the dead holder one succeeds
        taken = _read(aside)
        if taken != holder and taken:  # another was faster, and this is its new lock
            _create(lock, taken)
        aside.unlink()


def _heartbeat(lock: Path) -> bool:
    """Tell whether the holder of a lock lives, by the time of the disk and, where that looks old, by watching."""
    first = _changed(lock)
    if first is None or 0 <= _disk_time(lock.parent) - first < STALE:
        return first is not None
    end = time.monotonic() + WATCH
    while time.monotonic() < end:
        time.sleep(BEAT / 4)
        last = _changed(lock)
        if last != first:
            return last is not None
    return False


def _changed(lock: Path) -> float | None:
    try:
        handle = os.open(lock, os.O_RDONLY)  # opening asks the server; a plain stat may be answered from a cache
    except FileNotFoundError:
        return None
    try:
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)


def _disk_time(folder: Path) -> float:
    handle, name = tempfile.mkstemp(dir=folder, prefix=".uqms-time-")
    try:
        os.write(handle, b"?")
        os.fsync(handle)
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)
        os.unlink(name)


def _named(holder: dict[str, object]) -> str:
    if not holder:
        return "another process"
    return f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('since')}"
