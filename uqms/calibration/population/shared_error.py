"""The surrogate's error at many inputs as a few features that all inputs share, and a part that is each input's own.

==========  ======================================================================  ==============
symbol      meaning                                                                 shape
==========  ======================================================================  ==============
S_j(u, u')  posterior covariance of score j between inputs, as in `process`
V           Nyström points: a few that stand for the population's cloud of inputs   (m, d)
P_j         fixed matrix; Phi_j(u) = S_j(u, V) U lambda^-1/2 Q, whose columns are   (m_j+n+b, r_j)
            the directions in which Phi varies most over the cloud
Phi         features of all scores side by side, M = sum_j r_j                      (..., k, M)
own         s_j(u, u) - |Phi_j(u)|², exact variance less what is shared             (..., k, q)
==========  ======================================================================  ==============

    error of score j at u = Phi_j(u) w_j + own error,  w ~ N(0, 1),  own errors independent between different inputs

The variance at every input is exact. What is lost is correlation of the own errors, which are of short range:
`left_out` says how much it is of the variances that the population's means, trends and scales depend on.

Snelson & Ghahramani (2005), Sparse Gaussian Processes using Pseudo-inputs (the same approximation of a prior
covariance); Williams & Seeger (2000), Using the Nyström Method to Speed Up Kernel Machines.
"""

from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigh

from uqms._typing import Array, Ints
from uqms.errors import InputError
from uqms.surrogates.kernels import correlation, places
from uqms.surrogates.process import ScoreProcess
from uqms.surrogates.process import _rows as rows_of

__all__ = ["Features", "SharedError", "nystroem"]

LEFT_OUT = 0.05  # of a variance, surrogate's error and noise together: more than this asks for more features
RANKS = (1, 3, 6, 10, 15, 20, 25, 30, 37, 45, 54, 65, 80, 100)  # of one score
SPREAD = 3  # Nyström points a feature
QUANTILE = 0.75  # of populations are within limits
LEAST = 6  # points of a cloud
SMALLEST = 1e-10  # of the largest eigenvalue: directions below are rounding


class Features(NamedTuple):
    """The scores at inputs, with the law of their errors, by draw of hyperparameters.

    Attributes
    ----------
    mean
        Shape (H, ..., k, q).
    phi
        What multiplies w, shape (H, ..., k, M); column i belongs to score `SharedError.score[i]`.
    own
        Variance of the error that is each input's own, shape (H, ..., k, q).
    """

    mean: Array
    phi: Array
    own: Array


@final
@dataclass(frozen=True, eq=False)
class SharedError:
    """The error of a surrogate's scores as features that all inputs share, and a part that is each input's own.

    Make it with `nystroem`, or with `through` at points of your own.

    Attributes
    ----------
    process
        The scores that matter.
    points
        Nyström points, shape (m, d); a score of few features uses the first of them, m_j.
    weights
        P of every draw of hyperparameters and score, each (m_j + n + b, r_j).
    left_out
        By score, the relative error of the variance that comes out worst of those that a population depends on; three
        of four populations have less. NaN when not measured.
    """

    process: ScoreProcess
    points: Array
    weights: tuple[tuple[Array, ...], ...]
    left_out: Array

    @property
    def ranks(self) -> Ints:
        """Number of features of each score, shape (q,)."""
        return np.array([one.shape[1] for one in self.weights[0]])

    @property
    def counts(self) -> Ints:
        """Number of Nyström points of each score, shape (q,)."""
        n, b = len(self.process.x), self.process.beta.shape[2]
        return np.array([len(one) - n - b for one in self.weights[0]])

    @property
    def score(self) -> Ints:
        """Score of each feature, shape (M,)."""
        return np.repeat(np.arange(self.process.q), self.ranks)

    @classmethod
    def through(cls, process: ScoreProcess, points: Float[np.ndarray, "m d"]) -> "SharedError":
        """Return the error with all features that given points have: exact between these points."""
        points = np.ascontiguousarray(points, dtype=np.float64)
        weights = [[_directions(process, h, j, points) for j in range(process.q)] for h in range(process.draws)]
        return cls(process, points, _same_ranks(weights), np.full(process.q, np.nan))

    def at(self, u: Float[np.ndarray, "*batch k d"]) -> Features:
        """Return features at inputs."""
        process = self.process
        *batch, d = u.shape
        rows = np.ascontiguousarray(u, dtype=np.float64).reshape(-1, d)
        draws, ranks, counts = process.draws, self.ranks, self.counts
        mean, own = (np.empty((draws, len(rows), process.q)) for _ in range(2))
        phi = np.empty((draws, len(rows), ranks.sum()))
        cuts = np.cumsum([0, *ranks])
        for h in range(draws):
            for j in range(process.q):
                raw, mean[h, :, j], variance = _raw(process, h, j, rows, self.points[: counts[j]])
                one = raw @ self.weights[h][j]
                phi[h, :, cuts[j] : cuts[j + 1]] = one
                own[h, :, j] = np.maximum(variance - np.einsum("ij,ij->i", one, one), 0.0)
        return Features(mean.reshape(draws, *batch, -1), phi.reshape(draws, *batch, -1), own.reshape(draws, *batch, -1))

    def covariance(self, u: Float[np.ndarray, "k d"]) -> Float[np.ndarray, "h q k k"]:
        """Return the covariance between inputs that all this amounts to."""
        _, phi, own = self.at(u)
        cuts = np.cumsum([0, *self.ranks])
        out = np.stack([phi[..., a:b] @ np.swapaxes(phi[..., a:b], 1, 2) for a, b in zip(cuts, cuts[1:], strict=False)])
        at = np.arange(len(u))
        out[:, :, at, at] += np.moveaxis(own, -1, 0)
        return np.moveaxis(out, 0, 1)

    def off(self, u: Float[np.ndarray, "k d"], h: int, noise: Float[np.ndarray, " q"]) -> Float[np.ndarray, " q"]:
        """Return by score the relative error of a variance, as in `left_out`, of the population that has these inputs.

        `noise` is as in `nystroem`.
        """
        sums, found = _weighted_sums(u), []
        for j, count in enumerate(self.counts):
            raw, _, variance = _raw(self.process, h, j, u, self.points[:count])
            ours = _through(raw, variance, count, self.weights[h][j], sums)
            found.append(_off(sums.T @ _covariance(self.process, h, j, u) @ sums, ours, noise[j]))
        return np.array(found)

    def flat(self) -> Array:
        """Return the block of numbers that `_lowrank` reads behind the surrogate and the data."""
        parts = [np.array([len(self.points), *self.ranks, *self.counts], dtype=np.float64), self.points.ravel()]
        parts += [one.ravel() for several in self.weights for one in several]
        return np.concatenate(parts)


