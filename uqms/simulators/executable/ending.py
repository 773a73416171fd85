"""Whether a run of a program is worth anything: how it ended, what it said, what it left."""

import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from uqms.errors import OutputError, PathError, SimulatorError, SimulatorFailed, SimulatorTimeout, UnsafeFileError
from uqms.simulators._labels import aligned, refuse_other_places
from uqms.simulators.contract import Coordinate
from uqms.simulators.executable.result_readers import Reader
from uqms.simulators.executable.supervised import Ended

__all__ = ["judge", "results"]

Read = Sequence[Reader] | Callable[[Path], object]


def judge(name: str, ended: Ended, success: Sequence[int], memory: int | None, log_limit: float) -> None:
    """Raise when a program did not end with success."""
    if ended.timed_out:
        others = f" with {ended.left} processes that it had started" if ended.left else ""
        done = f"it was killed{others}" if ended.returncode is not None else "the system does not let it die"
        raise SimulatorTimeout(f"{name} did not end within {ended.seconds:.3g} s; {done}.")
    if ended.log_too_large:
        raise SimulatorFailed(
            f"{name} wrote more than {log_limit / 2**20:.3g} MB to its log and was killed; make "
            "it print less, or raise log_limit."
        )
    code = ended.returncode
    if code in success and ended.error_line is not None:
        raise SimulatorFailed(
            f"{name} ended with success, but printed {ended.error_line!r}; when that means no failure, give "
            "error_pattern=None or another one."
        )
    if code in success:
        return
    limit = "" if memory is None else f" It may have {memory / 2**20:.0f} MB of memory."
    if code is None or code < 0:
        raise SimulatorFailed(f"{name} was ended by the signal {_signal(code)}.{limit}")
    libraries = "shared librar" in ended.tail or "Library not loaded" in ended.tail
    hint = " Few of your environment variables reach it: inherit=('LD_LIBRARY_PATH',)." if libraries else ""
    if code > 128 and (called := _signal(128 - code)).startswith("SIG"):
        hint = f" A shell or a launcher returns this code when its program was ended by {called}." + hint
    raise SimulatorFailed(f"{name} ended with the exit code {code}.{limit}{hint}")


def _signal(code: int | None) -> str:
    try:
        called = signal.Signals(-(code or 0)).name
    except ValueError:
        called = str(code)
    return called + (": out of memory?" if called == "SIGKILL" else "")


def results(
    read: Read,
    folder: Path,
    begin: int,
    outputs: Mapping[str, tuple[str, ...]],
    coords: Mapping[str, Coordinate],
    units: Mapping[str, str],
) -> dict[str, object]:
    """Return what a run has left; `begin` is the time of its start.

    Raises
    ------
    OutputError
        When a file is missing, damaged or older than the run, or has other coordinates or units than declared.
    """
    try:
        got = _read(read, folder, begin, outputs, coords)
    except (SimulatorError, PathError, UnsafeFileError):
        raise
    except Exception as error:  # a user's function meets what is missing or cut off
        raise OutputError(f"the results cannot be read: {type(error).__name__}: {error}.") from error
    return {name: aligned(name, got[name], outputs.get(name, ()), coords, units.get(name)) for name in got}


def _read(
    read: Read,
    folder: Path,
    begin: int,
    outputs: Mapping[str, tuple[str, ...]],
    coords: Mapping[str, Coordinate],
) -> dict[str, object]:
    if not isinstance(read, Sequence):
        got = read(folder)
        if isinstance(got, Mapping):
            return _without_places("the run", got, coords)
        if len(outputs) == 1:
            return dict.fromkeys(outputs, got)
        raise OutputError(f"read returned {type(got).__name__}; return a mapping with {', '.join(outputs)}.")
    found: dict[str, object] = {}
    for reader in read:
        wanted = {name: dims for name, dims in outputs.items() if reader.names is None or name in reader.names}
        got = reader.read(folder, wanted)
        _refuse_stale(folder, reader.path, begin)  # now that it is known to be a file of this directory
        for name, value in _without_places(reader.path, got, coords).items():
            if name in found:
                raise OutputError(f"output {name!r} stands in {reader.path} and in another file; which one counts?")
            found[name] = value
    return found


def _refuse_stale(folder: Path, name: str, begin: int) -> None:
    if (folder / name).stat().st_mtime_ns < begin:
        raise OutputError(f"{name} is older than the run: the program did not write it, it is left from another one.")


def _without_places(what: str, got: Mapping[str, object], coords: Mapping[str, Coordinate]) -> dict[str, object]:
    """Return the outputs, when what has the name of a dim are its coordinates."""
    for dim in coords:
        if dim in got:
            refuse_other_places(what, dim, got[dim], coords[dim])
    return {str(name): value for name, value in got.items() if name not in coords}
