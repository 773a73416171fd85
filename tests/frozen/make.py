"""Write the frozen values again: ``python -m tests.frozen.make``, all of them, or those that are named.

Only for values that are meant to change, or for new problems; say in the commit why. ``--fits`` fits the surrogates
again too, after which all values are others.
"""

import argparse
import json
import time
from typing import Any

import numpy as np

from tests.frozen import fits
from tests.frozen.problems import PROBLEMS
from tests.frozen.values import VALUES, Target, log_likelihood

DRAWS, POINTS = 40, 2


def likelihoods(problem: Any, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return prior draws, near to the data and far from them, with their values."""
    theta = problem.prior_draws(DRAWS, rng)
    latents = 0.5 * rng.standard_normal((DRAWS, problem.latents))
    points = []
    for i in range(DRAWS):
        point: dict[str, Any] = {"theta": {name: float(values[i]) for name, values in theta.items()}}
        if problem.latents:
            point["latents"] = latents[i].tolist()
        points.append({**point, "value": log_likelihood(problem, point)})
    order = sorted((point for point in points if np.isfinite(point["value"])), key=lambda one: -one["value"])
    return [order[i] for i in (0, 1, 3, len(order) // 2)]


def gradients(problem: Any, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return points around the model's start, with densities and gradients."""
    target, points = Target(problem), []
    while len(points) < POINTS:
        point = {
            name: (np.asarray(value) + rng.uniform(-0.5, 0.5, np.shape(value))).tolist()
            for name, value in target.start.items()
        }
        value, slopes = target(point)
        if not np.isfinite(value):
            continue
        found = {name: one.tolist() for name, one in slopes.items()} if target.smooth else None
        points.append({"point": point, "value": value, "gradient": found})
    return points


def frozen(name: str) -> dict[str, Any]:
    """Return points and values of one problem."""
    start, problem = time.perf_counter(), PROBLEMS[name]()
    rng = np.random.default_rng(int.from_bytes(name.encode(), "little"))
    found = {"log_likelihood": likelihoods(problem, rng), "model": gradients(problem, rng)}
    print(f"{name:50s} {time.perf_counter() - start:6.1f} s", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="problems; all when none is named")
    parser.add_argument("--fits", action="store_true", help="fit the surrogates again")
    given = parser.parse_args()
    if given.fits:
        for name, fit in fits.FITS.items():
            fit().save(fits.FOLDER / f"{name}.npz")
    stored = json.loads(VALUES.read_text()) if VALUES.exists() and given.names else {}
    try:
        for name in given.names or PROBLEMS:
            stored[name] = frozen(name)
    finally:
        write(stored)


def write(stored: dict[str, Any]) -> None:
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(stored[name])}" for name in PROBLEMS if name in stored)
    VALUES.write_text(f"{{\n{lines}\n}}\n")  # a line a problem


if __name__ == "__main__":
    main()
