"""Files of older formats: `data/runs_format_1.db` was written by the uqms that made format 1, and stays as it is."""

import hashlib
import json
import os
import shutil
import sqlite3

import numpy as np
import pytest
from stores import FROZEN, ask, campaign, edit, rows

from uqms.errors import CampaignLocked, IntegrityError
from uqms.runs import RunState, RunStore, connection, run, upgrade

EXPECTED = json.loads((FROZEN / "runs_format_1.json").read_text())
FORMATS = {1: "runs_format_1", 2: "runs_format_2"}


@pytest.fixture
def path(tmp_path):
    return shutil.copy(FROZEN / "runs_format_1.db", tmp_path / "runs.db")


def bits(value):
    return [float.fromhex(v) for v in value] if isinstance(value, list) else float.fromhex(value)


@pytest.mark.parametrize("readonly", [True, False])
@pytest.mark.parametrize("version", FORMATS)
def test_frozen_files_load_bit_for_bit(tmp_path, version, readonly):
    path = shutil.copy(FROZEN / f"{FORMATS[version]}.db", tmp_path)
    expected = json.loads((FROZEN / f"{FORMATS[version]}.json").read_text())
    of = campaign(tuple(expected.get("inputs", ["a", "b"])), seed=expected.get("seed"))
    assert dict(of.simulator.identity) == expected["identity"]
    assert ask(path, "PRAGMA user_version") == [(version,)]
    with RunStore(path, readonly=readonly) as store:
        assert len(store) == len(expected["runs"])
        kept = store.kept(of)
        for said in expected["runs"]:
            x = np.array([[float.fromhex(said["point"][name]) for name in of.inputs]])
            (key,) = of.keys(x, None if said.get("seed") is None else np.array([said["seed"]]))
            record, outputs = kept[key], store.outputs(of, [key])
            assert record.state == RunState[said["state"]]
            assert record.seconds.hex() == said["seconds"]
            assert record.message == said["message"]
            assert record.attempts == said.get("attempts", 1)
            for name, values in outputs.items():
                if said["outputs"] is None:
                    assert np.isnan(values).all()
                else:
                    assert values[0].tobytes() == np.array(bits(said["outputs"][name])).tobytes()
        store.integrity_check()
    assert ask(path, "PRAGMA user_version") == [(version if readonly else 2,)]


def test_reading_an_older_file_changes_nothing(path):
    before = path.read_bytes()
    with RunStore(path, readonly=True) as store:
        assert len(store) == 5
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["runs.db"]


def test_a_resumed_campaign_finds_the_runs_of_an_older_file(path):
    # What `nothing` gives is never asked for: all of these runs are there.
    with pytest.warns(match="2 of 5 runs did not complete"):
        table = run(campaign().simulator, {"b": [0.1, -2.5, 0.0, 1e-300, 7.0], "a": [1.0, 4.0, 3.0, 2.0, 0.3]}, path)
    assert table["state"].values.tolist() == ["completed", "failed", "completed", "completed", "invalid"]
    np.testing.assert_array_equal(table["y"], [0.1, np.nan, 1e-300, -0.0, np.nan])


def test_an_upgraded_file_takes_new_runs(path):
    with RunStore(path) as store:
        store.put(campaign(), rows(campaign(), 2, start=10))
        assert len(store) == 7
        store.integrity_check()
    names = {name for (name,) in ask(path, "SELECT name FROM sqlite_schema")}
    assert not [name for name in names if name.endswith("_1") and not name.startswith("sqlite_")]


def test_a_simulator_with_two_sets_of_inputs_becomes_two_campaigns(path):
    (identifier,) = ask(path, "SELECT id FROM simulators")[0]
    point = json.dumps({"a": (2.0).hex()}, sort_keys=True, separators=(",", ":"))
    key = hashlib.sha256(f"{identifier}\n{point}".encode()).hexdigest()
    edit(path, ("INSERT INTO runs VALUES (?, ?, ?, 2, 0.5, 'x', '2026-01-01T00:00:00.000+00:00', NULL, NULL)", (key, identifier, point)))  # fmt: skip  # noqa: E501
    with RunStore(path) as store:
        assert len(store.kept(campaign(("a",)))) == 1
        assert len(store.kept(campaign())) == 5


@pytest.mark.parametrize(
    "change",
    ["outputs = zeroblob(32)", "checksum = NULL", "key = 'x' || key", "point = '{}'", "simulator = 'x'"],
)
def test_a_damaged_file_is_not_upgraded_but_can_be_salvaged(path, tmp_path, change):
    edit(path, f"UPDATE runs SET {change} WHERE rowid = 2")
    before = path.read_bytes()
    for readonly in (False, True):
        with pytest.raises(IntegrityError, match="damaged"):
            RunStore(path, readonly=readonly)
    assert ask(path, "PRAGMA user_version") == [(1,)]
    assert ask(path, "SELECT count(*) FROM runs") == [(5,)]
    from uqms.runs.care import salvage

    assert salvage(path, tmp_path / "new.db") == 4
    with RunStore(tmp_path / "new.db") as store:
        store.integrity_check()
        assert len(store.kept(campaign())) == 4
    assert len(before) == path.stat().st_size


@pytest.mark.parametrize("moment", [0, 3])
def test_an_upgrade_that_stops_leaves_the_old_file(path, monkeypatch, moment):
    insert = upgrade.Converter.insert
    done = []

    def stop(self, row):
        if len(done) == moment:
            raise KeyboardInterrupt
        done.append(row)
        insert(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(upgrade.Converter, "insert", stop)
        with pytest.raises(KeyboardInterrupt):
            RunStore(path)
    assert ask(path, "PRAGMA user_version") == [(1,)]
    assert len(ask(path, "SELECT * FROM runs")) == 5
    with RunStore(path) as store:
        assert len(store) == 5


def test_an_older_file_that_another_process_writes_is_not_upgraded(path):
    from uqms.runs.lease import hold

    with hold(path, False):
        with pytest.raises(CampaignLocked, match="is being written by process"):
            RunStore(path)
        with RunStore(path, readonly=True) as store:
            assert len(store) == 5


def test_a_file_that_another_process_upgraded_first(path, monkeypatch):
    found = connection._format

    def late(path, db):
        first = found(path, db)
        if first == 1 and not db.in_transaction:
            monkeypatch.setattr(connection, "_format", found)
            RunStore(path).close()
        return first

    monkeypatch.setattr(connection, "_format", late)
    with RunStore(path) as store:
        assert len(store) == 5


def test_a_new_file_that_another_process_made_first(tmp_path, monkeypatch):
    found = connection._format

    def late(path, db):
        first = found(path, db)
        if first == 0 and not db.in_transaction:
            monkeypatch.setattr(connection, "_format", found)
            with RunStore(path) as other:
                other.register(campaign())
        return first

    monkeypatch.setattr(connection, "_format", late)
    with RunStore(tmp_path / "runs.db") as store:
        assert len(ask(store.path, "SELECT * FROM campaigns")) == 1


def test_sqlite_is_new_enough():
    assert sqlite3.sqlite_version_info >= (3, 37)
