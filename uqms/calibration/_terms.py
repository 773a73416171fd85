"""Covariances over the cells that are not the surrogate's: discrepancy and autocorrelated noise, with derivatives.

==========  =======================================================================  ==============
symbol      meaning                                                                  shape
==========  =======================================================================  ==============
c           cell, as in `likelihood`                                                 N
phi         hyperparameters: noise sds first, then those of terms and scales         (P,)
K_t         a² kappa(|points - points'| / lengths) where the ids agree, else 0        (N, N)
J           derivative of the mean at the cells by the parameters                    (N, o)
orthogonal  K - K J (J' K J)^-1 J' K: draws delta have J' delta = 0                  (N, N)
Q           derivative of the log-density by the covariance, symmetric               (N, N)
==========  =======================================================================  ==============

Orthogonality as in Plumlee (2017), doi:10.1080/01621459.2016.1211016, at the observed cells.
"""

import math

import numpy as np

from uqms._compiled import compiled
from uqms._native import A1, A2, NONE, B, I, deferred
from uqms._typing import Array

__all__ = [
    "BASIS",
    "CONSTANT",
    "EXPONENTIAL",
    "HEADER",
    "MATERN52",
    "SQUARED",
    "fields",
    "kappa_of",
    "terms",
    "terms_reverse",
]

HEADER = 8
CONSTANT, EXPONENTIAL, MATERN52, SQUARED, BASIS = 0, 1, 2, 3, 4
# Relative to the largest diagonal entry of J' K J: the data cannot distinguish directions of parameters below this.
ORTHOGONAL_JITTER = 1e-10
ROUNDING = 1e-16
SHORTEST = 1e-300  # shortest length; compiled code raises an error at a division by zero
FAR = 700.0  # largest exponent: correlations beyond are 0, also if a tiny length makes the distance infinite


@compiled
def fields(data: Array) -> tuple[Array, Array, Array, Array, Array, Array, Array, Array, Array, int]:
    """Return experiment, group, factor, offset, basis, truncation, columns, row_cell, row_variance, start of the terms.

    The header is K, q, N, R, t (truncation columns), T (terms), o (parameter columns, 0 without orthogonal terms).
    """
    q, N, R, t, o = int(data[1]), int(data[2]), int(data[3]), int(data[4]), int(data[6])
    at = HEADER
    experiment = data[at : at + N]
    group = data[at + N : at + 2 * N]
    factor = data[at + 2 * N : at + 3 * N]
    offset = data[at + 3 * N : at + 4 * N]
    at += 4 * N
    basis = data[at : at + N * q].reshape(N, q)
    at += N * q
    truncation = data[at : at + N * t].reshape(N, t)
    at += N * t
    columns = data[at : at + o]
    at += o
    return (
        experiment,
        group,
        factor,
        offset,
        basis,
        truncation,
        columns,
        data[at : at + R],
        data[at + R : at + 2 * R],
        at + 2 * R,
    )


@compiled
def kappa_of(family: int, r: float) -> tuple[float, float]:
    """Return the correlation at scaled distance r, and -(d kappa / d r) / r (0 at r = 0 for the exponential)."""
    if family == EXPONENTIAL:
        value = math.exp(-r)
        return value, value / r if r > 0.0 else 0.0
    if family == MATERN52:
        a = math.sqrt(5.0) * r
        if a > FAR:
            return 0.0, 0.0
        value = math.exp(-a)
        return (1.0 + a + a * a / 3.0) * value, 5.0 / 3.0 * (1.0 + a) * value
    if family == SQUARED:
        value = math.exp(-0.5 * r * r)
        return value, value
    return 1.0, 0.0


