"""Posteriors through surrogates against references that were computed without one.

    python benchmarks/reference_posteriors.py --cases DIR [--quick] [--few] [--only NAME ...]

Data and reference draws are read from DIR, a folder for each case. One function a case returns its aims: the runs that
were used, the share of the surrogate's error in the variance, and, with a window, means in the reference's sds (below:
"mean") and ratios of sds ("ratio") of every parameter.

influenza_school      Two rates of an epidemic and the dispersion of 14 negative-binomial counts; 150 runs. Mean 0.2,
                      ratio 0.8 to 1.25.
sbibm_sir             Two rates from 10 binomial counts of 1 000 trials, two observations; the posterior's sds are 1/2
                      to 1/26 of the prior's. At most 150 runs an observation, by rounds. Mean 0.15, ratio 0.85 to 1.15.
hiv_perelson          Viral decay in one patient, 16 values on a log scale, unknown noise; 40 runs, and 24
                      more when they are needed. Mean 0.1, ratio 0.9 to 1.1.
lynx_hare             Lotka-Volterra on the pelts of 21 years: four rates, two first sizes, two unknown noises. At most
                      1 500 runs, by rounds. Mean 0.2, ratio 0.8 to 1.25.
sbibm_lotka_volterra  Four rates of a predator-prey model from 20 counts with 10 % log-normal noise; the posterior's sds
                      are 1/20 to 1/50 of the prior's. At most 1 500 runs in at most 3 rounds of `refine`: mean 0.3,
                      ratio 0.75 to 1.3. A one-shot design of as many runs cannot, and its verdict must say so.
ball_drop_1           A simulator with the wrong law of drag, 25 runs, three balls: with a discrepancy C has the mean
                      0.10 to 0.14 and the sd 0.004 to 0.02, and at least 11 of 12 measured times lie inside of 90 %;
                      without one the interval is visibly narrower (less than 0.9 of the width; 0.82
                      was measured on the first run that was right, and the limit set then).
sbibm_two_moons       Two separate modes, by the exact simulator: SMC finds both, weights 0.5 +- 0.05, and its draws
                      cannot be told from the reference's (C2ST below 0.65); NUTS must warn.

`--few` adds, for influenza_school and hiv_perelson, so few runs that more than half of the variance is to be the
surrogate's error: in 40 designs the 95 % intervals cover the reference's means in at least 85 % and are wider than the
reference's; with the error switched off they are to cover in less than 80 %, which they do not (HIV 100 %; 81 % and
100 % with 5 runs): errors are smaller than these surrogates say, and the reference's mean is in the middle of what
noise leaves open. `few_runs.py` has a case where intervals without the error fail. `--quick` leaves out one-shot
comparisons and the cases that take longer than a minute.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from _influenza import DAYS, sqrt_infected
from _report import Aim, aim, binomial, finish
from arviz_stats import mcse
from few_runs import MeanOnly
from scipy.integrate import solve_ivp
from scipy.special import exprel

import uqms as uq
from uqms.calibration.assembly import leave_one_out
from uqms.calibration.tempering import temper
from uqms.calibration.verdict import _share
from uqms.calibration.whitened import Whitened
from uqms.errors import DataWarning, PriorConflictWarning

SAMPLER = uq.NUTS()


class Answer(NamedTuple):
    """A posterior and what it took."""

    posterior: uq.Posterior
    runs: int
    rounds: int


def say(*parts: object) -> None:
    """Print at once."""
    print(*parts, sep="\n", flush=True)


def summary_of(folder: Path, observation: str | None = None) -> dict[str, dict[str, float]]:
    """Return the reference's mean and sd by parameter."""
    reference = json.loads((folder / "reference.json").read_text())
    return (reference if observation is None else reference[observation])["summary"]


