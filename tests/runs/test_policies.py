import time

import numpy as np
import pytest

from uqms.errors import CampaignStopped, DataWarning, InputError
from uqms.runs import FailurePolicy, RunState, RunStore, run
from uqms.simulators import FunctionSimulator


def one(function):
    return FunctionSimulator(function, outputs={"y": ()}, version="1")


@pytest.mark.parametrize(
    ("share", "failed", "planned", "stops"),
    [
        (0.29, 29, 100, False),
        (0.29, 30, 100, True),
        (0.57, 57, 100, False),
        (0.58, 29, 50, False),
        (1 / 3, 1, 3, False),
        (0.29, 290_000_000, 1_000_000_000, False),
        (0.29, 290_000_001, 1_000_000_000, True),
        (0.0, 0, 7, False),
        (0.0, 1, 10**9, True),
        (1.0, 7, 7, False),
    ],
)
def test_exactly_the_share_is_allowed(share, failed, planned, stops):
    assert FailurePolicy(stop_above=share).stops(failed, planned) == stops


def test_pauses_begin_with_the_backoff_and_double():
    assert [FailurePolicy(attempts=5, backoff=0.5).pause(attempts) for attempts in (1, 2, 3, 4)] == [0.5, 1, 2, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attempts": 0}, "attempts is 0"),
        ({"attempts": 1.5}, "attempts is 1.5"),
        ({"attempts": True}, "attempts is True"),
        ({"backoff": -1.0}, "backoff is -1.0; give a number of seconds from 0 to 1e"),
        ({"backoff": float("nan")}, "backoff is nan"),
        ({"backoff": float("inf")}, "backoff is inf"),
        ({"stop_above": 1.5}, "stop_above is 1.5; give a fraction of the runs from 0 to 1"),
        ({"stop_above": float("nan")}, "stop_above is nan"),
        ({"stop_above": "0.5"}, "stop_above is '0.5'"),
    ],
)
def test_what_cannot_be_meant(options, message):
    with pytest.raises(InputError, match=message):
        FailurePolicy(**options)


def moody(folder, failures):
    """Fail so many times at each point, then give the point's number."""

    def model(a):
        (folder / f"{a}-{time.monotonic_ns()}").touch()
        if len(list(folder.glob(f"{a}-*"))) <= failures(a):
            raise OSError("licence server is away")
        return a

    return model


@pytest.mark.parametrize("workers", [0, 2])
def test_retries_with_backoff(tmp_path, workers):
    policy = FailurePolicy(attempts=3, backoff=0.1)
    simulator = one(moody(tmp_path, lambda a: {1.0: 1, 2.0: 2, 3.0: 3}.get(a, 0)))
    with pytest.warns(DataWarning, match="1 of 5 runs did not complete: 1 failed .run 3: OSError: licence"):
        table = run(simulator, {"a": np.arange(5.0)}, tmp_path / "s", workers=workers, failures=policy)
    np.testing.assert_array_equal(table["y"], [0, 1, 2, np.nan, 4])
    times = {a: sorted(int(p.name.split("-")[1]) for p in tmp_path.glob(f"{a}.0-*")) for a in range(5)}
    assert [len(t) for t in times.values()] == [1, 2, 3, 3, 1]
    pauses = np.diff(times[3]) / 1e9
    assert 0.1 <= pauses[0]
    assert 0.2 <= pauses[1]
    with RunStore(tmp_path / "s") as store:
        assert sorted(r.attempts for r in store.kept(next(campaigns(simulator))).values()) == [1, 1, 2, 3, 3]


def campaigns(simulator):
    from uqms.runs.campaign import Campaign

    yield Campaign(simulator, ("a",))


def test_wrong_outputs_are_not_tried_again(tmp_path):
    def wrong(a):
        with (tmp_path / "calls").open("a") as file:
            file.write("x")
        return float("nan")

    with pytest.warns(DataWarning, match="1 invalid"):
        run(one(wrong), {"a": [1.0]}, workers=0, failures=FailurePolicy(attempts=3, backoff=0.0))
    assert (tmp_path / "calls").read_text() == "x"


def corner(a, b):
    if a > 0.5:
        raise ArithmeticError("no valve opens")
    return b


def design(share, n=100):
    """Return points of which exactly that share lies in the corner where runs fail."""
    a = np.where(np.arange(n) % 10 < round(10 * share), 0.9, 0.1)
    return {"a": a, "b": np.arange(n, dtype=float)}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_counts_are_exact_and_the_rest_goes_on(share):
    points = design(share)
    simulator = FunctionSimulator(corner, outputs={"y": ()}, version="1")
    if share:
        with pytest.warns(DataWarning, match=f"{round(100 * share)} of 100 runs did not complete"):
            table = run(simulator, points, workers=0)
    else:
        table = run(simulator, points, workers=0)
    assert (table["state"].values == RunState.FAILED).sum() == round(100 * share)
    np.testing.assert_array_equal(table["y"], np.where(points["a"] > 0.5, np.nan, points["b"]))


