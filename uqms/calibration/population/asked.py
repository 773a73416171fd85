"""What a prediction of a population is asked for: outputs and conditions."""

from collections.abc import Mapping, Sequence

import numpy as np

from uqms._typing import Array
from uqms.calibration.data_model import DataModel
from uqms.calibration.likelihood import check_conditions
from uqms.errors import InputError

__all__ = ["asked_conditions", "chosen_outputs"]


def chosen_outputs(
    model: DataModel, outputs: str | Sequence[str] | None, coords: Mapping[str, object] | None
) -> tuple[str, ...]:
    """Return the outputs to predict.

    Raises
    ------
    InputError
        Unknown outputs, or coordinates that are not theirs.
    """
    layouts = model.surrogate.layouts
    given = (outputs,) if isinstance(outputs, str) else outputs
    names = model.noise.outputs if given is None else tuple(given)
    unknown = [name for name in names if name not in layouts]
    if unknown:
        raise InputError(f"predict: unknown outputs {unknown}; the surrogate has {list(layouts)}.")
    if coords is not None and given is None:
        names = tuple(name for name in names if set(layouts[name].dims) == set(coords))
    wrong = {
        name: list(layouts[name].dims)
        for name in names
        if coords is not None and set(layouts[name].dims) != set(coords)
    }
    if wrong or not names:
        raise InputError(
            f"predict: coords are given for {sorted(coords or {})}, but the outputs have dims {wrong or layouts}."
        )
    return names


def asked_conditions(model: DataModel, given: Mapping[str, object], count: int) -> Array:
    """Return the conditions (count, conditions) of a prediction, given by name.

    Raises
    ------
    InputError
        When one is missing or unknown, or has another shape.
    """
    names = model.condition_names
    if set(given) != set(names):
        raise InputError(
            f"predict: got conditions {sorted(given)}, the surrogate has {list(names)}. Give each of them."
        )
    arrays = [np.asarray(given[name], dtype=np.float64) for name in names]
    if any(array.ndim > 1 or array.size not in (1, count) for array in arrays):
        raise InputError(f"predict: give each condition a number, or one for each of {count} subjects.")
    columns = (
        np.column_stack([np.broadcast_to(array.ravel(), count) for array in arrays]) if names else np.zeros((count, 0))
    )
    check_conditions(model.surrogate, names, columns)
    return columns
