"""What data identify, against the closed forms of linear problems."""

import numpy as np
import pytest
import xarray as xr
from calibration.problems import given_surrogate
from diagnostics.problems_of_trust import exact_draws, given_posterior, linear_problem
from scipy.stats import chi2

import uqms as uq
from uqms.diagnostics.profile import maximise
from uqms.errors import InputError

SD = 0.5
JACOBIAN = np.array([[1.0, 1.0, 0.0], [0.5, 0.5, 0.1], [1.0, 1.0, -0.1], [0.8, 0.8, 0.0]])  # a + b, and a little c
DATA = np.array([0.9, 0.1, 1.3, 0.4])


@pytest.fixture(scope="module")
def posterior() -> uq.Posterior:
    problem = linear_problem(JACOBIAN, DATA, SD)
    return given_posterior(problem, exact_draws(JACOBIAN, DATA, SD, 8000, np.random.default_rng(1)))


def test_contraction_correlation_and_directions_of_a_linear_problem(posterior: uq.Posterior) -> None:
    found = uq.diagnostics.identifiability(posterior)
    information = JACOBIAN.T @ JACOBIAN / SD**2
    covariance = np.linalg.inv(information + np.eye(3))
    assert found.table["contraction"].values == pytest.approx(1.0 - np.diag(covariance), abs=0.05)
    sd = np.sqrt(np.diag(covariance))
    assert found.correlation.values == pytest.approx(covariance / np.outer(sd, sd), abs=0.05)
    assert found.local_correlation.values == pytest.approx(np.abs(covariance / np.outer(sd, sd)), abs=0.02)
    values, vectors = np.linalg.eigh(information)
    assert found.information.values[:2] == pytest.approx(values[::-1][:2], rel=0.1)
    assert abs(found.directions.values[0] @ vectors[:, -1]) == pytest.approx(1.0, abs=0.01)
    assert found.prior_dominated == ("c",)
    assert found.stiff in (("0.71 a + 0.71 b",), ("0.70 a + 0.71 b",), ("0.71 b + 0.70 a",), ("0.71 b + 0.71 a",))
    assert set(found.sloppy) >= {"1.00 c"}
    assert "confounded pairs: none" in repr(found)


def test_a_pair_of_which_only_the_sum_is_known_is_confounded() -> None:
    jacobian, data = np.ones((6, 2)), np.array([0.2, -0.2, 0.1, -0.1, 0.2, -0.2])
    problem = linear_problem(jacobian, data, 0.2)
    posterior = given_posterior(problem, exact_draws(jacobian, data, 0.2, 2000, np.random.default_rng(2)))
    found = uq.diagnostics.identifiability(posterior)
    assert found.confounded == (("a", "b"),)
    assert len(found.sloppy) == 1
    vector = found.directions.values[1] * np.sign(found.directions.values[1, 0])
    assert vector == pytest.approx(np.array([1.0, -1.0]) / np.sqrt(2.0), abs=0.02)
    assert found.sloppy[0].count("-") == 1
    assert posterior.verdict["confounded"].status == "warn"
    assert "a and b" in posterior.verdict["confounded"].remedy


def test_profile_of_a_linear_problem_is_a_parabola(posterior: uq.Posterior) -> None:
    jacobian = np.column_stack([np.ones(6), np.arange(6.0) / 5.0])
    data = jacobian @ np.array([0.5, -0.3]) + 0.1 * np.array([1.0, -1.0, 0.5, -0.2, 0.1, 0.3])
    problem = linear_problem(jacobian, data, 0.1)
    covariance = np.linalg.inv(jacobian.T @ jacobian / 0.01)
    best = covariance @ jacobian.T @ data / 0.01
    for i, name in enumerate("ab"):
        found = uq.diagnostics.profile_likelihood(problem, name, rng=1)
        x = found.curve[name].values
        wanted = -0.5 * (x - best[i]) ** 2 / covariance[i, i]
        assert found.curve["log_likelihood"].values == pytest.approx(wanted, abs=0.01)
        half = np.sqrt(chi2.ppf(0.95, 1) * covariance[i, i])
        assert found.interval == pytest.approx((best[i] - half, best[i] + half), abs=0.01 * half)
        assert found.maximum == pytest.approx(best[i], abs=0.02 * half)
        other = "ab"[1 - i]
        slope = covariance[0, 1] / covariance[i, i]
        assert found.curve[other].values == pytest.approx(best[1 - i] + slope * (x - best[i]), abs=0.05 * half)
        assert found.identified
        assert found.words.endswith("identified")


def test_a_flat_profile_is_practically_unidentifiable() -> None:
    problem = linear_problem(np.ones((6, 2)), np.array([0.2, -0.2, 0.1, -0.1, 0.2, -0.2]), 0.2)
    found = uq.diagnostics.profile_likelihood(problem, "a", n=15, rng=1)
    assert found.bounded == (False, False)
    assert "practically unidentifiable; its profile is flat from" in found.words
    assert found.interval[0] < -4.5
    assert found.interval[1] > 4.5
    assert found.curve["log_likelihood"].values == pytest.approx(np.zeros(15), abs=0.01)
    assert found.curve["b"].values == pytest.approx(-found.curve["a"].values, abs=0.05)


