"""Where an output passes a level: the boundary with bands that cover it, its volume, and the next runs.

==========  ======================================================================  ==============
symbol      meaning                                                                 shape
==========  ======================================================================  ==============
f(u)        the output on the surrogate's scale, less the level                     (k,)
m, s²       mean and variance of f, of hyperparameter draw h                        (H, k)
C           covariance of f between inputs                                          (H, k, l)
p(u)        probability that f > 0: sum_h w_h Phi(m / s)                            (k,)
t(u)        its normal score, Phi^-1(p)                                             (k,)
k²(u)       variance of the mean that runs to come will give f; s² - k² is left     (H, k)
==========  ======================================================================  ==============

*Bands.* Classified by p > 1/2, a draw of the whole function is misclassified at some points; M is the largest |t| among
them. With the 95 % quantile c of M over the draws, the true set is above the level wherever t > c and below it wherever
t < -c, at all points together with a probability of 95 % (Bolin & Lindgren 2015). Bands point by point would cover each
point, and nearly never the whole boundary.

*Next runs.* After runs that reduce s² to s² - k², the mean of f is N(m, k²) and the side of zero that it will be on is
wrong with the probability 2 T(m / s, sqrt(s² - k²) / k), T the function of Owen: it is Phi(-|m| / s) without runs
(k = 0) and 0 when f will be known. Its mean over the box is the expected misclassified volume (Bect et al. 2012,
Chevalier et al. 2014). k² of a batch follows from covariances alone, one run after the other by a rank-one update:

    k²(u) + C(u, v)² / (C(v, v) + r),      C(u, u') - C(u, v) C(v, u') / (C(v, v) + r).

Of the probability of an event, f is the latent function, and a run gives a label: r = 1, to first order.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol, final

import numpy as np
import xarray as xr
from scipy.linalg.lapack import dpstrf
from scipy.special import ndtr, ndtri, owens_t
from scipy.stats import qmc

from uqms import _checks as check
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, Ints, RandomState, as_generator
from uqms.ensemble import combine
from uqms.errors import InputError
from uqms.parameters import Box, ParameterSpace
from uqms.surrogates import FittedProbability, GaussianProcess, Surrogate
from uqms.surrogates.process import scores_at
from uqms.surrogates.scalar_output import ScalarOutput, scalar_output

__all__ = ["LevelSet", "expected_misclassified", "gained_by", "given_run", "level_set"]

GRID, DRAWS = 10, 400  # 2**10 points of the box; draws of the whole function
MORE = 512  # points where the side is in doubt, for the band: there a draw is on the wrong side
COVERAGE = 0.95
POOL, POINTS, CHOICES = 12, 384, 192  # of 2**12 points: over which the integral is taken, among which runs are chosen
MEMBERS = 8  # hyperparameter draws of the next runs
EVEN = 0.1  # of points and choices lie evenly in the box
TOLERANCE = 0.01
ROUNDING = 1e-9
ROUNDED = 1e-12  # of the largest variance, below which a covariance has nothing but rounding
LABEL = 1.0


class _Law(NamedTuple):
    """Means (H, k) and covariances (H, k, k) or variances (H, k) of f, with weights (H,)."""

    mean: Array
    covariance: Array
    weights: Array


class _Function(Protocol):
    """What a level set asks of the function whose sign is the question."""

    domain: Box
    noise: float  # variance r with which a run tells the function

    def law(self, u: Array) -> _Law: ...

    def joint(self, u: Array, h: int) -> tuple[Array, Array]: ...


@final
class _Output:
    """An output of a surrogate that is one number, less the level; the sign is turned for `below`."""

    def __init__(self, number: ScalarOutput, level: float, sign: float) -> None:
        self.number, self.domain, self.level, self.sign = number, number.domain, level, sign
        self.noise = number.noise

    def law(self, u: Array) -> _Law:
        scores = self.number.surrogate.scores(u[:, None])  # one input at a time
        mean, covariance = self.number.moments(scores)
        return _Law(self.sign * (mean[..., 0] - self.level), covariance[..., 0, 0], np.exp(scores.log_weights))

    def joint(self, u: Array, h: int) -> tuple[Array, Array]:
        used, surrogate = self.number.used, self.number.surrogate
        process = getattr(surrogate, "compiled_process", None)
        if process is not None:  # without the scores of other outputs, which take memory
            mean, covariance = self.number.moments(scores_at(process.member(h).select(used), u), np.arange(len(used)))
            return self.sign * (mean[0] - self.level), covariance[0]
        mean, covariance = self.number.moments(surrogate.scores(u))
        return self.sign * (mean[h] - self.level), covariance[h]


@final
class _Latent:
    """The latent function of the probability of an event, less the score of the level."""

    def __init__(self, fitted: FittedProbability, level: float, sign: float) -> None:
        self.fitted, self.domain, self.sign, self.noise = fitted, fitted.domain, sign, LABEL
        self.level = float(ndtri(level))

    def law(self, u: Array) -> _Law:
        mean, variance = self.fitted.latent(u)
        return _Law(self.sign * (mean - self.level), variance, np.exp(self.fitted.log_weights))

    def joint(self, u: Array, h: int) -> tuple[Array, Array]:
        one = {name: getattr(self.fitted, name)[h : h + 1] for name in ("ell", "variance", "rho", "weights", "factor")}
        mean, covariance = replace(self.fitted, **one, log_weights=np.zeros(1)).moments(u, u)
        return self.sign * (mean - self.level), covariance


def expected_misclassified(mean: Array, sd: Array, gained: Array) -> Array:
    """Return the probability that f will be on the wrong side of zero, when `gained` of its variance sd² is gained."""
    gained = np.clip(gained, 0.0, sd**2)
    left = np.sqrt(sd**2 - gained)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(gained > 0.0, left / np.sqrt(gained), np.inf)
    return np.asarray(2.0 * owens_t(np.abs(mean) / sd, ratio))


def gained_by(C: Array, k: int, noise: float) -> Array:
    """Return the variance (c, k) that each of c runs takes from k points, for covariances C (c, k + c) with both."""
    own = np.diagonal(C[:, k:])
    gain = C[:, :k] ** 2 / np.maximum(own + noise, 1e-300)[:, None]
    gain[own <= ROUNDING * np.max(own, initial=0.0)] = 0.0  # known already
    return np.asarray(gain)


def given_run(C: Array, k: int, run: int, noise: float) -> Array:
    """Return the covariances (c, k + c) once a run is there."""
    first = max(float(C[run, k + run]), 1e-300) + noise
    return np.asarray(C - np.outer(C[:, k + run], C[run]) / first)


@taught
@single_threaded
def level_set(
    surrogate: Surrogate | FittedProbability,
    level: float,
    *,
    output: str | None = None,
    below: bool = False,
    conditions: Mapping[str, float] | None = None,
    runs: xr.Dataset | None = None,
    settings: Any = None,
    rng: RandomState = 0,
) -> "LevelSet":
    """Return where in the design box an output is above a level: probability, boundary, volume, and the next runs.

    Use it when the question is where something begins, such as an arrhythmia above a dose, rather than what the output
    is everywhere.

    Parameters
    ----------
    surrogate
        With the output as one number; or `EventProbability(...).fit(runs)`, of which the level is a probability, 0.5
        for the boundary.
    level
        In the unit of the output.
    output
        May be left out when there is only one.
    below
        Whether less than the level is meant.
    conditions
        Inputs that are held at a number; all others are varied over the box.
    runs, settings
        The ensemble that it was fitted to and how (``uq.GaussianProcess()`` by default), for `LevelSet.told`.
    rng
        Seed of points and draws.

    Returns
    -------
    LevelSet
        Print it.

    Raises
    ------
    InputError
        An unknown output or condition, an output that is a curve, a level that the output cannot have.
    ConformanceError
        A surrogate whose rows depend on the input.

    References
    ----------
    Bect, Ginsbourger, Li, Picheny & Vazquez (2012), doi:10.1007/s11222-011-9241-4; Chevalier et al. (2014),
    doi:10.1080/00401706.2013.860918; Bolin & Lindgren (2015), doi:10.1111/rssb.12055.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(a=uq.Uniform(0, 1), b=uq.Uniform(0, 1)), 32, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": design["a"].values + design["b"].values ** 2})
    >>> edge = uq.level_set(uq.GaussianProcess().fit(runs), 1.0)
    >>> edge.probability({"a": [0.1, 0.9], "b": [0.2, 0.9]}).round(2)
    array([0., 1.])
    >>> bool(abs(edge.volume - 1 / 3) < 0.02)
    True
    """
    if not check.is_number(level) or not np.isfinite(level):
        raise InputError(f"level_set: level is {level!r}; give a finite number in the output's unit.")
    sign = -1.0 if below else 1.0
    function: _Function
    if isinstance(surrogate, FittedProbability):
        if output is not None:
            raise InputError("level_set: the probability of an event has no outputs; leave output= out.")
        if not 0.0 < level < 1.0:
            raise InputError(f"level_set: level is {level!r}; give a probability between 0 and 1, such as 0.5.")
        function = _Latent(surrogate, float(level), sign)
    elif hasattr(surrogate, "scores") and hasattr(surrogate, "layouts"):
        function = _read_output(surrogate, output, float(level), sign)
    else:
        raise InputError(
            f"level_set: got a {type(surrogate).__name__}; give a fitted surrogate, uq.GaussianProcess().fit(runs), or "
            "uq.EventProbability(...).fit(runs)."
        )
    box = surrogate.domain
    held = dict(conditions or {})
    unknown = sorted(set(held) - set(box.names))
    if unknown or len(held) == box.d:
        raise InputError(
            f"level_set: conditions is {conditions!r}; hold some of the inputs {', '.join(box.names)} at numbers, and "
            "leave at least one."
        )
    for name, value in held.items():
        place = box.names.index(name)
        if not check.is_number(value) or not box.lower[place] <= value <= box.upper[place]:
            raise InputError(
                f"level_set: condition {name!r} is {value!r}; give a number from {box.lower[place]:g} to "
                f"{box.upper[place]:g}."
            )
    return LevelSet(
        surrogate, function, float(level), output, below, held, runs, settings, int(as_generator(rng).integers(2**31))
    )


def _read_output(surrogate: Surrogate, output: str | None, level: float, sign: float) -> _Output:
    number, name = scalar_output(surrogate, output, "level_set")
    layout = surrogate.layouts[name]
    if layout.transform.outside(np.array([level]))[0]:
        raise InputError(f"level_set: level is {level:g}, which {name!r} cannot have: its {layout.transform.name} is "
                         "modelled.")  # fmt: skip
    return _Output(number, float(layout.transform.forward(np.array([level]))[0]), sign)


@final
class LevelSet:
    """Where an output is above (or below) a level; made by `level_set`.

    Attributes
    ----------
    surrogate, level, output, below, conditions
        As given to `level_set`.
    box
        The inputs that are varied.
    """

    def __init__(
        self,
        surrogate: Surrogate | FittedProbability,
        function: _Function,
        level: float,
        output: str | None,
        below: bool,
        conditions: Mapping[str, float],
        runs: xr.Dataset | None,
        settings: Any,
        seed: int,
    ) -> None:
        self.surrogate, self.function, self.level, self.output, self.below = surrogate, function, level, output, below
        self.conditions, self.runs, self.settings, self._seed = conditions, runs, settings, seed
        whole = function.domain
        self.box = whole.select([name for name in whole.names if name not in conditions])

    def probability(self, points: Mapping[str, Any] | xr.Dataset) -> Array:
        """Return the probability (k,) that the output is above the level, at inputs in their own units.

        Raises
        ------
        InputError
            When an input is missing.
        """
        return self._probability(self._unit(points))

    def side(self, points: Mapping[str, Any] | xr.Dataset) -> Ints:
        """Return 1 where the output is surely above the level, -1 where it surely is not, 0 within the band (k,).

        All that is said is right together with a probability of 95 %.

        Raises
        ------
        InputError
            When an input is missing.
        """
        t = _scores(self._probability(self._unit(points)))
        return np.sign(t).astype(np.int64) * (np.abs(t) > self.cut)

    @property
    def misclassified(self) -> float:
        """Fraction of the box that is expected to be on the wrong side, when classified by a probability of 1/2."""
        return float(np.minimum(self._grid.p, 1.0 - self._grid.p).mean())

    @property
    def cut(self) -> float:
        """Normal score of the probability beyond which points lie outside of the band."""
        return self._grid.cut

    @property
    def band(self) -> float:
        """Fraction of the box that lies within the band of the boundary."""
        return float(np.mean(np.abs(_scores(self._grid.p)) <= self.cut))

    @property
    def volume(self) -> float:
        """Fraction of the box above the level, on the scale that the surrogate sees: the mean over the error."""
        return float(self._grid.volumes.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """The central 95 % of that fraction, of draws of the whole function."""
        low, high = np.quantile(self._grid.volumes, [0.025, 0.975])
        return float(low), float(high)

    def __repr__(self) -> str:
        what = "the probability of the event" if isinstance(self.surrogate, FittedProbability) else self._name
        low, high = self.interval
        held = "".join(f", {name} = {value:g}" for name, value in self.conditions.items())
        return (
            f"<LevelSet of {what} {'below' if self.below else 'above'} {self.level:g} over "
            f"{', '.join(self.box.names)}{held}: {self.volume:.1%} of the box ({low:.1%} to {high:.1%}); band of the "
            f"boundary {self.band:.1%}, expected misclassified {self.misclassified:.2%}>"
        )

    @single_threaded
    def propose(
        self,
        n: int,
        *,
        rng: RandomState | None = None,
        cost: Callable[[Mapping[str, Array]], Any] | None = None,
    ) -> xr.Dataset:
        """Propose the n runs after which least of the box is expected to be on the wrong side, for `uqms.run`.

        They are chosen one after the other, each for the most reduction given those before it (per cost).

        Parameters
        ----------
        n
            Number of runs.
        rng
            Whole number or generator.
        cost
            Cost of a run as a function of the inputs, arrays (k,) in their own units by name, that returns (k,).

        Returns
        -------
        xarray.Dataset
            A design.

        Raises
        ------
        InputError
            When n is not a whole number from 1 to 100, or costs are not positive.
        """
        if not check.is_whole(n, 1) or n > CHOICES // 2:
            raise InputError(f"propose: n is {n!r}; give a whole number from 1 to {CHOICES // 2}.")
        generator = as_generator(rng)
        seed = int(generator.integers(2**31))
        rng = np.random.default_rng(seed)
        v = qmc.Sobol(self.box.d, seed=rng).random_base2(POOL)
        p = self._probability(self._whole(v))
        wrong = np.minimum(p, 1.0 - p)
        density = EVEN / len(v) + (1.0 - EVEN) * wrong / max(float(wrong.sum()), 1e-300)
        density /= density.sum()
        points = rng.choice(len(v), POINTS, p=density)
        choices = rng.choice(len(v), CHOICES, p=density, replace=False)
        price = np.ones(CHOICES) if cost is None else self._costs(cost, v[choices])
        picked = self._chosen(v[points], 1.0 / density[points], v[choices], int(n), price)
        x = np.asarray(self.box.from_unit(v[choices[picked]]))
        return self._design(x, {"method": "level set", "n": int(n), "seed": seed, "over": "boundary"})

    @single_threaded
    def told(self, runs: xr.Dataset) -> "LevelSet":
        """Return the level set with new runs beside those before.

        Raises
        ------
        InputError
            When the runs so far were not given, `level_set(..., runs=runs)`.
        """
        if self.runs is None:
            raise InputError(
                "told: the runs so far are not known; give them, uq.level_set(surrogate, level, runs=runs), or fit to "
                "all runs and call uq.level_set again."
            )
        settings = self.settings
        if settings is None:
            if isinstance(self.surrogate, FittedProbability):
                raise InputError("told: give level_set(..., settings=uq.EventProbability(...)) too, to fit again.")
            settings = GaussianProcess()
        every = combine(self.runs, runs).assign_attrs(box=json.dumps(self.function.domain.to_dict(), allow_nan=False))
        return level_set(
            settings.fit(every),
            self.level,
            output=self.output,
            below=self.below,
            conditions=self.conditions,
            runs=every,
            settings=self.settings,
            rng=self._seed,
        )

    def worthwhile(self, tolerance: float = TOLERANCE) -> bool:
        """Return whether more than `tolerance` of the box is expected to be on the wrong side.

        Raises
        ------
        InputError
            When the tolerance is not between 0 and 0.5.
        """
        if not check.is_number(tolerance) or not 0.0 < tolerance < 0.5:
            raise InputError(f"worthwhile: tolerance is {tolerance!r}; give a fraction of the box, such as 0.01.")
        return self.misclassified > tolerance

    @property
    def _name(self) -> str:
        return repr(self.output if self.output is not None else next(iter(self.surrogate.layouts)))  # type: ignore[union-attr]

    def _whole(self, v: Array) -> Array:
        """Return all inputs in the unit cube (k, d) of those that are varied."""
        names = self.function.domain.names
        out = np.empty((len(v), len(names)))
        column = 0
        for j, name in enumerate(names):
            if name in self.conditions:
                out[:, j] = self.function.domain.select((name,)).to_unit([self.conditions[name]])[0]
            else:
                out[:, j] = v[:, column]
                column += 1
        return out

    def _unit(self, points: Mapping[str, Any] | xr.Dataset) -> Array:
        lacking = [name for name in self.box.names if name not in points]
        if lacking:
            raise InputError(f"level_set: {', '.join(lacking)} is missing; give {', '.join(self.box.names)}.")
        columns = np.broadcast_arrays(
            *(np.atleast_1d(np.asarray(points[name], dtype=np.float64)) for name in self.box.names)
        )
        return self._whole(np.asarray(self.box.to_unit(np.column_stack(columns))))

    @single_threaded
    def _probability(self, u: Array) -> Array:
        law = self.function.law(u)
        return np.asarray(law.weights @ ndtr(law.mean / np.sqrt(np.maximum(law.covariance, 1e-300))))

    @cached_property
    @single_threaded
    def _grid(self) -> "_Grid":
        """Points of the box with draws of the whole function at them."""
        rng = np.random.default_rng(self._seed)
        pool = self._whole(qmc.Sobol(self.box.d, seed=rng).random_base2(POOL))
        even = 2**GRID
        wrong = np.sqrt(np.minimum(p := self._probability(pool), 1.0 - p)[even:]) + 1e-9
        more = even + rng.choice(len(wrong), MORE, replace=False, p=wrong / wrong.sum())
        at = np.concatenate([np.arange(even), more])
        u, p = pool[at], p[at]
        law = self.function.law(u[:1])
        level = (np.arange(DRAWS) + rng.random()) / DRAWS
        members = np.minimum(np.searchsorted(np.cumsum(law.weights), level), len(law.weights) - 1)
        above = np.empty((DRAWS, len(u)), dtype=np.bool_)
        for h in np.unique(members):
            rows = np.flatnonzero(members == h)
            mean, covariance = self.function.joint(u, int(h))
            root = _root(covariance)
            above[rows] = mean + rng.standard_normal((len(rows), root.shape[1])) @ root.T > 0.0
        wrong = above != (p > 0.5)
        largest = np.max(np.where(wrong, np.abs(_scores(p)), 0.0), axis=1)
        place = int(np.ceil(COVERAGE * (DRAWS + 1))) - 1
        return _Grid(p[:even], above[:, :even].mean(axis=1), float(np.sort(largest)[place]))

    def _chosen(self, points: Array, weight: Array, choices: Array, n: int, price: Array) -> Ints:
        """Return which n of the choices (c, d) reduce the expected misclassified volume over points (k, d) most."""
        k, together = len(points), self._whole(np.vstack([points, choices]))
        law = self.function.law(together[:1])
        members = np.argsort(-law.weights)[:MEMBERS]
        weights = law.weights[members] / law.weights[members].sum()
        means, sds, cross, gained = [], [], [], []
        for h in members:
            mean, covariance = self.function.joint(together, int(h))
            means.append(mean[:k])
            sds.append(np.sqrt(np.maximum(np.diagonal(covariance)[:k], 1e-300)))
            cross.append(covariance[k:].copy())  # (c, k + c)
            gained.append(np.zeros(k))
        chosen: list[int] = []
        now = sum(
            w * (expected_misclassified(m, s, 0.0 * s) @ weight) for w, m, s in zip(weights, means, sds, strict=True)
        )
        for _ in range(n):
            expected = np.zeros(len(choices))
            for w, m, s, C, g in zip(weights, means, sds, cross, gained, strict=True):
                gain = gained_by(C, k, self.function.noise)
                expected += w * (expected_misclassified(m, s, g + gain) @ weight)
            value = (now - expected) / price
            value[chosen] = -np.inf
            best = int(np.argmax(value))
            chosen.append(best)
            now = expected[best]
            for i, (C, g) in enumerate(zip(cross, gained, strict=True)):
                gained[i] = g + gained_by(C, k, self.function.noise)[best]
                cross[i] = given_run(C, k, best, self.function.noise)
        return np.asarray(chosen, dtype=np.int64)

    def _costs(self, cost: Callable[[Mapping[str, Array]], Any], v: Array) -> Array:
        x = np.asarray(self.box.from_unit(v))
        price = np.asarray(cost(dict(zip(self.box.names, x.T, strict=True))), dtype=np.float64)
        if price.shape not in ((), (len(x),)) or not (np.isfinite(price) & (price > 0.0)).all():
            raise InputError("propose: cost must return one positive number for each point, an array (k,).")
        return np.broadcast_to(price, len(x))

    def _design(self, x: Array, recipe: Mapping[str, object]) -> xr.Dataset:
        box = self.function.domain
        text = getattr(self.surrogate, "attrs", {}).get("space")
        space = None if text is None else ParameterSpace.from_json(text)
        columns = dict(zip(self.box.names, x.T, strict=True))
        columns |= {name: np.full(len(x), value) for name, value in self.conditions.items()}
        plain = {"role": "input", "kind": "parameter", "unit": "", "description": ""}
        known = set() if space is None else set(space.inputs)
        described = {name: space.attributes(name) for name in known} if space is not None else {}
        data = {
            name: ("run", np.ascontiguousarray(columns[name]), described.get(name, plain)) for name in box.names
        }  # fmt: skip
        attrs = {"box": json.dumps(box.to_dict(), allow_nan=False), "design": json.dumps(recipe, allow_nan=False)}
        return xr.Dataset(data, attrs=attrs if text is None else {"space": text, **attrs})


class _Grid(NamedTuple):
    """Probabilities (k,) at points of the box, volumes (draws,), and the cut of the band."""

    p: Array
    volumes: Array
    cut: float


def _scores(p: Array) -> Array:
    return np.asarray(ndtri(np.clip(p, 1e-15, 1.0 - 1e-15)))


def _root(covariance: Array) -> Array:
    """Return a root (k, r) of a covariance that may be singular, as that of many points of a smooth function is.

    By pivoted Cholesky, to `ROUNDED` of the largest variance.
    """
    scale = float(np.max(np.diagonal(covariance)))
    factor, pivots, rank, _ = dpstrf(covariance, tol=ROUNDED * scale, lower=1)
    root = np.empty((len(covariance), rank))
    root[pivots - 1] = np.tril(factor)[:, :rank]
    return root
