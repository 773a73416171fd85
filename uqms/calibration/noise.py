"""Noise models: what is added to the simulator's output when it is measured.

A model says what is inferred (`parameters`), the log-density of what was measured given the output, and how to draw it.
Densities are written once, with the functions of `xp` (`uqms.parameters.functions`): NumPy's for many values at once,
PyTensor's in the model.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, final

import numpy as np

from uqms import _checks as check
from uqms._teaching import taught
from uqms._typing import Array, Bools
from uqms.calibration.dense_gaussian import LOG_TWO_PI
from uqms.errors import InputError
from uqms.parameters import Prior
from uqms.parameters.functions import NumPyFunctions

__all__ = [
    "AutocorrelatedNoise",
    "BinomialNoise",
    "CombinedNoise",
    "CustomNoise",
    "GaussianNoise",
    "Growth",
    "LogNormalNoise",
    "NegativeBinomialNoise",
    "NoiseModel",
    "PoissonNoise",
    "Process",
    "Rows",
    "StudentTNoise",
    "check_positive",
]

TINY = 1e-150  # an output nearer to 0 counts as this: powers have no derivative at 0
STIRLING = 1e5  # from here on Stirling's series is exact to the last digit, and differences of log gamma are not


class Rows(NamedTuple):
    """What is known of the measured rows of one output, each shape (R,).

    Attributes
    ----------
    z
        Measured values; an expression where `y` is one.
    sd
        Known standard deviations; NaN where not known.
    trials
        Number of trials of a binomial count; 0 where not given.
    """

    z: Array
    sd: Array
    trials: Array


class Process(NamedTuple):
    """Noise of one series that resembles its predecessors: an Ornstein-Uhlenbeck process beside the density.

    Attributes
    ----------
    sd, length
        Roles of the parameters that are its standard deviation and its length.
    along
        The coordinate; None for the only one of the output.
    """

    sd: str
    length: str
    along: str | None


class Growth(NamedTuple):
    """Noise that grows with the output: the variance ``sigma² + (factor |y|^power)²``.

    Attributes
    ----------
    factor, power
        Roles of the parameters.
    """

    factor: str
    power: str


class NoiseModel(ABC):
    """What is added to an output when it is measured; subclass it for a noise model of your own.

    A subclass is a frozen dataclass whose fields are the parameters, each a number (known) or a prior (inferred). It
    needs `log_density` and `draw`; what else it may say has a default. `CustomNoise` makes one of two functions;
    `uqms.testing.check_noise` tells whether a model is right.

    Attributes
    ----------
    broadcasts
        Whether `log_density` takes one set of measured values a draw, z of shape (..., R). True by default.
    columns
        Columns of the observations that it reads beside the values: "sd", "trials". None by default.
    counts
        Whether measured values are whole numbers, 0 or more. False by default.
    gaussian
        Normal with the standard deviation `sigma`, added to the output, and independent of it unless it has a `growth`,
        so that the surrogate's error can be integrated out. False by default.
    growth
        How the standard deviation of Gaussian noise grows with the output. None by default.
    limits
        Between which ends the output has to be: (0, inf) for the mean of a count. All numbers by default.
    link
        "log" when noise is added to the logarithm of the output, so that `y` and `rows.z` are logarithms. "identity" by
        default.
    mean_suffices
        Whether replicates inform of the output by their mean alone. False by default.
    process
        Correlated noise beside the density. None by default.
    scaled
        Roles of positive parameters that are in the unit of the output. None by default.

    Examples
    --------
    >>> @dataclass(frozen=True)
    ... class LaplaceNoise(NoiseModel):
    ...     scale: float | Prior
    ...     scaled = ("scale",)
    ...
    ...     def log_density(self, y, rows, parameters, xp):
    ...         b = parameters["scale"]
    ...         return -xp.abs(rows.z - y) / b - xp.log(2.0 * b)
    ...
    ...     def draw(self, y, rows, parameters, rng):
    ...         return y + parameters["scale"] * rng.laplace(size=y.shape)
    >>> LaplaceNoise(scale=0.5).parameters
    {'scale': 0.5}
    """

    gaussian: ClassVar[bool] = False
    broadcasts: ClassVar[bool] = True
    counts: ClassVar[bool] = False
    mean_suffices: ClassVar[bool] = False
    limits: ClassVar[tuple[float, float]] = (-np.inf, np.inf)
    link: ClassVar[Literal["identity", "log"]] = "identity"

    def __post_init__(self) -> None:
        name = type(self).__name__
        for role, value in self.parameters.items():
            if role in self.scaled:
                check_positive(name, role, value, f"its {role}")
            elif not isinstance(value, Prior) and not np.isfinite(value):
                raise InputError(f"{name}: {role} is {value}; give a finite number or a prior.")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the observations that are read beside the values."""
        return ()

    @property
    def growth(self) -> Growth | None:
        """How the standard deviation grows with the output."""
        return None

    @property
    def process(self) -> Process | None:
        """Correlated noise beside the density."""
        return None

    @property
    def scaled(self) -> tuple[str, ...]:
        """Roles of positive parameters in the unit of the output."""
        return ()

    @property
    def parameters(self) -> Mapping[str, Prior | float]:
        """What the density depends on, by role: a prior (inferred) or a number (known); the fields that are one."""
        own: Any = self
        if not is_dataclass(own):
            raise InputError(f"{type(self).__name__}: decorate the class with @dataclass(frozen=True).")
        values = {one.name: getattr(self, one.name) for one in fields(own)}
        found: dict[str, Any] = {
            role: one
            for role, one in values.items()
            if isinstance(one, Prior | int | float | np.integer | np.floating) and not isinstance(one, bool)
        }
        return found

    def check(self, output: str, rows: Rows) -> None:
        """Raise a typed error for values that cannot have been measured."""
        if self.counts:
            _counts(type(self).__name__, output, rows.z)

    def known_sd(self, rows: Rows) -> Array | None:
        """Return the standard deviation (R,) where it is known and in the output's unit, else None."""
        return None

    def as_outputs(self, rows: Rows) -> Array:
        """Return the measured values (R,) in the unit of the output `y`; those themselves unless a count is of trials.

        The default scale of a discrepancy is their standard deviation.
        """
        return rows.z

    def possible(self, y: Array) -> Bools:
        """Return where outputs are between the `limits`."""
        low, high = self.limits
        if not np.isfinite(low) and not np.isfinite(high):
            return np.ones(np.shape(y), dtype=np.bool_)
        return np.asarray((y >= low) & (y <= high))

    @abstractmethod
    def log_density(self, y: Any, rows: Rows, parameters: Mapping[str, Any], xp: Any) -> Any:
        """Return log p(z | y) by row, shape (..., R), or its sum over the rows, shape (...), of rows that depend."""

    @abstractmethod
    def draw(self, y: Array, rows: Rows, parameters: Mapping[str, Array], rng: np.random.Generator) -> Array:
        """Return new measurements, the shape of y (..., R)."""


