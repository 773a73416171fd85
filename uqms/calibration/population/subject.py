"""A subject who was not in the calibration: its parameters from its own measurements and the population, at once.

==========  ===================================================================  ===========
symbol      meaning                                                              shape
==========  ===================================================================  ===========
s           posterior draws of the population, with the shared error w           (S,)
v           the subject's parameters on the natural scale, and its occasions'    (S, m, D)
p(v | s)    its prior: normal or Student-t effects around what its covariates say
L(v, s)     likelihood of its measurements given w: no other subject's data matter
q(v | s)    proposal: a Student-t around the mode of p L, and a part of p        (S, m)
==========  ===================================================================  ===========

Draws (s, v) with weights p L / q have the law that a refit of everybody would give: the weights of a draw s of the
population add up to what the new measurements say of it.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import gammaln

from uqms import _checks as check
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, Ints, RandomState, as_generator
from uqms.calibration.capabilities import Features
from uqms.calibration.likelihood import merge_close
from uqms.calibration.observations import Observations
from uqms.calibration.population.asked import asked_conditions, chosen_outputs
from uqms.calibration.population.layout import Layout, from_natural, read_subjects
from uqms.calibration.population.subject_outputs import Jointly, Simulated
from uqms.calibration.population.subject_prediction import Asked, Shared, curves
from uqms.calibration.predict import PosteriorPrediction
from uqms.calibration.regimens import subject_with_asked_regimens, with_regimens_of
from uqms.calibration.scales import with_all_conditions
from uqms.calibration.summary import interval_row
from uqms.errors import PACKAGE, ConvergenceWarning, ExtrapolationError, InputError
from uqms.parameters.scale import UnitMap

if TYPE_CHECKING:
    from uqms.calibration.posterior import Posterior

__all__ = ["SubjectPosterior", "subject_posterior"]

PROPOSALS = 8  # for each draw of the population
DEFENSIVE = 0.25  # of them are draws of the prior
FREEDOM = 5.0
STEPS, REFINED, STEP = 20, 2, 1e-3
K_HAT = 0.7
DRAWS, KEPT = 4000, 500  # of the parameters; of those that predict curves
Draws = Shared | Simulated  # of a population, with what is known of the surrogate's error
POOL = 4  # times as many draws of the population, of which those inside of the design box are taken


@taught
@final
@dataclass(frozen=True, eq=False)
class SubjectPosterior:
    """Posterior of one subject who was not in the calibration; made by `Posterior.new_subject`.

    Attributes
    ----------
    draws
        Its parameters in their own units, dims ("chain", "draw") with one chain, independent draws.
    population
        The posterior that it comes from.
    observations
        Its measurements; None without.
    covariates
        By column name.
    k_hat
        Of the importance weights; above 0.7 the subject is unlike all others. 0 without measurements.
    ess
        Effective number of draws.
    """

    draws: xr.Dataset
    population: "Posterior"
    observations: Observations | None
    covariates: Mapping[str, float]
    k_hat: float
    ess: float
    shared: Draws
    natural: Array  # (S, U, P), resampled with the draws of the population in `shared`
    data: "NewData | None"  # of its measurements

    def __repr__(self) -> str:
        what = "no measurement" if self.observations is None else f"{len(self.observations)} measurements"
        return f"<SubjectPosterior of {', '.join(map(str, self.draws.data_vars))} from {what}; k-hat {self.k_hat:.2f}>"

    def predicting_draws(self) -> dict[str, Array]:
        """Return the draws (S,) of its parameters that predict curves: fewer than `draws`, in the order of `shared`."""
        population, theta = self.population.hierarchy.problem.population, self.shared.theta
        scales = zip(population.individual, population.scales, strict=True)
        own = {name: from_natural(self.natural[:, -1, i], scale) for i, (name, scale) in enumerate(scales)}
        return own | {name: theta[name] for name in population.shared}

    def summary(self, prob: float = 0.95) -> pd.DataFrame:
        """Return mean, sd and equal-tailed interval of each parameter, with its unit.

        Raises
        ------
        InputError
            When `prob` is not between 0 and 1.
        """
        check.probability("summary", "prob", prob)
        rows = {
            str(name): interval_row(values.values.ravel(), prob) | {"unit": values.attrs.get("unit", "")}
            for name, values in self.draws.data_vars.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index")

    @single_threaded
    def update(self, observations: Observations | xr.DataArray, *, rng: RandomState = 0) -> "SubjectPosterior":
        """Return the posterior with more measurements of the same subject.

        Raises
        ------
        InputError, ExtrapolationError, DataError
            As `Posterior.new_subject`; also a measurement that is there already.
        """
        more = _observed(self.population, observations)
        before = [] if self.observations is None else [self.observations]
        whole = Observations.concat([*before, more])
        return subject_posterior(with_regimens_of(self.population, whole), whole, dict(self.covariates), rng)

    @single_threaded
    def predict(
        self,
        *,
        conditions: Mapping[str, object] | None = None,
        coords: Mapping[str, object] | None = None,
        outputs: str | list[str] | None = None,
        noise: bool = False,
        rng: RandomState = 0,
    ) -> PosteriorPrediction:
        """Predict the subject's outputs, at its own or other conditions; see `Posterior.predict`.

        Parameters
        ----------
        conditions
            Known inputs, numbers or arrays of one length (dim "condition"). When left out, those of its measurements.
        coords, outputs, noise, rng
            As there.

        Raises
        ------
        InputError
            Conditions that are missing or unknown.
        ExtrapolationError
            Conditions or coordinates outside of what was simulated.
        """
        asked, coords = subject_with_asked_regimens(self, coords)
        if asked is not self:
            return asked.predict(conditions=conditions, coords=coords, outputs=outputs, noise=noise, rng=rng)
        problem = self.population.hierarchy.problem
        data, population = problem.data, problem.population
        names = chosen_outputs(data.data_model, outputs, coords)
        generator = as_generator(rng)
        natural = self.natural
        if conditions is None:
            if self.data is None and data.condition_names:
                raise InputError(f"predict: without measurements, which conditions? Give {list(data.condition_names)}.")
            at = np.zeros((1, 0)) if self.data is None else self.data.cells.conditions
            units = np.zeros(len(at), dtype=int) if self.data is None else self.data.cells.unit
            inputs = np.full(len(at), -1) if self.data is None else np.arange(len(at))
        else:
            lengths = {np.asarray(value).size for value in conditions.values()}
            at = asked_conditions(data.data_model, conditions, max(lengths, default=1))
            units, inputs = np.zeros(len(at), dtype=int), np.full(len(at), -1)
            if self.data is not None and not population.occasions:
                known = self.data.cells.conditions
                both = merge_close(data.surrogate, data.condition_names, np.vstack([known, at]))
                same = (both[len(known) :, None] == both[: len(known)]).all(axis=2)  # (n, measured)
                inputs = np.where(same.any(axis=1), same.argmax(axis=1), -1)
            if population.occasions:  # a new occasion
                natural = _new_occasion(self, generator)
        u = _inputs(self.shared, natural, at, units)
        measured = self.shared.measured(data.cells if self.data is None else self.data.cells, inputs, u)
        dims: dict[str, Any] = {"condition": np.arange(len(at))}
        dims |= {name: ("condition", at[:, i]) for i, name in enumerate(data.condition_names)}
        found = curves(self.shared, Asked(u, at, {}, inputs, measured), dims, coords, names, noise, generator)
        if len(at) > 1:
            return found
        parts = [one.isel(condition=0) for one in (found.mean, found.sd, found.draws)]
        return PosteriorPrediction(parts[0], parts[1], parts[2], found.holds)


class NewData:
    """Cells of a new subject, with the noise groups of the population."""

    def __init__(self, posterior: "Posterior", observations: Observations) -> None:
        from uqms.calibration.likelihood import arrange

        problem = posterior.hierarchy.problem
        data = problem.data
        lost = [name for name in observations.outputs if name not in data.noise.outputs]
        if lost:
            raise InputError(
                f"new_subject: outputs {lost} were not observed in the population, so their noise is not known; there "
                f"are {list(data.noise.outputs)}."
            )
        if len(set(observations.subject)) > 1:
            raise InputError(
                f"new_subject: observations of {len(set(observations.subject))} subjects; give those of one a call."
            )
        limited = observations.censored is not None or observations.trials is not None
        if observations.conditions_sd or (limited and not Features.of(problem).simulated):
            raise InputError(
                "new_subject: detection limits, counts and inexact conditions have no closed form. Calibrate all "
                "again, with this subject among them."
            )
        if problem.population.occasions:
            labels = list(dict.fromkeys(str(one) for one in observations.experiment))
            units = np.array([labels.index(str(one)) for one in observations.experiment])
        else:
            units = np.zeros(len(observations), dtype=np.int64)
        models = {
            name: model
            for name, model in zip(data.noise.outputs, data.noise.models, strict=True)
            if name in observations.outputs
        }
        observations = with_all_conditions(data.surrogate, observations, data.condition_names)
        cells, groups = arrange(data.surrogate, observations, models, data.condition_names, None, units)
        of_population = np.array([data.noise.outputs.index(name) for name in groups.outputs])
        self.cells = replace(
            cells, group=of_population[cells.group], links=data.cells.links, responses=data.cells.responses
        )
        self.units = int(units.max()) + 1


def _observed(posterior: "Posterior", given: Any) -> Observations:
    if isinstance(given, xr.DataArray):
        names = tuple(name for name in posterior.hierarchy.problem.data.condition_names if name in given.coords)
        given = Observations.from_xarray(given, conditions=names)
    if not isinstance(given, Observations):
        raise InputError(f"observations is a {type(given).__name__}; give Observations.from_table(...) or a DataArray.")
    return given


def _inputs(shared: Draws, natural: Array, conditions: Array, units: Ints) -> Array:
    """Return inputs (S, n, d) of natural values (S, U, P)."""
    population = shared.problem.population
    own = {name: values for name, values in shared.own.items() if np.ndim(values) == 1}
    for i, (name, scale) in enumerate(zip(population.individual, population.scales, strict=True)):
        own[name] = from_natural(natural[..., i], scale)
    return shared.problem.data.unit_inputs(own, conditions, units=units)


def _new_occasion(subject: SubjectPosterior, rng: np.random.Generator) -> Array:
    population = subject.population.hierarchy.problem.population
    natural = subject.natural[:, -1:].copy()  # the last unit has no effect of an occasion
    for name in population.occasions:
        key = f"omega_{name}_occasion"
        gamma = subject.shared.theta.get(key, population.known.get(key))
        assert gamma is not None
        natural[..., population.individual.index(name)] += np.reshape(gamma, (-1, 1)) * rng.standard_normal(
            natural.shape[:2]
        )
    return natural


@dataclass(frozen=True, eq=False)
class _Law:
    """Prior of one subject's standardised effects e (S, D), and the map to its natural values (S, U, P)."""

    layout: Layout
    shared: Draws
    units: int

    @property
    def size(self) -> int:
        p = self.layout.population
        return len(p.individual) + self.units * len(p.occasions)

    def natural(self, z: Array, s: Ints) -> Array:
        """Return natural values (k, U + 1, P) for z (k, D) with draws s (k,); the last unit has no occasion."""
        p = self.layout.population
        theta = {name: values[s] for name, values in self.shared.theta.items()}
        x = z[:, : len(p.individual)]
        padded = np.concatenate([x, z[:, len(p.individual) :], np.zeros((len(z), len(p.occasions)))], axis=1)
        _, units = self.layout.natural(theta, padded)
        return units


