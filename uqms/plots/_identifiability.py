"""Profile likelihoods, and which combinations of parameters the data know."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import chi2

from uqms.diagnostics.identifiability import Identifiability
from uqms.diagnostics.profile import Profile
from uqms.errors import InputError
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
    styled,
    wrapped,
)

__all__ = ["identifiability", "profile"]

MOST = 12
DEEPEST = 3.0  # times the threshold


@styled
def profile(profiles: Profile | Sequence[Profile], *, labels: Mapping[str, str] | None = None) -> Figure:
    """Draw profile likelihoods with their threshold; a curve that stays above it is not bounded by the data.

    Parameters
    ----------
    profiles
        One or several of `uq.diagnostics.profile_likelihood`, at most 12.
    labels
        What to write instead of a name, by name.

    Returns
    -------
    matplotlib.figure.Figure
        One panel a quantity.

    Raises
    ------
    InputError
        When it is no profile, or there are none or too many.
    """
    shown = [profiles] if isinstance(profiles, Profile) else list(profiles)
    if not shown or len(shown) > MOST or not all(isinstance(one, Profile) for one in shown):
        raise InputError(f"plots.profile: give 1 to {MOST} results of uq.diagnostics.profile_likelihood.")
    columns = min(len(shown), 3)
    rows = -(-len(shown) // columns)
    width = PAGE if columns == 3 else 2.9 * columns
    alt = f"Profile log-likelihood of {', '.join(one.name for one in shown)}"
    figure, axes = new_figure(rows, columns, (width, 2.1 * rows + 0.35), alt)
    for index, ax in enumerate(axes.flat):
        if index >= len(shown):
            ax.set_axis_off()
            continue
        one = shown[index]
        values, depth = one.curve[one.name].values, one.curve["log_likelihood"].values
        threshold = 0.5 * float(chi2.ppf(one.prob, 1))
        exponent = number_axis(ax.xaxis, float(values[0]), float(values[-1]), 4)
        between = np.linspace(*one.interval, 200)
        bottom = -DEEPEST * threshold
        ax.plot(values, np.maximum(depth, 2.0 * bottom), color=BLUE, label="profile log-likelihood")
        top = np.maximum(np.interp(between, values, depth), bottom)
        ax.fill_between(between, bottom, top, color=SKY, alpha=0.4, lw=0, label="interval")
        ax.axhline(-threshold, color=GREY, ls=(0, (4, 1.5)), lw=1.0, label=f"{one.prob:.0%} threshold")
        ax.axvline(one.maximum, color=VERMILION, ls=(0, (1, 1)), lw=1.0, label="best fit")
        ax.set(xlim=(values[0], values[-1]), ylim=(bottom, -0.08 * bottom))
        side = {(True, True): "identified", (False, False): "not bounded by data"}
        ax.set_title(side.get(one.bounded, f"not bounded {'above' if one.bounded[0] else 'below'}"))
        ax.set_xlabel(wrapped(label(one.name, one.unit, labels, exponent), 28))
        if index % columns == 0:
            ax.set_ylabel("log-likelihood − largest")
    add_legend(figure, collected(figure.axes), "outside lower center", 4 if width > 5 else 2)
    return figure


@styled
def identifiability(found: Identifiability, *, labels: Mapping[str, str] | None = None) -> Figure:
    """Draw the contraction along every direction beside the parameters that form the direction.

    Parameters
    ----------
    found
        Of `uq.diagnostics.identifiability`.
    labels
        What to write instead of a name, by name.

    Returns
    -------
    matplotlib.figure.Figure
        Bars of contraction, the stiffest direction on top, and a matrix of the directions' parts.

    Raises
    ------
    InputError
        When it is no such result.
    """
    if not isinstance(found, Identifiability):
        raise InputError(f"plots.identifiability: got a {type(found).__name__}; give uq.diagnostics.identifiability.")
    names = [str(name) for name in found.directions["parameter"].values]
    d = len(names)
    size = (min(PAGE, 3.4 + 0.6 * d), 1.1 + 0.32 * d)
    alt = f"Contraction along the {d} directions of {', '.join(names)}"
    figure, axes = new_figure(1, 2, size, alt)
    bars, parts = axes.flat
    place = np.arange(d)
    contracted = found.direction_contraction.values
    bars.barh(place, contracted, color=[BLUE if value > 0.1 else VERMILION for value in contracted], height=0.6)
    bars.axvline(0.1, color=GREY, ls=(0, (4, 1.5)), lw=1.0)
    bars.set(xlim=(0.0, 1.0), ylim=(d - 0.5, -0.5), xlabel="contraction by the data", ylabel="direction")
    bars.set_yticks(place, [str(i + 1) for i in place])
    vectors = found.directions.values
    vectors = vectors * np.sign(vectors[np.arange(d), np.argmax(np.abs(vectors), axis=1)])[:, None]
    parts.imshow(vectors, cmap="RdBu_r", vmin=-1.0, vmax=1.0, aspect="auto")
    for i, j in np.ndindex(d, d):
        if abs(vectors[i, j]) >= 0.005:
            text = f"{vectors[i, j]:.2f}".replace("-", "−")
            parts.text(j, i, text, ha="center", va="center", fontsize=7, color="w" if abs(vectors[i, j]) > 0.6 else "k")
    shown = [name if found.scale[name] == "identity" else f"{found.scale[name]} {name}" for name in names]
    parts.set_xticks(place, [(labels or {}).get(name, text) for name, text in zip(names, shown, strict=True)])
    parts.tick_params(axis="x", rotation=45 if max(map(len, shown)) > 6 else 0)
    parts.set_yticks(place, [""] * d)
    parts.set_title("made of (units: prior sd)")
    return figure
