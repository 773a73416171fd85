"""Several posteriors of the same data side by side: predictive accuracy and evidence."""

import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd

from uqms._teaching import taught
from uqms.calibration.capabilities import refuse
from uqms.calibration.posterior import Posterior
from uqms.calibration.summary import SummaryTable
from uqms.errors import InputError

__all__ = ["compare_models"]


@taught
def compare_models(posteriors: Mapping[str, Posterior]) -> SummaryTable:
    """Return a table of models of the same observations, the one that predicts best first.

    Use `elpd` and `weight` to predict, `log_evidence` to ask which model the data speak for; the latter depends on how
    wide the priors are, and is there for posteriors of `SMC` (roughly, of `Laplace`).

    Parameters
    ----------
    posteriors
        Name → posterior.

    Returns
    -------
    SummaryTable
        By model: `elpd`, expected log predictive density of a left-out observation by PSIS-LOO, summed, with `se`; `p`,
        effective number of parameters; `elpd_diff` to the best with its standard error `dse`; `weight` of stacking;
        `warning` when k-hats say that LOO cannot be trusted; `log_evidence` with its `mcse`, and `bayes_factor` against
        the first model of the table, NaN where there is no evidence.

    Raises
    ------
    InputError
        When there are fewer than two posteriors, or their observations differ.

    References
    ----------
    Vehtari, Gelman & Gabry (2017), doi:10.1007/s11222-016-9696-4; Yao et al. (2018), doi:10.1214/17-BA1091.
    """
    import arviz_stats

    if not isinstance(posteriors, Mapping) or len(posteriors) < 2:
        raise InputError("compare_models: give at least two posteriors, {'name': posterior, ...}.")
    strange = [name for name, one in posteriors.items() if not isinstance(one, Posterior)]
    if strange:
        raise InputError(
            f"compare_models: {strange} are no posteriors of one subject; give what Calibration.sample returned."
        )
    for one in posteriors.values():
        refuse(one.problem, "compare_models")
    first, *others = posteriors
    data = {name: _data(one) for name, one in posteriors.items()}
    differ = [name for name in others if data[name] != data[first]]
    if differ:
        raise InputError(
            f"compare_models: the observations of {differ} are not those of {first!r}. Scores of different data "
            "cannot be compared; calibrate every model to the same observations, in the same order."
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Pareto k.*|.*shape parameter.*")  # the column `warning` says it
        table = arviz_stats.compare({name: one.tree for name, one in posteriors.items()}, round_to="none")
    evidence = {name: _evidence(one) for name, one in posteriors.items()}
    out = pd.DataFrame(index=table.index)
    for column in ("elpd", "se", "p", "elpd_diff", "dse", "weight"):
        out[column] = table[column].astype(float)
    out["warning"] = table["diag_elpd"].astype(str)
    out["log_evidence"] = [evidence[name][0] for name in out.index]
    out["mcse"] = [evidence[name][1] for name in out.index]
    out["bayes_factor"] = np.exp(out["log_evidence"] - out["log_evidence"].iloc[0])
    return SummaryTable(out)


def _data(posterior: Posterior) -> tuple[str, ...]:
    outputs = posterior.tree["observed_data"]["output"].values
    return (str(posterior.tree.attrs["data_sha256"]), *map(str, outputs))


def _evidence(posterior: Posterior) -> tuple[float, float]:
    if "log_marginal_likelihood" not in posterior.tree["sample_stats"].dataset:
        return float("nan"), float("nan")
    value, mcse = posterior.log_evidence
    return value, mcse
