"""The likelihood of many inputs with the error of `shared_error`: compiled, of many draws at once, and given data.

Letters as in `_gaussian`, which has the likelihood; here it is asked what it says of the features, and of each unit.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float

from uqms._typing import Array, Bools, Ints
from uqms.calibration import _gaussian
from uqms.calibration._gaussian import LOG_TWO_PI
from uqms.calibration.gaussian import GaussianLikelihood, collapsed, process_block
from uqms.calibration.likelihood import Cells, dense
from uqms.calibration.population.covariances import SurrogateCovariances
from uqms.calibration.population.shared_error import (
    Features,
    SharedError,
    square_root,
    square_root_reverse,
)
from uqms.surrogates.outputs import Decoder

NUMBERS = 2_000_000  # in the largest array

__all__ = ["Conditional", "LowRank", "ragged"]


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
    """

    mean: Array
    factor: Array
    log_weights: Array

    def draw(self, rng: np.random.Generator) -> tuple[Ints, Array]:
        """Return for every draw a draw of hyperparameters (S,) and of w (S, M)."""
        _, S, M = self.mean.shape
        uniform = rng.random(S)
        h = np.minimum((np.cumsum(np.exp(self.log_weights), axis=0) < uniform).sum(axis=0), len(self.mean) - 1)
        s = np.arange(S)
        turned = np.swapaxes(self.factor[h, s], 1, 2)
        step = np.linalg.solve(turned, rng.standard_normal((S, M, 1)))[..., 0]
        return h, self.mean[h, s] + step


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
    cells
        Of the data, where offset, basis and truncation are parts (`GaussianLikelihood.varying`): of a surrogate whose
        rows depend on the input, or whose scores have correlated errors, since own errors are truncation then.
    """

    error: SharedError
    likelihood: GaussianLikelihood
    unit: Ints
    cells: Cells | None = None

    @cached_property
    def block(self) -> Array:
        """Everything as one flat block, which `_process_gaussian` reads; for the library's own process."""
        process = self.error.covariances.compiled
        assert process is not None
        return process_block(process, self.likelihood, self.error.flat())

    def value_and_slopes(
        self, u: Float[np.ndarray, "K d"], phi: Float[np.ndarray, " P"], z: Float[np.ndarray, " R"]
    ) -> tuple[float, Array, Array]:
        """Return log p(z | u, phi) and its derivatives, compiled."""
        from uqms.calibration import _process_gaussian

        if self.error.covariances.compiled is not None:
            value, u_bar, phi_bar = _process_gaussian.at(self.block, u, phi, z)
        else:
            features = self.error.at(u[None])
            parts = np.ascontiguousarray(self._parts(features, u[None])[:, 0])
            value, bar, phi_bar = _gaussian.mixed(self.likelihood.data, parts, self.error.log_weights, phi, z)
            if not self.differentiable:
                return float(value), np.full_like(u, np.nan), phi_bar
            u_bar = self._parts_reverse(Features(*(one[:, 0] for one in features)), u, bar)
        return float(value), u_bar, phi_bar

    @property
    def differentiable(self) -> bool:
        """Whether the surrogate has derivatives."""
        return self.error.covariances.differentiable

    def with_blocks(self, features: Array, data: Array) -> "LowRank":
        """Return the same likelihood with other features and data: `SharedError.flat`, `GaussianLikelihood.data`."""
        return replace(self, error=self.error.with_flat(features), likelihood=replace(self.likelihood, data=data))

    def evaluate(
        self, u: Float[np.ndarray, "S K d"], phi: Float[np.ndarray, "S P"], z: Float[np.ndarray, " R"]
    ) -> Float[np.ndarray, " S"]:
        """Return the log-likelihood of S draws."""
        out = np.empty((self.error.draws, len(u)))
        for now in self.steps(len(u)):
            out[:, now] = self.likelihood.evaluate(self.parts(u[now]), phi[now], z, precisions=False)[0]
        return np.asarray(np.logaddexp.reduce(out + self.error.log_weights[:, None], axis=0))

    def parts(self, u: Float[np.ndarray, "S K d"]) -> Float[np.ndarray, "H S size"]:
        """Return the parts of the likelihood for each draw of hyperparameters."""
        return self._parts(self.error.at(u), u)

    def _parts(self, features: Features, u: Array) -> Array:
        (mean, phi, own), error, lead = features, self.error, features.mean.shape[:2]
        cuts = np.cumsum([0, *error.ranks])
        shared = [phi] if error.joint else [phi[..., a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
        blocks = [mean, np.zeros_like(mean) if error.joint else own, *shared]
        if self.likelihood.varying:
            offset, basis, truncation = self._rows(u, lead)
            if error.joint:
                truncation = np.concatenate([truncation, _times(basis, square_root(own)[:, :, self._experiment])], -1)
            blocks += [offset, basis, truncation]
        return np.concatenate([one.reshape(*lead, -1) for one in blocks], axis=2)

    def _parts_reverse(
        self, features: Features, u: Float[np.ndarray, "K d"], bar: Float[np.ndarray, "H size"]
    ) -> Float[np.ndarray, "K d"]:
        """Return the derivative by the inputs of parts : bar; the surrogate's own reverse derivative does the rest."""
        error, likelihood, (K, q) = self.error, self.likelihood, (len(u), self.error.q)
        H, N, t = len(bar), likelihood.rows, likelihood.sizes[3]
        own_at, shared_at = K * q, 2 * K * q
        offset_at, basis_at, truncation_at = _gaussian.parts_at(likelihood.data)[1:4]
        mean, own = bar[:, :own_at].reshape(H, K, q), bar[:, own_at:shared_at].reshape(H, K, q)
        shared = bar[:, shared_at:offset_at]
        if error.joint:
            phi = shared.reshape(H, K, q, -1)
        else:
            cuts = K * np.cumsum([0, *error.ranks])
            phi = np.concatenate(
                [shared[:, a:b].reshape(H, K, -1) for a, b in zip(cuts, cuts[1:], strict=False)], axis=2
            )
        if not likelihood.varying:
            return error.reverse(u, features, Features(mean, phi, own))
        assert self.cells is not None
        offset = bar[:, offset_at:basis_at]
        basis = bar[:, basis_at:truncation_at].reshape(H, N, q)
        truncation = bar[:, truncation_at:].reshape(H, N, t)
        if error.joint:
            factor, rows = square_root(features.own), self._rows(u[None], (H, 1))[1][:, 0]
            by_own, truncation = truncation[..., t - q :], truncation[..., : t - q]
            basis = basis + np.einsum("hni,hnji->hnj", by_own, factor[:, self._experiment])
            factor_bar = np.zeros_like(factor)
            for h in range(H):
                np.add.at(factor_bar[h], self._experiment, rows[h][:, :, None] * by_own[h][:, None, :])
            own = square_root_reverse(factor, factor_bar)
        out = error.reverse(u, features, Features(mean, phi, own))
        if self.cells.by_input is not None:
            of_all = np.zeros((H, N, self.cells.by_input.scores))
            of_all[..., self._scores] = basis
            out = out + self.cells.by_input.reverse(u, Decoder(offset, of_all, truncation))
        return out

    @property
    def _scores(self) -> Ints:
        assert isinstance(self.error.covariances, SurrogateCovariances)
        return self.error.covariances.used

    @property
    def _experiment(self) -> Ints:
        assert self.cells is not None
        return self.cells.experiment

    def _rows(self, u: Array, lead: tuple[int, ...]) -> tuple[Array, Array, Array]:
        """Return offset, basis and truncation (H, S, N, ...) of the cells at inputs (S, K, d)."""
        cells = self.cells
        assert cells is not None
        if cells.by_input is None:
            rows = Decoder(cells.offset, dense(cells.basis[:, self._scores]), cells.compressed)
        else:
            rows = cells.by_input.at(u)
            rows = rows._replace(basis=rows.basis[..., self._scores])
        shapes = (one.shape[-k:] for one, k in zip(rows, (1, 2, 2), strict=True))
        offset, basis, truncation = (
            np.broadcast_to(one, (*lead, *shape)) for one, shape in zip(rows, shapes, strict=True)
        )
        return offset, basis, truncation

    def condition(
        self, u: Float[np.ndarray, "S K d"], phi: Float[np.ndarray, "S P"], z: Float[np.ndarray, " R"]
    ) -> Conditional:
        """Return the law of the shared error given the data, for S draws: S M² numbers, so give some hundreds."""
        each = list(self._each(u, phi, z))
        values = np.stack([one.value for one in each]) + self.error.log_weights[:, None]
        return Conditional(
            np.stack([one.mean for one in each]),
            np.stack([np.linalg.cholesky(one.precision) for one in each]),
            values - np.logaddexp.reduce(values, axis=0),
        )

    def by_draw(
        self, u: Float[np.ndarray, "S K d"], phi: Float[np.ndarray, "S P"], z: Float[np.ndarray, " R"]
    ) -> tuple[Float[np.ndarray, "H S"], Float[np.ndarray, "H S U"]]:
        """Return log p(z | h) and log p(z_i | all but unit i, h) for every draw of hyperparameters, in closed form."""
        with np.errstate(all="ignore"):  # what is too far off for numbers is -inf
            each = [(one.value, self._left_out(one)) for one in self._each(u, phi, z)]
        values, terms = zip(*each, strict=True)
        return np.stack(values), np.stack(terms)

    def steps(self, count: int) -> Iterator[slice]:
        """Yield slices of `count` draws whose arrays fit into memory."""
        K, q = len(self.unit), self.error.q
        M = int(self.error.ranks.sum())
        columns = M * q if self.error.joint else M
        widest = max(K * self.error.width, K * columns, M * M, K * q * q * self._padded.inputs.shape[1])
        step = max(1, NUMBERS // max(widest, self.likelihood.size))
        return (slice(begin, begin + step) for begin in range(0, count, step))

    @cached_property
    def _padded(self) -> "_Padded":
        return _Padded(*ragged(np.asarray(self.unit), int(np.max(self.unit)) + 1))

    def _constants(self, phi: Array, z: Array, zbar: Array) -> Array:
        """Return what the measured values of each input add to -2 log p beside their cells' means (S, K)."""
        likelihood, N = self.likelihood, self.likelihood.rows
        row_cell, row_variance = likelihood.field("row_cell").astype(np.int64), likelihood.field("row_variance")
        weight, group = likelihood.field("weight"), likelihood.field("group").astype(np.int64)
        squares = np.bincount(row_cell, (z - zbar[row_cell]) ** 2 / row_variance, N)
        count = np.bincount(row_cell, minlength=N)
        s2 = phi[:, group] ** 2
        if len(growth := likelihood.field("growth")):  # such cells have one row each
            s2[:, growth[::2] >= 0.0] = 1.0
        replicates = count * LOG_TWO_PI + (count - 1.0) * np.log(s2) + np.log(weight) + squares / s2
        starts = likelihood.field("starts").astype(np.int64)
        inputs = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        return np.bincount(inputs[row_cell], np.log(row_variance)) + np.add.reduceat(replicates, starts[:-1], axis=1)

    def _each(self, u: Array, phi: Array, z: Array) -> "Iterator[_One]":
        """Yield what belongs to each draw of hyperparameters; where its numbers have no density it says nothing."""
        features, phi, data = self.error.at(u), np.ascontiguousarray(phi), self.likelihood.data
        zbar, _ = collapsed(data, np.ascontiguousarray(z), self.likelihood.rows, self.likelihood.sizes[4])
        constants = self._constants(phi, z, zbar)
        for h, parts in enumerate(self._parts(features, u)):
            value = self.likelihood.evaluate(parts, phi, z, precisions=False)[0]
            T, t, each, A, right = _gaussian.of_inputs(data, np.ascontiguousarray(parts), phi, zbar)
            bad = ~(value > -np.inf)
            T[bad], t[bad], right[bad] = 0.0, 0.0, 0.0
            A = np.triu(A) + np.triu(A, 1).swapaxes(1, 2)
            A[bad] = np.eye(A.shape[1])
            inverse = np.linalg.inv(A)
            mean = np.matmul(inverse, right[..., None])[..., 0]
            yield _One(value, mean, A, inverse, constants + each, T, t, features.phi[h])

    def _left_out(self, one: "_One") -> Array:
        """Return log p(z_i | all but unit i) (S, U).

        With X = F A^-1 F' between the inputs of a unit, A without the unit has F A^-1 F' = (1 - X T)^-1 X, and the
        determinant |A| |1 - T X|.
        """
        padded, error, q = self._padded, self.error, self.error.q
        phi, cuts = one.phi, np.cumsum([0, *error.ranks])
        places = [slice(a, b) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
        S, K = one.t.shape[:2]
        U, most = padded.inputs.shape
        at, there = padded.inputs, padded.there  # (U, most): inputs of each unit, and which of them are real
        X: Array = np.zeros((S, U, most, q, most, q))
        if error.joint:
            by_unit = phi[:, at].reshape(S, U, most * q, -1)
            X = (by_unit @ one.inverse[:, None]) @ by_unit.swapaxes(-1, -2)
        else:
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
            T[:, :, e, :, e, :] = one.T[:, at[:, e]] * there[:, e, None, None]
        T = T.reshape(S, U, size, size)
        rest = np.eye(size) - np.matmul(X, T)
        t = (one.t[:, at] * there[..., None]).reshape(S, U, size)
        y = (error.errors(phi, one.mean)[:, at] * there[..., None]).reshape(S, U, size)
        Ty = np.matmul(T, y[..., None])[..., 0]
        a = t - Ty
        Za = np.linalg.solve(rest, np.matmul(X, a[..., None]))[..., 0]
        _, log_det = np.linalg.slogdet(rest)
        constant = np.sum(one.constant[:, at] * there, axis=2)
        out = -0.5 * (constant - log_det - np.sum(y * (t + a), axis=2) + np.sum(a * Za, axis=2))
        return np.where(one.value[:, None] > -np.inf, out, -np.inf)


class _One(NamedTuple):
    """What a draw of hyperparameters says, for S draws."""

    value: Array  # log p (S,)
    mean: Array  # of w given the data (S, M)
    precision: Array  # of w, A (S, M, M)
    inverse: Array
    constant: Array  # -2 log of the density of an input's cells without shared error, where w = 0 (S, K)
    T: Array  # (S, K, q, q)
    t: Array  # (S, K, q)
    phi: Array


class _Padded(NamedTuple):
    """The inputs of every unit, to one number of them."""

    inputs: Ints  # (U, most)
    there: Bools  # (U, most), which of them are real


def _times(basis: Array, factor: Array) -> Array:
    """Return basis rows (..., N, q) times the factor (..., N, q, q) of their input."""
    return np.asarray(np.matmul(basis[..., None, :], factor)[..., 0, :])


def ragged(owner: Ints, count: int) -> tuple[Ints, Bools]:
    """Return which things each owner has (count, most), and which of these places are real."""
    sizes = np.bincount(owner, minlength=count)
    order = np.argsort(owner, kind="stable")
    place = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    out = np.zeros((count, max(1, int(sizes.max(initial=0)))), dtype=np.int64)
    real = np.zeros(out.shape, dtype=np.bool_)
    out[owner[order], place], real[owner[order], place] = order, True
    return out, real
