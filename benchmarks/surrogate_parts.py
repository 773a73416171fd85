"""One line of evidence for every part of a surrogate.

    python benchmarks/surrogate_parts.py [--quick]

**Bounds.** Shares between 0 and 1 whose logits are functions from a known process (Matérn-5/2, sd 3, so that many runs
are near a bound; 2 inputs, 30 runs, 50 new points), and positive outputs whose logarithms are: 60 repeats, seeds 1 to
60. Of 10^5 draws none leaves the bounds; 95 % intervals cover 0.93 to 0.985, 50 % intervals 0.44 to 0.58 (windows of
`coverage.py`), widened by two standard errors, clustered by function. How many draws leave the bounds without a
transform is printed without an aim.

**Missing entries.** Three independent numbers (functions of the same kind, sd 1) that lack 30 % of their entries at
random, beside the same runs without gaps; 60 runs of 5 inputs, 12 repeats. The RMSE is at most 1.3 times that of the
complete runs, widened by two standard errors, and 95 % intervals keep the coverage of above. Nothing can be regained of
outputs that are independent: with 40 runs of 2 inputs, where errors fall faster with the runs, the ratio is printed
without an aim.

**Missing entries of curves.** Curves of 40 coordinates with 6 scores (functions of the same kind), 60 runs of 5 inputs,
8 repeats, of which 30 % of the entries are missing: at random, or as tails of runs in one half of the box, as if they
crashed there. At random the RMSE is at most 1.3 times that of the complete runs, widened as above; of tails it is
printed without an aim, beside the same without the partial runs. Coverage as above.

`--quick` makes 15, 4 and 3 repeats, with windows widened by their standard errors.
"""

import argparse
import sys
import warnings

import numpy as np
import xarray as xr
from _report import Aim, aim, finish
from scipy.special import expit

import uqms as uq
from uqms._typing import Array
from uqms.errors import ExtrapolationWarning
from uqms.surrogates.kernels import Matern52, correlation

REPEATS, QUICK = 60, 15
GAPS, CASES, OUTPUTS = 0.3, ((5, 60), (2, 40)), 3  # share of entries; inputs and runs
GAP_REPEATS, GAP_QUICK = 12, 4
CURVE_REPEATS, CURVE_QUICK, COORDINATES, SCORES = 8, 3, 40, 6
RUNS, POINTS, DRAWS = 30, 50, 100_000
LEVELS = {0.95: (0.93, 0.985), 0.5: (0.44, 0.58)}
SPACE = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
BOUNDED = {"share": (expit, uq.Logit(), (0.0, 1.0)), "positive": (np.exp, uq.Log(), (0.0, np.inf))}


def function(*seed: int) -> tuple[xr.Dataset, Array, Array]:
    """Return a design, points (RUNS + POINTS, 2) of which it is the first, and a function of sd 3 there."""
    rng = np.random.default_rng(seed)
    made = uq.latin_hypercube(SPACE, RUNS, rng=rng)
    x = np.vstack([np.column_stack([made["a"], made["b"]]), rng.random((POINTS, 2))])
    kappa = correlation(Matern52(), x, x, np.exp(rng.uniform(np.log(0.3), np.log(1.5), 2)))
    return made, x, 3.0 * np.linalg.cholesky(kappa + 1e-10 * np.eye(len(x))) @ rng.standard_normal(len(x))


