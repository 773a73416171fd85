"""From a table of observations to the likelihood's arrays: experiments, cells, rows (letters as in `_marginal`)."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, final

import numpy as np
from scipy import sparse
from scipy.stats import studentized_range

from uqms._teaching import spelled
from uqms._typing import Array, Bools, Ints
from uqms.calibration import _terms
from uqms.calibration.by_input import RowsByInput, placeholder, rows_by_input
from uqms.calibration.dense_gaussian import LOG_TWO_PI
from uqms.calibration.direct import is_exact
from uqms.calibration.discrepancy import NOISE, ORTHOGONAL, Discrepancies, Discrepancy, Place, Sites, Term
from uqms.calibration.noise import NoiseModel, Process, Rows
from uqms.calibration.observations import Observations
from uqms.errors import PACKAGE, ConformanceError, DataError, DataWarning, ExtrapolationError, InputError, UnitError
from uqms.parameters import Prior
from uqms.surrogates.gp import GaussianProcessSurrogate
from uqms.surrogates.outputs import InputDecoder
from uqms.surrogates.protocol import Surrogate
from uqms.surrogates.transforms import IDENTITY, Identity, Log, Transform

__all__ = [
    "Cells",
    "Errors",
    "NoiseGroups",
    "arrange",
    "check_conditions",
    "check_errors_between",
    "check_scale",
    "decoded_at",
    "dense",
    "merge_close",
    "stacked",
    "times_basis",
]

NOISE_CHANCE = 1e-3
CLOSE = 1e-9
NEAR = 1e-6  # of the unit cube
FEW_EXPERIMENTS = 32  # beyond, cells are so few by experiment that a loop over these costs more than it saves


@final
@dataclass(frozen=True, eq=False)
class NoiseGroups:
    """What is added to the surrogate's output: noise, one model an output, and discrepancy.

    All their hyperparameters stand in one vector phi: first a noise sd for each output (1 where the model has none),
    then the others.

    Attributes
    ----------
    outputs, models
        Output and noise model of each group.
    keys, settings
        Name of each hyperparameter, and its prior or known number, shape (P,).
    roles
        By group: role of the noise model -> place in phi.
    terms
        Covariances over the cells beside the surrogate's: discrepancy and autocorrelated noise.
    factors
        By group: place in phi of its scale discrepancy.
    parts
        By group: the part of a calibration of several parts that it belongs to, "" for the problem's own.
    """

    outputs: tuple[str, ...]
    models: tuple[NoiseModel, ...]
    keys: tuple[str, ...]
    settings: tuple[Prior | float, ...]
    roles: tuple[Mapping[str, int], ...]
    terms: tuple[Term, ...] = ()
    factors: Mapping[int, int] = field(default_factory=dict)
    parts: tuple[str, ...] = ()

    @property
    def unknown(self) -> dict[str, Prior]:
        """Priors of the unknown hyperparameters by name."""
        return {key: one for key, one in zip(self.keys, self.settings, strict=True) if isinstance(one, Prior)}

    def group_of(self, output: str) -> int:
        """Return the problem's own group of an output, -1 where it was not observed."""
        return next((g for g in np.flatnonzero(self.own).tolist() if self.outputs[g] == output), -1)

    @property
    def own(self) -> Bools:
        """Which groups (g,) are the problem's own, and not those of other parts."""
        return np.array([not part for part in self.parts or [""] * len(self.outputs)])

    @property
    def has_discrepancy(self) -> bool:
        """Whether any output has a discrepancy."""
        return bool(self.factors) or any(term.role != NOISE for term in self.terms)

    @property
    def modelled(self) -> bool:
        """Whether one of the problem's own outputs has a discrepancy."""
        groups = [*(term.group for term in self.terms if term.role != NOISE), *self.factors]
        return bool(self.own[groups].any()) if groups else False

    @property
    def own_outputs(self) -> tuple[str, ...]:
        """Outputs that the problem itself observed, without those of other parts."""
        return tuple(self.outputs[g] for g in np.flatnonzero(self.own))

    @property
    def growth(self) -> dict[int, tuple[int, int]]:
        """By group whose noise grows with the output: places in phi of factor and power of its standard deviation."""
        found = {}
        for g, (model, roles) in enumerate(zip(self.models, self.roles, strict=True)):
            if model.growth is not None:
                found[g] = roles[model.growth.factor], roles[model.growth.power]
        return found

    def sds(self, group: Ints, phi: Array, outputs: Array) -> Array:
        """Return the noise's sds (S, T) at outputs (S, T) in its unit, of groups (T,), for hyperparameters (S, P).

        That of a single measurement; of noise that is known by row and of processes the factor that all rows share.
        """
        out = phi[:, group]
        for g, (factor, power) in self.growth.items():
            at = np.flatnonzero(group == g)
            grown = phi[:, factor, None] * np.abs(outputs[:, at]) ** phi[:, power, None]
            out[:, at] = np.hypot(out[:, at], grown)
        return out

    def phi(self, draws: Mapping[str, Array], shape: tuple[int, ...]) -> Array:
        """Return all hyperparameters (*shape, P) for draws of the unknown ones."""
        columns = [draws[k] if isinstance(one, Prior) else one for k, one in zip(self.keys, self.settings, strict=True)]
        return np.stack([np.broadcast_to(np.asarray(c, dtype=np.float64), shape) for c in columns], axis=-1)

    def values(self, draws: Mapping[str, Array], shape: tuple[int, ...]) -> Array:
        """Return the noise sds (*shape, groups) for draws of the unknown hyperparameters."""
        return self.phi(draws, shape)[..., : len(self.outputs)]

    def scales(self, group: Ints, phi: Array) -> Array:
        """Return 1 + the scale discrepancy (S, T) of points of noise groups (T,), for hyperparameters (S, P)."""
        out = np.ones((len(phi), len(group)))
        for g, place in self.factors.items():
            out[:, group == g] += phi[:, place, None]
        return out

    def named(self, phi: Array) -> dict[str, Array]:
        """Return the columns of phi (..., P) by name."""
        return {key: phi[..., i] for i, key in enumerate(self.keys)}

    def unit_of(self, name: str) -> str:
        """Return the output in whose unit a hyperparameter is, "" for those that have none."""
        for output, model, roles in zip(self.outputs, self.models, self.roles, strict=True):
            if any(self.keys[at] == name for role, at in roles.items() if role in model.scaled):
                return output
        return next((term.output for term in self.terms if term.amplitude == name), "")


