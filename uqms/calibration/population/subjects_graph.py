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
from uqms.calibration.compiled import Groups, expand
from uqms.calibration.graph import ModelTarget, model_target
from uqms.calibration.population.layout import WALL, from_natural
from uqms.calibration.population.start import calmed, centring, likely
from uqms.calibration.population.subject_prediction import simulate_rows
from uqms.calibration.samplers.shared import import_beside
from uqms.errors import InitError

if TYPE_CHECKING:
    from uqms.calibration.population.calibration import PopulationCalibration
    from uqms.calibration.samplers import NUTS

__all__ = ["Compiled", "add_likelihood", "individual_variables", "run"]

STARTS, STEPS = 8, 200
ROUGHLY = 60  # steps of a search after which features are chosen, and which then goes on
JITTER, CHAINS = 0.1, 4  # starts at each mode
SETTLING = 2  # times that spreads and noise follow from effects, and effects from them
REACH, HALVINGS = 20.0, 50  # of a search along one coordinate
# Shared arrays: of the library's own process, one has all; of other surrogates features and data are apart.
VALUES, CENTRING, BLOCK, FEATURES, DATA = "values", "centring", "surrogate_data_and_features", "features", "data"
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
    xp = bridge.PyTensorFunctions
    centre, omega = layout.centre(values, xp), layout.spreads(values)
    natural: list[Any] = []
    x: list[Any] = []
    coords = pm.modelcontext(None).coords.get("subject")
    labelled = coords is not None and tuple(coords) == problem.subjects.labels
    dims = {"dims": "subject"} if labelled else {"shape": J}
    for i, (name, row) in enumerate(zip(population.individual, layout.root(values, xp), strict=True)):
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
        name: from_natural(one, scale, xp)
        for name, one, scale in zip(population.individual, units, population.scales, strict=True)
        if name not in without
    }


def add_likelihood(
    problem: "PopulationCalibration", own: Mapping[str, Any], values: Mapping[str, Any], name: str, latents: Any
) -> Any:
    """Add the soft boundary penalty of the design box and the observed variable to the model in context."""
    data, unit = problem.data, problem.data.cells.unit
    theta: dict[str, Any] = {key: one[unit] for key, one in own.items()}
    theta |= {key: values[key] for key in problem.population.shared}
    theta |= bridge.conditions(data.data_model, data.uncertain, values)
    walls, measured = [], np.flatnonzero(problem.subjects.measured[problem.layout.subject])
    for key, one in data.walls():
        u = one.forward(own[key][measured], bridge.PyTensorFunctions)
        walls.append(-0.5 * pt.sum((pt.maximum(-u, 0.0) + pt.maximum(u - 1.0, 0.0)) ** 2) / WALL**2)
    if walls:
        pm.Potential(f"{name}_wall", sum(walls))
    u = bridge.unit_inputs(data.surrogate.domain, theta, data.cells.experiments)
    if problem.lowrank is None:
        return bridge.likelihood(data.data_model, u, values, name, latents)
    lowrank = problem.lowrank
    shared = {name: pytensor.shared(values, name=name) for name, values in _arrays(problem).items()}

    def replicate(u: Array, phi: Array, rng: np.random.Generator) -> Array:
        lead = np.shape(u)[:-2]
        flat = np.reshape(u, (-1, *np.shape(u)[-2:]))
        known = np.broadcast_to(phi, (*lead, np.shape(phi)[-1])).reshape(len(flat), -1)
        return simulate_rows(data.data_model, lowrank.error, flat, known, rng).reshape(*lead, -1)

    def density(u: Any, phi: Any, z: Any) -> Any:
        if BLOCK in shared:
            return bridge.PROCESS_GAUSSIAN(shared[BLOCK], u, phi, z)[0]
        return bridge.PythonOp(bridge.LowRankGaussian(lowrank))(shared[FEATURES], shared[DATA], u, phi, z)[0]

    return bridge.likelihood(data.data_model, u, values, name, latents, density, replicate)


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
        return self._found.with_arrays(**{VALUES: values}, **_arrays(problem))


def _arrays(problem: "PopulationCalibration") -> dict[str, Array]:
    """Return the arrays that a likelihood through features shares with what was compiled; nothing where it is exact."""
    lowrank = problem.lowrank
    if lowrank is None:
        return {}
    if lowrank.error.covariances.compiled is not None:
        return {BLOCK: lowrank.block}
    return {FEATURES: lowrank.error.flat(), DATA: lowrank.likelihood.data}


def _centring(problem: "PopulationCalibration") -> Any:
    return pytensor.shared(np.full(_shape(problem), float(bool(problem.population.centred))), name=CENTRING)


