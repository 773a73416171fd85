"""From a new process to 1000 effective draws: ours beside the model that a strong user writes by hand, and surmise.

    python benchmarks/pk_speed.py [--quick] [--cost] [--only ROLE ...] [--repeats N] [--threads N]

Two-compartment oral pharmacokinetics: 5 parameters, 200 runs, 50 times, Gaussian noise of known sd. Runs are made
beforehand; the clock of a repeat starts when its process does and stops when the draws are there. Every repeat checks
its means against a posterior that was computed without a surrogate (at most 0.15 sd off). Contestants:

- ours: `GaussianProcess().fit`, `Calibration`, `NUTS(draws=500, ess=1000)`, the whole posterior with its verdict;
- ours in a PyMC model of one's own: `as_tensor` and `pm.MvNormal`, sampled by nutpie;
- own model: a PyMC model of one's own with `uq.observe` in it, sampled by `NUTS(draws=500, ess=1000).sample_model`;
- by hand: principal components, BoTorch, a PyTensor graph with the surrogate's variance, nutpie with its defaults;
- surmise 1.0 (PCGPwM, directbayeswoodbury, PTLMC), when it is installed.

Who has not 1000 effective draws of the worst parameter is given the time that more draws would take: kept draws in
proportion, everything else as it was. Where ours has more, nothing is taken off.

Caches: each repeat begins with empty ones of numba and PyTensor ("empty"), and is made once more with what the first
process left in them ("present"); Python's own byte code is there. Medians of five. All contestants have the threads
that their libraries take by default (``--threads`` sets another number for all). Wall time counts, on a quiet machine;
ratios of CPU time are printed beside it, since they suffer less from other work.

Aims: caches present, 6 times less than by hand and 4 times less than surmise; empty, 2 and 1.5 times; a second
calibration in the process, with new data of the same shape, 8 times less than the whole run by hand; in one's own PyMC
model ("own model") half of these. Ours also runs with OMP_NUM_THREADS=1: a calibration with default threads takes at
most 1.1 times the CPU seconds of that, and its means are the same numbers; the search for starting points takes at most
a tenth of a calibration's CPU seconds. ``--only`` names the contestants, and ``--cost`` prints the time of a gradient
and of what comes before it for 50 to 5000 runs and 1 to 10 000 measurements, without aims. ``--quick`` makes one
repeat.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from _pk import MEDIAN, NAMES, SD, SIGMA, TIMES, concentration, measured, reference
from _report import Aim, aim, finish

RUNS, EFFECTIVE, OFF = 200, 1000, 0.15
SCORES = 6  # principal components of the model by hand

Array = np.ndarray
Result = dict[str, Any]


# --- contestants: each runs in a process of its own and prints one JSON object ----------------------------------------


class Clock:
    """Seconds since the process was started by the parent, and its CPU seconds."""

    def __init__(self, begin: float) -> None:
        self.begin, self.parts, self.last = begin, {}, time.time()
        self.cpu, self.spent = {}, time.process_time()
        self.parts["start"] = self.last - begin

    def lap(self, name: str) -> None:
        """Note a part of the work."""
        now, spent = time.time(), time.process_time()
        self.parts[name], self.last = now - self.last, now
        self.cpu[name], self.spent = spent - self.spent, spent

    def stop(self, draws: Array, ess: float, **more: Any) -> Result:
        """Return the result for draws (n, 5)."""
        wall = time.time() - self.begin
        return {
            "wall": wall,
            "cpu": time.process_time(),
            "ess": ess,
            "mean": draws.mean(axis=0).tolist(),
            "parts": self.parts,
            **more,
        }


def effective(draws: Array) -> float:
    """Return the smallest bulk effective sample size of draws (chain, draw, 5)."""
    from arviz_stats.base import array_stats

    return float(min(array_stats.ess(draws[..., i], method="bulk") for i in range(draws.shape[-1])))


def our_surrogate(x: Array, y: Array) -> Any:
    """Return the library's surrogate of the runs."""
    import xarray as xr

    import uqms as uq

    space = uq.ParameterSpace(
        **{name: uq.LogNormal(median, sigma) for name, median, sigma in zip(NAMES, MEDIAN, SIGMA, strict=True)}
    )
    design = uq.sobol(space, len(x), rng=1)
    output = xr.DataArray(y, dims=("run", "hour"), coords={"hour": TIMES})
    return uq.GaussianProcess().fit(uq.ensemble.build(design, {"concentration": output}, space=space))


