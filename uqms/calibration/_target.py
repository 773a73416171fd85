"""Log-density of a standard problem in unconstrained space with its gradient, compiled as the C function of nutpie.

One flat array holds the whole problem: header, priors, inputs, noise, transport map, surrogate, data. New data of the
same problem are a new array. Nothing is compiled again, and numba keeps the compiled code on disk.

==========  ======================================================================  ===========
symbol      meaning                                                                 shape
==========  ======================================================================  ===========
w           coordinates of the sampler; the map makes them nearly independent       (P,)
z           parameters in unconstrained space, z = map(w)                           (P,)
v           parameters on the surrogate-input scale (identity, log or logit)        (P,)
theta       parameters in their own units                                           (P,)
u           surrogate inputs in the unit cube                                       (K, d)
eta         hyperparameters of noise and discrepancy                                (H,)
==========  ======================================================================  ===========
"""

import math

import numba
import numpy as np
from numba import types

from uqms._compiled import compiled
from uqms._typing import Array
from uqms.calibration._map import from_line, to_line
from uqms.calibration._process_gaussian import process_gaussian
from uqms.parameters.compiled_density import (
    BETA,
    EXPONENTIAL,
    GAMMA,
    INVERSE_GAMMA,
    LOG_NORMAL,
    LOG_UNIFORM,
    NORMAL,
    STUDENT_T,
)
from uqms.parameters.scale import BELOW

__all__ = ["PRIOR", "density_function", "expand_function"]

PRIOR = 8  # family, scale, lower, upper (both scaled), two arguments, reference point, constant


@compiled
def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@compiled
def _sigmoid(x: float) -> float:
    if x >= 0.0:
        return 1.0 / (1.0 + math.exp(-x))
    e = math.exp(x)
    return e / (1.0 + e)


@compiled
def _parameter(row: Array, z: float) -> tuple[float, float, float, float, float, float]:
    """Return v, theta, log prior density of z, its derivative by z, dv/dz and dtheta/dv."""
    family, scale, low, high, a, b, c = int(row[0]), int(row[1]), row[2], row[3], row[4], row[5], row[6]
    if low > -np.inf and high < np.inf:
        s = _sigmoid(z)
        v, slope = low + (high - low) * s, (high - low) * s * (1.0 - s)
        value, by_z = math.log(high - low) - _softplus(-z) - _softplus(z), 1.0 - 2.0 * s
    elif low > -np.inf:
        slope = math.exp(z)
        v, value, by_z = low + slope, z, 1.0
    elif high < np.inf:
        slope = math.exp(-z)
        v, value, by_z = high - slope, -z, -1.0
    else:
        v, slope, value, by_z = z, 1.0, 0.0, 0.0
    theta, unit, by_v = v, 1.0, 0.0
    if scale == 1:
        theta = math.exp(v)
        unit = theta
        value += v
        by_v = 1.0
    elif scale == 2:
        theta = _sigmoid(v)
        unit = theta * (1.0 - theta)
        value -= _softplus(-v) + _softplus(v)
        by_v = 1.0 - 2.0 * theta
    if family == LOG_UNIFORM:
        value -= v
        by_v -= 1.0
    elif family == NORMAL:  # truncated or not: a mean, b sd, c the standardised point of reference
        t = (theta - a) / b
        value -= 0.5 * (t - c) * (t + c)
        by_v -= t / b * unit
    elif family == LOG_NORMAL:
        t = (v - a) / b
        value -= 0.5 * (t - c) * (t + c) + v
        by_v -= t / b + 1.0
    elif family == BETA:
        value -= (a - 1.0) * _softplus(-v) + (b - 1.0) * _softplus(v)
        by_v += (a - 1.0) * (1.0 - theta) - (b - 1.0) * theta
    elif family == GAMMA:
        value += (a - 1.0) * v - b * theta
        by_v += a - 1.0 - b * theta
    elif family == INVERSE_GAMMA:
        value -= (a + 1.0) * v + b / theta
        by_v += b / theta - a - 1.0
    elif family == STUDENT_T:  # a degrees of freedom, b the scale times their square root
        t = theta / b
        if t < 1e8:
            value -= 0.5 * (a + 1.0) * math.log1p(t * t)
            by_v -= (a + 1.0) * t / (1.0 + t * t) / b * unit
        else:
            value -= (a + 1.0) * math.log(t)
            by_v -= (a + 1.0) / theta * unit
    elif family == EXPONENTIAL:
        value -= a * theta
        by_v -= a * unit
    return v, theta, value + row[7], by_z + by_v * slope, slope, unit


