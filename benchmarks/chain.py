"""Chains of surrogates: posteriors of what several scales determine together, and what a chain costs.

    python benchmarks/chain.py [--quick] [--only NAME ...] [--repeats N] [--half unseen]

``true_processes``: cell f1(theta) with 4 runs and tissue f2(y, x) with 25 are new draws of known processes in every
repeat, and surrogates have exactly their hyperparameters. The tissue is measured at 8 conditions x with little noise.
The posterior of theta on a grid is computed five times: exactly, by quadrature over the cell's error; by the library's
chain; with the cell's mean plugged in (dropped); with the error drawn anew for each condition (redrawn); and, where the
cell is measured too, with that measurement taken as independent of the chain. Three kinds: a link that is nearly linear,
the same with the cell measured, and the tissue as a function of tanh(3 y).

- Central 95 % and 50 % intervals of the library cover theta as often as exact ones, within two standard errors of the
  paired difference + 0.01.
- With a nearly linear link the log posterior density differs from the exact one by less than 0.05 nats in the mean over
  the exact posterior (the Kullback-Leibler divergence of the two), and the wrong ones by at least twice that much.
  The mean of the absolute difference is printed too.
- The library's log-likelihood equals the first-order formulas, written once more in NumPy.

``graphs``: random graphs of 2 to 5 members with 1 to 3 parents, 8 to 15 runs a member, functions drawn from known
processes, one parameter, sometimes a condition, 1 to 3 measured outputs in 1 to 3 conditions. Beside the library's chain
runs the exact posterior by importance sampling: errors are drawn member by member, given the data of each. 95 % and 50 %
intervals cover their nominal fraction within two standard errors + 0.01.

``vignette``: the system of three models of dgpsi's documentation (Ming & Guillas 2021, doi:10.1137/20M1323771) with 10,
15 and 15 runs, at equally spaced runs as there, and at random ones: error over the range, mean sd over the range,
coverage of 95 % intervals, and seconds of fitting and 500 predictions.

``cost``: a gradient of the compiled log-density of a chain of two members, over that of the child alone with the link as
a parameter; and a population of 30 patients through a chain.

``linear``: members that are linear are a conjugate problem: value and gradient to 1e-8.

Repeat k uses seed k; ``--half unseen`` starts at 10001: those were not looked at while this was written. ``--quick`` has
a tenth of the repeats, and windows are wider by their standard errors.
"""

if __name__ != "__main__":
    raise ImportError("this is a benchmark, not the package that numba asks for")

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from _report import Aim, aim, binomial, finish
from scipy.stats import qmc

import uqms as uq
from uqms._threads import one_thread
from uqms._typing import Array, Bools, Ints
from uqms.calibration import compiled
from uqms.parameters import Box
from uqms.surrogates import GaussianProcessSurrogate, Layout, Matern52
from uqms.surrogates.outputs import OutputBasis
from uqms.surrogates.process import average, condition
from uqms.surrogates.training import Hyperparameters
from uqms.surrogates.transforms import Identity, Logit, Transform

UNSEEN = 10_000
LEVELS = (0.95, 0.5)
ROOT3 = np.sqrt(3.0)
NATS = 0.05


# ------------------------------------------------------------------------------------------------------ known processes
def matern(squares: Array) -> Array:
    """Return the correlation of a Matérn-5/2 process from squared distances in length scales."""
    r = np.sqrt(5.0 * squares)
    return np.asarray((1.0 + r + r * r / 3.0) * np.exp(-r))


def between(a: Array, b: Array, ell: Array) -> Array:
    """Return the correlation between rows of a (..., k, d) and of b (n, d)."""
    squares = np.zeros((*a.shape[:-1], len(b)))
    for j, scale in enumerate(ell):
        squares += ((a[..., j, None] - b[:, j]) / scale) ** 2
    return matern(squares)


def drawn(x: Array, ell: Array, rng: np.random.Generator) -> Array:
    """Return a draw of the process of variance 1 at the rows of x, equal at equal rows."""
    rows, back = np.unique(x, axis=0, return_inverse=True)
    root = np.linalg.cholesky(between(rows, rows, ell) + 1e-10 * np.eye(len(rows)))
    return np.asarray((root @ rng.standard_normal(len(rows)))[back.ravel()])


