import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import uqms
import uqms.ensemble as en
from uqms.errors import DataError, DataWarning, InputError, SimulatorFailed
from uqms.parameters import LogNormal, ParameterSpace, Uniform
from uqms.runs import Record, RunState, RunStore, run
from uqms.runs.pool import usable_cpus
from uqms.runs.store import Row
from uqms.simulators import FunctionSimulator

ROOT = Path(uqms.__file__).parents[1]
DAYS = [0.0, 1.0, 3.0]


def curve(a, b):
    return {"c": a * np.array(DAYS) + b, "peak": 3 * a + b}


@pytest.fixture
def simulator():
    return FunctionSimulator(curve, outputs={"c": ("day",), "peak": ()}, coords={"day": DAYS}, units={"c": "mg"})


@pytest.fixture
def design():
    from uqms.designs import sobol

    return sobol(ParameterSpace(a=LogNormal(median=2, sigma=0.2, unit="mg/d"), b=Uniform(0, 1)), 16, rng=1)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_rows_are_those_of_the_design(simulator, design, workers):
    table = run(simulator, design, workers=workers)
    en.check(table)
    np.testing.assert_array_equal(table["a"], design["a"])
    np.testing.assert_array_equal(
        table["c"], design["a"].values[:, None] * np.array(DAYS) + design["b"].values[:, None]
    )
    np.testing.assert_array_equal(table["day"], DAYS)
    assert (table["state"] == RunState.COMPLETED).all()
    assert (table["seconds"] > 0).all()
    assert table["c"].attrs["unit"] == "mg"
    assert table["a"].attrs["unit"] == "mg/d"
    assert {"space", "box", "design", "created", "versions"} <= set(table.attrs)
    assert json.loads(table.attrs["simulator"]) == simulator.identity
    assert en.get_box(table).names == ("a", "b")


def test_a_table_of_points_will_do(simulator):
    table = run(simulator, {"b": [1.0, 2.0], "a": [0.5, 0.0]}, workers=0)
    np.testing.assert_array_equal(table["peak"], [2.5, 2.0])


def counting(path, function):
    """Wrap a function so that each call leaves a line in a file, from whatever process."""

    def counted(**point):
        with open(path, "a") as file:
            file.write(f"{json.dumps(point)}\n")
        return function(**point)

    return counted


def calls(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def one(function, **options):
    return FunctionSimulator(function, outputs={"y": ()}, **options)


def misbehave(a):
    if a == 1:
        raise ValueError("no root\nin this interval")
    if a == 2:
        os.kill(os.getpid(), signal.SIGSEGV)
    if a == 3:
        time.sleep(600)
    if a == 4:
        return float("nan")
    if a == 5:
        return [1.0, 2.0]
    if a == 6:
        sys.exit(3)
    if a == 7:
        os._exit(5)
    return a


BAD = {"a": np.arange(12.0)}


@pytest.fixture(scope="module")
def bad_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    simulator = one(counting(folder / "calls", misbehave), version="1")
    begin = time.monotonic()
    with pytest.warns(DataWarning) as told:
        table = run(simulator, BAD, folder / "runs.db", workers=2, timeout=1.0)
    table.attrs["whole"] = time.monotonic() - begin
    return folder, simulator, table, str(told[0].message)


def test_every_run_ends_in_its_state_and_the_others_complete(bad_runs):
    _, _, table, _ = bad_runs
    states = [RunState(s).name for s in table["state"].values]
    assert (
        states
        == ["COMPLETED", "FAILED", "FAILED", "TIMEOUT", "INVALID", "INVALID", "FAILED", "FAILED"] + ["COMPLETED"] * 4
    )
    np.testing.assert_array_equal(table["y"].values[8:], [8, 9, 10, 11])
    assert np.isnan(table["y"].values[1:8]).all()
    en.check(table)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (1, "ValueError: no root in this interval [test_execute.py:"),
        (1, 'in misbehave: raise ValueError("no root'),
        (2, "the worker process died (signal SIGSEGV)"),
        (3, "SimulatorTimeout: the run did not end within 1 s and was killed"),
        (4, "OutputError: output 'y' is nan"),
        (5, "OutputError: output 'y' has shape (2,), but it is declared as a scalar"),
        (6, "SystemExit: 3"),
        (7, "the worker process died (exit code 5)"),
    ],
)
def test_the_message_says_why(bad_runs, row, words):
    assert words in bad_runs[2]["message"].values[row]


