"""Where chains begin, compared with where the posterior's mass is, on generated problems.

    python benchmarks/starts.py [--quick] [--half chosen|unseen] [--only KIND] [--before]

Kinds of problems, each of which draws its functions, priors, true parameters, sizes and noise anew for every seed:

- `narrow`, `narrow_given`: 2 to 6 parameters through a surrogate of few runs, with a noise sd 100 to 1000 times smaller
  than the output's sd over the prior; scales of the surrogate chosen by the runs, and as given. Where runs are few the
  stated error is large, and such a corner of the box is a decoy.
- `ridge`: as before; data determine a product well, and its factors by a term that is 50 times smaller.
- `even`, `uneven`: a cheap simulator used directly, two modes with masses 50:50 and 95:5 in closed form.
- `decoy`: the same, where the second mode holds 0.1 % or less.
- `mirrored`: a square through a surrogate: two modes whose masses the surrogate's errors decide.

The reference of problems with a surrogate: 1000 particles tempered from t laws at all modes to which climbs from the
true parameters and from 40 draws of the prior lead. Measured for each problem: the total variation between the masses
of the modes and the fractions of 256 starting points there; points elsewhere count in full. Aims: at most 0.15, and no
mode with more than 1 % of the mass without a point, in 95 % of the problems of every kind. CPU seconds are for
information. Seeds of half "chosen" are 1...k, which the method was developed on, those of half "unseen" 1001...1000+k.
`--before` measures tempering from the prior alone.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import xarray as xr
from _report import Aim, aim, binomial, finish

import uqms as uq
from uqms.calibration import exploration
from uqms.calibration.mixture import Mixture
from uqms.calibration.starts import CORRELATION, MOVES, PARTICLES
from uqms.calibration.tempering import temper
from uqms.calibration.whitened import Whitened

Array = np.ndarray
NAMES = ("a", "b", "c", "d", "e", "f")
LIMIT = 0.15  # of the total variation
CLIMBS, MANY, SLACK = 40, 1000, 3.0  # of the reference: climbs, particles, nats below the lowest of them


class Known(NamedTuple):
    """A problem, and which part of its modes each z (n, D) belongs to, with their masses (last: elsewhere)."""

    problem: uq.Calibration
    mode: Callable[[Array], Array]
    mass: Array


def priors(rng: np.random.Generator, d: int) -> uq.ParameterSpace:
    """Return d parameters of the order of 1 with priors of several families."""
    made = [
        uq.LogNormal(median=1.0, sigma=0.5),
        uq.Uniform(0.2, 2.5),
        uq.Normal(1.2, 0.35),
        uq.TruncatedNormal(1.0, 0.6, 0.1, 2.5),
    ]
    return uq.ParameterSpace(**{name: made[rng.integers(len(made))] for name in NAMES[:d]})


def terms(rng: np.random.Generator, d: int) -> Callable[[list[Array], Array], Array]:
    """Return a random smooth curve of d parameters over t."""
    shapes: list[Callable[[Array, Array], Array]] = [
        lambda p, t: np.exp(-p * t),
        lambda p, t: p * t,
        lambda p, t: p * np.sin(6.0 * t),
        lambda p, t: np.tanh(4.0 * (t - 0.4 * p)),
        lambda p, t: p**2 * t * (1.0 - t),
        lambda p, t: np.cos(3.0 * p * t),
        lambda p, t: t / (0.1 + p**2 + t),
    ]
    which, size = rng.permutation(len(shapes))[:d], rng.uniform(0.5, 3.0, d)
    mixed = rng.uniform(-0.5, 0.5)

    def curve(theta: list[Array], t: Array) -> Array:
        out = sum(size[k] * shapes[j](theta[k], t) for k, j in enumerate(which))
        return np.asarray(out + mixed * theta[0] * theta[1] * t)

    return curve


def through_runs(
    rng: np.random.Generator,
    space: uq.ParameterSpace,
    curve: Callable[[list[Array], Array], Array],
    runs: int,
    scales: str | None,
    ratio: float,
) -> tuple[uq.Calibration, Array]:
    """Return the calibration of a surrogate with a noise sd of the output's over `ratio`, and the true z."""
    t = np.linspace(0.05, 1.0, int(rng.integers(len(space.names) + 3, 14)))
    design = uq.sobol(space, runs, rng=int(rng.integers(2**31)))
    curves = curve([design[name].values[:, None] for name in space.names], t)
    output = xr.DataArray(curves, dims=("run", "t"), coords={"t": t})
    method = uq.GaussianProcess() if scales is None else uq.GaussianProcess(scales=scales)
    surrogate = method.fit(uq.ensemble.build(design, {"y": output}, space=space))
    true = {name: float(space.priors[name].quantile(rng.uniform(0.1, 0.9))) for name in space.names}
    sd = float(curves.std(axis=0).mean()) / ratio
    seen = curve([np.array([true[name]])[:, None] for name in space.names], t)[0] + sd * rng.standard_normal(len(t))
    problem = uq.Calibration(
        surrogate, xr.DataArray(seen, dims="t", coords={"t": t}, name="y"), uq.GaussianNoise(sd=sd)
    )
    return problem, Whitened(problem).from_theta(true)


