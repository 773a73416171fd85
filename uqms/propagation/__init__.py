"""What follows from uncertain inputs: spread, probabilities, decisions, and what more knowledge would be worth."""

from uqms.propagation.decisions import Decision
from uqms.propagation.estimators import Allocation, MultifidelityMean, allocate, multifidelity_mean
from uqms.propagation.one_by_one import tornado
from uqms.propagation.rare import RareEvent, rare_event
from uqms.propagation.result import Propagation, propagate

__all__ = [
    "Allocation",
    "Decision",
    "MultifidelityMean",
    "Propagation",
    "RareEvent",
    "allocate",
    "multifidelity_mean",
    "propagate",
    "rare_event",
    "tornado",
]
