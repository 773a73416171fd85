"""How the error falls with the number of runs, and so whether there are enough.

==========  ==========================================================  ==========
symbol      meaning                                                     shape
==========  ==========================================================  ==========
n           runs that a surrogate is fitted to                          ()
a           exponent of the error: RMSE ~ n^-a, least squares on logs   ()
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
from uqms._typing import Array, Ints, RandomState, as_generator
from uqms.errors import InputError
from uqms.surrogates.validation import Settings, Validation, folds_of, predicted

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
        By output: exponent of the error (RMSE ~ n^-exponent), its standard error between folds, and runs_to_halve the
        error of all runs; NaN where the exponent is not clearly positive.
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
    exponent, error, needed = rate["exponent"], rate["standard_error"], rate["runs_to_halve"]
    if np.isnan(exponent):
        return "there is no error to follow"
    fall = f"n^-{exponent:.2f} (± {error:.2f})"
    if np.isfinite(needed):
        return f"it falls as {fall}: about {needed:.0f} runs would halve the error of all runs"
    if exponent + CLEAR * error < 2.0 * FLAT:
        return (
            f"it is flat, {fall}: more runs will not help soon. Is the simulator noisy, or does the output jump? Try "
            "another quantity, another kernel or noise='fitted'"
        )
    return f"it is too uneven, {fall}, to tell how it falls: ask again with more runs or a wider range of sizes"


def learning_curve(
    settings: Settings, ensemble: xr.Dataset, sizes: Sequence[int] | None = None, *, rng: RandomState = 0
) -> LearningCurve:
    """Fit to more and more of the runs and predict those that are left out, to see whether there are enough.

    Use it before more runs are paid for. Each quarter of the runs is predicted from nested subsets of the others, so
    every run is predicted once at each size; it costs four fits a size.

    Parameters
    ----------
    settings
        What to fit, such as `GaussianProcess()`.
    ensemble
        Completed runs are used. Runs of the same inputs stay together.
    sizes
        Numbers of runs to fit to, at most three quarters of all; five by default, from an eighth of the runs (at least
        2 d + 2) to three quarters.
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
    table.check(ensemble)
    runs = table.completed(ensemble)
    n, d = runs.sizes["run"], len(table.input_names(runs))
    generator = as_generator(rng)
    folds = folds_of(runs, FOLDS, generator, "learning_curve")
    pools = [generator.permutation(np.setdiff1d(np.arange(n), held)) for held in folds]
    chosen = _sizes(sizes, n, d, min(len(pool) for pool in pools))
    seed = int(generator.integers(2**31))
    found = {size: predicted(f"{size} runs", settings, runs, [p[:size] for p in pools], folds, seed) for size in chosen}
    columns = ["rmse", "q2", "log_score", "coverage_95%", "range_95%"]
    names = table.output_names(runs)
    rows = {(name, size): one.table.loc[name, columns] for name in names for size, one in found.items()}
    listed = pd.DataFrame(rows).T.rename_axis(["output", "runs"]).infer_objects()
    rates = {name: _rate(name, found, folds, n) for name in names}
    return LearningCurve(listed, pd.DataFrame.from_dict(rates, orient="index"), n)


def _sizes(sizes: Sequence[int] | None, n: int, d: int, most: int) -> list[int]:
    if sizes is None:
        least = max(n // 8, 2 * d + 2)
        sizes = [int(size) for size in np.unique(np.geomspace(least, most, SIZES).round())] if least < most else []
    whole = all(isinstance(size, int | np.integer) and not isinstance(size, bool) for size in sizes)
    if not whole or len(set(sizes)) < 2 or len(set(sizes)) < len(sizes) or min(sizes) < 1 or max(sizes) > most:
        raise InputError(
            f"learning_curve: sizes is {list(sizes)}; give two or more different whole numbers of at most {most} of "
            f"the {n} runs, since a quarter is left out each time."
        )
    return sorted(int(size) for size in sizes)


def _rate(name: str, found: dict[int, Validation], folds: list[Ints], n: int) -> dict[str, float]:
    """Return the exponent over all folds, its standard error from those of the folds, and the runs needed."""
    squares = [((one.observed[name] - one.mean[name]) ** 2).values.reshape(n, -1) for one in found.values()]
    by_fold = np.array([[float(np.sqrt(each[held].mean())) for each in squares] for held in folds])
    total = np.array([float(np.sqrt(each.mean())) for each in squares])
    if not (by_fold > 0.0).all():
        return {"exponent": np.nan, "standard_error": np.nan, "runs_to_halve": np.nan}
    sizes = np.log(list(found))
    exponent = float(_exponents(sizes, total[None])[0])
    error = float(np.std(_exponents(sizes, by_fold), ddof=1) / np.sqrt(len(folds)))
    clear = exponent > FLAT and exponent > CLEAR * error
    return {
        "exponent": exponent,
        "standard_error": error,
        "runs_to_halve": float(np.ceil(n * 2.0 ** (1.0 / exponent))) if clear else np.nan,
    }


def _exponents(log_sizes: Array, rmse: Array) -> Array:
    centred = log_sizes - log_sizes.mean()
    return np.asarray(-np.log(rmse) @ centred / (centred @ centred))
