"""JAX, imported when a function of the user's is written in it, and made to compute in float64.

The global flag is never touched: float64 holds within a context, which belongs to the thread. What is float32 all the
same (a constant that was made outside, a cast) is found in the text of the traced function. JAX has threads of its own,
which a forked process does not have: it would wait for them forever, so that it gets an error.
"""

import os
import re
from contextlib import AbstractContextManager
from typing import Any, final

import numpy as np

from uqms.errors import InputError

__all__ = ["JaxInDouble", "is_double"]

NARROW = re.compile(r"\b(f32|f16|bf16|c64)\[")  # types in the text of a traced function


@final
class JaxInDouble:
    """The module `jax`, and the contexts in which it traces and runs functions in float64.

    Parameters
    ----------
    what
        What needs JAX, as the subject of a sentence.

    Raises
    ------
    InputError
        When JAX is not installed.
    """

    def __init__(self, what: str) -> None:
        try:
            import jax
        except ImportError as error:
            raise InputError(f"{what} needs JAX, which is not installed: pip install 'uqms[jax]'.") from error
        self.jax: Any = jax
        self._what, self._process = what, 0

    def tracing(self) -> AbstractContextManager[Any]:
        """Return the context in which functions are traced and nothing runs."""
        jax = self.jax
        found = jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64(True)
        return found  # type: ignore[no-any-return]

    def running(self) -> AbstractContextManager[Any]:
        """Return the context in which functions run.

        Raises
        ------
        InputError
            In a process that was forked after they ran.
        """
        process = os.getpid()
        if self._process not in (0, process):
            raise InputError(
                f"{self._what} ran in JAX before this process was forked, and JAX deadlocks in forked processes. Start "
                'workers with multiprocessing.get_context("spawn"), and PyMC\'s own sampler with '
                'pm.sample(mp_ctx="spawn") or cores=1.'
            )
        self._process = process
        return self.tracing()


def is_double(traced: Any) -> bool:
    """Return whether everything in a traced function, and what it returns, is float64."""
    return not NARROW.search(str(traced)) and all(one.dtype == np.float64 for one in traced.out_avals)
