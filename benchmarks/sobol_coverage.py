"""Sobol indices through surrogates of few runs: intervals cover the indices of the true function, at what width.

    python benchmarks/sobol_coverage.py [--quick] [--only NAME] [--repeats N]

Repeat k has a new design from seed k. The surrogate is `GaussianProcess(hyperparameters="averaged")`: point estimates
drop weak inputs (an index of 0.024 was told as zero, 60 sd off). True indices come from 2^17 points a column, without a
surrogate. How often the kernel of some draws had main effects is printed.

- Ishigami, borehole, piston, circuit and flood with 60 and 200 runs, Sobol' G and Morris with 200, 100 repeats: every
  index of at least 0.02 (first-order and total) lies in its 95 % interval in at least 88 of 100 repeats; mean width of
  the intervals over the central 95 % range of the estimates over designs at most 1.5, for the worst index; every index
  below 0.02 has an upper end below 0.05 in 95 of 100 repeats. A repeat whose result says "too few runs" makes no claim:
  their share is printed, and where nine of ten say it the aims are not judged.
- Morris with 60 runs says "too few runs" in every repeat.
- "process": functions that are drawn from a process, 12 runs of two inputs, kernel known, truth by a Gauss rule:
  coverage 0.91 to 0.985, and the root mean square error over what the intervals say 0.85 to 1.15: re-drawn functions
  and designs scatter as the surrogate's part says.
- "shapley": Shapley effects of a linear function of correlated normal inputs, whose exact effects follow from the
  covariance (Owen & Prieur 2017), one input being without use of its own, for correlations of 0.5 and 0.9: of the
  simulator itself and of surrogates of 40 runs, new designs and draws in every repeat. Mean of every effect right
  within 3.5 standard errors and 0.01 (neighbours are not quite at the same place); errors over what intervals say 0.6
  to 1.2 with 3 standard errors (a jackknife's excess makes them wide); coverage at least as likely as 88 of 100.
- "waves": sums of cosines and of products of two, 2 to 5 inputs and 8 to 30 runs each, with `GaussianProcess()`; their
  indices are known exactly. Mean coverage where a result does not say "too few runs" at least 0.93, less two standard
  errors between functions; that of the others is printed by the share of the variance that is left unexplained.
- SALib on the true function, with as many evaluations as it takes for an error like ours, is printed beside; OpenTURNS
  where it is installed.

`--quick` makes 4 repeats of circuit and Ishigami with 60 runs and of Morris with 60, 40 of the process, 8 of Shapley
effects and 20 of waves, with windows for as many.
"""

import argparse
import itertools
import math
import sys
import time
import warnings
from typing import Any, NamedTuple

import numpy as np
from _report import Aim, aim, binomial, finish
from _sensitivity import PROBLEMS, Array, Problem, Truth, runs_of, truth_of
from scipy.special import roots_legendre
from scipy.stats import binom

import uqms as uq
from uqms.errors import UqmsWarning

REPEATS = 100
CASES = [(name, n) for name in ("ishigami", "borehole", "piston", "circuit", "flood") for n in (60, 200)]
CASES += [("sobol_g", 200), ("morris", 200), ("morris", 60)]
QUICK = [("circuit", 60), ("ishigami", 60), ("morris", 60)]
SMALL, UPPER = 0.02, 0.05


class Found(NamedTuple):
    """Estimates and intervals (2, d) of one repeat, first-order and total, and whether it said "too few runs"."""

    estimate: Array
    lower: Array
    upper: Array
    few: bool
    main_effects: bool
    seconds: float


def repeat(problem: Problem, n: int, seed: int) -> Found:
    """Return what one new design gives."""
    runs = runs_of(problem, n, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UqmsWarning)
        surrogate = uq.GaussianProcess(hyperparameters="averaged").fit(runs)
        start = time.perf_counter()
        result = uq.sobol_indices(surrogate, rng=seed)
    seconds = time.perf_counter() - start
    between = result.interval()["y"]
    parts = [
        np.stack([between[kind].sel(bound=bound).values for kind in ("S1", "ST")])
        for bound in ("estimate", "lower", "upper")
    ]
    return Found(*parts, bool(result.too_few_runs), "main effects" in repr(surrogate), seconds)


