"""Several levels of fidelity: the highest one is predicted well and honestly, and a misleading lower one does no harm.

    python benchmarks/multifidelity.py [--quick] [--only NAME]

Repeat k has new designs from seed k; errors are those of the mean on a dense test set of the highest level, coverage is
that of 95 % intervals there. The Gaussian process of the highest level's runs alone is printed beside, without an aim.
Aims over 20 repeats:

- Perdikaris et al. 2017, doi:10.1098/rspa.2016.0751, section 3a: low = sin 8 pi x on 50 equidistant runs, high =
  (x - sqrt 2) low² on 14 of them by chance. `NonlinearMultiFidelity`: median relative L2 error at most 0.06, mean
  coverage 0.90 to 0.99.
- Their Branin function on three levels, 80/40/20 runs of nested Sobol designs: at most 0.05, 0.90 to 0.99. Both with
  the squared exponential kernel, as there.
- The borehole function with its low fidelity (Xiong et al. 2013, doi:10.1016/j.jspi.2013.05.008), 8 inputs, 80/20 runs
  of nested Sobol designs. `MultiFidelity`: median RMSE at most 1.0, mean coverage 0.88 to 0.99.
- A lower level that has nothing to do with the highest (two inputs, 60/20 runs): the RMSE over that of the Gaussian
  process of the highest level alone, with the same kernel as given, has a median of at most 1.1 and is at most 1.5, for
  both surrogates. The ratio to the default process, which chooses its scales, is printed without an aim: levels of
  fidelity choose none.

- Speed: Branin on three autoregressive levels (40/20/10 runs), three measurements at their own inputs: NUTS with the
  compiled likelihood beside the same with the likelihood in arrays, one after the other, wall time of the second of two
  calls: median ratio at least 4, and means apart by at most 4 standard errors.

`--quick` makes 4 repeats, with medians up to 1.5 times as large and three standard errors more room for coverage.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pandas as pd
from _report import Aim, aim, finish

import uqms as uq

Array = np.ndarray[Any, np.dtype[np.float64]]
REPEATS, QUICK = 20, 4
SMOOTH = uq.SquaredExponential()


class Error(NamedTuple):
    """What one surrogate shows on the test set: relative L2 error, RMSE and coverage of 95 % intervals."""

    relative: float
    rmse: float
    coverage: float


def judge(surrogate: Any, points: Mapping[str, Array], truth: Array) -> Error:
    """Compare a surrogate of one output with the truth."""
    prediction = surrogate.predict(points)
    off = prediction.mean["y"].values - truth
    low, high = prediction.interval(0.95)["y"].values
    inside = (low <= truth) & (truth <= high)
    return Error(
        float(np.linalg.norm(off) / np.linalg.norm(truth)), float(np.sqrt(np.mean(off**2))), float(inside.mean())
    )


def levels_of(
    functions: Mapping[str, Callable[..., Array]], designs: Mapping[str, Mapping[str, Any]], space: uq.ParameterSpace
) -> Any:
    """Return the runs of every level in one table."""
    parts, box = [], space.box()
    for level, function in functions.items():
        columns = {name: np.asarray(designs[level][name], dtype=float) for name in space.inputs}
        parts.append(uq.ensemble.build(columns, {"y": function(**columns)}, fidelity=level, space=space, box=box))
    return uq.ensemble.combine(*parts)


def both(settings: Mapping[str, Any], runs: Any, points: Mapping[str, Array], truth: Array) -> dict[str, Error]:
    """Fit settings to all levels, and a Gaussian process to the highest, which is the last of the runs."""
    found = {name: judge(one.fit(runs), points, truth) for name, one in settings.items()}
    top = runs.isel(run=np.flatnonzero(runs["fidelity"].values == runs["fidelity"].values[-1]))
    kernel = next(iter(settings.values())).kernel
    for label, one in (
        ("single", uq.GaussianProcess(kernel=kernel)),
        ("single, scales as given", uq.GaussianProcess(kernel=kernel, scales="given")),
    ):
        found[label] = judge(one.fit(top.drop_vars("fidelity")), points, truth)
    return found


# --- problems ---------------------------------------------------------------------------------------------------------


def perdikaris(seed: int) -> dict[str, Error]:
    """Return the errors of one repeat in one dimension."""
    space = uq.ParameterSpace(x=uq.Uniform(0.0, 1.0))

    def low(x: Array) -> Array:
        return np.sin(8.0 * np.pi * x)

    def high(x: Array) -> Array:
        return (x - np.sqrt(2.0)) * low(x) ** 2

    x = np.linspace(0.0, 1.0, 50)
    designs = {"low": {"x": x}, "high": {"x": np.random.default_rng(seed).permutation(x)[:14]}}
    test = {"x": np.linspace(0.0, 1.0, 501)}
    settings = {"nonlinear": uq.NonlinearMultiFidelity(levels=("low", "high"), kernel=SMOOTH)}
    return both(settings, levels_of({"low": low, "high": high}, designs, space), test, high(**test))


def branin(x1: Array, x2: Array) -> Array:
    """Return the highest level."""
    bowl = -1.275 * x1**2 / np.pi**2 + 5.0 * x1 / np.pi + x2 - 6.0
    return np.asarray(bowl**2 + (10.0 - 5.0 / (4.0 * np.pi)) * np.cos(x1) + 10.0)


def branin_medium(x1: Array, x2: Array) -> Array:
    """Return the level in the middle."""
    return np.asarray(10.0 * np.sqrt(branin(x1 - 2.0, x2 - 2.0)) + 2.0 * (x1 - 0.5) - 3.0 * (3.0 * x2 - 1.0) - 1.0)


def branin_low(x1: Array, x2: Array) -> Array:
    """Return the lowest level."""
    return np.asarray(branin_medium(1.2 * (x1 + 2.0), 1.2 * (x2 + 2.0)) - 3.0 * x2 + 1.0)


def three_levels(seed: int) -> dict[str, Error]:
    """Return the errors of one repeat with Branin on three levels."""
    space = uq.ParameterSpace(x1=uq.Uniform(-5.0, 10.0), x2=uq.Uniform(0.0, 15.0))
    functions = {"low": branin_low, "medium": branin_medium, "high": branin}
    designs = uq.nested(space, {"low": 80, "medium": 40, "high": 20}, rng=seed)
    test = {name: column.values for name, column in uq.sobol(space, 1024, rng=1000).items()}
    settings = {"nonlinear": uq.NonlinearMultiFidelity(levels=tuple(functions), kernel=SMOOTH)}
    return both(settings, levels_of(functions, designs, space), test, branin(**test))


BOREHOLE = {
    "rw": (0.05, 0.15),
    "r": (100.0, 50000.0),
    "Tu": (63070.0, 115600.0),
    "Hu": (990.0, 1110.0),
    "Tl": (63.1, 116.0),
    "Hl": (700.0, 820.0),
    "L": (1120.0, 1680.0),
    "Kw": (9855.0, 12045.0),
}


def borehole(seed: int) -> dict[str, Error]:
    """Return the errors of one repeat with the flow through a borehole, in m3 a year."""
    space = uq.ParameterSpace(**{name: uq.Uniform(*ends) for name, ends in BOREHOLE.items()})

    def flow(factor: float, start: float) -> Callable[..., Array]:
        def function(rw: Array, r: Array, Tu: Array, Hu: Array, Tl: Array, Hl: Array, L: Array, Kw: Array) -> Array:
            log = np.log(r / rw)
            return np.asarray(factor * Tu * (Hu - Hl) / (log * (start + 2 * L * Tu / (log * rw**2 * Kw) + Tu / Tl)))

        return function

    functions = {"low": flow(5.0, 1.5), "high": flow(2.0 * np.pi, 1.0)}
    designs = uq.nested(space, {"low": 80, "high": 20}, rng=seed)
    test = {name: column.values for name, column in uq.sobol(space, 512, rng=1000).items()}
    settings = {"autoregressive": uq.MultiFidelity(levels=("low", "high"))}
    return both(settings, levels_of(functions, designs, space), test, functions["high"](**test))


def misleading(seed: int) -> dict[str, Error]:
    """Return the errors of one repeat where the lower level is another function of the two inputs, new each time."""
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
    rng = np.random.default_rng([seed, 1])
    waves, phases = rng.normal(0.0, 4.0, (6, 2)), rng.uniform(0.0, 2.0 * np.pi, 6)

    def low(a: Array, b: Array) -> Array:
        return np.asarray(sum(np.cos(w[0] * a + w[1] * b + phase) for w, phase in zip(waves, phases, strict=True)))

    def high(a: Array, b: Array) -> Array:
        return np.asarray(np.sin(5.0 * a) * np.exp(b) + 2.0 * np.cos(3.0 * b + a))

    functions = {"low": low, "high": high}
    designs = uq.nested(space, {"low": 60, "high": 20}, rng=seed)
    test = {name: column.values for name, column in uq.sobol(space, 512, rng=1000).items()}
    settings = {
        "autoregressive": uq.MultiFidelity(levels=("low", "high")),
        "nonlinear": uq.NonlinearMultiFidelity(levels=("low", "high")),
    }
    return both(settings, levels_of(functions, designs, space), test, high(**test))


# --- aims -------------------------------------------------------------------------------------------------------------


def accuracy(
    problem: str, found: list[dict[str, Error]], name: str, measure: str, most: float, window: tuple[float, float]
) -> list[Aim]:
    """Return the aims of error and coverage, and what the highest level's runs alone give."""
    n, quick = len(found), len(found) < REPEATS
    out = []
    for one in (name, "single"):
        errors = np.array([getattr(each[one], measure) for each in found])
        covered = np.array([each[one].coverage for each in found])
        mcse = float(covered.std(ddof=1) / np.sqrt(n))
        spread = float(1.25 * errors.std(ddof=1) / np.sqrt(n))
        room = 3.0 * mcse if quick else 0.0
        bounds = (None, most * (1.5 if quick else 1.0)) if one == name else (None, None)
        out.append(aim(f"{problem}, {one}: median {measure} error", float(np.median(errors)), *bounds, spread, n))
        ends = (window[0] - room, min(1.0, window[1] + room)) if one == name else (None, None)
        out.append(aim(f"{problem}, {one}: mean coverage of 95 %", float(covered.mean()), *ends, mcse, n))
    return out


