"""The surrogate's stated error beside its actual one where the posterior is, and what that does to the posterior.

    python benchmarks/local_error.py [--quick] [--only KIND ...] [--designs N] [--half seen|unseen]
                                     [--rounds N] [--margin SHARE] [--correct N] [--noise none|auto] [--given]
                                     [--trend constant|linear|quadratic] [--squared-exponential]
                                     [--cases DIR]

Leave-one-out validates an average over the design box; a posterior occupies a corner of it. Problems of four kinds are
generated, each with a design, a truth and data of its own, and one kind has real data:

- decades: logarithms of concentrations that fall over decades in a corner of the box, where a slow phase takes over;
- epidemic: the demo's outbreak with other ridges, and with the share that is infected at first;
- latency: first spikes of Hodgkin-Huxley type, by the current;
- field: linear Gaussian fields whose noise is known, from 10 times to 1/1000 of the error that a basis with the
  tolerance 1e-6 leaves;
- theoph: the first of 12 patients who swallowed theophylline (Boeckmann, Sheiner & Beal 1994, NONMEM Users Guide, Part
  V; read from DIR/theoph): the same data with designs of different seeds. The measurement at 0 h is left out: no
  parameter changes what the simulator says there.

The exact posterior comes from the simulator on a grid around its own mass (a field's in closed form). Even numbers of a
kind are ``seen``: a method may be chosen on them; odd ones are ``unseen``, and both halves are printed. Aims, pooled
over the problems of a kind and half, each widened by two standard errors between problems:

- mean squared ratio of actual to stated error at posterior draws: 0.6 to 1.6;
- at draws of the exact posterior 95 % intervals cover .92 to .98 and 50 % intervals .40 to .60;
- posterior means, the noise sd's included, are off by at most 0.25 exact sd in the root mean square; the median of
  the ratios of sds is .92 to 1.10, and 90 % of them lie in .8 to 1.25;
- the mean log score at draws of the exact posterior is printed beside that of an oracle, which has the same mean and
  the error that it really makes there (root mean square by output), and so is the 95 % interval score: an inflated
  error covers too, and pays there;
- over the whole box, whose mean error is mostly that of its worst corner, the mean and the root mean square of the
  logarithm of the stated over the actual sum of squared errors are printed;
- cost: of each problem the default fit and one with the fixed tolerance 1e-6, ``Curve(tolerance=1e-6)``, are timed one
  after the other, which first takes turns. The median of the ratios of their processor times is at most 1.5.

A perfect process is run beside: PERFECT functions are drawn from the stated law at draws of the exact posterior, and
each gives the figures of the first two lines, pooled over the problems. The central 95 % of them are printed. This is
no aim: a figure outside of that range says that the law is not right, but the range is wide where posteriors are so
narrow that an output's error is nearly one number, held by all intervals of a problem or by none.

``--rounds`` goes on while `uq.another_round` asks for runs near the posterior, at most so often, and judges the last
posterior. Each problem must end right (every posterior mean within 0.2 exact sds of the exact one, beside two Monte
Carlo standard errors) or with a check of the verdict that warns or fails (that of parameters of which the data say
little does not count). Beside it stands one fixed design with as
many runs as the rounds took in all. Rounds that the posterior does not ask for cannot help, so that ``--narrow SHARE``
starts from fewer runs: SHARE of those of the problem. ``--noise none`` takes runs as exact where by default a scatter
that they show is stated; intervals and errors are those of new runs. ``--correct`` runs the simulator at so many draws
of the last posterior and corrects it by them (`uq.correct`). ``--trend`` and ``--squared-exponential`` fit with another
trend or kernel than the default. ``--quick`` takes 6 problems of a kind in the place of 30.
"""

if __name__ != "__main__":
    raise ImportError("this is a benchmark, not a package")

import argparse
import itertools
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from _report import Aim, aim, finish, line

import uqms as uq
from uqms._typing import Array

SIGMAS = 61  # of the grid over the noise sd
SIDE = {1: 401, 2: 81, 3: 33}  # points of the grid along each of so many parameters
DRAWS, BOX, PERFECT = 200, 600, 200
PLAIN = uq.GaussianProcess(noise="none", outputs={"y": uq.Curve(tolerance=1e-6)})


