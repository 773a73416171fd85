"""Runs to `sbi`, and its draws back in the parameters' own units."""

import importlib.util

import numpy as np
import pytest
import xarray as xr

import uqms as uq
from uqms.errors import DataError, DesignWarning, InputError

SPACE = uq.ParameterSpace(k=uq.LogNormal(median=2.0, sigma=0.5, unit="1/h"), a=uq.Normal(0.0, 3.0))
TIMES = np.array([0.0, 1.0, 2.0])
needs_sbi = pytest.mark.skipif(importlib.util.find_spec("sbi") is None, reason="sbi is an extra: uqms[sbi]")


def runs(design: xr.Dataset) -> xr.Dataset:
    k, a = design["k"].values, design["a"].values
    curve = xr.DataArray(a[:, None] * np.exp(-k[:, None] * TIMES), dims=("run", "t"), coords={"t": TIMES})
    return uq.ensemble.build(design, {"curve": curve, "total": k + a}, space=SPACE)


def test_draws_come_back_in_their_own_units() -> None:
    ensemble = runs(uq.sobol(SPACE, 16, rng=1))
    box = uq.ensemble.get_box(ensemble)
    u = np.random.default_rng(0).random((2, 500, 2))
    draws = uq.from_sbi(u, ensemble)["posterior"]
    assert draws["k"].dims == ("chain", "draw")
    assert draws["k"].attrs["unit"] == "1/h"
    for i, name in enumerate(SPACE.names):  # the prior in the design box
        prior, at = SPACE.priors[name], box.names.index(name)
        low, high = prior.cdf(box.lower[at]), prior.cdf(box.upper[at])
        np.testing.assert_allclose((prior.cdf(draws[name].values) - low) / (high - low), u[..., i], atol=1e-12)
    np.testing.assert_array_equal(uq.from_sbi(u[0], ensemble)["posterior"]["a"].values, draws["a"].values[:1])


def test_draws_that_are_none_of_these_runs() -> None:
    ensemble = runs(uq.sobol(SPACE, 16, rng=1))
    with pytest.raises(InputError, match="shape"):
        uq.from_sbi(np.zeros((10, 3)), ensemble)
    with pytest.raises(InputError, match="between 0 and 1"):
        uq.from_sbi(np.full((10, 2), 1.5), ensemble)
    with pytest.raises(InputError, match="priors"):
        uq.from_sbi(np.zeros((10, 2)), uq.ensemble.build({"k": np.arange(3.0)}, {"y": np.arange(3.0)}))


@needs_sbi
def test_runs_are_uniform_under_the_prior_of_sbi() -> None:
    import torch

    ensemble = runs(uq.sobol(SPACE, 256, rng=1))
    found = uq.to_sbi(ensemble)
    assert found.theta.dtype == found.x.dtype == torch.float32
    assert found.x.shape == (256, 4)
    assert torch.isfinite(found.prior.log_prob(found.theta)).all()  # every run lies in the prior's box
    names = list(uq.ensemble.output_names(ensemble))
    place = {name: names.index(name) for name in names}
    total = found.x[:, 0 if place["total"] == 0 else 3].numpy()
    np.testing.assert_allclose(total, ensemble["total"].values, rtol=1e-6)
    back = uq.from_sbi(found.theta.numpy(), ensemble)["posterior"]
    np.testing.assert_allclose(back["a"].values[0], ensemble["a"].values, rtol=1e-3, atol=1e-3)
    assert uq.to_sbi(ensemble, outputs=["total"]).x.shape == (256, 1)


@needs_sbi
def test_runs_that_mislead_or_are_not_whole() -> None:
    ensemble = runs(uq.sobol(SPACE, 256, rng=1))
    with pytest.raises(InputError, match="unknown outputs"):
        uq.to_sbi(ensemble, outputs=["no"])
    broken = ensemble.copy(deep=True)
    broken["total"][3] = np.nan
    with pytest.raises(DataError, match="1 runs"):
        uq.to_sbi(broken)
    even = runs(uq.sobol(SPACE, 256, rng=1, over=SPACE.box()))
    with pytest.warns(DesignWarning, match="does not follow its prior"):
        uq.to_sbi(even)