def compared(
    label: str, answer: Answer, summary: Mapping[str, Mapping[str, float]], mean: float, ratio: tuple[float, float]
) -> list[Aim]:
    """Return the aims on mean and sd of every parameter, in the reference's sds, and the largest of each beside."""
    posterior, out, worst, ratios = answer.posterior, [], 0.0, []
    for name, expected in summary.items():
        draws, sd = posterior.draws[name].values, expected["sd"]
        off, error = (draws.mean() - expected["mean"]) / sd, float(mcse(draws)) / sd
        out.append(aim(f"{label}: mean of {name} [sd]", off, -mean, mean, error, draws.size))
        error = float(mcse(draws, method="sd")) / sd
        out.append(aim(f"{label}: sd ratio of {name}", draws.std() / sd, *ratio, error, draws.size))
        worst, ratios = max(worst, abs(off)), [*ratios, draws.std() / sd]
    share = max(float(value) for value in posterior.surrogate_share.values())
    out.append(aim(f"{label}: verdict does not fail", float(posterior.verdict.status != "fail"), 1.0))
    out.append(aim(f"{label}: share of the surrogate's error, largest", share))
    say(
        f"| {label} | {answer.runs} | {answer.rounds} | {worst:.3f} | {min(ratios):.2f} to {max(ratios):.2f} | "
        f"{share:.2g} | {posterior.verdict.status} |"
    )
    return out


def simulated(simulator: uq.FunctionSimulator, design: xr.Dataset) -> xr.Dataset:
    """Return the runs of a design, in this process: a run takes a millisecond."""
    return uq.run(simulator, design, workers=0)


def by_rounds(
    label: str,
    simulator: uq.FunctionSimulator,
    space: uq.ParameterSpace,
    calibrate: Callable[[xr.Dataset, str], uq.Calibration],
    sizes: tuple[int, ...],
    share: float = 0.25,
) -> Answer:
    """Return the posterior of a Sobol design, and of rounds of `refine` while another one is needed."""
    runs = simulated(simulator, uq.sobol(space, sizes[0], rng=1))
    rounds, previous = 0, None
    posterior = calibrate(runs, "error").sample(SAMPLER, rng=1)
    say(posterior.summary(), posterior.verdict, another := uq.another_round(posterior, share=share))
    while another and rounds + 1 < len(sizes):
        rounds += 1
        runs = uq.ensemble.combine(runs, simulated(simulator, uq.refine(posterior, sizes[rounds], rng=rounds)))
        previous, posterior = posterior, calibrate(runs, "refined").sample(SAMPLER, rng=rounds + 1)
        another = uq.another_round(posterior, previous, share=share)
        say(f"{label}, round {rounds}", posterior.summary(), posterior.verdict, another)
    return Answer(posterior, runs.sizes["run"], rounds)


def observed(**curves: xr.DataArray) -> uq.Observations:
    """Return the observations of some curves, named like the outputs."""
    return uq.Observations.concat([uq.Observations.from_xarray(curve.rename(name)) for name, curve in curves.items()])


# ------------------------------------------------------------------------------------------------- influenza at school
def in_bed(beta: float, gamma: float) -> np.ndarray:
    """Return the number of infected boys on days 1..14."""
    return sqrt_infected(beta, gamma) ** 2


def school(folder: Path) -> tuple[uq.FunctionSimulator, uq.ParameterSpace, uq.Observations]:
    """Return simulator, priors and counts."""
    data = pd.read_csv(folder / "data.csv")
    table = uq.Observations.from_table(data, output="in_bed", value="in_bed", coords={"day": "day"})
    space = uq.ParameterSpace(
        beta=uq.TruncatedNormal(mean=2.0, sd=1.0, low=0.0), gamma=uq.TruncatedNormal(mean=0.4, sd=0.5, low=0.0)
    )
    return uq.FunctionSimulator(in_bed, outputs={"in_bed": ("day",)}, coords={"day": DAYS}), space, table


SCHOOL = uq.GaussianProcess(outputs={"in_bed": uq.Curve(transform=uq.Log())})
SCHOOL_NOISE = uq.NegativeBinomialNoise(dispersion=uq.Gamma(1.0, 5.0))  # Gamma(1) is the exponential distribution


def influenza_school(folder: Path, quick: bool) -> list[Aim]:
    """Return the aims of the epidemic with negative-binomial counts."""
    simulator, space, table = school(folder)
    runs = simulated(simulator, uq.sobol(space, 150, rng=1))
    posterior = uq.Calibration(SCHOOL.fit(runs), table, SCHOOL_NOISE).sample(SAMPLER, rng=1)
    say(posterior.summary(), posterior.verdict)
    summary = summary_of(folder)
    wanted = {"beta": summary["beta"], "gamma": summary["gamma"], "dispersion": summary["phi_inv"]}
    answer = Answer(posterior, runs.sizes["run"], 0)
    label = "influenza_school"
    return [aim(f"{label}: runs", answer.runs, high=150), *compared(label, answer, wanted, 0.2, (0.8, 1.25))]