class Problem(NamedTuple):
    """A simulator of parameters with flat priors (ends), its curve (n, m) over t, the noise, a truth and its data."""

    ends: Array  # (d, 2)
    t: Array
    curve: Callable[[Array], Array]
    runs: int
    sigma: float
    known: bool  # whether the noise sd is
    truth: Array
    data: Array

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters."""
        return tuple(f"p{i}" for i in range(len(self.ends)))

    def outputs(self, design: xr.Dataset) -> xr.DataArray:
        """Return the curves of a design's runs."""
        theta = np.column_stack([design[name].values for name in self.names])
        return xr.DataArray(self.curve(theta), dims=("run", "t"), coords={"t": self.t})


class Exact(NamedTuple):
    """Means and sds of parameters, the noise sd last where it is inferred, and draws of the parameters."""

    mean: Array
    sd: Array
    draws: Array


def decades(rng: np.random.Generator) -> Callable[[Array], Array]:
    """Return the logarithm of a concentration: absorption, fast elimination, and a slow phase below it."""
    t = np.linspace(0.5, 12.0, 12)
    floor, slow = 10.0 ** rng.uniform(-5.0, -3.0), rng.uniform(0.02, 0.1)

    def curve(theta: Array) -> Array:
        ka, k = np.exp(theta[:, :1]), np.exp(theta[:, 1:2])
        ka = np.where(np.abs(ka - k) < 1e-9, ka + 1e-8, ka)
        share = np.exp(theta[:, 2:3]) if theta.shape[1] > 2 else floor
        c = ka / (ka - k) * (np.exp(-k * t) - np.exp(-ka * t))
        return np.asarray(np.log(np.maximum(c, 0.0) + share * np.exp(-slow * t)))

    return curve


def epidemic(rng: np.random.Generator) -> Callable[[Array], Array]:
    """Return the square root of the number of infected on 14 days, by steps of Runge and Kutta."""
    size, step = float(rng.integers(300, 3000)), 0.1

    def curve(theta: Array) -> Array:
        beta, gamma = np.exp(theta[:, 0]), np.exp(theta[:, 1])
        first = np.exp(theta[:, 2]) if theta.shape[1] > 2 else 1.0
        i = first * np.ones(len(theta))
        state = np.stack([size - i, i])

        def change(now: Array) -> Array:
            new = beta * now[0] * now[1] / size
            return np.stack([-new, new - gamma * now[1]])

        out = []
        for _ in range(14):
            for _ in range(round(1.0 / step)):
                k1 = change(state)
                k2 = change(state + 0.5 * step * k1)
                k3 = change(state + 0.5 * step * k2)
                k4 = change(state + step * k3)
                state = state + step / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
            out.append(np.sqrt(np.maximum(state[1], 0.0)))
        return np.stack(out, axis=1)

    return curve


def latency(rng: np.random.Generator) -> Callable[[Array], Array]:
    """Return the time of the first spike in ms at six currents; Hodgkin and Huxley (1952), sodium, potassium, leak."""
    currents, step = np.linspace(12.0, 32.0, 6), 0.02
    leak = rng.uniform(0.25, 0.35)

    def curve(theta: Array) -> Array:
        sodium, potassium = np.exp(theta[:, :1]), np.exp(theta[:, 1:2])
        capacity = np.exp(theta[:, 2:3]) if theta.shape[1] > 2 else 1.0
        v = np.full((len(theta), len(currents)), -65.0)
        m, h, n = 0.0529, 0.5961, 0.3177
        found, before = np.full(v.shape, np.nan), v
        m, h, n = (np.full(v.shape, one) for one in (m, h, n))
        for i in range(1500):  # the exponential Euler method for the gates
            am = 0.1 * (v + 40.0) / -np.expm1(-(v + 40.0) / 10.0)
            bm = 4.0 * np.exp(-(v + 65.0) / 18.0)
            ah, bh = 0.07 * np.exp(-(v + 65.0) / 20.0), 1.0 / (1.0 + np.exp(-(v + 35.0) / 10.0))
            an = 0.01 * (v + 55.0) / -np.expm1(-(v + 55.0) / 10.0)
            bn = 0.125 * np.exp(-(v + 65.0) / 80.0)
            m = am / (am + bm) + (m - am / (am + bm)) * np.exp(-step * (am + bm))
            h = ah / (ah + bh) + (h - ah / (ah + bh)) * np.exp(-step * (ah + bh))
            n = an / (an + bn) + (n - an / (an + bn)) * np.exp(-step * (an + bn))
            flow = sodium * m**3 * h * (v - 50.0) + potassium * n**4 * (v + 77.0) + leak * (v + 54.4)
            before, v = v, v + step * (currents - flow) / capacity
            crossed = np.isnan(found) & (v >= 0.0)
            found[crossed] = (i + (0.0 - before[crossed]) / (v[crossed] - before[crossed])) * step
            if np.isfinite(found).all():
                break
        return np.where(np.isnan(found), 30.0, found)

    return curve


