"""Can a posterior be trusted? Simulation-based calibration of a whole pipeline, with exact bands for its ranks."""

from uqms.diagnostics.bands import RankBand, rank_band
from uqms.diagnostics.importance import FewDraws, ImportanceSampler
from uqms.diagnostics.sbc import RankStatistics, rank_statistics, simulation_based_calibration

__all__ = [
    "FewDraws",
    "ImportanceSampler",
    "RankBand",
    "RankStatistics",
    "rank_band",
    "rank_statistics",
    "simulation_based_calibration",
]
