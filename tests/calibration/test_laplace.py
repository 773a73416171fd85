"""A first look: the Laplace approximation, its k-hat and what the verdict says of it, and modes."""

import numpy as np
import pytensor
import pytest
import xarray as xr
from calibration.problems import (
    FakeProblem,
    by_quadrature,
    gaussian_target,
    linear_surrogate,
    replicates,
    unequal_modes,
)

import uqms as uq
from uqms.calibration.computation import sampler_checks
from uqms.calibration.mode import find_modes, maximum_a_posteriori
from uqms.calibration.whitened import Whitened
from uqms.errors import InitError, InputError


@pytest.fixture(scope="module")
def linear() -> uq.Calibration:
    return uq.Calibration(
        linear_surrogate(1.5, 0.4), replicates(np.array([[1.1, 0.7]]), np.array([0.5])), uq.GaussianNoise(sd=0.3)
    )


@pytest.fixture(scope="module")
def posterior(linear: uq.Calibration) -> uq.Posterior:
    return linear.sample(uq.Laplace(), rng=1)


def conjugate() -> tuple[float, float, float]:
    """Return mean, sd and log evidence of the linear problem."""
    from scipy.stats import multivariate_normal

    data, covariance = np.array([1.1, 0.7]), 0.3**2 * np.eye(2) + 0.4**2
    gain = np.full(2, 1.5) @ np.linalg.inv(covariance)
    variance = 1.0 / (1.0 + gain @ np.full(2, 1.5))
    evidence = multivariate_normal(np.zeros(2), covariance + 1.5**2).logpdf(data)
    return variance * gain @ data, np.sqrt(variance), evidence


def test_of_a_normal_posterior_it_is_exact(posterior: uq.Posterior) -> None:
    mean, sd, evidence = conjugate()
    draws = posterior.draws["theta"].values
    assert draws.shape == (1, 1000)
    assert abs(draws.mean() - mean) < 4.0 * sd / np.sqrt(1000)
    assert draws.std() / sd == pytest.approx(1.0, abs=0.05)
    value, mcse = posterior.log_evidence
    assert 0.0 < mcse < 0.01
    assert abs(value - evidence) < 4.0 * mcse


def test_the_verdict_says_that_it_is_an_approximation(posterior: uq.Posterior) -> None:
    check = posterior.verdict["approximation"]
    assert posterior.verdict.status == check.status == "warn"
    assert check.value < 0.5
    assert "draws of an approximation" in check.message
    assert "NUTS() or SMC()" in check.remedy
    assert all("not judged" in posterior.verdict[name].message for name in ("R-hat", "ESS"))


def test_weights_that_cannot_be_trusted_fail(linear: uq.Calibration) -> None:
    (check,) = sampler_checks(xr.Dataset({"pareto_k": ("chain", [0.71])}))
    assert check.status == "fail"
    assert sampler_checks(xr.Dataset({"pareto_k": ("chain", [0.7])}))[0].status == "warn"


def test_a_posterior_far_from_normal_has_a_k_hat_that_says_so() -> None:
    """A funnel in the prior's space: the curvature at the mode knows nothing of its neck and mouth."""

    def funnel(theta: dict[str, np.ndarray]) -> np.ndarray:
        width = np.exp(2.0 * theta["a"])
        return sum(-0.5 * (theta[name] / width) ** 2 - np.log(width) for name in "bcdefgh") + 0.0

    trace = uq.Laplace().run(FakeProblem(funnel, 8), 1)  # type: ignore[arg-type]
    assert float(trace["sample_stats"]["pareto_k"].max()) > 0.7


def test_both_modes_are_found_with_their_mass() -> None:
    problem = unequal_modes()
    grid = (np.arange(4000) + 0.5) / 4000
    evidence, _, _, weights = by_quadrature(problem, grid)
    trace = uq.Laplace(draws=4000).run(problem, 1)
    stats = trace["sample_stats"].dataset
    assert float(stats["modes"].max()) == 2
    assert np.mean(trace["posterior"]["theta"].values > 0.5) == pytest.approx(weights[grid > 0.5].sum(), abs=0.02)
    assert float(stats["log_marginal_likelihood"].max()) == pytest.approx(evidence, abs=0.01)


