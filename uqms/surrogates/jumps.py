"""Whether an output jumps between regimes, so that one smooth process cannot follow it, and which run is on which side.

==========  ============================================================================  =========
symbol      meaning                                                                       shape
==========  ============================================================================  =========
x, y        inputs in the unit cube, leading scores of one output, unit variance          (n, d), (n, q)
z           regime of each run, 0 or 1                                                    (n,)
l           log density of each run from the others, under one process and under two      (n,)
gain        sum of l under two less that under one, a run                                 ()
height      difference of the two regimes' predictions where they meet, in their sds      ()
step        that difference over what a regime changes from run to run there              ()
==========  ============================================================================  =========

Runs are split so that two processes, one a side, predict left-out runs best: from several first guesses, each run goes
to the side that predicts it, with the sides of its neighbours as prior, until nothing moves. Where an output is smooth
two processes gain nothing, or meet at the border; a jump has a gain, a height and a step. (At a kink, where two smooth
parts meet, the step is at most a half.)

Isotropic length scales from a short grid are enough to tell; they are no surrogate.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from scipy.linalg import solve_triangular
from scipy.spatial.distance import cdist

from uqms._teaching import taught
from uqms._threads import one_thread
from uqms._typing import Array, Bools, Ints
from uqms.errors import PACKAGE, InputError, RegimeWarning
from uqms.surrogates.gp import GaussianProcessSurrogate
from uqms.surrogates.kernels import Matern52, correlation
from uqms.surrogates.outputs import score_columns

__all__ = ["Jump", "detect_jump", "find_jumps", "two_regimes"]

SCALES = (0.2, 0.4, 0.8, 1.6)  # length scales, times sqrt(d)
FLOOR = 1e-4  # of the variance of a score: nothing is predicted better than that
SCORES = 3  # of an output that are looked at
ROUNDS = 15
NEIGHBOURS = 6.0
PAIRS = 12
GAIN, HEIGHT, STEP = 0.75, 8.0, 1.0  # limits, chosen once; `benchmarks/regimes.py` tests them on other functions
SMALLEST = 5  # runs of a regime, and d + 2


class Split(NamedTuple):
    """Two regimes of one output: the side of every run, the gain a run, the height of the jump in sds and in steps."""

    labels: Ints
    gain: float
    height: float
    step: float


@final
@dataclass(frozen=True)
class Jump:
    """What `detect_jump` found.

    Attributes
    ----------
    outputs
        Outputs that jump.
    gain
        By output: by how much two processes predict left-out runs better than one, in nats per run.
    height
        By output: difference of the two regimes' predictions where they meet, in their standard deviations.
    step
        By output: that difference over what the regimes themselves change between the runs at the border.
    labels
        By output: which side every run of the surrogate is on, (n,).
    """

    outputs: tuple[str, ...]
    gain: Mapping[str, float]
    height: Mapping[str, float]
    step: Mapping[str, float]
    labels: Mapping[str, Ints]

    @property
    def found(self) -> bool:
        """Whether an output jumps."""
        return bool(self.outputs)

    def __str__(self) -> str:
        lines = []
        for name, gain in self.gain.items():
            count = int(self.labels[name].sum())
            what = f"{len(self.labels[name]) - count} and {count} runs" if name in self.outputs else "no jump"
            lines.append(
                f"{name}: {what}; two regimes predict left-out runs better by {gain:.2f} nats per run (limit {GAIN}), "
                f"and differ where they meet by {self.height[name]:.1f} sd (limit {HEIGHT}), which is "
                f"{self.step[name]:.1f} times what they change from run to run (limit {STEP})"
            )
        return "\n".join(lines)


@taught
def detect_jump(surrogate: GaussianProcessSurrogate) -> Jump:
    """Test whether an output of a fitted surrogate jumps between regimes, which one smooth process cannot follow.

    Use it when left-out errors are few and huge, or when the simulator has regimes: an arrhythmia starts, an outbreak
    dies out. It takes about a second for a hundred runs.

    Parameters
    ----------
    surrogate
        A fitted Gaussian process.

    Returns
    -------
    Jump
        Print it; `found` says whether there is one, `labels` which side each run is on.

    Raises
    ------
    InputError
        When the surrogate is no Gaussian process, or fewer than 2 (d + 2) or 10 runs have an output.

    Warns
    -----
    RegimeWarning
        When an output jumps, with what to do.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 32, rng=1)
    >>> k = design["k"].values
    >>> surrogate = uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": np.sin(k) + (k > 1.3)}))
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     uq.detect_jump(surrogate).outputs
    ('y',)
    """
    out = find_jumps(surrogate)
    if out.found:
        warnings.warn(
            f"Output(s) {', '.join(map(repr, out.outputs))} seem to jump between two regimes, which one smooth process "
            "cannot follow: its errors are largest, and its intervals wrong, along the border. Fit uq.Regimes(), which "
            "has a process for each and a classifier for the border; or find the quantity that tells the regimes apart "
            "and give it as labels.",
            RegimeWarning,
            skip_file_prefixes=PACKAGE,
        )
    return out


def find_jumps(surrogate: GaussianProcessSurrogate) -> Jump:
    """Do as `detect_jump`, without the warning."""
    if not isinstance(surrogate, GaussianProcessSurrogate):
        raise InputError(f"detect_jump: got a {type(surrogate).__name__}; give a fitted GaussianProcess.")
    process, n, d = surrogate.process, surrogate.runs, surrogate.domain.d
    found: dict[str, Split] = {}
    for basis, columns in zip(surrogate.bases, score_columns(surrogate.bases), strict=True):
        known = surrogate.whole(basis.name)
        if len(known) < max(10, 2 * (d + 2)):
            raise InputError(
                f"detect_jump: {len(known)} of {n} runs have the whole of {basis.name!r}; at least "
                f"{max(10, 2 * (d + 2))} are needed to detect two regimes."
            )
        size = np.sum(basis.basis**2, axis=0)
        leading = columns[np.argsort(-size)[:SCORES]]
        y = process.y[np.ix_(known, leading)]
        split = two_regimes(process.x[known], y, np.sort(size)[::-1][:SCORES])
        labels = np.zeros(n, dtype=np.int64)
        labels[known] = split.labels
        found[basis.name] = split._replace(labels=labels)
    jumps = tuple(name for name, one in found.items() if one.gain > GAIN and one.height > HEIGHT and one.step > STEP)
    return Jump(
        jumps,
        {name: one.gain for name, one in found.items()},
        {name: one.height for name, one in found.items()},
        {name: one.step for name, one in found.items()},
        {name: one.labels for name, one in found.items()},
    )


# --------------------------------------------------------------------------------------------------------- the search
def two_regimes(x: Array, y: Array, size: Array) -> Split:
    """Return the best split of runs x (n, d) with scores y (n, q), squared sizes in the output `size` (q,)."""
    y = (y - y.mean(axis=0)) / np.maximum(y.std(axis=0), 1e-300)
    keep = size > 1e-3 * size.max()
    y = y[:, keep] if keep.any() else y[:, :1]
    smallest = max(SMALLEST, x.shape[1] + 2)
    with one_thread():
        grid = [correlation(Matern52(), x, x, _ell(scale, x.shape[1])) for scale in SCALES]
        everyone = np.ones(len(x), dtype=bool)
        one = _densities(grid, y, everyone)
        near = _neighbours(x)
        best = Split(np.zeros(len(x), dtype=np.int64), -np.inf, 0.0, 0.0)
        for start in _guesses(x, y):
            labels, density = _settled(grid, y, near, start, smallest)
            gain = float(np.mean(density - one))
            if gain > best.gain:
                best = Split(labels, gain, 0.0, 0.0)
        if not np.isfinite(best.gain):
            return best._replace(gain=0.0)
        height, step = _border(x, y, best.labels)
        labels = best.labels if 2 * best.labels.sum() <= len(x) else 1 - best.labels  # 0 has most of the runs
        return Split(labels, best.gain, height, step)


def _densities(grid: list[Array], y: Array, inside: Bools) -> Array:
    """Return the log density (n,) of every run under the process of those inside, left-out there.

    Scores are independent, each with the length scale of the grid that is most probable.
    """
    rows = np.flatnonzero(inside)
    total = np.zeros(len(y))
    for j in range(y.shape[1]):
        target = y[rows, j]
        values = [_evidence(kappa[np.ix_(rows, rows)], target) for kappa in grid]
        mean, variance = _predicted(grid[int(np.argmax(values))], rows, target)
        variance = variance + FLOOR
        total += -0.5 * (np.log(2.0 * np.pi * variance) + (y[:, j] - mean) ** 2 / variance)
    return total


def _evidence(kappa: Array, y: Array) -> float:
    """Return the log evidence with mean and variance integrated out, and a prior for long length scales."""
    n = len(y)
    lower = np.linalg.cholesky(kappa + 1e-6 * np.eye(n))
    half = solve_triangular(lower, np.column_stack([np.ones(n), y]), lower=True, check_finite=False)
    ones = float(half[:, 0] @ half[:, 0])
    residual = float(half[:, 1] @ half[:, 1]) - float(half[:, 0] @ half[:, 1]) ** 2 / ones
    log_det = float(np.sum(np.log(np.diag(lower)))) + 0.5 * np.log(ones)
    return float(-log_det - 0.5 * (n - 1) * np.log(max(residual, 1e-12) + FLOOR * n))


def _predicted(kappa: Array, rows: Ints, y: Array) -> tuple[Array, Array]:
    """Return mean and variance (n,) of all runs from those in `rows`, which are left out one by one."""
    n = len(rows)
    own = kappa[np.ix_(rows, rows)] + 1e-6 * np.eye(n)
    inverse = np.linalg.inv(own)
    ones = inverse.sum(axis=1)
    total = ones.sum()
    beta = float(ones @ y) / total
    projected = inverse - np.outer(ones, ones) / total
    weights = projected @ y
    s2 = max(float(y @ weights), 1e-12) / max(n - 1, 1)
    to_rows = kappa[:, rows]
    mean = beta + to_rows @ (inverse @ (y - beta))
    variance = 1.0 - np.einsum("ij,jk,ik->i", to_rows, inverse, to_rows, optimize=True)
    variance = s2 * (np.maximum(variance, 0.0) + (1.0 - to_rows @ ones) ** 2 / total)
    mean[rows] = y - weights / np.diag(projected)
    variance[rows] = s2 / np.diag(projected)
    return mean, variance


def _neighbours(x: Array) -> Array:
    """Return weights (n, n) of other runs by their distance, zero of a run itself."""
    distance = cdist(x, x)
    order = np.sort(distance, axis=1)[:, min(int(NEIGHBOURS), len(x) - 1)]
    weights = np.exp(-0.5 * (distance / np.maximum(0.5 * (order[:, None] + order[None, :]), 1e-12)) ** 2)
    np.fill_diagonal(weights, 0.0)
    return np.asarray(weights)


def _settled(grid: list[Array], y: Array, near: Array, labels: Ints, smallest: int) -> tuple[Ints, Array]:
    """Return labels at rest and the log density (n,) of every run under both regimes."""
    best = labels, np.full(len(y), -np.inf)
    for _ in range(ROUNDS):
        if min(labels.sum(), len(labels) - labels.sum()) < smallest:
            break
        logs = np.stack([_densities(grid, y, labels == r) for r in (0, 1)])
        share = np.stack([near @ (labels == r) for r in (0, 1)]) + 0.2
        logs += np.log(share / share.sum(axis=0))
        density = np.logaddexp(logs[0], logs[1])
        if density.sum() > best[1].sum():
            best = labels, density
        following = np.argmax(logs, axis=0)
        if (following == labels).all():
            break
        labels = following
    return best


def _guesses(x: Array, y: Array) -> list[Ints]:
    """Return first labels: two groups of outputs, two groups of what a plane leaves, and the best cut by a plane."""
    design = np.column_stack([np.ones(len(x)), x])
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    out = [_two_groups(y), _two_groups(residual)]
    best = (np.inf, out[0])
    for j in range(x.shape[1]):
        order = np.sort(x[:, j])
        for cut in order[len(x) // 8 : -max(1, len(x) // 8) : max(1, len(x) // 16)]:
            side = x[:, j] > cut
            if min(side.sum(), (~side).sum()) < x.shape[1] + 3:
                continue
            left = 0.0
            for rows in (side, ~side):
                fit = np.linalg.lstsq(design[rows], y[rows], rcond=None)[0]
                left += float(np.sum((y[rows] - design[rows] @ fit) ** 2))
            if left < best[0]:
                best = left, side.astype(np.int64)
    return [*out, best[1]]


def _two_groups(values: Array) -> Ints:
    """Return the two groups (n,) of k-means, from the ends of the leading direction."""
    centred = values - values.mean(axis=0)
    along = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
    labels = (along > 0.5 * (along.min() + along.max())).astype(np.int64)
    for _ in range(50):
        if not 0 < labels.sum() < len(labels):
            return np.asarray(along > np.median(along), dtype=np.int64)
        centres = np.stack([values[labels == r].mean(axis=0) for r in (0, 1)])
        following = np.argmin(cdist(values, centres), axis=1)
        if (following == labels).all():
            break
        labels = following
    return np.asarray(labels, dtype=np.int64)


def _border(x: Array, y: Array, labels: Ints) -> tuple[float, float]:
    """Return by how much both predictions differ between nearest runs of different regimes: in sds, and in steps.

    A step is what the regimes themselves change from one of the two runs to the other: at a kink, where two smooth
    parts meet, the difference is at most half of it. Both are medians over the border.
    """
    sides = [np.flatnonzero(labels == r) for r in (0, 1)]
    distance = cdist(x[sides[0]], x[sides[1]])
    order = np.argsort(distance, axis=None)[: max(PAIRS, len(x) // 8)]
    first, second = np.unravel_index(order, distance.shape)
    ends = x[sides[0][first]], x[sides[1][second]]
    at, count = np.vstack([0.5 * (ends[0] + ends[1]), *ends]), len(order)
    in_sds, apart, steps = (np.zeros(count) for _ in range(3))
    for j in range(y.shape[1]):
        means, total, step = [], np.full(count, 2.0 * FLOOR), np.zeros(count)
        for rows in sides:
            points = np.vstack([x[rows], at])
            grid = [correlation(Matern52(), points, points, _ell(scale, x.shape[1])) for scale in SCALES]
            known = np.arange(len(rows))
            values = [_evidence(kappa[np.ix_(known, known)], y[rows, j]) for kappa in grid]
            mean, variance = _predicted(grid[int(np.argmax(values))], known, y[rows, j])
            middle, one, other = np.split(mean[len(rows) :], 3)
            means.append(middle)
            total = total + variance[len(rows) : len(rows) + count]
            step = np.maximum(step, np.abs(one - other))
        difference = (means[0] - means[1]) ** 2
        in_sds, apart, steps = in_sds + difference / total, apart + difference, steps + step**2
    height = float(np.sqrt(np.median(in_sds) / y.shape[1]))
    return height, float(np.sqrt(np.median(apart / np.maximum(steps, 1e-12))))


def _ell(scale: float, d: int) -> Array:
    return np.full(d, scale * np.sqrt(d))
