import hashlib
import json
import struct

import numpy as np
import pytest
from stores import ask, campaign, edit, fill, rows, seal

from uqms.cli import main
from uqms.errors import FormatError, IntegrityError, StorageError
from uqms.runs import RunStore
from uqms.runs.care import salvage


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs.db"


def shallow(path):
    """Compute the checksums again after a change, so that the keys alone can tell."""
    from uqms.runs.format import checksum

    for rowid, *said, blob in ask(
        path, "SELECT rowid, x, seed, replicate, state, seconds, attempts, message, outputs FROM runs"
    ):
        edit(path, ("UPDATE runs SET checksum = ? WHERE rowid = ?", (checksum(*said, blob), rowid)))


def test_what_is_well_says_nothing(path):
    fill(path, n=600)
    fill(path, campaign(seed="seed"), n=3, seeds=[4, 5, 6])
    fill(path, campaign(version="2", fidelity="coarse"), n=3)
    for readonly in (False, True):
        with RunStore(path, readonly=readonly) as store:
            assert store.integrity_check() is None


@pytest.mark.parametrize(
    ("planted", "called"),
    [
        ("CREATE TRIGGER planted AFTER INSERT ON runs BEGIN DELETE FROM runs; END", "the trigger 'planted'"),
        ("CREATE TRIGGER runs_of_campaign AFTER INSERT ON runs BEGIN DELETE FROM runs; END", "the trigger 'runs_of_"),
        ("CREATE VIEW planted AS SELECT * FROM runs", "the view 'planted'"),
        ("CREATE INDEX planted ON runs (seconds)", "the index 'planted'"),
        ("CREATE TABLE planted (a)", "the table 'planted'"),
    ],
)
def test_a_store_with_foreign_sql_is_refused(path, tmp_path, planted, called, capsys):
    fill(path, n=3)
    edit(path, planted)
    before = path.read_bytes()
    for readonly in (False, True):
        with pytest.raises(FormatError, match=rf"contains {called}.*which uqms did not make.*uqms runs salvage.*DROP "):
            RunStore(path, readonly=readonly)
    assert path.read_bytes() == before
    assert main(["runs", "check", str(path)]) == 1
    assert called in capsys.readouterr().out
    assert salvage(path, tmp_path / "new.db") == 3
    assert main(["runs", "check", str(tmp_path / "new.db")]) == 0
    edit(path, f"DROP {planted.split()[1]} {planted.split()[2]}")
    assert main(["runs", "check", str(path)]) == 0


def test_statistics_of_sqlite_are_no_foreign_objects(path):
    fill(path, n=3)
    edit(path, "ANALYZE")
    assert ask(path, "SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_stat1'") == [(1,)]
    with RunStore(path) as store:
        assert len(store) == 3


@pytest.mark.parametrize(
    "change",
    [
        ("UPDATE runs SET x = ? WHERE rowid = 2", (np.array([9.0, 9.0], "<f8").tobytes(),)),
        "UPDATE runs SET seed = 9 WHERE rowid = 2",
        "UPDATE runs SET key = zeroblob(32) WHERE rowid = 2",
        ("UPDATE runs SET x = ? WHERE rowid = 2", (bytes(24),)),
        "UPDATE runs SET x = 'text' WHERE rowid = 2",
        "UPDATE runs SET seed = 'text' WHERE rowid = 2",
        "UPDATE runs SET outputs = zeroblob(40) WHERE rowid = 2",
        "UPDATE runs SET outputs = 'text' WHERE rowid = 2",
        "UPDATE runs SET key = 'text' WHERE rowid = 2",
    ],
)
def test_keys_are_computed_again(path, change):
    fill(path)
    edit(path, change)
    try:
        shallow(path)
    except (TypeError, struct.error):  # of which there is no checksum
        assert "text" in str(change)
    with RunStore(path) as store, pytest.raises(IntegrityError, match=r"run \w+ was changed"):
        store.integrity_check()


@pytest.mark.parametrize(
    "change", ["identity = replace(identity, '\"1\"', '\"2\"')", 'inputs = \'["a", "z"]\'', "fidelity = 'fine'"]
)
def test_ids_are_computed_again(path, change):
    fill(path)
    edit(path, f"UPDATE campaigns SET {change}")
    with RunStore(path) as store, pytest.raises(IntegrityError, match="campaign 9a09b6aae89f was changed"):
        store.integrity_check()
    seal(path)
    with RunStore(path) as store, pytest.raises(IntegrityError, match="campaign 9a09b6aae89f was changed"):
        store.integrity_check()


def test_runs_of_no_campaign(path):
    fill(path)
    edit(path, "UPDATE runs SET campaign = 9 WHERE rowid = 2")
    with RunStore(path) as store, pytest.raises(IntegrityError, match="1 runs belong to no campaign"):
        store.integrity_check()


def test_everything_that_the_record_of_a_result_needs_is_in_the_file(path):
    of = campaign(seed="seed")
    with RunStore(path) as store:
        store.register(of, {"design": '{"method": "sobol", "n": 3, "seed": 1}', "rng": "3"})
        store.put(of, rows(of, 3, seeds=[4, 5, 6]))
    (identity, about, versions, identifier), *_ = ask(path, "SELECT identity, about, versions, id FROM campaigns")
    assert {"uqms", "numpy", "python", "sqlite"} <= set(json.loads(versions))
    assert json.loads(about)["rng"] == "3"
    assert json.loads(json.loads(about)["design"])["seed"] == 1
    said = {"identity": identity, "inputs": ["a", "b"], "fidelity": ""}
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == identifier
    for key, x, seed in ask(path, "SELECT key, x, seed FROM runs"):
        content = bytes.fromhex(identifier) + x + np.array([seed], "<i8").tobytes()
        assert hashlib.sha256(content).digest() == key


