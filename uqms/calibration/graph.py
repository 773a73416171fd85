"""A PyMC model as a compiled log-density for nutpie, in coordinates that the warm-up learns.

PyTensor turns the model into two numba functions of an unconstrained point z: log-density with gradient, and what is
reported of a draw. Each becomes one C function that reads everything else from a flat block, and stays on disk under
the key that PyTensor gives to the graph. The block: header, map (both as in `_map`; a map that begins at 0 is none),
then address and shape of each shared array.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, final

import numba
import numpy as np
import pandas as pd
import pymc as pm
import pytensor
import pytensor.tensor as pt
import xarray as xr
from numba import types
from numba.core import cgutils
from pytensor.graph import clone_replace, rewrite_graph
from pytensor.graph.null_type import NullType
from pytensor.link.numba.cache import CACHED_SRC_FUNCTIONS, compile_numba_function_src
from pytensor.tensor.type import TensorType

from uqms._compiled import digest
from uqms._typing import Array
from uqms.calibration import _map
from uqms.calibration.compiled import GroupedMap, Map, evaluate
from uqms.calibration.user_errors import UserErrors
from uqms.errors import InitError, InputError

__all__ = ["ModelTarget", "complaints", "model_target", "starting_points", "with_data"]

R_HAT = 1.01
JITTERS = (1.0, 0.1)  # how far from a model's initial point chains may start, in unconstrained space
KEPT = 0.125  # fraction of the points tried that chains start from
MOST_MAPPED = 24  # dimensions; beyond, the map costs more than a simple density, with d³ / 6 coefficients
REAL, POINTER = types.double, types.CPointer(types.double)
DENSITY = types.int64(types.uint64, POINTER, POINTER, POINTER, POINTER)
REPORT = types.int64(types.uint64, types.uint64, POINTER, POINTER, POINTER)


@numba.extending.intrinsic  # type: ignore[untyped-decorator]
def as_pointer(typing_context: Any, address: Any) -> Any:
    """Return a pointer to the array at an address."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), codegen


@final
@dataclass(frozen=True, eq=False)
class ModelTarget:
    """The log-density of a PyMC model in unconstrained space.

    Attributes
    ----------
    size
        Number of coordinates.
    variables
        Name and shape of what is reported of a draw: free variables in their own units, and deterministic ones.
    free
        Names of the free variables.
    dims, coords
        Of the model.
    functions
        Compiled log-density, and what reports a draw.
    arrays
        The shared arrays, whose addresses are in the block.
    labels
        Names of the shared arrays, "" for those that have none.
    errors
        What Python code raises that the functions call.
    start
        The model's initial point, shape (size,).
    map
        From the sampler's coordinates to unconstrained space; beyond `MOST_MAPPED` coordinates none or a linear one.
    """

    size: int
    variables: tuple[tuple[str, tuple[int, ...]], ...]
    free: tuple[str, ...]
    dims: Mapping[str, tuple[str, ...]]
    coords: Mapping[str, Any]
    functions: tuple[Any, Any]
    arrays: tuple[Array, ...]
    start: Array
    map: Map | GroupedMap | None
    labels: tuple[str, ...] = ()
    errors: UserErrors = field(default_factory=UserErrors)

    def with_arrays(self, **new: Array) -> "ModelTarget":
        """Return the same functions reading other numbers in the place of shared arrays, by their names."""
        arrays = tuple(
            np.ascontiguousarray(new[label], dtype=one.dtype) if label in new else one
            for label, one in zip(self.labels, self.arrays, strict=True)
        )
        return replace(self, arrays=arrays)

    def with_map(self, new: Map | GroupedMap) -> "ModelTarget":
        """Return the same density in other coordinates."""
        return replace(self, map=new)

    @cached_property
    def block(self) -> Array:
        """What the compiled functions read."""
        flat = np.zeros(0) if self.map is None else self.map.flat()
        shared = np.array([n for array in self.arrays for n in (array.ctypes.data, *array.shape)], dtype=np.int64)
        begin = _map.HEADER + len(flat)
        header = np.zeros(_map.HEADER)
        header[0], header[1], header[10] = begin + len(shared), self.size, begin
        if self.map is not None:
            header[9 if isinstance(self.map, GroupedMap) else 8], header[11] = _map.HEADER, self.map.log_determinant
        return np.concatenate([header, flat, shared.view(np.float64)])

    def evaluate(self, w: Array) -> tuple[float, Array]:
        """Return log-density and gradient (P,) at w (P,); -inf or NaN where there is none.

        Python code that the function calls may raise; numerical errors mean that there is no density.
        """
        try:
            return evaluate(self.functions[0], self.block, w)
        except SystemError as error:
            self.errors.of_call(error)
            return -np.inf, np.full(len(w), np.nan)


