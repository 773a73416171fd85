"""What a surrogate of your own may leave to uqms: derivative, function draws and prediction, from `scores` alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import pandas as pd
import xarray as xr

from uqms import _checks as check
from uqms._typing import Array, Ints, RandomState, as_generator
from uqms.errors import ConformanceError, InputError
from uqms.surrogates.prediction import Prediction, predicted_at
from uqms.surrogates.process import Scores, normals_at, sobol_points
from uqms.surrogates.protocol import Surrogate

__all__ = ["ScoreDraws", "draws_from_scores", "predict_from_scores", "reverse_by_differences"]

STEP = 1e-4  # of the unit cube
SMALLEST = 1e-10  # share of the largest eigenvalue


def reverse_by_differences(
    scores: Callable[[Array], Scores], u: Array, mean_bar: Array, covariance_bar: Array
) -> Array:
    """Return `scores_reverse` of a surrogate by central differences of its `scores`.

    Use it when the library behind your surrogate gives no derivatives: one batched call with 2 k d members, accurate to
    about 1e-6. NUTS takes many: with more than a few inputs an exact derivative is worth its lines.

    Parameters
    ----------
    scores
        The surrogate's method.
    u
        Inputs in the unit cube, (k, d).
    mean_bar, covariance_bar
        Weights (H, k, q), and (H, q, k, k) or (H, k, q, k, q); where a weight is zero, a covariance that is not known
        does not matter.

    Returns
    -------
    numpy.ndarray
        Derivative (k, d) of sum(mean * mean_bar) + sum(covariance * covariance_bar).

    Examples
    --------
    >>> import numpy as np
    >>> line = lambda u: Scores(3.0 * u[None], np.zeros((1, *u.shape[:-2], 1, 1, 1)), np.zeros(1))
    >>> reverse_by_differences(line, np.array([[0.2]]), np.ones((1, 1, 1)), np.zeros((1, 1, 1, 1)))
    array([[3.]])
    """
    k, d = u.shape
    shift = STEP * np.eye(k * d).reshape(k * d, k, d)
    found = scores(np.concatenate([u + shift, u - shift]))
    covariance = np.where(covariance_bar[:, None] == 0.0, 0.0, found.covariance)
    value = np.einsum("hskq,hkq->s", found.mean, mean_bar)
    value += (covariance * covariance_bar[:, None]).reshape(len(covariance), 2 * k * d, -1).sum(axis=(0, 2))
    return np.asarray((value[: k * d] - value[k * d :]).reshape(k, d) / (2.0 * STEP))


def draws_from_scores(surrogate: Surrogate, n: int, rng: RandomState, anchors: int = 256) -> "ScoreDraws":
    """Return n draws of the whole function of a surrogate from its `scores`, as its `functions` should.

    Use it when the library behind your surrogate has joint covariances but no draws that can be evaluated anywhere.
    The draws are joint at `anchors` Sobol points of the box and at all inputs of a call. Between calls they agree as
    far as the anchors determine the function: put everything that belongs together into one call.

    Parameters
    ----------
    surrogate
        Anything with `domain` and `scores`.
    n
        Number of draws.
    rng
        Whole number or generator.
    anchors
        Number of Sobol points; a call costs the cube of it.

    Raises
    ------
    InputError
        When n or anchors is not positive.
    ConformanceError
        When the surrogate knows no covariance between inputs.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 8, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": np.sin(design["k"].values)})
    >>> draws = draws_from_scores(uq.GaussianProcess().fit(runs), 5, rng=1)
    >>> draws(np.array([[0.2], [0.7]])).shape
    (5, 2, 1)
    """
    if not check.is_whole(n, 1) or not check.is_whole(anchors, 1):
        raise InputError(f"draws_from_scores: n is {n!r} and anchors is {anchors!r}; give whole numbers from 1.")
    generator = as_generator(rng)
    points = sobol_points(anchors, surrogate.domain.d)
    scores = surrogate.scores(points)
    _check_known(surrogate, scores)
    log_weights = scores.log_weights
    h = generator.choice(len(log_weights), size=n, p=np.exp(log_weights - np.logaddexp.reduce(log_weights)))
    covariance = scores.joint[:, None] if scores.correlated else scores.covariance
    return ScoreDraws(surrogate, points, _inverse_root(covariance), h, int(generator.integers(2**63)))


@final
@dataclass(frozen=True, eq=False)
class ScoreDraws:
    """Draws of the whole function; calling evaluates every draw at inputs `u` (k, d) to (draws, k, q)."""

    surrogate: Surrogate
    anchors: Array  # (a, d)
    inverse_root: (
        Array  # (H, q, a, a), or (H, 1, a q, a q): its square is the pseudo-inverse of the anchors' covariance
    )
    hyperparameters: Ints  # (draws,)
    seed: int  # of the standard normals of the anchors and of the points of a call

    def __call__(self, u: Array) -> Array:
        """Return the scores (draws, k, q); the same call gives the same numbers."""
        u, place = np.unique(np.asarray(u, dtype=np.float64), axis=0, return_inverse=True)
        scores = self.surrogate.scores(np.vstack([self.anchors, u]))
        mean, n, a = scores.mean, len(self.hyperparameters), len(self.anchors)
        k, q = len(u), mean.shape[-1]
        # Scores that are correlated with each other are drawn together, as one of q times as many inputs.
        covariance, width = (scores.joint[:, None], q) if scores.correlated else (scores.covariance, 1)
        a, out = a * width, np.empty((n, k, q))
        for h in np.unique(self.hyperparameters):
            rows = self.hyperparameters == h
            for j in range(covariance.shape[1]):
                at_anchors = covariance[h, j, a:, :a] @ self.inverse_root[h, j]  # (k, a)
                rest = _root(covariance[h, j, a:, a:] - at_anchors @ at_anchors.T)
                generator = np.random.default_rng([self.seed, j])
                z = generator.standard_normal((n, a))[rows]
                keys = [int(generator.integers(2**63)) for _ in range(width)]
                own = np.stack([normals_at(u, n, key)[rows] for key in keys], axis=-1).reshape(len(z), -1)
                error = (z @ at_anchors.T + own @ rest.T).reshape(len(z), k, width)
                columns = slice(None) if width > 1 else slice(j, j + 1)
                out[rows, :, columns] = mean[h, len(self.anchors) :, columns] + error
        return out[:, place.reshape(-1)]


def predict_from_scores(surrogate: Surrogate, points: Mapping[str, object] | xr.Dataset | pd.DataFrame) -> Prediction:
    """Return the prediction of a surrogate at points from its `scores`, as a `predict` of its own may.

    Use it to look at a surrogate of your own as at a fitted one: means, intervals and draws of its outputs, in their
    own units.

    Parameters
    ----------
    surrogate
        Anything that follows `uqms.Surrogate`.
    points
        Values of every input in its own unit, numbers or arrays of one length.

    Raises
    ------
    InputError
        When an input is missing or unknown, or lengths differ.

    Warns
    -----
    ExtrapolationWarning
        When a point lies outside of the design box.

    Examples
    --------
    >>> import uqms as uq
    >>> toy = uq.testing.ToySurrogate(uq.ParameterSpace(a=uq.Uniform(0.0, 1.0)).box())
    >>> predict_from_scores(toy, {"a": [0.2, 0.7]}).mean["curve"].dims
    ('point', 'time')
    """

    def marginal(u: Array) -> Scores:
        found = surrogate.scores(u[:, None])
        mean, covariance = found.mean[:, :, 0], found.covariance
        own = covariance[:, :, 0, :, 0] if found.correlated else np.swapaxes(covariance[..., 0, 0], 1, 2)
        return Scores(mean, own, found.log_weights)

    return predicted_at(surrogate, points, marginal)


def _check_known(surrogate: Surrogate, scores: Scores) -> None:
    if np.isnan(scores.covariance).any():
        raise ConformanceError(
            f"The {type(surrogate).__name__} does not know the covariance of its errors between inputs (NaN), so that "
            "there are no draws of its whole function."
        )


def _inverse_root(covariance: Array) -> Array:
    """Return V lambda^-1/2 of covariances (..., a, a), without the eigenvalues that are rounding."""
    values, vectors = np.linalg.eigh(covariance)
    rounding = np.maximum(SMALLEST * values[..., -1:], -10.0 * values[..., :1])
    real = values > rounding
    return np.asarray(vectors * np.where(real, np.where(real, values, 1.0) ** -0.5, 0.0)[..., None, :])


def _root(covariance: Array) -> Array:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))
