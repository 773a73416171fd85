"""A kernel of all inputs together, plus one of each input alone: outputs that are mostly a sum of effects.

==========  ====================================================================  =========
symbol      meaning                                                               shape
==========  ====================================================================  =========
u, x        inputs in the unit cube                                               (k, d)
w           fractions of the parts, which sum to 1: all inputs, then each         (d + 1,)
kappa       w_0 kappa_0(u, x; l) + sum over c of w_c kappa_0(u_c, x_c; m_c)       (k, n)
==========  ====================================================================  =========

`ell` has the length scales l of the part of all inputs, those of each input alone, m, and the fractions of these
relative to w_0. A sum of a kernel for every subset of the inputs would be the whole decomposition of a function
(Duvenaud et al. 2011); main effects are what few runs can identify, and interactions are left to the first part.
"""

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from uqms._teaching import taught_construction
from uqms._typing import Array, Ints
from uqms.errors import InputError
from uqms.surrogates._dense import fill_sum
from uqms.surrogates.kernels import (
    NEVER,
    SHARE_BOUNDS,
    SHARE_SPREAD,
    Effects,
    Matern52,
    RadialKernel,
    RadialParts,
    Seen,
)
from uqms.surrogates.radial import factor_of, radial

__all__ = ["MainEffects"]

ALONE = 0.75  # length scale at most from which the search for those of single inputs starts: the prior's median