def harm(found: list[dict[str, Error]]) -> list[Aim]:
    """Return the aims of the ratio of errors to those without the lower level."""
    out = []
    for name in ("autoregressive", "nonlinear"):
        ratio = np.array([each[name].rmse / each["single, scales as given"].rmse for each in found])
        chosen = np.array([each[name].rmse / each["single"].rmse for each in found])
        n, wide = len(ratio), len(ratio) < REPEATS
        middle = float(np.median(ratio))
        spread = float(1.25 * ratio.std(ddof=1) / np.sqrt(n))
        out.append(aim(f"misleading, {name}: median ratio", middle, None, 1.2 if wide else 1.1, spread, n))
        out.append(aim(f"misleading, {name}: worst ratio", float(ratio.max()), None, 1.5, None, n))
        against = float(np.median(chosen))
        out.append(aim(f"misleading, {name}: median ratio to the process that chooses its scales", against, n=n))
        covered = np.array([each[name].coverage for each in found])
        error = float(covered.std(ddof=1) / np.sqrt(n))
        out.append(aim(f"misleading, {name}: mean coverage of 95 %", float(covered.mean()), mcse=error, n=n))
    return out


def speed(seed: int) -> dict[str, float]:
    """Return the seconds of NUTS with both likelihoods, and how far apart the means are in standard errors."""
    space = uq.ParameterSpace(x1=uq.Uniform(-5.0, 10.0), conditions={"x2": uq.Condition(0.0, 15.0)})
    functions = {"low": branin_low, "medium": branin_medium, "high": branin}
    designs = uq.nested(space, {"low": 40, "medium": 20, "high": 10}, rng=seed)
    surrogate = uq.MultiFidelity(levels=tuple(functions)).fit(levels_of(functions, designs, space))
    x2 = np.array([2.0, 7.0, 12.0])
    seen = branin(np.full(3, 4.0), x2) + 5.0 * np.random.default_rng(seed).standard_normal(3)
    data = uq.Observations.from_table(pd.DataFrame({"y": seen, "x2": x2}), output="y", value="y", conditions=["x2"])
    noise = uq.GaussianNoise(sd=uq.HalfNormal(10.0))
    out, moments = {}, []
    for name in ("compiled", "arrays"):
        plain = (
            contextlib.nullcontext() if name == "compiled" else patch.object(type(surrogate), "compiled_error", None)
        )
        with plain:
            for again in range(2):  # the first call compiles
                start = time.perf_counter()
                posterior = uq.Calibration(surrogate, data, noise, space=space).sample(uq.NUTS(draws=500), rng=again)
                out[name] = time.perf_counter() - start
        row = posterior.summary().loc["x1"]
        moments.append((float(row["mean"]), float(row["sd"]) / np.sqrt(float(row["ess_bulk"]))))
    (one, error), (other, second) = moments
    return out | {"apart": abs(one - other) / float(np.hypot(error, second))}


