"""Standard deviations and parameters with long-tailed priors: posteriors by quadrature, saved, and where a box cuts."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from calibration.problems import by_quadrature, linear_surrogate
from scipy import stats

import uqms as uq
from uqms.errors import ExtrapolationError, InputError

VALUES = np.array([0.9, 2.4, -0.8, 3.1])
NOISE = [uq.HalfCauchy(0.5), uq.HalfStudentT(3.0, 0.5), uq.Exponential(2.0)]


def repeated(noise: uq.Prior | float, values: np.ndarray = VALUES) -> uq.Calibration:
    """Return replicates of theta itself, through a surrogate that is all but exact."""
    surrogate = linear_surrogate(1.0, 1e-3, prior=uq.Normal(0.0, 1.5))
    data = xr.DataArray(values[:, None], dims=("replicate", "x"), coords={"x": [0.5]}, name="y")
    table = pd.DataFrame({"value": np.ravel(data), "x": 0.5, "replicate": range(len(values))})
    observations = uq.Observations.from_table(table, output="y", value="value", conditions=["x"], replicate="replicate")
    return uq.Calibration(surrogate, observations, uq.GaussianNoise(sd=noise))


def quantiles(problem: uq.Calibration) -> tuple[np.ndarray, float]:
    """Return the quartiles of theta and sigma, and the log evidence, by quadrature over theta and log sigma."""
    theta, log_sigma = np.linspace(-8.0, 8.0, 321), np.linspace(np.log(0.05), np.log(3e3), 401)
    grid = {"theta": np.repeat(theta, 401), "sigma": np.tile(np.exp(log_sigma), 321)}
    noise, prior = problem.priors["sigma"], stats.norm(0.0, 1.5)
    inside = prior.cdf(8.0) - prior.cdf(-8.0)
    residual = VALUES[:, None] - grid["theta"]
    log = stats.norm.logpdf(residual, 0.0, np.hypot(grid["sigma"], 1e-3)).sum(axis=0) + prior.logpdf(grid["theta"])
    log += noise.log_density(grid["sigma"]) + np.log(grid["sigma"]) - np.log(inside)
    weights = np.exp(log - log.max()).reshape(321, 401)
    evidence = log.max() + np.log(weights.sum() * (theta[1] - theta[0]) * (log_sigma[1] - log_sigma[0]))
    out = []
    for axis, points in ((1, theta), (0, np.exp(log_sigma))):
        below = np.cumsum(weights.sum(axis=axis)) / weights.sum()
        out.append(np.interp([0.25, 0.5, 0.75], below, points))
    return np.array(out), float(evidence)


@pytest.mark.parametrize("prior", NOISE, ids=lambda prior: type(prior).__name__)
def test_noise_sd_has_the_posterior_of_quadrature(prior: uq.Prior) -> None:
    problem = repeated(prior)
    expected, evidence = quantiles(problem)
    nuts = problem.sample(uq.NUTS(draws=1500, tune=500, chains=2), rng=1)
    smc = problem.sample(uq.SMC(particles=2000), rng=2)
    for posterior in (nuts, smc):
        for name, row in zip(("theta", "sigma"), expected, strict=True):
            draws = np.ravel(posterior.draws[name])
            below = [(draws < value).mean() for value in row]
            np.testing.assert_allclose(below, [0.25, 0.5, 0.75], atol=0.05)
    assert smc.log_evidence.value == pytest.approx(evidence, abs=0.1)


def test_large_noise_contradicts_a_half_normal_and_no_half_cauchy() -> None:
    far = 6.0 * (VALUES - VALUES.mean())
    found = {}
    for prior in (uq.HalfNormal(0.5), uq.HalfCauchy(0.5)):
        posterior = repeated(prior, far).sample(uq.NUTS(draws=500, tune=500, chains=2), rng=1)
        found[type(prior).__name__] = {check.name: check.status for check in posterior.verdict.checks}
    assert found["HalfNormal"]["prior against data"] == "fail"
    assert found["HalfCauchy"]["prior against data"] == "pass"


def test_parameter_with_a_long_tail_is_not_cut_without_a_surrogate() -> None:
    """The posterior of a simulator itself, where the measurement lies beyond the frame of the unit cube."""
    space = uq.ParameterSpace(k=uq.HalfCauchy(0.1))
    simulator = uq.DirectSimulator(lambda k: k, space=space, outputs={"y": ()}, vectorized=True)
    problem = uq.Calibration(simulator, xr.DataArray(5.0, name="y"), uq.GaussianNoise(sd=1.0))
    assert simulator.domain.upper[0] < 2.0
    grid = np.linspace(0.0, 40.0, 40001)[1:]
    evidence, mean, sd, _ = by_quadrature(problem, grid)
    posterior = problem.sample(uq.SMC(particles=2000), rng=1)
    draws = np.ravel(posterior.draws["k"])
    assert draws.mean() == pytest.approx(mean[0], abs=0.1)
    assert draws.std() == pytest.approx(sd[0], rel=0.1)
    assert posterior.log_evidence.value == pytest.approx(evidence, abs=0.15)


def test_calibration_reports_the_mass_that_a_stated_range_cuts() -> None:
    space = uq.ParameterSpace(k=uq.HalfCauchy(1.0))

    def problem(high: float, **settings: Any) -> uq.Calibration:
        design = uq.sobol(space, 16, rng=1, over=space.box(ranges={"k": (0.0, high)}))
        runs = uq.ensemble.build(design, {"y": np.asarray(design["k"]) / high}, space=space)
        surrogate = uq.GaussianProcess(hyperparameters="point").fit(runs)
        assert (surrogate.domain.lower[0], surrogate.domain.upper[0]) == (0.0, high)
        return uq.Calibration(surrogate, xr.DataArray(0.01, name="y"), uq.GaussianNoise(sd=0.01), **settings)

    wide = problem(127.0)
    cut = stats.halfcauchy.sf(127.0)
    assert wide.mass_cut == pytest.approx(cut, rel=1e-9)
    assert f"{cut:.2%}" in repr(wide)
    assert wide.limits("k") == (0.0, 127.0)
    with pytest.raises(ExtrapolationError, match="6.3% of the prior's mass lies outside of the design box"):
        problem(10.0)
    assert problem(10.0, outside="extrapolate").limits("k") == (0.0, np.inf)
    # Runs of one's own, without a box: it is their range.
    own = uq.ensemble.build({"k": np.linspace(0.0, 50.0, 16)}, {"y": np.linspace(0.0, 1.0, 16)}, space=space)
    assert uq.ensemble.get_box(own).upper == (50.0,)
    with pytest.raises(InputError, match="has a long tail"):
        uq.sobol(space, 16, rng=1)


def test_posterior_is_saved_with_its_priors(tmp_path: Path) -> None:
    space = uq.ParameterSpace(k=uq.HalfStudentT(2.0, 1.0), j=uq.Exponential(3.0))
    design = uq.sobol(space, 24, rng=1, over=space.box(ranges={"k": (0.0, 20.0)}))
    runs = uq.ensemble.build(design, {"y": 0.1 * design["k"] - design["j"]}, space=space)
    surrogate = uq.GaussianProcess(hyperparameters="point").fit(runs)
    discrepancy = uq.OffsetDiscrepancy(sd=uq.HalfStudentT(4.0, 0.1))
    noise = uq.GaussianNoise(sd=uq.HalfCauchy(0.5))
    problem = uq.Calibration(surrogate, xr.DataArray(0.1, name="y"), noise, discrepancy=discrepancy)
    posterior = problem.sample(uq.SMC(particles=200), rng=1)
    again = uq.load_posterior(posterior.save(tmp_path / "posterior.nc"))
    assert again.problem.priors == problem.priors
    assert again.problem.space == space
    np.testing.assert_array_equal(again.draws["sigma"], posterior.draws["sigma"])
    theta = {name: np.array([0.5]) for name in problem.priors}
    assert again.problem.log_likelihood(theta) == problem.log_likelihood(theta)
    for prior, other in ((0.5, 2.0), (2.0, 0.5)):  # the prior scale of a discrepancy, halved and doubled
        assert discrepancy.scaled(prior, 1.0).scaled(other, 1.0) == discrepancy


def test_between_subject_sd_has_the_posterior_of_quadrature() -> None:
    """Subjects a_j ~ N(mu, omega^2) with four measurements each; given mu and omega their means are normal."""
    rng, subjects, each, noise = np.random.default_rng(1), 6, 4, 0.5
    values = rng.normal(1.0, 0.8, subjects)[:, None] + noise * rng.standard_normal((subjects, each))
    prior = uq.HalfStudentT(3.0, 0.5)
    space = uq.ParameterSpace(a=uq.Normal(0.0, 2.0))
    simulator = uq.DirectSimulator(lambda a: a, space=space, outputs={"y": ()}, backend="pytensor")
    table = pd.DataFrame(
        {
            "who": np.repeat([f"s{j}" for j in range(subjects)], each),
            "value": values.ravel(),
            "replicate": np.tile(np.arange(each), subjects),
        }
    )
    data = uq.Observations.from_table(table, output="y", value="value", subject="who", replicate="replicate")
    problem = uq.Calibration(
        simulator,
        data,
        uq.GaussianNoise(sd=noise),
        population=uq.Population(space, individual=("a",), spread=prior),
    )
    posterior = problem.sample(uq.NUTS(draws=1500, tune=500, chains=2), rng=1)
    mu, log_omega = (grid.ravel() for grid in np.meshgrid(np.linspace(-3, 5, 401), np.linspace(-7, 4, 401)))
    omega = np.exp(log_omega)
    log = stats.norm.logpdf(values.mean(axis=1)[:, None], mu, np.sqrt(omega**2 + noise**2 / each)).sum(axis=0)
    log += stats.norm.logpdf(mu, 0.0, 2.0) + stats.t(3.0, scale=0.5).logpdf(omega) + log_omega
    weights = np.exp(log - log.max())
    for name, points in (("a", mu), ("omega_a", omega)):
        order = np.argsort(points, kind="stable")
        levels = np.cumsum(weights[order]) / weights.sum()
        draws = np.ravel(posterior.draws[name])
        for p in (0.1, 0.5, 0.9):
            assert (draws < points[order][np.searchsorted(levels, p)]).mean() == pytest.approx(p, abs=0.05)