def known(
    box: Mapping[str, tuple[float, float]],
    x: Array,
    y: Array,
    ell: Array,
    *,
    output: str = "y",
    basis: float = 1.0,
    transform: Transform | None = None,
    parameters: Sequence[str] = (),
    conditions: Sequence[str] = (),
) -> GaussianProcessSurrogate:
    """Return the surrogate that has exactly the process's hyperparameters: mean 0, variance 1, these length scales."""
    ends = np.array(list(box.values()))
    width = ends[:, 1] - ends[:, 0]
    one = Hyperparameters(ell / width, 0.0, 1e-12, 0.0, 1, False)
    process = condition(Matern52(), (x - ends[:, 0]) / width, y[:, None], 0, [one], [1.0])
    layout = Layout(transform=transform or Identity())
    rows = OutputBasis(output, layout, np.zeros(1), np.full((1, 1), basis), np.zeros((1, 0)))
    names = tuple(box)
    space = uq.ParameterSpace(
        **{name: uq.Uniform(*box[name]) for name in names if name not in conditions},
        conditions={name: uq.Condition(*box[name]) for name in conditions},
    )
    whole = Box(names, tuple(ends[:, 0]), tuple(ends[:, 1]))
    return GaussianProcessSurrogate(whole, process, (rows,), MappingProxyType({"space": space.to_json()}))


class Process(NamedTuple):
    """A process conditioned on its runs, in the units of its inputs."""

    x: Array
    ell: Array
    inverse: Array  # of the Cholesky factor
    target: Array

    @classmethod
    def of(cls, x: Array, y: Array, ell: Array) -> "Process":
        """Condition on runs."""
        inverse = np.linalg.inv(np.linalg.cholesky(between(x, x, ell) + 1e-12 * np.eye(len(x))))
        return cls(x, ell, inverse, inverse @ y)

    def at(self, u: Array) -> tuple[Array, Array]:
        """Return mean (..., k) and covariance (..., k, k) at inputs u (..., k, d)."""
        w = between(u, self.x, self.ell) @ self.inverse.T
        squares = np.zeros((*u.shape[:-1], u.shape[-2]))
        for j, scale in enumerate(self.ell):
            squares += ((u[..., :, None, j] - u[..., None, :, j]) / scale) ** 2
        return w @ self.target, matern(squares) - w @ np.swapaxes(w, -1, -2)


def log_normal(residual: Array, covariance: Array) -> Array:
    """Return the log density (...) of residuals (..., k)."""
    root = np.linalg.cholesky(covariance)
    whitened = np.linalg.solve(root, residual[..., None])[..., 0]
    logs = np.log(np.diagonal(root, axis1=-2, axis2=-1))
    return np.asarray(-0.5 * (whitened**2).sum(-1) - logs.sum(-1) - 0.5 * residual.shape[-1] * np.log(2.0 * np.pi))


# ------------------------------------------------------------------------------------------------- posteriors on a grid
class OnGrid(NamedTuple):
    """A posterior on a grid of theta from 0 to 1: its log probabilities, and the fraction below the truth."""

    log: Array
    below: float

    @classmethod
    def of(cls, log_likelihood: Array, truth: float) -> "OnGrid":
        """Normalise a log-likelihood over the grid."""
        p = np.exp(log_likelihood - np.nanmax(log_likelihood))
        cumulative = np.concatenate([[0.0], np.cumsum(0.5 * (p[1:] + p[:-1]))])
        below = np.interp(truth, np.linspace(0.0, 1.0, len(p)), cumulative / cumulative[-1])
        return cls(np.log(np.maximum(p / p.sum(), 1e-300)), float(below))

    def inside(self, level: float) -> bool:
        """Return whether the central interval holds the truth."""
        return abs(self.below - 0.5) < 0.5 * level

    def differs(self, exact: "OnGrid") -> tuple[float, float]:
        """Return the mean over the exact posterior of the difference of logs, and of its absolute value."""
        gap, weights = exact.log - self.log, np.exp(exact.log)
        return float(weights @ gap), float(weights @ abs(gap))


def paired(name: str, mine: Bools, exact: Bools, judged: bool) -> Aim:
    """Return the coverage of one, in a window about that of the exact posterior."""
    error = float((mine.astype(float) - exact).std(ddof=1) / np.sqrt(len(mine)))
    room = 2.0 * error + 0.01
    window = (float(exact.mean()) - room, float(exact.mean()) + room) if judged else (None, None)
    return aim(name, float(mine.mean()), *window, error, len(mine))


# ------------------------------------------------------------------------------------------------------- true processes
class Kind(NamedTuple):
    """What a repeat is made of: the link, the tissue's length scale along it, noise of the tissue and of the cell."""

    name: str
    tanh: bool
    ell: float
    sd: float
    cell_sd: float | None


KINDS = (
    Kind("linear link", False, 16.0, 0.0075, None),
    Kind("linear link, cell measured", False, 16.0, 0.0075, 0.1),
    Kind("tanh link", True, 6.0, 0.05, None),
)
STEEP, CELL_ELL, X_ELL = 6.0, 0.3, 0.5  # tanh(3 y) = 2 / (1 + exp(-6 y)) - 1
CELL_RUNS, TISSUE_RUNS, CONDITIONS, GRID, NODES = 4, 25, 8, 151, 121


