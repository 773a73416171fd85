"""Trials: the Fisher information of the standard example of the optimal-design literature, and gains of designs.

The gain of a population of straight lines has a closed form. Of the standard example (one compartment, oral) designs of
four times are drawn at random, and their gains over a prior are compared with the criterion of the screen.
"""

from typing import Any

import numpy as np
from _report import Aim, aim
from _what_next_waves import START
from scipy.stats import spearmanr

import uqms as uq
from uqms.planning.forecasts import points_of
from uqms.planning.trial_gain import SimulatedTrials
from uqms.planning.trial_setting import Setting
from uqms.planning.trials import _Samples, _Search

TIMES = (0.5, 1.0, 2.0, 6.0, 24.0, 36.0, 72.0, 120.0)
AT = {
    "CL": 0.15,
    "V": 8.0,
    "ka": 1.0,
    "omega_CL": np.sqrt(0.07),
    "omega_V": np.sqrt(0.02),
    "omega_ka": np.sqrt(0.6),
}
DOSE, SUBJECTS = 70.0, 32
# Combined noise, then proportional noise alone: log-determinant, and relative standard errors in percent.
COMBINED = 55.39645, (5.096, 3.031, 14.26, 29.76, 36.68, 26.75, 25.64, 32.01)
PROPORTIONAL = 52.44799, (4.738, 2.756, 13.93, 25.63, 30.34, 25.78, 11.17)
LINE, TAU, OMEGA, SIGMA = (
    np.array([0.0, 0.5, 1.0, 2.0]),
    (1.0, 0.8),
    (0.5, 0.3),
    0.4,
)  # a straight line for each subject


def example(times: Any = TIMES) -> tuple[Any, Any]:
    """Return simulator and population."""
    hours = np.asarray(times, dtype=float)
    space = uq.ParameterSpace(
        CL=uq.LogNormal(median=0.15, sigma=0.3, unit="L/h"),
        V=uq.LogNormal(median=8.0, sigma=0.3, unit="L"),
        ka=uq.LogNormal(median=1.0, sigma=0.3, unit="1/h"),
    )

    def concentration(CL: Any, V: Any, ka: Any) -> Any:
        CL, V, ka = (np.asarray(one)[:, None] for one in (CL, V, ka))
        return DOSE * ka / (V * (ka - CL / V)) * (np.exp(-CL / V * hours) - np.exp(-ka * hours))

    simulator = uq.DirectSimulator(
        concentration, space=space, outputs={"conc": ("hour",)}, coords={"hour": hours}, vectorized=True
    )
    return simulator, uq.Population(space, individual=("CL", "V", "ka"))


def information(noise: Any) -> Any:
    """Return the information of the example."""
    simulator, population = example()
    samples = uq.candidates(outputs="conc", coords={"hour": TIMES}, noise=noise)
    return uq.trial_information(simulator, samples, SUBJECTS, population=population, at=AT)


def gains_of(simulator: Any, population: Any, ideas: Any, subjects: int, about: Any, draws: int, seed: int) -> Any:
    """Return simulated trials with all of the candidates."""
    setting, rng = Setting.of(simulator, population, None), np.random.default_rng(seed)
    points = points_of(setting.problem, ideas, True, None)
    drawn = setting.draws(points, draws, rng)
    return SimulatedTrials.of(setting, points, drawn, subjects, list(about or drawn.natural), rng)


