"""The data of the Gaussian likelihood: from cells and noise to the block that `_gaussian` reads.

Letters as in `_gaussian`. What does not depend on the parameters is done here once:

- rows of one cell collapse to their weighted mean and a sum of squares;
- errors of several inputs that noise of one discrepancy ties to each other become those of one input with all scores;
- where noise is independent and the surrogate's basis fixed, `reduced` turns the rows of each input into independent
  combinations of them, as few as its scores ask for: an evaluation takes the same time for 50 measurements and 10 000.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
from scipy import sparse

from uqms._typing import Array, Ints
from uqms.calibration import _gaussian, blocks
from uqms.calibration._gaussian import (
    DENSE,
    FEATURES,
    INDEPENDENT,
    LOG_TWO_PI,
    OWN,
    PRECISION,
    SERIES,
    SHARED,
    SPECTRAL,
)
from uqms.calibration._terms import EXPONENTIAL
from uqms.calibration.discrepancy import NOISE, ORTHOGONAL
from uqms.calibration.joint_error import CompiledError
from uqms.calibration.likelihood import Cells, NoiseGroups, compress, dense
from uqms.calibration.spectral import spectra
from uqms.parameters import Prior
from uqms.surrogates.outputs import Decoder

__all__ = [
    "Cotangents",
    "GaussianLikelihood",
    "cell_means",
    "cell_means_reverse",
    "process_block",
    "reduced",
]


@final
@dataclass(frozen=True, eq=False)
class GaussianLikelihood:
    """The Gaussian likelihood of given data, of the parts of a surrogate's joint error and the noise's hyperparameters.

    Attributes
    ----------
    data
        The block that compiled code reads.
    inputs, scores
        How many surrogate inputs and scores the parts are of: those of the surrogate, also where data tie inputs.
    """

    data: Array
    inputs: int
    scores: int

    @classmethod
    def of(
        cls,
        cells: Cells,
        noise: NoiseGroups,
        condition_names: tuple[str, ...] = (),
        *,
        columns: int = 0,
        runs: int = 0,
        exact: bool = False,
        varying: bool = False,
        correlated: bool = False,
        ranks: Ints | None = None,
        used: Ints | None = None,
    ) -> "GaussianLikelihood":
        """Return the likelihood of cells with their noise.

        Parameters
        ----------
        cells, noise
            Of the problem.
        condition_names
            Names of the columns of `cells.conditions`.
        columns
            How many parameters an orthogonal discrepancy is orthogonal to.
        runs
            Columns of what is new with each input beside truncation, which are then parts: what one run of a stochastic
            simulator does beside its mean, or a factor of own errors of scores that are correlated.
        exact
            The outputs themselves are the parts, without an error: those of a simulator that is used directly.
        varying
            Offset, basis and truncation depend on the input, and are parts too.
        correlated
            The errors of scores are correlated with each other, so that their covariance is a part at one input too.
        ranks
            Number of features of each score, where inputs share their errors through features; or (M,), of all scores
            together.
        used
            The scores; by default those that some cell depends on.
        """
        K, used = cells.experiments, cells.used if used is None else used
        used = used[:0] if exact else used
        q, N = len(used), len(cells.offset)
        basis, truncation = dense(cells.basis[:, used]), cells.compressed
        structure = _structure(noise)
        varying = varying or exact or runs > 0
        form = FEATURES if ranks is not None else OWN if exact or (K == 1 and not correlated) else SHARED
        terms, starts = [], np.searchsorted(cells.experiment, np.arange(K + 1))
        tied = structure == DENSE and K > 1
        if tied:
            basis, truncation = _spread(basis, cells.experiment, K), _spread(truncation, cells.experiment, K)
            starts = np.array([0, N])
        if structure == DENSE:
            terms = [_described(cells, noise, term, condition_names) for term in noise.terms]
        orthogonal = any(term.role == ORTHOGONAL for term in noise.terms)
        place, groups = _along(cells, noise, condition_names, structure), len(noise.outputs)
        t = truncation.shape[1] + runs * (K if tied else 1)
        sizes = [1 if tied else K, K * q if tied else q, N, t, groups, len(noise.keys)]
        sizes += [columns if orthogonal else 0, len(terms), form, structure, int(varying)]
        weight, count = cells.weight, np.bincount(cells.row_cell, minlength=N) - 1.0
        constant = -0.5 * (
            len(cells.z) * LOG_TWO_PI + float(np.log(cells.row_variance).sum()) + float(np.log(weight).sum())
        )
        fields = blocks.Data(
            sizes=sizes,
            constant=[constant],
            count=np.bincount(cells.group, count, minlength=groups),
            squares=_squares(cells, groups),
            starts=starts,
            value=cells.cell_mean,
            own=np.zeros(N),
            weight=weight,
            group=cells.group,
            scale=[noise.factors.get(int(g), -1) for g in cells.group],
            offset=[] if varying else cells.offset,
            basis=[] if varying else basis,
            truncation=[] if varying else truncation,
            ranks=[] if ranks is None else ranks,
            order=place.order,
            fresh=place.fresh,
            gap=place.gap,
            amplitude=place.amplitude,
            length=place.length,
            terms=np.concatenate(terms) if terms else [],
            row_cell=cells.row_cell,
            row_variance=cells.row_variance,
            response=_responses(cells),
            growth=_growths(cells, noise),
        )
        return cls(blocks.pack(fields), K, q)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Numbers as in `blocks.Data.sizes`."""
        first, last = int(self.data[0]), int(self.data[1])
        return tuple(int(number) for number in self.data[first:last])

    @property
    def form(self) -> int:
        """How errors are shared between inputs."""
        return self.sizes[8]

    @property
    def varying(self) -> bool:
        """Whether offset, basis and truncation are parts."""
        return bool(self.sizes[10])

    @property
    def rows(self) -> int:
        """Number of rows N."""
        return self.sizes[2]

    @property
    def slopes(self) -> int:
        """Columns of J that are parts, 0 without orthogonal discrepancies."""
        return self.sizes[6]

    @cached_property
    def size(self) -> int:
        """How many numbers the parts are."""
        K, q, N, t, _, _, o, _, form, _, varying = self.sizes
        size = K * q + (0 if form == SHARED else K * q) + ((K * q) ** 2 if form == SHARED else 0) + N * o
        if form == FEATURES:
            ranks = self.field("ranks")
            size += K * int(ranks.sum()) * (q // len(ranks))
        return size + (N * (1 + q + t) if varying else 0)

    def field(self, name: str) -> Array:
        """Return a field of the block, see `blocks.Data`."""
        return np.asarray(blocks.view(self.data, blocks.Data._fields.index(name)))

    def parts(
        self,
        mean: Array,
        covariance: Array,
        rows: tuple[Array, Array, Array] | None = None,
        slopes: Array | None = None,
    ) -> Array:
        """Return the parts (S, size) of S joint errors.

        Parameters
        ----------
        mean, covariance
            Of the scores, (S, K, q) and (S, q, K, K), or (S, K q, K q) where scores are correlated.
        rows
            Offset (S, N), basis (S, N, q) and truncation (S, N, t), where they are parts.
        slopes
            J, shape (S, N, o).
        """
        S, K, q = mean.shape
        out = np.zeros((S, self.size))
        out[:, : K * q] = mean.reshape(S, -1)
        at = K * q
        if self.form == OWN:
            if q:
                out[:, at : at + q] = covariance[:, :, 0, 0]
            at += self.sizes[0] * q
        else:
            block = out[:, at : at + (K * q) ** 2].reshape(S, K, q, K, q)
            if covariance.ndim == 3:
                block[:] = covariance.reshape(block.shape)
            else:
                for j in range(q):
                    block[:, :, j, :, j] = covariance[:, j]
            at += (K * q) ** 2
        if rows is not None:
            for one in rows:
                flat = one.reshape(len(one), -1)
                out[:, at : at + flat.shape[1]] = flat
                at += flat.shape[1]
        if slopes is not None and self.slopes:
            out[:, at:] = slopes.reshape(S, -1)
        return out

    def rows_of(
        self, cells: Cells, count: int, rows: Decoder | None = None, runs: Array | None = None
    ) -> tuple[Array, Array, Array]:
        """Return offset (count, N), basis (count, N, q) and truncation (count, N, t) where they are parts.

        `rows` (count, N, ...) are those that depend on the input, by default those of the cells; `runs` (count, N, r)
        is what one run of a stochastic simulator does.
        """
        q, N, t = self.scores, self.rows, self.sizes[3]
        if rows is None:
            fixed = cells.offset, cells.used_basis if q else np.zeros((N, 0)), cells.compressed
            rows = Decoder(*(np.broadcast_to(one, (count, *one.shape)) for one in fixed))
        offset, basis, truncation = rows
        if tied := self.sizes[0] < self.inputs:
            basis, truncation = (_spread(one, cells.experiment, self.inputs) for one in (basis, truncation))
        if runs is None:
            return offset, basis, truncation
        out = np.zeros((count, N, t))
        out[:, :, : truncation.shape[2]] = truncation
        if tied:
            runs = _spread(runs, cells.experiment, self.inputs)
        out[:, :, truncation.shape[2] :] = runs
        return offset, basis, out

    def own_rows(self, cells: Cells, rows: tuple[Array, Array, Array]) -> Decoder:
        """Return derivatives (N, ...) by rows that depend on the input from those by what `rows_of` returns."""
        offset, basis, truncation = rows
        if self.sizes[0] < self.inputs:
            at = np.arange(self.rows), cells.experiment
            basis, truncation = (one.reshape(len(one), self.inputs, -1)[at] for one in (basis, truncation))
        return Decoder(offset, basis, truncation)

    def runs_of(self, cells: Cells, truncation: Array) -> Array:
        """Return the columns (N, r) of one run of a stochastic simulator among those of `rows_of` (N, t)."""
        N, own = len(truncation), cells.compressed.shape[1]
        if self.sizes[0] == self.inputs:
            return truncation[:, own:]
        spread = truncation[:, own * self.inputs :].reshape(N, self.inputs, -1)
        return spread[np.arange(N), cells.experiment]

    def cotangents(self, bar: Array) -> "Cotangents":
        """Return the derivative by the parts as derivatives by what `parts` takes, of one joint error."""
        K, q, N = self.inputs, self.scores, self.rows
        own_q, t, o = self.sizes[1], self.sizes[3], self.slopes
        mean, at = bar[: K * q].reshape(K, q), K * q
        if self.form == OWN:
            covariance = np.zeros((K * q, K * q))
            covariance[np.arange(K * q), np.arange(K * q)] = bar[at : at + K * q]
            at += K * q
        else:
            covariance = bar[at : at + (K * q) ** 2].reshape(K * q, K * q)
            at += (K * q) ** 2
        rows = None
        if self.varying:
            cuts = at + np.cumsum([0, N, N * own_q, N * t])
            offset, basis, truncation = (bar[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True))
            rows, at = (offset, basis.reshape(N, own_q), truncation.reshape(N, t)), int(cuts[-1])
        return Cotangents(mean, covariance, rows, bar[at : at + N * o].reshape(N, o))

    def evaluate(
        self, parts: Array, phi: Array, z: Array | None = None, *, precisions: bool = True
    ) -> tuple[Array, Array, Array]:
        """Return log p (..., S), and with `precisions` alpha and diag C^-1 (..., S, N), at parts (..., S, size).

        The noise's hyperparameters phi are (S, P), the same for what leads the parts: draws of the surrogate's
        hyperparameters. Measured values `z` (R,) take the place of the data's own.
        """
        *lead, S, size = parts.shape
        value, squares = self.field("value").copy(), self.field("squares").copy()
        if z is not None:
            value, squares = collapsed(self.data, np.ascontiguousarray(z, dtype=np.float64), len(value), len(squares))
        asked = _gaussian.PRECISIONS if precisions else _gaussian.VALUE
        flat = np.ascontiguousarray(parts).reshape(-1, size)
        phi = np.ascontiguousarray(np.tile(phi, (len(flat) // S, 1)))
        found = _gaussian.batch(self.data, flat, phi, value[None], squares[None], asked)
        out, alpha, precision = (
            one.reshape(*lead, S, *one.shape[1:]) if len(one) == len(flat) else one for one in found
        )
        return out, alpha, precision


@final
@dataclass(frozen=True, eq=False)
class Cotangents:
    """Derivatives of the likelihood by what `GaussianLikelihood.parts` takes."""

    mean: Array  # (K, q)
    covariance: Array  # (K q, K q)
    rows: tuple[Array, Array, Array] | None
    slopes: Array  # (N, o)

    def by_score(self) -> Array:
        """Return the derivative (q, K, K) by the covariances of scores that are independent of each other."""
        K, q = self.mean.shape
        block = self.covariance.reshape(K, q, K, q)
        return np.stack([block[:, j, :, j] for j in range(q)]) if q else np.zeros((0, K, K))


def cell_means(cells: Cells, mean: Any) -> Any:
    """Return the prediction of every cell (..., N) from scores (..., K, q), arrays or tensors.

    A cell is one of the simulator's outputs, or, between its coordinates, a sum of several: (N, width) of them.
    """
    column, weight = _entries(cells)
    if column.shape[1] == 1 and (weight == 1.0).all() and not cells.offset.any():
        return mean[..., cells.experiment, column[:, 0]]
    return cells.offset + (mean[..., cells.experiment[:, None], column] * weight).sum(axis=-1)


def cell_means_reverse(cells: Cells, bar: Array) -> Array:
    """Return the derivative (K, q) by the scores from that by the prediction of every cell (N,)."""
    column, weight = _entries(cells)
    out = np.zeros((cells.experiments, cells.basis.shape[1]))
    flat = cells.experiment[:, None] * out.shape[1] + column
    np.add.at(out.reshape(-1), flat, bar[:, None] * weight)
    return out


def _entries(cells: Cells) -> tuple[Ints, Array]:
    """Return which scores each cell depends on, and how, both (N, width)."""
    basis = sparse.csr_array(cells.basis)
    width = np.diff(basis.indptr)
    place = np.arange(int(width.max(initial=1))) < width[:, None]
    column, weight = np.zeros(place.shape, dtype=np.int64), np.zeros(place.shape)
    column[place], weight[place] = basis.indices, basis.data
    return column, weight


def collapsed(data: Array, z: Array, rows: int, groups: int) -> tuple[Array, Array]:
    """Return value (N,) and squares (g,) of measured values z (R,)."""
    value, squares = np.empty(rows), np.empty(groups)
    _gaussian.collapse_into(data, z, value, squares)
    return value, squares


def _structure(noise: NoiseGroups) -> int:
    if not noise.terms:
        return INDEPENDENT
    processes = [term for term in noise.terms if term.role == NOISE and term.family == EXPONENTIAL]
    single = len({term.group for term in processes}) == len(processes)
    return SERIES if single and len(processes) == len(noise.terms) else DENSE


def _responses(cells: Cells) -> Any:
    """Return what compiled code knows of the response of each row (N, 3), nothing where all are the identity."""
    return np.array([one.numbers for one in cells.responses])[cells.group] if cells.transformed else []


def _growths(cells: Cells, noise: NoiseGroups) -> Any:
    """Return the places in phi of factor and power of each row's noise (N, 2), nothing where none grows."""
    return np.array([noise.growth.get(int(g), (-1, -1)) for g in cells.group]) if noise.growth else []


def _squares(cells: Cells, groups: int) -> Array:
    off = cells.z - cells.cell_mean[cells.row_cell]
    return np.bincount(cells.row_group, off**2 / cells.row_variance, minlength=groups)


def _spread(columns: Array, experiment: Ints, count: int) -> Array:
    """Return rows (..., N, K c) of columns (..., N, c) that stand in the place of their experiment."""
    *lead, n, c = columns.shape
    out = np.zeros((*lead, n, count, c))
    out[..., np.arange(n), experiment, :] = columns
    return out.reshape(*lead, n, count * c)


def _described(cells: Cells, noise: NoiseGroups, term: Any, condition_names: tuple[str, ...]) -> Array:
    """Return the numbers by which `_terms` knows a term."""
    index, n = {key: i for i, key in enumerate(noise.keys)}, len(cells.offset)
    at, sites = cells.sites(term.group, condition_names)
    place = term.place(sites)
    ids, points = np.full(n, -1.0), np.zeros((n, place.points.shape[1]))
    extra = np.zeros((n, place.basis.shape[1]))
    ids[at], points[at], extra[at] = place.ids, place.points, place.basis
    head = [term.family, points.shape[1], extra.shape[1], index[term.amplitude], term.role]
    parts = [head, [index[name] for name in term.lengths], ids, points.ravel(), extra.ravel()]
    return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])


@final
@dataclass(frozen=True, eq=False)
class _Along:
    order: Ints
    fresh: Array
    gap: Array
    amplitude: Ints
    length: Ints


def _along(cells: Cells, noise: NoiseGroups, condition_names: tuple[str, ...], structure: int) -> _Along:
    """Return the rows in the order of their series of autocorrelated noise; others are series of one row."""
    n = len(cells.offset)
    series, position = np.arange(n) + n, np.zeros(n)  # behind all series of the noise
    amplitude, length = np.full(n, -1), np.full(n, -1)
    index = {key: i for i, key in enumerate(noise.keys)}
    begin = 0
    for term in noise.terms if structure == SERIES else ():
        at, sites = cells.sites(term.group, condition_names)
        place = term.place(sites)
        _, inverse = np.unique(place.ids, return_inverse=True)
        series[at], position[at] = begin + inverse.reshape(-1), place.points[:, 0]
        amplitude[at], length[at] = index[term.amplitude], index[term.lengths[0]]
        begin += int(inverse.max()) + 1
    order = np.lexsort((position, series))
    fresh = np.diff(series[order], prepend=-1) != 0
    gap = np.where(fresh, 0.0, np.diff(position[order], prepend=0.0))
    return _Along(order, fresh.astype(np.float64), gap, amplitude[order], length[order])


def process_block(
    process: CompiledError, likelihood: GaussianLikelihood, shared: Array | None = None, columns: Sequence[int] = ()
) -> Array:
    """Return the block of a process and data; `shared` are the numbers of `SharedError.flat`."""
    from uqms.calibration import _process_gaussian  # compiled when it is imported

    fields: tuple[Any, ...] = (process.flat(), likelihood.data, [] if shared is None else shared, columns)
    return blocks.pack(_process_gaussian.Problem(*fields))


# --- data whose noise is independent ----------------------------------------------------------------------------------


def reduced(
    cells: Cells, noise: NoiseGroups, condition_names: tuple[str, ...] = (), correlated: bool = False
) -> GaussianLikelihood | None:
    """Return the likelihood with as few rows as the scores ask for; None where it is not one of such rows.

    Autocorrelated noise along equally spaced series is known by its spectrum, without rows (`spectra`). Independent
    noise and truncation of the rows of an input become independent by a rotation (the singular vectors of the
    truncation's factor), each with a variance sigma² + lambda; rows of equal variance are projected on the space of
    their basis rows, and the rest is a sum of squares. That is not possible where truncation ties rows of different
    unknown noise, or is more than double precision holds beside the noise; nor where the surrogate models a transformed
    output, since its slope changes from row to row and with the parameters, as does the variance of noise that grows
    with the output.
    """
    if noise.factors or cells.transformed or noise.growth:
        return None
    if noise.terms:
        return _of_spectra(cells, noise, condition_names, correlated)
    count = len(noise.outputs)
    settings = noise.settings[:count]
    known = np.array([not isinstance(sd, Prior) for sd in settings])
    sds = np.array([1.0 if isinstance(sd, Prior) else float(sd) for sd in settings])
    weight, mean, used = cells.weight, cells.cell_mean, cells.used
    replicates, squares = np.zeros(count), np.zeros(count)
    within = np.bincount(cells.row_cell, (cells.z - mean[cells.row_cell]) ** 2 / cells.row_variance, len(mean))
    constant = -0.5 * float(np.log(cells.row_variance).sum()) - 0.5 * len(cells.z) * LOG_TWO_PI
    for g in range(count):
        more = int((cells.row_group == g).sum()) - int((cells.group == g).sum())
        sum_of_squares = float(within[cells.group == g].sum())
        if known[g]:
            constant -= more * math.log(sds[g]) + 0.5 * sum_of_squares / sds[g] ** 2
        else:
            replicates[g] += more
            squares[g] += sum_of_squares
    # Cells on the scale where the noise is sigma² alone, or 1 when it is known.
    root = np.sqrt(weight) / sds[cells.group]
    constant -= float(np.log(sds[cells.group]).sum())
    y, basis = root * (mean - cells.offset), root[:, None] * cells.used_basis
    factor = root[:, None] * cells.truncation
    parts: list[tuple[Array, Array, Array, Array]] = []
    starts = [0]
    for k in range(cells.experiments):
        here = np.flatnonzero(cells.experiment == k)
        kinds = np.where(known[cells.group], -1, cells.group)[here]
        tied, total = compress(factor[here]), 0
        for kind in np.unique(kinds):
            inside = kinds == kind
            if np.abs(tied[inside] @ tied[~inside].T).max(initial=0.0) > 1e-12 * np.abs(tied).max(initial=0.0) ** 2:
                return None
            rows = here[inside]
            values, variances, bases, rest = _independent(y[rows], basis[rows], factor[rows])
            left = len(rows) - len(values)
            if kind < 0:
                if variances.max(initial=0.0) > PRECISION:
                    return None
                deviation = np.sqrt(1.0 + variances)
                constant -= float(np.log(deviation).sum()) + 0.5 * rest
                values, bases, rest = _project(values / deviation, bases / deviation[:, None])
                constant -= 0.5 * rest
                variances = np.ones(len(values))
            else:
                replicates[kind] += left
                squares[kind] += rest
            parts.append((values, variances, np.full(len(values), float(kind)), bases))
            total += len(values)
        starts.append(starts[-1] + total)
    values, variances, kinds_of, bases = (np.concatenate([part[i] for part in parts]) for i in range(4))
    K, q, N = cells.experiments, len(used), len(values)
    form = OWN if K == 1 and not correlated else SHARED
    fields = blocks.Data(
        sizes=[K, q, N, 0, count, len(noise.keys), 0, 0, form, INDEPENDENT, 0],
        constant=[constant],
        count=replicates,
        squares=squares,
        starts=starts,
        value=values,
        own=variances,
        weight=np.ones(N),
        group=kinds_of,
        scale=np.full(N, -1),
        offset=np.zeros(N),
        basis=bases,
        truncation=[],
        ranks=[],
        order=np.arange(N),
        fresh=np.ones(N),
        gap=np.zeros(N),
        amplitude=np.full(N, -1),
        length=np.full(N, -1),
        terms=[],
        row_cell=[],
        row_variance=[],
        response=[],
    )
    return GaussianLikelihood(blocks.pack(fields), K, q)


def _of_spectra(
    cells: Cells, noise: NoiseGroups, condition_names: tuple[str, ...], correlated: bool
) -> GaussianLikelihood | None:
    """Return the likelihood of equally spaced series; None where some are not, or they are too short to gain by it."""
    if _structure(noise) != SERIES:
        return None
    whole = GaussianLikelihood.of(cells, noise, condition_names, correlated=correlated)
    order = whole.field("order").astype(int)
    columns = np.column_stack([cells.used_basis, cells.compressed, cells.cell_mean - cells.offset])[order]
    found = spectra(
        columns,
        whole.scores,
        np.cumsum(whole.field("fresh").astype(int)),
        whole.field("gap"),
        cells.experiment[order],
        whole.field("amplitude").astype(int),
        whole.field("length").astype(int),
        cells.group[order],
        cells.weight[order],
    )
    if found is None:
        return None
    K, q, _, t, groups, hyperparameters, *_ = whole.sizes
    empty: dict[str, Any] = dict.fromkeys(blocks.Data._fields, ())
    kept = {name: whole.field(name) for name in ("constant", "count", "squares")}
    own = {"sizes": [K, q, 0, t, groups, hyperparameters, 0, 0, whole.form, SPECTRAL, 0], "starts": np.zeros(K + 1)}
    return GaussianLikelihood(blocks.pack(blocks.Data(**empty | kept | own | {"spectra": found})), K, q)


def _independent(y: Array, basis: Array, factor: Array) -> tuple[Array, Array, Array, float]:
    """Return values, variances beside the noise, basis rows and the sum of squares of what no basis row reaches."""
    n = len(y)
    left, singular = np.zeros((n, 0)), np.zeros(0)
    if factor.shape[1]:
        left, singular, _ = np.linalg.svd(factor, full_matrices=False)
        keep = singular > 1e-10 * max(float(singular[0]), 1e-300)
        left, singular = left[:, keep], singular[keep]
    seen_y, seen_basis = left.T @ y, left.T @ basis
    rest_y, rest_basis, rest = _project(y - left @ seen_y, basis - left @ seen_basis, n - left.shape[1])
    values = np.concatenate([seen_y, rest_y])
    variances = np.concatenate([singular**2, np.zeros(len(rest_y))])
    return values, variances, np.vstack([seen_basis, rest_basis]), rest


def _project(y: Array, basis: Array, rank: int | None = None) -> tuple[Array, Array, float]:
    """Return y and basis on an orthonormal basis of the columns, and the sum of squares of the rest of y.

    `rank` is the dimension of the space that y and basis live in: there are no more columns than that.
    """
    left, singular, right = np.linalg.svd(basis, full_matrices=False)
    largest = float(singular[0]) if len(singular) else 0.0
    keep = singular > 1e-13 * max(largest, 1e-300)
    if rank is not None:
        keep &= np.arange(len(singular)) < rank
    left = left[:, keep]
    inside = left.T @ y
    outside = y - left @ inside
    return inside, singular[keep, None] * right[keep], float(outside @ outside)
