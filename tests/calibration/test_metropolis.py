"""Metropolis chains without derivatives: exact references, frozen after warm-up, and settings that cannot be meant."""

import numpy as np
import pytest
from arviz_stats.base import array_stats
from calibration.problems import FakeProblem, by_quadrature, gaussian_target, unequal_modes

import uqms as uq
from uqms.errors import ConvergenceWarning, InputError


@pytest.mark.slow
def test_two_modes_are_those_of_quadrature() -> None:
    problem = unequal_modes()
    grid = (np.arange(4000) + 0.5) / 4000
    _, mean, sd, weights = by_quadrature(problem, grid)
    posterior = problem.sample(uq.Metropolis(draws=500, tune=200, thin=3), rng=1)
    draws = posterior.draws["theta"].values
    ess = posterior.summary().loc["theta", "ess_bulk"]
    assert abs(draws.mean() - mean[0]) < 4.0 * sd[0] / np.sqrt(ess)
    share = weights[grid > 0.5].sum()
    assert abs(np.mean(draws > 0.5) - share) < 4.0 * np.sqrt(share * (1.0 - share) / ess)
    assert draws.std() / sd[0] == pytest.approx(1.0, abs=0.1)
    assert posterior.verdict["R-hat"].status != "fail"
    with pytest.raises(InputError, match=r"draws from the posterior without an estimate of the evidence. Use SMC\(\)"):
        posterior.log_evidence  # noqa: B018


@pytest.mark.slow
def test_a_ridge_of_five_parameters_takes_few_evaluations() -> None:
    function, _, mean, sds = gaussian_target(5, 0.995, 0.1, 0.5)
    calls: list[int] = []

    def log_likelihood(theta: dict[str, np.ndarray]) -> np.ndarray:
        z = np.column_stack(list(theta.values()))
        calls.append(len(z))
        return np.atleast_1d(function(z))

    sampler = uq.Metropolis(draws=300, tune=200)
    draws = sampler.run(FakeProblem(log_likelihood, 5), 1)["posterior"].dataset  # type: ignore[arg-type]
    assert set(calls) == {sampler.particles, sampler.chains}
    for name, m, sd in zip("abcde", mean, sds, strict=True):
        ess = float(array_stats.ess(draws[name].values, chain_axis=0, draw_axis=1, method="bulk"))
        assert 1200 * sampler.thin / ess < 12.0
        assert abs(draws[name].values.mean() - m) < 4.0 * sd / np.sqrt(ess)
        assert draws[name].values.std() / sd == pytest.approx(1.0, abs=0.07)


def test_the_same_seed_gives_the_same_bits() -> None:
    fake = FakeProblem(lambda theta: -2.0 * theta["a"] ** 2, 1)
    sampler = uq.Metropolis(draws=100, tune=20, thin=1, particles=50)
    first, second, other = (sampler.run(fake, seed)["posterior"]["a"].values for seed in (1, 1, 2))  # type: ignore[arg-type]
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 0.0


@pytest.mark.parametrize("name", ["draws", "tune", "chains", "thin", "particles"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True, "100", None])
def test_counts_are_whole_numbers(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"Metropolis: {name} is {value!r}; give a whole number of at least 1"):
        uq.Metropolis(**{name: value})  # type: ignore[arg-type]


def test_one_chain_and_few_draws_are_warned_of() -> None:
    with pytest.warns(ConvergenceWarning, match="Metropolis: 1 chain; convergence"):
        uq.Metropolis(chains=1)
    with pytest.warns(ConvergenceWarning, match="Metropolis: 99 draws a chain are too few"):
        uq.Metropolis(draws=99)
