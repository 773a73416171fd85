"""Climbs by the average information: against dense algebra, finite differences and another optimiser."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize

import uqms as uq
from uqms._typing import Array
from uqms.errors import FitError
from uqms.surrogates import RationalQuadratic, climbing
from uqms.surrogates._dense import fill_adjoint
from uqms.surrogates.adapted import Adapted, forward_logs
from uqms.surrogates.climbing import climb
from uqms.surrogates.kernels import Kernel, hyperparameter_count, scale_count
from uqms.surrogates.training import (
    Noise,
    bounds_of,
    density,
    factorise,
    log_posterior,
    nugget_of,
    objective,
    prior_of,
    trend_basis,
)

D, N = 3, 30
M52, SE = uq.Matern52(), uq.SquaredExponential()
KERNELS = (
    M52,
    uq.Matern32(),
    uq.Matern72(),
    uq.Matern112(),
    SE,
    RationalQuadratic(),
    M52 + SE,
    M52 * SE,
    Adapted(M52),
    Adapted(M52, amplitude=False),
    Adapted(M52 + SE, directions=False),
    Adapted(RationalQuadratic()),
    uq.MainEffects(M52),
)
NOISES: dict[str, Noise] = {"none": False, "fitted": True, "known": np.random.default_rng(8).uniform(0.2, 2.0, N)}


def runs() -> tuple[Array, Array]:
    rng = np.random.default_rng(1)
    x = rng.random((N, D))
    y = np.sin(4.0 * (x[:, 0] - x[:, 1])) * np.exp(x[:, 2]) + 0.05 * rng.standard_normal(N)
    return x, (y - y.mean()) / y.std()


def point_of(kernel: Kernel, noise: Noise, seed: int = 0) -> Array:
    p = 0.4 * np.random.default_rng(seed).standard_normal(hyperparameter_count(kernel, D))
    return p if noise is False else np.append(p, -2.0)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_products_with_a_vector_are_derivatives(kernel: Kernel) -> None:
    rng = np.random.default_rng(2)
    u, x, v, p = rng.random((5, D)), rng.random((7, D)), rng.standard_normal(7), point_of(kernel, False)
    found = forward_logs(kernel.linearised(u, x, np.exp(p)), v)
    steps = 1e-5 * np.eye(len(p))
    expected = [(kernel.correlation(u, x, np.exp(p + e)) - kernel.correlation(u, x, np.exp(p - e))) @ v for e in steps]
    np.testing.assert_allclose(found, np.transpose(expected) / 2e-5, rtol=1e-6, atol=1e-8)


def test_other_kernels_have_none() -> None:
    with pytest.raises(TypeError, match="no correlation of a scaled distance"):
        forward_logs(object(), np.ones(3))  # type: ignore[arg-type]


@pytest.mark.parametrize("columns", [1, 4])
@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize("kernel", [M52, Adapted(M52), M52 + SE], ids=str)
def test_information_is_its_formula(kernel: Kernel, noise: Noise, columns: int) -> None:
    """Covariances and their derivatives by differences, the variance among the parameters, then taken out."""
    x, y = runs()
    trend, p = trend_basis(x, columns), point_of(kernel, noise)
    size = hyperparameter_count(kernel, D)

    def covariance(at: Array) -> Array:
        whole = (
            kernel.correlation(x, x, np.exp(at[:size])) + 1e-12 * np.eye(N) + np.diag(np.ones(N) * nugget_of(at, noise))
        )
        return np.asarray(whole / (math.exp(at[-1]) if isinstance(noise, np.ndarray) else 1.0))

    inverse = np.linalg.inv(covariance(p))
    projected = inverse - inverse @ trend @ np.linalg.solve(trend.T @ inverse @ trend, trend.T @ inverse)
    variance = 1.0 if isinstance(noise, np.ndarray) else float(y @ projected @ y) / (N - columns)
    steps = 1e-5 * np.eye(len(p))
    moved = np.transpose([(covariance(p + e) - covariance(p - e)) @ projected @ y / 2e-5 for e in steps])
    if not isinstance(noise, np.ndarray):
        moved = np.column_stack([moved, covariance(p) @ projected @ y])  # by the logarithm of the variance
    expected = 0.5 * moved.T @ projected @ moved / variance
    if not isinstance(noise, np.ndarray):
        expected = expected[:-1, :-1] - np.outer(expected[:-1, -1], expected[-1, :-1]) / expected[-1, -1]
    found = climbing._information(p, density(p, x, y, trend, kernel, noise), y, noise)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("of_logs", [False, True])
@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize("kernel", [M52, Adapted(M52), M52 + SE], ids=str)
def test_a_climb_ends_at_the_mode(kernel: Kernel, noise: Noise, of_logs: bool) -> None:
    x, y = runs()
    trend, start = trend_basis(x, 1), point_of(kernel, noise, 3)
    jacobian = np.zeros(len(start))
    jacobian[: scale_count(kernel, D)] = float(of_logs)

    def negative(p: Array) -> tuple[float, Array]:
        value, gradient = objective(p, x, y, trend, kernel, noise)
        return value - float(jacobian @ p), gradient - jacobian

    found = climb(x, y, trend, kernel, noise, start, 1e-7, of_logs)
    bounds = bounds_of(kernel, D, noise)
    further = minimize(negative, found.point, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-13})
    assert found.value - further.fun < 1e-5
    assert found.value == pytest.approx(negative(found.point)[0], abs=1e-9)
    if not isinstance(kernel, uq.surrogates.Sum):  # which has several modes
        limits = {"ftol": 1e-10, "maxiter": 500}
        other = minimize(negative, start, jac=True, method="L-BFGS-B", bounds=bounds, options=limits)
        assert found.value < other.fun + 0.1
    scale = prior_of(kernel, D, noise)[1]
    assert np.linalg.eigvalsh(found.covariance).min() > 0.0
    assert np.all(np.diag(found.covariance) <= scale**2 * (1.0 + 1e-9))  # the runs add information to the prior


def test_bounds_hold() -> None:
    """Of a plane the length scales would be endless, but for their prior; a start outside is moved in."""
    x, _ = runs()
    y = x @ np.array([1.0, -2.0, 0.5])
    y = (y - y.mean()) / y.std()
    low, high = bounds_of(M52, D, False).T
    found = climb(x, y, trend_basis(x, 1), M52, False, np.full(D, 20.0), 1e-6)
    assert np.all(found.point >= low)
    assert np.all(found.point <= high)
    inside = climb(x, y, trend_basis(x, 1), M52, False, np.zeros(D), 1e-6)
    assert found.value == pytest.approx(inside.value, abs=0.01)


def test_what_is_far_behind_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = runs()
    kernel, counts = Adapted(M52), []

    def counted(*arguments: object) -> object:
        counts[-1] += 1
        return density(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(climbing, "density", counted)
    ends = []
    whole = -math.inf
    for hopeless in (math.inf, 50.0, -200.0):
        counts.append(0)
        ends.append(
            climb(x, y, trend_basis(x, 1), kernel, False, point_of(kernel, False, 5), 1e-5, False, hopeless).value
        )
        whole = max(whole, ends[0])
    assert ends[1] == ends[0]
    assert counts[2] < counts[0]
    assert ends[2] > ends[0]


def test_a_step_to_where_runs_cannot_be_told_apart_is_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = runs()
    expected = climb(x, y, trend_basis(x, 1), M52, False, np.zeros(D), 1e-6)
    calls = []

    def failing(p: Array, *arguments: object) -> object:
        calls.append(p)
        if len(calls) == 2:
            raise FitError("singular")
        return density(p, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(climbing, "density", failing)
    found = climb(x, y, trend_basis(x, 1), M52, False, np.zeros(D), 1e-6)
    assert found.value == pytest.approx(expected.value, abs=1e-5)
    np.testing.assert_allclose(calls[2], 0.1 * calls[1], rtol=1e-12)


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_log_posterior_is_dense_algebra(kernel: Kernel, noise: Noise) -> None:
    x, y = runs()
    trend, p = trend_basis(x, 4), point_of(kernel, noise)
    size = hyperparameter_count(kernel, D)
    lower, _ = factorise(kernel.correlation(x, x, np.exp(p[:size])), nugget_of(p, noise))
    inverse = np.linalg.inv(lower).T @ np.linalg.inv(lower)
    information = trend.T @ inverse @ trend
    projected = inverse - inverse @ trend @ np.linalg.solve(information, trend.T @ inverse)
    squares = float(y @ projected @ y)
    location, scale = prior_of(kernel, D, noise)
    expected = -np.log(np.diag(lower)).sum() - 0.5 * np.linalg.slogdet(information)[1]
    expected -= 0.5 * float(np.sum(((p - location) / scale) ** 2))
    if isinstance(noise, np.ndarray):
        expected -= 0.5 * (math.exp(p[-1]) * squares - (N - 4) * p[-1])
    else:
        expected -= 0.5 * (N - 4) * math.log(squares)
    assert log_posterior(p, x, y, trend, kernel, noise) == pytest.approx(expected, rel=1e-9)


def test_runs_that_cannot_be_told_apart_have_no_posterior() -> None:
    x, y = runs()
    x[1] = np.nan
    with pytest.raises(FitError, match="not positive definite"):
        log_posterior(np.zeros(D), x, y, trend_basis(x, 1)[:, :1], M52, False)


@pytest.mark.parametrize("n", [1, 15, 16, 40])
def test_adjoint_is_its_formula(n: int) -> None:
    rng = np.random.default_rng(n)
    whole, left, right, weights = rng.random((n, n)), rng.random((2, n)), rng.random((2, n)), rng.random(n)
    both = left.T @ right
    inverse, both = whole + whole.T, both + both.T
    left, right = np.vstack([left, right]), np.vstack([right, left])
    matrix = np.triu(inverse)
    fill_adjoint(matrix, left, right, weights, 1.7)
    np.testing.assert_allclose(
        matrix, 0.5 * (1.7 * np.outer(weights, weights) - inverse + both), rtol=1e-12, atol=1e-12
    )