def test_seconds_of_a_killed_run(bad_runs):
    assert 1.0 <= bad_runs[2]["seconds"].values[3] <= bad_runs[2].attrs["whole"]


def test_the_warning_counts_and_says_how_to_look(bad_runs):
    message = bad_runs[3]
    assert "7 of 12 runs did not complete: 4 failed (run 1: ValueError" in message
    assert "1 timeout (run 3: " in message
    assert "2 invalid (run 4: " in message
    assert "ensemble['message']" in message


def test_a_second_call_repeats_nothing_but_says_it_again(bad_runs):
    folder, simulator, table, _ = bad_runs
    before = len(calls(folder / "calls"))
    with pytest.warns(DataWarning, match="7 of 12"):
        again = run(simulator, BAD, folder / "runs.db", workers=2)
    assert len(calls(folder / "calls")) == before
    for name in ("y", "state", "seconds", "message"):
        assert again[name].identical(table[name])


def test_failed_runs_are_retried_when_asked(tmp_path):
    broken = tmp_path / "broken"
    broken.touch()

    def moody(a):
        if broken.exists() and a > 1:
            raise OSError("licence server is away")
        return a

    simulator = one(counting(tmp_path / "calls", moody), version="1")
    with pytest.warns(DataWarning, match="2 of 4 runs did not complete"):
        run(simulator, {"a": np.arange(4.0)}, tmp_path / "runs.db", workers=0)
    broken.unlink()
    table = run(simulator, {"a": np.arange(4.0)}, tmp_path / "runs.db", workers=0, retry_failed=True)
    np.testing.assert_array_equal(table["y"], np.arange(4.0))
    assert [point["a"] for point in calls(tmp_path / "calls")] == [0, 1, 2, 3, 2, 3]


def test_a_longer_design_runs_the_new_points_only(tmp_path):
    simulator = one(counting(tmp_path / "calls", lambda a: a), version="1")
    with RunStore(tmp_path / "runs.db") as store:
        run(simulator, {"a": [1.0, 2.0]}, store, workers=0)
        table = run(simulator, {"a": [3.0, 1.0, 2.0]}, store, workers=0)
    np.testing.assert_array_equal(table["y"], [3.0, 1.0, 2.0])
    assert [point["a"] for point in calls(tmp_path / "calls")] == [1, 2, 3]


def test_a_point_that_stands_twice_runs_once(tmp_path):
    simulator = one(counting(tmp_path / "calls", lambda a: a**2), version="1")
    table = run(simulator, {"a": [3.0, 1.0, 3.0]}, workers=1)
    np.testing.assert_array_equal(table["y"], [9.0, 1.0, 9.0])
    assert sorted(point["a"] for point in calls(tmp_path / "calls")) == [1.0, 3.0]


def test_bits_do_not_depend_on_workers_or_store(tmp_path, design):
    def heavy(a, b):
        x = np.random.default_rng(int(a * 1e6)).normal(size=(60, 60))
        return np.linalg.slogdet(x @ x.T + b)[1]

    tables = [
        run(one(heavy), design, workers=w, store=s)["y"].values for w, s in ((0, None), (1, tmp_path / "a"), (2, None))
    ]
    tables.append(run(one(heavy), design, workers=1, store=tmp_path / "a")["y"].values)
    for other in tables[1:]:
        assert other.tobytes() == tables[0].tobytes()


THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@pytest.mark.skipif(usable_cpus() == 1, reason="one core: one thread in any case")
def test_workers_use_one_thread(monkeypatch):
    def threads(a):
        from threadpoolctl import threadpool_info

        return max(pool["num_threads"] for pool in threadpool_info())

    def later_threads(a):
        return float(max(os.environ[name] for name in THREADS))

    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    for function in (threads, later_threads):
        assert run(one(function), {"a": [1.0]}, workers=1)["y"].values[0] == 1


def test_workers_load_little():
    def loaded(a):
        return len({"pandas", "xarray", "scipy", "torch", "pymc", "matplotlib"} & set(sys.modules))

    assert run(one(loaded), {"a": [1.0]}, workers=1)["y"].values[0] == 0


