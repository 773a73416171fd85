"""A hash of what a Python function computes, the same in every process and on every machine.

Two functions must not share stored results when they differ in their source (comments and layout left out), in the
values that they close over or read from their module, or in code of the user's own that they call: functions, classes
with their bases, decorators, modules. Installed packages count by name: what they compute is theirs to version. Objects
count by what is pickled of them. What cannot be described is refused, since it would count as unchanged for ever.
"""

import ast
import contextvars
import copyreg
import ctypes
import dis
import functools
import hashlib
import importlib.util
import inspect
import linecache
import logging
import os
import random
import struct
import sys
import sysconfig
import textwrap
import threading
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path, PurePath
from types import CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any, ParamSpec, TypeVar, TypeVarTuple

import numpy as np
from numpy.typing import NDArray

from uqms.errors import InputError

__all__ = ["code_hash"]

_PACKAGES = ("site-packages", "dist-packages")
_INSTALLED = (
    *(os.path.join(sysconfig.get_path(key), "") for key in ("stdlib", "platstdlib")),
    os.path.join(Path(__file__).parents[1], ""),  # ourselves, wherever we are
)
_ATOMS = frozenset([float, int, bool, complex, str, bytes, type(None)])
_MAIN = ("__main__", "__mp_main__")  # the user's script, whatever has started it
_READS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
_HEAP = 1 << 9  # the flag that most types written in C do not have (Py_TPFLAGS_HEAPTYPE)
# Locks, streams and logs are used while a result is computed, and do not make another one of it.
_WITHOUT_RESULT = (
    type(threading.Lock()),
    type(threading.RLock()),
    threading.Condition,
    threading.Semaphore,
    threading.Event,
    threading.local,
    contextvars.ContextVar,
    logging.Logger,
    logging.LoggerAdapter,
)
# Whoever draws from these without seeding them gets other numbers in each process; their state tells nothing.
_SHARED_RANDOM = (np.random.get_state.__self__, random.random.__self__)  # type: ignore[attr-defined]


