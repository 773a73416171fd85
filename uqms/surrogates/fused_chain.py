"""Compiled scores of a chain whose members are the library's own processes, and their derivative; see `linked`.

`linked` is the same mathematics for members of any kind, in arrays over all draws; a test compares the two. This module
evaluates one draw h at a time, as the compiled likelihood does. The block begins like the block of a process, but has
n = 0, which marks a chain.

==========  ==========================================================================================================
part        holds
==========  ==========================================================================================================
header      H, number of used scores, 0, d, 0, 0, 0, whether derivatives of rows may stand together, 0, 0; H log weights
counts      Q, R, number of uses, functions and sources, then where these tables and the used scores begin
use         function, d, first score, q, number of own inputs and their place, number of ports and their place, which
            use of its function it is, number of inputs that decide, and their place
function    place of its process, of its draws (H,), q, n, b, number of uses, and length of its process
source      use, first of its own errors, their number
own         column, input of the chain, whether both are the same, maps inside and outside: code, low, width
port        column, source, offset, transform (3), map (3), least, basis and its length, first own error of the
            truncation, number, and place of the coefficients
==========  ==========================================================================================================
"""

import math
from typing import TYPE_CHECKING

import numpy as np

from uqms._compiled import compiled
from uqms._native import A1, A2, NONE, I, deferred
from uqms._typing import Array, Ints
from uqms.parameters.scale import BELOW, UnitMap
from uqms.surrogates.fused import HEADER, forward, reverse
from uqms.surrogates.fused_transforms import respond

if TYPE_CHECKING:
    from uqms.surrogates.linked import Graph

__all__ = ["chain_block", "chain_scores", "chain_scores_reverse", "chain_size", "linked_forward", "linked_reverse"]

COUNTS, USE, FUNCTION, SOURCE, OWN, PORT = 9, 11, 7, 3, 9, 15
PARTS = 8  # arrays of a use
ROOT3 = math.sqrt(3.0)


def chain_block(graph: "Graph", used: Ints, d: int, together: bool = False) -> Array | None:
    """Return the block of a chain for some of its scores; None where a member is not the library's own process.

    With `together` a member without links is evaluated once at rows where its inputs are the same, and the derivatives
    by all of them stand at the first of these rows: for callers that sum over rows.
    """
    processes = [getattr(one.surrogate, "compiled_process", None) for one in graph.functions]
    if any(one is None for one in processes):
        return None
    H = graph.draws
    head = [H, len(used), 0, d, 0, 0, 0, float(together), 0, 0, *np.full(H, -math.log(H))]
    begin = len(head) + COUNTS
    tables = (len(graph.uses) * USE, len(graph.functions) * FUNCTION, len(graph.sources) * SOURCE)
    places = [begin, begin + tables[0], begin + tables[0] + tables[1]]
    rest: list[float] = []
    start = begin + sum(tables)

    def put(values: object) -> int:
        at = start + len(rest)
        rest.extend(np.ravel(np.asarray(values, dtype=np.float64)).tolist())
        return at

    used_at = put(used)
    errors = [int(one) for one in graph.size + np.cumsum([0, *(rows.shape[1] for rows in graph.truncations)])]
    passed = {
        pair: (errors[i], row)
        for i, (rows, of) in enumerate(zip(graph.truncations, graph.receivers, strict=True))
        for row, pair in zip(rows, of, strict=True)
    }
    uses, times = [], [0] * len(graph.functions)
    for m, use in enumerate(graph.uses):
        own = [[one.column, one.of_chain, one.inside is None, *_map(one.inside), *_map(one.outside)] for one in use.own]
        ports = []
        for i, port in enumerate(use.ports):
            first, row = passed.get((m, i), (0, np.zeros(0)))
            ports.append(
                [port.column, port.source, port.offset, *port.transform.numbers, *_map(port.inside), port.least]
                + [put(port.basis), len(port.basis), first, len(row), put(row)]
            )
        size = use.scores.stop - use.scores.start
        uses.append(
            [use.function, use.d, use.scores.start, size, len(own), put(own), len(ports), put(ports)]
            + [times[use.function], len(use.decided), put(use.decided)]
        )
        times[use.function] += 1
    functions = []
    for f, one in enumerate(graph.functions):
        process = processes[f]
        assert process is not None
        block, draws = process.flat(), put(one.draws)
        functions.append([put(block), draws, process.q, len(process.x), process.beta.shape[2], times[f], len(block)])
    sources = [[m, errors[i], errors[i + 1] - errors[i]] for i, m in enumerate(graph.sources)]
    counts = [graph.size, graph.errors, len(uses), len(functions), len(sources), *places, used_at]
    parts = (head, counts, np.ravel(uses), np.ravel(functions), np.ravel(sources), rest)
    return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])