def judged(problem: Problem, n: int, found: list[Found], truth: Truth) -> list[Aim]:
    """Return the aims of one function and number of runs."""
    name = f"{problem.name}, {n} runs"
    few = float(np.mean([one.few for one in found]))
    if (problem.name, n) == ("morris", 60):
        return [aim(f"{name}: says too few runs", few, low=1.0, mcse=binomial(few, len(found)), n=len(found))]
    kept = [one for one in found if not one.few]
    said = f"main effects in {sum(one.main_effects for one in found)} of {len(found)}"
    out = [aim(f"{name}: says too few runs", few, n=len(found), reason=said)]
    out.append(aim(f"{name}: seconds of the analysis", float(np.mean([one.seconds for one in found]))))
    k = len(kept)
    if k < 0.1 * len(found) or k < 2:
        return [*out, aim(f"{name}: coverage", None, reason=f"{len(found) - k} of {len(found)} say too few runs")]
    true = np.stack(truth)
    large = true >= SMALL
    estimate, lower, upper = (np.stack([getattr(one, key) for one in kept]) for key in ("estimate", "lower", "upper"))
    covered = ((lower <= true) & (true <= upper)).mean(axis=0)[large]
    worst = float(covered.min())
    out.append(aim(f"{name}: coverage of the worst index", worst, window(k, 0.95, 88), None, binomial(worst, k), k))
    out.append(aim(f"{name}: mean coverage", float(covered.mean()), mcse=binomial(float(covered.mean()), k), n=k))
    ratio = (upper - lower).mean(axis=0)[large] / (3.92 * estimate.std(axis=0, ddof=1)[large])
    room = 1.0 if k >= REPEATS else float(1.0 + 3.0 / np.sqrt(2.0 * (k - 1)))
    spread = float(ratio.max() / np.sqrt(2.0 * (k - 1)))
    out.append(aim(f"{name}: width over scatter, worst index", float(ratio.max()), None, 1.5 * room, spread, k))
    off = float(np.abs(estimate.mean(axis=0) - true).max())
    out.append(aim(f"{name}: largest bias of the estimate", off, n=k))
    if not large.all():
        below = float((upper < UPPER).mean(axis=0)[~large].min())
        least = window(k, 0.99, 95)
        out.append(aim(f"{name}: small indices end below 0.05", below, least, None, binomial(below, k), k))
    return out


def window(k: int, share: float, of_hundred: int) -> float:
    """Return the least share of k repeats that is as likely as `of_hundred` of 100 when each succeeds with `share`."""
    return float(max(0.0, binom.ppf(binom.cdf(of_hundred - 1, 100, share), k, share)) / k)


def beside(problem: Problem, truth: Truth) -> list[Aim]:
    """Return the errors of SALib and OpenTURNS on the true function."""
    out: list[Aim] = []
    name = f"{problem.name}: largest error of"
    try:
        from SALib.analyze import sobol as analyse
        from SALib.sample import sobol as sample
    except ImportError:
        return [aim(f"{name} SALib on the true function", None, reason="SALib is not installed")]
    names = list(problem.space.names)
    cube = {"num_vars": len(names), "names": names, "bounds": [[0.0, 1.0]] * len(names)}
    n = 4096
    points = sample.sample(cube, n, calc_second_order=False, seed=1)
    y = problem.function(np.asarray(problem.space.from_cube(points, problem.space.box())))
    found: Any = analyse.analyze(cube, (y - y.mean()) / y.std(), calc_second_order=False, num_resamples=10, seed=1)
    off = max(float(np.abs(found[key] - true).max()) for key, true in zip(("S1", "ST"), truth, strict=True))
    out.append(aim(f"{name} SALib on the true function", off, n=len(points)))
    try:
        import openturns  # noqa: F401
    except ImportError:
        out.append(aim(f"{name} OpenTURNS on the true function", None, reason="OpenTURNS is not installed"))
    else:
        out.append(openturns_error(problem, truth, n))
    return out


