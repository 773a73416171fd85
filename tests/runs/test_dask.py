import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from clocks import GUARD, wait_for

import uqms
from uqms.errors import CampaignError, DataWarning, InputError, SimulatorFailed
from uqms.runs import RunState, RunStore, run
from uqms.runs.dask import Dask, DaskBackend
from uqms.runs.pool import payload_of
from uqms.simulators import FunctionSimulator

distributed = pytest.importorskip("distributed")
from uqms.runs._dask_site import Site  # noqa: E402

ROOT = Path(uqms.__file__).parents[1]


def local_cluster(**options):
    given = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "memory_limit": 0}
    return distributed.LocalCluster(**{**given, **options})


@pytest.fixture(scope="module")
def client():
    with local_cluster() as cluster, distributed.Client(cluster) as client:
        yield client


@pytest.fixture(autouse=True)
def both_workers(request):
    """Wait for a worker that the test before has ended."""
    if "client" in request.fixturenames:
        request.getfixturevalue("client").wait_for_workers(2, timeout=GUARD)


def one(function, **options):
    return FunctionSimulator(function, outputs={"y": ()}, **options)


def drive(backend, points, patience=2 * GUARD):
    """Run points through a backend, and return ticket -> record."""
    ready, records, end = list(enumerate(points)), {}, time.monotonic() + patience
    while len(records) < len(points):
        assert time.monotonic() < end, f"{len(records)} of {len(points)} after {patience} s"
        for _ in range(min(backend.free(), len(ready))):
            backend.submit(*ready.pop(0))
        records.update(backend.ended(None))
    return records


def alive(pids):
    """Return those processes that run; one that ended and that nobody has waited for yet does not."""
    found = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


def below(*workers):
    """Return the processes below Dask workers that run points."""
    found = []
    for child in [child for worker in workers for child in psutil.Process(worker).children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # a zombie too
            found += [child.pid] * ("popen_loky_posix" in " ".join(child.cmdline()))
    return alive(found)


def processes(client):
    return below(*client.run(os.getpid).values())


def plugins(client):
    """Return what of ours is still with the scheduler."""
    names = client.run_on_scheduler(lambda dask_scheduler: [*dask_scheduler.plugins, *dask_scheduler.worker_plugins])
    return [name for name in names if name.startswith("uqms")]


# --------------------------------------------------------------------------------------------------------- same results
def heavy(a, b, seed):
    x = np.random.default_rng([int(a * 1e6), seed]).normal(size=(40, 40))
    return {"det": np.linalg.slogdet(x @ x.T + b)[1], "row": x[0, :3] * a}


@pytest.mark.slow
def test_a_cluster_gives_the_same_table_bit_for_bit(client):
    simulator = FunctionSimulator(
        heavy, outputs={"det": (), "row": ("i",)}, coords={"i": [0, 1, 2]}, seed="seed", version="1"
    )
    design = {"a": np.linspace(0.1, 1.0, 40), "b": np.linspace(1.0, 2.0, 40)}
    tables = [run(simulator, design, rng=7, workers=workers) for workers in (1, 2, client)]
    for table in tables[1:]:
        for name in ("a", "b", "det", "row", "state", "message", "seed"):
            assert table[name].values.tobytes() == tables[0][name].values.tobytes(), name


def misbehave(a):
    if a == 1:
        raise ValueError("no root")
    if a == 2:
        ctypes.string_at(0)
    if a == 3:
        time.sleep(600)
    if a == 4:
        return float("nan")
    if a == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    if a == 6:
        os._exit(5)
    return a


@pytest.mark.slow
def test_failures_are_told_as_on_one_machine(client):
    tables = []
    for workers in (2, client):
        with pytest.warns(DataWarning, match="6 of 12 runs did not complete"):
            tables.append(run(one(misbehave), {"a": np.arange(12.0)}, workers=workers, timeout=1.0))
    local, dask = tables
    assert [RunState(s).name for s in dask["state"].values[:7]] == [
        *("COMPLETED", "FAILED", "FAILED", "TIMEOUT", "INVALID", "FAILED", "FAILED")
    ]
    assert (dask["state"].values[7:] == RunState.COMPLETED).all()
    for name in ("y", "state", "message"):
        np.testing.assert_array_equal(dask[name].values, local[name].values)


@pytest.mark.slow
def test_a_store_goes_on_where_it_was_with_or_without_a_cluster(client, tmp_path):
    def counted(a):
        with open(tmp_path / "calls", "a") as file:
            file.write(f"{a}\n")
        return a**2

    simulator = one(counted, version="1")
    for n, workers in ((5, client), (9, 2), (12, client)):
        table = run(simulator, {"a": np.arange(float(n))}, tmp_path / "runs.db", workers=workers)
        np.testing.assert_array_equal(table["y"], np.arange(float(n)) ** 2)
    assert sorted(map(float, (tmp_path / "calls").read_text().split())) == list(map(float, range(12)))


@pytest.mark.slow
def test_fast_simulators_go_out_many_at_a_time_and_nothing_is_left_on_the_cluster(client):
    with DaskBackend(client, payload_of(one(lambda a: a + 1.0)), None) as backend:
        records = drive(backend, [{"a": float(a)} for a in range(2000)])
        assert backend._sent < 600  # tasks
        wait_for(lambda: client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)) == 0)
    assert [float(records[i].outputs["y"]) for i in range(2000)] == [a + 1.0 for a in range(2000)]
    assert processes(client) == []
    assert plugins(client) == []


