"""What candidate measurements would show at each posterior draw: mean, the surrogate's error given the data, noise.

==========  ===================================================================  ============
symbol      meaning                                                              shape
==========  ===================================================================  ============
S           draws of the parameters                                              ()
J           draws of the nuisance quantities beside each: hyperparameters of
            the surrogate, noise; the first are the draw's own                   ()
P           candidate measurements, and predictions that are asked about         ()
mean        E[z | draw, data]: the surrogate's mean and its error's              (S, J, P)
covariance  of the error given the data, of the discrepancy and of the noise     (S, J, P, P)
exact_...   the same if the surrogate's mean were the simulator itself           as above
==========  ===================================================================  ============

Replicates divide the noise alone: error and discrepancy are those of the experiment. All is on the scale that noise is
added on, where outputs with a transform are expanded to first order, as in the likelihood.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast, final

import numpy as np

from uqms._typing import Array, Bools, Ints
from uqms.calibration.by_input import rows_by_input
from uqms.calibration.context import evenly
from uqms.calibration.dense_gaussian import given_data
from uqms.calibration.direct import is_exact
from uqms.calibration.joint_error import means_given
from uqms.calibration.likelihood import check_conditions, decoded_at, dense, merge_close, stacked
from uqms.calibration.noise import NoiseModel
from uqms.calibration.population.layout import from_natural
from uqms.calibration.population.subject_outputs import Jointly
from uqms.calibration.predict import Targets, along_of, conditional_moments
from uqms.errors import InputError
from uqms.planning.candidate_table import OUTPUT, PART, REPLICATES, Candidates
from uqms.planning.densities import Density, equivalent_variance, together
from uqms.surrogates.transforms import Identity, Log, Transform

if TYPE_CHECKING:
    from uqms.calibration.parts import JointCalibration
    from uqms.calibration.population.calibration import Individuals
    from uqms.calibration.population.population import Population
    from uqms.calibration.population.subject import SubjectPosterior
    from uqms.calibration.population.subject_outputs import Simulated
    from uqms.calibration.population.subject_prediction import Shared
    from uqms.calibration.posterior import Posterior
    from uqms.calibration.single import SingleCalibration

__all__ = ["Forecaster", "Joint", "MeasuredSubject", "OfParts", "OfSubject", "OneSubject", "Points", "points_of"]

SCREENED, FEWEST, ERRORS = 200, 12, (8, 3)  # draws at which means and errors of many candidates are computed
MOVED = 0.01  # of the variance of a candidate, by which the mean of its error given the data may vary between draws
INPUTS = 120_000  # draws times different conditions at which the means of many candidates are computed
BLOCK = 64  # candidates whose errors are computed together
FEW_INPUTS = 8  # candidates per condition, from which four times as many are
NUMBERS = 2_000_000
DENSE = 4_000_000  # numbers of the joint covariance of measurements and candidates, for each draw


class Joint(NamedTuple):
    """What measurements would show at each draw; see the table of this module.

    Where the noise of a measurement is not Gaussian, its mean is that of the latent output, noise is Gaussian noise of
    equal information, and `densities` has its density. `noise` and `exact_noise` are the variances (S, J, P) of noise.
    """

    mean: Array
    covariance: Array
    exact_mean: Array
    exact_covariance: Array
    noise: Array
    exact_noise: Array
    densities: tuple[Density | None, ...]

    @classmethod
    def empty(cls, S: int, J: int, P: int) -> "Joint":
        """Return arrays to fill, in which different points have nothing in common."""
        vectors, matrices = np.zeros((4, S, J, P)), np.zeros((2, S, J, P, P))
        return cls(vectors[0], matrices[0], vectors[1], matrices[1], vectors[2], vectors[3], (None,) * P)


@final
@dataclass(frozen=True, eq=False)
class Points:
    """Candidates and predictions, with their noise."""

    targets: Targets
    replicates: Array  # (P,)
    measured: Bools  # (P,), False: a prediction
    noise: Mapping[str, NoiseModel]  # by output; of others that of the calibration
    part: np.ndarray  # (P,)

    def __len__(self) -> int:
        return len(self.replicates)

    @property
    def pieces(self) -> tuple[tuple["Points", Ints], ...]:
        """The points of each surrogate, with their places: here of one."""
        return ((self, np.arange(len(self))),)

    def at(self, rows: Ints) -> "Points":
        """Return some of the points, with the conditions that they have."""
        t = self.targets
        used, experiment = np.unique(t.experiment[rows], return_inverse=True)
        targets = Targets(
            t.conditions[used],
            experiment.reshape(-1),
            t.output[rows],
            {name: column[rows] for name, column in t.coords.items()},
            t.offset[rows],
            t.basis[rows],
            t.truncation[rows],
            observed=None if t.observed is None else t.observed[used],
            group=None if t.group is None else t.group[rows],
        )
        return Points(targets, self.replicates[rows], self.measured[rows], self.noise, self.part[rows])


class Forecaster(Protocol):
    """Draws of what is inferred, and what measurements would show at each."""

    @property
    def quantities(self) -> Mapping[str, Array]:
        """Draws (S,) by name."""
        ...

    @property
    def parameters(self) -> tuple[str, ...]:
        """Which of the quantities are parameters."""
        ...

    @property
    def sampled_errors(self) -> bool:
        """Whether errors of the surrogate are sampled beside the parameters, so that draws hold more than these."""
        ...

    @property
    def determined(self) -> bool:
        """Whether the parameters determine what the surrogate's mean says."""
        ...

    def points(self, ideas: Candidates, measured: bool = True) -> Points:
        """Return the candidates as points, or predictions."""
        ...

    def joint(self, points: Points, alternatives: int, rng: np.random.Generator) -> Joint:
        """Return what the points would show, all jointly."""
        ...

    def screen(self, points: Points, count: int | None = None) -> tuple[Ints, Array, Array, Array]:
        """Return some draws (s,), means there (s, P), and variances (P,) with and without the surrogate's error.

        How many draws may be given.
        """
        ...


