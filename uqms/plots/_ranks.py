"""Ranks of truths among posterior draws: how far their distribution is from uniform, with the exact band."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uqms.diagnostics import RankStatistics
from uqms.errors import InputError
from uqms.plots._style import (
    BLACK,
    BLUE,
    GREY,
    PAGE,
    VERMILION,
    add_legend,
    collected,
    label,
    new_figure,
    number_axis,
    pick,
    styled,
    wrapped,
)

__all__ = ["ranks"]

MOST, COLUMNS = 12, 3


@styled
def ranks(
    statistics: RankStatistics, *, names: Sequence[str] | None = None, labels: Mapping[str, str] | None = None
) -> Figure:
    """Draw the distribution function of ranks minus the uniform one, with the simultaneous band of uniform ranks.

    Use it when simulation-based calibration fails, to see how. A line that rises above the band and then falls below
    it: draws are too narrow, the truth lies at their ends too often; first below, then above: too wide; above
    everywhere: draws are too high, below everywhere: too low. What leaves the band is red, as is the name.

    Parameters
    ----------
    statistics
        What `uqms.diagnostics.simulation_based_calibration` or `rank_statistics` returns.
    names
        Quantities to show, at most 12; all of them by default.
    labels
        What to write instead of a quantity's name, by name.

    Returns
    -------
    matplotlib.figure.Figure
        A panel a quantity.

    Raises
    ------
    InputError
        When it is something else, or names are unknown or too many.

    Examples
    --------
    >>> import numpy as np, xarray as xr, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 16, rng=1)
    >>> surrogate = uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": np.sin(design["k"].values)}))
    >>> problem = uq.Calibration(surrogate, xr.DataArray(0.5, name="y"), noise=uq.GaussianNoise(sd=0.1))
    >>> found = uq.diagnostics.simulation_based_calibration(problem, 20, rng=1)
    >>> [ax.get_title(loc="left") for ax in ranks(found).axes]
    ['k', 'log_likelihood', 'misfit']
    """
    if not isinstance(statistics, RankStatistics):
        raise InputError(
            f"plots.ranks: got {type(statistics).__name__}; give uq.diagnostics.simulation_based_calibration(problem)."
        )
    wanted = pick(names, statistics.quantities, statistics.quantities, MOST, "ranks")
    columns = min(COLUMNS, len(wanted))
    rows = -(-len(wanted) // columns)
    alt = f"Ranks of {', '.join(wanted)} against uniform ranks"
    figure, axes = new_figure(rows, columns, (PAGE, 2.1 * rows + 0.35), alt)
    reach = 1.15 * max(_panel(ax, statistics, name) for ax, name in zip(axes.flat, wanted, strict=False))
    for ax, name in zip(axes.flat, wanted, strict=False):
        colour = BLACK if statistics.table.loc[name, "passed"] else VERMILION
        ax.set_title(wrapped(label(name, "", labels), 32), color=colour)
        ax.set(xlim=(0.0, 1.0), ylim=(-reach, reach))
        number_axis(ax.xaxis, 0.0, 1.0, 5)
        number_axis(ax.yaxis, -reach, reach, 5)
    for ax in axes.flat[len(wanted) :]:
        ax.remove()
    for ax in axes[:, 0]:
        ax.set_ylabel("ECDF of ranks − uniform")
    for column in range(columns):
        axes[(len(wanted) - 1 - column) // columns, column].set_xlabel(f"rank / {statistics.draws + 1}")
    add_legend(figure, collected(axes.flat[: len(wanted)]), "outside lower center", 3)
    return figure


def _panel(ax: Axes, statistics: RankStatistics, name: str) -> float:
    """Draw one quantity and return how far it or the band reaches."""
    band, n = statistics.band, statistics.band.n
    points = np.concatenate([[0.0], band.points, [1.0]])
    low, high, found = (
        np.concatenate([[0.0], counts / n - band.points, [0.0]])
        for counts in (band.lower, band.upper, statistics.counts(name))
    )
    inside = 1.0 - statistics.alpha / len(statistics.quantities)
    ax.fill_between(points, low, high, color=GREY, alpha=0.25, lw=0, label=f"right: {100 * inside:.4g} % of all lines")
    ax.axhline(0.0, color=BLACK, lw=0.7)
    ax.plot(points, found, color=BLUE, lw=1.2, label="found")
    outside = (found < low - 1e-12) | (found > high + 1e-12)
    if outside.any():
        ax.plot(points[outside], found[outside], "o", color=VERMILION, ms=2.2, label="outside of the band")
    return float(max(np.abs(part).max() for part in (low, high, found)))
