"""Draws of a surrogate's function after calibration: its error is the one given the data.

==========  ==================================================================  ==============
symbol      meaning                                                             shape
==========  ==================================================================  ==============
s           function draws, each with a posterior draw of the parameters        S
o           the observed inputs of a posterior draw                             (E, d)
f           scores of the function at points u and at all o together            (K, q)
==========  ==================================================================  ==============

p(f | data) is a mixture over posterior draws theta of p(f | data, theta), and given theta the data speak of f at the
observed inputs of that theta only. So each draw takes the scores there from their law given the data, and is a draw of
the surrogate's function everywhere else that passes through them.
"""

import numpy as np

from uqms._typing import Array, Ints
from uqms.calibration import Posterior, SingleCalibration
from uqms.calibration.direct import is_exact
from uqms.calibration.posterior import thinned
from uqms.calibration.predict import Targets, conditional_moments
from uqms.errors import InputError
from uqms.surrogates import Surrogate

__all__ = ["functions_given_data", "room_for"]

ROOM = 2**26  # numbers of joint covariances
LEAST, MOST = 128, 768  # points
SMALLEST = 1e-10  # of the largest eigenvalue


def room_for(posterior: Posterior, draws: int) -> int:
    """Return at how many points functions may be drawn jointly.

    Raises
    ------
    InputError
        When there are too many observed conditions.
    """
    most, observed = _most(posterior), len(_observed(posterior.single))
    if observed > 2 * most:
        raise InputError(
            f"shapley_effects: the data are of {observed} conditions, and functions can be drawn given the data of "
            f"{2 * most}. Give the draws, posterior.draws, instead of the posterior: then functions are those that "
            "runs allow, which makes intervals wider."
        )
    return max(LEAST, most - min(draws * observed, most // 2))


def _most(posterior: Posterior) -> int:
    """Return at how many points, observed ones included, a joint covariance fits into memory."""
    surrogate = posterior.single.surrogate
    one = surrogate.scores(np.full((1, surrogate.domain.d), 0.5))
    draws, q = int(one.mean.shape[0]), int(one.mean.shape[-1])
    if one.correlated:
        return min(MOST, int(np.sqrt(ROOM / draws))) // q
    return min(MOST, int(np.sqrt(ROOM / (draws * q))))


def _observed(problem: SingleCalibration) -> Ints:
    """Return an experiment of each different observed input."""
    if problem.uncertain:
        return np.arange(problem.cells.experiments, dtype=np.int64)
    _, first = np.unique(problem.cells.conditions, axis=0, return_index=True)
    return np.sort(first).astype(np.int64)


def functions_given_data(posterior: Posterior, u: Array, draws: int, rng: np.random.Generator) -> Array:
    """Return the scores (S, M, q) of function draws given the data, at points u (M, d), jointly."""
    problem = posterior.single
    theta, h, latents = thinned(posterior, draws)
    if is_exact(problem.surrogate):
        return np.repeat(problem.surrogate.scores(u).mean[:1], len(h), axis=0)
    experiments = _observed(problem)
    observed = problem.unit_inputs(theta)[:, experiments]  # (S, E, d)
    wanted = _scores_given_data(posterior, theta, h, latents, experiments, rng)
    # Different functions need no joint law: as many at a time as fit.
    size = max(1, (_most(posterior) - len(u)) // len(experiments))
    parts = [slice(start, start + size) for start in range(0, len(h), size)]
    return np.concatenate(
        [_through(problem.surrogate, u, observed[some], wanted[some], h[some], rng) for some in parts]
    )


def _through(
    surrogate: Surrogate, u: Array, observed: Array, wanted: Array, h: Ints, rng: np.random.Generator
) -> Array:
    """Return the scores (S, M, q) at u of functions that have the scores `wanted` (S, E, q) at inputs (S, E, d)."""
    (count, e, q), m = wanted.shape, len(u)
    found = surrogate.scores(np.vstack([u, observed.reshape(count * e, -1)]))
    out = np.empty((count, m, q))
    # Scores whose errors are correlated are drawn together, as one of q times as many inputs.
    covariance, g = (found.joint[:, None], q) if found.correlated else (found.covariance, 1)
    for one in np.unique(h):
        rows = np.flatnonzero(h == one)
        at = m + rows[:, None] * e + np.arange(e)  # (rows, E)
        at = (at[..., None] * g + np.arange(g)).reshape(len(rows), e * g)
        for j in range(covariance.shape[1]):
            some, joint = slice(j * g, (j + 1) * g), covariance[one, j]
            mean = found.mean[one, :, some].ravel()
            root = _root(joint)
            f = mean + rng.standard_normal((len(rows), root.shape[1])) @ root.T
            inner = np.linalg.pinv(joint[at[:, :, None], at[:, None, :]], rcond=SMALLEST, hermitian=True)
            off = wanted[rows, :, some].reshape(len(rows), e * g) - np.take_along_axis(f, at, axis=1)
            gain = np.einsum("sef,sf->se", inner, off)
            drawn = f[:, : m * g] + np.einsum("mse,se->sm", joint[: m * g, at], gain)
            out[rows, :, some] = drawn.reshape(len(rows), m, g)
    return out


def _scores_given_data(
    posterior: Posterior,
    theta: dict[str, Array],
    h: Ints,
    latents: Array,
    experiments: Ints,
    rng: np.random.Generator,
) -> Array:
    """Return a draw (S, E, q) of the scores at the observed inputs, given the data and the parameters."""
    problem = posterior.single
    cells, e = problem.cells, len(experiments)
    q, t = cells.basis.shape[1], cells.truncation.shape[1]
    nowhere = {name: np.full(e * q, np.nan) for name in cells.coords}
    targets = Targets(
        conditions=cells.conditions[experiments],
        experiment=np.repeat(np.arange(e), q),
        output=np.full(e * q, "", dtype=cells.output.dtype),  # of no output: no discrepancy, no scale
        coords=nowhere,
        offset=np.zeros(e * q),
        basis=np.tile(np.eye(q), (e, 1)),
        truncation=np.zeros((e * q, t)),
        observed=experiments,
    )
    out = np.empty((len(h), e * q))
    for rows, moments in conditional_moments(problem, theta, h, targets, latents, False, "none"):
        out[rows] = moments.draw(rng)
    return out.reshape(len(h), e, q)


def _root(covariance: Array) -> Array:
    values, vectors = np.linalg.eigh(covariance)
    real = values > SMALLEST * max(values[-1], 1e-300)
    return np.asarray(vectors[:, real] * np.sqrt(values[real]))