@final
@dataclass(frozen=True, eq=False)
class Cells:
    """Observations arranged for the likelihood.

    Where rows of the surrogate depend on the input, `by_input` has them, and their offset, basis and truncation here
    are NaN.
    """

    z: Array  # (R,), on the scale of `links`
    row_cell: Ints  # (R,)
    row_variance: Array  # (R,), relative to sigma²
    experiment: Ints  # (N,), sorted
    conditions: Array  # (K, conditions), own units
    output: np.ndarray  # (N,)
    coords: Mapping[str, Array]  # (N,)
    group: Ints  # (N,)
    offset: Array  # (N,)
    basis: Any  # (N, q), sparse where the scores are the simulator's own outputs
    truncation: Array  # (N, t), all latents
    side: Ints  # (R,), 1 below a detection limit, -1 above one, 0 measured
    limit: Array  # (R,), own units; NaN where there is none
    trials: Array  # (R,)
    links: tuple[Transform, ...]  # by group: measured values and the latent output are both on this scale
    responses: tuple[Transform, ...]  # by group: its inverse turns the latent output into what noise is added to
    run: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # (N,) of a stochastic simulator's, by input
    conditions_sd: Array = field(default_factory=lambda: np.zeros((0, 0)))  # (K, conditions), 0: known exactly
    unit: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # (K,) of a population: whose parameters
    by_input: RowsByInput | None = None

    @property
    def experiments(self) -> int:
        """Number of different surrogate inputs K."""
        return len(self.conditions)

    @property
    def weight(self) -> Array:
        """Sum of 1 / row_variance of every cell, shape (N,)."""
        return np.bincount(self.row_cell, 1.0 / self.row_variance, minlength=len(self.offset))

    @property
    def cell_mean(self) -> Array:
        """Weighted mean of each cell's replicates, shape (N,)."""
        return np.bincount(self.row_cell, self.z / self.row_variance, minlength=len(self.offset)) / self.weight

    def log_density_within(self, sd: Array) -> Array:
        """Return the log-density (S, N) that each cell's rows add to that of their mean, for sds (S, N).

        Noise is normal. It is on the scale of `z`, without the Jacobian.
        """
        n, s2 = len(self.offset), sd**2
        squares = np.bincount(self.row_cell, (self.z - self.cell_mean[self.row_cell]) ** 2 / self.row_variance, n)
        logs = np.log(self.weight) + np.bincount(self.row_cell, np.log(self.row_variance), n)
        others = np.bincount(self.row_cell, minlength=n) - 1
        return np.asarray(-0.5 * (logs + others * (LOG_TWO_PI + np.log(s2)) + squares / s2))

    @property
    def transformed(self) -> bool:
        """Whether noise is added to another scale than that of the surrogate, for some output."""
        return any(not isinstance(one, Identity) for one in self.responses)

    def responded(self, y: Array, group: Ints | None = None) -> tuple[Array, Array]:
        """Return latent outputs y (..., T) in the unit that noise is added in, and the slope of one by the other.

        This is the expansion to first order that the closed form uses of outputs whose surrogate models their logarithm
        or logit. `group` (T,) is that of the cells unless it is given; the response of -1 is the identity.
        """
        group = self.group if group is None else group
        value, slope = np.array(y, dtype=np.float64), np.ones(np.shape(y))
        for g, one in enumerate(self.responses):
            if not isinstance(one, Identity):
                at = np.flatnonzero(group == g)
                value[..., at], slope[..., at] = one.inverse(y[..., at]), one.inverse_slope(y[..., at])
        return value, slope

    @property
    def row_group(self) -> Ints:
        """Group of each row, shape (R,)."""
        return self.group[self.row_cell]

    @cached_property
    def used(self) -> Ints:
        """Scores that some cell depends on; those of outputs that were not observed cost time and change nothing."""
        basis = self.basis
        columns = np.unique(basis.indices) if is_sparse(basis) else np.flatnonzero(basis.any(axis=0))
        return np.asarray(columns, dtype=np.int64) if len(columns) else np.zeros(1, dtype=np.int64)

    @property
    def used_basis(self) -> Array:
        """Basis (N, used) of the used scores as a dense matrix."""
        return dense(self.basis[:, self.used])

    def at(self, values: Array) -> Array:
        """Return the basis times values (..., K, q) of the scores at each cell's experiment, shape (..., N)."""
        return times_basis(self.basis, self.experiment, values)

    @cached_property
    def factors(self) -> tuple[Array, ...]:
        """Truncation factor (cells, t) of each experiment, with no more columns than needed."""
        starts = np.searchsorted(self.experiment, np.arange(self.experiments + 1))
        return tuple(compress(self.truncation[a:b]) for a, b in zip(starts[:-1], starts[1:], strict=True))

    @property
    def jacobian(self) -> Array:
        """Log-density of the measured values in their own units minus that of z, by row, shape (R,)."""
        return np.sum(self._by_group(self.z, lambda link, z: link.log_slope(link.inverse(z))), axis=0)

    def own(self, z: Array) -> Array:
        """Return values (..., R) in the data's own units."""
        return np.sum(self._by_group(z, lambda link, values: link.inverse(values)), axis=0)

    def linked(self, values: Array) -> Array:
        """Return values (..., R) of own units on the scale of z."""
        return np.sum(self._by_group(values, lambda link, own: link.forward(own)), axis=0)

    def spread(self, g: int, model: NoiseModel) -> float:
        """Return the standard deviation of a group's measured values on the surrogate's scale; 0 of fewer than two."""
        response = self.responses[g]
        measured = model.as_outputs(self.rows(g))[self.side[self.row_group == g] == 0]
        known = measured[~response.outside(measured)]  # a count of 0 has no logarithm
        return float(np.std(response.forward(known))) if len(known) > 1 else 0.0

    def _by_group(self, values: Array, function: Callable[[Transform, Array], Array]) -> Array:
        rows = self.row_group
        out = np.zeros((len(self.links), *np.shape(values)))
        for g, link in enumerate(self.links):
            out[g][..., rows == g] = function(link, values[..., rows == g])
        return out

    def rows(self, g: int) -> Rows:
        """Return what is known of the measured rows of a group."""
        at = self.row_group == g
        return Rows(self.z[at], np.sqrt(self.row_variance[at]), self.trials[at])

    def sites(self, group: int, condition_names: tuple[str, ...]) -> tuple[Ints, Sites]:
        """Return the cells of a noise group, and where they are."""
        at = np.flatnonzero(self.group == group)
        columns = {dim: column[at] for dim, column in self.coords.items() if not np.isnan(column[at]).all()}
        conditions = self.conditions[self.experiment[at]]
        columns |= {name: conditions[:, i] for i, name in enumerate(condition_names)}
        return at, Sites(columns, self.experiment[at], self.row_of[at], condition_names)

    @cached_property
    def row_of(self) -> Ints:
        """The row (N,) of each cell that has one row, -1 for those of several."""
        rows, single = np.full(len(self.offset), -1), np.bincount(self.row_cell, minlength=len(self.offset)) == 1
        of_single = np.flatnonzero(single[self.row_cell])
        rows[self.row_cell[of_single]] = of_single
        return rows

    @cached_property
    def projected(self) -> "Cells":
        """Fewer cells, of weight 1, that say as much of scores and truncation under independent noise.

        They are sums of the cells of one experiment and noise group, whose weights span those of basis and truncation.
        They have no place: coordinates are NaN.
        """
        root, basis = np.sqrt(self.weight), self.used_basis
        frames: list[tuple[Ints, Array]] = []
        for k in range(self.experiments):
            for g in np.unique(self.group[self.experiment == k]):
                rows = np.flatnonzero((self.experiment == k) & (self.group == g))
                whole = root[rows, None] * np.hstack(
                    [basis[rows], self.factors[k][self.group[self.experiment == k] == g]]
                )
                few = len(rows) > 2 * whole.shape[1]
                frames.append((rows, np.linalg.qr(whole)[0] if few else np.eye(len(rows))))

        def of(values: Array) -> Array:
            return np.concatenate([frame.T @ (root[rows, None] * values[rows]) for rows, frame in frames])

        first = np.repeat([rows[0] for rows, _ in frames], [frame.shape[1] for _, frame in frames])
        basis, size = np.zeros((len(first), self.basis.shape[1])), len(first)
        basis[:, self.used] = of(self.used_basis)
        values = of(np.column_stack([self.offset, self.cell_mean]))
        return replace(
            self,
            z=values[:, 1],
            row_cell=np.arange(size),
            row_variance=np.ones(size),
            experiment=self.experiment[first],
            output=self.output[first],
            coords={dim: np.full(size, np.nan) for dim in self.coords},
            group=self.group[first],
            offset=values[:, 0],
            basis=basis,
            truncation=of(self.truncation),
            side=np.zeros(size, dtype=np.int64),
            limit=np.full(size, np.nan),
            trials=np.zeros(size),
            run=np.zeros(size, dtype=np.int64),
        )

    @property
    def compressed(self) -> Array:
        """Truncation factor (N, t) with no more columns than one experiment needs, or all where rows depend on it."""
        if self.by_input is not None:
            return self.truncation
        width = max(f.shape[1] for f in self.factors)
        return np.concatenate([np.pad(f, ((0, 0), (0, width - f.shape[1]))) for f in self.factors])

    def structure(self, noise: NoiseGroups, condition_names: tuple[str, ...], columns: Ints, own: int = 0) -> Array:
        """Return the block of numbers that `_latent_outputs` reads, with the used scores only.

        `columns` are the parameters' places among the inputs, which orthogonal discrepancies need; `own` is how many
        columns the noise of a stochastic simulator's run has.
        """
        basis, truncation, n = self.used_basis, self.compressed, len(self.offset)
        factor = np.array([noise.factors.get(int(g), -1) for g in self.group])
        wanted = columns if any(term.role == ORTHOGONAL for term in noise.terms) else np.zeros(0, dtype=np.int64)
        header = [
            self.experiments,
            basis.shape[1],
            n,
            len(self.z),
            truncation.shape[1],
            len(noise.terms),
            len(wanted),
            own,
        ]
        parts: list[Any] = [header, self.experiment, self.group, factor, self.offset, basis.ravel(), truncation.ravel()]
        parts += [wanted, self.row_cell, self.row_variance]
        index = {key: i for i, key in enumerate(noise.keys)}
        for term in noise.terms:
            at, sites = self.sites(term.group, condition_names)
            place = term.place(sites)
            ids, points = np.full(n, -1.0), np.zeros((n, place.points.shape[1]))
            extra = np.zeros((n, place.basis.shape[1]))
            ids[at], points[at], extra[at] = place.ids, place.points, place.basis
            parts.append([term.family, points.shape[1], extra.shape[1], index[term.amplitude], term.role])
            parts += [[index[name] for name in term.lengths], ids, points.ravel(), extra.ravel()]
        return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])


