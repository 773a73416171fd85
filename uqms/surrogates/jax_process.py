"""Prediction with a kernel that is a JAX function: mean and covariance of all scores in one compiled function.

It is the algebra of `process.score_at`, with its letters, for all hyperparameter draws and scores at once; the reverse
derivative by the inputs is JAX's. A test holds it to `score_at` and to `score_reverse`.
"""

from functools import cache
from typing import Any, NamedTuple, final

import numpy as np

from uqms._typing import Array
from uqms.surrogates.jax_kernel import JaxKernel, compiled_of, padded
from uqms.surrogates.process import ScoreProcess, Scores, scores_at

__all__ = ["JaxScores"]

LARGEST = 2**22  # correlations with the runs at once, of all draws and scores
ARRAYS = "ell variance beta target inverse_factor trend_factor trend_root".split()


class _Functions(NamedTuple):
    scores: Any
    reverse: Any


@cache
def _functions(kernel: JaxKernel) -> _Functions:
    compiled = compiled_of(kernel)
    jax, between = compiled.double.jax, compiled.between
    jnp = jax.numpy

    def one(u: Any, x: Any, p: Any) -> tuple[Any, Any]:
        extended = jnp.concatenate([jnp.ones((len(u), 1)), u], axis=1)
        first, second = (index[: len(p["beta"])] for index in np.triu_indices(u.shape[1] + 1))
        trend = extended[:, first] * extended[:, second]
        w = p["variance"] * between(u, x, p["ell"]) @ p["inverse_factor"].T
        v = (trend - w @ p["trend_factor"]) @ p["trend_root"].T
        covariance = p["variance"] * between(u, u, p["ell"]) - w @ w.T + v @ v.T
        return trend @ p["beta"] + w @ p["target"], covariance

    def scores(u: Any, x: Any, arrays: Any) -> tuple[Any, Any]:
        mean, covariance = jax.vmap(jax.vmap(one, (None, None, 0)), (None, None, 0))(u, x, arrays)
        return jnp.swapaxes(mean, 1, 2), covariance

    def weighted(u: Any, x: Any, arrays: Any, bars: Any) -> Any:
        return sum(jnp.vdot(value, bar) for value, bar in zip(scores(u, x, arrays), bars, strict=True))

    return _Functions(jax.jit(jax.vmap(scores, (0, None, None), 1)), jax.jit(jax.grad(weighted)))


@final
class JaxScores:
    """A process with a `JaxKernel`, whose arrays JAX has."""

    def __init__(self, process: ScoreProcess) -> None:
        assert isinstance(process.kernel, JaxKernel)  # noqa: S101
        self.process, self._double = process, compiled_of(process.kernel).checked(process.x.shape[1]).double
        self._functions = _functions(process.kernel)
        with self._double.running():
            arrays = {name: getattr(process, name) for name in ARRAYS}
            self._x, self._arrays = self._double.jax.device_put((process.x, arrays))

    def __reduce__(self) -> tuple[Any, ...]:
        return JaxScores, (self.process,)

    def scores(self, u: Array) -> Scores:
        """Return mean (H, ..., k, q) and covariance (H, ..., q, k, k) at inputs `u` (..., k, d)."""
        process, (*batch, k, d) = self.process, u.shape
        members = u.reshape(-1, k, d)
        if len(members) * k * len(process.x) * process.draws * process.q > LARGEST:
            return scores_at(process, u)
        rows = padded(padded(members).swapaxes(0, 1)).swapaxes(0, 1)
        with self._double.running():
            mean, covariance = (np.array(one) for one in self._functions.scores(rows, self._x, self._arrays))
        mean, covariance = mean[:, : len(members), :k], covariance[:, : len(members), :, :k, :k]
        index = np.arange(k)
        covariance[..., index, index] = np.maximum(covariance[..., index, index], 0.0)
        h, q = process.draws, process.q
        return Scores(mean.reshape(h, *batch, k, q), covariance.reshape(h, *batch, q, k, k), process.log_weights)

    def reverse(self, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
        """Return the derivative (k, d) of sum(mean * mean_bar) + sum(covariance * covariance_bar) at `u` (k, d)."""
        rows, k = padded(u), len(u)
        (h, _, q), size = mean_bar.shape, len(rows)
        bars = np.zeros((h, size, q)), np.zeros((h, q, size, size))
        bars[0][:, :k], bars[1][..., :k, :k] = mean_bar, covariance_bar
        with self._double.running():
            return np.array(self._functions.reverse(rows, self._x, self._arrays, bars))[:k]
