"""Morris screening: elementary effects from trajectories that move one input at a time.

==========  ===============================================================  ===============
symbol      meaning                                                          shape
==========  ===============================================================  ===============
e           effect of an input in a trajectory: the output's difference      (r, d, ...)
            over that of the input, in units of its whole range
mu          mean of e over the trajectories                                  (d, ...)
mu_star     mean of its size                                                 (d, ...)
sigma       its standard deviation: interactions and curvature               (d, ...)
==========  ===============================================================  ===============
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import pandas as pd
import xarray as xr

from uqms import _checks as check
from uqms import ensemble as table
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, RandomState, as_generator
from uqms.designs import Trajectories, trajectories_of
from uqms.errors import DataError, InputError
from uqms.sensitivity._resampling import (
    bayesian_weights,
    chosen_outputs,
    equal_tailed,
    one_of,
    output_values,
    with_bounds,
)

__all__ = ["ElementaryEffects", "elementary_effects"]

RESAMPLES = 2000
INDICES = ("mu", "mu_star", "sigma")
BLOCK = 2**24


@taught
@final
@dataclass(frozen=True, eq=False)
class ElementaryEffects:
    """Elementary effects of every output; `elementary_effects` returns it.

    ``result["y"]`` is a Dataset of one output with the variables

    - mu: mean effect with its sign, zero also where effects cancel, dims ("parameter", coordinates of the output);
    - mu_star: mean size of the effect, how much an input matters;
    - sigma: standard deviation of the effect, zero for an input that enters linearly and alone;
    - effect: of every trajectory, dims ("trajectory", "parameter", coordinates), NaN where a run failed.

    All are in the output's unit: its change when the input moves over its whole range in the design, at the slope of a
    step.

    Attributes
    ----------
    indices
        By output.
    inputs
        Names of the inputs.
    steps, broken
        Number of steps that were planned, and how many lack one of their two runs in some output.
    weights
        Of the trajectories in each resample, (bootstrap, trajectory).
    """

    indices: Mapping[str, xr.Dataset]
    inputs: tuple[str, ...]
    steps: int
    broken: int
    weights: Array

    def __getitem__(self, output: str) -> xr.Dataset:
        """Return what was found of one output."""
        return one_of(self.indices, output, "ElementaryEffects")

    def interval(self, prob: float = 0.95) -> dict[str, xr.Dataset]:
        """Return, by output, estimates and equal-tailed intervals of mu, mu_star and sigma.

        Dim "bound" has "estimate", "lower" and "upper", by the bootstrap over trajectories. Of ten normal effects they
        hold mu and mu_star in 94 % of cases, sigma in 80; of four in 85 and 60: run more where it matters.

        Raises
        ------
        InputError
            When `prob` is not between 0 and 1.
        """
        prob = check.probability("interval", "prob", prob)
        return {name: self._between(one, prob) for name, one in self.indices.items()}

    def _between(self, one: xr.Dataset, prob: float) -> xr.Dataset:
        e = one["effect"].values.reshape(*one["effect"].shape[:2], -1)
        size = max(1, BLOCK // (len(self.weights) * e.shape[1]))
        ends: list[tuple[Array, Array]] = []
        for start in range(0, e.shape[2], size):
            block = e[:, :, start : start + size]
            ends.append(equal_tailed(_indices(block, self.weights), np.isfinite(block).sum(axis=0)[None], prob))
        low, high = (np.concatenate([pair[i] for pair in ends], -1) for i in (0, 1))
        return xr.Dataset(
            {
                name: with_bounds(one[name], low[i].reshape(one[name].shape), high[i].reshape(one[name].shape))
                for i, name in enumerate(INDICES)
            }
        )

    def table(self, prob: float = 0.95) -> pd.DataFrame:
        """Return one row for each output, index and parameter: estimate, interval, and how many effects there are.

        Of curves the indices are averaged over the coordinates.

        Raises
        ------
        InputError
            When `prob` is not between 0 and 1.
        """
        prob = check.probability("table", "prob", prob)
        rows: list[dict[str, object]] = []
        for name, one in self.indices.items():
            e = one["effect"].values.reshape(*one["effect"].shape[:2], -1)
            used = np.isfinite(e).sum(axis=0).min(axis=-1)
            size = max(1, BLOCK // (len(self.weights) * e.shape[1]))
            blocks = [_indices(e[:, :, s : s + size], self.weights) for s in range(0, e.shape[2], size)]
            mean = np.sum([block.sum(axis=-1) for block in blocks], axis=0) / e.shape[2]
            low, high = equal_tailed(mean, np.broadcast_to(used, mean.shape[1:]), prob)
            for i, index in enumerate(INDICES):
                estimate = one[index].values.reshape(len(self.inputs), -1).mean(axis=-1)
                for j, parameter in enumerate(self.inputs):
                    found = {"estimate": estimate[j], "lower": low[i, j], "upper": high[i, j], "effects": int(used[j])}
                    rows.append({"output": name, "index": index, "parameter": parameter, **found})
        return pd.DataFrame(rows)

    def summary(self, prob: float = 0.95) -> str:
        """Return a table to read: the inputs of each output, those that matter most first."""
        found = self.table(prob)
        lines = []
        for name, one in self.indices.items():
            unit = one["effect"].attrs.get("unit", "")
            where = " on average over its coordinates" if one["effect"].ndim > 2 else ""
            lines.append(f"{name}{f' ({unit})' if unit else ''}: mean effect{where}, {prob:.0%} intervals")
            mine = {
                index: rows.set_index("parameter") for index, rows in found[found["output"] == name].groupby("index")
            }
            width = max(map(len, self.inputs))
            for parameter in mine["mu_star"].sort_values("estimate", ascending=False, kind="stable").index:
                cells = [_cell(index, mine[index].loc[parameter]) for index in ("mu_star", "mu", "sigma")]
                lines.append(f"  {parameter:<{width}}  " + "   ".join(cells))
        if self.broken:
            lines.append(f"{self.broken} of {self.steps} steps lack one of their two runs and are left out")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.summary()


def _cell(index: str, row: pd.Series) -> str:
    return f"{index} {row['estimate']:.3g} ({row['lower']:.3g} to {row['upper']:.3g})"


@taught
@single_threaded
def elementary_effects(
    ensemble: xr.Dataset,
    *,
    outputs: str | Sequence[str] | None = None,
    bootstrap: int = RESAMPLES,
    rng: RandomState = 0,
) -> ElementaryEffects:
    """Return the elementary effects of a Morris design's runs: which of many inputs can be left out.

    Use it when there are too many inputs for a surrogate (a dozen or more) and runs for ten trajectories: inputs whose
    `mu_star` is small beside the others' may be fixed. It ranks; `sobol` indices or Shapley effects of a surrogate
    over the inputs that remain show which fraction of the variance is due to each.

    Parameters
    ----------
    ensemble
        Runs of a Morris design, in any order. A step needs both of its runs: where one failed, that step is left out,
        which is counted, and the others of its trajectory stay. Where a run of a curve lacks some coordinates, steps
        are left out at these.
    outputs
        Which, by name; all by default. Curves have effects at each coordinate.
    bootstrap
        Number of resamples.
    rng
        Of the resamples.

    Returns
    -------
    ElementaryEffects
        Effects, indices, intervals over trajectories; in the output's unit for the whole range of the input.

    Raises
    ------
    DesignError
        When the ensemble was not made from a Morris design.
    DataError
        When an input has less than two effects left in some output: nothing can be said of it.
    InputError
        When an output is unknown or a number not possible.

    References
    ----------
    Morris (1991), doi:10.1080/00401706.1991.10484804; Campolongo, Cariboni and Saltelli (2007, mu_star),
    doi:10.1016/j.envsoft.2006.10.004.

    Examples
    --------
    >>> import uqms as uq
    >>> space = uq.ParameterSpace(a=uq.Uniform(0, 1), b=uq.Uniform(0, 1), c=uq.Uniform(0, 1))
    >>> design = uq.morris_design(space, 10, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": 3.0 * design.a.values + design.b.values ** 2})
    >>> uq.elementary_effects(runs)["y"]["mu_star"].sel(parameter=["a", "c"]).values.round(6)
    array([3., 0.])
    """
    if hasattr(ensemble, "predict"):
        raise InputError(
            f"elementary_effects: got a {type(ensemble).__name__}; give the runs of a Morris design, "
            "uq.run(simulator, uq.morris_design(space, 20, rng=1)), or call uq.sobol_indices(surrogate)."
        )
    table.check(ensemble)
    names = chosen_outputs("elementary_effects", ensemble, outputs)
    check.whole("elementary_effects", "bootstrap", bootstrap, least=100)
    walks = trajectories_of(ensemble)
    inputs = table.get_box(ensemble).names
    found, broken = {}, np.zeros(walks.moved.shape, dtype=np.bool_)
    for name in names:
        values, dims, coords = output_values(ensemble, name)
        e = _effects(walks, values)
        known = np.isfinite(e.reshape(*e.shape[:2], -1))
        # By step, not by input: which step of its trajectory moved it.
        broken |= np.take_along_axis(~known.all(axis=-1), walks.moved, axis=1)
        _refuse_unknown(name, inputs, known.sum(axis=0).min(axis=-1), len(e))
        unit = {"unit": str(ensemble[name].attrs.get("unit", ""))}
        indices = _indices(e, np.ones((1, len(e))))[0]
        variables = {
            index: xr.DataArray(indices[i], dims=("parameter", *dims), attrs=unit) for i, index in enumerate(INDICES)
        }
        variables["effect"] = xr.DataArray(e, dims=("trajectory", "parameter", *dims), attrs=unit)
        found[name] = xr.Dataset(variables, coords={"parameter": list(inputs), **coords})
    weights = bayesian_weights(len(walks.moved), int(bootstrap), as_generator(rng))
    return ElementaryEffects(found, inputs, broken.size, int(broken.sum()), weights)


def _effects(walks: Trajectories, values: Array) -> Array:
    """Return the effects (r, d, ...) of an output (run, ...), NaN where a run is missing or failed."""
    y = np.where((walks.rows >= 0).reshape(*walks.rows.shape, *(1,) * (values.ndim - 1)), values[walks.rows], np.nan)
    slope = np.diff(y, axis=1) / walks.step.reshape(*walks.step.shape, *(1,) * (values.ndim - 1))
    out = np.empty_like(slope)
    np.put_along_axis(out, walks.moved.reshape(*walks.moved.shape, *(1,) * (values.ndim - 1)), slope, axis=1)
    return out


def _refuse_unknown(name: str, inputs: tuple[str, ...], used: Array, trajectories: int) -> None:
    lost = [f"{one} ({count})" for one, count in zip(inputs, used, strict=True) if count < 2]
    if lost:
        raise DataError(
            f"elementary_effects: of {trajectories} steps of each input, less than two have both runs of {name!r} for "
            f"{', '.join(lost)}. Run more trajectories (the same seed keeps the first ones), or a smaller box: "
            "uq.morris_design(space, ..., over=space.box(0.9))."
        )


def _indices(e: Array, w: Array) -> Array:
    """Return mu, mu_star and sigma (B, 3, d, ...) of effects (r, d, ...), each resample with its weights (B, r)."""
    known = np.isfinite(e)
    values = np.where(known, e, 0.0)
    total = np.tensordot(w, known.astype(np.float64), 1)
    mu, size = np.tensordot(w, values, 1) / total, np.tensordot(w, np.abs(values), 1) / total
    # About the plain mean, so that nothing cancels where effects are large beside their spread.
    centre = values.sum(axis=0) / known.sum(axis=0)
    off = np.where(known, e - centre, 0.0)
    shift = np.tensordot(w, off, 1) / total
    count = known.sum(axis=0)
    variance = (np.tensordot(w, off**2, 1) / total - shift**2) * count / np.maximum(count - 1, 1)
    return np.stack([mu, size, np.sqrt(np.maximum(variance, 0.0))], axis=1)
