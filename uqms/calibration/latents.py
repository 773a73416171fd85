"""Latents given parameters: a normal approximation for many parameter values at once, and draws with weights.

Where errors are not all normal, the surrogate's error and discrepancies are latents eta beside the parameters, a dozen
or more. Given the parameters the outputs are linear in them, and their posterior is close to normal: Newton's method
finds its mode. Where the density of the data is log-concave, expectation propagation goes on from there: a mode at the
edge of what a detection limit allows says little of where the mass is. A t law around mode or mean is the proposal of
importance weights. What is left to explore are the parameters.

==========  ======================================================================  =========
symbol      meaning                                                                 shape
==========  ======================================================================  =========
y           outputs, y0 + B eta                                                     (s, N)
f           log p(data | y), summed over the rows of a cell                         (s, N)
delta       step in y that changes f by at most two: slopes and curvatures over it  (s, N)
H           precision of eta: 1 + B' diag(tau) B, tau the curvature of -f, or that  (s, L, L)
            of the normal factor exp(nu y - tau y^2 / 2) with the moments of exp(f)
==========  ======================================================================  =========

Steps are as wide as the density is, so that kinks (a density like Laplace's) have the curvature that counts.

Tierney & Kadane (1986), doi:10.1080/01621459.1986.10478240; Rue, Martino & Chopin (2009),
doi:10.1111/j.1467-9868.2008.00700.x; Minka (2001), arXiv:1301.2294; Rasmussen & Williams (2006), section 3.6.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from scipy.special import gammaln

from uqms._typing import Array, Bools
from uqms.calibration.data_model import DataModel
from uqms.calibration.density import row_terms
from uqms.parameters.functions import NumPyFunctions

if TYPE_CHECKING:
    from uqms.calibration.single import SingleCalibration

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
PASSES, DAMPING = 16, 0.8  # of expectation propagation, all cells at once
SETTLED, CLOSE = 0.1, 0.3  # sds of an output that a pass moved it, relative for its sd: of the last, and good enough
NODES = np.linspace(-6.0, 6.0, 41)  # of integrals over an output: its sds
NONE = -1e280  # a log-density of what has none, which may be multiplied by zero
MEMORY = 4_000_000  # numbers at a time


@final
@dataclass(frozen=True, eq=False)
class Conditional:
    """The posterior of the latents given the parameters: a normal approximation, or one at each of two modes.

    Attributes
    ----------
    modes, roots, log_weights
        Of each mode (or mean) (M, s, L), the root of the precision (M, s, L, L), its share, in logs (M, s).
    log_marginal
        The approximations' log-likelihood with the latents integrated out, (s,).
    """

    model: DataModel
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
        f_of = _by_cell(self.model)
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
    from uqms.calibration.single import SingleCalibration

    if not isinstance(problem, SingleCalibration) or not problem.latents:
        return False
    theta = {name: np.atleast_1d(value) for name, value in problem.conditioned_prior.centre.items()}
    phi = problem.noise.phi(theta, (1,))
    y, _, log_weights = problem.data_model.latent_map(problem.unit_inputs(theta), phi)
    terms = row_terms(problem.cells, problem.noise, y[0], phi, problem.cells.z, NumPyFunctions)
    return len(log_weights) == 1 and all(np.ndim(value) == 2 for _, value in terms)


def conditional_latents(problem: "SingleCalibration", theta: Mapping[str, Array]) -> Iterator[Conditional]:
    """Yield, a block of the values of `theta` (S,) at a time, the law of the latents given them and the data."""
    cells, count = problem.cells, len(next(iter(theta.values())))
    each = (problem.latents + 1) * (len(cells.used) * cells.experiments**2 + len(cells.offset))
    size = max(1, MEMORY // max(each, len(NODES) * (len(cells.offset) + len(cells.z))))
    for start in range(0, count, size):
        now = {name: values[start : start + size] for name, values in theta.items()}
        phi = problem.noise.phi(now, (len(next(iter(now.values()))),))
        y0, B, _ = problem.data_model.latent_map(problem.unit_inputs(now), phi)
        yield _approximated(problem.data_model, phi, y0[0], B[0])


def _approximated(model: DataModel, phi: Array, y0: Array, B: Array) -> Conditional:
    """Return moments where the density is log-concave, else the mode from the prior's and that from near the data."""
    f_of = _by_cell(model)
    s, _, L = B.shape
    spread = np.maximum(np.sqrt(np.sum(B**2, axis=2)), 1e-150)
    first, root, value, long_tails, sites = _newton(f_of, phi, y0, B, np.zeros((s, L)))
    at = np.flatnonzero(~long_tails)
    if len(at):
        mean, matched, mass, close = _matched(f_of, phi[at], y0[at], B[at], sites[0][at], sites[1][at])
        at = at[close]
        first[at], root[at], value[at] = mean[close], matched[close], mass[close]
    at = np.flatnonzero(long_tails)
    modes, roots, values = np.stack([first, first]), np.stack([root, root]), np.stack([value, np.full(s, -np.inf)])
    if not len(at):
        return Conditional(model, phi, y0, B, modes[:1], roots[:1], np.zeros((1, s)), value)
    # Latents that bring each output to where its own rows are most likely.
    y = y0[at] + spread[at] * np.linspace(-REACH, REACH, GRID)[:, None, None]
    f = np.stack([f_of(one, phi[at]) for one in y])
    goal = np.take_along_axis(y, np.argmax(f, axis=0)[None], axis=0)[0]
    pull = (REACH / spread[at]) ** 2
    H = np.eye(L) + np.swapaxes(B[at], 1, 2) @ (pull[:, :, None] * B[at])
    begin = np.linalg.solve(H, np.einsum("snl,sn->sl", B[at], pull * (goal - y0[at]))[..., None])[..., 0]
    modes[1, at], roots[1, at], values[1, at], _, _ = _newton(f_of, phi[at], y0[at], B[at], begin)
    apart = np.sum(np.einsum("slm,sl->sm", root, modes[1] - modes[0]) ** 2, axis=1) > APART**2
    values[1, ~apart] = -np.inf
    total = np.logaddexp(values[0], values[1])
    return Conditional(model, phi, y0, B, modes, roots, values - total, total)


