"""The surrogate's error at many inputs as a few features that all inputs share, and a part that is each input's own.

==========  ======================================================================  ==============
symbol      meaning                                                                 shape
==========  ======================================================================  ==============
S_j(u, u')  posterior covariance of score j between inputs, as in `process`
V           Nyström points: a few that stand for the population's cloud of inputs   (m, d)
P_j         fixed matrix; Phi_j(u) = S_j(u, V) U lambda^-1/2 Q, whose columns are   (m+n+b, r_j)
            the directions in which Phi varies most over the cloud
Phi         features of all scores side by side, M = sum_j r_j                      (..., k, M)
own         s_j(u, u) - |Phi_j(u)|², exact variance less what is shared             (..., k, q)
==========  ======================================================================  ==============

    error of score j at u = Phi_j(u) w_j + own error,  w ~ N(0, 1),  own errors independent between different inputs

The variance at every input is exact. What is lost is correlation of the own errors, which are of short range: `left_out`
says how much it is of the variances that the population's means, trends and scales depend on.

Snelson & Ghahramani (2005), Sparse Gaussian Processes using Pseudo-inputs (the same approximation of a prior
covariance); Williams & Seeger (2000), Using the Nyström Method to Speed Up Kernel Machines.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import eigh

from uqms._typing import Array, Ints
from uqms.calibration._marginal import LOG_TWO_PI, NUMBERS, PRECISION
from uqms.calibration._marginal import _read as read_cells
from uqms.errors import InputError
from uqms.surrogates.kernels import Structured, correlation, places
from uqms.surrogates.process import ScoreProcess
from uqms.surrogates.process import _rows as rows_of

__all__ = ["Conditional", "Features", "LowRank", "SharedError", "nystroem"]

LEFT_OUT = 0.05  # of a variance, surrogate's error and noise together: more than this asks for more features
RANKS = (10, 15, 20, 30, 45, 65, 100)  # of one score
SPREAD = 2  # Nyström points a feature
HELD_OUT = 3  # every third point of the cloud measures what is left out
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
        Nyström points, shape (m, d).
    weights
        P of every draw of hyperparameters and score.
    left_out
        By score, the largest relative error of a variance that the population depends on; NaN when not measured.
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
        draws, ranks = process.draws, self.ranks
        mean, own = (np.empty((draws, len(rows), process.q)) for _ in range(2))
        phi = np.empty((draws, len(rows), ranks.sum()))
        cuts = np.cumsum([0, *ranks])
        for h in range(draws):
            for j in range(process.q):
                raw, mean[h, :, j], variance = _raw(process, h, j, rows, self.points)
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

    def flat(self) -> Array:
        """Return the block of numbers that `_lowrank` reads behind the surrogate and the data."""
        parts = [np.array([len(self.points), *self.ranks], dtype=np.float64), self.points.ravel()]
        parts += [one.ravel() for several in self.weights for one in several]
        return np.concatenate(parts)


def nystroem(
    process: ScoreProcess,
    cloud: Float[np.ndarray, "c d"],
    *,
    inputs: int = 1,
    noise: Float[np.ndarray, " q"] | None = None,
    limit: float = LEFT_OUT,
    ranks: tuple[int, ...] = RANKS,
) -> SharedError:
    """Return the shared error with as few features as the population's cloud of inputs asks for.

    For every score the number of features is the smallest for which the variance of every weighted sum of the errors,
    with the measurements' noise, is within `limit` of the exact one, where weights are constant, linear and quadratic
    in the inputs: what means, trends and scales of a population depend on. It is measured at points of the cloud that
    nothing else uses. Where none is enough it is the largest; see `left_out`.

    Parameters
    ----------
    process
        The scores that matter.
    cloud
        Inputs where the population is or may be, some hundreds, shape (c, d).
    inputs
        How many different inputs there are.
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
    if isinstance(process.kernel, Structured):
        raise InputError(
            "A low-rank error needs a kernel of the inputs alone; this one is of several fidelities. Use the exact error."
        )
    cloud = np.ascontiguousarray(cloud, dtype=np.float64)
    least = 3 * HELD_OUT
    if len(cloud) < least:
        raise InputError(f"A cloud of {len(cloud)} inputs is too small to choose features by; give at least {least}.")
    held = np.arange(len(cloud)) % HELD_OUT == 0
    test, rest = cloud[held], cloud[~held]
    scaled = rest * _stretch(process)
    order = _spread_out(scaled, min(len(rest), SPREAD * ranks[-1]))
    noise = np.zeros(process.q) if noise is None else np.asarray(noise, dtype=np.float64) * len(test) / inputs
    sums = _weighted_sums(test)
    chosen, left_out = np.zeros(process.q, dtype=np.int64), np.zeros(process.q)
    for j in range(process.q):
        for h in range(process.draws):
            exact = sums.T @ _covariance(process, h, j, test) @ sums
            for rank in ranks:
                points = rest[order[: SPREAD * rank]]
                found = _off(process, h, j, points, rest, test, sums, exact, noise[j], rank)
                if found <= limit:
                    break
            chosen[j], left_out[j] = max(chosen[j], rank), max(left_out[j], found)
    points = rest[order[: SPREAD * int(chosen.max())]]
    weights = [
        [_directions(process, h, j, points, rest)[:, : chosen[j]] for j in range(process.q)]
        for h in range(process.draws)
    ]
    return SharedError(process, points, _same_ranks(weights), left_out)


