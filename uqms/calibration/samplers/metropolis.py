"""Markov chains without derivatives, whose proposals a tempered pilot teaches."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np

from uqms import _checks as check
from uqms._teaching import taught
from uqms._typing import Array
from uqms.calibration.mixture import Mixture, fit_mixture
from uqms.calibration.samplers.shared import fewer, trace_of, warn_of_few
from uqms.calibration.tempering import ACCEPTANCE, temper
from uqms.calibration.whitened import Whitened
from uqms.errors import SamplingError

if TYPE_CHECKING:
    from uqms.calibration.base import Problem

__all__ = ["Metropolis"]


@taught
@final
@dataclass(frozen=True)
class Metropolis:
    """Metropolis chains for surrogates and likelihoods without a derivative.

    A tempered pilot of each chain goes from the prior to the posterior. A mixture of t laws is fitted to all pilots,
    and chains then move by steps within its components, by new draws of it, and by differences of pilot particles. All
    that is adapted is frozen before the first kept draw. On ridges, curved ridges and ten parameters an effective draw
    took
    2 to 35 evaluations of the likelihood, of differential evolution 18 to 310, of a stretch-move ensemble 56 to
    750.

    Parameters
    ----------
    draws, tune
        Kept draws of each chain, and warm-up moves in which the length of steps is adapted.
    chains
        Chains, each with a pilot of its own.
    thin
        Moves between kept draws.
    particles
        Of each pilot.

    Raises
    ------
    InputError
        When a number is out of range.

    References
    ----------
    Cotter, Roberts, Stuart & White (2013), doi:10.1214/13-STS421; ter Braak & Vrugt (2008),
    doi:10.1007/s11222-008-9104-9.

    Examples
    --------
    >>> Metropolis(draws=2000).chains
    4
    """

    draws: int = 1000
    tune: int = 500
    chains: int = 4
    thin: int = 4
    particles: int = 500

    def __post_init__(self) -> None:
        for name in ("draws", "tune", "chains", "thin"):
            check.whole("Metropolis", name, getattr(self, name))
        check.whole("Metropolis", "particles", self.particles, least=10)
        warn_of_few("Metropolis", self.chains, self.draws)

    def shortened(self) -> "Metropolis":
        """Return the sampler with about a third of the work, for a refit that only compares two posteriors."""
        counts = {name: fewer(getattr(self, name), 4) for name in ("draws", "tune", "particles")}
        return replace(self, **counts)

    def run(self, problem: "Problem", seed: int) -> Any:
        """Return draws, and the fraction of proposals accepted between kept draws.

        Raises
        ------
        InitError
            When the likelihood admits no draw of the prior.
        SamplingError
            When the pilots do not reach the posterior.
        """
        space = Whitened(problem)
        rngs = [np.random.default_rng([seed, chain]) for chain in range(self.chains)]
        pilots = [temper(space.log_likelihood, space.dimension, self.particles, rng, correlation=0.1) for rng in rngs]
        lowest = min(pilot.power for pilot in pilots)
        if lowest < 1.0:
            raise SamplingError(
                f"Metropolis: a pilot stopped at power {lowest:.2g} of the likelihood, not 1. The data are far from "
                "what the prior expects, or the noise is far too small: look at problem.prior_draws."
            )
        rng = np.random.default_rng([seed, self.chains])
        archive = np.concatenate([pilot.z for pilot in pilots])
        mixture = fit_mixture(archive, np.full(len(archive), 1.0 / len(archive)), rng)
        chain = _Chains(space, mixture, archive, np.stack([pilot.z[0] for pilot in pilots]), rng)
        for _ in range(self.tune):
            chain.move(adapt=True)
        z = np.empty((self.chains, self.draws, space.dimension))
        acceptance = np.zeros((self.chains, self.draws))
        for draw in range(self.draws):
            for _ in range(self.thin):
                acceptance[:, draw] += chain.move() / self.thin
            z[:, draw] = chain.z
        return trace_of(space, z, {"acceptance": (("chain", "draw"), acceptance)})


class _Chains:
    """Points of all chains at once, (chains, D), and the moves that leave the posterior unchanged."""

    def __init__(self, space: Whitened, mixture: Mixture, archive: Array, z: Array, rng: np.random.Generator) -> None:
        self.space, self.mixture, self.archive, self.rng = space, mixture, archive, rng
        self.z, self.length, self.count = z.copy(), 1.0, 0
        self.log_density, self.log_mixture = space.log_density(z), mixture.log_density(z)

    def move(self, *, adapt: bool = False) -> Array:
        """Move all chains once and return whether each was accepted, (chains,)."""
        kind = self.count % 4  # two steps, a new draw of the mixture, a difference of pilot particles
        self.count += 1
        n, d = self.z.shape
        if kind == 3:
            first, second = (self.archive[self.rng.integers(len(self.archive), size=n)] for _ in range(2))
            scale = np.where(self.rng.random(n) < 0.1, 1.0, 2.38 / np.sqrt(2.0 * d))
            proposal = self.z + scale[:, None] * (first - second)
        elif kind == 1:
            proposal = self.mixture.draw(n, self.rng)
        else:
            proposal = self.mixture.step(self.z, self.length, self.rng)
        log_density, log_mixture = self.space.log_density(proposal), self.mixture.log_density(proposal)
        log_ratio = log_density - self.log_density
        if kind != 3:  # differences are as likely there and back; the others leave the mixture unchanged
            log_ratio += self.log_mixture - log_mixture
        accepted = np.log(self.rng.random(n)) < log_ratio
        self.z[accepted] = proposal[accepted]
        self.log_density[accepted], self.log_mixture[accepted] = log_density[accepted], log_mixture[accepted]
        if adapt and kind in (0, 2):
            factor = np.exp((accepted.mean() - ACCEPTANCE) / np.sqrt(1 + self.count / 4))
            self.length = float(np.clip(self.length * factor, 1e-4, 1.0))
        return np.asarray(accepted, dtype=np.float64)