def test_an_index_that_does_not_fit_its_table(path):
    """Reads notice nothing of it, and would miss runs."""
    fill(path)
    (row,) = ask(path, "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema WHERE name = 'runs_of_campaign'")
    edit(path, "PRAGMA writable_schema = ON", "DELETE FROM sqlite_schema WHERE name = 'runs_of_campaign'")
    edit(path, "DELETE FROM runs WHERE rowid = 2")  # while nobody knows of the index
    edit(path, "PRAGMA writable_schema = ON", ("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", row))
    with RunStore(path) as store, pytest.raises(IntegrityError, match="damaged .*entries in index runs_of_campaign"):
        store.integrity_check()


# ------------------------------------------------------------------------------------------------------------- salvage
def damage(path, pages):
    content = bytearray(path.read_bytes())
    for page in pages:
        content[4096 * page : 4096 * page + 1000] = b"\xa5" * 1000
    path.write_bytes(content)


def test_salvage_saves_every_run_that_is_well(path, tmp_path):
    made = fill(path, n=500)
    size = path.stat().st_size // 4096
    damage(path, range(12, size, 9))
    with RunStore(path) as store:
        with pytest.raises(IntegrityError, match="uqms runs salvage"):
            store.integrity_check()
        saved = store.salvage(tmp_path / "new.db")
    assert 300 < saved < 500
    with RunStore(tmp_path / "new.db") as store:
        store.integrity_check()
        assert len(store) == saved
        kept = [row for row in made if row.key in store.kept(campaign())]
        found = store.outputs(campaign(), [row.key for row in kept])
        np.testing.assert_array_equal(found["y"], [10.0 * row.x[0] for row in kept])
        store.put(campaign(), made)  # the rest runs again
        assert len(store) == 500


def test_salvage_of_a_truncated_file(path, tmp_path):
    import os

    fill(path, n=500)
    os.truncate(path, path.stat().st_size * 6 // 10)
    saved = salvage(path, tmp_path / "new.db")
    assert saved > 100
    with RunStore(tmp_path / "new.db") as store:
        store.integrity_check()
        assert len(store) == saved


@pytest.mark.parametrize("change", ["state = 5", "x = zeroblob(16)", "campaign = 77", "message = CAST(x'ff' AS TEXT)"])
def test_salvage_leaves_out_what_was_changed(path, tmp_path, change):
    fill(path)
    edit(path, f"UPDATE runs SET {change} WHERE rowid = 2")
    assert salvage(path, tmp_path / "new.db") == 4


def test_salvage_goes_on_after_the_last_row_that_was_read(path, tmp_path):
    fill(path, n=5)
    edit(path, "UPDATE runs SET message = CAST(x'ff' AS TEXT) WHERE rowid IN (1, 2, 5)")  # cannot even be read
    assert salvage(path, tmp_path / "new.db") == 2


def test_salvage_of_a_campaign_that_was_changed(path, tmp_path):
    fill(path, n=5)
    fill(path, campaign(version="2"), n=3)
    edit(path, "UPDATE campaigns SET fidelity = 'x' WHERE number = 1")
    assert salvage(path, tmp_path / "new.db") == 3
    edit(path, "UPDATE campaigns SET fidelity = 'x'")
    with pytest.raises(IntegrityError, match="no campaign"):
        salvage(path, tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()


def test_salvage_of_what_holds_no_run_any_more(path, tmp_path):
    fill(path, n=200)
    ((root,),) = ask(path, "SELECT rootpage FROM sqlite_schema WHERE name = 'runs'")
    damage(path, [root - 1])
    with pytest.raises(IntegrityError, match="damaged so much that no .* can be read"):
        salvage(path, tmp_path / "new.db")
    assert not (tmp_path / "new.db").exists()


def test_salvage_when_every_run_was_changed(path, tmp_path):
    fill(path, n=5)
    edit(path, "UPDATE runs SET seconds = 99")
    with pytest.raises(IntegrityError, match="damaged so much that no .* can be read"):
        salvage(path, tmp_path / "new.db")


def test_salvage_of_a_store_without_runs(path, tmp_path):
    with RunStore(path) as store:
        store.register(campaign())
    assert salvage(path, tmp_path / "new.db") == 0
    with RunStore(tmp_path / "new.db") as store:
        assert store.kept(campaign()) == {}


def test_salvage_never_overwrites(path, tmp_path):
    fill(path)
    (tmp_path / "new.db").write_text("precious")
    with pytest.raises(StorageError, match="exists already"):
        salvage(path, tmp_path / "new.db")
    assert (tmp_path / "new.db").read_text() == "precious"


def test_salvage_of_something_else(path, tmp_path):
    edit(path, "CREATE TABLE runs (x)")
    with pytest.raises(FormatError, match="no run can be salvaged"):
        salvage(path, tmp_path / "new.db")
    path.unlink()
    fill(path)
    edit(path, "PRAGMA application_id = 5")
    with pytest.raises(FormatError, match="no run can be salvaged"):
        salvage(path, tmp_path / "new.db")
    path.write_bytes(b"\xa5" * 9000)
    with pytest.raises(FormatError, match="no SQLite file"):
        salvage(path, tmp_path / "new.db")
