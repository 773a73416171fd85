"""Posteriors far in a tail of the prior, by every sampler: closed forms and quadrature, 12 to 20 prior sds away."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import xarray as xr
from arviz_stats.base import array_stats
from scipy import stats
from scipy.special import logsumexp

import uqms as uq
from uqms.calibration.starts import starting_points
from uqms.errors import NumericalWarning, PriorConflictWarning

NOISE = 0.5
RUN_SD = 0.07  # of the log evidence of a run of 4000 particles, over 24 seeds at 15 prior sds: 24 stages
SIDE = {"far above": 1.0, "far below": -1.0}
SAMPLERS = {
    "SMC": uq.SMC(particles=4000),
    "Metropolis": uq.Metropolis(draws=500, tune=300),
    "NUTS": uq.NUTS(draws=500, tune=500, chains=2),
}


def line(prior: uq.Prior, values: np.ndarray, noise: float | uq.Prior) -> uq.Calibration:
    """Return replicates of the parameter itself, without a surrogate."""
    space = uq.ParameterSpace(a=prior)
    simulator = uq.DirectSimulator(lambda a: 1.0 * a, space=space, outputs={"y": ()}, backend="pytensor")
    data = xr.DataArray(values, dims="replicate", name="y")
    return uq.Calibration(simulator, data, uq.GaussianNoise(sd=noise))


def conjugate(distance: float) -> tuple[uq.Calibration, float, float, float]:
    """Return a problem whose posterior mean is so many prior sds away; its mean, sd and log evidence."""
    y = distance * (1.0 + NOISE**2)
    with pytest.warns(PriorConflictWarning, match="tail of what the prior predicts"):
        problem = line(uq.Normal(0.0, 1.0), np.array([y]), NOISE)
    evidence = float(stats.norm.logpdf(y, 0.0, np.sqrt(1.0 + NOISE**2)))
    return problem, distance, NOISE / np.sqrt(1.0 + NOISE**2), evidence


@dataclass(frozen=True, repr=False)
class Rounded(uq.Prior):
    """A standard normal whose quantile function is that of a rounded probability."""

    def _log_density(self, x, xp):  # type: ignore[no-untyped-def]
        return -0.5 * x**2 - 0.9189385332046727

    def _cdf(self, x):  # type: ignore[no-untyped-def]
        return stats.norm.cdf(x)

    def _quantile(self, p):  # type: ignore[no-untyped-def]
        return np.where(p > 0.0, stats.norm.ppf(np.maximum(p, 1e-17)), -np.inf)


@cache
def noisy() -> tuple[uq.Calibration, np.ndarray, np.ndarray, float]:
    """Return a problem whose noise sd is near 2 under HalfNormal(0.1); means, sds and log evidence by quadrature."""
    quantiles = stats.norm.ppf((np.arange(20) + 0.5) / 20.0)
    values = 9.2 * (quantiles - quantiles.mean()) / quantiles.std()
    problem = line(uq.Normal(0.0, 1.0), values, uq.HalfNormal(0.1))
    a, sigma = np.linspace(-6.0, 6.0, 601), np.linspace(1.0, 3.5, 1001)
    log = stats.norm.logpdf(a)[:, None] + stats.halfnorm.logpdf(sigma, scale=0.1)
    log = log + stats.norm.logpdf(values[:, None, None], a[:, None], sigma).sum(axis=0)
    evidence = float(logsumexp(log)) + np.log((a[1] - a[0]) * (sigma[1] - sigma[0]))
    weight = np.exp(log - logsumexp(log))
    axes = ((a, weight.sum(axis=1)), (sigma, weight.sum(axis=0)))
    mean = np.array([w @ x for x, w in axes])
    sd = np.array([np.sqrt(w @ (x - m) ** 2) for (x, w), m in zip(axes, mean, strict=True)])
    assert abs(mean[1] - 2.0) < 0.05
    return problem, mean, sd, evidence


def agree(draws: np.ndarray, mean: float, sd: float) -> None:
    """Check draws (chain, draw) against a mean and a sd, within Monte Carlo error."""
    ess = float(array_stats.ess(draws, chain_axis=0, draw_axis=1, method="bulk"))
    assert ess > 300.0
    assert abs(draws.mean() - mean) < 4.0 * sd / np.sqrt(ess)
    assert abs(draws.std() / sd - 1.0) < 4.0 / np.sqrt(ess)  # of a normal, sqrt(2 / ess) / 2 each sd
    assert len(np.unique(draws)) > 0.2 * draws.size


@pytest.mark.parametrize("side", SIDE)
@pytest.mark.parametrize(
    "distance", [12.0, pytest.param(15.0, marks=pytest.mark.slow), pytest.param(20.0, marks=pytest.mark.slow)]
)
def test_smc_of_a_conjugate_normal(distance: float, side: str) -> None:
    problem, mean, sd, evidence = conjugate(SIDE[side] * distance)
    posterior = problem.sample(SAMPLERS["SMC"], rng=1)
    agree(posterior.draws["a"].values, mean, sd)
    value, mcse = posterior.log_evidence
    assert abs(value - evidence) < 4.0 * max(mcse, RUN_SD / 2.0)
    assert mcse < RUN_SD


@pytest.mark.parametrize("sampler", [pytest.param("Metropolis", marks=pytest.mark.slow), "NUTS"])
def test_chains_of_a_conjugate_normal(sampler: str) -> None:
    problem, mean, sd, _ = conjugate(15.0)
    agree(problem.sample(SAMPLERS[sampler], rng=1).draws["a"].values, mean, sd)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_noise_sd_twenty_times_its_prior(sampler: str) -> None:
    problem, mean, sd, evidence = noisy()
    posterior = problem.sample(SAMPLERS[sampler], rng=1)
    for name, m, s in zip(("a", "sigma"), mean, sd, strict=True):
        agree(posterior.draws[name].values, m, s)
    check = posterior.verdict["prior against data"]
    assert check.status == "fail"
    assert "the data place sigma" in check.message
    assert "sds above the centre" in check.message
    if sampler == "SMC":
        value, mcse = posterior.log_evidence
        assert abs(value - evidence) < 4.0 * max(mcse, RUN_SD / 2.0)


@pytest.mark.parametrize("distance", [-20.0, 12.0, 15.0, 20.0])
def test_tempered_starts_are_where_the_posterior_is(distance: float) -> None:
    problem, mean, sd, _ = conjugate(distance)
    starts = starting_points(problem, 256, np.random.default_rng(1))["a"]
    assert len(np.unique(starts)) > 100
    assert abs(starts.mean() - mean) < sd  # 256 particles and few moves: next to the posterior, not draws of it
    assert 0.6 < starts.std() / sd < 1.5


def test_tempered_starts_of_a_noise_sd_are_in_the_tail() -> None:
    """256 particles through 35 stages of few moves lag behind the posterior, at 2, but go on beyond 8 prior sds."""
    problem, mean, _, _ = noisy()
    sigma = starting_points(problem, 256, np.random.default_rng(1))["sigma"]
    assert len(np.unique(sigma)) > 100
    assert np.all((sigma > 1.2) & (sigma < 1.3 * mean[1]))


@pytest.mark.parametrize("sampler", [uq.Laplace(), uq.Pathfinder()], ids=["Laplace", "Pathfinder"])
def test_approximations_reach_the_tail(sampler: uq.Laplace | uq.Pathfinder) -> None:
    problem, mean, sd, evidence = conjugate(20.0)
    posterior = problem.sample(sampler, rng=1)
    draws = posterior.draws["a"].values
    assert abs(draws.mean() - mean) < 0.15 * sd
    assert draws.std() / sd == pytest.approx(1.0, abs=0.1)
    assert posterior.log_evidence.value == pytest.approx(evidence, abs=0.1)


def test_the_mode_is_in_the_tail() -> None:
    problem, mean, _, _ = conjugate(20.0)
    assert problem.maximum_a_posteriori(rng=1).theta["a"] == pytest.approx(mean, abs=1e-3)


def test_a_prior_whose_quantiles_are_rounded_is_reported() -> None:
    with pytest.warns(PriorConflictWarning):
        problem = line(Rounded(), np.array([-15.0]), NOISE)
    with pytest.warns(NumericalWarning, match=r"different points are a = -8\.49.*: quantiles of Rounded\(\)"):
        uq.SMC(particles=200, chains=2).run(problem, 1)


@pytest.mark.slow
def test_the_upper_tail_of_the_same_prior_is_that_of_its_density() -> None:
    with pytest.warns(PriorConflictWarning):
        problem = line(Rounded(), np.array([15.0 * (1.0 + NOISE**2)]), NOISE)
    agree(problem.sample(SAMPLERS["SMC"], rng=1).draws["a"].values, 15.0, NOISE / np.sqrt(1.0 + NOISE**2))
