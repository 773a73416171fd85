"""Programs under supervision, and the killing of what they leave behind. Survivors are counted from outside."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from clocks import GUARD, Clock, Leaping, wait_for
from hanging import NAMELESS, SCRIPT, campaign, living, numbers

import uqms
from uqms.runs import RunState
from uqms.simulators import deadline as deadlines
from uqms.simulators import process_tree as processes
from uqms.simulators.deadline import deadline
from uqms.simulators.executable import supervised
from uqms.simulators.executable.supervised import _End, supervise

PATH = {"PATH": os.environ["PATH"]}


@pytest.fixture
def number():
    chosen = numbers(1)[0]
    yield chosen
    processes.end_all(lambda _: living(chosen))  # when a test fails


@pytest.fixture
def go(tmp_path):
    runs = iter(range(100))

    def start(*command, **options):
        log = tmp_path / f"log{next(runs)}"
        return supervise(command, folder=tmp_path, environment=PATH, log=log, **options)

    return start


def shell(script, number, **options):
    return subprocess.Popen(["sh", "-c", script, "sh", f"{number:.0f}"], start_new_session=True, **options)


def elsewhere(script, *arguments, number=0.0):
    """Run Python in a process of its own: one that is changed, or that might be killed."""
    code = f"import os, subprocess, sys, time\nfrom uqms.simulators.process_tree import *\n{script}"
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(uqms.__file__).parents[1]), "benchmarks"]),
        "NUMBER": f"{number:.0f}",
    }
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=2 * GUARD).stdout


# ------------------------------------------------------------------------------------------------------------- killing
TREE = 'trap "" TERM; (sh -c \'sleep "$0" & sleep "$0"\' "$1" &) ; sleep "$1" & sleep "$1" & wait'
FORKS = 'trap "" TERM; while :; do (sleep "$1" & sleep "$1") & done'


@pytest.mark.parametrize("script", [TREE, FORKS])
def test_kill_session_leaves_nothing_even_of_a_program_that_keeps_forking(number, script):
    program = shell(script, number)
    wait_for(lambda: len(living(number)) >= 5)
    processes.kill_session(program.pid)
    assert living(number) == set()
    assert program.wait(GUARD) == -signal.SIGKILL


def test_kill_tree_leaves_nothing_of_a_program_that_keeps_forking(number):
    # What it forks between being seen and being killed would go to another parent, out of the tree.
    for _ in range(3):
        program = shell('while :; do sleep "$1" & done', number)
        wait_for(lambda: len(living(number)) >= 5)
        processes.kill_tree(program.pid)
        program.wait(GUARD)
        assert living(number) == set()


def test_kill_tree_is_patient_where_a_look_takes_longer_than_its_patience(number, monkeypatch):
    # As on a busy machine with thousands of processes: what is forked during a look turns up in the next one.
    def slow():
        seen = look()
        if clock.now == 0.0:
            wait_for(lambda: living(number) - seen.keys())
        clock.now += 1.5 * processes._PATIENCE
        return seen

    look, clock = processes.snapshot, Clock()
    program = shell('while :; do sleep "$1" & sleep 0.02; done', number)
    wait_for(lambda: len(living(number)) >= 3)
    monkeypatch.setattr(processes, "snapshot", slow)
    monkeypatch.setattr(processes, "time", clock)
    processes.kill_tree(program.pid)
    program.wait(GUARD)
    wait_for(lambda: not living(number))  # a killed process is gone a moment later; one that was not found stays


def test_what_does_not_die_and_what_goes_on_to_appear_ends_the_patience(monkeypatch):
    def look():
        clock.now += 0.05
        return dict.fromkeys(range(2, 3000), there)

    clock = Clock()
    monkeypatch.setattr(processes, "time", clock)
    monkeypatch.setattr(processes, "_send", lambda pid, what: True)
    there = processes.Process(parent=1, session=0, lives=True)
    monkeypatch.setattr(processes, "snapshot", look)
    assert processes.end_all(lambda _: {2}) == {2}
    assert processes._PATIENCE <= clock.now < processes._PATIENCE + 0.5
    more, clock.now = iter(range(3, 3000)), 0.0
    processes.end_all(lambda _: {next(more)} if clock.now < 300.0 else set())
    assert processes._LONGEST <= clock.now < processes._LONGEST + 0.5


def test_what_waits_for_a_processor_is_not_killed_before_its_fork_is_seen(monkeypatch):
    # Stopped at the first look, it goes on to wait for a processor, and then ends the fork that it had begun.
    def look():
        looks.append(1)
        found = {2: processes.Process(1, 0, lives=True, runs=len(looks) < 6)}
        if len(looks) > 5:  # an orphan goes to another parent, out of the tree
            found[3] = processes.Process(1 if 2 in killed else 2, 0, lives=True)
        return {pid: process for pid, process in found.items() if pid not in killed}

    def send(pid, what):
        if what is signal.SIGKILL:
            killed.add(pid)
        return True

    looks, killed = [], set()
    monkeypatch.setattr(processes, "_send", send)
    monkeypatch.setattr(processes, "snapshot", look)
    assert processes.end_all(lambda seen: processes.family(seen, [2]) & seen.keys()) == {2, 3}


def test_kill_tree_finds_the_orphans_of_sessions_that_the_tree_has_started(monkeypatch):
    # 2 leads a session and dies although 3, which it has forked meanwhile, was not seen yet; 4 is somebody else's.
    def look():
        orphan = {3: processes.Process(1, 2, lives=True)} if 2 in killed else {}
        found = {2: processes.Process(9, 2, lives=True), 4: processes.Process(1, 9, lives=True)} | orphan
        return {pid: process for pid, process in found.items() if pid not in killed}

    def send(pid, what):
        if what is signal.SIGKILL:
            killed.add(pid)
        return True

    killed = set()
    monkeypatch.setattr(processes, "_send", send)
    monkeypatch.setattr(processes, "snapshot", look)
    processes.kill_tree(2)
    assert killed == {2, 3}


@pytest.mark.parametrize("itself", [True, False])
def test_kill_tree(number, itself):
    program = shell(
        'sleep "$1" & setsid sh -c \'sleep "$0" & wait\' "$1" & wait; read line', number, stdin=subprocess.PIPE
    )
    wait_for(lambda: len(living(number)) >= 4)
    processes.kill_tree(program.pid, itself=itself)
    left = living(number)
    processes.kill_session(program.pid)
    program.communicate(timeout=GUARD)
    # Without its children, the shell goes on.
    assert (program.pid in left) is not itself
    assert itself is (left == set())
    processes.kill_tree(program.pid)  # one that has ended is no error


def test_kill_tree_of_the_caller_ends_the_caller_last():
    script = 'p = subprocess.Popen(["sleep", "60"]); print(p.pid, flush=True); kill_tree(os.getpid()); print("alive")'
    code = f"import os, subprocess\nfrom uqms.simulators.process_tree import *\n{script}"
    env = {**os.environ, "PYTHONPATH": str(Path(uqms.__file__).parents[1])}
    ended = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL
    (child,) = ended.stdout.split()
    wait_for(lambda: int(child) not in processes.snapshot())


def test_kill_session_spares_the_caller():
    told = elsewhere(
        'os.setsid(); p = subprocess.Popen(["sleep", "60"]); kill_session(os.getpid()); print("alive", p.wait())'
    )
    assert told.split() == ["alive", "-9"]


@pytest.mark.slow
def test_daemons_stay_descendants_of_a_subreaper(number):
    script = """
