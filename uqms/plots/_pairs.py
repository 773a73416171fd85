"""Posterior in pairs of quantities."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.path import Path

from uqms._typing import Bools
from uqms.calibration import Posterior
from uqms.plots._density import contours, density
from uqms.plots._quantity import Quantity, quantities
from uqms.plots._style import (
    BLACK,
    BLUE,
    GREY,
    PAGE,
    SKY,
    VERMILION,
    add_legend,
    exponent_of,
    label,
    new_figure,
    number_axis,
    styled,
    wrapped,
)

__all__ = ["pairs"]

MOST = 10
MASSES = (0.5, 0.95)
POINTS = 1000


@styled
def pairs(
    posterior: Posterior,
    *,
    names: Sequence[str] | None = None,
    reference: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Figure:
    """Draw the joint posterior of every pair of parameters, with each one's density on the diagonal.

    Use it to see which parameters are known only together (narrow ridges), and whether the posterior leans on the end
    of what was simulated (dotted lines). Contours hold 50 % and 95 % of the posterior in its smallest region.

    Parameters
    ----------
    posterior
        What `Calibration(...).sample()` returns.
    names
        Quantities to show, at most 10; all that were inferred by default, without derived ones.
    reference
        Values to mark, for instance the truth of synthetic data.
    labels
        What to write instead of a name, by name.

    Returns
    -------
    matplotlib.figure.Figure
        A triangle of panels.

    Raises
    ------
    InputError
        When it is no posterior, or names are unknown or too many.
    """
    shown = quantities(posterior, names, reference, derived=False, most=MOST, who="pairs")
    d = len(shown)
    size = max(min(PAGE / d, 2.2), 1.05) if d > 1 else 3.0
    alt = f"Posterior in pairs of {', '.join(one.name for one in shown)}"
    figure, axes = new_figure(d, d, (size * d + (1.4 if d == 1 else 0.0), size * d), alt)
    diverging = _diverging(posterior)
    for row in range(d):
        for column in range(d):
            ax = axes[row, column]
            if column > row:
                figure.delaxes(ax)
            elif column == row:
                _marginal(ax, shown[row])
            else:
                _joint(ax, shown[column], shown[row], diverging)
            if column <= row:
                _dress(ax, shown[column], shown[row], labels, size, left=column == 0 < row, bottom=row == d - 1)
    figure.align_labels()
    where = "outside right upper" if d == 1 else "upper right"
    add_legend(figure, _legend(bool(diverging.any()), reference, d), where)
    return figure


def _diverging(posterior: Posterior) -> Bools:
    stats = posterior.tree["sample_stats"].dataset
    count = posterior.draws.sizes["chain"] * posterior.draws.sizes["draw"]
    return stats["diverging"].values.ravel().astype(bool) if "diverging" in stats else np.zeros(count, dtype=bool)


def _range(one: Quantity) -> tuple[float, float]:
    low, high = (float(end) for end in np.quantile(one.draws, [0.001, 0.999]))
    if one.reference is not None:
        low, high = min(low, one.reference), max(high, one.reference)
    margin = 0.08 * ((high - low) or abs(high) or 1.0)
    return low - margin, high + margin


def _marginal(ax: Axes, one: Quantity) -> None:
    found = density(one.draws, one.limits)
    if found is None:
        ax.axvline(float(one.draws[0]), color=BLUE)
    else:
        ax.fill_between(*found, color=SKY, alpha=0.4, lw=0)
        ax.plot(*found, color=BLUE)
        ax.set_ylim(0.0, 1.08 * float(found[1].max()))
    _mark(ax, one, None)


def _joint(ax: Axes, x: Quantity, y: Quantity, diverging: Bools) -> None:
    found = contours(x.draws, y.draws, MASSES, (x.limits, y.limits))
    if found is None:
        every = max(1, len(x.draws) // POINTS)
        ax.plot(x.draws[::every], y.draws[::every], ".", ms=2.0, mec="none", mfc=BLUE, alpha=0.5, rasterized=True)
    else:
        ax.plot(x.draws[found.outside], y.draws[found.outside], ".", ms=1.8, mec="none", mfc=GREY, rasterized=True)
        heights = sorted(float(height) for height in found.heights)
        top = float(found.values.max())
        areas = ax.contourf(found.x, found.y, found.values, [*heights, top], colors=[SKY, BLUE], alpha=0.45)
        lines = ax.contour(found.x, found.y, found.values, heights, colors=BLUE, linewidths=0.9)
        frame = _frame(x, y)
        for artist in (areas, lines):
            artist.set_clip_path(frame, ax.transData)
    if diverging.any():
        ax.plot(x.draws[diverging], y.draws[diverging], "x", ms=3.5, mew=0.8, color=VERMILION)
    _mark(ax, x, y)


def _frame(x: Quantity, y: Quantity) -> Path:
    """Return what is in view and within the limits of both priors: a density is cut off there."""
    (left, right), (bottom, top) = (
        (max(low, one.limits[0]), min(high, one.limits[1])) for one in (x, y) for low, high in (_range(one),)
    )
    return Path([(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)])


def _mark(ax: Axes, x: Quantity, y: Quantity | None) -> None:
    """Mark the ends of what was simulated, where they are in view, and reference values."""
    for one, line in ((x, ax.axvline), (y, ax.axhline)):
        if one is None:
            continue
        low, high = _range(one)
        for end in one.limits:
            if low <= end <= high:
                line(end, color=BLACK, lw=0.9, ls=(0, (1, 1.5)))
        if one.reference is not None:
            line(one.reference, color=VERMILION, lw=0.9)


def _dress(
    ax: Axes,
    x: Quantity,
    y: Quantity,
    labels: Mapping[str, str] | None,
    size: float,
    *,
    left: bool,
    bottom: bool,
) -> None:
    ticks, width = (3, int(size * 12)) if size < 2.0 else (4, int(size * 12))
    x_range, y_range = _range(x), _range(y)
    ax.set_xlim(*x_range)
    number_axis(ax.xaxis, *x_range, ticks)
    ax.tick_params(labelbottom=bottom, labelleft=left)
    if bottom:
        ax.set_xlabel(wrapped(label(x.name, x.unit, labels, exponent_of(*x_range)), width))
    if x is y:
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        return
    ax.set_ylim(*y_range)
    number_axis(ax.yaxis, *y_range, ticks)
    if left:
        ax.set_ylabel(wrapped(label(y.name, y.unit, labels, exponent_of(*y_range)), width))


def _legend(diverging: bool, reference: Mapping[str, float] | None, d: int) -> dict[str, Artist]:
    entries: dict[str, Artist] = {}
    if d == 1:
        entries["posterior"] = Patch(fc=SKY, ec=BLUE, alpha=0.6)
    else:
        entries["50 % of the posterior"] = Patch(fc=BLUE, ec=BLUE, alpha=0.6)
        entries["95 % of the posterior"] = Patch(fc=SKY, ec=BLUE, alpha=0.6)
        entries["draws outside of it"] = Line2D([], [], marker=".", ls="", color=GREY, ms=4)
    if diverging and d > 1:
        entries["divergent draws"] = Line2D([], [], marker="x", ls="", color=VERMILION, ms=4)
    if reference:
        entries["reference"] = Line2D([], [], color=VERMILION, lw=0.9)
    return entries
