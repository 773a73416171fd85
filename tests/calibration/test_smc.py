"""SMC as a sampler: exact evidence and moments, two modes, latents, its verdict, and settings that cannot be meant."""

import numpy as np
import pytest
import xarray as xr
from calibration.problems import (
    FakeProblem,
    by_quadrature,
    given_surrogate,
    linear_surrogate,
    replicates,
    unequal_modes,
)
from scipy.stats import multivariate_normal

import uqms as uq
from uqms.calibration.computation import sampler_checks
from uqms.errors import ConvergenceWarning, InputError, SamplingError


@pytest.fixture(scope="module")
def linear() -> uq.Posterior:
    """Return the posterior of 5 replicates of 1.5 theta + error of the surrogate + noise."""
    data = np.array([[1.1, 0.7, 0.9, 1.4, 1.2]])
    problem = uq.Calibration(linear_surrogate(1.5, 0.4), replicates(data, np.array([0.5])), uq.GaussianNoise(sd=0.3))
    return problem.sample(uq.SMC(particles=1000), rng=1)


def test_conjugate_evidence_and_moments(linear: uq.Posterior) -> None:
    data = linear.problem.cells.z
    covariance = 0.3**2 * np.eye(5) + 0.4**2
    exact = multivariate_normal(np.zeros(5), covariance + 1.5**2).logpdf(data)
    value, mcse = linear.log_evidence
    assert 0.0 < mcse < 0.1
    assert abs(value - exact) < 4.0 * max(mcse, 0.02)
    gain = np.full(5, 1.5) @ np.linalg.inv(covariance)
    sd = (1.0 + gain @ np.full(5, 1.5)) ** -0.5
    draws = linear.draws["theta"].values
    assert abs(draws.mean() - sd**2 * gain @ data) < 4.0 * sd / np.sqrt(linear.summary().loc["theta", "ess_bulk"])
    assert draws.std() / sd == pytest.approx(1.0, abs=0.05)


def test_what_it_says_of_itself(linear: uq.Posterior) -> None:
    stats = linear.tree["sample_stats"].dataset
    assert stats["log_marginal_likelihood"].dims == ("chain",)
    assert dict(linear.draws.sizes) == {"chain": 4, "draw": 1000}
    verdict = linear.verdict
    assert verdict["log evidence of runs"].status == verdict["moves"].status == verdict["R-hat"].status == "pass"
    assert "divergences" not in [check.name for check in verdict.checks]
    assert '{"SMC": {"particles": 1000' in linear.tree.attrs["sampler"]
    assert np.unique(draws := linear.draws["theta"].values).size > 0.9 * draws.size


def test_the_same_seed_gives_the_same_bits(linear: uq.Posterior) -> None:
    again = uq.SMC(particles=1000).run(linear.problem, linear.tree.attrs["seed"])
    np.testing.assert_array_equal(again["posterior"]["theta"].values, linear.draws["theta"].values)


def test_two_modes_have_their_mass() -> None:
    problem = unequal_modes()
    grid = (np.arange(4000) + 0.5) / 4000
    evidence, mean, sd, weights = by_quadrature(problem, grid)
    posterior = problem.sample(uq.SMC(particles=1000), rng=2)
    upper = np.mean(posterior.draws["theta"].values > 0.5, axis=1)
    exact = weights[grid > 0.5].sum()
    assert 0.15 < exact < 0.25
    assert abs(upper.mean() - exact) < 4.0 * max(upper.std(ddof=1), 0.01) / 2.0
    value, mcse = posterior.log_evidence
    assert abs(value - evidence) < 4.0 * max(mcse, 0.02)
    draws = posterior.draws["theta"].values
    assert abs(draws.mean() - mean[0]) < 4.0 * sd[0] / np.sqrt(posterior.summary().loc["theta", "ess_bulk"])
    assert draws.std() / sd[0] == pytest.approx(1.0, abs=0.05)
    assert posterior.verdict["R-hat"].status == "pass"


