"""Transport maps from the sampler's coordinates to unconstrained space, compiled; `compiled.Map` has the coefficients.

The map is triangular. Coordinate i is linear in the standardised coordinates x before it, quadratic in their bounded
features phi, and has a constant Jacobian: z_i = a_i + b_i' x + phi' Q_i phi + s_i w_i. The density is exact for any
coefficients. A straight ridge must stay straight wherever a chain is, so x is not bounded. Squares without a bound
would bend more and more outside of the region in which the map was learned.

For hundreds of coordinates the map is linear (`Linear`), z = a + s R (w + V' (t - 1) V w): scales s, square-root
factors R of blocks (the parameters of a subject), and stretches along orthonormal rows V.
"""

import math

import numpy as np

from uqms._compiled import compiled
from uqms._typing import Array

__all__ = ["HEADER", "REACH", "from_line", "from_line_straight", "to_line", "to_line_straight"]

# A block: size, P, K, d, hyperparameters, then where priors, inputs, noise, map and likelihood begin, and the end; last
# the log-determinant. Of a model's graph: where a linear map begins (instead of the likelihood), and the shared arrays.
HEADER = 12
REACH = 5.0  # features of the map are its standardised coordinates, bounded to this: x / (1 + (x / REACH)^4)^(1/4)


@compiled
def to_line(block: Array, w: Array, z: Array, phi: Array, slope: Array) -> None:
    """Fill z = map(w), and the features."""
    size, at = int(block[1]), int(block[8])
    place = at + 5 * size
    for i in range(size):
        own = int(block[at + i])
        value = block[at + size + own] + block[at + 2 * size + own] * w[i]
        for j in range(i):
            other = int(block[at + j])
            value += block[place] * (z[other] - block[at + 3 * size + other]) / block[at + 4 * size + other]
            place += 1
        for j in range(i):
            inner = 0.0
            for m in range(j + 1):
                inner += block[place] * phi[m]
                place += 1
            value += inner * phi[j]
        z[own] = value
        x = (value - block[at + 3 * size + own]) / block[at + 4 * size + own]
        r = (x / REACH) ** 2
        g = 1.0 / math.sqrt(math.sqrt(1.0 + r * r))
        phi[i] = x * g
        slope[i] = g * g * g * g * g / block[at + 4 * size + own]


@compiled
def from_line(block: Array, z_bar: Array, phi: Array, slope: Array, w_bar: Array) -> None:
    """Fill the derivative by w from the derivative by z, which is overwritten."""
    size, at = int(block[1]), int(block[8])
    place = at + 5 * size
    for i in range(size):
        place += i + i * (i + 1) // 2
    for i in range(size - 1, -1, -1):
        own = int(block[at + i])
        bar = z_bar[own]
        w_bar[i] = bar * block[at + 2 * size + own]
        place -= i + i * (i + 1) // 2
        linear, square = place, place + i
        for j in range(i):
            other = int(block[at + j])
            z_bar[other] += bar * block[linear + j] / block[at + 4 * size + other]
            for m in range(j + 1):
                q = block[square] * bar
                square += 1
                z_bar[other] += q * phi[m] * slope[j]
                z_bar[int(block[at + m])] += q * phi[j] * slope[m]


@compiled(fastmath={"reassoc", "contract"})
def _stretched(block: Array, x: Array) -> None:
    """Replace x by x + V' (t - 1) V x."""
    size, at = int(block[1]), int(block[9])
    count, first = int(block[at]), at + 3 + 2 * size
    along = np.empty(count)
    for k in range(count):
        begin = first + count + k * size
        row = block[begin : begin + size]
        value = 0.0
        for i in range(size):
            value += row[i] * x[i]
        along[k] = (block[first + k] - 1.0) * value
    for k in range(count):
        begin = first + count + k * size
        row, value = block[begin : begin + size], along[k]
        for i in range(size):
            x[i] += row[i] * value


@compiled
def _rooted(block: Array, x: Array, transposed: bool) -> None:
    """Replace x by R x, or by R' x."""
    size, at = int(block[1]), int(block[9])
    count, groups, m = int(block[at]), int(block[at + 1]), int(block[at + 2])
    members = at + 3 + 2 * size + count * (1 + size)
    root, old = members + groups * m, np.empty(m)
    for _ in range(groups):
        for i in range(m):
            old[i] = x[int(block[members + i])]
        for i in range(m):
            value = 0.0
            for j in range(m):
                value += old[j] * (block[root + j * m + i] if transposed else block[root + i * m + j])
            x[int(block[members + i])] = value
        members += m
        root += m * m


@compiled
def to_line_straight(block: Array, w: Array, z: Array) -> None:
    """Fill z = a + s R (w + V' (t - 1) V w)."""
    size, at = int(block[1]), int(block[9]) + 3
    z[:] = w
    _stretched(block, z)
    _rooted(block, z, False)
    for i in range(size):
        z[i] = block[at + i] + block[at + size + i] * z[i]


@compiled
def from_line_straight(block: Array, z_bar: Array, w_bar: Array) -> None:
    """Fill the derivative by w from the derivative by z."""
    size, at = int(block[1]), int(block[9]) + 3
    for i in range(size):
        w_bar[i] = block[at + size + i] * z_bar[i]
    _rooted(block, w_bar, True)
    _stretched(block, w_bar)
