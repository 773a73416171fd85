"""Draws of the whole surrogate at many inputs, one function for all inputs of a draw.

The error of a surrogate is one random function. What follows for a mean or a probability over thousands of inputs
depends on how the errors at these inputs go together: drawn independently they would cancel, and the surrogate's part
of the uncertainty would seem to vanish. Draws of a Gaussian process are exact jointly at the runs and at some of the
inputs, all when there are few; elsewhere they are the mean given those, plus what is left of the variance, independent
between inputs (`uqms.surrogates.function_draws`). The cost grows linearly with the number of inputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from uqms._typing import Array
from uqms.surrogates import Decoder, GaussianProcessSurrogate, InputDecoder, Surrogate
from uqms.surrogates.function_draws import Paths, paths
from uqms.surrogates.prediction import decoded_scores, rows_of_draws

__all__ = ["JointDraws", "joint_draws", "outputs_at"]

ANCHORS = 384
BLOCK = 512  # inputs that are evaluated at once


@final
@dataclass(frozen=True, eq=False)
class JointDraws:
    """Draws of a Gaussian-process surrogate's scores at many inputs."""

    paths: Paths
    anchors: Array  # (a, d)
    keys: tuple[int, ...]  # of the standard normals of what is left, one per score

    def __call__(self, u: Array) -> Array:
        """Return scores (F, k, q) at inputs `u` (k, d); the same inputs give the same numbers again, up to rounding."""
        return self.paths.with_rest(u, self.keys)


@final
@dataclass(frozen=True, eq=False)
class _InBlocks:
    """A surrogate's own draws of the whole function, some inputs at a time: a call costs the cube of them."""

    functions: Any

    @property
    def hyperparameters(self) -> Any:
        """Which hyperparameter draw each has, None where the draws do not say it."""
        return getattr(self.functions, "hyperparameters", None)

    def __call__(self, u: Array) -> Array:
        return np.concatenate(
            [np.asarray(self.functions(u[start : start + BLOCK])) for start in range(0, len(u), BLOCK)], axis=1
        )


def joint_draws(surrogate: Surrogate, n: int, u: Array, rng: np.random.Generator) -> Any:
    """Return n draws of the whole function, made for being evaluated at the inputs `u` (k, d): u (k, d) -> (n, k, q).

    Hyperparameter draws are taken in proportion to their weights.
    """
    if not isinstance(surrogate, GaussianProcessSurrogate):
        return _InBlocks(surrogate.functions(n, rng))
    unique = np.unique(np.asarray(u, dtype=np.float64), axis=0)
    if len(unique) > ANCHORS:
        unique = unique[np.sort(rng.choice(len(unique), ANCHORS, replace=False))]
    keys = tuple(int(key) for key in rng.integers(2**63, size=surrogate.process.q))
    return JointDraws(paths(surrogate, unique, n, rng), unique, keys)


def outputs_at(
    surrogate: Surrogate,
    functions: Any,
    u: Array,
    points: Mapping[str, Mapping[str, Array] | None],
    rng: np.random.Generator,
) -> dict[str, Array]:
    """Return outputs (F, k, m) in their own units at inputs (k, d), from function draws and what the scores leave out.

    `points` has the coordinates of each output, pointwise; None: those that were simulated. What the scores leave out
    is shared by all coordinates of an input and by all outputs.
    """
    omega: Array | None = None
    out, scores = {}, functions(u)
    for name, coords in points.items():
        decoder = surrogate.decode(name, coords)
        rows = rows_of_draws(decoder.at(u), functions) if isinstance(decoder, InputDecoder) else decoder
        if omega is None:
            omega = rng.standard_normal((*scores.shape[:2], rows.truncation.shape[-1]))
        left = decoded_scores(Decoder(np.zeros(1), rows.truncation, rows.truncation), omega)
        values = decoded_scores(rows, scores) + left
        out[name] = np.asarray(surrogate.layouts[name].transform.inverse(values))
    return out
