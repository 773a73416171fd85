"""A population at given values or with its draws, and the outputs of subjects at the samples of a trial.

==========  ===================================================================  ============
symbol      meaning                                                              shape
==========  ===================================================================  ============
n           parameter vectors of subjects                                        ()
P           samples                                                              ()
f           output in the unit that noise is added in                            (n, P)
S           covariance of the surrogate's error at one parameter vector          (P, P)
==========  ===================================================================  ============

Outputs are means over the draws of the surrogate's hyperparameters, whose differences are part of the error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast, final

import numpy as np

from uqms._typing import Array
from uqms.calibration.by_input import rows_by_input
from uqms.calibration.conditioned import ConditionedPrior
from uqms.calibration.context import evenly
from uqms.calibration.direct import is_exact
from uqms.calibration.joint_error import JointError, means_given
from uqms.calibration.noise import NoiseModel
from uqms.calibration.population.layout import to_natural
from uqms.calibration.population.population import Population
from uqms.errors import InputError
from uqms.parameters import Prior
from uqms.planning.before_data import without_data
from uqms.planning.forecasts import Points
from uqms.surrogates.transforms import Identity

__all__ = ["PopulationDraws", "Setting", "error_at", "noise_terms", "noise_variance", "outputs_at"]

BLOCK = 4000  # parameter vectors whose outputs are computed together


class PopulationDraws(NamedTuple):
    """Draws of a population.

    Attributes
    ----------
    theta
        By name (S,), known values among them.
    phi
        Parameters of the noise by output and role, (S,); of outputs whose noise was inferred or given with the data.
    inferred
        What differs between draws, by its name in the table of `trial_information` and with the values there (S,).
    natural
        The same on scales that have no ends but for standard deviations, in the place of variances.
    """

    theta: Mapping[str, Array]
    phi: Mapping[str, Mapping[str, Array]]
    inferred: Mapping[str, Array]
    natural: Mapping[str, Array]


@final
@dataclass(frozen=True, eq=False)
class Setting:
    """A population at given values.

    Attributes
    ----------
    problem
        A calibration of the surrogate, for its outputs and conditions.
    population
        How subjects differ.
    at
        Values by name.
    noise
        By output; of a posterior. Candidates' own noise goes first.
    phi
        Values of its parameters by output.
    posterior
        None before any data.
    """

    problem: Any
    population: Population
    at: Mapping[str, float]
    noise: Mapping[str, NoiseModel]
    phi: Mapping[str, Mapping[str, float]]
    posterior: Any

    @classmethod
    def of(cls, model: Any, population: Population | None, at: Mapping[str, float] | None) -> "Setting":
        """Return the setting of a posterior, or of a surrogate or simulator with a population.

        Raises
        ------
        InputError
            Names that are unknown, and populations that the first-order matrix does not have.
        """
        posterior = model if hasattr(model, "tree") else None
        if posterior is not None:
            if posterior.problem.kind != "population":
                raise InputError(
                    "trial_information: this posterior has no population. For one subject use uq.next_experiment(...)."
                )
            population, problem = posterior.problem.population, posterior.problem.data
        elif not isinstance(population, Population):
            raise InputError("trial_information: give population=uq.Population(space, individual=(...)) too.")
        else:
            problem = without_data(model, None, {"space": population.space, "outside": "extrapolate"})
        for what, there in (
            ("correlated random effects", population.together),
            ("occasions", population.occasions),
            ("covariates", population.effects),
            ("Student-t effects", population.tails),
        ):
            if there:
                raise InputError(
                    f"trial_information: the first-order matrix here has no {what}. Leave them out of uq.Population "
                    "for the choice of sampling times."
                )
        values = {name: _middle(one) for name, one in population.settings.items()}
        if posterior is not None:
            values |= {name: float(posterior.draws[name].mean()) for name in population.priors}
        unknown = sorted(set(at or {}) - set(values))
        if unknown:
            raise InputError(f"trial_information: at has {unknown}; the population has {list(values)}.")
        values |= {name: float(value) for name, value in (at or {}).items()}
        noise: dict[str, NoiseModel] = {}
        phi: dict[str, dict[str, float]] = {}
        if posterior is not None:
            draws = {name: float(posterior.draws[name].mean()) for name in posterior.draws.data_vars}
            known = problem.noise.phi(draws, ())
            for output, one, roles in zip(
                problem.noise.outputs, problem.noise.models, problem.noise.roles, strict=True
            ):
                noise[output], phi[output] = one, {role: float(known[place]) for role, place in roles.items()}
        return cls(problem, population, values, noise, phi, posterior)

    def precision_of(self, names: Sequence[str]) -> Array:
        """Return the inverse covariance of what the posterior knows, zeros for the noise and before any data."""
        out = np.zeros((len(names), len(names)))
        if self.posterior is None:
            return out
        population, draws = self.population, self.posterior.draws
        keys = [*population.individual, *population.shared, *(f"omega_{name}" for name in population.individual)]
        at = [i for i, key in enumerate(keys) if key in draws]
        columns = [draws[keys[i]].values.ravel() ** (2 if keys[i].startswith("omega_") else 1) for i in at]
        out[np.ix_(at, at)] = np.linalg.inv(np.atleast_2d(np.cov(np.stack(columns))))
        return out

    def draws(self, points: Points, count: int, rng: np.random.Generator) -> PopulationDraws:
        """Return draws of the posterior, or before any data of the prior, with the noise of the points."""
        population, phi = self.population, dict[str, dict[str, Array]]()
        if self.posterior is None:
            priors = population.priors
            limits = {name: one.support for name, one in priors.items()}
            law = ConditionedPrior(priors, limits, population.space.blocks)
            theta = {name: np.asarray(values) for name, values in law.draw(count, rng).items()}
        else:
            flat = self.posterior.flat()
            some = evenly(len(next(iter(flat.values()))), count)
            theta = {name: np.asarray(values)[some] for name, values in flat.items()}
        S = len(next(iter(theta.values())))
        theta |= {name: np.full(S, value) for name, value in population.known.items()}
        if self.posterior is not None:
            noise = self.problem.noise
            columns = noise.phi(theta, (S,))
            for output, roles in zip(noise.outputs, noise.roles, strict=True):
                phi[output] = {role: columns[:, place] for role, place in roles.items()}
        omegas = {f"omega2_{name}": theta[f"omega_{name}"] for name in population.individual}
        typical = dict(zip(population.individual, population.scales, strict=True))
        typical |= {name: population.space.priors[name].scale for name in population.shared}
        inferred = {name: theta[name] for name in typical} | {name: one**2 for name, one in omegas.items()}
        natural = {name: np.asarray(to_natural(theta[name], scale)) for name, scale in typical.items()} | omegas
        outputs = list(dict.fromkeys(points.targets.output.tolist()))
        for output in outputs:
            for name, role, model in _terms(self, points, output, len(outputs) > 1):
                own = _numbers(model, phi if output not in points.noise else {}, output)[role]
                natural[name] = np.broadcast_to(np.asarray(own, dtype=np.float64), (S,))
                inferred[name] = natural[name] ** 2
        vary = [name for name, values in natural.items() if np.ptp(values) > 0.0]
        return PopulationDraws(theta, phi, {n: inferred[n] for n in vary}, {n: natural[n] for n in vary})


def _middle(one: Prior | float) -> float:
    if not isinstance(one, Prior):
        return float(one)
    return float(np.asarray(cast(Any, one).quantile(0.5)))


def _terms(setting: Setting, points: Points, output: str, several: bool) -> list[tuple[str, str, NoiseModel]]:
    """Return the variances that the noise of an output consists of: name, role of its root, model.

    Raises
    ------
    InputError
        When the noise is not known, or not independent and Gaussian.
    """
    model = points.noise.get(output, setting.noise.get(output))
    if model is None or not model.gaussian or model.process is not None or model.columns:
        what = "not known" if model is None else f"{type(model).__name__}"
        raise InputError(
            f"trial_information: the noise of {output!r} is {what}; give known Gaussian noise: uq.candidates(..., "
            "noise=uq.CombinedNoise(0.5, 0.1))."
        )
    suffix = f"_{output}" if several else ""
    own = _numbers(model, setting.phi if output not in points.noise else {}, output)
    roles = ["sigma"] if float(cast(Any, own.get("sigma", 0.0))) > 0.0 else []
    roles += [] if model.growth is None else [model.growth.factor]
    return [(f"{role}2{suffix}", role, model) for role in roles]


def _numbers(model: NoiseModel, phi: Mapping[str, Mapping[str, Any]], output: str) -> dict[str, Any]:
    """Return the parameters of the noise by role: those of the calibration, else the model's own."""
    own = phi.get(output, {})
    return {role: own.get(role, value) for role, value in model.parameters.items()}


