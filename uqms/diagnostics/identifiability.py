"""What the data identify: contraction, confounded pairs, stiff and sloppy directions, sensitivity to the prior."""

from dataclasses import dataclass
from typing import final

import numpy as np
import pandas as pd
import xarray as xr

from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array
from uqms.calibration import Posterior
from uqms.calibration.answer import CONFOUNDED, CONTRACTION, confounding, contraction, log_priors, power_scaling
from uqms.calibration.base import Problem
from uqms.calibration.capabilities import refuse
from uqms.calibration.context import evenly
from uqms.calibration.verdict import fisher_information
from uqms.errors import InputError

__all__ = ["Identifiability", "identifiability"]

DRAWS = 200
SMALL = 0.15  # parts of a direction that words leave out


@taught
@final
@dataclass(frozen=True, eq=False)
class Identifiability:
    """Directions in parameter space, by how much the data identify them; `identifiability` returns it.

    Attributes
    ----------
    table
        By quantity: contraction, 1 - posterior variance / prior variance on the surrogate's scale (0: nothing was
        learned, 1: all that is known comes from the data); and the power-scaling sensitivities to prior and likelihood
        (above 0.05: it matters).
    correlation
        Of the posterior, dims ("quantity", "other"), on the surrogate's scale (logarithms of positive quantities).
    local_correlation
        Mean size of the correlation of the linearised problem around posterior draws; above the overall one on curved
        ridges. Zero where noise is involved.
    directions
        Dims ("direction", "parameter"): unit vectors, the stiffest first, in units of the prior's sds.
    information
        By direction: the prior's variance over that of the data alone, averaged over the posterior.
    scale
        By parameter, whether the surrogate takes its logarithm ("log"), logit, or itself ("identity").
    """

    table: pd.DataFrame
    correlation: xr.DataArray
    local_correlation: xr.DataArray
    directions: xr.DataArray
    information: xr.DataArray
    scale: dict[str, str]

    @property
    def confounded(self) -> tuple[tuple[str, str], ...]:
        """Pairs whose correlation, overall or local, exceeds 0.95."""
        size = np.triu(np.maximum(np.abs(self.correlation.values), self.local_correlation.values), 1)
        names = [str(name) for name in self.correlation["quantity"].values]
        return tuple((names[a], names[b]) for a, b in np.argwhere(size > CONFOUNDED))

    @property
    def prior_dominated(self) -> tuple[str, ...]:
        """Quantities whose contraction is below 0.1."""
        return tuple(str(name) for name in self.table.index[self.table["contraction"] < CONTRACTION])

    @property
    def direction_contraction(self) -> xr.DataArray:
        """Contraction along each direction: information / (1 + information)."""
        return self.information / (1.0 + self.information)

    @property
    def sloppy(self) -> tuple[str, ...]:
        """Combinations that the data do not inform (contraction below 0.1), in words."""
        return tuple(self.words(i) for i, value in enumerate(self.direction_contraction.values) if value < CONTRACTION)

    @property
    def stiff(self) -> tuple[str, ...]:
        """Combinations that the data determine beyond the prior (contraction above 0.5), in words."""
        return tuple(self.words(i) for i, value in enumerate(self.direction_contraction.values) if value > 0.5)

    def words(self, direction: int) -> str:
        """Return a direction as a combination of parameters, each in units of its prior's sd."""
        vector = self.directions.values[direction]
        order = [int(i) for i in np.argsort(-np.abs(vector), kind="stable") if abs(vector[i]) >= SMALL]
        names = [str(self.directions["parameter"].values[i]) for i in order]
        sign = np.sign(vector[order[0]])
        parts = [
            f"{'-' if sign * vector[i] < 0 else '+'} {abs(vector[i]):.2f} "
            + (name if self.scale[name] == "identity" else f"{self.scale[name]}({name})")
            for i, name in zip(order, names, strict=True)
        ]
        return " ".join(parts).removeprefix("+ ")

    def __repr__(self) -> str:
        lines = [self.table.to_string(float_format=lambda value: f"{value:.2f}"), "", "directions, the stiffest first:"]
        for i, value in enumerate(self.direction_contraction.values):
            lines.append(f"  contraction {value:.2f}: {self.words(i)}")
        pairs = ", ".join(f"{a} and {b}" for a, b in self.confounded)
        lines.append(f"confounded pairs: {pairs or 'none'}")
        lines.append(f"prior-dominated: {', '.join(self.prior_dominated) or 'none'}")
        return "\n".join(lines)


