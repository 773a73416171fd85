"""Where chains start: draws of a short tempered sequential Monte Carlo, so that they begin where the mass is.

With little noise the posterior is thousands of times narrower than the prior, and a gradient sampler that starts in the
middle of the prior may stay in a corner of the box where the surrogate knows little. The likelihood of hundreds of
points at once is cheap, so the prior's draws are brought to the posterior by raising the likelihood to powers from 0 to
1 (`tempering`), and climbs find the modes that they miss (`exploration`). Two modes get starts in proportion to their
mass; the sampler's own draws are the result, this only places them.
"""

import numpy as np

from uqms._typing import Array
from uqms.calibration.base import Problem
from uqms.calibration.exploration import explored
from uqms.calibration.whitened import Whitened

__all__ = ["starting_points"]

PARTICLES, CORRELATION, MOVES = 256, 0.3, 10


def starting_points(problem: Problem, count: int, rng: np.random.Generator) -> dict[str, Array]:
    """Return `count` approximate draws from the posterior, by name, each of shape (count,).

    The latents, where there are any, are "latents" (count, latents).

    Raises
    ------
    InitError
        When the likelihood admits no draw of the prior.
    """
    space = Whitened(problem)
    found = explored(space, PARTICLES, rng, correlation=CORRELATION, most_moves=MOVES)
    picked = rng.choice(PARTICLES, size=count, replace=count > PARTICLES)
    return {**space.theta(found.z[picked]), "latents": found.z[picked, len(space.names) :]}
