"""Maps of an output to the scale that its Gaussian process lives on, so that it stays positive or inside of bounds.

==========  ===================================================================
symbol      meaning
==========  ===================================================================
y           the output in its own unit
z = g(y)    unbounded; g increases, so quantiles of y are those of z
m, v        mean and variance of a normal z
s           the logistic function 1 / (1 + exp(-z))
==========  ===================================================================

Moments of a log-normal are in closed form. Those of a logit-normal are integrals, here by the trapezoidal rule, whose
error falls exponentially for analytic integrands that decay (Trefethen & Weideman 2014, doi:10.1137/130932132): the
poles of s lie at a distance of pi, so a step of 0.6 / sd leaves about 1e-10. Gauss-Hermite rules of this accuracy need
more points as soon as the sd exceeds one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from uqms import _checks as check
from uqms._teaching import taught
from uqms._typing import Array, Bools
from uqms.errors import DataError, InputError
from uqms.parameters.functions import NumPyFunctions
from uqms.parameters.scale import LOG, Interval

__all__ = ["IDENTITY", "Identity", "Log", "Logit", "Transform", "as_transform", "check_values", "from_dict", "to_dict"]

STEP = 0.6  # of the trapezoidal rule, in sds of z, where its sd is at most one
REACH = 8.5


@final
@dataclass(frozen=True)
class Identity:
    """The output as it is."""

    name: ClassVar[str] = "identity"

    def forward(self, y: Array) -> Array:
        """Return z."""
        return y

    def inverse(self, z: Any, xp: Any = NumPyFunctions) -> Any:
        """Return y, with the functions of xp."""
        return z

    @property
    def numbers(self) -> tuple[float, float, float]:
        """What compiled code knows it by: kind (0 identity, 1 log, 2 logit), and the ends of y where it has some."""
        return 0.0, 0.0, 1.0

    def inverse_slope(self, z: Array) -> Array:
        """Return dy / dz."""
        return np.ones_like(z)

    def log_slope(self, y: Array) -> Array:
        """Return log g'(y)."""
        return np.zeros_like(y)

    def outside(self, y: Array) -> Bools:
        """Return where y has no z."""
        return np.zeros(np.shape(y), dtype=bool)

    def moments(self, mean: Array, variance: Array) -> tuple[Array, Array]:
        """Return mean and variance of y for normal z."""
        return mean, variance

    def slopes(self, mean: Array, variance: Array) -> tuple[Array, Array]:
        """Return the derivatives of the mean of y by mean and variance of z."""
        return np.ones_like(mean), np.zeros_like(variance)


@taught
@final
@dataclass(frozen=True)
class Log:
    """Natural logarithm of an output that is positive: concentrations, volumes, conductances over orders of magnitude.

    The surrogate then predicts positive numbers only, with errors relative to their size. The output is log-normal:
    median, quantiles, mean, variance and covariances are in closed form. With an offset it is log(y + offset), which
    takes zeros, and lies between the output as it is (large offsets) and its logarithm (0).

    Parameters
    ----------
    offset
        What is added before the logarithm, in the output's own unit. Predictions lie above -offset.

    Raises
    ------
    InputError
        When the offset is no finite number.

    Examples
    --------
    >>> import uqms as uq
    >>> uq.GaussianProcess(outputs={"conc": uq.Curve(transform=Log())}).outputs["conc"].transform
    Log()
    >>> float(uq.Log(offset=0.5).inverse(uq.Log(offset=0.5).forward(0.0)))
    0.0
    """

    offset: float = 0.0

    def __post_init__(self) -> None:
        check.number("Log", "offset", self.offset)

    def __repr__(self) -> str:
        return f"Log(offset={self.offset:g})" if self.offset else "Log()"

    @property
    def name(self) -> str:
        """As in messages."""
        return "shifted log" if self.offset else "log"

    def forward(self, y: Array) -> Array:
        """Return z."""
        return np.asarray(LOG.forward(np.maximum(y + self.offset, 0.0)))

    def inverse(self, z: Any, xp: Any = NumPyFunctions) -> Any:
        """Return y, with the functions of xp."""
        return LOG.inverse(z, xp) - self.offset if self.offset else LOG.inverse(z, xp)

    @property
    def numbers(self) -> tuple[float, float, float]:
        """What compiled code knows it by: kind (0 identity, 1 log, 2 logit), and the ends of y where it has some."""
        return 1.0, 0.0 - float(self.offset), 1.0

    def inverse_slope(self, z: Array) -> Array:
        """Return dy / dz."""
        return np.asarray(LOG.inverse(z))

    def log_slope(self, y: Array) -> Array:
        """Return log g'(y)."""
        return -self.forward(y)

    def outside(self, y: Array) -> Bools:
        """Return where y has no z."""
        return np.asarray(y <= -self.offset)

    def moments(self, mean: Array, variance: Array) -> tuple[Array, Array]:
        """Return mean and variance of y for normal z."""
        first = np.exp(mean + 0.5 * variance)
        return first - self.offset, first**2 * np.expm1(variance)

    def slopes(self, mean: Array, variance: Array) -> tuple[Array, Array]:
        """Return the derivatives of the mean of y by mean and variance of z."""
        first = np.exp(mean + 0.5 * variance)
        return first, 0.5 * first


