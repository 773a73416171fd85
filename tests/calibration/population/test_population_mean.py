"""A linear simulator: the posterior of a population's mean in closed form, and the mistake that makes it too sure."""

import arviz_stats
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from calibration.problems import linear_surrogate, matern52
from scipy.stats import binom

import uqms as uq
from uqms.calibration.posterior import Posterior
from uqms.errors import ConformanceError
from uqms.surrogates import Surrogate
from uqms.testing.planted import with_covariance

REPEATS, SUBJECTS = 600, 16
LOW, HIGH = 0.925, 0.972  # the central 99 % of a binomial law at 600
ERROR_SD = NOISE_SD = OMEGA = 0.5
ELL = 2.0  # of the surrogate's error over the condition, which differs between subjects: their errors are alike
SURROGATE = linear_surrogate(1.0, ERROR_SD, ell_x=ELL)
X = (np.arange(SUBJECTS) + 0.5) / SUBJECTS


def problem(values: np.ndarray, surrogate: Surrogate = SURROGATE) -> uq.PopulationCalibration:
    frame = pd.DataFrame({"id": [f"s{j}" for j in range(len(values))], "x": X[: len(values)], "y": values})
    data = uq.Observations.from_table(frame, output="y", value="y", conditions=["x"], subject="id")
    space = uq.ParameterSpace(theta=uq.Normal(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0)})
    population = uq.Population(space, individual=("theta",), spread=OMEGA)
    return uq.Calibration(surrogate, data, uq.GaussianNoise(sd=NOISE_SD), population=population)