become_subreaper()
subprocess.run(["sh", "-c", '(setsid sh -c "sleep $1 & sleep $1" &)', "sh", os.environ["NUMBER"]])
from hanging import living
until = time.monotonic() + 60.0
while len(living(float(os.environ["NUMBER"]))) < 2 and time.monotonic() < until:
    time.sleep(0.01)
before = len(living(float(os.environ["NUMBER"])))
kill_tree(os.getpid(), itself=False)
print(is_subreaper(), before, len(living(float(os.environ["NUMBER"]))))
"""
    assert elsewhere(script, number=number).split() == ["True", "2", "0"]


def test_what_outlived_a_killed_worker_is_found_by_its_mark(number):
    env = {**PATH, processes.MARK: "999999991-1"}
    shell('(setsid sh -c \'sleep "$0" & wait\' "$1" &)', number, env=env).wait()
    wait_for(lambda: len(living(number)) == 2)
    processes.kill_runs_of(99999999)
    processes.kill_runs_of(99999991)
    assert len(living(number)) == 2
    processes.kill_runs_of(999999991)
    assert living(number) == set()


def test_other_systems_see_the_same_processes(number):
    pytest.importorskip("psutil")
    program = subprocess.Popen(["sleep", f"{number:.0f}"], start_new_session=True, env={**PATH, processes.MARK: "7-x"})
    try:
        wait_for(lambda: not processes.snapshot()[program.pid].runs)  # it sleeps
        seen = processes._portable_snapshot()[program.pid]
        assert seen == processes.snapshot()[program.pid] == (os.getpid(), program.pid, True, False)
        assert f"{processes.MARK}=7-x" in processes._portable_environment(program.pid)
        program.kill()
        wait_for(lambda: not processes.snapshot()[program.pid].lives)
        assert not processes._portable_snapshot()[program.pid].lives
    finally:
        program.kill()
        program.wait()
    assert processes._portable_environment(program.pid) == []


# --------------------------------------------------------------------------------------------------------- supervision
def test_a_program_that_ends(go, tmp_path):
    ended = go("sh", "-c", "echo out; echo bad >&2; cat; pwd; exit 3")
    assert (ended.returncode, ended.timed_out, ended.log_too_large, ended.left) == (3, False, False, 0)
    assert ended.tail == f"out\nbad\n{tmp_path}"
    assert (tmp_path / "log0").read_text() == ended.tail + "\n"


def test_a_program_leads_a_session_of_its_own(go):
    # Neither the terminal's interrupt nor a signal to the caller's group reaches it.
    code = "import os; print(os.getsid(0) == os.getpgid(0) == os.getpid())"
    assert go(sys.executable, "-SEc", code).tail == "True"


def test_arguments_and_environment_arrive_as_they_are(go):
    strange = ["$(touch canary)", "`id`", "; rm x", "a\nb", "{{7*7}}", "*", "-n", "", "'\""]
    ended = go(sys.executable, "-SEc", "import sys, os; print(sys.argv[1:], sorted(os.environ))", *strange)
    assert ended.tail == f"{strange} {['LC_CTYPE', 'PATH', processes.MARK]}"


def test_the_tail_is_short_and_moves_no_cursor(go):
    ended = go(
        sys.executable,
        "-SEc",
        "import sys; [print(i) for i in range(99)]; sys.stdout.flush(); sys.stdout.buffer.write(b'\\x1b[2J\\xff\\0z')",
    )
    assert ended.tail.splitlines() == [*map(str, range(80, 99)), "?[2J\ufffd?z"]
    long = go(sys.executable, "-SEc", "print('x' * 100_000)")
    assert long.tail == "x" * 2000


def test_a_signal_is_a_negative_code(go):
    assert go("sh", "-c", "kill -SEGV $$").returncode == -signal.SIGSEGV


def test_the_simulator_behind_a_wrapper_script_ends_too(go, number, tmp_path, monkeypatch):
    # subprocess.run(timeout=) in place of `supervise` leaves it running.
    monkeypatch.setattr(supervised, "time", Leaping(lambda: len(living(number)) >= 2))
    (tmp_path / "wrapper.sh").write_text(f"echo begin\nsh -c 'sleep \"$0\"' {number:.0f} | cat\necho end\n")
    ended = go("sh", "wrapper.sh", timeout=GUARD)
    assert (ended.timed_out, ended.returncode, ended.tail) == (True, -9, "begin")
    assert ended.seconds >= 3600.0  # by the clock that leapt
    assert ended.left >= 2
    assert living(number) == set()


def test_the_deadline_of_the_run_counts_too_and_comes_a_little_earlier(go, monkeypatch):
    with deadline(0.25):  # programs that were not ended at the deadline would end by themselves
        assert go("sleep", "30").timed_out
        assert go("sleep", "30", timeout=600).timed_out  # with nothing left
    assert not go("sleep", "0.05", timeout=GUARD).timed_out
    still = Clock()
    monkeypatch.setattr(deadlines, "time", still)
    monkeypatch.setattr(supervised, "time", still)
    monkeypatch.setattr(supervised, "_wait", lambda program, until, *_: seen.append(until) or "deadline")
    seen = []
    with deadline(0.25):
        go("sleep", "60")
    assert 0.0 < seen[0] == 0.25 - supervised._TOLD_BEFORE < 0.25


@pytest.mark.parametrize(
    "daemon", ['sleep "$0" &', 'env -i sleep "$0" &', '(setsid sh -c \'sleep "$0" & sleep "$0"\' "$0" &)']
)
def test_a_program_that_ends_by_itself_leaves_nothing(go, number, daemon):
    ended = go("sh", "-c", f"{daemon}\nsleep 0.02\necho done", f"{number:.0f}")
    assert (ended.returncode, ended.tail) == (0, "done")
    assert ended.left >= 1
    assert living(number) == set()


SUPERVISED = """
import threading
from pathlib import Path
from hanging import NAMELESS, SCRIPT, living
from uqms.simulators.executable.supervised import supervise
number = float(os.environ["NUMBER"])
folder = Path(sys.argv[1])
def wait_for(condition):
    until = time.monotonic() + 60.0
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
def go(script, log, **options):
    command = ["sh", "-c", script, "sh", f"{number:.0f}"]
    return supervise(command, folder=folder, environment={"PATH": os.environ["PATH"]}, log=folder / log, **options)
