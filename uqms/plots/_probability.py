"""Where an event happens, with the runs that it was learned from, and whether its probabilities are honest."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from uqms._typing import Array
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
    log_axis,
    new_figure,
    number_axis,
    styled,
)
from uqms.surrogates import FittedProbability

__all__ = ["probability", "reliability"]

GRID = 81
LEVELS = (0.05, 0.5, 0.95)


@styled
def probability(
    fitted: FittedProbability,
    *,
    names: Sequence[str] | None = None,
    at: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Figure:
    r"""Draw the probability of an event over two inputs (or along one), with the runs that it was learned from.

    Use it on `SuccessProbability().fit(ensemble)` to see where runs fail, and where that is not sure.

    Parameters
    ----------
    fitted
        The probability.
    names
        Two inputs, or one; the first two by default.
    at
        Values of the other inputs, in their own units; the middle of the box by default.
    labels
        What to write instead of a name, by name, for example {"beta": r"$\beta$"}.

    Returns
    -------
    matplotlib.figure.Figure
        A map with lines at 5, 50 and 95 %; of one input, a curve. With more inputs than are shown the runs lie at other
        values of these, so that some seem to be on the wrong side.

    Raises
    ------
    InputError
        When it is no such probability, or names are unknown.

    Examples
    --------
    >>> import uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 16, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": design["k"].values})
    >>> len(probability(uq.EventProbability(lambda runs: runs["y"] > 1.2).fit(runs)).axes)
    1
    """
    box = _checked(fitted, "probability").domain
    shown = tuple(box.names[:2] if names is None else names)
    unknown = sorted({*shown, *(at or {})} - set(box.names))
    if unknown or len(set(shown)) != len(shown) or not 1 <= len(shown) <= 2:
        raise InputError(
            f"plots.probability: names is {list(shown)}, at has {sorted(at or {})}; give one or two of "
            f"{list(box.names)}."
        )
    columns = [box.names.index(name) for name in shown]
    middle = box.from_unit(np.full((1, box.d), 0.5))[0]
    for name, value in (at or {}).items():
        middle[box.names.index(name)] = value
    axis = np.linspace(0.0, 1.0, GRID)
    u = np.tile(box.to_unit(middle[None]), (GRID ** len(shown), 1))
    for column, values in zip(columns, np.meshgrid(*[axis] * len(shown), indexing="ij"), strict=True):
        u[:, column] = values.ravel()
    p = fitted.probability_at(u).reshape((GRID,) * len(shown))
    lines = [box.from_unit(np.tile(axis[:, None], (1, box.d)))[:, column] for column in columns]
    x = box.from_unit(fitted.x)
    alt = f"Probability of {fitted.event} over {' and '.join(shown)}, between {p.min():.2f} and {p.max():.2f}."
    figure, axes = new_figure(1, 1, (0.62 * PAGE, 0.46 * PAGE), alt)
    ax = axes[0, 0]
    if len(shown) == 1:
        ax.plot(lines[0], p, color=BLUE, label=f"P({fitted.event})")
        _runs(ax, x[:, columns[0]], fitted.labels.astype(float), fitted)
        ax.set_ylabel(f"probability of {fitted.event}")
    else:
        mesh = ax.pcolormesh(
            lines[0], lines[1], p.T, cmap="cividis", vmin=0.0, vmax=1.0, shading="gouraud", rasterized=True
        )
        drawn = ax.contour(
            lines[0], lines[1], p.T, levels=LEVELS, colors=BLACK, linewidths=0.8, linestyles=["--", "-", "--"]
        )
        ax.clabel(drawn, fmt=lambda value: f"{value:.0%}".replace("%", " %"), fontsize=7)
        _runs(ax, x[:, columns[0]], x[:, columns[1]], fitted)
        figure.colorbar(mesh, ax=ax, label=f"probability of {fitted.event}", pad=0.02)
    for which, name, column, values in zip("xy", shown, columns, lines, strict=False):
        low, high = float(values[0]), float(values[-1])
        (ax.set_xlim if which == "x" else ax.set_ylim)(low, high)
        log = box.scale[column] == "log"
        exponent = log_axis(ax, which, low, high) if log else number_axis(_axis(ax, which), low, high, 4)
        (ax.set_xlabel if which == "x" else ax.set_ylabel)(label(name, "", labels, exponent))
    add_legend(figure, collected([ax]), "outside upper center", 3)
    return figure


def _axis(ax: Axes, which: str) -> Axis:
    return ax.xaxis if which == "x" else ax.yaxis


def _runs(ax: Axes, x: Array, y: Array, fitted: FittedProbability) -> None:
    for happened, mark, colour in ((True, "o", "#ffffff"), (False, "X", VERMILION)):
        rows = fitted.labels == happened
        words = {("success", True): "run that succeeded", ("success", False): "run that failed"}
        text = words.get((fitted.event, happened), f"run {'with' if happened else 'without'} {fitted.event}")
        ax.scatter(
            x[rows], y[rows], s=20, marker=mark, c=colour, edgecolors=BLACK, linewidths=0.6, label=text, zorder=3
        )


@styled
def reliability(fitted: FittedProbability, *, bins: int = 10) -> Figure:
    """Draw a reliability diagram: how often an event happened against its left-out probability.

    Parameters
    ----------
    fitted
        The probability.
    bins
        Number of equal parts of [0, 1]; empty ones are left out.

    Returns
    -------
    matplotlib.figure.Figure
        Shares with 95 % intervals (Wilson) over the mean probability in each part, and below how many runs are in it.

    Raises
    ------
    InputError
        When it is no such probability, or bins is not positive.

    Examples
    --------
    >>> import uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 16, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": design["k"].values})
    >>> len(reliability(uq.EventProbability(lambda runs: runs["y"] > 1.2).fit(runs)).axes)
    2
    """
    curve = _checked(fitted, "reliability").reliability(bins)
    alt = (
        f"Reliability of left-out probabilities of {fitted.event}, {fitted.runs} runs; Brier score {fitted.brier:.3f}."
    )
    figure, axes = new_figure(2, 1, (0.45 * PAGE, 0.5 * PAGE), alt)
    top, bottom = axes[0, 0], axes[1, 0]
    top.get_subplotspec().get_gridspec().set_height_ratios([4, 1])
    top.plot([0.0, 1.0], [0.0, 1.0], color=GREY, lw=0.8, ls="--", label="honest")
    off = np.abs(np.stack([curve["low"], curve["high"]]) - curve["happened"].to_numpy())
    top.errorbar(
        curve["said"], curve["happened"], yerr=off, fmt="o", ms=4, lw=1.0, color=BLUE, label="seen, 95 % interval"
    )
    top.set_ylabel(f"fraction with {fitted.event}")
    top.set_xlim(-0.03, 1.03)
    top.set_ylim(-0.03, 1.03)
    top.tick_params(labelbottom=False)
    bottom.bar(curve["said"], curve["count"], width=0.5 / bins, color=BLUE, alpha=0.35, lw=0)
    bottom.set_xlim(-0.03, 1.03)
    bottom.set_ylabel("runs")
    bottom.set_xlabel(f"left-out probability of {fitted.event}")
    add_legend(figure, collected([top]), "outside upper center", 2)
    return figure


def _checked(fitted: object, who: str) -> FittedProbability:
    if not isinstance(fitted, FittedProbability):
        raise InputError(
            f"plots.{who}: got {type(fitted).__name__}; give what uq.SuccessProbability().fit(ensemble) or "
            "uq.EventProbability(event).fit(ensemble) returns."
        )
    return fitted
