"""From an ensemble with several levels of fidelity to inputs and scores of each.

==========  =====================================================================  ===========
symbol      meaning                                                                shape
==========  =====================================================================  ===========
x[t]        inputs of the runs of level t in the unit cube                         (n_t, d)
y[t]        their scores, of the levels below the highest centred and with sd 1    (n_t, q)
below[t]    for each run of level t the one of the same inputs in t - 1, or -1     (n_t,)
==========  =====================================================================  ===========
"""

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import xarray as xr
from scipy.spatial import KDTree

from uqms import ensemble as table
from uqms._typing import Array, Ints
from uqms.errors import PACKAGE, DataError, DesignError, DesignWarning, InputError
from uqms.parameters import Box
from uqms.surrogates.gp import (
    check_bounds,
    check_range,
    check_settings,
    inputs_of,
    merge_duplicates,
    transformed,
    warn_if_constant,
)
from uqms.surrogates.outputs import Curve, OutputBasis, Scalar, fit_curves, fit_scalar
from uqms.surrogates.transforms import Identity

__all__ = ["Levels", "are_costs", "check_levels", "read_levels", "top_runs"]

_logger = logging.getLogger(__name__)
SAME = 1e-9  # of the box: inputs that are closer are the same
SPARE = 2  # runs of a level more than trend coefficients


@final
@dataclass(frozen=True, eq=False)
class Levels:
    """The runs of every level, the lowest first; see the table at the top of this file."""

    names: tuple[str, ...]
    box: Box
    x: list[Array]
    y: list[Array]
    below: list[Ints]
    bases: list[OutputBasis]
    costs: dict[str, float]
    attrs: dict[str, str]

    @property
    def nested(self) -> bool:
        """Whether every run of a level has one of the same inputs in the level below."""
        return all((one >= 0).all() for one in self.below[1:])


def check_levels(levels: object, who: str) -> None:
    """Refuse levels that are no names, or fewer than two."""
    if (
        isinstance(levels, str)
        or not isinstance(levels, Sequence)
        or len(levels) < 2
        or not all(isinstance(level, str) and level for level in levels)
        or len(set(levels)) < len(levels)
    ):
        raise InputError(
            f"{who}: levels is {levels!r}; give the names of two or more levels, the cheapest first and the one that "
            'is predicted last, such as levels=("0d", "1d").'
        )


def _level_of(ensemble: xr.Dataset, levels: Sequence[str]) -> np.ndarray:
    """Return the level of every run, after a check that there are runs of those levels and no others."""
    if "fidelity" not in ensemble.coords:
        raise DataError(
            "The ensemble lacks the level of each run: it has no coordinate 'fidelity' along run. Give it when you "
            "run (uq.run(..., fidelity='0d')) or build (uq.ensemble.build(..., fidelity='0d')), then put the levels "
            "together: uq.ensemble.combine(coarse, fine)."
        )
    of = ensemble["fidelity"].values.astype(str)
    there = sorted(set(map(str, of)))
    lacking = [level for level in levels if level not in there]
    if lacking:
        raise InputError(f"There are no runs of level {lacking[0]!r}; the ensemble has runs of {there}.")
    more = [level for level in there if level not in levels]
    if more:
        raise InputError(
            f"The ensemble has runs of level {more[0]!r} too, which levels={tuple(levels)} does not name. Name it, or "
            "leave its runs out: ensemble.isel(run=ensemble.fidelity.isin([...]))."
        )
    return of


def top_runs(ensemble: xr.Dataset, levels: Sequence[str]) -> Ints:
    """Return the positions of the runs of the highest level."""
    return np.flatnonzero(_level_of(ensemble, levels) == levels[-1])


