"""Autoregressive levels of fidelity: each is a multiple of the one below and something new."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, NamedTuple, final

import numpy as np
import xarray as xr

from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, Ints
from uqms.errors import InputError
from uqms.surrogates.adapted import candidates
from uqms.surrogates.cokriging import CoKriging
from uqms.surrogates.fidelity.ladder import Ladder, Step
from uqms.surrogates.fidelity.levels import Levels, check_levels, read_levels, top_runs
from uqms.surrogates.fidelity.surrogate import MultiFidelitySurrogate, noted_alone
from uqms.surrogates.fitting import Fitting, Probable
from uqms.surrogates.gp import deciding, report
from uqms.surrogates.input_scales import chosen_scales, noted_scales
from uqms.surrogates.kernels import Kernel, Matern52, RadialKernel, Stationary
from uqms.surrogates.left_out_density import left_out_logs
from uqms.surrogates.outputs import Curve, Scalar, check_outputs, score_columns
from uqms.surrogates.training import Hyperparameters

__all__ = ["MultiFidelity", "fitted_levels", "fitting_of", "ladder_of", "on_chosen_scales", "preferred", "step_of"]


@taught
@final
@dataclass(frozen=True)
class MultiFidelity:
    """Surrogate of the highest of several levels of fidelity: many cheap runs and few costly ones.

    Use it when a coarse mesh, a lumped model or loose tolerances follow the trends of the simulator that you mean: then
    f_t(u) = rho f_(t-1)(u) + what is new in level t, and the costly runs have to teach the difference only. Where
    levels bend or stretch each other, `NonlinearMultiFidelity` follows them. Whether a lower level says anything of the
    next is weighed by marginal likelihood, so that a misleading one costs little; and an output whose left-out runs
    of the highest level are predicted better without the lower ones is learned from the highest level alone, if designs
    are nested and scales are chosen. ``print`` says so.

    Designs are best nested (each run of a level has one of the same inputs in the level below): `uqms.nested` makes
    such designs. Then the levels are learned one after the other; otherwise all together (co-kriging), which costs the
    cube of the number of all runs.

    Parameters
    ----------
    levels
        Names of the levels as in the ensemble's coordinate `fidelity`, the cheapest first; the last one is predicted.
    kernel
        As in `GaussianProcess`, of each level's own part; `Matern52()` by default.
    trend
        "constant" (default) or "linear", of each level's own part; in co-kriging levels have constants of their own and
        slopes in common.
    hyperparameters
        "averaged", "point" or "auto", as in `GaussianProcess`.
    outputs
        Settings by output name, `Scalar(...)` or `Curve(...)`; those of all levels. Curves have one basis.
    cost
        Cost of a run by level, for `uqms.next_level`. By default what the ensemble's coordinate `cost` says, or the
        mean of its `seconds`.
    designs
        "auto" (default), or "joint" for co-kriging also where designs are nested.
    scales
        "auto" (default): as in `GaussianProcess`, positive inputs enter by their value or their logarithm, the same for
        all levels, and each level's own part has learned directions and an amplitude where its runs prefer them.
        "given": the kernel and the design box's scales are taken as they are, as co-kriging always does.

    Raises
    ------
    InputError
        When a setting is not one of those.

    References
    ----------
    Kennedy & O'Hagan (2000), doi:10.1093/biomet/87.1.1; Le Gratiet & Garnier (2014),
    doi:10.1615/Int.J.UncertaintyQuantification.2014006914.

    Examples
    --------
    >>> import numpy as np
    >>> import uqms as uq
    >>> space = uq.ParameterSpace(k=uq.Uniform(0.0, 1.0))
    >>> designs = uq.nested(space, {"coarse": 32, "fine": 8}, rng=1)
    >>> coarse, fine = (design["k"].values for design in designs.values())
    >>> runs = uq.ensemble.combine(
    ...     uq.ensemble.build(designs["coarse"], {"y": np.sin(12.0 * coarse)}, fidelity="coarse"),
    ...     uq.ensemble.build(designs["fine"], {"y": 2.0 * np.sin(12.0 * fine) + fine}, fidelity="fine"),
    ... )
    >>> surrogate = uq.MultiFidelity(levels=("coarse", "fine")).fit(runs)
    >>> bool(abs(surrogate.predict({"k": 0.7}).mean["y"].item() - 2.0 * np.sin(8.4) - 0.7) < 0.05)
    True
    """

    levels: Sequence[str]
    kernel: Kernel = field(default_factory=Matern52)
    trend: Literal["constant", "linear"] = "constant"
    hyperparameters: Literal["auto", "averaged", "point"] = "auto"
    outputs: Mapping[str, Curve | Scalar] = field(default_factory=dict)
    cost: Mapping[str, float] | None = None
    designs: Literal["auto", "joint"] = "auto"
    scales: Literal["auto", "given"] = "auto"

    def __post_init__(self) -> None:
        check_levels(self.levels, "MultiFidelity")
        check_outputs(self.outputs, "MultiFidelity")
        if not isinstance(self.kernel, Stationary):
            raise InputError(
                f"kernel is {self.kernel!r}; give Matern52(), another Matérn kernel or SquaredExponential(), or a "
                "sum or product of them. Levels of fidelity take no JaxKernel."
            )
        if self.trend not in ("constant", "linear"):
            raise InputError(f"trend is {self.trend!r}; give 'constant' or 'linear'.")
        if self.hyperparameters not in ("auto", "averaged", "point"):
            raise InputError(f"hyperparameters is {self.hyperparameters!r}; give 'auto', 'averaged' or 'point'.")
        if self.designs not in ("auto", "joint"):
            raise InputError(f"designs is {self.designs!r}; give 'auto' or 'joint'.")
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
        levels = read_levels(ensemble, self.levels, self.outputs, self.cost, self.trend == "linear")
        columns = 1 if self.trend == "constant" else 1 + levels.box.d
        if self.designs == "auto" and levels.nested:
            if self.scales == "auto":
                scaled, kernel = on_chosen_scales(levels, self.kernel, columns, self.hyperparameters)
                steps = fitted_levels(scaled, len(levels.names), kernel, columns, self.hyperparameters)
                return preferred(levels, scaled, steps, kernel, columns, self.hyperparameters)
            steps = fitted_levels(levels, len(levels.names), self.kernel, columns, self.hyperparameters)
        else:
            steps = (self._jointly(levels, columns),)
        return ladder_of(levels, steps)

    def judged(self, ensemble: xr.Dataset) -> Ints:
        """Return the positions of the runs that predictions are compared with: those of the highest level."""
        return top_runs(ensemble, self.levels)

    def _jointly(self, levels: Levels, columns: int) -> Step:
        if not isinstance(self.kernel, RadialKernel):
            raise InputError(
                "Designs that are not nested take a single kernel, such as Matern52(): all levels are learned "
                "together. Run the lower level at the inputs of the higher one too, or choose a single kernel."
            )
        count = len(levels.names)
        x = [np.hstack([np.tile(_dummies(t, count), (len(u), 1)), u]) for t, u in enumerate(levels.x)]
        kernel = CoKriging(self.kernel, count)
        highest = np.arange(len(levels.x[-1])) + sum(map(len, x[:-1]))
        fitting = Fitting(
            np.vstack(x),
            kernel,
            columns + count - 1,
            False,
            self.hyperparameters,
            label="joint",
            doubted=True,
            judged=highest,
        )
        y = np.vstack(levels.y)
        found = fitting.trained(y)
        process = fitting.conditioned(y, found, levels.bases)
        report(process, found, levels.bases)
        return Step(process, "joint")


def _dummies(t: int, count: int) -> Array:
    return np.eye(count)[t, 1:]


def fitted_levels(
    levels: Levels,
    count: int,
    kernel: Kernel,
    columns: int,
    hyperparameters: Literal["auto", "averaged", "point"],
) -> tuple[Step, ...]:
    """Return the lowest `count` levels of nested designs, one after the other."""
    fittings = [fitting_of(levels, t, kernel, columns, hyperparameters) for t in range(count)]
    return tuple(step_of(levels, t, one, one.trained(levels.y[t])) for t, one in enumerate(fittings))


def step_of(levels: Levels, t: int, fitting: Fitting, found: list[Hyperparameters]) -> Step:
    """Return level t with hyperparameters that were trained."""
    process = fitting.conditioned(levels.y[t], found, levels.bases)
    report(process, found, levels.bases)
    return Step(process, "linear" if t else "plain")


def fitting_of(
    levels: Levels,
    t: int,
    kernel: Kernel,
    columns: int,
    hyperparameters: Literal["auto", "averaged", "point"],
    alone: Ints | None = None,
) -> Fitting:
    """Return what the scores of level t of nested designs share: the one below is a part of their mean, or is not.

    The means of the scores `alone` do not depend on it.
    """
    cheap = levels.y[t - 1][levels.below[t]] if t else None
    if cheap is not None and alone is not None:
        cheap[:, alone] = 0.0
    return Fitting(
        levels.x[t],
        kernel,
        columns + (t > 0),
        False,
        hyperparameters,
        cheap,
        doubted=t > 0,
        label=levels.names[t],
    )


class _Alone(NamedTuple):
    """The highest level without those below, and what left-out runs gain by it: mean and standard error by output."""

    step: Step
    found: list[Hyperparameters]
    gain: Array
    error: Array


def preferred(
    given: Levels,
    levels: Levels,
    steps: Sequence[Step],
    kernel: Kernel,
    columns: int,
    hyperparameters: Literal["auto", "averaged", "point"],
) -> MultiFidelitySurrogate:
    """Return the ladder of these steps, or where left-out runs prefer it, outputs of the highest level alone.

    An output does without the lower levels where left-out runs of the highest level are predicted better without them,
    by more than one standard error of the paired log densities. Alone, the highest level has scales of inputs of its
    own, and these are taken where all outputs prefer it.
    """
    top, columns_of = len(levels.names) - 1, score_columns(levels.bases)
    ladder = ladder_of(levels, steps)
    logs, _ = left_out_logs(ladder)

    def alone(
        of: Levels, outputs: Ints, hyperparameters: Literal["auto", "averaged", "point"] = hyperparameters
    ) -> _Alone:
        scores = np.concatenate([columns_of[i] for i in outputs])
        fitting = fitting_of(of, top, kernel, columns, hyperparameters, scores)
        found = fitting.trained(of.y[top])
        step = Step(fitting.conditioned(of.y[top], found, of.bases), "linear")
        gain = left_out_logs(ladder_of(of, [*steps[:top], step]))[0] - logs
        return _Alone(step, found, gain.mean(axis=0), gain.std(axis=0, ddof=1) / np.sqrt(len(gain)))

    every = np.arange(len(columns_of))
    own, _ = on_chosen_scales(given, kernel, columns, hyperparameters, [top])
    tried = alone(own, every, "point")  # cheap, and says in most cases that lower levels help
    if (tried.gain <= -tried.error).all():  # a constant output gains nothing, for certain
        return ladder
    if hyperparameters != "point":
        tried = alone(own, every)
    better = np.flatnonzero(tried.gain > tried.error)
    if len(better) and (tried.gain >= tried.error).all():
        levels = own
        if own.box != ladder.domain:
            steps = fitted_levels(own, top, kernel, columns, hyperparameters)
    else:
        if own.box != ladder.domain:
            tried = alone(levels, every)
            better = np.flatnonzero(tried.gain > tried.error)
        if not len(better):
            return ladder
        tried = alone(levels, better)
    report(tried.step.process, tried.found, levels.bases)
    names = [levels.bases[i].name for i in better]
    attrs = levels.attrs | noted_alone(names, tried.gain[better], tried.error[better])
    return ladder_of(replace(levels, attrs=attrs), [*steps[:top], tried.step])


def on_chosen_scales(
    levels: Levels,
    given: Kernel,
    columns: int,
    hyperparameters: Literal["auto", "averaged", "point"],
    deciding_levels: Sequence[int] | None = None,
) -> tuple[Levels, Kernel]:
    """Return the levels with inputs by value or logarithm, whichever makes the runs of all of them more probable.

    Some levels may decide alone. Beside the levels are the kernels that each may choose from.
    """
    which = range(len(levels.x)) if deciding_levels is None else deciding_levels
    kernel = candidates(given, levels.box.d)
    ends = np.cumsum([len(u) for u in levels.x])[:-1]
    decides = deciding(levels.bases)

    def probability(x: Array, others: list[list[Probable]] | None) -> tuple[float, list[list[Probable]]]:
        found = []
        of_levels = np.split(x, ends)
        for i, t in enumerate(which):
            fitting = Fitting(of_levels[t], kernel, columns, False, hyperparameters)
            found.append(fitting.most_probable(levels.y[t][:, decides], others[i] if others else None))
        return sum(value for value, _ in found), [each for _, each in found]

    box, x = chosen_scales(levels.box, np.vstack(levels.x), probability)
    attrs = levels.attrs | noted_scales(levels.box, box)
    return replace(levels, box=box, x=np.split(x, ends), attrs=attrs), kernel


def ladder_of(levels: Levels, steps: Sequence[Step], log_weights: Array | None = None) -> MultiFidelitySurrogate:
    """Return the surrogate of the highest level."""
    draws = max(step.process.draws for step in steps)
    if log_weights is None:
        log_weights = np.full(draws, -np.log(draws))
    ladder = Ladder(tuple(steps), log_weights)
    attrs = MappingProxyType(levels.attrs)
    return MultiFidelitySurrogate(
        levels.box, levels.names, ladder, tuple(levels.bases), MappingProxyType(levels.costs), attrs
    )