def _map(one: UnitMap | None) -> tuple[float, float, float]:
    return (0.0, 0.0, 1.0) if one is None else (float(one.scale.code), one.low, one.width)


@compiled
def _to_unit(code: float, low: float, width: float, x: float, slope: Array) -> float:
    """Return u of x, and fill its slope; see `UnitMap`."""
    s = x
    slope[0] = 1.0 / width
    if code == 1.0:
        turn = low - BELOW * width
        at = math.exp(turn)
        if x < at:
            s = turn + (x - at) / at
            slope[0] /= at
        else:
            s = math.log(x)
            slope[0] /= x
    elif code == 2.0:
        s = math.log(x) - math.log1p(-x)
        slope[0] /= x * (1.0 - x)
    return (s - low) / width


@compiled
def _from_unit(code: float, low: float, width: float, u: float, slope: Array) -> float:
    """Return x of u, and fill its slope."""
    s = low + u * width
    slope[0] = width
    if code == 1.0:
        turn = low - BELOW * width
        at = math.exp(turn)
        if s < turn:
            slope[0] *= at
            return at + (s - turn) * at
        x = math.exp(s)
        slope[0] *= x
        return x
    if code == 2.0:
        x = 1.0 / (1.0 + math.exp(-s))
        slope[0] *= x * (1.0 - x)
        return x
    return s


@compiled
def _own(row: Array, u: float, slope: Array) -> float:
    """Return the member's input for that of the chain, and fill the slope."""
    if row[2] > 0.0:
        slope[0] = 1.0
        return u
    x = _from_unit(row[6], row[7], row[8], u, slope)
    by_u = slope[0]
    v = _to_unit(row[3], row[4], row[5], x, slope)
    slope[0] *= by_u
    return float(v)


@compiled
def _port(row: Array, y: float, slope: Array, slopes: Array) -> float:
    """Return the member's input for a link, and fill the slope; `slopes` (2,) is room."""
    x = respond(row[3:6], 0, y, slopes)
    v = _to_unit(row[6], row[7], row[8], x, slope)
    slope[0] *= slopes[0]
    return float(v)


@compiled
def _places(block: Array, K: int, of_uses: Ints, of_functions: Ints) -> int:
    """Fill where in the room each use and function has its arrays, and return the size of all."""
    c = HEADER + int(block[0])
    Q, R, M, F = int(block[c]), int(block[c + 1]), int(block[c + 2]), int(block[c + 3])
    total = K * Q + K * Q * R + K * R * R
    for m in range(M):
        row = int(block[c + 5]) + m * USE
        d, q, L = int(block[row + 1]), int(block[row + 3]), int(block[row + 6])
        n = int(block[int(block[c + 6]) + int(block[row]) * FUNCTION + 3])
        outer = K * 2 * L
        sizes = (K * d, outer * d, K * L, outer * L, K * L * R, K * L * L, K * q * L, q * outer * n)
        for i in range(PARTS):
            of_uses[m * PARTS + i] = total
            total += sizes[i]
    for f in range(F):
        row = int(block[c + 6]) + f * FUNCTION
        q, n, b, r = int(block[row + 2]), int(block[row + 3]), int(block[row + 4]), int(block[row + 5])
        d = int(block[int(block[row]) + 3])
        lengths = (r * K * d, q * r * K * n, q * r * K * n, q * r * K * b, q * r * K * r * K)
        for i in range(5):
            of_functions[f * 5 + i] = total
            total += lengths[i]
    return total


@compiled
def chain_size(block: Array, K: int) -> int:
    """Return how many numbers `linked_forward` needs room for."""
    c = HEADER + int(block[0])
    of_uses, of_functions = np.empty(PARTS * int(block[c + 2]), np.int64), np.empty(5 * int(block[c + 3]), np.int64)
    return int(_places(block, K, of_uses, of_functions))


