"""Whether prior and data agree: of every quantity that has a prior, and of the measurements against prior predictions.

==========  ===================================================================  ===========
symbol      meaning                                                              shape
==========  ===================================================================  ===========
s           normal score of a quantity: the standard normal quantile of its      (S,)
            level in its own prior, whole, wherever the design box ends
m, v        mean and variance of s, of the prior (m0, v0) and of the posterior   ()
==========  ===================================================================  ===========

Under the prior, posterior means of s have the variance v0 - E[v]: so (m - m0) / sqrt(v0 - v) is standard normal when
problem and posterior are linear and normal on this scale, for each quantity alone. v0 - v is taken as v0 / 2 at least,
since v depends on the data where they tell little. Where a prior ends with a density that is not zero it has no tail: a
noise that is much smaller than its half-normal prior's scale contradicts nothing.

Tail probabilities of measurements see `tails`. The smallest of n counts n times.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import ndtr

from uqms._typing import Array
from uqms.calibration.answer import ends_of
from uqms.calibration.base import Problem
from uqms.calibration.checks import Check, Status
from uqms.calibration.conditioned import scores
from uqms.calibration.tails import FAIL, WARN, power_of_ten, two_sided

if TYPE_CHECKING:
    from uqms.calibration.context import Context

__all__ = ["prior_against_data", "prior_predictions"]

LEAST_CONTRACTION = 0.5
PRIOR_DRAWS = 4000
FARTHEST = 37.0  # normal score up to which levels are no denormal numbers
LEAST_DRAWS = 100
SURE = 2  # powers of ten: from a factor of 100 on a measurement that the prior does not predict is a failure


def _status(p: float) -> Status:
    return "fail" if p < FAIL else "warn" if p < WARN else "pass"


# -------------------------------------------------------------------------------------------------- of every quantity
class _Conflict(NamedTuple):
    """A quantity, how many of its prior's sds data put it from the centre, and the probability of more."""

    name: str
    away: float
    p: float


def prior_against_data(context: "Context") -> list[Check]:
    """Judge whether data put a quantity into a tail of its own prior: parameters, noise, discrepancy, omegas."""
    problem, theta = context.problem, context.sampled.theta
    names = [name for name in problem.priors if name not in problem.auxiliary and name in theta]
    joint = problem.conditioned_prior
    before = problem.prior_draws(PRIOR_DRAWS, 0) if joint.constraints or joint.success is not None else None
    if before is not None and any(part.outside == "refined" for part in problem.named_parts.values()):
        message = "not judged: with constraints and a refined box the prior of a single quantity is not known"
        return [Check("prior against data", "pass", float("nan"), message)]
    found = []
    for name in names:
        low, high = ends_of(problem.priors[name], problem.limits(name))
        if low and high:  # a flat prior has no tails; its ends are judged by themselves
            continue
        centre, spread = 0.0, 1.0
        if before is not None:  # under constraints a quantity is not as its own prior says
            at = _normal_scores(problem, name, before[name])
            centre, spread = float(at.mean()), float(at.var())
        at = _normal_scores(problem, name, theta[name])
        left = max(spread - float(at.var()), LEAST_CONTRACTION * spread)
        away = (float(at.mean()) - centre) / math.sqrt(left)
        sides = int(not low) + int(not high)
        one_sided = ndtr(-abs(away)) if not (low if away < 0 else high) else 1.0
        found.append(_Conflict(name, away, min(1.0, sides * float(one_sided))))
    name = "prior against data"
    if not found:
        return [Check(name, "pass", float("nan"), "not judged: no prior has a tail")]
    worst = min(found, key=lambda one: one.p)
    p = min(1.0, len(found) * worst.p)
    if p >= WARN:
        return [
            Check(name, "pass", p, f"p = {p:.2g} for {worst.name}, the smallest of {len(found)} priors; limit {WARN:g}")
        ]
    prior, unit = problem.priors[worst.name], problem.unit_of(worst.name)
    unit = f" {unit}" if unit else ""
    least, most = (float(prior.quantile(level)) for level in (0.025, 0.975))
    message = (
        f"the data place {worst.name} {abs(worst.away):.1f} sds {'above' if worst.away > 0 else 'below'} the centre "
        f"of its prior, p = {p:.2g}, limit {WARN:g}: its posterior median is "
        f"{float(np.median(theta[worst.name])):.3g}{unit}, the central 95 % of its prior are {least:.3g} to "
        f"{most:.3g}{unit}"
    )
    return [Check(name, _status(p), p, message, _remedy(problem, worst))]


