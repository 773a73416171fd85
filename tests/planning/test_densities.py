"""Measurements whose noise is not Gaussian: gains against quadrature, where errors are shared and sampled too."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from _linear_surrogate import LinearSurrogate
from planning.test_next_experiment import exact
from scipy.stats import norm, poisson
from scipy.stats import t as student

import uqms as uq
from uqms.errors import InputError
from uqms.planning import measurements
from uqms.planning.densities import Density, Sampled, equivalent_variance
from uqms.planning.forecasts import OneSubject
from uqms.planning.gain import State
from uqms.surrogates.transforms import Identity, Log

Array = np.ndarray
MEAN, SD, ERROR, LENGTH = 30.0, 6.0, 4.0, 0.5


def entropy_gain(prior: Array, given: Array) -> float:
    """Return I(theta; z) for weights of theta (n,) and probabilities p(z | theta) (n, z), or densities times width."""
    marginal = prior @ given
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = np.where(given > 0.0, given * np.log(given / marginal), 0.0)
    return float(prior @ inner.sum(axis=1))


def grid(mean: float, sd: float, count: int = 81, wide: float = 6.0) -> tuple[Array, Array]:
    """Return points and weights of a normal distribution."""
    x = mean + sd * np.linspace(-wide, wide, count)
    weight = norm.pdf(x, mean, sd)
    return x, weight / weight.sum()


@cache
def counted() -> Any:
    """Return the prior of a mean that a surrogate knows up to its error; 37 were counted at x = 0."""
    space = uq.ParameterSpace(theta=uq.Normal(MEAN, SD), conditions={"x": uq.Condition(0.0, 1.0)})
    surrogate = LinearSurrogate(space, lambda x: np.ones((*x.shape, 1)), ERROR, LENGTH)
    frame = pd.DataFrame({"x": [0.0], "y": [37.0]})
    data = uq.Observations.from_table(frame, output="y", value="y", conditions=["x"])
    made = uq.Calibration(surrogate, data, uq.PoissonNoise(), space=space, outside="extrapolate")
    return uq.prior_of(made, rng=1)


@pytest.mark.parametrize("replicates", [1, 4])
def test_counts_share_the_error_of_the_surrogate(replicates: int) -> None:
    ideas = uq.candidates(outputs="y", conditions={"x": [0.5]}, replicates=replicates)
    best = uq.next_experiment(counted(), ideas, 1, draws=2000, rng=2)
    theta, weight = grid(MEAN, SD)
    error, own = grid(0.0, ERROR)
    z = np.arange(0, int(replicates * 120))  # the sum of replicates is sufficient
    of_output = poisson.pmf(z, replicates * np.maximum(theta[:, None, None] + error[:, None], 1e-9))
    given = np.einsum("e,tez->tz", own, of_output)
    wanted = entropy_gain(weight, given)
    exactly = entropy_gain(weight, poisson.pmf(z, replicates * np.maximum(theta[:, None], 1e-9)))
    assert best.method == "nested"
    mcse = best.best["mcse"].iloc[0]
    assert best.gain == pytest.approx(wanted, abs=3.0 * mcse + 0.003)
    assert best.gain_exact == pytest.approx(exactly, abs=3.0 * mcse + 0.003)
    assert exactly - wanted > 6.0 * mcse  # errors new with each replicate, or none, would be seen


def test_noise_that_grows_has_its_variance_at_the_mean() -> None:
    """The Gaussian density that the likelihood takes, against that of the noise at each output."""
    noise = uq.CombinedNoise(additive=2.0, proportional=0.15)
    ideas = uq.candidates(outputs="y", conditions={"x": [0.5]}, noise=noise)
    best = uq.next_experiment(counted(), ideas, 1, draws=2000, rng=2)
    theta, weight = grid(MEAN, SD)
    error, own = grid(0.0, ERROR)
    z = np.linspace(-20.0, 90.0, 500)
    y = theta[:, None, None] + error[:, None]
    given = np.einsum("e,tez->tz", own, norm.pdf(z, y, np.hypot(2.0, 0.15 * y))) * (z[1] - z[0])
    at_mean = norm.pdf(z, theta[:, None], np.sqrt(ERROR**2 + 4.0 + (0.15 * theta[:, None]) ** 2)) * (z[1] - z[0])
    mcse = best.best["mcse"].iloc[0]
    assert best.gain == pytest.approx(entropy_gain(weight, at_mean), abs=3.0 * mcse + 0.002)
    assert best.gain == pytest.approx(entropy_gain(weight, given), abs=3.0 * mcse + 0.01)
    assert best.gain_exact - best.gain > 5.0 * mcse


NOISE = uq.StudentTNoise(scale=0.2, df=3.0)


def line_at(time: float) -> tuple[Array, Array]:
    """Return draws of the first parameter of a line and of the line at a time."""
    a, b = (exact().draws[name].values.ravel() for name in "ab")
    return a, a + time / 10.0 * b


def test_outliers_cost_what_quadrature_says() -> None:
    _, y = line_at(6.0)
    x, weight = grid(y.mean(), y.std())
    z = np.linspace(y.mean() - 60.0, y.mean() + 60.0, 8001)
    given = student.pdf((z - x[:, None]) / 0.2, 3.0) / 0.2 * (z[1] - z[0])
    best = uq.next_experiment(exact(), uq.candidates(times=[6.0], noise=NOISE), 1, draws=1000, rng=2)
    mcse = best.best["mcse"].iloc[0]
    assert best.gain == pytest.approx(entropy_gain(weight, given), abs=3.0 * mcse + 0.005)
    assert best.gain == best.gain_exact
    gaussian = uq.next_experiment(exact(), uq.candidates(times=[6.0], noise=0.2), 1, draws=1000, rng=2)
    assert best.gain < gaussian.gain - 5.0 * mcse


def test_about_one_parameter_the_other_follows() -> None:
    a, y = line_at(2.0)
    slope = np.cov(a, y)[0, 1] / a.var(ddof=1)
    shift, own = grid(0.0, (y - slope * a).std(), 41)
    centre, weight = grid(0.0, a.std(), 61)
    z = np.linspace(-15.0, 15.0, 8001)
    given = sum(w * student.pdf((z - slope * centre[:, None] - s) / 0.05, 3.0) for s, w in zip(shift, own, strict=True))
    wanted = entropy_gain(weight, given / 0.05 * (z[1] - z[0]))
    best = uq.next_experiment(
        exact(), uq.candidates(times=[2.0], noise=uq.StudentTNoise(scale=0.05, df=3.0)), 1, about="a", draws=1000, rng=2
    )
    mcse = best.best["mcse"].iloc[0]
    assert best.gain == pytest.approx(wanted, abs=3.0 * mcse + 0.005)
    assert wanted > 10.0 * mcse


def posterior_on_grid(value: float) -> tuple[Array, Array, Array]:
    """Return theta, the error at x = 0 and their joint posterior weights after one count there."""
    theta, weight = grid(MEAN, SD, 41, 5.0)
    error, own = grid(0.0, ERROR, 41, 5.0)
    posterior = weight[:, None] * own * poisson.pmf(value, np.maximum(theta[:, None] + error, 1e-9))
    return theta, error, posterior / posterior.sum()


@pytest.mark.slow
@pytest.mark.parametrize("x", [0.0, 0.2, 1.0])
def test_errors_that_are_sampled_with_the_parameters_are_not_known_with_them(
    x: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    theta, error, posterior = posterior_on_grid(37.0)
    rho = np.exp(-x / LENGTH)
    shift, own = grid(0.0, ERROR * np.sqrt(max(1.0 - rho**2, 1e-12)), 31, 5.0)
    z = np.arange(120)
    y = np.maximum(theta[:, None, None] + rho * error[:, None] + shift, 1e-9)
    given = sum(poisson.pmf(z, y[:, :, k, None]) * own[k] for k in range(len(own)))  # (theta, error, z)
    of_theta = posterior.sum(axis=1)
    wanted = entropy_gain(of_theta, np.einsum("te,tez->tz", posterior / of_theta[:, None], given))
    rng = np.random.default_rng(1)
    i, k = np.unravel_index(rng.choice(posterior.size, 4000, p=posterior.ravel()), posterior.shape)
    width = theta[1] - theta[0], error[1] - error[0]
    draws = theta[i] + width[0] * rng.uniform(-0.5, 0.5, 4000)
    eta = (error[k] + width[1] * rng.uniform(-0.5, 0.5, 4000))[:, None] / ERROR
    source = OneSubject(counted().problem, {"theta": draws}, np.zeros(4000, dtype=int), eta, {"theta": draws})
    monkeypatch.setattr(measurements, "forecaster", lambda *_: source)
    best = uq.next_experiment(counted(), uq.candidates(conditions={"x": [x]}), 1, draws=4000, rng=2)
    mcse = best.best["mcse"].iloc[0]
    assert best.gain == pytest.approx(wanted, abs=3.0 * mcse + 0.006)
    if x == 0.0:  # what is learned of the error is as much again, and no part of the gain
        assert entropy_gain(posterior.ravel(), given.reshape(-1, len(z))) > wanted + 5.0 * mcse


@pytest.mark.parametrize(
    ("model", "response", "information"),
    [
        (uq.PoissonNoise(), Identity(), lambda y: 1.0 / y),
        (uq.PoissonNoise(), Log(), np.exp),
        (uq.NegativeBinomialNoise(0.2), Identity(), lambda y: 1.0 / (y + 0.2 * y**2)),
        (uq.StudentTNoise(scale=0.5, df=4.0), Identity(), lambda y: np.full_like(y, 5.0 / 7.0 / 0.25)),
    ],
)
def test_equivalent_gaussian_noise(model: Any, response: Any, information: Any) -> None:
    y = np.random.default_rng(1).normal(3.0, 0.3, (3000, 2))
    parameters = {role: np.full(3000, float(value)) for role, value in model.parameters.items()}
    found = equivalent_variance(Density(model, response, parameters, 1), y)
    np.testing.assert_allclose(1.0 / found, information(y).mean(axis=0), rtol=0.02)
    binomial = Density(uq.BinomialNoise(50), Identity(), {}, 1)
    p = np.full((2000, 1), 0.3)
    np.testing.assert_allclose(equivalent_variance(binomial, p), 0.3 * 0.7 / 50.0, rtol=0.02)


@pytest.mark.slow
def test_many_counts_have_the_linear_form_of_the_fisher_information() -> None:
    """Counts of 3e4 are nearly normal with the variance of their mean; the gain is beyond nested Monte Carlo."""
    space = uq.ParameterSpace(theta=uq.Normal(3e4, 6e3), conditions={"x": uq.Condition(0.0, 1.0)})
    surrogate = LinearSurrogate(space, lambda x: np.ones((*x.shape, 1)), 1.0, 1.0)
    prior = uq.prior_of(surrogate, space=space, outside="extrapolate", rng=1)
    ideas = uq.candidates(outputs="y", conditions={"x": [0.5]}, replicates=100, noise=uq.PoissonNoise())
    best = uq.next_experiment(prior, ideas, 1, draws=4000, rng=2)
    assert best.method == "linear"
    draws = prior.forecaster(4000).theta["theta"]
    variance = 1.0 / np.mean(100.0 / draws)
    assert best.gain == pytest.approx(0.5 * np.log1p(draws.var(ddof=1) / (1.0 + variance)), abs=0.002)


def test_gaussian_noise_by_draws_is_that_in_closed_form() -> None:
    """A density of one's own that is normal has the gain of GaussianNoise, beside a measurement that has it."""

    def logp(z: Any, y: Any, p: Any, xp: Any) -> Any:
        return -0.5 * ((z - y) / p["sd"]) ** 2 - xp.log(p["sd"]) - 0.5 * np.log(2.0 * np.pi)

    normal = uq.CustomNoise(logp, lambda y, p, rng: y + p["sd"] * rng.standard_normal(y.shape), {"sd": 3.0})
    table = pd.DataFrame({"x": [0.2, 0.8]})
    closed = uq.next_experiment(counted(), uq.candidates(table, outputs="y", noise=3.0), 2, draws=2000, rng=2)
    drawn = uq.next_experiment(counted(), uq.candidates(table, outputs="y", noise=normal), 2, draws=2000, rng=3)
    mcse = np.hypot(closed.best["mcse"].iloc[-1], drawn.best["mcse"].iloc[-1])
    assert drawn.gain == pytest.approx(closed.gain, abs=3.0 * mcse)
    J, error = np.ones((2, 1)), ERROR**2 * np.exp(-np.abs(np.subtract.outer([0.2, 0.8], [0.2, 0.8])) / LENGTH)
    wanted = 0.5 * np.linalg.slogdet(np.eye(2) + np.linalg.solve(error + 9.0 * np.eye(2), J @ J.T * SD**2))[1]
    assert drawn.gain == pytest.approx(wanted, abs=3.0 * drawn.best["mcse"].iloc[-1] + 0.003)
    assert drawn.quantities["expected_sd"].iloc[0] == pytest.approx(closed.quantities["expected_sd"].iloc[0], rel=0.03)
    whole = uq.CustomNoise(lambda z, y, p, xp: xp.sum(-((z - y) ** 2)), lambda y, p, rng: y, {})
    with pytest.raises(InputError, match="one of all measurements together"):
        uq.next_experiment(counted(), uq.candidates(table, outputs="y", noise=whole), 1)


