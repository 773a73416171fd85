"""Can a posterior be trusted? What data identify, and whether the model reproduces them."""

from uqms.diagnostics.identifiability import Identifiability, identifiability
from uqms.diagnostics.predictive import PredictiveCheck, predictive_check
from uqms.diagnostics.profile import Profile, profile_likelihood

__all__ = [
    "Identifiability",
    "PredictiveCheck",
    "Profile",
    "identifiability",
    "predictive_check",
    "profile_likelihood",
]
