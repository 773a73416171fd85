"""Noise as a Markov chain against dense matrices: unequal steps, several series, white noise beside, cells without."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from uqms._typing import Array
from uqms.calibration.markov import Chains, GivenData, MarkovNoise, Series, given_data

N, S = 23, 3


@pytest.fixture(scope="module")
def noise() -> MarkovNoise:
    """Two series of one output and one of another, in no order, and four cells whose noise is white."""
    rng = np.random.default_rng(1)
    cells = rng.permutation(N)[:19]
    first = Series(cells[:12], rng.integers(0, 2, 12), rng.random(12), amplitude=2, length=3)
    second = Series(cells[12:], np.full(7, 5), np.array([0.3, 0.1, 0.11, 0.3, 0.9, 0.2, 0.7]), amplitude=4, length=5)
    return MarkovNoise(rng.integers(0, 2, N), rng.uniform(0.5, 3.0, N), (first, second))


@pytest.fixture(scope="module")
def phi() -> Array:
    return np.random.default_rng(2).uniform(0.2, 1.5, (S, 6))


@pytest.fixture(scope="module")
def chains(noise: MarkovNoise, phi: Array) -> Chains:
    return noise.at(phi)


def dense(noise: MarkovNoise, phi: Array, white: bool = True) -> Array:
    """Return the covariance (N, N) by its definition."""
    out = np.diag(phi[noise.group] ** 2 / noise.weight) if white else np.zeros((N, N))
    for one in noise.series:
        step = np.abs(one.points[:, None] - one.points) / phi[one.length]
        same = one.ids[:, None] == one.ids
        out[np.ix_(one.cells, one.cells)] += phi[one.amplitude] ** 2 * np.exp(-step) * same
    return out


def test_whitening_makes_the_covariance_one(noise: MarkovNoise, phi: Array, chains: Chains) -> None:
    W = chains.whiten(np.tile(np.eye(N), (S, 1, 1)))
    for s in range(S):
        np.testing.assert_allclose(W[s] @ dense(noise, phi[s]) @ W[s].T, np.eye(N), atol=1e-12)


def test_transposed_is_that_of_whitening(chains: Chains) -> None:
    eye = np.tile(np.eye(N), (S, 1, 1))
    np.testing.assert_allclose(chains.whiten_transposed(eye), chains.whiten(eye).transpose(0, 2, 1), atol=1e-14)


def test_inverse_and_determinant_are_those_of_the_matrix(noise: MarkovNoise, phi: Array, chains: Chains) -> None:
    x = np.random.default_rng(3).standard_normal((S, N, 2))
    found = chains.whiten_transposed(chains.whiten(x))
    for s in range(S):
        matrix = dense(noise, phi[s])
        np.testing.assert_allclose(found[s], np.linalg.solve(matrix, x[s]), rtol=1e-10)
        np.testing.assert_allclose(chains.inverse_diagonal[s], np.diag(np.linalg.inv(matrix)), rtol=1e-10)
        assert chains.log_determinant[s] == pytest.approx(np.linalg.slogdet(matrix)[1], abs=1e-11)


def test_draws_have_the_covariance_of_the_process(noise: MarkovNoise, phi: Array, chains: Chains) -> None:
    root = np.stack([chains.process(np.tile(row, (S, 1))) for row in np.eye(N)], axis=2)  # (S, N, N)
    for s in range(S):
        np.testing.assert_allclose(root[s] @ root[s].T, dense(noise, phi[s], white=False), atol=1e-12)


def test_white_noise_alone_is_a_division() -> None:
    noise, phi = MarkovNoise(np.array([0, 1, 0]), np.array([1.0, 4.0, 2.0])), np.array([[0.5, 2.0]])
    sd = np.array([0.5, 1.0, 0.5 / np.sqrt(2.0)])
    np.testing.assert_allclose(noise.at(phi).whiten(np.ones((1, 3, 1)))[0, :, 0], 1.0 / sd, rtol=1e-14)


def test_short_steps_keep_their_digits() -> None:
    """With 10 000 steps to a length, 1 - rho² is left of a difference of two numbers near 1."""
    points = np.array([0.0, 1e-13])
    noise = MarkovNoise(np.array([0, 0]), np.ones(2), (Series(np.arange(2), np.zeros(2, int), points, 1, 2),))
    chains = noise.at(np.array([[1e-12, 1.0, 1.0]]))
    assert chains.fresh[0, 1] == pytest.approx(2e-13, rel=1e-9, abs=0.0)


@pytest.fixture(scope="module")
def errors() -> tuple[Array, Array, Array]:
    """Design of four errors, roots of their prior covariances, and residuals."""
    rng = np.random.default_rng(4)
    return rng.standard_normal((N, 4)), rng.standard_normal((S, 4, 4)), rng.standard_normal((S, N))


def log_density(found: GivenData) -> Array:
    """Return the log-density (S,) of the residuals from what they say of the errors."""
    quadratic = np.sum(found.residual**2, axis=1) - np.sum(found.projected**2, axis=1)
    return -0.5 * (N * np.log(2.0 * np.pi) + found.log_determinant + quadratic)


def test_density_is_that_of_the_dense_normal(
    noise: MarkovNoise, phi: Array, chains: Chains, errors: tuple[Array, Array, Array]
) -> None:
    G, root, residual = errors
    values = log_density(given_data(chains, G, root, residual))
    for s in range(S):
        C = dense(noise, phi[s]) + G @ root[s] @ root[s].T @ G.T
        assert values[s] == pytest.approx(multivariate_normal(np.zeros(N), C).logpdf(residual[s]), rel=1e-11)


def test_errors_given_data_are_those_of_the_dense_normal(
    noise: MarkovNoise, phi: Array, chains: Chains, errors: tuple[Array, Array, Array]
) -> None:
    G, root, residual = errors
    found = given_data(chains, G, root, residual)
    for s in range(S):
        prior = root[s] @ root[s].T
        gain = np.linalg.solve(dense(noise, phi[s]) + G @ prior @ G.T, G @ prior).T
        np.testing.assert_allclose(found.left[s] @ found.projected[s], gain @ residual[s], atol=1e-11)
        np.testing.assert_allclose(found.left[s] @ found.left[s].T, prior - gain @ G @ prior, atol=1e-11)


def test_one_draw_that_is_too_large_for_a_density_leaves_the_others(
    chains: Chains, errors: tuple[Array, Array, Array]
) -> None:
    G, root, residual = errors
    wanted = log_density(given_data(chains, G, root, residual))
    broken = root.copy()
    broken[1] = 1e200
    with np.errstate(all="ignore"):
        found = log_density(given_data(chains, G, broken, residual))
    assert not np.isfinite(found[1])
    np.testing.assert_allclose(found[[0, 2]], wanted[[0, 2]], rtol=1e-13)
