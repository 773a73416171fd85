"""What a surrogate says of its outputs at given points and inputs: the joint error that likelihood and prediction take.

At point c of input k the output is y = offset + B (mean_k + error_k) + E omega_k. Offset, B and E are numbers, or
functions of the input (`by_input`); errors are correlated between inputs, and between scores where the surrogate says
so; omega ~ N(0, 1) is new with each input.

==========  ===================================================================  =======================================
symbol      meaning                                                              shape
==========  ===================================================================  =======================================
H, S        hyperparameter draws, values of the parameters                       ()
T, K        points; different inputs                                             ()
mean        of the scores                                                        (H, S, K, q)
C           covariance of the errors                                             (H, S, q, K, K), (H, S, K, q, K, q)
offset      rows of the points                                                   (T,), (H or 1, S, T)
B           basis rows                                                           (T, q), (H or 1, S, T, q)
E           truncation rows                                                      (T, t), (H or 1, S, T, t)
==========  ===================================================================  =======================================
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol, final

import numpy as np

from uqms._typing import Array, Ints
from uqms.calibration.by_input import RowsByInput
from uqms.calibration.likelihood import compress, dense, times_basis
from uqms.surrogates.fused_scores import scores_flat
from uqms.surrogates.outputs import Decoder
from uqms.surrogates.process import ScoreProcess, Scores, joint_at, means_at
from uqms.surrogates.protocol import Surrogate

__all__ = [
    "CompiledError",
    "JointError",
    "OutputLaw",
    "Points",
    "averaged_marginals",
    "compiled_process",
    "joint_root",
    "means_given",
    "outputs_of_scores",
    "scores_of",
]

FEW = 16  # inputs of one member, of which compiled code is faster


class CompiledError(Protocol):
    """Mean and joint error of scores as numbers that the compiled likelihood reads."""

    def select(self, scores: Ints) -> "CompiledError":
        """Return that of some of the scores."""
        ...

    def flat(self) -> Array:
        """Return the numbers."""
        ...


def compiled_process(surrogate: Surrogate) -> ScoreProcess | None:
    """Return the Gaussian process of the inputs alone that a surrogate is, whose arrays compiled code reads."""
    found: ScoreProcess | None = getattr(surrogate, "compiled_process", None)
    return found


def scores_of(surrogate: Surrogate, u: Array) -> Scores:
    """Return mean and covariance of the scores at inputs u (..., K, d), as `surrogate.scores` does.

    Those of a built-in process at few inputs, as each gradient asks for, come from compiled code, which needs no call
    for each score and draw.
    """
    process, (*batch, k, d) = compiled_process(surrogate), u.shape
    if process is None or k > FEW or u.size != k * d:
        return surrogate.scores(u)
    mean, covariance = scores_flat(process.flat(), np.ascontiguousarray(u.reshape(k, d)))
    H, q = len(mean), process.q
    return Scores(mean.reshape(H, *batch, k, q), covariance.reshape(H, *batch, q, k, k), process.log_weights)


class Points(Protocol):
    """Points of a surrogate's outputs: their rows, as functions of the input where `by_input` is not None."""

    @property
    def offset(self) -> Array:
        """Shape (T,)."""
        ...

    @property
    def basis(self) -> Any:
        """Shape (T, q), dense or sparse."""
        ...

    @property
    def truncation(self) -> Array:
        """Shape (T, t)."""
        ...

    @property
    def by_input(self) -> RowsByInput | None:
        """Rows that depend on the input."""
        ...


@final
@dataclass(frozen=True, eq=False)
class JointError:
    """The outputs at T points of K inputs for S values of the parameters, for each hyperparameter draw.

    Attributes
    ----------
    scores
        At the inputs (S, K, d).
    rows
        Offset, basis and truncation: fixed, or with leading axes (H or 1, S).
    index
        Input of each point, shape (T,).
    used
        Scores that have errors.
    """

    scores: Scores
    rows: Decoder
    index: Ints
    used: Ints

    @classmethod
    def of(cls, surrogate: Surrogate, points: Points, index: Ints, u: Array, used: Ints) -> "JointError":
        """Return the joint error of points at inputs u (S, K, d)."""
        return cls(scores_of(surrogate, u), _rows(points, u), index, used)

    @property
    def fixed(self) -> bool:
        """Whether the rows are the same at all inputs."""
        return self.rows.offset.ndim == 1

    @property
    def mean(self) -> Array:
        """Means of the outputs (H, S, T)."""
        return outputs_of_scores(self.rows, self.index, self.scores.mean)

    def given(self, h: Ints) -> "OutputLaw":
        """Return the distribution of the outputs with hyperparameter draw h[s] for value s."""
        s = np.arange(len(h))
        covariance = self.scores.covariance[h, s] if len(self.used) else self.scores.covariance[0]  # zeros
        return OutputLaw(self.scores.mean[h, s], covariance, self._rows_given(h), self.index, self.used)

    def mean_given(self, h: Ints) -> Array:
        """Return the mean (S, T) of that law."""
        return outputs_of_scores(self._rows_given(h), self.index, self.scores.mean[h, np.arange(len(h))])

    def _rows_given(self, h: Ints) -> Decoder:
        return self.rows if self.fixed else _given(self.rows, h)


