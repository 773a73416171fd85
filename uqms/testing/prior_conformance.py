"""Whether a prior of your own is right: every promise of `uqms.Prior`, measured.

==========  ======================================================================  ======
symbol      meaning                                                                 shape
==========  ======================================================================  ======
p, x        probabilities and the prior's quantiles                                 (n,)
z           x in the unconstrained space                                            (n,)
==========  ======================================================================  ======

Integrals are those of `scipy.integrate.quad` over the unconstrained space, in pieces between quantiles.
"""

import copy
import json
from collections.abc import Callable
from functools import cached_property
from typing import Any, final

import numpy as np
from scipy import integrate

from uqms import _import_names as import_names
from uqms._typing import Array
from uqms.errors import InputError
from uqms.parameters import Prior
from uqms.parameters.priors import prior_from_dict
from uqms.parameters.scale import SCALES, Interval
from uqms.testing.surrogates import Check, Conformance

__all__ = ["check_prior", "judged"]

LEVELS = np.array([1e-6, 1e-3, 0.01, 0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95, 0.99, 0.999, 1.0 - 1e-6])
PROBES = np.linspace(0.003, 0.997, 41)
BEYOND = 1.0  # how far outside of the support the density is asked for
STEPS = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5)  # of z
MASS, INVERSE, MOMENTS, SAME, SLOPE = 1e-7, 1e-8, 1e-6, 1e-12, 1e-6


def check_prior(prior: Prior) -> Conformance:
    """Check that a prior of your own does what designs, calibration and files rely on.

    Use it in a test of your class, for a few values of its arguments. It finds a density without its normalising
    constant, a distribution function or quantiles of another distribution, wrong moments, a density that differs
    between arrays and expressions or has no derivative, and a class that a file cannot name.

    Parameters
    ----------
    prior
        An instance of a subclass of `uqms.Prior`.

    Returns
    -------
    Conformance
        `print` it, ask it for `ok`, `failed` or `table`, or let it `raise_failed`. Errors that the prior raises are
        failed checks that quote them.

    Raises
    ------
    InputError
        When it is no prior.

    Examples
    --------
    >>> import uqms as uq
    >>> uq.testing.check_prior(uq.Gamma(shape=2.0, rate=3.0)).ok
    True
    """
    if not isinstance(prior, Prior):
        raise InputError(f"check_prior: got {prior!r} ({type(prior).__name__}); give an instance of a uqms.Prior.")
    probe = _Probe(prior)
    return Conformance(tuple(judged(*one, probe) for one in CHECKS), "prior")


@final
class _Probe:
    """A prior with its quantiles and integrals."""

    def __init__(self, prior: Prior) -> None:
        self.prior = prior
        self.interval = Interval.of(*prior.support, SCALES[prior.scale])

    @cached_property
    def nodes(self) -> Array:
        """Quantiles in the unconstrained space, apart from each other."""
        z = np.unique(self.interval.to_real(np.asarray(self.prior.quantile(LEVELS))))
        return z[np.isfinite(z)]

    def density(self, z: float) -> float:
        """Density of z."""
        x = self.interval.from_real(np.float64(z))
        with np.errstate(all="ignore"):
            value = float(np.exp(self.prior.log_density(x) + self.interval.log_jacobian(np.float64(z))))
        return value if np.isfinite(value) else 0.0

    def pieces(self, function: Callable[[float], float]) -> Array:
        """Integrals of function(x) against the density: below the first node, between them, above the last."""

        def at(z: float) -> float:
            weight = self.density(z)
            return weight * function(float(self.interval.from_real(np.float64(z)))) if weight > 0.0 else 0.0

        z = self.nodes
        with np.errstate(all="ignore"):
            first, last = z[1] - z[0], z[-1] - z[-2]
            tails = (
                integrate.quad(lambda t: first * at(z[0] - first * t), 0.0, np.inf, limit=200)[0],
                integrate.quad(lambda t: last * at(z[-1] + last * t), 0.0, np.inf, limit=200)[0],
            )
            inner = [
                integrate.quad(at, a, b, epsabs=1e-12, epsrel=1e-12, limit=200)[0]
                for a, b in zip(z, z[1:], strict=False)
            ]
        return np.array([tails[0], *inner, tails[1]])

    @cached_property
    def masses(self) -> Array:
        """Mass of each piece."""
        return self.pieces(lambda _: 1.0)


def judged[P](name: str, limit: float, why: str, measure: Callable[[P], float], probe: P) -> Check:
    """Return whether a measured figure is within its limit; an error is a failed check that quotes it."""
    try:
        with np.errstate(all="ignore"):
            measured = measure(probe)
    except Exception as error:
        return Check(name, "every use", False, np.nan, limit, f"{type(error).__name__}: {error}")
    ok = bool(measured <= limit)
    return Check(name, "every use", ok, float(measured), limit, "" if ok else why)


def _value(probe: _Probe) -> float:
    same = copy.deepcopy(probe.prior)
    return float(not (same == probe.prior and hash(same) == hash(probe.prior)))


