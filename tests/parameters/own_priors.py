"""Priors of one's own, as a user writes them: a file outside of the package, imported by its name."""

from dataclasses import dataclass

import uqms as uq


@dataclass(frozen=True, repr=False)
class Weibull(uq.Prior):
    """A positive quantity whose hazard is a power of its size."""

    shape: float
    size: float
    scale = "log"

    def _log_density(self, x, xp):
        log_t = xp.log(x) - xp.log(self.size)
        return xp.log(self.shape / self.size) + (self.shape - 1.0) * log_t - xp.exp(self.shape * log_t)


@dataclass(frozen=True, repr=False)
class Triangular(uq.Prior):
    """A quantity between two bounds with a most plausible value."""

    low: float
    mode: float
    high: float

    @property
    def support(self):
        return self.low, self.high

    def _log_density(self, x, xp):
        left = (x - self.low) / (self.mode - self.low)
        right = (self.high - x) / (self.high - self.mode)
        return xp.log(2.0 / (self.high - self.low)) + xp.log(xp.minimum(left, right))


@dataclass(frozen=True, repr=False)
class OwnLogNormal(uq.Prior):
    """A family of the library, written as a user would."""

    median: float
    sigma: float
    scale = "log"

    def _log_density(self, x, xp):
        z = (xp.log(x) - xp.log(self.median)) / self.sigma
        return -0.5 * z**2 - xp.log(x) - xp.log(self.sigma) - 0.9189385332046727
