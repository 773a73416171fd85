"""Waves of history matching: rule out parameters that cannot have produced the data, run the simulator in the rest.

==========  ======================================================================  =======
symbol      meaning                                                                 shape
==========  ======================================================================  =======
v           parameters in the unit cube of the first wave's design box              (n, d)
I2_w(v)     joint implausibility in wave w, see `implausibility`                    (n,)
a_w         level of wave w: a / (w (w + 1)), which add up to a over any number     ()
c_w         chi-square quantile, m degrees of freedom, at 1 - a_w                   ()
g(v)        max over the waves of I2_w / c_w; ruled out where it is above one       (n,)
==========  ======================================================================  =======

All waves count: a point is ruled out when one of them rules it out, each within the box that its surrogate was made
for (beyond it a later wave says nothing, and the earlier ones do). Where the stated errors are right, the truth is
ruled out by any wave with a probability of at most a: each wave's chance is a_w, whatever the others do.
"""

import copy
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, final

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import gammainccinv

from uqms import _checks as check
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, Bools, RandomState, as_generator
from uqms.calibration import (
    GaussianNoise,
    NoiseModel,
    Observations,
    OffsetDiscrepancy,
    SingleCalibration,
)
from uqms.calibration.discrepancy import Discrepancies
from uqms.calibration.observations import Measured, observations_of
from uqms.calibration.realisation import Runs
from uqms.calibration.refinement import design_of, far_apart
from uqms.ensemble import combine, inside
from uqms.errors import DesignError, InputError, PriorConflictWarning
from uqms.parameters import Box, ParameterSpace
from uqms.planning.implausibility import Implausibility
from uqms.planning.remaining import Remaining, remaining
from uqms.surrogates import GaussianProcess, Surrogate

__all__ = ["HistoryMatching", "Wave", "Worthwhile"]

LEVEL = 0.005
LEAST = 0.1
MARGIN = 0.1  # of the range of what remains, at each end
WIDE = 0.8  # of the box: what remains in an input is not narrowed beyond
CANDIDATES = (2000, 10)  # at least so many, and so many for each point
JUDGED = 400
BATCH = 4096


class _Settings(Protocol):
    def fit(self, ensemble: xr.Dataset) -> Any: ...


@final
@dataclass(frozen=True, eq=False)
class Wave:
    """One wave: a surrogate's implausibility, its level and cut-off.

    Attributes
    ----------
    implausibility
        Of the surrogate.
    level
        Probability that it rules out the truth.
    cutoff
        Quantile of chi-square beyond which a point is ruled out.
    before
        Fraction of the box's volume that the waves before it had left, and its Monte Carlo standard error.
    """

    implausibility: Implausibility
    level: float
    before: tuple[float, float]

    @property
    def cutoff(self) -> float:
        """Quantile of chi-square with as many degrees of freedom as there are cells."""
        return float(2.0 * gammainccinv(0.5 * self.implausibility.m, self.level))

    @property
    def problem(self) -> SingleCalibration:
        """Surrogate, data and noise."""
        return self.implausibility.problem

    @property
    def box(self) -> Box:
        """Where its surrogate was made for."""
        return self.problem.simulated.domain.select(self.problem.parameters)


@final
@dataclass(frozen=True)
class Worthwhile:
    """Whether another wave is worth its runs; true in an `if` when it is.

    Attributes
    ----------
    needed
        Whether to go on.
    could
        Fraction of what remains that the simulator itself, run everywhere, would rule out.
    ruled_out
        Fraction of the region before the last wave that this wave ruled out.
    reasons
        Why.
    nothing
        Whether nothing remains: the simulator cannot reproduce the data.
    """

    needed: bool
    could: float
    ruled_out: float
    reasons: tuple[str, ...]
    nothing: bool = False

    def __bool__(self) -> bool:
        return self.needed

    def __str__(self) -> str:
        return f"{'Another wave is worthwhile' if self.needed else 'Stop'}: {'; '.join(self.reasons)}."


