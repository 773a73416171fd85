"""How random effects go along with covariates, those of the model and others.

==========  ===================================================================  =====
symbol      meaning                                                              shape
==========  ===================================================================  =====
J           measured subjects                                                    ()
m, v        posterior mean and variance of a subject's effect                    (J,)
omega²      variance between subjects                                            ()
r           1 - v / omega²: information in the subject's own data                (J,)
c           a covariate                                                          (J,)
==========  ===================================================================  =====

The information of a subject's own data on its effect is the posterior's less the population's: the number m / r
with variance v / r. Its differences to a straight line in c have the variance v / r + omega² = omega² / r, so the line
is a least-squares fit with weights r. A line through the posterior means themselves would be too flat: shrinkage.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t as student

from uqms import _checks as check
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array
from uqms.calibration import Posterior
from uqms.calibration.population.hierarchy import Hierarchy
from uqms.calibration.posterior import hierarchy_of
from uqms.errors import DataError, InputError

__all__ = ["Trend", "covariate_columns", "covariate_trends", "own_trend"]

LEAST = 1e-3  # of r, for subjects of whom the data say nothing


class Trend(NamedTuple):
    """A straight line through the effects on a covariate, with what is unknown about it."""

    level: float  # at the weighted mean
    middle: float  # the weighted mean of the covariate
    slope: float
    level_sd: float
    slope_sd: float
    freedom: int

    def slope_interval(self, prob: float) -> tuple[float, float]:
        """Return the ends of the slope's interval."""
        half = float(student.ppf(0.5 * (1.0 + prob), self.freedom)) * self.slope_sd
        return self.slope - half, self.slope + half

    def band(self, c: Array, prob: float) -> tuple[Array, Array, Array]:
        """Return the line and the ends of its pointwise interval at covariates (n,)."""
        line = self.level + self.slope * (c - self.middle)
        half = student.ppf(0.5 * (1.0 + prob), self.freedom) * np.hypot(
            self.level_sd, self.slope_sd * (c - self.middle)
        )
        return line, line - half, line + half


def own_trend(mean: Array, variance: Array, omega2: float, covariate: Array) -> Trend:
    """Return the line through effects with posterior mean and variance (J,), whose prior variance is omega²."""
    r = np.clip(1.0 - variance / omega2, LEAST, 1.0)
    middle = float(np.average(covariate, weights=r))
    deviation, own = covariate - middle, mean / r
    squares = float(np.sum(r * deviation**2))
    slope = float(np.sum(r * deviation * own)) / squares
    level = float(np.average(own, weights=r))
    return Trend(
        level, middle, slope, float(np.sqrt(omega2 / r.sum())), float(np.sqrt(omega2 / squares)), len(mean) - 2
    )


