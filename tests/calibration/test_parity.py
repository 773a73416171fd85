"""The PyMC model's density is that of the arrays at many points: at runs, in corners, at the same input twice."""

from typing import Any

import numpy as np
import pytensor
import pytest
import xarray as xr
from calibration.problems import given_surrogate

import uqms as uq

RUNS = np.random.default_rng(11).random((7, 2))
T = 4
HALF = uq.HalfNormal(1.0)


def problem(noise: Any) -> uq.Calibration:
    """Return a calibration with discrepancy; its conditions are those of two runs, one has replicates."""
    rng = np.random.default_rng(3)
    space = uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0)})
    surrogate = given_surrogate(
        RUNS,
        rng.standard_normal((7, 2)),
        ell=0.5,
        basis=rng.standard_normal((T, 2)),
        truncation=0.2 * rng.standard_normal((T, 1)),
        names=("theta", "x"),
        space=space,
    )
    coords: dict[str, Any] = {"t": np.arange(T, dtype=float), "x": ("experiment", RUNS[[0, 3], 1])}
    data = xr.DataArray(rng.standard_normal((2, 2, T)), dims=("experiment", "replicate", "t"), coords=coords, name="y")
    return uq.Calibration(
        surrogate, uq.Observations.from_xarray(data, conditions=("x",)), noise, discrepancy=uq.GPDiscrepancy(over=["t"])
    )


def points(one: uq.Calibration, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return prior draws, the first of theta at runs and next to the ends of the box."""
    theta = one.prior_draws(count, rng)
    special = np.concatenate([RUNS[:, 0], RUNS[:2, 0], [1e-9, 1.0 - 1e-9, 0.5, 0.5]])
    theta["theta"][: len(special)] = special
    return theta


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noise", "form"),
    [(uq.GaussianNoise(HALF), "correlated"), (uq.StudentTNoise(HALF), "latent")],
    ids=["correlated", "latent"],
)
def test_the_model_is_the_density_of_the_arrays_at_many_points(noise: Any, form: str) -> None:
    one, rng, count = problem(noise), np.random.default_rng(5), 250
    assert one.data_model.form == form
    theta = points(one, count, rng)
    eta = rng.standard_normal((count, one.latents))
    expected = one.log_likelihood(theta, eta) if one.latents else one.log_likelihood(theta)
    assert np.isfinite(expected).all()
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        model = one.model()
        density, slope = model.compile_logp(vars=[model["observations"]]), model.compile_dlogp(vars=model.free_RVs)
        whole = model.compile_logp()
    free = [(variable, model.rvs_to_values[variable].name) for variable in model.free_RVs]

    def at(i: int) -> dict[str, np.ndarray]:
        return {
            name: eta[i]
            if variable.name == "latents"
            else np.asarray(model.rvs_to_transforms[variable].point(theta[variable.name][i], np))
            for variable, name in free
        }

    found = np.array([float(density(at(i))) for i in range(count)])
    # 1 - 1e-9 comes back from the real line with a rounding of 1e-16 / 1e-9
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-7)
    for i in (0, 3, 12, 20, 40):  # at two runs, in the middle, anywhere
        point = at(i)
        gradient, place = slope(point), 0
        for _, name in free:
            flat = np.atleast_1d(point[name])
            for j in range(flat.size):
                ends = []
                for step in (-2.0, -1.0, 1.0, 2.0):
                    moved = flat.copy()
                    moved[j] += step * 1e-4
                    ends.append(float(whole({**point, name: moved.reshape(np.shape(point[name]))})))
                numeric = (ends[0] - 8.0 * ends[1] + 8.0 * ends[2] - ends[3]) / 12e-4
                if not (i < 7 and name.startswith("theta")):  # at a run the sd has a kink along theta
                    assert gradient[place] == pytest.approx(numeric, rel=1e-5, abs=1e-5), (i, name, j)
                place += 1
