from concurrent.futures.process import BrokenProcessPool

import pytest

from uqms.errors import CampaignError
from uqms.runs import Record, RunState, pool
from uqms.simulators import FunctionSimulator

POINTS = [{"a": float(a)} for a in range(5)]


def breaking(after):
    """Stand in for a pool that breaks after some results."""

    def one_pool(payload, left, workers, timeout):
        for count, (index, point) in enumerate(tuple(left.items())):
            if count == after:
                raise BrokenProcessPool("all workers expired")
            yield index, Record(RunState.COMPLETED, point["a"])

    return one_pool


@pytest.fixture
def simulator():
    return FunctionSimulator(lambda a: a, outputs={"y": ()})


def test_a_broken_pool_is_replaced_and_nothing_runs_twice(simulator, monkeypatch):
    monkeypatch.setattr(pool, "_one_pool", breaking(after=2))
    results = list(pool.in_processes(simulator, POINTS, 2, None))
    assert [(index, record.seconds) for index, record in results] == [(i, float(i)) for i in range(5)]


def test_a_pool_that_never_gives_a_result_is_given_up(simulator, monkeypatch):
    monkeypatch.setattr(pool, "_one_pool", breaking(after=0))
    with pytest.raises(CampaignError, match="ended 3 times before they gave a result .* 5 runs are left"):
        list(pool.in_processes(simulator, POINTS, 2, None))


def test_few_points_lie_ready_unless_they_are_fast():
    pace = pool._Pace(workers=2)
    assert pace.window == 2
    pace.saw(0.05)
    assert pace.window == 2
    for _ in range(60):
        pace.saw(0.001)
    assert pace.window == 2 * (1 + 20)
    for _ in range(100):
        pace.saw(0.0)
    assert pace.window == 2 * (1 + 64)
