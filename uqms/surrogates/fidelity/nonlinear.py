"""Nonlinear levels of fidelity: each is a function of the inputs and of the level below.

==========  ======================================================================  ===========
symbol      meaning                                                                 shape
==========  ======================================================================  ===========
h           member: hyperparameters of all levels, and one draw of each level       (H,)
            but the highest as a whole function
c           value of the level below, of the member's function                      (n,)
a           anchors at which functions are drawn                                    (a, d)
==========  ======================================================================  ===========

Given a member the highest level is Gaussian, and a posterior is the mixture of members. A function is drawn at the
runs, at anchors where most of it is open and at inputs of the level above that it has not run. What that leaves open
of it is carried on to first order (`ladder`). Members whose function explains the level above better weigh more; where
designs are nested they know it there, and weigh the same.

What a level says of the next is one of three ways, in as many members as it is probable by marginal likelihood: a
function of it, a multiple of it, or nothing. Few runs do not carry the many hyperparameters of the first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, final

import numpy as np
import xarray as xr

from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, Ints
from uqms.errors import InputError
from uqms.surrogates import averaging
from uqms.surrogates.cokriging import WithLower, expanded
from uqms.surrogates.fidelity.autoregressive import (
    fitted_levels,
    fitting_of,
    ladder_of,
    on_chosen_scales,
    preferred,
    step_of,
)
from uqms.surrogates.fidelity.ladder import Ladder, Step
from uqms.surrogates.fidelity.levels import Levels, check_levels, read_levels, top_runs
from uqms.surrogates.fidelity.surrogate import MultiFidelitySurrogate
from uqms.surrogates.kernels import NEVER, Matern52, RadialKernel, SquaredExponential
from uqms.surrogates.outputs import Curve, Scalar, check_outputs
from uqms.surrogates.process import ScoreProcess, condition, draw_at, sobol_points, stacked
from uqms.surrogates.training import Hyperparameters, fits_exactly, log_posterior, train, trend_basis

__all__ = ["NonlinearMultiFidelity"]

MEMBERS = 32
CANDIDATES, ANCHORS = 512, 64  # among which anchors are chosen, and at most so many a level
NEGLIGIBLE = 1e-3  # of the largest variance: where functions are known better, none is drawn
FEW = 20  # runs per input up to which hyperparameters are averaged
FLAT = 1e-9  # range of a level, whose sd is 1, that says nothing


@taught
@final
@dataclass(frozen=True)
class NonlinearMultiFidelity:
    """Surrogate of the highest of several levels of fidelity that bend or stretch each other.

    Use it when the levels are clearly related but not by a factor: a phase that shifts, a saturation, a square. Level t
    is then a Gaussian process of the inputs and of level t - 1, with the kernel k_rho(f) k_f(u) + k_delta(u); it needs
    enough runs of the highest level to learn that (a dozen or two), and pays with d + 2 more hyperparameters. Where
    levels differ by a factor and something smooth, `MultiFidelity` needs fewer runs.

    Parameters
    ----------
    levels
        Names of the levels as in the ensemble's coordinate `fidelity`, the cheapest first; the last one is predicted.
    kernel
        `Matern52()` (default), `Matern32()` or `SquaredExponential()`, of the lowest level and of the inputs in those
        above. What the level below says is thought to be smooth: k_rho is a squared exponential.
    hyperparameters
        "averaged", "point" or "auto", as in `GaussianProcess`. Functions of the lower levels are drawn in any case.
    outputs
        Settings by output name, `Scalar(...)` or `Curve(...)`; those of all levels. Curves have one basis.
    cost
        Cost of a run by level, for `uqms.next_level`. By default what the ensemble's coordinate `cost` says, or the
        mean of its `seconds`.
    scales
        "auto" (default): where no level's runs make a function of the level below more probable than a multiple of it
        (or than nothing), with scales chosen as in `GaussianProcess`, the surrogate is that of `MultiFidelity`; its
        print says so. "given": levels are functions of those below in any case, and no scales are chosen. Designs that
        are not nested are always treated so.

    Raises
    ------
    InputError
        When a setting is not one of those.

    References
    ----------
    Perdikaris et al. (2017), doi:10.1098/rspa.2016.0751.

    Examples
    --------
    >>> import numpy as np
    >>> import uqms as uq
    >>> designs = uq.nested(uq.ParameterSpace(x=uq.Uniform(0.0, 1.0)), {"coarse": 48, "fine": 14}, rng=1)
    >>> def level(fidelity):
    ...     x = designs[fidelity]["x"].values
    ...     low = np.sin(8.0 * np.pi * x)
    ...     y = low if fidelity == "coarse" else (x - np.sqrt(2.0)) * low**2
    ...     return uq.ensemble.build(designs[fidelity], {"y": y}, fidelity=fidelity)
    >>> runs = uq.ensemble.combine(level("coarse"), level("fine"))
    >>> surrogate = uq.NonlinearMultiFidelity(levels=("coarse", "fine")).fit(runs)
    >>> bool(abs(surrogate.predict({"x": 0.55}).mean["y"].item() + 0.7817) < 0.1)
    True
    """

    levels: Sequence[str]
    kernel: RadialKernel = field(default_factory=Matern52)
    hyperparameters: Literal["auto", "averaged", "point"] = "auto"
    outputs: Mapping[str, Curve | Scalar] = field(default_factory=dict)
    cost: Mapping[str, float] | None = None
    scales: Literal["auto", "given"] = "auto"

    def __post_init__(self) -> None:
        check_levels(self.levels, "NonlinearMultiFidelity")
        check_outputs(self.outputs, "NonlinearMultiFidelity")
        if not isinstance(self.kernel, RadialKernel):
            raise InputError(
                f"kernel is {self.kernel!r}; give Matern52(), another Matérn kernel or SquaredExponential()."
            )
        if self.hyperparameters not in ("auto", "averaged", "point"):
            raise InputError(f"hyperparameters is {self.hyperparameters!r}; give 'auto', 'averaged' or 'point'.")
        if self.scales not in ("auto", "given"):
            raise InputError(f"scales is {self.scales!r}; give 'auto' or 'given'.")

    @single_threaded
    def fit(self, ensemble: xr.Dataset) -> MultiFidelitySurrogate:
        """Train on the completed runs of all levels and return the surrogate of the highest.

        Parameters
        ----------
        ensemble
            Dataset with dim "run" and the coordinate "fidelity" along it (see `uqms.ensemble.combine`).

        Returns
        -------
        MultiFidelitySurrogate
            A frozen value of plain arrays.

        Raises
        ------
        InputError
            When the ensemble has no runs of a level, runs of a level that is not named, or settings do not fit.
        DataError
            Without a coordinate "fidelity", or with values that cannot be learned.
        DesignError
            With too few runs of a level.
        """
        levels = read_levels(ensemble, self.levels, self.outputs, self.cost)
        if self.scales == "auto" and levels.nested:
            scaled, kernel = on_chosen_scales(levels, self.kernel, 1, self.hyperparameters)
            count = range(len(levels.names))
            fittings = [fitting_of(scaled, t, kernel, 1, self.hyperparameters) for t in count]
            trained = [one.trained(scaled.y[t]) for t, one in enumerate(fittings)]
            logs = [one.log_evidence(scaled.y[t], trained[t]) for t, one in enumerate(fittings)]
            if not any(_bends(levels, t, self.kernel, logs[t]) for t in count[1:]):
                steps = [step_of(scaled, t, fittings[t], trained[t]) for t in count]
                return preferred(levels, scaled, steps, kernel, 1, self.hyperparameters)
        return _Climb(levels, self.kernel, self.hyperparameters).surrogate()

    def judged(self, ensemble: xr.Dataset) -> Ints:
        """Return the positions of the runs that predictions are compared with: those of the highest level."""
        return top_runs(ensemble, self.levels)


def _bends(levels: Levels, t: int, kernel: RadialKernel, others: Array) -> bool:
    """Return whether a score of level t is more probably a function of the level below than a multiple, or neither.

    `others` (q,) are the log evidences of the latter, with the scales and kernels that the runs prefer.
    """
    both = WithLower(SquaredExponential(), kernel)
    for y, c, other in zip(levels.y[t].T, levels.y[t - 1][levels.below[t]].T, others, strict=True):
        if np.isfinite(other) and np.ptp(c) > FLAT:
            rows = np.column_stack([c, levels.x[t]])
            mode = averaging.logarithms(train(rows, y, both, trend_basis(rows, 1), False), False)
            if averaging.at_mode(rows, y, both, 1, False, mode).log_evidence > other:
                return True
    return False


class _Way(NamedTuple):
    """What a level says of the next, "function", "multiple" or "nothing", with hyperparameters of that model."""

    kind: Literal["function", "multiple", "nothing"]
    one: Hyperparameters

    def conditioned(self, kernel: RadialKernel, c: Array, x: Array, y: Array) -> ScoreProcess:
        """Return the process over (c, x), of the same kernel and trend functions in all ways."""
        d, both = x.shape[1], WithLower(SquaredExponential(), kernel)
        if self.kind == "function":
            ell = expanded(both, d + 1, self.one.ell)
        else:  # the share of what depends on c is zero
            ell = expanded(both, d + 1, np.concatenate([np.ones(1 + d), self.one.ell, [NEVER]]))
        whole = replace(self.one, ell=ell, cheap=self.kind == "multiple")
        return condition(both.full, np.column_stack([c, x]), y[:, None], 2, [whole])

    def log_fit(self, kernel: RadialKernel, c: Array, x: Array, y: Array) -> float:
        """Return how probable the runs are with these values of the level below, up to a constant."""
        if self.kind == "nothing" or not y.any():
            return 0.0
        p = np.log(self.one.ell)
        if self.kind == "multiple":
            return log_posterior(p, x, y, trend_basis(x, 2, c), kernel, False)
        both = WithLower(SquaredExponential(), kernel)
        return log_posterior(p, np.column_stack([c, x]), y, np.ones((len(x), 1)), both, False)


def _ways(kernel: RadialKernel, c: Array, x: Array, y: Array, averaged: bool, order: int) -> tuple[_Way, list[_Way]]:
    """Return the most probable way, and one for each member."""
    if not y.any():
        found = Hyperparameters(np.ones(x.shape[1]), 0.0, 1e-12, 0.0, 0, False)
        return _Way("nothing", found), [_Way("nothing", found)] * MEMBERS
    told = len(x) > 3 and np.ptp(c) > FLAT
    if told and fits_exactly(trend_basis(x, 2, c), y):
        same = _Way("multiple", Hyperparameters(np.ones(x.shape[1]), 0.0, 1e-12, 0.0, 0, False))
        return same, [same] * MEMBERS
    ways, samples, logs = [], [], []
    evidence, noise = 0.0, False
    both, rows = WithLower(SquaredExponential(), kernel), np.column_stack([c, x])
    plain = train(x, y, kernel, trend_basis(x, 1), noise)
    ways.append(_Way("nothing", plain))
    if averaged:
        samples.append(averaging.sample(x, y, kernel, 1, noise, plain))
        evidence = samples[0].log_evidence
    else:
        evidence = averaging.at_mode(x, y, kernel, 1, noise, averaging.logarithms(plain, noise)).log_evidence
    logs.append(evidence)
    if told:
        multiple = train(x, y, kernel, trend_basis(x, 2, c), noise)
        sample = averaging.Sample(averaging.logarithms(multiple, noise)[None], np.ones(1), 1.0)
        if averaged:
            sample = averaging.sample(x, y, kernel, 2, noise, multiple, c)
        share = averaging.without_cheap(sample, x, y, kernel, 2, noise, c).share
        ways.append(_Way("multiple", multiple))
        logs.append(evidence + np.log1p(-share) - np.log(max(share, 1e-300)))
        samples.append(sample)
        function = train(rows, y, both, trend_basis(rows, 1), noise)
        ways.append(_Way("function", function))
        if averaged:
            samples.append(averaging.sample(rows, y, both, 1, noise, function))
            logs.append(samples[-1].log_evidence)
        else:
            start = averaging.logarithms(function, noise)
            logs.append(averaging.at_mode(rows, y, both, 1, noise, start).log_evidence)
    weights = np.exp(np.array(logs) - np.logaddexp.reduce(logs))
    best = ways[int(np.argmax(weights))]
    if not averaged:
        return best, [best] * MEMBERS
    drawn: list[_Way] = []
    for way, sample, count in zip(ways, samples, _counts(weights), strict=True):
        degrees = len(y) - (2 if way.kind == "multiple" else 1)
        if count:
            drawn += [_Way(way.kind, one) for one in averaging.draws_of(sample, degrees, noise, order, count)]
    return best, [drawn[i] for i in np.random.default_rng(order).permutation(MEMBERS)]


def _counts(weights: Array) -> list[int]:
    """Return how many members each has of all, by largest remainders."""
    whole = np.floor(weights * MEMBERS).astype(int)
    rest = np.argsort(whole - weights * MEMBERS, kind="stable")[: MEMBERS - whole.sum()]
    whole[rest] += 1
    return [int(n) for n in whole]


@final
@dataclass(frozen=True, eq=False)
class _Climb:
    """The levels, one after the other."""

    levels: Levels
    kernel: RadialKernel
    hyperparameters: Literal["auto", "averaged", "point"]

    def surrogate(self) -> MultiFidelitySurrogate:
        """Return the surrogate of the highest level."""
        lv, count = self.levels, len(self.levels.names)
        first = fitted_levels(lv, 1, self.kernel, 1, self.hyperparameters)
        steps: list[Step] = list(first)
        found: list[list[list[_Way]]] = []  # of levels from the second on, by score and member
        for t in range(1, count):  # as if the means of lower levels were their values, to learn hyperparameters
            step, of_scores = self._learned(t, tuple(steps))
            steps.append(step)
            found.append(of_scores)
        anchors = self._anchors(steps)
        members: list[Step] = []
        log_weights = np.zeros(MEMBERS)
        for t in range(count):
            own, more = self._conditioned(t, members, steps[t], found[t - 1] if t else None)
            log_weights += more
            if t < count - 1:
                own = self._with_draws(t, members, own, anchors)
            members.append(own)
        return ladder_of(lv, members, log_weights - np.logaddexp.reduce(log_weights))

    def _learned(self, t: int, below: tuple[Step, ...]) -> tuple[Step, list[list[_Way]]]:
        """Return level t in the most probable way, and draws of ways and hyperparameters by score."""
        x = self.levels.x[t]
        averaged = self.hyperparameters == "averaged" or (self.hyperparameters == "auto" and len(x) <= FEW * x.shape[1])
        singles, values, draws = [], [], []
        for j, y in enumerate(self.levels.y[t].T):
            c = self._known(t, j, _mean(below, 0, j, x))
            best, drawn = _ways(self.kernel, c, x, y, averaged, 1000 * t + j)
            draws.append(drawn)
            singles.append(best.conditioned(self.kernel, c, x, y))
            values.append(c)
        return Step(stacked([singles]), "nonlinear", np.array(values)[None]), draws

    def _known(self, t: int, j: int, mean: Array) -> Array:
        """Return the level below at the runs of level t: what was run there, else its mean."""
        place = self.levels.below[t]
        return np.where(place >= 0, self.levels.y[t - 1][np.maximum(place, 0), j], mean)

    def _conditioned(
        self, t: int, below: Sequence[Step], point: Step, found: list[list[_Way]] | None
    ) -> tuple[Step, Array]:
        """Return all members of level t, given functions of those below, and what their runs say of each member."""
        if found is None:
            p = point.process
            return Step(_repeated(p, [h % p.draws for h in range(MEMBERS)]), "plain"), np.zeros(MEMBERS)
        x, y = self.levels.x[t], self.levels.y[t]
        nested, weights = (self.levels.below[t] >= 0).all(), np.zeros(MEMBERS)
        singles, values = [], []
        for h in range(MEMBERS):
            of_member = [self._known(t, j, _mean(below, h, j, x)) for j in range(len(found))]
            ways = [drawn[h] for drawn in found]
            pairs = list(zip(ways, of_member, y.T, strict=True))
            singles.append([way.conditioned(self.kernel, c, x, column) for way, c, column in pairs])
            values.append(of_member)
            if not nested:
                assert point.below is not None  # noqa: S101
                for j, (way, c, column) in enumerate(pairs):
                    weights[h] += way.log_fit(self.kernel, c, x, column)
                    weights[h] -= way.log_fit(self.kernel, point.below[0, j], x, column)
        return Step(stacked(singles), "nonlinear", np.array(values)), weights

    def _with_draws(self, t: int, below: Sequence[Step], own: Step, anchors: Array) -> Step:
        """Return level t conditioned on draws of itself at anchors and at inputs of the next level too.

        Members of the second half mirror those of the first, so that the mean of all is hardly one of chance.
        """
        lv = self.levels
        new = np.vstack([lv.x[t + 1][lv.below[t + 1] < 0], anchors])
        if not len(new):
            return own
        singles, values = [], []
        for h in range(MEMBERS):
            scores, of_member = [], []
            for j in range(own.process.q):
                p, i, score = own.own(h, j)
                c = _mean(below, h, j, new) if below else None
                rows = own.inputs(new, c)
                mirrored, pair = divmod(h, max(1, MEMBERS // 2))
                normals = np.random.default_rng([t, j, pair]).standard_normal((1, len(new) + p.beta.shape[2]))
                z, xi = np.split((-normals if mirrored else normals), [len(new)], axis=1)
                drawn = draw_at(p, i, score, rows, z, xi)[0]
                cheap = own.kind == "plain" or bool(p.trend_root[i, score, :, 1].any())
                one = Hyperparameters(p.ell[i, score], float(p.nugget[i, score]), 0.0, 0.0, 0, False, cheap=cheap)
                y = np.append(p.y[:, score], drawn)[:, None]
                x = np.vstack([p.x, rows])
                scores.append(condition(p.kernel, x, y, p.beta.shape[2], [one], [float(p.variance[i, score])]))
                of_member.append(x[:, 0])
            singles.append(scores)
            values.append(of_member)
        return Step(stacked(singles), own.kind, np.array(values) if own.kind == "nonlinear" else None, len(new))

    def _anchors(self, steps: Sequence[Step]) -> Array:
        """Return points of the cube at which lower levels are most uncertain, one after the other."""
        cube = sobol_points(CANDIDATES, self.levels.box.d)
        chosen: list[int] = []
        for t in range(len(steps) - 1):
            for j in range(steps[t].process.q):
                c = _mean(steps[:t], 0, j, cube)[None] if t else None
                chosen += _pivots(steps[t].given(0, j, cube[None], c, False)[1][0], ANCHORS)
        return cube[sorted(set(chosen))]


def _mean(steps: Sequence[Step], h: int, j: int, u: Array) -> Array:
    """Return the mean (k,) of the last of some levels at `u` (k, d)."""
    return np.asarray(Ladder(tuple(steps), np.zeros(1)).means(h, j, u[None])[-1][0])


def _repeated(process: ScoreProcess, members: Sequence[int]) -> ScoreProcess:
    singles = [[process.member(h).select(np.array([j])) for j in range(process.q)] for h in members]
    return stacked(singles)


def _pivots(covariance: Array, most: int) -> list[int]:
    """Return the pivots of an incomplete Cholesky decomposition, until what is left is negligible."""
    left, rows = np.diagonal(covariance).copy(), np.zeros((0, len(covariance)))
    first = float(left.max())
    chosen: list[int] = []
    while len(chosen) < most and left.max() > NEGLIGIBLE * first > 0.0:
        pivot = int(left.argmax())
        row = (covariance[pivot] - rows.T[pivot] @ rows) / np.sqrt(left[pivot])
        chosen.append(pivot)
        rows = np.vstack([rows, row])
        left = np.maximum(left - row**2, 0.0)
        left[pivot] = 0.0
    return chosen
