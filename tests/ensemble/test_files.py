import os

import h5py
import numpy as np
import pytest
import xarray as xr

import uqms.ensemble as en
from uqms.errors import DataError, FormatError, FormatVersionError, IntegrityError, StorageError, UnsafeFileError
from uqms.parameters import ParameterSpace, Uniform


@pytest.fixture
def table(rng):
    n = 6
    field = xr.DataArray(
        rng.normal(size=(n, 3, 2)),
        dims=("run", "day", "lead"),
        coords={"day": ("day", [0.0, 1.0, 2.0], {"units": "days", "scale_factor": 3.0}), "lead": ["I", "aVR"]},
    )
    table = en.build(
        {"a": rng.normal(size=n)},
        {"y": rng.normal(size=n), "field": field},
        states=["completed"] * 4 + ["failed", "timeout"],
        seconds=rng.uniform(size=n),
        messages=["", "", "", "", 'ValueError: "µ" {{x}}\nline', "no end after 2 s"],
        space=ParameterSpace(a=Uniform(-9, 9)),
        simulator='{"name": "f"}',
    )
    table.attrs["design"] = '{"n": 6}'
    return table


@pytest.fixture
def path(table, tmp_path):
    return en.to_netcdf(table, tmp_path / "runs.nc")


def test_round_trip_is_bit_equal(table, path):
    again = en.from_netcdf(path)
    assert again.identical(table)
    assert list(again.data_vars) == list(table.data_vars)
    assert en.input_names(again) == en.input_names(table)
    for name in table.variables:
        assert table[name].dtype.kind in "OUT" or again[name].dtype == table[name].dtype
        assert table[name].dtype.kind in "OUT" or again[name].values.tobytes() == table[name].values.tobytes()
    assert again["message"].values.tolist() == table["message"].values.tolist()
    assert again["lead"].values.tolist() == ["I", "aVR"]


def test_a_second_round_gives_the_same(table, path, tmp_path):
    other = en.to_netcdf(en.from_netcdf(path), tmp_path / "again.nc")
    assert en.from_netcdf(other).identical(table)