def _box(rng: np.random.Generator, centre: list[float], width: list[tuple[float, float]]) -> Array:
    half = np.array([rng.uniform(*ends) for ends in width])
    return np.column_stack([np.array(centre) - half, np.array(centre) + half])


def problem(kind: str, number: int, cases: Path | None = None) -> Problem:
    """Generate a problem, or read that of real data."""
    rng = np.random.default_rng([KINDS.index(kind), number])
    if kind == "field":
        return _field(rng, number)
    if kind == "theoph":
        if cases is None:
            raise ValueError("theoph is real data; give their folder: --cases DIR")
        return _theoph(cases)
    more = bool(rng.integers(2))
    if kind == "decades":
        curve, t = decades(rng), np.linspace(0.5, 12.0, 12)
        ends = _box(rng, [0.5, -1.0, -8.0][: 2 + more], [(0.4, 0.8), (1.0, 1.6), (1.0, 2.0)][: 2 + more])
        relative, runs = rng.uniform(0.02, 0.1), 80 if more else 48
    elif kind == "epidemic":
        curve, t = epidemic(rng), np.arange(1.0, 15.0)
        ends = _box(rng, [0.5, -0.7, 0.5][: 2 + more], [(0.4, 0.7), (0.4, 0.7), (0.5, 1.0)][: 2 + more])
        relative, runs = rng.uniform(0.3, 1.5), 96 if more else 64
    else:
        curve, t = latency(rng), np.linspace(12.0, 32.0, 6)
        ends = _box(rng, [4.79, 3.58, 0.0][: 2 + more], [(0.15, 0.3), (0.15, 0.3), (0.15, 0.3)][: 2 + more])
        relative, runs = 10.0 ** rng.uniform(-2.0, -1.0), 80 if more else 48
    d = len(ends)
    truth = ends[:, 0] + (0.15 + 0.7 * rng.random(d)) * (ends[:, 1] - ends[:, 0])
    clean = curve(truth[None])[0]
    return Problem(ends, t, curve, runs, relative, False, truth, clean + relative * rng.standard_normal(len(t)))


