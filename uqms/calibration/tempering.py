"""Tempered sequential Monte Carlo: particles go from the prior to the posterior by powers of the likelihood.

==========  ====================================================================  ======
symbol      meaning                                                               shape
==========  ====================================================================  ======
z           particles on the scale where the prior is standard normal             (n, D)
value       log-likelihoods                                                       (n,)
power       of the likelihood, chosen so that half of the effective sample stays  ()
==========  ====================================================================  ======

Each stage weights the particles, resamples them systematically and moves them by Metropolis steps that fit a mixture of
t laws (`mixture`): steps within a component, of adapted length, and now and then a new draw of the mixture, which goes
from mode to mode. Moves go on until the particles have forgotten where the stage began, in every coordinate and in the
log-likelihood (else the evidence of ten parameters is 10 % too large). The product of the stages' mean weights
estimates the evidence.

Del Moral, Doucet & Jasra (2006), doi:10.1111/j.1467-9868.2006.00553.x; Buchholz, Chopin & Jacob (2021),
doi:10.1214/20-BA1199.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np

from uqms._typing import Array, Ints
from uqms.calibration.mixture import Mixture, fit_mixture
from uqms.calibration.progress import progress
from uqms.errors import InitError

__all__ = ["Tempered", "systematic", "temper"]

KEEP = 0.5  # share of the effective sample that a stage leaves
ACCEPTANCE = 0.4
STAGES = 300
ROUNDS = 50  # of prior draws, in search of points that the likelihood admits


@final
@dataclass(frozen=True, eq=False)
class Tempered:
    """Particles at the posterior, and how they came there.

    Attributes
    ----------
    z, value
        Particles (n, D) and their log-likelihoods (n,).
    log_evidence
        Estimate of the log marginal likelihood.
    power
        Power of the likelihood that was reached: 1, unless the stages did not suffice.
    stages, moves
        Number of stages, and of moves of all particles in all stages.
    acceptance, correlation
        Of the moves of the last stage: share that was accepted, and largest correlation of a coordinate with where the
        stage began.
    mixture
        The law that the last moves were fitted to.
    first
        Draws that it began from, (n, D), and their log-likelihoods (n,).
    passed
        Particles at the end of each stage, (stages, n, D).
    """

    z: Array
    value: Array
    log_evidence: float
    power: float
    stages: int
    moves: int
    acceptance: float
    correlation: float
    mixture: Mixture
    first: tuple[Array, Array]
    passed: Array


class Reference(Protocol):
    """A normalised law that particles begin from."""

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """Return n independent draws (n, D)."""
        ...

    def log_density(self, z: Array) -> Array:
        """Return the log-density (n,) at points (n, D)."""
        ...


@final
@dataclass(frozen=True)
class Prior:
    """The standard normal law of some dimension."""

    dimension: int

    def draw(self, n: int, rng: np.random.Generator) -> Array:
        """Return n independent draws (n, D)."""
        return rng.standard_normal((n, self.dimension))

    def log_density(self, z: Array) -> Array:
        """Return the log-density (n,) at points (n, D)."""
        return np.asarray(-0.5 * np.sum(z**2, axis=1) - 0.5 * self.dimension * np.log(2.0 * np.pi))


def temper(
    log_likelihood: Callable[[Array], Array],
    dimension: int,
    particles: int,
    rng: np.random.Generator,
    *,
    correlation: float = 0.1,
    most_moves: int = 100,
    reference: Reference | None = None,
) -> Tempered:
    """Bring particles from N(0, 1)^dimension to the posterior.

    Parameters
    ----------
    log_likelihood
        From points (n, dimension) to log-likelihoods (n,); -inf where a point is not admitted.
    dimension, particles
        Columns and rows of z.
    rng
        Generator.
    correlation
        Moves of a stage end when no coordinate is more correlated with where the stage began.
    most_moves
        Moves in a stage at most.
    reference
        A law that particles begin from instead, with tails at least as heavy as the posterior's; powers are then those
        of the ratio of the posterior's density to its density. The prior and the posterior stay the same.

    Raises
    ------
    InitError
        When the likelihood admits no draw of the prior.
    """
    prior = Prior(dimension)
    start: Reference = prior
    ratio = log_likelihood
    if reference is not None:
        start, ratio = reference, _ratio(log_likelihood, prior, reference)
    z, value, log_evidence = _admitted(ratio, start, particles, rng)
    first, passed = (z, value), []
    power, length, stages, moves = 0.0, 1.0, 0, 0
    accepted, left, mixture = float("nan"), float("nan"), None
    with progress(None, "tempering", "stage") as bar:
        while power < 1.0 and stages < STAGES:
            step = _next_step(value, 1.0 - power)
            log_weight = step * (value - value.max())
            weight = np.exp(log_weight)
            log_evidence += float(np.log(weight.mean()) + step * value.max())
            weight /= weight.sum()
            mixture = fit_mixture(z, weight, rng)
            chosen = systematic(weight, particles, rng)
            power = 1.0 if step >= 1.0 - power else power + step
            z, value, length, accepted, left, used = _move(
                ratio, start, z[chosen], value[chosen], power, mixture, length, rng, correlation, most_moves
            )
            stages, moves = stages + 1, moves + used
            passed.append(z)
            bar.set_postfix(power=f"{power:.2g}", refresh=False)
            bar.update()
    assert mixture is not None
    order = rng.permutation(particles)  # neighbours have one ancestor; the order of draws must not say that
    z, value = z[order], value[order]
    if reference is not None:
        value = value + reference.log_density(z) - prior.log_density(z)
    return Tempered(z, value, log_evidence, power, stages, moves, accepted, left, mixture, first, np.stack(passed))


def _ratio(log_likelihood: Callable[[Array], Array], prior: Prior, reference: Reference) -> Callable[[Array], Array]:
    """Return the log of the posterior's density, up to its integral, over that of the reference."""
    return lambda z: log_likelihood(z) + prior.log_density(z) - reference.log_density(z)


