"""Kernels of all inputs and of each alone (`kernels.Effects`), compiled: one input against many, part by part.

==========  ===================================================================  ============
symbol      meaning                                                              shape
==========  ===================================================================  ============
u, x        an input, and others                                                 (d,), (n, d)
shares      fractions of the parts                                               (d + 1,)
inverse     inverse length scales of the parts; the part of one input has its    (d + 1, d)
            own on the diagonal below the first row
kappa       correlation of u with x                                              (n,)
==========  ===================================================================  ============

Each part is one loop over x that the compiler turns into vector instructions. `kernels.composite_of` gives the same
pair by pair, several times slower.
"""

import numpy as np

from uqms._compiled import compiled
from uqms._typing import Array
from uqms.surrogates.radial import radial_slopes

__all__ = ["effects"]


@compiled(fastmath={"contract"})
def effects(code: int, shares: Array, inverse: Array, u: Array, x: Array, kappa: Array, bar: Array, out: Array) -> None:
    """Fill kappa (n,), and add to out (d,) the derivative by u of kappa · bar, unless both are empty."""
    n, d = x.shape
    work = np.empty((3, n))
    r2, part, slope = work[0], work[1], work[2]
    for i in range(n):
        r2[i] = kappa[i] = 0.0
    for c in range(d):
        together, alone, share = inverse[0, c] * inverse[0, c], inverse[c + 1, c] * inverse[c + 1, c], shares[c + 1]
        for i in range(n):
            step = u[c] - x[i, c]
            part[i] = step * step
            r2[i] += together * part[i]
            part[i] *= alone
        if share == 0.0:  # of a score that has no main effects
            continue
        radial_slopes(code, part, slope)
        for i in range(n):
            kappa[i] += share * part[i]
        if len(bar):
            total = 0.0
            for i in range(n):
                total += bar[i] * slope[i] * (u[c] - x[i, c])
            out[c] += share * alone * total
    radial_slopes(code, r2, slope)
    for i in range(n):
        kappa[i] += shares[0] * r2[i]
    for c in range(len(out)):
        total = 0.0
        for i in range(n):
            total += bar[i] * slope[i] * (u[c] - x[i, c])
        out[c] += shares[0] * inverse[0, c] * inverse[0, c] * total