def nystroem(
    process: ScoreProcess,
    cloud: Float[np.ndarray, "c d"],
    populations: Float[np.ndarray, "p k d"],
    *,
    inputs: int | None = None,
    noise: Float[np.ndarray, " q"] | None = None,
    limit: float = LEFT_OUT,
    ranks: tuple[int, ...] = RANKS,
) -> SharedError:
    """Return the shared error with as few features as the population's cloud of inputs asks for.

    For every score the number of features is the smallest for which the variance of every weighted sum of the errors,
    with the measurements' noise, is within `limit` of the exact one, where weights are constant, linear and square in
    an input: what means, trends and scales of a population depend on. Three in four populations have to be within: the
    worst would ask for ever more features for the sake of two outliers beside each other. Where none is enough it is
    the largest, and never more than there are inputs; see `left_out`.

    Parameters
    ----------
    process
        The scores that matter.
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
        Numbers of features to try, increasing.

    Raises
    ------
    InputError
        When the cloud has too few points, or the kernel is one that compiled code does not know.
    """
    if process.kernel.layout() is None:
        raise InputError(
            "A low-rank error needs a kernel of the inputs alone; this one is of several fidelities. Take the exact."
        )
    cloud = np.ascontiguousarray(cloud, dtype=np.float64)
    if len(cloud) < LEAST:
        raise InputError(f"A cloud of {len(cloud)} inputs is too small to choose features by; give at least {LEAST}.")
    size = populations.shape[1]
    inputs = size if inputs is None else inputs
    ranks = tuple(rank for rank in ranks if rank < inputs) + ((inputs,) if inputs <= ranks[-1] else ())
    order = _spread_out(cloud * _stretch(process), _all_scores(process, cloud), min(len(cloud), SPREAD * ranks[-1]))
    noise = np.zeros(process.q) if noise is None else np.asarray(noise, dtype=np.float64) * size / inputs
    sums = [_weighted_sums(one) for one in populations]
    chosen, left_out = np.zeros(process.q, dtype=np.int64), np.zeros(process.q)
    for j in range(process.q):
        for h in range(process.draws):
            exact = [w.T @ _covariance(process, h, j, one) @ w for one, w in zip(populations, sums, strict=True)]
            raw = [_raw(process, h, j, one, cloud[order])[::2] for one in populations]
            for rank in ranks:
                directions = _directions(process, h, j, cloud[order[: SPREAD * rank]], cloud)[:, :rank]
                off = [
                    _off(right, _through(*one, len(order), directions, w), noise[j])
                    for right, one, w in zip(exact, raw, sums, strict=True)
                ]
                found = float(np.quantile(off, QUANTILE))
                if found <= limit:
                    break
            chosen[j], left_out[j] = max(chosen[j], rank), max(left_out[j], found)
    points = cloud[order[: SPREAD * int(chosen.max())]]
    weights = [
        [_directions(process, h, j, points[: SPREAD * chosen[j]], cloud)[:, : chosen[j]] for j in range(process.q)]
        for h in range(process.draws)
    ]
    return SharedError(process, points, _same_ranks(weights), left_out)