@taught
@final
class HistoryMatching:
    """Rule out parameters in waves of runs, until what remains is as small as noise and model error admit.

    Use it before a calibration when the prior is wide and the data are precise, so that one design over the prior would
    spend nearly all runs where the likelihood is zero; and to find out whether the simulator can reproduce the data at
    all. Each wave runs the simulator where nothing rules it out so far, and fits a surrogate to that part. The result
    is no posterior: it has no probabilities within what remains. `calibration` hands over to one.

    Parameters
    ----------
    surrogate
        Fitted to runs over the prior, the first wave.
    targets
        What was measured: as for `Calibration`; or by output a value and its standard deviation,
        ``{"peak": (3.1, 0.2)}``.
    noise
        Noise with a known standard deviation, as for `Calibration`. By default the standard deviations in the targets.
    discrepancy
        What the simulator misses: as for `Calibration`, with numbers, ``uq.GPDiscrepancy(sd=0.2, length=3.0)``; or by
        output a number, the standard deviation of a model error that is new with each condition (only for outputs that
        are one number).
    runs
        The ensemble that the surrogate was fitted to, so that later waves use those of its runs that lie in their box.
    settings
        How surrogates of later waves are fitted, `GaussianProcess()` by default.
    level
        Probability that the truth is ruled out by any wave, at most, where stated errors are right.
    space, fixed, realisation
        As for `Calibration`.
    rng
        Seed of the search for what remains.

    Raises
    ------
    InputError
        Noise or discrepancy that is to be inferred or not Gaussian, a target without a standard deviation, censored
        values, a level that is not between 0 and 0.5.
    UqmsError
        What `Calibration` raises of surrogate and observations.

    References
    ----------
    Craig, Goldstein, Seheult & Smith (1997), doi:10.1007/978-1-4612-2290-3_2; Vernon, Goldstein & Bower (2010),
    doi:10.1214/10-BA524; Andrianakis et al. (2015), doi:10.1371/journal.pcbi.1003968.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(a=uq.Uniform(0, 1), b=uq.Uniform(0, 1)), 16, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": design["a"].values + design["b"].values ** 2})
    >>> waves = uq.HistoryMatching(uq.GaussianProcess().fit(runs), {"y": (0.5, 0.01)}, runs=runs)
    >>> waves.rules_out({"a": [0.5, 0.25], "b": [0.9, 0.5]})
    array([ True, False])
    >>> waves.propose(20, rng=1).sizes["run"]
    20
    """

    @single_threaded
    def __init__(
        self,
        surrogate: Surrogate,
        targets: Measured | Mapping[str, tuple[Any, float]],
        noise: NoiseModel | Mapping[str, NoiseModel] | None = None,
        *,
        discrepancy: Discrepancies | Mapping[str, float] | None = None,
        runs: xr.Dataset | None = None,
        settings: _Settings | None = None,
        level: float = LEVEL,
        space: ParameterSpace | None = None,
        fixed: Mapping[str, float] | None = None,
        realisation: Runs = "experiment",
        rng: RandomState = 0,
    ) -> None:
        if not check.is_number(level) or not 0.0 < level < 0.5:
            raise InputError(f"HistoryMatching: level is {level!r}; give a number between 0 and 0.5, such as 0.005.")
        if settings is not None and not callable(getattr(settings, "fit", None)):
            raise InputError(f"HistoryMatching: settings is {settings!r}; give what is fitted: uq.GaussianProcess().")
        observations, noise = _read_targets(surrogate, targets, noise)
        problem = SingleCalibration(
            surrogate,
            observations,
            noise,
            discrepancy=_read_discrepancy(surrogate, discrepancy),
            space=space,
            fixed=fixed,
            realisation=realisation,
            expansion="first-order",
        )
        self.level = float(level)
        self.settings: _Settings = GaussianProcess() if settings is None else settings
        self.runs = runs
        self.waves: tuple[Wave, ...] = (Wave(Implausibility(problem), level / 2.0, (1.0, 0.0)),)
        self._seed = int(as_generator(rng).integers(2**31))

    @property
    def problem(self) -> SingleCalibration:
        """Surrogate, data and noise of the last wave."""
        return self.waves[-1].problem

    @property
    def box(self) -> Box:
        """The design box of the first wave; volumes are fractions of it, on the scale that its surrogate sees."""
        return self.waves[0].box

    @cached_property
    @single_threaded
    def remaining(self) -> Remaining:
        """What is not ruled out, in the unit cube of `box`: points, volume, and a sample of the whole box."""
        return remaining(self._ratio, self.box.d, CANDIDATES[0], np.random.default_rng(self._seed))

    @property
    def volume(self) -> float:
        """Fraction of the box's volume that is not ruled out."""
        return self.remaining.volume

    @property
    def ruled_out(self) -> float:
        """Fraction of the box's volume that is ruled out."""
        return 1.0 - self.remaining.volume

    @property
    def ruled_out_error(self) -> float:
        """Monte Carlo standard error of `ruled_out`, and of `volume`."""
        return self.remaining.error

    @property
    def table(self) -> pd.DataFrame:
        """One row a wave: level, cut-off of I2, runs of its surrogate, volume that remains after it, with error."""
        after = [wave.before for wave in self.waves[1:]] + [(self.volume, self.ruled_out_error)]
        rows = [
            {
                "level": wave.level,
                "cutoff": wave.cutoff,
                "runs": getattr(wave.problem.surrogate, "runs", np.nan),
                "remains": volume,
                "error": error,
            }
            for wave, (volume, error) in zip(self.waves, after, strict=True)
        ]
        return pd.DataFrame(rows, index=pd.RangeIndex(1, len(rows) + 1, name="wave"))

    def __repr__(self) -> str:
        cells = self.waves[0].implausibility.m
        left = f"{self.volume:.3g} of the box remains (standard error {self.ruled_out_error:.1g})"
        if self.remaining.empty:
            left = "nothing remains"
        return (
            f"<HistoryMatching of {', '.join(self.problem.parameters)} on {cells} values in {len(self.waves)} "
            f"wave{'s' * (len(self.waves) > 1)}, level {self.level:g}: {left}>"
        )

    @single_threaded
    def implausibility(self, points: Mapping[str, Any] | xr.Dataset) -> Array:
        """Return the implausibility (n,) of parameter values, as a fraction of the cut-off: above 1 is ruled out.

        It is the square root of I2 over its cut-off, the largest of all waves.

        Raises
        ------
        InputError
            When a parameter is missing.
        """
        names = self.problem.parameters
        lacking = [name for name in names if name not in points]
        if lacking:
            raise InputError(f"implausibility: {', '.join(lacking)} is missing; give {', '.join(names)}.")
        columns = np.broadcast_arrays(*(np.atleast_1d(np.asarray(points[name], dtype=np.float64)) for name in names))
        return np.asarray(np.sqrt(self._ratio(np.asarray(self.box.to_unit(np.column_stack(columns))))))

    def rules_out(self, points: Mapping[str, Any] | xr.Dataset) -> Bools:
        """Return which parameter values (n,) are ruled out by any wave."""
        return np.asarray(self.implausibility(points) > 1.0)

    @single_threaded
    def propose(self, n: int, *, rng: RandomState | None = None) -> xr.Dataset:
        """Propose n points that fill what is not ruled out, for `uqms.run`.

        They lie far from each other and from the runs so far, on the scale of what remains. Each is at one of the
        observed conditions.

        Parameters
        ----------
        n
            Number of points. Ten for each parameter, or more.
        rng
            Whole number or generator.

        Returns
        -------
        xarray.Dataset
            A design. Its box is that around what remains, with a margin of a tenth of the range.

        Raises
        ------
        InputError
            When n is no whole number of at least the number of observed conditions.
        DesignError
            When nothing remains: with the least implausible point and the outputs at fault. Fewer points than n are
            never returned.
        """
        problem = self.problem
        conditions = problem.cells.conditions
        if not check.is_whole(n, least := max(1, len(conditions))):
            raise InputError(
                f"propose: n is {n!r}; give a whole number of at least {least}, one point for each of the observed "
                "conditions."
            )
        found = self.remaining
        if found.empty:
            raise DesignError(f"propose: {self._at_fault()}")
        generator = as_generator(rng)
        seed = int(generator.integers(2**31))
        wanted = max(CANDIDATES[0], CANDIDATES[1] * int(n))
        points = found.points
        if len(points) < wanted:
            points = remaining(self._ratio, self.box.d, wanted, np.random.default_rng(seed)).points
        points = np.unique(points, axis=0)
        if len(points) < n:
            raise DesignError(
                f"propose: only {len(points)} different points were found in the {found.volume:.1g} of the box that "
                f"remains, but n is {n}. Ask for fewer, or give a smaller level=."
            )
        metric = np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(points.T)) + 1e-24 * np.eye(self.box.d))).T
        chosen = points[far_apart(points @ metric, self._known() @ metric, int(n))]
        chosen = np.random.default_rng(seed).permutation(chosen)
        condition = np.arange(n) % max(1, len(conditions))
        recipe = {"method": "waves", "n": int(n), "seed": seed, "over": "not ruled out", "wave": len(self.waves) + 1}
        theta = np.asarray(self.box.from_unit(chosen))
        return design_of(problem, self._box_around(), theta, conditions[condition], recipe)

    @single_threaded
    def told(self, runs: xr.Dataset) -> "HistoryMatching":
        """Return the next wave: with a surrogate of all runs in the box around what remained.

        Parameters
        ----------
        runs
            Runs of what `propose` returned.

        Raises
        ------
        InputError
            When they are not such runs.
        FitError
            When no surrogate can be fitted.
        """
        text = runs.attrs.get("design") if isinstance(runs, xr.Dataset) else None
        design = None if text is None else json.loads(text)
        if not isinstance(design, dict) or design.get("method") != "waves":
            raise InputError(
                "told: give the runs of what was proposed: waves = waves.told(uq.run(simulator, waves.propose(60, "
                "rng=1))). Other runs belong to runs=, before."
            )
        every = runs if self.runs is None else combine(self.runs, runs)
        surrogate = self.settings.fit(inside(every))
        before = self.problem
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PriorConflictWarning)  # the first wave compared prior and data
            problem = SingleCalibration(surrogate, before.observations, **(before.settings | {"outside": "refined"}))
        number = len(self.waves) + 1
        wave = Wave(
            Implausibility(problem),
            self.level / (number * (number + 1)),
            (self.volume, self.ruled_out_error),
        )
        other = copy.copy(self)
        other.__dict__.pop("remaining", None)
        other.waves, other.runs = (*self.waves, wave), every
        return other

    @single_threaded
    def worthwhile(self, least: float = LEAST) -> Worthwhile:
        """Return whether another wave is worthwhile: true in a `while` as long as it is; print it for the reasons.

        A wave is worthwhile while the simulator itself could rule out a part of what remains, as far as the surrogate's
        error leaves that open. It is not when nothing remains, or when the last wave ruled out nearly nothing.

        Parameters
        ----------
        least
            Fraction of what remains that has to be in reach.

        Raises
        ------
        InputError
            When `least` is not between 0 and 1.
        """
        if not check.is_number(least) or not 0.0 < least < 1.0:
            raise InputError(f"worthwhile: least is {least!r}; give a fraction between 0 and 1, such as 0.1.")
        found, last = self.remaining, self.waves[-1]
        ruled_out = 1.0 - min(1.0, found.volume / last.before[0])
        if found.empty:
            return Worthwhile(False, float("nan"), 1.0, (self._at_fault(),), True)
        number = len(self.waves) + 1
        points = found.points[np.linspace(0, len(found.points) - 1, JUDGED).round().astype(int)]
        theta = self._theta(points)
        cutoff = 2.0 * gammainccinv(0.5 * last.implausibility.m, self.level / (number * (number + 1)))
        could = float(last.implausibility.at(theta, float(cutoff)).could.mean())
        ratio = float(np.median(last.implausibility.error_of_noise(theta)))
        reasons = [
            f"the simulator itself could rule out {could:.0%} of the {found.volume:.2g} of the box that remains (limit "
            f"{least:.0%}); the surrogate's variance is {ratio:.2g} times that of noise and discrepancy there",
            f"the last wave ruled out {ruled_out:.0%} of the region that it began with",
        ]
        needed = could >= least
        if needed and len(self.waves) > 1 and ruled_out < least:
            needed = False
            reasons.append(
                "more runs of this size do not make the surrogate better: propose more points, or look at "
                "uq.leave_one_out(waves.problem.surrogate)"
            )
        return Worthwhile(needed, could, ruled_out, tuple(reasons))

    @single_threaded
    def calibration(
        self, noise: NoiseModel | Mapping[str, NoiseModel] | None = None, **settings: Any
    ) -> SingleCalibration:
        """Return the calibration through the last surrogate, with the original prior on the box around what remained.

        The prior is not that of points that fill what remains: these were counted in the waves already, and a flat
        prior on them is another one than yours. Points outside of the box have no likelihood to speak of, which is what
        ``outside="refined"`` says; the verdict fails when the posterior comes near an end of the box.

        Parameters
        ----------
        noise
            By default that of the waves. Noise that is inferred and turns out larger than the waves assumed admits
            points that they ruled out.
        settings
            Of `Calibration`, such as ``discrepancy=`` or ``constraints=``.

        Raises
        ------
        InputError
            When nothing remains.
        """
        if self.remaining.empty:
            raise InputError(f"calibration: {self._at_fault()}")
        last = self.problem
        outside = "refined" if len(self.waves) > 1 else "error"
        own: dict[str, Any] = {"outside": outside, "expansion": "measured"}
        own |= {} if noise is None else {"noise": noise}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PriorConflictWarning)
            return SingleCalibration(last.surrogate, last.observations, **(last.settings | own | settings))

    def _theta(self, v: Array) -> dict[str, Array]:
        return dict(zip(self.problem.parameters, np.asarray(self.box.from_unit(v)).T, strict=True))

    def _ratio(self, v: Array) -> Array:
        """Return g (n,) at points of the first wave's unit cube."""
        out = np.zeros(len(v))
        for start in range(0, len(v), BATCH):
            part = slice(start, start + BATCH)
            x = np.asarray(self.box.from_unit(v[part]))
            for wave in self.waves:
                at = np.flatnonzero(wave.box.contains(x))
                if len(at):
                    theta = dict(zip(self.problem.parameters, x[at].T, strict=True))
                    squared = wave.implausibility.at(theta).squared / wave.cutoff
                    out[start + at] = np.maximum(out[start + at], squared)
        return out

    def _known(self) -> Array:
        """Return the parameters of all surrogates' runs in the unit cube, where they are known."""
        found = [np.empty((0, self.box.d))]
        for wave in self.waves:
            process, domain = getattr(wave.problem.surrogate, "process", None), wave.problem.simulated.domain
            if process is not None and process.x.shape[1] == domain.d:
                columns = [domain.names.index(name) for name in self.problem.parameters]
                x = np.asarray(domain.from_unit(process.x))[:, columns]
                found.append(np.asarray(self.box.to_unit(x)))
        return np.unique(np.vstack(found), axis=0)

    def _box_around(self) -> Box:
        """Return the box around what remains with its margin; all inputs of the surrogate have their place in it."""
        low, high = self.remaining.points.min(axis=0), self.remaining.points.max(axis=0)
        width = high - low
        low, high = np.maximum(low - MARGIN * width, 0.0), np.minimum(high + MARGIN * width, 1.0)
        low[width > WIDE], high[width > WIDE] = 0.0, 1.0
        ends = np.asarray(self.box.from_unit(np.stack([low, high])))
        old = self.waves[0].problem.simulated.domain
        lower, upper, hard = list(old.lower), list(old.upper), list(old.hard)
        for column, name in enumerate(self.problem.parameters):
            at = old.names.index(name)
            hard[at] = (hard[at][0] and low[column] <= 0.0, hard[at][1] and high[column] >= 1.0)
            lower[at] = lower[at] if low[column] <= 0.0 else float(ends[0, column])
            upper[at] = upper[at] if high[column] >= 1.0 else float(ends[1, column])
        return Box(old.names, tuple(lower), tuple(upper), old.scale, tuple(hard))

    def _at_fault(self) -> str:
        """Say that nothing remains, how near the simulator comes, and which outputs are in the way."""
        found = self.remaining
        theta = self._theta(found.best[None])
        x = np.asarray(self.box.from_unit(found.best[None]))
        by_wave = [
            float(w.implausibility.at(theta).squared[0] / w.cutoff) if w.box.contains(x)[0] else 0.0 for w in self.waves
        ]
        worst = self.waves[int(np.argmax(by_wave))]
        outputs = worst.implausibility.by_output(theta)
        order = sorted(outputs.items(), key=lambda one: float(one[1][0][0]))
        said = [
            f"{name!r} (p = {max(float(p[0]), 1e-99):.2g} alone; measured up to "
            f"{abs(float(sds[0])):.1f} sds {'above' if sds[0] > 0 else 'below'} the prediction)"
            for name, (p, sds) in order[:3]
        ]
        where = ", ".join(f"{name} = {float(value[0]):.4g}" for name, value in theta.items())
        return (
            "nothing remains: the simulator cannot reproduce the data within noise and discrepancy. The least "
            f"implausible point is {where}, with I2 {found.least:.2g} times the cut-off; at fault are "
            f"{'; '.join(said)}. Check units and measurements of these outputs, widen the prior, or give a discrepancy="
        )


