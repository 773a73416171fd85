"""Can a posterior be trusted? What data identify, whether the model reproduces them, and whether ranks are uniform."""

from uqms.diagnostics.bands import RankBand, rank_band
from uqms.diagnostics.identifiability import Identifiability, identifiability
from uqms.diagnostics.importance import FewDraws, ImportanceSampler
from uqms.diagnostics.predictive import PredictiveCheck, predictive_check
from uqms.diagnostics.profile import Profile, profile_likelihood
from uqms.diagnostics.sbc import RankStatistics, rank_statistics, simulation_based_calibration

__all__ = [
    "FewDraws",
    "Identifiability",
    "ImportanceSampler",
    "PredictiveCheck",
    "Profile",
    "RankBand",
    "RankStatistics",
    "identifiability",
    "predictive_check",
    "profile_likelihood",
    "rank_band",
    "rank_statistics",
    "simulation_based_calibration",
]
