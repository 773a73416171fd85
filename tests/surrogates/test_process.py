"""Conditioned processes against dense formulas, scikit-learn and GPyTorch; the compiled twin; nasty designs."""

import math
import pickle

import gpytorch
import numpy as np
import pytest
import torch
from planning.known import drawn, known_process
from scipy.special import ndtr
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern

import uqms as uq
from uqms._typing import Array
from uqms.surrogates import Matern32, Matern52, Matern72, Matern112, SquaredExponential
from uqms.surrogates.fused import block_size
from uqms.surrogates.fused_scores import scores_flat, scores_flat_reverse
from uqms.surrogates.kernels import Kernel
from uqms.surrogates.outputs import Decoder
from uqms.surrogates.prediction import mixture
from uqms.surrogates.process import ScoreProcess, condition, draw_at, means_at, normals_at, root_at, scores_at
from uqms.surrogates.training import Hyperparameters, train, trend_basis

KERNELS = (SquaredExponential(), Matern32(), Matern52(), Matern72(), Matern112())
NU = {Matern32(): 1.5, Matern52(): 2.5, Matern72(): 3.5, Matern112(): 5.5}


def given(ell: Array, nugget: float = 0.0) -> Hyperparameters:
    return Hyperparameters(np.asarray(ell, dtype=float), nugget, 1e-12, 0.0, 2, False)


def runs(n: int = 30, d: int = 2, seed: int = 1) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    x = rng.random((n, d))
    return x, np.column_stack([np.sin(5.0 * x[:, 0]) + x[:, -1], np.cos(3.0 * x[:, -1]) * x[:, 0]])


def dense_kernel(kernel: Kernel, a: Array, b: Array, ell: Array) -> Array:
    r = np.sqrt(np.sum(((a[:, None] - b[None]) / ell) ** 2, axis=-1))
    if isinstance(kernel, SquaredExponential):
        return np.asarray(np.exp(-0.5 * r**2))
    if isinstance(kernel, Matern32):
        return np.asarray((1 + np.sqrt(3) * r) * np.exp(-np.sqrt(3) * r))
    if isinstance(kernel, Matern52):
        return np.asarray((1 + np.sqrt(5) * r + 5 * r**2 / 3) * np.exp(-np.sqrt(5) * r))
    if isinstance(kernel, Matern72):
        return np.asarray((1 + np.sqrt(7) * r + 14 * r**2 / 5 + 7 * np.sqrt(7) * r**3 / 15) * np.exp(-np.sqrt(7) * r))
    order, a = 5, np.sqrt(11) * r  # of the polynomial before the exponential
    factors = [
        math.factorial(order) / math.factorial(2 * order)
        * math.factorial(order + i) / math.factorial(i) / math.factorial(order - i)
        for i in range(order + 1)
    ]  # fmt: skip
    return np.asarray(np.polynomial.polynomial.polyval(2 * a, factors[::-1]) * np.exp(-a))


def dense_trend(x: Array) -> Array:
    a, b = x.T
    return np.column_stack([np.ones(len(x)), a, b, a * a, a * b, b * b])


