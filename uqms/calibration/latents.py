"""Latents given parameters: a normal approximation for many parameter values at once, and draws with weights.

Where errors are not all normal, the surrogate's error and discrepancies are latents eta beside the parameters, a dozen
or more. Given the parameters the outputs are linear in them, and their posterior is close to normal: Newton's method
finds its mode, a t law around it is the proposal of importance weights. What is left to explore are the parameters.

==========  ======================================================================  =========
symbol      meaning                                                                 shape
==========  ======================================================================  =========
y           outputs, y0 + B eta                                                     (s, N)
f           log p(data | y), summed over the rows of a cell                         (s, N)
delta       step in y that changes f by at most two: slopes and curvatures over it  (s, N)
H           precision of eta: 1 + B' diag(curvature of -f) B                        (s, L, L)
==========  ======================================================================  =========

Steps are as wide as the density is, so that kinks (a density like Laplace's) have the curvature that counts.

Tierney & Kadane (1986), doi:10.1080/01621459.1986.10478240; Rue, Martino & Chopin (2009),
doi:10.1111/j.1467-9868.2008.00700.x.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from scipy.special import gammaln

from uqms._typing import Array, Bools
from uqms.calibration.density import row_terms
from uqms.calibration.noise import NumPyFunctions

if TYPE_CHECKING:
    from uqms.calibration.problem import Calibration

__all__ = ["Conditional", "conditional_latents", "has_conditional"]

Density = Callable[[Array, Array], Array]  # of outputs (s, N) and hyperparameters (s, P)

ITERATIONS, HALVINGS = 24, 4
SHORT = 12  # steps of at most a prior sd of an output, so that no mode is jumped over; then twice the one before
ENOUGH = 0.02  # nats that Newton's last step gained
SEARCH, WIDEST = 25, 2.0  # halvings of delta, and what f may change by over it
TAIL = 1e-3  # nats by which a density lies above its tangent: it is not log-concave
REACH, GRID = 8.0, 65  # of the search for where rows are most likely: prior sds, points
APART = 0.5  # sds between modes that are two
LEAST_SHARE = 0.05  # of the draws, for a mode that is next to negligible
SHARPEST = 1e10  # curvature beside that of the prior: more than that a precision in float64 does not hold
FREEDOM = 7.0
NONE = -1e280  # a log-density of what has none, which may be multiplied by zero
MEMORY = 4_000_000  # numbers at a time


@final
@dataclass(frozen=True, eq=False)
class Conditional:
    """The posterior of the latents given the parameters: normal approximations at one or two modes.

    Attributes
    ----------
    modes, roots, log_weights
        Of each mode (M, s, L), the root of the precision there (M, s, L, L), its share, in logs (M, s).
    log_marginal
        Laplace's approximation of the log-likelihood with the latents integrated out, (s,).
    """

    problem: "Calibration"
    phi: Array
    y0: Array
    B: Array
    modes: Array
    roots: Array
    log_weights: Array
    log_marginal: Array

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
        """Return draws of the latents (count, s, L), their log weights and log p(data | latents), both (count, s).

        Weights are p(data | latents) p(latents) over the density of the draws.
        """
        M, s, L = self.modes.shape
        share = np.exp(np.logaddexp(self.log_weights, np.log(LEAST_SHARE)))
        share /= share.sum(axis=0)
        which = np.minimum((rng.random((count, s, 1)) > np.cumsum(share, axis=0).T).sum(axis=2), M - 1)
        xi = rng.standard_normal((count, s, L)) * np.sqrt(FREEDOM / rng.chisquare(FREEDOM, size=(count, s, 1)))
        around = np.stack(
            [
                m + np.einsum("skl,csk->csl", np.linalg.inv(root), xi)
                for m, root in zip(self.modes, self.roots, strict=True)
            ]
        )
        eta = np.take_along_axis(around, which[None, ..., None], axis=0)[0]
        y = self.y0 + np.einsum("snl,csl->csn", self.B, eta)
        f_of = _by_cell(self.problem)
        f = np.stack([f_of(one, self.phi).sum(axis=1) for one in y])
        constant = gammaln(0.5 * (FREEDOM + L)) - gammaln(0.5 * FREEDOM) - 0.5 * L * np.log(0.5 * FREEDOM)
        terms = []
        for mode, root, part in zip(self.modes, self.roots, share, strict=True):
            off = np.einsum("slm,csl->csm", root, eta - mode)
            kernel = np.log1p(np.sum(off**2, axis=2) / FREEDOM)
            terms.append(np.log(part) + _log_det(root) - 0.5 * (FREEDOM + L) * kernel)
        proposal = constant + np.logaddexp.reduce(terms, axis=0)
        return eta, f - 0.5 * np.sum(eta**2, axis=2) - proposal, f


def has_conditional(problem: object) -> bool:
    """Tell whether the outputs of a problem are one linear function of the latents, and its rows independent."""
    from uqms.calibration.problem import Calibration

    if not isinstance(problem, Calibration) or not problem.latents:
        return False
    theta = {name: np.atleast_1d(value) for name, value in problem.conditioned_prior.centre.items()}
    phi = problem.noise.phi(theta, (1,))
    y, _, log_weights = problem.latent_map(problem.unit_inputs(theta), phi)
    terms = row_terms(problem.cells, problem.noise, y[0], phi, problem.cells.z, NumPyFunctions)
    return len(log_weights) == 1 and all(np.ndim(value) == 2 for _, value in terms)


def conditional_latents(problem: "Calibration", theta: Mapping[str, Array]) -> Iterator[Conditional]:
    """Yield, a block of the values of `theta` (S,) at a time, the law of the latents given them and the data."""
    cells, count = problem.cells, len(next(iter(theta.values())))
    each = (problem.latents + 1) * (len(cells.used) * cells.experiments**2 + len(cells.offset))
    size = max(1, MEMORY // each)
    for start in range(0, count, size):
        now = {name: values[start : start + size] for name, values in theta.items()}
        phi = problem.noise.phi(now, (len(next(iter(now.values()))),))
        y0, B, _ = problem.latent_map(problem.unit_inputs(now), phi)
        yield _approximated(problem, phi, y0[0], B[0])


def _approximated(problem: "Calibration", phi: Array, y0: Array, B: Array) -> Conditional:
    """Return the approximations from the prior's mode, and from near the data where the density has long tails."""
    f_of = _by_cell(problem)
    s, _, L = B.shape
    spread = np.maximum(np.sqrt(np.sum(B**2, axis=2)), 1e-150)
    first, root, value, long_tails = _newton(f_of, phi, y0, B, np.zeros((s, L)))
    at = np.flatnonzero(long_tails)
    modes, roots, values = np.stack([first, first]), np.stack([root, root]), np.stack([value, np.full(s, -np.inf)])
    if not len(at):
        return Conditional(problem, phi, y0, B, modes[:1], roots[:1], np.zeros((1, s)), value)
    # Latents that bring each output to where its own rows are most likely.
    y = y0[at] + spread[at] * np.linspace(-REACH, REACH, GRID)[:, None, None]
    f = np.stack([f_of(one, phi[at]) for one in y])
    goal = np.take_along_axis(y, np.argmax(f, axis=0)[None], axis=0)[0]
    pull = (REACH / spread[at]) ** 2
    H = np.eye(L) + np.swapaxes(B[at], 1, 2) @ (pull[:, :, None] * B[at])
    begin = np.linalg.solve(H, np.einsum("snl,sn->sl", B[at], pull * (goal - y0[at]))[..., None])[..., 0]
    modes[1, at], roots[1, at], values[1, at], _ = _newton(f_of, phi[at], y0[at], B[at], begin)
    apart = np.sum(np.einsum("slm,sl->sm", root, modes[1] - modes[0]) ** 2, axis=1) > APART**2
    values[1, ~apart] = -np.inf
    total = np.logaddexp(values[0], values[1])
    return Conditional(problem, phi, y0, B, modes, roots, values - total, total)


