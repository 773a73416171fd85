"""Posteriors cover the truth when data come from the simulator itself, and are no wider than needed.

    python benchmarks/calibration_coverage.py [--quick] [--only NAME] [--designs N] [--data N]

Simulation-based calibration draws its data from the surrogate's law; here they come from real functions, so that a
surrogate that is surer of itself than it should be shows. Each of seven functions gets 50 designs (seeds 1 to 50), each
with a new fit and 20 truths from the prior with data of their own; the noise sd is such that the surrogate's sd, a mean
over prior and outputs, is 0.3, 1 and 3 times as large. Posteriors are 199 draws of `ImportanceSampler`; the interval
between the 5th and the 195th covers 95 % exactly, if ranks are uniform. Aims, for every function and ratio:

- 95 % intervals, pooled over parameters, cover 0.95 within max(0.03, 3 standard errors), clustered by design: all data
  of one design share the errors of one surrogate;
- the same for 50 % within max(0.06, 3 standard errors);
- sharpness: the mean interval score (Gneiting & Raftery 2007, doi:10.1198/016214506000001437) is at most 1.15 times
  that of the same intervals stretched around their median by the one factor that suits the other designs best (within
  two standard errors over designs): inflated ones fail;
- at most 2 % of the fits are doubtful, within two standard errors of that share.

``--quick`` makes 8 designs with 6 truths each.
"""

if __name__ != "__main__":
    raise ImportError("this is a benchmark, not the package that numba asks for")

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr
from _report import Aim, aim, binomial, finish, line

import uqms as uq
from uqms._typing import Array
from uqms.diagnostics import ImportanceSampler
from uqms.errors import PriorConflictWarning

RATIOS = (0.3, 1.0, 3.0)  # of the surrogate's sd and the noise's
DRAWS = 199
STRETCHES = np.exp(np.linspace(np.log(0.4), np.log(2.5), 41))


class Function(NamedTuple):
    """A simulator: its parameters, the coordinate of its curve, and the curve (n, m) of unit-cube points (n, d)."""

    parameters: dict[str, tuple[float, float]]
    t: Array
    curve: Callable[..., Array]
    runs: int


FUNCTIONS: dict[str, Function] = {
    "damped oscillation": Function(
        {"rate": (0.1, 1.0), "frequency": (1.0, 2.5)},
        np.linspace(0.0, 3.0, 6),
        lambda t, rate, frequency: np.exp(-rate * t) * np.cos(frequency * t),
        14,
    ),
    "logistic growth": Function(
        {"r": (0.5, 2.5), "capacity": (0.5, 2.0)},
        np.linspace(0.0, 4.0, 6),
        lambda t, r, capacity: capacity / (1.0 + (capacity / 0.1 - 1.0) * np.exp(-r * t)),
        14,
    ),
    "two exponentials": Function(
        {"fast": (1.0, 4.0), "slow": (0.1, 0.8), "share": (0.2, 0.8)},
        np.linspace(0.2, 3.0, 7),
        lambda t, fast, slow, share: share * np.exp(-fast * t) + (1.0 - share) * np.exp(-slow * t),
        24,
    ),
    "saturation": Function(
        {"most": (0.5, 2.0), "half": (0.1, 1.5)},
        np.linspace(0.1, 3.0, 5),
        lambda t, most, half: most * t**2 / (half**2 + t**2),
        12,
    ),
    "Branin's sections": Function(
        {"a": (-5.0, 10.0), "b": (0.0, 15.0)},
        np.array([0.0, 1.0, 2.0]),
        lambda t, a, b: (
            (b - 0.129 * (a + t) ** 2 + 1.592 * (a + t) - 6.0) ** 2 / 50.0 + 0.9 * np.cos(a + t) * (1.0 + 0.2 * t)
        ),
        30,
    ),
    "Ishigami's sections": Function(
        {"x1": (-1.5, 1.5), "x2": (-1.5, 1.5), "x3": (-1.5, 1.5)},
        np.array([0.0, 0.5, 1.0]),
        lambda t, x1, x2, x3: np.sin(x1 + t) + 2.0 * np.sin(x2 - t) ** 2 + 0.2 * x3**2 * np.sin(x1) + 0.5 * t * x2,
        30,
    ),
    "pulse of one parameter": Function(
        {"delay": (0.0, 2.0)},
        np.linspace(0.0, 4.0, 6),
        lambda t, delay: np.exp(-0.5 * ((t - 1.0 - delay) / 0.6) ** 2),
        8,
    ),
}


class Scored(NamedTuple):
    """Of one posterior: parameters inside of 95 % and 50 %, scores by stretch (d, stretches), whether doubtful."""

    inside: Array  # (d, 2)
    scores: Array
    doubtful: bool


