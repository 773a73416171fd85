"""Autocorrelated noise along equally spaced series, compiled: the Gram matrices of whitened rows from their spectrum.

A series of n rows with equal gaps has the noise covariance R = d I + s² rho, rho_ij = a^|i-j|: independent noise
beside an Ornstein-Uhlenbeck process. The inverse of rho is tridiagonal, and up to its two corners a function of the
second-difference matrix L with reflecting ends, whose eigenvectors are those of the discrete cosine transform (DCT-II):

    rho^-1 = A I + B L + kappa E E',   A = (1 - a) / (1 + a),   B = a / (1 - a²),   kappa = a / (1 + a)

with the unit vectors of both ends as columns of E; E+ and E- are their normalised sum and difference, which have the
even and the odd frequencies only. With eigenvalues lambda of L, g = A + B lambda, D = s² + d g and x the transform of
the rows X = [B, E, residual] at a frequency:

==========  ==============================================================================
X' R^-1 X   sum g/D x x' + kappa s² sum± Y Y' / (1 + d kappa F),  Y = sum x e± / D
log|R|      (n - 1) log(1 - a²) + sum log D + sum± log(1 + d kappa F),  F = sum e±² / D
==========  ==============================================================================

This is exact, and involves no subtraction. All weights are functions of lambda that are analytic except at
lambda <= -A / B. Sums over an interval of frequencies therefore equal sums over few Chebyshev nodes with the
interpolated products as weights, up to rounding (`spectral`). 10 000 rows take as long as 1000.

Strang (1999), doi:10.1137/S0036144598336745.
"""

import math

import numpy as np

from uqms._native import A1, A2, A3, NONE, F, I, deferred
from uqms._typing import Array
from uqms.surrogates.kernels import FAST

__all__ = ["HEADER", "spectral_grams", "spectral_grams_reverse"]

# The fields of a series: input k, rows n, nodes; positions in phi of the process's standard deviation (-1: no process),
# of its length and of the noise's standard deviation; gap, and the divisor of the noise's variance. Then the shift of
# the mean (q,) and, for each node: lambda, count, products x x' (lower triangle), and e± x and e±² of both ends.
HEADER = 8


@deferred(F, A1, A1, A2, I, A3, fastmath=FAST)
def spectral_grams(series: Array, phi: Array, mean: Array, t: int, grams: Array) -> float:
    """Fill X_k' R^-1 X_k (K, m, m) of [basis, truncation, residual] at the scores' mean (K, q); return log|R|."""
    q, m = mean.shape[1], grams.shape[1]
    p, size = m - 1, m * (m + 1) // 2
    total, ends, whole, delta = np.empty(size), np.empty((2, m)), np.empty((m, m)), np.zeros(m)
    for k in range(grams.shape[0]):
        for i in range(m):
            for j in range(m):
                grams[k, i, j] = 0.0
    log_det, at = 0.0, 0
    while at < len(series):
        k, n, nodes, place = int(series[at]), series[at + 1], int(series[at + 2]), int(series[at + 3])
        s2, a, near, new = 0.0, 0.0, 1.0, 1.0
        if place >= 0:
            step = series[at + 6] / phi[int(series[at + 4])]
            s2, a, near, new = phi[place] ** 2, math.exp(-step), -math.expm1(-step), -math.expm1(-2.0 * step)
        A, B, kappa = near / (1.0 + a), a / new, a / (1.0 + a)
        d = phi[int(series[at + 5])] ** 2 / series[at + 7]
        for j in range(q):
            delta[j] = mean[k, j] - series[at + HEADER + j]
        at += HEADER + q
        for i in range(size):
            total[i] = 0.0
        F0 = F1 = 0.0
        for i in range(m):
            ends[0, i] = ends[1, i] = 0.0
        log_det += (n - 1.0) * math.log(new)
        for _ in range(nodes):
            g = A + B * series[at]
            D = s2 + d * g
            h = 1.0 / D
            log_det += series[at + 1] * math.log(D)
            weight, row = g * h, series[at + 2 : at + 2 + size]
            for i in range(size):
                total[i] += weight * row[i]
            at += 2 + size
            row = series[at : at + 2 * m + 2]
            for i in range(m):
                ends[0, i] += h * row[i]
                ends[1, i] += h * row[m + i]
            F0 += h * row[2 * m]
            F1 += h * row[2 * m + 1]
            at += 2 * m + 2
        for side in range(2):
            more = d * kappa * (F1 if side else F0)
            log_det += math.log1p(more)
            factor = kappa * s2 / (1.0 + more)
            e = 0
            for i in range(m):
                for j in range(i + 1):
                    total[e] += factor * ends[side, i] * ends[side, j]
                    e += 1
        e = 0
        for i in range(m):
            for j in range(i + 1):
                whole[i, j] = whole[j, i] = total[e]
                e += 1
        for i in range(p):  # the residual is the measured value less basis times delta
            beside = whole[i, p]
            for j in range(q):
                beside -= whole[i, j] * delta[j]
            grams[k, i, p] += beside
            grams[k, p, i] += beside
            grams[k, p, p] -= delta[i] * (whole[i, p] + beside)
            for j in range(p):
                grams[k, i, j] += whole[i, j]
        grams[k, p, p] += whole[p, p]
    return log_det


