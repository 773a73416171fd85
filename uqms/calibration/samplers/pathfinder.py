"""A first look along the way to the modes: the normal approximations that optimisation paths pass, by Pathfinder.

==========  =============================================================================  =========
symbol      meaning                                                                        shape
==========  =============================================================================  =========
z           points, on the scale where the prior is standard normal                        (S, D)
x           the same in units of the particles' spread: z = centre + root x                (S, D)
H           inverse curvature at a point of a path, from its last moves (L-BFGS), in x     (S, D, D)
alpha       its diagonal part                                                              (S, D)
==========  =============================================================================  =========

At every point of a path stands the normal law with mean x + H slope and covariance H; its evidence lower bound, from a
few draws, tells which of them is nearest to the posterior. All paths go at once, and gradients are batched central
differences, so that nothing is compiled and any problem will do.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
import xarray as xr

from uqms import _checks as check
from uqms._teaching import taught
from uqms._typing import Array
from uqms.calibration.climbs import Climb, bfgs
from uqms.calibration.exploration import explored
from uqms.calibration.mixture import Mixture
from uqms.calibration.samplers.laplace import NEGLIGIBLE, resampled
from uqms.calibration.tempering import Tempered
from uqms.calibration.whitened import Whitened
from uqms.errors import SamplingError

if TYPE_CHECKING:
    from uqms.calibration.base import Problem

__all__ = ["Pathfinder"]

PARTICLES = 256
ITERATIONS = 80
HISTORY = 20  # moves that the curvature is made of
ELBO_DRAWS = 10
AWAY = 3.0  # particles' spreads from which paths begin: they must pass where the mass is, not begin there
TRIES = 20


@taught
@final
@dataclass(frozen=True)
class Pathfinder:
    """Variational approximation along optimisation paths: a first look that takes seconds, never the final answer.

    Several paths climb from points around the mass of the posterior to its modes. Of the normal laws on a path, that
    with the largest evidence lower bound is kept; t laws (10 degrees of freedom) with its mean and covariance are mixed
    over the paths, and their draws resampled by Pareto-smoothed importance weights. `Laplace` takes the curvature
    at the modes; this takes the places on the way with the best fit, several on a bent ridge. The verdict says that
    this is an approximation, and fails it when the weights cannot be trusted (k-hat above 0.7), as is usual beyond some
    30 parameters and latents. Then use NUTS or SMC.

    Weights are relative to the mixture of all paths, so that a mode has the weight of its mass, however many paths
    found it. Unlike in the paper paths begin around tempered particles; the verdict tells when these have mass where no
    draw is.

    Parameters
    ----------
    draws
        Kept draws; four times as many are weighted.
    paths
        Number of paths.

    Raises
    ------
    InputError
        When a number is out of range.

    References
    ----------
    Zhang, Carpenter, Gelman & Vehtari (2022), JMLR 23(306); Vehtari et al. (2024), JMLR 25:72.

    Examples
    --------
    >>> Pathfinder(paths=4).draws
    1000
    """

    draws: int = 1000
    paths: int = 8

    def __post_init__(self) -> None:
        check.whole("Pathfinder", "draws", self.draws, least=10)
        check.whole("Pathfinder", "paths", self.paths)

    def shortened(self) -> "Pathfinder":
        """Return the sampler with about a third of the work, for a refit that only compares two posteriors."""
        return self  # a few optimisations, whatever is drawn from them

    def run(self, problem: "Problem", seed: int) -> Any:
        """Return draws (one chain), the k-hat of their weights, and the log evidence.

        Raises
        ------
        InitError
            When the likelihood admits no draw of the prior.
        SamplingError
            When no path leads anywhere, or no proposal has a finite density.
        """
        rng = np.random.default_rng(seed)
        space = Whitened(problem)
        pilot = explored(space, PARTICLES, rng, correlation=0.2, most_moves=10)
        found = _best_of_paths(space, pilot, self.paths, rng)
        kept = found.bound > found.bound.max() - NEGLIGIBLE
        if not np.isfinite(found.bound.max()):
            raise SamplingError(
                "Pathfinder: no normal distribution on any path has a finite evidence lower bound, as where the "
                "likelihood ends abruptly. Use SMC()."
            )
        weight = np.full(int(kept.sum()), 1.0 / kept.sum())
        law = Mixture(weight, found.centre[kept], found.root[kept])
        trace = resampled("Pathfinder", space, law, self.draws, rng, {"paths": float(kept.sum())})
        points = {**space.theta(pilot.z), "latents": pilot.z[:, len(space.names) :]}
        trace["starts"] = xr.Dataset(
            {name: (("start", "latent")[: values.ndim], values) for name, values in points.items()}
        )
        return trace


class _Best(NamedTuple):
    """Of every path the normal law with the largest evidence lower bound: (S, D), (S, D, D), (S,)."""

    centre: Array
    root: Array
    bound: Array


def _best_of_paths(space: Whitened, pilot: Tempered, count: int, rng: np.random.Generator) -> _Best:
    climb, z = _starts(space, pilot, count, rng)
    d = z.shape[1]
    value = climb.evaluate(z[:, None])[:, 0]
    slope = climb.slope(z, value)
    alpha = np.ones((count, d))
    moves: list[tuple[Array, Array]] = []
    best = _Best(np.zeros((count, d)), np.tile(np.eye(d), (count, 1, 1)), np.full(count, -np.inf))
    inverse = _inverse(alpha, moves)
    for _ in range(ITERATIONS):
        best = _better(best, _law(space, climb, z, slope, inverse, rng))
        step = climb.step(z, value, np.einsum("sij,sj->si", inverse, slope))
        if np.all(step.gain < 1e-7):
            break
        now = climb.slope(step.z, step.value)
        fall = slope - now
        alpha = _diagonal(alpha, step.moved, fall)
        stuck = step.gain == 0.0  # no way up in this direction: begin anew along the gradient
        alpha[stuck] = 1.0
        moves = [(np.where(stuck[:, None], 0.0, s), y) for s, y in [*moves, (step.moved, fall)][-HISTORY:]]
        z, value, slope, inverse = step.z, step.value, now, _inverse(alpha, moves)
    return best


def _starts(space: Whitened, pilot: Tempered, count: int, rng: np.random.Generator) -> tuple[Climb, Array]:
    """Return the climb in units of the particles' spread, and where its paths begin (S, D), some way off."""
    rows = np.arange(count) % len(pilot.z)
    part = pilot.mixture.component(pilot.z[rows], rng)
    climb = Climb(space.log_density, pilot.mixture.root[part])
    z, away = pilot.z[rows], np.full(count, AWAY)
    best, left = z.copy(), np.ones(count, dtype=bool)
    for _ in range(TRIES):
        tried = z + away[:, None] * np.einsum("sij,sj->si", climb.root, rng.standard_normal(z.shape))
        usable = left & np.isfinite(climb.evaluate(tried[:, None])[:, 0])
        best[usable] = tried[usable]
        left &= ~usable
        away *= 0.8
    return climb, best


