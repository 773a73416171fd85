"""Ensembles on disk: netCDF 4 (HDF5), written whole or not at all, and read without trusting the file."""

import hashlib
import math
import os
import tempfile
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from uqms import _checks as check_path
from uqms._teaching import taught
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

__all__ = ["atomic_path", "checksum", "from_netcdf", "refuse_unsafe", "to_netcdf"]

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_FILTERS = frozenset({1, 2, 3})  # HDF5's own deflate, shuffle and fletcher32; any other one loads foreign code
_PLAUSIBLE = 64 * 2**20  # bytes that may be claimed without standing in the file
_CHECKSUM = "uqms_sha256"
_TIME = "uqms_time"  # the dtype of times, which are kept as whole numbers
_TIME_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_TIMES = [f"{kind}[{unit}]" for kind in ("datetime64", "timedelta64") for unit in _TIME_UNITS]
_MEANT = frozenset({_TIME, "coordinates", "dtype", "_Encoding"})  # attributes that change what xarray reads


@taught
def to_netcdf(ensemble: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    r"""Write an ensemble to a netCDF file; `from_netcdf` returns it bit for bit.

    The file appears whole or not at all: an interrupted call leaves the old one as it was. It is read once before it
    appears. In messages, characters that no netCDF file can hold become escapes such as ``\x00``.

    Raises
    ------
    DataError
        When the ensemble does not follow the convention, or a name, variable or attribute cannot be written.
    StorageError
        When the file cannot be written.
    """
    check(ensemble)
    target = check_path.path("to_netcdf", path)
    plain = _plain(ensemble)
    with atomic_path(target) as part:
        try:
            plain.to_netcdf(part, engine="h5netcdf", encoding={name: {"_FillValue": None} for name in plain.variables})
            with _opened(part) as written:
                same = checksum(written) == plain.attrs[_CHECKSUM]
        except OSError:
            raise
        except Exception as error:  # xarray and h5netcdf have many
            raise DataError(f"the ensemble cannot be written to {target}: {error}") from error
        if not same:
            raise DataError(
                f"the ensemble cannot be written to {target}: netCDF gives the names and attributes of its variables a "
                "meaning of its own, so that other numbers are read than were written; rename or drop them."
            )
    return target


# -------------------------------------------------------------------------------------------------------- on the disk
def _plain(ensemble: xr.Dataset) -> xr.Dataset:
    """Return what lies on the disk: text, and numbers in this machine's byte order; times are whole numbers."""
    for name in {*ensemble.variables, *ensemble.dims}:
        if not _is_plain(str(name)) or "/" in str(name):
            raise DataError(f"{name!r} is no name that netCDF can hold; rename it to a text without '/'.")
    _check_attrs("the ensemble", ensemble.attrs)
    plain = {name: _plain_variable(str(name), variable) for name, variable in ensemble.variables.items()}
    table = _with(ensemble, plain)
    return table.assign_attrs({_CHECKSUM: checksum(table)})


def _with(ensemble: xr.Dataset, variables: Mapping[Hashable, xr.Variable]) -> xr.Dataset:
    """Return the ensemble with other variables of the same names, in the same order."""
    coords = {name: variables[name] for name in ensemble.coords}
    return xr.Dataset({name: variables[name] for name in ensemble.data_vars}, coords, ensemble.attrs)


def _plain_variable(name: str, variable: xr.Variable) -> xr.Variable:
    values, attrs = variable.values, dict(variable.attrs)
    _check_attrs(repr(name), attrs)
    kind = values.dtype.kind
    if kind in "OUT":
        values = _plain_text(name, values)
    else:
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if kind in "mM":
        if taken := [key for key in ("units", "calendar") if key in attrs]:
            raise DataError(f"{name!r} holds times, of which {taken} are written by themselves; drop these attributes.")
        dtype = str(values.dtype)
        unit = _TIME_UNITS[np.datetime_data(dtype)[0]]
        since = {"units": f"{unit} since 1970-01-01", "calendar": "proleptic_gregorian"}
        attrs |= {_TIME: dtype, **(since if kind == "M" else {"units": unit})}
        values = values.view(np.int64)
    return xr.Variable(variable.dims, values, attrs)


def _plain_text(name: str, values: NDArray[np.generic]) -> NDArray[np.object_]:
    words = values.astype(object)
    for i, word in np.ndenumerate(words):
        if not isinstance(word, str):
            raise DataError(f"{name!r} holds {word!r} among its words; make all of them texts, or numbers.")
        if not _is_plain(word):
            if name != "message":
                raise DataError(f"{name!r} holds {word!r}, which netCDF cannot hold; replace these characters.")
            words[i] = word.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
    return words


def _check_attrs(owner: str, attrs: Mapping[Any, Any]) -> None:
    for key, value in attrs.items():
        if key in _MEANT:
            raise DataError(f"the attribute {key!r} of {owner} has a meaning of its own in netCDF; rename it.")
        if not _can_be_attr(value):
            raise DataError(
                f"the attribute {key!r} of {owner} cannot be written: it is {value!r}, and netCDF keeps numbers "
                "and text there; drop it or make it one of these, with json.dumps(...) for instance."
            )


def _can_be_attr(value: object) -> bool:
    if isinstance(value, str):
        return _is_plain(value)
    try:
        array = np.asarray(value)
    except ValueError:  # a list of lists of different lengths
        return False
    if array.dtype.kind == "U":
        return all(map(_is_plain, array.ravel().tolist()))
    return array.dtype.kind in "iufcS"


def _is_plain(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, as Python writes bytes that are no UTF-8
        return False


@contextmanager
def _opened(path: Path) -> Iterator[xr.Dataset]:
    """Open what `to_netcdf` wrote, one variable at a time in memory."""
    # Nothing is decoded: a coordinate in "days" stays a number, and no attribute changes what was written.
    with xr.open_dataset(
        path, engine="h5netcdf", decode_times=False, decode_timedelta=False, mask_and_scale=False, cache=False
    ) as opened:
        yield opened


def _with_times(source: Path, plain: xr.Dataset) -> xr.Dataset:
    """Return the ensemble with the times that `_plain` made whole numbers."""
    times = {}
    for name, variable in plain.variables.items():
        dtype = variable.attrs.get(_TIME)
        if dtype is None:
            continue
        if dtype not in _TIMES or variable.dtype != np.int64:
            raise FormatError(f"{source}: {name!r} says it holds {dtype!r}, which are no times that uqms writes.")
        attrs = {key: value for key, value in variable.attrs.items() if key not in (_TIME, "units", "calendar")}
        times[name] = xr.Variable(variable.dims, variable.values.view(dtype), attrs)
    return _with(plain, {**plain.variables, **times}) if times else plain


@taught
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
    source = check_path.existing_file("from_netcdf", path)
    refuse_unsafe(source)
    try:
        with _opened(source) as opened:
            version = opened.attrs.get("uqms_format")
            if version is None:
                raise FormatError(
                    f"{source} is a netCDF file but not an ensemble; read it with xarray and use ensemble.build(...)."
                )
            _refuse_newer(source, version)
            ensemble = opened.load().drop_encoding()
    except (FormatError, MemoryError):
        raise
    except Exception as error:  # attributes that contradict each other end in any of them
        raise FormatError(
            f"{source} cannot be read as netCDF ({error}); it is damaged, take a copy or write it again."
        ) from error
    written = ensemble.attrs.pop(_CHECKSUM, None)
    if written != checksum(ensemble):
        raise IntegrityError(
            f"the numbers in {source} are not those that uqms wrote; take a copy. If another program changed it "
            "on purpose, read it with xarray and use ensemble.build(...)."
        )
    ensemble = _with_times(source, ensemble)
    check(ensemble)
    return ensemble


def _refuse_newer(source: Path, version: object) -> None:
    if not (isinstance(version, str) and version.isdecimal()):
        raise FormatError(f"{source} says it has the format {version!r}; this uqms reads format {FORMAT}.")
    if int(version) > int(FORMAT):
        raise FormatVersionError(f"{source} has format {version}, this uqms reads up to {FORMAT}; update uqms.")


def checksum(ensemble: xr.Dataset) -> str:
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
            digest.update(np.ascontiguousarray(values).ravel().view(np.uint8))  # no copy
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
    if not target.parent.is_dir():
        raise StorageError(
            f"{target} cannot be written: there is no folder {target.parent.resolve()}. Make it first, "
            f"pathlib.Path({str(target.parent)!r}).mkdir(parents=True), or give another path."
        )
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
