"""Covariances of a surrogate's error between many inputs and a few points, of which `shared_error` makes features.

There are two kinds of them: the library's own process, whose arrays are at hand, and any other surrogate, through the
`scores` of its protocol. Errors of scores that are independent of each other have features of their own: one group a
score. Scores with correlated errors are one group.

==========  ======================================================================  ==============
symbol      meaning                                                                 shape
==========  ======================================================================  ==============
G, s        groups; scores of each: G s = q, the scores                             ()
u, V        inputs; points                                                          (k, d), (m, d)
raw         what the covariance between u and V is made of                          (k s, m s + r)
signs       of the last r columns of raw; without any, raw is the covariance        (r,)
==========  ======================================================================  ==============

    S(u, V) = raw(u)[:, :m s] + raw(u)[:, m s:] diag(signs) raw(V)[:, m s:]'

Rows of raw are input by input, and score by score within an input.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, final, runtime_checkable

import numpy as np
from jaxtyping import Float

from uqms._typing import Array, Ints
from uqms.calibration.direct import has_derivative
from uqms.surrogates.kernels import correlation
from uqms.surrogates.process import ScoreProcess, rows_of
from uqms.surrogates.protocol import Surrogate

__all__ = ["Against", "Covariances", "ProcessCovariances", "SurrogateCovariances", "between"]

MIN_BLOCK = 64  # inputs that a surrogate is asked for at once, beside the points: a call has its price
MAX_NUMBERS = 4_000_000  # of a covariance that a surrogate returns


class Against(NamedTuple):
    """Inputs against points, of one draw of hyperparameters and one group of scores."""

    raw: Array  # (k s, m s + r)
    mean: Array  # (k, s)
    variance: Array  # (k, s, s)


@runtime_checkable
class Covariances(Protocol):
    """Covariances of the errors of q scores between inputs, for each draw of hyperparameters."""

    @property
    def log_weights(self) -> Array:
        """Of the draws of hyperparameters, shape (H,)."""
        ...

    @property
    def q(self) -> int:
        """Number of scores."""
        ...

    @property
    def joint(self) -> bool:
        """Whether errors are correlated between scores: then all scores are one group."""
        ...

    @property
    def signs(self) -> Array:
        """Signs of what `raw` has beside the points, shape (r,)."""
        ...

    @property
    def compiled(self) -> ScoreProcess | None:
        """The library's own process, of which `_features` makes features in compiled code; None of any other."""
        ...

    @property
    def differentiable(self) -> bool:
        """Whether there are derivatives by the inputs."""
        ...

    def stretch(self, cloud: Array) -> Array:
        """Return by what inputs are multiplied (d,) so that distances are about as the errors see them."""
        ...

    def scale(self, cloud: Array) -> Array:
        """Return a bound of the variance of each score (q,)."""
        ...

    def floor(self, h: int, g: int) -> float:
        """Return the variance below which a direction is rounding."""
        ...

    def against(
        self, u: Array, points: Array, counts: Ints | None = None, draws: Ints | None = None
    ) -> Iterator[Against]:
        """Yield inputs (k, d) against points (m, d), for each draw of hyperparameters (outer) and group (inner).

        With `counts` (G,) a group has the first of the points only.
        """
        ...

    def within(self, u: Array, draws: Ints | None = None) -> Iterator[Array]:
        """Yield the covariance between inputs (k s, k s), likewise."""
        ...


def between(raw: Array, at_points: Array, signs: Array) -> Array:
    """Return the covariance (k s, m s) between inputs and points from their `raw`."""
    m = at_points.shape[1] - len(signs)
    return np.asarray(raw[:, :m] + (raw[:, m:] * signs) @ at_points[:, m:].T)


@final
@dataclass(frozen=True, eq=False)
class ProcessCovariances:
    """Those of the library's own process, whose compiled features are in `_features`."""

    process: ScoreProcess
    joint: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    @property
    def compiled(self) -> ScoreProcess:
        """The process."""
        return self.process

    @property
    def log_weights(self) -> Array:
        """Shape (H,)."""
        return self.process.log_weights

    @property
    def q(self) -> int:
        """Number of scores."""
        return self.process.q

    @property
    def signs(self) -> Array:
        """S(u, V) = k(u, V) - w' w + v' v, letters as in `process`."""
        return np.repeat([-1.0, 1.0], [len(self.process.x), self.process.beta.shape[2]])

    def stretch(self, cloud: Array) -> Array:
        """Return the inverse length scales."""
        return self.process.stretch()

    def scale(self, cloud: Array) -> Array:
        """Return the largest variances before runs over the cloud."""
        process = self.process
        return np.array([max(self._before(h, j, cloud).max() for h in range(process.draws)) for j in range(self.q)])

    def floor(self, h: int, g: int) -> float:
        """Return the rounding of the variance before runs, of which the error's is a difference."""
        return float(np.finfo(float).eps * self.process.variance[h, g])

    def against(
        self, u: Array, points: Array, counts: Ints | None = None, draws: Ints | None = None
    ) -> Iterator[Against]:
        """Yield [k(u, V), w', v'], one draw and score after the other."""
        for h in range(self.process.draws) if draws is None else draws:
            for j in range(self.q):
                yield self._one(int(h), j, u, points if counts is None else points[: counts[j]])

    def within(self, u: Array, draws: Ints | None = None) -> Iterator[Array]:
        """Yield the covariances between inputs."""
        for one in self.against(u, u, draws=draws):
            yield between(one.raw, one.raw, self.signs)

    def _one(self, h: int, j: int, u: Array, points: Array) -> Against:
        process = self.process
        kappa = correlation(process.kernel, u, process.x, process.ell[h, j])
        mean, w, v = rows_of(process, h, j, u, kappa, None)
        exact = self._before(h, j, u) - np.einsum("ij,ij->i", w, w) + np.einsum("ij,ij->i", v, v)
        to_points = process.variance[h, j] * correlation(process.kernel, u, points, process.ell[h, j])
        local = process.local_scale(h, j, u)
        to_points = to_points * process.local_scale(h, j, points)
        raw = local[:, None] * np.concatenate([to_points, w, v], axis=1)
        return Against(raw, mean[:, None], (local**2 * np.maximum(exact, 0.0))[:, None, None])

    def _before(self, h: int, j: int, u: Array) -> Array:
        """Return the variance before runs (k,), without the local scale."""
        return np.asarray(self.process.variance[h, j] * self.process.kernel.variances(u, self.process.ell[h, j]))


