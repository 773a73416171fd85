"""Kernels: the protocol of one's own, their sums and products, and the compiled algebra that all of uqms shares.

==========  =======================================================  ==================
symbol      meaning                                                  shape
==========  =======================================================  ==================
u           inputs in the unit cube of the design box                (k, d)
x           training inputs, same map                                (n, d)
ell         length scales, one per input                             (d,)
r2          squared scaled distance, |(u - x) / ell|²                (k, n)
kappa       correlation, a function f(r) of r = |(u - x) / ell|      (k, n)
g           f'(r) / r, so that d kappa / d u = g (u - x) / ell²      (k, n)
==========  =======================================================  ==================

A sum of products has kappa = sum over terms t of w_t times the product over its parts of their kappa, with weights w_t
that sum to 1. Each part has its own length scales. `ell` (p,) then holds the length scales of all parts, one part after
the other, and the weights of all terms but the first, divided by the first weight. All these numbers are positive.

Compiled code knows a part by a number, its *code*. The five common kernels have the codes 0 to 4 and loops of their
own. The code of any other kernel is the address of its compiled function, so that the loops need not know the kernel
when they are compiled. An address holds in one process only: files store names and settings (`kernel_files`).
"""

import math
import re
from abc import ABC, abstractmethod
from collections import namedtuple
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar, NamedTuple, Protocol, final

import numba
import numpy as np
from jaxtyping import Float
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.core.errors import NumbaError
from numba.extending import intrinsic

from uqms._compiled import compiled
from uqms._teaching import taught_construction
from uqms._typing import Array, Ints
from uqms.errors import InputError

__all__ = [
    "EFFECTS",
    "NEVER",
    "Effects",
    "Kernel",
    "Linearised",
    "Matern32",
    "Matern52",
    "Matern72",
    "Matern112",
    "Product",
    "RadialKernel",
    "RadialParts",
    "RationalQuadratic",
    "Seen",
    "SquaredExponential",
    "Stationary",
    "Structured",
    "Sum",
    "before_decay",
    "composite_of",
    "composite_slope",
    "correlation",
    "correlation_slopes",
    "correlation_within",
    "hyperparameter_count",
    "places",
    "scale_count",
    "settings_of",
]

# Sums may be re-ordered for speed; NaN and infinity keep their meaning.
FAST = {"reassoc", "contract", "arcp", "nsz"}
TILE = 16  # columns that are mirrored together, so that both sides stay in the processor's cache
LOOPED = 32  # inputs of each member of a batch, from which members are treated one by one
SINGLE = 5  # codes below are kernels with loops of their own; compiled code calls all others by their address
EFFECTS = SINGLE + 1  # code of the whole of `Effects`, of which `effects` has loops
LARGEST_ADDRESS = 2**53  # codes stand among float64 numbers
MAX_PARTS = 8  # of a sum or product
NEVER = 1e30  # length scale of an input on which nothing depends
SHARE_BOUNDS, SHARE_SPREAD = (1e-6, 1e6), 2.0  # of a term's share over that of the first; sd of its logarithm


# ------------------------------------------------------------------------------------------------------- the protocol
class Linearised(Protocol):
    """The correlation between inputs u and x, and its reverse derivatives there."""

    @property
    def kappa(self) -> Array:
        """Correlation (k, n)."""
        ...

    def reverse_inputs(self, bar: Array) -> Array:
        """Return the derivative (k, d) of sum(kappa * bar) by u, with x held."""
        ...

    def reverse_logs(self, bar: Array) -> Array:
        """Return the derivative (p,) of sum(kappa * bar) by the logarithms of `ell`."""
        ...


