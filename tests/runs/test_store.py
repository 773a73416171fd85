import dataclasses
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from stores import ask, campaign, completed, edit, fill, rows, seal

import uqms
from uqms.ensemble import from_netcdf
from uqms.errors import (
    CampaignError,
    CampaignLocked,
    CampaignMismatch,
    DataError,
    FormatError,
    FormatVersionError,
    IntegrityError,
    StorageError,
)
from uqms.runs import Record, RunState, RunStore, connection, reading
from uqms.runs import store as store_module
from uqms.runs.format import checksum
from uqms.runs.store import Row

ROOT = Path(uqms.__file__).parents[1]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs.db"


# ----------------------------------------------------------------------------------------------------- put and get back
AWKWARD = [0.1, -0.0, 1e-300, 5e-324, 1.7976931348623157e308, np.nextafter(1.0, 2), -1 / 3]


def test_outputs_come_back_bit_for_bit(path):
    of = campaign(outputs={"y": (), "c": ("k",)}, coords={"k": np.arange(6.0)})
    record = completed(AWKWARD[0], AWKWARD[1:])
    (key,) = of.keys(np.array([[1.0, 2.0]]))
    with RunStore(path) as store:
        store.register(of)
        store.put(of, [Row(key, np.array([1.0, 2.0]), record)])
    with RunStore(path) as store:
        found = store.outputs(of, [key])
        assert store.kept(of) == {key: dataclasses.replace(record, outputs=None)}
    assert {name: values.shape for name, values in found.items()} == {"y": (1,), "c": (1, 6)}
    for name, values in record.outputs.items():
        assert found[name].tobytes() == values.tobytes()


@pytest.mark.parametrize("block", [1, 50, 2**24])
@pytest.mark.parametrize("few", [False, True], ids=["all", "few"])
def test_outputs_are_in_the_order_of_the_keys(path, monkeypatch, block, few):
    monkeypatch.setattr(reading, "_BLOCK", block)
    made = fill(path, n=7)
    fill(path, campaign(version="2"), n=3)
    chosen = [6, 2, 2] if few else [5, 3, 1, 0, 2, 4, 6, 3]
    keys = [made[i].key for i in chosen]
    keys.insert(1, b"?" * 32)
    with RunStore(path) as store:
        found = store.outputs(campaign(), keys)
    np.testing.assert_array_equal(np.delete(found["y"], 1), 10.0 * np.array(chosen))
    np.testing.assert_array_equal(np.delete(found["c"], 1, axis=0)[:, 0], chosen)
    assert np.isnan(found["y"][1])
    assert np.isnan(found["c"][1]).all()


def test_few_outputs_are_decoded_at_once(path, monkeypatch):
    monkeypatch.setattr(reading, "_BLOCK", 64)  # two runs
    made = fill(path)
    with RunStore(path) as store:
        (known,) = reading.read_campaigns(store._db, path)
        blocks = list(reading.Outputs(store._db, path, known)._blocks({row.key: [0] for row in made}))
    assert [(len(keys), len(blob)) for keys, blob in blocks] == [(2, 64), (2, 64), (1, 32)]


def test_all_that_a_record_says_comes_back(path):
    of = campaign(("b", "a"), seed="seed")
    x = np.array([[2.0, 1.0]] * 3)
    keys = of.keys(x, np.array([5, 6, 7]))
    partial = {"y": np.array(np.nan), "c": np.array([1.0, np.nan, 3.0])}
    records = [
        Record(RunState.FAILED, 0.1, "ValueError: äöü\nsecond line", None, 3),
        Record(RunState.PARTIAL, 0.2, "OutputError: y", partial, 1),
        Record(RunState.TIMEOUT, np.inf, "SimulatorTimeout", None, 2),
    ]
    with RunStore(path) as store:
        store.register(of)
        store.put(of, [Row(*each, i) for i, each in enumerate(zip(keys, x, records, [5, 6, 7], strict=True))])
        assert store.kept(of) == {k: dataclasses.replace(r, outputs=None) for k, r in zip(keys, records, strict=True)}
        found = store.outputs(of, keys)
        table = store.runs()
    np.testing.assert_array_equal(found["y"], [np.nan] * 3)
    np.testing.assert_array_equal(found["c"][1], [1.0, np.nan, 3.0])
    assert table["seed"].tolist() == [5, 6, 7]
    assert table["replicate"].tolist() == [0, 1, 2]
    assert table["attempts"].tolist() == [3, 1, 2]
    assert table[["b", "a"]].values.tolist() == x.tolist()