def dense(kernel: Kernel, x: Array, y: Array, u: Array, columns: int, ell: Array, nugget: float) -> tuple[Array, ...]:
    """Return mean, covariance and variance scale by universal kriging, written down with inverses."""
    k = dense_kernel(kernel, x, x, ell) + (nugget + 1e-12) * np.eye(len(x))
    f, t = dense_trend(x)[:, :columns], dense_trend(u)[:, :columns]
    inverse = np.linalg.inv(k)
    cross = dense_kernel(kernel, u, x, ell)
    information = f.T @ inverse @ f
    beta = np.linalg.inv(information) @ f.T @ inverse @ y if columns else np.zeros(0)
    residual = y - f @ beta
    s2 = residual @ inverse @ residual / (len(x) - columns)
    rest = t - cross @ inverse @ f
    covariance = dense_kernel(kernel, u, u, ell) - cross @ inverse @ cross.T
    covariance += rest @ np.linalg.inv(information) @ rest.T if columns else 0.0
    return t @ beta + cross @ inverse @ residual, s2 * covariance, s2


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("columns", [0, 1, 3, 6])
@pytest.mark.parametrize("nugget", [0.0, 1e-2])
def test_mean_and_covariance_equal_the_dense_formulas(kernel: Kernel, columns: int, nugget: float) -> None:
    (x, y), u = runs(), np.random.default_rng(2).random((6, 2))
    ells = np.array([[0.3, 0.5], [0.2, 0.4]])
    process = condition(kernel, x, y, columns, [given(ell, nugget) for ell in ells])
    scores = scores_at(process, u)
    for j in range(2):
        mean, covariance, s2 = dense(kernel, x, y[:, j], u, columns, ells[j], nugget)
        assert process.variance[0, j] == pytest.approx(s2, rel=1e-7)
        np.testing.assert_allclose(scores.mean[0, :, j], mean, atol=1e-7 * np.abs(y).max())
        np.testing.assert_allclose(scores.covariance[0, j], covariance, atol=2e-8 * s2)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_posterior_equals_that_of_scikit_learn(kernel: Kernel) -> None:
    (x, y), u = runs(), np.random.default_rng(2).random((9, 2))
    ell, variance, nugget = np.array([0.3, 0.5]), 1.7, 1e-3
    base = RBF(ell) if isinstance(kernel, SquaredExponential) else Matern(ell, nu=NU[kernel])
    alpha = variance * (nugget + 1e-12)
    model = GaussianProcessRegressor(ConstantKernel(variance) * base, alpha=alpha, optimizer=None).fit(x, y[:, 0])
    mean, covariance = model.predict(u, return_cov=True)
    scores = scores_at(condition(kernel, x, y[:, :1], 0, [given(ell, nugget)], [variance]), u)
    np.testing.assert_allclose(scores.mean[0, :, 0], mean, rtol=0, atol=1e-9)
    np.testing.assert_allclose(scores.covariance[0, 0], covariance, rtol=0, atol=1e-9)


class Exact(gpytorch.models.ExactGP):
    def __init__(self, x: torch.Tensor, y: torch.Tensor, base: gpytorch.kernels.Kernel) -> None:
        super().__init__(x, y, gpytorch.likelihoods.GaussianLikelihood())
        self.mean_module = gpytorch.means.ZeroMean()
        self.covar_module = gpytorch.kernels.ScaleKernel(base)

    def forward(self, x: torch.Tensor) -> gpytorch.distributions.MultivariateNormal:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


