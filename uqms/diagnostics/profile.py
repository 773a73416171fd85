"""Profile likelihood on the surrogate: the best fit at each value of one quantity, all values at once.

==========  ===================================================================  ===========
symbol      meaning                                                              shape
==========  ===================================================================  ===========
z           everything inferred, where its prior is standard normal              (B, p)
w           the others, in units of their posterior spread                       (B, p - 1)
==========  ===================================================================  ===========
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import xarray as xr
from scipy.special import ndtr, ndtri
from scipy.stats import chi2

from uqms import _checks as check
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, Bools, Ints, RandomState, as_generator
from uqms.calibration import Calibration, Posterior
from uqms.calibration.capabilities import refuse
from uqms.calibration.starts import starting_points
from uqms.errors import InputError

__all__ = ["Profile", "profile_likelihood"]

LEAST_POINTS = 7
PARTICLES = 200
FARTHEST = 5.0  # of z: the central 0.9999994 of the prior
AT_END = 0.1
STEPS, STEP = 60, 1e-4
LADDER = (1.0, 0.4, 0.1, 0.01)
TOLERANCE = 1e-4  # nats
WIDENINGS = 6
STARTS = 3


@taught
@final
@dataclass(frozen=True, eq=False)
class Profile:
    """The profile likelihood of one quantity.

    Attributes
    ----------
    name, unit
        Of the quantity.
    curve
        Dataset along its values: "log_likelihood" less its maximum (nats, at most 0), and what every other quantity is
        at the best fit there.
    maximum
        Its value at the overall best fit.
    prob
        Of the interval.
    interval
        Likelihood-ratio interval; an end that the data do not give is that of the prior (or of the design box).
    bounded
        Whether the data give the lower and the upper end; not where the prior of this or of another quantity does.
    """

    name: str
    unit: str
    curve: xr.Dataset
    maximum: float
    prob: float
    interval: tuple[float, float]
    bounded: tuple[bool, bool]

    @property
    def identified(self) -> bool:
        """Whether the data bound it on both sides."""
        return all(self.bounded)

    @property
    def words(self) -> str:
        """The result of the profile in a sentence."""
        low, high = self.interval
        unit = f" {self.unit}" if self.unit else ""
        text = f"{self.prob:.0%} likelihood-ratio interval {low:.4g} to {high:.4g}{unit}"
        if self.identified:
            return f"{self.name}: {text}; identified"
        side = {(False, True): "below", (True, False): "above"}.get(self.bounded)
        if side is None:
            return (
                f"{self.name}: practically unidentifiable; its profile is flat from {low:.4g} to {high:.4g}{unit}, and "
                "only the prior bounds it"
            )
        return f"{self.name}: {text}; practically unidentifiable {side}, where only the prior bounds it"

    def __repr__(self) -> str:
        return f"<Profile of {self.words}>"


@taught
@single_threaded
def profile_likelihood(
    source: Calibration | Posterior,
    name: str,
    *,
    n: int = 41,
    prob: float = 0.95,
    rng: RandomState = 0,
) -> Profile:
    """Maximise the likelihood over everything else, for each of `n` values of one quantity.

    Use it to see what the data alone say: a profile that is flat on a side means that the prior, not the data, ends the
    interval there. The prior enters nowhere but as the range that is searched. All error sources are in the
    likelihood, the surrogate's included, and all values are fitted at once.

    Parameters
    ----------
    source
        A calibration, also one of several parts, or its posterior, whose draws then give the starting points.
    name
        Of a parameter, or of an unknown noise.
    n
        Number of values, at least 7.
    prob
        Of the likelihood-ratio interval (chi-square with one degree of freedom).
    rng
        For the starting points.

    Returns
    -------
    Profile
        The curve, the interval, and in words whether the data identify the quantity.

    Raises
    ------
    InputError
        When `name` is unknown, or a number is out of range.

    References
    ----------
    Raue et al. (2009), doi:10.1093/bioinformatics/btp358.

    Examples
    --------
    >>> import numpy as np, xarray as xr, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 16, rng=1)
    >>> surrogate = uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": np.exp(design["k"].values)}))
    >>> problem = uq.Calibration(surrogate, xr.DataArray(2.0, name="y"), noise=uq.GaussianNoise(sd=0.1))
    >>> profile_likelihood(problem, "k").identified
    True
    """
    problem = source.problem if isinstance(source, Posterior) else source
    if not isinstance(problem, Calibration):
        raise InputError(f"profile_likelihood: got a {type(source).__name__}; give a Calibration or its posterior.")
    refuse(problem, "profile_likelihood")
    if name not in problem.priors:
        raise InputError(f"profile_likelihood: {name!r} is not inferred; give one of {list(problem.priors)}.")
    check.whole("profile_likelihood", "n", n, least=LEAST_POINTS)
    check.probability("profile_likelihood", "prob", prob)
    search = _Search(problem, list(problem.priors).index(name), _cloud(problem, source, as_generator(rng)))
    threshold = 0.5 * float(chi2.ppf(prob, 1))
    best, top = search.overall()
    grid = search.first_grid(n, best[search.column])
    for _ in range(WIDENINGS + 1):
        found, value = search.profile(grid)
        highest = int(np.argmax(value))
        if value[highest] > top:  # another mode, or the first search ended early
            best, top = search.overall(found[highest])
        low_open, high_open = top - value[0] < threshold, top - value[-1] < threshold
        ends = grid[0] > -FARTHEST and low_open, grid[-1] < FARTHEST and high_open
        if not any(ends):
            break
        width = grid[-1] - grid[0]
        left = grid[0] - width if ends[0] else grid[0]
        right = grid[-1] + width if ends[1] else grid[-1]
        grid = search.between(max(left, -FARTHEST), min(right, FARTHEST), n)
    relative = np.minimum(value - top, 0.0)
    theta = search.theta(found)
    values = theta[name]
    inside = top - value <= threshold
    first, last = _crossings(values, relative, threshold, search.theta(best[None])[name][0], inside)
    others = {key: (name, column) for key, column in theta.items() if key != name}
    curve = xr.Dataset({"log_likelihood": (name, relative), **others}, coords={name: values})
    ends_of_prior = (float(values[0]), float(values[-1]))
    bounded = (
        not low_open and not search.leans(found, inside, best, -1),
        not high_open and not search.leans(found, inside, best, 1),
    )
    interval = (ends_of_prior[0] if low_open else first, ends_of_prior[1] if high_open else last)
    unit = problem.priors[name].unit
    return Profile(name, unit, curve, float(search.theta(best[None])[name][0]), prob, interval, bounded)


def _crossings(values: Array, relative: Array, threshold: float, best: float, inside: Bools) -> tuple[float, float]:
    """Return where the profile falls below the threshold, outermost; the square root of its depth is nearly linear."""
    if not inside.any():
        return best, best
    depth = np.sqrt(np.maximum(-relative, 0.0)) - np.sqrt(threshold)
    first, last = int(np.argmax(inside)), len(inside) - 1 - int(np.argmax(inside[::-1]))

    def between(a: int, b: int) -> float:
        return float(values[a] + (values[b] - values[a]) * depth[a] / (depth[a] - depth[b]))

    low = between(first - 1, first) if first > 0 else float(values[0])
    high = between(last + 1, last) if last < len(values) - 1 else float(values[-1])
    return low, high


def _cloud(problem: Calibration, source: object, rng: np.random.Generator) -> Array:
    """Return approximate posterior draws of z, (s, p)."""
    if isinstance(source, Posterior):
        flat = source.flat()
        picked = rng.choice(len(next(iter(flat.values()))), PARTICLES)
        theta = {name: values[picked] for name, values in flat.items()}
    else:
        theta = starting_points(problem, PARTICLES, rng)
    columns = []
    for name, prior in problem.priors.items():
        low, high = (float(prior.cdf(end)) for end in problem.limits(name))
        level = (np.asarray(prior.cdf(theta[name])) - low) / (high - low)
        columns.append(np.clip(ndtri(np.clip(level, 1e-12, 1.0 - 1e-12)), -FARTHEST, FARTHEST))
    return np.column_stack(columns)


class _Search:
    """The likelihood on the scale of z, and a cloud of points to start from."""

    def __init__(self, problem: Calibration, column: int, cloud: Array) -> None:
        self.problem, self.column, self.cloud = problem, column, cloud
        self.values = self.log_likelihood(cloud)
        p = cloud.shape[1]
        covariance = np.atleast_2d(np.cov(cloud.T)) + 1e-12 * np.eye(p)
        self.root = np.linalg.cholesky(covariance)
        others = np.delete(np.arange(p), column)
        self.others = others
        slope = covariance[others, column] / covariance[column, column]
        self.slope = slope
        conditional = covariance[np.ix_(others, others)] - np.outer(slope, covariance[column, others])
        values, vectors = np.linalg.eigh(conditional)
        self.conditional_root = vectors * np.sqrt(np.maximum(values, 1e-12 * max(values.max(initial=0.0), 1e-12)))

    def theta(self, z: Array) -> dict[str, Array]:
        """Return own units (B,) of z (B, p)."""
        out = {}
        for (name, prior), column in zip(self.problem.priors.items(), z.T, strict=True):
            low, high = (float(prior.cdf(end)) for end in self.problem.limits(name))
            out[name] = np.asarray(prior.quantile(low + (high - low) * ndtr(np.clip(column, -FARTHEST, FARTHEST))))
        return out

    def log_likelihood(self, z: Array) -> Array:
        """Return the log-likelihood (B,), with a slope back into the range that is searched."""
        beyond = np.sum(np.maximum(np.abs(z) - FARTHEST, 0.0) ** 2, axis=1)
        theta = self.theta(z)
        value = self.problem.log_likelihood(theta)
        allowed = np.isfinite(value) & self.problem.conditioned_prior.allows(theta)
        return np.where(allowed, value, -1e300) - beyond

    def overall(self, start: Array | None = None) -> tuple[Array, float]:
        """Return the best fit (p,) and its log-likelihood."""
        order = np.argsort(self.values)[::-1][: STARTS + 1]
        starts = self.cloud[order] if start is None else start[None]
        w, value = maximise(lambda w, at: self.log_likelihood(starts[at] + w @ self.root.T), np.zeros_like(starts))
        best = int(np.argmax(value))
        return np.clip(starts[best] + self.root @ w[best], -FARTHEST, FARTHEST), float(value[best])

    def leans(self, found: Array, inside: Bools, best: Array, side: int) -> bool:
        """Whether another quantity, free at the best fit, is at the end of its prior where the interval ends.

        Then it is that prior, not the data, that bounds this one: of a sum, each is bounded by the range of the other.
        """
        rows = np.flatnonzero(inside)
        at = int(rows[0] - 1 if side < 0 else rows[-1] + 1) if len(rows) else -1
        if not 0 <= at < len(found):
            return False
        ended = np.abs(found[at]) > FARTHEST - AT_END
        return bool(np.any((ended & (np.abs(best) < FARTHEST - AT_END))[self.others]))

    def first_grid(self, n: int, best: float) -> Array:
        low, high = np.quantile(self.cloud[:, self.column], [0.005, 0.995])
        margin = 0.3 * (high - low) + 1e-9
        return self.between(max(min(low, best) - margin, -FARTHEST), min(max(high, best) + margin, FARTHEST), n)

    def between(self, low: float, high: float, n: int) -> Array:
        """Return n values of z, evenly spread in the quantity's own unit where that is not far narrower."""
        even = np.linspace(low, high, n)
        name = list(self.problem.priors)[self.column]
        prior = self.problem.priors[name]
        a, b = (float(prior.cdf(end)) for end in self.problem.limits(name))
        ends = prior.quantile(a + (b - a) * ndtr(np.array([low, high])))
        level = (np.asarray(prior.cdf(np.linspace(ends[0], ends[1], n))) - a) / (b - a)
        own = np.clip(ndtri(np.clip(level, 1e-12, 1.0 - 1e-12)), low, high)
        return np.sort(0.5 * (even + own))

    def profile(self, grid: Array) -> tuple[Array, Array]:
        """Return the best fit (n, p) at each value of the grid and its log-likelihood (n,)."""
        spread = max(float(self.cloud[:, self.column].std()), 1e-9)
        gap = (grid[:, None] - self.cloud[:, self.column]) / spread
        order = np.argsort(-np.maximum(self.values - self.values.max(), -50.0) + 8.0 * gap**2, axis=1)[:, :STARTS]
        count = order.shape[1]
        starts = np.repeat(grid, count)
        base = np.empty((len(starts), self.cloud.shape[1]))
        base[:, self.column] = starts
        chosen = self.cloud[order.ravel()]
        shift = (starts - chosen[:, self.column])[:, None] * self.slope
        base[:, self.others] = np.clip(chosen[:, self.others] + shift, -FARTHEST, FARTHEST)

        def at(w: Array, rows: Ints) -> Array:
            z = base[rows].copy()
            z[:, self.others] += w @ self.conditional_root.T
            return self.log_likelihood(z)

        w, value = maximise(at, np.zeros((len(base), len(self.others))))
        base[:, self.others] += w @ self.conditional_root.T
        best = np.argmax(value.reshape(-1, count), axis=1) + count * np.arange(len(grid))
        return np.clip(base[best], -FARTHEST, FARTHEST), value[best]