def joined(points: Sequence[Points]) -> Points:
    """Return several points of one part as one."""
    every = [one.targets for one in points]
    starts = np.cumsum([0, *(len(one.conditions) for one in every)])
    names = dict.fromkeys(name for one in every for name in one.coords)
    coords = {
        name: np.concatenate([one.coords.get(name, np.full(len(one.offset), np.nan)) for one in every])
        for name in names
    }
    known, grouped = (all(getattr(one, name) is not None for one in every) for name in ("observed", "group"))
    targets = Targets(
        np.vstack([one.conditions for one in every]),
        np.concatenate([one.experiment + start for one, start in zip(every, starts[:-1], strict=True)]),
        np.concatenate([one.output for one in every]),
        coords,
        np.concatenate([one.offset for one in every]),
        stacked([one.basis for one in every]),
        np.vstack([one.truncation for one in every]),
        observed=np.concatenate([np.asarray(one.observed) for one in every]) if known else None,
        group=np.concatenate([np.asarray(one.group) for one in every]) if grouped else None,
    )
    return Points(
        targets,
        np.concatenate([one.replicates for one in points]),
        np.concatenate([one.measured for one in points]),
        points[0].noise,
        np.concatenate([one.part for one in points]),
    )


def points_of(
    problem: "SingleCalibration", ideas: Candidates, measured: bool, default: Mapping[str, float] | None
) -> Points:
    """Return candidates as points of a calibration's surrogate.

    Raises
    ------
    InputError
        Unknown outputs, coordinates or conditions, and those that are missing.
    ExtrapolationError
        Places outside of what was simulated.
    """
    surrogate, names = problem.surrogate, problem.condition_names
    observed = problem.noise.own_outputs
    if (ideas.table[OUTPUT] == "").any() and len(observed) != 1:
        raise InputError(f"candidates: of which output? There are {list(surrogate.layouts)}; pass outputs=.")
    ideas = ideas.of(observed[0])
    frame = ideas.table
    unknown = sorted(set(frame[OUTPUT]) - set(surrogate.layouts))
    if unknown:
        raise InputError(f"candidates: unknown outputs {unknown}; the surrogate has {list(surrogate.layouts)}.")
    dims = {dim for name in set(frame[OUTPUT]) for dim in surrogate.layouts[name].dims}
    wrong = [name for name in ideas.places if name not in dims and name not in names]
    if wrong:
        raise InputError(
            f"candidates: {wrong} are neither coordinates of the outputs ({sorted(dims)}) nor conditions of the "
            f"simulator ({list(names)})."
        )
    count = len(frame)
    columns = np.empty((count, len(names)))
    for i, name in enumerate(names):
        if name in frame:
            columns[:, i] = frame[name]
        elif default is not None and name in default:
            columns[:, i] = default[name]
        else:
            raise InputError(f"candidates: under which {name!r}? Give conditions={{{name!r}: [...]}}.")
    if not np.isfinite(columns).all():
        raise InputError(f"candidates: conditions {list(names)} must be given for every candidate.")
    if names:
        columns = merge_close(surrogate, names, columns)
    conditions, experiment = np.unique(columns, axis=0, return_inverse=True)
    check_conditions(surrogate, names, conditions)
    offset, parts, truncations, order = np.empty(count), [], [], []
    coords = {dim: frame[dim].to_numpy(dtype=np.float64) if dim in frame else np.full(count, np.nan) for dim in dims}
    for output in dict.fromkeys(frame[OUTPUT]):
        rows = np.flatnonzero((frame[OUTPUT] == output).to_numpy())
        own = surrogate.layouts[output].dims
        for dim in own:
            if np.isnan(coords[dim][rows]).any():
                raise InputError(
                    f"candidates: where is {output!r} measured? Give its coordinate {dim!r}: coords={{{dim!r}: [...]}}."
                )
        o, b, t = decoded_at(surrogate, output, {dim: coords[dim][rows] for dim in own} if own else None)
        if not own:
            same = np.zeros(len(rows), dtype=np.int64)
            o, b, t = o[same], b[same], t[same]
        offset[rows] = o
        parts.append(b)
        truncations.append(t)
        order.append(rows)
    back = np.argsort(np.concatenate(order))
    targets = Targets(
        conditions,
        experiment.reshape(-1).astype(np.int64),
        frame[OUTPUT].to_numpy(dtype=str),
        coords,
        offset,
        stacked(parts)[back],
        np.vstack(truncations)[back],
    )
    part = frame[PART].to_numpy(dtype=str) if PART in frame else np.full(count, "")
    replicates = frame[REPLICATES].to_numpy(dtype=np.float64)
    return Points(targets, replicates, np.full(count, measured), ideas.noise, part)


# ---------------------------------------------------------------------------------------------------------- the noise
@final
@dataclass(frozen=True, eq=False)
class _Noise:
    """Noise of one output: normal on the scale of `response`'s inverse, or of another `model`."""

    response: Transform
    sd: Array  # (S,)
    factor: Array  # (S,)
    power: Array  # (S,)
    process: tuple[str, Array, Array] | None  # coordinate, sd and length (S,)
    model: NoiseModel | None = None  # that is not Gaussian
    parameters: Mapping[str, Array] = field(default_factory=dict)  # by role, (S,)

    def density(self, replicates: float) -> Density:
        """Return the density of a measurement, where noise is not Gaussian."""
        return Density(cast(NoiseModel, self.model), self.response, self.parameters, int(replicates))


