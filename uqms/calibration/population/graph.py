"""A population in a PyMC model: its subjects as variables, the joint likelihood, and what the sampler starts from."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import xarray as xr
from scipy.optimize import minimize

from uqms._typing import Array, Ints
from uqms.calibration import bridge
from uqms.calibration.compiled import expand
from uqms.calibration.density import noise_sd
from uqms.calibration.graph import ModelTarget, model_target
from uqms.calibration.population.layout import WALL, from_natural
from uqms.calibration.population.prediction import simulate_rows
from uqms.calibration.samplers._settings import import_beside
from uqms.errors import InitError

if TYPE_CHECKING:
    from uqms.calibration.population.problem import PopulationCalibration
    from uqms.calibration.samplers import NUTS

__all__ = ["Compiled", "add_likelihood", "individual_variables", "run"]

STARTS, STEPS = 8, 200
ROUGHLY = 60  # steps of a search after which features are chosen, and which then goes on
JITTER = 0.1
VALUES, CENTRING, FEATURES = "values", "centring", "surrogate_data_and_features"  # shared arrays
AROUND = 16  # draws around each mode, for the cloud of inputs


def individual_variables(
    problem: "PopulationCalibration",
    values: Mapping[str, Any],
    before: str = "",
    without: tuple[str, ...] = (),
    centring: Any = None,
) -> dict[str, Any]:
    """Add the effects of subjects and occasions to the model in context; return parameters (U,) by name.

    With `centring` kappa (J, P) between 0 and 1, what is sampled is kappa mean + omega^kappa x: standardised effects x
    at 0, natural values at 1. `values` has everything about the population but parameters `without` which it is; names
    begin with `before`.
    """
    population, layout = problem.population, problem.layout
    J, U = len(layout.covariates), len(layout.subject)
    kappa = np.full((J, len(population.individual)), float(bool(population.centred))) if centring is None else centring
    # What describes the parameters that are left out is never looked at.
    idle = {one.name: 0.0 for one in population.effects} | {f"lkj_{a}_{b}": 0.5 for a, b in population.pairs}
    idle |= {key: 1.0 for name in without for key in (name, f"omega_{name}")}
    values = {**{key: one for key, one in idle.items() if key not in population.known}, **values}
    centre, omega = layout.centre(values, pt), layout.spreads(values)
    natural: list[Any] = []
    x: list[Any] = []
    coords = pm.modelcontext(None).coords.get("subject")
    labelled = coords is not None and tuple(coords) == problem.subjects.labels
    dims = {"dims": "subject"} if labelled else {"shape": J}
    for i, (name, row) in enumerate(zip(population.individual, layout.root(values, pt), strict=True)):
        if name in without:
            natural.append(pt.zeros(J))
            x.append(None)
            continue
        rest = sum(entry * x[k] for k, entry in enumerate(row[:i]) if entry is not None and x[k] is not None)
        mean, spread, freedom = centre[i] + omega[i] * rest, omega[i] * row[i], population.tails.get(name)
        k = kappa[:, i]
        args = {"mu": k * mean, "sigma": spread**k + pt.zeros(J), **dims}
        drawn = (
            pm.StudentT(f"{before}effect_{name}", nu=freedom, **args)
            if freedom
            else pm.Normal(f"{before}effect_{name}", **args)
        )
        x.append((drawn - k * mean) / spread**k)
        natural.append(mean + spread * x[-1])
    units = [one[layout.subject] if U != J or population.occasions else one for one in natural]
    for name in (one for one in population.occasions if one not in without):
        at = population.individual.index(name)
        key = f"omega_{name}_occasion"
        gamma = values[key] if key in values else population.known[key]
        units[at] = units[at] + gamma * pm.Normal(f"{before}occasion_{name}", 0.0, 1.0, shape=U)
    return {
        name: from_natural(one, scale, pt)
        for name, one, scale in zip(population.individual, units, population.scales, strict=True)
        if name not in without
    }


def add_likelihood(
    problem: "PopulationCalibration", own: Mapping[str, Any], values: Mapping[str, Any], name: str, latents: Any
) -> Any:
    """Add the wall around the design box and the observed variable to the model in context."""
    data, unit = problem.data, problem.data.cells.unit
    theta: dict[str, Any] = {key: one[unit] for key, one in own.items()}
    theta |= {key: values[key] for key in problem.population.shared}
    theta |= bridge.conditions(data, values)
    walls, measured = [], np.flatnonzero(problem.subjects.measured[problem.layout.subject])
    for key, low, high, scale in data.walls():
        u = (bridge.scaled(own[key][measured], scale) - low) / (high - low)
        walls.append(-0.5 * pt.sum((pt.maximum(-u, 0.0) + pt.maximum(u - 1.0, 0.0)) ** 2) / WALL**2)
    if walls:
        pm.Potential(f"{name}_wall", sum(walls))
    u = bridge.unit_inputs(data.surrogate.domain, theta, data.cells.experiments)
    if problem.lowrank is None:
        return bridge.likelihood(data, u, values, name, latents)
    from uqms.calibration.population.operation import log_density

    lowrank, groups = problem.lowrank, len(data.noise.keys)

    def replicate(u: Array, phi: Array, rng: np.random.Generator) -> Array:
        lead = np.shape(u)[:-2]
        flat = np.reshape(u, (-1, *np.shape(u)[-2:]))
        known = np.broadcast_to(phi, (*lead, np.shape(phi)[-1])).reshape(len(flat), -1)
        known = np.pad(known, ((0, 0), (0, groups - known.shape[1])))
        return simulate_rows(data, lowrank.error, flat, known, rng).reshape(*lead, -1)

    def density(u: Any, phi: Any, z: Any) -> Any:
        return log_density(lowrank, u, phi, z)

    return bridge.likelihood(data, u, values, name, latents, density, replicate)


@final
class Compiled:
    """The log-density of a population, compiled once for all measured values of one layout."""

    def __init__(self) -> None:
        self._found: ModelTarget | None = None

    def target(self, problem: "PopulationCalibration") -> ModelTarget:
        """Return the density of a problem, in coordinates that are its population's; see `individual_variables`.

        After the first problem only numbers are exchanged: measured values, and features of the surrogate's error.
        """
        cells = problem.data.cells
        if np.isfinite(cells.limit).any():  # which rows are censored is in the graph
            return model_target(problem.model(_centring(problem)))
        values = np.asarray(cells.own(cells.z), dtype=np.float64)
        if self._found is None:
            model = problem.model(_centring(problem))
            observed = model["observations"]
            data = pytensor.shared(values, name=VALUES, shape=values.shape)
            model.values_to_rvs.pop(model.rvs_to_values[observed])
            model.rvs_to_values[observed] = data
            model.values_to_rvs[data] = observed
            self._found = model_target(model)
        features = {} if problem.lowrank is None else {FEATURES: problem.lowrank.block}
        return self._found.with_arrays(**{VALUES: values}, **features)


def _centring(problem: "PopulationCalibration") -> Any:
    return pytensor.shared(np.full(_shape(problem), float(bool(problem.population.centred))), name=CENTRING)


def run(problem: "PopulationCalibration", sampler: "NUTS", seed: int) -> tuple["PopulationCalibration", Any]:
    """Return the problem with features for where its subjects are, and nutpie's DataTree of its posterior.

    The tree has everything in `priors`, and the standard normals as "latents".
    """
    import_beside("nutpie")
    rng = np.random.default_rng([seed, 1])
    kappa = np.full(_shape(problem), float(bool(problem.population.centred)))
    target = problem.compiled.target(problem)
    begin = target.start + JITTER * rng.standard_normal((STARTS, target.size))
    points = _modes(target, begin, STEPS if problem.lowrank is None else ROUGHLY)
    if problem.lowrank is not None:
        problem = _with_features(problem, _calmed(problem, *_at(problem, target, points, kappa)), rng)
        assert problem.lowrank is not None
        target = target.with_arrays(**{FEATURES: problem.lowrank.block})
        points = _modes(target, points)
    if problem.population.centred is None:
        moved = centring(problem, *_calmed(problem, *_at(problem, target, points[:1], kappa)))
        points = _recentred(problem, target, points, kappa, moved)
        kappa, target = moved, target.with_arrays(**{CENTRING: moved})
    starts = np.concatenate([point + JITTER * rng.standard_normal((4, target.size)) for point in points])
    groups = _of_subjects(problem, target)
    # Effective draws are counted of the population, as in the verdict: the least of hundreds of numbers is noise.
    target = replace(target, free=tuple(name for name in target.free if name in problem.priors))
    trace = sampler.sample_target(target, seed, starts, rough=True, cautious=True, groups=groups)
    draws = trace["posterior"].dataset
    kept = draws[list(problem.priors)]
    shape = (draws.sizes["chain"], draws.sizes["draw"], -1)
    flat = {str(name): values.values.reshape(shape[0] * shape[1], -1) for name, values in draws.data_vars.items()}
    kept["latents"] = (("chain", "draw", "latent"), _standard_normals(problem, flat, kappa).reshape(shape))
    return problem, trace.assign({"posterior": xr.DataTree(kept)})


def _of_subjects(problem: "PopulationCalibration", target: ModelTarget) -> Ints:
    """Return the coordinates of each subject's effects, shape (J, P)."""
    shapes = dict(target.variables)
    sizes = [int(np.prod(shapes[name], dtype=int)) for name in target.free]
    begins = dict(zip(target.free, np.cumsum([0, *sizes[:-1]]), strict=True))
    first = np.array([begins[f"effect_{name}"] for name in problem.population.individual], dtype=np.int64)
    return np.arange(len(problem.layout.covariates))[:, None] + first


