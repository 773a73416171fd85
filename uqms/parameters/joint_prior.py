"""Joint priors of several parameters: a multivariate normal on the scales on which the surrogate takes them.

==========  ======================================================================  ========
symbol      meaning                                                                 shape
==========  ======================================================================  ========
x           parameters in their own units                                           (..., k)
w           their log, logit or themselves, less the mean, over the sd              (..., k)
e           independent standard normals, w = L e                                   (..., k)
L           Cholesky factor of the correlation of w                                 (k, k)
a, b        ends of a box on the scale of w                                         (k,)
u           in the unit cube: Phi(e), or its part of the interval that a box leaves (..., k)
==========  ======================================================================  ========

Each parameter alone is normal, log-normal or logit-normal. Given those before it, it is so too, with L's row: that is
how the block is drawn, mapped to the cube (Rosenblatt 1952, doi:10.1214/aoms/1177729394) and restricted to a box, one
parameter after the other. What the order loses in a box, the factors `log_inside` give back (Genz 1992,
doi:10.1080/10618600.1992.10477010).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Self, cast, final

import numpy as np
from scipy import special

from uqms import _checks as check
from uqms._teaching import taught
from uqms._typing import Array, ArrayLike, RandomState, ScaleName, as_generator
from uqms.errors import InputError
from uqms.parameters.functions import NumPyFunctions
from uqms.parameters.priors import LogitNormal, LogNormal, Normal, Prior
from uqms.parameters.scale import SCALES

__all__ = ["MultivariateNormal"]

_NORMAL_ON: dict[ScaleName, type[Normal | LogNormal | LogitNormal]] = {
    "identity": Normal,
    "log": LogNormal,
    "logit": LogitNormal,
}
POINTS = 2**13  # of the quasi Monte Carlo for the mass of a box: correct to about 1e-6
DIRECTIONS = 64
MISFIT = 0.08
LEAST_DRAWS = 100


@taught
@final
@dataclass(frozen=True, repr=False)
class MultivariateNormal:
    """Several parameters that are known together: correlated normal, log-normal or logit-normal.

    Use it for what an earlier fit reports (estimates with their covariance), for parameters that an allometric law
    ties together, or, by `from_posterior`, for the posterior of earlier data. It stands before the other priors:
    ``uq.ParameterSpace(uq.MultivariateNormal(...), ka=uq.LogNormal(...))``.

    Parameters
    ----------
    names
        Names of the k parameters.
    mean
        Means (k,) on their scales: of the logarithm where the scale is "log", so ``np.log(median)`` there.
    covariance
        Covariance (k, k) on these scales.
    scale
        "identity", "log" (positive parameters) or "logit" (fractions), one for all or by name. Identity where left out.
    units, descriptions
        By name; shown in tables and figures.

    Raises
    ------
    InputError
        When names repeat, sizes differ, or the covariance is not symmetric and positive definite.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> block = uq.MultivariateNormal(
    ...     ("CL", "V"), mean=np.log([5.0, 30.0]), covariance=[[0.09, 0.04], [0.04, 0.04]], scale="log"
    ... )
    >>> space = uq.ParameterSpace(block, ka=uq.LogNormal(median=1.0, sigma=0.5))
    >>> space.names
    ('CL', 'V', 'ka')
    >>> space.priors["CL"].label
    'LogNormal(median=5, sigma=0.3)'
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    scale: tuple[ScaleName, ...] = ()
    units: tuple[str, ...] = field(default=(), kw_only=True)
    descriptions: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        names = _names(self.names)
        k = len(names)
        mean = check.real_array(self.mean, "MultivariateNormal: mean")
        covariance = check.real_array(self.covariance, "MultivariateNormal: covariance")
        if mean.shape != (k,) or covariance.shape != (k, k):
            raise InputError(
                f"MultivariateNormal: mean has the shape {mean.shape} and covariance {covariance.shape}; {k} names "
                f"({', '.join(names)}) require {(k,)} and {(k, k)}."
            )
        _check_covariance(names, mean, covariance)
        scale = _by_name("scale", self.scale, names, "identity")
        wrong = {n: s for n, s in zip(names, scale, strict=True) if s not in SCALES}
        if wrong:
            raise InputError(f"MultivariateNormal: scale is {wrong}; give one of {', '.join(SCALES)}.")
        symmetric = 0.5 * (covariance + covariance.T)
        values = {
            "names": names,
            "mean": tuple(map(float, mean)),
            "covariance": tuple(tuple(map(float, row)) for row in symmetric),
            "scale": scale,
            "units": _by_name("units", self.units, names, ""),
            "descriptions": _by_name("descriptions", self.descriptions, names, ""),
        }
        for key, value in values.items():
            object.__setattr__(self, key, value)
        _ = self._priors  # a mean that is no value of a parameter is found now

    # ------------------------------------------------------------------ other ways to say it

    @classmethod
    def correlated(cls, correlation: ArrayLike, /, **priors: Prior) -> Self:
        """Return the block whose parameters have these priors and this correlation on their scales.

        Parameters
        ----------
        correlation
            Matrix (k, k), or for two parameters the number.
        **priors
            `Normal`, `LogNormal` or `LogitNormal` by name.

        Raises
        ------
        InputError
            When a prior is of another family, or the correlation is impossible.

        Examples
        --------
        >>> import uqms as uq
        >>> uq.MultivariateNormal.correlated(0.6, CL=uq.LogNormal(5.0, 0.3), V=uq.LogNormal(30.0, 0.2)).names
        ('CL', 'V')
        """
        for name, prior in priors.items():
            if prior.normal_on_scale is None:
                raise InputError(
                    f"MultivariateNormal.correlated: {name} is {prior!r}; a correlation is defined here between "
                    "Normal, LogNormal and LogitNormal priors."
                )
        given = check.real_array(correlation, "MultivariateNormal.correlated: correlation")
        if given.ndim == 0:
            given = np.array([[1.0, given], [given, 1.0]])
        k = len(priors)
        if given.shape != (k, k) or not np.allclose(np.diagonal(given), 1.0, rtol=0.0, atol=1e-12):
            raise InputError(
                f"MultivariateNormal.correlated: correlation is {given.tolist()}; {k} parameters require a matrix "
                f"{(k, k)} with ones on its diagonal."
            )
        scale = tuple(prior.scale for prior in priors.values())
        where = [one for prior in priors.values() if (one := prior.normal_on_scale) is not None]
        sd = np.array([one.sd for one in where])
        return cls(
            tuple(priors),
            cast(Any, [one.mean for one in where]),
            cast(Any, given * np.outer(sd, sd)),
            scale,
            units=tuple(prior.unit for prior in priors.values()),
            descriptions=tuple(prior.description for prior in priors.values()),
        )

    @classmethod
    def from_draws(
        cls,
        draws: Mapping[str, ArrayLike],
        *,
        scale: ScaleName | Mapping[str, ScaleName] | Sequence[ScaleName] = "identity",
        units: Mapping[str, str] | None = None,
        descriptions: Mapping[str, str] | None = None,
    ) -> Self:
        """Return the block with mean and covariance of draws, when a normal distribution describes them.

        Draws are compared with the block along each parameter, along 64 directions and in their distance from the
        centre: an error is raised when a probability is off by more than 0.08 somewhere (two modes, a bent ridge, a
        long tail, a posterior that is cut off at an end). Then use a `NormalMixture`, or calibrate all data jointly.

        Parameters
        ----------
        draws
            By name, arrays of one size in the parameters' own units.
        scale
            As for the class; choose "log" for positive parameters.
        units, descriptions
            By name.

        Raises
        ------
        InputError
            When there are fewer than 100 draws, some are not finite on their scale, or they are not normal there.
        """
        own = "MultivariateNormal.from_draws"
        names = _names(tuple(draws))
        columns = [check.real_array(draws[name], f"{own}: {name}").ravel() for name in names]
        if len({len(column) for column in columns}) > 1 or len(columns[0]) < LEAST_DRAWS:
            raise InputError(
                f"{own}: the numbers of draws are {[len(c) for c in columns]}; give at least {LEAST_DRAWS} of each, "
                "equally many."
            )
        scales = cast(tuple[ScaleName, ...], _by_name("scale", scale, names, "identity"))
        s = np.column_stack([SCALES[one].forward(column) for column, one in zip(columns, scales, strict=True)])
        bad = [name for name, column in zip(names, s.T, strict=True) if not np.isfinite(column).all()]
        if bad:
            raise InputError(f"{own}: draws of {bad} are not finite on their scale; choose another one.")
        covariance = np.atleast_2d(np.cov(s.T))
        block = cls(
            names,
            cast(Any, s.mean(axis=0)),
            cast(Any, covariance),
            scales,
            units=cast(Any, units or {}),
            descriptions=cast(Any, descriptions or {}),
        )
        distance, where = block._misfit(s)
        if distance > MISFIT:
            raise InputError(
                f"{own}: no multivariate normal describes these draws: {where}, a probability is off by "
                f"{distance:.2f} (limit {MISFIT}). Use uq.NormalMixture, which describes several modes and skewness; "
                "calibrate the earlier and the new data jointly, in one Calibration with both among its observations; "
                "or try another scale."
            )
        return block

    @classmethod
    def from_posterior(cls, posterior: Any, names: Sequence[str] | None = None) -> Self:
        """Return the posterior of earlier data as the prior for new ones, where it is normal; else see `NormalMixture`.

        It is right when the new data's errors are independent of the old data's given the parameters. The error of a
        surrogate is not: when both calibrations use the same surrogate and its error matters (the verdict says so),
        calibrate all data jointly.

        Parameters
        ----------
        posterior
            What `Calibration(...).sample()` returned.
        names
            Which parameters; all that were inferred (without noise) by default. Those left out are averaged over, and
            need a prior of their own in the next space.

        Raises
        ------
        InputError
            When the verdict on the posterior is "fail", a name is none of its parameters, or the draws are not normal
            on their scales (see `from_draws`).
        """
        return cls.from_draws(**draws_of_posterior("MultivariateNormal", posterior, names))

    def given(self, values: Mapping[str, float]) -> "MultivariateNormal | None":
        """Return the block of the other parameters when some are known: the conditional normal; None if none is left.

        Raises
        ------
        InputError
            When a name is unknown, or a value impossible on its scale.
        """
        unknown = [name for name in values if name not in self.names]
        if unknown:
            raise InputError(f"MultivariateNormal.given: {unknown} are not in the block of {', '.join(self.names)}.")
        known = [self.names.index(name) for name in values]
        rest = [j for j in range(len(self.names)) if j not in known]
        if not rest:
            return None
        if not known:
            return self
        s = np.array([SCALES[self.scale[j]].forward(float(values[self.names[j]])) for j in known])
        if not np.isfinite(s).all():
            raise InputError(f"MultivariateNormal.given: {dict(values)} is impossible on the scale of the block.")
        mean, covariance = np.array(self.mean), np.array(self.covariance)
        gain = np.linalg.solve(covariance[np.ix_(known, known)], covariance[np.ix_(known, rest)]).T
        return MultivariateNormal(
            tuple(self.names[j] for j in rest),
            cast(Any, mean[rest] + gain @ (s - mean[known])),
            cast(Any, covariance[np.ix_(rest, rest)] - gain @ covariance[np.ix_(known, rest)]),
            tuple(self.scale[j] for j in rest),
            units=tuple(self.units[j] for j in rest),
            descriptions=tuple(self.descriptions[j] for j in rest),
        )

    # ------------------------------------------------------------------ what it is

    @property
    def priors(self) -> Mapping[str, Prior]:
        """The prior of each parameter alone (read-only)."""
        return MappingProxyType(self._priors)

    @cached_property
    def _priors(self) -> dict[str, Prior]:
        out: dict[str, Prior] = {}
        rows = zip(self.names, self.mean, self.sd, self.scale, self.units, self.descriptions, strict=True)
        for name, mean, sd, scale, unit, description in rows:
            words = {"unit": unit, "description": description}
            try:
                out[name] = _NORMAL_ON[scale](float(SCALES[scale].inverse(mean)), float(sd), **words)
            except InputError as error:
                raise InputError(
                    f"MultivariateNormal: the mean of {name} is {mean:g} on its {scale} scale, which is no value of "
                    f"a parameter ({error}). Means are those of the {scale}."
                ) from None
        return out

    @property
    def sd(self) -> Array:
        """Standard deviations (k,) on the scales."""
        return np.sqrt(np.diagonal(np.array(self.covariance)))

    @property
    def correlation(self) -> Array:
        """Correlation matrix (k, k) on the scales."""
        return np.array(self.covariance) / np.outer(self.sd, self.sd)

    @cached_property
    def factor(self) -> Array:
        """Lower Cholesky factor (k, k) of the correlation."""
        return np.linalg.cholesky(self.correlation)

    def standardised(self, x: Array) -> Array:
        """Return w (..., k) of parameters x (..., k)."""
        s = on_scales(x, self.scale)
        with np.errstate(all="ignore"):
            return np.asarray((s - np.array(self.mean)) / self.sd)

    def _own(self, w: Array) -> Array:
        return in_own_units(np.array(self.mean) + self.sd * w, self.scale)

    def log_terms(self, x: ArrayLike) -> Array:
        """Return the log-density of each parameter given those before it (..., k); their sum is the joint one.

        -inf outside of the support, NaN where x is NaN.
        """
        x = check.real_array(x, "x")
        w = self.standardised(x)
        alone = np.stack([prior.log_density(x[..., j]) for j, prior in enumerate(self._priors.values())], axis=-1)
        outside = np.any(np.isneginf(alone), axis=-1, keepdims=True)
        e = self._independent(np.where(outside, 0.0, w))
        with np.errstate(invalid="ignore"):
            terms = alone + 0.5 * (w**2 - e**2) - np.log(np.diagonal(self.factor))
        return np.asarray(np.where(outside, -np.inf, terms))

    def log_density(self, x: ArrayLike) -> Array:
        """Return the joint log-density (...) of parameters x (..., k), in their own units."""
        return np.asarray(self.log_terms(x).sum(axis=-1))

    def conditional_log_density(self, x: Sequence[Any], xp: Any = NumPyFunctions) -> Any:
        """Return the log-density of the last of the first parameters x, given those before it.

        That of the same parameter in `log_terms`, for arrays or expressions inside of the support.
        """
        j = len(x) - 1
        rows = zip(x, self.scale, self.mean, self.sd, strict=False)
        w = [(SCALES[scale].forward(one, xp) - mean) / sd for one, scale, mean, sd in rows]
        row = self.factor[j]
        weights = np.linalg.solve(self.factor[:j, :j].T, row[:j]) if j else ()
        e = (w[j] - sum(float(c) * one for c, one in zip(weights, w[:j], strict=True))) / row[j]
        normal = -0.5 * e**2 - math.log(row[j] * self.sd[j]) - 0.5 * math.log(2.0 * math.pi)
        return normal + SCALES[self.scale[j]].log_derivative(x[j], xp)

    def _independent(self, w: Array) -> Array:
        flat = w.reshape(-1, w.shape[-1])
        return np.asarray(np.linalg.solve(self.factor, flat.T).T.reshape(w.shape))

    def draw(self, rng: RandomState | None = None, size: int | tuple[int, ...] = ()) -> Array:
        """Return independent draws, of shape ``(*size, k)``."""
        shape = (size,) if isinstance(size, int) else tuple(size)
        e = as_generator(rng).standard_normal((*shape, len(self.names)))
        return self._own(e @ self.factor.T)

    # ------------------------------------------------------------------ the cube, and a box

    def from_cube(
        self, u: Array, lower: ArrayLike | None = None, upper: ArrayLike | None = None, rest: Array | None = None
    ) -> Array:
        """Return x (..., k) of u (..., k), one parameter after the other; within a box where one is given.

        `rest` is 1 - u with the digits that u does not have near 1, where these are known.
        """
        a, b = self._ends(lower, upper)
        w = np.empty_like(u)
        e = np.empty_like(u)
        for j, row in enumerate(self.factor):
            centre = e[..., :j] @ row[:j]
            with np.errstate(invalid="ignore"):  # beyond all numbers there is no next one: NaN
                low, high = (a[j] - centre) / row[j], (b[j] - centre) / row[j]
            e[..., j] = _between(u[..., j], low, high, None if rest is None else rest[..., j])
            w[..., j] = centre + row[j] * e[..., j]
        return self._own(w)

    def to_cube(self, x: Array, lower: ArrayLike | None = None, upper: ArrayLike | None = None) -> Array:
        """Return u (..., k) of x (..., k), the inverse of `from_cube`."""
        e = self._independent(self.standardised(x))
        low, high = self._conditional_ends(e, lower, upper)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.exp(_log_mass(low, e) - _log_mass(low, high)))

    def rest(self, x: Array, lower: ArrayLike | None = None, upper: ArrayLike | None = None) -> Array:
        """Return 1 - `to_cube` (..., k), with all digits where it is tiny."""
        e = self._independent(self.standardised(x))
        low, high = self._conditional_ends(e, lower, upper)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.exp(_log_mass(e, high) - _log_mass(low, high)))

    def log_inside(self, x: Array, lower: ArrayLike, upper: ArrayLike) -> Array:
        """Return log prod_j P(x_j in its interval | those before it), shape (...).

        Drawn one after the other within a box, x has the density of the block divided by this.
        """
        e = self._independent(self.standardised(x))
        return np.asarray(_log_mass(*self._conditional_ends(e, lower, upper)).sum(axis=-1))

    def largest_log_inside(self, lower: ArrayLike, upper: ArrayLike) -> float:
        """Return an upper bound of `log_inside`: each interval centred where it holds most."""
        a, b = self._ends(lower, upper)
        half = 0.5 * (b - a) / np.diagonal(self.factor)
        first = float(_log_mass(a[:1], b[:1])[0])
        return first + float(_log_mass(-half, half)[1:].sum())

    def mass_inside(self, lower: ArrayLike, upper: ArrayLike) -> float:
        """Return the mass of a box: by quasi Monte Carlo, correct to about 1e-6 of it; exact without correlation.

        Genz (1992), doi:10.1080/10618600.1992.10477010.
        """
        from scipy.stats import qmc

        k = len(self.names)
        sobol = qmc.Sobol(k, scramble=True, rng=np.random.default_rng(0))  # a fixed rule: the mass is no random number
        x = self.from_cube(sobol.random(POINTS), lower, upper)
        logs = self.log_inside(x, lower, upper)
        top = float(logs.max())
        return math.exp(top) * float(np.mean(np.exp(logs - top))) if np.isfinite(top) else 0.0

    def _ends(self, lower: ArrayLike | None, upper: ArrayLike | None) -> tuple[Array, Array]:
        k = len(self.names)
        a = np.full(k, -np.inf) if lower is None else self.standardised(np.asarray(lower, dtype=np.float64))
        b = np.full(k, np.inf) if upper is None else self.standardised(np.asarray(upper, dtype=np.float64))
        return a, b

    def _conditional_ends(self, e: Array, lower: ArrayLike | None, upper: ArrayLike | None) -> tuple[Array, Array]:
        a, b = self._ends(lower, upper)
        own = np.diagonal(self.factor)
        with np.errstate(invalid="ignore"):
            centre = e @ self.factor.T - own * e
            return (a - centre) / own, (b - centre) / own

    def _misfit(self, s: Array) -> tuple[float, str]:
        """Return the largest distance of distribution functions between draws (n, k) on the scales and the block."""
        w = (s - np.array(self.mean)) / self.sd
        e = self._independent(w)
        k = len(self.names)
        axes = np.random.default_rng(0).standard_normal((k, DIRECTIONS))  # fixed: the same draws get the same answer
        levels = {f"along {name}": special.ndtr(w[:, j]) for j, name in enumerate(self.names)}
        levels["in the distance from their centre"] = special.chdtr(k, np.sum(e**2, axis=1))
        if k > 1:
            along = special.ndtr(e @ (axes / np.linalg.norm(axes, axis=0)))
            levels |= {f"along combination {i + 1} of {DIRECTIONS}": along[:, i] for i in range(DIRECTIONS)}
        found = {where: _kolmogorov(level) for where, level in levels.items()}
        worst = max(found, key=lambda where: found[where])
        return found[worst], worst

    # ------------------------------------------------------------------ shown, stored

    def to_dict(self) -> dict[str, Any]:
        """Return the block as a JSON object."""
        return {
            "prior": "MultivariateNormal",
            **{key: list(getattr(self, key)) for key in ("names", "mean", "scale", "units", "descriptions")},
            "covariance": [list(row) for row in self.covariance],
        }

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Return the block that `to_dict` wrote.

        Raises
        ------
        InputError
            When keys are missing or unknown, or the block is impossible.
        """
        keys = ["prior", "names", "mean", "covariance", "scale", "units", "descriptions"]
        values = check.fields("MultivariateNormal", data, keys)
        if values.pop("prior") != "MultivariateNormal":
            raise InputError("MultivariateNormal: this is the JSON of something else.")
        return cls(**values)

    def __repr__(self) -> str:
        rows = ", ".join(f"{name}={prior.label}" for name, prior in self._priors.items())
        k = len(self.names)
        pairs = [
            f"{self.names[i]}~{self.names[j]} {self.correlation[i, j]:.2g}" for i in range(k) for j in range(i + 1, k)
        ]
        shown = ", ".join(pairs[:6]) + (f" and {len(pairs) - 6} more" if len(pairs) > 6 else "")
        return f"MultivariateNormal({rows}{'; correlation ' + shown if pairs else ''})"


def draws_of_posterior(own: str, posterior: Any, names: Sequence[str] | None) -> dict[str, Any]:
    """Return the arguments of `from_draws` for a posterior.

    Raises
    ------
    InputError
        When the verdict is "fail", or a name is none of its parameters.
    """
    problem = posterior.problem
    wanted = tuple(problem.parameters) if names is None else _names(names)
    unknown = [name for name in wanted if name not in problem.parameters]
    if unknown:
        raise InputError(
            f"{own}.from_posterior: {unknown} are no parameters of it, which are {list(problem.parameters)}."
        )
    if posterior.verdict.status == "fail":
        raise InputError(
            f"{own}.from_posterior: the verdict on the posterior is 'fail', so that it is no knowledge to build on. "
            "Print posterior.verdict for what to do first."
        )
    return {
        "draws": {name: posterior.draws[name].values for name in wanted},
        "scale": {name: problem.priors[name].scale for name in wanted},
        "units": {name: problem.priors[name].unit for name in wanted},
        "descriptions": {name: problem.priors[name].description for name in wanted},
    }


def _names(names: object) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Sequence) or not len(names):
        raise InputError(f"MultivariateNormal: names is {names!r}; give a tuple of names such as ('CL', 'V').")
    out = tuple(check.name(name, "parameter") for name in names)
    twice = sorted({name for name in out if out.count(name) > 1})
    if twice:
        raise InputError(f"MultivariateNormal: {', '.join(twice)} stands twice among its names; give each once.")
    return out


def _by_name(what: str, given: object, names: tuple[str, ...], default: str) -> tuple[Any, ...]:
    """Return one text for each name, from one for all, a mapping or a sequence."""
    if isinstance(given, str):
        given = (given,) * len(names)
    if isinstance(given, Mapping):
        unknown = [key for key in given if key not in names]
        if unknown:
            raise InputError(f"MultivariateNormal: {what} has {unknown}, which are not among {', '.join(names)}.")
        given = tuple(given.get(name, default) for name in names)
    if not isinstance(given, Sequence):
        raise InputError(f"MultivariateNormal: {what} is {given!r}; give a text by name.")
    given = tuple(given) or (default,) * len(names)
    if len(given) != len(names):
        raise InputError(f"MultivariateNormal: {what} has {len(given)} entries for the {len(names)} names.")
    return tuple(check.text("MultivariateNormal", what, one) for one in given)


def _check_covariance(names: tuple[str, ...], mean: Array, covariance: Array) -> None:
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise InputError("MultivariateNormal: mean or covariance has entries that are not finite.")
    variances = np.diagonal(covariance)
    if np.any(variances <= 0.0):
        bad = [name for name, v in zip(names, variances, strict=True) if v <= 0.0]
        raise InputError(f"MultivariateNormal: the variances of {bad} are not above 0; fix what is known for sure.")
    size = np.sqrt(np.outer(variances, variances))
    off = np.abs(covariance - covariance.T) / size
    if np.any(off > 1e-8):
        i, j = np.unravel_index(int(np.argmax(off)), off.shape)
        raise InputError(
            f"MultivariateNormal: the covariance is not symmetric: {covariance[i, j]:g} for {names[i]}, {names[j]} and "
            f"{covariance[j, i]:g} for {names[j]}, {names[i]}."
        )
    least = float(np.linalg.eigvalsh(0.5 * (covariance + covariance.T) / size)[0])
    if least < 1e-10:
        raise InputError(
            f"MultivariateNormal: the covariance is not positive definite (smallest eigenvalue of the correlation "
            f"{least:.2g}). Check its entries; when one parameter follows from the others, compute it in the simulator."
        )


def on_scales(x: Array, scales: Sequence[ScaleName]) -> Array:
    """Return s (..., k) of parameters x (..., k)."""
    return np.stack([SCALES[name].forward(x[..., j]) for j, name in enumerate(scales)], axis=-1)


def in_own_units(s: Array, scales: Sequence[ScaleName]) -> Array:
    """Return x (..., k) of s (..., k)."""
    return np.stack([SCALES[name].inverse(s[..., j]) for j, name in enumerate(scales)], axis=-1)


def _between(u: Array, a: Array, b: Array, rest: Array | None = None) -> Array:
    """Return the quantile at u of a standard normal within [a, b]; from the upper tail where it lies there.

    `rest` is 1 - u with the digits that u does not have near 1, where these are known.
    """
    mirrored = a > 0.0
    low, high = np.where(mirrored, -b, a), np.where(mirrored, -a, b)
    other = 1.0 - u if rest is None else rest
    p, q = np.where(mirrored, other, u), np.where(mirrored, u, other)
    first, last = special.ndtr(low), special.ndtr(high)
    e = special.ndtri(first + p * (last - first))
    if rest is not None:
        above = special.ndtr(-high) + q * (last - first)
        e = np.where(above < 0.5, -special.ndtri(above), e)
    e = np.clip(e, low, high)
    return np.asarray(np.where(mirrored, -e, e))


def _log_mass(a: Array, b: Array) -> Array:
    """Return log P(a < e < b) of a standard normal, from the nearer tail."""
    mirrored = a > 0.0
    low, high = np.where(mirrored, -b, a), np.where(mirrored, -a, b)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log(special.ndtr(high) - special.ndtr(low)))


def _kolmogorov(level: Array) -> float:
    level = np.sort(level)
    steps = np.arange(len(level) + 1) / len(level)
    return float(max(np.max(steps[1:] - level), np.max(level - steps[:-1])))
