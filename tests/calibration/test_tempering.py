"""Tempering from the prior to the posterior: evidence and moments in closed form, ridges, modes, constraints."""

import numpy as np
import pytest
from calibration.problems import gaussian_target
from scipy.special import log_ndtr, logsumexp

from uqms.calibration.tempering import Tempered, systematic, temper
from uqms.errors import InitError


def runs(log_likelihood: object, d: int, count: int = 4, particles: int = 1000) -> list[Tempered]:
    return [temper(log_likelihood, d, particles, np.random.default_rng(k), correlation=0.05) for k in range(count)]


@pytest.mark.parametrize(
    ("d", "correlation", "sd", "centre"), [(1, 0.0, 0.3, 1.0), (5, 0.995, 0.1, 0.5), (10, 0.7, 0.05, 0.8)]
)
def test_gaussian_evidence_and_moments_are_exact(d: int, correlation: float, sd: float, centre: float) -> None:
    function, evidence, mean, sds = gaussian_target(d, correlation, sd, centre)
    found = runs(function, d)
    log_evidence = np.array([run.log_evidence for run in found])
    assert abs(log_evidence.mean() - evidence) < 4.0 * max(log_evidence.std(ddof=1), 0.05) / 2.0
    z = np.concatenate([run.z for run in found])
    np.testing.assert_array_less(np.abs(z.mean(axis=0) - mean) / sds, 4.0 / np.sqrt(0.25 * len(z)))
    np.testing.assert_allclose(z.std(axis=0) / sds, 1.0, atol=0.08)
    assert all(run.correlation < 0.05 and run.power == 1.0 for run in found)


@pytest.mark.slow
def test_a_curved_ridge_is_that_of_quadrature() -> None:
    def banana(z: np.ndarray) -> np.ndarray:
        return -0.5 * ((z[:, 1] - z[:, 0] ** 2 + 0.5) / 0.03) ** 2 - 0.5 * (z[:, 0] - 0.2) ** 2

    grid = np.linspace(-4.0, 4.0, 2001)
    x, y = (axis.ravel() for axis in np.meshgrid(grid, grid, indexing="ij"))
    log_density = banana(np.column_stack([x, y])) - 0.5 * (x**2 + y**2) - np.log(2.0 * np.pi)
    evidence = logsumexp(log_density) + 2.0 * np.log(grid[1] - grid[0])
    weight = np.exp(log_density - logsumexp(log_density))
    found = runs(banana, 2)
    log_evidence = np.array([run.log_evidence for run in found])
    assert abs(log_evidence.mean() - evidence) < 4.0 * max(log_evidence.std(ddof=1), 0.05) / 2.0
    z = np.concatenate([run.z for run in found])
    for values, axis in zip(z.T, (x, y), strict=True):
        mean = weight @ axis
        sd = np.sqrt(weight @ (axis - mean) ** 2)
        assert abs(values.mean() - mean) < 4.0 * sd / np.sqrt(1000)
        assert values.std() / sd == pytest.approx(1.0, abs=0.06)


def test_two_modes_a_hundred_widths_apart_have_their_mass() -> None:
    def two(z: np.ndarray) -> np.ndarray:
        return np.logaddexp(
            *(np.log(w) - 0.5 * np.sum((z - m) ** 2, axis=1) / 0.02**2 for w, m in ((0.3, -1), (0.7, 1)))
        )

    share = np.array([np.mean(run.z[:, 0] > 0.0) for run in runs(two, 2, 6)])
    assert abs(share.mean() - 0.7) < 4.0 * share.std(ddof=1) / np.sqrt(6)
    assert share.std(ddof=1) < 0.06


def test_constraints_are_part_of_the_evidence() -> None:
    """A point is admitted where z_0 > 1 only: the evidence is that share of the prior times the likelihood there."""
    found = runs(lambda z: np.where(z[:, 0] > 1.0, 2.0, -np.inf), 2)
    log_evidence = np.mean([run.log_evidence for run in found])
    assert log_evidence == pytest.approx(2.0 + log_ndtr(-1.0), abs=4.0 * np.sqrt((1 / 0.159 - 1) / 24000) + 0.02)
    assert min(run.z[:, 0].min() for run in found) > 1.0


def test_no_admitted_draw_of_the_prior_names_the_term(rng: np.random.Generator) -> None:
    with pytest.raises(InitError, match=r"log-density of \['observations'\] is not finite at any of 5000 draws"):
        temper(lambda z: np.full(len(z), -np.inf), 2, 100, rng)


def test_systematic_resampling_rounds_the_weights(rng: np.random.Generator) -> None:
    weight = rng.dirichlet(np.ones(50))
    counts = np.bincount(systematic(weight, 1000, rng), minlength=50)
    assert counts.sum() == 1000
    assert np.abs(counts - 1000 * weight).max() < 1.0 + 1e-9
