"""The log probability of an event with its derivative, compiled for gradient-based samplers.

Symbols as in `classification`; k_i = s² kappa(u, x_i) + c², t = A k.
"""

import math

import numpy as np

from uqms._compiled import compiled
from uqms._typing import Array
from uqms.surrogates.kernels import part_of

__all__ = ["log_probability_and_slope"]


@compiled
def log_probability_and_slope(
    code: int,
    x: Array,
    ell: Array,
    variance: Array,
    constant: float,
    weights: Array,
    factor: Array,
    log_weights: Array,
    u: Array,
) -> tuple[float, Array]:
    """Return log P and its derivative (d,) at one input u (d,), for a kernel of one part with number `code`."""
    H, (n, d) = len(variance), x.shape
    logs, slopes = np.empty(H), np.empty((H, d))
    k, g = np.empty(n), np.empty(n)
    for h in range(H):
        for i in range(n):
            r2 = 0.0
            for c in range(d):
                step = (u[c] - x[i, c]) / ell[h, c]
                r2 += step * step
            kappa, radial = part_of(code, r2)
            k[i], g[i] = variance[h] * kappa + constant, variance[h] * radial
        t = factor[h] @ k
        back = factor[h].T @ t
        mean, left = 0.0, variance[h] + constant
        for i in range(n):
            mean += weights[h, i] * k[i]
            left -= t[i] * t[i]
        scale = math.sqrt(1.0 + max(left, 1e-12))
        z = mean / scale
        logs[h] = log_weights[h] + _log_ndtr(z)
        ratio = math.exp(-0.5 * z * z - 0.5 * math.log(2.0 * math.pi) - _log_ndtr(z))
        for c in range(d):
            total = 0.0
            for i in range(n):
                # d z = d mean / scale - mean d left / (2 scale³), d left = -2 back' dk
                total += (weights[h, i] / scale + mean / scale**3 * back[i]) * g[i] * (u[c] - x[i, c])
            slopes[h, c] = ratio * total / (ell[h, c] * ell[h, c])
    top = logs.max()
    shares = np.exp(logs - top)
    whole = shares.sum()
    slope = np.zeros(d)
    for h in range(H):
        slope += shares[h] / whole * slopes[h]
    return top + math.log(whole), slope


@compiled
def _log_ndtr(z: float) -> float:
    if z > -20.0:
        return math.log(0.5 * math.erfc(-z / math.sqrt(2.0)))
    # Asymptotic series, relative error below 1e-8 there.
    s = 1.0 / (z * z)
    series = 1.0 - s * (1.0 - 3.0 * s * (1.0 - 5.0 * s * (1.0 - 7.0 * s)))
    return -0.5 * z * z - 0.5 * math.log(2.0 * math.pi) - math.log(-z) + math.log(series)
