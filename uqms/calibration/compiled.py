"""Standard problems without a PyMC model: what the compiled log-density of `_target` needs, from a calibration.

A problem is standard when its surrogate is the library's own Gaussian process, its noise Gaussian, and its priors
those of `uqms.parameters`. Everything in the likelihood that does not depend on the parameters is done once, here:

- rows of one cell collapse to their weighted mean;
- noise and truncation of an experiment's cells become independent by a rotation (the singular vectors of the
  truncation's factor), each with a variance sigma² + lambda;
- cells of equal variance are projected on the space of their basis rows, and the rest is a sum of squares.

So an evaluation takes the same time for 50 measurements and 10 000. `target` compares a few values with the
calibration's own likelihood, and refuses (returns None) what it does not reproduce.
"""

import ctypes
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, Self, final

import numpy as np

from uqms._typing import Array, Ints
from uqms.calibration.likelihood import Cells, NoiseGroups, compress
from uqms.calibration.parts import JointCalibration
from uqms.calibration.problem import Calibration
from uqms.parameters import Prior
from uqms.parameters.scale import SCALES, Interval
from uqms.surrogates.gp import GaussianProcessSurrogate

__all__ = ["Linear", "Map", "Movable", "Target", "evaluate", "expand", "on_the_line", "target"]

LOG_TWO_PI = math.log(2.0 * math.pi)
LARGEST = 64  # scores times experiments; beyond, the matrix products of the general likelihood are faster
AGREEMENT = 1e-6  # relative, between this likelihood and the calibration's own
NUDGES, ROUNDING = (1e-9, 2e-9, 3e-9), 30.0  # of the parameters; times what rounding is seen to do


