"""From a new process to 400 effective draws of every population parameter, for 10, 100 and 1000 patients.

    python benchmarks/population_speed.py [--quick] [--patients 10 100 1000] [--repeats N] [--runs 200] [--only ours]

One-compartment oral pharmacokinetics: absorption, clearance and volume differ between patients (log-normal, 3 typical
values and 3 spreads are unknown, and the sd of the noise), 5 measurements of the log concentration a patient, 200 runs
of the simulator over the population's box, with which our verdict accepts the surrogate of 100 patients. (With
`--runs 100` its error is above the noise and makes nine tenths of a variance of the population: the verdict warns, and
the posterior is far from normal.) Both contestants read the same trained surrogate, whose inputs are as given:

- ours: `Calibration(..., population=...)`, whose error of the surrogate is one function for all patients, and
  `NUTS(draws=400, tune=200, target_accept=0.8, ess=400)`: blocks of draws follow until every quantity of the population
  has 400 effective draws; verdict, new measurements and shared error included. With 1000 patients 150 draws of each
  chain are kept, however few effective ones they are;
- by hand: a PyMC model with the same surrogate in matrix products for all patients at once, non-centred, its variance
  added to each measurement as if it were noise (no joint error), sampled by nutpie with its 400 draws of warm-up and
  an acceptance of 0.8 too, and 250 that are kept. What it says of the population is too sure: the sds of both are
  compared.

The time of kept draws is counted in proportion to the 400 effective draws that are wanted, up or down: of ours by
gradients at their time one by one, of the model by hand by its share of all gradients. The surrogate's sd over
that of the noise and its largest share of a variance of the population are printed.

Caches of numba and PyTensor are those that a first process of the same kind left, which keeps 5 draws. Then both run in
turn, with seeds 1 to N (5; once with 1000 patients), and medians are told. A time limit (`--limit` seconds of each
process) leaves out what a small machine has no time for, with ok = null. Both have the threads that their libraries
take by default (`--threads` sets another number for both). Wall time counts, on a quiet machine; CPU time is printed
beside it, since it suffers less from other work.

Aims: with 100 patients ours takes at most two thirds of the time. From 100 to 1000 patients the compiled likelihood
with its gradient takes at most 12 times as long, features as they are with 100, and the whole at most 15 times. A new
patient is inferred in less than a second, population and shared error included. ``--quick`` races with 10 patients
only, ``--only`` lets one of the two run; ``--only ours --scales auto`` takes the surrogate that uqms fits by default,
whose error is smaller, in the place of one whose inputs are as given, which the model by hand can read.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _report import Aim, aim, finish

Array = np.ndarray
Result = dict[str, Any]

RUNS, EFFECTIVE, PATIENTS = 200, 400, (10, 100, 1000)
TUNE, DRAWS = {"ours": 200, "by hand": 400}, {"ours": 400, "by hand": 250}  # 400 of warm-up is nutpie's own choice
MANY, FEW = 1000, 150  # with so many patients so many draws of ours are kept
BRIEF, SHALLOW = 5, 3  # draws of a process that fills the caches, whose steps no warm-up has fitted; depth of its trees
DOSE = 100.0  # mg
HOURS = np.array([0.5, 1.0, 1.5, 2.5, 4.0, 6.0, 9.0, 12.0, 16.0, 20.0])
MEASURED = np.array([0.5, 1.5, 4.0, 9.0, 20.0])
NAMES = ("ka", "CL", "V")  # 1/h, L/h, L
TYPICAL, SPREAD = np.array([1.1, 4.5, 33.0]), np.array([0.3, 0.25, 0.2])
MEDIAN, SIGMA = np.array([1.0, 5.0, 30.0]), 0.2  # of the priors of typical values
OMEGA, NOISE = 0.2, 0.2  # scales of the half-normal priors of spreads and of the noise's sd
SD = 0.1  # of the log concentration
LINEAR, WHOLE, SECOND, FASTER = 12.0, 15.0, 1.0, 1.0 / 1.5
GRADIENTS = 50  # timed one after the other: side by side, as chains take them, they are slower


def log_concentration(theta: Array, hours: Array) -> Array:
    """Return the log concentration (..., T) for parameters (..., 3)."""
    ka, clearance, volume = (np.asarray(theta)[..., i, None] for i in range(3))
    out = clearance / volume
    return np.asarray(np.log(DOSE * ka / (volume * (ka - out)) * (np.exp(-out * hours) - np.exp(-ka * hours))))


def data_of(patients: int) -> Array:
    """Return measurements (patients, 5)."""
    rng = np.random.default_rng(1)
    theta = TYPICAL * np.exp(SPREAD * rng.standard_normal((patients, 3)))
    return log_concentration(theta, MEASURED) + SD * rng.standard_normal((patients, len(MEASURED)))


def population() -> Any:
    """Return the population."""
    import uqms as uq

    space = uq.ParameterSpace(**{name: uq.LogNormal(m, SIGMA) for name, m in zip(NAMES, MEDIAN, strict=True)})
    return uq.Population(space, individual=NAMES, spread=uq.HalfNormal(OMEGA))


def train(path: Path, runs: int = RUNS, scales: str = "given") -> None:
    """Run the simulator and save the surrogate."""
    import xarray as xr

    import uqms as uq

    whole = population()
    design = uq.sobol(whole.box(), runs, rng=1)
    x = np.column_stack([design[name].values for name in NAMES])
    y = xr.DataArray(log_concentration(x, HOURS), dims=("run", "hour"), coords={"hour": HOURS})
    trained = uq.ensemble.build(design, {"log_concentration": y}, space=whole.space)
    uq.GaussianProcess(scales=scales, hyperparameters="point").fit(trained).save(path)


def observations(z: Array, first: int = 0) -> Any:
    """Return the table of measurements of patients (n, 5)."""
    import pandas as pd

    import uqms as uq

    n, m = z.shape
    table = pd.DataFrame(
        {"id": np.repeat(np.arange(first, first + n), m), "hour": np.tile(MEASURED, n), "value": z.ravel()}
    )
    return uq.Observations.from_table(
        table, output="log_concentration", value="value", coords={"hour": "hour"}, subject="id"
    )


def calibration(surrogate: Any, z: Array) -> Any:
    """Return our problem."""
    import uqms as uq

    return uq.Calibration(
        surrogate, observations(z), noise=uq.GaussianNoise(sd=uq.HalfNormal(NOISE)), population=population()
    )


def surrogate_sd(path: Path) -> float:
    """Return the surrogate's sd at the measurements of patients, root mean square."""
    import uqms as uq

    rng = np.random.default_rng(1)
    theta = TYPICAL * np.exp(SPREAD * rng.standard_normal((300, 3)))
    found = uq.load_surrogate(path).predict(dict(zip(NAMES, theta.T, strict=True)))
    return float(np.sqrt((found.sd["log_concentration"].sel(hour=MEASURED) ** 2).mean()))