def model_target(model: Any) -> ModelTarget:
    """Compile a PyMC model.

    Raises
    ------
    InputError
        When it has discrete variables, no free ones, no derivative, or a density that is itself random.
    """
    _check(model)
    values = [model.rvs_to_values[one] for one in model.free_RVs]
    point = [np.asarray(value) for value in model.initial_point().values()]  # in this order; names may be others
    shapes = [value.shape for value in point]
    begins = np.cumsum([0, *(math.prod(shape) for shape in shapes)])
    size = int(begins[-1])
    joined = TensorType("float64", shape=(size,))("point")
    given = {
        one: joined[begins[i] : begins[i + 1]].reshape(shapes[i]).astype(one.dtype) for i, one in enumerate(values)
    }

    rewrites = ["canonicalize", "stabilize"] + ([] if model.check_bounds else ["local_remove_check_parameter"])
    density = rewrite_graph(model.logp(), include=rewrites)
    slope = pt.concatenate(
        [pt.as_tensor(one, allow_xtensor_conversion=True).ravel() for one in _slopes(density, values)]
    )
    value_and_slope = clone_replace([density.astype("float64"), slope.astype("float64")], given)

    # All value variables come first, then transformed variables in their own units, then deterministic ones. A variable
    # may be its own value, by name too, where a transform changes nothing.
    first, rest = model.unobserved_value_vars[: len(values)], model.unobserved_value_vars[len(values) :]
    plain = [one for one, free in zip(first, model.free_RVs, strict=True) if model.rvs_to_transforms.get(free) is None]
    reported = [*plain, *rest]
    flat = pt.concatenate(
        [pt.as_tensor(one, allow_xtensor_conversion=True).ravel().astype("float64") for one in reported]
    )
    (draw,) = clone_replace([flat], given)
    own = model_shapes(reported, dict(zip(values, point, strict=True)))

    errors = UserErrors()
    functions = [_compiled(model, joined, errors.watched(outputs)) for outputs in (value_and_slope, [draw])]
    shared = list(dict.fromkeys(one for function in functions for one in function.get_shared()))
    arrays = tuple(_array(one) for one in shared)
    return ModelTarget(
        size,
        tuple((one.name, shape) for one, shape in zip(reported, own, strict=True)),
        tuple(one.name for one in model.free_RVs),
        {name: tuple(dims) for name, dims in model.named_vars_to_dims.items()},
        _coords(model),
        (
            _c_function(functions[0], DENSITY_SOURCE, DENSITY, shared, arrays),
            _c_function(functions[1], REPORT_SOURCE, REPORT, shared, arrays),
        ),
        arrays,
        np.concatenate([value.ravel().astype(np.float64) for value in point]),
        Map.identity(size) if size <= MOST_MAPPED else None,
        tuple(one.name or "" for one in shared),
        errors,
    )


def _slopes(density: Any, values: Sequence[Any]) -> list[Any]:
    try:
        slopes = pt.grad(density, values, null_gradients="return", disconnected_inputs="ignore")
        cause = None
    except NotImplementedError as error:
        slopes, cause = [], error
    if not slopes or any(isinstance(slope.type, NullType) for slope in slopes):
        raise InputError(
            "NUTS: the model's log-density has no derivative: a part of it is a black box. Give that part a pullback "
            "(for an Op of your own), or sample with pm.sample(step=pm.Slice()) or pm.sample_smc()."
        ) from cause
    return list(slopes)


def _check(model: Any) -> None:
    if not model.free_RVs:
        raise InputError("NUTS: the model has no free variables, so there is nothing to sample.")
    discrete = [one.name for one in model.free_RVs if one.dtype not in ("float64", "float32")]
    if discrete:
        raise InputError(
            f"NUTS: {discrete} are discrete, which a gradient sampler cannot move. Sum them out (pm.Mixture, "
            "pymc_extras.marginalize), or use pm.sample, which gives them steps of their own."
        )


