"""What to measure next and what to run next: the value of a measurement and of a run, and waves of history matching."""

from uqms.planning.before_data import PriorDraws, prior_of
from uqms.planning.candidate_table import Candidates, PredictedOutput, candidates
from uqms.planning.measurements import NextExperiment, next_experiment
from uqms.planning.trials import NextTrial, TrialInformation, next_trial, trial_information

__all__ = [
    "Candidates",
    "NextExperiment",
    "NextTrial",
    "PredictedOutput",
    "PriorDraws",
    "TrialInformation",
    "candidates",
    "next_experiment",
    "next_trial",
    "prior_of",
    "trial_information",
]
from uqms.planning.runs import RunPlan, next_runs

__all__ = ["RunPlan", "next_runs"]