def referenced(problem: uq.Calibration, true: Array, rng: np.random.Generator) -> Known:
    """Return the problem with its modes and their masses."""
    space = Whitened(problem)
    ends, width = exploration._climbed(space, rng.standard_normal((CLIMBS, space.dimension)), true)
    none = temper(lambda z: np.zeros(len(z)), space.dimension, 64, rng)
    peaks = exploration._peaks(space, replace(none, log_evidence=-np.inf), ends, width)
    share = np.full(len(peaks), 1.0 / len(peaks))
    law = Mixture(share, np.stack([p.z for p in peaks]), np.stack([p.root for p in peaks]))
    found = temper(space.log_likelihood, space.dimension, MANY, rng, correlation=0.1, most_moves=30, reference=law)
    lowest = float(space.log_density(found.z).min()) - SLACK

    def mode(points: Array) -> Array:
        return np.where(space.log_density(points) < lowest, len(peaks), nearest(peaks, points))

    return Known(problem, mode, np.bincount(nearest(peaks, found.z), minlength=len(peaks) + 1) / MANY)


def nearest(peaks: list[exploration.Peak], z: Array) -> Array:
    """Return the nearest mode of each point, in units of the mode's width."""
    away = np.stack([np.linalg.norm(np.linalg.solve(p.root, (z - p.z).T), axis=0) for p in peaks])
    return np.asarray(np.argmin(away, axis=0))


def narrow(seed: int, scales: str | None = None) -> Known:
    """Return a narrow posterior of 2 to 6 parameters through a surrogate."""
    rng = np.random.default_rng([seed, 1])
    d = 2 + seed % 5
    problem, true = through_runs(
        rng, priors(rng, d), terms(rng, d), int(rng.integers(10, 25)) * d, scales, 10.0 ** rng.uniform(2.0, 3.0)
    )
    return referenced(problem, true, rng)


def narrow_given(seed: int) -> Known:
    """Return the same with scales as given."""
    return narrow(seed, "given")


def ridge(seed: int) -> Known:
    """Return data that determine a product well and its factors badly."""
    rng = np.random.default_rng([seed, 2])
    d = 2 + seed % 3
    rest = terms(rng, d - 2) if d > 3 else None

    def curve(theta: list[Array], t: Array) -> Array:
        out = np.exp(-theta[0] * theta[1] * t) + 0.02 * (theta[0] - theta[1]) * t**2
        return out + (theta[2] * t if rest is None and d > 2 else 0.0) + (0.0 if rest is None else rest(theta[2:], t))

    problem, true = through_runs(rng, priors(rng, d), curve, 20 * d, None, 10.0 ** rng.uniform(2.0, 3.0))
    return referenced(problem, true, rng)


def mirrored(seed: int) -> Known:
    """Return data of a square, through a surrogate."""
    rng = np.random.default_rng([seed, 3])
    d = 2 + seed % 3
    priors_ = dict(priors(rng, 6).priors) | {"a": uq.Normal(0.0, 1.0)}
    space = uq.ParameterSpace(a=priors_["a"], **{name: priors_[name] for name in NAMES[1:d]})

    def curve(theta: list[Array], t: Array) -> Array:
        out = theta[0] ** 2 * t
        for k, p in enumerate(theta[1:]):
            out = out + np.sin((3.0 + 2.0 * k) * t) * p
        return out

    problem, true = through_runs(rng, space, curve, 20 * d, None, 10.0 ** rng.uniform(2.0, 2.7))
    return referenced(problem, true, rng)