def outside(prediction: object, ends: tuple[float, float], rng: int) -> int:
    """Return how many of the draws leave the bounds, the bounds themselves excluded."""
    draws = prediction.draws(DRAWS // POINTS, rng=rng)["y"].values  # type: ignore[attr-defined]
    return int(np.sum((draws <= ends[0]) | (draws >= ends[1])))


def bounds(repeats: int, quick: bool) -> list[Aim]:
    """Return the aims of transformed outputs."""
    aims = []
    for kind, (name, (image, transform, ends)) in enumerate(BOUNDED.items()):
        inside: dict[float, list[float]] = {level: [] for level in LEVELS}
        for seed in range(1, repeats + 1):
            made, x, z = function(seed, kind)
            y = image(z)
            runs = uq.ensemble.build(made, {"y": y[:RUNS]})
            at, truth = {"a": x[RUNS:, 0], "b": x[RUNS:, 1]}, y[RUNS:]
            prediction = uq.GaussianProcess(outputs={"y": uq.Scalar(transform=transform)}).fit(runs).predict(at)
            for level in LEVELS:
                low, high = prediction.interval(level)["y"].values
                inside[level].append(float(np.mean((truth >= low) & (truth <= high))))
            if seed == 1:
                out = outside(prediction, ends, seed)
                aims.append(aim(f"{name}: draws out of bounds", out, high=0, n=DRAWS))
                plain = uq.GaussianProcess().fit(runs).predict(at)
                aims.append(
                    aim(f"{name}: draws out of bounds without a transform", outside(plain, ends, seed), n=DRAWS)
                )
        for level, (low, high) in LEVELS.items():
            covered, error = np.mean(inside[level]), np.std(inside[level], ddof=1) / np.sqrt(repeats)
            room = (4.0 if quick else 2.0) * error
            text = f"{name}: coverage of {level:.0%} intervals"
            aims.append(aim(text, covered, low - room, min(1.0, high + room), error, repeats))
    return aims


def with_gaps(d: int, n: int, seed: int) -> tuple[Array, Array]:
    """Return the mean square error (2,) and the coverage (2,) of complete and of partial runs."""
    rng = np.random.default_rng([seed, d, n])
    space = uq.ParameterSpace(**{f"x{i}": uq.Uniform(0.0, 1.0) for i in range(d)})
    made = uq.latin_hypercube(space, n, rng=rng)
    x = np.vstack([np.column_stack([made[name] for name in space.inputs]), rng.random((POINTS, d))])
    z = np.empty((OUTPUTS, len(x)))
    for one in z:
        ell = np.exp(rng.uniform(np.log(0.3), np.log(1.5), d)) * np.sqrt(d / 2.0)
        kappa = correlation(Matern52(), x, x, ell) + 1e-10 * np.eye(len(x))
        one[:] = np.linalg.cholesky(kappa) @ rng.standard_normal(len(x))
    gaps = rng.random((OUTPUTS, n)) < GAPS
    gaps[:, gaps.all(axis=0)] = False  # a run without any output is none
    names = [f"y{i}" for i in range(OUTPUTS)]
    whole = uq.ensemble.build(made, dict(zip(names, z[:, :n], strict=True)))
    values = dict(zip(names, np.where(gaps, np.nan, z[:, :n]), strict=True))
    states = ["partial" if lacks else "completed" for lacks in gaps.any(axis=0)]
    error, inside = np.empty(2), np.empty(2)
    for i, runs in enumerate((whole, uq.ensemble.build(made, values, states=states))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExtrapolationWarning)  # the box ends at 99.9 % of the prior
            at = {name: x[n:, j] for j, name in enumerate(space.inputs)}
            prediction = uq.GaussianProcess().fit(runs).predict(at)
        mean, ends = prediction.mean, prediction.interval(0.95)
        error[i] = np.mean([(mean[name].values - one[n:]) ** 2 for name, one in zip(names, z, strict=True)])
        low, high = (np.stack([ends[name].values[k] for name in names]) for k in (0, 1))
        inside[i] = np.mean((z[:, n:] >= low) & (z[:, n:] <= high))
    return error, inside


def missing(repeats: int, quick: bool) -> list[Aim]:
    """Return the aims of partial runs."""
    aims = []
    for d, n in CASES:
        found = [with_gaps(d, n, seed) for seed in range(1, repeats + 1)]
        (whole, partial), (_, inside) = np.transpose([one[0] for one in found]), np.transpose([one[1] for one in found])
        ratio = float(np.sqrt(partial.mean() / whole.mean()))
        spread = np.std(partial - ratio**2 * whole, ddof=1) / (np.sqrt(repeats) * whole.mean())
        error, room = spread / (2.0 * ratio), 4.0 if quick else 2.0
        high = 1.3 + room * error if d > 2 else None
        text = f"{GAPS:.0%} missing, {n} runs of {d} inputs"
        aims.append(aim(f"{text}: RMSE over that of complete runs", ratio, None, high, error, repeats))
        error = np.std(inside, ddof=1) / np.sqrt(repeats)
        low, high = (LEVELS[0.95][0] - room * error, min(1.0, LEVELS[0.95][1] + room * error))
        aims.append(aim(f"{text}: coverage of 95% intervals", inside.mean(), low, high, error, repeats))
    return aims


def curve_with_gaps(tails: bool, seed: int) -> tuple[Array, Array]:
    """Return the mean square error (3,) and the coverage (3,) of complete runs, of partial ones, and without these."""
    (d, n), rng = CASES[0], np.random.default_rng([seed, COORDINATES])
    space = uq.ParameterSpace(**{f"x{i}": uq.Uniform(0.0, 1.0) for i in range(d)})
    made = uq.latin_hypercube(space, n, rng=rng)
    x = np.vstack([np.column_stack([made[name] for name in space.inputs]), rng.random((POINTS, d))])
    t = np.linspace(0.0, 1.0, COORDINATES)
    sizes, shapes = np.linalg.eigh(np.exp(-0.5 * ((t[:, None] - t) / 0.2) ** 2))
    y = np.zeros((len(x), COORDINATES))
    for size, shape in zip(sizes[::-1][:SCORES], shapes.T[::-1], strict=False):
        ell = np.exp(rng.uniform(np.log(0.3), np.log(1.5), d)) * np.sqrt(d / 2.0)
        kappa = correlation(Matern52(), x, x, ell) + 1e-10 * np.eye(len(x))
        y += np.multiply.outer(np.linalg.cholesky(kappa) @ rng.standard_normal(len(x)), np.sqrt(size) * shape)
    gaps = rng.random((n, COORDINATES)) < GAPS
    if tails:  # of 0.2 to 1 of a run, half of the runs: 30 % of the entries
        gaps = t > np.where(x[:n, 0] < 0.5, rng.uniform(0.0, 0.8, n), 1.0)[:, None]
    gaps[:, 0] &= ~gaps.all(axis=1)
    states = np.where(gaps.any(axis=1), "partial", "completed")
    whole = uq.ensemble.build(made, {"y": xr.DataArray(y[:n], dims=("run", "t"), coords={"t": t})})
    lacking = xr.DataArray(np.where(gaps, np.nan, y[:n]), dims=("run", "t"), coords={"t": t})
    parts = uq.ensemble.build(made, {"y": lacking}, states=list(states))
    error, inside = np.full(3, np.nan), np.full(3, np.nan)
    for i, runs in enumerate((whole, parts, uq.ensemble.completed(parts))):
        if runs.sizes["run"] < 2 * d:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExtrapolationWarning)
            at = {name: x[n:, j] for j, name in enumerate(space.inputs)}
            prediction = uq.GaussianProcess().fit(runs).predict(at)
        low, high = prediction.interval(0.95)["y"].values
        error[i] = np.mean((prediction.mean["y"].values - y[n:]) ** 2)
        inside[i] = np.mean((y[n:] >= low) & (y[n:] <= high))
    return error, inside