@taught
@single_threaded
def identifiability(posterior: Posterior) -> Identifiability:
    """Return how much the data inform every quantity and combination of quantities, beyond the prior.

    Use it when the verdict says *prior-dominated* or *confounded*, and before an experiment is planned: sloppy
    directions are what it should measure. `profile_likelihood` says how far a single quantity is bounded by data alone.

    Parameters
    ----------
    posterior
        What `Calibration(...).sample()` returns.

    Returns
    -------
    Identifiability
        Print it.

    Raises
    ------
    InputError
        When it is no posterior.

    Notes
    -----
    Directions are eigenvectors of the Fisher information J' C^-1 J averaged over the posterior, with the parameters as
    the surrogate takes them, divided by their prior sd; C holds noise and surrogate error, the unknown noise is taken
    as each draw has it.

    References
    ----------
    Gutenkunst et al. (2007), doi:10.1371/journal.pcbi.0030189;
    Kallioinen et al. (2024), doi:10.1007/s11222-023-10366-5.
    """
    if not isinstance(posterior, Posterior):
        raise InputError(
            f"identifiability: got a {type(posterior).__name__}; give the posterior of one subject, problem.sample(...)"
            "."
        )
    problem = posterior.problem
    refuse(problem, "identifiability")
    theta = posterior.flat()
    draws = posterior.tree["sample_stats"]["hyperparameter_draw"].values
    h = draws.reshape(-1, *draws.shape[2:])  # of each part
    picked = evenly(len(h), DRAWS)
    information = fisher_information(problem, {name: values[picked] for name, values in theta.items()}, h[picked])
    names, overall, local = confounding(problem, theta, information)
    values, vectors = np.linalg.eigh(information.mean(axis=0))
    labels = {"quantity": list(names), "other": list(names)}
    dims, parameters = ("quantity", "other"), list(problem.parameters)
    boxes = [piece.problem.surrogate.domain for piece in problem.pieces(theta)]
    scale: dict[str, str] = {
        name: box.scale[box.names.index(name)] for box in boxes for name in parameters if name in box.names
    }
    return Identifiability(
        table=_table(posterior, problem, theta),
        correlation=xr.DataArray(overall, dims=dims, coords=labels),
        local_correlation=xr.DataArray(local, dims=dims, coords=labels),
        directions=xr.DataArray(
            vectors.T[::-1].copy(), dims=("direction", "parameter"), coords={"parameter": parameters}
        ),
        information=xr.DataArray(np.maximum(values[::-1], 0.0), dims="direction"),
        scale=scale,
    )


def _table(posterior: Posterior, problem: Problem, theta: dict[str, Array]) -> pd.DataFrame:
    contracted, _ = contraction(problem, theta)
    joint = posterior.tree["sample_stats"]["joint_log_likelihood"].values
    log_prior = np.sum(list(log_priors(problem, theta).values()), axis=0)
    sensed = power_scaling(theta, log_prior, joint.ravel(), joint.shape)
    rows = {
        name: {
            "contraction": contracted[name],
            "sensitivity to prior": sensed[name].prior,
            "sensitivity to likelihood": sensed[name].likelihood,
        }
        for name in problem.priors
    }
    return pd.DataFrame.from_dict(rows, orient="index")
