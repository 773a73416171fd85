import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

import psutil
import pytest
from clocks import GUARD, wait_for

from uqms.errors import CampaignError, InputError
from uqms.runs import RunState, pool
from uqms.simulators import FunctionSimulator
from uqms.simulators.process_tree import MARK
from uqms.simulators.worker import Attempt


class Breaking:
    """Stand in for a pool that breaks after some results."""

    def __init__(self, after):
        self.left = after

    def schedule(self, function, args):
        if self.left == -1:
            raise RuntimeError("the pool is closed")
        future = Future()
        future.set_running_or_notify_cancel()
        if self.left == 0:
            self.left = -1
            future.set_exception(BrokenProcessPool("all workers expired"))
        else:
            self.left -= 1
            future.set_result(Attempt("completed", args[0]["a"], {}))
        return future

    def stop(self):
        pass

    join = stop


def local(monkeypatch, pools, workers=2):
    monkeypatch.setattr(pool.Local, "_new_pool", lambda self: pools.pop(0))
    return pool.Local(b"", workers, None)


def test_a_broken_pool_is_replaced_and_nothing_runs_twice(monkeypatch):
    with local(monkeypatch, [Breaking(2), Breaking(1), Breaking(9)], workers=9) as backend:
        for ticket in range(5):
            backend.submit(ticket, {"a": float(ticket)})
        results = []
        while len(results) < 5:
            results += [(ticket, record.seconds) for ticket, record in backend.ended(1.0)]
    assert sorted(results) == [(i, float(i)) for i in range(5)]


def test_what_waited_in_a_broken_pool_runs_in_the_next(monkeypatch):
    class Cancelling(Breaking):
        def schedule(self, function, args):
            future = super().schedule(function, args)
            if future.exception() is None:
                return future
            waiting = Future()
            waiting.cancel()
            return waiting

    with local(monkeypatch, [Cancelling(1), Breaking(9)], workers=9) as backend:
        for ticket in range(2):
            backend.submit(ticket, {"a": float(ticket)})
        results = []
        while len(results) < 2:
            results += [(ticket, record.state) for ticket, record in backend.ended(1.0)]
    assert sorted(results) == [(0, RunState.COMPLETED), (1, RunState.COMPLETED)]


def test_the_number_of_a_worker_that_belongs_to_somebody_else_now_is_left_alone(monkeypatch):
    monkeypatch.setattr(pool, "kill_session", lambda pid: pytest.fail("killed"))
    with local(monkeypatch, [Breaking(0)]) as backend:
        (backend._folder / "1").touch()  # the system's first process
        backend._sweep()
        assert backend._workers() == []
    assert pool._whose(os.getpid()) == "another's"
    child = subprocess.Popen(["sleep", "60"])
    assert pool._whose(child.pid) == "ours"
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert pool._whose(child.pid) == "nobody's"
    child.wait()


def test_a_pool_that_never_gives_a_result_is_given_up(monkeypatch):
    with local(monkeypatch, [Breaking(0), Breaking(0), Breaking(0)]) as backend:
        for ticket in range(4):
            backend.submit(ticket, {"a": 0.0})
        assert backend.ended(10.0) == []
        assert backend.ended(10.0) == []
        with pytest.raises(CampaignError, match="ended 3 times before they gave a result .* 4 runs have not ended"):
            backend.ended(10.0)


def test_few_points_lie_ready_unless_they_are_fast():
    pace = pool.Pace(workers=2)
    assert pace.window == 2
    pace.saw(0.05)
    assert pace.window == 2
    for _ in range(60):
        pace.saw(0.001)
    assert pace.window == 2 * (1 + 20)
    for _ in range(100):
        pace.saw(0.0)
    assert pace.window == 2 * (1 + 64)


def real(function, workers=1, timeout=None):
    return pool.Local(pool.payload_of(FunctionSimulator(function, outputs={"y": ()}, version="1")), workers, timeout)


def until_exists(path):
    """Return a function that ends when there is such a file."""

    def model(a):
        for _ in range(6000):
            if path.exists():
                break
            time.sleep(0.01)
        return a

    return model


def test_it_takes_what_its_workers_can_do_and_waits_no_longer_than_asked(tmp_path):
    with real(until_exists(tmp_path / "go"), workers=2) as backend:
        assert backend.free() == 2
        backend.submit(7, {"a": 0.6})
        assert backend.free() == 1
        assert backend.ended(0.0) == []  # one that waited longer would wait for ever
        assert backend.ended(0.1) == []
        (tmp_path / "go").touch()
        ((ticket, record),) = backend.ended(None)
        assert (ticket, record.state, record.outputs["y"]) == (7, RunState.COMPLETED, 0.6)
        assert backend.free() >= 2  # more when the run, which began late, was short


def test_leaving_ends_what_runs_with_all_that_it_started(tmp_path):
    def stubborn(a):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        (tmp_path / "pids").write_text(f"{os.getpid()} {child.pid}")
        time.sleep(600)

    with real(stubborn) as backend:
        backend.submit(0, {"a": 1.0})
        wait_for(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text())
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert all(psutil.pid_exists(pid) for pid in pids)
    assert not [pid for pid in pids if lives(pid)]
    assert not backend._folder.exists()