def ours(clock: Clock, x: Array, y: Array, z: Array) -> Result:
    """Calibrate, twice."""
    import xarray as xr

    import uqms as uq

    clock.lap("import")
    surrogate = our_surrogate(x, y)
    clock.lap("fit")

    def calibrate(values: Array, seed: int) -> Any:
        data = xr.DataArray(values, dims="hour", coords={"hour": TIMES}, name="concentration")
        problem = uq.Calibration(surrogate, data, noise=uq.GaussianNoise(sd=SD))
        return problem.sample(uq.NUTS(draws=500, ess=EFFECTIVE), rng=seed)

    def stacked(posterior: Any) -> Array:
        return np.stack([posterior.draws[name].values for name in NAMES], axis=-1)

    draws = stacked(calibrate(z, 1))
    clock.lap("calibrate")
    first = clock.stop(draws.reshape(-1, 5), 0.0)
    first["ess"] = effective(draws)
    starts = timed_starts()  # of the second calibration: beside the first one modules are imported
    begin, cpu = time.time(), time.process_time()
    again = stacked(calibrate(measured(1), 2))
    first["second"] = {
        "wall": time.time() - begin,
        "cpu": time.process_time() - cpu,
        "starts": sum(starts),
        "ess": effective(again),
        "mean": again.reshape(-1, 5).mean(axis=0).tolist(),
    }
    return first


def timed_starts() -> list[float]:
    """Return a list that takes the CPU seconds of each search for starting points from now on."""
    from uqms.calibration import starts

    seconds: list[float] = []
    original = starts.starting_points

    def timed(*arguments: Any) -> Any:
        begin = time.process_time()
        points = original(*arguments)
        seconds.append(time.process_time() - begin)
        return points

    starts.starting_points = timed
    return seconds


def sampled(clock: Clock, model: Any, names: tuple[str, ...]) -> Result:
    """Compile and sample a PyMC model with nutpie, and scale the kept draws to the effective ones that are wanted."""
    import nutpie

    compiled = nutpie.compile_pymc_model(model)
    clock.lap("compile")
    tune = draws = 1000
    trace = nutpie.sample(compiled, draws=draws, tune=tune, chains=4, seed=1, progress_bar=False)
    clock.lap("sample")
    values = np.stack([trace["posterior"][name].values for name in names], axis=-1)
    result = clock.stop(values.reshape(-1, len(names)), 0.0)
    result["ess"] = effective(values)
    steps = [float(trace[group]["n_steps"].sum()) for group in ("warmup_sample_stats", "sample_stats")]
    more = max(EFFECTIVE / result["ess"] - 1.0, 0.0) * steps[1] / sum(steps)
    result["extra"] = more  # of the time that sampling took
    result["cpu"] += more * clock.cpu["sample"]
    result["wall"] += more * clock.parts["sample"]
    return result


def in_pymc(clock: Clock, x: Array, y: Array, z: Array) -> Result:
    """Use the surrogate in a PyMC model of one's own."""
    import pymc as pm
    import pytensor.tensor as pt

    import uqms as uq

    clock.lap("import")
    surrogate = our_surrogate(x, y)
    clock.lap("fit")
    low, high = (np.log(np.array(end) / MEDIAN) / SIGMA for end in (surrogate.domain.lower, surrogate.domain.upper))
    with pm.Model() as model:
        unit = pm.TruncatedNormal("unit", 0.0, 1.0, lower=low, upper=high, shape=5)
        theta = {name: pm.Deterministic(name, MEDIAN[i] * pt.exp(SIGMA[i] * unit[i])) for i, name in enumerate(NAMES)}
        curve = uq.as_tensor(surrogate, theta)
        covariance = curve.covariance[0, :, 0, :] + SD**2 * pt.eye(len(TIMES))
        pm.MvNormal("concentration", curve.mean[0], cov=covariance, observed=z)
    return sampled(clock, model, NAMES)