# ---------------------------------------------------------------------------------------------------------- SIR, sbibm
WEEKS = 17.0 * np.arange(10)
PEOPLE = 1e6


def prevalence(beta: float, gamma: float) -> np.ndarray:
    """Return the infected share of a million people on days 0, 17, ..., 153."""

    def slope(_: float, z: np.ndarray) -> list[float]:  # in logarithms of the shares
        return [-beta * np.exp(z[1]), beta * np.exp(z[0]) - gamma]

    start = [np.log1p(-1.0 / PEOPLE), -np.log(PEOPLE)]
    solved = solve_ivp(slope, (0.0, WEEKS[-1]), start, t_eval=WEEKS, rtol=1e-8, atol=1e-8, method="LSODA")
    return np.exp(solved.y[1])


def sbibm_sir(folder: Path, quick: bool) -> list[Aim]:
    """Return the aims of the epidemic with binomial counts, both observations."""
    space = uq.ParameterSpace(beta=uq.LogNormal(median=0.4, sigma=0.5), gamma=uq.LogNormal(median=0.125, sigma=0.2))
    simulator = uq.FunctionSimulator(prevalence, outputs={"infected": ("day",)}, coords={"day": WEEKS})
    settings = uq.GaussianProcess(outputs={"infected": uq.Curve(transform=uq.Logit())})
    counts = pd.read_csv(folder / "observations.csv").set_index("obs")
    out = []
    for index in (1,) if quick else (1, 2):
        data = observed(infected=xr.DataArray(counts.loc[index].to_numpy(), dims="day", coords={"day": WEEKS}))

        def calibrate(runs: xr.Dataset, outside: str, data: uq.Observations = data) -> uq.Calibration:
            surrogate = settings.fit(uq.ensemble.inside(runs))
            return uq.Calibration(surrogate, data, uq.BinomialNoise(trials=1000), outside=outside)

        label = f"sbibm_sir {index}"
        answer = by_rounds(label, simulator, space, calibrate, (100, 50), share=0.1)
        out.append(aim(f"{label}: runs", answer.runs, high=150))
        out += compared(label, answer, summary_of(folder, f"obs_{index}"), 0.15, (0.85, 1.15))
    return out


# ----------------------------------------------------------------------------------------------------------------- HIV
def viral_load(hours: np.ndarray) -> Callable[..., np.ndarray]:
    """Return the function of c and delta (1/day) that gives log10 of the virus (copies/ml) at times in days.

    Linear equations: infected cells T' = k T0 VI - delta T, infectious virus VI' = -c VI, the virus that the drug makes
    non-infectious VN' = 480 delta T - c VN. Divided differences of exponentials, so that c = delta is no special case.
    """
    cells, virus, infection = 15061.32075, 1.86e6, 3.9e-7 * 11000.0

    def log10_virus(c: float, delta: float) -> np.ndarray:
        x = (c - delta) * hours
        near = np.abs(x) < 1e-3
        safe = np.where(near, 1.0, x)
        second = np.where(near, 0.5 + x / 6.0 + x**2 / 24.0, (exprel(safe) - 1.0) / safe)
        made = 480.0 * delta * (cells * hours * exprel(x) + infection * virus * hours**2 * second)
        return (np.log(virus + made) - c * hours) / np.log(10.0)

    return log10_virus


def hiv(folder: Path) -> tuple[uq.FunctionSimulator, uq.ParameterSpace, uq.Observations]:
    """Return simulator, priors and measurements."""
    data = pd.read_csv(folder / "data.csv")
    days = data["time_days"].to_numpy()
    data["log10_virus"] = np.log10(data["rna_copies_per_ml"])
    table = uq.Observations.from_table(data, output="log10_virus", value="log10_virus", coords={"day": "time_days"})
    space = uq.ParameterSpace(
        c=uq.LogNormal(median=10**0.3, sigma=0.5 * np.log(10.0)),
        delta=uq.LogNormal(median=10**-0.3, sigma=0.5 * np.log(10.0)),
    )
    simulator = uq.FunctionSimulator(viral_load(days), outputs={"log10_virus": ("day",)}, coords={"day": days})
    return simulator, space, table


