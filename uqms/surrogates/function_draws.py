"""Draws of the whole function of a Gaussian process at very many points, by matrix products.

==========  ==================================================================  ==================
symbol      meaning                                                             shape
==========  ==================================================================  ==================
Z           runs that have the score, then anchors                              (n + a, d)
L           Cholesky factor of kappa(Z, Z) + nuggets of the runs + jitter       (n + a, n + a)
beta        trend coefficients of each draw                                     (b, draws)
omega       L^-T (L^-1 (y - F beta), s xi), xi standard normal at the anchors   (n + a, draws)
path        t(u)' beta + kappa(u, Z) omega                                      (k, draws)
rest        s2 (kappa(u, u') - kappa(u, Z) L^-T L^-1 kappa(Z, u'))              (k, k)
==========  ==================================================================  ==================

A path is exact jointly at the runs and the anchors, and elsewhere the mean given them (Wilson et al. 2021, section 3,
arXiv:2011.04026, with an exact instead of a random prior). What is missing there is `rest`, whose covariance is known:
it can be left out and counted, or drawn independently at different points (`Paths.with_rest`). The latter understates
the variance of an average over points by less than 1 / a of the variance at a single one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular
from scipy.linalg.blas import dtrmm

from uqms import _checks as check
from uqms._typing import Array, Ints, RandomState, as_generator
from uqms.errors import InputError
from uqms.surrogates.gp import GaussianProcessSurrogate
from uqms.surrogates.kernels import NEVER, Kernel, Seen, correlation, layout_of, split
from uqms.surrogates.process import normals_at
from uqms.surrogates.radial import factor_of, radial
from uqms.surrogates.training import JITTER_FIRST, lower_factor, trend_basis

__all__ = ["Paths", "mean_path", "paths"]

BLOCK = 2**17  # numbers of a kernel matrix that are held at once: they stay in the processor's cache


class _Group(NamedTuple):
    """Draws of one score that share hyperparameters."""

    h: int
    j: int
    rows: Ints  # which of the draws
    z: Array
    omega: Array
    beta: Array
    centre: tuple[Array, Array] | None  # omega and beta of the mean, where errors have a local scale


@final
@dataclass(frozen=True, eq=False)
class Paths:
    """Draws of the whole function; calling evaluates every draw at inputs `u` (k, d) to (draws, k, q).

    Attributes
    ----------
    surrogate
        Whose draws they are.
    members
        The hyperparameter draw of each, (draws,).
    rest
        Covariance (H, q, c, c) of what paths leave out between the c points of a member of the `pairs` that were asked
        for, averaged over these members; zero for hyperparameter draws that no path has.
    """

    surrogate: GaussianProcessSurrogate
    members: Ints
    rest: Array
    _groups: tuple[_Group, ...]

    def __call__(self, u: Float[np.ndarray, "k d"]) -> Float[np.ndarray, "draws k q"]:
        """Return the scores of every draw."""
        return self._at(u, None)

    def with_rest(self, u: Float[np.ndarray, "k d"], keys: Sequence[int]) -> Float[np.ndarray, "draws k q"]:
        """Return the scores of every draw with a draw of `rest`, independent between points.

        `keys`, one per score, name its standard normals: the same inputs give the same numbers again, up to rounding.
        """
        return self._at(u, keys)

    def _at(self, u: Array, keys: Sequence[int] | None) -> Array:
        process = self.surrogate.process
        u = np.ascontiguousarray(u, dtype=np.float64)
        out = np.empty((len(self.members), len(u), process.q))
        cheap = _cheap(self.surrogate, u)
        normals, drawn = np.zeros((0, 0)), -1
        points = _Points(u)
        for group in self._groups:
            column = None if cheap is None else cheap[:, group.j]
            if keys is not None and group.j != drawn:  # groups of a score follow each other
                normals, drawn = normals_at(u, len(self.members), keys[group.j]), group.j
            trend = trend_basis(u, process.beta.shape[2], column)
            ell = process.ell[group.h, group.j]
            inverse = None if keys is None else _inverse(self.surrogate, group)
            sd = np.zeros(len(u))
            weights = group.omega if group.centre is None else np.column_stack([group.omega, group.centre[0]])
            if inverse is None:
                both = points.correlated(process.kernel, group.z, ell, weights)
            else:
                before, both = process.kernel.variances(u, ell), np.empty((len(u), weights.shape[1]))
                for block, kappa in _correlations(process.kernel, u, group.z, ell):
                    both[block] = kappa @ weights
                    w = dtrmm(1.0, inverse, kappa.T, side=0, lower=1)
                    sd[block] = np.sqrt(np.maximum(before[block] - np.einsum("zk,zk->k", w, w), 0.0))
            values = both[:, : len(group.rows)]
            values += trend @ group.beta
            if group.centre is not None:
                mean = both[:, -1] + trend @ group.centre[1]
                local = process.local_scale(group.h, group.j, u)
                values = mean[:, None] + local[:, None] * (values - mean[:, None])
                sd *= local
            if keys is not None:
                sd *= np.sqrt(process.variance[group.h, group.j])
                values += sd[:, None] * normals[group.rows].T
            out[group.rows, :, group.j] = values.T
        return out


def paths(
    surrogate: GaussianProcessSurrogate,
    anchors: Float[np.ndarray, "a d"],
    n: int,
    rng: RandomState,
    pairs: Float[np.ndarray, "s c d"] | None = None,
) -> Paths:
    """Return n draws of the whole function that are exact jointly at the runs and at the anchors.

    Hyperparameter draws are taken in turn, as often as their weights say.

    Raises
    ------
    InputError
        When n is below 1.
    """
    if not check.is_whole(n, 1):
        raise InputError(f"paths: n is {n!r}; give a whole number from 1.")
    generator = as_generator(rng)
    process = surrogate.process
    weights = np.exp(process.log_weights - np.logaddexp.reduce(process.log_weights))
    level = (np.arange(n) + generator.random()) / n
    members = np.minimum(np.searchsorted(np.cumsum(weights), level), process.draws - 1)
    members = members[generator.permutation(n)]
    c = 0 if pairs is None else pairs.shape[1]
    rest = np.zeros((process.draws, process.q, c, c))
    at_pairs = None if pairs is None else np.ascontiguousarray(pairs).reshape(-1, process.x.shape[1])
    groups = []
    for j in range(process.q):
        eta = generator.standard_normal((n, len(anchors)))
        xi = generator.standard_normal((n, process.beta.shape[2]))
        for h in np.unique(members):
            rows = np.flatnonzero(members == h)
            group, lower = _conditioned(surrogate, int(h), j, rows, anchors, eta[rows], xi[rows])
            groups.append(group)
            if at_pairs is not None:
                rest[h, j] = _rest(surrogate, group, lower, at_pairs, c)
    return Paths(surrogate, members, rest, tuple(groups))


def mean_path(surrogate: GaussianProcessSurrogate, h: int) -> Paths:
    """Return the mean of one hyperparameter draw as the only path."""
    process = surrogate.process
    none = np.zeros((0, process.x.shape[1]))
    row = np.zeros(1, dtype=np.int64)
    groups = [
        _conditioned(surrogate, h, j, row, none, np.zeros((1, 0)), np.zeros((1, process.beta.shape[2])))[0]
        for j in range(process.q)
    ]
    return Paths(surrogate, np.full(1, h), np.zeros((process.draws, process.q, 0, 0)), tuple(groups))


def _cheap(surrogate: GaussianProcessSurrogate, u: Array) -> Array | None:
    physics = surrogate.physics
    return None if physics is None else physics.scores(surrogate.domain, surrogate.bases, u)


def _conditioned(
    surrogate: GaussianProcessSurrogate, h: int, j: int, rows: Ints, anchors: Array, eta: Array, xi: Array
) -> tuple[_Group, Array]:
    """Return the weights of some draws of a score, and L."""
    process = surrogate.process
    known = process.known(j)
    x, y, variance = process.x[known], process.y[known, j], process.variance[h, j]
    n = len(x)
    cheap = _cheap(surrogate, x)
    z = np.vstack([x, anchors])
    lower = _factor(surrogate, h, j, z)
    beta = process.beta[h, j][:, None] + process.trend_root[h, j].T @ xi.T
    off = y[:, None] - trend_basis(x, len(beta), None if cheap is None else cheap[:, j]) @ beta
    inner = solve_triangular(lower[:n, :n], off, lower=True, check_finite=False)
    white = np.vstack([inner, np.sqrt(variance) * eta.T])
    omega = solve_triangular(lower, white, lower=True, trans="T", check_finite=False)
    centre = None
    if process.local.size:
        off = y - trend_basis(x, len(beta), None if cheap is None else cheap[:, j]) @ process.beta[h, j]
        white = np.append(solve_triangular(lower[:n, :n], off, lower=True, check_finite=False), np.zeros(len(anchors)))
        centre = solve_triangular(lower, white, lower=True, trans="T", check_finite=False), process.beta[h, j]
    return _Group(h, j, rows, z, omega, beta, centre), lower


def _factor(surrogate: GaussianProcessSurrogate, h: int, j: int, z: Array) -> Array:
    """Return L of runs and anchors z, its upper triangle undefined."""
    process = surrogate.process
    known = process.known(j)
    noise = process.nugget[h, j] + process.noise[j, known] / process.variance[h, j]
    own = np.zeros(len(z))
    own[: len(noise)] = noise + process.jitter[h, j] - JITTER_FIRST
    return np.ascontiguousarray(lower_factor(process.kernel, z, process.ell[h, j], own))


def _inverse(surrogate: GaussianProcessSurrogate, group: _Group) -> Array:
    lower = _factor(surrogate, group.h, group.j, group.z)
    one = np.eye(len(lower))
    return np.asfortranarray(solve_triangular(lower, one, lower=True, check_finite=False))


def _rest(surrogate: GaussianProcessSurrogate, group: _Group, lower: Array, at: Array, c: int) -> Array:
    process = surrogate.process
    ell, d = process.ell[group.h, group.j], at.shape[1]
    total, size = np.zeros((c, c)), max(1, BLOCK // (c * len(group.z)))
    members = at.reshape(-1, c, d)
    for start in range(0, len(members), size):
        block = members[start : start + size]
        kappa = np.vstack([k for _, k in _correlations(process.kernel, block.reshape(-1, d), group.z, ell)])
        w = solve_triangular(lower, kappa.T, lower=True, check_finite=False).T.reshape(len(block), c, -1)
        within = process.kernel.correlation_within(block, ell)
        left = within - w @ w.transpose(0, 2, 1)
        local = process.local_scale(group.h, group.j, block)
        total += np.sum(local[:, :, None] * left * local[:, None, :], axis=0)
    total *= process.variance[group.h, group.j] / len(members)
    # A difference of nearly equal numbers: what is left of a variance is not below zero.
    scale = np.where(np.diag(total) > 0.0, 1.0, 0.0)
    return np.asarray(total * np.outer(scale, scale))


@final
@dataclass(frozen=True, eq=False)
class _Term:
    """A term of a kernel at two sets of points: its share times a radial function of each factor's product."""

    share: float | None  # None of the only one
    factors: tuple[tuple[int, Array, Array], ...]  # code, and what squared distances are products of
    alone: int | None  # the only input that it sees, if it sees no other

    def between(self, rows: slice | Ints) -> Array:
        """Return the term between some of the first points and all of the second ones."""
        product: Array | None = None
        for code, left, right in self.factors:
            value = left[rows] @ right
            radial(code, value)
            product = value if product is None else np.multiply(product, value, out=product)
        assert product is not None
        return product if self.share is None else np.multiply(product, self.share, out=product)