def is_sparse(matrix: Any) -> bool:
    """Return whether a matrix is a sparse one of SciPy."""
    return bool(sparse.issparse(matrix))


def dense(matrix: Any) -> Array:
    """Return a matrix that may be sparse as an array."""
    return np.asarray(matrix.toarray() if is_sparse(matrix) else matrix)


def times_basis(basis: Any, experiment: Ints, values: Array) -> Array:
    """Return rows (N, q) of a basis, dense or sparse, times values (..., K, q) of each one's experiment: (..., N)."""
    *lead, inputs, q = values.shape
    if is_sparse(basis):
        entries = basis.tocoo()
        row, column = entries.coords
        column = experiment[row] * q + column
        if len(row) == basis.shape[0] and (entries.data == 1.0).all() and (row == np.arange(len(row))).all():
            return np.asarray(values.reshape(*lead, inputs * q)[..., column])  # each is one of the values
        whole = sparse.csr_array((entries.data, (row, column)), shape=(basis.shape[0], inputs * q))
        return np.asarray((whole @ values.reshape(-1, inputs * q).T).T.reshape(*lead, basis.shape[0]))
    if len(present := np.unique(experiment)) > FEW_EXPERIMENTS:
        return np.asarray(np.einsum("...nq,nq->...n", values[..., experiment, :], basis))
    out = np.empty((*lead, len(basis)))
    for k in present:  # a product of matrices takes no room for a copy of the values at every cell
        rows = np.flatnonzero(experiment == k)
        out[..., rows] = values[..., k, :] @ basis[rows].T
    return out


