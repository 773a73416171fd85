"""Check that rows of inputs and outputs belong together by their labels, and that no mask is lost."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from uqms.errors import DataError

__all__ = ["check_labels", "refuse_masks", "reordered", "with_mask"]


def check_labels(inputs: object, others: Iterable[tuple[str, object]], n: int) -> None:
    """Raise a DataError unless all variables have the same labels of the n runs, since rows are paired by position.

    Arrays and lists have no labels, and agree with any labels. When the inputs have no labels, labels of the outputs
    that are the row numbers in a different order are an error.
    """
    columns = isinstance(inputs, Mapping) and not isinstance(inputs, xr.Dataset)
    known: pd.Index = pd.RangeIndex(n)
    source = ""
    for i, group in enumerate((inputs.items() if columns else [("inputs", inputs)], others)):  # type: ignore[attr-defined]
        for name, values in group:
            labels = _labels(values)
            if labels is None or len(labels) != n:  # a wrong number of rows raises a different error later
                continue
            if not labels.equals(known) if source else i and reordered(labels, known):
                _refuse(name, labels, repr(source) if source else "the inputs, whose rows are only numbered", known)
            if not source:
                known, source = labels, name


def _refuse(name: str, labels: pd.Index, source: str, known: pd.Index) -> None:
    row = next((i for i, (a, b) in enumerate(zip(labels, known, strict=True)) if a != b), 0)
    raise DataError(
        f"row {row} has the label {labels[row]} in {name!r} but {known[row]} in {source}. Sort the rows into the same "
        "order, for example by .loc[labels]; or give plain arrays, .to_numpy(), if the rows match already."
    )


def _labels(values: object) -> pd.Index | None:
    if isinstance(values, tuple) and len(values) == 3:  # a curve
        values = values[1]
    if isinstance(values, pd.Series | pd.DataFrame):
        return values.index
    if isinstance(values, xr.DataArray | xr.Dataset):
        return values.indexes.get("run")
    return None


def reordered(labels: pd.Index, wanted: pd.Index) -> bool:
    """Return whether two indices have the same labels in a different order."""
    return len(labels) == len(wanted) and not labels.equals(wanted) and set(labels) == set(wanted)


def with_mask(values: object) -> NDArray[np.generic]:
    """Return `values` as an array, masked where `values` or an element of the list `values` is masked."""
    return np.ma.array(values) if _has_mask(values) else np.asarray(values)


def refuse_masks(values: object, name: str) -> None:
    """Raise a DataError that names the first index at which `values` is masked."""
    masked = np.argwhere(np.ma.getmaskarray(np.ma.array(values))) if _has_mask(values) else np.empty(0)
    if masked.size:
        raise DataError(
            f"{name!r} is masked at index {masked[0].tolist()}; give a value there, since none of its values may be "
            "missing."
        )


def _has_mask(values: object) -> bool:
    if isinstance(values, list | tuple):
        return any(isinstance(value, np.ma.MaskedArray) for value in values)
    return isinstance(values, np.ma.MaskedArray)