@taught_construction
@final
@dataclass(frozen=True)
class MainEffects(RadialParts):
    """A kernel of all inputs together plus one of each input alone, with length scales and fractions of their own.

    Use it where a simulator's output is mostly a sum of what its inputs do one by one: then fewer runs do, and total
    Sobol' indices are several times sharper. By default `GaussianProcess` takes it for each score whose runs prefer it.

    Parameters
    ----------
    kernel
        The kernel of every part.

    Raises
    ------
    InputError
        When the kernel is not a single one of the scaled distance.

    References
    ----------
    Duvenaud, Nickisch & Rasmussen (2011), Additive Gaussian processes, NIPS 24, 226-234;
    Durrande, Ginsbourger & Roustant (2012), Additive covariance kernels for high-dimensional Gaussian process modeling,
    doi:10.5802/afst.1342.

    Examples
    --------
    >>> import numpy as np
    >>> import uqms as uq
    >>> space = uq.ParameterSpace(**{name: uq.Uniform(0.0, 1.0) for name in "abc"})
    >>> design = uq.sobol(space, 32, rng=1)
    >>> def f(x):
    ...     return np.sin(9.0 * x["a"]) + np.cos(8.0 * x["b"]) + x["c"] ** 2
    >>> runs = uq.ensemble.build(design, {"y": f({name: design[name].values for name in "abc"})})
    >>> new = {name: np.random.default_rng(i).random(200) for i, name in enumerate("abc")}
    >>> def error(kernel):
    ...     prediction = uq.GaussianProcess(kernel=kernel, scales="given").fit(runs).predict(new)
    ...     return np.sqrt(np.mean((prediction.mean["y"].values - f(new)) ** 2))
    >>> bool(error(uq.MainEffects(uq.Matern52())) < 0.5 * error(uq.Matern52()))
    True
    """

    kernel: RadialKernel = Matern52()  # noqa: RUF009

    exchangeable = True
    plain = False

    def __post_init__(self) -> None:
        if not isinstance(self.kernel, RadialKernel):
            raise InputError(
                f"MainEffects: kernel is {self.kernel!r}; give a single one of the scaled distance: uq.Matern52()."
            )

    def places(self, d: int) -> Ints:
        """Return the place in `ell` of the length scale of each part (d + 1, d) and input."""
        alone = np.full((d, d), -1)
        np.fill_diagonal(alone, np.arange(d, 2 * d))
        return np.vstack([np.arange(d), alone])

    def more(self, d: int) -> tuple[Array, Array, Array]:
        """Return location, sd and bounds of the logarithms of the fractions relative to that of all inputs together."""
        return np.zeros(d), np.full(d, SHARE_SPREAD), np.repeat(np.log([SHARE_BOUNDS]), d, axis=0)

    def layout(self, d: int) -> Array:
        """Return code and term of each part of d inputs."""
        return Effects(self.kernel, d).layout(d)

    def seen(self, u: Array, ell: Array) -> Seen:
        """Return inputs as they are, which a sum of kernels of all inputs sees: most of its length scales are endless.

        That is how compiled code knows it.
        """
        d = u.shape[1]
        scales = np.full((d + 1, d), NEVER)
        scales[0] = ell[:d]
        np.fill_diagonal(scales[1:], ell[d : 2 * d])
        return Seen(u, np.ones(u.shape[:-1]), np.append(scales, ell[2 * d :]), Effects(self.kernel, d))

    def correlation(self, u: Array, x: Array, ell: Array) -> Array:
        """Return the correlation (..., k, n) between the rows of u (..., k, d) and x (..., n, d)."""
        d, code, shares = u.shape[-1], self.kernel.code, _shares(ell, u.shape[-1])
        precision = factor_of(code) * ell[: 2 * d] ** -2.0
        shape = *u.shape[:-1], x.shape[-2]
        together, kappa = np.zeros(shape), np.zeros(shape)
        for c in range(d):
            part = (u[..., c, None] - x[..., None, :, c]) ** 2
            together += precision[c] * part
            part *= precision[d + c]
            radial(code, part)
            part *= shares[1 + c]
            kappa += part
        radial(code, together)
        together *= shares[0]
        kappa += together
        return kappa

    def upper(self, x: Array, ell: Array) -> Array | None:
        """Return the upper triangle (n, n) of the correlation of inputs with themselves, in one pass."""
        d, code = x.shape[1], self.kernel.code
        root, kappa = math.sqrt(factor_of(code)), np.empty((len(x), len(x)))
        z, alone = (np.ascontiguousarray((x * (root / scales)).T) for scales in (ell[:d], ell[d : 2 * d]))
        fill_sum(code, z, alone, _shares(ell, d), kappa)
        return kappa

    def correlation_slopes(self, u: Array, x: Array, ell: Array) -> tuple[Array, Array, Array]:
        """Return the correlation, g of each part, and its derivative by the logarithm of each relative fraction."""
        d, shares = u.shape[1], _shares(ell, u.shape[1])
        parts, slopes = np.empty((d + 1, len(u), len(x))), np.empty((d + 1, len(u), len(x)))
        parts[0], (slopes[0],), _ = self.kernel.correlation_slopes(u, x, ell[:d])
        for c in range(d):
            one = np.ascontiguousarray(u[:, c : c + 1])
            other = one if u is x else np.ascontiguousarray(x[:, c : c + 1])  # half of the pairs will do
            parts[1 + c], (slopes[1 + c],), _ = self.kernel.correlation_slopes(one, other, ell[d + c : d + c + 1])
        total = np.tensordot(shares, parts, 1)
        slopes *= shares[:, None, None]
        by_share = parts[1:]
        by_share -= total
        by_share *= shares[1:, None, None]
        return total, slopes, by_share

    def correlation_within(self, u: Array, ell: Array) -> Array:
        """Return the correlation (s, k, k) between the rows of each member of a batch (s, k, d)."""
        return self.correlation(u, u, ell)

    def reordered(self, ell: Array, inputs: Ints) -> Array:
        """Return `ell` for the same process of inputs in another order."""
        return np.asarray(ell.reshape(3, -1)[:, inputs].ravel())

    def lifted(self, ell: Array, d: int) -> Array:
        """Return `ell` for the same process of d inputs with one before them on which nothing depends."""
        return np.asarray(np.column_stack([[NEVER, NEVER, 0.0], ell.reshape(3, d)]).ravel())

    def whole(self, own: Array) -> Array:
        """Return `ell` from the length scales (d,) of the kernel without main effects: a start for all others."""
        d = len(own)
        return np.concatenate([own, np.minimum(own, ALONE), np.ones(d)])

    def __str__(self) -> str:
        return f"{self.kernel} with main effects"


def _shares(ell: Array, d: int) -> Array:
    """Return the fractions (d + 1,), which sum to 1."""
    relative = np.append(1.0, ell[2 * d :])
    return np.asarray(relative / relative.sum())