def test_inputs_lie_in_the_order_of_their_names(path):
    of = campaign(("b", "a"))
    fill(path, of, n=1, start=3)
    assert ask(path, "SELECT x FROM runs") == [(np.array([3.0, -0.5], "<f8").tobytes(),)]


def test_nothing_is_found_of_what_was_never_put(path):
    fill(path)
    other = campaign(version="2")
    with RunStore(path) as store:
        assert store.kept(other) == {}
        found = store.outputs(other, [b"?" * 32] * 2)
    assert {name: values.shape for name, values in found.items()} == {"y": (2,), "c": (2, 3)}
    assert np.isnan(found["c"]).all()


def test_several_campaigns_share_a_file(path):
    first, second = fill(path, n=3), fill(path, campaign(version="2"), n=4)
    with RunStore(path) as store:
        assert len(store) == 7
        assert set(store.kept(campaign())) == {row.key for row in first}
        assert set(store.kept(campaign(version="2"))) == {row.key for row in second}
        assert np.isnan(store.outputs(campaign(), [second[0].key])["y"]).all()


def test_a_run_of_the_same_key_is_replaced(path):
    (row,) = fill(path, n=1)
    with RunStore(path) as store:
        store.put(campaign(), [row._replace(record=completed(7.0, [1.0, 2.0, 3.0]))])
        assert len(store) == 1
        assert store.outputs(campaign(), [row.key])["y"] == [7.0]
        store.integrity_check()


def test_runs_are_on_the_disk_when_put_returns(path):
    fill(path, n=2)
    with RunStore(path) as store:
        store.put(campaign(), rows(campaign(), 3, start=2))
        with RunStore(path, readonly=True) as reader:  # a second connection sees what is committed only
            assert len(reader) == 5


def test_a_group_is_kept_whole_or_not_at_all(path):
    fill(path, n=2)
    clash = rows(campaign(), 1)[0]._replace(x=np.array([99.0, 0.0]))
    with RunStore(path) as store:
        with pytest.raises(CampaignMismatch, match="a different run under the key"):
            store.put(campaign(), [*rows(campaign(), 1, start=5), clash])
        assert len(store) == 2
        wrong = rows(campaign(), 1, start=7)[0]._replace(record=completed(1.0, [1.0, 2.0]))
        with pytest.raises(DataError, match=r"'c' has shape \(2,\), but it is stored with shape \(3,\)"):
            store.put(campaign(), [*rows(campaign(), 1, start=6), wrong])
        assert len(store) == 2
        store.put(campaign(), [])


def test_a_campaign_is_registered_before_its_runs(path):
    with RunStore(path) as store, pytest.raises(CampaignError, match="this campaign of 'frozen' is not registered"):
        store.put(campaign(), rows(campaign(), 1))


def test_reading_takes_the_same_statements_whatever_the_number_of_runs(path):
    made = fill(path, n=600)
    said, of = [], campaign()
    with RunStore(path) as store:
        store._db.set_trace_callback(said.append)
        store.kept(of, {row.key for row in made})
        store.outputs(of, [row.key for row in made])
        store._db.set_trace_callback(None)
    assert len(said) <= 6


def test_few_runs_are_found_without_reading_all(path):
    made = fill(path, n=2000)
    of, steps = campaign(), []
    keys = [made[3].key, made[7].key, b"?" * 32]
    with RunStore(path) as store:
        store.kept(of, [])
        store._db.set_progress_handler(lambda: steps.append(1), 10)
        assert set(store.kept(of, keys)) == set(keys[:2])
        assert store.outputs(of, keys[:2])["y"].tolist() == [30.0, 70.0]
        few = len(steps)
        store.kept(of)
    assert few < (len(steps) - few) / 20


