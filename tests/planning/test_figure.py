"""The figure of gains shows the numbers of the table."""

import numpy as np
import pytest
from planning.test_next_experiment import TIMES, exact, fitted

import uqms as uq
from uqms.errors import InputError


def test_the_figure_shows_gains_and_the_budget_curve() -> None:
    best = uq.next_experiment(fitted(), uq.candidates(times=TIMES, replicates=[1, 4]), size=2, rng=1)
    figure = uq.plots.next_experiment(best, labels={"time": "hours"})
    left, right = figure.axes
    lines = {line.get_label(): line for line in left.get_lines()}
    for often in (1, 4):
        rows = best.table[best.table["replicates"] == often]
        np.testing.assert_allclose(lines[f"replicates {often}"].get_ydata(), rows["gain"])
    np.testing.assert_allclose(lines["chosen"].get_xdata(), best.best["time"])
    expected = next(line for line in right.get_lines() if line.get_label() == "expected")
    np.testing.assert_allclose(expected.get_ydata(), [0.0, *best.best["gain"]])
    np.testing.assert_allclose(expected.get_xdata(), [0.0, *best.best["total_cost"]])
    assert left.get_xlabel() == "hours"
    assert "2 of them chosen" in figure.get_label()


def test_many_candidates_are_drawn_as_a_line() -> None:
    best = uq.next_experiment(exact(), uq.candidates(times=np.linspace(0.0, 12.0, 80)), size=1, rng=1)
    left, _ = uq.plots.next_experiment(best).axes
    assert next(line for line in left.get_lines() if line.get_label() == "each alone").get_marker() == ""


def test_something_else_is_refused() -> None:
    with pytest.raises(InputError, match="give what uq.next_experiment returned"):
        uq.plots.next_experiment(exact())  # type: ignore[arg-type]
