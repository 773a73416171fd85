"""A surrogate that uses all that the protocol allows, with closed forms: what it says can be computed by hand.

==========  ==================================================================================  ============
symbol      meaning                                                                             shape
==========  ==================================================================================  ============
f(u)        features of the inputs: 1, the inputs, one cosine                                   (p,)
w           weights, joint normal: score j is f(u) w_j                                          (p, q)
C           covariance of the weights, that of score i and j is C[:, i, :, j]                   (p, q, p, q)
==========  ==================================================================================  ============

The output "curve" has an offset, a basis and a truncation that depend on the input, "level" has the same everywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

import numpy as np
from numpy.typing import ArrayLike

from uqms._typing import Array, Ints, RandomState, as_generator
from uqms.errors import InputError
from uqms.parameters import Box
from uqms.surrogates import Decoder, FunctionDraws, InputDecoder, Layout, Scores

__all__ = ["ToySurrogate"]

SCORES, LATENTS = 2, 2


@final
@dataclass(frozen=True, eq=False)
class ToySurrogate:
    """A linear model of two correlated scores, with an output whose rows depend on the input.

    Use it to see what `Scores` and `InputDecoder` look like, and to test what takes surrogates: every promise of the
    protocol is kept exactly.

    Parameters
    ----------
    domain
        The design box.
    times
        Coordinates of "curve" along "time", (m,).
    correlated
        Whether the errors of the two scores are correlated; otherwise the covariance has one block per score.
    by_input
        Whether offset, basis and truncation of "curve" depend on the input; otherwise they are those at the centre.
    draws
        Number of hyperparameter draws H; each has a mean, and rows, of its own.
    sd
        Of the scores' errors, about.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> box = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0)).box()
    >>> toy = uq.testing.ToySurrogate(box)
    >>> toy.scores(np.array([[0.2], [0.7]])).covariance.shape
    (1, 2, 2, 2, 2)
    >>> toy.decode("curve").at(np.array([[0.2], [0.7]])).basis.shape
    (1, 2, 5, 2)
    """

    domain: Box
    times: Array = field(default_factory=lambda: np.linspace(0.0, 1.0, 5))
    correlated: bool = True
    by_input: bool = True
    draws: int = 1
    sd: float = 0.3

    @property
    def layouts(self) -> Mapping[str, Layout]:
        """A curve along "time" and a number."""
        return {"curve": Layout(("time",), {"time": self.times}), "level": Layout()}

    @cached_property
    def log_weights(self) -> Array:
        """Shape (H,)."""
        weights = 1.0 + np.arange(self.draws)
        return np.asarray(np.log(weights / weights.sum()))

    @cached_property
    def mean_weights(self) -> Array:
        """Means of w, shape (H, p, q)."""
        d = self.domain.d
        base = np.column_stack([[0.3, *np.linspace(1.0, 0.5, d), 0.4], [-0.2, *np.linspace(0.4, 1.2, d), -0.3]])
        return np.asarray(base + 0.1 * np.arange(self.draws)[:, None, None])

    @cached_property
    def weight_root(self) -> Array:
        """Root of C, input-major: covariance of w flattened (p q,) is root root', shape (p q, p q)."""
        p = self.domain.d + 2
        between = np.array([[1.0, 0.0], [0.8, 0.6]]) if self.correlated else np.eye(SCORES)
        features = np.eye(p) + 0.2 * np.tri(p, k=-1)
        return np.asarray(self.sd * np.kron(features, between))

    def features(self, u: Array) -> tuple[Array, Array]:
        """Return f (..., k, p) and its derivative (..., k, p, d)."""
        one, eye = np.ones((*u.shape[:-1], 1)), np.eye(u.shape[-1])
        angle = 3.0 * u.sum(axis=-1, keepdims=True)
        linear = np.broadcast_to(eye, (*u.shape, u.shape[-1]))
        slope = [0.0 * linear[..., :1, :], linear, -3.0 * np.sin(angle)[..., None] * np.ones(u.shape[-1])]
        return np.concatenate([one, u, np.cos(angle)], -1), np.concatenate(slope, -2)

    def scores(self, u: Array) -> Scores:
        """Return mean (H, ..., k, q) and covariance (H, ..., k, q, k, q), or (H, ..., q, k, k)."""
        f, _ = self.features(u)
        p, (*lead, k, _) = f.shape[-1], u.shape
        mean = np.stack([f @ w for w in self.mean_weights])
        root = self.weight_root.reshape(p, SCORES, -1)
        left = np.einsum("...kp,pqr->...kqr", f, root).reshape(*lead, k * SCORES, -1)
        joint = (left @ left.swapaxes(-1, -2)).reshape(*lead, k, SCORES, k, SCORES)
        covariance = np.broadcast_to(joint, (self.draws, *joint.shape))
        scores = Scores(mean, np.array(covariance), self.log_weights)
        return scores if self.correlated else scores._replace(covariance=scores.by_score.copy())

    def scores_reverse(self, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
        """Return the derivative (k, d) of sum(mean * mean_bar) + sum(covariance * covariance_bar)."""
        f, slope = self.features(u)
        k, p = f.shape
        bar = np.zeros((k, SCORES, k, SCORES))
        if self.correlated:
            bar += covariance_bar.sum(axis=0)
        else:
            for j in range(SCORES):
                bar[:, j, :, j] = covariance_bar[:, j].sum(axis=0)
        C = (self.weight_root @ self.weight_root.T).reshape(p, SCORES, p, SCORES)
        f_bar = np.einsum("hkq,hpq->kp", mean_bar, self.mean_weights)
        f_bar += np.einsum("kilj,piqj,lq->kp", bar + bar.transpose(2, 3, 0, 1), C, f, optimize=True)
        return np.asarray(np.einsum("kp,kpd->kd", f_bar, slope))

    def decode(self, output: str, coords: Mapping[str, ArrayLike] | None = None) -> Decoder | InputDecoder:
        """Return the rows of an output.

        Raises
        ------
        InputError
            When there is no such output.
        """
        if output == "level":
            return Decoder(np.array([0.5]), np.array([[1.0, 0.5]]), np.array([[0.1, 0.0]]))
        if output != "curve":
            raise InputError(f"The toy has no output {output!r}; it has ['curve', 'level'].")
        times = self.times if coords is None else np.asarray(coords["time"], dtype=np.float64)
        rows = CurveRows(times.reshape(-1), self.draws)
        if self.by_input:
            return rows
        return Decoder(*(part[0, 0] for part in CurveRows(rows.times, 1).at(np.full((1, self.domain.d), 0.5))))

    def functions(self, n: int, rng: RandomState) -> FunctionDraws:
        """Return n draws of the whole function."""
        generator = as_generator(rng)
        h = generator.choice(self.draws, size=n, p=np.exp(self.log_weights))
        p = self.domain.d + 2
        w = self.mean_weights[h] + (generator.standard_normal((n, p * SCORES)) @ self.weight_root.T).reshape(n, p, -1)
        return ToyDraws(self, w, h)


@final
@dataclass(frozen=True, eq=False)
class ToyDraws:
    """Draws of the scores; `hyperparameters` (n,) says whose rows they have."""

    toy: ToySurrogate
    weights: Array  # (n, p, q)
    hyperparameters: Ints

    def __call__(self, u: Array) -> Array:
        """Return the scores (n, k, q)."""
        return np.asarray(self.toy.features(np.asarray(u))[0] @ self.weights)


@final
@dataclass(frozen=True, eq=False)
class CurveRows:
    """Rows at times (N,) that depend on s = mean(u): see `at`."""

    times: Array
    draws: int

    def at(self, u: Array) -> Decoder:
        """Return offset sin(2 s + t), basis [1 + s t, (1 - s) cos(2 t)], truncation [0.1 + 0.2 s t, 0.05 s]."""
        s, t = u.mean(axis=-1)[..., None], self.times
        first = np.sin(2.0 * s + t)
        offset = np.stack([first + 0.1 * h for h in range(self.draws)])
        basis = np.stack([1.0 + s * t, (1.0 - s) * np.cos(2.0 * t)], axis=-1)
        truncation = np.stack([0.1 + 0.2 * s * t, 0.05 * s + 0.0 * t], axis=-1)
        return Decoder(offset, *(np.broadcast_to(one, (self.draws, *one.shape)) for one in (basis, truncation)))

    def reverse(self, u: Array, bar: Decoder) -> Array:
        """Return the derivative (k, d) of the rows at `u` (k, d)."""
        s, t = u.mean(axis=-1)[:, None], self.times
        offset, basis, truncation = (one.sum(axis=0) for one in bar)
        s_bar = offset * 2.0 * np.cos(2.0 * s + t) + basis[..., 0] * t - basis[..., 1] * np.cos(2.0 * t)
        s_bar += truncation[..., 0] * 0.2 * t + truncation[..., 1] * 0.05
        return np.repeat(s_bar.sum(axis=1, keepdims=True) / u.shape[1], u.shape[1], axis=1)