HIV_NOISE = uq.GaussianNoise(sd=uq.HalfNormal(0.3))


def hiv_perelson(folder: Path, quick: bool) -> list[Aim]:
    """Return the aims of the viral decay."""
    simulator, space, table = hiv(folder)

    def calibrate(runs: xr.Dataset, outside: str) -> uq.Calibration:
        return uq.Calibration(uq.GaussianProcess().fit(uq.ensemble.inside(runs)), table, HIV_NOISE, outside=outside)

    label, summary = "hiv_perelson", summary_of(folder)
    answer = by_rounds(label, simulator, space, calibrate, (40, 24))
    wanted = {"c": summary["c"], "delta": summary["delta"], "sigma": summary["sigma_log10"]}
    return [aim(f"{label}: runs", answer.runs, high=64), *compared(label, answer, wanted, 0.1, (0.9, 1.1))]


# ------------------------------------------------------------------------------------------------------- lynx and hare
YEARS = np.arange(21.0)


def predator_prey(times: np.ndarray) -> Callable[..., dict[str, np.ndarray]]:
    """Return the function of rates and first sizes that gives the logarithms of prey and predators at the times."""

    def log_populations(
        alpha: float, beta: float, gamma: float, delta: float, prey: float = 30.0, predators: float = 1.0
    ) -> dict[str, np.ndarray]:
        def slope(_: float, z: np.ndarray) -> list[float]:  # in logarithms: the populations stay positive
            return [alpha - beta * np.exp(z[1]), -gamma + delta * np.exp(z[0])]

        start = np.log([prey, predators])
        solved = solve_ivp(slope, (0.0, times[-1]), start, t_eval=times, rtol=1e-8, atol=1e-8, method="LSODA")
        return {"log_prey": solved.y[0], "log_predators": solved.y[1]}

    return log_populations


def lynx_hare(folder: Path, quick: bool) -> list[Aim]:
    """Return the aims of the pelts."""
    data = np.log(pd.read_csv(folder / "data.csv").to_numpy()[:, 1:])
    outputs = {"log_prey": ("year",), "log_predators": ("year",)}
    curves = [xr.DataArray(column, dims="year", coords={"year": YEARS}) for column in data.T]
    table = observed(**dict(zip(outputs, curves, strict=True)))
    # log-normal noise of the populations is normal noise of their logarithms
    noise = {name: uq.GaussianNoise(sd=uq.LogNormal(median=np.exp(-1.0), sigma=1.0)) for name in outputs}
    space = uq.ParameterSpace(
        alpha=uq.TruncatedNormal(mean=1.0, sd=0.5, low=0.0),
        beta=uq.TruncatedNormal(mean=0.05, sd=0.05, low=0.0),
        gamma=uq.TruncatedNormal(mean=1.0, sd=0.5, low=0.0),
        delta=uq.TruncatedNormal(mean=0.05, sd=0.05, low=0.0),
        prey=uq.LogNormal(median=10.0, sigma=1.0),
        predators=uq.LogNormal(median=10.0, sigma=1.0),
    )
    simulator = uq.FunctionSimulator(predator_prey(YEARS), outputs=outputs, coords={"year": YEARS})
    settings = uq.GaussianProcess(hyperparameters="point")

    def calibrate(runs: xr.Dataset, outside: str) -> uq.Calibration:
        return uq.Calibration(settings.fit(uq.ensemble.inside(runs)), table, noise, outside=outside)

    label, summary = "lynx_hare", summary_of(folder)
    answer = by_rounds(label, simulator, space, calibrate, (400, 250, 250, 200, 200, 200))
    theirs = [*(f"theta[{i}]" for i in range(1, 5)), "z_init[1]", "z_init[2]", "sigma[1]", "sigma[2]"]
    ours = [*space.names, "sigma_log_prey", "sigma_log_predators"]
    wanted = {mine: summary[name] for mine, name in zip(ours, theirs, strict=True)}
    return [aim(f"{label}: runs", answer.runs, high=1500), *compared(label, answer, wanted, 0.2, (0.8, 1.25))]


