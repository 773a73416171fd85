"""Three kills for every change; ``benchmarks/kill_campaign.py`` makes more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from clocks import wait_for
from kill_campaign import RUNS, WORKERS, alive, finish_script, kill_once

import uqms


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return finish_script(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))])
def test_a_kill_loses_and_repeats_nothing_that_was_kept(tmp_path, seed, reference):
    outcome = kill_once(tmp_path, seed, reference)
    assert outcome.kept_and_repeated == 0
    assert outcome.repeated <= WORKERS
    assert not outcome.damaged
    assert not outcome.differs
    assert outcome.survivors == 0
    assert 0 < outcome.kept < RUNS


LONG = """
import os, time
from uqms.runs import run
from uqms.simulators import FunctionSimulator

def slow(a):
    print(os.getpid(), flush=True)
    time.sleep(600)
    return a

run(FunctionSimulator(slow, outputs={"y": ()}), {"a": [1.0, 2.0]}, workers=2)
"""


def test_workers_in_the_middle_of_a_long_run_end_with_the_coordinator(tmp_path):
    (tmp_path / "script.py").write_text(LONG)
    env = {**os.environ, "PYTHONPATH": str(Path(uqms.__file__).parents[1])}
    script = subprocess.Popen([sys.executable, tmp_path / "script.py"], env=env, stdout=subprocess.PIPE, text=True)
    pids = {int(script.stdout.readline()) for _ in range(2)}
    assert alive(pids) == 2
    script.kill()
    script.wait()
    script.stdout.close()
    wait_for(lambda: alive(pids) == 0)  # long before their runs end
