"""What follows from uncertain inputs: spread, probabilities, decisions, and what more knowledge would be worth."""

<<<<<<< HEAD
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
=======
from uqms.propagation.decisions import Decision
from uqms.propagation.rare import RareEvent, rare_event
from uqms.propagation.result import Propagation, propagate

__all__ = ["Decision", "Propagation", "RareEvent", "propagate", "rare_event"]
>>>>>>> prop