def _terms(one: Seen, other: Seen) -> list[_Term] | None:
    """Return the terms of a kernel of scaled distances between points that it sees; None of another kernel.

    Squared distances are products of matrices, several times faster than their sums and right to rounding of the
    squared length of the points.
    """
    d = one.z.shape[1]
    layout = one.kernel.layout(d)
    if layout is None:
        return None
    _, codes, of = layout_of(layout)
    parts, shares = split(one.kernel, d, one.ell)
    found = []
    for term, share in enumerate(shares):
        factors, inputs = [], np.zeros(d, dtype=bool)
        for code, scales in zip(codes[of == term], parts[of == term], strict=True):
            seen = scales < NEVER
            factor = np.sqrt(factor_of(int(code))) / scales[seen]
            left, right = one.z[:, seen] * factor, other.z[:, seen] * factor
            left = np.column_stack([left, np.ones(len(left)), np.sum(left * left, axis=1)])
            right = np.column_stack([-2.0 * right, np.sum(right * right, axis=1), np.ones(len(right))])
            factors.append((int(code), left, np.ascontiguousarray(right.T)))
            inputs |= seen
        alone = int(np.flatnonzero(inputs)[0]) if inputs.sum() == 1 and d > 1 else None
        found.append(_Term(float(share) if len(shares) > 1 else None, tuple(factors), alone))
    return found


