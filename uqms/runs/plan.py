"""The runs that a design requires: rows, replicates with their seeds, and the keys by which they are stored."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
import pandas as pd
import xarray as xr

from uqms import _checks as check
from uqms._typing import Array, Ints, Named
from uqms.errors import InputError
from uqms.runs.campaign import Campaign, sorted_columns
from uqms.simulators import Simulator

__all__ = ["Plan", "check_inputs", "plan_runs", "run_seeds"]

_WHOLE = 2**53  # float64 represents all integers up to this one
_SEEDS = 2**31  # seeds fit into a signed 32-bit integer, the smallest type that simulators use for seeds
_STEP = 0x9E3779B1  # an odd number, so that all replicates of a point have different seeds


@final
@dataclass(frozen=True, eq=False)
class Plan:
    """The runs of one call, one per row of the ensemble.

    The columns of `x (n, d)` are in the order of the campaign's inputs. `origin` is the row of the design for each row.
    `seeds` and `replicates` are None for a deterministic simulator.
    """

    campaign: Campaign
    x: Array
    origin: Ints
    seeds: Ints | None
    replicates: Ints | None

    def part(self, rows: slice) -> "Plan":
        """Return the plan of some rows."""
        seeds = None if self.seeds is None else self.seeds[rows]
        replicates = None if self.replicates is None else self.replicates[rows]
        return Plan(self.campaign, self.x[rows], self.origin[rows], seeds, replicates)

    @cached_property
    def keys(self) -> list[bytes]:
        """The key of each row. Rows with the same key are the same run."""
        return self.campaign.keys(self.x, self.seeds)

    def point(self, row: int) -> dict[str, float]:
        """Return the inputs of the simulator by name, with the seed if it takes one."""
        point: dict[str, float] = dict(zip(self.campaign.inputs, self.x[row].tolist(), strict=True))
        if self.seeds is not None and self.campaign.simulator.seed is not None:
            point[self.campaign.simulator.seed] = int(self.seeds[row])
        return point


def check_inputs(design: xr.Dataset | pd.DataFrame | Named, names: Collection[str]) -> None:
    """Raise an InputError if a file cannot hold the name of an input, or float64 cannot hold its integers."""
    for name in names:
        if "/" in name:
            raise InputError(f"an input is called {name!r}; give it a name without '/', which netCDF does not allow.")
        whole = np.asarray(design[name])
        if whole.dtype.kind in "iu" and ((whole > _WHOLE) | (whole < -_WHOLE)).any():
            raise InputError(
                f"input {name!r} has integers beyond 2**53, which float64 cannot tell apart. Subtract a constant from "
                "them, or pass .astype(float) if the nearest float64 is good enough."
            )


def plan_runs(simulator: Simulator, columns: dict[str, Array], fidelity: str, replicates: int, rng: Any) -> Plan:
    """Return the runs of a design, with every row repeated `replicates` times.

    Raises
    ------
    InputError
        When `replicates` or `rng` is given for a deterministic simulator, or `rng` is missing for a stochastic one.
    """
    if not check.is_whole(replicates, 1):
        raise InputError(f"replicates is {replicates!r}; give a whole number of at least 1.")
    if not isinstance(fidelity, str):
        raise InputError(f"fidelity is {fidelity!r}; give a string, such as 'coarse'.")
    x = np.stack(list(columns.values()), axis=1)
    campaign = Campaign(simulator, tuple(columns), fidelity)
    rows = np.arange(len(x))
    if simulator.seed is None:
        if replicates > 1 or rng is not None:
            raise InputError(
                "replicates and rng are for simulators that draw random numbers, and this simulator takes no seed. "
                "Name the argument of your function that is the seed: uq.FunctionSimulator(function, ..., seed='seed')."
            )
        return Plan(campaign, x, rows, None, None)
    if not check.is_whole(rng, 0):
        raise InputError(
            f"rng is {rng!r}, but the simulator takes a seed; give a whole number of at least 0, which determines the "
            "seeds of all runs: run(..., rng=1). A generator is not accepted, since the next call would get other "
            "seeds and repeat every run."
        )
    origin = np.repeat(rows, replicates)
    counts = _occurrences(sorted_columns(campaign.inputs, x)[origin])
    points = sorted_columns(campaign.inputs, x)[origin]
    return Plan(campaign, x[origin], origin, run_seeds(int(rng), points, counts), counts)


def run_seeds(rng: int, points: Array, replicates: Ints) -> Ints:
    """Return a seed in [0, 2**31) for each run, which depends only on `rng`, the inputs and the replicate.

    So the seed of a run does not depend on the other points of the design, the number of workers or the order of the
    runs. Replicates of one point have different seeds.
    """
    prefix = rng.to_bytes(max(1, (rng.bit_length() + 7) // 8), "little")
    rows = np.ascontiguousarray(points, dtype="<f8")
    digests = [hashlib.sha256(prefix + b"/" + row.tobytes()).digest()[:8] for row in rows]
    base = np.frombuffer(b"".join(digests), dtype="<u8")
    with np.errstate(over="ignore"):
        mixed = base + replicates.astype(np.uint64) * np.uint64(_STEP)
    seeds: Ints = (mixed % np.uint64(_SEEDS)).astype(np.int64)
    return seeds


def _occurrences(points: Array) -> Ints:
    """Return the number of equal rows before each row: a point that occurs twice in a design has two replicates."""
    _, same = np.unique(points, axis=0, return_inverse=True)
    order = np.argsort(same, kind="stable")
    ranked = same[order]
    first = np.searchsorted(ranked, ranked, side="left")
    counts = np.empty(len(points), dtype=np.int64)
    counts[order] = np.arange(len(points)) - first
    return counts