def test_densities_that_are_kept_belong_to_their_draws() -> None:
    """Screening and the final gain take different draws, which may be equally many."""
    rng = np.random.default_rng(4)
    density = Density(uq.PoissonNoise(), Identity(), {}, 1)
    mean = rng.normal(30.0, 3.0, (6, 1, 1))

    def made() -> Sampled:
        return Sampled.of([density], mean, np.zeros((6, 1, 1, 1)), False, np.random.default_rng(5))

    first, rows, kept = np.array([0, 2, 4]), np.array([0]), made()
    second = first + 1
    kept.of_pairs(rows, first)
    found = kept.of_pairs(rows, second)
    np.testing.assert_array_equal(found, made().of_pairs(rows, second))
    z = kept.z[0][second, 0]
    np.testing.assert_allclose(
        found,
        poisson(kept.y[:, 0, 0]).logpmf(z[:, None]) - poisson(z).logpmf(z)[:, None] + poisson(z).logpmf(z)[:, None],
        rtol=1e-10,
    )


def test_a_gain_is_not_resolved_where_draws_do_not_resolve_the_outputs() -> None:
    """Counts that tell of the outputs far more than draws can show, and next to nothing of what is asked about."""
    rng, S = np.random.default_rng(1), 300
    mean = rng.normal(3e4, 6e3, (S, 1, 1))
    nothing = np.zeros((S, 1, 1, 1))
    density = Density(uq.PoissonNoise(), Identity(), {}, 100)
    sampled = Sampled.of([density], mean, nothing, False, rng)
    psi, none = rng.standard_normal((S, 1)), np.zeros((S, 0))
    state = State(mean[:, 0], nothing[:, 0], mean, nothing, psi, False, none, psi, sampled=sampled)
    found = state.nested(np.array([0]), np.arange(S))
    assert found.nats < state.limit  # the figure stays what it is
    assert not found.resolved
