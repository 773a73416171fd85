"""Shapley effects, elementary effects and bounds of total indices: what matters when Sobol indices do not serve."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from uqms._typing import Array
from uqms.errors import InputError
from uqms.plots._sobol import MOST_BARS, MOST_OUTPUTS, NORMAL, check_result, curves_of, list_inputs, panels_of
from uqms.plots._style import (
    BLACK,
    BLUE,
    GREY,
    PAGE,
    SKY,
    VERMILION,
    add_legend,
    label,
    log_axis,
    new_figure,
    number_axis,
    pick,
    styled,
    wrapped,
)
from uqms.sensitivity import DerivativeMeasures, ElementaryEffects, ShapleyEffects, SobolIndices

__all__ = ["derivative_bounds", "morris", "shapley", "shapley_curves"]

LEAST = 1e-6  # bound that is drawn
APART = 0.075  # share of an axis between numbers of points


@styled
def shapley(
    result: ShapleyEffects,
    *,
    outputs: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Figure:
    r"""Draw Shapley effects as bars with their 95 % intervals, and what inputs explain alone and last.

    Bars add up to one. Thin lines are intervals with all errors, thick ones the part of Monte Carlo. A circle far to
    the right of its bar's end: knowing this input tells much of others. A square at zero: it tells nothing beyond what
    the others tell.

    Parameters
    ----------
    result
        What `uq.shapley_effects` returned.
    outputs
        At most nine; all by default. Of curves the effects on the whole curve are drawn.
    names
        Inputs or groups, at most 25; all by default.
    labels
        What to write instead of a name, by name, for example {"beta": r"$\beta$"}.

    Returns
    -------
    matplotlib.figure.Figure
        One panel an output.

    Raises
    ------
    InputError
        When it is no such result, or names are unknown or too many.

    Examples
    --------
    >>> import uqms as uq
    >>> block = uq.MultivariateNormal(("a", "b"), mean=[0.0, 0.0], covariance=[[1.0, 0.8], [0.8, 1.0]])
    >>> space = uq.ParameterSpace(block)
    >>> simulator = uq.DirectSimulator(lambda a, b: a + 0.0 * b, space=space, outputs={"y": ()}, vectorized=True)
    >>> len(shapley(uq.shapley_effects(simulator, draws=2, rng=1)).axes)
    1
    """
    check_result(result, ShapleyEffects, "shapley", "uq.shapley_effects returned")
    known = list(result.groups)
    shown = pick(outputs, list(result.indices), list(result.indices), MOST_OUTPUTS, "shapley")
    wanted = pick(names, known, known, MOST_BARS, "shapley")
    between, parts = result.interval(), result.error()
    whole = {name: "_whole" if "Sh_whole" in result[name] else "" for name in shown}
    alt = f"Shapley effects of {', '.join(wanted)} on {', '.join(shown)}"
    figure, axes = panels_of(whole, 0.75 + 0.34 * len(wanted), 0.5, alt, labels)
    for name, ax in axes.items():
        end = whole[name]
        ends = {
            kind: between[name][f"{kind}{end}"].transpose("bound", "parameter").sel(parameter=wanted).values
            for kind in ("Sh", "S1", "ST")
        }
        carlo = NORMAL * parts[name][f"Sh{end}"].sel(parameter=wanted, source="monte_carlo").values
        order = np.argsort(-np.nan_to_num(ends["Sh"][0]), kind="stable")
        place = np.arange(len(order), dtype=np.float64)
        middle, low, high = ends["Sh"][:, order]
        ax.barh(place, middle, height=0.34, color=BLUE, zorder=1)
        ax.hlines(place, low, high, color=BLACK, lw=0.9, zorder=3)
        ax.hlines(place, middle - carlo[order], middle + carlo[order], color=BLACK, lw=2.6, zorder=3)
        for kind, shift, marker, colour in (("S1", -0.3, "o", SKY), ("ST", 0.3, "s", VERMILION)):
            middle, low, high = ends[kind][:, order]
            ax.hlines(place + shift, low, high, color=colour, lw=0.9, zorder=2)
            ax.plot(middle, place + shift, marker, color=colour, ms=3.5, zorder=3)
        every = np.concatenate([one.ravel() for one in ends.values()])
        least, most = float(np.nanmin(every, initial=0.0)), float(np.nanmax(every, initial=0.0))
        room = 0.02 * (most - least or 1.0)
        ax.axvline(0.0, color=GREY, lw=0.7, zorder=2)
        ax.set_xlim(least - room, most + room)
        list_inputs(ax, [wanted[i] for i in order], labels)
        number_axis(ax.xaxis, least, most, 5)
    entries: dict[str, Artist] = {
        "Shapley effect": Patch(color=BLUE),
        "95 % interval": Line2D([], [], color=BLACK, lw=0.9),
        "its Monte Carlo part": Line2D([], [], color=BLACK, lw=2.6),
        "alone, S1": Line2D([], [], color=SKY, marker="o", ms=3.5, lw=0.9),
        "given all others, ST": Line2D([], [], color=VERMILION, marker="s", ms=3.5, lw=0.9),
    }
    add_legend(figure, entries, "outside lower center", {1: 2, 2: 3}.get(len(shown), 5))
    return figure


@styled
def shapley_curves(
    result: ShapleyEffects,
    output: str | None = None,
    *,
    names: Sequence[str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Figure:
    r"""Draw the Shapley effects on a curve along its coordinate with 95 % bands, beside the curve's spread.

    Where the spread is small, effects are shares of little.

    Parameters
    ----------
    result
        What `uq.shapley_effects` returned.
    output
        An output with one dim; the first one by default.
    names
        Inputs or groups, at most six; by default those with the largest effect on the whole curve.
    labels
        What to write instead of a name, by name, for example {"beta": r"$\beta$"}.

    Returns
    -------
    matplotlib.figure.Figure
        Panels of the effects, and the sd of the output.

    Raises
    ------
    InputError
        When it is no such result, there is no curve of that name, or names are unknown or too many.
    """
    check_result(result, ShapleyEffects, "shapley_curves", "uq.shapley_effects returned")
    return curves_of(result, result.interval(), output, (("Sh", "Shapley effect"),), names, labels)


@styled
def morris(
    result: ElementaryEffects,
    output: str | None = None,
    *,
    names: Sequence[str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Figure:
    r"""Draw how much each input matters, and whether it does so alone: elementary effects of Morris screening.

    Left, the mean size of the effects with 95 % intervals, the largest on top, and beside it their mean with its sign.
    Right, their spread over their size: near the lower line an input is linear and alone, near the upper one it bends
    or acts with others. Numbers are the ranks on the left.

    Parameters
    ----------
    result
        What `uq.elementary_effects` returned.
    output
        Which; the first one by default. Of curves the averages over their coordinates are drawn.
    names
        Inputs, at most 25; by default those with the largest effects.
    labels
        What to write instead of a name, by name, for example {"beta": r"$\beta$"}.

    Returns
    -------
    matplotlib.figure.Figure
        Two panels.

    Raises
    ------
    InputError
        When it is no such result, or names are unknown or too many.

    Examples
    --------
    >>> import uqms as uq
    >>> space = uq.ParameterSpace(a=uq.Uniform(0, 1), b=uq.Uniform(0, 1))
    >>> design = uq.morris_design(space, 10, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": 3.0 * design.a.values + design.b.values ** 2})
    >>> len(morris(uq.elementary_effects(runs)).axes)
    2
    """
    check_result(result, ElementaryEffects, "morris", "uq.elementary_effects returned")
    name = next(iter(result.indices)) if output is None else output
    unit = str(result[name]["effect"].attrs.get("unit", ""))
    table = result.table()
    rows = {index: one.set_index("parameter") for index, one in table[table["output"] == name].groupby("index")}
    ranked = [str(one) for one in rows["mu_star"].sort_values("estimate", ascending=False, kind="stable").index]
    chosen = pick(names, ranked, ranked[:MOST_BARS], MOST_BARS, "morris")
    order = [one for one in ranked if one in chosen]
    star, mu, sigma = (
        rows[index].loc[order, ["estimate", "lower", "upper"]].to_numpy(dtype=np.float64).T
        for index in ("mu_star", "mu", "sigma")
    )
    place = np.arange(len(order), dtype=np.float64)
    figure, axes = new_figure(
        1, 2, (PAGE, max(2.6, 0.9 + 0.24 * len(order))), f"Elementary effects on {name}, largest first: {order}"
    )
    left, right = axes[0]
    left.barh(place, star[0], height=0.5, color=BLUE, zorder=1)
    left.hlines(place, star[1], star[2], color=BLACK, lw=0.9, zorder=3)
    left.plot(mu[0], place, "D", color=VERMILION, ms=3.0, zorder=4)
    left.axvline(0.0, color=GREY, lw=0.7, zorder=2)
    low, high = float(min(0.0, mu[0].min())), float(max(star[2].max(), star[0].max()))
    room = 0.03 * (high - low or 1.0)
    left.set(xlim=(low - room, high + room), ylim=(len(order) - 0.4, -0.6))
    words = [wrapped((labels or {}).get(one, one), 22) for one in order]
    left.set_yticks(place, [f"{word}  {i + 1}" for i, word in enumerate(words)])
    power = number_axis(left.xaxis, low, high, 5)
    effect = "mean effect" + (" over the coordinates" if result[name]["effect"].ndim > 2 else "")
    left.set_xlabel(label(effect, unit, None, power))
    right.hlines(sigma[0], star[1], star[2], color=GREY, lw=0.8)
    right.vlines(star[0], sigma[1], sigma[2], color=GREY, lw=0.8)
    right.plot(star[0], sigma[0], "o", color=BLUE, ms=4)
    ends = np.array([0.0, 1.08 * high or 1.0])
    lines = [right.plot(ends, slope * ends, color=BLACK, lw=0.7, ls=ls)[0] for slope, ls in ((1.0, "--"), (0.1, ":"))]
    tall = float(sigma[2].max())
    top = 1.08 * max(tall, 0.15 * high) or 1.0
    right.set(xlim=(-0.03 * ends[1], ends[1]), ylim=(-0.03 * top, top))
    _number(right, star[0] / ends[1], sigma[0] / top)
    power = number_axis(right.xaxis, 0.0, high, 5)
    right.set_xlabel(label("mean size of the effects", unit, None, power))
    power = number_axis(right.yaxis, 0.0, top, 5)
    right.set_ylabel(label("sd of the effects", unit, None, power))
    hidden = len(ranked) - len(order)
    title = wrapped((labels or {}).get(name, name), 30)
    left.set_title(f"{title}, {hidden} inputs not shown" if hidden else title)
    entries: dict[str, Artist] = {
        "mean size": Patch(color=BLUE),
        "mean with sign": Line2D([], [], color=VERMILION, marker="D", ms=3.0, lw=0),
        "95 % interval": Line2D([], [], color=BLACK, lw=0.9),
        "sd = mean size": lines[0],
        "sd = 0.1 mean size": lines[1],
    }
    add_legend(figure, entries, "outside lower center", 5)
    return figure


def _number(ax: Axes, x: Array, y: Array) -> None:
    """Write ranks beside points at shares (n,) of the axes, where they do not lie on one another."""
    kept: list[int] = []
    for i in range(len(x)):
        if all(max(abs(x[i] - x[j]), abs(y[i] - y[j])) > APART for j in kept) and y[i] < 0.92 and x[i] < 0.95:
            kept.append(i)
            across, up = ax.get_xlim()[1] * (x[i] + 0.012), ax.get_ylim()[1] * (y[i] + 0.012)
            ax.text(across, up, str(i + 1), fontsize=7, ha="left", va="bottom")


@styled
def derivative_bounds(
    result: DerivativeMeasures,
    *,
    total: SobolIndices | None = None,
    outputs: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Figure:
    r"""Draw upper bounds of total Sobol indices with their 95 % intervals on a logarithmic axis, the largest on top.

    What is far to the left may be fixed; beyond one, where the ground is grey, a bound says nothing.

    Parameters
    ----------
    result
        What `uq.derivative_measures` returned.
    total
        Indices of the same inputs, which are drawn beside the bounds.
    outputs
        At most nine; all by default. Of curves the bounds for the whole curve are drawn.
    names
        Inputs, at most 25; all by default.
    labels
        What to write instead of a name, by name, for example {"beta": r"$\beta$"}.

    Returns
    -------
    matplotlib.figure.Figure
        One panel an output. What is below a millionth stands at a millionth.

    Raises
    ------
    InputError
        When it is no such result, or names are unknown or too many.

    Examples
    --------
    >>> import uqms as uq
    >>> space = uq.ParameterSpace(a=uq.Uniform(0, 1), b=uq.Uniform(0, 1))
    >>> simulator = uq.DirectSimulator(lambda a, b: a + 0.1 * b, space=space, outputs={"y": ()}, vectorized=True)
    >>> len(derivative_bounds(uq.derivative_measures(simulator, draws=2, rng=1)).axes)
    1
    """
    check_result(result, DerivativeMeasures, "derivative_bounds", "uq.derivative_measures returned")
    if total is not None:
        check_result(total, SobolIndices, "derivative_bounds", "uq.sobol_indices returned for total=")
    known = list(result.inputs)
    shown = pick(outputs, list(result.indices), list(result.indices), MOST_OUTPUTS, "derivative_bounds")
    wanted = pick(names, known, known, MOST_BARS, "derivative_bounds")
    if total is not None and not (set(shown) <= set(total.indices) and set(wanted) <= set(total.groups)):
        raise InputError(
            f"plots.derivative_bounds: total= has indices of {list(total.groups)} for {list(total.indices)}; it must "
            f"have those of {wanted} for {shown}."
        )
    between = result.interval()
    indices = None if total is None else total.interval()
    whole = {name: "_whole" if "bound_whole" in result[name] else "" for name in shown}
    alt = f"Upper bounds of total Sobol indices of {', '.join(wanted)} for {', '.join(shown)}"
    figure, axes = panels_of(whole, 0.75 + 0.24 * len(wanted), 0.35, alt, labels)
    for name, ax in axes.items():
        end = whole[name]
        one = between[name][f"upper_bound{end}"].transpose("bound", "parameter").sel(parameter=wanted).values
        one = np.maximum(np.nan_to_num(one, nan=LEAST), LEAST)
        order = np.argsort(-one[0], kind="stable")
        middle, low, high = one[:, order]
        place = np.arange(len(order), dtype=np.float64)
        ax.hlines(place, low, high, color=BLACK, lw=0.9, zorder=3)
        ax.plot(middle, place, "o", color=BLUE, ms=4.5, zorder=4)
        least, most = float(low.min()), float(high.max())
        if indices is not None:
            found = indices[name][f"ST{end}"].transpose("bound", "parameter").sel(parameter=wanted).values
            middle, low, high = np.maximum(np.nan_to_num(found, nan=LEAST), LEAST)[:, order]
            ax.hlines(place + 0.25, low, high, color=VERMILION, lw=0.9, zorder=3)
            ax.plot(middle, place + 0.25, "s", color=VERMILION, ms=3.5, zorder=4)
            least, most = min(least, float(low.min())), max(most, float(high.max()))
        ends = 0.7 * least, max(2.0, 1.4 * most)
        log_axis(ax, "x", *ends)
        ax.axvspan(1.0, ends[1], color=GREY, alpha=0.18, lw=0, zorder=0)
        ax.set_xlim(*ends)
        list_inputs(ax, [wanted[i] for i in order], labels)
    entries: dict[str, Artist] = {
        "upper bound": Line2D([], [], color=BLUE, marker="o", ms=4.5, lw=0),
        "95 % interval": Line2D([], [], color=BLACK, lw=0.9),
        "says nothing": Patch(color=GREY, alpha=0.18),
    }
    if total is not None:
        entries["total index"] = Line2D([], [], color=VERMILION, marker="s", ms=3.5, lw=0.9)
    add_legend(figure, entries, "outside lower center", 4 if len(shown) > 1 else 2)
    return figure
