"""Waves of history matching: how often the truth is ruled out, what remains, and the posterior after the waves.

    python benchmarks/_what_next_waves.py [--quick] [--half seen|unseen] [--cases DIR]

- *linear*: of linear simulators in 2 to 6 inputs an ellipsoid remains, of 1e-2 to 1e-8 of the box: its volume is that
  in closed form, in the standard errors that are stated.
- *truth*: functions drawn from a known process, 1 000 problems: the first wave rules out the truth as often as its
  level says, two waves together at most as often as the level, both within two standard errors. Planted: outputs taken
  one by one with the largest of them compared with 3, of 20 outputs.
- *fitted*: smooth random simulators with surrogates fitted in each of three waves: at most the level plus two standard
  errors.
- *posterior*: draws of NUTS with and without waves against the posterior of the simulator itself on a grid: errors of
  means and sds in Monte Carlo standard errors. Planted: a uniform prior on the box around what remains.
- *sir* (--cases): the deterministic SIR model of a published set of runs, its 30 runs as the first wave. What the
  waves rule out is compared with what the model itself rules out, at 20 000 points.

Seeds of the two halves differ; the method was fixed on the half "seen".
"""

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from _report import Aim, aim, binomial, finish
from scipy.integrate import solve_ivp
from scipy.special import gamma
from scipy.stats import chi2
from scipy.stats import t as student

import uqms as uq
from uqms._typing import Array
from uqms.planning.implausibility import Implausibility
from uqms.planning.remaining import remaining
from uqms.surrogates import GaussianProcessSurrogate, Matern52
from uqms.surrogates.kernels import correlation
from uqms.surrogates.outputs import Layout, OutputBasis
from uqms.surrogates.process import condition
from uqms.surrogates.training import Hyperparameters

NAMES = "abcdef"
START = {"seen": 1, "unseen": 10_001}
SIR = "sir_deterministic_hmer"


def unit_space(d: int) -> uq.ParameterSpace:
    """Return d parameters from 0 to 1."""
    return uq.ParameterSpace(**{name: uq.Uniform(0.0, 1.0) for name in NAMES[:d]})


def random_simulator(rng: np.random.Generator, d: int, q: int, wiggle: float) -> "Simulator":
    """Return a smooth simulator of q outputs: random features of a Gaussian process."""
    return Simulator(
        rng.standard_normal((q, 60, d)) * wiggle,
        rng.uniform(0.0, 2.0 * np.pi, (q, 60)),
        rng.standard_normal((q, 60)) * np.sqrt(2.0 / 60),
    )


class Simulator:
    """A smooth function of d inputs with q outputs."""

    def __init__(self, omega: Array, phase: Array, weight: Array) -> None:
        self.omega, self.phase, self.weight = omega, phase, weight

    def __call__(self, x: Array) -> Array:
        """Return outputs (n, q)."""
        return np.einsum("qf,nqf->nq", self.weight, np.cos(np.einsum("qfd,nd->nqf", self.omega, x) + self.phase))

    def run(self, design: xr.Dataset) -> xr.Dataset:
        """Return the ensemble of a design."""
        x = np.column_stack([design[name].values for name in NAMES[: self.omega.shape[2]]])
        return uq.ensemble.build(design, {f"y{j}": y for j, y in enumerate(self(x).T)})


def known_process(x: Array, y: Array, ell: float) -> GaussianProcessSurrogate:
    """Return the surrogate with the hyperparameters that functions were drawn with."""
    d, q = x.shape[1], y.shape[1]
    process = condition(
        Matern52(), x, y, 1, [Hyperparameters(np.full(d, ell), 0.0, 1e-12, 0.0, 1, False)] * q, [1.0] * q
    )
    box = uq.Box(tuple(NAMES[:d]), (0.0,) * d, (1.0,) * d, ("identity",) * d, ((True, True),) * d)
    outputs = tuple(OutputBasis(f"y{j}", Layout(), np.zeros(1), np.eye(1), np.zeros((1, 0))) for j in range(q))
    return GaussianProcessSurrogate(box, process, outputs, {"space": unit_space(d).to_json()})


