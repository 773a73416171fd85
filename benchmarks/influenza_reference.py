"""The influenza outbreak through a surrogate, against the posterior that was computed without one.

    python benchmarks/influenza_reference.py [--quick] [--surrogate] [--cases DIR]

128 Sobol runs, a curve surrogate of sqrt(infected), and beta, gamma and the noise sd by NUTS from the 14 counts; seed k
sets the design and the sampler. Aims for every seed 1...5, in units of the reference's sd: means within 0.06, 5 % and
95 % quantiles within 0.12, ratio of sds 0.95 to 1.05 (noise 0.93 to 1.07), from at least 4 000 effective draws of every
parameter. The verdict must warn of autocorrelated residuals (lag-1 correlation 0.6 to 0.8) and name the remedies: the
model does not explain these data as well as independent noise pretends.

`--surrogate` judges the surrogates of 20 designs in their whole box instead, at 600 new points each: Q² at least 0.995,
95 % intervals cover .92 to .98 and 50 % intervals .40 to .60, pooled over designs, each within two standard errors
between designs. Beside each coverage stands the central 95 % range of that of a perfect process: functions drawn from
the surrogates themselves, in place of the outbreak.

The reference is read from DIR/influenza_sqrt/reference.json; without `--cases` it is the copy below, from a
three-dimensional quadrature of the exact model. `--quick` runs seed 1 only, or 4 designs.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from _influenza import IN_BED, ensemble, observation, space, sqrt_infected
from _report import Aim, aim, finish
from arviz_stats import mcse

import uqms as uq

RUNS = 128
SEEDS = range(1, 6)
DRAWS = 3000  # a chain; 4 chains give about 6 500 effective draws of the slowest parameter
EFFECTIVE = 4000
DESIGNS, NEW, FUNCTIONS = 20, 600, 200
LEVELS = {0.95: (0.92, 0.98), 0.5: (0.40, 0.60)}
RATIO = {"beta": 0.05, "gamma": 0.05, "sigma": 0.07}
REFERENCE = {
    "beta": {"mean": 1.7008158, "sd": 0.04313314, "q0.05": 1.6319655, "q0.95": 1.7724921},
    "gamma": {"mean": 0.48621469, "sd": 0.03083559, "q0.05": 0.43803488, "q0.95": 0.53837218},
    "sigma": {"mean": 1.39701049, "sd": 0.30856551, "q0.05": 0.98951321, "q0.95": 1.96883615},
}


def reference(cases: Path | None) -> dict[str, dict[str, float]]:
    """Return mean, sd and quantiles by parameter, from the case's file when its folder is given."""
    if cases is None:
        return REFERENCE
    return json.loads((cases / "influenza_sqrt" / "reference.json").read_text())["summary"]


def calibrate(seed: int) -> uq.Posterior:
    """Return the posterior of one repeat."""
    surrogate = uq.GaussianProcess().fit(ensemble(RUNS, seed))
    noise = uq.GaussianNoise(sd=uq.HalfNormal(2.0))
    problem = uq.Calibration(surrogate, observation(np.sqrt(IN_BED)), noise=noise)
    return problem.sample(uq.NUTS(draws=DRAWS), rng=seed)


def compare(seed: int, posterior: uq.Posterior, truth: dict[str, dict[str, float]]) -> list[Aim]:
    """Return the aims of one seed, with ArviZ's Monte Carlo errors."""
    effective = posterior.summary()["ess_bulk"]
    out = [aim(f"effective draws, seed {seed}", float(effective.min()), low=EFFECTIVE)]
    for name, expected in truth.items():
        draws, sd, n = posterior.draws[name].values, expected["sd"], int(effective[name])
        label = f"of {name}, seed {seed}"
        off = (draws.mean() - expected["mean"]) / sd
        out.append(aim(f"mean {label} [sd]", off, -0.06, 0.06, float(mcse(draws)) / sd, n))
        error, room = float(mcse(draws, method="sd")) / sd, RATIO[name]
        out.append(aim(f"sd ratio {label}", draws.std() / sd, 1.0 - room, 1.0 + room, error, n))
        for p in (0.05, 0.95):
            off = (np.quantile(draws, p) - expected[f"q{p}"]) / sd
            error = float(mcse(draws, method="quantile", prob=p)) / sd
            out.append(aim(f"{p:.0%} quantile {label} [sd]", off, -0.12, 0.12, error, n))
    return out + warned(seed, posterior)


