"""Kernels of one's own, sums and products: against their definition, GPyTorch and finite differences, up to files."""

from dataclasses import dataclass
from pathlib import Path

import gpytorch
import numpy as np
import pytest
import torch

import uqms as uq
from uqms._typing import Array
from uqms.errors import FormatError, InputError
from uqms.surrogates import (
    Matern32,
    Matern52,
    Matern72,
    Matern112,
    Product,
    RadialKernel,
    RationalQuadratic,
    SquaredExponential,
    Sum,
    averaging,
    gp,
    load_surrogate,
)
from uqms.surrogates import kernels as K
from uqms.surrogates import training as T
from uqms.surrogates.cokriging import CoKriging, WithLower
from uqms.surrogates.fused import block_size
from uqms.surrogates.fused_scores import scores_flat, scores_flat_reverse
from uqms.surrogates.kernel_files import description_of
from uqms.surrogates.process import ScoreProcess, condition, draw_at, scores_at
from uqms.surrogates.radial import factor_of, radial
from uqms.surrogates.training import Hyperparameters


@dataclass(frozen=True)
class Own(RadialKernel):
    """A rational quadratic as a user writes one."""

    alpha: float = 1.5

    def radial(self, r2: float) -> tuple[float, float]:
        base = 1.0 + r2 / (2.0 * self.alpha)
        return base**-self.alpha, -(base ** (-self.alpha - 1.0))


PLUS = Matern52() + SquaredExponential()
TIMES = Matern52() * Matern32()
BOTH = SquaredExponential() * Matern32() + Matern52() + Matern32()
OWN, OWN_PLUS, OWN_TIMES = Own(), Own(0.7) + Matern52() * Own(3.0), SquaredExponential() * Own()
KERNELS = (PLUS, TIMES, BOTH, OWN, OWN_PLUS, OWN_TIMES)
ELLS = {
    OWN: np.array([0.6, 0.5]),
    OWN_PLUS: np.array([0.6, 0.5, 1.2, 0.9, 0.4, 0.7, 0.8]),
    OWN_TIMES: np.array([0.3, 0.25, 0.6, 0.45]),
    PLUS: np.array([0.3, 0.5, 1.2, 0.9, 0.4]),
    TIMES: np.array([0.6, 0.5, 1.2, 0.9]),
    BOTH: np.array([0.6, 0.5, 1.2, 0.9, 0.4, 0.7, 2.0, 0.3, 0.8, 1.7]),
}


def problem(n: int = 25, d: int = 2, seed: int = 1, noise: float = 0.05) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    x = rng.random((n, d))
    y = np.sin(3.0 * x[:, 0]) + x[:, 1] ** 2 + noise * rng.standard_normal(n)
    return x, (y - y.mean()) / y.std()


def defined(kernel: K.Kernel, a: Array, b: Array, ell: Array) -> Array:
    """Sum of products, from the definition, with scikit-learn's formulas for the parts."""
    from sklearn.gaussian_process.kernels import RBF, Matern

    terms = kernel.parts if isinstance(kernel, Sum) else (kernel,)
    at, values = 0, []
    for term in terms:
        value = np.ones((len(a), len(b)))
        for part in term.parts if isinstance(term, Product) else (term,):
            scales, at = ell[at : at + 2], at + 2
            if isinstance(part, Own):
                squares = np.sum(((a[:, None] - b) / scales) ** 2, axis=2)
                value = value * (1.0 + squares / (2.0 * part.alpha)) ** -part.alpha
                continue
            base = (
                RBF(scales)
                if part == SquaredExponential()
                else Matern(scales, nu=5.5 if part == Matern112() else 0.5 + part.code)
            )
            value = value * base(a, b)
        values.append(value)
    shares = np.append(1.0, ell[at:])
    return np.asarray(sum(share * value for share, value in zip(shares / shares.sum(), values, strict=True)))


