"""A cheap simulator in a surrogate's place: its outputs are the scores, and there is no error to integrate out.

==========  =================================================  =======
symbol      meaning                                            shape
==========  =================================================  =======
x           inputs in their own units, one row per point         (n, d)
y           all outputs of a point, flattened, one by another  (n, q)
==========  =================================================  =======

The unit cube of its `domain` is only a frame: nothing is cut at its faces, since the simulator is exact beyond
them too.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, final

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy import sparse

from uqms._teaching import taught
from uqms._typing import Array, RandomState
from uqms.errors import ConformanceError, InputError, OutputError, SimulatorFailed, UqmsError
from uqms.parameters import Box, ParameterSpace
from uqms.surrogates.outputs import (
    INTERVALS,
    Decoder,
    Layout,
    OutputBasis,
    interpolation_error,
    nearest,
    spline_weights,
)
from uqms.surrogates.process import Scores, sobol_points
from uqms.surrogates.protocol import FunctionDraws, Surrogate

__all__ = ["DirectSimulator", "design_box", "has_derivative", "is_exact", "number_of_functions"]

MEASURED = 64  # points at which the error of interpolation between coordinates is measured
REPAIR = "Repair it; if such parameters contradict the measurements, use DirectSimulator(..., failures='impossible')."
BACKENDS = ("numpy", "pytensor", "jax")


def is_exact(surrogate: Surrogate) -> bool:
    """Return whether this is the simulator itself, which has no error and no design box."""
    return bool(getattr(surrogate, "exact", False))


def design_box(surrogate: Surrogate) -> Box | None:
    """Return the box that a surrogate is to be trusted in; None where it is the simulator itself."""
    return None if is_exact(surrogate) else getattr(surrogate, "domain", None)


def number_of_functions(surrogate: Surrogate, asked: int) -> int:
    """Return how many draws of the whole function say all that `asked` would: one where they are all the same."""
    return 1 if is_exact(surrogate) else asked


def has_derivative(surrogate: Surrogate) -> bool:
    """Return whether `scores_reverse` can be asked for; a surrogate that says nothing of it has one."""
    return bool(getattr(surrogate, "differentiable", True))


@taught
@final
@dataclass(frozen=True, eq=False)
class DirectSimulator:
    """The simulator itself, to calibrate without a surrogate.

    Use it when a run takes milliseconds, or to compare a surrogate's posterior with the exact one: it goes where the
    surrogate goes, ``uq.Calibration(uq.DirectSimulator(...), observations, noise=...)``, and nothing else changes. A
    calibration evaluates it ten thousands of times, in this process; nothing is stored. For a simulator that takes
    seconds, or runs as a program of its own, run a design with `run` and fit a surrogate.

    Parameters
    ----------
    function
        Called as ``function(**point)`` with each parameter and condition by name. Returns a mapping output -> number or
        array; when there is one output, its value alone will do.
        A calibration calls it with BLAS limited to one thread.
    space
        Parameters with their priors, and the conditions. The whole prior is used: there is no design box.
    outputs
        Name of each output and its dims, ``()`` for a scalar: ``{"conc": ("day",), "peak": ()}``.
    coords
        Values of every dim, shape (m,): ``{"day": days}``. Give those that were observed: what lies between them is
        interpolated, and the error of that is measured at 64 points and counted.
    units
        Units of the outputs.
    backend
        What the function computes with:

        - "numpy" (default): a black box that takes floats. There is no derivative, so it needs a sampler without
          gradients.
        - "pytensor": takes scalar tensors and returns PyTensor expressions, as in a model of PyMC. NUTS has its
          derivatives, and all is compiled into one graph.
        - "jax": takes scalars and returns `jax.numpy` arrays, in float64; it is compiled by `jax.jit`, and NUTS has its
          derivatives.

        A "numpy" function is called by one thread at a time. Functions of the other two run in as many threads as NUTS
        has `cores`. Python code inside of them (an operation of your own, `jax.pure_callback`) has to allow that; if it
        does not, use ``NUTS(cores=1)``.
    vectorized
        With "numpy": whether the function takes arrays of shape (n,), many points at once, and returns arrays of shape
        (n, ...). It is much faster.
    failures
        What it means when the function raises or returns a number that is not finite: "error" (default), or
        "impossible", to give such parameters the likelihood zero, as when the measured patient is alive and the
        simulated one is not. Under NUTS a number that is not finite is a divergence, which the verdict counts, and an
        exception stops the sampler.

    Raises
    ------
    InputError
        When outputs, dims or coordinates cannot be meant, or the function does not take the inputs.
    OutputError
        When called: a result is missing, complex, of the wrong shape, or not finite.
    SimulatorFailed
        When called: the function raised an exception.
    ConformanceError
        When a derivative is asked of a black box.

    Examples
    --------
    >>> import numpy as np, xarray as xr, uqms as uq
    >>> hours = np.array([0.0, 1.0, 2.0])
    >>> space = uq.ParameterSpace(rate=uq.LogNormal(median=1.0, sigma=0.5))
    >>> simulator = DirectSimulator(
    ...     lambda rate: np.exp(-rate * hours), space=space, outputs={"amount": ("hour",)}, coords={"hour": hours}
    ... )
    >>> data = xr.DataArray([1.02, 0.4, 0.11], dims="hour", coords={"hour": hours}, name="amount")
    >>> problem = uq.Calibration(simulator, data, noise=uq.GaussianNoise(sd=0.05))
    >>> problem.log_likelihood({"rate": [0.5, 1.0]}).shape
    (2,)
    """

    function: Callable[..., Any]
    space: ParameterSpace = field(kw_only=True)
    outputs: Mapping[str, tuple[str, ...]] = field(kw_only=True)
    coords: Mapping[str, ArrayLike] = field(kw_only=True, default_factory=dict)
    units: Mapping[str, str] = field(kw_only=True, default_factory=dict)
    backend: Literal["numpy", "pytensor", "jax"] = field(kw_only=True, default="numpy")
    vectorized: bool = field(kw_only=True, default=False)
    failures: Literal["error", "impossible"] = field(kw_only=True, default="error")

    def __post_init__(self) -> None:
        if not isinstance(self.space, ParameterSpace):
            raise InputError(f"space is a {type(self.space).__name__}; give ParameterSpace(...).")
        if self.backend not in BACKENDS:
            raise InputError(f"backend is {self.backend!r}; give one of {', '.join(map(repr, BACKENDS))}.")
        if self.failures not in ("error", "impossible"):
            raise InputError(f"failures is {self.failures!r}; give 'error' or 'impossible'.")
        if self.vectorized and self.backend != "numpy":
            raise InputError(
                f"vectorized=True with backend={self.backend!r}: such a function takes one point, and many at once are "
                "made of it. Leave vectorized out."
            )
        _check_function(self.function, self.space.inputs)
        coords, outputs = _checked_layout(self.outputs, self.coords, self.space.inputs)
        unknown = sorted(set(self.units) - set(outputs))
        if unknown:
            raise InputError(f"units are given for {unknown}; the outputs are {list(outputs)}.")
        object.__setattr__(self, "coords", MappingProxyType(coords))
        object.__setattr__(self, "outputs", MappingProxyType(outputs))
        object.__setattr__(self, "units", MappingProxyType(dict(self.units)))

    def __repr__(self) -> str:
        named = ", ".join(f"{name}{dims}" if dims else name for name, dims in self.outputs.items())
        return f"<DirectSimulator of {named} by {', '.join(self.space.inputs)}; backend {self.backend}>"

    # ------------------------------------------------------------------ what a surrogate offers

    @cached_property
    def domain(self) -> Box:
        """The centre of the prior, as a frame for the unit cube; the simulator is exact outside of it too."""
        return self.space.frame()

    @cached_property
    def layouts(self) -> Mapping[str, Layout]:
        """Dims, coordinates and unit of every output."""
        return {
            name: Layout(dims, {dim: np.asarray(self.coords[dim]) for dim in dims}, self.units.get(name, ""))
            for name, dims in self.outputs.items()
        }

    @property
    def attrs(self) -> Mapping[str, str]:
        """The space, where a calibration looks for the priors."""
        return {"space": self.space.to_json()}

    @property
    def exact(self) -> bool:
        """True: there is no error to integrate out, and no box to stay within."""
        return True

    @property
    def differentiable(self) -> bool:
        """Whether there is a derivative: of a black box there is none."""
        return self.backend != "numpy"

    def scores(self, u: Array) -> Scores:
        """Return the outputs as mean (1, ..., k, q), and a covariance (1, ..., q, k, k) of zeros."""
        mean = self.means(u)
        *lead, k, q = mean.shape
        return Scores(mean[None], np.broadcast_to(0.0, (1, *lead, q, k, k)), np.zeros(1))

    def scores_reverse(self, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
        """Return the derivative (k, d) of sum(mean * mean_bar) at `u` (k, d).

        Raises
        ------
        ConformanceError
            When the function is a black box.
        """
        x = np.asarray(self.domain.from_unit(u))
        return np.asarray(self._reverse(x, np.asarray(mean_bar)[0]) / self.domain.unit_gradient(x))

    def decode(self, output: str, coords: Mapping[str, ArrayLike] | None = None) -> Decoder:
        """Return the rows of an output at pointwise coordinates (all simulated ones when None).

        Raises
        ------
        InputError
            When there is no such output.
        """
        offset, basis, truncation = self.sparse_decode(output, coords)
        return Decoder(offset, basis.toarray(), truncation)

    def sparse_decode(
        self, output: str, coords: Mapping[str, ArrayLike] | None = None
    ) -> tuple[Array, sparse.csr_array, Array]:
        """Return offset (N,), basis (N, q) and truncation (N, t) as `decode` does, the basis as a sparse matrix.

        A coordinate of the simulator's own is one of its outputs: the basis has one entry a row there, where a dense
        one of 10 000 coordinates takes 800 MB.

        Raises
        ------
        InputError
            When there is no such output.
        """
        names = list(self.layouts)
        if output not in names:
            raise InputError(f"The simulator has no output {output!r}; it has {names}.")
        widths = [max(0, layout.shape[0] - 1) if len(layout.dims) == 1 else 0 for layout in self.layouts.values()]
        widths = [min(width, INTERVALS) if width > 1 else 0 for width in widths]  # of the omegas of interpolation
        index = names.index(output)
        layout, columns = self.layouts[output], self._places[output]
        m = columns.stop - columns.start
        sd = self._interpolation_sd(output) if _between(layout, coords) else np.zeros(widths[index] and m - 1)
        own = OutputBasis(output, layout, np.zeros(m), np.zeros((m, 0)), np.zeros((m, 0)), sd)
        if coords is None:
            place, between, bumps = np.arange(m), np.zeros(m, dtype=np.bool_), np.zeros((m, own.latent))
        else:
            place, between, bumps = own.locate(coords)
        row, column, weight = np.flatnonzero(~between), place[~between], np.ones(int((~between).sum()))
        if coords is not None and between.any():
            (dim,) = layout.dims
            at = np.asarray(coords[dim], dtype=np.float64).reshape(-1)[between]
            found = spline_weights(layout.coords[dim], at).tocoo()
            row = np.concatenate([row, np.flatnonzero(between)[found.coords[0]]])
            column, weight = np.concatenate([column, found.coords[1]]), np.concatenate([weight, found.data])
        basis = sparse.csr_array((weight, (row, columns.start + column)), shape=(len(place), self._q))
        truncation = np.zeros((len(place), sum(widths)))
        truncation[:, sum(widths[:index]) : sum(widths[: index + 1])] = bumps
        return np.zeros(len(place)), basis, truncation

    def functions(self, n: int, rng: RandomState) -> FunctionDraws:
        """Return n draws of the whole function, which are all the same one."""
        return lambda u: np.repeat(self.means(u)[None], n, axis=0)

    # ------------------------------------------------------------------ evaluation

    def means(self, u: Array) -> Array:
        """Return the outputs (..., k, q) at inputs `u` (..., k, d) of the unit cube, NaN where a failure is allowed."""
        x = np.asarray(self.domain.from_unit(u))
        return self.evaluate(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], self._q)

    def evaluate(self, x: Array) -> Array:
        """Return all outputs (n, q), flattened one by another, at inputs `x` (n, d) in their own units.

        Raises
        ------
        OutputError
            When a result is missing, unknown, complex or of the wrong shape; or not finite, unless failures are said to
            be "impossible": then all outputs of such a point are NaN.
        SimulatorFailed
            When the function raises, unless failures are "impossible" and it was called with this point alone.
        """
        x = np.asarray(x, dtype=np.float64)
        if not len(x):
            return np.zeros((0, self._q))
        if self.backend == "numpy" and not self.vectorized:
            y = np.stack([self._one(row) for row in x])
        else:
            y = self._many(x)
        failed = ~np.isfinite(y).all(axis=1)
        if failed.any() and self.failures == "error":
            row = int(np.flatnonzero(failed)[0])
            column = int(np.flatnonzero(~np.isfinite(y[row]))[0])
            name = next(name for name, place in self._places.items() if place.start <= column < place.stop)
            raise OutputError(f"The simulator gives {y[row, column]} in {name!r} at {self._said(x[row])}. {REPAIR}")
        y[failed] = np.nan
        return y

    @cached_property
    def _places(self) -> dict[str, slice]:
        ends = np.cumsum([int(np.prod(layout.shape)) for layout in self.layouts.values()]).tolist()
        return {name: slice(a, b) for name, a, b in zip(self.layouts, [0, *ends[:-1]], ends, strict=True)}

    @property
    def _q(self) -> int:
        return int(next(reversed(self._places.values())).stop)

    def _said(self, row: Array) -> str:
        return ", ".join(f"{name} = {value:.17g}" for name, value in zip(self.space.inputs, row, strict=True))

    def _one(self, row: Array) -> Array:
        point = dict(zip(self.space.inputs, row.tolist(), strict=True))
        try:
            got = self.function(**point)
        except Exception as error:
            if self.failures == "impossible":
                return np.full(self._q, np.nan)
            raise SimulatorFailed(
                f"The simulator raised {type(error).__name__} at {self._said(row)}: {error}. {REPAIR}"
            ) from error
        return np.concatenate([self._checked(name, value, None).ravel() for name, value in self._named(got).items()])

    def _many(self, x: Array) -> Array:
        call = {"numpy": self._call_arrays, "pytensor": self._call_pytensor, "jax": self._call_jax}[self.backend]
        try:
            got = call(x)
        except UqmsError:
            raise
        except Exception as error:
            text = str(error).splitlines()[0] if str(error) else ""
            raise SimulatorFailed(
                f"The simulator raised {type(error).__name__} for {len(x)} points, the first of which is "
                f"{self._said(x[0])}: {text}. A function of many points must not raise because of one: let it return "
                "NaN there."
            ) from error
        return np.column_stack([self._checked(name, value, len(x)).reshape(len(x), -1) for name, value in got.items()])

    def _call_arrays(self, x: Array) -> dict[str, Any]:
        return self._named(self.function(**dict(zip(self.space.inputs, x.T.copy(), strict=True))))

    def _call_pytensor(self, x: Array) -> dict[str, Any]:
        return dict(zip(self.layouts, self._pytensor.values(*x.T.copy()), strict=True))

    def _call_jax(self, x: Array) -> dict[str, Any]:
        return dict(self._jax.values(x))

    def _named(self, got: Any) -> dict[str, Any]:
        """Return what the function returned by output, in the outputs' order."""
        names = list(self.outputs)
        if not isinstance(got, Mapping):
            if len(names) > 1:
                raise OutputError(
                    f"The simulator returned a {type(got).__name__}, but it has {len(names)} outputs; return a mapping "
                    f"with {', '.join(names)}."
                )
            return {names[0]: got}
        if set(got) != set(names):
            raise OutputError(f"The simulator returned {list(got)}; its outputs are {names}.")
        return {name: got[name] for name in names}

    def _checked(self, name: str, value: Any, n: int | None) -> Array:
        """Return an output as float64, of the shape of its dims, behind n points where there are several."""
        layout = self.layouts[name]
        wanted = layout.shape if n is None else (n, *layout.shape)
        said = f"{wanted} for dims {layout.dims}" if layout.dims else "one number" if n is None else f"{wanted}"
        if isinstance(value, xr.DataArray):
            value = _aligned(name, value, layout)
        try:
            array = np.asarray(np.ma.filled(value, np.nan) if isinstance(value, np.ma.MaskedArray) else value)
        except ValueError as error:
            raise OutputError(f"The simulator's {name!r} is no array ({error}); give {said}.") from error
        if array.dtype.kind not in "fiub":
            kind = "complex numbers" if array.dtype.kind == "c" else f"values of type {array.dtype}"
            raise OutputError(f"The simulator's {name!r} has {kind}; give real numbers, {said}.")
        if array.shape != wanted:
            at = "" if n is None else f" for {n} points"
            raise OutputError(f"The simulator's {name!r} has shape {array.shape}{at}; give {said}.")
        return array.astype(np.float64)

    def _interpolation_sd(self, output: str) -> Array:
        """Return the sd of the interpolation's error in each interval between coordinates, over the box."""
        coords = self.layouts[output].coords[self.layouts[output].dims[0]]
        return interpolation_error(coords, self._examples[:, self._places[output]])

    @cached_property
    def _examples(self) -> Array:
        y = self.evaluate(np.asarray(self.domain.from_unit(sobol_points(MEASURED, self.domain.d))))
        y = y[np.isfinite(y).all(axis=1)]
        if len(y) < MEASURED // 4:
            raise OutputError(
                f"The simulator fails at {MEASURED - len(y)} of {MEASURED} points over the prior, so the error of "
                "interpolation cannot be measured. Let it return the observed coordinates themselves."
            )
        return y

    # ------------------------------------------------------------------ derivatives

    def expression(self, columns: list[Any]) -> Any:
        """Return all outputs (n, q) as a PyTensor expression of each input's tensor (n,), for backend "pytensor"."""
        return self._pytensor.flat(columns)

    def _reverse(self, x: Array, bar: Array) -> Array:
        """Return the derivative (n, d) of sum(y * bar) by the inputs in their own units."""
        if self.backend == "pytensor":
            return np.column_stack([np.asarray(part) for part in self._pytensor.reverse(*x.T.copy(), bar)])
        if self.backend == "jax":
            return np.asarray(self._jax.reverse(x, bar))
        raise ConformanceError(
            "This simulator is a black box without a derivative, which gradients and NUTS need. Sample with "
            "uq.SMC() or another sampler without gradients; or write the function in PyTensor or JAX and use "
            "DirectSimulator(..., backend='pytensor') or backend='jax'; or fit a surrogate."
        )

    @cached_property
    def _pytensor(self) -> Any:
        from uqms.calibration._backends import PyTensorFunction

        return PyTensorFunction(
            self.function, self.space.inputs, {n: lo.shape for n, lo in self.layouts.items()}, self._named
        )

    @cached_property
    def _jax(self) -> Any:
        from uqms.calibration._backends import JaxFunction

        return JaxFunction(
            self.function, self.space.inputs, {n: lo.shape for n, lo in self.layouts.items()}, self._named
        )


