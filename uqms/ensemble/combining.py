"""Combine the runs of several designs into one ensemble, and select the runs inside of a design box."""

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
    """Combine the runs of several ensembles of one simulator into one ensemble.

    Use it when runs were added to a study. The parameter space, the design box and the design are those of the last
    ensemble. A surrogate of all runs then has the box of the last ensemble. `inside` removes the runs outside of it.

    Parameters
    ----------
    *ensembles
        Ensembles with the same inputs, outputs, coordinates and units. Pass the newest ensemble last.

    Returns
    -------
    xarray.Dataset
        All runs in the order of the arguments, including runs that did not complete.

    Raises
    ------
    DataError
        When no ensemble is given, or the inputs, outputs, coordinates, units or columns of an ensemble are not those of
        the last ensemble.

    Examples
    --------
    >>> from uqms.ensemble import build, combine
    >>> first, second = (build({"a": [k, k + 1.0]}, {"y": [k, 2.0 * k]}) for k in (1.0, 5.0))
    >>> combine(first, second)["a"].values
    array([1., 2., 5., 6.])
    """
    if not ensembles:
        raise DataError("combine: no ensemble was given; pass one or more, uq.ensemble.combine(first, second).")
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
                f"combine: ensemble {i} has the {what} {listed(names(one))}, but the last ensemble has "
                f"{listed(names(last))}; give ensembles of the same simulator."
            )
    if set(one.variables) != set(last.variables):
        different = sorted(str(name) for name in set(one.variables) ^ set(last.variables))
        raise DataError(
            f"combine: only one of ensemble {i} and the last ensemble has {listed(different)}. Remove it with "
            f"ensemble.drop_vars({different[0]!r}), or add it to the other ensemble."
        )
    for name in (*input_names(last), *output_names(last)):
        units = [str(table[name].attrs.get("unit", "")) for table in (one, last)]
        if units[0] != units[1]:
            raise DataError(
                f"combine: {name!r} has the unit {units[0]!r} in ensemble {i} but {units[1]!r} in the last ensemble; "
                "convert the numbers of one of them, and correct its attrs['unit']."
            )
        dims = [tuple(sorted(map(str, table[name].dims))) for table in (one, last)]
        if dims[0] != dims[1]:
            raise DataError(
                f"combine: {name!r} has dims {dims[0]} in ensemble {i} but {dims[1]} in the last ensemble; rename the "
                "dims, or give ensembles of the same simulator."
            )
        for dim in last[name].dims:
            if dim != "run" and not np.array_equal(one[dim].values, last[dim].values):
                raise DataError(
                    f"combine: the coordinates {dim!r} of {name!r} differ between ensemble {i} and the last ensemble; "
                    "select or interpolate the same coordinates in both."
                )


@taught
def inside(ensemble: xr.Dataset, margin: float = 0.0) -> xr.Dataset:
    """Return the runs whose inputs lie inside of the ensemble's design box.

    Use it before a surrogate is fitted to the runs of several rounds. When the newest box is small, runs far outside of
    it would determine the length scales of the surrogate.

    Parameters
    ----------
    ensemble
        Runs of all rounds.
    margin
        Fraction of its width by which the box is enlarged at each end, for example 0.1. Predictions are least certain
        at the ends of the box, and runs a little outside of it make them more certain. The design box itself does not
        change.

    Raises
    ------
    InputError
        When `margin` is not a number of at least zero.
    DataError
        When no run lies inside of the box.

    Examples
    --------
    >>> import uqms as uq
    >>> box = uq.Box(("a",), (0.0,), (3.0,))
    >>> inside(uq.ensemble.build({"a": [1.0, 2.0, 5.0]}, {"y": [1.0, 4.0, 25.0]}, box=box)).sizes["run"]
    2
    """
    check(ensemble)
    if not np.isfinite(margin) or margin < 0.0:
        raise InputError(
            f"inside: margin is {margin!r}; give a fraction of the box's width that is not negative, such as 0.1."
        )
    box = get_box(ensemble)
    rows = np.flatnonzero(box.contains(input_array(ensemble, box.names), max(margin, 1e-9)))
    if not len(rows):
        raise DataError(
            f"inside: none of the {ensemble.sizes['run']} runs lies inside of the design box; enlarge it with margin=, "
            "or print it: uq.ensemble.get_box(ensemble)."
        )
    return ensemble.isel(run=rows)
