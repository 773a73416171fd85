"""Expectation propagation for a Gaussian process that is seen through its sign: two classes, probit link.

==========  ============================================================================  =======
symbol      meaning                                                                       shape
==========  ============================================================================  =======
f           latent values at the runs, f ~ N(0, K), without their prior mean m             (n,)
y           label of a run, 1 or -1; p(y | f) = Phi(y (m + f))                            (n,)
tau, nu     site i: exp(nu_i f_i - tau_i f_i² / 2) stands for Phi(y_i (m_i + f_i))        (n,)
B           I + S K S with S = diag(tau)^1/2; well-conditioned whatever K is              (n, n)
cavity      law of f_i given all sites but its own                                        (n,)
==========  ============================================================================  =======

Rasmussen & Williams (2006), section 3.6, all sites at once: with the probit link each site has 0 < tau < 1, and the
damped sweeps settle in ten to thirty of them. Where they swing, since labels say nearly the same thing, sites are taken
one after the other. The evidence and its derivative are those of equations 3.65 and 5.27. Of
the Gaussian approximations this is the one whose probabilities are right (Kuss & Rasmussen 2005, JMLR 6, 1679).
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import lapack
from scipy.linalg.blas import dger
from scipy.special import log_ndtr

from uqms._typing import Array
from uqms.errors import FitError

__all__ = ["Sites", "evidence_slope", "settle", "solved"]

SWEEPS, ONE_BY_ONE = 60, 40  # of all sites at once, then one after the other
SETTLED = 1e-4  # change of the posterior means, in posterior sds, and of the log evidence
DAMPING = 0.8
LEAST = 1e-10  # of tau: a label that is sure anyway says nothing


class Sites(NamedTuple):
    """Sites at rest, and what they say."""

    tau: Array  # (n,)
    nu: Array  # (n,)
    log_evidence: float
    mean: Array  # (n,), of f
    cavity_mean: Array  # (n,), of f_i without the label of run i
    cavity_variance: Array  # (n,)


def settle(
    K: Float[np.ndarray, "n n"],
    y: Float[np.ndarray, " n"],
    shift: Float[np.ndarray, " n"] | float = 0.0,
    start: Sites | None = None,
) -> Sites:
    """Return the sites of labels `y` under the prior covariance `K` and the prior mean `shift`.

    Raises
    ------
    FitError
        When the sites do not settle.
    """
    n = len(y)
    tau, nu = (np.full(n, LEAST), np.zeros(n)) if start is None else (start.tau.copy(), start.nu.copy())
    before, damping, last = np.full(n, np.inf), DAMPING, np.inf
    log_evidence = -np.inf
    for sweep in range(SWEEPS):
        lower, mean, variance = _posterior(K, tau, nu)
        cavity_precision = np.maximum(1.0 / variance - tau, 1e-12)
        cavity_mean = (mean / variance - nu) / cavity_precision
        cavity_variance = 1.0 / cavity_precision
        log_z, tilted_mean, tilted_variance = _tilted(y, cavity_mean, cavity_variance, shift)
        value = _evidence(lower, tau, nu, mean, log_z, cavity_precision, cavity_mean)
        moved = float(np.max(np.abs(mean - before) / np.sqrt(variance)))
        if moved < SETTLED and abs(value - log_evidence) < SETTLED * max(1.0, abs(value)):
            return Sites(tau, nu, value, mean, cavity_mean, cavity_variance)
        if moved > last:  # they swing
            damping = max(0.2, 0.7 * damping)
        before, log_evidence, last = mean, value, moved
        wanted_tau = np.clip(1.0 / tilted_variance - cavity_precision, LEAST, None)
        wanted_nu = tilted_mean * (wanted_tau + cavity_precision) - cavity_mean * cavity_precision
        step = damping if sweep else 1.0
        tau, nu = tau + step * (wanted_tau - tau), nu + step * (wanted_nu - nu)
    return _one_by_one(K, y, np.broadcast_to(shift, n), tau, nu)


def _one_by_one(K: Array, y: Array, shift: Array, tau: Array, nu: Array) -> Sites:
    before = np.full(len(y), np.inf)
    for _ in range(ONE_BY_ONE):
        root = np.sqrt(tau)
        lower, mean, variance = _posterior(K, tau, nu)
        half, _ = lapack.dtrtrs(lower, root[:, None] * K, lower=1)
        sigma = np.asfortranarray(K - half.T @ half)
        cavity_precision = np.maximum(1.0 / variance - tau, 1e-12)
        cavity_mean = (mean / variance - nu) / cavity_precision
        if np.max(np.abs(mean - before) / np.sqrt(variance)) < SETTLED:
            log_z = _tilted(y, cavity_mean, 1.0 / cavity_precision, shift)[0]
            value = _evidence(lower, tau, nu, mean, log_z, cavity_precision, cavity_mean)
            return Sites(tau, nu, value, mean, cavity_mean, 1.0 / cavity_precision)
        before = mean.copy()
        for i in range(len(y)):
            precision = max(1.0 / sigma[i, i] - tau[i], 1e-12)
            centre = (mean[i] / sigma[i, i] - nu[i]) / precision
            _, tilted_mean, tilted_variance = _tilted(y[i], centre, 1.0 / precision, shift[i])
            wanted = max(1.0 / float(tilted_variance) - precision, LEAST)
            change, tau[i] = wanted - tau[i], wanted
            nu[i] = tilted_mean * (wanted + precision) - centre * precision
            column = sigma[:, i].copy()
            sigma = dger(-change / (1.0 + change * column[i]), column, column, a=sigma, overwrite_a=1)
            mean = sigma @ nu
    raise FitError(
        f"The labels of {len(y)} runs did not settle. Are there many runs at almost the same point with different "
        "labels? Merge them, or try another kernel."
    )


def _posterior(K: Array, tau: Array, nu: Array) -> tuple[Array, Array, Array]:
    """Return the factor of B, and mean and variance of f given the sites."""
    root = np.sqrt(tau)
    matrix = root[:, None] * K * root
    matrix.flat[:: len(K) + 1] += 1.0
    lower, info = lapack.dpotrf(matrix, lower=1, clean=1, overwrite_a=1)
    if info or not np.isfinite(lower[-1, -1]):
        raise FitError("The covariance of the latent function is not finite; are there NaN inputs?")
    half, _ = lapack.dtrtrs(lower, root[:, None] * K, lower=1)
    variance = np.maximum(np.diagonal(K) - np.einsum("ij,ij->j", half, half), 1e-300)
    mean = K @ nu - half.T @ (half @ nu)
    return lower, mean, variance


def _tilted(y: Any, mean: Any, variance: Any, shift: Any) -> tuple[Array, Array, Array]:
    """Return log Z, mean and variance of N(f; mean, variance) Phi(y (m + f))."""
    scale = np.sqrt(1.0 + variance)
    z = y * (mean + shift) / scale
    log_z = log_ndtr(z)
    ratio = np.exp(-0.5 * z * z - 0.5 * np.log(2.0 * np.pi) - log_z)
    return log_z, mean + y * variance * ratio / scale, variance - variance**2 * ratio * (z + ratio) / (1.0 + variance)


def _evidence(
    lower: Array, tau: Array, nu: Array, mean: Array, log_z: Array, cavity_precision: Array, cavity_mean: Array
) -> float:
    both = tau + cavity_precision
    of_nu = float(nu @ mean) - float(np.sum(nu**2 / both))
    cavities = float(np.sum(cavity_mean * cavity_precision * (tau * cavity_mean - 2.0 * nu) / both))
    sites = float(np.sum(log_z + 0.5 * np.log1p(tau / cavity_precision)))
    return sites - float(np.sum(np.log(np.diag(lower)))) + 0.5 * (of_nu + cavities)


def evidence_slope(K: Float[np.ndarray, "n n"], sites: Sites) -> tuple[Array, Array]:
    """Return the derivatives of the log evidence by K and by m, the sites at rest: half of b b' - S B^-1 S, and b."""
    factor, b = solved(K, sites)
    return np.asarray(0.5 * (np.outer(b, b) - factor.T @ factor)), b


def solved(K: Float[np.ndarray, "n n"], sites: Sites) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, " n"]]:
    """Return A = L^-1 S and b, so that f at other inputs has mean k' b and covariance k(u, u) - k' A' A k."""
    root = np.sqrt(sites.tau)
    matrix = root[:, None] * K * root
    matrix.flat[:: len(K) + 1] += 1.0
    lower, _ = lapack.dpotrf(matrix, lower=1, clean=1, overwrite_a=1)
    factor, _ = lapack.dtrtrs(lower, np.diag(root), lower=1)
    return np.ascontiguousarray(factor), sites.nu - factor.T @ (factor @ (K @ sites.nu))