def read_levels(
    ensemble: xr.Dataset,
    levels: Sequence[str],
    outputs: Mapping[str, Curve | Scalar],
    cost: Mapping[str, float] | None,
    linear: bool = False,
) -> Levels:
    """Return the completed runs of every level, in scores that all levels have in common.

    Raises
    ------
    InputError, DataError, DesignError
        When a level has no runs or too few (of all but the lowest, 2 more than trend coefficients: with a `linear`
        trend one per input, the constant and the factor of the level below), or an output lacks.
    """
    table.check(ensemble)
    of = _level_of(ensemble, levels)
    done = table.run_states(ensemble).values == table.RunState.COMPLETED
    for level in levels:
        if not (done & (of == level)).any():
            raise DesignError(
                f"No run of level {level!r} completed ({int((of == level).sum())} runs); a level without runs cannot "
                "be used. Look at ensemble.message, run it again, or leave the level out of levels=."
            )
    names = table.output_names(ensemble)
    check_settings(outputs, names)
    used = np.flatnonzero(done)
    check_bounds(outputs, ensemble.isel(run=used), used)
    box, _ = inputs_of(ensemble.isel(run=used))
    coefficients = 2 + linear * box.d
    runs: list[xr.Dataset] = []
    x: list[Array] = []
    for t, level in enumerate(levels):
        own = ensemble.isel(run=np.flatnonzero(done & (of == level)))
        u = np.asarray(box.to_unit(table.input_array(own, box.names)))
        try:
            own, u = merge_duplicates(own, u, box.names, False)
        except DataError as error:
            raise DataError(
                f"Runs of level {level!r} have the same inputs but different outputs, and levels are taken as "
                "deterministic. Check the table, or keep the mean of such runs."
            ) from error
        least = max(box.d + 2, 4) if t == 0 else coefficients + SPARE
        if len(u) < least:
            why = "of the lowest level d + 2" if t == 0 else f"2 more than the {coefficients} trend coefficients"
            raise DesignError(
                f"{len(u)} different completed runs of level {level!r}; at least {least} are needed ({why}). "
                "Run more points of that level."
            )
        still = [name for name, width in zip(box.names, np.ptp(u, axis=0), strict=True) if width < 1e-9]
        if still:
            warnings.warn(
                f"Inputs {still} do not vary over the runs of level {level!r}: what it adds there is unknown. Simulate "
                "other values.",
                DesignWarning,
                skip_file_prefixes=PACKAGE,
            )
        if t and len(u) > len(x[-1]):
            warnings.warn(
                f"There are {len(u)} runs of level {level!r}, more than of {levels[t - 1]!r} below it ({len(x[-1])}). "
                f"Is the order right? The cheapest level comes first, and the last one, {levels[-1]!r}, is predicted.",
                DesignWarning,
                skip_file_prefixes=PACKAGE,
            )
        runs.append(own)
        x.append(u)
    below = [np.full(len(x[0]), -1)] + [_partners(x[t], x[t - 1]) for t in range(1, len(levels))]
    together = [_partners(x[-1], one) for one in x[:-1]]
    bases, scores = [], []
    for name in names:
        basis, of_levels = _fit_output(name, runs, together, outputs.get(name))
        warn_if_constant(basis)
        bases.append(basis)
        scores.append(of_levels)
    y = [np.hstack([one[t] for one in scores]) for t in range(len(levels))]
    y = [*(_standardised(one) for one in y[:-1]), y[-1]]
    left_out = ensemble.sizes["run"] - int(done.sum())
    if left_out:
        _logger.info("%d of %d runs did not complete and are left out", left_out, ensemble.sizes["run"])
    counts = ", ".join(f"{len(u)} {level}" for level, u in zip(levels, x, strict=True))
    attrs = {key: str(ensemble.attrs[key]) for key in ("space", "simulator", "design") if key in ensemble.attrs}
    attrs |= {"runs_left_out": str(left_out), "runs": counts}
    attrs["nested"] = "yes" if all((one >= 0).all() for one in below[1:]) else "no"
    return Levels(tuple(levels), box, x, y, below, bases, _costs(runs, levels, cost), attrs)


def _partners(x: Array, lower: Array) -> Ints:
    """Return for each row the one of the level below at the same inputs, or -1."""
    distance, place = KDTree(lower).query(x, p=np.inf)
    return np.asarray(np.where(distance < SAME, place, -1), dtype=np.int64)


def _fit_output(
    name: str, runs: Sequence[xr.Dataset], together: Sequence[Ints], settings: Curve | Scalar | None
) -> tuple[OutputBasis, list[Array]]:
    """Return the basis of an output of the highest level, and the scores of every level in it."""
    layout, _ = transformed(name, runs[-1][name], settings)
    values = [transformed(name, one[name], settings)[1] for one in runs]
    for one in values:
        check_range(name, np.abs(one).max(axis=1), isinstance(layout.transform, Identity))
    if layout.dims:
        partners = [[np.array([p], dtype=np.int64)[np.array([p]) >= 0] for p in one] for one in together]
        return fit_curves(name, layout, values, partners, settings if isinstance(settings, Curve) else Curve())
    basis, scores = fit_scalar(name, layout, values[-1][:, 0])
    size = basis.basis[0, 0]
    lower = [(one - basis.offset) / size if size else np.zeros_like(one) for one in values[:-1]]
    return basis, [*lower, scores]


def _standardised(y: Array) -> Array:
    """Return scores with mean 0 and sd 1, so that priors of their scale have a meaning."""
    centred = y - y.mean(axis=0)
    sd = centred.std(axis=0)
    return np.asarray(np.where(sd > 1e-13 * np.abs(y).max(axis=0, initial=0.0), centred / np.where(sd > 0, sd, 1), 0.0))


def are_costs(cost: object, levels: Sequence[str]) -> bool:
    """Return whether it is a positive number for each level."""
    return (
        isinstance(cost, Mapping)
        and set(cost) == set(levels)
        and all(isinstance(one, int | float | np.number) and np.isfinite(one) and one > 0 for one in cost.values())
    )


def _costs(runs: Sequence[xr.Dataset], levels: Sequence[str], cost: Mapping[str, float] | None) -> dict[str, float]:
    """Return the cost of a run of each level: given, or the mean of a coordinate 'cost', or of the seconds."""
    if cost is not None:
        if not are_costs(cost, levels):
            raise InputError(f"cost is {cost!r}; give a positive number for each of {list(levels)}.")
        return {level: float(cost[level]) for level in levels}
    found = {}
    for level, one in zip(levels, runs, strict=True):
        values = one["cost"].values if "cost" in one.coords else one["seconds"].values
        values = np.asarray(values, dtype=np.float64)
        if np.isfinite(values).any() and np.nanmean(values) > 0.0:
            found[level] = float(np.nanmean(values))
    return found if len(found) == len(levels) else {}
