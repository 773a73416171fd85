"""Standard problems without a PyMC model: what the compiled log-density of `_target` needs, from a calibration.

A problem is standard when its surrogate is the library's own Gaussian process, its noise Gaussian, and its priors
those of `uqms.parameters`. `target` compares a few values with the calibration's own likelihood, and refuses (returns
None) what it does not reproduce.
"""

import ctypes
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, Self, final

import numpy as np

from uqms._typing import Array, Ints
from uqms.calibration.gaussian import reduced
from uqms.parameters import Prior
from uqms.parameters.scale import SCALES, Interval

if TYPE_CHECKING:
    from uqms.calibration.base import Problem
    from uqms.calibration.single import SingleCalibration
    from uqms.calibration.user_errors import UserErrors

__all__ = [
    "GroupedMap",
    "Groups",
    "Map",
    "Movable",
    "Target",
    "evaluate",
    "expand",
    "off_the_line",
    "on_the_line",
    "target",
]

AGREEMENT = 1e-6  # relative, between this likelihood and the calibration's own
NUDGES, ROUNDING = (1e-9, 2e-9, 3e-9), 30.0  # of the parameters; times what rounding is seen to do


def _bounded(x: Array) -> Array:
    """Return coordinates bounded to `REACH`, as compiled code bounds them."""
    from uqms.calibration._map import REACH

    return np.asarray(x / (1.0 + (x / REACH) ** 4) ** 0.25)


