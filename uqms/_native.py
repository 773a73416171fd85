"""Compiled functions that call each other by name.

A numba function is compiled again, with everything that it calls, inside each of its callers. A `native` function is
compiled once for one signature, is kept on disk, and is registered with LLVM under a name. Callers are linked to it
when they are loaded. Nested compiled code therefore takes seconds to compile, not minutes. A `deferred` function is
compiled when it is first called.
"""

import ctypes
import inspect
from collections.abc import Callable
from typing import Any

import llvmlite.binding  # type: ignore[import-untyped]
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from uqms._compiled import compiled

__all__ = ["A1", "A2", "A3", "B", "F", "I", "NONE", "deferred", "native"]

F, I, B, NONE = types.float64, types.int64, types.boolean, types.none  # noqa: E741
A1, A2, A3 = (types.Array(types.float64, dimension, "C") for dimension in (1, 2, 3))


def native(result: Any, *arguments: Any, fastmath: Any = False) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function for one signature now, and return the function that compiled code calls in its place."""
    wanted = result(*arguments)

    def decorate(function: Callable[..., Any]) -> Any:
        name = f"{function.__module__}.{function.__qualname__}{wanted}"
        llvmlite.binding.add_symbol(name, _address(function, wanted, fastmath))

        def target(builder: Any, kind: Any) -> Any:
            found = builder.module.globals.get(name)
            return ir.Function(builder.module, kind, name) if found is None else found

        return _call(wanted, target)

    return decorate


def deferred(result: Any, *arguments: Any, fastmath: Any = False) -> Callable[[Callable[..., Any]], Any]:
    """Do as `native`, but compile the function when compiled code first calls it; who never calls it does not wait.

    The name refers to a memory cell with the function's address, 0 at first. Addresses are never stored in data, so
    data can be sent to other processes.
    """
    wanted = result(*arguments)

    def decorate(function: Callable[..., Any]) -> Any:
        name = f"{function.__module__}.{function.__qualname__}{wanted}"
        place = np.zeros(1, dtype=np.int64)

        def compiled() -> None:
            place[0] = _address(function, wanted, fastmath)

        callback = ctypes.CFUNCTYPE(None)(compiled)
        _kept.append((place, callback))
        llvmlite.binding.add_symbol(f"{name}.place", place.ctypes.data)
        llvmlite.binding.add_symbol(f"{name}.compiled", ctypes.cast(callback, ctypes.c_void_p).value)

        def target(builder: Any, kind: Any) -> Any:
            module, number = builder.module, ir.IntType(64)
            held, make = (module.globals.get(f"{name}.{what}") for what in ("place", "compiled"))
            if held is None:
                held = ir.GlobalVariable(module, number, f"{name}.place")
                make = ir.Function(module, ir.FunctionType(ir.VoidType(), []), f"{name}.compiled")
            with builder.if_then(builder.icmp_signed("==", builder.load(held), ir.Constant(number, 0)), likely=False):
                builder.call(make, [])
            return builder.inttoptr(builder.load(held), kind.as_pointer())

        return _call(wanted, target)

    return decorate


def _address(function: Callable[..., Any], wanted: Any, fastmath: Any) -> int:
    """Compile a function, or read it from disk, and return where its code is."""
    options = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "error_model": "numpy"}
    made = compiled(wanted, fastmath=fastmath, **options)(function)
    (found,) = made.overloads.values()
    _kept.append(made)
    return int(found.library.get_pointer_to_function(found.fndesc.llvm_func_name))


_kept: list[Any] = []  # code without a reference is unloaded


def _call(wanted: Any, target: Callable[[Any, Any], Any]) -> Any:
    """Return an intrinsic that calls the function that `target` gives."""

    def codegen(context: Any, builder: Any, given: Any, arguments: Any) -> Any:
        kind = context.call_conv.get_function_type(wanted.return_type, wanted.args)
        function = target(builder, kind)
        pairs = zip(arguments, given.args, wanted.args, strict=True)
        cast = [context.cast(builder, one, old, new) for one, old, new in pairs]
        status, value = context.call_conv.call_function(builder, function, wanted.return_type, wanted.args, cast)
        with builder.if_then(status.is_error, likely=False):
            context.call_conv.return_status_propagate(builder, status)
        return value

    def call(typing: Any, *arguments: Any) -> Any:
        return wanted, codegen

    # An intrinsic has a fixed number of arguments, read off its signature.
    names = ["typing", *(f"argument_{i}" for i in range(len(wanted.args)))]
    kind_of = inspect.Parameter.POSITIONAL_OR_KEYWORD
    call.__signature__ = inspect.Signature([inspect.Parameter(name, kind_of) for name in names])  # type: ignore[attr-defined]
    return intrinsic(call)
