"""Few runs, little noise: the surrogate's error decides whether intervals cover, and the likelihood must carry it.

    python benchmarks/few_runs.py [--quick]

The epidemic of the influenza benchmark from 16 Sobol runs, measured on days 1..14 with a known noise sd of 0.1 on the
root scale. Repeat k has a new truth from the prior within the design box, a new design and new data, all from seed k.
Posteriors of beta and gamma are integrated on adaptive cells through the shipped likelihood, so no sampler blurs the
comparison; in two repeats NUTS must agree with the cells (means within 0.1 sd). Aims over 200 repeats:

- 95 % equal-tailed intervals cover 0.85 to 0.985, within two standard errors;
- their mean width is at most 1.5 times that of the exact simulator's posteriors;
- with the surrogate's error switched off (its mean only, no covariance, no truncation) they cover less than 0.75;
- the exact simulator's posteriors cover 0.95 within three standard errors, and its Runge-Kutta solution is within 1e-6
  of scipy's: otherwise the yardstick is wrong.

The mean and the median of the ratio of widths, and the mean log density of the truth (less that of the exact
posterior), are printed without an aim. `--quick` makes 30 repeats, with two standard errors more room in every aim.
"""

import argparse
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from _influenza import (
    Array,
    Quadrature,
    ensemble,
    information,
    observation,
    quadrature,
    solver_error,
    space,
    sqrt_infected,
)
from _report import Aim, aim, binomial, finish

import uqms as uq
from uqms.errors import PriorConflictWarning
from uqms.surrogates.outputs import Decoder
from uqms.surrogates.process import Scores
from uqms.surrogates.protocol import Surrogate

NOISE = 0.1
RUNS = 16
REPEATS, QUICK = 200, 30
CHECKED = (1, 2)  # repeats in which NUTS is compared with the cells
CHUNK = 8192
TAILS = np.array([0.025, 0.975])
NAMES = ("beta", "gamma")
SPACE = space()
BOX = SPACE.box()


