"""Array shapes in types, checked while all tests run (`make test-all`), with pytest's option `--jaxtyping-packages`.

The option names `shapes.check`.

Only functions with a shape in their annotations, such as ``x: Float[np.ndarray, "n d"]``, are checked. Public functions
have none: they take what users have, check it themselves, and their errors are what tests want to see. All others are
left as they are: a wrapper around each takes up to half of the time of tests that call small functions often.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jaxtyping
import numba
from beartype import beartype
from jaxtyping import AbstractArray


def has_shape(function: Callable[..., object]) -> bool:
    """Whether an argument or the result of a function has a shape in its annotation."""
    hints = getattr(function, "__annotations__", {}).values()
    return any(isinstance(hint, type) and issubclass(hint, AbstractArray) for hint in hints)


def check[F: Callable[..., object]](function: F) -> F:
    """Check arguments and result of a function that has a shape in its annotations."""
    return beartype(function) if has_shape(function) else function


_jaxtyped = jaxtyping.jaxtyped


def _jaxtyped_where_there_is_a_shape(**options: Any) -> Any:
    """Decorate what has a shape in its types, of classes in those of `__init__`."""

    def decorate(what: Any) -> Any:
        return _jaxtyped(what, **options) if has_shape(what.__init__ if inspect.isclass(what) else what) else what

    return decorate


_njit, _cfunc = numba.njit, numba.cfunc


def _njit_of_the_bare_function(*args: Any, **options: Any) -> Any:
    """Compile what the checks have wrapped: numba cannot compile the wrapper."""
    if args and inspect.isfunction(args[0]):
        return _njit(inspect.unwrap(args[0]), *args[1:], **options)
    decorate = _njit(*args, **options)
    return lambda function: decorate(inspect.unwrap(function))


def _cfunc_of_the_bare_function(*args: Any, **options: Any) -> Any:
    """Do the same for C functions."""
    decorate = _cfunc(*args, **options)
    return lambda function: decorate(inspect.unwrap(function))


# This module is imported by the first function of uqms that is defined, before any kernel.
jaxtyping.jaxtyped = _jaxtyped_where_there_is_a_shape
numba.njit, numba.cfunc = _njit_of_the_bare_function, _cfunc_of_the_bare_function