def check_positive(owner: str, field: str, value: object, what: str, give: str = "") -> None:
    """Check a setting that is a positive number (known) or a prior of a positive quantity (inferred).

    Raises
    ------
    InputError
        When it is neither, or admits what is not positive; `give` says what else is accepted.
    """
    if isinstance(value, Prior):
        if value.support[0] < 0:
            raise InputError(
                f"{owner}: the prior {value!r} admits negative values; {what} is positive. "
                "Use HalfNormal, HalfCauchy, HalfStudentT, Exponential, LogNormal, Gamma, InverseGamma or LogUniform."
            )
    elif not (check.is_number(value) and value > 0):  # type: ignore[operator]
        raise InputError(f"{owner}: {field} is {value!r}; give {give or 'a positive, finite number or a prior'}.")


def _normal(z: Any, y: Any, sd: Any, xp: Any) -> Any:
    return -0.5 * LOG_TWO_PI - xp.log(sd) - 0.5 * ((z - y) / sd) ** 2


def _counts(model: str, output: str, z: Array) -> None:
    wrong = np.flatnonzero((z < 0) | (z != np.round(z)))
    if len(wrong):
        raise InputError(
            f"{model}: {output!r} was measured as {z[wrong[0]]:g}, which is no count (a whole number, 0 or more). Give "
            "the counts themselves, or use GaussianNoise or LogNormalNoise for what is not counted."
        )