def _inverse(alpha: Array, moves: list[tuple[Array, Array]]) -> Array:
    """Return H (S, D, D): the diagonal part, updated by the last moves and falls of the gradient."""
    out = alpha[:, :, None] * np.eye(alpha.shape[1])
    for s, y in moves:
        out = bfgs(out, s, y)
    return out


def _diagonal(alpha: Array, s: Array, y: Array) -> Array:
    """Return the diagonal part after a move s at which the gradient fell by y: Gilbert & Lemaréchal (1989)."""
    b = np.sum(y * s, axis=1)
    usable = b > 1e-12 * np.sum(y**2, axis=1)
    b = np.where(usable, b, 1.0)[:, None]
    a, c = np.sum(alpha * y**2, axis=1)[:, None], np.sum(s**2 / alpha, axis=1)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        new = 1.0 / (a / (b * alpha) + y**2 / b - a * s**2 / (b * c * alpha**2))
    usable &= np.all(np.isfinite(new) & (new > 0.0), axis=1)
    return np.where(usable[:, None], new, alpha)


def _law(space: Whitened, climb: Climb, z: Array, slope: Array, inverse: Array, rng: np.random.Generator) -> _Best:
    """Return the normal law at a point of every path, and its evidence lower bound."""
    count, d = z.shape
    try:
        root = climb.root @ np.linalg.cholesky(inverse + 1e-12 * np.eye(d))
    except np.linalg.LinAlgError:  # rounding, in one of them: no law here
        return _Best(z, climb.root, np.full(count, -np.inf))
    centre = z + np.einsum("sij,sjk,sk->si", climb.root, inverse, slope)
    noise = rng.standard_normal((count, ELBO_DRAWS, d))
    drawn = centre[:, None] + np.einsum("sij,skj->ski", root, noise)
    log_density = space.log_density(drawn.reshape(-1, d)).reshape(count, ELBO_DRAWS)
    log_det = np.linalg.slogdet(root)[1]
    own = -0.5 * np.sum(noise**2, axis=2) - 0.5 * d * np.log(2.0 * np.pi) - log_det[:, None]
    bound = np.mean(log_density - own, axis=1)
    return _Best(centre, root, np.where(np.isfinite(bound), bound, -np.inf))


def _better(one: _Best, other: _Best) -> _Best:
    pick = other.bound > one.bound
    return _Best(
        np.where(pick[:, None], other.centre, one.centre),
        np.where(pick[:, None, None], other.root, one.root),
        np.where(pick, other.bound, one.bound),
    )
