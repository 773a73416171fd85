"""Worker processes that die, stop or hang in the middle of a run: their point alone pays, and nothing stays behind."""

import time
from collections import Counter

import numpy as np
import pytest
from bad_workers import DEADLINE, DEATHS, HANGS, hang

from uqms.errors import DataWarning
from uqms.runs import FailurePolicy, RunState, run
from uqms.runs.pool import Pace
from uqms.simulators import FunctionSimulator

KILLS = 5  # of each kind; benchmarks/kill_campaign.py makes more


@pytest.mark.parametrize(
    ("way", "state", "words"),
    [
        ("exit", RunState.FAILED, "SimulatorFailed: the worker process died (exit code 5)"),
        pytest.param(
            "segfault",
            RunState.FAILED,
            "SimulatorFailed: the worker process died (signal SIGSEGV)",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "kill",
            RunState.FAILED,
            "SimulatorFailed: the worker process died (signal SIGKILL: out of memory?)",
            marks=pytest.mark.slow,
        ),
        ("stop", RunState.TIMEOUT, "SimulatorTimeout: the run did not end within 0.5 s and was killed"),
    ],
)
def test_a_worker_that_dies_in_the_middle_costs_its_own_run_only(tmp_path, way, state, words):
    bad = {float(a) for a in range(2, 4 * KILLS, 4)}
    die, path = DEATHS[way], tmp_path / "calls"

    def model(a):
        with open(path, "a") as file:
            file.write(f"{a} ")
        time.sleep(0.02)
        if a in bad:
            die()
        return 2 * a

    simulator = FunctionSimulator(model, outputs={"y": ()}, version="1")
    points = np.arange(4.0 * KILLS)
    attempts = 1 if way == "stop" else 2
    policy = FailurePolicy(attempts=attempts, backoff=0.01)
    with pytest.warns(DataWarning, match=f"{KILLS} of {4 * KILLS} runs did not complete"):
        table = run(simulator, {"a": points}, tmp_path / "runs.db", workers=3, timeout=DEADLINE, failures=policy)
    hurt = np.isin(points, list(bad))
    assert (table["state"].values[hurt] == state).all()
    assert set(table["message"].values[hurt]) == {words}
    assert (table["state"].values[~hurt] == RunState.COMPLETED).all()
    np.testing.assert_array_equal(table["y"].values[~hurt], 2 * points[~hurt])
    calls = Counter(map(float, path.read_text().split()))
    assert calls == {a: attempts if a in bad else 1 for a in points.tolist()}


class Panic(BaseException):
    pass


def test_odd_exceptions_of_workers_cost_their_own_run_only(tmp_path):
    odd = {2.0: Panic("rust"), 3.0: KeyboardInterrupt(), 4.0: RuntimeError("datei \udce4\0"), 5.0: SystemExit(0)}

    def model(a):
        if a in odd:
            raise odd[a]
        return a

    simulator = FunctionSimulator(model, outputs={"y": ()}, version="1")
    with pytest.warns(DataWarning, match="4 of 6 runs did not complete"):
        table = run(simulator, {"a": np.arange(1.0, 7.0)}, tmp_path / "runs.db", workers=2)
    np.testing.assert_array_equal(table["y"].values, [1.0, *[np.nan] * 4, 6.0])
    assert (table["state"].values[1:5] == RunState.FAILED).all()
    assert [message.partition(":")[0] for message in table["message"].values[1:5].tolist()] == [
        "Panic",
        "KeyboardInterrupt",
        "RuntimeError",
        "SystemExit",
    ]


@pytest.mark.parametrize(
    ("kind", "runs"),
    [
        pytest.param("sleeping", 4, marks=pytest.mark.slow),
        pytest.param("holding the lock", 10, marks=pytest.mark.slow),
        ("waiting for a child", 4),
    ],
)
def test_what_hangs_ignores_signals_and_forks_is_gone_after_its_deadline(tmp_path, kind, runs):
    assert kind in HANGS
    outcome = hang(tmp_path, kind, runs, workers=4)
    assert outcome.other_states == 0
    assert outcome.other_words == 0
    assert outcome.left == 0  # benchmarks/kill_campaign.py asks how soon


def test_few_points_lie_ready_when_their_outputs_are_large():
    pace = Pace(workers=2)
    for _ in range(60):
        pace.saw(0.0001, 1_000_000)
    assert pace.window == 2 + 2 * 8  # 16 MB
    pace.saw(0.0001, 100_000_000)
    assert pace.window == 2