def openturns_error(problem: Problem, truth: Truth, n: int) -> Aim:
    """Return the largest error of OpenTURNS' Saltelli estimator."""
    import openturns as ot

    box = problem.space.box()
    d = len(problem.space.names)
    function = ot.PythonFunction(
        d, 1, func_sample=lambda v: problem.function(np.asarray(problem.space.from_cube(np.asarray(v), box)))[:, None]
    )
    ot.RandomGenerator.SetSeed(1)
    algorithm = ot.SaltelliSensitivityAlgorithm(ot.JointDistribution([ot.Uniform(0.0, 1.0)] * d), n, function, False)
    found = np.array([algorithm.getFirstOrderIndices(), algorithm.getTotalOrderIndices()])
    off = float(np.abs(found - np.stack(truth)).max())
    return aim(f"{problem.name}: largest error of OpenTURNS on the true function", off, n=n * (d + 2))


# --- dependent inputs -------------------------------------------------------------------------------------------------


def exact_effects(beta: Array, covariance: Array) -> Array:
    """Return the Shapley effects of beta' x with normal x: mean over all orders of the variance that goes."""
    d = len(beta)

    def left(known: tuple[int, ...]) -> float:
        rest = [j for j in range(d) if j not in known]
        cross, own = covariance[np.ix_(rest, known)], covariance[np.ix_(known, known)]
        given = covariance[np.ix_(rest, rest)] - cross @ np.linalg.solve(own, cross.T)
        return float(beta[rest] @ given @ beta[rest])

    effects = np.zeros(d)
    for order in itertools.permutations(range(d)):
        drops = -np.diff([left(tuple(order[:size])) for size in range(d + 1)])
        effects[list(order)] += drops / math.factorial(d)
    return np.asarray(effects / left(()))


