"""Variances of conditional expectations from function values at points that share some of their inputs.

==========  ======================================================================================  ==================
symbol      meaning                                                                                 shape
==========  ======================================================================================  ==================
A, B        independent points; AB_g is A with group g of the inputs from B, BA_g the reverse        columns c
F           features of draws at n points of each column, in r replicates of the design             (s, r, c, n, f)
M           mean product of two columns' features, a quadratic form an output                       (s, r, ..., k)
delta       mean of the features                                                                    (s, r, f)
V           E[f(A) f(A)'] - delta delta'
V_g         E[f(B) f(AB_g)'] - delta delta' - lambda (E[f(A) f(B)'] - delta delta')
g_g         main effect of the mean g on group g, in Legendre polynomials                           (r, c, n, f)
T_g         E[(f(A) - f(AB_g)) (f(A) - f(AB_g))'] / 2
==========  ======================================================================================  ==================

V_g is the variance of E[f | g], T_g what V has beyond that of all inputs but g. What lambda multiplies is zero but for
Monte Carlo error; lambda = 1 - T_g / V takes out most of that of V_g: the estimator is that of Sobol' and Mauntz for
small indices and that of Janon et al. for large ones (Saltelli et al. 2010, doi:10.1016/j.cpc.2009.09.018; Janon et al.
2014, doi:10.1051/ps/2013040). T_g is Jansen's (1999, doi:10.1016/S0010-4655(98)00154-4). All are quadratic in f: with
scores as features, those of every coordinate of a curve follow from their products of q by q.

With f = g + e, V_g of f is that of g, that of e and 2 E[g_g(x) e(x)'], a mean over all points whose noise is small
where g_g is, unlike that of products of f. For interactions and groups of several inputs products of f are taken
throughout, so that their noise cancels.

The points are replicates of a scrambled Sobol sequence, so that their differences show the Monte Carlo error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float
from scipy.stats import qmc

from uqms._typing import Array, Bools

__all__ = ["Design", "Moments", "Products", "design_of", "legendre", "of_covariance", "pairs_of", "products"]

REPLICATES = 16


@final
@dataclass(frozen=True, eq=False)
class Design:
    """Points v in the unit cube: replicates of columns of n points.

    Attributes
    ----------
    a, b
        Shape (r, n, p).
    from_b
        Which inputs of a column are those of B, (c, p): A, B, then AB_g of every group, then BA_g with second order.
    groups
        Number of groups.
    """

    a: Array
    b: Array
    from_b: Bools
    groups: int

    @property
    def second(self) -> bool:
        """Whether there are the columns that second-order indices need."""
        return len(self.from_b) > 2 + self.groups

    @property
    def columns(self) -> int:
        """Number of columns."""
        return len(self.from_b)


def design_of(groups: Sequence[Sequence[int]], p: int, n: int, second: bool, rng: np.random.Generator) -> Design:
    """Return replicates of n points (a power of two) of p inputs; those of n / 2 are the first ones of each."""
    sequences = [
        qmc.Sobol(2 * p, scramble=True, rng=rng).random_base2(int(n).bit_length() - 1) for _ in range(REPLICATES)
    ]
    both = np.stack(sequences)
    mask = np.zeros((len(groups), p), dtype=bool)
    for row, group in zip(mask, groups, strict=True):
        row[list(group)] = True
    ends = np.array([[False], [True]]) * np.ones(p, dtype=bool)
    from_b = np.vstack([ends.astype(bool), mask, ~mask] if second else [ends.astype(bool), mask])
    return Design(both[..., :p], both[..., p:], from_b, len(groups))


class Moments(NamedTuple):
    """Sums of products of features that indices are made of; leading axes are those of draws and replicates.

    Attributes
    ----------
    mean
        Mean of the features, (..., f).
    power
        Of a column with itself, (..., k).
    base
        Of A with B, for every group (..., g, k).
    first
        Of columns that share group g only, (..., g, k).
    total
        Half of the mean squared difference of columns that differ in group g only, (..., g, k).
    second
        Of columns that share groups g and h only, (..., pairs, k).
    second_base, second_first
        What belongs to `second`: base (..., 1, k) and first (..., g, k) with the same noise; empty without it.
    """

    mean: Array
    power: Array
    base: Array
    first: Array
    total: Array
    second: Array
    second_base: Array
    second_first: Array

    def plus(self, other: "Moments") -> "Moments":
        """Return the sums."""
        return Moments(*(one + two for one, two in zip(self, other, strict=True)))

    def minus(self, other: "Moments") -> "Moments":
        """Return the differences."""
        return Moments(*(one - two for one, two in zip(self, other, strict=True)))


class Products(NamedTuple):
    """Mean products of every pair of columns that is needed; `by(c, d)` returns those of columns c and d."""

    diagonal: bool
    f: Array  # (s, r, c, n, f)

    def by(self, c: int, d: int) -> Array:
        """Return the mean product (s, r, k) of two columns: f * f of them, or f alone on the diagonal."""
        one, two = self.f[:, :, c], self.f[:, :, d]
        if self.diagonal:
            return np.asarray(np.einsum("srnf,srnf->srf", one, two) / one.shape[2])
        return np.asarray(_flat(np.swapaxes(one, -1, -2) @ two) / one.shape[2])

    def half_square(self, c: int, d: int) -> Array:
        """Return half of the mean squared difference (s, r, k)."""
        off = self.f[:, :, c] - self.f[:, :, d]
        if self.diagonal:
            return np.asarray(0.5 * np.einsum("srnf,srnf->srf", off, off) / off.shape[2])
        return np.asarray(0.5 * _flat(np.swapaxes(off, -1, -2) @ off) / off.shape[2])

    def power(self) -> Array:
        """Return the mean product (s, r, k) of the columns with themselves."""
        s, r, c, n, f = self.f.shape
        every = self.f.reshape(s, r, c * n, f)
        if self.diagonal:
            return np.asarray(np.einsum("srnf,srnf->srf", every, every) / (c * n))
        return np.asarray(_flat(np.swapaxes(every, -1, -2) @ every) / (c * n))


def _flat(values: Array) -> Array:
    return values.reshape(*values.shape[:-2], -1)


def pairs_of(groups: int) -> list[tuple[int, int]]:
    """Return the pairs of groups."""
    return [(g, h) for g in range(groups) for h in range(g + 1, groups)]


def products(f: Float[np.ndarray, "s r c n f"], groups: int, diagonal: bool) -> Moments:
    """Return the moments of features at the columns of a design, mean (s, r, f) and others (s, r, ..., k)."""
    of = Products(diagonal, f)
    second = f.shape[2] > 2 + groups
    ab = range(2, 2 + groups)
    ba = range(2 + groups, 2 + 2 * groups)
    first = [of.by(1, c) for c in ab]
    total = [of.half_square(0, c) for c in ab]
    pairs = []
    if second:
        first = [0.5 * (one + of.by(0, c)) for one, c in zip(first, ba, strict=True)]
        total = [0.5 * (one + of.half_square(1, c)) for one, c in zip(total, ba, strict=True)]
        pairs = [0.5 * (of.by(ab[g], ba[h]) + of.by(ab[h], ba[g])) for g, h in pairs_of(groups)]
    return _gathered(f.mean(axis=(2, 3)), of.power(), of.by(0, 1), first, total, pairs)


def _gathered(
    mean: Array, power: Array, base: Array, first: list[Array], total: list[Array], pairs: list[Array]
) -> Moments:
    alone, axis = np.stack(first, axis=-2), base[..., None, :]
    none = np.zeros((*base.shape[:-1], 0, base.shape[-1]))
    return Moments(
        mean,
        power,
        np.repeat(axis, len(first), axis=-2),
        alone,
        np.stack(total, axis=-2),
        np.stack(pairs, axis=-2) if pairs else none,
        axis if pairs else none,
        alone if pairs else none,
    )


def legendre(v: Float[np.ndarray, "*any"], degree: int) -> Float[np.ndarray, "*any degree"]:
    """Return the Legendre polynomials of degrees 1 to `degree`, orthonormal on the unit interval."""
    every = np.polynomial.legendre.legvander(2.0 * v - 1.0, degree)[..., 1:]
    return np.asarray(every * np.sqrt(2.0 * np.arange(1, degree + 1) + 1.0))


def of_covariance(covariance: Float[np.ndarray, "s c c f"], groups: int) -> Moments:
    """Return the moments that a random function of mean zero adds, from its covariance between the columns."""
    c = covariance.shape[1]
    ab, ba = range(2, 2 + groups), range(2 + groups, 2 + 2 * groups)

    def half_square(one: int, two: int) -> Array:
        return np.asarray(0.5 * (covariance[:, one, one] + covariance[:, two, two]) - covariance[:, one, two])

    first = [covariance[:, 1, k] for k in ab]
    total = [half_square(0, k) for k in ab]
    pairs = []
    if c > 2 + groups:
        first = [0.5 * (one + covariance[:, 0, k]) for one, k in zip(first, ba, strict=True)]
        total = [0.5 * (one + half_square(1, k)) for one, k in zip(total, ba, strict=True)]
        pairs = [0.5 * (covariance[:, ab[g], ba[h]] + covariance[:, ab[h], ba[g]]) for g, h in pairs_of(groups)]
    power = np.einsum("sccf->sf", covariance) / c
    return _gathered(np.zeros_like(power), power, covariance[:, 0, 1], first, total, pairs)