@taught
@final
@dataclass(frozen=True)
class GaussianNoise(NoiseModel):
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
    gaussian: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.sd is not None:
            give = "a positive, finite standard deviation in the output's unit, a prior or nothing"
            check_positive("GaussianNoise", "sd", self.sd, "a standard deviation", give)

    @property
    def parameters(self) -> Mapping[str, Prior | float]:
        """The standard deviation; 1 when each row has its own."""
        return {"sigma": 1.0 if self.sd is None else self.sd}

    @property
    def columns(self) -> tuple[str, ...]:
        """The standard deviations, when they are those of the observations."""
        return ("sd",) if self.sd is None else ()

    @property
    def scaled(self) -> tuple[str, ...]:
        """The standard deviation, when it is one of the model."""
        return () if self.sd is None else ("sigma",)

    def known_sd(self, rows: Rows) -> Array | None:
        """Return the standard deviations of the rows, None when they are inferred."""
        if isinstance(self.sd, Prior):
            return None
        return rows.sd if self.sd is None else np.full(len(rows.z), float(self.sd))

    def _sd(self, rows: Rows, parameters: Mapping[str, Any]) -> Any:
        return rows.sd if self.sd is None else parameters["sigma"]

    def log_density(self, y: Any, rows: Rows, parameters: Mapping[str, Any], xp: Any) -> Any:
        """Return the normal log-density."""
        return _normal(rows.z, y, self._sd(rows, parameters), xp)

    def log_tail(self, y: Any, rows: Rows, parameters: Mapping[str, Any], side: Array, xp: Any) -> Any:
        """Return the log-probability of a value below z (side 1) or above it (side -1)."""
        return xp.log_ndtr(side * (rows.z - y) / self._sd(rows, parameters))

    def draw(self, y: Array, rows: Rows, parameters: Mapping[str, Array], rng: np.random.Generator) -> Array:
        """Return y plus noise."""
        return np.asarray(y + self._sd(rows, parameters) * rng.standard_normal(np.shape(y)))


