"""The surrogate's error at many inputs as a few features that all inputs share, and an independent part of each input.

==========  ======================================================================  ==============
symbol      meaning                                                                 shape
==========  ======================================================================  ==============
S_g(u, u')  posterior covariance of a group of s scores between inputs; a score is  (s, s)
            a group where errors of scores are independent of each other
V           Nyström points: a few that stand for the population's cloud of inputs   (m, d)
P_g         fixed matrix; Phi_g(u) = S_g(u, V) U lambda^-1/2 Q, whose columns are   (m_g s+r, r_g)
            the directions in which Phi varies most over the cloud
Phi         features of each score side by side; of all scores, where their errors  (..., k, M)
            are correlated                                                          (..., k, q, M)
own         s_j(u, u) - |Phi_j(u)|², exact variance less what is shared; where      (..., k, q)
            errors of scores are correlated, covariance less what is shared         (..., k, q, q)
==========  ======================================================================  ==============

    error of score j at u = Phi_j(u) w + own error,  w ~ N(0, 1),  own errors independent between different inputs

The variance at every input is exact. What is lost is correlation of the own errors, which are of short range:
`left_out` says how much it is of the variances that the population's means, trends and scales depend on.

`covariances` has what is asked of the library's own process, and of any other surrogate.

Snelson & Ghahramani (2005), Sparse Gaussian Processes using Pseudo-inputs (the same approximation of a prior
covariance); Williams & Seeger (2000), Using the Nyström Method to Speed Up Kernel Machines.
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigh

from uqms._typing import Array, Ints
from uqms.calibration.population.covariances import (
    Against,
    Covariances,
    SurrogateCovariances,
    between,
)
from uqms.errors import InputError

__all__ = ["Features", "SharedError", "nystroem", "square_root", "square_root_reverse"]

LEFT_OUT = 0.05  # of a variance, surrogate's error and noise together: more than this asks for more features
RANKS = (1, 3, 6, 10, 15, 20, 25, 30, 37, 45, 54, 65, 80, 100)  # a score
MAX_JOINT = 200  # features of scores whose errors are correlated
SPREAD = 3  # Nyström points a feature
QUANTILE = 0.75  # of populations are within limits
LEAST = 6  # points of a cloud
SMALLEST = 1e-10  # of the largest eigenvalue: directions below are rounding
SINGULAR = 1e-14  # of a variance: what is left of it beside other scores is rounding


class Features(NamedTuple):
    """The scores at inputs, with the law of their errors, by draw of hyperparameters.

    Attributes
    ----------
    mean
        Shape (H, ..., k, q).
    phi
        What multiplies w, shape (H, ..., k, M), where column i belongs to score `SharedError.score[i]`; or, where
        errors of scores are correlated, (H, ..., k, q, M).
    own
        Variance of the independent error of each input, shape (H, ..., k, q), or covariance (H, ..., k, q, q).
    """

    mean: Array
    phi: Array
    own: Array


@final
@dataclass(frozen=True, eq=False)
class SharedError:
    """The error of a surrogate's scores as features that all inputs share, and an independent part of each input.

    Make it with `nystroem`, or with `through` at points of your own.

    Attributes
    ----------
    covariances
        Of the scores that matter.
    points
        Nyström points, shape (m, d); a group of few features uses the first of them, m_g.
    weights
        P of every draw of hyperparameters and group, each (m_g s + r, r_g).
    left_out
        By group, the relative error of the variance that comes out worst of those that a population depends on; three
        of four populations have less. NaN when not measured.
    """

    covariances: Covariances
    points: Array
    weights: tuple[tuple[Array, ...], ...]
    left_out: Array

    @property
    def q(self) -> int:
        """Number of scores."""
        return self.covariances.q

    @property
    def draws(self) -> int:
        """Number of draws of hyperparameters H."""
        return len(self.weights)

    @property
    def log_weights(self) -> Array:
        """Of the draws of hyperparameters, shape (H,)."""
        return self.covariances.log_weights

    @property
    def joint(self) -> bool:
        """Whether features are of all scores together."""
        return self.covariances.joint

    @property
    def ranks(self) -> Ints:
        """Number of features of each group, shape (G,)."""
        return np.array([one.shape[1] for one in self.weights[0]])

    @property
    def counts(self) -> Ints:
        """Number of Nyström points of each group, shape (G,)."""
        rest, s = len(self.covariances.signs), self.q // len(self.weights[0])
        return np.array([(len(one) - rest) // s for one in self.weights[0]])

    @property
    def score(self) -> Ints:
        """Score of each feature, shape (M,), where each score has its own."""
        return np.repeat(np.arange(len(self.ranks)), self.ranks)

    @property
    def width(self) -> int:
        """How many numbers one score of an input takes on the way to its features."""
        return len(self.points) * (self.q if self.joint else 1) + len(self.covariances.signs)

    @classmethod
    def through(cls, covariances: Covariances, points: Float[np.ndarray, "m d"]) -> "SharedError":
        """Return the error with all features that given points have: exact between these points."""
        points = np.ascontiguousarray(points, dtype=np.float64)
        groups = 1 if covariances.joint else covariances.q
        each = zip(_pairs(covariances), covariances.against(points, points), strict=True)
        found = [_directions(covariances, h, g, one) for (h, g), one in each]
        weights = [found[i : i + groups] for i in range(0, len(found), groups)]
        return cls(covariances, points, _same_ranks(weights), np.full(groups, np.nan))

    def at(self, u: Float[np.ndarray, "*batch k d"]) -> Features:
        """Return features at inputs."""
        *batch, d = u.shape
        rows = np.ascontiguousarray(u, dtype=np.float64).reshape(-1, d)
        draws, ranks, q, k = self.draws, self.ranks, self.q, len(rows)
        mean, own = np.empty((draws, k, q)), np.empty((draws, k, q, q) if self.joint else (draws, k, q))
        phi = np.empty((draws, k, q, ranks[0]) if self.joint else (draws, k, ranks.sum()))
        cuts = np.cumsum([0, *ranks])
        each = zip(_pairs(self.covariances), self.covariances.against(rows, self.points, self.counts), strict=True)
        for (h, g), found in each:
            one = found.raw @ self.weights[h][g]
            if self.joint:
                one = one.reshape(k, q, -1)
                mean[h], phi[h], own[h] = found.mean, one, found.variance - one @ one.swapaxes(-1, -2)
                continue
            mean[h, :, g], phi[h, :, cuts[g] : cuts[g + 1]] = found.mean[:, 0], one
            own[h, :, g] = np.maximum(found.variance[:, 0, 0] - np.einsum("ij,ij->i", one, one), 0.0)
        return Features(*(one.reshape(draws, *batch, *one.shape[2:]) for one in (mean, phi, own)))

    def reverse(self, u: Float[np.ndarray, "k d"], at: Features, bar: Features) -> Float[np.ndarray, "k d"]:
        """Return the derivative by inputs of what `at` returns, for that and derivatives by it.

        Of a surrogate that is plugged in: that of the library's own process is compiled, `_features`.
        """
        covariances = self.covariances
        assert isinstance(covariances, SurrogateCovariances)
        q, m = self.q, len(self.points)
        if self.joint:
            phi_bar = bar.phi - (bar.own + bar.own.swapaxes(-1, -2)) @ at.phi
            weights = np.stack([one[0] for one in self.weights])  # (H, m q, M)
            cross = np.einsum("hkqr,hpr->hkqp", phi_bar, weights).reshape(*phi_bar.shape[:3], m, q)
            return covariances.reverse(u, self.points, bar.mean, cross, bar.own)
        own_bar = np.where(at.own > 0.0, bar.own, 0.0)
        phi_bar = bar.phi - 2.0 * own_bar[..., self.score] * at.phi
        cross, cuts = np.zeros((self.draws, len(u), q, m)), np.cumsum([0, *self.ranks])
        for h, g in _pairs(covariances):
            one = self.weights[h][g]
            cross[h, :, g, : len(one)] = phi_bar[h, :, cuts[g] : cuts[g + 1]] @ one.T
        return covariances.reverse(u, self.points, bar.mean, cross, own_bar)

    def errors(self, phi: Array, w: Array) -> Array:
        """Return the shared errors (..., k, q) for features (..., k, M) and weights w (..., M)."""
        if self.joint:
            return np.asarray((phi @ w[..., None, :, None])[..., 0])
        return np.asarray(
            np.add.reduceat(phi * w[..., None, :], np.searchsorted(self.score, np.arange(self.q)), axis=-1)
        )

    def own_draw(self, own: Array, normals: Array) -> Array:
        """Return own errors (..., k, q) made of standard normals (..., k, q)."""
        if self.joint:
            return np.asarray((square_root(own) @ normals[..., None])[..., 0])
        return np.sqrt(own) * normals

    def own_times(self, own: Array, rows: Array) -> Array:
        """Return rows (..., k, c, q) times the covariance of own errors."""
        return rows @ own if self.joint else rows * own[..., None, :]

    def loadings(self, rows: Array, phi: Array) -> Array:
        """Return what multiplies w (..., n, M) in rows (..., n, q) of the scores of n inputs, with their features."""
        if self.joint:
            return np.asarray((rows[..., None, :] @ phi)[..., 0, :])
        return rows[..., self.score] * phi

    def covariance(self, u: Float[np.ndarray, "k d"]) -> Array:
        """Return the covariance between inputs that all this amounts to; of correlated scores (h, k, q, k, q)."""
        _, phi, own = self.at(u)
        at = np.arange(len(u))
        if self.joint:
            out = np.asarray(np.einsum("haim,hbjm->haibj", phi, phi))
            out[:, at, :, at] += np.moveaxis(own, 0, 1)
            return out
        cuts = np.cumsum([0, *self.ranks])
        out = np.stack([phi[..., a:b] @ np.swapaxes(phi[..., a:b], 1, 2) for a, b in zip(cuts, cuts[1:], strict=False)])
        out[:, :, at, at] += np.moveaxis(own, -1, 0)
        return np.moveaxis(out, 0, 1)

    def off(self, u: Float[np.ndarray, "k d"], h: int, noise: Float[np.ndarray, " q"]) -> Float[np.ndarray, " G"]:
        """Return by group the relative error of a variance, as in `left_out`, of the population that has these inputs.

        `noise` is as in `nystroem`.
        """
        covariances, draw = self.covariances, np.array([h])
        groups, sums, found = noise.reshape(len(self.ranks), -1), _weighted_sums(u), []
        exact = covariances.within(u, draw)
        for g, (true, one) in enumerate(
            zip(exact, covariances.against(u, self.points, self.counts, draw), strict=True)
        ):
            W = _of_scores(sums, groups.shape[1])
            ours = _through(one, int(self.counts[g]), int(self.counts[g]), self.weights[h][g], sums)
            found.append(_off(W.T @ true @ W, ours, groups[g]))
        return np.array(found)

    def flat(self) -> Array:
        """Return the features as one block of numbers; `_features` and `with_flat` read it."""
        parts = [np.array([len(self.points), *self.ranks, *self.counts], dtype=np.float64), self.points.ravel()]
        parts += [one.ravel() for several in self.weights for one in several]
        return np.concatenate(parts)

    def with_flat(self, block: Array) -> "SharedError":
        """Return the same error with the features of a block, see `flat`."""
        G, rest, s = len(self.ranks), len(self.covariances.signs), self.q // len(self.ranks)
        (m, *sizes), d = block[: 1 + 2 * G].astype(np.int64), self.points.shape[1]
        at, weights = 1 + 2 * G + m * d, []
        for _ in range(self.draws):
            several = []
            for rank, count in zip(sizes[:G], sizes[G:], strict=True):
                size = (count * s + rest) * rank
                several.append(block[at : at + size].reshape(-1, rank))
                at += size
            weights.append(tuple(several))
        return replace(self, points=block[1 + 2 * G : 1 + 2 * G + m * d].reshape(m, d), weights=tuple(weights))


def nystroem(
    covariances: Covariances,
    cloud: Float[np.ndarray, "c d"],
    populations: Float[np.ndarray, "p k d"],
    *,
    inputs: int | None = None,
    noise: Float[np.ndarray, " q"] | None = None,
    limit: float = LEFT_OUT,
    ranks: tuple[int, ...] = RANKS,
) -> SharedError:
    """Return the shared error with as few features as the population's cloud of inputs asks for.

    For every group of scores the number of features is the smallest for which the variance of every weighted sum of the
    errors, with the measurements' noise, is within `limit` of the exact one, where weights are constant, linear and
    square in an input: what means, trends and scales of a population depend on. Three in four populations have to be
    within: the worst would ask for ever more features for the sake of two outliers beside each other. Where none is
    enough it is the largest, and never more than there are inputs; see `left_out`.

    Parameters
    ----------
    covariances
        Of the scores that matter.
    cloud
        Inputs where the population is or may be, some hundreds, of which features are made, shape (c, d).
    populations
        All inputs, or many that belong together, of each of some populations that the cloud does not have. Inputs of
        one subject under several conditions are closer to each other than those of a cloud.
    inputs
        How many different inputs there are; None: as many as each population has.
    noise
        Variance of the noise in each score at one input, (q,): 1 / (G' R^-1 G)_jj of its cells. None: no noise.
    limit
        Relative error of a variance.
    ranks
        Numbers of features of a score to try, increasing.

    Raises
    ------
    InputError
        When the cloud has too few points, or the kernel is one that compiled code does not know.
    """
    compiled = covariances.compiled
    if compiled is not None and compiled.kernel.layout(compiled.x.shape[1]) is None:
        raise InputError(
            "A low-rank error needs a kernel of the inputs alone; this one is of several fidelities. Take the exact."
        )
    cloud = np.ascontiguousarray(cloud, dtype=np.float64)
    if len(cloud) < LEAST:
        raise InputError(f"A cloud of {len(cloud)} inputs is too small to choose features by; give at least {LEAST}.")
    size, q = populations.shape[1], covariances.q
    s = q if covariances.joint else 1
    inputs = size if inputs is None else inputs
    if covariances.joint:
        ranks = tuple(rank for rank in ranks if rank * s <= MAX_JOINT) or ranks[:1]
    ranks = tuple(rank for rank in ranks if rank < inputs) + ((inputs,) if inputs <= ranks[-1] else ())
    order = _spread_out(
        cloud * covariances.stretch(cloud), _all_scores(covariances, cloud), min(len(cloud), SPREAD * ranks[-1])
    )
    points = cloud[order]
    noise = np.zeros(q) if noise is None else np.asarray(noise, dtype=np.float64) * size / inputs
    of_group, sums = noise.reshape(-1, s), [_weighted_sums(one) for one in populations]
    chosen, left_out = np.zeros(len(of_group), dtype=np.int64), np.zeros(len(of_group))
    exact = zip(*(covariances.within(one) for one in populations), strict=True)
    raw = zip(*(covariances.against(one, points) for one in populations), strict=True)
    at_points, over_cloud = covariances.against(points, points), covariances.against(cloud, points)
    for (h, g), true, found, known, others in zip(_pairs(covariances), exact, raw, at_points, over_cloud, strict=True):
        variances = [W.T @ one @ W for one, W in zip(true, (_of_scores(w, s) for w in sums), strict=True)]
        for rank in ranks:
            count = min(len(order), SPREAD * rank)
            directions = _directions(covariances, h, g, known, count, others)[:, : rank * s]
            off = [
                _off(right, _through(one, len(order), count, directions, w), of_group[g])
                for right, one, w in zip(variances, found, sums, strict=True)
            ]
            worst = float(np.quantile(off, QUANTILE))
            if worst <= limit:
                break
        chosen[g], left_out[g] = max(chosen[g], rank), max(left_out[g], worst)
    counts = np.minimum(len(order), SPREAD * chosen)
    points = points[: counts.max()]
    weights: list[list[Array]] = [[] for _ in covariances.log_weights]
    for (h, g), known, others in zip(
        _pairs(covariances), covariances.against(points, points), covariances.against(cloud, points), strict=True
    ):
        weights[h].append(_directions(covariances, h, g, known, int(counts[g]), others)[:, : chosen[g] * s])
    return SharedError(covariances, points, _same_ranks(weights), left_out)


def square_root(covariance: Array) -> Array:
    """Return the lower Cholesky factor of covariances (..., q, q) that may be singular: then a column of zeros."""
    q, out = covariance.shape[-1], np.zeros_like(covariance)
    for j in range(q):
        pivot = covariance[..., j, j] - np.sum(out[..., j, :j] ** 2, axis=-1)
        good = pivot > SINGULAR * np.abs(covariance[..., j, j])
        root = np.sqrt(np.where(good, pivot, 1.0))
        below = covariance[..., j:, j] - np.sum(out[..., j:, :j] * out[..., j : j + 1, :j], axis=-1)
        out[..., j:, j] = np.where(good[..., None], below / root[..., None], 0.0)
    return out


def square_root_reverse(factor: Array, bar: Array) -> Array:
    """Return the derivative by covariances C = L L' of a function of C from that by all entries of L (..., q, q).

    For functions that depend on L through C alone: then the latter is 2 C_bar L. Where a column of L is zero, so is the
    derivative.
    """
    at = np.arange(factor.shape[-1])
    zero = factor[..., at, at] == 0.0
    whole = factor.copy()
    whole[..., at, at] += zero
    found = np.linalg.solve(whole.swapaxes(-1, -2), np.where(zero[..., None, :], 0.0, bar).swapaxes(-1, -2))
    return np.asarray(0.25 * (found + found.swapaxes(-1, -2)))


def _pairs(covariances: Covariances) -> list[tuple[int, int]]:
    """Return draw of hyperparameters and group, in the order in which covariances come."""
    groups = 1 if covariances.joint else covariances.q
    return list(product(range(len(covariances.log_weights)), range(groups)))


def _through(one: Against, most: int, count: int, directions: Array, sums: Array) -> Array:
    """Return the covariance of weighted sums through features of the first `count` of all points of `raw`.

    The rest of the variance is each input's own.
    """
    k, s = one.mean.shape
    phi = one.raw[:, : count * s] @ directions[: count * s] + one.raw[:, most * s :] @ directions[count * s :]
    half = phi.T @ _of_scores(sums, s)
    by_input = phi.reshape(k, s, -1)
    own = one.variance - by_input @ by_input.swapaxes(1, 2)
    if s == 1:
        own = np.maximum(own, 0.0)
    rest = np.einsum("kw,kij,kv->wivj", sums, own, sums, optimize=True).reshape(len(half.T), -1)
    return np.asarray(half.T @ half + rest)


def _of_scores(sums: Array, s: int) -> Array:
    """Return weights (k s, w s) of the same sums of each of s scores."""
    return np.asarray(np.kron(sums, np.eye(s))) if s > 1 else sums


def _off(exact: Array, ours: Array, noise: Array) -> float:
    """Return the relative error of the variance of the worst weighted sum, with the noise of each of its scores."""
    s = len(noise)
    traces = np.diagonal(exact).reshape(-1, s).sum(axis=0)
    floor = np.diag(np.tile(noise + 1e-12 * np.maximum(traces, 1e-300), len(exact) // s))  # sums.T @ sums is 1
    return float(np.max(np.abs(eigh(exact + floor, ours + floor, eigvals_only=True) - 1.0)))


def _weighted_sums(u: Array) -> Array:
    """Return orthonormal weights (k, s) that span the constant, every input and its square."""
    centred = u - u.mean(axis=0)
    spread = centred.std(axis=0)
    centred = centred[:, spread > 1e-9] / spread[spread > 1e-9]
    design = np.column_stack([np.ones(len(u)), centred, centred**2])
    left, singular, _ = np.linalg.svd(design, full_matrices=False)
    return np.asarray(left[:, singular > 1e-9 * singular[0]][:, : max(1, len(u) // 3)])


def _all_scores(covariances: Covariances, u: Array) -> Array:
    """Return the sum over scores of the covariance of the error (k, k), each on its own scale."""
    h = int(np.argmax(covariances.log_weights))
    out = np.zeros((len(u), len(u)))
    for several in covariances.within(u, np.array([h])):
        s = len(several) // len(u)
        for j in range(s):
            one = several[j::s, j::s]
            out += one / max(float(np.trace(one)), 1e-300)
    return out


def _spread_out(points: Array, covariance: Array, count: int) -> Ints:
    """Return the order in which points stand for all of them, each time as well as that many can.

    In turn the point that makes the distribution of those so far most like that of all (energy distance), and the one
    whose error they say least of (a pivot of Cholesky's decomposition). The former alone leave out the few at the
    edge, whose errors are largest and would be taken as independent of each other.

    Mak & Joseph (2018), Support points, doi:10.1214/17-AOS1629; here greedily, so that fewer are the first of more.
    Harbrecht et al. (2012), On the low-rank approximation by the pivoted Cholesky decomposition,
    doi:10.1016/j.apnum.2011.10.001.
    """
    squares = np.sum(points * points, axis=1)
    distance = np.sqrt(np.maximum(squares[:, None] + squares - 2.0 * points @ points.T, 0.0))
    to_all, to_kept = distance.mean(axis=1), np.zeros(len(points))
    variance = np.diag(covariance)
    left, root = variance.copy(), np.zeros((count, len(points)))
    kept = np.empty(count, dtype=np.int64)
    for size in range(count):
        cost = to_all - to_kept / (size + 1) if size % 2 == 0 else -left
        cost[kept[:size]] = np.inf
        one = kept[size] = np.argmin(cost)
        to_kept += distance[one]
        if left[one] > SMALLEST * variance[one]:
            root[size] = (covariance[one] - root[:size, one] @ root[:size]) / np.sqrt(left[one])
            left = np.maximum(left - root[size] ** 2, 0.0)
    return kept


def _directions(
    covariances: Covariances, h: int, g: int, at_points: Against, count: int | None = None, cloud: Against | None = None
) -> Array:
    """Return P (m s + r, r_g) of all features that the first `count` points have; the first vary most over a cloud."""
    signs, s, most = covariances.signs, at_points.mean.shape[1], len(at_points.mean)
    m = (most if count is None else count) * s
    kept = np.concatenate([at_points.raw[:m, :m], at_points.raw[:m, most * s :]], axis=1)
    signed = np.concatenate([np.eye(m), (kept[:, m:] * signs).T])  # S(u, V) = raw(u) times this
    sd = np.sqrt(np.diagonal(at_points.variance, axis1=1, axis2=2)[: m // s].mean(axis=0))
    units = np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > 0.0) if s > 1 else np.ones(1)  # scores on one scale
    scale = np.tile(units, m // s)
    within = scale[:, None] * between(kept, kept, signs) * scale
    values, vectors = np.linalg.eigh(0.5 * (within + within.T))
    keep = values > max(SMALLEST * values[-1], covariances.floor(h, g))
    if not keep.any():  # scores that are known exactly
        return np.zeros((len(signed), 1))
    half = scale[:, None] * vectors[:, keep] / np.sqrt(values[keep])
    if cloud is not None:
        raw = np.concatenate([cloud.raw[:, :m], cloud.raw[:, most * s :]], axis=1)
        phi = np.tile(units, len(cloud.mean))[:, None] * (raw @ (signed @ half))
        _, turn = np.linalg.eigh(phi.T @ phi)
        half = half @ turn[:, ::-1]
    return np.asarray(signed @ half)


def _same_ranks(weights: list[list[Array]]) -> tuple[tuple[Array, ...], ...]:
    """Give all draws of hyperparameters the same number of features of a score: some are zero."""
    most = [max(several[j].shape[1] for several in weights) for j in range(len(weights[0]))]
    return tuple(
        tuple(
            np.ascontiguousarray(np.pad(one, ((0, 0), (0, count - one.shape[1]))))
            for one, count in zip(several, most, strict=True)
        )
        for several in weights
    )
