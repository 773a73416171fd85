"""The points of a design in pairs of inputs, by how their runs ended."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from uqms import ensemble as table
from uqms._typing import Array
from uqms.ensemble import RunState
from uqms.errors import InputError
from uqms.plots._style import (
    BLUE,
    GREY,
    ORANGE,
    PAGE,
    PURPLE,
    SKY,
    VERMILION,
    add_legend,
    collected,
    label,
    log_axis,
    new_figure,
    number_axis,
    pick,
    styled,
    wrapped,
)

__all__ = ["MARKS", "Input", "describe_input", "design", "dress"]

MOST = 10


class _Mark(NamedTuple):
    colour: str
    marker: str
    filled: bool


MARKS = {
    RunState.PLANNED: _Mark(GREY, "o", False),
    RunState.COMPLETED: _Mark(BLUE, "o", True),
    RunState.FAILED: _Mark(VERMILION, "X", True),
    RunState.TIMEOUT: _Mark(ORANGE, "^", True),
    RunState.INVALID: _Mark(PURPLE, "s", True),
    RunState.PARTIAL: _Mark(SKY, "D", True),
}


class Input(NamedTuple):
    """One input: its column, the range that an axis shows and the design box in it."""

    values: Array
    text: str
    unit: str
    name: str
    low: float
    high: float
    box: tuple[float, float]
    log: bool


@styled
def design(
    ensemble: xr.Dataset, *, names: Sequence[str] | None = None, labels: Mapping[str, str] | None = None
) -> Figure:
    r"""Draw the points of a design in pairs of inputs, coloured by how their runs ended.

    Use it to see holes in a design, and whether failed runs share a corner. Inputs that surrogates take on a log scale
    have log axes; a thin frame is the design box.

    Parameters
    ----------
    ensemble
        A design, or the ensemble that `uqms.run` made of it.
    names
        Inputs to show, at most 10; all of them by default.
    labels
        What to write instead of a name, by name, for example {"beta": r"$\beta$"}.

    Returns
    -------
    matplotlib.figure.Figure
        One panel a pair; a single input is drawn against the number of the run.

    Raises
    ------
    InputError
        When it is no design, or names are unknown or too many.

    Examples
    --------
    >>> import uqms as uq
    >>> points = uq.sobol(uq.ParameterSpace(a=uq.Uniform(0, 1), b=uq.Uniform(0, 1), c=uq.Uniform(0, 1)), 16, rng=1)
    >>> len(design(points).axes)
    3
    """
    known = table.input_names(ensemble) if isinstance(ensemble, xr.Dataset) else ()
    if not known:
        raise InputError(
            f"plots.design: got {type(ensemble).__name__} without inputs; give a design such as uq.sobol(space, 64) or "
            "an ensemble."
        )
    wanted = pick(names, known, known, MOST, "design")
    inputs = [describe_input(ensemble, name, labels) for name in wanted]
    count = ensemble.sizes["run"]
    state = table.run_states(ensemble).values if "state" in ensemble else np.full(count, RunState.PLANNED.value)
    if len(inputs) == 1:
        return _single(inputs[0], state)
    return _triangle(inputs, state)


def describe_input(ensemble: xr.Dataset, name: str, labels: Mapping[str, str] | None) -> Input:
    """Return what an axis needs to know of an input."""
    values = np.asarray(ensemble[name].values, dtype=np.float64)
    box = table.get_box(ensemble)
    index = box.names.index(name)
    lower, upper = box.lower[index], box.upper[index]
    low, high = min(lower, float(values.min())), max(upper, float(values.max()))
    log = box.scale[index] == "log" and low > 0 and high / low > 3.0
    if log:
        factor = (high / low) ** 0.04
        low, high = low / factor, high * factor
    else:
        margin = 0.04 * (high - low or abs(high) or 1.0)
        low, high = low - margin, high + margin
    unit = str(ensemble[name].attrs.get("unit", ""))
    return Input(values, (labels or {}).get(name, ""), unit, name, low, high, (lower, upper), log)


def _triangle(inputs: list[Input], state: NDArray[np.str_]) -> Figure:
    d = len(inputs)
    size = min(PAGE / (d - 1), 2.3) if d > 2 else 3.3
    legend = 1.2 if d == 2 else 0.0
    alt = f"Design: {len(state)} points in pairs of {', '.join(one.name for one in inputs)}"
    figure, axes = new_figure(d - 1, d - 1, (max(size, 1.05) * (d - 1) + legend, max(size, 1.05) * (d - 1)), alt)
    for row in range(d - 1):
        for column in range(d - 1):
            ax = axes[row, column]
            if column > row:
                figure.delaxes(ax)
                continue
            x, y = inputs[column], inputs[row + 1]
            corner = (x.box[0], y.box[0])
            width, height = x.box[1] - x.box[0], y.box[1] - y.box[0]
            ax.add_patch(Rectangle(corner, width, height, fill=False, ec="0.7", lw=0.7, zorder=0, label="design box"))
            _points(ax, x.values, y.values, state)
            dress(ax, "x", x, size, row == d - 2)
            dress(ax, "y", y, size, column == 0)
    figure.align_labels()
    add_legend(figure, _entries(axes[0, 0]), "outside right upper" if d == 2 else "upper right")
    return figure


def _single(one: Input, state: NDArray[np.str_]) -> Figure:
    figure, axes = new_figure(1, 1, (PAGE * 0.75, 2.4), f"Design: {len(state)} values of {one.name}")
    ax = axes[0, 0]
    _points(ax, one.values, np.arange(len(state), dtype=np.float64), state)
    for end in one.box:
        ax.axvline(end, color="0.7", lw=0.7, zorder=0, label="design box")
    dress(ax, "x", one, 4.0, True)
    ax.set_ylabel("run")
    number_axis(ax.yaxis, 0, len(state), 4)
    add_legend(figure, _entries(ax), "outside right upper")
    return figure


def _entries(ax: Axes) -> dict[str, Artist]:
    entries = collected([ax])
    return entries | {"design box": entries.pop("design box")}


def _points(ax: Axes, x: Array, y: Array, state: NDArray[np.str_]) -> None:
    area = float(np.clip(1500.0 / len(x), 2.0, 14.0))
    for word, mark in MARKS.items():
        rows = state == word
        if not rows.any():
            continue
        ax.scatter(
            x[rows],
            y[rows],
            s=area if word in (RunState.COMPLETED, RunState.PLANNED) else max(3.0 * area, 16.0),
            marker=mark.marker,
            facecolors=mark.colour if mark.filled else "none",
            edgecolors="white" if mark.filled else mark.colour,
            linewidths=0.3 if mark.filled else 0.8,
            label=f"{word} ({int(rows.sum())})",
            zorder=2 + word.code,
            rasterized=len(x) > 5000,
        )


def dress(ax: Axes, which: str, one: Input, size: float, outer: bool) -> None:
    """Set scale, limits and ticks; the label and the tick labels where the panel stands at the outside."""
    (ax.set_xlim if which == "x" else ax.set_ylim)(one.low, one.high)
    exponent = 0
    if one.log:
        exponent = log_axis(ax, which, one.low, one.high)
    else:
        exponent = number_axis(ax.xaxis if which == "x" else ax.yaxis, one.low, one.high, 3 if size < 2.0 else 4)
    if not outer:
        if which == "x":
            ax.tick_params(labelbottom=False)
        else:
            ax.tick_params(labelleft=False)
        return
    text = label(one.name, one.unit, {one.name: one.text}, exponent)
    (ax.set_xlabel if which == "x" else ax.set_ylabel)(wrapped(text, max(12, int(size * 11))))
