"""The density of Gaussian data, and what they say of other quantities, in NumPy from dense covariances.

==========  ===================================================================  ============
symbol      meaning                                                              shape
==========  ===================================================================  ============
r, C        data less their mean, and their covariance                           (n,), (n, n)
K           covariance of the data with the quantities that are asked for        (n, p)
L           lower Cholesky factor of C                                           (n, n)
==========  ===================================================================  ============

    log p(r) = -|L^-1 r|² / 2 - log|L| - n log(2 pi) / 2
    E[x | r] = E[x] + K' C^-1 r,        Cov[x | r] = Cov[x] - K' C^-1 K

It is the readable counterpart of the compiled likelihood `_gaussian`: prediction, the terms of a population's subjects
and verification on the simulator call it. Along series of autocorrelated noise `markov.given_data` says the same in
linear time.
"""

from typing import NamedTuple

import numpy as np

from uqms._typing import Array

__all__ = ["LOG_TWO_PI", "GivenData", "given_data"]

LOG_TWO_PI = float(np.log(2.0 * np.pi))


class GivenData(NamedTuple):
    """Other quantities given the data, and the data's density; leading axes are those of the arguments of `given_data`.

    Attributes
    ----------
    root
        L, shape (..., n, n); NaN where C is not finite.
    residual, cross
        L^-1 r and L^-1 K, shapes (..., n) and (..., n, p).
    """

    root: Array
    residual: Array
    cross: Array

    @property
    def log_determinant(self) -> Array:
        """Log-determinant of C, shape (...)."""
        return np.asarray(2.0 * np.log(np.diagonal(self.root, axis1=-2, axis2=-1)).sum(axis=-1))

    @property
    def log_density(self) -> Array:
        """Log-density of the data, shape (...)."""
        n = self.residual.shape[-1]
        return np.asarray(-0.5 * (np.sum(self.residual**2, axis=-1) + self.log_determinant + n * LOG_TWO_PI))

    @property
    def mean(self) -> Array:
        """K' C^-1 r, by which the data move the mean, shape (..., p)."""
        return np.asarray(np.matmul(np.swapaxes(self.cross, -1, -2), self.residual[..., None])[..., 0])

    @property
    def covariance(self) -> Array:
        """K' C^-1 K, by which the data reduce the covariance, shape (..., p, p)."""
        return np.asarray(np.matmul(np.swapaxes(self.cross, -1, -2), self.cross))

    @property
    def variance(self) -> Array:
        """The diagonal of `covariance`, shape (..., p)."""
        return np.asarray(np.sum(self.cross**2, axis=-2))


def given_data(covariance: Array, residual: Array, cross: Array | None = None) -> GivenData:
    """Return what residuals (..., n) of a covariance (..., n, n) say of quantities with covariances (..., n, p)."""
    lead, n = residual.shape[:-1], residual.shape[-1]
    # A draw whose numbers are too large must not spoil the others: a factor of NaN is no error.
    known = np.isfinite(covariance).all(axis=(-2, -1))[..., None, None]
    root = np.where(known, np.linalg.cholesky(np.where(known, covariance, np.eye(n))), np.nan)
    columns = np.zeros((n, 0)) if cross is None else cross
    columns = np.broadcast_to(columns, (*lead, n, columns.shape[-1]))
    right = np.linalg.solve(root, np.concatenate([columns, residual[..., None]], axis=-1))
    return GivenData(root, right[..., -1], right[..., :-1])