class Kernel(ABC):
    """What training, prediction and calibration ask of a kernel.

    To write one, derive from `RadialKernel` or `JaxKernel`. A kernel is a frozen value: a correlation, symmetric in its
    two inputs and 1 where they are equal.
    """

    exchangeable: ClassVar[bool] = False
    """Whether the kernel treats all inputs alike, so that they may be re-ordered."""
    adapts: ClassVar[bool] = True
    """Whether `GaussianProcess()` may learn directions and an amplitude with it; smooth ones are overconfident then."""
    plain: ClassVar[bool] = True
    """Whether inputs are seen as they are, and the correlation of each with itself is 1; see `seen`."""

    @abstractmethod
    def places(self, d: int) -> Ints:
        """Return the place in `ell` of the length scale of each part (f, d) and input, -1 where it does not see it."""

    @abstractmethod
    def more(self, d: int) -> tuple[Array, Array, Array]:
        """Return location, sd and bounds (s,), (s,), (s, 2) of the logarithms of what else `ell` has."""

    @abstractmethod
    def linearised(self, u: Array, x: Array, ell: Array) -> Linearised:
        """Return the correlation (k, n) with its reverse derivatives."""

    def correlation(self, u: Array, x: Array, ell: Array) -> Array:
        """Return the correlation (k, n) alone."""
        return self.linearised(u, x, ell).kappa

    def correlation_within(self, u: Array, ell: Array) -> Array:
        """Return the correlation (s, k, k) between the rows of each member of a batch (s, k, d)."""
        return np.stack([self.correlation(one, one, ell) for one in u])

    def upper(self, x: Array, ell: Array) -> Array | None:
        """Return a new array with the upper triangle (n, n) of the correlation of inputs with themselves, made sooner.

        None where there is no faster way than `correlation`.
        """
        return None

    def spans(self, d: int) -> Array:
        """Return how wide each length scale's input is, over one that fills the unit interval."""
        return np.ones(scale_count(self, d))

    def doubted(self, d: int) -> int | None:
        """Return the place of the logarithm that is zero where a lower level says nothing, if there is one."""
        return None

    def layout(self, d: int) -> Array | None:
        """Return code and term of each part of d inputs, (2 f,); None when compiled code does not know the kernel."""
        return None

    def variances(self, u: Array, ell: Array) -> Array:
        """Return the correlation (k,) of each input with itself: 1, unless the amplitude varies over the box."""
        return np.ones(u.shape[:-1])

    def seen(self, u: Array, ell: Array) -> "Seen":
        """Return inputs (k, d) as the kernel of the scaled distance in it sees them."""
        return Seen(u, np.ones(u.shape[:-1]), ell, self)

    def of(self, ell: Array, d: int) -> tuple["Kernel", Array]:
        """Return the kernel that `ell` says, with its own `ell`: itself, unless this is one of several."""
        return self, ell

    def reordered(self, ell: Array, inputs: Ints) -> Array:
        """Return `ell` for the same process of inputs in another order, where the kernel treats all alike."""
        scales = scale_count(self, len(inputs))
        return np.append(ell[:scales].reshape(-1, len(inputs))[:, inputs].ravel(), ell[scales:])

    def lifted(self, ell: Array, d: int) -> Array:
        """Return `ell` for the same process of d inputs with one before them on which nothing depends."""
        scales = scale_count(self, d)
        parts = ell[:scales].reshape(-1, d)
        return np.append(np.column_stack([np.full(len(parts), NEVER), parts]).ravel(), ell[scales:])

    def __str__(self) -> str:
        return type(self).__name__


class Seen(NamedTuple):
    """Inputs as the kernel of the scaled distance in a kernel sees them, with what it multiplies the sd by there."""

    z: Array  # (k, d)
    amplitude: Array  # (k,)
    ell: Array  # of the kernel of the scaled distance
    kernel: Kernel  # of the scaled distance
    directions: Array | None = None  # (d, d), z = directions u, where they are learned
    slopes: Array | None = None  # (d,), of the logarithm of the amplitude, where it is learned


class RadialParts(Kernel):
    """A kernel made of parts: correlations of a scaled distance, each with its own length scales.

    All derivatives follow from the radial slopes of the parts.
    """

    @abstractmethod
    def correlation_slopes(self, u: Array, x: Array, ell: Array) -> tuple[Array, Array, Array]:
        """Return the correlation, g of each part (with the factors beside it), and the derivative by each other log."""

    def linearised(self, u: Array, x: Array, ell: Array) -> "Slopes":
        """Return the correlation (k, n) with its reverse derivatives."""
        return Slopes(*self.correlation_slopes(u, x, ell), u, x, ell, self.places(u.shape[1]))


@final
@dataclass(frozen=True, eq=False)
class Slopes:
    """The correlation of a kernel made of parts, linearised by their radial slopes."""

    kappa: Array  # (k, n)
    g: Array  # (f, k, n)
    by_other: Array  # (s, k, n), by the logarithms behind the length scales
    u: Array
    x: Array
    ell: Array
    at: Ints  # (f, d), see `Kernel.places`

    def reverse_inputs(self, bar: Array) -> Array:
        """Return the derivative (k, d) of sum(kappa * bar) by u: d r² / d u_c = 2 (u_c - x_c) / ell_c²."""
        out = np.zeros_like(self.u)
        for at, slope in zip(self.at, self.g, strict=True):
            pairs, seen = bar * slope, at >= 0
            moved = pairs.sum(axis=1)[:, None] * self.u - pairs @ self.x
            out[:, seen] += moved[:, seen] * self.ell[at[seen]] ** -2.0
        return out

    def reverse_logs(self, bar: Array) -> Array:
        """Return the derivative by the logarithms of ell: through each r² in one product, d r² / d log ell_c."""
        u, x = self.u, self.x
        scales = int(self.at.max()) + 1
        out = np.zeros(scales + len(self.by_other))
        squares = u * u
        others = squares if u is x else x * x
        for at, slope in zip(self.at, self.g, strict=True):
            pairs, seen = bar * slope, at >= 0
            # Sums of NumPy, not products with ones: they lose fewer digits, which the end of a fit shows.
            spread = pairs.sum(axis=1) @ squares + pairs.sum(axis=0) @ others - 2.0 * np.sum(u * (pairs @ x), axis=0)
            out[at[seen]] -= spread[seen] * self.ell[at[seen]] ** -2.0
        for i, slope in enumerate(self.by_other):
            out[scales + i] = float(np.vdot(bar, slope))
        return out


