"""Tables of draws: mean, sd and interval of each quantity, with the digits that the number of draws supports."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from uqms import _checks as check
from uqms._typing import Array
from uqms.calibration.assembly import convergence, monte_carlo_errors
from uqms.calibration.computation import MCSE_SHARE

__all__ = ["SummaryTable", "interval_row", "summary_table", "supported"]


class SummaryTable(pd.DataFrame):
    """A pandas DataFrame that prints all its columns, and no digits that the number of draws does not support.

    The values are not rounded. Where a number's own Monte Carlo error exceeds 5 % of the sd, its last digit shown is
    worth about twice that error.
    """

    def __repr__(self) -> str:
        if "mcse" not in self.attrs:
            return "\n".join([pd.DataFrame(self).to_string(float_format=_four), *self.attrs.get("remarks", [])])
        shown = pd.DataFrame(self).astype(object)
        for name, row in self.iterrows():
            for column, value in row.items():
                if isinstance(value, float):
                    error = self.attrs["mcse"][name].get("mean" if column == "sd" else str(column), 0.0)
                    shown.loc[name, column] = supported(value, row["sd"], error)
        return "\n".join([shown.to_string(), *self.attrs.get("remarks", [])])


def _four(value: float) -> str:
    return f"{value:.4g}"


def supported(value: float, sd: float, mcse: float) -> str:
    """Return a number with the digits that a Monte Carlo error leaves."""
    if not (np.isfinite(value) and 0.0 < mcse < np.inf) or mcse <= MCSE_SHARE * sd:
        return _four(value)
    decimals = int(np.round(-np.log10(2.0 * mcse)))
    return f"{round(value, decimals):.{max(decimals, 0)}f}"


def interval_row(values: Array, prob: float) -> dict[str, Any]:
    """Return mean, sd and equal-tailed interval of draws."""
    tail = 0.5 * (1.0 - prob)
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return {
        "mean": float(values.mean()),
        "sd": float(values.std(ddof=1)),
        f"{100 * tail:g}%": float(low),
        f"{100 * (1 - tail):g}%": float(high),
    }


def summary_table(draws: xr.Dataset, prob: float) -> SummaryTable:
    """Return the table of draws in chains: `interval_row`, MCSE of the mean, R-hat, effective sample sizes, unit.

    ``table.attrs["mcse"]`` has the Monte Carlo standard errors of the mean and of both limits, by quantity.
    """
    check.probability("summary", "prob", prob)
    r_hat, bulk, tails = convergence(draws)
    errors = monte_carlo_errors(draws, prob)
    rows, known = {}, {}
    for key, values in draws.data_vars.items():
        name = str(key)
        row = interval_row(values.values.ravel(), prob)
        known[name] = dict(zip([one for one in row if one != "sd"], errors[name], strict=True))
        rows[name] = row | {
            "mcse_mean": known[name]["mean"],
            "r_hat": r_hat[name],
            "ess_bulk": bulk[name],
            "ess_tail": tails[name],
            "unit": values.attrs.get("unit", ""),
        }
    table = SummaryTable(pd.DataFrame.from_dict(rows, orient="index"))
    table.attrs["mcse"] = known
    return table