def code_hash(function: object) -> str:
    """Return the SHA-256 of what `function` computes.

    Raises
    ------
    InputError
        When it uses something of which nobody can say whether it has changed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of things that should not be pickled any more
            return _digest(_Describer().value(function))
    except RecursionError as error:
        raise InputError(
            f"{_called(function)} uses values or functions that are nested too deep to be compared; {_HELP}"
        ) from error


_HELP = (
    "give a version='...' of your own, under which results are kept and found again; change it whenever the results "
    "would change."
)


class _Describer:
    """Says what a value is in nested tuples of words, without addresses."""

    def __init__(self) -> None:
        self.open: dict[Hashable, int] = {}  # what is being described, which may hold itself
        self.done: dict[Hashable, tuple[str, object]] = {}  # with the thing, so that its address stays its own
        self.trail: list[str] = []  # for the message: the variables that led here

    def value(self, value: object) -> object:
        if type(value) in _ATOMS:
            return repr(value)  # gives every bit, and the type
        if value is os.environ or value is sys.argv:
            return ("of this call", type(value).__name__)
        if isinstance(value, PurePath):
            return ("path", str(value))
        if isinstance(value, ModuleType):
            return self.module(value, frozenset())
        return self.once(id(value), value, self.compound)

    def once(self, key: Hashable, value: Any, describe: Callable[[Any], object]) -> object:
        """Describe a thing when it is first met; short, so that what is shared many times stays small."""
        if key in self.open:
            return ("itself", self.open[key])
        if key not in self.done:
            self.open[key] = len(self.open)
            try:
                self.done[key] = (_digest(describe(value)), value)
            finally:
                del self.open[key]
        return self.done[key][0]

    def compound(self, value: Any) -> object:
        kind = type(value)
        if kind in (list, tuple):
            plain = _ATOMS.issuperset(map(type, value))
            return (kind.__name__, repr(value) if plain else tuple(map(self.value, value)))
        if kind in (set, frozenset):
            return ("set", tuple(sorted(repr(self.value(item)) for item in value)))
        if kind in (dict, MappingProxyType):
            return ("mapping", self.pairs(value.items()))
        if kind is np.ndarray or isinstance(value, np.generic):
            return self.array(np.asarray(value))
        if _by_name(value):
            return ("installed", value.__module__, value.__qualname__)
        if isinstance(value, MethodType):
            return ("method", self.value(value.__func__), self.value(value.__self__))
        if isinstance(value, staticmethod | classmethod):
            return (kind.__name__, self.value(value.__func__))
        if isinstance(value, property):
            return ("property", *map(self.value, (value.fget, value.fset, value.fdel)))
        if isinstance(value, FunctionType):
            return self.function(value)
        return self.kind(value) if isinstance(value, type) else self.instance(value)

    def pairs(self, items: Any) -> tuple[object, ...]:
        return tuple((self.value(key), self.value(item)) for key, item in items)

    def named(self, items: Any) -> tuple[object, ...]:
        """Describe variables, in the order of their names."""
        told = []
        for name, item in sorted(items, key=lambda pair: str(pair[0])):
            self.trail.append(name)
            told.append((name, self.value(item)))
            self.trail.pop()
        return tuple(told)

    def array(self, values: NDArray[np.generic]) -> tuple[object, ...]:
        if values.dtype.hasobject:
            return ("objects", values.shape, self.value(values.ravel().tolist()))
        kind = repr(values.dtype.descr) if values.dtype.names else values.dtype.str
        return (kind, values.shape, hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest())

    # ----------------------------------------------------------------------------------------------------------- code
    def function(self, thing: FunctionType) -> object:
        code = thing.__code__
        if _in_package(code.co_filename):  # what a package's decorator has made of the user's function
            cells = self.named(_cells(thing))
            return ("made by", thing.__globals__["__name__"], code.co_qualname, cells, self.named(vars(thing).items()))
        names = _names(code)
        # The source of a lambda is its whole line, on which another one may stand.
        text = "" if thing.__name__ == "<lambda>" else _source(code)
        return (
            "function",
            text or self.compiled(code),
            self.reads(thing, names),
            self.value(thing.__defaults__),
            self.value(thing.__kwdefaults__),
            self.named(vars(thing).items()),  # a decorator leaves the function there that it wraps
        )

    def reads(self, thing: FunctionType, names: frozenset[str]) -> tuple[object, ...]:
        """Describe the variables that a function takes from around it, and of modules what it uses of them."""
        read = dict(_cells(thing))
        around = _globals(thing.__code__) - {"__name__", "__file__"}  # a script and the same file imported are one
        read.update({name: thing.__globals__[name] for name in around if name in thing.__globals__})
        modules = {name: item for name, item in read.items() if isinstance(item, ModuleType)}
        for name, fromlist in _imports(thing.__code__, thing.__globals__.get("__package__") or ""):
            if not _installed(_spec(name.partition(".")[0])):
                try:
                    modules[f"import {name}"] = _import(name, fromlist or ())
                except (Exception, SystemExit):  # the run will tell, unless it can do without
                    continue
        others = self.named((name, item) for name, item in read.items() if name not in modules)
        return (others, tuple((name, self.module(modules[name], names)) for name in sorted(modules)))

    def module(self, thing: ModuleType, names: frozenset[str]) -> object:
        """Describe a module of the user's own by what is used of it, or by all that stands in its file."""
        if thing.__name__ not in _MAIN and _installed(thing.__spec__):
            return ("module", thing.__name__)
        used = {name for name in names if not name.startswith("__") and hasattr(thing, name)}
        file = getattr(thing, "__file__", None)
        if file is not None and (not used or not file.endswith(".py")):
            return ("module", thing.__name__, _source(thing) or hashlib.sha256(Path(file).read_bytes()).hexdigest())
        return self.once((id(thing), names), thing, lambda module: self.uses(module, used, names))

    def uses(self, module: ModuleType, used: set[str], names: frozenset[str]) -> object:
        items = {name: getattr(module, name) for name in used}
        inner = {name: item for name, item in items.items() if isinstance(item, ModuleType)}
        others = self.named((name, item) for name, item in items.items() if name not in inner)
        return (
            "module",
            module.__name__,
            others,
            tuple((name, self.module(inner[name], names)) for name in sorted(inner)),
        )

    def kind(self, thing: type) -> object:
        compiled, spec = not thing.__flags__ & _HEAP, _spec_of(thing.__module__)
        if _installed(spec) or (compiled and spec is None):
            return ("installed", thing.__module__, thing.__qualname__)
        if compiled:
            return ("class", thing.__qualname__, self.value(sys.modules[thing.__module__]))
        members = self.named((name, item) for name, item in vars(thing).items() if _counts(name, item))
        return (
            "class",
            thing.__qualname__,
            _class_source(thing),
            members,
            self.value(thing.__bases__),
            self.value(type(thing)),
        )

    def compiled(self, code: CodeType) -> object:
        consts = tuple(self.compiled(c) if isinstance(c, CodeType) else self.value(c) for c in code.co_consts)
        return (code.co_code.hex(), code.co_names, code.co_varnames, consts)

    # -------------------------------------------------------------------------------------------------------- objects
    def instance(self, thing: Any) -> object:
        kind = type(thing)
        if any(thing is shared for shared in _SHARED_RANDOM):
            return ("shared random numbers", kind.__qualname__)
        if isinstance(thing, TypeVar | ParamSpec | TypeVarTuple):
            return ("type variable", thing.__name__)
        streams = (sys.stdin, sys.stdout, sys.stderr)
        if isinstance(thing, _WITHOUT_RESULT) or any(thing is stream for stream in streams):
            return ("without result", kind.__qualname__)
        if isinstance(thing, struct.Struct):
            return ("layout", thing.format)
        if _installed(_spec_of(kind.__module__)):
            for inner in ("py_func", "__wrapped__"):  # numba's, functools' and jax's way to say what was decorated
                if callable(getattr(thing, inner, None)):
                    return ("wrapper", self.value(kind), self.value(getattr(thing, inner)))
        if (kept := _lazy(thing)) is not None:
            return ("values", self.value(kind), self.value(kept))
        if (torch := sys.modules.get("torch")) is not None and isinstance(thing, torch.Tensor):
            return ("tensor", self.value(kind), self.array(thing.detach().cpu().numpy()))
        reduce: Callable[[Any], Any] = copyreg.dispatch_table.get(kind, _reduce)
        try:
            reduced = reduce(thing)
        except Exception as error:  # whatever the user's objects raise when they are pickled
            raise self.refusal(thing) from error
        if isinstance(reduced, str):
            return self.known(thing, reduced)
        made, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        more = (tuple(map(self.value, items or ())), self.pairs(pairs or ()))
        return ("object", *map(self.value, (kind, made, arguments)), self.state(kind, state), *more)

    def state(self, kind: type, state: Any) -> object:
        """Describe attributes, without what was computed when it was first asked for."""
        if isinstance(state, dict) and all(isinstance(name, str) for name in state):
            return self.named((name, item) for name, item in state.items() if not _cached(kind, name))
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):  # slots
            return tuple(self.state(kind, part) for part in state)
        return () if state is None else self.value(state)

    def known(self, thing: Any, name: str) -> object:
        """Describe what is pickled by its name."""
        said = getattr(thing, "__module__", None)
        first = name.partition(".")[0]  # modules that load lazily are not asked
        places = [sys.modules.get(said)] if said else [m for m in list(sys.modules.values()) if first in vars(m)]
        if not any(_inside(place, name) is thing for place in places):
            raise self.refusal(thing)
        own = sys.modules.get(said) if said and not _installed(_spec_of(said)) else None
        return ("named", self.value(type(thing)), self.value(own) if own else said, name)

    def refusal(self, thing: object) -> InputError:
        where = f" ({' -> '.join(self.trail)})" if self.trail else ""
        kind = f"{type(thing).__module__}.{type(thing).__qualname__}"
        return InputError(
            f"the simulator uses a {kind}{where}, and uqms cannot check whether it is still the same; {_HELP}"
        )