_POINTER = types.CPointer(types.double)


@numba.cfunc(types.int64(types.uint64, _POINTER, _POINTER, _POINTER, _POINTER), cache=True, error_model="numpy")
def density_function(size, point, gradient, value_at, user):  # type: ignore[no-untyped-def]
    """Evaluate log-density and gradient for nutpie: return 0 if both are finite, otherwise 3 or 4.

    The body calls no helper functions of this module, because they would be compiled twice.
    """
    block = numba.carray(user, (int(user[0]),))
    w, w_bar = numba.carray(point, (size,)), numba.carray(gradient, (size,))
    K, d, P = int(block[2]), int(block[3]), int(block[4])
    z, phi, slope = np.empty(size), np.empty(size), np.empty(size)
    to_line(block, w, z, phi, slope)
    total = block[11]
    v, theta, z_bar, by_z, unit = np.empty(size), np.empty(size), np.empty(size), np.empty(size), np.empty(size)
    for i in range(size):
        at = int(block[5]) + i * PRIOR
        v[i], theta[i], value, z_bar[i], by_z[i], unit[i] = _parameter(block[at : at + PRIOR], z[i])
        total += value

    u, by_u = np.empty((K, d)), np.zeros(d)
    at = int(block[6])
    for c in range(d):
        i, scale, low, width = int(block[at + 4 * c]), int(block[at + 4 * c + 1]), block[at + 4 * c + 2], 0.0
        width = block[at + 4 * c + 3]
        if i < 0:
            for k in range(K):
                u[k, c] = block[at + 4 * d + k * d + c]
            continue
        own = int(block[int(block[5]) + i * PRIOR + 1])
        turn = low - BELOW * width
        if scale == 1 and theta[i] < math.exp(turn):  # see `UnitMap`
            at_turn = math.exp(turn)
            s, ds = turn + (theta[i] - at_turn) / at_turn, unit[i] * by_z[i] / at_turn
        elif scale == own:
            s, ds = v[i], by_z[i]
        else:
            ds = unit[i] * by_z[i]
            if scale == 1:
                s, ds = math.log(theta[i]), ds / theta[i]
            elif scale == 2:
                s, ds = math.log(theta[i]) - math.log1p(-theta[i]), ds / (theta[i] * (1.0 - theta[i]))
            else:
                s = theta[i]
        by_u[c] = ds / width
        for k in range(K):
            u[k, c] = (s - low) / width
    eta, eta_bar, u_bar, nothing = np.empty(P), np.empty(P), np.empty((K, d)), np.empty(0)
    at = int(block[7])
    for j in range(P):
        i = int(block[at + 2 * j])
        eta[j] = block[at + 2 * j + 1] if i < 0 else theta[i]
    value = process_gaussian(block[int(block[9]) :], u, eta, nothing, u_bar, eta_bar)
    if not value > -np.inf:
        value_at[0] = -np.inf
        return 4
    total += value

    at = int(block[6])
    for c in range(d):
        i = int(block[at + 4 * c])
        if i >= 0:
            for k in range(K):
                z_bar[i] += u_bar[k, c] * by_u[c]
    at = int(block[7])
    for j in range(P):
        i = int(block[at + 2 * j])
        if i >= 0:
            z_bar[i] += eta_bar[j] * unit[i] * by_z[i]
    from_line(block, z_bar, phi, slope, w_bar)
    value_at[0] = total if math.isfinite(total) else -np.inf
    if not math.isfinite(total):
        return 4
    for i in range(size):
        if not math.isfinite(w_bar[i]):
            return 3
    return 0


@numba.cfunc(types.int64(types.uint64, types.uint64, _POINTER, _POINTER, _POINTER), cache=True)
def expand_function(size, expanded, point, out_at, user):  # type: ignore[no-untyped-def]
    """Return theta and z of a draw, one after the other, for nutpie."""
    block = numba.carray(user, (int(user[0]),))
    w, out = numba.carray(point, (size,)), numba.carray(out_at, (expanded,))
    z, phi, slope = np.empty(size), np.empty(size), np.empty(size)
    to_line(block, w, z, phi, slope)
    for i in range(size):
        at = int(block[5]) + i * PRIOR
        out[i] = _parameter(block[at : at + PRIOR], z[i])[1]
        out[size + i] = z[i]
    return 0
