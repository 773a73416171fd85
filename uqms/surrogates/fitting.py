"""Hyperparameters of all scores, trained and averaged where it matters, and the processes conditioned on them.

==========  =============================================================  =========
symbol      meaning                                                        shape
==========  =============================================================  =========
x, y        inputs in the unit cube, scores; NaN where a run has none      (n, d), (n, q)
noise       whether one is trained, or known variances of the runs, by     (n, q)
            score; zeros: a score has none
cheap       scores of a cheap model                                        (n, q)
==========  =============================================================  =========

What is found for a score depends on its own runs only, whatever the other scores and the order of runs and inputs.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, final

import numpy as np

from uqms._typing import Array, Ints
from uqms.surrogates import averaging
from uqms.surrogates.adapted import OneOf, converted
from uqms.surrogates.climbing import FINE, climb
from uqms.surrogates.correlated import LeftOut, left_out_errors, with_scores_in_common
from uqms.surrogates.kernels import Kernel, hyperparameter_count
from uqms.surrogates.outputs import OutputBasis, score_columns
from uqms.surrogates.process import ScoreProcess, average, condition
from uqms.surrogates.training import (
    STARTS,
    STARTS_MORE,
    SUBSET,
    Hyperparameters,
    Noise,
    Rival,
    bounds_of,
    fits_exactly,
    hyperparameters_at,
    log_posterior,
    prior_of,
    starting_points,
    subset,
    taken,
    train,
    trend_basis,
    with_nuggets,
)

__all__ = ["Fitting", "Probable", "orders_of", "own_order"]

FEW = 20  # runs per input up to which hyperparameters are averaged, and which choose a kernel
FEW_LEARNED = 30  # the same of kernels that learn directions or an amplitude, or were chosen: they have more of them
LEAST = 60  # runs that choose a kernel, where there are as many
BETWEEN = 0.1  # share of the variance of left-out runs above which they are averaged too
ROUNDS, POINTS = (1, 3), 512  # of draws of a kernel that was chosen, which has more hyperparameters; of a round
SMOOTH_POINT = 1  # smoother kernels that a point estimate of few runs may take: with more it is overconfident
RICHER = -2.0  # log prior odds of a kernel with main effects, or a smoother one: few runs prefer one by chance
TIE = 2.0  # of log evidence: within it a single kernel is the simplest
FAR = 6.0  # below the largest log evidence: no draw would be of such a kernel
APPROXIMATE = 10.0  # of log evidence, by which two that come from the average information may be wrong
UNLIKELY = 3.0  # of log evidence, behind which a kernel with main effects is given up
HOPELESS = 20.0  # of log posterior, by which other inputs are behind when they are given up
ROUGH = 1e-2  # nats from the mode at which climbs end where inputs are compared
PREDICTED = 1e-4  # sd of the errors of left-out runs over that of all: below it no other kernel is tried
ROUNDING = 1e-5  # sd of a left-out run over that of the process: the next kernel's may be a tenth, and 1e-7 is lost
LARGEST = 2**30  # bytes that averaging may take without having been asked for


def few_runs(kernel: Kernel, d: int) -> int:
    """Return the number of runs of d inputs up to which point estimates make intervals too narrow."""
    return (FEW if kernel.plain else FEW_LEARNED) * d


class Probable(NamedTuple):
    """Logarithms of hyperparameters of one score, with their log posterior."""

    value: float
    point: Array


@final
@dataclass(frozen=True, eq=False)
class Fitting:
    """What all scores share while they are trained.

    With `doubted` the cheap model may be misleading: its part in the mean is averaged over being there or not. What has
    another `label` has hyperparameter draws that are independent of these. With `only`, these scores have a nugget and
    the others are exact. Of several kernels, `OneOf`, each score has those that its runs ask for. Whether
    hyperparameters are averaged is a question to the runs that are `judged`, all by default: many runs of a lower level
    do not make up for few. With `laplace`, draws come from a normal approximation at each mode, which is much faster.
    """

    x: Array
    kernel: Kernel
    columns: int
    noise: bool | Array
    hyperparameters: Literal["auto", "averaged", "point"]
    cheap: Array | None = None
    doubted: bool = False
    label: str = ""
    judged: Ints | None = None
    only: Ints | None = None
    laplace: bool = False

    def trained(self, y: Array, exact: Sequence[Hyperparameters] | None = None) -> list[Hyperparameters]:
        """Return the most probable hyperparameters of every score.

        With a nugget the search can begin at `exact`, what was found for the scores without one.
        """
        kernel, every = self.kernel, [self._ordered(y, j) for j in range(y.shape[1])]
        starts = [None if exact is None else each.near(kernel, exact[j]) for j, each in enumerate(every)]
        if isinstance(kernel, OneOf):
            averages = self.hyperparameters == "averaged" or self._few(y)
            most = SMOOTH_POINT if self.hyperparameters == "point" and self._few(y) else None
            return [
                each.chosen(kernel, self.columns, averages, most, near)
                for each, near in zip(every, starts, strict=True)
            ]
        return [each.trained(kernel, self.columns, starts=near) for each, near in zip(every, starts, strict=True)]

    def most_probable(self, y: Array, others: Sequence[Probable] | None = None) -> tuple[float, list[Probable]]:
        """Return the largest log posterior of the scores (n, q), summed, and each with where it is.

        All is learned that may be. Of many runs some say it. Inputs stay in this order, so that it can be compared with
        that of `others`, other inputs, from which the search starts and which it need not beat.
        """
        found: list[Probable] = []
        ahead = 0.0
        for j in range(y.shape[1]):
            one = _ordered(self.x, y[:, j], self._noise_of(j), None, exchangeable=False)
            other = None if others is None else others[j]
            least = -math.inf if other is None else other.value - ahead - HOPELESS
            found.append(one.most_probable(self.kernel, self.columns, other and other.point, least))
            ahead += 0.0 if other is None else found[-1].value - other.value
            if ahead < -HOPELESS and others is not None:
                found += others[j + 1 :]
                break
        return math.fsum(one.value for one in found), found

    def log_evidence(self, y: Array, found: Sequence[Hyperparameters]) -> Array:
        """Return how probable each score (q,) is, whatever its kernel, with and without the cheap model.

        Infinite where a trend passes through all runs.
        """
        every = [self._ordered(y, j) for j in range(y.shape[1])]
        return np.array(
            [each.log_evidence(self.kernel, self.columns, one) for each, one in zip(every, found, strict=True)]
        )

    def left_out(self, y: Array, found: Sequence[Hyperparameters]) -> Array:
        """Return errors and variances (2, n, q) of left-out scores, NaN where a run has none."""
        out = np.full((2, *y.shape), np.nan)
        for j, one in enumerate(found):
            known = np.isfinite(y[:, j])
            left = self._left_out(y[known, j], self.x[known], one, np.empty((int(known.sum()), 0)))
            out[:, known, j] = left.error, left.variance
        return out

    def _left_out(self, score: Array, runs: Array, one: Hyperparameters, others: Array) -> LeftOut:
        return left_out_errors(runs, score, trend_basis(runs, self.columns), self.kernel, one, others)

    def with_scores_in_common(
        self, y: Array, bases: Sequence[OutputBasis], found: Sequence[Hyperparameters]
    ) -> tuple["Fitting", Array, list[OutputBasis], list[Hyperparameters]]:
        """Return all with joint scores where errors of scalars correlate.

        Scalars whose runs have noise cannot be among them.
        """
        scalars = replace(self, noise=False, only=None)

        def train_score(score: Array) -> Hyperparameters:
            return scalars.trained(score[:, None])[0]

        def left_out(score: Array, one: Hyperparameters, others: Array) -> LeftOut:
            known = np.isfinite(score)
            return self._left_out(score[known], self.x[known], one, others[known])

        y, bases, found, kept = with_scores_in_common(y, bases, found, train_score, left_out)
        noise = self.noise if isinstance(self.noise, bool) else self.noise[:, kept]
        only = None if self.only is None else np.flatnonzero(np.isin(np.flatnonzero(kept), self.only))
        return replace(self, noise=noise, only=only), y, bases, found

    def conditioned(self, y: Array, found: Sequence[Hyperparameters], bases: Sequence[OutputBasis]) -> ScoreProcess:
        """Return the processes of every score, with draws of their hyperparameters where these matter."""
        draws = [list(found)]
        if self._averages(y, found, bases):
            orders = orders_of(bases, self.label)
            by_score = [
                self._ordered(y, j).draws(self.kernel, self.columns, one, orders[j], self.doubted, self.laplace)
                for j, one in enumerate(found)
            ]
            draws = [list(scores) for scores in zip(*by_score, strict=True)]
        elif self.doubted:
            draws = [[self._ordered(y, j).better(self.kernel, self.columns, one) for j, one in enumerate(found)]]
        noise = None if isinstance(self.noise, bool) else self.noise
        kernel = self.kernel
        if isinstance(kernel, OneOf):
            kernel, ells = kernel.fewest(np.array([[one.ell for one in draw] for draw in draws]), self.x.shape[1])
            draws = [
                [replace(one, ell=ell) for one, ell in zip(draw, of_draw, strict=True)]
                for draw, of_draw in zip(draws, ells, strict=True)
            ]
        return average(
            [condition(kernel, self.x, y, self.columns, one, cheap=self.cheap, noise=noise) for one in draws]
        )

    def _ordered(self, y: Array, j: int) -> "_Ordered":
        cheap = None if self.cheap is None else self.cheap[:, j]
        return _ordered(self.x, y[:, j], self._noise_of(j), cheap, self.kernel.exchangeable)

    def _noise_of(self, j: int) -> Noise:
        if isinstance(self.noise, bool):
            return self.noise and (self.only is None or j in self.only)
        return self.noise[:, j] if self.noise[:, j].any() else False

    def _averages(self, y: Array, found: Sequence[Hyperparameters], bases: Sequence[OutputBasis]) -> bool:
        """Decide whether hyperparameters are averaged.

        Where runs are many and the kernel was chosen, its mode predicts better than draws, which leave the narrow ridge
        that directions and length scales have in common.
        """
        n = len(self.x)
        if self.hyperparameters != "auto" or self._few(y):
            return self.hyperparameters != "point"
        if isinstance(self.kernel, OneOf):
            return False
        if averaging.DRAWS * y.shape[1] * n * n * 8 > LARGEST:
            return False
        # Fewer runs leave more open: when it does not matter with some of them, it does not with all.
        if n >= 2 * SUBSET and self.judged is None and not self._matters(y, found, bases, subset(n)):
            return False
        return self._matters(y, found, bases, np.arange(n))

    def _few(self, y: Array) -> bool:
        """Tell whether some score has few of the runs that are judged."""
        n, d = self.x.shape
        judged = np.arange(n) if self.judged is None else self.judged
        return bool(np.isfinite(y[judged]).sum(axis=0).min(initial=n) <= few_runs(self.kernel, d))

    def _matters(self, y: Array, found: Sequence[Hyperparameters], bases: Sequence[OutputBasis], runs: Ints) -> bool:
        """Tell whether uncertain hyperparameters make more than `BETWEEN` of the variance of left-out runs."""
        both = np.zeros((2, len(runs), y.shape[1]))
        for j, one in enumerate(found):
            known = np.isfinite(y[runs, j])
            rows = runs[known]
            if y[rows, j].any():
                more = () if self.cheap is None else (self.cheap[rows, j],)
                noise = taken(self._noise_of(j), rows)
                both[:, known, j] = averaging.between_share(
                    self.x[rows], y[rows, j], self.kernel, self.columns, noise, one, *more
                )
        between, own = both if self.judged is None else both[:, np.isin(runs, self.judged)]
        for basis, columns_of in zip(bases, score_columns(bases), strict=True):
            size = np.sum(basis.basis**2, axis=0)
            spread, rest = float(np.sum(between[:, columns_of] * size)), float(np.sum(own[:, columns_of] * size))
            rest += len(own) * float(np.sum(basis.truncation**2))
            if spread > BETWEEN * (spread + rest):
                return True
        return False


class _Ordered(NamedTuple):
    """The runs that have a score, and the inputs, in an order that does not depend on that in which they come."""

    x: Array
    y: Array
    noise: Noise
    cheap: tuple[Array, ...]
    inputs: Ints

    def near(self, kernel: Kernel, exact: Hyperparameters) -> Array | None:
        """Return starts of a search with a nugget: what was found without one, then the usual starts.

        Without a nugget, runs that scatter lead to length scales that are too short, so the first start alone would not
        do. The starts are hyperparameters of the simplest kernel. None is returned if it was trained by some of the
        runs only.
        """
        d = self.x.shape[1]
        if isinstance(kernel, OneOf):
            simple = kernel.kernels[0]
            at = next((one.at.mode for one in exact.rivals if one.kernel == simple), None)
        else:
            simple, at = kernel, np.log(_permuted(exact, kernel, self.inputs).ell) if exact.starts else None
        if at is None:
            return None
        return np.vstack([with_nuggets(simple, d, at)[:1], starting_points(simple, d, STARTS_MORE, True)])

    def trained(self, kernel: Kernel, columns: int, soon: bool = False, starts: Array | None = None) -> Hyperparameters:
        """Return the most probable hyperparameters; `soon`, where the kernel has an average information."""
        if not self.y.any():  # a constant output: its basis is zero, so only finite numbers are needed
            ones = np.ones(hyperparameter_count(kernel, self.x.shape[1]))
            noisy = float(self.noise is not False)
            return Hyperparameters(ones, noisy, 1e-12, 0.0, 0, False, cheap=self._tells(columns))
        if not self._tells(columns):
            return replace(self._without().trained(kernel, columns - 1), cheap=False)
        trend = trend_basis(self.x, columns, *self.cheap)
        if self.cheap and fits_exactly(trend, self.y):
            return Hyperparameters(np.ones(hyperparameter_count(kernel, self.x.shape[1])), 0.0, 1e-12, 0.0, 0, False)

        def search(start: Array, rows: Ints) -> tuple[float, Array]:
            of_some = climb(self.x[rows], self.y[rows], trend[rows], kernel, taken(self.noise, rows), start, FINE)
            return of_some.value, of_some.point

        found = train(self.x, self.y, kernel, trend, self.noise, starts, search if soon else None)
        return _permuted(found, kernel, np.argsort(self.inputs))

    def chosen(
        self,
        kernel: OneOf,
        columns: int,
        averages: bool,
        most: int | None = None,
        starts: Array | None = None,
    ) -> Hyperparameters:
        """Return the most probable hyperparameters of one kernel, beside its rivals where draws are to be made.

        It is the one whose evidence is largest; of several that are about as probable, that which learns least. Of many
        runs some choose the kernel, and all train it. At most `most` smoother kernels are tried.
        """
        if self.y.any() and not self._tells(columns):
            return replace(self._without().chosen(kernel, columns - 1, averages, most), cheap=False)
        d, first = self.x.shape[1], kernel.kernels[0]
        plain = self._unordered().trained(first, columns, True, starts)
        rivals: list[Rival] = []
        if plain.starts:
            rows = self._choosing()
            some = self._some(rows)
            asks = self._asks(first, columns, plain)
            close = FAR if averages and len(rows) == len(self.x) else TIE
            rivals = some._rivals(kernel, columns, averaging.logarithms(plain, self.noise), asks, close, self, most)
            if len(rows) < len(self.x):  # what some say of its hyperparameters is too wide for all
                of_some = _simplest(rivals, kernel)
                if averages:
                    of_all = self._rough(of_some.kernel, columns, of_some.at.mode)
                    of_some = self._rival(of_all.kernel, columns, of_all.at.mode, of_all.at.covariance)
                rivals = [of_some]
        best = _simplest(rivals, kernel) if rivals else None
        if best is None or best.kernel == first:
            found = replace(plain, ell=kernel.ell_of(first, plain.ell, d))
        else:
            end = self._climbed(best.kernel, columns, best.at.mode, FINE)
            found = hyperparameters_at(end.point, end.value, self.x, best.kernel, self.noise)
            found = replace(found, ell=kernel.ell_of(best.kernel, found.ell, d))
        return _permuted(replace(found, rivals=tuple(rivals)), kernel, np.argsort(self.inputs))

    def most_probable(self, kernel: Kernel, columns: int, start: Array | None, least: float) -> Probable:
        """Return the largest log posterior of the runs that choose, of the richest kernel; or what is below `least`."""
        some, (simple, *more) = self._some(self._choosing()), [kernel]
        if isinstance(kernel, OneOf):
            simple, *more = kernel.adapted()
        if not some.y.any():
            return Probable(0.0, np.empty(0))
        if start is None:
            starts = starting_points(simple, self.x.shape[1], STARTS, self.noise)
            start = max((some._climbed(simple, columns, one, ROUGH) for one in starts), key=_objective).point
            if more:
                own = len(start) - (self.noise is not False)
                ell = converted(np.exp(start[:own]), simple, more[-1], self.x.shape[1])
                start = np.append(np.log(ell), start[own:])
        return some._climbed(more[-1] if more else simple, columns, start, ROUGH, least)

    def _climbed(
        self, kernel: Kernel, columns: int, start: Array, tolerance: float, least: float = -math.inf
    ) -> Probable:
        """Return the most probable hyperparameters that are climbed to from a start; or some, when below `least`."""
        trend = trend_basis(self.x, columns, *self.cheap)
        found = climb(self.x, self.y, trend, kernel, self.noise, start, tolerance, hopeless=-least)
        return Probable(-found.value, found.point)

    def _choosing(self) -> Ints:
        """Return the runs that choose a kernel, all where they are few."""
        size = min(SUBSET, max(LEAST, FEW * self.x.shape[1]))
        return subset(len(self.x), size) if len(self.x) >= 2 * size else np.arange(len(self.x))

    def _some(self, rows: Ints) -> "_Ordered":
        cheap = tuple(one[rows] for one in self.cheap)
        return self._replace(x=self.x[rows], y=self.y[rows], noise=taken(self.noise, rows), cheap=cheap)

    def _rivals(
        self,
        kernel: OneOf,
        columns: int,
        plain: Array,
        asks: bool,
        close: float,
        every: "_Ordered",
        most: int | None,
    ) -> list[Rival]:
        """Return what is compared, each climbed to from the best of those that are a part of it.

        A smoother kernel is compared with as much learned as that which is best without it, and a still smoother one
        where these runs prefer the former; at most `most`. There is none where rounding is near when `every` run is
        left out. One with main effects is given up where its log posterior is far below what would make it as probable
        as the best. Of those whose log evidence is not within `close` of the largest it is approximate, since their
        curvature, which would cost more than the climb, changes nothing.
        """
        d = self.x.shape[1]
        same, *smoother = kernel.choices()
        first, *more = kernel.adapted()
        rivals = [self._rough(first, columns, plain)]
        exact: set[int] = set()

        def best_of(within: float = 0.0) -> Rival:
            least = max(map(_evidence, rivals)) - within - APPROXIMATE
            for i, one in enumerate(rivals):
                if i not in exact and _evidence(one) >= least:
                    found = self._rival(one.kernel, columns, one.at.mode, one.at.covariance)
                    rivals[i] = found._replace(log_odds=one.log_odds)
                    exact.add(i)
            return max(rivals, key=_evidence)

        for rival in more if asks else []:
            best = best_of() if len(rivals) > 1 else rivals[0]
            if len(rivals) == 3 and best is rivals[0]:
                break  # what neither directions nor an amplitude help, both do not
            rivals.append(self._rough(rival, columns, _as_start(best, rival, d, self.noise)))
        for rival in [one for one in same if one not in kernel.adapted()] if asks else []:
            simple, ahead = rivals[0], _evidence(best_of()) - _evidence(rivals[0])
            least = self._log_posterior(simple, columns) + ahead - UNLIKELY
            found = self._rough(rival, columns, _as_start(simple, rival, d, self.noise), least)
            if self._log_posterior(found, columns) >= least:
                rivals.append(found._replace(log_odds=RICHER))
        best = best_of()
        learned, last = same.index(best.kernel), best
        for smooth, several in enumerate(smoother[:most] if asks else [], start=1):
            if every._is_near_rounding(last, columns):
                break
            found = self._rough(several[learned], columns, last.at.mode)
            rivals.append(found._replace(log_odds=smooth * RICHER))
            last = best_of()
            if last.kernel != found.kernel:
                break
        best_of(close)
        return rivals

    def _unordered(self) -> "_Ordered":
        """Return the same runs, whose inputs stay in this order."""
        return self._replace(inputs=np.arange(self.x.shape[1]))

    def _asks(self, kernel: Kernel, columns: int, found: Hyperparameters) -> bool:
        """Tell whether the runs ask for more than the simplest kernel."""
        left = self._left_out(kernel, columns, found)
        return float(np.mean(left.variance)) > PREDICTED**2 * float(np.var(self.y))

    def _is_near_rounding(self, rival: Rival, columns: int) -> bool:
        """Tell whether left-out errors are so small beside the process that a smoother kernel's would be rounding."""
        at_mode = hyperparameters_at(rival.at.mode, rival.at.log_evidence, self.x, rival.kernel, self.noise)
        left = self._left_out(rival.kernel, columns, at_mode)
        return float(np.median(left.variance)) < ROUNDING**2 * left.of_process

    def _left_out(self, kernel: Kernel, columns: int, found: Hyperparameters) -> LeftOut:
        trend, none = trend_basis(self.x, columns, *self.cheap), np.empty((len(self.x), 0))
        return left_out_errors(self.x, self.y, trend, kernel, found, none)

    def _log_posterior(self, one: Rival, columns: int) -> float:
        """Return the log posterior of a rival's mode."""
        trend = trend_basis(self.x, columns, *self.cheap)
        return log_posterior(one.at.mode, self.x, self.y, trend, one.kernel, self.noise)

    def _rough(self, kernel: Kernel, columns: int, start: Array, least: float = -math.inf) -> Rival:
        """Return a rival whose evidence is approximate: by the average information, not by the curvature.

        A climb that will end below the log posterior `least` stops early.
        """
        trend = trend_basis(self.x, columns, *self.cheap)
        found = climb(self.x, self.y, trend, kernel, self.noise, start, FINE, of_logs=True, hopeless=-least)
        mode, covariance = found.point, found.covariance
        return Rival(
            kernel, averaging.around(self.x, self.y, kernel, columns, self.noise, mode, covariance, *self.cheap)
        )

    def _rival(self, kernel: Kernel, columns: int, mode: Array, about: Array | None = None) -> Rival:
        """Return a rival at its mode, by the curvature there; `about` is an approximate covariance."""
        found = averaging.around(self.x, self.y, kernel, columns, self.noise, mode, None, self._cheap, about)
        return Rival(kernel, found)

    def _of_rivals(
        self, kernel: OneOf, columns: int, found: Hyperparameters, order: int, doubted: bool, laplace: bool
    ) -> list[Hyperparameters]:
        """Return draws of the hyperparameters of all rivals, each as often as its probability says."""
        d, drawn = self.x.shape[1], []
        far = max(map(_evidence, found.rivals)) - FAR
        rivals = [one for one in found.rivals if _evidence(one) >= far]
        expected = averaging.DRAWS * _fractions(np.array([_evidence(one) for one in rivals]))
        each = zip(rivals, np.maximum(expected, 1.0), strict=True)
        samples = [self._approximated(one) if laplace else self._sampled(one, draws, columns) for one, draws in each]
        evidence = np.array([a.log_evidence + b.log_odds for a, b in zip(samples, rivals, strict=True)])
        doubts: list[averaging.Doubt | None] = [None] * len(rivals)
        if doubted and self.cheap:
            several = [self._doubt(points, one.kernel, columns) for one, points in zip(rivals, samples, strict=True)]
            evidence += [one.log_evidence for one in several]
            doubts = list(several)
        counts = _apportioned(_fractions(evidence), averaging.DRAWS)
        for one, points, doubt, count in zip(rivals, samples, doubts, counts, strict=True):
            if count:
                some = self._drawn(points, doubt, columns, order, count)
                drawn += [replace(draw, ell=kernel.ell_of(one.kernel, draw.ell, d)) for draw in some]
        return [drawn[i] for i in np.random.default_rng(order).permutation(len(drawn))]

    def _sampled(self, one: Rival, draws: float, columns: int) -> averaging.Sample:
        """Return points of the posterior of a kernel's hyperparameters."""
        return averaging.sample_from(
            self.x,
            self.y,
            one.kernel,
            columns,
            self.noise,
            one.at,
            self._cheap,
            rounds=ROUNDS,
            draws=draws,
            most=POINTS,
        )

    def _approximated(self, one: Rival) -> averaging.Sample:
        """Return points of a normal approximation to the same posterior."""
        d = self.x.shape[1]
        _, scale = prior_of(one.kernel, d, self.noise)
        return averaging.approximate(one.at, scale, bounds_of(one.kernel, d, self.noise))

    def _drawn(
        self, points: averaging.Sample, doubt: averaging.Doubt | None, columns: int, order: int, count: int
    ) -> list[Hyperparameters]:
        """Return draws of the points, some of them without the cheap model where it may say nothing."""
        degrees, some = len(self.y) - columns, 0 if doubt is None else round(doubt.share * count)
        drawn = averaging.draws_of(points, degrees, self.noise, order, count - some) if count > some else []
        if doubt is None or not some:
            return drawn
        without = averaging.draws_of(doubt.sample, degrees + bool(self.cheap), self.noise, order, some)
        both = drawn + [replace(one, cheap=False) for one in without]
        return [both[i] for i in np.random.default_rng(order).permutation(len(both))]

    def draws(
        self, kernel: Kernel, columns: int, found: Hyperparameters, order: int, doubted: bool, laplace: bool
    ) -> list[Hyperparameters]:
        """Return draws of the hyperparameters, in an order of their own."""
        if not found.starts:  # nothing was there to train
            return [replace(found, rivals=())] * averaging.DRAWS
        if not found.cheap:
            rest = self._without().draws(kernel, columns - 1, replace(found, cheap=True), order, False, laplace)
            return [replace(one, cheap=False) for one in rest]
        if found.rivals and isinstance(kernel, OneOf):
            drawn = self._of_rivals(kernel, columns, found, order, doubted, laplace)
            return [_permuted(draw, kernel, np.argsort(self.inputs)) for draw in drawn]
        here = _permuted(found, kernel, self.inputs)
        if laplace:
            points = self._approximated(self._rival(kernel, columns, averaging.logarithms(here, self.noise)))
        else:
            points = averaging.sample(self.x, self.y, kernel, columns, self.noise, here, *self.cheap)
        doubt = self._doubt(points, kernel, columns) if doubted else None
        drawn = self._drawn(points, doubt, columns, order, averaging.DRAWS)
        return [_permuted(draw, kernel, np.argsort(self.inputs)) for draw in drawn]

    def log_evidence(self, kernel: Kernel, columns: int, found: Hyperparameters) -> float:
        """Return how probable the runs are, whatever the kernel, with and without the cheap model."""
        if not found.starts:
            return math.inf
        if not found.cheap:
            return self._without().log_evidence(kernel, columns - 1, replace(found, cheap=True))
        rivals = found.rivals
        if not rivals:
            here = _permuted(found, kernel, self.inputs)
            own, ell = kernel.of(here.ell, self.x.shape[1])
            mode = averaging.logarithms(replace(here, ell=ell), self.noise)
            rivals = (Rival(own, averaging.at_mode(self.x, self.y, own, columns, self.noise, mode, self._cheap)),)
        logs = [_evidence(one) for one in rivals]
        if self.cheap:
            for i, one in enumerate(rivals):
                points = averaging.Sample(one.at.mode[None], np.ones(1), 1.0)
                logs[i] += self._doubt(points, one.kernel, columns).log_evidence
        return float(np.logaddexp.reduce(logs))

    def better(self, kernel: Kernel, columns: int, found: Hyperparameters) -> Hyperparameters:
        """Return the hyperparameters, or those without the cheap model where these are more probable."""
        if not found.starts or not found.cheap or not self.cheap:
            return found
        here = _permuted(found, kernel, self.inputs)
        own, ell = kernel.of(here.ell, self.x.shape[1])
        points = averaging.Sample(averaging.logarithms(replace(here, ell=ell), self.noise)[None], np.ones(1), 1.0)
        if self._doubt(points, own, columns).share < 0.5:
            return found
        rest = self._without()
        if isinstance(kernel, OneOf):
            return replace(rest.chosen(kernel, columns - 1, averages=False), cheap=False)
        return replace(rest.trained(kernel, columns - 1), cheap=False)

    def _doubt(self, points: averaging.Sample, kernel: Kernel, columns: int) -> averaging.Doubt:
        """Return how probable it is that the cheap model, or a lower level, says nothing."""
        if self.cheap:
            return averaging.without_cheap(points, self.x, self.y, kernel, columns, self.noise, *self.cheap)
        place = kernel.doubted(self.x.shape[1])
        if place is None:
            return averaging.Doubt(0.0, points, 0.0)
        location, scale = prior_of(kernel, self.x.shape[1], self.noise)
        return averaging.at_zero(points, place, float(location[place]), float(scale[place]))

    def _tells(self, columns: int) -> bool:
        """Tell whether the runs determine the scale of the cheap model, if there is one."""
        trend = trend_basis(self.x, columns, *self.cheap)
        return not self.cheap or (len(trend) > columns + 1 and np.linalg.matrix_rank(trend) == columns)

    @property
    def _cheap(self) -> Array | None:
        return self.cheap[0] if self.cheap else None

    def _without(self) -> "_Ordered":
        return self._replace(cheap=())


