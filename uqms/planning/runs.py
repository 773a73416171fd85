"""Which runs of the simulators reduce the posterior's variance most for their cost.

A run has a point, a condition, a simulator or member of a chain, a level of fidelity; it may be a replicate.
Candidates are draws of the widened posterior at the observed conditions and between them. The run with the largest
gain per cost is chosen, covariances are conditioned on it, and so on. Nothing is run, and no value of a run is made up.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, final

import numpy as np
import pandas as pd
import xarray as xr

from uqms import _checks as check
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, Bools, RandomState, as_generator
from uqms.calibration.base import Problem
from uqms.calibration.context import Context, evenly
from uqms.calibration.population.subject_checks import prior_sd_of
from uqms.calibration.posterior import Posterior, check_posterior
from uqms.calibration.predict import make_grid
from uqms.calibration.refinement import finite_draws, widened
from uqms.calibration.success import OfMembers
from uqms.calibration.verdict import has_no_error
from uqms.errors import PACKAGE, ConvergenceWarning, InputError
from uqms.parameters import Box
from uqms.planning.noise_targets import noise_sds_of
from uqms.planning.run_gain import Candidates, Gains, LinearPosterior, Predicted, Source, first_order
from uqms.surrogates.process import scrambled_points
from uqms.surrogates.proposed import proposed_design
from uqms.surrogates.run_value import RunKind

if TYPE_CHECKING:
    from uqms.calibration.population.calibration import PopulationCalibration

__all__ = ["RunPlan", "next_runs"]

DRAWS, FEWEST_DRAWS = 64, 16  # at which the problem is linearised
CANDIDATES = 256
EVEN = 0.1  # of the candidates fill the box
NUMBERS = 2e7  # of the largest array
STOP = 0.005
LIMITED = 0.05  # of the sd: less is due to the surrogate's error where it does not limit the precision
MOST_CELLS = 2000  # of a population
MANY_DRAWS = 400  # of a population, of whose subjects candidates are made
STEP = 1e-4
SAME = 1e-9  # of the unit cube
REPEATED = 64  # inputs of runs there are, at most, that are candidates again


@taught
@final
@dataclass(frozen=True, eq=False)
class RunPlan:
    """Runs that `next_runs` proposes, in the order in which they are worth most.

    Attributes
    ----------
    designs
        A design for each simulator, member of a chain, or level of fidelity, by its label, for `uqms.run`.
    table
        One row per run: `run`, its label; its inputs; `with_it`, labels of lower levels that are run there too;
        `success`, the probability that it gives its outputs; `gain`, the fraction of the targets' variance that it
        removes, in the mean over the targets; `cost`; `total_cost`; and after it the predicted sd of each target,
        "sd_name", in its own unit.
    now
        Posterior sd of each target before any of these runs, in its own unit.
    floor
        Predicted sd of each target if the surrogates had no error.
    stopped
        Why the plan has fewer runs than were asked for; "" where it does not.
    notes
        What else to know of it.
    """

    designs: Mapping[str, xr.Dataset]
    table: pd.DataFrame
    now: Mapping[str, float]
    floor: Mapping[str, float]
    stopped: str
    notes: tuple[str, ...] = ()

    @property
    def design(self) -> xr.Dataset:
        """The design, where there is one simulator at one level.

        Raises
        ------
        InputError
            When there are several, or no run is proposed.
        """
        if len(self.designs) == 1:
            return next(iter(self.designs.values()))
        if not self.designs:
            raise InputError(f"design: no run is proposed ({self.stopped}). Ask `if plan:` first.")
        raise InputError(f"design: there is one for each of {', '.join(self.designs)}; use plan.designs[name].")

    @property
    def cost(self) -> float:
        """Cost of all of the runs."""
        return float(self.table["cost"].sum())

    def __bool__(self) -> bool:
        return len(self.table) > 0

    def __len__(self) -> int:
        return len(self.table)

    def __str__(self) -> str:
        counts = {name: one.sizes["run"] for name, one in self.designs.items()}
        runs = ", ".join(f"{count} of {name}" if name else str(count) for name, count in counts.items())
        lines = [f"Next runs: {runs}, cost {self.cost:.4g}" if self else "Next runs: none"]
        last = self.table.iloc[-1] if self else None
        shown = list(self.now)[:4]
        for name in shown:
            after = self.now[name] if last is None else last[f"sd_{name}"]
            lines.append(
                f"  sd of {name}: {self.now[name]:.4g} now, {after:.4g} predicted after these runs, "
                f"{self.floor[name]:.4g} without any error of the surrogate"
            )
        if len(self.now) > len(shown):
            lines[-1] += f" ({len(self.now) - len(shown)} more in plan.table)"
        if self:
            first = self.table.iloc[0]
            at = ", ".join(f"{name} = {first[name]:.4g}" for name in self._inputs if np.isfinite(first[name]))
            kind = f"{first['run']} at " if first["run"] else ""
            lines.append(f"  first: {kind}{at}: {first['gain']:.1%} of the variance for a cost of {first['cost']:.3g}")
            half = int(np.searchsorted(np.cumsum(self.table["gain"]), 0.5 * self.table["gain"].sum())) + 1
            if len(self) > 2:
                runs = "run has" if half == 1 else f"{half} runs have"
                lines.append(f"  of these {len(self)} runs, the first {runs} half of the predicted gain")
        if self.stopped:
            lines.append(f"  {self.stopped}")
        return "\n".join(lines + [f"  {note}" for note in self.notes])

    @property
    def _inputs(self) -> list[str]:
        return list(self.table.columns[1 : list(self.table.columns).index("with_it")])


@taught
@single_threaded
def next_runs(
    posterior: Posterior,
    n: int,
    *,
    cost: Mapping[str, float] | float | None = None,
    about: str | Sequence[Any] | None = None,
    success: Any = None,
    budget: float = math.inf,
    stop: float = STOP,
    widen: float = 1.5,
    candidates: int = CANDIDATES,
    replicates: bool | None = None,
    rng: RandomState | None = None,
) -> RunPlan:
    """Propose the runs that reduce the variance of a posterior most for their cost.

    Use it when runs are expensive and there is a choice: which level of fidelity, which simulator of a chain, which
    condition, replicates of a stochastic simulator or new points. For one deterministic simulator `refine` does as well
    and also moves the design box to a narrow posterior.

    Parameters
    ----------
    posterior
        Posterior that was made from the runs so far: of one subject, several parts, or a population of up to 2 000
        measurements.
    n
        Number of runs at most.
    cost
        Cost of a run, in any unit, by label: "member" of a chain, "level", "part" of a calibration, or several of
        these joined by dots. By default those of the surrogate's levels (`MultiFidelity(cost=...)`), or 1 where there
        is one kind of run. A run of a nested level costs what lower levels cost that have not been run there, too.
    about
        Names of parameters or derived quantities; all parameters by default, of a population typical values, omegas,
        covariate effects and what subjects share. Also standard deviations of independent Gaussian noise, which the
        surrogate's error hides. Where there is no population, a prediction is a mapping with "output"
        and, as in `Posterior.predict`, "conditions" and "coords":
        ``about=["CL", {"output": "conc", "coords": {...}}]``.
    success
        Probability of success, what `SuccessProbability().fit` or `EventProbability(...).fit` returns, or a mapping of
        label to these. By default that of the calibration.
    budget
        Largest cost of all runs.
    stop
        The plan ends where no run is predicted to reduce the sd of any target by this fraction of it; cheaper kinds of
        runs by as much as for the cost of the most expensive one.
    widen
        By how much the sds of the posterior are enlarged for the candidates.
    candidates
        How many points of each simulator are compared.
    replicates
        Whether runs may be repeated, so that the noise of a stochastic simulator averages out. By default where the
        surrogate has learned from replicates. A second run of a deterministic simulator adds no information.
    rng
        Whole number or generator.

    Returns
    -------
    RunPlan
        Designs by label, a table with the predicted gains, and the reason where the plan ends early; print it. It is
        true in an `if` when a run is proposed.

    Raises
    ------
    InputError
        Unknown names, missing costs, numbers out of range; predictions or too many measurements of a population.

    Warns
    -----
    ConvergenceWarning
        When the chains do not agree.

    Notes
    -----
    The problem is linearised at posterior draws, each with its hyperparameters, and gains are averaged over them: for
    given hyperparameters and a linear simulator they are exact. A posterior that the surrogate's error makes much wider
    than the data would is not normal; then gains are rough, and a few rounds are better than one.

    References
    ----------
    Krause, Singh & Guestrin (2008), JMLR 9:235, for greedy designs from covariances; Sürer, Plumlee & Wild (2024),
    doi:10.1080/00401706.2023.2246157, for expected variances of a calibration's posterior.

    Examples
    --------
    A loop, for a chain of two simulators::

        while plan := uq.next_runs(posterior, 8, cost={"cell": 0.3, "cable": 1.8}, rng=2):
            for name, design in plan.designs.items():
                runs[name] = uq.ensemble.combine(runs[name], uq.run(simulators[name], design))
            fitted = {name: uq.GaussianProcess().fit(one) for name, one in runs.items()}
            posterior = uq.Calibration(uq.Chain(links=links, **fitted), data, noise).sample(rng=2)
    """
    check_posterior(posterior, "next_runs")
    _check_numbers(n, budget, stop, widen, candidates)
    problem = posterior.problem
    if has_no_error(problem):
        raise InputError("next_runs: the simulator itself was used, whose error no run reduces. Measure more instead.")
    apart = [one for one in posterior.verdict.checks if one.name == "R-hat" and one.status == "fail"]
    if apart:
        warnings.warn(
            f"next_runs: the chains do not agree ({apart[0].message}), so gains are those of some part of the "
            "posterior. Sample longer first.",
            ConvergenceWarning,
            skip_file_prefixes=PACKAGE,
        )
    generator = as_generator(rng)
    seed = int(generator.integers(2**31))
    generator = np.random.default_rng(seed)
    targets = _targets(posterior, about)
    sampled = Context.of(posterior).sampled
    picked = evenly(len(sampled.h), _draws(problem, candidates, n))
    theta, h = {name: values[picked] for name, values in sampled.theta.items()}, sampled.h[picked]
    slopes, predicted = _slopes(problem, theta, targets)
    latents = sampled.latents[picked] if problem.kind == "population" else None
    linear = LinearPosterior.of(problem, theta, h, slopes, predicted, latents, targets.noises)
    offered = _offered(linear, posterior, candidates, widen, success, generator)
    price = _costs(offered.candidates, cost)
    return _plan(linear, offered, price, targets, int(n), budget, stop, seed, replicates)


def _check_numbers(n: object, budget: float, stop: float, widen: float, candidates: object) -> None:
    if not check.is_whole(n, 1):
        raise InputError(f"next_runs: n is {n!r}; give a whole number of at least 1.")
    if not check.is_whole(candidates, 8):
        raise InputError(f"next_runs: candidates is {candidates!r}; give a whole number of at least 8.")
    if not budget > 0.0:
        raise InputError(f"next_runs: budget is {budget!r}; give a number above zero.")
    if not 0.0 <= stop < 1.0:
        raise InputError(f"next_runs: stop is {stop!r}; give a fraction of the posterior's sd, such as {STOP:g}.")
    if not 1.0 <= widen < math.inf:
        raise InputError(f"next_runs: widen is {widen!r}; give a number of at least 1, such as 1.5.")


def _draws(problem: Problem, candidates: int, n: int) -> int:
    """Return at how many draws the problem is linearised, fewer where arrays would be large.

    Raises
    ------
    InputError
        When a population has too many measurements.
    """
    width = 0
    for part in problem.named_parts.values():
        width += len(part.data_model.used)
    each = (
        candidates * width * max(1, width) * (n + max(part.cells.experiments for part in problem.named_parts.values()))
    )
    if problem.kind == "population":
        cells = len(problem.named_parts[""].with_few_cells().cells.offset)
        if cells > MOST_CELLS:
            raise InputError(
                f"next_runs: the subjects have {cells} measurements, whose covariances are all computed; it takes "
                f"up to {MOST_CELLS}. Use uq.refine(posterior, n)."
            )
        each = max(each, cells**2)
    return int(np.clip(NUMBERS / each, FEWEST_DRAWS, DRAWS))


# ------------------------------------------------------------------------------------------------------------- targets
@dataclass(frozen=True, eq=False)
class _Targets:
    """What the runs are for: parameters and derived quantities by name, predictions, noise, and each one's sd now."""

    names: list[str]
    predictions: list[tuple[int, Mapping[str, Any]]]  # of which surrogate, and what was asked
    noises: list[str]  # standard deviations of the noise
    labels: list[str]
    sd: Array