def linear(half: str, quick: bool) -> list[Aim]:
    """Return how volumes of ellipsoids, each another one, compare with those in closed form.

    Six ensembles have five degrees of freedom: scores of a perfect estimator follow Student's distribution, whose root
    mean square is 1.29. Of 60 scores it would exceed 1.5 in 11 % of the cases, of 240 in 3 %.
    """
    start, each = START[half], 10 if quick else 40
    off, errors, ratios = [], [], []
    cases = [(2, 1e-2), (2, 1e-4), (3, 1e-6), (4, 1e-5), (6, 1e-6), (6, 1e-8)]
    for k, (d, volume) in enumerate(cases):
        for repeat in range(each):
            rng = np.random.default_rng([start, k, repeat])
            q, _ = np.linalg.qr(rng.standard_normal((d, d)))
            axes = np.exp(rng.uniform(-1.5, 0.0, d))
            axes *= (volume / (np.pi ** (d / 2) / gamma(d / 2 + 1)) / axes.prod()) ** (1 / d)
            found = remaining(
                lambda v, q=q, axes=axes: np.sum(((v - 0.5) @ (q / axes)) ** 2, axis=1),
                d,
                1000,
                rng,
            )
            off.append(np.log(found.volume / volume))
            errors.append(found.error / found.volume)  # of the logarithm
            ratios.append(found.volume / volume)
    n, scores = len(off), np.array(off) / np.array(errors)
    ratio = float(np.sqrt(np.mean(np.square(off)) / np.mean(np.square(errors))))
    covered = float(np.mean(np.abs(scores) < student.ppf(0.975, 5)))
    return [
        aim(
            "linear: volume over the ellipsoid's, mean",
            float(np.mean(ratios)),
            0.94,
            1.06,
            float(np.std(ratios) / np.sqrt(n)),
            n,
        ),
        aim(
            "linear: error of log volume, in its standard errors, rms",
            float(np.sqrt(np.mean(np.square(scores)))),
            None,
            1.5,
            None,
            n,
        ),
        aim(
            "linear: rms error of log volume over the rms of its standard errors",
            ratio,
            1.0 - 2.0 * np.sqrt(0.6 / n),
            1.0 + 2.0 * np.sqrt(0.6 / n),
            float(np.sqrt(0.6 / n)),
            n,
        ),
        aim(
            "linear: log volumes within Student's 95 % of their standard errors",
            covered,
            0.95 - 2.0 * binomial(0.95, n),
            None,
            binomial(0.95, n),
            n,
        ),
    ]


def truth(half: str, quick: bool) -> list[Aim]:
    """Return how often the truth of a known process is ruled out."""
    problems, level = 200 if quick else 1000, 0.05
    first, both = 0, 0
    largest, joint = 0, 0
    for k in range(problems):
        rng = np.random.default_rng(START[half] + k)
        x = rng.random((15, 2))
        kappa = correlation(Matern52(), x, x, np.full(2, 0.4))
        y = np.linalg.cholesky(kappa + 1e-10 * np.eye(15)) @ rng.standard_normal((15, 2))
        data = y[-1] + 0.3 * rng.standard_normal(2)
        targets = {f"y{j}": (float(data[j]), 0.3) for j in range(2)}
        theta = {"a": x[-1:, 0], "b": x[-1:, 1]}
        squared = [
            Implausibility(uq.HistoryMatching(known_process(x[:n], y[:n], 0.4), targets).problem).at(theta).squared[0]
            for n in (6, 14)
        ]
        out = [s > chi2.isf(level / (w * (w + 1)), 2) for w, s in enumerate(squared, 1)]
        first, both = first + out[0], both + any(out)
        z = rng.standard_normal(20)
        largest, joint = largest + (np.abs(z).max() > 3.0), joint + (z @ z > chi2.isf(0.0027, 20))
    share, together = first / problems, both / problems
    room, error = 2.0 * binomial(level / 2, problems), binomial(share, problems)
    out = [
        aim(
            "truth: ruled out by the first wave, level 0.025",
            share,
            level / 2 - room,
            level / 2 + room,
            error,
            problems,
        ),
        aim(
            "truth: ruled out by two waves, level 0.05",
            together,
            None,
            level + 2 * binomial(level, problems),
            binomial(together, problems),
            problems,
        ),
        aim(
            "planted: the largest of 20 outputs against 3, level 0.0027",
            largest / problems,
            0.02,
            None,
            binomial(largest / problems, problems),
            problems,
        ),
    ]
    return out