def model_shapes(variables: Sequence[Any], point: Mapping[Any, Any]) -> list[tuple[int, ...]]:
    """Return the shapes of variables of a model at a point."""
    shapes = clone_replace(
        [pt.as_tensor(one.shape) for one in variables], {k: pt.as_tensor(v) for k, v in point.items()}
    )
    found = pytensor.function([], shapes, mode="FAST_COMPILE", on_unused_input="ignore")()
    return [tuple(int(n) for n in shape) for shape in found]


def _coords(model: Any) -> dict[str, Any]:
    return {
        name: pd.Index(range(int(model.dim_lengths[name].eval())) if values is None else values)
        for name, values in model.coords.items()
    }


def _compiled(model: Any, point: Any, outputs: Sequence[Any]) -> Any:
    with model:
        return pm.pytensorf.compile([point], outputs, mode="NUMBA", on_unused_input="ignore")


def _array(shared: Any) -> Array:
    """Return the value of a shared variable, as it is in memory for the compiled code."""
    if not isinstance(shared.type, TensorType):
        raise InputError(
            f"NUTS: the model depends on {shared}, a {shared.type}: its log-density would be another at every call "
            "(a minibatch?). A sampler needs all data at once."
        )
    return np.array(shared.get_value(borrow=True), order="C", copy=True)


DENSITY_SOURCE = """
def {name}(size, point, gradient, value, user):
    block = carray(user, (int(user[0]),))
    w, w_bar, found = carray(point, (size,)), carray(gradient, (size,)), carray(value, ())
    z, phi, slope = np.empty(size), np.empty(size), np.empty(size)
    shared = block[int(block[10]):].view(np.int64)
    wider = 0.0
    try:
        if block[8] > 0.0:
            to_line(block, w, z, phi, slope)
        elif block[9] > 0.0:
            wider = to_line_grouped(block, w, z, phi, slope)
        else:
            for i in range(size):
                z[i] = w[i]
        total, z_bar = graph(z{arguments})
        found[()] = total
        for i in range(size):
            slope_i = z_bar[i]
            if not isfinite(slope_i):
                return 3
            w_bar[i] = slope_i
        if not isfinite(value[0]):
            return 4
        if block[8] > 0.0 or block[9] > 0.0:
            own = w_bar.copy()
            if block[8] > 0.0:
                from_line(block, own, phi, slope, w_bar)
            else:
                from_line_grouped(block, own, phi, slope, w_bar)
            value[0] += block[11] + wider
            for i in range(size):
                if not isfinite(w_bar[i]):
                    return 3
    except Exception:
        return 1
    return 0
"""

REPORT_SOURCE = """
def {name}(size, expanded, point, out, user):
    block = carray(user, (int(user[0]),))
    w, result = carray(point, (size,)), carray(out, (expanded,))
    z, phi, slope = np.empty(size), np.empty(size), np.empty(size)
    shared = block[int(block[10]):].view(np.int64)
    try:
        if block[8] > 0.0:
            to_line(block, w, z, phi, slope)
        elif block[9] > 0.0:
            to_line_grouped(block, w, z, phi, slope)
        else:
            for i in range(size):
                z[i] = w[i]
        (values,) = graph(z{arguments})
        rest = expanded - size
        for i in range(rest):
            result[i] = values[i]
        for i in range(size):
            result[rest + i] = z[i]
    except Exception:
        return -2
    return 0
"""


def _c_function(function: Any, source: str, signature: Any, shared: Sequence[Any], arrays: Sequence[Array]) -> Any:
    """Return the C function of a compiled graph, from disk where it has been compiled before."""
    places = np.cumsum([0, *(1 + array.ndim for array in arrays)])
    arguments = []
    for one in function.get_shared():
        i = shared.index(one)
        at, dtype = int(places[i]), arrays[i].dtype
        shape = "".join(f"shared[{at + 1 + k}]," for k in range(arrays[i].ndim))
        arguments.append(f", carray(as_pointer(shared[{at}]), ({shape}), np.{np.dtype(dtype).type.__name__})")
    graph = function.vm.jit_fn
    key = CACHED_SRC_FUNCTIONS.get(graph.py_func)
    name = "model_density" if signature is DENSITY else "model_report"
    text = source.format(name=name, arguments="".join(arguments))
    if key is not None:
        versions = (pytensor.__version__, numba.__version__, digest(__file__), text, key)
        key = hashlib.sha256(repr(versions).encode()).hexdigest()
        graph = graph.py_func.__globals__.get("jitable_func", graph)  # without the entry from Python, which costs time
    own = {
        "__name__": __name__,
        "np": np,
        "carray": numba.carray,
        "isfinite": math.isfinite,
        "as_pointer": as_pointer,
        "graph": graph,
        "to_line": _map.to_line,
        "from_line": _map.from_line,
        "to_line_grouped": _map.to_line_grouped,
        "from_line_grouped": _map.from_line_grouped,
    }
    made = compile_numba_function_src(text, name, global_env=own, cache_key=key)
    return numba.cfunc(signature, cache=key is not None)(made)


