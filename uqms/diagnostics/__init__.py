"""Can a posterior be trusted? Verification on the simulator, where the posterior is."""

from uqms.diagnostics.verification import Verification, verification_design, verify

__all__ = ["Verification", "verification_design", "verify"]