def _read_targets(
    surrogate: Surrogate, targets: Any, noise: NoiseModel | Mapping[str, NoiseModel] | None
) -> tuple[Observations, NoiseModel | Mapping[str, NoiseModel]]:
    """Return observations and noise of targets in any of the forms."""
    if not hasattr(surrogate, "layouts") or not hasattr(surrogate, "domain"):
        raise InputError(
            f"HistoryMatching: surrogate is a {type(surrogate).__name__}; fit one to runs over the prior first: "
            "uq.HistoryMatching(uq.GaussianProcess().fit(runs), targets, runs=runs)."
        )
    pairs = isinstance(targets, Mapping) and not isinstance(targets, xr.Dataset)
    if pairs and any(isinstance(one, tuple | list) for one in targets.values()):
        return _of_pairs(surrogate, targets, noise), GaussianNoise()
    space = getattr(surrogate, "attrs", {}).get("space")
    conditions = () if space is None else tuple(ParameterSpace.from_json(space).conditions)
    observations = observations_of(targets, surrogate.layouts, conditions)
    if noise is None and np.isnan(observations.sd).any():
        name = observations.outputs[0]
        raise InputError(
            "HistoryMatching: the targets have no standard deviation; give noise=uq.GaussianNoise(sd=...), a column "
            f"sd= in the observations, or pairs, {{{name!r}: (value, sd)}}."
        )
    return observations, GaussianNoise() if noise is None else noise


