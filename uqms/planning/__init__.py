"""What to measure next and what to run next: the value of a measurement and of a run, and waves of history matching."""

from uqms.planning.candidate_table import Candidates, PredictedOutput, candidates
from uqms.planning.measurements import NextExperiment, next_experiment
from uqms.planning.priors import PriorDraws, prior_of

__all__ = [
    "Candidates",
    "NextExperiment",
    "PredictedOutput",
    "PriorDraws",
    "candidates",
    "next_experiment",
    "prior_of",
]
