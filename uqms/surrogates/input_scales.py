"""Whether an input enters the process as it is or by its logarithm: the scale that the runs prefer.

A rate between 0.1 and 10 acts by its ratio to others more often than by its difference, whatever its prior is. Products
and ratios of inputs are sums of their logarithms, which learned directions then follow. The design box says where a
process is learned; its scale is changed and nothing else: outputs, and so evidences of different scales, are the same.
"""

import json
from collections.abc import Callable, Container, Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from uqms._typing import Array, ScaleName
from uqms.parameters import Box

__all__ = ["chosen_scales", "described_scales", "noted_scales"]

RATIO = 2.0  # of the ends of a range: within a smaller one the logarithm is nearly linear
CLEAR = 3.0  # of log probability, above which another scale is taken
OTHER: dict[ScaleName, ScaleName] = {"identity": "log", "log": "identity"}

type Scales = tuple[ScaleName, ...]


def chosen_scales[S](
    box: Box, x: Float[np.ndarray, "n d"], probability: Callable[[Array, S | None], tuple[float, S]]
) -> tuple[Box, Float[np.ndarray, "n d"]]:
    """Return the box with the scales that the runs at `x`, in its unit cube, prefer, and the runs in its unit cube.

    `probability` returns the log probability of the runs in another box's unit cube, and what was found, from which its
    next search may start. It is asked for the box as it is, for logarithms of all inputs, and for the better of these
    with the scale of one input changed; the changes that help are then made together, if that helps most.
    """
    inputs = box.from_unit(x)
    low, high = np.array(box.lower), np.array(box.upper)
    eligible = [
        j
        for j in range(box.d)
        if low[j] > 0.0 and high[j] >= RATIO * low[j] and box.scale[j] in OTHER and (inputs[:, j] > 0.0).all()
    ]
    if not eligible:
        return box, x
    found: dict[Scales, tuple[float, S]] = {}

    def value(scale: Scales, start: S | None = None) -> float:
        if scale not in found:
            found[scale] = probability(replace(box, scale=scale).to_unit(inputs), start)
        return found[scale][0]

    def changed(scale: Scales, some: Container[int]) -> Scales:
        return tuple(OTHER[one] if j in some else one for j, one in enumerate(scale))

    logs: Scales = tuple("log" if j in eligible else one for j, one in enumerate(box.scale))
    base = max((box.scale, logs), key=value)
    start = found[base][1]
    helps = [j for j in eligible if value(changed(base, [j]), start) > value(base)]
    value(changed(base, helps), start)
    best = max(found, key=lambda scale: found[scale][0])
    if value(best) <= value(box.scale) + CLEAR:
        return box, x
    chosen = replace(box, scale=best)
    return chosen, chosen.to_unit(inputs)


def noted_scales(given: Box, box: Box) -> dict[str, str]:
    """Return the attribute of a surrogate that says which inputs enter on another scale than that of the design box."""
    other = {name: a for name, a, b in zip(box.names, box.scale, given.scale, strict=True) if a != b}
    return {"scales": json.dumps(other)} if other else {}


def described_scales(attrs: Mapping[str, str]) -> list[str]:
    """Return what `noted_scales` says, in words."""
    other = json.loads(attrs.get("scales", "{}"))
    words = {"log": "logarithm", "identity": "value"}
    by_scale = {text: [name for name, scale in other.items() if scale == key] for key, text in words.items()}
    return [f"{', '.join(names)} by {text}" for text, names in by_scale.items() if names]