@final
@dataclass(frozen=True, eq=False)
class Errors:
    """The errors x of which a surrogate's outputs at some points are made: scores by input, each input's truncation.

    Attributes
    ----------
    design
        From x to the points, shape (T, r).
    used
        Scores that have errors.
    inputs
        How many inputs there are.
    """

    design: Array
    used: Ints
    inputs: int

    @classmethod
    def of(cls, basis: Any, truncation: Array, index: Ints, inputs: int, used: Ints) -> "Errors":
        """Return those of points (T,) with the given rows of basis and truncation, at one of the inputs each."""
        scores = np.zeros((len(index), inputs, len(used)))
        if len(used):
            scores[np.arange(len(index)), index] = dense(basis[:, used])
        # Truncation has columns of its own for each input; of an input with one point that is one number.
        alone = np.bincount(index, minlength=inputs)[index] == 1
        norm = np.where(alone, np.sqrt(np.sum(truncation**2, axis=1)), 0.0)
        parts = {int(k): compress(truncation[index == k]) for k in np.unique(index[~alone])}
        single, sizes = np.flatnonzero(norm), np.zeros(inputs, dtype=np.int64)
        sizes[index[single]] = 1
        sizes[list(parts)] = [part.shape[1] for part in parts.values()]
        starts = np.cumsum(sizes) - sizes
        left_out = np.zeros((len(index), int(sizes.sum())))
        left_out[single, starts[index[single]]] = norm[single]
        for k, part in parts.items():
            left_out[index == k, starts[k] : starts[k] + sizes[k]] = part
        return cls(np.hstack([scores.reshape(len(index), -1), left_out]), used, inputs)

    @property
    def size(self) -> int:
        """Number of errors r."""
        return int(self.design.shape[1])

    def root(self, covariances: Array) -> Array:
        """Return a root (S, r, r) of the covariance of x for those of the scores (S, q, K, K), or (S, K, q, K, q)."""
        count, k, q = len(covariances), self.inputs, len(self.used)
        if covariances.ndim == 5:
            out = np.tile(np.eye(self.size), (count, 1, 1))
            whole = covariances[:, :, self.used][..., self.used].reshape(count, k * q, k * q)
            values, vectors = np.linalg.eigh(whole)
            out[:, : k * q, : k * q] = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
            return out
        out = np.tile(np.eye(self.size), (count, 1, 1))
        if q:
            values, vectors = np.linalg.eigh(covariances[:, self.used])
            spread = np.zeros((count, k, q, k, q))
            for j, each in enumerate((vectors * np.sqrt(np.maximum(values, 0.0))[..., None, :]).swapaxes(0, 1)):
                spread[:, :, j, :, j] = each
            out[:, : k * q, : k * q] = spread.reshape(count, k * q, k * q)
        return out


def compress(factor: Array) -> Array:
    """Return E with E E' = factor factor' and no more columns than needed."""
    if not factor.any():
        return np.zeros((len(factor), 0))
    return factor @ right_factor(factor)


def right_factor(factor: Array) -> Array:
    """Return V (t, columns) with factor V = `compress(factor)`: its right singular vectors, signs by a fixed rule.

    The sign of a singular vector differs between machines, and with it the meaning of a latent number.
    """
    if factor.size == 0:
        return np.zeros((factor.shape[1], 0))
    left, singular, right = np.linalg.svd(factor, full_matrices=False)
    keep = singular > 1e-10 * max(float(singular[0]), 1e-300)
    return np.asarray(right[keep].T * _signs(left[:, keep]))


def _signs(vectors: Array) -> Array:
    """Return the sign of the first entry of each column (n, c) that is at least half as large as its largest."""
    sizes = np.abs(vectors)
    first = np.argmax(sizes >= 0.5 * sizes.max(axis=0), axis=0)
    return np.sign(vectors[first, np.arange(vectors.shape[1])])


