"""Whether predicted probabilities are right, entry by entry and together; and how errors fall with the runs."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import norm

from uqms.errors import InputError
from uqms.plots._style import (
    BLACK,
    BLUE,
    GREY,
    PAGE,
    SKY,
    VERMILION,
    label,
    log_axis,
    new_figure,
    number_axis,
    pick,
    styled,
    wrapped,
)
from uqms.surrogates.learning import LearningCurve
from uqms.surrogates.validation import Validation

__all__ = ["coverage", "learning_curve"]

MOST = 8
COLUMNS = 3


@styled
def coverage(
    validation: Validation, *, names: Sequence[str] | None = None, labels: Mapping[str, str] | None = None
) -> Figure:
    """Draw the coverage of intervals at all levels, the PIT histogram, and the pivoted errors.

    Use it when the table of a validation raises doubts, to see of what kind they are. Grey bands hold 99 % of what a
    right surrogate shows at one level or bin. Coverage below the band, or a PIT histogram high at both ends: intervals
    are too narrow; high in the middle: too wide; high at one end: predictions are biased. Pivoted errors that grow to
    the right: wrong length scales or kernel; large everywhere: a wrong variance.

    Parameters
    ----------
    validation
        What `uqms.leave_one_out`, `uqms.held_out` or `uqms.k_fold` returns.
    names
        Outputs to show, at most 8; all of them by default.
    labels
        What to write instead of an output's name, by name.

    Returns
    -------
    matplotlib.figure.Figure
        A row of three panels an output.

    Raises
    ------
    InputError
        When it is no validation, or names are unknown or too many.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 16, rng=1)
    >>> surrogate = uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": np.sin(design["k"].values)}))
    >>> len(coverage(uq.leave_one_out(surrogate)).axes)
    3
    """
    if not isinstance(validation, Validation):
        raise InputError(f"plots.coverage: got {type(validation).__name__}; give uq.leave_one_out(surrogate).")
    known = [str(name) for name in validation.observed.data_vars]
    wanted = pick(names, known, known, MOST, "coverage")
    figure, axes = new_figure(len(wanted), 3, (PAGE, 2.4 * len(wanted)), f"Coverage of {', '.join(wanted)}")
    for row, name in enumerate(wanted):
        _curve(axes[row, 0], validation, name)
        axes[row, 0].set_title(wrapped(label(name, "", labels), 32))
        _histogram(axes[row, 1], validation, name)
        _pivoted(axes[row, 2], validation, name)
    figure.align_labels()
    return figure


def _curve(ax: Axes, validation: Validation, name: str) -> None:
    one = validation.coverage_curve.sel(output=name)
    level = 100 * one["level"].values
    ax.fill_between(level, 100 * one["low"], 100 * one["high"], color=GREY, alpha=0.25, lw=0, label="right: 99 %")
    ax.plot([0, 100], [0, 100], color=BLACK, lw=0.7)
    ax.plot(level, 100 * one["coverage"], "o-", color=BLUE, ms=2.5, lw=1.0, label="found")
    ax.set(xlim=(0, 100), ylim=(0, 102), xlabel="interval (%)", ylabel="values inside (%)")
    number_axis(ax.xaxis, 0, 100, 5)
    number_axis(ax.yaxis, 0, 100, 5)
    ax.legend(loc="upper left", handlelength=1.1, borderaxespad=0.0)


def _histogram(ax: Axes, validation: Validation, name: str) -> None:
    one = validation.pit_histogram.sel(output=name)
    width = 1.0 / one.sizes["bin"]
    edges = np.append(one["bin"].values - 0.5 * width, 1.0)
    low, high = (np.append(one[end].values, one[end].values[-1]) for end in ("low", "high"))
    ax.fill_between(edges, low, high, step="post", color=GREY, alpha=0.25, lw=0)
    ax.axhline(1.0, color=BLACK, lw=0.7)
    ax.stairs(one["density"].values, edges, color=BLUE, lw=1.2)
    top = 1.1 * float(max(one["density"].max(), one["high"].max()))
    ax.set(xlim=(0, 1), ylim=(0, top), xlabel="predicted probability of less (PIT)", ylabel="density")
    number_axis(ax.xaxis, 0, 1, 5)
    number_axis(ax.yaxis, 0, top, 4)


def _pivoted(ax: Axes, validation: Validation, name: str) -> None:
    errors = validation.pivoted[validation.pivoted["output"] == name]
    row = validation.table.loc[name]
    # Scores and folds one after another would hide a trend along the pivots.
    place = errors.groupby(["fold", "score"]).cumcount().to_numpy() + 1
    values = errors["error"].to_numpy()
    reach = float(max(4.0, 1.08 * np.abs(values).max(initial=0.0)))
    ax.axhspan(-norm.ppf(0.975), norm.ppf(0.975), color=SKY, alpha=0.25, lw=0, zorder=0)
    ax.axhline(0.0, color=BLACK, lw=0.7, zorder=1)
    ax.plot(place, values, "o", ms=2.5, mfc=BLUE, mec="none", alpha=0.8)
    last = float(place.max(initial=1))
    ax.set(xlim=(0, last + 1), ylim=(-reach, reach), xlabel="pivot, most uncertain first", ylabel="pivoted error (sd)")
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    number_axis(ax.yaxis, -reach, reach, 5)
    if np.isfinite(row["mahalanobis"]):
        low, high = row["range_mahalanobis"]
        ax.set_title(f"D²/m {row['mahalanobis']:.2f}\n(expected: {low:.2f} to {high:.2f})")


@styled
def learning_curve(
    curve: LearningCurve, *, names: Sequence[str] | None = None, labels: Mapping[str, str] | None = None
) -> Figure:
    """Draw the error against the number of runs, with the power of it that the error falls as.

    Use it to decide on more runs: a line that still falls says what they would give.

    Parameters
    ----------
    curve
        What `uqms.learning_curve` returns.
    names
        Outputs to show, at most 8; all of them by default.
    labels
        What to write instead of an output's name, by name.

    Returns
    -------
    matplotlib.figure.Figure
        A panel an output.

    Raises
    ------
    InputError
        When it is no learning curve, or names are unknown or too many.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 6.0)), 24, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": np.abs(np.sin(design["k"].values))})
    >>> len(learning_curve(uq.learning_curve(uq.GaussianProcess(), runs, sizes=[6, 18], rng=1)).axes)
    1
    """
    if not isinstance(curve, LearningCurve):
        raise InputError(f"plots.learning_curve: got {type(curve).__name__}; give uq.learning_curve(settings, runs).")
    known = [str(name) for name in curve.rates.index]
    wanted = pick(names, known, known, MOST, "learning_curve")
    columns = min(COLUMNS, len(wanted))
    rows = -(-len(wanted) // columns)
    size = (PAGE * columns / COLUMNS, 2.4 * rows)
    figure, axes = new_figure(rows, columns, size, f"Learning curve of {', '.join(wanted)}")
    for ax in axes.ravel()[len(wanted) :]:
        ax.set_axis_off()
    for ax, name in zip(axes.ravel(), wanted, strict=False):
        _falling(ax, curve, name, labels)
    return figure


def _falling(ax: Axes, curve: LearningCurve, name: str, labels: Mapping[str, str] | None) -> None:
    rmse = curve.table["rmse"].xs(name, level="output")
    sizes, values = np.asarray(rmse.index, dtype=np.float64), np.asarray(rmse, dtype=np.float64)
    rate = curve.rates.loc[name]
    low, high = float(sizes.min()) / 1.15, float(max(sizes.max(), curve.runs)) * 1.15
    ax.set_xlim(low, high)
    ax.set_xlabel("runs fitted to")
    log_axis(ax, "x", low, high)
    noise, title = float(np.asarray(rate["noise"])), wrapped(label(name, "", labels), 24)
    if not ((values > 0.0).all() and np.isfinite(rate["exponent"])):
        ax.plot(sizes, values, "o", color=BLUE, ms=4)
        if noise > 0.0:
            ax.axhline(noise, color=VERMILION, lw=1.0, zorder=1)
            title += f"\nleft: noise, sd {noise:.2g}"
        ax.set(title=title, ylabel="RMSE of runs left out")
        return
    line = np.geomspace(low, high)
    beyond = 0.5 * np.log(values**2 - noise**2)
    fitted = np.hypot(np.exp(beyond.mean() - rate["exponent"] * (np.log(line) - np.log(sizes).mean())), noise)
    bottom, top = min(values.min(), fitted.min()) / 1.2, max(values.max(), fitted.max()) * 1.2
    exponent = log_axis(ax, "y", bottom, top)
    ax.plot(line, fitted, color=VERMILION, lw=1.0, zorder=1)
    ax.plot(sizes, values, "o", color=BLUE, ms=4, zorder=2)
    ax.set_ylim(bottom, top)
    ax.set_ylabel(label("RMSE of runs left out", "", None, exponent))
    fall = f"noise {noise:.2g}, rest" if noise > 0.0 else "falls as"
    fall += f" $n^{{{-rate['exponent']:.1f}}}$ (± {rate['standard_error']:.1f})"
    words = f"half at {rate['runs_to_halve']:.0f} runs" if np.isfinite(rate["runs_to_halve"]) else "not clearly falling"
    ax.set_title(f"{title}\n{fall}\n{words}")