def theirs(kernel: K.Kernel, ell: Array) -> gpytorch.kernels.Kernel:
    """GPyTorch's kernel with the same hyperparameters."""
    terms = kernel.parts if isinstance(kernel, Sum) else (kernel,)
    count = 2 * sum(len(term.parts) if isinstance(term, Product) else 1 for term in terms)
    shares = np.append(1.0, ell[count:])
    at, total = 0, None
    for share, term in zip(shares / shares.sum(), terms, strict=True):
        product = None
        for part in term.parts if isinstance(term, Product) else (term,):
            if isinstance(part, Own):
                one = gpytorch.kernels.RQKernel(ard_num_dims=2).double()
                one.alpha = torch.tensor(part.alpha, dtype=torch.float64)
            elif part == SquaredExponential():
                one = gpytorch.kernels.RBFKernel(ard_num_dims=2).double()
            else:
                one = gpytorch.kernels.MaternKernel(nu=1.5 if part == Matern32() else 2.5, ard_num_dims=2).double()
            one.lengthscale = torch.tensor(ell[at : at + 2])
            at += 2
            product = one if product is None else product * one
        scaled = gpytorch.kernels.ScaleKernel(product).double()
        scaled.outputscale = torch.tensor(share, dtype=torch.float64)
        total = scaled if total is None else total + scaled
    return total


def given(kernel: K.Kernel, nugget: float = 1e-4) -> Hyperparameters:
    return Hyperparameters(ELLS[kernel], nugget, 1e-12, 0.0, 2, False)


def conditioned(kernel: K.Kernel, columns: int = 1, n: int = 25) -> ScoreProcess:
    x, y = problem(n)
    return condition(kernel, x, np.column_stack([y, y**2]), columns, [given(kernel)] * 2)


# ---------------------------------------------------------------------------------------------------------- the algebra
def test_sums_and_products_are_values() -> None:
    assert Matern52() + SquaredExponential() == Sum((Matern52(), SquaredExponential()))
    assert Matern52() + Matern32() + Matern52() == Sum((Matern52(), Matern32(), Matern52()))
    assert Matern52() * Matern32() * Matern52() == Product((Matern52(), Matern32(), Matern52()))
    assert str(OWN_PLUS) == "Own(alpha=0.7) + Matern52 * Own(alpha=3.0)"
    assert str(BOTH) == "SquaredExponential * Matern32 + Matern52 + Matern32"
    assert BOTH.layout(3).tolist() == [0, 0, 1, 0, 2, 1, 1, 2]  # code and term of each part


def test_kernels_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match=r"write a \* b \+ a \* c"):
        PLUS * Matern52()
    with pytest.raises(InputError, match="at least two single kernels"):
        Product((Matern52(),))
    with pytest.raises(InputError, match="give a tuple of at least two single kernels or products"):
        Matern52() + 2.0  # type: ignore[operator]
    with pytest.raises(InputError, match="9 single kernels; at most 8"):
        Sum((Matern52(),) * 9)
    with pytest.raises(InputError, match="or a sum or product"):
        uq.GaussianProcess(kernel="Matern52 + Matern32")  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_correlation_is_its_definition_and_gpytorchs(kernel: K.Kernel) -> None:
    rng = np.random.default_rng(2)
    a, b = rng.random((9, 2)), rng.random((7, 2))
    ours = K.correlation(kernel, a, b, ELLS[kernel])
    np.testing.assert_allclose(ours, defined(kernel, a, b, ELLS[kernel]), rtol=1e-12)
    with torch.no_grad():
        their = theirs(kernel, ELLS[kernel])(torch.tensor(a), torch.tensor(b)).to_dense().numpy()
    np.testing.assert_allclose(ours, their, rtol=1e-10)
    np.testing.assert_allclose(np.diag(K.correlation(kernel, a, a, ELLS[kernel])), 1.0, rtol=1e-14)
    np.testing.assert_allclose(K.correlation_slopes(kernel, a, b, ELLS[kernel])[0], ours, rtol=1e-14)
    for size in (3, K.LOOPED):
        batch = rng.random((4, size, 2))
        within = K.correlation_within(kernel, batch, ELLS[kernel])
        for i in range(4):
            expected = defined(kernel, batch[i], batch[i], ELLS[kernel])
            np.testing.assert_allclose(within[i], expected, rtol=1e-10)


@pytest.mark.parametrize("smooth", [Matern72(), Matern112()])
def test_the_smoothest_materns_are_scikit_learns(smooth: RadialKernel) -> None:
    rng = np.random.default_rng(2)
    a, b = rng.random((9, 2)), rng.random((7, 2))
    for kernel, ell in ((smooth, ELLS[OWN]), (Matern52() * smooth, ELLS[TIMES])):
        np.testing.assert_allclose(K.correlation(kernel, a, b, ell), defined(kernel, a, b, ell), rtol=1e-11)
    wanted = defined(smooth, a, b, ELLS[OWN])
    squares = np.sum(((a[:, None] - b) / ELLS[OWN]) ** 2, axis=2) * factor_of(smooth.code)
    radial(smooth.code, squares)  # the loop that many points take
    np.testing.assert_allclose(squares, wanted, rtol=1e-11)


