"""What a run is said to take from the variance against what it takes when it is there."""

import numpy as np
import pytest

import uqms as uq
from uqms.errors import InputError
from uqms.surrogates.cokriging import CoKriging
from uqms.surrogates.fidelity.ladder import Ladder, Step
from uqms.surrogates.fidelity.proposing import POINTS
from uqms.surrogates.process import condition, sobol_points
from uqms.surrogates.training import Hyperparameters

SPACE = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
LEVELS = ("coarse", "fine")


def fitted(nested=True, cost=(1.0, 10.0), settings=uq.MultiFidelity):
    designs = uq.nested(SPACE, {"coarse": 12, "fine": 6}, rng=1)
    if not nested:
        designs["fine"] = uq.sobol(SPACE, 6, rng=2)
    parts = []
    for factor, (level, design) in enumerate(designs.items()):
        a, b = design["a"].values, design["b"].values
        y = np.sin(5.0 * a) + b * np.cos(3.0 * a) + 0.3 * factor * np.sin(4.0 * b)
        parts.append(uq.ensemble.build(design, {"y": y}, fidelity=level))
    given = settings(levels=LEVELS, hyperparameters="point", cost=dict(zip(LEVELS, cost, strict=True)))
    return given.fit(uq.ensemble.combine(*parts))


def again(process, x, y, more):
    """Return the process with further runs, its hyperparameters and variance kept."""
    one = Hyperparameters(process.ell[0, 0], 0.0, 0.0, 0.0, 0, False)
    return condition(process.kernel, x, y[:, None], process.beta.shape[2], [one], [process.variance[0, 0]], **more)


def variance(ladder):
    u = sobol_points(POINTS, 2)
    return float(np.mean(ladder.scores(u, diagonal=True).covariance[0, 0]))


def test_a_run_of_the_lowest_level_takes_what_is_said():
    surrogate = fitted()
    first, second = surrogate.ladder.steps
    v = np.array([0.83, 0.41])
    p = first.process
    mean = first.given(0, 0, v[None, None], None, True)[0][0]
    wider = again(p, np.vstack([p.x, v]), np.append(p.y[:, 0], mean), {})
    before, after = variance(surrogate.ladder), variance(Ladder((Step(wider, "plain"), second), np.zeros(1)))
    found = uq.next_level(surrogate, {"a": [v[0], 0.2], "b": [v[1], 0.9]})
    only = uq.next_level(surrogate, {"a": [v[0]], "b": [v[1]]})
    # The trend function of the higher level is the mean of the lower one, which a value that fits it does not move.
    assert only.table.loc["coarse", "reduction"] == pytest.approx(1.0 - after / before, rel=0.05)
    assert found.table.loc["coarse", "reduction"] >= only.table.loc["coarse", "reduction"]


def test_a_run_of_a_joint_process_takes_what_is_said():
    surrogate = fitted(nested=False)
    process = surrogate.process
    assert isinstance(process.kernel, CoKriging)
    v, before = np.array([0.83, 0.41]), variance(surrogate.ladder)
    found = uq.next_level(surrogate, {"a": [v[0]], "b": [v[1]]})
    for dummy, level in enumerate(LEVELS):
        x = np.vstack([process.x, [dummy, *v]])
        wider = again(process, x, np.append(process.y[:, 0], 0.0), {})
        after = variance(Ladder((Step(wider, "joint"),), np.zeros(1)))
        assert found.table.loc[level, "reduction"] == pytest.approx(1.0 - after / before, rel=1e-6)
        assert found.table.loc[level, "cost"] == (1.0, 10.0)[dummy]
    assert found.also == ()


@pytest.mark.parametrize("settings", [uq.MultiFidelity, uq.NonlinearMultiFidelity])
def test_costs_decide_which_level(settings):
    cheap = uq.next_level(fitted(cost=(1e-3, 1.0), settings=settings))
    assert cheap.level == "coarse"
    found = uq.next_level(fitted(cost=(1.0, 1e-3), settings=settings))
    assert found.level == "fine"
    assert found.table.loc["fine", "cost"] == pytest.approx(1e-3 + ("coarse" in found.also))
    assert "run 'fine' at a = " in str(found)
    assert 0.0 < found.table.loc["fine", "reduction"] < 1.0


def test_a_run_that_is_there_is_not_proposed():
    surrogate = fitted()
    x = surrogate.ladder.steps[0].process.x
    there = {"a": x[:, 0], "b": x[:, 1]}
    found = uq.next_level(surrogate, there)
    assert found.level == "fine"
    assert found.also == ()
    assert found.table.loc["coarse", "reduction"] == 0.0
    at = np.array([found.inputs["a"], found.inputs["b"]])
    assert not (np.abs(surrogate.process.x - at) < 1e-9).all(axis=1).any()


def test_costs_that_are_not_known():
    surrogate = fitted()
    with pytest.raises(InputError, match="give a positive number for each level"):
        uq.next_level(surrogate, cost={"coarse": 1.0})
    with pytest.raises(InputError, match="has no levels"):
        uq.next_level(object())
