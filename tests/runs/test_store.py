import dataclasses
import json
import os
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from uqms.errors import CampaignLocked, FormatError, FormatVersionError, IntegrityError, StorageError
from uqms.runs import Record, RunState, RunStore
from uqms.runs.store import run_keys
from uqms.simulators import FunctionSimulator

POINT = {"a": 1.5, "b": -0.1}


def model(a, b):
    return {"y": a, "c": [a, b]}


@pytest.fixture
def simulator():
    return FunctionSimulator(model, outputs={"y": (), "c": ("day",)}, coords={"day": [0.0, 1.0]}, units={"y": "mm"})


@pytest.fixture
def record(rng):
    outputs = {"y": rng.normal(size=()), "c": rng.normal(size=2)}
    return Record(RunState.COMPLETED, 0.25, "", {k: np.asarray(v) for k, v in outputs.items()})


@pytest.fixture
def path(tmp_path, simulator, record):
    path = tmp_path / "runs.db"
    with RunStore(path) as store:
        keep(store, simulator, record)
    return path


def keep(store, simulator, record, point=POINT):
    (key,) = run_keys(simulator, [point])
    store.register(simulator)
    store.put(simulator, key, point, record)
    return key


def test_outputs_come_back_bit_for_bit(path, simulator, record):
    with RunStore(path) as store:
        (found,) = store.get(simulator, run_keys(simulator, [POINT])).values()
    assert (found.state, found.seconds, found.message) == (RunState.COMPLETED, 0.25, "")
    for name, values in record.outputs.items():
        assert found.outputs[name].tobytes() == values.tobytes()
        assert found.outputs[name].shape == values.shape


def test_key_is_what_is_computed(simulator):
    first, second, third, fourth = run_keys(
        simulator, [POINT, dict(reversed(POINT.items())), {"a": 1.5, "b": np.nextafter(-0.1, 0)}, {"a": 1.5, "b": 0.0}]
    )
    assert first == second != third
    assert run_keys(simulator, [{"a": 1.5, "b": -0.0}]) == [fourth]
    assert run_keys(dataclasses.replace(simulator, version="2"), [POINT]) != [first]


def test_several_simulators_share_a_file(path, simulator, record):
    other = dataclasses.replace(simulator, version="2")
    with RunStore(path) as store:
        assert store.get(other, run_keys(other, [POINT])) == {}
        keep(store, other, record)
        assert len(store) == 2


def test_settings_that_make_it_safe(path):
    with RunStore(path) as store:
        assert store._number("PRAGMA synchronous") == 2
        assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_each_run_is_on_the_disk_when_put_returns(path, simulator, record):
    with RunStore(path) as store:
        keep(store, simulator, record, {"a": 9.0, "b": 9.0})
        with RunStore(path) as reader:  # a second connection sees what is committed only
            assert len(reader) == 2


def test_layout_describes_the_outputs_without_the_simulator(path):
    db = sqlite3.connect(path)
    (layout,) = db.execute("SELECT layout FROM simulators").fetchone()
    (point,) = db.execute("SELECT point FROM runs").fetchone()
    db.close()
    assert json.loads(layout) == {
        "outputs": {"y": {"dims": [], "shape": [], "unit": "mm"}, "c": {"dims": ["day"], "shape": [2], "unit": ""}},
        "coords": {"day": [0.0, 1.0]},
    }
    assert {name: float.fromhex(value) for name, value in json.loads(point).items()} == POINT


def edit(path, statement):
    db = sqlite3.connect(path)
    db.execute(statement)
    db.commit()
    db.close()


def test_another_sqlite_file(tmp_path):
    edit(tmp_path / "other.db", "CREATE TABLE t (x)")
    with pytest.raises(FormatError, match="not a run store"):
        RunStore(tmp_path / "other.db")


def test_not_sqlite(tmp_path):
    (tmp_path / "text.db").write_text("a,b\n" * 500)
    with pytest.raises(FormatError, match="no SQLite file"):
        RunStore(tmp_path / "text.db")
    assert (tmp_path / "text.db").read_text() == "a,b\n" * 500


def test_newer_format(path):
    edit(path, "PRAGMA user_version = 2")
    with pytest.raises(FormatVersionError, match="format 2, this uqms reads up to 1; update uqms"):
        RunStore(path)


def test_changed_outputs(path, simulator):
    edit(path, "UPDATE runs SET outputs = zeroblob(24)")
    with RunStore(path) as store:
        with pytest.raises(IntegrityError, match="not those that were written"):
            store.get(simulator, run_keys(simulator, [POINT]))
        with pytest.raises(IntegrityError, match="not those that were written"):
            store.integrity_check()


def test_damaged_pages(path, simulator, record):
    with RunStore(path) as store:
        for a in range(200):
            keep(store, simulator, record, {"a": float(a), "b": 0.0})
        store.integrity_check()
    content = bytearray(path.read_bytes())
    for page in range(4096, len(content), 4096):
        content[page : page + 200] = b"\xa5" * 200
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="damaged"), RunStore(path) as store:
        store.integrity_check()


def test_no_folder(tmp_path):
    with pytest.raises(StorageError, match="unable to open"):
        RunStore(tmp_path / "none" / "runs.db")


def test_a_folder_in_its_place(tmp_path):
    with pytest.raises(StorageError):
        RunStore(tmp_path)


FILL = """
import resource, signal, sys
import numpy as np
from uqms.errors import StorageError
from uqms.runs import Record, RunState, RunStore
from uqms.runs.store import run_keys
from uqms.simulators import FunctionSimulator
simulator = FunctionSimulator(len, outputs={"y": ("i",)}, coords={"i": np.arange(500.0)}, version="1")
store = RunStore(sys.argv[1])
store.register(simulator)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
kept = 0
try:
    for i in range(1000):
        point = {"a": float(i)}
        record = Record(RunState.COMPLETED, 0.0, "", {"y": np.arange(500.0)})
        store.put(simulator, run_keys(simulator, [point])[0], point, record)
        kept += 1
except StorageError as error:
    print(kept, error)
"""


def test_full_disk_is_told_and_loses_nothing(tmp_path):
    path = tmp_path / "runs.db"
    out = subprocess.run(
        [sys.executable, "-c", FILL, path], check=True, capture_output=True, text=True, cwd=root()
    ).stdout
    kept, message = out.split(maxsplit=1)
    assert 10 < int(kept) < 1000
    assert "what was kept before is safe" in message
    with RunStore(path) as store:
        store.integrity_check()
        assert len(store) == int(kept)


def root():
    from pathlib import Path

    import uqms

    return Path(uqms.__file__).parents[1]


def test_two_writers(path):
    with RunStore(path) as first, RunStore(path) as second:
        with first.lease(), pytest.raises(CampaignLocked, match=f"written by process {os.getpid()} on"), second.lease():
            pass
        with second.lease():
            pass
    assert not path.with_name("runs.db.lock").exists()


def test_a_lease_ends_with_its_process(path):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\nfrom uqms.runs import RunStore\nwith RunStore(sys.argv[1]).lease():\n"
            "    print('held', flush=True)\n    time.sleep(60)",
            path,
        ],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root(),
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with RunStore(path) as store:
            with pytest.raises(CampaignLocked, match=f"process {holder.pid}"), store.lease():
                pass
            holder.kill()
            holder.wait()
            assert path.with_name("runs.db.lock").exists()  # stale: it is the lock that counts, not the file
            with store.lease():
                pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_nothing_is_pickled(path):
    content = path.read_bytes()
    assert b"\x80\x04\x95" not in content
    assert b"\x80\x05\x95" not in content