def test_a_worker_killed_from_outside_costs_its_own_run_only():
    def victim(a):
        if a == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)
        return a

    with pytest.warns(DataWarning, match="1 of 10 runs .*signal SIGKILL"):
        table = run(one(victim), {"a": np.arange(10.0)}, workers=2)
    assert table["state"].values.tolist() == [
        "completed",
        "completed",
        "completed",
        "failed",
        "completed",
        "completed",
        "completed",
        "completed",
        "completed",
        "completed",
    ]


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ({"a": [1.0]}, {}, "missing a required argument: 'b'"),
        ({"a": [1.0], "b": [1.0], "z": [1.0]}, {}, "unexpected keyword argument 'z'"),
        ({"a": [1.0], "b": [1.0]}, {"workers": -1}, "workers is -1"),
        ({"a": [1.0], "b": [1.0]}, {"workers": 2.0}, "workers is 2.0"),
        ({"a": [1.0], "b": [1.0]}, {"timeout": 0}, "timeout is 0"),
        ({"a": [1.0], "b": [1.0]}, {"timeout": float("nan")}, "timeout is nan"),
        ({"a": [1.0], "b": [1.0]}, {"timeout": 1.0, "workers": 0}, "use workers=1"),
    ],
)
def test_what_cannot_be_meant_is_told_before_any_run(simulator, inputs, options, message):
    with pytest.raises(InputError, match=message):
        run(simulator, inputs, **options)


NAMED = {
    "a reserved name": ({"cost": [1.0, 2.0]}, DataError, "'cost' is a reserved name"),
    "an output's name": ({"y": [1.0, 2.0]}, InputError, "'y' is an input and an output"),
    "no name for a file": ({"k/c": [1.0, 2.0]}, InputError, "called 'k/c'; give it a name without '/'"),
    "another dim": (
        xr.Dataset({"a": ("sample", [1.0, 2.0])}),
        DataError,
        r"dims \('sample',\).*rename\(sample='run'\)",
    ),
    "one more variable": (
        xr.Dataset({"a": ("run", [1.0, 2.0], {"role": "input"}), "dose": ("run", [1.0, 2.0])}),
        DataError,
        "the design has the inputs 'a', and the variables 'dose' without a role",
    ),
}


@pytest.mark.parametrize("case", NAMED)
def test_what_does_not_fit_into_a_table_is_told_before_any_run(tmp_path, case):
    design, error, words = NAMED[case]
    ran = []  # what is raised inside of a simulator is a failed run

    def model(**point):
        ran.append(point)

    simulator = FunctionSimulator(model, outputs={"y": (), "c": ("day",)}, coords={"day": DAYS}, version="1")
    with pytest.raises(error, match=words):
        run(simulator, design, tmp_path / "s", workers=0)
    assert not ran
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("kind", [np.array, pd.DataFrame, xr.Dataset])
@pytest.mark.parametrize("number", [2**53 + 1, -(2**53) - 1, 2**63 - 1])
def test_integers_of_which_float64_makes_others(kind, number):
    values = np.array([number, 3], dtype=np.int64)
    design = {
        np.array: {"a": values},
        pd.DataFrame: pd.DataFrame({"a": values}),
        xr.Dataset: xr.Dataset({"a": ("run", values)}),
    }[kind]
    with pytest.raises(InputError, match=r"input 'a' has integers beyond 2\*\*53"):
        run(one(lambda a: a), design, workers=0)
    assert run(one(lambda a: a), {"a": np.array([2**53, -(2**53)])}, workers=0)["a"].values[0] == 2.0**53


def test_a_design_with_gaps(simulator):
    with pytest.raises(DataError, match="input 'b' is nan in run 1"):
        run(simulator, {"a": [1.0, 2.0], "b": [1.0, np.nan]})


def test_what_cannot_be_sent():
    lock = threading.Lock()

    def held(a):
        with lock:
            return a

    with pytest.raises(InputError, match=r"cannot be sent to worker processes.*use workers=0"):
        run(one(held, version="1"), {"a": [1.0]}, workers=1)
    assert run(one(held, version="1"), {"a": [1.0]}, workers=0)["y"].values[0] == 1.0