@final
@dataclass(frozen=True, eq=False)
class SurrogateCovariances:
    """Those of any surrogate, through `scores` and `scores_reverse` of its protocol.

    Inputs go through in blocks as long as there are points, so that the cost is linear in the number of inputs.

    Attributes
    ----------
    surrogate
        It knows the covariance of its errors between inputs.
    used
        The scores, shape (q,).
    joint
        Whether their errors are correlated with each other.
    log_weights
        Of the draws of hyperparameters, shape (H,).
    scores, correlated
        How many scores the surrogate has, and whether their covariance is one of pairs of them.
    """

    surrogate: Surrogate
    used: Ints
    joint: bool
    log_weights: Array
    scores: int
    correlated: bool
    compiled: ClassVar[None] = None

    @property
    def differentiable(self) -> bool:
        """Whether the surrogate has derivatives."""
        return has_derivative(self.surrogate)

    @classmethod
    def of(cls, surrogate: Surrogate, used: Ints) -> "SurrogateCovariances":
        """Return those of some scores of a surrogate."""
        scores, used = surrogate.scores(np.full((1, surrogate.domain.d), 0.5)), np.asarray(used, dtype=np.int64)
        log_weights, joint = np.asarray(scores.log_weights, dtype=np.float64), scores.correlated and len(used) > 1
        return cls(surrogate, used, joint, log_weights, scores.mean.shape[-1], scores.correlated)

    @property
    def q(self) -> int:
        """Number of scores."""
        return len(self.used)

    @property
    def signs(self) -> Array:
        """None: what the surrogate returns is the covariance."""
        return np.zeros(0)

    def stretch(self, cloud: Array) -> Array:
        """Return one over the standard deviation of each input over the cloud: length scales are not known."""
        spread = cloud.std(axis=0)
        return np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-9)

    def scale(self, cloud: Array) -> Array:
        """Return the largest variances over the cloud."""
        _, _, variance = self.evaluate(cloud, cloud[:1])
        variance = np.diagonal(variance, axis1=-2, axis2=-1) if self.joint else variance
        return np.asarray(np.maximum(variance.max(axis=(0, 1)), 1e-300))

    def floor(self, h: int, g: int) -> float:
        """Return next to nothing: what the variance was before runs is not known."""
        return 1e-300

    def against(
        self, u: Array, points: Array, counts: Ints | None = None, draws: Ints | None = None
    ) -> Iterator[Against]:
        """Yield covariances, of all draws and groups from one evaluation."""
        mean, cross, variance = self.evaluate(u, points)
        k, m, q = len(u), len(points), self.q
        for h in range(len(mean)) if draws is None else draws:
            if self.joint:
                yield Against(cross[h].reshape(k * q, m * q), mean[h], variance[h])
                continue
            for j in range(q):
                last = m if counts is None else int(counts[j])
                yield Against(cross[h, :, j, :last], mean[h, :, [j]].T, variance[h, :, j, None, None])

    def within(self, u: Array, draws: Ints | None = None) -> Iterator[Array]:
        """Yield the covariances between inputs."""
        scores, used = self.surrogate.scores(u), self.used
        for h in range(len(scores.mean)) if draws is None else draws:
            if self.joint:
                yield self._pairs(scores.covariance[[h]])[0].reshape(len(u) * self.q, -1)
                continue
            for j in used:
                yield scores.by_score[h, j]

    def evaluate(self, u: Float[np.ndarray, "k d"], points: Float[np.ndarray, "m d"]) -> tuple[Array, Array, Array]:
        """Return mean (H, k, q), covariance with points (H, k, q, m), and variance (H, k, q).

        Where errors of scores are correlated, the covariance has shape (H, k, q, m, q), and the variance (H, k, q, q).
        """
        parts = [self._block(one, points) for one in self._blocks(u, points)]
        return tuple(np.concatenate(several, axis=1)[:, : len(u)] for several in zip(*parts, strict=True))  # type: ignore[return-value]

    def reverse(
        self, u: Array, points: Array, mean_bar: Array, cross_bar: Array, variance_bar: Array
    ) -> Float[np.ndarray, "k d"]:
        """Return the derivative by the inputs of what `evaluate` returns, for derivatives by it."""
        size, count = self._sizes(u, points)
        filled = _filled(u, size * count)
        empty = size * count - len(u)
        mean, cross, variance = (
            np.pad(one, [(0, 0), (0, empty), *[(0, 0)] * (one.ndim - 2)]) for one in (mean_bar, cross_bar, variance_bar)
        )
        out = np.empty_like(filled)
        for begin in range(0, len(filled), size):
            rows = slice(begin, begin + size)
            by_mean = np.zeros((len(mean), size + len(points), self.scores))
            by_mean[:, :size, self.used] = mean[:, rows]
            by_covariance = self._covariance_bar(cross[:, rows], variance[:, rows])
            joined = np.concatenate([filled[rows], points])
            out[rows] = self.surrogate.scores_reverse(joined, by_mean, by_covariance)[:size]
        return out[: len(u)]

    def _covariance_bar(self, cross: Array, variance: Array) -> Array:
        """Return the derivative by the covariance of inputs and points joined, which is symmetric."""
        used, q, (H, k), m = self.used, self.scores, cross.shape[:2], cross.shape[3]
        if not self.joint:
            at = np.arange(k)
            whole = np.zeros((H, len(used), k + m, k + m))
            whole[:, :, :k, k:] = 0.5 * cross.transpose(0, 2, 1, 3)
            whole[:, :, k:, :k] = 0.5 * cross.transpose(0, 2, 3, 1)
            whole[:, :, at, at] = variance.transpose(0, 2, 1)
            if not self.correlated:
                out = np.zeros((H, q, k + m, k + m))
                out[:, used] = whole
                return out
            (one,) = used  # scores are correlated, and one of them counts
            pairs = np.zeros((H, k + m, q, k + m, q))
            pairs[:, :, one, :, one] = whole[:, 0]
            return pairs
        pairs = np.zeros((H, k + m, q, k + m, q))
        first, second, every = np.arange(k), np.arange(k, k + m), np.arange(H)
        pairs[np.ix_(every, first, used, second, used)] = 0.5 * cross
        pairs[np.ix_(every, second, used, first, used)] = 0.5 * cross.transpose(0, 3, 4, 1, 2)
        for a, i in enumerate(used):
            for b, j in enumerate(used):
                pairs[:, first, i, first, j] = 0.5 * (variance[:, :, a, b] + variance[:, :, b, a])
        return pairs

    def _sizes(self, u: Array, points: Array) -> tuple[int, int]:
        """Return how many inputs a block has, and how many blocks there are."""
        size = min(len(u), max(MIN_BLOCK, len(points)))
        return size, -(-len(u) // size)

    def _blocks(self, u: Array, points: Array) -> Iterator[Array]:
        """Yield inputs as several blocks (b, c, d) of one size, the last one filled up."""
        size, count = self._sizes(u, points)
        filled = _filled(u, size * count).reshape(count, size, -1)
        numbers = len(self.log_weights) * (size + len(points)) ** 2 * (self.q**2 if self.joint else self.q)
        step = max(1, MAX_NUMBERS // numbers)
        for begin in range(0, count, step):
            yield filled[begin : begin + step]

    def _block(self, u: Array, points: Array) -> tuple[Array, Array, Array]:
        """Evaluate blocks of inputs (b, c, d), which become one axis."""
        b, c, _ = u.shape
        scores = self.surrogate.scores(np.concatenate([u, np.broadcast_to(points, (b, *points.shape))], axis=1))
        mean, used, at = scores.mean[:, :, :c][..., self.used], self.used, np.arange(c)
        if self.joint:
            whole = scores.covariance  # (H, b, c + m, q, c + m, q)
            cross = self._pairs(whole[:, :, :c, :, c:])
            variance = np.moveaxis(self._pairs(whole)[:, :, at, :, at], 0, 2)
        else:
            whole = scores.by_score  # (H, b, q, c + m, c + m)
            cross, variance = (np.moveaxis(one[:, :, used], 2, 3) for one in (whole[..., :c, c:], whole[..., at, at]))
        return tuple(one.reshape(len(one), b * c, *one.shape[3:]) for one in (mean, cross, variance))  # type: ignore[return-value]

    def _pairs(self, covariance: Array) -> Array:
        """Return covariances (..., k, q, k, q) of the scores that are used."""
        if np.array_equal(self.used, np.arange(covariance.shape[-1])):
            return covariance
        return covariance[..., self.used, :, :][..., self.used]


def _filled(u: Array, count: int) -> Array:
    """Return inputs (count, d), the last of them as often as needed."""
    return np.asarray(u[np.minimum(np.arange(count), len(u) - 1)])
