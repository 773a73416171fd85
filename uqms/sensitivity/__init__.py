"""Which inputs drive an output: indices with the surrogate's own error in every number."""

from uqms.sensitivity.sobol import SobolIndices, sobol_indices

__all__ = [
    "SobolIndices",
    "sobol_indices",
]
