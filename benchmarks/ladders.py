"""Levels of fidelity make nothing worse: errors beside those of the highest level alone and of a plain AR1 ladder.

    python benchmarks/ladders.py [--quick] [--half seen|unseen] [--only NAME] [--designs N] [--narrow SHARE]

Twelve two-level problems, some of them ordinary differential equations with coarse and fine steps, each with new nested
designs for every repeat. Six were looked at while the method was chosen (``seen``), six were not. On a dense test set
of the fine level the default `MultiFidelity` and `NonlinearMultiFidelity` are compared with

- `GaussianProcess()` on the fine runs alone;
- AR1: `MultiFidelity` with scales as given and point estimates, the ladder of Kennedy & O'Hagan (2000,
  doi:10.1093/biomet/87.1.1) learned level by level.

Aims, over all designs of a half, for both surrogates: the 90th percentile of the ratio of root mean square errors to
each of these is at most 1.05; 95 % intervals cover .92 to .98 of the pooled test points and 50 % intervals .40 to .60,
each within two standard errors over problems. Medians say what a ladder gains. To every error 1e-6 of the output's sd
is added, so that ratios of errors that do not matter are 1.

``--narrow`` takes SHARE of the runs of each level, at least 5. ``--quick`` makes 3 designs of each problem in the
place of 20.
"""

if __name__ != "__main__":
    raise ImportError("this is a benchmark, not a package")

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from _report import Aim, aim, finish

import uqms as uq
from uqms._typing import Array

LEAST = 1e-6  # of the output's sd: errors below it are none


class Problem(NamedTuple):
    """Ranges of inputs, the two levels as functions of inputs (n, d), and numbers of runs."""

    ends: tuple[tuple[float, float], ...]
    coarse: Callable[[Array], Array]
    fine: Callable[[Array], Array]
    runs: tuple[int, int]


def stepped(rate: Callable[[Array, Array], Array], start: Callable[[Array], Array], end: float, steps: int) -> Callable:
    """Return the first state at the end, by Heun's method with so many steps; `rate` is of states (n, s) and inputs."""

    def function(u: Array) -> Array:
        state, h = start(u), end / steps
        for _ in range(steps):
            first = rate(state, u)
            state = state + 0.5 * h * (first + rate(state + h * first, u))
        return np.asarray(state[:, 0])

    return function


def _columns(*columns: Array) -> Array:
    return np.stack(np.broadcast_arrays(*columns), axis=1)


def _sir(state: Array, u: Array) -> Array:
    infected, susceptible = state.T
    new = u[:, 0] * infected * susceptible
    return _columns(new - u[:, 1] * infected, -new)


def _prey(state: Array, u: Array) -> Array:
    prey, hunters = state.T
    return _columns(u[:, 0] * prey - u[:, 1] * prey * hunters, 0.5 * prey * hunters - u[:, 2] * hunters)


def _windkessel(state: Array, u: Array) -> Array:
    pressure, flow_time = state.T
    inflow = np.maximum(np.sin(2.0 * np.pi * flow_time), 0.0) * 400.0
    return _columns((inflow - pressure / u[:, 0]) / u[:, 1], np.ones_like(pressure))


def _spike(state: Array, u: Array) -> Array:
    v, w = state.T
    return _columns(v - v**3 / 3.0 - w + u[:, 0], 0.08 * (v + 0.7 - u[:, 1] * w))


def _saturable(state: Array, u: Array) -> Array:
    return -u[:, :1] * state / (u[:, 1:2] + state)


def _borehole(factor: float, start: float) -> Callable[[Array], Array]:
    def flow(u: Array) -> Array:
        rw, r, tu, hu, tl, hl, length, kw = u.T
        log = np.log(r / rw)
        return np.asarray(factor * tu * (hu - hl) / (log * (start + 2 * length * tu / (log * rw**2 * kw) + tu / tl)))

    return flow


def _currin(u: Array) -> Array:
    x, y = u.T
    sharp = 1.0 - np.exp(-0.5 / np.maximum(y, 1e-9))
    return np.asarray(sharp * (2300 * x**3 + 1900 * x**2 + 2092 * x + 60) / (100 * x**3 + 500 * x**2 + 4 * x + 20))


def _coarse_currin(u: Array) -> Array:
    """Return the mean over four points around each (Xiong et al. 2013, doi:10.1016/j.jspi.2013.05.008)."""
    moves = [(0.05, 0.05), (0.05, -0.05), (-0.05, 0.05), (-0.05, -0.05)]
    return np.mean([_currin(np.maximum(u + np.array(move), 0.0)) for move in moves], axis=0)


def _park(u: Array) -> Array:
    a, b, c, d = u.T
    return np.asarray(0.5 * a * (np.sqrt(1.0 + (b + c**2) * d / a**2) - 1.0) + (a + 3.0 * d) * np.exp(1.0 + np.sin(c)))


