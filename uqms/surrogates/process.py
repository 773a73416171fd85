"""Gaussian processes of several scores, conditioned on runs, as frozen arrays.

==========  =============================================================  ===============
symbol      meaning                                                        shape
==========  =============================================================  ===============
h           hyperparameter draw (leading axis), with log weight            (H,)
x, u        training inputs, new inputs; unit cube of the design box       (n, d), (k, d)
L           Cholesky factor of kappa(x, x) + (nugget + jitter) I, times s  (n, n)
beta        trend coefficients of the trend functions t(u)                 (b,)
target      L^-1 (y - F beta), so that mean = t(u)' beta + w' target       (n,)
G           L^-1 F                                                         (n, b)
R           R' R = (F' K^-1 F)^-1, zero when the trend is not estimated    (b, b)
w           L^-1 k(x, u)                                                   (n, k)
v           R (t(u) - G' w), so that cov = k(u, u) - w' w + v' v           (b, k)
==========  =============================================================  ===============

The variance is that of the latent function: it holds the uncertainty from few runs and of the estimated trend, not that
of the hyperparameters (unless there are several draws h), nor the nugget (noise of a stochastic simulator).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular

from uqms._typing import Array, Ints
from uqms.surrogates.kernels import KINDS, Kernel, correlation
from uqms.surrogates.training import JITTER_FIRST, Hyperparameters, factorise, trend_basis

__all__ = ["ScoreProcess", "Scores", "average", "condition", "draw_at", "root_at", "scores_at"]


class Scores(NamedTuple):
    """Mean and covariance between inputs of every score, for each hyperparameter draw.

    Attributes
    ----------
    mean
        Shape (H, ..., k, q).
    covariance
        Shape (H, ..., q, k, k): entry [h, ..., j, a, b] is the covariance of score j between inputs a and b.
    log_weights
        Log weights of the hyperparameter draws, shape (H,).
    """

    mean: Array
    covariance: Array
    log_weights: Array


@final
@dataclass(frozen=True, eq=False)
class ScoreProcess:
    """Conditioned processes of q scores as plain arrays; see the table at the top of this file for the letters."""

    kernel: Kernel
    x: Array  # (n, d)
    y: Array  # (n, q)
    ell: Array  # (H, q, d)
    variance: Array  # (H, q)
    nugget: Array  # (H, q), relative to the variance
    jitter: Array  # (H, q), relative to the variance
    beta: Array  # (H, q, b)
    target: Array  # (H, q, n); w' target keeps eight digits more than k' K^-1 y where K is nearly singular
    inverse_factor: Array  # (H, q, n, n), L^-1
    trend_factor: Array  # (H, q, n, b), G
    trend_root: Array  # (H, q, b, b), R
    log_weights: Array  # (H,)

    def __post_init__(self) -> None:
        # One memory layout, so that a process from a file predicts to the same bit: BLAS rounds by layout.
        for part in fields(self):
            if part.name != "kernel":
                value = np.ascontiguousarray(getattr(self, part.name), dtype=np.float64)
                object.__setattr__(self, part.name, value)

    @property
    def draws(self) -> int:
        """Number of hyperparameter draws H."""
        return len(self.log_weights)

    @property
    def q(self) -> int:
        """Number of scores."""
        return int(self.y.shape[1])

    def select(self, scores: Ints) -> "ScoreProcess":
        """Return the process of some scores only."""
        names = "ell variance nugget jitter beta target inverse_factor trend_factor trend_root".split()
        kept: dict[str, Any] = {name: np.ascontiguousarray(getattr(self, name)[:, scores]) for name in names}
        return replace(self, y=np.ascontiguousarray(self.y[:, scores]), **kept)

    def flat(self) -> Array:
        """Return everything that prediction needs as one block of numbers, in the order that `_fused` reads."""
        n, d = self.x.shape
        b = self.beta.shape[2]
        parts = [np.array([self.draws, self.q, n, d, b, self.kernel.code], dtype=np.float64), self.log_weights]
        parts.append(self.x.ravel())
        for h in range(self.draws):
            for j in range(self.q):
                g = self.trend_factor[h, j]
                parts += [
                    1.0 / self.ell[h, j],
                    self.variance[h, j : j + 1],
                    self.beta[h, j],
                    self.target[h, j],
                    self.inverse_factor[h, j].T @ self.target[h, j],
                    self.inverse_factor[h, j].ravel(),
                    g.ravel(),
                    (self.inverse_factor[h, j].T @ g).ravel(),
                    self.trend_root[h, j].ravel(),
                ]
        return np.concatenate(parts)


def _condition_one(
    kernel: Kernel, x: Array, y: Array, columns: int, one: Hyperparameters, variance: float | None
) -> tuple[float, float, Array, Array, Array, Array, Array]:
    n = len(x)
    lower, jitter = factorise(correlation(kernel, x, x, one.ell)[0], one.nugget)
    inverse = solve_triangular(lower, np.eye(n), lower=True, check_finite=False)
    g = inverse @ trend_basis(x, columns)
    information = g.T @ g
    target = inverse @ y
    beta = np.linalg.solve(information, g.T @ target)
    residual = target - g @ beta
    if variance is None:
        # A constant output leaves no residual; its basis is zero, so only finite numbers are needed.
        variance = (float(residual @ residual) / (n - columns) or 1.0) * one.factor
    scale = np.sqrt(variance)
    # R' R = variance * information^-1, with information = C C': R = scale C^-1.
    root = scale * np.linalg.inv(np.linalg.cholesky(information)) if columns else np.zeros((0, 0))
    return variance, jitter, beta, residual / scale, inverse / scale, g / scale, root


def condition(
    kernel: Kernel,
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "n q"],
    columns: int,
    found: Sequence[Hyperparameters],
    variance: Sequence[float] | None = None,
) -> ScoreProcess:
    """Return the processes of all scores conditioned on the runs, with their trend and variance in closed form."""
    parts = [
        _condition_one(kernel, x, y[:, j], columns, one, None if variance is None else variance[j])
        for j, one in enumerate(found)
    ]
    stacked = [np.stack([np.asarray(part[i]) for part in parts])[None] for i in range(7)]
    return ScoreProcess(
        kernel=kernel,
        x=np.ascontiguousarray(x),
        y=np.ascontiguousarray(y),
        ell=np.stack([one.ell for one in found])[None],
        variance=stacked[0],
        nugget=np.array([[one.nugget for one in found]]),
        jitter=stacked[1],
        beta=stacked[2],
        target=stacked[3],
        inverse_factor=stacked[4],
        trend_factor=stacked[5],
        trend_root=stacked[6],
        log_weights=np.zeros(1),
    )


def average(processes: Sequence[ScoreProcess]) -> ScoreProcess:
    """Return one process with the hyperparameter draws of several, equally weighted, on the same runs."""
    names = "ell variance nugget jitter beta target inverse_factor trend_factor trend_root".split()
    joined: dict[str, Any] = {name: np.concatenate([getattr(one, name) for one in processes]) for name in names}
    count = sum(one.draws for one in processes)
    return replace(processes[0], **joined, log_weights=np.full(count, -np.log(count)))


def scores_at(process: ScoreProcess, u: Float[np.ndarray, "*batch k d"], diagonal: bool = False) -> Scores:
    """Return the scores at `u`, jointly over the k inputs of each batch member, or their variances only.

    With `diagonal` the covariance has shape (H, ..., q, k): the variances, for many unrelated inputs.
    """
    *batch, k, d = u.shape
    s = int(np.prod(batch))
    rows = np.ascontiguousarray(u, dtype=np.float64).reshape(s * k, d)
    h, q = process.draws, process.q
    mean = np.empty((h, s, k, q))
    covariance = np.empty((h, s, q, k) if diagonal else (h, s, q, k, k))
    for i in range(h):
        for j in range(q):
            kappa, _ = correlation(process.kernel, rows, process.x, process.ell[i, j])
            centre, w, v = _rows(process, i, j, rows, kappa)
            mean[i, :, :, j] = centre.reshape(s, k)
            if diagonal:
                values = process.variance[i, j] - np.sum(w * w, axis=1) + np.sum(v * v, axis=1)
                covariance[i, :, j] = np.maximum(values, 0.0).reshape(s, k)
            else:
                covariance[i, :, j] = _joint(process, i, j, rows.reshape(s, k, d), w, v)
    return Scores(
        mean.reshape(h, *batch, k, q),
        covariance.reshape(h, *batch, *covariance.shape[2:]),
        process.log_weights,
    )


def draw_at(
    process: ScoreProcess,
    h: int,
    j: int,
    u: Float[np.ndarray, "k d"],
    z: Float[np.ndarray, "draws k"],
    xi: Float[np.ndarray, "draws b"],
    anchors: int = 0,
) -> Float[np.ndarray, "draws rest"]:
    """Return draws of score j at `u` after its first `anchors`, from standard normals z of the points, xi of the trend.

    The factor of the posterior covariance is the last block of the factor of the prior covariance of runs and points
    together: where runs leave almost no variance, a difference of covariances has none of its digits left. Draws at the
    first points do not depend on those that follow.
    """
    mean, v, lower = _last_block(process, h, j, u, anchors)
    return np.asarray(mean + xi @ v.T + z @ lower.T)


def root_at(process: ScoreProcess, h: int, j: int, u: Float[np.ndarray, "k d"]) -> Float[np.ndarray, "k r"]:
    """Return a root of the posterior covariance of score j between the rows of `u`, as exact as draws are."""
    _, v, lower = _last_block(process, h, j, u, 0)
    return np.hstack([lower, v])


def _last_block(process: ScoreProcess, h: int, j: int, u: Array, anchors: int) -> tuple[Array, Array, Array]:
    n, rest = len(process.x), len(process.x) + anchors
    points = np.vstack([process.x, u])
    kappa = correlation(process.kernel, points, points, process.ell[h, j])[0]
    mean, _, v = _rows(process, h, j, u[anchors:], kappa[rest:, :n])
    kappa[np.arange(n), np.arange(n)] += process.nugget[h, j] + process.jitter[h, j] - JITTER_FIRST
    lower, _ = factorise(kappa, 0.0)
    return mean, v, np.sqrt(process.variance[h, j]) * lower[rest:, n:]


def _rows(process: ScoreProcess, h: int, j: int, u: Array, kappa: Array) -> tuple[Array, Array, Array]:
    """Return the mean, w' and v' of score j at the rows of u, from their correlation with the runs."""
    trend = trend_basis(u, process.beta.shape[2])
    w = (process.variance[h, j] * kappa) @ process.inverse_factor[h, j].T
    v = (trend - w @ process.trend_factor[h, j]) @ process.trend_root[h, j].T
    return trend @ process.beta[h, j] + w @ process.target[h, j], w, v


def _joint(process: ScoreProcess, h: int, j: int, u: Array, w: Array, v: Array) -> Array:
    s, k, _ = u.shape
    scaled = u / process.ell[h, j]
    if s == 1:
        prior = correlation(process.kernel, u[0], u[0], process.ell[h, j])[0][None]
    else:
        r2 = np.sum((scaled[:, :, None, :] - scaled[:, None, :, :]) ** 2, axis=-1)
        prior = _radial(process.kernel.code, r2)
    w, v = w.reshape(s, k, -1), v.reshape(s, k, -1)
    joint = process.variance[h, j] * prior - w @ w.transpose(0, 2, 1) + v @ v.transpose(0, 2, 1)
    index = np.arange(k)
    joint[:, index, index] = np.maximum(joint[:, index, index], 0.0)
    return np.asarray(joint)


def _radial(code: int, r2: Array) -> Array:
    """Correlation of squared scaled distances of any shape."""
    flat = np.sqrt(r2).reshape(-1, 1)
    return correlation(KINDS[code], flat, np.zeros((1, 1)), np.ones(1))[0].reshape(r2.shape)
