import time
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest
from stores import campaign, edit, fill

from uqms.errors import CampaignLocked, InputError, StorageError
from uqms.runs import Record, RunState, RunStore
from uqms.runs.store import Row


@pytest.fixture
def path(tmp_path):
    """Make a store with two campaigns: a = 0 ... 4 completed, a = 10, 11 failed, ended on the days 1 to 7; 3 others."""
    path = tmp_path / "runs.db"
    fill(path, n=5)
    of = campaign()
    x = np.array([[10.0, 1.0], [11.0, 2.0]])
    states = (RunState.FAILED, RunState.TIMEOUT)
    with RunStore(path) as store:
        store.put(of, [Row(k, v, Record(s, 2.0, "why")) for k, v, s in zip(of.keys(x), x, states, strict=True)])
    edit(path, "UPDATE runs SET ended = '2026-01-0' || rowid || 'T12:00:00.000+00:00'")
    fill(path, campaign(("a", "b"), "coarse"), n=3)
    return path


def test_the_table_of_campaigns(path):
    with RunStore(path, readonly=True) as store:
        table = store.campaigns()
    assert table["campaign"].tolist() == [campaign().id, campaign(fidelity="coarse").id]
    assert table["simulator"].tolist() == ["frozen"] * 2
    assert table["fidelity"].tolist() == ["", "coarse"]
    assert table["inputs"].tolist() == ["a, b"] * 2
    assert table["outputs"].tolist() == ["y, c"] * 2
    assert table[["runs", "completed", "failed", "timeout", "invalid", "partial"]].values.tolist() == [
        [7, 5, 1, 1, 0, 0],
        [3, 3, 0, 0, 0, 0],
    ]
    assert table["seconds"].tolist() == [5 * 0.25 + 4.0, 0.75]
    assert table["last"][0] == "2026-01-07T12:00:00.000+00:00"


def test_tables_of_an_empty_store(tmp_path):
    with RunStore(tmp_path / "runs.db") as store:
        assert store.campaigns().empty
        assert "runs" in store.campaigns()
        with pytest.raises(InputError, match="holds no runs"):
            store.runs()


def test_the_table_of_runs(path):
    with RunStore(path, readonly=True) as store:
        table = store.runs(campaign().id[:8])
        kept = store.kept(campaign())
    assert list(table.columns) == [
        "key", "a", "b", "state", "seconds", "message", "attempts", "replicate", "seed", "ended",
    ]  # fmt: skip
    assert {bytes.fromhex(key) for key in table["key"]} == set(kept)
    assert table["a"].tolist() == [0, 1, 2, 3, 4, 10, 11]
    assert table["b"].tolist() == [-0.5] * 5 + [1, 2]
    assert table["state"].tolist() == ["completed"] * 5 + ["failed", "timeout"]
    assert table["message"].tolist() == [""] * 5 + ["why"] * 2
    assert table["seed"].isna().all()
    assert table["ended"][2] == pd.Timestamp("2026-01-03T12:00", tz="UTC")


def test_inputs_that_are_called_like_a_column_of_the_table(path):
    of = campaign(("key", "attempts"), name="other")
    x = np.array([[1.0, 2.0]])
    with RunStore(path) as store:
        store.register(of)
        store.put(of, [Row(of.keys(x)[0], x[0], Record(RunState.FAILED, 2.0, "why", None, 7))])
        table = store.runs("other")
    assert table[["key (input)", "attempts (input)", "attempts"]].values.tolist() == [[1, 2, 7]]
    assert table["key"].tolist() == [of.keys(x)[0].hex()]


EAST = timezone(timedelta(hours=13))


@pytest.mark.parametrize(
    ("asked", "gone"),
    [
        ({"state": "failed"}, [10]),
        ({"state": RunState.FAILED}, [10]),
        ({"state": [2, "TIMEOUT"]}, [10, 11]),
        ({"where": {"a": (1, 3)}}, [1, 2, 3]),
        ({"where": {"a": (3, 11), "b": (1, 1)}}, [10]),
        ({"where": {"a": (5, 9)}}, []),
        ({"where": {"a": (2, np.inf)}, "state": "completed"}, [2, 3, 4]),
        ({"before": "2026-01-03T12:00+00:00"}, [0, 1]),
        ({"before": "2026-01-03T12:00:00.001Z"}, [0, 1, 2]),
        ({"before": datetime(2026, 1, 4, 0, 0, tzinfo=EAST)}, [0, 1]),
        ({"before": datetime(2026, 1, 2, tzinfo=UTC), "state": "failed"}, []),
        ({"keys": [campaign().keys(np.array([[1.0, -0.5]]))[0].hex(), b"?" * 32]}, [1]),
        ({"keys": campaign().keys(np.array([[1.0, -0.5], [4.0, -0.5]]))}, [1, 4]),
        ({}, [0, 1, 2, 3, 4, 10, 11]),
    ],
)
def test_what_is_asked_for_goes_and_nothing_else(path, asked, gone):
    everything = [0, 1, 2, 3, 4, 10, 11]
    with RunStore(path) as store:
        named = campaign().id[:10]
        assert store.invalidate(named, **asked, dry_run=True) == len(gone)
        assert len(store) == 10
        assert store.invalidate(named, **asked) == len(gone)
        assert len(store) == 10 - len(gone)
        assert len(store.kept(campaign(fidelity="coarse"))) == 3
        left = store.runs(named)["a"].tolist() if len(gone) < 7 else []
        assert left == [a for a in everything if a not in gone]
        store.integrity_check()


