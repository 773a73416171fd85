"""Gaussian processes of several scores, conditioned on runs, as frozen arrays.

==========  =============================================================  ===============
symbol      meaning                                                        shape
==========  =============================================================  ===============
h           hyperparameter draw (leading axis), with log weight            (H,)
x, u        training inputs, new inputs; unit cube of the design box       (n, d), (k, d)
L           Cholesky factor of s2 (kappa(x, x) + (nugget + jitter) I) + V   (n, n)
V           known variances of the runs' noise, diagonal                   (n, n)
beta        trend coefficients of the trend functions t(u)                 (b,)
target      L^-1 (y - F beta), so that mean = t(u)' beta + w' target       (n,)
G           L^-1 F                                                         (n, b)
R           R' R = (F' K^-1 F)^-1, zero when the trend is not estimated    (b, b)
w           L^-1 k(x, u)                                                   (n, k)
v           R (t(u) - G' w), so that cov = k(u, u) - w' w + v' v           (b, k)
local       coefficients of the local scale r(u), a factor of errors       (m + 1,)
            alone: cov r(u) r(u'); see `local_scale`
held_out    values in held-out runs, of a score that other runs do not     (n,)
            predict; zeros where left-out errors are those of the process
==========  =============================================================  ===============

A run that has no value of a score has a zero row and column in that score's L^-1, and zeros in its target and G: then
w has a zero there, and everything is conditioned on the other runs, exactly.

The variance is that of the latent function: it holds the uncertainty from few runs and of the estimated trend, not that
of the hyperparameters (unless there are several draws h), nor the nugget and V (noise of a stochastic simulator).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, NamedTuple, cast, final

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular
from scipy.linalg.blas import dtrmm
from scipy.special import ndtri
from scipy.stats import qmc

from uqms._typing import Array, Bools, Ints
from uqms.errors import InputError
from uqms.surrogates.kernels import Kernel, Stationary, correlation, correlation_within, places, scale_count, split
from uqms.surrogates.training import JITTER_FIRST, Hyperparameters, factorise, trend_basis, trend_reverse

__all__ = [
    "SHARPNESS",
    "ScoreProcess",
    "Scores",
    "average",
    "condition",
    "draw_at",
    "joint_at",
    "limited",
    "local_features",
    "local_size",
    "local_slopes",
    "means_at",
    "normals_at",
    "root_at",
    "score_at",
    "score_reverse",
    "stacked",
    "scores_at",
    "scrambled_points",
    "sobol_points",
]


CACHED = 2**17  # numbers of a block
ROUNDING = 1e-30  # variance of what is known exactly, of scores of variance 1
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
SHARPNESS = 8.0  # of the limit of local scales, see `limited`
_BY_DRAW = "ell variance nugget jitter beta target inverse_factor trend_factor trend_root local".split()


class Scores(NamedTuple):
    """Mean and covariance between inputs of every score, for each hyperparameter draw.

    Attributes
    ----------
    mean
        Shape (H, ..., k, q).
    covariance
        Of scores whose errors are independent of each other, shape (H, ..., q, k, k): entry [h, ..., j, a, b] is the
        covariance of score j between inputs a and b. Of scores whose errors are correlated, shape (H, ..., k, q, k, q):
        entry [h, ..., a, i, b, j] is the covariance of score i at input a and score j at input b.
    log_weights
        Log weights of the hyperparameter draws, shape (H,).
    """

    mean: Array
    covariance: Array
    log_weights: Array

    @property
    def correlated(self) -> bool:
        """Whether the covariance joins scores."""
        return self.covariance.ndim == self.mean.ndim + 2

    @property
    def by_score(self) -> Array:
        """Covariance (H, ..., q, k, k) of each score between inputs, without those between scores."""
        if not self.correlated:
            return self.covariance
        return np.asarray(np.moveaxis(np.diagonal(self.covariance, axis1=-3, axis2=-1), -1, -3))

    @property
    def joint(self) -> Array:
        """Covariance (H, ..., k q, k q) of the scores at all inputs, input by input."""
        *lead, k, q = self.mean.shape
        if self.correlated:
            return self.covariance.reshape(*lead, k * q, k * q)
        out = np.zeros((*lead, k, q, k, q))
        for j in range(q):
            out[..., :, j, :, j] = self.covariance[..., j, :, :]
        return out.reshape(*lead, k * q, k * q)


@final
@dataclass(frozen=True, eq=False)
class ScoreProcess:
    """Conditioned processes of q scores as plain arrays; see the table at the top of this file for the letters."""

    kernel: Kernel
    x: Array  # (n, d)
    y: Array  # (n, q)
    ell: Array  # (H, q, p), see `kernels`; p = d for a single kernel
    variance: Array  # (H, q)
    nugget: Array  # (H, q), relative to the variance
    jitter: Array  # (H, q), relative to the variance
    beta: Array  # (H, q, b)
    target: Array  # (H, q, n); w' target keeps eight digits more than k' K^-1 y where K is nearly singular
    inverse_factor: Array  # (H, q, n, n), L^-1
    trend_factor: Array  # (H, q, n, b), G
    trend_root: Array  # (H, q, b, b), R
    log_weights: Array  # (H,)
    noise: Array = field(default_factory=lambda: np.zeros((0, 0)))  # (q, n), diagonal of V; empty: zeros
    held_out: Array = field(default_factory=lambda: np.zeros((0, 0)))  # (q, n); empty: zeros
    local: Array = field(default_factory=lambda: np.zeros((0, 0, 0)))  # (H, q, m + 1); (H, q, 0): no local scale

    def __post_init__(self) -> None:
        if not self.noise.size:
            object.__setattr__(self, "noise", np.zeros(self.y.shape[::-1]))
        if not self.held_out.size:
            object.__setattr__(self, "held_out", np.zeros(self.y.shape[::-1]))
        if not self.local.size:
            object.__setattr__(self, "local", np.zeros((*self.variance.shape, 0)))
        if self.noise.shape != self.y.shape[::-1]:
            raise InputError(f"noise has shape {self.noise.shape} for scores of shape {self.y.shape}; give (q, n)")
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

    def known(self, j: int) -> Bools:
        """Return which runs (n,) have a value of score j."""
        return np.asarray(np.diagonal(self.inverse_factor[0, j]) > 0.0)

    def select(self, scores: Ints) -> "ScoreProcess":
        """Return the process of some scores only."""
        kept: dict[str, Any] = {name: np.ascontiguousarray(getattr(self, name)[:, scores]) for name in _BY_DRAW}
        return replace(self, y=self.y[:, scores], noise=self.noise[scores], held_out=self.held_out[scores], **kept)

    def member(self, h: int) -> "ScoreProcess":
        """Return the process of one hyperparameter draw only."""
        kept: dict[str, Any] = {name: getattr(self, name)[h : h + 1] for name in _BY_DRAW}
        return replace(self, log_weights=np.zeros(1), **kept)

    def with_local(self, local: Float[np.ndarray, "H q m"]) -> "ScoreProcess":
        """Return the process with other local scales: errors are r(u) times as large, means as they were."""
        return replace(self, local=local)

    def local_scale(self, h: int, j: int, u: Float[np.ndarray, "*batch d"]) -> Float[np.ndarray, "*batch"]:
        """Return r of `local_scale.py` at inputs; ones where there is no local scale."""
        c = self.local[h, j]
        return limited(local_features(u) @ c[:-1], c[-1]) if c.size else np.ones(u.shape[:-1])

    def scaled(self, factor: Float[np.ndarray, "H q"]) -> "ScoreProcess":
        """Return the process with `factor` times the variances, means as they were.

        Raises
        ------
        InputError
            When the runs have known variances of noise, with which means change too.
        """
        if self.noise.any():
            raise InputError("scaled: the runs have noise of known variances, with which the mean would change too.")
        root = np.sqrt(factor)
        return replace(
            self,
            variance=self.variance * factor,
            target=self.target / root[:, :, None],
            inverse_factor=self.inverse_factor / root[:, :, None, None],
            trend_factor=self.trend_factor / root[:, :, None, None],
            trend_root=self.trend_root * root[:, :, None, None],
        )

    def stretch(self) -> Array:
        """Return by what inputs are multiplied (d,) so that distances are about as the scores see them.

        They are inverse length scales, of an input in learned directions those of all that it is part of, and ones
        where the kernel has no length scale of each input.
        """
        found, d = [], self.x.shape[1]
        for ell in self.ell.reshape(-1, self.ell.shape[-1]):
            seen = self.kernel.seen(self.x[:1], ell)
            where = places(seen.kernel, d)
            if (where < 0).any():
                return np.ones(d)
            squares = seen.ell[where] ** -2.0  # (parts, d)
            if isinstance(seen.kernel, Stationary):  # of which parts count by their fractions
                _, shares = split(seen.kernel, d, seen.ell)
                squares *= np.repeat(shares, [len(term) for term in seen.kernel.terms])[:, None]
            squares = squares.sum(axis=0)
            found.append(squares if seen.directions is None else squares @ seen.directions**2)
        return np.asarray(np.sqrt(np.mean(found, axis=0)))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_flat"}  # a copy, quickly made again

    def flat(self) -> Array:
        """Return everything that prediction needs as one block of numbers, in the order that `fused` reads."""
        return self._flat

    @cached_property
    def _flat(self) -> Array:
        n, d = self.x.shape
        b = self.beta.shape[2]
        if self.kernel.layout(d) is None:
            raise InputError(f"compiled prediction does not know the kernel {self.kernel}; use scores_at.")
        every = [[self.kernel.seen(self.x, ell) for ell in draw] for draw in self.ell]
        flat = [seen for draw in every for seen in draw]
        layouts = {kernel: cast("Array", kernel.layout(d)) for kernel in {seen.kernel for seen in flat}}
        layout = max(layouts.values(), key=len)  # other kernels have its parts too, with shares of zero
        directions, slopes = (
            any(one is not None for one in several) for several in zip(*(seen[4:] for seen in flat), strict=True)
        )
        own = any(one[0] != layout[0] for one in layouts.values())  # where they differ, parts of a score are alike
        parts_of, shares_of = len(layout) // 2, int(abs(layout[-1]))
        learned = [directions, slopes, own]
        features = self.local.shape[2]
        header = np.array([self.draws, self.q, n, d, b, len(layout) // 2, *learned, features], dtype=np.float64)
        parts = [header, self.log_weights, layout, self.x.ravel()]
        for h in range(self.draws):
            for j in range(self.q):
                g, inverse = self.trend_factor[h, j], self.inverse_factor[h, j]
                seen = every[h][j]
                inverse = inverse if seen.slopes is None else inverse * seen.amplitude
                scales = scale_count(seen.kernel, d)
                parts += [
                    _padded(1.0 / seen.ell[:scales], parts_of * d),
                    _padded(seen.ell[scales:], shares_of),
                    self.variance[h, j : j + 1],
                    self.beta[h, j],
                    self.target[h, j],
                    inverse.T @ self.target[h, j],
                    inverse.ravel(),
                    g.ravel(),
                    (inverse.T @ g).ravel(),
                    self.trend_root[h, j].ravel(),
                ]
                if directions:
                    parts += [np.eye(d).ravel() if seen.directions is None else seen.directions.ravel(), seen.z.ravel()]
                if slopes:
                    parts.append(np.zeros(d) if seen.slopes is None else seen.slopes)
                if own:
                    parts.append(layouts[seen.kernel][:1])
                parts.append(self.local[h, j])
        return np.concatenate(parts)


def _padded(values: Array, size: int) -> Array:
    return np.append(values, np.zeros(size - len(values)))


def local_size(d: int) -> int:
    """Return how many numbers describe a local scale of d inputs: m coefficients of features, and R^-8."""
    return 2 + 2 * d + d * (d - 1) // 2


def limited(g: Float[np.ndarray, "*batch"], limit: float) -> Float[np.ndarray, "*batch"]:
    """Return r of `local_scale.py` from g = f · c, and R^-8."""
    return np.asarray((np.exp(-SHARPNESS * g) + limit) ** (-1.0 / SHARPNESS))


def local_features(u: Float[np.ndarray, "*batch d"]) -> Float[np.ndarray, "*batch m"]:
    """Return the features f of `local_scale.py` at inputs; beyond the box as at its end."""
    v = np.clip(u, 0.0, 1.0) - 0.5
    first, second = np.triu_indices(u.shape[-1], 1)
    products = np.sqrt(8.0) * v[..., first] * v[..., second]
    return np.concatenate([np.ones((*u.shape[:-1], 1)), v, 2.0 * v * v - 1.0 / 6.0, products], axis=-1)


def local_slopes(u: Float[np.ndarray, "k d"], c: Float[np.ndarray, " m"]) -> Float[np.ndarray, "k d"]:
    """Return the derivative of log r at inputs."""
    d = u.shape[1]
    v, curvature = np.clip(u, 0.0, 1.0) - 0.5, np.diag(2.0 * c[1 + d : 1 + 2 * d])
    curvature[np.triu_indices(d, 1)] = np.sqrt(8.0) * c[1 + 2 * d : -1]
    slopes = np.where((u > 0.0) & (u < 1.0), c[1 : 1 + d] + v @ (curvature + curvature.T), 0.0)
    return np.asarray((1.0 - c[-1] * limited(local_features(u) @ c[:-1], c[-1]) ** SHARPNESS)[:, None] * slopes)


def _condition_one(
    kernel: Kernel, x: Array, y: Array, trend: Array, noise: Array, one: Hyperparameters, variance: float | None
) -> tuple[float, float, Array, Array, Array, Array, Array]:
    n, columns = trend.shape
    lower, jitter = factorise(correlation(kernel, x, x, one.ell), one.nugget * noise if noise.any() else one.nugget)
    inverse = solve_triangular(lower, np.eye(n), lower=True, check_finite=False)
    g = inverse @ trend
    information = g.T @ g
    target = inverse @ y
    beta = np.linalg.solve(information, g.T @ target)
    residual = target - g @ beta
    if noise.any():
        variance = 1.0 / one.nugget
    if variance is None:
        # A constant output leaves no residual; its basis is zero, so only finite numbers are needed. Nor does an output
        # that the cheap model gives to the last digit.
        variance = (float(residual @ residual) / (n - columns) or (ROUNDING if y.any() else 1.0)) * one.factor
    scale = np.sqrt(variance)
    # R' R = variance * information^-1, with information = C C': R = scale C^-1.
    root = scale * np.linalg.inv(np.linalg.cholesky(information)) if columns else np.zeros((0, 0))
    return variance, jitter, beta, residual / scale, inverse / scale, g / scale, root


def _condition_known(
    kernel: Kernel, x: Array, y: Array, trend: Array, noise: Array, one: Hyperparameters, variance: float | None
) -> tuple[float, float, Array, Array, Array, Array, Array]:
    """Condition on the runs whose y is a number, and set zeros for the others."""
    known = np.isfinite(y)
    parts = _condition_one(kernel, x[known], y[known], trend[known], noise[known], one, variance)
    if known.all():
        return parts
    variance, jitter, beta, target, inverse, g, root = parts
    everywhere = np.zeros(len(x)), np.zeros((len(x), len(x))), np.zeros(trend.shape)
    everywhere[0][known], everywhere[1][np.ix_(known, known)], everywhere[2][known] = target, inverse, g
    return variance, jitter, beta, *everywhere, root


def _condition_without(
    kernel: Kernel, x: Array, y: Array, trend: Array, noise: Array, one: Hyperparameters, variance: float | None
) -> tuple[float, float, Array, Array, Array, Array, Array]:
    """Condition with a coefficient of zero for the cheap model, the second trend function."""
    rest = np.delete(trend, 1, axis=1)
    variance, jitter, beta, target, inverse, g, root = _condition_known(kernel, x, y, rest, noise, one, variance)
    root = np.insert(np.insert(root, 1, 0.0, axis=0), 1, 0.0, axis=1)
    return variance, jitter, np.insert(beta, 1, 0.0), target, inverse, np.insert(g, 1, 0.0, axis=1), root


def condition(
    kernel: Kernel,
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "n q"],
    columns: int,
    found: Sequence[Hyperparameters],
    variance: Sequence[float] | None = None,
    cheap: Float[np.ndarray, "n q"] | None = None,
    noise: Float[np.ndarray, "n q"] | None = None,
) -> ScoreProcess:
    """Return the processes of all scores conditioned on the runs, with their trend and variance in closed form.

    Where y is NaN a run has no value of that score. Scores whose `noise` (variances of the runs) is not zero throughout
    have the variance 1 / nugget.
    """
    noise = np.zeros(y.shape) if noise is None else noise
    trends = [trend_basis(x, columns, None if cheap is None else cheap[:, j]) for j in range(len(found))]
    parts = [
        (_condition_known if one.cheap else _condition_without)(
            kernel, x, y[:, j], trends[j], noise[:, j], one, None if variance is None else variance[j]
        )
        for j, one in enumerate(found)
    ]
    stacked = [np.stack([np.asarray(part[i]) for part in parts])[None] for i in range(7)]
    return ScoreProcess(
        kernel=kernel,
        x=np.ascontiguousarray(x),
        y=np.where(np.isfinite(y), y, 0.0),
        ell=np.stack([one.ell for one in found])[None],
        variance=stacked[0],
        nugget=np.array([[0.0 if noise[:, j].any() else one.nugget for j, one in enumerate(found)]]),
        jitter=stacked[1],
        beta=stacked[2],
        target=stacked[3],
        inverse_factor=stacked[4],
        trend_factor=stacked[5],
        trend_root=stacked[6],
        log_weights=np.zeros(1),
        noise=noise.T,
    )


def average(processes: Sequence[ScoreProcess]) -> ScoreProcess:
    """Return one process with the hyperparameter draws of several, equally weighted, on the same runs."""
    if len(processes) == 1:
        return processes[0]
    joined: dict[str, Any] = {name: np.concatenate([getattr(one, name) for one in processes]) for name in _BY_DRAW}
    count = sum(one.draws for one in processes)
    return replace(processes[0], **joined, log_weights=np.full(count, -np.log(count)))


def stacked(singles: Sequence[Sequence[ScoreProcess]]) -> ScoreProcess:
    """Return one process of members, each a sequence of processes of one score and one draw; x is that of the first."""
    first = singles[0]
    joined: dict[str, Any] = {
        name: np.stack([np.stack([getattr(one, name)[0, 0] for one in scores]) for scores in singles])
        for name in _BY_DRAW
    }
    joined |= {"y": np.hstack([one.y for one in first])}
    joined |= {name: np.vstack([getattr(one, name) for one in first]) for name in ("noise", "held_out")}
    return replace(first[0], log_weights=np.full(len(singles), -np.log(len(singles))), **joined)


def scores_at(process: ScoreProcess, u: Float[np.ndarray, "*batch k d"], diagonal: bool = False) -> Scores:
    """Return the scores at `u`, jointly over the k inputs of each batch member, or their variances only.

    With `diagonal` the covariance has shape (H, ..., q, k): the variances, for many unrelated inputs.
    """
    *batch, k, d = u.shape
    s = int(np.prod(batch))
    members = np.ascontiguousarray(u, dtype=np.float64).reshape(s, k, d)
    h, q = process.draws, process.q
    mean = np.empty((h, s, k, q))
    covariance = np.empty((h, s, q, k) if diagonal else (h, s, q, k, k))
    for i in range(h):
        for j in range(q):
            mean[i, :, :, j], covariance[i, :, j] = score_at(process, i, j, members, diagonal)
    return Scores(
        mean.reshape(h, *batch, k, q),
        covariance.reshape(h, *batch, *covariance.shape[2:]),
        process.log_weights,
    )


def score_at(
    process: ScoreProcess,
    h: int,
    j: int,
    u: Float[np.ndarray, "s k d"],
    diagonal: bool = False,
    cheap: Float[np.ndarray, "s k"] | None = None,
) -> tuple[Float[np.ndarray, "s k"], Array]:
    """Return mean (s, k) and covariance (s, k, k) of score j of draw h, or its variances (s, k).

    `cheap` are the values of the second trend function, where there is one that is not of the inputs.
    """
    s, k, d = u.shape
    rows = np.ascontiguousarray(u, dtype=np.float64).reshape(s * k, d)
    column = None if cheap is None else np.ascontiguousarray(cheap).reshape(-1)
    if diagonal:
        mean, variance = _marginal(process, h, j, rows, column)
        return mean.reshape(s, k), variance.reshape(s, k)
    kappa = correlation(process.kernel, rows, process.x, process.ell[h, j])
    mean, w, v = rows_of(process, h, j, rows, kappa, column)
    joint = _joint(process, h, j, rows.reshape(s, k, d), w, v)
    if process.local.size:
        scale = process.local_scale(h, j, rows).reshape(s, k)
        joint *= scale[:, :, None] * scale[:, None, :]
    return mean.reshape(s, k), joint


def means_at(process: ScoreProcess, draws: Ints, u: Float[np.ndarray, "s k d"]) -> Float[np.ndarray, "s k q"]:
    """Return the means of the scores at inputs u[i] for hyperparameter draw draws[i], without their covariance."""
    s, k, d = u.shape
    mean = np.empty((s, k, process.q))
    for h in np.unique(draws):
        members = np.flatnonzero(draws == h)
        rows = np.ascontiguousarray(u[members], dtype=np.float64).reshape(-1, d)
        own = np.empty((len(rows), process.q))
        for block in _blocks(process, len(rows)):
            for j in range(process.q):
                kappa = correlation(process.kernel, rows[block], process.x, process.ell[h, j])
                own[block, j] = rows_of(process, int(h), j, rows[block], kappa, None)[0]
        mean[members] = own.reshape(len(members), k, process.q)
    return mean


def joint_at(
    process: ScoreProcess, draws: Ints, u: Float[np.ndarray, "s k d"], used: Ints
) -> tuple[Float[np.ndarray, "s k q"], Float[np.ndarray, "s q k k"]]:
    """Return means, and covariances of the used scores, at inputs u[i] for hyperparameter draw draws[i].

    Covariances of other scores are zeros.
    """
    s, k, _ = u.shape
    mean, covariance = np.empty((s, k, process.q)), np.zeros((s, process.q, k, k))
    others = np.setdiff1d(np.arange(process.q), used)
    if len(others):
        mean[..., others] = means_at(process.select(others), draws, u)
    for h in np.unique(draws):
        members = np.flatnonzero(draws == h)
        for j in used:
            mean[members, :, j], covariance[members, j] = score_at(process, int(h), int(j), u[members])
    return mean, covariance


def score_reverse(
    process: ScoreProcess,
    h: int,
    j: int,
    u: Float[np.ndarray, "k d"],
    mean_bar: Float[np.ndarray, " k"],
    cov_bar: Float[np.ndarray, "k k"],
) -> Float[np.ndarray, "k d"]:
    """Return the derivative of sum(mean * mean_bar) + sum(covariance * cov_bar) of score j of draw h, of any kernel."""
    kernel, ell, s2 = process.kernel, process.ell[h, j], process.variance[h, j]
    to_runs = kernel.linearised(u, process.x, ell)
    _, w, v = rows_of(process, h, j, u, to_runs.kappa, None)
    both = cov_bar + cov_bar.T
    out = np.zeros(u.shape)
    if process.local.size:
        scale = process.local_scale(h, j, u)
        both = both * np.outer(scale, scale)
        joint = _joint(process, h, j, u[None], w, v)[0]
        out += np.sum(both * joint, axis=1)[:, None] * local_slopes(u, process.local[h, j])
    trend_bar = both @ v @ process.trend_root[h, j]
    w_bar = np.outer(mean_bar, process.target[h, j]) - both @ w - trend_bar @ process.trend_factor[h, j].T
    out += to_runs.reverse_inputs(s2 * w_bar @ process.inverse_factor[h, j])
    if len(u) > 1 or not kernel.plain:  # otherwise a correlation is 1 at equal inputs, wherever these are
        out += kernel.linearised(u, u.copy(), ell).reverse_inputs(s2 * both)
    return np.asarray(out + trend_reverse(u, trend_bar + np.outer(mean_bar, process.beta[h, j])))


def _marginal(process: ScoreProcess, h: int, j: int, u: Array, cheap: Array | None) -> tuple[Array, Array]:
    """Return mean and variance of score j at the rows of u, in blocks that stay in the processor's cache."""
    mean, variance = np.empty(len(u)), np.empty(len(u))
    for block in _blocks(process, len(u)):
        kappa = correlation(process.kernel, u[block], process.x, process.ell[h, j])
        mean[block], w, v = rows_of(process, h, j, u[block], kappa, None if cheap is None else cheap[block])
        before = process.variance[h, j] * process.kernel.variances(u[block], process.ell[h, j])
        variance[block] = before - np.einsum("ij,ij->i", w, w) + np.einsum("ij,ij->i", v, v)
    if process.local.size:
        variance *= process.local_scale(h, j, u) ** 2
    return mean, np.maximum(variance, 0.0)


