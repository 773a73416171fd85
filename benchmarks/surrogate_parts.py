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

**Noise.** Stochastic simulators: functions from a known process (as above, sd 1) with noise whose log variance is one
too (sd 0.7 around the log of 0.09), 40 inputs with 5 replicates each, learned with ``noise="heteroscedastic"``; and
with constant noise, 100 inputs run once, with ``noise="fitted"``. By brute force, at 50 new points of 60 repeats: the
mean square error of the predicted mean, which the mean epistemic variance meets within 10 %, and the mean variance of
the noise, which the mean aleatory variance meets within 10 %; windows widened by two standard errors, clustered by
function. Intervals of new runs (95 %) have the probability 0.93 to 0.97. The same split for curves with noise along two
shapes and in every coordinate by itself, 30 repeats; and for curves with constant noise along two shapes, 100 inputs
run once, with ``noise="fitted"``.

**Fields.** 200 runs of 100 160 output points: peak memory of a process that makes them, fits, predicts mean, sd and
interval at 10 points, draws, and validates by leave-one-out: at most 2 GB, all included.

**Function draws.** 20 000 draws of whole functions after 30 runs of 2 inputs, far from the runs, next to them and next
to the points at which draws are exact: variances within 10 % and correlations within 0.05 of the posterior covariance,
Matérn and squared exponential.

**Correlated scalars.** Pairs of functions whose processes correlate by 0.9, 30 runs of 2 inputs, 50 new points, 20
repeats: 95 % and 50 % intervals of the difference keep the coverage of above, widened by two standard errors, and the
log density of pairs is at least 0.3 nats above that of independent scalars (0.83 if the process were known). What
intervals of independent scalars cover is printed without an aim. Draws of three volumes, one the difference of the
others, obey that to 1e-9 of their size.

`--quick` makes 15 repeats (4 of missing entries, 3 of those of curves, 8 of curves with noise, 6 of pairs), with
windows widened by their standard errors.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import xarray as xr
from _report import Aim, aim, finish
from scipy.special import expit, ndtr

import uqms as uq
from uqms._typing import Array
from uqms.errors import ExtrapolationWarning
from uqms.surrogates import Decoder, GaussianProcessSurrogate
from uqms.surrogates.kernels import Matern52, SquaredExponential, correlation
from uqms.surrogates.prediction import mixture

REPEATS, QUICK = 60, 15
GAPS, CASES, OUTPUTS = 0.3, ((5, 60), (2, 40)), 3  # share of entries; inputs and runs
GAP_REPEATS, GAP_QUICK = 12, 4
NOISE = {"heteroscedastic": 60, "fitted": 60, "curves": 30, "fitted curves": 30}
NOISE_QUICK = {"heteroscedastic": 15, "fitted": 15, "curves": 8, "fitted curves": 8}
TIME = np.linspace(0.0, 1.0, 24)
CURVE_REPEATS, CURVE_QUICK, COORDINATES, SCORES = 8, 3, 40, 6
RUNS, POINTS, DRAWS = 30, 50, 100_000
LEVELS = {0.95: (0.93, 0.985), 0.5: (0.44, 0.58)}
PAIRS, PAIRS_QUICK, RHO = 20, 6, 0.9
FIELD = (320, 313)  # points along the two dims
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
    fitted, curves = kind.startswith("fitted"), kind.endswith("curves")
    inputs, replicates = (100, 1) if fitted else (40, 5)
    made = uq.latin_hypercube(SPACE, inputs, rng=rng)
    x = np.vstack([np.column_stack([made["a"], made["b"]]), rng.random((POINTS, 2))])
    ell = np.exp(rng.uniform(np.log(0.3), np.log(1.5), 2))
    sd = np.full(len(x), 0.3) if fitted else 0.3 * np.exp(0.35 * drawn(x, np.array([0.7, 0.7]), rng))
    shapes = np.ones((1, 1)), np.ones((1, 1)), np.zeros(1)
    if curves:
        shapes = (
            np.stack([np.cos(TIME), np.sin(3.0 * TIME)]),
            np.stack([np.sin(TIME), np.cos(2.0 * TIME)]),
            (0.0 if fitted else 0.3) + 0.0 * TIME,
        )
    signal, noise, own = shapes
    mean = np.column_stack([drawn(x, ell, rng) for _ in signal]) @ signal
    again = np.repeat(np.arange(inputs), replicates)

    def run(rows: Array) -> Array:
        part = rng.standard_normal((len(rows), len(noise))) @ noise + own * rng.standard_normal((len(rows), len(own)))
        return mean[rows] + sd[rows, None] * part

    y, new = run(again), np.arange(inputs, len(x))
    values = y[:, 0] if not curves else xr.DataArray(y, dims=("run", "t"), coords={"t": TIME})
    runs = uq.ensemble.build({"a": x[again, 0], "b": x[again, 1]}, {"y": values}, space=SPACE)
    settings = uq.GaussianProcess(
        noise="fitted" if fitted else "heteroscedastic",
        hyperparameters="point" if curves else "auto",
        outputs={"y": uq.Curve(max_scores=6)} if curves else {},
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


def large_field() -> None:
    """Print seconds of the fit and of leave-one-out, and the peak memory in GB, of a field of 10^5 points."""
    x, y = np.linspace(0.0, 1.0, FIELD[0])[:, None], np.linspace(0.0, 1.0, FIELD[1])
    space = uq.ParameterSpace(**{name: uq.Uniform(0.0, 1.0) for name in "abc"})
    design = uq.sobol(space, 200, rng=1)
    values = np.empty((200, *FIELD))
    for i, (a, b, c) in enumerate(zip(*(design[name].values for name in "abc"), strict=True)):
        bump = np.exp(-((x - 0.2 - 0.6 * a) ** 2 + (y - 0.2 - 0.6 * b) ** 2) / (0.05 + 0.1 * c))
        values[i] = bump + 0.3 * c * np.sin(6.0 * x * (1.0 + b))
    labelled = xr.DataArray(values, dims=("run", "x", "y"), coords={"x": x[:, 0], "y": y})
    runs = uq.ensemble.build(design, {"p": labelled}, space=space)
    start = time.perf_counter()
    surrogate = uq.GaussianProcess().fit(runs)
    fit = time.perf_counter() - start
    prediction = surrogate.predict({name: np.linspace(0.1, 0.9, 10) for name in "abc"})
    assert np.isfinite(prediction.mean["p"].values + prediction.sd["p"].values).all()
    assert np.isfinite(prediction.interval(0.95)["p"].values).all()
    assert prediction.draws(10, rng=1)["p"].shape == (10, 10, *FIELD)
    start = time.perf_counter()
    assert uq.leave_one_out(surrogate).table.loc["p", "q2"] > 0.99
    left_out = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform != "darwin" else 2**30)
    print(json.dumps([fit, left_out, peak]))


