"""The Gaussian likelihood of the library's own processes, compiled: from inputs u to value and derivatives.

One function serves one subject, several experiments, autocorrelated noise, discrepancy and populations. It averages
over draws h of the process's hyperparameters, one draw after the other: the sum so far is scaled down when a larger
term follows. Symbols as in `_gaussian`; `fused` predicts the scores, and `_features` their features.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from uqms._compiled import compiled
from uqms._native import A1, A2, A3, NONE, F, I, deferred, native
from uqms._typing import Array
from uqms.calibration._features import features, features_reverse, features_size
from uqms.calibration._gaussian import (
    BASIS,
    FEATURES,
    OWN,
    SHARED,
    SLOPES,
    STARTS,
    collapse,
    gaussian,
    parts_at,
    sizes_of,
)
from uqms.calibration._mean_slopes import score_slopes, score_slopes_reverse
from uqms.calibration.blocks import view
from uqms.surrogates.fused import HEADER
from uqms.surrogates.fused_chain import chain_size, linked_forward, linked_reverse
from uqms.surrogates.fused_scores import forward_of, reverse_of

__all__ = ["Problem", "at", "process_gaussian"]


class Problem(NamedTuple):
    """The fields of a block: the process (`ScoreProcess.flat`), the data, and optional parts.

    Attributes
    ----------
    process, data
        Surrogate (`ScoreProcess.flat`, `ChainError.flat` for linked surrogates, or `LadderError.flat` for levels of
        fidelity) and measurements, see `blocks.Data`.
    shared
        Features of the error that inputs share (`SharedError.flat`).
    columns
        Columns of the process's inputs that are parameters, if there is an orthogonal discrepancy.
    """

    process: Any
    data: Any
    shared: Any
    columns: Any


PROCESS, DATA, FEATURE_BLOCK, COLUMNS = range(len(Problem._fields))


@deferred(NONE, A1, I, A1, A1, A2, A2, A3)
def slopes(process: Array, h: int, data: Array, columns: Array, u: Array, J: Array, kept: Array) -> None:
    """Fill J (N, o), the derivative of the mean of the rows by the parameters; `kept` as in `score_slopes`."""
    K, q, N = sizes_of(data)[:3]
    starts, basis = view(data, STARTS), view(data, BASIS).reshape(N, q)
    slope = np.empty((len(columns), u.shape[0] * int(process[1])))
    score_slopes(process, h, columns, u, slope, kept)
    for i in range(len(columns)):
        for k in range(K):
            for c in range(int(starts[k]), int(starts[k + 1])):
                s = 0.0
                for j in range(q):
                    s += basis[c, j] * slope[i, k * q + j]
                J[c, i] = s


@deferred(NONE, A1, I, A1, A1, A2, A2, A3, A2)
def slopes_reverse(
    process: Array, h: int, data: Array, columns: Array, u: Array, J_bar: Array, kept: Array, u_bar: Array
) -> None:
    """Add to u_bar the derivative of J : J_bar."""
    K, q, N = sizes_of(data)[:3]
    starts, basis = view(data, STARTS), view(data, BASIS).reshape(N, q)
    slope_bar = np.zeros((len(columns), u.shape[0] * int(process[1])))
    for i in range(len(columns)):
        for k in range(K):
            for c in range(int(starts[k]), int(starts[k + 1])):
                for j in range(q):
                    slope_bar[i, k * q + j] += basis[c, j] * J_bar[c, i]
    score_slopes_reverse(process, h, columns, u, slope_bar, kept, u_bar)


@native(NONE, A1, I, I, A2, A1, A3, A3, A3, A3)
def _joint_error(
    process: Array, h: int, form: int, u: Array, parts: Array, covariance: Array, kg: Array, t: Array, v: Array
) -> None:
    """Fill mean, and variance or covariance between inputs, in the order of the parts."""
    K, q = u.shape[0], int(process[1])
    column = np.empty(K)
    n = K * q
    for j in range(q):
        forward_of(process, h, j, u, column, covariance[j], kg[j], t[j], v[j])
        for k in range(K):
            parts[k * q + j] = column[k]
            if form == OWN:
                parts[n + k * q + j] = covariance[j, k, k]
            else:
                for m in range(K):
                    parts[n + (k * q + j) * n + m * q + j] = covariance[j, k, m]


@native(NONE, A1, I, I, A2, A1, A3, A3, A3, A3, A2)
def _joint_error_reverse(
    process: Array,
    h: int,
    form: int,
    u: Array,
    parts_bar: Array,
    covariance: Array,
    kg: Array,
    t: Array,
    v: Array,
    u_bar: Array,
) -> None:
    """Add to u_bar the derivative of the parts that `_joint_error` fills; `covariance` is overwritten."""
    K, q = u.shape[0], int(process[1])
    column = np.empty(K)
    n = K * q
    for j in range(q):
        for k in range(K):
            column[k] = parts_bar[k * q + j]
            for m in range(K):
                if form == SHARED:
                    covariance[j, k, m] = parts_bar[n + (k * q + j) * n + m * q + j]
                else:
                    covariance[j, k, m] = parts_bar[n + k * q + j] if k == m else 0.0
        reverse_of(process, h, j, u, kg[j], t[j], v[j], column, covariance[j], u_bar)


@native(F, A1, A2, A1, A1, A2, A1)
def process_gaussian(block: Array, u: Array, phi: Array, z: Array, u_bar: Array, phi_bar: Array) -> float:
    """Return log p(z | u, phi) and fill its derivatives by u (K, d) and phi (P,)."""
    process, data = view(block, PROCESS), view(block, DATA)
    shared, columns = view(block, FEATURE_BLOCK), view(block, COLUMNS)
    (K, d), draws, q, n, b = u.shape, int(process[0]), int(process[1]), abs(int(process[2])), int(process[4])
    _, _, N, _, g, P, o, _, form, _, _ = sizes_of(data)
    _, _, _, _, J_at, size = parts_at(data)
    of_rows, of_parts, room, part = np.empty((2, N)), np.zeros((2, size)), np.empty(g + P), np.empty((K, d))
    value, alpha, parts, parts_bar = of_rows[0], of_rows[1], of_parts[0], of_parts[1]
    squares, one_phi_bar = room[:g], room[g:]
    collapse(data, z, value, squares)
    inputs = 0 if form == FEATURES else K
    of_runs, covariance, v = (
        np.empty((2, q, inputs, n)),
        np.empty((q, inputs, inputs)),
        np.empty((q, inputs, b)),
    )
    kg, t = of_runs[0], of_runs[1]
    linked = n == 0  # the block of a chain
    kept = np.empty((2 * o * q, K, n) if o else (0, 0, 0))
    of_chain = np.empty(chain_size(process, K) if linked else 0)
    work = np.empty(features_size(shared, K, q, n, b) if form == FEATURES else 0)
    top, norm = -np.inf, 0.0
    for k in range(K):
        for c in range(d):
            u_bar[k, c] = 0.0
    for i in range(P):
        phi_bar[i] = 0.0
    for h in range(draws):
        if form == FEATURES:
            features(process, shared, h, u, parts, work)
        elif linked:
            linked_forward(process, h, u, parts, of_chain)
        else:
            _joint_error(process, h, form, u, parts, covariance, kg, t, v)
        if o:
            slopes(process, h, data, columns, u, parts[J_at:size].reshape(N, o), kept)
        log_density = process[HEADER + h] + gaussian(
            data, parts, phi, value, squares, SLOPES, parts_bar, one_phi_bar, alpha, alpha
        )
        if not log_density > -np.inf:
            continue
        for k in range(K):
            for c in range(d):
                part[k, c] = 0.0
        if form == FEATURES:
            features_reverse(process, shared, h, u, parts, parts_bar, work, part)
        elif linked:
            linked_reverse(process, h, u, parts_bar, of_chain, part)
        else:
            _joint_error_reverse(process, h, form, u, parts_bar, covariance, kg, t, v, part)
        if o:
            slopes_reverse(process, h, data, columns, u, parts_bar[J_at:size].reshape(N, o), kept, part)
        largest = max(top, log_density)
        old, new = math.exp(top - largest), math.exp(log_density - largest)
        top, norm = largest, norm * old + new
        for k in range(K):
            for c in range(d):
                u_bar[k, c] = u_bar[k, c] * old + part[k, c] * new
        for i in range(P):
            phi_bar[i] = phi_bar[i] * old + one_phi_bar[i] * new
    if not norm > 0.0:
        return -np.inf
    for k in range(K):
        for c in range(d):
            u_bar[k, c] /= norm
    for i in range(P):
        phi_bar[i] /= norm
    return top + math.log(norm)


@compiled
def at(block: Array, u: Array, phi: Array, z: Array) -> tuple[Array, Array, Array]:
    """Return value () and derivatives by u and phi as arrays, as a PyTensor operation requires."""
    block, u, phi, z = (
        np.ascontiguousarray(block),
        np.ascontiguousarray(u),
        np.ascontiguousarray(phi),
        np.ascontiguousarray(z),
    )
    value, u_bar, phi_bar = np.empty(()), np.empty(u.shape), np.empty(phi.shape)
    value[()] = process_gaussian(block, u, phi, z, u_bar, phi_bar)
    return value, u_bar, phi_bar
