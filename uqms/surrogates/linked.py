"""Scores of linked surrogates and their joint error: forward through the graph of a chain, and its derivative back.

A member takes outputs of other members as inputs. The error of a linked output is one random function: an output has
one error at an input of the chain, and every member that takes this output has the same error in its input. To first
order in the errors,

    e_m(u) = J_m(u) a_m(u) + eps_m(v_m(u)),      a_m = b e_parent,

so that e = T(u) eps with the idiosyncratic errors eps of the members. The errors eps of one surrogate are one function
wherever the surrogate is used. J is not the slope at a point: it is the slope of the member's mean over three points
along each axis of the joint distribution of the links (Gauss-Hermite). This is exact where the mean is linear. The mean
has its second-order shift, tr(H P) / 2.

==========  =====================================================================  ===================
symbol      meaning                                                                shape
==========  =====================================================================  ===================
H, S, k     draws of the chain; batch; inputs of each                              ()
Q, R        scores of all members; own errors: those, and truncation of links      ()
y           links of a member, on the scale of the surrogate that they come from   (H, S, k, L)
A           from own errors to errors of the links                                 (H, S, k, L, R)
P           covariance of the links' errors at one input, A Lambda A'              (H, S, k, L, L)
C           its Cholesky factor                                                    (H, S, k, L, L)
T           from own errors to errors of the scores                                (H, S, k, Q, R)
Lambda      covariance of own errors at one input                                  (H, S, k, R, R)
==========  =====================================================================  ===================
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np

from uqms._compiled import compiled
from uqms._typing import Array, Bools, Ints
from uqms.parameters.scale import UnitMap
from uqms.surrogates.by_draw import ByDraw
from uqms.surrogates.transforms import Transform

__all__ = ["Graph", "Own", "Port", "Use"]

ROOT3 = np.sqrt(3.0)  # places of the Gauss-Hermite rule of three points, whose outer weights are a sixth
LEAST = 1e-4  # step in the member's unit cube that slopes are taken over at least


class Own(NamedTuple):
    """An input of a member that is an input of the chain too.

    Attributes
    ----------
    column, of_chain
        Its place among the inputs of the member, and among those of the chain.
    inside, outside
        Maps from its own unit to the unit cube of the member, and of the chain; None where these are the same.
    """

    column: int
    of_chain: int
    inside: UnitMap | None
    outside: UnitMap | None

    def at(self, u: Array) -> Array:
        """Return the member's input for that of the chain."""
        if self.inside is None or self.outside is None:
            return u
        return np.asarray(self.inside.forward(self.outside.inverse(u)))

    def slope(self, u: Array) -> Array:
        """Return the derivative of one by the other."""
        if self.inside is None or self.outside is None:
            return np.ones_like(u)
        x = self.outside.inverse(u)
        return np.asarray(self.inside.derivative(x) / self.outside.derivative(x))


class Port(NamedTuple):
    """An input of a member that is a linear function of another one's outputs.

    Attributes
    ----------
    column
        Its place among the inputs of the member.
    source
        Place of the other among the uses.
    offset, basis, truncation
        The function on the scale of its surrogate: offset + basis (q,) · scores + truncation (t,) · omega.
    transform, inside
        From that scale to its own unit, and from there to the unit cube of the member.
    """

    column: int
    source: int
    offset: float
    basis: Array
    truncation: Array
    transform: Transform
    inside: UnitMap

    def at(self, y: Array) -> Array:
        """Return the member's input for a link y."""
        return np.asarray(self.inside.forward(self.transform.inverse(y)))

    def slope(self, y: Array) -> Array:
        """Return the derivative of one by the other."""
        return np.asarray(self.inside.derivative(self.transform.inverse(y)) * self.transform.inverse_slope(y))

    @property
    def least(self) -> float:
        """The smallest sd that slopes are taken over."""
        ends = self.transform.forward(
            np.array([self.inside.inverse(0.25), self.inside.inverse(0.75)], dtype=np.float64)
        )
        width = float(np.ptp(ends)) if np.isfinite(ends).all() else 0.0
        return LEAST * (2.0 * width or 1.0)