def run(problem: "PopulationCalibration", sampler: "NUTS", seed: int) -> tuple["PopulationCalibration", xr.DataTree]:
    """Return the problem with features for where its subjects are, and nutpie's DataTree of its posterior.

    The tree has everything in `priors`, and the standard normals as "latents".
    """
    import_beside("nutpie")
    rng = np.random.default_rng([seed, 1])
    kappa = np.full(_shape(problem), float(bool(problem.population.centred)))
    target = problem.compiled.target(problem)
    settles = problem.data.data_model.form == "independent" and target.map is None
    begin = target.start + JITTER * rng.standard_normal((STARTS, target.size))
    points = _modes(target, begin, STEPS if problem.lowrank is None else ROUGHLY)
    if problem.lowrank is not None:
        problem = _with_features(problem, calmed(problem, *_at(problem, target, points, kappa)), rng)
        assert problem.lowrank is not None
        target = target.with_arrays(**_arrays(problem))
        points = points if settles else _modes(target, points)
    if settles:
        points = _settled(problem, target, points, kappa, rng)
    if problem.population.centred is None:
        theta, z = _at(problem, target, points, kappa)
        first = {name: values[:1] for name, values in theta.items()}, z[:1]
        kappa = centring(problem, *(first if settles else calmed(problem, *first)))
        target = target.with_arrays(**{CENTRING: kappa})
        points = _placed(problem, target, points, theta, z, kappa)
    if settles:
        starts = _likely(problem, target, points, kappa, rng, CHAINS)[1]
        shared = np.setdiff1d(np.arange(target.size), _of_subjects(problem, target))
        width = min(JITTER, 0.5 / np.sqrt(len(kappa)))  # what all share is known the better, the more subjects
        starts[:, shared] += width * rng.standard_normal((len(starts), len(shared)))
    else:
        starts = np.concatenate([point + JITTER * rng.standard_normal((CHAINS, target.size)) for point in points])
    begins = _coordinates(target)[0]
    drivers = np.array([begins[name] for name in _scales(problem)], dtype=np.int64)
    groups = Groups(_of_subjects(problem, target), drivers)
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
    begins, _ = _coordinates(target)
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


def _placed(problem: "PopulationCalibration", target: Any, points: Array, theta: Any, z: Array, kappa: Array) -> Array:
    """Return points (n, P) of the real line that have given spreads, noise and effects; the rest stays as it is."""
    population, layout = problem.population, problem.layout
    out = points.copy()
    begins, sizes = _coordinates(target)
    for i, name in enumerate(population.individual):  # the coordinates of effects are effects themselves
        x, columns = layout.standardised(z[:, : layout.size])[0], {key: one[:, None] for key, one in theta.items()}
        centre, spreads, root = layout.centre(columns), layout.spreads(columns), layout.root(columns)
        rest = sum(entry * x[..., k] for k, entry in enumerate(root[i][:i]) if entry is not None)
        mean, spread = centre[i] + spreads[i] * rest, spreads[i] * root[i][i]
        at = begins[f"effect_{name}"]
        out[:, at : at + sizes[f"effect_{name}"]] = kappa[:, i] * mean + np.asarray(spread) ** kappa[:, i] * x[..., i]
    names = _scales(problem)
    if not names:
        return out
    places, wanted = [begins[name] for name in names], np.column_stack([theta[name] for name in names])
    low, high = out[:, places] - REACH, out[:, places] + REACH
    for _ in range(HALVINGS):  # each is an increasing function of its own coordinate
        out[:, places] = 0.5 * (low + high)
        now, _ = _at(problem, target, out, kappa)
        below = np.column_stack([now[name] for name in names]) < wanted
        low, high = np.where(below, out[:, places], low), np.where(below, high, out[:, places])
    beyond = np.abs(out[:, places] - points[:, places]) > 0.99 * REACH  # no value of its prior
    out[:, places] = np.where(beyond, points[:, places], out[:, places])
    return out


def _settled(
    problem: "PopulationCalibration", target: Any, points: Array, kappa: Array, rng: np.random.Generator
) -> Array:
    """Return points (n, P) near modes of effects given spreads and noise that they and their variances tell."""
    begins, _ = _coordinates(target)
    held = np.array([begins[name] for name in _scales(problem)], dtype=np.int64)
    for _ in range(SETTLING):
        middles, _ = _likely(problem, target, points, kappa, rng, 1)
        points = _modes(target, middles, ROUGHLY, held)
    return points


def _likely(
    problem: "PopulationCalibration", target: Any, points: Array, kappa: Array, rng: np.random.Generator, count: int
) -> tuple[Array, Array]:
    """Return `likely` middles (n, P) and draws (n count, P) on the real line, for points of it (n, P)."""
    theta, z = _at(problem, target, points, kappa)
    found = [
        likely(problem, {name: values[[i]] for name, values in theta.items()}, z[[i]], rng, count)
        for i in range(len(points))
    ]
    said = {name: np.concatenate([one[0][name] for one in found]) for name in theta}
    several = {name: np.repeat(values, count) for name, values in said.items()}
    middles, draws = (np.concatenate([one[which] for one in found]) for which in (1, 2))
    before = np.repeat(points, count, axis=0)
    return (
        _finite(target, _placed(problem, target, points, said, middles, kappa), points),
        _finite(target, _placed(problem, target, before, several, draws, kappa), before),
    )


def _finite(target: Any, points: Array, others: Array) -> Array:
    """Return points (n, P) of the real line, and others in the place of those that have no density."""
    good = np.array([np.isfinite(target.evaluate(point)[0]) for point in points])
    return np.where(good[:, None], points, others)


def _scales(problem: "PopulationCalibration") -> list[str]:
    """Return the names of unknown spreads and noise sds."""
    names = [f"omega_{name}" for name in problem.population.individual]
    names += problem.data.noise.keys[: len(problem.data.noise.outputs)]
    return [name for name in names if name in problem.priors]


def _coordinates(target: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Return where the coordinates of each free variable begin, and how many there are."""
    shapes = dict(target.variables)
    sizes = {name: int(np.prod(shapes[name], dtype=int)) for name in target.free}
    return dict(zip(sizes, np.cumsum([0, *sizes.values()])[:-1].tolist(), strict=True)), sizes


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


def _modes(target: Any, points: Array, steps: int = STEPS, held: Ints | None = None) -> Array:
    """Return points (n, P) of the real line near modes, where searches from given points end; some may be held.

    Raises
    ------
    InitError
        When none has a finite density.
    """

    def down(w: Array) -> tuple[float, Array]:
        value, slope = target.evaluate(w)
        if not np.isfinite(value) or not np.isfinite(slope).all():
            return 1e12, np.zeros_like(w)
        if held is not None:
            slope[held] = 0.0
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
