"""Whether runs scatter around a smooth function: roughness of a simulator that was taken as exact.

A solver's tolerance, an adaptive mesh or a random seed makes outputs of neighbouring inputs differ by an amount that no
smooth process explains. An exact process follows it with length scales that are too short, and more runs do not help.
The evidence of runs with a nugget is compared with that of exact ones, hyperparameters at their modes in both.

==========  ==================================================================  =========
symbol      meaning                                                             shape
==========  ==================================================================  =========
D           expected variance of the scatter of a score, its nugget             (q,)
C           correlation of the scatter between scores, that of the residuals    (q, q)
S           scatter of an output's scores: S S' = D^1/2 C D^1/2                 (q, s)
==========  ==================================================================  =========

Stated as an error, the scatter is B S omega, omega ~ N(0, I) new with each input, beside the truncation.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from uqms._threads import one_thread
from uqms._typing import Array, Ints
from uqms.surrogates.climbing import FINE, climb
from uqms.surrogates.jax_kernel import JaxKernel
from uqms.surrogates.kernels import scale_count
from uqms.surrogates.left_out import left_out_scores
from uqms.surrogates.outputs import OutputBasis, score_columns
from uqms.surrogates.process import ScoreProcess, condition
from uqms.surrogates.run_noise import NOISELESS, correlation_of_residuals, root_of_correlation
from uqms.surrogates.training import (
    NUGGET_BOUNDS,
    SUBSET,
    hyperparameters_at,
    log_posterior,
    subset,
    trend_basis,
    with_nuggets,
)

__all__ = [
    "ROUGH",
    "Roughness",
    "left_out_logs",
    "noted_scatter",
    "rough_outputs",
    "roughness",
    "with_scatter",
]

ROUGH = 3.0  # nats: a smaller gain may be by chance
LOOK = ((1.0, 2.0, 4.0), (1e-6, 1e-4, 1e-2))  # times the length scales, and nuggets, that are looked at first
SCATTER = 0.01  # of the variance stated of left-out runs of an output: a smaller scatter is of no matter
POINTS = 64  # of a curve, at which left-out runs are compared
BEHIND = 12.0  # nats: a score whose best look is so far behind an exact process is smooth


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


def roughness(process: ScoreProcess, scores: Ints) -> list[Roughness]:
    """Return how the runs of scores scatter; none where the process has noise already, or cannot be trained again.

    The process has been trained without noise and without a cheap model.
    """
    if process.noise.any() or process.nugget.any() or isinstance(process.kernel, JaxKernel):
        return []
    return [one for one in (_of_score(process, int(j)) for j in scores) if one is not None]


def rough_outputs(process: ScoreProcess, bases: Sequence[OutputBasis]) -> dict[str, Roughness]:
    """Return how the runs of outputs scatter around a smooth function, the clearest score of each that does.

    A scatter counts where it is a part of the variance that is stated of left-out runs of an output: what rounding
    does to trailing scores is none. Runs of which parts are missing have errors of their own, and can only be exact.
    """
    found: dict[str, Roughness] = {}
    h = int(np.argmax(process.log_weights))
    variance = np.zeros(process.q)
    for j in range(process.q):
        known = process.known(j)
        variance[j] = np.mean(left_out_scores(process, h, j)[1][known]) if known.any() else 0.0
    for basis, columns in zip(bases, score_columns(bases), strict=True):
        size = np.sum(basis.basis**2, axis=0)
        stated = variance[columns] * size
        matter = stated > SCATTER * float(stated.sum())
        rough = [one for one in roughness(process, columns[matter]) if one.gain > ROUGH]
        share = sum(one.sd**2 * float(size[columns == one.score][0]) for one in rough)
        if share > SCATTER * float(stated.sum()):
            found[basis.name] = max(rough, key=lambda one: one.gain)
    return found


def left_out_logs(process: ScoreProcess, bases: Sequence[OutputBasis], output: int) -> Array:
    """Return the log scores of left-out runs that have an output, on the scale of its transform, means over points."""
    basis, columns = bases[output], score_columns(bases)[output]
    known = np.flatnonzero(np.all([process.known(int(j)) for j in columns], axis=0))
    points = np.unique(np.linspace(0, len(basis.offset) - 1, POINTS).round().astype(np.int64))
    rows, left = basis.basis[points], basis.truncation[points]
    omegas = basis.left_out[known] if len(basis.left_out) else np.zeros((len(known), left.shape[1]))
    logs = np.empty((process.draws, len(known), len(points)))
    for h in range(process.draws):
        error, variance = np.array([left_out_scores(process, h, int(j))[:2] for j in columns]).transpose(1, 2, 0)
        off = error[known] @ rows.T + omegas @ left.T
        stated = variance[known] @ (rows**2).T + np.sum(left**2, axis=1)
        logs[h] = -0.5 * (off**2 / stated + np.log(2.0 * np.pi * stated))
    weighted = logs + (process.log_weights - np.logaddexp.reduce(process.log_weights))[:, None, None]
    return np.asarray(np.logaddexp.reduce(weighted, axis=0).mean(axis=1))


def with_scatter(process: ScoreProcess, bases: Sequence[OutputBasis]) -> tuple[OutputBasis, ...]:
    """Return the bases with the fitted noise of their scores as a scatter."""
    weights = np.exp(process.log_weights - np.logaddexp.reduce(process.log_weights))
    sd = np.sqrt(weights @ (process.variance * process.nugget))
    noisy = process.nugget.max(axis=0) > NOISELESS
    correlation = correlation_of_residuals(process)
    out = []
    for basis, columns in zip(bases, score_columns(bases), strict=True):
        own = columns[noisy[columns]]
        within = np.eye(len(own)) if correlation is None else correlation[np.ix_(own, own)]
        root = np.zeros((len(columns), len(own)))
        root[noisy[columns]] = sd[own, None] * root_of_correlation(within)
        out.append(replace(basis, scatter=root) if len(own) else basis)
    return tuple(out)


def noted_scatter(bases: Sequence[OutputBasis], rough: Mapping[str, Roughness]) -> dict[str, str]:
    """Return the attribute of a surrogate that says of which outputs a scatter is stated, and how large it is."""
    words = []
    for basis in bases:
        if basis.name in rough and basis.scatter is not None:
            share = np.sqrt(np.sum(basis.scattered(basis.basis) ** 2) / np.sum(basis.basis**2))
            words.append(f"{basis.name} ({share:.2g} of its sd, {rough[basis.name].gain:.1f} nats)")
    return {"scatter": f"scatter of runs stated as an error of {' and '.join(words)}"}


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
    lengths = np.arange(len(at)) < scale_count(kernel, x.shape[1])

    def look(longer: float, nugget: float) -> float:
        return log_posterior(np.append(at + math.log(longer) * lengths, math.log(nugget)), x, y, trend, kernel, True)

    smooth = log_posterior(at, x, y, trend, kernel, False)
    if max(look(longer, nugget) for longer in LOOK[0] for nugget in LOOK[1]) < smooth - BEHIND:
        return Roughness(0.0, 0.0, j, 0.0)
    starts = with_nuggets(kernel, x.shape[1], at)
    with one_thread():
        found = min((climb(x, y, trend, kernel, True, one, FINE) for one in starts), key=lambda one: one.value)
    rough = hyperparameters_at(found.point, -found.value, x, kernel, True)
    if rough.nugget <= 10.0 * NUGGET_BOUNDS[0]:
        return Roughness(0.0, 0.0, j, 0.0)
    with one_thread():
        exact = climb(x, y, trend, kernel, False, at, FINE)
    # Left-over scatter in units of the score: nugget times the variance, which the fit has in closed form.
    fitted = condition(kernel, x, y[:, None], trend.shape[1], [rough])
    scatter = math.sqrt(rough.nugget * float(fitted.variance[0, 0]))
    return Roughness(exact.value - found.value, scatter, j, scatter * size)
