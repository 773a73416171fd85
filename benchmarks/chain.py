"""Chains of surrogates: posteriors from data of several scales, and what a chain costs.

    python benchmarks/chain.py [--quick] [--only NAME ...] [--repeats N] [--half unseen] [--cases DIR]

``true_processes``: in every repeat the cell f1(theta), with 4 runs, and the tissue f2(y, x), with 25 runs, are new
draws of known processes. The surrogates have exactly the processes' hyperparameters. The tissue is measured at 8
conditions x with little noise. The posterior of theta is computed on a grid in five ways: exactly, by quadrature over
the cell's error; by the library's chain; with the cell's mean plugged in ("dropped"); with the cell's error drawn
independently for each condition ("redrawn"); and, where the cell is measured too, with that measurement taken as
independent of the chain ("independent"). The last three are planted errors. There are three kinds of problems: a
nearly linear link, the same with the cell measured, and a tissue that is a function of tanh(3 y).

- "first order" is the expansion by itself; "library" is the default, which samples the cell's error where the expansion
  was measured to lose 0.05 nats (here that error is integrated out by quadrature).
- Central 95 % and 50 % intervals of the library cover theta as often as the exact ones, within two standard errors of
  the paired difference + 0.01.
- With a nearly linear link the mean difference between the exact and the library's log posterior density, weighted by
  the exact posterior (the Kullback-Leibler divergence), is below 0.05 nats, and that of each planted error above 0.1
  nats. The mean absolute difference is printed as a remark. With the tanh link the differences are printed without an
  aim.
- The library's log-likelihood equals the first-order formulas, which are written independently in NumPy here.

``graphs``: random graphs of 2 to 5 members with 1 to 3 parents and 8 to 15 runs a member. Functions are drawn from
known processes; there is one parameter, often a condition, and 1 to 3 measured outputs in 1 to 3 conditions. 95 % and
50 % intervals cover their nominal fraction within two standard errors + 0.01. The exact posterior runs beside, by
sequential importance sampling: outputs are drawn member by member, given the data of each. The library's is that of
the first-order expansion by itself, without the sampled errors of the default. Its coverage is also compared with the
exact one, as above. Parents' errors are dropped as a planted error, which differs from the exact
log density by more than 0.1 nats.

``vignette``: the system of three models of dgpsi's documentation (Ming & Guillas 2021, doi:10.1137/20M1323771) with
10, 15 and 15 runs, equally spaced as there, and random: NRMSE at most 0.047, mean sd over the range at most 0.076,
coverage of 95 % intervals at least 0.93, and at most 3 seconds for fits and 500 predictions. Aims are for the default
settings, whose sd is larger than that: among 15 runs of the second model one stands out, and draws with an amplitude
take it for roughness. On functions of one input with 8 to 20 runs such draws are worth it: they gain 0.6 to 1.4 nats.

``cost``: a gradient of the compiled log-density of a chain of two members takes at most 3 times as long as that of
the child alone with the link as a parameter. ``population``: time of a gradient and of short chains of 30 patients.

``linear``: the tissue is linear in the cell's output, so that the data are jointly normal: log-likelihood and
gradient equal the closed form to 1e-8.

``squid``: Hodgkin and Huxley's axon with real conductances, DIR/hodgkin_huxley_scales/potassium.csv and sodium.csv:
time after the step (ms), depolarisation (mV), conductance (mS/cm²), digitised from their paper of 1952 for the
repository thiery-lab/manifold_lifting (folder data), which has no licence, so that they are not here. The 16 constants
of the rates and conductances have log-normal priors. Printed is what these data alone say of the conduction speed
(Laplace's approximation), beside the figures of the case. Their upper end is reached by no impulse that starts from
rest: where the leak keeps its published reversal, about a sixth of the draws fires everywhere without a shock. Then
the height of one action potential is added, 100 mV with the published constants, and one speed, 21.2 m/s as measured,
through a chain of patch and axon. Mean speeds are within .35 sds of the exact ones, by importance weights on runs, and
two standard errors.

Repeat k uses seed k. ``--half unseen`` starts at seed 10001; those seeds were not used while the script was written.
``--quick`` runs about a tenth of the repeats, and windows are wider by their standard errors.
"""

if __name__ != "__main__":
    raise ImportError("this is a benchmark, not the package that numba asks for")

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from _report import Aim, aim, binomial, finish
from _squid import CONSTANTS, POTASSIUM, SODIUM, clamped, fires_by_itself, impulses, speed
from scipy.stats import qmc

import uqms as uq
from uqms._threads import one_thread
from uqms._typing import Array, Bools
from uqms.calibration import compiled
from uqms.parameters import Box, ParameterSpace
from uqms.surrogates import GaussianProcessSurrogate, Layout, Matern52
from uqms.surrogates.outputs import OutputBasis
from uqms.surrogates.process import condition
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
        {"theta": (0.0, 1.0)}, x1, y1, np.array([CELL_ELL]), output="apd",
        basis=STEEP if tanh else 1.0, transform=Logit(-1.0, 1.0) if tanh else None,
    )  # fmt: skip
    ends = (-1.0, 1.0) if tanh else (-4.0, 4.0)
    tissue = known({"apd": ends, "x": (0.0, 1.0)}, x2, y2, one.ells, output="speed", conditions=["x"])
    return uq.Chain(cell=cell, tissue=tissue, links={"tissue.apd": "cell.apd"})


