"""What is known of each quantity of a posterior: its draws, limits and unit, and the density of its prior."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from uqms._typing import Array
from uqms.calibration import Posterior
from uqms.calibration.capabilities import refuse
from uqms.errors import InputError
from uqms.parameters import Prior
from uqms.plots._density import density
from uqms.plots._style import pick

__all__ = ["Quantity", "quantities"]

TAIL = 0.005  # of the prior, on each side, that an axis need not show


class Quantity(NamedTuple):
    """An inferred or derived quantity."""

    name: str
    unit: str
    description: str
    draws: Array  # (S,), chains one after the other
    limits: tuple[float, float]  # what the prior is conditioned on, or infinite
    prior: Prior | None  # None for derived quantities
    prior_draws: Array  # (P,)
    reference: float | None

    def prior_range(self) -> tuple[float, float]:
        """Return the central 99 % of the prior."""
        low, high = np.quantile(self.prior_draws, [TAIL, 1.0 - TAIL])
        return float(low), float(high)

    def prior_density(self, low: float, high: float) -> tuple[Array, Array]:
        """Return grid and density of the prior between low and high: exact, or from draws for derived quantities."""
        if self.prior is not None:
            return _exact(self.prior, self.limits, low, high)
        inner = self.prior_draws[(self.prior_draws >= low) & (self.prior_draws <= high)]
        found = density(inner, (low, high)) if len(inner) > 20 else None
        if found is None:
            return np.zeros(0), np.zeros(0)
        return found[0], found[1] * (len(inner) / len(self.prior_draws))


def _exact(prior: Prior, limits: tuple[float, float], low: float, high: float) -> tuple[Array, Array]:
    start, stop = max(low, limits[0]), min(high, limits[1])
    inside = float(prior.cdf(limits[1])) - float(prior.cdf(limits[0]))
    grid = np.linspace(start, stop, 600)
    values = np.exp(np.asarray(prior.log_density(grid))) / inside
    # A prior that ends within the axis falls to zero there.
    before = [start] if start > low else []
    after = [stop] if stop < high else []
    grid = np.concatenate([before, grid, after])
    return grid, np.concatenate([np.zeros(len(before)), values, np.zeros(len(after))])


def quantities(
    posterior: Posterior,
    names: Sequence[str] | None,
    reference: Mapping[str, float] | None,
    *,
    derived: bool,
    most: int,
    who: str,
) -> list[Quantity]:
    """Return the quantities to show: by default all that were inferred, and the derived ones when asked for.

    Raises
    ------
    InputError
        When it is no posterior, or names are unknown or too many.
    """
    if not isinstance(posterior, Posterior):
        raise InputError(
            f"plots.{who}: got {type(posterior).__name__}; give the posterior that Calibration(...).sample() "
            "returns for one subject."
        )
    refuse(posterior.problem, f"plots.{who}")
    known = [str(name) for name in posterior.draws.data_vars]
    priors = posterior.problem.priors
    wanted = pick(names, known, known if derived else list(priors), most, who)
    unknown = sorted(set(reference or {}) - set(known))
    if unknown:
        raise InputError(f"plots.{who}: reference has {unknown}; the posterior has {known}.")
    before = posterior.tree["prior"].dataset
    joint = posterior.problem.conditioned_prior
    in_blocks = {name for block in joint.blocks for name in block.names}
    out = []
    for name in wanted:
        data = posterior.draws[name]
        prior = priors.get(name)
        out.append(
            Quantity(
                name=name,
                unit=str(data.attrs.get("unit", "")),
                description=str(data.attrs.get("description", "")),
                draws=np.asarray(data.values, dtype=np.float64).ravel(),
                limits=posterior.problem.limits(name) if prior is not None else (-np.inf, np.inf),
                # a block in a box, constraints and success change what each is alone: its draws show it
                prior=None if joint.constraints or joint.success is not None or name in in_blocks else prior,
                prior_draws=np.asarray(before[name].values, dtype=np.float64).ravel(),
                reference=None if reference is None or name not in reference else float(reference[name]),
            )
        )
    return out
