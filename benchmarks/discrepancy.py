"""Intervals with the default discrepancy hold the true tuning parameter of a simulator that is structurally wrong.

    python benchmarks/discrepancy.py [--quick] [--only KIND ...] [--problems N] [--half seen|unseen]

Each problem has a simulator with one tuning parameter, and a reality that is the simulator at the true value plus one
smooth function, drawn anew: a Gaussian process (squared exponential, so none of the library's own) with a standard
deviation of .03 to .5 of the signal's, log-uniform, length scales of .25 to 1.5 of the range, and noise of .02 to .2
of the signal. Kinds:

- drop: balls that fall through the air; times by height, under three radii (few levels of a condition);
- drops: the same with twelve radii, two heights each (a condition that varies continuously);
- elimination: concentrations by time, under two doses;
- eliminations: concentrations of ten doses at three times each.

Two further kinds have missing physics in the place of a random function, as the case ball_drop_1 does: the simulator's
drag is linear, (C / R) v, and that of reality is (C / R) v (1 + a (v / V)^q) with another power, more or less of it
than linear at high speed (a of either sign, q of 0.3 to 1.5, V of 5 to 20 m/s). There the tuning parameter has no true
value but the one whose noise-free curves are nearest to reality where it was measured (least squares), which is what
the aims are about. Coverage of the drag at low speed is printed for information: the missing term always resembles a
larger or smaller C, and no discrepancy whose shape is not known can give that C back (Brynjarsdottir & O'Hagan 2014).

- drag: three radii, all four heights; drags: twelve radii, two heights each.

Even numbers of a kind are ``seen``: a default may be chosen on them; odd ones are ``unseen``, and both halves are
printed. The simulator is exact, so that nothing but the discrepancy is judged. Aims, pooled over the problems of random
functions, and over those of missing physics, widened by two standard errors: the 95 % interval holds the true value in
at least .92, the 50 % interval in at least .44.
Printed for information: the width of the 95 % interval in units of the prior's, and both figures without a
discrepancy, with its scale known, and with a half-normal scale of a tenth of the prior-predictive standard deviation,
which does not know the data.

The last part fits n = 40 measurements without a discrepancy, where reality has one of twice the noise's standard
deviation: the verdict doubts at least .90 of them, and at most .05 of those where reality is the simulator; and it
compares what the verdict says of a quarter and four times the scale (reweighted or refitted) with the quadrature.
"""

if __name__ != "__main__":
    raise ImportError("this is a benchmark, not a package")

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from _report import Aim, aim, finish, line
from scipy.linalg import cholesky, solve_triangular
from scipy.special import logsumexp
from scipy.stats import multivariate_t, qmc

import uqms as uq
from uqms._typing import Array
from uqms.calibration import refits as library

GRAVITY = 9.8


class Kind(NamedTuple):
    """A simulator (theta (n,), condition (n,)) to (n, m), its tuning parameter's range, places and conditions."""

    curve: Callable[[Array, Array], Array]
    range: tuple[float, float]
    places: Array
    conditions: Callable[[np.random.Generator], Array]
    box: tuple[float, float]
    measured: int  # places of a condition that are measured
    conditional: str
    along: str
    reality: Callable[[float, Array, np.random.Generator], Array] | None = None  # (theta, condition) to (n, m)


class Problem(NamedTuple):
    """A kind, the true tuning parameter, the data, and the parameter that reality was made with."""

    kind: Kind
    truth: float
    data: pd.DataFrame
    noise: float
    discrepancy: float
    physical: float


def drop(theta: Array, radius: Array) -> Array:
    """Return the time of fall (n, m) from heights with linear drag, by Newton's method."""
    heights = DROP_HEIGHTS[None, :]
    k = (np.asarray(theta) / np.asarray(radius))[:, None]
    t = np.sqrt(2.0 * heights / GRAVITY) * np.ones_like(k)
    for _ in range(60):
        fallen = GRAVITY * (t / k - (1.0 - np.exp(-k * t)) / k**2)
        t = t - (fallen - heights) / (GRAVITY / k * (1.0 - np.exp(-k * t)))
    return t


