"""Cost of the same posterior sd with proposed runs and with an equal split: two fidelities, a chain, failing runs.

Problems are random smooth simulators of a kind, a new one for each seed. Proposals are carried out: run, refitted,
calibrated again. Both ways begin with the same runs and get the same cost in each round. Reported is the cost, of new
runs, at which the posterior sd (root mean square over the parameters, relative to the posterior of the simulator
itself) first is at most `TARGET`; between rounds the logarithm of the excess is interpolated.

With `--ways split` points are proposed too and only the split is equal, which tells what the allocation itself gains.

Seeds below 100 are for development; those from 100 on were held back until the method was fixed.
"""

import argparse
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from _report import Aim, aim

import uqms as uq

TARGET = 1.05
MOST_OF_COST = 0.7  # of an equal split
ROUNDS = 8
DRAWS = 500
WAYS = ("equal", "proposed")


def random_function(rng: np.random.Generator, d: int, wiggle: float, terms: int = 40) -> Callable[..., np.ndarray]:
    """Return a smooth function of d inputs in about [0, 1], of variance 1: random features of a Gaussian process."""
    omega = rng.standard_normal((terms, d)) * wiggle
    phase, weight = rng.uniform(0.0, 2.0 * np.pi, terms), rng.standard_normal(terms) * np.sqrt(2.0 / terms)

    def function(*x: np.ndarray) -> np.ndarray:
        columns = np.stack(np.broadcast_arrays(*x), axis=-1)
        return np.cos(columns @ omega.T + phase) @ weight

    return function


@dataclass
class Problem:
    """A simulator with levels, members or failures, its first runs, data, and the exact posterior's sd."""

    runs: dict[str, xr.Dataset]
    cost: dict[str, float]
    simulate: Callable[[str, xr.Dataset], xr.Dataset]
    calibration: Callable[[Mapping[str, xr.Dataset]], Any]
    exact: dict[str, tuple[float, float]]
    round_cost: float
    equal: Callable[[Any, float, int], dict[str, xr.Dataset]]
    more: dict[str, Any] = field(default_factory=dict)


def exact_moments(
    log_density: Callable[..., np.ndarray], names: list[str], centre: list[float], sd: list[float]
) -> dict:
    """Return mean and sd of each parameter by quadrature on a grid that follows the tempered density to its mass."""
    low, high = (np.array(centre) + sign * 4.5 * np.array(sd) for sign in (-1.0, 1.0))
    for temperature in (64.0, 16.0, 4.0, 1.0, 1.0, 1.0):
        axes = [np.linspace(a, b, 81 if len(names) < 3 else 45) for a, b in zip(low, high, strict=True)]
        mesh = np.meshgrid(*axes, indexing="ij")
        value = log_density(*mesh) / temperature
        weight = np.exp(value - value.max())
        weight /= weight.sum()
        mean = np.array([np.sum(weight * one) for one in mesh])
        spread = np.array([np.sqrt(np.sum(weight * (one - m) ** 2)) for one, m in zip(mesh, mean, strict=True)])
        edges = [np.cumsum(weight.sum(axis=tuple(j for j in range(len(names)) if j != i))) for i in range(len(names))]
        first = np.array([axes[i][np.searchsorted(edges[i], 1e-5)] for i in range(len(names))])
        last = np.array(
            [axes[i][min(np.searchsorted(edges[i], 1.0 - 1e-5), len(axes[i]) - 1)] for i in range(len(names))]
        )
        low, high = np.maximum(low, first - 0.5 * spread), np.minimum(high, last + 0.5 * spread)
    return {name: (float(m), float(s)) for name, m, s in zip(names, mean, spread, strict=True)}


def table(values: Mapping[str, np.ndarray], conditions: Mapping[str, np.ndarray]) -> uq.Observations:
    frame = pd.DataFrame({**conditions, **values})
    return uq.Observations.concat(
        [uq.Observations.from_table(frame, output=name, value=name, conditions=list(conditions)) for name in values]
    )


TIMES = np.array([0.15, 0.5, 0.85])
SD = 0.05


