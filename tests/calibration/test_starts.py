"""Chains start where the posterior's mass is: narrow posteriors, two modes, several parameters in their order."""

import numpy as np
import pytest
import xarray as xr
from calibration.problems import gaussian_target, given_surrogate, linear_surrogate, replicates
from scipy.special import ndtri

import uqms as uq
from uqms.calibration.exploration import explored
from uqms.calibration.mixture import Mixture
from uqms.calibration.starts import starting_points
from uqms.calibration.tempering import temper
from uqms.calibration.whitened import Whitened


def test_starts_are_draws_of_a_posterior_far_narrower_than_the_prior(rng: np.random.Generator) -> None:
    noise = 1e-4
    problem = uq.Calibration(
        linear_surrogate(1.0, 1e-5), replicates(np.full((1, 1), 1.7), np.array([0.5])), uq.GaussianNoise(sd=noise)
    )
    found = starting_points(problem, 200, rng)["theta"]
    sd = np.sqrt(noise**2 + 1e-10)
    assert found.mean() == pytest.approx(1.7, abs=5 * sd / np.sqrt(40))
    assert 0.5 * sd < found.std() < 1.5 * sd


def two_modes() -> uq.Calibration:
    """Return a problem whose output is (theta - 0.5)²: theta and 1 - theta fit alike."""
    x = np.linspace(0.0, 1.0, 15)[:, None]
    surrogate = given_surrogate(x, 10.0 * (x - 0.5) ** 2, ell=0.6, variance=4.0)
    return uq.Calibration(surrogate, xr.DataArray(0.9, name="y"), uq.GaussianNoise(sd=0.01))


def test_two_modes_get_starts_by_their_mass(rng: np.random.Generator) -> None:
    found = starting_points(two_modes(), 200, rng)["theta"]
    assert np.abs(np.abs(found - 0.5) - 0.3).max() < 0.02
    assert 0.25 < np.mean(found > 0.5) < 0.75


def test_chains_in_two_modes_are_told() -> None:
    posterior = two_modes().sample(uq.NUTS(chains=8, draws=200, tune=300), rng=1)
    assert posterior.verdict.status == "fail"
    assert posterior.verdict["R-hat"].status == "fail"
    assert "two modes" in posterior.verdict["R-hat"].remedy