class Structured(RadialParts):
    """A kernel whose inputs have several meanings, such as levels of fidelity: made by a method, not by its users."""


class Stationary(RadialParts):
    """A radial kernel, or a sum or product of them; `+` and `*` combine any two."""

    exchangeable = True

    @property
    @abstractmethod
    def terms(self) -> tuple[tuple["RadialKernel", ...], ...]:
        """The terms of the sum, each as the factors of its product."""

    def __add__(self, other: "Stationary") -> "Sum":
        if isinstance(other, Kernel) and not isinstance(other, Stationary):
            return NotImplemented
        return Sum((*_parts(self, Sum), *_parts(other, Sum)))

    def __mul__(self, other: "Stationary") -> "Product":
        if isinstance(other, Kernel) and not isinstance(other, Stationary):
            return NotImplemented
        return Product((*_parts(self, Product), *_parts(other, Product)))

    def places(self, d: int) -> Ints:
        """Return the place in `ell` of the length scale of each part (f, d) and input."""
        return np.arange(d * sum(map(len, self.terms))).reshape(-1, d)

    def more(self, d: int) -> tuple[Array, Array, Array]:
        """Return location, sd and bounds of the logarithms of the relative weights."""
        count = len(self.terms) - 1
        bounds = np.repeat(np.log([SHARE_BOUNDS]), count, axis=0)
        return np.zeros(count), np.full(count, SHARE_SPREAD), bounds

    def layout(self, d: int) -> Array:
        """Return code and term of each part, (2 f,), however many inputs there are."""
        pairs = [(part.code, index) for index, term in enumerate(self.terms) for part in term]
        return np.array(pairs, dtype=np.float64).ravel()

    def correlation(self, u: Array, x: Array, ell: Array) -> Array:
        """Return the correlation (k, n)."""
        parts, shares = split(self, u.shape[1], ell)
        each = iter(parts)
        kappa = [_product([_value(part.code, u, x, next(each)) for part in term]) for term in self.terms]
        return kappa[0] if len(kappa) == 1 else np.tensordot(shares, kappa, 1)

    def correlation_slopes(self, u: Array, x: Array, ell: Array) -> tuple[Array, Array, Array]:
        """Return the correlation, g of each part (with the factors beside it), and its derivative by each log share."""
        parts, shares = split(self, u.shape[1], ell)
        each = iter(parts)
        terms, slopes = [], []
        for share, term in zip(shares, self.terms, strict=True):
            pairs = [_single(part.code, u, x, next(each)) for part in term]
            terms.append(_product([kappa for kappa, _ in pairs]))
            for i, (_, g) in enumerate(pairs):
                slopes.append(math.prod([kappa for j, (kappa, _) in enumerate(pairs) if j != i], start=share * g))
        total = terms[0] if len(terms) == 1 else np.tensordot(shares, terms, 1)
        by_share = [share * (one - total) for share, one in zip(shares[1:], terms[1:], strict=True)]
        return total, np.stack(slopes), np.array(by_share).reshape(-1, *total.shape)

    def correlation_within(self, u: Array, ell: Array) -> Array:
        """Return the correlation (s, k, k) between the rows of each member of a batch."""
        if len(u) == 1 or u.shape[1] >= LOOPED:
            return np.stack([self.correlation(one, one, ell) for one in u])
        parts, shares = split(self, u.shape[2], ell)
        each = iter(parts)
        total = np.zeros((len(u), u.shape[1], u.shape[1]))
        for share, term in zip(shares, self.terms, strict=True):
            product = np.full_like(total, share)
            for part in term:
                scaled = u / next(each)
                r = np.sqrt(np.sum((scaled[:, :, None, :] - scaled[:, None, :, :]) ** 2, axis=-1))
                kappa, _ = _single(part.code, r.reshape(-1, 1), np.zeros((1, 1)), np.ones(1))
                product *= kappa.reshape(r.shape)
            total += product
        return total


