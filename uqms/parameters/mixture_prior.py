"""Joint priors that are not normal: mixtures of multivariate normals on the scales on which the surrogate takes them.

==========  ======================================================================  ===========
symbol      meaning                                                                 shape
==========  ======================================================================  ===========
x           parameters in their own units                                           (..., k)
s           their log, logit or themselves                                          (..., k)
w, m, F     weights of the components, their means and Cholesky factors             (c), (c, k), (c, k, k)
a, b        ends of an interval of s_j                                              ()
u           in the unit cube, one parameter after the other                         (..., k)
==========  ======================================================================  ===========

Given those before it, each s_j is a mixture in one dimension too: its weights are those that the components have at
what is known, its means and widths those of normal conditionals. That is how it is mapped to the cube (Rosenblatt 1952,
doi:10.1214/aoms/1177729394) and restricted to a box, as a `MultivariateNormal` is.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Self, cast, final

import numpy as np
from scipy import special
from scipy.linalg import solve_triangular

from uqms import _checks as check
from uqms._teaching import taught
from uqms._typing import Array, ArrayLike, RandomState, ScaleName, as_generator
from uqms.errors import InputError
from uqms.parameters.expectation_maximisation import POINTS_EACH, gaussian_mixture
from uqms.parameters.functions import NumPyFunctions
from uqms.parameters.joint_prior import (
    DIRECTIONS,
    LEAST_DRAWS,
    MISFIT,
    POINTS,
    MultivariateNormal,
    _between,
    _by_name,
    _kolmogorov,
    _log_mass,
    _names,
    draws_of_posterior,
    in_own_units,
    on_scales,
)
from uqms.parameters.priors import Moments, Prior
from uqms.parameters.scale import SCALES

__all__ = ["Block", "NormalMixture"]

_logger = logging.getLogger(__name__)
COUNTS = (1, 2, 3, 4, 6, 8)
STARTS = 4
ITERATIONS, TOLERANCE = 100, 1e-6
MOST_DRAWS = 2000  # by which the number of components is chosen
BEYOND = 0.02
WORSE = 2  # numbers of components in a row that do no better, after which no more are tried
TAIL = 1e-8  # probability below which a quantile is searched by the logarithm of the mass beyond it
CLOSE = 1e-9  # of a component's width: a Newton step as short as that is the last one that matters
LOG_ROOT_TWO_PI = 0.5 * math.log(2.0 * math.pi)


@taught
@final
@dataclass(frozen=True, repr=False)
class NormalMixture:
    """Several parameters that are known together, not normally: a mixture of correlated normals.

    Use it, by `from_posterior`, to make the posterior of earlier data the prior for new ones where a
    `MultivariateNormal` does not describe it: two modes, a bent ridge, a long tail. It stands before the other priors,
    as a `MultivariateNormal` does.

    Parameters
    ----------
    names
        Names of the k parameters.
    weights
        Of the c components, (c,); they sum to one.
    means, covariances
        On the parameters' scales, (c, k) and (c, k, k).
    scale
        "identity", "log" (positive parameters) or "logit" (fractions), one for all or by name.
    units, descriptions
        By name; shown in tables and figures.

    Raises
    ------
    InputError
        When names repeat, sizes differ, weights are not positive or do not sum to one, or a covariance is not symmetric
        and positive definite.

    Examples
    --------
    >>> import uqms as uq
    >>> block = uq.NormalMixture(
    ...     ("k",), weights=(0.3, 0.7), means=((-1.0,), (1.0,)), covariances=(((0.04,),), ((0.09,),))
    ... )
    >>> uq.ParameterSpace(block, V=uq.LogNormal(30.0, 0.2)).names
    ('k', 'V')
    >>> block
    NormalMixture(k: mean 0.4, sd 0.957; 2 component(s) of weights 0.3, 0.7)
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    means: tuple[tuple[float, ...], ...]
    covariances: tuple[tuple[tuple[float, ...], ...], ...]
    scale: tuple[ScaleName, ...] = ()
    units: tuple[str, ...] = field(default=(), kw_only=True)
    descriptions: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        names = _names(self.names)
        weights = check.real_array(self.weights, "NormalMixture: weights")
        wrong = weights.ndim != 1 or not len(weights) or not np.all(weights > 0.0)
        if wrong or abs(float(weights.sum()) - 1.0) > 1e-8:
            raise InputError(f"NormalMixture: weights are {self.weights!r}; give positive numbers that sum to one.")
        if len(self.means) != len(weights) or len(self.covariances) != len(weights):
            raise InputError(
                f"NormalMixture: {len(weights)} weights, {len(self.means)} means and {len(self.covariances)} "
                "covariances; give one of each a component."
            )
        scale = _by_name("scale", self.scale, names, "identity")
        units, words = (_by_name(key, getattr(self, key), names, "") for key in ("units", "descriptions"))
        parts = tuple(
            MultivariateNormal(names, mean, covariance, cast(Any, scale), units=units, descriptions=words)
            for mean, covariance in zip(self.means, self.covariances, strict=True)
        )
        values = {
            "names": names,
            "weights": tuple(float(one) for one in weights / weights.sum()),
            "means": tuple(part.mean for part in parts),
            "covariances": tuple(part.covariance for part in parts),
            "scale": scale,
            "units": units,
            "descriptions": words,
        }
        for key, value in values.items():
            object.__setattr__(self, key, value)

    # ------------------------------------------------------------------ from draws

    @classmethod
    def from_draws(
        cls,
        draws: Mapping[str, ArrayLike],
        *,
        scale: ScaleName | Mapping[str, ScaleName] | Sequence[ScaleName] = "identity",
        units: Mapping[str, str] | None = None,
        descriptions: Mapping[str, str] | None = None,
    ) -> Self:
        """Return the mixture that describes draws, of as many components as they ask for (at most 8).

        The number is that of the smallest Bayesian information criterion; one component is the normal distribution.
        Then draws are compared with the mixture along each parameter, along 64 directions, and along each parameter
        given those before it: an error is raised when a probability is off by more than 0.08 somewhere. How many
        components there are is in the mixture's text, and logged with the largest of these differences. Beyond the
        draws the tails are those of normal distributions.

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
            When there are fewer than 100 draws, some are not finite on their scale, or the mixture does not describe
            them.

        Examples
        --------
        >>> import numpy as np, uqms as uq
        >>> rng = np.random.default_rng(1)
        >>> k = np.where(rng.random(2000) < 0.3, -1.0, 1.0) + 0.1 * rng.standard_normal(2000)
        >>> len(uq.NormalMixture.from_draws({"k": k}).weights)
        2
        """
        own = "NormalMixture.from_draws"
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
        weights, means, covariances = _fitted(s)
        block = cls(
            names,
            cast(Any, weights),
            cast(Any, means),
            cast(Any, covariances),
            scales,
            units=cast(Any, units or {}),
            descriptions=cast(Any, descriptions or {}),
        )
        distance, where = block._misfit(s)
        count = len(weights)
        if distance > MISFIT:
            raise InputError(
                f"{own}: no mixture of {count} normals describes these draws: {where}, a probability is off by "
                f"{distance:.2f} (limit {MISFIT}). Calibrate the earlier and the new data jointly, in one Calibration "
                "with both among its observations; or try another scale."
            )
        _logger.info(
            "%s: %d component(s) of weights %s; the largest difference of a probability is %.3f, %s",
            own,
            count,
            [round(float(one), 3) for one in weights],
            distance,
            where,
        )
        return block

    @classmethod
    def from_posterior(cls, posterior: Any, names: Sequence[str] | None = None) -> Self:
        """Return the posterior of earlier data as the prior for new ones, normal or not.

        What is said of errors of a surrogate in `MultivariateNormal.from_posterior` holds here too.

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
            When the verdict on the posterior is "fail", a name is none of its parameters, no mixture describes the
            draws (see `from_draws`), or more than 2 % of it lies where the earlier prior had nothing: a posterior that
            is cut off at an end.
        """
        block = cls.from_draws(**draws_of_posterior("NormalMixture", posterior, names))
        lower, upper = np.array([posterior.problem.limits(name) for name in block.names]).T
        beyond = 1.0 - block.mass_inside(lower, upper)
        if beyond > BEYOND:
            raise InputError(
                f"NormalMixture.from_posterior: the posterior is cut off at an end of its prior or design box; "
                f"{beyond:.0%} of the mixture lies beyond. Calibrate the earlier and the new data jointly, in one "
                "Calibration with both among its observations."
            )
        return block

    def given(self, values: Mapping[str, float]) -> "NormalMixture | None":
        """Return the mixture of the other parameters when some are known; None if none is left.

        Raises
        ------
        InputError
            When a name is unknown, or a value impossible on its scale.
        """
        rest = [part.given(values) for part in self.parts]
        if not values:
            return self
        if any(part is None for part in rest):
            return None
        known = [self.names.index(name) for name in values]
        s = np.array([SCALES[self.scale[j]].forward(float(values[self.names[j]])) for j in known])
        log_weights = np.log(self.weights)
        for c, part in enumerate(self.parts):
            root = np.linalg.cholesky(np.array(part.covariance)[np.ix_(known, known)])
            e = solve_triangular(root, s - np.array(part.mean)[known], lower=True)
            log_weights[c] -= 0.5 * float(e @ e) + float(np.log(np.diagonal(root)).sum())
        weights = np.exp(log_weights - special.logsumexp(log_weights))
        kept = [c for c in range(len(weights)) if weights[c] > 1e-12]
        parts = [cast(MultivariateNormal, rest[c]) for c in kept]
        return NormalMixture(
            parts[0].names,
            tuple(weights[kept] / weights[kept].sum()),
            tuple(part.mean for part in parts),
            tuple(part.covariance for part in parts),
            parts[0].scale,
            units=parts[0].units,
            descriptions=parts[0].descriptions,
        )

    # ------------------------------------------------------------------ what it is

    @cached_property
    def parts(self) -> tuple[MultivariateNormal, ...]:
        """The components."""
        return tuple(
            MultivariateNormal(self.names, m, c, self.scale, units=self.units, descriptions=self.descriptions)
            for m, c in zip(self.means, self.covariances, strict=True)
        )

    @property
    def priors(self) -> Mapping[str, Prior]:
        """The prior of each parameter alone (read-only), a mixture in one dimension."""
        return MappingProxyType(self._priors)

    @cached_property
    def _priors(self) -> dict[str, Prior]:
        means, sds = np.array(self.means), np.sqrt(np.diagonal(np.array(self.covariances), axis1=1, axis2=2))
        return {
            name: _ALONE[scale](
                self.weights, tuple(means[:, j]), tuple(sds[:, j]), unit=self.units[j], description=self.descriptions[j]
            )
            for j, (name, scale) in enumerate(zip(self.names, self.scale, strict=True))
        }

    @cached_property
    def roots(self) -> Array:
        """Cholesky factors (c, k, k) of the components' covariances."""
        return np.linalg.cholesky(np.array(self.covariances))

    @cached_property
    def _moments(self) -> tuple[Array, Array]:
        """Mean (k,) and covariance (k, k) of the whole, on the scales."""
        w, m = np.array(self.weights), np.array(self.means)
        mean = w @ m
        off = m - mean
        return mean, np.einsum("c,cij->ij", w, np.array(self.covariances) + off[:, :, None] * off[:, None, :])

    @property
    def mean(self) -> tuple[float, ...]:
        """Means (k,) of the whole on the scales."""
        return tuple(float(one) for one in self._moments[0])

    @property
    def sd(self) -> Array:
        """Standard deviations (k,) of the whole on the scales."""
        return np.sqrt(np.diagonal(self._moments[1]))

    @property
    def correlation(self) -> Array:
        """Correlation matrix (k, k) of the whole on the scales."""
        return self._moments[1] / np.outer(self.sd, self.sd)

    def _steps(self, s: Array) -> Iterator[tuple[Array, Array, Array]]:
        """Yield for each j log weights (..., c), means (..., c) and sds (c,) of s_j given those before it.

        What follows is read from s when the next step is asked for: the caller may fill it in as it goes.
        """
        c, k = len(self.weights), s.shape[-1]
        m, F = np.array(self.means), self.roots
        e = np.zeros((*s.shape[:-1], c, k))
        log_weights = np.broadcast_to(np.log(self.weights), (*s.shape[:-1], c))
        for j in range(k):
            centre = m[:, j] + np.einsum("...ci,ci->...c", e[..., :j], F[:, j, :j])
            own = F[:, j, j]
            yield log_weights, centre, own
            with np.errstate(all="ignore"):
                e[..., j] = (s[..., j, None] - centre) / own
                log_weights = log_weights - 0.5 * e[..., j] ** 2 - np.log(own)
                log_weights = log_weights - NumPyFunctions.logsumexp(log_weights)[..., None]

    def log_terms(self, x: ArrayLike) -> Array:
        """Return the log-density of each parameter given those before it (..., k); their sum is the joint one.

        -inf outside of the support, NaN where x is NaN.
        """
        x = check.real_array(x, "x")
        alone = np.stack([prior.log_density(x[..., j]) for j, prior in enumerate(self._priors.values())], axis=-1)
        outside = np.any(np.isneginf(alone), axis=-1, keepdims=True)
        s = np.where(outside, np.array(self.mean), on_scales(x, self.scale))
        terms = np.empty(s.shape)
        for j, (log_weights, centre, own) in enumerate(self._steps(s)):
            z = (s[..., j, None] - centre) / own
            terms[..., j] = NumPyFunctions.logsumexp(log_weights - 0.5 * z**2 - np.log(own)) - LOG_ROOT_TWO_PI
            terms[..., j] += SCALES[self.scale[j]].log_derivative(x[..., j])
        return np.where(outside, -np.inf, terms)

    def log_density(self, x: ArrayLike) -> Array:
        """Return the joint log-density (...) of parameters x (..., k), in their own units."""
        return np.asarray(self.log_terms(x).sum(axis=-1))

    def conditional_log_density(self, x: Sequence[Any], xp: Any = NumPyFunctions) -> Any:
        """Return the log-density of the last of the first parameters x, given those before it.

        That of the same parameter in `log_terms`, for arrays or expressions inside of the support.
        """
        means, roots = np.array(self.means), self.roots
        e: list[Any] = []  # of every component, given the parameters before
        terms: list[Any] = []
        for i, (one, name) in enumerate(zip(x, self.scale, strict=False)):
            centre = means[:, i] + sum(roots[:, i, h] * e[h] for h in range(i))
            e.append((SCALES[name].forward(xp.asarray(one), xp)[..., None] - centre) / roots[:, i, i])
            terms.append(-0.5 * e[i] ** 2 - np.log(roots[:, i, i]))
        before = np.log(self.weights) + sum(terms[:-1])
        normal = xp.logsumexp(before + terms[-1]) - xp.logsumexp(before) - LOG_ROOT_TWO_PI
        return normal + SCALES[self.scale[len(x) - 1]].log_derivative(x[-1], xp)

    def draw(self, rng: RandomState | None = None, size: int | tuple[int, ...] = ()) -> Array:
        """Return independent draws, of shape ``(*size, k)``."""
        shape, generator = (size,) if isinstance(size, int) else tuple(size), as_generator(rng)
        c = generator.choice(len(self.weights), size=shape, p=self.weights)
        e = generator.standard_normal((*shape, len(self.names)))
        return in_own_units(np.array(self.means)[c] + np.einsum("...ij,...j->...i", self.roots[c], e), self.scale)

    # ------------------------------------------------------------------ the cube, and a box

    def from_cube(
        self, u: Array, lower: ArrayLike | None = None, upper: ArrayLike | None = None, rest: Array | None = None
    ) -> Array:
        """Return x (..., k) of u (..., k), one parameter after the other; within a box where one is given.

        `rest` is 1 - u with the digits that u does not have near 1, where these are known.
        """
        a, b = self._ends(lower, upper)
        s = np.zeros_like(u)
        for j, (log_weights, centre, own) in enumerate(self._steps(s)):
            above = None if rest is None else rest[..., j]
            s[..., j] = _quantile(u[..., j], log_weights, centre, own, a[j], b[j], above)
        return in_own_units(s, self.scale)

    def to_cube(self, x: Array, lower: ArrayLike | None = None, upper: ArrayLike | None = None) -> Array:
        """Return u (..., k) of x (..., k), the inverse of `from_cube`."""
        a, b = self._ends(lower, upper)
        s = on_scales(x, self.scale)
        u = np.empty_like(s)
        for j, (log_weights, centre, own) in enumerate(self._steps(s)):
            below = _mixed_mass(log_weights, centre, own, a[j], s[..., j])
            u[..., j] = np.exp(below - _mixed_mass(log_weights, centre, own, a[j], b[j]))
        return u

    def rest(self, x: Array, lower: ArrayLike | None = None, upper: ArrayLike | None = None) -> Array:
        """Return 1 - `to_cube` (..., k), with all digits where it is tiny."""
        a, b = self._ends(lower, upper)
        s = on_scales(x, self.scale)
        out = np.empty_like(s)
        for j, (log_weights, centre, own) in enumerate(self._steps(s)):
            above = _mixed_mass(log_weights, centre, own, s[..., j], b[j])
            out[..., j] = np.exp(above - _mixed_mass(log_weights, centre, own, a[j], b[j]))
        return out

    def log_inside(self, x: Array, lower: ArrayLike, upper: ArrayLike) -> Array:
        """Return log prod_j P(x_j in its interval | those before it), shape (...)."""
        a, b = self._ends(lower, upper)
        s = on_scales(x, self.scale)
        return np.asarray(sum(_mixed_mass(*step, a[j], b[j]) for j, step in enumerate(self._steps(s))))

    def largest_log_inside(self, lower: ArrayLike, upper: ArrayLike) -> float:
        """Return an upper bound of `log_inside`: the first factor is known, the others are at most one."""
        a, b = self._ends(lower, upper)
        first = next(self._steps(np.zeros((1, len(self.names)))))
        return float(_mixed_mass(*first, a[0], b[0])[0])

    def mass_inside(self, lower: ArrayLike, upper: ArrayLike) -> float:
        """Return the mass of a box: by quasi Monte Carlo, as `MultivariateNormal.mass_inside`."""
        from scipy.stats import qmc

        sobol = qmc.Sobol(len(self.names), scramble=True, rng=np.random.default_rng(0))
        logs = self.log_inside(self.from_cube(sobol.random(POINTS), lower, upper), lower, upper)
        top = float(logs.max())
        return math.exp(top) * float(np.mean(np.exp(logs - top))) if np.isfinite(top) else 0.0

    def _ends(self, lower: ArrayLike | None, upper: ArrayLike | None) -> tuple[Array, Array]:
        k = len(self.names)
        a = np.full(k, -np.inf) if lower is None else on_scales(np.asarray(lower, dtype=np.float64), self.scale)
        b = np.full(k, np.inf) if upper is None else on_scales(np.asarray(upper, dtype=np.float64), self.scale)
        return a, b

    def _misfit(self, s: Array) -> tuple[float, str]:
        """Return the largest distance of distribution functions between draws (n, k) on the scales and the mixture."""
        k, log_weights = len(self.names), np.log(self.weights)
        found = {}
        levels = [
            np.exp(_mixed_mass(*step, -np.inf, s[:, j])) for j, step in enumerate(self._steps(s))
        ]  # of each given those before it: independent and uniform if the mixture is right
        for j, name in enumerate(self.names):
            found[f"along {name} given those before it"] = _kolmogorov(levels[j])
        axes = np.random.default_rng(0).standard_normal((k, DIRECTIONS)) / self.sd[:, None]
        axes = np.hstack([np.eye(k), axes])[:, : k if k == 1 else None]
        means = np.array(self.means) @ axes
        sds = np.sqrt(np.einsum("id,cij,jd->cd", axes, np.array(self.covariances), axes))
        for i in range(axes.shape[1]):
            level = np.exp(_mixed_mass(log_weights, means[:, i], sds[:, i], -np.inf, s @ axes[:, i]))
            where = f"along {self.names[i]}" if i < k else f"along combination {i - k + 1} of {DIRECTIONS}"
            found[where] = _kolmogorov(level)
        worst = max(found, key=lambda where: found[where])
        return found[worst], worst

    # ------------------------------------------------------------------ shown, stored

    def to_dict(self) -> dict[str, Any]:
        """Return the block as a JSON object."""
        return {
            "prior": "NormalMixture",
            **{key: list(getattr(self, key)) for key in ("names", "weights", "scale", "units", "descriptions")},
            "means": [list(row) for row in self.means],
            "covariances": [[list(row) for row in one] for one in self.covariances],
        }

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Return the block that `to_dict` wrote.

        Raises
        ------
        InputError
            When keys are missing or unknown, or the block is impossible.
        """
        keys = ["prior", "names", "weights", "means", "covariances", "scale", "units", "descriptions"]
        values = check.fields("NormalMixture", data, keys)
        if values.pop("prior") != "NormalMixture":
            raise InputError("NormalMixture: this is the JSON of something else.")
        return cls(**values)

    def __repr__(self) -> str:
        rows = ", ".join(
            f"{'' if scale == 'identity' else scale + ' '}{name}: mean {mean:.3g}, sd {sd:.3g}"
            for name, mean, sd, scale in zip(self.names, self.mean, self.sd, self.scale, strict=True)
        )
        shown = ", ".join(f"{one:.2g}" for one in self.weights)
        return f"NormalMixture({rows}; {len(self.weights)} component(s) of weights {shown})"


type Block = MultivariateNormal | NormalMixture


def block_from_dict(data: object) -> Block:
    """Return the block that its `to_dict` wrote."""
    if isinstance(data, Mapping) and data.get("prior") == "NormalMixture":
        return NormalMixture.from_dict(data)
    return MultivariateNormal.from_dict(data)


# --- one parameter alone ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class _Alone(Prior):
    """A parameter of a `NormalMixture` alone."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    sds: tuple[float, ...]

    def _check(self) -> None:
        """Do nothing: the mixture has checked them."""

    def _log_density(self, x: Any, xp: Any) -> Any:
        scale = SCALES[self.scale]
        s = scale.forward(x, xp)
        z = (s[..., None] - np.array(self.means)) / np.array(self.sds)
        inside = xp.logsumexp(np.log(self.weights) - 0.5 * z**2 - np.log(self.sds)) - LOG_ROOT_TWO_PI
        return xp.where(xp.isinf(s), -np.inf, inside + scale.log_derivative(x, xp))

    def _cdf(self, x: Array) -> Array:
        s = SCALES[self.scale].forward(x)
        return np.exp(_mixed_mass(np.log(self.weights), np.array(self.means), np.array(self.sds), -np.inf, s))

    def _quantile(self, p: Array) -> Array:
        arrays = np.log(self.weights), np.array(self.means), np.array(self.sds)
        return np.asarray(SCALES[self.scale].inverse(_quantile(p, *arrays, -np.inf, np.inf)))

    def _sf(self, x: Array) -> Array:
        s = SCALES[self.scale].forward(x)
        return np.exp(_mixed_mass(np.log(self.weights), np.array(self.means), np.array(self.sds), s, np.inf))

    def _isf(self, q: Array) -> Array:
        arrays = np.log(self.weights), np.array(self.means), np.array(self.sds)
        return np.asarray(SCALES[self.scale].inverse(_quantile(1.0 - q, *arrays, -np.inf, np.inf, q)))

    @classmethod
    def _from_points(cls, points: Any) -> Self:
        raise InputError("A mixture is not given by two quantiles; see NormalMixture.from_draws.")

    @property
    def moments(self) -> Moments:
        """Mean and standard deviation, by quadrature over the quantiles on a scale that has no closed form."""
        z, weight = np.polynomial.hermite_e.hermegauss(64)
        s = np.array(self.means)[:, None] + np.array(self.sds)[:, None] * z
        x, w = SCALES[self.scale].inverse(s), np.array(self.weights)[:, None] * weight / weight.sum()
        mean = float(np.sum(w * x))
        return Moments(mean, math.sqrt(float(np.sum(w * (x - mean) ** 2))))

    def _shown(self, number: Callable[[float], str]) -> list[str]:
        rows = zip(self.weights, self.means, self.sds, strict=True)
        return [f"{number(w)}: {number(m)} ± {number(s)}" for w, m, s in rows]

    def _name(self) -> str:
        return {"identity": "Mixture", "log": "LogMixture", "logit": "LogitMixture"}[self.scale]


