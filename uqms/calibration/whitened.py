"""The space in which the prior is a standard normal: what samplers without derivatives move in.

==========  ====================================================================  ======
symbol      meaning                                                               shape
==========  ====================================================================  ======
z           points; columns are the quantities with a prior, then latents         (n, D)
D           number of quantities with a prior + number of latents                 ()
==========  ====================================================================  ======

The quantile of the prior at Phi(z) is the parameter, so z ~ N(0, 1) says the same as theta ~ prior, limits included.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, final

import numpy as np
from scipy.special import ndtr, ndtri

from uqms._typing import Array, ArrayLike

if TYPE_CHECKING:
    from uqms.calibration.problem import Calibration

__all__ = ["Whitened"]


@final
@dataclass(frozen=True)
class Whitened:
    """A calibration seen from the space where its prior is a standard normal; no likelihood there is -inf."""

    problem: "Calibration"

    @property
    def names(self) -> tuple[str, ...]:
        """Quantities with a prior, in the order of the first columns of z."""
        return tuple(self.problem.priors)

    @property
    def latents(self) -> int:
        """Number of standard-normal latent variables, the last columns of z."""
        return int(getattr(self.problem, "latents", 0))

    @property
    def dimension(self) -> int:
        """Number of columns D of z."""
        return len(self.names) + self.latents

    @cached_property
    def _ends(self) -> dict[str, tuple[float, float]]:
        """Mass of the whole prior below the two limits that it is conditioned on."""
        limits = {name: self.problem.limits(name) for name in self.names}
        return {
            name: (float(prior.cdf(limits[name][0])), float(prior.cdf(limits[name][1])))
            for name, prior in self.problem.priors.items()
        }

    def theta(self, z: Array) -> dict[str, Array]:
        """Return the quantities with a prior, each (n,), in their own units."""
        out = {}
        for (name, prior), column in zip(self.problem.priors.items(), z.T, strict=False):
            low, high = self._ends[name]
            out[name] = np.asarray(prior.quantile(low + (high - low) * ndtr(column)))
        return out

    def from_theta(self, theta: Mapping[str, ArrayLike]) -> Array:
        """Return z (n, quantities with a prior) of quantities, each (n,); an end of the prior is infinite."""
        columns = []
        for name, prior in self.problem.priors.items():
            low, high = self._ends[name]
            columns.append(ndtri((np.asarray(prior.cdf(np.atleast_1d(theta[name]))) - low) / (high - low)))
        return np.column_stack(columns)

    def log_likelihood(self, z: Array) -> Array:
        """Return the log-likelihood (n,); -inf where it is not finite."""
        theta = self.theta(z)
        if self.latents:
            value = self.problem.log_likelihood(theta, latents=z[:, len(self.names) :])
        else:
            value = self.problem.log_likelihood(theta)
        return np.where(np.isfinite(value), value, -np.inf)

    def log_density(self, z: Array) -> Array:
        """Return log-likelihood plus log-prior of z (n,), the log of the unnormalised posterior density of z."""
        prior = -0.5 * np.sum(z**2, axis=1) - 0.5 * z.shape[1] * np.log(2.0 * np.pi)
        return np.asarray(self.log_likelihood(z) + prior)