def lines(half: str, quick: bool) -> list[Aim]:
    """Return how gains of straight lines compare with their closed form."""
    space = uq.ParameterSpace(a=uq.Normal(0.0, TAU[0]), b=uq.Normal(0.0, TAU[1]))
    simulator = uq.DirectSimulator(
        lambda a, b: a[:, None] + b[:, None] * LINE,
        space=space,
        outputs={"y": ("t",)},
        coords={"t": LINE},
        vectorized=True,
    )
    population = uq.Population(space, individual=("a", "b"), spread=dict(zip("ab", OMEGA, strict=True)))
    ideas, off = uq.candidates(outputs="y", coords={"t": LINE}, noise=SIGMA), []
    for k in range(3 if quick else 20):
        for about in (("a", "b"), ("a",), ("b",)):
            trials = gains_of(simulator, population, ideas, 6, about, 2000, START[half] + k)
            rows = np.sort(np.random.default_rng([START[half], k]).choice(4, 2, replace=False))
            J = np.column_stack([np.ones(2), LINE[rows]])
            V = (J * np.square(OMEGA)) @ J.T + SIGMA**2 * np.eye(2)
            after = np.linalg.inv(np.diag(1.0 / np.square(TAU)) + 6 * J.T @ np.linalg.solve(V, J))
            at = np.ix_(*(["ab".index(name) for name in about],) * 2)
            before = np.diag(np.square(TAU))
            wanted = 0.5 * float(np.linalg.slogdet(before[at])[1] - np.linalg.slogdet(after[at])[1])
            off.append(trials.gain(rows).gain.nats - wanted)
    error = float(np.std(off, ddof=1) / np.sqrt(len(off)))
    mean = float(np.mean(off))
    return [aim("straight lines: gain less its closed form [nats]", mean, -0.03, 0.03, error, len(off))]


def ranking(half: str, quick: bool) -> list[Aim]:
    """Return how the screen ranks random designs of the standard example beside their gains over a prior."""
    hours, count, out = np.array([0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 36.0, 72.0, 120.0]), 12 if quick else 40, []
    simulator, _ = example(hours)
    spread = {"CL": uq.LogNormal(0.26, 0.3), "V": uq.LogNormal(0.14, 0.3), "ka": uq.LogNormal(0.77, 0.3)}
    population = uq.Population(simulator.space, individual=("CL", "V", "ka"), spread=spread)
    ideas = uq.candidates(outputs="conc", coords={"hour": hours}, noise=uq.CombinedNoise(0.5, 0.1))
    rng = np.random.default_rng(START[half])
    designs = [np.sort(rng.choice(len(hours), 4, replace=False)) for _ in range(count)]
    for about in (None, ("CL",)):
        trials = gains_of(simulator, population, ideas, 12, about, 4000, START[half] + 1)
        setting = Setting.of(simulator, population, None)
        samples = _Samples.of(setting, [ideas])
        drawn = setting.draws(samples.points, 4000, np.random.default_rng(START[half] + 2))
        search = _Search.of(setting, samples, drawn, 12, about or ())
        screen = [search.value(rows) for rows in designs]
        each = [trials.gain(rows).gain for rows in designs]
        gains = np.array([one.nats for one in each])
        what = "all quantities" if about is None else "the clearance"
        rho = float(spearmanr(screen, gains).statistic)
        out.append(aim(f"about {what}: rank correlation of the screen with the gain", rho, 0.8, None, None, count))
        lost = float(gains.max() - gains[int(np.argmax(screen))])
        out.append(aim(f"about {what}: gain that the best of the screen misses", lost, None, 0.15, each[0].mcse, count))
        resolved = float(np.mean([one.resolved for one in each]))
        out.append(aim(f"about {what}: gains that the draws resolve", resolved, None, None, None, count))
    return out


def trial(half: str, quick: bool) -> list[Aim]:
    """Return the aims of this part."""
    out = []
    for label, noise, (determinant, errors) in (
        ("combined", uq.CombinedNoise(np.sqrt(0.25), 0.1), COMBINED),
        ("proportional", uq.CombinedNoise(0, 0.1), PROPORTIONAL),
    ):
        found = information(noise)
        off = found.log_determinant - determinant
        out.append(aim(f"{label}: log-determinant less {determinant}", off, -1e-4, 1e-4))
        worst = max(abs(rse / wanted - 1.0) for rse, wanted in zip(found.table["rse"], errors, strict=True))
        out.append(aim(f"{label}: relative standard errors, largest relative difference", worst, high=5e-4))
    return [*out, *lines(half, quick), *ranking(half, quick)]
