"""A population in a PyMC model: its subjects as variables, the joint likelihood, and what the sampler starts from."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import xarray as xr
from scipy.optimize import minimize

from uqms._typing import Array
from uqms.calibration import bridge
from uqms.calibration.population.layout import WALL, from_natural

if TYPE_CHECKING:
    from uqms.calibration.population.problem import PopulationCalibration
    from uqms.calibration.samplers import NUTS

__all__ = ["add_likelihood", "individual_variables", "run"]

STARTS, STEPS = 8, 200
JITTER = 0.1


def individual_variables(
    problem: "PopulationCalibration", values: Mapping[str, Any], before: str = "", without: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Add the effects of subjects and occasions to the model in context; return parameters (U,) by name.

    `values` has everything about the population but parameters `without` which it is; names begin with `before`.
    """
    population, layout = problem.population, problem.layout
    J, U = len(layout.covariates), len(layout.subject)
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
        own, freedom = row[i], population.tails.get(name)
        mean = centre[i] + omega[i] * rest
        if population.centred:
            key, args = f"{before}natural_{name}", {"mu": mean + pt.zeros(J), "sigma": omega[i] * own}
        else:
            key, args = f"{before}effect_{name}", {"mu": 0.0, "sigma": 1.0}
        start = {"initval": np.zeros(J)} if not population.centred else {}
        drawn = (
            pm.StudentT(key, nu=freedom, **args, **dims, **start)
            if freedom
            else pm.Normal(key, **args, **dims, **start)
        )
        natural.append(drawn if population.centred else mean + omega[i] * own * drawn)
        x.append((drawn - mean) / (omega[i] * own) if population.centred else drawn)
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
    walls = []
    for key, low, high, scale in data.walls():
        u = (bridge.scaled(own[key], scale) - low) / (high - low)
        walls.append(-0.5 * pt.sum((pt.maximum(-u, 0.0) + pt.maximum(u - 1.0, 0.0)) ** 2) / WALL**2)
    if walls:
        pm.Potential(f"{name}_wall", sum(walls))
    u = bridge.unit_inputs(data.surrogate.domain, theta, data.cells.experiments)
    return bridge.likelihood(data, u, values, name, latents)


def run(problem: "PopulationCalibration", sampler: "NUTS", seed: int) -> Any:
    """Return nutpie's DataTree with everything in `priors`, and the standard normals as "latents"."""
    from uqms.calibration import graph

    target = graph.model_target(problem.model())
    starts = _starts(target, np.random.default_rng([seed, 1]))
    trace = sampler.sample_target(target, seed, starts, rough=True, cautious=True)
    draws = trace["posterior"].dataset
    z = _standard_normals(problem, draws)
    kept = draws[list(problem.priors)]
    shape = (draws.sizes["chain"], draws.sizes["draw"], -1)
    kept["latents"] = (("chain", "draw", "latent"), z.reshape(shape))
    return trace.assign({"posterior": xr.DataTree(kept)})


def _standard_normals(problem: "PopulationCalibration", draws: xr.Dataset) -> Array:
    population, layout = problem.population, problem.layout
    S = draws.sizes["chain"] * draws.sizes["draw"]
    flat = {name: draws[name].values.reshape(S, -1) for name in draws.data_vars}
    x = np.empty((S, len(layout.covariates), len(population.individual)))
    columns = {name: flat[name] for name in problem.priors}
    centre, omega, root = layout.centre(columns), layout.spreads(columns), layout.root(columns)
    for i, name in enumerate(population.individual):
        if not population.centred:
            x[..., i] = flat[f"effect_{name}"]
            continue
        rest = sum(entry * x[..., k] for k, entry in enumerate(root[i][:i]) if entry is not None)
        x[..., i] = (flat[f"natural_{name}"] - centre[i] - omega[i] * rest) / (omega[i] * root[i][i])
    y = (
        np.stack([flat[f"occasion_{n}"] for n in population.occasions], axis=-1)
        if population.occasions
        else np.zeros((S, 0))
    )
    parts = [layout.standard_normals(x, y.reshape(S, -1))]
    if problem.data.latents:
        parts.append(flat["latents"])
    return np.concatenate(parts, axis=1)


def _starts(target: Any, rng: np.random.Generator) -> Array:
    """Return points (n, P) of the real line near modes that a few searches from around the initial point find."""

    def down(w: Array) -> tuple[float, Array]:
        value, slope = target.evaluate(w)
        if not np.isfinite(value) or not np.isfinite(slope).all():
            return 1e12, np.zeros_like(w)
        return -value, -slope

    found = []
    for _ in range(STARTS):
        begin = target.start + JITTER * rng.standard_normal(target.size)
        best = minimize(down, begin, jac=True, method="L-BFGS-B", options={"maxiter": STEPS})
        if best.fun < 1e11:
            found.append((float(best.fun), best.x))
    if not found:
        from uqms.errors import InitError

        raise InitError(
            "The log-density of ['observations'] is not finite at any starting point. Check that observations and "
            "noise have the scale of the simulator's output."
        )
    least = min(value for value, _ in found)
    good = [x for value, x in found if value < least + 0.5 * target.size + 10.0]
    return np.array([x + JITTER * rng.standard_normal(target.size) for x in good for _ in range(4)])
