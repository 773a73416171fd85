"""Measurements of a population linearised in what describes it, with the effects of its subjects.

==========  ===================================================================  ===================
symbol      meaning                                                              shape
==========  ===================================================================  ===================
S, N, K     posterior draws, cells, inputs of the surrogate                      ()
p           parameters of one subject, in the unit cube                          ()
J           derivative of the cells by the parameters of their own subject       (S, N, p)
D           quantities of the population, in units of their prior's sds          ()
x           standard normal effects of subjects, and of occasions                (S, .)
==========  ===================================================================  ===================

Each cell depends on its own subject alone. Derivatives by the population and by effects are J times those of the
subjects' parameters, for which no surrogate is evaluated.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from uqms._typing import Array
from uqms.calibration.population.subject_checks import prior_sd_of

if TYPE_CHECKING:
    from uqms.calibration.population.calibration import PopulationCalibration
    from uqms.calibration.single import SingleCalibration

__all__ = ["PopulationSlopes", "population_slopes"]

STEP = 1e-4


class PopulationSlopes(NamedTuple):
    """Derivatives of cells (S, N, D) by the population, and the covariance (S, N, N) that the effects give them."""

    jacobian: Array
    effects: Array


def population_slopes(
    problem: "PopulationCalibration",
    data: "SingleCalibration",
    theta: Mapping[str, Array],
    z: Array,
    jacobian: Array,
) -> PopulationSlopes:
    """Return the linearised population for J of cells of `data`, which are those of the problem or sums of them."""
    box, population, layout = data.surrogate.domain, problem.population, problem.layout
    columns = [box.names.index(name) for name in data.parameters]
    cells, S, D = data.cells, len(z), len(problem.parameters)
    unit = cells.unit[cells.experiment]

    def moved(up: tuple[Mapping[str, Array], Array], down: tuple[Mapping[str, Array], Array]) -> Array:
        """Return how the cells move (S, N) between two values of everything."""
        ends = (data.unit_inputs(problem.individuals(values, effects))[..., columns] for values, effects in (up, down))
        change = np.subtract(*ends)  # (S, K, p)
        return np.asarray(np.einsum("snp,snp->sn", jacobian, change[:, cells.experiment]))

    out, sds = np.empty((S, len(unit), D)), prior_sd_of(problem)
    for i, name in enumerate(problem.parameters):
        up, down = ({**theta, name: theta[name] + sign * STEP * sds[name]} for sign in (1.0, -1.0))
        out[:, :, i] = moved((up, z), (down, z)) / (2.0 * STEP)
    P, Q, first = len(population.individual), len(population.occasions), layout.sizes[0]
    effects, subject = np.zeros((S, len(unit), len(unit))), layout.subject[unit]
    for k in range(P + Q):  # each unit depends on its own effects alone, so that all are moved at once
        shift = np.zeros(z.shape[1])
        if k < P:
            shift[k:first:P] = STEP
        else:
            shift[first + k - P : layout.size : Q] = STEP
        column = moved((theta, z + shift), (theta, z - shift)) / (2.0 * STEP)
        owner = subject if k < P else unit
        effects += column[:, :, None] * column[:, None, :] * (owner[:, None] == owner)
    return PopulationSlopes(out, effects)