@taught_construction
class RadialKernel(Stationary):
    """Correlation as a function of the squared scaled distance, with one length scale per input: the base of your own.

    Derive a frozen dataclass and write one method, `radial(self, r2)`. Its fields are settings: numbers that stay as
    they are, while the length scales are learned. uqms compiles the method with numba, so it uses numbers, functions
    of `math` and its own fields. Check it with `uqms.testing.check_kernel` before you trust it.

    Raises
    ------
    InputError
        When it is first used: if the class is no frozen dataclass, a field is no number, or `radial` does not compile.

    References
    ----------
    Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, section 4.2.1,
    doi:10.7551/mitpress/3206.001.0001.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import uqms as uq
    >>> @dataclass(frozen=True)
    ... class InverseMultiquadric(uq.RadialKernel):
    ...     def radial(self, r2):
    ...         kappa = 1.0 / (1.0 + r2) ** 0.5
    ...         return kappa, -(kappa**3)
    >>> InverseMultiquadric().radial(3.0)
    (0.5, -0.125)
    >>> str(InverseMultiquadric() + uq.Matern52())
    'InverseMultiquadric + Matern52'
    """

    @abstractmethod
    def radial(self, r2: float) -> tuple[float, float]:
        """Return kappa and g at the squared scaled distance r2 >= 0.

        kappa is the correlation f(r) of r = sqrt(r2), with f(0) = 1, and g = f'(r) / r = 2 d kappa / d r2.
        Both must be finite at r2 = 0.
        """

    @property
    def code(self) -> int:
        """Number by which compiled code knows the kernel in this process: the address of its compiled function."""
        try:
            return int(_compiled(self).address)
        except TypeError:
            settings_of(self)  # which says why it cannot be hashed
            raise

    @property
    def terms(self) -> tuple[tuple["RadialKernel", ...], ...]:
        """One term of one factor."""
        return ((self,),)

    def correlation(self, u: Array, x: Array, ell: Array) -> Array:
        """Return the correlation (k, n)."""
        return _single(self.code, u, x, ell)[0]

    def correlation_slopes(self, u: Array, x: Array, ell: Array) -> tuple[Array, Array, Array]:
        """Return the correlation and g; there are no shares."""
        kappa, g = _single(self.code, u, x, ell)
        return kappa, g[None], np.empty((0, *kappa.shape))

    def __str__(self) -> str:
        return repr(self).removesuffix("()")


@taught_construction
@final
@dataclass(frozen=True)
class SquaredExponential(RadialKernel):
    """Squared-exponential (Gaussian, RBF) kernel with one length scale for each input: for outputs that are analytic.

    When in doubt use `Matern52`, which does not believe in infinite smoothness.

    Examples
    --------
    >>> kappa, g = SquaredExponential().radial(2.0)
    >>> print(f"{kappa:.4f} {g:.4f}")
    0.3679 -0.3679
    """

    code: ClassVar[int] = 0
    adapts: ClassVar[bool] = False

    def radial(self, r2: float) -> tuple[float, float]:
        """Return kappa and g."""
        return correlation_of(0, r2)  # type: ignore[no-any-return]


@taught_construction
@final
@dataclass(frozen=True)
class Matern32(RadialKernel):
    """Matérn kernel of smoothness 3/2 with one length scale for each input: for outputs with kinks.

    Examples
    --------
    >>> kappa, g = Matern32().radial(2.0)
    >>> print(f"{kappa:.4f} {g:.4f}")
    0.2978 -0.2590
    """

    code: ClassVar[int] = 1

    def radial(self, r2: float) -> tuple[float, float]:
        """Return kappa and g."""
        return correlation_of(1, r2)  # type: ignore[no-any-return]


@taught_construction
@final
@dataclass(frozen=True)
class Matern52(RadialKernel):
    """Matérn kernel of smoothness 5/2 with one length scale for each input: the default for simulators.

    Examples
    --------
    >>> kappa, g = Matern52().radial(2.0)
    >>> print(f"{kappa:.4f} {g:.4f}")
    0.3173 -0.2937
    """

    code: ClassVar[int] = 2

    def radial(self, r2: float) -> tuple[float, float]:
        """Return kappa and g."""
        return correlation_of(2, r2)  # type: ignore[no-any-return]


@taught_construction
@final
@dataclass(frozen=True)
class Matern72(RadialKernel):
    """Matérn kernel of smoothness 7/2 with one length scale for each input: for outputs that are smoother than most.

    Smooth simulators are predicted better than with `Matern52`, and with intervals that are not too wide; it does not
    believe in infinite smoothness, as `SquaredExponential` does, whose intervals are often too narrow.

    References
    ----------
    Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, equation 4.16,
    doi:10.7551/mitpress/3206.001.0001.

    Examples
    --------
    >>> kappa, g = Matern72().radial(2.0)
    >>> print(f"{kappa:.4f} {g:.4f}")
    0.3281 -0.3124
    """

    code: ClassVar[int] = 3

    def radial(self, r2: float) -> tuple[float, float]:
        """Return kappa and g."""
        return correlation_of(3, r2)  # type: ignore[no-any-return]