def test_settings_that_make_it_safe(path):
    with RunStore(path) as store:
        assert connection.number(store._db, "PRAGMA synchronous") == 2
        assert connection.number(store._db, "PRAGMA application_id") == 0x75716D73
        assert connection.number(store._db, "PRAGMA user_version") == 2
        assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# -------------------------------------------------------------------------------------------------------------- layouts
def test_the_file_says_what_is_needed_to_read_it_without_the_simulator(path):
    of = campaign(("b", "a"), fidelity="fine")
    with RunStore(path) as store:
        store.register(of, {"space": "{}", "rng": "3"})
        store.register(of, {"space": "{ }"})
    ((inputs, layout, about, identity, versions, level),) = ask(
        path, "SELECT inputs, layout, about, identity, versions, fidelity FROM campaigns"
    )
    assert json.loads(inputs) == ["b", "a"]
    assert json.loads(layout) == {
        "outputs": {"y": {"dims": [], "shape": [], "unit": "mm"}, "c": {"dims": ["day"], "shape": [3], "unit": ""}},
        "coords": {"day": [0.0, 0.1, 3.0]},
    }
    assert json.loads(about) == {"space": "{ }"}  # the number was the other call's
    assert json.loads(identity) == of.simulator.identity
    assert json.loads(versions)["uqms"] == uqms.__version__
    assert level == "fine"


def test_the_order_in_which_outputs_are_declared_does_not_matter(path):
    made = fill(path)
    turned = campaign(outputs={"c": ("day",), "y": ()})
    with RunStore(path) as store:
        store.register(turned)
        store.put(turned, rows(turned, 1, start=9))
        found = store.outputs(turned, [row.key for row in [*made, *rows(turned, 1, start=9)]])
    np.testing.assert_array_equal(found["y"], [0, 10, 20, 30, 40, 90])
    np.testing.assert_array_equal(found["c"][:, 0], [0, 1, 2, 3, 4, 9])


class Forgetful:
    """A simulator of one's own, whose identity says too little."""

    def __init__(self, outputs, coords, units=None):
        self.outputs, self.coords, self.units = outputs, {k: np.asarray(v) for k, v in coords.items()}, units or {}
        self.identity = {"name": "forgetful"}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            Forgetful({"c": ("day",)}, {"day": [0.0, 1.0, 2.0]}),
            r"dim 'day' has 2 coordinates in the store and 3 different coordinates in the simulator",
        ),
        (
            Forgetful({"c": ("day",)}, {"day": [0.0, 1.5]}),
            "dim 'day' has 2 coordinates in the store and 2 different coordinates",
        ),
        (Forgetful({"c": ()}, {}), r"output 'c' has the dims \('day',\) in the store and \(\) in the simulator"),
        (Forgetful({"c": ("day",), "z": ()}, {"day": [0.0, 1.0]}), "only the simulator has the output 'z'"),
        (
            Forgetful({"z": ("day",)}, {"day": [0.0, 1.0]}),
            "only the store has the output 'c'; only the simulator has the output 'z'",
        ),
        (
            Forgetful({"c": ("day",)}, {"day": [0.0, 1.0]}, {"c": "kg"}),
            "output 'c' has the unit 'g' in the store and 'kg' in the simulator",
        ),
    ],
)
def test_the_same_identity_with_other_outputs(path, changed, words):
    from uqms.runs.campaign import Campaign

    first = Campaign(Forgetful({"c": ("day",)}, {"day": [0.0, 1.0]}, {"c": "g"}), ("a",))
    second = Campaign(changed, ("a",))
    assert first.id == second.id
    with RunStore(path) as store:
        store.register(first)
    for act in (lambda s: s.register(second), lambda s: s.kept(second), lambda s: s.outputs(second, [])):
        with RunStore(path) as store:
            assert store.kept(first) == {}
            with pytest.raises(CampaignMismatch, match=words):
                act(store)


