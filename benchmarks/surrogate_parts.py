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

**Noise.** Stochastic simulators: functions from a known process (as above, sd 1) with noise whose log variance is one
too (sd 0.7 around the log of 0.09), 40 inputs with 5 replicates each, learned with ``noise="heteroscedastic"``; and
with constant noise, 100 inputs run once, with ``noise="fitted"``. By brute force, at 50 new points of 60 repeats: the
mean square error of the predicted mean, which the mean epistemic variance meets within 10 %, and the mean variance of
the noise, which the mean aleatory variance meets within 10 %; windows widened by two standard errors, clustered by
function. Intervals of new runs (95 %) have the probability 0.93 to 0.97. The same split for curves with noise along two
shapes and in every coordinate by itself, 30 repeats.

`--quick` makes 15 repeats (4 of missing entries, 8 of curves with noise), with windows widened by their standard
errors.
"""

import argparse
import sys
import warnings

import numpy as np
import xarray as xr
from _report import Aim, aim, finish
from scipy.special import expit, ndtr

import uqms as uq
from uqms._typing import Array
from uqms.errors import ExtrapolationWarning
from uqms.surrogates.kernels import Matern52, correlation

REPEATS, QUICK = 60, 15
GAPS, CASES, OUTPUTS = 0.3, ((5, 60), (2, 40)), 3  # share of entries; inputs and runs
GAP_REPEATS, GAP_QUICK = 12, 4
NOISE = {"heteroscedastic": 60, "fitted": 60, "curves": 30}
NOISE_QUICK = {"heteroscedastic": 15, "fitted": 15, "curves": 8}
TIME = np.linspace(0.0, 1.0, 24)
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


def drawn(x: Array, ell: Array, rng: np.random.Generator) -> Array:
    """Return a function from a Matérn-5/2 process of sd 1 at x."""
    kappa = correlation(Matern52(), x, x, ell) + 1e-10 * np.eye(len(x))
    return np.linalg.cholesky(kappa) @ rng.standard_normal(len(x))


def with_noise(kind: str, seed: int) -> tuple[float, float, float, float, float]:
    """Return square error, epistemic variance, variance of the noise, aleatory variance and coverage, means."""
    rng = np.random.default_rng([seed, 7])
    inputs, replicates = (100, 1) if kind == "fitted" else (40, 5)
    made = uq.latin_hypercube(SPACE, inputs, rng=rng)
    x = np.vstack([np.column_stack([made["a"], made["b"]]), rng.random((POINTS, 2))])
    ell = np.exp(rng.uniform(np.log(0.3), np.log(1.5), 2))
    sd = np.full(len(x), 0.3) if kind == "fitted" else 0.3 * np.exp(0.35 * drawn(x, np.array([0.7, 0.7]), rng))
    shapes = np.ones((1, 1)), np.ones((1, 1)), np.zeros(1)
    if kind == "curves":
        shapes = (
            np.stack([np.cos(TIME), np.sin(3.0 * TIME)]),
            np.stack([np.sin(TIME), np.cos(2.0 * TIME)]),
            0.3 + 0.0 * TIME,
        )
    signal, noise, own = shapes
    mean = np.column_stack([drawn(x, ell, rng) for _ in signal]) @ signal
    again = np.repeat(np.arange(inputs), replicates)

    def run(rows: Array) -> Array:
        part = rng.standard_normal((len(rows), len(noise))) @ noise + own * rng.standard_normal((len(rows), len(own)))
        return mean[rows] + sd[rows, None] * part

    y, new = run(again), np.arange(inputs, len(x))
    values = y[:, 0] if kind != "curves" else xr.DataArray(y, dims=("run", "t"), coords={"t": TIME})
    runs = uq.ensemble.build({"a": x[again, 0], "b": x[again, 1]}, {"y": values}, space=SPACE)
    settings = uq.GaussianProcess(
        noise="fitted" if kind == "fitted" else "heteroscedastic",
        hyperparameters="point" if kind == "curves" else "auto",
        outputs={"y": uq.Curve(max_scores=6)} if kind == "curves" else {},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)
        prediction = settings.fit(runs).predict({"a": x[new, 0], "b": x[new, 1]})
    low, high = (end.reshape(POINTS, -1) for end in prediction.interval(0.95, noise=True)["y"].values)
    truth = mean[new]
    error = (prediction.mean["y"].values.reshape(truth.shape) - truth) ** 2
    variance = sd[new, None] ** 2 * (np.sum(noise**2, axis=0) + own**2)
    inside = ndtr((high - truth) / np.sqrt(variance)) - ndtr((low - truth) / np.sqrt(variance))
    parts = (error, prediction.variance["y"], variance, prediction.aleatory_variance["y"], inside)
    return tuple(float(np.mean(part)) for part in parts)  # type: ignore[return-value]


def split(repeats: dict[str, int], quick: bool) -> list[Aim]:
    """Return the aims of the two parts of the variance."""
    aims, room = [], 4.0 if quick else 2.0
    for kind, count in repeats.items():
        found = np.array([with_noise(kind, seed) for seed in range(1, count + 1)])
        for text, truth, said in (("epistemic", 0, 1), ("aleatory", 2, 3)):
            ratio = found[:, said].mean() / found[:, truth].mean()
            off = found[:, said] - ratio * found[:, truth]
            error = float(np.std(off, ddof=1) / (np.sqrt(count) * found[:, truth].mean()))
            low, high = 0.9 - room * error, 1.1 + room * error
            aims.append(aim(f"{kind} noise: {text} variance over brute force", ratio, low, high, error, count))
        error = float(np.std(found[:, 4], ddof=1) / np.sqrt(count))
        name = f"{kind} noise: probability of 95% intervals of a new run"
        aims.append(aim(name, found[:, 4].mean(), 0.93 - room * error, 0.97 + room * error, error, count))
    return aims


def main() -> int:
    """Measure every part and print the aims."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK} and {GAP_QUICK} repeats instead of {REPEATS} and {GAP_REPEATS}"
    )
    quick = parser.parse_args().quick
    aims = bounds(QUICK if quick else REPEATS, quick)
    aims += missing(GAP_QUICK if quick else GAP_REPEATS, quick)
    return finish(aims + split(NOISE_QUICK if quick else NOISE, quick))


if __name__ == "__main__":
    sys.exit(main())
