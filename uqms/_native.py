"""Compiled functions that call each other by name or by address.

A numba function is optimised again in each function that calls it, with all that it calls. A `native` function is
compiled once, for one signature, is kept on disk, and is known to LLVM by a name: its callers are linked to it when
they are loaded. So deep compiled code takes seconds to compile, not minutes. A `deferred` function is called by its
address, which stands among the numbers that its caller reads: it is compiled when somebody asks for the address.
"""

import inspect
from collections.abc import Callable
from functools import cached_property
from typing import Any, final

import llvmlite.binding  # type: ignore[import-untyped]
import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["A1", "A2", "A3", "B", "Deferred", "F", "I", "NONE", "deferred", "native"]

F, I, B, NONE = types.float64, types.int64, types.boolean, types.none  # noqa: E741
A1, A2, A3 = (types.Array(types.float64, dimension, "C") for dimension in (1, 2, 3))


def native(result: Any, *arguments: Any, fastmath: Any = False) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function for one signature now, and return what compiled code calls in its place."""
    wanted = result(*arguments)

    def decorate(function: Callable[..., Any]) -> Any:
        name = f"{function.__module__}.{function.__qualname__}{wanted}"
        llvmlite.binding.add_symbol(name, _address(function, wanted, fastmath))

        def target(builder: Any, kind: Any, _: Any) -> Any:
            found = builder.module.globals.get(name)
            return ir.Function(builder.module, kind, name) if found is None else found

        return _call(wanted, target, behind=0)

    return decorate


@final
class Deferred:
    """A compiled function that is called by its address; the address is compiled code's to hand on."""

    def __init__(self, function: Callable[..., Any], wanted: Any, fastmath: Any) -> None:
        self._function, self._wanted, self._fastmath = function, wanted, fastmath

    @cached_property
    def address(self) -> float:
        """The address as a number, for a block: asking for it compiles the function, or reads it from disk."""
        return float(_address(self._function, self._wanted, self._fastmath))

    @cached_property
    def call(self) -> Any:
        """What compiled code calls: the address first, then the arguments."""

        def target(builder: Any, kind: Any, address: Any) -> Any:
            return builder.inttoptr(builder.fptosi(address, ir.IntType(64)), kind.as_pointer())

        return _call(self._wanted, target, behind=1)


def deferred(result: Any, *arguments: Any, fastmath: Any = False) -> Callable[[Callable[..., Any]], Deferred]:
    """Return a function that is compiled for one signature when its address is first asked for."""
    return lambda function: Deferred(function, result(*arguments), fastmath)


def _address(function: Callable[..., Any], wanted: Any, fastmath: Any) -> int:
    """Compile a function, or read it from disk, and return where its code is."""
    options = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "error_model": "numpy"}
    compiled = numba.njit(wanted, cache=True, nogil=True, fastmath=fastmath, **options)(function)
    (found,) = compiled.overloads.values()
    _kept.append(compiled)
    return int(found.library.get_pointer_to_function(found.fndesc.llvm_func_name))


_kept: list[Any] = []  # what is no more referred to is unloaded


def _call(wanted: Any, target: Callable[[Any, Any, Any], Any], behind: int) -> Any:
    """Return an intrinsic that calls the function that `target` gives; `behind` arguments of its own come first."""

    def codegen(context: Any, builder: Any, given: Any, arguments: Any) -> Any:
        kind = context.call_conv.get_function_type(wanted.return_type, wanted.args)
        function = target(builder, kind, arguments[0] if behind else None)
        pairs = zip(arguments[behind:], given.args[behind:], wanted.args, strict=True)
        cast = [context.cast(builder, one, old, new) for one, old, new in pairs]
        status, value = context.call_conv.call_function(builder, function, wanted.return_type, wanted.args, cast)
        with builder.if_then(status.is_error, likely=False):
            context.call_conv.return_status_propagate(builder, status)
        return value

    types_of = (F,) * behind + tuple(wanted.args)
    signature = wanted.return_type(*types_of)

    def call(typing: Any, *arguments: Any) -> Any:
        return signature, codegen

    # An intrinsic has a fixed number of arguments, read off its signature.
    names = ["typing", *(f"argument_{i}" for i in range(len(types_of)))]
    kind_of = inspect.Parameter.POSITIONAL_OR_KEYWORD
    call.__signature__ = inspect.Signature([inspect.Parameter(name, kind_of) for name in names])  # type: ignore[attr-defined]
    return intrinsic(call)
