"""The verdict on a posterior: one list of checks for one subject, several parts and a population.

Checks of the computation come first, then those of the model and its surrogates, then those of the answer. Each takes a
`Context` and says by itself when it does not apply, by returning nothing.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import xarray as xr

from uqms.calibration import answer, verdict
from uqms.calibration.base import Problem
from uqms.calibration.checks import Check, Sampled, Verdict
from uqms.calibration.computation import computation
from uqms.calibration.context import CheckFunction, Context
from uqms.calibration.population import verdict as population

__all__ = ["CHECKS", "judge"]

OF_A_SURROGATE: tuple[Callable[[Context, int], Check | None], ...] = (
    verdict.validation,
    verdict.residuals,
    verdict.misfit,
    verdict.first_order_expansion,
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
        checks = (check(context, i) for check in OF_A_SURROGATE)
        found += [replace(check, name=check.name + name) for check in checks if check is not None]
    return found


CHECKS: tuple[CheckFunction, ...] = (
    computation,
    verdict.other_modes,
    verdict.surrogate_error,
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
    answer.discrepancy,
)


def judge(problem: Problem, sampled: Sampled) -> tuple[Verdict, xr.Dataset]:
    """Return the verdict, and the share of the surrogate's error in every quantity that is judged."""
    context = Context(problem, sampled)
    names = problem.parameters
    if not context.finite.any():
        return Verdict(tuple(computation(context))), xr.Dataset({name: ((), float("nan")) for name in names})
    checks = tuple(check for function in CHECKS for check in function(context))
    shares = zip(names, context.linear.share, strict=True)
    return Verdict(checks), xr.Dataset({name: ((), float(np.asarray(value))) for name, value in shares})
