"""Sensitivity analysis: which inputs drive an output, with the surrogate's error in every interval."""

from uqms.sensitivity.derivative import DerivativeMeasures, derivative_measures
from uqms.sensitivity.given_data import GivenDataIndices, given_data_indices
from uqms.sensitivity.screening import ElementaryEffects, elementary_effects
from uqms.sensitivity.shapley import ShapleyEffects, shapley_effects
from uqms.sensitivity.sobol import SobolIndices, sobol_indices

__all__ = [
    "DerivativeMeasures",
    "ElementaryEffects",
    "GivenDataIndices",
    "ShapleyEffects",
    "SobolIndices",
    "derivative_measures",
    "elementary_effects",
    "given_data_indices",
    "shapley_effects",
    "sobol_indices",
]
