"""Noise of a stochastic simulator: learned from replicates, a variance that changes over the box.

==========  ==================================================================  =========
symbol      meaning                                                             shape
==========  ==================================================================  =========
r           replicates of each different input                                  (g,)
e           scores of the replicates less the mean of their input               (N, q)
S2          their variance over the replicates of an input, r - 1 degrees       (g, q)
l(u)        log variance of the noise of a score: a Gaussian process            (k, q)
C           correlation of the noise between scores                             (q, q)
rho         what noise does outside of the basis: rho omega, omega ~ N(0, I)    (m, t)
==========  ==================================================================  =========

Given l, log S2 is l plus the log of a chi-squared variable over its degrees f: its mean is psi(f/2) - log(f/2) and its
variance psi'(f/2), both known. So l is learned like any output with known noise, and inputs with few replicates lend
each other strength. The means over replicates have the noise exp(l) / r (stochastic kriging: Ankenman et al. 2010,
doi:10.1287/opre.1090.0754; a latent log variance: Binois et al. 2018, doi:10.1080/10618600.2018.1458625).

The log of few squares has a long lower tail, and noise need not be normal, so three things are held to what was seen:
the level is that of the pooled variance; l is at most `REACH` times the largest variance of an input; and where the
deviations have a kurtosis above 3, log S2 is taken as less certain.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple, final

import numpy as np
from jaxtyping import Float
from scipy.special import chdtrc, digamma, log_ndtr, ndtr, ndtri, polygamma

from uqms._typing import Array, Bools, Ints
from uqms.errors import PACKAGE, DesignError, DesignWarning
from uqms.surrogates.fitting import Fitting
from uqms.surrogates.fused_scores import scores_flat_reverse
from uqms.surrogates.kernels import Matern52
from uqms.surrogates.outputs import Layout, OutputBasis, factor_of, fit_scalar, interpolation_error
from uqms.surrogates.process import ScoreProcess, draw_at, scores_at
from uqms.surrogates.training import NUGGET_BOUNDS

__all__ = [
    "NOISELESS",
    "Drift",
    "Learned",
    "Replicates",
    "SimulatorNoise",
    "correlation_of_residuals",
    "learn_noise",
    "replicated",
    "root_of_correlation",
]

NEVER = -690.0  # log variance of a score without noise
LEVELS = 16  # of an uncertain variance
ROUNDING = 2.0 * float(np.finfo(np.float64).eps)  # of each replicate, in their mean
ROUNDED = 1e-12  # of a correlation, so that it has a root
SAME = 1e-9  # of the unit cube: inputs that are no further apart are the same
FLOOR = 1e-4  # of the pooled variance, a hundredth of its sd: where replicates agree more closely, less is of no matter
SMOOTH = 16.0  # times the variance of log S2, where kurtosis is asked for: l must not follow what it is to judge
MATTERS = 0.05  # share of the noise of an output that a score holds, where its law is looked at
LEAST = 4  # replicates that have a kurtosis
NOISELESS = 10.0 * NUGGET_BOUNDS[0]  # a smaller nugget is no noise
REACH = 4.0  # largest variance, as a multiple of the largest of an input


class Replicates(NamedTuple):
    """Which runs repeat the same inputs."""

    x: Array  # (g, d) different inputs
    group: Ints  # (N,) the input of each run

    def sums(self, values: Float[np.ndarray, "N m"]) -> tuple[Array, Ints]:
        """Return sums over the runs that have all of their values, (g, m), and how many these are, (g,)."""
        known = np.isfinite(values).all(axis=1)
        total = np.zeros((len(self.x), values.shape[1]))
        np.add.at(total, self.group[known], values[known])
        return total, np.bincount(self.group[known], minlength=len(self.x))

    def means(self, values: Float[np.ndarray, "N m"]) -> tuple[Array, Ints]:
        """Return means over replicates, (g, m), NaN where there are none, and how many these are, (g,)."""
        total, count = self.sums(values)
        with np.errstate(invalid="ignore"):
            return total / np.where(count == 0, np.nan, count)[:, None], count


def replicated(x: Float[np.ndarray, "N d"]) -> Replicates:
    """Return which runs repeat the same inputs up to rounding, the different inputs in the order in which they come."""
    _, first, inverse = np.unique(_places(x), axis=0, return_index=True, return_inverse=True)
    place = np.empty(len(first), dtype=np.int64)
    place[np.argsort(first)] = np.arange(len(first))
    return Replicates(x[np.sort(first)], place[inverse.reshape(-1)])


def _places(x: Array) -> Ints:
    """Return the place (N, d) of each value among the different ones of its input: gaps part them, no grid does."""
    order = np.argsort(x, axis=0)
    gaps = np.diff(np.take_along_axis(x, order, axis=0), axis=0, prepend=x[:1] * np.nan) > SAME
    places = np.empty(x.shape, dtype=np.int64)
    np.put_along_axis(places, order, np.cumsum(gaps, axis=0), axis=0)
    return places


@final
@dataclass(frozen=True, eq=False)
class SimulatorNoise:
    """Variance of the noise of every score over the box, its correlation between scores, and what the basis leaves."""

    process: ScoreProcess  # of log variances less their centre
    centre: Array  # (q,)
    correlation: Array  # (q, q)
    residuals: tuple[Array, ...]  # by output, (m, t)
    truncations: tuple[Array, ...]  # by output, (m, t2): what the basis leaves of means over replicates, noise included

    def __post_init__(self) -> None:
        # One memory layout, as in `ScoreProcess`.
        for name in ("centre", "correlation"):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name)))
        for name in ("residuals", "truncations"):
            object.__setattr__(self, name, tuple(np.ascontiguousarray(each) for each in getattr(self, name)))

    def variance(self, u: Float[np.ndarray, "k d"]) -> Float[np.ndarray, "k q"]:
        """Return the expected variance of the noise of every score."""
        mean, variance, weights = self._logs(u)
        return self._expected(mean, variance, weights)

    def variance_reverse(self, u: Float[np.ndarray, "k d"], bar: Float[np.ndarray, "k q"]) -> Float[np.ndarray, "k d"]:
        """Return the derivative (k, d) of sum(variance * bar) with respect to u."""
        mean, variance, weights = self._logs(u)
        sd, room = np.sqrt(variance) + 1e-150, self._highest - mean
        below = np.exp(mean + 0.5 * variance + log_ndtr(room / sd - sd))
        # Of E f(l), l normal: E f' by the mean, E f'' / 2 by the variance; f' falls from exp(highest) to 0.
        step = np.exp(self._highest - 0.5 * (room / sd) ** 2) / (np.sqrt(2.0 * np.pi) * sd)
        mean_bar = weights[:, None, None] * below * bar
        variance_bar = np.where(variance > 0.0, 0.5 * weights[:, None, None] * (below - step) * bar, 0.0)
        covariance_bar = np.swapaxes(variance_bar, 1, 2)[..., None] * np.eye(len(u))
        return np.asarray(scores_flat_reverse(self._flat, np.ascontiguousarray(u), mean_bar, covariance_bar))

    @cached_property
    def _flat(self) -> Array:
        return self.process.flat()

    def select(self, scores: Ints) -> "SimulatorNoise":
        """Return the noise of some scores only, within the basis."""
        return replace(
            self,
            process=self.process.select(scores),
            centre=self.centre[scores],
            correlation=self.correlation[np.ix_(scores, scores)],
            residuals=(),
            truncations=(),
        )

    def variances(self, u: Float[np.ndarray, "k d"]) -> Float[np.ndarray, "levels k q"]:
        """Return equally likely variances, since they are not known: noise has longer tails than a normal law.

        Their mean is the expected variance; the levels of different scores stand in different orders.
        """
        mean, variance, weights = self._logs(u)
        rng = np.random.default_rng(0)
        order = np.stack([rng.permutation(LEVELS) for _ in range(self.process.q)], axis=-1)[:, None, :]
        draw = np.minimum(
            (np.cumsum(weights)[:, None] <= (np.arange(LEVELS) + 0.5) / LEVELS).sum(axis=0), len(mean) - 1
        )
        z = ndtri((order + 0.5) / LEVELS)
        each = np.exp(np.minimum(mean[draw] + np.sqrt(variance[draw]) * z, self._highest))
        return np.asarray(each * (self._expected(mean, variance, weights) / each.mean(axis=0)))

    @property
    def _highest(self) -> Array:
        """Return the largest log variances (q,)."""
        return np.asarray(self.centre + np.max(self.process.y, axis=0, initial=0.0) + np.log(REACH))

    def _expected(self, mean: Array, variance: Array, weights: Array) -> Array:
        """Return E exp(min(l, highest)) (k, q) of normal l."""
        sd, room = np.sqrt(variance) + 1e-150, self._highest - mean
        below = np.exp(mean + 0.5 * variance + log_ndtr(room / sd - sd))
        return np.asarray(np.tensordot(weights, below + np.exp(self._highest) * ndtr(-room / sd), 1))

    def _logs(self, u: Array) -> tuple[Array, Array, Array]:
        """Return mean and variance (H, k, q) of log variances, and the weights of the draws (H,)."""
        scores = scores_at(self.process, u, diagonal=True)
        weights = np.exp(scores.log_weights - np.logaddexp.reduce(scores.log_weights))
        return self.centre + scores.mean, np.maximum(np.swapaxes(scores.covariance, 1, 2), 0.0), weights

    def draws(self, u: Float[np.ndarray, "k d"], n: int, rng: np.random.Generator) -> Float[np.ndarray, "n k q"]:
        """Return noise of the scores of new runs; those of one draw share the unknown variances, as a function of u."""
        process, k = self.process, len(u)
        h = rng.choice(process.draws, size=n)
        logs = np.empty((n, k, process.q))
        for i in np.unique(h):
            rows = np.flatnonzero(h == i)
            for j in range(process.q):
                z = rng.standard_normal((len(rows), k)), rng.standard_normal((len(rows), process.beta.shape[2]))
                logs[rows, :, j] = draw_at(process, int(i), j, u, *z)
        root = root_of_correlation(self.correlation)
        shapes = rng.standard_normal((n, k, process.q)) @ root.T
        return np.asarray(np.exp(0.5 * np.minimum(self.centre + logs, self._highest)) * shapes)


class Normality(NamedTuple):
    """How far the noise of the replicates is from a normal law: the score of the output in which it is farthest."""

    output: str
    skewness: float
    kurtosis: float  # less 3
    p: float  # that normal noise has a score as far from zero skewness and excess kurtosis


class Drift(NamedTuple):
    """How the correlation of the noise of two scores changes over the box: those of which that is least by chance."""

    outputs: tuple[str, str]
    low: float  # the smallest and the largest at the inputs of the runs, smoothed
    high: float
    p: float  # that a correlation which is the same everywhere seems to change as much


class Learned(NamedTuple):
    """The noise, and bases and scores of the means over replicates that go with it."""

    noise: SimulatorNoise
    variances: Array  # (g, q) of the noise of the scores
    bases: list[OutputBasis]
    scores: Array  # (g, q)
    normality: Normality
    drift: Drift


def learn_noise(
    replicates: Replicates,
    values: Sequence[Float[np.ndarray, "N m"]],
    bases: Sequence[OutputBasis],
    scores: Sequence[Float[np.ndarray, "g q"]],
) -> Learned:
    """Return the noise over the box, and the means over replicates in bases in which it is uncorrelated.

    Parameters
    ----------
    replicates
        Which runs repeat the same inputs.
    values
        By output, all runs on the scale of its transform; NaN in runs that do not have it whole.
    bases, scores
        By output, of the means over replicates.

    Raises
    ------
    DesignError
        When too few inputs were run more than once.

    Warns
    -----
    DesignWarning
        When the replicates are few.
    """
    outputs = [_output(replicates, *each) for each in zip(values, bases, scores, strict=True)]
    off = np.hstack([output.off for output in outputs])
    y = np.hstack([output.scores for output in outputs])
    count = np.column_stack([output.sizes for output in outputs for _ in range(output.off.shape[1])])
    residuals = tuple(output.residual for output in outputs)
    truncations = tuple(basis.truncation for basis in bases)
    _check_replicates(replicates, count)
    process, centre, silent = _log_variances(replicates, off, count)
    noise = SimulatorNoise(process, centre, np.eye(y.shape[1]), residuals, truncations)
    variance = noise.variance(replicates.x)
    standard = off / np.sqrt(variance[replicates.group])
    noise = replace(noise, correlation=_correlation(standard, count[replicates.group]))
    variances = np.where(silent | (count == 0), 0.0, variance / np.maximum(count, 1))
    normality = _normality(outputs, replicates.group)
    drift = _drift(outputs, replicates)
    return Learned(noise, variances, [output.basis for output in outputs], y, normality, drift)


def _check_replicates(replicates: Replicates, count: Ints) -> None:
    d = replicates.x.shape[1]
    fewest, least = int((count > 1).sum(axis=0).min()), d + 2
    if fewest < least:
        raise DesignError(
            f"noise='heteroscedastic' learns the noise from replicates, and {fewest} inputs were run more than once; "
            f"at least d + 2 = {least} are needed, with about 5 runs each: uq.run(..., replicates=5, rng=1). With one "
            "run per input, noise='fitted' takes one variance for the whole box (for scalar outputs)."
        )
    freedom, enough = int(np.maximum(count - 1, 0).sum(axis=0).min()), 10 * d + 10
    if freedom < enough:
        warnings.warn(
            f"The noise is learned from {freedom} replicates beyond the first of each input; with fewer than "
            f"10 d + 10 = {enough} its variance is rough, and intervals are as rough. Run more replicates, about 5 an "
            "input: uq.run(..., replicates=5, rng=1).",
            DesignWarning,
            skip_file_prefixes=PACKAGE,
        )


def _log_variances(replicates: Replicates, off: Array, count: Ints) -> tuple[ScoreProcess, Array, Bools]:
    """Return the process of the log variances, their centre, and which scores (q,) have no noise at all.

    Point estimates follow the chance of few replicates, so its hyperparameters are averaged whatever those of the mean.
    """
    squares = np.zeros(count.shape)
    np.add.at(squares, replicates.group, np.nan_to_num(off) ** 2)
    freedom = np.where(count > 1, count - 1.0, np.nan)
    pooled = squares.sum(axis=0) / np.nansum(freedom, axis=0)
    silent: Bools = ~(pooled > 0.0)
    with np.errstate(divide="ignore"):
        logs = np.log(np.maximum(squares / freedom, FLOOR * pooled)) - digamma(0.5 * freedom) + np.log(0.5 * freedom)
    logs[:, silent] = np.where(np.isfinite(freedom[:, silent]), NEVER, np.nan)
    y = logs - np.nanmean(logs, axis=0)
    plain = [fit_scalar("log variance", Layout(), y[np.isfinite(y[:, j]), j])[0] for j in range(y.shape[1])]

    def learned(known: Array, hyperparameters: Literal["auto", "point"]) -> SimulatorNoise:
        """Return the noise whose expected variance is the pooled one, on average over the replicates."""
        fitting = Fitting(replicates.x, Matern52(), 1, known, hyperparameters)
        process = fitting.conditioned(y, fitting.trained(y), plain)
        noise = SimulatorNoise(process, np.zeros(y.shape[1]), np.eye(y.shape[1]), (), ())
        weights = np.nan_to_num(freedom) / np.nansum(freedom, axis=0)
        level = np.log(np.where(silent, 1.0, pooled)) - np.log(np.sum(weights * noise.variance(replicates.x), axis=0))
        return replace(noise, centre=np.where(silent, NEVER, level))

    known = np.where(silent | (count < 2), 0.0, polygamma(1, 0.5 * np.maximum(count - 1.0, 1.0)))
    standard = off / np.sqrt(learned(SMOOTH * known, "point").variance(replicates.x)[replicates.group])
    excess = np.where(silent, 0.0, _excess_kurtosis(standard, count[replicates.group]))
    # Of a variance of r values: (kurtosis - 1 + 2 / f) / r, which is 2 / f for normal ones.
    known = known * (1.0 + 0.5 * excess * np.maximum(count - 1.0, 0.0) / np.maximum(count, 1.0))
    noise = learned(known, "auto")
    return noise.process, noise.centre, silent


def _excess_kurtosis(standard: Array, count: Ints) -> Array:
    """Return how far the kurtosis of noise (q,) exceeds 3, less one standard error and at least 0.

    From deviations (N, q) from the mean of `count` replicates, whose own variance and kurtosis are smaller. Two
    replicates, which have one square, do not tell a long tail from a variance that changes.
    """
    use = np.isfinite(standard) & (count > 2)
    r = np.where(use, count, 1).astype(np.float64)
    own = 1.0 - 1.0 / r
    above = np.sum(np.where(use, standard, 0.0) ** 4 - 3.0 * own**2, axis=0)
    share, freedom = np.sum(own**4 + (r - 1.0) / r**4, axis=0), np.sum(own, axis=0)
    error = np.sqrt(24.0 / np.maximum(freedom, 1.0))
    return np.asarray(np.maximum(above / np.maximum(share, 1e-300) - error, 0.0))


def _normality(outputs: "Sequence[_Output]", group: Ints) -> Normality:
    """Compare skewness and kurtosis of the scores' noise with those of normal noise.

    Those of each input's replicates, which know nothing of a variance that changes between inputs, averaged: G1 and G2,
    zero on average of normal values whatever their number (Joanes & Gill 1998, doi:10.1111/1467-9884.00122). Scores
    that hold little of the noise of their output say nothing that matters.
    """
    off, names, share = _joined(outputs)
    r = np.column_stack([output.sizes for output in outputs for _ in range(output.off.shape[1])]).astype(np.float64)
    e = np.nan_to_num(off)
    second, third, fourth = (_sums(group, e**order, len(r)) / np.maximum(r, 1.0) for order in (2, 3, 4))
    use = (r >= LEAST) & (second > 0.0)
    r, second = np.where(use, r, LEAST), np.where(use, second, 1.0)
    skewness = third / second**1.5 * np.sqrt(r * (r - 1.0)) / (r - 2.0)
    kurtosis = (r - 1.0) / ((r - 2.0) * (r - 3.0)) * ((r + 1.0) * (fourth / second**2 - 3.0) + 6.0)
    of_skewness = 6.0 * r * (r - 1.0) / ((r - 2.0) * (r + 1.0) * (r + 3.0))
    of_kurtosis = 4.0 * (r**2 - 1.0) * of_skewness / ((r - 3.0) * (r + 5.0))
    means, far = [], []
    for values, variance in ((skewness, of_skewness), (kurtosis, of_kurtosis)):
        weight = np.where(use, 1.0 / variance, 0.0)
        means.append(np.sum(weight * values, axis=0) / np.maximum(weight.sum(axis=0), 1e-300))
        far.append(np.abs(means[-1]) * np.sqrt(weight.sum(axis=0)))
    off_by = np.where(share >= MATTERS, np.maximum(*far), 0.0)
    worst = int(np.argmax(off_by))
    p = float(np.minimum(1.0, 4.0 * max(int(np.sum(off_by > 0.0)), 1) * ndtr(-off_by[worst])))
    return Normality(names[worst], float(means[0][worst]), float(means[1][worst]), p)


def _drift(outputs: "Sequence[_Output]", replicates: Replicates) -> Drift:
    """Compare the correlations of the scores' noise at the inputs with one for all: the likelihood takes one.

    Fisher's z of r replicates has the variance 1 / (r - 3), whatever the variances are. It is regressed on the inputs
    and their squares. What scatters more than normal noise would does not count as a change.
    """
    off, names, share = _joined(outputs)
    none = Drift((names[0], names[0]), 0.0, 0.0, 1.0)
    x = replicates.x - replicates.x.mean(axis=0)
    columns = np.column_stack([x, x**2 - np.mean(x**2, axis=0)])
    matters = np.flatnonzero(share >= MATTERS)
    found: list[Drift] = []
    for place, i in enumerate(matters):
        for j in matters[place + 1 :]:
            both = np.isfinite(off[:, i]) & np.isfinite(off[:, j])
            count = np.bincount(replicates.group[both], minlength=len(x))
            e = np.where(both[:, None], off[:, [i, j]], 0.0)
            one, other, product = _sums(replicates.group, np.column_stack([e**2, e[:, 0] * e[:, 1]]), len(x)).T
            use = (count >= LEAST) & (one > 0.0) & (other > 0.0)
            if use.sum() < columns.shape[1] + 3:
                continue
            root = np.sqrt(count[use] - 3.0)
            z = np.arctanh(np.clip(product[use] / np.sqrt(one[use] * other[use]), -1.0 + 1e-9, 1.0 - 1e-9))
            trend = np.column_stack([np.ones(len(z)), columns[use]])
            fit = trend @ np.linalg.lstsq(root[:, None] * trend, root * z)[0]
            middle = float(root**2 @ z / (root @ root))
            freedom = columns.shape[1]
            scatter = max(1.0, float(np.sum((root * (z - fit)) ** 2)) / (len(z) - freedom - 1))
            p = float(chdtrc(freedom, np.sum((root * (fit - middle)) ** 2) / scatter))
            found.append(Drift((names[i], names[j]), float(np.tanh(fit.min())), float(np.tanh(fit.max())), p))
    worst = min(found, key=lambda each: each.p, default=none)
    return worst._replace(p=min(1.0, max(len(found), 1) * worst.p))


def _joined(outputs: "Sequence[_Output]") -> tuple[Array, list[str], Array]:
    """Return the deviations of all scores (N, q), the output of each, and its share of that output's noise (q,)."""
    off = np.hstack([output.off for output in outputs])
    names = [output.basis.name for output in outputs for _ in range(output.off.shape[1])]
    power = [np.sum(np.square(output.basis.basis), axis=0) * np.nansum(output.off**2, axis=0) for output in outputs]
    return off, names, np.concatenate([each / max(float(each.sum()), 1e-300) for each in power])


