"""For those who plug in their own parts: checks that a part keeps its promises, and planted bugs that they find."""

from uqms.testing.planted import PLANTED_BUGS, PlantedBug
from uqms.testing.surrogates import Check, Conformance, check_surrogate

__all__ = ["PLANTED_BUGS", "Check", "Conformance", "PlantedBug", "check_surrogate"]