def arrange(
    surrogate: Surrogate,
    observations: Observations,
    noise: NoiseModel | Mapping[str, NoiseModel],
    condition_names: tuple[str, ...],
    runs: Ints | None = None,
    units: Ints | None = None,
) -> tuple[Cells, NoiseGroups]:
    """Match observations to the surrogate's outputs, coordinates and conditions.

    `runs` (R,) says which run of a stochastic simulator each row was measured in, `units` (R,) whose parameters it has,
    where there are several: a subject's, on one occasion.

    Raises
    ------
    InputError
        Unknown outputs or conditions, conditions that are missing, several subjects, noise that does not fit.
    ExtrapolationError
        Coordinates or conditions outside of what was simulated.
    UnitError
        When the unit of an observation is not that of the output.
    """
    _check_names(surrogate, observations, condition_names)
    if units is None:
        _check_one_subject(observations)
    keys = np.column_stack([observations.conditions[name] for name in condition_names] or [np.zeros(len(observations))])
    if condition_names:
        keys = merge_close(surrogate, condition_names, keys)
    groups, row_variance = _noise(observations, noise, dict(zip(condition_names, keys.T, strict=False)))
    sds = _condition_errors(observations, condition_names)
    # Where the measured value has an error, two experiments of the same measured value have different true ones.
    label = np.where((sds > 0.0).any(axis=1), np.unique(observations.experiment, return_inverse=True)[1] + 1.0, 0.0)
    unit = np.zeros(len(observations)) if units is None else units
    conditions, start, row_experiment = np.unique(
        np.column_stack([keys, label, unit]), axis=0, return_index=True, return_inverse=True
    )
    conditions, conditions_sd, unit = conditions[:, : len(condition_names)], sds[start], conditions[:, -1]
    _check_one_error(condition_names, sds, conditions_sd[row_experiment.reshape(-1)])
    check_conditions(surrogate, condition_names, conditions)
    dims = tuple(observations.coords)
    outputs = list(surrogate.layouts)
    row_output = np.array([outputs.index(str(name)) for name in observations.output])
    columns = [row_experiment.reshape(-1), row_output, *(np.nan_to_num(observations.coords[dim]) for dim in dims)]
    if any(term.role == NOISE for term in groups.terms):
        columns.append(np.arange(len(observations)))  # replicates of correlated noise do not collapse to their mean
    elif groups.growth:  # nor do those whose noise depends on the output
        alone = np.isin(observations.output, [groups.outputs[g] for g in groups.growth])
        columns.append(np.where(alone, np.arange(len(observations)), 0))
    if runs is not None:
        columns.append(runs)
    place = np.column_stack([np.asarray(column, dtype=np.float64) for column in columns])
    unique, first, row_cell = np.unique(place, axis=0, return_index=True, return_inverse=True)
    output = np.array([outputs[int(i)] for i in unique[:, 1]])
    coords = {dim: observations.coords[dim][first] for dim in dims}
    offset, basis, truncation = _decode(surrogate, output, coords, as_sparse=units is None)
    links, responses = zip(
        *(_scales(surrogate, *pair) for pair in zip(groups.outputs, groups.models, strict=True)), strict=True
    )
    side, limit = _limits(observations, groups)
    experiment = unique[:, 0].astype(np.int64)
    cells = Cells(
        z=np.asarray(observations.value, dtype=np.float64),
        row_cell=row_cell.reshape(-1).astype(np.int64),
        row_variance=row_variance,
        experiment=experiment,
        conditions=conditions,
        output=output,
        coords=coords,
        group=np.array([groups.outputs.index(str(name)) for name in output], dtype=np.int64),
        offset=offset,
        basis=basis,
        truncation=truncation,
        side=side,
        limit=limit,
        trials=_trials(observations),
        links=links,
        responses=responses,
        run=np.zeros(len(unique), dtype=np.int64) if runs is None else ranked(unique[:, 0], runs[first]),
        conditions_sd=conditions_sd,
        unit=unit.astype(np.int64),
        by_input=rows_by_input(surrogate, output, coords, experiment),
    )
    return replace(cells, z=cells.linked(cells.z)), groups


def _condition_errors(observations: Observations, condition_names: tuple[str, ...]) -> Array:
    """Return the sd (R, conditions) of each condition's error, 0 where it is known exactly."""
    exact = np.zeros(len(observations))
    columns = [observations.conditions_sd.get(name, exact) for name in condition_names]
    return np.column_stack(columns) if columns else np.zeros((len(observations), 0))


def _check_one_error(condition_names: tuple[str, ...], sds: Array, of_experiment: Array) -> None:
    """Refuse an experiment whose condition has two different errors."""
    for column, name in enumerate(condition_names):
        wrong = np.flatnonzero(sds[:, column] != of_experiment[:, column])
        if len(wrong):
            raise InputError(
                f"conditions_sd: condition {name!r} has the sds {of_experiment[wrong[0], column]:g} and "
                f"{sds[wrong[0], column]:g} in one experiment, which has one true value. Give one, or name the "
                "experiments, experiment=column."
            )


def ranked(group: Array, labels: Ints) -> Ints:
    """Return the place (N,) of each label among those of its group."""
    out = np.zeros(len(labels), dtype=np.int64)
    for one in np.unique(group):
        out[group == one] = np.unique(labels[group == one], return_inverse=True)[1].reshape(-1)
    return out


def _scales(surrogate: Surrogate, output: str, model: NoiseModel) -> tuple[Transform, Transform]:
    """Return the link of measured values and the response of the latent output: noise is on one scale or the other.

    Raises
    ------
    InputError
        For log-normal noise of an output whose surrogate is not of the logarithm.
    """
    transform = surrogate.layouts[output].transform
    if model.link == "identity":
        return IDENTITY, transform
    if transform != Log():
        raise InputError(
            f"{type(model).__name__} of {output!r}: its surrogate is not one of the logarithm, so the output may be "
            f"negative. Fit it with GaussianProcess(outputs={{{output!r}: Curve(transform=Log())}}), or Scalar for a "
            "number."
        )
    return transform, IDENTITY


