"""Python code that compiled code calls, and the errors that it raises there: the sampler's threads lose them.

Operations without compiled code run in Python. In a thread of nutpie an exception becomes a number, and its text and
traceback are gone: the point counts as a divergence. In Python's own threads ctypes turns it into a SystemError. So
every such operation in a graph is replaced by one that keeps the first error (`UserErrors.watched`), and the sampler
raises that (`UserErrors.raised`).
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import numpy as np
from pytensor.graph import Apply, Op
from pytensor.graph.traversal import toposort
from pytensor.link.numba.dispatch import numba_funcify
from pytensor.link.numba.dispatch.basic import (
    generate_fallback_impl,
    numba_funcify_and_cache_key,
    numba_funcify_default_op_cache_key,
)
from pytensor.tensor.blockwise import Blockwise

from uqms.errors import SimulatorFailed, UqmsError

__all__ = ["UserErrors", "in_python"]

_REGISTRIES = (numba_funcify, numba_funcify_default_op_cache_key, numba_funcify_and_cache_key)


def in_python(op: Any, node: Any = None, **options: Any) -> Any:
    """Evaluate in Python from compiled code, without the warning: these operations are meant to run there."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Numba will use object mode")
        return generate_fallback_impl(op, node, **options)


@final
class UserErrors:
    """The first error of Python code that compiled code called.

    A point may have no density: numerical errors, numbers that are not finite, and whatever happens at inputs that are
    not finite are left to the sampler. Everything else is an error of the code.
    """

    def __init__(self) -> None:
        self.first: Exception | None = None
        self._sampling = False

    def call(self, function: Callable[..., Any], node: Any, inputs: Any, outputs: Any) -> None:
        """Evaluate an operation; after an error the sampler evaluates nothing any more, so that it ends soon."""
        if self._sampling and self.first is not None:
            raise _Stopped
        try:
            function(node, inputs, outputs)
        except Exception as error:
            if _is_of_the_code(error) and all(np.isfinite(one).all() for one in inputs):
                self.first = error
            raise

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Raise the first error that was kept since, with its own traceback, whatever else it led to."""
        self.first, self._sampling = None, True
        try:
            yield
        except Exception:
            self._raise()
            raise
        finally:
            self._sampling = False
        self._raise()

    def of_call(self, error: SystemError) -> None:
        """Raise what Python code raised that compiled code called in this thread, unless it is the sampler's."""
        cause = error.__cause__
        if cause is None:
            raise error
        if isinstance(cause, Exception) and cause is self.first:
            raise cause from cause.__cause__
        if not isinstance(cause, Exception):  # such as an interrupt
            raise cause

    def _raise(self) -> None:
        if self.first is not None:
            raise self.first from self.first.__cause__

    def watched(self, outputs: Sequence[Any]) -> list[Any]:
        """Return expressions in which operations that run in Python keep their errors here."""
        new: dict[Any, Any] = {}
        for node in toposort(outputs):
            inputs = [new.get(one, one) for one in node.inputs]
            op = self._of(node.op)
            if op is not node.op:
                made = op.make_node(*inputs)
            elif inputs != node.inputs:
                made = node.clone_with_new_inputs(inputs)
            else:
                continue
            new |= dict(zip(node.outputs, made.outputs, strict=True))
        return [new.get(one, one) for one in outputs]

    def _of(self, op: Any) -> Any:
        if type(op) is Blockwise:
            core = self._of(op.core_op)
            return op if core is op.core_op else Blockwise(core, signature=op.signature, name=op.name)
        return WatchedOp(op, self) if _runs_in_python(op) else op


@final
class WatchedOp(Op):  # type: ignore[misc]
    """An operation that runs in Python and keeps the error that it raises."""

    __props__ = ("op", "errors")

    def __init__(self, op: Any, errors: UserErrors) -> None:
        self.op, self.errors = op, errors
        self.destroy_map, self.view_map = op.destroy_map, op.view_map

    def __str__(self) -> str:
        return str(self.op)

    def make_node(self, *inputs: Any) -> Apply:
        """Describe inputs and outputs as the operation does."""
        node = self.op.make_node(*inputs)
        return Apply(self, node.inputs, [one.type() for one in node.outputs])

    def perform(self, node: Apply, inputs: Any, outputs: Any) -> None:
        """Evaluate."""
        self.errors.call(self.op.perform, node, inputs, outputs)


@numba_funcify.register(WatchedOp)  # type: ignore[untyped-decorator]
def _numba(op: WatchedOp, node: Any = None, **options: Any) -> Any:
    own = numba_funcify.dispatch(type(op.op)) is in_python
    return (in_python if own else generate_fallback_impl)(op, node, **options)


class _Stopped(Exception):  # noqa: N818
    """Nothing is evaluated, since there was an error."""


def _runs_in_python(op: Any) -> bool:
    """Whether an operation has no compiled code."""
    if numba_funcify.dispatch(type(op)) is in_python:
        return True
    return all(one.dispatch(type(op)) is one.dispatch(object) for one in _REGISTRIES)


def _is_of_the_code(error: Exception) -> bool:
    if isinstance(error, UqmsError):
        return isinstance(error, SimulatorFailed)
    return not isinstance(error, ArithmeticError | np.linalg.LinAlgError)
