"""One .npz of plain numbers and a JSON header, written whole or not at all, read without trust.

Members are stored, not compressed, and in one order with one date: the same content gives the same bytes. Everything
that a file claims (kinds of numbers, sizes, shapes) is held against the bytes that it has before anything is read.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from uqms import _checks as check
from uqms._import_names import UnknownClassError
from uqms._typing import Array
from uqms.ensemble.netcdf import atomic_path
from uqms.errors import FormatError, FormatVersionError, InputError, IntegrityError, UnsafeFileError
from uqms.surrogates.kernel_files import description_of, kernel_of_code

__all__ = ["VERSION", "Stored", "digest", "loaded", "upgraded", "write"]

VERSION = 4  # of all formats; before it a kernel was a number
PLAUSIBLE = 64 * 2**20  # bytes that a compressed file may claim without standing in it
LARGEST = 16 * 2**30  # bytes; 20 scores of 2 000 runs, averaged over 16 draws, are 10 GB
HEADER_LARGEST = 16 * 2**20
_HEADER = "header"


class Stored(NamedTuple):
    """What a file holds: a header of JSON, and float64 arrays by name."""

    header: dict[str, Any]
    arrays: dict[str, Array]


def write(format_: str, stored: Stored, path: str | os.PathLike[str]) -> Path:
    """Write to one .npz file, which appears whole or not at all: an interrupted call leaves the old one as it was.

    Raises
    ------
    StorageError
        When the file cannot be written.
    """
    from uqms import __version__

    arrays = {name: np.ascontiguousarray(values, dtype="<f8") for name, values in stored.arrays.items()}
    shapes = {name: list(values.shape) for name, values in arrays.items()}
    header = {"format": format_, "version": VERSION, "uqms": __version__, **stored.header, "shapes": shapes}
    header["sha256"] = digest(header, arrays)
    text = np.frombuffer(json.dumps(header, allow_nan=False).encode(), dtype=np.uint8)
    target = check.path("save", path)
    with atomic_path(target) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        members: dict[str, np.ndarray[Any, np.dtype[Any]]] = {_HEADER: text, **arrays}
        for name, values in members.items():
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(member, "w", force_zip64=True) as stream:
                npy.write_array(stream, values, version=(1, 0), allow_pickle=False)
    return target


def loaded[Held](
    source: str | os.PathLike[str],
    format_: str,
    what: str,
    rebuild: Callable[[Mapping[str, Any], dict[str, Array]], Held],
) -> Held:
    """Return what `rebuild` makes of header and arrays of a file; arrays are finite, and of the declared shapes.

    Raises
    ------
    FormatError
        When the file is truncated or is no such file; `FormatVersionError` when a newer uqms wrote it.
    IntegrityError
        When the content is not what was written.
    UnsafeFileError
        When the file holds pickled objects, or claims far more than it has.
    """
    source = check.existing_file("load", source)
    header, arrays = _load(source, format_)
    try:
        for name, values in arrays.items():
            if not np.isfinite(values).all():
                raise InputError(f"{name} holds numbers that are not finite")
        return rebuild(upgraded(header) if header["version"] < VERSION else header, arrays)
    except UnknownClassError as error:
        raise FormatError(f"{source}: {error}") from error
    except (InputError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise FormatError(f"{source} describes no {what} ({error}); fit it again.") from error


def digest(header: Mapping[str, Any], arrays: Mapping[str, Array]) -> str:
    """Return the SHA-256 of the header, without its own place, and of the bytes of every array."""
    digest = hashlib.sha256()
    rest = {key: value for key, value in header.items() if key != "sha256"}
    digest.update(json.dumps(rest, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def upgraded(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return a header of format versions 1 to 3 as one of version 4: its kernels, inner ones too, were numbers."""
    new = dict(header)
    if "kernel" in new:
        new["kernel"] = description_of(kernel_of_code(new["kernel"]))
    for inner in ("ladder", "regimes", "borders"):
        if inner in new:
            new[inner] = [upgraded(one) for one in new[inner]]
    return new


def _load(source: Path, format_: str) -> tuple[dict[str, Any], dict[str, Array]]:
    _refuse_other_files(source)
    try:
        with zipfile.ZipFile(source) as archive:
            members = _inspect(source, archive)
            header = _read_header(source, archive, members, format_)
            _check_declared(source, header, members)
            arrays = {name: _read(archive, member) for name, member in members.items() if name != _HEADER}
    except zipfile.BadZipFile as error:
        if "CRC" in str(error):
            raise IntegrityError(f"{source} is damaged ({error}); take a copy or fit the surrogate again.") from error
        raise FormatError(f"{source} is truncated or is no .npz file ({error}); take a copy.") from error
    except (EOFError, NotImplementedError, RuntimeError) as error:
        raise FormatError(f"{source} cannot be read ({error}); take a copy or fit the surrogate again.") from error
    if header.get("sha256") != digest(header, arrays):
        raise IntegrityError(f"the content of {source} is not what uqms wrote; take a copy or fit the surrogate again.")
    return header, arrays