"""


@pytest.mark.slow
def test_in_a_worker_a_nameless_daemon_ends_too_and_no_zombie_stays(number, tmp_path):
    script = f"""{SUPERVISED}
become_subreaper()
ended = go({NAMELESS!r} + "; sleep 0.05", "log", timeout=60)
children = [p for p in snapshot().values() if p.parent == os.getpid()]
print(ended.returncode, ended.left, len(living(number)), len(children))
"""
    assert elsewhere(script, tmp_path, number=number).split() == ["0", "3", "0", "0"]


@pytest.mark.slow
def test_runs_in_two_threads_leave_each_other_and_other_children_alone(number, tmp_path):
    script = f"""{SUPERVISED}
become_subreaper()
def short_run(log):  # it goes on until somebody says that it may end
    go('(setsid sleep "$1" &); touch runs; until [ -e may-end ]; do sleep 0.01; done', log, timeout=60)
    for name in ("runs", "may-end"):
        (folder / name).unlink()
    (folder / "ended").touch()
def during_a_short_run(log, do):
    thread = threading.Thread(target=short_run, args=(log,))
    thread.start()
    wait_for((folder / "runs").exists)
    got = do()
    thread.join()
    return got
def start():
    process = subprocess.Popen(["sleep", "600"])
    (folder / "may-end").touch()
    return process
