"""Stationary kernels, and the compiled kernel algebra that training, prediction and likelihoods share.

==========  ===================================================  ==================
symbol      meaning                                              shape
==========  ===================================================  ==================
u           inputs in the unit cube of the design box            (k, d)
x           training inputs, same map                            (n, d)
ell         length scales, one an input                          (d,)
kappa       correlation, a function f(r) of r = |(u - x) / ell|  (k, n)
g           f'(r) / r, so that d kappa / d u = g (u - x) / ell²  (k, n)
==========  ===================================================  ==================

A sum of products has kappa = sum over terms t of w_t times the product over its parts of their kappa, with shares w_t
that sum to 1. Each part has its own length scales. `ell` (p,) is then the length scales of all parts, one part after
the other, and the shares of the terms but the first, divided by that of the first: positive numbers throughout.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, final

import numba
import numpy as np
from jaxtyping import Float

from uqms._typing import Array, Ints
from uqms.errors import InputError

__all__ = [
    "Kernel",
    "Matern32",
    "Matern52",
    "Product",
    "SquaredExponential",
    "Structured",
    "Sum",
    "correlation",
    "correlation_slopes",
    "correlation_within",
    "from_code",
    "hyperparameter_count",
    "name_of",
    "places",
    "scale_count",
]

# Sums may be re-ordered for speed; NaN and infinity keep their meaning.
FAST = {"reassoc", "contract", "arcp", "nsz"}
TILE = 16  # columns that are mirrored together, so that both sides stay in the processor's cache


class _Algebra:
    """Sums and products with + and *."""

    def __add__(self, other: "Kernel") -> "Sum":
        return Sum((*_parts(self, Sum), *_parts(other, Sum)))

    def __mul__(self, other: "Kernel") -> "Product":
        return Product((*_parts(self, Product), *_parts(other, Product)))


@final
@dataclass(frozen=True)
class SquaredExponential(_Algebra):
    """Squared-exponential (Gaussian, RBF) kernel with one length scale an input: for outputs that are analytic.

    When in doubt use `Matern52`, which does not believe in infinite smoothness.

    Examples
    --------
    >>> SquaredExponential().code
    0
    """

    code: ClassVar[int] = 0


@final
@dataclass(frozen=True)
class Matern32(_Algebra):
    """Matérn kernel of smoothness 3/2 with one length scale an input: for outputs with kinks.

    Examples
    --------
    >>> Matern32().code
    1
    """

    code: ClassVar[int] = 1


@final
@dataclass(frozen=True)
class Matern52(_Algebra):
    """Matérn kernel of smoothness 5/2 with one length scale an input: the default for simulators.

    Examples
    --------
    >>> Matern52().code
    2
    """

    code: ClassVar[int] = 2


_Single = SquaredExponential | Matern32 | Matern52
_KINDS: tuple[_Single, ...] = (SquaredExponential(), Matern32(), Matern52())
PLUS = 3  # the digit between the terms of a sum, beside those of the single kernels
MOST = 8  # single kernels in a sum or product; codes are kept among float64 numbers


@final
@dataclass(frozen=True)
class Product(_Algebra):
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

    parts: tuple[_Single, ...]

    def __post_init__(self) -> None:
        _check("Product", self.parts, _Single, "single kernels such as Matern52(); write a * b + a * c for a * (b + c)")

    @property
    def code(self) -> int:
        """Number by which compiled code and files know the kernel."""
        return _code(_terms(self))

    def __str__(self) -> str:
        return " * ".join(map(name_of, self.parts))


@final
@dataclass(frozen=True)
class Sum(_Algebra):
    """Sum of kernels or products of them, each with its own length scales and share of the variance; write it with `+`.

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

    parts: tuple[_Single | Product, ...]

    def __post_init__(self) -> None:
        _check("Sum", self.parts, _Single | Product, "single kernels or products of them")

    @property
    def code(self) -> int:
        """Number by which compiled code and files know the kernel."""
        return _code(_terms(self))

    def __str__(self) -> str:
        return " + ".join(map(name_of, self.parts))


class Structured(ABC):
    """A kernel whose inputs have several meanings, such as levels of fidelity: made by a method, not by its users.

    Its parts see some of the inputs only. `ell` is the length scales that there are, one part after the other, and what
    else it has, as positive numbers.
    """

    @property
    @abstractmethod
    def code(self) -> int:
        """Number of the kernel in files; it is no kernel of compiled code."""

    @abstractmethod
    def places(self, d: int) -> Ints:
        """Return the place in `ell` of the length scale of each part (f, d) and input, -1 where it does not see it."""

    @abstractmethod
    def more(self, d: int) -> tuple[Array, Array, Array]:
        """Return location, sd and bounds (s,), (s,), (s, 2) of the logarithms of what else it has."""

    @abstractmethod
    def spans(self, d: int) -> Array:
        """Return how wide each length scale's input is, over one that fills the unit interval."""

    @abstractmethod
    def doubted(self, d: int) -> int | None:
        """Return the place of the logarithm that is zero where a lower level says nothing, if there is one."""

    @abstractmethod
    def correlation_slopes(self, u: Array, x: Array, ell: Array) -> tuple[Array, Array, Array]:
        """Return the correlation, g of each part (with the factors beside it), and the derivative by each other log."""


