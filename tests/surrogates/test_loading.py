"""Surrogates on disk: the same bits come back, and no file is believed."""

import dataclasses
import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import uqms as uq
from uqms.errors import FormatError, FormatVersionError, IntegrityError, StorageError, UnsafeFileError
from uqms.surrogates import (
    FittedProbability,
    GaussianProcessSurrogate,
    Kernel,
    MultiFidelitySurrogate,
    RegimeSurrogate,
    archive,
    stored,
)
from uqms.surrogates.cokriging import CoKriging
from uqms.surrogates.loading import load_surrogate

DATA = Path(__file__).resolve().parent.parent / "data"
FROZEN = DATA / "surrogate_format_1.npz"


@pytest.fixture(scope="module")
def surrogate() -> GaussianProcessSurrogate:
    space = uq.ParameterSpace(ka=uq.LogNormal(1.0, 0.3, unit="1/h"), dose_share=uq.Beta(2.0, 3.0))
    design = uq.sobol(space, 12, rng=1)
    ka, share, hours = design["ka"].values, design["dose_share"].values, np.linspace(0.0, 6.0, 5)
    conc = xr.DataArray(share[:, None] * np.exp(-np.outer(ka, hours)), dims=("run", "hour"), coords={"hour": hours})
    runs = uq.ensemble.build(design, {"peak": np.sin(ka) + share, "conc": conc}, units={"conc": "mg/L"}, space=space)
    settings = {"conc": uq.Curve(max_scores=2)}
    return uq.GaussianProcess(trend="linear", hyperparameters="point", outputs=settings, scales="given").fit(runs)


@pytest.fixture
def saved(surrogate: GaussianProcessSurrogate, tmp_path: Path) -> Path:
    surrogate.save(tmp_path / "surrogate.npz")
    return tmp_path / "surrogate.npz"