def test_without_a_campaign_all_are_meant(path):
    with RunStore(path) as store:
        assert store.invalidate(where={"a": (1, 1)}) == 2
        assert store.invalidate(state="completed") == 6
        assert len(store) == 2


@pytest.mark.parametrize("dry", [True, False])
def test_a_name_means_one_campaign_and_no_other(path, dry):
    fill(path, campaign(name="9"), n=4)  # as the other two ids begin
    with RunStore(path) as store:
        with pytest.raises(InputError, match="several campaigns to choose from; give the name"):
            store.invalidate("frozen", dry_run=dry)
        with pytest.raises(InputError, match=r"no campaign '9a09b'; .* at least 6 characters"):
            store.invalidate("9a09b", dry_run=dry)
        assert store.invalidate("9", dry_run=dry) == 4
        assert len(store) == (14 if dry else 10)
        assert store.invalidate("9a09b6", dry_run=dry) == 7


def test_a_name_that_is_the_beginning_of_an_id_is_the_name(path):
    fill(path, campaign(name=campaign().id[:8]), n=2)
    with RunStore(path) as store:
        assert len(store.runs(campaign().id[:8])) == 2
        assert len(store.runs(campaign().id[:9])) == 7


@pytest.fixture(params=["UTC+11", "UTC-9"])
def elsewhere(request, monkeypatch):
    """Be far from Greenwich."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_a_moment_without_a_zone_is_in_the_time_of_this_computer(path, elsewhere):
    noon = datetime(2026, 1, 3, 12, tzinfo=UTC).astimezone().replace(tzinfo=None)
    assert noon.hour != 12
    with RunStore(path) as store:
        assert store.invalidate(campaign().id, before=noon.isoformat(), dry_run=True) == 2
        assert store.invalidate(campaign().id, before=noon + timedelta(seconds=1), dry_run=True) == 3


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "no condition selects the runs"),
        ({"campaign": "none"}, "no campaign 'none'"),
        ({"state": "fail"}, "state is 'fail'; give one or several of planned, completed, failed"),
        ({"state": ["failed", 9]}, "give one or several of"),
        ({"state": 1.5}, "give one or several of"),
        ({"where": {"z": (0, 1)}}, "where has 'z', which is not an input; the inputs are a, b"),
        ({"where": {"a": (2, 1)}}, r"where has 'a': \(2, 1\); give a range \(low, high\)"),
        ({"where": {"a": 3}}, r"give a range \(low, high\)"),
        ({"where": {"a": (np.nan, 1)}}, r"give a range \(low, high\)"),
        ({"where": {"a": (1, 2, 3)}}, r"give a range \(low, high\)"),
        ({"before": "yesterday"}, "before is 'yesterday'; give a datetime, or a text such as"),
        ({"before": 3}, "before is 3"),
        ({"keys": ["abc"]}, "keys has 'abc'"),
        ({"keys": [b"abc"]}, "64 hexadecimal digits"),
        ({"keys": b" " * 32}, "keys has 32"),
    ],
)
def test_what_cannot_be_meant_removes_nothing(path, asked, words):
    for dry in (True, False):
        with RunStore(path) as store, pytest.raises(InputError, match=words):
            store.invalidate(**asked, dry_run=dry)
    with RunStore(path) as store:
        assert len(store) == 10


def test_an_empty_list_of_keys_or_states_means_none(path):
    with RunStore(path) as store:
        assert store.invalidate(keys=[]) == 0
        assert store.invalidate(state=[]) == 0


def test_who_removes_holds_the_lease(path):
    with RunStore(path) as store, RunStore(path) as other:
        with other.lease(), pytest.raises(CampaignLocked, match="is being written"):
            store.invalidate(state="failed")
        with store.lease():
            assert store.invalidate(state="failed") == 1


def test_a_store_that_is_open_for_reading_removes_nothing(path):
    with RunStore(path, readonly=True) as store:
        assert store.invalidate(state="failed", dry_run=True) == 1
        with pytest.raises(StorageError, match="readonly"):
            store.invalidate(state="failed")


def test_inputs_that_only_one_campaign_has(path):
    fill(path, campaign(("a",), name="other"), n=2)
    with RunStore(path) as store:
        assert store.invalidate(where={"b": (-1, 0)}, dry_run=True) == 8
        assert store.invalidate(where={"a": (0, 0)}, dry_run=True) == 3