def shapley(repeats: int) -> list[Aim]:
    """Return the aims of Shapley effects against the exact linear and normal solution."""
    beta, names = np.array([1.0, 2.0, -1.0, 0.0]), ("a", "b", "c", "d")
    out: list[Aim] = []
    for rho in (0.5, 0.9):
        sds = np.array([1.0, 1.0, 1.5, 1.0])
        covariance = np.outer(sds, sds) * np.eye(4)
        for i, j in ((0, 1), (2, 3)):
            covariance[i, j] = covariance[j, i] = rho * sds[i] * sds[j]
        truth = exact_effects(beta, covariance)
        space = uq.ParameterSpace(uq.MultivariateNormal(names, mean=np.zeros(4), covariance=covariance))
        simulator = uq.DirectSimulator(
            lambda a, b, c, d: a + 2.0 * b - c + 0.0 * d, space=space, outputs={"y": ()}, vectorized=True
        )
        for kind in ("simulator", "40 runs"):
            estimates, sds_said, inside = [], [], []
            for seed in range(1, repeats + 1):
                if kind == "simulator":
                    result = uq.shapley_effects(simulator, draws=2, rng=seed)
                else:
                    design = uq.sobol(space, 40, rng=seed)
                    y = np.column_stack([design[name].values for name in names]) @ beta
                    result = uq.shapley_effects(uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": y})), rng=seed)
                one = result["y"]["Sh"]
                between = result.interval()["y"]["Sh"].transpose("bound", "parameter").values
                estimates.append(between[0])
                sds_said.append(one.std(("draw", "bootstrap")).values)
                inside.append((between[1] <= truth) & (truth <= between[2]))
            out += _against(f"shapley, correlation {rho:g}, {kind}", truth, estimates, sds_said, inside)
    return out


def _against(name: str, truth: Array, estimates: list[Array], said: list[Array], inside: list[Array]) -> list[Aim]:
    k, found = len(estimates), np.array(estimates)
    error = found.std(axis=0, ddof=1) / np.sqrt(k)
    off = found.mean(axis=0) - truth
    worst = int(np.argmax(np.abs(off) - 3.5 * error))
    room = 0.01 + 3.5 * float(error[worst])
    square = np.mean(((found - truth) / np.array(said)) ** 2, axis=1)
    ratio = float(np.sqrt(square.mean()))
    spread = float(square.std(ddof=1) / np.sqrt(k) / (2.0 * ratio))
    covered = np.array(inside).mean(axis=0)
    least = float(covered.min())
    return [
        aim(f"{name}: bias of the worst effect", float(off[worst]), -room, room, float(error[worst]), k),
        aim(f"{name}: error over what is said", ratio, 0.6 - 3.0 * spread, 1.2 + 3.0 * spread, spread, k),
        aim(f"{name}: coverage of the worst effect", least, window(k, 0.95, 88), None, binomial(least, k), k),
    ]


# --- functions of a process -------------------------------------------------------------------------------------------


def process(repeats: int) -> list[Aim]:
    """Return the aims of functions that are drawn from the process that the surrogate believes in."""
    order, n = 24, 12
    nodes, weights = roots_legendre(order)
    nodes, weights = 0.5 * (nodes + 1.0), 0.5 * weights
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2)
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
    inside, z = [], []
    for seed in range(1, repeats + 1):
        rng = np.random.default_rng(seed)
        design = uq.sobol(space, n, rng=rng)
        x = np.column_stack([design["a"].values, design["b"].values])
        every = np.vstack([x, grid])
        f = np.linalg.cholesky(matern(every, 0.5) + 1e-9 * np.eye(len(every))) @ rng.standard_normal(len(every))
        surrogate = known_process(space, x, f[:n], 0.5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UqmsWarning)
            result = uq.sobol_indices(surrogate, rng=seed)
        values = f[n:].reshape(order, order)
        mean = weights @ values @ weights
        variance = weights @ values**2 @ weights - mean**2
        lone = np.array([weights @ (values @ weights) ** 2, weights @ (weights @ values) ** 2]) - mean**2
        true = np.stack([lone / variance, 1.0 - lone[::-1] / variance])
        between = result.interval()["y"]
        low, high, middle = (
            np.stack([between[kind].sel(bound=bound).values for kind in ("S1", "ST")])
            for bound in ("lower", "upper", "estimate")
        )
        sd = np.stack([result["y"][kind].std(("draw", "bootstrap")).values for kind in ("S1", "ST")])
        inside.append(((low <= true) & (true <= high)).mean())
        z.append(np.mean(((middle - true) / sd) ** 2))
    covered, square = np.array(inside), np.array(z)
    error = float(covered.std(ddof=1) / np.sqrt(repeats))
    room = 0.0 if repeats >= REPEATS else 3.0 * error
    ratio = float(np.sqrt(square.mean()))
    spread = float(square.std(ddof=1) / np.sqrt(repeats) / (2.0 * ratio))
    wide = 0.0 if repeats >= REPEATS else 3.0 * spread
    return [
        aim("process: coverage", float(covered.mean()), 0.91 - room, min(1.0, 0.985 + room), error, repeats),
        aim("process: error over what intervals say", ratio, 0.85 - wide, 1.15 + wide, spread, repeats),
    ]


def matern(x: Array, ell: float) -> Array:
    """Return the Matérn-5/2 correlation of the rows of x."""
    r = np.sqrt(5.0 * np.sum((x[:, None] - x[None]) ** 2, axis=-1)) / ell
    return np.asarray((1.0 + r + r**2 / 3.0) * np.exp(-r))


def known_process(space: uq.ParameterSpace, x: Array, y: Array, ell: float) -> Any:
    """Return the surrogate of runs whose process is known: mean zero, variance one."""
    from uqms.surrogates import GaussianProcessSurrogate, Layout
    from uqms.surrogates.outputs import OutputBasis
    from uqms.surrogates.process import condition
    from uqms.surrogates.training import Hyperparameters

    one = Hyperparameters(np.full(x.shape[1], ell), 0.0, 1e-12, 0.0, 1, False)
    found = condition(uq.Matern52(), x, y[:, None], 0, [one], [1.0])
    basis = OutputBasis("y", Layout(), np.zeros(1), np.ones((1, 1)), np.zeros((1, 0)))
    return GaussianProcessSurrogate(space.box(), found, (basis,), {"space": space.to_json()})