@pytest.mark.parametrize("kernel", KERNELS[:3])  # it has no smoother Matérn
def test_the_posterior_equals_that_of_gpytorch(kernel: Kernel) -> None:
    (x, y), u = runs(), np.random.default_rng(2).random((9, 2))
    ell, variance, nugget = np.array([0.3, 0.5]), 1.7, 1e-3
    base = gpytorch.kernels.RBFKernel(ard_num_dims=2)
    if not isinstance(kernel, SquaredExponential):
        base = gpytorch.kernels.MaternKernel(nu=1.5 + (kernel.code - 1), ard_num_dims=2)
    model = Exact(torch.tensor(x), torch.tensor(y[:, 0]), base).double()
    base.lengthscale = torch.tensor(ell)
    model.covar_module.outputscale = torch.tensor(variance, dtype=torch.float64)
    model.likelihood.noise = torch.tensor(variance * (nugget + 1e-12), dtype=torch.float64)
    with torch.no_grad():
        law = model.eval()(torch.tensor(u))
        mean, covariance = law.mean.numpy(), law.covariance_matrix.numpy()
    scores = scores_at(condition(kernel, x, y[:, :1], 0, [given(ell, nugget)], [variance]), u)
    np.testing.assert_allclose(scores.mean[0, :, 0], mean, rtol=0, atol=1e-9)
    np.testing.assert_allclose(scores.covariance[0, 0], covariance, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kernel", KERNELS)
def test_variance_vanishes_at_the_runs_and_is_the_priors_far_away(kernel: Kernel) -> None:
    x, y = runs()
    process = condition(kernel, x, y, 0, [given([0.3, 0.5])] * 2)
    at = scores_at(process, x, diagonal=True)
    assert at.covariance[0].max() <= 2e-8 * process.variance.max()  # G6
    np.testing.assert_allclose(at.mean[0], y, atol=1e-6)
    far = scores_at(process, np.full((1, 2), 50.0), diagonal=True)
    np.testing.assert_allclose(far.covariance[0, :, 0], process.variance[0], rtol=1e-9)
    np.testing.assert_allclose(far.mean[0, 0], 0.0, atol=1e-9)
    # With an estimated constant it is the prior's and the constant's own.
    process = condition(kernel, x, y, 1, [given([0.3, 0.5])] * 2)
    far = scores_at(process, np.full((1, 2), 50.0), diagonal=True)
    np.testing.assert_allclose(far.covariance[0, :, 0], process.variance[0] + process.trend_root[0, :, 0, 0] ** 2)
    np.testing.assert_allclose(far.mean[0, 0], process.beta[0, :, 0])


def test_batches_and_diagonals_are_the_joint_covariance() -> None:
    (x, y), u = runs(), np.random.default_rng(2).random((4, 3, 2))
    process = condition(Matern52(), x, y, 3, [given([0.3, 0.5]), given([0.6, 0.2])])
    batch, diagonal = scores_at(process, u), scores_at(process, u, diagonal=True)
    assert batch.covariance.shape == (1, 4, 2, 3, 3)
    for i in range(4):
        single = scores_at(process, u[i])
        np.testing.assert_allclose(batch.mean[:, i], single.mean, atol=1e-13)
        np.testing.assert_allclose(batch.covariance[:, i], single.covariance, atol=1e-10)
        np.testing.assert_allclose(
            diagonal.covariance[0, i], np.diagonal(single.covariance[0], axis1=1, axis2=2), atol=1e-10
        )


def found_variance(x: Array, y: Array, found: Hyperparameters) -> float:
    return float(condition(Matern52(), x, y[:, :1], 1, [found]).variance[0, 0])


def test_permuting_runs_and_inputs_changes_nothing() -> None:
    (x, y), u = runs(30, 3), np.random.default_rng(2).random((20, 3))
    rows, columns = np.random.default_rng(3).permutation(30), [2, 0, 1]
    found = train(x, y[:, 0], Matern52(), trend_basis(x, 1), False)
    other = train(x[rows][:, columns], y[rows, 0], Matern52(), trend_basis(x, 1), False)
    a = scores_at(condition(Matern52(), x, y[:, :1], 1, [found]), u)
    same = given(found.ell[columns])
    b = scores_at(condition(Matern52(), x[rows][:, columns], y[rows, :1], 1, [same]), u[:, columns])
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(a.covariance, b.covariance, atol=1e-8 * found_variance(x, y, found))
    assert other.objective == pytest.approx(found.objective, abs=1e-4)


# ------------------------------------------------------------------------------------------------------- compiled twin
def hard_points(x: Array, rng: np.random.Generator) -> Array:
    """1 000 points: runs, almost runs, corners, points given twice, outside, anywhere."""
    d = x.shape[1]
    corners = np.array(np.meshgrid(*[[0.0, 1.0]] * d)).reshape(d, -1).T
    anywhere = rng.random((1000 - 2 * len(x) - len(corners) - 100, d))
    outside = rng.uniform(-0.3, 1.3, (50, d))
    return np.vstack([x, x + 1e-7, corners, outside, np.repeat(anywhere[:25], 2, axis=0), anywhere])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("columns", [0, 1, 3, 6])
def test_the_compiled_twin_gives_the_same_numbers_and_derivatives(kernel: Kernel, columns: int) -> None:
    rng = np.random.default_rng(5)
    x, y = runs()
    process = condition(kernel, x, y, columns, [given([0.3, 0.5], 1e-4), given([0.6, 0.2], 1e-4)])
    block = process.flat()
    assert len(block) == block_size(block)
    points = hard_points(x, rng)
    assert len(points) == 1000
    for u in points.reshape(-1, 4, 2):  # groups of four, so that covariances between inputs are in it
        mean, covariance = scores_flat(block, u)
        ours = scores_at(process, u)
        np.testing.assert_allclose(mean, ours.mean, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(covariance, ours.covariance, rtol=1e-10, atol=1e-10 * process.variance.max())
        bars = rng.standard_normal(mean.shape), rng.standard_normal(covariance.shape)
        derivative = scores_flat_reverse(block, u, *bars)
        i, c, e = int(rng.integers(4)), int(rng.integers(2)), np.zeros_like(u)
        e[i, c] = 1e-5
        high, low = scores_flat(block, u + e), scores_flat(block, u - e)
        numeric = sum(float(np.sum((a - b) * bar)) for a, b, bar in zip(high, low, bars, strict=True)) / 2e-5
        assert derivative[i, c] == pytest.approx(numeric, rel=1e-5, abs=1e-5 * (1.0 + np.abs(derivative).max()))


def test_the_block_of_compiled_code_is_made_once_and_not_pickled() -> None:
    process = two_draws()[0]
    plain = len(pickle.dumps(process))
    assert process.flat() is process.flat()
    assert len(pickle.dumps(process)) == plain
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(process)).flat(), process.flat())


