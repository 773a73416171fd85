"""The training objective against finite differences, GPyTorch and scikit-learn; two starts against twenty."""

import warnings

import gpytorch
import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern

from uqms._typing import Array
from uqms.errors import FitError
from uqms.surrogates import Matern32, Matern52, SquaredExponential
from uqms.surrogates import training as T
from uqms.surrogates.kernels import Kernel, correlation

KERNELS = (SquaredExponential(), Matern32(), Matern52())


def problem(n: int = 25, d: int = 3, seed: int = 1) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    x = rng.random((n, d))
    y = np.sin(3.0 * x[:, 0]) + x[:, 1] * x[:, -1] + 0.1 * rng.standard_normal(n)
    return x, (y - y.mean()) / y.std()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("columns", [0, 1, 4, 10])
@pytest.mark.parametrize("noisy", [False, True])
def test_the_gradient_of_the_objective_equals_finite_differences(kernel: Kernel, columns: int, noisy: bool) -> None:
    x, y = problem()
    args = (x, y, T.trend_basis(x, columns), kernel, noisy)
    point = np.log([0.7, 1.0, 1.5, 0.01][: 3 + noisy])
    gradient = T.objective(point, *args)[1]
    numeric = [
        (T.objective(point + e, *args)[0] - T.objective(point - e, *args)[0]) / 2e-5 for e in 1e-5 * np.eye(len(point))
    ]
    np.testing.assert_allclose(gradient, numeric, rtol=2e-6, atol=2e-6 * np.abs(gradient).max())


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("columns", [0, 1, 4, 10])
def test_the_objective_is_the_restricted_likelihood_at_the_best_variance(kernel: Kernel, columns: int) -> None:
    # What `marginal_log_likelihood` does not hold: beta integrated out under a flat prior, and constants.
    x, y = problem()
    n, b, ell, nugget = len(x), columns, np.array([0.4, 0.6, 0.5]), 0.02
    trend = T.trend_basis(x, columns)
    k = correlation(kernel, x, x, ell) + (nugget + 1e-12) * np.eye(n)
    solved = np.linalg.solve(k, trend)
    information = trend.T @ solved
    beta = np.linalg.solve(information, solved.T @ y) if b else np.zeros(0)
    residual = y - trend @ beta
    s2 = residual @ np.linalg.solve(k, residual) / (n - b)
    at_best = T.marginal_log_likelihood(x, y, kernel, ell, s2, s2 * (nugget + 1e-12), trend @ beta)
    log_det = np.linalg.slogdet(information)[1] if b else 0.0
    # log of the integral over beta of N(y; F beta, s2 K)
    restricted = at_best + 0.5 * b * np.log(2 * np.pi * s2) - 0.5 * log_det
    value = -T.objective(np.log([*ell, nugget]), x, y, trend, kernel, True)[0]
    prior = T._log_prior(np.log([*ell, nugget]), kernel, 3, True)[0]
    assert value == pytest.approx(restricted + 0.5 * (n - b) * (1.0 + np.log(2 * np.pi)) + prior, rel=1e-10)


def test_the_variance_is_at_its_optimum() -> None:
    x, y = problem()
    trend = T.trend_basis(x, 0)
    ell, nugget = np.array([0.4, 0.6, 0.5]), 0.02

    def negative(log_s2: Array) -> float:
        s2 = float(np.exp(log_s2[0]))
        return -T.marginal_log_likelihood(x, y, Matern52(), ell, s2, s2 * (nugget + 1e-12), np.zeros(len(x)))

    best = minimize(negative, [0.0], tol=1e-12)
    point = np.log([*ell, nugget])
    value = -T.objective(point, x, y, trend, Matern52(), True)[0] - T._log_prior(point, Matern52(), 3, True)[0]
    assert -best.fun == pytest.approx(value - 0.5 * len(x) * (1.0 + np.log(2 * np.pi)), rel=1e-9)


