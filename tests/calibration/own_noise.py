"""Noise models of one's own, as a user writes them: a file outside of the package."""

from dataclasses import dataclass

import numpy as np

from uqms.calibration import NoiseModel
from uqms.parameters import Prior


@dataclass(frozen=True)
class Laplace(NoiseModel):
    """Errors whose size, and not its square, is penalised."""

    scale: float | Prior
    scaled = ("scale",)

    def log_density(self, y, rows, parameters, xp):
        b = parameters["scale"]
        return -xp.abs(rows.z - y) / b - xp.log(2.0 * b)

    def log_tail(self, y, rows, parameters, side, xp):
        t = side * (rows.z - y) / parameters["scale"]
        upper = xp.log1p(-0.5 * xp.exp(-xp.maximum(t, 0.0)))
        return xp.where(t < 0.0, t - np.log(2.0), upper)

    def draw(self, y, rows, parameters, rng):
        return y + parameters["scale"] * rng.laplace(size=y.shape)


@dataclass(frozen=True)
class ZeroInflatedPoisson(NoiseModel):
    """Counts of which some were not reported: 0 with a probability, else Poisson's."""

    missed: float | Prior
    counts = True
    limits = (0.0, np.inf)

    def log_density(self, y, rows, parameters, xp):
        mean, q = xp.where(y >= 0.0, y, 1.0), parameters["missed"]
        count = (1.0 - q) * xp.exp(xp.xlogy(rows.z, mean) - mean - xp.gammaln(rows.z + 1.0))
        return xp.where(y >= 0.0, xp.log(count + xp.where(rows.z > 0.0, 0.0, q)), -np.inf)

    def draw(self, y, rows, parameters, rng):
        seen = rng.random(y.shape) >= parameters["missed"]
        return np.where(y >= 0.0, seen * rng.poisson(np.maximum(y, 0.0)), np.nan)
