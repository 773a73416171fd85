"""A population beside its subjects: individual parameters, shrinkage of their effects, effects in pairs."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uqms._typing import Array, Bools
from uqms.calibration import Posterior
from uqms.calibration.population.hierarchy import Hierarchy
from uqms.calibration.population.layout import Layout, from_natural, to_natural
from uqms.calibration.posterior import hierarchy_of
from uqms.errors import InputError
from uqms.parameters.scale import SCALES
from uqms.plots._density import density
from uqms.plots._style import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    PAGE,
    SKY,
    VERMILION,
    add_legend,
    collected,
    label,
    log_axis,
    new_figure,
    number_axis,
    pick,
    rounded,
    styled,
    wrapped,
)

__all__ = ["effects", "individuals", "shrinkage"]

MOST, COLUMNS = 9, 3
NAMED = 30  # subjects whose labels are written
NAMED_OUT = 6  # subjects unlike the others whose labels are written
PREDICTED = 40_000  # draws of new subjects
NORMAL_95 = 1.959963984540054


# --------------------------------------------------------------------------------------------------------- individuals
@styled
def individuals(
    posterior: Posterior,
    *,
    names: Sequence[str] | None = None,
    reference: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Figure:
    """Draw each individual parameter of the population above those of its subjects.

    Above: what is known of the typical value (blue), and of a new subject (orange), each to its own height. Below: the
    95 % interval and median of every subject, in order. Subjects that lie close together although the orange curve is
    wide have data that say little of them; one far out is worth a look at its measurements.

    Parameters
    ----------
    posterior
        Of a population.
    names
        Individual parameters, at most 9; all by default.
    reference
        Typical values to mark, such as the truth of synthetic data.
    labels
        What to write instead of a name, by name.

    Returns
    -------
    matplotlib.figure.Figure
        One panel a parameter, in its own unit. Axes of parameters on the log scale are logarithmic.

    Raises
    ------
    InputError
        When it is no posterior of a population, or names are unknown or too many.

    Notes
    -----
    With covariates, the typical value is that of a subject whose covariates are zero, the new subject one of the
    covariates of those in the study.
    """
    hierarchy = hierarchy_of(posterior, "plots.individuals")
    population = hierarchy.problem.population
    wanted = pick(names, population.individual, population.individual, MOST, "individuals")
    unknown = sorted(set(reference or {}) - set(wanted))
    if unknown:
        raise InputError(f"plots.individuals: reference has {unknown}; shown are {wanted}.")
    columns = min(COLUMNS, len(wanted))
    rows = -(-len(wanted) // columns)
    count = len(hierarchy.problem.subjects)
    height = 1.35 + float(np.clip(0.115 * count, 0.8, 3.6))
    size = (PAGE if columns > 1 else 0.6 * PAGE, rows * height + 0.45)
    alt = f"Population and {count} subjects: {', '.join(wanted)}"
    figure, axes = new_figure(rows, columns, size, alt)
    new = _new_subjects(hierarchy)
    share = float(np.clip(0.115 * count, 0.8, 3.6)) / height
    for index, ax in enumerate(axes.flat):
        if index >= len(wanted):
            figure.delaxes(ax)
            continue
        name = wanted[index]
        mark = None if reference is None else reference.get(name)
        _individual(
            ax, hierarchy, name, new[:, population.individual.index(name)], share, mark, size[0] / columns, labels
        )
    add_legend(figure, collected(figure.axes), "outside lower center", 3 if columns > 1 else 1)
    return figure


def _new_subjects(hierarchy: Hierarchy) -> Array:
    """Return natural values (n, P) of new subjects that have the covariates of those in the study."""
    problem = hierarchy.problem
    population, flat = problem.population, hierarchy.posterior.flat()
    rng = np.random.default_rng(0)
    picked = np.arange(PREDICTED) % len(hierarchy.posterior.latents)
    z = rng.standard_normal((PREDICTED, len(population.individual) + len(population.occasions)))
    z[:, len(population.individual) :] = 0.0  # between subjects, not between occasions
    subject = rng.integers(len(problem.subjects), size=PREDICTED)
    layout: Layout = problem.layout
    return layout.one({name: values[picked] for name, values in flat.items()}, z, subject)


def _individual(
    ax: Axes,
    hierarchy: Hierarchy,
    name: str,
    new: Array,
    share: float,
    reference: float | None,
    width: float,
    labels: Mapping[str, str] | None,
) -> None:
    problem = hierarchy.problem
    scale = problem.population.scales[problem.population.individual.index(name)]
    own = hierarchy.individuals[name].values
    own = own.reshape(-1, own.shape[-1])
    low, middle, high = np.quantile(own, [0.025, 0.5, 0.975], axis=0)
    order = np.argsort(-middle, kind="stable")
    count, there = len(order), problem.subjects.measured
    place = np.empty(count)
    place[order] = -np.arange(1, count + 1)
    top = count * (1.0 - share) / share  # height of the densities above, in rows of subjects
    thick = float(np.clip(30.0 / count, 0.5, 1.4))
    for which, colour, text in ((there, BLACK, "subject, median and 95 %"), (~there, GREY, "subject without data")):
        if which.any():
            ax.hlines(place[which], low[which], high[which], color=colour, lw=thick)
            marker = "o" if which is there else "s"
            ax.plot(middle[which], place[which], marker, color=colour, ms=1.5 + thick, label=text)
    ax.axhline(0.0, color=BLACK, lw=0.7)
    typical = to_natural(hierarchy.posterior.draws[name].values.ravel(), scale)
    covariates = bool(problem.population.effects)
    both = (
        (new, ORANGE, "new subject, covariates as here" if covariates else "new subject"),
        (typical, BLUE, "typical value"),
    )
    for draws, colour, text in both:
        found = density(draws)
        if found is None:
            ax.plot(np.full(2, from_natural(draws[0], scale)), [0.0, 0.9 * top], color=colour, label=text)
            continue
        grid, values = found
        x = from_natural(grid, scale)
        if scale == "logit":
            values = values * SCALES[scale].derivative(x)  # of the parameter itself, as the axis
        ax.fill_between(x, 0.0, 0.9 * top * values / values.max(), color=colour, alpha=0.3, lw=0)
        ax.plot(x, 0.9 * top * values / values.max(), color=colour, lw=1.1, label=text)
    ends = np.quantile(from_natural(new, scale), [0.002, 0.998])
    left, right = min(ends[0], low.min()), max(ends[1], high.max())
    if reference is not None:
        ax.axvline(reference, color=VERMILION, lw=1.0, ls=(0, (1, 1)), label="reference")
        left, right = min(left, reference), max(right, reference)
    if scale == "log":
        exponent = log_axis(ax, "x", float(left), float(right))
        ax.set_xlim(left / 1.03, right * 1.03)
    else:
        exponent = number_axis(ax.xaxis, float(left), float(right), max(3, int(1.8 * width)))
        ax.set_xlim(left - 0.02 * (right - left), right + 0.02 * (right - left))
    ax.set_ylim(-count - 1.0, top)
    if count <= NAMED:
        ax.set_yticks(place, problem.subjects.labels)
        ax.tick_params(axis="y", length=0, labelsize=float(np.clip(90.0 / count, 4.5, 6.5)))
    else:
        ax.set_yticks([])
        ax.set_ylabel(f"{count} subjects, in order", loc="bottom")
    known = from_natural(typical, scale)
    texts = rounded(np.quantile(known, [0.5, 0.025, 0.975]), float(np.std(known)))
    between = " " if width > 2.0 else "\n"
    ax.set_title(f"typical {texts[0]}{between}[{texts[1]}, {texts[2]}]")
    ax.set_xlabel(wrapped(label(name, problem.unit_of(name), labels, exponent), int(13 * width)))


# ----------------------------------------------------------------------------------------------------------- shrinkage
@styled
def shrinkage(
    posterior: Posterior, *, names: Sequence[str] | None = None, labels: Mapping[str, str] | None = None
) -> Figure:
    """Draw each subject's random effect against how well it is known, both in units of the spread between subjects.

    A subject of whom the data say all is on the left, one of whom they say nothing at (1, 0): the population's value.
    Between the grey lines are 95 % of the subjects of a normal population; subjects outside are unlike the others. The
    number is the shrinkage, 1 - Var(posterior means) / omega²: above about 0.3 posterior means hide what they are
    plotted against.

    Parameters
    ----------
    posterior
        Of a population.
    names
        Individual parameters, at most 9; all by default.
    labels
        What to write instead of a name, by name.

    Returns
    -------
    matplotlib.figure.Figure
        One panel a parameter.

    Raises
    ------
    InputError
        When it is no posterior of a population, or names are unknown or too many.

    References
    ----------
    Savic & Karlsson (2009), doi:10.1208/s12248-009-9133-0.
    """
    hierarchy = hierarchy_of(posterior, "plots.shrinkage")
    population = hierarchy.problem.population
    wanted = pick(names, population.individual, population.individual, MOST, "shrinkage")
    numbers = {str(key): float(value) for key, value in hierarchy.shrinkage()["shrinkage"].items()}
    columns = min(COLUMNS, len(wanted))
    rows = -(-len(wanted) // columns)
    size = (PAGE if columns > 1 else 0.55 * PAGE, 2.15 * rows + 0.45)
    figure, axes = new_figure(rows, columns, size, f"Shrinkage of {', '.join(wanted)}")
    there = hierarchy.problem.subjects.measured
    found = []
    for name in wanted:
        values = hierarchy.effects[name].values
        flat = values.reshape(-1, values.shape[-1])
        omega = np.sqrt(hierarchy.moments(name)[2])
        found.append((flat.std(axis=0) / omega, flat.mean(axis=0) / omega))
    right = max(1.0, max(float(x.max()) for x, _ in found)) * 1.04
    reach = max(2.1, 1.1 * max(float(np.abs(y).max()) for _, y in found))
    for index, ax in enumerate(axes.flat):
        if index >= len(wanted):
            figure.delaxes(ax)
            continue
        _effects_and_sds(ax, *found[index], there, hierarchy.problem.subjects.labels)
        ax.set(xlim=(0.0, right), ylim=(-reach, reach))
        number_axis(ax.xaxis, 0.0, right, 5)
        number_axis(ax.yaxis, -reach, reach, 5)
        name = wanted[index]
        share = f"{numbers[name]:.2f}".replace("-", "−")
        ax.set_title(f"{label(name, '', labels)}: shrinkage {share}")
        if index + columns >= len(wanted):
            ax.set_xlabel("posterior sd / spread")
        if index % columns == 0:
            ax.set_ylabel("posterior mean / spread")
    add_legend(figure, collected(figure.axes), "outside lower center", 3 if columns > 1 else 1)
    return figure


def _effects_and_sds(ax: Axes, sd: Array, mean: Array, there: Bools, names: Sequence[str]) -> None:
    x = np.sin(np.linspace(0.0, 0.5 * np.pi, 100))
    edge = NORMAL_95 * np.sqrt(1.0 - x**2)
    for sign in (-1.0, 1.0):
        ax.plot(x, sign * edge, color=GREY, lw=0.9, ls=(0, (4, 1.5)), label="95 % of a normal population")
    ax.axhline(0.0, color=GREY, lw=0.6)
    inside = mean**2 <= NORMAL_95**2 * np.maximum(1.0 - sd**2, 0.0)
    ax.plot(
        *(one[there & inside] for one in (sd, mean)), "o", color=BLUE, ms=3.4, mec="white", mew=0.4, label="subject"
    )
    out = np.flatnonzero(there & ~inside)
    if len(out):
        ax.plot(sd[out], mean[out], "D", color=VERMILION, ms=3.2, label="subject unlike the others")
    for j in out.tolist() if len(out) <= NAMED_OUT else ():
        ax.annotate(names[j], (sd[j], mean[j]), (3.5, 0.0), textcoords="offset points", va="center", fontsize=7)
    if not there.all():
        ax.plot(sd[~there], mean[~there], "s", mfc="none", color=BLACK, ms=3.4, label="subject without data")


# ------------------------------------------------------------------------------------------------------------- effects
@styled
def effects(
    posterior: Posterior, *, names: Sequence[str] | None = None, labels: Mapping[str, str] | None = None
) -> Figure:
    """Draw random effects of different parameters against each other, with the population's ellipse.

    Use it to see whether a correlation belongs into the model: ``Population(..., correlated=True)``. Each point is a
    subject's posterior mean, its cross the posterior sds; ellipses hold 50 % and 95 % of the subjects of the population
    at its posterior mean. Above stand the posterior of the correlation where it is in the model, and else that of the
    subjects' effects, which is drawn towards zero by a model without it.

    Parameters
    ----------
    posterior
        Of a population.
    names
        Individual parameters, 2 to 6; all by default.
    labels
        What to write instead of a name, by name.

    Returns
    -------
    matplotlib.figure.Figure
        One panel a pair, on the natural scale.

    Raises
    ------
    InputError
        When it is no posterior of a population, there are fewer than two parameters, or names are unknown or too many.
    """
    hierarchy = hierarchy_of(posterior, "plots.effects")
    population = hierarchy.problem.population
    wanted = pick(names, population.individual, population.individual, 6, "effects")
    if len(wanted) < 2:
        raise InputError(f"plots.effects: {wanted} is one parameter; pairs need two of {list(population.individual)}.")
    pairs = list(combinations(wanted, 2))
    columns = min(COLUMNS, len(pairs))
    rows = -(-len(pairs) // columns)
    size = (PAGE if columns > 1 else 0.5 * PAGE, 2.5 * rows + (0.45 if columns > 1 else 0.7))
    figure, axes = new_figure(rows, columns, size, f"Random effects in pairs of {', '.join(wanted)}")
    for index, ax in enumerate(axes.flat):
        if index >= len(pairs):
            figure.delaxes(ax)
            continue
        _pair(ax, hierarchy, *pairs[index], labels)
    add_legend(figure, collected(figure.axes), "outside lower center", 3 if columns > 1 else 1)
    return figure


def _pair(ax: Axes, hierarchy: Hierarchy, a: str, b: str, labels: Mapping[str, str] | None) -> None:
    there = hierarchy.problem.subjects.measured
    draws = [hierarchy.effects[name].values.reshape(-1, len(there))[:, there] for name in (a, b)]
    means, sds = [one.mean(axis=0) for one in draws], [one.std(axis=0) for one in draws]
    spread = [float(np.sqrt(hierarchy.moments(name)[2])) for name in (a, b)]
    key = next((one for one in (f"corr_{a}_{b}", f"corr_{b}_{a}") if one in hierarchy.posterior.draws), None)
    if key is None:
        centred = [one - one.mean(axis=1, keepdims=True) for one in draws]
        scale = np.sqrt(np.prod([np.sum(one**2, axis=1) for one in centred], axis=0))
        r, population_r, text = np.sum(centred[0] * centred[1], axis=1) / scale, 0.0, "not in the model"
    else:
        r = hierarchy.posterior.draws[key].values.ravel()
        population_r, text = float(r.mean()), "in the model"
    turn = np.linspace(0.0, 2.0 * np.pi, 200)
    for mass, style in ((0.5, (0, (2, 1.2))), (0.95, "-")):
        radius = np.sqrt(-2.0 * np.log(1.0 - mass))
        x = radius * np.cos(turn)
        y = population_r * x + np.sqrt(1.0 - population_r**2) * radius * np.sin(turn)
        ax.plot(spread[0] * x, spread[1] * y, color=SKY, lw=1.1, ls=style, label=f"{100 * mass:g} % of the population")
    ax.axhline(0.0, color=GREY, lw=0.5, zorder=0.5)
    ax.axvline(0.0, color=GREY, lw=0.5, zorder=0.5)
    thin = float(np.clip(12.0 / len(means[0]), 0.25, 0.8))
    points: dict[str, Any] = {"fmt": "o", "color": BLUE, "ms": 3.0, "lw": 0, "elinewidth": thin}
    ax.errorbar(means[0], means[1], sds[1], sds[0], label="subject, mean ± sd", **points)
    low, high = np.quantile(r, [0.025, 0.975])
    numbers = [f"{value:.2f}".replace("-", "−") for value in (r.mean(), low, high)]
    ax.set_title(f"{text}:\n{numbers[0]} [{numbers[1]}, {numbers[2]}]")
    for axis, name, set_label in ((ax.xaxis, a, ax.set_xlabel), (ax.yaxis, b, ax.set_ylabel)):
        scale_of = hierarchy.problem.population.scales[hierarchy.problem.population.individual.index(name)]
        shown = (labels or {}).get(name, name)
        limits = axis.get_view_interval()
        number_axis(axis, float(limits[0]), float(limits[1]), 5)
        set_label(f"effect on {shown if scale_of == 'identity' else f'{scale_of} {shown}'}")