@taught
@final
@dataclass(frozen=True)
class CombinedNoise(NoiseModel):
    """Gaussian noise with an additive and a proportional part, the usual error of drug concentrations.

    The variance of a measurement of the output y is ``additive² + (proportional |y|^power)²``. The surrogate's error is
    integrated out with the variance at the mean of y, and `Calibration` measures how much that changes.

    Parameters
    ----------
    additive
        Standard deviation where the output is 0, in its unit: a number or a prior; 0 for noise that is proportional
        alone.
    proportional
        Standard deviation as a fraction of the output: a number or a prior. 0.1 is an error of 10 %. With another
        `power` than 1, the standard deviation where the output is 1.
    power
        A number or a prior: 1 where the standard deviation grows like the output, 0.5 where the variance does.

    Raises
    ------
    InputError
        When a quantity is not positive; at calibration, when 0 was measured and `additive` is 0.

    References
    ----------
    Davidian & Giltinan (1995), Nonlinear Models for Repeated Measurement Data, doi:10.1201/9780203745502.

    Examples
    --------
    >>> CombinedNoise(additive=0.3, proportional=0.1).power
    1.0
    """

    additive: float | Prior
    proportional: float | Prior
    power: float | Prior = 1.0
    gaussian: ClassVar[bool] = True
    scaled: ClassVar[tuple[str, ...]] = ("sigma",)

    def __post_init__(self) -> None:
        if not (check.is_number(self.additive) and self.additive == 0):
            give = "a positive, finite standard deviation in the output's unit, a prior, or 0 for none"
            check_positive("CombinedNoise", "additive", self.additive, "a standard deviation", give)
        give = "a positive, finite fraction of the output, or a prior; GaussianNoise has no such part"
        check_positive("CombinedNoise", "proportional", self.proportional, "a fraction of the output", give)
        check_positive("CombinedNoise", "power", self.power, "a power")

    @property
    def parameters(self) -> Mapping[str, Prior | float]:
        """The additive standard deviation first, then how it grows."""
        return {"sigma": self.additive, "proportional": self.proportional, "power": self.power}

    @property
    def growth(self) -> Growth:
        """The proportional part."""
        return Growth("proportional", "power")

    def check(self, output: str, rows: Rows) -> None:
        """Raise InputError for zeros where noise is proportional alone."""
        if not isinstance(self.additive, Prior) and self.additive == 0 and (rows.z == 0.0).any():
            raise InputError(
                f"CombinedNoise: {output!r} was measured as 0, and noise without an additive part is 0 there. Give "
                "additive= a number or a prior; values below a detection limit are censored: "
                "Observations.from_table(..., censored=...)."
            )

    def _sd(self, y: Any, parameters: Mapping[str, Any], xp: Any) -> Any:
        size = xp.where(xp.abs(y) > TINY, xp.abs(y), TINY)
        return xp.sqrt(parameters["sigma"] ** 2 + (parameters["proportional"] * size ** parameters["power"]) ** 2)

    def log_density(self, y: Any, rows: Rows, parameters: Mapping[str, Any], xp: Any) -> Any:
        """Return the normal log-density."""
        return _normal(rows.z, y, self._sd(y, parameters, xp), xp)

    def log_tail(self, y: Any, rows: Rows, parameters: Mapping[str, Any], side: Array, xp: Any) -> Any:
        """Return the log-probability of a value below z (side 1) or above it (side -1)."""
        return xp.log_ndtr(side * (rows.z - y) / self._sd(y, parameters, xp))

    def draw(self, y: Array, rows: Rows, parameters: Mapping[str, Array], rng: np.random.Generator) -> Array:
        """Return y plus noise."""
        return np.asarray(y + self._sd(y, parameters, NumPyFunctions) * rng.standard_normal(np.shape(y)))


@taught
@final
@dataclass(frozen=True)
class LogNormalNoise(NoiseModel):
    """Noise that multiplies: log z = log y + sigma times a standard normal; for concentrations, loads, titres.

    The output needs a surrogate of its logarithm, `Curve(transform=Log())` or `Scalar(transform=Log())`: its error is
    then added on the same scale, and everything stays in closed form.

    Parameters
    ----------
    sigma
        Standard deviation of log z: a number or a prior. 0.1 is an error of about 10 %.

    Raises
    ------
    InputError
        When `sigma` is not positive; at calibration, when a measured value is not positive or the surrogate is not one
        of the logarithm.

    Examples
    --------
    >>> LogNormalNoise(sigma=0.2).sigma
    0.2
    """

    sigma: float | Prior
    gaussian: ClassVar[bool] = True
    link: ClassVar[Literal["identity", "log"]] = "log"

    def __post_init__(self) -> None:
        check_positive("LogNormalNoise", "sigma", self.sigma, "a standard deviation")

    @property
    def parameters(self) -> Mapping[str, Prior | float]:
        """The standard deviation of the logarithm."""
        return {"sigma": self.sigma}

    def check(self, output: str, rows: Rows) -> None:
        """Raise InputError for values that have no logarithm."""
        wrong = np.flatnonzero(rows.z <= 0.0)
        if len(wrong):
            raise InputError(
                f"LogNormalNoise: {output!r} was measured as {rows.z[wrong[0]]:g}, which has no logarithm. Values "
                "below a detection limit are censored: Observations.from_table(..., censored=...)."
            )

    def log_density(self, y: Any, rows: Rows, parameters: Mapping[str, Any], xp: Any) -> Any:
        """Return the normal log-density on the logarithmic scale, where y and z are."""
        return _normal(rows.z, y, parameters["sigma"], xp)

    def log_tail(self, y: Any, rows: Rows, parameters: Mapping[str, Any], side: Array, xp: Any) -> Any:
        """Return the log-probability of a value below z (side 1) or above it (side -1)."""
        return xp.log_ndtr(side * (rows.z - y) / parameters["sigma"])

    def draw(self, y: Array, rows: Rows, parameters: Mapping[str, Array], rng: np.random.Generator) -> Array:
        """Return y plus noise, on the logarithmic scale."""
        return np.asarray(y + parameters["sigma"] * rng.standard_normal(np.shape(y)))


