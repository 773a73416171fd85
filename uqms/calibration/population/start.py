"""Where the chains of a population begin: at likely draws, not at the joint mode.

At the joint mode of a population and of its subjects' effects, effects fit the noise: its sd comes out too small, and
draws are nowhere near, since what thousands of effects have in common with a draw is their distance from the mode. So
spreads and noise are what the effects and their own variances say, by expectation and maximisation, and effects are
drawn around their modes given that.

==========  ===================================================================  ===========
symbol      meaning                                                              shape
==========  ===================================================================  ===========
b           effects of each subject on the natural scale                         (J, P)
D           slopes of measured values by the effects of their subject            (N, P)
e           measured less what the surrogate says                                (N,)
s2, v       variance of the noise; of the surrogate                              (N,)
omega       spreads                                                              (P,)
C           covariance of b given its data: (sum D D' / (s2 + v) + 1/omega2)^-1  (J, P, P)
==========  ===================================================================  ===========

Dempster, Laird & Rubin (1977), doi:10.1111/j.2517-6161.1977.tb01600.x; linearised as Lindstrom & Bates (1990),
doi:10.2307/2532087.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from uqms._typing import Array, Ints
from uqms.calibration.density import noise_sd
from uqms.calibration.joint_error import averaged_marginals
from uqms.calibration.population.layout import from_natural

if TYPE_CHECKING:
    from uqms.calibration.population.calibration import PopulationCalibration

__all__ = ["calmed", "centring", "likely"]

STEP = 1e-3  # of differences, on the natural scale
ROUNDS = 50  # of expectation and maximisation
NARROWEST = 1e-3  # of what a spread was
LEAST = 0.1  # of a spread or a noise's sd at the mode: 0 is the likeliest of some, and no likely draw


class _Linear(NamedTuple):
    """Cells as linear functions of their subject's effects, at one draw."""

    slopes: Array  # D (N, P)
    left: Array  # e (N,)
    predicted: Array  # (N,)
    variance: Array  # v (N,)
    phi: Array
    subject: Ints  # (N,)


def _linear(problem: "PopulationCalibration", theta: Mapping[str, Array], z: Array) -> _Linear:
    population, layout, data = problem.population, problem.layout, problem.data
    cells, size = data.cells, len(problem.population.individual)
    _, units = layout.natural(theta, z[:, : layout.size])
    others = {name: np.asarray(values) for name, values in theta.items() if name not in population.individual}

    def means(natural: Array) -> Array:
        own = {
            name: from_natural(natural[..., i], scale)
            for i, (name, scale) in enumerate(zip(population.individual, population.scales, strict=True))
        }
        u = data.unit_inputs({**others, **own})
        return np.stack(averaged_marginals(data.surrogate, cells, cells.experiment, u, data.data_model.used))[:, 0]

    slopes = [(means(units + STEP * one)[0] - means(units - STEP * one)[0]) / (2.0 * STEP) for one in np.eye(size)]
    predicted, variance = means(units)
    subject = layout.subject[cells.unit[cells.experiment]]
    phi = data.noise.phi(others, (1,))[0]
    value, gain = data.data_model.responded(predicted)
    slope = gain[:, None] * np.stack(slopes, axis=-1)
    return _Linear(slope, cells.cell_mean - value, predicted, gain**2 * variance, phi, subject)


def _information(slopes: Array, variance: Array, subject: Ints, count: int) -> Array:
    information = np.zeros((count, slopes.shape[1], slopes.shape[1]))
    np.add.at(information, subject, slopes[:, :, None] * slopes[:, None, :] / variance[:, None, None])
    return information


def _spreads(problem: "PopulationCalibration", theta: Mapping[str, Array]) -> Array:
    return np.array([float(np.ravel(one)[0]) for one in problem.layout.spreads(theta)])


def centring(problem: "PopulationCalibration", theta: Mapping[str, Array], z: Array) -> Array:
    """Return kappa (J, P) for one draw: how much of the prior's variance of each effect its own data take away.

    With kappa = 1 - posterior variance / omega², what is sampled is least correlated with the population's mean.
    """
    data, linear = problem.data, _linear(problem, theta, z)
    outputs = data.data_model.responded(linear.predicted[None])[0]
    noise = data.noise.sds(data.cells.group, linear.phi[None], outputs)[0] ** 2 / data.cells.weight
    if data.data_model.form != "independent":
        noise = noise_sd(data.data_model, linear.predicted[None], linear.phi[None])[0] ** 2
    count, omega = len(problem.layout.covariates), _spreads(problem, theta)
    information = _information(linear.slopes, noise + linear.variance, linear.subject, count)
    left = np.diagonal(np.linalg.inv(np.eye(len(omega)) + information * omega[:, None] * omega), axis1=1, axis2=2)
    return np.asarray(np.clip(1.0 - np.nan_to_num(left, nan=1.0), 0.0, 1.0))


def _tails(problem: "PopulationCalibration") -> Array:
    """Return the square of each spread over the variance of effects."""
    freedom = np.array([problem.population.tails.get(name, np.inf) for name in problem.population.individual])
    return np.array([1.0 if np.isinf(one) else (one - 2.0) / one for one in freedom])


