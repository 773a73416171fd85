"""Where the variance of a quantity comes from, and how well its mean is known: the law of total variance from draws.

==========  ============================================================================  ==============
symbol      meaning                                                                       shape
==========  ============================================================================  ==============
y           a quantity, for F functions of the surrogate at S draws of the inputs, with   (F, S, D, N, ...)
            D draws of the discrepancy and N of the noise for each
P, M        parts of the variance: of the inputs, of the surrogate's mean effect          (...)
E           what surrogate and inputs do together: the error at one input                 (...)
==========  ============================================================================  ==============

Of a prior, functions and inputs are crossed: every function is evaluated at all inputs, and the parts are those of a
two-way analysis of variance with random effects, each estimated without bias:
Var y = P + (M + E) + discrepancy + noise. M alone is the variance of the mean over the inputs: what the mean of a
population would change by if the simulator itself took the surrogate's place; E averages out.

Of a posterior, the surrogate's error is the one given the data, which is another one for each draw of the parameters:
functions are nested in the draws. How far the mean would move with the simulator itself in the surrogate's place is
then in both of the first two parts, since the data would say something else of the parameters, too: see `one_function`.
"""

from typing import Literal, NamedTuple

import numpy as np

from uqms._typing import Array

__all__ = ["PARTS", "REPEATS", "Sampling", "Parts", "crossed", "effective", "nested"]

PARTS = ("parameter", "surrogate", "discrepancy", "noise")


REPEATS = 16  # independent sequences that draws of a prior consist of
MOST_WORTH = 4.0  # independent draws that one draw of a sequence may be worth, as far as 16 sequences can tell

type Sampling = Literal["independent", "repeated", "ordered"]
"""Draws of the inputs: independent; Sobol sequences one after the other; draws that may depend on those before."""


class Parts(NamedTuple):
    """Parts of the variance (4, ...), in the order of `PARTS`, and the errors of the mean as standard deviations (...).

    `shared` is that of the surrogate, the root of M; `monte_carlo` that of the finite numbers of draws.
    """

    variance: Array
    shared: Array
    monte_carlo: Array


def _inner(y: Array) -> tuple[Array, Array, Array]:
    """Return means (a, b, ...) over discrepancy and noise, and the parts (...) of these two."""
    d, n = y.shape[2:4]
    noise = y.var(axis=3, ddof=1).mean(axis=(0, 1, 2)) if n > 1 else np.zeros(y.shape[4:])
    means = y.mean(axis=3)
    own = means.var(axis=2, ddof=1).mean(axis=(0, 1)) - noise / n if d > 1 else np.zeros(y.shape[4:])
    return means.mean(axis=2), own, noise


def crossed(y: Array, sampling: Sampling) -> Parts:
    """Return the parts of draws (F, S, D, N, ...) of functions that were each evaluated at all inputs."""
    f, s, d, n = y.shape[:4]
    table, own, noise = _inner(y)
    rest = own / d + noise / (d * n)  # variance of an entry of the table that is neither inputs nor surrogate
    mean, by_function, by_input = table.mean(axis=(0, 1)), table.mean(axis=1), table.mean(axis=0)
    inputs = by_input.var(axis=0, ddof=1)
    if f == 1:
        both, shared = rest, np.zeros_like(mean)
    else:
        residual = table - by_function[:, None] - by_input[None] + mean
        both = (residual**2).sum(axis=(0, 1)) / ((f - 1) * (s - 1))
        shared = by_function.var(axis=0, ddof=1) - both / s
    parameter = inputs - both / f
    variance = np.stack([parameter, shared + both - rest, own, noise])
    sampled = mean_variance(by_input, sampling) + np.maximum(both, 0.0) * (1.0 - 1.0 / f) / s
    return Parts(
        np.maximum(variance, 0.0),
        np.sqrt(np.maximum(shared, 0.0)),
        np.sqrt(np.maximum(sampled + np.maximum(shared, 0.0) / f, 0.0)),
    )


def nested(y: Array, left: Array | None = None) -> Parts:
    """Return the parts of draws (F, S, D, N, ...) of which the F functions of an input belong to it alone.

    `left` (...) is the variance that inputs would still make if the simulator itself took the surrogate's place; None
    where the surrogate has no error.
    """
    f, _, d, n = y.shape[:4]
    table, own, noise = _inner(y)
    rest = own / d + noise / (d * n)
    within = table.var(axis=0, ddof=1).mean(axis=0) if f > 1 else rest
    by_input = table.mean(axis=0)
    parameter, surrogate = by_input.var(axis=0, ddof=1) - within / f, within - rest
    variance = np.maximum(np.stack([parameter, surrogate, own, noise]), 0.0)
    shared = np.zeros_like(parameter) if left is None else np.maximum(variance[0] + variance[1] - left, 0.0)
    return Parts(variance, np.sqrt(shared), np.sqrt(mean_variance(by_input, "ordered")))


def mean_variance(values: Array, sampling: Sampling) -> Array:
    """Return the variance (...) of the mean of values (S, ...)."""
    s = len(values)
    plain = np.asarray(values.var(axis=0, ddof=1) / s)
    batches = REPEATS if sampling == "repeated" else int(np.sqrt(s))
    if sampling == "independent" or batches < 8:
        return plain
    length = s // batches
    means = values[: batches * length].reshape(batches, length, *values.shape[1:]).mean(axis=1)
    between = np.asarray(means.var(axis=0, ddof=1) / batches)
    return between if sampling == "repeated" else np.maximum(plain, between)


def effective(values: Array, sampling: Sampling) -> Array:
    """Return how many independent draws (...) values (S, ...) are worth for their mean."""
    plain = values.var(axis=0, ddof=1) / len(values)
    ratio = plain / np.maximum(mean_variance(values, sampling), 1e-300)
    return np.asarray(len(values) * np.where(plain > 0.0, np.minimum(ratio, MOST_WORTH), 1.0))