def _targets(posterior: Posterior, about: str | Sequence[Any] | None) -> _Targets:
    problem = posterior.problem
    every = [name for name in problem.parameters if name not in problem.auxiliary]
    asked = every if about is None else [about] if isinstance(about, str | Mapping) else list(about)
    if not asked:
        raise InputError("next_runs: about is empty; name parameters, or leave it out.")
    names = [one for one in asked if isinstance(one, str)]
    known = [*every, *problem.derived]
    if problem.kind == "population" and len(names) < len(asked):
        raise InputError(
            f"next_runs: about {next(one for one in asked if not isinstance(one, str))!r}; runs for a population are "
            f"about what describes it, some of {known}. For a prediction of one subject calibrate that subject alone, "
            "with priors from posterior.summary()."
        )
    scatter = [name for part in problem.named_parts.values() for name in noise_sds_of(part)]
    noises = [name for name in names if name in scatter]
    names = [name for name in names if name not in scatter]
    if unknown := [name for name in names if name not in known]:
        other = [name for name in unknown if name in problem.priors]
        more = (
            f" Of {other[0]!r}, which is no sd of independent Gaussian noise, runs have no gain in closed form: plan "
            f"them about {known[0]!r}, and see posterior.summary() after each round."
            if other
            else ""
        )
        every = [*known, *dict.fromkeys(scatter)]
        raise InputError(f"next_runs: about has {unknown}; name some of {every}, or give a prediction.{more}")
    draws = posterior.draws
    sd = [float(draws[name].std()) for name in names]
    labels, predictions = list(names), []
    places = {part: i for i, piece in enumerate(problem.pieces(posterior.flat())) for part in piece.parts}
    for one in sorted((one for one in asked if not isinstance(one, str)), key=lambda one: _place(one, places)):
        part = str(one.get("part", ""))
        whose = posterior.part(part) if part else posterior
        settings = {key: one[key] for key in ("conditions", "coords") if one.get(key) is not None}
        found = whose.predict(outputs=one["output"], discrepancy=False, realisation="none", **settings)
        values = np.asarray(found.sd[one["output"]]).ravel()
        predictions.append((places[part], one))
        labels += [f"{one['output']}[{i}]" if len(values) > 1 else str(one["output"]) for i in range(len(values))]
        sd += values.tolist()
    labels += noises
    sd += [float(draws[name].std()) for name in noises]
    return _Targets(names, predictions, noises, labels, np.array(sd))


