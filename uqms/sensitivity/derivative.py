"""Derivative-based measures: mean squared slopes of an output, and what they bound.

==========  ==================================================================  ==============
symbol      meaning                                                             shape
==========  ==================================================================  ==============
f           an output as a function of independent inputs; a draw is one f
z_j         input j by its own law: its quantile level, uniform on [0, 1], for
            uniform and log-uniform inputs and ranges, else its normal score
nu_j        E[(df/dz_j)^2]                                                      (S, B)
C           Poincare constant of the law of z: 1 / pi^2 uniform, 1 normal
bound       C nu_j / Var(f), no less than the total Sobol index of input j
==========  ==================================================================  ==============

A total index does not change when an input is replaced by a monotone function of it, so that the two constants serve
every prior. Derivatives are central differences of each function draw on the surrogate's cube: a function draw through
anchors is smooth, and what anchors leave out has a slope of known variance, which is added.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import ndtri
from scipy.stats import qmc

from uqms import _checks as check
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, RandomState, as_generator
from uqms.calibration.direct import is_exact
from uqms.errors import InputError
from uqms.parameters import Condition, LogUniform, Prior, Uniform
from uqms.parameters.scale import SCALES
from uqms.sensitivity._draws import along, checked_points, flattened, wanted_outputs
from uqms.sensitivity._inputs import IndependentInputs, check_surrogate, independent_inputs
from uqms.sensitivity._resampling import bayesian_weights, one_of
from uqms.surrogates import GaussianProcessSurrogate, Surrogate
from uqms.surrogates.function_draws import paths
from uqms.surrogates.protocol import fixed_rows

__all__ = ["DerivativeMeasures", "derivative_measures"]

STEP = 1e-3  # of the design box
POINTS = 1024  # of a Gaussian process
EVALUATIONS = 1536  # of the joint draws of other surrogates, whose cost is the cube of it
ANCHORS = 512
MEASURED = 32  # points at which the slopes that anchors leave out are measured
REPLICATES = 16
EDGE = 1e-6  # of the levels: a normal score ends nowhere
BLOCK = 2**23


@taught
@final
@dataclass(frozen=True, eq=False)
class DerivativeMeasures:
    """Mean squared derivatives and bounds of total Sobol indices; `derivative_measures` returns it.

    ``result["y"]`` is a Dataset of one output with the variables

    - bound: upper bound of the total Sobol index, dims ("draw", "bootstrap", "parameter", coordinates of the output);
    - slope: root mean square of the derivative by the input, in the output's unit over the input's, or over its
      logarithm (logit) where the surrogate takes that, same dims;
    - variance: of the output, dims ("draw", "bootstrap", coordinates);
    - bound_whole: of a curve as a whole, variances integrated along its coordinates.

    Where an output does not vary, its bounds are NaN.

    Attributes
    ----------
    indices
        By output.
    inputs
        Names of the inputs that vary.
    fixed
        Values of the others.
    constants
        By input, "uniform" or "normal": of which law the Poincare constant was taken.
    """

    indices: Mapping[str, xr.Dataset]
    inputs: tuple[str, ...]
    fixed: Mapping[str, float]
    constants: Mapping[str, str]

    def __getitem__(self, output: str) -> xr.Dataset:
        """Return the measures of one output."""
        return one_of(self.indices, output, "DerivativeMeasures")

    def interval(self, prob: float = 0.95) -> dict[str, xr.Dataset]:
        """Return, by output, estimates and equal-tailed intervals of bounds and slopes.

        Dim "bound" has "estimate" (the mean over the draws), "lower" and "upper"; both errors are in the interval.

        Raises
        ------
        InputError
            When `prob` is not between 0 and 1.
        """
        prob = check.probability("interval", "prob", prob)
        out = {}
        for name, one in self.indices.items():
            kept = one[[key for key in ("bound", "slope", "bound_whole") if key in one]]
            # A dim cannot bear the name of a variable.
            kept = kept.rename({key: f"upper_{key}" for key in ("bound", "bound_whole") if key in kept})
            ends = kept.quantile([0.5 - 0.5 * prob, 0.5 + 0.5 * prob], dim=("draw", "bootstrap"), skipna=False)
            middle = kept.mean(("draw", "bootstrap"), skipna=False).expand_dims(bound=["estimate"])
            ends = ends.rename(quantile="bound").assign_coords(bound=["lower", "upper"])
            out[name] = xr.concat([middle, ends], dim="bound")
        return out

    def table(self, prob: float = 0.95) -> pd.DataFrame:
        """Return one row for each output and parameter: the bound with its interval, of curves that of the whole.

        Raises
        ------
        InputError
            When `prob` is not between 0 and 1.
        """
        frames = []
        for name, between in self.interval(prob).items():
            key = "upper_bound_whole" if "upper_bound_whole" in between else "upper_bound"
            frame = between[key].to_dataset("bound").to_dataframe().reset_index()
            frame.insert(0, "output", name)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def summary(self, prob: float = 0.95) -> str:
        """Return a table to read, the largest bound first."""
        found = self.table(prob)
        lines = []
        for name, one in self.indices.items():
            where = ", whole curve" if "bound_whole" in one else ""
            if found.loc[found["output"] == name, "estimate"].isna().all():
                lines.append(f"{name}: does not vary, so that nothing drives it")
                continue
            lines.append(f"{name}{where}: total index is at most, {prob:.0%} intervals")
            mine = found[found["output"] == name].sort_values("estimate", ascending=False, kind="stable")
            width = max(map(len, self.inputs))
            for _, row in mine.iterrows():
                said = "   no information" if row["lower"] >= 1.0 else ""
                cell = f"{row['estimate']:.3g} ({row['lower']:.3g} to {row['upper']:.3g})"
                lines.append(f"  {row['parameter']:<{width}}  {cell}{said}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.summary()


@taught
@single_threaded
def derivative_measures(
    surrogate: Surrogate,
    inputs: Any = None,
    *,
    conditions: Mapping[str, Any] | None = None,
    outputs: Sequence[str] | None = None,
    draws: int = 64,
    points: int | None = None,
    bootstrap: int = 50,
    rng: RandomState | None = None,
) -> DerivativeMeasures:
    """Return mean squared derivatives of every output, and the upper bounds on total Sobol indices that they give.

    Use it to say that an input does *not* matter: where the bound is small, its total index is smaller, interactions
    with all others included. A large bound says little (it can exceed 1): ask `sobol_indices` then.

    Parameters
    ----------
    surrogate
        What `fit` returned, or one of your own that follows `uq.Surrogate`.
    inputs, conditions
        Independent distributions, as for `sobol_indices`.
    outputs
        Names; all by default.
    draws
        Number of functions that are drawn.
    points
        Number of points at which slopes are taken, a power of two from 64; by default 1024, for surrogates that are no
        single Gaussian process as many as make 1536 joint evaluations.
    bootstrap
        Number of bootstraps of the points' 16 replicates.
    rng
        Whole number or generator.

    Returns
    -------
    DerivativeMeasures
        Print it; ``result["y"]["bound"]`` are draws.

    Raises
    ------
    InputError
        When inputs are dependent (no such bound is known), missing, unknown, or draws without a density; or numbers are
        out of range.

    Notes
    -----
    Uniform, log-uniform inputs and ranges use the constant of the uniform law, all others that of the normal law, for
    the normal score of the input. For a linear function the bound of a normal input is exact, that of a uniform one
    12 / pi^2 = 1.22 times too large. What the basis of a curve leaves out has no slope here.

    References
    ----------
    Sobol' & Kucherenko (2009), doi:10.1016/j.matcom.2009.01.023; Lamboni et al. (2013),
    doi:10.1016/j.matcom.2013.02.002; Roustant et al. (2014), doi:10.1051/ps/2013040.

    Examples
    --------
    >>> import uqms as uq
    >>> space = uq.ParameterSpace(a=uq.Normal(0.0, 1.0), b=uq.Normal(0.0, 1.0))
    >>> design = uq.sobol(space, 32, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": 2.0 * design["a"].values + design["b"].values})
    >>> result = uq.derivative_measures(uq.GaussianProcess().fit(runs), rng=1)
    >>> result["y"]["bound"].mean(("draw", "bootstrap")).values.round(1)
    array([0.8, 0.2])
    """
    who = "derivative_measures"
    surrogate = check_surrogate(surrogate, who)
    over = independent_inputs(surrogate, inputs, conditions, who)
    numbers = [name for name, law in over.laws.items() if not isinstance(law, Prior | Condition)]
    if numbers:
        raise InputError(f"{who}: {', '.join(numbers)} is given by draws, and the bound needs a prior, or a range.")
    names = wanted_outputs(surrogate, outputs, who)
    for what, value, least in (("draws", draws, 2), ("bootstrap", bootstrap, 10)):
        check.whole(who, what, value, least=least)
    generator = as_generator(rng)
    p = len(over.names)
    wide = isinstance(surrogate, GaussianProcessSurrogate) or is_exact(surrogate)
    count = POINTS if wide else 1 << max(6, (EVALUATIONS // (1 + 2 * p)).bit_length() - 1)
    each = (count if points is None else checked_points(points, 4 * REPLICATES, who)) // REPLICATES
    v = np.concatenate([qmc.Sobol(p, scramble=True, rng=generator).random(each) for _ in range(REPLICATES)])
    v = np.clip(v, EDGE, 1.0 - EDGE)
    columns = [over.box.names.index(name) for name in over.names]
    u = over.to_box(v)
    inside = _widths(u, columns)
    functions = _functions(surrogate, over, u, int(draws), columns, generator)
    slopes = _slopes_of_inputs(over, v, u, columns)
    # The Bayesian bootstrap's variance is (r - 1) / (r + 1) of the unbiased one of a mean of r values.
    weights = bayesian_weights(REPLICATES, int(bootstrap), generator)
    weights = 1.0 + (weights - 1.0) * math.sqrt((REPLICATES + 1.0) / (REPLICATES - 1.0))
    xi = np.repeat(weights / len(v), each, axis=1)
    # All of them in one call, in which the draws of any surrogate are joint.
    drawn = functions.at(_neighbours(u, inside, columns).reshape(-1, u.shape[1]))
    scores = drawn.reshape(len(drawn), len(u), 1 + 2 * p, -1)
    found = {
        name: _measures(surrogate, name, scores, functions.rest, inside, columns, slopes, xi, over) for name in names
    }
    laws = {name: "uniform" if _is_uniform(law) else "normal" for name, law in over.laws.items()}
    return DerivativeMeasures(found, over.names, dict(over.fixed), laws)


def _is_uniform(law: object) -> bool:
    return isinstance(law, Uniform | LogUniform | Condition)


def _widths(u: Array, columns: list[int]) -> tuple[Array, Array]:
    """Return how far the points of a difference lie below and above u (k, p): inside of the box at its edges."""
    x = u[:, columns]
    return np.minimum(STEP, np.maximum(x, 0.0)), np.minimum(STEP, np.maximum(1.0 - x, 0.0))


def _neighbours(u: Array, inside: tuple[Array, Array], columns: list[int]) -> Array:
    """Return every point and those below and above it along each input, (k, 1 + 2 p, d)."""
    points = np.repeat(u[:, None, :], 1 + 2 * len(columns), axis=1)
    for j, column in enumerate(columns):
        points[:, 1 + 2 * j, column] -= inside[0][:, j]
        points[:, 2 + 2 * j, column] += inside[1][:, j]
    return points


def _slopes_of_inputs(over: IndependentInputs, v: Array, u: Array, columns: list[int]) -> Array:
    """Return du/dz (k, p): how the cube's coordinates move with the level, or the normal score, of an input."""
    x = np.asarray(over.box.from_unit(u))
    gradient = over.box.unit_gradient(x)[:, columns]
    out = np.empty_like(v)
    for j, law in enumerate(over.laws.values()):
        at = columns[j]
        if isinstance(law, Condition):
            by_level = np.full(len(v), law.high - law.low)
        else:
            assert isinstance(law, Prior)
            mass = float(law.cdf(over.box.upper[at]) - law.cdf(over.box.lower[at]))
            by_level = mass * np.exp(-np.asarray(law.log_density(x[:, at])))
        score = 1.0 if _is_uniform(law) else np.exp(-0.5 * ndtri(v[:, j]) ** 2) / math.sqrt(2.0 * math.pi)
        out[:, j] = gradient[:, j] * by_level * score
    return out


class _Functions(NamedTuple):
    """Function draws, and the variance (S, p, q) of the slopes on the cube that they leave out."""

    at: Callable[[Array], Array]
    rest: Array


def _functions(
    surrogate: Surrogate,
    over: IndependentInputs,
    u: Array,
    draws: int,
    columns: list[int],
    rng: np.random.Generator,
) -> _Functions:
    p = len(columns)
    if not isinstance(surrogate, GaussianProcessSurrogate):
        drawn = surrogate.functions(draws, rng)
        return _Functions(lambda points: np.asarray(drawn(points)), np.zeros((draws, p, 1)))
    sobol = qmc.Sobol(p, scramble=True, rng=rng)
    anchors = over.to_box(sobol.random(ANCHORS))
    some = u[rng.permutation(len(u))[:MEASURED]]
    pairs = np.repeat(some[:, None, :], 2 * p, axis=1)
    for j, column in enumerate(columns):
        middle = np.clip(some[:, column], STEP, 1.0 - STEP)
        pairs[:, 2 * j, column], pairs[:, 2 * j + 1, column] = middle - STEP, middle + STEP
    found = paths(surrogate, anchors, draws, rng, pairs)
    low, high = np.arange(0, 2 * p, 2), np.arange(1, 2 * p, 2)
    rest = found.rest[..., low, low] + found.rest[..., high, high] - 2.0 * found.rest[..., low, high]
    return _Functions(found, np.moveaxis(np.maximum(rest, 0.0) / (2.0 * STEP) ** 2, 1, 2)[found.members])


def _measures(
    surrogate: Surrogate,
    name: str,
    scores: Array,
    left_out: Array,
    inside: tuple[Array, Array],
    columns: list[int],
    slopes: Array,
    xi: Array,
    over: IndependentInputs,
) -> xr.Dataset:
    """Return the measures of an output from scores (S, k, 1 + 2 p, q) at points and beside them."""
    offset, basis, _ = fixed_rows(surrogate, name)
    layout = surrogate.layouts[name]
    inverse = layout.transform.inverse
    k, p = slopes.shape
    s, m = len(scores), len(offset)
    width = (inside[0] + inside[1]).T[None, :, :]  # (1, p, k)
    square, raw = np.empty((s, len(xi), p, m)), np.empty((s, len(xi), p, m))
    variance = np.empty((s, len(xi), m))
    # Of what is in u: du/dz for the bound, and the scale of the input for the slope that is shown.
    shown = np.array([_ends(over, column) for column in columns])
    size = max(1, BLOCK // (s * k * (1 + 2 * p)))
    for start in range(0, m, size):
        part = slice(start, min(start + size, m))
        linear = offset[part] + scores @ basis[part].T
        y = np.asarray(inverse(linear))
        middle = y[:, :, 0]
        mean = np.einsum("bk,skc->sbc", xi, middle)
        second = np.einsum("bk,skc->sbc", xi, (middle - middle.mean(axis=1, keepdims=True)) ** 2)
        off = mean - middle.mean(axis=1)[:, None]
        variance[..., part] = flattened((second - off**2) * k / (k - 1), mean)
        low, high = y[:, :, 1::2], y[:, :, 2::2]
        derivative = np.moveaxis(high - low, 2, 1) / width[..., None]  # (s, p, k, c)
        # Slopes that the draws leave out: of the scores, on the scale of the output by its local derivative.
        step = 1e-6 * max(float(np.abs(linear).max()), 1.0)
        local = (np.asarray(inverse(linear[:, :, 0] + step)) - np.asarray(inverse(linear[:, :, 0] - step))) / (
            2.0 * step
        )
        rest = np.einsum("spq,cq->spc", left_out, basis[part] ** 2) if left_out.any() else np.zeros((s, p, 1))
        squared = derivative**2 + rest[:, :, None, :] * (local**2)[:, None]
        square[..., part] = np.einsum("bk,kp,spkc->sbpc", xi, slopes**2, squared, optimize=True)
        raw[..., part] = np.einsum("bk,spkc->sbpc", xi, squared, optimize=True) / shown[:, None] ** 2
    constant = np.array([1.0 / math.pi**2 if _is_uniform(law) else 1.0 for law in over.laws.values()])
    bounded = constant[:, None] * square
    safe = np.where(variance > 0.0, variance, np.nan)
    lead, shape = ("draw", "bootstrap", "parameter"), layout.shape
    out = {
        "bound": ((*lead, *layout.dims), (bounded / safe[:, :, None]).reshape(s, len(xi), p, *shape)),
        "slope": ((*lead, *layout.dims), np.sqrt(raw).reshape(s, len(xi), p, *shape)),
        "variance": (("draw", "bootstrap", *layout.dims), variance.reshape(s, len(xi), *shape)),
    }
    if layout.dims:
        w = along(layout.dims, layout.coords)
        whole = variance @ w
        out["bound_whole"] = (lead, (bounded @ w) / np.where(whole > 0.0, whole, np.nan)[..., None])
    found = xr.Dataset(out, coords={"parameter": list(over.names), **layout.coords})
    found["variance"].attrs["unit"] = f"({layout.unit})²" if layout.unit else ""
    return found


def _ends(over: IndependentInputs, column: int) -> float:
    """Return the width of the design box on the scale on which the surrogate takes an input."""
    low, high = over.box.lower[column], over.box.upper[column]
    scale = SCALES[over.box.scale[column]]
    return float(scale.forward(high) - scale.forward(low))
