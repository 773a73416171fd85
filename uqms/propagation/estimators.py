"""The mean of a costly simulator from runs of several levels of fidelity, without a surrogate.

==========  ==================================================================  ==============
symbol      meaning                                                             shape
==========  ==================================================================  ==============
f_l         output of level l, the cheapest first, T the highest                (N, m)
Z_l         inputs at which level l ran, Z_T in Z_(T-1) in ... in Z_0           n_l of them
alpha_l     coefficient of level l, Cov(f_T, f_l) / Var(f_l) on Z_T             (m,)
c           what one input adds to the estimate                                 (N, m)
==========  ==================================================================  ==============

Both estimators are sums over independent inputs: mean of f_T on Z_T plus, level by level, alpha_l times the difference
of the means of f_l on Z_l and on Z_(l+1) (control variates); or the sum of the means of f_l - f_(l-1) (multilevel).
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, final, get_args

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import stdtrit

from uqms import _checks as check
from uqms import ensemble as table
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, Bools, Ints, RandomState, as_generator
from uqms.errors import DataError, InputError
from uqms.parameters import ParameterSpace

__all__ = ["Allocation", "MultifidelityMean", "allocate", "multifidelity_mean"]

Method = Literal["mfmc", "mlmc"]

LEAST_PAIRED = 5  # inputs at which coefficients or variances are estimated
SAME = 1e-12  # of the size of an input: it is the same one


@final
@dataclass(frozen=True, eq=False)
class MultifidelityMean:
    """The mean of the highest level's outputs over the inputs; `multifidelity_mean` makes it.

    ``result["y"]`` is a Dataset of one output with the variables

    - mean: the estimate, and sd: its standard error, dims (coordinates of the output);
    - degrees: of freedom of the standard error;
    - alone, alone_sd: what the runs of the highest level say by themselves;
    - coefficient: alpha of each lower level, dims ("level", coordinates); 1 for "mlmc".

    Attributes
    ----------
    estimates
        By output.
    levels
        The cheapest first.
    method
        How the levels were put together.
    inputs
        By output and level, at how many inputs its runs were used.
    left_out
        By output and level, how many of its runs failed, or have no partner at the level below.
    """

    estimates: Mapping[str, xr.Dataset]
    levels: tuple[str, ...]
    method: Method
    inputs: Mapping[str, Mapping[str, int]]
    left_out: Mapping[str, Mapping[str, int]]

    def __getitem__(self, output: str) -> xr.Dataset:
        """Return what was found of one output."""
        if output not in self.estimates:
            raise InputError(
                f"MultifidelityMean: there is no output {output!r}; there are {', '.join(self.estimates)}."
            )
        return self.estimates[output]

    def interval(self, prob: float = 0.95) -> xr.Dataset:
        """Return equal-tailed intervals of the means by Student's t, dim "bound": "estimate", "lower" and "upper".

        Raises
        ------
        InputError
            When `prob` is not between 0 and 1.
        """
        check.probability("interval", "prob", prob)
        out = {}
        for name, one in self.estimates.items():
            half = stdtrit(one["degrees"], 0.5 + 0.5 * prob) * one["sd"]
            ends = [one["mean"], one["mean"] - half, one["mean"] + half]
            joined = xr.concat(ends, "bound", coords="minimal", compat="override")
            out[name] = joined.assign_coords(bound=["estimate", "lower", "upper"]).assign_attrs(one["mean"].attrs)
        return xr.Dataset(out)

    def summary(self, prob: float = 0.95) -> str:
        """Return the estimates for people, beside those of the highest level alone, and which runs they are made of."""
        between = self.interval(prob)
        lines = []
        for name, one in self.estimates.items():
            unit = f" {one['mean'].attrs['unit']}" if one["mean"].attrs.get("unit") else ""
            gain = float(((one["alone_sd"] ** 2).mean() / np.maximum((one["sd"] ** 2).mean(), 1e-300)).item())
            if one["mean"].ndim:
                lines.append(f"{name}: means along {', '.join(map(str, one['mean'].dims))}")
            else:
                middle, low, high = between[name].values
                lines.append(f"{name}: mean {middle:.5g}{unit}, {prob:.0%} interval {low:.5g} to {high:.5g}")
            lines.append(f"  variance {gain:.3g} times smaller than from the runs of {self.levels[-1]!r} alone")
            used = ", ".join(f"{level} {count}" for level, count in self.inputs[name].items())
            lost = ", ".join(f"{level} {count}" for level, count in self.left_out[name].items() if count)
            lines.append(f"  inputs used: {used}" + (f"; runs left out: {lost}" if lost else ""))
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.summary()


@taught
@single_threaded
def multifidelity_mean(
    ensemble: xr.Dataset,
    levels: Sequence[str],
    *,
    method: Method = "mfmc",
    outputs: str | Sequence[str] | None = None,
) -> MultifidelityMean:
    """Estimate the mean of the highest level's outputs from runs of all levels, without a surrogate.

    Use it when the mean is what is asked for, cheap levels follow the costly one without being right themselves, and
    no surrogate is to be trusted: it is unbiased whatever the levels do. `MultiFidelity` says more from fewer runs when
    outputs are smooth. `allocate` proposes how many runs of each level a budget should buy.

    Parameters
    ----------
    ensemble
        Runs with the coordinate "fidelity". Their inputs are independent random draws, those of a level also run at
        every level below (``allocation.design``): then the standard error is exact. Of Sobol designs (`nested`) the
        estimate is better than it says.
    levels
        The cheapest first; the mean is that of the last.
    method
        - "mfmc" (default): control variates with coefficients estimated from the runs. The coefficient that an input
          is multiplied with comes from the other inputs, so that estimating it adds no bias.
        - "mlmc": the sum of the means of differences of neighbouring levels: coefficients of one, right when levels
          are meshes that converge.
    outputs
        Which, by name; all by default.

    Returns
    -------
    MultifidelityMean
        Print it.

    Raises
    ------
    DataError
        When a level has no runs, or fewer than 5 inputs have runs of two neighbouring levels.
    InputError
        When levels, outputs or method cannot be meant.

    Notes
    -----
    Runs that failed are left out, with those of the levels above at the same input, and counted: the mean is then that
    over inputs at which runs succeed. Several runs of a level at one input are averaged.

    References
    ----------
    Peherstorfer, Willcox & Gunzburger (2016), doi:10.1137/15M1046472; Giles (2015), doi:10.1017/S096249291500001X;
    Avramidis & Wilson (1993, coefficients from the other inputs), doi:10.1016/0167-6377(93)90002-X.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> rng = np.random.default_rng(1)
    >>> a = rng.normal(size=1000)
    >>> coarse = uq.ensemble.build({"a": a}, {"y": np.exp(0.4 * a)}, fidelity="coarse")
    >>> fine = uq.ensemble.build({"a": a[:50]}, {"y": np.exp(0.4 * a[:50]) + 0.1 * a[:50] ** 2}, fidelity="fine")
    >>> found = uq.multifidelity_mean(uq.ensemble.combine(coarse, fine), ("coarse", "fine"))
    >>> bool(abs(found["y"]["mean"] - (np.exp(0.08) + 0.1)) < 0.05)
    True
    """
    own = "multifidelity_mean"
    if method not in get_args(Method):
        raise InputError(f"{own}: method is {method!r}; give one of {', '.join(get_args(Method))}.")
    table.check(ensemble)
    names = _outputs(own, ensemble, outputs)
    ladder = _Ladder.of(own, ensemble, levels)
    found, inputs, left_out = {}, {}, {}
    for name in names:
        values, there = ladder.values(ensemble, name)
        used = _nested(there) if method == "mfmc" else _paired(there)
        _check_paired(own, name, ladder.levels, used)
        parts = _control_variates(values, used) if method == "mfmc" else _telescope(values, used)
        found[name] = _labelled(ensemble[name], ladder.levels, parts)
        needed = used if method == "mfmc" else _runs_of_pairs(used)
        inputs[name] = {level: int(row.sum()) for level, row in zip(ladder.levels, used, strict=True)}
        left_out[name] = {
            level: int(ladder.runs[i] - ladder.counts[i][needed[i]].sum()) for i, level in enumerate(ladder.levels)
        }
    return MultifidelityMean(found, ladder.levels, method, inputs, left_out)


# ------------------------------------------------------------------------------------------------------------ the runs
@final
@dataclass(frozen=True, eq=False)
class _Ladder:
    """Which run stands at which input and level."""

    levels: tuple[str, ...]
    level: Ints  # (run,), -1 for a level that was not asked for
    place: Ints  # (run,), which of the N different inputs
    runs: Ints  # (levels,)
    counts: Array  # (levels, N), runs at each input

    @classmethod
    def of(cls, own: str, ensemble: xr.Dataset, levels: Sequence[str]) -> "_Ladder":
        if isinstance(levels, str) or not isinstance(levels, Sequence) or len(set(levels)) < max(len(levels), 2):
            raise InputError(f"{own}: levels is {levels!r}; give at least two, the cheapest first: ('coarse', 'fine').")
        wanted = tuple(map(str, levels))
        if "fidelity" not in ensemble.coords:
            raise DataError(
                f"{own}: the ensemble has no coordinate 'fidelity'; name the level of each run: ensemble.build(..., "
                "fidelity='coarse'), uq.run(..., fidelity='coarse'), then uq.ensemble.combine."
            )
        of_run = np.array([str(one) for one in ensemble["fidelity"].values])
        missing = [one for one in wanted if one not in of_run]
        if missing:
            raise DataError(f"{own}: there are no runs of {', '.join(missing)}; there are {sorted(set(of_run))}.")
        level = np.array([wanted.index(one) if one in wanted else -1 for one in of_run])
        x = table.input_array(ensemble)
        size = np.maximum(np.abs(x).max(axis=0), 1e-300)
        _, place = np.unique(np.round(x / size / SAME) * SAME, axis=0, return_inverse=True)
        place = place.reshape(-1)
        counts = np.zeros((len(wanted), int(place.max()) + 1))
        kept = level >= 0
        np.add.at(counts, (level[kept], place[kept]), 1.0)
        return cls(wanted, level, place, counts.sum(axis=1).astype(np.int64), counts)

    def values(self, ensemble: xr.Dataset, name: str) -> tuple[Array, Bools]:
        """Return an output (levels, N, m), zero where there is none, and where there is one (levels, N)."""
        output = ensemble[name].transpose("run", ...).values
        y = output.reshape(len(output), -1)
        good = np.isfinite(y).all(axis=1) & (self.level >= 0)
        total = np.zeros((*self.counts.shape, y.shape[1]))
        count = np.zeros(self.counts.shape)
        np.add.at(total, (self.level[good], self.place[good]), y[good])
        np.add.at(count, (self.level[good], self.place[good]), 1.0)
        # Where one of several runs failed, none is used: the others would be those that succeed.
        there = (count > 0.0) & (count == self.counts)
        return np.where(there[..., None], total / np.maximum(count, 1.0)[..., None], 0.0), there


def _outputs(own: str, ensemble: xr.Dataset, outputs: str | Sequence[str] | None) -> tuple[str, ...]:
    known = table.output_names(ensemble)
    wanted = known if outputs is None else (outputs,) if isinstance(outputs, str) else tuple(outputs)
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise InputError(f"{own}: outputs is {outputs!r}; the ensemble has {', '.join(known)}.")
    return wanted


def _nested(there: Bools) -> Bools:
    """Return Z (levels, N): where a level ran and all cheaper ones too."""
    return np.asarray(np.logical_and.accumulate(there, axis=0))


def _paired(there: Bools) -> Bools:
    """Return (levels, N) where a level and the one below ran; of the lowest, where it ran itself."""
    return np.concatenate([there[:1], there[1:] & there[:-1]])


def _runs_of_pairs(used: Bools) -> Bools:
    """Return (levels, N) which runs are part of a difference."""
    above = np.concatenate([used[1:], np.zeros_like(used[:1])])
    return np.asarray(used | above)


def _check_paired(own: str, name: str, levels: tuple[str, ...], used: Bools) -> None:
    for i in range(1, len(levels)):
        count = int(used[i].sum())
        if count < LEAST_PAIRED:
            raise DataError(
                f"{own}: {count} inputs have runs of {levels[i]!r} and of the levels below with all of {name!r}; at "
                f"least {LEAST_PAIRED} are needed. Run {levels[i - 1]!r} at the inputs of {levels[i]!r} too."
            )


# ------------------------------------------------------------------------------------------------------ the estimators
class _Estimate(NamedTuple):
    """Mean, variance, degrees of freedom and the highest level's own mean and variance (m,); coefficients (T, m)."""

    mean: Array
    variance: Array
    degrees: Array
    alone: Array
    alone_variance: Array
    coefficient: Array


