"""Which inputs drive an output: indices with the surrogate's own error in every number."""

from uqms.sensitivity.screening import ElementaryEffects, elementary_effects

__all__ = [
    "ElementaryEffects",
    "elementary_effects",
]