@taught
@single_threaded
def covariate_trends(
    posterior: Posterior,
    subjects: pd.DataFrame | None = None,
    *,
    covariates: Sequence[str] | None = None,
    prob: float = 0.95,
) -> pd.DataFrame:
    """Return the slope of each parameter's random effects along covariates, with an interval.

    Use it to find covariates that belong into the model, and then put them there: of a covariate in the model the
    slope is the posterior of its effect. Of others it is a straight line through what each subject's own data imply for
    its effect, which undoes shrinkage; it counts the spread between subjects as known. Of many covariates that are
    looked at, some intervals leave out zero by chance.

    Parameters
    ----------
    posterior
        Of a population.
    subjects
        Table with one row per subject, as `Calibration` takes it, for covariates that are not in the model.
    covariates
        Columns to look at; all by default.
    prob
        Of the equal-tailed intervals.

    Returns
    -------
    pandas.DataFrame
        By parameter and covariate: whether it is in the model, slope on the natural scale (of log(CL) by kg, say), its
        sd and interval. For a covariate in the model the slope is that along its expression, such as log(weight / 70).

    Raises
    ------
    InputError
        When it is no posterior of a population, columns are missing or there are none, fewer than 4 subjects have data.
    DataError
        Covariates that are not numbers, or the same for all subjects.

    References
    ----------
    Savic & Karlsson (2009), doi:10.1208/s12248-009-9133-0, on what shrinkage does to such lines.
    """
    check.probability("covariate_trends", "prob", prob)
    hierarchy = hierarchy_of(posterior, "covariate_trends")
    table = covariate_columns(hierarchy, subjects, covariates, "covariate_trends")
    there = hierarchy.problem.subjects.measured
    population = hierarchy.problem.population
    rows: dict[tuple[str, str], tuple[bool, float, float, float, float]] = {}
    tail = 0.5 * (1.0 - prob)
    ends = f"{100 * tail:g}%", f"{100 * (1 - tail):g}%"
    for name in population.individual:
        inside = {one.expression.names: one for one in population.effects if one.parameter == name}
        for one in inside.values():
            if not set(one.expression.names) <= set(table.columns):
                continue
            known = population.known.get(one.name)
            draws = posterior.draws[one.name].values.ravel() if known is None else np.full(2, known)
            low, high = np.quantile(draws, [tail, 1.0 - tail])
            rows[name, one.expression.text] = (
                True,
                float(draws.mean()),
                float(draws.std(ddof=1)),
                float(low),
                float(high),
            )
        mean, variance, omega2 = hierarchy.moments(name)
        for column in table.columns:
            if (column,) in inside:
                continue
            trend = own_trend(mean, variance, omega2, table[column].to_numpy()[there])
            rows[name, column] = (False, trend.slope, trend.slope_sd, *trend.slope_interval(prob))
    columns = ["in the model", "slope", "sd", *ends]
    out = pd.DataFrame([dict(zip(columns, row, strict=True)) for row in rows.values()], columns=columns)
    return out.set_axis(pd.MultiIndex.from_tuples(rows, names=["parameter", "covariate"]), axis=0)


def covariate_columns(
    hierarchy: Hierarchy, subjects: pd.DataFrame | None, covariates: Sequence[str] | None, who: str
) -> pd.DataFrame:
    """Return the numeric covariates to look at, one row per subject in the order of the posterior's subjects."""
    known = hierarchy.problem.subjects
    if int(known.measured.sum()) < 4:
        raise InputError(f"{who}: {int(known.measured.sum())} subjects have data; a trend needs at least 4.")
    table = known.table
    if subjects is not None:
        if not isinstance(subjects, pd.DataFrame):
            raise InputError(f"{who}: subjects is a {type(subjects).__name__}; give a pandas DataFrame.")
        more = subjects.set_axis(subjects.index.astype(str), axis=0)
        lost = [label for label in known.labels if label not in more.index]
        if lost or more.index.has_duplicates:
            raise InputError(
                f"{who}: subjects has no row for {lost[:5]} ({len(lost)}), or one twice; give one row per subject."
            )
        more = more.loc[list(known.labels)]
        table = pd.concat([table, more[[one for one in more.columns if one not in table.columns]]], axis=1)
    if isinstance(covariates, str):
        raise InputError(f"{who}: covariates is {covariates!r}; give a sequence, [{covariates!r}].")
    wanted = list(table.columns) if covariates is None else list(covariates)
    unknown = [one for one in wanted if one not in table.columns]
    if unknown or not wanted:
        raise InputError(
            f"{who}: covariates is {wanted}; there are {list(table.columns)}. Give a table with more columns as "
            "subjects=, one row per subject."
        )
    out = {}
    for one in wanted:
        column = pd.to_numeric(table[one], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        if not np.isfinite(column).all():
            raise DataError(
                f"{who}: covariate {one!r} has values that are no numbers, such as "
                f"{table[one].iloc[int(np.argmin(np.isfinite(column)))]!r}. Code categories as 0 and 1, or choose with "
                "covariates=[...]."
            )
        if np.ptp(column[known.measured]) == 0.0:
            raise DataError(f"{who}: covariate {one!r} is the same for all subjects; choose with covariates=[...].")
        out[str(one)] = column
    return pd.DataFrame(out, index=list(known.labels))