Kernel = SquaredExponential | Matern32 | Matern52 | Product | Sum | Structured


def _parts(kernel: object, kind: type[Sum] | type[Product]) -> tuple[Any, ...]:
    return kernel.parts if isinstance(kernel, kind) else (kernel,)


def name_of(kernel: object) -> str:
    """Return the kernel as it is written, without brackets."""
    return str(kernel) if isinstance(kernel, Product | Sum) else type(kernel).__name__


def _check(what: str, parts: object, kinds: object, wanted: str) -> None:
    if not isinstance(parts, tuple) or len(parts) < 2 or not all(isinstance(one, kinds) for one in parts):  # type: ignore[arg-type]
        raise InputError(f"{what}: parts are {parts!r}; give a tuple of at least two {wanted}.")
    count = sum(len(_parts(one, Product)) for one in parts)
    if count > MOST:
        raise InputError(f"{what}: {count} single kernels; at most {MOST}. Runs cannot tell that many apart.")


@cache
def _terms(kernel: Kernel) -> tuple[tuple[int, ...], ...]:
    """Return the codes of the parts of each term."""
    terms = kernel.parts if isinstance(kernel, Sum) else (kernel,)
    return tuple(tuple(one.code for one in (t.parts if isinstance(t, Product) else (t,))) for t in terms)


def _code(terms: Sequence[Sequence[int]]) -> int:
    """Return the digits of the parts in base 4, terms kept apart by a 3, behind a leading 1."""
    digits = [1]
    for index, term in enumerate(terms):
        digits += [PLUS] * (index > 0) + list(term)
    return sum(digit * 4**place for place, digit in enumerate(reversed(digits)))


def from_code(code: int) -> Kernel:
    """Return the kernel with that code.

    Raises
    ------
    InputError
        When there is none.
    """
    if code in range(len(_KINDS)):
        return _KINDS[code]
    digits = np.base_repr(code, 4) if 0 < code < 4 ** (2 * MOST) else "0"
    products = [tuple(_KINDS[int(digit)] for digit in term) for term in digits[1:].split(str(PLUS))]
    if digits[0] != "1" or not all(products):
        raise InputError(f"there is no kernel of code {code}")
    terms = [Product(one) if len(one) > 1 else one[0] for one in products]
    return Sum(tuple(terms)) if len(terms) > 1 else terms[0]


def scale_count(kernel: Kernel, d: int) -> int:
    """Return the number of length scales: d for each part."""
    if isinstance(kernel, Structured):
        return int(kernel.places(d).max()) + 1
    return d * sum(map(len, _terms(kernel)))


def places(kernel: Kernel, d: int) -> Ints:
    """Return the place in `ell` of the length scale of each part (f, d) and input, -1 where it does not see it."""
    return kernel.places(d) if isinstance(kernel, Structured) else np.arange(scale_count(kernel, d)).reshape(-1, d)


def hyperparameter_count(kernel: Kernel, d: int) -> int:
    """Return the size of `ell`: length scales, and shares relative to the first."""
    if isinstance(kernel, Structured):
        return scale_count(kernel, d) + len(kernel.more(d)[0])
    return scale_count(kernel, d) + len(_terms(kernel)) - 1


def split(
    kernel: Kernel, d: int, ell: Float[np.ndarray, " p"]
) -> tuple[Float[np.ndarray, "f d"], Float[np.ndarray, " t"]]:
    """Return the length scales of each part, and the shares of the terms."""
    at = scale_count(kernel, d)
    shares = np.append(1.0, ell[at:])
    return ell[:at].reshape(-1, d), shares / shares.sum()


@numba.njit(cache=True, nogil=True, fastmath=FAST, inline="always")  # type: ignore[untyped-decorator]
def correlation_of(code: int, r2: float) -> tuple[float, float]:
    """Return kappa and g for a squared scaled distance."""
    if code == 0:
        value = math.exp(-0.5 * r2)
        return value, -value
    if code == 1:
        a = math.sqrt(3.0 * r2)
        value = math.exp(-a)
        return (1.0 + a) * value, -3.0 * value
    a = math.sqrt(5.0 * r2)
    value = math.exp(-a)
    return (1.0 + a + a * a / 3.0) * value, -(5.0 / 3.0) * (1.0 + a) * value


@numba.njit(cache=True, nogil=True, fastmath=FAST)  # type: ignore[untyped-decorator]
def _cross(code: int, u: Array, x: Array, inverse_ell: Array, kappa: Array, g: Array) -> None:
    for i in range(u.shape[0]):
        for j in range(x.shape[0]):
            r2 = 0.0
            for c in range(u.shape[1]):
                step = (u[i, c] - x[j, c]) * inverse_ell[c]
                r2 += step * step
            kappa[i, j], g[i, j] = correlation_of(code, r2)


@numba.njit(cache=True, nogil=True, fastmath=FAST)  # type: ignore[untyped-decorator]
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