# ----------------------------------------------------------------------------------------------- Lotka-Volterra, sbibm
TIMES = 2.1 * np.arange(10)


def lotka_volterra(folder: Path, quick: bool) -> list[Aim]:
    """Return the aims of the predator-prey model."""
    data = pd.read_csv(folder / "observations.csv").set_index("obs").loc[1].to_numpy()
    outputs = {"log_prey": ("day",), "log_predators": ("day",)}
    curves = [xr.DataArray(row, dims="day", coords={"day": TIMES}) for row in np.log(data.reshape(2, 10))]
    table = observed(**dict(zip(outputs, curves, strict=True)))
    noise = {name: uq.GaussianNoise(sd=0.1) for name in outputs}
    simulator = uq.FunctionSimulator(predator_prey(TIMES), outputs=outputs, coords={"day": TIMES})
    space = uq.ParameterSpace(
        alpha=uq.LogNormal(median=np.exp(-0.125), sigma=0.5),
        beta=uq.LogNormal(median=np.exp(-3.0), sigma=0.5),
        gamma=uq.LogNormal(median=np.exp(-0.125), sigma=0.5),
        delta=uq.LogNormal(median=np.exp(-3.0), sigma=0.5),
    )
    settings = uq.GaussianProcess(hyperparameters="point")

    def calibrate(runs: xr.Dataset, outside: str) -> uq.Calibration:
        return uq.Calibration(settings.fit(uq.ensemble.inside(runs)), table, noise, outside=outside)

    label = "sbibm_lotka_volterra"
    answer = by_rounds(label, simulator, space, calibrate, (300, 300, 300, 300))
    posterior = answer.posterior
    verification = uq.verify(posterior, simulated(simulator, uq.verification_design(posterior, 100, rng=1)))
    say(verification, verification.k_hat, verification.more_runs)
    out = [
        aim(f"{label}: runs, 100 of verification included", answer.runs + 100, high=1500),
        aim(f"{label}: rounds", answer.rounds, high=3),
        aim(f"{label}: verification does not fail", float(verification.verdict.status != "fail"), 1.0),
    ]
    out += compared(label, answer, summary_of(folder, "obs_1"), 0.3, (0.75, 1.3))
    objects = f"{label}: the verdict of a one-shot design objects"
    if quick:
        return [*out, aim(objects, None, 1.0, reason="--quick leaves it out: it takes minutes")]
    once = calibrate(simulated(simulator, uq.sobol(space, answer.runs, rng=1)), "error").sample(SAMPLER, rng=1)
    say(once.summary(), once.verdict)
    warned = once.verdict["surrogate error"].status != "pass" or once.verdict.status == "fail"
    return [*out, aim(objects, float(warned), 1.0)]


