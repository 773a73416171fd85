import numpy as np
import pytest
import xarray as xr

import uqms as uq
import uqms.ensemble as en
from uqms.designs import sobol
from uqms.errors import DataError, DataWarning
from uqms.parameters import Condition, LogNormal, Normal, ParameterSpace, Uniform


def table(design, lost, word="failed"):
    return en.build(design, {"y": np.zeros(len(lost))}, states=np.where(lost, word, "completed"))


@pytest.fixture
def space():
    return ParameterSpace(
        conditions={"x": Condition(0.0, 1.0)}, a=Uniform(0, 1, unit="mg"), b=Uniform(0, 1), c=Uniform(0, 1)
    )


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_share_and_region_of_a_corner(space, share):
    design = sobol(space, 1024, rng=1)
    side = np.sqrt(share)
    lost = (design["a"].values > 1 - side) & (design["b"].values < side)
    told = en.failures(table(design, lost))
    assert told.counts.get("failed", 0) == told.lost == lost.sum()
    assert told.share == lost.mean()
    assert told.share == pytest.approx(share, abs=0.01)
    assert told.interval[0] <= share <= told.interval[1]
    assert told.of_prior
    if not share:
        assert told.region == ()
        return
    sides = {s.input: s for s in told.region}
    assert set(sides) == {"a", "b"}
    assert sides["a"].above
    assert not sides["b"].above
    assert sides["a"].value == pytest.approx(1 - side, abs=0.01)
    assert sides["b"].value == pytest.approx(side, abs=0.01)
    assert sides["a"].unit == "mg"
    assert told.caught == told.inside == told.lost


def test_wilson_interval_by_hand():
    told = en.failures(table({"a": np.arange(10.0)}, np.arange(10) < 2))
    # Newcombe 1998 gives these limits for 2 of 10.
    assert told.interval == pytest.approx((0.0567, 0.5098), abs=2e-4)
    assert not told.of_prior
    assert told.region == ()  # two failures say nothing of a region
    whole = en.failures(table({"a": np.arange(10.0)}, np.zeros(10, bool)))
    assert whole.interval == pytest.approx((0.0, 0.2775), abs=2e-4)


def test_points_spread_over_a_box_are_weighted_by_the_prior():
    space = ParameterSpace(a=LogNormal(median=2.0, sigma=0.5), b=Normal(0.0, 1.0))
    design = sobol(space, 4096, rng=1, over=space.box())
    # Half of the prior lies above its median, whatever the spread of the points.
    for name, median in (("a", 2.0), ("b", 0.0)):
        assert en.failures(table(design, design[name].values > median)).share == pytest.approx(0.5, abs=0.01)
    edge = design["a"].values > 2.0 * np.exp(0.5)  # one standard deviation
    told = en.failures(table(design, edge))
    assert told.share == pytest.approx(0.1587, abs=0.005)
    assert edge.mean() > 0.25
    even = sobol(space, 4096, rng=1)
    assert en.failures(table(even, even["a"].values > 2.0 * np.exp(0.5))).share == pytest.approx(0.1587, abs=0.002)


def test_replicates_count_as_one_point():
    a = np.repeat([1.0, 2.0, 3.0, 4.0], [1, 9, 1, 1])
    told = en.failures(table({"a": a}, np.isin(a, [2.0])))
    assert told.share == 0.25
    single = en.failures(table({"a": np.arange(4.0)}, np.arange(4) == 1))
    assert told.interval == single.interval


def test_partial_and_planned_runs_are_no_failures():
    states = ["failed"] * 2 + ["timeout"] + ["invalid"] + ["partial"] * 2 + ["completed"] * 4 + ["planned"] * 5
    n = len(states)
    y = np.zeros((n, 2))
    y[4:6, 1] = np.nan
    told = en.failures(en.build({"a": np.arange(float(n))}, {"y": ("t", y, [0.0, 1.0])}, states=states))
    assert told.lost == 4
    assert told.share == 0.4
    assert told.counts == {"planned": 5, "completed": 4, "failed": 2, "timeout": 1, "invalid": 1, "partial": 2}
    assert str(told).startswith(
        "15 runs: 5 planned, 4 completed, 2 failed, 1 timeout, 1 invalid, 2 partial\nNo outputs for 40.0%"
    )


def test_a_constant_input_is_no_side():
    a = np.linspace(0, 1, 40)
    told = en.failures(table({"k": np.ones(40), "a": a}, a > 0.7))
    assert [s.input for s in told.region] == ["a"]


def test_chance_failures_have_no_region():
    rng = np.random.default_rng(3)
    design = {"a": rng.uniform(size=2000), "b": rng.uniform(size=2000)}
    told = en.failures(table(design, rng.uniform(size=2000) < 0.3))
    assert all(told.inside > 500 for _ in told.region)  # at most a half of the box, by luck
    assert len(told.region) <= 1


def test_outputs_may_have_stayed_in_the_store(tmp_path):
    def fails(a):
        if a > 0.75:
            raise ValueError("too large")
        return a

    simulator = uq.FunctionSimulator(fails, outputs={"y": ()}, version="1")
    design = sobol(ParameterSpace(a=Uniform(0, 1)), 32, rng=1)
    with pytest.warns(DataWarning):
        runs = uq.run(simulator, design, tmp_path / "runs.db", workers=0, collect=False)
    assert "y" not in runs
    told = en.failures(runs)
    assert told.counts == {"completed": 24, "failed": 8}
    assert (told.share, told.of_prior) == (0.25, True)


def test_the_share_is_of_the_prior_only_when_the_runs_are_the_design(space):
    design = sobol(space, 64, rng=1)
    whole = table(design, design["a"].values > 0.5)
    assert en.failures(whole).of_prior
    assert not en.failures(whole.isel(run=whole["a"].values > 0.25)).of_prior
    more = xr.concat([design, design.isel(run=design["a"].values > 0.5) * 0.9], "run", combine_attrs="override")
    assert not en.failures(table(more, more["a"].values > 0.5)).of_prior


def test_it_wants_an_ensemble():
    with pytest.raises(DataError):
        en.failures(sobol(ParameterSpace(a=Uniform(0, 1)), 4, rng=1))
