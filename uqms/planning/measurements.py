"""Which measurement to make next: the expected information gain of candidates, and the best few of them together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, final

import numpy as np
import pandas as pd

from uqms import _checks as check
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, Ints, RandomState, as_generator
from uqms.calibration.base import Derived, Problem
from uqms.calibration.context import evenly
from uqms.errors import InputError
from uqms.planning.before_data import PriorDraws
from uqms.planning.candidate_table import COST, OUTPUT, PART, REPLICATES, Candidates, PredictedOutput, candidates
from uqms.planning.densities import Density, Sampled
from uqms.planning.forecasts import Forecaster, MeasuredSubject, OfParts, OfSubject, OneSubject, Points, joined
from uqms.planning.gain import Gain, State, gain_of_each, spread_out

if TYPE_CHECKING:
    from uqms.calibration.parts import JointCalibration
    from uqms.calibration.population.subject import SubjectPosterior
    from uqms.calibration.posterior import Posterior

__all__ = ["NextExperiment", "next_experiment"]

DRAWS = 1000
ALTERNATIVES = 4  # draws of nuisance quantities beside each draw of the parameters
FEW = 64  # candidates that are all compared jointly
SHORT = 24  # candidates on the short list
OUTER = 400  # outer draws while candidates are compared
TRIED, SWAPPED, ROUNDS = 12, 6, 3  # candidates by nested Monte Carlo per step and per exchange; rounds of exchanges
BETTER = 1e-3  # nats by which an exchange has to be better

type About = (
    str | PredictedOutput | Sequence[str | PredictedOutput] | Mapping[str, Callable[[Mapping[str, Array]], Any]]
)


@taught
@final
@dataclass(frozen=True, eq=False)
class NextExperiment:
    """The measurements to make next and their expected information; `uqms.next_experiment` makes it.

    Attributes
    ----------
    best
        The chosen candidates, in the order of choice. All columns are cumulative, for a candidate and those above it:
        `gain`, the expected information in nats; `mcse`; `gain_exact`, the gain if the surrogate were exact;
        `total_cost`; `method`; and "sd <quantity>", the expected posterior sd. With `losses`, also `value`.
    table
        All candidates, each alone: `gain`, `gain_exact`, `gain_per_cost`, "sd <quantity>", `method` ("nested" Monte
        Carlo or the "linear" form), and `chosen`, the place in `best` or 0.
    quantities
        By quantity: `sd` now, `expected_sd` after the measurements, `expected_sd_exact` if the surrogate were exact.
    gain, gain_exact
        Expected information of all chosen measurements together, in nats.
    method
        How `gain` was computed.
    reasons
        Sentences that say why, one per chosen measurement, and what limits the gain.
    candidates
        The candidates that were compared.
    """

    best: pd.DataFrame
    table: pd.DataFrame
    quantities: pd.DataFrame
    gain: float
    gain_exact: float
    method: str
    reasons: tuple[str, ...]
    candidates: Candidates

    def __repr__(self) -> str:
        same = [name for name in (REPLICATES, COST) if (self.table[name] == 1).all()]
        shown = self.best.drop(columns=["method", "mcse", *same, *(["total_cost"] if COST in same else [])])
        rows = shown.to_string(index=False, float_format=lambda v: f"{v:.3g}")
        sds = self.quantities.to_string(float_format=lambda v: f"{v:.3g}")
        head = f"NextExperiment: {len(self.best)} of {len(self.table)} candidates, {self.gain:.2f} nats ({self.method})"
        return "\n".join([head, rows, sds, *self.reasons])


@taught
@single_threaded
def next_experiment(
    posterior: "Posterior | SubjectPosterior | PriorDraws",
    ideas: Candidates,
    size: int = 3,
    *,
    subject: str | None = None,
    occasion: str | None = None,
    about: About | None = None,
    losses: Mapping[str, Callable[[Mapping[str, Array]], Any]] | None = None,
    budget: float | None = None,
    draws: int = DRAWS,
    rng: RandomState = 0,
) -> NextExperiment:
    r"""Choose the measurements with the largest expected information, given the data so far.

    Use it before the next sample is taken or the next condition is set up. The expected information gain is the mutual
    information of the quantities and the measurements, given the data. A measurement also contains the surrogate's
    error. This error is conditioned on the data, and all measurements of a proposal, replicates included, share it.

    Parameters
    ----------
    posterior
        A posterior; the posterior of a new subject (`Posterior.new_subject`); before any data, `uqms.prior_of`.
    ideas
        The result of `uqms.candidates`. Each candidate is chosen at most once.
    size
        How many measurements to choose together.
    subject
        With the posterior of a population: the label of the subject who is measured next.
    occasion
        Of a subject whose parameters differ between occasions: the label of the occasion of all candidates, one on
        which the subject was measured; by default a new one, whose effects are not known.
    about
        The quantities to be determined: names of parameters or derived quantities, a `PredictedOutput`, several of
        these, or functions of the draws by name. By default all parameters of the simulator. Noise and discrepancy
        are nuisance quantities unless they are named.
    losses
        For a decision: by action, a function from the draws by name to losses (S,). Measurements are then chosen by how
        much lower the expected loss of the best action becomes, in the unit of the loss.
    budget
        Largest total cost; candidates that no longer fit are left out.
    draws
        Posterior draws. Nested Monte Carlo is used up to a gain of log(draws) - 3 nats.
    rng
        Whole number or generator.

    Returns
    -------
    NextExperiment
        The proposal, its expected information, and the table of all candidates.

    Raises
    ------
    InputError
        Unknown outputs, places, quantities or subjects; noise that is not known; a population without `subject`;
        a `size` or `budget` that no candidate fits; losses where the gain is beyond nested Monte Carlo.
    ExtrapolationError
        Places outside of what was simulated.

    Notes
    -----
    Candidates are compared one step at a time (greedy), and then exchanged one by one: measurements that share the
    surrogate's error may be worth more together than apart, so that greedy choice alone has no guarantee. Costs count:
    a step takes the largest gain per cost. More than 64 candidates are screened in the linear form first. About some of
    the parameters, the others follow by regression, which is exact where all are jointly normal. Of noise that is not
    Gaussian the density is the mean over draws of the outputs with the surrogate's error.

    References
    ----------
    Lindley (1956), doi:10.1214/aoms/1177728069; Ryan (2003), doi:10.1198/1061860032012; Rainforth et al. (2024),
    doi:10.1214/23-STS915.

    Examples
    --------
    >>> import numpy as np, xarray as xr, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 16, rng=1)
    >>> times = np.arange(5.0)
    >>> y = xr.DataArray(np.outer(design["k"], times), dims=("run", "time"), coords={"time": times})
    >>> runs = uq.ensemble.build(design, {"y": y})
    >>> first = xr.DataArray([1.0], dims="time", coords={"time": [1.0]}, name="y")
    >>> problem = uq.Calibration(uq.GaussianProcess().fit(runs), first, noise=uq.GaussianNoise(sd=0.3))
    >>> best = uq.next_experiment(problem.sample(uq.Laplace(), rng=1), uq.candidates(times=times), size=1, rng=1)
    >>> float(best.best["time"].iloc[0])
    4.0
    """
    if not isinstance(ideas, Candidates):
        raise InputError(
            f"next_experiment: ideas is a {type(ideas).__name__}; give "
            "uq.candidates(outputs='conc', coords={'time': [1.0, 2.0, 4.0]})."
        )
    check.whole("next_experiment", "size", size)
    check.whole("next_experiment", "draws", draws, least=50)
    if budget is not None:
        check.positive("next_experiment", "budget", budget)
    generator = as_generator(rng)
    source = forecaster(posterior, draws, subject, occasion)
    names, psi, predictions, everything = _asked(source, about)
    points = source.points(ideas)
    S = len(psi)
    actions = _losses(source.quantities, losses, S)
    found = _Search.of(source, points, ideas, psi, predictions, everything, actions, generator)
    chosen, path = found.search(int(size), budget)
    return _result(found, ideas, names, chosen, path)


# ------------------------------------------------------------------------------------------------------- what is given
def forecaster(given: Any, draws: int, subject: str | None = None, occasion: str | None = None) -> Forecaster:
    """Return draws and what measurements would show at each, of a posterior, a subject or a prior.

    Raises
    ------
    InputError
        When it is none of these, or a population without the label of a subject.
    """
    kind = getattr(getattr(given, "problem", None), "kind", "")
    if subject is not None and (kind != "population" or isinstance(given, PriorDraws)):
        raise InputError("next_experiment: subject= is one of a population's posterior; leave it out here.")
    if occasion is not None and subject is None and not hasattr(given, "shared"):
        raise InputError("next_experiment: occasion= is one of a subject of a population; leave it out here.")
    if isinstance(given, PriorDraws):
        return given.forecaster(draws)
    if hasattr(given, "shared") and hasattr(given, "population"):
        return OfSubject(given, occasion)
    problem = getattr(given, "problem", None)
    if problem is None or not hasattr(given, "tree"):
        if isinstance(given, Problem):
            raise InputError(
                "next_experiment: got a calibration; give its posterior, problem.sample(rng=1), or before any data "
                "uq.prior_of(problem)."
            )
        raise InputError(
            f"next_experiment: got a {type(given).__name__}; give a posterior, what posterior.new_subject(...) "
            "returns, or before any data uq.prior_of(calibration)."
        )
    if problem.kind == "population" and subject is not None:
        return OfSubject(MeasuredSubject.of(given, subject, draws), occasion)
    if problem.kind == "population":
        raise InputError(
            "next_experiment: this is a population. For the next sample of one of its subjects give subject=, for "
            "that of a new one posterior.new_subject(...); for the sampling times of a trial use "
            "uq.next_trial(posterior, ...)."
        )
    return _of_posterior(given, draws)


def _of_posterior(posterior: "Posterior", draws: int) -> Forecaster:
    problem = posterior.problem
    flat = {str(name): values.values.ravel() for name, values in posterior.draws.data_vars.items()}
    some = evenly(len(next(iter(flat.values()))), draws)
    known = {name: values[some] for name, values in flat.items() if values.shape[0] > some.max()}
    if problem.kind == "one":
        return _one(posterior, some, known)
    joint = cast("JointCalibration", problem)
    h = posterior.tree["sample_stats"]["hyperparameter_draw"]
    h = h.stack(sample=("chain", "draw")).transpose("sample", "part").values[some].astype(np.int64)
    theta = {name: values[some] for name, values in posterior.flat().items()}
    return OfParts.of(joint, theta, h, posterior.latents[some], known)


def _one(posterior: "Posterior", some: Ints, known: Mapping[str, Array]) -> OneSubject:
    h = posterior.tree["sample_stats"]["hyperparameter_draw"].values.reshape(len(posterior.latents), -1)[some, 0]
    theta = {name: values[some] for name, values in posterior.flat().items()}
    return OneSubject(posterior.single, theta, h.astype(np.int64), posterior.latents[some], known)


def _asked(source: Forecaster, about: Any) -> tuple[list[str], Array, list[Points], bool]:
    """Return names of quantities, draws of those that are known by draw (S, k), predictions, and whether it is all.

    Raises
    ------
    InputError
        When a quantity is unknown.
    """
    known = source.quantities
    if about is None:
        given: list[Any] = list(source.parameters)
    elif isinstance(about, Mapping):
        S = len(next(iter(known.values())))
        columns = {str(name): _evaluated(name, function, known, S) for name, function in about.items()}
        return list(columns), np.column_stack(list(columns.values())), [], False
    else:
        given = [about] if isinstance(about, str | PredictedOutput) else list(about)
    names = [str(one) for one in given if not isinstance(one, PredictedOutput)]
    wrong = [name for name in names if name not in known]
    if wrong or not given:
        raise InputError(
            f"next_experiment: about has {wrong or 'nothing'}; name some of {list(known)}, or give "
            'uq.PredictedOutput("conc", coords={"time": 24.0}).'
        )
    asked = [one for one in given if isinstance(one, PredictedOutput)]
    points = [
        source.points(candidates(pd.DataFrame([{OUTPUT: one.output, **one.place}])), measured=False) for one in asked
    ]
    S = len(next(iter(known.values())))
    psi = np.column_stack([known[name] for name in names]) if names else np.zeros((S, 0))
    everything = not asked and set(source.parameters) <= set(names)
    return [*names, *(one.label for one in asked)], psi, points, everything


def _evaluated(name: str, function: Any, known: Mapping[str, Array], S: int) -> Array:
    function = function.function if isinstance(function, Derived) else function
    if not callable(function):
        raise InputError(f"next_experiment: {name!r} is {function!r}; give a function of the draws by name.")
    found = np.asarray(function(known), dtype=np.float64)
    if found.shape != (S,) or not np.isfinite(found).all():
        raise InputError(f"next_experiment: {name!r} returned the shape {found.shape}, expected finite numbers ({S},).")
    return found


def _losses(known: Mapping[str, Array], losses: Any, S: int) -> Array:
    if losses is None:
        return np.zeros((S, 0))
    if not isinstance(losses, Mapping) or len(losses) < 2:
        raise InputError(
            "next_experiment: losses is a mapping of two actions or more to functions of the draws, such as "
            "losses={'treat': lambda p: 1.0 + 0.0 * p['a'], 'wait': lambda p: p['a']}."
        )
    return np.column_stack([_evaluated(name, function, known, S) for name, function in losses.items()])


def _with_predictions(
    means: Array, covariances: Array, psi: Array, count: int, normals: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """Return means, covariances and quantities of the first `count` points, given draws of the others' own errors.

    Predictions become quantities: each draw gets one of what is predicted, given which the measurements' errors are
    those that are left.
    """
    mean, C = means[:, 0], covariances[:, 0]
    k = mean.shape[1] - count
    if not k:
        return mean, C, means, covariances, psi
    own, cross = C[:, count:, count:], C[:, :count, count:]
    values, vectors = np.linalg.eigh(own)
    positive = values > 1e-10 * np.maximum(values[:, -1:], 1e-300)
    root = vectors * np.sqrt(np.where(positive, values, 0.0))[:, None, :]
    back = vectors / np.sqrt(np.where(positive, values, np.inf))[:, None, :]
    standard = normals[:, -k:]
    drawn = mean[:, count:] + np.einsum("sij,sj->si", root, standard)
    loading = cross @ back  # of the standard normals
    moved = mean[:, :count] + np.einsum("sij,sj->si", loading, standard)
    left = C[:, :count, :count] - loading @ loading.transpose(0, 2, 1)
    return moved, left, moved[:, None], left[:, None], np.column_stack([psi, drawn])


def _state(
    means: Array,
    covariances: Array,
    noise: Array,
    densities: Sequence[Density | None],
    psi: Array,
    everything: bool,
    losses: Array,
    normals: Array,
    known: Array | None,
    seed: int,
) -> State:
    """Return what gains are computed from; arguments as attributes of `Joint` and `State`."""
    count = len(densities)
    mean, C, others, other_C, psi = _with_predictions(means, covariances, psi, count, normals)
    sampled = None
    if any(densities):
        # What is Gaussian has its error among the draws too, and its noise at the mean of the output.
        variances, at = noise[:, : others.shape[1], :count], np.arange(count)
        error = other_C.copy()
        error[..., at, at] -= variances
        every = [one or Density.gaussian(np.sqrt(variances[..., p])) for p, one in enumerate(densities)]
        sampled = Sampled.of(every, others, error, everything, np.random.default_rng(seed))
    return State(mean, C, others, other_C, psi, everything, losses, normals[:, :count], known, sampled)


# ---------------------------------------------------------------------------------------------------------- the search
@final
@dataclass(frozen=True, eq=False)
class _Search:
    """Candidates with what is known of each, and the short list with what is known of all jointly."""

    cost: Array  # (P,)
    short: Ints  # (K,), places of the short list
    state: State
    exact: State
    each: tuple[Array, Array, Array, str]  # gains, gains if exact, sds (P, k), method
    parts: Array  # (K, 3), variances of the mean, of the surrogate's error, and of the rest

    @classmethod
    def of(
        cls,
        source: Forecaster,
        points: Points,
        ideas: Candidates,
        psi: Array,
        predictions: Sequence[Points],
        everything: bool,
        losses: Array,
        rng: np.random.Generator,
    ) -> "_Search":
        cost, P, S = ideas.table[COST].to_numpy(dtype=np.float64), len(points), len(psi)
        short, screened = np.arange(P), None
        if P > FEW:
            some, mean, variance, without = source.screen(points)
            asked = psi[some]
            if predictions:
                asked = np.column_stack([asked, *(source.joint(one, 1, rng).mean[some, 0] for one in predictions)])
            theta = np.column_stack([source.quantities[name] for name in source.parameters])
            gains, sds = gain_of_each(mean, variance, asked, everything, theta, some)
            exact_gains, _ = gain_of_each(mean, without, asked, everything, theta, some)
            screened = gains, exact_gains, sds, "linear"
            short = np.sort(spread_out(mean, variance, asked, everything, cost, SHORT))
        listed = points.at(short) if P > FEW else points
        both = joined([listed, *predictions]) if predictions else listed
        # Errors that were sampled with the parameters are no nuisance draws of their own: what the surrogate's mean
        # says belongs to the parameters, the rest follows by regression.
        apart = everything and not source.sampled_errors and source.determined
        joint = source.joint(both, ALTERNATIVES if apart else 1, rng)
        normals = rng.standard_normal((S, len(both)))
        known = joint.exact_mean[:, 0] if everything and not apart and source.determined else None
        seed = int(rng.integers(2**31))  # that of both: what has no error has the same gain
        states = [
            _state(means, covariance, noise, joint.densities[: len(short)], psi, apart, losses, normals, known, seed)
            for means, covariance, noise in (
                (joint.mean, joint.covariance, joint.noise),
                (joint.exact_mean, joint.exact_covariance, joint.exact_noise),
            )
        ]
        state, exact = states
        at = np.arange(len(short))
        total, rest = (one.covariance[:, at, at].mean(axis=0) for one in states)
        parts = np.column_stack([state.mean.var(axis=0, ddof=1), np.maximum(total - rest, 0.0), rest])
        if screened is None:
            outer = evenly(S, OUTER)
            each = [_single(one, at, outer) for one in states]
            same = "nested" if all(g.method == "nested" for one in each for g in one) else "linear"
            if same == "linear":
                each = [[one.linear(at[[i]]) for i in at] for one in states]
            screened = (
                np.array([g.nats for g in each[0]]),
                np.array([g.nats for g in each[1]]),
                np.stack([g.sds for g in each[0]]),
                same,
            )
        return cls(cost, short, state, exact, screened, parts)

    def search(self, size: int, budget: float | None) -> tuple[list[int], list[tuple[Gain, Gain]]]:
        """Return the chosen places on the short list, and their gains with those if the surrogate were exact.

        Raises
        ------
        InputError
            When no candidate fits the budget, or a decision is beyond nested Monte Carlo.
        """
        value = _Value(self.state)
        cost, chosen = self.cost[self.short], list[int]()
        room = np.inf if budget is None else float(budget)
        while len(chosen) < min(size, len(self.short)):
            spent = float(cost[chosen].sum())
            fits = [i for i in range(len(cost)) if i not in chosen and spent + cost[i] <= room * (1.0 + 1e-12)]
            if not fits:
                break
            before = value(chosen)
            linear = {i: (value.linear([*chosen, i]).nats) / cost[i] for i in fits}
            tried = sorted(fits, key=lambda i: -linear[i])[:TRIED] if not self.state.losses.shape[1] else fits
            values = value.several([[*chosen, i] for i in tried])
            worth = [(one - before) / cost[i] for one, i in zip(values, tried, strict=True)]
            chosen.append(tried[int(np.argmax(worth))])
            chosen = self._exchanged(chosen, value, cost, room)
        if not chosen:
            raise InputError(
                f"next_experiment: no candidate fits the budget of {budget:g}; the least costs {cost.min():g}."
            )
        chosen = _ordered(chosen, value, cost)
        outer = np.arange(len(self.state.mean))
        path = []
        for count in range(1, len(chosen) + 1):
            rows = np.array(chosen[:count])
            path.append((_final(self.state, rows, outer), _final(self.exact, rows, outer)))
        return chosen, path

    def _exchanged(self, chosen: list[int], value: "_Value", cost: Array, room: float) -> list[int]:
        """Return the set after exchanges of one measurement at a time, while that makes it better."""
        if len(chosen) < 2:
            return chosen
        best = value(chosen)
        for _ in range(ROUNDS):
            changed = False
            for place in range(len(chosen)):
                rest = [one for k, one in enumerate(chosen) if k != place]
                spent = float(cost[rest].sum())
                others = [i for i in range(len(cost)) if i not in chosen and spent + cost[i] <= room * (1.0 + 1e-12)]
                others = sorted(others, key=lambda i: -value.linear([*rest, i]).nats / (spent + cost[i]))[:SWAPPED]
                if not others:
                    continue
                values = value.several([[*rest, i] for i in others])
                per_cost = [one / (spent + cost[i]) for one, i in zip(values, others, strict=True)]
                k = int(np.argmax(per_cost))
                if per_cost[k] > (best + BETTER) / float(cost[chosen].sum()):
                    chosen, best, changed = [*rest, others[k]], values[k], True
            if not changed:
                break
        return chosen


class _Value:
    """What sets of measurements are worth: nested Monte Carlo until that is beyond its limit, then the linear form."""

    def __init__(self, state: State) -> None:
        self.state, self.outer = state, evenly(len(state.mean), OUTER)
        self.nested, self._known, self._linear = True, dict[tuple[int, ...], Gain](), dict[tuple[int, ...], Gain]()

    def linear(self, rows: Sequence[int]) -> Gain:
        key = tuple(sorted(rows))
        if key not in self._linear:
            self._linear[key] = self.state.linear(np.array(key))
        return self._linear[key]

    def several(self, sets: Sequence[Sequence[int]]) -> list[float]:
        """Return the value of each set, all by the same method."""
        decision = bool(self.state.losses.shape[1])
        if self.nested:
            for rows in sets:
                key = tuple(sorted(rows))
                if key and key not in self._known:
                    self._known[key] = self.state.nested(np.array(key), self.outer)
            found = [self._known[tuple(sorted(rows))] for rows in sets if len(rows)]
            self.nested = all(one.resolved for one in found)
        if self.nested:
            known = [self._known[tuple(sorted(rows))] if len(rows) else None for rows in sets]
            return [0.0 if one is None else one.value if decision else one.nats for one in known]
        if decision:
            raise InputError(
                f"next_experiment: the gain exceeds {self.state.limit:.1f} nats, what {len(self.state.mean)} draws can "
                "tell, so that the value for a decision is not known. Pass more draws=, or fewer measurements, size=."
            )
        return [self.linear(rows).nats if len(rows) else 0.0 for rows in sets]

    def __call__(self, rows: Sequence[int]) -> float:
        return self.several([rows])[0]


def _ordered(chosen: list[int], value: _Value, cost: Array) -> list[int]:
    """Return the chosen measurements such that each adds most to those before it, for its cost."""
    out: list[int] = []
    while len(out) < len(chosen):
        left = [i for i in chosen if i not in out]
        before = value(out)
        worth = [
            (one - before) / cost[i] for one, i in zip(value.several([[*out, i] for i in left]), left, strict=True)
        ]
        out.append(left[int(np.argmax(worth))])
    return out


def _single(state: State, rows: Ints, outer: Ints) -> list[Gain]:
    return [_final(state, rows[[i]], outer) for i in range(len(rows))]


def _final(state: State, rows: Ints, outer: Ints) -> Gain:
    """Return the gain by nested Monte Carlo where that is within its limit, else in the linear form."""
    nested = state.nested(rows, outer)
    return nested if nested.resolved else state.linear(rows)


# ---------------------------------------------------------------------------------------------------------- the result
def _result(
    found: _Search, ideas: Candidates, names: list[str], chosen: list[int], path: list[tuple[Gain, Gain]]
) -> NextExperiment:
    gains, exact, sds, method = found.each
    table = ideas.table.copy()
    table["gain"], table["gain_exact"], table["gain_per_cost"] = gains, exact, gains / found.cost
    for k, name in enumerate(names):
        table[f"sd {name}"] = sds[:, k]
    table["method"] = method
    places = found.short[chosen]
    order = np.zeros(len(table), dtype=np.int64)
    order[places] = np.arange(1, len(places) + 1)
    table["chosen"] = order
    best = ideas.table.iloc[places].copy()
    best["gain"], best["mcse"] = [one.nats for one, _ in path], [one.mcse for one, _ in path]
    best["gain_exact"] = [one.nats for _, one in path]
    best["total_cost"] = np.cumsum(found.cost[places])
    if found.state.losses.shape[1]:
        best["value"] = [one.value for one, _ in path]
    for k, name in enumerate(names):
        best[f"sd {name}"] = [one.sds[k] for one, _ in path]
    best["method"] = [one.method for one, _ in path]
    last, last_exact = path[-1]
    now = found.state.psi.std(axis=0, ddof=1)
    columns = {"sd": now, "expected_sd": last.sds, "expected_sd_exact": last_exact.sds}
    quantities = pd.DataFrame(columns, index=pd.Index(names, name="quantity"))
    return NextExperiment(
        best, table, quantities, last.nats, last_exact.nats, last.method, _reasons(found, ideas, chosen, path), ideas
    )


def _reasons(found: _Search, ideas: Candidates, chosen: list[int], path: list[tuple[Gain, Gain]]) -> tuple[str, ...]:
    out, before = [], 0.0
    for count, (i, (gain, _)) in enumerate(zip(chosen, path, strict=True), 1):
        row = ideas.table.iloc[int(found.short[i])]
        where = ", ".join(f"{name}={row[name]:g}" for name in ideas.places if np.isfinite(row[name]))
        often = f", {int(row[REPLICATES])} replicates" if row[REPLICATES] > 1 else ""
        who = f"{row[PART]}: " if PART in ideas.table and row[PART] else ""
        share = found.parts[i] / found.parts[i].sum()
        out.append(
            f"{count}. {who}{row[OUTPUT] or 'output'}{f' at {where}' if where else ''}{often}: "
            f"{gain.nats - before:+.2f} nats. Its variance is {share[0]:.0%} parameters, {share[1]:.0%} surrogate "
            f"error, {share[2]:.0%} noise and discrepancy."
        )
        before = gain.nats
    last, exact = path[-1]
    if exact.nats - last.nats > 0.1 and exact.nats > 1.1 * last.nats:
        out.append(
            f"The surrogate's error costs {exact.nats - last.nats:.2f} nats: more runs would make these measurements "
            "worth more, see uq.refine(posterior, n)."
        )
    if "linear" in (last.method, exact.method):
        out.append(
            f"Linear form: {len(found.state.mean)} draws support nested Monte Carlo up to {found.state.limit:.1f} nats."
        )
    return tuple(out)