# ----------------------------------------------------------------------------------------------------------- ball drop
def ball_drop(folder: Path, quick: bool) -> list[Aim]:
    """Return the aims of the balls whose drag the simulator has wrong."""
    table = pd.read_csv(folder / "simulations.csv")
    times = table.filter(like="t_at_")
    heights = np.array([float(name[5:-1]) for name in times])
    low, high = table["C"].min(), table["C"].max()
    space = uq.ParameterSpace(
        C=uq.TruncatedNormal(mean=0.5 * (low + high), sd=0.5 * (high - low), low=low, high=high),
        conditions={"R": uq.Condition(table["R_m"].min(), table["R_m"].max(), unit="m")},
    )
    inputs = {"C": table["C"].to_numpy(), "R": table["R_m"].to_numpy()}
    runs = uq.ensemble.build(inputs, {"fall": ("height", times.to_numpy(), heights)}, space=space)
    field = pd.read_csv(folder / "field.csv").melt("R_m", var_name="place", value_name="fall")
    field["height"] = [float(name[5:-1]) for name in field["place"]]
    data = uq.Observations.from_table(
        field, output="fall", value="fall", coords={"height": "height"}, conditions={"R": "R_m"}
    )
    surrogate = uq.GaussianProcess().fit(runs)
    noise = uq.GaussianNoise(sd=uq.HalfNormal(0.05))
    posteriors = {}
    for kind, discrepancy in (("with", uq.GPDiscrepancy(over=("height", "R"))), ("without", None)):
        posteriors[kind] = uq.Calibration(surrogate, data, noise, discrepancy=discrepancy).sample(SAMPLER, rng=1)
        say(f"{kind} discrepancy", posteriors[kind].summary(), posteriors[kind].verdict)
    inside = 0
    for radius, ball in field.groupby("R_m"):
        band = posteriors["with"].predict(
            conditions={"R": radius}, coords={"height": np.sort(ball["height"].to_numpy())}, noise=True, rng=1
        )
        draws = np.quantile(band.draws["fall"].values.reshape(band.draws.sizes["sample"], -1), [0.05, 0.95], axis=0)
        values = ball.sort_values("height")["fall"].to_numpy()
        inside += int(((draws[0] <= values) & (values <= draws[1])).sum())
    c = {kind: posterior.draws["C"].values for kind, posterior in posteriors.items()}
    width = {kind: float(np.subtract(*np.quantile(draws, [0.95, 0.05]))) for kind, draws in c.items()}
    label, reference = "ball_drop_1", summary_of(folder)["C"]
    share = float(posteriors["with"].surrogate_share["C"])
    off = abs(c["with"].mean() - reference["mean"]) / reference["sd"]
    say(
        f"| {label} | {runs.sizes['run']} | 0 | {off:.3f} | {c['with'].std() / reference['sd']:.2f} | {share:.2g} | "
        f"{posteriors['with'].verdict.status} |"
    )
    levels = (0.025, 0.25, 0.5, 0.75, 0.975)
    say("| C | mean | sd | 2.5 % | 25 % | 50 % | 75 % | 97.5 % |", "|---|---|---|---|---|---|---|---|")
    ours = {
        f"uqms, {kind} discrepancy": (draws.mean(), draws.std(), *np.quantile(draws, levels))
        for kind, draws in c.items()
    }
    sepia = (reference["mean"], reference["sd"], *(reference[f"q{level:g}"] for level in levels))
    for name, figures in (ours | {"SEPIA, its reference results": sepia}).items():
        say(f"| {name} | " + " | ".join(f"{figure:.4f}" for figure in figures) + " |")
    say(posteriors["with"].rescale_discrepancy())
    return [
        aim(f"{label}: runs", runs.sizes["run"]),
        aim(f"{label}: mean of C", c["with"].mean(), 0.10, 0.14, float(mcse(c["with"])), c["with"].size),
        aim(f"{label}: sd of C", c["with"].std(), 0.004, 0.02, float(mcse(c["with"], method="sd")), c["with"].size),
        aim(f"{label}: measured times inside of 90 %", inside, 11, 12, n=12),
        aim(f"{label}: width without discrepancy over with", width["without"] / width["with"], None, 0.9),
        aim(f"{label}: share of the surrogate's error", share),
    ]


