"""Discrepancy: what the simulator misses even at its best parameters, as a part of the likelihood.

Measured is z = y + delta + noise. The discrepancy delta is one unknown function: all replicates of an experiment share
it, however many there are, and so may experiments under different conditions. Without it a wrong simulator gives narrow
intervals around wrong parameters; with it parameters may become hard to tell from delta, which the prior on its scale
decides. Kennedy & O'Hagan (2001), doi:10.1111/1467-9868.00294; Brynjarsdottir & O'Hagan (2014),
doi:10.1088/0266-5611/30/11/114007.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, final

import numpy as np
from scipy.optimize import brentq
from scipy.special import gammaincc

from uqms._teaching import taught
from uqms._typing import Array, Ints
from uqms.calibration import _terms
from uqms.calibration.noise import check_positive
from uqms.errors import InputError
from uqms.parameters import (
    Exponential,
    Gamma,
    HalfCauchy,
    HalfNormal,
    HalfStudentT,
    InverseGamma,
    LogNormal,
    LogUniform,
    Normal,
    Prior,
    TruncatedNormal,
    Uniform,
)

__all__ = [
    "BasisDiscrepancy",
    "Discrepancies",
    "Discrepancy",
    "GPDiscrepancy",
    "OffsetDiscrepancy",
    "Place",
    "ScaleDiscrepancy",
    "Sites",
    "Term",
    "default_length",
    "term_covariance",
]

PREDICTIVE_SHARE = 0.1  # smallest default scale, of the prior-predictive standard deviation
FEW_LEVELS, SHORT = 6, 0.2  # levels of a condition that have no spacing to speak of; the short length, of their range
CLOSE = 1e-9  # of the range: places nearer to each other are one
NOISE, PLAIN, ORTHOGONAL = 0, 1, 2


class Sites(NamedTuple):
    """Where an output is: coordinates and conditions by name, which experiment, which row of the table; each (P,).

    The rows are those of the observations where each cell is one, -1 elsewhere.
    """

    columns: Mapping[str, Array]
    experiment: Ints
    rows: Ints
    conditions: tuple[str, ...] = ()


class Place(NamedTuple):
    """Sites as a term sees them: ids (P,) that are correlated where equal, points (P, c), basis (P, b)."""

    ids: Ints
    points: Array
    basis: Array


@final
@dataclass(frozen=True, eq=False)
class Term:
    """One covariance over the cells: amplitude² kappa(points / lengths) within an id, or amplitude² basis basis'.

    Attributes
    ----------
    output
        Whose cells it belongs to.
    group
        Which noise group these cells are: of several parts with one surrogate, an output has one in each.
    family, role
        Codes of `_terms`; noise, discrepancy or orthogonal discrepancy.
    amplitude, lengths
        Names of hyperparameters.
    place
        From sites of the output to what the term sees of them.
    """

    output: str
    family: int
    role: int
    amplitude: str
    lengths: tuple[str, ...]
    place: Callable[[Sites], Place]
    group: int = 0


def term_covariance(term: Term, phi: Mapping[str, Array], a: Place, b: Place) -> Array:
    """Return the covariance (S, A, B) between two sets of sites for S values of the hyperparameters (each (S,))."""
    same = (a.ids[:, None] == b.ids[None, :]) & (a.ids[:, None] >= 0)
    square = np.asarray(phi[term.amplitude])[:, None, None] ** 2
    if term.family == _terms.BASIS:
        return np.asarray(square * (same * (a.basis @ b.basis.T)))
    r2 = np.zeros((len(square), len(a.ids), len(b.ids)))
    for c, name in enumerate(term.lengths):
        step = a.points[:, None, c] - b.points[None, :, c]
        r2 += step**2 / np.asarray(phi[name])[:, None, None] ** 2
    r = np.sqrt(r2)
    if term.family == _terms.EXPONENTIAL:
        kappa = np.exp(-r)
    elif term.family == _terms.MATERN52:
        kappa = (1.0 + np.sqrt(5.0) * r + 5.0 / 3.0 * r2) * np.exp(-np.sqrt(5.0) * r)
    elif term.family == _terms.SQUARED:
        kappa = np.exp(-0.5 * r2)
    else:
        kappa = np.ones_like(r2)
    return np.asarray(square * kappa * same)


def default_length(values: Array, *, condition: bool = False) -> InverseGamma:
    """Return the prior of a length scale: 1 % below twice the spacing, 1 % above twice the range of the coordinate.

    Shorter is noise, longer is an offset: neither can be identified from the data. All measurements under one level of
    a condition share its discrepancy, which is therefore not noise however short the length; with few levels 1 % lies
    below a fifth of their range, whatever their spacing.
    """
    points = np.unique(values)
    span = float(points[-1] - points[0])
    points = points[np.append(True, np.diff(points) > CLOSE * span)]  # 0.3 and 0.1 + 0.2 are one place, not a spacing
    high = 2.0 * span
    low = min(2.0 * float(np.min(np.diff(points))), 0.5 * high)
    if condition and len(points) < FEW_LEVELS:
        low = min(low, SHORT * span)

    # 1 / length is gamma(alpha, beta): P(length < low) = Q(alpha, beta / low)
    def off(log_alpha: float) -> float:
        alpha = np.exp(log_alpha)
        return float(np.log(_beta(alpha, low, 0.01) / _beta(alpha, high, 0.99)))

    alpha = float(np.exp(brentq(off, np.log(0.1), np.log(1e4))))
    return InverseGamma(alpha, _beta(alpha, low, 0.01))


def _beta(alpha: float, length: float, probability: float) -> float:
    """Return the beta of an inverse gamma that is below `length` with the probability."""

    def off(log_beta: float) -> float:
        return float(gammaincc(alpha, np.exp(log_beta)) - probability)

    return length * float(np.exp(brentq(off, np.log(1e-60), np.log(10.0 * alpha + 1e3))))


def _check_scale(model: str, value: object) -> None:
    if value is not None:
        give = "a positive number, a prior, or nothing for the default"
        check_positive(model, "the scale", value, "a scale", give)


class Setting(NamedTuple):
    """What a discrepancy makes of an output: terms, hyperparameters, and the factor's name for one that scales."""

    terms: tuple[Term, ...]
    hyperparameters: Mapping[str, Prior | float]
    factor: str = ""