@compiled
def _own(data: Array, at: int, phi: Array, K: Array) -> int:
    """Fill K (N, N) with the covariance of the term that starts at `at`; return where the next term starts."""
    N = K.shape[0]
    family, c, b, amplitude = int(data[at]), int(data[at + 1]), int(data[at + 2]), phi[int(data[at + 3])]
    lengths = data[at + 5 : at + 5 + c]
    at += 5 + c
    ids = data[at : at + N]
    points = data[at + N : at + N + N * c].reshape(N, c)
    at += N + N * c
    basis = data[at : at + N * b].reshape(N, b)
    for i in range(N):
        for j in range(i + 1):
            value = 0.0
            if ids[i] >= 0.0 and ids[i] == ids[j]:
                if family == BASIS:
                    for m in range(b):
                        value += basis[i, m] * basis[j, m]
                else:
                    r2 = 0.0
                    for m in range(c):
                        step = points[i, m] - points[j, m]
                        if step != 0.0:  # a distance of zero stays zero for any length
                            step /= max(phi[int(lengths[m])], SHORTEST)
                            r2 += step * step
                    value = kappa_of(family, math.sqrt(r2))[0]
            K[i, j] = amplitude * amplitude * value
            K[j, i] = K[i, j]
    return int(at + N * b)


@compiled
def _projection(K: Array, J: Array) -> tuple[Array, Array]:
    """Return V = (J' K J)^-1 J' K (o, N) and K J (N, o)."""
    KJ = K @ J
    A = J.T @ KJ
    largest = 0.0
    for i in range(A.shape[0]):
        largest = max(largest, A[i, i])
    for i in range(
        A.shape[0]
    ):  # relative to the size of each slope: weak slopes count too, down to rounding errors of the strongest
        A[i, i] += ORTHOGONAL_JITTER * A[i, i] + ROUNDING * largest + 1e-300
    return np.linalg.solve(A, KJ.T.copy()), KJ


@deferred(A2, A1, I, I, A1, A2, B, B)
def terms(data: Array, T: int, N: int, phi: Array, J: Array, first: bool, second: bool) -> Array:
    """Return the sum (N, N) of the covariances of T terms: of noise (`first`), of discrepancy (`second`)."""
    at = 0
    total, K = np.zeros((N, N)), np.empty((N, N))
    for _ in range(T):
        role = int(data[at + 4])  # 0 noise, 1 discrepancy, 2 orthogonal discrepancy
        at = _own(data, at, phi, K)
        if (role == 0 and first) or (role == 1 and second):
            total += K
        elif role == 2 and second:
            V, KJ = _projection(K, J)
            total += K - KJ @ V
    return total


@deferred(NONE, A1, I, A1, A2, B, B, A2, A1, A2)
def terms_reverse(
    data: Array, T: int, phi: Array, J: Array, first: bool, second: bool, Q: Array, phi_bar: Array, J_bar: Array
) -> None:
    """Add to phi_bar (P,) and J_bar (N, o) the derivatives of Q : `terms`."""
    N = Q.shape[0]
    start = 0
    K, bar = np.empty((N, N)), np.empty((N, N))
    for _ in range(T):
        family, c, index, role = int(data[start]), int(data[start + 1]), int(data[start + 3]), int(data[start + 4])
        after = _own(data, start, phi, K)
        lengths = data[start + 5 : start + 5 + c]
        at = start + 5 + c
        ids = data[at : at + N]
        points = data[at + N : at + N + N * c].reshape(N, c)
        start = after
        if (role == 0 and not first) or (role > 0 and not second):
            continue
        bar[:, :] = Q
        if role == 2:
            V, KJ = _projection(K, J)
            rest = K - KJ @ V
            left = Q - (J @ V) @ Q  # (1 - J V) Q
            bar[:, :] = left - left @ (J @ V).T
            J_bar -= 2.0 * rest @ (Q @ V.T)
        amplitude = phi[index]
        total = 0.0
        for i in range(N):
            for j in range(N):
                total += bar[i, j] * K[i, j]
        phi_bar[index] += 2.0 * total / amplitude
        if family == BASIS or family == CONSTANT:
            continue
        for i in range(N):
            for j in range(i):
                if ids[i] >= 0.0 and ids[i] == ids[j]:
                    r2 = 0.0
                    for m in range(c):
                        step = (points[i, m] - points[j, m]) / max(phi[int(lengths[m])], SHORTEST)
                        r2 += step * step
                    slope = kappa_of(family, math.sqrt(r2))[1]
                    if slope == 0.0:
                        continue
                    weight = (bar[i, j] + bar[j, i]) * amplitude * amplitude * slope
                    for m in range(c):
                        length = phi[int(lengths[m])]
                        step = points[i, m] - points[j, m]
                        phi_bar[int(lengths[m])] += weight * step * step / (length * length * length)
