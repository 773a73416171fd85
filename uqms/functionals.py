"""Functionals of predicted curves: peak, area, half-life, time above a threshold; and probabilities for decisions.

Each function takes curves with a named dim (and any other dims, such as draws and conditions) and returns one number a
curve. Computed from joint draws of whole curves, their intervals hold how errors along a curve go together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import xarray as xr

from uqms import _checks as check
from uqms._teaching import taught
from uqms._typing import Array
from uqms.errors import DataError, InputError

__all__ = ["FunctionalDraws", "area", "half_life", "peak", "peak_time", "time_above"]


def _along(curves: xr.DataArray, dim: str) -> tuple[Array, Array]:
    """Return values (..., points) and increasing coordinates (points,).

    Raises
    ------
    InputError
        When there is no such dim.
    DataError
        When it has fewer than two coordinates.
    """
    if dim not in curves.dims:
        raise InputError(f"The curves have the dims {list(curves.dims)}, not {dim!r}; choose one: dim=...")
    ordered = curves.sortby(dim).transpose(..., dim)
    if ordered.sizes[dim] < 2:
        raise DataError(f"The curves have {ordered.sizes[dim]} point along {dim!r}; predict them at two or more.")
    return np.asarray(ordered.values, dtype=np.float64), np.asarray(ordered[dim].values, dtype=np.float64)


def _labelled(curves: xr.DataArray, dim: str, values: Array) -> xr.DataArray:
    return curves.isel({dim: 0}, drop=True).transpose(*(d for d in curves.dims if d != dim)).copy(data=values)


@taught
def peak(curves: xr.DataArray, dim: str) -> xr.DataArray:
    """Return the largest value of each curve at its points.

    Parameters
    ----------
    curves
        Values with the dim `dim`.
    dim
        Name of the coordinate.

    Examples
    --------
    >>> curve = xr.DataArray([0.0, 3.0, 1.0], dims="h", coords={"h": [0.0, 1.0, 2.0]})
    >>> float(peak(curve, "h"))
    3.0
    """
    values, _ = _along(curves, dim)
    return _labelled(curves, dim, values.max(axis=-1))


@taught
def peak_time(curves: xr.DataArray, dim: str) -> xr.DataArray:
    """Return the coordinate of the largest value of each curve, by a parabola through it and its neighbours.

    Examples
    --------
    >>> curve = xr.DataArray([0.0, 3.0, 3.0, 0.0], dims="h", coords={"h": [0.0, 1.0, 2.0, 3.0]})
    >>> float(peak_time(curve, "h"))
    1.5
    """
    values, t = _along(curves, dim)
    best = values.argmax(axis=-1)
    middle = np.clip(best, 1, len(t) - 2) if len(t) > 2 else np.zeros_like(best)
    at = t[best]
    if len(t) > 2:
        a, b, c = (np.take_along_axis(values, (middle + s)[..., None], -1)[..., 0] for s in (-1, 0, 1))
        h1, h2 = t[middle] - t[middle - 1], t[middle + 1] - t[middle]
        d1, d2 = (b - a) / h1, (c - b) / h2
        inner = (best == middle) & (d1 > d2)
        curvature = np.where(inner, d2 - d1, -1.0)
        shift = -0.5 * (d1 * h2 + d2 * h1) / curvature
        at = np.where(inner, t[middle] + np.clip(shift, -h1, h2), at)
    return _labelled(curves, dim, at)


@taught
def area(curves: xr.DataArray, dim: str) -> xr.DataArray:
    """Return the area under each curve by the trapezoidal rule.

    Examples
    --------
    >>> curve = xr.DataArray([0.0, 3.0, 1.0], dims="h", coords={"h": [0.0, 1.0, 2.0]})
    >>> float(area(curve, "h"))
    3.5
    """
    values, t = _along(curves, dim)
    return _labelled(curves, dim, np.asarray(np.trapezoid(values, t, axis=-1)))


@taught
def half_life(curves: xr.DataArray, dim: str, points: int = 4) -> xr.DataArray:
    """Return the terminal half-life: ln 2 / slope of the logarithm over the last points, by least squares.

    NaN for a curve that is not positive there or does not fall; `FunctionalDraws` counts them.

    Parameters
    ----------
    curves, dim
        As for `peak`.
    points
        How many of the last points to use, at least 2; all where there are fewer.

    Raises
    ------
    InputError
        When `points` is below 2.

    Examples
    --------
    >>> h = np.arange(5.0)
    >>> curve = xr.DataArray(8.0 * 0.5 ** (h / 2.0), dims="h", coords={"h": h})
    >>> round(float(half_life(curve, "h")), 6)
    2.0
    """
    values, t = _along(curves, dim)
    if not check.is_whole(points, 2):
        raise InputError(f"half_life: points is {points!r}; a slope takes a whole number of at least 2.")
    last, t = values[..., -points:], t[-points:]
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.log(last)
        off = t - t.mean()
        slope = (logs * off).sum(axis=-1) / (off**2).sum()
        found = np.where((last > 0).all(axis=-1) & (slope < 0.0), -np.log(2.0) / slope, np.nan)
    return _labelled(curves, dim, found)


@taught
def time_above(curves: xr.DataArray, dim: str, threshold: float) -> xr.DataArray:
    """Return how much of the coordinate each curve spends above a threshold, with straight lines between its points.

    Examples
    --------
    >>> curve = xr.DataArray([0.0, 2.0, 0.0], dims="h", coords={"h": [0.0, 1.0, 2.0]})
    >>> float(time_above(curve, "h", threshold=1.0))
    1.0
    """
    values, t = _along(curves, dim)
    off = values - threshold
    a, b = off[..., :-1], off[..., 1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.where(a * b < 0.0, np.maximum(a, b) / np.abs(b - a), (a > 0.0) | (b > 0.0))
    return _labelled(curves, dim, np.sum(part * np.diff(t), axis=-1))


def equal_tailed[Draws: (xr.DataArray, xr.Dataset)](draws: Draws, prob: float) -> Draws:
    """Return the equal-tailed interval of draws along "sample", dim "bound" with "lower" and "upper".

    Raises
    ------
    InputError
        When `prob` is not between 0 and 1.
    """
    check.probability("interval", "prob", prob)
    tail = 0.5 * (1.0 - prob)
    bounds = draws.quantile([tail, 1.0 - tail], dim="sample").rename(quantile="bound")
    return bounds.assign_coords(bound=["lower", "upper"])


@taught
@final
@dataclass(frozen=True, eq=False)
class FunctionalDraws:
    """Draws of a functional of predicted curves, one for each joint draw (and condition).

    Attributes
    ----------
    draws
        With the dim "sample", and "condition" when several were predicted.
    undefined
        Fraction of the draws that have no value (NaN), by condition; they are left out of everything else.
    """

    draws: xr.DataArray
    undefined: xr.DataArray

    def __repr__(self) -> str:
        """Show mean, sd and 95 % interval, a line a condition."""
        names = [str(n) for n, c in self.draws.coords.items() if c.dims == ("condition",) and n != "condition"]
        found = xr.Dataset({"mean": self.mean, "sd": self.sd, "undefined": self.undefined})
        found = found.assign({str(b): self.interval().sel(bound=b, drop=True) for b in ("lower", "upper")})
        single = "condition" not in self.draws.dims
        lines = []
        for at in [found] if single else [found.isel(condition=i) for i in range(found.sizes["condition"])]:
            label = "" if single else ", ".join(f"{name} {float(at[name]):g}" for name in names) + ": "
            missing = f", {float(at['undefined']):.1%} without a value" if float(at["undefined"]) > 0 else ""
            mean, sd, low, high = (float(at[key]) for key in ("mean", "sd", "lower", "upper"))
            lines.append(f"{label}{mean:.4g} ± {sd:.2g}, 95 % {low:.4g} to {high:.4g}{missing}")
        return f"<FunctionalDraws: {lines[0]}>" if single else "\n    ".join(["<FunctionalDraws", *lines]) + ">"

    @property
    def mean(self) -> xr.DataArray:
        """Mean over the draws."""
        return self.draws.mean(dim="sample")

    @property
    def sd(self) -> xr.DataArray:
        """Standard deviation over the draws."""
        return self.draws.std(dim="sample", ddof=1)

    def interval(self, prob: float = 0.95) -> xr.DataArray:
        """Return the equal-tailed interval, dim "bound" with "lower" and "upper".

        Raises
        ------
        InputError
            When `prob` is not between 0 and 1.
        """
        return equal_tailed(self.draws, prob)

    def probability(self, event: Callable[[xr.DataArray], xr.DataArray]) -> xr.Dataset:
        """Return the probability of an event, with its Monte Carlo standard error, by condition.

        Parameters
        ----------
        event
            From draws to truth values: `lambda peak: peak > 20.0`.
        """
        happened = event(self.draws).where(self.draws.notnull())
        count = self.draws.notnull().sum(dim="sample")
        value = happened.astype(np.float64).mean(dim="sample")
        share = (value * count + 2.0) / (count + 4.0)  # never an error of 0 (Agresti & Coull 1998)
        return xr.Dataset({"probability": value, "mcse": np.sqrt(share * (1.0 - share) / (count + 4.0))})

    def crossing(self, level: float, condition: str) -> xr.DataArray:
        """Return, draw by draw, at which value of a condition the number first crosses a level: which dose is needed.

        Between the predicted conditions it is interpolated; NaN in draws that never cross it within their range.

        Parameters
        ----------
        level
            In the unit of the number.
        condition
            Name of the known input that was varied.

        Raises
        ------
        InputError
            When one condition only was predicted, or it has another name.
        """
        if "condition" not in self.draws.dims or condition not in self.draws.coords:
            raise InputError(
                f"crossing: no condition {condition!r} was varied; predict(conditions={{{condition!r}: [...]}}) first."
            )
        ordered = self.draws.transpose("sample", "condition").sortby(condition)
        x, off = ordered[condition].values, ordered.values - level
        a, b = off[:, :-1], off[:, 1:]
        crosses = (a * b <= 0.0) & (a != b)
        first = crosses.argmax(axis=1)
        rows = np.arange(len(off))
        with np.errstate(invalid="ignore", divide="ignore"):
            at = x[first] + (x[first + 1] - x[first]) * a[rows, first] / (a[rows, first] - b[rows, first])
        found = np.where(crosses.any(axis=1), at, np.nan)
        return xr.DataArray(found, dims="sample", name=condition)


def read_off(
    curves: xr.DataArray, function: Callable[..., Any], dim: str | None, options: dict[str, Any]
) -> FunctionalDraws:
    """Return the draws of a function of curves.

    Raises
    ------
    InputError
        When the dim must be named, or the function does not return one number a curve.
    """
    dims = [str(name) for name in curves.dims if name not in ("sample", "condition")]
    if dim is None:
        if len(dims) != 1:
            raise InputError(f"functional: the output has the dims {dims}; choose one: dim=...")
        dim = dims[0]
    found = function(curves, dim, **options)
    wanted = tuple(name for name in curves.dims if name != dim)
    if not isinstance(found, xr.DataArray) or set(found.dims) != set(wanted):
        got = found.dims if isinstance(found, xr.DataArray) else type(found).__name__
        raise InputError(f"functional: the function returned {got}; required is a DataArray with the dims {wanted}.")
    return FunctionalDraws(found, found.isnull().mean(dim="sample"))