@final
@dataclass(frozen=True, eq=False)
class OutputLaw:
    """The normal distribution of the outputs at T points of K inputs, for each of S values of the parameters.

    Attributes
    ----------
    score_mean, score_covariance
        Shapes (S, K, q), and (S, q, K, K) or (S, K, q, K, q).
    rows
        Offset, basis and truncation: fixed, or with a leading axis (S,).
    index, used
        As those of `JointError`.
    """

    score_mean: Array
    score_covariance: Array
    rows: Decoder
    index: Ints
    used: Ints

    @classmethod
    def of(cls, surrogate: Surrogate, points: Points, index: Ints, u: Array, used: Ints, h: Ints) -> "OutputLaw":
        """Return the distribution of the outputs at inputs u (S, K, d), with hyperparameter draw h[s] for value s.

        It is that of `JointError.given`; other hyperparameter draws are not evaluated where the process is known.
        """
        process = compiled_process(surrogate)
        if process is None or process.draws == 1:
            return JointError.of(surrogate, points, index, u, used).given(h)
        rows = _rows(points, u)
        return cls(*joint_at(process, h, u, used), rows if rows.offset.ndim == 1 else _given(rows, h), index, used)

    @property
    def fixed(self) -> bool:
        """Whether the rows are the same at all inputs."""
        return self.rows.offset.ndim == 1

    @property
    def correlated(self) -> bool:
        """Whether the errors of scores are correlated with each other."""
        return self.score_covariance.ndim == 5

    @property
    def mean(self) -> Array:
        """Shape (S, T)."""
        return outputs_of_scores(self.rows, self.index, self.score_mean)

    def without_errors(self) -> "OutputLaw":
        """Return the law of a surrogate that has no error: its mean."""
        rows = self.rows._replace(truncation=np.zeros_like(self.rows.truncation))
        covariance = np.zeros_like(self.score_covariance) if len(self.used) else self.score_covariance
        return replace(self, score_covariance=covariance, rows=rows)

    @property
    def covariance(self) -> Array:
        """Covariances (S, T, T), truncation included."""
        index, used, C = self.index, self.used, self.score_covariance
        if self.correlated or not self.fixed:
            spread = self.spread
            out = spread @ _joint(self.score_mean, C) @ spread.swapaxes(1, 2) if len(used) else 0.0
        elif C.shape[-1] == 1:  # one variance a score
            rows = dense(self.rows.basis[:, used])
            out = (rows * C[:, used, 0, 0][:, None, :]) @ rows.T
        else:
            basis, out = self.rows.basis, np.zeros((len(C), len(index), len(index)))
            for j in used:
                out += C[:, j][:, index[:, None], index[None, :]] * (basis[:, j, None] * basis[:, j])
        E = self.rows.truncation
        return np.asarray(out + (index[:, None] == index[None, :]) * (E @ np.swapaxes(E, -1, -2)))

    @property
    def factor(self) -> Array:
        """Square-root factor (S, T, r) of the covariances."""
        S, T, K = len(self.score_mean), len(self.index), self.score_mean.shape[1]
        if not len(self.used):
            errors = np.zeros((S, T, 0))
        elif self.correlated or not self.fixed:
            errors = self.spread @ joint_root(_joint(self.score_mean, self.score_covariance))
        else:
            values, vectors = np.linalg.eigh(self.score_covariance[:, self.used])  # (S, q, K), (S, q, K, K)
            roots = vectors * np.sqrt(np.maximum(values, 0.0))[..., None, :]
            basis = dense(self.rows.basis[:, self.used])
            errors = (roots.transpose(0, 2, 1, 3)[:, self.index] * basis[:, :, None]).reshape(S, T, -1)
        return np.concatenate([errors, self._own_truncation(K)], axis=2)

    def _basis(self) -> Array:
        """Return the basis (S or 1, T, q), dense."""
        return dense(self.rows.basis)[None] if self.fixed else self.rows.basis

    @property
    def spread(self) -> Array:
        """Rows (S or 1, T, K q) of all inputs' scores."""
        basis = self._basis()
        out = np.zeros((len(basis), len(self.index), self.score_mean.shape[1], basis.shape[-1]))
        out[:, np.arange(len(self.index)), self.index] = basis
        return out.reshape(len(basis), len(self.index), -1)

    def _own_truncation(self, inputs: int) -> Array:
        """Return the truncation (S, T, r) with columns of their own for each input, no more than needed."""
        E, S, T = self.rows.truncation, len(self.score_mean), len(self.index)
        if self.fixed:
            parts = [(self.index == k, compress(E[self.index == k])) for k in range(inputs)]
        else:
            parts = [(self.index == k, E[:, self.index == k]) for k in range(inputs)]
        out, start = np.zeros((S, T, sum(part.shape[-1] for _, part in parts))), 0
        for at, part in parts:
            out[:, at, start : start + part.shape[-1]] = part
            start += part.shape[-1]
        return out


