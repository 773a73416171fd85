"""Indices that are kept as draws: their intervals, the parts of their errors, and what a whole curve is.

Datasets have the leading dims "draw" (functions of the surrogate) and "bootstrap" (of the Monte Carlo points).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from uqms._typing import Array, Bools
from uqms.errors import InputError
from uqms.surrogates import Surrogate

__all__ = [
    "along",
    "check_room",
    "checked_points",
    "flattened",
    "interval_of",
    "is_flat",
    "only_indices",
    "parts_of",
    "wanted_groups",
    "wanted_outputs",
]

LEAD = ("draw", "bootstrap")
FLAT = 1e-26  # times the square of its size: less of a variance is rounding


def only_indices(one: xr.Dataset) -> xr.Dataset:
    """Return the variables of a Dataset that are shares of the variance."""
    return one[[str(key) for key in one.data_vars if str(key).startswith("S")]]


def interval_of(one: xr.Dataset, prob: float) -> xr.Dataset:
    """Return the mean over the draws and equal-tailed ends along a new dim "bound": estimate, lower, upper."""
    ends = one.quantile([0.5 - 0.5 * prob, 0.5 + 0.5 * prob], dim=LEAD, skipna=False).rename(quantile="bound")
    middle = one.mean(LEAD, skipna=False).expand_dims(bound=["estimate"])
    return xr.concat([middle, ends.assign_coords(bound=["lower", "upper"])], dim="bound")


def parts_of(one: xr.Dataset) -> xr.Dataset:
    """Return the sds of the surrogate's and of the Monte Carlo error along a new dim "source"."""
    between = one.mean("bootstrap", skipna=False).std("draw", ddof=1, skipna=False)
    within: xr.Dataset = one.var("bootstrap", ddof=1, skipna=False).mean("draw", skipna=False) ** 0.5
    return xr.concat([between, within], dim="source").assign_coords(source=["surrogate", "monte_carlo"])


def is_flat(variance: Array, size: Array) -> Bools:
    """Return where a variance is rounding beside the size (of the mean) of what varies."""
    return np.asarray(variance <= FLAT * size**2)


def flattened(variance: Array, size: Array) -> Array:
    """Return the variance, zero where it is rounding."""
    return np.where(is_flat(variance, size), 0.0, variance)


def along(dims: Sequence[str], coords: Mapping[str, ArrayLike]) -> Array:
    """Return the weights (m,) that integrate along all coordinates of a curve or field: trapezoidal rule, sum 1.

    Coordinates that are no numbers, or all the same, count alike.
    """
    total = np.ones(())
    for dim in dims:
        values = np.asarray(coords[dim])
        each = np.ones(len(values))
        if len(values) > 1 and values.dtype.kind in "biuf" and np.ptp(values) > 0.0:
            grid = values.astype(np.float64)
            order = np.argsort(grid)
            gaps = np.diff(grid[order])
            each[order] = 0.5 * (np.append(gaps, 0.0) + np.append(0.0, gaps))
        total = np.multiply.outer(total, each / each.sum())
    return total.ravel()


def wanted_outputs(surrogate: Surrogate, outputs: Sequence[str] | None, who: str) -> list[str]:
    """Return the outputs that were asked for, all by default.

    Raises
    ------
    InputError
        When one is unknown or named twice, or it is no sequence.
    """
    known = list(surrogate.layouts)
    if isinstance(outputs, str):
        raise InputError(f"{who}: outputs is {outputs!r}; give a sequence, [{outputs!r}].")
    wanted = known if outputs is None else [str(name) for name in outputs]
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted or len(set(wanted)) < len(wanted):
        raise InputError(f"{who}: outputs is {wanted}; give some of {known}, each once.")
    return wanted


def wanted_groups(names: tuple[str, ...], groups: Mapping[str, Sequence[str]] | None, who: str) -> dict[str, list[str]]:
    """Return the groups of inputs, those given first and then each other input by itself.

    Raises
    ------
    InputError
        When groups overlap, name what does not vary, are empty, or bear the name of another input.
    """
    if groups is None:
        return {name: [name] for name in names}
    if not isinstance(groups, Mapping) or any(isinstance(value, str) for value in groups.values()):
        raise InputError(f"{who}: groups is {groups!r}; give a mapping of name to inputs, {{'heart': ['HR', 'Emax']}}.")
    given = {str(name): [str(one) for one in group] for name, group in groups.items()}
    members = [name for group in given.values() for name in group]
    wrong = {
        "which do not vary": sorted(set(members) - set(names)),
        "more than once": sorted({name for name in members if members.count(name) > 1}),
    }
    said = [f"{', '.join(found)} {what}" for what, found in wrong.items() if found]
    said += [f"nothing in {name!r}" for name, group in given.items() if not group]
    if said:
        raise InputError(f"{who}: groups hold {'; '.join(said)}. The inputs that vary are {', '.join(names)}.")
    rest = {name: [name] for name in names if name not in members}
    clash = sorted(set(rest) & set(given))
    if clash:
        raise InputError(f"{who}: {', '.join(clash)} names a group and an input outside of it; rename the group.")
    return {**given, **rest}


def checked_points(points: object, least: int, who: str) -> int:
    """Return a number of points that a Sobol sequence can have.

    Raises
    ------
    InputError
        When it is no power of two of at least `least`.
    """
    if (
        isinstance(points, bool)
        or not isinstance(points, int | np.integer)
        or points < least
        or int(points) & (int(points) - 1)
    ):
        raise InputError(f"{who}: points is {points!r}; give a power of two of at least {least}.")
    return int(points)


def check_room(surrogate: Surrogate, names: Sequence[str], each: int, most: int, who: str) -> None:
    """Refuse results that would not fit into memory: `each` numbers at every coordinate of the outputs.

    Raises
    ------
    InputError
        When there are more than `most` numbers.
    """
    count = sum(math.prod(surrogate.layouts[name].shape) for name in names)
    if each * count > most:
        raise InputError(
            f"{who}: the indices at {count} coordinates would be {each * count:.1e} numbers, {8e-9 * each * count:.0f} "
            "GB; lower draws= or bootstrap=, choose outputs=, or fit fewer coordinates: ensemble.isel(t=slice(0, None, "
            "10))."
        )
