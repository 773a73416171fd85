"""One output of a surrogate that is a number: its mean, its covariance between inputs, and their derivative."""

from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
from scipy.stats import qmc

from uqms._typing import Array, Ints
from uqms.errors import InputError
from uqms.parameters import Box
from uqms.surrogates.process import Scores
from uqms.surrogates.protocol import Surrogate, fixed_rows

__all__ = ["ScalarOutput", "scalar_output"]


@final
@dataclass(frozen=True, eq=False)
class ScalarOutput:
    """A number that is linear in the scores, on the scale that the surrogate models.

    Attributes
    ----------
    surrogate
        The surrogate.
    offset, basis
        The number is offset + basis @ scores, basis (q,).
    truncation
        Variance that the basis leaves out.
    """

    surrogate: Surrogate
    offset: float
    basis: Array
    truncation: float

    @property
    def domain(self) -> Box:
        """The design box."""
        return self.surrogate.domain

    @cached_property
    def used(self) -> Ints:
        """Places of the scores that the number depends on."""
        return np.flatnonzero(self.basis)

    @cached_property
    def noise(self) -> float:
        """Variance of one run of a stochastic simulator, in the mean over the box; 0 of a deterministic one."""
        if not hasattr(self.surrogate, "noise_at"):
            return 0.0
        v = qmc.Sobol(self.domain.d, seed=0).random_base2(6)
        levels = np.asarray(self.surrogate.noise_at(v))[..., self.used]
        return float(np.mean(levels @ self.basis[self.used] ** 2))

    def moments(self, scores: Scores, columns: Ints | None = None) -> tuple[Array, Array]:
        """Return mean (..., k) and covariance (..., k, k) for scores; `columns` says where those that are used are."""
        at = self.used if columns is None else columns
        b = self.basis[self.used]
        mean = self.offset + scores.mean[..., at] @ b
        if scores.correlated:
            joint = np.moveaxis(scores.covariance, -3, -2)[..., at, :][..., at]  # (..., k, k, q, q)
            covariance = np.einsum("...ij,i,j->...", joint, b, b)
        else:
            covariance = np.einsum("...jab,j->...ab", scores.covariance[..., at, :, :], b**2)
        return mean, covariance + self.truncation * np.eye(covariance.shape[-1])

    def reverse(self, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
        """Return the derivative (k, d) of sum(mean * mean_bar) + sum(covariance * covariance_bar) at u (k, d).

        Mean and covariance are those of each draw of the hyperparameters, (H, k) and (H, k, k).
        """
        b = self.basis
        if self.surrogate.scores(u[:1]).correlated:
            bars = np.einsum("hab,i,j->haibj", covariance_bar, b, b)
        else:
            bars = covariance_bar[:, None] * b[:, None, None] ** 2
        return np.asarray(self.surrogate.scores_reverse(u, mean_bar[..., None] * b, np.ascontiguousarray(bars)))


def scalar_output(surrogate: Surrogate, output: str | None, asked: str) -> tuple[ScalarOutput, str]:
    """Return an output of a surrogate, the only one where no name is given, with its name.

    Raises
    ------
    InputError
        When it is unknown, or a curve.
    ConformanceError
        When its rows depend on the input.
    """
    names = list(surrogate.layouts)
    name = names[0] if output is None and len(names) == 1 else output
    if name not in names:
        raise InputError(f"{asked}: output is {output!r}; give one of {names}.")
    layout = surrogate.layouts[name]
    if layout.dims:
        raise InputError(
            f"{asked}: {name!r} is a curve over {', '.join(layout.dims)}; fit the number that matters, such as "
            "uq.functionals.peak(...), as an output of its own."
        )
    rows = fixed_rows(surrogate, name)
    basis = np.asarray(rows.basis.toarray() if hasattr(rows.basis, "toarray") else rows.basis)[0]
    return ScalarOutput(surrogate, float(rows.offset[0]), basis, float(np.sum(rows.truncation[0] ** 2))), name