def _shape(problem: "PopulationCalibration") -> tuple[int, int]:
    return len(problem.layout.covariates), len(problem.population.individual)


def _at(problem: "PopulationCalibration", target: Any, points: Array, kappa: Array) -> tuple[dict[str, Array], Array]:
    """Return what is known of the population (n,), and standard normals (n, latents), at points of the real line."""
    sizes = [int(np.prod(shape, dtype=int)) for _, shape in target.variables]
    total = sum(sizes)
    rows = [expand(target.functions[1], target.block, point, total + target.size)[:total] for point in points]
    parts = np.split(np.array(rows), np.cumsum(sizes)[:-1], axis=1)
    flat = {name: part for (name, _), part in zip(target.variables, parts, strict=True)}
    return {name: flat[name][:, 0] for name in problem.priors}, _standard_normals(problem, flat, kappa)


def _calmed(problem: "PopulationCalibration", theta: Mapping[str, Array], z: Array) -> tuple[dict[str, Array], Array]:
    """Return the same individual parameters with spreads that are theirs.

    At the joint mode of spreads and standardised effects the spreads are several times too large and the effects too
    small.
    """
    population, layout = problem.population, problem.layout
    size, out = layout.size, dict(theta)
    natural, _ = layout.natural(theta, z[:, :size])
    columns = {name: values[:, None] for name, values in theta.items()}
    centre, root = layout.centre(columns), layout.root(columns)
    _, y = layout.standardised(z[:, :size])
    x = np.empty_like(natural)
    for i, name in enumerate(population.individual):
        effect = natural[..., i] - centre[i]
        omega = layout.spreads(theta)[i]
        if f"omega_{name}" in theta:
            freedom = population.tails.get(name, np.inf)
            tail = 1.0 if np.isinf(freedom) else (freedom - 2.0) / freedom
            omega = np.maximum(np.sqrt(tail * np.mean(effect**2, axis=1)), 1e-3 * omega)
            out[f"omega_{name}"] = omega
        rest = sum(entry * x[..., k] for k, entry in enumerate(root[i][:i]) if entry is not None)
        x[..., i] = (effect / np.reshape(omega, (-1, 1)) - rest) / root[i][i]
    return out, np.concatenate([layout.standard_normals(x, y), z[:, size:]], axis=1)


