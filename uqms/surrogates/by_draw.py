"""A surrogate at inputs of their own for each hyperparameter draw, as the members of a chain are evaluated.

The inputs that a member of a chain takes from another member depend on the hyperparameters of the latter. A draw of the
chain consists of one draw of each member; not all combinations are used.

==========  =====================================================================  =================
symbol      meaning                                                                shape
==========  =====================================================================  =================
H           draws of the chain                                                     ()
v           inputs of the member, in its unit cube                                 (H, S, k, d)
            or the same ones for all draws                                         (1, S, k, d)
covariance  between inputs, of scores whose errors are independent                 (H, S, q, k, k)
            or of correlated ones                                                  (H, S, k, q, k, q)
==========  =====================================================================  =================
"""

from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np

from uqms._compiled import compiled
from uqms._typing import Array, Ints
from uqms.surrogates.fused import forward, reverse
from uqms.surrogates.protocol import Surrogate

__all__ = ["ByDraw", "pairing"]


def pairing(log_weights: Array, draws: int, seed: int) -> Ints:
    """Return which draw of a member belongs to each of the equally likely draws of a chain.

    Draws of different members are independent, so that they are put together in any order; that of a seed which is
    not the same for all keeps two orders of the same rule apart.
    """
    weights = np.exp(log_weights - np.logaddexp.reduce(log_weights))
    middle = (np.arange(draws) + 0.5) / draws
    picked = np.minimum(np.searchsorted(np.cumsum(weights), middle), len(weights) - 1)
    return np.asarray(picked[np.random.default_rng(seed).permutation(draws)], dtype=np.int64)


@final
@dataclass(frozen=True, eq=False)
class ByDraw:
    """A member's surrogate with the draw (H,) of its hyperparameters that each draw of the chain has."""

    surrogate: Surrogate
    draws: Ints

    @cached_property
    def _block(self) -> Array | None:
        process = getattr(self.surrogate, "compiled_process", None)
        return None if process is None else process.flat()

    def joint(self, v: Array) -> tuple[Array, Array]:
        """Return mean (H, S, k, q) and covariance between the k inputs of each of S."""
        if len(v) == 1:
            found = self.surrogate.scores(v[0])
            return found.mean[self.draws], found.covariance[self.draws]
        if self._block is not None:
            return scores_by_draw(self._block, self.draws, np.ascontiguousarray(v))  # type: ignore[no-any-return]
        found = self.surrogate.scores(v)  # every draw at the inputs of each
        each = np.arange(len(self.draws))
        return found.mean[self.draws, each], found.covariance[self.draws, each]

    def means(self, v: Array) -> Array:
        """Return the mean (H, N, q) at unrelated inputs (H, N, d)."""
        if self._block is not None:
            return np.asarray(means_by_draw(self._block, self.draws, np.ascontiguousarray(v)))
        marginal = getattr(self.surrogate, "marginal_scores", None)
        found = self.surrogate.scores(v[:, :, None]).mean[..., 0, :] if marginal is None else marginal(v).mean
        return np.asarray(found[self.draws, np.arange(len(self.draws))])

    def joint_reverse(self, v: Array, mean_bar: Array, covariance_bar: Array) -> Array:
        """Return the derivative (H or 1, k, d) of sum(mean * mean_bar) + sum(covariance * covariance_bar).

        Inputs are (H or 1, k, d), derivatives by the mean (H, k, q), by the covariance without the axis S.
        """
        if len(v) == 1:
            count = len(self.surrogate.scores(v[0, :1]).log_weights)
            mean, covariance = np.zeros((count, *mean_bar.shape[1:])), np.zeros((count, *covariance_bar.shape[1:]))
            np.add.at(mean, self.draws, mean_bar)
            np.add.at(covariance, self.draws, covariance_bar)
            return np.asarray(self.surrogate.scores_reverse(v[0], mean, covariance))[None]
        if self._block is not None:
            parts = (np.ascontiguousarray(one) for one in (v, mean_bar, covariance_bar))
            return np.asarray(joint_by_draw_reverse(self._block, self.draws, *parts))
        return self._each_reverse(v, mean_bar, covariance_bar)

    def means_reverse(self, v: Array, mean_bar: Array) -> Array:
        """Return the derivative (H, N, d) of sum(mean * mean_bar) at unrelated inputs (H, N, d)."""
        if self._block is not None:
            parts = np.ascontiguousarray(v), np.ascontiguousarray(mean_bar)
            return np.asarray(means_by_draw_reverse(self._block, self.draws, *parts))
        one = self.surrogate.scores(v[0, :1]).covariance.shape[1:]
        out = np.empty_like(v)
        for i in range(v.shape[1]):
            nothing = np.zeros((len(v), *one))
            out[:, i : i + 1] = self._each_reverse(v[:, i : i + 1], mean_bar[:, i : i + 1], nothing)
        return out

    def _each_reverse(self, v: Array, mean_bar: Array, covariance_bar: Array) -> Array:
        count = len(self.surrogate.scores(v[0, :1]).log_weights)
        out = np.empty_like(v)
        for h, draw in enumerate(self.draws):
            mean, covariance = np.zeros((count, *mean_bar.shape[1:])), np.zeros((count, *covariance_bar.shape[1:]))
            mean[draw], covariance[draw] = mean_bar[h], covariance_bar[h]
            out[h] = self.surrogate.scores_reverse(v[h], mean, covariance)
        return out