def test_a_slow_point_among_fast_ones_does_not_hold_back_those_behind_it(tmp_path, monkeypatch):
    def slow_once(a):
        if a == 9:
            (tmp_path / "begun").touch()
            time.sleep(0.5)
        return a

    class Clock:
        """The time of the task is over as soon as its tenth point is under way."""

        def monotonic(self):
            return 1.0 if (tmp_path / "begun").exists() else 0.0

    monkeypatch.setattr("uqms.runs._dask_site.time", Clock())
    site = Site(payload_of(one(slow_once)), None)
    site.setup(None)
    records = site.evaluate("task", [{"a": float(a)} for a in range(64)])
    site._close()
    assert set(range(10)) <= set(records) <= set(range(13))  # what is left out goes to whoever is free
    assert all(float(record.outputs["y"]) == number for number, record in records.items())


# -------------------------------------------------------------------------------------------------------- bad processes
STUBBORN = """
import os, signal, subprocess, sys, time
for name in ("SIGTERM", "SIGINT", "SIGHUP"):
    signal.signal(getattr(signal, name), signal.SIG_IGN)
if len(sys.argv) > 1:
    child = subprocess.Popen([sys.executable, __file__], start_new_session=True)
    with open(sys.argv[1], "a") as file:
        file.write(f"{os.getpid()} {child.pid} ")
time.sleep(600)
"""


@pytest.mark.slow
def test_a_run_that_ignores_signals_and_forks_is_gone_after_its_deadline(client, tmp_path):
    script, pids = tmp_path / "stubborn.py", tmp_path / "pids"
    script.write_text(STUBBORN)

    def hang(a):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with open(pids, "a") as file:
            file.write(f"{os.getpid()} ")
        subprocess.run([sys.executable, script, pids])
        return a

    begin = time.monotonic()
    with pytest.warns(DataWarning, match="1 timeout"):
        table = run(one(hang, version="1"), {"a": [1.0]}, workers=client, timeout=1.0)
    assert table["state"].values[0] == RunState.TIMEOUT
    assert 1.0 <= table["seconds"].values[0] <= time.monotonic() - begin
    assert len(pids.read_text().split()) == 3
    assert alive(map(int, pids.read_text().split())) == []


@pytest.mark.slow
def test_a_run_that_is_called_off_ends_on_its_worker(client, tmp_path):
    pids = tmp_path / "pids"

    def slow_once(a):
        first = not pids.exists()
        with open(pids, "a") as file:
            file.write(f"{os.getpid()} ")
        time.sleep(60 if first else 0)
        return a

    with DaskBackend(client, payload_of(one(slow_once)), None) as backend:
        backend.submit(0, {"a": 1.0})
        assert backend.ended(0.1) == []
        wait_for(pids.exists)
        client.cancel([task.future for task in backend._tasks.values()])
        wait_for(lambda: not alive(map(int, pids.read_text().split()[:1])))
        records = []
        while not records:
            records = backend.ended(None)
    assert records[0][1].state == RunState.COMPLETED
    assert len(pids.read_text().split()) == 2