# --- contestants: each runs in a process of its own and prints one JSON object ----------------------------------------


def _peak() -> float | None:
    """Return the most memory of this process in MB; `getrusage` would tell that of the parent where it is larger."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    return next(float(line.split()[1]) / 1024.0 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


class Clock:
    """Seconds since the process was started by the parent, and its CPU seconds."""

    def __init__(self, begin: float) -> None:
        self.begin, self.last, self.spent = begin, time.time(), time.process_time()
        self.parts = {"start": self.last - begin}
        self.cpu: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Note a part of the work."""
        now, spent = time.time(), time.process_time()
        self.parts[name], self.last = now - self.last, now
        self.cpu[name], self.spent = spent - self.spent, spent

    def stop(self, draws: dict[str, Array]) -> Result:
        """Return the result for draws (chain, draw) of the population."""
        wall, cpu = time.time() - self.begin, time.process_time()
        from arviz_stats.base import array_stats

        flat = {name: one.ravel() for name, one in draws.items()}
        return {
            "wall": wall,
            "cpu": cpu,
            "ess": float(min(array_stats.ess(one, method="bulk") for one in draws.values())),
            "mean": {name: float(one.mean()) for name, one in flat.items()},
            "sd": {name: float(one.std()) for name, one in flat.items()},
            "parts": self.parts,
            "memory": _peak(),
        }


