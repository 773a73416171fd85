"""Prior against posterior density of every quantity."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uqms.calibration import Posterior
from uqms.plots._density import density
from uqms.plots._quantity import Quantity, quantities
from uqms.plots._style import (
    BLUE,
    GREY,
    PAGE,
    SKY,
    VERMILION,
    add_legend,
    collected,
    label,
    new_figure,
    number_axis,
    rounded,
    styled,
    wrapped,
)

__all__ = ["prior_posterior"]

MOST = 24
NARROWEST = 25.0  # an axis is at most so many times as wide as the posterior


@styled
def prior_posterior(
    posterior: Posterior,
    *,
    names: Sequence[str] | None = None,
    reference: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Figure:
    r"""Draw the prior and the posterior density of every parameter, of the noise and of derived quantities.

    Use it to see what the data taught: where the two agree, nothing. Above each panel stand the posterior mean and the
    equal-tailed 95 % interval, which is shaded. Where a prior is far wider than the posterior, its tails are cut off.

    Parameters
    ----------
    posterior
        What `Calibration(...).sample()` returns.
    names
        Quantities to show, at most 24; all of them by default.
    reference
        Values to mark, for instance the truth of synthetic data.
    labels
        What to write instead of a name, by name, for example {"beta": r"$\beta$"}.

    Returns
    -------
    matplotlib.figure.Figure
        One panel a quantity.

    Raises
    ------
    InputError
        When it is no posterior, or names are unknown or too many.
    """
    shown = quantities(posterior, names, reference, derived=True, most=MOST, who="prior_posterior")
    columns = len(shown) if len(shown) <= 4 else 3 if len(shown) in (5, 6, 9) else 4
    rows = -(-len(shown) // columns)
    width = PAGE if columns > 2 else 2.6 * columns
    alt = f"Prior and posterior density of {', '.join(one.name for one in shown)}"
    free = rows * columns > len(shown)  # a slot for the legend
    figure, axes = new_figure(rows, columns, (width, 1.95 * rows + (0.0 if free else 0.35)), alt)
    for index, ax in enumerate(axes.flat):
        if index >= len(shown):
            ax.set_axis_off()
            continue
        _panel(ax, shown[index], labels, width / columns)
        if index % columns == 0:
            ax.set_ylabel("density")
    entries = collected(figure.axes)
    if free:
        add_legend(axes.flat[len(shown)], entries, "center left")
    else:
        add_legend(figure, entries, "outside lower center", len(entries))
    return figure


def _panel(ax: Axes, one: Quantity, labels: Mapping[str, str] | None, width: float) -> None:
    low, high = _window(one)
    found = density(one.draws, one.limits)
    ends = np.quantile(one.draws, [0.025, 0.975])
    grid, values = one.prior_density(low, high)
    top = float(values.max(initial=0.0))
    ax.plot(grid, values, color=GREY, ls=(0, (4, 1.5)), lw=1.1, label="prior")
    if found is None:
        ax.axvline(float(one.draws[0]), color=BLUE, label="posterior")
    else:
        top = max(top, float(found[1].max()))
        inside = (found[0] >= ends[0]) & (found[0] <= ends[1])
        shade = "95 % of the posterior"
        ax.plot(*found, color=BLUE, label="posterior")
        ax.fill_between(found[0], found[1], where=list(inside), color=SKY, alpha=0.4, lw=0, label=shade)
    if one.reference is not None:
        ax.axvline(one.reference, color=VERMILION, lw=1.0, ls=(0, (1, 1)), label="reference")
    exponent = number_axis(ax.xaxis, low, high, max(3, int(width * 1.9)))
    ax.set(xlim=(low, high), ylim=(0.0, 1.06 * top or 1.0), yticks=[])
    mean, *interval = (value / 10.0**exponent for value in (one.draws.mean(), *ends))
    texts = rounded([mean, *interval], float(one.draws.std()) / 10.0**exponent)
    between = " " if width > 2.0 else "\n"
    title = f"mean {texts[0]}{between}[{texts[1]}, {texts[2]}]"
    ax.set_title(f"{wrapped(one.description, int(width * 15))}\n{title}" if one.description else title)
    ax.set_xlabel(wrapped(label(one.name, one.unit, labels, exponent), int(width * 13)))


def _window(one: Quantity) -> tuple[float, float]:
    """Return the range to show: the posterior, and the prior as far as that leaves the posterior visible."""
    post_low, post_high = (float(end) for end in np.quantile(one.draws, [0.0005, 0.9995]))
    prior_low, prior_high = one.prior_range()
    width = (post_high - post_low) or 0.1 * (prior_high - prior_low) or abs(post_low) or 1.0
    centre = 0.5 * (post_low + post_high)
    low = min(post_low, max(prior_low, centre - 0.5 * NARROWEST * width))
    high = max(post_high, min(prior_high, centre + 0.5 * NARROWEST * width))
    if one.reference is not None:
        low, high = min(low, one.reference), max(high, one.reference)
    margin = 0.03 * ((high - low) or width)
    return low - margin, high + margin