def _through(raw: Array, variance: Array, points: int, directions: Array, sums: Array) -> Array:
    """Return the covariance of weighted sums (k, k) through features of the first of all points of `raw`.

    The rest of the variance is each input's own.
    """
    rest = raw.shape[1] - points
    first = len(directions) - rest
    phi = raw[:, :first] @ directions[:first] + raw[:, points:] @ directions[first:]
    own = np.maximum(variance - np.einsum("ij,ij->i", phi, phi), 0.0)
    half = phi.T @ sums
    return np.asarray(half.T @ half + (sums.T * own) @ sums)


def _off(exact: Array, ours: Array, noise: float) -> float:
    """Return the relative error of the variance of the worst weighted sum."""
    floor = (noise + 1e-12 * max(float(np.trace(exact)), 1e-300)) * np.eye(len(exact))  # the identity is sums.T @ sums
    return float(np.max(np.abs(eigh(exact + floor, ours + floor, eigvals_only=True) - 1.0)))


def _weighted_sums(u: Array) -> Array:
    """Return orthonormal weights (k, s) that span the constant, every input and its square."""
    centred = u - u.mean(axis=0)
    spread = centred.std(axis=0)
    centred = centred[:, spread > 1e-9] / spread[spread > 1e-9]
    design = np.column_stack([np.ones(len(u)), centred, centred**2])
    left, singular, _ = np.linalg.svd(design, full_matrices=False)
    return np.asarray(left[:, singular > 1e-9 * singular[0]][:, : max(1, len(u) // 3)])


def _stretch(process: ScoreProcess) -> Array:
    """Return by what inputs are multiplied (d,) so that the kernels see distances about as they are."""
    d = process.x.shape[1]
    where = places(process.kernel, d)
    inverse = [1.0 / process.ell[..., at] ** 2 for at in where]  # parts, each (H, q, d)
    return np.asarray(np.sqrt(np.mean(inverse, axis=(0, 1, 2))))


def _all_scores(process: ScoreProcess, u: Array) -> Array:
    """Return the sum over scores of the covariance of the error (k, k), each on its own scale."""
    h = int(np.argmax(process.log_weights))
    out = np.zeros((len(u), len(u)))
    for j in range(process.q):
        one = _covariance(process, h, j, u)
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


def _raw(process: ScoreProcess, h: int, j: int, u: Array, points: Array) -> tuple[Array, Array, Array]:
    """Return [k(u, V), w', v'] (k, m + n + b), mean and variance (k,) of score j."""
    kappa = correlation(process.kernel, u, process.x, process.ell[h, j])
    mean, w, v = rows_of(process, h, j, u, kappa, None)
    variance = process.variance[h, j]
    exact = variance - np.einsum("ij,ij->i", w, w) + np.einsum("ij,ij->i", v, v)
    to_points = variance * correlation(process.kernel, u, points, process.ell[h, j])
    return np.concatenate([to_points, w, v], axis=1), mean, np.maximum(exact, 0.0)


def _to_points(process: ScoreProcess, h: int, j: int, points: Array) -> tuple[Array, Array]:
    """Return B (m + n + b, m) with S(u, V) = [k(u, V), w', v'] B, and S(V, V)."""
    raw, _, _ = _raw(process, h, j, points, points)
    m, n = len(points), len(process.x)
    signed = np.concatenate([np.eye(m), -raw[:, m : m + n].T, raw[:, m + n :].T])
    return signed, raw @ signed


def _covariance(process: ScoreProcess, h: int, j: int, u: Array) -> Array:
    return _to_points(process, h, j, u)[1]


def _directions(process: ScoreProcess, h: int, j: int, points: Array, cloud: Array | None = None) -> Array:
    """Return P (m + n + b, r) of all features that the points have; over a cloud, those that vary most come first."""
    signed, within = _to_points(process, h, j, points)
    values, vectors = np.linalg.eigh(0.5 * (within + within.T))
    keep = values > max(SMALLEST * values[-1], np.finfo(float).eps * process.variance[h, j])
    if not keep.any():  # a score that is known exactly
        return np.zeros((len(signed), 1))
    half = vectors[:, keep] / np.sqrt(values[keep])
    if cloud is not None:
        phi = _raw(process, h, j, cloud, points)[0] @ (signed @ half)
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