@pytest.mark.parametrize(("limit", "ran"), [(0.0, 1), (0.05, 6), (0.2, 30)])
def test_it_stops_with_the_failure_that_is_one_too_many(limit, ran):
    # Of every ten points the first six fail, so the k-th failure is run number 10 ((k - 1) // 6) + (k - 1) % 6 + 1.
    simulator = FunctionSimulator(corner, outputs={"y": ()}, version="1")
    with pytest.raises(CampaignStopped, match=f"of 100 runs did not complete, more than stop_above={limit:g}") as told:
        run(simulator, design(0.6), workers=0, failures=FailurePolicy(stop_above=limit))
    states = told.value.ensemble["state"].values
    failed = int(100 * limit) + 1
    assert (states == RunState.FAILED).sum() == failed
    last = 10 * ((failed - 1) // 6) + (failed - 1) % 6 + 1
    assert (states != RunState.PLANNED).sum() == last
    assert "ArithmeticError: no valve opens" in str(told.value)
    assert told.value.ensemble["message"].values[-1] == "not run, since too many other runs failed"


def test_exactly_the_allowed_share_does_not_stop():
    simulator = FunctionSimulator(corner, outputs={"y": ()}, version="1")
    with pytest.warns(DataWarning, match="60 of 100"):
        run(simulator, design(0.6), workers=0, failures=FailurePolicy(stop_above=0.6))


def test_what_ran_before_a_stop_is_kept_and_the_next_call_goes_on(tmp_path):
    simulator = FunctionSimulator(corner, outputs={"y": ()}, version="1")
    policy = FailurePolicy(stop_above=0.05)
    for _ in range(2):  # a second call runs nothing more: the cause is still there
        with pytest.raises(CampaignStopped, match="6 of 100 runs did not complete"):
            run(simulator, design(0.6), tmp_path / "s", workers=0, failures=policy)
        with RunStore(tmp_path / "s") as store:
            assert len(store) == 6
    with pytest.warns(DataWarning, match="60 of 100"):
        run(simulator, design(0.6), tmp_path / "s", workers=0)


def test_a_stop_while_all_are_tried_again(tmp_path):
    simulator = FunctionSimulator(corner, outputs={"y": ()}, version="1")
    points = {"a": [0.9, 0.1, 0.9, 0.9], "b": np.arange(4.0)}
    with pytest.warns(DataWarning, match="3 of 4"):
        run(simulator, points, tmp_path / "s", workers=0)
    for limit, words in ((0.5, "3 of 4 .*; 0 runs were not started"), (0.3, "2 of 4 .*; 1 runs were not started")):
        policy = FailurePolicy(stop_above=limit)
        with pytest.raises(CampaignStopped, match=words) as told:
            run(simulator, points, tmp_path / "s", workers=0, failures=policy, retry_failed=True)
        assert told.value.ensemble["state"].values.tolist() == [
            "failed",
            "completed",
            "failed",
            "failed",
        ]  # as it was, where it was not begun


def test_the_first_that_failed_is_of_this_call(tmp_path):
    broken = ["first cause"]

    def model(a):
        if a == 0 or broken[0] == "second cause":
            raise ValueError(broken[0])
        return a

    with pytest.warns(DataWarning):
        run(one(model), {"a": [0.0, 1.0]}, tmp_path / "s", workers=0)
    broken[0] = "second cause"
    with pytest.raises(CampaignStopped, match="first run that failed: ValueError: second cause"):
        run(
            one(model), {"a": [2.0, 0.0]}, tmp_path / "s", workers=0, failures=FailurePolicy(stop_above=0.0),
            retry_failed=True,
        )  # fmt: skip


def test_what_waits_for_its_next_attempt_when_it_stops_says_so():
    def model(a):
        if a == 0:
            raise OSError("licence server is away")
        return np.nan

    policy = FailurePolicy(attempts=2, backoff=100.0, stop_above=0.0)
    with pytest.raises(CampaignStopped, match="1 of 3 .*; 1 runs were not started") as told:
        run(one(model), {"a": [0.0, 1.0, 2.0]}, workers=0, failures=policy)
    states, messages = (told.value.ensemble[name].values.tolist() for name in ("state", "message"))
    assert states == [RunState.PLANNED, RunState.INVALID, RunState.PLANNED]
    assert messages[0].startswith(
        "not tried again, since too many other runs failed; the last attempt: OSError: licence server is away"
    )
    assert messages[2] == "not run, since too many other runs failed"


def test_a_stop_ends_what_still_runs(tmp_path):
    def slow(a):
        if a == 0:
            raise ValueError("broken")
        time.sleep(60)  # a run that is not broken off completes

    with pytest.raises(CampaignStopped) as told:
        run(one(slow), {"a": [1.0, 0.0, 2.0]}, workers=2, failures=FailurePolicy(stop_above=0.0))
    assert told.value.ensemble["message"].values[0] == "stopped before it ended, since too many other runs failed"
