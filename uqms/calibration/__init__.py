"""From surrogate and observations to a posterior: observations, noise, likelihood, sampler, prediction, verdict."""

import importlib
from typing import TYPE_CHECKING, Any

from uqms.calibration.noise import GaussianNoise
from uqms.calibration.observations import Observations
from uqms.calibration.problem import Calibration, Derived
from uqms.calibration.samplers import NUTS

if TYPE_CHECKING:
    from uqms.calibration.bridge import SurrogateTensor as SurrogateTensor
    from uqms.calibration.bridge import as_tensor as as_tensor
    from uqms.calibration.posterior import Posterior as Posterior
    from uqms.calibration.predict import PosteriorPrediction as PosteriorPrediction
    from uqms.calibration.refinement import Round as Round
    from uqms.calibration.refinement import another_round as another_round
    from uqms.calibration.refinement import refine as refine
    from uqms.calibration.verdict import Verdict as Verdict

__all__ = [
    "NUTS",
    "Calibration",
    "Derived",
    "GaussianNoise",
    "Observations",
    "Posterior",
    "PosteriorPrediction",
    "Round",
    "SurrogateTensor",
    "Verdict",
    "another_round",
    "as_tensor",
    "refine",
]

# PyMC and ArviZ take seconds to import; they are loaded when a posterior or a tensor is asked for.
_LAZY = {
    "Posterior": "posterior",
    "PosteriorPrediction": "predict",
    "Round": "refinement",
    "SurrogateTensor": "bridge",
    "Verdict": "verdict",
    "another_round": "refinement",
    "as_tensor": "bridge",
    "refine": "refinement",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"uqms.calibration.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'uqms.calibration' has no attribute {name!r}")