def _coarse_park(u: Array) -> Array:
    return np.asarray((1.0 + np.sin(u[:, 0]) / 10.0) * _park(u) - 2.0 * u[:, 0] + u[:, 1] ** 2 + u[:, 2] ** 2 + 0.5)


def _branin(u: Array) -> Array:
    x, y = u.T
    return np.asarray(
        (y - 5.1 / (4 * np.pi**2) * x**2 + 5 / np.pi * x - 6) ** 2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(x) + 10
    )


def _waves(u: Array) -> Array:
    """Return a function of two inputs that has nothing to do with the finer one."""
    return np.asarray(np.cos(7.0 * u[:, 0] - 3.0 * u[:, 1]) + np.sin(9.0 * u[:, 1] + 1.0) - np.cos(5.0 * u.sum(axis=1)))


def _square(u: Array) -> Array:
    return np.asarray((u[:, 0] - np.sqrt(2.0)) * np.sin(8.0 * np.pi * u[:, 0]) ** 2)


def _ones(*values: float) -> Callable[[Array], Array]:
    return lambda u: np.tile(np.array(values), (len(u), 1))


UNIT = ((0.0, 1.0), (0.0, 1.0))
HOLE = (
    (0.05, 0.15),
    (100.0, 50000.0),
    (63070.0, 115600.0),
    (990.0, 1110.0),
    (63.1, 116.0),
    (700.0, 820.0),
    (1120.0, 1680.0),
    (9855.0, 12045.0),
)
OSCILLATION = ((0.0, 1.0),)
SEEN: dict[str, Problem] = {
    "borehole": Problem(HOLE, _borehole(5.0, 1.5), _borehole(2.0 * np.pi, 1.0), (80, 24)),
    "currin": Problem(UNIT, _coarse_currin, _currin, (60, 20)),
    "misleading": Problem(
        UNIT,
        _waves,
        lambda u: np.sin(5.0 * u[:, 0]) * np.exp(u[:, 1]) + 2.0 * np.cos(3.0 * u[:, 1] + u[:, 0]),
        (60, 20),
    ),
    "windkessel": Problem(
        ((0.5, 2.0), (0.5, 3.0)),
        stepped(_windkessel, _ones(80.0, 0.0), 3.25, 16),
        stepped(_windkessel, _ones(80.0, 0.0), 3.25, 400),
        (60, 16),
    ),
    "bent": Problem(OSCILLATION, lambda u: np.sin(8.0 * np.pi * u[:, 0]), _square, (50, 14)),
    "epidemic": Problem(
        ((0.8, 3.0), (0.3, 1.0)),
        stepped(_sir, _ones(0.01, 0.99), 6.0, 8),
        stepped(_sir, _ones(0.01, 0.99), 6.0, 200),
        (60, 20),
    ),
}
UNSEEN: dict[str, Problem] = {
    "park": Problem(((0.05, 1.0),) * 4, _coarse_park, _park, (80, 24)),
    "branin": Problem(
        ((-5.0, 10.0), (0.0, 15.0)),
        lambda u: 10.0 * np.sqrt(_branin(u - 2.0)) + 2.0 * (u[:, 0] - 0.5) - 3.0 * (3.0 * u[:, 1] - 1.0) - 1.0,
        _branin,
        (60, 20),
    ),
    "predators": Problem(
        ((0.5, 1.5), (0.5, 1.5), (0.4, 1.2)),
        stepped(_prey, _ones(1.0, 0.5), 6.0, 30),
        stepped(_prey, _ones(1.0, 0.5), 6.0, 300),
        (80, 24),
    ),
    "spike": Problem(
        ((0.2, 0.6), (0.6, 1.0)),
        stepped(_spike, _ones(-1.2, -0.6), 20.0, 60),
        stepped(_spike, _ones(-1.2, -0.6), 20.0, 1000),
        (60, 20),
    ),
    "saturable": Problem(
        ((0.2, 2.0), (0.2, 4.0)),
        lambda u: 5.0 * np.exp(-u[:, 0] / (u[:, 1] + 2.5)),
        stepped(_saturable, _ones(5.0), 2.0, 200),
        (50, 14),
    ),
    "two peaks": Problem(
        UNIT,
        lambda u: np.exp(-8.0 * np.sum((u - 0.3) ** 2, axis=1)),
        lambda u: np.exp(-8.0 * np.sum((u - 0.35) ** 2, axis=1)) + 0.5 * np.exp(-20.0 * np.sum((u - 0.8) ** 2, axis=1)),
        (60, 20),
    ),
}
SURROGATES = {
    "autoregressive": uq.MultiFidelity(levels=("coarse", "fine")),
    "nonlinear": uq.NonlinearMultiFidelity(levels=("coarse", "fine")),
    "AR1": uq.MultiFidelity(levels=("coarse", "fine"), scales="given", hyperparameters="point"),
}
OURS = ("autoregressive", "nonlinear")