def _control_variates(f: Array, z: Bools) -> _Estimate:
    """Return the estimate of control variates; f (levels, N, m), z (levels, N) nested."""
    top, n = len(z) - 1, z.sum(axis=1)
    best = f[top][z[top]]
    mean, own = best.mean(axis=0), (best - best.mean(axis=0)) / n[top]
    variance, squares = np.zeros(f.shape[2]), np.zeros(f.shape[2])
    added = np.zeros((len(z), *f.shape[1:]))  # what an input adds as one that level l, and none above, ran at
    coefficient = np.zeros((top, f.shape[2]))
    for level in range(top):
        low, high = z[level], z[level + 1]
        a, b = best - best.mean(axis=0), f[level][z[top]] - f[level][z[top]].mean(axis=0)
        alpha, others = _coefficients(a, b)
        coefficient[level] = alpha
        each = np.zeros(f.shape[1:])
        each[high] = alpha
        each[z[top]] = others
        share = 1.0 / n[level + 1] - 1.0 / n[level]
        extra = low & ~high
        if extra.any():
            elsewhere = f[level][extra].mean(axis=0)
            mean = mean + share * np.sum((each * (elsewhere - f[level]))[high], axis=0)
        centre = f[level][low].mean(axis=0)
        off = np.where(low[:, None], f[level] - centre, 0.0)
        own = own - share * (others * off[z[top]])
        for group in range(level + 1, top):
            added[group] -= share * alpha * off
        # An input outside of Z_(l+1) is in the mean elsewhere, with the mean coefficient of those inside.
        added[level] += alpha / n[level] * off
    groups = [(int((z[k] & ~z[k + 1]).sum()), added[k][z[k]]) for k in range(top)]
    for count, values in [*groups, (int(n[top]), own)]:
        if count:
            part = count * values.var(axis=0, ddof=1)
            variance, squares = variance + part, squares + part**2 / (len(values) - 1)
    return _estimate(mean, variance, squares, best, coefficient)


