"""Where the posterior's mass is: tempered particles, and climbs that find the modes which particles miss.

A narrow mode holds next to nothing of the prior. While the likelihood is raised to small powers, a wide place with a
poor fit has nearly all of the mass, and a few hundred particles lose the narrow mode for good. The place from which a
climb leads to a mode is far wider than the mode. So climbs start from draws of the prior and from stages of the
tempering. Where the surrogate's error is large beside the noise its corners attract most climbs; with noise a hundred
times as large, then ten times, they do not. If a mode that climbs find has mass and the particles do not show it, or if
there are several modes, particles are tempered once more: from a mixture of t laws at all modes and of the law of the
particles, not from the prior.

==========  ====================================================================  =========
symbol      meaning                                                               shape
==========  ====================================================================  =========
z           points on the scale where the prior is standard normal                (n, D)
root        square root of the inverse curvature at a mode                        (D, D)
log mass    log of the mode's integral by Laplace's approximation                 ()
==========  ====================================================================  =========

Starts of climbs as in multi level single linkage: Rinnooy Kan & Timmer (1987), doi:10.1007/BF02592071.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self, final

import numpy as np
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

from uqms._typing import Array
from uqms.calibration import compiled
from uqms.calibration.climbs import Climb
from uqms.calibration.mixture import Mixture, fit_mixture
from uqms.calibration.tempering import Tempered, temper
from uqms.calibration.whitened import Whitened

if TYPE_CHECKING:
    from uqms.calibration.compiled import Target

__all__ = ["derivatives", "explored"]

FROM_PRIOR, GOING_ON = 24, 8  # climbs from draws of the prior with much wider noise; of those with less
STAGES, OF_STAGE = 4, 2  # climbs from particles: so many stages, and particles of each
WIDER = (100.0, 10.0)  # factors of the noise sds
HURRIED, ITERATIONS = 20, 60  # of climbs with wider noise, and of the last
NEAR = 1e-3  # of a width
MOST = 24  # dimensions; beyond, climbs cost more than the particles
SHORT = 1e-2  # prior sds, the unit of climbs by differences, where there is no compiled gradient
FAR = 12.0  # prior sds beyond which no climb goes
FLATTEST = 0.05  # least curvature, in units of the one that was guessed
NEGLIGIBLE = 7.0  # nats below the largest mass: 0.1 %
VALLEY = 2.0  # nats by which the density falls between two modes
BETWEEN = np.linspace(0.1, 0.9, 9)
REPRESENTED, AGREEMENT = 0.4, 2.0  # of the particles that have to be high; nats between the two estimates of a mass
POLISHED = 3  # Newton's steps
LENGTHS = 0.5 ** np.arange(6)
UNFINISHED = 20.0  # nats by which a climb may end below its mode
LEAST = 0.5  # of an equal share, in the mixture that particles begin from


class Peak(NamedTuple):
    """A mode: z (D,), log-density, root (D, D) and log mass."""

    z: Array
    value: float
    root: Array
    log_mass: float


def explored(
    space: Whitened, particles: int, rng: np.random.Generator, *, correlation: float, most_moves: int
) -> Tempered:
    """Return particles at the posterior, those of modes included that tempering from the prior alone would miss.

    Arguments and errors are those of `temper`.
    """
    found = temper(
        space.log_likelihood, space.dimension, particles, rng, correlation=correlation, most_moves=most_moves
    )
    if space.dimension > MOST:
        return found
    peaks = _peaks(space, found, *_climbed(space, *_starts(found)))
    if not peaks or (len(peaks) == 1 and _represented(peaks[0], found)):
        return found
    again = temper(
        space.log_likelihood,
        space.dimension,
        particles,
        rng,
        correlation=correlation,
        most_moves=most_moves,
        reference=_reference(peaks, found, rng),
    )
    return replace(again, stages=found.stages + again.stages, moves=found.moves + again.moves)


def _starts(found: Tempered) -> tuple[Array, Array]:
    """Return where climbs begin: draws of the prior (n, D), and particles (n, D).

    Half of the former fit better than any near them, the others lie apart. Of particles of a few stages those are taken
    that lie the furthest from all others, in units of their spread: a small mode that is apart from a large one is
    there.
    """
    z, value = found.first
    order = np.argsort(-value)
    apart = cdist(z[order], z[order])
    apart[np.triu_indices(len(z))] = np.inf
    best = order[np.argsort(-apart.min(axis=1), kind="stable")[: FROM_PRIOR // 2]]  # far from those that fit better
    of_prior = np.concatenate([z[best], _outermost(np.delete(z, best, axis=0), FROM_PRIOR - FROM_PRIOR // 2)])
    stages = np.linspace(0, len(found.passed) - 1, STAGES).astype(int)
    particles = [_outermost(found.passed[stage], OF_STAGE) for stage in stages]
    return of_prior, np.concatenate([*particles, found.z[[np.argmax(found.value)]]])


def _outermost(z: Array, count: int) -> Array:
    """Return the points that are the furthest from the centre of z (n, D), and then from each other."""
    x = z - z.mean(axis=0)
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    x = x @ vectors / np.sqrt(np.maximum(values, 1e-12 * values[-1]) + 1e-300)
    least, chosen = np.sum(x**2, axis=1), []
    for _ in range(count):
        chosen.append(int(np.argmax(least)))
        least = np.minimum(least, np.sum((x - x[chosen[-1]]) ** 2, axis=1))
    return z[chosen]


def _climbed(space: Whitened, of_prior: Array, particles: Array) -> tuple[Array, Array]:
    """Return where climbs end, and about how wide it is there (n, D); those that end nowhere are left out.

    Those from the prior climb with the noise made `WIDER` first.
    """
    z = of_prior
    for factor in WIDER:
        wider = space.problem.with_wider_noise(factor)
        if wider is not space.problem:
            z = _Way.of(Whitened(wider)).climb(z, HURRIED)[0]
        z = _apart(z[np.all(np.isfinite(z), axis=1)], GOING_ON)
    z, width = _Way.of(space).climb(np.concatenate([z, particles]), ITERATIONS)
    good = np.all(np.isfinite(z) & np.isfinite(width) & (width > 0.0) & (np.abs(z) < FAR), axis=1)
    return z[good], width[good]


def _apart(z: Array, count: int) -> Array:
    """Return some points of z (n, D), each the furthest from those before it."""
    if len(z) <= count:
        return z
    chosen = [0]
    least = np.sum((z - z[0]) ** 2, axis=1)
    for _ in range(count - 1):
        chosen.append(int(np.argmax(least)))
        least = np.minimum(least, np.sum((z - z[chosen[-1]]) ** 2, axis=1))
    return z[chosen]


@final
@dataclass(frozen=True)
class _Way:
    """Climbs of a log-density: the compiled one in unconstrained space, else all at once by differences in z."""

    space: Whitened
    target: "Target | None"

    @classmethod
    def of(cls, space: Whitened) -> Self:
        """Return climbs of a problem's log-density."""
        return cls(space, compiled.target(space.problem))

    def climb(self, z: Array, iterations: int) -> tuple[Array, Array]:
        """Return ends of climbs from z (n, D) and their widths (n, D), not finite where a climb ends nowhere."""
        if self.target is None:
            unit = SHORT * np.eye(z.shape[1])
            climbed = Climb(self.space.log_density, np.tile(unit, (len(z), 1, 1))).up(z, iterations)
            variances = SHORT**2 * np.diagonal(climbed.inverse, axis1=1, axis2=2)
            ended = np.where(np.isfinite(climbed.value)[:, None], climbed.z, np.nan)
            return ended, np.sqrt(np.maximum(variances, 0.0))
        begin = compiled.on_the_line(self.space.problem, self.space.theta(z))
        ends, widths = np.empty_like(begin), np.empty_like(begin)
        for i, point in enumerate(begin):
            found = minimize(self._falling, point, jac=True, method="L-BFGS-B", options={"maxiter": iterations})
            inverse: Any = found.hess_inv
            ends[i], widths[i] = found.x, np.sqrt(np.maximum(np.diag(inverse.todense()), 0.0))
        with np.errstate(all="ignore"):
            z = self._back(ends)
            return z, np.abs(self._back(ends + NEAR * widths) - z) / NEAR  # coordinate by coordinate

    def _back(self, points: Array) -> Array:
        return self.space.from_theta(compiled.off_the_line(self.space.problem, points))

    def _falling(self, x: Array) -> tuple[float, Array]:
        """Return minus the log-density and its slope; a large number where there is none."""
        assert self.target is not None
        value, slope = self.target.evaluate(x)
        if np.isfinite(value) and np.all(np.isfinite(slope)):
            return -value, -slope
        return 1e30, np.zeros(len(x))


