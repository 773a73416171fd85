"""What follows from uncertain inputs: probabilities over thresholds, parts of the variance, densities, tornados."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike

from uqms._typing import Array
from uqms.errors import InputError
from uqms.plots._style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PAGE,
    PURPLE,
    SKY,
    VERMILION,
    add_legend,
    collected,
    label,
    new_figure,
    number_axis,
    styled,
    wrapped,
)
from uqms.propagation import Propagation

__all__ = ["density", "exceedance", "tornado", "variance"]

THRESHOLDS = 60
LEAST = 1e-4  # smallest probability that is drawn
COLOURS = {"parameter": BLUE, "surrogate": ORANGE, "discrepancy": GREEN, "noise": GREY}
WORDS = {"parameter": "parameters", "surrogate": "surrogate", "discrepancy": "discrepancy", "noise": "noise"}
LINES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, BLACK)


def _checked(result: object, who: str) -> Propagation:
    if not isinstance(result, Propagation):
        raise InputError(f"plots.{who}: got {type(result).__name__}; give what uq.propagate(...) returns.")
    return result


def _conditions(like: xr.DataArray, who: str, name: str) -> list[str]:
    """Return a word for each condition of a quantity that is a number otherwise; one empty word without conditions."""
    rest = [str(dim) for dim in like.dims if dim != "condition"]
    if rest:
        raise InputError(
            f"plots.{who}: {name!r} is a curve along {rest}; propagate a number, of={{'peak': lambda table: "
            f"uq.functionals.peak(table[{name!r}], {rest[0]!r})}}."
        )
    if "condition" not in like.dims:
        return [""]
    if like.sizes["condition"] > len(LINES):
        raise InputError(f"plots.{who}: {like.sizes['condition']} conditions; a figure holds {len(LINES)}.")
    known = [str(key) for key, value in like.coords.items() if value.dims == ("condition",)]
    return [
        ", ".join(f"{key} {float(like[key][i]):g}" for key in known) or str(i) for i in range(like.sizes["condition"])
    ]


@styled
def exceedance(
    result: Propagation,
    output: str | None = None,
    *,
    threshold: ArrayLike | None = None,
    below: bool = False,
    labels: Mapping[str, str] | None = None,
) -> Figure:
    """Draw the probability that a quantity exceeds a threshold, over thresholds, with its 95 % band.

    Parameters
    ----------
    result
        What `uqms.propagate` returns.
    output
        Which quantity, one number per draw; may be left out when there is one.
    threshold
        Several, increasing; by default over the range of the draws.
    below
        Whether the probability of less than the threshold is meant.
    labels
        What to write instead of a name, by name.

    Returns
    -------
    matplotlib.figure.Figure
        On a logarithmic axis, a line for each condition. The band holds the surrogate's error and the Monte Carlo
        error. It ends at 1e-4, below which `uqms.rare_event` is the tool.

    Raises
    ------
    InputError
        When it is no such result, the quantity is unknown or a curve, or there are more than 6 conditions.
    """
    name = _checked(result, "exceedance").one(output)
    y, like = result.full(name)
    words = _conditions(like, "exceedance", name)
    if threshold is None:
        low, high = np.quantile(y, [0.001, 0.999])
        threshold = np.linspace(low, high, THRESHOLDS)
    found = result.exceedance(np.atleast_1d(np.asarray(threshold, dtype=np.float64)), name, below=below)
    x = found["threshold"].values
    alt = f"Probability that {name} is {'below' if below else 'above'} a threshold from {x[0]:g} to {x[-1]:g}."
    figure, axes = new_figure(1, 1, (0.62 * PAGE, 0.42 * PAGE), alt)
    ax = axes[0, 0]
    for i, word in enumerate(words):
        one = found.isel(condition=i) if "condition" in found.dims else found
        low, value, high = (np.maximum(one[key].values, 1e-12) for key in ("lower", "probability", "upper"))
        band = "95 %" if not word and len(words) == 1 else f"{word}, 95 %"
        ax.fill_between(x, low, high, color=LINES[i], alpha=0.25, lw=0, label=band)
        ax.plot(x, np.where(value > 1e-12, value, np.nan), color=LINES[i], lw=1.3)
    ax.set_yscale("log")
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_yticks([1.0, 0.1, 0.01, 0.001, 0.0001], ["1", "0.1", "0.01", "0.001", "0.0001"])
    ax.set_ylim(max(LEAST, 0.3 / max(y.shape[1], 1)), 1.15)
    ax.set_xlim(float(x[0]), float(x[-1]))
    exponent = number_axis(ax.xaxis, float(x[0]), float(x[-1]), 6)
    ax.set_xlabel(label(name, str(like.attrs.get("unit", "")), labels, exponent))
    ax.set_ylabel(f"probability of {'less' if below else 'more'}")
    add_legend(ax, collected([ax]), "upper right" if below else "lower left")
    return figure


@styled
def variance(
    result: Propagation, output: str | None = None, *, condition: int = 0, labels: Mapping[str, str] | None = None
) -> Figure:
    """Draw a curve's mean with its 95 % interval, and below where its variance comes from, stacked.

    Use it to see when the surrogate, and not the parameters, is what limits a prediction: run more there.

    Parameters
    ----------
    result
        What `uqms.propagate` returns.
    output
        Which quantity, with one coordinate; may be left out when there is one.
    condition
        Which of several conditions.
    labels
        What to write instead of a name, by name.

    Returns
    -------
    matplotlib.figure.Figure
        Two panels over the coordinate. Parts of the variance add up to its top line.

    Raises
    ------
    InputError
        When it is no such result, or the quantity has not one coordinate.
    """
    name = _checked(result, "variance").one(output)
    _, like = result.full(name)
    dims = [str(dim) for dim in like.dims if dim != "condition"]
    if len(dims) != 1:
        raise InputError(f"plots.variance: {name!r} has the coordinates {dims}; give a quantity with one.")
    if "condition" in like.dims and not 0 <= condition < like.sizes["condition"]:
        raise InputError(f"plots.variance: condition is {condition!r}; there are {like.sizes['condition']}.")
    at = {"condition": condition} if "condition" in like.dims else {}
    mean, ends, parts = (
        table[name].isel(at).sortby(dims[0]) for table in (result.mean, result.interval(), result.variance)
    )
    x, unit = mean[dims[0]].values, str(like.attrs.get("unit", ""))
    kept = [str(part) for part in parts["part"].values]
    figure, axes = new_figure(2, 1, (0.7 * PAGE, 0.62 * PAGE), f"Mean of {name} and parts of its variance: {kept}.")
    top, bottom = axes[:, 0]
    low, high = (ends.sel(bound=bound).values for bound in ("lower", "upper"))
    top.fill_between(x, low, high, color=SKY, alpha=0.4, lw=0, label="95 %")
    top.plot(x, mean.values, color=BLUE, label="mean")
    exponent = number_axis(top.yaxis, float(low.min()), float(high.max()), 5)
    top.set_ylabel(wrapped(label(name, unit, labels, exponent), 28))
    top.tick_params(labelbottom=False)
    add_legend(top, collected([top]), "best")
    values = parts.transpose("part", ...).values
    colours = [COLOURS[part] for part in kept]
    bottom.stackplot(x, values, colors=colours, alpha=0.75, lw=0, labels=[WORDS[part] for part in kept])
    total = values.sum(axis=0)
    bottom.plot(x, total, color=BLACK, lw=0.8)
    exponent = number_axis(bottom.yaxis, 0.0, float(total.max()), 4)
    bottom.set_ylim(0.0, 1.05 * float(total.max()) or 1.0)
    bottom.set_ylabel(label("variance", f"({unit})²" if unit else "", None, exponent))
    for ax in (top, bottom):
        ax.set_xlim(float(x[0]), float(x[-1]))
        exponent = number_axis(ax.xaxis, float(x[0]), float(x[-1]), 6)
    along = str(mean[dims[0]].attrs.get("unit", ""))
    bottom.set_xlabel(label(dims[0], along, labels, exponent))
    add_legend(figure, collected([bottom]), "outside upper center", len(kept))
    figure.align_labels()
    return figure


@styled
def density(result: Propagation, output: str | None = None, *, labels: Mapping[str, str] | None = None) -> Figure:
    """Draw the density of a quantity with the band of the surrogate's uncertainty, and its mean and 95 % interval.

    Parameters
    ----------
    result
        What `uqms.propagate` returns.
    output
        Which quantity, one number per draw; may be left out when there is one.
    labels
        What to write instead of a name, by name.

    Returns
    -------
    matplotlib.figure.Figure
        A curve for each condition; the band is the range of densities under different functions of the surrogate.

    Raises
    ------
    InputError
        When it is no such result, the quantity is unknown or a curve, or there are more than 6 conditions.
    """
    name = _checked(result, "density").one(output)
    _, like = result.full(name)
    words = _conditions(like, "density", name)
    figure, axes = new_figure(1, 1, (0.62 * PAGE, 0.4 * PAGE), f"Density of {name}.")
    ax, ends, centre = axes[0, 0], result.interval()[name], result.mean[name]
    grids: list[Array] = []
    highest = 0.0
    for i, word in enumerate(words):
        found = result.density(name, **({"condition": i} if "condition" in like.dims else {}))
        x = found["value"].values
        grids.append(x)
        if "lower" in found:
            ax.fill_between(x, found["lower"], found["upper"], color=LINES[i], alpha=0.25, lw=0)
        ax.plot(x, found["density"], color=LINES[i], label=word or "density")
        highest = max(highest, float(found["upper" if "upper" in found else "density"].max()))
        at = {"condition": i} if "condition" in like.dims else {}
        low, high = ends.isel(at).values
        down = -(0.05 + 0.045 * i)
        ax.plot([low, high], [down, down], color=LINES[i], lw=2.0, transform=ax.get_xaxis_transform(), clip_on=False)
        ax.plot(
            [float(centre.isel(at))],
            [down],
            "o",
            color=LINES[i],
            ms=4,
            transform=ax.get_xaxis_transform(),
            clip_on=False,
        )
    low, high = min(float(x[0]) for x in grids), max(float(x[-1]) for x in grids)
    ax.set_xlim(low, high)
    ax.set_ylim(0.0, 1.05 * highest)
    ax.tick_params(axis="x", pad=6.0 + 8.0 * len(words))
    exponent = number_axis(ax.xaxis, low, high, 6)
    ax.set_xlabel(label(name, str(like.attrs.get("unit", "")), labels, exponent))
    ax.set_yticks([])
    ax.set_ylabel("density")
    ax.spines["left"].set_visible(False)
    if words != [""]:
        add_legend(ax, collected([ax]), "best")
    return figure


@styled
def tornado(table: xr.Dataset, *, labels: Mapping[str, str] | None = None, most: int = 12) -> Figure:
    """Draw what a quantity becomes when each input alone goes from low to high, the largest on top.

    Parameters
    ----------
    table
        What `uqms.tornado` returns.
    labels
        What to write instead of a name, by name.
    most
        Bars that are shown; the title says how many are not.

    Returns
    -------
    matplotlib.figure.Figure
        A bar to each side of the value at the medians, with what the input is there, and thin lines for the 95 %
        interval that the surrogate leaves.

    Raises
    ------
    InputError
        When it is no such table.
    """
    if not isinstance(table, xr.Dataset) or not {"value", "lower", "upper", "baseline"} <= set(table.data_vars):
        raise InputError(f"plots.tornado: got {type(table).__name__}; give what uq.tornado(...) returns.")
    shown = table.isel(input=slice(0, most))
    names = [str(name) for name in shown["input"].values]
    name, unit = str(table.attrs["output"]), str(table.attrs.get("unit", ""))
    base = float(table["baseline"])
    alt = f"Change of {name} with each input alone, largest first: {', '.join(names)}."
    figure, axes = new_figure(1, 1, (0.75 * PAGE, 0.7 + 0.36 * len(names)), alt)
    ax = axes[0, 0]
    y = np.arange(len(names), dtype=np.float64)[::-1]
    ends = shown["value"].values
    low, high = min(float(shown["lower"].min()), base), max(float(shown["upper"].max()), base)
    room = 0.16 * (high - low or 1.0)
    for i, (end, colour) in enumerate((("low", SKY), ("high", BLUE))):
        value, lower, upper = (shown[key].sel(end=end).values for key in ("value", "lower", "upper"))
        ax.barh(y, value - base, left=base, height=0.62, color=colour, lw=0, label=f"{end} input")
        ax.hlines(y, lower, upper, color=BLACK, lw=0.9)
        ax.plot(np.stack([lower, lower, np.full(len(y), np.nan)]).T.ravel(), _ticks(y), color=BLACK, lw=0.9)
        ax.plot(np.stack([upper, upper, np.full(len(y), np.nan)]).T.ravel(), _ticks(y), color=BLACK, lw=0.9)
        for row in range(len(names)):
            right = ends[row, i] > ends[row, 1 - i] or (ends[row, 0] == ends[row, 1] and i == 1)
            ax.annotate(
                f"{float(shown['at'].values[row, i]):.3g}".replace("-", "−"),
                (float(upper[row] if right else lower[row]), float(y[row])),
                xytext=(4 if right else -4, 0),
                textcoords="offset points",
                ha="left" if right else "right",
                va="center",
                fontsize=7,
            )
    ax.axvline(base, color=BLACK, lw=0.8)
    units = [str(one) for one in shown["input_unit"].values]
    ax.set_yticks(y, [wrapped(label(one, of, labels), 26) for one, of in zip(names, units, strict=True)])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlim(low - room, high + room)
    ax.set_ylim(-0.6, len(names) - 0.4)
    exponent = number_axis(ax.xaxis, low, high, 6)
    ax.set_xlabel(label(name, unit, labels, exponent))
    left_out = table.sizes["input"] - len(names)
    if left_out:
        ax.set_title(f"{left_out} smaller ones are not shown")
    add_legend(figure, collected([ax]), "outside upper center", 2)
    return figure


def _ticks(y: Array) -> Array:
    return np.stack([y - 0.13, y + 0.13, np.full(len(y), np.nan)]).T.ravel()