def _place(asked: Any, places: Mapping[str, int]) -> int:
    """Return which surrogate a prediction is of."""
    right = isinstance(asked, Mapping) and "output" in asked
    if not right or set(asked) - {"part", "output", "conditions", "coords"} or asked.get("part", "") not in places:
        parts = "" if "" in places else f'"part": one of {list(places)}, '
        raise InputError(
            f'next_runs: about {asked!r}; a prediction is {{{parts}"output": name, "conditions": ..., "coords": ...}}.'
        )
    return places[str(asked.get("part", ""))]


def _slopes(problem: Problem, theta: dict[str, Array], targets: _Targets) -> tuple[Array, list[Predicted]]:
    """Return the derivatives of the named targets by the parameters, (S, T, D), and the predictions."""
    D, S = len(problem.parameters), len(next(iter(theta.values())))
    out = np.zeros((S, len(targets.names), D))
    pieces = problem.pieces(theta)
    moved: dict[str, list[Array]] = {}
    if problem.kind == "population":
        sds = prior_sd_of(cast("PopulationCalibration", problem))
        moved = {name: [theta[name] + sign * STEP * sds[name] for sign in (1.0, -1.0)] for name in problem.parameters}
    for piece in () if moved else pieces:
        single, box = piece.problem, piece.problem.surrogate.domain
        prior = single.unit_inputs(single.prior_draws(4000, 0))[:, 0]
        for name in single.parameters:
            if name in moved:
                continue
            column = box.names.index(name)
            u = np.asarray(box.maps[column].forward(theta[name]))
            step = STEP * float(prior[:, column].std())
            moved[name] = [np.asarray(box.maps[column].inverse(u + sign * step)) for sign in (1.0, -1.0)]
    for t, target in enumerate(targets.names):
        if target in problem.parameters:
            out[:, t, problem.parameters.index(target)] = 1.0
            continue
        function = problem.derived[target].function
        fixed = {key: np.full(S, value) for key, value in getattr(problem, "fixed", {}).items()}
        for i, name in enumerate(problem.parameters):
            upper, lower = (function({**fixed, **theta, name: values}) for values in moved[name])
            out[:, t, i] = (np.asarray(upper) - np.asarray(lower)) / (2.0 * STEP)
    predicted = []
    for i, one in targets.predictions:
        part = str(one.get("part", ""))
        single = first_order(problem.named_parts[part] if part else pieces[i].problem)
        if single.cells.by_input is not None:
            raise InputError(
                "next_runs: predictions of a surrogate whose rows depend on the input cannot be targets; name "
                "parameters or derived quantities."
            )
        grid = make_grid(single.data_model, one["output"], one.get("conditions"), one.get("coords"))
        predicted.append(Predicted(i, grid.targets))
    return out, predicted


