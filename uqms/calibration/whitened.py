"""The space in which the prior is a standard normal: what samplers without derivatives move in.

==========  ====================================================================  ======
symbol      meaning                                                               shape
==========  ====================================================================  ======
z           points; columns are the quantities with a prior, then latents         (n, D)
D           number of quantities with a prior + number of latents                 ()
==========  ====================================================================  ======

The quantile of the prior at Phi(z) is the parameter, so z ~ N(0, 1) says the same as theta ~ prior, limits included.
For z > 0 it is the value that is exceeded with probability Phi(-z), so that the map is exact in both tails, to 37 sds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from uqms._typing import Array, ArrayLike

if TYPE_CHECKING:
    from uqms.calibration.base import Problem

__all__ = ["Whitened"]


@final
@dataclass(frozen=True)
class Whitened:
    """A calibration seen from the space where its prior is (next to) a standard normal."""

    problem: "Problem"

    @property
    def names(self) -> tuple[str, ...]:
        """Quantities with a prior, in the order of the first columns of z."""
        return tuple(self.problem.priors)

    @property
    def latents(self) -> int:
        """Number of standard-normal latent variables, the last columns of z."""
        return self.problem.latents

    @property
    def dimension(self) -> int:
        """Number of columns D of z."""
        return len(self.names) + self.latents

    def theta(self, z: Array) -> dict[str, Array]:
        """Return the quantities with a prior, each (n,), in their own units."""
        return self.problem.conditioned_prior.from_normal(z[:, : len(self.names)])

    def from_theta(self, theta: Mapping[str, ArrayLike]) -> Array:
        """Return z (n, quantities with a prior) of quantities, each (n,); an end of the prior is infinite."""
        return self.problem.conditioned_prior.to_normal({n: np.atleast_1d(theta[n]) for n in self.names})

    def of_data(self, z: Array) -> Array:
        """Return the log-likelihood (n,) of the observations alone; -inf where it is not finite."""
        theta = self.theta(z)
        # Beyond 38 sds probabilities underflow; and with a long tail, the value may overflow before that.
        finite = np.all([np.isfinite(values) for values in theta.values()], axis=0)
        if not finite.any():
            return np.full(len(z), -np.inf)
        if not finite.all():
            theta = {name: values[finite] for name, values in theta.items()}
        if self.latents:
            value = self.problem.log_likelihood(theta, latents=z[finite, len(self.names) :])
        else:
            value = self.problem.log_likelihood(theta)
        out = np.full(len(z), -np.inf)
        out[finite] = np.where(np.isfinite(value), value, -np.inf)
        return out

    def log_likelihood(self, z: Array) -> Array:
        """Return the log-likelihood (n,); -inf where it is not finite.

        Where the prior is not the image of a standard normal (a block cut by the box, constraints), the log of the
        ratio of the two is part of it: weights, evidence and the posterior are those of the prior itself.
        """
        value = self.of_data(z)
        prior = self.problem.conditioned_prior
        if prior.plain:
            return value
        with np.errstate(invalid="ignore"):
            weighted = value + prior.log_weight(self.theta(z))
        return np.where(np.isfinite(value), weighted, -np.inf)

    def log_density(self, z: Array) -> Array:
        """Return log-likelihood plus log-prior of z (n,), the log of the unnormalised posterior density of z."""
        prior = -0.5 * np.sum(z**2, axis=1) - 0.5 * z.shape[1] * np.log(2.0 * np.pi)
        return np.asarray(self.log_likelihood(z) + prior)