def test_the_rational_quadratic_is_a_kernel_of_ones_own() -> None:
    x = np.random.default_rng(2).random((9, 2))
    for ours, own in zip(
        K.correlation_slopes(RationalQuadratic(1.5), x, x, ELLS[OWN]),
        K.correlation_slopes(OWN, x, x, ELLS[OWN]),
        strict=True,
    ):
        np.testing.assert_allclose(ours, own, rtol=1e-14)
    assert K.correlation(RationalQuadratic(1e7), x, x, ELLS[OWN]) == pytest.approx(
        K.correlation(SquaredExponential(), x, x, ELLS[OWN]), abs=1e-6
    )
    for alpha in (0.0, -1.0, np.inf, np.nan, True, "2"):
        with pytest.raises(InputError, match="give a positive number"):
            RationalQuadratic(alpha)  # type: ignore[arg-type]


LINEARISED = {
    **{str(kernel): (kernel, ELLS[kernel], 2) for kernel in KERNELS},
    "Matern72": (Matern72(), ELLS[OWN], 2),
    "Matern112": (Matern112(), ELLS[OWN], 2),
    "with Matern72": (Matern52() + Matern72(), ELLS[PLUS], 2),
    "CoKriging": (CoKriging(Matern52(), 3), np.array([0.6, 0.5, 1.2, 0.9, 0.4, 0.7, 0.8, 1.3, 2.2, 0.6]), 4),
    "WithLower": (WithLower(SquaredExponential(), Matern52()), np.array([0.6, 0.5, 1.2, 0.9, 0.4, 0.7]), 3),
}


@pytest.mark.parametrize("name", LINEARISED)
def test_reverse_derivatives_are_those_of_differences(name: str) -> None:
    """By inputs and by the logarithms of all hyperparameters, with weights that are not symmetric."""
    kernel, ell, d = LINEARISED[name]
    rng = np.random.default_rng(3)
    u, x, bar = rng.random((4, d)), rng.random((6, d)), rng.standard_normal((4, 6))
    free = np.arange(d)
    if isinstance(kernel, CoKriging):  # whose first inputs say the level
        free = free[2:]
        u[:, :2], x[:, :2] = np.eye(3)[[0, 1, 2, 2], 1:], np.eye(3)[[0, 0, 1, 1, 2, 2], 1:]
    for other, weights in ((x, bar), (u, rng.standard_normal((4, 4)))):
        found = kernel.linearised(u, other, ell)
        np.testing.assert_allclose(found.kappa, kernel.correlation(u, other, ell), rtol=1e-14)

        def value(moved: Array, log: Array, weights: Array = weights, other: Array = other) -> Array:
            same = moved if other is u and moved is u else other
            return np.sum(kernel.correlation(moved, same, np.exp(log)) * weights, axis=1)

        by_inputs = found.reverse_inputs(weights)
        for c in free:
            step = 1e-5 * np.eye(d)[c]
            numeric = (value(u + step, np.log(ell)) - value(u - step, np.log(ell))) / 2e-5
            np.testing.assert_allclose(by_inputs[:, c], numeric, rtol=1e-6, atol=1e-7)
        by_logs = found.reverse_logs(weights)
        for i, step in enumerate(1e-5 * np.eye(len(ell))):
            numeric = (value(u, np.log(ell) + step) - value(u, np.log(ell) - step)).sum() / 2e-5
            assert by_logs[i] == pytest.approx(numeric, rel=1e-6, abs=1e-7)


# ------------------------------------------------------------------------------------------------------------- training
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("columns", [0, 1, 6])
@pytest.mark.parametrize("noisy", [False, True])
def test_the_gradient_of_the_objective_equals_finite_differences(kernel: K.Kernel, columns: int, noisy: bool) -> None:
    x, y = problem()
    args = (x, y, T.trend_basis(x, columns), kernel, noisy)
    point = np.log(np.append(ELLS[kernel], [0.01] * noisy))
    gradient = T.objective(point, *args)[1]
    numeric = [
        (T.objective(point + e, *args)[0] - T.objective(point - e, *args)[0]) / 2e-5 for e in 1e-5 * np.eye(len(point))
    ]
    np.testing.assert_allclose(gradient, numeric, rtol=2e-6, atol=2e-6 * np.abs(gradient).max())
    a, b = T.log_posterior(point, *args), T.log_posterior(point + 0.1, *args)
    scales = K.scale_count(kernel, 2)
    expected = T.objective(point + 0.1, *args)[0] - T.objective(point, *args)[0] - 0.1 * scales
    assert a - b == pytest.approx(expected, rel=1e-8)