def _field(rng: np.random.Generator, number: int) -> Problem:
    d, m = 6, 30
    waves = np.linalg.qr(rng.standard_normal((m, d)))[0] * 10.0 ** -np.linspace(0.0, rng.uniform(3.0, 5.0), d)
    ends = np.tile([-1.0, 1.0], (d, 1))
    ratio = (10.0, 1.0, 0.1, 0.01, 0.001)[number // 2 % 5]
    total = float(np.sum(waves**2)) / 3.0
    sigma = ratio * np.sqrt(1e-6 * total / m)
    truth = rng.uniform(-0.8, 0.8, d)
    data = waves @ truth + sigma * rng.standard_normal(m)
    return Problem(ends, np.arange(float(m)), lambda theta: theta @ waves.T, 60, sigma, True, truth, data)


def _theoph(cases: Path) -> Problem:
    """Return the first patient: logarithms of absorption rate, clearance and volume, within a factor of 4.5."""
    table = pd.read_csv(cases / "theoph" / "data.csv")
    table = table[(table["id"] == 1) & (table["time_h"] > 0.0)]
    hours, dose = table["time_h"].to_numpy(dtype=float), float(table["dose_mg"].iloc[0])

    def curve(theta: Array) -> Array:
        absorbed, volume = np.exp(theta[:, :1]), np.exp(theta[:, 2:3])
        lost = np.exp(theta[:, 1:2]) / volume
        absorbed = np.where(np.abs(absorbed - lost) < 1e-9, absorbed + 1e-8, absorbed)
        part = dose / volume * absorbed / (absorbed - lost)
        return np.asarray(part * (np.exp(-lost * hours) - np.exp(-absorbed * hours)))

    centre = np.log([1.5, 3.0, 30.0])
    ends = np.column_stack([centre - 1.5, centre + 1.5])
    # A noise sd of half-normal prior with the scale 2, as in the case's reference.
    return Problem(ends, hours, curve, 80, 0.25, False, centre, table["conc_mg_L"].to_numpy(dtype=float))


def exact(one: Problem, rng: np.random.Generator) -> Exact:
    """Return the posterior of the simulator itself, on grids that close in on it; of many parameters by sampling."""
    d, low, high = len(one.ends), one.ends[:, 0], one.ends[:, 1]
    prior = np.geomspace(one.sigma / 8.0, one.sigma * 8.0, SIGMAS)
    if d > 3:  # linear: the normal law cut off by the box, by rejection, or by Gibbs steps where that is rare
        A = one.curve(np.eye(d))
        C = np.linalg.inv(A @ A.T) * one.sigma**2
        mean = np.linalg.solve(A @ A.T, A @ one.data)
        return _cut_normal(mean, C, low, high, rng)
    points = low + (high - low) * rng.random((20_000, d))
    for _ in range(8):
        weights = _weights(one, points, prior).sum(axis=1)
        weights /= weights.sum()
        centre = weights @ points
        spread = np.sqrt(np.maximum(weights @ (points - centre) ** 2, 1e-20))
        effective = 1.0 / np.sum(weights**2)
        reach = (8.0 if effective > 50.0 else 30.0) * np.maximum(spread, (high - low) * 1e-6)
        left, right = np.maximum(centre - reach, low), np.minimum(centre + reach, high)
        points = left + (right - left) * rng.random((20_000, d))
    steps = [left[i] + (right[i] - left[i]) * (np.arange(SIDE[d]) + 0.5) / SIDE[d] for i in range(d)]
    grid = np.array(list(itertools.product(*steps)))
    joint = _weights(one, grid, prior)
    joint /= joint.sum()
    weights = joint.sum(axis=1)
    mean = weights @ grid
    sd = np.sqrt(weights @ (grid - mean) ** 2)
    cell = (right - left) / SIDE[d]
    draws = grid[rng.choice(len(grid), size=DRAWS, p=weights)] + cell * (rng.random((DRAWS, d)) - 0.5)
    if not one.known:
        of_sigma = joint.sum(axis=0)
        centre = float(of_sigma @ prior)
        mean, sd = np.append(mean, centre), np.append(sd, np.sqrt(of_sigma @ (prior - centre) ** 2))
    return Exact(mean, sd, draws)


def _weights(one: Problem, theta: Array, sigmas: Array) -> Array:
    """Return likelihood times prior (n, SIGMAS) up to a factor; sigma has the prior half-normal(8 sigma) if unknown."""
    square = np.sum((one.curve(theta) - one.data) ** 2, axis=1)[:, None]
    if one.known:
        log = -0.5 * square / one.sigma**2
    else:
        log = -len(one.t) * np.log(sigmas) - 0.5 * square / sigmas**2 - 0.5 * (sigmas / (8.0 * one.sigma)) ** 2
        log = log + np.log(np.gradient(sigmas))
    return np.asarray(np.exp(log - log.max()))


def _cut_normal(mean: Array, C: Array, low: Array, high: Array, rng: np.random.Generator) -> Exact:
    from scipy.stats import truncnorm

    P = np.linalg.inv(C)
    x = np.clip(np.tile(mean, (4000, 1)), low + 1e-9, high - 1e-9)
    for _ in range(60):
        for j in range(len(mean)):
            others = np.delete(np.arange(len(mean)), j)
            centre = mean[j] - (x[:, others] - mean[others]) @ P[j, others] / P[j, j]
            sd = 1.0 / np.sqrt(P[j, j])
            x[:, j] = truncnorm.rvs((low[j] - centre) / sd, (high[j] - centre) / sd, centre, sd, random_state=rng)
    return Exact(x.mean(axis=0), x.std(axis=0), x[:DRAWS])


class Found(NamedTuple):
    """Of one problem: what the aims are about."""

    square: float  # mean squared ratio of actual to stated error at posterior draws
    inside: Array  # (2,) shares of 95 % and 50 % intervals that hold the simulator at draws of the exact posterior
    perfect: Array  # (3, PERFECT) the same three figures of functions of the stated law
    off: Array  # of posterior means, in exact sds
    ratio: Array  # of sds
    scores: Array  # (2, 2) mean log score and interval score, of the surrogate and of the oracle
    verdict: str
    seconds: Array  # of processor time: the fit, one with a fixed tolerance; and everything
    share: float  # of truncation in the stated variance at the exact posterior
    runs: int  # in all rounds
    ended: str  # what `another_round` said at the end, where rounds were asked for
    fixed: float  # the largest error of a mean, exact sds, with a fixed design of as many runs
    whole: float  # logarithm of the stated over the actual sum of squared errors of the whole box
    doubts: tuple[str, ...]  # checks of the verdict that warn or fail, but for parameters that data say little of


def _runs(one: Problem, number: int, count: int | None = None) -> xr.Dataset:
    space = uq.ParameterSpace(**{name: uq.Uniform(*ends) for name, ends in zip(one.names, one.ends, strict=True)})
    design = uq.sobol(space, count or one.runs, rng=number)
    return uq.ensemble.build(design, {"y": one.outputs(design)})


def judged(
    one: Problem, number: int, rounds: int, margin: float, corrected: int, process: uq.GaussianProcess, narrow: float
) -> Found:
    """Fit, calibrate and compare."""
    rng = np.random.default_rng([number, 11])
    runs = _runs(one, number, max(round(narrow * one.runs), 3 * len(one.ends)))
    noise = uq.GaussianNoise(sd=one.sigma if one.known else uq.HalfNormal(8.0 * one.sigma))
    data = xr.DataArray(one.data, dims="t", coords={"t": one.t}, name="y")
    start = time.process_time()
    surrogate, fitted = _timed(runs, number, process)
    posterior = uq.Calibration(surrogate, data, noise).sample(uq.NUTS(draws=500, ess=400), rng=number)
    before, ended = None, ""
    for i in range(rounds):
        asked = uq.another_round(posterior, before)
        ended = "wants more" if asked else ", ".join(check.name for check in asked.remaining) or "no more needed"
        if not asked:
            break
        before = posterior
        more = uq.refine(posterior, 10 * len(one.ends), rng=1000 * number + i)
        runs = uq.ensemble.combine(runs, uq.ensemble.build(more, {"y": one.outputs(more)}))
        surrogate = process.fit(uq.ensemble.inside(runs, margin=margin))
        problem = uq.Calibration(surrogate, data, noise, outside="refined")
        posterior = problem.sample(uq.NUTS(draws=500, ess=400), rng=number)
    else:
        ended = "rounds used up" if rounds else ""
    if corrected:
        design = uq.verification_design(posterior, corrected, rng=number)
        table = uq.ensemble.build(design, {"y": one.outputs(design)})
        posterior = uq.correct(posterior, table, sampler=uq.NUTS(draws=500, ess=400), rng=number).posterior
        surrogate = posterior.problem.surrogate
    seconds = time.process_time() - start
    right = exact(one, rng)
    keys = [*one.names, *(() if one.known else ("sigma",))]
    draws = {name: posterior.draws[name].values.ravel() for name in keys}
    picked = rng.choice(len(draws["p0"]), size=DRAWS)
    at = np.column_stack([draws[name][picked] for name in one.names])
    told, of_told = _of_runs(surrogate, {name: at[:, i] for i, name in enumerate(one.names)})
    square = np.mean((told.mean["y"].values - one.curve(at)) ** 2 / of_told)
    here, variance = _of_runs(surrogate, {name: right.draws[:, i] for i, name in enumerate(one.names)})
    truth, mean = one.curve(right.draws), here.mean["y"].values
    functions = here.draws(PERFECT, rng, noise=True)["y"].values
    inside, perfect = [], [np.mean((functions - mean) ** 2 / variance, axis=(1, 2))]
    for prob in (0.95, 0.5):
        lower, upper = (here.interval(prob, noise=True)["y"].sel(bound=end).values for end in ("lower", "upper"))
        inside.append(float(np.mean((lower <= truth) & (truth <= upper))))
        perfect.append(np.mean((lower <= functions) & (functions <= upper), axis=(1, 2)))
    oracle = np.broadcast_to(np.mean((truth - mean) ** 2, axis=0), variance.shape)
    scores = np.array([[_log_score(truth, mean, v), _interval_score(truth, mean, v)] for v in (variance, oracle)])
    whole = _whole(one, surrogate, rng) if not rounds else float("nan")  # rounds narrow the box
    off = np.array([(draws[name].mean() - right.mean[i]) / right.sd[i] for i, name in enumerate(keys)])
    ratio = np.array([draws[name].std() / right.sd[i] for i, name in enumerate(keys)])
    left = float(np.mean(np.sum(surrogate.decode("y").truncation ** 2, axis=1)) / np.mean(variance))
    status, used, fixed = posterior.verdict.status, runs.sizes["run"], float("nan")
    if rounds and used > one.runs * narrow:
        again = uq.Calibration(process.fit(_runs(one, number, used)), data, noise)
        beside = again.sample(uq.NUTS(draws=500, ess=400), rng=number).draws
        fixed = max(abs(float(beside[n].mean()) - m) / sd for n, m, sd in zip(keys, right.mean, right.sd, strict=True))
    doubts = tuple(check.name for check in posterior.verdict.warnings if check.name != "prior-dominated")
    return Found(
        square=float(square),
        inside=np.array(inside),
        perfect=np.array(perfect),
        off=off,
        ratio=ratio,
        scores=scores,
        verdict=status,
        seconds=np.append(fitted, seconds),
        share=left,
        runs=used,
        ended=ended,
        fixed=fixed,
        whole=whole,
        doubts=doubts,
    )


def _of_runs(
    surrogate: uq.surrogates.GaussianProcessSurrogate, inputs: dict[str, Array]
) -> tuple[uq.surrogates.Prediction, Array]:
    """Return the prediction at inputs, and the variance of runs there: with their scatter, where it was found."""
    told = surrogate.predict(inputs)
    return told, told.variance["y"].values + told.aleatory_variance["y"].values


def _whole(one: Problem, surrogate: uq.surrogates.GaussianProcessSurrogate, rng: np.random.Generator) -> float:
    """Return the logarithm of the stated over the actual sum of squared errors of the whole box."""
    box = one.ends[:, 0] + (one.ends[:, 1] - one.ends[:, 0]) * rng.random((BOX, len(one.ends)))
    told, variance = _of_runs(surrogate, {name: box[:, i] for i, name in enumerate(one.names)})
    actual = np.sum((told.mean["y"].values - one.curve(box)) ** 2)
    return float(np.log(variance.sum() / actual))


def _timed(
    runs: xr.Dataset, number: int, process: uq.GaussianProcess
) -> tuple[uq.surrogates.GaussianProcessSurrogate, Array]:
    """Return the surrogate, and the seconds of its fit and of the default kernel's with a fixed tolerance."""
    found, seconds = {}, {}
    for settings in (process, PLAIN)[:: 1 if number // 2 % 2 else -1]:
        start = time.process_time()
        plain = settings is PLAIN
        found[plain] = settings.fit(runs)
        seconds[plain] = time.process_time() - start
    return found[False], np.array([seconds[False], seconds[True]])


def _log_score(truth: Array, mean: Array, variance: Array) -> float:
    return float(np.mean(-0.5 * np.log(2.0 * np.pi * variance) - 0.5 * (truth - mean) ** 2 / variance))


def _interval_score(truth: Array, mean: Array, variance: Array) -> float:
    """Return the score of 95 % intervals (Gneiting & Raftery 2007), in units of the error's root mean square."""
    half = 1.959964 * np.sqrt(variance)
    beyond = np.maximum(np.abs(truth - mean) - half, 0.0)
    return float(np.mean(2.0 * half + 40.0 * beyond) / np.sqrt(np.mean((truth - mean) ** 2)))


def aims_of(kind: str, half: str, found: list[Found]) -> list[Aim]:
    """Return the aims of a kind and half."""
    label, n = f"{kind}, {half}", len(found)

    def pooled(name: str, values: Array, of_law: Array, low: float, high: float) -> Aim:
        error = float(np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else float("inf")
        beside = "a perfect process: {:.3f} to {:.3f}".format(*np.quantile(of_law, [0.025, 0.975]))
        return aim(f"{label}: {name}", float(values.mean()), low - 2 * error, high + 2 * error, error, n, beside)

    perfect = np.mean([one.perfect for one in found], axis=0)
    inside = np.array([one.inside for one in found])
    squares = np.array([np.mean(one.off**2) for one in found])
    ratios = np.concatenate([one.ratio for one in found])
    error = float(np.std(squares, ddof=1) / np.sqrt(n)) if n > 1 else float("inf")
    spread = 1.25 * float(np.std(ratios, ddof=1)) / np.sqrt(n)
    outside = float(np.mean((ratios < 0.8) | (ratios > 1.25)))
    scores = np.mean([one.scores for one in found], axis=0)
    seconds = np.array([one.seconds for one in found])
    cost = float(np.median(seconds[:, 0] / seconds[:, 1]))
    medians = "default {:.2f} s, fixed tolerance {:.2f} s".format(*np.median(seconds[:, :2], axis=0))
    failed = sum(one.verdict == "fail" for one in found)
    whole = np.array([one.whole for one in found])
    rms = float(np.sqrt(np.mean(whole**2)))
    return [
        pooled(
            "squared ratio of actual to stated error", np.array([one.square for one in found]), perfect[0], 0.6, 1.6
        ),
        pooled("95 % intervals of new runs", inside[:, 0], perfect[1], 0.92, 0.98),
        pooled("50 % intervals of new runs", inside[:, 1], perfect[2], 0.40, 0.60),
        aim(f"{label}: squared error of means, exact sds", float(squares.mean()), None, 0.0625 + 2 * error, error, n),
        aim(f"{label}: median ratio of sds", float(np.median(ratios)), 0.92 - 2 * spread, 1.10 + 2 * spread, spread, n),
        aim(f"{label}: ratios of sds outside of .8 to 1.25", outside, None, 0.1 + 2 * np.sqrt(0.09 / n), None, n),
        aim(f"{label}: log score less the oracle's", float(scores[0, 0] - scores[1, 0]), None, None, None, n),
        aim(f"{label}: interval score over the oracle's", float(scores[0, 1] / scores[1, 1]), None, None, None, n),
        aim(f"{label}: truncation's share", float(np.mean([one.share for one in found])), None, None, None, n),
        aim(f"{label}: stated over actual squares of the box, mean log", float(whole.mean()), None, None, None, n),
        aim(f"{label}: stated over actual squares of the box, rms log", rms, None, None, None, n),
        aim(f"{label}: verdicts that fail", failed / n, None, None, None, n),
        aim(f"{label}: cost of a fit over one with a fixed tolerance", cost, None, 1.5, None, n, medians),
        aim(f"{label}: seconds of everything", float(seconds[:, 2].sum()), None, None, None, n),
    ]


def aims_of_rounds(kind: str, half: str, found: list[Found]) -> list[Aim]:
    """Return how rounds end."""
    label, n = f"{kind}, {half}", len(found)
    worst = np.array([np.abs(one.off).max() for one in found])
    right = worst <= RIGHT + 2.0 * MONTE_CARLO
    warned = np.array([bool(one.doubts) for one in found])
    more = np.array([one.runs for one in found])
    fixed = np.array([one.fixed for one in found])
    compared = np.isfinite(fixed)
    out = [
        aim(f"{label}: end right or with a check that warns", float(np.mean(right | warned)), 1.0, n=n),
        aim(f"{label}: end right", float(right.mean()), n=n),
        aim(f"{label}: median of all runs", float(np.median(more)), n=n),
    ]
    both = {"rounds": right[compared], "a fixed design of as many runs": fixed[compared] <= RIGHT + 2.0 * MONTE_CARLO}
    for way, values in both.items():
        name = f"{label}: end right with {way}, where rounds were asked for"
        if len(values):
            out.append(aim(name, float(values.mean()), n=len(values)))
        else:
            out.append(aim(name, None, reason="no rounds were asked for"))
    return out


RIGHT, MONTE_CARLO = 0.2, 0.05  # exact sds; the standard error of a mean of 400 effective draws
KINDS = ("decades", "epidemic", "latency", "field", "theoph")


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="6 problems of a kind")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS, metavar="KIND", help="of these kinds alone")
    parser.add_argument("--designs", type=int, default=30, help="problems of a kind")
    parser.add_argument("--half", choices=("seen", "unseen"), help="one half alone")
    parser.add_argument("--rounds", type=int, default=0, help="at most so many rounds of `refine`")
    parser.add_argument("--margin", type=float, default=0.1, help="of `uq.ensemble.inside` between rounds")
    parser.add_argument("--narrow", type=float, default=1.0, metavar="SHARE", help="of the runs, before rounds")
    parser.add_argument("--noise", choices=("none", "auto"), default="auto", help="of the surrogates")
    parser.add_argument("--given", action="store_true", help="surrogates with scales='given'")
    parser.add_argument("--trend", choices=("constant", "linear", "quadratic"), default="constant")
    parser.add_argument("--squared-exponential", action="store_true", help="surrogates with this kernel")
    parser.add_argument("--correct", type=int, default=0, help="runs at draws of the last posterior that correct it")
    parser.add_argument("--cases", type=Path, metavar="DIR", help="folder of the reference cases, for theoph")
    parser.add_argument("-v", action="store_true", help="a line for each problem")
    args = parser.parse_args()
    count = 6 if args.quick else args.designs
    aims: list[Aim] = []
    process = uq.GaussianProcess(noise=args.noise, scales="given" if args.given else "auto", trend=args.trend)
    if args.squared_exponential:
        process = replace(process, kernel=uq.SquaredExponential())
    for kind in args.only:
        if kind == "theoph" and (args.cases is None or not (args.cases / "theoph" / "data.csv").exists()):
            print("# theoph: skipped, since there is no DIR/theoph/data.csv; give the folder of the cases: --cases DIR")
            continue
        warm = problem(kind, 0, args.cases)  # what compiles at its first use is not counted
        _timed(_runs(warm, 0), 0, process)
        for start, half in enumerate(("seen", "unseen")):
            if args.half not in (None, half):
                continue
            found = []
            for number in range(start, count, 2):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found.append(
                        judged(
                            problem(kind, number, args.cases),
                            number,
                            args.rounds,
                            args.margin,
                            args.correct,
                            process,
                            args.narrow,
                        )
                    )
                if args.v:
                    one = found[-1]
                    print(
                        f"# {kind} {number}: squared ratio {one.square:.2f}, inside {one.inside.round(2)}, off "
                        f"{one.off.round(2)}, sds {one.ratio.round(2)}, truncation {one.share:.1e}, {one.verdict}, "
                        f"{one.seconds.round(1)} s; {one.runs} runs, {one.ended}, fixed {one.fixed:.2f}, "
                        f"{', '.join(one.doubts)}",
                        flush=True,
                    )
            new = aims_of_rounds(kind, half, found) if args.rounds else aims_of(kind, half, found)
            aims += new
            for each in new:
                print(line(each), flush=True)
    return finish(aims)


sys.exit(main())