def _limits(observations: Observations, noise: NoiseGroups) -> tuple[Ints, Array]:
    """Return on which side of its limit each row is, and the limits.

    Raises
    ------
    InputError
        For censored rows of an output whose noise model cannot say the probability of a tail.
    """
    side, limit = np.zeros(len(observations), dtype=np.int64), np.full(len(observations), np.nan)
    if observations.censored is None:
        return side, limit
    side[observations.censored == "left"], side[observations.censored == "right"] = 1, -1
    limit[side != 0] = observations.value[side != 0]
    for output, model in zip(noise.outputs, noise.models, strict=True):
        if side[observations.output == output].any() and not hasattr(model, "log_tail"):
            raise InputError(
                f"Observations of {output!r} are censored, which {type(model).__name__} cannot compute the "
                "probability of. Use GaussianNoise, CombinedNoise, LogNormalNoise or AutocorrelatedNoise, or give your "
                "own model `log_tail`."
            )
    return side, limit


def _decode(
    surrogate: Surrogate, output: np.ndarray, coords: Mapping[str, Array], as_sparse: bool
) -> tuple[Array, Any, Array]:
    """Return offset, basis and truncation of every cell; a sparse basis where the surrogate has one and may give it."""
    parts: list[tuple[Ints, Array, Any, Array]] = []
    for name in dict.fromkeys(str(one) for one in output):
        rows = np.flatnonzero(output == name)
        dims = surrogate.layouts[name].dims
        at = {dim: coords[dim][rows] for dim in dims} if dims else None
        offset, basis, truncation = decoded_at(surrogate, name, at, as_sparse)
        if not dims:
            same = np.zeros(len(rows), dtype=np.int64)
            offset, basis, truncation = offset[same], basis[same], truncation[same]
        parts.append((rows, offset, basis, truncation))
    order = np.argsort(np.concatenate([rows for rows, *_ in parts]))
    offsets, bases, truncations = ([part[i] for part in parts] for i in (1, 2, 3))
    return np.concatenate(offsets)[order], stacked(bases)[order], np.concatenate(truncations)[order]


def decoded_at(
    surrogate: Surrogate, output: str, coords: Mapping[str, Array] | None, as_sparse: bool = True
) -> tuple[Array, Any, Array]:
    """Return offset, basis and truncation of an output, the basis sparse where the surrogate offers that.

    They are NaN where they depend on the input.
    """
    own = getattr(surrogate, "sparse_decode", None) if as_sparse else None
    decoder = surrogate.decode(output, coords) if own is None else own(output, coords)
    offset, basis, truncation = (
        placeholder(decoder, surrogate.domain.d) if isinstance(decoder, InputDecoder) else decoder
    )
    return offset, basis, truncation


def stacked(bases: Sequence[Any]) -> Any:
    """Return rows of bases below each other, sparse where one of them is."""
    if any(is_sparse(basis) for basis in bases):
        return sparse.csr_array(sparse.vstack([sparse.csr_array(basis) for basis in bases]))
    return np.concatenate(bases)


def check_scale(surrogate: Surrogate, output: str, asked: str) -> None:
    """Refuse an output whose error is not normal in its own unit.

    Raises
    ------
    InputError
        When the output has a transform.
    """
    transform = surrogate.layouts[output].transform
    if not isinstance(transform, Identity):
        raise InputError(
            f"{asked}: the surrogate of {output!r} has the transform {transform}, so its error is normal on that scale "
            "and noise on the output's own: their sum has no closed form. Let the simulator return the "
            f"{transform.name} of {output!r} as an output of its own, fit that without a transform, and observe it: "
            f"convert the measurements, and give the noise of their {transform.name}. Or sample the error: "
            "latent_output gives the output in its own unit."
        )


def _check_names(surrogate: Surrogate, observations: Observations, condition_names: tuple[str, ...]) -> None:
    layouts = surrogate.layouts
    unknown = [name for name in observations.outputs if name not in layouts]
    if unknown:
        raise InputError(
            f"Observations of {unknown}, but the surrogate has outputs {list(layouts)}. Rename one of them."
        )
    for name in observations.outputs:
        rows = observations.output == name
        given = {dim for dim, column in observations.coords.items() if not np.isnan(column[rows]).all()}
        wanted = set(layouts[name].dims)
        if given - wanted == {"regimen"}:
            raise InputError(
                f"Observations of {name!r} have regimens, the surrogate's output has {sorted(wanted)}. If it is the "
                "response to a unit dose: uq.Superposition(surrogate, observations.regimens). If it has the dose as a "
                "condition: observations.with_regimen_conditions()."
            )
        if given != wanted:
            raise InputError(
                f"Observations of {name!r} have coordinates {sorted(given)}, the surrogate's output has "
                f"{sorted(wanted)}. Name them alike: Observations.from_table(..., coords={{dim: column}})."
            )
        for dim in wanted:
            if np.isnan(observations.coords[dim][rows]).any():
                raise DataError(f"Observations of {name!r}: a row has no {dim!r}; every row needs its coordinate.")
        unit, theirs = observations.units.get(name, ""), layouts[name].unit
        if unit and theirs and unit != theirs:
            raise UnitError(
                f"Observations of {name!r} are in {unit!r}, the simulator's output in {theirs!r}. Convert them."
            )
    extra = sorted(set(observations.conditions) - set(condition_names))
    missing = sorted(set(condition_names) - set(observations.conditions))
    if extra or missing:
        raise InputError(
            f"The surrogate has the conditions {list(condition_names)}; the observations lack {missing} and have "
            f"{extra} beside. Give every condition a column: Observations.from_table(..., conditions={{name: column}})."
        )


def _check_one_subject(observations: Observations) -> None:
    subjects = sorted(set(str(one) for one in observations.subject))
    if len(subjects) > 1:
        raise InputError(
            f"Observations of {len(subjects)} subjects ({', '.join(subjects[:4])}, …), but a Calibration has one set "
            "of parameters. Calibrate all of them, Calibration(..., population=uq.Population(...)), or one at a time."
        )


