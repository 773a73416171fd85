"""Scales of a parameter, and the map of an interval to the unconstrained space, written once.

==========  ======================================================================  ======
symbol      meaning                                                                 shape
==========  ======================================================================  ======
x           parameter in its own unit                                               (...)
s           parameter on its scale: x, log x or logit x                             (...)
z           parameter in the unconstrained space: any real number                   (...)
==========  ======================================================================  ======

Each method takes a namespace `xp` of functions: `NumPyFunctions` by default, those of PyTensor for expressions. The
compiled log-density in `uqms.calibration` is the only other place that implements these maps.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Self, final

import numpy as np

from uqms._typing import ScaleName
from uqms.parameters.functions import NumPyFunctions

__all__ = ["BELOW", "IDENTITY", "LOG", "LOGIT", "SCALES", "Interval", "Scale", "UnitMap"]


@dataclass(frozen=True)
class Scale(ABC):
    """A monotone map s(x) from a parameter's own unit to the scale on which models take it.

    Use one of `IDENTITY`, `LOG` and `LOGIT`; `SCALES` finds them by the names that users and files give. The ends of
    the domain are mapped to infinity, and what lies outside of it to NaN.

    Examples
    --------
    >>> from uqms.parameters.scale import SCALES
    >>> float(SCALES["logit"].inverse(0.0))
    0.5
    """

    name: ClassVar[ScaleName]
    """As in files and arguments."""
    code: ClassVar[int]
    """As in the flat blocks that compiled code reads."""
    domain: ClassVar[tuple[float, float]]
    """Open interval of the values that have an image."""

    @abstractmethod
    def forward(self, x: Any, xp: Any = NumPyFunctions) -> Any:
        """Return s of x."""

    @abstractmethod
    def inverse(self, s: Any, xp: Any = NumPyFunctions) -> Any:
        """Return x of s."""

    @abstractmethod
    def derivative(self, x: Any, xp: Any = NumPyFunctions) -> Any:
        """Return ds/dx at x."""

    @abstractmethod
    def log_derivative(self, x: Any, xp: Any = NumPyFunctions) -> Any:
        """Return log ds/dx at x."""

    def takes(self, low: float, high: float) -> bool:
        """Return whether an interval, its ends apart, lies within the domain."""
        return self.domain[0] <= low and high <= self.domain[1]

    @abstractmethod
    def log_inverse_derivative(self, s: Any, xp: Any = NumPyFunctions) -> Any:
        """Return log dx/ds at s, without loss of digits where x is near an end of the domain."""


@final
@dataclass(frozen=True)
class _Identity(Scale):
    name: ClassVar[ScaleName] = "identity"
    code: ClassVar[int] = 0
    domain: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    def forward(self, x: Any, xp: Any = NumPyFunctions) -> Any:
        return x

    def inverse(self, s: Any, xp: Any = NumPyFunctions) -> Any:
        return s

    def derivative(self, x: Any, xp: Any = NumPyFunctions) -> Any:
        return xp.zeros_like(x) + 1.0

    def log_derivative(self, x: Any, xp: Any = NumPyFunctions) -> Any:
        return xp.zeros_like(x)

    def log_inverse_derivative(self, s: Any, xp: Any = NumPyFunctions) -> Any:
        return xp.zeros_like(s)


@final
@dataclass(frozen=True)
class _Log(Scale):
    name: ClassVar[ScaleName] = "log"
    code: ClassVar[int] = 1
    domain: ClassVar[tuple[float, float]] = (0.0, math.inf)

    def forward(self, x: Any, xp: Any = NumPyFunctions) -> Any:
        with np.errstate(all="ignore"):
            return xp.log(x)

    def inverse(self, s: Any, xp: Any = NumPyFunctions) -> Any:
        with np.errstate(all="ignore"):
            return xp.exp(s)

    def derivative(self, x: Any, xp: Any = NumPyFunctions) -> Any:
        with np.errstate(all="ignore"):
            return 1.0 / x

    def log_derivative(self, x: Any, xp: Any = NumPyFunctions) -> Any:
        with np.errstate(all="ignore"):
            return -xp.log(x)

    def log_inverse_derivative(self, s: Any, xp: Any = NumPyFunctions) -> Any:
        return s


@final
@dataclass(frozen=True)
class _Logit(Scale):
    name: ClassVar[ScaleName] = "logit"
    code: ClassVar[int] = 2
    domain: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def forward(self, x: Any, xp: Any = NumPyFunctions) -> Any:
        with np.errstate(all="ignore"):
            return xp.logit(x)

    def inverse(self, s: Any, xp: Any = NumPyFunctions) -> Any:
        return xp.expit(s)

    def derivative(self, x: Any, xp: Any = NumPyFunctions) -> Any:
        with np.errstate(all="ignore"):
            return 1.0 / (x * (1.0 - x))

    def log_derivative(self, x: Any, xp: Any = NumPyFunctions) -> Any:
        with np.errstate(all="ignore"):
            return -xp.log(x) - xp.log1p(-x)

    def log_inverse_derivative(self, s: Any, xp: Any = NumPyFunctions) -> Any:
        return -xp.softplus(-s) - xp.softplus(s)


IDENTITY, LOG, LOGIT = _Identity(), _Log(), _Logit()
SCALES: Mapping[str, Scale] = MappingProxyType({scale.name: scale for scale in (IDENTITY, LOG, LOGIT)})


@final
@dataclass(frozen=True, eq=False)
class Interval:
    """The map of an interval to the unconstrained space, through a scale.

    Between two ends z is the logit of the position within the interval on the scale; with one end it is the log of the
    distance from it; with none it is s itself. A parameter on a log scale between 1e-6 and 1 is thus the logit of the
    position of its logarithm.

    Attributes
    ----------
    low, high
        Ends on the scale, numbers or expressions; None where the interval goes to infinity.
    scale
        The scale.

    Examples
    --------
    >>> from uqms.parameters.scale import LOG, Interval
    >>> interval = Interval.of(0.01, 1.0, LOG)
    >>> round(float(interval.from_real(0.0)), 12)
    0.1
    """

    low: Any
    high: Any
    scale: Scale = IDENTITY

    @classmethod
    def of(cls, lower: float, upper: float, scale: Scale = IDENTITY) -> Self:
        """Return the map of an interval whose ends are numbers in the parameter's own unit."""
        low, high = (float(scale.forward(end)) for end in (lower, upper))
        return cls(low if math.isfinite(low) else None, high if math.isfinite(high) else None, scale)

    def to_real(self, x: Any, xp: Any = NumPyFunctions) -> Any:
        """Return z of x; an end of the interval is infinite."""
        s = self.scale.forward(x, xp)
        with np.errstate(all="ignore"):
            if self.low is None and self.high is None:
                return s
            if self.high is None:
                return xp.log(s - self.low)
            if self.low is None:
                return -xp.log(self.high - s)
            return xp.log(s - self.low) - xp.log(self.high - s)

    def from_real(self, z: Any, xp: Any = NumPyFunctions) -> Any:
        """Return x of z."""
        return self.scale.inverse(self._on_scale(z, xp), xp)

    def log_jacobian(self, z: Any, xp: Any = NumPyFunctions) -> Any:
        """Return log |dx/dz| at z."""
        if self.low is None and self.high is None:
            slope = xp.zeros_like(z)
        elif self.high is None:
            slope = z
        elif self.low is None:
            slope = -z
        else:
            slope = xp.log(self.high - self.low) - xp.softplus(-z) - xp.softplus(z)
        return slope + self.scale.log_inverse_derivative(self._on_scale(z, xp), xp)

    def _on_scale(self, z: Any, xp: Any) -> Any:
        with np.errstate(all="ignore"):
            if self.low is None and self.high is None:
                return z
            if self.high is None:
                return self.low + xp.exp(z)
            if self.low is None:
                return self.high - xp.exp(-z)
            return xp.between(self.low, self.high, z)


