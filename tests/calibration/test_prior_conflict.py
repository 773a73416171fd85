"""Prior against data: tail probabilities in closed form, the level on generated problems, errors of units."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from calibration.problems import given_surrogate, linear_surrogate, replicates
from calibration.test_capabilities import problem_of
from scipy.stats import halfnorm, kstest, norm
from scipy.stats import lognorm as lognormal

import uqms as uq
from uqms.calibration.answer import ends_of
from uqms.calibration.checks import Check, Sampled
from uqms.calibration.context import Context
from uqms.calibration.prior_conflict import prior_against_data, prior_predictions
from uqms.calibration.tails import power_of_ten, tail_probability, two_sided
from uqms.errors import PriorConflictWarning

X = np.array([0.5])


def told(problem: uq.Calibration, theta: dict[str, np.ndarray], predicted: np.ndarray | None = None) -> Context:
    """Return the context of draws that are given."""
    count = len(next(iter(theta.values())))
    h = np.zeros(count, dtype=np.int64)
    return Context(problem, Sampled(theta, h, (1, count), (1, count), predicted=predicted))


def of_noise(residual_sd: float, n: int, seed: int, prior: uq.Prior | None = None) -> tuple[Check, float]:
    """Return the check of a noise prior, HalfNormal(0.2), and the exact p, from n residuals around a known line."""
    prior = uq.HalfNormal(0.2) if prior is None else prior
    rng = np.random.default_rng(seed)
    squares = residual_sd**2 * rng.chisquare(n)
    grid = np.geomspace(1e-3, 30.0, 20_000)
    log = np.asarray(prior.log_density(grid)) + np.log(grid) - n * np.log(grid) - 0.5 * squares / grid**2
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    sigma = np.interp((np.arange(4000) + 0.5) / 4000, np.cumsum(weight), grid)
    score = norm.ppf(np.clip(np.asarray(prior.cdf(grid)), 1e-300, 1.0 - 2.0**-53))
    mean = float(weight @ score)
    left = max(1.0 - float(weight @ (score - mean) ** 2), 0.5)
    data = replicates(np.zeros((1, 3)), X)
    problem = uq.Calibration(linear_surrogate(1.0, 1e-3), data, uq.GaussianNoise(sd=prior))
    name = next(one for one in problem.priors if one not in problem.parameters)
    theta = {problem.parameters[0]: rng.uniform(-8.0, 8.0, 4000), name: sigma}
    (check,) = prior_against_data(told(problem, theta))
    return check, float(norm.sf(mean / np.sqrt(left)))


def test_a_refuted_noise_prior_is_found() -> None:
    """HalfNormal(0.2), residuals of sd 1.4."""
    found = [of_noise(1.4, 20, seed) for seed in range(20)]
    assert np.mean([check.status != "pass" for check, _ in found]) == 1.0
    for check, p in found:
        assert check.value == pytest.approx(2.0 * p, rel=0.05)  # that of theta is the other prior
    worst = of_noise(1.4, 100, 1)[0]
    assert worst.status == "fail"
    assert "above the centre of its prior" in worst.message
    assert "the central 95 % of its prior are 0.00627 to 0.448" in worst.message
    assert "contradict the prior of" in worst.remedy
    # the remedy clears it
    assert of_noise(1.4, 100, 1, uq.HalfNormal(2.0))[0].status == "pass"


def test_a_noise_much_smaller_than_its_prior_contradicts_nothing() -> None:
    assert of_noise(1e-2, 20, 1, uq.HalfNormal(100.0))[0].status == "pass"
    # a prior without mass at zero is another matter
    assert of_noise(1e-2, 20, 1, uq.LogNormal(median=1.0, sigma=0.5))[0].status == "fail"


@pytest.mark.parametrize("contraction", [0.9, 0.6])
def test_p_is_uniform_when_truths_come_from_the_prior(contraction: float) -> None:
    """The conjugate normal problem: y = theta + noise, theta ~ N(0, 1), both tails."""
    rng = np.random.default_rng(1)
    noise = np.sqrt(1.0 / contraction - 1.0)
    space = uq.ParameterSpace(theta=uq.Normal(0.0, 1.0))
    problem = uq.Calibration(
        linear_surrogate(1.0, 1e-3), replicates(np.array([[0.0]]), X), uq.GaussianNoise(sd=1.0), space=space
    )
    grid = norm.ppf((np.arange(500) + 0.5) / 500)
    levels = []
    for _ in range(300):
        y = rng.standard_normal() + noise * rng.standard_normal()
        theta = contraction * y + np.sqrt(1.0 - contraction) * grid
        levels.append(prior_against_data(told(problem, {"theta": theta}))[0].value)
    assert kstest(levels, "uniform").pvalue > 0.001


def test_flat_priors_have_no_tails() -> None:
    space = uq.ParameterSpace(theta=uq.Uniform(-8.0, 8.0))
    problem = uq.Calibration(
        linear_surrogate(1.0, 1e-3), replicates(np.array([[0.0]]), X), uq.GaussianNoise(sd=1.0), space=space
    )
    (check,) = prior_against_data(told(problem, {"theta": np.full(100, 7.999)}))
    assert check.status == "pass"
    assert check.message == "not judged: no prior has a tail"


# -------------------------------------------------------------------------------------------------------- measurements
def test_tail_probabilities_are_those_of_the_law_where_there_are_draws() -> None:
    rng = np.random.default_rng(1)
    draws = rng.standard_normal((20_000, 4))
    values = norm.isf([0.3, 0.05, 0.01, 1e-3])
    found = tail_probability(draws, values)
    exact = np.array([0.3, 0.05, 0.01, 1e-3])
    np.testing.assert_allclose(found[:3], exact[:3], rtol=0.15)  # 200 draws beyond: 7 % is a standard error
    assert 1.0 < found[3] / exact[3] < 2.0  # beyond the draws that are counted it errs on the side of no alarm
    assert tail_probability(draws, np.full(4, 100.0)).max() < 1e-12
    assert tail_probability(draws, np.full(4, -100.0)).min() > 0.9999


@pytest.mark.parametrize("law", [norm(), lognormal(1.0), halfnorm()])
def test_measurements_from_the_prior_predictive_pass(law: object) -> None:
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(400):
        draws, values = law.rvs((500, 10), random_state=rng), law.rvs(10, random_state=rng)  # type: ignore[attr-defined]
        both = np.minimum(tail_probability(draws, values), tail_probability(-draws, -values))
        alarms += bool(10 * 2 * both.min() < 1e-3)
    assert alarms <= 4  # a right level of 1e-3 gives more than 4 of 400 with a probability of 1e-4


@pytest.mark.parametrize("prior", [uq.HalfCauchy(0.3), uq.HalfStudentT(3.0, 0.3), uq.HalfNormal(0.3)])
def test_measurements_whose_noise_has_a_prior_with_a_long_tail_pass(prior: uq.Prior) -> None:
    """Sds of the prior predictive do not exist under a half-Cauchy prior; tail probabilities do."""
    rng, t, alarms = np.random.default_rng(1), np.linspace(0.0, 1.0, 10), 0
    for _ in range(500):
        theta, sigma = rng.standard_normal(257), np.asarray(prior.quantile(rng.random(1025)))
        draws = np.tile(theta[:256, None] * t, (4, 1)) + sigma[:-1, None] * rng.standard_normal((1024, 10))
        seen = theta[256] * t + sigma[-1] * rng.standard_normal(10)
        alarms += bool(10 * two_sided(draws, seen).min() < 1e-3)
    assert alarms <= 4  # of 500: a right level of 1e-3 gives more with a probability of 2e-4


@pytest.mark.parametrize("prior", [uq.HalfCauchy(0.3), uq.HalfNormal(0.3)])
def test_the_constructor_warns_by_tail_probability(prior: uq.Prior) -> None:
    """The mean of a thousand half-Cauchy noise sds hid data 300 times too large; and a power of ten is named."""
    surrogate, x = linear_surrogate(1.0, 1e-3), np.array([0.25, 0.75])
    for seed in range(20):
        rng = np.random.default_rng(seed)
        seen = rng.standard_normal() + float(prior.quantile(rng.uniform(0.02, 0.98))) * rng.standard_normal((2, 1))
        with warnings.catch_warnings():
            warnings.simplefilter("error", PriorConflictWarning)
            uq.Calibration(surrogate, replicates(seen, x), uq.GaussianNoise(sd=prior))
    with pytest.warns(PriorConflictWarning, match=r"upper tail of what the prior predicts, p = .* \(limit 0.001\)"):
        uq.Calibration(surrogate, replicates(np.full((2, 1), 3e5), x), uq.GaussianNoise(sd=prior))


def predicted_in(unit: float, seed: int = 1) -> Check:
    """Return the check of data in a unit that is `unit` times too large, of a positive output."""
    rng = np.random.default_rng(seed)
    days = np.arange(1.0, 9.0)
    design = uq.sobol(uq.ParameterSpace(rate=uq.LogNormal(median=0.3, sigma=0.3)), 12, rng=1)
    curves = 5.0 * np.exp(-design["rate"].values[:, None] * days)
    surrogate = uq.GaussianProcess(hyperparameters="point").fit(
        uq.ensemble.build(design, {"conc": ("day", curves, days)})
    )
    values = unit * (5.0 * np.exp(-0.25 * days) + 0.02 * rng.standard_normal(8))
    data = xr.DataArray(values, dims="day", coords={"day": days}, name="conc")
    problem = uq.Calibration(surrogate, data, uq.GaussianNoise(sd=0.02))
    predicted = problem.simulate(problem.prior_draws(500, 1), 1)
    (check,) = prior_predictions(told(problem, {"rate": np.full(10, 0.3)}, predicted))
    return check


@pytest.mark.filterwarnings("ignore")  # of the constructor: here the verdict is looked at
def test_a_power_of_ten_is_named_as_a_likely_error_of_units() -> None:
    right = predicted_in(1.0)
    assert right.status == "pass"
    assert "of 8 measurements" in right.message
    for unit in (1000.0, 100.0, 0.001):
        wrong = predicted_in(unit)
        assert wrong.status == "fail"
        assert f"measurements of 'conc' are about {unit:g} times the prediction" in wrong.message
        assert f"a factor of {unit:g} is a likely error of units" in wrong.remedy
    # no power of ten
    other = predicted_in(40.0)
    assert other.status != "pass"
    assert "units:" not in other.remedy


def test_a_power_of_ten_is_named_where_the_prior_is_wide_too() -> None:
    """Measurements are 600 times the median prediction; divided by 1000 they are what the prior predicts."""
    rng = np.random.default_rng(1)
    wide = np.exp(0.5 * rng.standard_normal((4000, 1)) + 0.05 * rng.standard_normal((4000, 6)))
    values = 600.0 * np.ones(6)
    assert power_of_ten(wide, values) == 3
    narrow = np.exp(0.05 * rng.standard_normal((4000, 6)))
    assert power_of_ten(narrow, values) == 0  # 0.6 is not what this one predicts
    assert power_of_ten(wide, values / 1000.0) == 0


def test_limits_of_detection_and_missing_draws_are_left_out() -> None:
    values = np.array([1e6, 0.1])
    table = replace(replicates(values[:, None], np.array([0.25, 0.75])), censored=np.array(["right", ""]))
    with pytest.warns(PriorConflictWarning):
        problem = uq.Calibration(linear_surrogate(1.0, 1e-3), table, uq.GaussianNoise(sd=1.0))
    predicted = np.random.default_rng(1).standard_normal((200, 2))
    theta = {"theta": np.zeros(10)}
    (check,) = prior_predictions(told(problem, theta, predicted))
    assert check.status == "pass"
    assert "of 1 measurements" in check.message
    predicted[:150, 1] = np.nan
    (check,) = prior_predictions(told(problem, theta, predicted))
    assert check.message.startswith("not judged")
    assert prior_predictions(told(problem, theta)) == []


# ------------------------------------------------------------------------------------------------- every kind of prior
@pytest.mark.filterwarnings("ignore::uqms.errors.UqmsWarning")
@pytest.mark.parametrize("kind", ["one", "population"])
def test_priors_of_noise_discrepancy_and_differences_between_subjects_count(kind: str) -> None:
    if kind == "population":
        problem = problem_of(kind, "independent", False, "process")
    else:
        data = xr.DataArray(np.linspace(0.0, 1.0, 6), dims="t", coords={"t": np.arange(6.0)}, name="y")
        runs = np.linspace(0.0, 1.0, 5)[:, None]
        surrogate = given_surrogate(runs, runs, basis=np.ones((6, 1)))
        problem = uq.Calibration(
            surrogate, data, uq.GaussianNoise(sd=uq.HalfNormal(0.3)), discrepancy=uq.GPDiscrepancy()
        )
    inferred = problem.prior_draws(2000, 1)
    assert prior_against_data(told(problem, inferred))[0].status == "pass"
    judged = []
    for name, prior in problem.priors.items():
        refuted = float(prior.quantile(1.0 - 1e-9))
        if all(ends_of(prior, problem.limits(name))) or name in problem.auxiliary or refuted > problem.limits(name)[1]:
            continue
        (check,) = prior_against_data(told(problem, {**inferred, name: np.full(2000, refuted)}))
        assert check.status == "fail"
        assert f"data place {name} 6." in check.message
        judged.append(name)
    assert len(judged) >= (1 if kind == "population" else 3), judged  # noise, and sd and length of the discrepancy
