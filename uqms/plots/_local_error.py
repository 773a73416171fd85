"""What a surrogate states of its error beside what it makes, over the box and where the posterior is."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from uqms._typing import Array, Bools
from uqms.calibration.context import evenly
from uqms.calibration.posterior import Posterior, thinned
from uqms.errors import InputError
from uqms.plots._style import (
    BLACK,
    BLUE,
    GREY,
    PAGE,
    SKY,
    VERMILION,
    add_legend,
    collected,
    label,
    log_axis,
    new_figure,
    pick,
    styled,
    wrapped,
)
from uqms.surrogates import GaussianProcessSurrogate, Validation, held_out
from uqms.surrogates import leave_one_out as left_out
from uqms.surrogates.local import nearest_runs

__all__ = ["local_error"]

MOST, COLUMNS = 6, 3
DRAWS, CONDITIONS = 200, 8  # of the posterior; at which its error is looked at
MIDDLE = (0.05, 0.95)  # of the posterior's draws
LEGEND = {1: 0.8, 2: 0.45, 3: 0.25}  # inches, by columns of panels
FACTOR = 2.0  # of the band around equality


@styled
def local_error(
    surrogate: GaussianProcessSurrogate,
    posterior: Posterior,
    runs: xr.Dataset | None = None,
    *,
    names: Sequence[str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Figure:
    """Draw each left-out run's actual error against the stated one, and mark where the posterior is.

    Use it after calibration: a surrogate's stated error is right on average over the design box, while a posterior
    occupies a corner of it. Blue are the runs that the verdict's *surrogate validation* looks at. Where they lie far
    below the line the error is overstated: intervals are too wide and an inferred noise sd is too small. Far above, the
    surrogate is surer than it should be. `uqms.refine` makes runs there, and `uqms.correct` corrects the posterior.

    Parameters
    ----------
    surrogate
        The fitted Gaussian process that the posterior was made with.
    posterior
        Of one subject.
    runs
        Runs at draws of the posterior, as of ``uqms.verification_design``: their actual errors too.
    names
        Outputs to show, at most 6; the first of them by default.
    labels
        What to write instead of an output's name, by name.

    Returns
    -------
    matplotlib.figure.Figure
        A panel an output. Errors of a curve are root mean squares over its coordinates, in the output's own unit.

    Raises
    ------
    InputError
        When it is no fitted Gaussian process or no posterior, or names are unknown or too many.

    Examples
    --------
    ::

        uq.plots.local_error(surrogate, posterior)
    """
    if not isinstance(surrogate, GaussianProcessSurrogate):
        raise InputError(f"plots.local_error: got {type(surrogate).__name__}; give a fitted uq.GaussianProcess.")
    if not isinstance(posterior, Posterior):
        raise InputError(f"plots.local_error: got {type(posterior).__name__} in the place of a posterior.")
    known = list(surrogate.layouts)
    wanted = pick(names, known, known[:MOST], MOST, "local_error")
    problem, validation = posterior.single, left_out(surrogate)
    u = problem.unit_inputs({name: thinned(posterior, DRAWS)[0][name] for name in problem.parameters})
    u = u[:, evenly(u.shape[1], CONDITIONS)].reshape(-1, surrogate.domain.d)
    near = np.isin(np.arange(len(surrogate.process.x)), nearest_runs(surrogate, u))
    at = surrogate.predict(dict(zip(surrogate.domain.names, surrogate.domain.from_unit(u).T, strict=True)))
    new = None if runs is None else held_out(surrogate, runs)
    columns = min(COLUMNS, len(wanted))
    rows = -(-len(wanted) // columns)
    figure, axes = new_figure(
        rows, columns, (PAGE * columns / COLUMNS, 2.4 * rows + LEGEND[columns]), "Stated and actual errors"
    )
    for ax in axes.ravel()[len(wanted) :]:
        ax.set_axis_off()
    for ax, name in zip(axes.ravel(), wanted, strict=False):
        stated = _size(np.sqrt(at.variance[name].values), at.variance[name].dims)
        _panel(ax, name, validation, near, stated, new, labels)
    add_legend(figure, collected(axes.ravel()), "outside lower center", (1, 2, 4)[columns - 1])
    return figure


def _size(values: Array, dims: Sequence[object]) -> Array:
    """Return the root mean square over all dims but the first."""
    return np.sqrt(np.mean(np.asarray(values).reshape(len(values), -1) ** 2, axis=1)) if len(dims) else np.abs(values)


def _errors(validation: Validation, name: str) -> tuple[Array, Array]:
    """Return stated and actual errors of the runs."""
    observed, mean, sd = (getattr(validation, kind)[name] for kind in ("observed", "mean", "sd"))
    return _size(sd.values, sd.dims), _size((observed - mean).values, sd.dims)


def _panel(
    ax: Axes,
    name: str,
    validation: Validation,
    near: Bools,
    stated: Array,
    new: Validation | None,
    labels: Mapping[str, str] | None,
) -> None:
    x, y = _errors(validation, name)
    others = _errors(new, name) if new is not None else (np.empty(0), np.empty(0))
    every = np.concatenate([x, y, stated, *others])
    every = every[np.isfinite(every) & (every > 0.0)]
    low, high = float(every.min()) / 1.5, float(every.max()) * 1.5
    line = np.array([low, high])
    ax.axvspan(*np.quantile(stated, MIDDLE), color=SKY, alpha=0.35, lw=0, zorder=0, label="stated at the posterior")
    ax.fill_between(line, line / FACTOR, line * FACTOR, color=GREY, alpha=0.2, lw=0, zorder=0)
    ax.plot(line, line, color=BLACK, lw=0.7, zorder=1)
    ax.plot(x[~near], y[~near], "o", ms=3, mfc=GREY, mec="none", alpha=0.7, label="left-out runs")
    ax.plot(x[near], y[near], "o", ms=4, mfc=BLUE, mec="none", label="nearest to the posterior")
    if new is not None:
        ax.plot(*others, "D", ms=3.5, mfc=VERMILION, mec="none", label="runs at its draws")
    unit = str(validation.sd[name].attrs.get("unit", ""))
    ax.set(xlim=(low, high), ylim=(low, high), title=wrapped(label(name, "", labels), 28))
    ax.set_xlabel(label("stated error", unit, None, log_axis(ax, "x", low, high)))
    ax.set_ylabel(label("actual error", unit, None, log_axis(ax, "y", low, high)))
    ax.set_aspect("equal")