@final
@dataclass(frozen=True, repr=False)
class _Plain(_Alone):
    """On its own scale."""


@final
@dataclass(frozen=True, repr=False)
class _Log(_Alone):
    """Of a positive parameter."""

    scale: ClassVar[ScaleName] = "log"


@final
@dataclass(frozen=True, repr=False)
class _Logit(_Alone):
    """Of a fraction."""

    scale: ClassVar[ScaleName] = "logit"


_ALONE: dict[ScaleName, type[_Alone]] = {"identity": _Plain, "log": _Log, "logit": _Logit}


# --- mixtures in one dimension ----------------------------------------------------------------------------------------


def _mixed_mass(log_weights: Array, centre: Array, own: Array, a: ArrayLike, b: ArrayLike) -> Array:
    """Return the log of the mass (...) between a and b (...) of mixtures (..., c), each from its nearer tail."""
    with np.errstate(invalid="ignore"):
        low, high = ((np.asarray(end)[..., None] - centre) / own for end in (a, b))
    return np.asarray(NumPyFunctions.logsumexp(log_weights + _log_mass(low, high)))


def _quantile(
    u: Array,
    log_weights: Array,
    centre: Array,
    own: Array,
    a: ArrayLike,
    b: ArrayLike,
    rest: Array | None = None,
) -> Array:
    """Return the quantile at u (...) of mixtures (..., c) between a and b: Newton's steps within a bracket.

    It lies between the quantiles of the components, which are where the search begins. `rest` is 1 - u with the digits
    that u does not have near 1, where these are known. In a tail the steps are those of the logarithm of the mass.
    """
    u = np.asarray(u, dtype=np.float64)
    above_u = 1.0 - u if rest is None else np.asarray(rest, dtype=np.float64)
    tail = np.minimum(u, above_u) < TAIL
    weight = np.exp(log_weights)
    with np.errstate(invalid="ignore"):
        first, last = (np.asarray(a)[..., None] - centre) / own, (np.asarray(b)[..., None] - centre) / own
    with np.errstate(all="ignore"):
        each = centre + own * _between(u[..., None], first, last, None if rest is None else above_u[..., None])
    low, high = np.maximum(each.min(axis=-1), a), np.minimum(each.max(axis=-1), b)
    s = np.clip(np.sum(weight * each, axis=-1), low, high)
    tails = special.ndtr(first), special.ndtr(-first), special.ndtr(last), special.ndtr(-last)
    for _ in range(100):
        with np.errstate(all="ignore"):
            z = (s[..., None] - centre) / own
            below, above = special.ndtr(z), special.ndtr(-z)
            # each difference of two probabilities from the nearer tail
            left = np.sum(weight * np.where(first > 0.0, tails[1] - above, below - tails[0]), axis=-1)
            right = np.sum(weight * np.where(z > 0.0, above - tails[3], tails[2] - below), axis=-1)
            off = above_u * left - u * right
            low, high = np.where(off < 0.0, s, low), np.where(off > 0.0, s, high)
            slope = np.sum(weight * np.exp(-0.5 * z**2) / own, axis=-1) / math.sqrt(2.0 * math.pi)
            log_off = np.log(above_u) + np.log(left) - np.log(u) - np.log(right)
            new = s - np.where(tail, log_off * (left / (left + right)) * right, off) / slope
            new = np.where((new >= low) & (new <= high), new, 0.5 * (low + high))
        moved, s = np.abs(new - s), new
        if not np.any(moved > np.where(tail, 4.0 * np.finfo(float).eps * np.abs(s), CLOSE * own.min())):
            break
    return np.where(u <= 0.0, np.asarray(a), np.where(above_u <= 0.0, np.asarray(b), s))