def fitted(half: str, quick: bool) -> list[Aim]:
    """Return how often three waves of fitted surrogates rule out the truth, and what they leave."""
    problems, level = 6 if quick else 40, 0.05
    out, left = 0, []
    for k in range(problems):
        rng = np.random.default_rng(START[half] + k)
        d = (2, 3, 4)[k % 3]
        simulator = random_simulator(rng, d, 3, (3.0, 2.0, 1.5)[k % 3])
        theta = rng.uniform(0.1, 0.9, d)
        data = simulator(theta[None])[0] + 0.05 * rng.standard_normal(3)
        runs = simulator.run(uq.sobol(unit_space(d), 8 * d, rng=k))
        targets = {f"y{j}": (float(data[j]), 0.05) for j in range(3)}
        waves = uq.HistoryMatching(uq.GaussianProcess().fit(runs), targets, runs=runs, level=level, rng=k)
        while waves.worthwhile() and len(waves.waves) < 3:
            waves = waves.told(simulator.run(waves.propose(8 * d, rng=k)))
        out += waves.rules_out({name: theta[i] for i, name in enumerate(NAMES[:d])})[0]
        if not waves.remaining.empty:
            v = waves.remaining.points[:500]
            squared = np.sum(((simulator(v) - data) / 0.05) ** 2, axis=1)
            left.append(np.mean(squared <= waves.waves[-1].cutoff))
    share = out / problems
    limit = level + 2 * binomial(level, problems)
    return [
        aim(
            "fitted: truth ruled out in three waves, level 0.05",
            share,
            None,
            limit,
            binomial(share, problems),
            problems,
        ),
        aim(
            "fitted: of what remains, the simulator itself leaves at least",
            float(np.median(left)),
            0.6,
            None,
            None,
            problems,
        ),
    ]


def posterior(half: str, quick: bool) -> list[Aim]:
    """Return how far posteriors after waves are from those of the simulator itself."""
    off: dict[str, list[float]] = {"with waves": [], "without waves": [], "uniform": []}
    for k in range(1 if quick else 4):
        rng = np.random.default_rng(START[half] + 500 + k)
        simulator = random_simulator(rng, 2, 1, 2.5)
        space = uq.ParameterSpace(a=uq.Normal(0.4, 0.12), b=uq.Normal(0.6, 0.2))
        truth_at = np.array([[0.45, 0.5]])
        data = float(simulator(truth_at)[0, 0]) + 0.1 * rng.standard_normal()
        runs = simulator.run(uq.sobol(space, 16, rng=k))
        waves = uq.HistoryMatching(uq.GaussianProcess().fit(runs), {"y0": (data, 0.1)}, runs=runs, rng=k)
        for _ in range(3):
            waves = waves.told(simulator.run(waves.propose(16, rng=k)))
        grid = np.stack(np.meshgrid(np.linspace(-0.2, 1.0, 401), np.linspace(-0.4, 1.6, 401), indexing="ij"), axis=-1)
        flat = grid.reshape(-1, 2)
        y = np.concatenate([simulator(part)[:, 0] for part in np.array_split(flat, 40)])
        log = -0.5 * (((flat[:, 0] - 0.4) / 0.12) ** 2 + ((flat[:, 1] - 0.6) / 0.2) ** 2 + ((data - y) / 0.1) ** 2)
        weight = np.exp(log - log.max())
        mean = weight @ flat / weight.sum()
        sd = np.sqrt(weight @ (flat - mean) ** 2 / weight.sum())
        box = waves.problem.simulated.domain
        flat_prior = uq.ParameterSpace(
            **{n: uq.Uniform(low, high) for n, low, high in zip("ab", box.lower, box.upper, strict=True)}
        )
        without = uq.GaussianProcess().fit(simulator.run(uq.sobol(space, 64, rng=k)))
        problems = {
            "with waves": waves.calibration(),
            "without waves": uq.Calibration(without, waves.problem.observations, uq.GaussianNoise()),
            "uniform": waves.calibration(space=flat_prior),
        }
        for name, problem in problems.items():
            found = problem.sample(uq.NUTS(draws=2000), rng=k + 1)
            table, draws = found.summary(), found.flat()
            for i, n in enumerate("ab"):
                ess = min(float(table.loc[n, "ess_bulk"]), float(table.loc[n, "ess_tail"]))
                off[name].append(abs(draws[n].mean() - mean[i]) / sd[i] * np.sqrt(ess))
                off[name].append(abs(np.log(draws[n].std() / sd[i])) * np.sqrt(2.0 * ess))
    n = len(off["with waves"])
    return [
        aim(
            "posterior with waves: largest error of a mean or sd, in standard errors",
            max(off["with waves"]),
            None,
            4.0,
            None,
            n,
        ),
        aim("posterior without waves, as many runs: the same", max(off["without waves"]), None, 4.0, None, n),
        aim(
            "planted: a uniform prior on the box around what remains: the same",
            max(off["uniform"]),
            10.0,
            None,
            None,
            n,
        ),
    ]


