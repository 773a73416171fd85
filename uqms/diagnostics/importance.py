"""Nearly independent posterior draws of few parameters in a fraction of a second, without compiling anything.

Simulation-based calibration needs hundreds of small posteriors. The prior's draws are brought to the posterior by a
short tempered sequential Monte Carlo, which finds every mode; kernels around its particles are then the proposal of an
importance sampler, whose weights correct what is left: the draws are those of the posterior itself, and their effective
number says how well that worked. Where errors are not all normal, latents are integrated out by their normal
approximation given the parameters, drawn from it beside the proposals, and weighted with them.

==========  =====================================================================  ======
symbol      meaning                                                                shape
==========  =====================================================================  ======
x           particles on the scale where the conditioned prior is standard normal  (p, d)
power       of the likelihood, chosen so that half of the effective sample stays   ()
kernel      multivariate t around each particle, 7 degrees of freedom              ()
==========  =====================================================================  ======

Del Moral, Doucet & Jasra (2006), doi:10.1111/j.1467-9868.2006.00553.x; West (1993),
doi:10.1111/j.2517-6161.1993.tb01911.x.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, final

import numpy as np
from arviz_stats.base import array_stats
from scipy.linalg import solve_triangular
from scipy.special import gammaln

from uqms import _checks as check
from uqms._teaching import taught
from uqms._typing import Array, Bools
from uqms.calibration import SingleCalibration
from uqms.calibration.base import Problem
from uqms.calibration.latents import conditional_latents, has_conditional
from uqms.calibration.mixture import Mixture, fit_mixture
from uqms.errors import InputError

__all__ = ["FewDraws", "ImportanceSampler"]

MOVES, MOST_MOVES, ACCEPTANCE, KEPT = 2, 30, 0.3, 0.5
STEPS = 200
FREEDOM = 7.0
TRIES = 3  # each with four times as many points as the one before
# Where there are latents: rounds of more proposals, and effective draws a dimension that a mixture is fitted to.
ROUNDS, SPARE = 7, 20
LATENTS = 8  # draws of the latents for each point
GAP = 0.3  # nats between normal approximations and weighted draws of the latents: right ones had up to 0.2
K_HAT, UNEVEN = 0.7, 0.5  # of the weights, beyond which their tail is too heavy; share that counts
WORST = -1e300
MEMORY = 4_000_000  # numbers at a time


@taught
@final
@dataclass(frozen=True, eq=False)
class FewDraws:
    """Nearly independent posterior draws, and the reasons to doubt them, if any.

    Attributes
    ----------
    theta
        Draws by name, each (L,).
    ess
        Effective sample size that they were taken from.
    doubt
        What is wrong with them in words; empty when nothing is.
    latents
        Where errors are not all normal (`problem.latents` > 0): draws of the latents beside them, (L, latents).
    """

    theta: dict[str, Array]
    ess: float
    doubt: str = ""
    latents: Array = field(default_factory=lambda: np.zeros((0, 0)))


class Weighted(NamedTuple):
    """Points (n, d), latents (n, L), log weights (n,) up to a constant, and how many points these are worth.

    `gap` is by how much draws of the latents say more than their normal approximations of the log-likelihood: a mean.
    """

    x: Array
    latents: Array
    log_weight: Array
    ess: float
    gap: float


@taught
@final
@dataclass(frozen=True)
class ImportanceSampler:
    """Importance sampling with proposals from tempered sequential Monte Carlo: for up to about six parameters.

    Parameters
    ----------
    particles
        Of the sequential Monte Carlo, in the first try; four times as many in each that follows.
    proposals
        Points that are weighted, likewise.

    Raises
    ------
    InputError
        When a number is below 50.

    Examples
    --------
    >>> ImportanceSampler(particles=500).particles
    500
    """

    particles: int = 200
    proposals: int = 800

    def __post_init__(self) -> None:
        for name in ("particles", "proposals"):
            value = getattr(self, name)
            check.whole("ImportanceSampler", name, value, least=50)

    def draw(self, problem: Problem, count: int, rng: np.random.Generator) -> FewDraws:
        """Return `count` draws; with more points, up to three times, when too few of the weights count.

        Raises
        ------
        InputError
            When errors are not all normal, and the latents that are part of the posterior have no normal approximation:
            hyperparameters are averaged, there are several parts, or rows of a noise model depend on each other.
        """
        if problem.latents and not has_conditional(problem):
            raise InputError(
                f"ImportanceSampler: errors are not all normal here, so that {problem.latents} latents are part of the "
                "posterior, too many for importance weights, and they have no normal approximation given the "
                "parameters. Use uq.diagnostics.TemperedSampler(), the default there."
            )
        for attempt in range(TRIES):
            x, latents, log_weight, ess, gap = self._weighted(problem, 4**attempt, 2 * count, rng)
            enough = ess >= 2 * count and not (problem.latents and _heavy(log_weight, ess))
            if enough or (problem.latents and attempt == 1):
                break
        weight = np.exp(log_weight - log_weight.max())
        picked = rng.choice(len(x), size=count, p=weight / weight.sum())
        doubt = "" if ess >= count else f"{ess:.0f} effective of {len(x)} weighted points, {count} draws required"
        if not doubt and problem.latents and _heavy(log_weight, ess):
            doubt = f"k-hat of the weights is {_k_hat(log_weight):.2f}"
        if not doubt and abs(gap) > GAP:
            # Then their tails may lie elsewhere too, and weights do not show where no draw is.
            doubt = f"draws of the latents weigh {gap:+.2f} nats beside their normal approximations"
        return FewDraws(_theta(problem, x[picked]), ess, doubt, latents[picked])

    def _weighted(self, problem: Problem, more: int, wanted: int, rng: np.random.Generator) -> Weighted:
        """Return weighted points of the posterior.

        With latents points cost little beside the particles: there are more, from mixtures that fit what is known,
        until as many count as are wanted. Weights are those of the mixture of all proposals (Cornuet et al. 2012,
        doi:10.1111/j.1467-9469.2011.00756.x).
        """
        centres = _tempered(problem, self.particles * more * (2 if problem.latents else 1), rng)
        p, d = centres.shape
        width = 0.7 * (4.0 / (p * (d + 2.0))) ** (1.0 / (d + 4.0))  # below Silverman's: he smooths over two modes
        root = width * np.linalg.cholesky(np.atleast_2d(np.cov(centres.T)) + 1e-18 * np.eye(d))
        n = self.proposals * more
        stretch = np.sqrt(FREEDOM / rng.chisquare(FREEDOM, size=(n, 1)))
        x = centres[np.arange(n) % p] + stretch * rng.standard_normal((n, d)) @ root.T
        proposal = _log_kernels(x, centres, root)
        if not problem.latents:
            log_weight = _log_likelihood(problem, x) - 0.5 * np.sum(x**2, axis=1) - proposal
            return Weighted(x, np.zeros((n, 0)), log_weight, _effective(log_weight), 0.0)
        value, latents, gaps = _with_latents(problem, x, rng)
        mixtures: list[Mixture] = []
        while True:
            log_weight = value - 0.5 * np.sum(x**2, axis=1) - proposal
            ess = _effective(log_weight)
            if (ess >= wanted and not _heavy(log_weight, ess)) or len(mixtures) == ROUNDS:
                gap = float(np.average(gaps, weights=np.exp(log_weight - log_weight.max())))
                return Weighted(x, latents, log_weight, ess, gap)
            # Too few points would say that the law is narrow: flattened until enough of them count.
            weight = np.exp(_next_step(log_weight, 1.0, SPARE * (d + 1)) * (log_weight - log_weight.max()))
            mixtures.append(fit_mixture(x, weight / weight.sum(), rng))
            proposal = np.logaddexp(proposal, mixtures[-1].log_density(x))
            new = mixtures[-1].draw(n, rng)
            terms = [_log_kernels(new, centres, root), *(one.log_density(new) for one in mixtures)]
            value_new, latents_new, gaps_new = _with_latents(problem, new, rng)
            x, latents = np.concatenate([x, new]), np.concatenate([latents, latents_new])
            gaps = np.concatenate([gaps, gaps_new])
            value = np.concatenate([value, value_new])
            proposal = np.concatenate([proposal, np.logaddexp.reduce(terms, axis=0)])


def _effective(log_weight: Array) -> float:
    weight = np.exp(log_weight - log_weight.max())
    return float(weight.sum() ** 2 / np.sum(weight**2))


def _heavy(log_weight: Array, ess: float) -> bool:
    """Tell whether the weights' tail is too heavy; that of weights which are all alike says nothing."""
    return ess < UNEVEN * len(log_weight) and _k_hat(log_weight) > K_HAT