def subject_posterior(
    posterior: "Posterior", observations: Any, covariates: dict[str, float], rng: RandomState
) -> SubjectPosterior:
    """Return the posterior of a new subject; see `Posterior.new_subject`."""
    generator = as_generator(rng)
    problem, shared = posterior.hierarchy.problem, posterior.hierarchy.some
    assert not isinstance(shared, Jointly)
    population = problem.population
    wanted = {name for one in population.effects for name in one.expression.names}
    if set(covariates) != wanted:
        give = f"give all of {sorted(wanted)}" if wanted else "the population has none, so leave covariates out"
        raise InputError(f"new_subject: got the covariates {sorted(covariates)}; {give}.")
    table = pd.DataFrame({name: [value] for name, value in covariates.items()}, index=["new"])
    subject = read_subjects(population, table)
    observed = None if observations is None else _observed(posterior, observations)
    data = None if observed is None else NewData(posterior, observed)
    units = 1 if data is None else data.units
    count = units + 1 if population.occasions else 1
    law = _Law(
        Layout(population, subject.covariates, np.zeros(count, dtype=np.int64)),
        shared,
        units if population.occasions else 0,
    )
    if data is None:
        z, s, ess = _from_population(law, generator)
        k_hat = 0.0
    else:
        z, s, k_hat, ess = _sampled(law, data, generator)
    natural = law.natural(z, s)
    own: dict[str, Any] = {}
    for i, (name, scale) in enumerate(zip(population.individual, population.scales, strict=True)):
        attrs = {"unit": problem.unit_of(name), "description": population.space.priors[name].description}
        own[name] = (("chain", "draw"), from_natural(natural[:, -1, i], scale)[None], attrs)
    for name in population.shared:
        own[name] = (("chain", "draw"), shared.theta[name][s][None], {"unit": problem.unit_of(name)})
    draws = xr.Dataset(own, coords={"chain": [0], "draw": np.arange(len(s))})
    if k_hat > K_HAT:
        warnings.warn(
            f"new_subject: k-hat of the weights is {k_hat:.2f} (limit {K_HAT}): the subject is unlike those of the "
            "population, so its draws are unreliable. Calibrate all again with this subject among them.",
            ConvergenceWarning,
            skip_file_prefixes=PACKAGE,
        )
    keep = np.sort(generator.choice(len(s), min(len(s), KEPT), replace=False))
    few = s[keep]
    state = shared.some(few)
    return SubjectPosterior(draws, posterior, observed, covariates, k_hat, ess, state, natural[keep], data)