def fields() -> list[Aim]:
    """Return the aim of many output points, measured in a process of its own."""
    code = "import surrogate_parts; surrogate_parts.large_field()"
    here = Path(__file__).resolve().parent
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=True)
    fit, left_out, peak = json.loads(done.stdout.splitlines()[-1])
    text = f"fit {fit:.0f} s, leave-one-out {left_out:.0f} s"
    return [aim("10^5 output points x 200 runs: peak memory [GB]", peak, None, 2.0, n=1, reason=text)]


def function_draws() -> list[Aim]:
    """Return the aims of draws of whole functions."""
    aims = []
    made = uq.sobol(SPACE, RUNS, rng=1)
    x = np.column_stack([made["a"], made["b"]])
    runs = uq.ensemble.build(made, {"y": np.sin(4.0 * x[:, 0]) * np.cos(3.0 * x[:, 1]) + x[:, 1]}, space=SPACE)
    for kernel in (Matern52(), SquaredExponential()):
        surrogate = uq.GaussianProcess(kernel=kernel, hyperparameters="point").fit(runs)
        draws = surrogate.functions(20_000, rng=1)
        rng = np.random.default_rng(1)
        places = {"far": rng.random((8, 2))}
        for name, centres in (("next to runs", x[:8]), ("next to anchors", draws.anchors[9:17])):
            places[name] = np.clip(centres + 0.01 * rng.standard_normal((8, 2)), 0.0, 1.0)
        for name, u in places.items():
            exact = surrogate.scores(u).covariance[0, 0]
            found = np.cov(draws(u)[:, :, 0].T)
            off, apart = (np.sqrt(np.diag(one)) for one in (exact, found))
            variance = float(np.abs((apart / off) ** 2 - 1.0).max())
            differ = float(np.abs(found / np.outer(apart, apart) - exact / np.outer(off, off)).max())
            text = f"function draws {name}, {type(kernel).__name__}"
            aims.append(aim(f"{text}: variance off by", variance, None, 0.1, float(np.sqrt(2.0 / 20_000)), 20_000))
            aims.append(aim(f"{text}: correlation off by", differ, None, 0.05, float(np.sqrt(1.0 / 20_000)), 20_000))
    return aims


