"""A campaign: one simulator, its inputs and a level of fidelity; and the keys under which its runs are found again.

A key is the SHA-256 of what is computed, bit for bit: the campaign (identity of the simulator, names of the inputs,
fidelity), the inputs' values in the order of their sorted names as little-endian float64, and the seed where there is
one. Neither the order of the inputs nor the sign of a zero makes another run.
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
    """What the runs of one call have in common; a run store keeps them under it.

    Parameters
    ----------
    simulator
        What computes a run.
    inputs
        Names of its inputs, in the order of the columns of `x`; without the seed.
    fidelity
        The level at which it runs, where there are several.

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
        """The simulator's identity as JSON that does not depend on the order of names."""
        return canonical(dict(self.simulator.identity))

    @cached_property
    def id(self) -> str:
        """SHA-256 of the identity, the names of the inputs and the fidelity, in hexadecimal."""
        return campaign_id(self.identity, self.inputs, self.fidelity)

    @property
    def name(self) -> str:
        """What the simulator is called."""
        return str(self.simulator.identity.get("name") or "")

    def keys(self, x: Array, seeds: Ints | None = None) -> list[bytes]:
        """Return the key of each run.

        Parameters
        ----------
        x
            Inputs, shape (n, d), columns in the order of `inputs`.
        seeds
            Shape (n,), or None for a simulator without chance.
        """
        return run_keys(self.id, sorted_columns(self.inputs, x), seeds)


def digest(keys: Iterable[bytes]) -> str:
    """Return a SHA-256 that stands for a set of runs."""
    return hashlib.sha256(b"".join(sorted(keys))).hexdigest()


def canonical(value: object) -> str:
    """Return JSON that is the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def campaign_id(identity: str, inputs: Sequence[str], fidelity: str) -> str:
    """Return the id of a campaign from its parts, the identity as canonical JSON."""
    said: Mapping[str, object] = {"identity": identity, "inputs": sorted(inputs), "fidelity": fidelity}
    return hashlib.sha256(canonical(said).encode()).hexdigest()


def sorted_columns(inputs: Sequence[str], x: Array) -> Array:
    """Return the columns in the order of their sorted names, little-endian and without negative zeros."""
    order = sorted(range(len(inputs)), key=lambda column: inputs[column])
    # Adding zero makes -0.0 the same number as 0.0.
    return np.ascontiguousarray(np.asarray(x, dtype=np.float64)[:, order] + 0.0, dtype="<f8")


def run_keys(campaign: str, x: Array, seeds: Ints | None = None) -> list[bytes]:
    """Return the keys of runs whose inputs stand in the order of their sorted names."""
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