def _newton(f_of: Density, phi: Array, y0: Array, B: Array, eta: Array) -> tuple[Array, Array, Array, Bools]:
    """Return mode (s, L), root of the precision, log of the mass around it (s,), and whether tails were met (s,)."""
    s, _, L = B.shape
    y = y0 + np.einsum("snl,sl->sn", B, eta)
    f = f_of(y, phi)
    value = f.sum(axis=1) - 0.5 * np.sum(eta**2, axis=1)
    delta = np.maximum(np.sqrt(np.sum(B**2, axis=2)), 1e-150)
    sharpest = SHARPEST / delta**2
    H = np.broadcast_to(np.eye(L), (s, L, L)).copy()
    long_tails = np.zeros(s, dtype=bool)
    going = np.arange(s)
    for iteration in range(ITERATIONS):
        B_now, phi_now = B[going], phi[going]
        width = delta[going] if iteration == 0 else 2.0 * delta[going]
        delta[going], slope, curvature = _slopes(f_of, y[going], phi_now, f[going], width)
        long_tails[going] = (curvature * delta[going] ** 2 < -TAIL).any(axis=1)
        curvature = np.clip(curvature, 0.0, sharpest[going])
        H[going] = np.eye(L) + np.swapaxes(B_now, 1, 2) @ (curvature[:, :, None] * B_now)
        pull = np.einsum("snl,sn->sl", B_now, slope) - eta[going]
        step = np.linalg.solve(H[going], pull[..., None])[..., 0]
        moved = np.abs(np.einsum("snl,sl->sn", B_now, step)) * np.sqrt(sharpest[going] / SHARPEST)
        step /= np.maximum(moved.max(axis=1, keepdims=True) / 2.0 ** max(0, iteration - SHORT), 1.0)
        gained, length, left = np.zeros(len(going)), 1.0, np.arange(len(going))
        for _ in range(HALVINGS):
            at = going[left]
            trial = eta[at] + length * step[left]
            y_new = y0[at] + np.einsum("snl,sl->sn", B[at], trial)
            f_new = f_of(y_new, phi[at])
            new = f_new.sum(axis=1) - 0.5 * np.sum(trial**2, axis=1)
            better = new > value[at]
            chosen = at[better]
            with np.errstate(invalid="ignore"):
                gained[left[better]] = new[better] - value[chosen]
            eta[chosen], y[chosen], f[chosen], value[chosen] = trial[better], y_new[better], f_new[better], new[better]
            left, length = left[~better], 0.4 * length
            if not len(left):
                break
        going = going[gained > ENOUGH]
        if not len(going):
            break
    root = np.linalg.cholesky(H)
    return eta, root, value - _log_det(root), long_tails