def air(theta: float, radius: Array, rng: np.random.Generator) -> Array:
    """Return the time of fall (n, m) under a drag of another power than the simulator's, by Runge-Kutta."""
    extra = float(np.exp(rng.uniform(np.log(0.05), 0.0)))
    extra = max(-0.5, extra * float(rng.choice([-1.0, 1.0])))
    power, speed = float(rng.uniform(0.3, 1.5)), float(rng.uniform(5.0, 20.0))

    def slope(state: Array) -> Array:
        v = np.maximum(state[1], 0.0)
        drag = theta / radius * v * np.maximum(1.0 + extra * (v / speed) ** power, 0.2)
        return np.stack([state[1], GRAVITY - drag])

    step, states = 0.005, [np.zeros((2, len(radius)))]
    while states[-1][0].min() < DROP_HEIGHTS[-1]:
        y = states[-1]
        k1 = slope(y)
        k2 = slope(y + 0.5 * step * k1)
        k3 = slope(y + 0.5 * step * k2)
        k4 = slope(y + step * k3)
        states.append(y + step / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4))
    fallen, time = np.stack(states)[:, 0], step * np.arange(len(states))
    return np.stack([np.interp(DROP_HEIGHTS, column, time) for column in fallen.T])


def elimination(theta: Array, dose: Array) -> Array:
    """Return logarithms of concentrations (n, m) whose elimination saturates a little with the dose."""
    rate = np.asarray(theta)[:, None] / (1.0 + 0.3 * np.asarray(dose)[:, None])
    return np.log(np.asarray(dose)[:, None]) - rate * TIMES[None, :]


GRID, POINTS = 401, 512
FACTORS = (0.25, 4.0)
SMC = uq.SMC(particles=1000)
RESIDUALS = ("autocorrelated residuals", "predictive misfit")
DROP_HEIGHTS = np.array([5.0, 10.0, 15.0, 20.0])
TIMES = np.linspace(0.5, 8.0, 8)
KINDS = {
    "drop": Kind(
        drop, (0.05, 0.3), DROP_HEIGHTS, lambda rng: np.array([0.1, 0.2, 0.4]), (0.05, 0.5), 4, "radius", "height"
    ),
    "drops": Kind(
        drop, (0.05, 0.3), DROP_HEIGHTS, lambda rng: rng.uniform(0.1, 0.4, 12), (0.05, 0.5), 2, "radius", "height"
    ),
    "elimination": Kind(
        elimination, (0.1, 1.0), TIMES, lambda rng: np.array([1.0, 3.0]), (0.5, 5.0), 8, "dose", "time"
    ),
    "eliminations": Kind(
        elimination, (0.1, 1.0), TIMES, lambda rng: rng.uniform(0.7, 4.0, 10), (0.5, 5.0), 3, "dose", "time"
    ),
}
KINDS |= {"drag": KINDS["drop"]._replace(reality=air), "drags": KINDS["drops"]._replace(reality=air)}


def smooth(points: Array, rng: np.random.Generator) -> Array:
    """Return one draw of a squared exponential process of sd 1 at points (n, 2) in the unit square."""
    lengths = rng.uniform(0.25, 1.5, points.shape[1])
    step = (points[:, None] - points[None]) / lengths
    covariance = np.exp(-0.5 * np.sum(step**2, axis=2)) + 1e-9 * np.eye(len(points))
    return np.asarray(np.linalg.cholesky(covariance) @ rng.standard_normal(len(points)))


def problem(kind: Kind, seed: int, noise: float | None = None, discrepancy: float | None = None) -> Problem:
    """Return a problem of a kind; noise and discrepancy in units of the signal's standard deviation."""
    rng = np.random.default_rng(seed)
    low, high = kind.range
    truth = physical = float(rng.uniform(low + 0.1 * (high - low), high - 0.1 * (high - low)))
    conditions = kind.conditions(rng)
    chosen = np.stack([np.sort(rng.choice(len(kind.places), kind.measured, replace=False)) for _ in conditions])
    rows = np.repeat(np.arange(len(conditions)), kind.measured)
    columns = chosen.ravel()
    signal = kind.curve(np.full(len(conditions), truth), conditions)[rows, columns]
    size = float(np.std(signal))
    noise = float(np.exp(rng.uniform(np.log(0.02), np.log(0.2)))) if noise is None else noise
    discrepancy = float(np.exp(rng.uniform(np.log(0.03), np.log(0.5)))) if discrepancy is None else discrepancy
    if kind.reality is None:
        at = np.column_stack(
            [
                (kind.places[columns] - kind.places[0]) / np.ptp(kind.places),
                (conditions[rows] - conditions.min()) / np.ptp(conditions),
            ]
        )
        real = signal + size * discrepancy * smooth(at, rng)
    else:
        real = kind.reality(physical, conditions, rng)[rows, columns]
        truth = nearest(kind, conditions, rows, columns, real)
        while not low + 0.05 * (high - low) < truth < high - 0.05 * (high - low):  # the prior admits the truth
            physical = float(rng.uniform(low + 0.1 * (high - low), high - 0.1 * (high - low)))
            real = kind.reality(physical, conditions, rng)[rows, columns]
            truth = nearest(kind, conditions, rows, columns, real)
        discrepancy = (
            float(np.std(real - kind.curve(np.full(len(conditions), truth), conditions)[rows, columns])) / size
        )
    values = real + size * noise * rng.standard_normal(len(rows))
    data = pd.DataFrame({kind.along: kind.places[columns], kind.conditional: conditions[rows], "y": values})
    return Problem(kind, truth, data, noise * size, discrepancy * size, physical)


