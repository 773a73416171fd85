"""Data at the edge of the ordinary: units far apart, places off by rounding, limits far away, trials of some rows."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from calibration.problems import given_surrogate
from calibration.test_noise_models import T, curve, observed
from scipy import stats

import uqms as uq
from uqms.calibration.density import noise_sd
from uqms.calibration.discrepancy import default_length
from uqms.calibration.predict import Moments, new_noise, own_cells, predicted
from uqms.surrogates import GaussianProcessSurrogate, Layout
from uqms.surrogates.outputs import OutputBasis

AT = {"theta": np.array([0.4])}


def two_outputs(a: float, b: float) -> GaussianProcessSurrogate:
    """Return scalars "a" and "b" of the given sizes, in theta and a condition x."""
    x = np.random.default_rng(1).random((6, 2))
    space = uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0)})
    plain = given_surrogate(x, np.cos(x @ [[2.0, 3.0], [1.0, 1.0]]), names=("theta", "x"), space=space)
    outputs = tuple(
        OutputBasis(name, Layout(), np.zeros(1), np.array([[size]]), np.zeros((1, 0)), np.zeros(0), np.zeros((6, 0)))
        for name, size in (("a", a), ("b", b))
    )
    return GaussianProcessSurrogate(plain.domain, plain.process, outputs, plain.attrs)


def scalars(**columns: list[float]) -> uq.Observations:
    """Return the outputs "a" and "b" at x = 0.2 and 0.7."""
    return uq.Observations.concat(
        uq.Observations.from_table(pd.DataFrame({"x": [0.2, 0.7], "v": v}), output=k, value="v", conditions=["x"])
        for k, v in columns.items()
    )


def test_a_discrepancy_in_small_units_is_there_beside_one_in_large_units() -> None:
    """Latents: standard normal latents give each output a discrepancy of the sd that was said."""
    large, small = 1e8, 1e-2
    problem = uq.Calibration(
        two_outputs(large, small),
        scalars(a=[0.5 * large, 0.2 * large], b=[0.4 * small, 0.3 * small]),
        {"a": uq.StudentTNoise(0.1 * large, 5.0), "b": uq.StudentTNoise(0.1 * small, 5.0)},
        discrepancy={"a": uq.OffsetDiscrepancy(0.3 * large), "b": uq.OffsetDiscrepancy(0.3 * small)},
    )
    n = len(problem.cells.offset)
    eta = np.zeros((n, problem.latents))
    eta[:, -n:] = np.eye(n)
    u = np.repeat(problem.unit_inputs(AT), n + 1, axis=0)
    phi = problem.noise.phi({}, (n + 1,))
    y = problem.data_model.latent_outputs(u, phi, np.vstack([eta, np.zeros((1, problem.latents))]))[0][0]
    sd = np.sqrt(np.sum((y[:-1] - y[-1]) ** 2, axis=0))
    np.testing.assert_allclose(sd, np.where(problem.cells.output == "a", 0.3 * large, 0.3 * small), rtol=1e-6)


def test_places_off_by_rounding_are_no_spacing() -> None:
    assert 0.3 != 0.1 + 0.2
    expected, found = default_length(np.array([0.3, 1.0, 2.0])), default_length(np.array([0.3, 0.1 + 0.2, 1.0, 2.0]))
    assert found == expected
    assert float(found.cdf(2.0 * 0.7)) == pytest.approx(0.01)


def test_a_series_under_a_condition_off_by_rounding_stays_one_series() -> None:
    def value(other: float) -> float:
        table = pd.DataFrame({"x": [0.3, other, 0.3, other], "t": [0.0, 1.0, 2.0, 3.0], "v": [1.0, 2.0, 1.0, 0.0]})
        space = uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0)})
        runs = np.random.default_rng(0).random((5, 2))
        surrogate = given_surrogate(runs, runs[:, :1], names=("theta", "x"), basis=np.ones((4, 1)), space=space)
        data = uq.Observations.from_table(table, output="y", value="v", coords={"t": "t"}, conditions=["x"])
        return float(uq.Calibration(surrogate, data, uq.AutocorrelatedNoise(0.5, 2.0, 0.1)).log_likelihood(AT)[0])

    assert value(0.1 + 0.2) == pytest.approx(value(0.3), rel=1e-10)


def test_a_limit_far_above_what_is_expected_is_no_conflict() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        uq.Calibration(curve(), observed(np.full(T, 1e4), censored=["left"] * T), uq.GaussianNoise(1.0))
    with pytest.warns(uq.errors.PriorConflictWarning, match="upper tail"):
        uq.Calibration(curve(), observed(np.full(T, 1e4), censored=["right"] * T), uq.GaussianNoise(1.0))


def test_a_value_below_its_limit_says_less_than_a_measured_one() -> None:
    """Fisher's information of a normal value that is reported below a limit only as such, in closed form."""
    sigma, limits = 0.5, np.array([0.0, 0.8, 1.5, 9.0])
    data = observed(limits, censored=["left"] * T)
    problem = uq.Calibration(curve(), data, uq.GaussianNoise(sigma))
    y = np.full((1, T), 1.0)
    found = noise_sd(problem.data_model, y, problem.noise.phi({}, (1,)), draws=1000)[0] ** -2
    a = (limits - 1.0) / sigma
    # E[score²]: (phi / Phi)² below, with probability Phi, and e² above
    below = stats.norm.pdf(a) ** 2 / stats.norm.cdf(a)
    above = a * stats.norm.pdf(a) + stats.norm.sf(a)
    np.testing.assert_allclose(found, (below + above) / sigma**2, rtol=0.2, atol=1e-3)
    np.testing.assert_allclose(
        noise_sd(problem.data_model, y, problem.noise.phi({}, (1,)), limits=False, draws=1000)[0], sigma, rtol=0.1
    )