def merge_close(surrogate: Surrogate, names: tuple[str, ...], values: Array) -> Array:
    """Return conditions (n, c) in which values within 1e-9 of the box's width are one: the first of them.

    0.3 and 0.1 + 0.2 are the same input of the simulator, so what is measured there shares one error.
    """
    out = np.array(values, dtype=np.float64)
    box = surrogate.domain
    for column, name in enumerate(names):
        index = box.names.index(name)
        order = np.argsort(out[:, column], kind="stable")
        apart = np.diff(out[order, column]) > CLOSE * (box.upper[index] - box.lower[index])
        group = np.empty(len(out), dtype=np.int64)
        group[order] = np.concatenate([[0], np.cumsum(apart)])
        first = np.unique(group, return_index=True)[1]
        out[:, column] = out[first[group], column]
    return out


def check_conditions(surrogate: Surrogate, names: tuple[str, ...], conditions: Array) -> None:
    """Raise ExtrapolationError when a known condition lies outside of what was simulated."""
    box = surrogate.domain
    for name, values in zip(names, conditions.T, strict=True):
        inside = box.select((name,)).contains(values[:, None])
        if not np.all(inside):
            index = box.names.index(name)
            raise ExtrapolationError(
                f"Condition {name!r} = {values[~inside][0]:g} is outside of the simulated range "
                f"[{box.lower[index]:g}, {box.upper[index]:g}]. Simulate a wider range, or leave that experiment out."
            )


def check_errors_between(surrogate: Surrogate, u: Array, used: Ints, asked: str) -> None:
    """Refuse a surrogate of the user's own that says nothing right of errors at several inputs `u` (s, k, d).

    Either it says that it does not know (NaN), or errors are exactly uncorrelated at inputs next to each other, which
    those of no continuous function are: right surrogates of any length scale pass.

    Raises
    ------
    ConformanceError
        With what is missing.
    """
    sampled = bool(getattr(surrogate, "errors", ()))  # a chain given the errors of its links, which are inputs
    if isinstance(surrogate, GaussianProcessSurrogate) or is_exact(surrogate) or sampled:
        return
    if not surrogate.scores(u[:, :1]).by_score[..., used, :, :].any():
        warnings.warn(
            f"The {type(surrogate).__name__} reports that it has no errors at all. Unless it is exact, intervals leave "
            "out its own error and are too narrow: return the covariance of its errors from `scores`.",
            DataWarning,
            skip_file_prefixes=PACKAGE,
        )
    if u.shape[1] < 2:
        return
    first = u[:, 0]
    near = first + np.where(first > 0.5, -NEAR, NEAR)
    covariance = surrogate.scores(np.stack([first, near, first, u[:, 1]], axis=1)).by_score[..., used, :, :]
    what = ""
    if np.isnan(covariance).any():
        what = "does not know the covariance of its errors between different inputs (NaN)"
    variance = np.diagonal(covariance, axis1=-2, axis2=-1)
    for other, where in ((1, "inputs next to each other"), (2, "one and the same input")):
        positive = (variance[..., 0] > 0.0) & (variance[..., other] > 0.0)
        none = (positive & (covariance[..., 0, other] == 0.0)).sum(axis=(0, 1)) == positive.sum(axis=(0, 1))
        if (none & positive.any(axis=(0, 1))).any():
            what = f"reports that its errors at {where} are independent, which errors of one function never are"
    if what:
        raise ConformanceError(
            f"{asked} takes the surrogate's joint error at several inputs, but the {type(surrogate).__name__} {what}. "
            "Independent errors would average out over experiments, and intervals be far too narrow. Return the "
            "covariance between inputs from `scores` (uqms.testing.check_surrogate lists what is missing), or use one "
            "input at a time."
        )


def _check_noise(name: str, model: object) -> None:
    """Raise unless `model` is a noise model."""
    if isinstance(model, float | Prior) or type(model) is int:
        raise InputError(
            f"noise of {name!r} is {model!r}; state of which distribution it is the standard deviation: "
            f"uq.GaussianNoise(sd={model!r})."
        )
    if isinstance(model, type) and issubclass(model, NoiseModel):
        raise InputError(
            f"noise of {name!r} is the class {model.__name__}; give an instance of it, {spelled(model)}(...)."
        )
    if not isinstance(model, NoiseModel):
        raise InputError(
            f"noise of {name!r} is {model!r}; give a noise model, e.g. GaussianNoise(sd=...), or an instance of a "
            "subclass of uqms.calibration.NoiseModel."
        )


def _noise(
    observations: Observations, noise: NoiseModel | Mapping[str, NoiseModel], conditions: Mapping[str, Array]
) -> tuple[NoiseGroups, Array]:
    outputs = observations.outputs
    by_output = dict(noise) if isinstance(noise, Mapping) else dict.fromkeys(outputs, noise)
    for name, model in by_output.items():
        _check_noise(name, model)
    if set(by_output) != set(outputs):
        raise InputError(f"noise is given for {sorted(by_output)}, but the observed outputs are {list(outputs)}.")
    if isinstance(noise, NoiseModel) and noise.scaled and len(outputs) > 1:
        raise InputError(
            f"One noise sd for the outputs {list(outputs)}: they have their own scales. Give one each: "
            "noise={" + ", ".join(f"{name!r}: {type(noise).__name__}(...)" for name in outputs) + "}."
        )
    variance = np.ones(len(observations))
    first: list[tuple[str, Prior | float]] = []
    others: list[tuple[str, Prior | float]] = []
    roles: list[dict[str, int]] = []
    terms: list[Term] = []
    for g, output in enumerate(outputs):
        model = by_output[output]
        suffix = "" if len(outputs) == 1 else f"_{output}"
        rows = observations.output == output
        if "sd" in model.columns:
            if np.isnan(observations.sd[rows]).any():
                raise InputError(
                    f"Noise of {output!r}: rows without a known sd. Name the column, from_table(..., sd=column), or "
                    "give GaussianNoise a number or a prior."
                )
            variance[rows] = observations.sd[rows] ** 2
        elif not np.isnan(observations.sd[rows]).all():
            raise InputError(
                f"Noise of {output!r}: the observations carry known sds, which {type(model).__name__}(...) does not "
                "read. Use GaussianNoise() for the known ones, or leave the sd column out."
            )
        known = Rows(observations.value[rows], observations.sd[rows], _trials(observations)[rows])
        model.check(output, known)
        known_sd = model.known_sd(known)
        if known_sd is not None:
            measured = slice(None) if observations.censored is None else observations.censored[rows] == ""
            _warn_if_variance(output, known.z[measured], known_sd[measured])
        places: dict[str, int] = {}
        for role, setting in model.parameters.items():
            if role == "sigma":
                first.append((f"sigma{suffix}", setting))
                places[role] = g
            else:
                others.append((f"{role}{suffix}", setting))
                places[role] = len(outputs) + len(others) - 1
        if len(first) == g:
            first.append((f"sigma{suffix}", 1.0))
        roles.append(places)
        if model.process is not None:
            terms.append(
                replace(_autocorrelation(model, model.process, output, suffix, observations, conditions), group=g)
            )
    keys, settings = zip(*first, *others, strict=True)
    _check_keys(keys)
    models = tuple(by_output[output] for output in outputs)
    return NoiseGroups(outputs, models, keys, settings, tuple(roles), tuple(terms)), variance