def _refuse_other_files(source: Path) -> None:
    with source.open("rb") as file:
        head = file.read(4)
    if head[:1] == b"\x80":
        raise UnsafeFileError(f"{source} is a pickle, which would run code; uqms reads what `surrogate.save` wrote.")
    if head in (b"\x89HDF", b"CDF\x01", b"CDF\x02", b"CDF\x05"):
        raise FormatError(
            f"{source} is a netCDF file, and surrogates are .npz files; a posterior is read by uq.load_posterior, "
            "runs by uq.ensemble.from_netcdf."
        )
    if head != b"PK\x03\x04":
        raise FormatError(f"{source} is no .npz file; give one that `surrogate.save` wrote.")


class _Member(NamedTuple):
    info: zipfile.ZipInfo
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def _inspect(source: Path, archive: zipfile.ZipFile) -> dict[str, _Member]:
    """Return what the archive claims to hold, by name, after holding it against the bytes that it has."""
    infos = archive.infolist()
    claimed, held = sum(info.file_size for info in infos), source.stat().st_size
    if claimed > max(held, PLAUSIBLE) or claimed > LARGEST:
        raise UnsafeFileError(
            f"{source} claims {claimed / 2**20:.0f} MB and holds {held / 2**20:.3f} MB; nothing of it was read. "
            "uqms reads what `surrogate.save` wrote, which is not compressed."
        )
    members: dict[str, _Member] = {}
    for info in infos:
        name = info.filename.removesuffix(".npy")
        if name in members or name == info.filename:
            raise FormatError(f"{source}: {info.filename!r} does not belong into a surrogate's file, or stands twice.")
        members[name] = _Member(info, *_inspect_array(source, archive, info))
    return members


def _inspect_array(
    source: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo
) -> tuple[np.dtype[Any], tuple[int, ...]]:
    with archive.open(info) as stream:
        try:
            major = npy.read_magic(stream)[0]
            read = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
            shape, _, dtype = read(stream)
            start = stream.tell()
        except (ValueError, EOFError) as error:
            raise FormatError(f"{source}: {info.filename!r} is no array ({error}).") from error
    if dtype.hasobject:
        raise UnsafeFileError(f"{source}: {info.filename!r} holds pickled objects, which would run code; not read.")
    needed = start + int(np.prod([int(size) for size in shape], dtype=object)) * dtype.itemsize
    if needed > info.file_size:
        raise UnsafeFileError(
            f"{source}: {info.filename!r} declares shape {shape}, {needed} bytes, but has {info.file_size}; not read."
        )
    if needed < info.file_size:
        raise FormatError(
            f"{source}: {info.filename!r} has {info.file_size - needed} bytes more than its declared shape."
        )
    return dtype, shape


def _read(archive: zipfile.ZipFile, member: _Member) -> Array:
    with archive.open(member.info) as stream:
        return np.asarray(npy.read_array(stream, allow_pickle=False))


def _read_header(
    source: Path, archive: zipfile.ZipFile, members: Mapping[str, _Member], format_: str
) -> dict[str, Any]:
    member = members.get(_HEADER)
    if member is None or member.dtype != np.uint8 or member.info.file_size > HEADER_LARGEST:
        raise FormatError(f"{source} is an .npz file but no surrogate; give one that `surrogate.save` wrote.")
    try:
        header = json.loads(_read(archive, member).tobytes().decode())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{source} has a header that is no JSON ({error}); take a copy.") from error
    if not isinstance(header, dict) or header.get("format") != format_:
        raise FormatError(f"{source} is an .npz file but no surrogate; give one that `surrogate.save` wrote.")
    version = header.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise FormatError(f"{source} has format version {version!r}; this uqms reads up to {VERSION}.")
    if version > VERSION:
        raise FormatVersionError(
            f"{source} has format version {version}, this uqms reads up to {VERSION}; update uqms."
        )
    return header


def _check_declared(source: Path, header: Mapping[str, Any], members: Mapping[str, _Member]) -> None:
    shapes = header.get("shapes")
    present = {name: list(member.shape) for name, member in members.items() if name != _HEADER}
    if shapes != present:
        raise FormatError(f"{source}: its arrays are not those that its header declares; take a copy.")
    wrong = [name for name in present if members[name].dtype != np.dtype("<f8")]
    if wrong:
        raise FormatError(f"{source}: {wrong[0]!r} holds {members[wrong[0]].dtype}, not float64; take a copy.")