def test_the_derivative_between_inputs_in_one_place_is_finite() -> None:
    x, y = runs()
    process = condition(Matern32(), x, y, 1, [given([0.3, 0.5])] * 2)
    u = np.vstack([x[0], x[0], x[1], x[0]])
    derivative = scores_flat_reverse(process.flat(), u, np.ones((1, 4, 2)), np.ones((1, 2, 4, 4)))
    assert np.isfinite(derivative).all()


# ------------------------------------------------------------------------------------------------ hyperparameter draws
def two_draws() -> tuple[ScoreProcess, list[ScoreProcess]]:
    x, y = runs()
    singles = [condition(Matern52(), x, y, 1, [given(ell)] * 2) for ell in ([0.3, 0.5], [0.8, 0.2])]
    names = ("ell variance nugget jitter beta target inverse_factor trend_factor trend_root").split()
    parts = {name: np.concatenate([getattr(s, name) for s in singles]) for name in names}
    weights = np.log([0.3, 0.7]) + 5.0  # not normalised on purpose
    return ScoreProcess(kernel=Matern52(), x=x, y=y, log_weights=weights, **parts), singles


def test_a_mixture_has_the_moments_of_its_weighted_draws() -> None:
    process, singles = two_draws()
    u = np.random.default_rng(2).uniform(-0.2, 1.2, (5, 2))
    scores = scores_at(process, u, diagonal=True)
    parts = [scores_at(single, u, diagonal=True) for single in singles]
    identity = Decoder(np.zeros(2), np.eye(2), np.zeros((2, 0)))
    mean, variance = mixture(scores, identity).moments()
    expected = 0.3 * parts[0].mean[0] + 0.7 * parts[1].mean[0]
    np.testing.assert_allclose(mean, expected, rtol=1e-12)
    second = 0.3 * (parts[0].covariance[0].T + parts[0].mean[0] ** 2)
    second += 0.7 * (parts[1].covariance[0].T + parts[1].mean[0] ** 2)
    np.testing.assert_allclose(variance, second - expected**2, atol=1e-10)
    for part, block in zip(scores_flat(process.flat(), u), (scores_at(process, u)), strict=False):
        np.testing.assert_allclose(part, block, atol=1e-10)


