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
    u = np.random.default_rng(0).random((2, 500, 2))
    draws = uq.from_sbi(u, SPACE)["posterior"]
    assert draws["k"].dims == ("chain", "draw")
    assert draws["k"].attrs["unit"] == "1/h"
    np.testing.assert_allclose(SPACE.priors["k"].cdf(draws["k"].values), u[..., 0], atol=1e-12)
    np.testing.assert_allclose(SPACE.priors["a"].cdf(draws["a"].values), u[..., 1], atol=1e-12)
    np.testing.assert_array_equal(uq.from_sbi(u[0], SPACE)["posterior"]["a"].values, draws["a"].values[:1])


def test_draws_that_are_none_of_these_runs() -> None:
    with pytest.raises(InputError, match="shape"):
        uq.from_sbi(np.zeros((10, 3)), SPACE)
    with pytest.raises(InputError, match="between 0 and 1"):
        uq.from_sbi(np.full((10, 2), 1.5), SPACE)


@needs_sbi
def test_runs_are_uniform_under_the_prior_of_sbi() -> None:
    import torch

    ensemble = runs(uq.sobol(SPACE, 256, rng=1))
    found = uq.to_sbi(ensemble)
    assert found.theta.dtype == found.x.dtype == torch.float32
    assert found.x.shape == (256, 4)
    assert torch.isfinite(found.prior.log_prob(found.theta)).all()  # every run lies in the prior's box
    np.testing.assert_allclose(found.theta.numpy()[:, 0], SPACE.priors["k"].cdf(ensemble["k"].values), atol=1e-6)
    names = list(uq.ensemble.output_names(ensemble))
    place = {name: names.index(name) for name in names}
    total = found.x[:, 0 if place["total"] == 0 else 3].numpy()
    np.testing.assert_allclose(total, ensemble["total"].values, rtol=1e-6)
    back = uq.from_sbi(found.theta.numpy(), SPACE)["posterior"]
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