class Exact(gpytorch.models.ExactGP):
    def __init__(self, x: torch.Tensor, y: torch.Tensor, kernel: gpytorch.kernels.Kernel) -> None:
        super().__init__(x, y, gpytorch.likelihoods.GaussianLikelihood())
        self.mean_module = gpytorch.means.ZeroMean()
        self.covar_module = kernel

    def forward(self, x: torch.Tensor) -> gpytorch.distributions.MultivariateNormal:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


@pytest.mark.parametrize("kernel", KERNELS)
def test_likelihood_and_posterior_equal_those_of_gpytorch(kernel: K.Kernel) -> None:
    (x, y), u = problem(), np.random.default_rng(3).random((6, 2))
    model = Exact(torch.tensor(x), torch.tensor(y), theirs(kernel, ELLS[kernel])).double()
    model.likelihood.noise = torch.tensor(1e-2, dtype=torch.float64)
    law = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model.train())
    with torch.no_grad(), gpytorch.settings.fast_computations(log_prob=False):
        likelihood = len(y) * law(model(torch.tensor(x)), torch.tensor(y)).item()
        posterior = model.eval()(torch.tensor(u))
        mean, covariance = posterior.mean.numpy(), posterior.covariance_matrix.numpy()
    ours = T.marginal_log_likelihood(x, y, kernel, ELLS[kernel], 1.0, 1e-2, np.zeros(len(y)))
    assert ours == pytest.approx(likelihood, rel=1e-10)
    scores = scores_at(condition(kernel, x, y[:, None], 0, [given(kernel, 1e-2 - 1e-12)], [1.0]), u)
    np.testing.assert_allclose(scores.mean[0, :, 0], mean, atol=1e-10)
    np.testing.assert_allclose(scores.covariance[0, 0], covariance, atol=1e-10)


def test_equal_parts_do_not_stay_equal() -> None:
    x, y = problem(60)
    rough = y + 0.3 * np.sin(40.0 * x[:, 0])
    found = T.train(x, rough, Matern52() + Matern52(), T.trend_basis(x, 1), False)
    assert abs(np.log(found.ell[0] / found.ell[2])) > 0.5
    # More freedom fits no worse (the priors of what is added aside).
    alone = T.train(x, rough, Matern52(), T.trend_basis(x, 1), False)
    assert found.objective > alone.objective - 6.0


def test_a_sum_finds_the_two_scales_that_data_have() -> None:
    rng = np.random.default_rng(4)
    x = rng.random((120, 1))
    slow, fast = SquaredExponential(), Matern32()
    k = 0.99 * K.correlation(slow, x, x, np.array([0.6])) + 0.01 * K.correlation(fast, x, x, np.array([0.04]))
    y = np.linalg.cholesky(k + 1e-10 * np.eye(120)) @ rng.standard_normal(120)
    kernel = slow + fast
    found = T.train(x, y, kernel, T.trend_basis(x, 1), False)
    truth = T.objective(np.log([0.6, 0.04, 0.01 / 0.99]), x, y, T.trend_basis(x, 1), kernel, False)[0]
    assert found.objective >= -truth - 1e-6
    assert found.ell[0] > 2.0 * found.ell[1]
    assert found.objective > T.train(x, y, Matern32(), T.trend_basis(x, 1), False).objective + 3.0


@pytest.mark.parametrize("kernel", [PLUS, TIMES, OWN])
@pytest.mark.parametrize("noisy", [False, True])
def test_hyperparameters_are_averaged(kernel: K.Kernel, noisy: bool) -> None:
    x, y = problem(15)
    found = T.train(x, y, kernel, T.trend_basis(x, 1), noisy)
    points = averaging.sample(x, y, kernel, 1, noisy, found)
    print("effective", points.effective)
    assert points.effective > 32
    draws = averaging.draws_of(points, 14, noisy, 0)
    held = np.log([one.ell for one in draws])
    size = K.hyperparameter_count(kernel, 2)
    assert held.shape == (16, size)
    mean = points.weights @ points.points[:, :size]
    sd = np.sqrt(points.weights @ (points.points[:, :size] - mean) ** 2)
    np.testing.assert_allclose((held.mean(axis=0) - mean) / sd, 0.0, atol=0.2)
    assert all((one.nugget > 0.0) is noisy for one in draws)