def _peaks(space: Whitened, found: Tempered, z: Array, width: Array) -> list[Peak]:
    """Return the modes among the ends z of climbs, the highest first, without those of negligible mass."""
    value, d = space.log_density(z), space.dimension
    peaks: list[Peak] = []
    largest = found.log_evidence
    for i in np.argsort(-value):
        if not value[i] > largest - NEGLIGIBLE - d - UNFINISHED:
            break
        if any(_joined(space, one, z[i], value[i]) for one in peaks):
            continue
        peak = _polished(space, z[i], float(value[i]), np.diag(width[i]))
        if not any(_joined(space, one, peak.z, peak.value) for one in peaks):
            peaks.append(peak)
            largest = max(largest, peak.log_mass)
    return [one for one in peaks if one.log_mass > largest - NEGLIGIBLE]


def _polished(space: Whitened, z: Array, value: float, root: Array) -> Peak:
    """Return the mode next to z by Newton's steps, with differences in units of the root of the last."""
    for _ in range(POLISHED):
        slope, hessian = derivatives(space, z, root)
        values, vectors = np.linalg.eigh(-hessian)
        covariance = (vectors / np.maximum(values, FLATTEST)) @ vectors.T
        tried = z + LENGTHS[:, None] * (root @ covariance @ slope)
        heights = space.log_density(tried)
        root = np.linalg.cholesky(root @ covariance @ root.T)
        best = int(np.argmax(heights))
        if heights[best] > value:
            z, value = tried[best], float(heights[best])
    log_mass = value + float(np.sum(np.log(np.diag(root)))) + 0.5 * space.dimension * np.log(2.0 * np.pi)
    return Peak(z, value, root, log_mass)


