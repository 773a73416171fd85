"""Noise models: what is added to the simulator's output when it is measured."""

from dataclasses import dataclass
from typing import final

import numpy as np

from uqms.errors import InputError
from uqms.parameters import Prior

__all__ = ["GaussianNoise"]


@final
@dataclass(frozen=True)
class GaussianNoise:
    """Independent Gaussian measurement error with a known or unknown standard deviation.

    Parameters
    ----------
    sd
        A number (known), a prior of a positive quantity (unknown, inferred), or None: the `sd` column of the
        observations. In the unit of the output.

    Raises
    ------
    InputError
        When `sd` is not positive, or a prior that admits negative values.

    Examples
    --------
    >>> GaussianNoise(sd=0.5).sd
    0.5
    """

    sd: float | Prior | None = None

    def __post_init__(self) -> None:
        if self.sd is None:
            return
        if isinstance(self.sd, Prior):
            if self.sd.support[0] < 0:
                raise InputError(
                    f"GaussianNoise: the prior {self.sd!r} admits negative values; a standard deviation is positive. "
                    "Use HalfNormal, LogNormal, Gamma, InverseGamma or LogUniform."
                )
            return
        if isinstance(self.sd, bool) or not isinstance(self.sd, int | float | np.integer | np.floating):
            raise InputError(f"GaussianNoise: sd is {self.sd!r}; give a positive number, a prior or nothing.")
        if not (np.isfinite(self.sd) and self.sd > 0):
            raise InputError(
                f"GaussianNoise: sd is {self.sd}; give a positive, finite standard deviation in the output's unit."
            )