# ---------------------------------------------------------------------------------------------------------- candidates
def _offered(
    linear: LinearPosterior,
    posterior: Posterior,
    count: int,
    widen: float,
    success: Any,
    rng: np.random.Generator,
) -> Gains:
    """Return the candidates of all kinds of runs with their gains."""
    draws, eta = finite_draws(posterior), None
    if posterior.problem.kind == "population":
        finite = np.all([np.isfinite(values) for values in posterior.flat().values()], axis=0)
        some = evenly(int(finite.sum()), MANY_DRAWS)
        draws, eta = {name: values[some] for name, values in draws.items()}, posterior.latents[finite][some]
    offered: list[Candidates] = []
    inputs: dict[int, list[Array]] = {}
    pieces = posterior.problem.pieces(draws, eta)
    for source, piece in zip(linear.sources, pieces, strict=True):
        surrogate = source.problem.surrogate
        u = _points(source.problem, piece.theta, count, widen, rng)
        own = getattr(surrogate, "run_inputs", None)
        members = own(u, rng) if own is not None else {}
        families: dict[int, list[RunKind]] = {}
        for kind in source.kinds:
            families.setdefault(kind.observed[0].part, []).append(kind)
        for kinds in families.values():
            v = members.get(kinds[0].label[0], u) if kinds[0].label else u
            v = _with_repeats(v[np.all((v >= 0.0) & (v <= 1.0), axis=1)], kinds)
            if not len(v):
                continue
            for kind in kinds:
                places = []
                for one in kind.observed:
                    rows = np.hstack([np.tile(one.before, (len(v), 1)), v]) if one.before else v
                    blocks = inputs.setdefault(source.first + one.part, [])
                    if one.before or not blocks:
                        blocks.append(rows)
                    places.append((source.first + one.part, sum(len(block) for block in blocks[:-1])))
                named = kind.within(source.name, 0, 0) if len(linear.sources) > 1 else kind
                offered.append(Candidates(named, v, tuple(places), _success(success, named, source, v)))
    if not offered:
        raise InputError(
            "next_runs: no candidate lies in a design box. What links pass on has left the boxes of the members: run "
            "uq.refine(posterior, n, member=...), which moves them."
        )
    return Gains.of(linear, offered, {p: np.vstack(blocks) for p, blocks in inputs.items()})