def test_writing_leaves_the_old_file_when_it_fails(table, path, monkeypatch):
    before = path.read_bytes()
    with pytest.raises(DataError, match="cannot be written"):
        en.to_netcdf(table.assign_attrs(bad={"a": 1}), path)

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        en.to_netcdf(table, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["runs.nc"]


def test_the_file_and_its_name_reach_the_disk(table, path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    en.to_netcdf(table, path)
    assert synced == [path.stat().st_ino, path.parent.stat().st_ino]


TIMES = np.array(["2020-01-01", "1900-06-01T12:00:00.25"], "M8[ns]")


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_come_back_in_their_own_unit(tmp_path, unit):
    curves = {"c": ("t", np.arange(4.0).reshape(2, 2), TIMES.astype(f"M8[{unit}]"))}
    curves["d"] = ("lag", np.ones((2, 2)), np.array([-5, 2**40], f"m8[{unit}]"))
    table = en.build({"a": [1.0, 2.0]}, curves)
    table = table.assign_coords(begun=("run", np.array(["NaT", "2021-01-01"], f"M8[{unit}]"), {"long_name": "begin"}))
    path = en.to_netcdf(table, tmp_path / "t.nc")
    again = en.from_netcdf(path)
    assert again.identical(table)
    assert [again[name].dtype for name in ("t", "lag", "begun")] == [f"M8[{unit}]", f"m8[{unit}]", f"M8[{unit}]"]
    with xr.open_dataset(path, engine="h5netcdf") as plain:  # others read times too
        np.testing.assert_array_equal(plain["t"].values.astype(TIMES.dtype), table["t"].values.astype(TIMES.dtype))


def test_times_of_a_strange_dtype_are_refused(tmp_path):
    table = en.build({"a": [1.0, 2.0]}, {"c": ("t", np.zeros((2, 2)), TIMES)})
    path = en.to_netcdf(table, tmp_path / "t.nc")
    edit(path, lambda f: f["t"].attrs.modify("uqms_time", "V8"))
    with pytest.raises(FormatError, match="the attribute 'uqms_time' of 't' is 'V8'"):
        en.from_netcdf(path)
    table["t"].attrs["units"] = "days"
    with pytest.raises(DataError, match="'t' holds times"):
        en.to_netcdf(table, path)


@pytest.mark.parametrize("dtype", [">f8", ">i4", "f2", "u8", "c16", "?", "S2", "U3"])
def test_any_plain_dtype_comes_back(table, tmp_path, dtype):
    more = table.assign(extra=("run", np.arange(6).astype(dtype)))
    again = en.from_netcdf(en.to_netcdf(more, tmp_path / "x.nc"))
    assert again.identical(more)


def test_messages_that_no_file_can_hold_are_escaped(table, tmp_path):
    table["message"].values[4:] = "bad\0byte", "Datei \udce4.txt \u00b5"
    again = en.from_netcdf(en.to_netcdf(table, tmp_path / "x.nc"))
    assert again["message"].values[4:].tolist() == ["bad\\x00byte", "Datei \\udce4.txt \u00b5"]
    assert table["message"].values[4] == "bad\0byte"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.assign_attrs(fine=True), "attribute 'fine' of the ensemble cannot be written: it is True"),
        (lambda t: t.assign_attrs(fine=None), "attribute 'fine' of the ensemble cannot be written: it is None"),
        (lambda t: t.assign_attrs(fine=[[1], [2, 3]]), "attribute 'fine' of the ensemble cannot be written"),
        (lambda t: t.assign_attrs(said="a\0b"), "attribute 'said' of the ensemble cannot be written"),
        (
            lambda t: t.assign(y=t["y"].assign_attrs(ok=[True])),
            r"attribute 'ok' of 'y' cannot be written: it is \[True\]",
        ),
        (lambda t: t.assign(y=t["y"].assign_attrs(dtype="bool")), "attribute 'dtype' of 'y' has a special meaning"),
        (
            lambda t: t.assign(y=t["y"].assign_attrs(coordinates="x")),
            "attribute 'coordinates' of 'y' has a special meaning",
        ),
        (lambda t: t.assign_coords(k=("run", np.array([1, "a"] * 3, object))), "'k' holds strings and also 1"),
        (
            lambda t: t.assign_coords(k=("run", ["a\0b"] * 6)),
            r"'k' holds 'a\\x00b', with characters that netCDF cannot hold",
        ),
        (lambda t: t.rename(y="x/y"), "netCDF cannot hold the name 'x/y'"),
        (lambda t: t.assign({5: t["y"]}), "a variable is called 5"),
        (lambda t: t.rename(y="_nc4_non_coord_y"), "differ from those that were written"),
    ],
)
def test_what_no_file_can_hold_is_named(table, path, damage, message):
    before = path.read_bytes()
    with xr.set_options(keep_attrs=True), pytest.raises(DataError, match=message):
        en.to_netcdf(damage(table), path)
    assert path.read_bytes() == before


def test_attributes_that_break_the_reader_are_damage(path):
    edit(path, lambda f: f["y"].attrs.create("_Encoding", "utf-8"))
    with pytest.raises(FormatError, match="cannot be read as netCDF"):
        en.from_netcdf(path)


def test_no_such_folder(table, tmp_path):
    with pytest.raises(StorageError, match="cannot be written"):
        en.to_netcdf(table, tmp_path / "none" / "runs.nc")


