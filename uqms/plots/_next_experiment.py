"""What measurements are expected to tell: gain against time and condition, and the budget curve."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uqms.errors import InputError
from uqms.planning import NextExperiment
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
)

__all__ = ["next_experiment"]

COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
MAX_LINES = 6


@styled
def next_experiment(best: NextExperiment, *, labels: Mapping[str, str] | None = None) -> Figure:
    """Draw the gain of each candidate against its place, and the gain of the chosen ones against their cost.

    Parameters
    ----------
    best
        What `uq.next_experiment` returned.
    labels
        What to write instead of a name, by name.

    Returns
    -------
    matplotlib.figure.Figure
        Left: expected information of each candidate alone in nats, one line for each output, condition and number of
        replicates (at most six), dashed if the surrogate were exact; stars are the chosen candidates in their order.
        Right: the gain of the chosen ones together against the total cost.

    Raises
    ------
    InputError
        When it is no such result.
    """
    if not isinstance(best, NextExperiment):
        raise InputError(f"plots.next_experiment: got a {type(best).__name__}; give what uq.next_experiment returned.")
    table = best.table
    along = _along(best)
    against = f" against {along}" if along else ""
    alt = f"Expected information of {len(table)} candidates{against}, {len(best.best)} of them chosen"
    figure, axes = new_figure(1, 2, (PAGE, 2.9), alt)
    left, right = axes.flat
    _candidates(left, best, along, labels)
    cost = best.best["total_cost"].to_numpy()
    x, gain = np.append(0.0, cost), np.append(0.0, best.best["gain"].to_numpy())
    exact = np.append(0.0, best.best["gain_exact"].to_numpy())
    right.plot(x, exact, color=GREY, ls=(0, (4, 1.5)), lw=1.0, label="if the surrogate were exact")
    right.plot(x, gain, color=BLUE, marker="o", ms=4.0, label="expected")
    right.set(xlim=(0.0, 1.06 * cost[-1]), ylim=(0.0, 1.12 * max(gain.max(), exact.max(), 1e-12)))
    for axis, high in ((right.xaxis, cost[-1]), (right.yaxis, gain.max())):
        number_axis(axis, 0.0, float(high), 4)
    right.set(xlabel="total cost", ylabel="information (nats)", title="Chosen together")
    add_legend(figure, collected(figure.axes), "outside lower center", 4)
    return figure


def _along(best: NextExperiment) -> str | None:
    """Return the coordinate or condition with the most values, None when there is one candidate place."""
    counts = {name: best.table[name].nunique() for name in best.candidates.places}
    return max(counts, key=lambda name: counts[name], default=None)


def _candidates(ax: Axes, best: NextExperiment, along: str | None, labels: Mapping[str, str] | None) -> None:
    table = best.table
    x = table[along].to_numpy() if along else np.arange(len(table), dtype=float)
    others = [
        name for name in ("part", "output", *best.candidates.places, "replicates") if name in table and name != along
    ]
    varying = [name for name in others if table[name].nunique() > 1]
    groups = [("", table)] if not varying else [(key, one) for key, one in table.groupby(varying, dropna=False)]
    shown = sorted(groups, key=lambda pair: -float(pair[1]["gain"].max()))[:MAX_LINES]
    for k, (key, rows) in enumerate(shown):
        at = np.argsort(x[rows.index])
        line = dict(zip(varying, key if isinstance(key, tuple) else (key,), strict=False))
        words = ", ".join(filter(None, (_words(name, value, labels) for name, value in line.items()))) or "each alone"
        own = x[rows.index][at]
        few = len(rows) <= 40
        ax.plot(
            own,
            rows["gain"].to_numpy()[at],
            color=COLOURS[k],
            marker=MARKERS[k] if few else "",
            ms=3.0,
            label=words,
        )
        exact = rows["gain_exact"].to_numpy()[at]
        ax.plot(own, exact, color=COLOURS[k], ls=(0, (4, 1.5)), lw=0.8, alpha=0.7)
    chosen = table[table["chosen"] > 0].sort_values("chosen")
    ax.plot(x[chosen.index], chosen["gain"], color=BLACK, ls="", marker="*", ms=9.0, label="chosen", zorder=5)
    top = float(max(table["gain"].max(), table["gain_exact"].max(), 1e-12))
    for place, one in zip(chosen["chosen"], chosen.index, strict=True):
        ax.annotate(
            str(place), (x[one], table["gain"][one]), xytext=(4, 5), textcoords="offset points", fontsize="small"
        )
    ax.set_ylim(0.0, 1.15 * top)
    number_axis(ax.yaxis, 0.0, top, 4)
    number_axis(ax.xaxis, float(np.min(x)), float(np.max(x)), 4)
    ax.set(xlabel=label(along, "", labels) if along else "candidate", ylabel="information (nats)", title="Each alone")


def _words(name: str, value: object, labels: Mapping[str, str] | None) -> str:
    if name in ("output", "part"):
        return label(str(value), "", labels)
    number = float(str(value))
    return f"{label(name, '', labels)} {number:g}" if np.isfinite(number) else ""
