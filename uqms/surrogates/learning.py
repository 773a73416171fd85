"""How the error falls with the number of runs, and so whether there are enough.

==========  ==========================================================  ==========
symbol      meaning                                                     shape
==========  ==========================================================  ==========
n           runs that a surrogate is fitted to                          ()
v           variance of the simulator's noise (aleatory) in a run       ()
a           exponent: (RMSE² - v)^1/2 ~ n^-a, least squares on logs     ()
k           folds; each is predicted from nested subsets of the others  ()
==========  ==========================================================  ==========
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pandas as pd
import xarray as xr

from uqms import ensemble as table
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, Ints, RandomState, as_generator
from uqms.errors import InputError
from uqms.surrogates.gp import GaussianProcessSurrogate
from uqms.surrogates.prediction import Prediction
from uqms.surrogates.protocol import Surrogate
from uqms.surrogates.run_noise import replicated
from uqms.surrogates.validation import Settings, Validation, check_settings, folds_of, judged_runs, predicted, without

__all__ = ["LearningCurve", "learning_curve"]

FOLDS = 4
SIZES = 5
CLEAR = 2.0  # standard errors that the exponent must be above zero
FLAT = 0.1  # exponent below which halving the error takes a thousand times the runs


@final
@dataclass(frozen=True, eq=False)
class LearningCurve:
    """Error of a surrogate by the number of runs, and how many would be needed to halve it.

    Attributes
    ----------
    table
        A row for each output and number of runs: rmse, q2, log_score, coverage_95% and range_95%, over all folds.
    rates
        By output: exponent of the error (RMSE ~ n^-exponent), its standard error (jackknife over folds), runs_to_halve
        the error of all runs, NaN where the exponent is not clearly positive; and noise, the sd of the simulator's
        noise in a run, as the largest fits found it. No number of runs lowers that: where there is noise, exponent and
        runs_to_halve are those of what the squared error is beyond it, NaN where that is not clearly above zero.
    runs
        Number of completed runs.
    """

    table: pd.DataFrame
    rates: pd.DataFrame
    runs: int

    def __str__(self) -> str:
        lines = [f"learning curve of {self.runs} runs"]
        errors = list(zip(self.table.index, self.table["rmse"], strict=True))
        for name, rate in self.rates.to_dict("index").items():
            listed = ", ".join(f"{value:.3g} ({size} runs)" for (one, size), value in errors if one == name)
            lines.append(f"  {name}: RMSE {listed}; {_words(rate)}")
        return "\n".join(lines)


def _words(rate: Mapping[Any, Any]) -> str:
    exponent, error, needed, noise = (rate[each] for each in ("exponent", "standard_error", "runs_to_halve", "noise"))
    if np.isnan(exponent):
        if noise > 0.0:
            return (
                f"what is left is the noise of single runs (sd {noise:.3g}), which more runs do not lower; "
                "prediction.sd is the error of the simulator's mean"
            )
        return "there is no error to follow"
    fall = f"n^{-exponent:.2f} (± {error:.2f})"
    if noise > 0.0:
        beyond = f"beyond the noise of single runs (sd {noise:.3g}) it falls as {fall}: "
        if np.isfinite(needed):
            return beyond + f"about {needed:.0f} runs would halve that part of the error of all runs"
        return beyond + "too uneven or too flat to estimate how many runs would help"
    if np.isfinite(needed):
        return f"it falls as {fall}: about {needed:.0f} runs would halve the error of all runs"
    if exponent + CLEAR * error < 2.0 * FLAT:
        return (
            f"it is flat, {fall}: more runs will not help soon. Is the simulator noisy, or does the output jump? Try "
            "another quantity, another kernel or noise='fitted'"
        )
    return f"it is too uneven, {fall}, to estimate its decrease: call it again with more runs or a wider range of sizes"


@taught
@single_threaded
def learning_curve(
    settings: Settings, ensemble: xr.Dataset, sizes: Sequence[int] | None = None, *, rng: RandomState = 0
) -> LearningCurve:
    """Fit to increasing numbers of runs and predict the others, to see whether there are enough runs.

    Use it before more runs are paid for. Each quarter of the runs is predicted from nested subsets of the others, so
    every run is predicted once at each size; it costs four fits a size.

    Parameters
    ----------
    settings
        What to fit, such as `GaussianProcess()`.
    ensemble
        Completed runs are used. Runs of the same inputs stay together. Of several levels of fidelity those of the
        highest are counted, left out and predicted; all others are there at each size, but for those at inputs that are
        left out.
    sizes
        Numbers of runs to fit to, at most three quarters of all; five by default, from an eighth of the runs (at least
        those of 2 d + 2 different inputs) to three quarters. Replicates count each; as they stay together, the number
        of a fit is the nearest that whole inputs make.
    rng
        Seed or generator of the choice of runs.

    Returns
    -------
    LearningCurve
        Errors by size, the exponent of their fall, and in words whether more runs would help.

    Raises
    ------
    InputError
        When sizes are fewer than two, repeated, or more than the runs that folds leave.
    DesignError
        When a size is below what a fit needs.

    Notes
    -----
    The exponent extrapolates: it holds while the error falls as it did. For smooth functions the error falls faster
    once the runs are closer than the length scales, so the number of runs is then on the safe side.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 6.0)), 24, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": np.abs(np.sin(design["k"].values))})
    >>> curve = uq.learning_curve(uq.GaussianProcess(), runs, sizes=[6, 12, 18], rng=1)
    >>> bool(curve.table.loc[("y", 18), "rmse"] < curve.table.loc[("y", 6), "rmse"])
    True
    """
    check_settings("learning_curve", settings)
    table.check(ensemble)
    every = table.completed(ensemble)
    judged = judged_runs(settings, every)
    runs = every.isel(run=judged)
    n, d = runs.sizes["run"], len(table.input_names(runs))
    generator = as_generator(rng)
    folds = folds_of(runs, FOLDS, generator, "learning_curve")
    group = replicated(table.input_array(runs)).group
    rests = [np.setdiff1d(np.arange(n), held) for held in folds]
    orders = [generator.permutation(np.unique(group[rest])) for rest in rests]
    least = int(np.ceil((2 * d + 2) * n / (group.max(initial=0) + 1)))
    chosen = _sizes(sizes, n, least, min(len(rest) for rest in rests))
    seed = int(generator.integers(2**31))
    found = {}
    for size in chosen:
        kept = [_nearest(group, order, size) for order in orders]
        fitted = [
            settings.fit(every.isel(run=without(every, judged, held, some)))
            for held, some in zip(folds, kept, strict=True)
        ]
        found[size] = predicted(f"{size} runs", fitted, runs, folds, seed)
    columns = ["rmse", "q2", "log_score", "coverage_95%", "range_95%"]
    names = table.output_names(runs)
    rows = {(name, size): one.table.loc[name, columns] for name in names for size, one in found.items()}
    listed = pd.DataFrame(rows).T.rename_axis(["output", "runs"]).infer_objects()
    noise = {name: np.zeros(n) for name in names}
    for surrogate, held in zip(fitted, folds, strict=True):
        for name, values in _aleatory(surrogate, runs.isel(run=held)).items():
            noise[name][held] = values
    rates = {name: _rate(name, found, folds, noise[name]) for name in names}
    return LearningCurve(listed, pd.DataFrame.from_dict(rates, orient="index"), n)


def _nearest(group: Ints, order: Ints, size: int) -> Ints:
    """Return the runs of the first inputs in an order, as many as come nearest to a size."""
    ends = np.cumsum(np.bincount(group)[order])
    return np.flatnonzero(np.isin(group, order[: int(np.argmin(np.abs(ends - size))) + 1]))


def _aleatory(surrogate: Surrogate, runs: xr.Dataset) -> dict[str, Array]:
    """Return by output the variance of the simulator's noise in each run, mean over coordinates."""
    u = np.asarray(surrogate.domain.to_unit(table.input_array(runs, surrogate.domain.names)))
    if not isinstance(surrogate, GaussianProcessSurrogate) or (
        surrogate.noise is None and not surrogate.process.nugget.any()
    ):
        return {}
    at = Prediction(surrogate, u, surrogate.marginal_scores(u), np.ones(len(u), dtype=bool))
    return {str(name): one.values.reshape(len(u), -1).mean(axis=1) for name, one in at.aleatory_variance.items()}


