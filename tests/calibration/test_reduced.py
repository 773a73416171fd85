"""Cells that are reduced to few numbers: likelihood and terms by cell against dense normal distributions."""

from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from uqms._typing import Array
from uqms.calibration.reduced import Reduced, reduce_cells

DRAWS = 3


class Case(NamedTuple):
    """K experiments of n cells, q scores, t columns of truncation, noise groups, and whether truncation ties these."""

    K: int
    n: int
    q: int
    t: int
    groups: int
    tied: bool = True


CASES = [
    Case(1, 40, 2, 3, 1),
    Case(1, 5, 2, 3, 1),  # too few to be reduced
    Case(3, 30, 2, 3, 1),
    Case(2, 60, 2, 3, 2),
    Case(2, 60, 3, 4, 2, tied=False),
    Case(1, 30, 2, 0, 1),
    Case(2, 14, 2, 3, 2),  # one group is reduced, one is not, or none
]


class Made(NamedTuple):
    """A case with numbers."""

    reduced: Reduced
    starts: Array
    group: Array
    offset: Array
    basis: Array
    factors: list[Array]
    row_cell: Array
    row_variance: Array
    z: Array
    means: Array
    covariances: Array
    sigma: Array


def made(case: Case) -> Made:
    rng = np.random.default_rng(1)
    N = case.K * case.n
    starts = np.arange(case.K + 1) * case.n
    group = np.concatenate([np.sort(rng.permutation(np.arange(case.n) % case.groups)) for _ in range(case.K)])
    basis, factors = rng.standard_normal((N, case.q)), []
    for _ in range(case.K):
        factor = 0.3 * rng.standard_normal((case.n, case.t))
        for column in range(case.t if not case.tied else 0):
            factor[group[: case.n] != column % case.groups, column] = 0.0
        factors.append(factor)
    row_cell = np.concatenate([np.arange(N), rng.integers(0, N, N // 2)])
    row_variance, z = rng.uniform(0.5, 2.0, len(row_cell)), rng.standard_normal(len(row_cell))
    root = rng.standard_normal((DRAWS, case.q, case.K, case.K))
    arrays = (starts, group, rng.standard_normal(N), basis, factors, row_cell, row_variance, z)
    return Made(
        reduce_cells(*arrays),
        *arrays,
        rng.standard_normal((DRAWS, case.K, case.q)),
        root @ root.swapaxes(2, 3),
        rng.uniform(0.3, 1.0, (DRAWS, case.groups)),
    )


def dense(one: Made, s: int) -> tuple[Array, Array]:
    """Return mean and covariance of all rows by their definition."""
    experiment = np.repeat(np.arange(len(one.factors)), np.diff(one.starts))
    mean = one.offset + np.sum(one.means[s][experiment] * one.basis, axis=1)
    C = np.zeros((len(mean), len(mean)))
    for j in range(one.basis.shape[1]):
        between = one.covariances[s, j][np.ix_(experiment, experiment)]
        C += between * np.outer(one.basis[:, j], one.basis[:, j])
    for k, factor in enumerate(one.factors):
        C[np.ix_(experiment == k, experiment == k)] += factor @ factor.T
    noise = one.sigma[s, one.group][one.row_cell] ** 2 * one.row_variance
    return mean[one.row_cell], C[np.ix_(one.row_cell, one.row_cell)] + np.diag(noise)


@pytest.mark.parametrize("case", CASES)
def test_value_is_that_of_the_dense_normal(case: Case) -> None:
    one = made(case)
    wanted = [multivariate_normal(*dense(one, s)).logpdf(one.z) for s in range(DRAWS)]
    np.testing.assert_allclose(one.reduced.values(one.means, one.covariances, one.sigma), wanted, rtol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_terms_by_cell_are_those_of_the_dense_normal(case: Case) -> None:
    one = made(case)
    values, alpha, precision = one.reduced.terms(one.means, one.covariances, one.sigma)
    N = len(one.offset)
    weight = np.bincount(one.row_cell, 1.0 / one.row_variance)
    zbar = np.bincount(one.row_cell, one.z / one.row_variance) / weight
    for s in range(DRAWS):
        mean, C = dense(one, s)
        assert values[s] == pytest.approx(multivariate_normal(mean, C).logpdf(one.z), rel=1e-10)
        # The first N rows are one of each cell: with the noise of the weighted means they are these means.
        means = C[:N, :N] + np.diag(one.sigma[s, one.group] ** 2 * (1.0 / weight - one.row_variance[:N]))
        inverse = np.linalg.inv(means)
        np.testing.assert_allclose(alpha[s], inverse @ (zbar - mean[:N]), rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(precision[s], np.diag(inverse), rtol=1e-10)


def test_known_noise_is_as_one_value_of_it() -> None:
    one = made(CASES[0])
    same = np.tile(one.sigma[:1], (DRAWS, 1))
    together = one.reduced.terms(one.means, one.covariances, same)
    for s in range(DRAWS):
        now = slice(s, s + 1)
        alone = one.reduced.terms(one.means[now], one.covariances[now], same[now])
        for both, single in zip(together, alone, strict=True):
            np.testing.assert_allclose(both[s], single[0], rtol=1e-12)


@pytest.mark.parametrize(("case", "left"), [(CASES[0], 5), (CASES[1], 5), (CASES[3], 20)])
def test_reduced_numbers_are_as_many_as_basis_and_truncation_have_columns(case: Case, left: int) -> None:
    found = sum(len(one.value) for one in made(case).reduced.experiments)
    assert found == left
