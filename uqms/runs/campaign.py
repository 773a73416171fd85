"""Campaigns (one simulator, its inputs and a level of fidelity), and the keys by which stored runs are found again.

A key is the SHA-256 hash of everything that determines a run, bit for bit. It covers the campaign (identity of the
simulator, names of the inputs, fidelity), the values of the inputs as little-endian float64 in the order of their
sorted names, and the seed of a stochastic simulator. The order of the inputs and the sign of a zero do not change the
key.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np

from uqms._typing import Array, Ints
from uqms.simulators import Simulator

__all__ = ["Campaign", "campaign_id", "canonical", "digest", "run_keys", "sorted_columns"]


@final
@dataclass(frozen=True, eq=False)
class Campaign:
    """A simulator with the names of its inputs and a level of fidelity; the run store groups runs by campaign.

    Parameters
    ----------
    simulator
        The simulator.
    inputs
        Names of its inputs in the order of the columns of `x`, without the seed.
    fidelity
        The level of fidelity, if the simulator has several levels.

    Examples
    --------
    >>> import numpy as np
    >>> from uqms.simulators import FunctionSimulator
    >>> simulator = FunctionSimulator(lambda a, b: a + b, outputs={"y": ()}, version="1", name="sum")
    >>> first, second = Campaign(simulator, ("a", "b")), Campaign(simulator, ("b", "a"))
    >>> first.keys(np.array([[1.0, -0.0]])) == second.keys(np.array([[0.0, 1.0]]))
    True
    """

    simulator: Simulator
    inputs: tuple[str, ...]
    fidelity: str = ""

    @cached_property
    def identity(self) -> str:
        """The identity of the simulator, as JSON with sorted names."""
        return canonical(dict(self.simulator.identity))

    @cached_property
    def id(self) -> str:
        """SHA-256 hash of the identity, the names of the inputs and the fidelity, in hexadecimal digits."""
        return campaign_id(self.identity, self.inputs, self.fidelity)

    @property
    def name(self) -> str:
        """The name of the simulator, or an empty string."""
        return str(self.simulator.identity.get("name") or "")

    def keys(self, x: Array, seeds: Ints | None = None) -> list[bytes]:
        """Return the key of each run.

        Parameters
        ----------
        x
            Inputs, shape (n, d), columns in the order of `inputs`.
        seeds
            Shape (n,), or None for a deterministic simulator.
        """
        return run_keys(self.id, sorted_columns(self.inputs, x), seeds)


def digest(keys: Iterable[bytes]) -> str:
    """Return the SHA-256 hash of a set of runs, given by their keys in any order."""
    return hashlib.sha256(b"".join(sorted(keys))).hexdigest()


def canonical(value: object) -> str:
    """Return the canonical JSON of a value: equal values have the same text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def campaign_id(identity: str, inputs: Sequence[str], fidelity: str) -> str:
    """Return the id of a campaign; `identity` is canonical JSON."""
    said: Mapping[str, object] = {"identity": identity, "inputs": sorted(inputs), "fidelity": fidelity}
    return hashlib.sha256(canonical(said).encode()).hexdigest()


def sorted_columns(inputs: Sequence[str], x: Array) -> Array:
    """Return the columns in the order of their sorted names, little-endian, with 0.0 in place of -0.0."""
    order = sorted(range(len(inputs)), key=lambda column: inputs[column])
    # Adding 0.0 converts -0.0 to 0.0.
    return np.ascontiguousarray(np.asarray(x, dtype=np.float64)[:, order] + 0.0, dtype="<f8")


def run_keys(campaign: str, x: Array, seeds: Ints | None = None) -> list[bytes]:
    """Return the keys of runs; the columns of `x` are in the order of the sorted names of the inputs."""
    n, d = x.shape
    prefix = bytes.fromhex(campaign)
    width = len(prefix) + 8 * d + (0 if seeds is None else 8)
    rows = np.empty((n, width), dtype=np.uint8)
    rows[:, : len(prefix)] = np.frombuffer(prefix, dtype=np.uint8)
    rows[:, len(prefix) : len(prefix) + 8 * d] = np.ascontiguousarray(x, dtype="<f8").view(np.uint8).reshape(n, 8 * d)
    if seeds is not None:
        whole = np.ascontiguousarray(seeds, dtype="<i8")
        rows[:, len(prefix) + 8 * d :] = whole.view(np.uint8).reshape(n, 8)
    flat, sha256 = rows.tobytes(), hashlib.sha256
    return [sha256(flat[start : start + width]).digest() for start in range(0, n * width, width)]
