"""What the data of each subject say given those of all others, in closed form.

==========  ===================================================================  ===========
symbol      meaning                                                              shape
==========  ===================================================================  ===========
s, N        draws; cells                                                         ()
C           covariance of the cell means given parameters                        (s, N, N)
Q, a        C^-1, and Q times (cell means - prediction)                          (s, N, N), (s, N)
==========  ===================================================================  ===========

The cells I of a subject given the others are normal with precision Q_II and residual Q_II^-1 a_I. Hyperparameter draws
of the surrogate are averaged over the whole data set: p(z_I | others) = sum_h w_h p(z | h) / sum_h w_h p(others | h).
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from uqms._typing import Array, Ints
from uqms.calibration.dense_gaussian import given_data
from uqms.calibration.density import row_terms
from uqms.calibration.predict import data_moments
from uqms.parameters.functions import NumPyFunctions

if TYPE_CHECKING:
    from uqms.calibration.population.calibration import Individuals, PopulationCalibration

__all__ = ["subject_terms"]

NUMBERS = 4_000_000


def subject_terms(
    problem: "PopulationCalibration", theta: Mapping[str, Array], z: Array, rng: np.random.Generator
) -> tuple[Array, Array, Ints]:
    """Return log p(data | draws) (S,), log p(data of a subject | others', draws) (S, measured), and h (S,)."""
    data = problem.data
    own = problem.individuals(theta, z)
    eta = z[:, problem.layout.size :]
    wall = data.wall(own)
    found = list(
        _featured(problem, own)
        if problem.lowrank
        else _latent(data, own, eta)
        if not data.data_model.closed_form
        else _normal(data, own)
    )
    joints, terms, chosen = [], [], []
    for values, without in found:
        joint = np.logaddexp.reduce(values, axis=0)
        rest = np.logaddexp.reduce(without, axis=0)  # (s, measured)
        weights = np.exp(values - joint)
        chosen.append((rng.random(weights.shape[1]) > np.cumsum(weights, axis=0)[:-1]).sum(axis=0))
        joints.append(joint)
        terms.append(joint[:, None] - rest)
    return np.concatenate(joints) + wall, np.concatenate(terms), np.concatenate(chosen)


def _featured(problem: "PopulationCalibration", own: Mapping[str, Array]) -> Iterator[tuple[Array, Array]]:
    """Yield the terms of a likelihood through features, a block of draws at a time."""
    assert problem.lowrank is not None
    data = problem.data
    count = len(next(iter(own.values())))
    fixed = data.cells.jacobian.sum()
    log_weights = problem.lowrank.error.log_weights[:, None]
    for rows in problem.lowrank.steps(count):
        now = {name: values[rows] for name, values in own.items()}
        phi = data.noise.phi(now, (len(next(iter(now.values()))),))
        values, terms = problem.lowrank.by_draw(data.unit_inputs(now), phi, data.cells.z)
        values = log_weights + values + fixed
        jacobian = np.bincount(_subject_of_cell(data)[data.cells.row_cell], data.cells.jacobian)
        yield values, values[..., None] - (terms + jacobian)


def _subject_of_cell(data: "Individuals") -> Ints:
    """Return for each cell the place of its subject among the measured ones."""
    subject = data.subjects.subject[data.cells.unit[data.cells.experiment]]
    return np.unique(subject, return_inverse=True)[1].reshape(-1)


def _latent(data: "Individuals", own: Mapping[str, Array], eta: Array) -> Iterator[tuple[Array, Array]]:
    start, of_row = 0, _subject_of_cell(data)[data.cells.row_cell]
    count = int(of_row.max()) + 1
    for y, values in data.latent_terms(own, eta):
        rows = slice(start, start := start + values.shape[1])
        phi = data.noise.phi({name: column[rows] for name, column in own.items()}, (values.shape[1],))
        terms = np.empty((*values.shape, len(data.cells.z)))
        for at, value in row_terms(data.cells, data.noise, y, phi, data.cells.z, NumPyFunctions):
            terms[..., at] = value if value.ndim == 3 else value[..., None] / len(at)
        by_subject = terms @ np.eye(count)[of_row]
        yield values, values[..., None] - by_subject


def _normal(data: "Individuals", own: Mapping[str, Array]) -> Iterator[tuple[Array, Array]]:
    cells, n = data.cells, len(data.cells.offset)
    subject = _subject_of_cell(data)
    count = int(subject.max()) + 1
    blocks = [np.flatnonzero(subject == j) for j in range(count)]
    sizes: dict[int, list[int]] = {}
    for j, block in enumerate(blocks):
        sizes.setdefault(len(block), []).append(j)
    jacobian = np.bincount(cells.row_cell, cells.jacobian, n)
    S = len(next(iter(own.values())))
    step = max(1, NUMBERS // (n * n))
    for start in range(0, S, step):
        now = {name: values[start : start + step] for name, values in own.items()}
        phi, log_weights, means, covariances = data_moments(data, now)
        values, without = [], []
        for mean, C in zip(means, covariances, strict=True):
            within = cells.log_density_within(data.noise.sds(cells.group, phi, mean)) + jacobian
            found = given_data(C, cells.cell_mean - mean, np.eye(n))
            Q, a = found.covariance, found.mean
            joint = found.log_density + within.sum(axis=1)
            own_terms = np.empty((len(mean), count))
            for members in sizes.values():
                at = np.array([blocks[j] for j in members])  # (members, size)
                alone = given_data(Q[:, at[:, :, None], at[:, None, :]], a[:, at])  # Q_II is a precision
                own_terms[:, members] = alone.log_density + alone.log_determinant + within[:, at].sum(axis=2)
            values.append(joint)
            without.append(joint[:, None] - own_terms)
        yield log_weights[:, None] + np.stack(values), log_weights[:, None, None] + np.stack(without)
