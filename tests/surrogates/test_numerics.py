"""G1, G5 and G7: nasty designs are factorised, fitted and predicted; starts find the best optimum; no silent solver."""

import warnings

import numpy as np
import pytest
from scipy.linalg import cho_solve

import uqms as uq
from uqms._typing import Array
from uqms.surrogates import training as T
from uqms.surrogates.kernels import Kernel, Matern52, SquaredExponential, correlation
from uqms.surrogates.process import condition, scores_at
from uqms.surrogates.training import Hyperparameters

RNG = np.random.default_rng(1)
SPREAD = RNG.random((20, 2))
DESIGNS: dict[str, tuple[Array, Array]] = {
    "spread": (SPREAD, np.array([0.5, 0.5])),
    "duplicates": (np.repeat(SPREAD[:7], 3, axis=0), np.array([0.5, 0.5])),
    "near-duplicates": (np.vstack([SPREAD[:10], SPREAD[:10] + 1e-9]), np.array([0.5, 0.5])),
    "all equal": (np.full((8, 2), 0.3), np.array([0.5, 0.5])),
    "constant column": (SPREAD * [1.0, 0.0], np.array([0.5, 0.5])),
    "collinear columns": (SPREAD[:, :1] * [1.0, 2.0], np.array([0.5, 0.5])),
    "grid": (np.stack(np.meshgrid(*[np.linspace(0, 1, 6)] * 2), -1).reshape(-1, 2), np.array([0.5, 0.5])),
    "cluster": (0.5 + 1e-5 * SPREAD, np.array([0.5, 0.5])),
    "cluster and one": (np.vstack([0.5 + 1e-6 * SPREAD, [[0.0, 0.0]]]), np.array([0.5, 0.5])),
    "one run": (SPREAD[:1], np.array([0.5, 0.5])),
    "fewer runs than inputs": (RNG.random((2, 5)), np.full(5, 0.5)),
    "huge units": (1e12 * SPREAD, np.array([5e11, 5e11])),
    "tiny units": (1e-12 * SPREAD, np.array([5e-13, 5e-13])),
    "huge length scale": (SPREAD, np.array([1e3, 1e3])),
    "tiny length scale": (SPREAD, np.array([1e-2, 1e-2])),
    "mixed length scales": (SPREAD, np.array([1e-2, 1e3])),
    "pile-up at the boundary": (np.round(SPREAD), np.array([0.5, 0.5])),
    "many in one dimension": (np.linspace(0.0, 1.0, 200)[:, None], np.array([0.5])),
}


@pytest.mark.parametrize("kernel", [SquaredExponential(), Matern52()])
@pytest.mark.parametrize("name", DESIGNS)
def test_nasty_designs_are_factorised_and_predicted(name: str, kernel: Kernel) -> None:  # G1
    x, ell = DESIGNS[name]
    y = np.sin(3.0 * x[:, 0] / ell[0]) + np.cos(x[:, -1] / ell[-1])
    before = np.geterr()
    found = Hyperparameters(ell, 0.0, 0.0, 0.0, 0, False)
    process = condition(kernel, x, y[:, None], 0, [found])
    u = np.vstack([x, x + 0.3 * ell, x + 1e-9 * ell])
    scores = scores_at(process, u, diagonal=True)
    assert np.isfinite(scores.mean).all()
    assert np.isfinite(scores.covariance).all()
    assert (scores.covariance >= 0.0).all()
    assert process.jitter.max() <= 1.001e-6
    joint = scores_at(process, u[:30]).covariance[0, 0]
    assert np.linalg.eigvalsh(joint).min() > -1e-5 * process.variance.max()  # rounding, jitter is 1e-12
    value, gradient = T.objective(np.log(ell), x, y, T.trend_basis(x, 0), kernel, False)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert np.geterr() == before


