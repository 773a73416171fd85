"""Sobol indices of a surrogate's outputs, with the surrogate's error and the Monte Carlo error in their intervals.

==========  ==================================================================  ==================
symbol      meaning                                                             shape
==========  ==================================================================  ==================
f           an output as a function of independent inputs; a draw is one f
S1          Var(E[f | x_g]) / Var(f), for group g of the inputs
ST          1 - Var(E[f | all but x_g]) / Var(f)
S2          fraction due to the interaction of two groups
whole       the same of a curve: variances integrated along its coordinates
tau         T omega, what the basis of a curve leaves out; see `outputs`        (m,)
==========  ==================================================================  ==================

The estimators and their letters are in `_pick_freeze`. Each draw's moments are those of the mean on 16 times as many
points, plus the difference of both on its own points: what is uncertain is the difference, and it is small.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, final

import numpy as np
import pandas as pd
import xarray as xr

from uqms import _checks as check
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, RandomState, as_generator
from uqms.calibration.direct import is_exact
from uqms.errors import PACKAGE, DesignWarning, InputError
from uqms.sensitivity._draws import (
    along,
    check_room,
    checked_points,
    interval_of,
    is_flat,
    only_indices,
    parts_of,
    wanted_groups,
    wanted_outputs,
)
from uqms.sensitivity._functions import Functions, default_points, functions_of
from uqms.sensitivity._inputs import IndependentInputs, check_surrogate, independent_inputs
from uqms.sensitivity._pick_freeze import (
    REPLICATES,
    Design,
    Moments,
    Products,
    design_of,
    legendre,
    of_covariance,
    pairs_of,
    products,
)
from uqms.sensitivity._resampling import one_of
from uqms.surrogates import Surrogate
from uqms.surrogates.outputs import Layout
from uqms.surrogates.protocol import fixed_rows
from uqms.surrogates.transforms import Identity

__all__ = ["SobolIndices", "sobol_indices"]

FINER = 16  # times as many points for the mean as for the draws
PAIRS = 4  # points of a replicate at which what paths leave out is measured
DEGREE = 10  # of the polynomials of main effects
MOST_SCORES = 32  # of which all products are formed
ROOM = 2**24  # numbers that are held at once while points are evaluated
MOST = 2**28  # numbers of a result
NOTHING = 1e-13  # of the largest variance of a curve: less is rounding
LEAST_DRAWS = 20
UNEXPLAINED = 0.05  # share of the variance that runs may leave open: with more, 95 % intervals covered 77 %
WIDE = 0.05  # sd of an index from the surrogate's error


@taught
@final
@dataclass(frozen=True, eq=False)
class SobolIndices:
    """Sobol indices of every output, as draws.

    ``result["y"]`` is a Dataset of one output with the variables

    - S1, ST: first-order and total index, dims ("draw", "bootstrap", "parameter", coordinates of the output);
    - S2: interaction of two parameters, with "other" as a further dim, where it was asked for; NaN on its diagonal;
    - variance: of the output over the inputs, dims ("draw", "bootstrap", coordinates);
    - unexplained: fraction of the variance that the surrogate does not know, dims (coordinates);
    - S1_whole, ST_whole, S2_whole, unexplained_whole: of a curve or field as a whole.

    Draws are functions that the runs allow, bootstraps what finitely many points do to each. Where an output does not
    vary, its indices are NaN.

    Attributes
    ----------
    indices
        By output.
    inputs
        Names of the inputs that vary.
    fixed
        Values of the others.
    groups
        By name, the inputs of a group.
    settings
        Numbers of draws, points and bootstraps, mass that was cut off outside of the design box, and whether the
        surrogate's hyperparameters are point estimates.
    """

    indices: Mapping[str, xr.Dataset]
    inputs: tuple[str, ...]
    fixed: Mapping[str, float]
    groups: Mapping[str, tuple[str, ...]]
    settings: Mapping[str, float]

    def __getitem__(self, output: str) -> xr.Dataset:
        """Return the indices of one output."""
        return one_of(self.indices, output, "SobolIndices")

    @property
    def tree(self) -> xr.DataTree:
        """All of it as one tree, one node per output."""
        return xr.DataTree.from_dict({f"/{name}": dataset for name, dataset in self.indices.items()})

    def interval(self, prob: float = 0.95) -> dict[str, xr.Dataset]:
        """Return, by output, estimates and equal-tailed intervals of all indices.

        Dim "bound" has "estimate" (the mean over the draws), "lower" and "upper"; both errors are in the interval.

        Raises
        ------
        InputError
            When `prob` is not between 0 and 1.
        """
        prob = check.probability("interval", "prob", prob)
        return {name: interval_of(only_indices(one), prob) for name, one in self.indices.items()}

    def error(self) -> dict[str, xr.Dataset]:
        """Return, by output, the two parts of the sd of every index, dim "source".

        "surrogate" is what more runs of the simulator reduce, "monte_carlo" what more points do.
        """
        return {name: parts_of(only_indices(one)) for name, one in self.indices.items()}

    def table(self, prob: float = 0.95, *, pointwise: bool = False) -> pd.DataFrame:
        """Return one row for each output, index and parameter: estimate, interval and the two parts of its sd.

        Of curves those of the whole curve, or with `pointwise` those at every coordinate.

        Raises
        ------
        InputError
            When `prob` is not between 0 and 1.
        """
        between, parts = self.interval(prob), self.error()
        rows: list[dict[str, object]] = []
        for name, one in self.indices.items():
            for kind in ("S1", "ST", "S2"):
                key = f"{kind}_whole" if f"{kind}_whole" in one and not pointwise else kind
                if key in one:
                    rows += _rows(name, kind, between[name][key], parts[name][key])
        return pd.DataFrame(rows)

    @property
    def too_few_runs(self) -> tuple[str, ...]:
        """Outputs for which more runs are needed: the surrogate's error decides too much of their indices.

        It leaves more than a twentieth of the variance unexplained, or the sd of an index from it is above 0.05. Which
        inputs the unexplained variance belongs to follows from the prior of the process, which may be wrong there.
        """
        return tuple(name for name, one in self.indices.items() if _few(one))

    def summary(self, prob: float = 0.95) -> str:
        """Return a table to read: total and first-order indices, the largest first."""
        found = self.table(prob)
        lines = []
        for name, one in self.indices.items():
            curve = "S1_whole" in one
            share = float(one["unexplained_whole" if curve else "unexplained"])
            mine = found[found["output"] == name]
            if mine["estimate"].isna().all():
                lines.append(f"{name}: does not vary, so that nothing drives it")
                continue
            lines.append(
                f"{name}{', whole curve' if curve else ''}: {prob:.0%} intervals; the surrogate leaves "
                f"{share:.2g} of the variance undetermined"
            )
            order = mine[mine["index"] == "ST"].sort_values("estimate", ascending=False)["parameter"]
            width = max(map(len, order))
            for parameter in order:
                cells = [
                    _cell(kind, mine[(mine["index"] == kind) & (mine["parameter"] == parameter)].iloc[0])
                    for kind in ("ST", "S1")
                ]
                lines.append(f"  {parameter:<{width}}  " + "   ".join(cells))
            if name in self.too_few_runs:
                lines.append(f"  {_advice(name)}")
        if self.settings.get("point_estimated"):
            lines.append(
                "The surrogate's hyperparameters are point estimates, with which a weak input may seem to do nothing; "
                'fit with GaussianProcess(hyperparameters="averaged") where it matters.'
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.summary()


@taught
@single_threaded
def sobol_indices(
    surrogate: Surrogate,
    inputs: Any = None,
    *,
    conditions: Mapping[str, Any] | None = None,
    outputs: Sequence[str] | None = None,
    order: Literal[1, 2] = 1,
    groups: Mapping[str, Sequence[str]] | None = None,
    by: Literal["input", "scale"] = "input",
    draws: int = 200,
    points: int | None = None,
    bootstrap: int = 50,
    rng: RandomState | None = None,
) -> SobolIndices:
    """Return how much of each output's variance every input explains, alone and with others, with intervals.

    Use it when inputs are independent: over the prior, to see what matters before there are data. Intervals hold the
    error of the surrogate, as joint draws of its whole function (errors that were independent from point to point would
    average out, and intervals come out too narrow), and that of the Monte Carlo points. For dependent inputs, such as
    the draws of a posterior, use Shapley effects.

    Parameters
    ----------
    surrogate
        What `fit` returned, or one of your own that follows `uq.Surrogate`; `uq.DirectSimulator` is one without error.
    inputs
        Their distribution: by default the prior of the space that the surrogate was trained in. Else a
        `ParameterSpace`, or a mapping of input to a prior, a range ``uq.Condition(low, high)``, one number (fixed), or
        draws of it, which are taken as independent of the others. What lies outside of the design box is cut off.
    conditions
        Value or range of each known input.
    outputs
        Names; all by default.
    order
        2 for the interactions of pairs too, at nearly twice the cost.
    groups
        Name -> inputs that count as one; other inputs count by themselves.
    by
        "scale" is for a chain of surrogates: the inputs of each member are one group. Inputs that enter at several
        members are a group of their own, such as "cell+tissue".
    draws
        Number of functions that are drawn.
    points
        Number of points of each of the d + 2 columns of the design (2 d + 2 with order 2), a power of two from 64. By
        default 1024; for surrogates that are no single Gaussian process as many as make about 2000 evaluations, since
        the cost of joint draws there grows with the cube of that.
    bootstrap
        Number of bootstraps of the design's 16 replicates.
    rng
        Whole number or generator.

    Returns
    -------
    SobolIndices
        Print it; ``result["y"]["ST"]`` are draws.

    Raises
    ------
    InputError
        When inputs are dependent, missing, unknown or outside of the design box, a condition is neither fixed nor given
        a range, groups overlap, or numbers are out of range.

    Warns
    -----
    DesignWarning
        When the surrogate's error decides too much: too few runs.

    Notes
    -----
    Outputs with a transform are decomposed on their own scale. What the basis of a curve leaves out is a function of
    the inputs of which only the variance is known: in every draw it is divided at random between them and their
    interaction. Of a stochastic simulator the indices are those of its mean (with a transform, of its median).
    Estimates are not clipped: of an input that does nothing they may be slightly below zero.

    References
    ----------
    Sobol' (2001), doi:10.1016/S0378-4754(00)00270-6; Oakley & O'Hagan (2004), doi:10.1111/j.1467-9868.2004.05304.x;
    Le Gratiet, Cannamela & Iooss (2014), doi:10.1137/130926869; whole curves: Lamboni et al. (2011),
    doi:10.1016/j.ress.2010.09.002, Gamboa et al. (2014), doi:10.1214/14-EJS895.

    Examples
    --------
    >>> import uqms as uq
    >>> space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
    >>> design = uq.sobol(space, 32, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": 2.0 * design["a"].values + design["b"].values})
    >>> result = uq.sobol_indices(uq.GaussianProcess().fit(runs), rng=1)
    >>> result["y"]["S1"].mean(("draw", "bootstrap")).values.round(2)
    array([0.8, 0.2])
    """
    who = "sobol_indices"
    surrogate = check_surrogate(surrogate, who, independent=False)
    over = independent_inputs(surrogate, inputs, conditions, who)
    names = wanted_outputs(surrogate, outputs, who)
    named = wanted_groups(over.names, _by_scale(surrogate, groups, over.names, who) if by != "input" else groups, who)
    _check_counts(order, draws, bootstrap, who)
    generator = as_generator(rng)
    columns = 2 + len(named) * (2 if order == 2 else 1)
    n = (
        default_points(surrogate, columns, REPLICATES)
        if points is None
        else checked_points(points, 4 * REPLICATES, who)
    )
    check_room(surrogate, names, draws * bootstrap * len(named) * (2 + (order == 2) * len(named)), MOST, who)
    places = [[over.names.index(name) for name in group] for group in named.values()]
    finer = 1 if is_exact(surrogate) else FINER  # there is no difference from the mean
    design = design_of(places, len(over.names), finer * n // REPLICATES, order == 2, generator)
    pairs = np.swapaxes(_at(design, over, slice(None), PAIRS), 1, 2).reshape(-1, design.columns, over.box.d)
    functions = functions_of(surrogate, over, draws, pairs, generator)
    sums = _moments(surrogate, names, design, over, functions, n // REPLICATES)
    weights = generator.multinomial(REPLICATES, np.full(REPLICATES, 1.0 / REPLICATES), size=bootstrap) / REPLICATES
    # The variance of a mean of r values that are drawn again from themselves is (r - 1) / r of what it should be.
    weights = 1.0 / REPLICATES + (weights - 1.0 / REPLICATES) * math.sqrt(REPLICATES / (REPLICATES - 1))
    sizes = np.array([len(group) for group in named.values()])
    indices = {
        name: _dataset(surrogate.layouts[name], sums[name], weights, list(named), sizes, generator) for name in names
    }
    settings = {"draws": draws, "points": n, "bootstrap": bootstrap, "outside": over.outside}
    settings["point_estimated"] = bool(getattr(surrogate, "point_estimated", False))
    found = SobolIndices(indices, over.names, dict(over.fixed), {k: tuple(v) for k, v in named.items()}, settings)
    for name in found.too_few_runs:
        warnings.warn(f"{name}: {_advice(name)}", DesignWarning, skip_file_prefixes=PACKAGE)
    return found


# ---------------------------------------------------------------------------------------------------------- arguments
def _by_scale(surrogate: Surrogate, groups: object, names: Sequence[str], who: str) -> dict[str, list[str]]:
    """Return the inputs of each member of a chain that vary.

    Raises
    ------
    InputError
        When it is no chain, or groups are given too.
    """
    scales = getattr(surrogate, "scales", None)
    if scales is None or groups is not None:
        why = f"a {type(surrogate).__name__} has no scales" if scales is None else "groups are given too"
        raise InputError(f"{who}: by='scale' is for a uq.Chain without groups, but {why}. Leave one of the two out.")
    varying = {name: [one for one in inputs if one in names] for name, inputs in scales.items()}
    return {name: inputs for name, inputs in varying.items() if inputs and [name] != inputs}


def _check_counts(order: object, draws: object, bootstrap: object, who: str) -> None:
    if order not in (1, 2) or isinstance(order, bool):
        raise InputError(f"{who}: order is {order!r}; give 1 (first-order and total) or 2 (interactions of pairs too).")
    for key, value, least in (("draws", draws, LEAST_DRAWS), ("bootstrap", bootstrap, 2)):
        check.whole(who, key, value, least=least)


def _advice(name: str) -> str:
    return (
        f"Too few runs for {name}: the surrogate's error decides too much of these indices. Run more points, "
        "uq.extend(design, n); uq.learning_curve shows what more runs bring."
    )


# ------------------------------------------------------------------------------------------------------------ moments
def _at(design: Design, over: IndependentInputs, replicates: slice, n: int) -> Array:
    """Return u (r, c, n, d) at the first n points of some replicates."""
    a, b = design.a[replicates, :n], design.b[replicates, :n]
    shape = (*a.shape[:2], over.box.d)
    ua, ub = (over.to_box(v.reshape(-1, v.shape[-1])).reshape(shape) for v in (a, b))
    from_b = np.zeros((design.columns, over.box.d), dtype=bool)
    from_b[:, [over.box.names.index(name) for name in over.names]] = design.from_b
    return np.where(from_b[None, :, None, :], ub[:, None], ua[:, None])


class _Features(NamedTuple):
    """What the moments of one output are made of, and how they become those at its coordinates.

    Attributes
    ----------
    layout
        Of the output.
    scores
        Which of all scores it has, (f,).
    offset, basis
        From these scores to the transform's scale, (m,), (m, f).
    centre
        What is taken from the features before products are formed: of the scores, or of the output, (f,) or (m,).
    leftover
        Square of the truncation factor on the output's own scale, (m, t).
    slope
        Mean squared slope of the transform's inverse, (m,).
    effects
        Main effects of the mean, coefficients (g, degree, f) of Legendre polynomials; zero for groups of several.
    """

    layout: Layout
    scores: Array
    offset: Array
    basis: Array
    centre: Array
    leftover: Array
    slope: Array
    effects: Array

    @property
    def plain(self) -> bool:
        """Whether features are scores, with all products of two; else values at coordinates, with their squares."""
        return _by_scores(self.layout, len(self.scores))

    @property
    def size(self) -> Array:
        """How large the output is, on the scale of its variance (m,)."""
        return np.abs(self.offset + self.basis @ self.centre) if self.plain else np.abs(self.centre)

    def of(self, scores: Array) -> Array:
        """Return the features (..., f) of all scores (..., q)."""
        own = scores[..., self.scores.astype(int)]
        return (own if self.plain else self.decoded(own)) - self.centre

    def decoded(self, own: Array) -> Array:
        return np.asarray(self.layout.transform.inverse(self.offset + own @ self.basis.T))

    def of_rest(self, rest: Array) -> Array:
        """Return the covariance of features (..., f) of independent scores with covariances (..., q)."""
        own = rest[..., self.scores.astype(int)]
        return own if self.plain else (own @ (self.basis**2).T) * self.slope

    def pointwise(self, moments: Moments) -> Moments:
        """Return the moments at every coordinate (..., m)."""
        if not self.plain:
            return moments
        return Moments(moments.mean @ self.basis.T, *(self.at(each) for each in moments[1:]))

    def at(self, products: Array) -> Array:
        """Return the products (..., k) at every coordinate (..., m)."""
        return np.asarray(products @ self._square) if self.plain else products

    @property
    def _square(self) -> Array:
        return np.asarray(np.einsum("mf,mg->fgm", self.basis, self.basis).reshape(-1, len(self.basis)))

    def embedded(self, values: Array) -> Array:
        """Return covariances of features (..., f), which are independent, as products (..., k)."""
        if not self.plain:
            return values
        f = values.shape[-1]
        out = np.zeros((*values.shape[:-1], f * f))
        out[..., :: f + 1] = values
        return out


def _features(surrogate: Surrogate, name: str, mean: Array, polynomials: Array) -> _Features:
    """Return those of an output, from scores (k, q) of the mean and polynomials (k, g, degree) at the same points."""
    layout = surrogate.layouts[name]
    offset, basis, truncation = fixed_rows(surrogate, name)
    scores = np.flatnonzero(np.any(basis != 0.0, axis=0))
    scores = scores if len(scores) else np.zeros(1, dtype=np.int64)
    own, basis = mean[:, scores], basis[:, scores]
    left = truncation[:, np.any(truncation != 0.0, axis=0)]
    slope = np.ones(len(offset))
    values = own
    if not _by_scores(layout, len(scores)):
        z = offset + own @ basis.T
        values = layout.transform.inverse(z)
        slope = np.mean(layout.transform.slopes(z, np.zeros_like(z))[0] ** 2, axis=0)
    centre = values.mean(axis=0)
    effects = np.tensordot(polynomials, values - centre, (0, 0)) / len(values)
    return _Features(layout, scores.astype(np.float64), offset, basis, centre, left**2 * slope[:, None], slope, effects)


def _polynomials(design: Design, replicates: slice, n: int) -> Array:
    """Return the Legendre polynomials (r, c, n, g, degree) of every group of one input, zero for others."""
    a, b = design.a[replicates, :n], design.b[replicates, :n]
    single = design.from_b[2 : 2 + design.groups].sum(axis=1) == 1
    out = np.zeros((len(a), design.columns, a.shape[1], design.groups, DEGREE))
    for g in np.flatnonzero(single):
        i = int(np.flatnonzero(design.from_b[2 + g])[0])
        of_a, of_b = (legendre(v[..., i], DEGREE)[:, None] for v in (a, b))
        out[..., g, :] = np.where(design.from_b[:, i, None, None], of_b, of_a)
    return out


def _cross(effects: Array, polynomials: Array, error: Array, diagonal: bool) -> Array:
    """Return the mean product (s, r, g, k) of main effects with errors (s, r, c, n, f) of the draws."""
    s, r, c, n, f = error.shape
    g = effects.shape[0]
    main = np.einsum("rxgp,gpf->rxgf", polynomials.reshape(r, c * n, g, -1), effects, optimize=True)
    error = error.reshape(s, r, c * n, f)
    if diagonal:
        return np.asarray(np.einsum("rxgf,srxf->srgf", main, error, optimize=True) / (c * n))
    product = main.reshape(1, r, c * n, g * f).swapaxes(-1, -2) @ error / (c * n)
    return np.asarray(product.reshape(s, r, g, f * f))


class _Sums(NamedTuple):
    """What is known of one output: moments by draw and replicate, and the spread of the draws."""

    features: _Features
    moments: Moments  # (s, r, ..., k)
    spread: Array  # (k,), mean product of the draws' deviations from their mean


def _moments(
    surrogate: Surrogate,
    names: Sequence[str],
    design: Design,
    over: IndependentInputs,
    functions: Functions,
    n: int,
) -> dict[str, _Sums]:
    """Return the sums of every output, some replicates at a time."""
    replicates, fine = design.a.shape[:2]
    single = (design.from_b[2 : 2 + design.groups].sum(axis=1) == 1)[:, None]
    s, c, _, q = functions.rest.shape
    everything = None
    if functions.at_once:
        u = _at(design, over, slice(None), n)
        drawn = functions.draws(u.reshape(-1, u.shape[-1]))
        everything = drawn.reshape(s, *u.shape[:-1], q)
    widest = max(_width(surrogate, name) for name in names)
    size = max(1, ROOM // (c * max(s * n, fine) * max(q, widest)))
    features: dict[str, _Features] = {}
    parts: dict[str, list[tuple[Moments, Array]]] = {name: [] for name in names}
    for start in range(0, replicates, size):
        block = slice(start, min(start + size, replicates))
        u = _at(design, over, block, fine)
        mean = functions.mean(u.reshape(-1, u.shape[-1])).reshape(1, *u.shape[:-1], q)
        few = np.ascontiguousarray(u[:, :, :n])
        if everything is None:
            drawn = functions.draws(few.reshape(-1, u.shape[-1])).reshape(s, *few.shape[:-1], q)
        else:
            drawn = everything[:, block]
        near_them = _polynomials(design, block, n)
        for name in names:
            if name not in features:
                at_all = _polynomials(design, block, fine).reshape(-1, design.groups, DEGREE)
                features[name] = _features(surrogate, name, mean.reshape(-1, q), at_all)
            one = features[name]
            mine, near = one.of(drawn), one.of(mean)
            of_draws, coarse, finer = (
                products(each, design.groups, not one.plain) for each in (mine, near[:, :, :, :n], near)
            )
            total = of_draws.minus(coarse).plus(finer)
            error = mine - near[:, :, :, :n]
            of_error = products(error, design.groups, not one.plain)
            with_main = 2.0 * _cross(one.effects, near_them, error, not one.plain)
            total = total._replace(
                first=np.where(single, finer.first + of_error.first + with_main, total.first),
                base=np.where(single, finer.base + of_error.base, total.base),
            )
            off = mine - mine.mean(axis=0)
            spread = Products(not one.plain, off).power().sum(axis=0) / (s - 1)
            parts[name].append((total, spread))
    out = {}
    for name in names:
        one = features[name]
        joined = Moments(*(np.concatenate(each, axis=1) for each in zip(*(m for m, _ in parts[name]), strict=True)))
        spread = np.concatenate([each for _, each in parts[name]]).mean(axis=0)
        own = one.of_rest(functions.rest)
        rest = of_covariance(own, design.groups)
        added = Moments(np.zeros((s, 1, 1)), *(one.embedded(each)[:, None] for each in rest[1:]))
        out[name] = _Sums(one, joined.plus(added), spread + one.embedded(rest.power.mean(axis=0)))
    return out


def _width(surrogate: Surrogate, name: str) -> int:
    """Return the number of features of an output beyond its scores."""
    layout = surrogate.layouts[name]
    scores = int(np.count_nonzero(np.any(fixed_rows(surrogate, name).basis != 0.0, axis=0)))
    return 0 if _by_scores(layout, scores) else math.prod(layout.shape)


def _by_scores(layout: Layout, count: int) -> bool:
    """Return whether moments are formed of scores: they say all of an output that is linear in them."""
    return isinstance(layout.transform, Identity) and count <= MOST_SCORES


# ------------------------------------------------------------------------------------------------------------ indices
class _Shares(NamedTuple):
    """Indices of draws and bootstraps: variance (s, b, m), first and total (s, b, g, m), second (s, b, pairs, m)."""

    variance: Array
    first: Array
    total: Array
    second: Array


def _shares(moments: Moments, delta: Array, weights: Array, left: Array, parts: Array, size: Array) -> _Shares:
    """Return indices from the moments at coordinates.

    Parameters
    ----------
    moments
        At coordinates, (s, r, ..., m).
    delta
        Square of the mean that is taken off, (s, b, m).
    weights
        Of the replicates in each bootstrap, (b, r).
    left
        Variance that each omega adds, (m, t).
    parts
        How each draw divides it, (s, g + 1, t): the groups alone, then their interaction.
    size
        Of the output, (m,): what varies by rounding only has no indices.
    """
    power, base, first, total, second, second_base, second_first = (
        np.einsum("br,sr...->sb...", weights, each, optimize=True) for each in moments[1:]
    )
    added = parts @ left.T  # (s, g + 1, m)
    variance = power - delta + left.sum(axis=1)
    largest = float(np.max(variance, initial=0.0))
    known = np.where((variance > NOTHING * largest) & ~is_flat(variance, size), variance, np.nan)
    interaction = added[:, None, -1:]
    total = total + added[:, None, :-1] + interaction
    with np.errstate(invalid="ignore", divide="ignore"):
        share = total / known[:, :, None]
        middle = np.clip(np.nan_to_num(1.0 - share.mean(axis=(0, 1))), 0.0, 1.0)  # lambda (g, m)
        off = delta[:, :, None]
        alone = first - off - middle * (base - off) + added[:, None, :-1]
        both = second
        if second.shape[2]:
            pairs = np.array(pairs_of(share.shape[2]))
            shared = np.clip(middle[pairs[:, 0]] + middle[pairs[:, 1]] - 1.0, 0.0, 1.0)
            closed = second - off - shared * (second_base - off)
            lone = second_first - off - middle * (second_base - off)
            both = (closed - lone[:, :, pairs[:, 0]] - lone[:, :, pairs[:, 1]]) / known[:, :, None]
        return _Shares(variance, alone / known[:, :, None], share, both)


def _dataset(
    layout: Layout, sums: _Sums, weights: Array, names: list[str], sizes: Array, rng: np.random.Generator
) -> xr.Dataset:
    """Return the indices of one output."""
    one = sums.features
    s, g = sums.moments.mean.shape[0], len(names)
    t = one.leftover.shape[1]
    # Gamma variates over their sum are Dirichlet: as many equal parts as inputs, and one for their interaction.
    parts = rng.standard_gamma(np.append(sizes, 1.0)[:, None], (s, g + 1, t))
    parts /= np.maximum(parts.sum(axis=1, keepdims=True), 1e-300)
    at = one.pointwise(sums.moments)
    mean = np.einsum("br,srm->sbm", weights, at.mean, optimize=True)
    size = one.size
    found = _shares(at, mean**2, weights, one.leftover, parts, size)
    spread = one.at(sums.spread) + one.leftover.sum(axis=1)
    average = found.variance.mean(axis=(0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        unexplained = np.where(is_flat(average, size), np.nan, spread / average)
    data = _variables(found, unexplained, layout, "")
    data["variance"].attrs["unit"] = f"({layout.unit})²" if layout.unit else ""
    if layout.dims:
        w = along(layout.dims, layout.coords)
        whole = Moments(*(np.sum(each * w, axis=-1, keepdims=True) for each in at))
        delta, left = np.sum(mean**2 * w, axis=-1, keepdims=True), w[None] @ one.leftover
        of_whole = _shares(whole, delta, weights, left, parts, np.max(size, keepdims=True))
        share = np.array([np.sum(w * spread) / max(float(np.sum(w * average)), 1e-300)])
        data |= _variables(of_whole, share, Layout(), "_whole")
        del data["variance_whole"]
    coords: dict[str, Any] = {"parameter": names, **{dim: np.asarray(v) for dim, v in layout.coords.items()}}
    if any("other" in each.dims for each in data.values()):
        coords["other"] = names
    return xr.Dataset(data, coords=coords)


def _variables(found: _Shares, unexplained: Array, layout: Layout, end: str) -> dict[str, xr.DataArray]:
    s, b, g, _ = found.first.shape
    lead = ("draw", "bootstrap")
    out = {
        f"S1{end}": xr.DataArray(found.first.reshape(s, b, g, *layout.shape), dims=(*lead, "parameter", *layout.dims)),
        f"ST{end}": xr.DataArray(found.total.reshape(s, b, g, *layout.shape), dims=(*lead, "parameter", *layout.dims)),
    }
    if found.second.shape[2]:
        full = np.full((s, b, g, g, found.second.shape[-1]), np.nan)
        for k, (i, j) in enumerate(pairs_of(g)):
            full[:, :, i, j] = full[:, :, j, i] = found.second[:, :, k]
        out[f"S2{end}"] = xr.DataArray(
            full.reshape(s, b, g, g, *layout.shape), dims=(*lead, "parameter", "other", *layout.dims)
        )
    out[f"variance{end}"] = xr.DataArray(found.variance.reshape(s, b, *layout.shape), dims=(*lead, *layout.dims))
    out[f"unexplained{end}"] = xr.DataArray(unexplained.reshape(layout.shape), dims=layout.dims)
    return out


# ------------------------------------------------------------------------------------------------------------- tables
def _rows(output: str, kind: str, between: xr.DataArray, parts: xr.DataArray) -> list[dict[str, object]]:
    dims = [dim for dim in between.dims if dim != "bound"]
    cells = [range(between.sizes[dim]) for dim in dims]
    rows: list[dict[str, object]] = []
    for at in np.ndindex(*(len(each) for each in cells)):
        place = dict(zip(dims, at, strict=True))
        if "other" in place and place["other"] <= place["parameter"]:
            continue
        labels = {str(dim): between[dim].values[i] for dim, i in place.items()}
        values = between.isel(place).values
        errors = parts.isel(place).values
        rows.append(
            {"output": output, "index": kind}
            | labels
            | dict(zip(("estimate", "lower", "upper"), map(float, values), strict=True))
            | {"surrogate_sd": float(errors[0]), "monte_carlo_sd": float(errors[1])}
        )
    return rows


def _cell(kind: str, row: Any) -> str:
    return (
        f"{kind} {row['estimate']:.3f} [{row['lower']:.3f}, {row['upper']:.3f}] "
        f"(sd: surrogate {row['surrogate_sd']:.2g}, Monte Carlo {row['monte_carlo_sd']:.2g})"
    )


def _few(one: xr.Dataset) -> bool:
    end = "_whole" if "S1_whole" in one else ""
    share = float(one[f"unexplained{end}"])
    spread = [float(parts_of(one[[f"{kind}{end}"]])[f"{kind}{end}"].isel(source=0).max()) for kind in ("S1", "ST")]
    return share > UNEXPLAINED or max(spread) > WIDE