def warned(seed: int, posterior: uq.Posterior) -> list[Aim]:
    """Return whether the verdict names the residuals' autocorrelation and what to do."""
    check = posterior.verdict["autocorrelated residuals"]
    remedies = all(word in str(posterior.verdict) for word in ("discrepancy", "autocorrelation"))
    return [
        aim(f"lag-1 correlation of the residuals, seed {seed}", check.value, 0.6, 0.8),
        aim(
            f"verdict warns of it and names remedies, seed {seed}", float(check.status == "warn" and remedies), 1.0, 1.0
        ),
    ]


def emulated(seed: int) -> tuple[float, dict[float, float], dict[float, np.ndarray]]:
    """Return Q² of one design's surrogate, coverage by level, and that of each function drawn from the surrogate."""
    surrogate = uq.GaussianProcess().fit(ensemble(RUNS, seed))
    test = uq.sobol(space(), NEW, rng=1000 + seed)
    points = {name: test[name].values for name in space().names}
    prediction = surrogate.predict(points)
    (output,) = surrogate.layouts
    truth = sqrt_infected(points["beta"], points["gamma"])
    q2 = 1.0 - np.mean((prediction.mean[output].values - truth) ** 2) / truth.var()
    u = surrogate.domain.to_unit(np.column_stack(list(points.values())))
    offset, basis, latent = surrogate.decode(output)
    rng = np.random.default_rng(seed)
    drawn = surrogate.functions(FUNCTIONS, rng)(u) @ basis.T + offset
    drawn += rng.standard_normal((*drawn.shape[:2], latent.shape[1])) @ latent.T
    covered, perfect = {}, {}
    for level in LEVELS:
        low, high = prediction.interval(level)[output].values
        covered[level] = float(np.mean((low <= truth) & (truth <= high)))
        perfect[level] = np.mean((low <= drawn) & (drawn <= high), axis=(1, 2))
    return float(q2), covered, perfect


def surrogates(designs: int) -> list[Aim]:
    """Return the aims of the surrogates of several designs."""
    found = [emulated(seed) for seed in range(1, designs + 1)]
    out = [aim("Q² in the box, smallest", min(q2 for q2, _, _ in found), 0.995, n=designs)]
    for level, (low, high) in LEVELS.items():
        each = np.array([covered[level] for _, covered, _ in found])
        ends = np.quantile(np.mean([perfect[level] for _, _, perfect in found], axis=0), [0.025, 0.975])
        error = float(each.std(ddof=1) / np.sqrt(designs))
        reason = f"a perfect process: {ends[0]:.3f} to {ends[1]:.3f}"
        label = f"{level:.0%} intervals cover in the box"
        out.append(aim(label, float(each.mean()), low - 2 * error, high + 2 * error, error, designs, reason=reason))
    return out


def main() -> int:
    """Run the seeds and print the aims."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="seed 1 only")
    parser.add_argument("--surrogate", action="store_true", help="surrogates of many designs, without calibration")
    parser.add_argument("--cases", type=Path, help="folder that holds influenza_sqrt/reference.json")
    arguments = parser.parse_args()
    if arguments.surrogate:
        return finish(surrogates(4 if arguments.quick else DESIGNS))
    truth = reference(arguments.cases)
    aims = []
    for seed in SEEDS[:1] if arguments.quick else SEEDS:
        posterior = calibrate(seed)
        aims += compare(seed, posterior, truth)
        print(f"seed {seed}\n{posterior.summary().to_string()}\n{posterior.verdict}\n", flush=True)
    return finish(aims)


if __name__ == "__main__":
    sys.exit(main())
