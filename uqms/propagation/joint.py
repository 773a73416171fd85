"""Draws of the whole surrogate at many inputs, one function for all inputs of a draw.

==========  ============================================================================  ===========
symbol      meaning                                                                       shape
==========  ============================================================================  ===========
u           inputs in the unit cube                                                       (k, d)
A           anchors: some of the inputs, or all when there are few                        (a, d)
L           factor of the prior correlation of runs and anchors together                  (n+a, n+a)
W           L^-1 kappa(runs and anchors, u), so that f = mean + s W_A z + v' xi + rest    (k, n+a)
z, xi       standard normals of the anchors and of the trend, one set a draw              (F, a)
==========  ============================================================================  ===========

The error of a surrogate is one random function. What follows for a mean or a probability over thousands of inputs
depends on how the errors at these inputs go together: drawn independently they would cancel, and the surrogate's share
of the uncertainty would seem to vanish. Draws are exact jointly at runs and anchors; elsewhere they are the conditional
mean given those, plus what is left of the variance, independent between inputs. That understates the variance of an
average by less than 1 / a of the variance at a single input. The cost grows linearly with the number of inputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from scipy.linalg import solve_triangular
from scipy.linalg.blas import dtrmm

from uqms._typing import Array, Ints
from uqms.surrogates import GaussianProcessSurrogate, Surrogate
from uqms.surrogates.kernels import correlation
from uqms.surrogates.process import ScoreProcess, normals_at
from uqms.surrogates.training import JITTER_FIRST, factorise, trend_basis

__all__ = ["JointDraws", "joint_draws", "outputs_at"]

ANCHORS = 384
BLOCK = 512  # inputs that are evaluated at once
NUMBERS = 2**21  # of a block of weights


@final
@dataclass(frozen=True, eq=False)
class JointDraws:
    """Draws of a Gaussian-process surrogate's scores at many inputs; see the table at the top of this file."""

    process: ScoreProcess
    anchors: Array  # (a, d)
    hyperparameters: Ints  # (F,)
    z: Array  # (F, q, a)
    xi: Array  # (F, q, b)
    keys: tuple[int, ...]  # of the standard normals of what is left, one a score

    def __call__(self, u: Array) -> Array:
        """Return scores (F, k, q) at inputs `u` (k, d); the same inputs give the same numbers again, up to rounding."""
        u = np.ascontiguousarray(u, dtype=np.float64)
        out = np.empty((len(self.z), len(u), self.process.q))
        for j in range(self.process.q):
            own = normals_at(u, len(self.z), self.keys[j])
            for h in np.unique(self.hyperparameters):
                rows = np.flatnonzero(self.hyperparameters == h)
                out[rows, :, j] = self._score(int(h), j, u, rows, own[rows])
        return out

    def _score(self, h: int, j: int, u: Array, rows: Ints, own: Array) -> Array:
        one = self.process
        known = one.known(j)
        n, s2, ell = int(known.sum()), one.variance[h, j], one.ell[h, j]
        points = np.vstack([one.x[known], self.anchors])
        kappa = correlation(one.kernel, points, points, ell)
        index = np.arange(n)
        kappa[index, index] += one.nugget[h, j] + one.noise[j, known] / s2 + one.jitter[h, j] - JITTER_FIRST
        lower, _ = factorise(kappa, 0.0)
        inverse = np.asfortranarray(solve_triangular(lower, np.eye(len(points)), lower=True, check_finite=False))
        target, slopes = one.target[h, j][known], one.trend_factor[h, j][known]
        out = np.empty((len(rows), len(u)))
        size = max(16, NUMBERS // len(points))
        for start in range(0, len(u), size):
            at = slice(start, start + size)
            block = u[at]
            w = dtrmm(1.0, inverse, correlation(one.kernel, block, points, ell).T, side=0, lower=1).T
            to_runs, to_anchors = np.sqrt(s2) * w[:, :n], np.sqrt(s2) * w[:, n:]
            trend = trend_basis(block, one.beta.shape[2])
            v = (trend - to_runs @ slopes) @ one.trend_root[h, j].T
            left = np.maximum(s2 - np.sum(to_runs**2, axis=1), 0.0)
            held = np.sum(to_anchors**2, axis=1)
            # At an anchor the factor's jitter stands in for what runs leave of the variance where that is as small.
            to_anchors *= np.sqrt(np.minimum(1.0, left / np.maximum(held, 1e-300)))[:, None]
            rest = np.sqrt(np.maximum(left - held, 0.0))
            mean = trend @ one.beta[h, j] + to_runs @ target
            out[:, at] = mean + self.z[rows, j] @ to_anchors.T + self.xi[rows, j] @ v.T + rest * own[:, at]
        return out


@final
@dataclass(frozen=True, eq=False)
class _InBlocks:
    """A surrogate's own draws of the whole function, some inputs at a time: a call costs the cube of them."""

    functions: Any

    def __call__(self, u: Array) -> Array:
        return np.concatenate(
            [np.asarray(self.functions(u[start : start + BLOCK])) for start in range(0, len(u), BLOCK)], axis=1
        )


def joint_draws(surrogate: Surrogate, n: int, u: Array, rng: np.random.Generator) -> Any:
    """Return n draws of the whole function, made for being evaluated at the inputs `u` (k, d): u (k, d) -> (n, k, q).

    Hyperparameter draws are taken in proportion to their weights.
    """
    if not isinstance(surrogate, GaussianProcessSurrogate) or surrogate.physics is not None:
        return _InBlocks(surrogate.functions(n, rng))
    process = surrogate.process
    unique = np.unique(np.asarray(u, dtype=np.float64), axis=0)
    if len(unique) > ANCHORS:
        unique = unique[np.sort(rng.choice(len(unique), ANCHORS, replace=False))]
    weights = np.exp(process.log_weights - np.logaddexp.reduce(process.log_weights))
    levels = (np.arange(n) + rng.random()) / n
    h = rng.permutation(np.minimum(np.searchsorted(np.cumsum(weights), levels), process.draws - 1))
    z = rng.standard_normal((n, process.q, len(unique)))
    xi = rng.standard_normal((n, process.q, process.beta.shape[2]))
    keys = tuple(int(key) for key in rng.integers(2**63, size=process.q))
    return JointDraws(process, unique, h, z, xi, keys)


def outputs_at(
    surrogate: Surrogate, scores: Array, points: Mapping[str, Mapping[str, Array] | None], rng: np.random.Generator
) -> dict[str, Array]:
    """Return outputs (F, k, m) in their own units, from scores (F, k, q) and what these leave out.

    `points` has the coordinates of each output, pointwise; None: those that were simulated. What the scores leave out
    is shared by all coordinates of an input and by all outputs.
    """
    omega: Array | None = None
    out = {}
    for name, coords in points.items():
        decoder = surrogate.decode(name, coords)
        if omega is None:
            omega = rng.standard_normal((*scores.shape[:2], decoder.truncation.shape[1]))
        values = decoder.offset + scores @ decoder.basis.T + omega @ decoder.truncation.T
        out[name] = np.asarray(surrogate.layouts[name].transform.inverse(values))
    return out