def nearest(kind: Kind, conditions: Array, rows: Array, columns: Array, reality: Array) -> float:
    """Return the tuning parameter whose curves are nearest to reality, in least squares."""
    grid = np.linspace(*kind.range, GRID)
    curves = np.stack([kind.curve(grid, np.full(GRID, condition)) for condition in conditions])
    distance = np.sum((curves[rows, :, columns] - reality[:, None]) ** 2, axis=0)
    return float(grid[np.argmin(distance)])


def calibration(one: Problem, discrepancy: uq.GPDiscrepancy | None, fitted: bool = False) -> uq.Calibration:
    """Return the calibration of a problem with the exact simulator, or a surrogate, and an unknown noise sd."""
    kind = one.kind
    space = uq.ParameterSpace(theta=uq.Uniform(*kind.range), conditions={kind.conditional: uq.Condition(*kind.box)})

    def curve(**inputs: Array) -> dict[str, Array]:
        return {"y": kind.curve(np.atleast_1d(inputs["theta"]), np.atleast_1d(inputs[kind.conditional]))}

    simulator = uq.DirectSimulator(
        curve, space=space, outputs={"y": (kind.along,)}, coords={kind.along: kind.places}, vectorized=True
    )
    if fitted:
        design = uq.sobol(space, 40, rng=1)
        runs = kind.curve(design["theta"].values, design[kind.conditional].values)
        ensemble = uq.ensemble.build(design, {"y": (kind.along, runs, kind.places)}, space=space)
        simulator = uq.GaussianProcess().fit(ensemble)
    observations = uq.Observations.from_table(
        one.data, output="y", value="y", coords={kind.along: kind.along}, conditions=[kind.conditional]
    )
    noise = uq.GaussianNoise(uq.HalfNormal(float(one.data["y"].std())))
    return uq.Calibration(simulator, observations, noise, discrepancy=discrepancy)


class Rule:
    """Log-likelihoods of a problem on a grid of theta, for many noise sds, scales and lengths at once."""

    def __init__(self, one: Problem) -> None:
        kind, table = one.kind, one.data
        self.grid = np.linspace(*kind.range, GRID)
        along, conditional = table[kind.along].to_numpy(), table[kind.conditional].to_numpy()
        columns = np.searchsorted(kind.places, along)
        levels, level = np.unique(conditional, return_inverse=True)
        curves = [kind.curve(self.grid, np.full(GRID, value)) for value in levels]
        self.residual = table["y"].to_numpy()[:, None] - np.stack(
            [curves[k][:, c] for k, c in zip(level, columns, strict=True)]
        )
        self.steps = [(column[:, None] - column) ** 2 for column in (along, conditional)]

    def __call__(self, values: Array) -> Array:
        """Return log-likelihoods (m, grid) for (m, 4): sigma, delta_sd and its two lengths; (m, 1) without it."""
        n, out = len(self.residual), np.empty((len(values), GRID))
        for row, (sigma, *delta) in enumerate(values):
            covariance = sigma**2 * np.eye(n)
            if delta:
                r2 = 5.0 * sum(step / length**2 for step, length in zip(self.steps, delta[1:], strict=True))
                r = np.sqrt(r2)
                covariance += delta[0] ** 2 * (1.0 + r + r2 / 3.0) * np.exp(-r)
            factor = cholesky(covariance, lower=True)
            white = solve_triangular(factor, self.residual, lower=True)
            out[row] = -0.5 * np.sum(white**2, axis=0) - np.log(np.diag(factor)).sum()
        return np.asarray(out - 0.5 * n * np.log(2.0 * np.pi))