def _coefficients(a: Array, b: Array) -> tuple[Array, Array]:
    """Return the coefficient (m,) of b for a, and those (n, m) from all inputs but one; a, b (n, m) are centred."""
    n = len(a)
    both, square = (a * b).sum(axis=0), (b * b).sum(axis=0)
    left = square - n / (n - 1) * b * b
    varies = left > 1e-14 * np.maximum(square, 1e-300)
    without = np.where(varies, both - n / (n - 1) * a * b, 0.0) / np.where(varies, left, 1.0)
    return np.where(square > 0.0, both, 0.0) / np.where(square > 0.0, square, 1.0), without


def _telescope(f: Array, pairs: Bools) -> _Estimate:
    """Return the sum of means of differences; f (levels, N, m), pairs (levels, N)."""
    n = pairs.sum(axis=1)
    below = np.concatenate([np.zeros_like(f[:1]), f[:-1]])
    steps = np.where(pairs[..., None], f - below, 0.0)
    means = steps.sum(axis=1) / n[:, None]
    mean = means.sum(axis=0)
    off = np.where(pairs[..., None], (steps - means[:, None]) / n[:, None, None], 0.0)
    variance, squares = np.zeros(f.shape[2]), np.zeros(f.shape[2])
    # Inputs with the same differences are alike, and independent of the others.
    patterns, which = np.unique(pairs.T, axis=0, return_inverse=True)
    for i, pattern in enumerate(patterns):
        count = int((which.reshape(-1) == i).sum())
        if not pattern.any():
            continue
        alike = pairs[pattern].all(axis=0)  # these differences are known at more inputs than at those without others
        values = off[pattern][:, alike].sum(axis=0)
        part = count * values.var(axis=0, ddof=1)
        variance, squares = variance + part, squares + part**2 / (len(values) - 1)
    best = f[-1][pairs[-1]]
    return _estimate(mean, variance, squares, best, np.ones((len(f) - 1, f.shape[2])))


