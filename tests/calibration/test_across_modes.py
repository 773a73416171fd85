"""A caller who chose no sampler gets one that crosses modes where NUTS does not, and is told."""

import json

import numpy as np
import pytest
import xarray as xr

import uqms as uq
from uqms.calibration.checks import Check


def squared(noise: uq.calibration.NoiseModel, shift: float = 0.0) -> uq.Calibration:
    """Return a problem with modes at k = 1 and -1, of masses that the prior tells apart by exp(2 shift)."""
    simulator = uq.DirectSimulator(
        lambda k: {"y": k**2}, space=uq.ParameterSpace(k=uq.Normal(shift, 1.0)), outputs={"y": ()}, backend="pytensor"
    )
    data = xr.DataArray(1.0, name="y")
    return uq.Calibration(simulator, data, noise)


def masses(shift: float) -> float:
    """Return the probability of k > 0, by quadrature."""
    k = np.linspace(-4.0, 4.0, 40_001)
    density = np.exp(-0.5 * ((k**2 - 1.0) / 0.1) ** 2 - 0.5 * (k - shift) ** 2)
    return float(density[k > 0.0].sum() / density.sum())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_modes_have_their_masses_by_default(seed: int) -> None:
    posterior = squared(uq.GaussianNoise(sd=0.1), 0.4).sample(rng=seed)
    used = next(iter(json.loads(posterior.tree.attrs["sampler"])))
    of_runs = (posterior.tree["posterior"]["k"] > 0.0).mean("draw").values
    if used == "SMC":  # of independent runs, so that their spread says how far the mean may be off
        assert of_runs.mean() == pytest.approx(masses(0.4), abs=4.0 * max(of_runs.std(ddof=1), 0.01))
        note = posterior.verdict["sampler"]
        assert note.status == "note"
        assert "NUTS, the default, was replaced by SMC" in note.message
        assert "NUTS, the default" in str(posterior.verdict)
    else:
        assert posterior.verdict["other modes"].status == "pass"
    assert 0.0 < of_runs.min()
    assert of_runs.max() < 1.0


def test_a_sampler_that_was_chosen_stays() -> None:
    posterior = squared(uq.GaussianNoise(sd=0.05)).sample(uq.NUTS(draws=200, tune=200), rng=1)
    assert "NUTS" in json.loads(posterior.tree.attrs["sampler"])
    assert "sampler" not in {check.name for check in posterior.verdict.checks}
    assert isinstance(posterior.verdict["other modes"], Check)


def test_one_mode_is_left_to_nuts() -> None:
    space = uq.ParameterSpace(k=uq.Normal(0.0, 1.0))
    simulator = uq.DirectSimulator(lambda k: {"y": 2.0 * k}, space=space, outputs={"y": ()}, backend="pytensor")
    posterior = uq.Calibration(simulator, xr.DataArray(1.0, name="y"), uq.GaussianNoise(sd=0.5)).sample(rng=1)
    assert "NUTS" in json.loads(posterior.tree.attrs["sampler"])
    assert "sampler" not in {check.name for check in posterior.verdict.checks}
