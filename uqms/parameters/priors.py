"""Priors of single parameters, as frozen values.

A prior answers for its log-density, its distribution function and the quantile function, vectorised and exact in the
tails. A field is always the argument of the same name (``TruncatedNormal.sd`` is the sd of the normal before it is
truncated); mean and sd of the distribution itself are ``prior.moments``.

Notation: x value of the parameter, p probability, z standardised value (x - mean) / sd.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, ClassVar, Self, final

import numpy as np
from scipy import special

from uqms import _checks as check
from uqms import _import_names as import_names
from uqms._teaching import taught
from uqms._typing import Array, ArrayLike, Bools, RandomState, ScaleName, as_generator
from uqms.errors import InputError
from uqms.parameters import numerical
from uqms.parameters.compiled_density import (
    BETA,
    EXPONENTIAL,
    GAMMA,
    INVERSE_GAMMA,
    LOG_NORMAL,
    LOG_UNIFORM,
    NORMAL,
    STUDENT_T,
    UNIFORM,
    CompiledDensity,
)
from uqms.parameters.functions import NumPyFunctions
from uqms.parameters.moments import Moments
from uqms.parameters.scale import LOGIT, SCALES

__all__ = [
    "Beta",
    "Exponential",
    "Gamma",
    "HalfCauchy",
    "HalfNormal",
    "HalfStudentT",
    "InverseGamma",
    "LogNormal",
    "LogitNormal",
    "LogUniform",
    "Moments",
    "Normal",
    "Prior",
    "TruncatedNormal",
    "LONG_TAIL",
    "Uniform",
    "has_long_tail",
    "long_tail_message",
    "typical_sd",
]

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
LONG_TAIL = 10.0  # width of a design box, in widths of the prior's central half
STATED_CUT = 0.005  # of the prior's mass, by the ranges that an error suggests: a calibration accepts 1 % in all
_Points = tuple[tuple[float, float], ...]


@taught
@dataclass(frozen=True, repr=False)
class Prior(ABC):
    """Distribution of one parameter: use one of its families, or write your own.

    A prior of your own is a frozen dataclass with the support, the scale and the method `_log_density`. As in
    `scipy.stats.rv_continuous`, the public methods add checks of arguments and the ends of the support. Distribution
    function, quantiles and moments are computed numerically unless you give `_cdf`, `_quantile` and `moments`, and so
    are survival probabilities unless you give `_sf` and `_isf`. Define the class in a module that can be imported,
    since files store its name. `uqms.testing.check_prior` tells whether it is right.

    Parameters
    ----------
    unit
        Unit of the parameter, as shown in tables and figures.
    description
        A few words for tables and figures.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import uqms as uq
    >>> @dataclass(frozen=True, repr=False)
    ... class Rayleigh(uq.Prior):
    ...     size: float
    ...     scale = "log"
    ...
    ...     def _log_density(self, x, xp):
    ...         return xp.log(x) - 2.0 * xp.log(self.size) - 0.5 * (x / self.size) ** 2
    >>> prior = Rayleigh(2.0)
    >>> round(float(prior.quantile(0.5)), 6), round(prior.moments.mean, 6)
    (2.35482, 2.506628)
    """

    unit: str = field(default="", kw_only=True)
    description: str = field(default="", kw_only=True)

    scale: ClassVar[ScaleName] = "identity"
    """Map of the parameter before it enters a surrogate: "identity", "log" or "logit"."""
    _domain: ClassVar[tuple[float, float] | None] = None
    _quantiles_needed: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise InputError(f"{self._name()}: scale is {self.scale!r}; give one of {', '.join(SCALES)}.")
        check.text(self._name(), "unit", self.unit)
        check.text(self._name(), "description", self.description)
        self._check()

    def _check(self) -> None:
        """Check the arguments of the family and store numbers as floats; finite ones unless this is overridden."""
        for key, value in self._arguments().items():
            if not isinstance(value, str | tuple):
                self._store(**{key: check.number(self._name(), key, value)})

    @abstractmethod
    def _log_density(self, x: Any, xp: Any) -> Any:
        """Return the log-density at x inside of the support, with the functions of xp.

        `xp` has the functions of `uqms.parameters.functions.NumPyFunctions`: x may be an array or an expression.
        """

    def _cdf(self, x: Array) -> Array:
        """Return the distribution function inside of the support."""
        return numerical.table(self).cdf(x)

    def _quantile(self, p: Array) -> Array:
        """Return the quantile for p in [0, 1]."""
        return numerical.table(self).quantile(p)

    def _sf(self, x: Array) -> Array:
        """Return the probability of a value above x inside of the support, exact where it is tiny."""
        return numerical.upper_tail(self).sf(x)

    def _isf(self, q: Array) -> Array:
        """Return the value that is exceeded with probability q in [0, 1], exact where q is tiny."""
        return numerical.upper_tail(self).isf(q)

    @classmethod
    def _from_points(cls, points: _Points) -> Self:
        """Return the prior that has the quantiles (p, x)."""
        raise InputError(f"{cls.__name__} has no rule for quantiles; give its arguments, or override _from_points.")

    @property
    def moments(self) -> Moments:
        """Mean and standard deviation of the distribution."""
        return numerical.table(self).moments

    @property
    def support(self) -> tuple[float, float]:
        """Ends of the support; the density is zero outside of them. By default the domain of the scale."""
        return self._domain or SCALES[self.scale].domain

    @property
    def normal_on_scale(self) -> Moments | None:
        """Mean and sd on the scale where the parameter is normally distributed there; else None."""
        return None

    def compiled(self, x: float) -> CompiledDensity | None:
        """Return the numbers of the compiled density around `x`; None where there is no compiled code.

        Calibration then evaluates `log_density` as an expression, which is slower by a small factor.
        """
        return None

    def log_density(self, x: Any, xp: Any = NumPyFunctions) -> Any:
        """Return the log of the density at `x`; -inf outside of the support, NaN where `x` is NaN.

        With the functions `xp` of PyTensor, `x` is an expression.
        """
        x = xp.asarray(x)
        low, high = self.support
        with np.errstate(all="ignore"):
            inside = self._log_density(xp.clip(x, low, high), xp)
            out = xp.where((x < low) | (x > high) | xp.isinf(x), -np.inf, inside)
        return out[()]

    def cdf(self, x: ArrayLike) -> Array:
        """Return the probability of a value below `x`."""
        x = check.real_array(x, "x")
        with np.errstate(all="ignore"):
            out: Array = np.clip(self._cdf(np.clip(x, *self.support)), 0.0, 1.0)[()]
        return out

    def quantile(self, p: ArrayLike) -> Array:
        """Return the value that is exceeded with probability 1 - `p`; NaN where `p` is outside of [0, 1]."""
        p = check.real_array(p, "p")
        with np.errstate(all="ignore"):
            x = np.clip(self._quantile(np.clip(p, 0.0, 1.0)), *self.support)
        out: Array = np.where((p >= 0.0) & (p <= 1.0), x, np.nan)[()]
        return out

    def sf(self, x: ArrayLike) -> Array:
        """Return the probability of a value above `x`: 1 - `cdf`, with all digits where it is tiny."""
        x = check.real_array(x, "x")
        with np.errstate(all="ignore"):
            out: Array = np.clip(self._sf(np.clip(x, *self.support)), 0.0, 1.0)[()]
        return out

    def isf(self, q: ArrayLike) -> Array:
        """Return the value that is exceeded with probability `q` (inverse of `sf`); NaN where `q` is outside of [0, 1].

        It is `quantile` at 1 - `q`. Above the median it is more exact, since 1 - `q` is 1 for any `q` below 1e-16.

        Examples
        --------
        >>> import uqms as uq
        >>> float(uq.Exponential(rate=2.0).isf(1e-200).round(6))
        230.258509
        """
        q = check.real_array(q, "q")
        with np.errstate(all="ignore"):
            x = np.clip(self._isf(np.clip(q, 0.0, 1.0)), *self.support)
        out: Array = np.where((q >= 0.0) & (q <= 1.0), x, np.nan)[()]
        return out

    def draw(self, rng: RandomState | None = None, size: int | tuple[int, ...] = ()) -> Array:
        """Return independent draws (array of shape `size`)."""
        # A generator's uniform can be 0, whose quantile may be -inf; the smallest step above it is 2**-53.
        return self.quantile(np.maximum(as_generator(rng).random(size), 2.0**-54))

    @classmethod
    def from_quantiles(cls, quantiles: Mapping[float, float], *, unit: str = "", description: str = "") -> Self:
        """Return the member of the family that has the given quantiles.

        Use it when an expert or a paper states a range: "in nine of ten patients between 2 and 7".

        Parameters
        ----------
        quantiles
            Probability -> value: two of them (one for `HalfNormal`, `HalfCauchy` and `Exponential`), for example
            ``{0.05: 2.0, 0.95: 7.0}``.
        unit, description
            As for the class itself.

        Raises
        ------
        InputError
            When the quantiles are reversed, outside of the family's support, or such that no member has them.

        Examples
        --------
        >>> import uqms as uq
        >>> uq.Normal.from_quantiles({0.025: 1.0, 0.975: 3.0})
        Normal(mean=2.0, sd=0.510...)
        """
        domain = cls._domain or SCALES[cls.scale].domain
        points = _check_points(cls.__name__, quantiles, cls._quantiles_needed, domain)
        return replace(_solved(cls.__name__, points, cls._from_points), unit=unit, description=description)

    def to_dict(self) -> dict[str, Any]:
        """Return the prior as a JSON object, from which `prior_from_dict` builds it again.

        The families of uqms are stored by name, a class of your own by "module:name".
        """
        kind = type(self).__name__ if type(self) in _FAMILIES.values() else import_names.name_of(type(self))
        arguments = {key: _to_json(value) for key, value in self._arguments().items()}
        return {"prior": kind, **arguments, "unit": self.unit, "description": self.description}

    def _name(self) -> str:
        return type(self).__name__

    def _arguments(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if not f.kw_only}

    def _store(self, **values: Any) -> None:
        for key, value in values.items():
            object.__setattr__(self, key, value)

    def _shown(self, number: Callable[[float], str]) -> list[str]:
        return [
            f"{key}={number(value) if isinstance(value, float) else repr(value)}"
            for key, value in self._arguments().items()
        ]

    @property
    def label(self) -> str:
        """The prior in short, as shown in tables: no unit, six digits."""
        return f"{self._name()}({', '.join(self._shown(lambda v: f'{v:.6g}'))})"

    def __repr__(self) -> str:
        words = [f"{key}={value!r}" for key in ("unit", "description") if (value := getattr(self, key))]
        return f"{self._name()}({', '.join(self._shown(repr) + words)})"


@taught
@final
@dataclass(frozen=True, repr=False)
class Uniform(Prior):
    """Every value between two bounds is equally plausible.

    Use it for a bounded quantity about which nothing else is known; when the bounds span more than a factor of ten,
    `LogUniform` says what is usually meant.

    Parameters
    ----------
    low, high
        Bounds, in the parameter's own unit.
    unit, description
        Shown in tables and figures.

    Raises
    ------
    InputError
        When low >= high or a bound is not a finite number.

    Examples
    --------
    >>> import uqms as uq
    >>> float(uq.Uniform(2, 6, unit="mm").quantile(0.25))
    3.0
    """

    low: float
    high: float

    def _check(self) -> None:
        low, high = (check.number(self._name(), key, value) for key, value in self._arguments().items())
        check.ordered(self._name(), low, high)
        if math.isinf(high - low):
            raise InputError(f"Uniform: the width between {low:g} and {high:g} is beyond the range of a float.")
        self._store(low=low, high=high)

    @property
    def support(self) -> tuple[float, float]:
        """The bounds."""
        return self.low, self.high

    @property
    def moments(self) -> Moments:
        """Mean and standard deviation."""
        return Moments(0.5 * self.low + 0.5 * self.high, (self.high - self.low) / math.sqrt(12.0))

    def _log_density(self, x: Any, xp: Any) -> Any:
        return -math.log(self.high - self.low) + 0.0 * x

    def compiled(self, x: float) -> CompiledDensity | None:
        """Return the numbers of the compiled density around `x`."""
        return CompiledDensity(UNIFORM)

    def _cdf(self, x: Array) -> Array:
        return (x - self.low) / (self.high - self.low)

    def _quantile(self, p: Array) -> Array:
        return np.where(p == 1.0, self.high, self.low + p * (self.high - self.low))

    def _sf(self, x: Array) -> Array:
        return (self.high - x) / (self.high - self.low)

    def _isf(self, q: Array) -> Array:
        return np.where(q == 1.0, self.low, self.high - q * (self.high - self.low))

    @classmethod
    def _from_points(cls, points: _Points) -> Self:
        return cls(*_line(points))


@taught
@final
@dataclass(frozen=True, repr=False)
class LogUniform(Prior):
    """Every order of magnitude between two bounds is equally plausible (reciprocal distribution).

    Use it for a positive quantity of which little more than the order of magnitude is known.

    Parameters
    ----------
    low, high
        Bounds above zero, in the parameter's own unit.
    unit, description
        Shown in tables and figures.

    Raises
    ------
    InputError
        When low <= 0, low >= high or a bound is not a finite number.

    Examples
    --------
    >>> import uqms as uq
    >>> round(float(uq.LogUniform(0.01, 100).quantile(0.5)), 12)
    1.0
    """

    low: float
    high: float
    scale: ClassVar[ScaleName] = "log"

    def _check(self) -> None:
        low, high = (check.positive(self._name(), key, value) for key, value in self._arguments().items())
        check.ordered(self._name(), low, high)
        self._store(low=low, high=high)

    @property
    def _width(self) -> float:
        return math.log(self.high) - math.log(self.low)

    @property
    def support(self) -> tuple[float, float]:
        """The bounds."""
        return self.low, self.high

    @property
    def moments(self) -> Moments:
        """Mean and standard deviation."""
        w, q = self._width, self.low / self.high
        if w < 0.03:  # the difference below cancels; series in w of the variance over the squared geometric mean
            return Moments(self.high * -math.expm1(-w) / w, math.sqrt(self.low) * math.sqrt(self.high) * w * _series(w))
        mean = (1.0 - q) / w
        return Moments(self.high * mean, self.high * math.sqrt((1.0 - q * q) / (2.0 * w) - mean * mean))

    def _log_density(self, x: Any, xp: Any) -> Any:
        return -xp.log(x) - math.log(self._width)

    def compiled(self, x: float) -> CompiledDensity | None:
        """Return the numbers of the compiled density around `x`."""
        return CompiledDensity(LOG_UNIFORM, -math.log(x))

    def _cdf(self, x: Array) -> Array:
        return (np.log(x) - math.log(self.low)) / self._width

    def _quantile(self, p: Array) -> Array:
        inner = np.exp(math.log(self.low) + p * self._width)
        return np.where(p == 1.0, self.high, np.where(p == 0.0, self.low, inner))

    def _sf(self, x: Array) -> Array:
        return (math.log(self.high) - np.log(x)) / self._width

    def _isf(self, q: Array) -> Array:
        inner = np.exp(math.log(self.high) - q * self._width)
        return np.where(q == 1.0, self.low, np.where(q == 0.0, self.high, inner))

    @classmethod
    def _from_points(cls, points: _Points) -> Self:
        low, high = _line(tuple((p, math.log(x)) for p, x in points))
        return cls(math.exp(low), math.exp(high))


@taught
@final
@dataclass(frozen=True, repr=False)
class Normal(Prior):
    """A normal (Gaussian) distribution.

    Use it for a quantity of either sign that is known as "mean, give or take"; a positive one is better described by
    `LogNormal` or `TruncatedNormal`.

    Parameters
    ----------
    mean, sd
        Mean and standard deviation, in the parameter's own unit.
    unit, description
        Shown in tables and figures.

    Raises
    ------
    InputError
        When sd <= 0 or an argument is not a finite number.

    Examples
    --------
    >>> import uqms as uq
    >>> float(uq.Normal(37.0, 0.5, unit="degC").cdf(37.0))
    0.5
    """

    mean: float
    sd: float

    def _check(self) -> None:
        self._store(mean=check.number("Normal", "mean", self.mean), sd=check.positive("Normal", "sd", self.sd))

    @property
    def moments(self) -> Moments:
        """Mean and standard deviation."""
        return Moments(self.mean, self.sd)

    @property
    def normal_on_scale(self) -> Moments:
        """Mean and sd on the scale."""
        return Moments(self.mean, self.sd)

    def _log_density(self, x: Any, xp: Any) -> Any:
        z = (x - self.mean) / self.sd
        return -0.5 * z * z - math.log(self.sd) - _LOG_SQRT_2PI

    def compiled(self, x: float) -> CompiledDensity | None:
        """Return the numbers of the compiled density around `x`."""
        return CompiledDensity(NORMAL, 0.0, self.mean, self.sd, (x - self.mean) / self.sd)

    def _cdf(self, x: Array) -> Array:
        return special.ndtr((x - self.mean) / self.sd)

    def _quantile(self, p: Array) -> Array:
        return self.mean + self.sd * special.ndtri(p)

    def _sf(self, x: Array) -> Array:
        return special.ndtr((self.mean - x) / self.sd)

    def _isf(self, q: Array) -> Array:
        return self.mean - self.sd * special.ndtri(q)

    @classmethod
    def _from_points(cls, points: _Points) -> Self:
        return cls(*_probit_line(points))


@taught
@final
@dataclass(frozen=True, repr=False)
class LogNormal(Prior):
    """The logarithm is normally distributed; for most positive quantities of physiology the natural choice.

    Parameters
    ----------
    median
        Median, in the parameter's own unit.
    sigma
        Standard deviation of the natural logarithm: 0.1 is about 10 %, 0.7 about a factor of two.
    unit, description
        Shown in tables and figures.

    Raises
    ------
    InputError
        When median or sigma is not a finite number above zero.

    Examples
    --------
    >>> import uqms as uq
    >>> uq.LogNormal(median=1.8, sigma=0.3, unit="1/day").quantile([0.025, 0.5, 0.975]).round(2)
    array([1.  , 1.8 , 3.24])
    """

    median: float
    sigma: float
    scale: ClassVar[ScaleName] = "log"

    def _check(self) -> None:
        self._store(**{key: check.positive("LogNormal", key, value) for key, value in self._arguments().items()})

    @property
    def moments(self) -> Moments:
        """Mean and standard deviation."""
        with np.errstate(over="ignore"):
            mean = self.median * np.exp(0.5 * self.sigma * self.sigma)
            return Moments(float(mean), float(mean * np.sqrt(np.expm1(self.sigma * self.sigma))))

    @property
    def normal_on_scale(self) -> Moments:
        """Mean and sd on the scale."""
        return Moments(math.log(self.median), self.sigma)

    def _log_density(self, x: Any, xp: Any) -> Any:
        log_x = xp.log(x)
        z = (log_x - math.log(self.median)) / self.sigma
        inside = -0.5 * z * z - log_x - math.log(self.sigma) - _LOG_SQRT_2PI
        return xp.where(x <= 0.0, -np.inf, inside)

    def compiled(self, x: float) -> CompiledDensity | None:
        """Return the numbers of the compiled density around `x`."""
        log_x, centre = math.log(x), math.log(self.median)
        return CompiledDensity(LOG_NORMAL, -log_x, centre, self.sigma, (log_x - centre) / self.sigma)

    def _cdf(self, x: Array) -> Array:
        return special.ndtr((np.log(x) - math.log(self.median)) / self.sigma)

    def _quantile(self, p: Array) -> Array:
        return self.median * np.exp(self.sigma * special.ndtri(p))

    def _sf(self, x: Array) -> Array:
        return special.ndtr((math.log(self.median) - np.log(x)) / self.sigma)

    def _isf(self, q: Array) -> Array:
        return self.median * np.exp(-self.sigma * special.ndtri(q))

    @classmethod
    def _from_points(cls, points: _Points) -> Self:
        mean, sd = _probit_line(tuple((p, math.log(x)) for p, x in points))
        return cls(math.exp(mean), sd)


@taught
@final
@dataclass(frozen=True, repr=False)
class LogitNormal(Prior):
    """The logit is normally distributed: a fraction known as "about a third, give or take".

    Parameters
    ----------
    median
        Median, between 0 and 1.
    sigma
        Standard deviation of the logit, log(x / (1 - x)).
    unit, description
        Shown in tables and figures.

    Raises
    ------
    InputError
        When median is not between 0 and 1, or sigma is not a finite number above zero.

    Examples
    --------
    >>> import uqms as uq
    >>> uq.LogitNormal(median=0.3, sigma=0.5).quantile([0.025, 0.5, 0.975]).round(2)
    array([0.14, 0.3 , 0.53])
    """

    median: float
    sigma: float
    scale: ClassVar[ScaleName] = "logit"

    def _check(self) -> None:
        median = check.number("LogitNormal", "median", self.median)
        if not 0.0 < median < 1.0:
            raise InputError(f"LogitNormal: median is {median:g}; it has to lie between 0 and 1.")
        self._store(median=median, sigma=check.positive("LogitNormal", "sigma", self.sigma))

    @property
    def moments(self) -> Moments:
        """Mean and standard deviation (by quadrature: there is no closed form)."""
        nodes, weights = _legendre()
        z = 9.0 * (2.0 * nodes - 1.0)  # nothing of a normal is farther out
        density = weights * np.exp(-0.5 * z * z)
        x = LOGIT.inverse(self._centre + self.sigma * z)
        mean = float(np.sum(density * x) / np.sum(density))
        return Moments(mean, math.sqrt(float(np.sum(density * (x - mean) ** 2) / np.sum(density))))

    @property
    def _centre(self) -> float:
        return float(LOGIT.forward(self.median))

    @property
    def normal_on_scale(self) -> Moments:
        """Mean and sd on the scale."""
        return Moments(self._centre, self.sigma)

    def _log_density(self, x: Any, xp: Any) -> Any:
        z = (LOGIT.forward(x, xp) - self._centre) / self.sigma
        inside = -0.5 * z * z + LOGIT.log_derivative(x, xp) - math.log(self.sigma) - _LOG_SQRT_2PI
        return xp.where((x <= 0.0) | (x >= 1.0), -np.inf, inside)

    def _cdf(self, x: Array) -> Array:
        return np.asarray(special.ndtr((LOGIT.forward(x) - self._centre) / self.sigma))

    def _quantile(self, p: Array) -> Array:
        return np.asarray(LOGIT.inverse(self._centre + self.sigma * special.ndtri(p)))

    def _sf(self, x: Array) -> Array:
        return np.asarray(special.ndtr((self._centre - LOGIT.forward(x)) / self.sigma))

    def _isf(self, q: Array) -> Array:
        return np.asarray(LOGIT.inverse(self._centre - self.sigma * special.ndtri(q)))

    @classmethod
    def _from_points(cls, points: _Points) -> Self:
        mean, sd = _probit_line(tuple((p, float(LOGIT.forward(x))) for p, x in points))
        return cls(float(LOGIT.inverse(mean)), sd)


@taught
@final
@dataclass(frozen=True, repr=False)
class TruncatedNormal(Prior):
    """A normal distribution, cut at one or two bounds.

    Use it for "mean, give or take" with a physical limit, such as a fraction or a thickness near zero. Bounds far in
    a tail of the normal are no problem.

    Parameters
    ----------
    mean, sd
        Mean and standard deviation of the normal distribution before it is cut (afterwards: ``prior.moments``).
    low, high
        Bounds; infinite by default.
    unit, description
        Shown in tables and figures.

    Raises
    ------
    InputError
        When sd <= 0, low >= high, or the normal is practically constant between the bounds (use `Uniform` then).

    Examples
    --------
    >>> import uqms as uq
    >>> prior = uq.TruncatedNormal(mean=1.0, sd=1.0, low=0.0)
    >>> round(prior.moments.mean, 4)
    1.2876
    """

    mean: float
    sd: float
    low: float = -math.inf
    high: float = math.inf

    def _check(self) -> None:
        own = "TruncatedNormal"
        mean, sd = check.number(own, "mean", self.mean), check.positive(own, "sd", self.sd)
        low, high = (check.number(own, key, getattr(self, key), infinite=True) for key in ("low", "high"))
        check.ordered(own, low, high)
        cut = _Cut.of(mean, sd, low, high)
        if not (cut.a < 1e7 and cut.share > 1e-9):  # beyond that, values cannot be told from the bound
            raise InputError(
                f"TruncatedNormal: between low = {low:g} and high = {high:g} the normal with mean {mean:g} and "
                f"sd {sd:g} is flat or a single point in double precision; use Uniform(low, high) or check mean, sd."
            )
        self._store(mean=mean, sd=sd, low=low, high=high)

    @property
    def support(self) -> tuple[float, float]:
        """The bounds."""
        return self.low, self.high

    @property
    def moments(self) -> Moments:
        """Mean and standard deviation of the distribution after it was cut."""
        mean, sd = self._cut.moments()
        return Moments(self.mean + self.sd * mean, self.sd * sd)

    @property
    def _cut(self) -> "_Cut":
        return _Cut.of(self.mean, self.sd, self.low, self.high)

    def _log_density(self, x: Any, xp: Any) -> Any:
        return self._cut.log_density((x - self.mean) / self.sd) - math.log(self.sd)

    def compiled(self, x: float) -> CompiledDensity | None:
        """Return the numbers of the compiled density around `x`."""
        return CompiledDensity(NORMAL, 0.0, self.mean, self.sd, (x - self.mean) / self.sd)

    def _cdf(self, x: Array) -> Array:
        return self._cut.cdf((x - self.mean) / self.sd)

    def _quantile(self, p: Array) -> Array:
        inner = self.mean + self.sd * self._cut.quantile(p, 1.0 - p)
        return np.where(p == 0.0, self.low, np.where(p == 1.0, self.high, inner))

    def _sf(self, x: Array) -> Array:
        return self._cut.sf((x - self.mean) / self.sd)

    def _isf(self, q: Array) -> Array:
        inner = self.mean + self.sd * self._cut.quantile(1.0 - q, q)
        return np.where(q == 0.0, self.high, np.where(q == 1.0, self.low, inner))

    @classmethod
    def _from_points(cls, points: _Points) -> Self:
        return cls(*_probit_line(points))

    @classmethod
    def from_quantiles(
        cls,
        quantiles: Mapping[float, float],
        *,
        low: float = -math.inf,
        high: float = math.inf,
        unit: str = "",
        description: str = "",
    ) -> Self:
        """Return the normal distribution cut at `low` and `high` that has two given quantiles after the cut.

        Parameters
        ----------
        quantiles
            Probability -> value, two of them, between the bounds.
        low, high
            Bounds; infinite by default.
        unit, description
            As for the class itself.

        Raises
        ------
        InputError
            When no truncated normal has these quantiles (more spread than an exponential has, for example).

        Examples
        --------
        >>> import uqms as uq
        >>> prior = uq.TruncatedNormal.from_quantiles({0.5: 1.0, 0.9: 2.0}, low=0.0)
        >>> prior.cdf([1.0, 2.0]).round(6)
        array([0.5, 0.9])
        """
        low, high = (check.number(cls.__name__, k, v, infinite=True) for k, v in (("low", low), ("high", high)))
        check.ordered(cls.__name__, low, high)
        points = _check_points(cls.__name__, quantiles, 2, (low, high))

        def solve(points: _Points) -> Self:
            if math.isinf(low) and math.isinf(high):
                return cls._from_points(points)
            return cls(*_solve_truncated(points, low, high), low, high)

        return replace(_solved(cls.__name__, points, solve), unit=unit, description=description)


@taught
@final
@dataclass(frozen=True, repr=False)
class HalfNormal(Prior):
    """The positive half of a normal distribution around zero; the usual prior of a noise level.

    Parameters
    ----------
    sd
        Standard deviation of the normal before it is cut: 68 % of the half-normal lie below it, 95 % below twice it.
    unit, description
        Shown in tables and figures.

    Raises
    ------
    InputError
        When sd is not a finite number above zero.

    Examples
    --------
    >>> import uqms as uq
    >>> uq.HalfNormal(2.0).cdf([2.0, 4.0]).round(2)
    array([0.68, 0.95])
    """

    sd: float
    _domain: ClassVar[tuple[float, float] | None] = (0.0, math.inf)
    _quantiles_needed: ClassVar[int] = 1

    def _check(self) -> None:
        self._store(sd=check.positive("HalfNormal", "sd", self.sd))

    @property
    def moments(self) -> Moments:
        """Mean and standard deviation of the distribution (not of the normal before it is cut)."""
        return Moments(self.sd * math.sqrt(2.0 / math.pi), self.sd * math.sqrt(1.0 - 2.0 / math.pi))

    def _log_density(self, x: Any, xp: Any) -> Any:
        z = x / self.sd
        return math.log(2.0) - 0.5 * z * z - math.log(self.sd) - _LOG_SQRT_2PI

    def compiled(self, x: float) -> CompiledDensity | None:
        """Return the numbers of the compiled density around `x`."""
        return CompiledDensity(NORMAL, 0.0, 0.0, self.sd, x / self.sd)

    def _cdf(self, x: Array) -> Array:
        return special.erf(x / (self.sd * math.sqrt(2.0)))

    def _quantile(self, p: Array) -> Array:
        return self.sd * math.sqrt(2.0) * special.erfinv(p)

    def _sf(self, x: Array) -> Array:
        return special.erfc(x / (self.sd * math.sqrt(2.0)))

    def _isf(self, q: Array) -> Array:
        return self.sd * math.sqrt(2.0) * special.erfcinv(q)

    @classmethod
    def _from_points(cls, points: _Points) -> Self:
        ((p, x),) = points
        return cls(x / (math.sqrt(2.0) * float(special.erfinv(p))))


@taught
@final
@dataclass(frozen=True, repr=False)
class HalfCauchy(Prior):
    """The positive half of a Cauchy distribution around zero: a standard deviation that may be surprisingly large.

    It is a common prior of noise levels and of between-subject standard deviations (Gelman 2006,
    doi:10.1214/06-BA117A; Polson & Scott 2012, doi:10.1214/12-BA730). It has neither mean nor standard deviation. As
    the prior of a simulator's input it has no default design box; state a range, ``space.box(ranges={...})``.

    Parameters
    ----------
    beta
        Scale and median, in the parameter's own unit: 90 % lie below 6.3 times `beta`, 99 % below 64 times.
    unit, description
        Shown in tables and figures.

    Raises
    ------
    InputError
        When beta is not a finite number above zero.

    Examples
    --------
    >>> import uqms as uq
    >>> uq.HalfCauchy(2.0).quantile([0.5, 0.9, 0.99]).round(1)
    array([  2. ,  12.6, 127.3])
    """

    beta: float
    _domain: ClassVar[tuple[float, float] | None] = (0.0, math.inf)
    _quantiles_needed: ClassVar[int] = 1

    def _check(self) -> None:
        self._store(beta=check.positive("HalfCauchy", "beta", self.beta))

    @property
    def moments(self) -> Moments:
        """Mean and standard deviation, which are infinite."""
        return Moments(math.inf, math.inf)

    def _log_density(self, x: Any, xp: Any) -> Any:
        return math.log(2.0 / math.pi) - math.log(self.beta) - _log_one_plus_square(x / self.beta, xp)

    def compiled(self, x: float) -> CompiledDensity | None:
        """Return the numbers of the compiled density around `x`."""
        return _student_t(x, 1.0, self.beta)

    def _cdf(self, x: Array) -> Array:
        return np.arctan2(x, self.beta) / (0.5 * math.pi)

    def _quantile(self, p: Array) -> Array:
        # Above the median from the upper end, where 1 - p is exact and the tangent of a rounded angle is not.
        upper = self.beta / np.tan(0.5 * math.pi * (1.0 - p))
        return np.where(p == 1.0, math.inf, np.where(p > 0.5, upper, self.beta * np.tan(0.5 * math.pi * p)))

    def _sf(self, x: Array) -> Array:
        return np.arctan2(self.beta, x) / (0.5 * math.pi)

    def _isf(self, q: Array) -> Array:
        lower = self.beta * np.tan(0.5 * math.pi * (1.0 - q))
        return np.where(q == 0.0, math.inf, np.where(q > 0.5, lower, self.beta / np.tan(0.5 * math.pi * q)))

    @classmethod
    def _from_points(cls, points: _Points) -> Self:
        ((p, x),) = points
        return cls(x / float(cls(1.0).quantile(p)))


@taught
@final
@dataclass(frozen=True, repr=False)
class HalfStudentT(Prior):
    """The positive half of a Student t distribution around zero: between `HalfCauchy` and `HalfNormal`.

    Use it for a standard deviation that is probably small but may be large (Gelman 2006, doi:10.1214/06-BA117A). The
    smaller `nu`, the more probable are large values; ``nu=1`` is `HalfCauchy`. With `nu` below 3.5 it has no default
    design box as the prior of a simulator's input; state a range, ``space.box(ranges={...})``.

    Parameters
    ----------
    nu
        Degrees of freedom above zero; 3 or 4 are usual.
    sigma
        Scale of the Student t distribution, in the parameter's own unit. It is not its standard deviation: for ``nu=4``
        63 % lie below `sigma`, 95 % below 2.8 times `sigma`.
    unit, description
        Shown in tables and figures.

    Raises
    ------
    InputError
        When nu or sigma is not a finite number above zero.

    Examples
    --------
    >>> import uqms as uq
    >>> uq.HalfStudentT(nu=4, sigma=2.0).cdf([2.0, 5.6]).round(2)
    array([0.63, 0.95])
    """

    nu: float
    sigma: float
    _domain: ClassVar[tuple[float, float] | None] = (0.0, math.inf)
    _FAR: ClassVar[float] = 1e9

    def _check(self) -> None:
        self._store(**{key: check.positive("HalfStudentT", key, value) for key, value in self._arguments().items()})

    @property
    def moments(self) -> Moments:
        """Mean and standard deviation; infinite for nu <= 1 and nu <= 2."""
        if self.nu <= 1.0:
            return Moments(math.inf, math.inf)
        nu = self.nu
        mean = 2.0 * math.sqrt(nu) * math.exp(-float(special.betaln(0.5 * nu, 0.5))) / (nu - 1.0)
        sd = math.sqrt(nu / (nu - 2.0) - mean * mean) if nu > 2.0 else math.inf
        return Moments(self.sigma * mean, self.sigma * sd)

    def _log_density(self, x: Any, xp: Any) -> Any:
        constant = math.log(2.0) - float(special.betaln(0.5 * self.nu, 0.5)) - 0.5 * math.log(self.nu)
        size = self.sigma * math.sqrt(self.nu)
        return constant - math.log(self.sigma) - 0.5 * (self.nu + 1.0) * _log_one_plus_square(x / size, xp)

    def compiled(self, x: float) -> CompiledDensity | None:
        """Return the numbers of the compiled density around `x`."""
        return _student_t(x, self.nu, self.sigma * math.sqrt(self.nu))

    def _cdf(self, x: Array) -> Array:
        square = (x / self.sigma) ** 2 / self.nu
        # By the argument of the incomplete beta function that is below one half and keeps its digits.
        lower = special.betainc(0.5, 0.5 * self.nu, square / (1.0 + square))
        upper = special.betainc(0.5 * self.nu, 0.5, 1.0 / (1.0 + square))
        return np.where(self._flat(square), self._peak * x, np.where(square < 1.0, lower, 1.0 - upper))

    def _quantile(self, p: Array) -> Array:
        near = p / self._peak
        low = special.betaincinv(0.5, 0.5 * self.nu, p)
        high = special.betaincinv(0.5 * self.nu, 0.5, 1.0 - p)
        square = np.where(low < 0.5, low / (1.0 - low), (1.0 - high) / high)
        return np.where(self._flat((near / self.sigma) ** 2 / self.nu), near, self.sigma * np.sqrt(self.nu * square))

    def _sf(self, x: Array) -> Array:
        t = x / (self.sigma * math.sqrt(self.nu))
        near = special.betaincc(0.5, 0.5 * self.nu, t * t / (1.0 + t * t))
        upper = special.betainc(0.5 * self.nu, 0.5, 1.0 / (1.0 + t * t))
        far = np.exp(-self.nu * np.log(t) - self._log_power)
        return np.where(t > self._FAR, far, np.where(t < 1.0, near, upper))

    def _isf(self, q: Array) -> Array:
        far = np.exp(-(np.log(q) + self._log_power) / self.nu)
        low = special.betainccinv(0.5, 0.5 * self.nu, q)
        high = special.betaincinv(0.5 * self.nu, 0.5, q)
        square = np.where(low < 0.5, low / (1.0 - low), (1.0 - high) / high)
        return self.sigma * math.sqrt(self.nu) * np.where(far > self._FAR, far, np.sqrt(square))

    @property
    def _log_power(self) -> float:
        """Log of t^-nu over the probability above t, for t beyond `_FAR`: squares of such t may overflow."""
        return float(special.betaln(0.5 * self.nu, 0.5)) + math.log(0.5 * self.nu)

    @property
    def _peak(self) -> float:
        """Density at zero."""
        return 2.0 * math.exp(-float(special.betaln(0.5 * self.nu, 0.5))) / (self.sigma * math.sqrt(self.nu))

    def _flat(self, square: Array) -> Bools:
        """Return where the density is that at zero to all digits; squares of such values may underflow."""
        flat: Bools = (self.nu + 1.0) * square < 1e-17
        return flat

    @classmethod
    def _from_points(cls, points: _Points) -> Self:
        (p1, x1), (p2, x2) = points
        wanted = math.log(x2) - math.log(x1)

        def excess(log_nu: float) -> float:
            first, last = cls(math.exp(log_nu), 1.0).quantile([p1, p2])
            return wanted - math.log(last) + math.log(first)

        nu = math.exp(_root(excess, -3.0, 16.0))
        return cls(nu, x2 / float(cls(nu, 1.0).quantile(p2)))


@taught
@final
@dataclass(frozen=True, repr=False)
class Exponential(Prior):
    """A positive quantity that is most probably small, such as a standard deviation; `Gamma` with shape one.

    Parameters
    ----------
    rate
        Rate above zero, in the inverse of the parameter's unit. Mean and standard deviation are 1 / rate.
    unit, description
        Shown in tables and figures.

    Raises
    ------
    InputError
        When rate is not a finite number above zero.

    Examples
    --------
    >>> import uqms as uq
    >>> uq.Exponential(rate=0.5).moments
    Moments(mean=2.0, sd=2.0)
    """

    rate: float
    _domain: ClassVar[tuple[float, float] | None] = (0.0, math.inf)
    _quantiles_needed: ClassVar[int] = 1

    def _check(self) -> None:
        self._store(rate=check.positive("Exponential", "rate", self.rate))

    @property
    def moments(self) -> Moments:
        """Mean and standard deviation."""
        return Moments(1.0 / self.rate, 1.0 / self.rate)

    def _log_density(self, x: Any, xp: Any) -> Any:
        return math.log(self.rate) - self.rate * x

    def compiled(self, x: float) -> CompiledDensity | None:
        """Return the numbers of the compiled density around `x`."""
        return CompiledDensity(EXPONENTIAL, -self.rate * x, self.rate)

    def _cdf(self, x: Array) -> Array:
        return -np.expm1(-self.rate * x)

    def _quantile(self, p: Array) -> Array:
        return -np.log1p(-p) / self.rate

    def _sf(self, x: Array) -> Array:
        return np.exp(-self.rate * x)

    def _isf(self, q: Array) -> Array:
        return -np.log(q) / self.rate

    @classmethod
    def _from_points(cls, points: _Points) -> Self:
        ((p, x),) = points
        return cls(-math.log1p(-p) / x)


@taught
@final
@dataclass(frozen=True, repr=False)
class Beta(Prior):
    """A fraction between zero and one.

    Parameters
    ----------
    alpha, beta
        Shape parameters above zero; the mean is alpha / (alpha + beta), and their sum says how narrow it is.
    unit, description
        Shown in tables and figures.

    Raises
    ------
    InputError
        When alpha or beta is not a finite number above zero.

    Examples
    --------
    >>> import uqms as uq
    >>> uq.Beta(2, 6, description="ejected fraction").moments.mean
    0.25
    """

    alpha: float
    beta: float
    scale: ClassVar[ScaleName] = "logit"

    def _check(self) -> None:
        self._store(**{key: check.positive("Beta", key, value) for key, value in self._arguments().items()})

    @property
    def moments(self) -> Moments:
        """Mean and standard deviation."""
        total = self.alpha + self.beta
        mean, rest = self.alpha / total, self.beta / total
        return Moments(mean, math.sqrt(mean * rest / (total + 1.0)))

    def _log_density(self, x: Any, xp: Any) -> Any:
        powers = xp.xlogy(self.alpha - 1.0, x) + xp.xlog1py(self.beta - 1.0, -x)
        return powers - float(special.betaln(self.alpha, self.beta))

    def compiled(self, x: float) -> CompiledDensity | None:
        """Return the numbers of the compiled density around `x`."""
        v, a, b = float(LOGIT.forward(x)), self.alpha, self.beta
        value = -(a - 1.0) * np.logaddexp(0.0, -v) - (b - 1.0) * np.logaddexp(0.0, v)
        return CompiledDensity(BETA, float(value), a, b)

    def _cdf(self, x: Array) -> Array:
        return special.betainc(self.alpha, self.beta, x)

    def _quantile(self, p: Array) -> Array:
        return _beta_quantile(self.alpha, self.beta, p)

    def _sf(self, x: Array) -> Array:
        return special.betaincc(self.alpha, self.beta, x)

    def _isf(self, q: Array) -> Array:
        return np.where(q < 0.5, 1.0 - _beta_quantile(self.beta, self.alpha, q), self._quantile(1.0 - q))

    @classmethod
    def _from_points(cls, points: _Points) -> Self:
        return cls(*_solve_beta(points))


@taught
@final
@dataclass(frozen=True, repr=False)
class Gamma(Prior):
    """A positive quantity with a lighter upper tail than `LogNormal`.

    Parameters
    ----------
    shape
        Shape above zero; the coefficient of variation is 1 / sqrt(shape).
    rate
        Rate above zero, in the inverse of the parameter's unit; the mean is shape / rate.
    unit, description
        Shown in tables and figures.

    Raises
    ------
    InputError
        When shape or rate is not a finite number above zero.

    Examples
    --------
    >>> import uqms as uq
    >>> uq.Gamma(shape=4, rate=2).moments
    Moments(mean=2.0, sd=1.0)
    """

    shape: float
    rate: float
    scale: ClassVar[ScaleName] = "log"

    def _check(self) -> None:
        self._store(**{key: check.positive("Gamma", key, value) for key, value in self._arguments().items()})

    @property
    def moments(self) -> Moments:
        """Mean and standard deviation."""
        return Moments(self.shape / self.rate, math.sqrt(self.shape) / self.rate)

    def _log_density(self, x: Any, xp: Any) -> Any:
        t = self.rate * x
        return xp.xlogy(self.shape - 1.0, t) - t - float(special.gammaln(self.shape)) + math.log(self.rate)

    def compiled(self, x: float) -> CompiledDensity | None:
        """Return the numbers of the compiled density around `x`."""
        value = (self.shape - 1.0) * math.log(x) - self.rate * x
        return CompiledDensity(GAMMA, value, self.shape, self.rate)

    def _cdf(self, x: Array) -> Array:
        return special.gammainc(self.shape, self.rate * x)

    def _quantile(self, p: Array) -> Array:
        return special.gammaincinv(self.shape, p) / self.rate

    def _sf(self, x: Array) -> Array:
        return special.gammaincc(self.shape, self.rate * x)

    def _isf(self, q: Array) -> Array:
        return special.gammainccinv(self.shape, q) / self.rate

    @classmethod
    def _from_points(cls, points: _Points) -> Self:
        (p1, x1), (p2, x2) = points
        wanted = math.log(x2) - math.log(x1)
        shape = math.exp(_root(lambda s: _log_gamma_ratio(math.exp(s), p1, p2, upper=False) - wanted, -9.0, 23.0))
        return cls(shape, float(special.gammaincinv(shape, p2)) / x2)


@taught
@final
@dataclass(frozen=True, repr=False)
class InverseGamma(Prior):
    """The reciprocal is gamma-distributed; for length scales and variances that must stay away from zero.

    Parameters
    ----------
    alpha
        Shape above zero.
    beta
        Scale above zero, in the parameter's unit; the mean is beta / (alpha - 1).
    unit, description
        Shown in tables and figures.

    Raises
    ------
    InputError
        When alpha or beta is not a finite number above zero.

    Examples
    --------
    >>> import uqms as uq
    >>> uq.InverseGamma(3, 4).moments
    Moments(mean=2.0, sd=2.0)
    """

    alpha: float
    beta: float
    scale: ClassVar[ScaleName] = "log"

    def _check(self) -> None:
        self._store(**{key: check.positive("InverseGamma", key, value) for key, value in self._arguments().items()})

    @property
    def moments(self) -> Moments:
        """Mean and standard deviation; infinite for alpha <= 1 and alpha <= 2."""
        mean = self.beta / (self.alpha - 1.0) if self.alpha > 1.0 else math.inf
        return Moments(mean, mean / math.sqrt(self.alpha - 2.0) if self.alpha > 2.0 else math.inf)

    def _log_density(self, x: Any, xp: Any) -> Any:
        t = self.beta / x
        inside = (self.alpha + 1.0) * xp.log(t) - t - float(special.gammaln(self.alpha)) - math.log(self.beta)
        return xp.where(xp.isinf(t), -np.inf, inside)

    def compiled(self, x: float) -> CompiledDensity | None:
        """Return the numbers of the compiled density around `x`."""
        value = -(self.alpha + 1.0) * math.log(x) - self.beta / x
        return CompiledDensity(INVERSE_GAMMA, value, self.alpha, self.beta)

    def _cdf(self, x: Array) -> Array:
        return special.gammaincc(self.alpha, self.beta / x)

    def _quantile(self, p: Array) -> Array:
        return self.beta / special.gammainccinv(self.alpha, p)

    def _sf(self, x: Array) -> Array:
        return special.gammainc(self.alpha, self.beta / x)

    def _isf(self, q: Array) -> Array:
        return self.beta / special.gammaincinv(self.alpha, q)

    @classmethod
    def _from_points(cls, points: _Points) -> Self:
        (p1, x1), (p2, x2) = points
        wanted = math.log(x2) - math.log(x1)
        alpha = math.exp(_root(lambda s: -_log_gamma_ratio(math.exp(s), p1, p2, upper=True) - wanted, -9.0, 23.0))
        return cls(alpha, float(special.gammainccinv(alpha, p2)) * x2)


_ALL = (
    Uniform,
    LogUniform,
    Normal,
    LogNormal,
    LogitNormal,
    TruncatedNormal,
    HalfNormal,
    HalfCauchy,
    HalfStudentT,
    Exponential,
    Beta,
    Gamma,
    InverseGamma,
)
_FAMILIES: dict[str, type[Prior]] = {family.__name__: family for family in _ALL}


def prior_from_dict(data: object) -> Prior:
    """Return the prior that `Prior.to_dict` wrote.

    Raises
    ------
    InputError
        When the family is unknown, a class of your own cannot be imported or is no prior, or the object holds other
        keys than it should.
    """
    kind = data.get("prior") if isinstance(data, Mapping) else None
    if not isinstance(kind, str) or not (kind in _FAMILIES or import_names.is_name(kind)):
        raise InputError(f"There is no prior {kind!r}; known ones are {', '.join(_FAMILIES)}.")
    family = _FAMILIES[kind] if kind in _FAMILIES else import_names.class_named(kind, Prior, "prior")  # type: ignore[type-abstract]
    own = [f.name for f in fields(family) if not f.kw_only]
    values = check.fields(kind, data, ["prior", *own], ["unit", "description"])
    arguments: dict[str, Any] = {key: _from_json(values[key]) for key in own}
    return family(**arguments, **{key: values[key] for key in ("unit", "description") if key in values})


def typical_sd(prior: Prior) -> float:
    """Return the standard deviation; half of the width of the central 68 % where it is infinite."""
    sd = float(prior.moments.sd)
    if math.isfinite(sd):
        return sd
    low, high = prior.quantile(special.ndtr([-1.0, 1.0]))
    return 0.5 * float(high - low)


def has_long_tail(prior: Prior, mass: float) -> bool:
    """Whether the central `mass` of a prior is too wide to be a design box: most of its width is next to empty."""
    if not isinstance(prior, HalfCauchy | HalfStudentT):
        return False
    low, high, end = prior.quantile([0.25, 0.75, mass])
    return bool(end > LONG_TAIL * (high - low))


def long_tail_message(
    priors: Mapping[str, Prior],
    mass: float,
    stated: Mapping[str, tuple[float, float]],
    call: str = "space.box",
) -> str:
    """Return the words of the error for priors with a long tail that have no range: the call that states one."""
    name, prior = next(iter(priors.items()))
    low, high, end = prior.quantile([0.25, 0.75, mass])
    level = 1.0 - STATED_CUT / len(priors)
    ranges = {**stated, **{n: (0.0, float(f"{prior.quantile(level):.3g}")) for n, prior in priors.items()}}
    return (
        f"{name}: {prior.label} has a long tail. Its central {100.0 * mass:g} % end at {end:.4g}, "
        f"{end / (high - low):.0f} times the width of its central half, so it has no default design box. State the "
        f"range that is simulated: over={call}(ranges={ranges!r}) keeps {100.0 * level:g} % of the prior; a "
        "calibration accepts ranges that cut at most 1 % in all. Or take a prior with a lighter tail, such as "
        "uq.HalfNormal(sd)."
    )


def _log_one_plus_square(t: Any, xp: Any) -> Any:
    """Return log(1 + t^2) of t >= 0, also where the square overflows."""
    near, far = xp.minimum(t, 1e8), xp.maximum(t, 1e8)
    return xp.log1p(near * near) + 2.0 * xp.log(far / 1e8)


def _student_t(x: float, nu: float, size: float) -> CompiledDensity:
    value = -0.5 * (nu + 1.0) * float(_log_one_plus_square(x / size, NumPyFunctions))
    return CompiledDensity(STUDENT_T, value, nu, size)


def _to_json(value: Any) -> Any:
    """Return a field as JSON: numbers, text, and tuples of them."""
    if isinstance(value, tuple):
        return [_to_json(one) for one in value]
    return value if isinstance(value, str) else check.to_number(value)


def _from_json(value: Any) -> Any:
    return tuple(_from_json(one) for one in value) if isinstance(value, list) else check.from_number(value)


@final
@dataclass(frozen=True)
class _Cut:
    """A standard normal restricted to [a, b], without cancellation in the tails.

    When the interval lies on one side of zero it is mirrored into the right tail, and everything is expressed
    relative to exp(-a^2 / 2) through Mills' ratio R(z) = (1 - Phi(z)) / phi(z).
    """

    a: float
    b: float
    mirrored: bool

    @classmethod
    def of(cls, mean: float, sd: float, low: float, high: float) -> Self:
        a, b = (low - mean) / sd, (high - mean) / sd
        return cls(-b, -a, True) if b <= 0.0 else cls(a, b, False)

    @property
    def tail(self) -> bool:
        return self.a >= 0.0

    def rest(self, z: Array | float) -> Array:
        """Integral from z to infinity of exp((a^2 - t^2) / 2) dt."""
        out: Array = np.exp(-0.5 * (z - self.a) * (z + self.a)) * _mills(z)
        return np.where(np.isinf(z), 0.0, out)

    @property
    def mass(self) -> float:
        """Integral over [a, b] of the density, times exp(a^2 / 2) sqrt(2 pi) in a tail."""
        if self.tail:
            with np.errstate(all="ignore"):
                return float(_mills(self.a) - self.rest(self.b))
        return float(special.ndtr(self.b) - special.ndtr(self.a))

    @property
    def share(self) -> float:
        """The mass, relative to the numbers whose difference it is."""
        return self.mass / float(_mills(self.a)) if self.tail else self.mass

    def log_density(self, z: Any) -> Any:
        z = -z if self.mirrored else z
        if self.tail:
            return -0.5 * (z - self.a) * (z + self.a) - math.log(self.mass)
        return -0.5 * z * z - _LOG_SQRT_2PI - math.log(self.mass)

    def cdf(self, z: Array) -> Array:
        if not self.tail:
            return (special.ndtr(z) - special.ndtr(self.a)) / self.mass
        if self.mirrored:
            return (self.rest(-z) - self.rest(self.b)) / self.mass
        return (_mills(self.a) - self.rest(z)) / self.mass

    def sf(self, z: Array) -> Array:
        if not self.tail:
            return (special.ndtr(-z) - special.ndtr(-self.b)) / self.mass
        if self.mirrored:
            return (_mills(self.a) - self.rest(-z)) / self.mass
        return (self.rest(z) - self.rest(self.b)) / self.mass

    def quantile(self, p: Array, q: Array) -> Array:
        """Return the quantile at p = 1 - q; each of the two has the digits that the other lacks near 1."""
        if self.tail:
            above = p if self.mirrored else q
            log_rest = np.log((above * self.mass + self.rest(self.b)) / _mills(self.a))
            z = -special.ndtri_exp(special.log_ndtr(-self.a) + log_rest)
            for _ in range(2):  # Newton on the log of the rest: far out ndtri_exp has twelve digits, z - a needs more
                step = _mills(z) * (np.log(_mills(z) / _mills(self.a)) - 0.5 * (z - self.a) * (z + self.a) - log_rest)
                z = np.where(np.isfinite(step), z + step, z)
            return -z if self.mirrored else z
        below = special.ndtr(self.a) + p * self.mass
        above = special.ndtr(-self.b) + q * self.mass
        return np.where(below <= above, special.ndtri(below), -special.ndtri(above))

    def moments(self) -> tuple[float, float]:
        # Quadrature over what holds all but exp(-40) of the mass, in the distance t from the mode: no cancellation.
        mode = max(self.a, 0.0)
        reach = 80.0 / (mode + math.sqrt(mode * mode + 80.0))
        low, high = max(self.a - mode, -reach), min(self.b - mode, reach)
        nodes, weights = _legendre()
        t = low + (high - low) * nodes
        w = weights * np.exp(-t * (mode + 0.5 * t))
        w /= w.sum()
        mean = float(w @ t)
        sd = math.sqrt(float(w @ (t - mean) ** 2))
        return (-(mode + mean) if self.mirrored else mode + mean), sd


def _beta_quantile(a: float, b: float, p: Array) -> Array:
    """Return the quantile of the beta distribution, by its series where `betaincinv` may underflow or be NaN."""
    tiny = np.exp((np.log(p) + math.log(a) + float(special.betaln(a, b))) / a)
    near = tiny * max(a, b, 1.0) < 1e-11
    return np.where(near, tiny * (1.0 + (b - 1.0) / (a + 1.0) * tiny), special.betaincinv(a, b, p))


def _mills(z: Array | float) -> Array:
    return np.asarray(math.sqrt(0.5 * math.pi) * special.erfcx(np.asarray(z) / math.sqrt(2.0)))


@lru_cache(maxsize=1)
def _legendre() -> tuple[Array, Array]:
    nodes, weights = np.polynomial.legendre.leggauss(128)
    return 0.5 * (nodes + 1.0), 0.5 * weights


def _series(w: float) -> float:
    return math.sqrt(1.0 / 12.0 + w * w / 180.0 + w**4 / 6720.0)


def _check_points(owner: str, quantiles: object, needed: int, domain: tuple[float, float]) -> _Points:
    """Check quantiles and return them sorted by probability."""
    if not isinstance(quantiles, Mapping) or len(quantiles) != needed:
        raise InputError(
            f"{owner}.from_quantiles got {quantiles!r}; give {needed} quantile{'s' * (needed > 1)} as "
            f"probability: value, for example {'{0.95: 4.0}' if needed == 1 else '{0.05: 2.0, 0.95: 7.0}'}."
        )
    owner = f"{owner}.from_quantiles"
    points = sorted(
        (check.number(owner, "a probability", p), check.number(owner, "a value", x)) for p, x in quantiles.items()
    )
    for p, x in points:
        if not 0.0 < p < 1.0:
            raise InputError(f"{owner}: the probability {p:g} is not between 0 and 1 (write 0.05 for 5 %).")
        if not domain[0] < x < domain[1]:
            raise InputError(f"{owner}: the value {x:g} is not between {domain[0]:g} and {domain[1]:g}.")
    for (p, x), (q, y) in zip(points, points[1:], strict=False):
        if not x < y:
            raise InputError(
                f"{owner}: the {q:g} quantile ({y:g}) has to be above the {p:g} quantile ({x:g}); swap them?"
            )
    return tuple(points)


def _solved[P: Prior](owner: str, points: _Points, solve: Callable[[_Points], P]) -> P:
    """Return `solve(points)`, checked to have the quantiles that were asked for."""
    wanted = ", ".join(f"{x:g} at {p:g}" for p, x in points)
    try:
        with np.errstate(all="ignore"):
            prior = solve(points)
    except (InputError, ArithmeticError) as error:
        raise InputError(f"No {owner} has the quantiles {wanted} ({error}); move them or use another family.") from None
    for p, x in points:
        # A value is only known to its last digit, which matters when the range is far from zero.
        rounding = 4.0 * math.ulp(x) * math.exp(min(float(prior.log_density(x)), 700.0))
        if not abs(float(prior.cdf(x)) - p) <= 1e-8 * min(p, 1.0 - p) + min(rounding, 1e-6):
            raise InputError(
                f"No {owner} has the quantiles {wanted} to double precision; move them or use another family."
            )
    return prior


def _line(points: _Points) -> tuple[float, float]:
    """Values at probabilities 0 and 1 of the straight line through two points."""
    (p1, x1), (p2, x2) = points
    slope = (x2 - x1) / (p2 - p1)
    return x1 - p1 * slope, x2 + (1.0 - p2) * slope


def _probit_line(points: _Points) -> tuple[float, float]:
    """Mean and sd of the normal distribution through two points."""
    (p1, x1), (p2, x2) = points
    z1, z2 = float(special.ndtri(p1)), float(special.ndtri(p2))
    sd = (x2 - x1) / (z2 - z1)
    return (x1 * z2 - x2 * z1) / (z2 - z1), sd


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return the root of a monotone function between two bounds."""
    from scipy.optimize import brentq

    first, last = function(low), function(high)
    if not first * last <= 0.0:
        raise InputError("no root")
    return float(brentq(function, low, high, xtol=1e-14, rtol=1e-15, maxiter=200))


