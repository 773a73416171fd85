"""Noise that is correlated along a coordinate as a Markov chain: square-root factors and inverses in linear time.

An Ornstein-Uhlenbeck process depends on its past through its last value only. A Kalman filter therefore passes once
over the N cells, whereas a Cholesky factor of their covariance would take N³ operations.

==========  ==========================================================================  ======
symbol      meaning                                                                     shape
==========  ==========================================================================  ======
N           a² exp(-|points - points'| / length) within a series, plus white variances   (N, N)
W           whitening: W N W' = 1; lower triangular in the order of the series          (N, N)
rho         correlation of a cell's process with that of its predecessor, 0: none       (N,)
p, s        variance of process and of the measured value, given the predecessors       (N,)
k           p / s, the part of an innovation that goes on                               (N,)
==========  ==========================================================================  ======

Kalman (1960), doi:10.1115/1.3662552; de Jong (1989), doi:10.1080/01621459.1989.10478878, for the backward recursion.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np

from uqms._compiled import compiled
from uqms._typing import Array, Ints
from uqms.calibration.data_model import DataModel
from uqms.calibration.discrepancy import NOISE, Term

__all__ = [
    "Chains",
    "GivenData",
    "MarkovNoise",
    "Series",
    "given_data",
    "noise_of",
    "only_noise",
]


@final
@dataclass(frozen=True, eq=False)
class Series:
    """Cells whose errors are correlated, by series.

    Attributes
    ----------
    cells
        Which they are, shape (n,).
    ids, points
        Series and place of each, shape (n,).
    amplitude, length
        Places of a and of the length among the hyperparameters.
    """

    cells: Ints
    ids: Ints
    points: Array
    amplitude: int
    length: int


@final
@dataclass(frozen=True, eq=False)
class MarkovNoise:
    """Noise of N cells: independent, or of the given series; each cell is in one of them at most.

    Parameters
    ----------
    group, weight
        Of each cell (N,): place of its white noise's sd among the hyperparameters, and the factor by which the variance
        is smaller.
    sds
        Sds (S, N) of the white noise for `group`, hyperparameters (S, P) and outputs in its unit (S, N).
    series
        Those that are correlated.
    """

    group: Ints
    weight: Array
    series: Sequence[Series] = ()
    sds: Callable[[Ints, Array, Array], Array] | None = None

    def at(self, phi: Array, outputs: Array | None = None) -> "Chains":
        """Return the noise for hyperparameters (S, P), at outputs (S, N) in its unit."""
        alone = np.ones(len(self.group), dtype=np.bool_)
        for one in self.series:
            alone[one.cells] = False
        inside = [np.lexsort((one.points, one.ids)) for one in self.series]
        order = np.concatenate(
            [*(one.cells[at] for one, at in zip(self.series, inside, strict=True)), np.flatnonzero(alone)]
        )
        sds = phi[:, self.group] if self.sds is None or outputs is None else self.sds(self.group, phi, outputs)
        white = (sds**2 / self.weight)[:, order]
        rho, fresh = np.zeros(white.shape), np.zeros(white.shape)
        start = 0
        for one, at in zip(self.series, inside, strict=True):
            place = slice(start, start := start + len(at))
            step = np.append(np.inf, np.where(np.diff(one.ids[at]) == 0, np.diff(one.points[at]), np.inf))
            steps = step / phi[:, one.length, None]
            rho[:, place], fresh[:, place] = np.exp(-steps), -np.expm1(-2.0 * steps) * phi[:, one.amplitude, None] ** 2
        variance, gain = _filtered(rho, fresh, white)
        return Chains(order, rho, fresh, variance, gain)


@final
@dataclass(frozen=True, eq=False)
class Chains:
    """Noise of N cells for S values of its hyperparameters; arrays (S, N) are in the order of the series."""

    order: Ints  # (N,): which cell comes at each place
    rho: Array
    fresh: Array  # variance of the process given its predecessor
    variance: Array  # s
    gain: Array  # k

    def whiten(self, x: Array) -> Array:
        """Return W x for columns x (S or 1, N, m), shape (S, N, m), in the order of the series."""
        out = np.empty((len(self.rho), *x.shape[1:]))
        _whiten(self.order, self.rho, self.variance, self.gain, np.ascontiguousarray(x), out)
        return out

    def whiten_transposed(self, x: Array) -> Array:
        """Return W' x for columns x (S, N, m) in the order of the series; rows of what is returned are cells."""
        out = np.empty(x.shape)
        _whiten_transposed(self.order, self.rho, self.variance, self.gain, np.ascontiguousarray(x), out)
        return out

    @property
    def log_determinant(self) -> Array:
        """Log-determinant of N, shape (S,)."""
        return np.asarray(np.log(self.variance).sum(axis=1))

    @property
    def inverse_diagonal(self) -> Array:
        """Diagonal of the inverse of N, shape (S, N)."""
        return self._back(_inverse_diagonal(self.rho, self.variance, self.gain))

    def process(self, normals: Array) -> Array:
        """Return draws (S, N) of the process without the white noise, from standard normal numbers (S, N)."""
        out = normals[:, self.order] * np.sqrt(self.fresh)
        _accumulate(self.rho, out)
        return self._back(out)

    def _back(self, ordered: Array) -> Array:
        out = np.empty_like(ordered)
        out[:, self.order] = ordered
        return out


