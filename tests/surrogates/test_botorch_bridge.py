"""A surrogate as a BoTorch model: moments, acquisitions against closed forms, gradients against finite differences."""

import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from botorch.acquisition import LogExpectedImprovement, qLogExpectedImprovement
from botorch.acquisition.active_learning import qNegIntegratedPosteriorVariance
from botorch.optim import optimize_acqf
from botorch.sampling import SobolQMCNormalSampler
from scipy.stats import norm

import uqms as uq
from uqms.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::linear_operator.utils.warnings.NumericalWarning")
SPACE = uq.ParameterSpace(a=uq.LogUniform(0.1, 10.0), b=uq.Uniform(-1.0, 3.0))


def height(a: Any, b: Any) -> Any:
    return np.exp(-((np.log(a) - 0.5) ** 2) - 0.5 * (b - 1.0) ** 2)


@cache
def fitted(hyperparameters: str = "averaged") -> Any:
    design = uq.sobol(SPACE, 14, rng=1)
    a, b = design["a"].values, design["b"].values
    runs = uq.ensemble.build(design, {"y": height(a, b), "w": np.sin(np.log(a)) + b})
    return uq.GaussianProcess(hyperparameters=hyperparameters).fit(runs)


def points(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((n, 2)))


@pytest.mark.parametrize("inputs", ["unit", "own"])
def test_moments_are_those_of_the_prediction(inputs: str) -> None:
    surrogate, u = fitted(), points(5)
    x = surrogate.domain.from_unit(u.numpy())
    model = uq.to_botorch(surrogate, "y", inputs=inputs)
    found = model.posterior(u if inputs == "unit" else torch.from_numpy(x))
    predicted = surrogate.predict({"a": x[:, 0], "b": x[:, 1]})
    np.testing.assert_allclose(found.mean[:, 0], predicted.mean["y"], rtol=1e-9)
    np.testing.assert_allclose(found.variance[:, 0], np.asarray(predicted.sd["y"]) ** 2, rtol=1e-6)
    np.testing.assert_allclose(model.bounds[1], [1.0, 1.0] if inputs == "unit" else surrogate.domain.upper)


def test_expected_improvement_is_that_of_a_normal_distribution() -> None:
    surrogate, u, best = fitted(), points(6)[:, None], 0.75
    model = uq.to_botorch(surrogate, "y")
    law = model.posterior(u)
    mean, sd = law.mean.numpy().ravel(), law.variance.numpy().ravel() ** 0.5
    z = (mean - best) / sd  # a float that BoTorch holds in single precision without loss
    wanted = sd * (norm.pdf(z) + z * norm.cdf(z))
    np.testing.assert_allclose(LogExpectedImprovement(model, best)(u).exp(), wanted, rtol=1e-8, atol=1e-300)
    # Of one point, by Monte Carlo with the smoothing of BoTorch's default taken away.
    some = np.argmax(wanted)
    sampler = SobolQMCNormalSampler(torch.Size([4096]), seed=1)
    found = qLogExpectedImprovement(model, best, sampler, tau_relu=1e-6, fat=False)(u[some]).exp()
    assert float(found) == pytest.approx(wanted[some], rel=5e-3)


@pytest.mark.parametrize("hyperparameters", ["averaged", "point"])
@pytest.mark.parametrize("inputs", ["unit", "own"])
def test_gradients_are_finite_differences(hyperparameters: str, inputs: str) -> None:
    surrogate = fitted(hyperparameters)
    model = uq.to_botorch(surrogate, "y", inputs=inputs)
    u = points(6).reshape(2, 3, 2)
    X = u if inputs == "unit" else torch.from_numpy(surrogate.domain.from_unit(u.numpy()))
    acquisition = qLogExpectedImprovement(model, 0.5, SobolQMCNormalSampler(torch.Size([64]), seed=1))
    integrated = qNegIntegratedPosteriorVariance(
        model, model.bounds[0] + points(20, 3) * (model.bounds[1] - model.bounds[0])
    )
    for function in (acquisition, integrated):
        X.requires_grad_(True)
        (gradient,) = torch.autograd.grad(function(X).sum(), X)
        X.requires_grad_(False)
        step = 1e-5 * (model.bounds[1] - model.bounds[0])
        for place in [(0, 0, 0), (1, 2, 1), (0, 1, 1)]:
            shift = torch.zeros_like(X)
            shift[place] = step[place[-1]]
            wanted = (function(X + shift) - function(X - shift)).sum() / (2.0 * step[place[-1]])
            assert float(gradient[place]) == pytest.approx(float(wanted), rel=2e-4, abs=1e-8)