def _permuted(found: Hyperparameters, kernel: Kernel, inputs: Ints) -> Hyperparameters:
    """Return hyperparameters of the same process of inputs in another order."""
    return replace(found, ell=kernel.reordered(found.ell, inputs)) if kernel.exchangeable else found


def _as_start(found: Rival, kernel: Kernel, d: int, noise: Noise) -> Array:
    """Return where the search for another kernel starts: at the mode of one that is a part of it."""
    mode, own = found.at.mode, len(found.at.mode) - (noise is not False)
    return np.append(np.log(converted(np.exp(mode[:own]), found.kernel, kernel, d)), mode[own:])


def _simplest(rivals: Sequence[Rival], kernel: OneOf) -> Rival:
    """Return the rival that learns least of those that are about as probable as the best; of several the likeliest."""
    enough = max(map(_evidence, rivals)) - TIE
    about = [one for one in rivals if _evidence(one) >= enough]
    return min(about, key=lambda one: (kernel.learned(one.kernel), -_evidence(one)))


def _objective(found: Probable) -> float:
    return found.value


def _evidence(one: Rival) -> float:
    return one.at.log_evidence + one.log_odds


def _fractions(log_weights: Array) -> Array:
    """Return weights that sum to 1; log weights are infinite where the trend passes through all runs."""
    if np.isfinite(log_weights).all():
        return np.asarray(np.exp(log_weights - np.logaddexp.reduce(log_weights)))
    finite = np.nan_to_num(log_weights, nan=-1e300, posinf=1e300, neginf=-1e300)
    weights = np.exp(finite - finite.max())
    return np.asarray(weights / weights.sum())


