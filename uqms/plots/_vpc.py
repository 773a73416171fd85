"""The visual predictive check: percentiles of the data beside those of replicated studies."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from uqms.diagnostics.vpc import VisualPredictiveCheck
from uqms.errors import InputError
from uqms.plots._style import (
    BLACK,
    GREY,
    ORANGE,
    PAGE,
    SKY,
    VERMILION,
    add_legend,
    collected,
    label,
    new_figure,
    number_axis,
    styled,
    wrapped,
)

__all__ = ["visual_predictive_check"]


@styled
def visual_predictive_check(check: VisualPredictiveCheck, *, labels: Mapping[str, str] | None = None) -> Figure:
    """Draw percentiles of the data by bin, with the intervals of replicated studies of new subjects.

    Boxes are where each percentile lies in replicated studies, as wide as their bin; lines join the percentiles of the
    data. Red marks are outside of their box: of all, one in twenty is expected. Outer percentiles outside of outer
    boxes: the spread between subjects or the noise is wrong; the middle one: the typical subject is.

    Parameters
    ----------
    check
        Of `uq.diagnostics.visual_predictive_check`.
    labels
        What to write instead of the name of the output or coordinate, by name.

    Returns
    -------
    matplotlib.figure.Figure
        One panel.

    Raises
    ------
    InputError
        When it is no such result.
    """
    if not isinstance(check, VisualPredictiveCheck):
        raise InputError(
            f"plots.visual_predictive_check: got a {type(check).__name__}; give "
            "uq.diagnostics.visual_predictive_check(posterior)."
        )
    one, summary = check.quantiles, check.summary
    alt = f"Visual predictive check of {check.output} along {check.along} in {one.sizes['bin']} bins"
    figure, axes = new_figure(1, 1, (PAGE, 3.4), alt)
    ax: Axes = axes[0, 0]
    levels, outside = one["level"].values, ~check.inside.values
    middle = one["middle"].values
    words = ", ".join(f"{100 * level:g}" for level in levels) + " %"
    nearest = int(np.argmin(np.abs(levels - 0.5)))
    others = ", ".join(f"{100 * level:g}" for k, level in enumerate(levels) if k != nearest)
    share = f"{100 * check.prob:g} % of studies"
    for k, level in enumerate(levels):
        inner = k == nearest
        colour = ORANGE if inner else SKY
        lower, upper = one["lower"].values[:, k], one["upper"].values[:, k]
        box = ax.bar(
            one["low"].values,
            upper - lower,
            one["high"].values - one["low"].values,
            lower,
            align="edge",
            color=to_rgba(colour, 0.35),
            edgecolor=colour,
            lw=0.6,
            label=f"{100 * level:g} %: {share}" if inner else f"{others} %: {share}",
        )
        for patch in box:
            patch.set_zorder(1.5 if inner else 1.0)
        style = "-" if inner else (0, (3, 1.2))
        text = f"percentiles of the data ({words})" if inner else "_nolegend_"
        ax.plot(middle, one["observed"].values[:, k], color=BLACK, lw=1.1, ls=style, label=text, zorder=4)
        bad = outside[:, k]
        ax.plot(middle[~bad], one["observed"].values[~bad, k], "o", color=BLACK, ms=2.6, zorder=5)
        if bad.any():
            ax.plot(
                middle[bad], one["observed"].values[bad, k], "o", color=VERMILION, ms=4.2, zorder=6, label="outside"
            )
    size = float(np.clip(40.0 / np.sqrt(len(check.data)), 1.2, 3.0))
    ax.plot(
        check.data[check.along], check.data["value"], "o", color=GREY, ms=size, mew=0, alpha=0.6, zorder=2, label="data"
    )
    edges = np.append(one["low"].values, one["high"].values[-1])
    ax.plot(
        edges,
        np.zeros(len(edges)),
        "|",
        color=BLACK,
        ms=5.0,
        mew=0.6,
        transform=ax.get_xaxis_transform(),
        clip_on=False,
        label="edges of the bins",
    )
    margin = 0.01 * (edges[-1] - edges[0])
    ax.set_xlim(edges[0] - margin, edges[-1] + margin)
    low, high = ax.get_ylim()
    exponent = number_axis(ax.yaxis, low, high, 6)
    across = number_axis(ax.xaxis, float(edges[0]), float(edges[-1]), 8)
    ax.set_xlabel(label(check.along, "", labels, across))
    name = label(check.output, str(one["observed"].attrs.get("unit", "")), labels, exponent)
    ax.set_ylabel(wrapped(f"prediction-corrected {name}" if check.corrected else name, 34))
    found, of, expected, p = (float(summary[key].iloc[-1]) for key in ("inside", "of", "expected", "p"))
    title = f"inside {found:.0f} of {of:.0f}, expected {expected:.1f} (p = {p:.2g})"
    if check.uncorrected:
        title += f"; {check.uncorrected} values not corrected"
    ax.set_title(title)
    add_legend(figure, collected(figure.axes), "outside lower center", 3)
    return figure
