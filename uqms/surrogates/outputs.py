"""From outputs to scores and back: bases, truncation and interpolation between simulated coordinates.

==========  ==================================================================  =========
symbol      meaning                                                             shape
==========  ==================================================================  =========
y           an output of one run on the scale of its transform, flattened       (m,)
offset      mean over the runs                                                  (m,)
B           basis, columns scaled so that the scores have unit variance         (m, q)
T           truncation factor: what the scores leave out is T omega, omega ~ N  (m, t)
H           picks or interpolates coordinates                                   (N, m)
==========  ==================================================================  =========

The truncation factor comes from held-out runs: a basis that is made of the same runs that it is measured on
understates what it leaves out (by 1.5 to 1.9 in sd at 30 runs).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, final, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.interpolate import BSpline, make_interp_spline
from scipy.sparse.linalg import splu

from uqms._teaching import taught
from uqms._typing import Array, Bools, Ints
from uqms.errors import DataError, ExtrapolationError, InputError
from uqms.surrogates.transforms import IDENTITY, Log, Logit, Transform, as_transform

__all__ = [
    "Curve",
    "Decoder",
    "InputDecoder",
    "Layout",
    "OutputBasis",
    "Scalar",
    "automatic",
    "check_outputs",
    "decoded",
    "factor_of",
    "fit_curve",
    "fit_curves",
    "fit_more",
    "fit_scalar",
    "interpolation_error",
    "nearest",
    "score_columns",
    "score_names",
    "spline_weights",
]

FOLDS = 10
TOLERANCE = 1e-6  # share of the variance that scores leave, unless they are so precise that it would be much of theirs
OVERFITTED = 10.0  # times its own variance that a kept score may have on held-out runs
BLOCK = 4096  # coordinates that are decomposed at once
ROOM = 2**21  # numbers of curves that are interpolated at once
INTERVALS = 128  # between coordinates of a curve that have an omega of their own
ROUNDING = 1e-12  # of the largest singular value
ROUNDED_WEIGHT = 1e-18  # of a coordinate's value in what is interpolated
CONSTANT = 1e-13  # an output whose sd is below this share of its size is constant up to rounding


@taught
@final
@dataclass(frozen=True)
class Scalar:
    """Settings of a scalar output: one number per run.

    Parameters
    ----------
    transform
        For outputs that stay positive or inside of bounds: "log" or `Log()`, "logit" (0 to 1) or `Logit(lower, upper)`.
        The Gaussian process then lives on that scale; predictions are in the output's own unit. With "auto" a
        `GaussianProcess` takes what predicts left-out runs clearly better than the output as it is, if anything does:
        the logarithm or one with an offset, of per cents the logit. The noise of a
        stochastic simulator, fitted or heteroscedastic, is one of that scale too, and the prediction is the simulator's
        median then, not its mean, which is that of ``draws(n, rng, noise=True)``.

    Raises
    ------
    InputError
        When `transform` is not one of those.

    Examples
    --------
    >>> from uqms.surrogates import GaussianProcess
    >>> GaussianProcess(outputs={"ef": Scalar(transform="logit")}).outputs["ef"]
    Scalar(transform='logit')
    """

    transform: Log | Logit | Literal["log", "logit", "auto"] | None = None

    def __post_init__(self) -> None:
        if self.transform != "auto":
            as_transform(self.transform)


@taught
@final
@dataclass(frozen=True)
class Curve:
    """Settings of an output with coordinates: how many scores of its orthonormal basis are kept.

    Scores are kept until what they leave of held-out runs is within the tolerance, but none whose variance on held-out
    runs is more than 10 times that of the runs in its own basis: few runs show trailing directions that say nothing of
    other runs. Where the truncation would be much of the stated error, a `GaussianProcess` by default keeps more
    scores: those that left-out runs predict, and those whose values in held-out runs are larger in a part of the box.
    The error of the latter is 0 at the runs, and elsewhere as large as held-out runs show. Scores that are not kept are
    predicted as zero, with their variance in held-out runs, which is the same over the whole box. It should be small
    compared with the error of the scores that are kept.

    Parameters
    ----------
    tolerance
        Fraction of the variance, on runs that the basis has not seen, that may be left to the truncation term. By
        default 1e-6, and of a `GaussianProcess` whose scores are predicted more precisely less: a tenth of their
        left-out variance at the runs where it is small (their 10 % quantile).
    max_scores
        At most this many scores; each costs one Gaussian process.
    transform
        As in `Scalar`, for every coordinate; the basis and its truncation are of the transformed curves.

    Raises
    ------
    InputError
        When `tolerance` is not in (0, 1), `max_scores` is below 1, or `transform` is none.

    Examples
    --------
    >>> Curve(max_scores=5).max_scores
    5
    """

    tolerance: float | None = None
    max_scores: int = 20
    transform: Log | Logit | Literal["log", "logit", "auto"] | None = None

    def __post_init__(self) -> None:
        if self.transform != "auto":
            as_transform(self.transform)
        number = isinstance(self.tolerance, int | float) and 0.0 < self.tolerance < 1.0
        if self.tolerance is not None and not number:
            raise InputError(f"Curve: tolerance is {self.tolerance!r}; give a fraction of variance between 0 and 1.")
        if not isinstance(self.max_scores, int) or isinstance(self.max_scores, bool) or self.max_scores < 1:
            raise InputError(f"Curve: max_scores is {self.max_scores!r}; give a whole number of at least 1.")


def check_outputs(outputs: object, owner: str = "") -> None:
    """Refuse settings of outputs that are none, and transforms that the `owner`, where it is given, cannot choose.

    Raises
    ------
    InputError
        The message shows them.
    """
    for value in outputs.values() if isinstance(outputs, Mapping) else [outputs]:
        if not isinstance(value, Curve | Scalar):
            raise InputError(f"outputs holds {value!r}; give a mapping of output name to Scalar() or Curve(...).")
    if owner and automatic(outputs):
        raise InputError(
            f"{owner} does not choose transforms. Give one by name, such as transform='log', or none. What "
            "GaussianProcess(outputs='auto').fit(ensemble) chooses, its print says."
        )


def automatic(outputs: object) -> bool:
    """Return whether some output's transform is left to the runs."""
    return outputs == "auto" or (
        isinstance(outputs, Mapping) and any(one.transform == "auto" for one in outputs.values())
    )