@taught
@final
@dataclass(frozen=True)
class GPDiscrepancy:
    """A smooth unknown function of the coordinates (and conditions): Kennedy and O'Hagan's discrepancy.

    Use it when residuals are autocorrelated, or when you know that the simulator is simplified. With `orthogonal` the
    function cannot imitate what a change of the parameters does, so that parameters keep the meaning "best fit".

    Parameters
    ----------
    sd
        Its standard deviation, a number or a prior in the unit of the output (on its transformed scale when the
        surrogate has one). Default: half-normal at the standard deviation of the measured values, or at 0.1 of the
        prior-predictive standard deviation where that is larger.
    length
        Length scale, a number or a prior, or one each in a mapping by name of the coordinate or condition. Default:
        inverse gamma with 1 % below twice the spacing of the data and 1 % above twice their range; of a condition with
        fewer than six levels 1 % below a fifth of their range.
    over
        The coordinates and conditions that it is a function of; by default all that take more than one value. Leave a
        condition out when the function is the same under each.
    shared
        False: a function of its own for each condition instead of one over all.
    orthogonal
        Orthogonal to the derivatives of the output by the parameters, at the observed cells.

    Raises
    ------
    InputError
        When a quantity is not positive; at calibration, for unknown names.

    References
    ----------
    Kennedy & O'Hagan (2001), doi:10.1111/1467-9868.00294; Plumlee (2017), doi:10.1080/01621459.2016.1211016.

    Examples
    --------
    >>> GPDiscrepancy(sd=HalfNormal(0.5)).orthogonal
    False
    """

    sd: float | Prior | None = None
    length: float | Prior | Mapping[str, float | Prior] | None = None
    over: Sequence[str] | None = None
    shared: bool = True
    orthogonal: bool = False

    def __post_init__(self) -> None:
        _check_scale("GPDiscrepancy", self.sd)
        for value in self.length.values() if isinstance(self.length, Mapping) else (self.length,):
            _check_scale("GPDiscrepancy", value)
        if isinstance(self.over, str):
            raise InputError(f"GPDiscrepancy: over is {self.over!r}; give a sequence of names: over=[{self.over!r}].")

    def setting(self, output: str, suffix: str, sites: Sites, scale: float) -> Setting:
        """Return its term and hyperparameters.

        Raises
        ------
        InputError
            When it would be a function of nothing.
        """
        names = self._names(output, sites)
        sd = HalfNormal(scale) if self.sd is None else self.sd
        amplitude = f"delta_sd{suffix}"
        lengths = {name: f"delta_length_{name}{suffix}" for name in names}
        given = self.length if isinstance(self.length, Mapping) else dict.fromkeys(names, self.length)
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise InputError(
                f"GPDiscrepancy of {output!r}: lengths of {unknown}, but it is a function of {list(names)}."
            )
        priors: dict[str, Prior | float] = {amplitude: sd}
        for name in names:
            value = given.get(name)
            default = default_length(sites.columns[name], condition=name in sites.conditions)
            priors[lengths[name]] = default if value is None else value
        shared = self.shared

        def place(at: Sites) -> Place:
            ids = np.zeros(len(at.experiment), dtype=np.int64) if shared else at.experiment
            return Place(ids, np.column_stack([at.columns[name] for name in names]), np.zeros((len(ids), 0)))

        role = ORTHOGONAL if self.orthogonal else PLAIN
        return Setting((Term(output, _terms.MATERN52, role, amplitude, tuple(lengths.values()), place),), priors)

    def scaled(self, factor: float, scale: float) -> "GPDiscrepancy":
        """Return it with `factor` times the standard deviation."""
        return replace(self, sd=_times(self.sd, factor, scale))

    def _names(self, output: str, sites: Sites) -> tuple[str, ...]:
        varying = tuple(
            name
            for name, column in sites.columns.items()
            # a function of its own for each condition is none of the condition
            if not np.isnan(column).any() and np.ptp(column) > 0 and (self.shared or name not in sites.conditions)
        )
        names = varying if self.over is None else tuple(self.over)
        unknown = [name for name in names if name not in varying]
        if unknown:
            raise InputError(
                f"GPDiscrepancy of {output!r}: over {unknown}, but its observations vary along {list(varying)} only."
            )
        if not names:
            raise InputError(
                f"GPDiscrepancy of {output!r}: it was measured at one place only, where a function is a number. Use "
                "OffsetDiscrepancy."
            )
        return names


