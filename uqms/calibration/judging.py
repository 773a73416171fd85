"""The verdict on a posterior: one list of checks for one subject, several parts and a population.

Checks of the computation come first, then those of the model and its surrogates, then those of the answer, and last
those that want runs of the simulator. Each takes a `Context` and says by itself when it does not apply, by returning
nothing: without runs, those that want them do.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from uqms.calibration import answer, prior_conflict, simulator_runs, verdict
from uqms.calibration.base import Problem
from uqms.calibration.checks import Check, Sampled, Verdict
from uqms.calibration.computation import computation
from uqms.calibration.context import CheckFunction, Context
from uqms.calibration.population import subject_checks as population

__all__ = ["CHECKS", "OF_A_SURROGATE", "OF_RUNS", "judge", "verdict_of"]

OF_A_SURROGATE: tuple[Callable[[Context, int], Check | Sequence[Check] | None], ...] = (
    verdict.validation,
    verdict.residuals,
    verdict.misfit,
    verdict.first_order_expansion,
    verdict.truncation,
    verdict.edge,
    population.edge_of_subjects,
    verdict.prior_mass,
    verdict.failed_runs,
)


def each_surrogate(context: Context) -> list[Check]:
    """Judge every surrogate with its data; of several, the checks are named after their parts."""
    found: list[Check] = []
    for i, piece in enumerate(context.pieces):
        name = f" ({piece.name})" if piece.name else ""
        for function in OF_A_SURROGATE:
            made = function(context, i) or ()
            checks = (made,) if isinstance(made, Check) else made
            found += [replace(check, name=check.name + name) for check in checks]
    return found


OF_RUNS: tuple[CheckFunction, ...] = (
    simulator_runs.completed,
    simulator_runs.errors,
    simulator_runs.effect,
    simulator_runs.weights,
)

CHECKS: tuple[CheckFunction, ...] = (
    computation,
    verdict.other_modes,
    verdict.surrogate_error,
    verdict.size_of_error,
    population.surrogate_error,
    population.joint_error,
    each_surrogate,
    population.subjects,
    answer.prior_dominated,
    population.prior_dominated,
    answer.confounded,
    answer.end_of_a_prior,
    population.end_of_a_prior,
    answer.prior_sensitivity,
    prior_conflict.prior_against_data,
    prior_conflict.prior_predictions,
    answer.discrepancy,
    *OF_RUNS,
)


def verdict_of(context: Context, checks: Sequence[CheckFunction] = CHECKS) -> Verdict:
    """Return the verdict of checks on a context: the one way in which a verdict is made.

    Where no draw is finite, the computation alone is judged.
    """
    made = checks if context.finite.any() else (computation,)
    return Verdict(tuple(check for function in made for check in function(context)))


def judge(problem: Problem, sampled: Sampled) -> tuple[Verdict, xr.Dataset]:
    """Return the verdict, and the fraction of each judged quantity's variance that is due to the surrogate's error."""
    context, names = Context(problem, sampled), problem.parameters
    verdict = verdict_of(context)
    share = context.linear.share if context.finite.any() else np.full(len(names), np.nan)
    return verdict, xr.Dataset({name: ((), float(np.asarray(value))) for name, value in zip(names, share, strict=True)})
