"""Batched climbs: ends and curvatures of densities that are known."""

import numpy as np
import pytest

from uqms.calibration.climbs import Climb, bfgs

SHORT = 1e-2  # the unit of x, in those of z


def roots(count: int, d: int) -> np.ndarray:
    """Return the root of each climb: a short unit."""
    return np.tile(SHORT * np.eye(d), (count, 1, 1))


def test_climbs_end_at_the_mode_of_a_normal_law_and_learn_its_covariance() -> None:
    mean, covariance = np.array([0.3, -1.0, 2.0]), np.array([[1.0, 0.8, 0.0], [0.8, 1.0, 0.05], [0.0, 0.05, 0.01]])
    precision = np.linalg.inv(covariance)

    def log_density(z: np.ndarray) -> np.ndarray:
        return np.asarray(-0.5 * np.einsum("ni,ij,nj->n", z - mean, precision, z - mean))

    start = np.random.default_rng(1).normal(0.0, 2.0, (8, 3))
    found = Climb(log_density, roots(8, 3)).up(start, 60)
    np.testing.assert_allclose(found.z, np.tile(mean, (8, 1)), atol=1e-3)
    np.testing.assert_allclose(found.value, 0.0, atol=1e-6)
    # what BFGS knows of the curvature is that of the ways it went: within a factor of two of the true sds
    sds = SHORT * np.sqrt(np.diagonal(found.inverse, axis1=1, axis2=2))
    assert np.all(np.abs(np.log(sds / np.sqrt(np.diag(covariance)))) < np.log(2.0))


def test_a_narrow_mode_is_reached() -> None:
    """Of four parameters with sds from .001 to .3, as far as the prior is wide, within the steps of a start."""
    rng = np.random.default_rng(3)
    turned = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    precision = turned @ np.diag(np.geomspace(1e-3, 0.3, 4) ** -2) @ turned.T

    def log_density(z: np.ndarray) -> np.ndarray:
        return np.asarray(-0.5 * np.einsum("ni,ij,nj->n", z, precision, z) - 0.05 * np.sum(z**4, axis=1))

    found = Climb(log_density, roots(24, 4)).up(rng.normal(0.0, 1.0, (24, 4)), 60)
    assert np.all(found.value > -0.1)


def test_climbs_follow_a_bent_ridge() -> None:
    def log_density(z: np.ndarray) -> np.ndarray:
        return np.asarray(-((1.0 - z[:, 0]) ** 2) - 100.0 * (z[:, 1] - z[:, 0] ** 2) ** 2)

    start = np.array([[-1.2, 1.0], [0.0, 2.0], [2.0, -1.0]])
    found = Climb(log_density, roots(3, 2)).up(start, 200)
    np.testing.assert_allclose(found.z, 1.0, atol=0.05)


def test_a_climb_that_begins_nowhere_stays_and_the_others_go_on() -> None:
    def log_density(z: np.ndarray) -> np.ndarray:
        return np.where(z[:, 0] < 5.0, -0.5 * np.sum(z**2, axis=1), -np.inf)

    start = np.array([[6.0, 0.0], [4.0, 1.0]])
    found = Climb(log_density, roots(2, 2)).up(start, 60)
    np.testing.assert_array_equal(found.z[0], start[0])
    assert found.value[0] == -np.inf
    np.testing.assert_allclose(found.z[1], 0.0, atol=1e-3)


def test_an_update_has_the_secant_property() -> None:
    """H y = s after the update (Nocedal & Wright 2006, equation 6.17)."""
    rng = np.random.default_rng(2)
    s = rng.standard_normal((4, 3))
    y = s @ np.diag([1.0, 2.0, 3.0])
    updated = bfgs(np.tile(np.eye(3), (4, 1, 1)), s, y)
    np.testing.assert_allclose(np.einsum("nij,nj->ni", updated, y), s, rtol=1e-12)
    assert updated == pytest.approx(np.swapaxes(updated, 1, 2))
