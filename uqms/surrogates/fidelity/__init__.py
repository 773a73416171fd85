"""Several levels of fidelity: surrogates of the highest one, and which level to run next."""

from uqms.surrogates.fidelity.autoregressive import MultiFidelity
from uqms.surrogates.fidelity.nonlinear import NonlinearMultiFidelity
from uqms.surrogates.fidelity.proposing import NextRun, next_level
from uqms.surrogates.fidelity.surrogate import MultiFidelitySurrogate

__all__ = ["MultiFidelity", "MultiFidelitySurrogate", "NextRun", "NonlinearMultiFidelity", "next_level"]