def _log_det(root: Array) -> Array:
    return np.asarray(np.sum(np.log(np.diagonal(root, axis1=1, axis2=2)), axis=1))


def _slopes(f_of: Density, y: Array, phi: Array, f: Array, delta: Array) -> tuple[Array, Array, Array]:
    """Return steps, slopes of f and curvatures of -f at y, all (s, N)."""
    delta = delta.copy()
    upper, lower = f_of(y + delta, phi), f_of(y - delta, phi)
    for _ in range(SEARCH):
        with np.errstate(invalid="ignore"):
            wide = ~(f - np.minimum(upper, lower) <= WIDEST)
        again = np.flatnonzero(wide.any(axis=1))
        if not len(again):
            break
        delta[again] = np.where(wide[again], 0.5 * delta[again], delta[again])
        upper[again], lower[again] = (f_of(y[again] + sign * delta[again], phi[again]) for sign in (1.0, -1.0))
    with np.errstate(invalid="ignore", over="ignore"):
        slope = (upper - lower) / (2.0 * delta)
        curvature = (2.0 * f - upper - lower) / delta**2
    good = np.isfinite(slope) & np.isfinite(curvature)
    return delta, np.where(good, slope, 0.0), np.where(good, curvature, 0.0)


def _by_cell(problem: "Calibration") -> Density:
    """Return what computes log p(data | y), summed over the rows of each cell, (s, N); -inf where it is none."""
    cells, noise = problem.cells, problem.noise
    members = np.equal.outer(cells.row_cell, np.arange(len(cells.offset))).astype(np.float64)  # (R, N)

    def density(y: Array, phi: Array) -> Array:
        out = np.zeros_like(y)
        with np.errstate(all="ignore"):
            for rows, values in row_terms(cells, noise, y, phi, cells.z, NumPyFunctions):
                out += np.nan_to_num(values, nan=NONE, neginf=NONE) @ members[rows]
        return np.where(out <= 0.5 * NONE, -np.inf, out)

    return density