class Pair(NamedTuple):
    """A cell and a tissue with their data."""

    truth: float
    cell: tuple[Array, Array]
    tissue: tuple[Array, Array]
    x: Array
    measured: Array
    cell_measured: float
    kind: Kind

    @property
    def ells(self) -> Array:
        """Length scales of the tissue."""
        return np.array([self.kind.ell, X_ELL])

    def link(self, y: Array) -> Array:
        """Return what the tissue takes."""
        return np.asarray(np.tanh(0.5 * STEEP * y)) if self.kind.tanh else y


def pair(kind: Kind, seed: int) -> Pair:
    """Return the problem of a seed."""
    rng = np.random.default_rng([seed, kind.tanh])
    truth, runs = float(rng.random()), (np.arange(CELL_RUNS) + rng.random(CELL_RUNS)) / CELL_RUNS
    f1 = drawn(np.append(runs, truth)[:, None], np.array([CELL_ELL]), rng)
    low, high = (-1.0, 1.0) if kind.tanh else (-4.0, 4.0)
    design = qmc.LatinHypercube(2, rng=rng).random(TISSUE_RUNS) * [high - low, 1.0] + [low, 0.0]
    x = np.linspace(0.0, 1.0, CONDITIONS)
    made = Pair(truth, (runs[:, None], f1[:-1]), (design, np.empty(0)), x, np.empty(0), 0.0, kind)
    places = np.vstack([design, np.column_stack([np.full(CONDITIONS, made.link(f1[-1])), x])])
    f2 = drawn(places, made.ells, rng)
    measured = f2[TISSUE_RUNS:] + kind.sd * rng.standard_normal(CONDITIONS)
    cell = float(f1[-1] + (kind.cell_sd or 0.0) * rng.standard_normal())
    return made._replace(tissue=(design, f2[:TISSUE_RUNS]), measured=measured, cell_measured=cell)


def by_hand(one: Pair) -> dict[str, Array]:
    """Return log-likelihoods on the grid, of the exact posterior and of others."""
    kind, grid = one.kind, np.linspace(0.0, 1.0, GRID)
    cell, tissue = Process.of(*one.cell, np.array([CELL_ELL])), Process.of(*one.tissue, one.ells)
    mean, variance = (part.ravel() for part in cell.at(grid[:, None, None]))
    variance = np.maximum(variance, 1e-14)
    noise = kind.sd**2 * np.eye(CONDITIONS)

    def child(y: Array) -> tuple[Array, Array]:
        link = np.broadcast_to(one.link(y)[..., None], (*y.shape, CONDITIONS))
        return tissue.at(np.stack([link, np.broadcast_to(one.x, link.shape)], axis=-1))

    # Exactly: what is known of the cell's output at each theta, its own measurement included, is normal.
    of_cell, m, s2 = np.zeros(GRID), mean, variance
    if kind.cell_sd is not None:
        of_cell = log_normal((one.cell_measured - mean)[:, None], (variance + kind.cell_sd**2)[:, None, None])
        s2 = 1.0 / (1.0 / variance + kind.cell_sd**-2)
        m = s2 * (mean / variance + one.cell_measured * kind.cell_sd**-2)
    z, step = np.linspace(-5.0, 5.0, NODES, retstep=True)
    log_weights = -0.5 * z**2 + np.log(step) - 0.5 * np.log(2.0 * np.pi)
    centre, covariance = child(m[:, None] + np.sqrt(s2)[:, None] * z)
    exact = of_cell + np.logaddexp.reduce(log_normal(one.measured - centre, covariance + noise) + log_weights, axis=1)

    # To first order, with slopes over three points of the cell's error.
    sd = np.sqrt(variance)
    (centre, covariance), (up, _), (down, _) = child(mean), child(mean + ROOT3 * sd), child(mean - ROOT3 * sd)
    slope = (up - down) / (2.0 * ROOT3)  # times the sd of the cell
    shifted = centre * (2.0 / 3.0) + (up + down) / 6.0
    shared = covariance + slope[:, :, None] * slope[:, None, :]
    anew = covariance + (slope**2)[:, :, None] * np.eye(CONDITIONS)
    residual = one.measured - shifted
    out = {
        "exact": exact,
        "dropped": of_cell + log_normal(one.measured - centre, covariance + noise),
        "redrawn": of_cell + log_normal(residual, anew + noise),
        "formula": log_normal(residual, shared + noise),
    }
    if kind.cell_sd is not None:
        out["independent"] = of_cell + out["formula"]
        whole = np.empty((GRID, CONDITIONS + 1, CONDITIONS + 1))
        whole[:, 1:, 1:], whole[:, 0, 0] = shared + noise, variance + kind.cell_sd**2
        whole[:, 0, 1:] = whole[:, 1:, 0] = slope * sd[:, None]
        out["formula"] = log_normal(np.column_stack([one.cell_measured - mean, residual]), whole)
    return out


