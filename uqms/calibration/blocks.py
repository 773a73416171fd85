"""The flat blocks that compiled code reads: one table of fields for those who write them and those who read them.

A block is one array of numbers. It begins with the place of each field and the place behind the last one; a field is
then `block[block[i] : block[i + 1]]`. Python writes a block with `pack`, compiled code reads a field with `view`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from uqms._compiled import compiled
from uqms._typing import Array

__all__ = ["Data", "pack", "view"]


def pack(fields: Sequence[Any]) -> Array:
    """Return fields, in the order of their table, as one block."""
    arrays = [np.ravel(np.asarray(one, dtype=np.float64)) for one in fields]
    places = len(arrays) + 1 + np.cumsum([0, *(len(one) for one in arrays)])
    return np.concatenate([places.astype(np.float64), *arrays])


@compiled
def view(block: Array, field: int) -> Array:
    """Return one field of a block, by its place in the table."""
    return block[int(block[field]) : int(block[field + 1])]


class Data(NamedTuple):
    """What the Gaussian likelihood knows of the measurements; letters as in `_gaussian`.

    Attributes
    ----------
    sizes
        K, q, N, t, g (noise groups), P (hyperparameters), o (columns of J), number of terms; then the form of the
        error between inputs, the structure of the noise, and 1 where offset, basis and truncation are parts (`_parts`).
    constant
        What no parameter changes in the log-likelihood, shape (1,).
    count, squares
        By noise group: replicates beyond the first of each cell, and their sum of squares, shape (g,).
    starts
        First row of each input, and N, shape (K + 1,).
    value, own, weight
        Of each row: measured value, variance beside the noise's, and what divides the noise's variance, shape (N,).
    group, scale
        Of each row: its noise group (-1: none), and the place in phi of its scale discrepancy (-1: none), (N,).
    offset, basis, truncation
        Of the rows, (N,), (N, q), (N, t); empty where they are parts.
    ranks
        Number of features of each score, shape (q,), or of all scores together, (1,); empty without features.
    order, fresh, gap, amplitude, length
        Rows in the order of their series, shape (N,); whether a series begins there; distance from the row before; and
        places in phi of the standard deviation (-1: no autocorrelated noise) and the length of the process.
    terms
        Descriptions of covariances over all rows, see `_terms`.
    row_cell, row_variance
        Which row of these a measured value belongs to, and its variance in units of the noise's, shape (R,); empty
        where rows are combinations of measured values, which are then those of the data.
    response
        Of each row, where some surrogate models a transformed output: kind of the transform and the ends of the output
        (`Transform.numbers`), shape (N, 3). Rows are then linear in the errors to first order. Empty otherwise.
    growth
        Of each row, where some noise grows with the output: places in phi of the factor and of the power of its sd, -1
        for rows whose noise does not, shape (N, 2). Empty otherwise.
    spectra
        Instead of all rows (N is 0): the spectra of equally spaced series, see `_spectral`. Empty otherwise.
    """

    sizes: Any
    constant: Any
    count: Any
    squares: Any
    starts: Any
    value: Any
    own: Any
    weight: Any
    group: Any
    scale: Any
    offset: Any
    basis: Any
    truncation: Any
    ranks: Any
    order: Any
    fresh: Any
    gap: Any
    amplitude: Any
    length: Any
    terms: Any
    row_cell: Any
    row_variance: Any
    response: Any
    growth: Any = ()
    spectra: Any = ()