def marginal(one: Problem, priors: Mapping[str, uq.Uniform]) -> tuple[Array, Array]:
    """Return grid and probabilities of theta, the other quantities integrated out by adaptive importance sampling."""
    rule, names = Rule(one), [name for name in priors if name != "theta"]
    laws = [priors[name] for name in names]
    cube = qmc.Sobol(len(laws), seed=1).random(POINTS)
    x = np.column_stack([np.log(law.quantile(cube[:, j])) for j, law in enumerate(laws)])
    terms = rule(np.exp(x))
    weight = logsumexp(terms, axis=1)
    for _ in range(3):
        power = 1.0  # tempered, until enough points carry the next proposal
        while (w := np.exp(power * (weight - weight.max()))).sum() ** 2 / np.sum(w**2) < 40.0:
            power *= 0.8
        w /= w.sum()
        mean = w @ x
        spread = 1.3 * (w[:, None] * (x - mean)).T @ (x - mean) + 1e-4 * np.eye(len(laws))
        proposal = multivariate_t(mean, spread, df=5, seed=2)
        x = proposal.rvs(POINTS).reshape(POINTS, -1)
        terms = rule(np.exp(x))
        log_prior = sum(law.log_density(np.exp(x[:, j])) + x[:, j] for j, law in enumerate(laws))
        correction = log_prior - proposal.logpdf(x)
        weight = logsumexp(terms, axis=1) + correction
    probability = np.exp(terms + (correction - weight.max())[:, None]).sum(axis=0)
    return rule.grid, probability / probability.sum()


def judged(one: Problem, priors: Mapping[str, uq.Uniform]) -> tuple[float, float, float]:
    """Return the probability below the truth, the 95 % interval's width in the prior's range, and that below C."""
    grid, probability = marginal(one, priors)
    below = np.cumsum(probability)
    low, high = np.interp([0.025, 0.975], below, grid)
    at = np.interp([one.truth, one.physical], grid, below)
    return float(at[0]), float((high - low) / np.ptp(grid)), float(at[1])


