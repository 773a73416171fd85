"""Whether runs that somebody has fill the design box of a parameter space, so that it can be their box.

==========  ==================================================================  =========
symbol      meaning                                                             shape
==========  ==================================================================  =========
u           inputs as the prior's distribution function sees them               (n, p)
low, high   gaps between the outermost runs and the two faces of each input     (p,)
==========  ==================================================================  =========

Runs that were drawn from the prior are uniform in u, and so are designs over it. Then P(low > g) = (1 - g)^n,
P(low + high > s) = (1 - s)^(n-1) (1 + (n-1) s), and the sum of -n log(1 - gap) over all 2p faces is Gamma(2p) (the two
gaps of an input are negatively dependent, which makes the tail smaller). Space-filling designs have smaller gaps than
random points.
"""

import json

import numpy as np
from scipy.special import gammaincc

from uqms._typing import Array
from uqms.errors import InputError
from uqms.parameters import Box, ParameterSpace

__all__ = ["FEWEST", "LEVEL", "box_when_filled", "fills"]

LEVEL = 0.01  # probability that uniform draws are taken for runs that do not fill the box
FEWEST = 20  # runs; fewer may pass with half of an input left out


def fills(u: Array) -> bool:
    """Return whether points (n, p) in the unit cube leave no more free at its faces than uniform draws do.

    Three tests share `LEVEL`: of each face, of both faces of each input together, and of all faces together.
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
    """Return the attributes "box" and "box_note" of a table of runs that fill the space's box; none where they do not.

    The box reaches as far as the runs do. A condition whose runs leave a part of its range free keeps the range of its
    runs, since nothing says over which range they were meant.
    """
    if set(columns) != set(space.inputs):
        return {}
    x = np.stack([columns[name] for name in space.inputs], axis=1)
    points = np.unique(x, axis=0)
    u, p = np.asarray(space.to_cube(points)), len(space.names)
    fixed = bool((np.ptp(points, axis=0) == 0.0).any())  # such an input is left out of a surrogate
    if fixed or not np.isfinite(u).all() or not fills(u[:, :p]):
        return {}
    try:
        box = space.box()
    except InputError:  # a prior so near to zero that it has no box
        return {}
    lower, upper, hard = list(box.lower), list(box.upper), [list(pair) for pair in box.hard]
    for j, (low, high) in enumerate(zip(points.min(axis=0).tolist(), points.max(axis=0).tolist(), strict=True)):
        free = j >= p and not fills(u[:, [j]])
        lower[j], upper[j] = (low, high) if free else (min(low, lower[j]), max(high, upper[j]))
        hard[j] = [hard[j][0] and lower[j] == box.lower[j], hard[j][1] and upper[j] == box.upper[j]]
    own = Box(box.names, tuple(lower), tuple(upper), box.scale, tuple((a, b) for a, b in hard))
    note = (
        f"the design box is that of the space, since the {len(points)} runs fill it: gaps between the outermost runs "
        f"and its faces are no larger than those of random draws from the prior (test at level {LEVEL:g})"
    )
    return {"box": json.dumps(own.to_dict()), "box_note": note}