BELOW = 0.25  # of a range's width: so far below its lower end logarithms go on as a straight line


@final
@dataclass(frozen=True)
class UnitMap:
    """The map of one input from its own unit to the unit interval of a box: its scale, then affine.

    A logarithm is continued by its tangent from a quarter of the box below the lower end on, so that values that are
    not positive have an image: a surrogate knows nothing there, and says so, but nothing is NaN.

    Parameters
    ----------
    scale
        The input's scale.
    lower, upper
        Ends of the box, in the input's own unit.
    """

    scale: Scale
    lower: float
    upper: float

    @cached_property
    def low(self) -> float:
        """Lower end on the scale."""
        return float(self.scale.forward(self.lower))

    @cached_property
    def width(self) -> float:
        """Width of the box on the scale."""
        return float(self.scale.forward(self.upper)) - self.low

    @cached_property
    def _turn(self) -> tuple[float, float] | None:
        """Where the tangent begins: on the scale, and in the input's own unit."""
        if self.scale is not LOG:
            return None
        s = self.low - BELOW * self.width
        return s, math.exp(s)

    def takes(self, low: float, high: float) -> bool:
        """Return whether an interval, its ends apart, has an image."""
        return self._turn is not None or self.scale.takes(low, high)

    def forward(self, x: Any, xp: Any = NumPyFunctions) -> Any:
        """Return u of x."""
        if self._turn is None:
            return (self.scale.forward(x, xp) - self.low) / self.width
        at = self._turn[1]
        below = (xp.minimum(x, at) - at) / at
        return (self.scale.forward(xp.maximum(x, at), xp) + below - self.low) / self.width

    def inverse(self, u: Any, xp: Any = NumPyFunctions) -> Any:
        """Return x of u."""
        s = self.low + u * self.width
        if self._turn is None:
            return self.scale.inverse(s, xp)
        turn, at = self._turn
        return self.scale.inverse(xp.maximum(s, turn), xp) + (xp.minimum(s, turn) - turn) * at

    def derivative(self, x: Any, xp: Any = NumPyFunctions) -> Any:
        """Return du/dx at x."""
        x = x if self._turn is None else xp.maximum(x, self._turn[1])
        return self.scale.derivative(x, xp) / self.width
