"""What inputs leave unexplained of an output, from draws alone: neighbours in some inputs differ by what the others do.

==========  ==================================================================  ==============
symbol      meaning                                                             shape
==========  ==================================================================  ==============
x           draws of the inputs, dependent or not                               (M, d)
y           functions at them                                                   (M, c)
W_u         E[Var(y | x_u)], what the inputs u leave unexplained                (B, c)
r           y less a quadratic function of x_u, by least squares                (M, c)
g           half of the squared difference of r at a draw and a neighbour       (M k, c)
h           rows of the orthonormal basis of that quadratic function            (M, p)
xi          weights of the draws, one row a resample                            (B, M)
==========  ==================================================================  ==============

Given x_u, y and r have the same variance whatever was subtracted, so that W_u is one of r as well; what neighbours
differ by on the way from one to the other is in r only as far as it is not quadratic. Exact for any law of the inputs
when y is the sum of a quadratic function of x_u and of something that does not depend on x_u.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from uqms._typing import Array, Ints

__all__ = ["Neighbours", "neighbours_of", "unexplained"]

NEIGHBOURS = 6
TIE = 1e-9  # sds of an input within which draws are equal
PER_COEFFICIENT = 12  # draws for each coefficient of the quadratic function, or it has fewer
SMALLEST = 1e-12  # of the largest eigenvalue: a direction without spread


class Neighbours(NamedTuple):
    """The nearest draws of each one in some of the inputs.

    Attributes
    ----------
    columns
        Which inputs.
    nearest
        (M, k), the nearest others.
    """

    columns: tuple[int, ...]
    nearest: Ints


def neighbours_of(x: Array, columns: Sequence[int], rng: np.random.Generator) -> Neighbours:
    """Return the neighbours of draws (M, d) in some inputs, in the metric of their own covariance."""
    z = _whitened(x[:, list(columns)])
    # Of draws that are equal in these inputs (doses, counts) any are neighbours, not always the first few.
    z = z + TIE * rng.standard_normal(z.shape)
    _, nearest = cKDTree(z).query(z, k=NEIGHBOURS + 1)
    return Neighbours(tuple(columns), np.asarray(nearest[:, 1:], dtype=np.int64))


def _whitened(x: Array) -> Array:
    off = x - x.mean(axis=0)
    values, vectors = np.linalg.eigh(np.atleast_2d(off.T @ off) / len(x))
    real = values > SMALLEST * values[-1]
    return np.asarray(off @ (vectors[:, real] / np.sqrt(values[real])))


def _quadratic(z: Array) -> Array:
    """Return 1, z, z^2 and products (M, p), as many of them as the draws determine well."""
    n, u = z.shape
    first = [np.ones((n, 1)), z]
    squares = [z**2] if 1 + 2 * u <= n // PER_COEFFICIENT else []
    left, right = np.triu_indices(u, 1)
    products = [z[:, left] * z[:, right]] if 1 + 2 * u + len(left) <= n // PER_COEFFICIENT else []
    return np.hstack([*first, *squares, *products])


def unexplained(near: Neighbours, x: Array, y: Array, xi: Array) -> Array:
    """Return W_u (B, c) of functions y (M, c) at draws x (M, d) with their weights xi (B, M)."""
    # Not kept for all subsets, as neighbours are: with many of them that would fill the memory.
    h, nearest = np.linalg.qr(_quadratic(_whitened(x[:, list(near.columns)])))[0], near.nearest
    residual = y - h @ (h.T @ y)
    g = 0.5 * (residual[:, None, :] - residual[nearest]) ** 2
    # The fit took part of the difference: E[g] = W (1 - |h_i - h_j|^2 / 2).
    kept = 1.0 - 0.5 * ((h[:, None, :] - h[nearest]) ** 2).sum(axis=-1)
    g /= np.maximum(kept, 0.25)[:, :, None]
    # A pair changes with both of its draws, to first order: products would count what is of pairs alone three times,
    # not twice (a jackknife's excess: Efron & Stein 1981, doi:10.1214/aos/1176345462).
    w = (xi[:, :, None] + xi[:, nearest] - 1.0).reshape(len(xi), -1)
    return np.asarray(w @ g.reshape(-1, y.shape[1]) / w.sum(axis=1, keepdims=True))