@taught
@final
@dataclass(frozen=True)
class AutocorrelatedNoise(NoiseModel):
    """Gaussian noise whose errors resemble their predecessors: an Ornstein-Uhlenbeck process, AR(1) at equal steps.

    The correlation of two errors of one series (experiment, output, replicate) is exp(-distance / length). Use it for
    drifting instruments and dense signals. What a wrong simulator misses looks alike: noise is new with each replicate,
    a `Discrepancy` is shared by them, and without replicates the two cannot be told apart.

    Parameters
    ----------
    sd
        Standard deviation of the process, a number or a prior, in the unit of the output.
    length
        Along the coordinate: a number or a prior, in its unit.
    white
        Standard deviation of independent noise beside it, a number or a prior; of the instrument's last digit, say.
    along
        The coordinate; may be left out when the output has one.

    Raises
    ------
    InputError
        When a quantity is not positive; at calibration, when the output has no such coordinate.

    Examples
    --------
    >>> AutocorrelatedNoise(sd=0.5, length=2.0, white=0.1).length
    2.0
    """

    sd: float | Prior
    length: float | Prior
    white: float | Prior
    along: str | None = None
    gaussian: ClassVar[bool] = True
    scaled: ClassVar[tuple[str, ...]] = ("sigma", "sigma_ou")

    def __post_init__(self) -> None:
        for role in ("sd", "length", "white"):
            check_positive("AutocorrelatedNoise", role, getattr(self, role), f"its {role}")

    @property
    def parameters(self) -> Mapping[str, Prior | float]:
        """White noise first, then the process."""
        return {"sigma": self.white, "sigma_ou": self.sd, "length_ou": self.length}

    @property
    def process(self) -> Process:
        """Correlated within a series."""
        return Process("sigma_ou", "length_ou", self.along)

    def log_density(self, y: Any, rows: Rows, parameters: Mapping[str, Any], xp: Any) -> Any:
        """Return the density of the white part; the process is part of y."""
        return _normal(rows.z, y, parameters["sigma"], xp)

    def log_tail(self, y: Any, rows: Rows, parameters: Mapping[str, Any], side: Array, xp: Any) -> Any:
        """Return the log-probability of a value below z (side 1) or above it (side -1)."""
        return xp.log_ndtr(side * (rows.z - y) / parameters["sigma"])

    def draw(self, y: Array, rows: Rows, parameters: Mapping[str, Array], rng: np.random.Generator) -> Array:
        """Return y plus the white part."""
        return np.asarray(y + parameters["sigma"] * rng.standard_normal(np.shape(y)))


