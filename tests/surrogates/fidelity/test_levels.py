"""Curves of several levels on one basis, and what runs of each level cost."""

import numpy as np
import pytest

import uqms as uq
from uqms.surrogates.fidelity.levels import read_levels
from uqms.surrogates.outputs import Curve, Layout, fit_curves

TIME = np.linspace(0.0, 1.0, 12)


def curves(n, seed):
    """Return curves of two directions, and a wiggle of each run's own."""
    rng = np.random.default_rng(seed)
    smooth = rng.standard_normal((n, 1)) * np.cos(TIME) + rng.standard_normal((n, 1)) * TIME**2
    return smooth, 0.05 * rng.standard_normal((n, 12))


def test_scores_of_all_levels_are_on_one_basis():
    smooth, wiggle = curves(20, 1)
    low, high = smooth + wiggle, (2.0 * smooth + wiggle + 1.0)[:9]
    layout, partners = Layout(("t",), {"t": TIME}, ""), [[np.array([i]) for i in range(9)]]
    basis, (of_low, of_high) = fit_curves("c", layout, [low, high], partners, Curve())
    again = basis.offset + of_high @ basis.basis.T + basis.left_out @ basis.truncation.T
    np.testing.assert_allclose(high, again, atol=0.2)
    np.testing.assert_allclose((of_high**2).mean(axis=0), 1.0, rtol=1e-12)
    # Scores are those of least squares in the basis, about the mean of the level.
    for y, scores in ((low, of_low), (high, of_high)):
        solved = np.linalg.lstsq(basis.basis, (y - y.mean(axis=0)).T, rcond=None)[0].T
        np.testing.assert_allclose(scores, solved, atol=1e-8)


def test_what_the_basis_leaves_is_measured_without_the_lower_run_of_the_same_inputs():
    smooth, wiggle = curves(10, 2)
    low, high = smooth + wiggle, (smooth + wiggle)[:9]  # the lower level knows each run's wiggle
    layout = Layout(("t",), {"t": TIME}, "")
    honest, _ = fit_curves("c", layout, [low, high], [[np.array([i]) for i in range(9)]], Curve())
    leaking, _ = fit_curves("c", layout, [low, high], [[np.array([], dtype=int)] * 9], Curve())
    sizes = [np.sqrt(np.sum(basis.truncation**2)) for basis in (honest, leaking)]
    assert sizes[0] > 2.0 * sizes[1]


def ensemble(**more):
    designs = uq.nested(uq.ParameterSpace(a=uq.Uniform(0.0, 1.0)), {"low": 8, "high": 5}, rng=1)
    parts = [uq.ensemble.build(one, {"y": one["a"].values}, fidelity=level, **more) for level, one in designs.items()]
    return uq.ensemble.combine(*parts)


def test_costs_are_given_or_those_of_the_runs():
    runs = ensemble()
    assert read_levels(runs, ("low", "high"), {}, None).costs == {}
    runs["seconds"] = runs["seconds"].copy(data=np.repeat([2.0, 30.0], [8, 5]))
    assert read_levels(runs, ("low", "high"), {}, None).costs == {"low": 2.0, "high": 30.0}
    priced = runs.assign_coords(cost=("run", np.repeat([1.0, 7.0], [8, 5])))
    assert read_levels(priced, ("low", "high"), {}, None).costs == {"low": 1.0, "high": 7.0}
    given = read_levels(priced, ("low", "high"), {}, {"low": 3.0, "high": 4.0})
    assert given.costs == {"low": 3.0, "high": 4.0}
    assert given.below[1].tolist() == [0, 1, 2, 3, 4]
    assert given.y[0].std() == pytest.approx(1.0)