def noise_terms(setting: Setting, points: Points, f: Array) -> tuple[tuple[str, ...], Array, Array]:
    """Return names and values of the noise's variances (k,), and derivatives of each sample's variance (P, k)."""
    names: list[str] = []
    sizes: list[float] = []
    columns: list[Array] = []
    outputs = list(dict.fromkeys(points.targets.output.tolist()))
    for output in outputs:
        at = points.targets.output == output
        for name, role, model in _terms(setting, points, output, len(outputs) > 1):
            own = _numbers(model, setting.phi if output not in points.noise else {}, output)
            names.append(name)
            sizes.append(float(own[role]) ** 2)
            grown = 1.0 if role == "sigma" else np.abs(f) ** (2.0 * float(own[cast(Any, model.growth).power]))
            columns.append(at * grown / points.replicates)
    return tuple(names), np.array(sizes), np.column_stack(columns)


def noise_variance(setting: Setting, points: Points, f: Array, phi: Mapping[str, Mapping[str, Array]]) -> Array:
    """Return the variances (S, ..., P) of the noise at outputs (S, ..., P), for draws of its parameters (S,)."""
    out, more = np.zeros_like(f), (slice(None), *(None,) * (f.ndim - 1))
    for output in dict.fromkeys(points.targets.output.tolist()):
        at = points.targets.output == output
        for _, role, model in _terms(setting, points, output, False):
            own = _numbers(model, phi if output not in points.noise else {}, output)
            size, power = (np.broadcast_to(np.asarray(one, dtype=np.float64), (len(f),))[more] for one in (
                own[role], 0.0 if role == "sigma" else own[cast(Any, model.growth).power]
            ))  # fmt: skip
            out[..., at] += size**2 * np.abs(f[..., at]) ** (2.0 * power)
    return out / points.replicates