bystander = during_a_short_run("one", start)
(folder / "ended").unlink()
wait_for(lambda: not living(number))
print(len(living(number)))
outlives = "touch may-end; until [ -e ended ]; do sleep 0.01; done; echo whole"
long = during_a_short_run("two", lambda: go(outlives, "long", timeout=60))
print(long.tail, long.returncode, bystander.poll(), len(living(number)))
bystander.kill()
bystander.wait()
"""
    assert elsewhere(script, tmp_path, number=number).split() == ["0", "whole", "0", "None", "0"]


def test_an_interrupt_leaves_nothing(go, number):
    def interrupt(*_):
        raise KeyboardInterrupt

    def alarm():
        wait_for(lambda: len(living(number)) >= 5)
        os.kill(os.getpid(), signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, interrupt)
    thread = threading.Thread(target=alarm)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            go("sh", "-c", SCRIPT.format(daemon=""), "sh", f"{number:.0f}")
        assert living(number) == set()
    finally:
        thread.join()
        signal.signal(signal.SIGALRM, before)


def test_a_log_that_grows_without_end_ends_the_program(go, tmp_path):
    ended = go("yes", timeout=GUARD, log_limit=100_000)
    assert (ended.log_too_large, ended.timed_out) == (True, False)
    assert (tmp_path / "log0").stat().st_size == 100_000
    quick = go("sh", "-c", "head -c 200000 /dev/zero", log_limit=100_000)  # ended before anybody looked
    assert quick.log_too_large


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_memory_is_limited(go):
    ended = go(sys.executable, "-SEc", "x = bytearray(10**9); print('got it')", memory=2 * 10**8)
    assert ended.returncode == 1
    assert "MemoryError" in ended.tail
    strange = ["$(touch canary)", "`id`", "; rm x", "a\nb", "*", "-n", "", "'\""]
    enough = go(
        sys.executable, "-SEc", "import sys; x = bytearray(10**6); print(sys.argv[1:])", *strange, memory=2 * 10**8
    )
    assert enough.tail == str(strange)


def test_what_cannot_be_started_raises_and_leaves_nothing(go, tmp_path):
    with pytest.raises(FileNotFoundError):
        go(str(tmp_path / "nothing"))
    (tmp_path / "old").write_text("")
    with pytest.raises(FileExistsError):
        supervise(["true"], folder=tmp_path, environment=PATH, log=tmp_path / "old")


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="elsewhere the end is looked for again and again")
def test_the_end_of_a_program_is_told_by_the_system():
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as program, _End(program) as end:
        assert end.handle >= 0
        assert not end.within(0.0)
        program.stdin.close()
        assert end.within(GUARD)
        assert program.returncode is None  # nobody has waited for it: its number cannot belong to another one yet


@pytest.mark.slow
def test_hanging_simulators_are_gone_at_their_deadline(tmp_path):
    ensemble, seen, left = campaign(10, tmp_path)
    assert (ensemble["state"].values == RunState.TIMEOUT).all()
    told = r"SimulatorTimeout: sh did not end within 0\.\d+ s; it was killed with \d+ processes that it had started\."
    late = r"SimulatorTimeout: the run did not end within 0\.3 s and was killed"  # by the worker, on a busy machine
    assert all(re.match(f"{told}|{late}", message) for message in ensemble["message"].values)
    assert seen
    assert left == 0
    assert list(tmp_path.iterdir()) == []


def test_threads_of_this_process_end(go):
    before = threading.active_count()
    go("true")
    assert threading.active_count() == before
