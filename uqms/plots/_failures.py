"""Where runs fail: the fraction that gave no outputs along each input."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from uqms import ensemble as table
from uqms._typing import Array
from uqms.ensemble import LOST, RunState
from uqms.ensemble.reporting import Side, wilson
from uqms.plots._design import MARKS, Input, describe_input, dress
from uqms.plots._style import BLUE, PAGE, VERMILION, add_legend, collected, new_figure, pick, styled

__all__ = ["failures"]

MOST = 12
_COLUMNS = 4


@styled
def failures(
    ensemble: xr.Dataset, *, names: Sequence[str] | None = None, labels: Mapping[str, str] | None = None
) -> Figure:
    r"""Draw the fraction of runs that gave no outputs along each input, and the region in which most of them lie.

    Use it after a campaign with failed runs; `uqms.ensemble.failures` tells the same in words, `uqms.plots.design`
    shows the points in pairs of inputs.

    Parameters
    ----------
    ensemble
        With the states of its runs.
    names
        Inputs to show, at most 12; all of them by default.
    labels
        What to write instead of a name, by name, for example {"beta": r"$\beta$"}.

    Returns
    -------
    matplotlib.figure.Figure
        One panel per input. Bars are fractions with 95 % intervals (Wilson), marks on top the runs without outputs.
        The shaded side of a dashed line belongs to the region.

    Raises
    ------
    DataError
        When it is no ensemble.
    InputError
        When names are unknown or too many.

    Examples
    --------
    >>> import uqms as uq
    >>> a = np.arange(20.0)
    >>> table = uq.ensemble.build({"a": a}, {"y": a}, states=np.where(a > 13, "failed", "completed"))
    >>> len(failures(table).axes)
    1
    """
    told = table.failures(ensemble)
    known = table.input_names(ensemble)
    wanted = pick(names, known, known, MOST, "failures")
    state = table.run_states(ensemble).values
    rows = state != RunState.PLANNED
    ran = ensemble.isel(run=np.flatnonzero(rows))
    columns = min(_COLUMNS, len(wanted))
    lines = -(-len(wanted) // columns)
    alt = f"Fraction of runs that gave no outputs, along {', '.join(wanted)}. {told}"
    figure, axes = new_figure(lines, columns, (PAGE * max(columns, 2) / _COLUMNS + 1.2, 1.9 * lines), alt)
    for ax, name in zip(axes.flat, wanted, strict=False):
        one = describe_input(ran, name, labels)
        _panel(ax, one, state[rows], [side for side in told.region if side.input == name])
        dress(ax, "x", one, PAGE / _COLUMNS, True)
        if ax is not axes[ax.get_subplotspec().rowspan.start, 0]:
            ax.tick_params(labelleft=False)
    for ax in list(axes.flat)[len(wanted) :]:
        figure.delaxes(ax)
    for row in axes:
        row[0].set_ylabel("fraction without\noutputs")
    add_legend(figure, collected(figure.axes), "outside right upper")
    return figure


def _panel(ax: Axes, one: Input, state: NDArray[np.str_], sides: Sequence[Side]) -> None:
    lost = np.isin(state, LOST)
    edges = _edges(one, len(state))
    which = np.clip(np.searchsorted(edges, one.values, side="right") - 1, 0, len(edges) - 2)
    total = np.bincount(which, minlength=len(edges) - 1)
    gone = np.bincount(which, lost, minlength=len(edges) - 1)
    share = gone / np.maximum(total, 1)
    low, high = wilson(share, np.maximum(total, 1))
    some = total > 0
    middle = np.sqrt(edges[:-1] * edges[1:]) if one.log else (edges[:-1] + edges[1:]) / 2
    ax.bar(
        edges[:-1][some],
        share[some],
        np.diff(edges)[some],
        align="edge",
        color=BLUE,
        alpha=0.35,
        lw=0,
        label="fraction",
    )
    ax.vlines(middle[some], low[some], high[some], color=BLUE, lw=1.0, label="95 % interval")
    for word in LOST:
        rows = state == word
        if rows.any():
            mark = MARKS[word]
            label = word.value
            y = np.full(int(rows.sum()), 1.08)
            ax.scatter(one.values[rows], y, s=12, marker=mark.marker, c=mark.colour, lw=0, label=label, clip_on=False)
    for side in sides:
        ax.axvline(side.value, color=VERMILION, lw=0.9, ls="--", zorder=0)
        end = one.high if side.above else one.low
        ax.axvspan(side.value, end, color=VERMILION, alpha=0.08, lw=0, zorder=0, label="region")
    ax.set_ylim(0.0, 1.15)
    ax.set_yticks([0.0, 0.5, 1.0], ["0", "0.5", "1"])


def _edges(one: Input, n: int) -> Array:
    """Return bins over the design box, about ten runs in each but at most twelve bins."""
    count = int(np.clip(n // 10, 2, 12))
    low, high = min(one.box[0], one.values.min()), max(one.box[1], one.values.max())
    return np.geomspace(low, high, count + 1) if one.log else np.linspace(low, high, count + 1)
