"""Densities and gradients are those that were frozen, problem by problem; `make.py` says how they are written."""

import json
from typing import Any

import numpy as np
import pytest

from tests.frozen.problems import PROBLEMS
from tests.frozen.values import VALUES, Target, log_likelihood

STORED: dict[str, Any] = json.loads(VALUES.read_text()) if VALUES.exists() else {}
VALUE, GRADIENT = 1e-9, 1e-7  # of 1 + |value|; of the gradient's norm


def test_every_problem_is_frozen() -> None:
    assert list(STORED) == list(PROBLEMS)
    pairs = [point for one in STORED.values() for kind in ("log_likelihood", "model") for point in one[kind]]
    assert len(pairs) >= 200
    assert sum(point.get("gradient") is not None for point in pairs) >= 150


@pytest.mark.parametrize("name", PROBLEMS)
def test_values_and_gradients_are_the_frozen_ones(name: str) -> None:
    problem = PROBLEMS[name]()
    for point in STORED[name]["log_likelihood"]:
        found = log_likelihood(problem, point)
        assert found == pytest.approx(point["value"], rel=0.0, abs=VALUE * (1.0 + abs(point["value"]))), point["theta"]
    target = Target(problem)
    for point in STORED[name]["model"]:
        value, slopes = target(point["point"])
        assert value == pytest.approx(point["value"], rel=0.0, abs=VALUE * (1.0 + abs(point["value"]))), point["point"]
        assert target.smooth == (point["gradient"] is not None)
        if target.smooth:
            assert set(slopes) == set(point["gradient"])
            found = np.concatenate([np.ravel(slopes[key]) for key in point["gradient"]])
            wanted = np.concatenate([np.ravel(one) for one in point["gradient"].values()])
            assert np.linalg.norm(found - wanted) <= GRADIENT * np.linalg.norm(wanted), point["point"]
