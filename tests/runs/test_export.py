import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from stores import campaign, edit, fill

import uqms as uq
from uqms.ensemble import RunState, check, from_netcdf, from_table, get_box, get_space, input_names, output_names
from uqms.errors import DataWarning, InputError, IntegrityError, StorageError
from uqms.runs import RunStore, export, reading, run

ROOT = Path(uq.__file__).parents[1]
DAYS = np.array([0.0, 0.1, 3.0])
SPACE = uq.ParameterSpace(b=uq.LogNormal(median=2, sigma=0.2, unit="mg/d", description="dose rate"), a=uq.Uniform(1, 4))


def model(a, b, seed):
    noise = np.random.default_rng(seed).normal()
    if a > 3.2:
        raise ValueError("=HYPERLINK()")
    fields = np.outer(DAYS, [a, b]) + noise
    if a > 2.5:
        fields[0, 1] = np.nan
    return {"c": fields, "y": a + noise, "A": -b}


SIMULATOR = uq.FunctionSimulator(
    model,
    outputs={"c": ("day", "site"), "y": (), "A": ()},
    coords={"day": DAYS, "site": ["left", "right"]},
    units={"y": "mm"},
    seed="seed",
    version="1",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the path of a store and the ensemble that `run` returned, its rows in the order of the inputs."""
    path = tmp_path_factory.mktemp("export") / "runs.db"
    with pytest.warns(DataWarning):
        table = run(SIMULATOR, uq.sobol(SPACE, 8, rng=1), path, replicates=2, rng=3, workers=0, fidelity="fine")
    assert set(table["state"].values) == {RunState.COMPLETED, RunState.FAILED, RunState.PARTIAL}
    return path, table.isel(run=np.lexsort([table["replicate"], table["a"], table["b"]]))


def same(got, wanted):
    """Compare all that is in two ensembles but the moment when they were made."""
    assert set(got.variables) == set(wanted.variables)
    assert (input_names(got), output_names(got)) == (input_names(wanted), output_names(wanted))
    for name in wanted.variables:
        assert got[name].identical(wanted[name]), name
    assert {**got.attrs, "created": ""} == {**wanted.attrs, "created": "", "simulator": got.attrs["simulator"]}
    assert json.loads(got.attrs["simulator"]) == json.loads(wanted.attrs["simulator"])


def test_the_ensemble_is_what_run_returned(made):
    path, wanted = made
    with RunStore(path, readonly=True) as store:
        got = store.ensemble()
    check(got)
    same(got, wanted)


def test_netcdf_is_what_run_returned(made, tmp_path):
    path, wanted = made
    with RunStore(path, readonly=True) as store:
        assert store.export(tmp_path / "x.nc") == tmp_path / "x.nc"
    same(from_netcdf(tmp_path / "x.nc"), wanted)


@pytest.mark.parametrize("block", [1, 200, 2**24])
def test_netcdf_in_blocks_is_the_same(made, tmp_path, monkeypatch, block):
    path, wanted = made
    monkeypatch.setattr(export, "_IN_MEMORY", 0)
    monkeypatch.setattr(reading, "_BLOCK", block)
    with RunStore(path, readonly=True) as store:
        store.export(tmp_path / "x.nc")
    got = from_netcdf(tmp_path / "x.nc")
    same(got, wanted)


def test_netcdf_in_blocks_of_a_simulator_without_chance(tmp_path, monkeypatch):
    fill(tmp_path / "runs.db", n=5)
    with RunStore(tmp_path / "runs.db") as store:
        wanted = store.ensemble()
        monkeypatch.setattr(export, "_IN_MEMORY", 0)
        store.export(tmp_path / "x.nc")
    same(from_netcdf(tmp_path / "x.nc"), wanted)


def test_rows_are_in_the_order_of_the_inputs_whatever_ended_first(tmp_path):
    fill(tmp_path / "x.db", n=3, start=4)
    fill(tmp_path / "x.db", n=4)
    with RunStore(tmp_path / "x.db") as store:
        assert store.ensemble()["a"].values.tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_runs_of_several_designs_have_no_box_but_their_range(made, tmp_path):
    path, _ = made
    with RunStore(path, readonly=True) as store:
        assert get_box(store.ensemble()) == get_box(uq.sobol(SPACE, 8, rng=1))
    with pytest.warns(DataWarning):
        run(SIMULATOR, uq.sobol(SPACE, 8, rng=1), tmp_path / "x.db", rng=3, workers=0)
    run(SIMULATOR, {"a": [1.0], "b": [99.0]}, tmp_path / "x.db", rng=3, workers=0)
    with RunStore(tmp_path / "x.db") as store:
        table = store.ensemble()
    assert not {"box", "design"} & set(table.attrs)
    assert get_space(table) == SPACE
    assert get_box(table).upper[0] == 99.0


def test_a_design_is_told_of_its_own_runs_only(tmp_path):
    """What share of the prior failed follows from it."""
    simulator = uq.FunctionSimulator(lambda a: 1 / 0 if a > 0.9 else a, outputs={"y": ()}, version="1")
    design = uq.sobol(uq.ParameterSpace(a=uq.Uniform(0, 1)), 16, rng=1)
    told = []

    def look():
        with RunStore(tmp_path / "x.db") as store:
            told.append(store.ensemble().attrs.get("design"))

    runs = [design.isel(run=slice(8)).drop_attrs(), design, {"a": np.linspace(0.85, 1.0, 7)}]
    for points in runs:  # the second goes on with those of the first, which belong to it
        with pytest.warns(DataWarning):
            run(simulator, points, tmp_path / "x.db", workers=0)
        look()
    assert told == [None, design.attrs["design"], None]
    with RunStore(tmp_path / "x.db") as store:
        store.invalidate(where={"a": (0.85, 1)})
    look()
    assert told[3] is None


def test_runs_of_two_rng_have_none_and_are_counted_on(tmp_path):
    simulator = uq.FunctionSimulator(lambda a, seed: seed, outputs={"y": ()}, version="1", seed="seed")
    with RunStore(tmp_path / "x.db") as store:
        run(simulator, {"a": [2.0, 1.0]}, store, workers=0, rng=1, replicates=3)
        once = store.ensemble()
        run(simulator, {"a": [1.0]}, store, workers=0, rng=2, replicates=2)
        table = store.ensemble()
        assert store.runs()["replicate"].tolist() == table["replicate"].values.tolist()
    assert once.attrs["rng"] == "1"
    assert "rng" not in table.attrs
    assert table["a"].values.tolist() == [1.0] * 5 + [2.0] * 3
    assert table["replicate"].values.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert len(set(table["seed"].values.tolist())) == 8


# ----------------------------------------------------------------------------------------------------------------- CSV
def test_csv_has_one_row_for_each_run(made, tmp_path, monkeypatch):
    path, wanted = made
    monkeypatch.setattr(reading, "_BLOCK", 150)
    with RunStore(path, readonly=True) as store:
        store.export(tmp_path / "x.csv")
    with open(tmp_path / "x.csv", newline="", encoding="utf-8") as file:
        names, *cells = csv.reader(file)
    table = dict(zip(names, zip(*cells, strict=True), strict=True))
    curve = [f"c[{day},{site}]" for day in ("0.0", "0.1", "3.0") for site in ("left", "right")]
    assert names == ["b", "a", "state", "seconds", "message", "replicate", "seed", *curve, "y", "A"]

    def numbers(name):
        return [float(cell or "nan") for cell in table[name]]

    for name in ("b", "a", "y", "A", "seconds", "replicate", "seed"):
        np.testing.assert_array_equal(numbers(name), wanted[name], err_msg=name)
    np.testing.assert_array_equal(
        np.stack([numbers(name) for name in curve], axis=1), wanted["c"].values.reshape(16, 6)
    )
    assert [state.upper() for state in table["state"]] == [RunState(s).name for s in wanted["state"].values]
    assert list(table["message"]) == wanted["message"].values.tolist()


def test_csv_comes_back_bit_for_bit(tmp_path):
    made = fill(tmp_path / "runs.db", n=5)
    with RunStore(tmp_path / "runs.db") as store:
        store.export(tmp_path / "x.csv")
    curve = ("day", ["c[0.0]", "c[0.1]", "c[3.0]"], DAYS)
    table = from_table(tmp_path / "x.csv", ["a", "b"], {"y": "y", "c": curve})
    assert table["c"].values.tobytes() == b"".join(row.record.outputs["c"].tobytes() for row in made)


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r"])
def test_no_text_becomes_a_formula_in_a_spreadsheet(tmp_path, first):
    of = campaign((f"{first}a", "b"), outputs={f"{first}y": (), "c": ("day",)}, units={})
    from uqms.runs import Record
    from uqms.runs.store import Row

    x = np.array([[-1.0, -0.5]])
    with RunStore(tmp_path / "runs.db") as store:
        store.register(of)
        store.put(of, [Row(of.keys(x)[0], x[0], Record(RunState.FAILED, 1.0, f"{first}cmd|' /C calc'!A0"))])
        store.export(tmp_path / "x.csv")
    with open(tmp_path / "x.csv", newline="") as file:
        names, cells = csv.reader(file)
    texts = [*names, cells[names.index("message")]]
    assert not [text for text in texts if text.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert cells[names.index("message")] == f"'{first}cmd|' /C calc'!A0"
    assert cells[:2] == ["-1.0", "-0.5"]  # numbers stay numbers


# --------------------------------------------------------------------------------------------------------------- files
@pytest.mark.parametrize("name", ["x.xlsx", "x", "csv"])
def test_other_endings(made, tmp_path, name):
    with RunStore(made[0], readonly=True) as store, pytest.raises(InputError, match=r"ends in .nc .* or .csv"):
        store.export(tmp_path / name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["x.nc", "x.csv"])
@pytest.mark.parametrize("blocks", [True, False])
def test_a_damaged_run_leaves_the_old_file(tmp_path, monkeypatch, name, blocks):
    monkeypatch.setattr(reading, "_BLOCK", 1)
    if blocks:
        monkeypatch.setattr(export, "_IN_MEMORY", 0)
    fill(tmp_path / "runs.db", n=5)
    edit(tmp_path / "runs.db", "UPDATE runs SET outputs = zeroblob(32) WHERE rowid = 4")
    (tmp_path / name).write_text("old")
    with RunStore(tmp_path / "runs.db") as store, pytest.raises(IntegrityError, match="its hash does not match"):
        store.export(tmp_path / name)
    assert (tmp_path / name).read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == sorted(["runs.db", name])


@pytest.mark.parametrize("name", ["x.nc", "x.csv"])
def test_no_folder(made, tmp_path, name):
    with RunStore(made[0], readonly=True) as store, pytest.raises(StorageError, match="cannot be written"):
        store.export(tmp_path / "none" / name)


def test_which_campaign_is_meant(tmp_path):
    path = tmp_path / "runs.db"
    with RunStore(path) as store:
        with pytest.raises(InputError, match="holds no runs"):
            store.ensemble()
    fill(path, n=2)
    with RunStore(path) as store:
        store.register(campaign(name="empty"))  # it has no runs, so it does not count
        assert store.ensemble().sizes["run"] == 2
        with pytest.raises(
            InputError, match=r"no campaign 'other'; .* The campaign is 9a09b6aae89f \(frozen; inputs a, b\)"
        ):
            store.ensemble("other")
    fill(path, campaign(fidelity="coarse"), n=3)
    fill(path, campaign(name="second"), n=4)
    with RunStore(path) as store:
        for name in (None, "frozen"):
            with pytest.raises(InputError, match=r"several campaigns .*frozen; inputs a, b.*fidelity 'coarse'"):
                store.export(tmp_path / "x.nc", name)
        assert store.ensemble("second").sizes["run"] == 4
        assert store.ensemble("9a09b6").sizes["run"] == 2
        assert store.ensemble(campaign(fidelity="coarse").id)["fidelity"].values.tolist() == ["coarse"] * 3
        with pytest.raises(InputError, match="no campaign ''"):
            store.ensemble("")


MEMORY = """
import resource, sys
sys.path.insert(0, "tests")
import numpy as np
from stores import campaign, completed
from uqms.runs import RunStore
from uqms.runs.store import Row
of = campaign(outputs={"y": (), "c": ("i",)}, coords={"i": np.arange(50_000.0)})
with RunStore(sys.argv[1] + "/runs.db") as store:
    store.register(of)
    for i in range(600):  # 240 MB
        x = np.array([float(i), 0.0])
        store.put(of, [Row(of.keys(x[None])[0], x, completed(i, np.full(50_000, float(i))))])
    import uqms.runs.export, h5netcdf
    with RunStore(sys.argv[1] + "/small.db") as small:
        small.register(campaign())
        small.put(campaign(), [Row(campaign().keys(x[None])[0], x, completed(i, [1.0, 2.0, 3.0]))])
        small.export(sys.argv[1] + "/small.nc")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    store.export(sys.argv[1] + "/x.nc")
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_the_memory_of_an_export_does_not_grow_with_the_runs(tmp_path):
    command = [sys.executable, "-c", MEMORY, tmp_path]
    out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert float(out.stdout) < 150  # MB; all outputs are 240
    assert (tmp_path / "x.nc").stat().st_size > 240e6
