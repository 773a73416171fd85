"""A chain whose links' errors are inputs: given them, what a member takes is known, and only the last errors are left.

The first-order route of `linked` expands a member in the error of what it takes. Here that error is sampled beside the
parameters, so that nothing is expanded: the scores that links pass on are

    s(U) = mean(U) + L(U) eta,   eta ~ N(0, I),   L L' = covariance between the member's inputs U that were observed,

one eta for all that takes them. The other scores keep their error.

==========  ==========================================================================  ====================
symbol      meaning                                                                     shape
==========  ==========================================================================  ====================
G           different parameters among the inputs of a call: 1, or each input its own   ()
K           inputs of a member under the observed conditions (anchors)                  ()
eta         errors of its passed-on scores, and of what its truncation passes on        (K, latents)
s           its scores at the anchors                                                   (H, S, G, K, q)
==========  ==========================================================================  ====================
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
from numpy.typing import ArrayLike

from uqms._typing import Array, Ints, RandomState
from uqms.errors import ConformanceError, InputError
from uqms.parameters import Box
from uqms.surrogates.linked import Graph, cholesky_reverse
from uqms.surrogates.outputs import Decoder, Layout
from uqms.surrogates.plugging import draws_from_scores
from uqms.surrogates.process import Scores
from uqms.surrogates.protocol import FunctionDraws

if TYPE_CHECKING:
    from uqms.surrogates.chain import Chain

__all__ = ["REACH", "SampledChain", "sampled_chain"]

REACH = 8.0  # of an error's range, in standard deviations
JITTER = 1e-10  # of the largest variance at the anchors
SAME = 1e-9  # of the unit cube


def add_at(total: Array, where: Any, values: Array) -> None:
    """Add values at places that may be there several times; slices among them are whole axes."""
    np.add.at(total, where, values)


class _Passed(NamedTuple):
    """What a member passes on.

    Attributes
    ----------
    use
        Its place in the graph.
    scores
        Its own scores that links take, (p,).
    anchors
        Conditions (K, c) of its inputs in the unit cube, in the order of the conditions that decide.
    of_rows
        Columns of those conditions among the chain's inputs, (c,).
    eta
        Place (K, p + t) of each error among the inputs of the sampled chain; of p scores, then of t errors of
        truncation.
    source
        Its place among the sources of truncation, -1 where it passes none on.
    """

    use: int
    scores: Ints
    anchors: Array
    of_rows: Ints
    eta: Ints
    source: int


def sampled_chain(chain: "Chain", graph: Graph, conditions: Mapping[str, ArrayLike]) -> "SampledChain":
    """Return the chain with the errors of its links as inputs, for experiments under the given conditions.

    Raises
    ------
    ConformanceError
        When a surrogate is used twice, or errors of scores of a member that passes some on are correlated.
    """
    if len(graph.functions) < len(graph.uses):
        raise ConformanceError(
            "Chain: one surrogate is used twice, so that errors of its links depend on each other at inputs that are "
            "not known before. They are taken to first order: expansion='first-order'."
        )
    box = chain.domain
    known = {name: np.atleast_1d(np.asarray(values, dtype=np.float64)) for name, values in conditions.items()}
    columns = {name: box.names.index(name) for name in known}
    passed, names, at = [], list(box.names), box.d
    for m, use in enumerate(graph.uses):
        ports = [port for other in graph.uses for port in other.ports if port.source == m]
        if not ports:
            continue
        if graph.correlated[use.function]:
            raise ConformanceError(
                f"Chain: errors of the scores of {chain.order[m]!r} are correlated, and are not sampled one by one. "
                "They are taken to first order: expansion='first-order'."
            )
        scores = np.flatnonzero(np.any([port.basis != 0.0 for port in ports], axis=0))
        own = [name for name, j in columns.items() if j in use.decided]
        of_rows = np.array([columns[name] for name in own], dtype=np.int64)
        table = np.zeros((1, 0))
        if own:
            values = np.column_stack([box.maps[columns[name]].forward(known[name]) for name in own])
            table = np.unique(values, axis=0)
        source = graph.sources.index(m) if m in graph.sources else -1
        count = len(scores) + (0 if source < 0 else graph.truncations[source].shape[1])
        eta = at + np.arange(len(table) * count).reshape(len(table), count)
        names += [f"{chain.order[m]}.error[{i}]" for i in range(eta.size)]
        at += eta.size
        passed.append(_Passed(m, scores, table, of_rows, eta, source))
    extra = at - box.d
    wide = Box(
        tuple(names),
        (*box.lower, *[-REACH] * extra),
        (*box.upper, *[REACH] * extra),
        (*box.scale, *["identity"] * extra),  # type: ignore[arg-type]
        (*box.hard, *[(False, False)] * extra),
    )
    return SampledChain(chain, graph, wide, tuple(passed))


class _Step(NamedTuple):
    """Of one use: inputs at the anchors and at the rows, and what the way back needs of its passed-on scores."""

    v: Array  # (H, S G, K, d), or (0, ...) of one that passes nothing on
    v_rows: Array  # (H, S, k, d)
    L: Array  # (H, S G, p, K, K)
    links: Array  # (H, S, G, K, L), y at the anchors
    links_rows: Array  # (H, S, k, L)


@final
@dataclass(frozen=True, eq=False)
class SampledChain:
    """A chain given the errors of its links, which are inputs of their own, standard normal and the same for all data.

    `Calibration` makes it where the first-order expansion of a chain loses too much, or with ``expansion="none"``.

    Attributes
    ----------
    chain
        The chain as it was.
    domain
        Its box, with an input "member.error[i]" for each error.
    """

    chain: "Chain"
    graph: Graph
    domain: Box
    passed: tuple[_Passed, ...]
    attrs: Mapping[str, str] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[str, ...]:
        """Names of the errors."""
        return self.domain.names[self.chain.domain.d :]

    @property
    def layouts(self) -> Mapping[str, Layout]:
        """Those of the chain."""
        return self.chain.layouts

    @property
    def runs(self) -> int:
        """Number of runs that the members were trained on."""
        return self.chain.runs

    @property
    def differentiable(self) -> bool:
        """Whether all members have derivatives."""
        return self.chain.differentiable

    @property
    def point_estimated(self) -> bool:
        """Whether hyperparameters of a member are single values although its runs are few."""
        return self.chain.point_estimated

    @property
    def noise(self) -> None:
        """Simulators of a chain are deterministic."""
        return None

    def __repr__(self) -> str:
        return f"<SampledChain: {self.chain!r}; {len(self.errors)} errors of links are sampled>"

    def inputs_of(self, output: str) -> tuple[str, ...]:
        """Return the chain's inputs that an output depends on, and none of the errors: these are no conditions."""
        return self.chain.inputs_of(output)

    def decode(self, output: str, coords: Mapping[str, ArrayLike] | None = None) -> Decoder:
        """Return the rows of an output, see `Chain.decode`."""
        return self.chain.decode(output, coords)

    def functions(self, n: int, rng: RandomState) -> FunctionDraws:
        """Return n draws of the whole function, made of the scores."""
        return draws_from_scores(self, n, rng)

    @cached_property
    def _passed(self) -> dict[int, _Passed]:
        return {one.use: one for one in self.passed}

    def scores(self, u: Array) -> Scores:
        """Return mean (H, ..., k, q) and covariance (H, ..., q, k, k) at inputs (..., k, d), errors of links included.

        Raises
        ------
        InputError
            Under conditions of a member that passes something on which were not observed.
        """
        u = np.asarray(u, dtype=np.float64)
        lead, (k, d), h, q = u.shape[:-2], u.shape[-2:], self.graph.draws, self.graph.size
        mean, covariance, _ = self._forward(u.reshape(-1, k, d))
        return Scores(
            mean.reshape(h, *lead, k, q), covariance.reshape(h, *lead, q, k, k), np.full(h, -np.log(float(h)))
        )

    def _groups(self, u: Array) -> int:
        """Return 1 where all inputs of each S have the same parameters and errors, else their number."""
        conditions = {int(j) for one in self.passed for j in one.of_rows}
        own = [j for j in range(u.shape[-1]) if j not in conditions and self._before(j)]
        return 1 if np.all(u[:, :, own] == u[:, :1, own]) else u.shape[1]

    def _before(self, j: int) -> bool:
        """Return whether an input decides what is passed on."""
        if j >= self.chain.domain.d:
            return True
        return any(j in self.graph.uses[one.use].decided for one in self.passed)

    def _places(self, one: _Passed, u: Array) -> Ints:
        """Return which anchor (S, k) each input belongs to."""
        if not len(one.of_rows):
            return np.zeros(u.shape[:2], dtype=np.int64)
        apart = np.abs(u[:, :, None, one.of_rows] - one.anchors).max(axis=-1)
        found = apart.argmin(axis=-1)
        if (np.take_along_axis(apart, found[..., None], -1) > SAME).any():
            name = self.chain.order[one.use]
            conditions = ", ".join(self.domain.names[j] for j in one.of_rows)
            raise InputError(
                f"Errors of what {name!r} passes on were sampled under the observed conditions ({conditions}), and are "
                "not known under others. Calibrate with expansion='first-order' to predict there."
            )
        return np.asarray(found)

    def _forward(self, u: Array) -> tuple[Array, Array, list[_Step]]:
        (S, k, _), H, Q = u.shape, self.graph.draws, self.graph.size
        G = self._groups(u)
        own = u[:, :1] if G == 1 else u  # (S, G, d)
        mean, covariance = np.empty((H, S, k, Q)), np.zeros((H, S, Q, k, k))
        values: dict[int, Array] = {}
        truncated: dict[int, Array] = {}
        steps: list[_Step] = []
        group = np.zeros(k, dtype=np.int64) if G == 1 else np.arange(k)
        batch, place = np.arange(S)[:, None], {m: self._places(one, u) for m, one in self._passed.items()}
        for m, use in enumerate(self.graph.uses):
            function, passed = self.graph.functions[use.function], self._passed.get(m)
            L = len(use.ports)
            v, roots, links = np.empty((H, 0, 0, use.d)), np.empty((H, 0, 0, 0, 0)), np.empty((H, S, G, 0, L))
            if passed is not None:
                K = len(passed.anchors)
                inner = np.empty((H, S, G, K, use.d))
                for one in use.own:
                    inner[..., one.column] = one.at(self._at_anchors(passed, own, one.of_chain))
                links = np.empty((H, S, G, K, L))
                for i, port in enumerate(use.ports):
                    up = self._passed[port.source]
                    rows = self._up(passed, up)
                    y = port.offset + values[port.source][:, :, :, rows] @ port.basis
                    links[..., i] = y + self._left_out(up, m, i, truncated, (S, G))[..., rows]
                    inner[..., port.column] = port.at(links[..., i])
                v = inner.reshape(H, S * G, K, use.d)
                centre, between = function.joint(v)
                part = between[:, :, passed.scores]
                size = np.maximum(part[..., np.arange(K), np.arange(K)].max(axis=-1), 1e-300)
                roots = np.linalg.cholesky(part + JITTER * size[..., None, None] * np.eye(K))
                p = len(passed.scores)
                eta = self._eta(passed, own)[:, :, :, :p].reshape(1, S * G, K, p)
                centre[..., passed.scores] += np.einsum(
                    "hspkl,hslp->hskp", roots, np.broadcast_to(eta, (H, *eta.shape[1:]))
                )
                values[m] = centre.reshape(H, S, G, K, -1)
                if passed.source >= 0:
                    truncated[m] = self._eta(passed, own)[:, :, :, p:]
            v_rows, links_rows = np.empty((H, S, k, use.d)), np.empty((H, S, k, L))
            for one in use.own:
                v_rows[..., one.column] = one.at(u[..., one.of_chain])
            for i, port in enumerate(use.ports):
                up, at = self._passed[port.source], place[port.source]
                y = port.offset + values[port.source][:, batch, group, at] @ port.basis
                links_rows[..., i] = y + self._left_out(up, m, i, truncated, (S, G))[batch, group, at]
                v_rows[..., port.column] = port.at(links_rows[..., i])
            centre, between = function.joint(v_rows)
            mean[..., use.scores], whole = centre, np.array(between)
            if passed is not None:
                known = np.arange(Q)[use.scores][passed.scores]
                mean[..., known] = values[m][:, batch, group, place[m]][..., passed.scores]
                whole[:, :, passed.scores] = 0.0
            covariance[:, :, use.scores] = whole
            steps.append(_Step(v, v_rows, roots, links, links_rows))
        return mean, covariance, steps

    def _at_anchors(self, passed: _Passed, own: Array, column: int) -> Array:
        """Return an input of the chain at the anchors, (S, G, K): a condition of theirs, or a parameter."""
        K = len(passed.anchors)
        if column in passed.of_rows:
            values = passed.anchors[:, int(np.flatnonzero(passed.of_rows == column)[0])]
            return np.broadcast_to(values, (*own.shape[:2], K))
        return np.broadcast_to(own[..., column, None], (*own.shape[:2], K))

    def _eta(self, passed: _Passed, own: Array) -> Array:
        """Return the errors (S, G, K, p + t), standard normal."""
        return np.asarray(REACH * (2.0 * own[..., passed.eta] - 1.0))

    def _up(self, passed: _Passed, up: _Passed) -> Ints:
        """Return which anchor (K,) of a member each anchor of one that takes its outputs belongs to."""
        columns = [int(np.flatnonzero(passed.of_rows == j)[0]) for j in up.of_rows]
        if not columns:
            return np.zeros(len(passed.anchors), dtype=np.int64)
        apart = np.abs(passed.anchors[:, None, columns] - up.anchors).max(axis=-1)
        return np.asarray(apart.argmin(axis=-1))

    def _left_out(self, up: _Passed, m: int, port: int, truncated: Mapping[int, Array], lead: tuple[int, int]) -> Array:
        """Return what the truncation of a member adds to a link, (S, G, K)."""
        row = self._row(up, m, port)
        if row is None:
            return np.zeros((*lead, len(up.anchors)))
        return np.asarray(truncated[up.use] @ row)

    def _row(self, up: _Passed, m: int, port: int) -> Array | None:
        if up.source < 0:
            return None
        receivers = self.graph.receivers[up.source]
        return np.asarray(self.graph.truncations[up.source][receivers.index((m, port))])

    def scores_reverse(self, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
        """Return the derivative (k, d) of sum(mean * mean_bar) + sum(covariance * covariance_bar) at `u` (k, d)."""
        u = np.ascontiguousarray(u, dtype=np.float64)
        (k, d), H = u.shape, self.graph.draws
        _, _, steps = self._forward(u[None])
        G = self._groups(u[None])
        own = u[None, :1] if G == 1 else u[None]
        group = np.zeros(k, dtype=np.int64) if G == 1 else np.arange(k)
        place = {m: self._places(one, u[None])[0] for m, one in self._passed.items()}
        out, own_bar = np.zeros_like(u), np.zeros((G, d))
        value_bar = {m: np.zeros((H, G, len(one.anchors), self._size(m))) for m, one in self._passed.items()}
        left_bar = {m: np.zeros((G, len(one.anchors), one.eta.shape[1])) for m, one in self._passed.items()}
        for m in range(len(self.graph.uses))[::-1]:
            use, step, passed = self.graph.uses[m], steps[m], self._passed.get(m)
            function = self.graph.functions[use.function]
            rows_mean, rows_bar = np.array(mean_bar[..., use.scores]), np.array(covariance_bar[:, use.scores])
            if passed is not None:
                self._add(value_bar[m], passed, group, place[m], rows_mean)
                rows_mean[..., passed.scores], rows_bar[:, passed.scores] = 0.0, 0.0
            v_bar = function.joint_reverse(step.v_rows[:, 0], rows_mean, rows_bar)
            for one in use.own:
                out[:, one.of_chain] += v_bar[..., one.column].sum(axis=0) * one.slope(u[:, one.of_chain])
            for i, port in enumerate(use.ports):
                y_bar = v_bar[..., port.column] * port.slope(step.links_rows[:, 0, :, i])  # (H, k)
                up = self._passed[port.source]
                add_at(value_bar[port.source], (slice(None), group, place[port.source]), y_bar[..., None] * port.basis)
                if (row := self._row(up, m, i)) is not None:
                    add_at(
                        left_bar[port.source][..., len(up.scores) :],
                        (group, place[port.source]),
                        y_bar.sum(axis=0)[:, None] * row,
                    )
            if passed is None:
                continue
            K, p = len(passed.anchors), len(passed.scores)
            eta = self._eta(passed, own)[0]  # (G, K, p + t)
            inner = step.v.reshape(H, G, K, use.d)
            root = step.L.reshape(H, G, p, K, K)
            for g in range(G):
                s_bar = value_bar[m][:, g]  # (H, K, q)
                passed_bar = s_bar[..., passed.scores]
                left_bar[m][g, :, :p] += np.einsum("hpkl,hkp->lp", root[:, g], passed_bar)
                L_bar = np.einsum("hkp,lp->hpkl", passed_bar, eta[g, :, :p])
                between_bar = np.zeros((H, s_bar.shape[-1], K, K))
                between_bar[:, passed.scores] = cholesky_reverse(root[:, g], L_bar)
                inner_bar = function.joint_reverse(inner[:, g], s_bar, between_bar)  # (H, K, d)
                for one in use.own:
                    if one.of_chain in passed.of_rows:
                        continue  # a known condition
                    slope = one.slope(own[0, g, one.of_chain])
                    own_bar[g, one.of_chain] += inner_bar[..., one.column].sum() * slope
                for i, port in enumerate(use.ports):
                    up = self._passed[port.source]
                    rows = self._up(passed, up)
                    y_bar = inner_bar[..., port.column] * port.slope(step.links[:, 0, g, :, i])  # (H, K)
                    add_at(value_bar[port.source][:, g], (slice(None), rows), y_bar[..., None] * port.basis)
                    if (row := self._row(up, m, i)) is not None:
                        add_at(left_bar[port.source][g, :, len(up.scores) :], rows, y_bar.sum(axis=0)[:, None] * row)
            own_bar[:, passed.eta] += 2.0 * REACH * left_bar[m]
        if G == 1:
            out[0] += own_bar[0]  # all rows have these parameters: their derivatives are summed by the caller
            return out
        return np.asarray(out + own_bar)

    def _size(self, m: int) -> int:
        scores = self.graph.uses[m].scores
        return int(scores.stop - scores.start)

    @staticmethod
    def _add(value_bar: Array, passed: _Passed, group: Ints, place: Ints, rows_mean: Array) -> None:
        only = np.zeros_like(rows_mean)
        only[..., passed.scores] = rows_mean[..., passed.scores]
        add_at(value_bar, (slice(None), group, place), only)