def wave(seed: int) -> tuple[float, bool, Array]:
    """Return the unexplained share of a generated function, whether runs are too few, and which indices are covered."""
    rng = np.random.default_rng(seed)
    d = int(rng.integers(2, 6))
    n = int(d * rng.choice([8, 15, 30]))
    terms = [({i: int(rng.integers(1, 4))}, rng.normal()) for i in range(d) for _ in range(int(rng.integers(1, 3)))]
    size = rng.choice([0.0, 0.3, 1.0])  # of interactions
    terms += [
        ({i: int(rng.integers(1, 3)), j: int(rng.integers(1, 3))}, rng.normal() * size)
        for i, j in itertools.combinations(range(d), 2)
        if rng.random() < 0.5
    ]
    space = uq.ParameterSpace(**{f"x{i}": uq.Uniform(0.0, 1.0) for i in range(d)})
    design = uq.sobol(space, n, rng=seed)
    x = np.column_stack([design[name].values for name in space.names])
    y, sizes = np.zeros(n), dict[tuple[tuple[int, int], ...], float]()
    for waves, factor in terms:  # orthonormal functions, so that squares of their factors are parts of the variance
        y += factor * np.prod([np.sqrt(2.0) * np.cos(np.pi * k * x[:, i]) for i, k in waves.items()], axis=0)
        key = tuple(sorted(waves.items()))
        sizes[key] = sizes.get(key, 0.0) + factor
    true = np.zeros((2, d))
    for key, factor in sizes.items():
        inputs = [i for i, _ in key]
        true[1, inputs] += factor**2
        true[0, inputs] += factor**2 if len(inputs) == 1 else 0.0
    true /= sum(factor**2 for factor in sizes.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UqmsWarning)
        result = uq.sobol_indices(uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": y})), rng=seed)
    between = result.interval()["y"]
    low, high = (np.stack([between[k].sel(bound=b).values for k in ("S1", "ST")]) for b in ("lower", "upper"))
    covered = ((low <= true) & (true <= high))[true >= SMALL]
    return float(result.indices["y"]["unexplained"]), bool(result.too_few_runs), covered


def waves(repeats: int) -> list[Aim]:
    """Return the aims of generated sums of waves."""
    found = [wave(seed) for seed in range(1000, 1000 + repeats)]
    kept = np.array([covered.mean() for _, few, covered in found if not few])
    error = float(kept.std(ddof=1) / np.sqrt(len(kept)))
    out = [aim("waves: says too few runs", float(np.mean([few for _, few, _ in found])), n=repeats)]
    out.append(aim("waves: mean coverage, runs enough", float(kept.mean()), 0.93 - 2.0 * error, None, error, len(kept)))
    for low, high in ((0.05, 0.1), (0.1, 0.2), (0.2, 1.0)):
        some = [covered.mean() for share, _, covered in found if low <= share < high]
        label = f"waves: mean coverage, {low:g} to {high:g} of the variance unexplained"
        out.append(aim(label, float(np.mean(some)) if some else None, n=len(some)))
    return out


def main() -> int:
    """Run the repeats and print the aims."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few repeats of few functions")
    parser.add_argument("--only", choices=(*PROBLEMS, "process", "shapley", "waves"), help="one function")
    parser.add_argument("--repeats", type=int, help=f"instead of {REPEATS}")
    arguments = parser.parse_args()
    repeats = arguments.repeats or (4 if arguments.quick else REPEATS)
    aims: list[Aim] = []
    truths: dict[str, Truth] = {}
    for name, n in QUICK if arguments.quick else CASES:
        if arguments.only not in (None, name):
            continue
        problem = PROBLEMS[name]
        if name not in truths:
            truths[name] = truth_of(problem)
            aims += beside(problem, truths[name])
        aims += judged(problem, n, [repeat(problem, n, seed) for seed in range(1, repeats + 1)], truths[name])
    if arguments.only in (None, "process"):
        aims += process(10 * repeats if repeats < REPEATS else 2 * repeats)
    if arguments.only in (None, "shapley"):
        aims += shapley(2 * repeats if repeats < REPEATS else repeats // 2)
    if arguments.only in (None, "waves"):
        aims += waves(5 * repeats if repeats < REPEATS else 2 * repeats)
    return finish(aims)


if __name__ == "__main__":
    sys.exit(main())
