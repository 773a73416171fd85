"""Joint draws of a surrogate's function at the points of a design, and the mean as their control variate."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.stats import qmc

from uqms._typing import Array
from uqms.calibration.direct import is_exact
from uqms.errors import InputError
from uqms.sensitivity._inputs import IndependentInputs
from uqms.surrogates import GaussianProcessSurrogate, Surrogate
from uqms.surrogates.function_draws import Paths, mean_path, paths

__all__ = ["ANCHORS", "Functions", "default_points", "functions_of", "mean_of"]

ANCHORS = 512, 128, 1536  # at least, for each input, at most: more inputs have more directions in which errors vary
MEMBERS = 2  # hyperparameter draws whose mean is the control variate
EVALUATIONS = 2048  # of the joint draws of other surrogates, whose cost is the cube of it
BLOCK = 2**14  # points at which means are evaluated at once


class Functions(NamedTuple):
    """Draws and their control variate.

    Attributes
    ----------
    draws
        From points u (k, d) to scores (s, k, q).
    mean
        From points u (k, d) to scores (k, q), near to every draw.
    rest
        Covariance (s, c, c, q) between the columns of the pairs that draws leave out.
    at_once
        Whether errors are joint only at points that are evaluated in one call.
    """

    draws: Callable[[Array], Array]
    mean: Callable[[Array], Array]
    rest: Array
    at_once: bool


def default_points(surrogate: Surrogate, columns: int, replicates: int) -> int:
    """Return the number of points of a column."""
    if isinstance(surrogate, GaussianProcessSurrogate) or is_exact(surrogate):
        return 64 * replicates
    each = max(4, EVALUATIONS // (columns * replicates))
    return replicates * (1 << (each.bit_length() - 1))


def functions_of(
    surrogate: Surrogate, inputs: IndependentInputs, n: int, pairs: Array, rng: np.random.Generator
) -> Functions:
    """Return n draws; of a Gaussian process exact at the runs and at anchors where the inputs are."""
    if isinstance(surrogate, GaussianProcessSurrogate):
        p = len(inputs.names)
        least, each, most = ANCHORS
        count = min(max(least, each * p), most)
        anchors = inputs.to_box(qmc.Sobol(p, scramble=True, rng=rng).random_base2((count - 1).bit_length())[:count])
        found = paths(surrogate, anchors, n, rng, pairs)
        return Functions(found, _mean_of_process(surrogate), _rest(found), False)
    drawn = surrogate.functions(n, rng)

    def at(u: Array) -> Array:
        values = np.asarray(drawn(u))
        if not np.isfinite(values).all():
            raise InputError(
                f"The draws of the {type(surrogate).__name__} are not finite everywhere, so that they have no variance."
            )
        return values

    c = pairs.shape[1]
    q = at(pairs[:1, 0]).shape[-1]
    return Functions(at, mean_of(surrogate), np.zeros((n, c, c, q)), True)


def _rest(found: Paths) -> Array:
    """Return what paths leave out, by draw (s, c, c, q)."""
    return np.moveaxis(found.rest[found.members], 1, -1)


def _mean_of_process(surrogate: GaussianProcessSurrogate) -> Callable[[Array], Array]:
    """Return the mean of a few hyperparameter draws: any function near to the draws serves."""
    process = surrogate.process
    few = np.unique(np.linspace(0, process.draws - 1, min(MEMBERS, process.draws)).astype(int))
    parts = [mean_path(surrogate, int(h)) for h in few]
    return lambda u: np.asarray(sum(part(u)[0] for part in parts) / len(parts))


def mean_of(surrogate: Surrogate) -> Callable[[Array], Array]:
    """Return the mean of a surrogate over its hyperparameter draws: u (k, d) to scores (k, q)."""
    marginal = getattr(surrogate, "marginal_scores", None)

    def at(u: Array) -> Array:
        out = []
        for start in range(0, len(u), BLOCK):
            block = u[start : start + BLOCK]
            if marginal is not None:
                found = marginal(block)
                mean = found.mean
            else:
                found = surrogate.scores(block[:, None, :])
                mean = found.mean[..., 0, :]
            weights = np.exp(found.log_weights - np.logaddexp.reduce(found.log_weights))
            out.append(np.tensordot(weights, mean, 1))
        return np.concatenate(out)

    return at
