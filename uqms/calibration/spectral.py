"""The spectrum of equally spaced series: from rows of a Gaussian likelihood to the numbers that `_spectral` reads."""

import numpy as np
from scipy.fft import dct

from uqms._typing import Array, Ints
from uqms.calibration._spectral import HEADER

__all__ = ["spectra"]

EQUAL = 1e-9  # relative difference of gaps that are equal
NODES = 32  # of an interval from lambda to 4 lambda: interpolation errors fall by 3 with each, to below rounding
EXACT = 64  # frequencies that have their own node
FEWER = 2  # rows for each node at least: products at fewer rows cost no more


def spectra(
    columns: Array,
    scores: int,
    series: Ints,
    gap: Array,
    inputs: Ints,
    amplitude: Ints,
    length: Ints,
    group: Ints,
    weight: Array,
) -> Array | None:
    """Return the numbers of all series; None where some series is not equally spaced, or nothing is gained.

    Parameters
    ----------
    columns
        Basis, truncation and measured values less the offset (N, m), rows in the order of their series.
    scores
        Number of columns that are the basis.
    series, gap
        Of each row: its series, in ascending order, and the distance from the row before, 0 at the first of a series.
    inputs, amplitude, length, group, weight
        Of each row, as in `blocks.Data`; amplitude is -1 for rows with independent noise only.
    """
    found, nodes = [], 0
    single = amplitude < 0  # rows without a process are of one node, where they have one variance
    kinds = np.column_stack([inputs, group, weight])
    _, alike = np.unique(kinds[single], axis=0, return_inverse=True)
    members = [np.flatnonzero(single)[alike.ravel() == i] for i in range(int(alike.max(initial=-1)) + 1)]
    along = np.flatnonzero(~single)
    members += np.split(along, np.flatnonzero(np.diff(series[along])) + 1) if len(along) else []
    for at in members:
        first, gaps = at[0], gap[at[1:]]
        step = float(gaps.mean()) if len(gaps) else 0.0
        same = np.all(kinds[at] == kinds[first]) and np.all(length[at] == length[first])
        equal = step > 0.0 and bool(np.all(np.abs(gaps - step) <= EQUAL * step))
        if not single[first] and not (same and equal):
            return None
        x = columns[at].copy()
        shift = np.linalg.lstsq(x[:, :scores], x[:, -1])[0] if scores else np.zeros(0)
        x[:, -1] -= x[:, :scores] @ shift
        own = _together(x) if single[first] else _spectrum(x)
        nodes += len(own)
        head = [inputs[first], len(at), len(own), amplitude[first], length[first], group[first], step, weight[first]]
        assert len(head) == HEADER
        found += [np.asarray(head, dtype=np.float64), shift, own.ravel()]
    return np.concatenate(found) if FEWER * nodes <= len(columns) else None


def _products(x: Array) -> Array:
    one, other = np.tril_indices(x.shape[1])
    return np.asarray(x[:, one] * x[:, other])


def _together(x: Array) -> Array:
    """Return the one node of rows with independent noise."""
    one, other = np.tril_indices(x.shape[1])
    return np.concatenate([[0.0, len(x)], (x.T @ x)[one, other], np.zeros(2 * x.shape[1] + 2)])[None]


def _spectrum(x: Array) -> Array:
    """Return the nodes of an equally spaced series: lambda, count, and products of the transform of x (n, m)."""
    n, m = x.shape
    frequency = np.arange(n)
    values = 4.0 * np.sin(0.5 * np.pi * frequency / n) ** 2
    transformed = dct(x, type=2, norm="ortho", axis=0)
    ends = np.zeros((n, 2))
    ends[0], ends[-1] = np.sqrt(0.5), (np.sqrt(0.5), -np.sqrt(0.5))
    ends = dct(ends, type=2, norm="ortho", axis=0)
    ends[1::2, 0], ends[0::2, 1] = 0.0, 0.0  # exactly
    crossed = (ends[:, :, None] * transformed[:, None, :]).reshape(n, 2 * m)
    each = np.column_stack([np.ones(n), _products(transformed), crossed, ends**2])
    nodes, begin = [np.column_stack([values[:EXACT], each[:EXACT]])], EXACT
    while begin < n:
        end = min(2 * begin, n)
        inside, low, high = each[begin:end], values[begin], values[end - 1]
        if end - begin <= NODES:
            nodes.append(np.column_stack([values[begin:end], inside]))
        else:
            angle = np.pi * (np.arange(NODES) + 0.5) / NODES
            place = 0.5 * (low + high) - 0.5 * (high - low) * np.cos(angle)
            nodes.append(np.column_stack([place, _interpolation(values[begin:end], place, angle) @ inside]))
        begin = end
    return np.concatenate(nodes)


def _interpolation(x: Array, nodes: Array, angle: Array) -> Array:
    """Return (nodes, x) how much each Chebyshev node counts for the interpolant at x: barycentric, which is stable."""
    sign = np.where(np.arange(len(nodes)) % 2 == 0, 1.0, -1.0) * np.sin(angle)
    off = x - nodes[:, None]
    hit = off == 0.0
    share = sign[:, None] / np.where(hit, 1.0, off)
    out = np.where(hit.any(axis=0), hit, share / np.where(hit.any(axis=0), 1.0, share.sum(axis=0)))
    return np.asarray(out, dtype=np.float64)