def own_model(clock: Clock, x: Array, y: Array, z: Array) -> Result:
    """Put the calibration's likelihood into a PyMC model of one's own, whose priors are its own."""
    import pymc as pm
    import pytensor.tensor as pt
    import xarray as xr

    import uqms as uq

    clock.lap("import")
    surrogate = our_surrogate(x, y)
    clock.lap("fit")
    data = xr.DataArray(z, dims="hour", coords={"hour": TIMES}, name="concentration")
    problem = uq.Calibration(surrogate, data, noise=uq.GaussianNoise(sd=SD))
    low, high = (np.log(np.array(end) / MEDIAN) / SIGMA for end in (surrogate.domain.lower, surrogate.domain.upper))
    with pm.Model() as model:
        unit = pm.TruncatedNormal("unit", 0.0, 1.0, lower=low, upper=high, shape=5)
        values = {name: pm.Deterministic(name, MEDIAN[i] * pt.exp(SIGMA[i] * unit[i])) for i, name in enumerate(NAMES)}
        uq.observe(problem, values)
    posterior = uq.NUTS(draws=500, ess=EFFECTIVE).sample_model(model, rng=1)["posterior"]
    draws = np.stack([posterior[name].values for name in NAMES], axis=-1)
    clock.lap("sample")
    result = clock.stop(draws.reshape(-1, len(NAMES)), 0.0)
    result["ess"] = effective(draws)
    return result


def by_hand(clock: Clock, x: Array, y: Array, z: Array) -> Result:
    """Write it all by hand: scores are independent given theta, since their basis is orthonormal."""
    import pymc as pm
    import pytensor.tensor as pt
    import torch
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.kernels import MaternKernel, ScaleKernel
    from gpytorch.mlls import ExactMarginalLogLikelihood

    clock.lap("import")
    unit_of = np.log(x / MEDIAN) / SIGMA
    low, high = unit_of.min(axis=0), unit_of.max(axis=0)
    inputs = (unit_of - low) / (high - low)
    centre = y.mean(axis=0)
    _, singular, right = np.linalg.svd(y - centre, full_matrices=False)
    basis = right[:SCORES].T  # (50, 6), orthonormal
    scale = singular[:SCORES] / np.sqrt(len(y))
    scores = (y - centre) @ basis / scale
    rest = float(np.sum(singular[SCORES:] ** 2) / y.size)  # variance of what six components leave out
    shape = torch.Size([SCORES])
    kernel = ScaleKernel(MaternKernel(2.5, ard_num_dims=5, batch_shape=shape), batch_shape=shape)
    gp = SingleTaskGP(torch.from_numpy(inputs), torch.from_numpy(scores), covar_module=kernel, outcome_transform=None)
    fit_gpytorch_mll(ExactMarginalLogLikelihood(gp.likelihood, gp))
    ell = gp.covar_module.base_kernel.lengthscale.detach().numpy().reshape(SCORES, 5)
    variance = gp.covar_module.outputscale.detach().numpy().reshape(SCORES)
    noise = gp.likelihood.noise.detach().numpy().reshape(SCORES)
    constant = gp.mean_module.constant.detach().numpy().reshape(SCORES)

    def matern(r2: Any, xp: Any) -> Any:
        a = xp.sqrt(5.0 * r2 + 1e-12)
        return (1.0 + a + a * a / 3.0) * xp.exp(-a)

    inverse, weights = np.empty((SCORES, len(x), len(x))), np.empty((SCORES, len(x)))
    for j in range(SCORES):
        apart = np.sum(((inputs[:, None] - inputs[None]) / ell[j]) ** 2, axis=-1)
        root = np.linalg.cholesky(variance[j] * matern(apart, np) + noise[j] * np.eye(len(x)))
        inverse[j] = np.linalg.inv(root)
        weights[j] = inverse[j].T @ (inverse[j] @ (scores[:, j] - constant[j]))
    clock.lap("fit")
    data = (z - centre) @ basis
    with pm.Model() as model:
        unit = pm.TruncatedNormal("unit", 0.0, 1.0, lower=low, upper=high, shape=5)
        for i, name in enumerate(NAMES):
            pm.Deterministic(name, MEDIAN[i] * pt.exp(SIGMA[i] * unit[i]))
        u = (unit - low) / (high - low)
        r2 = pt.sum(((u - inputs)[None] / ell[:, None]) ** 2, axis=-1)  # (6, 200)
        k = variance[:, None] * matern(r2, pt)
        mean = constant + pt.sum(k * weights, axis=1)
        solved = pt.sum(pt.as_tensor(inverse) * k[:, None, :], axis=2)
        spread = pt.maximum(variance - pt.sum(solved**2, axis=1), 0.0)
        sd = pt.sqrt(scale**2 * spread + SD**2 + rest)
        pm.Normal("scores", scale * mean, sd, observed=data)
    return sampled(clock, model, NAMES)