def _digest(said: object) -> str:
    return hashlib.sha256(repr(said).encode(errors="surrogatepass")).hexdigest()


def _called(thing: object) -> str:
    return str(getattr(thing, "__qualname__", type(thing).__qualname__))


def _reduce(thing: Any) -> Any:
    if isinstance(thing, ctypes.CDLL):
        raise TypeError("it would be pickled with its address")
    return thing.__reduce_ex__(2)


def _lazy(thing: Any) -> tuple[Any, ...] | None:
    """Return what objects hold that keep more once they have been used: labelled tables and sparse matrices."""
    labelled, sparse = sys.modules.get("xarray"), sys.modules.get("scipy.sparse")
    if labelled is not None and isinstance(thing, labelled.Variable):
        return (thing.dims, thing.values, thing.attrs)
    if labelled is not None and isinstance(thing, labelled.DataArray):
        return (thing.name, thing.variable, {str(name): each.variable for name, each in sorted(thing.coords.items())})
    if labelled is not None and isinstance(thing, labelled.Dataset):
        return (thing.attrs, {str(name): each for name, each in sorted(thing.variables.items())}, sorted(thing.coords))
    if sparse is not None and sparse.issparse(thing):
        entries = sparse.coo_array(thing)
        return (thing.format, thing.shape, *entries.coords, entries.data)
    return None