@taught_construction
@final
@dataclass(frozen=True)
class Matern112(RadialKernel):
    """Matérn kernel of smoothness 11/2 with one length scale for each input: for outputs that are very smooth.

    Solutions of differential equations are often so smooth in their parameters that errors are two thirds of those with
    `Matern72`, once the runs are close enough to show it.

    References
    ----------
    Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, equation 4.16,
    doi:10.7551/mitpress/3206.001.0001.

    Examples
    --------
    >>> kappa, g = Matern112().radial(2.0)
    >>> print(f"{kappa:.4f} {g:.4f}")
    0.3399 -0.3317
    """

    code: ClassVar[int] = 4

    def radial(self, r2: float) -> tuple[float, float]:
        """Return kappa and g."""
        return correlation_of(4, r2)  # type: ignore[no-any-return]


@taught_construction
@final
@dataclass(frozen=True)
class RationalQuadratic(RadialKernel):
    """Rational quadratic kernel: a mixture of squared exponentials of many length scales, for smooth outputs.

    Use it for outputs that vary on several scales at once. It tends to `SquaredExponential` as alpha grows.

    Parameters
    ----------
    alpha
        How far the length scales of the mixture reach; positive, and not learned.

    Raises
    ------
    InputError
        When alpha is not positive.

    References
    ----------
    Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, equation 4.19,
    doi:10.7551/mitpress/3206.001.0001.

    Examples
    --------
    >>> kappa, g = RationalQuadratic(alpha=1.0).radial(2.0)
    >>> print(f"{kappa:.4f} {g:.4f}")
    0.5000 -0.2500
    """

    alpha: float = 2.0

    def __post_init__(self) -> None:
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, int | float) or not 0.0 < self.alpha < math.inf:
            raise InputError(f"RationalQuadratic: alpha is {self.alpha!r}; give a positive number such as 2.0.")

    def radial(self, r2: float) -> tuple[float, float]:
        """Return kappa and g."""
        base = 1.0 + r2 / (2.0 * self.alpha)
        kappa = base**-self.alpha
        return kappa, -kappa / base


@taught_construction
@final
@dataclass(frozen=True)
class Product(Stationary):
    """Product of kernels, each with its own length scales; write it with `*`.

    Use it where an effect of one scale is modulated on another. A product is as rough as its roughest part.

    Parameters
    ----------
    parts
        At least two single kernels.

    Raises
    ------
    InputError
        When a part is no single kernel, or there are too few or too many.

    Examples
    --------
    >>> Matern52() * Matern32() == Product((Matern52(), Matern32()))
    True
    """

    parts: tuple[RadialKernel, ...]

    def __post_init__(self) -> None:
        _check(
            "Product",
            self.parts,
            RadialKernel,
            "single kernels such as Matern52(); write a * b + a * c for a * (b + c)",
        )

    @property
    def terms(self) -> tuple[tuple[RadialKernel, ...], ...]:
        """One term."""
        return (self.parts,)

    def __str__(self) -> str:
        return " * ".join(map(str, self.parts))


@taught_construction
@final
@dataclass(frozen=True)
class Sum(Stationary):
    """Sum of kernels or products of them, each with its own length scales and variance; write it with `+`.

    Use it where a smooth trend over the whole box carries a rougher, shorter variation. Each part adds d + 1
    hyperparameters, so it wants many runs: compare it with a single kernel before you trust it.

    Parameters
    ----------
    parts
        At least two single kernels or products.

    Raises
    ------
    InputError
        When a part is something else, or there are too few or too many.

    References
    ----------
    Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, section 4.2.4,
    doi:10.7551/mitpress/3206.001.0001.

    Examples
    --------
    >>> str(SquaredExponential() + Matern52() * Matern32())
    'SquaredExponential + Matern52 * Matern32'
    """

    parts: tuple[RadialKernel | Product, ...]

    def __post_init__(self) -> None:
        _check("Sum", self.parts, RadialKernel | Product, "single kernels or products of them")

    @property
    def terms(self) -> tuple[tuple[RadialKernel, ...], ...]:
        """One term for each part."""
        return tuple(part.terms[0] for part in self.parts)

    def __str__(self) -> str:
        return " + ".join(map(str, self.parts))


@final
@dataclass(frozen=True)
class Effects(Stationary):
    """One kernel of all inputs together and of each alone, as sums of kernels are: see `MainEffects`.

    Of a part of one input all other length scales are `NEVER`. Terms of these parts are negative in the layout, by
    which `layout_of` knows the kernel.
    """

    kernel: RadialKernel
    inputs: int

    @property
    def terms(self) -> tuple[tuple[RadialKernel, ...], ...]:
        """One term for each part."""
        return ((self.kernel,),) * (self.inputs + 1)

    def layout(self, d: int) -> Array:
        """Return code and term of each part, (2 d + 2,)."""
        return np.column_stack([np.full(d + 1, float(self.kernel.code)), -np.arange(d + 1.0)]).ravel()

    def __str__(self) -> str:
        return f"{self.kernel} of all inputs and of each"