class GivenData(NamedTuple):
    """Distribution of errors x given data, where the data are G x + noise and x = R times standard normal variables.

    Attributes
    ----------
    left
        R A^-1/2 with A = 1 + R' G' N^-1 G R, shape (S, r, r): its product with its transpose is the covariance of x.
    projected
        A^-1/2' R' G' N^-1 residual, shape (S, r): left @ projected is the mean of x.
    residual, design
        W residual and W G, shapes (S, N) and (S, N, r).
    log_determinant
        Of the covariance of the data, shape (S,).
    """

    left: Array
    projected: Array
    residual: Array
    design: Array
    log_determinant: Array

    @property
    def factor(self) -> Array:
        """W G left, shape (S, N, r)."""
        return np.asarray(np.matmul(self.design, self.left))


def given_data(chains: Chains, G: Array, root: Array, residual: Array) -> GivenData:
    """Return what residuals (S, N) say of errors with the design G (N, r) or (S, N, r) and prior roots (S, r, r)."""
    r = G.shape[-1]
    design, left_over = chains.whiten(G if G.ndim == 3 else G[None]), chains.whiten(residual[..., None])
    transposed = np.swapaxes(design, 1, 2)
    inner = np.matmul(np.swapaxes(root, 1, 2), np.matmul(np.matmul(transposed, design), root)) + np.eye(r)
    inner = 0.5 * (inner + np.swapaxes(inner, 1, 2))
    # a draw whose numbers are too large for a density must not spoil the others
    known = np.isfinite(inner).all(axis=(1, 2)) & np.isfinite(left_over).all(axis=(1, 2))
    lower = np.linalg.cholesky(np.where(known[:, None, None], inner, np.eye(r)))
    left = np.swapaxes(np.linalg.solve(lower, np.swapaxes(root, 1, 2)), 1, 2)
    projected = np.matmul(np.swapaxes(left, 1, 2), np.matmul(transposed, left_over))[..., 0]
    log_det = chains.log_determinant + 2.0 * np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(axis=1)
    log_det = np.where(known, log_det, np.inf)
    return GivenData(left, projected, left_over[..., 0], design, log_det)


def noise_of(model: DataModel, terms: Sequence[Term] | None = None) -> MarkovNoise:
    """Return the normal noise of a model's cells: white, and the processes of autocorrelated models.

    They are those of `terms`, of all that the model has unless it is given.
    """
    cells, noise = model.cells, model.noise
    series = []
    for term in noise.terms if terms is None else terms:
        if term.role == NOISE:
            at, sites = cells.sites(term.group, model.condition_names)
            place, (length,) = term.place(sites), term.lengths
            keys = noise.keys.index(term.amplitude), noise.keys.index(length)
            series.append(Series(at, place.ids, place.points[:, 0], *keys))
    return MarkovNoise(cells.group, cells.weight, tuple(series), noise.sds)


def only_noise(model: DataModel) -> bool:
    """Return whether the cells have normal noise and nothing else beside the simulator or surrogate itself."""
    noise = model.noise
    terms = all(term.role == NOISE for term in noise.terms)
    return model.closed_form and terms and not noise.factors and model.realisation is None


@compiled
def _filtered(rho: Array, fresh: Array, white: Array) -> tuple[Array, Array]:
    variance, gain = np.empty(rho.shape), np.empty(rho.shape)
    for s in range(rho.shape[0]):
        left = 0.0  # variance of the predecessor's process, given all before and itself
        for i in range(rho.shape[1]):
            r = rho[s, i]
            p = r * r * left + fresh[s, i]
            variance[s, i] = p + white[s, i]
            gain[s, i] = p / variance[s, i]
            left = p * (white[s, i] / variance[s, i])
    return variance, gain


@compiled
def _whiten(order: Ints, rho: Array, variance: Array, gain: Array, x: Array, out: Array) -> None:
    draws, n, m = out.shape
    mean = np.empty(m)
    for s in range(draws):
        at = s if len(x) > 1 else 0
        mean[:] = 0.0  # of the process, given all before
        for i in range(n):
            r, k, scale, cell = rho[s, i], gain[s, i], 1.0 / np.sqrt(variance[s, i]), order[i]
            for c in range(m):
                before = r * mean[c]
                error = x[at, cell, c] - before
                mean[c] = before + k * error
                out[s, i, c] = error * scale


@compiled
def _whiten_transposed(order: Ints, rho: Array, variance: Array, gain: Array, x: Array, out: Array) -> None:
    """Return W' x: the steps of `_whiten` are linear in x and are reversed one by one."""
    draws, n, m = x.shape
    bar = np.empty(m)
    for s in range(draws):
        bar[:] = 0.0  # of the mean behind a step
        for i in range(n - 1, -1, -1):
            r, k, scale, cell = rho[s, i], gain[s, i], 1.0 / np.sqrt(variance[s, i]), order[i]
            for c in range(m):
                error = x[s, i, c] * scale + k * bar[c]
                out[s, cell, c] = error
                bar[c] = r * (bar[c] - error)


@compiled
def _inverse_diagonal(rho: Array, variance: Array, gain: Array) -> Array:
    draws, n = rho.shape
    out = np.empty((draws, n))
    for s in range(draws):
        after = 0.0  # information that the successors have on the mean behind a step
        for i in range(n - 1, -1, -1):
            k, r = gain[s, i], rho[s, i]
            out[s, i] = 1.0 / variance[s, i] + k * k * after
            after = r * r * (1.0 / variance[s, i] + (1.0 - k) * (1.0 - k) * after)
    return out


@compiled
def _accumulate(rho: Array, x: Array) -> None:
    for s in range(x.shape[0]):
        last = 0.0
        for i in range(x.shape[1]):
            last = rho[s, i] * last + x[s, i]
            x[s, i] = last