@taught
@final
@dataclass(frozen=True)
class StudentTNoise(NoiseModel):
    """Noise with long tails, so that single outliers do not pull the answer.

    Parameters
    ----------
    scale
        A number or a prior, in the unit of the output; the standard deviation is larger (infinite for df <= 2).
    df
        Degrees of freedom, a number or a prior; 4 is the usual robust choice.

    Raises
    ------
    InputError
        When a quantity is not positive.

    References
    ----------
    Lange, Little & Taylor (1989), doi:10.1080/01621459.1989.10478852.

    Examples
    --------
    >>> StudentTNoise(scale=0.5).df
    4.0
    """

    scale: float | Prior
    df: float | Prior = 4.0
    scaled: ClassVar[tuple[str, ...]] = ("sigma",)

    def __post_init__(self) -> None:
        check_positive("StudentTNoise", "scale", self.scale, "a scale")
        check_positive("StudentTNoise", "df", self.df, "the number of degrees of freedom")

    @property
    def parameters(self) -> Mapping[str, Prior | float]:
        """Scale and degrees of freedom."""
        return {"sigma": self.scale, "df": self.df}

    def log_density(self, y: Any, rows: Rows, parameters: Mapping[str, Any], xp: Any) -> Any:
        """Return Student's log-density."""
        s, df = parameters["sigma"], parameters["df"]
        half = 0.5 * (df + 1.0)
        constant = xp.gammaln(half) - xp.gammaln(0.5 * df) - 0.5 * xp.log(np.pi * df) - xp.log(s)
        return constant - half * xp.log1p(((rows.z - y) / s) ** 2 / df)

    def draw(self, y: Array, rows: Rows, parameters: Mapping[str, Array], rng: np.random.Generator) -> Array:
        """Return y plus noise."""
        df = np.broadcast_to(parameters["df"], np.shape(y))
        return np.asarray(y + parameters["sigma"] * rng.standard_t(df))


@taught
@final
@dataclass(frozen=True)
class PoissonNoise(NoiseModel):
    """Counts whose mean is the output: cases a day, spikes, cells.

    The output must stay positive: a surrogate of its logarithm, `Curve(transform=Log())`, does. One of the output
    itself may be negative by its error: where more than 5 % of the prior's means are, calibration refuses; below that
    such means are ruled out, in the density (-inf) and in simulated data (drawn again) alike.

    Examples
    --------
    >>> PoissonNoise()
    PoissonNoise()
    """

    counts: ClassVar[bool] = True
    mean_suffices: ClassVar[bool] = True
    limits: ClassVar[tuple[float, float]] = (0.0, np.inf)

    @property
    def parameters(self) -> Mapping[str, Prior | float]:
        """Nothing beside the mean."""
        return {}

    def log_density(self, y: Any, rows: Rows, parameters: Mapping[str, Any], xp: Any) -> Any:
        """Return the log-probability; -inf where the mean is negative."""
        mean = xp.where(y >= 0.0, y, 1.0)
        return xp.where(y >= 0.0, xp.xlogy(rows.z, mean) - mean - xp.gammaln(rows.z + 1.0), -np.inf)

    def draw(self, y: Array, rows: Rows, parameters: Mapping[str, Array], rng: np.random.Generator) -> Array:
        """Return counts; NaN where the mean is negative."""
        return np.where(y >= 0.0, rng.poisson(np.where(y >= 0.0, y, 1.0)), np.nan)