class Decoder(NamedTuple):
    """Rows of the linear map from scores to output points: y = offset + basis @ scores + truncation @ omega.

    Omega is standard normal; points of one input share it, different inputs have their own. Where the output's layout
    has a transform, y is on its scale.

    Attributes
    ----------
    offset, basis, truncation
        Shapes (N,), (N, q), (N, t); those that an `InputDecoder` returns begin with the axes of the inputs.
    """

    offset: Array
    basis: Array
    truncation: Array


@runtime_checkable
class InputDecoder(Protocol):
    """Rows of an output that depend on the input: y(u) = offset(u) + basis(u) @ scores(u) + truncation(u) @ omega.

    Use it for what the simulator's output does beside the scores: an offset that is a known function of the inputs, a
    basis that a chain of models makes of the scores of its members, a truncation that is larger in a part of the box.
    `Surrogate.decode` returns it in place of a `Decoder`.
    """

    def at(self, u: Array) -> Decoder:
        """Return the rows at inputs `u` (..., k, d).

        Offset (H, ..., k, N), basis (H, ..., k, N, q) and truncation (H, ..., k, N, t), with one entry in place of H
        where all hyperparameter draws have the same rows.
        """
        ...

    def reverse(self, u: Array, bar: Decoder) -> Array:
        """Return the derivative (k, d) of sum(offset * bar.offset) + ... at `u` (k, d), `bar` as what `at` returns."""
        ...


