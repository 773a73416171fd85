"""The runs that a design asks for: rows, replicates with their seeds, and the keys under which they are kept."""

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

_WHOLE = 2**53  # up to here float64 holds all integers
_SEEDS = 2**31  # what a signed 32-bit integer holds, the smallest that simulators take
_STEP = 0x9E3779B1  # odd, so that no two replicates of a point share a seed


@final
@dataclass(frozen=True, eq=False)
class Plan:
    """What is to run, row by row of the ensemble; `x (n, d)` has its columns in the order of the campaign's inputs.

    `seeds` and `replicates` are None for a simulator without chance; `origin` is each row's row of the design.
    """

    campaign: Campaign
    x: Array
    origin: Ints
    seeds: Ints | None
    replicates: Ints | None

    def part(self, rows: slice) -> "Plan":
        """Return some of the runs."""
        seeds = None if self.seeds is None else self.seeds[rows]
        replicates = None if self.replicates is None else self.replicates[rows]
        return Plan(self.campaign, self.x[rows], self.origin[rows], seeds, replicates)

    @cached_property
    def keys(self) -> list[bytes]:
        """The key of each row; rows with the same key are one run."""
        return self.campaign.keys(self.x, self.seeds)

    def point(self, row: int) -> dict[str, float]:
        """Return what the simulator gets."""
        point: dict[str, float] = dict(zip(self.campaign.inputs, self.x[row].tolist(), strict=True))
        if self.seeds is not None and self.campaign.simulator.seed is not None:
            point[self.campaign.simulator.seed] = int(self.seeds[row])
        return point


def check_inputs(design: xr.Dataset | pd.DataFrame | Named, names: Collection[str]) -> None:
    """Raise an InputError when an input's name cannot stand in a file, or its integers are too large for float64."""
    for name in names:
        if "/" in name:
            raise InputError(f"an input is called {name!r}; give it a name without '/', as files want it.")
        whole = np.asarray(design[name])
        if whole.dtype.kind in "iu" and ((whole > _WHOLE) | (whole < -_WHOLE)).any():
            raise InputError(
                f"input {name!r} has integers beyond 2**53, several of which would become one float64; subtract a "
                "constant, or give floats when the nearest one will do."
            )


def plan_runs(simulator: Simulator, columns: dict[str, Array], fidelity: str, replicates: int, rng: Any) -> Plan:
    """Return the runs of a design: every row `replicates` times, one after the other.

    Raises
    ------
    InputError
        When replicates or a seed are asked of a simulator without chance, or a seed is missing for one with chance.
    """
    if not check.is_whole(replicates, 1):
        raise InputError(f"replicates is {replicates!r}; give a whole number >= 1.")
    if not isinstance(fidelity, str):
        raise InputError(f"fidelity is {fidelity!r}; give a word, such as 'coarse'.")
    x = np.stack(list(columns.values()), axis=1)
    campaign = Campaign(simulator, tuple(columns), fidelity)
    rows = np.arange(len(x))
    if simulator.seed is None:
        if replicates > 1 or rng is not None:
            raise InputError(
                "replicates and rng are for simulators that draw random numbers, and this one takes no seed; say which "
                "argument does: FunctionSimulator(..., seed='seed')."
            )
        return Plan(campaign, x, rows, None, None)
    if not check.is_whole(rng, 0):
        raise InputError(
            f"rng is {rng!r}, and the simulator takes a seed; give a whole number >= 0, from which the seed of every "
            "run follows. (A generator gives other seeds in the next call, which would then repeat every run.)"
        )
    origin = np.repeat(rows, replicates)
    counts = _occurrences(sorted_columns(campaign.inputs, x)[origin])
    points = sorted_columns(campaign.inputs, x)[origin]
    return Plan(campaign, x[origin], origin, run_seeds(int(rng), points, counts), counts)


def run_seeds(rng: int, points: Array, replicates: Ints) -> Ints:
    """Return a seed in [0, 2**31) for each run, which follows from `rng`, its inputs and its replicate alone.

    So a run has the same seed whatever the design around it, the number of workers and the order of the runs.
    Replicates of one point have different seeds.
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
    """Return how many equal rows stand before each one: a point that stands twice in a design has two replicates."""
    _, same = np.unique(points, axis=0, return_inverse=True)
    order = np.argsort(same, kind="stable")
    ranked = same[order]
    first = np.searchsorted(ranked, ranked, side="left")
    counts = np.empty(len(points), dtype=np.int64)
    counts[order] = np.arange(len(points)) - first
    return counts
