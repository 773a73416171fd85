"""How long it takes until something happens: the demo on an empty machine, the demo again, the import.

    python benchmarks/start_up.py [--quick] [--first] [--compile]

Aim: `import uqms` below 0.3 s (median of five fresh interpreters, less the bare interpreter's own start). The second
`make demo` is recorded as a median without an aim; so is the first one, which downloads everything and is measured only
with `--first`, in a temporary clone with an empty environment. `--compile` measures, without an aim, what it takes to
build a PyMC model of a surrogate with Student-t noise and to evaluate its density with gradients (medians of three):
with empty caches, with the functions of uqms compiled but a new model, and for the same model again.
`--quick` takes three repeats of the import and one of the others.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from _report import Aim, aim, finish

ROOT = Path(__file__).resolve().parent.parent


def seconds(command: list[str], folder: Path, variables: Mapping[str, str] | None = None) -> float | None:
    """Return the wall time of a command, None when it fails (its last words go to stderr)."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UQMS_")}
    environment |= dict(variables or {})
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    elapsed = time.perf_counter() - start
    if done.returncode != 0:
        print(*command, "failed:", (done.stderr or done.stdout)[-2000:], file=sys.stderr)
        return None
    return elapsed


def median_of(name: str, times: list[float | None], high: float | None = None) -> Aim:
    """Turn repeats into an aim on their median, with the median's standard error (1.2533 sd / sqrt(n))."""
    good = [each for each in times if each is not None]
    if len(good) < len(times):
        return aim(name, float("nan"), high=high, n=len(good), reason="a repeat failed, see stderr")
    mcse = 1.2533 * statistics.stdev(good) / len(good) ** 0.5 if len(good) > 1 else None
    return aim(name, statistics.median(good), high=high, mcse=mcse, n=len(good))


def import_time(repeats: int) -> Aim:
    """Measure `import uqms` in fresh interpreters, each beside an interpreter that does nothing."""
    times: list[float | None] = []
    for _ in range(repeats + 1):
        bare = seconds([sys.executable, "-c", "pass"], ROOT)
        full = seconds([sys.executable, "-c", "import uqms"], ROOT)
        times.append(None if bare is None or full is None else full - bare)
    return median_of("import uqms [s]", times[1:], high=0.3)  # the first one only warms the disk


LONG_TAILS = """
import numpy as np, pymc as pm, xarray as xr, uqms as uq
space = uq.ParameterSpace(a=uq.Uniform(0, 1), b=uq.Uniform(0, 1))
design = uq.sobol(space, 32, rng=1)
y = np.sin(3 * design["a"].values)[:, None] + design["b"].values[:, None] * np.linspace(0, 1, 5)
runs = uq.ensemble.build(design, {"y": xr.DataArray(y, dims=("run", "t"), coords={"t": np.arange(5.0)})})
data = xr.DataArray(np.linspace(0.5, 1, 5), dims="t", coords={"t": np.arange(5.0)}, name="y")
surrogate = uq.GaussianProcess(hyperparameters="point").fit(runs)
noise = uq.StudentTNoise(scale=uq.HalfNormal(0.2))
model = uq.Calibration(surrogate, data, noise).model()
density = model.logp_dlogp_function(ravel_inputs=True)
density.set_extra_values({})
value, slopes = density(pm.blocking.DictToArrayBijection.map(model.initial_point()))
assert np.isfinite(value) and np.all(np.isfinite(slopes))
"""


def compilation(repeats: int) -> list[Aim]:
    """Measure the model's first density in fresh interpreters, with caches in a temporary folder."""
    times: dict[str, list[float | None]] = {"empty caches": [], "a new model": [], "the same model again": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            kept, models = Path(folder) / "numba", Path(folder) / "pytensor"
            kept.mkdir()
            variables = {"NUMBA_CACHE_DIR": str(kept), "PYTENSOR_FLAGS": f"base_compiledir={models}"}
            for what, each in times.items():
                if what == "a new model":
                    shutil.rmtree(models)
                each.append(seconds([sys.executable, "-c", LONG_TAILS], ROOT, variables))
    return [median_of(f"density of a model with Student-t noise, {what} [s]", each) for what, each in times.items()]


def first_demo() -> Aim:
    """Measure `make demo` in a new clone without an environment."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "uqms"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        return median_of("first make demo [s]", [seconds(["make", "demo"], clone)])


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--first", action="store_true", help="also a first `make demo`: downloads a few GB")
    parser.add_argument("--compile", action="store_true", help="also the compilation of a model: four minutes")
    options = parser.parse_args()
    aims = [import_time(3 if options.quick else 5)]
    if (ROOT / ".venv").exists():
        # The second one: the environment is there, and what the demo keeps from its last call.
        warm = seconds(["make", "demo"], ROOT)
        repeats = 1 if options.quick else 5
        times = [seconds(["make", "demo"], ROOT) for _ in range(repeats)] if warm is not None else [None]
        aims.append(median_of("second make demo [s]", times))
    else:
        aims.append(aim("second make demo [s]", None, reason="there is no .venv; call make demo once"))
    if options.first:
        aims.append(first_demo())
    else:
        aims.append(aim("first make demo [s]", None, reason="downloads a few GB; measured with --first"))
    if options.compile:
        aims += compilation(1 if options.quick else 3)
    return finish(aims)


if __name__ == "__main__":
    sys.exit(main())