def _k_hat(log_weight: Array) -> float:
    top = float(log_weight.max())
    return float(array_stats.psislw(top - np.maximum(log_weight, top - 700.0))[1])


def _log_kernels(x: Array, centres: Array, root: Array) -> Array:
    """Return the log-density (n,) of equal t kernels around the centres (p, d)."""
    p, d = centres.shape
    whole = solve_triangular(root, x.T, lower=True).T
    b = solve_triangular(root, centres.T, lower=True).T
    size, means = max(1, MEMORY // p), []
    for start in range(0, len(x), size):
        a = whole[start : start + size]
        squares = np.maximum(np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2.0 * a @ b.T, 0.0)
        means.append(np.mean((1.0 + squares / FREEDOM) ** (-0.5 * (FREEDOM + d)), axis=1))
    constant = gammaln(0.5 * (FREEDOM + d)) - gammaln(0.5 * FREEDOM) - 0.5 * d * np.log(FREEDOM * np.pi)
    constant -= float(np.sum(np.log(np.diagonal(root))))
    return np.asarray(constant + np.log(np.concatenate(means)))


def _tempered(problem: Problem, particles: int, rng: np.random.Generator) -> Array:
    """Return particles (p, d), approximate draws from the posterior."""
    d = len(problem.priors)
    x = rng.standard_normal((particles, d))
    value = _log_likelihood(problem, x)
    power, scale = 0.0, 2.38 / np.sqrt(d)
    for _ in range(STEPS):
        step = _next_step(value, 1.0 - power, KEPT * particles)
        weight = np.exp(step * (value - value.max()))
        chosen = rng.choice(particles, size=particles, p=weight / weight.sum())
        x, value, power = x[chosen], value[chosen], power + step
        root = np.linalg.cholesky(np.atleast_2d(np.cov(x.T)) + 1e-18 * np.eye(d))
        for move in range(MOST_MOVES):
            proposal = x + scale * rng.standard_normal(x.shape) @ root.T
            proposed = _log_likelihood(problem, proposal)
            log_ratio = power * (proposed - value) - 0.5 * np.sum(proposal**2 - x**2, axis=1)
            accepted = np.log(rng.random(particles)) < log_ratio
            x[accepted], value[accepted] = proposal[accepted], proposed[accepted]
            scale *= np.exp(accepted.mean() - ACCEPTANCE)
            if move + 1 >= MOVES and _distinct(value) >= KEPT * particles:
                break
        if power >= 1.0:
            break
    return x


def _distinct(value: Array) -> float:
    """Return the effective number of different particles: copies of one count as one until they move.

    The next weights count copies as many particles, so that a few particles could replace all others.
    """
    counts = np.unique(value, return_counts=True)[1]
    return float(len(value) ** 2 / np.sum(counts.astype(np.float64) ** 2))


def _theta(problem: Problem, x: Array) -> dict[str, Array]:
    return problem.conditioned_prior.from_normal(x)


def _log_likelihood(problem: Problem, x: Array) -> Array:
    """Return the log-likelihood (n,), by normal approximations where there are latents."""

    def value(theta: dict[str, Array], _: Bools) -> Array:
        if not problem.latents:
            return problem.log_likelihood(theta)
        assert isinstance(problem, SingleCalibration)
        return np.concatenate([given.log_marginal for given in conditional_latents(problem, theta)])

    return _admitted(problem, x, value)


def _with_latents(problem: Problem, x: Array, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Return estimates of the likelihood (n,) in logs, right on average, draws of the latents (n, L), and gaps (n,).

    One of several draws is taken in proportion to its weight, whose mean is the estimate; times the likelihood that is
    sampled over that of the approximation's own sums, so that a mistake in the former is not covered up. Gaps are
    what estimates by these sums are above the normal approximation.
    """
    assert isinstance(problem, SingleCalibration)
    latents, gaps = np.zeros((len(x), problem.latents)), np.zeros(len(x))

    def value(theta: dict[str, Array], inside: Bools) -> Array:
        values, picked, above = [], [], []
        for given in conditional_latents(problem, theta):
            eta, log_weight, log_likelihood = given.draw(LATENTS, rng)
            log_weight = np.where(np.isfinite(log_weight), log_weight, WORST)
            total = np.logaddexp.reduce(log_weight, axis=0)
            cumulative = np.cumsum(np.exp(log_weight - total), axis=0)
            at = np.arange(eta.shape[1])
            chosen = np.minimum(np.sum(rng.random(len(at)) > cumulative, axis=0), LATENTS - 1)
            picked.append(eta[chosen, at])
            total -= np.log(LATENTS)
            above.append(np.nan_to_num(total - given.log_marginal))
            values.append(total - log_likelihood[chosen, at])
        latents[inside], gaps[inside] = np.concatenate(picked), np.concatenate(above)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.concatenate(values) + problem.log_likelihood(theta, latents[inside]))

    return _admitted(problem, x, value), latents, gaps


def _admitted(problem: Problem, x: Array, log_likelihood: Callable[[dict[str, Array], Bools], Array]) -> Array:
    """Return log-likelihoods (n,) with the log of the prior's ratio to the law of x; WORST where none is finite.

    `log_likelihood` gets the parameters of the points at which they are finite, and which these are: beyond 38 sds the
    quantile of a prior without ends is infinite.
    """
    theta = _theta(problem, x)
    inside = np.asarray(np.all([np.isfinite(values) for values in theta.values()], axis=0))
    out = np.full(len(x), WORST)
    if not inside.any():
        return out
    theta = {name: values[inside] for name, values in theta.items()}
    value = log_likelihood(theta, inside)
    if not problem.conditioned_prior.plain:
        value = value + problem.conditioned_prior.log_weight(theta)
    out[inside] = np.where(np.isfinite(value), value, WORST)
    return out


def _next_step(value: Array, rest: float, least: float) -> float:
    """Return the step of the power that leaves an effective sample of at least `least`, at most `rest`."""
    if _effective(rest * value) >= least:
        return rest
    low, high = 0.0, rest
    for _ in range(30):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _effective(middle * value) >= least else (low, middle)
    return max(low, 1e-9 * rest)
