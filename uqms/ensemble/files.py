"""Ensembles on disk: netCDF 4 (HDF5), written whole or not at all, and read without trusting the file."""

import hashlib
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import xarray as xr

from uqms.ensemble.table import FORMAT, check
from uqms.errors import (
    DataError,
    FileError,
    FormatError,
    FormatVersionError,
    IntegrityError,
    StorageError,
    UnsafeFileError,
)

__all__ = ["atomic_path", "from_netcdf", "refuse_unsafe", "to_netcdf"]

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_FILTERS = frozenset({1, 2, 3})  # HDF5's own deflate, shuffle and fletcher32; any other one loads foreign code
_PLAUSIBLE = 64 * 2**20  # bytes that may be claimed without standing in the file
_CHECKSUM = "uqms_sha256"


def to_netcdf(ensemble: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write an ensemble to a netCDF file; `from_netcdf` returns it bit for bit.

    The file appears whole or not at all: an interrupted call leaves the old one as it was.

    Raises
    ------
    DataError
        When the ensemble does not follow the convention, or an attribute cannot be written.
    StorageError
        When the file cannot be written.
    """
    check(ensemble)
    target = Path(path)
    plain = ensemble.drop_encoding().assign_attrs({_CHECKSUM: _checksum(ensemble)})
    with atomic_path(target) as part:
        try:
            plain.to_netcdf(part, engine="h5netcdf", encoding={name: {"_FillValue": None} for name in plain.variables})
        except (TypeError, ValueError) as error:
            raise DataError(
                f"the ensemble cannot be written to {target}: {error}; drop or convert that attribute."
            ) from error
    return target


def from_netcdf(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read an ensemble that `to_netcdf` wrote.

    Raises
    ------
    FormatError
        When the file is truncated or is not an ensemble; `FormatVersionError` when a newer uqms wrote it.
    IntegrityError
        When the numbers are not those that were written.
    UnsafeFileError
        When the file would read other files or fill the memory.
    """
    source = Path(path)
    refuse_unsafe(source)
    try:
        # Nothing is decoded: a coordinate in "days" stays a number, and no attribute changes what was written.
        with xr.open_dataset(
            source, engine="h5netcdf", decode_times=False, decode_timedelta=False, mask_and_scale=False
        ) as opened:
            version = opened.attrs.get("uqms_format")
            if version is None:
                raise FormatError(
                    f"{source} is a netCDF file but not an ensemble; read it with xarray and use ensemble.build(...)."
                )
            _refuse_newer(source, version)
            ensemble = opened.load().drop_encoding()
    except FormatError:
        raise
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise FormatError(
            f"{source} cannot be read as netCDF ({error}); it is damaged, take a copy or write it again."
        ) from error
    written = ensemble.attrs.pop(_CHECKSUM, None)
    if written != _checksum(ensemble):
        raise IntegrityError(
            f"the numbers in {source} are not those that uqms wrote; take a copy. If another program changed it "
            "on purpose, read it with xarray and use ensemble.build(...)."
        )
    check(ensemble)
    return ensemble


def _refuse_newer(source: Path, version: object) -> None:
    if not (isinstance(version, str) and version.isdecimal()):
        raise FormatError(f"{source} says it has the format {version!r}; this uqms reads format {FORMAT}.")
    if int(version) > int(FORMAT):
        raise FormatVersionError(f"{source} has format {version}, this uqms reads up to {FORMAT}; update uqms.")


def _checksum(ensemble: xr.Dataset) -> str:
    """Return the SHA-256 of all names, dims, types and values."""
    digest = hashlib.sha256()
    for name in sorted(map(str, ensemble.variables)):
        variable = ensemble.variables[name]
        values = variable.values
        text = values.dtype.kind in "OUT"
        digest.update(repr((name, variable.dims, values.shape, "str" if text else values.dtype.str)).encode())
        if text:
            digest.update(repr([str(value) for value in values.ravel()]).encode())
        else:
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------------- any file
@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Give a path to write to; `target` becomes that file when the block ends well, and stays as it was when not.

    Raises
    ------
    StorageError
        When the disk is full, the folder is missing or may not be written to.
    """
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
        os.close(handle)
    except OSError as error:
        raise StorageError(f"{target} cannot be written: {error}.") from error
    part = Path(name)
    try:
        yield part
        _make_permanent(part, target)
    except OSError as error:
        if isinstance(error, FileError):  # it says more already
            raise
        raise StorageError(f"{target} cannot be written: {error}; what was there before is as it was.") from error
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def _make_permanent(part: Path, target: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    part.chmod(0o666 & ~mask)  # mkstemp makes files that nobody else may read
    _sync(part)
    part.replace(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refuse_unsafe(path: Path) -> None:
    """Raise when an HDF5 file would read other files, load foreign code or claim far more memory than it holds.

    Nothing of its data is read. Every room that reads HDF5 calls this first.

    Raises
    ------
    FormatError
        When it is not HDF5, or is truncated.
    UnsafeFileError
        Names the variable.
    """
    import h5py

    with path.open("rb") as file:
        head = file.read(len(_SIGNATURE))
    if head != _SIGNATURE:
        raise FormatError(f"{path} is not a netCDF 4 (HDF5) file.")
    try:
        with h5py.File(path, "r") as file:
            _walk(path, file, set())
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        if isinstance(error, FormatError | UnsafeFileError):
            raise
        raise FormatError(f"{path} is truncated or damaged: {error}.") from error


def _walk(path: Path, group: object, seen: set[object]) -> None:
    import h5py

    assert isinstance(group, h5py.Group)
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise UnsafeFileError(
                f"{path}: {name!r} is a link to somewhere else; only files that hold their own data are read."
            )
        item = group[name]
        if isinstance(item, h5py.Dataset):
            _refuse_dataset(path, name, item)
        elif isinstance(item, h5py.Group) and item.id not in seen:
            seen.add(item.id)
            _walk(path, item, seen)


def _refuse_dataset(path: Path, name: str, item: object) -> None:
    import h5py

    assert isinstance(item, h5py.Dataset)
    plan = item.id.get_create_plist()
    if plan.get_external_count() or item.is_virtual:
        raise UnsafeFileError(
            f"{path}: the numbers of {name!r} lie in other files; only files that hold their own data are read."
        )
    foreign = {plan.get_filter(i)[0] for i in range(plan.get_nfilters())} - _FILTERS
    if foreign:
        raise UnsafeFileError(
            f"{path}: {name!r} needs the HDF5 filters {sorted(foreign)}, which are not loaded; write it without."
        )
    claimed = math.prod(item.shape or ()) * item.dtype.itemsize
    held = item.id.get_storage_size()
    # Deflate reaches 1000 at most; fill values and dims without a variable hold nothing at all.
    if claimed > max(_PLAUSIBLE, 1100 * held):
        raise UnsafeFileError(
            f"{path}: {name!r} claims {claimed / 2**20:.0f} MB but the file holds {held / 2**20:.3f} MB of it."
        )