@final
@dataclass(frozen=True, eq=False)
class Map:
    """A triangular quadratic map from what the sampler moves to parameters on the real line.

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
        from uqms.calibration._map import REACH

        x = ((z - self.centre) / self.spread)[:, self.order.astype(int)[:first]]
        phi = x / (1.0 + (x / REACH) ** 4) ** 0.25
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
class Linear:
    """A linear map z = shift + scale R (w + V' (stretch - 1) V w) from what the sampler moves to the real line.

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
    """

    shift: Array
    scale: Array
    directions: Array
    stretch: Array
    groups: Ints
    roots: Array

    def flat(self) -> Array:
        """Return the numbers that compiled code reads."""
        counts = (len(self.stretch), *self.groups.shape)
        parts = (counts, self.shift, self.scale, self.stretch, self.directions, self.groups, self.roots)
        return np.concatenate([np.ravel(np.asarray(part, dtype=np.float64)) for part in parts])

    @property
    def log_determinant(self) -> float:
        """Log of |dz/dw|, the same everywhere."""
        _, each = np.linalg.slogdet(self.roots)
        return float(np.log(self.scale).sum() + np.log(self.stretch).sum() + each.sum())

    def inverse(self, z: Array) -> Array:
        """Return w (n, P) of points z (n, P)."""
        y = (z - self.shift) / self.scale
        y[:, self.groups] = np.linalg.solve(self.roots, y[:, self.groups, None])[..., 0]
        return np.asarray(y + (y @ self.directions.T * (1.0 / self.stretch - 1.0)) @ self.directions)


@final
@dataclass(frozen=True, eq=False)
class Target:
    """The log-density of a calibration on the real line, as numbers for the compiled function.

    Attributes
    ----------
    names
        What is inferred, in the order of the coordinates.
    map
        From the sampler's coordinates to the real line.
    """

    names: tuple[str, ...]
    priors: Array  # (P, 8)
    inputs: Array
    noise: Array  # (g, 2)
    surrogate: Array
    data: Array
    sizes: tuple[int, int, int]  # experiments, inputs, noise groups
    map: Map
    dims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    coords: Mapping[str, Any] = field(default_factory=dict)

    def with_map(self, new: Map) -> "Target":
        """Return the same density in other coordinates."""
        return replace(self, map=new)

    @cached_property
    def block(self) -> Array:
        """Everything as one flat block, the only thing that the compiled function reads."""
        from uqms.calibration._map import HEADER

        parts = [self.priors.ravel(), self.inputs, self.noise.ravel(), self.map.flat(), self.surrogate, self.data]
        begins = HEADER + np.cumsum([0, *(len(part) for part in parts)])
        header = [begins[-1], len(self.names), *self.sizes, *begins[:-1], self.map.log_determinant]
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
    """What the sampler moves: a log-density on the real line that the warm-up may give other coordinates."""

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
    def map(self) -> Map | Linear | None:
        """From the sampler's coordinates to the real line; None where there is to be none."""
        ...

    def with_map(self, new: Any) -> Self:
        """Return the same density in other coordinates; those whose map may be None take a `Linear` one too."""
        ...

    def evaluate(self, w: Array) -> tuple[float, Array]:
        """Return log-density and gradient (P,) at w (P,)."""
        ...


def on_the_line(problem: Calibration, theta: Mapping[str, Array]) -> Array:
    """Return points of the real line (n, P), in the order of `problem.priors`, for parameters, each (n,)."""
    return np.column_stack([interval.to_real(theta[name]) for name, interval in _intervals(problem).items()])


def _intervals(problem: Calibration) -> dict[str, Interval]:
    return {name: Interval.of(*problem.limits(name), SCALES[p.scale]) for name, p in problem.priors.items()}


def target(problem: Calibration | JointCalibration) -> Target | None:
    """Return the compiled log-density of a problem, None when the problem is not standard."""
    if not isinstance(problem, Calibration):  # one of several parts
        return None
    surrogate, names = problem.surrogate, tuple(problem.priors)
    if not isinstance(surrogate, GaussianProcessSurrogate) or surrogate.physics is not None:
        return None
    cells = problem.cells
    if problem.form != "independent" or problem.fixed or problem.uncertain or not problem.conditioned_prior.plain:
        return None
    priors = [_prior(prior, *problem.limits(name)) for name, prior in problem.priors.items()]
    if any(row is None for row in priors):
        return None
    if len(cells.used) * cells.experiments > LARGEST:
        return None
    data = reduce(cells, problem.noise)
    if data is None:
        return None
    found = Target(
        names=names,
        priors=np.array(priors),
        inputs=_inputs(problem, names),
        noise=np.array(
            [
                (names.index(name), 0.0) if isinstance(sd, Prior) else (-1.0, float(sd))
                for name, sd in zip(*_sds(problem.noise), strict=True)
            ]
        ),
        surrogate=surrogate.process.select(cells.used).flat(),
        data=data,
        sizes=(cells.experiments, surrogate.domain.d, len(problem.noise.outputs)),
        map=Map.identity(len(names)),
    )
    return found if _agrees(problem, found) else None


def _agrees(problem: Calibration, found: Target) -> bool:
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


def _inputs(problem: Calibration, names: tuple[str, ...]) -> Array:
    """Return for every input which parameter it is (-1: a condition), its scale and box; then conditions (K, d)."""
    box, cells = problem.surrogate.domain, problem.cells
    rows = []
    for name, low, high, scale in zip(box.names, box.lower, box.upper, box.scale, strict=True):
        a, b = (float(SCALES[scale].forward(end)) for end in (low, high))
        own = names.index(name) if name in problem.parameters else -1
        rows.append([own, SCALES[scale].code, a, b - a])
    fixed = problem.unit_inputs({name: np.asarray(value[0]) for name, value in problem.prior_draws(1, 0).items()})
    return np.concatenate([np.ravel(rows), np.reshape(fixed, (cells.experiments, box.d)).ravel()]).astype(np.float64)


# --- the likelihood's data --------------------------------------------------------------------------------------------


def reduce(cells: Cells, groups: NoiseGroups) -> Array | None:
    """Return the data that `_target` reads, None when truncation ties outputs of different unknown noise.

    The numbers: experiments, scores, reduced cells, noise groups, constant; by group how many cells and what squares
    stand beside; begin of each experiment; then value, variance beside sigma² and group (-1: none) of the reduced
    cells, and their basis rows.
    """
    _, settings = _sds(groups)
    known = np.array([not isinstance(sd, Prior) for sd in settings])
    sds = np.array([1.0 if isinstance(sd, Prior) else float(sd) for sd in settings])
    weight, mean, used = cells.weight, cells.cell_mean, cells.used
    count, squares = np.zeros(len(sds)), np.zeros(len(sds))
    row_group = cells.group[cells.row_cell]
    off = cells.z - mean[cells.row_cell]
    within = np.bincount(cells.row_cell, off**2 / cells.row_variance, minlength=len(mean))
    constant = (
        float(np.sum(cells.jacobian)) - 0.5 * float(np.log(cells.row_variance).sum()) - 0.5 * len(cells.z) * LOG_TWO_PI
    )
    for g in range(len(sds)):
        replicates = int((row_group == g).sum()) - int((cells.group == g).sum())
        sum_of_squares = float(within[cells.group == g].sum())
        if known[g]:
            constant -= replicates * math.log(sds[g]) + 0.5 * sum_of_squares / sds[g] ** 2
        else:
            count[g] += replicates
            squares[g] += sum_of_squares
    # Cells on the scale where the noise is sigma² alone, or 1 when it is known.
    root = np.sqrt(weight) / sds[cells.group]
    constant -= float(np.log(sds[cells.group]).sum())
    y, basis, factor = root * (mean - cells.offset), root[:, None] * cells.basis[:, used], cells.truncation
    factor = root[:, None] * factor
    parts: list[tuple[Array, Array, Array, Array]] = []
    starts = [0]
    for k in range(cells.experiments):
        here = cells.experiment == k
        kinds = np.where(known[cells.group], -1, cells.group)
        total = 0
        tied = compress(factor[here])
        for kind in np.unique(kinds[here]):
            inside = kinds[here] == kind
            if np.abs(tied[inside] @ tied[~inside].T).max(initial=0.0) > 1e-12 * np.abs(tied).max(initial=0.0) ** 2:
                return None
            rows = np.flatnonzero(here)[inside]
            values, variances, bases, rest = _independent(y[rows], basis[rows], factor[rows])
            left = len(rows) - len(values)
            if kind < 0:
                deviation = np.sqrt(1.0 + variances)
                constant -= float(np.log(deviation).sum()) + 0.5 * rest
                values, bases, rest = _project(values / deviation, bases / deviation[:, None])
                constant -= 0.5 * rest
                variances = np.ones(len(values))
            else:
                count[kind] += left
                squares[kind] += rest
            parts.append((values, variances, np.full(len(values), float(kind)), bases))
            total += len(values)
        starts.append(starts[-1] + total)
    values, variances, kinds_of, bases = (np.concatenate([part[i] for part in parts]) for i in range(4))
    header = [cells.experiments, len(used), len(values), len(sds), constant]
    blocks = (header, count, squares, starts, values, variances, kinds_of, bases.ravel())
    return np.concatenate([np.asarray(block, dtype=np.float64) for block in blocks])


def _sds(groups: NoiseGroups) -> tuple[tuple[str, ...], tuple[Prior | float, ...]]:
    """Return names and settings of the noise sds, which come first among the hyperparameters."""
    count = len(groups.outputs)
    return groups.keys[:count], groups.settings[:count]


def _independent(y: Array, basis: Array, factor: Array) -> tuple[Array, Array, Array, float]:
    """Return values, variances beside the noise, basis rows and the sum of squares of what no basis row reaches."""
    n = len(y)
    left, singular = np.zeros((n, 0)), np.zeros(0)
    if factor.shape[1]:
        left, singular, _ = np.linalg.svd(factor, full_matrices=False)
        keep = singular > 1e-10 * max(float(singular[0]), 1e-300)
        left, singular = left[:, keep], singular[keep]
    seen_y, seen_basis = left.T @ y, left.T @ basis
    rest_y, rest_basis, rest = _project(y - left @ seen_y, basis - left @ seen_basis, n - left.shape[1])
    values = np.concatenate([seen_y, rest_y])
    variances = np.concatenate([singular**2, np.zeros(len(rest_y))])
    return values, variances, np.vstack([seen_basis, rest_basis]), rest


def _project(y: Array, basis: Array, rank: int | None = None) -> tuple[Array, Array, float]:
    """Return y and basis on an orthonormal basis of the columns, and the sum of squares of the rest of y.

    `rank` is the dimension of the space that y and basis live in: there are no more columns than that.
    """
    left, singular, right = np.linalg.svd(basis, full_matrices=False)
    largest = float(singular[0]) if len(singular) else 0.0
    keep = singular > 1e-13 * max(largest, 1e-300)
    if rank is not None:
        keep &= np.arange(len(singular)) < rank
    left = left[:, keep]
    inside = left.T @ y
    outside = y - left @ inside
    return inside, singular[keep, None] * right[keep], float(outside @ outside)