def _best_of(x: Array, count: int, rng: np.random.Generator) -> tuple[Array, Array, Array, float] | None:
    """Return the most likely of several fits; None when a component died out in all of them."""
    weight = np.full(len(x), 1.0 / len(x))
    starts = 1 if count == 1 else STARTS
    runs = [gaussian_mixture(x, weight, len(x), count, rng, ITERATIONS, TOLERANCE) for _ in range(starts)]
    return max((run for run in runs if run is not None), key=lambda run: run[3], default=None)


def _fitted(s: Array) -> tuple[Array, Array, Array]:
    """Return weights, means and covariances of the mixture of draws (n, k) that the information criterion asks for."""
    k = s.shape[1]
    centre, covariance = s.mean(axis=0), np.atleast_2d(np.cov(s.T))
    root = np.linalg.cholesky(covariance + 1e-12 * np.diag(np.diag(covariance)))
    every = solve_triangular(root, (s - centre).T, lower=True).T
    rng = np.random.default_rng(0)  # the same draws get the same mixture
    x = every[np.unique(np.linspace(0, len(s) - 1, min(MOST_DRAWS, len(s))).astype(int))]
    n = len(x)
    best, least, worse = None, np.inf, 0
    for count in COUNTS:
        if worse == WORSE or (count > 1 and n < POINTS_EACH * (k + 1) * count):
            break
        found = _best_of(x, count, rng)
        criterion = np.inf
        if found is not None:
            criterion = -2.0 * n * found[3] + (count * (1 + k + k * (k + 1) / 2) - 1) * np.log(n)
        if criterion < least:
            best, least, worse = found, criterion, 0
        else:
            worse += 1
    assert best is not None
    w, m, roots, _ = best if n == len(every) else _best_of(every, len(best[0]), rng) or best
    roots = root @ roots
    return w / w.sum(), centre + m @ root.T, roots @ np.swapaxes(roots, 1, 2)