@taught
@final
@dataclass(frozen=True)
class NegativeBinomialNoise(NoiseModel):
    """Counts that scatter more than Poisson's: mean y and variance y + dispersion y².

    Parameters
    ----------
    dispersion
        A number or a prior (1 / phi in the parametrisation with variance y + y² / phi); 0.1 adds a scatter of about
        30 % of the mean.

    Raises
    ------
    InputError
        When it is not positive; at calibration, when a measured value is no count.

    Examples
    --------
    >>> NegativeBinomialNoise(dispersion=0.1).dispersion
    0.1
    """

    dispersion: float | Prior
    counts: ClassVar[bool] = True
    limits: ClassVar[tuple[float, float]] = (0.0, np.inf)

    def __post_init__(self) -> None:
        check_positive("NegativeBinomialNoise", "dispersion", self.dispersion, "the dispersion")

    @property
    def parameters(self) -> Mapping[str, Prior | float]:
        """The dispersion."""
        return {"dispersion": self.dispersion}

    def log_density(self, y: Any, rows: Rows, parameters: Mapping[str, Any], xp: Any) -> Any:
        """Return the log-probability; -inf where the mean is negative."""
        z, phi = rows.z, 1.0 / parameters["dispersion"]
        mean = xp.where(y >= 0.0, y, 1.0)
        # Log of gamma(z + phi) / (gamma(phi) phi^z): next to Poisson's law both are huge and nearly equal.
        near = xp.where(phi < STIRLING, phi, STIRLING)
        far = xp.where(phi < STIRLING, STIRLING, phi)
        series = (z + far - 0.5) * xp.log1p(z / far) - z - z / (12.0 * far * (z + far))
        exact = xp.gammaln(z + near) - xp.gammaln(near) - z * xp.log(near)
        rising = xp.where(phi < STIRLING, exact, series)
        value = rising - xp.gammaln(z + 1.0) + xp.xlogy(z, mean) - (z + phi) * xp.log1p(mean / phi)
        return xp.where(y >= 0.0, value, -np.inf)

    def draw(self, y: Array, rows: Rows, parameters: Mapping[str, Array], rng: np.random.Generator) -> Array:
        """Return counts; NaN where the mean is negative."""
        phi = np.broadcast_to(1.0 / np.asarray(parameters["dispersion"]), np.shape(y))
        mean = np.where(y >= 0.0, y, 1.0)
        return np.where(y >= 0.0, rng.poisson(mean * rng.gamma(phi) / phi), np.nan)


@taught
@final
@dataclass(frozen=True)
class BinomialNoise(NoiseModel):
    """Counts of successes: z of `trials`, each with a probability that is the output.

    The output must stay between 0 and 1: a surrogate of its logit, `Curve(transform=Logit())`, does. What is outside is
    treated as in `PoissonNoise`.

    Parameters
    ----------
    trials
        How many; None for the `trials` column of the observations.

    Raises
    ------
    InputError
        When it is not a whole number of at least 1; at calibration, when a count is larger than its trials.

    Examples
    --------
    >>> BinomialNoise(trials=1000).trials
    1000
    """

    trials: int | None = None
    counts: ClassVar[bool] = True
    mean_suffices: ClassVar[bool] = True
    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __post_init__(self) -> None:
        n = self.trials
        check.whole("BinomialNoise", "trials", n, optional=True)

    @property
    def parameters(self) -> Mapping[str, Prior | float]:
        """Nothing beside the probability."""
        return {}

    @property
    def columns(self) -> tuple[str, ...]:
        """The numbers of trials, when they are those of the observations."""
        return ("trials",) if self.trials is None else ()

    def _trials(self, rows: Rows) -> Array:
        return rows.trials if self.trials is None else np.full(len(rows.trials), float(self.trials))

    def check(self, output: str, rows: Rows) -> None:
        """Raise InputError for values that are not counts, or exceed the trials."""
        _counts("BinomialNoise", output, rows.z)
        trials = self._trials(rows)
        other = np.flatnonzero((rows.trials > 0) & (rows.trials != trials))
        if len(other):
            raise InputError(
                f"BinomialNoise of {output!r}: trials is {self.trials}, but the observations have "
                f"{rows.trials[other[0]]:g}. Use BinomialNoise() for theirs, or leave the column out."
            )
        if (trials < 1).any():
            raise InputError(
                f"BinomialNoise of {output!r}: the number of trials is not known. Use BinomialNoise(trials=...), or "
                "name its column: Observations.from_table(..., trials=...)."
            )
        wrong = np.flatnonzero(rows.z > trials)
        if len(wrong):
            raise InputError(
                f"BinomialNoise: {output!r} was measured as {rows.z[wrong[0]]:g} of {trials[wrong[0]]:g} trials. "
                "Correct one of the two."
            )

    def as_outputs(self, rows: Rows) -> Array:
        """Return the proportions of successes."""
        return rows.z / self._trials(rows)

    def log_density(self, y: Any, rows: Rows, parameters: Mapping[str, Any], xp: Any) -> Any:
        """Return the log-probability; -inf where the output is no probability."""
        n, z = self._trials(rows), rows.z
        inside = (y >= 0.0) & (y <= 1.0)
        p = xp.where(inside, y, 0.5)
        constant = xp.gammaln(n + 1.0) - xp.gammaln(z + 1.0) - xp.gammaln(n - z + 1.0)
        return xp.where(inside, constant + xp.xlogy(z, p) + xp.xlogy(n - z, 1.0 - p), -np.inf)

    def draw(self, y: Array, rows: Rows, parameters: Mapping[str, Array], rng: np.random.Generator) -> Array:
        """Return counts; NaN where the output is no probability."""
        inside = (y >= 0.0) & (y <= 1.0)
        n = np.broadcast_to(self._trials(rows), np.shape(y)).astype(np.int64)
        return np.where(inside, rng.binomial(n, np.where(inside, y, 0.5)), np.nan)