@taught
@final
@dataclass(frozen=True)
class Logit:
    """Logit of an output between two bounds: ejection fractions, saturations, probabilities, percentages.

    The surrogate then predicts numbers between the bounds only. Median and quantiles are exact, mean and variance
    integrals that are accurate to 1e-8 of the width.

    Parameters
    ----------
    lower, upper
        The bounds in the output's own unit, which no run reaches: 0 and 1 (default), or 0 and 100 for per cent.

    Raises
    ------
    InputError
        When the bounds are not finite numbers with lower < upper.

    Examples
    --------
    >>> import uqms as uq
    >>> uq.GaussianProcess(outputs={"ef": uq.Scalar(transform=Logit(0, 100))}).outputs["ef"]
    Scalar(transform=Logit(lower=0, upper=100))
    """

    lower: float = 0.0
    upper: float = 1.0
    name: ClassVar[str] = "logit"

    def __post_init__(self) -> None:
        for bound in (self.lower, self.upper):
            if isinstance(bound, bool) or not isinstance(bound, int | float | np.integer) or not np.isfinite(bound):
                raise InputError(
                    f"Logit: the bound {bound!r} is no finite number; give two, such as Logit(0.0, 100.0)."
                )
        if not self.lower < self.upper:
            raise InputError(f"Logit: lower is {self.lower:g} and upper {self.upper:g}; give the smaller one first.")

    @property
    def _interval(self) -> Interval:
        return Interval.of(float(self.lower), float(self.upper))

    @property
    def _width(self) -> float:
        return float(self.upper) - float(self.lower)

    def forward(self, y: Array) -> Array:
        """Return z."""
        return np.asarray(self._interval.to_real(np.clip(y, self.lower, self.upper)))

    def inverse(self, z: Any, xp: Any = NumPyFunctions) -> Any:
        """Return y, with the functions of xp."""
        return self._interval.from_real(z, xp)

    @property
    def numbers(self) -> tuple[float, float, float]:
        """What compiled code knows it by: kind (0 identity, 1 log, 2 logit), and the ends of y where it has some."""
        return 2.0, float(self.lower), float(self.upper)

    def inverse_slope(self, z: Array) -> Array:
        """Return dy / dz."""
        return np.asarray(self._width * expit(z) * expit(-z))

    def log_slope(self, y: Array) -> Array:
        """Return log g'(y)."""
        return np.asarray(-self._interval.log_jacobian(self.forward(y)))

    def outside(self, y: Array) -> Bools:
        """Return where y has no z."""
        return np.asarray((y <= self.lower) | (y >= self.upper))

    def moments(self, mean: Array, variance: Array) -> tuple[Array, Array]:
        """Return mean and variance of y for normal z."""
        first, second = _logistic_moments(mean, np.sqrt(variance))
        return self.lower + self._width * first, self._width**2 * second

    def slopes(self, mean: Array, variance: Array) -> tuple[Array, Array]:
        """Return the derivatives of the mean of y by mean and variance of z."""
        sd = np.sqrt(variance)
        nodes, weights = _half_rule(float(sd.max(initial=0.0)))
        x, w = np.concatenate([-nodes[:0:-1], nodes]), np.concatenate([weights[:0:-1], weights])
        z = mean + sd * x.reshape(-1, *(1,) * np.ndim(mean))
        slope = expit(z) * expit(-z)
        # The derivative by the variance is half of the mean second derivative.
        return self._width * np.tensordot(w, slope, 1), 0.5 * self._width * np.tensordot(
            w, -slope * np.tanh(0.5 * z), 1
        )


