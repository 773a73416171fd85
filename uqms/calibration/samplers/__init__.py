"""Samplers as frozen settings; each turns a calibration into draws."""

from uqms.calibration.samplers.laplace import Laplace
from uqms.calibration.samplers.metropolis import Metropolis
from uqms.calibration.samplers.nuts import NUTS
from uqms.calibration.samplers.pathfinder import Pathfinder
from uqms.calibration.samplers.sampler import Sampler
from uqms.calibration.samplers.smc import SMC

__all__ = ["NUTS", "SMC", "Laplace", "Metropolis", "Pathfinder", "Sampler"]
