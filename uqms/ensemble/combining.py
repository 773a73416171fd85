"""Runs of several designs in one table."""

import numpy as np
import xarray as xr

from uqms._teaching import taught
from uqms.ensemble.building import provenance
from uqms.ensemble.filling import box_when_filled
from uqms.ensemble.table import check, get_box, get_space, input_array, input_names, listed, output_names
from uqms.errors import DataError, InputError

__all__ = ["combine", "inside"]


@taught
def combine(*ensembles: xr.Dataset) -> xr.Dataset:
    """Put the runs of several ensembles of one simulator into one table.

    Use it when runs were added to a study. Space, design box and design are those of the last ensemble, so that a
    surrogate of the runs has its box; `inside` leaves out the runs that lie outside of it.

    Parameters
    ----------
    *ensembles
        Ensembles with the same inputs, outputs, coordinates and units, the newest last.

    Returns
    -------
    xarray.Dataset
        All runs in the order given, those that did not complete too.

    Raises
    ------
    DataError
        When there is none, or one has other inputs, outputs, coordinates, units or columns than the last.

    Examples
    --------
    >>> from uqms.ensemble import build, combine
    >>> first, second = (build({"a": [k, k + 1.0]}, {"y": [k, 2.0 * k]}) for k in (1.0, 5.0))
    >>> combine(first, second)["a"].values
    array([1., 2., 5., 6.])
    """
    if not ensembles:
        raise DataError("combine: no ensemble was given.")
    for one in ensembles:
        check(one)
    last = ensembles[-1]
    for i, one in enumerate(ensembles[:-1]):
        _check_alike(one, last, i)
    order = list(last.variables)
    joined = xr.concat([one[order] for one in ensembles], "run", data_vars="all", coords="minimal", join="exact",
                       compat="override", combine_attrs="override")  # fmt: skip
    for name in last.variables:
        joined[name].attrs = dict(last[name].attrs)
    joined.attrs = {**last.attrs, **provenance()}
    if (space := get_space(joined)) is not None and "box" not in joined.attrs:
        names = input_names(joined)
        joined.attrs |= box_when_filled(space, dict(zip(names, input_array(joined, names).T, strict=True)))
    check(joined)
    return joined


def _check_alike(one: xr.Dataset, last: xr.Dataset, i: int) -> None:
    for what, names in (("inputs", input_names), ("outputs", output_names)):
        if set(names(one)) != set(names(last)):
            raise DataError(
                f"combine: ensemble {i} has the {what} {listed(names(one))}, the last one {listed(names(last))}."
            )
    if set(one.variables) != set(last.variables):
        different = sorted(str(name) for name in set(one.variables) ^ set(last.variables))
        raise DataError(
            f"combine: {listed(different)} is in one of ensemble {i} and the last, but not in both; drop it there, or "
            "add it."
        )
    for name in (*input_names(last), *output_names(last)):
        units = [str(table[name].attrs.get("unit", "")) for table in (one, last)]
        if units[0] != units[1]:
            raise DataError(f"combine: {name!r} is in {units[0]!r} in ensemble {i}, in {units[1]!r} in the last one.")
        dims = [tuple(sorted(map(str, table[name].dims))) for table in (one, last)]
        if dims[0] != dims[1]:
            raise DataError(f"combine: {name!r} has dims {dims[0]} in ensemble {i}, {dims[1]} in the last one.")
        for dim in last[name].dims:
            if dim != "run" and not np.array_equal(one[dim].values, last[dim].values):
                raise DataError(f"combine: ensemble {i} has other coordinates {dim!r} of {name!r} than the last one.")


@taught
def inside(ensemble: xr.Dataset, margin: float = 0.0) -> xr.Dataset:
    """Return the runs that lie inside of the ensemble's design box.

    Use it before fitting to the runs of several rounds: where the newest box is small, runs far outside of it would
    set the scales of the surrogate.

    Parameters
    ----------
    ensemble
        Runs of all rounds.
    margin
        By how much of its width the box is enlarged at each end, 0.1 say: runs a little outside of it tell what happens
        at its ends, where predictions are least certain. The design box itself stays as it is.

    Raises
    ------
    InputError
        When `margin` is no number of at least zero.
    DataError
        When no run lies inside.

    Examples
    --------
    >>> import uqms as uq
    >>> box = uq.Box(("a",), (0.0,), (3.0,))
    >>> inside(uq.ensemble.build({"a": [1.0, 2.0, 5.0]}, {"y": [1.0, 4.0, 25.0]}, box=box)).sizes["run"]
    2
    """
    check(ensemble)
    if not np.isfinite(margin) or margin < 0.0:
        raise InputError(f"inside: margin is {margin!r}; give a share of the box's width, 0.1 say.")
    box = get_box(ensemble)
    rows = np.flatnonzero(box.contains(input_array(ensemble, box.names), max(margin, 1e-9)))
    if not len(rows):
        raise DataError(f"inside: none of {ensemble.sizes['run']} runs lies inside of the design box.")
    return ensemble.isel(run=rows)
