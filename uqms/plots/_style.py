"""How all figures look: palette, sizes, axes and labels; and a figure that belongs to no window.

Colours are those of Okabe & Ito, which colour-blind readers tell apart; no meaning hangs on colour alone. Sizes are
those of a journal page, 7 inches wide.
"""

import base64
import functools
import html
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, Formatter, MaxNLocator, NullLocator

from uqms._teaching import taught
from uqms.errors import InputError

__all__ = [
    "BLACK",
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PAGE",
    "PURPLE",
    "SKY",
    "VERMILION",
    "add_legend",
    "collected",
    "exponent_of",
    "label",
    "log_axis",
    "new_figure",
    "number_axis",
    "pick",
    "rounded",
    "styled",
    "wrapped",
]

BLACK, GREY = "#000000", "#8a8a8a"
BLUE, SKY, GREEN, ORANGE, VERMILION, PURPLE = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7"
PAGE = 7.0  # inches
DPI = 200

_STYLE: Any = {
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 5.0,
    "axes.labelpad": 3.0,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.3,
    "figure.constrained_layout.h_pad": 0.05,
    "figure.constrained_layout.w_pad": 0.05,
}
_TICKS: dict[str, Any] = {"labelsize": 7.5, "length": 3.0, "width": 0.7, "pad": 2.5}


