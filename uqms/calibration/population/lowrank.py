"""The likelihood of many inputs with the error of `shared_error`: compiled, of many draws at once, and given data.

Letters as in `_gaussian`, which is the same algebra with derivatives.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float

from uqms._typing import Array, Bools, Ints
from uqms.calibration import _gaussian
from uqms.calibration._gaussian import LOG_TWO_PI, PRECISION
from uqms.calibration.gaussian import GaussianLikelihood, process_block
from uqms.calibration.population.shared_error import Features, SharedError, nystroem

NUMBERS = 2_000_000  # in the largest array

__all__ = ["Conditional", "Features", "LowRank", "SharedError", "nystroem"]


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
    likelihood
        Of the data, whose parts are the mean of these scores, their own variances and their features.
    unit
        Which unit (subject, or occasion of one) every input belongs to, shape (K,): 0, 1, ...
    """

    error: SharedError
    likelihood: GaussianLikelihood
    unit: Ints

    @cached_property
    def block(self) -> Array:
        """Everything as one flat block, which `_process_gaussian` reads."""
        return process_block(self.error.process, self.likelihood, self.error.flat())

    def value_and_slopes(
        self, u: Float[np.ndarray, "K d"], sigma: Float[np.ndarray, " g"], z: Float[np.ndarray, " R"]
    ) -> tuple[float, Array, Array]:
        """Return log p(z | u, sigma) and its derivatives, compiled."""
        from uqms.calibration import _process_gaussian

        value, u_bar, sigma_bar = _process_gaussian.at(self.block, u, sigma, z)
        return float(value), u_bar, sigma_bar

    def evaluate(
        self, u: Float[np.ndarray, "S K d"], sigma: Float[np.ndarray, "S g"], z: Float[np.ndarray, " R"]
    ) -> Float[np.ndarray, " S"]:
        """Return the log-likelihood of S draws."""
        log_weights, out = self.error.process.log_weights, np.empty((self.error.process.draws, len(u)))
        for now in self.steps(len(u)):
            features = self.error.at(u[now])
            for h in range(len(out)):
                parts = self._parts(Features(*(one[h] for one in features)))
                out[h, now] = self.likelihood.evaluate(parts, sigma[now], z, precisions=False)[0]
        return np.asarray(np.logaddexp.reduce(out + log_weights[:, None], axis=0))

    def _parts(self, features: Features) -> Array:
        """Return the parts of the likelihood (S, size) for features of one draw of hyperparameters."""
        mean, phi, own = features
        cuts = np.cumsum([0, *self.error.ranks])
        blocks = [mean, own, *(phi[..., a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True))]
        return np.concatenate([one.reshape(len(mean), -1) for one in blocks], axis=1)

    def by_unit(
        self,
        u: Float[np.ndarray, "S K d"],
        sigma: Float[np.ndarray, "S g"],
        z: Float[np.ndarray, " R"],
    ) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, "S U"]]:
        """Return the log-likelihood of S draws, and log p(z_i | all but unit i) of every unit in closed form."""
        count, draws = len(u), self.error.process.draws
        logs = self.error.process.log_weights[:, None]
        joint = np.empty((draws, count))
        own = np.empty((draws, count, int(self.unit.max()) + 1))
        with np.errstate(all="ignore"):  # what is too far off for numbers is -inf
            for now in self.steps(count):
                for h, one in enumerate(self._each(u[now], sigma[now], z)):
                    joint[h, now] = one.value
                    own[h, now] = self._left_out(one)
        total = np.logaddexp.reduce(joint + logs, axis=0)
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

    def by_draw(
        self, u: Float[np.ndarray, "S K d"], sigma: Float[np.ndarray, "S g"], z: Float[np.ndarray, " R"]
    ) -> tuple[Float[np.ndarray, "H S"], Float[np.ndarray, "H S U"]]:
        """Return log p(z | h) and log p(z_i | all but unit i, h) for every draw of hyperparameters."""
        with np.errstate(all="ignore"):
            each = [(one.value, self._left_out(one)) for one in self._each(u, sigma, z)]
        values, terms = zip(*each, strict=True)
        return np.stack(values), np.stack(terms)

    def steps(self, count: int) -> Iterator[slice]:
        """Yield slices of `count` draws whose arrays fit into memory."""
        K, q = len(self.unit), self.error.process.q
        n, m = len(self.error.process.x), len(self.error.points)
        M = int(self.error.ranks.sum())
        step = max(1, NUMBERS // max(K * (n + m), K * M, M * M, K * q * q * self._padded.inputs.shape[1]))
        return (slice(begin, begin + step) for begin in range(0, count, step))

    @cached_property
    def _padded(self) -> "_Padded":
        return _Padded(*_ragged(np.asarray(self.unit), int(np.max(self.unit)) + 1))

    def _inputs(self, features: Features, sigma: Array, z: Array) -> "tuple[_Inputs, Bools]":
        """Return what every input's cells say about its scores, and the draws for which that cannot be computed."""
        likelihood, N = self.likelihood, self.likelihood.rows
        row_cell, row_variance = likelihood.field("row_cell").astype(np.int64), likelihood.field("row_variance")
        weight, group = likelihood.field("weight"), likelihood.field("group").astype(np.int64)
        zbar = np.bincount(row_cell, z / row_variance, N) / weight
        squares = np.bincount(row_cell, (z - zbar[row_cell]) ** 2 / row_variance, N)
        count = np.bincount(row_cell, minlength=N)
        T, t, each = _gaussian.of_inputs(
            likelihood.data, np.ascontiguousarray(self._parts(features)), np.ascontiguousarray(sigma), zbar
        )
        s2 = sigma[:, group] ** 2
        replicates = count * LOG_TWO_PI + (count - 1.0) * np.log(s2) + np.log(weight) + squares / s2
        starts = likelihood.field("starts").astype(np.int64)
        constant = np.bincount(np.repeat(np.arange(len(starts) - 1), np.diff(starts))[row_cell], np.log(row_variance))
        constant = constant + np.add.reduceat(replicates, starts[:-1], axis=1) + each
        bad = ~np.isfinite(constant).all(axis=1)
        T[bad], t[bad] = 0.0, 0.0
        return _Inputs(constant, T, t), bad

    def _each(self, u: Array, sigma: Array, z: Array) -> "Iterator[_One]":
        """Yield what belongs to each draw of hyperparameters."""
        mean, phi, own = self.error.at(u)
        for h in range(len(mean)):
            yield self._one(Features(mean[h], phi[h], own[h]), sigma, z)

    def _one(self, features: Features, sigma: Array, z: Array) -> "_One":
        phi = features.phi
        inputs, bad = self._inputs(features, sigma, z)
        S, _, M = phi.shape
        score = self.error.score
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
        X: Array = np.zeros((S, U, most, q, most, q))
        for i, rows in enumerate(places):
            left = np.matmul(phi[..., rows], one.inverse[:, rows])  # (S, K, M)
            for j, columns in enumerate(places):
                X[:, :, :, i, :, j] = np.matmul(
                    left[:, at, columns], np.swapaxes(phi[:, at, columns], -1, -2)
                )  # (S, U, most, most)
        real = np.repeat(there, q, axis=1)
        size = most * q
        X = X.reshape(S, U, size, size) * (real[:, :, None] & real[:, None, :])
        T: Array = np.zeros((S, U, most, q, most, q))
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
    """The inputs of every unit, to one number of them."""

    inputs: Ints  # (U, most)
    there: Bools  # (U, most), which of them are real


def _ragged(owner: Ints, count: int) -> tuple[Ints, Bools]:
    """Return which things each owner has (count, most), and which of these places are real."""
    sizes = np.bincount(owner, minlength=count)
    order = np.argsort(owner, kind="stable")
    place = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    out = np.zeros((count, max(1, int(sizes.max(initial=0)))), dtype=np.int64)
    real = np.zeros(out.shape, dtype=np.bool_)
    out[owner[order], place], real[owner[order], place] = order, True
    return out, real


def _by_score(values: Array, score: Ints, q: int) -> Array:
    """Return sums (..., q) over the features of each score of values (..., M)."""
    return np.add.reduceat(values, np.searchsorted(score, np.arange(q)), axis=-1)