def lives(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_deadlines_do_not_follow_the_wall_clock(tmp_path, monkeypatch):
    with real(until_exists(tmp_path / "go"), timeout=2 * GUARD) as backend:
        backend.submit(0, {"a": 1.0})
        assert backend.ended(0.6) == []
        real_time = time.time
        monkeypatch.setattr(time, "time", lambda: real_time() + 86400.0)  # tomorrow
        assert backend.ended(0.6) == []
        (tmp_path / "go").touch()
        ((_, record),) = backend.ended(None)
    assert record.state == RunState.COMPLETED


def test_a_worker_that_is_stopped_is_ended_at_the_deadline():
    def stopped(a):
        os.kill(os.getpid(), signal.SIGSTOP)

    with real(stopped, timeout=0.3) as backend:
        backend.submit(0, {"a": 1.0})
        ((_, record),) = backend.ended(None)
    assert record.state == RunState.TIMEOUT
    assert "did not end within 0.3 s and was killed" in record.message


def test_what_a_broken_pool_had_given_or_ended_is_not_run_again(monkeypatch):
    sent = []

    class Late(Breaking):
        """Breaks with its first point, while the result of the second is on its way."""

        def schedule(self, function, args):
            sent.append(args[0]["a"])
            future = Future()
            future.set_running_or_notify_cancel()
            if args[0]["a"] == 0.0 and self.left:
                future.set_exception(BrokenProcessPool("all workers expired"))
            elif args[0]["a"] != 2.0:
                future.set_result(Attempt("completed", 0.1, {}))
            return future

    with local(monkeypatch, [Late(1), Late(0)], workers=9) as backend:
        for ticket in range(3):
            backend.submit(ticket, {"a": float(ticket)})
        backend._flying[2].overdue = True
        states = {}
        while len(states) < 2:
            states.update({ticket: record.state for ticket, record in backend.ended(1.0)})
    assert states == {0: RunState.COMPLETED, 1: RunState.COMPLETED}
    assert sent == [0.0, 1.0, 2.0, 0.0]


def ended_with(function, timeout=None):
    with real(function, timeout=timeout) as backend:
        backend.submit(0, {"a": 1.0})
        ((_, record),) = backend.ended(GUARD)
    return record


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_a_worker_that_ends_itself_with_code_0_has_failed(timeout):
    record = ended_with(lambda a: os._exit(0), timeout)
    assert record.state == RunState.FAILED
    assert record.message == "SimulatorFailed: the worker process died (exit code 0)"


class ExitsWhenLoaded:
    identity, outputs, coords, units, seed = {"name": "exits"}, {"y": ()}, {}, {}, None

    def __reduce__(self):
        return os._exit, (0,)


def test_workers_that_exit_with_code_0_while_they_load_are_given_up():
    with pool.Local(pool.payload_of(ExitsWhenLoaded()), 1, None) as backend:
        backend.submit(0, {"a": 1.0})
        assert backend.ended(GUARD) == backend.ended(GUARD) == []
        with pytest.raises(CampaignError, match="ended 3 times before they gave a result"):
            backend.ended(GUARD)


def leaving(path, environment, then):
    def model(a):
        child = subprocess.Popen(["sleep", "600"], start_new_session=True, env=environment(os.getpid()))
        path.write_text(str(child.pid))
        then()
        return 0.0

    return model


def test_what_a_completed_run_has_started_ends_with_the_campaign(tmp_path):
    record = ended_with(leaving(tmp_path / "pid", lambda pid: {"PATH": os.environ["PATH"]}, lambda: None))
    assert record.state == RunState.COMPLETED
    assert not lives(int((tmp_path / "pid").read_text()))


def test_what_the_programs_of_a_killed_worker_have_started_ends(tmp_path):
    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def environment(pid):
        return {"PATH": os.environ["PATH"], MARK: f"{pid}-1"}

    record = ended_with(leaving(tmp_path / "pid", environment, die))
    assert "SIGKILL" in record.message
    assert not lives(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("threads", ["", "auto", "0", "3,1"])
def test_numbers_of_threads_that_are_none_count_as_not_set(monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    got = ended_with(lambda a: float(os.environ["OMP_NUM_THREADS"].split(",")[0]))
    assert got.outputs["y"] == (3.0 if threads == "3,1" else 1.0)


HOLDS = """
import ctypes, os, sys
from uqms.runs import pool
from uqms.simulators import FunctionSimulator

def hold(a):
    with open(sys.argv[1], "w") as file:
        file.write(str(os.getpid()))
    ctypes.PyDLL(None).sleep(600)  # keeps the interpreter's lock

simulator = FunctionSimulator(hold, outputs={"y": ()}, version="1")
with pool.Local(pool.payload_of(simulator), 2, None) as backend:
    backend.submit(0, {"a": 1.0})
    backend.ended(None)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pipes do not send signals elsewhere")
def test_a_worker_that_holds_the_lock_does_not_outlive_a_killed_coordinator(tmp_path):
    file = tmp_path / "pid"
    coordinator = subprocess.Popen([sys.executable, "-c", HOLDS, file], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: file.exists() and file.read_text())
    finally:
        coordinator.kill()
        coordinator.wait()
    wait_for(lambda: not lives(int(file.read_text())))  # long before it would end by itself


def test_what_cannot_travel_is_told():
    with pytest.raises(InputError, match="cannot be sent to worker processes"):
        pool.payload_of(FunctionSimulator(sys.stdout.write, outputs={"y": ()}, version="1"))