def _points(problem: Any, theta: Mapping[str, Array], count: int, widen: float, rng: np.random.Generator) -> Array:
    """Return points (count, d) in the unit cube of a surrogate: the widened posterior at conditions, and the box."""
    box = problem.surrogate.domain
    u = problem.unit_inputs({name: theta[name] for name in problem.parameters})
    columns = [box.names.index(name) for name in problem.parameters]
    even = round(EVEN * count)
    subjects = slice(None) if problem.individual else slice(1)  # each widened about its own median
    own = widened(np.clip(u[:, subjects][..., columns], 0.0, 1.0), widen, count - even, rng)
    own = np.vstack([own, scrambled_points(even, len(columns), int(rng.integers(2**31)))])
    out = u[0, rng.integers(u.shape[1], size=len(own))].copy()  # conditions, and what is fixed
    lower, upper = u[0].min(axis=0), u[0].max(axis=0)
    between = rng.random(len(own)) < 0.5
    out[between] = lower + rng.random((int(between.sum()), box.d)) * (upper - lower)
    out[:, columns] = own
    return np.asarray(out)


def _with_repeats(v: Array, kinds: list[RunKind]) -> Array:
    """Return candidates with inputs near them of runs there are: for higher levels there, and for replicates."""
    if not len(v):
        return v
    low, high = v.min(axis=0), v.max(axis=0)
    known = np.unique(np.vstack([kind.known for kind in kinds]), axis=0)
    known = known[np.all((known >= low) & (known <= high), axis=1)]
    return np.vstack([v, known[np.linspace(0, len(known) - 1, min(len(known), REPEATED)).round().astype(int)]])


