"""The data model is frozen, and a copy with other data, noise or surrogate has nothing that was computed of the old."""

from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from tests.frozen.problems import PROBLEMS
from uqms.calibration.joint_error import JointError, OutputLaw


@pytest.fixture(scope="module")
def problem() -> Any:
    return PROBLEMS["curve_averaged"]()


def test_a_model_is_frozen(problem: Any) -> None:
    with pytest.raises(FrozenInstanceError):
        problem.data_model.sampled = True
    with pytest.raises(AttributeError):
        problem.cells = problem.cells


def test_a_copy_computes_its_own(problem: Any) -> None:
    model = problem.data_model
    theta = problem.prior_draws(3, 1)
    before = problem.log_likelihood(theta)
    other = problem.with_wider_noise(2.0)
    assert other.data_model.gaussian is not model.gaussian
    assert not np.allclose(other.log_likelihood(theta), before)
    np.testing.assert_array_equal(problem.log_likelihood(theta), before)
    assert other.data_model.gaussian is other.data_model.gaussian


def test_what_is_known_of_a_surrogate_goes_with_it(problem: Any) -> None:
    model = problem.data_model
    draws = len(model.surrogate.process.log_weights)
    assert model.mean_slopes(problem.unit_inputs(problem.prior_draws(2, 1))).shape[0] == draws
    assert "_of_surrogate" in model.replaced(cells=model.cells).__dict__
    other = PROBLEMS["scalar_one"]().surrogate
    assert "_of_surrogate" not in model.replaced(surrogate=other).__dict__


def test_the_form_follows_from_the_parts(problem: Any) -> None:
    model = problem.data_model
    assert (model.form, model.closed_form) == ("independent", True)
    sampled = model.with_sampled_errors()
    assert (sampled.form, sampled.closed_form, model.sampled) == ("latent", False, False)
    assert PROBLEMS["curve_autocorrelated"]().data_model.form == "correlated"


@pytest.mark.parametrize("used", [slice(None), slice(1), slice(0)])
def test_the_law_given_a_hyperparameter_draw_is_that_of_all_draws(problem: Any, used: slice) -> None:
    model, rng = problem.data_model, np.random.default_rng(1)
    u, scores = rng.uniform(size=(7, model.cells.experiments, model.surrogate.domain.d)), model.used[used]
    h = rng.integers(model.surrogate.process.draws, size=7)
    assert len(set(h.tolist())) > 1
    arguments = model.surrogate, model.cells, model.cells.experiment, u, scores
    alone, whole = OutputLaw.of(*arguments, h), JointError.of(*arguments).given(h)
    np.testing.assert_allclose(alone.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(alone.covariance, whole.covariance, rtol=1e-10, atol=1e-14)