def _parts(kernel: object, kind: type[Sum] | type[Product]) -> tuple[Any, ...]:
    return kernel.parts if isinstance(kernel, kind) else (kernel,)


def _check(what: str, parts: object, kinds: object, wanted: str) -> None:
    if not isinstance(parts, tuple) or len(parts) < 2 or not all(isinstance(one, kinds) for one in parts):  # type: ignore[arg-type]
        raise InputError(f"{what}: parts are {parts!r}; give a tuple of at least two {wanted}.")
    count = sum(len(_parts(one, Product)) for one in parts)
    if count > MAX_PARTS:
        raise InputError(f"{what}: {count} single kernels; at most {MAX_PARTS}. Runs cannot tell that many apart.")


def _product(factors: list[Array]) -> Array:
    return factors[0] if len(factors) == 1 else np.asarray(math.prod(factors[1:], start=factors[0]))


# ------------------------------------------------------------------------------------------------- what there is to ask
@cache
def scale_count(kernel: Kernel, d: int) -> int:
    """Return the number of length scales: d for each part, unless it does not see some inputs."""
    return int(kernel.places(d).max()) + 1


@cache
def hyperparameter_count(kernel: Kernel, d: int) -> int:
    """Return the size of `ell`: length scales, and shares relative to the first."""
    return scale_count(kernel, d) + len(kernel.more(d)[0])


def places(kernel: Kernel, d: int) -> Ints:
    """Return the place in `ell` of the length scale of each part (f, d) and input, -1 where it does not see it."""
    return kernel.places(d)


def correlation(
    kernel: Kernel, u: Float[np.ndarray, "k d"], x: Float[np.ndarray, "n d"], ell: Float[np.ndarray, " p"]
) -> Float[np.ndarray, "k n"]:
    """Return the correlation between the rows of `u` and `x`."""
    return kernel.correlation(u, x, ell)


def correlation_slopes(
    kernel: RadialParts, u: Float[np.ndarray, "k d"], x: Float[np.ndarray, "n d"], ell: Float[np.ndarray, " p"]
) -> tuple[Float[np.ndarray, "k n"], Float[np.ndarray, "f k n"], Float[np.ndarray, "s k n"]]:
    """Return the correlation, g of each part (with the factors beside it), and its derivative by each other log."""
    return kernel.correlation_slopes(u, x, ell)


def correlation_within(
    kernel: Kernel, u: Float[np.ndarray, "s k d"], ell: Float[np.ndarray, " p"]
) -> Float[np.ndarray, "s k k"]:
    """Return the correlation between the rows of each member of a batch."""
    return kernel.correlation_within(u, ell)


def split(
    kernel: Kernel, d: int, ell: Float[np.ndarray, " p"]
) -> tuple[Float[np.ndarray, "f d"], Float[np.ndarray, " t"]]:
    """Return the length scales of each part, and the weights of the terms."""
    at = scale_count(kernel, d)
    shares = np.append(1.0, ell[at:])
    return ell[:at].reshape(-1, d), shares / shares.sum()


# ----------------------------------------------------------------------------------------- a kernel's own compiled code
def settings_of(kernel: Kernel) -> dict[str, int | float]:
    """Return the settings of a kernel of one's own by name.

    Raises
    ------
    InputError
        When its class is no frozen dataclass, or a field is no finite number.
    """
    cls = type(kernel)
    frozen = getattr(getattr(cls, "__dataclass_params__", None), "frozen", False)
    if not frozen or cls.__eq__ is object.__eq__:
        raise InputError(
            f"the kernel {cls.__name__} is no frozen dataclass, so two equal ones would differ; write "
            f"@dataclass(frozen=True) above `class {cls.__name__}`."
        )
    settings = {part.name: getattr(kernel, part.name) for part in fields(kernel)}  # type: ignore[arg-type]
    for name, value in settings.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(
                f"{cls.__name__}.{name} is {value!r}; a kernel's fields are finite numbers. Give int or float."
            )
    return settings