def parts(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def rewrite(path: Path, arrays: dict[str, np.ndarray], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, values in arrays.items():
            stream = io.BytesIO()
            np.lib.format.write_array(stream, values, allow_pickle=True)
            archive.writestr(f"{name}.npy", stream.getvalue())


def forge(path: Path, edit: dict[str, object], arrays: dict[str, np.ndarray] | None = None) -> None:
    """Rewrite the file with another header and a checksum that agrees."""
    held = parts(path) | (arrays or {})
    header = json.loads(held.pop("header").tobytes()) | edit
    header["shapes"] = {name: list(values.shape) for name, values in held.items()} | dict(edit.get("shapes", {}))  # type: ignore[call-overload]
    header["sha256"] = archive.digest(header, held)
    rewrite(path, {"header": np.frombuffer(json.dumps(header).encode(), dtype=np.uint8), **held})


# ----------------------------------------------------------------------------------------------------------- round trip
def test_everything_comes_back_bit_for_bit(surrogate: GaussianProcessSurrogate, saved: Path) -> None:
    same = load_surrogate(saved)
    for part in dataclasses.fields(surrogate.process):
        if part.name != "kernel":
            a, b = getattr(surrogate.process, part.name), getattr(same.process, part.name)
            assert a.shape == b.shape
            assert a.tobytes() == b.tobytes(), part.name
    assert same.process.kernel == surrogate.process.kernel
    assert same.domain == surrogate.domain
    assert dict(same.attrs) == dict(surrogate.attrs)
    for a, b in zip(surrogate.bases, same.bases, strict=True):
        assert (a.name, a.dims, a.layout.unit) == (b.name, b.dims, b.layout.unit)
        for name in ("offset", "basis", "truncation", "interpolation_sd", "left_out"):
            assert getattr(a, name).tobytes() == getattr(b, name).tobytes(), name
        for dim in a.dims:
            assert a.coords[dim].tobytes() == b.coords[dim].tobytes()
    assert repr(same) == repr(surrogate)


def test_predictions_and_draws_come_back_bit_for_bit(surrogate: GaussianProcessSurrogate, saved: Path) -> None:
    same = load_surrogate(saved)
    at = {"ka": [0.8, 1.0, 1.3], "dose_share": [0.3, 0.5, 0.4]}
    a, b = surrogate.predict(at), same.predict(at)
    assert a.mean.identical(b.mean)
    assert a.sd.identical(b.sd)
    assert (a.covariance("conc") == b.covariance("conc")).all()
    assert a.draws(3, rng=1).identical(b.draws(3, rng=1))
    assert (surrogate.process.flat() == same.process.flat()).all()
    u = np.full((2, 2), 0.4)
    for x, y in zip(
        surrogate.decode("conc", {"hour": [1.0, 1.5]}), same.decode("conc", {"hour": [1.0, 1.5]}), strict=True
    ):
        assert (x == y).all()
    assert (surrogate.scores(u).covariance == same.scores(u).covariance).all()


def test_the_same_surrogate_gives_the_same_file(
    surrogate: GaussianProcessSurrogate, saved: Path, tmp_path: Path
) -> None:
    load_surrogate(saved).save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == saved.read_bytes()


def test_the_file_is_plain_numbers_that_numpy_reads(saved: Path) -> None:
    held = parts(saved)
    header = json.loads(held.pop("header").tobytes())
    assert header["format"] == "uqms-surrogate"
    assert header["version"] == 4
    assert header["kernel"] == {"class": "uqms:Matern52", "settings": {}}
    assert {values.dtype.str for values in held.values()} == {"<f8"}
    assert held["process.inverse_factor"].shape == (1, 3, 12, 12)


def test_the_frozen_file_of_format_1_still_loads() -> None:
    assert FROZEN.stat().st_size < 20_000
    held = load_surrogate(FROZEN)
    expected = json.loads(FROZEN.with_suffix(".json").read_text())
    prediction = held.predict(expected["points"])
    for name, values in expected["mean"].items():
        np.testing.assert_allclose(prediction.mean[name], values, rtol=1e-9)
        np.testing.assert_allclose(prediction.sd[name], expected["sd"][name], rtol=1e-5)
    assert held.domain.names == ("ka", "dose_share")
    assert held.layouts["conc"].unit == "mg/L"
    assert {name: list(values.shape) for name, values in parts(FROZEN).items() if name != "header"} == expected[
        "shapes"
    ]
    assert parts(FROZEN)["process.target"].tobytes() == held.process.target.tobytes()


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("surrogate_format_2", uq.SquaredExponential() * uq.Matern32() + uq.Matern52()),
        ("surrogate_format_3", CoKriging(uq.Matern32(), 2)),
    ],
)
def test_frozen_files_of_formats_2_and_3_still_load(name: str, kernel: Kernel, tmp_path: Path) -> None:
    expected = json.loads((DATA / f"{name}.json").read_text())
    assert f"_{json.loads(parts(DATA / f'{name}.npz')['header'].tobytes())['version']}" == name[-2:]
    held = load_surrogate(DATA / f"{name}.npz")
    process = held.ladder.top if isinstance(held, MultiFidelitySurrogate) else held.process
    assert process.kernel == kernel
    held.save(tmp_path / "new.npz")  # as version 4
    for one in (held, load_surrogate(tmp_path / "new.npz")):
        prediction = one.predict(expected["points"])
        np.testing.assert_allclose(prediction.mean["y"], expected["mean"]["y"], rtol=1e-9)
        np.testing.assert_allclose(prediction.sd["y"], expected["sd"]["y"], rtol=1e-5)


def test_frozen_files_of_probabilities_and_regimes_still_load(tmp_path: Path) -> None:
    expected = json.loads((DATA / "probability_format_1.json").read_text())
    probability = FittedProbability.load(DATA / "probability_format_1.npz")
    probability.save(tmp_path / "p.npz")
    for one in (probability, FittedProbability.load(tmp_path / "p.npz")):
        np.testing.assert_allclose(one.probability(expected["points"]), expected["probability"], rtol=1e-9)
    expected = json.loads((DATA / "regimes_format_1.json").read_text())
    regimes = RegimeSurrogate.load(DATA / "regimes_format_1.npz")
    regimes.save(tmp_path / "r.npz")
    for same in (regimes, RegimeSurrogate.load(tmp_path / "r.npz")):
        np.testing.assert_allclose(same.predict(expected["points"]).mean["y"], expected["mean"]["y"], rtol=1e-9)


