"""The low-rank error against dense covariances, the exact kernel, finite differences and scipy."""

import pickle
from typing import Any, NamedTuple

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
from scipy.stats import multivariate_normal

import uqms as uq
from uqms.calibration import _process_gaussian, bridge
from uqms.calibration.gaussian import GaussianLikelihood, process_block
from uqms.calibration.graph import model_target
from uqms.calibration.likelihood import Cells, NoiseGroups
from uqms.calibration.population.covariances import ProcessCovariances
from uqms.calibration.population.lowrank import LowRank
from uqms.calibration.population.shared_error import LEFT_OUT, SharedError, nystroem
from uqms.errors import InputError
from uqms.surrogates import (
    Adapted,
    MainEffects,
    Matern32,
    Matern52,
    Matern72,
    Matern112,
    RationalQuadratic,
    SquaredExponential,
)
from uqms.surrogates.kernels import Kernel, scale_count
from uqms.surrogates.process import ScoreProcess, average, condition, scores_at
from uqms.surrogates.training import Hyperparameters
from uqms.surrogates.transforms import IDENTITY

SIGMA, OUTPUTS = np.array([0.1, 0.2]), ("a", "b")
KERNELS = (
    SquaredExponential(),
    Matern32(),
    Matern52(),
    Matern72(),
    Matern112(),
    RationalQuadratic(),
    SquaredExponential() + Matern52() * RationalQuadratic(0.7),
    Adapted(),
    Adapted(Matern32(), amplitude=False),
    MainEffects(Matern32()),
    Adapted(SquaredExponential() + Matern52() * RationalQuadratic(0.7), directions=False),
)


class Data(NamedTuple):
    """Cells and their parts."""

    cells: Cells
    experiment: np.ndarray
    offset: np.ndarray
    group: np.ndarray
    basis: np.ndarray
    truncation: np.ndarray
    row_cell: np.ndarray
    row_variance: np.ndarray


def process_of(
    kernel: Kernel, q: int = 2, d: int = 2, n: int = 15, columns: int = 1, ells: tuple[float, ...] = (0.6,)
) -> ScoreProcess:
    """Return q scores conditioned on n runs, averaged over length scales; one run has no value of the last score."""
    rng = np.random.default_rng(1)
    x = rng.random((n, d))
    y = np.sin(3.0 * x @ rng.random((d, q)))
    y[3, -1] = np.nan
    found = []
    for ell in ells:
        each = [
            Hyperparameters(hyperparameters_of(kernel, d, ell, slope), 0.0, 1e-10, 0.0, 1, False)
            for slope in np.linspace(0.4, 1.3, q)
        ]
        found.append(condition(kernel, x, y, columns, each, [0.3] * q))
    return average(found)


def hyperparameters_of(kernel: Kernel, d: int, ell: float, slope: float) -> np.ndarray:
    """Return length scales about `ell`, shares of a half, and directions and slopes of an amplitude, if any."""
    if isinstance(kernel, Adapted):
        own = hyperparameters_of(kernel.kernel, d, ell, slope)
        return kernel.ell_of(own, np.eye(d) - slope * np.eye(d, k=-1), np.linspace(slope, -0.5, d))
    parts = scale_count(kernel, d) // d
    shares = np.full(len(kernel.more(d)[0]), 0.5)
    return np.append(np.repeat(np.array([1.0, 0.7, 1.5])[:parts], d) * ell, shares)


def data_of(sizes: list[int], q: int, width: int = 0, copies: int = 2) -> Data:
    """Return cells of inputs with the given numbers of them, all different."""
    rng = np.random.default_rng(2)
    K, N = len(sizes), sum(sizes)
    basis, truncation = rng.standard_normal((N, q)), 0.2 * rng.standard_normal((N, width))
    row_cell = np.repeat(np.arange(N), copies)
    variance, offset, group = rng.uniform(0.5, 2.0, N * copies), rng.standard_normal(N), np.arange(N) % 2
    experiment, nothing = np.repeat(np.arange(K), sizes), np.zeros(N * copies)
    cells = Cells(
        z=nothing,
        row_cell=row_cell,
        row_variance=variance,
        experiment=experiment,
        conditions=np.zeros((K, 0)),
        output=np.array(OUTPUTS)[group],
        coords={},
        group=group,
        offset=offset,
        basis=basis,
        truncation=truncation,
        side=nothing.astype(np.int64),
        limit=nothing,
        trials=nothing,
        links=(IDENTITY,) * 2,
        responses=(IDENTITY,) * 2,
    )
    return Data(cells, experiment, offset, group, basis, truncation, row_cell, variance)


