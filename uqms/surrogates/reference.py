"""Errors of predicted runs, and those of a correct surrogate, simulated from their joint distribution.

==========  ========================================================================  ===========
symbol      meaning                                                                   shape
==========  ========================================================================  ===========
value       mean of the scores of n runs, for each hyperparameter draw h              (H, n, q)
root        R_j, with R_j R_j' the covariance of score j between the runs             (n, r)
C_j         covariance of score j: sum_h w_h (R R' + diag own + shift shift')         (n, n)
own         variance of score j that is each run's own: a stochastic simulator's      (H, n, q)
e_j         what score j was less its mean                                            (n,)
L           pivoted Cholesky factor of C_j, largest remaining variance first          (n, n)
w           pivoted errors L^-1 e_j; their sum of squares is Mahalanobis' D²          (n,)
PIT         probability of less than what was found                                   (n, m)
==========  ========================================================================  ===========

Errors of one function are dependent, so neither is the number of them inside of an interval binomial, nor do D² and
the PIT histogram have simple laws. All are therefore compared with the central 99 % of what they are for errors drawn
from the joint distribution: hyperparameter draw, scores at all runs, truncation (the same for runs of the same inputs).
Where one value stands for a variance that the runs estimate with f degrees of freedom, it is drawn too (f / chi-squared
of f): D² / m is then F(m, f), as in Bastos & O'Hagan (2009), doi:10.1198/TECH.2009.08019.

Outputs with a transform have these laws on its scale: all is counted there, and only means, sds and scores are taken in
the output's own unit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float
from scipy.linalg import lapack, solve_triangular
from scipy.special import ndtr

from uqms._typing import Array, Ints
from uqms.surrogates.outputs import CONSTANT, Decoder
from uqms.surrogates.prediction import Mixture, mixture, noise_variance
from uqms.surrogates.process import Scores
from uqms.surrogates.transforms import IDENTITY, Transform

__all__ = ["BINS", "LEVELS", "Found", "JointLaw", "Part", "central", "compared"]

LEVELS = np.arange(1, 20) / 20.0  # of the coverage curve
BINS = 10  # of the PIT histogram
FINE = 40  # bins that hold both
RANGE = 0.99
SIMULATIONS = (1_000, 10_000)
WORK = 2e7  # simulated numbers for each output, when that allows more than the least number of simulations
BLOCK = 2e6  # numbers held at once
COORDINATES = 256  # at most so many coordinates of an output are counted
REACH, STEP = 6.0, 1.0 / 16.0  # of the table of a mixture's cdf, in sds
RANK = 1e-10  # directions with less than this share of the largest variance are rounding


@final
@dataclass(frozen=True, eq=False)
class JointLaw:
    """Joint distribution of predicted runs' scores: for each hyperparameter draw mean, variance, square-root factor."""

    value: Array  # (H, n, q): mean of the score, of left-out runs less what it was
    variance: Array  # (H, n, q)
    log_weights: Array  # (H,)
    root: Callable[[int, int], Array]  # (n, r) for draw h, score j, without each run's own noise
    own: Array  # (H, n, q), part of the variance
    degrees: Array  # (q,) of freedom of a variance that one value stands for; infinite where it is known or averaged
    correlation: Array | None = None  # (q, q) of each run's own noise between scores; none where they are independent

    @property
    def weights(self) -> Array:
        """Weights of the draws, (H,)."""
        return np.asarray(np.exp(self.log_weights - np.logaddexp.reduce(self.log_weights)))

    @property
    def mean(self) -> Array:
        """Mean over the draws, (n, q)."""
        return np.asarray(np.tensordot(self.weights, self.value, 1))

    def decoded(self, full: Float[np.ndarray, "m q"], latent: Float[np.ndarray, "m t"]) -> Mixture:
        """Return the laws of the values on the scale of the transform, without the output's offset."""
        decoder, between = Decoder(np.zeros(len(full)), full, latent), self.correlation
        noise = None if between is None else noise_variance(self.own, full, between)
        variance = self.variance if noise is None else np.maximum(self.variance - self.own, 0.0)
        return mixture(Scores(self.value, np.swapaxes(variance, 1, 2), self.log_weights), decoder, noise=noise)

    def take(self, rows: Ints) -> "JointLaw":
        """Return the law of some of the runs."""
        return replace(
            self,
            value=self.value[:, rows],
            variance=self.variance[:, rows],
            root=lambda h, j: self.root(h, j)[rows],
            own=self.own[:, rows],
        )

    def covariance(self, columns: Ints, weights: Float[np.ndarray, " c"]) -> Float[np.ndarray, "n n"]:
        """Return the covariance between the runs of a weighted sum of scores."""
        shift = (self.value[:, :, columns] - self.mean[:, columns]) @ weights
        total = (shift * self.weights[:, None]).T @ shift
        for h, share in enumerate(self.weights):
            for j, weight in zip(columns, weights, strict=True):
                root = self.root(h, int(j))
                total += share * weight**2 * (root @ root.T)
            between = None if self.correlation is None else self.correlation[np.ix_(columns, columns)]
            own = noise_variance(self.own[h : h + 1][..., columns], weights[None], between)[0, :, 0]
            total[np.diag_indices(len(total))] += share * own
        return np.asarray(total)

    def simulate(self, count: int, rng: np.random.Generator, columns: Ints) -> Float[np.ndarray, "count n c"]:
        """Return simulated scores less their mean."""
        centre = self.mean
        h = rng.choice(len(self.weights), size=count, p=self.weights)
        out = np.empty((count, len(centre), len(columns)))
        for i in np.unique(h):
            rows = np.flatnonzero(h == i)
            own = self._own_noise(int(i), len(rows), rng, columns)
            for place, j in enumerate(columns):
                root = self.root(int(i), int(j))
                drawn = rng.standard_normal((len(rows), root.shape[1])) @ root.T
                if own is not None:
                    drawn += own[:, :, place]
                if np.isfinite(self.degrees[j]):
                    drawn *= np.sqrt(self.degrees[j] / rng.chisquare(self.degrees[j], len(rows)))[:, None]
                out[rows, :, place] = self.value[i, :, j] - centre[:, j] + drawn
        return out

    def _own_noise(self, i: int, count: int, rng: np.random.Generator, columns: Ints) -> Array | None:
        """Return each run's own noise (count, n, c) in draw i, if there is any."""
        variance = self.own[i][:, columns]
        if not variance.any():
            return None
        shapes = rng.standard_normal((count, *variance.shape))
        if self.correlation is not None:
            between = self.correlation[np.ix_(columns, columns)] + 1e-12 * np.eye(len(columns))
            shapes = shapes @ np.linalg.cholesky(between).T
        return np.asarray(shapes * np.sqrt(variance))


