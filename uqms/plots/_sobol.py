"""Sobol indices: bars with intervals, and curves along a coordinate."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

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
    label,
    new_figure,
    number_axis,
    pick,
    styled,
    wrapped,
)
from uqms.sensitivity import ShapleyEffects, SobolIndices

__all__ = ["check_result", "curves_of", "list_inputs", "panels_of", "sobol", "sobol_curves"]

MOST_OUTPUTS, MOST_BARS, MOST_CURVES = 9, 25, 6
NORMAL = 1.959964
COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, BLACK)
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (5, 1, 1, 1)), (0, (3, 3)), (0, (8, 2)))


@styled
def sobol(
    result: SobolIndices,
    *,
    outputs: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Figure:
    r"""Draw total and first-order indices as bars with their 95 % intervals, the largest on top.

    The pale part beyond the first-order bar is what an input does together with others. Thin lines are intervals with
    all errors, thick ones the part of Monte Carlo; what a thin line is longer, more runs of the simulator reduce.

    Parameters
    ----------
    result
        What `uq.sobol_indices` returned.
    outputs
        At most nine; all by default. Of curves the indices of the whole curve are drawn.
    names
        Inputs or groups, at most 25; all by default.
    labels
        What to write instead of a name, by name, for example {"beta": r"$\beta$"}.

    Returns
    -------
    matplotlib.figure.Figure
        One panel an output.

    Raises
    ------
    InputError
        When it is no such result, or names are unknown or too many.

    Examples
    --------
    >>> import uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0)), 16, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": 2.0 * design["a"].values + design["b"].values})
    >>> len(sobol(uq.sobol_indices(uq.GaussianProcess().fit(runs), rng=1)).axes)
    1
    """
    check_result(result, SobolIndices, "sobol", "uq.sobol_indices returned")
    known = list(result.groups)
    shown = pick(outputs, list(result.indices), list(result.indices), MOST_OUTPUTS, "sobol")
    wanted = pick(names, known, known, MOST_BARS, "sobol")
    between, parts = result.interval(), result.error()
    ends = {name: "_whole" if "ST_whole" in result[name] else "" for name in shown}
    alt = f"Sobol indices of {', '.join(shown)} for {', '.join(wanted)}"
    figure, axes = panels_of(ends, 0.75 + 0.24 * len(wanted), 0.35, alt, labels)
    for name, ax in axes.items():
        _bars(ax, between[name], parts[name], ends[name], wanted, labels)
    entries = {
        "first order": Patch(color=BLUE),
        "total": Patch(color=SKY),
        "95 % interval": Line2D([], [], color=BLACK, lw=0.9),
        "its Monte Carlo part": Line2D([], [], color=BLACK, lw=2.6),
    }
    add_legend(figure, entries, "outside lower center", 4 if len(shown) > 1 else 2)
    return figure


def _bars(
    ax: Axes, between: xr.Dataset, parts: xr.Dataset, end: str, names: list[str], labels: Mapping[str, str] | None
) -> None:
    total = between[f"ST{end}"].sel(bound="estimate", parameter=names).values
    order = [names[i] for i in np.argsort(-np.nan_to_num(total), kind="stable")]
    place = np.arange(len(order))
    highest = 1.0
    for kind, colour, shift, height in (("ST", SKY, 0.0, 0.76), ("S1", BLUE, 0.0, 0.4)):
        one = between[f"{kind}{end}"].sel(parameter=order)
        middle, low, high = (one.sel(bound=bound).values for bound in ("estimate", "lower", "upper"))
        carlo = NORMAL * parts[f"{kind}{end}"].sel(parameter=order, source="monte_carlo").values
        ax.barh(place + shift, np.maximum(middle, 0.0), height=height, color=colour, zorder=1)
        at = place + (0.29 if kind == "ST" else 0.0)
        ax.hlines(at, low, high, color=BLACK, lw=0.9, zorder=3)
        ax.hlines(at, middle - carlo, middle + carlo, color=BLACK, lw=2.6, zorder=3)
        highest = max(highest, float(np.nanmax(high, initial=0.0)))
    ax.axvline(0.0, color=GREY, lw=0.7, zorder=2)
    ax.set_xlim(-0.02, 1.02 * highest)
    list_inputs(ax, order, labels)
    number_axis(ax.xaxis, 0.0, highest, 5)


@styled
def sobol_curves(
    result: SobolIndices,
    output: str | None = None,
    *,
    names: Sequence[str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Figure:
    r"""Draw the indices of a curve along its coordinate with 95 % bands, beside the curve's spread over the inputs.

    Where the spread is small, indices are shares of little.

    Parameters
    ----------
    result
        What `uq.sobol_indices` returned.
    output
        An output with one dim; the first one by default.
    names
        Inputs or groups, at most six; by default those with the largest total index of the whole curve.
    labels
        What to write instead of a name, by name, for example {"beta": r"$\beta$"}.

    Returns
    -------
    matplotlib.figure.Figure
        Panels of the first-order index, the total index, and the sd of the output.

    Raises
    ------
    InputError
        When it is no such result, there is no curve of that name, or names are unknown or too many.
    """
    check_result(result, SobolIndices, "sobol_curves", "uq.sobol_indices returned")
    return curves_of(result, result.interval(), output, (("S1", "first order"), ("ST", "total")), names, labels)


def curves_of(
    result: SobolIndices | ShapleyEffects,
    intervals: Mapping[str, xr.Dataset],
    output: str | None,
    kinds: Sequence[tuple[str, str]],
    names: Sequence[str] | None,
    labels: Mapping[str, str] | None,
) -> Figure:
    """Draw shares of the variance along a coordinate, a panel a kind, the last kind choosing which inputs are shown."""
    sobol = isinstance(result, SobolIndices)
    who = "sobol_curves" if sobol else "shapley_curves"
    curves = {name: str(one["variance"].dims[-1]) for name, one in result.indices.items() if one["variance"].ndim == 3}
    name = next(iter(curves), None) if output is None else output
    if name is None or name not in curves:
        raise InputError(f"plots.{who}: output is {output!r}; curves along one coordinate are {list(curves)}.")
    dim, one = curves[name], result[name]
    known = list(result.groups)
    size = one[f"{kinds[-1][0]}_whole"].mean(("draw", "bootstrap")).values
    largest = [known[i] for i in sorted(np.argsort(-size, kind="stable")[:MOST_CURVES])]
    wanted = pick(names, known, largest, MOST_CURVES, who)
    between = intervals[name]
    grid = one[dim].values
    alt = f"{'Sobol indices' if sobol else 'Shapley effects'} of {name} along {dim} for {', '.join(wanted)}"
    panels = len(kinds) + 1
    figure, axes = new_figure(1, panels, (PAGE if panels > 2 else 5.6, 2.4), alt)
    entries: dict[str, Artist] = {}
    top, bottom = 1.0, -0.03
    for ax, (kind, title) in zip(axes[0], kinds, strict=False):
        for parameter, colour, dash in zip(wanted, COLOURS, DASHES, strict=False):
            values = between[kind].sel(parameter=parameter)
            low, middle, high = (values.sel(bound=bound).values for bound in ("lower", "estimate", "upper"))
            (drawn,) = ax.plot(grid, middle, color=colour, ls=dash)
            ax.fill_between(grid, low, high, color=colour, alpha=0.2, lw=0)
            entries[(labels or {}).get(parameter, parameter)] = drawn
            top = max(top, float(np.nanmax(high, initial=0.0)))
        ax.set_title(title)
    for ax in axes[0, : len(kinds)]:
        ax.axhline(0.0, color=GREY, lw=0.7)
        ax.set_ylim(bottom, 1.03 * top)
        number_axis(ax.yaxis, 0.0, top, 5)
    axes[0, 0].set_ylabel("fraction of the variance")
    spread = np.sqrt(np.maximum(one["variance"].mean(("draw", "bootstrap")).values, 0.0))
    last = axes[0, -1]
    last.plot(grid, spread, color=BLACK)
    last.set_ylim(0.0, 1.08 * float(spread.max()) or 1.0)
    power = number_axis(last.yaxis, 0.0, float(spread.max()), 4)
    unit = str(one["variance"].attrs.get("unit", "")).removesuffix("²").strip("()")
    last.set_title(wrapped(label(f"sd of {name}", unit, None, power), 30))
    for ax in axes[0]:
        exponent = number_axis(ax.xaxis, float(grid.min()), float(grid.max()), 4)
        ax.set_xlim(float(grid.min()), float(grid.max()))
        ax.set_xlabel(label(dim, "", labels, exponent))
    add_legend(figure, entries, "outside lower center", len(entries))
    return figure


def panels_of(
    ends: Mapping[str, str], height: float, below: float, alt: str, labels: Mapping[str, str] | None
) -> tuple[Figure, dict[str, Axes]]:
    """Return a figure of shares of the variance and its panels, one per output; `ends` says "_whole" of curves.

    Panels are `height` inches high, with `below` inches for the legend.
    """
    columns = min(3, len(ends))
    rows = -(-len(ends) // columns)
    figure, axes = new_figure(rows, columns, (PAGE if columns == 3 else 3.6 * columns, rows * height + below), alt)
    for ax in axes.flat[len(ends) :]:
        ax.set_axis_off()
    found = dict(zip(ends, axes.flat, strict=False))
    for index, (name, ax) in enumerate(found.items()):
        ax.set_title(wrapped((labels or {}).get(name, name) + (", whole curve" if ends[name] else ""), 30))
        if index // columns == (len(ends) - 1 - index % columns) // columns:
            ax.set_xlabel("fraction of the variance")
    return figure, found


def list_inputs(ax: Axes, order: Sequence[str], labels: Mapping[str, str] | None) -> None:
    """Write the names of inputs at 0, 1, ... from the top."""
    ax.set_ylim(len(order) - 0.4, -0.6)
    ax.set_yticks(np.arange(len(order)), [wrapped((labels or {}).get(name, name), 22) for name in order])


def check_result(result: object, kind: type, who: str, words: str) -> None:
    """Refuse what is no such result."""
    if not isinstance(result, kind):
        raise InputError(f"plots.{who}: got a {type(result).__name__}; give what {words}.")