def test_importance_weights_correct_a_skew_posterior() -> None:
    """One count of 2 with a log-rate: the posterior is skew, and known by quadrature."""
    fake = FakeProblem(lambda theta: 2.0 * theta["a"] - np.exp(theta["a"]), 1)
    grid = np.linspace(-6.0, 4.0, 20001)
    _, mean, sd, _ = by_quadrature(fake, grid)  # type: ignore[arg-type]
    draws = uq.Laplace(draws=4000).run(fake, 1)["posterior"]["a"].values  # type: ignore[arg-type]
    assert abs(draws.mean() - mean[0]) < 4.0 * sd[0] / np.sqrt(4000)
    assert draws.std() / sd[0] == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(("d", "correlation", "sd"), [(5, 0.995, 0.1), (10, 0.7, 1e-3)])
def test_modes_of_ridges_and_narrow_posteriors_are_exact(
    d: int, correlation: float, sd: float, rng: np.random.Generator
) -> None:
    function, _, mean, sds = gaussian_target(d, correlation, sd, 0.8)
    fake = FakeProblem(lambda theta: function(np.column_stack([theta[name] for name in theta])), d)
    space = Whitened(fake)  # type: ignore[arg-type]
    found = find_modes(space, space.log_density, 4, rng)
    assert np.abs((found.z - mean) / sds).max() < 1e-2


def test_maximum_a_posteriori_is_that_of_the_formula(linear: uq.Calibration) -> None:
    mode = linear.maximum_a_posteriori(rng=1)
    mean, sd, evidence = conjugate()
    assert mode.theta["theta"] == pytest.approx(mean, abs=1e-3 * sd)
    assert mode.log_density == pytest.approx(evidence - 0.5 * np.log(2.0 * np.pi) - np.log(sd), abs=1e-6)
    assert mode.agreeing == len(mode.values) == 8
    assert mode.at_end == ()


def test_starts_that_end_in_two_modes_do_not_agree() -> None:
    mode = unequal_modes().maximum_a_posteriori(rng=1)
    grid = np.linspace(1e-4, 1.0 - 1e-4, 9999)
    problem = unequal_modes()
    log_density = problem.log_likelihood({"theta": grid}) + problem.priors["theta"].log_density(grid)
    assert mode.theta["theta"] == pytest.approx(grid[np.argmax(log_density)], abs=2e-4)
    assert mode.log_density == pytest.approx(log_density.max(), abs=1e-4)
    assert 1 <= mode.agreeing < len(mode.values)


def test_a_mode_at_the_end_of_the_prior_is_told() -> None:
    fake = FakeProblem(lambda theta: 3.0 * theta["a"], 1)
    fake.priors = {"a": uq.Uniform(0.0, 2.0)}
    fake_mode = maximum_a_posteriori(fake, 8, np.random.default_rng(1))  # type: ignore[arg-type]
    assert fake_mode.theta["a"] == pytest.approx(2.0, abs=1e-3)
    assert fake_mode.at_end == ("a",)


def test_a_first_look_does_not_compile(linear: uq.Calibration, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(linear), "model", lambda self: pytest.fail("compiled a model"))
    monkeypatch.setattr(pytensor, "function", lambda *args, **options: pytest.fail("compiled a function"))
    uq.Laplace().run(linear, 2)


def test_no_likelihood_anywhere() -> None:
    fake = FakeProblem(lambda theta: np.full(theta["a"].shape, np.nan), 1)
    with pytest.raises(InitError, match=r"\['observations'\]"):
        uq.Laplace().run(fake, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["draws", "starts"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True, "100", None])
def test_counts_are_whole_numbers(name: str, value: object, linear: uq.Calibration) -> None:
    with pytest.raises(InputError, match=f"Laplace: {name} is {value!r}; give a whole number of at least 1"):
        uq.Laplace(**{name: value})  # type: ignore[arg-type]
    if name == "starts":
        with pytest.raises(InputError, match=f"maximum_a_posteriori: starts is {value!r}; give a whole number"):
            linear.maximum_a_posteriori(starts=value)  # type: ignore[arg-type]