Transform = Identity | Log | Logit
IDENTITY = Identity()


def _half_rule(sd: float) -> tuple[Array, Array]:
    """Return nodes >= 0 and weights of a rule for the standard normal that is symmetric about 0."""
    size = max(1.0, np.ceil(2.0 * sd) / 2.0)
    nodes = np.arange(0.0, REACH + min(2.0 * size, REACH), STEP / size)
    return nodes, STEP / size * np.exp(-0.5 * nodes**2) / np.sqrt(2.0 * np.pi)


def _logistic_moments(mean: Array, sd: Array) -> tuple[Array, Array]:
    """Return mean and variance of s(z); differences from s(m) lose no digits where s is flat or sd is small."""
    up, down = expit(mean), expit(-mean)
    first, second = np.zeros_like(mean), np.zeros_like(mean)
    for node, weight in zip(*_half_rule(float(sd.max(initial=0.0))), strict=True):
        t = node * sd
        decay = -np.expm1(-t)
        above, below = expit(mean + t) * down * decay, expit(t - mean) * up * decay
        first += weight * (above - below)
        second += weight * (above**2 + below**2)
    return up + first, np.maximum(second - first**2, 0.0)


def as_transform(given: object) -> Transform:
    """Return the transform that a setting names.

    Raises
    ------
    InputError
        When it is none.
    """
    if given is None:
        return IDENTITY
    if isinstance(given, Log | Logit):
        return given
    if given == "log":
        return Log()
    if given == "logit":
        return Logit()
    raise InputError(
        f"transform is {given!r}; give 'log', 'logit' (0 to 1), Log(offset), Logit(lower, upper), or None."
    )


def check_values(name: str, values: Array, runs: ArrayLike, transform: Transform, coords: Mapping[str, Array]) -> None:
    """Refuse values (n, ...) that have no image, with the run, of which `runs` (n,) are the positions.

    Raises
    ------
    DataError
        When a value lies at a bound or beyond.
    """
    bad = np.argwhere(transform.outside(values))
    if not len(bad):
        return
    first, *at = bad[0]
    where = "".join(f", {dim} = {grid[i]:g}" for (dim, grid), i in zip(coords.items(), at, strict=True))
    _, least, most = transform.numbers
    between = f"between {least:g} and {most:g}" if isinstance(transform, Logit) else f"above {least:g}"
    advice = (
        "the right bounds in Logit(lower, upper)"
        if isinstance(transform, Logit)
        else "a quantity that is positive, or an offset, uq.Log(offset=...)"
    )
    raise DataError(
        f"Output {name!r} is {values[tuple(bad[0])]:g} in run {np.asarray(runs)[first]}{where}; transform "
        f"{transform.name!r} requires values {between}; {len(np.unique(bad[:, 0]))} run(s) have others. Give {advice}, "
        "leave the transform out, or leave those runs out if they are wrong."
    )


def to_dict(transform: Transform) -> dict[str, Any]:
    """Return name and settings as JSON."""
    if isinstance(transform, Logit):
        return {"name": "logit", "lower": float(transform.lower), "upper": float(transform.upper)}
    if isinstance(transform, Log):
        return {"name": "log"} | ({"offset": float(transform.offset)} if transform.offset else {})
    return {"name": transform.name}


def from_dict(saved: Mapping[str, Any]) -> Transform:
    """Return what `to_dict` wrote.

    Raises
    ------
    InputError
        When it is not that.
    """
    kinds: dict[str, type[Log] | type[Logit]] = {"log": Log, "logit": Logit}
    try:
        settings = dict(saved)
        return kinds[settings.pop("name")](**settings)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{saved!r} is no transform") from error
