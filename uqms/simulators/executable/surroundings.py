"""What a program finds around it: the variables of its environment, and its run directory."""

import fcntl
import functools
import hashlib
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from uqms.errors import InputError, StorageError

__all__ = ["clock", "content_hash", "environment", "fill", "masked", "run_folder", "sweep", "text_hash"]

_PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ")
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_SECRET = re.compile(r"TOKEN|SECRET|PASS|.PWD|PWD.|KEY|CREDENTIAL|AUTH", re.IGNORECASE)
_SETTLED = 2.0  # seconds; a file that is written again later has another time of change, on any disk
_TREE_FILES, _TREE_BYTES = 10_000, 2**30


def environment(given: Mapping[str, str], inherit: Iterable[str], folder: Path | None = None) -> dict[str, str]:
    """Return the variables of a run: few of the caller's, one thread, its own place for temporary files.

    What else the caller's environment holds (tokens, proxies, settings of other programs) stays there.
    """
    names = {*_PASSED_ON, *inherit, *(name for name in os.environ if name.startswith("LC_"))}
    found = {name: os.environ[name] for name in names if name in os.environ}
    return {**dict.fromkeys(_THREADS, "1"), **({} if folder is None else {"TMPDIR": str(folder)}), **found, **given}


def masked(text: str, given: Mapping[str, str], inherit: Iterable[str]) -> str:
    """Return a text of the program without values of variables that are called like secrets."""
    values = {**{name: os.environ.get(name, "") for name in inherit}, **given}
    for name, value in values.items():
        if _SECRET.search(name) and len(value) >= 4:
            text = text.replace(value, f"<{name}>")
    return text


@contextmanager
def run_folder(parent: Path | None, called: str, keep: bool) -> Iterator[Path]:
    """Make a run directory that nobody else has.

    It stays; but unless `keep`, a process that dies inside of the block leaves it to `sweep`.

    Raises
    ------
    StorageError
        When it cannot be made.
    """
    try:
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        # The lock is there before the directory, and goes with the process however that ends.
        lock, mark = tempfile.mkstemp(_running(), re.sub(r"[^\w.-]+", "_", called)[:40] + "-", parent)
        with suppress(OSError):  # a disk without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        folder = Path(mark.removesuffix(_running())).resolve()
        folder.mkdir(0o700)
    except OSError as error:
        raise StorageError(
            f"no run directory can be made in {parent or tempfile.gettempdir()}: {error.strerror}; give folder=... a "
            "folder with free space that may be written to."
        ) from error
    try:
        if keep:
            os.unlink(mark)
        yield folder
    finally:
        with suppress(FileNotFoundError):
            os.unlink(mark)
        os.close(lock)


def sweep(parent: Path | None) -> None:
    """Remove the run directories that dead processes of this machine have left."""
    for mark in Path(parent or tempfile.gettempdir()).glob(f"*{_running()}"):
        with suppress(OSError):  # its process lives, or another one was faster
            lock = os.open(mark, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                about = os.fstat(lock)
                if about.st_uid == os.getuid() and about.st_nlink == 1:  # otherwise the run has come to its end
                    shutil.rmtree(str(mark).removesuffix(_running()), ignore_errors=True)
                    os.unlink(mark)
            finally:
                os.close(lock)


def _running() -> str:
    # With the machine's name, since some disks keep locks to one machine.
    return "." + re.sub(r"[^\w-]+", "_", socket.gethostname()) + ".uqms-running"


def fill(folder: Path, texts: Mapping[str, str], files: Mapping[str, Path]) -> None:
    """Write texts and copies of files into a run directory.

    They get an old time of change: a program that leaves one of them as it was has not written it.

    Raises
    ------
    StorageError
        When the disk is full or a file is gone.
    """
    try:
        for name, text in texts.items():
            _parents(folder / name)
            (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        for name, source in files.items():
            _parents(folder / name)
            shutil.copy(source, folder / name)
        for name in (*texts, *files):
            os.utime(folder / name, (0, 0))
    except OSError as error:
        raise StorageError(f"the run directory {folder} cannot be filled: {error}.") from error


def _parents(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)


def clock(folder: Path) -> int:
    """Return the time in nanoseconds by the clock of the disk, which may be another machine's."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # Of a file that was made, not written to: a network disk keeps writing times by our clock for a while.
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError as error:
        raise StorageError(f"the run directory {folder} cannot be written to: {error.strerror}.") from error


def content_hash(path: Path) -> str:
    """Return the SHA-256 of what a file holds, or of all that is in a folder.

    Raises
    ------
    InputError
        When it cannot be read, or when a folder is too large for that.
    """
    try:
        return _tree_hash(path) if path.is_dir() else _file_hash(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def _file_hash(path: Path) -> str:
    about = path.stat()
    if time.time() - max(about.st_mtime, about.st_ctime) < _SETTLED:
        return _read_hash(path)
    # A file that changes changes one of these; so a large one is not read again for nothing.
    return _known_hash(path, about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


@functools.lru_cache(maxsize=2 * _TREE_FILES)
def _known_hash(path: Path, *_: int) -> str:
    return _read_hash(path)


def _read_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tree_hash(folder: Path) -> str:
    """Return the hash of names and contents; a link counts as what it leads to."""
    found: list[tuple[str, str]] = []
    size = 0
    for where, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        folders.sort()
        for path in (Path(where, name) for name in sorted([*files, *folders])):
            about = path.stat() if path.exists() else path.lstat()  # of a link that leads nowhere
            plain = stat.S_ISREG(about.st_mode)
            size += about.st_size if plain else 0
            if len(found) >= _TREE_FILES or size > _TREE_BYTES:
                raise InputError(
                    f"the folder {folder} holds more than {_TREE_FILES} files or {_TREE_BYTES / 2**20:.0f} MB, too "
                    "much to see each time whether it changed; give version=, your word for what the program computes."
                )
            found.append((path.relative_to(folder).as_posix(), _file_hash(path) if plain else ""))
    return text_hash(repr(found))


def _raise(error: OSError) -> None:
    raise error


def text_hash(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
