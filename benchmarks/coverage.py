"""Intervals of a surrogate cover what they say, and are no wider than needed.

    python benchmarks/coverage.py [--quick] [--peers]

Every repeat has a new function from a known process (Matérn-5/2, variance 1, length scales log-uniform from 0.3 to
1.5 times sqrt(d / 2)), a new Latin hypercube of n runs in the unit cube and 40 new points, all from seed k. The oracle
is the process itself, with everything known. Aims over 120 repeats, by case (d, n):

- 95 % intervals cover from 0.91 (n < 15) or 0.93 to 0.985, 50 % intervals from 0.44 to 0.58, each widened by two
  standard errors, clustered by function;
- the mean log score is at most 0.2 nats below the oracle's at n = 10 d, and 0.06 at n = 20 d;
- the mean interval score (95 %; Gneiting & Raftery 2007, doi:10.1198/016214506000001437) is at most 1.15 times the
  oracle's at n = 20 d.

The checks of `uq.held_out` (Bastos & O'Hagan 2009, doi:10.1198/TECH.2009.08019) are made on 100 more
functions in two inputs, each with 50 held-out runs:

- with 60 runs the Mahalanobis distance, the largest pivoted error and the coverage of 95 % intervals each lie in their
  99 % range in at least 97 %;
- doubts are raised in at least 90 % where the kernel is wrong (squared exponential, functions of a Matérn-3/2 process,
  60 runs), and where runs are 4. Averaged over hyperparameters, 4 runs give honest, wide intervals: the doubts are then
  that little is predicted (Q²) or that the check could not see errors of twice the size. The share of each is printed.

``--peers`` fits BoTorch's SingleTaskGP and scikit-learn's GaussianProcessRegressor (Matérn-5/2, one length scale an
input, 10 restarts) to the same runs and prints what they reach, without aims; so does the surrogate with
point-estimated hyperparameters. ``--quick`` makes 24 repeats of three cases, with windows widened by their standard
errors, and 20 repeats of the checks (at least as many as the 0.5 % quantile of 20 draws at 97 % or 90 %).
"""

if __name__ != "__main__":
    raise ImportError("this is a benchmark, not the package that numba asks for")

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from _report import Aim, aim, binomial, finish
from scipy.stats import binom, norm

import uqms as uq
from uqms._typing import Array
from uqms.surrogates import Validation
from uqms.surrogates.kernels import Kernel, Matern32, Matern52, correlation

CASES = ((2, 8), (2, 15), (2, 20), (2, 30), (2, 40), (5, 20), (5, 50), (5, 100))
QUICK = ((2, 8), (2, 20), (2, 40))
POINTS = 40
LEVELS = (0.5, 0.95)


class Problem(NamedTuple):
    """Runs of one function, new points, and what the process that made it says of them."""

    design: xr.Dataset
    y: Array  # (n,)
    points: Array  # (k, d)
    truth: Array  # (k,)
    oracle: tuple[Array, Array]  # mean and sd, (k,)


class Scored(NamedTuple):
    """Of one repeat: share inside of the intervals by level, log score, interval score."""

    inside: tuple[float, float]
    log: float
    interval: float


def problem(d: int, n: int, seed: int) -> Problem:
    """Return the problem of a seed."""
    rng = np.random.default_rng([seed, d, n])
    ell = np.exp(rng.uniform(np.log(0.3), np.log(1.5), d)) * np.sqrt(d / 2.0)
    space = uq.ParameterSpace(**{f"x{j}": uq.Uniform(0.0, 1.0) for j in range(d)})
    design = uq.latin_hypercube(space, n, rng=rng)
    points = rng.random((POINTS, d))
    both = np.vstack([_inputs(design), points])
    kappa = correlation(Matern52(), both, both, ell) + 1e-10 * np.eye(n + POINTS)
    lower = np.linalg.cholesky(kappa)
    values = lower @ rng.standard_normal(n + POINTS)
    # The last block of the factor is that of the conditional covariance.
    mean = kappa[n:, :n] @ np.linalg.solve(kappa[:n, :n], values[:n])
    sd = np.sqrt(np.sum(lower[n:, n:] ** 2, axis=1))
    return Problem(design, values[:n], points, values[n:], (mean, sd))


def _inputs(design: xr.Dataset) -> Array:
    return np.column_stack([design[name].values for name in design.data_vars])