def test_units_may_be_added_and_left_out(path):
    fill(path, campaign(units={}))
    for units, kept in (({"y": "mm"}, "mm"), ({}, "mm"), ({"c": "1/d"}, "mm")):
        with RunStore(path) as store:
            store.register(campaign(units=units))
            layout = json.loads(ask(path, "SELECT layout FROM campaigns")[0][0])
        assert layout["outputs"]["y"]["unit"] == kept
    assert layout["outputs"]["c"]["unit"] == "1/d"


def test_relatives_are_runs_of_the_same_name_and_another_identity(path):
    fill(path, n=3)
    fill(path, campaign(fidelity="coarse"), n=2)
    fill(path, campaign(name="other"), n=2)
    with RunStore(path) as store:
        assert store.relatives(campaign(version="2")) == 5
        assert store.relatives(campaign()) == 0
        assert store.relatives(campaign(name="third")) == 0
        assert store.relatives(campaign(seed="seed")) == 5
        assert store.relatives(campaign(config={"k": 1})) == 0  # settings are changed on purpose


# ---------------------------------------------------------------------------------------------------------- wrong files
def test_another_sqlite_file(path):
    edit(path, "CREATE TABLE t (x)")
    for readonly in (False, True):
        with pytest.raises(FormatError, match="not a run store"):
            RunStore(path, readonly=readonly)
    assert ask(path, "PRAGMA journal_mode") == [("delete",)]


def test_not_sqlite(path):
    path.write_text("a,b\n" * 500)
    with pytest.raises(FormatError, match="no SQLite file"):
        RunStore(path)
    assert path.read_text() == "a,b\n" * 500


def test_newer_format(path):
    fill(path)
    edit(path, "PRAGMA user_version = 3")
    for readonly in (False, True):
        with pytest.raises(
            FormatVersionError, match="format 3, but this version of uqms reads formats up to 2; update uqms"
        ):
            RunStore(path, readonly=readonly)


@pytest.mark.parametrize("left", [0.6, 0.9])
def test_truncated(path, left):
    fill(path, n=300)
    os.truncate(path, int(path.stat().st_size * left))
    for readonly in (False, True):
        with pytest.raises(FormatError, match=r"truncated to \d+ of \d+ bytes; .* uqms runs salvage"):
            RunStore(path, readonly=readonly)


@pytest.mark.parametrize("left", [1, 50, 99])
def test_truncated_within_its_header(path, left):
    fill(path)
    os.truncate(path, left)
    with pytest.raises(FormatError):
        RunStore(path)


def test_empty_or_missing_for_reading(path):
    with pytest.raises(StorageError, match="there is no file"):
        RunStore(path, readonly=True)
    assert not path.exists()
    path.touch()
    with pytest.raises(FormatError, match="is empty"):
        RunStore(path, readonly=True)


def test_no_folder(tmp_path):
    with pytest.raises(StorageError, match="there is no folder"):
        RunStore(tmp_path / "none" / "runs.db")


def test_a_folder_in_its_place(tmp_path):
    for readonly in (False, True):
        with pytest.raises(StorageError):
            RunStore(tmp_path, readonly=readonly)


@pytest.mark.parametrize(
    "change",
    [
        "outputs = zeroblob(32)",
        "state = 1, seed = 4",
        "x = zeroblob(16)",
        "state = 5",
        "seconds = 9",
        "message = 'x'",
        "replicate = 2",
        "attempts = 2",
        "outputs = NULL",
    ],
)
def test_a_changed_row_is_seen(path, change):
    made = fill(path)
    edit(path, f"UPDATE runs SET {change} WHERE rowid = 3")
    with RunStore(path) as store:
        with pytest.raises(IntegrityError, match=f"run {made[2].key.hex()[:12]} was changed, .* salvage"):
            store.outputs(campaign(), [row.key for row in made])
        with pytest.raises(IntegrityError, match="its hash does not match"):
            store.integrity_check()


@pytest.mark.parametrize("change", ["x = zeroblob(8)", "x = '0123456789abcdef'", "key = 'text'"])
def test_other_inputs_are_seen_without_the_outputs(path, change):
    fill(path)
    edit(path, f"UPDATE runs SET {change} WHERE rowid = 3")
    with RunStore(path) as store, pytest.raises(IntegrityError, match="other inputs than their campaign"):
        store.runs()