def ours(clock: Clock, path: Path, patients: int, seed: int, brief: bool) -> Result:
    """Calibrate the population, then infer a new patient twice: the first time prepares what all new ones need."""
    import threadpoolctl

    import uqms as uq

    surrogate = uq.load_surrogate(path)
    clock.lap("import")
    problem = calibration(surrogate, data_of(patients))
    clock.lap("problem")
    many = patients >= MANY
    draws, tune = (BRIEF, BRIEF) if brief else (FEW if many else DRAWS["ours"], TUNE["ours"])
    sampler = uq.NUTS(draws=draws, tune=tune, target_accept=0.8, ess=None if brief or many else EFFECTIVE)
    posterior = problem.sample(sampler, rng=seed)
    clock.lap("sample")
    result = clock.stop({str(name): values.values for name, values in posterior.draws.data_vars.items()})
    target = posterior.problem.compiled.target(posterior.problem)
    with threadpoolctl.threadpool_limits(1):  # as while it is sampled
        target.evaluate(target.start)
        begin = time.process_time()  # what else runs on the machine does not count
        for _ in range(GRADIENTS):
            target.evaluate(target.start)
    kept = float(posterior.tree["sample_stats"]["n_steps"].sum()) * (time.process_time() - begin) / GRADIENTS
    more = 0.0 if brief else EFFECTIVE / result["ess"] - 1.0
    result["cpu"] += more * kept
    result["wall"] += more * kept / min(4, os.cpu_count() or 1)
    rough = posterior.problem.lowrank
    result["share"] = max(float(one) for one in posterior.surrogate_share.data_vars.values())
    result["parts"]["features"] = 0 if rough is None else len(rough.error.score)
    result["new"] = []
    for more_patients in (1, 2):
        z = data_of(patients + more_patients)[-1:]  # of the same law
        begin = time.time()
        posterior.new_subject(observations(z, patients + more_patients), rng=seed)
        result["new"].append(time.time() - begin)
    return result


def by_hand(clock: Clock, path: Path, patients: int, seed: int, brief: bool) -> Result:
    """Write the model by hand: the surrogate's arrays in matrix products for all patients."""
    import nutpie
    import pymc as pm
    import pytensor.tensor as pt

    import uqms as uq

    surrogate = uq.load_surrogate(path)
    clock.lap("import")
    z, gp, box = data_of(patients), surrogate.process, surrogate.domain
    offset, basis, truncation = surrogate.decode("log_concentration", {"hour": MEASURED})
    low, width = np.log(box.lower), np.log(box.upper) - np.log(box.lower)
    with pm.Model() as model:
        typical = pm.Normal("log_typical", np.log(MEDIAN), SIGMA, shape=3)
        omega = pm.HalfNormal("omega", OMEGA, shape=3)
        effect = pm.Normal("effect", 0.0, 1.0, shape=(patients, 3))
        sd = pm.HalfNormal("sd", NOISE)
        u = (typical + omega * effect - low) / width
        trend = pt.concatenate([pt.ones((patients, 1)), u], axis=1)[:, : gp.beta.shape[2]]
        means, variances = [], []
        for j in range(gp.q):
            a, b = u / gp.ell[0, j], gp.x / gp.ell[0, j]
            r2 = pt.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2.0 * a @ b.T
            r = pt.sqrt(5.0 * pt.maximum(r2, 0.0) + 1e-12)
            k = gp.variance[0, j] * (1.0 + r + r**2 / 3.0) * pt.exp(-r)
            w = k @ gp.inverse_factor[0, j].T
            v = (trend - w @ gp.trend_factor[0, j]) @ gp.trend_root[0, j].T
            means.append(trend @ gp.beta[0, j] + w @ gp.target[0, j])
            variances.append(gp.variance[0, j] - pt.sum(w**2, axis=1) + pt.sum(v**2, axis=1))
        mean = offset + pt.stack(means, axis=1) @ basis.T
        variance = pt.maximum(pt.stack(variances, axis=1), 0.0) @ (basis**2).T + np.sum(truncation**2, axis=1)
        pm.Normal("z", mean, pt.sqrt(variance + sd**2), observed=z)
    compiled = nutpie.compile_pymc_model(model)
    clock.lap("compile")
    draws, tune = (BRIEF, BRIEF) if brief else (DRAWS["by hand"], TUNE["by hand"])
    depth = SHALLOW if brief else 10  # nutpie's own
    trace = nutpie.sample(compiled, draws=draws, tune=tune, chains=4, seed=seed, progress_bar=False, maxdepth=depth)
    clock.lap("sample")
    found = trace["posterior"]
    kept = {"sigma": found["sd"].values}
    for i, name in enumerate(NAMES):
        kept[name] = np.exp(found["log_typical"].values[..., i])
        kept[f"omega_{name}"] = found["omega"].values[..., i]
    result = clock.stop(kept)
    steps = [float(trace[group]["n_steps"].sum()) for group in ("warmup_sample_stats", "sample_stats")]
    more = 0.0 if brief else (EFFECTIVE / result["ess"] - 1.0) * steps[1] / sum(steps)
    result["wall"] += more * clock.parts["sample"]
    result["cpu"] += more * clock.cpu["sample"]
    return result


