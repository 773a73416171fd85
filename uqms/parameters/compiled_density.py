"""Which densities of priors exist as compiled code, and the numbers that it reads.

The compiled log-density of `uqms.calibration` knows the families below. A prior says by `Prior.compiled` that it is one
of them; every other prior is evaluated through its expression.
"""

from typing import NamedTuple

__all__ = [
    "BETA",
    "EXPONENTIAL",
    "GAMMA",
    "INVERSE_GAMMA",
    "LOG_NORMAL",
    "LOG_UNIFORM",
    "NORMAL",
    "STUDENT_T",
    "UNIFORM",
    "CompiledDensity",
]

UNIFORM, LOG_UNIFORM, NORMAL, LOG_NORMAL, BETA, GAMMA, INVERSE_GAMMA, STUDENT_T, EXPONENTIAL = range(9)


class CompiledDensity(NamedTuple):
    """A density as compiled code evaluates it, up to a constant.

    Attributes
    ----------
    family
        One of the families of this module.
    value
        The part that depends on the parameter at the point for which the numbers were asked, without the constant.
    a, b
        Arguments of the family.
    reference
        Standardised point at which the quadratic of a normal is zero, so that no digits are lost far from its mean.
    """

    family: int
    value: float = 0.0
    a: float = 0.0
    b: float = 0.0
    reference: float = 0.0