# -------------------------------------------------------------------------------------------------------------- writing
def test_an_interrupted_write_leaves_the_old_file(
    surrogate: GaussianProcessSurrogate, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive.npy, "write_array", full)
    with pytest.raises(StorageError, match="No space left"):
        surrogate.save(saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_a_missing_folder_is_a_storage_error(surrogate: GaussianProcessSurrogate, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere"):
        surrogate.save(tmp_path / "nowhere" / "surrogate.npz")


# --------------------------------------------------------------------------------------------------- files of all kinds
class Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.canary),)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:  # case 54
    (tmp_path / "x.npz").write_bytes(pickle.dumps(Bomb(tmp_path / "canary")))
    with pytest.raises(UnsafeFileError, match="is a pickle"):
        load_surrogate(tmp_path / "x.npz")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("where", ["process.x", "header", "more"])
def test_object_arrays_are_refused_and_not_run(where: str, saved: Path, tmp_path: Path) -> None:  # case 54
    bomb = np.empty(1, dtype=object)
    bomb[0] = Bomb(tmp_path / "canary")
    rewrite(saved, parts(saved) | {where: bomb})
    with pytest.raises(UnsafeFileError, match=f"'{where}.npy' holds pickled objects"):
        load_surrogate(saved)
    assert not (tmp_path / "canary").exists()


def test_a_zip_bomb_is_refused_before_it_is_unpacked(saved: Path) -> None:  # case 55
    header = parts(saved)["header"]
    rewrite(saved, {"header": header, "process.x": np.zeros(12_000_000)}, zipfile.ZIP_DEFLATED)
    assert saved.stat().st_size < 1_000_000
    with pytest.raises(UnsafeFileError, match=r"claims 9\d MB and holds 0\.\d* MB"):
        load_surrogate(saved)


def test_more_than_a_sane_size_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "LARGEST", 1000)
    with pytest.raises(UnsafeFileError, match="claims"):
        load_surrogate(saved)


@pytest.mark.parametrize("shape", [(10**12,), (10**9, 10**9), (2**62, 4)])
def test_a_shape_that_is_larger_than_its_bytes_is_refused(shape: tuple[int, ...], saved: Path) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(saved, "a") as archive:
        archive.writestr("more.npy", stream.getvalue() + b"\0" * 64)
    with pytest.raises(UnsafeFileError, match=r"'more.npy' declares shape .* but has"):
        load_surrogate(saved)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_a_format_error(share: float, saved: Path) -> None:  # case 53
    data = saved.read_bytes()
    saved.write_bytes(data[: int(share * len(data))])
    with pytest.raises(FormatError, match="surrogate.npz"):
        load_surrogate(saved)


@pytest.mark.parametrize("version", [5, 10**6])
def test_a_newer_version_says_so(version: int, saved: Path) -> None:  # case 56
    forge(saved, {"version": version, "shapes": {"process.news": [3]}})
    with pytest.raises(FormatVersionError, match=f"version {version}, this uqms reads up to 4; update uqms"):
        load_surrogate(saved)


@pytest.mark.parametrize("version", [0, "1", None, True, 1.0])
def test_a_version_that_is_none_is_a_format_error(version: object, saved: Path) -> None:
    forge(saved, {"version": version})
    with pytest.raises(FormatError, match="format version"):
        load_surrogate(saved)


def test_a_changed_number_is_an_integrity_error(saved: Path) -> None:  # case 57
    held = parts(saved)
    held["process.beta"] = held["process.beta"] + 1e-12
    rewrite(saved, held)
    with pytest.raises(IntegrityError, match="is not what uqms wrote"):
        load_surrogate(saved)


def test_a_changed_header_is_an_integrity_error(saved: Path) -> None:
    held = parts(saved)
    text = held["header"].tobytes().replace(b'"mg/L"', b'"ug/L"')
    rewrite(saved, held | {"header": np.frombuffer(text, dtype=np.uint8)})
    with pytest.raises(IntegrityError, match="is not what uqms wrote"):
        load_surrogate(saved)


def test_a_damaged_byte_is_an_integrity_error(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    place = data.index(parts(saved)["process.target"].tobytes())
    data[place + 100] ^= 1
    saved.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match="is damaged"):
        load_surrogate(saved)


