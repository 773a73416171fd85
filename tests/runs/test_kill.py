"""Three kills for every change; ``benchmarks/kill_runs.py`` makes more."""

import pytest
from kill_runs import RUNS, WORKERS, finish_script, kill_once


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return finish_script(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_kill_loses_and_repeats_nothing_that_was_kept(tmp_path, seed, reference):
    outcome = kill_once(tmp_path, seed, reference)
    assert outcome.kept_and_repeated == 0
    assert outcome.repeated <= WORKERS
    assert not outcome.damaged
    assert not outcome.differs
    assert outcome.survivors == 0
    assert 0 < outcome.kept < RUNS
