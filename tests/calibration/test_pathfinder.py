"""A first look along optimisation paths: exact for normal laws, k-hat where it is not, modes, and the verdict."""

from collections.abc import Callable

import numpy as np
import pytest
from calibration.problems import FakeProblem, by_quadrature, gaussian_target, given_surrogate, replicates, unequal_modes
from scipy.stats import norm

import uqms as uq
from uqms.calibration.computation import sampler_checks
from uqms.errors import InitError, InputError


def run(problem: object, **settings: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return draws and statistics."""
    trace = uq.Pathfinder(**settings).run(problem, 1)  # type: ignore[arg-type]
    draws = {str(name): values.values for name, values in trace["posterior"].dataset.items()}
    return draws, {str(name): float(values[0]) for name, values in trace["sample_stats"].dataset.items()}


@pytest.mark.parametrize(("d", "correlation", "sd"), [(2, 0.9, 0.01), (5, 0.5, 0.3), (8, 0.8, 0.1)])
def test_of_a_normal_posterior_it_is_exact(d: int, correlation: float, sd: float) -> None:
    log_likelihood, evidence, mean, sds = gaussian_target(d, correlation, sd, 0.5)
    draws, stats = run(FakeProblem(lambda theta: log_likelihood(np.column_stack(list(theta.values()))), d), draws=2000)
    assert stats["pareto_k"] < 0.5
    for i, values in enumerate(draws.values()):
        assert abs(values.mean() - mean[i]) < 4.0 * sds[i] / np.sqrt(2000)
        assert values.std() / sds[i] == pytest.approx(1.0, abs=4.0 / np.sqrt(2 * 2000))
    assert abs(stats["log_marginal_likelihood"] - evidence) < 4.0 * stats["log_marginal_likelihood_mcse"] + 1e-3


def test_latents_are_drawn_beside_the_parameters() -> None:
    log_likelihood, _, mean, sds = gaussian_target(12, 0.3, 0.5, 0.4)

    def of(theta: dict[str, np.ndarray], latents: np.ndarray) -> np.ndarray:
        return log_likelihood(np.column_stack([*theta.values(), latents]))

    draws, stats = run(FakeProblem(of, 2, latents=10), draws=2000)
    assert draws["latents"].shape == (1, 2000, 10)
    assert stats["pareto_k"] < 0.7
    off = (draws["latents"].mean(axis=(0, 1)) - mean[2:]) / sds[2:]
    assert np.abs(off).max() < 4.0 / np.sqrt(min(2000.0, stats["importance_ess"]))


def banana(bend: float, width: float) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    return lambda theta: norm(bend * (theta["a"] ** 2 - 1.0), width).logpdf(theta["b"])


def of_banana(bend: float, width: float) -> np.ndarray:
    """Return mean and sd of a and b under the banana and N(0, 1) priors, by quadrature."""
    a, b = np.meshgrid(np.linspace(-6, 6, 1201), np.linspace(-4, 6, 1001), indexing="ij")
    density = np.exp(banana(bend, width)({"a": a, "b": b}) - 0.5 * a**2 - 0.5 * b**2)
    density /= density.sum()
    mean = np.array([np.sum(density * a), np.sum(density * b)])
    sd = np.sqrt([np.sum(density * (a - mean[0]) ** 2), np.sum(density * (b - mean[1]) ** 2)])
    return np.stack([mean, sd])


def test_a_bent_ridge_is_covered_by_several_paths() -> None:
    """Means within 0.15 sd, sds within 10 %; by one path alone k-hat says no."""
    draws, stats = run(FakeProblem(banana(1.0, 0.3), 2), draws=2000, paths=12)
    mean, sd = of_banana(1.0, 0.3)
    assert stats["pareto_k"] < 0.7
    found = np.stack([draws[name].ravel() for name in "ab"])
    assert np.abs(found.mean(axis=1) - mean).max() < 0.15 * sd.min()
    np.testing.assert_allclose(found.std(axis=1), sd, rtol=0.1)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_narrow_bent_ridge_has_a_k_hat_that_says_so(seed: int) -> None:
    """Draws have a sd of a between 0.5 and 0.7 there, where it is 0.80."""
    trace = uq.Pathfinder(draws=4000).run(FakeProblem(banana(1.0, 0.02), 2), seed)  # type: ignore[arg-type]
    check = sampler_checks(trace["sample_stats"].dataset)[0]
    assert check.value > 0.7
    assert check.status == "fail"
    assert "path(s)" in check.message


def test_modes_have_their_mass_however_many_paths_found_them() -> None:
    problem = unequal_modes()
    _, mean, sd, weights = by_quadrature(problem, np.linspace(0.0005, 0.9995, 1000))
    draws, _ = run(problem, draws=4000)
    theta = draws["theta"].ravel()
    lower = float(weights[:500].sum())
    assert np.mean(theta < 0.5) == pytest.approx(lower, abs=4.0 * np.sqrt(lower * (1.0 - lower) / 4000) + 0.02)
    assert theta.mean() == pytest.approx(mean[0], abs=0.1 * sd[0])


@pytest.fixture(scope="module")
def posterior() -> uq.Posterior:
    """A skew posterior of a parameter and an unknown noise."""
    x = np.linspace(0.0, 1.0, 9)[:, None]
    surrogate = given_surrogate(x, np.exp(2.0 * x), ell=0.5, variance=4.0)
    values = np.array([[1.9, 2.6, 2.2, 2.9]])
    return uq.Calibration(surrogate, replicates(values), uq.GaussianNoise(sd=uq.HalfNormal(1.0))).sample(
        uq.Pathfinder(draws=4000), rng=2
    )


def test_moments_of_a_skew_posterior(posterior: uq.Posterior) -> None:
    """Against quadrature, which is stricter than NUTS: means within 0.08 sd, sds within 8 %."""
    _, mean, sd, _ = by_quadrature(
        posterior.single, np.linspace(0.001, 0.999, 500), np.exp(np.linspace(-4, 1.5, 2))[:1] + np.linspace(0, 4, 600)
    )
    for i, name in enumerate(posterior.problem.priors):
        values = posterior.draws[name].values
        assert abs(values.mean() - mean[i]) < 0.08 * sd[i]
        assert values.std() / sd[i] == pytest.approx(1.0, abs=0.08)


def test_the_verdict_says_what_it_is(posterior: uq.Posterior) -> None:
    check = posterior.verdict["approximation"]
    assert check.status == "warn"
    assert posterior.verdict.status == "warn"
    assert posterior.verdict["other modes"].status == "pass"  # judged by the particles that the paths began from
    again = uq.Pathfinder(draws=4000).run(posterior.single, int(posterior.tree.attrs["seed"]))
    np.testing.assert_array_equal(again["posterior"]["theta"], posterior.draws["theta"])


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="paths is 0"):
        uq.Pathfinder(paths=0)
    with pytest.raises(InputError, match="draws is 5"):
        uq.Pathfinder(draws=5)
    with pytest.raises(InitError):
        run(FakeProblem(lambda theta: np.full(len(theta["a"]), -np.inf), 1))
