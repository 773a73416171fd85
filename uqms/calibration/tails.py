"""Tail probabilities of measurements from draws of what the prior predicts, and powers of ten between the two.

==========  ===================================================================  ===========
symbol      meaning                                                              shape
==========  ===================================================================  ===========
x           draws of a measurement from the prior predictive, of positive        (S,)
            outputs their logarithms
u, k        threshold of a tail, and the number of draws beyond it               ()
xi, b       shape and scale of the generalised Pareto law of what is beyond u    ()
==========  ===================================================================  ===========

A measurement has as its tail probability the fraction of draws beyond it, and beyond the outer k that of a
generalised Pareto law with xi > 0 (probability-weighted moments: Hosking & Wallis 1987, doi:10.2307/1269343), drawn
towards 1/2 as by 10 draws. Standard deviations say nothing here: under a half-Cauchy prior there are none.
"""

import math

import numpy as np

from uqms._typing import Array, Bools

__all__ = ["FAIL", "WARN", "power_of_ten", "tail_probability", "two_sided"]

WARN, FAIL = 1e-3, 1e-6
TAIL, ROOTS, PRIOR_SHAPE, PRIOR_COUNT = 0.2, 3.0, 0.5, 10  # tail: so many of S draws, at most 3 sqrt(S)
UNIT = 0.15  # in powers of ten, from a whole one
FORESEEN = 0.05  # of p, of measurements in another unit


def two_sided(draws: Array, values: Array) -> Array:
    """Return two-sided tail probabilities (n,) of values (n,); of positive outputs on the scale of logarithms."""
    if len(values) and (draws > 0.0).all() and (values > 0.0).all():
        draws, values = np.log(draws), np.log(values)
    return np.minimum(1.0, 2.0 * np.minimum(tail_probability(draws, values), tail_probability(-draws, -values)))


def tail_probability(draws: Array, values: Array) -> Array:
    """Return the probability (n,) of more than each value, from draws (S, n) of its law."""
    size = len(draws)
    count = int(min(TAIL * size, ROOTS * math.sqrt(size)))
    tail = np.sort(draws, axis=0)[size - count - 1 :]
    beyond, excess = tail[1:] - tail[0], np.maximum(values - tail[0], 0.0)
    weight = 1.0 - (np.arange(count) + 0.65) / count
    b0 = np.maximum(beyond.mean(axis=0), 1e-300)
    b1 = (weight[:, None] * beyond).mean(axis=0)
    with np.errstate(all="ignore"):
        shape = np.nan_to_num(2.0 - b0 / (b0 - 2.0 * b1))
    shape = (count * np.clip(shape, 0.0, 0.9) + PRIOR_COUNT * PRIOR_SHAPE) / (count + PRIOR_COUNT)
    scale = b0 * (1.0 - shape)  # the mean of a generalised Pareto law is scale / (1 - shape)
    pareto = (1.0 + shape * excess / scale) ** (-1.0 / shape)
    ties: Bools = draws == values
    counted = (np.sum(draws > values, axis=0) + 0.5 * np.sum(ties, axis=0) + 0.5) / (size + 1.0)
    return np.asarray(np.where(excess > 0.0, np.minimum(count / size * pareto, counted), counted))


def power_of_ten(draws: Array, values: Array) -> int:
    """Return the power of ten between measurements and predictions, 0 where there is none.

    Either their ratio is close to one, or measurements divided by the nearest one are as the prior predicts.
    """
    measured, foreseen = (float(np.median(np.abs(one))) for one in (values, draws))
    if not (measured > 0.0 and foreseen > 0.0):
        return 0
    power = math.log10(measured / foreseen)
    if abs(power - round(power)) <= UNIT or round(power) == 0:
        return round(power)
    p = len(values) * float(two_sided(draws, values / 10.0 ** round(power)).min())
    return round(power) if p > FORESEEN else 0