def test_only_ensembles_are_written(table, tmp_path):
    with pytest.raises(DataError, match="no variable 'state'"):
        en.to_netcdf(table.drop_vars("state"), tmp_path / "runs.nc")


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_truncated(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(FormatError, match="truncated or damaged"):
        en.from_netcdf(path)


def test_not_hdf5(tmp_path):
    other = tmp_path / "x.nc"
    other.write_bytes(b"CDF\x01 something else")
    with pytest.raises(FormatError, match="not a netCDF 4"):
        en.from_netcdf(other)


def test_other_netcdf(tmp_path):
    xr.Dataset({"y": ("run", [1.0])}).to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    with pytest.raises(FormatError, match="not an ensemble"):
        en.from_netcdf(tmp_path / "x.nc")


def edit(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def test_newer_format(path):
    edit(path, lambda f: f.attrs.modify("uqms_format", "3"))
    with pytest.raises(
        FormatVersionError, match="format 3, but this version of uqms reads formats up to 2; update uqms"
    ):
        en.from_netcdf(path)
    edit(path, lambda f: f.attrs.modify("uqms_format", "x"))
    with pytest.raises(FormatError, match="format 'x'"):
        en.from_netcdf(path)


def test_changed_number(path):
    edit(path, lambda f: f["y"].__setitem__(2, 0.0))
    with pytest.raises(IntegrityError, match="not those that uqms wrote"):
        en.from_netcdf(path)


def test_changed_word(path):
    edit(path, lambda f: f["message"].__setitem__(4, "fine"))
    with pytest.raises(IntegrityError, match="not those that uqms wrote"):
        en.from_netcdf(path)


def outside(path, tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["y"] = np.arange(6.0)


def external_link(file):
    del file["y"]
    file["y"] = h5py.ExternalLink("secret.h5", "y")


def soft_link(file):
    del file["y"]
    file["y"] = h5py.SoftLink("/a")


def external_storage(file):
    del file["y"]
    file.create_dataset("y", (6,), "f8", external=[("secret.h5", 0, 48)])


def virtual(file):
    del file["y"]
    layout = h5py.VirtualLayout((6,), "f8")
    layout[:] = h5py.VirtualSource("secret.h5", "y", (6,))
    file.create_virtual_dataset("y", layout)


def nested_virtual(file):
    layout = h5py.VirtualLayout((6,), "f8")
    layout[:] = h5py.VirtualSource("secret.h5", "y", (6,))
    file.create_group("deep").create_virtual_dataset("y", layout)


def bomb(file):
    del file["y"]
    file.create_dataset("y", (2**36,), "f8", chunks=(2**16,), compression="gzip")


def foreign_filter(file):
    del file["y"]
    file.create_dataset("y", data=np.arange(6.0), chunks=(6,), compression="lzf")


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (external_link, "'y' is a link"),
        (soft_link, "'y' is a link"),
        (external_storage, "'y' are in other files"),
        (virtual, "'y' are in other files"),
        (nested_virtual, "'y' are in other files"),
        (bomb, "'y' would take 524288 MB"),
        (foreign_filter, "'y' was written with the HDF5 filters"),
    ],
)
def test_files_that_reach_out_are_refused(path, tmp_path, attack, message):
    outside(path, tmp_path)
    edit(path, attack)
    with pytest.raises(UnsafeFileError, match=message):
        en.from_netcdf(path)


def test_a_file_is_readable_by_others_as_the_umask_says(path):
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_file_of_format_1_is_read_bit_for_bit():
    import json
    from pathlib import Path

    folder = Path(__file__).parents[1] / "data"
    frozen = json.loads((folder / "ensemble_format_1.json").read_text())
    table = en.from_netcdf(folder / "ensemble_format_1.nc")
    assert set(table.variables) == set(frozen["values"])
    for name, values in frozen["values"].items():
        got = table[name].values.ravel().tolist()
        if name == "state":  # codes in the file
            got = [int(en.RunState(word)) for word in got]
        assert got == values if name == "message" else [float(v).hex() for v in got] == values
    assert {key: table.attrs[key] for key in frozen["attrs"]} == frozen["attrs"]