def faster(found: list[dict[str, float]]) -> list[Aim]:
    """Return the aims of `speed`."""
    ratios = np.array([each["arrays"] / each["compiled"] for each in found])
    seconds = float(np.median([each["compiled"] for each in found]))
    note = f"seconds compiled: {seconds:.1f}"
    return [
        aim("three levels: time in arrays over compiled", float(np.median(ratios)), 4.0, n=len(ratios), reason=note),
        aim("three levels: means apart, standard errors", max(each["apart"] for each in found), None, 4.0),
    ]


def main() -> int:
    """Run the repeats and print the aims."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} repeats instead of {REPEATS}")
    parser.add_argument(
        "--only", choices=("perdikaris", "branin", "borehole", "misleading", "speed"), help="one problem"
    )
    arguments = parser.parse_args()
    seeds = range(1, (QUICK if arguments.quick else REPEATS) + 1)
    asked: dict[str, tuple[Callable[[int], dict[str, Error]], Callable[[list[dict[str, Error]]], list[Aim]]]] = {
        "perdikaris": (
            perdikaris,
            lambda found: accuracy("1-D 50/14", found, "nonlinear", "relative", 0.06, (0.90, 0.99)),
        ),
        "branin": (
            three_levels,
            lambda found: accuracy("Branin 80/40/20", found, "nonlinear", "relative", 0.05, (0.90, 0.99)),
        ),
        "borehole": (
            borehole,
            lambda found: accuracy("borehole 80/20", found, "autoregressive", "rmse", 1.0, (0.88, 0.99)),
        ),
        "misleading": (misleading, harm),
    }
    aims: list[Aim] = []
    for name, (problem, judged) in asked.items():
        if arguments.only in (None, name):
            aims += judged([problem(seed) for seed in seeds])
    if arguments.only in (None, "speed"):
        aims += faster([speed(seed) for seed in range(1, 4)])
    return finish(aims)


if __name__ == "__main__":
    sys.exit(main())
