"""Several levels of fidelity: surrogates of the highest one, and which level to run next."""

from uqms.surrogates.fidelity.autoregressive import MultiFidelity
from uqms.surrogates.fidelity.surrogate import MultiFidelitySurrogate

__all__ = ["MultiFidelity", "MultiFidelitySurrogate"]