def starting_points(target: ModelTarget, model: Any, count: int, rng: np.random.Generator) -> Array:
    """Return unconstrained points (n, P) around the model's initial point: of those tried, the most probable ones.

    PyMC and nutpie take any point within 1 of the initial point. Under a prior with a standard deviation of 0.3 that
    is far outside of a surrogate's design box, where a chain finds a mode of its own and stays. So points that are
    closer are tried as well, and the `KEPT` with the highest density are returned.

    Raises
    ------
    InitError
        When there is none, with the terms of the model that are not finite.
    """
    tried = [target.start + rng.uniform(-width, width, (count, target.size)) for width in JITTERS]
    values = [(point, *target.evaluate(point)) for point in np.concatenate(tried)]
    good = [(value, point) for point, value, gradient in values if _is_finite(value, gradient)]
    if good:
        good.sort(key=lambda each: -each[0])
        return np.array([point for _, point in good[: max(1, round(KEPT * len(values)))]])
    if _is_finite(*target.evaluate(target.start)):
        return target.start[None, :].copy()
    raise InitError(no_start(model))


def _is_finite(value: float, gradient: Array) -> bool:
    return bool(np.isfinite(value) and np.isfinite(gradient).all())


def no_start(model: Any) -> str:
    """Return which terms of a model are not finite at its initial point."""
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        terms = {name: float(value) for name, value in model.point_logps().items()}
    bad = [name for name, value in terms.items() if not np.isfinite(value)]
    what = f"The log-density of {bad}" if bad else "The log-density is finite, but its gradient"
    return (
        f"{what} is not finite at the starting point (terms: {terms}). Check that observations and noise have the "
        "scale of the simulator's output."
    )


def with_data(trace: Any, model: Any) -> Any:
    """Return the draws with the model's observed and constant data beside them."""
    from arviz_base import dict_to_dataset
    from pymc.backends.arviz import find_constants, find_observations

    tree = trace.copy()
    posterior = tree["posterior"].dataset
    kept = {dim for values in posterior.data_vars.values() for dim in values.dims}
    tree["posterior"] = xr.DataTree(posterior.drop_vars([name for name in posterior.coords if name not in kept]))
    coords = _coords(model)
    dims = {name: list(dims) for name, dims in model.named_vars_to_dims.items()}
    for name, found in (("observed_data", find_observations(model)), ("constant_data", find_constants(model))):
        if found:
            used = {dim for one in found for dim in dims.get(one, ())}
            data = dict_to_dataset(
                found, coords={k: v for k, v in coords.items() if k in used}, dims=dims, sample_dims=[]
            )
            tree[name] = xr.DataTree(data)
    return tree


def complaints(tree: Any, free: Sequence[str]) -> list[str]:
    """Return what is wrong with draws of a model, in words."""
    import arviz_stats

    stats, draws = tree["sample_stats"].dataset, tree["posterior"].dataset[list(free)]
    out = []
    diverged, total = int(stats["diverging"].sum()), stats["diverging"].size
    if diverged:
        out.append(
            f"{diverged} of {total} draws diverged: parts of the posterior are too narrow for the step, and may be "
            "missed. Raise target_accept, or write the model in other coordinates (a non-centred hierarchy)."
        )
    deep = int(stats["maxdepth_reached"].sum()) if "maxdepth_reached" in stats else 0
    if deep:
        out.append(
            f"{deep} of {total} draws reached the largest tree depth: chains move slowly. Standardise the "
            "parameters, or look for pairs of them that depend on each other."
        )
    worst = {name: float(np.nanmax(values.values)) for name, values in arviz_stats.rhat(draws).data_vars.items()}
    bad = {name: value for name, value in worst.items() if value > R_HAT}
    if bad:
        out.append(
            f"chains disagree: R-hat is {max(bad.values()):.3f} (required: at most {R_HAT}) for {list(bad)}. Take more "
            "draws; if that does not help, chains are in different modes."
        )
    return out
