"""Print the files of the package through which the path from a fitted surrogate to the log-likelihood leads.

    python scripts/likelihood_path.py            # of this tree
    python scripts/likelihood_path.py FOLDER     # of another checkout, as of `git worktree add FOLDER REVISION`

A calibration of one curve is built, and its PyMC model and log-density are compiled and called once. Every function of
the package counts at its first call. A stay is a run of such calls in one file, a return a stay in a file that was left
before. Modules are imported before, so that what runs while they are imported does not count.
"""

import sys
import warnings
from collections import Counter
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any


def calls(root: Path) -> list[str]:
    """Return the file of every function in the order of their first calls."""
    sys.path.insert(0, str(root))
    import numpy as np
    import pandas as pd
    import xarray as xr

    import uqms as uq

    warnings.simplefilter("ignore")
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.5, 2.0))
    times, design = np.array([0.0, 1.0, 2.0, 4.0]), uq.sobol(space, 16, rng=1)
    a, b = (np.asarray(design[name])[:, None] for name in ("a", "b"))
    values = xr.DataArray(a * np.exp(-b * times / 2.0), dims=("run", "t"), coords={"t": times})
    surrogate = uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": values}))
    frame = pd.DataFrame({"t": times, "y": [0.5, 0.35, 0.2, 0.1]})
    observations = uq.Observations.from_table(frame, output="y", value="y", coords={"t": "t"})

    def density() -> float:
        model = uq.Calibration(surrogate, observations, uq.GaussianNoise(sd=uq.HalfNormal(0.1))).model()
        return float(model.compile_logp()(model.initial_point()))

    density()  # imports what is imported when it is used
    found: dict[Any, str] = {}
    folder = str(root / "uqms") + "/"

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(folder) and code not in found:
            found[code] = code.co_filename.removeprefix(folder)

    sys.setprofile(note)
    try:
        value = density()
    finally:
        sys.setprofile(None)
    if not np.isfinite(value):
        raise SystemExit(f"The log-density is {value}.")
    return list(found.values())


def main(arguments: list[str]) -> int:
    """Print the stays of each file, and their number."""
    root = Path(arguments[0] if arguments else Path(__file__).resolve().parent.parent).resolve()
    stays = [path for path, _ in groupby(calls(root))]
    visits = Counter(stays)
    for path, count in visits.most_common():
        print(f"{count:4d}  {path}")
    print(f"{len(stays)} stays in {len(visits)} files, {len(stays) - len(visits)} returns")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
