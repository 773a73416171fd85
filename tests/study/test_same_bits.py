"""The posterior of a study file is that of the script beside it, to the last bit."""

import numpy as np
from example_studies import script, study

import uqms as uq


def assert_same(first: uq.Posterior, second: uq.Posterior) -> None:
    """Compare everything that leaves inference, bit by bit."""
    assert set(first.tree.children) == set(second.tree.children)
    for name, group in first.tree.children.items():
        for variable, values in group.dataset.data_vars.items():
            other = second.tree[name].dataset[variable]
            assert values.dims == other.dims
            assert np.array_equal(values.values, other.values, equal_nan=values.dtype.kind == "f"), (name, variable)
    assert first.verdict == second.verdict
    assert first.summary().equals(second.summary())


NUTS = "uq.NUTS(draws=100, tune=100, chains=2)"


def test_influenza(tmp_path, monkeypatch):
    monkeypatch.setenv("UQMS_RESULTS", str(tmp_path))
    settings = "RUNS, DRAWS = (48, 500) if SHORT else (128, 2500)"
    names = script("influenza", {settings: "RUNS = 24", "uq.NUTS(draws=DRAWS)": NUTS}, "Can it be believed?")
    same = study(
        "influenza",
        design={"n": 24},
        sample={"sampler": eval(NUTS)},
    )
    assert repr(same.space) == repr(names["space"])
    assert np.array_equal(same.simulator.coords["day"], names["days"])
    assert same.design().identical(names["design"])
    ensemble = same.ensemble(store=None, workers=0)
    assert np.array_equal(ensemble["sqrt_infected"], names["ensemble"]["sqrt_infected"])
    assert np.array_equal(same.observations.value, names["observations"].values)
    assert_same(same.posterior(same.calibration(same.surrogate(ensemble))), names["posterior"])