def likelihood_of(data: Data, error: SharedError | None = None) -> GaussianLikelihood:
    """Return the likelihood of cells with unknown noise of two outputs, through the features of an error if given."""
    noise, keys = uq.GaussianNoise(sd=1.0), tuple(f"sigma_{name}" for name in OUTPUTS)
    groups = NoiseGroups(OUTPUTS, (noise, noise), keys, (1.0, 1.0), ({"sigma": 0}, {"sigma": 1}))
    return GaussianLikelihood.of(data.cells, groups, ranks=None if error is None else error.ranks)


def low_rank(error: SharedError, data: Data, unit: np.ndarray) -> LowRank:
    """Return the likelihood of cells through features."""
    return LowRank(error, likelihood_of(data, error), unit)


def dense(data: Data, mean: np.ndarray, joint: np.ndarray, sigma: np.ndarray = SIGMA) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of the rows, for scores' mean (K, q) and covariance (q, K, K)."""
    k = data.experiment
    centre = data.offset + np.sum(data.basis * mean[k], axis=1)
    cells = np.einsum("aj,bj,jab->ab", data.basis, data.basis, joint[:, k][:, :, k])
    cells += (k[:, None] == k) * (data.truncation @ data.truncation.T)
    rows = data.row_cell
    noise = sigma[data.group][rows] ** 2 * data.row_variance
    return centre[rows], cells[np.ix_(rows, rows)] + np.diag(noise)


def log_density(lowrank: LowRank, u: Any, sigma: Any, z: np.ndarray) -> Any:
    """Return the likelihood as a PyTensor expression."""
    return bridge.PROCESS_GAUSSIAN(pytensor.shared(lowrank.block), u, pt.as_tensor(sigma), z)[0]


@pytest.fixture(scope="module")
def several() -> tuple[LowRank, Data, np.ndarray, np.ndarray]:
    """Two draws of hyperparameters, units of one to three inputs, five features a score, truncation and replicates."""
    process = process_of(Matern52(), columns=3, ells=(0.6, 0.9))
    rng = np.random.default_rng(3)
    data = data_of([2, 3, 1, 2, 2, 4, 1], 2, width=2)
    error = SharedError.through(ProcessCovariances(process), rng.random((5, 2)))
    u = rng.random((3, 7, 2))
    z = rng.multivariate_normal(*dense(data, error.at(u[0]).mean[0], error.covariance(u[0])[0]))
    return low_rank(error, data, np.array([0, 1, 1, 2, 3, 3, 3])), data, u, z


# --- the compiled kernel ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [1, 3, 6])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_through_the_inputs_themselves_it_is_the_exact_likelihood(kernel: Kernel, columns: int) -> None:
    process = process_of(kernel, columns=columns, ells=(0.5, 0.8))
    rng = np.random.default_rng(4)
    data, u = data_of([3] * 8, 2, width=1), rng.random((8, 2))
    lowrank = low_rank(SharedError.through(ProcessCovariances(process), u), data, np.arange(8))
    scores = scores_at(process, u)
    z = rng.multivariate_normal(*dense(data, scores.mean[0], scores.covariance[0]))
    value, by_u, by_sigma = lowrank.value_and_slopes(u, SIGMA, z)
    exact, wanted_u, wanted_sigma = _process_gaussian.at(process_block(process, likelihood_of(data)), u, SIGMA, z)
    assert value == pytest.approx(exact, abs=1e-8)
    np.testing.assert_allclose(by_u, wanted_u, atol=1e-6 * np.abs(wanted_u).max())
    np.testing.assert_allclose(by_sigma, wanted_sigma, rtol=1e-7)