def sir(folder: Path, half: str) -> list[Aim]:
    """Return what waves leave of the SIR model, and what the model itself does."""
    names, outputs = ("aSI", "aIR", "aSR"), ("nS", "nI", "nR")
    low, high = (0.1, 0.0, 0.0), (0.8, 0.5, 0.05)
    space = uq.ParameterSpace(**{n: uq.Uniform(a, b) for n, a, b in zip(names, low, high, strict=True)})

    def model(theta: Array) -> Array:
        """Return (n, 3) outputs at day 10, of all parameters at once."""
        si, ir, sr = theta.T
        start = np.repeat([[950.0], [50.0], [0.0]], len(theta), axis=1)

        def slope(_: float, state: Array) -> Array:
            S, I, R = state.reshape(3, -1)  # noqa: E741
            infected, recovered, lost = si * S * I / 1000.0, ir * I, sr * R
            return np.concatenate([lost - infected, infected - recovered, recovered - lost])

        return solve_ivp(slope, (0.0, 10.0), start.ravel(), rtol=1e-8, atol=1e-6).y[:, -1].reshape(3, -1).T

    def run(design: xr.Dataset) -> xr.Dataset:
        y = model(np.column_stack([design[n].values for n in names]))
        return uq.ensemble.build(design, dict(zip(outputs, y.T, strict=True)))

    table = pd.read_csv(folder / "training.csv")
    off = float(np.abs(model(table[list(names)].to_numpy()) - table[list(outputs)].to_numpy()).max())
    runs = uq.ensemble.build(
        {n: table[n].to_numpy() for n in names}, {n: table[n].to_numpy() for n in outputs}, space=space, box=space.box()
    )
    valid = pd.read_csv(folder / "validation.csv")
    row = valid.iloc[(0 if half == "seen" else 1) * 7 + 3]
    measured = row[list(outputs)].to_numpy()
    sd = 0.03 * measured + 1.0
    targets = {n: (float(row[n]), float(s)) for n, s in zip(outputs, sd, strict=True)}
    waves = uq.HistoryMatching(uq.GaussianProcess().fit(runs), targets, runs=runs)
    while waves.worthwhile() and len(waves.waves) < 4:
        waves = waves.told(run(waves.propose(30, rng=len(waves.waves))))
    print(waves.table.to_string())
    points = waves.remaining.points[:2000]
    theta = np.asarray(waves.box.from_unit(points))
    own = np.sum(((model(theta) - measured) / sd) ** 2, axis=1)
    kept = float(np.mean(own <= waves.waves[-1].cutoff))
    exact = remaining(
        lambda v: (
            np.sum(((model(np.asarray(waves.box.from_unit(v))) - row[list(outputs)].to_numpy()) / sd) ** 2, axis=1)
            / waves.waves[0].cutoff
        ),
        3,
        2000,
        np.random.default_rng(5),
    )
    inside = np.asarray(waves.box.from_unit(exact.points))
    error = float(np.hypot(waves.ruled_out_error / waves.volume, exact.error / exact.volume))
    lost = float(waves.rules_out(dict(zip(names, inside.T, strict=True))).mean())
    return [
        aim("sir: difference of the model from the published runs", off, None, 2e-3),
        aim("sir: waves until they stop", float(len(waves.waves)), None, 4),
        aim(
            "sir: volume that remains over what the model itself leaves", waves.volume / exact.volume, 0.75, 1.3, error
        ),
        aim("sir: of what remains, left by the model itself", kept, 0.9),
        aim("sir: of what the model leaves, ruled out", lost, None, 0.05),
        aim("sir: volume that remains, of the box", waves.volume, None, None, waves.ruled_out_error),
        aim("sir: runs", float(waves.runs.sizes["run"])),
    ]


def waves(half: str, quick: bool, cases: Path | str | None = None) -> list[Aim]:
    """Return the aims of this part."""
    out = [*linear(half, quick), *truth(half, quick), *fitted(half, quick), *posterior(half, quick)]
    if cases is None or not (Path(cases) / SIR).is_dir():
        return [*out, aim("sir", None, reason=f"no --cases DIR with a folder {SIR} was given")]
    return [*out, *sir(Path(cases) / SIR, half)]


def main() -> int:
    """Run it and print the aims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--half", choices=["seen", "unseen"], default="unseen")
    parser.add_argument("--cases", type=Path, help="folder that holds the cases")
    given = parser.parse_args()
    warnings.simplefilter("ignore", uq.errors.UqmsWarning)
    return finish(waves(given.half, given.quick, given.cases))


if __name__ == "__main__":
    sys.exit(main())
