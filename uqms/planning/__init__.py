"""What to measure next and what to run next: the value of a measurement and of a run, and waves of history matching."""

from uqms.planning.before_data import PriorDraws, prior_of
from uqms.planning.candidate_table import Candidates, PredictedOutput, candidates
from uqms.planning.level_sets import LevelSet, level_set
from uqms.planning.measurements import NextExperiment, next_experiment
from uqms.planning.runs import RunPlan, next_runs
from uqms.planning.trials import NextTrial, TrialInformation, next_trial, trial_information
from uqms.planning.waves import HistoryMatching, Wave, Worthwhile

__all__ = [
    "Candidates",
    "HistoryMatching",
    "LevelSet",
    "NextExperiment",
    "NextTrial",
    "PredictedOutput",
    "PriorDraws",
    "RunPlan",
    "TrialInformation",
    "Wave",
    "Worthwhile",
    "candidates",
    "level_set",
    "next_experiment",
    "next_runs",
    "next_trial",
    "prior_of",
    "trial_information",
]