@compiled
def _factor(P: Array, C: Array) -> None:
    """Fill the Cholesky factor of a small matrix."""
    L = P.shape[0]
    for i in range(L):
        for j in range(L):
            C[i, j] = 0.0
        for j in range(i + 1):
            s = P[i, j]
            for k in range(j):
                s -= C[i, k] * C[j, k]
            C[i, j] = math.sqrt(max(s, 1e-300)) if i == j else s / C[j, j]


@compiled
def _first_rows(block: Array, m: int, u: Array, first: Ints) -> int:
    """Fill which different row (K,) each one is, in the order of their first, and return how many there are."""
    c, count = HEADER + int(block[0]), 0
    row = int(block[c + 5]) + m * USE
    alone = int(block[row + 6]) == 0 and int(block[int(block[c + 6]) + int(block[row]) * FUNCTION + 5]) == 1
    for a in range(u.shape[0]):
        first[a] = -1
        if alone and block[7] > 0.0:
            for k in range(a):
                if _same(block, m, u, a, k):
                    first[a] = first[k]
                    break
        if first[a] < 0:
            first[a] = count
            count += 1
    return count


@deferred(NONE, A1, I, A2, A1, A1)
def linked_forward(block: Array, h: int, u: Array, parts: Array, work: Array) -> None:
    """Fill the mean (K q,) and the joint covariance (K q, K q) of the used scores at u (K, d), and the room."""
    c, K = HEADER + int(block[0]), u.shape[0]
    Q, R, M, F = int(block[c]), int(block[c + 1]), int(block[c + 2]), int(block[c + 3])
    of_uses, of_functions = np.empty(PARTS * M, np.int64), np.empty(5 * F, np.int64)
    _places(block, K, of_uses, of_functions)
    mean = work[: K * Q].reshape(K, Q)
    T = work[K * Q : K * Q + K * Q * R].reshape(K, Q, R)
    local = work[K * Q + K * Q * R : K * Q + K * Q * R + K * R * R].reshape(K, R, R)
    T[:] = 0.0
    local[:] = 0.0
    for a in range(K):
        for e in range(Q, R):
            local[a, e, e] = 1.0
    slope, slopes, none = np.empty(1), np.empty(2), np.empty((0, 0))
    for m in range(M):
        row = int(block[c + 5]) + m * USE
        f, d, first, q = int(block[row]), int(block[row + 1]), int(block[row + 2]), int(block[row + 3])
        owns, own_at, L, ports_at = int(block[row + 4]), int(block[row + 5]), int(block[row + 6]), int(block[row + 7])
        time = int(block[row + 8])
        at = of_uses[m * PARTS : (m + 1) * PARTS]
        v = work[at[0] : at[0] + K * d].reshape(K, d)
        outer = work[at[1] : at[1] + K * 2 * L * d].reshape(K, 2 * L, d)
        y = work[at[2] : at[2] + K * L].reshape(K, L)
        outer_y = work[at[3] : at[3] + K * 2 * L * L].reshape(K, 2 * L, L)
        A = work[at[4] : at[4] + K * L * R].reshape(K, L, R)
        C = work[at[5] : at[5] + K * L * L].reshape(K, L, L)
        J = work[at[6] : at[6] + K * q * L].reshape(K, q, L)
        at_outer, slopes_at, P = at[1], at[7], np.empty((L, L))
        for a in range(K):
            for i in range(L):
                p = ports_at + i * PORT
                source = int(block[c + 5]) + int(block[p + 1]) * USE
                s0, basis = int(block[source + 2]), int(block[p + 10])
                y[a, i] = block[p + 2]
                for e in range(R):
                    A[a, i, e] = 0.0
                for j in range(int(block[p + 11])):
                    w = block[basis + j]
                    if w != 0.0:
                        y[a, i] += w * mean[a, s0 + j]
                        for e in range(R):
                            A[a, i, e] += w * T[a, s0 + j, e]
                for j in range(int(block[p + 13])):
                    A[a, i, int(block[p + 12]) + j] = block[int(block[p + 14]) + j]
            for i in range(L):
                for j in range(i + 1):
                    s = 0.0
                    for e in range(R):
                        if A[a, i, e] != 0.0:
                            r = 0.0
                            for g in range(R):
                                r += local[a, e, g] * A[a, j, g]
                            s += A[a, i, e] * r
                    if i == j:
                        s += block[ports_at + i * PORT + 9] ** 2
                    P[i, j] = s
            _factor(P, C[a])
            for i in range(L):
                for j in range(L):
                    outer_y[a, j, i] = y[a, i] + ROOT3 * C[a, i, j]
                    outer_y[a, L + j, i] = y[a, i] - ROOT3 * C[a, i, j]
            for i in range(owns):
                p = own_at + i * OWN
                column = int(block[p])
                v[a, column] = _own(block[p : p + OWN], u[a, int(block[p + 1])], slope)
                for j in range(2 * L):
                    outer[a, j, column] = v[a, column]
            for i in range(L):
                p = ports_at + i * PORT
                column = int(block[p])
                v[a, column] = _port(block[p : p + PORT], y[a, i], slope, slopes)
                for j in range(2 * L):
                    outer[a, j, column] = _port(block[p : p + PORT], outer_y[a, j, i], slope, slopes)
        own_row = int(block[c + 6]) + f * FUNCTION
        begin, length, n, b = (
            int(block[own_row]),
            int(block[own_row + 6]),
            int(block[own_row + 3]),
            int(block[own_row + 4]),
        )
        process, draw = block[begin : begin + length], int(block[int(block[own_row + 1]) + h])
        W = (time + 1) * K  # inputs of this function so far
        at = of_functions[f * 5 : f * 5 + 5]
        x = work[at[0] : at[0] + W * d].reshape(W, d)
        x[time * K :] = v
        means = np.empty(W)
        covariance = work[at[4] : at[4] + q * W * W].reshape(q, W, W)
        which = np.empty(K, np.int64)
        different = _first_rows(block, m, u, which)
        if different < K:
            few, between = np.empty((different, d)), np.empty((different, different))
            for a in range(K - 1, -1, -1):
                few[which[a]] = v[a]
            for j in range(q):
                U = different
                kg = work[at[1] + j * W * n : at[1] + j * W * n + U * n].reshape(U, n)
                t = work[at[2] + j * W * n : at[2] + j * W * n + U * n].reshape(U, n)
                trend = work[at[3] + j * W * b : at[3] + j * W * b + U * b].reshape(U, b)
                forward(process, draw, j, few, means, between, kg, t, trend)
                for a in range(K):
                    mean[a, first + j] = means[which[a]]
                    for k in range(K):
                        covariance[j, a, k] = between[which[a], which[k]]
        else:
            for j in range(q):
                kg = work[at[1] + j * W * n : at[1] + (j + 1) * W * n].reshape(W, n)
                t = work[at[2] + j * W * n : at[2] + (j + 1) * W * n].reshape(W, n)
                trend = work[at[3] + j * W * b : at[3] + (j + 1) * W * b].reshape(W, b)
                forward(process, draw, j, x, means, covariance[j], kg, t, trend)
                for a in range(K):
                    mean[a, first + j] = means[time * K + a]
        for other in range(m + 1):
            place = int(block[c + 5]) + other * USE
            if int(block[place]) == f:
                o, start = int(block[place + 8]), int(block[place + 2])
                for j in range(q):
                    for a in range(K):
                        local[a, first + j, start + j] = covariance[j, time * K + a, o * K + a]
                        local[a, start + j, first + j] = covariance[j, time * K + a, o * K + a]
        points, found = K * 2 * L, np.empty((q, K * 2 * L))
        if L:
            flat = work[at_outer : at_outer + points * d].reshape(points, d)
            for j in range(q):
                kg = work[slopes_at + j * points * n : slopes_at + (j + 1) * points * n].reshape(points, n)
                forward(process, draw, j, flat, found[j], none, kg, none, none)
        for a in range(K):
            for j in range(q):
                if L:
                    total = mean[a, first + j] * (1.0 - L / 3.0)
                    for i in range(2 * L):
                        total += found[j, a * 2 * L + i] / 6.0
                    mean[a, first + j] = total
                # J C = slope: from the last column on, since C is lower triangular.
                for i in range(L - 1, -1, -1):
                    s = (found[j, a * 2 * L + i] - found[j, a * 2 * L + L + i]) / (2.0 * ROOT3)
                    for e in range(i + 1, L):
                        s -= J[a, j, e] * C[a, e, i]
                    J[a, j, i] = s / C[a, i, i]
                for i in range(L):
                    for e in range(R):
                        T[a, first + j, e] += J[a, j, i] * A[a, i, e]
                T[a, first + j, first + j] += 1.0
    _joint(block, u, T, work, of_functions, parts)