def _noise_of(problem: "SingleCalibration", output: str, group: int, model: NoiseModel | None, phi: Array) -> _Noise:
    """Return the noise of a new measurement of an output, for hyperparameters phi (S, P) of a noise group.

    Raises
    ------
    InputError
        When it is not known.
    """
    S, transform = len(phi), problem.surrogate.layouts[output].transform
    if model is not None:
        known = {role: np.full(S, float(cast(float, value))) for role, value in model.parameters.items()}
        own = np.ones(S)
    else:
        if group < 0:
            raise InputError(
                f"next_experiment: output {output!r} was not observed, so its noise is not known; give it: "
                f"uq.candidates(..., noise={{{output!r}: sd}})."
            )
        model, rows = problem.noise.models[group], problem.cells.rows(group)
        known = {role: phi[:, place] for role, place in problem.noise.roles[group].items()}
        if not model.gaussian and "trials" in model.columns:
            raise InputError(
                f"next_experiment: of how many trials would {output!r} be counted? Give it: uq.candidates(..., "
                f"noise={{{output!r}: uq.BinomialNoise(trials=100)}})."
            )
        if model.gaussian and not np.allclose(rows.sd, rows.sd[0], atol=0.0):
            raise InputError(
                f"next_experiment: the noise of {output!r} was given row by row, so that of a new measurement is not "
                f"known; give it: uq.candidates(..., noise={{{output!r}: sd}})."
            )
        own = np.full(S, rows.sd[0])
    if not model.gaussian:
        nothing = np.zeros(S)
        return _Noise(transform, nothing, nothing, nothing, None, model, known)
    if model.link == "log":
        if transform != Log():
            raise InputError(
                f"candidates: LogNormalNoise of {output!r}, whose surrogate is not one of the logarithm. Fit it with "
                f"GaussianProcess(outputs={{{output!r}: uq.Curve(transform=uq.Log())}})."
            )
        transform = Identity()
    growth, process = model.growth, model.process
    along = None if process is None else along_of(model, problem.data_model, output)
    return _Noise(
        transform,
        known.get("sigma", np.ones(S)) * own,
        known[growth.factor] if growth else np.zeros(S),
        known[growth.power] if growth else np.ones(S),
        (str(along), known[process.sd], known[process.length]) if process else None,
    )


class _Shown(NamedTuple):
    """What points show, on the scale that noise is added on; of noise that is not Gaussian the latent output."""

    mean: Array  # (S, P)
    error: Array  # (S, P, P)
    noise: Array  # (S, P, P)
    densities: tuple[Density | None, ...]  # (P,), with parameters (S,)

    @property
    def variances(self) -> Array:
        """Variances (S, P) of the noise."""
        return np.diagonal(self.noise, axis1=1, axis2=2)


def _groups_of(problem: "SingleCalibration", targets: Targets) -> Ints:
    """Return the noise group of each point (P,), -1 of outputs that were not observed."""
    if targets.group is not None:
        return targets.group
    groups = {str(name): problem.noise.group_of(str(name)) for name in np.unique(targets.output)}
    return np.array([groups[str(name)] for name in targets.output], dtype=np.int64)


def _by_noise(problem: "SingleCalibration", points: Points) -> Iterator[tuple[str, int, Ints]]:
    """Yield output, noise group and places of the measurements that have the same."""
    group = _groups_of(problem, points.targets)
    for output in np.unique(points.targets.output):
        here = (points.targets.output == output) & points.measured
        for g in np.unique(group[here]):
            yield str(output), int(g), np.flatnonzero(here & (group == g))


def _measured(problem: "SingleCalibration", points: Points, phi: Array, latent: Array, error: Array) -> _Shown:
    """Return what points show, from means (S, P) and the covariance of errors (S, P, P) of the latent output."""
    S, P = latent.shape
    value, slope = latent.copy(), np.ones((S, P))
    variance, noise = np.zeros((S, P)), np.zeros((S, P, P))
    targets, densities = points.targets, cast("list[Density | None]", [None] * P)
    for output in np.unique(targets.output):
        only = np.flatnonzero((targets.output == output) & ~points.measured)
        of = problem.surrogate.layouts[str(output)].transform
        value[:, only], slope[:, only] = of.inverse(latent[:, only]), of.inverse_slope(latent[:, only])
    for output, group, at in _by_noise(problem, points):
        own = _noise_of(problem, output, group, points.noise.get(output), phi)
        if own.model is not None:
            for p in at:
                densities[p] = own.density(points.replicates[p])
            variance[:, at] = equivalent_variance(own.density(1), latent[:, at]) / points.replicates[at]
            continue
        value[:, at], slope[:, at] = own.response.inverse(latent[:, at]), own.response.inverse_slope(latent[:, at])
        grown = own.factor[:, None] * np.abs(value[:, at]) ** own.power[:, None]
        variance[:, at] = (own.sd[:, None] ** 2 + grown**2) / points.replicates[at]
        if own.process is not None:
            along, sd, length = own.process
            distance = np.abs(targets.coords[along][at, None] - targets.coords[along][at])
            series = targets.experiment[at, None] == targets.experiment[at]
            shared = np.exp(-distance / length[:, None, None]) * sd[:, None, None] ** 2
            # Replicates are series of their own, of which two points have as many in common as the fewer say.
            noise[:, at[:, None], at] += (
                series * shared / np.maximum(points.replicates[at, None], points.replicates[at])
            )
    if any(densities) and noise.any():
        raise InputError(
            "next_experiment: candidates with AutocorrelatedNoise beside others whose noise is not Gaussian have no "
            "density in closed form. Compare them in calls of their own."
        )
    noise[:, np.arange(P), np.arange(P)] += variance
    return _Shown(value, slope[:, :, None] * slope[:, None, :] * error, noise, tuple(densities))