def scored_normal(truth: Array, mean: Array, sd: Array) -> Scored:
    """Score normal laws."""
    return _scored(truth, norm.logpdf(truth, mean, sd), lambda p: mean + norm.ppf(p) * sd)


def _scored(truth: Array, log: Array, quantile: Callable[[float], Array]) -> Scored:
    ends = [(quantile(0.5 - 0.5 * level), quantile(0.5 + 0.5 * level)) for level in LEVELS]
    inside = tuple(float(np.mean((truth >= low) & (truth <= high))) for low, high in ends)
    low, high = ends[1]
    outside = np.maximum(low - truth, 0.0) + np.maximum(truth - high, 0.0)
    return Scored((inside[0], inside[1]), float(np.mean(log)), float(np.mean(high - low + 2.0 / 0.05 * outside)))


def ours(one: Problem, hyperparameters: str = "auto") -> Scored:
    """Score the library's surrogate."""
    runs = uq.ensemble.build(one.design, {"y": one.y})
    fitted = uq.GaussianProcess(hyperparameters=hyperparameters).fit(runs)  # type: ignore[arg-type]
    law = fitted.predict({name: one.points[:, j] for j, name in enumerate(fitted.inputs)}).law("y")
    log = law.log_density(one.truth[:, None])[:, 0]
    return _scored(one.truth, log, lambda p: law.quantile(p)[:, 0])


def botorch(one: Problem) -> Scored:
    """Score BoTorch's default model and fit."""
    import torch
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.mlls import ExactMarginalLogLikelihood

    x, y = torch.from_numpy(_inputs(one.design)), torch.from_numpy(one.y[:, None])
    model = SingleTaskGP(x, y)
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    with torch.no_grad():
        law = model.posterior(torch.from_numpy(one.points))
    return scored_normal(one.truth, law.mean.numpy()[:, 0], law.variance.sqrt().numpy()[:, 0])