def correlation(
    kernel: Kernel, u: Float[np.ndarray, "k d"], x: Float[np.ndarray, "n d"], ell: Float[np.ndarray, " p"]
) -> Float[np.ndarray, "k n"]:
    """Return the correlation between the rows of `u` and `x`."""
    if isinstance(kernel, _Single):
        return _single(kernel.code, u, x, ell)[0]
    if isinstance(kernel, Structured):
        return kernel.correlation_slopes(u, x, ell)[0]
    parts, shares = split(kernel, u.shape[1], ell)
    each = iter(parts)
    kappa = [
        math.prod([_single(code, u, x, next(each))[0] for code in term], start=np.ones(())) for term in _terms(kernel)
    ]
    return kappa[0] if len(kappa) == 1 else np.tensordot(shares, kappa, 1)


def correlation_slopes(
    kernel: Kernel, u: Float[np.ndarray, "k d"], x: Float[np.ndarray, "n d"], ell: Float[np.ndarray, " p"]
) -> tuple[Float[np.ndarray, "k n"], Float[np.ndarray, "f k n"], Float[np.ndarray, "s k n"]]:
    """Return the correlation, g of each part (with the factors beside it), and its derivative by each log share."""
    if isinstance(kernel, _Single):
        kappa, g = _single(kernel.code, u, x, ell)
        return kappa, g[None], np.empty((0, *kappa.shape))
    if isinstance(kernel, Structured):
        return kernel.correlation_slopes(u, x, ell)
    parts, shares = split(kernel, u.shape[1], ell)
    each = iter(parts)
    terms, slopes = [], []
    for share, term in zip(shares, _terms(kernel), strict=True):
        pairs = [_single(code, u, x, next(each)) for code in term]
        terms.append(math.prod([kappa for kappa, _ in pairs], start=np.ones(())))
        for i, (_, g) in enumerate(pairs):
            slopes.append(math.prod([kappa for j, (kappa, _) in enumerate(pairs) if j != i], start=share * g))
    total = terms[0] if len(terms) == 1 else np.tensordot(shares, terms, 1)
    by_share = [share * (one - total) for share, one in zip(shares[1:], terms[1:], strict=True)]
    return total, np.stack(slopes), np.array(by_share).reshape(-1, *total.shape)


def correlation_within(
    kernel: Kernel, u: Float[np.ndarray, "s k d"], ell: Float[np.ndarray, " p"]
) -> Float[np.ndarray, "s k k"]:
    """Return the correlation between the rows of each member of a batch."""
    if len(u) == 1:
        return correlation(kernel, u[0], u[0], ell)[None]
    if isinstance(kernel, Structured):
        return np.stack([correlation(kernel, one, one, ell) for one in u])
    parts, shares = split(kernel, u.shape[2], ell)
    each = iter(parts)
    total = np.zeros((len(u), u.shape[1], u.shape[1]))
    for share, term in zip(shares, _terms(kernel), strict=True):
        product = np.full_like(total, share)
        for code in term:
            scaled = u / next(each)
            r = np.sqrt(np.sum((scaled[:, :, None, :] - scaled[:, None, :, :]) ** 2, axis=-1))
            product *= _single(code, r.reshape(-1, 1), np.zeros((1, 1)), np.ones(1))[0].reshape(r.shape)
        total += product
    return total


def _single(code: int, u: Array, x: Array, ell: Array) -> tuple[Array, Array]:
    kappa = np.empty((len(u), len(x)))
    g = np.empty_like(kappa)
    if u is x:
        _own(code, np.ascontiguousarray(x), np.ascontiguousarray(x.T), 1.0 / ell, kappa, g)
    else:
        _cross(code, np.ascontiguousarray(u), np.ascontiguousarray(x), 1.0 / ell, kappa, g)
    return kappa, g


# ------------------------------------------------------------------------------------- sums and products, compiled
@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def layout_of(code: int) -> tuple[Ints, Ints, int]:
    """Return code and term of each part, and the number of terms; a single kernel is a sum of one term."""
    digits = np.empty(32, dtype=np.int64)
    count = 0
    rest = code
    while rest > 1:
        digits[count] = rest % 4
        rest //= 4
        count += 1
    if code < 4:
        digits[0], count = code, 1
    kinds, terms = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    parts, term = 0, 0
    for place in range(count - 1, -1, -1):
        if digits[place] == 3:
            term += 1
        else:
            kinds[parts], terms[parts] = digits[place], term
            parts += 1
    return kinds[:parts], terms[:parts], term + 1


@numba.njit(cache=True, nogil=True, fastmath=FAST)  # type: ignore[untyped-decorator]
def composite_of(kinds: Ints, terms: Ints, shares: Array, inverse_ell: Array, u: Array, x: Array, g: Array) -> float:
    """Return kappa of a sum of products between two inputs, and fill g of each part."""
    count = len(kinds)
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
            kappa, radial = correlation_of(kinds[last], r2)
            # What stands before a part multiplies its slope; what stands behind it multiplies those before.
            g[last] = product * radial
            for before in range(first, last):
                g[before] *= kappa
            product *= kappa
            last += 1
        total += product
        first = last
    return total
