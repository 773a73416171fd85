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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import pandas as pd
import xarray as xr

from uqms import ensemble as table
from uqms._typing import Array, RandomState, as_generator
from uqms.designs import Trajectories, trajectories_of
from uqms.errors import DataError, InputError
from uqms.sensitivity._resampling import (
    Table,
    bayesian_weights,
    check_prob,
    chosen_outputs,
    equal_tailed,
    output_values,
)

__all__ = ["ElementaryEffects", "elementary_effects"]

RESAMPLES = 2000
INDICES = ("mu", "mu_star", "sigma")
BLOCK = 2**24


@final
@dataclass(frozen=True, eq=False)
class ElementaryEffects:
    """What `elementary_effects` found; print it.

    Attributes
    ----------
    effects
        By output, dims ("trajectory", "input", ...): change of the output when the input moves over its whole range in
        the design, at the slope of one step; NaN where a run failed.
    indices
        By output, dims ("index", "input", ...): "mu", "mu_star" and "sigma".
    steps, broken
        Number of steps that were planned, and how many lack one of their two runs in some output.
    weights
        Of the trajectories in each resample, dims ("resample", "trajectory").
    """

    effects: xr.Dataset
    indices: xr.Dataset
    steps: int
    broken: int
    weights: xr.DataArray

    @property
    def mu(self) -> xr.Dataset:
        """Mean effect, with its sign: zero also where effects cancel."""
        return self.indices.sel(index="mu", drop=True)

    @property
    def mu_star(self) -> xr.Dataset:
        """Mean size of the effect: how much an input matters."""
        return self.indices.sel(index="mu_star", drop=True)

    @property
    def sigma(self) -> xr.Dataset:
        """Standard deviation of the effect: zero for an input that enters linearly and alone."""
        return self.indices.sel(index="sigma", drop=True)

    def interval(self, prob: float = 0.95) -> xr.Dataset:
        """Return equal-tailed intervals by the bootstrap over trajectories, dims ("bound", "index", "input", ...).

        Raises
        ------
        InputError
            When `prob` is not between 0 and 1.
        """
        prob = check_prob("interval", prob)
        out = {}
        for name, effects in self.effects.data_vars.items():
            e = effects.values.reshape(*effects.shape[:2], -1)
            ends = np.stack(self._ends(e, prob)).reshape(2, len(INDICES), effects.shape[1], *effects.shape[2:])
            out[name] = xr.DataArray(
                ends, dims=("bound", "index", *effects.dims[1:]), attrs=dict(self.indices[name].attrs)
            )
        return xr.Dataset(out).assign_coords({"bound": ["lower", "upper"], **self.indices.coords})

    def _ends(self, e: Array, prob: float) -> tuple[Array, Array]:
        """Return the ends (index, d, m) of intervals of effects (r, d, m), some coordinates at a time."""
        w = self.weights.values
        size = max(1, BLOCK // (len(w) * e.shape[1]))
        blocks = [e[:, :, start : start + size] for start in range(0, e.shape[2], size)]
        ends = [equal_tailed(_indices(block, w), np.isfinite(block).sum(axis=0)[None], prob) for block in blocks]
        return np.concatenate([one[0] for one in ends], -1), np.concatenate([one[1] for one in ends], -1)

    def summary(self, prob: float = 0.95) -> pd.DataFrame:
        """Return a table by output and input, the most influential first, with the interval of mu_star.

        Indices of a curve are averaged over its coordinates (mu_star and sigma as they are, mu with its sign).

        Raises
        ------
        InputError
            When `prob` is not between 0 and 1.
        """
        prob = check_prob("summary", prob)
        rows, w = [], self.weights.values
        for name, effects in self.effects.data_vars.items():
            e = effects.values.reshape(*effects.shape[:2], -1)
            used = np.isfinite(e).sum(axis=0).min(axis=-1)
            size = max(1, BLOCK // (len(w) * e.shape[1]))
            starts = range(0, e.shape[2], size)
            total = np.sum([_indices(e[:, :, s : s + size], w).sum(axis=-1) for s in starts], axis=0) / e.shape[2]
            low, high = equal_tailed(total, np.broadcast_to(used, total.shape[1:]), prob)
            mean = self.indices[name].values.reshape(len(INDICES), effects.shape[1], -1).mean(axis=-1)
            for j in np.argsort(-mean[1], kind="stable"):
                rows.append(
                    {
                        "output": str(name),
                        "input": str(effects["input"].values[j]),
                        "mu_star": mean[1, j],
                        "lower": low[1, j],
                        "upper": high[1, j],
                        "mu": mean[0, j],
                        "sigma": mean[2, j],
                        "effects": int(used[j]),
                    }
                )
        out = Table(pd.DataFrame(rows).set_index(["output", "input"]))
        out.attrs["remarks"] = [
            f"lower, upper: {prob:.0%} equal-tailed interval of mu_star, by the bootstrap over "
            f"{self.weights.sizes['trajectory']} trajectories",
            *self._remarks(),
        ]
        return out

    def _remarks(self) -> list[str]:
        if not self.broken:
            return []
        return [f"{self.broken} of {self.steps} steps lack one of their two runs and are left out"]

    def __repr__(self) -> str:
        return repr(self.summary())


def elementary_effects(
    ensemble: xr.Dataset,
    *,
    outputs: str | Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    rng: RandomState = 0,
) -> ElementaryEffects:
    """Return elementary effects of an ensemble that `morris_design` was made for: which of many inputs can be left out.

    Use it when there are too many inputs for a surrogate (a dozen or more) and runs for ten trajectories: inputs whose
    `mu_star` is small beside the others' may be fixed. It ranks; `sobol` indices or Shapley effects of a surrogate
    over the inputs that remain say which share of the variance is whose.

    Parameters
    ----------
    ensemble
        Runs of a Morris design, in any order. A step needs both of its runs: where one failed, that step is left out,
        which is counted, and the others of its trajectory stay. Where a run of a curve lacks some coordinates, steps
        are left out at these.
    outputs
        Which, by name; all by default. Curves have effects at each coordinate.
    resamples
        Number of bootstrap resamples.
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
    >>> effects = uq.elementary_effects(runs)
    >>> effects.mu_star["y"].sel(input=["a", "c"]).values.round(6)
    array([3., 0.])
    """
    table.check(ensemble)
    names = chosen_outputs("elementary_effects", ensemble, outputs)
    if isinstance(resamples, bool) or not isinstance(resamples, int | np.integer) or resamples < 100:
        raise InputError(f"elementary_effects: resamples is {resamples!r}; give a whole number of at least 100.")
    walks = trajectories_of(ensemble)
    inputs = table.get_box(ensemble).names
    found, broken = {}, np.zeros(walks.moved.shape, dtype=np.bool_)
    for name in names:
        values, dims, coords = output_values(ensemble, name)
        e = _effects(walks, values)
        broken |= np.isnan(e.reshape(*e.shape[:2], -1)).any(axis=-1)
        _refuse_unknown(name, inputs, np.isfinite(e.reshape(*e.shape[:2], -1)).sum(axis=0).min(axis=-1), len(e))
        found[name] = xr.DataArray(
            e,
            dims=("trajectory", "input", *dims),
            coords={"input": list(inputs), **coords},
            attrs={"unit": str(ensemble[name].attrs.get("unit", ""))},
        )
    effects = xr.Dataset(found)
    weights = bayesian_weights(effects.sizes["trajectory"], int(resamples), as_generator(rng))
    indices = xr.Dataset(
        {
            name: xr.DataArray(
                _indices(one.values, np.ones((1, len(one))))[0], dims=("index", *one.dims[1:]), attrs=dict(one.attrs)
            )
            for name, one in effects.data_vars.items()
        }
    ).assign_coords({"index": list(INDICES), **effects.coords})
    w = xr.DataArray(weights, dims=("resample", "trajectory"))
    return ElementaryEffects(effects, indices, broken.size, int(broken.sum()), w)


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
