"""Write ensembles to netCDF 4 (HDF5) files, completely or not at all, and read them without trusting the file."""

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
from uqms.ensemble.states import flag_attrs, state_codes, state_words
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
_FILTERS = frozenset({1, 2, 3})  # HDF5's own deflate, shuffle and fletcher32; any other filter loads foreign code
_PLAUSIBLE = 64 * 2**20  # bytes that a variable may take in memory whatever its size in the file
_CHECKSUM = "uqms_sha256"
_TIME = "uqms_time"  # the dtype of times, which are written as whole numbers
_TIME_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_TIMES = [f"{kind}[{unit}]" for kind in ("datetime64", "timedelta64") for unit in _TIME_UNITS]
_FLAGS = ("flag_values", "flag_meanings")
_NOTE = "state_note"
_MEANT = frozenset({_TIME, "coordinates", "dtype", "_Encoding"})  # attributes that change how xarray reads a variable


@taught
def to_netcdf(ensemble: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    r"""Write an ensemble to a netCDF file, from which `from_netcdf` returns it bit for bit.

    The file is written completely or not at all: if the call is interrupted, an existing file does not change. uqms
    reads the new file once to check it, before it replaces the existing file. In the messages of runs, characters that
    netCDF cannot hold are replaced by escapes such as ``\x00``.

    Raises
    ------
    DataError
        When the dataset is not a valid ensemble (see `check`), or a name, variable or attribute cannot be written.
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
        except Exception as error:  # xarray and h5netcdf raise errors of many types
            raise DataError(f"the ensemble cannot be written to {target}: {error}") from error
        if not same:
            raise DataError(
                f"the ensemble cannot be written to {target}: some names or attributes of its variables have a special "
                "meaning in netCDF, so the numbers that are read differ from those that were written. Rename these "
                "variables, or remove the attributes."
            )
    return target


# -------------------------------------------------------------------------------------------------------- on the disk
def _plain(ensemble: xr.Dataset) -> xr.Dataset:
    """Return the dataset as it is written: text, numbers in this machine's byte order, and times as whole numbers."""
    for name in {*ensemble.variables, *ensemble.dims}:
        if not _is_plain(str(name)) or "/" in str(name):
            raise DataError(
                f"netCDF cannot hold the name {name!r}; rename it to a string without '/': ensemble.rename(old='new')."
            )
    _check_attrs("the ensemble", ensemble.attrs)
    ensemble = ensemble.assign(state=_coded(ensemble["state"].variable))
    plain = {name: _plain_variable(str(name), variable) for name, variable in ensemble.variables.items()}
    table = _with(ensemble, plain)
    return table.assign_attrs({_CHECKSUM: checksum(table)})


def _coded(states: xr.Variable) -> xr.Variable:
    """Return the states as integer codes with their meanings, which other programs for netCDF know as flags."""
    codes = state_codes(states.values, states.size)
    return xr.Variable(states.dims, codes, {**states.attrs, **flag_attrs()})


def _in_words(ensemble: xr.Dataset) -> xr.Dataset:
    """Return the ensemble with its states in words; files of earlier versions also hold a note on the codes."""
    states = ensemble["state"].variable if "state" in ensemble else None
    if states is None or states.dims != ("run",):
        return ensemble  # `check` reports it
    attrs = {key: value for key, value in states.attrs.items() if key not in _FLAGS}
    if str(attrs.get("comment", "")).startswith("integer codes"):
        del attrs["comment"]
    words = xr.Variable("run", state_words(states.values, states.size), attrs)
    table = ensemble.assign(state=words)
    table.attrs.pop(_NOTE, None)
    return table


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
            raise DataError(
                f"{name!r} holds times and has the attributes {taken}, which uqms writes itself; remove them: "
                f"del ensemble[{name!r}].attrs[{taken[0]!r}]."
            )
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
            raise DataError(
                f"{name!r} holds strings and also {word!r}; make all of its values strings (.astype(str)) or numbers."
            )
        if not _is_plain(word):
            if name != "message":
                raise DataError(
                    f"{name!r} holds {word!r}, with characters that netCDF cannot hold; replace these characters."
                )
            words[i] = word.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
    return words


def _check_attrs(owner: str, attrs: Mapping[Any, Any]) -> None:
    for key, value in attrs.items():
        if key in _MEANT:
            raise DataError(f"the attribute {key!r} of {owner} has a special meaning in netCDF; give it another name.")
        if not _can_be_attr(value):
            raise DataError(
                f"the attribute {key!r} of {owner} cannot be written: it is {value!r}, but attributes in netCDF are "
                "numbers or text. Remove the attribute, or convert it to text, for example with json.dumps(...)."
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
    except UnicodeEncodeError:  # half of a surrogate pair, by which Python represents bytes that are not UTF-8
        return False


@contextmanager
def _opened(path: Path) -> Iterator[xr.Dataset]:
    """Open a file that `to_netcdf` wrote, with at most one variable at a time in memory."""
    # xarray decodes nothing: a coordinate in "days" remains a number, and no attribute changes the numbers in the file.
    with xr.open_dataset(
        path, engine="h5netcdf", decode_times=False, decode_timedelta=False, mask_and_scale=False, cache=False
    ) as opened:
        yield opened


def _with_times(source: Path, plain: xr.Dataset) -> xr.Dataset:
    """Return the ensemble with times where `_plain` wrote whole numbers for them."""
    times = {}
    for name, variable in plain.variables.items():
        dtype = variable.attrs.get(_TIME)
        if dtype is None:
            continue
        if dtype not in _TIMES or variable.dtype != np.int64:
            raise FormatError(
                f"{source}: the attribute {_TIME!r} of {name!r} is {dtype!r}, which is no type of times that uqms "
                "writes. The file was changed; use a copy, or write it again with uq.ensemble.to_netcdf(...)."
            )
        attrs = {key: value for key, value in variable.attrs.items() if key not in (_TIME, "units", "calendar")}
        times[name] = xr.Variable(variable.dims, variable.values.view(dtype), attrs)
    return _with(plain, {**plain.variables, **times}) if times else plain


@taught
def from_netcdf(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read an ensemble from a file that `to_netcdf` wrote.

    Raises
    ------
    FormatError
        When the file is truncated or is not an ensemble. `FormatVersionError` when a newer version of uqms wrote it.
    IntegrityError
        When the numbers in the file are not the numbers that uqms wrote.
    UnsafeFileError
        When reading the file would read other files, load foreign code or fill the memory.
    """
    source = check_path.existing_file("from_netcdf", path)
    refuse_unsafe(source)
    try:
        with _opened(source) as opened:
            version = opened.attrs.get("uqms_format")
            if version is None:
                raise FormatError(
                    f"{source} is a netCDF file but not an ensemble; read it with xr.open_dataset({str(source)!r}), "
                    "and make an ensemble of it with uq.ensemble.build(inputs, outputs)."
                )
            _refuse_newer(source, version)
            ensemble = opened.load().drop_encoding()
    except (FormatError, MemoryError):
        raise
    except Exception as error:  # xarray raises errors of many types when attributes contradict each other
        raise FormatError(
            f"{source} is damaged and cannot be read as netCDF ({error}); use a copy, or write it again with "
            "uq.ensemble.to_netcdf(...)."
        ) from error
    written = ensemble.attrs.pop(_CHECKSUM, None)
    if written != checksum(ensemble):
        raise IntegrityError(
            f"the numbers in {source} are not those that uqms wrote; use a copy of the file. If another program "
            f"changed it on purpose, read it with xr.open_dataset({str(source)!r}), and make an ensemble of it with "
            "uq.ensemble.build(inputs, outputs)."
        )
    ensemble = _in_words(_with_times(source, ensemble))
    check(ensemble)
    return ensemble


def _refuse_newer(source: Path, version: object) -> None:
    if not (isinstance(version, str) and version.isdecimal()):
        raise FormatError(
            f"{source} states the format {version!r}, which does not exist; this version of uqms reads formats up to "
            f"{FORMAT}. The file was changed; use a copy."
        )
    if int(version) > int(FORMAT):
        raise FormatVersionError(
            f"{source} has format {version}, but this version of uqms reads formats up to {FORMAT}; update uqms: "
            "pip install --upgrade uqms."
        )


def checksum(ensemble: xr.Dataset) -> str:
    """Return the SHA-256 hash of all names, dims, types and values."""
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
    """Yield a temporary path, whose file replaces `target` when the block ends; after an error, `target` is unchanged.

    Raises
    ------
    StorageError
        When the disk is full, or the folder is missing or cannot be written to.
    """
    if target.is_dir():
        raise StorageError(f"{target} cannot be written: it is a folder; give the path of a file in it.")
    if not target.parent.is_dir():
        raise StorageError(
            f"{target} cannot be written: there is no folder {target.parent.resolve()}. Create the folder first, "
            f"pathlib.Path({str(target.parent)!r}).mkdir(parents=True), or give another path."
        )
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
        os.close(handle)
    except OSError as error:
        raise StorageError(
            f"{target} cannot be written: {error}. Check the free space and the permissions of the folder."
        ) from error
    part = Path(name)
    try:
        yield part
        _make_permanent(part, target)
    except OSError as error:
        if isinstance(error, FileError):  # its message is more specific already
            raise
        raise StorageError(
            f"{target} cannot be written: {error}. Check the free space and the permissions of the folder. If the file "
            "existed before, it has not changed."
        ) from error
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def _make_permanent(part: Path, target: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    part.chmod(0o666 & ~mask)  # mkstemp creates files that no other user may read
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
    """Raise if reading an HDF5 file would read other files, load foreign code or take far more memory than its size.

    The data in the file are not read. Every module that reads HDF5 files calls this function first.

    Raises
    ------
    FormatError
        When the file is not HDF5, or is truncated.
    UnsafeFileError
        When a variable is unsafe; the message names it.
    """
    import h5py

    with path.open("rb") as file:
        head = file.read(len(_SIGNATURE))
    if head != _SIGNATURE:
        raise FormatError(f"{path} is not a netCDF 4 (HDF5) file; give the path of a file in this format.")
    try:
        with h5py.File(path, "r") as file:
            _walk(path, file, set())
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        if isinstance(error, FormatError | UnsafeFileError):
            raise
        raise FormatError(f"{path} is truncated or damaged: {error}. Use a copy of the file.") from error


def _walk(path: Path, group: object, seen: set[object]) -> None:
    import h5py

    assert isinstance(group, h5py.Group)
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise UnsafeFileError(
                f"{path}: {name!r} is a link to data elsewhere. uqms reads only files that contain all of their data; "
                "copy the data into one file."
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
            f"{path}: the numbers of {name!r} are in other files. uqms reads only files that contain all of their "
            "data; copy the data into one file."
        )
    foreign = {plan.get_filter(i)[0] for i in range(plan.get_nfilters())} - _FILTERS
    if foreign:
        raise UnsafeFileError(
            f"{path}: {name!r} was written with the HDF5 filters {sorted(foreign)}, which uqms does not load, since "
            "they run foreign code; write the file without these filters."
        )
    claimed = math.prod(item.shape or ()) * item.dtype.itemsize
    held = item.id.get_storage_size()
    # Deflate compresses by a factor of 1000 at most. Fill values, and dims without a variable, take no space in a file.
    if claimed > max(_PLAUSIBLE, 1100 * held):
        raise UnsafeFileError(
            f"{path}: {name!r} would take {claimed / 2**20:.0f} MB of memory but has only {held / 2**20:.3f} MB in the "
            "file, which compression cannot explain. uqms does not read such files, since they can fill the memory."
        )