def _success(given: Any, kind: RunKind, source: Source, v: Array) -> Array:
    """Return the probability (M,) that runs of a kind at inputs in its unit cube give their outputs."""
    label = ".".join(kind.label)
    if isinstance(given, Mapping):
        model = given.get(label)
    else:
        known = source.problem.success
        model = given if given is not None else None if known is None else known.fitted
        if isinstance(model, OfMembers):
            model = model.members.get(kind.label[0])
    if model is None:
        return np.ones(len(v))
    if not isinstance(getattr(model, "domain", None), Box) or not callable(getattr(model, "log_probability_at", None)):
        raise InputError(
            f"next_runs: success is {model!r}; give what uq.SuccessProbability().fit(ensemble) returns, or a mapping "
            "of label to that."
        )
    if lost := [name for name in model.domain.names if name not in kind.domain.names]:
        if isinstance(given, Mapping):
            raise InputError(f"next_runs: success of {label!r} depends on {lost}; its inputs are {kind.domain.names}.")
        return np.ones(len(v))
    x = np.asarray(kind.domain.from_unit(v))[:, [kind.domain.names.index(name) for name in model.domain.names]]
    return np.exp(np.asarray(model.log_probability_at(np.asarray(model.domain.to_unit(x)))))


def _costs(offered: list[Candidates], given: Mapping[str, float] | float | None) -> Array:
    """Return the cost of a run of each kind."""
    labels = [".".join(one.kind.label) for one in offered]
    if given is None and len(offered) == 1:
        return np.ones(1)
    if given is None and all(one.kind.cost is not None for one in offered):
        return np.array([one.kind.cost for one in offered])
    if isinstance(given, Mapping):
        found = [given.get(label) for label in labels]
        unknown = sorted(set(given) - set(labels))
    else:
        found, unknown = [given] * len(labels) if len(labels) == 1 else [None] * len(labels), []
    right = [isinstance(one, int | float) and not isinstance(one, bool) and 0.0 < one < math.inf for one in found]
    if unknown or not all(right):
        if labels == [""]:
            raise InputError(f"next_runs: cost is {given!r}; there is one kind of run, give its cost: cost=1.0.")
        raise InputError(
            f"next_runs: cost is {given!r}; give a positive number for each kind of run: "
            f"cost={dict.fromkeys(labels, 1.0)}."
        )
    return np.array(found, dtype=np.float64)