def _blocks(k: int, n: int) -> list[slice]:
    """Return the blocks of k rows of a matrix with n columns."""
    size = max(16, BLOCK // max(1, n))
    return [slice(start, start + size) for start in range(0, k, size)]


def _correlations(kernel: Kernel, u: Array, z: Array, ell: Array) -> Iterator[tuple[slice, Array]]:
    """Return the correlation of blocks of the rows of `u` with `z`."""
    one, other = kernel.seen(u, ell), kernel.seen(z, ell)
    terms = _terms(one, other)
    for block in _blocks(len(u), len(z)):
        if terms is None:
            yield block, correlation(kernel, u[block], z, ell)
            continue
        total = _sum(terms, block)
        yield block, total if one.slopes is None else total * one.amplitude[block, None] * other.amplitude


def _sum(terms: Sequence[_Term], rows: slice) -> Array:
    total = terms[0].between(rows)
    for term in terms[1:]:
        total += term.between(rows)
    return total


@final
@dataclass(frozen=True, eq=False)
class _Points:
    """Points u (k, d) whose inputs may repeat values, as the columns of a design for Sobol' indices do."""

    u: Array

    @cached_property
    def repeats(self) -> list[tuple[Ints, Ints] | None]:
        """Return for each input a place of each value and which of them each point has; None where few repeat."""
        found: list[tuple[Ints, Ints] | None] = []
        for values in self.u.T:
            distinct, places, which = np.unique(values, return_index=True, return_inverse=True)
            found.append((places, which) if 2 * len(distinct) <= len(values) else None)
        return found

    def correlated(self, kernel: Kernel, z: Array, ell: Array, weights: Array) -> Array:
        """Return the correlation with `z` times weights (n, m), (k, m).

        Terms that see one input are formed at its values once, where these repeat: with main effects and many inputs
        they are nearly all of the work.
        """
        out = np.zeros((len(self.u), weights.shape[1]))
        one, other = kernel.seen(self.u, ell), kernel.seen(z, ell)
        terms = _terms(one, other) if one.z is self.u and one.slopes is None else None
        if terms is None or all(term.alone is None for term in terms):
            for block, kappa in _correlations(kernel, self.u, z, ell):
                out[block] = kappa @ weights
            return out
        others = []
        for term in terms:
            repeated = None if term.alone is None else self.repeats[term.alone]
            if repeated is None:
                others.append(term)
                continue
            places, which = repeated
            table = [term.between(places[block]) @ weights for block in _blocks(len(places), len(z))]
            out += np.concatenate(table)[which]
        for block in _blocks(len(self.u), len(z)) if others else ():
            out[block] += _sum(others, block) @ weights
        return out