# ----------------------------------------------------------------------------------------------------------- two moons
def two_moons(folder: Path, quick: bool) -> list[Aim]:
    """Return the aims of the posterior with two modes."""
    import pytensor.tensor as pt

    x = pd.read_csv(folder / "observations.csv").set_index("obs").loc[1].to_numpy()
    root = np.sqrt(2.0)

    def shift(theta1: pt.TensorVariable, theta2: pt.TensorVariable) -> pt.TensorVariable:
        return pt.stack([-pt.abs(theta1 + theta2) / root, (theta2 - theta1) / root])

    def moon(z: Any, y: Any, parameters: Mapping[str, Any], xp: Any) -> Any:
        # x - shift = (r cos a + 0.25, r sin a), a uniform over half a circle: the density of r over its half circle
        across, along = z[0] - y[..., 0] - 0.25, z[1] - y[..., 1]
        r = xp.sqrt(across**2 + along**2)
        density = -0.5 * ((r - 0.1) / 0.01) ** 2 - np.log(0.01 * np.sqrt(2.0 * np.pi)) - np.log(np.pi) - xp.log(r)
        return xp.where(across > 0.0, density, -np.inf)

    def draw(y: np.ndarray, parameters: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
        a, r = rng.uniform(-0.5 * np.pi, 0.5 * np.pi, y.shape[:-1]), rng.normal(0.1, 0.01, y.shape[:-1])
        return y + np.stack([r * np.cos(a) + 0.25, r * np.sin(a)], axis=-1)

    space = uq.ParameterSpace(theta1=uq.Uniform(-1.0, 1.0), theta2=uq.Uniform(-1.0, 1.0))
    places = np.arange(2.0)
    simulator = uq.DirectSimulator(
        shift, space=space, outputs={"moon": ("component",)}, coords={"component": places}, backend="pytensor"
    )
    data = observed(moon=xr.DataArray(x, dims="component", coords={"component": places}))
    problem = uq.Calibration(simulator, data, uq.CustomNoise(logp=moon, random=draw))
    posterior = problem.sample(uq.SMC(), rng=1)
    say(posterior.summary(), posterior.verdict)
    draws = np.column_stack([posterior.draws[name].values.ravel() for name in space.names])
    reference = pd.read_csv(folder / "reference_draws_obs1.csv").to_numpy()
    picked = draws[np.random.default_rng(1).choice(len(draws), len(reference), replace=False)]
    weight = float((draws.sum(axis=1) > 0.0).mean())
    runs = [float((posterior.draws["theta1"] + posterior.draws["theta2"] > 0.0)[i].mean()) for i in range(4)]
    label = "sbibm_two_moons"
    c2st = classified(picked, reference, 1)
    said = "not measured" if c2st is None else f"{c2st:.3f}"
    say(f"| {label} | exact | 0 | C2ST {said} | weight {weight:.3f} | 0 | {posterior.verdict.status} |")
    by_nuts = problem.sample(SAMPLER, rng=1)
    say(by_nuts.summary(), by_nuts.verdict)
    reason = "scikit-learn is not installed" if c2st is None else None
    return [
        aim(f"{label}: weight of a mode", weight, 0.45, 0.55, float(np.std(runs, ddof=1) / 2.0), len(draws)),
        aim(f"{label}: C2ST", c2st, None, 0.65, n=len(reference), reason=reason),
        aim(f"{label}: NUTS warns", float(by_nuts.verdict.status != "pass"), 1.0),
    ]


def classified(a: np.ndarray, b: np.ndarray, seed: int) -> float | None:
    """Return the share of draws that a small neural network tells right, by five-fold cross-validation: 0.5 is none."""
    try:
        from sklearn.model_selection import KFold, cross_val_score
        from sklearn.neural_network import MLPClassifier
    except ImportError:
        return None
    both = np.vstack([a, b])
    both = (both - both.mean(axis=0)) / both.std(axis=0)
    network = MLPClassifier((20, 20), max_iter=1000, random_state=seed)
    folds = KFold(5, shuffle=True, random_state=seed)
    return float(cross_val_score(network, both, np.repeat([0, 1], [len(a), len(b)]), cv=folds).mean())


# ------------------------------------------------------------------------------------------------------------ few runs
FEW = {
    "influenza_school": (school, SCHOOL, SCHOOL_NOISE, 16),
    "hiv_perelson": (hiv, uq.GaussianProcess(), HIV_NOISE, 8),
}
THEIRS = {"influenza_school": ("beta", "gamma"), "hiv_perelson": ("c", "delta")}
DESIGNS, QUICK = 40, 8
PARTICLES = 500


def tempered(problem: uq.Calibration, seed: int) -> tuple[dict[str, np.ndarray], float]:
    """Return draws by tempered sequential Monte Carlo, and the share of the surrogate's error, largest of all."""
    space, rng = Whitened(problem), np.random.default_rng([seed, 2])
    found = temper(space.log_likelihood, space.dimension, PARTICLES, rng)
    theta = space.theta(found.z)
    latents = np.ascontiguousarray(found.z[:, len(space.names) :])
    return theta, float(_share(problem, theta, leave_one_out(problem, theta, latents, rng)[2]).max())


def few(label: str, folder: Path, quick: bool) -> list[Aim]:
    """Return the aims of designs so small that the surrogate's error is most of the variance."""
    build, settings, noise, size = FEW[label]
    simulator, space, table = build(folder)
    summary, names, n = summary_of(folder), THEIRS[label], QUICK if quick else DESIGNS
    covered: dict[str, list[list[bool]]] = {kind: [] for kind in ("on", "off")}
    width: dict[str, list[list[float]]] = {kind: [] for kind in covered}
    shares = []
    for seed in range(1, n + 1):
        design = uq.sobol(space, size, rng=seed)
        curves = [simulator.function(**point) for point in design.to_dataframe()[list(space.names)].to_dict("records")]
        (output, (dim,)), places = next(iter(simulator.outputs.items())), next(iter(simulator.coords.values()))
        surrogate = settings.fit(uq.ensemble.build(design, {output: (dim, np.array(curves), places)}, space=space))
        for kind in covered:
            used = MeanOnly(surrogate) if kind == "off" else surrogate
            with warnings.catch_warnings():
                # Conflicts of poor surrogates and one that says it has no error are what is studied.
                for one in (PriorConflictWarning, DataWarning):
                    warnings.simplefilter("ignore", one)
                problem = uq.Calibration(used, table, noise, space=space)
            draws, share = tempered(problem, seed)
            ends = [np.quantile(draws[name], [0.025, 0.975]) for name in names]
            covered[kind].append(
                [bool(a < summary[name]["mean"] < b) for name, (a, b) in zip(names, ends, strict=True)]
            )
            width[kind].append([float(b - a) for a, b in ends])
            if kind == "on":
                shares.append(share)
    tails = np.round(np.quantile(shares, [0.1, 0.5, 0.9]), 2)
    say(f"{label}: {size} runs, {n} designs, 10, 50 and 90 % quantiles of the share of the surrogate's error: {tails}")
    out = [aim(f"{label}, {size} runs: median share of the surrogate's error", float(np.median(shares)), 0.5, n=n)]
    room = 0.0 if not quick else 2.0 * binomial(0.85, n)
    for i, name in enumerate(names):
        on, off = (float(np.mean([row[i] for row in rows])) for rows in covered.values())
        ratios = np.array([row[i] for row in width["on"]]) / (summary[name]["q0.975"] - summary[name]["q0.025"])
        error = float(ratios.std(ddof=1) / np.sqrt(n))
        where = f"{label}, {size} runs"
        out.append(aim(f"{where}: coverage of {name}", on, 0.85 - room, None, binomial(on, n), n))
        out.append(aim(f"{where}: width of {name} over the reference's", float(ratios.mean()), 1.0, None, error, n))
        out.append(aim(f"{where}: coverage of {name}, error off", off, None, 0.8 + room, binomial(off, n), n))
    return out


CASES: dict[str, Callable[[Path, bool], list[Aim]]] = {
    "influenza_school": influenza_school,
    "sbibm_sir": sbibm_sir,
    "hiv_perelson": hiv_perelson,
    "lynx_hare": lynx_hare,
    "sbibm_lotka_volterra": lotka_volterra,
    "ball_drop_1": ball_drop,
    "sbibm_two_moons": two_moons,
}
SLOW = ("lynx_hare", "sbibm_lotka_volterra")  # longer than a minute


def main() -> int:
    """Run the cases and print the aims."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=Path, help="folder that holds a folder for each case")
    parser.add_argument("--quick", action="store_true", help="without one-shot comparisons and slow cases")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), help="these cases")
    parser.add_argument("--few", action="store_true", help="also designs of too few runs, where a case has them")
    arguments = parser.parse_args()
    aims = []
    for name in arguments.only:
        folder = None if arguments.cases is None else arguments.cases / name
        if folder is None or not folder.is_dir():
            aims.append(aim(name, None, reason=f"its data are not there: --cases DIR with DIR/{name}"))
        elif arguments.quick and name in SLOW:
            aims.append(aim(name, None, reason="--quick: a single repeat takes minutes"))
        else:
            say(f"== {name}")
            began = time.perf_counter()
            aims += CASES[name](folder, arguments.quick)
            say(f"{name}: {time.perf_counter() - began:.0f} s")
            if arguments.few and name in FEW:
                aims += few(name, folder, arguments.quick)
    return finish(aims)


if __name__ == "__main__":
    sys.exit(main())
