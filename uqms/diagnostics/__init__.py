"""Diagnostics of posteriors: identifiability, verification on the simulator, predictive checks and rank statistics."""

from uqms.diagnostics.bands import RankBand, rank_band
from uqms.diagnostics.correction import Correction, correct
from uqms.diagnostics.covariates import covariate_trends
from uqms.diagnostics.identifiability import Identifiability, identifiability
from uqms.diagnostics.importance import FewDraws, ImportanceSampler
from uqms.diagnostics.predictive import PredictiveCheck, predictive_check
from uqms.diagnostics.profile import Profile, profile_likelihood
from uqms.diagnostics.sbc import RankStatistics, rank_statistics, simulation_based_calibration
from uqms.diagnostics.tempered import TemperedSampler
from uqms.diagnostics.verification import Verification, verification_design, verify
from uqms.diagnostics.vpc import VisualPredictiveCheck, visual_predictive_check

__all__ = [
    "Correction",
    "FewDraws",
    "Identifiability",
    "ImportanceSampler",
    "PredictiveCheck",
    "Profile",
    "RankBand",
    "RankStatistics",
    "TemperedSampler",
    "Verification",
    "VisualPredictiveCheck",
    "correct",
    "covariate_trends",
    "identifiability",
    "predictive_check",
    "profile_likelihood",
    "rank_band",
    "rank_statistics",
    "simulation_based_calibration",
    "verification_design",
    "verify",
    "visual_predictive_check",
]
