"""Data of several scales: conditions on which an output does not depend, parameters that no measurement informs.

In a chain of surrogates the cell's outputs do not depend on the tissue's conditions, so that a measurement of the cell
has none of them. It is put to the experiment of another output that has the same conditions otherwise, where there is
one: the cell there is the same.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from uqms._typing import Array
from uqms.calibration.answer import OUTSIDE, OUTSIDE_FAIL
from uqms.calibration.base import MASS_CUT_LIMIT
from uqms.calibration.checks import Check, Status
from uqms.calibration.context import evenly
from uqms.calibration.observations import Observations
from uqms.errors import PACKAGE, DataError, DataWarning, ExtrapolationError
from uqms.surrogates.protocol import Surrogate, inputs_of

if TYPE_CHECKING:
    from uqms.calibration.single import SingleCalibration

__all__ = ["check_links", "check_passed_on", "warn_of_uninformed", "with_all_conditions"]

DRAWS = 512  # of the prior


def with_all_conditions(surrogate: Surrogate, observations: Observations, names: Sequence[str]) -> Observations:
    """Return observations with a number for each condition, where an output that has none does not depend on it.

    Raises
    ------
    DataError
        When it does depend on it.
    """
    outputs = [one for one in observations.outputs if one in surrogate.layouts]
    free = {one: set(names) - set(inputs_of(surrogate, one)) for one in outputs}
    nothing = np.full(len(observations), np.nan)
    columns = {name: np.array(observations.conditions.get(name, nothing)) for name in names}
    for name, column in columns.items():
        lacking = [one for one in outputs if np.isnan(column[observations.output == one]).all()]
        if wrong := [one for one in lacking if name not in free[one]]:
            if name in observations.conditions:
                raise DataError(
                    f"Observations of {wrong[0]!r} have no condition {name!r}, on which it depends. Give it a column: "
                    "Observations.from_table(..., conditions=[...])."
                )
            return observations  # the general message names all that is missing
    if not any(np.isnan(column).any() for column in columns.values()):
        return observations
    table = np.column_stack(list(columns.values()))
    whole = np.flatnonzero(~np.isnan(table).any(axis=1))
    box = surrogate.domain
    middle = box.from_unit(np.full(box.d, 0.5))[[box.names.index(name) for name in names]]
    for row in np.flatnonzero(np.isnan(table).any(axis=1)):
        table[row] = _filled(table[row], table[whole], middle)
    conditions = dict(zip(names, table.T, strict=True))
    return replace(observations, conditions={**observations.conditions, **conditions})


def _filled(row: Array, whole: Array, middle: Array) -> Array:
    known = ~np.isnan(row)
    same = np.flatnonzero((whole[:, known] == row[known]).all(axis=1))
    return np.where(known, row, whole[same[0]] if len(same) else middle)


def check_links(problem: "SingleCalibration") -> None:
    """Refuse a chain of which more than 1 % of what a link passes on lies outside of what its member was simulated for.

    Over the prior within the design box, under the observed conditions; a fixed seed: it is a check.

    Raises
    ------
    ExtrapolationError
        With the design of that member that mends it.
    """
    if problem.outside == "extrapolate":
        return
    for one in _passed_on(problem, problem.prior_draws(DRAWS, 0)):
        if one.outside > MASS_CUT_LIMIT:
            raise ExtrapolationError(
                f"{one.outside:.1%} of what is passed on as {one.target!r} lies outside of [{one.low:g}, "
                f"{one.high:g}], for which {one.member!r} was simulated; it reaches from "
                f"{np.quantile(one.values, 0.001):g} to {np.quantile(one.values, 0.999):g}. Run {one.member!r} over "
                f"what is passed on, chain.push_forward().design({one.member!r}, n), and fit it again; or narrow the "
                "prior; or pass outside='extrapolate'."
            )


def check_passed_on(problem: "SingleCalibration", theta: Mapping[str, Array]) -> Check | None:
    """Judge what links pass on at posterior draws (S,), as a draw outside of the design box; None without links."""
    picked = evenly(len(next(iter(theta.values()))), DRAWS)
    found = _passed_on(problem, {name: values[picked] for name, values in theta.items()})
    if not found:
        return None
    worst = max(found, key=lambda one: one.outside)
    status: Status = "fail" if worst.outside > OUTSIDE_FAIL else "warn" if worst.outside > OUTSIDE else "pass"
    message = (
        f"{worst.outside:.2g} of what is passed on there as {worst.target!r} lies outside of "
        f"[{worst.low:g}, {worst.high:g}], for which {worst.member!r} was simulated"
    )
    remedy = (
        f"Run {worst.member!r} over what is passed on at the posterior, "
        f"chain.push_forward(posterior.draws).design({worst.member!r}, n), fit it to all of its runs, and make the "
        "chain again. Its surrogate extrapolates there."
    )
    return Check("prior mass cut", status, worst.outside, message, remedy)


class _PassedOn(NamedTuple):
    """What a link passes on, and the range that was simulated."""

    target: str
    values: Array
    low: float
    high: float

    @property
    def member(self) -> str:
        """Name of the member that takes it."""
        return self.target.partition(".")[0]

    @property
    def outside(self) -> float:
        """Fraction outside of the range."""
        return float(np.mean((self.values < self.low) | (self.values > self.high)))


def _passed_on(problem: "SingleCalibration", theta: Mapping[str, Array]) -> list[_PassedOn]:
    """Return what each link passes on at parameters, under the observed conditions; nothing where it is no chain."""
    chain = problem.simulated
    if not hasattr(chain, "link_draws"):
        return []
    names = problem.surrogate.domain.names  # errors of links are behind the chain's inputs, where they are sampled
    u = problem.unit_inputs(theta)[..., [names.index(name) for name in chain.domain.names]]
    found = []
    for target, values in chain.link_draws(u.reshape(-1, u.shape[-1]), np.random.default_rng(0)).items():
        member, _, name = target.partition(".")
        box = chain.members[member].domain  # type: ignore[attr-defined]
        j = box.names.index(name)
        found.append(_PassedOn(target, values, box.lower[j], box.upper[j]))
    return found


def warn_of_uninformed(surrogate: Surrogate, observations: Observations, parameters: Sequence[str]) -> None:
    """Name parameters that no measured output depends on.

    Warns
    -----
    DataWarning
        The posterior of such a parameter is its prior.
    """
    informed = {name for output in observations.outputs for name in inputs_of(surrogate, output)}
    if alone := [name for name in parameters if name not in informed]:
        members = sorted({output.split(".")[0] for output in surrogate.layouts} - _members(observations))
        warnings.warn(
            f"No measured output depends on {', '.join(alone)}: the posterior of these is their prior. They belong to "
            f"{', '.join(members)}, of which nothing was measured. Measure an output there, or give "
            "fixed={name: value}.",
            DataWarning,
            skip_file_prefixes=PACKAGE,
        )


def _members(observations: Observations) -> set[str]:
    return {output.split(".")[0] for output in observations.outputs}