@compiled
def scores_by_draw(block: Array, draws: Ints, v: Array) -> tuple[Array, Array]:
    """Return mean (H, S, k, q) and covariance (H, S, q, k, k) at inputs v (H, S, k, d)."""
    q, n, b = int(block[1]), int(block[2]), int(block[4])
    count, s, k, _ = v.shape
    mean, covariance = np.empty((count, s, k, q)), np.empty((count, s, q, k, k))
    kg, t, trend, column = np.empty((k, n)), np.empty((k, n)), np.empty((k, b)), np.empty(k)
    for h in range(count):
        for i in range(s):
            for j in range(q):
                forward(block, draws[h], j, v[h, i], column, covariance[h, i, j], kg, t, trend)
                mean[h, i, :, j] = column
    return mean, covariance


@compiled
def means_by_draw(block: Array, draws: Ints, v: Array) -> Array:
    """Return the mean (H, N, q) at inputs v (H, N, d)."""
    q, n = int(block[1]), int(block[2])
    count, points, _ = v.shape
    mean, kg, column, nothing = np.empty((count, points, q)), np.empty((points, n)), np.empty(points), np.empty((0, 0))
    for h in range(count):
        for j in range(q):
            forward(block, draws[h], j, v[h], column, nothing, kg, nothing, nothing)
            mean[h, :, j] = column
    return mean


@compiled
def joint_by_draw_reverse(block: Array, draws: Ints, v: Array, mean_bar: Array, covariance_bar: Array) -> Array:
    """Return the derivative (H, k, d) of sum(mean * mean_bar) + sum(covariance * covariance_bar) by v (H, k, d)."""
    q, n, b = int(block[1]), int(block[2]), int(block[4])
    count, k, _ = v.shape
    out = np.zeros(v.shape)
    kg, t, trend = np.empty((k, n)), np.empty((k, n)), np.empty((k, b))
    column, joint = np.empty(k), np.empty((k, k))
    for h in range(count):
        for j in range(q):
            forward(block, draws[h], j, v[h], column, joint, kg, t, trend)
            symmetric = 0.5 * (covariance_bar[h, j] + covariance_bar[h, j].T)
            reverse(block, draws[h], j, v[h], kg, t, trend, mean_bar[h, :, j].copy(), symmetric, out[h])
    return out


@compiled
def means_by_draw_reverse(block: Array, draws: Ints, v: Array, mean_bar: Array) -> Array:
    """Return the derivative (H, N, d) of sum(mean * mean_bar) by v (H, N, d)."""
    q, n = int(block[1]), int(block[2])
    count, points, _ = v.shape
    out = np.zeros(v.shape)
    kg, column, nothing = np.empty((1, n)), np.empty(1), np.empty((0, 0))
    for h in range(count):
        for i in range(points):
            for j in range(q):
                forward(block, draws[h], j, v[h, i : i + 1], column, nothing, kg, nothing, nothing)
                bar = mean_bar[h, i, j : j + 1].copy()
                reverse(block, draws[h], j, v[h, i : i + 1], kg, nothing, nothing, bar, nothing, out[h, i : i + 1])
    return out