# ------------------------------------------------------------------------------------------------------- nasty designs
def nasty_designs() -> dict[str, Array]:
    rng = np.random.default_rng(4)
    base = rng.random((20, 2))
    grid = np.array(np.meshgrid(np.linspace(0, 1, 7), np.linspace(0, 1, 7))).reshape(2, -1).T
    return {
        "duplicates": np.vstack([base, base[:5]]),
        "near duplicates": np.vstack([base, base[:5] + 1e-9]),
        "all equal": np.full((10, 2), 0.5),
        "constant column": np.column_stack([base[:, 0], np.full(20, 0.3)]),
        "collinear": np.column_stack([base[:, 0], 2.0 * base[:, 0] - 0.5]),
        "grid": grid,
        "cluster": 0.5 + 1e-6 * base,
        "one run": base[:1],
        "two runs": base[:2],
        "huge units": 1e12 * base,
        "tiny units": 1e-12 * base,
        "boundary": np.round(base) + 1e-10 * base,
        "line": np.column_stack([np.linspace(0, 1, 200), np.full(200, 0.5)]),
    }


@pytest.mark.parametrize("name", nasty_designs())
@pytest.mark.parametrize("kernel", [SquaredExponential(), Matern52()])
@pytest.mark.parametrize("ell", [1e-2, 0.5, 1e3])
def test_nasty_designs_give_finite_numbers_with_a_small_jitter(name: str, kernel: Kernel, ell: float) -> None:
    x = nasty_designs()[name]
    y = np.sin(3.0 * x[:, :1])
    before = np.geterr()
    process = condition(kernel, x, y, 0, [given([ell, ell])], [1.0])
    assert process.jitter[0, 0] <= 1e-9
    u = np.vstack([x[:3], np.random.default_rng(1).random((4, 2))])
    scores = scores_at(process, u)
    assert np.isfinite(scores.mean).all()
    assert np.isfinite(scores.covariance).all()
    assert (np.diagonal(scores.covariance[0, 0]) >= 0.0).all()
    assert (scores_at(process, u, diagonal=True).covariance >= 0.0).all()
    derivative = scores_flat_reverse(process.flat(), u, np.ones((1, len(u), 1)), np.ones((1, 1, len(u), len(u))))
    assert np.isfinite(derivative).all()
    draws = draw_at(process, 0, 0, u, np.ones((2, len(u))), np.zeros((2, 0)))
    assert np.isfinite(draws).all()
    assert np.geterr() == before


@pytest.mark.parametrize(
    "name", ["duplicates", "near duplicates", "constant column", "collinear", "grid", "cluster", "line"]
)
def test_training_on_nasty_designs_ends_with_finite_numbers(name: str) -> None:
    x = nasty_designs()[name]
    y = np.sin(3.0 * x[:, 0] / max(np.ptp(x[:, 0]), 1e-300))
    y = (y - y.mean()) / y.std()
    for kernel in (SquaredExponential(), Matern52()):
        found = train(x, y, kernel, trend_basis(x, 1), False)
        assert np.isfinite([found.objective, *found.ell]).all()
        assert found.jitter <= 1e-6


# -------------------------------------------------------------------------------------------------------- joint draws
def test_draws_follow_the_joint_posterior() -> None:
    x, y = runs(12)
    process = condition(Matern52(), x, y, 3, [given([0.3, 0.5])] * 2)
    u = np.random.default_rng(3).random((5, 2))
    rng, n = np.random.default_rng(1), 20_000
    draws = draw_at(process, 0, 1, u, rng.standard_normal((n, 5)), rng.standard_normal((n, 3)))
    scores = scores_at(process, u)
    expected, sd = scores.covariance[0, 1], np.sqrt(np.diag(scores.covariance[0, 1]))
    assert np.abs((draws.mean(axis=0) - scores.mean[0, :, 1]) / sd).max() < 4.0 / np.sqrt(n)
    off = (np.cov(draws.T) - expected) / np.outer(sd, sd)
    assert np.abs(off).max() < 4.5 * np.sqrt(2.0 / n)