def _check_keys(keys: Sequence[str]) -> None:
    """Refuse two hyperparameters of one name: an output may be called like the noise of another."""
    twice = sorted({key for key in keys if list(keys).count(key) > 1})
    if twice:
        raise InputError(f"Two hyperparameters would be called {twice}: rename the outputs, or the noise's parameters.")


def _trials(observations: Observations) -> Array:
    return np.zeros(len(observations)) if observations.trials is None else np.nan_to_num(observations.trials)


def _autocorrelation(
    model: NoiseModel,
    process: Process,
    output: str,
    suffix: str,
    observations: Observations,
    conditions: Mapping[str, Array],
) -> Term:
    """Return the process of an output: correlated within a series, that is one replicate of one experiment.

    Raises
    ------
    InputError
        When there is no coordinate to be correlated along.
    """
    rows = observations.output == output
    dims = [dim for dim, column in observations.coords.items() if not np.isnan(column[rows]).all()]
    if process.along is None and len(dims) != 1:
        raise InputError(
            f"{type(model).__name__} of {output!r}: it has the coordinates {dims}; choose one: along='time'."
        )
    along = dims[0] if process.along is None else process.along
    if along not in dims:
        raise InputError(f"{type(model).__name__} of {output!r}: along={along!r}, but it has the coordinates {dims}.")
    table = observations.table.assign(**conditions)  # those off by rounding are one experiment
    labels = table.drop(columns=["value", "sd", along, "censored", "trials"], errors="ignore")
    series = labels.fillna(0.0).groupby(list(labels.columns), sort=False).ngroup().to_numpy().astype(np.int64)
    points = observations.coords[along][:, None]

    def place(at: Sites) -> Place:
        return Place(series[at.rows], points[at.rows], np.zeros((len(at.rows), 0)))

    return Term(output, _terms.EXPONENTIAL, NOISE, f"{process.sd}{suffix}", (f"{process.length}{suffix}",), place)


def add_discrepancy(
    cells: Cells,
    noise: NoiseGroups,
    discrepancy: Discrepancies,
    condition_names: tuple[str, ...],
    scale: Mapping[str, float],
) -> NoiseGroups:
    """Return the noise with the discrepancies' terms, hyperparameters and factors.

    `scale` is that of each output's discrepancy where the user gave none.

    Raises
    ------
    InputError
        For outputs that were not observed, something that is no discrepancy, or two of a kind for one output.
    """
    by_output = dict(discrepancy) if isinstance(discrepancy, Mapping) else dict.fromkeys(noise.outputs, discrepancy)
    unknown = sorted(set(by_output) - set(noise.outputs))
    if unknown:
        raise InputError(f"discrepancy is given for {unknown}, but the observed outputs are {list(noise.outputs)}.")
    keys, settings, terms, factors = list(noise.keys), list(noise.settings), list(noise.terms), dict(noise.factors)
    for output, given in by_output.items():
        g = noise.group_of(output)
        several = tuple(given) if isinstance(given, Sequence) else (given,)
        suffix = "" if len(noise.outputs) == 1 else f"_{output}"
        for one in several:
            if not isinstance(one, Discrepancy):
                raise InputError(
                    f"discrepancy of {output!r} is {one!r}; give GPDiscrepancy(), OffsetDiscrepancy(), "
                    "ScaleDiscrepancy(), BasisDiscrepancy([...]), or several of them in a list."
                )
            _, sites = cells.sites(g, condition_names)
            setting = one.setting(output, suffix, sites, scale[output])
            clash = sorted(set(setting.hyperparameters) & set(keys))
            if clash:
                raise InputError(
                    f"discrepancy of {output!r}: two of the kind {type(one).__name__}. Give one of each kind."
                )
            if setting.factor:
                factors[g] = len(keys)
            keys += setting.hyperparameters
            settings += setting.hyperparameters.values()
            terms += [replace(term, group=g) for term in setting.terms]
    return replace(noise, keys=tuple(keys), settings=tuple(settings), terms=tuple(terms), factors=factors)


def _warn_if_variance(output: str, values: Array, sd: Array) -> None:
    if len(values) < 3:
        return
    size, spread = float(np.mean(sd)), float(np.ptp(values))
    if size <= spread:
        return
    # Chance that pure noise of this sd alone spreads no further; more than 50 values change nothing in the answer.
    if studentized_range(min(len(values), 50), np.inf).cdf(spread / size) < NOISE_CHANCE:
        warnings.warn(
            f"The noise sd of {output!r}, {size:g}, is larger than the whole range of its observations, {spread:g}. "
            "Was a variance given in its place?",
            DataWarning,
            skip_file_prefixes=PACKAGE,
        )