def with_surmise(clock: Clock, x: Array, y: Array, z: Array) -> Result:
    """Use surmise with the options that its documentation recommends for this kind of problem."""
    import surmise
    from surmise.calibration import calibrator
    from surmise.emulation import emulator

    surmise.set_RNG(np.random.default_rng(1))
    clock.lap("import")
    fitted = emulator(x=TIMES[:, None], theta=x, f=y.T, method="PCGPwM", args={"epsilon": 1e-6})
    clock.lap("fit")

    class Priors:
        """Independent log-normals."""

        def lpdf(theta: Array) -> Array:  # noqa: N805
            unit = np.log(np.maximum(theta, 1e-12) / MEDIAN) / SIGMA
            value = -0.5 * np.sum(unit**2, axis=1) - np.sum(np.log(np.maximum(theta, 1e-12)), axis=1)
            return np.where((theta > 0).all(axis=1), value, -np.inf)[:, None]

        def rnd(n: int) -> Array:  # noqa: N805
            return MEDIAN * np.exp(SIGMA * np.random.default_rng(1).standard_normal((n, 5)))

    result = calibrator(
        emu=fitted,
        y=z,
        x=TIMES[:, None],
        thetaprior=Priors,
        method="directbayeswoodbury",
        yvar=np.full(len(z), SD**2),
        args={  # chains and temperatures as its own tests set them; half of a chain is warm-up
            "sampler": "PTLMC",
            "nSamples": 4000,
            "nChains": 8,
            "samplesPerChain": 1000,
            "nTemperatures": 4,
            "maxTemperature": 30,
            "theta0": None,
            "verbose": False,
        },
    )
    draws = np.asarray(result.info["thetarnd"])
    clock.lap("calibrate")
    out = clock.stop(draws, 0.0)
    out["ess"] = effective(draws.reshape(8, -1, 5))
    more = max(EFFECTIVE / out["ess"] - 1.0, 0.0)
    out["wall"] += more * clock.parts["calibrate"]
    out["cpu"] += more * clock.parts["calibrate"]
    return out


ROLES = {"ours": ours, "in PyMC": in_pymc, "own model": own_model, "by hand": by_hand, "surmise": with_surmise}


# --- the parent -------------------------------------------------------------------------------------------------------


def run(role: str, folder: Path, caches: Path, threads: int | None) -> Result | None:
    """Run one contestant in a new process and return its result, None when it failed (its words go to stderr).

    Whatever the environment says, libraries take their default number of threads, or `threads`.
    """
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environment |= {
        "NUMBA_CACHE_DIR": str(caches / "numba"),
        "PYTENSOR_FLAGS": f"base_compiledir={caches / 'pytensor'}",
        **({} if threads is None else {"OMP_NUM_THREADS": str(threads)}),
    }
    command = [sys.executable, __file__, "--role", role, "--folder", str(folder), "--begin", repr(time.time())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        print(role, "failed:", done.stderr[-2000:], file=sys.stderr)
        return None
    result: Result = json.loads(done.stdout.splitlines()[-1])
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result["parts"].items())
    which = role if threads is None else f"{role}, OMP_NUM_THREADS={threads}"
    print(
        f"# {which}: {result['wall']:.1f} s, CPU {result['cpu']:.1f} s, ESS {result['ess']:.0f} ({parts})", flush=True
    )
    return result


def median(results: list[Result], key: str) -> float:
    """Return the median over repeats."""
    return statistics.median(result[key] for result in results)


def off(results: list[Result], truth: tuple[Array, Array]) -> float:
    """Return how far the worst mean of all repeats is from the reference, in its sds."""
    return float(max(np.abs((np.array(result["mean"]) - truth[0]) / truth[1]).max() for result in results))