def test_value_is_the_normal_density_of_the_dense_low_rank_covariance(
    several: tuple[LowRank, Data, np.ndarray, np.ndarray],
) -> None:
    lowrank, data, u, z = several
    for one in u:
        joint, mean = lowrank.error.covariance(one), lowrank.error.at(one).mean
        each = [multivariate_normal(*dense(data, mean[h], joint[h])).logpdf(z) for h in range(2)]
        wanted = np.logaddexp.reduce(np.array(each) + lowrank.error.log_weights)
        assert lowrank.value_and_slopes(one, SIGMA, z)[0] == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_gradient_is_that_of_finite_differences(kernel: Kernel) -> None:
    process = process_of(kernel, columns=6, ells=(0.6, 0.9))
    rng = np.random.default_rng(5)
    data, u = data_of([2, 1, 3, 2], 2, width=1), rng.random((4, 2))
    error = SharedError.through(ProcessCovariances(process), rng.random((3, 2)))
    lowrank = low_rank(error, data, np.arange(4))
    z = rng.multivariate_normal(*dense(data, error.at(u).mean[0], error.covariance(u)[0]))
    _, by_u, by_sigma = lowrank.value_and_slopes(u, SIGMA, z)

    def slope(one: np.ndarray, other: np.ndarray, size: float) -> float:
        up, down = (lowrank.value_and_slopes(u + s * one, SIGMA + s * other, z)[0] for s in (1.0, -1.0))
        return (up - down) / (2.0 * size)

    nothing_u, nothing = np.zeros_like(u), np.zeros(2)
    for at in np.ndindex(u.shape):
        step = nothing_u.copy()
        step[at] = 1e-5
        assert by_u[at] == pytest.approx(slope(step, nothing, 1e-5), rel=1e-5, abs=1e-5 * np.abs(by_u).max())
    for g in range(2):
        assert by_sigma[g] == pytest.approx(slope(nothing_u, 1e-6 * np.eye(2)[g], 1e-6), rel=1e-5)


def test_beyond_double_precision_there_is_no_density(several: tuple[LowRank, Data, np.ndarray, np.ndarray]) -> None:
    lowrank, _, u, z = several
    assert lowrank.value_and_slopes(u[0], SIGMA * 1e-9, z)[0] == -np.inf
    assert lowrank.evaluate(u, np.tile(SIGMA * 1e-9, (3, 1)), z).tolist() == [-np.inf] * 3


# --- the features -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [Matern52(), Adapted()], ids=str)
def test_variance_is_exact_everywhere_and_covariance_at_the_points(kernel: Kernel) -> None:
    process = process_of(kernel, columns=3)
    rng = np.random.default_rng(6)
    points, others = rng.random((9, 2)), rng.random((50, 2))
    error = SharedError.through(ProcessCovariances(process), points)
    exact, ours = (
        f(np.vstack([points, others]))[0] for f in (lambda u: scores_at(process, u).covariance, error.covariance)
    )
    np.testing.assert_allclose(np.diagonal(ours, axis1=1, axis2=2), np.diagonal(exact, axis1=1, axis2=2), atol=1e-12)
    np.testing.assert_allclose(ours[:, :9], exact[:, :9], atol=1e-10)
    assert np.abs(ours - exact).max() > 1e-4  # elsewhere it is an approximation
    assert np.linalg.eigvalsh(exact - ours + np.eye(59) * error.at(others).own.max()).min() > 0.0