ROLES = {"ours": ours, "by hand": by_hand}
TOLD = {" [s]": "wall", " [CPU s]": "cpu", ": effective draws": "ess", ": memory of the process [MB]": "memory"}


# --- the parent -------------------------------------------------------------------------------------------------------


def run(role: str, path: Path, patients: int, seed: int, caches: Path, brief: bool, limit: float) -> Result | None:
    """Run one contestant in a new process and return its result, None when it failed (its words go to stderr)."""
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(caches / "numba"),
        "PYTENSOR_FLAGS": f"base_compiledir={caches / 'pytensor'}",
    }
    command = [sys.executable, __file__, "--role", role, "--surrogate", str(path), "--patients", str(patients)]
    command += ["--seed", str(seed), "--begin", repr(time.time()), *(["--brief"] if brief else [])]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=limit)
    except subprocess.TimeoutExpired:
        print(f"# {role}, {patients} patients: stopped after {limit:.0f} s", flush=True)
        return None
    if done.returncode != 0:
        print(role, "failed:", done.stderr[-2000:], file=sys.stderr)
        return None
    result: Result = json.loads(done.stdout.splitlines()[-1])
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in result["parts"].items())
    print(
        f"# {role}, {patients} patients{f', {BRIEF} draws' * brief}: {result['wall']:.1f} s, CPU {result['cpu']:.1f} s"
        f", ESS {result['ess']:.0f}, {result['memory'] or 0.0:.0f} MB ({parts})",
        flush=True,
    )
    return result


def race(
    path: Path, sizes: tuple[int, ...], repeats: int, caches: Path, seconds: float, roles: tuple[str, ...]
) -> list[Aim]:
    """Let both contestants run: the first time, with few draws, fills the caches."""
    out, took = [], {}
    for patients in PATIENTS:
        label = f"{patients} patients"
        limit = FASTER if patients == 100 else None
        if patients not in sizes:
            out.append(aim(f"{label}: ours / by hand", None, None, limit, reason="left out this time"))
            continue
        firsts = {role: run(role, path, patients, 1, caches, True, seconds) for role in roles}
        for role, first in firsts.items():
            if first is not None:
                out.append(aim(f"{label}, {role}, {BRIEF} draws, caches empty [s]", first["wall"], n=1))
        found: dict[str, list[Result]] = {role: [] for role in roles}
        for seed in range(1, (1 if patients > 100 else repeats) + 1):
            for role in roles:
                result = run(role, path, patients, seed, caches, False, seconds) if firsts[role] else None
                if result is not None:
                    found[role].append(result)
        for role, results in found.items():
            if results:
                for what, key in TOLD.items():
                    out.append(aim(f"{label}, {role}{what}", _median(results, key), n=len(results)))
        mine, theirs = found.get("ours", []), found.get("by hand", [])
        if mine:
            took[patients] = _median(mine, "wall")
        if not mine or len(mine) != len(theirs):
            out.append(
                aim(f"{label}: ours / by hand", None, None, limit, reason="one was left out, failed or took too long")
            )
            continue
        n = len(mine)
        out.append(aim(f"{label}: ours / by hand", _median(mine, "wall") / _median(theirs, "wall"), None, limit, n=n))
        out.append(aim(f"{label}: ours / by hand, CPU", _median(mine, "cpu") / _median(theirs, "cpu"), n=n))
        a, b = mine[0], theirs[0]
        apart = max(abs(a["mean"][name] - b["mean"][name]) / b["sd"][name] for name in b["mean"])
        out.append(aim(f"{label}: largest share of the surrogate's error", _median(mine, "share"), n=n))
        out.append(aim(f"{label}: means apart [sd by hand]", apart, n=1))
        wider = max(a["sd"][name] / b["sd"][name] for name in b["sd"])
        out.append(aim(f"{label}: largest sd, over that by hand", wider, n=1))
        for i, which in enumerate(("first", "second")):
            bedside = statistics.median(one["new"][i] for one in mine)
            out.append(aim(f"{label}: {which} new patient [s]", bedside, None, SECOND, n=n))
    growth = took[1000] / took[100] if {100, 1000} <= took.keys() else None
    remark = "one of them was left out, failed or took too long" if growth is None else None
    return [*out, aim("ours: 1000 / 100 patients", growth, None, WHOLE, n=1, reason=remark)]