def _apportioned(shares: Array, count: int) -> Ints:
    """Return whole numbers of the sum `count` that are nearest to shares of it: largest remainders."""
    wanted = shares * count
    out = np.floor(wanted).astype(np.int64)
    out[np.argsort(out - wanted, kind="stable")[: count - int(out.sum())]] += 1
    return out


def orders_of(bases: Sequence[OutputBasis], label: str) -> list[int]:
    """Return a number for every score and label, which does not depend on what other outputs there are."""
    labels: dict[int, list[str]] = {}
    for basis, columns in zip(bases, score_columns(bases), strict=True):
        for i, j in enumerate(columns):
            labels.setdefault(int(j), []).append(f"{basis.name}[{i}]")
    return [zlib.crc32(" ".join([*sorted(labels[j]), *label.split()]).encode()) for j in sorted(labels)]


def own_order(x: Array, y: Array, exchangeable: bool = True) -> tuple[Ints, Ints]:
    """Return rows and columns of x (n, d) in an order that does not depend on that in which they come."""
    inputs = np.arange(x.shape[1])
    if exchangeable:
        inputs = np.argsort([abs(math.fsum(x[:, j] * y)) for j in inputs])
    return np.lexsort(x[:, inputs[::-1]].T), inputs


def _ordered(x: Array, y: Array, noise: Noise, cheap: Array | None, exchangeable: bool) -> _Ordered:
    known = np.flatnonzero(np.isfinite(y))
    x, y = x[known], y[known]
    rows, inputs = own_order(x, y, exchangeable)
    more = () if cheap is None else (cheap[known[rows]],)
    return _Ordered(x[np.ix_(rows, inputs)], y[rows], taken(noise, known[rows]), more, inputs)