@compiled
def _joint(block: Array, u: Array, T: Array, work: Array, of_functions: Ints, parts: Array) -> None:
    """Fill the parts from mean, T and the covariances of the functions."""
    c, K = HEADER + int(block[0]), u.shape[0]
    Q, M, F, S = int(block[c]), int(block[c + 2]), int(block[c + 3]), int(block[c + 4])
    q = int(block[1])
    used = _used(block)
    N = K * q
    for a in range(K):
        for i in range(q):
            parts[a * q + i] = work[a * Q + used[i]]
    out = parts[N : N + N * N].reshape(N, N)
    out[:] = 0.0
    for f in range(F):
        row = int(block[c + 6]) + f * FUNCTION
        size, W = int(block[row + 2]), int(block[row + 5]) * K
        covariance = work[of_functions[f * 5 + 4] : of_functions[f * 5 + 4] + size * W * W].reshape(size, W, W)
        for m in range(M):
            one = int(block[c + 5]) + m * USE
            if int(block[one]) != f:
                continue
            for o in range(M):
                other = int(block[c + 5]) + o * USE
                if int(block[other]) != f:
                    continue
                first, second = int(block[one + 2]), int(block[other + 2])
                rows, columns = int(block[one + 8]) * K, int(block[other + 8]) * K
                for j in range(size):
                    e, g = first + j, second + j
                    for a in range(K):
                        for i in range(q):
                            w = T[a, used[i], e]
                            if w == 0.0:
                                continue
                            for k in range(K):
                                s = w * covariance[j, rows + a, columns + k]
                                for r in range(q):
                                    out[a * q + i, k * q + r] += s * T[k, used[r], g]
    for s in range(S):
        row = int(block[c + 7]) + s * SOURCE
        first, count = int(block[row + 1]), int(block[row + 2])
        for a in range(K):
            for k in range(K):
                if not _same(block, int(block[row]), u, a, k):
                    continue
                for e in range(first, first + count):
                    for i in range(q):
                        for r in range(q):
                            w = T[a, used[i], e] * T[k, used[r], e]
                            out[a * q + i, k * q + r] += w


