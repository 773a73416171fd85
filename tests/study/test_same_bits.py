"""The posterior of a study file is that of the script beside it, to the last bit."""

import numpy as np
import pytest
from example_studies import EXAMPLES, script, study

import uqms as uq
from uqms.study import mistakes_of

pytestmark = pytest.mark.slow


def assert_same(first: uq.Posterior, second: uq.Posterior) -> None:
    """Compare everything that leaves inference, bit by bit."""
    assert set(first.tree.children) == set(second.tree.children)
    for name, group in first.tree.children.items():
        for variable, values in group.dataset.data_vars.items():
            other = second.tree[name].dataset[variable]
            assert values.dims == other.dims
            assert np.array_equal(values.values, other.values, equal_nan=values.dtype.kind == "f"), (name, variable)
    assert repr(first.verdict.checks) == repr(second.verdict.checks)
    assert first.summary().equals(second.summary())


FAST, SLOW = "uq.Laplace(draws=100)", "uq.NUTS(draws=100, tune=100, chains=2)"


@pytest.mark.parametrize("sampler", [FAST, pytest.param(SLOW, marks=pytest.mark.slow)])
def test_influenza(tmp_path, monkeypatch, sampler):
    monkeypatch.setenv("UQMS_RESULTS", str(tmp_path))
    settings = "RUNS, DRAWS = (48, 500) if SHORT else (128, 2500)"
    names = script("influenza", {settings: "RUNS = 24", "uq.NUTS(draws=DRAWS)": sampler}, "Can it be believed?")
    same = study("influenza", design={"n": 24}, sample={"sampler": eval(sampler)})
    assert repr(same.space) == repr(names["space"])
    assert np.array_equal(same.simulator.coords["day"], names["days"])
    assert same.design().identical(names["design"])
    ensemble = same.ensemble(store=None, workers=0)
    assert np.array_equal(ensemble["sqrt_infected"], names["ensemble"]["sqrt_infected"])
    assert np.array_equal(same.observations.value, names["observations"].values)
    assert_same(same.posterior(same.calibration(same.surrogate(ensemble))), names["posterior"])


@pytest.mark.parametrize("sampler", [FAST, pytest.param(SLOW, marks=pytest.mark.slow)])
def test_circulation(tmp_path, monkeypatch, sampler):
    pytest.importorskip("svzerod", reason="the simulator of examples/circulation.py; pip install 'uqms[circulation]'")
    monkeypatch.setenv("UQMS_RESULTS", str(tmp_path))
    settings = "RUNS, DRAWS, CURVES = (32, 500, 20) if SHORT else (64, 2000, 60)"
    end = "What was learned, and what was believed before"
    names = script("circulation", {settings: "RUNS = 16", "uq.NUTS(draws=DRAWS, tune=1000)": sampler}, end)
    same = study("circulation", design={"n": 16}, sample={"sampler": eval(sampler)})
    assert repr(same.space) == repr(names["space"])
    ensemble = same.ensemble(store=None, workers=0)
    for name in same.simulator.outputs:
        assert np.array_equal(ensemble[name], names["ensemble"][name], equal_nan=True)
    assert same.observations.table.equals(names["observations"].table)
    assert_same(same.posterior(same.calibration(same.surrogate(ensemble))), names["posterior"])


@pytest.mark.parametrize("name", ["influenza", "circulation"])
def test_the_studies_beside_the_scripts_have_no_mistakes(name):
    assert mistakes_of(EXAMPLES / "studies" / name / "study.toml") == []


@pytest.mark.slow
def test_the_whole_influenza_study(tmp_path, monkeypatch):
    monkeypatch.setenv("UQMS_RESULTS", str(tmp_path))
    names = script("influenza", {}, "Can it be believed?")
    same = study("influenza")
    ensemble = same.ensemble(store=tmp_path / "study.db")
    assert_same(same.posterior(same.calibration(same.surrogate(ensemble))), names["posterior"])