@pytest.mark.slow
def test_a_lost_dask_worker_costs_no_run(client, tmp_path):
    marker = tmp_path / "killed"

    def kills_its_dask_worker_once(a):
        time.sleep(0.05)
        if a == 5 and not marker.exists():
            marker.touch()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(5)
        return a

    table = run(one(kills_its_dask_worker_once, version="1"), {"a": np.arange(20.0)}, workers=client)
    assert marker.exists()
    assert (table["state"] == RunState.COMPLETED).all()
    np.testing.assert_array_equal(table["y"], np.arange(20.0))


@pytest.mark.slow
def test_a_point_that_ends_its_dask_worker_each_time_is_given_up_and_no_other(client, tmp_path):
    def kills_its_dask_worker(a):
        if a == 5:
            with open(tmp_path / "calls", "a") as file:
                file.write("x")
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(5)
        time.sleep(0.02)
        return a

    with pytest.warns(DataWarning, match="1 of 20 runs did not complete"):
        table = run(one(kills_its_dask_worker, version="1"), {"a": np.arange(20.0)}, workers=client)
    assert table["state"].values.tolist() == ["completed"] * 5 + [RunState.FAILED] + ["completed"] * 14
    assert (
        "lost 3 times on the Dask cluster; the last time, the Dask worker tcp://127.0.0.1:"
        in table["message"].values[5]
    )
    assert (tmp_path / "calls").read_text() == "xxx"
    wait_for(lambda: client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)) == 0)


@pytest.mark.slow
def test_a_dask_worker_that_has_stopped_loses_its_points_to_the_others(monkeypatch):
    monkeypatch.setattr("uqms.runs.dask._PATIENCE", 2.0)
    monkeypatch.setattr("uqms.runs._dask_site._BEATS", 3)  # on the scheduler, which is in this process
    # A cluster of its own: on a busy machine one that stood still may not come back to it.
    with local_cluster() as cluster, distributed.Client(cluster, set_as_default=False) as client:
        pid = next(iter(client.run(os.getpid).values()))
        try:
            with DaskBackend(client, payload_of(one(lambda a: time.sleep(0.1) or a)), 5.0) as backend:
                os.kill(pid, signal.SIGSTOP)
                records = drive(backend, [{"a": float(a)} for a in range(12)])
                os.kill(pid, signal.SIGCONT)
            assert {record.state for record in records.values()} == {RunState.COMPLETED}
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
def test_workers_that_have_fallen_silent_are_left_out(client, monkeypatch):
    asked, send = [], client.map
    monkeypatch.setattr(
        client, "map", lambda *args, **options: asked.append(options["workers"]) or send(*args, **options)
    )
    with DaskBackend(client, payload_of(one(lambda a: a)), None) as backend:
        lively = next(iter(backend._threads))
        backend._set_crew({lively: 1}, 1)
        assert drive(backend, [{"a": 1.0}])[0].state == RunState.COMPLETED
        backend._set_crew({lively: 1}, 0)
        assert drive(backend, [{"a": 2.0}])[0].state == RunState.COMPLETED
    assert asked == [[lively], None]


SCRIPT = """
import os, sys, time
import distributed
from uqms.runs import run
from uqms.simulators import FunctionSimulator

def slow(a):
    with open(PIDS, "a") as file:
        file.write(f"{os.getpid()} ")
    time.sleep(60)
    return a

with distributed.Client(sys.argv[1], set_as_default=False) as client:
    run(FunctionSimulator(slow, outputs={"y": ()}, version="1"), {"a": [1.0, 2.0]}, workers=client)
"""


