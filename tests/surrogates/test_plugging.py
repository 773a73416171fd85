"""Derivative and function draws from `scores` alone: against the derivatives and the law of a Gaussian process."""

from typing import Any

import numpy as np
import pytest

import uqms as uq
from uqms.errors import InputError
from uqms.surrogates import GaussianProcessSurrogate, draws_from_scores, reverse_by_differences
from uqms.surrogates.plugging import ScoreDraws

SPACE = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))


@pytest.fixture(scope="module")
def fitted() -> GaussianProcessSurrogate:
    design = uq.sobol(SPACE, 8, rng=2)
    a, b = design["a"].values, design["b"].values
    runs = uq.ensemble.build(design, {"y": np.sin(4.0 * a) + b**2, "z": np.exp(a * b)}, space=SPACE)
    return uq.GaussianProcess(hyperparameters="averaged").fit(runs)


def test_differences_agree_with_the_exact_derivative(
    fitted: GaussianProcessSurrogate, rng: np.random.Generator
) -> None:
    u = rng.random((3, 2))
    mean_bar, covariance_bar = rng.standard_normal((16, 3, 2)), rng.standard_normal((16, 2, 3, 3))
    exact = fitted.scores_reverse(u, mean_bar, covariance_bar)
    found = reverse_by_differences(fitted.scores, u, mean_bar, covariance_bar)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5 * np.abs(exact).max())


class Drawn:
    """The Gaussian process with draws from its scores."""

    def __init__(self, inner: GaussianProcessSurrogate) -> None:
        self.domain, self.layouts, self.scores = inner.domain, inner.layouts, inner.scores
        self.scores_reverse, self.decode = inner.scores_reverse, inner.decode

    def functions(self, n: int, rng: Any) -> ScoreDraws:
        return draws_from_scores(self, n, rng, anchors=64)


def test_draws_from_scores_are_those_of_the_mixture(fitted: GaussianProcessSurrogate) -> None:
    uq.testing.check_surrogate(Drawn(fitted)).raise_failed()


def test_draws_go_through_what_is_known_exactly(fitted: GaussianProcessSurrogate) -> None:
    at_runs = draws_from_scores(fitted, 50, 1, anchors=64)(fitted.process.x)
    np.testing.assert_allclose(at_runs, np.broadcast_to(fitted.process.y, at_runs.shape), atol=1e-3)


def test_a_surrogate_whose_errors_are_rounding_has_draws_too() -> None:
    design = uq.sobol(uq.ParameterSpace(a=uq.Uniform(0.0, 1.0)), 30, rng=1)
    surrogate = uq.GaussianProcess(hyperparameters="point").fit(uq.ensemble.build(design, {"y": design["a"].values}))
    u = np.linspace(0.0, 1.0, 7)[:, None]
    drawn = draws_from_scores(surrogate, 20, 1)(u)
    np.testing.assert_allclose(drawn, np.broadcast_to(surrogate.scores(u).mean, drawn.shape), atol=1e-4)


def test_no_draws_are_refused(fitted: GaussianProcessSurrogate) -> None:
    with pytest.raises(InputError, match="whole numbers from 1"):
        draws_from_scores(fitted, 0, 1)
