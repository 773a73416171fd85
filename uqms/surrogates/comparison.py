"""Which settings of a surrogate suit the runs: left-out log scores side by side.

==========  ======================================================================  ==========
symbol      meaning                                                                 shape
==========  ======================================================================  ==========
l           log density of an output of a left-out run, mean over its coordinates   (n, outputs)
s           its mean over the runs; of all outputs, the mean of their sum           ()
D           s less that of the best settings, run by run                            (n,)
==========  ======================================================================  ==========
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

import numpy as np
import pandas as pd
import xarray as xr

from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array
from uqms.errors import InputError
from uqms.surrogates.gp import GaussianProcess, GaussianProcessSurrogate
from uqms.surrogates.left_out_density import left_out_logs

__all__ = ["Comparison", "compare_surrogates"]

ENOUGH = 100  # runs below which the standard error of a difference says little


@final
@dataclass(frozen=True, eq=False)
class Comparison:
    """Surrogates of the same runs, the best first.

    Attributes
    ----------
    table
        By settings: log_score (mean over runs of the sum over outputs, nats), difference (to the best, zero or below)
        with its standard error over runs, and seconds of the fit.
    by_output
        By settings and output: log_score, difference (to the settings that are best over all outputs), standard_error
        and rmse in the output's own unit.
    surrogates
        The fitted surrogates by the name of their settings, in the order of the table.
    runs
        Number of runs.
    """

    table: pd.DataFrame
    by_output: pd.DataFrame
    surrogates: Mapping[str, GaussianProcessSurrogate]
    runs: int

    @property
    def best(self) -> GaussianProcessSurrogate:
        """The surrogate with the highest log score."""
        return next(iter(self.surrogates.values()))

    @property
    def close(self) -> tuple[str, ...]:
        """Settings whose log score is within two standard errors of the best: the runs do not distinguish them."""
        rows = self.table.iloc[1:]
        return tuple(map(str, rows.index[-rows["difference"] <= 2.0 * rows["standard_error"]]))

    def __str__(self) -> str:
        lines = [
            f"leave-one-out log score of {self.runs} runs (nats per run, higher is better)",
            self.table.to_string(),
        ]
        lines.append(self.by_output.to_string())
        if self.close:
            lines.append(
                f"{', '.join(self.close)}: within two standard errors of {self.table.index[0]}; take the simplest."
            )
        if self.runs < ENOUGH:
            lines.append(
                f"With fewer than {ENOUGH} runs the standard errors are too small: trust large differences only."
            )
        return "\n".join(lines)


@taught
@single_threaded
def compare_surrogates(settings: Mapping[str, GaussianProcess], ensemble: xr.Dataset) -> Comparison:
    """Fit several settings to the same runs and compare how well each predicts the runs that it leaves out.

    Use it to choose a kernel, a trend or the settings of outputs, among a few that make sense. The score is the log
    density of each run given the others, in closed form, in the outputs' own units; of an output with coordinates it
    is their mean, and coordinates that are the same in every run have none. Hyperparameters stay as found with all
    runs, which flatters settings with many of them.

    Do not use it with few runs (below about 10 an input, or 100 in all), where differences are mostly chance; nor to
    pick the best of dozens, whose score is then too good by selection. Where the difference is within two standard
    errors keep the simplest, and validate what you chose with `leave_one_out` or runs of their own.

    Parameters
    ----------
    settings
        `GaussianProcess` settings by a name of your choice, at least two.
    ensemble
        Dataset with dim "run".

    Returns
    -------
    Comparison
        The tables and the fitted surrogates, the best first.

    Raises
    ------
    InputError
        When there are fewer than two settings, they keep different runs, or a run lacks an output.

    References
    ----------
    Sundararajan & Keerthi (2001), Predictive approaches for choosing hyperparameters in Gaussian processes,
    doi:10.1162/08997660151134343; Sivula et al. (2020), Uncertainty in Bayesian leave-one-out cross-validation based
    model comparison, doi:10.48550/arXiv.2008.10296.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 16, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": np.sin(design["k"].values)})
    >>> settings = {"smooth": uq.GaussianProcess(kernel=uq.SquaredExponential()), "default": uq.GaussianProcess()}
    >>> compared = compare_surrogates(settings, runs)
    >>> compared.table.index[0]
    'smooth'
    """
    if not isinstance(settings, Mapping) or len(settings) < 2:
        raise InputError(
            "compare_surrogates: give a mapping of at least two names to settings, such as "
            "{'Matérn': GaussianProcess(), 'smooth': GaussianProcess(kernel=SquaredExponential())}."
        )
    for name, one in settings.items():
        if not isinstance(one, GaussianProcess):
            raise InputError(f"compare_surrogates: {name!r} is {one!r}; give GaussianProcess(...), not fitted yet.")
    fitted, seconds = {}, {}
    for name, one in settings.items():
        start = time.perf_counter()
        fitted[str(name)] = one.fit(ensemble)
        seconds[str(name)] = time.perf_counter() - start
    inputs = _inputs(next(iter(fitted.values())))
    for name, surrogate in fitted.items():
        if surrogate.runs != len(inputs) or not np.allclose(_inputs(surrogate), inputs, rtol=1e-9, atol=0.0):
            raise InputError(
                f"compare_surrogates: {name!r} keeps {surrogate.runs} runs and {next(iter(fitted))!r} {len(inputs)}: "
                "noise='fitted' keeps runs of the same inputs, any other noise merges them. Compare "
                "settings of one kind of noise."
            )
    for name, surrogate in fitted.items():
        if not all(len(surrogate.whole(output)) == len(inputs) for output in surrogate.layouts):
            raise InputError(
                f"compare_surrogates: {name!r} was fitted to runs that lack an output, of which nothing can be "
                "compared; give uqms.ensemble.completed(ensemble)."
            )
    logs, rmse = {}, {}
    for name, surrogate in fitted.items():
        logs[name], rmse[name] = left_out_logs(surrogate)
    order = sorted(fitted, key=lambda name: -logs[name].sum())
    best, outputs = logs[order[0]], tuple(fitted[order[0]].layouts)
    rows = {name: _row(logs[name].sum(axis=1), best.sum(axis=1)) | {"seconds": seconds[name]} for name in order}
    each = {
        (name, output): _row(logs[name][:, i], best[:, i]) | {"rmse": float(rmse[name][i])}
        for name in order
        for i, output in enumerate(outputs)
    }
    by_output = pd.DataFrame.from_dict(each, orient="index")
    by_output.index = pd.MultiIndex.from_tuples(list(each), names=["settings", "output"])
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("settings")
    return Comparison(table, by_output, MappingProxyType({name: fitted[name] for name in order}), len(inputs))


def _row(scores: Array, best: Array) -> dict[str, float]:
    difference = scores - best
    return {
        "log_score": float(scores.mean()),
        "difference": float(difference.mean()),
        "standard_error": float(difference.std(ddof=1) / np.sqrt(len(difference))),
    }


def _inputs(surrogate: GaussianProcessSurrogate) -> Array:
    """Return the runs' inputs (n, d) in their own units."""
    return np.asarray(surrogate.domain.from_unit(surrogate.process.x))