def standardised(problem: "PopulationCalibration", theta: Mapping[str, Array], natural: Array, z: Array) -> Array:
    """Return standard normals (S, latents) of natural values (S, J, P); z (S, latents) has those of occasions."""
    layout = problem.layout
    columns = {name: np.asarray(values)[:, None] for name, values in theta.items()}
    centre, root, omega = layout.centre(columns), layout.root(columns), layout.spreads(columns)
    _, y = layout.standardised(z[:, : layout.size])
    x = np.empty_like(natural)
    for i, row in enumerate(root):
        rest = sum(entry * x[..., k] for k, entry in enumerate(row[:i]) if entry is not None)
        x[..., i] = ((natural[..., i] - centre[i]) / omega[i] - rest) / row[i]
    return np.concatenate([layout.standard_normals(x, y), z[:, layout.size :]], axis=1)


def calmed(problem: "PopulationCalibration", theta: Mapping[str, Array], z: Array) -> tuple[dict[str, Array], Array]:
    """Return the same individual parameters with spreads that are theirs, for draws (S,).

    At the joint mode of spreads and standardised effects the spreads are several times too large and the effects too
    small.
    """
    layout, out, tails = problem.layout, dict(theta), _tails(problem)
    natural, _ = layout.natural(theta, z[:, : layout.size])
    centre = layout.centre({name: np.asarray(values)[:, None] for name, values in theta.items()})
    for i, name in enumerate(problem.population.individual):
        if (key := f"omega_{name}") in theta:
            found = np.sqrt(tails[i] * np.mean((natural[..., i] - centre[i]) ** 2, axis=1))
            out[key] = np.maximum(found, NARROWEST * theta[key])
    return out, standardised(problem, out, natural, z)


def likely(
    problem: "PopulationCalibration", theta: Mapping[str, Array], z: Array, rng: np.random.Generator, count: int
) -> tuple[dict[str, Array], Array, Array]:
    """Return spreads and noise (1,) as effects near a mode say, their middle z (1, latents), and draws (count, .).

    For noise that is independent and normal.
    """
    layout, data, names = problem.layout, problem.data, problem.population.individual
    cells, linear = data.cells, _linear(problem, theta, z)
    slopes, subject, groups, J = linear.slopes, linear.subject, len(data.noise.outputs), len(layout.covariates)
    natural, _ = layout.natural(theta, z[:, : layout.size])
    centre = np.stack([np.broadcast_to(one, (1, J)) for one in layout.centre(dict(theta))], axis=-1)[0]
    target = linear.left + np.sum(slopes * (natural[0] - centre)[subject], axis=1)  # without effects
    omega, sd, tails = _spreads(problem, theta), linear.phi[:groups].copy(), _tails(problem)
    free = np.array([f"omega_{name}" in theta for name in names])
    growth = data.noise.growth  # whose hyperparameters stay as they are
    unknown = np.array([key in theta and g not in growth for g, key in enumerate(data.noise.keys[:groups])])
    variances, least = omega**2 / tails, LEAST**2 * np.concatenate([omega**2, sd**2])
    measured = np.unique(subject)
    rows = np.maximum(np.bincount(cells.row_group, minlength=groups), 1)
    apart = (cells.z - cells.cell_mean[cells.row_cell]) ** 2 / cells.row_variance
    squares = np.bincount(cells.row_group, apart, minlength=groups)
    for _ in range(ROUNDS):
        phi = np.concatenate([sd, linear.phi[groups:]])[None]
        noise = data.noise.sds(cells.group, phi, linear.predicted[None])[0] ** 2 / cells.weight
        total = noise + linear.variance
        covariance = np.linalg.inv(_information(slopes, total, subject, J) + np.diag(1.0 / variances))
        pull = np.zeros((J, len(names)))
        np.add.at(pull, subject, slopes * (target / total)[:, None])
        mean = np.einsum("jab,jb->ja", covariance, pull)
        found = mean[measured] ** 2 + np.diagonal(covariance[measured], axis1=1, axis2=2)
        variances = np.where(free, np.maximum(found.mean(axis=0), least[: len(names)]), variances)
        left = target - np.sum(slopes * mean[subject], axis=1)
        spread = np.einsum("na,nab,nb->n", slopes, covariance[subject], slopes)
        share = noise / total
        errors = cells.weight * (share**2 * (left**2 + spread) + share * linear.variance)
        found = (squares + np.bincount(cells.group, errors, minlength=groups)) / rows
        sd = np.where(unknown, np.sqrt(np.maximum(found, least[len(names) :])), sd)
    out = dict(theta)
    out |= {f"omega_{name}": np.sqrt(variances * tails)[[i]] for i, name in enumerate(names) if free[i]}
    out |= {key: sd[[g]] for g, key in enumerate(data.noise.keys[:groups]) if unknown[g]}
    step = np.einsum("jab,sjb->sja", np.linalg.cholesky(covariance), rng.standard_normal((count, J, len(names))))
    several = {name: np.repeat(values, count) for name, values in out.items()}
    middle = standardised(problem, out, (centre + mean)[None], z)
    return out, middle, standardised(problem, several, centre + mean + step, np.repeat(z, count, axis=0))