@final
@dataclass(frozen=True, eq=False)
class Map:
    """A triangular quadratic map from what the sampler moves to parameters in unconstrained space.

    Attributes
    ----------
    order
        Which parameter comes at each place; each depends on those before it.
    shift, scale, centre, spread
        By parameter: a_i and s_i; what the features are standardised by. Shape (P,).
    coefficients
        By place: linear ones, then the lower triangle of the quadratic ones.
    """

    order: Array
    shift: Array
    scale: Array
    centre: Array
    spread: Array
    coefficients: tuple[Array, ...]

    @classmethod
    def identity(cls, size: int) -> "Map":
        """Return the map that changes nothing."""
        zeros, ones = np.zeros(size), np.ones(size)
        empty = tuple(np.zeros(i + i * (i + 1) // 2) for i in range(size))
        return cls(np.arange(size, dtype=np.float64), zeros, ones, zeros, ones, empty)

    def flat(self) -> Array:
        """Return the numbers that `_target` reads."""
        return np.concatenate([self.order, self.shift, self.scale, self.centre, self.spread, *self.coefficients])

    @property
    def log_determinant(self) -> float:
        """Log of |dz/dw|, the same everywhere."""
        return float(np.log(self.scale).sum())

    def features(self, z: Array, first: int) -> Array:
        """Return what the coordinate behind the `first` ones depends on, for points z (n, P).

        In the coefficients' order: the standardised coordinates (n, first), then the products of the bounded ones.
        """
        x = ((z - self.centre) / self.spread)[:, self.order.astype(int)[:first]]
        phi = _bounded(x)
        one, other = np.tril_indices(first)
        return np.concatenate([x, phi[:, one] * phi[:, other]], axis=1)

    def conditional_mean(self, z: Array) -> Array:
        """Return what each coordinate of z (n, P) is expected to be given those before it, in the map's order."""
        out = np.tile(self.shift[self.order.astype(int)], (len(z), 1))
        for i, c in enumerate(self.coefficients[1:], 1):
            out[:, i] += self.features(z, i) @ c
        return out

    def inverse(self, z: Array) -> Array:
        """Return w (n, P) of points z (n, P)."""
        order = self.order.astype(int)
        return np.asarray((z[:, order] - self.conditional_mean(z)) / self.scale[order])


@final
@dataclass(frozen=True, eq=False)
class Groups:
    """Which of hundreds of coordinates belong together.

    Attributes
    ----------
    members
        Coordinates of each group (the parameters of a subject), shape (J, m); each is in one group at most.
    drivers
        Coordinates in no group that may change how wide groups are (sds of noise, spreads), shape (D,).
    """

    members: Ints
    drivers: Ints


@final
@dataclass(frozen=True, eq=False)
class GroupedMap:
    """A map z = shift + scale R e (w + V' (stretch - 1) V w) from what the sampler moves to unconstrained space.

    Without drivers e is 1 and the map linear.

    Attributes
    ----------
    shift, scale
        Shape (P,).
    directions
        V, shape (k, P): orthonormal rows.
    stretch
        Along each of them, shape (k,), above 0.
    groups
        Coordinates that belong together, shape (J, m); each is in one group at most.
    roots
        R, shape (J, m, m): a matrix for each group. Other coordinates stay as they are.
    drivers
        Coordinates in no group that change how wide groups are, shape (D,).
    growth
        Shape (D, J, m): derivatives of log e of each coordinate of a group by each driver, both in the units in which R
        is multiplied.
    """

    shift: Array
    scale: Array
    directions: Array
    stretch: Array
    groups: Ints
    roots: Array
    drivers: Ints
    growth: Array

    def flat(self) -> Array:
        """Return the numbers that compiled code reads."""
        counts = (len(self.stretch), *self.groups.shape, len(self.drivers))
        driven = (part for pair in zip(self.drivers, self.growth, strict=True) for part in pair)
        parts = (counts, self.shift, self.scale, self.stretch, self.directions, self.groups, self.roots, *driven)
        return np.concatenate([np.ravel(np.asarray(part, dtype=np.float64)) for part in parts])

    @property
    def log_determinant(self) -> float:
        """Log of |dz/dw| where drivers are 0, the same everywhere without them."""
        _, each = np.linalg.slogdet(self.roots)
        return float(np.log(self.scale).sum() + np.log(self.stretch).sum() + each.sum())

    def inverse(self, z: Array) -> Array:
        """Return w (n, P) of points z (n, P)."""
        y = (z - self.shift) / self.scale
        bounded = _bounded(y[:, self.drivers])
        y[:, self.groups] = np.linalg.solve(self.roots, y[:, self.groups, None])[..., 0]
        y[:, self.groups] *= np.exp(-np.einsum("nd,djm->njm", bounded, self.growth))
        return np.asarray(y + (y @ self.directions.T * (1.0 / self.stretch - 1.0)) @ self.directions)


@final
@dataclass(frozen=True, eq=False)
class Target:
    """The log-density of a calibration in unconstrained space, as numbers for the compiled function.

    Attributes
    ----------
    names
        What is inferred, in the order of the coordinates.
    map
        From the sampler's coordinates to unconstrained space.
    """

    names: tuple[str, ...]
    priors: Array  # (P, 8)
    inputs: Array
    noise: Array  # (g, 2)
    likelihood: Array  # block of `_process_gaussian`
    sizes: tuple[int, int, int]  # experiments, inputs, hyperparameters
    map: Map
    constant: float = 0.0  # of the log-likelihood
    dims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    coords: Mapping[str, Any] = field(default_factory=dict)

    def with_map(self, new: Map) -> "Target":
        """Return the same density in other coordinates."""
        return replace(self, map=new)

    @cached_property
    def block(self) -> Array:
        """Everything as one flat block, the only thing that the compiled function reads."""
        from uqms.calibration._map import HEADER

        parts = [self.priors.ravel(), self.inputs, self.noise.ravel(), self.map.flat(), self.likelihood]
        begins = HEADER + np.cumsum([0, *(len(part) for part in parts)])
        header = [begins[-1], len(self.names), *self.sizes, *begins, self.map.log_determinant + self.constant]
        return np.concatenate([np.asarray(header, dtype=np.float64), *parts])

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return len(self.names)

    @property
    def variables(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Name and shape of what is reported of a draw."""
        return tuple((name, ()) for name in self.names)

    @property
    def free(self) -> tuple[str, ...]:
        """Names of those whose effective draws count."""
        return self.names

    @property
    def functions(self) -> tuple[Any, Any]:
        """Compiled log-density, and what reports a draw."""
        from uqms.calibration._target import density_function, expand_function

        return density_function, expand_function

    @property
    def errors(self) -> None:
        """None: no Python code is called."""

    def evaluate(self, w: Array) -> tuple[float, Array]:
        """Return log-density and gradient (P,) at w (P,)."""
        return evaluate(self.functions[0], self.block, w)


def evaluate(function: Any, block: Array, w: Array) -> tuple[float, Array]:
    """Return value and gradient of a compiled log-density; where it breaks off, the value is -inf.

    The C function itself is called: an entry from Python would be compiled apart from it.
    """
    point, gradient, value = np.ascontiguousarray(w, dtype=np.float64), np.empty(len(w)), np.array(-np.inf)
    function.ctypes(len(w), *(_pointer(array) for array in (point, gradient, value, block)))
    return float(value), gradient


def expand(function: Any, block: Array, w: Array, size: int) -> Array:
    """Return the `size` numbers that a compiled function reports of a draw."""
    point, out = np.ascontiguousarray(w, dtype=np.float64), np.empty(size)
    function.ctypes(len(w), size, *(_pointer(array) for array in (point, out, block)))
    return out


def _pointer(array: Array) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_double))


class Movable(Protocol):
    """What the sampler moves: an unconstrained log-density that the warm-up may give other coordinates."""

    @property
    def size(self) -> int:
        """Number of coordinates."""
        ...

    @property
    def variables(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Name and shape of what is reported of a draw."""
        ...

    @property
    def free(self) -> tuple[str, ...]:
        """Names of those whose effective draws count."""
        ...

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """Of the variables."""
        ...

    @property
    def coords(self) -> Mapping[str, Any]:
        """Of the dims."""
        ...

    @property
    def functions(self) -> tuple[Any, Any]:
        """C functions as nutpie calls them: log-density with gradient, and report of a draw, its line last."""
        ...

    @property
    def block(self) -> Array:
        """The numbers that both functions read."""
        ...

    @property
    def map(self) -> Map | GroupedMap | None:
        """From the sampler's coordinates to unconstrained space; None where there is to be none."""
        ...

    def with_map(self, new: Any) -> Self:
        """Return the same density in other coordinates; those whose map may be None take a `GroupedMap` too."""
        ...

    @property
    def errors(self) -> "UserErrors | None":
        """What Python code raises that the functions call; None where they call none."""
        ...

    def evaluate(self, w: Array) -> tuple[float, Array]:
        """Return log-density and gradient (P,) at w (P,)."""
        ...


def on_the_line(problem: "Problem", theta: Mapping[str, Array]) -> Array:
    """Return unconstrained points (n, P), in the order of `problem.priors`, for parameters, each (n,)."""
    return np.column_stack([interval.to_real(theta[name]) for name, interval in _intervals(problem).items()])


def off_the_line(problem: "Problem", points: Array) -> dict[str, Array]:
    """Return parameters, each (n,), of unconstrained points (n, P), the inverse of `on_the_line`."""
    intervals = _intervals(problem)
    return {
        name: np.asarray(interval.from_real(column))
        for (name, interval), column in zip(intervals.items(), points.T, strict=True)
    }


def _intervals(problem: "Problem") -> dict[str, Interval]:
    return {name: Interval.of(*problem.limits(name), SCALES[p.scale]) for name, p in problem.priors.items()}


def target(whole: "Problem") -> Target | None:
    """Return the compiled log-density of a problem, None when the problem is not standard."""
    pieces = whole.pieces(dict.fromkeys(whole.priors))
    if len(pieces) > 1 or whole.kind == "population":  # several surrogates, or random effects
        return None
    problem = pieces[0].problem
    names = tuple(problem.priors)
    model = problem.data_model
    if model.compiled_error is None or not model.closed_form:
        return None
    if problem.fixed or problem.uncertain or not problem.conditioned_prior.plain:
        return None
    priors = [_prior(prior, *problem.limits(name)) for name, prior in problem.priors.items()]
    if any(row is None for row in priors):
        return None
    cells, noise = model.cells, model.noise
    # Numbers that no parameter changes are summed up where that is possible; the Jacobian of the data's scale is one.
    likelihood = reduced(cells, noise, model.condition_names, model.correlated_scores) or model.gaussian
    found = Target(
        names=names,
        priors=np.array(priors),
        inputs=_inputs(problem, names),
        noise=np.array(
            [
                (names.index(name), 0.0) if isinstance(setting, Prior) else (-1.0, float(setting))
                for name, setting in zip(noise.keys, noise.settings, strict=True)
            ]
        ),
        likelihood=model.block(likelihood, together=True),
        constant=float(np.sum(cells.jacobian)),
        sizes=(cells.experiments, problem.surrogate.domain.d, len(noise.keys)),
        map=Map.identity(len(names)),
    )
    return found if _agrees(problem, found) else None


def _agrees(problem: "SingleCalibration", found: Target) -> bool:
    """Compare with the calibration's own likelihood at a few draws of the prior (fixed seed: a check, no result).

    Far from the data rounding of the surrogate's variance moves a density by more than `AGREEMENT` where the output is
    smooth. How far is seen in second differences over steps too small for anything else.
    """
    theta = problem.prior_draws(3, 0)
    points = on_the_line(problem, theta)
    steps = np.array([0.0, *NUDGES, *(-step for step in NUDGES)])
    around = {name: np.ravel((1.0 + steps)[:, None] * values) for name, values in theta.items()}
    values_around = problem.log_likelihood(around).reshape(len(steps), -1)
    wanted, (ahead, behind) = values_around[0], np.split(values_around[1:], 2)
    with np.errstate(invalid="ignore"):
        limit = AGREEMENT * (1.0 + abs(wanted)) + ROUNDING * np.max(abs(ahead + behind - 2.0 * wanted), axis=0)
    for i, z in enumerate(points):
        prior = sum(
            float(p.log_density(theta[name][i])) - math.log(np.subtract(*p.cdf(problem.limits(name)[::-1])))
            for name, p in problem.priors.items()
        )
        slope = sum(float(one.log_jacobian(value)) for one, value in zip(_intervals(problem).values(), z, strict=True))
        value = found.evaluate(z)[0] - prior - slope
        if np.isfinite(wanted[i]) and not abs(value - wanted[i]) <= limit[i]:
            return False
        if not np.isfinite(wanted[i]) and np.isfinite(value):
            return False
    return True


# --- priors -----------------------------------------------------------------------------------------------------------


def _prior(prior: Prior, lower: float, upper: float) -> list[float] | None:
    """Return the numbers of one prior, conditioned on [lower, upper]; None for one that has no compiled density.

    The last number makes the density integrate to 1.
    """
    low_p, high_p = float(prior.cdf(lower)), float(prior.cdf(upper))
    x = float(prior.quantile(0.5 * (low_p + high_p)))
    compiled = prior.compiled(x)
    if compiled is None:
        return None
    constant = float(prior.log_density(x)) - compiled.value - math.log(high_p - low_p)
    scale = SCALES[prior.scale]
    ends = (float(scale.forward(lower)), float(scale.forward(upper)))
    return [compiled.family, scale.code, *ends, compiled.a, compiled.b, compiled.reference, constant]


def _inputs(problem: "SingleCalibration", names: tuple[str, ...]) -> Array:
    """Return for every input which parameter it is (-1: a condition), its scale and box; then conditions (K, d)."""
    box, cells = problem.surrogate.domain, problem.cells
    rows = []
    for name, one in zip(box.names, box.maps, strict=True):
        own = names.index(name) if name in problem.parameters else -1
        rows.append([own, one.scale.code, one.low, one.width])
    fixed = problem.unit_inputs({name: np.asarray(value[0]) for name, value in problem.prior_draws(1, 0).items()})
    return np.concatenate([np.ravel(rows), np.reshape(fixed, (cells.experiments, box.d)).ravel()]).astype(np.float64)