@compiled
def _used(block: Array) -> Ints:
    """Return which of all scores are used."""
    at, out = int(block[HEADER + int(block[0]) + 8]), np.empty(int(block[1]), np.int64)
    for i in range(len(out)):
        out[i] = int(block[at + i])
    return out


@compiled
def _same(block: Array, m: int, u: Array, a: int, k: int) -> bool:
    """Return whether two inputs are the same for a use."""
    row = int(block[HEADER + int(block[0]) + 5]) + m * USE
    for i in range(int(block[row + 9])):
        column = int(block[int(block[row + 10]) + i])
        if u[a, column] != u[k, column]:
            return False
    return True


@deferred(NONE, A1, I, A2, A1, A1, A2)
def linked_reverse(block: Array, h: int, u: Array, parts_bar: Array, work: Array, u_bar: Array) -> None:
    """Add to u_bar (K, d) the derivative of what `linked_forward` filled; the room is as that left it."""
    c, K = HEADER + int(block[0]), u.shape[0]
    Q, R, M, F, S = int(block[c]), int(block[c + 1]), int(block[c + 2]), int(block[c + 3]), int(block[c + 4])
    of_uses, of_functions = np.empty(PARTS * M, np.int64), np.empty(5 * F, np.int64)
    _places(block, K, of_uses, of_functions)
    T = work[K * Q : K * Q + K * Q * R].reshape(K, Q, R)
    local = work[K * Q + K * Q * R : K * Q + K * Q * R + K * R * R].reshape(K, R, R)
    q_used = int(block[1])
    used = _used(block)
    N = K * q_used
    bar = parts_bar[N : N + N * N].reshape(N, N)
    mean_bar, T_bar, local_bar = np.zeros((K, Q)), np.zeros((K, Q, R)), np.zeros((K, R, R))
    slope, slopes = np.empty(1), np.empty(2)
    for a in range(K):
        for i in range(q_used):
            mean_bar[a, used[i]] += parts_bar[a * q_used + i]
    # The covariances of all functions, one behind the other.
    starts, total = np.empty(F + 1, np.int64), 0
    for f in range(F):
        row = int(block[c + 6]) + f * FUNCTION
        starts[f] = total
        total += int(block[row + 2]) * (int(block[row + 5]) * K) ** 2
    starts[F] = total
    cov_bar = np.zeros(total)
    for f in range(F):
        row = int(block[c + 6]) + f * FUNCTION
        size, W = int(block[row + 2]), int(block[row + 5]) * K
        covariance = work[of_functions[f * 5 + 4] : of_functions[f * 5 + 4] + size * W * W].reshape(size, W, W)
        own_bar = cov_bar[starts[f] : starts[f + 1]].reshape(size, W, W)
        for m in range(M):
            one = int(block[c + 5]) + m * USE
            if int(block[one]) != f:
                continue
            for o in range(M):
                other = int(block[c + 5]) + o * USE
                if int(block[other]) != f:
                    continue
                first, second = int(block[one + 2]), int(block[other + 2])
                rows, columns = int(block[one + 8]) * K, int(block[other + 8]) * K
                for j in range(size):
                    e, g = first + j, second + j
                    for a in range(K):
                        for k in range(K):
                            C = covariance[j, rows + a, columns + k]
                            whole = 0.0
                            for i in range(q_used):
                                s = 0.0
                                for r in range(q_used):
                                    both = bar[a * q_used + i, k * q_used + r] + bar[k * q_used + r, a * q_used + i]
                                    s += 0.5 * both * T[k, used[r], g]
                                whole += T[a, used[i], e] * s
                                T_bar[a, used[i], e] += 2.0 * C * s
                            own_bar[j, rows + a, columns + k] = whole
    for s in range(S):
        row = int(block[c + 7]) + s * SOURCE
        first, count = int(block[row + 1]), int(block[row + 2])
        for a in range(K):
            for k in range(K):
                if not _same(block, int(block[row]), u, a, k):
                    continue
                for i in range(q_used):
                    for r in range(q_used):
                        both = bar[a * q_used + i, k * q_used + r] + bar[k * q_used + r, a * q_used + i]
                        for e in range(first, first + count):
                            T_bar[a, used[i], e] += both * T[k, used[r], e]
    for m in range(M - 1, -1, -1):
        row = int(block[c + 5]) + m * USE
        f, d, first, q = int(block[row]), int(block[row + 1]), int(block[row + 2]), int(block[row + 3])
        owns, own_at, L, ports_at = int(block[row + 4]), int(block[row + 5]), int(block[row + 6]), int(block[row + 7])
        time = int(block[row + 8])
        at_use = of_uses[m * PARTS : (m + 1) * PARTS]
        outer = work[at_use[1] : at_use[1] + K * 2 * L * d].reshape(K, 2 * L, d)
        y = work[at_use[2] : at_use[2] + K * L].reshape(K, L)
        outer_y = work[at_use[3] : at_use[3] + K * 2 * L * L].reshape(K, 2 * L, L)
        A = work[at_use[4] : at_use[4] + K * L * R].reshape(K, L, R)
        C_all = work[at_use[5] : at_use[5] + K * L * L].reshape(K, L, L)
        J = work[at_use[6] : at_use[6] + K * q * L].reshape(K, q, L)
        own_row = int(block[c + 6]) + f * FUNCTION
        begin, length, n, b = (
            int(block[own_row]),
            int(block[own_row + 6]),
            int(block[own_row + 3]),
            int(block[own_row + 4]),
        )
        process, draw = block[begin : begin + length], int(block[int(block[own_row + 1]) + h])
        W = int(block[own_row + 5]) * K
        at_f = of_functions[f * 5 : f * 5 + 5]
        x = work[at_f[0] : at_f[0] + W * d].reshape(W, d)
        own_bar = cov_bar[starts[f] : starts[f + 1]].reshape(q, W, W)
        # Lambda's derivative belongs to the covariances of this use with those of its function.
        for other in range(M):
            place = int(block[c + 5]) + other * USE
            if int(block[place]) == f and other <= m:
                o, start = int(block[place + 8]), int(block[place + 2])
                for j in range(q):
                    for a in range(K):
                        own_bar[j, time * K + a, o * K + a] += local_bar[a, first + j, start + j]
                        if other < m:
                            own_bar[j, o * K + a, time * K + a] += local_bar[a, start + j, first + j]
        x_bar, means_bar = np.zeros((W, d)), np.zeros(W)
        which = np.empty(K, np.int64)
        different = _first_rows(block, m, u, which)
        if different < K:
            U = different
            few, few_bar, few_means = np.empty((U, d)), np.zeros((U, d)), np.zeros(U)
            for a in range(K - 1, -1, -1):
                few[which[a]] = x[a]
            for j in range(q):
                kg = work[at_f[1] + j * W * n : at_f[1] + j * W * n + U * n].reshape(U, n)
                t = work[at_f[2] + j * W * n : at_f[2] + j * W * n + U * n].reshape(U, n)
                trend = work[at_f[3] + j * W * b : at_f[3] + j * W * b + U * b].reshape(U, b)
                summed = np.zeros((U, U))
                few_means[:] = 0.0
                for a in range(K):
                    few_means[which[a]] += mean_bar[a, first + j]
                    for k in range(K):
                        summed[which[a], which[k]] += 0.5 * (own_bar[j, a, k] + own_bar[j, k, a])
                reverse(process, draw, j, few, kg, t, trend, few_means, summed, few_bar)
            seen = 0
            for a in range(K):
                if which[a] == seen:
                    x_bar[a] = few_bar[seen]
                    seen += 1
        for j in range(0 if different < K else q):
            kg = work[at_f[1] + j * W * n : at_f[1] + (j + 1) * W * n].reshape(W, n)
            t = work[at_f[2] + j * W * n : at_f[2] + (j + 1) * W * n].reshape(W, n)
            trend = work[at_f[3] + j * W * b : at_f[3] + (j + 1) * W * b].reshape(W, b)
            for a in range(K):
                means_bar[time * K + a] = mean_bar[a, first + j] * (1.0 - L / 3.0)
            symmetric = 0.5 * (own_bar[j] + own_bar[j].T)
            reverse(process, draw, j, x, kg, t, trend, means_bar, symmetric, x_bar)
        v_bar = x_bar[time * K : (time + 1) * K]
        if L == 0:
            for a in range(K):
                for i in range(owns):
                    p = own_at + i * OWN
                    _own(block[p : p + OWN], u[a, int(block[p + 1])], slope)
                    u_bar[a, int(block[p + 1])] += v_bar[a, int(block[p])] * slope[0]
            continue
        points = K * 2 * L
        A_bars, C_bars, found_bar = np.empty((K, L, R)), np.empty((K, L, L)), np.empty((q, points))
        J_bar, slope_bar = np.empty((q, L)), np.empty((L, q))
        for a in range(K):
            C = C_all[a]
            for j in range(q):
                for i in range(L):
                    s = 0.0
                    for e in range(R):
                        s += T_bar[a, first + j, e] * A[a, i, e]
                    J_bar[j, i] = s
            for i in range(L):
                for e in range(R):
                    s = 0.0
                    for j in range(q):
                        s += J[a, j, i] * T_bar[a, first + j, e]
                    A_bars[a, i, e] = s
            for j in range(q):  # slope_bar = C^-1 J_bar'
                for i in range(L):
                    s = J_bar[j, i]
                    for e in range(i):
                        s -= C[i, e] * slope_bar[e, j]
                    slope_bar[i, j] = s / C[i, i]
            for i in range(L):
                for k in range(L):
                    s = 0.0
                    for j in range(q):
                        s -= J[a, j, i] * slope_bar[k, j]
                    C_bars[a, i, k] = s
            for i in range(2 * L):
                for j in range(q):
                    s = slope_bar[i % L, j] / (2.0 * ROOT3)
                    found_bar[j, a * 2 * L + i] = mean_bar[a, first + j] / 6.0 + (s if i < L else -s)
        flat, flat_bar = outer.reshape(points, d), np.zeros((points, d))
        none = np.empty((0, 0))
        for j in range(q):
            kg = work[at_use[7] + j * points * n : at_use[7] + (j + 1) * points * n].reshape(points, n)
            reverse(process, draw, j, flat, kg, none, none, found_bar[j], none, flat_bar)
        P_bar, half, y_bar = np.empty((L, L)), np.empty((L, L)), np.empty(L)
        for a in range(K):
            C, A_bar, C_bar = C_all[a], A_bars[a], C_bars[a]
            outer_bar = flat_bar[a * 2 * L : (a + 1) * 2 * L]
            for i in range(owns):
                p = own_at + i * OWN
                column = int(block[p])
                s = v_bar[a, column]
                for k in range(2 * L):
                    s += outer_bar[k, column]
                _own(block[p : p + OWN], u[a, int(block[p + 1])], slope)
                u_bar[a, int(block[p + 1])] += s * slope[0]
            for i in range(L):
                p = ports_at + i * PORT
                column = int(block[p])
                _port(block[p : p + PORT], y[a, i], slope, slopes)
                y_bar[i] = v_bar[a, column] * slope[0]
                for k in range(2 * L):
                    _port(block[p : p + PORT], outer_y[a, k, i], slope, slopes)
                    s = outer_bar[k, column] * slope[0]
                    y_bar[i] += s
                    C_bar[i, k % L] += ROOT3 * s if k < L else -ROOT3 * s
            _factor_reverse(C, C_bar, half, P_bar)
            for i in range(L):
                for e in range(R):
                    s = 0.0
                    for k in range(L):
                        along = 0.0
                        for g in range(R):
                            along += A[a, k, g] * local[a, g, e]
                        s += P_bar[i, k] * along
                    A_bar[i, e] += 2.0 * s
            for e in range(R):
                for g in range(R):
                    s = 0.0
                    for i in range(L):
                        if A[a, i, e] != 0.0:
                            for k in range(L):
                                s += A[a, i, e] * P_bar[i, k] * A[a, k, g]
                    local_bar[a, e, g] += s
            for i in range(L):
                p = ports_at + i * PORT
                source = int(block[int(block[c + 5]) + int(block[p + 1]) * USE + 2])
                for j in range(int(block[p + 11])):
                    w = block[int(block[p + 10]) + j]
                    mean_bar[a, source + j] += y_bar[i] * w
                    for e in range(R):
                        T_bar[a, source + j, e] += w * A_bar[i, e]


