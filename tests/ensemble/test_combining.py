"""Runs of several designs in one table: nothing is lost, and what does not belong together is refused."""

import json

import numpy as np
import pytest
import xarray as xr

import uqms as uq
from uqms.errors import DataError, InputError

SPACE = uq.ParameterSpace(a=uq.Normal(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
DAYS = np.array([0.0, 1.0, 3.0])


def runs(n: int, box: uq.Box | None = None, **changed: object) -> xr.Dataset:
    """Return n runs with a number and a curve; the last one failed."""
    design = uq.sobol(SPACE, n, rng=n, over=box)
    curve = design["a"].values[:, None] * DAYS
    outputs = {"y": design["b"].values, "c": ("day", curve, DAYS), **changed}
    states = ["completed"] * (n - 1) + ["failed"]
    return uq.ensemble.build(design, outputs, states=states, messages=[f"run {i} of {n}" for i in range(n)])


SMALL = uq.Box(("a", "b"), (-0.5, 0.25), (0.5, 0.75))


def test_all_runs_are_there_with_the_box_of_the_newest() -> None:
    first, second = runs(8), runs(4, SMALL)
    both = uq.ensemble.combine(first, second)
    uq.ensemble.check(both)
    for name in ("a", "b", "y", "state", "message"):
        np.testing.assert_array_equal(both[name].values, np.concatenate([first[name].values, second[name].values]))
    np.testing.assert_array_equal(both["c"].values, np.vstack([first["c"].values, second["c"].values]))
    assert both["c"].attrs == second["c"].attrs
    assert both.attrs["design"] == second.attrs["design"]
    assert uq.ensemble.get_box(both) == SMALL
    assert uq.ensemble.combine(first).equals(first)


def test_runs_inside_of_the_box() -> None:
    both = uq.ensemble.combine(runs(64), runs(4, SMALL))
    a, b = both["a"].values, both["b"].values
    expected = np.flatnonzero((np.abs(a) <= 0.5) & (b >= 0.25) & (b <= 0.75))
    kept = uq.ensemble.inside(both)
    assert 4 < len(expected) < 40
    assert kept.equals(both.isel(run=expected))
    assert kept.attrs == both.attrs
    wider = np.flatnonzero((np.abs(a) <= 0.6) & (b >= 0.2) & (b <= 0.8))
    assert len(wider) > len(expected)
    kept = uq.ensemble.inside(both, margin=0.1)
    assert kept.equals(both.isel(run=wider))
    assert uq.ensemble.get_box(kept) == SMALL
    with pytest.raises(InputError, match="give a fraction of the box's width"):
        uq.ensemble.inside(both, margin=-0.1)
    far = uq.Box(("a", "b"), (50.0, 0.25), (51.0, 0.75))
    with pytest.raises(DataError, match="none of the 8 runs lies inside"):
        uq.ensemble.inside(uq.ensemble.combine(runs(8)).assign_attrs(box=json.dumps(far.to_dict())))


def test_what_does_not_belong_together_is_refused() -> None:
    first = runs(8)
    with pytest.raises(DataError, match="no ensemble was given"):
        uq.ensemble.combine()
    with pytest.raises(DataError, match="ensemble 0 has the outputs 'y', 'c', but the last ensemble has 'y', 'c', 'z'"):
        uq.ensemble.combine(first, runs(4, z=np.zeros(4)))
    with pytest.raises(DataError, match="the coordinates 'day' of 'c' differ between ensemble 0 and the last"):
        uq.ensemble.combine(first, runs(4, c=("day", np.zeros((4, 3)), DAYS + 1.0)))
    hours = first.assign(y=first["y"].assign_attrs(unit="h"))
    with pytest.raises(DataError, match="'y' has the unit 'h' in ensemble 0 but '' in the last ensemble"):
        uq.ensemble.combine(hours, first)
    seeded = first.assign(seed=("run", np.arange(8), {"role": "seed"}))
    with pytest.raises(DataError, match="only one of ensemble 0 and the last ensemble has 'seed'"):
        uq.ensemble.combine(seeded, first)