def pair(seed: int) -> tuple[xr.Dataset, Array, Array]:
    """Return runs of two functions whose processes correlate, new points (POINTS, 2) and the values there."""
    rng = np.random.default_rng((seed, 9))
    made = uq.latin_hypercube(SPACE, RUNS, rng=rng)
    x = np.vstack([np.column_stack([made["a"], made["b"]]), rng.random((POINTS, 2))])
    kappa = correlation(Matern52(), x, x, np.exp(rng.uniform(np.log(0.3), np.log(1.5), 2)))
    root = np.linalg.cholesky(kappa + 1e-10 * np.eye(len(x)))
    y = (root @ rng.standard_normal((len(x), 2))) @ np.linalg.cholesky([[1.0, RHO], [RHO, 1.0]]).T
    return uq.ensemble.build(made, {"p": y[:RUNS, 0], "q": y[:RUNS, 1]}, space=SPACE), x[RUNS:], y[RUNS:]


def of_pairs(surrogate: GaussianProcessSurrogate, u: Array, y: Array) -> tuple[float, list[float]]:
    """Return the mean log density of pairs, and the shares of differences inside of their intervals."""
    scores = surrogate.marginal_scores(u)
    p, q = (surrogate.decode(name) for name in "pq")
    basis, offset = np.vstack([p.basis, q.basis]), np.concatenate([p.offset, q.offset])
    logs = []
    for mean, variance, weight in zip(scores.mean, scores.covariance, scores.log_weights, strict=True):
        covariance = np.einsum("iq,qk,jq->kij", basis, variance, basis)
        error = y - offset - mean @ basis.T
        squares = np.einsum("ki,ki->k", error, np.linalg.solve(covariance, error[..., None])[..., 0])
        logs.append(weight - 0.5 * (squares + np.linalg.slogdet(2.0 * np.pi * covariance)[1]))
    law = mixture(scores, Decoder(p.offset - q.offset, p.basis - q.basis, np.zeros((1, 0))))
    apart = y[:, :1] - y[:, 1:]
    ends = [law.interval(level) for level in LEVELS]
    return float(np.logaddexp.reduce(logs).mean()), [float(np.mean((apart >= a) & (apart <= b))) for a, b in ends]


def correlated(repeats: int, quick: bool) -> list[Aim]:
    """Return the aims of scalars whose errors correlate."""
    found: dict[str, list[tuple[float, list[float]]]] = {"auto": [], "independent": []}
    for seed in range(1, repeats + 1):
        runs, u, y = pair(seed)
        for scalars, each in found.items():
            each.append(of_pairs(uq.GaussianProcess(scalars=scalars).fit(runs), u, y))  # type: ignore[arg-type]
    gain = np.array([a[0] - b[0] for a, b in zip(*found.values(), strict=True)])
    error, room = float(np.std(gain, ddof=1) / np.sqrt(repeats)), 4.0 if quick else 2.0
    low = 0.3 - (error * room if quick else 0.0)
    aims = [aim("correlated scalars: log density of pairs above independent", gain.mean(), low, None, error, repeats)]
    for scalars, each in found.items():
        for k, (level, window) in enumerate(LEVELS.items()):
            inside = np.array([one[1][k] for one in each])
            error = float(np.std(inside, ddof=1) / np.sqrt(repeats))
            ends = (window[0] - room * error, min(1.0, window[1] + room * error))
            text = f"{'correlated' if scalars == 'auto' else scalars} scalars: {level:.0%} intervals of the difference"
            aims.append(aim(text, inside.mean(), *(ends if scalars == "auto" else (None, None)), error, repeats))
    made = uq.sobol(SPACE, RUNS, rng=1)
    a, b = made["a"].values, made["b"].values
    edv, esv = 120.0 + 40.0 * np.sin(2.0 * a + b), 50.0 + 20.0 * np.cos(3.0 * a * b) + 15.0 * b**2
    runs = uq.ensemble.build(made, {"edv": edv, "esv": esv, "sv": edv - esv}, space=SPACE)
    draws = uq.GaussianProcess().fit(runs).predict({"a": [0.2, 0.7], "b": [0.9, 0.4]}).draws(1000, rng=1)
    gap = float(np.abs(draws["edv"] - draws["esv"] - draws["sv"]).max() / 100.0)
    return [*aims, aim("SV = EDV - ESV in draws, off by", gap, None, 1e-9, n=1000)]


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
    aims += split(NOISE_QUICK if quick else NOISE, quick)
    aims += fields() + function_draws()
    aims += missing_of_curves(CURVE_QUICK if quick else CURVE_REPEATS, quick)
    return finish(aims + correlated(PAIRS_QUICK if quick else PAIRS, quick))


if __name__ == "__main__":
    sys.exit(main())