def missing_of_curves(repeats: int, quick: bool) -> list[Aim]:
    """Return the aims of curves of which runs miss entries."""
    aims, room = [], 4.0 if quick else 2.0
    for tails in (False, True):
        found = [curve_with_gaps(tails, seed) for seed in range(1, repeats + 1)]
        errors, inside = np.transpose([one[0] for one in found]), np.transpose([one[1] for one in found])
        text = f"curves, {GAPS:.0%} missing " + ("as tails in half of the box" if tails else "at random")
        for kind, each in (("", errors[1]), (", without partial runs", errors[2])):
            if np.isnan(each).any():
                continue
            ratio = float(np.sqrt(each.mean() / errors[0].mean()))
            spread = np.std(each - ratio**2 * errors[0], ddof=1) / (np.sqrt(repeats) * errors[0].mean())
            error = spread / (2.0 * ratio)
            high = None if tails or kind else 1.3 + room * error
            aims.append(aim(f"{text}: RMSE over that of complete runs{kind}", ratio, None, high, error, repeats))
        error = np.std(inside[1], ddof=1) / np.sqrt(repeats)
        low, high = (LEVELS[0.95][0] - room * error, min(1.0, LEVELS[0.95][1] + room * error))
        aims.append(aim(f"{text}: coverage of 95% intervals", inside[1].mean(), low, high, error, repeats))
    return aims


def main() -> int:
    """Measure every part and print the aims."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK}, {GAP_QUICK} and {CURVE_QUICK} repeats instead of {REPEATS}, {GAP_REPEATS} and {CURVE_REPEATS}",
    )
    quick = parser.parse_args().quick
    aims = bounds(QUICK if quick else REPEATS, quick)
    aims += missing(GAP_QUICK if quick else GAP_REPEATS, quick)
    return finish(aims + missing_of_curves(CURVE_QUICK if quick else CURVE_REPEATS, quick))


if __name__ == "__main__":
    sys.exit(main())
