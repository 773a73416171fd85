"""The two functions of `fused` as compiled code calls them by name, so that each is compiled once."""

from uqms._native import A1, A2, NONE, I, native
from uqms._typing import Array
from uqms.surrogates.fused import forward, reverse

__all__ = ["score_forward", "score_reverse"]


@native(NONE, A1, I, I, A2, A1, A2, A2, A2, A2)
def score_forward(
    block: Array, h: int, j: int, u: Array, mean: Array, covariance: Array, kg: Array, t: Array, v: Array
) -> None:
    """Call `forward`, which is compiled with its callers."""
    forward(block, h, j, u, mean, covariance, kg, t, v)


@native(NONE, A1, I, I, A2, A2, A2, A2, A1, A2, A2)
def score_reverse(
    block: Array, h: int, j: int, u: Array, kg: Array, t: Array, v: Array, mean_bar: Array, cov_bar: Array, u_bar: Array
) -> None:
    """Call `reverse`."""
    reverse(block, h, j, u, kg, t, v, mean_bar, cov_bar, u_bar)
