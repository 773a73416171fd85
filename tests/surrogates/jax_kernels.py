"""Kernels in JAX, as a user writes them, for tests; imported where JAX is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

import uqms as uq
from uqms._typing import Array


@dataclass(frozen=True)
class Mine(uq.JaxKernel):
    """Matérn 5/2; it treats inputs alike, as built-in kernels do."""

    exchangeable: ClassVar[bool] = True

    def pair(self, u: Any, x: Any, ell: Any) -> Any:
        r2 = jnp.sum(((u - x) / ell) ** 2)
        a = jnp.sqrt(5.0 * jnp.where(r2 > 0.0, r2, 1e-300))
        return (1.0 + a + a * a / 3.0) * jnp.exp(-a)


@dataclass(frozen=True)
class Bent(uq.JaxKernel):
    """Not stationary: the first input is periodic, the others are bent, and a part is linear."""

    period: float = 0.5

    def priors(self, d: int) -> Mapping[str, Any]:
        return {"bend": [uq.LogNormal(median=1.0, sigma=1.0)] * (d - 1), "share": uq.LogNormal(median=0.2, sigma=1.0)}

    def pair(self, u: Any, x: Any, ell: Any, bend: Any, share: Any) -> Any:
        def bent(v: Any) -> Any:
            return jnp.log1p(bend * v[1:]) / jnp.log1p(bend)

        wave = jnp.sin(jnp.pi * (u[0] - x[0]) / self.period) / ell[0]
        smooth = jnp.exp(-2.0 * wave**2 - 0.5 * jnp.sum(((bent(u) - bent(x)) / ell[1:]) ** 2))
        line = (1.0 + u @ x) / jnp.sqrt((1.0 + u @ u) * (1.0 + x @ x))
        return (smooth + share * line) / (1.0 + share)


def bent(u: Array, x: Array, ell: Array, period: float = 0.5) -> Array:
    """Return the correlation of `Bent` in two inputs by its definition, in NumPy."""
    (length, other, bend, share) = ell
    out = np.empty((len(u), len(x)))
    for i, a in enumerate(u):
        for j, b in enumerate(x):
            wave = np.sin(np.pi * (a[0] - b[0]) / period) / length
            step = (np.log1p(bend * a[1]) - np.log1p(bend * b[1])) / np.log1p(bend) / other
            line = (1.0 + a @ b) / np.sqrt((1.0 + a @ a) * (1.0 + b @ b))
            out[i, j] = (np.exp(-2.0 * wave**2 - 0.5 * step**2) + share * line) / (1.0 + share)
    return out