def maximise(function: Callable[[Array, Ints], Array], start: Array) -> tuple[Array, Array]:
    """Maximise B functions of p well-scaled variables at once (BFGS, central differences).

    `function` takes points (M, p) and which of the B functions each belongs to (M,). All rows go on together until none
    gains more than 1e-4 nats.
    """
    x = start.copy()
    count, p = x.shape
    value = function(x, np.arange(count))
    if p == 0:
        return x, value
    inverse = np.tile(np.eye(p), (count, 1, 1))
    active = np.arange(count)
    gradient = _gradient(function, x, active)
    steps = np.array(LADDER)
    for _ in range(STEPS):
        direction = np.einsum("bij,bj->bi", inverse[active], gradient[active])
        length = np.linalg.norm(direction, axis=1)
        direction *= (np.minimum(length, 2.0) / np.maximum(length, 1e-300))[:, None]
        tried = x[active, None] + steps[:, None] * direction[:, None]
        found = function(tried.reshape(-1, p), np.repeat(active, len(steps))).reshape(-1, len(steps))
        best = np.argmax(found, axis=1)
        rows = np.arange(len(active))
        gain = found[rows, best] - value[active]
        better = gain > 0
        if not better.any():
            break
        moved, place = active[better], tried[rows, best][better]
        step = place - x[moved]
        x[moved], value[moved] = place, found[rows, best][better]
        old = gradient[moved].copy()
        gradient[moved] = _gradient(function, x[moved], moved)
        inverse[moved] = _updated(inverse[moved], step, old - gradient[moved])
        active = active[gain > TOLERANCE]
        if not len(active):
            break
    return x, value


def _gradient(function: Callable[[Array, Ints], Array], x: Array, rows: Ints) -> Array:
    p = x.shape[1]
    shift = STEP * np.eye(p)
    both = np.stack([x[:, None] + shift, x[:, None] - shift])
    found = function(both.reshape(-1, p), np.tile(np.repeat(rows, p), 2)).reshape(2, -1, p)
    return np.asarray((found[0] - found[1]) / (2.0 * STEP))


def _updated(inverse: Array, step: Array, change: Array) -> Array:
    """Return the BFGS update of inverse Hessians (B, p, p) of minus the functions; kept where curvature is negative."""
    product = np.sum(step * change, axis=1)
    good = product > 1e-10
    rho = (1.0 / np.where(good, product, 1.0))[:, None, None]
    left = np.eye(inverse.shape[1]) - rho * step[:, :, None] * change[:, None, :]
    new = left @ inverse @ left.transpose(0, 2, 1) + rho * step[:, :, None] * step[:, None, :]
    return np.where(good[:, None, None], new, inverse)
