"""A kernel that is written once, as a JAX function of two inputs: JAX gives every derivative.

==========  =============================================================  =========
symbol      meaning                                                        shape
==========  =============================================================  =========
u, x        inputs in the unit cube                                        (k, d), (n, d)
ell         length scales, one per input, then the other hyperparameters   (p,)
kappa       correlation between the inputs                                 (k, n)
bar         derivative of what is computed by kappa                        (k, n)
==========  =============================================================  =========

Compiled code of uqms does not know such a kernel (`layout` is None), so prediction takes the matrix products of
`process`. JAX compiles anew for each shape; rows are padded, so that there are few shapes.
"""

import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NoReturn, final

import numpy as np

from uqms._teaching import taught_construction
from uqms._typing import Array, Ints
from uqms.errors import InputError
from uqms.parameters import LogNormal
from uqms.surrogates.jax_functions import JaxInDouble, is_double
from uqms.surrogates.kernels import Kernel, settings_of

__all__ = ["JaxKernel", "compiled_of", "padded"]

MAX_SDS = 5.0  # of the logarithm of a hyperparameter, from the median of its prior
SIZES = 3  # binary digits of a padded size: at most a quarter of the rows is padding
PROBES = 6  # inputs at which a kernel is looked at before it is used
ROUNDING = 1e-10


@taught_construction
class JaxKernel(Kernel):
    """A kernel of your own as one JAX function of two inputs: the base of kernels that no scaled distance gives.

    Derive a frozen dataclass and write one method, `pair`, in `jax.numpy`. Periodic and non-stationary correlations,
    input warping and normalised linear or polynomial terms are possible. JAX differentiates it, by the hyperparameters
    when they are learned, and by the inputs for calibration. Its fields are settings: numbers that stay as they are.
    Write sums and products of kernels inside of `pair`. Check it with `uqms.testing.check_kernel` before you trust it.

    Where the correlation is a function of the scaled distance, `RadialKernel` is faster: prediction with a `JaxKernel`
    is not compiled with the likelihood. In a process that is forked after JAX was used it raises an error, since JAX
    would deadlock there: start workers with "spawn".

    Raises
    ------
    InputError
        When it is first used: if JAX is not installed, the class is no frozen dataclass, a field is no number, or
        `pair` cannot be traced, computes something in float32, or is no correlation.

    References
    ----------
    Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, sections 4.2.3 and 4.2.4,
    doi:10.7551/mitpress/3206.001.0001.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import uqms as uq
    >>> @dataclass(frozen=True)
    ... class Periodic(uq.JaxKernel):
    ...     period: float = 0.5
    ...
    ...     def pair(self, u, x, ell):
    ...         import jax.numpy as jnp
    ...
    ...         return jnp.exp(-2.0 * jnp.sum((jnp.sin(jnp.pi * (u - x) / self.period) / ell) ** 2))
    >>> str(Periodic(0.25))
    'Periodic(period=0.25)'
    """

    @abstractmethod
    def pair(self, *arguments: Any, **named: Any) -> Any:
        """Return the correlation of two inputs: called as ``pair(u, x, ell)``, or ``pair(u, x, ell, name=...)``.

        Parameters
        ----------
        u, x
            Two inputs in the unit cube, (d,) each.
        ell
            Length scales, one per input, (d,).
        **named
            The hyperparameters of `priors`, by name.

        Returns
        -------
        jax.Array
            A number, shape (): symmetric in u and x, 1 where they are equal, and with finite derivatives there too.
        """

    def priors(self, d: int) -> Mapping[str, LogNormal | Sequence[LogNormal]]:
        """Return the priors of hyperparameters beside the length scales, by name; several of one name as a sequence.

        They are learned with the length scales, and `pair` gets each as a number or, of a sequence, as an array.
        """
        return {}

    def places(self, d: int) -> Ints:
        """Return the place in `ell` of the length scale of each input, (1, d)."""
        return np.arange(d)[None]

    def more(self, d: int) -> tuple[Array, Array, Array]:
        """Return location, sd and bounds of the logarithms of the other hyperparameters."""
        priors = [one for _, several in self._priors(d) for one in several]
        location = np.array([one.normal_on_scale.mean for one in priors])
        sd = np.array([one.normal_on_scale.sd for one in priors])
        return location, sd, np.column_stack([location - MAX_SDS * sd, location + MAX_SDS * sd])

    def _priors(self, d: int) -> list[tuple[str, tuple[LogNormal, ...]]]:
        found = []
        for name, value in self.priors(d).items():
            several = (value,) if isinstance(value, LogNormal) else tuple(value) if _is_sequence(value) else ()
            if not several or not all(isinstance(one, LogNormal) for one in several):
                raise InputError(
                    f"{type(self).__name__}.priors: {name!r} has the prior {value!r}; give "
                    "LogNormal(median=1.0, sigma=0.5), or a list of them for an array of hyperparameters."
                )
            found.append((name, several))
        return found

    def layout(self, d: int) -> None:
        """Return None: compiled code does not know the kernel.

        Raises
        ------
        InputError
            When JAX is not installed, or the settings are none.
        """
        compiled_of(self)

    def linearised(self, u: Array, x: Array, ell: Array) -> "JaxCorrelation":
        """Return the correlation (k, n) with its reverse derivatives."""
        return JaxCorrelation(compiled_of(self).checked(u.shape[1]), u, x, ell)

    def correlation_within(self, u: Array, ell: Array) -> Array:
        """Return the correlation (s, k, k) between the rows of each member of a batch (s, k, d)."""
        if u.shape[1] == 1:  # each input with itself
            return np.ones((len(u), 1, 1))
        return compiled_of(self).checked(u.shape[2]).within(u, ell)

    def __add__(self, other: object) -> NoReturn:
        self._refuse("sum", "+")

    def __mul__(self, other: object) -> NoReturn:
        self._refuse("product", "*")

    __radd__, __rmul__ = __add__, __mul__

    def _refuse(self, what: str, sign: str) -> NoReturn:
        name = type(self).__name__
        raise InputError(
            f"{name} is a JaxKernel, and there is no {what} of it with other kernels. Write the {what} inside of "
            f"{name}.pair: return a {sign} b, where a and b are both correlations"
            + (", as weight * a + (1.0 - weight) * b." if sign == "+" else ".")
        )

    def __str__(self) -> str:
        return repr(self).removesuffix("()")


