"""Trends of effects along covariates: generalised least squares of the data, whatever the shrinkage."""

import numpy as np
import pandas as pd
import pytest
from calibration.population.test_population import COVARIATES, problem
from calibration.population.test_prediction import posterior_of
from plots_of_populations import with_subjects
from scipy.stats import t as student

import uqms as uq
from uqms.calibration.posterior import Posterior
from uqms.diagnostics.covariates import own_trend
from uqms.errors import DataError, InputError

HEIGHT = COVARIATES.assign(height=[160.0, 175.0, 170.0, 181.0, 168.0])


@pytest.fixture(scope="module")
def posterior() -> Posterior:
    return with_subjects(posterior_of(problem(), 60))


def test_the_trend_is_generalised_least_squares_of_the_data() -> None:
    """y_j = effect_j + noise of known sd: all posteriors are normal, and the best line through y_j is known."""
    rng, J, omega2 = np.random.default_rng(1), 40, 0.5
    c = rng.uniform(40.0, 100.0, J)
    noise = rng.uniform(0.1, 3.0, J)  # variances: some subjects say much, some next to nothing
    y = 0.03 * (c - 70.0) + np.sqrt(omega2) * rng.standard_normal(J) + np.sqrt(noise) * rng.standard_normal(J)
    mean, variance = omega2 / (omega2 + noise) * y, omega2 * noise / (omega2 + noise)
    found = own_trend(mean, variance, omega2, c)
    design, weight = np.column_stack([np.ones(J), c]), 1.0 / (omega2 + noise)
    covariance = np.linalg.inv(design.T @ (weight[:, None] * design))
    line = covariance @ design.T @ (weight * y)
    assert found.slope == pytest.approx(line[1], rel=1e-10)
    assert found.slope_sd == pytest.approx(np.sqrt(covariance[1, 1]), rel=1e-10)
    at = np.array([50.0, 90.0])
    rows = np.column_stack([np.ones(2), at])
    middle, low, high = found.band(at, 0.9)
    np.testing.assert_allclose(middle, rows @ line, rtol=1e-9)
    half = student.ppf(0.95, J - 2) * np.sqrt(np.einsum("ij,jk,ik->i", rows, covariance, rows))
    np.testing.assert_allclose(high - middle, half, rtol=1e-9)
    np.testing.assert_allclose(middle - low, half, rtol=1e-9)
    flat = np.polyfit(c, mean, 1)[0]
    assert abs(flat) < 0.7 * abs(found.slope)  # what a line through posterior means would say


def test_the_table_has_effects_of_the_model_and_trends_of_others(posterior: Posterior) -> None:
    table = uq.diagnostics.covariate_trends(posterior, HEIGHT)
    assert list(table.index) == [
        ("a", "weight"),
        ("a", "female"),
        ("a", "height"),
        ("b", "log(weight / 70)"),
        ("b", "female"),
        ("b", "height"),
    ]
    assert table["in the model"].tolist() == [False, False, False, True, True, False]
    draws = posterior.draws["beta_b_weight"].values.ravel()
    row = table.loc[("b", "log(weight / 70)")]
    assert row["slope"] == pytest.approx(draws.mean())
    assert row["97.5%"] == pytest.approx(np.quantile(draws, 0.975))
    assert table.loc[("b", "female"), "slope"] == pytest.approx(0.1)  # known
    assert table.loc[("b", "female"), "sd"] == 0.0
    few = uq.diagnostics.covariate_trends(posterior, HEIGHT, covariates=["height"], prob=0.5)
    assert list(few.columns) == ["in the model", "slope", "sd", "25%", "75%"]
    assert list(few.index) == [("a", "height"), ("b", "height")]
    assert few.loc[("a", "height"), "slope"] == table.loc[("a", "height"), "slope"]


def test_covariates_that_are_refused(posterior: Posterior) -> None:
    trends = uq.diagnostics.covariate_trends
    with pytest.raises(InputError, match="no row for \\['s4'\\]"):
        trends(posterior, HEIGHT.iloc[:4])
    with pytest.raises(InputError, match="there are \\['weight', 'female'\\]"):
        trends(posterior, covariates=["height"])
    with pytest.raises(DataError, match="'smoker' has values that are no numbers, such as 'yes'"):
        trends(posterior, HEIGHT.assign(smoker=["yes", "no", "no", "no", "no"]))
    with pytest.raises(DataError, match="'height' is the same"):
        trends(posterior, HEIGHT.assign(height=1.0))
    with pytest.raises(InputError, match="posterior of a population"):
        trends(pd.DataFrame())  # type: ignore[arg-type]