# ----------------------------------------------------------------------------------------------------------- prediction
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("columns", [0, 1, 6])
def test_the_compiled_twin_gives_the_same_numbers_and_derivatives(kernel: K.Kernel, columns: int) -> None:
    rng = np.random.default_rng(5)
    process = conditioned(kernel, columns)
    block = process.flat()
    assert len(block) == block_size(block)
    for _ in range(20):
        u = rng.uniform(-0.2, 1.2, (4, 2))
        mean, covariance = scores_flat(block, u)
        ours = scores_at(process, u)
        np.testing.assert_allclose(mean, ours.mean, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(covariance, ours.covariance, atol=1e-10 * process.variance.max())
        bars = rng.standard_normal(mean.shape), rng.standard_normal(covariance.shape)
        derivative = scores_flat_reverse(block, u, *bars)
        i, c, e = int(rng.integers(4)), int(rng.integers(2)), np.zeros_like(u)
        e[i, c] = 1e-5
        high, low = scores_flat(block, u + e), scores_flat(block, u - e)
        numeric = sum(float(np.sum((a - b) * bar)) for a, b, bar in zip(high, low, bars, strict=True)) / 2e-5
        assert derivative[i, c] == pytest.approx(numeric, rel=1e-5, abs=1e-5 * (1.0 + np.abs(derivative).max()))


@pytest.mark.parametrize("kernel", KERNELS)
def test_batches_and_draws_have_the_joint_covariance(kernel: K.Kernel) -> None:
    process, rng = conditioned(kernel, 1, 8), np.random.default_rng(6)
    u = rng.random((3, 4, 2))
    batch = scores_at(process, u)
    for i in range(3):
        np.testing.assert_allclose(batch.covariance[:, i], scores_at(process, u[i]).covariance, atol=1e-10)
    n = 20_000
    draws = draw_at(process, 0, 0, u[0], rng.standard_normal((n, 4)), rng.standard_normal((n, 1)))
    exact = scores_at(process, u[0])
    sd = np.sqrt(np.diag(exact.covariance[0, 0]))
    off = np.cov(draws.T) - exact.covariance[0, 0]
    assert np.abs(off / np.outer(sd, sd)).max() < 4.5 * np.sqrt(2.0 / n)
    assert np.abs((draws.mean(axis=0) - exact.mean[0, :, 0]) / sd).max() < 4.5 / np.sqrt(n)


# ----------------------------------------------------------------------------------------------------- fits and files
def table(n: int = 30) -> object:
    x, y = problem(n, noise=0.0)
    return uq.ensemble.build({"a": x[:, 0], "b": x[:, 1]}, {"y": 3.0 + 2.0 * y})


@pytest.mark.parametrize("kernel", [PLUS, TIMES, OWN, OWN_TIMES])
def test_a_fitted_surrogate_predicts_and_comes_back_from_its_file(kernel: K.Kernel, tmp_path: Path) -> None:
    fitted = uq.GaussianProcess(kernel=kernel, scales="given").fit(table())
    assert str(kernel) in repr(fitted)
    assert fitted.process.draws == 16
    assert uq.leave_one_out(fitted).table.loc["y", "q2"] > 0.99
    fitted.save(tmp_path / "s.npz")
    same, points = load_surrogate(tmp_path / "s.npz"), {"a": [0.1, 0.7], "b": [0.4, 0.2]}
    assert same.process.kernel == kernel
    assert same.predict(points).variance.identical(fitted.predict(points).variance)
    assert (same.process.flat() == fitted.process.flat()).all()
    slopes = fitted.gradient({"a": 0.4, "b": 0.6}, {"y": 1.0})
    high, low = (fitted.evaluate({"a": 0.4 + e, "b": 0.6})["y"] for e in (1e-5, -1e-5))
    assert slopes["a"] == pytest.approx((high - low) / 2e-5, rel=1e-4)


def test_a_file_with_hyperparameters_of_another_kernel_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = uq.GaussianProcess(kernel=PLUS, hyperparameters="point").fit(table())
    monkeypatch.setattr(gp, "description_of", lambda kernel: description_of(TIMES))
    fitted.save(tmp_path / "s.npz")
    monkeypatch.undo()
    with pytest.raises(FormatError, match="process.ell has shape"):
        load_surrogate(tmp_path / "s.npz")