def test_the_priors_are_the_log_normal_densities() -> None:
    a, b = np.log([0.3, 0.7, 2.0, 5.0, 1e-3]), np.log([1.0, 1.0, 1.0, 1.0, 1e-5])

    def density(point: Array) -> float:
        # That of the length scales themselves, and of the nugget's logarithm.
        scales = norm.logpdf(point[:4], np.log(0.75 * np.sqrt(4.0)), 1.3) - point[:4]
        return float(np.sum(scales) + norm.logpdf(point[4], np.log(0.01), 3.0))

    assert T._log_prior(a, Matern52(), 4, True)[0] - T._log_prior(b, Matern52(), 4, True)[0] == pytest.approx(
        density(a) - density(b), rel=1e-12
    )


@pytest.mark.parametrize("columns", [0, 1, 4, 10])
@pytest.mark.parametrize("noisy", [False, True])
def test_the_log_posterior_is_the_objective_in_the_logarithms(columns: int, noisy: bool) -> None:
    x, y = problem()
    args = (x, y, T.trend_basis(x, columns), Matern52(), noisy)
    points = [np.log(p[: 3 + noisy]) for p in ([0.7, 1.0, 1.5, 0.01], [0.2, 3.0, 0.6, 0.1])]
    expected = [-T.objective(p, *args)[0] + p[:3].sum() for p in points]
    found = [T.log_posterior(p, *args) for p in points]
    assert found[0] - found[1] == pytest.approx(expected[0] - expected[1], rel=1e-9)


class Exact(gpytorch.models.ExactGP):
    def __init__(self, x: torch.Tensor, y: torch.Tensor, base: gpytorch.kernels.Kernel) -> None:
        super().__init__(x, y, gpytorch.likelihoods.GaussianLikelihood())
        self.mean_module = gpytorch.means.ConstantMean()
        self.covar_module = gpytorch.kernels.ScaleKernel(base)

    def forward(self, x: torch.Tensor) -> gpytorch.distributions.MultivariateNormal:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def torch_kernel(kernel: Kernel, d: int) -> gpytorch.kernels.Kernel:
    if isinstance(kernel, SquaredExponential):
        return gpytorch.kernels.RBFKernel(ard_num_dims=d)
    return gpytorch.kernels.MaternKernel(nu=1.5 if isinstance(kernel, Matern32) else 2.5, ard_num_dims=d)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_likelihood_equals_that_of_gpytorch(kernel: Kernel) -> None:
    x, y = problem(40)
    ell, variance, diagonal, mean = np.array([0.4, 0.9, 1.3]), 1.7, 3e-3, 0.2
    model = Exact(torch.tensor(x), torch.tensor(y), torch_kernel(kernel, 3)).double()
    model.covar_module.base_kernel.lengthscale = torch.tensor(ell)
    model.covar_module.outputscale = torch.tensor(variance, dtype=torch.float64)
    model.likelihood.noise = torch.tensor(diagonal, dtype=torch.float64)
    model.mean_module.constant.data.fill_(mean)
    law = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model.train())
    with torch.no_grad(), gpytorch.settings.fast_computations(log_prob=False):
        theirs = len(y) * law(model(torch.tensor(x)), torch.tensor(y)).item()
    ours = T.marginal_log_likelihood(x, y, kernel, ell, variance, diagonal, np.full(len(y), mean))
    assert ours == pytest.approx(theirs, rel=1e-10)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_likelihood_equals_that_of_scikit_learn(kernel: Kernel) -> None:
    x, y = problem(40)
    ell, variance, diagonal = np.array([0.4, 0.9, 1.3]), 1.7, 3e-3
    base = RBF(ell) if isinstance(kernel, SquaredExponential) else Matern(ell, nu=1.5 + (kernel.code - 1))
    model = GaussianProcessRegressor(ConstantKernel(variance) * base, alpha=diagonal, optimizer=None).fit(x, y)
    ours = T.marginal_log_likelihood(x, y, kernel, ell, variance, diagonal, np.zeros(len(y)))
    assert ours == pytest.approx(model.log_marginal_likelihood(), rel=1e-10)


def best_of(x: Array, y: Array, trend: Array, kernel: Kernel, noisy: bool, count: int) -> float:
    rng = np.random.default_rng(7)
    d = x.shape[1]
    low = [np.log(0.05)] * d + [np.log(1e-6)] * noisy
    high = [np.log(5.0 * np.sqrt(d))] * d + [np.log(0.5)] * noisy
    bounds = [tuple(np.log(T.ELL_BOUNDS))] * d + [tuple(np.log(T.NUGGET_BOUNDS))] * noisy
    args = (x, y, trend, kernel, noisy)
    return -min(
        minimize(T.objective, rng.uniform(low, high), args, jac=True, method="L-BFGS-B", bounds=bounds).fun
        for _ in range(count)
    )