def _estimate(mean: Array, variance: Array, squares: Array, best: Array, coefficient: Array) -> _Estimate:
    degrees = np.where(squares > 0.0, variance**2 / np.where(squares > 0.0, squares, 1.0), len(best) - 1.0)
    return _Estimate(mean, variance, degrees, best.mean(axis=0), best.var(axis=0, ddof=1) / len(best), coefficient)


def _labelled(output: xr.DataArray, levels: tuple[str, ...], parts: _Estimate) -> xr.Dataset:
    like = output.transpose("run", ...)
    dims = [str(dim) for dim in like.dims[1:]]
    shape = like.shape[1:]
    unit = {"unit": str(output.attrs.get("unit", ""))}
    variables = {
        "mean": (dims, parts.mean.reshape(shape), unit),
        "sd": (dims, np.sqrt(parts.variance).reshape(shape), unit),
        "degrees": (dims, parts.degrees.reshape(shape)),
        "alone": (dims, parts.alone.reshape(shape), unit),
        "alone_sd": (dims, np.sqrt(parts.alone_variance).reshape(shape), unit),
        "coefficient": (["level", *dims], parts.coefficient.reshape(len(levels) - 1, *shape)),
    }
    return xr.Dataset(variables, coords={"level": list(levels[:-1]), **{dim: like[dim].values for dim in dims}})


