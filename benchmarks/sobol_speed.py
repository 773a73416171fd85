"""Time of Sobol indices with a surrogate's error, beside SALib on the same predictions.

    python benchmarks/sobol_speed.py [--quick]

100 joint draws of a surrogate of 6 inputs and 50 outputs (a curve), 1024 points a column, first-order and total indices
with bootstrap:

- "analysis": from the same predictions to indices of every draw and output, SALib (`SALib.analyze.sobol`, 50
  resamples) over `uq.sobol_indices` (50 bootstraps, and the whole curve's). SALib takes one output of one draw at a
  time; it is timed on 40 of these 5 000 calls, and multiplied. Aim: 20 times.
- "with predictions": the same with the time of the predictions on both sides; no aim.
- the indices agree: the largest mean distance over the calls, at most 0.05 (SALib's estimator of first-order indices
  scatters by that on 1024 points).
- seconds by number of inputs (one output) and by number of outputs (6 inputs); no aim.
- "main effects": time with a kernel of 12 inputs together and of each, over that with one of all together, median of 3
  analyses in turn. Each of the 13 parts once cost as much as one. Aim: at most twice.

autoemulate hands its mean prediction to SALib, one call an output, without draws: its analysis is SALib's.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from _report import Aim, aim, finish

import uqms as uq
from uqms.surrogates import Scores
from uqms.surrogates.function_draws import mean_path, paths

Array = np.ndarray[Any, np.dtype[np.float64]]
DRAWS, POINTS, RESAMPLES, CALLS = 100, 1024, 50, 40


def fitted(d: int, m: int, n: int = 100, **settings: Any) -> Any:
    """Return a surrogate of a curve of m coordinates (or of a number) over d inputs, with these settings."""
    space = uq.ParameterSpace(**{f"x{i}": uq.Uniform(0.0, 1.0) for i in range(d)})
    design = uq.sobol(space, n, rng=1)
    x = np.column_stack([design[name].values for name in space.names])
    t = np.linspace(0.0, 1.0, m)
    rate = 1.0 + x @ (1.0 / (1.0 + np.arange(d)))
    y = np.exp(-rate[:, None] * t) + 0.3 * np.sin(3.0 * x[:, :1] * (1.0 + t)) * x[:, 1:2]
    simulator = {"y": xr.DataArray(y, dims=("run", "t"), coords={"t": t}) if m > 1 else y[:, 0]}
    outputs: Any = {"y": uq.Curve(tolerance=1e-4)} if m > 1 else {}
    return uq.GaussianProcess(outputs=outputs, **settings).fit(
        uq.ensemble.build(design, simulator, space=space, box=space.box())
    )


class Recorded:
    """A surrogate that answers from what it was asked before, so that only the analysis is timed."""

    def __init__(self, surrogate: Any) -> None:
        """Keep the surrogate and what it says."""
        self.surrogate = surrogate
        self.domain, self.layouts, self.attrs = surrogate.domain, surrogate.layouts, surrogate.attrs
        self.decode, self.scores, self.scores_reverse = surrogate.decode, surrogate.scores, surrogate.scores_reverse
        self.kept: dict[tuple[str, bytes], Any] = {}
        self.points: list[Array] = []
        self.seconds = 0.0

    def remembered(self, what: str, u: Array, answer: Callable[[Array], Any]) -> Any:
        """Return the answer at points, computed once."""
        key = (what, u.tobytes())
        if key not in self.kept:
            start = time.perf_counter()
            self.kept[key] = answer(u)
            self.seconds += time.perf_counter() - start
            if what == "draws" and len(u) > 1:
                self.points.append(u)
        return self.kept[key]

    def marginal_scores(self, u: Array) -> Scores:
        """Return the mean of a hyperparameter draw, as the analysis of a Gaussian process takes it."""
        mean = self.remembered("mean", u, mean_path(self.surrogate, 0))
        return Scores(mean, np.zeros((*mean.shape[:1], mean.shape[2], mean.shape[1])), np.zeros(1))

    def functions(self, n: int, rng: Any) -> Callable[[Array], Array]:
        """Return draws, exact at 512 anchors."""
        start = time.perf_counter()
        drawn = paths(self.surrogate, np.random.default_rng(1).random((512, self.domain.d)), n, 1)
        self.seconds += time.perf_counter() - start
        return lambda u: np.asarray(self.remembered("draws", u, drawn))


def beside_salib(calls: int) -> list[Aim]:
    """Return the aims of speed and agreement."""
    try:
        from SALib.analyze import sobol as analyse
    except ImportError:
        return [aim("analysis: SALib over uqms", None, 20.0, reason="SALib is not installed")]
    d, m = 6, 50
    surrogate = Recorded(fitted(d, m))
    settings: dict[str, Any] = {"draws": DRAWS, "points": POINTS, "bootstrap": RESAMPLES, "rng": 1}
    uq.sobol_indices(surrogate, **settings)
    predictions = surrogate.seconds
    start = time.perf_counter()
    result = uq.sobol_indices(surrogate, **settings)
    ours = time.perf_counter() - start - (surrogate.seconds - predictions)
    (u,) = surrogate.points
    columns = d + 2
    drawn = surrogate.functions(DRAWS, 1)(u)
    offset, basis, _ = surrogate.decode("y")
    # Ours are replicates of columns A, B, AB_1 ...; SALib wants, point by point, A, AB_1 ..., B.
    order = [0, *range(2, columns), 1]
    start = time.perf_counter()
    y = (offset + drawn @ basis.T).reshape(DRAWS, 16, columns, POINTS // 16, m)[:, :, order]
    y = np.ascontiguousarray(np.moveaxis(y, 2, 3).reshape(DRAWS, -1, m).transpose(0, 2, 1))
    decoding = time.perf_counter() - start
    names = list(surrogate.domain.names)
    cube = {"num_vars": d, "names": names, "bounds": [[0.0, 1.0]] * d}
    chosen = np.random.default_rng(1).integers([DRAWS, m], size=(calls, 2))
    found = np.empty((calls, 2, d))
    start = time.perf_counter()
    for row, (s, j) in zip(found, chosen, strict=True):
        one: Any = analyse.analyze(cube, y[s, j], calc_second_order=False, num_resamples=RESAMPLES, seed=1)
        row[:] = one["S1"], one["ST"]
    theirs = (time.perf_counter() - start) / calls * DRAWS * m
    mean = np.stack([result["y"][kind].mean("bootstrap").values for kind in ("S1", "ST")])
    same = np.stack([mean[:, s, :, j] for s, j in chosen])
    off = float(np.abs(found - same).mean(axis=0).max())
    return [
        aim("analysis: SALib over uqms", theirs / ours, 20.0, n=calls, reason=f"{theirs:.3g} s and {ours:.3g} s"),
        aim(
            "with predictions: SALib over uqms",
            (predictions + decoding + theirs) / (predictions + ours),
            reason=f"predictions take {predictions:.3g} s",
        ),
        aim("largest mean distance of indices of the same draws", off, None, 0.05, n=calls),
    ]


def of_main_effects(d: int = 12, repeats: int = 3) -> list[Aim]:
    """Time an analysis with main effects beside one without."""
    kernels = uq.Matern52(), uq.MainEffects(uq.Matern52())
    plain, richer = (fitted(d, 1, kernel=kernel, scales="given") for kernel in kernels)
    ratios = []
    for _ in range(repeats):
        without = seconds(plain)
        ratios.append(seconds(richer) / without)
    return [aim(f"main effects of {d} inputs over none", float(np.median(ratios)), None, 2.0, n=repeats)]


def seconds(surrogate: Any) -> float:
    """Return the time of the whole analysis."""
    start = time.perf_counter()
    uq.sobol_indices(surrogate, draws=DRAWS, points=POINTS, rng=1)
    return time.perf_counter() - start


def main() -> int:
    """Time everything and print the aims."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer calls of SALib, fewer sizes")
    arguments = parser.parse_args()
    aims = beside_salib(10 if arguments.quick else CALLS)
    for d in (3, 6) if arguments.quick else (3, 6, 12, 24):
        aims.append(aim(f"seconds with {d} inputs, one output", seconds(fitted(d, 1))))
    for m in (50,) if arguments.quick else (50, 500):
        surrogate = fitted(6, m)
        found = seconds(surrogate)
        scores = surrogate.process.q
        aims.append(aim(f"seconds with 6 inputs, {m} outputs", found, reason=f"{scores} scores"))
    aims += of_main_effects(repeats=1 if arguments.quick else 3)
    return finish(aims)


if __name__ == "__main__":
    sys.exit(main())
