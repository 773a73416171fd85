"""Locks that allow one process at a time to write to a run store, on local disks and on network disks.

On a local disk, the lock is the system's own lock of a file (flock), which ends with its process. Some network disks
support neither such locks nor the shared memory that SQLite's write-ahead log needs. There, the lock is a file that
only one process can create. The file names the process that holds the lock, and its modification time is a heartbeat.

A lock counts as dead when its process has ended. On the same computer, the process is identified by its number and the
time at which it started. If the process is on another computer, only the heartbeat is known, in the time of the disk.
Since clocks may jump, an old heartbeat is also watched for a while before the lock counts as dead.
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
WATCH = 4.0  # seconds for which an old heartbeat is watched
STALE = 60.0  # seconds after which a heartbeat is old

# File systems of several computers. They have no locks and no shared memory across computers, or only with mount
# options that a program cannot query.
_NETWORK = frozenset(
    "9p afp afpfs afs beegfs beegfs_nodev ceph cifs coda davfs gfs gfs2 glusterfs gpfs lustre ncpfs nfs nfs3 nfs4 "
    "ocfs2 orangefs panfs prl_fs pvfs2 smb smb2 smb3 smbfs vboxsf virtiofs vmhgfs webdav wekafs".split()
)
_LOCAL_FUSE = frozenset(f"fuse.{name}" for name in "bindfs cryfs encfs fuse-overlayfs gocryptfs mergerfs".split())
_held: set[int] = set()  # file descriptors of the locks that this process holds


def network_file_system(folder: Path) -> str | None:
    """Return the type of the file system of a folder if several computers may share it, else None."""
    place = folder.resolve()
    mounts = [
        (len(Path(part.mountpoint).parts), index, part.fstype)
        for index, part in enumerate(psutil.disk_partitions(all=True))
        if place.is_relative_to(part.mountpoint)
    ]
    kind = max(mounts)[2].lower() if mounts else ""  # of two mounts at the same place, the later mount is visible
    shared = kind in _NETWORK or (kind.startswith("fuse.") and kind not in _LOCAL_FUSE)
    return kind if shared else None


@final
class Lease:
    """The lock that this process holds; `lost` is the reason if another process took it."""

    def __init__(self) -> None:
        self.lost = ""

    def check(self) -> None:
        """Raise CampaignLocked if another process took the lock, for example after this process was suspended."""
        if self.lost:
            raise CampaignLocked(
                f"{self.lost}, so this process no longer writes to the store. Repeat the call when the other process "
                "has ended; runs that were stored before are safe."
            )


@contextmanager
def hold(path: Path, network: bool) -> Iterator[Lease]:
    """Hold the lock of a run store while the block runs, so that no other process writes to it.

    Raises
    ------
    CampaignLocked
        When another process holds the lock, after a few seconds at most; the message names the process.
    StorageError
        When the lock file cannot be written.
    """
    lock = path.with_name(path.name + ".lock")
    with _by_file(path, lock) if network else _by_system(path, lock) as lease:
        yield lease


@contextmanager
def _told(lock: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"the lock file {lock} cannot be written: {error}. Check the permissions of the folder and the free space."
        ) from error


def _locked(path: Path, holder: str) -> CampaignLocked:
    return CampaignLocked(
        f"{path} is being written by {holder}; wait until that process has ended, or give another path."
    )


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
        if handle in _held:  # otherwise this process is a fork of the process that holds the lock
            _held.remove(handle)
            lock.unlink(missing_ok=True)
            os.close(handle)


def _let_go() -> None:
    """Close the locks in a forked process, where they would stay locked after the original process has ended."""
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
        os.close(handle)  # the previous holder removed the file after it was opened here: try again


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
        if mine["pid"] == os.getpid() and _read(lock) == mine:  # a fork must not remove the lock of its parent
            lock.unlink(missing_ok=True)


def _self() -> dict[str, object]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {**_place(), "pid": os.getpid(), "born": _born(os.getpid()), "since": now}


def _place() -> dict[str, object]:
    """Return what identifies this computer or container; two containers may have the same host name."""
    boot, inside = "", ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        inside = os.readlink("/proc/self/ns/pid")
    return {"host": socket.gethostname(), "boot": boot, "inside": inside}


def _born(pid: int) -> str | None:
    """Return the start time of a process, or None if it has ended, in ticks that do not depend on the clock."""
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
    """Return the holder of the lock, {} if it is not written yet, None if there is no lock."""
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
        with suppress(OSError):  # the file server may be unavailable for a while
            holder = _read(lock)
            if holder != mine:
                lease.lost = f"the lock {lock} was taken by {_named(holder or {})}"
                return
            os.utime(lock)


def _reclaim(path: Path, lock: Path) -> None:
    """Remove the lock of a process that has ended.

    Raises
    ------
    CampaignLocked
        When the process still runs.
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
        lock.rename(aside)  # of several processes that find the dead lock, only one can rename it
        taken = _read(aside)
        if taken != holder and taken:  # another process was faster; restore its new lock
            _create(lock, taken)
        aside.unlink()


def _heartbeat(lock: Path) -> bool:
    """Return whether the heartbeat of a lock is recent by the time of the disk, or else changes while it is watched."""
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
        handle = os.open(lock, os.O_RDONLY)  # opening queries the file server; os.stat may return a cached value
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
