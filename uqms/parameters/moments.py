"""Mean and standard deviation of a distribution, as every prior reports them."""

from typing import NamedTuple

__all__ = ["Moments"]


class Moments(NamedTuple):
    """Mean and standard deviation of a distribution (inf where it has none)."""

    mean: float
    sd: float
