"""What a check of the verdict is given: the problem, the draws, and the problem linearised at a few of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, final

import numpy as np

from uqms._typing import Array, Bools, Ints
from uqms.calibration.base import Piece, Problem
from uqms.calibration.checks import Check, Sampled
from uqms.calibration.computation import Places, places

if TYPE_CHECKING:
    from uqms.calibration.posterior import Posterior
    from uqms.calibration.simulator_runs import SimulatorRuns

__all__ = ["CheckFunction", "Context", "Linearised", "evenly"]


@final
@dataclass(frozen=True, eq=False)
class Linearised:
    """The problem linearised at a few of its draws.

    Attributes
    ----------
    share
        Fraction of each judged quantity's variance that is due to the surrogate's error, (P,); NaN if not known.
    shares
        Those of the quantities that a surrogate's data are about, one array per surrogate.
    few
        The few draws by surrogate.
    left
        By surrogate: information of its data on its parameters, (s, d, d), in units of what is known without them.
    information
        The information of all data on all parameters, (s, D, D), in units of the prior's sds; None where a problem has
        another measure of it.
    variances
        What data leave of every quantity, (P,), in units of the prior's variances; None as for `information`.
    misfit
        The check of misfit, where the linearised problem has it already.
    reason
        Why there is nothing, "" where there is.
    """

    share: Array
    shares: Sequence[Array] = ()
    few: Sequence[Piece] = ()
    left: Sequence[Array] = ()
    information: Array | None = None
    variances: Array | None = None
    misfit: Check | None = None
    reason: str = ""


@final
@dataclass(frozen=True, eq=False)
class Context:
    """What a check looks at.

    Attributes
    ----------
    problem
        The calibration: of one subject, of several parts, or of a population.
    returned
        What the sampler returned, as it is.
    runs
        Runs of the simulator at some of the draws, where there are any: checks that need them say nothing without.
    """

    problem: Problem
    returned: Sampled
    runs: "SimulatorRuns | None" = None

    @classmethod
    def of(cls, posterior: "Posterior", runs: "SimulatorRuns | None" = None) -> "Context":
        """Return the context of a posterior's draws; how they were sampled has been judged with them."""
        shape = posterior.draws.sizes["chain"], posterior.draws.sizes["draw"]
        count = shape[0] * shape[1]
        told = "sample_stats" in posterior.tree.children
        h = posterior.tree["sample_stats"]["hyperparameter_draw"].values if told else np.zeros(shape, dtype=np.int64)
        latents = posterior.latents
        returned = Sampled(posterior.flat(), h.reshape(count, *h.shape[2:]), shape, shape, latents=latents)
        return cls(posterior.problem, returned, runs)

    @cached_property
    def finite(self) -> Bools:
        """Which draws are numbers throughout."""
        return np.asarray(np.all([np.isfinite(values) for values in self.returned.theta.values()], axis=0))

    @cached_property
    def sampled(self) -> Sampled:
        """The draws that are finite; what needs chains that are whole is left out where one is not."""
        one, finite = self.returned, self.finite
        latents = one.latents[finite] if one.latents.shape[1] else np.zeros((int(finite.sum()), 0))
        theta = {name: values[finite] for name, values in one.theta.items()}
        whole = bool(finite.all())
        return replace(
            one,
            theta=theta,
            derived={name: values[finite] for name, values in one.derived.items()},
            h=one.h[finite],
            latents=latents,
            log_likelihood=one.log_likelihood if whole else None,
        )

    @cached_property
    def density(self) -> Array | None:
        """Log posterior density of the draws up to a constant, (S,); None where it is not known."""
        one = self.sampled
        if one.log_likelihood is None or self.problem.kind == "population":
            return None
        found = one.log_likelihood + np.sum(list(self.problem.conditioned_prior.log_terms(one.theta).values()), axis=0)
        return np.asarray(found - 0.5 * np.sum(one.latents**2, axis=1))

    @cached_property
    def places(self) -> Places:
        """Where the chains are: together, or in several places."""
        priors = self.problem.priors
        positive = [name for name, prior in priors.items() if prior.support[0] >= 0.0]
        noise = [name for name in positive if name not in self.problem.parameters]
        return places(self.returned, positive, noise, self.density if self.finite.all() else None)

    @cached_property
    def pieces(self) -> list[Piece]:
        """What belongs to each surrogate, with all finite draws."""
        return self.problem.pieces(self.sampled.theta, self.sampled.latents, self.sampled.h)

    @cached_property
    def linear(self) -> Linearised:
        """The problem linearised at a few of the draws."""
        return self.problem.linearised(self.sampled)


type CheckFunction = Callable[[Context], Sequence[Check]]
"""A check of a posterior; it returns nothing where it does not apply."""


def evenly(count: int, most: int) -> Ints:
    """Return at most `most` of `count` places, spread evenly."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(int))
