"""Checks of a posterior against runs of the simulator at its draws; without runs they are left out.

==========  ====================================================================  ===========
symbol      meaning                                                               shape
==========  ====================================================================  ===========
theta       posterior draws that were run, each at all observed conditions        (D,)
r           log p(z | theta, simulator) - log p(z | theta, surrogate)             (D,)
z           draws of one quantity, less their mean, in their sds                  (D,)
==========  ====================================================================  ===========

With the simulator in the surrogate's place the mean of a quantity moves by E[z r] sds and its sd becomes
exp(E[z^2 (r - E[r])] / 2) times as large, both to first order in r; with weights both are those of the weighted draws.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
import xarray as xr

from uqms import ensemble as table
from uqms._typing import Array
from uqms.calibration.checks import Check
from uqms.calibration.reweighting import K_HAT
from uqms.surrogates import Validation

if TYPE_CHECKING:
    from uqms.calibration.context import Context

__all__ = ["K_HAT", "SimulatorRuns", "completed", "effect", "errors", "weights"]

LEAST_DRAWS = 100
HARMLESS = 0.1  # sd of r below which no posterior mean moves by more than so many sds
FAILED = 0.2  # of the runs: more leave a part of the posterior out
MOST_POINTS = 240  # of the estimate of how many more runs are needed
SPREAD = 1.0  # sd of r: above it the surrogate's error decides the answer
CLEAR = 3.0  # standard errors of a shift, of a population
SHIFT, SCALE = 0.25, 0.2  # of the mean in sds, and relative, of an sd: what is not a pass


@final
@dataclass(frozen=True, eq=False)
class SimulatorRuns:
    """Runs of the simulator at draws of a posterior, and the surrogate's errors at them.

    Attributes
    ----------
    ensemble
        The runs, those that did not complete among them.
    errors
        Of the surrogate, at those that completed.
    outputs
        The observed ones.
    theta
        The draws that were run at every condition, by name (D,).
    ratio
        r of these draws; NaN where it is not known.
    k_hat, weights
        Tail index of the weights, and weights that sum to one; None where they are not to be used.
    more
        About how many more runs it takes until weights can be used; None when that is too many, or not known.
    unknown
        Why r is not known, "" where it is.
    subjects
        Those with data, of a population: r is the sum of what each adds; 0 of one subject.
    """

    ensemble: xr.Dataset
    errors: Validation
    outputs: tuple[str, ...]
    theta: Mapping[str, Array]
    ratio: Array
    k_hat: float
    weights: Array | None
    more: int | None
    unknown: str = ""
    subjects: int = 0

    @property
    def spread(self) -> float:
        """Standard deviation of r between draws."""
        return float(self.ratio.std(ddof=1)) if len(self.ratio) > 1 else float("nan")


def completed(context: "Context") -> list[Check]:
    """Judge how many of the runs completed."""
    return [] if context.runs is None else [_check_completed(context.runs.ensemble)]


def _check_completed(ensemble: xr.Dataset) -> Check:
    total = ensemble.sizes["run"]
    lost = np.flatnonzero(table.run_states(ensemble).values != table.RunState.COMPLETED)
    failed = len(lost)
    if not failed:
        return Check("runs", "pass", 0.0, f"all {total} completed")
    first = int(lost[0])
    words = str(ensemble["message"].values[first]) if "message" in ensemble else ""
    share = failed / total
    message = f"{failed} of {total} did not complete (first run {first}{': ' if words else ''}{words}) and are left out"
    remedy = (
        "See uq.ensemble.failures(ensemble); run them again, or restrict the prior to where the simulator runs. The "
        "posterior reaches into a region where the simulator fails and nothing is verified."
    )
    return Check("runs", "warn" if share <= FAILED else "fail", share, message, remedy)


def errors(context: "Context") -> list[Check]:
    """Judge the surrogate's errors at the runs, of each observed output."""
    runs = context.runs
    if runs is None:
        return []
    rows = {name: _row(runs.errors, name) for name in runs.outputs}
    return [_check_errors(name, row, runs.spread) for name, row in rows.items()]


def _row(errors: Validation, name: str) -> dict[str, Any]:
    return {str(column): errors.table.at[name, column] for column in errors.table.columns}


