"""What follows from uncertain inputs: spread, probabilities, decisions, and what more knowledge would be worth."""

from uqms.propagation.estimators import Allocation, MultifidelityMean, allocate, multifidelity_mean
from uqms.propagation.result import Propagation, propagate

__all__ = [
    "Allocation",
    "MultifidelityMean",
    "Propagation",
    "allocate",
    "multifidelity_mean",
    "propagate",
]