# ---------------------------------------------------------------------------------------------------------- the choice
def _plan(
    linear: LinearPosterior,
    gains: Gains,
    price: Array,
    targets: _Targets,
    n: int,
    budget: float,
    stop: float,
    seed: int,
    replicates: bool | None,
) -> RunPlan:
    offered = gains.candidates
    once = [not (one.kind.stochastic if replicates is None else replicates) for one in offered]
    ran = [_ran(one) for one in offered]
    family = _families(offered)
    bare = targets.sd * np.sqrt(np.clip(linear.bare.mean(axis=0) / gains.scale, 0.0, 1.0))
    rows: list[dict[str, Any]] = []
    chosen: dict[int, list[Array]] = {k: [] for k in range(len(offered))}
    spent, count, reason = 0.0, 0, ""
    while count < n:
        found = [one.success[:, None] * gains.of_kind(k) for k, one in enumerate(offered)]
        open_ = [~(ran[k] & once[k]) for k in range(len(offered))]
        costs = [_cost_of(k, offered, price, ran, family) for k in range(len(offered))]
        best = max(_decrease(one, gains, price.max() / costs[k], open_[k]) for k, one in enumerate(found))
        if best < stop:
            reason = _reason(best, stop, len(rows), price, float((bare / targets.sd).min()))
            break
        each = [(one / gains.scale).mean(axis=1) for one in found]
        fits = [one <= budget - spent for one in costs]
        value = [np.where(open_[k] & fits[k], each[k] / costs[k], -1.0) for k in range(len(offered))]
        k = int(np.argmax([one.max() for one in value]))
        r = int(np.argmax(value[k]))
        if value[k][r] <= 0.0:
            reason = (
                f"stopped: the budget of {budget:g} is used up" if np.isfinite(budget) else "stopped: no run is left"
            )
            break
        one = offered[k]
        lower = [family[k][source] for source in one.kind.sources[:-1] if not ran[family[k][source]][r]]
        for also in lower:
            ran[also][r] = True
            chosen[also].append(one.inputs[r])
        chosen[k].append(one.inputs[r])
        ran[k][r] = True
        gain, paid = float(each[k][r]), float(costs[k][r])
        gains.choose(k, r)
        spent += paid
        count += 1 + len(lower)
        x = np.asarray(one.kind.domain.from_unit(one.inputs[r]))
        sd = targets.sd * np.sqrt(np.maximum(gains.variance, 0.0) / gains.scale)
        rows.append(
            {
                "run": ".".join(one.kind.label),
                **dict(zip(one.kind.domain.names, x.tolist(), strict=True)),
                "with_it": ", ".join(".".join(offered[also].kind.label) for also in lower),
                "success": float(one.success[r]),
                "gain": gain,
                "cost": paid,
                "total_cost": spent,
                **{f"sd_{name}": float(value) for name, value in zip(targets.labels, sd, strict=True)},
            }
        )
    inputs = list(dict.fromkeys(name for one in offered for name in one.kind.domain.names))
    columns = ["run", *inputs, "with_it", "success", "gain", "cost", "total_cost"]
    columns += [f"sd_{name}" for name in targets.labels]
    designs = {
        ".".join(offered[k].kind.label): _design(offered[k].kind, np.array(points), seed, n)
        for k, points in chosen.items()
        if points
    }
    return RunPlan(
        designs,
        pd.DataFrame(rows, columns=columns),
        dict(zip(targets.labels, targets.sd.tolist(), strict=True)),
        dict(zip(targets.labels, bare.tolist(), strict=True)),
        reason,
    )


