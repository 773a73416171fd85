"""A first look in a second: normal approximations at the modes, corrected by importance weights."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from uqms import _checks as check
from uqms._teaching import taught
from uqms._typing import Array
from uqms.calibration.exploration import derivatives
from uqms.calibration.mixture import Mixture
from uqms.calibration.mode import find_modes, same_place
from uqms.calibration.samplers.shared import trace_of
from uqms.calibration.tempering import systematic
from uqms.calibration.whitened import Whitened
from uqms.errors import SamplingError

if TYPE_CHECKING:
    from uqms.calibration.base import Problem

__all__ = ["Laplace", "resampled"]

PROPOSALS = 4  # a draw that is kept
FLATTEST = 0.05  # least curvature on the scale of the particles' spread
NEGLIGIBLE = 20.0  # nats by which a mode may lie below the best


@taught
@final
@dataclass(frozen=True)
class Laplace:
    """Laplace approximation: a first look that takes a second, never the final answer.

    At every mode that is found stands a t law (10 degrees of freedom) with the curvature of the log-posterior, on the
    scale where the prior is standard normal. Its draws are resampled by Pareto-smoothed importance weights. The verdict
    says that this is an approximation, and fails it when the weights cannot be trusted (k-hat above 0.7). Then use NUTS
    or SMC.

    Parameters
    ----------
    draws
        Kept draws; four times as many are weighted.
    starts
        Points that the search for modes starts from.

    Raises
    ------
    InputError
        When a number is out of range.

    References
    ----------
    Tierney & Kadane (1986), doi:10.1080/01621459.1986.10478240; Vehtari et al. (2024), JMLR 25:72.

    Examples
    --------
    >>> Laplace(draws=2000).starts
    8
    """

    draws: int = 1000
    starts: int = 8

    def __post_init__(self) -> None:
        check.whole("Laplace", "draws", self.draws, least=10)
        check.whole("Laplace", "starts", self.starts)

    def shortened(self) -> "Laplace":
        """Return the sampler with about a third of the work, for a refit that only compares two posteriors."""
        return self  # an optimisation, whatever is drawn from it

    def run(self, problem: "Problem", seed: int) -> Any:
        """Return draws (one chain), the k-hat of their weights, and the log evidence.

        Raises
        ------
        InitError
            When the likelihood admits no draw of the prior.
        SamplingError
            When no proposal has a finite density.
        """
        rng = np.random.default_rng(seed)
        space = Whitened(problem)
        law, modes = _law(space, self.starts, rng)
        return resampled("Laplace", space, law, self.draws, rng, {"modes": float(modes)})


def resampled(
    owner: str, space: Whitened, law: Mixture, draws: int, rng: np.random.Generator, more: dict[str, float]
) -> Any:
    """Return draws of the posterior, resampled from those of an approximation by Pareto-smoothed importance weights.

    Raises
    ------
    SamplingError
        When no proposal has a finite density.
    """
    from arviz_stats.base import array_stats

    n = PROPOSALS * draws
    z = law.draw(n, rng)
    log_weight = space.log_density(z) - law.log_density(z)
    top = float(log_weight.max())
    if not np.isfinite(top):
        raise SamplingError(f"{owner}: no draw of the approximation has a finite density. Use SMC().")
    raw = np.exp(log_weight - top)
    smoothed, k_hat = array_stats.psislw(-np.maximum(log_weight, top - 700.0))
    weight = np.exp(smoothed - smoothed.max())
    weight /= weight.sum()
    kept = rng.permutation(systematic(weight, draws, rng))
    stats = {
        "pareto_k": float(k_hat),
        "importance_ess": 1.0 / float(np.sum(weight**2)),
        **more,
        "log_marginal_likelihood": float(np.log(raw.mean())) + top,
        "log_marginal_likelihood_mcse": float(raw.std(ddof=1) / raw.mean() / np.sqrt(n)),
    }
    return trace_of(space, z[kept][None], {name: (("chain",), np.array([value])) for name, value in stats.items()})


def _law(space: Whitened, starts: int, rng: np.random.Generator) -> tuple[Mixture, int]:
    """Return t laws at the modes, weighted by their Laplace evidence, and how many modes there are."""
    found = find_modes(space, space.log_density, starts, rng)
    top = float(found.value.max())
    centres: list[Array] = []
    roots: list[Array] = []
    log_mass: list[float] = []
    left = found.value > top - NEGLIGIBLE
    while np.any(left):
        i = int(np.argmax(np.where(left, found.value, -np.inf)))
        left &= ~same_place(found, found.z[i])
        root = found.root[i]
        values, vectors = np.linalg.eigh(-derivatives(space, found.z[i], root)[1])
        values = np.maximum(values, FLATTEST)
        covariance = root @ ((vectors / values) @ vectors.T) @ root.T
        centres.append(found.z[i])
        roots.append(np.linalg.cholesky(covariance))
        log_mass.append(float(found.value[i]) + float(np.sum(np.log(np.diag(roots[-1])))))
    weight = np.exp(np.array(log_mass) - max(log_mass))
    return Mixture(weight / weight.sum(), np.stack(centres), np.stack(roots)), len(centres)