class Part(NamedTuple):
    """One output of runs that are predicted jointly, on the scale of its transform."""

    runs: Ints  # (n,) positions of the runs, those that have the output
    law: JointLaw
    full: Array  # (m, q) basis
    latent: Array  # (m, t) truncation, and what is each run's own of it: a stochastic simulator's
    shared: int  # the first so many columns of it are the same for runs of the same inputs
    group: Ints  # (n,) the first run with the same inputs
    seen: Array  # (n, m) what was simulated
    truth: Array  # (n, m) the same as the law counts it: without the offset, of left-out runs without their scores
    joint: bool  # whether D² says something: of left-out runs it is fixed by the variance that it was estimated from
    transform: Transform

    def own(self, columns: slice | Ints) -> tuple[Mixture, Array]:
        """Return law and values of some coordinates whose moments and scores are those in the output's own unit."""
        law, truth = self.law.decoded(self.full[columns], self.latent[columns]), self.truth[:, columns]
        if self.transform is IDENTITY:
            return law, truth
        seen = self.seen[:, columns]
        return law._replace(mean=law.mean + (seen - truth), transform=self.transform), self.transform.inverse(seen)


class Found(NamedTuple):
    """One output of all runs: predictions in its own unit, scores and reference ranges."""

    observed: Array  # (n, m)
    mean: Array
    sd: Array
    standardised: Array  # on the scale of the transform
    pit: Array
    row: dict[str, object]
    coverage: Array  # (3, levels): found, and the ends of the range
    histogram: Array  # (3, bins)
    pivoted: list[tuple[int, int, int, float]]  # block, score, run in the block, error