def test_every_flipped_bit_is_noticed(saved: Path) -> None:
    data = saved.read_bytes()
    rng = np.random.default_rng(1)
    for place in rng.integers(0, len(data), 60):
        broken = bytearray(data)
        broken[place] ^= 1 << int(rng.integers(8))
        saved.write_bytes(bytes(broken))
        try:
            same = load_surrogate(saved)
        except (FormatError, IntegrityError, UnsafeFileError):
            continue
        saved.write_bytes(data)  # a date or a flag of the archive: the content is what it was
        assert (same.process.flat() == load_surrogate(saved).process.flat()).all()


def test_another_npz_is_a_format_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros(3))
    with pytest.raises(FormatError, match="but no surrogate"):
        load_surrogate(tmp_path / "x.npz")
    np.savez_compressed(tmp_path / "x.npz", header=np.frombuffer(b'{"format": "else"}', dtype=np.uint8))
    with pytest.raises(FormatError, match="but no surrogate"):
        load_surrogate(tmp_path / "x.npz")


@pytest.mark.parametrize("content", [b"", b"PK", b"hello", b"\x93NUMPY\x01\x00", b"\x89HDF\r\n\x1a\n"])
def test_another_file_is_a_format_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    said = "is a netCDF file, and surrogates are .npz files" if content[1:4] == b"HDF" else "is no .npz file; give one"
    with pytest.raises(FormatError, match=said):
        load_surrogate(tmp_path / "x.npz")


def add(path: Path, name: str, values: np.ndarray, rest: bytes = b"") -> None:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, values)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, stream.getvalue() + rest)


@pytest.mark.parametrize("name", ["../../x.npy", "/etc/x.npy", "more.npy"])
def test_members_that_are_not_declared_are_refused(name: str, saved: Path) -> None:
    add(saved, name, np.zeros(2))
    with pytest.raises(FormatError, match="not those that its header declares"):
        load_surrogate(saved)


def test_members_that_are_no_arrays_are_refused(saved: Path) -> None:
    with zipfile.ZipFile(saved, "a") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(FormatError, match="'readme.txt' does not belong"):
        load_surrogate(saved)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_that_stand_twice_are_refused(saved: Path) -> None:
    add(saved, "process.x.npy", parts(saved)["process.x"])
    with pytest.raises(FormatError, match=r"'process.x.npy' .* stands twice"):
        load_surrogate(saved)


def test_bytes_behind_an_array_are_refused(saved: Path) -> None:
    held = parts(saved)
    with zipfile.ZipFile(saved, "w"):
        pass
    for name, values in held.items():
        add(saved, f"{name}.npy", values, b"hidden" if name == "process.x" else b"")
    with pytest.raises(FormatError, match="'process.x.npy' has 6 bytes more"):
        load_surrogate(saved)


def test_headers_that_are_no_json_are_refused(saved: Path) -> None:
    for text in (b"{", b"[" * 100_000, b"[]", b"\xff\xfe", b"null"):
        rewrite(saved, parts(saved) | {"header": np.frombuffer(text, dtype=np.uint8)})
        with pytest.raises(FormatError, match="header|no surrogate"):
            load_surrogate(saved)
        (saved).unlink()
        load = load_surrogate(FROZEN)
        load.save(saved)