def test_what_cannot_be_loaded_in_a_worker(tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def f(a):\n    return a\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    simulator = one(only_here.f, version="1")
    (tmp_path / "only_here.py").unlink()
    with pytest.raises(SimulatorFailed, match="cannot be loaded in a worker process .*only_here"):
        run(simulator, {"a": [1.0]}, workers=1)


def test_loading_the_simulator_does_not_count_against_the_deadline(tmp_path, monkeypatch):
    (tmp_path / "slow_import.py").write_text("import time\ntime.sleep(0.8)\ndef f(a):\n    return a\n")
    monkeypatch.syspath_prepend(tmp_path)
    import slow_import

    assert run(one(slow_import.f), {"a": [1.0]}, workers=1, timeout=0.5)["state"].values[0] == RunState.COMPLETED


def test_the_bar_shows_on_a_terminal_only(simulator, monkeypatch, capsys):
    run(simulator, {"a": [1.0], "b": [1.0]}, workers=0)
    assert capsys.readouterr().err == ""
    run(simulator, {"a": [1.0], "b": [1.0]}, workers=0, progress=True)
    assert "1/1" in capsys.readouterr().err

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.warns(DataWarning):
        run(one(misbehave), {"a": [0.0, 1.0]}, workers=0)
    assert "2/2" in sys.stderr.getvalue()
    assert "1 failed" in sys.stderr.getvalue()
    monkeypatch.setattr(sys, "stderr", Terminal())
    run(simulator, {"a": [1.0], "b": [1.0]}, workers=0, progress=False)
    assert sys.stderr.getvalue() == ""


SCRIPT = """
# %%
import sys
print("top level", flush=True)
from uqms.runs import run
from uqms.simulators import FunctionSimulator

SCALE = 3.0

def helper(a):
    return a * SCALE

def model(a):
    return helper(a)

# %%
table = run(FunctionSimulator(model, outputs={"y": ()}), {"a": [1.0, 2.0, 4.0]}, workers=2)
print(table["y"].values.tolist())
"""


def test_a_script_without_a_main_guard_runs_once(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    out = subprocess.run(
        [sys.executable, "-W", "error", "script.py"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr
    assert out.stdout.splitlines() == ["top level", "[3.0, 6.0, 12.0]"]


LATE = """
import os, sys, time
from pathlib import Path

here = Path(os.environ["HERE"])
if any("popen_loky" in word for word in sys.orig_argv):
    try:
        (here / "first").touch(exist_ok=False)
    except FileExistsError:
        while not (here / "ending").exists():
            time.sleep(0.01)
"""

SLOW_TO_END = """
import multiprocessing.util, time
from pathlib import Path
from uqms.runs import run
from uqms.simulators import FunctionSimulator

here = Path(__file__).parent

def end():
    (here / "ending").touch()
    time.sleep(2.0)

def model(a):
    multiprocessing.util.Finalize(None, end, exitpriority=1)
    return a

run(FunctionSimulator(model, outputs={"y": ()}), {"a": [1.0, 2.0]}, workers=2)
print("done")
"""


@pytest.mark.slow
def test_a_worker_that_still_starts_when_all_is_done_stays_silent(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(LATE)
    (tmp_path / "script.py").write_text(SLOW_TO_END)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]), "HERE": str(tmp_path)}
    out = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (out.returncode, out.stdout, out.stderr) == (0, "done\n", "")
    assert (tmp_path / "first").exists()


def test_it_is_light():
    code = "import sys, uqms.runs; print({'torch', 'pymc', 'pytensor', 'matplotlib', 'gpytorch'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True).stdout
    assert out == "set()\n"


# ------------------------------------------------------------------------------------ chance, settings, missing entries
def walk(a, seed, steps=3):
    return np.random.default_rng(seed).normal(a, size=steps)


def chance(**options):
    days = {"coords": {"step": [0.0, 1.0, 2.0]}}
    return FunctionSimulator(walk, outputs={"y": ("step",)}, **days, version="1", seed="seed", **options)


def test_replicates_are_the_same_whatever_the_workers_the_store_and_the_design(tmp_path):
    points = {"a": [1.0, 5.0]}
    tables = [
        run(chance(), points, replicates=3, rng=4, workers=w, store=s) for w, s in ((0, None), (2, tmp_path / "s"))
    ]
    tables.append(run(chance(), points, tmp_path / "s", replicates=3, rng=4, workers=1))  # all from the store
    first = tables[0]
    assert first["y"].shape == (6, 3)
    assert first["replicate"].values.tolist() == [0, 1, 2, 0, 1, 2]
    assert first["a"].values.tolist() == [1.0] * 3 + [5.0] * 3
    assert first.attrs["rng"] == "4"
    for other in tables[1:]:
        assert other["y"].values.tobytes() == first["y"].values.tobytes()
        assert other["seed"].identical(first["seed"])
    for row in range(6):  # the seed that is recorded is the one that was used
        np.testing.assert_array_equal(
            first["y"].values[row], walk(first["a"].values[row], int(first["seed"].values[row]))
        )
    more = run(chance(), {"a": [5.0, 9.0, 1.0]}, replicates=4, rng=4, workers=0)
    np.testing.assert_array_equal(more["y"].values[:3], first["y"].values[3:])
    np.testing.assert_array_equal(more["y"].values[8:11], first["y"].values[:3])
    assert len({values.tobytes() for values in more["y"].values}) == 12
    other = run(chance(), points, replicates=3, rng=5, workers=0)
    assert set(other["seed"].values).isdisjoint(first["seed"].values)


def test_more_replicates_run_the_new_ones_only(tmp_path):
    simulator = FunctionSimulator(
        counting(tmp_path / "calls", lambda a, seed: a), outputs={"y": ()}, version="1", seed="seed"
    )
    run(simulator, {"a": [1.0]}, tmp_path / "s", replicates=2, rng=1, workers=0)
    run(simulator, {"a": [1.0]}, tmp_path / "s", replicates=5, rng=1, workers=0)
    seeds = [point["seed"] for point in calls(tmp_path / "calls")]
    assert len(seeds) == len(set(seeds)) == 5


def test_settings_reach_the_function_and_make_it_another_simulator(tmp_path):
    seen = counting(tmp_path / "calls", lambda a, cells: a * cells)
    one_setting, other = (
        FunctionSimulator(seen, outputs={"y": ()}, version="1", config={"cells": cells}) for cells in (2, 3)
    )
    for simulator, y in ((one_setting, 2.0), (other, 3.0), (one_setting, 2.0)):
        assert run(simulator, {"a": [1.0]}, tmp_path / "s", workers=0)["y"].values[0] == y
    assert [point["cells"] for point in calls(tmp_path / "calls")] == [2, 3]


def test_a_level_of_fidelity_is_a_campaign_of_its_own(tmp_path):
    simulator = one(counting(tmp_path / "calls", lambda a: a), version="1")
    coarse = run(simulator, {"a": [1.0]}, tmp_path / "s", workers=0, fidelity="coarse")
    fine = run(simulator, {"a": [1.0]}, tmp_path / "s", workers=0, fidelity="fine")
    assert coarse["fidelity"].values.tolist() == ["coarse"]
    assert fine["fidelity"].values.tolist() == ["fine"]
    assert "fidelity" not in run(simulator, {"a": [1.0]}, workers=0).coords
    assert len(calls(tmp_path / "calls")) == 3


def stops_early(a):
    curve = np.array([1.0, 2.0, 3.0])
    curve[1:] = curve[1:] if a < 2 else np.nan
    return {"c": curve, "peak": np.inf if a == 1 else a}


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_run_gave_before_it_went_wrong_stays(tmp_path, workers):
    simulator = FunctionSimulator(stops_early, outputs={"c": ("day",), "peak": ()}, coords={"day": DAYS}, version="1")
    with pytest.warns(
        DataWarning, match="2 of 3 runs did not complete: 2 partial .run 1: OutputError: output 'peak' is inf"
    ):
        table = run(simulator, {"a": [0.0, 1.0, 2.0]}, tmp_path / "s", workers=workers)
    assert table["state"].values.tolist() == ["completed", "partial", "partial"]
    np.testing.assert_array_equal(table["c"], [[1, 2, 3], [1, 2, 3], [1, np.nan, np.nan]])
    np.testing.assert_array_equal(table["peak"], [0, np.nan, 2])
    assert "output 'c' is nan at day=1.0; every output must be finite (2 of 3 entries" in table["message"].values[2]
    np.testing.assert_array_equal(en.missing_entries(table)["c"].values.sum(axis=1), [0, 0, 2])
    with pytest.warns(DataWarning):
        again = run(simulator, {"a": [0.0, 1.0, 2.0]}, tmp_path / "s", workers=0)
    assert again.drop_attrs().identical(table.drop_attrs())


@pytest.mark.parametrize("then", ["failed", "invalid", "fewer", "completed"])
def test_a_retry_that_gives_nothing_leaves_what_the_run_gave(tmp_path, then):
    now = ["partial"]

    def model(a):
        if now[0] == "failed":
            raise OSError("licence server is away")
        if now[0] == "invalid":
            return [1.0]
        return {"c": [1.0, 2.0, np.nan if now[0] != "completed" else 3.0], "peak": 7.0 if now[0] == "partial" else 8.0}

    simulator = FunctionSimulator(model, outputs={"c": ("day",), "peak": ()}, coords={"day": DAYS}, version="1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        run(simulator, {"a": [1.0]}, tmp_path / "s", workers=0)
        now[0] = then
        table = run(simulator, {"a": [1.0]}, tmp_path / "s", workers=0, retry_failed=True)
    assert table["peak"].values.tolist() == [7.0 if then in ("failed", "invalid") else 8.0]
    assert table["state"].values.tolist() == [RunState.COMPLETED if then == "completed" else RunState.PARTIAL]
    with RunStore(tmp_path / "s") as store:
        store.integrity_check()
        assert store.ensemble()["peak"].identical(table["peak"])


def test_what_run_returns_is_of_one_moment(tmp_path, monkeypatch):
    simulator = FunctionSimulator(stops_early, outputs={"c": ("day",), "peak": ()}, coords={"day": DAYS}, version="1")
    with pytest.warns(DataWarning):
        run(simulator, {"a": [1.0]}, tmp_path / "s", workers=0)
    outputs = RunStore.outputs

    def late(self, campaign, keys):
        with RunStore(tmp_path / "s") as other:  # as another process does
            done = Record(RunState.COMPLETED, 1.0, "", {"c": np.zeros(3), "peak": np.array(9.0)})
            other.put(campaign, [Row(keys[0], np.array([1.0]), done)])
        return outputs(self, campaign, keys)

    monkeypatch.setattr(RunStore, "outputs", late)
    with pytest.warns(DataWarning, match="1 partial"):
        table = run(simulator, {"a": [1.0]}, tmp_path / "s", workers=0)
    assert table["state"].values.tolist() == [RunState.PARTIAL]
    assert np.isnan(table["peak"].values).all()


def test_outputs_may_stay_in_the_store(tmp_path, simulator, design):
    whole = run(simulator, design, tmp_path / "s", workers=0)
    light = run(simulator, design, tmp_path / "s", workers=0, collect=False)
    assert set(light.data_vars) == set(whole.data_vars) - {"c", "peak"}
    for name in light.data_vars:
        assert light[name].identical(whole[name])
    with pytest.raises(
        InputError, match="collect=False leaves the outputs in the run store, but store is None; give a path"
    ):
        run(simulator, design, collect=False)


def test_runs_of_what_was_changed_since_are_told(tmp_path):
    run(one(lambda a: a, name="outbreak"), {"a": [1.0, 2.0]}, tmp_path / "s", workers=0)
    changed = one(lambda a: 2 * a, name="outbreak")
    with pytest.warns(DataWarning, match="has 2 runs of 'outbreak' that are not used: the code, .* have changed since"):
        run(changed, {"a": [1.0]}, tmp_path / "s", workers=0)
    run(changed, {"a": [3.0]}, tmp_path / "s", workers=0)  # told once: now it has runs of its own


@dataclass
class Mine:
    """A simulator of one's own, which checks nothing."""

    outputs: dict
    coords: dict
    units = {}
    seed = None
    identity = {"name": "mine"}

    def prepare(self, inputs):
        pass

    def evaluate(self, point):
        return {name: np.full([len(self.coords[d]) for d in dims], 1.0) for name, dims in self.outputs.items()}


def test_a_simulator_of_ones_own_with_inputs_that_are_called_like_its_outputs(monkeypatch):
    ran = []
    monkeypatch.setattr(Mine, "evaluate", lambda self, point: ran.append(point))
    simulator = Mine({"y": ("day",)}, {"day": np.array(DAYS)})
    with pytest.raises(DataError, match="'y' occurs both among the inputs and among the outputs"):
        run(simulator, {"y": [1.0]}, workers=0)
    with pytest.raises(DataError, match="the dim 'day', which is also the name of a variable"):
        run(simulator, {"day": [1.0]}, workers=0)
    assert not ran


def test_a_simulator_of_ones_own_whose_identity_forgets_its_outputs(tmp_path):
    from uqms.errors import CampaignMismatch

    run(Mine({"y": ()}, {}), {"a": [1.0]}, tmp_path / "s", workers=0)
    with pytest.raises(CampaignMismatch, match="other outputs"):
        run(Mine({"y": ("day",)}, {"day": np.array(DAYS)}), {"a": [1.0]}, tmp_path / "s", workers=0)