@pytest.mark.slow
def test_two_starts_find_the_best_of_twenty() -> None:
    functions = (
        lambda x: np.sin(6.0 * x[:, 0]) + 0.3 * x[:, 1],
        lambda x: np.exp(-3.0 * x[:, 0]) * np.cos(4.0 * x[:, -1]),
        lambda x: np.maximum(x[:, 0] - 0.5, 0.0) + x[:, 1] ** 2,
        lambda x: 1.0 / (1.2 - x[:, 0] * x[:, 1]),
        lambda x: np.tanh(8.0 * (x[:, 0] - 0.4)) + 0.05 * np.sin(20.0 * x[:, 1]),
    )
    short = []
    for seed, (n, noisy) in enumerate([(15, False), (30, True)]):
        for function in functions:
            rng = np.random.default_rng(seed)
            x = rng.random((n, 2))
            y = function(x) + (0.1 * rng.standard_normal(n) if noisy else 0.0)
            y, trend = (y - y.mean()) / y.std(), T.trend_basis(x, 1)
            found = T.train(x, y, Matern52(), trend, noisy)
            short.append(best_of(x, y, trend, Matern52(), noisy, 20) - found.objective)
    assert len(short) == 10
    assert max(short) < 0.1


def test_more_starts_are_taken_when_two_disagree() -> None:
    x, y = problem(40, 2)
    assert T.train(x, y, Matern52(), T.trend_basis(x, 1), True).starts == 2
    x = np.linspace(0.0, 1.0, 12)[:, None]
    wave = np.sin(25.0 * x[:, 0])
    assert T.train(x, wave - wave.mean(), SquaredExponential(), T.trend_basis(x, 1), False).starts == 8
    # Without noise in the data the fitted nugget ends at its lower bound: that is tried from eight starts and said.
    flat = T.train(x, 2.0 * x[:, 0] - 1.0, SquaredExponential(), T.trend_basis(x, 1), True)
    assert flat.starts == 8
    assert flat.at_bound


def test_the_jitter_grows_only_on_need_and_is_reported() -> None:
    k = np.full((50, 50), 1.0)
    _, jitter = T.factorise(np.eye(50), 0.0)
    assert jitter == 1e-12
    lower, jitter = T.factorise(k - 1e-9 * np.eye(50), 0.0)
    assert 1e-9 < jitter <= 1.001e-8
    np.testing.assert_allclose(lower @ lower.T, k + (jitter - 1e-9) * np.eye(50), atol=1e-14)


def test_a_matrix_that_no_jitter_helps_is_a_fit_error() -> None:
    with pytest.raises(FitError, match="5 x 5 .* near-duplicates"):
        T.factorise(np.full((5, 5), 1.0) - 2.0 * np.eye(5), 0.0)
    with pytest.raises(FitError, match="NaN"):
        T.factorise(np.full((5, 5), np.nan), 0.0)


def test_training_leaves_warnings_and_numpy_settings_as_they_are() -> None:
    x, y = problem(12, 2)
    before, filters = np.geterr(), list(warnings.filters)
    T.train(x, y, Matern52(), T.trend_basis(x, 1), False)
    assert np.geterr() == before
    assert list(warnings.filters) == filters


def test_an_output_that_turns_often_is_not_taken_for_noise():
    x = np.random.default_rng(4).permutation(np.linspace(0.0, 1.0, 50))[:14, None]
    y = (x[:, 0] - np.sqrt(2.0)) * np.sin(8.0 * np.pi * x[:, 0]) ** 2
    y = (y - y.mean()) / y.std()
    trend = np.ones((14, 1))
    found = T.train(x, y, SquaredExponential(), trend, False)
    grid = [
        -T.objective(np.log([ell]), x, y, trend, SquaredExponential(), False)[0] for ell in np.geomspace(0.01, 100, 400)
    ]
    assert found.objective > max(grid) - 0.01  # from the middle of the range all starts end 24 nats below