def race(repeats: int, only: list[str] | None, threads: int | None) -> list[Aim]:
    """Let the contestants run, all of them unless `only` names some."""
    import uqms as uq

    space = uq.ParameterSpace(**{n: uq.LogNormal(m, s) for n, m, s in zip(NAMES, MEDIAN, SIGMA, strict=True)})
    design = uq.sobol(space, RUNS, rng=1)
    x = np.column_stack([design[name].values for name in NAMES])
    truths = [reference(measured(which)) for which in (0, 1)]
    surmise = importlib.util.find_spec("surmise") is not None
    roles = [role for role in only or ROLES if role != "surmise" or surmise]
    single: list[Result] = []
    found: dict[tuple[str, str], list[Result]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "runs.npz", x=x, y=concentration(x), z=measured(0))
        for repeat in range(repeats):
            for role in roles:  # in turns, so that other work on the machine meets all of them
                caches = folder / f"{role}-{repeat}".replace(" ", "_")
                for state in ("empty", "present"):
                    result = run(role, folder, caches, threads)
                    if result is not None:
                        found.setdefault((role, state), []).append(result)
                if role == "ours":
                    result = run(role, folder, caches, 1)
                    if result is not None:
                        single.append(result)
    out = []
    for (role, state), results in found.items():
        n = len(results)
        out.append(aim(f"{role}, caches {state} [s]", median(results, "wall"), n=n))
        out.append(aim(f"{role}, caches {state} [CPU s]", median(results, "cpu"), n=n))
        out.append(aim(f"{role}, caches {state}: effective draws", median(results, "ess"), n=n))
        limit = OFF if role.startswith(("ours", "own model")) else None  # others stop with fewer effective draws
        out.append(
            aim(f"{role}, caches {state}: worst mean [sd of the reference]", off(results, truths[0]), None, limit)
        )
    peers = {("by hand", "present"): 6.0, ("by hand", "empty"): 2.0, ("surmise", "present"): 4.0}
    peers[("surmise", "empty")] = 1.5
    for (peer, state), low in peers.items():
        for role, factor in (("ours", 1.0), ("own model", 0.5), ("in PyMC", None)):
            label = f"{peer} / {role}, caches {state}"
            wanted = None if factor is None else low * factor
            theirs, mine = found.get((peer, state)), found.get((role, state))
            if theirs is None or mine is None:
                reason = "surmise is not installed" if peer == "surmise" and not surmise else "left out, or it failed"
                out.append(aim(label, None, wanted, reason=reason))
                continue
            out.append(aim(label, median(theirs, "wall") / median(mine, "wall"), wanted, n=len(mine)))
            out.append(aim(f"{label}, CPU", median(theirs, "cpu") / median(mine, "cpu"), n=len(mine)))
    mine, theirs = found.get(("ours", "present")), found.get(("by hand", "present"))
    if mine is not None and single:
        out += of_threads(mine, single)
    if mine is not None and theirs is not None:
        second = [result["second"] for result in mine]
        out.append(aim("second calibration [s]", median(second, "wall"), n=len(second)))
        out.append(aim("second calibration: effective draws", median(second, "ess"), n=len(second)))
        out.append(aim("second calibration: worst mean [sd of the reference]", off(second, truths[1]), None, OFF))
        ratio = median(theirs, "wall") / median(second, "wall")
        out.append(aim("by hand / second calibration", ratio, 8.0, n=len(second)))
        out.append(aim("by hand / second calibration, CPU", median(theirs, "cpu") / median(second, "cpu")))
    return out


def of_threads(default: list[Result], single: list[Result]) -> list[Aim]:
    """Compare our calibrations with default threads and with one, and say what starting points take of them.

    The second calibration of each process is compared: the first one imports modules.
    """
    many, one = ([result["second"] for result in results] for results in (default, single))
    ratio = median(many, "cpu") / median(one, "cpu")
    apart = max(np.abs(np.subtract(a["mean"], b["mean"])).max() for a in many for b in one)
    share = statistics.median(result["starts"] / result["cpu"] for result in many)
    return [
        aim("ours: CPU, default threads / one thread", ratio, None, 1.1, n=len(many)),
        aim("ours: difference of means, default threads and one thread", float(apart), None, 0.0, n=len(many)),
        aim("ours: starts, share of CPU", share, None, 0.1, n=len(many)),
    ]


# --- cost -------------------------------------------------------------------------------------------------------------


def cost(quick: bool) -> list[Aim]:
    """Measure a gradient, what is done once before it, and the likelihood of many points, against runs and outputs."""
    runs = (50, 200, 1000) if quick else (50, 200, 1000, 5000)
    outputs = (1, 100, 10_000) if quick else (1, 10, 100, 1000, 10_000)
    out = []
    for n, m in [(n, 1) for n in runs] + [(200, m) for m in outputs[1:]]:
        problem, q = synthetic(n, m)
        label = f"{n} runs, {m} measurements, {q} scores"
        out += timings(problem, label)
    return out