def test_trials_that_are_not_known_are_not_one() -> None:
    table = pd.DataFrame({"x": [0.2, 0.7], "v": [1.0, 3.0], "n": [5.0, 5.0]})
    known = uq.Observations.from_table(table, output="b", value="v", conditions=["x"], trials="n")
    first = uq.Observations.from_table(table.assign(v=[1.0, 0.0]), output="a", value="v", conditions=["x"])
    both = uq.Observations.concat([first, known])
    with pytest.raises(uq.errors.InputError, match="number of trials is not known"):
        uq.Calibration(two_outputs(1.0, 1.0), both, uq.BinomialNoise())


def test_two_different_numbers_of_trials_are_refused() -> None:
    data = observed(np.array([1.0, 0.0, 2.0, 3.0]), trials=[5.0] * T)
    with pytest.raises(uq.errors.InputError, match="trials is 100, but the observations have 5"):
        uq.Calibration(curve(uq.Logit()), data, uq.BinomialNoise(trials=100))


@pytest.mark.parametrize("column", [[np.nan] * 2, pd.Categorical(["left", None]), ["left", None]])
def test_a_column_of_sides_may_be_empty_or_categorical(column: object) -> None:
    table = pd.DataFrame({"t": [0.0, 1.0], "v": [1.0, 2.0], "side": column})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = uq.Observations.from_table(table, output="y", value="v", coords={"t": "t"}, censored="side")
    assert data.censored is not None
    assert list(data.censored) in (["", ""], ["left", ""])


@pytest.mark.filterwarnings("ignore:The observation of")
def test_predicted_counts_of_successes_have_their_own_mean() -> None:
    data = observed(np.array([12.0, 40.0, 50.0, 33.0]))
    problem = uq.Calibration(curve(uq.Logit()), data, uq.BinomialNoise(trials=100))
    count, targets = 4000, own_cells(problem.cells)
    moments = Moments(np.zeros((count, T)), np.zeros((count, T, T)))  # a probability of 1/2
    theta = {"theta": np.full(count, 0.5)}
    transform = problem.surrogate.layouts["y"].transform
    noise = new_noise(problem.data_model, 0, targets)
    mean, variance, _ = predicted(moments, transform, noise, theta, np.random.default_rng(1))
    assert np.abs(mean.mean(axis=0) - 50.0).max() < 4 * 5.0 / math.sqrt(count)
    total = np.sqrt(variance.mean(axis=0) + mean.var(axis=0))
    np.testing.assert_allclose(total, 5.0, rtol=0.06)


def test_an_exact_simulator_with_counts_has_a_density_without_latents() -> None:
    space = uq.ParameterSpace(rate=uq.LogNormal(median=1.0, sigma=0.5))
    days = np.arange(3.0)
    simulator = uq.DirectSimulator(
        lambda rate: 5.0 * np.exp(-rate * days), space=space, outputs={"y": ("t",)}, coords={"t": days}
    )
    z = np.array([4.0, 2.0, 1.0])
    problem = uq.Calibration(simulator, observed(np.append(z, 0.0))[:3], uq.PoissonNoise())
    found = problem.log_likelihood({"rate": np.array([0.5, 1.0])})
    expected = [stats.poisson(5.0 * np.exp(-rate * days)).logpmf(z).sum() for rate in (0.5, 1.0)]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize(
    "prior",
    [
        uq.HalfNormal(0.3),
        uq.Uniform(0.0, 0.3),
        uq.LogUniform(0.01, 1.0),
        uq.LogNormal(median=0.3, sigma=0.5),
        uq.TruncatedNormal(0.2, 0.1, low=0.0, high=0.9),
        uq.Gamma(2.0, 4.0),
        uq.InverseGamma(3.0, 1.0),
        uq.HalfCauchy(0.3),
        uq.HalfStudentT(3.0, 0.3),
        uq.Exponential(4.0),
    ],
)
def test_a_prior_of_the_sd_is_scaled_as_a_whole(prior: uq.parameters.Prior) -> None:
    scaled = uq.OffsetDiscrepancy(prior).scaled(2.0, 1.0).sd
    assert isinstance(scaled, type(prior))
    p = np.array([0.01, 0.3, 0.99])
    np.testing.assert_allclose(scaled.quantile(p), 2.0 * prior.quantile(p), rtol=1e-8)
    with pytest.raises(uq.errors.InputError, match="cannot be scaled"):
        uq.OffsetDiscrepancy(uq.Beta(2.0, 3.0)).scaled(2.0, 1.0)