@pytest.mark.parametrize("kernel", [SquaredExponential(), Matern52()])
@pytest.mark.parametrize("name", ["near-duplicates", "cluster", "grid", "pile-up at the boundary", "duplicates"])
def test_nasty_ensembles_are_fitted(name: str, kernel: Kernel) -> None:  # G1
    x, _ = DESIGNS[name]
    y = np.sin(3.0 * x[:, 0]) + x[:, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # duplicates are merged with a warning, jitter is told
        fitted = uq.GaussianProcess(kernel).fit(uq.ensemble.build({"a": x[:, 0], "b": x[:, 1]}, {"y": y}))
    prediction = fitted.predict({"a": x[:, 0], "b": x[:, 1]})
    assert (prediction.variance["y"] >= 0.0).all()
    np.testing.assert_allclose(prediction.mean["y"], y, atol=1e-3 * max(1e-9, np.ptp(y)) + 1e-12 * np.abs(y).max())


def random_problem(seed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    d = int(rng.integers(1, 5))
    n = int(rng.integers(4 * d + 4, 12 * d + 8))
    x, w = rng.random((n, d)), rng.standard_normal((3, d))
    y = np.sin(4.0 * x @ w[0]) + np.exp(x @ w[1]) * (seed % 2) + np.abs(x @ w[2]) * (seed % 3 == 0)
    return x, (y - y.mean()) / y.std()


@pytest.mark.slow
@pytest.mark.parametrize("problems", [8, 40])
def test_the_starts_find_what_fifty_starts_find(problems: int) -> None:  # G5
    short = []
    for seed in range(1, problems + 1):
        x, y = random_problem(seed)
        d, trend = x.shape[1], T.trend_basis(x, 1)
        found = T.train(x, y, Matern52(), trend, False)
        short.append(max(fifty(x, y, d, trend)) - found.objective)
    assert np.mean(np.array(short) <= 0.1) >= 0.95


def fifty(x: Array, y: Array, d: int, trend: Array) -> list[float]:
    from scipy.optimize import minimize

    rng = np.random.default_rng(9)
    values = []
    for _ in range(50):
        start = rng.uniform(np.log(0.05), np.log(10.0), d)
        bounds = [tuple(np.log(T.ELL_BOUNDS))] * d
        found = minimize(T.objective, start, (x, y, trend, Matern52(), False), "L-BFGS-B", jac=True, bounds=bounds)
        values.append(-float(found.fun))
    return values


def test_optima_at_a_bound_are_told() -> None:  # G5
    x = np.random.default_rng(2).random((30, 2))
    found = T.train(x, np.sin(3.0 * x[:, 0]), SquaredExponential(), T.trend_basis(x, 1), False)
    assert found.at_bound is bool(np.isclose(found.ell, T.ELL_BOUNDS[1], rtol=1e-5).any())
    rough = T.train(x, np.sign(np.sin(4000.0 * x[:, 0])), SquaredExponential(), T.trend_basis(x, 1), False)
    assert rough.at_bound is bool(np.isclose(rough.ell, T.ELL_BOUNDS[0], rtol=1e-5).any())


def test_a_thousand_runs_are_solved_exactly() -> None:  # G7
    rng = np.random.default_rng(4)
    x, u, ell = rng.random((1000, 3)), rng.random((20, 3)), np.array([0.3, 0.5, 0.8])
    y = np.sin(5.0 * x[:, 0]) * x[:, 1] + x[:, 2]
    process = condition(Matern52(), x, y[:, None], 0, [Hyperparameters(ell, 1e-6, 0.0, 0.0, 0, False)], [1.7])
    kappa = 1.7 * (correlation(Matern52(), x, x, ell) + (1e-6 + process.jitter[0, 0]) * np.eye(1000))
    lower, cross = np.linalg.cholesky(kappa), 1.7 * correlation(Matern52(), u, x, ell)
    scores = scores_at(process, u)
    np.testing.assert_allclose(scores.mean[0, :, 0], cross @ cho_solve((lower, True), y), rtol=1e-8)
    expected = 1.7 * correlation(Matern52(), u, u, ell) - cross @ cho_solve((lower, True), cross.T)
    np.testing.assert_allclose(scores.covariance[0, 0], expected, rtol=1e-8, atol=1e-8 * 1.7)