def _with_features(
    problem: "PopulationCalibration", modes: tuple[dict[str, Array], Array], rng: np.random.Generator
) -> "PopulationCalibration":
    """Return the problem with features for a cloud around modes: subjects as they are there, and others.

    Features of the prior's cloud would be spent where no subject is.
    """
    theta = {name: np.repeat(values, AROUND) for name, values in modes[0].items()}
    z = np.repeat(modes[1], AROUND, axis=0)
    size = problem.layout.size
    other = rng.standard_normal((len(z), size))
    # A part stays near the mode, a part is of new subjects: what the sampler may still find is in between.
    share = rng.choice([0.3, 0.6, 1.0], size=(len(z), 1))
    z[:, :size] = np.sqrt(1.0 - share**2) * z[:, :size] + share * other
    return problem.with_features(theta, z, rng)


def centring(problem: "PopulationCalibration", theta: Mapping[str, Array], z: Array) -> Array:
    """Return kappa (J, P) for one draw: how much of the prior's variance of each effect its own data take away.

    With kappa = 1 - posterior variance / omega², what is sampled is least correlated with the population's mean.
    """
    population, layout, data = problem.population, problem.layout, problem.data
    P = len(population.individual)
    _, units = layout.natural(theta, z[:, : layout.size])
    cells = data.cells
    others = {name: np.asarray(values) for name, values in theta.items() if name not in population.individual}

    def means(natural: Array) -> Array:
        own = {
            name: from_natural(natural[..., i], scale)
            for i, (name, scale) in enumerate(zip(population.individual, population.scales, strict=True))
        }
        u = data.unit_inputs({**others, **own})
        scores = data.surrogate.scores(u.reshape(-1, 1, u.shape[-1]))
        weights = np.exp(scores.log_weights)
        mean = np.tensordot(weights, scores.mean, 1)[:, 0][cells.experiment]
        variance = np.tensordot(weights, scores.covariance[..., 0, 0], 1)[cells.experiment]
        return np.stack([cells.offset + np.sum(mean * cells.basis, axis=1), np.sum(variance * cells.basis**2, axis=1)])

    step = 1e-3
    slopes = [(means(units + step * one)[0] - means(units - step * one)[0]) / (2.0 * step) for one in np.eye(P)]
    J = np.stack(slopes, axis=-1)  # (N, P)
    phi = data.noise.phi(others, (1,))[0]
    effective = phi[cells.group] ** 2 / cells.weight if data.form == "independent" else np.full(len(J), np.inf)
    if data.form != "independent":
        effective = noise_sd(data, means(units)[0][None], phi[None])[0] ** 2
    variance = effective + means(units)[1] + np.sum(cells.truncation**2, axis=1)
    subject = layout.subject[cells.unit[cells.experiment]]
    count = len(layout.covariates)
    information = np.zeros((count, P, P))
    np.add.at(information, subject, J[:, :, None] * J[:, None, :] / variance[:, None, None])
    omega = np.array([float(np.ravel(one)[0]) for one in layout.spreads(theta)])
    scaled = np.eye(P) + information * omega[:, None] * omega
    left = np.diagonal(np.linalg.inv(scaled), axis1=1, axis2=2)
    return np.asarray(np.clip(1.0 - np.nan_to_num(left, nan=1.0), 0.0, 1.0))