def tissue_chain(one: Pair) -> uq.Chain:
    """Return the library's chain. The tanh is made of a logit-transformed output of the cell and its own unit."""
    (x1, y1), (x2, y2) = one.cell, one.tissue
    tanh = one.kind.tanh
    cell = known(
        {"theta": (0.0, 1.0)}, x1, y1, np.array([CELL_ELL]), output="apd", parameters=["theta"],
        basis=STEEP if tanh else 1.0, transform=Logit(-1.0, 1.0) if tanh else None,
    )  # fmt: skip
    ends = (-1.0, 1.0) if tanh else (-4.0, 4.0)
    tissue = known({"apd": ends, "x": (0.0, 1.0)}, x2, y2, one.ells, output="speed", conditions=["x"])
    return uq.Chain(cell=cell, tissue=tissue, links={"tissue.apd": "cell.apd"})


def through_library(one: Pair) -> Array:
    """Return the library's log-likelihood on the grid."""
    kind = one.kind
    table = pd.DataFrame({"x": one.x, "y": one.measured})
    data = uq.Observations.from_table(table, output="tissue.speed", value="y", conditions=["x"])
    noise = {"tissue.speed": uq.GaussianNoise(sd=kind.sd)}
    if kind.cell_sd is not None:
        own = pd.DataFrame({"y": [one.cell_measured]})
        data = uq.Observations.concat([data, uq.Observations.from_table(own, output="cell.apd", value="y")])
        noise["cell.apd"] = uq.GaussianNoise(sd=kind.cell_sd)
    problem = uq.Calibration(tissue_chain(one), data, noise=noise)
    return problem.log_likelihood({"theta": np.linspace(0.0, 1.0, GRID)})


def true_processes(seeds: range) -> list[Aim]:
    """Return coverage and differences of log-likelihoods of all kinds."""
    aims: list[Aim] = []
    for kind in KINDS:
        rows: list[dict[str, OnGrid]] = []
        off: list[float] = []
        for seed in seeds:
            one = pair(kind, seed)
            with one_thread():
                found = by_hand(one)
            found["library"] = through_library(one)
            likely = np.exp(found["exact"] - found["exact"].max()) > 1e-6
            off.append(float(np.max(abs(found["library"] - found.pop("formula"))[likely])))
            rows.append({name: OnGrid.of(values, one.truth) for name, values in found.items()})
        n = len(rows)
        for level in LEVELS:
            inside = {name: np.array([row[name].inside(level) for row in rows]) for name in rows[0]}
            exact = inside.pop("exact")
            share = float(exact.mean())
            aims.append(aim(f"{kind.name}: {level:.0%}, exact", share, mcse=binomial(share, n), n=n))
            for name, covered in inside.items():
                aims.append(paired(f"{kind.name}: {level:.0%}, {name}", covered, exact, name == "library"))
                if name != "library":
                    aims[-1].update(ok=None, reason="planted")
        for name in rows[0]:
            if name == "exact":
                continue
            nats, absolute = np.array([row[name].differs(row["exact"]) for row in rows]).T
            error, size = (float(one.std(ddof=1) / np.sqrt(n)) for one in (nats, absolute))
            label = f"{kind.name}: nats from the exact log density, {name}"
            remark = f"of absolute differences {absolute.mean():.3g} +- {size:.1g}"
            planted = name != "library"
            judged = not kind.tanh
            low = 2.0 * NATS if planted and judged else None
            high = NATS + 2.0 * error * (n < 200) if not planted and judged else None
            aims.append(aim(label, float(nats.mean()), low, high, error, n, remark))
        most = float(np.max(off))
        aims.append(aim(f"{kind.name}: largest difference from the formulas, nats", most, high=1e-3, n=n))
        print(*(f"{each['name']}: {each['value']:.4g}" for each in aims[-14:]), sep="\n", flush=True)
    return aims


PARTS: dict[str, tuple[Callable[[range], list[Aim]], int, int]] = {"true_processes": (true_processes, 600, 60)}


def main() -> int:
    """Measure, and return how many aims were missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the repeats")
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=list(PARTS), help="names of parts")
    parser.add_argument("--repeats", type=int, help="of each part")
    parser.add_argument("--half", choices=("seen", "unseen"), default="seen", help="which seeds")
    options = parser.parse_args()
    first = 1 + UNSEEN * (options.half == "unseen")
    aims: list[Aim] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in options.only:
            measure, whole, quick = PARTS[name]
            begin = time.perf_counter()
            repeats = options.repeats or (quick if options.quick else whole)
            aims += measure(range(first, first + repeats))
            print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)
    return finish(aims)


sys.exit(main())
