"""What a program finds around it: the variables of its environment, and its run directory."""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from uqms.errors import InputError, StorageError

__all__ = ["clock", "content_hash", "environment", "fill", "masked", "new_folder", "text_hash"]

_PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ")
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|KEY|CREDENTIAL|AUTH", re.IGNORECASE)


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


def new_folder(parent: Path | None, called: str) -> Path:
    """Make a run directory that nobody else has.

    Raises
    ------
    StorageError
        When it cannot be made.
    """
    try:
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=re.sub(r"[^\w.-]+", "_", called)[:40] + "-", dir=parent)).resolve()
    except OSError as error:
        raise StorageError(
            f"no run directory can be made in {parent or tempfile.gettempdir()}: {error.strerror}; give folder=... a "
            "folder with free space that may be written to."
        ) from error


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
    """Return the SHA-256 of what a file holds.

    Raises
    ------
    InputError
        When it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def text_hash(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
