"""The surrogate's error is one random function: coverage with the shipped likelihood, and with its error planted wrong.

The data come from the surrogate's own law, simulated here from the definition and not by the library: theta from the
prior, one joint draw of the error over conditions, one draw of the truncation a condition, noise for each replicate.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from calibration.problems import linear_surrogate, matern52, replicates
from scipy.stats import binom

import uqms as uq
from uqms.calibration import single
from uqms.calibration.joint_error import FEW, scores_of
from uqms.calibration.likelihood import Cells, arrange
from uqms.surrogates import GaussianProcessSurrogate, Scores

REPEATS = 600
LOW, HIGH = (binom(REPEATS, 0.95).ppf(p) / REPEATS for p in (0.005, 0.995))
GRID = np.linspace(-6.0, 6.0, 601)
ERROR_SD = NOISE_SD = 0.5
ELL = 0.3


def simulate(rng: np.random.Generator, x: np.ndarray, copies: int, truncation_sd: float) -> tuple[float, np.ndarray]:
    """Return theta and values (K, R)."""
    theta = rng.standard_normal()
    covariance = ERROR_SD**2 * matern52(x[:, None] - x[None, :], ELL)
    error = rng.multivariate_normal(np.zeros(len(x)), covariance, method="cholesky")
    shared = theta + error + truncation_sd * rng.standard_normal(len(x))
    return theta, shared[:, None] + NOISE_SD * rng.standard_normal((len(x), copies))


def coverage(x: np.ndarray, copies: int, truncation_sd: float = 0.0, repeats: int = REPEATS) -> float:
    """Return how often the 95 % interval of the posterior, by quadrature of the shipped likelihood, holds theta."""
    truncation = np.full((1, 1), truncation_sd) if truncation_sd else None
    surrogate = linear_surrogate(1.0, ERROR_SD, ell_x=ELL, truncation=truncation)
    log_prior = -0.5 * GRID**2
    _, first = simulate(np.random.default_rng(0), x, copies, truncation_sd)
    layout = uq.Calibration(surrogate, replicates(first, x), uq.GaussianNoise(sd=NOISE_SD))
    hits = 0
    for seed in range(1, repeats + 1):
        theta, values = simulate(np.random.default_rng(seed), x, copies, truncation_sd)
        problem = layout.with_values(values.ravel())
        log_density = problem.log_likelihood({"theta": GRID}) + log_prior
        weight = np.exp(log_density - log_density.max())
        cumulative = np.cumsum(weight) / weight.sum()
        low, high = np.interp([0.025, 0.975], cumulative, GRID)
        hits += low <= theta <= high
    return hits / repeats


ONE, FOUR = np.array([0.5]), np.array([0.2, 0.4, 0.6, 0.8])


@pytest.mark.slow
@pytest.mark.parametrize("copies", [1, 5, 20, 100])
def test_replicates_share_one_error(copies: int) -> None:
    assert LOW <= coverage(ONE, copies) <= HIGH


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 2), (1, 3, 2), (4, 3, 2), (1, FEW + 1, 2)])
def test_scores_of_few_inputs_from_compiled_code_are_those_of_the_matrices(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    x = rng.random((30, 2))
    runs = uq.ensemble.build({"a": x[:, 0], "b": x[:, 1]}, {"y": np.sin(4.0 * x[:, 0]), "z": x[:, 0] * x[:, 1]})
    surrogate = uq.GaussianProcess().fit(runs)
    u = rng.random(shape)
    one, other = scores_of(surrogate, u), surrogate.scores(u)
    assert [part.shape for part in one] == [part.shape for part in other]
    np.testing.assert_array_equal(one.log_weights, other.log_weights)
    np.testing.assert_allclose(one.mean, other.mean, atol=1e-7)  # conditions of matrices up to 1e9 times rounding
    np.testing.assert_allclose(one.covariance, other.covariance, atol=1e-9 * surrogate.process.variance.max())


def test_four_conditions_have_correlated_errors() -> None:
    assert LOW <= coverage(FOUR, 20) <= HIGH


@pytest.mark.slow
def test_truncation_as_large_as_the_noise_is_shared_by_replicates() -> None:
    assert LOW <= coverage(ONE, 20, truncation_sd=NOISE_SD) <= HIGH


def per_replicate(cells: Cells) -> Cells:
    """Plant the bug: the variance of error and truncation comes anew with every replicate, as if it were noise."""
    variance = (cells.basis[:, 0] * ERROR_SD) ** 2 + np.sum(cells.truncation**2, axis=1)
    row_variance = cells.row_variance + variance[cells.row_cell] / NOISE_SD**2
    return replace(cells, row_variance=row_variance, truncation=0.0 * cells.truncation)


def planted(change: Callable[[Cells], Cells]) -> Callable[..., object]:
    def arranged(*args: object) -> object:
        cells, groups = arrange(*args)
        return change(cells), groups

    return arranged


def planted_scores(change: Callable[[np.ndarray], np.ndarray]) -> Callable[..., Scores]:
    right = GaussianProcessSurrogate.scores

    def scores(self: GaussianProcessSurrogate, u: np.ndarray) -> Scores:
        found = right(self, u)
        return found._replace(covariance=change(found.covariance))

    return scores


def independent(covariance: np.ndarray) -> np.ndarray:
    return covariance * np.eye(covariance.shape[-1])


def shared(covariance: np.ndarray) -> np.ndarray:
    sd = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
    return sd[..., :, None] * sd[..., None, :]


def test_planted_error_independent_over_replicates_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single, "arrange", planted(per_replicate))
    monkeypatch.setattr(GaussianProcessSurrogate, "scores", planted_scores(np.zeros_like))
    assert coverage(ONE, 100, repeats=200) < 0.45


@pytest.mark.slow
def test_planted_error_independent_over_conditions_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GaussianProcessSurrogate, "scores", planted_scores(independent))
    assert coverage(FOUR, 20) < LOW


@pytest.mark.slow
def test_planted_error_shared_by_all_conditions_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GaussianProcessSurrogate, "scores", planted_scores(shared))
    spread = np.array([0.0, 0.33, 0.67, 1.0])
    found = coverage(spread, 20)
    assert not LOW <= found <= HIGH


def test_planted_truncation_new_for_every_replicate_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without an error of the scores, the truncation is all that replicates share.
    monkeypatch.setattr(f"{__name__}.ERROR_SD", 1e-3)
    monkeypatch.setattr(single, "arrange", planted(per_replicate))
    assert coverage(ONE, 20, truncation_sd=NOISE_SD, repeats=200) < 0.60


@pytest.mark.parametrize("copies", [1, 5, 20, 100])
def test_quadrature_equals_the_closed_form(copies: int) -> None:
    theta, values = simulate(np.random.default_rng(3), FOUR, copies, 0.2)
    surrogate = linear_surrogate(1.0, ERROR_SD, ell_x=ELL, truncation=np.full((1, 1), 0.2))
    problem = uq.Calibration(surrogate, replicates(values, FOUR), uq.GaussianNoise(sd=NOISE_SD))
    log_density = problem.log_likelihood({"theta": GRID}) - 0.5 * GRID**2
    weight = np.exp(log_density - log_density.max())
    mean = np.sum(weight * GRID) / weight.sum()
    sd = np.sqrt(np.sum(weight * (GRID - mean) ** 2) / weight.sum())
    covariance = ERROR_SD**2 * matern52(FOUR[:, None] - FOUR[None, :], ELL)
    covariance += (0.2**2 + NOISE_SD**2 / copies) * np.eye(4)
    solved = np.linalg.solve(covariance, np.ones(4))
    precision = 1.0 + solved.sum()
    assert mean == pytest.approx(solved @ values.mean(axis=1) / precision, abs=1e-6)
    assert sd == pytest.approx(precision**-0.5, rel=1e-6)