def _sizes(sizes: Sequence[int] | None, n: int, least: int, most: int) -> list[int]:
    if sizes is None:
        least = max(n // 8, least)
        sizes = [int(size) for size in np.unique(np.geomspace(least, most, SIZES).round())] if least < most else []
    whole = all(isinstance(size, int | np.integer) and not isinstance(size, bool) for size in sizes)
    if not whole or len(set(sizes)) < 2 or len(set(sizes)) < len(sizes) or min(sizes) < 1 or max(sizes) > most:
        raise InputError(
            f"learning_curve: sizes is {list(sizes)}; give two or more different whole numbers of at most {most} of "
            f"the {n} runs, since a quarter is left out each time."
        )
    return sorted(int(size) for size in sizes)


def _rate(name: str, found: dict[int, Validation], folds: list[Ints], noise: Array) -> dict[str, float]:
    """Return the exponent over all folds, its standard error, the runs needed, and the sd of noise (n,)."""
    n, level = len(noise), float(noise.mean())
    squares = np.array(
        [((one.observed[name] - one.mean[name]) ** 2).values.reshape(n, -1).mean(axis=1) for one in found.values()]
    )
    squares -= noise
    total = squares.mean(axis=1)
    without = np.array([np.delete(squares, held, axis=1).mean(axis=1) for held in folds])
    # The mean square is known from n runs, and the noise from no more.
    chance = np.hypot(squares[-1].std(), np.sqrt(2.0) * level) / np.sqrt(n)
    if not (total > 0.0).all() or not (without > 0.0).all() or (level > 0.0 and total[-1] <= CLEAR * chance):
        return {"exponent": np.nan, "standard_error": np.nan, "runs_to_halve": np.nan, "noise": float(np.sqrt(level))}
    sizes = np.log(list(found))
    exponent = float(_exponents(sizes, np.sqrt(total)[None])[0])
    error = float(np.sqrt(len(folds) - 1) * np.std(_exponents(sizes, np.sqrt(without))))
    clear = exponent > FLAT and exponent > CLEAR * error
    return {
        "exponent": exponent,
        "standard_error": error,
        "runs_to_halve": float(np.ceil(n * 2.0 ** (1.0 / exponent))) if clear else np.nan,
        "noise": float(np.sqrt(level)),
    }


def _exponents(log_sizes: Array, rmse: Array) -> Array:
    centred = log_sizes - log_sizes.mean()
    return np.asarray(-np.log(rmse) @ centred / (centred @ centred))