def compared(parts: Sequence[Part], seed: int) -> Found:
    """Return the scores of one output and their ranges; each part is a block of jointly predicted runs.

    Parameters
    ----------
    parts
        One part a block; blocks are taken as independent.
    seed
        Of the simulated ranges.
    """
    moments = [_moments(part) for part in parts]
    seen = _stacked([part.seen for part in parts])
    centre, scale, mean, sd, pit = (_stacked([each[i] for each in moments]) for i in range(5))
    observed = parts[0].transform.inverse(seen)
    keep = _counted(seen.shape[1])
    row = _accuracy(observed, mean)
    row |= _proper_scores(parts, keep)
    error = np.abs(seen[:, keep] - centre[:, keep])
    row["beyond_4"] = float(np.mean(error > 4.0 * scale[:, keep] + _rounding(seen[:, keep])))
    standardised = seen - centre
    with np.errstate(invalid="ignore", divide="ignore"):
        standardised /= scale
    checks = [_Joint(part) for part in parts]
    counts, distances, largest = _simulated(parts, checks, keep, seed)
    found = _bins(pit[None][:, :, keep])
    coverage = np.vstack([_coverage(found), _ends(_coverage(counts))])
    histogram = np.vstack([_histogram(found), _ends(_histogram(counts))])
    for level in (0.5, 0.95):
        share, low, high = coverage[:, np.argmin(np.abs(LEVELS - level))]
        row |= {f"coverage_{level:.0%}": float(share), f"range_{level:.0%}": (float(low), float(high))}
    row |= _joint_scores(checks, all(part.joint for part in parts), distances, largest)
    pivoted = [(b, j, run, error) for b, check in enumerate(checks) for j, run, error in check.errors]
    return Found(observed, mean, sd, standardised, pit, row, coverage, histogram, pivoted)


def _stacked(blocks: Sequence[Array]) -> Array:
    """Return blocks of rows as one array, without a copy of a single one."""
    return blocks[0] if len(blocks) == 1 else np.vstack(blocks)


def central(values: Array) -> tuple[float, float]:
    """Return the central 99 % of simulated values."""
    low, high = np.quantile(values, [0.5 - 0.5 * RANGE, 0.5 + 0.5 * RANGE])
    return float(low), float(high)


# ------------------------------------------------------------------------------------------------------- entry by entry
def _counted(m: int) -> Ints:
    return np.unique(np.linspace(0, m - 1, min(m, COORDINATES)).astype(np.int64))


def _rounding(seen: Array) -> Array:
    return CONSTANT * np.abs(seen) + 1e-300


def _moments(part: Part) -> tuple[Array, Array, Array, Array, Array]:
    """Return mean and sd on the scale of the transform and in the own unit, and PIT (n, m), by blocks."""
    n, m = part.seen.shape
    size = max(1, int(BLOCK / (n * len(part.law.value))))
    centre, scale, pit = np.empty((n, m)), np.empty((n, m)), np.empty((n, m))
    mean, sd = (centre, scale) if part.transform is IDENTITY else (np.empty((n, m)), np.empty((n, m)))
    for start in range(0, m, size):
        block = slice(start, start + size)
        law = part.law.decoded(part.full[block], part.latent[block])
        value, variance = law.moments()
        scale[:, block] = np.sqrt(variance)
        centre[:, block] = part.seen[:, block] - part.truth[:, block] + value
        if part.transform is not IDENTITY:
            mean[:, block], variance = part.own(block)[0].moments()
            sd[:, block] = np.sqrt(variance)
        # A value that all runs share is predicted without an error; rounding is none.
        exact = (scale[:, block] == 0.0) & (np.abs(part.truth[:, block] - value) <= _rounding(part.seen[:, block]))
        with np.errstate(over="ignore"):
            pit[:, block] = law.cdf(np.where(exact, value, part.truth[:, block]))
    return centre, scale, mean, sd, pit


