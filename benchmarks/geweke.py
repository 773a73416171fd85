"""Likelihood, simulation and Metropolis kernel share one joint law of parameters and data (Geweke 2004).

    python benchmarks/geweke.py [--quick] [--seed SEED]

Two ways to draw parameters and data together: parameters from the prior, then data (`problem.simulate`); or in turns,
a Metropolis step of the parameters (and latents) given the data, with a step length that never changes, then new data
given the parameters. If `log_likelihood`, `simulate` and priors belong together, both have the same law. Compared are
the means of each parameter and latent, its square, its product with the mean of the data, and the log-likelihood, after
20 000 iterations, with standard errors from batch means. Aims:

- every difference is below 4 standard errors, for a closed form, a discrepancy, and counts (latents);
- with planted bugs of the likelihood at least one is above 4.

Geweke (2004), doi:10.1198/016214504000001132. ``--quick`` makes 3000 iterations, where bugs are not judged.
"""

if __name__ != "__main__":
    raise ImportError("this is a benchmark, not the package that numba asks for")

import argparse
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import xarray as xr
from _report import aim, finish, line

import uqms as uq
from uqms._typing import Array
from uqms.calibration.whitened import Whitened
from uqms.errors import PriorConflictWarning
from uqms.testing import LIKELIHOOD_BUGS

STEP, BATCHES, LIMIT = 0.9, 40, 4.0
BUGS = ("surrogate variance dropped", "likelihood counted twice")  # one that ignores data leaves the joint law as it is
TIMES = np.array([0.0, 1.0, 2.0])


def problem(noise: object, transform: uq.Log | None = None, discrepancy: object = None) -> uq.Calibration:
    """Return a calibration of one parameter from a curve of few runs, whose errors are as large as the noise."""
    design = uq.sobol(uq.ParameterSpace(a=uq.Uniform(0.0, 1.0)), 5, rng=1)
    latent = np.sin(9.0 * design["a"].values)[:, None] * np.exp(-0.5 * TIMES)
    y = latent if transform is None else np.exp(1.0 + latent)
    curve = uq.Curve() if transform is None else uq.Curve(transform=transform)
    data = xr.DataArray(y, dims=("run", "t"), coords={"t": TIMES})
    settings = uq.GaussianProcess(outputs={"y": curve}, hyperparameters="point")
    surrogate = settings.fit(uq.ensemble.build(design, {"y": data}))
    seen = xr.DataArray([1.0, 0.0, 2.0], dims="t", coords={"t": TIMES}, name="y")
    return uq.Calibration(surrogate, seen, noise, discrepancy=discrepancy)  # type: ignore[arg-type]


PROBLEMS: dict[str, Callable[[], uq.Calibration]] = {
    "closed form, unknown sd": lambda: problem(uq.GaussianNoise(uq.TruncatedNormal(0.15, 0.05, 0.05, 0.3))),
    "discrepancy": lambda: problem(uq.GaussianNoise(0.2), discrepancy=uq.GPDiscrepancy(sd=uq.Uniform(0.1, 0.6))),
    "counts": lambda: problem(uq.PoissonNoise(), uq.Log()),
}


def statistics(space: Whitened, z: Array, values: Array, log_likelihood: Array) -> tuple[list[str], Array]:
    """Return names and numbers (n, statistics) of whitened points (n, D), data (n, R), log-likelihoods (n,)."""
    theta, level = space.theta(z), values.mean(axis=1)
    columns = {}
    for name, one in theta.items():
        columns |= {name: one, f"{name}²": one**2, f"{name} y": one * level}
    for k, latent in enumerate(z[:, len(theta) :].T, start=1):  # which of them carries the surrogate's error differs
        columns |= {f"latent {k}²": latent**2, f"latent {k} y": latent * level}
    columns |= {"y²": level**2, "log-likelihood": log_likelihood}
    return list(columns), np.column_stack(list(columns.values()))


def eta_of(space: Whitened, z: Array) -> Array | None:
    return z[:, len(space.names) :] if space.latents else None


def independent(one: uq.Calibration, n: int, rng: np.random.Generator) -> tuple[list[str], Array]:
    """Draw parameters from the prior, then data."""
    space = Whitened(one)
    z = rng.standard_normal((n, space.dimension))
    values = one.simulate(space.theta(z), rng, eta_of(space, z))
    found = [Whitened(one.with_values(v)).log_likelihood(z[i : i + 1])[0] for i, v in enumerate(values)]
    return statistics(space, z, values, np.array(found))


def in_turns(one: uq.Calibration, n: int, rng: np.random.Generator) -> Array:
    """Draw parameters given data by a frozen Metropolis step, and data given parameters, in turns."""
    space = Whitened(one)
    z = rng.standard_normal((1, space.dimension))
    states, data, logs = np.empty((n, space.dimension)), [], np.empty(n)
    for i in range(n):
        values = one.simulate(space.theta(z), rng, eta_of(space, z))[0]
        given = Whitened(one.with_values(values))
        proposal = np.sqrt(1.0 - STEP**2) * z + STEP * rng.standard_normal(z.shape)  # leaves the prior unchanged
        old, new = given.log_likelihood(np.concatenate([z, proposal]))
        if np.log(rng.random()) < new - old:
            z, old = proposal, new
        states[i], logs[i] = z[0], old
        data.append(values)
    return statistics(space, states, np.array(data), logs)[1]


def z_scores(one: uq.Calibration, n: int, seed: int) -> tuple[list[str], Array]:
    """Return the differences of all means in standard errors."""
    first, second = np.random.default_rng(seed).spawn(2)
    names, a = independent(one, n, first)
    b = in_turns(one, n, second)
    means = b[: len(b) // BATCHES * BATCHES].reshape(BATCHES, -1, b.shape[1]).mean(axis=1)
    error = np.sqrt(a.var(axis=0) / len(a) + means.var(axis=0, ddof=1) / BATCHES)
    return names, (a.mean(axis=0) - b.mean(axis=0)) / error


def main() -> int:
    """Compare both ways for every problem."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    n, aims = 3000 if given.quick else 20_000, []
    warnings.simplefilter("ignore", PriorConflictWarning)
    for name, make in PROBLEMS.items():
        one = make()
        begin = time.perf_counter()
        names, found = z_scores(one, n, given.seed)
        worst = int(np.argmax(np.abs(found)))
        remark = f"{names[worst]}; {len(names)} statistics, {time.perf_counter() - begin:.0f} s"
        aims.append(aim(f"{name}: largest |z|", float(abs(found[worst])), None, LIMIT, None, n, remark))
        print(line(aims[-1]), flush=True)
        for bug in () if given.quick else LIKELIHOOD_BUGS:
            if bug.name not in BUGS:
                continue
            with bug.planted():
                names, found = z_scores(one, n, given.seed)
            worst = int(np.argmax(np.abs(found)))
            label = f"{name}, {bug.name}: largest |z|"
            aims.append(aim(label, float(abs(found[worst])), LIMIT, None, None, n, names[worst]))
            print(line(aims[-1]), flush=True)
    return finish(aims)


if __name__ == "__main__":
    sys.exit(main())