def _median(results: list[Result], key: str) -> float:
    return statistics.median(one[key] or 0.0 for one in results)


def likelihoods(path: Path) -> list[Aim]:
    """Measure the compiled likelihood with its gradient."""
    import uqms as uq
    from uqms.calibration.population.subject_prediction import featured

    surrogate, times, out = uq.load_surrogate(path), {}, []
    error = None
    for patients in (100, 1000):
        problem = calibration(surrogate, data_of(patients))
        data = problem.data
        assert problem.lowrank is not None
        out.append(aim(f"features before sampling, {patients} patients", len(problem.lowrank.error.score), n=1))
        if error is None:
            error = problem.lowrank.error
        lowrank = featured(data.data_model, error, data.cells.used, data.cells.unit)
        theta = problem.prior_draws(1, 1)
        own = problem.individuals(theta, 0.5 * np.random.default_rng(1).standard_normal((1, problem.latents)))
        u = data.unit_inputs(own)[0]
        sigma, z, _ = np.array([SD]), data.cells.z, lowrank.block
        lowrank.value_and_slopes(u, sigma, z)
        each = []
        for _ in range(25):
            begin = time.thread_time()
            lowrank.value_and_slopes(u, sigma, z)
            each.append(time.thread_time() - begin)
        times[patients] = float(np.median(each))
        features = f"{len(error.score)} features"
        out.append(aim(f"likelihood and gradient, {patients} patients, {features} [ms]", 1e3 * times[patients], n=25))
    out.append(aim("likelihood and gradient: 1000 / 100 patients", times[1000] / times[100], None, LINEAR, n=25))
    return out


def main() -> int:
    """Run the benchmark, or one contestant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--patients", type=int, nargs="+", default=list(PATIENTS))
    parser.add_argument("--runs", type=int, default=RUNS, help="runs of the simulator that the surrogate learns from")
    parser.add_argument("--limit", type=float, default=3.0 * 3600.0, help="seconds of one process")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=list(ROLES), help="one of the two contestants")
    parser.add_argument("--scales", choices=("given", "auto"), default="given", help="of the surrogate")
    parser.add_argument("--threads", type=int, help="OMP_NUM_THREADS of both; by default it is not set")
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--brief", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--role", choices=list(ROLES), help=argparse.SUPPRESS)
    parser.add_argument("--surrogate", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--begin", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        clock, patients = Clock(options.begin), options.patients[0]
        print(json.dumps(ROLES[options.role](clock, options.surrogate, patients, options.seed, options.brief)))
        return 0
    if options.scales != "given" and options.only != "ours":
        parser.error("the model by hand reads inputs as given: --scales auto needs --only ours")
    for variable in [name for name in os.environ if name.endswith("_NUM_THREADS")]:
        del os.environ[variable]  # whatever the environment says
    if options.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)  # of the contestants' processes
    sizes = tuple(n for n in options.patients if n < 100) if options.quick else tuple(options.patients)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "surrogate.nc"
        train(path, options.runs, options.scales)
        repeats = 1 if options.quick else options.repeats
        about = [aim("surrogate's sd over that of the noise, at measurements", surrogate_sd(path) / SD)]
        roles = tuple(ROLES) if options.only is None else (options.only,)
        races = race(path, sizes, repeats, folder / "caches", options.limit, roles)
        return finish(about + likelihoods(path) + races)


if __name__ == "__main__":
    sys.exit(main())
