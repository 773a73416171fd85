"""Posteriors through surrogates against references that were computed without one.

    python benchmarks/reference_posteriors.py --cases DIR [--quick] [--only NAME ...]

Data and reference draws are read from DIR, a folder for each case. One function a case returns its aims:

sbibm_lotka_volterra  Four rates of a predator-prey model from 20 counts with 10 % log-normal noise; the posterior's sds
                      are 1/20 to 1/50 of the prior's. At most 1 500 runs in at most 3 rounds of `refine`: means
                      within 0.3 reference sds, ratio of sds 0.75 to 1.3. A one-shot design of as many runs cannot, and
                      its verdict must say so.

`--quick` leaves out the one-shot comparison.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from _report import Aim, aim, finish
from arviz_stats import mcse
from scipy.integrate import solve_ivp

import uqms as uq

SAMPLER = uq.NUTS()


def compared(
    label: str, posterior: uq.Posterior, summary: dict[str, dict[str, float]], mean: float, ratio: tuple[float, float]
) -> list[Aim]:
    """Return the aims on mean and sd of every parameter, in the reference's sds."""
    out = []
    for name, expected in summary.items():
        draws, sd = posterior.draws[name].values, expected["sd"]
        off, error = (draws.mean() - expected["mean"]) / sd, float(mcse(draws)) / sd
        out.append(aim(f"{label}: mean of {name} [sd]", off, -mean, mean, error, draws.size))
        error = float(mcse(draws, method="sd")) / sd
        out.append(aim(f"{label}: sd ratio of {name}", draws.std() / sd, *ratio, error, draws.size))
    return out


# --------------------------------------------------------------------------------------------------- Lotka-Volterra
RATES = ("alpha", "beta", "gamma", "delta")
TIMES = 2.1 * np.arange(10)


def log_populations(alpha: float, beta: float, gamma: float, delta: float) -> dict[str, np.ndarray]:
    """Return the logarithms of prey and predators at the observed times."""

    def slope(_: float, z: np.ndarray) -> np.ndarray:
        # in logarithms: the populations stay positive
        return np.array([alpha - beta * np.exp(z[1]), -gamma + delta * np.exp(z[0])])

    solved = solve_ivp(slope, (0.0, TIMES[-1]), np.log([30.0, 1.0]), t_eval=TIMES, rtol=1e-8, atol=1e-8, method="LSODA")
    return {"log_prey": solved.y[0], "log_predators": solved.y[1]}


def lotka_volterra(folder: Path, quick: bool) -> list[Aim]:
    """Return the aims of the predator-prey model."""
    data = pd.read_csv(folder / "observations.csv").set_index("obs").loc[1].to_numpy()
    summary = json.loads((folder / "reference.json").read_text())["obs_1"]["summary"]
    outputs = {"log_prey": ("day",), "log_predators": ("day",)}
    logs = zip(outputs, np.log(data.reshape(2, 10)), strict=True)
    curves = [xr.DataArray(values, dims="day", coords={"day": TIMES}, name=name) for name, values in logs]
    observed = uq.Observations.concat([uq.Observations.from_xarray(curve) for curve in curves])
    noise = {name: uq.GaussianNoise(sd=0.1) for name in outputs}
    simulator = uq.FunctionSimulator(log_populations, outputs=outputs, coords={"day": TIMES})
    space = uq.ParameterSpace(
        alpha=uq.LogNormal(median=np.exp(-0.125), sigma=0.5),
        beta=uq.LogNormal(median=np.exp(-3.0), sigma=0.5),
        gamma=uq.LogNormal(median=np.exp(-0.125), sigma=0.5),
        delta=uq.LogNormal(median=np.exp(-3.0), sigma=0.5),
    )
    settings = uq.GaussianProcess(hyperparameters="point")

    def calibrated(runs: xr.Dataset, rng: int) -> uq.Posterior:
        surrogate = settings.fit(uq.ensemble.inside(runs))
        outside = "refined" if rng > 1 else "error"
        return uq.Calibration(surrogate, observed, noise, outside=outside).sample(SAMPLER, rng=rng)

    runs = uq.run(simulator, uq.sobol(space, 300, rng=1))
    previous, posterior, rounds = None, calibrated(runs, 1), 0
    print(posterior.summary(), posterior.verdict, uq.another_round(posterior), sep="\n", flush=True)
    while rounds < 3 and uq.another_round(posterior, previous):
        rounds += 1
        design = uq.refine(posterior, 300, rng=rounds)
        runs = uq.ensemble.combine(runs, uq.run(simulator, design))
        previous, posterior = posterior, calibrated(runs, rounds + 1)
        print(posterior.problem.surrogate, json.loads(design.attrs["box"]), sep="\n")
        print(posterior.summary(), posterior.verdict, uq.another_round(posterior, previous), sep="\n", flush=True)
    verification = uq.verify(posterior, uq.run(simulator, uq.verification_design(posterior, 100, rng=1)))
    print(verification, verification.k_hat, verification.more_runs, flush=True)
    label = "Lotka-Volterra"
    out = [
        aim(f"{label}: runs, verification included", runs.sizes["run"] + 100, high=1500),
        aim(f"{label}: rounds", rounds, high=3),
    ]
    out.append(aim(f"{label}: verdict does not fail", float(posterior.verdict.status != "fail"), 1.0))
    out.append(aim(f"{label}: verification does not fail", float(verification.verdict.status != "fail"), 1.0))
    out += compared(label, posterior, summary, 0.3, (0.75, 1.3))
    if not quick:
        once = calibrated(uq.run(simulator, uq.sobol(space, runs.sizes["run"], rng=1)), 1)
        print(once.summary(), once.verdict, sep="\n", flush=True)
        warned = once.verdict["surrogate error"].status != "pass" or once.verdict.status == "fail"
        out.append(aim(f"{label}: the verdict of a one-shot design objects", float(warned), 1.0))
    return out


CASES: dict[str, Callable[[Path, bool], list[Aim]]] = {"sbibm_lotka_volterra": lotka_volterra}


def main() -> int:
    """Run the cases and print the aims."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=Path, required=True, help="folder that holds a folder for each case")
    parser.add_argument("--quick", action="store_true", help="without the one-shot comparisons")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), help="these cases")
    arguments = parser.parse_args()
    aims = []
    for name in arguments.only:
        aims += CASES[name](arguments.cases / name, arguments.quick)
    return finish(aims)


if __name__ == "__main__":
    sys.exit(main())