def _understated(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return in words which statistics are larger than those of a correct surrogate."""
    words = []
    for level in ("50%", "95%"):
        least, covered = row[f"range_{level}"][0], row[f"coverage_{level}"]
        if covered < least:
            words.append(f"{level} intervals cover {covered:.0%}, expected {least:.0%} or more")
    for column, name in (("mahalanobis", "D²/m is"), ("largest_pivoted", "the largest pivoted error is")):
        most = row[f"range_{column}"][1]
        if row[column] > most:
            words.append(f"{name} {row[column]:.2f}, expected at most {most:.2f}")
    return tuple(words)


def _check_errors(name: str, row: Mapping[str, Any], spread: float) -> Check:
    words, value = _understated(row), float(row["mahalanobis"])
    least, most = row["range_mahalanobis"]
    title = f"errors of {name}"
    if words:
        message = "larger than stated: " + "; ".join(words)
        if spread < HARMLESS:
            remedy = (
                "Do not use the surrogate where its own error matters. For this posterior the errors are too small "
                f"against the noise to move it ({spread:.2g} sd at most)."
            )
            return Check(title, "warn", value, message, remedy)
        remedy = (
            "Fit again with these runs, settings.fit(uq.ensemble.combine(runs, ensemble)), then calibrate and verify "
            "again. If you have done that already, use another kernel."
        )
        return Check(title, "fail", value, message, remedy)
    if value < least:
        times = 1.0 / math.sqrt(max(value, 1e-12))
        message = (
            f"smaller than stated: D²/m is {value:.2f}, expected at least {least:.2f}; the stated error is about "
            f"{times:{'.2g' if times < 99.5 else '.0f'}} times the actual one"
        )
        remedy = (
            "Call uq.correct(posterior, runs) to scale the error for predictions, whose intervals are too wide where "
            f"the surrogate's error dominates. The posterior of the simulator is the same ({spread:.2g} sd at most)."
            if spread < HARMLESS
            else "Call uq.correct(posterior, runs), which scales the error to that of these runs; or narrow the box "
            "(uq.refine(posterior, n)), fit and calibrate again. Intervals are too wide, and an inferred noise sd is "
            "too small."
        )
        return Check(title, "warn", value, message, remedy)
    low, high = row["range_95%"]
    message = (
        f"as large as stated: D²/m {value:.2f} (expected {least:.2f} to {most:.2f}), 95 % intervals cover "
        f"{row['coverage_95%']:.0%} (expected {low:.0%} to {high:.0%})"
    )
    return Check(title, "pass", value, message)


def effect(context: "Context") -> list[Check]:
    """Judge how far the posterior moves with the simulator in the surrogate's place."""
    return [] if context.runs is None else [_check_effect(context.runs)]


def _check_effect(runs: SimulatorRuns) -> Check:
    name, ratio, spread, weights = "effect on the posterior", runs.ratio, runs.spread, runs.weights
    if runs.unknown:
        remedy = "See the checks of the errors at these runs; how far the errors move the posterior is not known."
        return Check(name, "note", float("nan"), f"not judged: {runs.unknown}", remedy)
    if len(ratio) < 3:
        return Check(
            name, "warn", float("nan"), f"not judged: {len(ratio)} draws ran at all conditions", "Run more draws."
        )
    difference = f"the log-likelihood difference of simulator and surrogate has an sd of {spread:.2g} between draws"
    if runs.subjects:
        return _of_population(runs, difference)
    if weights is None and not spread <= SPREAD:
        message = f"{difference}, limit {SPREAD:g}: the posterior of the simulator differs from this one"
        remedy = (
            "Fit with these runs and more near the posterior (uq.refine(posterior, n)). The surrogate's error, not the "
            "measurement error, limits the precision."
        )
        return Check(name, "warn", spread, message, remedy)
    moved = {key: _moved(values, ratio, weights) for key, values in runs.theta.items()}
    furthest = max(moved, key=lambda key: abs(moved[key].shift))
    scaled = max(moved, key=lambda key: abs(moved[key].scale - 1.0))
    shift, scale = moved[furthest].shift, moved[scaled].scale
    message = (
        f"{difference}, limit {SPREAD:g}; the mean of {furthest} moves by about {shift:+.2f} ± "
        f"{moved[furthest].error:.2f} sd, limit {SHIFT:g}; the sd of {scaled} becomes {scale:.2f} times as large, "
        f"limits {1.0 - SCALE:g} and {1.0 + SCALE:g}"
    )
    if spread <= SPREAD and abs(shift) <= SHIFT and abs(scale - 1.0) <= SCALE:
        return Check(name, "pass", shift, message)
    instead = (
        "Report verification.summary(), the simulator's own means and sds from these runs"
        if (weights is not None)
        else "Call uq.correct(posterior, runs), which calibrates again with these runs"
    )
    remedy = (
        f"{instead}; or refine (uq.refine(posterior, n)) and calibrate again. Do not report this posterior as the "
        "simulator's."
    )
    return Check(name, "warn", shift, message, remedy)


def _of_population(runs: SimulatorRuns, difference: str) -> Check:
    """Judge a population: r is a sum over subjects, of which little moves what describes the population.

    So moves count when they are beyond the error of few draws too, and the sd of r is that of a subject.
    """
    name, each = "effect on the posterior", runs.spread / math.sqrt(runs.subjects)
    moved = {key: _moved(values, runs.ratio, runs.weights) for key, values in runs.theta.items()}
    furthest = max(moved, key=lambda key: abs(moved[key].shift))
    shift, error = moved[furthest].shift, moved[furthest].error
    message = (
        f"{difference}, {each:.2g} per subject, limit {SPREAD:g}; the mean of {furthest} moves by about {shift:+.2f} ± "
        f"{error:.2f} sd, limits {SHIFT:g} and {CLEAR:g} times its error"
    )
    if each <= SPREAD and not any(abs(one.shift) > max(SHIFT, CLEAR * one.error) for one in moved.values()):
        return Check(name, "pass", shift, message)
    remedy = (
        "Fit with these runs, refine (uq.refine(posterior, n)) and calibrate again. Do not report this posterior as "
        "the simulator's."
    )
    return Check(name, "warn", shift, message, remedy)


class _Moved(NamedTuple):
    """How a quantity changes: of the mean in sds, the standard error of that, and the ratio of the sds."""

    shift: float
    error: float
    scale: float


def _moved(values: Array, ratio: Array, weights: Array | None) -> _Moved:
    """Return how the mean moves and the sd changes: by weights, or to first order in r."""
    count = len(values)
    z = (values - values.mean()) / (float(values.std(ddof=1)) or 1.0)
    terms = z * (count * weights - 1.0 if weights is not None else ratio - ratio.mean())
    shift = float(terms.mean())
    if weights is not None:
        scale = math.sqrt(float(weights @ (z - float(weights @ z)) ** 2) / (float(np.mean(z**2)) or 1.0))
    else:
        scale = math.exp(0.5 * float(np.mean(z**2 * (ratio - ratio.mean()))))
    return _Moved(shift, float(terms.std(ddof=1)) / math.sqrt(count), scale)


def weights(context: "Context") -> list[Check]:
    """Judge whether weights make the draws those of the simulator's posterior."""
    return [] if context.runs is None else [_check_weights(context.runs)]


def _check_weights(runs: SimulatorRuns) -> Check:
    count, k_hat, weights, more = len(runs.ratio), runs.k_hat, runs.weights, runs.more
    if runs.subjects and weights is None and not runs.unknown:
        return Check(
            "weights",
            "pass",
            float("nan"),
            "none: a draw holds the parameters of all subjects, too many for importance weights",
        )
    if runs.unknown:
        remedy = "Fit again with these runs and calibrate again; draws cannot be reweighted."
        return Check("weights", "note", float("nan"), f"none: {runs.unknown}", remedy)
    if weights is not None:
        effective = 1.0 / float(np.sum(weights**2))
        even = "" if k_hat < K_HAT else " unless weights are nearly equal, as here"
        message = f"k-hat {k_hat:.2f}, limit {K_HAT}{even}: effective sample size {effective:.0f} of {count} draws"
        return Check("weights", "pass", k_hat, message)
    if count < LEAST_DRAWS:
        message = f"none from {count} draws: at least {LEAST_DRAWS} are required, {more} more"
        return Check("weights", "pass", float("nan"), message)
    about = f"more than {MOST_POINTS}" if more is None else f"about {more}"
    told = "Fit again with these runs"
    told += "" if more == 0 else f" and with {about} more where the posterior is (uq.refine)"
    message = f"none: k-hat {k_hat:.2f}, limit {K_HAT}"
    remedy = (
        f"{told}, calibrate, and verify with new draws. The posterior of the simulator is not known yet; this one is "
        "valid only if the surrogate's stated errors are."
    )
    return Check("weights", "warn", k_hat, message, remedy)
