"""Standard deviations of the noise as targets of runs: the surrogate's error hides how much data scatter.

==========  ======================================================================  ====================
symbol      meaning                                                                 shape
==========  ======================================================================  ====================
A = L L'    covariance of the measurements in units of their noise, see `run_gain`  (S, N, N)
D           derivative of the log-variances of the noise by log sd, diagonal        (S, N)
B           L^-1 D L^-T                                                             (S, N, N)
Q           columns that span what runs can take from A, L^-1 A L^-T = 1            (S, N, b)
V           what a run takes: A becomes L (1 - Q V' V Q') L'                        (S, m, b)
G           (1 - V' V)^-1 of all runs so far                                        (S, b, b)
==========  ======================================================================  ====================

The expected information about log sd is tr(B B) / 2 for normal measurements, and its posterior variance is
1 / (prior precision + information). After runs it is tr(G B G B) / 2, where G is continued by 1 on what Q leaves out.
One more run adds, with P = V G B G V', R = V G B G B G V' and H = (1 - V G V')^-1,

    tr(H R) + tr(H P H P) / 2.

Scatter that no error of the surrogate can explain, as that of replicates, adds information that runs do not change.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from uqms._typing import Array, Ints
from uqms.calibration.density import noise_sd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from uqms.calibration.single import SingleCalibration

__all__ = ["NoiseTarget", "log_slopes", "noise_sds_of"]

STEP = 1e-4


def noise_sds_of(problem: "SingleCalibration") -> list[str]:
    """Return the names of inferred standard deviations of independent Gaussian noise."""
    noise, out = problem.noise, []
    for model, roles in zip(noise.models, noise.roles, strict=True):
        factor = None if model.growth is None else model.growth.factor
        for role, place in roles.items():
            if (
                model.gaussian
                and model.process is None
                and role in ("sigma", factor)
                and noise.keys[place] in noise.unknown
            ):
                out.append(noise.keys[place])
    return list(dict.fromkeys(out))


def log_slopes(problem: "SingleCalibration", theta: "Mapping[str, Array]", h: Ints, name: str) -> Array:
    """Return D of the cells (S, N) for the sd of this name."""
    mean = problem.data_model.joint_error(problem.unit_inputs(theta)).mean_given(h)
    mean = mean * problem.noise.scales(problem.cells.group, problem.noise.phi(theta, (len(h),)))
    if name not in problem.noise.unknown:
        return np.zeros_like(mean)
    ends = []
    for sign in (1.0, -1.0):
        moved = {**theta, name: np.asarray(theta[name]) * (1.0 + sign * STEP)}
        ends.append(2.0 * np.log(noise_sd(problem.data_model, mean, problem.noise.phi(moved, (len(h),)))))
    return np.asarray((ends[0] - ends[1]) / (2.0 * STEP))


@final
@dataclass(frozen=True, eq=False)
class NoiseTarget:
    """One standard deviation at the draws at which the problem is linearised.

    Attributes
    ----------
    first, second
        Q' B Q and Q' B B Q, (S, b, b).
    information, bare
        Expected information about its logarithm with the surrogate's error and without, (S,).
    precision
        Of the prior of the logarithm.
    """

    first: Array
    second: Array
    information: Array
    bare: Array
    precision: float

    @classmethod
    def of(cls, A: Array, without: Array, Q: Array | None, D: Array, free: Array, precision: float) -> "NoiseTarget":
        """Return the target; `without` is A without the surrogate's error, `free` (S,) the scatter of replicates."""
        informations, B = [], np.zeros(0)
        for covariance in (without, A):
            root = np.linalg.cholesky(covariance)
            half = np.linalg.solve(root, D[:, :, None] * np.eye(D.shape[1]))
            B = np.linalg.solve(root, half.swapaxes(1, 2))
            informations.append(0.5 * np.sum(B**2, axis=(1, 2)) + free)
        squared = B @ B
        first, second = (B, squared) if Q is None else (Q.swapaxes(1, 2) @ one @ Q for one in (B, squared))
        return cls(first, second, informations[1], informations[0], precision)

    def variance(self, information: Array) -> Array:
        """Return the posterior variance of the logarithm."""
        return 1.0 / (self.precision + information)

    def added(self, G: Array, V: Array) -> Array:
        """Return the information (S, M) that each of M runs V (S, M, m, b) adds to that of the runs in G (S, b, b)."""
        first = G @ self.first @ G
        second = G @ (self.second - self.first @ self.first + self.first @ G @ self.first) @ G
        left, P, R = (V @ one[:, None] @ V.swapaxes(2, 3) for one in (G, first, second))
        H = np.linalg.inv(np.eye(V.shape[2]) - left)
        HP = H @ P
        return np.asarray(np.einsum("snij,snji->sn", H, R) + 0.5 * np.einsum("snij,snji->sn", HP, HP))