@cache
def _compiled(kernel: RadialKernel) -> Any:
    """Return the kernel's compiled function; it is kept as long as the process, since blocks hold its address."""
    name, settings = type(kernel).__name__, settings_of(kernel)
    # numba knows no instances of classes, but the fields of a named tuple.
    factory: Any = namedtuple  # whose names are known to no type checker
    own = factory(name, [*settings, "unused"], rename=True)(*settings.values(), 0)
    radial = numba.njit(error_model="numpy")(type(kernel).radial)

    def fill(r2, out):  # type: ignore[no-untyped-def]
        kappa, g = radial(own, r2)
        out[0], out[1] = kappa, g

    try:
        compiled = numba.cfunc(types.void(types.float64, types.CPointer(types.float64)))(fill)
    except NumbaError as error:
        lines = [line.strip() for line in re.sub(r"\x1b\[\d*m", "", str(error)).splitlines()]
        reason = next((line for line in lines if line and not line.startswith("Failed in")), "")
        raise InputError(
            f"{name}.radial(self, r2) cannot be compiled by numba ({reason}). Use numbers, functions of `math` "
            "and the kernel's own fields, and return two numbers: the correlation and its radial slope g."
        ) from error
    if not 0 < compiled.address < LARGEST_ADDRESS:
        raise InputError(f"{name}: its compiled function stands at {compiled.address}, which no float64 holds exactly.")
    return compiled