def _accuracy(seen: Array, mean: Array) -> dict[str, object]:
    error = seen - seen.mean(axis=0)
    total = float(np.vdot(error, error) / error.size)
    np.subtract(seen, mean, out=error)
    square = float(np.vdot(error, error) / error.size)
    return {
        "q2": 1.0 - square / total if total > 0 else float("nan"),
        "rmse": float(np.sqrt(square)),
        "mae": float(np.mean(np.abs(error, out=error))),
    }


def _proper_scores(parts: Sequence[Part], keep: Ints) -> dict[str, object]:
    log, crps = [], []
    for part in parts:
        law, truth = part.law.decoded(part.full[keep], part.latent[keep]), part.truth[:, keep]
        slope = part.transform.log_slope(part.transform.inverse(part.seen[:, keep]))
        with np.errstate(over="ignore"):
            log.append(law.log_density(truth) + slope)
        own, value = part.own(keep)
        crps.append(own.crps(value))
    return {"log_score": float(np.mean(np.vstack(log))), "crps": float(np.mean(np.vstack(crps)))}


def _bins(pit: Float[np.ndarray, "count n m"]) -> Float[np.ndarray, "count bins"]:
    """Return how many entries of each simulation lie in each of the fine bins."""
    count = len(pit)
    place = np.minimum((FINE * pit).astype(np.int64), FINE - 1).reshape(count, -1)
    place += FINE * np.arange(count)[:, None]
    counts = np.bincount(place.ravel(), minlength=FINE * count)
    return np.asarray(counts.reshape(count, FINE), dtype=np.float64)


def _coverage(counts: Float[np.ndarray, "count bins"]) -> Float[np.ndarray, "count levels"]:
    """Return the shares inside of equal-tailed intervals: those whose PIT lies in the middle."""
    half = FINE // 2
    inside = np.cumsum(counts[:, half:] + counts[:, half - 1 :: -1], axis=1)
    return np.asarray(inside[:, : len(LEVELS)] / counts.sum(axis=1, keepdims=True))


def _histogram(counts: Float[np.ndarray, "count bins"]) -> Float[np.ndarray, "count bins2"]:
    """Return the density of the PIT, which is 1 on average."""
    return np.asarray(counts.reshape(len(counts), BINS, -1).sum(axis=2) * BINS / counts.sum(axis=1, keepdims=True))


def _ends(values: Float[np.ndarray, "count k"]) -> Float[np.ndarray, "2 k"]:
    return np.asarray(np.quantile(values, [0.5 - 0.5 * RANGE, 0.5 + 0.5 * RANGE], axis=0))


class _Transform:
    """Errors on the scale of the transform to PIT; a table of each entry's cdf where the law is a mixture."""

    def __init__(self, law: Mixture) -> None:
        mean, variance = law.moments()
        self.scale = np.where(variance > 0.0, np.sqrt(variance), 1.0)
        self.table: Array | None = None
        if len(law.weights) > 1:
            grid = np.arange(-REACH, REACH + 0.5 * STEP, STEP)
            self.table = np.stack([law.cdf(mean + z * self.scale) for z in grid], axis=-1).reshape(-1, len(grid))

    def __call__(self, error: Float[np.ndarray, "count n m"]) -> Float[np.ndarray, "count n m"]:
        z = error / self.scale
        if self.table is None:
            return np.asarray(ndtr(z))
        width = self.table.shape[1]
        place = np.clip((z + REACH) / STEP, 0.0, width - 1.001).reshape(len(z), -1)
        low = place.astype(np.int64)
        index = low + width * np.arange(len(self.table))
        flat = self.table.ravel()
        return np.asarray(flat[index] + (place - low) * (flat[index + 1] - flat[index])).reshape(z.shape)