def _log_gamma_ratio(shape: float, p1: float, p2: float, *, upper: bool) -> float:
    """Log of the ratio q(p2) / q(p1) of two (upper) quantiles of the gamma distribution."""

    def log_quantile(p: float) -> float:
        q = float(special.gammainccinv(shape, p) if upper else special.gammaincinv(shape, p))
        if q > 1e-280:
            return math.log(q)
        # The quantile underflows for small shapes, where P(q) = q^shape / Gamma(shape + 1) holds to all digits.
        return (math.log1p(-p) if upper else math.log(p)) / shape + float(special.gammaln(shape + 1.0)) / shape

    return log_quantile(p2) - log_quantile(p1)


def _solve_beta(points: _Points) -> tuple[float, float]:
    """Shapes of the beta distribution through two points: mean for a given size, then the size (both monotone)."""
    (p1, x1), (p2, x2) = points

    def shapes(log_size: float) -> tuple[float, float]:
        size = math.exp(log_size)

        def excess(logit: float) -> float:
            a, b = size * float(special.expit(logit)), size * float(special.expit(-logit))
            return float(special.betainc(a, b, x1)) - p1

        logit = _root(excess, -40.0, 40.0)
        return size * float(special.expit(logit)), size * float(special.expit(-logit))

    def excess(log_size: float) -> float:
        return float(special.betainc(*shapes(log_size), x2)) - p2

    return shapes(_root(excess, -5.0, 23.0))


def _solve_truncated(points: _Points, low: float, high: float) -> tuple[float, float]:
    """Mean and sd of the truncated normal through two points: mean for a given sd, then the sd (both monotone)."""
    (p1, x1), (p2, x2) = points

    def cdf(x: float, mean: float, sd: float) -> float:
        return float(np.clip(_Cut.of(mean, sd, low, high).cdf(np.asarray((x - mean) / sd)), 0.0, 1.0))

    def mean_of(sd: float) -> float:
        reach = 2.0 * sd
        for _ in range(60):
            left, right = x1 - reach, x1 + reach
            if cdf(x1, left, sd) >= p1 >= cdf(x1, right, sd):
                return _root(lambda mean: cdf(x1, mean, sd) - p1, left, right)
            reach *= 2.0
        raise InputError("no mean was found")

    def excess(log_sd: float) -> float:
        sd = math.exp(log_sd)
        return cdf(x2, mean_of(sd), sd) - p2

    width = math.log(x2 - x1)
    sd = math.exp(_root(excess, width - 4.0, width + 9.0))
    return mean_of(sd), sd