def check_likelihood(one: Problem, problem: uq.Calibration) -> None:
    """Raise unless the quadrature's likelihood is the library's."""
    rng, rule = np.random.default_rng(0), Rule(one)
    at = np.array([GRID // 5, GRID // 2, 4 * GRID // 5])
    drawn = {name: prior.draw(rng, 3) for name, prior in problem.priors.items()} | {"theta": rule.grid[at]}
    ours = np.diag(rule(np.column_stack([values for name, values in drawn.items() if name != "theta"]))[:, at])
    np.testing.assert_allclose(ours, problem.log_likelihood(drawn), rtol=1e-6)


def intervals(name: str, half: str, count: int) -> tuple[list[Aim], dict[str, Array]]:
    """Return coverage and width by discrepancy, and the probabilities below the truth (count,) of each."""
    found: dict[str, list[tuple[float, float, float]]] = {
        kind: [] for kind in ("default", "none", "known scale", "tenth of the prior predictive")
    }
    seeds = [seed for seed in range(1, 2 * count + 1) if (seed % 2 == 0) == (half == "seen")]
    for seed in seeds:
        one = problem(KINDS[name], seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", uq.errors.UqmsWarning)
            default, none = calibration(one, uq.GPDiscrepancy()), calibration(one, None)
        if seed == seeds[0]:
            check_likelihood(one, default)
        found["default"].append(judged(one, default.priors))
        found["none"].append(judged(one, none.priors))
        close = uq.LogNormal(median=one.discrepancy, sigma=0.01)
        found["known scale"].append(judged(one, {**default.priors, "delta_sd": close}))
        small = uq.HalfNormal(0.1 * float(np.sqrt(Rule(one).residual.var(axis=1).mean())))  # theta is uniform
        found["tenth of the prior predictive"].append(judged(one, {**default.priors, "delta_sd": small}))
    aims = []
    for kind, figures in found.items():
        below, width, physical = np.array(figures).T
        for level in (0.95, 0.5):
            inside = np.abs(below - 0.5) < 0.5 * level
            aims.append(_covered(f"{name}, {half}, {kind}: {level:.0%} intervals cover", inside, None))
            if KINDS[name].reality is not None:
                inside = np.abs(physical - 0.5) < 0.5 * level
                aims.append(
                    _covered(f"{name}, {half}, {kind}: {level:.0%} intervals cover C at low speed", inside, None)
                )
        aims.append(aim(f"{name}, {half}, {kind}: mean width of the 95 % interval", float(width.mean()), n=len(width)))
    return aims, {kind: np.array(figures)[:, 0] for kind, figures in found.items()}


def _covered(name: str, inside: Array, low: float | None) -> Aim:
    """Return the aim of a coverage, its bound widened by two standard errors."""
    n, value = len(inside), float(np.mean(inside))
    error = float(np.sqrt(max(value * (1.0 - value), 0.25 / n) / n))
    bound = None if low is None else low - 2.0 * float(np.sqrt(low * (1.0 - low) / n))
    return aim(name, value, low=bound, mcse=error, n=n)


def flagged(count: int) -> list[Aim]:
    """Return how often the verdict of a fit without a discrepancy doubts it, with and without one in reality."""
    times = np.linspace(0.4, 8.0, 20)
    dense = KINDS["elimination"]._replace(places=times, measured=20, curve=lambda theta, dose: long(theta, dose, times))
    aims = []
    for size, low, high in ((2.0, 0.9, None), (0.0, None, 0.05)):
        doubted = []
        for seed in range(1, count + 1):
            one = problem(dense, seed, noise=0.1, discrepancy=0.1 * size)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                verdict = calibration(one, None).sample(uq.SMC(), rng=seed).verdict
            doubted.append(any(check.name in RESIDUALS for check in verdict.warnings))
        value = float(np.mean(doubted))
        bounds = {
            "low": None if low is None else low - 2.0 * float(np.sqrt(low * (1.0 - low) / count)),
            "high": None if high is None else high + 2.0 * float(np.sqrt(high * (1.0 - high) / count)),
        }
        name = f"fits without a discrepancy that the verdict doubts, reality has {size:g} noise sds"
        aims.append(
            aim(name, value, mcse=float(np.sqrt(max(value * (1.0 - value), 0.25 / count) / count)), n=count, **bounds)
        )
    return aims


def refits(count: int, by_nuts: int) -> list[Aim]:
    """Return how far the verdict's figures for other scales are off, by refit and by weights, and what refits cost.

    Of problems of all kinds with the default scale, and with one that is far too small (a hundredth of the prior
    predictive), where weights fail. The true figures are those of the quadrature. Errors of a shift are in units of the
    wider posterior's standard deviation. Simulators are exact for SMC and surrogates for NUTS, of which the time alone
    is judged.
    """
    errors: dict[str, list[tuple[float, float]]] = {"refitted": [], "reweighted": []}
    extra: dict[str, list[float]] = {"SMC": [], "NUTS": []}
    unknown, moved = 0, []
    for number in range(count):
        for i, kind in enumerate(KINDS.values()):
            one = problem(kind, 1000 + 2 * number + i)
            small = uq.HalfNormal(0.01 * float(np.sqrt(Rule(one).residual.var(axis=1).mean())))
            for sd in (None, small):
                posed, row, ways, cost = _timed(one, sd, SMC, number)
                before = _moments(one, posed.priors, 1.0)
                for factor, way in zip(FACTORS, ways, strict=True):
                    after = _moments(one, posed.priors, factor)
                    wider = max(after[1], before[1])
                    shift = abs(row[f"shift x{factor:g}"] * before[1] - (after[0] - before[0])) / wider
                    width = row[f"width_ratio x{factor:g}"] / (after[2] / before[2]) - 1.0
                    if "do not use" in way:
                        unknown += 1
                        continue
                    errors["refitted" if "refitted" in way else "reweighted"].append((shift, abs(width)))
                    if sd is None:
                        moved.append((abs(after[0] - before[0]) / before[1], after[2] / before[2]))
                if "refitted" in " ".join(ways):
                    extra["SMC"].append(cost)
                    print(f"SMC, cost {cost:.2f} of the calibration; {'; '.join(ways)}", flush=True)
    for number in range(by_nuts):
        one = problem(list(KINDS.values())[number % len(KINDS)], 2000 + number)
        small = uq.HalfNormal(0.01 * float(np.sqrt(Rule(one).residual.var(axis=1).mean())))
        _, _, ways, cost = _timed(one, small, uq.NUTS(), number)
        if "refitted" in " ".join(ways):
            extra["NUTS"].append(cost)
            print(f"NUTS, cost {cost:.2f} of the calibration; {'; '.join(ways)}", flush=True)
    aims = [aim("answers for another scale that are not known", float(unknown), n=2 * 2 * count * len(KINDS))]
    for way, found in errors.items():
        if found:
            shift, width = np.quantile(np.array(found), 0.9, axis=0)
            aims += [
                aim(f"{way}: 90 % of the errors of a shift are below, sds", float(shift), None, 0.2, n=len(found)),
                aim(f"{way}: 90 % of the relative errors of a width are below", float(width), None, 0.2, n=len(found)),
            ]
    for name, costs in extra.items():
        if costs:
            aims += [
                aim(f"{name}: time of refits over that of the calibration, median", float(np.median(costs))),
                aim(
                    f"{name}: time of refits over that of the calibration, largest", max(costs), None, 1.0, n=len(costs)
                ),
            ]
    shift, width = np.array(moved).T
    return aims + [
        aim("default scale: fraction of factors whose mean moves by more than 1 sd", float(np.mean(shift > 1.0))),
        aim("default scale: largest shift, sds", float(shift.max()), n=len(shift)),
        aim("default scale: narrowest width over what it was", float(width.min()), n=len(width)),
        aim("default scale: widest width over what it was", float(width.max()), n=len(width)),
    ]


def _timed(
    one: Problem, sd: uq.HalfNormal | None, sampler: uq.SMC | uq.NUTS, seed: int
) -> tuple[uq.Calibration, pd.Series, list[str], float]:
    """Return the calibration, what the posterior says of theta and how, and the cost of the other scales over the rest.

    The cost is that of everything that is done for them, by weights and by refits.
    """
    spent, plain = [0.0], library.by_piece

    def timed(*settings: object) -> object:
        start = time.perf_counter()
        found = plain(*settings)
        spent[0] += time.perf_counter() - start
        return found

    library.by_piece = timed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            posed = calibration(one, uq.GPDiscrepancy(sd=sd), fitted=isinstance(sampler, uq.NUTS))
            start = time.perf_counter()
            table = posed.sample(sampler, rng=seed).rescale_discrepancy()
            whole = time.perf_counter() - start
    finally:
        library.by_piece = plain
    return posed, table.loc["theta"], table.attrs["remarks"], spent[0] / (whole - spent[0])


def _moments(one: Problem, priors: Mapping[str, uq.Uniform], factor: float) -> tuple[float, float, float]:
    """Return mean, sd and width of the 95 % interval with `factor` times the scale of the discrepancy."""
    scaled = {**priors, "delta_sd": uq.HalfNormal(factor * priors["delta_sd"].sd)}
    grid, probability = marginal(one, scaled)
    mean = float(probability @ grid)
    low, high = np.interp([0.025, 0.975], np.cumsum(probability), grid)
    return mean, float(np.sqrt(probability @ (grid - mean) ** 2)), float(high - low)


def long(theta: Array, dose: Array, times: Array) -> Array:
    """Return `elimination` at other times."""
    rate = np.asarray(theta)[:, None] / (1.0 + 0.3 * np.asarray(dose)[:, None])
    return np.log(np.asarray(dose)[:, None]) - rate * times[None, :]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="12 problems of a kind and half in the place of 50")
    parser.add_argument("--only", nargs="+", choices=[*KINDS, "flagged", "refits"], help="some kinds")
    parser.add_argument("--problems", type=int, help="of a kind and half")
    parser.add_argument("--half", choices=("seen", "unseen"), help="one half alone")
    given = parser.parse_args()
    count = given.problems or (12 if given.quick else 50)
    aims: list[Aim] = []
    names = [name for name in KINDS if not given.only or name in given.only]
    for half in (given.half,) if given.half else ("seen", "unseen"):
        found = {}
        for name in names:
            new, found[name] = intervals(name, half, count)
            print("\n".join(map(line, new)), flush=True)
            aims += new
        for source, physical in (("random functions", False), ("missing physics", True)):
            pooled = [below for name, below in found.items() if (KINDS[name].reality is not None) == physical]
            for kind in pooled[0] if pooled else ():
                off = np.abs(np.concatenate([below[kind] for below in pooled]) - 0.5)
                new = [
                    _covered(f"{source}, {half}, {kind}: {level:.0%} intervals cover", off < 0.5 * level, low)
                    for level, low in (
                        (0.95, 0.92 if kind == "default" else None),
                        (0.5, 0.44 if kind == "default" else None),
                    )
                ]
                print("\n".join(map(line, new)), flush=True)
                aims += new
    if not given.only or "flagged" in given.only:
        aims += flagged(max(20, 2 * count))
    if not given.only or "refits" in given.only:
        aims += refits(given.problems or (1 if given.quick else 4), 1 if given.quick else 3)
    return finish(aims)


if __name__ == "__main__":
    sys.exit(main())