def test_an_unknown_state_is_seen_without_the_outputs(path):
    fill(path)
    edit(path, "UPDATE runs SET state = 77 WHERE rowid = 3")
    with RunStore(path) as store, pytest.raises(IntegrityError, match="unknown state 77"):
        store.kept(campaign())


def test_a_layout_that_claims_more_than_the_file_holds(path):
    made = fill(path)
    layout = json.loads(ask(path, "SELECT layout FROM campaigns")[0][0])
    dims = [f"d{i}" for i in range(5)]
    layout["coords"].update({dim: list(range(1000)) for dim in dims})  # 8e15 bytes for each run
    layout["outputs"]["y"].update(dims=dims, shape=[1000] * 5)
    edit(path, ("UPDATE campaigns SET layout = ?", (json.dumps(layout),)))
    seal(path)
    with RunStore(path) as store:
        with pytest.raises(IntegrityError, match="runs .* outputs of another length"):
            store.ensemble()
        with pytest.raises(CampaignMismatch):
            store.outputs(campaign(), [row.key for row in made])


@pytest.mark.parametrize(
    ("column", "value"), [("layout", "{"), ("layout", "[]"), ("inputs", "3"), ("about", "3"), ("identity", "{")]
)
def test_a_campaign_that_cannot_be_read(path, column, value):
    fill(path)
    edit(path, ("UPDATE campaigns SET " + column + " = ?", (value,)))
    for sealed in (False, True):
        with RunStore(path) as store, pytest.raises(IntegrityError):
            store.integrity_check()
        with RunStore(path) as store, pytest.raises(IntegrityError):
            store.campaigns()
        if not sealed:
            seal(path)


@pytest.mark.parametrize(
    "change",
    [
        "layout = replace(layout, '0.1', '0.2')",
        "layout = replace(replace(replace(layout, '\"y\"', '\"T\"'), '\"c\"', '\"y\"'), '\"T\"', '\"c\"')",
        "layout = replace(layout, 'mm', 'km')",
        'about = \'{"rng": "3"}\'',
        "versions = '{}'",
        "created = ''",
    ],
)
def test_a_campaign_that_was_changed_is_seen(path, change):
    fill(path)
    edit(path, f"UPDATE campaigns SET {change}")
    of, words = campaign(), r"campaign 9a09b6aae89f was changed, its hash does not match.* uqms runs salvage"
    acts = (lambda s: s.integrity_check(), lambda s: s.kept(of), lambda s: s.register(of), lambda s: s.ensemble())
    for act in acts:
        with RunStore(path) as store, pytest.raises(IntegrityError, match=words):
            act(store)


@pytest.mark.parametrize("length", [24, 64])
def test_outputs_of_another_length(path, length):
    """Also where the checksum of the run says that they are right."""
    made = fill(path)
    said = ask(path, "SELECT x, seed, replicate, state, seconds, attempts, message FROM runs WHERE rowid = 3")[0]
    blob = bytes(length)
    edit(path, ("UPDATE runs SET outputs = ?, checksum = ? WHERE rowid = 3", (blob, checksum(*said, blob))))
    with RunStore(path) as store, pytest.raises(IntegrityError, match=f"run {made[2].key.hex()[:12]}"):
        store.outputs(campaign(), [row.key for row in made])


def test_damaged_pages(path):
    fill(path, n=300)
    content = bytearray(path.read_bytes())
    for page in range(8 * 4096, len(content), 4096):
        content[page : page + 200] = b"\xa5" * 200
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="damaged .* uqms runs salvage"), RunStore(path) as store:
        store.integrity_check()
    with pytest.raises(IntegrityError, match="damaged"), RunStore(path) as store:
        store.kept(campaign())