def test_draws_where_runs_leave_almost_no_variance_have_that_variance() -> None:
    # Differences of covariances have lost all of their digits here: their factor would not exist.
    x = np.linspace(0.0, 1.0, 40)[:, None]
    process = condition(SquaredExponential(), x, np.sin(3.0 * x), 1, [given([0.5])])
    u = np.linspace(0.0, 1.0, 200)[:, None]
    rng = np.random.default_rng(1)
    draws = draw_at(process, 0, 0, u, rng.standard_normal((50, 200)), rng.standard_normal((50, 1)))
    assert np.abs(draws - np.sin(3.0 * u[:, 0])).max() < 1e-4


@pytest.mark.parametrize("kernel", [Matern52(), SquaredExponential()])
def test_draws_next_to_runs_have_the_variance_that_is_said(kernel: Kernel) -> None:
    """The jitter of the points is as large as what many runs leave of the variance: up to 1.8 and 3 times too much."""
    rng = np.random.default_rng(1)
    x, y = rng.random((100, 2)), np.empty((100, 1))
    y[:, 0] = np.sin(4.0 * x[:, 0]) * np.cos(3.0 * x[:, 1]) + x[:, 1]
    process = condition(kernel, x, y, 1, [given(np.array([0.6, 0.8]))])
    u = np.vstack([np.clip(x[:6] + 1e-3 * rng.standard_normal((6, 2)), 0.0, 1.0), rng.random((6, 2))])
    root = root_at(process, 0, 0, u)
    said = scores_at(process, u, diagonal=True).covariance[0, 0]
    np.testing.assert_allclose(np.sum(root**2, axis=1), said, rtol=1e-2)


def test_normals_belong_to_points() -> None:
    u = np.random.default_rng(1).random((400, 3))
    z = normals_at(u, 500, 7)
    np.testing.assert_array_equal(z[:, [5, 2]], normals_at(u[[5, 2]], 500, 7))
    assert not np.isclose(z, normals_at(u, 500, 8)).any(axis=0).all()
    values = np.sort(z.ravel())
    assert np.abs(ndtr(values) - (np.arange(len(values)) + 0.5) / len(values)).max() < 1.95 / np.sqrt(len(values))
    for rows in (z[:, :50].T, z[:50]):  # between points, and between draws
        off = np.corrcoef(rows)[np.triu_indices(50, 1)]
        assert np.sqrt(np.mean(off**2)) * np.sqrt(rows.shape[1]) == pytest.approx(1.0, abs=0.1)


def test_draws_at_distant_points_are_independent_in_two_calls() -> None:
    names = [f"x{i}" for i in range(6)]
    design = uq.sobol(uq.ParameterSpace(**{name: uq.Uniform(0.0, 1.0) for name in names}), 60, rng=1)
    x = np.column_stack([design[name] for name in names])
    runs = uq.ensemble.build(design, {"y": np.sin(5.0 * x).sum(axis=1)})
    draws = uq.GaussianProcess(kernel=Matern32(), hyperparameters="point").fit(runs).functions(1000, 1, anchors=256)
    low, high = (draws(np.full((1, 6), at))[:, 0, 0] for at in (0.1, 0.9))
    assert abs(np.corrcoef(low, high)[0, 1]) < 0.15


def test_means_of_one_hyperparameter_draw_each() -> None:
    """Equal to those of all draws at all inputs, in blocks of points too."""
    rng = np.random.default_rng(7)
    x, y = drawn(rng, 20, 0, 3, 0.5, 2)
    process = known_process(x, y, [0.3, 0.5, 0.9]).process
    u, draws = rng.random((9, 1000, 3)), rng.integers(3, size=9)
    every = scores_at(process, u.reshape(-1, 1, 3)).mean.reshape(3, 9, 1000, 2)
    np.testing.assert_allclose(means_at(process, draws, u), every[draws, np.arange(9)], rtol=0.0, atol=1e-12)
