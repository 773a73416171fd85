"""How far the answer depends on the prior scale of the discrepancy: the posterior with a smaller and a larger one.

Discrepancy and parameters explain the same residuals, and the prior on the discrepancy's size decides how they are
divided (Brynjarsdottir & O'Hagan 2014, doi:10.1088/0266-5611/30/11/114007). The draws are reweighted to the other prior
with Pareto smoothing. Where the weights cannot be trusted, the other posterior is sampled, see `refits`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from uqms._typing import Array
from uqms.calibration.checks import Rescaled
from uqms.calibration.likelihood import add_discrepancy
from uqms.calibration.reweighting import reweighted
from uqms.calibration.sharing import together
from uqms.parameters import Prior

if TYPE_CHECKING:
    from uqms.calibration.single import SingleCalibration

__all__ = ["FACTORS", "rescaled", "with_scaled_discrepancy"]

FACTORS = (0.25, 4.0)


def with_scaled_discrepancy(problem: "SingleCalibration", factor: float) -> "SingleCalibration":
    """Return the problem with `factor` times the standard deviation (or its prior's scale) of every discrepancy."""
    if problem.members:
        scaled_parts = {
            name: part if part.discrepancy is None else with_scaled_discrepancy(part, factor)
            for name, part in problem.members.items()
        }
        return together(scaled_parts, problem.seen_from)
    given = problem.discrepancy
    assert given is not None

    def scaled(one: Any, output: str) -> Any:
        if isinstance(one, Sequence):
            return [scaled(each, output) for each in one]
        return one.scaled(factor, problem.discrepancy_scale[output])

    by_output = dict(given) if isinstance(given, Mapping) else dict.fromkeys(problem.noise.outputs, given)
    discrepancy = {output: scaled(one, output) for output, one in by_output.items()}
    noise = add_discrepancy(
        problem.cells, problem.noise_alone, discrepancy, problem.condition_names, problem.discrepancy_scale
    )
    other = problem.with_data_model(noise=noise)
    other.discrepancy = discrepancy
    return other


def rescaled(
    problem: "SingleCalibration",
    draws: Mapping[str, Array],
    latents: Array,
    log_likelihood: Array | None,
    factor: float,
    judged: Mapping[str, Array] | None = None,
) -> Rescaled:
    """Return how the quantities move when the discrepancy is `factor` times as large; draws (S,) of everything.

    `log_likelihood` (S,) is that of the problem's own data; it is computed where it is None and needed. `judged` are
    draws of the quantities whose changes are returned; by default all of `draws`.
    """
    other = with_scaled_discrepancy(problem, factor)
    log_weight = np.zeros(len(next(iter(draws.values()))))
    known = False
    for key, before, after in zip(problem.noise.keys, problem.noise.settings, other.noise.settings, strict=True):
        if isinstance(before, Prior) and isinstance(after, Prior):
            log_weight += after.log_density(draws[key]) - before.log_density(draws[key])
        known |= not isinstance(before, Prior) and before != after
    if known:  # a known scale is part of the likelihood, not of the prior
        theta = {name: draws[name] for name in problem.priors}
        eta = latents if problem.latents else None
        own = problem.log_likelihood(theta, eta) if log_likelihood is None else log_likelihood
        log_weight += other.log_likelihood(theta, eta) - own
    found = reweighted(draws if judged is None else judged, log_weight)
    return Rescaled(factor, found.shift, found.width, found.k_hat, found.trusted)