class _Picture(Figure):
    """A figure that notebooks and documentation show without pyplot, which would keep it in a global list."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        data = base64.b64encode(self._repr_png_()).decode("ascii")
        width = round(100 * self.get_figwidth())
        alt = html.escape(str(self.get_label()))
        return f'<img style="width: {width}px; max-width: 100%" alt="{alt}" src="data:image/png;base64,{data}">'


def styled[**P](function: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the style of this module and leave the global settings as they were."""

    @functools.partial(taught, room="plots")
    @functools.wraps(function)
    def draw(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(_STYLE):
            return function(*args, **kwargs)

    return draw


def new_figure(rows: int, columns: int, size: tuple[float, float], alt: str) -> tuple[Figure, np.ndarray]:
    """Return a figure of `size` inches and its axes (rows, columns); `alt` says in words what it shows."""
    figure = _Picture(figsize=size, dpi=DPI, layout="constrained")
    figure.set_label(alt)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        # Given here, since ticks that come into being while drawing would follow the global settings.
        ax.tick_params(which="both", **_TICKS)
    return figure, axes


def collected(axes: Iterable[Axes]) -> dict[str, Artist]:
    """Return what the axes name, each text once."""
    found: dict[str, Artist] = {}
    for ax in axes:
        for handle, text in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(str(text), handle)
    return found


def add_legend(where: Figure | Axes, entries: Mapping[str, Artist], loc: Any, columns: int = 1) -> None:
    """Add a legend of text -> artist."""
    where.legend(handles=list(entries.values()), labels=list(entries), loc=loc, ncols=columns)


# -------------------------------------------------------------------------------------------------------------- labels
def _plain(text: str) -> str:
    return text.replace("$", r"\$")


def label(name: str, unit: str, labels: Mapping[str, str] | None, exponent: int = 0) -> str:
    """Return "name (unit)"; `labels` replaces names; with an exponent the unit is a power of ten of it."""
    text = (labels or {}).get(name) or _plain(name)
    power = f"$10^{{{exponent}}}$" if exponent else ""
    inside = " ".join(part for part in (power, _plain(unit)) if part)
    return f"{text} ({inside})" if inside else text


def wrapped(text: str, width: int) -> str:
    """Return text in lines of at most about `width` characters, broken at spaces and after underscores."""
    if "$" in text.replace(r"\$", "") and "(" not in text:
        return text
    lines = [""]
    for piece in re.findall(r"\$[^$]*\$[^\s]*\s*|\([^)]*\)\s*|[^\s_]+[\s_]*|[\s_]+", text):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def rounded(values: Iterable[float], sd: float) -> list[str]:
    """Return numbers with the digits that a standard deviation of `sd` leaves: two of its own."""
    digits = 2 if not np.isfinite(sd) or sd <= 0 else int(np.clip(1 - np.floor(np.log10(sd)), 0, 9))
    return [f"{value:.{digits}f}".replace("-", "−") for value in values]


# ---------------------------------------------------------------------------------------------------------------- axes
class _Scaled(Formatter):
    """Tick labels in units of a power of ten, all with the same number of decimals."""

    def __init__(self, exponent: int) -> None:
        self.scale = 10.0**exponent
        self.ticks = np.zeros(0)

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        self.ticks = np.asarray(values, dtype=np.float64)
        return [self(value) for value in values]

    def __call__(self, x: float, pos: int | None = None) -> str:
        ticks = self.ticks / self.scale
        step = float(np.diff(np.sort(ticks)).min()) if len(ticks) > 1 else abs(x / self.scale) or 1.0
        digits = next((d for d in range(10) if np.abs(np.round(ticks, d) - ticks).max(initial=0.0) < 1e-3 * step), 10)
        return f"{x / self.scale + 0.0:.{digits}f}".replace("-", "−")


class _Decade(Formatter):
    """Whole powers of ten."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if 1e-3 < x < 1e4 else f"$10^{{{round(np.log10(x))}}}$"


class _Few(Formatter):
    """Numbers with no more digits than each needs, in units of a power of ten."""

    def __init__(self, exponent: int) -> None:
        self.scale = 10.0**exponent

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x / self.scale:g}"


def exponent_of(low: float, high: float) -> int:
    """Return the power of ten (a multiple of 3) in which numbers between low and high are written: 0 for usual ones."""
    largest = max(abs(low), abs(high))
    if largest == 0.0 or not np.isfinite(largest) or 1e-2 <= largest < 1e5:
        return 0
    return int(3 * np.floor(np.log10(largest) / 3))


def number_axis(axis: Axis, low: float, high: float, ticks: int, exponent: int | None = None) -> int:
    """Give a linear axis about `ticks` ticks; return the power of ten that its label must name."""
    exponent = exponent_of(low, high) if exponent is None else exponent
    axis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10], min_n_ticks=2))
    axis.set_major_formatter(_Scaled(exponent))
    return exponent


def log_axis(ax: Axes, which: str, low: float, high: float) -> int:
    """Make an axis logarithmic, ticks at 1, 2, 5 or decades; return the power of ten that its label must name."""
    axis: Axis = ax.xaxis if which == "x" else ax.yaxis
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    axis.set_minor_locator(NullLocator())
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    whole = decades[(decades >= low) & (decades <= high)]
    if len(whole) >= 3:
        axis.set_major_locator(FixedLocator(list(whole[:: -(-len(whole) // 4)])))
        axis.set_major_formatter(_Decade())
        return 0
    exponent = exponent_of(low, high)
    for steps in ([1.0, 3.0], [1.0, 2.0, 5.0], [1.0, 1.5, 2.0, 3.0, 5.0, 7.0]):
        ticks = np.outer(decades, steps).ravel()
        ticks = ticks[(ticks >= low) & (ticks <= high)]
        if len(ticks) >= 3:
            axis.set_major_locator(FixedLocator(list(ticks)))
            axis.set_major_formatter(_Few(exponent))
            return exponent
    return number_axis(axis, low, high, 3)


def pick(names: Sequence[str] | None, known: Sequence[str], default: Sequence[str], most: int, who: str) -> list[str]:
    """Return the names to show.

    Raises
    ------
    InputError
        Unknown or repeated names, none, or more than fit into a figure.
    """
    if isinstance(names, str):
        raise InputError(f"plots.{who}: names is {names!r}; give a sequence, [{names!r}].")
    wanted = [str(name) for name in (default if names is None else names)]
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted or len(set(wanted)) < len(wanted):
        raise InputError(f"plots.{who}: names is {wanted}; give some of {list(known)}, each once.")
    if len(wanted) > most:
        raise InputError(
            f"plots.{who}: {len(wanted)} names are more than a figure holds, {most}. Choose with names=[...] from "
            f"{list(known)}."
        )
    return wanted