@deferred(NONE, A1, A1, A2, I, A3, A1, fastmath=FAST)
def spectral_grams_reverse(series: Array, phi: Array, mean: Array, t: int, grams_bar: Array, phi_bar: Array) -> None:
    """Add to phi_bar the derivative of sum(grams_bar * grams) - log|R| / 2."""
    q, m = mean.shape[1], grams_bar.shape[1]
    p, size = m - 1, m * (m + 1) // 2
    total_bar, ends, ends_bar, delta = np.empty(size), np.empty((2, m)), np.empty((2, m)), np.zeros(m)
    F, F_bar = np.empty(2), np.empty(2)
    at = 0
    while at < len(series):
        k, n, nodes, place = int(series[at]), series[at + 1], int(series[at + 2]), int(series[at + 3])
        sd_of, length_of, gap, weight = int(series[at + 5]), int(series[at + 4]), series[at + 6], series[at + 7]
        s2, a, near, new = 0.0, 0.0, 1.0, 1.0
        if place >= 0:
            step = gap / phi[length_of]
            s2, a, near, new = phi[place] ** 2, math.exp(-step), -math.expm1(-step), -math.expm1(-2.0 * step)
        A, B, kappa = near / (1.0 + a), a / new, a / (1.0 + a)
        d = phi[sd_of] ** 2 / weight
        for j in range(q):
            delta[j] = mean[k, j] - series[at + HEADER + j]
        at += HEADER + q
        e = 0
        corner = grams_bar[k, p, p]
        for i in range(p):  # over the lower triangle, in which each entry stands for two
            beside_i = grams_bar[k, i, p]
            for j in range(i + 1):
                bar = grams_bar[k, i, j] - delta[i] * grams_bar[k, j, p] - beside_i * delta[j]
                bar += delta[i] * delta[j] * corner
                total_bar[e] = bar if i == j else 2.0 * bar
                e += 1
        for j in range(p):
            total_bar[e] = 2.0 * (grams_bar[k, j, p] - delta[j] * corner)
            e += 1
        total_bar[e] = corner

        width = 2 + size + 2 * m + 2
        F[0] = F[1] = 0.0
        for i in range(m):
            ends[0, i] = ends[1, i] = ends_bar[0, i] = ends_bar[1, i] = 0.0
        if place >= 0:
            for node in range(nodes):
                first = at + node * width
                h = 1.0 / (s2 + d * (A + B * series[first]))
                row = series[first + 2 + size : first + width]
                for i in range(m):
                    ends[0, i] += h * row[i]
                    ends[1, i] += h * row[m + i]
                F[0] += h * row[2 * m]
                F[1] += h * row[2 * m + 1]
        kappa_bar, s2_bar, d_bar = 0.0, 0.0, 0.0
        for side in range(2):
            e, square = 0, 0.0  # of both ends' products
            for i in range(m):
                for j in range(i + 1):
                    bar = total_bar[e]
                    square += bar * ends[side, i] * ends[side, j]
                    ends_bar[side, i] += bar * ends[side, j]
                    ends_bar[side, j] += bar * ends[side, i]
                    e += 1
            inverse = 1.0 / (1.0 + d * kappa * F[side])
            for i in range(m):
                ends_bar[side, i] *= kappa * s2 * inverse
            s2_bar += kappa * square * inverse
            kappa_bar += s2 * square * inverse
            more_bar = -0.5 * inverse - kappa * s2 * square * inverse * inverse
            kappa_bar += d * F[side] * more_bar
            d_bar += kappa * F[side] * more_bar
            F_bar[side] = d * kappa * more_bar
        A_bar, B_bar = 0.0, 0.0
        for node in range(nodes):
            first = at + node * width
            eigenvalue, count = series[first], series[first + 1]
            g = A + B * eigenvalue
            h = 1.0 / (s2 + d * g)
            weight_bar, row = 0.0, series[first + 2 : first + 2 + size]
            for i in range(size):
                weight_bar += total_bar[i] * row[i]
            row = series[first + 2 + size : first + width]
            h_bar = F_bar[0] * row[2 * m] + F_bar[1] * row[2 * m + 1]
            for i in range(m):
                h_bar += ends_bar[0, i] * row[i] + ends_bar[1, i] * row[m + i]
            D_bar = -h * (h * (h_bar + g * weight_bar) + 0.5 * count)
            g_bar = weight_bar * h + d * D_bar
            s2_bar += D_bar
            d_bar += g * D_bar
            A_bar += g_bar
            B_bar += eigenvalue * g_bar
        at += nodes * width
        phi_bar[sd_of] += 2.0 * phi[sd_of] / weight * d_bar
        if place >= 0:
            a_bar = (kappa_bar - 2.0 * A_bar) / (1.0 + a) ** 2 + ((1.0 + a * a) / new * B_bar + (n - 1.0) * a) / new
            phi_bar[place] += 2.0 * phi[place] * s2_bar
            phi_bar[length_of] += a_bar * a * gap / phi[length_of] ** 2