def through_library(one: Pair, expansion: str) -> tuple[Array, bool]:
    """Return the library's log-likelihood on the grid, and whether it samples the cell's error.

    That error is then integrated out by quadrature, as a sampler does.
    """
    kind = one.kind
    table = pd.DataFrame({"x": one.x, "y": one.measured})
    data = uq.Observations.from_table(table, output="tissue.speed", value="y", conditions=["x"])
    noise = {"tissue.speed": uq.GaussianNoise(sd=kind.sd)}
    if kind.cell_sd is not None:
        own = pd.DataFrame({"y": [one.cell_measured]})
        data = uq.Observations.concat([data, uq.Observations.from_table(own, output="cell.apd", value="y")])
        noise["cell.apd"] = uq.GaussianNoise(sd=kind.cell_sd)
    problem = uq.Calibration(tissue_chain(one), data, noise=noise, expansion=expansion)
    grid = np.linspace(0.0, 1.0, GRID)
    if not problem.link_errors:
        return problem.log_likelihood({"theta": grid}), False
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    both = np.meshgrid(grid, nodes, indexing="ij")
    logs = problem.log_likelihood({"theta": both[0], problem.link_errors[0]: both[1]})
    top = logs.max(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        return top[:, 0] + np.log(np.exp(logs - top) @ weights / np.sqrt(2.0 * np.pi)), True


def true_processes(seeds: range) -> list[Aim]:
    """Return coverage and differences of log-likelihoods of all kinds."""
    aims: list[Aim] = []
    for kind in KINDS:
        rows: list[dict[str, OnGrid]] = []
        off: list[float] = []
        sampled: list[bool] = []
        for seed in seeds:
            one = pair(kind, seed)
            with one_thread():
                found = by_hand(one)
            found["first order"], _ = through_library(one, "first-order")
            found["library"], switched = through_library(one, "measured")
            sampled.append(switched)
            likely = np.exp(found["exact"] - found["exact"].max()) > 1e-6
            off.append(float(np.max(abs(found["first order"] - found.pop("formula"))[likely])))
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
                    reason = "without the switch" if name == "first order" else "planted"
                    aims[-1] |= {"ok": None, "reason": reason}
        for name in rows[0]:
            if name == "exact":
                continue
            nats, absolute = np.array([row[name].differs(row["exact"]) for row in rows]).T
            error, size = (float(one.std(ddof=1) / np.sqrt(n)) for one in (nats, absolute))
            label = f"{kind.name}: nats from the exact log density, {name}"
            remark = f"of absolute differences {absolute.mean():.3g} +- {size:.1g}"
            planted = name not in ("library", "first order")
            judged = name == "library" or (planted and not kind.tanh)
            low = 2.0 * NATS if planted and judged else None
            high = NATS + 2.0 * error * (n < 200) if not planted and judged else None
            aims.append(aim(label, float(nats.mean()), low, high, error, n, remark))
        switches = float(np.mean(sampled))
        aims.append(
            aim(f"{kind.name}: problems whose link's error is sampled", switches, mcse=binomial(switches, n), n=n)
        )
        most = float(np.max(off))
        aims.append(aim(f"{kind.name}: largest difference from the formulas, nats", most, high=1e-3, n=n))
        print(*(f"{each['name']}: {each['value']:.4g}" for each in aims[-17:]), sep="\n", flush=True)
    return aims


# --------------------------------------------------------------------------------------------------------------- graphs
MEMBERS, PARENTS, RUNS, OUTPUTS, MOST_CONDITIONS = 5, 3, (8, 15), 3, 3
LINK_ENDS = (-3.0, 3.0)
GRAPH_GRID, DRAWS = 151, 512


class Member(NamedTuple):
    """A member of a graph: its inputs ("theta", "x" or places of its parents), its process and its data."""

    inputs: tuple[str | int, ...]
    ell: Array
    x: Array
    y: Array
    by_condition: bool  # whether it or an ancestor depends on x
    sd: float | None  # of its measurements
    measured: Array

    @property
    def parents(self) -> list[int]:
        """Places of its parents."""
        return [one for one in self.inputs if isinstance(one, int)]


class Linked(NamedTuple):
    """Members, each after its parents, the parameter that data come from, and the conditions."""

    members: tuple[Member, ...]
    truth: float
    x: Array


def linked(seed: int) -> Linked:
    """Return the graph of a seed with runs and data."""
    rng = np.random.default_rng([seed, 2])
    truth, x = float(rng.random()), rng.random(int(rng.integers(1, MOST_CONDITIONS + 1)))
    size = int(rng.integers(2, MEMBERS + 1))
    weights = np.where(np.arange(size) == 0, 0.3, 1.0)  # errors of parents matter where children are measured
    count = min(size, int(rng.integers(1, OUTPUTS + 1)))
    outputs = set(rng.choice(size, count, replace=False, p=weights / weights.sum()).tolist())
    members: list[Member] = []
    values: list[Array] = []  # (K,) of each
    for m in range(size):
        parents = sorted(rng.choice(m, min(m, int(rng.integers(1, PARENTS + 1))), replace=False).tolist()) if m else []
        own = [name for name, chance in (("theta", 0.2 if m else 1.0), ("x", 0.5)) if rng.random() < chance]
        inputs = (*own, *parents)
        scales = {"theta": (0.1, 0.3) if not m else (0.5, 1.5), "x": (1.0, 3.0)}
        ell = np.array([np.exp(rng.uniform(*np.log(scales.get(str(one), (5.0, 12.0))))) for one in inputs])
        ends = np.array([LINK_ENDS if isinstance(one, int) else (0.0, 1.0) for one in inputs])
        n = int(rng.integers(RUNS[0], RUNS[1] + 1))
        runs = ends[:, 0] + qmc.LatinHypercube(len(inputs), rng=rng).random(n) * np.ptp(ends, axis=1)
        known_inputs = {"theta": np.full(len(x), truth), "x": x}
        here = [values[one] if isinstance(one, int) else known_inputs[one] for one in inputs]
        f = drawn(np.vstack([runs, np.column_stack(here)]), ell, rng)
        by_condition = "x" in inputs or any(members[one].by_condition for one in parents)
        sd = float(np.exp(rng.uniform(*np.log((0.01, 0.03))))) if m in outputs else None
        measured = f[n:] if by_condition else f[n : n + 1]
        measured = measured + (sd or 0.0) * rng.standard_normal(len(measured))
        members.append(Member(inputs, ell, runs, f[:n], by_condition, sd, measured))
        values.append(f[n:])
    return Linked(tuple(members), truth, x)


def graph_exactly(one: Linked, seed: int, dropped: bool = False) -> Array:
    """Return the log-likelihood on the grid by sequential importance sampling of the members' outputs.

    Where errors are `dropped`, members take the mean of their parents given the data of these: a planted error.
    """
    needed = {parent for member in one.members for parent in member.parents}
    sizes = [len(one.x) if member.by_condition else 1 for member in one.members]
    sobol = qmc.MultivariateNormalQMC(np.zeros(sum(sizes)), rng=np.random.default_rng([seed, 3])).random(DRAWS)
    sobol = np.zeros((1, sum(sizes))) if dropped else sobol
    normals = np.split(sobol, np.cumsum(sizes)[:-1], axis=1)  # the same for all theta
    theta = np.linspace(0.0, 1.0, GRAPH_GRID)[:, None, None]
    outputs: list[Array] = []
    log_weights = np.zeros((GRAPH_GRID, len(sobol)))
    for m, member in enumerate(one.members):
        if m not in needed and member.sd is None:
            outputs.append(np.empty(0))
            continue
        k = sizes[m]
        given = {"theta": theta, "x": one.x[None, None, :k]}
        columns = [outputs[i] if isinstance(i, int) else given[i] for i in member.inputs]
        u = np.stack(np.broadcast_arrays(*columns, np.empty((GRAPH_GRID, 1, k)))[:-1], axis=-1)
        mean, covariance = Process.of(member.x, member.y, member.ell).at(u)
        covariance = covariance + 1e-10 * np.eye(k)
        if member.sd is not None:
            total, residual = covariance + member.sd**2 * np.eye(k), member.measured - mean
            log_weights = log_weights + log_normal(residual, total)
            gain = np.linalg.solve(total, covariance)
            mean = mean + np.einsum("...ij,...i->...j", gain, residual)
            covariance = covariance - covariance @ gain
            covariance = 0.5 * (covariance + np.swapaxes(covariance, -1, -2)) + 1e-10 * np.eye(k)
        if m in needed:
            root = np.linalg.cholesky(covariance)
            outputs.append(mean + np.einsum("...ij,...j->...i", root, normals[m]))
        else:
            outputs.append(np.empty(0))
    return np.asarray(np.logaddexp.reduce(log_weights, axis=1) - np.log(len(sobol)))


def graph_by_library(one: Linked) -> Array:
    """Return the log-likelihood of the library's chain on the grid."""
    surrogates, noise, data = {}, {}, []
    links: dict[str, str | uq.Link] = {}
    for m, member in enumerate(one.members):
        name = f"m{m}"
        keys = [f"from{i}" if isinstance(i, int) else i for i in member.inputs]
        box = {key: LINK_ENDS if key.startswith("from") else (0.0, 1.0) for key in keys}
        conditions = ["x"] if "x" in keys else []
        surrogates[name] = known(box, member.x, member.y, member.ell, conditions=conditions)
        links |= {f"{name}.from{i}": f"m{i}.y" for i in member.parents}
        if member.sd is not None:
            noise[f"{name}.y"] = uq.GaussianNoise(sd=member.sd)
            table = pd.DataFrame({"y": member.measured} | ({"x": one.x} if member.by_condition else {}))
            has = ["x"] if member.by_condition else []
            data.append(uq.Observations.from_table(table, output=f"{name}.y", value="y", conditions=has))
    chain, measured = uq.Chain(**surrogates, links=links), uq.Observations.concat(data)
    # Several sampled errors would need more than a grid: the expansion by itself is judged.
    problem = uq.Calibration(chain, measured, noise=noise, expansion="first-order", outside="extrapolate")
    return problem.log_likelihood({"theta": np.linspace(0.0, 1.0, GRAPH_GRID)})


def graphs(seeds: range) -> list[Aim]:
    """Return the coverage over random graphs."""
    rows: list[tuple[OnGrid, OnGrid, OnGrid]] = []
    for seed in seeds:
        one = linked(seed)
        with one_thread():
            exact, dropped = graph_exactly(one, seed), graph_exactly(one, seed, dropped=True)
        found = OnGrid.of(exact, one.truth), OnGrid.of(graph_by_library(one), one.truth), OnGrid.of(dropped, one.truth)
        rows.append(found)
    n, aims = len(rows), list[Aim]()
    for level in LEVELS:
        exact, mine, dropped = np.array([[each.inside(level) for each in row] for row in rows]).T
        shares = {"exact, by importance sampling": exact, "library": mine, "errors of parents dropped": dropped}
        for name, covered in shares.items():
            share, nominal = float(covered.mean()), binomial(level, n)
            judged = name == "library"
            window = (level - 2.0 * nominal - 0.01, level + 2.0 * nominal + 0.01) if judged else (None, None)
            aims.append(aim(f"graphs: {level:.0%}, {name}", share, *window, binomial(share, n), n))
            if covered is dropped:
                aims[-1] |= {"ok": None, "reason": "planted"}
        aims.append(paired(f"graphs: {level:.0%}, library beside exact", mine, exact, True))
    for place, name in ((1, "library"), (2, "errors of parents dropped")):
        nats, absolute = np.array([row[place].differs(row[0]) for row in rows]).T
        error = float(nats.std(ddof=1) / np.sqrt(n))
        remark = f"median {np.median(nats):.2g}; of absolute differences {absolute.mean():.3g}; sampling error included"
        label = f"graphs: nats from the exact log density, {name}"
        low = 2.0 * NATS if place == 2 and n >= 200 else None
        aims.append(aim(label, float(nats.mean()), low, mcse=error, n=n, reason=remark))
    return aims


# ------------------------------------------------------------------------------------------------------------- vignette
VIGNETTE_RUNS, POINTS = (10, 15, 15), 500
MOST_NRMSE, MOST_SD, MOST_SECONDS = 0.047, 0.076, 3.0


def f1(x: Array) -> Array:
    """Return the first model."""
    return np.asarray((np.sin(7.5 * x) + 1.0) / 2.0)


def f2(x: Array) -> Array:
    """Return the second model."""
    z = 2.0 * (2.0 * x - 1.0)
    return np.asarray(2.0 / 3.0 * np.sin(z) + 4.0 / 3.0 * np.exp(-30.0 * z**2) - 1.0 / 3.0)


def f3(a: Array, b: Array) -> Array:
    """Return the third model."""
    return np.asarray(a * b**2)


class Linkage(NamedTuple):
    """How well one chain predicts the linked models."""

    nrmse: float
    sd: float
    in_95: float
    in_50: float
    seconds: float


def linkage(seed: int | None, method: uq.GaussianProcess) -> Linkage:
    """Fit and predict with random runs, one in each of n equal intervals, or with equally spaced ones (None)."""
    rng = np.random.default_rng(seed)

    def runs(n: int) -> Array:
        return np.linspace(0.0, 1.0, n) if seed is None else (np.arange(n) + rng.random(n)) / n

    x, a, c = (runs(n) for n in VIGNETTE_RUNS)
    new = np.linspace(0.0, 1.0, POINTS)
    truth = f3(f1(new), f2(f1(new)))
    unit = uq.Uniform(0.0, 1.0)
    begin = time.perf_counter()
    spaces = (uq.ParameterSpace(x=unit), uq.ParameterSpace(a=unit), uq.ParameterSpace(a=unit, b=uq.Uniform(-1.2, 1.0)))
    chain = uq.Chain(
        first=method.fit(uq.ensemble.build({"x": x}, {"y": f1(x)}, space=spaces[0])),
        second=method.fit(uq.ensemble.build({"a": a}, {"y": f2(a)}, space=spaces[1])),
        third=method.fit(uq.ensemble.build({"a": c, "b": f2(c)}, {"y": f3(c, f2(c))}, space=spaces[2])),
        links={"second.a": "first.y", "third.a": "first.y", "third.b": "second.y"},
    )
    law = chain.predict({"x": new}).law("third.y")
    mean, sd = (part[:, 0] for part in (law.moments()[0], np.sqrt(law.moments()[1])))
    seconds = time.perf_counter() - begin
    inside = []
    for level in LEVELS:
        low, high = (law.quantile(0.5 + side * 0.5 * level)[:, 0] for side in (-1, 1))
        inside.append(float(np.mean((truth >= low) & (truth <= high))))
    width = float(np.ptp(truth))
    nrmse = float(np.sqrt(np.mean((truth - mean) ** 2))) / width
    return Linkage(nrmse, float(np.mean(sd)) / width, inside[0], inside[1], seconds)


METHODS = {
    "default": uq.GaussianProcess(),
    "scales='given'": uq.GaussianProcess(scales="given"),
    "hyperparameters='point'": uq.GaussianProcess(hyperparameters="point"),
}
WORDS = {"nrmse": "NRMSE", "sd": "mean sd over range", "in_95": "95 %", "in_50": "50 %", "seconds": "seconds"}


def vignette(seeds: range) -> list[Aim]:
    """Return how the equally spaced design and random ones predict; aims are those of the defaults."""
    linkage(1, METHODS["default"])  # compiles
    n, aims = len(seeds), list[Aim]()
    limits: dict[str, tuple[float | None, float | None]] = {
        "nrmse": (None, MOST_NRMSE), "sd": (None, MOST_SD), "in_95": (0.93, 1.0), "seconds": (None, MOST_SECONDS),
    }  # fmt: skip
    for name, method in METHODS.items():
        given, random = linkage(None, method), [linkage(seed, method) for seed in seeds]
        for key, words in WORDS.items():
            low, high = limits.get(key, (None, None)) if name == "default" else (None, None)
            aims.append(aim(f"vignette, {name}, equally spaced runs: {words}", getattr(given, key), low, high, n=1))
        for key, words in WORDS.items():
            values = np.array([getattr(one, key) for one in random])
            error = float(values.std(ddof=1) / np.sqrt(n))
            low, high = limits.get(key, (None, None)) if name == "default" else (None, None)
            window = (None if low is None else low - 2.0 * error, None if high is None else high + 2.0 * error)
            ends = f"median {np.median(values):.3g}, from {values.min():.3g} to {values.max():.3g}"
            aims.append(aim(f"vignette, {name}, random runs: {words}", float(values.mean()), *window, error, n, ends))
    return aims


# ----------------------------------------------------------------------------------------------------------------- cost
DEAREST, ROUNDS, SECONDS, PATIENTS = 3.0, 9, 0.2, 30
TIMES = np.linspace(0.0, 1.0, 25)


def fitted_pair(curve: bool) -> tuple[uq.Chain, uq.Surrogate]:
    """Return a chain of two fitted members, 16 hyperparameter draws each, and its child."""
    method = uq.GaussianProcess(hyperparameters="averaged")
    space = uq.ParameterSpace(g=uq.Uniform(0.5, 2.0), k=uq.Uniform(0.5, 2.0))
    design = uq.sobol(space, 30, rng=1)
    g, k = (design[name].values for name in ("g", "k"))
    outputs: dict[str, Array | xr.DataArray] = {"apd": 1.0 / (0.4 + g) + 0.3 * np.sin(k * g)}
    link: str | uq.Link = "cell.apd"
    if curve:
        shape = np.exp(-np.outer(g, TIMES)) + 0.3 * np.sin(3.0 * np.outer(k, TIMES)) + 0.2
        outputs, link = (
            {"v": xr.DataArray(shape, dims=("run", "t"), coords={"t": TIMES})},
            uq.Link("cell.v", at={"t": 0.5}),
        )
    cell = method.fit(uq.ensemble.build(design, outputs, space=space))
    space = uq.ParameterSpace(
        apd=uq.Uniform(0.0, 1.6), d=uq.Uniform(0.5, 2.0), conditions={"x": uq.Condition(0.0, 1.0)}
    )
    design = uq.sobol(space, 60, rng=2)
    apd, d, x = (design[name].values for name in ("apd", "d", "x"))
    tissue = method.fit(uq.ensemble.build(design, {"speed": np.sqrt(d) / (0.6 + apd * (1.0 + x))}, space=space))
    return uq.Chain(cell=cell, tissue=tissue, links={"tissue.apd": link}), tissue


def density(surrogate: uq.Surrogate, output: str) -> compiled.Target | None:
    """Return the compiled log-density with 8 tissue conditions."""
    x = np.linspace(0.0, 1.0, CONDITIONS)
    table = pd.DataFrame({"x": x, "y": 1.1 / (0.6 + 0.7 * (1.0 + x))})
    data = uq.Observations.from_table(table, output=output, value="y", conditions=["x"])
    noise = uq.GaussianNoise(sd=0.02)
    return compiled.target(uq.Calibration(surrogate, data, noise=noise, expansion="first-order"))


def a_gradient(target: compiled.Target) -> float:
    """Return the seconds of one gradient."""
    points = np.random.default_rng(1).normal(0.0, 0.5, (64, target.size))
    count, begin = 0, time.process_time()
    while time.process_time() - begin < SECONDS:
        for w in points:
            target.evaluate(w)
        count += len(points)
    return (time.process_time() - begin) / count


def cost(seeds: range) -> list[Aim]:
    """Return the cost of a chain's gradient over that of its child's, rounds of both in turn."""
    aims: list[Aim] = []
    for curve in (False, True):
        name = "curve in the cell" if curve else "scalars"
        chain, child = fitted_pair(curve)
        draws = len(chain.scores(np.full((1, chain.domain.d), 0.5)).log_weights)
        size = chain.decode("tissue.speed").basis.shape[1]
        both = density(chain, "tissue.speed"), density(child, "speed")
        label = f"cost of a gradient, {name}: chain over child"
        if both[0] is None or both[1] is None:
            missing = "chain" if both[0] is None else "child"
            aims.append(aim(label, None, high=DEAREST, reason=f"the {missing} has no compiled log-density"))
            continue
        times = np.array(
            [[a_gradient(one) for one in both if one is not None] for _ in range(max(5, min(ROUNDS, len(seeds))))]
        )
        ratios = times[:, 0] / times[:, 1]
        microseconds = 1e6 * np.median(times, axis=0)
        remark = (
            f"{microseconds[0]:.0f} and {microseconds[1]:.0f} microseconds, {draws} hyperparameter draws, "
            f"{size} scores, "
            f"ratios {ratios.min():.2f} to {ratios.max():.2f}"
        )
        aims.append(aim(label, float(np.median(ratios)), high=DEAREST, n=len(ratios), reason=remark))
    return aims


def population(seeds: range) -> list[Aim]:
    """Return what a population through a chain takes: the cell's conductance differs between patients.

    Draws and warm-up of each of two chains are as many as there are repeats.
    """
    chain, _ = fitted_pair(False)
    rng = np.random.default_rng(1)
    g, d, k = np.exp(rng.normal(0.0, 0.15, PATIENTS)), 1.1, 1.0
    apd = 1.0 / (0.4 + g) + 0.3 * np.sin(k * g)
    names = [f"p{i:02d}" for i in range(PATIENTS)]
    rows = [(names[i], x, np.sqrt(d) / (0.6 + apd[i] * (1.0 + x))) for i in range(PATIENTS) for x in (0.2, 0.8)]
    tissue = pd.DataFrame(rows, columns=["id", "x", "y"])
    tissue["y"] += 0.02 * rng.standard_normal(len(tissue))
    cell = pd.DataFrame({"id": names, "y": apd + 0.02 * rng.standard_normal(PATIENTS)})
    data = uq.Observations.concat(
        [
            uq.Observations.from_table(tissue, output="tissue.speed", value="y", conditions=["x"], subject="id"),
            uq.Observations.from_table(cell, output="cell.apd", value="y", subject="id"),
        ]
    )
    space = uq.ParameterSpace(g=uq.LogNormal(median=1.0, sigma=0.15), k=uq.Uniform(0.7, 1.3), d=uq.Uniform(0.7, 1.6))
    settings = uq.Population(space, individual=("g",), spread=uq.HalfNormal(0.15))
    noise = {"cell.apd": uq.GaussianNoise(sd=0.02), "tissue.speed": uq.GaussianNoise(sd=0.02)}
    problem = uq.Calibration(chain, data, noise=noise, population=settings, outside="extrapolate")
    label, draws = f"population of {PATIENTS} through a chain", len(seeds)
    begin = time.perf_counter()
    target = problem.compiled.target(problem)
    target.evaluate(target.start)
    print(f"{label}: {time.perf_counter() - begin:.1f} s until the first gradient", flush=True)
    times = np.empty(20)
    for i in range(len(times)):
        begin = time.perf_counter()
        target.evaluate(target.start)
        times[i] = time.perf_counter() - begin
    aims = [aim(f"{label}: seconds of a gradient", float(np.median(times)), n=len(times))]
    print(f"{aims[0]['name']}: {aims[0]['value']:.3g}", flush=True)
    begin = time.perf_counter()
    posterior = problem.sample(uq.NUTS(draws=draws, tune=draws, chains=2, ess=None), rng=1)
    seconds = time.perf_counter() - begin
    steps = float(posterior.tree["sample_stats"]["n_steps"].sum())
    finite = all(bool(np.isfinite(one).all()) for one in posterior.draws.data_vars.values())
    found = {name: f"{float(posterior.draws[name].mean()):.3g}" for name in ("g", "k", "d")}
    remark = f"{steps:.0f} steps of kept draws; means {found}, simulated with g 1, k {k:g}, d {d:g}"
    aims.append(aim(f"{label}: draws are finite", float(finite), low=1.0, n=2 * draws))
    aims.append(aim(f"{label}: seconds of 2 chains, {draws} + {draws} draws", seconds, n=1, reason=remark))
    return aims


# --------------------------------------------------------------------------------------------------------------- linear
EQUAL = 1e-8


def rank_one(residual: Array, variance: Array, direction: Array, noise: Array) -> Array:
    """Return the log density (S,) of residuals (S, N) ~ N(0, variance d d' + diag(noise)); complex numbers too."""
    a, b = (direction**2 / noise).sum(), (residual * direction / noise).sum(axis=1)
    quadratic = (residual**2 / noise).sum(axis=1) - variance * b**2 / (1.0 + variance * a)
    log_det = np.log(noise).sum() + np.log(1.0 + variance * a)
    return np.asarray(-0.5 * (quadratic + log_det + len(noise) * np.log(2.0 * np.pi)))


def conjugate(seed: int) -> tuple[float, float, float]:
    """Return the largest relative errors of a log-likelihood, and of its gradient from compiled code and from PyMC.

    The cell has an error, the tissue is linear in the cell's output and a condition: the data are jointly normal. The
    gradient of their density is taken by a complex step.
    """
    rng = np.random.default_rng([seed, 5])
    x1, ell = (np.arange(6)[:, None] + rng.random((6, 1))) / 6, np.array([rng.uniform(0.2, 0.6)])
    y1 = drawn(x1, ell, rng)
    slope, by_x, offset = rng.normal(size=3) * (1.0, 0.5, 0.5) + (np.sign(rng.normal()), 0.0, 0.0)
    design = qmc.LatinHypercube(2, rng=rng).random(12) * [8.0, 1.0] - [4.0, 0.0]
    space = uq.ParameterSpace(apd=uq.Uniform(-4.0, 4.0), conditions={"x": uq.Condition(0.0, 1.0)})
    speeds = offset + slope * design[:, 0] + by_x * design[:, 1]
    runs = uq.ensemble.build({"apd": design[:, 0], "x": design[:, 1]}, {"speed": speeds}, space=space, box=space.box())
    cell = known({"theta": (0.0, 1.0)}, x1, y1, ell, output="apd")
    chain = uq.Chain(cell=cell, tissue=uq.GaussianProcess(trend="linear").fit(runs), links={"tissue.apd": "cell.apd"})
    x = np.linspace(0.1, 0.9, 5)
    truth, noise = rng.random(), np.array([0.2, *[0.1] * len(x)])
    at_truth = float(Process.of(x1, y1, ell).at(np.array([[[truth]]]))[0].item())
    data = np.append(at_truth, offset + slope * at_truth + by_x * x) + noise * rng.standard_normal(len(noise))
    tissue = uq.Observations.from_table(
        pd.DataFrame({"x": x, "y": data[1:]}), output="tissue.speed", value="y", conditions=["x"]
    )
    own = uq.Observations.from_table(pd.DataFrame({"y": data[:1]}), output="cell.apd", value="y")
    settings = {"cell.apd": uq.GaussianNoise(sd=noise[0]), "tissue.speed": uq.GaussianNoise(sd=noise[1])}
    measured = uq.Observations.concat([own, tissue])
    problem = uq.Calibration(chain, measured, noise=settings, expansion="first-order")

    def exactly(theta: Array) -> Array:
        squares = ((theta[:, None] - x1[:, 0]) / ell) ** 2
        r = np.sqrt(5.0 * squares)
        k, kappa = (1.0 + r + r * r / 3.0) * np.exp(-r), between(x1, x1, ell) + 1e-12 * np.eye(len(x1))
        mean = k @ np.linalg.solve(kappa, y1)
        variance = 1.0 - np.einsum("si,ij,sj->s", k, np.linalg.inv(kappa), k)
        centre = np.column_stack([mean, offset + slope * mean[:, None] + by_x * x])
        return rank_one(data - centre, variance, np.array([1.0, *[slope] * len(x)]), noise**2)

    theta = rng.uniform(0.01, 0.99, 20)
    wanted, gradient = exactly(theta), exactly(theta + 1e-30j).imag / 1e-30
    value = np.max(abs(problem.log_likelihood({"theta": theta}) - wanted) / (1.0 + abs(wanted)))
    # In unconstrained space: logit of theta, of which the prior's density is theta (1 - theta).
    expected = gradient * theta * (1.0 - theta) + 1.0 - 2.0 * theta
    density = compiled.target(problem)
    if density is None:
        return float(value), float("nan"), float("nan")
    points = np.log(theta / (1.0 - theta))
    compiled_ones = np.array([density.evaluate(np.array([w]))[1][0] for w in points])
    model = problem.model()
    slopes = model.compile_dlogp()
    pymc = np.array([slopes({model.value_vars[0].name: w}).item() for w in points[:5]])
    scale = 1.0 + abs(expected)
    errors = (np.max(abs(found - expected[: len(found)]) / scale[: len(found)]) for found in (compiled_ones, pymc))
    return float(value), *(float(one) for one in errors)


def linear(seeds: range) -> list[Aim]:
    """Return the largest relative errors over random problems."""
    found = np.array([conjugate(seed) for seed in seeds]).max(axis=0)
    names = ("log-likelihood", "gradient, compiled", "gradient, PyMC")
    return [
        aim(f"linear: relative error of {name}", float(value), high=EQUAL, n=len(seeds))
        for name, value in zip(names, found, strict=True)
    ]


# ---------------------------------------------------------------------------------------------------------------- squid
CASE = "hodgkin_huxley_scales"
HEIGHT, SPEED = (100.0, 2.0), (21.2, 0.5)  # mV, computed with the published constants; m/s, measured 1952
PATCHES, AXONS, IN_MARGIN = 600, 48, 0.35


def quantiles(values: Array, weights: Array | None = None) -> Array:
    """Return the 2.5, 50 and 97.5 % quantiles of draws, with weights or without."""
    order = np.argsort(values)
    weights = np.ones(len(values)) if weights is None else weights
    total = np.cumsum(weights[order]) - 0.5 * weights[order]
    return np.asarray(np.interp([0.025, 0.5, 0.975], total / weights.sum(), values[order]))


def squid(seeds: range, folder: Path | None) -> list[Aim]:
    """Return what channel data alone say of the conduction speed, and what a height and a speed add.

    Exactly, by importance weights on as many draws as there are repeats, and through a chain of a patch and an axon.
    """
    if folder is None or not (folder / CASE).is_dir():
        where = "no --cases DIR was given" if folder is None else f"{folder} has no folder {CASE}"
        return [aim("squid", None, reason=f"{where}; where the conductances come from is in the script's docstring")]
    told = json.loads((folder / CASE / "reference.json").read_text())
    known, law, n = told["channel_data_only_laplace_80_draws"], clamped(folder / CASE), len(seeds)
    published = impulses(np.array([[value for value, _ in (POTASSIUM | SODIUM).values()]]), np.ones(1))[0]
    computed = float(speed(published[1:], np.ones(1), np.full(1, 0.0238), np.full(1, 35.4))[0])
    want = told["cable_speed_m_per_s"]["own_finite_difference_cable"]
    aims = [aim("squid: speed with the published constants [m/s]", computed, 0.99 * want, 1.01 * want, n=1)]

    # Channel data alone, with the axon's other constants as published.
    rng = np.random.default_rng([seeds[0], 28])
    z = rng.standard_normal((n, len(CONSTANTS)))
    alone = impulses(law.constants(z), np.ones(n))
    travels = np.isfinite(alone[:, 1])
    fails = float(np.mean(~travels))
    aims.append(aim("squid: channel data alone, draws without impulse", fails, mcse=binomial(fails, n), n=n))
    restless, given = float(np.mean(fires_by_itself(law.constants(z)))), known["fraction_not_propagating"]
    room, error = 2.0 * binomial(given, 80), binomial(restless, n)
    label = "squid: channel data alone, draws that fire without a shock where the leak is as published"
    remark = f"{given} of the case's 80 draws do not propagate"
    aims.append(aim(label, restless, given - room - 2.0 * error, given + room + 2.0 * error, error, n, remark))
    speeds = speed(alone[travels, 1], np.ones(1), np.full(1, 0.0238), np.full(1, 35.4))
    keys = ("speed_q2.5", "speed_median", "speed_q97.5")
    for key, value in zip(keys, quantiles(speeds), strict=True):
        low, high = (0.85 * known[key], 1.15 * known[key]) if key != "speed_q97.5" else (None, None)
        remark = f"{known[key]} in the case's 80 draws"
        aims.append(
            aim(f"squid: channel data alone, {key} [m/s]", float(value), low, high, n=len(speeds), reason=remark)
        )

    # The same with the axon's constants unknown, then a height, then a speed.
    names = [f"z{i:02d}" for i in range(len(CONSTANTS))]
    capacitance = uq.LogNormal(1.0, 0.1, unit="uF/cm2")
    spaces = {
        "patch": uq.ParameterSpace(**{name: uq.Normal(0.0, 1.0) for name in names}, capacitance=capacitance),
        "axon": uq.ParameterSpace(
            foot=uq.LogUniform(1.0, 60.0), capacitance=capacitance, radius=uq.LogNormal(0.0238, 0.02),
            resistivity=uq.LogNormal(35.4, 0.15),
        ),
    }  # fmt: skip

    def of(table: xr.Dataset) -> tuple[Array, Array]:
        return np.column_stack([table[name].values for name in names]), table["capacitance"].values

    design = uq.sobol(spaces["patch"], PATCHES, rng=1)
    z, c = of(design)
    found = impulses(law.constants(z), c)
    whole = np.flatnonzero(np.isfinite(found[:, 1]))
    log = uq.Scalar(transform=uq.Log())
    settings = {"hyperparameters": "point", "outputs": {"height": log, "foot": log}}
    patch = uq.GaussianProcess(**settings).fit(
        uq.ensemble.build(
            design.isel(run=whole), {"height": found[whole, 0], "foot": found[whole, 1]}, space=spaces["patch"]
        )
    )
    design = uq.sobol(spaces["axon"], AXONS, rng=1)
    outputs = {"speed": speed(*(design[name].values for name in ("foot", "capacitance", "radius", "resistivity")))}
    axon = uq.GaussianProcess(hyperparameters="point", outputs={"speed": log}).fit(
        uq.ensemble.build(design, outputs, space=spaces["axon"])
    )
    chain = uq.Chain(patch=patch, axon=axon, links={"axon.foot": "patch.foot"})
    prior = ParameterSpace.from_json(chain.attrs["space"]).draw(n, rng)
    z, c = of(prior)
    exact = impulses(law.constants(z), c)
    travels = np.isfinite(exact[:, 1])
    exact_speed = speed(exact[:, 1], c, prior["radius"].values, prior["resistivity"].values)
    logs = np.where(travels, 0.0, -np.inf)
    data: list[uq.Observations] = []
    noise: dict[str, uq.NoiseModel] = {}
    widths = {"clamp": float(np.ptp(quantiles(exact_speed[travels])))}
    for step, output, (value, sd), values in (
        ("height", "patch.height", HEIGHT, exact[:, 0]), ("speed", "axon.speed", SPEED, exact_speed),
    ):  # fmt: skip
        logs = np.where(travels, logs - 0.5 * ((values - value) / sd) ** 2, -np.inf)
        weights = np.exp(logs - logs.max())
        weights /= weights.sum()
        worth = 1.0 / float(weights @ weights)
        data.append(uq.Observations.from_xarray(xr.DataArray(value, name=output)))
        noise[output] = uq.GaussianNoise(sd=sd)
        problem = uq.Calibration(chain, uq.Observations.concat(data), dict(noise))
        posterior = problem.sample(uq.SMC(), rng=1)
        through = posterior.predict(outputs=["axon.speed"]).draws["axon.speed"].values.ravel()
        exactly = quantiles(exact_speed[travels], weights[travels])
        mean = float(weights[travels] @ exact_speed[travels])
        spread = float(np.sqrt(weights[travels] @ (exact_speed[travels] - mean) ** 2))
        off, error = (float(through.mean()) - mean) / spread, float(1.0 / np.sqrt(worth))
        words = "{:.1f} m/s, 95 % {:.1f} to {:.1f}"
        remark = (
            f"chain {words.format(*quantiles(through)[[1, 0, 2]])}; exactly {words.format(*exactly[[1, 0, 2]])}, "
            f"weights worth {worth:.0f} draws; verdict {posterior.verdict.status}: "
            f"{', '.join(one.name for one in posterior.verdict.warnings)}"
        )
        room = IN_MARGIN + 2.0 * error
        label = f"squid: speed after the {step}"
        aims.append(aim(f"{label}, chain less exact mean [sd]", off, -room, room, error, n, remark))
        widths[step] = float(np.ptp(quantiles(through)))
    for step, width in widths.items():
        aims.append(aim(f"squid: width of the 95 % interval of the speed, {step} [m/s]", width, n=n))
    return aims


PARTS: dict[str, tuple[Callable[[range], list[Aim]], int, int]] = {
    "true_processes": (true_processes, 600, 60),
    "graphs": (graphs, 1000, 60),
    "vignette": (vignette, 20, 10),
    "cost": (cost, 9, 5),
    "population": (population, 100, 20),
    "linear": (linear, 20, 5),
}
OF_CASES: dict[str, tuple[Callable[[range, Path | None], list[Aim]], int, int]] = {"squid": (squid, 4000, 1000)}


def of_cases(
    part: tuple[Callable[[range, Path | None], list[Aim]], int, int], folder: Path | None
) -> tuple[Callable[[range], list[Aim]], int, int]:
    """Return a part that reads a case as one that does not."""
    return partial(part[0], folder=folder), *part[1:]


def main() -> int:
    """Measure, and return how many aims were missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the repeats")
    parser.add_argument("--only", nargs="+", choices=(*PARTS, *OF_CASES), help="names of parts")
    parser.add_argument("--cases", type=Path, help="folder that holds the cases")
    parser.add_argument("--repeats", type=int, help="of each part")
    parser.add_argument("--half", choices=("seen", "unseen"), default="seen", help="which seeds")
    options = parser.parse_args()
    first = 1 + UNSEEN * (options.half == "unseen")
    aims: list[Aim] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in options.only or (*PARTS, *OF_CASES):
            measure, whole, quick = PARTS[name] if name in PARTS else of_cases(OF_CASES[name], options.cases)
            begin = time.perf_counter()
            repeats = options.repeats or (quick if options.quick else whole)
            aims += measure(range(first, first + repeats))
            print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)
    return finish(aims)


sys.exit(main())
