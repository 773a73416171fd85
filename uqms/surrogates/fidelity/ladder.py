"""Levels of fidelity on top of each other: scores, their derivative and draws of the whole function of the highest.

==========  =======================================================================  ===========
symbol      meaning                                                                  shape
==========  =======================================================================  ===========
c, S        mean and covariance of the level below at the inputs                     (k,), (k, k)
m, C        mean and covariance of a level, given the one below at its mean          (k,), (k, k)
slope       derivative of m by c: of a linear level its coefficient rho, random      (k,)
A           S enters C + A S: slope slope', and the variance of rho                  (k, k)
==========  =======================================================================  ===========

A *linear* level is rho times the one below plus a process; rho is one of its trend coefficients, so that mean and
covariance are exact (Le Gratiet & Garnier 2014, doi:10.1615/Int.J.UncertaintyQuantification.2014006914). A *nonlinear*
level is a process over (c, u); what is open of the level below is drawn, one function for each member h, at anchors,
and what these leave open of it (S) is carried on to first order. A *joint* level is one process of all levels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal, final

import numpy as np

from uqms import _checks as check
from uqms._typing import Array, Ints, RandomState, as_generator
from uqms.errors import InputError
from uqms.surrogates.cokriging import second_slope
from uqms.surrogates.fused_levels import climbing_block
from uqms.surrogates.fused_scores import scores_flat, scores_flat_reverse
from uqms.surrogates.kernels import Stationary, correlation_slopes
from uqms.surrogates.physics import lifted
from uqms.surrogates.process import (
    ScoreProcess,
    Scores,
    condition,
    draw_at,
    normals_at,
    score_at,
    score_reverse,
    sobol_points,
    stacked,
)
from uqms.surrogates.run_value import ErrorPart, process_covariance, process_noise
from uqms.surrogates.training import Hyperparameters

__all__ = ["Kind", "Ladder", "LadderDraws", "LadderError", "Step"]

Kind = Literal["plain", "linear", "nonlinear", "joint"]
ANCHORS = 256
FEW = 16  # inputs up to which compiled loops are faster than matrix products


@final
@dataclass(frozen=True, eq=False)
class Step:
    """One level: its process, with one member or one for each of the ladder's, and how the level below enters it.

    `below` are the values (H, q, n) of the level below at the runs of a nonlinear level, its first input: they differ
    by score and, where they are drawn, by member, so that `x` of its process holds those of the first. The last `drawn`
    of its runs are draws of the member's function, not of the simulator.
    """

    process: ScoreProcess
    kind: Kind
    below: Array | None = None
    drawn: int = 0

    def inputs(self, u: Array, below: Array | None) -> Array:
        """Return the inputs of the process at `u` (..., d), with the level below at `below` (...)."""
        if self.kind == "nonlinear":
            assert below is not None  # noqa: S101
            return np.concatenate([below[..., None], u], axis=-1)
        if self.kind == "joint":
            dummies = np.zeros((*u.shape[:-1], self.process.x.shape[1] - u.shape[-1]))
            dummies[..., -1] = 1.0
            return np.concatenate([dummies, u], axis=-1)
        return u

    def at(self, h: int) -> int:
        """Return the member of its process that belongs to that of the ladder."""
        return h if self.process.draws > 1 else 0

    def own(self, h: int, j: int) -> tuple[ScoreProcess, int, int]:
        """Return a process, and the member and score in it that are score j of member h."""
        return (self.process, self.at(h), j) if self.below is None else (self._singles[self.at(h)][j], 0, 0)

    @cached_property
    def _singles(self) -> list[list[ScoreProcess]]:
        p, below = self.process, self.below
        assert below is not None  # noqa: S101
        return [
            [
                replace(p.member(h).select(np.array([j])), x=np.column_stack([below[h, j], p.x[:, 1:]]))
                for j in range(p.q)
            ]
            for h in range(p.draws)
        ]

    def simulated(self) -> "Step":
        """Return the level given its simulated runs only, with the same hyperparameters."""
        if not self.drawn:
            return self
        n = len(self.process.x) - self.drawn
        singles = []
        for h in range(self.process.draws):
            scores = []
            for j in range(self.process.q):
                p, i, k = self.own(h, j)
                cheap = self.kind == "plain" or bool(p.trend_root[i, k, :, 1].any())
                one = Hyperparameters(p.ell[i, k], float(p.nugget[i, k]), 0.0, 0.0, 0, False, cheap=cheap)
                b, s2 = p.beta.shape[2], float(p.variance[i, k])
                scores.append(condition(p.kernel, p.x[:n], p.y[:n, k : k + 1], b, [one], [s2]))
            singles.append(scores)
        return Step(stacked(singles), self.kind, None if self.below is None else self.below[..., :n])

    def given(self, h: int, j: int, u: Array, below: Array | None, diagonal: bool) -> tuple[Array, Array]:
        """Return m and C at `u` (s, k, d), or the variances, with the level below at its mean (s, k)."""
        cheap = below if self.kind == "linear" else None
        return score_at(*self.own(h, j), self.inputs(u, below), diagonal, cheap)

    def slope(self, h: int, j: int, u: Array, below: Array) -> Array:
        """Return the derivative of m by the level below at `u` (..., d)."""
        if self.kind == "linear":
            return np.full(below.shape, self.process.beta[self.at(h), j, 1])
        rows = self.inputs(u, below).reshape(-1, u.shape[-1] + 1)
        return _Slope(*self.own(h, j)).value(rows).reshape(below.shape)

    def amplification(self, h: int, j: int, slope: Array, diagonal: bool) -> Array:
        """Return A (s, k, k) of slopes (s, k), or its diagonal."""
        out = slope**2 if diagonal else slope[:, :, None] * slope[:, None, :]
        return out + self.spread(h, j)

    def spread(self, h: int, j: int) -> float:
        """Return the variance of the coefficient of the level below."""
        root = self.process.trend_root[self.at(h), j]
        return float(np.sum(root[:, 1] ** 2)) if self.kind in ("linear", "nonlinear") and len(root) > 1 else 0.0

    @cached_property
    def blocks(self) -> list[list[Array]]:
        """Blocks of compiled code, by member and score; of a linear level as a function of (c, u)."""
        p = self.process
        if self.kind == "linear":
            return [[lifted(p.member(h), j).flat() for j in range(p.q)] for h in range(p.draws)]
        if self.below is not None:
            return [[one.flat() for one in singles] for singles in self._singles]
        return [[p.member(h).select(np.array([j])).flat() for j in range(p.q)] for h in range(p.draws)]

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields only: blocks may hold addresses, which are of this process."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    def reverse(
        self, h: int, j: int, u: Array, below: Array | None, slope: Array, s: Array, bars: tuple[Array, Array]
    ) -> tuple[Array, tuple[Array, Array]]:
        """Return the derivative (k, d) by `u` (k, d), and the bars of c and S."""
        mean_bar, cov_bar = bars
        if self.kind == "joint":
            by = score_reverse(self.process, self.at(h), j, self.inputs(u, None), mean_bar, cov_bar)
            return by[:, -u.shape[1] :], bars
        block = self.blocks[self.at(h)][j]
        rows = u if below is None else np.column_stack([below, u])
        by = scores_flat_reverse(block, np.ascontiguousarray(rows), mean_bar[None, :, None], cov_bar[None, None])
        by = np.asarray(by)
        if below is None:
            return by, bars
        if self.kind == "nonlinear":
            slope_bar = ((cov_bar + cov_bar.T) * s) @ slope
            by = by + slope_bar[:, None] * _Slope(*self.own(h, j)).derivative(rows)
        return by[:, 1:], (by[:, 0].copy(), cov_bar * self.amplification(h, j, slope[None], False)[0])


@final
@dataclass(frozen=True, eq=False)
class _Slope:
    """Derivative of the mean of a nonlinear level by the level below, and the derivative of that."""

    process: ScoreProcess
    h: int
    j: int

    def _parts(self, rows: Array) -> tuple[Array, Array, Array, Array, Array, Array]:
        p, h, j = self.process, self.h, self.j
        d = p.x.shape[1]
        assert isinstance(p.kernel, Stationary)  # noqa: S101
        (lower, part), _ = p.kernel.terms
        ell = p.ell[h, j]
        weights = p.inverse_factor[h, j].T @ p.target[h, j] * (p.variance[h, j] / (1.0 + ell[-1]) / ell[0])
        t = (rows[:, :1] - p.x[:, 0]) / ell[0]
        _, first_slope, second = second_slope(lower, t)
        scales = ell[d + 1 : 2 * d]
        kappa, g, _ = correlation_slopes(part, np.ascontiguousarray(rows[:, 1:]), p.x[:, 1:], scales)
        return weights, first_slope, second, kappa, g[0], scales

    def value(self, rows: Array) -> Array:
        weights, first, _, kappa, _, _ = self._parts(rows)
        trend = self.process.beta[self.h, self.j, 1] if self.process.beta.shape[2] > 1 else 0.0
        return np.asarray((first * kappa) @ weights + trend)

    def derivative(self, rows: Array) -> Array:
        weights, first, second, kappa, g, scales = self._parts(rows)
        by_lower = (second * kappa) @ weights / self.process.ell[self.h, self.j, 0]
        pairs = first * g * weights
        x = self.process.x[:, 1:]
        by_u = (pairs.sum(axis=1)[:, None] * rows[:, 1:] - pairs @ x) / scales**2
        return np.column_stack([by_lower, by_u])


@final
@dataclass(frozen=True, eq=False)
class Ladder:
    """The levels, the lowest first, and the log weights (H,) of their members."""

    steps: tuple[Step, ...]
    log_weights: Array

    @property
    def top(self) -> ScoreProcess:
        """The process of the highest level."""
        return self.steps[-1].process

    @property
    def draws(self) -> int:
        """Number of members H."""
        return len(self.log_weights)

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields only: what compiled code reads is quickly made again."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    @cached_property
    def compiled_error(self) -> "LadderError | None":
        """What compiled code reads, where all levels are linear."""
        linear = all(step.kind in ("plain", "linear") for step in self.steps)
        return LadderError(self, np.arange(self.top.q)) if linear else None

    @cached_property
    def _block(self) -> Array | None:
        return None if self.compiled_error is None else self.compiled_error.flat()

    def scores(self, u: Array, diagonal: bool = False) -> Scores:
        """Return mean (H, ..., k, q) and covariance (H, ..., q, k, k), or variances, at `u` (..., k, d)."""
        *batch, k, d = u.shape
        members = np.ascontiguousarray(u, dtype=np.float64).reshape(-1, k, d)
        s, h, q = len(members), self.draws, self.top.q
        if 0 < s * k <= FEW and not diagonal and self._block is not None:
            means, joints = zip(*(scores_flat(self._block, one) for one in members), strict=True)
            mean, joint = np.stack(means, axis=1), np.stack(joints, axis=1)
            return Scores(mean.reshape(h, *batch, k, q), joint.reshape(h, *batch, q, k, k), self.log_weights)
        mean = np.empty((h, s, k, q))
        covariance = np.empty((h, s, q, k) if diagonal else (h, s, q, k, k))
        for i in range(h):
            for j in range(q):
                mean[i, :, :, j], covariance[i, :, j] = self.score(i, j, members, diagonal)
        return Scores(
            mean.reshape(h, *batch, k, q), covariance.reshape(h, *batch, *covariance.shape[2:]), self.log_weights
        )

    def score(self, h: int, j: int, u: Array, diagonal: bool = False) -> tuple[Array, Array]:
        """Return mean and covariance of score j of member h at `u` (s, k, d)."""
        m, s = self.steps[0].given(h, j, u, None, diagonal)
        for step in self.steps[1:]:
            c = m
            m, own = step.given(h, j, u, c, diagonal)
            s = own + step.amplification(h, j, step.slope(h, j, u, c), diagonal) * s
        return m, s

    def means(self, h: int, j: int, u: Array) -> list[Array]:
        """Return the mean (s, k) of each level at `u` (s, k, d)."""
        out: list[Array] = []
        for step in self.steps:
            out.append(step.given(h, j, u, out[-1] if out else None, True)[0])
        return out

    def reverse(self, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
        """Return the derivative (k, d) of sum(mean * mean_bar) + sum(covariance * covariance_bar) at `u` (k, d)."""
        u = np.ascontiguousarray(u, dtype=np.float64)
        if self._block is not None:
            bars = np.ascontiguousarray(mean_bar), np.ascontiguousarray(covariance_bar)
            return np.asarray(scores_flat_reverse(self._block, u, *bars))
        out = np.zeros_like(u)
        for h in range(self.draws):
            for j in range(self.top.q):
                out += self._reverse(h, j, u, np.ascontiguousarray(mean_bar[h, :, j]), covariance_bar[h, j])
        return out

    def _reverse(self, h: int, j: int, u: Array, mean_bar: Array, cov_bar: Array) -> Array:
        m, s = self.steps[0].given(h, j, u[None], None, False)
        tape: list[tuple[Array | None, Array, Array]] = [(None, np.zeros(0), np.zeros(0))]
        for step in self.steps[1:]:
            c, slope = m, step.slope(h, j, u[None], m)
            tape.append((c[0], slope[0], s[0]))
            m, own = step.given(h, j, u[None], c, False)
            s = own + step.amplification(h, j, slope, False) * s
        out = np.zeros_like(u)
        bars = mean_bar, np.ascontiguousarray(cov_bar)
        for step, (below, slope, s_below) in zip(self.steps[::-1], tape[::-1], strict=True):
            by, bars = step.reverse(h, j, u, below, slope, s_below, bars)
            out += by
        return out

    def simulated(self) -> "Ladder":
        """Return the levels given their simulated runs only."""
        return replace(self, steps=tuple(step.simulated() for step in self.steps))

    def error_parts(self, u: Array, h: Ints) -> list[ErrorPart]:
        """Return what is new in each level as a part of the error of the highest at u (S, K, d) with members h (S,)."""
        (S, K, _), q, top = u.shape, self.top.q, self.steps[-1]
        if top.kind == "joint":
            rows = np.broadcast_to(np.eye(K * q).reshape(K, q, K, q), (S, K, q, K, q))
            return [ErrorPart(top.inputs(u, None), rows, process_covariance(self.top), process_noise(self.top), h)]
        factors = np.ones((len(self.steps), S, K, q))
        for one in np.unique(h):
            at = np.flatnonzero(h == one)
            for j in range(q):
                means = self.means(int(one), j, u[at])
                for t in range(len(self.steps) - 1, 0, -1):
                    slope = self.steps[t].slope(int(one), j, u[at], means[t - 1])
                    factors[t - 1, at, :, j] = factors[t, at, :, j] * slope
        out = []
        for t, factor in enumerate(factors):
            rows = np.zeros((S, K * q, K * q))
            rows[:, np.arange(K * q), np.arange(K * q)] = factor.reshape(S, -1)
            out.append(ErrorPart(u, rows.reshape(S, K, q, K, q), self._covariance(t), self._noise(t), h))
        return out

    def _covariance(self, t: int) -> Callable[[int, Array], Array]:
        def covariance(h: int, u: Array) -> Array:
            out = []
            for j in range(self.top.q):
                below = self.means(h, j, u[None])[t - 1] if t else None
                out.append(self.steps[t].given(h, j, u[None], below, False)[1][0])
            return np.stack(out)

        return covariance

    def _noise(self, t: int) -> Callable[[int, Array], Array]:
        def noise(h: int, u: Array) -> Array:
            own = [self.steps[t].own(h, j) for j in range(self.top.q)]
            each = [(p.nugget[i, k] + p.jitter[i, k]) * p.variance[i, k] for p, i, k in own]
            return np.broadcast_to(np.diag(each), (len(u), len(each), len(each)))

        return noise

    def functions(self, n: int, rng: RandomState, anchors: int = ANCHORS) -> "LadderDraws":
        """Return n draws of the whole function, exact jointly at `anchors` Sobol points of the cube and the runs."""
        if not check.is_whole(n, 1) or not check.is_whole(anchors, 0):
            raise InputError(f"functions: n is {n!r} and anchors is {anchors!r}; give whole numbers, n at least 1.")
        generator = as_generator(rng)
        weights = np.exp(self.log_weights - np.logaddexp.reduce(self.log_weights))
        h = generator.choice(self.draws, size=n, p=weights / weights.sum())
        xi = [generator.standard_normal((n, step.process.q, step.process.beta.shape[2])) for step in self.steps]
        return LadderDraws(self, anchors, h, tuple(xi), int(generator.integers(2**63)))


@final
@dataclass(frozen=True, eq=False)
class LadderError:
    """Mean and joint error of some scores of linear levels, for compiled code."""

    ladder: Ladder
    used: Ints

    def select(self, scores: Ints) -> "LadderError":
        """Return that of some of these scores."""
        return replace(self, used=self.used[scores])

    def flat(self) -> Array:
        """Return everything as one block of numbers, see `fused_levels`."""
        steps, members = self.ladder.steps, range(self.ladder.draws)
        blocks = [[[step.blocks[step.at(h)][j] for j in self.used] for h in members] for step in steps]
        factor = np.zeros((len(steps), len(members), len(self.used)))
        for t, step in enumerate(steps[1:], start=1):
            for h in members:
                for i, j in enumerate(self.used):
                    rho = step.process.beta[step.at(h), j, 1]
                    factor[t, h, i] = step.amplification(h, j, np.full((1, 1), rho), True)[0, 0]
        return climbing_block(blocks, factor, self.ladder.log_weights, steps[0].process.x.shape[1])


@final
@dataclass(frozen=True, eq=False)
class LadderDraws:
    """Draws of the whole function; calling evaluates every draw at inputs `u` (k, d) to (draws, k, q).

    Normals belong to points, so that a call gives the same numbers again; what the anchors leave open is joint within
    one call.
    """

    ladder: Ladder
    anchors: int
    members: Ints  # (draws,)
    xi: Sequence[Array]  # of each level (draws, q, b), standard normals of the trend
    seed: int  # of the standard normals of the anchors and of the points of a call

    def __call__(self, u: Array) -> Array:
        """Return the scores (draws, k, q); the same call gives the same numbers."""
        unique, place = np.unique(np.asarray(u, dtype=np.float64), axis=0, return_inverse=True)
        points = np.vstack([sobol_points(self.anchors, unique.shape[1]), unique])
        n, a, k, q = len(self.members), self.anchors, len(unique), self.ladder.top.q
        out = np.empty((n, k, q))
        for j in range(q):
            normals = []
            for level in range(len(self.ladder.steps)):
                generator = np.random.default_rng([self.seed, j, level])
                at_anchors = generator.standard_normal((n, a))
                normals.append(np.hstack([at_anchors, normals_at(unique, n, int(generator.integers(2**63)))]))
            for h in np.unique(self.members):
                rows = self.members == h
                out[rows, :, j] = self._member(
                    int(h), j, points, [z[rows] for z in normals], [one[rows, j] for one in self.xi]
                )
        return out[:, place.reshape(-1)]

    def _member(self, h: int, j: int, points: Array, normals: list[Array], xis: list[Array]) -> Array:
        a = self.anchors
        means = self.ladder.means(h, j, points[None])
        values = np.zeros((len(normals[0]), len(points) - a))
        for level, (step, z, xi) in enumerate(zip(self.ladder.steps, normals, xis, strict=True)):
            p, i, score = step.own(h, j)
            below = means[level - 1][0] if level else None
            if step.kind == "linear":
                own = draw_at(p, i, score, points, z, xi, a, np.zeros(len(points) - a))
                rho = p.beta[i, score, 1] + xi @ p.trend_root[i, score, :, 1]
                values = own + rho[:, None] * values
                continue
            own = draw_at(p, i, score, step.inputs(points, below), z, xi, a)
            if below is not None:
                slope = step.slope(h, j, points[a:], below[a:])
                rho = slope + (xi @ p.trend_root[i, score, :, 1])[:, None] if p.beta.shape[2] > 1 else slope
                own = own + rho * (values - below[a:])
            values = own
        return values
