"""A stationary kernel in learned directions, with an amplitude that varies over the box; and the choice of kernels.

==========  =================================================================  =========
symbol      meaning                                                            shape
==========  =================================================================  =========
u, x        inputs in the unit cube                                            (k, d)
L           directions, lower triangular with ones on its diagonal             (d, d)
b           slopes of the logarithm of the amplitude                           (d,)
kappa       exp(b · (u - 1/2)) exp(b · (x - 1/2)) kappa_0(L u, L x)            (k, n)
==========  =================================================================  =========

With L = 1 and b = 0 it is the stationary kernel kappa_0. Behind its length scales and shares `ell` has l + sqrt(1 + l²)
of the entries l of L below the diagonal, row by row, and exp(b): positive numbers whose logarithms, asinh(l) and b, are
learned as those of length scales. Entries may be as large as ratios of length scales when inputs change their order.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import final

import numpy as np

from uqms._teaching import taught_construction
from uqms._typing import Array, Ints
from uqms.errors import InputError
from uqms.surrogates._dense import fill_correlation
from uqms.surrogates.kernels import (
    SINGLE,
    Kernel,
    Linearised,
    Matern52,
    Matern72,
    Matern112,
    RadialKernel,
    Seen,
    Slopes,
    Stationary,
    hyperparameter_count,
    scale_count,
)
from uqms.surrogates.main_effects import MainEffects
from uqms.surrogates.radial import factor_of

__all__ = ["Adapted", "Bent", "OneOf", "candidates", "converted", "described", "forward_logs"]

AMPLITUDE_SPREAD = 2.0  # sd of a slope b: over the box the amplitude changes by a factor of exp(2)
LARGEST = 8.0, 3.0  # of a slope, and of asinh of an entry of L, which then is 10
ENTRIES = 15  # of L at most, where it is chosen by the runs
LEARNED = ("directions", "amplitude")


@taught_construction
@final
@dataclass(frozen=True)
class Adapted(Kernel):
    """A stationary kernel whose scaled distance has learned directions, and whose amplitude varies over the box.

    Use it where the simulator's output follows combinations of its inputs, such as the difference of two rates, or
    changes much more in one part of the box than in another. By default `GaussianProcess` takes as much of it
    for each score as the runs prefer; with ``scales="given"`` all of it is learned.

    Parameters
    ----------
    kernel
        The stationary kernel; a single one where directions are learned.
    directions
        Whether distances are measured along learned combinations of the inputs: a distance with a full matrix in the
        place of one length scale per input.
    amplitude
        Whether the logarithm of the process's sd is linear in the inputs.

    Raises
    ------
    InputError
        When the kernel is not stationary, or is a sum or product and directions are asked for.

    References
    ----------
    Vivarelli & Williams (1999), Discovering hidden features with Gaussian processes regression, NIPS 11, 613-619;
    Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, section 5.1,
    doi:10.7551/mitpress/3206.001.0001.

    Examples
    --------
    >>> import numpy as np
    >>> import uqms as uq
    >>> space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
    >>> design = uq.sobol(space, 32, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": np.sin(9.0 * (design["a"].values - design["b"].values))})
    >>> new = {"a": np.linspace(0.1, 0.9, 9), "b": np.linspace(0.7, 0.2, 9)}
    >>> def error(kernel):
    ...     prediction = uq.GaussianProcess(kernel=kernel, scales="given").fit(runs).predict(new)
    ...     return np.abs(prediction.mean["y"].values - np.sin(9.0 * (new["a"] - new["b"]))).max()
    >>> bool(error(uq.Adapted(uq.Matern52())) < 0.5 * error(uq.Matern52()))
    True
    """

    kernel: Stationary = Matern52()  # noqa: RUF009
    directions: bool = True
    amplitude: bool = True

    exchangeable = True
    plain = False

    def __post_init__(self) -> None:
        if not isinstance(self.kernel, Stationary):
            raise InputError(f"Adapted: kernel is {self.kernel!r}; give one of the scaled distance: Matern52().")
        if self.directions and not isinstance(self.kernel, RadialKernel):
            raise InputError(
                f"Adapted: directions go with a single kernel, such as Matern52(), not with {self.kernel}. "
                f"Write Adapted({self.kernel!r}, directions=False), or choose a single kernel."
            )

    def places(self, d: int) -> Ints:
        """Return the place in `ell` of the length scale of each part (f, d) and input."""
        return self.kernel.places(d)

    def more(self, d: int) -> tuple[Array, Array, Array]:
        """Return location, sd and bounds of the logarithms of shares, of L and of b."""
        location, sd, bounds = self.kernel.more(d)
        entries, slopes = self._counts(d)
        spread = np.repeat([1.0 / math.sqrt(max(d - 1, 1)), AMPLITUDE_SPREAD], [entries, slopes])
        return (
            np.append(location, np.zeros(entries + slopes)),
            np.append(sd, spread),
            np.vstack([bounds, np.outer(np.repeat(LARGEST[::-1], [entries, slopes]), [-1.0, 1.0])]),
        )

    def _counts(self, d: int) -> tuple[int, int]:
        return d * (d - 1) // 2 if self.directions else 0, d if self.amplitude else 0

    def parts_of(self, ell: Array, d: int) -> tuple[Array, Array, Array]:
        """Return `ell` of the stationary kernel, L (d, d), and b (d,)."""
        entries, slopes = self._counts(d)
        size = len(ell) - entries - slopes
        logs = np.log(ell[size:])
        lower, b = np.eye(d), np.zeros(d)
        if self.directions:
            lower[_below(d)] = np.sinh(logs[:entries])
        if self.amplitude:
            b = logs[entries:]
        return ell[:size], lower, b

    def ell_of(self, own: Array, lower: Array, b: Array) -> Array:
        """Return `ell` from its parts, as `parts_of` gives them."""
        entries = np.exp(np.arcsinh(lower[_below(len(lower))])) if self.directions else np.empty(0)
        return np.concatenate([own, entries, np.exp(b) if self.amplitude else np.empty(0)])

    def layout(self, d: int) -> Array | None:
        """Return code and term of each part of the stationary kernel."""
        return self.kernel.layout(d)

    def variances(self, u: Array, ell: Array) -> Array:
        """Return kappa (k,) of each input with itself."""
        return amplitude(u, self.parts_of(ell, u.shape[1])[2]) ** 2

    def seen(self, u: Array, ell: Array) -> Seen:
        """Return inputs in the kernel's directions, with the amplitude there."""
        own, lower, b = self.parts_of(ell, u.shape[1])
        directions, slopes = lower if self.directions else None, b if self.amplitude else None
        return Seen(u @ lower.T, amplitude(u, b), own, self.kernel, directions, slopes)

    def linearised(self, u: Array, x: Array, ell: Array) -> Linearised:
        """Return kappa (k, n) with its reverse derivatives."""
        return Bent(self, u, x, ell)

    def correlation(self, u: Array, x: Array, ell: Array) -> Array:
        """Return kappa (k, n)."""
        own, lower, b = self.parts_of(ell, u.shape[1])
        z = u @ lower.T
        kappa = self.kernel.correlation(z, z if u is x else x @ lower.T, own)
        if self.amplitude:
            sizes = amplitude(u, b)
            kappa *= sizes[:, None]
            kappa *= sizes if u is x else amplitude(x, b)
        return kappa

    def upper(self, x: Array, ell: Array) -> Array | None:
        """Return the upper triangle (n, n) of kappa of inputs with themselves, where compiled code has the kernel."""
        base = self.kernel
        if not isinstance(base, RadialKernel) or base.code >= SINGLE:
            return None
        own, lower, b = self.parts_of(ell, x.shape[1])
        z = np.ascontiguousarray((x @ lower.T * (math.sqrt(factor_of(base.code)) / own)).T)
        kappa = np.empty((len(x), len(x)))
        fill_correlation(base.code, z, amplitude(x, b), kappa)
        return kappa

    def correlation_within(self, u: Array, ell: Array) -> Array:
        """Return kappa (s, k, k) between the rows of each member of a batch (s, k, d)."""
        own, lower, b = self.parts_of(ell, u.shape[2])
        s = amplitude(u, b)
        return self.kernel.correlation_within(u @ lower.T, own) * s[:, :, None] * s[:, None, :]

    def reordered(self, ell: Array, inputs: Ints) -> Array:
        """Return `ell` for the same process of inputs in another order."""
        own, lower, b = self.parts_of(ell, len(inputs))
        if not self.directions:
            return self.ell_of(self.kernel.reordered(own, inputs), lower, b[inputs])
        root = (lower / own[: len(inputs), None])[:, inputs]
        # L' D² L of the squared distance, with rows and columns in the new order: its factor from the last input on.
        factor = np.linalg.cholesky((root.T @ root)[::-1, ::-1])[::-1, ::-1].T
        scales = 1.0 / np.diag(factor)
        return self.ell_of(np.append(scales, own[len(inputs) :]), factor * scales[:, None], b[inputs])

    def lifted(self, ell: Array, d: int) -> Array:
        """Return `ell` for the same process of d inputs with one before them on which nothing depends."""
        own, lower, b = self.parts_of(ell, d)
        directions = np.eye(d + 1)
        directions[1:, 1:] = lower
        return self.ell_of(self.kernel.lifted(own, d), directions, np.append(0.0, b))

    def __str__(self) -> str:
        learned = [name for name in LEARNED if getattr(self, name)]
        return f"{self.kernel} with learned {' and '.join(learned)}" if learned else str(self.kernel)


def candidates(kernel: Kernel, d: int) -> Kernel:
    """Return the kernels that runs of d inputs may choose from: of one that learns nothing, itself."""
    return OneOf.that_adapts(kernel, d) if isinstance(kernel, Stationary | Adapted) and kernel.adapts else kernel


@cache
def _below(d: int) -> tuple[Ints, Ints]:
    """Return rows and columns of the entries of L below the diagonal."""
    return np.tril_indices(d, -1)


def amplitude(u: Array, b: Array) -> Array:
    """Return exp(b · (u - 1/2)), (..., k), at inputs (..., k, d)."""
    return np.asarray(np.exp((u - 0.5) @ b))


def forward_logs(at: Linearised, v: Array) -> Array:
    """Return the derivative (k, p) of kappa @ v, with v (n,), by the logarithms of `ell`: by products of matrices.

    Squares of differences are multiplied out, so that digits are lost where runs are close.
    """
    if isinstance(at, Bent):
        return at.forward_logs(v)
    if not isinstance(at, Slopes):
        raise TypeError(f"{type(at).__name__} is no correlation of a scaled distance")
    u, x, d = at.u, at.x, at.u.shape[1]
    scales = int(at.at.max()) + 1
    out = np.empty((len(u), scales + len(at.by_other)))
    moments = np.column_stack([v, x * v[:, None], x * x * v[:, None]])
    for columns, slope in zip(at.at, at.g, strict=True):
        seen = columns >= 0
        sums = slope @ moments
        moved = u * u * sums[:, :1] - 2.0 * u * sums[:, 1 : d + 1] + sums[:, d + 1 :]
        out[:, columns[seen]] = -moved[:, seen] * at.ell[columns[seen]] ** -2.0
    for i, slope in enumerate(at.by_other):
        out[:, scales + i] = slope @ v
    return out


@final
class Bent:
    """The correlation between u and x of `Adapted`, linearised."""

    def __init__(self, kernel: Adapted, u: Array, x: Array, ell: Array) -> None:
        self._kernel, self._u, self._x = kernel, u, x
        self._own, self._lower, self._b = kernel.parts_of(ell, u.shape[1])
        self._z = u @ self._lower.T
        self._zx = self._z if u is x else x @ self._lower.T
        self._at_u, self._at_x = amplitude(u, self._b), amplitude(x, self._b)
        self._sizes = self._at_u[:, None] * self._at_x
        self._base = kernel.kernel.linearised(self._z, self._zx, self._own)

    @cached_property
    def kappa(self) -> Array:
        """(k, n)."""
        return np.asarray(self._base.kappa * self._sizes)

    def reverse_inputs(self, bar: Array) -> Array:
        """Return the derivative (k, d) of sum(kappa * bar) by u, with x held."""
        by_size = np.sum(bar * self.kappa, axis=1)
        return np.asarray(self._base.reverse_inputs(bar * self._sizes) @ self._lower + by_size[:, None] * self._b)

    def reverse_logs(self, bar: Array) -> Array:
        """Return the derivative (p,) of sum(kappa * bar) by the logarithms of `ell`."""
        kernel, u, x = self._kernel, self._u, self._x
        scaled = bar * self._sizes
        if not kernel.directions:
            out = [self._base.reverse_logs(scaled)]
        else:
            # Moments of pairs (a, i): g (u_a - x_i)(u_a - x_i)', with L on one side or on both.
            pairs = scaled * self._base.g[0]
            rows, columns, crossed = pairs.sum(axis=1)[:, None], pairs.sum(axis=0)[:, None], u.T @ (pairs @ x)
            by_input = self._lower @ (u.T @ (rows * u) + x.T @ (columns * x) - crossed - crossed.T)
            d, below = u.shape[1], _below(u.shape[1])
            of_scales = -np.sum(by_input * self._lower, axis=1) * self._own[:d] ** -2.0
            of_entries = (by_input / self._own[:d, None] ** 2)[below] * np.hypot(1.0, self._lower[below])
            out = [of_scales, of_entries]  # directions go with a single kernel, which has no shares
        if kernel.amplitude:
            each = bar * self.kappa
            out.append(each.sum(axis=1) @ (u - 0.5) + each.sum(axis=0) @ (x - 0.5))
        return np.concatenate(out)

    def forward_logs(self, v: Array) -> Array:
        """Return the derivative (k, p) of kappa @ v by the logarithms of `ell`; see the function of that name."""
        kernel, u, x, at_u = self._kernel, self._u, self._x, self._at_u[:, None]
        inner = self._at_x * v
        if not kernel.directions:
            out = [at_u * forward_logs(self._base, inner)]
        else:
            d, (rows, columns), z, zx = u.shape[1], _below(u.shape[1]), self._z, self._zx
            moments = np.hstack([np.ones((len(x), 1)), zx, x, zx * zx, zx[:, rows] * x[:, columns]])
            sums = at_u * (self._base.g[0] @ (moments * inner[:, None]))
            whole, by_z, by_x, squares, crossed = np.split(sums, np.cumsum([1, d, d, d]), axis=1)
            precision = self._own[:d] ** -2.0
            slopes = np.hypot(1.0, self._lower[rows, columns]) * precision[rows]
            zr, ur = z[:, rows], u[:, columns]
            out = [(2.0 * z * by_z - z * z * whole - squares) * precision]
            out.append((zr * (ur * whole - by_x[:, columns]) - ur * by_z[:, rows] + crossed) * slopes)
        if kernel.amplitude:
            both = self.kappa @ np.column_stack([v, (x - 0.5) * v[:, None]])
            out.append((u - 0.5) * both[:, :1] + both[:, 1:])
        return np.hstack(out)


@final
@dataclass(frozen=True)
class OneOf(Kernel):
    """One of several kernels, which each score and draw of hyperparameters says: what was chosen by the runs.

    `ell` has that of the kernel, ones, and the kernel's number from 1 on. It is never trained: its kernels are.
    """

    kernels: tuple[Kernel, ...]

    exchangeable = True
    plain = False

    def __post_init__(self) -> None:
        bases = {_base(one) for one in self.kernels}
        if not all(isinstance(base, RadialKernel if len(bases) > 1 else Stationary) for base in bases):
            raise InputError(f"OneOf: kernels are {self.kernels!r}; give stationary ones, adapted or not.")

    @classmethod
    def that_adapts(cls, kernel: Stationary | Adapted, d: int) -> "OneOf":
        """Return the candidates: a kernel with less learned, and smoother ones in its place, the smoothest last.

        Beside each is the one with main effects, unless the kernel says what may be learned.
        """
        whole = kernel if isinstance(kernel, Adapted) else Adapted(kernel, directions=isinstance(kernel, RadialKernel))
        bases = [whole.kernel, *([Matern72(), Matern112()] if whole.kernel == Matern52() else [])]
        each = list[Kernel]()
        for base in bases:
            each += _adapted_less(replace(whole, kernel=base), d)
            if isinstance(base, RadialKernel) and kernel is not whole and d > 1:
                each.append(MainEffects(base))
        return cls(tuple(each))

    def choices(self) -> list[list[Kernel]]:
        """Return the kernels by what they are of, each list from the simplest on."""
        bases = list(dict.fromkeys(_base(one) for one in self.kernels))
        return [[one for one in self.kernels if _base(one) == base] for base in bases]

    def adapted(self) -> list[Kernel]:
        """Return the first kernel and what more of directions and amplitude may be learned with it, from less to more.

        Each is a part of those behind it; one with main effects is a part of none.
        """
        return [one for one in self.choices()[0] if not isinstance(one, MainEffects)]

    def learned(self, kernel: Kernel) -> int:
        """Return how many things a kernel has beside the first: directions, amplitude, main effects, smoothness."""
        own = sum(bool(getattr(kernel, name, False)) for name in LEARNED) + isinstance(kernel, MainEffects)
        return own + int(_base(kernel) != _base(self.kernels[0]))

    def of(self, ell: Array, d: int) -> tuple[Kernel, Array]:
        """Return the kernel that `ell` says, with its own."""
        kernel = self.kernels[int(ell[-1]) - 1]
        return kernel, ell[: hyperparameter_count(kernel, d)]

    def ell_of(self, kernel: Kernel, own: Array, d: int) -> Array:
        """Return `ell` of one of the kernels from its own."""
        out = np.ones(hyperparameter_count(self, d))
        out[: len(own)], out[-1] = own, self.kernels.index(kernel) + 1.0
        return out

    def fewest(self, ell: Array, d: int) -> tuple[Kernel, Array]:
        """Return the same kernels without those that no `ell` (..., p) says: perhaps a single one; with its `ell`."""
        rows = [self.of(one, d) for one in ell.reshape(-1, ell.shape[-1])]
        said = {one for one, _ in rows}
        kernels = tuple(one for one in self.kernels if one in said)
        if len(kernels) == 1:
            return kernels[0], np.stack([own for _, own in rows]).reshape(*ell.shape[:-1], -1)
        fewer = OneOf(kernels)
        out = [fewer.ell_of(kernel, own, d) for kernel, own in rows]
        return fewer, np.stack(out).reshape(*ell.shape[:-1], -1)

    def check(self, ell: Array) -> None:
        """Raise when `ell` (..., p), of a file, says a kernel that is none of these."""
        if not np.isin(ell[..., -1], np.arange(1, len(self.kernels) + 1)).all():
            raise InputError(f"there are {len(self.kernels)} kernels, but hyperparameters are of others")

    def places(self, d: int) -> Ints:
        """Return the place in `ell` of the length scale of each part (f, d) and input."""
        return self.kernels[0].places(d)

    def more(self, d: int) -> tuple[Array, Array, Array]:
        """Return location, sd and bounds of as many logarithms as there are, of which none is trained."""
        count = 1 + max(hyperparameter_count(one, d) for one in self.kernels) - scale_count(self, d)
        return np.zeros(count), np.ones(count), np.zeros((count, 2))

    def layout(self, d: int) -> Array | None:
        """Return code and term of each part of the first."""
        return self.kernels[0].layout(d)

    def variances(self, u: Array, ell: Array) -> Array:
        """Return the correlation (k,) of each input with itself."""
        kernel, own = self.of(ell, u.shape[1])
        return kernel.variances(u, own)

    def seen(self, u: Array, ell: Array) -> Seen:
        """Return inputs as the kernel sees them."""
        kernel, own = self.of(ell, u.shape[1])
        return kernel.seen(u, own)

    def linearised(self, u: Array, x: Array, ell: Array) -> Linearised:
        """Return the correlation (k, n) with its reverse derivatives; of logarithms, by the kernel's own."""
        kernel, own = self.of(ell, u.shape[1])
        return kernel.linearised(u, x, own)

    def correlation(self, u: Array, x: Array, ell: Array) -> Array:
        """Return the correlation (k, n)."""
        kernel, own = self.of(ell, u.shape[1])
        return kernel.correlation(u, x, own)

    def correlation_within(self, u: Array, ell: Array) -> Array:
        """Return the correlation (s, k, k) between the rows of each member of a batch (s, k, d)."""
        kernel, own = self.of(ell, u.shape[2])
        return kernel.correlation_within(u, own)

    def reordered(self, ell: Array, inputs: Ints) -> Array:
        """Return `ell` for the same process of inputs in another order."""
        kernel, own = self.of(ell, len(inputs))
        return self.ell_of(kernel, kernel.reordered(own, inputs), len(inputs))

    def lifted(self, ell: Array, d: int) -> Array:
        """Return `ell` for the same process of d inputs with one before them on which nothing depends."""
        kernel, own = self.of(ell, d)
        return self.ell_of(kernel, kernel.lifted(own, d), d + 1)

    def __str__(self) -> str:
        return " or ".join(map(str, self.kernels))


def _base(kernel: Kernel) -> Kernel:
    return kernel.kernel if isinstance(kernel, Adapted | MainEffects) else kernel


def _adapted_less(kernel: Adapted, d: int) -> list[Kernel]:
    """Return the kernels that are this one with less learned, the simplest first, and itself."""
    ways = [(False, False), (False, True), (True, False), (True, True)]
    few = d > 1 and d * (d - 1) // 2 <= ENTRIES
    return [
        Adapted(kernel.kernel, *one) if any(one) else kernel.kernel
        for one in ways
        if one[0] <= (kernel.directions and few) and one[1] <= kernel.amplitude
    ]


def converted(ell: Array, kernel: Kernel, to: Kernel, d: int) -> Array:
    """Return `ell` of one kernel as that of another one that differs in what is learned only, as near as that is."""
    own, lower, b = kernel.parts_of(ell, d) if isinstance(kernel, Adapted) else (ell, np.eye(d), np.zeros(d))
    own = own[:d] if isinstance(kernel, MainEffects) else own
    if isinstance(to, MainEffects):
        return to.whole(own)
    return to.ell_of(own, lower, b) if isinstance(to, Adapted) else own


def described(kernel: Kernel, ell: Array, d: int) -> str:
    """Return the kernel as a user reads it, with what was learned of how many scores; `ell` is (H, q, p)."""
    if not isinstance(kernel, OneOf):
        return str(kernel)
    q = ell.shape[1]
    by_score = [{kernel.of(one, d)[0] for one in ell[:, j]} for j in range(q)]
    learned = {name: sum(any(getattr(one, name, False) for one in of) for of in by_score) for name in LEARNED}
    bases = Counter(str(_base(one)) for of in by_score for one in {_base(one): one for one in of}.values())
    said = [f"{name}{_of_scores(count, q)}" for name, count in learned.items() if count]
    said = [f"learned {' and '.join(said)}"] if said else []
    sums = sum(any(isinstance(one, MainEffects) for one in of) for of in by_score)
    said += [f"main effects{_of_scores(sums, q)}"] if sums else []
    whole = " or ".join(f"{name}{_of_scores(count, q) if len(bases) > 1 else ''}" for name, count in bases.items())
    return f"{whole}, with {' and '.join(said)}" if said else whole


def _of_scores(count: int, q: int) -> str:
    return f" ({count} of {q} scores)" if q > 1 else ""