@pytest.mark.slow
def test_runs_end_on_the_cluster_when_the_coordinator_is_killed(client, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT.replace("PIDS", repr(str(tmp_path / "pids"))))
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = subprocess.Popen([sys.executable, tmp_path / "script.py", client.scheduler.address], env=env)
    pids = tmp_path / "pids"
    wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    script.kill()
    script.wait()
    wait_for(lambda: not alive(map(int, pids.read_text().split())))
    wait_for(lambda: not processes(client))
    wait_for(lambda: not plugins(client))


# ---------------------------------------------------------------------------------------------------- kinds of clusters
@pytest.mark.slow
def test_workers_that_come_later_and_have_several_threads(tmp_path, caplog):
    def busy(a):
        time.sleep(0.2)
        return os.getpid()

    with local_cluster(n_workers=0) as cluster, distributed.Client(cluster) as client:
        begin = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address, "--no-nanny"]
        options = ["--nthreads", "3", "--no-dashboard", "--local-directory", str(tmp_path)]
        worker = None

        def join():
            nonlocal worker
            env = {**os.environ, "PYTHONPATH": str(ROOT)}
            worker = subprocess.Popen([*begin, *options], env=env, stderr=subprocess.DEVNULL)

        late = threading.Timer(1.0, join)
        late.start()
        try:
            with caplog.at_level("WARNING", logger="uqms"):
                table = run(one(busy), {"a": np.arange(9.0)}, workers=client)
            assert len(set(table["y"].values)) == 3
            assert "has no workers; the campaign waits" in caplog.text
            assert below(worker.pid) == []
        finally:
            late.join()
            worker.terminate()
            worker.wait()


@pytest.mark.slow
def test_threads_of_this_process_as_workers():
    with local_cluster(processes=False, n_workers=1, threads_per_worker=2) as cluster:
        with distributed.Client(cluster) as client, pytest.warns(DataWarning, match="exit code 5"):
            table = run(one(misbehave), {"a": [6.0, 7.0, 8.0]}, workers=client)
    np.testing.assert_array_equal(table["y"], [np.nan, 7.0, 8.0])


@pytest.mark.slow
def test_a_cluster_with_certificates():
    security = distributed.security.Security.temporary()
    with local_cluster(n_workers=1, security=security, protocol="tls://") as cluster:
        with distributed.Client(cluster, security=security) as client:
            assert client.scheduler.address.startswith("tls://")
            table = run(one(lambda a: a**2), {"a": [3.0]}, workers=client)
    assert table["y"].values[0] == 9.0


@pytest.mark.parametrize(
    ("scheduler", "listens", "worker", "refused"),
    [
        ("tcp://10.1.2.3:8786", "tcp://10.1.2.3:8786", "tcp://10.1.2.4:40001", "tcp://10.1.2.3:8786"),
        ("tcp://127.0.0.1:8786", "tcp://10.1.2.3:8786", "tcp://127.0.0.1:40001", "tcp://10.1.2.3:8786"),
        ("tcp://127.0.0.1:8786", "tcp://127.0.0.1:8786", "tcp://login.site:40001", "tcp://login.site:40001"),
        ("tcp://[fe80::1]:8786", "tcp://[fe80::1]:8786", "tls://10.1.2.4:40001", "tcp://[fe80::1]:8786"),
        ("ws://10.1.2.3:8786", "ws://10.1.2.3:8786", "tls://10.1.2.4:40001", "ws://10.1.2.3:8786"),
        ("tls://10.1.2.3:8786", "tls://10.1.2.3:8786", "tls://10.1.2.4:40001", None),
        ("tcp://[::1]:8786", "tcp://localhost:8786", "inproc://10.1.2.3/1/2", None),
    ],
)
def test_open_connections_between_machines_are_refused(monkeypatch, client, scheduler, listens, worker, refused):
    monkeypatch.setattr(client, "scheduler_info", lambda: {"address": listens})
    monkeypatch.setattr(client, "nthreads", lambda: {worker: 1})
    monkeypatch.setattr(client, "scheduler", type("Rpc", (), {"address": scheduler})())
    monkeypatch.setattr(uqms.runs.dask, "check_versions", stop := lambda client: (_ for _ in ()).throw(KeyError))
    assert stop
    backend = DaskBackend(client, b"", None)
    with pytest.raises(InputError if refused else KeyError) as told:
        backend.__enter__()
    if refused:
        assert f"uses {refused}, a connection between machines without encryption" in str(told.value)
        assert "Security.temporary()" in str(told.value)
    with pytest.raises(KeyError):
        DaskBackend(Dask(client, unencrypted=True), b"", None).__enter__()