def synthetic(n: int, m: int) -> tuple[Any, int]:
    """Return a calibration of 5 parameters with given hyperparameters: n runs, m measured values of one curve."""
    import xarray as xr

    import uqms as uq
    from uqms.parameters import Box
    from uqms.surrogates import GaussianProcessSurrogate, Layout, Matern52
    from uqms.surrogates.outputs import OutputBasis
    from uqms.surrogates.process import condition
    from uqms.surrogates.training import Hyperparameters

    rng = np.random.default_rng(1)
    q = min(m, 6)
    names = [f"x{i}" for i in range(5)]
    x = rng.random((n, 5))
    scores = np.column_stack([np.sin(2.0 * x @ rng.standard_normal(5)) for _ in range(q)])
    process = condition(
        Matern52(), x, scores, 1, [Hyperparameters(np.full(5, 1.0), 0.0, 1e-8, 0.0, 1, False)] * q, [1.0] * q
    )
    time_of = np.linspace(0.0, 1.0, m)
    basis = np.column_stack([np.cos(np.pi * j * time_of) for j in range(q)]) if m > 1 else np.ones((1, 1))
    truncation = 1e-3 * rng.standard_normal((m, min(m - 1, 20)))
    layout = Layout(("t",), {"t": time_of}) if m > 1 else Layout()
    box = Box(tuple(names), (0.0,) * 5, (1.0,) * 5, ("identity",) * 5, ((True, True),) * 5)
    output = OutputBasis(
        "y", layout, np.zeros(m), basis, truncation, np.zeros(max(m - 1, 0)), np.zeros((n, truncation.shape[1]))
    )
    space = uq.ParameterSpace(**{name: uq.Uniform(0.0, 1.0) for name in names})
    surrogate = GaussianProcessSurrogate(box, process, (output,), {"space": space.to_json()})
    truth = surrogate.predict({name: np.array([0.4]) for name in names}).mean["y"].values.reshape(-1)
    values = truth + 0.1 * rng.standard_normal(m)
    data = (
        xr.DataArray(values, dims="t", coords={"t": time_of}, name="y") if m > 1 else xr.DataArray(values[0], name="y")
    )
    return uq.Calibration(surrogate, data, noise=uq.GaussianNoise(sd=uq.HalfNormal(0.2))), q


def timings(problem: Any, label: str) -> list[Aim]:
    """Time one problem (CPU seconds)."""
    from uqms.calibration import compiled

    begin = time.process_time()
    target = compiled.target(problem)
    once = time.process_time() - begin
    if target is None:
        return [aim(f"{label}: gradient [us]", None, reason="the problem is not standard")]
    w, count = np.zeros(len(target.names)), 3
    target.evaluate(w)
    begin = time.process_time()
    for _ in range(count):
        target.evaluate(w)
    rough = (time.process_time() - begin) / count
    count = max(3, int(0.5 / max(rough, 1e-5)))
    begin = time.process_time()
    for _ in range(count):
        target.evaluate(w)
    each = (time.process_time() - begin) / count
    theta = problem.prior_draws(64, 0)
    begin = time.process_time()
    problem.log_likelihood(theta)
    many = (time.process_time() - begin) / 64
    return [
        aim(f"{label}: gradient [us]", 1e6 * each, n=count),
        aim(f"{label}: likelihood of many points, each [us]", 1e6 * many, n=64),
        aim(f"{label}: once, before sampling [s]", once, n=1),
    ]


def main() -> int:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one repeat")
    parser.add_argument("--repeats", type=int, default=5, help="repeats of each contestant (default 5)")
    parser.add_argument("--cost", action="store_true", help="cost against runs and measurements")
    parser.add_argument("--only", nargs="+", choices=ROLES, metavar="ROLE", help=f"contestants: {', '.join(ROLES)}")
    parser.add_argument("--threads", type=int, help="OMP_NUM_THREADS of all; by default it is not set")
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--begin", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role:
        clock = Clock(given.begin)
        data = np.load(given.folder / "runs.npz")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = ROLES[given.role](clock, data["x"], data["y"], data["z"])
        print(json.dumps(result))
        return 0
    return finish(
        cost(given.quick) if given.cost else race(1 if given.quick else given.repeats, given.only, given.threads)
    )


if __name__ == "__main__":
    sys.exit(main())
