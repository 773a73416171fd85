"""Left-out or held-out runs against their predictions."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import norm

from uqms._typing import Array
from uqms.errors import InputError
from uqms.plots._style import (
    BLACK,
    BLUE,
    PAGE,
    SKY,
    VERMILION,
    exponent_of,
    label,
    new_figure,
    number_axis,
    pick,
    styled,
    wrapped,
)
from uqms.surrogates.validation import Validation

__all__ = ["leave_one_out"]

MOST = 8
REACH = 4.0  # standardised errors that a histogram shows
Z95 = float(norm.ppf(0.975))
RASTER = 5_000  # points beyond which a vector file holds them as a picture
BARS = 3_000  # points beyond which error bars are only a cloud


class _Output(NamedTuple):
    """One output of a validation: values of all runs and coordinates, (n, m), and what to call them."""

    simulated: Array
    mean: Array
    sd: Array
    error: Array  # standardised
    text: str
    unit: str
    dim: str
    at: Array | None  # (m,), numeric coordinate of a curve


@styled
def leave_one_out(
    validation: Validation, *, names: Sequence[str] | None = None, labels: Mapping[str, str] | None = None
) -> Figure:
    """Draw what was simulated against what the surrogate said without having seen it, and the standardised errors.

    Use it before calibration: single runs far off, errors with a trend, or standardised errors wider than the normal
    density say that the surrogate is not what it claims to be. Errors of a curve are drawn along its coordinate.

    Parameters
    ----------
    validation
        What `uqms.leave_one_out(surrogate)` returns.
    names
        Outputs to show, at most 8; all of them by default.
    labels
        What to write instead of a name (of an output or coordinate), by name.

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
    >>> len(leave_one_out(uq.leave_one_out(surrogate)).axes)
    3
    """
    if not isinstance(validation, Validation):
        raise InputError(f"plots.leave_one_out: got {type(validation).__name__}; give uq.leave_one_out(surrogate).")
    known = [str(name) for name in validation.observed.data_vars]
    wanted = pick(names, known, known, MOST, "leave_one_out")
    alt = f"{validation.method} validation of {', '.join(wanted)}"
    figure, axes = new_figure(len(wanted), 3, (PAGE, 2.5 * len(wanted)), alt)
    for row, name in enumerate(wanted):
        output = _read(validation, name, labels)
        how = "left out" if validation.method == "leave-one-out" else "held out"
        _agreement(axes[row, 0], output, how)
        _errors(axes[row, 1], output, how, labels)
        _density(axes[row, 2], output.error.ravel())
        _titles(axes[row], validation, name, output.text)
    figure.align_labels()
    return figure


def _read(validation: Validation, name: str, labels: Mapping[str, str] | None) -> _Output:
    observed = validation.observed[name]
    known = np.isfinite(observed.values.reshape(observed.sizes["run"], -1)).all(axis=1)
    n = int(known.sum())
    parts = (observed, validation.mean[name], validation.sd[name], validation.standardised[name])
    simulated, mean, sd, error = (np.asarray(part.values[known], dtype=np.float64).reshape(n, -1) for part in parts)
    error = np.nan_to_num(error)
    dims = [str(dim) for dim in observed.dims[1:]]
    curve = len(dims) == 1 and observed[dims[0]].dtype.kind in "fiu"
    at = np.asarray(observed[dims[0]].values, dtype=np.float64) if curve else None
    text, unit = label(name, "", labels), str(observed.attrs.get("unit", ""))
    return _Output(simulated, mean, sd, error, text, unit, dims[0] if curve else "", at)


def _agreement(ax: Axes, output: _Output, how: str) -> None:
    """Draw prediction against simulation with 95 % intervals."""
    x, y, half = output.simulated.ravel(), output.mean.ravel(), Z95 * output.sd.ravel()
    if len(x) <= BARS:
        ax.errorbar(x, y, half, fmt="none", ecolor=SKY, elinewidth=0.6, zorder=1, rasterized=len(x) > 500)
    ax.plot(x, y, "o", ms=_size(len(x)), mfc=BLUE, mec="none", zorder=2, rasterized=len(x) > RASTER)
    low, high = float(x.min()), float(x.max())
    margin = 0.04 * (high - low or abs(high) or 1.0)
    ax.axline((low, low), slope=1.0, color=BLACK, lw=0.7, zorder=3)
    ax.set_xlim(low - margin, high + margin)
    # Intervals that reach far beyond all values would press the points together.
    bottom, top = min(low, float(y.min())) - 2 * margin, max(high, float(y.max())) + 2 * margin
    ax.set_ylim(bottom, top)
    number_axis(ax.yaxis, bottom, top, 4)
    exponent = number_axis(ax.xaxis, low, high, 4)
    ax.set_xlabel(label("simulated", output.unit, None, exponent))
    ax.set_ylabel(label(f"predicted, {how}", output.unit, None, exponent_of(bottom, top)))


def _errors(ax: Axes, output: _Output, how: str, labels: Mapping[str, str] | None) -> None:
    """Draw standardised errors along the coordinate of a curve, else against the prediction."""
    n, m = output.error.shape
    x = output.mean if output.at is None else np.broadcast_to(output.at, (n, m))
    low, high = float(x.min()), float(x.max())
    margin = 0.04 * (high - low or abs(high) or 1.0)
    ax.axhspan(-Z95, Z95, color=SKY, alpha=0.25, lw=0, zorder=0)
    ax.axhline(0.0, color=BLACK, lw=0.7, zorder=1)
    dots: dict[str, Any] = {"ms": _size(n * m), "rasterized": n * m > RASTER}
    ax.plot(x.ravel(), output.error.ravel(), "o", mfc=BLUE, mec="none", alpha=0.7, **dots)
    top = _reach(output.error)
    ax.set(xlim=(low - margin, high + margin), ylim=(-top, top), ylabel="standardised error")
    number_axis(ax.yaxis, -top, top, 5)
    exponent = number_axis(ax.xaxis, low, high, 4)
    if output.at is None:
        ax.set_xlabel(label(f"predicted, {how}", output.unit, None, exponent))
    else:
        ax.set_xlabel(wrapped(label(output.dim, "", labels, exponent), 30))


def _density(ax: Axes, error: Array) -> None:
    """Draw the histogram of the standardised errors with the normal density that they should follow."""
    count = int(np.clip(2 * np.sqrt(len(error)), 11, 41)) | 1
    weights = np.full(len(error), count / (2 * REACH * len(error)))
    ax.hist(error, count, range=(-REACH, REACH), weights=weights, color=SKY, alpha=0.7, label="found")
    grid = np.linspace(-REACH, REACH, 400)
    ax.plot(grid, norm.pdf(grid), color=VERMILION, lw=1.2, label="N(0, 1)")
    ax.set(xlim=(-REACH, REACH), xlabel="standardised error", ylabel="density")
    ax.set_ylim(0, 1.05 * ax.get_ylim()[1])
    number_axis(ax.xaxis, -REACH, REACH, 5)
    number_axis(ax.yaxis, 0.0, 1.0, 4)
    ax.legend(loc="upper right", handlelength=1.1, borderaxespad=0.0)
    beyond = float(np.mean(np.abs(error) > REACH))
    if beyond > 0:
        ax.set_title(f"{100 * beyond:.2g} % beyond ±{REACH:g}")


def _titles(axes: np.ndarray, validation: Validation, name: str, text: str) -> None:
    row = validation.table.loc[name]
    low, high = row["range_95%"]
    q2 = "> 0.9999" if row["q2"] > 0.9999 else f"{row['q2']:.4f}"
    axes[0].set_title(f"{wrapped(text, 32)}\nQ² {q2}, RMSE {row['rmse']:.3g}")
    covered = f"95 % intervals cover {100 * row['coverage_95%']:.1f} %"
    axes[1].set_title(f"{covered}\n(expected: {100 * low:.1f} to {100 * high:.1f} %)")


def _reach(error: Array) -> float:
    return float(max(REACH, 1.08 * np.abs(error).max(initial=0.0)))


def _size(count: int) -> float:
    return float(np.clip(40.0 / np.sqrt(count), 1.2, 3.2))