def two_fidelities(seed: int) -> Problem:
    """Return two outputs of two parameters and a condition; the coarse level costs an eighth, and differs smoothly."""
    rng = np.random.default_rng([seed, 1])
    base = {name: random_function(rng, 3, 3.0) for name in ("y", "w")}
    gap = {name: random_function(rng, 3, 1.5) for name in ("y", "w")}
    rho, size = rng.uniform(0.8, 1.2), rng.uniform(0.15, 0.4)
    space = uq.ParameterSpace(a=uq.Normal(0.5, 0.15), b=uq.Normal(0.5, 0.15), conditions={"t": uq.Condition(0.0, 1.0)})
    cost = {"coarse": 1.0, "fine": 8.0}

    def outputs(level: str, a: Any, b: Any, t: Any) -> dict[str, np.ndarray]:
        out = {}
        for name in base:
            coarse = base[name](a, b, t)
            out[name] = coarse if level == "coarse" else rho * coarse + size * gap[name](a, b, t)
        return out

    def simulate(level: str, design: xr.Dataset) -> xr.Dataset:
        values = outputs(level, *(design[name].values for name in ("a", "b", "t")))
        return uq.ensemble.build(design, values, space=space, fidelity=level)

    designs = uq.nested(space, {"coarse": 20, "fine": 6}, rng=int(rng.integers(2**31)))
    runs = {level: simulate(level, design) for level, design in designs.items()}
    truth = rng.normal(0.5, 0.1, 2)
    data = {name: value + SD * rng.standard_normal(3) for name, value in outputs("fine", *truth, TIMES).items()}

    def calibration(runs: Mapping[str, xr.Dataset]) -> Any:
        settings = uq.MultiFidelity(levels=("coarse", "fine"), cost=cost)
        surrogate = settings.fit(uq.ensemble.combine(runs["coarse"], runs["fine"]))
        return uq.Calibration(surrogate, table(data, {"t": TIMES}), dict.fromkeys(data, uq.GaussianNoise(sd=SD)))

    def log_density(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        found = outputs("fine", a[..., None], b[..., None], TIMES)
        squares = sum(np.sum((found[name] - data[name]) ** 2, axis=-1) for name in data) / SD**2
        return -0.5 * (squares + ((a - 0.5) ** 2 + (b - 0.5) ** 2) / 0.15**2)

    def equal(posterior: Any, budget: float, seed: int) -> dict[str, xr.Dataset]:
        fine = max(1, round(0.5 * budget / cost["fine"]))
        coarse = max(fine, round((budget - fine * cost["fine"]) / cost["coarse"]))
        points = uq.refine(posterior, max(coarse, 3), rng=seed)
        points.attrs = dict(designs["coarse"].attrs)
        order = np.random.default_rng(seed).permutation(points.sizes["run"])
        return {"coarse": points, "fine": points.isel(run=np.sort(order[:fine]))}

    exact = exact_moments(log_density, ["a", "b"], [0.5, 0.5], [0.15, 0.15])
    return Problem(runs, cost, simulate, calibration, exact, 16.0, equal)


def chain(seed: int) -> Problem:
    """Return a cell of two parameters that passes two numbers to a cable, which costs five times as much."""
    rng = np.random.default_rng([seed, 2])
    cell = uq.ParameterSpace(g=uq.Normal(0.5, 0.15), k=uq.Normal(0.5, 0.15))
    cable = uq.ParameterSpace(peak=uq.Uniform(-4.5, 4.5), width=uq.Uniform(-4.5, 4.5), r=uq.Normal(0.5, 0.15))
    functions = {name: random_function(rng, 2, 4.0) for name in ("peak", "width")}
    speeds = {name: random_function(rng, 3, 1.0) for name in ("speed", "delay")}
    links = {"cable.peak": "cell.peak", "cable.width": "cell.width"}
    cost = {"cell": 1.0, "cable": 5.0}
    spaces = {"cell": cell, "cable": cable}

    def outputs(member: str, *x: Any) -> dict[str, np.ndarray]:
        if member == "cell":
            return {name: 5.0 * (x[i] - 0.5) + 0.6 * one(*x) for i, (name, one) in enumerate(functions.items())}
        peak, width, r = x
        rest = {name: 0.5 * function(0.6 * peak, 0.6 * width, r) for name, function in speeds.items()}
        return {"speed": 0.8 * peak + 4.0 * (r - 0.5) + rest["speed"], "delay": 0.8 * width + rest["delay"]}

    def simulate(member: str, design: xr.Dataset) -> xr.Dataset:
        names = ("g", "k") if member == "cell" else ("peak", "width", "r")
        values = outputs(member, *(design[name].values for name in names))
        return uq.ensemble.build(design, values, space=spaces[member])

    counts = {"cell": 7, "cable": 12}
    designs = {name: uq.sobol(spaces[name], n, rng=int(rng.integers(2**31))) for name, n in counts.items()}
    runs = {name: simulate(name, design) for name, design in designs.items()}
    truth = rng.normal(0.5, 0.1, 3)
    noise = {"cell.peak": 0.15, "cable.speed": 0.03, "cable.delay": 0.03}

    def whole(g: Any, k: Any, r: Any) -> dict[str, np.ndarray]:
        at = outputs("cell", g, k)
        both = outputs("cable", at["peak"], at["width"], r)
        return {"cell.peak": at["peak"], "cable.speed": both["speed"], "cable.delay": both["delay"]}

    data = {name: float(value) + noise[name] * rng.standard_normal() for name, value in whole(*truth).items()}

    def calibration(runs: Mapping[str, xr.Dataset]) -> Any:
        members = {name: uq.GaussianProcess().fit(one) for name, one in runs.items()}
        observations = table({name: np.array([value]) for name, value in data.items()}, {})
        sds = {name: uq.GaussianNoise(sd=sd) for name, sd in noise.items()}
        return uq.Calibration(
            uq.Chain(links=links, **members), observations, sds, expansion="first-order", outside="extrapolate"
        )

    def log_density(g: np.ndarray, k: np.ndarray, r: np.ndarray) -> np.ndarray:
        found = whole(g, k, r)
        squares = sum(((found[name] - data[name]) / noise[name]) ** 2 for name in data)
        return -0.5 * (squares + ((g - 0.5) ** 2 + (k - 0.5) ** 2 + (r - 0.5) ** 2) / 0.15**2)

    def equal(posterior: Any, budget: float, seed: int) -> dict[str, xr.Dataset]:
        out = {}
        for name, price in cost.items():
            count = max(1, round(0.5 * budget / price))
            points = uq.refine(posterior, max(count, 4), member=name, rng=seed).isel(run=slice(count))
            points.attrs = dict(designs[name].attrs)
            out[name] = points
        return out

    exact = exact_moments(log_density, ["g", "k", "r"], [0.5] * 3, [0.15] * 3)
    return Problem(runs, cost, simulate, calibration, exact, 10.0, equal)


def failing(seed: int) -> Problem:
    """Return a simulator of two parameters and a condition that fails in a part of the box, near the posterior."""
    rng = np.random.default_rng([seed, 3])
    base = {name: random_function(rng, 3, 3.0) for name in ("y", "w")}
    space = uq.ParameterSpace(a=uq.Normal(0.5, 0.15), b=uq.Normal(0.5, 0.15), conditions={"t": uq.Condition(0.0, 1.0)})
    truth = rng.normal(0.5, 0.1, 2)
    angle, bend = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(-0.15, 0.15)
    offset = rng.uniform(0.03, 0.12)

    def works(a: Any, b: Any, t: Any) -> np.ndarray:
        x, y = np.asarray(a) - truth[0], np.asarray(b) - truth[1]
        return np.cos(angle) * x + np.sin(angle) * y + bend * (np.asarray(t) - 0.5) < offset

    def outputs(a: Any, b: Any, t: Any) -> dict[str, np.ndarray]:
        return {name: function(a, b, t) for name, function in base.items()}

    def simulate(_: str, design: xr.Dataset) -> xr.Dataset:
        x = [design[name].values for name in ("a", "b", "t")]
        good = works(*x)
        values = {name: np.where(good, value, np.nan) for name, value in outputs(*x).items()}
        return uq.ensemble.build(design, values, space=space, states=np.where(good, "completed", "failed"))

    design = uq.sobol(space, 128, rng=int(rng.integers(2**31)))
    completed = np.cumsum(works(*(design[name].values for name in ("a", "b", "t"))))
    design = design.isel(run=slice(int(np.searchsorted(completed, 14)) + 1))  # 14 of them give outputs
    runs = {"": simulate("", design)}
    data = {name: value + SD * rng.standard_normal(3) for name, value in outputs(*truth, TIMES).items()}

    def calibration(runs: Mapping[str, xr.Dataset]) -> Any:
        surrogate = uq.GaussianProcess().fit(runs[""])
        success = uq.SuccessProbability(hyperparameters="point").fit(runs[""])
        noise = dict.fromkeys(data, uq.GaussianNoise(sd=SD))
        return uq.Calibration(surrogate, table(data, {"t": TIMES}), noise, success=success)

    def log_density(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        found = outputs(a[..., None], b[..., None], TIMES)
        squares = sum(np.sum((found[name] - data[name]) ** 2, axis=-1) for name in data) / SD**2
        return -0.5 * (squares + ((a - 0.5) ** 2 + (b - 0.5) ** 2) / 0.15**2)

    def equal(posterior: Any, budget: float, seed: int) -> dict[str, xr.Dataset]:
        points = uq.refine(posterior, round(budget), rng=seed)
        points.attrs = dict(design.attrs)
        return {"": points}

    exact = exact_moments(log_density, ["a", "b"], [0.5, 0.5], [0.15, 0.15])
    return Problem(runs, {"": 1.0}, simulate, calibration, exact, 3.0, equal)


KINDS = {"fidelities": two_fidelities, "chain": chain, "failing": failing}


def proposed(posterior: Any, problem: Problem, seed: int) -> tuple[dict[str, xr.Dataset], Any]:
    """Return designs of one round, with the predicted sds after it."""
    cost = problem.cost if len(problem.cost) > 1 else None
    plan = uq.next_runs(posterior, 200, cost=cost, budget=problem.round_cost, stop=0.0, rng=seed)
    return dict(plan.designs), plan


def split(posterior: Any, problem: Problem, seed: int) -> dict[str, xr.Dataset]:
    """Return designs of one round with proposed points, but an equal split of the cost, and no look at failures."""
    designs: dict[str, xr.Dataset] = {}
    for name in problem.cost:
        cost = {other: price if other == name else 1e9 for other, price in problem.cost.items()}
        settings = {"cost": cost} if len(cost) > 1 else {}
        budget = problem.round_cost / len(problem.cost)
        plan = uq.next_runs(posterior, 200, budget=budget, stop=0.0, rng=seed, success={}, **settings)
        designs |= plan.designs
    return designs


def followed(problem: Problem, way: str, seed: int) -> list[dict[str, Any]]:
    """Return, by round, what was spent, the sds and means, and what was predicted of them."""
    runs, spent, rows = dict(problem.runs), 0.0, []
    predicted: dict[str, float] | None = None
    for i in range(ROUNDS + 1):
        start = time.perf_counter()
        posterior = problem.calibration(runs).sample(uq.Laplace(draws=DRAWS, starts=4), rng=seed + i)
        sd = {name: float(posterior.draws[name].std()) for name in problem.exact}
        off = {name: float(posterior.draws[name].mean() - mean) for name, (mean, _) in problem.exact.items()}
        relative = float(np.sqrt(np.mean([(sd[name] / one) ** 2 for name, (_, one) in problem.exact.items()])))
        error = float(np.sqrt(np.mean([(off[name] / one) ** 2 for name, (_, one) in problem.exact.items()])))
        rows.append({"spent": spent, "relative": relative, "error": error, "sd": sd, "predicted": predicted})
        if i == ROUNDS or (relative <= TARGET and i):
            break
        fitted = time.perf_counter() - start
        if way == "equal":
            designs, predicted = problem.equal(posterior, problem.round_cost, 1000 * seed + i), None
        elif way == "split":
            designs, predicted = split(posterior, problem, 1000 * seed + i), None
        else:
            designs, plan = proposed(posterior, problem, 1000 * seed + i)
            if not plan:
                break
            predicted = {name: float(plan.table[f"sd_{name}"].iloc[-1]) for name in problem.exact}
        rows[-1] |= {"runs": {name: one.sizes["run"] for name, one in designs.items()}, "seconds": fitted}
        for name, design in designs.items():
            runs[name] = uq.ensemble.combine(runs[name], problem.simulate(name, design))
            spent += problem.cost[name] * design.sizes["run"]
    return rows


def cost_of_target(rows: list[dict[str, Any]]) -> float:
    """Return the cost at which the relative sd first is at most the target; infinite if it never is."""
    for before, after in zip([None, *rows[:-1]], rows, strict=True):
        if after["relative"] > TARGET:
            continue
        if before is None:
            return 0.0
        x = [np.log(max(one["relative"] - 1.0, 1e-3)) for one in (before, after)]
        part = (x[0] - np.log(TARGET - 1.0)) / (x[0] - x[1])
        return float(before["spent"] + np.clip(part, 0.0, 1.0) * (after["spent"] - before["spent"]))
    return np.inf


def compared(kind: str, seed: int, ways: tuple[str, ...] = WAYS) -> dict[str, Any]:
    """Return the costs of the ways for one problem."""
    problem = KINDS[kind](seed)
    out: dict[str, Any] = {"kind": kind, "seed": seed}
    for way in ways:
        start = time.perf_counter()
        rows = followed(problem, way, seed)
        out[way] = {"cost": cost_of_target(rows), "rows": rows, "seconds": time.perf_counter() - start}
    return out


def ratios(some: list[dict[str, Any]]) -> np.ndarray:
    """Return the cost of proposed runs over that of an equal split, where the first runs were not enough.

    Where an equal split never came there, all that it spent counts; where neither came there the ratio is 1.
    """
    out = []
    for one in some:
        equal, proposed = one["equal"]["cost"], one["proposed"]["cost"]
        if equal <= 0.0:
            continue
        if np.isinf(proposed):
            out.append(np.inf if np.isfinite(equal) else 1.0)
        else:
            out.append(proposed / (equal if np.isfinite(equal) else max(row["spent"] for row in one["equal"]["rows"])))
    return np.array(out)


def runs(half: str, quick: bool) -> list[Aim]:
    """Return the median costs of proposed runs over those of an equal split."""
    logging.disable(logging.WARNING)
    first, count, out = (0 if half == "seen" else 100), 2 if quick else 20, []
    for kind in KINDS:
        some = [compared(kind, seed) for seed in range(first, first + count)]
        print(report(some), flush=True)
        found = ratios(some)
        name = f"{kind}: cost of proposed runs over an equal split, median"
        out.append(aim(name, float(np.median(found)), None, MOST_OF_COST, n=len(found)))
    return out


def report(found: list[dict[str, Any]]) -> str:
    """Return the table of medians by kind."""
    lines = []
    for kind in dict.fromkeys(one["kind"] for one in found):
        some = [one for one in found if one["kind"] == kind]
        costs = np.array([[one[way]["cost"] for way in ("equal", "proposed")] for one in some])
        needed = costs[:, 0] > 0.0  # the first runs were not enough
        ratio = ratios(some)
        ends = {way: np.median([one[way]["rows"][-1]["error"] for one in some]) for way in ("equal", "proposed")}
        steps = [
            (row["predicted"][name] / before["sd"][name], row["sd"][name] / before["sd"][name])
            for one in some
            for before, row in zip(one["proposed"]["rows"], one["proposed"]["rows"][1:], strict=False)
            for name in row["sd"]
            if row["predicted"]
        ]
        said, seen = np.log(np.array(steps)).T
        rank = pd.Series(said).corr(pd.Series(seen), method="spearman")
        lines.append(
            f"{kind}: {int(needed.sum())} problems; cost of proposed runs / equal split: median {np.median(ratio):.2f} "
            f"(quartiles {np.quantile(ratio, 0.25):.2f}-{np.quantile(ratio, 0.75):.2f}), at most 0.70 in "
            f"{int((ratio <= 0.7).sum())}; not reached by {int(np.isinf(costs[needed, 1]).sum())} proposed, "
            f"{int(np.isinf(costs[needed, 0]).sum())} equal; last error of means {ends['proposed']:.2f} against "
            f"{ends['equal']:.2f} exact sds; sd ratio of a round: predicted {np.exp(np.median(said)):.2f}, realised "
            f"{np.exp(np.median(seen)):.2f} (medians), rank correlation {rank:.2f}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Run problems of the kinds, print one line each and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), help='"split": proposed points, equal split')
    parser.add_argument("--out", help="file for one line of JSON a problem")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    found = []
    for kind in given.kinds:
        for seed in range(given.first, given.first + given.seeds):
            one = compared(kind, seed, tuple(given.ways))
            found.append(one)
            print(
                kind,
                seed,
                *(f"{way} {one[way]['cost']:.1f} in {one[way]['seconds']:.0f} s" for way in given.ways),
                *([round(row["relative"], 2) for row in one[way]["rows"]] for way in given.ways),
                flush=True,
            )
            if given.out:
                with open(given.out, "a") as file:
                    file.write(json.dumps(one) + "\n")
    if set(WAYS) <= set(given.ways):
        print(report(found))


if __name__ == "__main__":
    main(sys.argv[1:])