def _admitted(
    log_likelihood: Callable[[Array], Array], start: Reference, particles: int, rng: np.random.Generator
) -> tuple[Array, Array, float]:
    """Return draws of the law to begin from that have a likelihood, and the log of the share that has one."""
    found: list[tuple[Array, Array]] = []
    tried = count = 0
    while count < particles and tried < ROUNDS * particles:
        z = start.draw(particles, rng)
        value = log_likelihood(z)
        good = np.isfinite(value)
        found.append((z[good], value[good]))
        tried, count = tried + particles, count + int(good.sum())
    if count == 0:
        raise InitError(
            f"The log-density of ['observations'] is not finite at any of {tried} draws of the prior. Check that "
            "observations and noise have the scale of the simulator's output, and that some of the prior is admitted."
        )
    z, value = np.concatenate([z for z, _ in found]), np.concatenate([value for _, value in found])
    rows = np.arange(particles) % count
    return z[rows], value[rows], float(np.log(count / tried))


def _move(
    log_likelihood: Callable[[Array], Array],
    start: Reference,
    z: Array,
    value: Array,
    power: float,
    mixture: Mixture,
    length: float,
    rng: np.random.Generator,
    correlation: float,
    most_moves: int,
) -> tuple[Array, Array, float, float, float, int]:
    """Return moved particles, their values, step length, acceptance, correlation with the start and number of moves."""
    n = len(z)
    centre = mixture.centre[mixture.component(z, rng)]
    begin = np.column_stack([z - centre, value])
    z, value = z.copy(), value.copy()
    log_mixture, log_start = mixture.log_density(z), start.log_density(z)
    accepted_share, left = 0.0, 1.0
    for move in range(1, most_moves + 1):
        jump = move % 3 == 0
        proposal = mixture.draw(n, rng) if jump else mixture.step(z, length, rng)
        proposed, log_proposed = log_likelihood(proposal), mixture.log_density(proposal)
        started = start.log_density(proposal)
        log_ratio = power * (proposed - value) + started - log_start + log_mixture - log_proposed
        accepted = np.log(rng.random(n)) < log_ratio
        z[accepted], value[accepted] = proposal[accepted], proposed[accepted]
        log_mixture[accepted], log_start[accepted] = log_proposed[accepted], started[accepted]
        if not jump:
            accepted_share = float(accepted.mean())
            length = float(np.clip(length * np.exp((accepted_share - ACCEPTANCE) / np.sqrt(move)), 1e-4, 1.0))
        left = _correlation(begin, np.column_stack([z - centre, value]))
        if left < correlation:
            break
    return z, value, length, accepted_share, left, move


def _correlation(first: Array, second: Array) -> float:
    """Return the largest correlation of a column with its twin."""
    first, second = (x - x.mean(axis=0) for x in (first, second))
    first, second = (x / np.maximum(np.abs(x).max(axis=0), 1e-300) for x in (first, second))  # squares may overflow
    norm = np.sqrt(np.sum(first**2, axis=0) * np.sum(second**2, axis=0))
    return float(np.max(np.sum(first * second, axis=0) / np.maximum(norm, 1e-300)))


def systematic(weight: Array, n: int, rng: np.random.Generator) -> Ints:
    """Return n rows, in order, each as often as its weight (they sum to 1) says, up to rounding."""
    chosen = np.searchsorted(np.cumsum(weight), (rng.random() + np.arange(n)) / n)
    return np.minimum(chosen, len(weight) - 1)


def _next_step(value: Array, rest: float) -> float:
    """Return the step of the power that leaves KEEP of the effective sample, at most `rest`."""

    def effective(step: float) -> float:
        weight = np.exp(step * (value - value.max()))
        return float(weight.sum() ** 2 / np.sum(weight**2))

    wanted = KEEP * len(value)
    if effective(rest) >= wanted:
        return rest
    low, high = np.log(rest) - 600.0, np.log(rest)  # in logs: likelihoods may differ by 10^200 nats
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if effective(np.exp(middle)) >= wanted else (low, middle)
    return float(np.exp(low))
