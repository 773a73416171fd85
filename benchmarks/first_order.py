"""Transformed outputs with Gaussian noise: the closed form to first order beside the sampled error.

    python benchmarks/first_order.py [--quick] [--only NAME] [--repeats N]

The surrogate models the logarithm or logit of an output, noise is Gaussian in the output's own unit. Four kinds of
problems, each with few runs and a large error, and with many runs and a small one:

- `decay`: a concentration that falls by two decades, logarithm, unknown noise;
- `saturation`: a fraction that saturates with time, logit, known noise;
- `doses`: a peak at four doses with replicates, whose errors the surrogate shares, logarithm;
- `misfit`: as `decay`, with a discrepancy on the scale of the logarithm.

For each the pilot's loss, which decides, the loss at posterior draws of the closed form (as the verdict says it), that
of a closed form whose rows have the second-order shift of their mean, and how the exact likelihood moves the posterior.

**Aims.** Where the pilot's loss is below 0.05 nats: weighing the draws of the closed form by the exact likelihood moves
means by at most 0.05 posterior sds, and sds by at most 5 %; the loss at the posterior is below 0.05 nats. The pilot
takes at most 5 % of the time of the calibration with the sampled error. Where the closed form is used, it takes no
longer (geometric mean of the ratios of times).

Times are CPU seconds. `--quick` runs one data set a problem, with a quarter of the draws.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from _report import Aim, aim, finish

import uqms as uq
from uqms._typing import Array
from uqms.calibration.expansion import LOSS_LIMIT, measured_loss, pilot_loss
from uqms.calibration.predict import data_moments

MEANS, SDS = 0.05, 0.05
PILOT = 0.05
COUNTS = 0.002  # nats, for the comparison with shifted means
TIMES = np.linspace(0.0, 12.0, 13)
SPACE = uq.ParameterSpace(k=uq.LogNormal(median=0.4, sigma=0.3), a=uq.LogNormal(median=100.0, sigma=0.3))


@dataclass(frozen=True)
class Case:
    """A kind of problem: from a number of runs and a seed of the data to a function that builds the calibration."""

    runs: tuple[int, ...]
    build: Callable[[int, int], Callable[[str], Any]]


def _curve(runs: int, transform: str, function: Callable[..., Array]) -> Any:
    design = uq.sobol(SPACE, runs, rng=1)
    values = np.array([function(k, a) for k, a in zip(design["k"].values, design["a"].values, strict=True)])
    table = {"y": xr.DataArray(values, dims=("run", "t"), coords={"t": TIMES})}
    return uq.GaussianProcess(outputs={"y": uq.Curve(transform=transform)}).fit(uq.ensemble.build(design, table))


def _decay(k: float, a: float) -> Array:
    return np.asarray(a * np.exp(-k * TIMES) + 0.3 * np.sqrt(a) * np.exp(-0.1 * k * TIMES))


def _saturation(k: float, a: float) -> Array:
    return np.asarray(0.02 + 0.96 / (1.0 + (100.0 / a) * np.exp(-k * (TIMES - 5.0))))


def _measured(values: Array, sd: float, seed: int) -> xr.DataArray:
    noise = sd * np.random.default_rng(seed).standard_normal(values.shape)
    return xr.DataArray(values + noise, dims="t", coords={"t": TIMES}, name="y")


def decay(runs: int, seed: int) -> Callable[[str], Any]:
    surrogate, data = _curve(runs, "log", _decay), _measured(_decay(0.5, 110.0), 2.0, seed)
    return lambda way: uq.Calibration(surrogate, data, uq.GaussianNoise(sd=uq.HalfNormal(4.0)), expansion=way)


def misfit(runs: int, seed: int) -> Callable[[str], Any]:
    surrogate, data = _curve(runs, "log", _decay), _measured(1.05 * _decay(0.5, 110.0), 2.0, seed)
    delta = uq.GPDiscrepancy(sd=uq.HalfNormal(0.05), length=5.0)
    noise = uq.GaussianNoise(sd=2.0)
    return lambda way: uq.Calibration(surrogate, data, noise, discrepancy=delta, expansion=way)


def saturation(runs: int, seed: int) -> Callable[[str], Any]:
    surrogate, data = _curve(runs, "logit", _saturation), _measured(_saturation(0.45, 120.0), 0.02, seed)
    return lambda way: uq.Calibration(surrogate, data, uq.GaussianNoise(sd=0.02), expansion=way)


def doses(runs: int, seed: int) -> Callable[[str], Any]:
    space = uq.ParameterSpace(
        k=uq.LogNormal(median=0.4, sigma=0.3),
        a=uq.LogNormal(median=100.0, sigma=0.3),
        conditions={"dose": uq.Condition(1.0, 4.0)},
    )

    def peak(k: Array, a: Array, dose: Array) -> Array:
        return np.asarray(a * dose ** (1.0 + 0.3 * k) * np.exp(-3.0 * k) / (1.0 + 0.05 * dose))

    design = uq.sobol(space, runs, rng=1)
    runs_of = uq.ensemble.build(design, {"y": peak(*(design[name].values for name in ("k", "a", "dose")))})
    surrogate = uq.GaussianProcess(outputs={"y": uq.Scalar(transform="log")}).fit(runs_of)
    table = pd.DataFrame({"dose": np.repeat([1.2, 2.0, 3.0, 3.8], 3), "replicate": np.tile(np.arange(3), 4)})
    true = peak(np.float64(0.5), np.float64(110.0), table["dose"].to_numpy())
    table["v"] = true + 2.0 * np.random.default_rng(seed).standard_normal(len(table))
    data = uq.Observations.from_table(table, output="y", value="v", conditions=["dose"], replicate="replicate")
    return lambda way: uq.Calibration(surrogate, data, uq.GaussianNoise(sd=uq.HalfNormal(4.0)), expansion=way)


CASES = {
    "decay": Case((6, 8, 32), decay),
    "saturation": Case((5, 8, 32), saturation),
    "doses": Case((7, 9, 32), doses),
    "misfit": Case((12, 32), misfit),
}


def _draws(posterior: Any) -> dict[str, Array]:
    data = posterior.tree["posterior"].dataset
    return {name: data[name].values for name in posterior.problem.priors}


def shifted_loss(problem: Any, theta: dict[str, Array], h: Array) -> float:
    """Return the loss of the closed form whose rows have the mean f(c) + f''(c) v / 2, v the variance of the output."""
    cells, n = problem.cells, len(problem.cells.offset)
    phi, _, means, covariances = data_moments(problem, theta)
    total, at = np.stack(covariances)[h, np.arange(len(h))], np.arange(n)
    value = np.stack(means)[h, np.arange(len(h))]
    s = np.concatenate([cells.responses[g].forward(value[:, cells.group == g]) for g in range(len(cells.responses))], 1)
    step = 1e-4
    _, slope = cells.responded(s)
    bend = (cells.responded(s + step)[1] - cells.responded(s - step)[1]) / (2.0 * step)
    variance = (total[:, at, at] - phi[:, cells.group] ** 2 / cells.weight) / slope**2
    residuals = cells.cell_mean - np.stack([value, value + 0.5 * bend * variance])
    solved = np.linalg.solve(total, np.moveaxis(residuals, 0, 2))
    first, shifted = -0.5 * np.sum(np.moveaxis(residuals, 0, 2) * solved, axis=1).T
    return float(np.mean(np.abs(_signed_losses(problem, theta, h) - (shifted - first))))


def _signed_losses(problem: Any, theta: dict[str, Array], h: Array) -> Array:
    """Return log p - log p1 (S,) of each draw."""
    from uqms.calibration.expansion import log_ratios

    return np.concatenate([one for one, _ in log_ratios(problem, theta, h)])


def moved(problem: Any, theta: dict[str, Array], h: Array) -> tuple[float, float]:
    """Return by how many sds means move, and the logarithms of sds, when draws are weighed by the exact likelihood.

    Two samplers would differ by their Monte Carlo error, which is larger.
    """
    ratio = _signed_losses(problem, theta, h)
    weight = np.exp(ratio - np.logaddexp.reduce(ratio))
    off, width = 0.0, 0.0
    for values in theta.values():
        mean = float(weight @ values)
        sd = float(np.sqrt(weight @ (values - mean) ** 2))
        off = max(off, abs(mean - float(values.mean())) / sd)
        width = max(width, abs(float(np.log(sd / values.std()))))
    return off, width


def compare(name: str, runs: int, seed: int, draws: int) -> tuple[list[Aim], float, float, float, float | None]:
    """Print one problem; return its aims, the losses, the pilot's part of the time, and the ratio of times if used."""
    build = CASES[name].build(runs, seed)
    closed, sampled = build("first-order"), build("none")
    pilot_loss(closed)  # compiled code is loaded
    start = time.process_time()
    pilot = pilot_loss(closed)
    of_pilot = time.process_time() - start
    sampler, seconds, found = uq.NUTS(draws=draws, progress=False), [], []
    for problem in (closed, sampled):
        start = time.process_time()
        found.append(problem.sample(sampler, rng=seed))
        seconds.append(time.process_time() - start)
    first = _draws(found[0])
    h = found[0].tree["sample_stats"]["hyperparameter_draw"].values.ravel()
    off, width = moved(closed, {one: values.ravel() for one, values in first.items()}, h)
    few = np.linspace(0, len(h) - 1, 48).astype(int)
    theta = {one: values.ravel()[few] for one, values in first.items()}
    loss, shifted = measured_loss(closed, theta, h[few]), shifted_loss(closed, theta, h[few])
    faster, small = seconds[1] / seconds[0], pilot.small
    print(
        f"{name}, {runs} runs, data {seed}: loss {pilot.nats:.4f} (pilot, {'closed form' if small else 'sampled'}), "
        f"{loss.nats:.4f} at the posterior, {shifted:.4f} with shifted means; means move by {off:.3f} sd, sds by "
        f"{width:.1%}; {seconds[0]:.1f} s and {seconds[1]:.1f} s sampled, pilot {of_pilot:.2f} s",
        flush=True,
    )
    if not small:
        return [], loss.nats, shifted, of_pilot / seconds[1], None
    what = f"{name}, {runs} runs, data {seed}"
    aims = [
        aim(f"{what}: means move (sd)", off, high=MEANS),
        aim(f"{what}: sds move (log)", width, high=SDS),
        aim(f"{what}: loss at the posterior (nats)", loss.nats, high=LOSS_LIMIT),
        aim(f"{what}: time of the sampled error over that of the closed form", faster),
    ]
    return aims, loss.nats, shifted, of_pilot / seconds[1], faster


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=[*CASES])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    repeats, draws = (1, 500) if options.quick else (options.repeats, 2000)
    aims, losses, shifted, pilots, faster = [], [], [], [], []
    for name, case in CASES.items():
        if options.only in (None, name):
            for runs in case.runs:
                for seed in range(1, repeats + 1):
                    more, loss, other, of_pilot, ratio_of_times = compare(name, runs, seed, draws)
                    aims += more
                    faster += [] if ratio_of_times is None else [ratio_of_times]
                    losses, shifted, pilots = [*losses, loss], [*shifted, other], [*pilots, of_pilot]
    large = [(a, b) for a, b in zip(shifted, losses, strict=True) if b > COUNTS]
    ratio = float(np.exp(np.mean([np.log(a / b) for a, b in large]))) if large else None
    name = f"loss with shifted means over that without, where it is above {COUNTS:g} nats (geometric mean)"
    aims.append(aim(name, ratio, n=len(large), reason=None if large else "no loss is as large"))
    speed = float(np.exp(np.mean(np.log(faster)))) if faster else None
    why = None if faster else "the closed form was used nowhere"
    aims.append(
        aim("time of the sampled error over that of the closed form (geometric mean)", speed, low=1.0, reason=why)
    )
    aims.append(aim("pilot's time over that with the sampled error (median)", float(np.median(pilots)), high=PILOT))
    return finish(aims)


if __name__ == "__main__":
    sys.exit(main())