def outputs_at(problem: Any, points: Points, theta: Mapping[str, Array]) -> tuple[Array, Array]:
    """Return outputs (n, P) in the unit of the noise, and their derivative by the latent output (n, P)."""
    targets, surrogate, u = points.targets, problem.surrogate, _inputs(problem, points, theta)
    rows, weights = _rows(problem, points), _weights(problem)
    latent = np.zeros((len(u), len(points)))
    for start in range(0, len(u), BLOCK):
        some = slice(start, min(start + BLOCK, len(u)))
        for h, weight in enumerate(weights):
            every = np.full(len(u[some]), h)
            latent[some] += weight * means_given(surrogate, rows, targets.experiment, u[some], every)
    value, slope = latent.copy(), np.ones_like(latent)
    for output in np.unique(targets.output):
        at = np.flatnonzero(targets.output == output)
        model = points.noise.get(str(output))
        transform = surrogate.layouts[str(output)].transform
        response = Identity() if model is not None and model.link == "log" else transform
        value[:, at], slope[:, at] = response.inverse(latent[:, at]), response.inverse_slope(latent[:, at])
    return value, slope


def error_at(problem: Any, points: Points, theta: Mapping[str, Array], slope: Array) -> Array:
    """Return the covariance (n, P, P) of the surrogate's error in the unit of the noise, slopes (n, P) as above."""
    targets, n, P = points.targets, len(slope), len(points)
    out = np.zeros((n, P, P))
    if is_exact(problem.surrogate):
        return out
    u, rows, weights = _inputs(problem, points, theta), _rows(problem, points), _weights(problem)
    used = np.arange(targets.basis.shape[1])
    for start in range(0, n, BLOCK // 10):
        some = slice(start, min(start + BLOCK // 10, n))
        joint = JointError.of(problem.surrogate, rows, targets.experiment, u[some], used)
        apart = joint.mean - np.tensordot(weights, joint.mean, 1)
        for h, weight in enumerate(weights):
            covariance = joint.given(np.full(len(u[some]), h)).covariance
            out[some] += weight * (covariance + apart[h][:, :, None] * apart[h][:, None, :])
    return np.asarray(slope[:, :, None] * slope[:, None, :] * out)


def _weights(problem: Any) -> Array:
    """Return the weights (H,) of the surrogate's hyperparameters."""
    logs = problem.surrogate.scores(np.full((1, problem.surrogate.domain.d), 0.5)).log_weights
    return np.asarray(np.exp(logs - np.logaddexp.reduce(logs)))


def _rows(problem: Any, points: Points) -> "_Rows":
    targets = points.targets
    sites = dict(targets.coords)
    sites |= {name: targets.conditions[targets.experiment, i] for i, name in enumerate(problem.condition_names)}
    by_input = rows_by_input(problem.surrogate, targets.output, sites, targets.experiment)
    return _Rows(targets.offset, targets.basis, targets.truncation, by_input)


def _inputs(problem: Any, points: Points, theta: Mapping[str, Array]) -> Array:
    box, conditions = problem.surrogate.domain, points.targets.conditions
    n, K = len(next(iter(theta.values()))), len(conditions)
    x = np.empty((n, K, box.d))
    for column, name in enumerate(box.names):
        x[..., column] = theta[name][:, None] if name in theta else conditions[:, problem.condition_names.index(name)]
    return np.asarray(box.to_unit(x))


class _Rows(NamedTuple):
    """Rows of samples, as `JointError.of` reads them."""

    offset: Array
    basis: Any
    truncation: Array
    by_input: Any