def _support(probe: _Probe) -> float:
    prior, scale = probe.prior, SCALES[probe.prior.scale]
    low, high = prior.support
    beyond = np.array([end + sign * BEYOND for end, sign in ((low, -1.0), (high, 1.0)) if np.isfinite(end)] or [np.inf])
    wrong = not (low < high and scale.takes(low, high))
    wrong |= not np.all(np.isneginf(prior.log_density(beyond))) or not np.isnan(prior.log_density(np.nan))
    wrong |= not np.array_equal(prior.quantile([0.0, 1.0]), [low, high])
    inside = np.asarray(prior.quantile(PROBES))
    return float(wrong or not np.all((inside >= low) & (inside <= high) & np.isfinite(prior.log_density(inside))))


def _mass(probe: _Probe) -> float:
    return abs(float(probe.masses.sum()) - 1.0)


def _cdf(probe: _Probe) -> float:
    below = np.asarray(probe.prior.cdf(probe.interval.from_real(probe.nodes)))
    return float(np.max(np.abs(np.cumsum(probe.masses)[:-1] - below)))


def _quantile(probe: _Probe) -> float:
    prior = probe.prior
    # Neighbouring numbers have probabilities that differ, which matters where the density is high.
    x = np.asarray(prior.quantile(LEVELS))
    rounding = 4.0 * np.spacing(np.abs(x)) * np.exp(np.minimum(prior.log_density(x), 700.0))
    off = np.abs(np.asarray(prior.cdf(x)) - LEVELS) - rounding
    return float(max(np.max(off), 0.0, *(np.diff(x) <= 0.0)))


def _moments(probe: _Probe) -> float:
    mean, sd = probe.prior.moments
    if not np.isfinite(mean):
        return 0.0
    off = abs(float(probe.pieces(lambda x: x - mean).sum()))
    if not np.isfinite(sd):
        return float(off / (1.0 + abs(mean)))
    spread = np.sqrt(float(probe.pieces(lambda x: (x - mean) ** 2).sum()))
    return float(max(off / sd, abs(spread / sd - 1.0)))


def _expression(probe: _Probe) -> tuple[Any, Any]:
    """Return the compiled log-density of x, and that of z with its derivative."""
    import pytensor
    import pytensor.tensor as pt

    from uqms.calibration.bridge import PyTensorFunctions as xp

    prior, at = probe.prior, pt.dvector("at")
    value = prior.log_density(probe.interval.from_real(at, xp), xp) + probe.interval.log_jacobian(at, xp)
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        own = pytensor.function([at], prior.log_density(at, xp))
        return own, pytensor.function([at], [value, pytensor.grad(value.sum(), at)])


def _same(probe: _Probe) -> float:
    low, high = probe.prior.support
    x = np.concatenate([probe.prior.quantile(PROBES), [low - BEYOND, high + BEYOND, 0.0]])
    expected, found = np.asarray(probe.prior.log_density(x)), _expression(probe)[0](x)
    with np.errstate(all="ignore"):
        off = np.abs(found - expected) / (1.0 + np.abs(expected))
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))  # at an end of the support
    return float(np.max(np.where(same, 0.0, np.where(np.isfinite(off), off, np.inf))))


def _slope(probe: _Probe) -> float:
    z = np.asarray(probe.interval.to_real(np.asarray(probe.prior.quantile(PROBES))))
    function = _expression(probe)[1]
    slope, size = function(z)[1], np.abs(np.gradient(function(z)[0])) + 1.0
    off = [
        np.abs(slope - (function(z + h)[0] - function(z - h)[0]) / (2.0 * h)) / (size + np.abs(slope)) for h in STEPS
    ]
    return float(np.max(np.min(np.nan_to_num(off, nan=np.inf), axis=0)))


def _file(probe: _Probe) -> float:
    saved = probe.prior.to_dict()
    if import_names.is_name(saved["prior"]) and not import_names.importable(type(probe.prior)):
        return 1.0
    return float(prior_from_dict(json.loads(json.dumps(saved, allow_nan=False))) != probe.prior)


CHECKS: tuple[tuple[str, float, str, Callable[[_Probe], float]], ...] = (
    (
        "it is a value",
        0.0,
        "A copy differs from it, or has another hash: decorate the class with @dataclass(frozen=True, repr=False).",
        _value,
    ),
    (
        "the support is that of density and quantiles",
        0.0,
        "The support is (low, high) with low < high, inside of the scale's domain; the density is finite at quantiles "
        "and -inf outside; quantile(0) and quantile(1) are its ends; NaN stays NaN.",
        _support,
    ),
    (
        "the density integrates to one",
        MASS,
        "Evidence, model comparison and the restriction to a box are wrong: add the constant to _log_density.",
        _mass,
    ),
    ("the distribution function is the integral of the density", MASS, "_cdf belongs to another density.", _cdf),
    (
        "quantiles invert the distribution function",
        INVERSE,
        "Designs and prior draws follow _quantile: it has to be the inverse of _cdf, and to increase.",
        _quantile,
    ),
    ("moments are those of the density", MOMENTS, "moments is (mean, standard deviation), not the variance.", _moments),
    (
        "expressions equal arrays",
        SAME,
        "_log_density has to use the functions of xp for everything that depends on x.",
        _same,
    ),
    (
        "the derivative is that of the density",
        SLOPE,
        "NUTS follows the derivative: _log_density has to be smooth, and to depend on x through the functions of xp.",
        _slope,
    ),
    (
        "a file can name it",
        0.0,
        "A new process has to import the class by its name: define it at the top level of a module, not in a script, a "
        "notebook or a function. Arguments are numbers, text, or tuples of them.",
        _file,
    ),
)