# -------------------------------------------------------------------------------------------------------------- reading
def test_reading_changes_nothing(path):
    made = fill(path)
    before = path.read_bytes()
    with RunStore(path, readonly=True) as store:
        assert store.outputs(campaign(), [made[1].key])["y"] == [10.0]
        assert repr(store) == f"RunStore({str(path)!r}, readonly=True)"
        for act in (lambda: store.put(campaign(), made), lambda: store.register(campaign())):
            with pytest.raises(StorageError, match="readonly"):
                act()
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["runs.db"]


def test_a_store_that_cannot_be_used_so_says_why(path):
    fill(path)
    store = RunStore(path)
    told = []

    def elsewhere():
        try:
            len(store)
        except CampaignError as error:
            told.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "SQLite objects created in a thread" in told[0]
    store.close()
    with pytest.raises(CampaignError, match="closed database. A RunStore can be used until it is closed"):
        store.runs()
    with RunStore(path, readonly=True) as reader:
        acts = (lambda: reader.invalidate("frozen"), lambda: reader.lease().__enter__())
        for act in (*acts, lambda: reader.put(campaign(), [])):
            with pytest.raises(StorageError, match=r"opened with readonly=True .* open it with uq\.RunStore\(path\)"):
                act()


@pytest.mark.parametrize("look", ["ensemble", "export"])
def test_what_is_read_together_is_of_one_moment(path, tmp_path, monkeypatch, look):
    (row,) = fill(path, n=1)
    partial = Record(RunState.PARTIAL, 0.25, "", {"y": np.array(np.nan), "c": np.array([1.0, 2.0, 3.0])})
    read = store_module.read_index
    with RunStore(path) as writer, RunStore(path, readonly=True) as reader:
        writer.put(campaign(), [row._replace(record=partial)])

        def late(*given):
            index = read(*given)
            writer.put(campaign(), [row])  # another process tries the run again
            return index

        monkeypatch.setattr(store_module, "read_index", late)
        if look == "ensemble":
            table = reader.ensemble()
        else:
            table = from_netcdf(reader.export(tmp_path / "x.nc"))
        assert table["state"].values.tolist() == [RunState.PARTIAL]
        assert np.isnan(table["y"].values).all()
        monkeypatch.undo()
        assert reader.ensemble()["y"].values.tolist() == [0.0]


def test_one_file_is_one_store_whatever_links_lead_to_it(path, tmp_path):
    fill(path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "link.db").symlink_to(path)
    asked = []
    with RunStore(path) as store, RunStore(tmp_path / "other" / "link.db") as linked:
        assert linked.path == store.path == path
        with store.lease(), pytest.raises(CampaignLocked), linked.lease():
            pass
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "network_file_system", asked.append)
        RunStore(tmp_path / "other" / "link.db").close()
    assert asked == [path.parent]