def direct(seed: int, log_odds: float, misfit: float) -> Known:
    """Return a simulator with two modes, a and -a, whose log odds are stated."""
    rng = np.random.default_rng([seed, 4])
    d = 2 + seed % 5
    ratio = 10.0 ** rng.uniform(2.0, 3.0)
    t = np.linspace(0.1, 1.0, d + 4)
    names, sd, true = NAMES[:d], 1.0 / ratio, rng.uniform(0.8, 1.5)
    shift = 0.5 * log_odds / true  # of the prior's centre: log N(a; m) - log N(-a; m) is 2 a m
    priors_ = {"a": uq.Normal(shift, 1.0)} | {name: uq.Normal(0.0, 1.0) for name in names[1:]}
    # The output of each parameter has a direction of its own; a last one has a residual that depends on the sign of a,
    # with a sum of squares of twice the misfit.
    directions = np.sqrt(len(t)) * np.linalg.qr(rng.standard_normal((len(t), d + 1)))[0].T
    small = sd * np.sqrt(2.0 * misfit / len(t))

    def simulator(**theta: Array) -> dict[str, Array]:
        a = np.asarray(theta["a"])[..., None]
        out = a**2 * directions[0] + 0.5 * small * (1.0 - np.tanh(8.0 * a)) * directions[-1]
        for name, one in zip(names[1:], directions[1:], strict=False):
            out = out + (1.0 + 0.2 * np.cos(3.0 * a)) * np.asarray(theta[name])[..., None] * one
        return {"y": out}

    space = uq.ParameterSpace(**priors_)
    own = uq.DirectSimulator(simulator, space=space, outputs={"y": ("t",)}, coords={"t": t}, vectorized=True)
    others = {name: rng.uniform(-1.0, 1.0) for name in names[1:]}
    seen = simulator(a=np.array(true), **others)["y"]
    data = xr.DataArray(seen, dims="t", coords={"t": t}, name="y")
    problem = uq.Calibration(own, data, uq.GaussianNoise(sd=sd))
    share = 1.0 / (1.0 + np.exp(-log_odds - misfit))
    space_ = Whitened(problem)
    best = float(space_.log_likelihood(space_.from_theta({"a": true, **others}))[0])

    def mode(points: Array) -> Array:
        low = space_.log_likelihood(points) < best - misfit - 3.0 * d - 15.0
        return np.where(low, 2, (space_.theta(points)["a"] < 0.0).astype(int))

    return Known(problem, mode, np.array([share, 1.0 - share, 0.0]))


KINDS: dict[str, Callable[[int], Known]] = {
    "narrow": narrow,
    "narrow_given": narrow_given,
    "ridge": ridge,
    "even": lambda seed: direct(seed, 0.0, 0.0),
    "uneven": lambda seed: direct(seed, float(np.log(19.0)), 0.0),
    "decoy": lambda seed: direct(seed, 0.0, 7.0),
    "mirrored": mirrored,
}


def measured(kind: str, seed: int, before: bool) -> dict[str, float]:
    """Return the total variation of one problem, and CPU seconds."""
    known = KINDS[kind](seed)
    space, rng = Whitened(known.problem), np.random.default_rng([seed, 5])
    way = temper if before else None
    start = time.process_time()
    if way is not None:
        found = temper(space.log_likelihood, space.dimension, PARTICLES, rng, correlation=CORRELATION, most_moves=MOVES)
    else:
        found = exploration.explored(space, PARTICLES, rng, correlation=CORRELATION, most_moves=MOVES)
    seconds = time.process_time() - start
    there = np.bincount(known.mode(found.z), minlength=len(known.mass)) / PARTICLES
    return {
        "variation": 0.5 * float(np.abs(there - known.mass).sum()),
        "lost": float(known.mass[(there == 0.0) & (known.mass > 0.01)].sum()),
        "seconds": seconds,
        "modes": float(np.sum(known.mass > 0.01)),
        "smallest": float(known.mass[known.mass > 0.01].min()),
    }


def of_kind(kind: str, seeds: range, before: bool) -> list[Aim]:
    """Return the aim of one kind of problems."""
    found = []
    for seed in seeds:
        found.append(measured(kind, seed, before))
        print(json.dumps({"kind": kind, "seed": seed, **found[-1]}), flush=True)
    share = float(np.mean([one["variation"] <= LIMIT and not one["lost"] for one in found]))
    n = len(found)
    return [
        aim(f"{kind}: starting points are where the mass is", share, low=0.95, mcse=binomial(share, n), n=n),
        aim(f"{kind}: CPU seconds of starting points", float(np.mean([one["seconds"] for one in found])), n=n),
    ]


def main() -> int:
    """Measure every kind and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 problems a kind instead of 40")
    parser.add_argument("--half", choices=["chosen", "unseen"], default="unseen")
    parser.add_argument("--only", choices=list(KINDS), help="one kind")
    parser.add_argument("--before", action="store_true", help="tempering from the prior alone")
    parser.add_argument("--problems", type=int, help="of each kind")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    count = arguments.problems or (5 if arguments.quick else 40)
    first = 1 if arguments.half == "chosen" else 1001
    aims = []
    for kind in KINDS:
        if arguments.only in (None, kind):
            aims += of_kind(kind, range(first, first + count), arguments.before)
    return finish(aims)


if __name__ == "__main__":
    sys.exit(main())