@taught
@final
@dataclass(frozen=True)
class CustomNoise(NoiseModel):
    """A measurement model of your own: a log-density and a way to draw from it.

    Parameters
    ----------
    logp
        `logp(z, y, parameters, xp)`: measured values z (R,), the simulator's output there y (..., R), and the
        parameters by name. Returns log p(z | y), by row (..., R), or for all rows at once (...), when rows depend on
        each other. Use arithmetic and the functions of `xp` only (exp, log, log1p, sqrt, abs, where, gammaln, log_ndtr,
        xlogy, sum): it is called with arrays and with PyTensor expressions.
    random
        `random(y, parameters, rng)`: new measurements, the shape of y (..., R); `rng` is a numpy Generator.
    parameters
        By name: a prior (inferred) or a number (known). A draw's value has the shape (..., 1).

    Raises
    ------
    InputError
        When a function cannot be called, or a parameter is neither a prior nor a number.

    Examples
    --------
    >>> laplace = CustomNoise(
    ...     logp=lambda z, y, p, xp: -xp.abs(z - y) / p["scale"] - xp.log(2 * p["scale"]),
    ...     random=lambda y, p, rng: y + p["scale"] * rng.laplace(size=y.shape),
    ...     parameters={"scale": 0.5},
    ... )
    >>> float(laplace.parameters["scale"])
    0.5
    """

    logp: Callable[[Any, Any, Mapping[str, Any], Any], Any]
    random: Callable[[Array, Mapping[str, Array], np.random.Generator], Array]
    parameters: Mapping[str, Prior | float] = MappingProxyType({})
    broadcasts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("logp", "random"):
            if not callable(getattr(self, name)):
                raise InputError(f"CustomNoise: {name} is {getattr(self, name)!r}; give a function.")
        for name, value in self.parameters.items():
            number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
            if not number and not isinstance(value, Prior):
                raise InputError(f"CustomNoise: the parameter {name!r} is {value!r}; give a prior or a number.")

    def log_density(self, y: Any, rows: Rows, parameters: Mapping[str, Any], xp: Any) -> Any:
        """Return the log-density that `logp` gives."""
        return self.logp(rows.z, y, parameters, xp)

    def draw(self, y: Array, rows: Rows, parameters: Mapping[str, Array], rng: np.random.Generator) -> Array:
        """Return what `random` returns.

        Raises
        ------
        InputError
            When it has another shape than y.
        """
        drawn = np.asarray(self.random(y, parameters, rng), dtype=np.float64)
        if drawn.shape != np.shape(y):
            raise InputError(f"CustomNoise: random returned the shape {drawn.shape} for y of shape {np.shape(y)}.")
        return drawn