def _off(
    process: ScoreProcess,
    h: int,
    j: int,
    points: Array,
    cloud: Array,
    test: Array,
    sums: Array,
    exact: Array,
    noise: float,
    rank: int,
) -> float:
    """Return the largest relative error of the variance of a weighted sum."""
    raw, _, variance = _raw(process, h, j, test, points)
    phi = raw @ _directions(process, h, j, points, cloud)[:, :rank]
    own = np.maximum(variance - np.sum(phi * phi, axis=1), 0.0)
    half = phi.T @ sums
    ours = half.T @ half + (sums.T * own) @ sums
    eye = np.eye(sums.shape[1])  # of sums.T @ sums
    size = max(float(np.trace(exact)), 1e-300)
    floor = (noise + 1e-12 * size) * eye
    return float(np.max(np.abs(eigh(exact + floor, ours + floor, eigvals_only=True) - 1.0)))


def _weighted_sums(u: Array) -> Array:
    """Return orthonormal weights (k, s) that span the constant, linear and quadratic functions of the inputs."""
    centred = u - u.mean(axis=0)
    spread = centred.std(axis=0)
    centred = centred[:, spread > 1e-9] / spread[spread > 1e-9]
    first, second = np.triu_indices(centred.shape[1])
    design = np.column_stack([np.ones(len(u)), centred, centred[:, first] * centred[:, second]])
    left, singular, _ = np.linalg.svd(design, full_matrices=False)
    return np.asarray(left[:, singular > 1e-9 * singular[0]][:, : max(1, len(u) // 3)])


def _stretch(process: ScoreProcess) -> Array:
    """Return by what inputs are multiplied (d,) so that the kernels see distances about as they are."""
    d = process.x.shape[1]
    where = places(process.kernel, d)
    inverse = [1.0 / process.ell[..., at] ** 2 for at in where]  # parts, each (H, q, d)
    return np.asarray(np.sqrt(np.mean(inverse, axis=(0, 1, 2))))


def _spread_out(points: Array, count: int) -> Ints:
    """Return the order in which points stand for all of them, each time as well as that many can: energy distance.

    Mak & Joseph (2018), Support points, doi:10.1214/17-AOS1629; here greedily, so that fewer are the first of more.
    """
    squares = np.sum(points * points, axis=1)
    distance = np.sqrt(np.maximum(squares[:, None] + squares - 2.0 * points @ points.T, 0.0))
    to_all, to_kept = distance.mean(axis=1), np.zeros(len(points))
    kept = np.empty(count, dtype=np.int64)
    for size in range(count):
        cost = to_all - to_kept / (size + 1)
        cost[kept[:size]] = np.inf
        kept[size] = np.argmin(cost)
        to_kept += distance[kept[size]]
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


# --- the likelihood ---------------------------------------------------------------------------------------------------


class Conditional(NamedTuple):
    """The shared error given the data, for S draws and H draws of hyperparameters.

    Attributes
    ----------
    mean
        Of w, shape (H, S, M).
    factor
        Cholesky factor L of the precision of w, shape (H, S, M, M): w = mean + L^-T xi has the right law.
    log_weights
        Log weights of the draws of hyperparameters given the data, shape (H, S); they sum to one over H.
    own_gain, own_precision
        Given w, the own errors of measured input k have mean own (t - T F w) and covariance diag(own) - own T own:
        t (H, S, K, q) and T (H, S, K, q, q).
    features
        At the measured inputs.
    """

    mean: Array
    factor: Array
    log_weights: Array
    own_gain: Array
    own_precision: Array
    features: Features

    def draw(self, rng: np.random.Generator) -> tuple[Ints, Array]:
        """Return for every draw a draw of hyperparameters (S,) and of w (S, M)."""
        _, S, M = self.mean.shape
        uniform = rng.random(S)
        h = np.minimum((np.cumsum(np.exp(self.log_weights), axis=0) < uniform).sum(axis=0), len(self.mean) - 1)
        s = np.arange(S)
        turned = np.swapaxes(self.factor[h, s], 1, 2)
        step = np.linalg.solve(turned, rng.standard_normal((S, M, 1)))[..., 0]
        return h, self.mean[h, s] + step

    def own(self, h: Ints, w: Array, score: Ints) -> tuple[Array, Array]:
        """Return mean (S, K, q) and covariance (S, K, q, q) of the measured inputs' own errors, given w (S, M)."""
        s = np.arange(len(w))
        phi, rho, T = self.features.phi[h, s], self.features.own[h, s], self.own_precision[h, s]
        shared = _by_score(phi * w[:, None, :], score, rho.shape[-1])
        mean = rho * (self.own_gain[h, s] - np.matmul(T, shared[..., None])[..., 0])
        covariance = -rho[..., :, None] * T * rho[..., None, :]
        at = np.arange(rho.shape[-1])
        covariance[..., at, at] += rho
        return mean, covariance


class _Inputs(NamedTuple):
    """What an input's cells say about its scores, beside its own error; (S, K, ...)."""

    constant: Array  # -2 log of the density of an input's cells without shared error, where w = 0
    T: Array
    t: Array


@final
@dataclass(frozen=True, eq=False)
class LowRank:
    """The likelihood of many inputs, with an error that they share through features: linear in their number.

    Attributes
    ----------
    error
        Of the scores that the data depend on.
    data
        `Cells.flat()`.
    unit
        Which unit (subject, or occasion of one) every input belongs to, shape (K,): 0, 1, ...
    """

    error: SharedError
    data: Array
    unit: Ints

    @cached_property
    def block(self) -> Array:
        """Everything as one flat block, which `_lowrank.fused` reads."""
        return np.concatenate([self.error.process.flat(), self.data, self.error.flat()])

    def value_and_slopes(
        self, u: Float[np.ndarray, "K d"], sigma: Float[np.ndarray, " g"], z: Float[np.ndarray, " R"]
    ) -> tuple[float, Array, Array]:
        """Return log p(z | u, sigma) and its derivatives, compiled."""
        from uqms.calibration.population._lowrank import fused

        return fused(self.block, u, sigma, z)

    def evaluate(
        self, u: Float[np.ndarray, "S K d"], sigma: Float[np.ndarray, "S g"], z: Float[np.ndarray, " R"]
    ) -> Float[np.ndarray, " S"]:
        """Return the log-likelihood of S draws."""
        return self.by_unit(u, sigma, z, joint_only=True)[0]

    def by_unit(
        self,
        u: Float[np.ndarray, "S K d"],
        sigma: Float[np.ndarray, "S g"],
        z: Float[np.ndarray, " R"],
        joint_only: bool = False,
    ) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, "S U"]]:
        """Return the log-likelihood of S draws, and log p(z_i | all but unit i) of every unit in closed form."""
        count, draws = len(u), self.error.process.draws
        logs = self.error.process.log_weights[:, None]
        joint = np.empty((draws, count))
        own = np.empty((draws, count, 0 if joint_only else int(self.unit.max()) + 1))
        with np.errstate(all="ignore"):  # what is too far off for numbers is -inf
            for now in self._steps(count):
                for h, one in enumerate(self._each(u[now], sigma[now], z)):
                    joint[h, now] = one.value
                    if not joint_only:
                        own[h, now] = self._left_out(one)
        total = np.logaddexp.reduce(joint + logs, axis=0)
        if joint_only:
            return total, own[0]
        without = np.logaddexp.reduce(joint[..., None] - own + logs[..., None], axis=0)
        return total, total[:, None] - without

    def condition(
        self, u: Float[np.ndarray, "S K d"], sigma: Float[np.ndarray, "S g"], z: Float[np.ndarray, " R"]
    ) -> Conditional:
        """Return the law of the shared error given the data, for S draws: S M² numbers, so give some hundreds."""
        each = list(self._each(u, sigma, z))
        values = np.stack([one.value for one in each]) + self.error.process.log_weights[:, None]
        return Conditional(
            np.stack([one.mean for one in each]),
            np.stack([one.factor for one in each]),
            values - np.logaddexp.reduce(values, axis=0),
            np.stack([one.inputs.t for one in each]),
            np.stack([one.inputs.T for one in each]),
            Features(*(np.stack([one.features[i] for one in each]) for i in range(3))),
        )

    def _steps(self, count: int) -> Iterator[slice]:
        K, q = len(self.unit), self.error.process.q
        n, m = len(self.error.process.x), len(self.error.points)
        M = int(self.error.ranks.sum())
        step = max(1, NUMBERS // max(K * (n + m), K * M, M * M, K * q * q * self._padded.inputs.shape[1]))
        return (slice(begin, begin + step) for begin in range(0, count, step))

    @cached_property
    def _padded(self) -> "_Padded":
        return _pad(self.data, self.unit)

    def _each(self, u: Array, sigma: Array, z: Array) -> "Iterator[_One]":
        """Yield what belongs to each draw of hyperparameters."""
        mean, phi, own = self.error.at(u)
        for h in range(len(mean)):
            yield self._one(Features(mean[h], phi[h], own[h]), sigma, z)

    def _one(self, features: Features, sigma: Array, z: Array) -> "_One":
        padded, score = self._padded, self.error.score
        mean, phi, own = features
        inputs, bad = _of_inputs(padded, mean, own, sigma, z)
        S, K, q = mean.shape
        M = phi.shape[-1]
        cuts = np.cumsum([0, *self.error.ranks])
        places = [slice(a, b) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
        A = np.empty((S, M, M))
        for i, rows in enumerate(places):
            for j, columns in enumerate(places[: i + 1]):
                scaled = inputs.T[:, :, i, j, None] * phi[..., columns]
                A[:, rows, columns] = np.matmul(np.swapaxes(phi[..., rows], 1, 2), scaled)
                A[:, columns, rows] = np.swapaxes(A[:, rows, columns], 1, 2)
        A[:, np.arange(M), np.arange(M)] += 1.0
        bad |= ~(np.diagonal(A, axis1=1, axis2=2).max(axis=1) <= PRECISION) | ~np.isfinite(A).all(axis=(1, 2))
        A[bad] = np.eye(M)
        factor = np.linalg.cholesky(A)
        right = np.sum(phi * inputs.t[..., score], axis=1)
        inverse = np.linalg.inv(A)
        centre = np.matmul(inverse, right[..., None])[..., 0]
        log_det = 2.0 * np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)
        value = -0.5 * (inputs.constant.sum(axis=1) + log_det - np.sum(right * centre, axis=1))
        value[bad] = -np.inf
        return _One(value, centre, factor, inverse, inputs, features)

    def _left_out(self, one: "_One") -> Array:
        """Return log p(z_i | all but unit i) (S, U).

        With X = F A^-1 F' between the inputs of a unit, A without the unit has F A^-1 F' = (1 - X T)^-1 X, and the
        determinant |A| |1 - T X|.
        """
        padded, q = self._padded, self.error.process.q
        score, phi = self.error.score, one.features.phi
        cuts = np.cumsum([0, *self.error.ranks])
        places = [slice(a, b) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
        S, K, _ = phi.shape
        U, most = padded.inputs.shape
        at, there = padded.inputs, padded.there  # (U, most): inputs of each unit, and which of them are real
        X = np.zeros((S, U, most, q, most, q))
        for i, rows in enumerate(places):
            left = np.matmul(phi[..., rows], one.inverse[:, rows])  # (S, K, M)
            for j, columns in enumerate(places):
                X[:, :, :, i, :, j] = np.matmul(
                    left[:, at, columns], np.swapaxes(phi[:, at, columns], -1, -2)
                )  # (S, U, most, most)
        real = np.repeat(there, q, axis=1)
        size = most * q
        X = X.reshape(S, U, size, size) * (real[:, :, None] & real[:, None, :])
        T = np.zeros((S, U, most, q, most, q))
        for e in range(most):
            T[:, :, e, :, e, :] = one.inputs.T[:, at[:, e]] * there[:, e, None, None]
        T = T.reshape(S, U, size, size)
        rest = np.eye(size) - np.matmul(X, T)
        t = (one.inputs.t[:, at] * there[..., None]).reshape(S, U, size)
        shared = _by_score(phi * one.mean[:, None, :], score, q)
        y = (shared[:, at] * there[..., None]).reshape(S, U, size)
        Ty = np.matmul(T, y[..., None])[..., 0]
        a = t - Ty
        Za = np.linalg.solve(rest, np.matmul(X, a[..., None]))[..., 0]
        _, log_det = np.linalg.slogdet(rest)
        constant = np.sum(one.inputs.constant[:, at] * there, axis=2)
        return np.asarray(-0.5 * (constant - log_det - np.sum(y * (t + a), axis=2) + np.sum(a * Za, axis=2)))


class _One(NamedTuple):
    value: Array
    mean: Array
    factor: Array
    inverse: Array
    inputs: _Inputs
    features: Features


class _Padded(NamedTuple):
    """The cells of every input, to one number of cells and truncation columns; the inputs of every unit."""

    cell: Ints  # (K, c)
    here: Array  # (K, c), which of them are real
    basis: Array  # (K, c, q)
    offset: Array  # (K, c)
    group: Ints  # (K, c)
    truncation: Array  # (K, c, t)
    row_cell: Ints
    row_variance: Array
    row_input: Ints
    weight: Array  # (N,)
    inputs: Ints  # (U, most)
    there: Array  # (U, most)


def _pad(data: Array, unit: Int[np.ndarray, " K"]) -> _Padded:
    parts = read_cells(data)
    sizes = np.diff(parts.starts)
    cell, here = _ragged(np.repeat(np.arange(len(sizes)), sizes), len(sizes))
    N, t = len(parts.offset), max((one.shape[1] for one in parts.factors), default=0)
    truncation = np.concatenate([np.pad(one, ((0, 0), (0, t - one.shape[1]))) for one in parts.factors])
    real = here[..., None]
    return _Padded(
        cell,
        here,
        parts.basis[cell] * real,
        parts.offset[cell] * here,
        parts.group[cell],
        truncation[cell] * real,
        parts.row_cell,
        parts.row_variance,
        np.repeat(np.arange(len(sizes)), sizes)[parts.row_cell],
        np.bincount(parts.row_cell, 1.0 / parts.row_variance, N),
        *_ragged(np.asarray(unit), int(np.max(unit)) + 1),
    )


def _ragged(owner: Ints, count: int) -> tuple[Ints, Array]:
    """Return which things each owner has (count, most), and which of these places are real."""
    sizes = np.bincount(owner, minlength=count)
    order = np.argsort(owner, kind="stable")
    place = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    out = np.zeros((count, max(1, int(sizes.max(initial=0)))), dtype=np.int64)
    real = np.zeros(out.shape, dtype=np.bool_)
    out[owner[order], place], real[owner[order], place] = order, True
    return out, real


def _of_inputs(padded: _Padded, mean: Array, own: Array, sigma: Array, z: Array) -> tuple[_Inputs, Array]:
    N, K = len(padded.weight), len(padded.cell)
    if (sigma == sigma[:1]).all():  # known noise: what does not depend on the draw is done once
        sigma = sigma[:1]
    zbar = np.bincount(padded.row_cell, z / padded.row_variance, N) / padded.weight
    squares = np.bincount(padded.row_cell, (z - zbar[padded.row_cell]) ** 2 / padded.row_variance, N)
    count = np.bincount(padded.row_cell, minlength=N)
    cell, here = padded.cell, padded.here
    s2 = sigma[:, padded.group] ** 2  # (S, K, c)
    constant = np.bincount(padded.row_input, np.log(padded.row_variance), K) + np.sum(
        here
        * (
            count[cell] * LOG_TWO_PI
            + (count[cell] - 1.0) * np.log(s2)
            + np.log(padded.weight[cell])
            + squares[cell] / s2
            + np.log(s2 / padded.weight[cell])
        ),
        axis=2,
    )
    precision = here * padded.weight[cell] / s2
    e = here * (zbar[cell] - padded.offset - np.matmul(padded.basis, mean[..., None])[..., 0])
    G, E = padded.basis, padded.truncation
    RG, Re = G * precision[..., None], e * precision
    if E.shape[2]:
        scaled = E * precision[..., None]
        inner = np.matmul(np.swapaxes(scaled, -1, -2), E)
        inner[..., np.arange(E.shape[2]), np.arange(E.shape[2])] += 1.0
        bad = ~(np.diagonal(inner, axis1=2, axis2=3).max(axis=(1, 2)) <= PRECISION)
        inner[bad] = np.eye(E.shape[2])
        P = np.matmul(scaled, np.linalg.inv(inner))
        constant = constant + np.linalg.slogdet(inner)[1]
        RG = RG - np.matmul(P, np.matmul(np.swapaxes(scaled, -1, -2), G))
        Re = Re - np.matmul(P, np.matmul(np.swapaxes(scaled, -1, -2), e[..., None]))[..., 0]
        bad = np.broadcast_to(bad, (len(mean),)).copy()
    else:
        bad = np.zeros(len(mean), dtype=np.bool_)
    W = np.matmul(np.swapaxes(G, -1, -2), RG)
    w = np.matmul(np.swapaxes(G, -1, -2), Re[..., None])[..., 0]
    root = np.sqrt(own)
    q = own.shape[-1]
    H = root[..., :, None] * W * root[..., None, :]
    H[..., np.arange(q), np.arange(q)] += 1.0
    bad |= ~(np.diagonal(H, axis1=2, axis2=3).max(axis=(1, 2)) <= PRECISION) | ~np.isfinite(H).all(axis=(1, 2, 3))
    H[bad] = np.eye(q)
    lower = np.linalg.cholesky(H)
    half = np.linalg.solve(
        lower, root[..., None] * np.concatenate([np.broadcast_to(W, H.shape), w[..., None]], axis=-1)
    )
    Y, x = half[..., :q], half[..., q]
    T = W - np.matmul(np.swapaxes(Y, -1, -2), Y)
    t = w - np.matmul(np.swapaxes(Y, -1, -2), x[..., None])[..., 0]
    constant = (
        constant
        + 2.0 * np.log(np.diagonal(lower, axis1=2, axis2=3)).sum(axis=2)
        + np.sum(e * Re, axis=2)
        - np.sum(x * x, axis=2)
    )
    return _Inputs(constant, T, t), bad


def _by_score(values: Array, score: Ints, q: int) -> Array:
    """Return sums (..., q) over the features of each score of values (..., M)."""
    return np.add.reduceat(values, np.searchsorted(score, np.arange(q)), axis=-1)
