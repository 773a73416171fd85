"""From surrogate and observations to a posterior: observations, noise, likelihood, sampler, prediction, verdict."""

import importlib
from typing import TYPE_CHECKING, Any

from uqms.calibration.base import Derived
from uqms.calibration.direct import DirectSimulator
from uqms.calibration.discrepancy import BasisDiscrepancy, GPDiscrepancy, OffsetDiscrepancy, ScaleDiscrepancy
from uqms.calibration.noise import (
    AutocorrelatedNoise,
    BinomialNoise,
    CombinedNoise,
    CustomNoise,
    GaussianNoise,
    Growth,
    LogNormalNoise,
    NegativeBinomialNoise,
    NoiseModel,
    PoissonNoise,
    StudentTNoise,
)
from uqms.calibration.observations import Observations
from uqms.calibration.parts import JointCalibration
from uqms.calibration.population.calibration import PopulationCalibration
from uqms.calibration.population.population import Population
from uqms.calibration.problem import Calibration
from uqms.calibration.samplers import NUTS, SMC, Laplace, Metropolis, Pathfinder, Sampler
from uqms.calibration.single import SingleCalibration

if TYPE_CHECKING:
    from uqms.calibration.bridge import SurrogateTensor as SurrogateTensor
    from uqms.calibration.bridge import as_tensor as as_tensor
    from uqms.calibration.compare import compare_models as compare_models
    from uqms.calibration.components import LatentOutput as LatentOutput
    from uqms.calibration.components import latent_output as latent_output
    from uqms.calibration.components import observe as observe
    from uqms.calibration.dosing import DoseChoice as DoseChoice
    from uqms.calibration.dosing import dose_for as dose_for
    from uqms.calibration.mode import Mode as Mode
    from uqms.calibration.population.subject import SubjectPosterior as SubjectPosterior
    from uqms.calibration.posterior import Posterior as Posterior
    from uqms.calibration.posterior_loading import load_posterior as load_posterior
    from uqms.calibration.predict import PosteriorPrediction as PosteriorPrediction
    from uqms.calibration.refinement import Round as Round
    from uqms.calibration.refinement import another_round as another_round
    from uqms.calibration.refinement import refine as refine
    from uqms.calibration.verdict import Verdict as Verdict

__all__ = [
    "AutocorrelatedNoise",
    "BasisDiscrepancy",
    "BinomialNoise",
    "Calibration",
    "CombinedNoise",
    "CustomNoise",
    "Derived",
    "DirectSimulator",
    "DoseChoice",
    "GPDiscrepancy",
    "GaussianNoise",
    "Growth",
    "JointCalibration",
    "Laplace",
    "LatentOutput",
    "LogNormalNoise",
    "Metropolis",
    "Mode",
    "NUTS",
    "NegativeBinomialNoise",
    "NoiseModel",
    "Observations",
    "OffsetDiscrepancy",
    "Pathfinder",
    "PoissonNoise",
    "Population",
    "PopulationCalibration",
    "Posterior",
    "PosteriorPrediction",
    "Round",
    "SMC",
    "Sampler",
    "ScaleDiscrepancy",
    "SingleCalibration",
    "StudentTNoise",
    "SubjectPosterior",
    "SurrogateTensor",
    "Verdict",
    "another_round",
    "as_tensor",
    "compare_models",
    "dose_for",
    "latent_output",
    "load_posterior",
    "observe",
    "refine",
]

# PyMC and ArviZ take seconds to import; they are loaded when a posterior or a tensor is asked for.
_LAZY = {
    "DoseChoice": "dosing",
    "LatentOutput": "components",
    "Mode": "mode",
    "Posterior": "posterior",
    "PosteriorPrediction": "predict",
    "Round": "refinement",
    "SubjectPosterior": "population.subject",
    "SurrogateTensor": "bridge",
    "Verdict": "verdict",
    "another_round": "refinement",
    "as_tensor": "bridge",
    "compare_models": "compare",
    "dose_for": "dosing",
    "latent_output": "components",
    "load_posterior": "posterior_loading",
    "observe": "components",
    "refine": "refinement",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"uqms.calibration.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'uqms.calibration' has no attribute {name!r}")