def _sums(group: Ints, values: Array, count: int) -> Array:
    total = np.zeros((count, values.shape[1]))
    np.add.at(total, group, values)
    return total


class _Output(NamedTuple):
    basis: OutputBasis
    scores: Array  # (g, q)
    off: Array  # (N, q) deviations of the runs from the mean of their input; NaN in runs without the output
    sizes: Ints  # (g,) replicates that have the output
    residual: Array  # (m, t)


def _output(replicates: Replicates, values: Array, basis: OutputBasis, scores: Array) -> _Output:
    """Return one output in a basis in which its noise is uncorrelated, on average over the box.

    Scores have unit variance before and after. Where the runs vary much less along one basis vector than along another,
    the noise of its score is much larger, so that the rotation hardly mixes the two.
    """
    mean, count = replicates.means(values)
    off = values - mean[replicates.group]
    # The mean of equal numbers differs from them by rounding, which is no noise.
    off[np.abs(off) <= ROUNDING * (1 + count[replicates.group])[:, None] * np.abs(mean[replicates.group])] = 0.0
    known = np.isfinite(off).all(axis=1)
    runs, inputs = int(known.sum()), int((count > 0).sum())
    share = float(np.mean(1.0 / count[count > 0]))
    deviations = off @ basis.basis / np.maximum(np.sum(basis.basis**2, axis=0), 1e-300)
    if not basis.dims or runs == inputs:
        return _Output(basis, scores, deviations, count, np.zeros((len(basis.offset), 0)))
    scale = np.sqrt(runs / (runs - inputs))
    rest = scale * (off[known] - deviations[known] @ basis.basis.T)
    residual, _ = factor_of(rest, float(np.sqrt(np.max(np.sum(off[known] ** 2, axis=1)))))
    _, turn = np.linalg.eigh(deviations[known].T @ deviations[known])
    turned = replace(basis, basis=basis.basis @ turn)
    clean = _without_noise(turned, residual, share, scale * off[known])
    return _Output(clean, scores @ turn, deviations @ turn, count, residual)


