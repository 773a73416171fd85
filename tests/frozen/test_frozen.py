"""Densities and gradients are those that were frozen, problem by problem; `make.py` says how they are written.

The likelihood is evaluated in two ways that share little: with arrays, for many points at once, and as the density of
the PyMC model, with its gradient.
"""

import json
from typing import Any

import numpy as np
import pytest

from tests.frozen.problems import PROBLEMS
from tests.frozen.values import VALUES, Target, log_likelihood

STORED: dict[str, Any] = json.loads(VALUES.read_text()) if VALUES.exists() else {}
VALUE, GRADIENT = 1e-9, 1e-7  # of 1 + |value|; of the gradient's norm
# Length scales of 35 and 68 boxes: the runs' covariance is nearly singular, and machines' BLAS differ by up to 6e-9.
CANCELS = {"success_reported": 3e-8, "success_impossible": 3e-8}
# A second a problem goes into building its graph: gradients of these are near to those of another problem.
SLOW = {
    "discrepancy_gp_unshared",
    "fidelity",
    "local",
    "direct_pytensor_discrepancy",
    "population_occasions",
    "scalar_censored",
    "scalar_sd_column",
    "scalar_fitted_noise_mean",
    "scalar_student_unknown_df",
    "curve_conditions_replicates",
    "curve_one_run_under_two_labels",
    "curve_student_averaged",
    "curve_custom_noise_of_all_rows",
    "curve_autocorrelated_censored",
    "discrepancy_gp_over_all",
    "discrepancy_gp_orthogonal",
    "discrepancy_gp_over_time",
    "discrepancy_gp_averaged",
    "discrepancy_gp_orthogonal_averaged",
    "discrepancy_offset_unshared",
    "discrepancy_scale_averaged",
    "discrepancy_gp_student",
    "several_outputs_averaged",
    "several_outputs_several_noises",
    "log_lognormal_averaged_discrepancy",
    "log_negative_binomial_averaged",
    "logit_gaussian",
    "realisation_of_each_experiment",
    "realisation_of_the_mean",
    "realisation_discrepancy",
    "regimes",
    "success_reported",
    "own_surrogate_discrepancy",
    "direct_pytensor_between_coordinates",
    "direct_numpy_student",
    "population_centred",
    "population_averaged",
    "population_tails_and_shared",
    "population_without_data",
    "population_autocorrelated",
    "population_student",
    "population_several_outputs",
    "population_many_averaged",
    "population_many_occasions_covariates",
}
MODELS = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in PROBLEMS]


def near(name: str, value: float) -> Any:
    return pytest.approx(value, rel=0.0, abs=CANCELS.get(name, VALUE) * (1.0 + abs(value)))


def test_every_problem_is_frozen() -> None:
    assert list(STORED) == list(PROBLEMS)
    assert set(PROBLEMS) > SLOW
    pairs = [point for one in STORED.values() for kind in ("log_likelihood", "model") for point in one[kind]]
    assert len(pairs) >= 600
    assert sum(point.get("gradient") is not None for point in pairs) >= 195


@pytest.mark.parametrize("name", PROBLEMS)
def test_log_likelihoods_are_the_frozen_ones(name: str) -> None:
    problem = PROBLEMS[name]()
    for point in STORED[name]["log_likelihood"]:
        assert log_likelihood(problem, point) == near(name, point["value"]), point["theta"]


@pytest.mark.parametrize("name", MODELS)
def test_densities_and_gradients_of_the_model_are_the_frozen_ones(name: str) -> None:
    target = Target(PROBLEMS[name]())
    for point in STORED[name]["model"]:
        value, slopes = target(point["point"])
        assert value == near(name, point["value"]), point["point"]
        assert target.smooth == (point["gradient"] is not None)
        if target.smooth:
            assert set(slopes) == set(point["gradient"])
            found = np.concatenate([np.ravel(slopes[key]) for key in point["gradient"]])
            wanted = np.concatenate([np.ravel(one) for one in point["gradient"].values()])
            assert np.linalg.norm(found - wanted) <= GRADIENT * np.linalg.norm(wanted), point["point"]
