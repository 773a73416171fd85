"""First-order and moment-independent indices from runs alone, without a surrogate.

==========  ===============================================================  ===========
symbol      meaning                                                          shape
==========  ===============================================================  ===========
y           outputs of the runs that have them, in the order of one input    (..., n, m)
v           that input on the scale of the surrogate, in its order           (..., n)
K           number of bins, of equally many runs
S1          Var(E[y | x_j]) / Var(y)
==========  ===============================================================  ===========

What is resampled are halves of the runs, drawn without replacement. The bootstrap's repeated runs would be their own
nearest neighbours (Lin & Han 2024, doi:10.1093/biomet/asae004, on its failure for ranks) and make bins look tighter
than they are. Half of n runs, out of n, has the variance around its mean that n runs have around the truth (Politis &
Romano 1994, doi:10.1214/aos/1176325770).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final, get_args

import numpy as np
import pandas as pd
import xarray as xr

from uqms import _checks as check
from uqms import ensemble as table
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, Ints, RandomState, as_generator
from uqms.errors import DataError, InputError
from uqms.sensitivity._draws import along, flattened, is_flat
from uqms.sensitivity._resampling import chosen_outputs, one_of, output_values, with_bounds

__all__ = ["GivenDataIndices", "given_data_indices"]

Method = Literal["bins", "rank", "pawn", "hsic"]

LEAST_RUNS, LEAST_SLICED, MOST_PAIRED = 30, 100, 4000
BOOTSTRAP, OF_PAIRS = 200, 50
SLICES = 10
BLOCK = 2**23  # numbers that are resampled at once
BINS = 0.7  # times the cube root of the number of runs
NAMES = {"bins": "S1", "rank": "S1", "pawn": "pawn", "hsic": "hsic"}


@taught
@final
@dataclass(frozen=True, eq=False)
class GivenDataIndices:
    """First-order indices of every output; `given_data_indices` returns it.

    ``result["y"]`` is a Dataset of one output with the variables

    - the index ("S1", "pawn" or "hsic"), dims ("bootstrap", "parameter", coordinates of the output); its mean over
      "bootstrap" is the estimate of all runs, its spread the sampling error;
    - floor: the 95 % quantile of the index of an input that has nothing to do with the output, by shuffling the output;
    - variance: of the output over the runs;
    - S1_whole: of a curve as a whole, variances integrated along its coordinates.

    Where a curve does not vary, its indices are NaN.

    Attributes
    ----------
    indices
        By output.
    inputs
        Names of the inputs.
    method
        How they were estimated.
    runs, left_out
        By output, how many runs were used, and how many failed or lack a part of the output.
    over
        How the runs are spread: "prior" (inside of its design box), "box" (evenly over it) or "" (not known).
    """

    indices: Mapping[str, xr.Dataset]
    inputs: tuple[str, ...]
    method: Method
    runs: Mapping[str, int]
    left_out: Mapping[str, int]
    over: str

    def __getitem__(self, output: str) -> xr.Dataset:
        """Return what was found of one output."""
        return one_of(self.indices, output, "GivenDataIndices")

    def interval(self, prob: float = 0.95) -> dict[str, xr.Dataset]:
        """Return, by output, estimates and equal-tailed intervals.

        Dim "bound" has "estimate", "lower" and "upper".

        Raises
        ------
        InputError
            When `prob` is not between 0 and 1.
        """
        prob = check.probability("interval", "prob", prob)
        index = NAMES[self.method]
        out = {}
        for name, one in self.indices.items():
            kinds = [key for key in (index, f"{index}_whole") if key in one]
            ends = {
                key: one[key].quantile([0.5 - 0.5 * prob, 0.5 + 0.5 * prob], "bootstrap", skipna=False).values
                for key in kinds
            }
            out[name] = xr.Dataset(
                {key: with_bounds(one[key].mean("bootstrap", skipna=False), *ends[key]) for key in kinds}
            )
        return out

    def table(self, prob: float = 0.95, *, pointwise: bool = False) -> pd.DataFrame:
        """Return one row for each output and parameter: estimate, interval, and what an input without effect gets.

        Of curves those of the whole curve where there are any, or with `pointwise` those at every coordinate.

        Raises
        ------
        InputError
            When `prob` is not between 0 and 1.
        """
        frames = []
        for name, between in self.interval(prob).items():
            index = NAMES[self.method]
            key = f"{index}_whole" if f"{index}_whole" in between and not pointwise else index
            floor = self.indices[name]["floor_whole" if key.endswith("whole") else "floor"]
            wide = between[key].to_dataset("bound").assign(floor=floor)
            frame = wide.to_dataframe().reset_index()
            frame.insert(0, "output", name)
            frame.insert(1, "index", index)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def summary(self, prob: float = 0.95) -> str:
        """Return a table to read, the largest first, and which runs it is made of."""
        found = self.table(prob)
        lines = []
        for name in self.indices:
            mine = found[found["output"] == name].sort_values("estimate", ascending=False, kind="stable")
            left = f", {self.left_out[name]} left out" if self.left_out[name] else ""
            lines.append(f"{name}: {NAMES[self.method]} from {self.runs[name]} runs{left}, {prob:.0%} intervals")
            whole = f"{NAMES[self.method]}_whole" in self.indices[name]
            dims = [] if whole else [str(dim) for dim in self.indices[name]["variance"].dims]
            words = [
                ", ".join([str(row["parameter"]), *(f"{dim} {_word(row[dim])}" for dim in dims)])
                for _, row in mine.iterrows()
            ]
            width = max(map(len, words))
            for word, (_, row) in zip(words, mine.iterrows(), strict=True):
                if np.isnan(row["estimate"]):
                    lines.append(f"  {word:<{width}}  does not vary")
                    continue
                below = "" if row["estimate"] > row["floor"] else "   no more than chance"
                cell = f"{row['estimate']:.2f} ({row['lower']:.2f} to {row['upper']:.2f})"
                lines.append(f"  {word:<{width}}  {cell}{below}")
        lines.append(_SPREAD[self.over])
        if any(self.left_out.values()):
            lines.append("given that a run succeeds: uqms.ensemble.failures(ensemble) shows where the others lie")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.summary()


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


_SPREAD = {
    "prior": "over the prior inside of its design box",
    "box": "over the design box, evenly on the surrogate's scale: not over the prior",
    "": "over the inputs as these runs are spread",
}


@taught
@single_threaded
def given_data_indices(
    ensemble: xr.Dataset,
    *,
    method: Method = "bins",
    outputs: str | Sequence[str] | None = None,
    bootstrap: int | None = None,
    rng: RandomState = 0,
) -> GivenDataIndices:
    """Estimate first-order sensitivity indices from existing runs, without a surrogate.

    Use it to check what a surrogate says, when there are hundreds of runs of any design, or when outputs are too rough
    for a surrogate. It knows nothing of interactions. A surrogate says more from the same runs when it fits.

    Parameters
    ----------
    ensemble
        Its runs are points of the distribution that indices are taken over (a design over the prior, or random points).
        Runs that failed, or that lack a part of an output, are left out there and counted.
    method
        - "bins" (default): S1 from a line in each of about 0.7 n^(1/3) bins, with degrees of freedom counted, after
          Plischke (2010). An input without effect gets 0 on average. On Sobol and Halton designs a little low (0.03 of
          200 runs), since their points are more even than chance.
        - "rank": S1 from neighbours in the order of the input (Chatterjee's estimator: Gamboa et al. 2022), without a
          bin to choose but with about twice the error. For random points and Latin hypercubes: neighbours of Sobol or
          Halton points are far apart in all other inputs, which makes it wrong by 0.1 to 0.3, so these are refused.
        - "pawn": median distance between distribution functions, of the output and of the output in one of 10 slices of
          the input (Pianosi & Wagener 2018): for outputs whose variance is not what matters. Never zero: compare it
          with `floor`.
        - "hsic": dependence of any kind between input and output, from 0 to 1 (Da Veiga 2015); sees an input that
          changes the spread only, whose S1 is zero. Cost grows with the square of the runs.
    outputs
        Which, by name; all by default.
    bootstrap
        Number of halves of the runs, 200 by default, 50 for "hsic".
    rng
        Of the halves and the shuffles.

    Returns
    -------
    GivenDataIndices
        Print it; ``result["y"]["S1"]`` are resampled estimates.

    Raises
    ------
    DataError
        When less than 30 runs have an output (100 for "pawn"), or it is the same in all of them.
    InputError
        When the runs are trajectories, a method does not suit the design or the number of runs, or an argument is not
        possible.

    References
    ----------
    Plischke (2010), doi:10.1016/j.ress.2009.11.005; Gamboa, Gremaud, Klein & Lagnoux (2022), doi:10.3150/21-BEJ1421;
    Pianosi & Wagener (2018), doi:10.1016/j.envsoft.2018.07.019; Da Veiga (2015), doi:10.1080/00949655.2014.945932.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> space = uq.ParameterSpace(a=uq.Uniform(0, 1), b=uq.Uniform(0, 1))
    >>> design = uq.latin_hypercube(space, 400, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": 2.0 * design.a.values + design.b.values})
    >>> uq.given_data_indices(runs)["y"]["S1"].mean("bootstrap").values.round(1)
    array([0.8, 0.2])
    """
    own = "given_data_indices"
    table.check(ensemble)
    if method not in get_args(Method):
        raise InputError(f"{own}: method is {method!r}; give one of {', '.join(get_args(Method))}.")
    kind, over = _spread(ensemble)
    if kind == "morris":
        raise InputError(
            f"{own}: these runs are trajectories, which measure single steps: uq.elementary_effects(runs)."
        )
    if method == "rank" and kind in ("sobol", "halton"):
        raise InputError(
            f"{own}: method='rank' compares neighbours in one input, and those of a {kind} design are far apart in all "
            "others, more than by chance: its indices would be wrong by 0.1 to 0.3. Use method='bins'."
        )
    bootstrap = (OF_PAIRS if method == "hsic" else BOOTSTRAP) if bootstrap is None else bootstrap
    check.whole(own, "bootstrap", bootstrap, least=20)
    names, generator = chosen_outputs(own, ensemble, outputs), as_generator(rng)
    box = table.get_box(ensemble)
    v = np.asarray(box.to_unit(table.input_array(ensemble, box.names)))
    found, runs, left_out = {}, {}, {}
    for name in names:
        values, dims, coords = output_values(ensemble, name)
        used = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        y = values[used].reshape(int(used.sum()), -1)
        _check_runs(own, name, y, method)
        found[name] = _dataset(method, v[used], y, dims, coords, int(bootstrap), box.names, generator)
        runs[name], left_out[name] = len(y), int((~used).sum())
    return GivenDataIndices(found, box.names, method, runs, left_out, over)


def _spread(ensemble: xr.Dataset) -> tuple[str, str]:
    """Return by which method the runs were placed, and over what; empty where it is not known."""
    try:
        recipe = json.loads(str(ensemble.attrs.get("design", "{}")))
        kind, over = str(recipe.get("method", "")), str(recipe.get("over", ""))
    except (json.JSONDecodeError, AttributeError) as error:
        raise DataError(f"the attribute 'design' is none that uqms wrote ({error}); drop it.") from error
    return kind, over if over in _SPREAD else ""


def _check_runs(own: str, name: str, y: Array, method: Method) -> None:
    if len(y) < LEAST_RUNS:
        raise DataError(
            f"{own}: {len(y)} runs have all of {name!r}; at least {LEAST_RUNS} are needed, and some hundreds for "
            "precise indices. A surrogate makes more of few runs: "
            "uq.sobol_indices(uq.GaussianProcess().fit(ensemble))."
        )
    if method == "pawn" and len(y) < LEAST_SLICED:
        raise DataError(
            f"{own}: {len(y)} runs of {name!r} in {SLICES} slices are too few; take {LEAST_SLICED} or 'hsic'."
        )
    if method == "hsic" and len(y) > MOST_PAIRED:
        raise InputError(
            f"{own}: 'hsic' compares all pairs, and {len(y)} runs are too many; give {MOST_PAIRED} of them: "
            f"ensemble.isel(run=slice(0, {MOST_PAIRED}))."
        )
    if is_flat(y.var(axis=0, ddof=1), y.mean(axis=0)).all():
        raise DataError(f"{own}: {name!r} is the same in all {len(y)} runs, so that nothing drives it.")


def _dataset(
    method: Method,
    v: Array,
    y: Array,
    dims: tuple[str, ...],
    coords: Mapping[str, Array],
    halves: int,
    inputs: tuple[str, ...],
    rng: np.random.Generator,
) -> xr.Dataset:
    n = len(y)
    shape = [len(coords[dim]) for dim in dims]
    variance = flattened(y.var(axis=0, ddof=1), y.mean(axis=0))
    y = np.where(variance > 0.0, y, 0.0)  # without rounding
    everything = np.arange(n)[None]
    estimate = _by_order(method, v, y, everything, rng)[0]
    half = np.argsort(rng.random((halves, n)), axis=1)[:, : n // 2]
    spread = _by_order(method, v, y, half, rng)
    # Shuffled outputs: the order of the runs, against inputs in their own.
    chance = np.argsort(rng.random((halves, n)), axis=1)
    by_chance = np.stack([_by_order(method, v[order], y, everything, rng)[0] for order in chance])
    for each in (estimate, spread, by_chance):
        each[..., variance == 0.0] = np.nan
    index = NAMES[method]
    variables = {
        index: (("bootstrap", "parameter", *dims), _around(estimate, spread).reshape(halves, len(inputs), *shape)),
        "floor": (("parameter", *dims), np.quantile(by_chance, 0.95, axis=0).reshape(len(inputs), *shape)),
        "variance": (dims, variance.reshape(shape)),
    }
    if dims and index == "S1":
        share = variance * along(dims, coords)
        share /= share.sum()
        whole, of_halves, of_chance = (np.nansum(part * share, axis=-1) for part in (estimate, spread, by_chance))
        variables["S1_whole"] = (("bootstrap", "parameter"), _around(whole, of_halves))
        variables["floor_whole"] = (("parameter",), np.quantile(of_chance, 0.95, axis=0))
    return xr.Dataset(variables, coords={"parameter": list(inputs), **coords})


def _around(estimate: Array, spread: Array) -> Array:
    """Return resampled estimates around that of all runs."""
    return np.asarray(estimate + (spread - spread.mean(axis=0)))


# ----------------------------------------------------------------------------------------------------------- estimators
def _by_order(method: Method, v: Array, y: Array, rows: Ints, rng: np.random.Generator) -> Array:
    """Return the indices (B, d, m) of some rows (B, n) of the runs."""
    d, m = v.shape[1], y.shape[1]
    out = np.empty((len(rows), d, m))
    room = rows.size * (SLICES if method == "pawn" else 1)
    size = max(1, BLOCK // room)
    few = max(1, len(rows) * BLOCK // room) if size == 1 else len(rows)
    ties = rng.random(len(v))  # inputs that take a few values have no order of their own
    for j in range(d):
        place = np.argsort(np.lexsort((ties, v[:, j])))
        order = np.take_along_axis(rows, np.argsort(place[rows], axis=1), axis=1)
        for first in range(0, len(rows), few):
            some = order[first : first + few]
            for start in range(0, m, size):
                found = _ESTIMATORS[method](v[some, j], y[some, start : start + size])
                out[first : first + few, j, start : start + size] = found
    return out


def _ranks(v: Array, y: Array) -> Array:
    """Return S1 (B, m) from the squared differences of neighbours: 1 - E[(y' - y)^2] / (2 Var y).

    It is exactly 0 on average for outputs in random order (von Neumann 1941, doi:10.1214/aoms/1177731677).
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(1.0 - 0.5 * np.mean(np.diff(y, axis=1) ** 2, axis=1) / y.var(axis=1, ddof=1))


def _bins(v: Array, y: Array) -> Array:
    """Return S1 (B, m) from a line in each bin: 1 - residual variance / variance, both unbiased."""
    n = y.shape[1]
    bins = max(2, round(BINS * n ** (1.0 / 3.0)))
    starts = np.arange(bins) * n // bins
    count = np.diff(np.append(starts, n))

    def centred(values: Array) -> Array:
        mean = np.add.reduceat(values, starts, axis=1) / count[:, None]
        return np.asarray(values - np.repeat(mean, count, axis=1))

    dv, dy = centred(v[:, :, None]), centred(y)
    square = np.add.reduceat(dv**2, starts, axis=1)
    both = np.add.reduceat(dv * dy, starts, axis=1)
    # An input that has one value throughout a bin has no slope there, and takes no degree of freedom for it.
    level = square[..., 0].max(axis=1, keepdims=True)[..., None] * 1e-20
    sloped = square > level
    explained = np.where(sloped, both**2 / np.where(sloped, square, 1.0), 0.0).sum(axis=1)
    left = (dy**2).sum(axis=1) - explained
    free = n - bins - sloped.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(1.0 - left / free / y.var(axis=1, ddof=1))


def _pawn(v: Array, y: Array) -> Array:
    """Return the median (B, m) over 10 slices of the input of the distance between distribution functions.

    The same as SALib's, but that the run with the largest input is in the last slice.
    """
    count, n, m = y.shape
    slices = np.minimum(np.arange(n) * SLICES // (n - 1), SLICES - 1)
    order = np.argsort(y, axis=1)
    there = slices[order][..., None] == np.arange(SLICES)  # (B, n, m, slices), along increasing y
    of_slice = np.cumsum(there, axis=1) / np.bincount(slices)
    ordered = np.take_along_axis(y, order, axis=1)
    last = np.append(np.diff(ordered, axis=1) > 0.0, np.ones((count, 1, m), np.bool_), axis=1)  # of equal values
    distance = np.abs(of_slice - (np.arange(1, n + 1) / n)[:, None, None]) * last[..., None]
    return np.asarray(np.median(distance.max(axis=1), axis=-1))


def _hsic(v: Array, y: Array) -> Array:
    """Return HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)), (B, m), with Gaussian kernels of the sd's width."""
    out = np.empty((len(y), y.shape[2]))
    for b, (x, outputs) in enumerate(zip(v, y, strict=True)):
        k = _kernel(x)
        for j, values in enumerate(outputs.T):
            one = _kernel(values)
            out[b, j] = np.vdot(k, one) / max(np.sqrt(np.vdot(k, k) * np.vdot(one, one)), 1e-300)
    return out


def _kernel(values: Array) -> Array:
    """Return the centred kernel matrix of n values."""
    z = values / max(float(values.std()), 1e-300)
    k = np.exp(-0.5 * (z[:, None] - z) ** 2)
    mean = k.mean(axis=0)
    return np.asarray(k - mean[:, None] - mean + mean.mean())


_ESTIMATORS: dict[str, Callable[[Array, Array], Array]] = {"bins": _bins, "rank": _ranks, "pawn": _pawn, "hsic": _hsic}