def test_a_profile_that_is_bounded_on_one_side() -> None:
    """y = max(theta - 1/2, 0)² and y near 0: any theta below one half fits."""
    x = np.linspace(0.0, 1.0, 30)[:, None]
    surrogate = given_surrogate(x, 4.0 * np.maximum(x - 0.5, 0.0) ** 2, ell=0.3)
    problem = uq.Calibration(surrogate, xr.DataArray(0.0, name="y"), uq.GaussianNoise(sd=0.05))
    found = uq.diagnostics.profile_likelihood(problem, "theta", rng=1)
    assert found.bounded == (False, True)
    assert "practically unidentifiable below, where only the prior bounds it" in found.words
    assert found.interval[0] == pytest.approx(0.0, abs=1e-3)
    assert found.interval[1] == pytest.approx(0.5 + np.sqrt(0.05 * np.sqrt(chi2.ppf(0.95, 1)) / 4.0), abs=0.01)


def test_many_functions_are_maximised_at_once() -> None:
    rng = np.random.default_rng(3)
    centre = rng.standard_normal((7, 4))

    def function(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        shift = x - centre[rows]
        return np.asarray(-np.sum(np.arange(1.0, 5.0) * shift**2, axis=1) - 0.3 * np.sum(shift**4, axis=1))

    x, value = maximise(function, np.zeros((7, 4)))
    assert x == pytest.approx(centre, abs=0.01)
    assert value == pytest.approx(np.zeros(7), abs=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "z"}, "'z' is not inferred; give one of"),
        ({"n": 3}, "n is 3; give a whole number of at least 7"),
        ({"prob": 1.0}, "prob is 1.0; give a probability between 0 and 1"),
    ],
)
def test_what_a_profile_wants(options: dict[str, object], words: str) -> None:
    problem = linear_problem(JACOBIAN, DATA, SD)
    with pytest.raises(InputError, match=words):
        uq.diagnostics.profile_likelihood(problem, **({"name": "a"} | options))


def test_others_than_posteriors_are_refused() -> None:
    for function in (
        uq.diagnostics.identifiability,
        lambda x: uq.diagnostics.predictive_check(x, lambda y: y.mean("observation")),
        lambda x: uq.diagnostics.profile_likelihood(x, "a"),
    ):
        with pytest.raises(InputError, match="got a str; give (a|the posterior)"):
            function("posterior")


# --- predictive checks ----------------------------------------------------------------------------------------------


def test_a_statistic_of_the_prior_predictive_has_its_closed_form(posterior: uq.Posterior) -> None:
    found = uq.diagnostics.predictive_check(posterior, lambda y: y.mean("observation"), group="prior")
    sd = np.sqrt(np.sum(JACOBIAN.mean(axis=0) ** 2) + SD**2 / 4.0)
    assert found.observed == pytest.approx(DATA.mean())
    assert found.replicated.std() == pytest.approx(sd, rel=5.0 / np.sqrt(2 * len(found.replicated)))
    assert found.p == pytest.approx(chi2.sf((DATA.mean() / sd) ** 2, 1), abs=0.1)


def test_a_statistic_far_from_the_model_has_a_small_p(posterior: uq.Posterior) -> None:
    found = uq.diagnostics.predictive_check(posterior, lambda y: (y + 0.0 * y).max("observation"))
    assert found.p > 0.05
    data = DATA + np.array([0.0, 0.0, 4.0, 0.0])
    theta = exact_draws(JACOBIAN, data, SD, 1000, np.random.default_rng(4))
    outlier = given_posterior(linear_problem(JACOBIAN, data, SD), theta)
    found = uq.diagnostics.predictive_check(outlier, lambda y: y.max("observation") - y.min("observation"))
    assert found.p < 0.01
    assert repr(found).startswith("<PredictiveCheck (posterior): observed 5.2, the model")


@pytest.mark.parametrize(
    "statistic", [lambda y: y, lambda y: y.mean(), lambda y: y.mean("observation") * np.nan, lambda y: y.sel(q=1)]
)
def test_what_a_statistic_has_to_return(posterior: uq.Posterior, statistic: object) -> None:
    with pytest.raises(InputError, match="predictive_check: the statistic"):
        uq.diagnostics.predictive_check(posterior, statistic)


# --- figures --------------------------------------------------------------------------------------------------------


def test_figures_show_what_was_found(posterior: uq.Posterior) -> None:
    found = uq.diagnostics.identifiability(posterior)
    bars, parts = uq.plots.identifiability(found).axes
    assert [bar.get_width() for bar in bars.patches] == pytest.approx(found.direction_contraction.values)
    assert np.abs(np.asarray(parts.images[0].get_array())) == pytest.approx(np.abs(found.directions.values))
    profile = uq.diagnostics.profile_likelihood(posterior, "c", n=15)
    (ax,) = uq.plots.profile(profile, labels={"c": "level"}).axes
    assert ax.get_xlabel() == "level"
    assert ax.lines[0].get_xdata() == pytest.approx(profile.curve["c"].values)
    assert (ax.get_title() == "identified") == profile.identified
    for function in (uq.plots.identifiability, uq.plots.profile):
        with pytest.raises(InputError, match=f"plots.{function.__name__}"):
            function([1])