@taught
@final
@dataclass(frozen=True)
class OffsetDiscrepancy:
    """One unknown number added to the output everywhere: a zero error, a baseline that the simulator leaves out.

    Parameters
    ----------
    sd
        Its standard deviation, a number or a prior. Default: half-normal at the standard deviation of the
        measured values, or at 0.1 of the prior-predictive standard deviation where that is larger.
    shared
        False: a number of its own for each condition.

    Raises
    ------
    InputError
        When the standard deviation is not positive.

    Examples
    --------
    >>> OffsetDiscrepancy(sd=2.0).sd
    2.0
    """

    sd: float | Prior | None = None
    shared: bool = True

    def __post_init__(self) -> None:
        _check_scale("OffsetDiscrepancy", self.sd)

    def setting(self, output: str, suffix: str, sites: Sites, scale: float) -> Setting:
        """Return its term and hyperparameter."""
        amplitude, shared = f"offset_sd{suffix}", self.shared

        def place(at: Sites) -> Place:
            ids = np.zeros(len(at.experiment), dtype=np.int64) if shared else at.experiment
            return Place(ids, np.zeros((len(ids), 0)), np.zeros((len(ids), 0)))

        sd = HalfNormal(scale) if self.sd is None else self.sd
        return Setting((Term(output, _terms.CONSTANT, PLAIN, amplitude, (), place),), {amplitude: sd})

    def scaled(self, factor: float, scale: float) -> "OffsetDiscrepancy":
        """Return it with `factor` times the standard deviation."""
        return replace(self, sd=_times(self.sd, factor, scale))


@taught
@final
@dataclass(frozen=True)
class ScaleDiscrepancy:
    """One unknown factor, 1 + s, on the output everywhere: a wrong gain or calibration of the device.

    The parameter s is sampled and is called "scale".

    Parameters
    ----------
    sd
        Standard deviation of s around 0; 0.1 admits a gain that is wrong by 10 %.

    Raises
    ------
    InputError
        When it is not a positive number.

    Examples
    --------
    >>> ScaleDiscrepancy(sd=0.05).sd
    0.05
    """

    sd: float = 0.1

    def __post_init__(self) -> None:
        _check_scale("ScaleDiscrepancy", self.sd)
        if self.sd is None or isinstance(self.sd, Prior):
            raise InputError(f"ScaleDiscrepancy: sd is {self.sd!r}; give a number, e.g. 0.1 for 10 %.")

    def setting(self, output: str, suffix: str, sites: Sites, scale: float) -> Setting:
        """Return its hyperparameter; it is no term but a factor."""
        name = f"scale{suffix}"
        return Setting((), {name: Normal(0.0, self.sd)}, name)

    def scaled(self, factor: float, scale: float) -> "ScaleDiscrepancy":
        """Return it with `factor` times the standard deviation."""
        return ScaleDiscrepancy(self.sd * factor)


