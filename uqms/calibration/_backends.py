"""Functions that are written in PyTensor or JAX, made into compiled functions of many points and their derivatives.

Both offer `values`, from inputs of n points to outputs (n, ...), and `reverse`, the derivative of their weighted sum.
Chains of a sampler call them from several threads at once.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from threading import Lock
from typing import Any, final

import numpy as np

from uqms._typing import Array
from uqms.errors import InputError, OutputError
from uqms.surrogates.jax_functions import JaxInDouble

__all__ = ["JaxFunction", "PyTensorFunction"]

_COMPILING = Lock()  # PyTensor compiles in one thread at a time

type Named = Callable[[Any], dict[str, Any]]


@final
class PyTensorFunction:
    """Outputs of one point as PyTensor expressions, and what is compiled of them."""

    def __init__(
        self, function: Callable[..., Any], inputs: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]], named: Named
    ) -> None:
        import pytensor.tensor as pt

        self.point = [pt.dscalar(name) for name in inputs]
        got = named(function(**dict(zip(inputs, self.point, strict=True))))
        # A sum of zeros makes every output depend on the inputs, so that a constant one has many points too.
        nothing = 0.0 * pt.add(*self.point) if len(self.point) > 1 else 0.0 * self.point[0]
        self.outputs = []
        for name, shape in shapes.items():
            try:
                value = pt.as_tensor(got[name])
            except Exception as error:
                raise OutputError(
                    f"The simulator's {name!r} is a {type(got[name]).__name__}; with backend='pytensor' it must be a "
                    "tensor: stack numbers with pytensor.tensor.stack."
                ) from error
            if value.dtype.startswith("complex"):
                raise OutputError(f"The simulator's {name!r} has complex numbers; give real ones.")
            if value.ndim != len(shape):
                raise OutputError(
                    f"The simulator's {name!r} has {value.ndim} dimensions; the output has {len(shape)}, shape {shape}."
                )
            self.outputs.append(value.astype("float64") + nothing)

    def at(self, columns: list[Any]) -> list[Any]:
        """Return the outputs (n, ...) as expressions of inputs (n,)."""
        from pytensor.graph.replace import vectorize_graph

        return list(vectorize_graph(self.outputs, dict(zip(self.point, columns, strict=True))))

    def flat(self, columns: list[Any]) -> Any:
        """Return all outputs (n, q), one by another, as an expression of inputs (n,)."""
        import pytensor.tensor as pt

        return pt.concatenate([value.reshape((value.shape[0], -1)) for value in self.at(columns)], axis=1)

    @cached_property
    def values(self) -> "_Copied":
        """Compiled function from inputs (n,) to the list of outputs (n, ...)."""
        columns = self._columns()
        return _Copied(self._compile(columns, self.at(columns)))

    @cached_property
    def reverse(self) -> "_Copied":
        """Compiled function from inputs (n,) and weights (n, q) to the derivatives (n,) of the weighted sum."""
        import pytensor.tensor as pt
        from pytensor.gradient import grad

        columns, bar = self._columns(), pt.dmatrix("bar")
        slopes = grad(pt.sum(self.flat(columns) * bar), columns, disconnected_inputs="ignore")
        return _Copied(self._compile([*columns, bar], slopes))

    def _columns(self) -> list[Any]:
        import pytensor.tensor as pt

        return [pt.dvector(one.name) for one in self.point]

    def _compile(self, inputs: list[Any], outputs: list[Any]) -> Any:
        import pytensor
        from pytensor.graph.utils import MissingInputError

        try:
            with _COMPILING:
                return pytensor.function(inputs, outputs, on_unused_input="ignore")
        except MissingInputError as error:
            raise InputError(
                "The simulator's expression depends on tensors that are none of its inputs, such as variables of a "
                "PyMC model. Make each an argument of the function, with a prior or a range in the space."
            ) from error


@final
class _Copied:
    """A function of PyTensor that several threads may call at once, with one copy for each call in progress.

    A function holds the inputs and outputs of its call. Called a second time meanwhile, it raises an error, or returns
    outputs of the other call. A copy shares the compiled code; a lock would make the threads wait for each other.
    """

    def __init__(self, function: Any) -> None:
        self._function, self._free = function, [function]

    def __call__(self, *inputs: Array) -> list[Array]:
        """Return the outputs."""
        try:
            own = self._free.pop()  # it and `append` are atomic
        except IndexError:
            with _COMPILING:
                own = self._function.copy()
        try:
            outputs: list[Array] = own(*inputs)
        finally:
            self._free.append(own)
        return outputs


@final
class JaxFunction:
    """A function of JAX scalars, compiled for many points in float64."""

    def __init__(
        self, function: Callable[..., Any], inputs: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]], named: Named
    ) -> None:
        self._double = JaxInDouble("backend='jax'")
        jax = self._double.jax

        def point(x: Any) -> dict[str, Any]:
            return {
                name: jax.numpy.asarray(one)
                for name, one in named(function(**dict(zip(inputs, x, strict=True)))).items()
            }

        def flat(x: Any) -> Any:
            return jax.numpy.concatenate([jax.numpy.ravel(one).astype("float64") for one in point(x).values()])

        def weighted(x: Any, bar: Any) -> Any:
            return jax.numpy.vdot(flat(x), bar)

        self._names = tuple(shapes)
        self._values = jax.jit(jax.vmap(point))
        self._reverse = jax.jit(jax.vmap(jax.grad(weighted)))

    def values(self, x: Array) -> dict[str, Array]:
        """Return every output (n, ...) at x (n, d)."""
        with self._double.running():  # JAX computes in float32 unless told otherwise
            got = self._values(np.ascontiguousarray(x))
        return {name: np.asarray(got[name]) for name in self._names}

    def reverse(self, x: Array, bar: Array) -> Array:
        """Return the derivative (n, d) of the sum of the outputs, weighted by `bar` (n, q)."""
        with self._double.running():
            return np.array(self._reverse(np.ascontiguousarray(x), np.ascontiguousarray(bar)), dtype=np.float64)
