"""Seconds and memory of a calibration with one long recording, through a surrogate and directly.

    python benchmarks/long_recordings.py [--quick] [--cap SECONDS]

The simulator is a damped oscillation of 3 parameters, recorded for 2 s at 100, 1000 and 10 000 samples with noise of sd
0.05, white or with an Ornstein-Uhlenbeck process of length 0.05 s beside it. The surrogate has 100 runs. Each case is a
process of its own; its steps are the construction of the problem, the log-likelihood at 100 draws of the prior, the
sampler, what is computed from its draws with the verdict, and `predict` at all samples. The sampler
is `NUTS()`, whose gradients the simulator that is used directly has from PyTensor.

**Aims.** With 10 000 samples all steps take at most 60 s together, and the process has at most 4 GB. From 1000 to
10 000 samples no step grows faster than the samples: exponent (log of the ratio of seconds over log 10) at most 1.2,
for steps that take at least 0.5 s. A case that is not finished after `--cap` seconds (600) is stopped and its steps are
printed.

`--quick` leaves out 10 000 samples; nothing but the exponents from 100 to 1000 is printed then.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import xarray as xr
from _report import Aim, aim, finish

import uqms as uq
from uqms._typing import Array

SAMPLES = (100, 1000, 10_000)
WAYS, NOISES = ("surrogate", "direct"), ("independent", "autocorrelated")
RUNS, NOISE_SD, OU_SD, OU_LENGTH = 100, 0.05, 0.05, 0.05
SECONDS, GIGABYTES, EXPONENT, SHORTEST = 60.0, 4.0, 1.2, 0.5
STEPS = ("construct", "log_likelihood", "sample", "verdict", "predict")
TRUTH = {"rate": 2.2, "frequency": 5.8, "amplitude": 1.1}
SPACE = uq.ParameterSpace(
    rate=uq.LogNormal(median=2.0, sigma=0.2, unit="1/s"),
    frequency=uq.LogNormal(median=6.0, sigma=0.1, unit="1/s"),
    amplitude=uq.LogNormal(median=1.0, sigma=0.2),
)


def oscillation(samples: int, rate: Array, frequency: Array, amplitude: Array) -> Array:
    """Return the recording (..., samples) at parameters of shape (...)."""
    t = np.linspace(0.0, 2.0, samples)
    rate, frequency, amplitude = (np.asarray(one)[..., None] for one in (rate, frequency, amplitude))
    return amplitude * np.exp(-rate * t) * np.cos(frequency * t)


def simulator(samples: int, way: str) -> object:
    """Return the surrogate or the simulator itself."""
    times = np.linspace(0.0, 2.0, samples)
    if way == "direct":
        import pytensor.tensor as pt

        return uq.DirectSimulator(
            lambda rate, frequency, amplitude: amplitude * pt.exp(-rate * times) * pt.cos(frequency * times),
            space=SPACE,
            outputs={"current": ("time",)},
            coords={"time": times},
            backend="pytensor",
        )
    design = uq.sobol(SPACE, RUNS, rng=1)
    runs = oscillation(samples, *(design[name].values for name in SPACE.names))
    table = {"current": xr.DataArray(runs, dims=("run", "time"), coords={"time": times})}
    return uq.GaussianProcess().fit(uq.ensemble.build(design, table))


def recording(samples: int, noise: str) -> xr.DataArray:
    """Return what was measured."""
    rng, times = np.random.default_rng(1), np.linspace(0.0, 2.0, samples)
    values = oscillation(samples, **{name: np.asarray(value) for name, value in TRUTH.items()})
    values = values + NOISE_SD * rng.standard_normal(samples)
    if noise == "autocorrelated":
        rho, state = math.exp(-(times[1] - times[0]) / OU_LENGTH), OU_SD * rng.standard_normal()
        for i, fresh in enumerate(rng.standard_normal(samples)):
            state = rho * state + math.sqrt(1.0 - rho**2) * OU_SD * fresh if i else state
            values[i] += state
    return xr.DataArray(values, dims="time", coords={"time": times}, name="current")


def model(noise: str) -> object:
    """Return the noise model."""
    if noise == "independent":
        return uq.GaussianNoise(sd=uq.HalfNormal(0.1))
    length = uq.LogNormal(median=OU_LENGTH, sigma=0.5)
    return uq.AutocorrelatedNoise(sd=uq.HalfNormal(0.1), length=length, white=uq.HalfNormal(0.1))


@contextmanager
def step(name: str) -> Iterator[None]:
    """Print the seconds of a step, and the largest memory of the process so far, as one JSON line."""
    start = time.perf_counter()
    yield
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"step": name, "seconds": time.perf_counter() - start, "memory": memory}), flush=True)


def case(samples: int, way: str, noise: str) -> None:
    """Run one case in this process."""
    from uqms.calibration.posterior import build_posterior

    with step("simulator"):
        found, data = simulator(samples, way), recording(samples, noise)
    with step("construct"):
        problem = uq.Calibration(found, data, noise=model(noise))
    with step("log_likelihood"):
        problem.log_likelihood(problem.prior_draws(100, 1))
    sampler = uq.NUTS(progress=False)
    with step("sample"):
        trace = sampler.run(problem, 1)
    with step("verdict"):
        posterior = build_posterior(problem, sampler, trace, 1)
    with step("predict"):
        posterior.predict()


def measure(samples: int, way: str, noise: str, cap: float) -> tuple[dict[str, float], float, bool]:
    """Return seconds by step, memory in GB and whether the case was finished, from a process of its own."""
    command = [sys.executable, str(Path(__file__)), "--case", str(samples), way, noise]
    finished = True
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=cap, check=False)
        text, finished = done.stdout, done.returncode == 0
        if not finished:
            print(done.stderr[-2000:], file=sys.stderr)
    except subprocess.TimeoutExpired as error:
        text, finished = (error.stdout or b"").decode(), False
    rows = [json.loads(row) for row in text.splitlines() if row.startswith("{")]
    seconds = {row["step"]: row["seconds"] for row in rows}
    memory = max((row["memory"] for row in rows), default=math.nan)
    words = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
    print(
        f"{samples} samples, {way}, {noise}: {words}; {memory:.2f} GB{'' if finished else '; NOT FINISHED'}", flush=True
    )
    return seconds, memory, finished


def aims_of(way: str, noise: str, sizes: tuple[int, ...], cap: float) -> list[Aim]:
    """Return the aims of one kind of case."""
    found = {samples: measure(samples, way, noise, cap) for samples in sizes}
    large, before = sizes[-1], sizes[-2]
    seconds, memory, finished = found[large]
    aims = []
    if large == SAMPLES[-1]:
        lacks = "" if finished else f"not finished after {cap:g} s"
        total = sum(seconds.get(name, 0.0) for name in STEPS)
        text = f"{way}, {noise}, {large} samples"
        aims.append(aim(f"{text}: seconds", total if finished else math.inf, high=SECONDS, reason=lacks or None))
        aims.append(aim(f"{text}: GB", memory, high=GIGABYTES, reason=lacks or None))
    for name in STEPS:
        here, there = seconds.get(name), found[before][0].get(name)
        if here is None or there is None:
            aims.append(aim(f"{way}, {noise}: exponent of {name}", None, reason="the step was not finished"))
            continue
        exponent = math.log(here / there) / math.log(large / before)
        judged = here >= SHORTEST and large == SAMPLES[-1]
        aims.append(aim(f"{way}, {noise}: exponent of {name}", exponent, high=EXPONENT if judged else None))
    return aims


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cap", type=float, default=600.0)
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        case(int(options.case[0]), options.case[1], options.case[2])
        return 0
    sizes = SAMPLES[:-1] if options.quick else SAMPLES
    return finish([one for way in WAYS for noise in NOISES for one in aims_of(way, noise, sizes, options.cap)])


if __name__ == "__main__":
    sys.exit(main())