def narrow() -> uq.Calibration:
    """Return a problem whose posterior holds 1e-6 of the prior, with a corner where the surrogate's error is large."""
    space = uq.ParameterSpace(a=uq.LogNormal(1.0, 0.5), b=uq.Uniform(-1.0, 1.0), c=uq.Beta(3.0, 3.0))
    design = uq.sobol(space, 60, rng=1)
    t = np.linspace(0.0, 1.0, 8)

    def curve(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        return np.exp(-a[:, None] * t) + b[:, None] * t + 3.0 * c[:, None] * np.sin(6.0 * t)

    curves = curve(*(design[name].values for name in "abc"))
    output = xr.DataArray(curves, dims=("run", "t"), coords={"t": t})
    # Without main effects, with which this sum of curves has no such corner.
    surrogate = uq.GaussianProcess(kernel=uq.Adapted(uq.Matern72()), hyperparameters="point").fit(
        uq.ensemble.build(design, {"y": output}, space=space)
    )
    seen = curve(*(np.array([v]) for v in (1.6, 0.4, 0.3)))[0]
    data = xr.DataArray(seen, dims="t", coords={"t": t}, name="y")
    return uq.Calibration(surrogate, data, uq.GaussianNoise(sd=0.002))


TRUTH = {"a": 1.6, "b": 0.4, "c": 0.3}


@pytest.mark.slow
def test_narrow_posterior_of_several_parameters_and_scales_is_found() -> None:
    """Particles tempered from the prior end in the corner, 35 nats below: with most seeds, and with each of these."""
    problem = narrow()
    space = Whitened(problem)
    for seed in (0, 2, 3, 5):
        rng = np.random.default_rng(seed)
        lost = temper(space.log_likelihood, 3, 256, rng, correlation=0.3, most_moves=10)
        assert lost.log_evidence < 0.0
        found = explored(space, 256, np.random.default_rng(seed), correlation=0.3, most_moves=10)
        assert found.log_evidence == pytest.approx(24.6, abs=0.5)  # of 2,000 particles: 24.60 and 24.80
    for seed in range(4):
        posterior = problem.sample(uq.NUTS(draws=1000), rng=seed)
        summary = posterior.summary()
        for name, truth in TRUTH.items():
            assert abs(summary.loc[name, "mean"] - truth) < 4 * summary.loc[name, "sd"]
        assert summary.loc["a", "sd"] < 0.05
        assert posterior.verdict["R-hat"].status == "pass"


@pytest.mark.slow
def test_modes_and_laplace_are_found_beside_a_corner() -> None:
    problem = narrow()
    mode = problem.maximum_a_posteriori(rng=1)
    for name, truth in TRUTH.items():
        assert mode.theta[name] == pytest.approx(truth, abs=0.05)
    trace = problem.sample(uq.Laplace(), rng=1)
    assert trace.summary().loc["a", "mean"] == pytest.approx(1.6, abs=0.02)


def two_of_unequal_mass(log_odds: float) -> uq.Calibration:
    """Return a² and three parameters measured well; the prior of a decides between a = 1 and a = -1."""
    t = np.linspace(0.1, 1.0, 8)
    directions = np.linalg.qr(np.random.default_rng(1).standard_normal((8, 4)))[0].T
    names = ("a", "b", "c", "d")

    def simulator(**theta: np.ndarray) -> dict[str, np.ndarray]:
        columns = [np.asarray(theta[name])[..., None] for name in names]
        columns[0] = columns[0] ** 2
        return {"y": sum(column * one for column, one in zip(columns, directions, strict=True))}

    space = uq.ParameterSpace(
        a=uq.Normal(0.5 * log_odds, 1.0), b=uq.Normal(0.0, 1.0), c=uq.Normal(0.0, 1.0), d=uq.Normal(0.0, 1.0)
    )
    direct = uq.DirectSimulator(simulator, space=space, outputs={"y": ("t",)}, coords={"t": t}, vectorized=True)
    seen = simulator(**dict(zip(names, (1.0, 0.5, -0.5, 0.2), strict=True)))["y"]
    return uq.Calibration(direct, xr.DataArray(seen, dims="t", coords={"t": t}, name="y"), uq.GaussianNoise(sd=0.005))


@pytest.mark.parametrize(("mass", "margin"), [(0.5, 0.15), (0.95, 0.045)])
def test_modes_of_equal_and_of_unequal_mass(mass: float, margin: float) -> None:
    """Four standard errors of a fraction of 256 particles, four times over for the resampling of a few stages."""
    problem = two_of_unequal_mass(float(np.log(mass / (1.0 - mass))))
    for seed in range(2):
        found = starting_points(problem, 256, np.random.default_rng(seed))["a"]
        assert np.abs(np.abs(found) - 1.0).max() < 0.05
        assert np.mean(found > 0.0) == pytest.approx(mass, abs=margin)


def test_a_mode_without_mass_gets_no_starts() -> None:
    found = starting_points(two_of_unequal_mass(12.0), 256, np.random.default_rng(1))["a"]
    assert (found > 0.0).all()


def test_the_reference_of_tempering_does_not_change_the_posterior() -> None:
    """A reference that is off by a sd and 1.5 times too wide: evidence and moments stay those of the closed form."""
    function, evidence, mean, sds = gaussian_target(3, 0.5, 0.05, 0.8)
    roots = 1.5 * sds[None] * np.eye(3)[None]
    reference = Mixture(np.ones(1), (mean + sds)[None], roots)
    runs = [
        temper(function, 3, 1000, np.random.default_rng(k), correlation=0.05, reference=reference) for k in range(4)
    ]
    log_evidence = np.array([run.log_evidence for run in runs])
    assert abs(log_evidence.mean() - evidence) < 4.0 * max(log_evidence.std(ddof=1), 0.02) / 2.0
    z = np.concatenate([run.z for run in runs])
    np.testing.assert_allclose((z.mean(axis=0) - mean) / sds, 0.0, atol=4.0 / np.sqrt(1000))
    np.testing.assert_allclose(np.concatenate([run.value for run in runs]), function(z), atol=1e-8)


def test_starts_of_a_wide_posterior_are_like_the_prior(rng: np.random.Generator) -> None:
    problem = uq.Calibration(
        linear_surrogate(1e-3, 1e-3), replicates(np.zeros((1, 1)), np.array([0.5])), uq.GaussianNoise(sd=10.0)
    )
    found = np.sort(starting_points(problem, 200, rng)["theta"])
    expected = ndtri((np.arange(200) + 0.5) / 200)
    assert np.abs(found - expected)[20:-20].max() < 0.5
