"""Files inside a run directory, and nowhere else."""

import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath

from uqms.errors import OutputError, PathError

__all__ = ["LOG", "inside", "result_file"]

LOG = "uqms.log"  # what a program says, in its run directory


def inside(path: object, what: str) -> str:
    """Return the name of a file below the run directory.

    Raises
    ------
    PathError
        When it is absolute, leads out through ``..`` or is no name of a file.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str) or "\0" in text or not text.strip() or text.endswith("/"):
        raise PathError(f"{what} is {path!r}; give the name of a file in the run directory, such as 'result.json'.")
    parts = PurePosixPath(text)
    if parts.is_absolute() or PureWindowsPath(text).anchor or ".." in parts.parts or not parts.parts:
        raise PathError(f"{what} is {text!r}, which leads out of the run directory; give a relative path without '..'.")
    return str(parts)


def result_file(folder: Path, name: str, limit: int) -> Path:
    """Return a file that a run has left, when it is a plain file inside the run directory.

    Raises
    ------
    OutputError
        When there is none, when it is empty, no plain file, or larger than `limit` bytes.
    PathError
        When a link leads out of the run directory.
    """
    path = folder / name
    try:
        target = path.resolve(strict=True)
        about = target.stat()
    except FileNotFoundError:
        raise OutputError(f"the run left no {name}; it left {_listed(folder)}.") from None
    except OSError as error:  # a link to itself, a file where a folder should be
        raise OutputError(f"{name} cannot be read: {error.strerror}; the run left {_listed(folder)}.") from error
    if not target.is_relative_to(folder.resolve()):
        raise PathError(f"{name} is a link that leads out of the run directory; the simulator must write the file.")
    if not stat.S_ISREG(about.st_mode):
        raise OutputError(f"{name} is not a plain file; the simulator must write one.")
    if about.st_size == 0:
        raise OutputError(f"{name} is empty; did the simulator stop early, or is the disk full?")
    if about.st_size > limit:
        raise OutputError(
            f"{name} holds {about.st_size / 2**20:.0f} MB, more than the {limit / 2**20:.0f} MB that may be read; "
            "write less, or raise the reader's size_limit."
        )
    return path


def _listed(folder: Path) -> str:
    names = sorted(entry.name for entry in os.scandir(folder))
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return (", ".join(names[:10]) + more) if names else "nothing"