def test_features_keep_the_variances_that_a_population_depends_on() -> None:
    rng = np.random.default_rng(7)
    process = process_of(Matern52(), d=3, n=40, q=1)
    cloud, several = 0.5 + 0.15 * rng.standard_normal((600, 3)), 0.5 + 0.15 * rng.standard_normal((16, 200, 3))
    noise = np.array([1e-3])
    error = nystroem(ProcessCovariances(process), cloud, several, noise=noise)
    assert error.left_out[0] <= LEFT_OUT
    fewer = nystroem(ProcessCovariances(process), cloud, several, noise=noise, ranks=(int(error.ranks[0]) // 2,))
    assert fewer.left_out[0] > LEFT_OUT

    u = 0.5 + 0.15 * rng.standard_normal((200, 3))
    exact, ours, worse = scores_at(process, u).covariance[0, 0], error.covariance(u)[0, 0], fewer.covariance(u)[0, 0]
    alone = np.diag(np.diag(exact))
    centred = (u - u.mean(axis=0)) / u.std(axis=0)
    for weights in (np.ones(200), *centred.T, *(centred**2).T):
        true, found, half, independent = (
            w @ (one + noise * np.eye(200)) @ w for w in [weights] for one in (exact, ours, worse, alone)
        )
        assert found == pytest.approx(true, rel=2.0 * LEFT_OUT)
        assert abs(independent / true - 1.0) > abs(found / true - 1.0)
    mean = np.full(200, 1.0 / 200)
    assert mean @ ours @ mean / (mean @ exact @ mean) == pytest.approx(1.0, abs=0.01)
    assert mean @ alone @ mean / (mean @ exact @ mean) < 0.1  # what independent errors make of it


def test_left_out_is_what_the_dense_covariances_say() -> None:
    from scipy.linalg import eigh

    rng = np.random.default_rng(8)
    process = process_of(Matern52(), d=2, n=20, q=1)
    cloud, several = 0.5 + 0.2 * rng.standard_normal((300, 2)), 0.5 + 0.2 * rng.standard_normal((9, 50, 2))
    error, found = (
        nystroem(ProcessCovariances(process), cloud, several, inputs=60, noise=np.array([0.01]), ranks=(4,)),
        [],
    )
    for one in several:  # some of 60 inputs, with as much more noise
        centred = one - one.mean(axis=0)
        weights = np.linalg.qr(np.column_stack([np.ones(50), centred, centred**2]))[0]
        exact, ours = (
            weights.T @ of @ weights + 0.01 * 50 / 60 * np.eye(5)
            for of in (scores_at(process, one).covariance[0, 0], error.covariance(one)[0, 0])
        )
        found.append(np.abs(eigh(exact, ours, eigvals_only=True) - 1.0).max())
    assert error.left_out[0] == pytest.approx(np.quantile(found, 0.75), rel=1e-6)


def test_points_at_the_edge_are_among_those_that_stand_for_all() -> None:
    process = process_of(Matern52(), d=2, n=20, q=1)
    rng = np.random.default_rng(3)
    cloud = np.concatenate([0.5 + 0.02 * rng.standard_normal((590, 2)), 3.0 + 0.01 * rng.standard_normal((10, 2))])
    cloud = cloud[rng.permutation(600)]
    error = nystroem(ProcessCovariances(process), cloud, cloud.reshape(10, 60, 2), ranks=(6,))
    share = error.at(cloud).own[0, :, 0] / scores_at(process, cloud).covariance[0, 0].diagonal()
    assert share[cloud[:, 0] > 2.0].max() < 0.01  # ten neighbours have one error, not ten


def test_each_score_has_as_many_features_as_its_noise_asks_for() -> None:
    process = process_of(Matern52(), d=3, n=40)
    rng = np.random.default_rng(9)
    cloud, several = rng.random((300, 3)), rng.random((4, 150, 3))
    error = nystroem(ProcessCovariances(process), cloud, several, noise=np.array([1e-4, 10.0]))
    assert error.ranks[0] >= 20
    assert error.ranks[1] == 1
    np.testing.assert_array_equal(np.bincount(error.score), error.ranks)
    assert (
        nystroem(ProcessCovariances(process), cloud, several[:, :12]).ranks.max() == 12
    )  # as many as inputs are enough


def test_a_score_that_is_known_exactly_has_features_of_zero() -> None:
    process = process_of(Matern52())
    error = SharedError.through(ProcessCovariances(process), process.x[:2])  # at its runs
    np.testing.assert_allclose(error.covariance(process.x[:3])[0, 0], 0.0, atol=1e-9)


def test_a_small_cloud_is_refused() -> None:
    with pytest.raises(InputError, match="A cloud of 4 inputs is too small"):
        nystroem(ProcessCovariances(process_of(Matern52())), np.zeros((4, 2)), np.zeros((1, 3, 2)))


# --- many draws at once -----------------------------------------------------------------------------------------------


def test_draws_at_once_have_the_compiled_values(several: tuple[LowRank, Data, np.ndarray, np.ndarray]) -> None:
    lowrank, _, u, z = several
    sigma = SIGMA * np.array([[1.0], [1.5], [0.7]])
    for sds in (sigma, np.tile(SIGMA, (3, 1))):  # noise that changes and noise that is known go different ways
        wanted = [lowrank.value_and_slopes(one, sd, z)[0] for one, sd in zip(u, sds, strict=True)]
        np.testing.assert_allclose(lowrank.evaluate(u, sds, z), wanted, rtol=1e-11)


def test_left_out_units_are_those_of_dense_covariances(several: tuple[LowRank, Data, np.ndarray, np.ndarray]) -> None:
    lowrank, data, u, z = several
    sigma = SIGMA * np.array([[1.0], [1.5], [0.7]])
    each, left_out = lowrank.by_draw(u, sigma, z)
    logs = lowrank.error.log_weights
    total = np.logaddexp.reduce(each + logs[:, None], axis=0)
    units = total[:, None] - np.logaddexp.reduce((each[..., None] - left_out) + logs[:, None, None], axis=0)
    assert units.shape == (3, 4)
    owner = lowrank.unit[data.experiment][data.row_cell]
    for s in range(3):
        joint, mean = lowrank.error.covariance(u[s]), lowrank.error.at(u[s]).mean
        laws = [dense(data, mean[h], joint[h], sigma[s]) for h in range(2)]
        assert total[s] == pytest.approx(
            np.logaddexp.reduce([multivariate_normal(*law).logpdf(z) for law in laws] + logs)
        )
        for i in range(4):
            rest = owner != i
            without = [multivariate_normal(m[rest], c[np.ix_(rest, rest)]).logpdf(z[rest]) for m, c in laws]
            assert units[s, i] == pytest.approx(total[s] - np.logaddexp.reduce(without + logs), abs=1e-9)


def test_shared_errors_given_the_data_are_those_of_dense_conditioning(
    several: tuple[LowRank, Data, np.ndarray, np.ndarray],
) -> None:
    lowrank, data, u, z = several
    sigma = np.tile(SIGMA, (3, 1))
    found = lowrank.condition(u, sigma, z)
    score, logs = lowrank.error.score, lowrank.error.log_weights
    M = len(score)
    for h in range(2):
        for s in range(3):
            mean, phi, _ = (part[h] for part in lowrank.error.at(u[s]))
            centre, covariance = dense(data, mean, lowrank.error.covariance(u[s])[h])
            H = data.basis[data.row_cell]
            k = data.experiment[data.row_cell]
            loading = phi[k] * H[:, score]  # of the rows on w
            gain = loading.T @ np.linalg.inv(covariance)
            np.testing.assert_allclose(found.mean[h, s], gain @ (z - centre), rtol=1e-8, atol=1e-10)
            factor = found.factor[h, s]
            np.testing.assert_allclose(np.linalg.inv(factor @ factor.T), np.eye(M) - gain @ loading, atol=1e-9)
    values = [
        [
            multivariate_normal(*dense(data, lowrank.error.at(one).mean[h], lowrank.error.covariance(one)[h])).logpdf(z)
            for one in u
        ]
        for h in range(2)
    ]
    values = np.array(values) + logs[:, None]
    np.testing.assert_allclose(found.log_weights, values - np.logaddexp.reduce(values, axis=0), atol=1e-9)


def test_draws_of_the_shared_error_have_their_law(several: tuple[LowRank, Data, np.ndarray, np.ndarray]) -> None:
    lowrank, _, u, z = several
    count = 20_000
    found = lowrank.condition(u[:1], SIGMA[None], z)
    many = type(found)(*(np.repeat(one, count, axis=1) for one in found))
    h, w = many.draw(np.random.default_rng(11))
    weight = np.exp(found.log_weights[:, 0])
    assert abs((h == 1).mean() - weight[1]) <= 4.0 * np.sqrt(weight[0] * weight[1] / count) + 1e-12
    top = int(np.argmax(weight))
    mean, factor = found.mean[top, 0], found.factor[top, 0]
    covariance, own = np.linalg.inv(factor @ factor.T), w[h == top]
    sd = np.sqrt(np.diag(covariance) / len(own))
    assert np.abs((own.mean(axis=0) - mean) / sd).max() < 4.0
    whitened = (own - mean) @ factor
    error = np.cov(whitened.T) - np.eye(len(mean))
    assert np.abs(error).max() < 5.0 * np.sqrt(2.0 / len(own))


# --- in PyTensor and PyMC ---------------------------------------------------------------------------------------------


def test_operation_has_value_and_gradient_in_compiled_models(
    several: tuple[LowRank, Data, np.ndarray, np.ndarray],
) -> None:
    lowrank, _, u, z = several
    value, by_u, by_sigma = lowrank.value_and_slopes(u[0], SIGMA, z)
    at, sd = pt.dmatrix("u"), pt.dvector("sigma")
    density = pickle.loads(pickle.dumps(log_density(lowrank, at, sd, z)))
    (at, sd) = density.owner.inputs[1:3]
    in_python = pytensor.function([at, sd], [density, *pytensor.grad(density, [at, sd])], mode="FAST_COMPILE")
    for found, wanted in zip(in_python(u[0], SIGMA), (value, by_u, by_sigma), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert bridge.PROCESS_GAUSSIAN == pickle.loads(pickle.dumps(bridge.PROCESS_GAUSSIAN))

    with pm.Model() as model:
        inputs = pm.Normal("inputs", 0.0, 1.0, shape=u[0].shape)
        pm.Potential("data", log_density(lowrank, inputs, SIGMA, z))
    target = model_target(model).with_map(None)
    found, gradient = target.evaluate(u[0].ravel())
    prior = -0.5 * np.sum(u[0] ** 2) - 0.5 * u[0].size * np.log(2.0 * np.pi)
    assert found == pytest.approx(value + prior, rel=1e-12)
    np.testing.assert_allclose(gradient, (by_u - u[0]).ravel(), rtol=1e-9, atol=1e-9)
