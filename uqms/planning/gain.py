"""Expected information gain of measurements, from draws of what they would show.

==========  ===================================================================  ============
symbol      meaning                                                              shape
==========  ===================================================================  ============
mean, C     of measurements z given a draw, see `forecasts`                      (S, P), (S, P, P)
psi         what is asked about: parameters, predictions                         (S, k)
a, b        mean = a + b with b the part that psi explains                       (S, P)
==========  ===================================================================  ============

Nested Monte Carlo: z_n is drawn at draw n, and

    I = mean_n [log p(z_n | psi_n) - log mean_m N(z_n; mean_m, C_m)].

The inner draws are those of the current posterior, so that the estimate cannot exceed log S. About all parameters
p(z | psi_n) is the normal distribution at draw n, averaged over nuisance quantities. About some of them the others
follow psi by regression: p(z | psi_n) = mean_m N(z; a_m + b_n, C_m).

Linear form: I = log|C̄ + Cov(mean)| / 2 - log|C̄ + Cov(a)| / 2, which is log|1 + C̄⁻¹ J Cov(psi) J'| / 2 where the mean is
linear in what is asked about. It has no limit, and is an upper bound for means that are far from linear.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement
from typing import NamedTuple, final

import numpy as np

from uqms._typing import Array, Ints
from uqms.calibration.dense_gaussian import LOG_TWO_PI
from uqms.planning.densities import Sampled

__all__ = [
    "MARGIN",
    "Gain",
    "State",
    "gain_of_each",
    "linear_gain",
    "log_densities",
    "posterior_weights",
    "spread_out",
]

MARGIN = 3.0  # nats below log(draws) up to which nested Monte Carlo is used
PER_FEATURE = 20  # draws that a coefficient of the regression on psi needs
TINY = 1e-12
DIRECTIONS = 12  # of the means in which many measurements are compared


class Gain(NamedTuple):
    """What a set of measurements is expected to tell.

    Attributes
    ----------
    nats
        Expected information gain.
    mcse
        Its Monte Carlo standard error; 0 in the linear form.
    sds
        Expected posterior sd of each quantity (k,).
    value
        Expected reduction of the loss, NaN without one.
    method
        "nested" or "linear".
    resolved
        Whether the draws are enough for it: not where it is beyond what nested Monte Carlo can show.
    """

    nats: float
    mcse: float
    sds: Array
    value: float
    method: str
    resolved: bool = True


def posterior_weights(logs: Array) -> tuple[Array, Array]:
    """Return log p(z_n), shape (N,), and the weights of draws given z_n (N, S), for log p(z_n | draw m), (N, S)."""
    top = logs.max(axis=1, keepdims=True)
    weights = np.exp(logs - top)
    total = weights.sum(axis=1, keepdims=True)
    return (np.log(total / logs.shape[1]) + top)[:, 0], weights / total


def linear_gain(signal: Array, noise: Array) -> float:
    """Return log|1 + noise^-1 signal| / 2 for covariances (P, P) of means and of what is added to them."""
    sd = np.sqrt(np.maximum(np.diagonal(noise), 1e-300))
    scale = sd[:, None] * sd
    return 0.5 * float(np.linalg.slogdet((noise + signal) / scale)[1] - np.linalg.slogdet(noise / scale)[1])


def log_densities(z: Array, mean: Array, covariance: Array) -> Array:
    """Return log N(z_n; mean_m, covariance_m), shape (N, M), for z (N, P), means (M, P) and covariances (M, P, P).

    Quadratic forms of all pairs are one matrix product.
    """
    centre = mean.mean(axis=0)
    sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2).mean(axis=0) + TINY * mean.var(axis=0))
    z, mean = (z - centre) / sd, (mean - centre) / sd
    C = covariance / (sd[:, None] * sd)
    precision = np.linalg.inv(C)
    p = z.shape[1]
    upper = np.triu_indices(p)
    twice = np.where(upper[0] == upper[1], 1.0, 2.0)
    moved = np.einsum("mij,mj->mi", precision, mean)
    left = np.column_stack([(z[:, :, None] * z[:, None, :])[:, upper[0], upper[1]], z, np.ones(len(z))])
    constant = -0.5 * (np.einsum("mi,mi->m", mean, moved) + np.linalg.slogdet(C)[1]) - np.log(sd).sum()
    constant -= 0.5 * p * LOG_TWO_PI
    right = np.column_stack([-0.5 * twice * precision[:, upper[0], upper[1]], moved, constant])
    return np.asarray(left @ right.T)


def _own_densities(z: Array, mean: Array, covariance: Array) -> Array:
    """Return log N(z; mean, covariance) of values (..., P)."""
    root = np.linalg.cholesky(covariance)
    x = np.linalg.solve(root, (z - mean)[..., None])[..., 0]
    logs = np.log(np.diagonal(root, axis1=-2, axis2=-1)).sum(axis=-1)
    return np.asarray(-0.5 * np.sum(x**2, axis=-1) - logs - 0.5 * z.shape[-1] * LOG_TWO_PI)


def _log_mean(values: Array, axis: int) -> Array:
    return np.asarray(np.logaddexp.reduce(values, axis=axis) - np.log(values.shape[axis]))


@final
@dataclass(frozen=True, eq=False)
class State:
    """Draws of what measurements would show, and of what is asked about.

    Attributes
    ----------
    mean, covariance
        Shapes (S, P) and (S, P, P).
    other_mean, other_covariance
        With other draws of nuisance quantities, the first the draw's own: (S, J, P) and (S, J, P, P).
    psi
        Shape (S, k).
    everything
        Whether psi is all parameters, so that they determine the mean but for nuisance quantities.
    losses
        Of actions, (S, A); no column without.
    normals
        Standard normals of the outer draws, of which a set of measurements takes as many as it has, (S, P).
    known
        The part of the mean (S, P) that psi determines, where not everything else is a nuisance draw of its own: what
        the surrogate's mean says. None: all that psi says of the mean is said by regression.
    sampled
        Latent outputs and measurements, where noise is not Gaussian.
    """

    mean: Array
    covariance: Array
    other_mean: Array
    other_covariance: Array
    psi: Array
    everything: bool
    losses: Array
    normals: Array
    known: Array | None = None
    sampled: Sampled | None = None

    @property
    def limit(self) -> float:
        """The largest gain that nested Monte Carlo is used for."""
        return float(np.log(len(self.mean)) - MARGIN)

    @cached_property
    def explained(self) -> Array:
        """The part b of the mean that psi explains, (S, P)."""
        if self.known is None:
            return explained(self.psi, self.mean)
        return self.known + explained(self.psi, self.mean - self.known)

    @cached_property
    def _average(self) -> tuple[Array, Array, Array, Array]:
        """Covariances of the mean, of its rest and of psi with the mean, and the averaged covariance C̄."""
        centred = self.mean - self.mean.mean(axis=0)
        rest = self.mean - self.explained
        rest = rest - rest.mean(axis=0)
        count = len(centred) - 1
        of_psi = (self.psi - self.psi.mean(axis=0)).T @ centred / count
        return centred.T @ centred / count, rest.T @ rest / count, of_psi, self.covariance.mean(axis=0)

    def linear(self, rows: Ints) -> Gain:
        """Return the gain of some of the measurements in the linear form."""
        signal, rest, of_psi, average = self._average
        at = np.ix_(rows, rows)
        total = signal[at] + average[at]
        sd = np.sqrt(np.diagonal(total))
        scale = sd[:, None] * sd
        whole = np.linalg.slogdet(total / scale)[1]
        if self.everything:
            pick = (slice(None), rows[:, None], rows)
            left = self.covariance[pick]
            if self.other_mean.shape[1] > 1:
                apart = self.other_mean[..., rows] - self.other_mean[..., rows].mean(axis=1, keepdims=True)
                left = self.other_covariance[(slice(None), *pick)].mean(axis=1)
                left = left + np.einsum("sji,sjk->sik", apart, apart) / apart.shape[1]
            given = float(np.linalg.slogdet(left / scale)[1].mean())
        else:
            given = float(np.linalg.slogdet((rest[at] + average[at]) / scale)[1])
        cross = of_psi[:, rows]
        reduced = np.einsum("ki,ik->k", cross, np.linalg.solve(total, cross.T))
        sds = np.sqrt(np.maximum(self.psi.var(axis=0, ddof=1) - reduced, 0.0))
        return Gain(0.5 * float(whole - given), 0.0, sds, float("nan"), "linear")

    def nested(self, rows: Ints, outer: Ints) -> Gain:
        """Return the gain of some of the measurements by nested Monte Carlo with some of the draws outside."""
        outer = outer if self.sampled is None else self.sampled.outer(rows, outer)
        logs, given = self._of_gaussian(rows, outer) if self.sampled is None else self._of_sampled(rows, outer)
        marginal, weights = posterior_weights(logs)
        ratio = given - marginal
        centred = self.psi - self.psi.mean(axis=0)
        first = weights @ centred
        count = np.maximum(1.0 - np.sum(weights**2, axis=1, keepdims=True), TINY)  # of a weighted sample
        variance = np.maximum(weights @ centred**2 - first**2, 0.0) / count
        value = float("nan")
        if self.losses.shape[1]:
            value = float(self.losses.mean(axis=0).min() - (weights @ self.losses).min(axis=1).mean())
        nats, mcse = float(ratio.mean()), float(ratio.std(ddof=1) / np.sqrt(len(ratio)))
        resolved = nats <= self.limit
        if self.sampled is not None:
            # Draws of the outputs have to resolve what measurements say of these, which is more than of psi.
            of_outputs = float((self.sampled.of_outputs(rows, outer) - marginal).mean())
            resolved = resolved and of_outputs <= np.log(self.sampled.y[..., 0].size) - MARGIN
        return Gain(nats, mcse, np.sqrt(variance).mean(axis=0), value, "nested", resolved)

    def _of_sampled(self, rows: Ints, outer: Ints) -> tuple[Array, Array]:
        """Return log p(z_n | draw m), shape (N, S), and log p(z_n | psi_n), shape (N,), by draws of the outputs."""
        assert self.sampled is not None
        logs = self.sampled.of_pairs(rows, outer)
        if self.everything:
            return logs, self.sampled.given(rows, outer)
        return logs, _log_mean(self.sampled.of_pairs(rows, outer, self.explained), 1)

    def _of_gaussian(self, rows: Ints, outer: Ints) -> tuple[Array, Array]:
        """Return the same in closed form."""
        pick = (slice(None), rows[:, None], rows)
        mean, C = self.mean[:, rows], self.covariance[pick]
        root = np.linalg.cholesky(C[outer])
        # The same normals for every set, so that sets that are alike differ by little Monte Carlo error.
        z = mean[outer] + np.einsum("nij,nj->ni", root, self.normals[outer, : len(rows)])
        logs = log_densities(z, mean, C)
        if self.everything:
            there = self.other_covariance[outer][(slice(None), *pick)]
            given = _log_mean(_own_densities(z[:, None], self.other_mean[outer][..., rows], there), 1)
        else:
            b = self.explained[:, rows]
            given = _log_mean(log_densities(z - b[outer], mean - b, C), 1)
        return logs, given


def _features(psi: Array) -> Array:
    """Return what the mean is regressed on (S, f): psi, and its squares and products where there are enough draws."""
    sd = psi.std(axis=0)
    x = (psi - psi.mean(axis=0)) / np.where(sd > 0.0, sd, 1.0)
    pairs = list(combinations_with_replacement(range(x.shape[1]), 2))
    if (len(pairs) + x.shape[1]) * PER_FEATURE > len(x):
        return x
    return np.column_stack([x, *(x[:, i] * x[:, j] for i, j in pairs)])


def explained(psi: Array, mean: Array) -> Array:
    """Return the part of means (S, P) that psi (S, k) explains, by least squares, less its mean."""
    x = _features(psi)
    x = x - x.mean(axis=0)
    found = np.linalg.lstsq(x, mean - mean.mean(axis=0), rcond=1e-10)[0]
    return np.asarray(x @ found)


def gain_of_each(
    mean: Array, variance: Array, psi: Array, everything: bool, theta: Array, some: Ints
) -> tuple[Array, Array]:
    """Return the gain (P,) of each measurement alone in the linear form, and expected sds (P, k).

    Means are (s, P) at the draws `some` of theta (S, d), variances of what is added to them (P,), quantities (s, k).
    Covariances are those of means and quantities linear in theta, of all S draws, plus what is left at the s draws.
    """
    few = theta[some]
    joint = np.column_stack([mean, psi])
    joint = joint - joint.mean(axis=0)
    P, k = mean.shape[1], psi.shape[1]
    x = few - few.mean(axis=0)
    slopes = np.linalg.lstsq(x, joint, rcond=1e-10)[0] if 3 * x.shape[1] < len(x) else np.zeros((x.shape[1], P + k))
    rest = joint - x @ slopes
    freedom = len(x) - 1 - (x.shape[1] if slopes.any() else 0)
    spread = np.atleast_2d(np.cov(theta, rowvar=False))
    moved = spread @ slopes
    signal = np.sum(slopes[:, :P] * moved[:, :P], axis=0) + np.sum(rest[:, :P] ** 2, axis=0) / freedom
    own = slopes[:, P:].T @ moved[:, P:] + rest[:, P:].T @ rest[:, P:] / freedom
    cross = slopes[:, :P].T @ moved[:, P:] + rest[:, :P].T @ rest[:, P:] / freedom  # (P, k)
    left = np.zeros(P)
    if not everything:
        left = np.maximum(signal - np.sum(cross * np.linalg.lstsq(own, cross.T, rcond=1e-10)[0].T, axis=1), 0.0)
    sds = np.sqrt(np.maximum(np.diagonal(own) - cross**2 / (signal + variance)[:, None], 0.0))
    return 0.5 * np.log((signal + variance) / (left + variance)), sds


def spread_out(mean: Array, variance: Array, psi: Array, everything: bool, cost: Array, count: int) -> Ints:
    """Return the places of `count` measurements of which each adds most to the ones before, in the linear form.

    Errors of different measurements count as independent here.
    """
    b = mean - mean.mean(axis=0) if everything else explained(psi, mean)
    rest = mean - mean.mean(axis=0) - b
    left = np.sum(rest**2, axis=0) / (len(mean) - 1)
    x = b / np.sqrt((len(mean) - 1) * (variance + left))
    values, vectors = np.linalg.eigh(x @ x.T)
    x = vectors[:, values > 1e-6 * max(values[-1], TINY)][:, -DIRECTIONS:].T @ x  # (r, P)
    picked: list[int] = []
    open_, size = np.ones(x.shape[1], dtype=np.bool_), np.sum(x**2, axis=0)
    inverse = np.eye(len(x))
    for _ in range(min(count, x.shape[1])):
        worth = np.where(open_, np.log1p(np.maximum(size, 0.0)) / cost, -1.0)
        i = int(np.argmax(worth))
        picked.append(i)
        open_[i] = False
        moved = inverse @ x[:, i]
        gain = 1.0 / (1.0 + float(x[:, i] @ moved))
        size = size - gain * (moved @ x) ** 2
        inverse = inverse - gain * np.outer(moved, moved)
    return np.array(picked, dtype=np.int64)
