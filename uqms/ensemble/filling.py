"""Test whether existing runs fill the design box of a parameter space, so that this box can be used for them.

==========  ==================================================================  =========
symbol      meaning                                                             shape
==========  ==================================================================  =========
u           inputs, transformed by the prior's distribution function            (n, p)
low, high   gaps between the outermost runs and the two faces of each input     (p,)
==========  ==================================================================  =========

Runs that were drawn from the prior are uniform in u, and so are the points of designs over the prior. Then
P(low > g) = (1 - g)^n and P(low + high > s) = (1 - s)^(n-1) (1 + (n-1) s). The sum of -n log(1 - gap) over all 2p faces
is approximately Gamma(2p): the two gaps of an input are negatively dependent, which makes the tail of the sum smaller.
Space-filling designs have smaller gaps than random points.
"""

import json

import numpy as np
from scipy.special import gammaincc

from uqms._typing import Array
from uqms.errors import InputError
from uqms.parameters import Box, ParameterSpace

__all__ = ["FEWEST", "LEVEL", "box_when_filled", "fills"]

LEVEL = 0.01  # probability that the test rejects uniform draws, which do fill the box
FEWEST = 20  # runs that the test needs: fewer may pass although they leave out half of the range of an input


def fills(u: Array) -> bool:
    """Return whether the gaps between points (n, p) and the faces of the unit cube are as small as for uniform draws.

    `LEVEL` is divided among three tests: of each face, of both faces of each input together, and of all faces together.
    """
    n, p = u.shape
    if n < FEWEST:
        return False
    low, high = np.clip(u.min(axis=0), 0.0, 1.0), np.clip(1.0 - u.max(axis=0), 0.0, 1.0)
    both = low + high
    with np.errstate(divide="ignore"):
        faces = -n * np.log1p(-np.concatenate([low, high]))
    inputs = (1.0 - both) ** (n - 1) * (1.0 + (n - 1) * both)
    each = LEVEL / 2.0 / (3.0 * p)
    return bool(np.exp(-faces).min() >= each and inputs.min() >= each and gammaincc(2 * p, faces.sum()) >= LEVEL / 2.0)


def box_when_filled(space: ParameterSpace, columns: dict[str, Array]) -> dict[str, str]:
    """Return the attributes "box" and "box_note" of runs that fill the box of the space, or an empty dict.

    The box is enlarged so that it contains all runs. If the runs leave out a part of the range of a condition, the box
    has the range of the runs there: the range for which the runs were intended is unknown.
    """
    if set(columns) != set(space.inputs):
        return {}
    x = np.stack([columns[name] for name in space.inputs], axis=1)
    points = np.unique(x, axis=0)
    u, p = np.asarray(space.to_cube(points)), len(space.names)
    fixed = bool((np.ptp(points, axis=0) == 0.0).any())  # surrogates leave out an input that does not vary
    if fixed or not np.isfinite(u).all() or not fills(u[:, :p]):
        return {}
    try:
        box = space.box()
    except InputError:  # a prior with a long tail, or with values so close to zero that no box can be computed
        return {}
    lower, upper, hard = list(box.lower), list(box.upper), [list(pair) for pair in box.hard]
    for j, (low, high) in enumerate(zip(points.min(axis=0).tolist(), points.max(axis=0).tolist(), strict=True)):
        free = j >= p and not fills(u[:, [j]])
        lower[j], upper[j] = (low, high) if free else (min(low, lower[j]), max(high, upper[j]))
        hard[j] = [hard[j][0] and lower[j] == box.lower[j], hard[j][1] and upper[j] == box.upper[j]]
    own = Box(box.names, tuple(lower), tuple(upper), box.scale, tuple((a, b) for a, b in hard))
    note = (
        f"the design box is the box of the space, since the {len(points)} runs fill it: gaps between the outermost "
        f"runs and its faces are no larger than those of random draws from the prior (test at level {LEVEL:g})"
    )
    return {"box": json.dumps(own.to_dict()), "box_note": note}
