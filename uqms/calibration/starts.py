"""Where chains start: draws of a short tempered sequential Monte Carlo, so that they begin where the mass is.

With little noise the posterior is thousands of times narrower than the prior, and a gradient sampler that starts in the
middle of the prior may stay in a corner of the box where the surrogate knows little. The likelihood of hundreds of
points at once is cheap, so the prior's draws are brought to the posterior by raising the likelihood to powers from 0 to
1. Two modes get starts in proportion to their mass; the sampler's own draws are the result, this only places them.

==========  ====================================================================  ======
symbol      meaning                                                               shape
==========  ====================================================================  ======
z           particles on the scale where the prior is standard normal             (n, d)
power       of the likelihood, chosen so that half of the effective sample stays  ()
==========  ====================================================================  ======

Del Moral, Doucet & Jasra (2006), doi:10.1111/j.1467-9868.2006.00553.x.
"""

import numpy as np
from scipy.special import ndtr

from uqms._typing import Array
from uqms.calibration.problem import Calibration

__all__ = ["starting_points"]

PARTICLES, MOVES, ACCEPTANCE = 256, 3, 0.3
STEPS = 200


def starting_points(problem: Calibration, count: int, rng: np.random.Generator) -> dict[str, Array]:
    """Return `count` approximate draws from the posterior, by name, each of shape (count,); "latents" (count, latents)."""
    size = len(problem.priors) + problem.latents
    z = rng.standard_normal((PARTICLES, size))
    value = _log_likelihood(problem, z)
    power, scale = 0.0, 2.38 / np.sqrt(size)
    for _ in range(STEPS):
        step = _next_step(value, 1.0 - power)
        weight = np.exp(step * (value - value.max()))
        chosen = rng.choice(PARTICLES, size=PARTICLES, p=weight / weight.sum())
        z, value, power = z[chosen], value[chosen], power + step
        root = np.linalg.cholesky(np.atleast_2d(np.cov(z.T)) + 1e-20 * np.eye(size))
        for _ in range(MOVES):
            proposal = z + scale * rng.standard_normal(z.shape) @ root.T
            proposed = _log_likelihood(problem, proposal)
            log_ratio = power * (proposed - value) - 0.5 * np.sum(proposal**2 - z**2, axis=1)
            accepted = np.log(rng.random(PARTICLES)) < log_ratio
            z[accepted], value[accepted] = proposal[accepted], proposed[accepted]
            scale *= np.exp(accepted.mean() - ACCEPTANCE)
        if power >= 1.0:
            break
    picked = rng.choice(PARTICLES, size=count, replace=count > PARTICLES)
    return {**_theta(problem, z[picked]), "latents": z[picked, len(problem.priors) :]}


def _theta(problem: Calibration, z: Array) -> dict[str, Array]:
    out = {}
    for (name, prior), column in zip(problem.priors.items(), z.T[: len(problem.priors)], strict=True):
        low, high = (float(prior.cdf(end)) for end in problem.limits(name))
        out[name] = np.asarray(prior.quantile(low + (high - low) * ndtr(column)))
    return out


def _log_likelihood(problem: Calibration, z: Array) -> Array:
    value = problem.log_likelihood(_theta(problem, z), z[:, len(problem.priors) :])
    return np.where(np.isfinite(value), value, -1e300)


def _next_step(value: Array, rest: float) -> float:
    """Return the step of the power that leaves half of the effective sample, at most `rest`."""

    def effective(step: float) -> float:
        weight = np.exp(step * (value - value.max()))
        return float(weight.sum() ** 2 / np.sum(weight**2))

    if effective(rest) >= 0.5 * PARTICLES:
        return rest
    low, high = 0.0, rest
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if effective(middle) >= 0.5 * PARTICLES else (low, middle)
    return max(low, 1e-12 * rest)
