"""A surrogate that is written once, as JAX functions: `jax.vjp` gives its reverse derivatives.

JAX is imported when a `JaxSurrogate` is made. It computes in float64 within a local context, whatever its global flag
says, and a function in which something is float32 is refused: variances are differences of large numbers.

==========  ============================================================  =================
symbol      meaning                                                       shape
==========  ============================================================  =================
u           inputs of the unit cube                                       (..., k, d)
S           members of a batch, padded to a power of two                  ()
H           hyperparameter draws, the leading axis of what is returned    ()
==========  ============================================================  =================
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike

from uqms._typing import Array, RandomState
from uqms.errors import ConformanceError, InputError
from uqms.parameters import Box
from uqms.surrogates.jax_functions import JaxInDouble, is_double
from uqms.surrogates.outputs import Decoder, InputDecoder, Layout
from uqms.surrogates.plugging import draws_from_scores
from uqms.surrogates.process import Scores
from uqms.surrogates.protocol import FunctionDraws

__all__ = ["JaxSurrogate"]


@final
@dataclass(frozen=True, eq=False)
class JaxSurrogate:
    """A surrogate of your own as JAX functions, with its derivatives for free.

    Use it when mean and covariance of your model are a few lines of `jax.numpy`. Each new shape of inputs is compiled
    once (about a second). JAX does not run in a process that is forked after it ran, which raises an error: use "spawn"
    (`multiprocessing.get_context("spawn")`, `pm.sample(mp_ctx="spawn")`). uqms itself samples in one process.

    Parameters
    ----------
    domain
        The design box.
    layouts
        Dims, coordinates and unit of every output.
    function
        From inputs (k, d) to the mean (H, k, q) and the covariance (H, q, k, k) of scores, or (H, k, q, k, q) of
        correlated ones.
    rows
        From an output and its pointwise coordinates (None: all) to a `Decoder`; or, where rows depend on the input, to
        a JAX function from inputs (k, d) to offset (k, N), basis (k, N, q) and truncation (k, N, t), each with a
        leading axis H where hyperparameter draws have rows of their own.
    log_weights
        Of the hyperparameter draws, (H,).
    attrs
        For `Calibration`: "space" may hold the priors, `ParameterSpace.to_json()`.
    anchors
        Of function draws, see `draws_from_scores`.

    Raises
    ------
    InputError
        When JAX is not installed, or domain and layouts are none.
    ConformanceError
        When something is computed in float32.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> import jax.numpy as jnp  # doctest: +SKIP
    >>> box = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0)).box()
    >>> def line(u):  # doctest: +SKIP
    ...     f = jnp.concatenate([jnp.ones_like(u), u], axis=1)
    ...     return (f @ np.array([1.0, 2.0]))[None, :, None], 0.01 * (f @ f.T)[None, None]
    >>> surrogate = uq.surrogates.JaxSurrogate(  # doctest: +SKIP
    ...     box,
    ...     {"y": uq.surrogates.Layout()},
    ...     line,
    ...     lambda output, coords: uq.surrogates.Decoder(np.zeros(1), np.ones((1, 1)), np.zeros((1, 0))),
    ... )
    >>> uq.testing.check_surrogate(surrogate).ok  # doctest: +SKIP
    True
    """

    domain: Box
    layouts: Mapping[str, Layout]
    function: Callable[[Any], tuple[Any, Any]]
    rows: Callable[[str, Mapping[str, ArrayLike] | None], Any]
    log_weights: Array = field(default_factory=lambda: np.zeros(1))
    attrs: Mapping[str, str] = field(default_factory=dict)
    anchors: int = 256

    def __post_init__(self) -> None:
        if not isinstance(self.domain, Box):
            raise InputError(f"JaxSurrogate: domain is a {type(self.domain).__name__}; give uqms.Box(...).")
        if not self.layouts or not all(isinstance(one, Layout) for one in self.layouts.values()):
            raise InputError("JaxSurrogate: layouts is no mapping of output name to uqms.surrogates.Layout(...).")
        self._compiled.check(self.domain.d, "function")

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings: what JAX compiled belongs to this process."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @cached_property
    def _compiled(self) -> "_Compiled":
        return _Compiled(self.function, ("mean", "covariance"))

    @cached_property
    def _decoders(self) -> dict[tuple[Any, ...], Decoder | InputDecoder]:
        return {}

    def scores(self, u: Array) -> Scores:
        """Return mean (H, ..., k, q) and covariance (H, ..., q, k, k) or (H, ..., k, q, k, q) at inputs (..., k, d)."""
        mean, covariance = self._compiled.values(u)
        return Scores(mean, covariance, self.log_weights)

    def scores_reverse(self, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
        """Return the derivative (k, d) of sum(mean * mean_bar) + sum(covariance * covariance_bar)."""
        return self._compiled.reverse(u, (mean_bar, covariance_bar))

    def decode(self, output: str, coords: Mapping[str, ArrayLike] | None = None) -> Decoder | InputDecoder:
        """Return the rows of an output; the same coordinates give the same rows, which are compiled once.

        Raises
        ------
        InputError
            When there is no such output.
        """
        if output not in self.layouts:
            raise InputError(f"The surrogate has no output {output!r}; it has {list(self.layouts)}.")
        at = None if coords is None else {dim: np.asarray(value, dtype=np.float64) for dim, value in coords.items()}
        key = output, None if at is None else tuple((dim, column.tobytes()) for dim, column in at.items())
        if key not in self._decoders:
            found = self.rows(output, at)
            if callable(found):
                rows = _Compiled(found, ("offset", "basis", "truncation"))
                rows.check(self.domain.d, f"rows of {output!r}")
                found = JaxRows(rows)
            self._decoders[key] = found
        return self._decoders[key]

    def functions(self, n: int, rng: RandomState) -> FunctionDraws:
        """Return n draws of the whole function, made of the scores."""
        return draws_from_scores(self, n, rng, self.anchors)


@final
@dataclass(frozen=True, eq=False)
class JaxRows:
    """Rows that depend on the input, as a JAX function."""

    compiled: "_Compiled"

    def at(self, u: Array) -> Decoder:
        """Return offset (H or 1, ..., k, N), basis and truncation at inputs (..., k, d)."""
        return Decoder(*self.compiled.values(u))

    def reverse(self, u: Array, bar: Decoder) -> Array:
        """Return the derivative (k, d) of sum(rows * bar)."""
        return self.compiled.reverse(u, bar)


class _Compiled:
    """A JAX function of inputs (k, d) with several results, and its reverse derivative, compiled in float64."""

    def __init__(self, function: Callable[[Any], Any], names: tuple[str, ...]) -> None:
        self._double = JaxInDouble("JaxSurrogate")
        jax = self._double.jax

        def results(u: Any) -> tuple[Any, ...]:
            found = tuple(jax.numpy.asarray(one) for one in function(u))
            # Rows without an axis of hyperparameter draws are the same for all.
            return tuple(one[None] for one in found) if names[0] == "offset" and found[0].ndim == 2 else found

        def weighted(u: Any, bars: Any) -> Any:
            return sum(jax.numpy.vdot(one, bar) for one, bar in zip(results(u), bars, strict=True))

        self.names, self._results = names, results
        self._values, self._reverse = jax.jit(jax.vmap(results)), jax.jit(jax.grad(weighted))

    def check(self, d: int, what: str) -> None:
        """Refuse a function that returns something else, or computes something in less than float64.

        Raises
        ------
        ConformanceError
            With how to mend it.
        """
        with self._double.tracing():
            traced = self._double.jax.make_jaxpr(self._results)(np.full((2, d), 0.5))
        if len(traced.out_avals) != len(self.names):
            raise ConformanceError(
                f"JaxSurrogate: {what} returns {len(traced.out_avals)} results; give {', '.join(self.names)}."
            )
        if not is_double(traced):
            raise ConformanceError(
                f"JaxSurrogate: {what} computes in float32 somewhere, and variances, which are differences of large "
                "numbers, then have no digits left. Inputs are float64 and JAX computes in float64 here, but an array "
                "that jax.numpy made outside of the function is float32: keep constants as NumPy arrays "
                "(np.asarray(..., dtype=np.float64)), and leave jnp.float32 and astype out."
            )

    def values(self, u: Array) -> tuple[Array, ...]:
        """Return the results (H, ..., ...) at inputs (..., k, d)."""
        u = np.asarray(u, dtype=np.float64)
        lead, flat = u.shape[:-2], u.reshape(-1, *u.shape[-2:])
        count = len(flat)
        size = 1 << max(0, count - 1).bit_length()  # few shapes are compiled
        padded = np.concatenate([flat, np.broadcast_to(flat[-1:], (size - count, *flat.shape[1:]))])
        with self._double.running():
            found = [np.moveaxis(np.asarray(one)[:count], 0, 1) for one in self._values(padded)]
        return tuple(np.array(one).reshape(len(one), *lead, *one.shape[2:]) for one in found)

    def reverse(self, u: Array, bars: Sequence[Array]) -> Array:
        """Return the derivative (k, d) of the sum of the results, weighted by `bars`."""
        with self._double.running():
            found = self._reverse(np.asarray(u, dtype=np.float64), tuple(np.ascontiguousarray(one) for one in bars))
            return np.array(found, dtype=np.float64)
