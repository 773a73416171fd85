"""The likelihood of many inputs with the error of `shared_error`: compiled, of many draws at once, and given data.

Letters as in `_lowrank`, which is the same algebra with derivatives.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float, Int

from uqms._typing import Array, Bools, Ints
from uqms.calibration._marginal import LOG_TWO_PI, NUMBERS, PRECISION
from uqms.calibration._marginal import _read as read_cells
from uqms.calibration.population.shared_error import Features, SharedError, nystroem

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
            for now in self.steps(count):
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
    """The cells of every input, to one number of cells and truncation columns; the inputs of every unit."""

    cell: Ints  # (K, c)
    here: Bools  # (K, c), which of them are real
    basis: Array  # (K, c, q)
    offset: Array  # (K, c)
    group: Ints  # (K, c)
    truncation: Array  # (K, c, t)
    row_cell: Ints
    row_variance: Array
    row_input: Ints
    weight: Array  # (N,)
    inputs: Ints  # (U, most)
    there: Bools  # (U, most)


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


def _ragged(owner: Ints, count: int) -> tuple[Ints, Bools]:
    """Return which things each owner has (count, most), and which of these places are real."""
    sizes = np.bincount(owner, minlength=count)
    order = np.argsort(owner, kind="stable")
    place = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    out = np.zeros((count, max(1, int(sizes.max(initial=0)))), dtype=np.int64)
    real = np.zeros(out.shape, dtype=np.bool_)
    out[owner[order], place], real[owner[order], place] = order, True
    return out, real


def _of_inputs(padded: _Padded, mean: Array, own: Array, sigma: Array, z: Array) -> tuple[_Inputs, Bools]:
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