def _of_pairs(surrogate: Surrogate, targets: Mapping[str, Any], noise: object) -> Observations:
    if noise is not None:
        raise InputError("HistoryMatching: the targets have their standard deviations: leave noise= out.")
    tables = []
    for name, pair in targets.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError(f"HistoryMatching: target {name!r} is {pair!r}; give a value and its sd, (3.1, 0.2).")
        value, sd = pair
        one = observations_of({name: value}, surrogate.layouts)
        check.positive("HistoryMatching", f"the sd of target {name!r}", sd)
        tables.append(replace(one, sd=np.full(len(one), float(sd))))
    return tables[0] if len(tables) == 1 else Observations.concat(tables)


def _read_discrepancy(surrogate: Surrogate, given: Any) -> Any:
    """Return a discrepancy, numbers by output as offsets that are new with each condition."""
    if not isinstance(given, Mapping):
        if isinstance(given, int | float):
            raise InputError(
                f"HistoryMatching: discrepancy is {given!r}; state of which output: {{'peak': {given!r}}}."
            )
        return given
    out = {}
    for name, one in given.items():
        number = isinstance(one, int | float | np.number) and not isinstance(one, bool)
        if number and name in surrogate.layouts and surrogate.layouts[name].dims:
            raise InputError(
                f"HistoryMatching: the discrepancy of {name!r} is a number, but errors of a model are alike at "
                f"neighbouring points of a curve: give uq.GPDiscrepancy(sd={one!r}, length=...)."
            )
        out[name] = OffsetDiscrepancy(sd=float(one), shared=False) if number else one
    return out