@taught
@final
@dataclass(frozen=True)
class BasisDiscrepancy:
    """A sum of known functions with unknown weights: a drift, a season, an artefact of known shape.

    Parameters
    ----------
    functions
        Each takes the coordinates and conditions by name, arrays of one length, and returns that many numbers. Scale
        them to a size of about 1.
    sd
        Standard deviation of the weights, a number or a prior. Default: half-normal at the standard deviation of the
        measured values, or at 0.1 of the prior-predictive standard deviation where that is larger.
    shared
        False: weights of their own for each condition.

    Raises
    ------
    InputError
        When there is no function or the standard deviation is not positive; at calibration, when one fails.

    Examples
    --------
    >>> drift = BasisDiscrepancy([lambda at: at["time"] / 10.0], sd=0.3)
    >>> len(drift.functions)
    1
    """

    functions: Sequence[Callable[[Mapping[str, Any]], Any]]
    sd: float | Prior | None = None
    shared: bool = True

    def __post_init__(self) -> None:
        _check_scale("BasisDiscrepancy", self.sd)
        if not self.functions or not all(callable(one) for one in self.functions):
            raise InputError("BasisDiscrepancy: give at least one function of the coordinates, in a list.")

    def setting(self, output: str, suffix: str, sites: Sites, scale: float) -> Setting:
        """Return its term and hyperparameter.

        Raises
        ------
        InputError
            When a function fails or returns something else than one finite number per place.
        """
        amplitude, shared, functions = f"basis_sd{suffix}", self.shared, tuple(self.functions)

        def place(at: Sites) -> Place:
            size = len(at.experiment)
            ids = np.zeros(size, dtype=np.int64) if shared else at.experiment
            return Place(ids, np.zeros((size, 0)), np.column_stack([_call(one, at, output) for one in functions]))

        place(sites)
        sd = HalfNormal(scale) if self.sd is None else self.sd
        return Setting((Term(output, _terms.BASIS, PLAIN, amplitude, (), place),), {amplitude: sd})

    def scaled(self, factor: float, scale: float) -> "BasisDiscrepancy":
        """Return it with `factor` times the standard deviation."""
        return replace(self, sd=_times(self.sd, factor, scale))


def _call(function: Callable[[Mapping[str, Any]], Any], at: Sites, output: str) -> Array:
    try:
        values = np.asarray(function(at.columns), dtype=np.float64)
    except Exception as error:
        raise InputError(
            f"BasisDiscrepancy of {output!r}: a function failed with {type(error).__name__}: {error}. It is given "
            f"{list(at.columns)}, an array each."
        ) from error
    size = len(at.experiment)
    if values.shape not in ((), (size,)) or not np.isfinite(values).all():
        raise InputError(
            f"BasisDiscrepancy of {output!r}: a function returned the shape {values.shape} (finite: "
            f"{bool(np.isfinite(values).all())}); required is one finite number per place, shape ({size},)."
        )
    return np.broadcast_to(values, size)


def _times(sd: float | Prior | None, factor: float, scale: float) -> float | Prior:
    """Return the standard deviation, or its prior, times a factor.

    Raises
    ------
    InputError
        For a prior that has no scale to multiply.
    """
    sd = HalfNormal(scale) if sd is None else sd
    if not isinstance(sd, Prior):
        return sd * factor
    if isinstance(sd, HalfNormal):
        return replace(sd, sd=sd.sd * factor)
    if isinstance(sd, Uniform | LogUniform):
        return replace(sd, low=sd.low * factor, high=sd.high * factor)
    if isinstance(sd, LogNormal):
        return replace(sd, median=sd.median * factor)
    if isinstance(sd, TruncatedNormal):
        return replace(sd, mean=sd.mean * factor, sd=sd.sd * factor, low=sd.low * factor, high=sd.high * factor)
    if isinstance(sd, HalfStudentT):
        return replace(sd, sigma=sd.sigma * factor)
    if isinstance(sd, Gamma | Exponential):
        return replace(sd, rate=sd.rate / factor)
    if isinstance(sd, InverseGamma | HalfCauchy):
        return replace(sd, beta=sd.beta * factor)
    raise InputError(f"The prior {sd!r} of a discrepancy's sd cannot be scaled. Use HalfNormal, LogNormal or Gamma.")


Discrepancy = GPDiscrepancy | OffsetDiscrepancy | ScaleDiscrepancy | BasisDiscrepancy
type Discrepancies = Discrepancy | Sequence[Discrepancy] | Mapping[str, Discrepancy | Sequence[Discrepancy]]
"""What `Calibration` takes as discrepancy: one, several, or by output."""
