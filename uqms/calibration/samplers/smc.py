"""Tempered sequential Monte Carlo as a sampler: several modes, no derivatives, and the evidence."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np

from uqms import _checks as check
from uqms._teaching import taught
from uqms.calibration.samplers.shared import check_share, fewer, trace_of, warn_of_few
from uqms.calibration.tempering import temper
from uqms.calibration.whitened import Whitened
from uqms.errors import SamplingError

if TYPE_CHECKING:
    from uqms.calibration.base import Problem

__all__ = ["SMC"]


@taught
@final
@dataclass(frozen=True)
class SMC:
    """Tempered sequential Monte Carlo: for several modes, for the evidence, and where there are no derivatives.

    Particles are brought from the prior to the posterior by powers of the likelihood. It starts everywhere that the
    prior admits, so it finds modes that lie far apart, each with its mass; up to about 20 parameters. NUTS copes with
    more.

    Parameters
    ----------
    particles
        Of each run; all have the same weight in the end, and are the draws.
    chains
        Independent runs; from their spread come R-hat and the standard error of the evidence.
    correlation
        Moves of a stage go on until no parameter, nor the log-likelihood, is more correlated with where the stage
        began. Lower it when runs disagree.
    moves
        Moves in a stage at most.

    Raises
    ------
    InputError
        When a number is out of range.

    References
    ----------
    Del Moral, Doucet & Jasra (2006), doi:10.1111/j.1467-9868.2006.00553.x; Buchholz, Chopin & Jacob (2021),
    doi:10.1214/20-BA1199.

    Examples
    --------
    >>> SMC(particles=4000).chains
    4
    """

    particles: int = 2000
    chains: int = 4
    correlation: float = 0.05
    moves: int = 100

    def __post_init__(self) -> None:
        for name in ("particles", "chains", "moves"):
            check.whole("SMC", name, getattr(self, name), least=10 if name == "particles" else 1)
        check_share("SMC", "correlation", self.correlation, 0.001, 1.0)
        warn_of_few("SMC", self.chains, self.particles, "particles")

    def shortened(self) -> "SMC":
        """Return the sampler with about a third of the work, for a refit that only compares two posteriors."""
        return replace(self, particles=fewer(self.particles, 4))

    def run(self, problem: "Problem", seed: int) -> Any:
        """Return draws (chain = run, draw = particle), and the log evidence of each run.

        Raises
        ------
        InitError
            When the likelihood admits no draw of the prior.
        SamplingError
            When the posterior was not reached.
        """
        space = Whitened(problem)
        runs = []
        for chain in range(self.chains):
            rng = np.random.default_rng([seed, chain])
            found = temper(
                space.log_likelihood,
                space.dimension,
                self.particles,
                rng,
                correlation=self.correlation,
                most_moves=self.moves,
            )
            distinct = len(np.unique(found.z, axis=0))
            if found.power < 1.0 or distinct < max(2, self.particles // 100):
                raise SamplingError(
                    f"SMC: after {found.stages} stages the power is {found.power:.2g} (it should be 1), "
                    f"and {distinct} of {self.particles} particles are distinct. The data are far from what the prior "
                    "expects, or the noise is far too small: see problem.prior_draws."
                )
            runs.append(found)
        per_chain = {
            "log_marginal_likelihood": [run.log_evidence for run in runs],
            "stages": [run.stages for run in runs],
            "moves": [run.moves for run in runs],
            "acceptance": [run.acceptance for run in runs],
            "left_correlation": [run.correlation for run in runs],
            "correlation_limit": [self.correlation] * self.chains,
        }
        return trace_of(
            space,
            np.stack([run.z for run in runs]),
            {name: (("chain",), np.asarray(values, dtype=np.float64)) for name, values in per_chain.items()},
        )