def _decrease(taken: Array, gains: Gains, dearest: Array, open_: Bools) -> float:
    """Return by which fraction candidates reduce the sd of a target at most, for the cost of the most expensive kind.

    `taken` (M, T) is what they take from the variances, `dearest` (M,) that cost over their own.
    """
    largest = np.max(taken / gains.variance, axis=1)
    return float(np.max(np.where(open_, dearest * (1.0 - np.sqrt(np.maximum(1.0 - largest, 0.0))), 0.0), initial=0.0))


def _reason(best: float, stop: float, count: int, price: Array, floor: float) -> str:
    """Return why a plan ends where the best candidate reduces an sd by less than `stop`."""
    which = "no run is" if not count else "none of the others is"
    per_cost = f", for a cost of {price.max():g}" if len(set(price)) > 1 else ""
    after = f" after {count} run{'s' * (count > 1)}" if count else ""
    words = f"stopped{after}: {which} predicted to reduce the sd of any target by {stop:.2%} of it{per_cost}"
    words += f" (the best does by {best:.2%})"
    if count:
        return words
    if floor > 1.0 - LIMITED:
        return f"{words}; the surrogate's error does not limit the precision"
    more = "a lower stop, or many runs at once, uq.refine(posterior, n)"
    return f"{words}; the surrogate's error still makes an sd {1.0 / floor - 1.0:.0%} larger: {more}"


def _ran(one: Candidates) -> Bools:
    """Return at which candidates (M,) a run of this kind is there."""
    if not len(one.kind.known):
        return np.zeros(len(one.inputs), dtype=bool)
    gap = np.abs(one.inputs[:, None] - one.kind.known[None]).max(axis=2).min(axis=1)
    return np.asarray(gap < SAME)


def _families(offered: list[Candidates]) -> list[dict[int, int]]:
    """Return, by kind, which place among all kinds each of its sources has."""
    out = []
    for k, one in enumerate(offered):
        own = len(one.kind.sources) - 1
        out.append({source: k - own + i for i, source in enumerate(one.kind.sources)})
    return out


def _cost_of(k: int, offered: list[Candidates], price: Array, ran: list[Bools], family: list[dict[int, int]]) -> Array:
    """Return what each candidate of a kind costs, runs of lower levels that are not there included."""
    kinds = list(family[k].values()) or [k]
    lower = [np.where(ran[other], 0.0, price[other]) for other in kinds if other != k]
    return np.asarray(price[k] + np.sum(lower, axis=0) if lower else np.full(len(offered[k].inputs), price[k]))


def _design(kind: RunKind, u: Array, seed: int, n: int) -> xr.Dataset:
    """Return the design of runs of a kind at inputs (n, d) in its unit cube."""
    recipe = {"method": "next_runs", "n": n, "seed": seed, "over": "posterior"}
    return proposed_design(kind.surrogate, kind.domain, np.asarray(kind.domain.from_unit(u)), recipe)
