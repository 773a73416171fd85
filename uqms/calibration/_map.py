"""Transport maps from the sampler's coordinates to unconstrained space, compiled; `compiled.Map` has the coefficients.

The map is triangular. Coordinate i is linear in the standardised coordinates x before it, quadratic in their bounded
features phi, and has a constant Jacobian: z_i = a_i + b_i' x + phi' Q_i phi + s_i w_i. The density is exact for any
coefficients. A straight ridge must stay straight wherever a chain is, so x is not bounded. Squares without a bound
would bend more and more outside of the region in which the map was learned.

For hundreds of coordinates (`GroupedMap`) z = a + s R e (w + V' (t - 1) V w): scales s, square-root factors R of blocks
(the parameters of a subject), and stretches along orthonormal rows V. Factors e of each coordinate of a block are
exponentials of what is linear in a few other coordinates, bounded as above: effects are wider where the noise is.
"""

import math

import numpy as np

from uqms._compiled import compiled
from uqms._typing import Array

__all__ = ["HEADER", "REACH", "from_line", "from_line_grouped", "to_line", "to_line_grouped"]

# A block: size, P, K, d, hyperparameters, then where priors, inputs, noise, map and likelihood begin, and the end; last
# the log-determinant. Of a model's graph: where a linear map begins (instead of the likelihood), and the shared arrays.
HEADER = 12
REACH = 5.0  # features of the map are its standardised coordinates, bounded to this: x / (1 + (x / REACH)^4)^(1/4)


@compiled
def _bounded(x: float) -> tuple[float, float]:
    """Return a coordinate bounded to `REACH`, and its derivative."""
    r = (x / REACH) ** 2
    g = 1.0 / math.sqrt(math.sqrt(1.0 + r * r))
    return x * g, g * g * g * g * g


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
        phi[i], by_x = _bounded((value - block[at + 3 * size + own]) / block[at + 4 * size + own])
        slope[i] = by_x / block[at + 4 * size + own]


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
    count, first = int(block[at]), at + 4 + 2 * size
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
def _groups_at(block: Array) -> int:
    """Return where the groups begin in a block."""
    size, at = int(block[1]), int(block[9])
    return at + 4 + 2 * size + int(block[at]) * (1 + size)


@compiled
def _rooted(block: Array, x: Array, transposed: bool) -> None:
    """Replace x by R x, or by R' x."""
    at, members = int(block[9]), _groups_at(block)
    groups, m = int(block[at + 1]), int(block[at + 2])
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
def to_line_grouped(block: Array, w: Array, z: Array, x: Array, factor: Array) -> float:
    """Fill z = a + s R e (w + V' (t - 1) V w), what R is multiplied with, and e; return the sum of log e."""
    size, at = int(block[1]), int(block[9])
    groups, m, drivers = int(block[at + 1]), int(block[at + 2]), int(block[at + 3])
    x[:] = w
    _stretched(block, x)
    factor[:] = 0.0
    members = _groups_at(block)
    place, total = members + groups * m * (1 + m), 0.0
    for _ in range(drivers):
        bounded = _bounded(x[int(block[place])])[0]
        place += 1
        for i in range(groups * m):
            factor[int(block[members + i])] += block[place + i] * bounded
        place += groups * m
    for i in range(size):
        total += factor[i]
        factor[i] = math.exp(factor[i])
        x[i] *= factor[i]
        z[i] = x[i]
    _rooted(block, z, False)
    for i in range(size):
        z[i] = block[at + 4 + i] + block[at + 4 + size + i] * z[i]
    return total


@compiled
def from_line_grouped(block: Array, z_bar: Array, x: Array, factor: Array, w_bar: Array) -> None:
    """Fill the derivative by w from the derivative by z."""
    size, at = int(block[1]), int(block[9])
    groups, m, drivers = int(block[at + 1]), int(block[at + 2]), int(block[at + 3])
    for i in range(size):
        w_bar[i] = block[at + 4 + size + i] * z_bar[i]
    _rooted(block, w_bar, True)
    members = _groups_at(block)
    place = members + groups * m * (1 + m)
    for _ in range(drivers):
        own, bar = int(block[place]), 0.0
        place += 1
        for i in range(groups * m):
            other = int(block[members + i])
            bar += block[place + i] * (1.0 + w_bar[other] * x[other])
        w_bar[own] += bar * _bounded(x[own])[1]
        place += groups * m
    for i in range(size):
        w_bar[i] *= factor[i]
    _stretched(block, w_bar)