@final
@dataclass(frozen=True, eq=False)
class Layout:
    """Named dims of an output with their coordinates, its unit, and the map to the scale that its scores live on."""

    dims: tuple[str, ...] = ()
    coords: Mapping[str, Array] = field(default_factory=dict)
    unit: str = ""
    transform: Transform = IDENTITY

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the dims."""
        return tuple(len(self.coords[dim]) for dim in self.dims)


@final
@dataclass(frozen=True, eq=False)
class OutputBasis:
    """One output's place among the scores: its offset, basis and truncation, and its coordinates.

    The columns of its basis are those of the scores named in `scores`; without names they are the next ones after those
    of the outputs before. Where runs of a rough simulator scatter around smooth scores, `scatter` is a square root of
    the scatter's covariance: like the truncation it is new with each input.
    """

    name: str
    layout: Layout
    offset: Array
    basis: Array
    truncation: Array
    interpolation_sd: Array = field(default_factory=lambda: np.zeros(0))
    left_out: Array = field(default_factory=lambda: np.zeros((0, 0)))  # (n, t): the omegas of held-out runs
    scores: tuple[int, ...] | None = None
    scatter: Array | None = None  # (q, s)

    @property
    def dims(self) -> tuple[str, ...]:
        """Named dims of the output."""
        return self.layout.dims

    @property
    def coords(self) -> Mapping[str, Array]:
        """Simulated coordinates of every dim."""
        return self.layout.coords

    @property
    def latent(self) -> int:
        """Number of omegas: truncation, scatter and, for curves, one an interval between simulated coordinates.

        At most 128 of the latter: of more intervals, neighbours share one.
        """
        scattered = 0 if self.scatter is None else int(self.scatter.shape[1])
        return int(self.truncation.shape[1]) + scattered + self._intervals

    @property
    def _intervals(self) -> int:
        return min(len(self.interpolation_sd), INTERVALS)

    def rows(self, coords: Mapping[str, ArrayLike] | None) -> tuple[Array, Array, Array]:
        """Return offset (N,), basis (N, q), truncation (N, t) of this output at pointwise coordinates (None: all).

        All that is new with each input is in the truncation: the scatter too.

        Raises
        ------
        ExtrapolationError
            Outside of the simulated coordinates.
        DataError
            When a dim is missing, or lies between simulated coordinates of an output with several dims.
        """
        if coords is None:
            if not self._intervals and self.scatter is None:
                return self.offset, self.basis, self.truncation
            between_all = np.zeros((len(self.offset), self._intervals))
            return self.offset, self.basis, np.hstack([self.truncation, self.scattered(self.basis), between_all])
        place, between, bumps = self.locate(coords)
        offset, basis, truncation = (part[place] for part in (self.offset, self.basis, self.truncation))
        if between.any():
            (dim,) = self.dims
            spline = _spline(self.coords[dim], np.column_stack([self.offset, self.basis, self.truncation]))
            values = spline(np.asarray(coords[dim], dtype=np.float64).reshape(-1)[between])
            q = basis.shape[1]
            offset[between], basis[between], truncation[between] = (
                values[:, 0],
                values[:, 1 : q + 1],
                values[:, q + 1 :],
            )
        return offset, basis, np.hstack([truncation, self.scattered(basis), bumps])

    def scattered(self, basis: Array) -> Array:
        """Return what the scatter of the scores does to points with these rows of the basis, (N, s)."""
        return basis[:, :0] if self.scatter is None else np.asarray(basis @ self.scatter)

    def locate(self, coords: Mapping[str, ArrayLike]) -> tuple[Ints, Bools, Array]:
        """Return the nearest entry of every point, which points lie between entries, and their interpolation errors.

        Raises
        ------
        ExtrapolationError
            Outside of the simulated coordinates.
        DataError
            When a dim is missing, or lies between simulated coordinates of an output with several dims.
        """
        if set(coords) != set(self.dims):
            raise DataError(
                f"Output {self.name!r} has coordinates {list(self.dims)}, got {sorted(coords)}. "
                f"Give one value of each of {list(self.dims)} a point."
            )
        points = {dim: np.atleast_1d(np.asarray(coords[dim], dtype=np.float64)) for dim in self.dims}
        count = max((len(value) for value in points.values()), default=1)
        place, between = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=bool)
        bumps = np.zeros((count, self._intervals))
        for dim in self.dims:
            grid, at = self.coords[dim], np.broadcast_to(points[dim], count)
            self._check_range(dim, grid, at)
            closest = nearest(grid, at)
            off_grid = np.abs(grid[closest] - at) > 1e-9 * max(float(np.ptp(grid)), float(np.abs(grid).max()), 1e-300)
            if off_grid.any():
                self._check_can_interpolate(dim, grid, at[off_grid])
                interval, height = _bump(grid, at[off_grid])
                column = interval * bumps.shape[1] // len(self.interpolation_sd)
                bumps[np.flatnonzero(off_grid), column] = height * self.interpolation_sd[interval]
            place, between = place * len(grid) + closest, between | off_grid
        return place, between, bumps

    def _check_range(self, dim: str, grid: Array, at: Array) -> None:
        slack = 1e-9 * max(float(np.ptp(grid)), float(np.abs(grid).max()), 1e-300)
        outside = ~((at >= grid.min() - slack) & (at <= grid.max() + slack))
        if outside.any():
            raise ExtrapolationError(
                f"Output {self.name!r}: {dim} = {at[outside][0]:g} is outside of the simulated range "
                f"[{grid.min():g}, {grid.max():g}]. Simulate that coordinate, or leave the observation out."
            )

    def _check_can_interpolate(self, dim: str, grid: Array, at: Array) -> None:
        if len(self.dims) > 1 or len(grid) < 3:
            raise DataError(
                f"Output {self.name!r}: {dim} = {at[0]:g} is not a simulated coordinate, and between them only outputs "
                f"with one dim and at least 3 coordinates are interpolated (this has {list(self.dims)}, "
                f"{len(grid)} along {dim!r}). Simulate that coordinate."
            )


def score_columns(bases: Sequence[OutputBasis]) -> list[Ints]:
    """Return, for each output, which of all scores the columns of its basis are."""
    columns: list[Ints] = []
    following = 0
    for basis in bases:
        own = range(following, following + basis.basis.shape[1]) if basis.scores is None else basis.scores
        columns.append(np.array(own, dtype=np.int64))
        following = max([following, *(score + 1 for score in own)])
    return columns


def decoded(bases: Sequence[OutputBasis], output: str, coords: Mapping[str, ArrayLike] | None) -> Decoder:
    """Return the rows of one of the outputs by all scores, at pointwise coordinates (all simulated ones when None).

    Raises
    ------
    InputError
        When there is no such output.
    """
    names = [basis.name for basis in bases]
    if output not in names:
        raise InputError(f"The surrogate has no output {output!r}; it has {names}.")
    index = names.index(output)
    offset, basis, truncation = bases[index].rows(coords)
    latents = [b.latent for b in bases]
    if len(bases) == 1 and bases[0].scores is None:  # of many coordinates, copies take room
        return Decoder(offset, basis, truncation)
    columns = score_columns(bases)
    full = np.zeros((len(offset), 1 + max(int(each.max(initial=-1)) for each in columns)))
    full[:, columns[index]] = basis
    rest = np.zeros((len(offset), sum(latents)))
    rest[:, sum(latents[:index]) : sum(latents[: index + 1])] = truncation
    return Decoder(offset, full, rest)


def score_names(bases: Sequence[OutputBasis]) -> list[str]:
    """Return, for each score, the names of the outputs that have it."""
    columns = score_columns(bases)
    count = max((int(each.max(initial=-1)) + 1 for each in columns), default=0)
    return [
        ", ".join(basis.name for basis, each in zip(bases, columns, strict=True) if j in each) for j in range(count)
    ]


def nearest(grid: Array, at: Array) -> Ints:
    """Return which entry (N,) of `grid`, in any order, is nearest to each of the points `at` (N,)."""
    order = np.argsort(grid, kind="stable")
    upper = np.clip(np.searchsorted(grid[order], at), 1, max(1, len(grid) - 1))
    pair = order[np.stack([upper - 1, np.minimum(upper, len(grid) - 1)])]
    return np.asarray(pair[np.abs(grid[pair] - at).argmin(axis=0), np.arange(len(at))])


def _spline(grid: Array, values: Float[np.ndarray, "m c"]) -> BSpline:
    order = np.argsort(grid)
    return make_interp_spline(grid[order], values[order], k=min(3, len(grid) - 1))


def spline_weights(grid: Array, at: Array) -> sparse.csr_array:
    """Return the matrix (N, m) that interpolates values at `grid` (m,) to points `at` (N,), as `OutputBasis.rows` does.

    The weights of a spline fall off exponentially with the distance; those that rounding hides are left out.
    """
    m, order = len(grid), np.argsort(grid)
    spline = make_interp_spline(grid[order], np.zeros(m), k=min(3, m - 1))
    values, wanted = (BSpline.design_matrix(x, spline.t, spline.k) for x in (grid[order], at))
    solver, parts = splu(values.T.tocsc()), []
    for start in range(0, len(at), size := max(1, ROOM // m)):  # of many coordinates, a dense matrix takes room
        weights = solver.solve(wanted[start : start + size].T.toarray()).T
        weights[np.abs(weights) < ROUNDED_WEIGHT] = 0.0
        parts.append(sparse.csr_array(weights))
    found = sparse.vstack(parts).tocoo()
    return sparse.csr_array((found.data, (found.coords[0], order[found.coords[1]])), shape=(len(at), m))


def _bump(grid: Array, at: Array) -> tuple[Ints, Array]:
    """Return the interval of each point and the shape of the error there: 0 at its simulated ends, 1 in the middle."""
    grid = np.sort(grid)
    interval = np.clip(np.searchsorted(grid, at, side="right") - 1, 0, len(grid) - 2)
    share = (at - grid[interval]) / (grid[interval + 1] - grid[interval])
    return interval, 4.0 * share * (1.0 - share)


def interpolation_error(grid: Float[np.ndarray, " m"], y: Float[np.ndarray, "n m"]) -> Float[np.ndarray, " intervals"]:
    """Return the sd of the cubic interpolation's error in each interval, measured on the runs.

    Every second coordinate is left out and interpolated from the rest. How much smaller the error is at the full
    density is measured too (from every fourth coordinate; never taken to fall faster than the fourth power of the
    spacing); with fewer than 9 coordinates no reduction is assumed. An even number of coordinates is left out from
    both ends, and the larger of the two sds taken: from one end, the interval at the other is never tested.
    """
    m = len(grid)
    if m < 3:
        return np.zeros(0)
    grid, y = np.sort(grid), y[:, np.argsort(grid)]
    forward = _from_the_left(grid, y)
    if m % 2:
        return forward
    return np.maximum(forward, _from_the_left(-grid[::-1], y[:, ::-1])[::-1])


def _from_the_left(grid: Array, y: Array) -> Array:
    m = len(grid)
    left_out, mean_square = _leave_out(grid, y, 2)
    reduction = 1.0
    if m >= 9:
        coarse = np.sqrt(np.mean(_leave_out(grid, y, 4)[1]))
        reduction = float(np.clip(np.sqrt(np.mean(mean_square)) / max(coarse, 1e-300), 1.0 / 16.0, 1.0))
    closest = nearest(left_out.astype(np.float64), np.arange(m - 1, dtype=np.float64) + 0.5)
    return np.asarray(reduction * np.sqrt(mean_square[closest]))


def _leave_out(grid: Array, y: Array, step: int) -> tuple[Ints, Array]:
    """Return which coordinates are left out, and the mean square over the runs of what is interpolated there."""
    kept = np.unique(np.append(np.arange(0, len(grid), step), len(grid) - 1))
    left = np.setdiff1d(np.arange(len(grid)), kept)
    total = np.zeros(len(left))
    size = max(1, ROOM // len(grid))
    for start in range(0, len(y), size):
        rows = y[start : start + size]
        spline = make_interp_spline(grid[kept], rows[:, kept].T, k=min(3, len(kept) - 1))
        total += np.sum((spline(grid[left]).T - rows[:, left]) ** 2, axis=0)
    return left, total / len(y)


def fit_scalar(name: str, layout: Layout, y: Float[np.ndarray, " n"]) -> tuple[OutputBasis, Float[np.ndarray, "n 1"]]:
    """Return the basis of a scalar output and its scores: centred, divided by its sd."""
    mean, sd = float(np.mean(y)), float(np.std(y))
    constant = sd <= CONSTANT * float(np.abs(y).max())
    scores = np.zeros((len(y), 1)) if constant else ((y - mean) / sd)[:, None]
    basis = np.array([[0.0 if constant else sd]])
    left_out = np.zeros((len(y), 0))
    return OutputBasis(name, layout, np.array([mean]), basis, np.zeros((1, 0)), left_out=left_out), scores


def fit_curve(
    name: str, layout: Layout, y: Float[np.ndarray, "n m"], settings: Curve
) -> tuple[OutputBasis, Float[np.ndarray, "n q"]]:
    """Return the basis of a curve or field and its scores, with the truncation measured on held-out runs.

    Scores end where held-out runs vary more than `OVERFITTED` times as much as the runs that made the basis.
    """
    return _fit(name, layout, y, settings, OVERFITTED)[:2]


def fit_more(
    name: str, layout: Layout, y: Float[np.ndarray, "n m"], settings: Curve
) -> tuple[OutputBasis, Float[np.ndarray, "n q"], Float[np.ndarray, "n q"]]:
    """Return what `fit_curve` does, and the scores of held-out runs; only the settings end the scores."""
    return _fit(name, layout, y, settings, None)


def _fit(
    name: str, layout: Layout, y: Array, settings: Curve, overfitted: float | None
) -> tuple[OutputBasis, Array, Array]:
    """Return basis, scores (n, q), and scores of held-out runs (n, q) in the same units."""
    n, m = y.shape
    offset = y.mean(axis=0)
    centred = y - offset
    dims = layout.dims
    between = interpolation_error(layout.coords[dims[0]], y) if len(dims) == 1 else np.zeros(0)
    if np.sqrt(np.vdot(centred, centred) / centred.size) <= CONSTANT * max(y.max(), -y.min()):
        empty = OutputBasis(name, layout, offset, np.zeros((m, 1)), np.zeros((m, 0)), 0.0 * between, np.zeros((n, 0)))
        return empty, np.zeros((n, 1)), np.zeros((n, 1))
    within, frame = _coordinates(centred)
    _, singular, right = np.linalg.svd(within, full_matrices=False)
    count, held, residuals = _held_out(within, settings, right, overfitted=overfitted)
    sd = singular[:count] / np.sqrt(n)
    truncation, left_out = _truncation(right, held, residuals, count, float(singular[0]))
    scores = within @ right[:count].T / sd
    basis = frame(right[:count].T * sd)
    return OutputBasis(name, layout, offset, basis, frame(truncation), between, left_out), scores, held[:, :count] / sd


def fit_curves(
    name: str,
    layout: Layout,
    levels: Sequence[Float[np.ndarray, "n m"]],
    partners: Sequence[Sequence[Ints]],
    settings: Curve,
) -> tuple[OutputBasis, list[Float[np.ndarray, "n q"]]]:
    """Return one basis of the curves of several levels, that of the last one, and the scores of each level in it.

    All levels have the same weight in the basis, each centred at its own mean. Truncation and the number of scores are
    those of held-out runs of the last level, each left out with its `partners`: by level, the runs of the same inputs.
    """
    highest = levels[-1]
    n, m = highest.shape
    centred = [y - y.mean(axis=0) for y in levels]
    dims = layout.dims
    between = interpolation_error(layout.coords[dims[0]], highest) if len(dims) == 1 else np.zeros(0)
    if np.sqrt(np.vdot(centred[-1], centred[-1]) / (n * m)) <= CONSTANT * max(highest.max(), -highest.min()):
        offset, rest = highest.mean(axis=0), np.zeros((n, 0))
        empty = OutputBasis(name, layout, offset, np.zeros((m, 1)), np.zeros((m, 0)), 0.0 * between, rest)
        return empty, [np.zeros((len(y), 1)) for y in levels]
    weights = np.sqrt(n / np.repeat([len(y) for y in levels], [len(y) for y in levels]))[:, None]
    within, frame = _coordinates(weights * np.vstack(centred))
    starts = np.cumsum([0, *(len(y) for y in levels)])
    judged = np.arange(starts[-2], starts[-1])
    folds = []
    for i in range(min(FOLDS, n)):
        held = np.arange(i, n, FOLDS)
        out = [starts[t] + one[int(run)] for t, one in enumerate(partners) for run in held]
        folds.append((held, np.concatenate([judged[held], *out]).astype(np.int64)))
    _, singular, right = np.linalg.svd(within, full_matrices=False)
    count, held_scores, residuals = _held_out(within, settings, right, folds, judged)
    raw = within @ right[:count].T / weights
    sd = np.sqrt(np.mean(raw[judged] ** 2, axis=0))
    sd = np.maximum(sd, 1e-12 * sd.max())
    truncation, left_out = _truncation(right, held_scores, residuals, count, float(singular[0]))
    basis = OutputBasis(
        name, layout, highest.mean(axis=0), frame(right[:count].T * sd), frame(truncation), between, left_out
    )
    return basis, np.split(raw / sd, starts[1:-1])


def _coordinates(y: Float[np.ndarray, "n m"]) -> tuple[Float[np.ndarray, "n k"], Callable[[Array], Array]]:
    """Return rows in coordinates of an orthonormal frame, and the map of columns in its span back.

    All that is asked of many coordinates lies in the span of the n runs, so that bases of folds cost n³ there. The
    frame y' U / s (U s V' = rows in coordinates) is never made: QR decompositions of blocks fit into the processor's
    cache, and what is mapped back are a few columns, small where s is small.
    """
    n, m = y.shape
    if m <= 2 * n:
        return y, lambda columns: columns
    blocks = [np.linalg.qr(y[:, start : start + BLOCK].T, mode="r") for start in range(0, m, BLOCK)]
    left, singular, _ = np.linalg.svd(np.linalg.qr(np.vstack(blocks), mode="r").T)
    keep = singular > ROUNDING * singular[0]
    left, singular = left[:, keep], singular[keep]
    return np.ascontiguousarray(left * singular), lambda columns: np.asarray(y.T @ ((left / singular) @ columns))


def _held_out(
    y: Array,
    settings: Curve,
    basis: Array,
    folds: Sequence[tuple[Ints, Ints]] | None = None,
    judged: Ints | None = None,
    overfitted: float | None = OVERFITTED,
) -> tuple[int, Array, Array]:
    """Return the number of scores, every run's scores in the basis of the other folds, and what lies outside of that.

    Signs are those of the basis of all runs. Trailing directions of a basis are those in which its own runs vary least:
    other runs vary there up to a million times more, and a process that is trained on such scores knows nothing of it.
    Where only some runs are `judged`, folds say which of these are held out and which rows are left out with them; the
    others are centred already.
    """
    limit = min(settings.max_scores, len(y) - 2, y.shape[1])
    judged = np.arange(len(y)) if judged is None else judged
    n = len(judged)
    folds = [(np.arange(i, n, FOLDS),) * 2 for i in range(min(FOLDS, n))] if folds is None else folds
    parts, variance = [], []
    for held, out in folds:
        rest = np.setdiff1d(np.arange(len(y)), out)
        own = np.isin(rest, judged)
        mean = y[rest[own]].mean(axis=0)
        _, singular, right = np.linalg.svd(y[rest] - mean * own[:, None], full_matrices=False)
        parts.append((held, y[judged[held]] - mean, right[: len(rest) - 1]))
        variance.append(singular**2 / own.sum())
    limit = min(limit, *(len(right) for _, _, right in parts))
    scores, residuals = np.empty((n, limit)), np.empty((n, y.shape[1]))
    for held, rows, right in parts:
        scores[held] = rows @ right[:limit].T
        residuals[held] = rows - scores[held] @ right[:limit]
        scores[held] *= np.where(np.sum(right[:limit] * basis[:limit], axis=1) < 0.0, -1.0, 1.0)
    square = np.sum(scores**2, axis=0)
    left = 1.0 - np.cumsum(square) / sum(float(np.sum(rows**2)) for _, rows, _ in parts)
    enough = np.flatnonzero(left <= (TOLERANCE if settings.tolerance is None else settings.tolerance))
    count = int(enough[0]) + 1 if len(enough) else limit
    seen = np.mean([one[:limit] for one in variance], axis=0)
    if overfitted is not None:
        count = min([count, *np.flatnonzero(square / n > overfitted * seen)[:1].tolist()])
    return max(1, count), scores, residuals


def _truncation(right: Array, held: Array, residuals: Array, count: int, scale: float) -> tuple[Array, Array]:
    """Return T and the omegas of each run: scores that are not kept, each by itself, and what lies outside of all.

    The second moment of n runs in nearly n directions is almost singular, although what is left out of other runs is
    not: discarded scores therefore count as uncorrelated, with the variance that held-out runs have.
    """
    outside, omega = factor_of(residuals, scale)
    sd = np.sqrt(np.mean(held[:, count:] ** 2, axis=0))
    keep = sd * np.sqrt(len(held)) > 1e-9 * scale
    discarded = right[count : held.shape[1]][keep].T * sd[keep]
    return np.hstack([discarded, outside]), np.hstack([held[:, count:][:, keep] / sd[keep], omega])


def factor_of(residuals: Array, scale: float) -> tuple[Array, Array]:
    """Return T, T T' the second moment of the residuals without what is rounding, and the omegas of each run."""
    root = np.sqrt(len(residuals))
    left, singular, right = np.linalg.svd(residuals, full_matrices=False)
    keep = singular > 1e-9 * scale
    return np.asarray(right[keep].T * singular[keep] / root), np.asarray(left[:, keep] * root)