def _newton(
    f_of: Density, phi: Array, y0: Array, B: Array, eta: Array
) -> tuple[Array, Array, Array, Bools, tuple[Array, Array]]:
    """Return mode (s, L), root of the precision, log of the mass around it, whether tails were met (s,); tau and nu."""
    s, _, L = B.shape
    y = y0 + np.einsum("snl,sl->sn", B, eta)
    f = f_of(y, phi)
    value = f.sum(axis=1) - 0.5 * np.sum(eta**2, axis=1)
    delta = np.maximum(np.sqrt(np.sum(B**2, axis=2)), 1e-150)
    sharpest = SHARPEST / delta**2
    H = np.broadcast_to(np.eye(L), (s, L, L)).copy()
    tau, nu = np.zeros_like(y0), np.zeros_like(y0)
    long_tails = np.zeros(s, dtype=bool)
    going = np.arange(s)
    for iteration in range(ITERATIONS):
        if iteration == SHORT:  # others go on with moments
            going = going[long_tails[going]]
            if not len(going):
                break
        B_now, phi_now = B[going], phi[going]
        width = delta[going] if iteration == 0 else 2.0 * delta[going]
        delta[going], slope, curvature = _slopes(f_of, y[going], phi_now, f[going], width)
        long_tails[going] = (curvature * delta[going] ** 2 < -TAIL).any(axis=1)
        curvature = np.clip(curvature, 0.0, sharpest[going])
        tau[going], nu[going] = curvature, slope + curvature * y[going]
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
    return eta, root, value - _log_det(root), long_tails, (tau, nu)