@intrinsic  # type: ignore[untyped-decorator]
def _called(typing: Any, address: Any, r2: Any) -> Any:
    """Return kappa and g from the compiled function at an address."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        double = ir.DoubleType()
        out = cgutils.alloca_once(builder, double, size=2)
        both = [out, builder.gep(out, [ir.Constant(ir.IntType(32), 1)])]
        for place in both:  # a function that raises leaves them as they are
            builder.store(ir.Constant(double, float("nan")), place)
        function = ir.FunctionType(ir.VoidType(), [double, double.as_pointer()])
        builder.call(builder.inttoptr(arguments[0], function.as_pointer()), [arguments[1], out])
        return context.make_tuple(builder, signature.return_type, [builder.load(place) for place in both])

    return types.UniTuple(types.float64, 2)(types.int64, types.float64), code


# ------------------------------------------------------------------------------------------------ one kernel, compiled
@compiled(fastmath=FAST, inline="always")
def before_decay(a: float) -> tuple[float, float]:
    """Return what exp(-a) is multiplied by in kappa and g of `Matern112`, a² = 11 r2."""
    s = a * a
    rougher = 1.0 + a + s * (3.0 / 7.0 + a * (2.0 / 21.0) + s * (1.0 / 105.0))  # of smoothness 9/2
    kappa = 1.0 + a + s * (4.0 / 9.0 + a * (1.0 / 9.0) + s * (1.0 / 63.0 + a * (1.0 / 945.0)))
    return kappa, -(11.0 / 9.0) * rougher


@compiled(fastmath=FAST, inline="always")
def correlation_of(code: int, r2: float) -> tuple[float, float]:
    """Return kappa and g of a kernel with a loop of its own, for a squared scaled distance."""
    if code == 0:
        value = math.exp(-0.5 * r2)
        return value, -value
    if code == 1:
        a = math.sqrt(3.0 * r2)
        value = math.exp(-a)
        return (1.0 + a) * value, -3.0 * value
    if code == 2:
        a = math.sqrt(5.0 * r2)
        value = math.exp(-a)
        return (1.0 + a + a * a / 3.0) * value, -(5.0 / 3.0) * (1.0 + a) * value
    if code == 3:
        a = math.sqrt(7.0 * r2)
        value = math.exp(-a)
        return (1.0 + a + a * a * (0.4 + a / 15.0)) * value, -1.4 * (1.0 + a + a * a / 3.0) * value
    a = math.sqrt(11.0 * r2)
    value = math.exp(-a)
    kappa, g = before_decay(a)
    return kappa * value, g * value


@compiled(fastmath=FAST, inline="always")
def part_of(code: int, r2: float) -> tuple[float, float]:
    """Return kappa and g of any kernel."""
    if code < SINGLE:
        return correlation_of(code, r2)  # type: ignore[no-any-return]
    return _called(code, r2)  # type: ignore[no-any-return]


@compiled(fastmath=FAST)
def _cross(code: int, u: Array, x: Array, inverse_ell: Array, kappa: Array, g: Array) -> None:
    for i in range(u.shape[0]):
        for j in range(x.shape[0]):
            r2 = 0.0
            for c in range(u.shape[1]):
                step = (u[i, c] - x[j, c]) * inverse_ell[c]
                r2 += step * step
            g[i, j] = r2
        if code >= SINGLE:
            for j in range(x.shape[0]):
                kappa[i, j], g[i, j] = _called(code, g[i, j])
            continue
        for j in range(x.shape[0]):
            kappa[i, j], g[i, j] = correlation_of(code, g[i, j])


@compiled(fastmath=FAST)
def _cross_values(code: int, u: Array, x: Array, inverse_ell: Array, kappa: Array) -> None:
    """Fill kappa as `_cross` does, without g, of a kernel with a loop of its own."""
    for i in range(u.shape[0]):
        for j in range(x.shape[0]):
            r2 = 0.0
            for c in range(u.shape[1]):
                step = (u[i, c] - x[j, c]) * inverse_ell[c]
                r2 += step * step
            kappa[i, j] = r2
        for j in range(x.shape[0]):
            kappa[i, j] = correlation_of(code, kappa[i, j])[0]


@compiled(fastmath=FAST)
def _own(code: int, x: Array, columns: Array, inverse_ell: Array, kappa: Array, g: Array) -> None:
    """Do as `_cross` for x with itself: half of the pairs, in rows that the compiler takes several at a time."""
    for i in range(x.shape[0]):
        r2 = g[i, : i + 1]
        r2[:] = 0.0
        for c in range(x.shape[1]):
            for j in range(i + 1):
                step = (x[i, c] - columns[c, j]) * inverse_ell[c]
                r2[j] += step * step
        for j in range(i + 1):
            kappa[i, j], g[i, j] = correlation_of(code, r2[j])
    for first in range(0, x.shape[0], TILE):
        for i in range(first, x.shape[0]):
            for j in range(first, min(first + TILE, i)):
                kappa[j, i], g[j, i] = kappa[i, j], g[i, j]


@compiled(fastmath=FAST)
def _own_called(code: int, x: Array, inverse_ell: Array, kappa: Array, g: Array) -> None:
    """Do as `_own` for a kernel without a loop of its own; a branch in `_own` costs it an eighth of its speed."""
    for i in range(x.shape[0]):
        for j in range(i + 1):
            r2 = 0.0
            for c in range(x.shape[1]):
                step = (x[i, c] - x[j, c]) * inverse_ell[c]
                r2 += step * step
            kappa[i, j], g[i, j] = _called(code, r2)
            kappa[j, i], g[j, i] = kappa[i, j], g[i, j]


def _single(code: int, u: Array, x: Array, ell: Array) -> tuple[Array, Array]:
    kappa = np.empty((len(u), len(x)))
    g = np.empty_like(kappa)
    if u is x and code >= SINGLE:
        _own_called(code, np.ascontiguousarray(x), 1.0 / ell, kappa, g)
    elif u is x:
        _own(code, np.ascontiguousarray(x), np.ascontiguousarray(x.T), 1.0 / ell, kappa, g)
    else:
        _cross(code, np.ascontiguousarray(u), np.ascontiguousarray(x), 1.0 / ell, kappa, g)
    return kappa, g


def _value(code: int, u: Array, x: Array, ell: Array) -> Array:
    """Return kappa of one kernel."""
    if u is x or code >= SINGLE:
        return _single(code, u, x, ell)[0]
    kappa = np.empty((len(u), len(x)))
    _cross_values(code, np.ascontiguousarray(u), np.ascontiguousarray(x), 1.0 / ell, kappa)
    return kappa


# ------------------------------------------------------------------------------------- sums and products, compiled
@compiled
def layout_of(layout: Array) -> tuple[int, Ints, Ints]:
    """Return the code of the whole kernel, and code and term of each part, from `Kernel.layout`.

    The code of the whole is below `SINGLE` only for a single kernel with a loop of its own; for all others there is
    `composite_of`, and for `EFFECTS` a loop too.
    """
    count = len(layout) // 2
    both = np.empty((2, count), dtype=np.int64)
    codes, terms = both[0], both[1]
    for part in range(count):
        codes[part], terms[part] = np.int64(layout[2 * part]), np.int64(abs(layout[2 * part + 1]))
    whole = codes[0] if count == 1 and codes[0] < SINGLE else np.int64(SINGLE)
    if layout[2 * count - 1] < 0.0:
        whole = np.int64(EFFECTS)
    return whole, codes, terms  # type: ignore[return-value]


@compiled(fastmath=FAST)
def composite_slope(bar: float, g: Array, inverse_ell: Array, u: Array, x: Array, out: Array) -> None:
    """Add to out (d,) the derivative by u of bar times what `composite_of` returns; it has filled g."""
    for part in range(len(inverse_ell)):
        for c in range(len(u)):
            scale = inverse_ell[part, c]
            out[c] += bar * g[part] * (u[c] - x[c]) * scale * scale


@compiled(fastmath=FAST)
def composite_of(codes: Ints, terms: Ints, shares: Array, inverse_ell: Array, u: Array, x: Array, g: Array) -> float:
    """Return kappa of a sum of products between two inputs, and fill g of each part."""
    count = len(codes)
    total = 0.0
    first = 0
    while first < count:
        last = first
        product = shares[terms[first]]
        while last < count and terms[last] == terms[first]:
            r2 = 0.0
            for c in range(len(u)):
                step = (u[c] - x[c]) * inverse_ell[last, c]
                r2 += step * step
            kappa, radial = part_of(codes[last], r2)
            # What stands before a part multiplies its slope; what stands behind it multiplies those before.
            g[last] = product * radial
            for before in range(first, last):
                g[before] *= kappa
            product *= kappa
            last += 1
        total += product
        first = last
    return total
