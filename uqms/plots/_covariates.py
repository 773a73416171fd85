"""Random effects against covariates: of those in the model the fitted effect, of others a trend."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uqms._typing import Array
from uqms.calibration import Posterior
from uqms.calibration.population.hierarchy import Hierarchy
from uqms.calibration.population.population import Covariate, Population
from uqms.calibration.posterior import hierarchy_of
from uqms.diagnostics.covariates import covariate_columns, own_trend
from uqms.errors import InputError
from uqms.plots._style import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    PAGE,
    VERMILION,
    add_legend,
    collected,
    label,
    new_figure,
    number_axis,
    pick,
    rounded,
    styled,
    wrapped,
)

__all__ = ["covariates"]

MOST_PARAMETERS, MOST_COVARIATES = 6, 4
PROB = 0.95


class _Column(NamedTuple):
    """What is on the horizontal axis of a column of panels."""

    text: str
    values: Array  # (J,)


@styled
def covariates(
    posterior: Posterior,
    subjects: pd.DataFrame | None = None,
    *,
    names: Sequence[str] | None = None,
    covariates: Sequence[str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Figure:
    """Draw each parameter's random effects against the subjects' covariates.

    Use it to find covariates that belong into the model. Where one is in the model, the panel shows what it explains
    and the rest together, with its fitted effect (blue). Where it is not, it shows the random effects, with a straight
    line through what each subject's own data say (orange, see `uq.diagnostics.covariate_trends`): a red title says
    that its 95 % interval leaves out zero. Points are posterior means, drawn towards zero by shrinkage; the line is
    not.

    Parameters
    ----------
    posterior
        Of a population.
    subjects
        Table with one row per subject, for covariates that are not in the model.
    names
        Individual parameters, at most 6; all by default.
    covariates
        Columns, at most 4; all by default. One that the model has in an expression with others is drawn by that
        expression too.
    labels
        What to write instead of a name, by name.

    Returns
    -------
    matplotlib.figure.Figure
        A row a parameter, a column a covariate.

    Raises
    ------
    InputError
        When it is no posterior of a population, or names or columns are unknown, missing or too many.
    DataError
        Covariates that are not numbers, or the same for all subjects.
    """
    hierarchy = hierarchy_of(posterior, "plots.covariates")
    problem = hierarchy.problem
    population = problem.population
    wanted = pick(names, population.individual, population.individual, MOST_PARAMETERS, "covariates")
    table = covariate_columns(hierarchy, subjects, covariates, "plots.covariates")
    shown = [_Column(str(name), table[name].to_numpy()) for name in table.columns]
    for k, one in enumerate(population.effects):
        several = len(one.expression.names) > 1 and set(one.expression.names) <= set(table.columns)
        if several and one.parameter in wanted and all(one.expression.text != column.text for column in shown):
            shown.append(_Column(one.expression.text, problem.subjects.covariates[:, k]))
    if len(shown) > MOST_COVARIATES:
        raise InputError(
            f"plots.covariates: {len(shown)} covariates are more than a figure holds, {MOST_COVARIATES}. Choose with "
            f"covariates=[...] from {[one.text for one in shown]}."
        )
    size = (min(PAGE, 2.6 * len(shown) + 0.6), 1.75 * len(wanted) + 0.6)
    alt = f"Random effects of {', '.join(wanted)} against {', '.join(one.text for one in shown)}"
    figure, axes = new_figure(len(wanted), len(shown), size, alt)
    width = size[0] / len(shown)
    for index, (row, name) in enumerate(zip(axes, wanted, strict=True)):
        for ax, column in zip(row, shown, strict=True):
            effect = _effect(population, name, column.text)
            if effect is None:
                _trend(ax, hierarchy, name, column)
            else:
                _fitted(ax, hierarchy, *effect, column)
            ax.set_title(wrapped(ax.get_title(loc="left"), int(11 * width)))
            low, high = float(column.values.min()), float(column.values.max())
            number_axis(ax.xaxis, low, high, max(3, int(1.6 * width)))
            bottom, top = ax.get_ylim()
            number_axis(ax.yaxis, bottom, top, 4)
            if ax is row[0]:
                scale = population.scales[population.individual.index(name)]
                text = (labels or {}).get(name, name)
                ax.set_ylabel(wrapped(f"effect on {text if scale == 'identity' else f'{scale} {text}'}", 22))
            if index + 1 == len(wanted):
                ax.set_xlabel(wrapped(label(column.text, "", labels), int(13 * width)))
    add_legend(figure, collected(figure.axes), "outside lower center", 2 if len(shown) > 1 else 1)
    return figure


def _effect(population: Population, name: str, column: str) -> tuple[int, Covariate] | None:
    """Return the effect on a parameter that is drawn over a column, with its place, None when the model has none."""
    for k, one in enumerate(population.effects):
        if one.parameter == name and (one.expression.names == (column,) or one.expression.text == column):
            return k, one
    return None


def _points(ax: Axes, x: Array, draws: Array) -> None:
    """Draw posterior means and 95 % intervals of draws (S, J)."""
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    ax.axhline(0.0, color=GREY, lw=0.6, zorder=0.5)
    thin = float(np.clip(14.0 / len(x), 0.25, 0.8))
    ax.vlines(x, low, high, color=BLACK, lw=thin, alpha=0.6, label="subject, mean and 95 %")
    ax.plot(x, draws.mean(axis=0), "o", color=BLACK, ms=3.6, mec="white", mew=0.4)


def _flat(hierarchy: Hierarchy, name: str) -> Array:
    values = hierarchy.effects[name].values
    return np.asarray(values.reshape(-1, values.shape[-1]))


def _grid(x: Array) -> Array:
    margin = 0.03 * float(np.ptp(x))
    return np.linspace(x.min() - margin, x.max() + margin, 100)


def _numbers(values: Sequence[float], sd: float) -> str:
    mean, low, high = rounded(values, sd)
    return f"{mean} [{low}, {high}]"


def _trend(ax: Axes, hierarchy: Hierarchy, name: str, column: _Column) -> None:
    there = hierarchy.problem.subjects.measured
    x = column.values[there]
    _points(ax, x, _flat(hierarchy, name)[:, there])
    trend = own_trend(*hierarchy.moments(name), x)
    grid = _grid(x)
    line, low, high = trend.band(grid, PROB)
    ax.fill_between(grid, low, high, color=ORANGE, alpha=0.25, lw=0)
    ax.plot(grid, line, color=ORANGE, label="trend, not in the model")
    ends = trend.slope_interval(PROB)
    away = ends[0] > 0.0 or ends[1] < 0.0
    ax.set_title(f"slope {_numbers([trend.slope, *ends], trend.slope_sd)}", color=VERMILION if away else BLACK)


def _fitted(ax: Axes, hierarchy: Hierarchy, k: int, one: Covariate, column: _Column) -> None:
    subjects, known = hierarchy.problem.subjects, hierarchy.problem.population.known
    there = subjects.measured
    draws = _flat(hierarchy, one.parameter)[:, there]
    if one.name in known:
        size = np.full(len(draws), known[one.name])
    else:
        size = hierarchy.posterior.draws[one.name].values.ravel()
    x = column.values[there]
    _points(ax, x, draws + size[:, None] * subjects.covariates[there, k])
    grid = _grid(x)
    if column.text == one.expression.text:
        c = grid
    else:
        with np.errstate(all="ignore"):
            c = one.expression.value({column.text: grid})
    low, middle, high = np.quantile(size[:, None] * c, [0.025, 0.5, 0.975], axis=0)
    ax.fill_between(grid, low, high, color=BLUE, alpha=0.2, lw=0)
    ax.plot(grid, middle, color=BLUE, label="effect in the model")
    ends = np.quantile(size, [0.025, 0.975])
    text = f"{known[one.name]:g}, known" if one.name in known else _numbers([size.mean(), *ends], float(size.std()))
    ax.set_title(f"{one.expression.text if column.text != one.expression.text else 'effect'}: {text}")