def _remedy(problem: Problem, conflict: _Conflict) -> str:
    if conflict.name in problem.parameters:
        return (
            f"Check units, then widen the prior of {conflict.name} if more extreme values are possible, run a design "
            "over it and calibrate again. Otherwise look for what the model lacks. Prior and data disagree, and the "
            "posterior lies between them."
        )
    return (
        f"Give {conflict.name} a prior with a scale of the size that the data show, such as a wider HalfNormal or a "
        "HalfCauchy, or look for what the model lacks: a discrepancy, outliers, units. The data contradict the prior "
        f"of {conflict.name}, which changes the intervals of the parameters too."
    )


def _normal_scores(problem: Problem, name: str, values: Array) -> Array:
    """Return the normal scores of draws in a quantity's own prior: the whole of it, wherever the design box ends."""
    prior = problem.priors[name]
    return np.clip(scores(prior.cdf(values), prior.sf(values)), -FARTHEST, FARTHEST)


# ---------------------------------------------------------------------------------------------------- of measurements
class _Rows(NamedTuple):
    """Measurements of one output that no limit cuts off: values (n,), draws (S, n), and where they are."""

    label: str
    values: Array
    draws: Array
    places: list[str]


def prior_predictions(context: "Context") -> list[Check]:
    """Judge whether each measurement is one that the prior foresees, and name a likely error of units."""
    draws = context.sampled.predicted
    if draws is None:
        return []
    rows = [one for one in _by_output(context.problem, draws) if len(one.draws) >= LEAST_DRAWS]
    name, count = "prior predictions", sum(len(one.values) for one in rows)
    if not count:
        return [Check(name, "pass", float("nan"), "not judged: too few simulated measurements are finite")]
    levels = [two_sided(one.draws, one.values) for one in rows]
    at = min(range(len(rows)), key=lambda i: float(levels[i].min()))
    worst, place = rows[at], int(np.argmin(levels[at]))
    p = min(1.0, count * float(levels[at][place]))
    if p >= WARN:
        return [Check(name, "pass", p, f"p = {p:.2g}, the smallest of {count} measurements, limit {WARN:g}")]
    message = (
        f"the prior does not predict the measurement {worst.values[place]:.4g} of {worst.label}{worst.places[place]} "
        f"(predicted median {float(np.median(worst.draws[:, place])):.4g}), p = {p:.2g}, limit {WARN:g}"
    )
    remedy = (
        "Check units and scale, then widen the prior if more extreme values are possible, run a design over it and "
        "calibrate again."
    )
    factor, status = power_of_ten(worst.draws, worst.values), _status(p)
    if factor:
        times = 10.0**factor
        message += f"; measurements of {worst.label} are about {times:g} times the prediction"
        remedy = (
            "Compare the unit of the measurements with that of the simulator's output, and convert one: a factor of "
            f"{times:g} is a likely error of units. {remedy}"
        )
        status = "fail" if abs(factor) >= SURE else status
    return [Check(name, status, p, message, remedy)]


def _by_output(problem: Problem, draws: Array) -> Iterator[_Rows]:
    start = 0
    for part, one in problem.named_parts.items():
        table = one.observations
        of_part = draws[:, start : start + len(table)]
        start += len(table)
        inside = np.ones(len(table), dtype=bool) if table.censored is None else np.asarray(table.censored) == ""
        outputs = table.output.astype(np.str_)
        for output in dict.fromkeys(outputs.tolist()):
            rows = np.flatnonzero(inside & (outputs == output))
            own = of_part[:, rows]
            columns = {**table.coords, **table.conditions}
            yield _Rows(
                f"{output!r}" + (f" of part {part!r}" if part else ""),
                table.value[rows],
                own[np.isfinite(own).all(axis=1)],
                [_place(columns, int(row)) for row in rows],
            )


def _place(columns: "dict[str, Array]", row: int) -> str:
    words = [f"{name} = {column[row]:g}" for name, column in columns.items() if not np.isnan(column[row])]
    return f" at ({', '.join(words)})" if words else ""