@pytest.mark.slow
def test_unknown_noise_is_that_of_quadrature() -> None:
    x = np.linspace(0.0, 1.0, 8)[:, None]
    problem = uq.Calibration(
        given_surrogate(x, np.sin(2.0 * x)),
        replicates(np.array([[0.5, 0.9, 0.7, 0.65]])),
        uq.GaussianNoise(sd=uq.HalfNormal(0.5)),
    )
    evidence, mean, sd, _ = by_quadrature(problem, (np.arange(400) + 0.5) / 400, (np.arange(800) + 0.5) / 250)
    posterior = problem.sample(uq.SMC(particles=1000), rng=3)
    value, mcse = posterior.log_evidence
    assert abs(value - evidence) < 4.0 * max(mcse, 0.02)
    table = posterior.summary()
    np.testing.assert_array_less(np.abs(table["mean"] - mean), 4.0 * sd / np.sqrt(table["ess_bulk"]))
    np.testing.assert_allclose(table["sd"] / sd, 1.0, atol=0.05)


def test_latents_are_sampled_with_the_parameters() -> None:
    """a + latent is seen with sd 0.1: both share the observation, and their sum is known."""
    fake = FakeProblem(lambda theta, latents: -0.5 * ((theta["a"] + latents[:, 0] - 1.0) / 0.1) ** 2, 1, 1)
    group = uq.SMC(particles=1000).run(fake, 1)["posterior"].dataset  # type: ignore[arg-type]
    assert group["latents"].dims == ("chain", "draw", "latent")
    total = group["a"].values + group["latents"].values[:, :, 0]
    variance = 1.0 / (1.0 / 2.0 + 1.0 / 0.01)
    assert total.mean() == pytest.approx(variance / 0.01, abs=4.0 * np.sqrt(variance / 2000))
    assert total.std() == pytest.approx(np.sqrt(variance), rel=0.06)
    assert group["a"].values.std() == pytest.approx(np.sqrt(0.5 + variance / 4.0), rel=0.06)


def test_data_far_beyond_the_prior_are_an_error() -> None:
    fake = FakeProblem(lambda theta: -0.5 * 1e280 * (theta["a"] - 1.0) ** 2, 1)
    sampler = uq.SMC(particles=100, chains=2, moves=1)
    with pytest.raises(SamplingError, match="particles are distinct. The data are far from what the prior expects"):
        sampler.run(fake, 1)  # type: ignore[arg-type]


def test_runs_that_disagree_or_stand_still_are_told() -> None:
    def stats(evidence: list[float], left: float) -> xr.Dataset:
        columns = {"log_marginal_likelihood": evidence, "left_correlation": [left] * 4, "correlation_limit": [0.05] * 4}
        return xr.Dataset({name: ("chain", values) for name, values in columns.items()})

    first, second = sampler_checks(stats([0.0, 0.0, 0.0, 3.0], 0.4))
    assert first.name == "log evidence of runs"
    assert first.status == second.status == "warn"
    assert "deviation 1.50" in first.message
    assert all(check.status == "pass" for check in sampler_checks(stats([0.0, 0.1, 0.0, -0.1], 0.04)))


@pytest.mark.parametrize("name", ["particles", "chains", "moves"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True, "100", None])
def test_counts_are_whole_numbers(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"SMC: {name} is {value!r}; give a whole number of at least 1"):
        uq.SMC(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, np.nan, True, "0.1", None])
def test_correlation_is_a_share(value: object) -> None:
    with pytest.raises(InputError, match="SMC: correlation is .*; give a number from 0.001 to below 1"):
        uq.SMC(correlation=value)  # type: ignore[arg-type]


def test_one_run_and_few_particles_are_warned_of() -> None:
    with pytest.warns(ConvergenceWarning, match="SMC: 1 chain; convergence of a single chain cannot be judged"):
        uq.SMC(chains=1)
    with pytest.warns(ConvergenceWarning, match="SMC: 99 particles are too few for intervals"):
        uq.SMC(particles=99)
