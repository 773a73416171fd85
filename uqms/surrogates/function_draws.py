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
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular
from scipy.linalg.blas import dtrmm

from uqms import _checks as check
from uqms._typing import Array, Ints, RandomState, as_generator
from uqms.errors import InputError
from uqms.surrogates.gp import GaussianProcessSurrogate
from uqms.surrogates.kernels import Kernel, correlation, layout_of, split
from uqms.surrogates.process import normals_at
from uqms.surrogates.radial import factor_of, radial
from uqms.surrogates.training import JITTER_FIRST, factorise, trend_basis

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
        for group in self._groups:
            column = None if cheap is None else cheap[:, group.j]
            if keys is not None and group.j != drawn:  # groups of a score follow each other
                normals, drawn = normals_at(u, len(self.members), keys[group.j]), group.j
            trend = trend_basis(u, process.beta.shape[2], column)
            values = np.empty((len(u), len(group.rows)))
            ell = process.ell[group.h, group.j]
            inverse = None if keys is None else _inverse(self.surrogate, group)
            sd, before = np.zeros(len(u)), process.kernel.variances(u, ell)
            mean = np.zeros(len(u)) if group.centre is None else trend @ group.centre[1]
            for block, kappa in _correlations(process.kernel, u, group.z, ell):
                values[block] = kappa @ group.omega
                if group.centre is not None:
                    mean[block] += kappa @ group.centre[0]
                if inverse is not None:
                    w = dtrmm(1.0, inverse, kappa.T, side=0, lower=1)
                    sd[block] = np.sqrt(np.maximum(before[block] - np.einsum("zk,zk->k", w, w), 0.0))
            values += trend @ group.beta
            if group.centre is not None:
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
    """Return L of runs and anchors z."""
    process = surrogate.process
    known = process.known(j)
    index = np.arange(int(known.sum()))
    kappa = correlation(process.kernel, z, z, process.ell[h, j])
    own = process.nugget[h, j] + process.noise[j, known] / process.variance[h, j]
    kappa[index, index] += own + process.jitter[h, j] - JITTER_FIRST
    return factorise(kappa, 0.0)[0]


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
        within = np.stack([correlation(process.kernel, one, one.copy(), ell) for one in block])
        left = within - w @ w.transpose(0, 2, 1)
        local = process.local_scale(group.h, group.j, block)
        total += np.sum(local[:, :, None] * left * local[:, None, :], axis=0)
    total *= process.variance[group.h, group.j] / len(members)
    # A difference of nearly equal numbers: what is left of a variance is not below zero.
    scale = np.where(np.diag(total) > 0.0, 1.0, 0.0)
    return np.asarray(total * np.outer(scale, scale))


def _correlations(kernel: Kernel, u: Array, z: Array, ell: Array) -> Iterator[tuple[slice, Array]]:
    """Return the correlation of blocks of the rows of `u` with `z`.

    Squared distances are products of matrices, several times faster than their sums and right to rounding of the
    squared length of the points.
    """
    size = max(16, BLOCK // max(1, len(z)))
    blocks = [slice(start, start + size) for start in range(0, len(u), size)]
    one, other = kernel.seen(u, ell), kernel.seen(z, ell)
    layout = one.kernel.layout(u.shape[1])
    if layout is None:
        yield from ((block, correlation(kernel, u[block], z, ell)) for block in blocks)
        return
    _, codes, terms = layout_of(layout)
    count = int(terms[-1]) + 1
    u, z = one.z, other.z
    parts, shares = split(one.kernel, u.shape[1], one.ell)
    sides = []
    for code, scales in zip(codes, parts, strict=True):
        factor = np.sqrt(factor_of(int(code))) / scales
        left, right = u * factor, z * factor
        left = np.column_stack([left, np.ones(len(u)), np.sum(left * left, axis=1)])
        right = np.column_stack([-2.0 * right, np.sum(right * right, axis=1), np.ones(len(z))])
        sides.append((left, np.ascontiguousarray(right.T)))
    for block in blocks:
        total: Array | None = None
        for term in range(count):
            product: Array | None = None
            for code, (left, right), of in zip(codes, sides, terms, strict=True):
                if of == term:
                    value = left[block] @ right
                    radial(int(code), value)
                    product = value if product is None else product * value
            assert product is not None
            if count > 1:
                product = product * shares[term]
            total = product if total is None else total + product
        assert total is not None
        yield block, total if one.slopes is None else total * one.amplitude[block, None] * other.amplitude