def test_integrated_variance_is_that_of_the_surrogate_with_the_runs() -> None:
    surrogate, grid, X = fitted("point"), points(30, 3), points(2, 4)
    model = uq.to_botorch(surrogate, "y")
    found = qNegIntegratedPosteriorVariance(model, grid)(X[None])
    C = model.posterior(torch.cat([X, grid])).distribution.covariance_matrix.numpy()
    left = C[2:, 2:] - C[2:, :2] @ np.linalg.solve(C[:2, :2], C[:2, 2:])
    assert -float(found) == pytest.approx(np.diagonal(left).mean(), rel=1e-5)
    assert -float(found) < 0.95 * np.diagonal(C)[2:].mean()
    # One run after the other is as both at once.
    Y = torch.zeros(1, 1, dtype=torch.float64)
    both = model.condition_on_observations(X, torch.zeros(2, 1, dtype=torch.float64))
    apart = model.condition_on_observations(X[:1], Y).condition_on_observations(X[1:], Y)
    np.testing.assert_allclose(apart.posterior(grid).mean, both.posterior(grid).mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(apart.posterior(grid).variance, both.posterior(grid).variance, rtol=1e-4, atol=1e-12)
    assert np.abs(both.posterior(X).mean.numpy()).max() < 1e-4  # what was seen there


@pytest.mark.parametrize("inputs", ["unit", "own"])
def test_the_largest_output_is_found(inputs: str) -> None:
    model = uq.to_botorch(fitted(), "y", inputs=inputs)
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        acquisition = LogExpectedImprovement(model, best_f=0.7)
        best, value = optimize_acqf(acquisition, model.bounds, q=1, num_restarts=6, raw_samples=512)
    grid = model.bounds[0] + points(4096, 5) * (model.bounds[1] - model.bounds[0])
    with torch.no_grad():
        assert float(value) >= float(acquisition(grid[:, None]).max()) - 1e-6
    design = model.design(best)
    run = uq.run(uq.FunctionSimulator(lambda a, b: {"y": height(a, b)}, outputs={"y": ()}), design, workers=0)
    assert float(run["y"][0]) == pytest.approx(height(design["a"].values[0], design["b"].values[0]))


def test_noise_of_a_stochastic_simulator_is_added() -> None:
    design = uq.sobol(SPACE, 40, rng=1)
    y = height(design["a"].values, design["b"].values) + 0.1 * np.random.default_rng(1).standard_normal(40)
    surrogate = uq.GaussianProcess(noise="fitted").fit(uq.ensemble.build(design, {"y": y}))
    model = uq.to_botorch(surrogate)
    plain, noisy = model.posterior(points(3)), model.posterior(points(3), observation_noise=True)
    added = (noisy.variance - plain.variance).numpy()
    np.testing.assert_allclose(added, added[0, 0], rtol=1e-6)
    assert 0.05 < np.sqrt(added[0, 0]) < 0.2


def test_what_cannot_be_is_refused() -> None:
    surrogate = fitted()
    with pytest.raises(InputError, match=r"output is None; give one of \['y', 'w'\]"):
        uq.to_botorch(surrogate)
    with pytest.raises(InputError, match="double precision"):
        uq.to_botorch(surrogate, "y").posterior(points(2).float())
    with pytest.raises(InputError, match="give a fitted surrogate"):
        uq.to_botorch(uq.GaussianProcess())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="give 'unit'"):
        uq.to_botorch(surrogate, "y", inputs="cube")  # type: ignore[arg-type]
    design = uq.sobol(SPACE, 12, rng=1)
    runs = uq.ensemble.build(design, {"y": 0.1 + height(design["a"].values, design["b"].values)})
    logs = uq.GaussianProcess(outputs={"y": uq.Scalar(transform=uq.Log())}, hyperparameters="point").fit(runs)
    with pytest.raises(InputError, match="transformed=True"):
        uq.to_botorch(logs)
    u = points(3)
    at = logs.domain.from_unit(u.numpy())
    law = uq.to_botorch(logs, transformed=True).posterior(u)
    mean = torch.exp(law.mean + 0.5 * law.variance).numpy().ravel()  # of a lognormal distribution
    np.testing.assert_allclose(mean, logs.predict({"a": at[:, 0], "b": at[:, 1]}).mean["y"], rtol=1e-6)