def _matched(
    f_of: Density, phi: Array, y0: Array, B: Array, tau: Array, nu: Array
) -> tuple[Array, Array, Array, Bools]:
    """Return mean (s, L), root of the precision, log of the mass (s,), and for which s moments came close to it.

    Each cell's factor exp(f) has the place of a normal one, exp(nu y - tau y^2 / 2) times a constant, that gives its
    output the same mean and variance beside all others.
    """
    s, _, L = B.shape
    sharpest = SHARPEST / np.maximum(np.sum(B**2, axis=2), 1e-300)
    tau, nu = tau.copy(), nu.copy()
    mean, root, mass = np.zeros((s, L)), np.broadcast_to(np.eye(L), (s, L, L)).copy(), np.full(s, -np.inf)
    close = np.zeros(s, dtype=bool)
    going = np.arange(s)
    for _ in range(PASSES):
        B_now, y_now, t, n = B[going], y0[going], tau[going], nu[going]
        root_now = np.linalg.cholesky(np.eye(L) + np.swapaxes(B_now, 1, 2) @ (t[:, :, None] * B_now))
        V = np.linalg.solve(root_now, np.swapaxes(B_now, 1, 2))  # (s, L, N)
        h = np.einsum("sln,sn->sl", V, n - t * y_now)
        mean[going] = np.linalg.solve(np.swapaxes(root_now, 1, 2), h[..., None])[..., 0]
        root[going] = root_now
        shift, v = np.einsum("sln,sl->sn", V, h), np.maximum(np.sum(V**2, axis=1), 1e-300)
        m = y_now + shift
        # All but the cell's own factor, and exp(f) in its place; differences from m, whose sd can be tiny beside it.
        rest = np.maximum(1.0 / v - t, 1e-12 / v)
        off = (m * t - n) / rest
        e = np.sqrt(v) * NODES[:, None, None]
        f = f_of((m + e).reshape(-1, m.shape[1]), np.tile(phi[going], (len(NODES), 1))).reshape(e.shape)
        f -= 0.5 * rest * (e - off) ** 2
        top = f.max(axis=0)
        with np.errstate(invalid="ignore"):
            weight = np.exp(f - top)
            total = weight.sum(axis=0)
            new_m = np.sum(weight * e, axis=0) / total
            new_v = np.maximum(np.sum(weight * (e - new_m) ** 2, axis=0) / total, 0.01 * v)
            integral = top + np.log(total * (NODES[1] - NODES[0]) / np.sqrt(2.0 * np.pi)) + 0.5 * rest * off**2
            new_t = np.clip(1.0 / new_v - rest, 0.0, sharpest[going])
            new_n = m * new_t + new_m * (rest + new_t) - rest * off
            moved = np.maximum(np.abs(new_m) / np.sqrt(v), np.abs(np.sqrt(new_v / v) - 1.0)).max(axis=1)
        factors = integral - n * shift + 0.5 * t * shift * (m + y_now)
        mass[going] = factors.sum(axis=1) + 0.5 * np.sum(h**2, axis=1) - _log_det(root_now)
        close[going] = moved < CLOSE
        tau[going] += DAMPING * np.nan_to_num(new_t - t)
        nu[going] += DAMPING * np.nan_to_num(new_n - n)
        going = going[moved >= SETTLED]  # where it is no number, Newton's mode stays
        if not len(going):
            break
    return mean, root, mass, close & np.isfinite(mass)


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


def _by_cell(model: DataModel) -> Density:
    """Return what computes log p(data | y), summed over the rows of each cell, (s, N); -inf where it is none."""
    cells, noise = model.cells, model.noise
    members = np.equal.outer(cells.row_cell, np.arange(len(cells.offset))).astype(np.float64)  # (R, N)

    def density(y: Array, phi: Array) -> Array:
        out = np.zeros_like(y)
        with np.errstate(all="ignore"):
            for rows, values in row_terms(cells, noise, y, phi, cells.z, NumPyFunctions):
                out += np.nan_to_num(values, nan=NONE, neginf=NONE) @ members[rows]
        return np.where(out <= 0.5 * NONE, -np.inf, out)

    return density
