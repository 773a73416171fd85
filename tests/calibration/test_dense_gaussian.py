"""Gaussian data given in dense covariances: density and conditional moments are those of the textbook."""

import numpy as np
from scipy import stats

from uqms.calibration.dense_gaussian import given_data

N, P = 5, 3


def draws(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return covariances (count, N + P, N + P) and residuals (count, N)."""
    root = rng.standard_normal((count, N + P, N + P + 2))
    return root @ root.transpose(0, 2, 1), rng.standard_normal((count, N))


def test_density_and_moments_are_those_of_the_definition(rng: np.random.Generator) -> None:
    joint, residual = draws(rng, 4)
    C, K = joint[:, :N, :N], joint[:, :N, N:]
    found = given_data(C, residual, K)
    expected = [stats.multivariate_normal(cov=one).logpdf(r) for one, r in zip(C, residual, strict=True)]
    np.testing.assert_allclose(found.log_density, expected, rtol=1e-11)
    np.testing.assert_allclose(found.log_determinant, np.linalg.slogdet(C)[1], rtol=1e-11)
    gain = np.linalg.solve(C, K)
    np.testing.assert_allclose(found.mean, np.einsum("snp,sn->sp", gain, residual), rtol=1e-9)
    np.testing.assert_allclose(found.covariance, K.transpose(0, 2, 1) @ gain, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.variance, np.diagonal(found.covariance, axis1=1, axis2=2), rtol=1e-12)


def test_the_density_of_some_given_the_others_comes_from_the_precision(rng: np.random.Generator) -> None:
    joint, residual = draws(rng, 1)
    C, r = joint[0, :N, :N], residual[0]
    whole = given_data(C, r, np.eye(N))
    kept, out = np.array([0, 2, 4]), np.array([1, 3])
    own = given_data(whole.covariance[np.ix_(out, out)], whole.mean[out])
    expected = whole.log_density - given_data(C[np.ix_(kept, kept)], r[kept]).log_density
    np.testing.assert_allclose(own.log_density + own.log_determinant, expected, rtol=1e-9)


def test_a_draw_that_is_not_finite_leaves_the_others(rng: np.random.Generator) -> None:
    joint, residual = draws(rng, 3)
    C, K = joint[:, :N, :N].copy(), joint[:, :N, N:]
    expected = given_data(C[[0, 2]], residual[[0, 2]], K[[0, 2]])
    C[1, 0, 0] = np.inf
    found = given_data(C, residual, K)
    assert np.isnan(found.log_density[1])
    assert np.isnan(found.mean[1]).all()
    np.testing.assert_array_equal(found.mean[[0, 2]], expected.mean)
    np.testing.assert_array_equal(found.log_density[[0, 2]], expected.log_density)