@pytest.mark.parametrize("what", ["Python", "cloudpickle", "uqms", "scheduler"])
def test_other_versions_are_told_before_the_first_run(client, monkeypatch, what):
    told = client.get_versions(packages=["cloudpickle"])
    worker = next(iter(told["workers"]))
    if what == "Python":
        told["workers"][worker]["host"]["python"] = "3.9.1.final.0"
    if what == "cloudpickle":
        told["workers"][worker]["packages"]["cloudpickle"] = None
    if what == "uqms":
        monkeypatch.setattr(client, "run", lambda ask, on_error: {worker: "0.0"})
    monkeypatch.setattr(client, "get_versions", lambda packages: told)
    if what == "scheduler":
        monkeypatch.setattr(client, "run_on_scheduler", lambda ask: (_ for _ in ()).throw(ValueError("disallowed")))
        worker, what = "the scheduler", "uqms"
    words = rf"this process has {what} .*{worker}: (3.9|none|0.0|none, disallowed)\); install the same"
    with pytest.raises(InputError, match=words):
        run(one(lambda a: a), {"a": [1.0]}, workers=client)


def test_a_cluster_that_cannot_begin_is_left_clean(client, monkeypatch):
    monkeypatch.setattr("uqms.runs._dask_site.crew", None)
    with pytest.raises(TypeError):
        DaskBackend(client, b"", None).__enter__()
    assert plugins(client) == []


def test_what_is_no_client(client, monkeypatch):
    with pytest.raises(InputError, match="client is 3; give a distributed.Client"):
        Dask(3)
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(InputError, match=r'pip install "uqms\[dask\]"'):
            Dask(client)
    with monkeypatch.context() as patch:
        patch.setattr(type(client), "asynchronous", True)
        with pytest.raises(InputError, match="asynchronous"):
            Dask(client)
    other = distributed.Client(client.scheduler.address, set_as_default=False)
    other.close()
    with pytest.raises(InputError, match="the Dask client is closed"):
        run(one(lambda a: a), {"a": [1.0]}, workers=other)


def test_what_cannot_be_loaded_on_a_worker(client, tmp_path, monkeypatch):
    (tmp_path / "only_on_this_side.py").write_text("def f(a):\n    return a\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_on_this_side

    simulator = one(only_on_this_side.f, version="1")
    with pytest.raises(SimulatorFailed, match="cannot be loaded in a worker process .*only_on_this_side"):
        run(simulator, {"a": [1.0]}, workers=client)


@pytest.mark.slow
def test_a_scheduler_that_goes_ends_the_campaign_and_loses_nothing(tmp_path):
    with local_cluster(n_workers=1) as cluster:
        with distributed.Client(cluster.scheduler_address, set_as_default=False, timeout=GUARD) as client:

            def closes(a):
                (tmp_path / "calls").touch()
                time.sleep(0.1)
                return a

            def close():
                wait_for(lambda: (tmp_path / "calls").exists())
                time.sleep(0.5)
                cluster.close()

            threading.Thread(target=close).start()
            with pytest.raises(
                CampaignError, match=r"the Dask scheduler is gone .*Runs that had ended are in the store"
            ):
                run(one(closes, version="1"), {"a": np.arange(200.0)}, tmp_path / "runs.db", workers=client)
    with RunStore(tmp_path / "runs.db") as store:
        kept = len(store)
    assert 1 <= kept < 200
    table = run(one(lambda a: a, name="closes", version="1"), {"a": np.arange(200.0)}, tmp_path / "runs.db", workers=1)
    np.testing.assert_array_equal(table["y"], np.arange(200.0))
