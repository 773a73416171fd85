"""Mixtures of t laws: their density, their fit to weighted particles, and moves that leave them unchanged."""

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import ks_2samp, multivariate_t

from uqms.calibration.mixture import Mixture, fit_mixture

MIXTURE = Mixture(
    np.array([0.3, 0.7]),
    np.array([[-1.0, 0.5], [2.0, 0.0]]),
    np.array([[[0.5, 0.0], [0.2, 0.4]], [[1.0, 0.0], [-0.9, 0.3]]]),
    8.0,
)


def test_density_is_that_of_scipy(rng: np.random.Generator) -> None:
    z = 2.0 * rng.standard_normal((30, 2))
    parts = [
        np.log(w) + multivariate_t(m, root @ root.T, df=8.0).logpdf(z)
        for w, m, root in zip(MIXTURE.weight, MIXTURE.centre, MIXTURE.root, strict=True)
    ]
    np.testing.assert_allclose(MIXTURE.log_density(z), logsumexp(parts, axis=0))


@pytest.mark.parametrize("length", [0.2, 0.7, 1.0])
def test_a_step_leaves_the_mixture_unchanged(length: float, rng: np.random.Generator) -> None:
    z = MIXTURE.draw(20000, rng)
    moved, fresh = MIXTURE.step(z, length, rng), MIXTURE.draw(20000, rng)
    for function in (lambda z: z[:, 0], lambda z: z[:, 1], lambda z: z[:, 0] * z[:, 1], MIXTURE.log_density):
        assert ks_2samp(function(moved), function(fresh)).pvalue > 1e-3
    assert np.abs(moved - z).max() > 0.0


def test_a_step_is_in_detailed_balance(rng: np.random.Generator) -> None:
    """A Metropolis step needs it: flux from any region to any other equals the flux back."""
    z = MIXTURE.draw(200_000, rng)
    moved = MIXTURE.step(z, 0.6, rng)
    there, back = (np.mean((a[:, 0] > 2.0) & (b[:, 1] > 0.6)) for a, b in ((z, moved), (moved, z)))
    assert abs(there - back) < 4.0 * np.sqrt(2.0 * there / len(z))


def test_two_clusters_of_weighted_particles_are_found(rng: np.random.Generator) -> None:
    z = np.concatenate([rng.normal(-3.0, 0.1, (500, 2)), rng.normal(3.0, 0.2, (500, 2))])
    weight = np.repeat([0.25, 0.75], 500) / 500
    found = fit_mixture(z, weight, rng)
    order = np.argsort(found.weight)
    np.testing.assert_allclose(found.weight[order], [0.25, 0.75], rtol=1e-6)
    np.testing.assert_allclose(found.centre[order], [[-3.0, -3.0], [3.0, 3.0]], atol=0.03)
    covariance = found.root @ np.swapaxes(found.root, 1, 2) * 10.0 / 8.0
    np.testing.assert_allclose(np.sqrt(covariance[order][:, [0, 1], [0, 1]]), [[0.1] * 2, [0.2] * 2], rtol=0.15)


def test_one_normal_cloud_is_one_component_however_narrow(rng: np.random.Generator) -> None:
    z = 1.0 + 1e-6 * rng.standard_normal((1000, 4)) * [1.0, 1.0, 1e3, 1.0]
    found = fit_mixture(z, np.full(1000, 1e-3), rng)
    assert len(found.weight) == 1
    covariance = found.root[0] @ found.root[0].T * 10.0 / 8.0
    np.testing.assert_allclose(covariance, np.cov(z.T, ddof=0), rtol=1e-6, atol=1e-18)