@compiled
def _factor_reverse(C: Array, C_bar: Array, half: Array, P_bar: Array) -> None:
    """Fill the symmetric derivative by P = C C' from that by C; `half` is room."""
    L = C.shape[0]
    for i in range(L):
        for j in range(L):
            s = 0.0
            if j <= i:
                for k in range(i, L):
                    s += C[k, i] * C_bar[k, j]
                if i == j:
                    s *= 0.5
            half[i, j] = s
    for j in range(L):  # C^-T half
        for i in range(L - 1, -1, -1):
            s = half[i, j]
            for k in range(i + 1, L):
                s -= C[k, i] * half[k, j]
            half[i, j] = s / C[i, i]
    for i in range(L):  # times C^-1 from the right
        for j in range(L - 1, -1, -1):
            s = half[i, j]
            for k in range(j + 1, L):
                s -= half[i, k] * C[k, j]
            half[i, j] = s / C[j, j]
    for i in range(L):
        for j in range(L):
            P_bar[i, j] = 0.5 * (half[i, j] + half[j, i])


@compiled
def chain_scores(block: Array, u: Array) -> tuple[Array, Array]:
    """Return mean (H, K, q) and covariance (H, K, q, K, q) of the used scores at u (K, d)."""
    H, q, K = int(block[0]), int(block[1]), u.shape[0]
    N = K * q
    mean, covariance = np.empty((H, K, q)), np.empty((H, K, q, K, q))
    work, parts = np.empty(chain_size(block, K)), np.empty(N + N * N)
    for h in range(H):
        linked_forward(block, h, u, parts, work)
        mean[h] = parts[:N].copy().reshape(K, q)
        covariance[h] = parts[N:].copy().reshape(K, q, K, q)
    return mean, covariance


@compiled
def chain_scores_reverse(block: Array, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
    """Return the derivative (K, d) of sum(mean * mean_bar) + sum(covariance * covariance_bar) at u (K, d)."""
    H, q, K = int(block[0]), int(block[1]), u.shape[0]
    N = K * q
    out = np.zeros(u.shape)
    work, parts = np.empty(chain_size(block, K)), np.empty(N + N * N)
    for h in range(H):
        linked_forward(block, h, u, parts, work)
        parts[:N] = mean_bar[h].copy().reshape(N)
        parts[N:] = covariance_bar[h].copy().reshape(N * N)
        linked_reverse(block, h, u, parts, work, out)
    return out
