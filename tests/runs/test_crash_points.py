"""Fifty coordinators are killed; ``benchmarks/kill_campaign.py`` kills more."""

import pytest
from crash_points import POINTS, Helper, Kill, kill_once, kills, whole


@pytest.fixture(scope="module")
def helper():
    with Helper() as helper:
        yield helper


@pytest.fixture(scope="module")
def reference(helper, tmp_path_factory):
    return whole(helper, tmp_path_factory.mktemp("reference") / "whole")


@pytest.mark.slow
def test_fifty_kills_lose_and_repeat_nothing_that_was_acknowledged(helper, reference, tmp_path):
    every = kills(50)
    assert len(every) == 50
    assert sum(kill.point is None for kill in every) == 14
    assert all(sum(kill.point == point for kill in every) == 3 for point in POINTS)
    outcomes = [kill_once(helper, kill, tmp_path / str(i), reference) for i, kill in enumerate(every)]
    for kill, outcome in zip(every, outcomes, strict=True):
        wrong = (outcome.lost, outcome.repeated, outcome.duplicates, outcome.damaged, outcome.differs)
        assert wrong == (0, 0, 0, 0, 0), kill
        assert outcome.killed or kill.point is None, kill
    assert sum(outcome.killed for outcome in outcomes[36:]) >= 10
    assert sum(0 < outcome.acknowledged < 20 for outcome in outcomes[36:]) >= 3  # in the middle of the runs
    assert sum(outcome.acknowledged for outcome in outcomes) > 250


@pytest.mark.parametrize(
    ("plant", "point", "seen"),
    [
        ("acknowledged early", "after INSERT, before COMMIT", "lost"),
        ("no transaction", "in the middle of an upgrade", "damaged"),
        ("nothing is found", "after COMMIT, before put returns", "repeated"),
    ],
)
def test_planted_bugs_are_seen(helper, reference, tmp_path, plant, point, seen):
    outcome = kill_once(helper, Kill(point, nth=5), tmp_path / "bug", reference, plant)
    assert outcome.killed
    assert getattr(outcome, seen) > 0