def _is_sequence(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


@final
@dataclass(frozen=True, eq=False)
class JaxCorrelation:
    """The correlation of a `JaxKernel` between u and x; derivatives are computed when they are asked for."""

    compiled: "Compiled"
    u: Array
    x: Array
    ell: Array

    @cached_property
    def kappa(self) -> Array:
        """Correlation (k, n)."""
        return self.compiled.values(self.u, self.x, self.ell)

    def reverse_inputs(self, bar: Array) -> Array:
        """Return the derivative (k, d) of sum(kappa * bar) by u, with x held."""
        return self.compiled.by_inputs(self.u, self.x, self.ell, bar)

    def reverse_logs(self, bar: Array) -> Array:
        """Return the derivative (p,) of sum(kappa * bar) by the logarithms of ell."""
        return self.compiled.by_logs(self.u, self.x, self.ell, bar)


@cache
def _compiled(kernel: JaxKernel) -> "Compiled":
    settings_of(kernel)
    return Compiled(kernel)


def compiled_of(kernel: JaxKernel) -> "Compiled":
    """Return the functions of a kernel in this process.

    Raises
    ------
    InputError
        When JAX is not installed, or the settings are none.
    """
    try:
        return _compiled(kernel)
    except TypeError:
        settings_of(kernel)  # which says why it cannot be hashed
        raise


@final
class Compiled:
    """The correlations of a kernel between many inputs, and their reverse derivatives, compiled in float64."""

    def __init__(self, kernel: JaxKernel) -> None:
        self.double = JaxInDouble(f"The kernel {type(kernel).__name__}, a JaxKernel,")
        self._kernel, self._known = kernel, set[int]()
        jax = self.double.jax

        def pair(u: Any, x: Any, ell: Any) -> Any:
            d, named, at = u.shape[-1], {}, u.shape[-1]
            for name, priors in kernel._priors(d):
                one = isinstance(kernel.priors(d)[name], LogNormal)
                named[name] = ell[at] if one else ell[at : at + len(priors)]
                at += len(priors)
            return kernel.pair(u, x, ell[:d], **named)

        def between(u: Any, x: Any, ell: Any) -> Any:
            return jax.vmap(lambda one: jax.vmap(lambda other: pair(one, other, ell))(x))(u)

        def weighted(u: Any, x: Any, ell: Any, bar: Any) -> Any:
            return jax.numpy.vdot(between(u, x, ell), bar)

        self._pair, self.between = pair, jax.jit(between)
        self._within = jax.jit(jax.vmap(lambda u, ell: between(u, u, ell), in_axes=(0, None)))
        self._by_inputs, self._by_ell = jax.jit(jax.grad(weighted, 0)), jax.jit(jax.grad(weighted, 2))

    def values(self, u: Array, x: Array, ell: Array) -> Array:
        """Return the correlation (k, n)."""
        rows = padded(u)
        columns = rows if u is x else padded(x)
        with self.double.running():
            return np.array(self.between(rows, columns, ell))[: len(u), : len(x)]

    def within(self, u: Array, ell: Array) -> Array:
        """Return the correlation (s, k, k) between the rows of each member (s, k, d)."""
        with self.double.running():
            return np.array(self._within(padded(u), ell))[: len(u)]

    def by_inputs(self, u: Array, x: Array, ell: Array, bar: Array) -> Array:
        """Return the derivative (k, d) of sum(kappa * bar) by u."""
        with self.double.running():
            return np.array(self._by_inputs(*_all_padded(u, x, ell, bar)))[: len(u)]

    def by_logs(self, u: Array, x: Array, ell: Array, bar: Array) -> Array:
        """Return the derivative (p,) of sum(kappa * bar) by the logarithms of ell."""
        with self.double.running():
            return np.asarray(self._by_ell(*_all_padded(u, x, ell, bar))) * ell

    def checked(self, d: int) -> "Compiled":
        """Return the functions, once the kernel is known to be a correlation of d inputs in float64.

        Raises
        ------
        InputError
            With what `pair` does instead, and how to mend it.
        """
        if d not in self._known:
            self._check_traced(d)
            self._check_numbers(d)
            self._known.add(d)
        return self

    def _check_traced(self, d: int) -> None:
        name, kernel = f"{type(self._kernel).__name__}.pair", self._kernel
        ell = np.exp(np.append(np.zeros(d), kernel.more(d)[0]))
        more = [name for name, _ in kernel._priors(d)]
        call = f"pair({', '.join(['u', 'x', 'ell', *(f'{one}=...' for one in more)])})"
        try:
            with self.double.tracing():
                traced = self.double.jax.make_jaxpr(self._pair)(np.full(d, 0.3), np.full(d, 0.6), ell)
        except Exception as error:  # of the user's function
            reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
            raise InputError(
                f"{name} cannot be traced by JAX as {call} with u, x and ell of shape ({d},): {type(error).__name__}: "
                f"{reason} Use functions of jax.numpy, and jnp.where in the place of `if`. It is declared as "
                f"pair{inspect.signature(kernel.pair)}."
            ) from error
        shapes = [one.shape for one in traced.out_avals]
        if shapes != [()]:
            raise InputError(
                f"{name} returns arrays of shape {', '.join(map(str, shapes))} for two inputs of shape ({d},); return "
                "one number, the correlation: sum over the inputs with jnp.sum."
            )
        if not is_double(traced):
            raise InputError(
                f"{name} computes in float32 somewhere, and a correlation matrix then is not positive definite. Inputs "
                "are float64 and JAX computes in float64 here, but an array that jax.numpy made outside of the method "
                "is float32: keep constants as NumPy arrays (np.asarray(..., dtype=np.float64)), and leave "
                "jnp.float32 and astype out."
            )

    def _check_numbers(self, d: int) -> None:
        name = f"{type(self._kernel).__name__}.pair"
        u = np.random.default_rng(0).random((PROBES, d))
        ell = np.exp(np.append(np.zeros(d), self._kernel.more(d)[0]))
        kappa = self.values(u, u, ell)
        at = np.abs(np.diagonal(kappa) - 1.0)
        if not at.max() <= ROUNDING:
            worst = int(np.argmax(np.where(np.isnan(at), np.inf, at)))
            raise InputError(
                f"{name}(u, u, ell) is {kappa[worst, worst]:.6g} at u = {u[worst].round(3).tolist()}; a correlation is "
                "1 there, since uqms learns the variance itself. Divide k(u, x) by sqrt(k(u, u) k(x, x))."
            )
        off = float(np.max(np.abs(kappa - kappa.T)))
        if not off <= ROUNDING:
            raise InputError(
                f"{name}(u, x, ell) and (x, u, ell) differ by {off:.3g}; a correlation is symmetric in its two inputs."
            )
        if self._kernel.exchangeable:
            self._check_exchangeable(u)
        ones = np.ones(kappa.shape)
        slopes = self.by_inputs(u, u, ell, ones), self.by_logs(u, u, ell, ones)
        if not all(np.isfinite(one).all() for one in slopes):
            raise InputError(
                f"{name} has no finite derivative, perhaps where u and x are equal: jnp.sqrt and jnp.abs have none at "
                "0. Take the root of what is never 0, r = jnp.sqrt(jnp.where(r2 > 0.0, r2, 1e-300)), or write the "
                "correlation as a function of r2. Correlations with a kink at distance 0, such as exp(-r), do not fit."
            )

    def _check_exchangeable(self, u: Array) -> None:
        """Refuse a kernel that says that it treats inputs alike, and has some of its own for each."""
        name, d = type(self._kernel).__name__, u.shape[1]
        scales = np.linspace(0.7, 1.3, d)
        more = np.exp(self._kernel.more(d)[0])
        there = self.values(u, u, np.append(scales, more))
        other = np.ascontiguousarray(u[:, ::-1])
        off = float(np.max(np.abs(there - self.values(other, other, np.append(scales[::-1], more)))))
        several = [key for key, value in self._kernel.priors(d).items() if not isinstance(value, LogNormal)]
        if several or not off <= ROUNDING:
            what = f"{several} may have a value for each input" if several else f"another order changes it by {off:.3g}"
            raise InputError(
                f"{name}.exchangeable is True, which means that inputs may be re-ordered, with their length scales and "
                f"nothing else; but {what}. Leave `exchangeable` out."
            )


def _size(count: int) -> int:
    """Return the size to which `count` rows are padded: few binary digits, so that few shapes are compiled."""
    step = 1 << max(0, (count - 1).bit_length() - SIZES)
    return -(-count // step) * step


def padded(rows: Array) -> Array:
    """Return rows with copies of the last one behind them."""
    rows = np.ascontiguousarray(rows, dtype=np.float64)
    size = _size(len(rows))
    if size == len(rows):
        return rows
    return np.concatenate([rows, np.broadcast_to(rows[-1:], (size - len(rows), *rows.shape[1:]))])


def _all_padded(u: Array, x: Array, ell: Array, bar: Array) -> tuple[Array, Array, Array, Array]:
    """Return all with rows that the weights `bar` leave out."""
    rows, columns = padded(u), padded(x)
    weights = np.zeros((len(rows), len(columns)))
    weights[: len(u), : len(x)] = bar
    return rows, columns, ell, weights