def scored(truth: dict[str, float], draws: dict[str, Array], widths: dict[str, float], doubtful: bool) -> Scored:
    """Score the draws of one posterior; interval scores are relative to the widths of the priors."""
    inside, scores = [], []
    for name, values in draws.items():
        ordered = np.sort(values)
        rank = int(np.searchsorted(ordered, truth[name]))
        inside.append([5 <= rank < DRAWS + 1 - 5, 50 <= rank < DRAWS + 1 - 50])
        middle = ordered[DRAWS // 2]
        low, high = (middle + STRETCHES * (ordered[i] - middle) for i in (4, DRAWS - 5))
        outside = np.maximum(low - truth[name], 0.0) + np.maximum(truth[name] - high, 0.0)
        scores.append((high - low + 2.0 / 0.05 * outside) / widths[name])
    return Scored(np.array(inside), np.array(scores), doubtful)


def surrogate_of(function: Function, seed: int) -> tuple[uq.Surrogate, uq.ParameterSpace]:
    """Return the fit to a new design."""
    space = uq.ParameterSpace(**{name: uq.Uniform(*ends) for name, ends in function.parameters.items()})
    design = uq.latin_hypercube(space, function.runs, rng=seed)
    y = function.curve(function.t, **{name: design[name].values[:, None] for name in function.parameters})
    curves = xr.DataArray(y, dims=("run", "t"), coords={"t": function.t})
    return uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": curves})), space


def of_design(function: Function, seed: int, data: int) -> list[list[Scored]]:
    """Return the posteriors of each ratio for one design."""
    surrogate, space = surrogate_of(function, seed)
    rng = np.random.default_rng([seed, 7])
    prior = {name: low + (high - low) * rng.random(200) for name, (low, high) in function.parameters.items()}
    size = float(np.sqrt(surrogate.predict(prior).variance["y"].values.mean()))
    widths = {name: high - low for name, (low, high) in function.parameters.items()}
    found = []
    for ratio in RATIOS:
        sd = size / ratio
        at = xr.DataArray(np.linspace(0.0, 10.0 * sd, len(function.t)), dims="t", coords={"t": function.t}, name="y")
        problem = uq.Calibration(surrogate, at, uq.GaussianNoise(sd=sd), space=space)
        posteriors = []
        for _ in range(data):
            truth = {name: low + (high - low) * rng.random() for name, (low, high) in function.parameters.items()}
            values = function.curve(function.t, **truth) + sd * rng.standard_normal(len(function.t))
            few = ImportanceSampler().draw(problem.with_values(values), DRAWS, rng)
            posteriors.append(scored(truth, few.theta, widths, few.doubt != ""))
        found.append(posteriors)
    return found


def judged(name: str, ratio: float, designs: list[list[Scored]], seconds: float) -> list[Aim]:
    """Return the aims of one function and ratio; standard errors are clustered by design."""
    inside = np.array([np.mean([one.inside.mean(axis=0) for one in each], axis=0) for each in designs])
    share, n = inside.mean(axis=0), sum(len(each) for each in designs)
    # By design; with few of them by chance smaller than what independent truths would give, which is the least.
    levels = np.array([0.95, 0.5])
    error = np.maximum(inside.std(axis=0, ddof=1) / np.sqrt(len(designs)), np.sqrt(levels * (1.0 - levels) / n))
    label = f"{name}, surrogate / noise sd {ratio:g}"
    found = []
    for i, (level, room) in enumerate(((0.95, 0.03), (0.5, 0.06))):
        window = max(room, 3.0 * float(error[i]))
        found.append(
            aim(
                f"{label}: {level:.0%} intervals cover",
                float(share[i]),
                level - window,
                level + window,
                float(error[i]),
                n,
                f"{len(designs)} designs, {seconds:.0f} s" if i == 0 else None,
            )
        )
    scores = np.array([np.mean([one.scores.mean(axis=0) for one in each], axis=0) for each in designs])
    others = np.argmin(scores.sum(axis=0) - scores, axis=1)  # chosen without the design: by chance none is better
    own = np.array([np.interp(1.0, STRETCHES, each) for each in scores])
    rival = scores[np.arange(len(scores)), others]
    again = np.random.default_rng(1).integers(len(scores), size=(2000, len(scores)))
    error_of_ratio = float(np.std(own[again].sum(axis=1) / rival[again].sum(axis=1)))
    sharpness = float(own.sum() / rival.sum())
    remark = f"the best stretch is {STRETCHES[int(np.median(others))]:.2f}"
    most = 1.15 + 2.0 * error_of_ratio
    found.append(
        aim(f"{label}: interval score over that of the best stretch", sharpness, None, most, error_of_ratio, n, remark)
    )
    doubtful = float(np.mean([one.doubtful for each in designs for one in each]))
    most = 0.02 + 2.0 * float(np.sqrt(0.02 * 0.98 / n))
    found.append(aim(f"{label}: share of doubtful fits", doubtful, None, most, binomial(doubtful, n), n))
    return found


def main() -> int:
    """Measure every function."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="part of a function's name")
    parser.add_argument("--designs", type=int, default=None)
    parser.add_argument("--data", type=int, default=None, help="truths of each design and ratio")
    given = parser.parse_args()
    designs, data = given.designs or (8 if given.quick else 50), given.data or (6 if given.quick else 20)
    aims: list[Aim] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PriorConflictWarning)  # values that stand in for data
        for name, function in FUNCTIONS.items():
            if given.only not in name:
                continue
            begin = time.perf_counter()
            found = [of_design(function, seed, data) for seed in range(1, designs + 1)]
            seconds = time.perf_counter() - begin
            for i, ratio in enumerate(RATIOS):
                new = judged(name, ratio, [each[i] for each in found], seconds)
                print(*(line(each) for each in new), sep="\n", flush=True)
                aims += new
    return finish(aims)


if __name__ == "__main__":
    sys.exit(main())