def _recentred(problem: "PopulationCalibration", target: Any, points: Array, before: Array, after: Array) -> Array:
    """Return points (n, P) of the real line in coordinates with another centring."""
    population, layout = problem.population, problem.layout
    theta, z = _at(problem, target, points, before)
    x, _ = layout.standardised(z[:, : layout.size])
    columns = {name: values[:, None] for name, values in theta.items()}
    centre, omega, root = layout.centre(columns), layout.spreads(columns), layout.root(columns)
    out, shapes, start = points.copy(), dict(target.variables), 0
    for name in target.free:  # the coordinates of effects are effects themselves
        size = int(np.prod(shapes[name], dtype=int))
        if name.startswith("effect_") and name[7:] in population.individual:
            i = population.individual.index(name[7:])
            rest = sum(entry * x[..., k] for k, entry in enumerate(root[i][:i]) if entry is not None)
            mean, spread, kappa = centre[i] + omega[i] * rest, omega[i] * root[i][i], after[:, i]
            out[:, start : start + size] = kappa * mean + np.asarray(spread) ** kappa * x[..., i]
        start += size
    return out


def _standard_normals(problem: "PopulationCalibration", flat: Mapping[str, Array], kappa: Array) -> Array:
    """Return z (S, latents) for draws (S, ...) of the model's variables, each flat."""
    population, layout = problem.population, problem.layout
    S = len(next(iter(flat.values())))
    x = np.empty((S, len(layout.covariates), len(population.individual)))
    columns = {name: flat[name] for name in problem.priors}
    centre, omega, root = layout.centre(columns), layout.spreads(columns), layout.root(columns)
    for i, name in enumerate(population.individual):
        rest = sum(entry * x[..., k] for k, entry in enumerate(root[i][:i]) if entry is not None)
        mean, spread = centre[i] + omega[i] * rest, np.asarray(omega[i] * root[i][i])
        x[..., i] = (flat[f"effect_{name}"] - kappa[:, i] * mean) / spread ** kappa[:, i]
    effects = [flat[f"occasion_{name}"] for name in population.occasions]
    y = np.stack(effects, axis=-1).reshape(S, -1) if effects else np.zeros((S, 0))
    parts = [layout.standard_normals(x, y)]
    if problem.data.latents:
        parts.append(flat["latents"])
    return np.concatenate(parts, axis=1)


def _modes(target: Any, points: Array, steps: int = STEPS) -> Array:
    """Return points (n, P) of the real line near modes, where searches from given points end.

    Raises
    ------
    InitError
        When none has a finite density.
    """

    def down(w: Array) -> tuple[float, Array]:
        value, slope = target.evaluate(w)
        if not np.isfinite(value) or not np.isfinite(slope).all():
            return 1e12, np.zeros_like(w)
        return -value, -slope

    found = []
    for begin in points:  # one after the other: in threads this search ends elsewhere each time
        best = minimize(down, begin, jac=True, method="L-BFGS-B", options={"maxiter": steps})
        if best.fun < 1e11:
            found.append((float(best.fun), best.x))
    if not found:
        raise InitError(
            "The log-density of ['observations'] is not finite at any starting point. Check that observations and "
            "noise have the scale of the simulator's output."
        )
    found.sort(key=lambda one: one[0])
    return np.array([x for value, x in found if value < found[0][0] + 0.5 * target.size + 10.0])
