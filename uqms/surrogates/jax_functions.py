"""JAX, imported when a function of the user's is written in it, and made to compute in float64.

The global flag is never touched: float64 holds within a context, which belongs to the thread. What is float32 all the
same (a constant that was made outside, a cast) is found in the text of the traced function.
"""

import re
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from uqms.errors import InputError

__all__ = ["in_double", "is_double", "jax_for"]

NARROW = re.compile(r"\b(f32|f16|bf16|c64)\[")  # types in the text of a traced function


def jax_for(what: str) -> Any:
    """Return the module `jax`.

    Raises
    ------
    InputError
        When it is not installed.
    """
    try:
        import jax
    except ImportError as error:
        raise InputError(f"{what} needs JAX, which is not installed: pip install 'uqms[jax]'.") from error
    return jax


def in_double(jax: Any) -> AbstractContextManager[Any]:
    """Return the context in which JAX computes in float64."""
    found = jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64(True)
    return found  # type: ignore[no-any-return]


def is_double(traced: Any) -> bool:
    """Return whether everything in a traced function, and what it returns, is float64."""
    return not NARROW.search(str(traced)) and all(one.dtype == np.float64 for one in traced.out_avals)