def averaged_marginals(surrogate: Surrogate, points: Points, index: Ints, u: Array, used: Ints) -> tuple[Array, Array]:
    """Return mean and variance (S, T) of the outputs at inputs u (S, K, d), means over the hyperparameter draws.

    Covariances between inputs are not looked at.
    """
    scores = surrogate.scores(u.reshape(-1, 1, u.shape[-1]))
    weights, means = np.exp(scores.log_weights), _reshaped(scores.mean, u)
    if points.by_input is None:  # both are linear in what the scores say
        mean = points.offset + times_basis(points.basis, index, np.tensordot(weights, means, 1))
        variance = np.tile(np.sum(points.truncation**2, axis=1), (len(mean), 1))
        if len(used) and scores.correlated:
            q = means.shape[-1]
            between = np.tensordot(weights, scores.joint.reshape(*means.shape[:3], q, q)[..., used, :][..., used], 1)
            for k in np.unique(index):
                here = np.flatnonzero(index == k)
                basis = dense(points.basis[here][:, used])
                variance[:, here] += np.einsum("sti,ti->st", basis @ between[:, k], basis)
        elif len(used):
            of_scores = np.tensordot(weights, scores.covariance[..., 0, 0], 1).reshape(means.shape[1:])
            variance += times_basis(points.basis**2, index, of_scores)
        return mean, variance
    rows = _rows(points, u)
    q = means.shape[-1]
    own = scores.joint.reshape(*means.shape[:3], q, q)[:, :, index]  # (H, S, T, q, q)
    basis = np.broadcast_to(rows.basis, own.shape[:-1])
    each = np.sum(rows.truncation**2, axis=-1) + np.einsum("hsti,hstij,hstj->hst", basis, own, basis, optimize=True)
    mean = outputs_of_scores(rows, index, means)
    return np.tensordot(weights, mean, 1), np.tensordot(weights, each, 1)


def means_given(surrogate: Surrogate, points: Points, index: Ints, u: Array, h: Ints) -> Array:
    """Return the means (S, T) of the outputs at inputs u (S, K, d) with hyperparameter draw h[s] for value s.

    Errors are not looked at, nor are other hyperparameter draws where the process is known.
    """
    s = np.arange(len(h))
    process = compiled_process(surrogate)
    if process is None:
        scores = _reshaped(surrogate.scores(u.reshape(-1, 1, u.shape[-1])).mean, u)[h, s]
    else:
        scores = means_at(process, h, u)
    rows = _rows(points, u)
    return outputs_of_scores(rows if points.by_input is None else _given(rows, h), index, scores)


def _given(rows: Decoder, h: Ints) -> Decoder:
    """Return rows (S, ...) with hyperparameter draw h[s] for value s, of rows (H or 1, S, ...)."""
    s = np.arange(len(h))
    return Decoder(*(one[h if len(one) > 1 else 0, s] for one in rows))


def _reshaped(mean: Array, u: Array) -> Array:
    """Return means (H, S, K, q) of inputs (S, K, d) that were asked for one by one, (H, S K, 1, q)."""
    return np.asarray(mean.reshape(len(mean), *u.shape[:2], -1))


def outputs_of_scores(rows: Decoder, index: Ints, scores: Array) -> Array:
    """Return offset + basis times scores (..., S, K, q) at each point's input, shape (..., S, T)."""
    if rows.offset.ndim == 1:
        return np.asarray(rows.offset + times_basis(rows.basis, index, scores))
    return np.asarray(rows.offset + np.einsum("...tq,...tq->...t", rows.basis, scores[..., index, :]))


def joint_root(covariance: Array) -> Array:
    """Return a square-root factor of covariances (..., n, n) that may be singular."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0))[..., None, :])


def _joint(mean: Array, covariance: Array) -> Array:
    """Return the covariance (S, K q, K q) of all scores at all inputs."""
    return Scores(mean, covariance, np.zeros(0)).joint


def _rows(points: Points, u: Array) -> Decoder:
    if points.by_input is None:
        return Decoder(points.offset, points.basis, points.truncation)
    return points.by_input.at(u)
