"""Every subject's data with what the population and its own data say of it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from uqms._typing import Array, Ints
from uqms.calibration import Posterior
from uqms.calibration.context import evenly
from uqms.calibration.population.hierarchy import Hierarchy
from uqms.calibration.population.subject_prediction import Asked, targets_of
from uqms.calibration.posterior import hierarchy_of
from uqms.calibration.predict import new_noise
from uqms.calibration.regimens import individual_layout, individual_rows
from uqms.errors import InputError
from uqms.plots._bands import LEVELS, Bands, _measured, mixture_quantiles
from uqms.plots._predictive import _ORDER, _draw_curve, _draw_points, _Panel, _simulated
from uqms.plots._style import (
    GREY,
    PAGE,
    add_legend,
    collected,
    exponent_of,
    label,
    new_figure,
    number_axis,
    styled,
    wrapped,
)

__all__ = ["individual_fits"]

COLUMNS, A_PAGE = 4, 16
DRAWS = 250
_TYPICAL = "typical subject"


class _Fit(NamedTuple):
    """One panel, and the typical subject under the same conditions and covariates."""

    panel: _Panel
    typical: Array  # (P,)


@styled
def individual_fits(
    posterior: Posterior,
    *,
    subjects: Sequence[str] | None = None,
    output: str | None = None,
    coords: Mapping[str, object] | None = None,
    page: int = 1,
    labels: Mapping[str, str] | None = None,
) -> Figure:
    """Draw the data of each subject with its own predictive bands, and the typical subject's curve.

    Blue holds 50 % and 95 % of new measurements of this subject; red lines are its curve without noise, median and
    95 %, with the surrogate's error given the data of all subjects. The grey line is a subject of the same covariates
    and conditions without random effects: how far the red one is from it is what is individual. Data that lie on one
    side of the blue for many subjects are a model that misses something.

    Parameters
    ----------
    posterior
        Of a population.
    subjects
        Labels, to choose and order; all that have data by default.
    output
        Which one; needed when there are several. A curve over one coordinate, or a number measured under a condition.
    coords
        Coordinates of the curve, by dim; by default those that were simulated.
    page
        16 panels are a page; a note says how many there are.
    labels
        What to write instead of a name (of an output, dim or condition), by name.

    Returns
    -------
    matplotlib.figure.Figure
        One panel a subject; several where a subject was measured under several conditions or on several occasions.

    Raises
    ------
    InputError
        When it is no posterior of a population, names are unknown, there is no such page, or the surrogate's error has
        no closed form.
    ExtrapolationError
        Coordinates outside of what was simulated.
    """
    hierarchy = hierarchy_of(posterior, "plots.individual_fits")
    name = _output(hierarchy, output)
    groups = _groups(hierarchy, name, subjects)
    pages = -(-len(groups) // A_PAGE)
    if isinstance(page, bool) or not isinstance(page, int) or not 1 <= page <= pages:
        raise InputError(f"plots.individual_fits: page is {page!r}; there are {pages}, 1 to {pages}.")
    first = (page - 1) * A_PAGE
    shown = groups[first : first + A_PAGE]
    fits = _fits(hierarchy, name, shown, coords, labels)
    columns = min(COLUMNS, len(fits)) if len(fits) != 6 else 3
    rows = -(-len(fits) // columns)
    note = ""
    if pages > 1:
        note = f"panels {first + 1} to {first + len(fits)} of {len(groups)}; page {page} of {pages}, choose with page="
    size = (PAGE if columns > 2 else 3.2 * columns, 1.6 * rows + 0.9 + (0.25 if note else 0.0))
    alt = f"Data and prediction of {name} for {len(fits)} of {len(groups)} subjects"
    figure, axes = new_figure(rows, columns, size, alt)
    for index, ax in enumerate(axes.flat):
        if index >= len(fits):
            figure.delaxes(ax)
            continue
        panel, typical = fits[index]
        if panel.kind == "curve":
            _draw_curve(ax, panel)
            ax.plot(panel.x, typical, color=GREY, lw=1.0, ls=(0, (4, 1.5)), label=_TYPICAL, zorder=1.9)
            margin = 0.03 * (panel.x[-1] - panel.x[0] or 1.0)
            ax.set_xlim(panel.x[0] - margin, panel.x[-1] + margin)
            number_axis(ax.xaxis, float(panel.x[0]), float(panel.x[-1]), 4)
        else:
            _draw_points(ax, panel, size[0] / columns)
            ax.plot(panel.x, typical, "_", color=GREY, ms=7.0, mew=1.2, label=_TYPICAL, zorder=1.9)
        ax.set_title(wrapped(panel.title, int(13.5 * size[0] / columns)))
        if index + columns >= len(fits):
            ax.set_xlabel(wrapped(panel.x_text, int(13.5 * size[0] / columns)))
    _one_height(figure, hierarchy, name, columns, labels)
    if note:
        figure.suptitle(note, fontsize=8.5)
    found = collected(figure.axes)
    entries = {text: found[text] for text in (*_ORDER, _TYPICAL) if text in found}
    add_legend(figure, entries, "outside lower center", 3 if columns > 2 else 2)
    return figure


def _output(hierarchy: Hierarchy, output: str | None) -> str:
    known = hierarchy.problem.data.noise.outputs
    if output is None and len(known) == 1:
        output = known[0]
    if output not in known:
        raise InputError(f"plots.individual_fits: output is {output!r}; give one of the observed {list(known)}.")
    layout = individual_layout(hierarchy.problem, output)
    curve = len(layout.dims) == 1 and np.asarray(layout.coords[layout.dims[0]]).dtype.kind in "fiu"
    if not curve and (layout.dims or len(hierarchy.problem.data.condition_names) != 1):
        raise InputError(
            f"plots.individual_fits: {output!r} is no curve over numbers, and no number under one condition; use "
            "posterior.predict(...) for others."
        )
    return output


def _groups(hierarchy: Hierarchy, output: str, subjects: Sequence[str] | None) -> list[Ints]:
    """Return the inputs of each panel: one for a curve, all of a subject and occasion for a number."""
    problem, cells = hierarchy.problem, hierarchy.problem.data.cells
    known = problem.subjects.labels
    wanted = [known[j] for j in np.flatnonzero(problem.subjects.measured)] if subjects is None else list(subjects)
    unknown = [one for one in wanted if one not in known]
    if isinstance(subjects, str) or unknown or not wanted:
        raise InputError(
            f"plots.individual_fits: subjects is {subjects!r}; give a sequence of labels such as {list(known[:3])}."
        )
    measured = np.unique(cells.experiment[cells.output == output])
    owner, unit = problem.layout.subject[cells.unit], cells.unit
    curve = bool(problem.surrogate.layouts[output].dims)
    found: list[Ints] = []
    for one in wanted:
        own = measured[owner[measured] == known.index(one)]
        found += [np.array([k]) for k in own] if curve else [own[unit[own] == u] for u in np.unique(unit[own])]
    if not found:
        raise InputError(f"plots.individual_fits: {output!r} was not measured of {wanted[:5]}.")
    return found


def _fits(
    hierarchy: Hierarchy,
    output: str,
    groups: list[Ints],
    coords: Mapping[str, object] | None,
    labels: Mapping[str, str] | None,
) -> list[_Fit]:
    problem, data = hierarchy.problem, hierarchy.problem.data
    cells, layout = data.cells, individual_layout(problem, output)
    some = hierarchy.some.some(evenly(len(hierarchy.some.h), DRAWS))
    points: dict[str, Array] = {}
    if layout.dims:
        dim = layout.dims[0]
        if coords is not None and set(coords) != {dim}:
            raise InputError(f"plots.individual_fits: coords are given for {sorted(coords)}, expected {dim!r}.")
        asked = layout.coords[dim] if coords is None else coords[dim]
        grid = np.atleast_1d(np.asarray(asked, dtype=np.float64))
        points = {dim: _simulated(grid) if coords is None else np.sort(grid)}
    elif coords is not None:
        raise InputError(f"plots.individual_fits: {output!r} has no coordinates; leave coords out.")
    inputs = np.concatenate(groups)
    decoder = individual_rows(problem, output, points or None, inputs)
    u, unit = data.unit_inputs(some.own)[:, inputs], cells.unit[inputs]
    own = {name: values[:, unit] if np.ndim(values) == 2 else values for name, values in some.own.items()}
    asked = Asked(u, cells.conditions[inputs], own, inputs, some.measured(cells, inputs, u))
    targets = targets_of(output, asked.conditions, points, decoder, u.shape[-1])
    mean, variance, _ = some.given(asked, decoder, targets, np.random.default_rng(0))
    flat, sd = mean.reshape(len(mean), -1), np.sqrt(variance.reshape(len(mean), -1))
    curves = layout.transform.inverse(mixture_quantiles(flat, sd, LEVELS))
    try:
        noise = new_noise(data.data_model, data.noise.outputs.index(output), targets)
        new = _measured(noise, some.own, flat, sd, layout.transform)
    except InputError:  # known row by row, so that that of a new measurement is not known
        new = None
    without = problem.individuals(some.theta, np.zeros((len(mean), problem.layout.size)))
    latent = some.means(data.unit_inputs(without)[:, inputs], decoder)
    typical = np.median(layout.transform.inverse(latent), axis=0).ravel()
    P, out, start = mean.shape[-1], [], 0
    for group in groups:
        part = slice(start * P, (start + len(group)) * P)
        start += len(group)
        bands = Bands(curves[:, part], None if new is None else new[:, part])
        out.append(_Fit(_panel(hierarchy, output, group, points, bands, labels), typical[part]))
    return out


def _panel(
    hierarchy: Hierarchy,
    output: str,
    inputs: Ints,
    points: Mapping[str, Array],
    bands: Bands,
    labels: Mapping[str, str] | None,
) -> _Panel:
    problem, cells = hierarchy.problem, hierarchy.problem.data.cells
    names = problem.data.condition_names
    known = problem.population.space.conditions
    chosen = np.isin(cells.experiment, inputs) & (cells.output == output)
    rows = np.flatnonzero(chosen[cells.row_cell])
    cell, unit = cells.row_cell[rows], cells.unit[inputs[0]]
    words = [problem.subjects.labels[problem.layout.subject[unit]]]
    if problem.subjects.occasion[unit]:
        words.append(str(problem.subjects.occasion[unit]))
    if points:
        dim = next(iter(points))
        x, at, text = points[dim], np.asarray(cells.coords[dim][cell]), label(dim, "", labels)
        for name, value in zip(names, cells.conditions[inputs[0]], strict=True):
            words.append(f"{label(name, '', labels)} {value:.3g} {known[name].unit if name in known else ''}".strip())
    else:
        x, at = cells.conditions[inputs, 0], cells.conditions[cells.experiment[cell], 0]
        text = label(names[0], known[names[0]].unit if names[0] in known else "", labels)
    return _Panel(
        output=output,
        title=", ".join(words),
        kind="curve" if points else "points",
        x=x,
        ticks=None,
        x_text=text,
        bands=bands,
        data_x=at,
        data=problem.observations.value[rows],
        data_sd=np.sqrt(cells.row_variance[rows]) if bands.measurement is None else None,
    )


def _one_height(
    figure: Figure, hierarchy: Hierarchy, output: str, columns: int, labels: Mapping[str, str] | None
) -> None:
    """Give all panels the same y axis, so that subjects can be compared."""
    limits = np.array([ax.get_ylim() for ax in figure.axes])
    low, high = float(limits[:, 0].min()), float(limits[:, 1].max())
    exponent = exponent_of(low, high)
    unit = hierarchy.problem.surrogate.layouts[output].unit
    for index, ax in enumerate(figure.axes):
        ax.set_ylim(low, high)
        number_axis(ax.yaxis, low, high, 4, exponent)
        if index % columns == 0:
            ax.set_ylabel(wrapped(label(output, unit, labels, exponent), 20))