def _cached(kind: type, name: object) -> bool:
    return isinstance(name, str) and isinstance(inspect.getattr_static(kind, name, None), functools.cached_property)


def _counts(name: str, member: object) -> bool:
    """Tell whether a member of a class is the user's, and no bookkeeping of Python."""
    code = isinstance(member, FunctionType | staticmethod | classmethod | property)
    return code or not (name == "_abc_impl" or (name.startswith("__") and name.endswith("__")))


# ---------------------------------------------------------------------------------------------------- what is installed
def _in_package(path: str) -> bool:
    return path.startswith(_INSTALLED) or any(part in _PACKAGES for part in PurePath(path).parts)


def _installed(spec: ModuleSpec | None) -> bool:
    """Tell whether a module comes with Python or an installed package; one that cannot be found is not the user's."""
    if spec is None:
        return False
    if spec.has_location and spec.origin:
        return _in_package(spec.origin)
    places = spec.submodule_search_locations
    return spec.origin in ("built-in", "frozen") or (places is not None and all(map(_in_package, places)))


def _spec_of(module: str) -> ModuleSpec | None:
    return None if module in _MAIN else getattr(sys.modules.get(module), "__spec__", None)


def _spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def _by_name(thing: Any) -> bool:
    """Tell whether an installed package has a thing under its own name."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or not _installed(_spec_of(module)):
        return False
    return _inside(sys.modules[module], name) is thing


def _inside(module: object, name: str) -> object:
    """Return what a module has under a name with dots, None when it has not."""
    for part in name.split("."):
        module = getattr(module, part, None)
    return module


# ------------------------------------------------------------------------------------------------------- inside of code
def _cells(function: FunctionType) -> Iterator[tuple[str, object]]:
    """Yield what a function closes over."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not filled yet
            yield name, None


def _names(code: CodeType) -> frozenset[str]:
    """Return the names of all variables, attributes and modules in a code."""
    return frozenset(code.co_names).union(*(_names(c) for c in code.co_consts if isinstance(c, CodeType)))


def _globals(code: CodeType) -> frozenset[str]:
    """Return the names of the module's variables that a code reads."""
    own = (step.argval for step in dis.get_instructions(code) if step.opname in _READS)
    return frozenset(own).union(*(_globals(c) for c in code.co_consts if isinstance(c, CodeType)))


def _imports(code: CodeType, package: str) -> Iterator[tuple[str, tuple[str, ...] | None]]:
    """Yield the modules that a code imports, and which of their names."""
    steps = [step for step in dis.get_instructions(code) if step.opname != "EXTENDED_ARG"]
    for i, step in enumerate(steps):
        if step.opname == "IMPORT_NAME":
            level, fromlist = steps[i - 2].argval, steps[i - 1].argval
            with suppress(ImportError):  # more dots than the package has levels: the run will tell
                yield importlib.util.resolve_name("." * level + step.argval, package), fromlist
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _imports(inner, package)


def _import(name: str, parts: tuple[str, ...]) -> ModuleType:
    """Import a module as the user's function will, with the modules among what it takes out of it."""
    module = importlib.import_module(name)
    for part in parts:
        if part != "*" and not hasattr(module, part) and hasattr(module, "__path__"):
            importlib.import_module(f"{name}.{part}")
    return module


def _source(thing: object) -> str:
    """Return the source without comments and layout, or nothing where there is none.

    Of a function, `thing` is its code: the function that it wraps, if any, would be shown instead.
    """
    try:
        text = textwrap.dedent(inspect.getsource(thing))  # type: ignore[arg-type]
    except (OSError, TypeError):
        return ""
    try:
        return ast.unparse(ast.parse(text))
    except SyntaxError:  # a function that was made from a text
        return text.strip()


def _class_source(thing: type) -> str:
    """Return the source of a class out of the file of its methods: the file of its module may be that of a launcher."""
    codes = [member.__code__ for member in vars(thing).values() if isinstance(member, FunctionType)]
    own = [code for code in codes if code.co_qualname.startswith(f"{thing.__qualname__}.")]
    if not own:
        return "" if thing.__module__ in _MAIN else _source(thing)
    try:
        found: ast.AST = ast.parse("".join(linecache.getlines(own[0].co_filename)))
    except SyntaxError:
        return ""
    for name in thing.__qualname__.split("."):
        inner = [node for node in ast.walk(found) if getattr(node, "name", None) == name]
        if name != "<locals>" and not inner:
            return ""
        found = inner[-1] if inner else found
    return ast.unparse(found)