def test_a_relative_path_stays_the_same_file(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with RunStore("runs.db") as store:
        (tmp_path / "other").mkdir()
        monkeypatch.chdir("other")
        with store.lease():
            assert sorted(os.listdir(tmp_path)) == ["other", "runs.db", "runs.db-shm", "runs.db-wal", "runs.db.lock"]
            assert os.listdir() == []


def test_reading_while_another_writes(path):
    fill(path, n=2)
    with RunStore(path) as writer, writer.lease():
        writer._db.execute("BEGIN IMMEDIATE")
        with RunStore(path, readonly=True) as reader:
            assert len(reader) == 2
            writer._db.execute("ROLLBACK")
            writer.put(campaign(), rows(campaign(), 1, start=2))
            assert len(reader) == 3
    with RunStore(path, readonly=True) as reader:
        assert len(reader) == 3


def test_reading_what_a_killed_writer_left(path, tmp_path):
    fill(path, n=2)
    left = tmp_path / "left"
    left.mkdir()
    with RunStore(path) as writer:
        writer.put(campaign(), rows(campaign(), 3, start=2))
        for name in ("runs.db", "runs.db-wal"):
            shutil.copy(tmp_path / name, left)
    with RunStore(left / "runs.db", readonly=True) as reader:
        assert len(reader) == 5
    assert (left / "runs.db-wal").stat().st_size > 0  # it belongs to the writer


@pytest.mark.parametrize("readonly", [True, False])
def test_a_file_whose_rest_stands_in_the_log_is_not_truncated(path, tmp_path, readonly):
    """As after a power cut while SQLite moved pages from the log to the file."""
    left = tmp_path / "left"
    left.mkdir()
    with RunStore(path) as writer:
        writer.register(campaign())
        writer.put(campaign(), rows(campaign(), 300))
        shutil.copy(tmp_path / "runs.db-wal", left)
    content = path.read_bytes()
    (left / "runs.db").write_bytes(content[: len(content) // 2])
    with RunStore(left / "runs.db", readonly=readonly) as store:
        assert len(store) == 300
        store.integrity_check()


@contextmanager
def nobody():
    """Be a user who may not write, which root always may."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def foreign():
    """Return a folder that may be read but not written to."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
        Path(name).chmod(0o755)


def test_reading_where_nothing_may_be_written(foreign):
    made = fill(foreign / "runs.db")
    (foreign / "runs.db").chmod(0o444)
    foreign.chmod(0o555)
    with nobody(), RunStore(foreign / "runs.db", readonly=True) as store:
        assert store.outputs(campaign(), [row.key for row in made])["y"].tolist() == [0, 10, 20, 30, 40]
        store.integrity_check()


def test_writing_where_nothing_may_be_written(foreign):
    fill(foreign / "runs.db")
    (foreign / "runs.db").chmod(0o444)
    foreign.chmod(0o555)
    with nobody(), pytest.raises(StorageError, match="check the folder, its permissions"):
        with RunStore(foreign / "runs.db") as store:
            store.register(campaign(version="2"))
    with nobody(), pytest.raises(StorageError, match="check the folder, its permissions"):
        RunStore(foreign / "new.db")
    (foreign / "runs.db").chmod(0o000)
    for readonly in (False, True):
        with nobody(), pytest.raises(StorageError, match="unable to open"):
            RunStore(foreign / "runs.db", readonly=readonly)


# -------------------------------------------------------------------------------------------------- what disks can do
FILL = """
import resource, signal, sys
sys.path.insert(0, "tests")
import numpy as np
from stores import campaign, completed
from uqms.errors import StorageError
from uqms.runs import RunStore
from uqms.runs.store import Row
of = campaign(outputs={"y": (), "c": ("i",)}, coords={"i": np.arange(500.0)})
store = RunStore(sys.argv[1])
store.register(of)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
kept = 0
try:
    for i in range(1000):
        x = np.array([float(i), 0.0])
        store.put(of, [Row(of.keys(x[None])[0], x, completed(i, np.arange(500.0)))])
        kept += 1
except StorageError as error:
    print(kept, error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.put(of, [Row(of.keys(x[None])[0], x, completed(i, np.arange(500.0)))])
"""


def test_full_disk_is_told_and_loses_nothing(path):
    command = [sys.executable, "-c", FILL, path]
    out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    kept, message = out.split(maxsplit=1)
    assert 10 < int(kept) < 1000
    assert "Runs that were stored before are safe" in message
    with RunStore(path) as store:
        store.integrity_check()
        assert len(store) == int(kept) + 1  # there was room again


def test_a_file_that_another_program_holds(path, monkeypatch):
    monkeypatch.setattr(connection, "_PATIENCE", 0.05)
    fill(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with RunStore(path) as store:
        with pytest.raises(CampaignLocked, match="in use by another process .*database is locked"):
            store.put(campaign(), rows(campaign(), 1, start=5))
        other.execute("ROLLBACK")
        other.close()
        store.put(campaign(), rows(campaign(), 1, start=5))
        assert len(store) == 6


def test_nothing_is_pickled(path):
    fill(path)
    content = path.read_bytes()
    assert b"\x80\x04\x95" not in content
    assert b"\x80\x05\x95" not in content


def test_reading_the_file_loads_no_simulator_code(path):
    fill(path)
    code = "import sys; from uqms.runs import RunStore; print(len(RunStore(sys.argv[1], readonly=True).runs()))"
    out = subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True, text=True, cwd=ROOT)
    assert out.stdout == "5\n"
