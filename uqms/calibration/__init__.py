"""From surrogate and observations to a posterior: observations, noise, likelihood, sampler, prediction, verdict."""

import importlib
from typing import TYPE_CHECKING, Any

from uqms.calibration.direct import DirectSimulator
from uqms.calibration.noise import GaussianNoise
from uqms.calibration.observations import Observations
from uqms.calibration.problem import Calibration, Derived
from uqms.calibration.samplers import NUTS

if TYPE_CHECKING:
    from uqms.calibration.bridge import SurrogateTensor as SurrogateTensor
    from uqms.calibration.bridge import as_tensor as as_tensor
    from uqms.calibration.posterior import Posterior as Posterior
    from uqms.calibration.predict import PosteriorPrediction as PosteriorPrediction
    from uqms.calibration.verdict import Verdict as Verdict

__all__ = [
    "NUTS",
    "Calibration",
    "Derived",
    "DirectSimulator",
    "GaussianNoise",
    "Observations",
    "Posterior",
    "PosteriorPrediction",
    "SurrogateTensor",
    "Verdict",
    "as_tensor",
]

# PyMC and ArviZ take seconds to import; they are loaded when a posterior or a tensor is asked for.
_LAZY = {
    "Posterior": "posterior",
    "PosteriorPrediction": "predict",
    "SurrogateTensor": "bridge",
    "Verdict": "verdict",
    "as_tensor": "bridge",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"uqms.calibration.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'uqms.calibration' has no attribute {name!r}")