def _joined(space: Whitened, peak: Peak, z: Array, value: float) -> bool:
    """Tell whether no valley lies between a mode and a point that is lower."""
    between = space.log_density(peak.z + BETWEEN[:, None] * (z - peak.z))
    return bool(np.all(between > value - VALLEY))


def derivatives(space: Whitened, z: Array, root: Array, step: float = 0.05) -> tuple[Array, Array]:
    """Return gradient (D,) and Hessian (D, D) of the log-density at z, in coordinates x with z + root x.

    By one batched call; where the density ends, slopes are 0 and curvatures -1.
    """
    d = len(z)
    i, j = np.triu_indices(d)
    unit = step * np.eye(d)
    moves = np.concatenate([unit[i] + unit[j], unit[i] - unit[j], unit[j] - unit[i], -unit[i] - unit[j]])
    values = space.log_density(z + moves @ root.T).reshape(4, -1)
    with np.errstate(invalid="ignore"):
        upper = (values[0] - values[1] - values[2] + values[3]) / (4.0 * step**2)
        slope = (values[0] - values[3])[i == j] / (4.0 * step)
    hessian = np.empty((d, d))
    hessian[i, j] = hessian[j, i] = np.where(np.isfinite(upper), upper, -(i == j).astype(float))
    return np.where(np.isfinite(slope), slope, 0.0), hessian


def _represented(peak: Peak, found: Tempered) -> bool:
    """Tell whether particles have the mode's mass, and are as high as those of a normal law with this peak are."""
    d = found.z.shape[1]
    height = found.value - 0.5 * np.sum(found.z**2, axis=1) - 0.5 * d * np.log(2.0 * np.pi)
    high = np.mean(height > peak.value - 0.5 * d - AGREEMENT) > REPRESENTED
    return bool(high and peak.log_mass < found.log_evidence + AGREEMENT)


def _reference(peaks: list[Peak], found: Tempered, rng: np.random.Generator) -> Mixture:
    """Return t laws at all peaks and that of the particles, each with some weight, however little mass it has."""
    n = len(found.z)
    law = fit_mixture(found.z, np.full(n, 1.0 / n), rng)
    of_peaks = np.array([one.log_mass for one in peaks])
    log_mass = np.append(min(found.log_evidence, float(np.logaddexp.reduce(of_peaks))), of_peaks)
    mass = np.exp(log_mass - log_mass.max())
    mass = np.maximum(mass / mass.sum(), LEAST / len(mass))
    mass /= mass.sum()
    return Mixture(
        np.concatenate([mass[0] * law.weight, mass[1:]]),
        np.concatenate([law.centre, [one.z for one in peaks]]),
        np.concatenate([law.root, [one.root for one in peaks]]),
    )