def _blocks(process: ScoreProcess, points: int) -> list[slice]:
    """Return blocks of points whose correlation with the runs stays in the processor's cache."""
    size = max(16, CACHED // len(process.x))
    return [slice(start, start + size) for start in range(0, points, size)]


def draw_at(
    process: ScoreProcess,
    h: int,
    j: int,
    u: Float[np.ndarray, "k d"],
    z: Float[np.ndarray, "draws k"],
    xi: Float[np.ndarray, "draws b"],
    anchors: int = 0,
    cheap: Float[np.ndarray, " rest"] | None = None,
) -> Float[np.ndarray, "draws rest"]:
    """Return draws of score j at `u` after its first `anchors`, from standard normals z of the points, xi of the trend.

    The factor of the posterior covariance is the last block of the factor of the prior covariance of runs and points
    together: where runs leave almost no variance, a difference of covariances has none of its digits left. Draws at the
    first points do not depend on those that follow. `cheap` is as in `score_at`, at the points after the anchors.
    """
    mean, v, lower = _last_block(process, h, j, u, anchors, cheap)
    return np.asarray(mean + xi @ v.T + z @ lower.T)


def sobol_points(count: int, d: int) -> Float[np.ndarray, "count d"]:
    """Return the first points of a Sobol sequence, of which the next power of two is made."""
    if not count:
        return np.zeros((0, d))
    return np.asarray(qmc.Sobol(d, scramble=False).random_base2((count - 1).bit_length())[:count])


def scrambled_points(count: int, d: int, seed: int) -> Float[np.ndarray, "count d"]:
    """Return the first points of a scrambled Sobol sequence."""
    sobol = qmc.Sobol(d, scramble=True, rng=np.random.default_rng(seed))
    return np.asarray(sobol.random_base2((count - 1).bit_length())[:count])


def normals_at(u: Float[np.ndarray, "k d"], draws: int, key: int) -> Float[np.ndarray, "draws k"]:
    """Return standard normals that belong to the points of `u`: the same in every call, independent at other points.

    They are hashes (splitmix64: Steele et al. 2014, doi:10.1145/2714064.2660195) of the bytes of a point, the key and
    the number of the draw.
    """
    bits = np.ascontiguousarray(u + 0.0).view(np.uint64)  # + 0.0: zero has two signs
    with np.errstate(over="ignore"):
        state = np.full(len(u), _mixed(np.uint64(key % 2**64)))
        for column in bits.T:
            state = _mixed(state ^ column)
        counter = _mixed(np.arange(1, draws + 1, dtype=np.uint64) * GOLDEN)
        both = _mixed(state[None, :] ^ counter[:, None])
    return np.asarray(ndtri(((both >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53))


def _mixed(state: Any) -> Any:
    state = state + GOLDEN
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def root_at(process: ScoreProcess, h: int, j: int, u: Float[np.ndarray, "k d"]) -> Float[np.ndarray, "k r"]:
    """Return a root of the posterior covariance of score j between the rows of `u`, as exact as draws are."""
    _, v, lower = _last_block(process, h, j, u, 0, None)
    return np.hstack([lower, v])


def _last_block(
    process: ScoreProcess, h: int, j: int, u: Array, anchors: int, cheap: Array | None
) -> tuple[Array, Array, Array]:
    known = process.known(j)
    n = int(known.sum())
    rest = n + anchors
    points = np.vstack([process.x[known], u])
    kappa = correlation(process.kernel, points, points, process.ell[h, j])
    to_runs = np.zeros((len(points) - rest, len(known)))
    to_runs[:, known] = kappa[rest:, :n]
    mean, w, v = rows_of(process, h, j, u[anchors:], to_runs, cheap)
    own = process.nugget[h, j] + process.noise[j, known] / process.variance[h, j]
    kappa[np.arange(n), np.arange(n)] += own + process.jitter[h, j] - JITTER_FIRST
    lower, _ = factorise(kappa, 0.0)
    block = lower[rest:, n:]
    # The factor needs a jitter at the points too, which near runs is as large as what they leave of the variance.
    before = process.variance[h, j] * process.kernel.variances(u[anchors:], process.ell[h, j])
    left = np.maximum(before - np.sum(w * w, axis=1), 0.0)
    block *= np.sqrt(left / np.maximum(np.sum(block * block, axis=1), 1e-300))[:, None]
    scale = process.local_scale(h, j, u[anchors:])[:, None]
    return mean, scale * v, scale * block


def rows_of(
    process: ScoreProcess, h: int, j: int, u: Array, kappa: Array, cheap: Array | None
) -> tuple[Array, Array, Array]:
    """Return the mean, w' and v' of score j at the rows of u, from their correlation with the runs."""
    trend = trend_basis(u, process.beta.shape[2], cheap)
    # L^-1 is triangular, which saves half of the product; a view in Fortran's order is the transpose.
    inverse = process.inverse_factor[h, j].T
    w = dtrmm(process.variance[h, j], inverse, kappa.T, side=0, lower=0, trans_a=1).T
    v = (trend - w @ process.trend_factor[h, j]) @ process.trend_root[h, j].T
    return trend @ process.beta[h, j] + w @ process.target[h, j], w, v


def _joint(process: ScoreProcess, h: int, j: int, u: Array, w: Array, v: Array) -> Array:
    s, k, _ = u.shape
    prior = correlation_within(process.kernel, u, process.ell[h, j])
    w, v = w.reshape(s, k, -1), v.reshape(s, k, -1)
    joint = process.variance[h, j] * prior - w @ w.transpose(0, 2, 1) + v @ v.transpose(0, 2, 1)
    index = np.arange(k)
    joint[:, index, index] = np.maximum(joint[:, index, index], 0.0)
    return np.asarray(joint)