@dataclass(frozen=True)
class MeanOnly:
    """A surrogate that believes in itself: the mean of another one, without any error."""

    of: Surrogate

    @property
    def domain(self) -> uq.Box:
        """The design box."""
        return self.of.domain

    @property
    def layouts(self) -> Mapping[str, Any]:
        """Dims and coordinates of the outputs."""
        return self.of.layouts

    def scores(self, u: Array) -> Scores:
        """Return the mean, and zeros for the covariance."""
        scores = self.of.scores(u)
        return scores._replace(covariance=np.zeros_like(scores.covariance))

    def scores_reverse(self, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
        """Return the derivative of the mean."""
        return self.of.scores_reverse(u, mean_bar, np.zeros_like(covariance_bar))

    def decode(self, output: str, coords: Mapping[str, Any] | None = None) -> Decoder:
        """Return the rows of the output without truncation."""
        decoder = self.of.decode(output, coords)
        return decoder._replace(truncation=np.zeros((len(decoder.offset), 0)))

    def functions(self, n: int, rng: Any) -> Any:
        """Return draws of the function: nothing here needs them."""
        raise NotImplementedError


class Outcome(NamedTuple):
    """What one posterior says about one truth: covered (2,), width (2,), log density of the truth in the unit cube."""

    covered: Array
    width: Array
    score: float


# --- log-densities over the unit cube ---------------------------------------------------------------------------------


def log_prior(u: Array) -> Array:
    """Return the log-density of the prior in the design box's unit cube."""
    x = BOX.from_unit(u)
    return SPACE.log_density(x) - np.log(np.abs(BOX.unit_gradient(x))).sum(axis=-1)


def simulated(u: Array) -> Array:
    """Return the simulator's curves at points of the unit cube."""
    x = BOX.from_unit(u)
    return sqrt_infected(x[:, 0], x[:, 1])


def exact_log_density(z: Array) -> Callable[[Array], Array]:
    """Return log prior + log-likelihood of the simulator itself."""

    def log_density(u: Array) -> Array:
        return log_prior(u) - 0.5 * np.sum(((z - simulated(u)) / NOISE) ** 2, axis=-1)

    return log_density


def surrogate_log_density(problem: uq.Calibration) -> Callable[[Array], Array]:
    """Return log prior + log-likelihood of a calibration, through the code that the sampler runs."""

    def part(u: Array) -> Array:
        x = BOX.from_unit(u)
        return problem.log_likelihood(dict(zip(NAMES, x.T, strict=True))) + log_prior(u)

    return lambda u: np.concatenate([part(u[start : start + CHUNK]) for start in range(0, len(u), CHUNK)])


def surrogate_curves(problem: uq.Calibration) -> Callable[[Array], Array]:
    """Return the surrogate's mean curves as a function of points of the unit cube."""
    cells = problem.cells

    def curves(u: Array) -> Array:
        scores = problem.surrogate.scores(u[:, None, :])
        return cells.offset + np.tensordot(np.exp(scores.log_weights), scores.mean, 1)[:, 0] @ cells.basis.T

    return curves


# --- repeats ----------------------------------------------------------------------------------------------------------


def draw_truth(seed: int) -> tuple[Array, Array]:
    """Return beta and gamma from the prior within the design box, and 14 noisy measurements."""
    rng = np.random.default_rng([seed, 1])
    ends = np.array([BOX.lower, BOX.upper])
    low, high = (np.array([SPACE.priors[n].cdf(x) for n, x in zip(NAMES, row, strict=True)]) for row in ends)
    p = low + (high - low) * rng.random(2)
    truth = np.array([SPACE.priors[n].quantile(q) for n, q in zip(NAMES, p, strict=True)], dtype=float)
    return truth, sqrt_infected(*truth) + NOISE * rng.standard_normal(14)


def calibration(surrogate: Surrogate, z: Array) -> uq.Calibration:
    """Return the calibration problem; that priors conflict with few-run surrogates is what is studied here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PriorConflictWarning)
        return uq.Calibration(surrogate, observation(z), noise=uq.GaussianNoise(sd=NOISE), space=SPACE)


def outcome(posterior: Quadrature, log_density: Callable[[Array], Array], truth: Array) -> Outcome:
    """Judge one posterior by its truth."""
    ends = BOX.from_unit(np.column_stack([posterior.quantile(axis, TAILS) for axis in range(2)]))
    score = float(log_density(BOX.to_unit(truth)[None])[0]) - posterior.log_mass
    return Outcome((ends[0] < truth) & (truth < ends[1]), ends[1] - ends[0], score)


def repeat(seed: int, exact_information: Array, check: bool) -> tuple[dict[str, Outcome], float | None]:
    """Return the outcomes of one repeat and, if asked for, the largest difference of means from NUTS in sds."""
    truth, z = draw_truth(seed)
    surrogate = uq.GaussianProcess().fit(ensemble(RUNS, seed))
    exact = exact_log_density(z)
    outcomes = {"exact": outcome(quadrature(exact, exact_information), exact, truth)}
    difference = None
    for name, used in (("surrogate", surrogate), ("mean only", MeanOnly(surrogate))):
        problem = calibration(used, z)
        log_density = surrogate_log_density(problem)
        posterior = quadrature(log_density, information(surrogate_curves(problem), NOISE))
        outcomes[name] = outcome(posterior, log_density, truth)
        if check and name == "surrogate":
            difference = from_nuts(problem, posterior, seed)
    return outcomes, difference


def from_nuts(problem: uq.Calibration, cells: Quadrature, seed: int) -> float:
    """Return the largest difference between posterior means by NUTS and by cells, in posterior sds."""
    draws = problem.sample(uq.NUTS(), rng=seed).draws
    x = BOX.from_unit(cells.centres)
    mean = cells.weights @ x
    sd = np.sqrt(cells.weights @ (x - mean) ** 2)
    sampled = np.array([float(draws[name].mean()) for name in NAMES])
    return float(np.max(np.abs(sampled - mean) / sd))


# --- aims -------------------------------------------------------------------------------------------------------------


def ratio_of_means(above: Array, below: Array) -> tuple[float, float]:
    """Return mean(above) / mean(below) and its standard error (delta method; the repeats are paired)."""
    ratio = float(above.mean() / below.mean())
    error = np.std(above - ratio * below, ddof=1) / (np.sqrt(len(above)) * below.mean())
    return ratio, float(error)


def judge(outcomes: list[dict[str, Outcome]], quick: bool) -> list[Aim]:
    """Return the aims over all repeats."""
    n = len(outcomes)
    covered = {key: np.array([one[key].covered for one in outcomes]).mean(axis=0) for key in outcomes[0]}
    width = {key: np.array([one[key].width for one in outcomes]) for key in outcomes[0]}
    score = {key: np.array([one[key].score for one in outcomes]) for key in outcomes[0]}
    room = 2.0 if quick else 0.0
    out = []
    for i, name in enumerate(NAMES):
        exact, own, off = (float(covered[key][i]) for key in ("exact", "surrogate", "mean only"))
        low = 0.85 - (2.0 + room) * binomial(0.85, n)
        high = min(1.0, 0.985 + (2.0 + room) * binomial(0.985, n))
        out.append(aim(f"coverage of {name}", own, low, high, binomial(own, n), n))
        ratio, error = ratio_of_means(width["surrogate"][:, i], width["exact"][:, i])
        out.append(aim(f"mean width of {name} over exact mean width", ratio, None, 1.5 + room * error, error, n))
        most = 0.75 + room * binomial(0.75, n)
        out.append(aim(f"coverage of {name}, error switched off", off, None, most, binomial(off, n), n))
        slack = 3.0 * binomial(0.95, n)
        out.append(
            aim(
                f"coverage of {name}, exact simulator",
                exact,
                0.95 - slack,
                min(1.0, 0.95 + slack),
                binomial(exact, n),
                n,
            )
        )
        ratios = width["surrogate"][:, i] / width["exact"][:, i]
        error = float(ratios.std(ddof=1) / np.sqrt(n))
        out.append(aim(f"mean of the ratio of widths of {name}", float(ratios.mean()), mcse=error, n=n))
        out.append(aim(f"median of the ratio of widths of {name}", float(np.median(ratios)), n=n))
    for key in ("surrogate", "mean only"):
        lost = score[key] - score["exact"]
        error = float(lost.std(ddof=1) / np.sqrt(n))
        out.append(aim(f"mean log score less the exact one, {key} [nats]", float(lost.mean()), mcse=error, n=n))
        out.append(aim(f"median log score less the exact one, {key} [nats]", float(np.median(lost)), n=n))
    return out


def main() -> int:
    """Run the repeats and print the aims."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} repeats instead of {REPEATS}")
    quick = parser.parse_args().quick
    aims = [aim("largest error of the solver", solver_error(), high=1e-6)]
    exact_information = information(simulated, NOISE)
    outcomes = []
    for seed in range(1, (QUICK if quick else REPEATS) + 1):
        found, difference = repeat(seed, exact_information, seed in CHECKED)
        outcomes.append(found)
        if difference is not None:
            aims.append(aim(f"means by NUTS less those by cells, repeat {seed} [sd]", difference, high=0.1))
    return finish(aims + judge(outcomes, quick))


if __name__ == "__main__":
    sys.exit(main())