def closed_form(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Return means (n,) and sd of the posterior of the population's mean for data (n, J)."""
    covariance = ERROR_SD**2 * matern52(X[:, None] - X, ELL) + (NOISE_SD**2 + OMEGA**2) * np.eye(SUBJECTS)
    weights = np.linalg.solve(covariance, np.ones(SUBJECTS))
    variance = 1.0 / (1.0 + weights.sum())
    return variance * values @ weights, float(np.sqrt(variance))


def simulated(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return means of populations (n,) and data (n, J), from the definition."""
    rng = np.random.default_rng(1)
    mean = rng.standard_normal(n)
    root = np.linalg.cholesky(ERROR_SD**2 * matern52(X[:, None] - X, ELL))
    individual = mean[:, None] + OMEGA * rng.standard_normal((n, SUBJECTS))
    error = rng.standard_normal((n, SUBJECTS)) @ root.T
    return mean, individual + error + NOISE_SD * rng.standard_normal((n, SUBJECTS))


def by_the_likelihood(one: uq.PopulationCalibration, values: np.ndarray) -> tuple[np.ndarray, float]:
    """Return means (n,) and sd of the population's mean: with all normal, log prior + likelihood is quadratic.

    Its differences over steps of 1 are exact derivatives; the second ones do not depend on the data.
    """
    D = 1 + one.latents

    def density(at: np.ndarray, now: uq.PopulationCalibration) -> np.ndarray:
        return now.log_likelihood({"theta": at[:, 0]}, at[:, 1:]) - 0.5 * np.sum(at**2, axis=1)

    eye = np.eye(D)
    pairs = [(i, j) for i in range(D) for j in range(i + 1)]
    points = np.array([np.zeros(D), *eye, *(eye[i] + eye[j] for i, j in pairs)])
    found = density(points, one.with_values(values[0]))
    hessian = np.empty((D, D))
    for (i, j), both in zip(pairs, found[1 + D :], strict=True):
        hessian[i, j] = hessian[j, i] = both - found[1 + i] - found[1 + j] + found[0]
    covariance = np.linalg.inv(-hessian)
    slopes = []
    for row in values:
        ends = density(np.concatenate([eye, -eye]), one.with_values(row))
        slopes.append(0.5 * (ends[:D] - ends[D:]))
    return np.array(slopes) @ covariance[0], float(np.sqrt(covariance[0, 0]))


def coverage(mean: np.ndarray, sd: float, truth: np.ndarray) -> float:
    return float(np.mean(np.abs(truth - mean) < 1.959964 * sd))


@pytest.mark.slow
def test_the_population_mean_has_its_closed_form_and_covers() -> None:
    truth, values = simulated(REPEATS)
    mean, sd = by_the_likelihood(problem(values[0]), values)
    exact_mean, exact_sd = closed_form(values)
    np.testing.assert_allclose(mean, exact_mean, atol=1e-6)
    assert sd == pytest.approx(exact_sd, rel=1e-6)
    assert LOW <= coverage(mean, sd, truth) <= HIGH
    assert binom(REPEATS, 0.95).cdf(HIGH * REPEATS) > 0.99


def test_errors_that_are_independent_between_subjects_are_too_sure() -> None:
    truth, values = simulated(200)
    mutant = with_covariance(SURROGATE, lambda c: c * np.eye(c.shape[-1]))
    with pytest.raises(ConformanceError, match="independent"):
        problem(values[0], mutant)
    wrong = problem(values[0])
    wrong.data = wrong.data.with_data_model(surrogate=mutant)  # past the check
    mean, sd = by_the_likelihood(wrong, values)
    assert sd < 0.6 * closed_form(values)[1]
    assert coverage(mean, sd, truth) < 0.75


@pytest.mark.slow
def test_draws_have_that_law_and_another_table_needs_no_compilation() -> None:
    """The density is compiled once; problems with other values exchange the data."""
    _, values = simulated(2)
    first = problem(values[0])
    exact_mean, exact_sd = closed_form(values)
    for k, one in enumerate([first, first.with_values(values[1])]):
        draws = uq.NUTS(draws=500, tune=300).run(one, 1)["posterior"].dataset["theta"]
        ess = float(arviz_stats.ess(draws, method="mean"))
        assert float(draws.mean()) == pytest.approx(exact_mean[k], abs=4 * exact_sd / np.sqrt(ess))
        assert float(draws.std()) == pytest.approx(
            exact_sd, rel=4 / np.sqrt(2 * float(arviz_stats.ess(draws, method="sd")))
        )
    w = np.random.default_rng(3).standard_normal(17)
    found = [one.compiled.target(one).evaluate(w)[0] for one in (first, first.with_values(values[1]))]
    theta, z = {"theta": np.array([w[0]])}, w[None, 1:]
    wanted = [float(first.with_values(row).log_likelihood(theta, z)[0]) for row in values]
    assert found[1] - found[0] == pytest.approx(wanted[1] - wanted[0], abs=1e-8)


@pytest.mark.slow
def test_effective_draws_are_those_of_the_population(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the verdict counts them; the least of many subjects' would ask for more and more draws with their number."""
    seen: list[list[str]] = []
    monkeypatch.setattr("uqms.calibration.samplers.nuts.worst_ess", lambda draws: seen.append(list(draws)) or np.inf)
    uq.NUTS(draws=100, tune=50, ess=50).run(problem(simulated(1)[1][0]), 1)
    assert seen == [["theta"]]


def test_a_new_subject_is_what_a_refit_of_everybody_says() -> None:
    """Exact draws of the population in its closed form, a new subject from them; all 17 together, in closed form."""
    rng = np.random.default_rng(4)
    _, values = simulated(1)
    one, S, D = problem(values[0]), 2000, 1 + SUBJECTS
    # Of mean and standardised effects: prior N(0, 1), data = mean + omega x + error.
    design = np.column_stack([np.ones(SUBJECTS), OMEGA * np.eye(SUBJECTS)])
    error = ERROR_SD**2 * matern52(X[:, None] - X, ELL) + NOISE_SD**2 * np.eye(SUBJECTS)
    covariance = np.linalg.inv(np.eye(D) + design.T @ np.linalg.solve(error, design))
    mean = covariance @ design.T @ np.linalg.solve(error, values[0])
    drawn = mean + rng.standard_normal((S, D)) @ np.linalg.cholesky(covariance).T
    groups = {
        "posterior": xr.Dataset({"theta": (("chain", "draw"), drawn[None, :, 0])}),
        "latents": xr.Dataset({"value": (("chain", "draw", "latent"), drawn[None, :, 1:])}),
    }
    posterior = Posterior(xr.DataTree.from_dict(groups), one, None, None)  # type: ignore[arg-type]

    x, z = np.array([*X, 0.4]), np.array([*values[0], values[0].mean() + 1.5])
    frame = pd.DataFrame({"x": [0.4], "y": z[-1:]})
    new = posterior.new_subject(uq.Observations.from_table(frame, output="y", value="y", conditions=["x"]), rng=1)

    prior = np.ones((18, 18)) + OMEGA**2 * np.eye(18)  # of the population's mean, then of all individual values
    prior[0, 0] = 1.0
    of_data = prior[1:, 1:] + ERROR_SD**2 * matern52(x[:, None] - x, ELL) + NOISE_SD**2 * np.eye(17)
    for k, (name, found) in enumerate(
        [("mean", new.shared.theta["theta"]), ("new", new.draws["theta"].values.ravel())]
    ):
        row = prior[0 if k == 0 else -1, 1:]
        before = prior[0 if k == 0 else -1, 0 if k == 0 else -1]
        exact = row @ np.linalg.solve(of_data, z)
        sd = np.sqrt(before - row @ np.linalg.solve(of_data, row))
        n = min(new.ess, 500.0)  # draws of the population that are behind it
        assert found.mean() == pytest.approx(exact, abs=4 * sd / np.sqrt(n)), name
        assert found.std() == pytest.approx(sd, rel=4 / np.sqrt(2 * n)), name
    assert new.k_hat < 0.7
    # Its prior alone with independent errors would say something else, by far more than that.
    alone = OMEGA**2 / (OMEGA**2 + ERROR_SD**2 + NOISE_SD**2)
    assert abs(mean[0] + alone * (z[-1] - mean[0]) - exact) > 8 * sd / np.sqrt(n)
