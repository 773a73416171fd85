"""Nearly independent posterior draws of parameters and latents, by tempered sequential Monte Carlo, without compiling.

Where errors are not all normal the density is that of parameters and latents together, ten to fifty numbers: too many
for importance weights, where a normal approximation of the latents (`uqms.calibration.latents`) does not suffice. Two
runs of `uqms.calibration.tempering` bring particles from the prior to the posterior; what speaks against them is that
they disagree, that particles still know where the last stage began, or that few are distinct.
"""

from dataclasses import dataclass
from typing import final

import numpy as np

from uqms import _checks as check
from uqms._teaching import taught
from uqms._typing import Array
from uqms.calibration.base import Problem
from uqms.calibration.samplers.shared import check_share
from uqms.calibration.tempering import Tempered, temper
from uqms.calibration.whitened import Whitened
from uqms.diagnostics.importance import FewDraws
from uqms.errors import SamplingError

__all__ = ["TemperedSampler"]

APART = 5.0  # standard errors between the means of the two runs
TRIES, MORE = 3, 3  # with that many times the particles and moves of the one before


@taught
@final
@dataclass(frozen=True)
class TemperedSampler:
    """Tempered sequential Monte Carlo over parameters and latents: for simulation-based calibration of any noise.

    Parameters
    ----------
    particles
        Of both runs together; more are taken where something speaks against the draws.
    correlation
        Moves of a stage go on until no coordinate, nor the log-likelihood, is more correlated with where it began.
    moves
        Moves in a stage at most.

    Raises
    ------
    InputError
        When a number is out of range.

    References
    ----------
    Del Moral, Doucet & Jasra (2006), doi:10.1111/j.1467-9868.2006.00553.x.

    Examples
    --------
    >>> TemperedSampler(particles=1000).moves
    40
    """

    particles: int = 500
    correlation: float = 0.25
    moves: int = 40

    def __post_init__(self) -> None:
        check.whole("TemperedSampler", "particles", self.particles, least=100)
        check.whole("TemperedSampler", "moves", self.moves)
        check_share("TemperedSampler", "correlation", self.correlation, 0.001, 1.0)

    def draw(self, problem: Problem, count: int, rng: np.random.Generator) -> FewDraws:
        """Return `count` draws of parameters and latents; with more particles, up to three times, where in doubt.

        Raises
        ------
        InitError, SamplingError
            When the likelihood admits no draw of the prior, or the posterior was not reached.
        """
        space = Whitened(problem)
        for attempt in range(TRIES):
            picked, ess, doubt = self._drawn(space, MORE**attempt, count, rng)
            if not doubt:
                break
        return FewDraws(space.theta(picked), ess, doubt, picked[:, len(space.names) :])

    def _drawn(self, space: Whitened, more: int, count: int, rng: np.random.Generator) -> tuple[Array, float, str]:
        """Return points (count, D), their effective number, and what speaks against them."""
        runs = [self._run(space, more, generator) for generator in rng.spawn(2)]
        z = np.concatenate([run.z for run in runs])
        left = max(max(run.correlation, 0.0) for run in runs)
        distinct = min(len(np.unique(run.z, axis=0)) / len(run.z) for run in runs)
        ess = len(z) * distinct * (1.0 - left) / (1.0 + left)
        picked = z[rng.choice(len(z), size=count, replace=len(z) < count)]
        return picked, float(ess), _doubts(space, runs, left, self.correlation, ess, count)

    def _run(self, space: Whitened, more: int, rng: np.random.Generator) -> Tempered:
        found = temper(
            space.log_likelihood,
            space.dimension,
            more * self.particles // 2,
            rng,
            correlation=self.correlation,
            most_moves=more * self.moves,
        )
        if found.power < 1.0:
            raise SamplingError(
                f"The tempered particles stopped at power {found.power:.2g} of the likelihood, not 1: the data are far "
                "from what the prior expects."
            )
        return found


def _doubts(space: Whitened, runs: list[Tempered], left: float, limit: float, ess: float, count: int) -> str:
    """Say what speaks against the particles."""
    doubts = []
    if left > 2.0 * limit:
        doubts.append(f"particles have a correlation of {left:.2f} with where the last stage began")
    if not ess >= count:
        doubts.append(f"{ess:.0f} effective draws, {count} required")
    d = len(space.names)
    first, second = (run.z[:, :d] for run in runs)
    error = np.sqrt(first.var(axis=0) / len(first) + second.var(axis=0) / len(second))
    off = np.abs(first.mean(axis=0) - second.mean(axis=0)) / np.maximum(error, 1e-300)
    worst = int(np.argmax(off))
    if off[worst] > APART:
        doubts.append(f"the means of {space.names[worst]!r} of two runs are {off[worst]:.1f} standard errors apart")
    return "; ".join(doubts)