def _from_population(law: _Law, rng: np.random.Generator) -> tuple[Array, Ints, float]:
    """Return draws z (DRAWS, D) and s (DRAWS,) of a subject without measurements, and the effective number of them."""
    shared = law.shared
    walls = list(shared.problem.data.walls())
    count = DRAWS * (POOL if walls else 1)
    s = np.tile(np.arange(len(shared.h)), -(-count // len(shared.h)))[:count]
    z = rng.standard_normal((count, law.size))
    if not walls:
        return z, s, float(count)
    weights = np.exp(_wall(shared, law.natural(z, s), walls))
    inside = np.bincount(s, weights)
    # Nothing was measured that could tell draws of the population from each other: each counts as much, its law is cut.
    weights = np.divide(weights, inside[s], out=np.zeros(count), where=inside[s] > 0.0)
    if not weights.sum() > 0.0:
        raise ExtrapolationError(
            "new_subject: all that the population foresees lies outside of the design box, where nothing was "
            "simulated. Run a design over a wider box, or look at the covariates."
        )
    ess = min(float(weights.sum() ** 2 / np.sum(weights**2)), float(DRAWS))
    picked = _resampled(weights / weights.sum(), rng)
    return z[picked], s[picked], ess


def _resampled(weights: Array, rng: np.random.Generator) -> Ints:
    """Return DRAWS places in random order, each as often as its weight says, but for rounding (systematic)."""
    places = (np.arange(DRAWS) + rng.random()) / DRAWS
    return np.asarray(rng.permutation(np.minimum(np.searchsorted(np.cumsum(weights), places), len(weights) - 1)))


def _sampled(law: _Law, data: NewData, rng: np.random.Generator) -> tuple[Array, Ints, float, float]:
    """Return draws z (DRAWS, D) and s (DRAWS,) of the posterior, k-hat, and the effective number of them."""
    from arviz_stats.base import array_stats

    shared = law.shared
    S, D = len(shared.h), law.size
    cells = data.cells
    walls = list(shared.problem.data.walls())

    def density(z: Array, draws: Ints | None = None) -> Array:
        """Return log p(z) L of one z a draw, of all (S,) or those given."""
        at = np.arange(S) if draws is None else draws
        some = shared if draws is None else shared.some(draws)
        natural = law.natural(z, at)
        u = _inputs(some, natural, cells.conditions, cells.unit)
        with np.errstate(all="ignore"):
            value = some.log_density(data, u)
        value -= 0.5 * np.sum(z**2, axis=1) + 0.5 * D * np.log(2.0 * np.pi)
        return np.where(np.isfinite(value), value + _wall(shared, natural, walls), -np.inf)

    mode, root = _modes(density, S, D)
    counts = max(1, round(DEFENSIVE * PROPOSALS))
    points, logs = [], []
    for i in range(PROPOSALS):
        normal = rng.standard_normal((S, D))
        if i < counts:
            z = normal
        else:
            scale = np.sqrt(FREEDOM / rng.chisquare(FREEDOM, S))
            z = mode + scale[:, None] * np.einsum("sij,sj->si", root, normal)
        y = np.linalg.solve(root, (z - mode)[..., None])[..., 0]
        log_det = np.log(np.abs(np.diagonal(root, axis1=1, axis2=2))).sum(axis=1)
        student = (
            gammaln(0.5 * (FREEDOM + D))
            - gammaln(0.5 * FREEDOM)
            - 0.5 * D * np.log(FREEDOM * np.pi)
            - log_det
            - 0.5 * (FREEDOM + D) * np.log1p(np.sum(y**2, axis=1) / FREEDOM)
        )
        prior = -0.5 * np.sum(z**2, axis=1) - 0.5 * D * np.log(2.0 * np.pi)
        share = counts / PROPOSALS
        proposal = np.logaddexp(np.log1p(-share) + student, np.log(share) + prior)
        points.append(z)
        logs.append(density(z) - proposal)
    z, s = np.concatenate(points), np.tile(np.arange(S), PROPOSALS)
    raw = np.concatenate(logs)
    log_weights, k_hat = array_stats.psislw(raw.max() - raw)  # which takes what weights are the inverse of
    weights = np.exp(log_weights - np.logaddexp.reduce(log_weights))
    ess = float(1.0 / np.sum(weights**2))
    picked = _resampled(weights, rng)
    return z[picked], s[picked], float(np.max(k_hat)), ess


def _wall(shared: Draws, natural: Array, walls: list[tuple[str, UnitMap]]) -> Array:
    from uqms.calibration.population.layout import WALL

    population, total = shared.problem.population, np.zeros(len(natural))
    for name, one in walls:
        i = population.individual.index(name)
        own = from_natural(natural[..., i], population.scales[i])
        u = one.forward(own)
        total -= 0.5 * np.sum((np.maximum(-u, 0.0) + np.maximum(u - 1.0, 0.0)) ** 2, axis=1) / WALL**2
    return total


def _modes(density: Any, S: int, D: int) -> tuple[Array, Array]:
    """Return modes (S, D) of a density over z, and roots (S, D, D) of the inverse of its curvature there.

    All draws at once. One that stands for them finds the way, and all set out from where it ends: then a few of
    Newton's steps with one curvature are enough. The proposal need not be exact.
    """
    middle = density(np.zeros((S, D)), None)
    one = np.argsort(middle)[[S // 2]]
    begin = np.zeros((1, D))
    value = density(begin, one)
    for _ in range(STEPS):
        slope, curvature = _slopes(lambda z: density(z, one), begin, value)
        step = np.linalg.solve(curvature, slope[..., None])[..., 0]
        step *= min(1.0, 2.0 / max(float(np.linalg.norm(step)), 1e-300))
        begin, value, moved = _upwards(lambda z: density(z, one), begin, value, step)
        if moved < 0.01:
            break
    mode = np.repeat(begin, S, axis=0)
    value = density(mode, None)
    for _ in range(REFINED):
        slope, curvature = _slopes(lambda z: density(z, None), mode, value)
        step = np.linalg.solve(curvature, slope[..., None])[..., 0]
        step *= np.minimum(1.0, 2.0 / np.maximum(np.sqrt(np.sum(step**2, axis=1, keepdims=True)), 1e-300))
        mode, value, moved = _upwards(lambda z: density(z, None), mode, value, step)
        if moved < 0.1:  # of a standard deviation at most: the proposal's tails are heavier than that matters
            break
    _, curvature = _slopes(lambda z: density(z, None), mode, value)
    return mode, np.linalg.cholesky(np.linalg.inv(curvature))


def _upwards(density: Any, z: Array, value: Array, step: Array) -> tuple[Array, Array, float]:
    """Return points and values after a step, halved where it does not go up, and the longest that was gone."""
    size = np.ones(len(z))
    moved = np.zeros(len(z))
    for _ in range(4):
        trial = z + size[:, None] * step
        new = density(trial)
        better = (new >= value) & (size > 0.0)
        moved = np.where(better, np.sqrt(np.sum((trial - z) ** 2, axis=1)), moved)
        z, value = np.where(better[:, None], trial, z), np.where(better, new, value)
        size = np.where(better, 0.0, 0.5 * size)
        if not (size > 0.0).any():
            break
    return z, value, float(moved.max())


def _slopes(density: Any, z: Array, value: Array) -> tuple[Array, Array]:
    """Return gradient (S, D) and minus the Hessian (S, D, D), its eigenvalues at least 1 (the prior's)."""
    S, D = z.shape
    eye = STEP * np.eye(D)
    up, down = (np.stack([density(z + sign * one) for one in eye], axis=-1) for sign in (1.0, -1.0))
    with np.errstate(invalid="ignore"):
        slope = (up - down) / (2.0 * STEP)
        hessian = np.empty((S, D, D))
        for i in range(D):
            hessian[:, i, i] = (up[:, i] + down[:, i] - 2.0 * value) / STEP**2
            for j in range(i):
                both = density(z + eye[i] + eye[j])
                hessian[:, i, j] = hessian[:, j, i] = (both - up[:, i] - up[:, j] + value) / STEP**2
    slope, hessian = np.nan_to_num(slope), np.nan_to_num(hessian)
    values, vectors = np.linalg.eigh(-hessian)
    values = np.maximum(values, 1.0)
    return slope, np.asarray((vectors * values[:, None, :]) @ vectors.transpose(0, 2, 1))
