"""The transforms of outputs in compiled code: from the scale of a surrogate to the output's own unit."""

import math

from uqms._native import A1, F, I, native
from uqms._typing import Array

__all__ = ["respond"]


@native(F, A1, I, F, A1)
def respond(response: Array, c: int, s: float, slopes: Array) -> float:
    """Return the output f(s) of row c in the unit of its noise, and fill its first and second derivative by s."""
    kind = response[3 * c]
    if kind == 1.0:
        slopes[0] = slopes[1] = math.exp(s)
        return float(response[3 * c + 1] + slopes[0])
    if kind == 2.0:
        low, high = response[3 * c + 1], response[3 * c + 2]
        far = math.exp(-abs(s))
        near = 1.0 / (1.0 + far)
        slopes[0] = (high - low) * far * near * near
        slopes[1] = slopes[0] * (1.0 - far) * near * (-1.0 if s > 0.0 else 1.0)
        part = (high - low) * far * near
        return float(high - part if s > 0.0 else low + part)
    slopes[0], slopes[1] = 1.0, 0.0
    return s
