"""Whether runs scatter around a smooth function: roughness of a simulator that was taken as exact.

A solver's tolerance, an adaptive mesh or a random seed makes outputs of neighbouring inputs differ by an amount that no
smooth process explains. An exact process follows it with length scales that are too short, and more runs do not help.
The evidence of runs with a nugget is compared with that of exact ones, hyperparameters at their modes in both.
"""

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from uqms._typing import Array, Ints
from uqms.surrogates.gp import GaussianProcessSurrogate, shares
from uqms.surrogates.jax_kernel import JaxKernel
from uqms.surrogates.kernels import scale_count
from uqms.surrogates.process import ScoreProcess, condition
from uqms.surrogates.training import NUGGET_BOUNDS, SUBSET, subset, train, trend_basis

__all__ = ["Roughness", "roughness"]

SCORES = 3  # at most
FIRST = (1e-4, 1e-2)  # nuggets that the search starts from
LONGER = 2.0  # times the length scales, of the second start


@final
@dataclass(frozen=True)
class Roughness:
    """How the runs of a score scatter.

    Attributes
    ----------
    gain
        By how many nats the runs are more likely with a nugget.
    scatter
        Standard deviation of the scatter over that of the score between runs.
    score, sd
        The number of the score, and the scatter's standard deviation in its unit.
    """

    gain: float
    scatter: float
    score: int
    sd: float


def roughness(surrogate: GaussianProcessSurrogate, scores: Ints) -> list[Roughness]:
    """Return how the runs of scores scatter; none where the surrogate has noise already, or cannot be trained again.

    Parameters
    ----------
    surrogate
        Trained with ``noise="none"``.
    scores
        Candidates. Of more than three, those with the largest fraction of an output's variance are judged.
    """
    process = surrogate.process
    learned = surrogate.attrs.get("noise", "none") != "none" or process.noise.any() or process.nugget.any()
    if learned or surrogate.physics is not None or isinstance(process.kernel, JaxKernel):
        return []
    largest = scores[np.argsort(-shares(surrogate.bases)[scores], kind="stable")][:SCORES]
    return [one for one in (_of_score(process, int(j)) for j in largest) if one is not None]


def _of_score(process: ScoreProcess, j: int) -> Roughness | None:
    known = np.flatnonzero(process.known(j))
    if len(known) > SUBSET:
        known = known[subset(len(known))]
    x, y = process.x[known], process.y[known, j]
    trend = trend_basis(x, process.beta.shape[2])
    size = float(y.std())
    if size == 0.0 or len(known) <= trend.shape[1] + 2:
        return None
    y = (y - y.mean()) / size
    kernel, ell = process.kernel.of(process.ell[int(np.argmax(process.log_weights)), j], x.shape[1])
    at: Array = np.log(ell)
    exact = train(x, y, kernel, trend, False, at[None])
    longer = at + math.log(LONGER) * (np.arange(len(at)) < scale_count(kernel, x.shape[1]))
    starts = np.stack([np.append(at, math.log(FIRST[0])), np.append(longer, math.log(FIRST[1]))])
    rough = train(x, y, kernel, trend, True, starts)
    if rough.nugget <= 10.0 * NUGGET_BOUNDS[0]:
        return Roughness(0.0, 0.0, j, 0.0)
    # Left-over scatter in units of the score: nugget times the variance, which the fit has in closed form.
    fitted = condition(kernel, x, y[:, None], trend.shape[1], [rough])
    scatter = math.sqrt(rough.nugget * float(fitted.variance[0, 0]))
    return Roughness(rough.objective - exact.objective, scatter, j, scatter * size)