def _check_function(function: object, inputs: tuple[str, ...]) -> None:
    if not callable(function):
        raise InputError(f"function is {function!r}, which cannot be called; give a Python function.")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a compiled function that does not say what it takes
        return
    try:
        signature.bind(**dict.fromkeys(inputs, 0.0))
    except TypeError as error:
        raise InputError(
            f"The function takes {signature}, but it is called with the inputs {', '.join(inputs)}: {error}."
        ) from error


def _checked_layout(
    outputs: object, coords: object, inputs: tuple[str, ...]
) -> tuple[dict[str, Array], dict[str, tuple[str, ...]]]:
    if not isinstance(outputs, Mapping) or not outputs:
        raise InputError(f"outputs is {outputs!r}; give name and dims of each: {{'conc': ('day',), 'peak': ()}}.")
    if not isinstance(coords, Mapping):
        raise InputError(f"coords is {coords!r}; give the values of every dim: {{'day': days}}.")
    dims: dict[str, tuple[str, ...]] = {}
    for name, own in outputs.items():
        if not isinstance(name, str) or isinstance(own, str) or not all(isinstance(dim, str) for dim in own):
            raise InputError(f"outputs: {name!r} has {own!r}; give a tuple of dims, () for a scalar.")
        dims[name] = tuple(own)
    used = {dim for own in dims.values() for dim in own}
    if used != set(coords):
        raise InputError(f"coords are given for {sorted(coords)}, but the outputs have the dims {sorted(used)}.")
    clash = sorted((set(dims) | used) & set(inputs)) + sorted(set(dims) & used)
    if clash:
        raise InputError(f"{clash} name two things: inputs, outputs and dims need names of their own.")
    values: dict[str, Array] = {}
    for dim, given in coords.items():
        try:
            at = np.array(given, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"coords: {dim!r} is {given!r}; give numbers.") from error
        if at.ndim != 1 or not len(at) or not np.isfinite(at).all() or len(np.unique(at)) < len(at):
            raise InputError(f"coords: {dim!r} has shape {at.shape}; give different finite numbers in one dimension.")
        at.flags.writeable = False
        values[dim] = at
    return values, dims


def _aligned(name: str, value: xr.DataArray, layout: Layout) -> Array:
    """Return a DataArray's values in the order of the output's dims; points, where there are several, come first."""
    lost = [dim for dim in layout.dims if dim not in value.dims]
    if lost:
        raise OutputError(f"The simulator's {name!r} has dims {value.dims}; give {layout.dims}.")
    for dim in layout.dims:
        if dim in value.coords and not np.array_equal(value[dim].values, layout.coords[dim]):
            raise OutputError(f"The simulator's {name!r} has other coordinates along {dim!r} than declared.")
    return np.asarray(value.transpose(..., *layout.dims).values)


def _between(layout: Layout, coords: Mapping[str, ArrayLike] | None) -> bool:
    """Return whether some coordinate is not one of the output's own."""
    if coords is None or len(layout.dims) != 1 or set(coords) != set(layout.dims):
        return False
    grid = layout.coords[layout.dims[0]]
    at = np.asarray(coords[layout.dims[0]], dtype=np.float64).reshape(-1)
    slack = 1e-9 * max(float(np.ptp(grid)), float(np.abs(grid).max()), 1e-300)
    return bool((np.abs(at - grid[nearest(grid, at)]) > slack).any())
