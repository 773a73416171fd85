"""The data with what the calibrated simulator, and a new measurement, would show."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from uqms._typing import Array
from uqms.calibration import Posterior
from uqms.calibration.capabilities import refuse
from uqms.errors import InputError
from uqms.plots._bands import Bands, bands_at, bands_of_cells
from uqms.plots._style import (
    BLACK,
    BLUE,
    PAGE,
    SKY,
    VERMILION,
    add_legend,
    collected,
    exponent_of,
    label,
    new_figure,
    number_axis,
    styled,
    wrapped,
)

__all__ = ["predictive"]

MOST = 12
FINE = 200  # coordinates at most
NORMAL_95 = 1.959963984540054


class _Panel(NamedTuple):
    """One panel: bands over x, and what was measured there."""

    output: str
    title: str
    kind: str  # "curve", or "points": intervals side by side
    x: Array  # (P,)
    ticks: Sequence[str] | None  # words under the points
    x_text: str
    bands: Bands
    data_x: Array
    data: Array
    data_sd: Array | None  # known one of every row, where a new measurement's is not known


@styled
def predictive(
    posterior: Posterior,
    *,
    output: str | None = None,
    conditions: Mapping[str, object] | None = None,
    coords: Mapping[str, object] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Figure:
    """Draw the data with posterior predictive bands, to see whether the calibrated simulator explains them.

    Blue holds 50 % and 95 % of new measurements (parameters, surrogate error given the data, noise); red lines are the
    simulator's output without noise, its median and 95 %. Single data outside of the blue are expected, one in twenty;
    many in a row on one side are a model that misses something.

    Parameters
    ----------
    posterior
        What `Calibration(...).sample()` returns.
    output
        Which one; all observed outputs by default.
    conditions
        Known inputs to predict at, numbers or arrays of one length; the observed ones by default.
    coords
        Coordinates of a curve, by dim; by default those that were simulated, with straight lines between. Between them
        a surrogate interpolates, and bands that are asked for there hold the error of that too.
    labels
        What to write instead of a name (of an output, dim or condition), by name.

    Returns
    -------
    matplotlib.figure.Figure
        One panel a curve and condition; scalars stand side by side in one panel an output.

    Raises
    ------
    InputError
        When it is no posterior, or output, conditions or coordinates are unknown.
    ExtrapolationError
        Outside of what was simulated.
    """
    if not isinstance(posterior, Posterior):
        raise InputError(
            f"plots.predictive: got {type(posterior).__name__}; give the posterior that Calibration(...).sample() "
            "returns for one subject."
        )
    refuse(posterior.problem, "plots.predictive")
    panels: list[_Panel] = []
    for name in _outputs(posterior, output, coords):
        panels += _panels(posterior, name, conditions, coords, labels)
    return _draw(panels, posterior, labels)


def _outputs(posterior: Posterior, output: str | None, coords: Mapping[str, object] | None) -> list[str]:
    layouts = posterior.single.surrogate.layouts
    if output is not None:
        if output not in layouts:
            raise InputError(f"plots.predictive: unknown output {output!r}; the surrogate has {list(layouts)}.")
        names = [output]
    else:
        names = list(posterior.single.noise.own_outputs)
    fitting = [name for name in names if coords is None or set(layouts[name].dims) == set(coords)]
    if not fitting:
        dims = {name: list(layouts[name].dims) for name in names}
        raise InputError(f"plots.predictive: coords are given for {sorted(coords or {})}, but the dims are {dims}.")
    return fitting


def _is_curve(posterior: Posterior, output: str) -> bool:
    layout = posterior.single.surrogate.layouts[output]
    return len(layout.dims) == 1 and np.asarray(layout.coords[layout.dims[0]]).dtype.kind in "fiu"


def _panels(
    posterior: Posterior,
    output: str,
    conditions: Mapping[str, object] | None,
    coords: Mapping[str, object] | None,
    labels: Mapping[str, str] | None,
) -> list[_Panel]:
    if _is_curve(posterior, output):
        return _curves(posterior, output, conditions, coords, labels)
    if not posterior.single.surrogate.layouts[output].dims:
        return [_scalars(posterior, output, conditions, labels)]
    if conditions is not None or coords is not None:
        raise InputError(
            f"plots.predictive: {output!r} is no curve over numbers and is drawn at its observed places only; use "
            "posterior.predict(conditions=..., coords=...) for others."
        )
    return _observed_places(posterior, output, labels)


# -------------------------------------------------------------------------------------------------------------- curves
def _curves(
    posterior: Posterior,
    output: str,
    conditions: Mapping[str, object] | None,
    coords: Mapping[str, object] | None,
    labels: Mapping[str, str] | None,
) -> list[_Panel]:
    layout = posterior.single.surrogate.layouts[output]
    dim = layout.dims[0]
    x = _simulated(np.asarray(layout.coords[dim], dtype=np.float64))
    if coords is not None:
        x = np.sort(np.atleast_1d(np.asarray(coords[dim], dtype=np.float64)))
    bands, rows = bands_at(posterior, output, conditions, {dim: x})
    observed = conditions is None and output in posterior.single.noise.own_outputs
    panels = []
    for k, row in enumerate(rows):
        part = slice(k * len(x), (k + 1) * len(x))
        measured = None if bands.measurement is None else bands.measurement[:, part]
        at, data, sd = _data(posterior, output, row, dim)
        if observed and not len(data):
            continue  # an experiment in which another output was measured
        panels.append(
            _Panel(
                output=output,
                title=_condition_text(posterior, row, labels),
                kind="curve",
                x=x,
                ticks=None,
                x_text=label(dim, "", labels),
                bands=Bands(bands.output[:, part], measured),
                data_x=at,
                data=data,
                data_sd=sd if measured is None else None,
            )
        )
    return panels


def _simulated(grid: Array) -> Array:
    """Return the simulated coordinates, in order; of very many, some."""
    picked = np.unique(np.linspace(0, len(grid) - 1, min(len(grid), FINE)).astype(int))
    return np.asarray(np.sort(grid)[picked])


def _data(posterior: Posterior, output: str, condition: Array, dim: str | None) -> tuple[Array, Array, Array]:
    """Return coordinates, values and relative sds of the data at a condition."""
    cells = posterior.single.cells
    same = (cells.conditions == condition).all(axis=1)
    chosen = same[cells.experiment] & (cells.group == posterior.single.noise.group_of(output))
    rows = np.flatnonzero(chosen[cells.row_cell])
    cell = cells.row_cell[rows]
    at = np.zeros(len(rows)) if dim is None else np.asarray(cells.coords[dim][cell])
    return at, posterior.single.observations.value[rows], np.sqrt(cells.row_variance[rows])


def _condition_text(posterior: Posterior, row: Array, labels: Mapping[str, str] | None) -> str:
    problem = posterior.single
    known = problem.space.conditions
    parts = []
    for name, value in zip(problem.condition_names, row, strict=True):
        unit = known[name].unit if name in known else ""
        parts.append(f"{label(name, '', labels)} = {value:.4g} {unit}".strip())
    return ", ".join(parts)


# ------------------------------------------------------------------------------------------------------------- scalars
def _scalars(
    posterior: Posterior, output: str, conditions: Mapping[str, object] | None, labels: Mapping[str, str] | None
) -> _Panel:
    bands, rows = bands_at(posterior, output, conditions, None)
    problem = posterior.single
    found = [_data(posterior, output, row, None) for row in rows]
    observed = conditions is None and output in problem.noise.own_outputs
    keep = [k for k in range(len(rows)) if not observed or len(found[k][1])]
    numeric = len(problem.condition_names) == 1
    x = rows[keep, 0] if numeric else np.arange(len(keep), dtype=np.float64)
    unit, text, ticks = "", "", None
    if numeric:
        name = problem.condition_names[0]
        unit = problem.space.conditions[name].unit if name in problem.space.conditions else ""
        text = label(name, unit, labels)
    else:
        ticks = [_condition_text(posterior, rows[k], labels).replace(", ", "\n") for k in keep]
    measured = None if bands.measurement is None else bands.measurement[:, keep]
    counts = [len(found[k][1]) for k in keep]
    return _Panel(
        output=output,
        title="",
        kind="points",
        x=x,
        ticks=ticks,
        x_text=text,
        bands=Bands(bands.output[:, keep], measured),
        data_x=np.repeat(x, counts),
        data=np.concatenate([found[k][1] for k in keep]),
        data_sd=np.concatenate([found[k][2] for k in keep]) if measured is None else None,
    )


def _observed_places(posterior: Posterior, output: str, labels: Mapping[str, str] | None) -> list[_Panel]:
    """Return one panel an experiment for outputs that are no curve over numbers: the observed cells side by side."""
    bands, cells = bands_of_cells(posterior), posterior.single.cells
    panels = []
    for k in range(cells.experiments):
        chosen = np.flatnonzero((cells.experiment == k) & (cells.group == posterior.single.noise.group_of(output)))
        if not len(chosen):
            continue
        place = np.full(len(cells.output), -1)
        place[chosen] = np.arange(len(chosen))
        rows = np.flatnonzero(place[cells.row_cell] >= 0)
        measured = bands.measurement
        panels.append(
            _Panel(
                output=output,
                title=_condition_text(posterior, cells.conditions[k], labels),
                kind="points",
                x=np.arange(1.0, len(chosen) + 1.0),
                ticks=None,
                x_text="observed place, in order of " + ", ".join(posterior.single.surrogate.layouts[output].dims),
                bands=Bands(bands.output[:, chosen], None if measured is None else measured[:, chosen]),
                data_x=place[cells.row_cell[rows]] + 1.0,
                data=posterior.single.observations.value[rows],
                data_sd=None,
            )
        )
    return panels


# ------------------------------------------------------------------------------------------------------------- drawing
def _draw(panels: list[_Panel], posterior: Posterior, labels: Mapping[str, str] | None) -> Figure:
    total, panels = len(panels), panels[:MOST]
    columns, size = _arrangement(panels)
    rows = -(-len(panels) // columns)
    alt = f"Data and posterior prediction of {', '.join(dict.fromkeys(panel.output for panel in panels))}"
    figure, axes = new_figure(rows, columns, size, alt)
    for index, ax in enumerate(axes.flat):
        if index >= len(panels):
            figure.delaxes(ax)
            continue
        _panel(ax, panels[index], size[0] / columns)
    _heights(figure.axes, panels, columns, posterior, labels)
    if total > len(panels):
        figure.suptitle(f"the first {len(panels)} of {total} panels; choose with output= and conditions=", fontsize=8.5)
    _legend(figure, columns)
    return figure


_DATA, _NEW_50, _NEW_95 = "data", "50 % of new measurements", "95 % of new measurements"
_MEDIAN, _OUTPUT = "simulator, median", "simulator, 95 %"
_KNOWN = "data with 95 % of their known error"
_ORDER = (_DATA, _KNOWN, _NEW_50, _NEW_95, _MEDIAN, _OUTPUT)


def _legend(figure: Figure, columns: int) -> None:
    found = collected(figure.axes)
    entries = {text: found[text] for text in _ORDER if text in found}
    if columns == 1:
        add_legend(figure, entries, "outside right center")
        return
    wide = figure.get_figwidth() > 5.0
    if wide and len(entries) == 5:  # a column each: data, measurements, simulator
        first = next(iter(entries))
        entries = {first: entries.pop(first), " ": Line2D([], [], ls=""), **entries}
    add_legend(figure, entries, "outside lower center", -(-len(entries) // 2) if wide else 2)


def _arrangement(panels: list[_Panel]) -> tuple[int, tuple[float, float]]:
    """Return the number of columns, and width and height of the figure."""
    count = len(panels)
    if count == 1 and panels[0].kind == "curve":
        return 1, (PAGE, 3.2)
    if count == 1:
        return 1, (min(PAGE, 3.9 + 0.35 * len(panels[0].x)), 2.8)
    if all(panel.kind == "points" and len(panel.x) == 1 for panel in panels):
        columns = min(4, count)
        return columns, (min(PAGE, 1.75 * columns), 2.5 * -(-count // columns) + 0.5)
    columns = count if count <= 3 else 2 if count == 4 else 3
    return columns, (PAGE, (2.3 if columns == 3 else 2.7) * -(-count // columns) + 0.5)


def _panel(ax: Axes, panel: _Panel, width: float) -> None:
    if panel.kind == "curve":
        _draw_curve(ax, panel)
        margin = 0.02 * (panel.x[-1] - panel.x[0] or 1.0)
        ax.set_xlim(panel.x[0] - margin, panel.x[-1] + margin)
        exponent = number_axis(ax.xaxis, float(panel.x[0]), float(panel.x[-1]), max(3, int(2 * width)))
    else:
        exponent = _draw_points(ax, panel, width)
    ax.set_xlabel(wrapped(_with_exponent(panel.x_text, exponent), int(14 * width)))
    if panel.title:
        ax.set_title(wrapped(panel.title, int(15 * width)))


def _with_exponent(text: str, exponent: int) -> str:
    return text if exponent == 0 or not text else f"{text} [$10^{{{exponent}}}$]"


def _draw_curve(ax: Axes, panel: _Panel) -> None:
    x, output, new = panel.x, panel.bands.output, panel.bands.measurement
    if new is not None:
        ax.fill_between(x, new[0], new[4], color=SKY, alpha=0.25, lw=0, label=_NEW_95)
        ax.fill_between(x, new[1], new[3], color=BLUE, alpha=0.28, lw=0, label=_NEW_50)
    ax.plot(x, output[2], color=VERMILION, lw=1.2, label=_MEDIAN)
    for edge in (output[0], output[4]):
        ax.plot(x, edge, color=VERMILION, lw=0.8, ls=(0, (3, 1.2)), label=_OUTPUT)
    _draw_data(ax, panel)


def _draw_data(ax: Axes, panel: _Panel) -> None:
    if not len(panel.data):
        return
    size = float(np.clip(34.0 / np.sqrt(len(panel.data)), 2.0, 4.2))
    style: dict[str, Any] = {"ms": size, "mfc": BLACK, "mec": "white", "mew": 0.5, "zorder": 5}
    if panel.data_sd is None:
        ax.plot(panel.data_x, panel.data, "o", label=_DATA, **style)
    else:
        half = NORMAL_95 * panel.data_sd
        ax.errorbar(panel.data_x, panel.data, half, fmt="o", ecolor=BLACK, elinewidth=0.8, label=_KNOWN, **style)


def _draw_points(ax: Axes, panel: _Panel, width: float) -> int:
    """Draw intervals side by side; return the power of ten of the x axis."""
    x, output, new = panel.x, panel.bands.output, panel.bands.measurement
    places = np.unique(x)
    spread = float(np.ptp(places)) or 1.0
    step = float(np.diff(places).min()) if len(places) > 1 else 1.0
    half = max(0.3 * min(step, spread), 0.012 * spread)
    if new is not None:
        ax.bar(x, new[4] - new[0], 2 * half, new[0], color=SKY, alpha=0.25, lw=0, label=_NEW_95)
        ax.bar(x, new[3] - new[1], 2 * half, new[1], color=BLUE, alpha=0.28, lw=0, label=_NEW_50)
    # Data on the left, the simulator on the right of the middle: neither hides the other.
    shift = 0.4 * half if new is not None and len(panel.data) else 0.0
    ax.vlines(x + shift, output[0], output[4], color=VERMILION, lw=1.2, label=_OUTPUT)
    ax.plot(x + shift, output[2], "_", color=VERMILION, ms=7.0, mew=1.6, label=_MEDIAN)
    _draw_data(ax, panel._replace(data_x=panel.data_x - shift))
    ax.use_sticky_edges = False
    ax.autoscale_view()
    margin = half + 0.08 * spread if len(places) > 1 else 1.0
    ax.set_xlim(float(x.min()) - margin, float(x.max()) + margin)
    if panel.ticks is not None:
        ax.set_xticks(x, [wrapped(text, int(12 * width / len(x))) for text in panel.ticks])
        ax.tick_params(axis="x", length=0)
        return 0
    return number_axis(ax.xaxis, float(x.min()), float(x.max()), max(3, int(1.6 * width)))


def _heights(
    axes: Sequence[Axes],
    panels: Sequence[_Panel],
    columns: int,
    posterior: Posterior,
    labels: Mapping[str, str] | None,
) -> None:
    """Give panels of one output the same y axis, unless that would flatten one; label the first of a row."""
    for output in dict.fromkeys(panel.output for panel in panels):
        own = [index for index, panel in enumerate(panels) if panel.output == output]
        limits = np.array([axes[index].get_ylim() for index in own])
        low, high = float(limits[:, 0].min()), float(limits[:, 1].max())
        if (limits[:, 1] - limits[:, 0]).min() > 0.2 * (high - low):
            limits[:] = low, high
        unit = posterior.single.surrogate.layouts[output].unit
        exponent = exponent_of(low, high)
        for index, (bottom, top) in zip(own, limits, strict=True):
            axes[index].set_ylim(bottom, top)
            number_axis(axes[index].yaxis, bottom, top, 5, exponent)
            if index == own[0] or index % columns == 0:
                axes[index].set_ylabel(wrapped(label(output, unit, labels, exponent), 30))