@final
@dataclass(frozen=True, eq=False)
class Use:
    """A member at its place in the graph, after all that it takes.

    Attributes
    ----------
    function
        Place of its surrogate among the functions; a surrogate that is used twice is one function.
    own, ports
        Its inputs.
    d, scores
        Number of inputs, and its scores' place among those of the chain.
    decided
        Columns of the chain's inputs that decide what its own are, those of its parents included.
    """

    function: int
    own: tuple[Own, ...]
    ports: tuple[Port, ...]
    d: int
    scores: slice
    decided: Ints


class _Step(NamedTuple):
    """What the way back of one use needs."""

    y: Array
    A: Array
    C: Array
    J: Array
    spread: Array  # (H, S, k, 2 L, L), the links at the outer points
    v: Array  # (H or 1, S, k, d)
    outer: Array  # (H, S, k, 2 L, d)


@final
@dataclass(frozen=True, eq=False)
class Graph:
    """Uses in the order in which they are computed, and their functions."""

    functions: tuple[ByDraw, ...]
    uses: tuple[Use, ...]
    size: int  # Q
    sources: tuple[int, ...]  # uses whose truncation is passed on by links
    truncations: tuple[Array, ...]  # of each of them, by its links (L of all its links, t)
    receivers: tuple[tuple[tuple[int, int], ...], ...]  # of each of them: which use and port each row belongs to
    correlated: tuple[bool, ...]  # of each function, whether its scores' errors are
    scales: tuple[float, ...] = ()  # of each function's variances; none: ones

    @property
    def draws(self) -> int:
        """Number of draws H."""
        return len(self.functions[0].draws)

    @property
    def errors(self) -> int:
        """Number of own errors R."""
        return self.size + sum(int(one.shape[1]) for one in self.truncations)

    def earlier(self, m: int) -> list[int]:
        """Return the uses of the same function up to m."""
        return [i for i in range(m + 1) if self.uses[i].function == self.uses[m].function]

    # ------------------------------------------------------------------------------------------------------ forward
    def scores(self, u: Array) -> tuple[Array, Array]:
        """Return mean (H, S, k, Q) and covariance (H, S, k, Q, k, Q) of all scores at inputs u (S, k, d)."""
        mean, T, covariances, _ = self._forward(u)
        return mean, self._joint(u, T, covariances)

    def marginals(self, u: Array) -> tuple[Array, Array]:
        """Return mean (H, N, Q) and covariance (H, N, Q, Q) at N unrelated inputs u (N, d)."""
        mean, T, covariances, _ = self._forward(u[:, None])
        local = self._local(covariances, (self.draws, len(u), 1))
        return mean[:, :, 0], (T @ local @ np.swapaxes(T, -1, -2))[:, :, 0]

    def links(self, u: Array) -> list[tuple[int, Array, Array]]:
        """Return, of each use with links, its place, y (H, N, L) and their covariance (H, N, L, L) at u (N, d)."""
        _, _, _, steps = self._forward(u[:, None])
        floor = [np.diag([port.least**2 for port in use.ports]) for use in self.uses]
        return [
            (m, step.y[:, :, 0], (step.C @ np.swapaxes(step.C, -1, -2))[:, :, 0] - floor[m])
            for m, step in enumerate(steps)
            if self.uses[m].ports
        ]

    def own_errors(self, u: Array, h: Ints) -> tuple[list[Array], Array]:
        """Return the inputs (S, k, d) of each use, and T (S, k, Q, R), at inputs u (S, k, d) with draws h (S,)."""
        _, T, _, steps = self._forward(u)
        s = np.arange(len(u))
        return [step.v[h if len(step.v) > 1 else 0, s] for step in steps], T[h, s]

    def _forward(self, u: Array) -> tuple[Array, Array, dict[int, Array], list[_Step]]:
        (S, k, _), H, Q, R = u.shape, self.draws, self.size, self.errors
        mean, T = np.empty((H, S, k, Q)), np.zeros((H, S, k, Q, R))
        covariances: dict[int, Array] = {}
        inputs: list[Array] = []
        steps: list[_Step] = []
        for m, use in enumerate(self.uses):
            L, function = len(use.ports), self.functions[use.function]
            y, A = np.empty((H, S, k, L)), np.zeros((H, S, k, L, R))
            for i, port in enumerate(use.ports):
                at = self.uses[port.source].scores
                y[..., i] = port.offset + mean[..., at] @ port.basis
                A[..., i, :] = port.basis @ T[..., at, :]
            self._with_truncation(m, A)
            if L:
                local = self._local(covariances, (H, S, k))
                floor = np.diag([port.least**2 for port in use.ports])
                C = np.linalg.cholesky(A @ local @ np.swapaxes(A, -1, -2) + floor)
                outer_y = np.concatenate(
                    [y[..., None, :] + sign * ROOT3 * np.swapaxes(C, -1, -2) for sign in (1, -1)], -2
                )
            else:
                C, outer_y = np.zeros((H, S, k, 0, 0)), np.zeros((H, S, k, 0, 0))
            lead = (H, S, k) if L else (1, S, k)
            v, outer = np.empty((*lead, use.d)), np.empty((H, S, k, 2 * L, use.d))
            for own in use.own:
                v[..., own.column] = own.at(u[..., own.of_chain])
                outer[..., own.column] = v[..., own.column, None]
            for i, port in enumerate(use.ports):
                v[..., port.column], outer[..., port.column] = port.at(y[..., i]), port.at(outer_y[..., i])
            inputs.append(v)
            same = self.earlier(m)
            every = [inputs[i] for i in same]
            if len(same) > 1:
                every = [np.broadcast_to(one, (H, *one.shape[1:])) for one in every]
            own_mean, found = function.joint(np.concatenate(every, axis=2))
            covariances[use.function] = found * self.scales[use.function] if self.scales else found
            own_mean = own_mean[:, :, (len(same) - 1) * k :]
            q = own_mean.shape[-1]
            J = np.zeros((H, S, k, q, L))
            if L:
                outside = function.means(outer.reshape(H, -1, use.d)).reshape(H, S, k, 2, L, q)
                slope = (outside[:, :, :, 0] - outside[:, :, :, 1]) / (2.0 * ROOT3)  # (..., L, q): J C, transposed
                J = np.swapaxes(np.linalg.solve(np.swapaxes(C, -1, -2), slope), -1, -2)
                own_mean = own_mean * (1.0 - L / 3.0) + outside.sum(axis=(3, 4)) / 6.0
                T[..., use.scores, :] = J @ A
            mean[..., use.scores] = own_mean
            T[..., np.arange(Q)[use.scores], np.arange(Q)[use.scores]] += 1.0
            steps.append(_Step(y, A, C, J, outer_y, v, outer))
        return mean, T, covariances, steps

    def _with_truncation(self, m: int, A: Array) -> None:
        """Add what the links of use m get from the truncation of the members that they come from."""
        start = self.size
        for rows, of in zip(self.truncations, self.receivers, strict=True):
            for row, (use, port) in zip(rows, of, strict=True):
                if use == m:
                    A[..., port, start : start + len(row)] = row
            start += rows.shape[1]

    def _local(self, covariances: dict[int, Array], lead: tuple[int, ...]) -> Array:
        """Return Lambda of what is computed so far."""
        out, k = np.zeros((*lead, self.errors, self.errors)), lead[2]
        inputs = np.arange(k)
        for f, covariance in covariances.items():
            uses = self._computed(f, covariance, k)
            for a, one in enumerate(uses):
                for b, other in enumerate(uses):
                    first, second = a * k + inputs, b * k + inputs
                    if self.correlated[f]:
                        block = covariance[:, :, first, :, second, :]  # the two index arrays come first
                        out[..., one.scores, other.scores] = np.moveaxis(block, 0, 2)
                    else:
                        rows, columns = (np.arange(self.size)[use.scores] for use in (one, other))
                        out[..., rows, columns] = np.swapaxes(covariance[:, :, :, first, second], 2, 3)
        rest = np.arange(self.size, self.errors)
        out[..., rest, rest] = 1.0
        return out

    def _computed(self, f: int, covariance: Array, k: int) -> list[Use]:
        """Return the uses of function f that its covariance is between."""
        length = covariance.shape[2] if self.correlated[f] else covariance.shape[-1]
        return [use for use in self.uses if use.function == f][: length // k]

    def _joint(self, u: Array, T: Array, covariances: dict[int, Array]) -> Array:
        (S, k, _), H, Q = u.shape, self.draws, self.size
        out = np.zeros((H, S, k, Q, k, Q))
        for f, covariance in covariances.items():
            uses = [use for use in self.uses if use.function == f]
            starts = np.array([use.scores.start for use in uses])
            if not self.correlated[f]:
                add_joint(T, starts, covariance, out)
                continue
            q = uses[0].scores.stop - uses[0].scores.start
            own = np.stack([T[..., use.scores] for use in uses], axis=2)  # (H, S, r, k, Q, q)
            between = covariance.reshape(H, S, len(uses), k, q, len(uses), k, q)
            out += np.einsum("hsxaij,hsxajybl,hsybml->hsaibm", own, between, own, optimize=True)
        start = self.size
        for source, rows in zip(self.sources, self.truncations, strict=True):
            own = T[..., start : start + rows.shape[1]]
            both = np.einsum("hsait,hsbjt->hsaibj", own, own)
            out += both * self._same(source, u)[None, :, :, None, :, None]
            start += rows.shape[1]
        return out

    def _same(self, source: int, u: Array) -> Bools:
        """Return (S, k, k) at which pairs of inputs a use has the same input, and with it the same truncation."""
        at = u[..., self.uses[source].decided]
        return np.asarray((at[..., :, None, :] == at[..., None, :, :]).all(axis=-1))

    # ---------------------------------------------------------------------------------------------------------- back
    def reverse(self, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
        """Return the derivative (k, d) of sum(mean * mean_bar) + sum(covariance * covariance_bar) at inputs u (k, d).

        Derivatives by the mean are (H, k, Q), by the covariance (H, k, Q, k, Q).
        """
        (k, _), H = u.shape, self.draws
        mean, T, covariances, steps = self._forward(u[None])
        T, local = T[:, 0], self._local(covariances, (H, 1, k))[:, 0]
        symmetric = 0.5 * (covariance_bar + np.moveaxis(covariance_bar, (1, 2), (3, 4)))
        mean_bar, T_bar = np.array(mean_bar), np.zeros_like(T)
        local_bar, bars = np.zeros_like(local), {}
        for f, covariance in covariances.items():
            bars[f] = self._joint_reverse(f, T, covariance[:, 0], symmetric, T_bar)
        start = self.size
        for source, rows in zip(self.sources, self.truncations, strict=True):
            at = slice(start, start + rows.shape[1])
            weighted = symmetric * self._same(source, u[None])[0][None, :, None, :, None]
            T_bar[..., at] += 2.0 * np.einsum("haibj,hbjt->hait", weighted, T[..., at])
            start += rows.shape[1]
        out = np.zeros_like(u)
        for m in range(len(self.uses))[::-1]:
            self._use_reverse(m, u, steps[m], steps, T, local, mean_bar, T_bar, local_bar, bars, out)
        return out

    def _use_reverse(
        self,
        m: int,
        u: Array,
        step: _Step,
        steps: Sequence[_Step],
        T: Array,
        local: Array,
        mean_bar: Array,
        T_bar: Array,
        local_bar: Array,
        bars: dict[int, Array],
        out: Array,
    ) -> None:
        use, function, k, H = self.uses[m], self.functions[self.uses[m].function], len(u), self.draws
        L, at = len(use.ports), use.scores
        # The centre: mean, and the covariance with all uses of the same function.
        same = [i for i, one in enumerate(self.uses) if one.function == use.function]
        bar = self._covariance_bar(use.function, k, bars[use.function], local_bar)
        every = [steps[i].v[:, 0] for i in same]
        if len(same) > 1:
            every = [np.broadcast_to(one, (H, *one.shape[1:])) for one in every]
        centre_bar = np.zeros((H, len(same) * k, at.stop - at.start))
        rows = slice(same.index(m) * k, (same.index(m) + 1) * k)
        centre_bar[:, rows] = mean_bar[..., at] * (1.0 - L / 3.0)
        v_bar = function.joint_reverse(np.concatenate(every, axis=1), centre_bar, bar)[:, rows]
        if not L:
            for own in use.own:
                out[:, own.of_chain] += v_bar[..., own.column].sum(axis=0) * own.slope(u[:, own.of_chain])
            return
        y, A, C, J, outer_y, outer = (one[:, 0] for one in (step.y, step.A, step.C, step.J, step.spread, step.outer))
        # T = J A, J = (slope)' C^-1.
        J_bar = T_bar[..., at, :] @ np.swapaxes(A, -1, -2)
        A_bar = np.swapaxes(J, -1, -2) @ T_bar[..., at, :]
        slope_bar = np.linalg.solve(C, np.swapaxes(J_bar, -1, -2))  # C^-1 J_bar', (..., L, q)
        C_bar = -np.swapaxes(J, -1, -2) @ np.swapaxes(slope_bar, -1, -2)
        outside_bar = np.stack([slope_bar, -slope_bar], axis=2) / (2.0 * ROOT3)
        outside_bar = outside_bar + mean_bar[..., None, None, at] / 6.0
        q = outside_bar.shape[-1]
        outer_bar = function.means_reverse(outer.reshape(H, -1, use.d), outside_bar.reshape(H, -1, q))
        outer_bar = outer_bar.reshape(H, k, 2 * L, use.d)
        for own in use.own:
            total = v_bar[..., own.column] + outer_bar[..., own.column].sum(axis=-1)
            out[:, own.of_chain] += total.sum(axis=0) * own.slope(u[:, own.of_chain])
        y_bar = np.empty_like(y)
        for i, port in enumerate(use.ports):
            each = outer_bar[..., port.column] * port.slope(outer_y[..., i])  # (H, k, 2 L)
            y_bar[..., i] = v_bar[..., port.column] * port.slope(y[..., i]) + each.sum(axis=-1)
            C_bar[..., i, :] += ROOT3 * (each[..., :L] - each[..., L:])
        P_bar = cholesky_reverse(C, C_bar)
        A_bar += 2.0 * P_bar @ A @ local
        local_bar += np.swapaxes(A, -1, -2) @ P_bar @ A
        for i, port in enumerate(use.ports):
            source = self.uses[port.source].scores
            mean_bar[..., source] += y_bar[..., i, None] * port.basis
            T_bar[..., source, :] += port.basis[:, None] * A_bar[..., i, None, :]

    def _covariance_bar(self, f: int, k: int, bar: Array, local_bar: Array) -> Array:
        """Return the derivative by the covariance of a function between its uses, of Lambda's included."""
        inputs, uses, out = np.arange(k), [use for use in self.uses if use.function == f], np.array(bar)
        for a, one in enumerate(uses):
            for b, other in enumerate(uses):
                first, second = a * k + inputs, b * k + inputs
                if self.correlated[f]:
                    out[:, first, :, second, :] += np.swapaxes(local_bar[..., one.scores, other.scores], 0, 1)
                else:
                    rows, columns = (np.arange(self.size)[use.scores] for use in (one, other))
                    out[:, :, first, second] += np.swapaxes(local_bar[..., rows, columns], 1, 2)
        return out

    def _joint_reverse(self, f: int, T: Array, covariance: Array, bar: Array, T_bar: Array) -> Array:
        """Add to T_bar, and return the derivative by the covariance of a function; `bar` is symmetric."""
        uses = [use for use in self.uses if use.function == f]
        starts = np.array([use.scores.start for use in uses])
        if not self.correlated[f]:
            return np.asarray(joint_reverse(T, starts, covariance, np.ascontiguousarray(bar), T_bar))
        H, k, q = T.shape[0], T.shape[1], uses[0].scores.stop - uses[0].scores.start
        own = np.stack([T[..., use.scores] for use in uses], axis=1)  # (H, r, k, Q, q)
        between = covariance.reshape(H, len(uses), k, q, len(uses), k, q)
        own_bar = 2.0 * np.einsum("haibm,hxajybl,hybml->hxaij", bar, between, own, optimize=True)
        for one, use in zip(np.moveaxis(own_bar, 1, 0), uses, strict=True):
            T_bar[..., use.scores] += one
        found = np.einsum("hxaij,haibm,hybml->hxajybl", own, bar, own, optimize=True)
        return np.asarray(found.reshape(covariance.shape))


def cholesky_reverse(C: Array, C_bar: Array) -> Array:
    """Return the symmetric derivative by P = C C' of a function whose derivative by the factor C is C_bar."""
    inside = np.tril(np.swapaxes(C, -1, -2) @ C_bar)
    index = np.arange(C.shape[-1])
    inside[..., index, index] *= 0.5
    half = np.linalg.solve(np.swapaxes(C, -1, -2), inside)
    found = np.swapaxes(np.linalg.solve(np.swapaxes(C, -1, -2), np.swapaxes(half, -1, -2)), -1, -2)
    return np.asarray(0.5 * (found + np.swapaxes(found, -1, -2)))


@compiled
def add_joint(T: Array, starts: Ints, covariance: Array, out: Array) -> None:
    """Add T covariance T' to out (H, S, k, Q, k, Q), for a covariance (H, S, q, r k, r k) of r uses of one function."""
    H, S, k, Q, _ = T.shape
    q, uses = covariance.shape[2], len(starts)
    for h in range(H):
        for s in range(S):
            for j in range(q):
                for x in range(uses):
                    for a in range(k):
                        for y in range(uses):
                            for b in range(k):
                                c = covariance[h, s, j, x * k + a, y * k + b]
                                if c == 0.0:
                                    continue
                                for i in range(Q):
                                    t = T[h, s, a, i, starts[x] + j] * c
                                    if t == 0.0:
                                        continue
                                    for m in range(Q):
                                        out[h, s, a, i, b, m] += t * T[h, s, b, m, starts[y] + j]


@compiled
def joint_reverse(T: Array, starts: Ints, covariance: Array, bar: Array, T_bar: Array) -> Array:
    """Add to T_bar (H, k, Q, R), and return, the derivatives by the covariance (H, q, r k, r k), of `add_joint`."""
    H, k, Q, _ = T.shape
    q, uses = covariance.shape[1], len(starts)
    out = np.zeros(covariance.shape)
    for h in range(H):
        for j in range(q):
            for x in range(uses):
                for a in range(k):
                    for y in range(uses):
                        for b in range(k):
                            c = covariance[h, j, x * k + a, y * k + b]
                            total = 0.0
                            for i in range(Q):
                                s = 0.0
                                for m in range(Q):
                                    s += bar[h, a, i, b, m] * T[h, b, m, starts[y] + j]
                                total += T[h, a, i, starts[x] + j] * s
                                T_bar[h, a, i, starts[x] + j] += 2.0 * c * s
                            out[h, j, x * k + a, y * k + b] = total
    return out