def _without_noise(basis: OutputBasis, residual: Array, share: float, off: Array) -> OutputBasis:
    """Return the basis with truncation and interpolation errors less what noise makes of them.

    Both were measured on means over replicates, whose noise has `share` of the variance of that of a run.
    """
    total, own = np.sum(basis.truncation**2, axis=1), share * np.sum(residual**2, axis=1)
    kept = np.sqrt(np.clip(1.0 - own / np.maximum(total, 1e-300), 0.0, 1.0))
    between = basis.interpolation_sd
    if len(between):
        grid = basis.coords[basis.dims[0]]
        between = np.sqrt(np.maximum(between**2 - share * interpolation_error(grid, off) ** 2, 0.0))
    return replace(basis, truncation=basis.truncation * kept[:, None], interpolation_sd=between)


def correlation_of_residuals(process: ScoreProcess) -> Array | None:
    """Return the correlation (q, q) of fitted noise between scores, that of the residuals of the runs; None without.

    A residual is what of a run is explained by noise, s2 nugget K^-1 (y - trend), with the most probable
    hyperparameters.
    """
    h = int(np.argmax(process.log_weights))
    noisy = process.nugget[h] > NOISELESS
    if np.sum(noisy) < 2:
        return None
    columns = [process.inverse_factor[h, j].T @ process.target[h, j] for j in range(process.q)]
    known = np.all([process.known(j) for j in range(process.q)], axis=0)
    return _correlation_of(np.where(noisy, np.column_stack(columns), 0.0)[known])


def root_of_correlation(correlation: Float[np.ndarray, "q q"]) -> Float[np.ndarray, "q q"]:
    """Return a lower root of a correlation, which may be singular."""
    return np.asarray(np.linalg.cholesky(correlation + ROUNDED * np.eye(len(correlation))))


def _correlation(standard: Array, count: Ints) -> Array:
    """Return the correlation of standardised deviations over the runs that have all of them."""
    return _correlation_of(standard[np.isfinite(standard).all(axis=1) & (count > 1).all(axis=1)])


def _correlation_of(rows: Array) -> Array:
    """Return the correlation (q, q) of deviations (n, q) from zero; scores without deviations correlate with none."""
    total = rows.T @ rows
    sd = np.sqrt(np.diagonal(total))
    sd = np.where(sd > 0.0, sd, 1.0)
    correlation = total / np.outer(sd, sd)
    np.fill_diagonal(correlation, 1.0)
    return np.asarray(correlation)
