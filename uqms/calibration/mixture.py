"""Mixtures of Student-t laws, fitted to weighted particles, and moves that leave them unchanged.

==========  ====================================================================  ========
symbol      meaning                                                               shape
==========  ====================================================================  ========
z           points                                                                (n, D)
m, L        centre and Cholesky factor of each component's scale                  (K, D), (K, D, D)
w           weights of the components                                             (K,)
nu          degrees of freedom                                                    ()
s           length of a step, from 0 (stay) to 1 (a new draw of the component)    ()
==========  ====================================================================  ========

A step picks a component k with the probability that it has at z, a scale t given z's distance from its centre, and
moves to m + sqrt(1 - s²) (z - m) + s sqrt(t) L xi. Given k that leaves its t law unchanged (the preconditioned
Crank-Nicolson step for t laws), so averaged over k it leaves the mixture unchanged: a Metropolis step to a target needs
the ratio of target and mixture only. One component per mode or per piece of a curved ridge makes steps fit everywhere.

Cotter, Roberts, Stuart & White (2013), doi:10.1214/13-STS421; Karamanis et al. (2022), doi:10.1093/mnras/stac2272.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import gammaln

from uqms._typing import Array, Ints
from uqms.parameters.expectation_maximisation import POINTS_EACH, gaussian_mixture

__all__ = ["Mixture", "fit_mixture"]

FREEDOM = 10.0  # of the t laws: heavier tails than the particles', so that none gets stuck in a tail
COMPONENTS = (1, 2, 4, 8)


@final
@dataclass(frozen=True, eq=False)
class Mixture:
    """A mixture of multivariate t laws."""

    weight: Array
    centre: Array
    root: Array
    freedom: float = FREEDOM

    @cached_property
    def _inverse(self) -> Array:
        """Transposed inverse roots, (K, D, D)."""
        return np.swapaxes(np.linalg.inv(self.root), 1, 2)

    @cached_property
    def _constant(self) -> Array:
        """Log of the weight and of the factor before each t law's kernel, (K,)."""
        d, nu = self.centre.shape[1], self.freedom
        log_det = np.sum(np.log(np.diagonal(self.root, axis1=1, axis2=2)), axis=1)
        return np.asarray(
            np.log(self.weight) + gammaln(0.5 * (nu + d)) - gammaln(0.5 * nu) - 0.5 * d * np.log(nu * np.pi) - log_det
        )

    def _terms(self, z: Array) -> tuple[Array, Array]:
        """Return log w_k t_k(z), shape (n, K), and squared distances (n, K)."""
        whitened = (z - self.centre[:, None]) @ self._inverse  # (K, n, D)
        distance = np.sum(whitened**2, axis=2).T
        return self._constant - 0.5 * (self.freedom + z.shape[1]) * np.log1p(distance / self.freedom), distance

    def log_density(self, z: Array) -> Array:
        """Return the log-density (n,)."""
        return np.asarray(np.logaddexp.reduce(self._terms(z)[0], axis=1))

    def component(self, z: Array, rng: np.random.Generator) -> Ints:
        """Return a component of each point (n,), drawn with the probability that it has there."""
        return _pick(self._terms(z)[0], rng)

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """Return n independent draws."""
        k = rng.choice(len(self.weight), size=n, p=self.weight)
        scale = self.freedom / rng.chisquare(self.freedom, size=n)
        return self.centre[k] + np.sqrt(scale)[:, None] * self._colour(
            rng.standard_normal((n, self.centre.shape[1])), k
        )

    def step(self, z: Array, length: float, rng: np.random.Generator) -> Array:
        """Return z moved by a step that leaves the mixture unchanged, and in detailed balance with it."""
        n, d = z.shape
        terms, distance = self._terms(z)
        k = _pick(terms, rng)
        scale = (self.freedom + distance[np.arange(n), k]) / rng.chisquare(self.freedom + d, size=n)
        noise = np.sqrt(scale)[:, None] * self._colour(rng.standard_normal((n, d)), k)
        return np.asarray(self.centre[k] + np.sqrt(1.0 - length**2) * (z - self.centre[k]) + length * noise)

    def _colour(self, noise: Array, k: Ints) -> Array:
        out = np.empty_like(noise)
        for j, root in enumerate(self.root):
            rows = k == j
            out[rows] = noise[rows] @ root.T
        return out


def _pick(terms: Array, rng: np.random.Generator) -> Ints:
    cumulative = np.cumsum(np.exp(terms - terms.max(axis=1, keepdims=True)), axis=1)
    return np.asarray((rng.random(len(terms)) * cumulative[:, -1])[:, None] >= cumulative).sum(axis=1)


def fit_mixture(z: Array, weight: Array, rng: np.random.Generator) -> Mixture:
    """Return the mixture of as many components as the Bayesian information criterion asks for.

    `weight` (n,) sums to 1; components are fitted in coordinates in which all points together have unit covariance.
    """
    d = z.shape[1]
    size = 1.0 / np.sum(weight**2)
    centre = weight @ z
    spread = (z - centre) * np.sqrt(weight)[:, None]
    covariance = spread.T @ spread
    rounding = (1e-15 * (1.0 + np.abs(centre))) ** 2  # less spread than that is none
    root = np.linalg.cholesky(covariance + np.diag(1e-12 * np.diag(covariance) + rounding))
    x = solve_triangular(root, (z - centre).T, lower=True).T
    best, least = None, np.inf
    for count in COMPONENTS:
        if count > 1 and size < POINTS_EACH * (d + 1) * count:
            break
        found = gaussian_mixture(x, weight, size, count, rng)
        if found is None:
            break
        parameters = count * (1 + d + d * (d + 1) / 2) - 1
        criterion = -2.0 * size * found[3] + parameters * np.log(size)
        if criterion >= least:
            break
        best, least = found, criterion
    assert best is not None
    w, m, roots, _ = best
    shrink = np.sqrt((FREEDOM - 2.0) / FREEDOM)  # so that the t law has the covariance that was found
    return Mixture(w, centre + m @ root.T, shrink * root @ roots)
