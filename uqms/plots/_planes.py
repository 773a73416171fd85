"""What is ruled out, and where an output passes a level: planes of two inputs."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import qmc

from uqms._typing import Array
from uqms.errors import InputError
from uqms.parameters import Box
from uqms.planning import HistoryMatching, LevelSet
from uqms.plots._style import (
    BLACK,
    GREY,
    PAGE,
    VERMILION,
    add_legend,
    collected,
    label,
    log_axis,
    new_figure,
    number_axis,
    pick,
    styled,
)

__all__ = ["history_matching", "level_set"]

CELLS = 24
SAMPLE = 15  # 2**15 points of the box that is shown
MOST = 6
SMALL = 0.01  # of the box: less than this is shown from near
AROUND = 0.75  # of the range of what remains, at each end
HIGHEST = 4.0  # implausibility, times the cut-off, at the end of the colours
GRID = 61


@styled
def history_matching(
    waves: HistoryMatching,
    *,
    names: Sequence[str] | None = None,
    reference: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Figure:
    """Draw what is ruled out in every pair of parameters: minimum implausibility and optical depth.

    Above the diagonal is the least implausibility over all other parameters, as a fraction of the cut-off: what is
    above 1 (the line) is ruled out whatever they are. Below it is the optical depth, the fraction of the other
    parameters' volume that is not ruled out. On the diagonal is that fraction for each parameter alone.

    Parameters
    ----------
    waves
        What `HistoryMatching(...)` or its `told` returned.
    names
        Parameters to show, from two to six; the first ones by default.
    reference
        Values to mark, for instance the truth of synthetic data.
    labels
        What to write instead of a name, by name.

    Returns
    -------
    matplotlib.figure.Figure
        A square of panels over the design box of the first wave, or, where less than 1 % of it remains, over the box
        around what remains, three-quarters of its range farther at each end.

    Raises
    ------
    InputError
        When it is no such value, or names are unknown, too few or too many.

    Examples
    --------
    >>> import uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(a=uq.Uniform(0, 1), b=uq.Uniform(0, 1)), 16, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": design["a"].values + design["b"].values ** 2})
    >>> waves = uq.HistoryMatching(uq.GaussianProcess().fit(runs), {"y": (0.5, 0.1)})
    >>> len(history_matching(waves).axes)
    6
    """
    if not isinstance(waves, HistoryMatching):
        raise InputError(
            f"plots.history_matching: got a {type(waves).__name__}; give what uq.HistoryMatching(...) returned."
        )
    box = waves.box
    shown = pick(names, box.names, box.names[:MOST], MOST, "history_matching")
    if len(shown) < 2:
        raise InputError(f"plots.history_matching: names is {shown}; give at least two of {list(box.names)}.")
    ends = _shown_box(waves)
    v = ends[0] + qmc.Sobol(box.d, seed=0).random_base2(SAMPLE) * (ends[1] - ends[0])
    x = np.asarray(box.from_unit(v))
    found = waves.implausibility(dict(zip(box.names, x.T, strict=True)))
    d = len(shown)
    size = max(min(PAGE / d, 2.2), 1.1)
    alt = (
        f"What is ruled out in pairs of {', '.join(shown)}: {waves.volume:.2g} of the box remains after "
        f"{len(waves.waves)} waves"
    )
    figure, axes = new_figure(d, d, (size * d + 1.2, size * d), alt)
    cell = np.clip(((v - ends[0]) / (ends[1] - ends[0]) * CELLS).astype(int), 0, CELLS - 1)
    edges = [_edges(box, ends, column) for column in range(box.d)]
    columns = [box.names.index(name) for name in shown]
    depth, least = cast(Any, None), cast(Any, None)  # of the last pair; there are at least two parameters
    for row, column in combinations(range(d), 2):
        i, j = columns[row], columns[column]
        flat = cell[:, i] * CELLS + cell[:, j]
        low = np.full(CELLS * CELLS, np.inf)
        np.minimum.at(low, flat, found)
        share = np.bincount(flat, found <= 1.0, CELLS * CELLS) / np.maximum(np.bincount(flat, minlength=CELLS**2), 1)
        square = np.ma.masked_invalid(low.reshape(CELLS, CELLS))
        least = axes[row, column].pcolormesh(
            edges[j], edges[i], square, cmap="cividis_r", vmin=0.0, vmax=HIGHEST, rasterized=True
        )
        if square.min() < 1.0 < square.max():
            middles = [np.sqrt(e[1:] * e[:-1]) if e[0] > 0.0 else 0.5 * (e[1:] + e[:-1]) for e in (edges[j], edges[i])]
            axes[row, column].contour(*middles, square, levels=[1.0], colors=BLACK, linewidths=0.8)
        depth = axes[column, row].pcolormesh(
            edges[i], edges[j], share.reshape(CELLS, CELLS).T, cmap="Greys", vmin=0.0, rasterized=True
        )
        depth.set_clim(0.0, max(float(share.max()), 1e-6))
    for k, column in enumerate(columns):
        count = np.bincount(cell[:, column], minlength=CELLS)
        share = np.bincount(cell[:, column], found <= 1.0, CELLS) / count
        axes[k, k].stairs(share, edges[column], fill=True, color=GREY, alpha=0.5)
        axes[k, k].set_ylim(0.0, 1.08 * max(float(share.max()), 1e-6))
    for row in range(d):
        for column in range(d):
            _dress(axes[row, column], box, shown, (row, column), edges, columns, reference, labels)
    figure.colorbar(
        least, ax=axes[: max(1, d // 2 + d % 2), -1], label="least implausibility / cut-off", extend="max", pad=0.02
    )
    figure.colorbar(depth, ax=axes[d // 2 + d % 2 :, -1], label="fraction not ruled out", pad=0.02)
    return figure


def _shown_box(waves: HistoryMatching) -> Array:
    """Return the ends (2, d) of what is shown, in the unit cube."""
    found = waves.remaining
    ends = np.array([np.zeros(waves.box.d), np.ones(waves.box.d)])
    if found.empty or found.volume >= SMALL:
        return ends
    low, high = found.points.min(axis=0), found.points.max(axis=0)
    width = high - low
    return np.stack([np.maximum(low - AROUND * width, 0.0), np.minimum(high + AROUND * width, 1.0)])


def _edges(box: Box, ends: Array, column: int) -> Array:
    """Return the ends of the cells of an input, in its own unit."""
    v = np.full((CELLS + 1, box.d), 0.5)
    v[:, column] = np.linspace(ends[0, column], ends[1, column], CELLS + 1)
    return np.asarray(box.from_unit(v))[:, column]


def _dress(
    ax: Axes,
    box: Box,
    shown: Sequence[str],
    place: tuple[int, int],
    edges: Sequence[Array],
    columns: Sequence[int],
    reference: Mapping[str, float] | None,
    labels: Mapping[str, str] | None,
) -> None:
    row, column = place
    for which, k, outer in (("x", column, row == len(shown) - 1), ("y", row, column == 0)):
        name, at = shown[k], edges[columns[k]]
        if which == "y" and row == column:
            ax.set_yticks([])
            if row == 0:
                ax.set_ylabel("fraction")
            continue
        low, high = float(at[0]), float(at[-1])
        log = box.scale[columns[k]] == "log" and high > 3.0 * low
        axis = ax.xaxis if which == "x" else ax.yaxis
        exponent = log_axis(ax, which, low, high) if log else number_axis(axis, low, high, 3)
        (ax.set_xlim if which == "x" else ax.set_ylim)(low, high)
        if outer:
            (ax.set_xlabel if which == "x" else ax.set_ylabel)(label(name, "", labels, exponent))
        else:
            ax.tick_params(axis=which, labelleft=False, labelbottom=False)  # type: ignore[arg-type]
    if reference is not None and shown[column] in reference:
        if row == column:
            ax.axvline(reference[shown[column]], color=VERMILION, lw=0.9)
        elif shown[row] in reference:
            ax.plot(reference[shown[column]], reference[shown[row]], "+", ms=7, mew=1.3, color=VERMILION)


@styled
def level_set(
    edge: LevelSet,
    *,
    names: Sequence[str] | None = None,
    at: Mapping[str, float] | None = None,
    proposed: Mapping[str, object] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Figure:
    """Draw the probability that an output is above a level over two inputs, with the band of the boundary.

    Parameters
    ----------
    edge
        What `uqms.level_set` returned.
    names
        Two inputs; the first two by default.
    at
        Values of the other inputs, in their own units; the middle of the box by default.
    proposed
        A design to mark, such as what `propose` returned.
    labels
        What to write instead of a name, by name.

    Returns
    -------
    matplotlib.figure.Figure
        A map of the probability. The line is the boundary (probability 1/2); between the dashed lines lies the band
        that covers the whole boundary with a probability of 95 %. With more inputs than are shown runs and proposals
        lie at other values of these.

    Raises
    ------
    InputError
        When it is no level set, or names are unknown.

    Examples
    --------
    >>> import uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(a=uq.Uniform(0, 1), b=uq.Uniform(0, 1)), 16, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": design["a"].values + design["b"].values ** 2})
    >>> len(level_set(uq.level_set(uq.GaussianProcess().fit(runs), 1.0)).axes)
    2
    """
    if not isinstance(edge, LevelSet):
        raise InputError(f"plots.level_set: got a {type(edge).__name__}; give what uq.level_set(...) returned.")
    box = edge.box
    shown = pick(names, box.names, box.names[:2], 2, "level_set")
    if len(shown) != 2 or set(at or {}) - (set(box.names) - set(shown)):
        raise InputError(
            f"plots.level_set: names is {shown}, at has {sorted(at or {})}; give two of {list(box.names)}, and values "
            "of others."
        )
    middle = dict(zip(box.names, box.from_unit(np.full((1, box.d), 0.5))[0].tolist(), strict=True)) | dict(at or {})
    lines = []
    for name in shown:
        v = np.full((GRID, box.d), 0.5)
        v[:, box.names.index(name)] = np.linspace(0.0, 1.0, GRID)
        lines.append(np.asarray(box.from_unit(v))[:, box.names.index(name)])
    mesh = np.meshgrid(*lines, indexing="ij")
    points = {name: np.full(GRID * GRID, value) for name, value in middle.items()}
    points |= {name: values.ravel() for name, values in zip(shown, mesh, strict=True)}
    p = edge.probability(points).reshape(GRID, GRID)
    side = edge.side(points).reshape(GRID, GRID)
    way = "below" if edge.below else "above"
    alt = (
        f"Probability of {way} {edge.level:g} over {shown[0]} and {shown[1]}; {edge.volume:.0%} of the box is {way}, "
        f"and the band of the boundary has {edge.band:.0%}"
    )
    figure, axes = new_figure(1, 1, (0.62 * PAGE, 0.46 * PAGE), alt)
    ax = axes[0, 0]
    drawn = ax.pcolormesh(*lines, p.T, cmap="cividis", vmin=0.0, vmax=1.0, shading="gouraud", rasterized=True)
    if p.min() < 0.5 < p.max():
        ax.contour(*lines, p.T, levels=[0.5], colors=BLACK, linewidths=1.0)
        ax.plot([], [], color=BLACK, lw=1.0, label="boundary")
    for sign in (-1.0, 1.0):
        inside = (side == sign).astype(np.float64)
        if 0.0 < inside.mean() < 1.0:
            ax.contour(*lines, inside.T, levels=[0.5], colors=VERMILION, linewidths=0.9, linestyles="--")
    ax.plot([], [], color=VERMILION, lw=0.9, ls="--", label="band, 95 %")
    if edge.runs is not None:
        ax.scatter(*(edge.runs[name].values for name in shown), s=14, c="#ffffff", edgecolors=BLACK, linewidths=0.6,
                   label="run", zorder=3)  # fmt: skip
    if proposed is not None:
        ax.scatter(*(np.asarray(proposed[name], dtype=np.float64) for name in shown), s=26, marker="X", c=VERMILION,
                   edgecolors=BLACK, linewidths=0.6, label="proposed", zorder=4)  # fmt: skip
    figure.colorbar(drawn, ax=ax, label=f"probability of {way} {edge.level:g}", pad=0.02)
    for which, name, values in zip("xy", shown, lines, strict=True):
        low, high = float(values[0]), float(values[-1])
        (ax.set_xlim if which == "x" else ax.set_ylim)(low, high)
        log = box.scale[box.names.index(name)] == "log"
        axis = ax.xaxis if which == "x" else ax.yaxis
        exponent = log_axis(ax, which, low, high) if log else number_axis(axis, low, high, 4)
        (ax.set_xlabel if which == "x" else ax.set_ylabel)(label(name, "", labels, exponent))
    add_legend(figure, collected([ax]), "outside upper center", 4)
    return figure