def test_an_encrypted_or_unknown_compression_is_a_format_error(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    at = data.index(b"PK\x01\x02")
    struct.pack_into("<H", data, at + 10, 99)
    saved.write_bytes(bytes(data))
    with pytest.raises(FormatError):
        load_surrogate(saved)


# ------------------------------------------------------------ files with a right checksum that describe no surrogate
@pytest.mark.parametrize("name", sorted(stored.PROCESS))
def test_arrays_whose_sizes_disagree_are_refused(name: str, saved: Path) -> None:
    # Compiled code indexes them unchecked.
    values = parts(saved)[f"process.{name}"]
    for wrong in (values[..., :-1], values[None], np.concatenate([values, values])):
        forge(saved, {}, {f"process.{name}": wrong})
        with pytest.raises(FormatError, match="does not agree|another number|trend functions"):
            load_surrogate(saved)
    forge(saved, {}, {f"process.{name}": values})
    load_surrogate(saved)


@pytest.mark.parametrize("name", ["offset", "basis", "truncation", "interpolation_sd", "left_out", "coord0"])
def test_outputs_whose_sizes_disagree_are_refused(name: str, saved: Path) -> None:
    forge(saved, {}, {f"output1.{name}": parts(saved)[f"output1.{name}"][:-1]})
    with pytest.raises(FormatError, match="describes no surrogate"):
        load_surrogate(saved)


def test_arrays_that_agree_with_each_other_but_make_no_surrogate_are_refused(saved: Path) -> None:
    held = parts(saved)
    more = {
        "process.beta": np.zeros((1, 3, 7)),
        "process.trend_factor": np.zeros((1, 3, 12, 7)),
        "process.trend_root": np.zeros((1, 3, 7, 7)),
    }
    for arrays, message in (
        (more, "7 trend functions for 2 inputs"),
        ({"output1.basis": held["output1.basis"][:, :1]}, "3 scores, but the outputs have another number"),
        ({"more": np.zeros(2)}, "more belongs to nothing"),
        ({"output1.coord0": held["output1.coord0"][:, None]}, "coordinate hour has shape"),
    ):
        (saved.parent / "copy.npz").write_bytes(saved.read_bytes())
        forge(saved.parent / "copy.npz", {}, arrays)
        with pytest.raises(FormatError, match=message):
            load_surrogate(saved.parent / "copy.npz")


def test_numbers_that_are_not_finite_are_refused(saved: Path) -> None:
    values = parts(saved)["process.target"]
    values[0, 0, 0] = np.nan
    forge(saved, {}, {"process.target": values})
    with pytest.raises(FormatError, match=r"process.target holds numbers that are not finite"):
        load_surrogate(saved)


def test_other_kinds_of_numbers_are_refused(saved: Path) -> None:
    forge(saved, {}, {"process.target": parts(saved)["process.target"].astype(np.float32)})
    with pytest.raises(FormatError, match="float32, not float64"):
        load_surrogate(saved)


@pytest.mark.parametrize(
    "edit",
    [
        {"kernel": 7},
        {"kernel": 2},
        {"kernel": None},
        {"kernel": {}},
        {"kernel": {"class": "uqms:Matern52"}},
        {"kernel": {"class": "uqms:Matern52", "settings": {"nu": 2.5}}},
        {"kernel": {"class": "uqms:RationalQuadratic", "settings": {"alpha": "x"}}},
        {"kernel": {"class": "uqms:RationalQuadratic", "settings": {"alpha": -1.0}}},
        {"kernel": {"class": "uqms:GaussianProcess", "settings": {}}},
        {"kernel": {"class": "uqms.surrogates.kernels:RadialKernel", "settings": {}}},
        {"kernel": {"class": "uqms:Sum", "settings": {"parts": []}}},
        {"kernel": {"class": "uqms:Product", "settings": {"parts": 1}}},
        {"kernel": {"class": 1, "settings": {}}},
        {"kernel": {"class": "../x:Y", "settings": {}}},
        {"kernel": [2]},
        {"domain": {}},
        {"domain": None},
        {"outputs": []},
        {"outputs": [{}]},
        {"outputs": 3},
        {"attrs": None},
        {"shapes": {"process.x": [1, 1]}},
        {"shapes": {"more": [1]}},
    ],
)
def test_headers_that_describe_no_surrogate_are_refused(edit: dict[str, object], saved: Path) -> None:
    forge(saved, edit)
    with pytest.raises(FormatError, match="describes no surrogate|not those that its header declares"):
        load_surrogate(saved)


def test_a_quadratic_trend_comes_back(tmp_path: Path) -> None:
    at = {name: np.random.default_rng(seed).random(12) for seed, name in enumerate("ab")}
    runs = uq.ensemble.build(at, {"y": np.sin(4.0 * at["a"]) + at["b"]})
    fitted = uq.GaussianProcess(trend="quadratic").fit(runs)
    fitted.save(tmp_path / "s.npz")
    same, points = load_surrogate(tmp_path / "s.npz"), {"a": [0.1, 0.7], "b": [0.4, 0.2]}
    assert same.predict(points).variance.identical(fitted.predict(points).variance)
    assert (same.process.flat() == fitted.process.flat()).all()