# --------------------------------------------------------------------------------------------------- one set of draws
@final
@dataclass(frozen=True, eq=False)
class OneSubject:
    """Draws of a calibration of one surrogate, from its posterior or its prior.

    Attributes
    ----------
    problem
        The calibration.
    theta, h, latents
        Draws of everything inferred (S,), of the surrogate's hyperparameters (S,), and of latents (S, L).
    known
        Draws of everything that may be asked about, (S,).
    given_data
        Whether the surrogate's error and the discrepancy are those given the data.
    """

    problem: "SingleCalibration"
    theta: Mapping[str, Array]
    h: Ints
    latents: Array
    known: Mapping[str, Array]
    given_data: bool = True

    @property
    def quantities(self) -> Mapping[str, Array]:
        """Draws (S,) by name."""
        return self.known

    @property
    def parameters(self) -> tuple[str, ...]:
        """Parameters of the simulator."""
        return self.problem.parameters

    @property
    def sampled_errors(self) -> bool:
        """Whether there are latents, which hold the surrogate's error at the data."""
        return self.given_data and self.latents.shape[1] > 0

    @property
    def determined(self) -> bool:
        """All that the surrogate's mean says follows from the parameters."""
        return True

    def points(self, ideas: Candidates, measured: bool = True) -> Points:
        """Return the candidates as points; conditions that are left out are those of the only experiment."""
        own = self.problem.members.get(self.problem.seen_from, self.problem).experiments
        default = {str(name): float(own[name].iloc[0]) for name in own} if len(own) == 1 else None
        found = points_of(self.problem, ideas, measured, default)
        if len(own) == 1 and self.problem.uncertain and not set(self.problem.condition_names) & set(ideas.places):
            observed = np.zeros(len(found.targets.conditions), dtype=np.int64)
            return replace(found, targets=replace(found.targets, observed=observed))
        return found

    @property
    def nuisances(self) -> tuple[str, ...]:
        """Everything inferred beside the parameters."""
        return tuple(name for name in self.theta if name not in self.parameters)

    def joint(self, points: Points, alternatives: int, rng: np.random.Generator) -> Joint:
        """Return what the points would show."""
        S = len(self.h)
        weights = self._hyperparameter_weights
        J = alternatives if self.nuisances or len(weights) > 1 else 1
        other = np.stack([np.arange(S), *(rng.permutation(S) for _ in range(J - 1))], axis=1)
        h = np.repeat(self.h[:, None], J, axis=1)
        if len(weights) > 1 and J > 1:
            levels = np.cumsum(weights, axis=0)[:, :, None]  # (H, S, 1)
            draws = (np.arange(J - 1) + rng.random((S, 1))) / (J - 1)
            h[:, 1:] = np.minimum((levels < draws).sum(axis=0), len(weights) - 1)
        theta = {
            name: values[other.ravel()] if name in self.nuisances else np.repeat(values, J)
            for name, values in self.theta.items()
        }
        found = self._joint(points, theta, h.ravel(), np.repeat(self.latents, J, axis=0))
        arrays = [one.reshape(S, J, *one.shape[1:]) for one in found[:-1]]
        return Joint._make([*arrays, tuple(one and one.shaped(S, J) for one in found[-1])])

    @cached_property
    def _hyperparameter_weights(self) -> Array:
        """Return p(h | parameters, data) of the surrogate's hyperparameters, (H, S)."""
        problem, S = self.problem, len(self.h)
        if is_exact(problem.surrogate):
            return np.ones((1, S))
        middle = problem.surrogate.scores(np.full((1, problem.surrogate.domain.d), 0.5)).log_weights
        if len(middle) == 1 or not self.given_data:
            return np.repeat(np.exp(middle)[:, None], S, axis=1)
        if problem.data_model.closed_form:
            logs = np.concatenate(list(problem.log_likelihood_values(self.theta)), axis=1)
        else:
            logs = np.concatenate([one for _, one in problem.latent_terms(self.theta, self.latents)], axis=1)
        return np.asarray(np.exp(logs - np.logaddexp.reduce(logs, axis=0)))

    def _joint(self, points: Points, theta: Mapping[str, Array], h: Ints, latents: Array) -> tuple[Any, ...]:
        phi = self.problem.noise.phi(theta, (len(h),))
        found = [
            _measured(self.problem, points, phi, *self._latent(points, theta, h, latents, errors))
            for errors in (True, False)
        ]
        moments = [moment for one in found for moment in (one.mean, one.error + one.noise)]
        return *moments, *(one.variances for one in found), found[0].densities

    @property
    def _more(self) -> bool:
        """Whether something else than noise is left if the surrogate had no error."""
        return self.problem.noise.modelled or self.problem.realisation is not None

    def _latent(
        self, points: Points, theta: Mapping[str, Array], h: Ints, latents: Array, errors: bool
    ) -> tuple[Array, Array]:
        """Return mean and covariance of the latent output; without errors only discrepancy and realisation are left."""
        S, P, problem = len(h), len(points), self.problem
        mean, covariance = np.empty((S, P)), np.empty((S, P, P))
        if not errors and not self._more:
            return self._means(points, theta, h), np.zeros((S, P, P))
        found = conditional_moments(
            problem, theta, h, points.targets, latents, errors=errors, given_data=self.given_data
        )
        for rows, moments in found:
            mean[rows], covariance[rows] = moments.mean, moments.covariance
        return mean, covariance

    def screen(self, points: Points, count: int | None = None) -> tuple[Ints, Array, Array, Array]:
        """Return means at some draws, and variances of each point alone.

        Means are those of the surrogate unless its error given the data changes from draw to draw by more than a little
        of the variance.
        """
        problem, inputs = self.problem, len(points.targets.conditions)
        least = max(FEWEST, 4 * len(self.parameters))
        some = evenly(len(self.h), count or max(least, min(SCREENED, INPUTS // inputs)))
        theta, h = {name: values[some] for name, values in self.theta.items()}, self.h[some]
        mean = _values(problem, points, problem.noise.phi(theta, (len(some),)), self._means(points, theta, h))
        few = evenly(len(some), ERRORS[inputs > BLOCK])
        given, variance, exact = self._shown_alone(points, some[few])
        moved = (given - mean[few]).var(axis=0)
        if self.given_data and (moved > MOVED * variance).any():
            kept = evenly(len(some), count or least)
            some, mean = some[kept], self._shown_alone(points, some[kept])[0]
        return some, mean, variance, exact

    def _shown_alone(self, points: Points, draws: Ints) -> tuple[Array, Array, Array]:
        """Return means (s, P) at draws, and variances (P,) with and without the surrogate's error, block by block."""
        problem, P = self.problem, len(points)
        theta, h, eta = {name: values[draws] for name, values in self.theta.items()}, self.h[draws], self.latents[draws]
        phi = problem.noise.phi(theta, (len(draws),))
        mean, variance, exact = np.empty((len(draws), P)), np.empty(P), np.empty(P)
        order = np.argsort(points.targets.experiment, kind="stable")
        size = 4 * BLOCK if len(points.targets.conditions) * FEW_INPUTS <= P else BLOCK
        for start in range(0, P, size):
            rows = order[start : start + size]
            part, at = points.at(rows), np.arange(len(rows))
            shown = _measured(problem, part, phi, *self._latent(part, theta, h, eta, True))
            own = shown.variances.mean(axis=0)
            mean[:, rows] = shown.mean
            variance[rows], exact[rows] = own + shown.error[:, at, at].mean(axis=0), own
            if self._more:
                left = _measured(problem, part, phi, *self._latent(part, theta, h, eta, False)).error
                exact[rows] += left[:, at, at].mean(axis=0)
        return mean, variance, exact

    def _means(self, points: Points, theta: Mapping[str, Array], h: Ints) -> Array:
        """Return means (S, P) of the latent output if the surrogate's mean were the simulator itself."""
        problem, targets = self.problem, points.targets
        out = np.empty((len(h), len(points)))
        order = np.argsort(targets.experiment, kind="stable")
        size = max(1, NUMBERS // (len(h) * len(self._hyperparameter_weights)))
        for start in range(0, len(points), size):
            rows = order[start : start + size]
            own = points.at(rows).targets
            u = problem.unit_inputs(theta, own.conditions, own.observed, np.zeros(len(own.conditions), dtype=np.int64))
            sites = dict(own.coords)
            sites |= {name: own.conditions[own.experiment, i] for i, name in enumerate(problem.condition_names)}
            by_input = rows_by_input(problem.surrogate, own.output, sites, own.experiment)
            rowed = _Rows(own.offset, own.basis, own.truncation, by_input)
            out[:, rows] = means_given(problem.surrogate, rowed, own.experiment, u, h)
        return out * problem.noise.scales(_groups_of(problem, targets), problem.noise.phi(theta, (len(h),)))


class _Rows(NamedTuple):
    offset: Array
    basis: Any
    truncation: Array
    by_input: Any


def _values(problem: "SingleCalibration", points: Points, phi: Array, latent: Array) -> Array:
    """Return means (S, P) of measurements as `_measured` does."""
    value = latent.copy()
    for output, group, at in _by_noise(problem, points):
        own = _noise_of(problem, output, group, points.noise.get(output), phi)
        if own.model is None:
            value[:, at] = own.response.inverse(latent[:, at])
    return value


# ------------------------------------------------------------------------------------------------------ several parts
@final
@dataclass(frozen=True, eq=False)
class OfParts:
    """Draws of a calibration of several parts.

    Parts with one surrogate share its error: their points stand side by side, each with the noise group of its part.

    Attributes
    ----------
    parts
        By name: the calibration that the points of a part are of.
    wholes
        By name: draws of the calibration of all parts with the same surrogate.
    quantities, parameters
        Of the whole.
    """

    parts: Mapping[str, "SingleCalibration"]
    wholes: Mapping[str, OneSubject]
    quantities: Mapping[str, Array]
    parameters: tuple[str, ...]

    @classmethod
    def of(
        cls,
        problem: "JointCalibration",
        theta: Mapping[str, Array],
        h: Ints,
        latents: Array,
        known: Mapping[str, Array],
        given_data: bool = True,
    ) -> "OfParts":
        """Return draws of a calibration: quantities (S,), hyperparameter draws (S, parts), latents (S, L)."""
        wholes: dict[str, OneSubject] = {}
        for piece in problem.pieces(theta, latents, h):
            own = cast(Any, OneSubject)(piece.problem, piece.theta, piece.h, piece.latents, known, given_data)
            wholes |= dict.fromkeys(piece.parts, own)
        parts = {
            name: one.problem if list(wholes.values()).count(one) == 1 else problem.seen_from(name)
            for name, one in wholes.items()
        }
        return cls(parts, wholes, known, problem.parameters)

    @property
    def sampled_errors(self) -> bool:
        """Whether any part has latents."""
        return any(one.sampled_errors for one in self.wholes.values())

    @property
    def determined(self) -> bool:
        """All that the surrogates' means say follows from the parameters."""
        return True

    def points(self, ideas: Candidates, measured: bool = True) -> Points:
        """Return candidates of one or several parts as points.

        Raises
        ------
        InputError
            When parts are missing or unknown.
        """
        labels = ideas.table[PART].astype(str).to_numpy() if PART in ideas.table else np.full(len(ideas), "")
        if any(name not in self.parts for name in labels):
            raise InputError(f"candidates: of which part? There are {list(self.parts)}; pass part=.")
        found: dict[int, list[tuple[Points, Ints]]] = {}
        for name in dict.fromkeys(labels.tolist()):
            rows, problem = np.flatnonzero(labels == name), self.parts[name]
            own = replace(ideas, table=ideas.table.iloc[rows].dropna(axis=1, how="all").reset_index(drop=True))
            points = replace(self.wholes[name], problem=problem).points(own, measured)
            if problem is not self.wholes[name].problem:
                points = self._of_whole(points, problem)
            found.setdefault(id(self.wholes[name]), []).append((points, rows))
        pieces = [joined([points for points, _ in same]) if len(same) > 1 else same[0][0] for same in found.values()]
        places = [np.concatenate([rows for _, rows in same]) for same in found.values()]
        if len(pieces) == 1 and (np.diff(places[0]) > 0).all():
            return pieces[0]
        return _Several(tuple(pieces), tuple(places))  # type: ignore[return-value]

    @staticmethod
    def _of_whole(points: Points, problem: "SingleCalibration") -> Points:
        """Return the points of a part with its noise groups, which are those of all parts with its surrogate.

        Raises
        ------
        InputError
            When they are under a condition that is inferred.
        """
        if points.targets.observed is not None:
            raise InputError(
                "next_experiment: the condition of this part was measured with an error, and another part has its "
                "surrogate. Give conditions= for which values of it the candidates are."
            )
        return replace(points, targets=replace(points.targets, group=_groups_of(problem, points.targets)))

    def joint(self, points: Any, alternatives: int, rng: np.random.Generator) -> Joint:
        """Return what the points would show; points of different surrogates are independent given a draw."""
        pieces, places = zip(*points.pieces, strict=True)
        found = [self.wholes[str(one.part[0])].joint(one, alternatives, rng) for one in pieces]
        J = max(one.mean.shape[1] for one in found)
        S, P = found[0].mean.shape[0], sum(one.mean.shape[2] for one in found)
        out, densities = Joint.empty(S, J, P), cast("list[Density | None]", [None] * P)
        for one, at in zip(found, places, strict=True):
            for whole, part in zip(out[:-1], one[:-1], strict=True):
                pick: Any = (..., at) if whole.ndim == 3 else (..., at[:, None], at)
                whole[pick] = part
            for p, density in zip(at, one.densities, strict=True):
                densities[p] = density and density.spread(J)  # a part without alternatives has the same in all
        return out._replace(densities=tuple(densities))

    def screen(self, points: Any, count: int | None = None) -> tuple[Ints, Array, Array, Array]:
        """Return means at some draws, and variances of each point alone."""
        pieces, places = zip(*points.pieces, strict=True)
        found = [self.wholes[str(one.part[0])].screen(one, count) for one in pieces]
        least = min(len(some) for some, *_ in found)
        if any(len(some) > least for some, *_ in found):
            return self.screen(points, least)
        back = np.argsort(np.concatenate(places))
        mean, variance, exact = (np.concatenate([one[i] for one in found], axis=-1)[..., back] for i in (1, 2, 3))
        return found[0][0], mean, variance, exact


@final
@dataclass(frozen=True, eq=False)
class _Several:
    """Points of several surrogates, with the place of each among all."""

    of: tuple[Points, ...]
    places: tuple[Ints, ...]

    def __len__(self) -> int:
        return sum(map(len, self.of))

    @property
    def measured(self) -> Bools:
        """Which of all points are measured."""
        return np.concatenate([one.measured for one in self.of])[np.argsort(np.concatenate(self.places))]

    @property
    def pieces(self) -> tuple[tuple[Points, Ints], ...]:
        """The points of each surrogate, with their places."""
        return tuple(zip(self.of, self.places, strict=True))

    def at(self, rows: Ints) -> "_Several":
        """Return some of the points, in the order of `rows`."""
        kept, places = [], []
        for one, place in zip(self.of, self.places, strict=True):
            within = {int(p): i for i, p in enumerate(place)}
            here = np.array([k for k, row in enumerate(rows) if int(row) in within], dtype=np.int64)
            if len(here):
                kept.append(one.at(np.array([within[int(row)] for row in rows[here]], dtype=np.int64)))
                places.append(here)
        return _Several(tuple(kept), tuple(places))


# ---------------------------------------------------------------------------------------------------------- a subject
@final
@dataclass(frozen=True, eq=False)
class MeasuredSubject:
    """A subject whose measurements are among those of the population.

    Attributes
    ----------
    population
        Its posterior.
    shared
        Draws with the surrogate's error given all data.
    place
        Of the subject.
    """

    population: "Posterior"
    shared: "Shared | Simulated | Jointly"
    place: int

    @classmethod
    def of(cls, posterior: "Posterior", label: object, draws: int) -> "MeasuredSubject":
        """Return a subject by its label.

        Raises
        ------
        InputError
            When there is none of that name.
        """
        hierarchy = posterior.hierarchy
        labels = list(hierarchy.problem.subject_labels)
        if str(label) not in labels:
            raise InputError(
                f"next_experiment: there is no subject {str(label)!r}; there are {labels[:6]}"
                f"{' ...' * (len(labels) > 6)}. For one who is not among them give posterior.new_subject(...)."
            )
        return cls(posterior, hierarchy.with_error(draws, np.random.default_rng(0)), labels.index(str(label)))

    @property
    def data(self) -> "Individuals":
        """The data of all subjects."""
        return self.population.hierarchy.problem.data

    @cached_property
    def occasions(self) -> dict[str, int]:
        """The units of the occasions on which it was measured, by label."""
        layout, subjects = self.population.hierarchy.problem.layout, self.population.hierarchy.problem.subjects
        return {str(subjects.occasion[unit]): int(unit) for unit in np.flatnonzero(layout.subject == self.place)}

    def experiments(self, occasion: str | None) -> Ints:
        """Return the inputs that the subject was measured at, on an occasion or on all."""
        unit = self.data.cells.unit
        if occasion is not None:
            return np.flatnonzero(unit == self.occasions[occasion])
        return np.flatnonzero(self.population.hierarchy.problem.layout.subject[unit] == self.place)

    @cached_property
    def _natural(self) -> tuple[Array, Array]:
        layout = self.population.hierarchy.problem.layout
        return layout.natural(self.shared.theta, self.shared.z[:, : layout.size])

    def natural(self, occasion: str | None) -> Array:
        """Return draws of its parameters on the natural scale (S, P), without the effects of an occasion or with."""
        subjects, units = self._natural
        return subjects[:, self.place] if occasion is None else units[:, self.occasions[occasion]]

    def predicting_draws(self) -> dict[str, Array]:
        """Return draws (S,) of its parameters, and of those that all subjects share."""
        population = self.population.hierarchy.problem.population
        scales = zip(population.individual, population.scales, strict=True)
        own = {name: from_natural(self.natural(None)[:, i], scale) for i, (name, scale) in enumerate(scales)}
        return own | {name: self.shared.theta[name] for name in population.shared}


@final
@dataclass(frozen=True, eq=False)
class OfSubject:
    """Draws of a subject, with those of its population.

    Attributes
    ----------
    subject
        Its posterior: of one who was not in the calibration, or of one who was.
    occasion
        On which the measurements are, where parameters differ between occasions; None: a new one.
    """

    subject: "SubjectPosterior | MeasuredSubject"
    occasion: str | None = None

    def __post_init__(self) -> None:
        if self.occasion is None:
            return
        known = list(self._occasions)
        if not self._population.occasions or self.occasion not in known:
            what = f"it was measured on {known}" if self._population.occasions else "this population has no occasions"
            raise InputError(
                f"next_experiment: occasion is {self.occasion!r}, but {what}. Leave it out for a new occasion."
            )

    @cached_property
    def quantities(self) -> Mapping[str, Array]:
        """Its parameters, and the quantities of the population that it shares, (S,)."""
        return self.subject.predicting_draws()

    @property
    def parameters(self) -> tuple[str, ...]:
        """Its parameters."""
        return tuple(self.quantities)

    @property
    def sampled_errors(self) -> bool:
        """Whether its parameters and the error that subjects share were inferred from the same measurements.

        The error is a nuisance draw of its own for a subject without measurements.
        """
        return self.subject.data is not None

    @property
    def determined(self) -> bool:
        """Whether its parameters determine its outputs: not where they differ between occasions."""
        return not self._population.occasions

    @property
    def _population(self) -> "Population":
        return self.subject.population.hierarchy.problem.population

    @property
    def _problem(self) -> "SingleCalibration":
        return self.subject.population.hierarchy.problem.data

    @property
    def _occasions(self) -> Mapping[str, int]:
        """The occasions on which it was measured, by label."""
        if isinstance(self.subject, MeasuredSubject):
            return self.subject.occasions
        observed = self.subject.observations
        return {} if observed is None else {
            name: i for i, name in enumerate(dict.fromkeys(str(one) for one in observed.experiment))
        }  # fmt: skip

    @property
    def _experiments(self) -> Ints:
        """The inputs of `data` that the subject was measured at, on the occasion if there is one."""
        if isinstance(self.subject, MeasuredSubject):
            return self.subject.experiments(self.occasion)
        if self.subject.data is None:
            return np.zeros(0, dtype=np.int64)
        unit = self.subject.data.cells.unit
        return np.flatnonzero(unit == self._occasions[self.occasion]) if self.occasion else np.arange(len(unit))

    @cached_property
    def _own(self) -> dict[str, Array]:
        """Draws (S,) of its parameters on the occasion, with those that all subjects share."""
        population, theta = self._population, self.subject.shared.theta
        if isinstance(self.subject, MeasuredSubject):
            natural = self.subject.natural(self.occasion)
        else:
            natural = self.subject.natural[:, self._occasions[self.occasion] if self.occasion else -1]
        natural = natural.copy()
        rng = np.random.default_rng(0)
        for name in population.occasions if self.occasion is None else ():
            gamma = theta.get(f"omega_{name}_occasion", population.known.get(f"omega_{name}_occasion"))
            step = np.asarray(gamma, dtype=np.float64) * rng.standard_normal(len(natural))
            natural[:, population.individual.index(name)] += step
        scales = zip(population.individual, population.scales, strict=True)
        own = {name: from_natural(natural[:, i], scale) for i, (name, scale) in enumerate(scales)}
        return own | {name: theta[name] for name in population.shared}

    def _inputs(self, conditions: Array) -> Array:
        """Return the surrogate's inputs (S, n, d) at conditions (n, c)."""
        shared = {name: values for name, values in self.subject.shared.own.items() if np.ndim(values) == 1}
        own = shared | {
            name: np.repeat(values[:, None], len(conditions), axis=1)
            for name, values in self._own.items()
            if name in self._population.individual
        }
        return self._problem.unit_inputs(own, conditions, units=np.zeros(len(conditions), dtype=np.int64))

    def points(self, ideas: Candidates, measured: bool = True) -> Points:
        """Return the candidates as points; conditions that are left out are those of its measurements."""
        data, names = self.subject.data, self._problem.condition_names
        known = (
            np.zeros((0, len(names))) if data is None else np.unique(data.cells.conditions[self._experiments], axis=0)
        )
        default = dict(zip(names, known[0], strict=True)) if len(known) == 1 else None
        return points_of(self._problem, ideas, measured, default)

    def joint(self, points: Points, alternatives: int, rng: np.random.Generator) -> Joint:
        """Return what the points would show."""
        shared = self.subject.shared
        S, P = len(shared.h), len(points)
        u = self._inputs(points.targets.conditions)
        out, densities = Joint.empty(S, alternatives, P), []
        for j in range(alternatives):
            other = shared.some(rng.permutation(S)) if j else shared
            phi = self._problem.noise.phi(other.own, (S,))
            (latent, error), (without, left) = self._latent(points, other, u)
            shown = _measured(self._problem, points, phi, latent, error)
            exact = _measured(self._problem, points, phi, without, left)
            out.mean[:, j], out.covariance[:, j], out.noise[:, j] = (
                shown.mean,
                shown.error + shown.noise,
                shown.variances,
            )
            out.exact_mean[:, j], out.exact_covariance[:, j] = exact.mean, exact.error + exact.noise
            out.exact_noise[:, j] = exact.variances
            densities.append(shown.densities)
        return out._replace(densities=tuple(together(every) for every in zip(*densities, strict=True)))

    def screen(self, points: Points, count: int | None = None) -> tuple[Ints, Array, Array, Array]:
        """Return means at all draws, and variances of each point alone."""
        shared, P, source = self.subject.shared, len(points), self
        some = np.arange(len(shared.h))
        if isinstance(self.subject, MeasuredSubject) and isinstance(shared, Jointly):  # dense in all measurements
            some = evenly(len(shared.h), count or SCREENED)
            source = replace(self, subject=replace(self.subject, shared=shared.some(some)))
        mean, variance, exact = np.empty((len(some), P)), np.empty(P), np.empty(P)
        for start in range(0, P, BLOCK):
            rows = np.arange(start, min(start + BLOCK, P))
            found = source.joint(points.at(rows), 1, np.random.default_rng(0))
            at = np.arange(len(rows))
            mean[:, rows] = found.mean[:, 0]
            variance[rows] = found.covariance[:, 0, at, at].mean(axis=0)
            exact[rows] = found.exact_covariance[:, 0, at, at].mean(axis=0)
        return some, mean, variance, exact

    def _jointly(self, points: Points, shared: "Jointly") -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Return the same where it is a dense distribution of all measurements and points.

        Raises
        ------
        InputError
            When it has too many numbers.
        """
        data, layout = self._problem, self.subject.population.hierarchy.problem.layout
        targets, cells, n = points.targets, data.cells, len(points.targets.conditions)
        if (total := len(cells.offset) + len(points)) ** 2 > DENSE:
            raise InputError(
                f"next_experiment: the joint distribution of {total} measurements and candidates is too large. "
                "Calibrate the subject alone, with priors from posterior.summary(), and give that posterior."
            )
        same = [self._same(one, cells.conditions) for one in targets.conditions]
        observed = np.array([-1 if one is None else one for one in same], dtype=np.int64)
        units = max(np.shape(values)[1] for values in shared.own.values() if np.ndim(values) == 2)
        own = {
            name: np.concatenate([values, np.repeat(self._own[name][:, None], n, axis=1)], axis=1)
            if np.ndim(values) == 2
            else values
            for name, values in shared.own.items()
        }
        wanted = replace(targets, unit=np.where(observed >= 0, cells.unit[observed], units + np.arange(n)))
        wanted = replace(wanted, observed=observed)
        S, P = len(shared.h), len(points)
        out = []
        for errors in (True, False):
            mean, covariance = np.empty((S, P)), np.empty((S, P, P))
            found = conditional_moments(data, own, shared.h, wanted, shared.z[:, layout.size :], errors=errors)
            for rows, moments in found:
                mean[rows], covariance[rows] = moments.mean, moments.covariance
            out.append((mean, covariance))
        return out[0], out[1]

    def _latent(
        self, points: Points, shared: "Shared | Simulated | Jointly", u: Array
    ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Return mean (S, P) and covariance (S, P, P) of the latent output given the subject's own measurements.

        Last the same if the surrogate's mean were the simulator itself.
        """
        targets, S, P = points.targets, len(shared.h), len(points)
        if isinstance(shared, Jointly):
            return self._jointly(points, shared)
        mean, covariance, before = np.empty((S, P)), np.zeros((S, P, P)), np.empty((S, P))
        nothing = np.zeros((S, P, P))
        if np.isnan(targets.offset).any():
            if shared.w.shape[1]:
                raise InputError(
                    "next_experiment: the rows of this surrogate depend on the input, for which a new subject's "
                    "candidates have no closed form. Calibrate the subject alone, or use the simulator itself."
                )
            for output in np.unique(targets.output):
                at = np.flatnonzero(targets.output == output)
                dims = self._problem.surrogate.layouts[str(output)].dims
                decoder = self._problem.surrogate.decode(str(output), {dim: targets.coords[dim][at] for dim in dims})
                every = shared.means(u, decoder)
                mean[:, at] = every[:, targets.experiment[at], np.arange(len(at))]
            return (mean, covariance), (mean, nothing)
        basis = dense(targets.basis)
        error = getattr(shared, "error", None)
        if error is None:
            scores = self._problem.surrogate.scores(u).mean[0]
            mean[:] = targets.offset + np.einsum("spq,pq->sp", scores[:, targets.experiment], basis)
            return (mean, covariance), (mean, nothing)
        scores, own = cast("Shared", shared).scores(u)
        alone = scores
        if self.sampled_errors:  # what the surrogate's mean says, which belongs to the parameters
            alone = error.at(u)[0][shared.h, np.arange(S)]
        data = self.subject.data
        for i in range(len(targets.conditions)):
            at = np.flatnonzero(targets.experiment == i)
            B, E = basis[at], targets.truncation[at]
            weighted = _times(own[:, i], B, error.joint)  # (S, q, p)
            value = targets.offset[at] + scores[:, i] @ B.T
            before[:, at] = targets.offset[at] + alone[:, i] @ B.T
            inner = B @ weighted + E @ E.T
            same = None if data is None else self._same(targets.conditions[i], data.cells.conditions)
            if data is not None and same is not None:
                cells = np.flatnonzero(data.cells.experiment == same)
                measured = cast("Shared", shared).measured(data.cells, np.array([same]), u[:, [i]])
                few = [one[:, : len(cells)] for one in measured]  # other inputs have more cells
                measured = cast(Any, type(measured))(*few)
                G, F = dense(data.cells.basis)[cells], data.cells.truncation[cells]
                centre = data.cells.offset[cells] + scores[:, i] @ G.T
                noise = cast("Shared", shared).noise_variance(measured, centre[:, None])[:, 0]
                C = G @ _times(own[:, i], G, error.joint) + F @ F.T
                C[:, np.arange(len(cells)), np.arange(len(cells))] += noise
                found = given_data(C, data.cells.cell_mean[cells] - centre, G @ weighted + F @ E.T)
                value, inner = value + found.mean, inner - found.covariance
            mean[:, at] = value
            covariance[:, at[:, None], at] = inner
        return (mean, covariance), (before, nothing)

    def _same(self, asked: Array, known: Array) -> int | None:
        both = np.vstack([known, asked[None]])
        if both.shape[1]:
            both = merge_close(self._problem.surrogate, self._problem.condition_names, both)
        found = [k for k in self._experiments if (both[k] == both[-1]).all()]
        return int(found[0]) if found and (self.determined or self.occasion is not None) else None


def _times(own: Array, rows: Array, correlated: bool) -> Array:
    """Return the covariance of own errors (S, q) or (S, q, q) times rows (p, q), transposed: (S, q, p)."""
    return np.asarray(own @ rows.T if correlated else own[:, :, None] * rows.T)
