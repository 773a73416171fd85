"""Shape-annotated aliases. Rows are runs: ``x (n, d)``, ``y (n, m)``; ``q`` scores; ``k`` experiments."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Array", "ArrayLike", "Bools", "Ints", "Named", "RandomState", "ScaleName", "as_generator"]

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Named = Mapping[str, ArrayLike]
ScaleName = Literal["identity", "log", "logit"]
RandomState = int | np.random.Generator


def as_generator(rng: RandomState | None) -> np.random.Generator:
    """Return `rng` itself when it is a generator, else a new one seeded with it (fresh entropy for None).

    Raises
    ------
    InputError
        When `rng` is a negative number or not a whole number.
    """
    from uqms.errors import InputError

    if isinstance(rng, np.random.Generator):
        return rng
    if rng is not None and (isinstance(rng, bool) or not isinstance(rng, int | np.integer) or rng < 0):
        raise InputError(f"rng is {rng!r}; give a whole number >= 0 or a numpy.random.Generator.")
    return np.random.default_rng(rng)