class Errors(NamedTuple):
    """Root mean square error over the output's sd, coverage of 95 % and 50 %, and seconds, of one surrogate."""

    rmse: float
    covered: tuple[float, float]
    seconds: float


def of_design(problem: Problem, seed: int, share: float) -> dict[str, Errors]:
    """Return the errors of all surrogates for one design, of `share` of the runs."""
    names = [f"x{i}" for i in range(len(problem.ends))]
    space = uq.ParameterSpace(**{name: uq.Uniform(*ends) for name, ends in zip(names, problem.ends, strict=True)})
    runs = [max(int(share * n), 5) for n in problem.runs]
    designs = uq.nested(space, dict(zip(("coarse", "fine"), runs, strict=True)), rng=seed)
    parts = []
    for level, function in (("coarse", problem.coarse), ("fine", problem.fine)):
        u = np.column_stack([designs[level][name].values for name in names])
        parts.append(uq.ensemble.build(designs[level], {"y": function(u)}, fidelity=level))
    levels = uq.ensemble.combine(*parts)
    test = uq.sobol(space, 512, rng=1000)
    points = {name: test[name].values for name in names}
    truth = problem.fine(np.column_stack(list(points.values())))
    found = {}
    for name, settings in [*SURROGATES.items(), ("alone", uq.GaussianProcess())]:
        begin = time.process_time()
        surrogate = settings.fit(parts[-1].drop_vars("fidelity") if name == "alone" else levels)
        seconds = time.process_time() - begin
        prediction = surrogate.predict(points)
        off = prediction.mean["y"].values - truth
        covered = []
        for level in (0.95, 0.5):
            low, high = prediction.interval(level)["y"].values
            covered.append(float(np.mean((low <= truth) & (truth <= high))))
        found[name] = Errors(float(np.sqrt(np.mean(off**2)) / truth.std()), (covered[0], covered[1]), seconds)
    return found


def judged(half: str, found: dict[str, list[dict[str, Errors]]]) -> list[Aim]:
    """Return the aims of a half."""
    out = []
    every = [one for designs in found.values() for one in designs]
    n = len(every)
    for name in OURS:
        for rival in ("alone", "AR1"):
            ratio = np.array([(one[name].rmse + LEAST) / (one[rival].rmse + LEAST) for one in every])
            label = f"{half}, {name}: RMSE over that of {rival}"
            out.append(aim(f"{label}, 90th percentile", float(np.quantile(ratio, 0.9)), None, 1.05, None, n))
            out.append(aim(f"{label}, median", float(np.median(ratio)), n=n))
        for i, (level, low, high) in enumerate(((0.95, 0.92, 0.98), (0.5, 0.4, 0.6))):
            by_problem = np.array([np.mean([one[name].covered[i] for one in designs]) for designs in found.values()])
            error = float(by_problem.std(ddof=1) / np.sqrt(len(by_problem))) if len(by_problem) > 1 else 0.0
            label = f"{half}, {name}: {level:.0%} intervals cover"
            out.append(aim(label, float(by_problem.mean()), low - 2 * error, high + 2 * error, error, n))
        seconds = [one[name].seconds / one["alone"].seconds for one in every]
        out.append(
            aim(f"{half}, {name}: CPU time over that of the fine level alone, median", float(np.median(seconds)))
        )
    return out


def main() -> int:
    """Measure all problems."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 designs of each problem")
    parser.add_argument("--half", choices=("seen", "unseen"), help="one half of the problems")
    parser.add_argument("--only", choices=[*SEEN, *UNSEEN], help="one problem")
    parser.add_argument("--designs", type=int, help="designs of each problem (20)")
    parser.add_argument("--narrow", type=float, default=1.0, help="share of the runs of each level")
    given = parser.parse_args()
    designs = given.designs or (3 if given.quick else 20)
    aims: list[Aim] = []
    warnings.simplefilter("ignore", uq.errors.UqmsWarning)
    for half, problems in (("seen", SEEN), ("unseen", UNSEEN)):
        if given.half not in (None, half):
            continue
        found: dict[str, list[dict[str, Errors]]] = {}
        for name, problem in problems.items():
            if given.only in (None, name):
                found[name] = [of_design(problem, seed, given.narrow) for seed in range(1, designs + 1)]
                medians = {key: np.median([one[key].rmse for one in found[name]]) for key in found[name][0]}
                print(f"# {name}: " + ", ".join(f"{key} {value:.3g}" for key, value in medians.items()), flush=True)
                for rival in ("alone", "AR1"):
                    worst = {
                        key: max((one[key].rmse + LEAST) / (one[rival].rmse + LEAST) for one in found[name])
                        for key in OURS
                    }
                    print(f"#   worst ratio to {rival}: {worst}", flush=True)
        if found:
            aims += judged(half, found)
    return finish(aims)


if __name__ == "__main__":
    sys.exit(main())