# ---------------------------------------------------------------------------------------------------------- allocation
@final
@dataclass(frozen=True, eq=False)
class Allocation:
    """How many runs of each level a budget should buy; `allocate` makes it.

    Attributes
    ----------
    runs
        Level -> number of inputs, the cheapest first. With "mfmc" those of a level are among those of the level below;
        with "mlmc" each is run at the level below too, and none is shared. Levels that do not pay are left out.
    method
        "mfmc" or "mlmc".
    cost
        Of all of these runs, in the unit of the budget.
    sd
        Standard error of the mean that is expected.
    sd_alone
        Of as many runs of the highest level alone as the budget buys.
    table
        By level: cost of a run, correlation with the highest level, sd, and number of inputs.
    """

    runs: Mapping[str, int]
    method: Method
    cost: float
    sd: float
    sd_alone: float
    table: pd.DataFrame

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels that are worth running, the cheapest first."""
        return tuple(self.runs)

    @property
    def gain(self) -> float:
        """How many times smaller the variance is than that of the highest level alone, for the same budget."""
        return (self.sd_alone / self.sd) ** 2

    def design(self, space: ParameterSpace, rng: RandomState | None = None) -> dict[str, xr.Dataset]:
        """Return where to run each level: independent draws of the prior, shared between levels as the method requires.

        Run each, ``uq.run(simulators[level], design[level], fidelity=level)``, and combine the ensembles.

        Raises
        ------
        InputError
            When the space has conditions: the mean is one over the prior.
        """
        if not isinstance(space, ParameterSpace) or space.conditions:
            raise InputError("design: give a ParameterSpace without conditions; fix these in the simulator.")
        counts = list(self.runs.values())
        total = max(counts) if self.method == "mfmc" else sum(counts)
        drawn = space.draw(total, as_generator(rng)).rename(draw="run")
        if self.method == "mfmc":
            return {level: drawn.isel(run=slice(0, count)) for level, count in self.runs.items()}
        starts = np.concatenate([[0], np.cumsum(counts)])
        blocks = [np.arange(starts[i], starts[min(i + 2, len(counts))]) for i in range(len(counts))]
        return {level: drawn.isel(run=rows) for level, rows in zip(self.runs, blocks, strict=True)}

    def __str__(self) -> str:
        runs = ", ".join(f"{count} of {level!r}" for level, count in self.runs.items())
        return (
            f"{runs} ({self.method}, cost {self.cost:g}): standard error {self.sd:.3g}, variance {self.gain:.3g} times "
            "smaller than of the highest level alone"
        )


@taught
def allocate(
    pilot: xr.Dataset,
    budget: float,
    levels: Sequence[str],
    *,
    cost: Mapping[str, float] | None = None,
    method: Method = "mfmc",
    output: str | None = None,
) -> Allocation:
    """Propose how many runs of each level to make for a budget, from a few runs of all of them.

    Use it before `multifidelity_mean`. Correlations and variances are those of the pilot runs, twenty inputs or more at
    which every level was run; all choices of lower levels are compared, so that one that does not pay is left out.

    Parameters
    ----------
    pilot
        Runs of all levels at the same inputs.
    budget
        In the unit of the costs; the pilot is not part of it.
    levels
        The cheapest first.
    cost
        Cost of a run by level; by default the mean of the pilot's "cost" coordinate, else of its seconds.
    method
        As for `multifidelity_mean`.
    output
        The output whose mean is estimated; may be left out when there is one. Of a curve the mean variance over its
        coordinates counts.

    Returns
    -------
    Allocation
        Numbers of runs, the standard error that is expected, and ``design(space, rng)``.

    Raises
    ------
    InputError
        When costs are not known, the budget is too small, or an argument cannot be meant.
    DataError
        When fewer than 5 inputs have runs of all levels.

    References
    ----------
    Peherstorfer, Willcox & Gunzburger (2016), doi:10.1137/15M1046472; Giles (2015), doi:10.1017/S096249291500001X.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> a = np.random.default_rng(1).normal(size=30)
    >>> coarse = uq.ensemble.build({"a": a}, {"y": np.exp(0.4 * a)}, fidelity="coarse")
    >>> fine = uq.ensemble.build({"a": a}, {"y": np.exp(0.4 * a) + 0.1 * a ** 2}, fidelity="fine")
    >>> pilot = uq.ensemble.combine(coarse, fine)
    >>> plan = uq.allocate(pilot, 2000.0, ("coarse", "fine"), cost={"coarse": 1.0, "fine": 100.0})
    >>> bool(plan.runs["coarse"] > 10 * plan.runs["fine"]), bool(plan.gain > 2.0)
    (True, True)
    """
    own = "allocate"
    if method not in get_args(Method):
        raise InputError(f"{own}: method is {method!r}; give one of {', '.join(get_args(Method))}.")
    table.check(pilot)
    names = table.output_names(pilot)
    if output is None and len(names) > 1:
        raise InputError(f"{own}: the runs have the outputs {', '.join(names)}; pass output=, the one to average.")
    (name,) = _outputs(own, pilot, names[0] if output is None else output)
    ladder = _Ladder.of(own, pilot, levels)
    values, there = ladder.values(pilot, name)
    everywhere = there.all(axis=0)
    if everywhere.sum() < LEAST_PAIRED:
        raise DataError(
            f"{own}: {int(everywhere.sum())} inputs have runs of all of {', '.join(ladder.levels)} with {name!r}; give "
            f"at least {LEAST_PAIRED}, twenty are better."
        )
    w = _costs(own, pilot, ladder, cost)
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not np.isfinite(budget) or budget <= 0.0:
        raise InputError(f"{own}: budget is {budget!r}; give a positive number, in the unit of the costs.")
    y = values[:, everywhere]
    off = y - y.mean(axis=1, keepdims=True)
    covariance = np.einsum("anm,bnm->ab", off, off) / (y.shape[1] - 1) / y.shape[2]
    top = len(w) - 1
    plans = [
        plan
        for size in range(top + 1)
        for lower in itertools.combinations(range(top), size)
        if (plan := _plan(method, covariance, w, (*lower, top), float(budget))) is not None
    ]
    alone = float(np.sqrt(covariance[top, top] * w[top] / budget))
    if not plans:
        raise InputError(
            f"{own}: a budget of {budget:g} buys fewer than {LEAST_PAIRED} runs of {ladder.levels[top]!r}, which costs "
            f"{w[top]:g}, with those of lower levels that belong to them; raise it."
        )
    best = min(plans, key=lambda plan: plan.variance)
    sd = np.sqrt(np.diagonal(covariance))
    correlation = covariance[:, top] / np.maximum(sd * sd[top], 1e-300)
    counts = dict(zip(best.levels, best.counts, strict=True))
    frame = pd.DataFrame(
        {"cost": w, "correlation": correlation, "sd": sd, "runs": [counts.get(i, 0) for i in range(len(w))]},
        index=pd.Index(ladder.levels, name="level"),
    )
    runs = {ladder.levels[i]: count for i, count in counts.items()}
    return Allocation(runs, method, best.cost, float(np.sqrt(best.variance)), alone, frame)


def _costs(own: str, pilot: xr.Dataset, ladder: _Ladder, cost: Mapping[str, float] | None) -> Array:
    if cost is None:
        told = pilot["cost"] if "cost" in pilot.coords else pilot["seconds"]
        known = np.asarray(told.values, dtype=np.float64)
        rows = [known[(ladder.level == i) & np.isfinite(known)] for i in range(len(ladder.levels))]
        cost = {level: float(one.mean()) if len(one) else 0.0 for level, one in zip(ladder.levels, rows, strict=True)}
    if not isinstance(cost, Mapping) or set(ladder.levels) - set(cost):
        raise InputError(f"{own}: cost is {cost!r}; give a positive number for each of {', '.join(ladder.levels)}.")
    w = np.array([float(cost[level]) for level in ladder.levels])
    if not (np.isfinite(w).all() and (w > 0.0).all()):
        raise InputError(
            f"{own}: the costs of a run are {dict(zip(ladder.levels, w.tolist(), strict=True))}; give positive "
            f"numbers, such as cost={dict.fromkeys(ladder.levels, 1.0)}."
        )
    return w


class _Plan(NamedTuple):
    levels: tuple[int, ...]
    counts: tuple[int, ...]
    cost: float
    variance: float


def _plan(method: Method, covariance: Array, w: Array, levels: tuple[int, ...], budget: float) -> _Plan | None:
    """Return the best numbers of inputs of some levels, None where these do not belong together."""
    few, own = covariance[np.ix_(levels, levels)], w[list(levels)]
    top = len(levels) - 1
    if method == "mfmc":
        sd = np.sqrt(np.diagonal(few))
        if not (sd > 0.0).all() and top:
            return None
        share = (few[:, top] / np.maximum(sd * sd[top], 1e-300)) ** 2 if top else np.ones(1)
        steps = np.diff(np.append(0.0, share))  # rho_l^2 - rho_(l-1)^2, from the cheapest
        if (steps <= 0.0).any() or (top and share[-2] >= 1.0):
            return None
        ratio = np.sqrt(own[top] * steps / (own * steps[top]))
        if (np.diff(ratio) > 0.0).any():  # a cheaper level is to be run more often
            return None
        counts = _whole(ratio, own, budget)
        inverse = 1.0 / np.maximum(counts, 1.0)
        variance = few[top, top] * (inverse[top] - float(((inverse[1:] - inverse[:-1]) * share[:-1]).sum()))
        price = float(own @ counts)
    else:
        differences = np.append(
            few[0, 0], [few[i, i] - 2.0 * few[i, i - 1] + few[i - 1, i - 1] for i in range(1, top + 1)]
        )
        each = own + np.append(0.0, own[:-1])
        counts = _whole(np.sqrt(np.maximum(differences, 1e-300) / each), each, budget)
        variance = float((differences / np.maximum(counts, 1.0)).sum())
        price = float(each @ counts)
    if counts[top] < LEAST_PAIRED or counts.min() < 2:
        return None
    return _Plan(levels, tuple(int(one) for one in counts), price, variance)


def _whole(ratio: Array, each: Array, budget: float) -> Array:
    """Return whole numbers in about these ratios that cost no more than the budget."""
    return np.asarray(np.floor(ratio * budget / float(each @ ratio) + 1e-9))