def sklearn(one: Problem) -> Scored:
    """Score scikit-learn's regressor with the kernel of the truth."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern

    kernel = ConstantKernel() * Matern(np.ones(one.points.shape[1]), nu=2.5)
    model = GaussianProcessRegressor(kernel, n_restarts_optimizer=10, normalize_y=True, random_state=0)
    mean, sd = model.fit(_inputs(one.design), one.y).predict(one.points, return_std=True)
    return scored_normal(one.truth, mean, np.maximum(sd, 1e-12))


def oracle(one: Problem) -> Scored:
    """Score the process that made the function."""
    return scored_normal(one.truth, *one.oracle)


def measured(d: int, n: int, seeds: range, judged: bool, fit: Callable[[Problem], Scored], name: str) -> list[Aim]:
    """Return the aims of one method in one case."""
    begin = time.perf_counter()
    problems = [problem(d, n, seed) for seed in seeds]
    got, best = [fit(one) for one in problems], [oracle(one) for one in problems]
    seconds = (time.perf_counter() - begin) / len(problems)
    label = f"{name}, d = {d}, n = {n}"
    found = []
    for i, (level, low, high) in enumerate(((0.5, 0.44, 0.58), (0.95, 0.91 if n < 15 else 0.93, 0.985))):
        shares = np.array([one.inside[i] for one in got])
        error = float(shares.std(ddof=1) / np.sqrt(len(shares)))
        window = (low - 2.0 * error, high + 2.0 * error) if judged else (None, None)
        found.append(aim(f"{label}: {level:.0%} intervals cover", float(shares.mean()), *window, error, len(shares)))
    lost = np.array([b.log - g.log for g, b in zip(got, best, strict=True)])
    most = {10 * d: 0.2, 20 * d: 0.06}.get(n) if judged else None
    error = float(lost.std(ddof=1) / np.sqrt(len(lost)))
    room = None if most is None else most + (2.0 * error if len(lost) < 100 else 0.0)
    found.append(aim(f"{label}: log score below the oracle's [nats]", float(lost.mean()), None, room, error, len(lost)))
    ratio = float(np.mean([one.interval for one in got]) / np.mean([one.interval for one in best]))
    most = 1.15 if judged and n == 20 * d else None
    remark = f"{seconds:.2f} s a fit"
    found.append(aim(f"{label}: interval score over the oracle's", ratio, None, most, None, len(got), remark))
    return found


class Check(NamedTuple):
    """One case of the checks: the process of the functions, the number of runs, and what is fitted to them."""

    name: str
    truth: Kernel
    n: int
    settings: uq.GaussianProcess


RIGHT = Check("right kernel, 60 runs", Matern52(), 60, uq.GaussianProcess())
WRONG = (
    Check("wrong kernel, 60 runs", Matern32(), 60, uq.GaussianProcess(kernel=uq.SquaredExponential())),
    Check("4 runs", Matern52(), 4, uq.GaussianProcess()),
)
STATISTICS = {"Mahalanobis distance": "mahalanobis", "largest pivoted error": "largest_pivoted", "95 %": "coverage_95%"}


def checked(case: Check, seed: int, m: int = 50, d: int = 2) -> Validation:
    """Return the held-out validation of a new function."""
    rng = np.random.default_rng([seed, d, case.n, 13])
    ell = np.exp(rng.uniform(np.log(0.3), np.log(1.5), d)) * np.sqrt(d / 2.0)
    space = uq.ParameterSpace(**{f"x{j}": uq.Uniform(0.0, 1.0) for j in range(d)})
    made = uq.latin_hypercube(space, case.n, rng=rng)
    x = np.vstack([_inputs(made), rng.random((m, d))])
    lower = np.linalg.cholesky(correlation(case.truth, x, x, ell) + 1e-10 * np.eye(len(x)))
    y = lower @ rng.standard_normal(len(x))
    train, test = (
        uq.ensemble.build({name: x[rows, j] for j, name in enumerate(space.inputs)}, {"y": y[rows]}, box=space.box())
        for rows in (slice(0, case.n), slice(case.n, None))
    )
    return uq.held_out(case.settings.fit(train), test, rng=seed)


def within(found: Sequence[Validation], column: str) -> float:
    """Return the share of validations whose statistic lies in its range."""
    rows = [one.table.loc["y"] for one in found]
    ranges = [row[f"range_{column.removeprefix('coverage_')}"] for row in rows]
    return float(np.mean([low <= row[column] <= high for row, (low, high) in zip(rows, ranges, strict=True)]))


def checks(repeats: int) -> list[Aim]:
    """Return the aims of the joint checks."""
    seeds = range(1, repeats + 1)
    least = {aimed: aimed if repeats >= 100 else binom(repeats, aimed).ppf(0.005) / repeats for aimed in (0.97, 0.9)}
    right = [checked(RIGHT, seed) for seed in seeds]
    found = []
    for words, column in STATISTICS.items():
        share = within(right, column)
        name = f"held-out, {RIGHT.name}: {words} in its 99 % range"
        found.append(aim(name, share, least[0.97], None, binomial(share, repeats), repeats))
    share = float(np.mean([bool(one.doubts) for one in right]))
    found.append(aim(f"held-out, {RIGHT.name}: doubts raised", share, None, None, binomial(share, repeats), repeats))
    for case in WRONG:
        wrong = [checked(case, seed) for seed in seeds]
        share = float(np.mean([bool(one.doubts) for one in wrong]))
        name = f"held-out, {case.name}: doubts raised"
        found.append(aim(name, share, least[0.9], None, binomial(share, repeats), repeats))
        parts = {words: 1.0 - within(wrong, column) for words, column in STATISTICS.items()}
        rows = [one.table.loc["y"] for one in wrong]
        parts["Q²"] = float(np.mean([row["q2"] < 0.8 for row in rows]))
        parts["too few runs to tell"] = float(np.mean([row["range_mahalanobis"][1] > 4.0 for row in rows]))
        for words, value in parts.items():
            found.append(aim(f"held-out, {case.name}: seen by {words}", value, None, None, None, repeats))
    return found


def main() -> int:
    """Measure every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peers", action="store_true")
    given = parser.parse_args()
    seeds = range(1, 25 if given.quick else 121)
    found = []
    methods: dict[str, Callable[[Problem], Scored]] = {"uqms": ours}
    if given.peers:
        methods |= {
            "uqms, point estimates": lambda one: ours(one, "point"),
            "BoTorch": botorch,
            "scikit-learn": sklearn,
        }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of peers that stop early or end at bounds
        for d, n in QUICK if given.quick else CASES:
            for name, fit in methods.items():
                found += measured(d, n, seeds, name == "uqms", fit, name)
                print(*(f"{each['name']}: {each['value']:.3f}" for each in found[-4:]), sep="\n", flush=True)
        found += checks(20 if given.quick else 100)
    return finish(found)


if __name__ == "__main__":
    sys.exit(main())