# ------------------------------------------------------------------------------------------------------------- together
class _Joint:
    """Pivoted factors of a part's scores, and the pivoted errors."""

    def __init__(self, part: Part) -> None:
        self.columns = np.flatnonzero(part.full.any(axis=0))
        # What is checked: of a curve the scores that its projection gives, of a number with several scores itself.
        self.of_scores = np.eye(len(self.columns))
        self.factors: list[tuple[Array, Ints]] = []
        self.errors: list[tuple[int, int, float]] = []  # score, run, error
        if not len(self.columns):
            self.inverse = np.zeros((0, len(part.full)))
            return
        # A curve is projected on its basis; what the basis leaves out of a run adds to the scores that this gives.
        self.inverse = np.linalg.pinv(part.full[:, self.columns])
        if len(part.full) < len(self.columns):
            self.of_scores, self.inverse = part.full[:, self.columns], np.eye(len(part.full))
        squares = (self.inverse @ part.latent) ** 2
        shared, own = squares[:, : part.shared].sum(axis=1), squares[:, part.shared :].sum(axis=1)
        same = part.group[:, None] == part.group
        error = part.truth @ self.inverse.T - part.law.mean[:, self.columns] @ self.of_scores.T
        for place, weights in enumerate(self.of_scores):
            used = np.flatnonzero(weights)
            covariance = part.law.covariance(self.columns[used], weights[used])
            covariance[same] += shared[place]
            covariance[np.diag_indices(len(covariance))] += own[place]
            lower, pivots, rank, _ = lapack.dpstrf(covariance, lower=1, tol=RANK * float(covariance.diagonal().max()))
            self.factors.append((np.tril(lower[:rank, :rank]), np.asarray(pivots[:rank] - 1, dtype=np.int64)))
            whitened = self.whitened(place, error[None, :, place])[0]
            order = zip(self.factors[-1][1], whitened, strict=True)
            self.errors += [(place, int(run), float(value)) for run, value in order]

    def whitened(self, place: int, error: Float[np.ndarray, "count n"]) -> Float[np.ndarray, "count r"]:
        """Return pivoted errors of a score."""
        lower, pivots = self.factors[place]
        return np.asarray(solve_triangular(lower, error[:, pivots].T, lower=True, check_finite=False).T)


def _joint_scores(checks: Sequence[_Joint], joint: bool, distances: Array, largest: Array) -> dict[str, object]:
    errors = np.array([error for check in checks for _, _, error in check.errors])
    none = (float("nan"), float("nan"))
    if not len(errors):
        return {
            "mahalanobis": none[0],
            "range_mahalanobis": none,
            "largest_pivoted": none[0],
            "range_largest_pivoted": none,
        }
    return {
        "mahalanobis": float(np.mean(errors**2)) if joint else none[0],
        "range_mahalanobis": central(distances / len(errors)) if joint else none,
        "largest_pivoted": float(np.abs(errors).max()),
        "range_largest_pivoted": central(largest),
    }


def _simulated(parts: Sequence[Part], checks: Sequence[_Joint], keep: Ints, seed: int) -> tuple[Array, Array, Array]:
    """Return of each simulation: entries by PIT (count, bins), D² (count,), the largest pivoted error (count,)."""
    rng = np.random.default_rng(seed)
    total = sum(len(part.seen) for part in parts) * len(keep)
    count = int(np.clip(WORK / total, *SIMULATIONS))
    counts, distances, largest = np.zeros((count, FINE)), np.zeros(count), np.zeros(count)
    for part, check in zip(parts, checks, strict=True):
        n = len(part.seen)
        block = max(1, int(BLOCK / (n * max(len(keep), len(check.columns)))))
        transform = _Transform(part.law.decoded(part.full[keep], part.latent[keep]))
        used = np.flatnonzero(part.latent.any(axis=0))
        projection = check.inverse @ part.latent[:, used]
        for start in range(0, count, block):
            rows = slice(start, min(start + block, count))
            size = rows.stop - rows.start
            scores = part.law.simulate(size, rng, check.columns)
            omega = rng.standard_normal((size, n, len(used)))
            omega[:, :, used < part.shared] = omega[:, part.group][:, :, used < part.shared]
            error = scores @ part.full[np.ix_(keep, check.columns)].T
            error += omega @ part.latent[np.ix_(keep, used)].T
            counts[rows] += _bins(transform(error))
            checked = scores @ check.of_scores.T + omega @ projection.T
            for place in range(len(check.factors)):
                whitened = check.whitened(place, checked[:, :, place])
                distances[rows] += np.sum(whitened**2, axis=1)
                largest[rows] = np.maximum(largest[rows], np.abs(whitened).max(axis=1))
    return counts, distances, largest
