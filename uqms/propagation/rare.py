"""Rare events: the probability that an output passes a threshold, from subset simulation on the surrogate.

==========  ============================================================================  =========
symbol      meaning                                                                       shape
==========  ============================================================================  =========
z           inputs in the standard normal space of their prior                            (N, d)
v           z, and standard normals of the surrogate's error at one input                 (N, D)
g           how far the quantity is beyond the threshold; the event is g > 0              (N,)
q           importance density around the event                                           (N,)
P_f         probability of the event if function f of the surrogate were the simulator    (F,)
==========  ============================================================================  =========

Subset simulation (Au & Beck 2001, doi:10.1016/S0266-8920(01)00019-4) climbs to the event in steps of probability 0.1,
by Markov chains that keep the standard normal law (Papaioannou et al. 2015, doi:10.1016/j.probengmech.2015.06.006). The
surrogate's error is a part of v, so that everything is reached that may be the event. A mixture of t laws fitted to
what was found is the importance density under which all functions of the surrogate are evaluated at the same inputs:
P_f = mean of 1(g_f > 0) N(z) / q(z). The spread of log P_f is what the surrogate leaves open.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import xarray as xr
from scipy.special import ndtr, ndtri

from uqms import _checks as check
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, Bools, Ints, RandomState, as_generator
from uqms.calibration.conditioned import ConditionedPrior
from uqms.calibration.construction import space_of
from uqms.calibration.direct import design_box, is_exact, number_of_functions
from uqms.calibration.mixture import fit_mixture
from uqms.errors import InputError, SamplingError
from uqms.parameters import Box, ParameterSpace
from uqms.propagation.inputs import condition_table
from uqms.propagation.joint_draws import joint_draws
from uqms.propagation.variance_parts import crossed
from uqms.surrogates import Surrogate
from uqms.surrogates.protocol import check_fixed_rows, fixed_rows

__all__ = ["RareEvent", "rare_event"]

STEP = 0.1  # probability of a level
LEVELS = 15  # of that probability, after which an event is given up
PLATEAU = 0.5  # share of the points of a level that may have one value
FEW = 10  # seeds of a level, at least, whose spread says how far to step
ACCEPTED = 0.44  # share of moves that is aimed at
OUTSIDE, TOLERANCE = 0.05, 0.3
NEAR = 0.15  # correlation length of what a run says, in units of the spread of the candidates
LAWS = 200  # points that represent a lognormal Monte Carlo error
FARTHEST = 37.5  # of a standard normal: beyond it probabilities underflow
NUMBERS = 2**24  # of outputs that are held at once


@taught
@final
@dataclass(frozen=True, eq=False)
class RareEvent:
    """Probability of a rare event, with its errors due to Monte Carlo and to the surrogate.

    Attributes
    ----------
    probability
        Averaged over the functions of the surrogate.
    lower, upper
        95 % interval that holds the surrogate's error and the Monte Carlo error.
    variation
        Coefficient of variation of the Monte Carlo error: standard deviation over probability.
    spread
        Standard deviation of the logarithm of the probability that is due to the surrogate's error.
    share
        Fraction of the variance of the log probability that is due to the surrogate, between 0 and 1.
    outside
        Fraction of the event's probability outside of the design box, where the surrogate extrapolates.
    subset
        Probability by subset simulation alone, and its coefficient of variation as Au & Beck estimate it.
    levels
        Thresholds of the levels, in the unit of the quantity.
    evaluations
        How many inputs the surrogate was asked for.
    points
        Inputs of the importance sample, dim "sample", with "weight" (sums to 1; of the event's probability) and
        "event": the probability of the event at that input, given the surrogate's error.
    reliable
        Whether the surrogate is good enough there: a spread of at most the tolerance, and at most 5 % outside.
    message
        Why, or why not, and what to do.
    """

    probability: float
    lower: float
    upper: float
    variation: float
    spread: float
    share: float
    outside: float
    subset: tuple[float, float]
    levels: tuple[float, ...]
    evaluations: int
    points: xr.Dataset
    reliable: bool
    message: str

    def __repr__(self) -> str:
        return (
            f"<RareEvent: probability {self.probability:.3g}, 95 % {self.lower:.2g} to {self.upper:.2g}\n"
            f"Monte Carlo: coefficient of variation {self.variation:.2g}; surrogate: sd of the log {self.spread:.2g}, "
            f"{self.share:.0%} of the variance\n{self.message}>"
        )

    def next_points(self, n: int) -> xr.Dataset:
        """Return a design of n inputs whose runs reduce the error of the probability most.

        They lie where the event's probability has weight and it is not sure whether the event happens, far from each
        other. Run them, combine them with the runs there are, fit again and ask again.

        Parameters
        ----------
        n
            Number of points.

        Returns
        -------
        xarray.Dataset
            A design for `uqms.run`. Its box is the old one, made longer where points lie beyond its ends.

        Raises
        ------
        InputError
            When n is no whole number above zero, or more than there are candidates.
        """
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or not 0 < n <= self.points.sizes["sample"]:
            raise InputError(f"next_points: n is {n!r}; give a whole number from 1 to {self.points.sizes['sample']}.")
        box, attrs = Box.from_dict(json.loads(self.points.attrs["box"])), dict(self.points.attrs)
        x = np.column_stack([self.points[name].values for name in box.names])
        u = np.asarray(box.to_unit(x))
        event = self.points["event"].values
        worth = self.points["prior_weight"].values * (event * (1.0 - event) + 1e-6 * event)
        worth = worth * (worth > 0.0) + 1e-300
        spread = np.sqrt(np.maximum(np.cov(u.T, aweights=worth).reshape(box.d, box.d).diagonal(), 1e-12))
        chosen: list[int] = []
        for _ in range(n):  # one design point after the other: each counts with those before
            chosen.append(int(np.argmax(worth)))
            distance = np.sum(((u - u[chosen[-1]]) / spread) ** 2, axis=1) / box.d
            worth = worth * -np.expm1(-0.5 * distance / NEAR)
        picked = x[chosen]
        lower = [float(min(end, column.min())) for end, column in zip(box.lower, picked.T, strict=True)]
        upper = [float(max(end, column.max())) for end, column in zip(box.upper, picked.T, strict=True)]
        wider = Box(box.names, tuple(lower), tuple(upper), box.scale, box.hard)
        attrs["box"] = json.dumps(wider.to_dict(), allow_nan=False)
        attrs["design"] = json.dumps({"method": "rare event", "runs": int(n), "of": self.probability}, allow_nan=False)
        columns = {name: ("run", picked[:, i], dict(self.points[name].attrs)) for i, name in enumerate(box.names)}
        return xr.Dataset(columns, attrs=attrs)


@final
class _Event:
    """The event as a function of standard normals, or of scores that are given."""

    def __init__(
        self,
        surrogate: Surrogate,
        space: ParameterSpace,
        known: Mapping[str, float],
        function: Callable[[xr.Dataset], Any] | str,
        threshold: float,
        sign: float,
    ) -> None:
        self.surrogate, self.known, self.function = surrogate, known, function
        self.threshold, self.sign = threshold, sign
        priors = dict(space.priors)
        self.law = ConditionedPrior(priors, {name: prior.support for name, prior in priors.items()}, space.blocks)
        self.d = len(priors)
        names = [function] if isinstance(function, str) else list(surrogate.layouts)
        self.decoders = {name: fixed_rows(surrogate, name) for name in names}
        first = next(iter(self.decoders.values()))
        self.q, self.t = first.basis.shape[1], first.truncation.shape[1]
        self.evaluations = 0

    @property
    def size(self) -> int:
        """How many standard normals there are: of inputs, scores, truncation and hyperparameters."""
        return self.d if is_exact(self.surrogate) else self.d + self.q + self.t + 1

    def inputs(self, z: Array) -> tuple[dict[str, Array], Array]:
        """Return inputs by name (N,), and in the unit cube (N, d)."""
        values = self.law.from_normal(np.clip(z, -FARTHEST, FARTHEST))
        every = values | {name: np.full(len(z), value) for name, value in self.known.items()}
        names = self.surrogate.domain.names
        return every, np.asarray(self.surrogate.domain.to_unit(np.column_stack([every[name] for name in names])))

    def scores(self, u: Array) -> tuple[Array, Array, Array]:
        """Return mean and variance (H, N, q) of the scores, and the hyperparameters' weights (H,)."""
        self.evaluations += len(u)
        of = getattr(self.surrogate, "marginal_scores", None)
        if of is not None:
            found = of(u)
            variance = np.swapaxes(found.covariance, 1, 2)
        else:
            found = self.surrogate.scores(u[:, None, :])
            variance = found.covariance[..., 0, 0]
            found = found._replace(mean=found.mean[:, :, 0])
        return found.mean, np.maximum(variance, 0.0), np.exp(found.log_weights - np.logaddexp.reduce(found.log_weights))

    def at(self, v: Array) -> Array:
        """Return g (N,) at standard normals v (N, D)."""
        values, u = self.inputs(v[:, : self.d])
        mean, variance, weights = self.scores(u)
        rows = np.arange(len(v))
        if is_exact(self.surrogate):
            return self.beyond(mean[0], np.zeros((len(v), self.t)), values)
        h = np.minimum(np.searchsorted(np.cumsum(weights), ndtr(v[:, -1])), len(weights) - 1)
        scores = mean[h, rows] + np.sqrt(variance[h, rows]) * v[:, self.d : self.d + self.q]
        return self.beyond(scores, v[:, self.d + self.q : self.d + self.q + self.t], values)

    def beyond(self, scores: Array, omega: Array, values: Mapping[str, Array]) -> Array:
        """Return g (N,) for scores (N, q), normals of the truncation (N, t) and inputs (N,)."""
        table = xr.Dataset({name: ("draw", column) for name, column in values.items()})
        for name, decoder in self.decoders.items():
            layout = self.surrogate.layouts[name]
            y = layout.transform.inverse(decoder.offset + scores @ decoder.basis.T + omega @ decoder.truncation.T)
            shaped = np.asarray(y).reshape(len(scores), *layout.shape)
            table[name] = xr.DataArray(shaped, dims=("draw", *layout.dims), coords=dict(layout.coords))
        found = table[self.function] if isinstance(self.function, str) else self.function(table)
        if not isinstance(found, xr.DataArray) or found.dims != ("draw",):
            got = found.dims if isinstance(found, xr.DataArray) else type(found).__name__
            raise InputError(
                f"rare_event: the quantity is {got}; of= must give one number per draw, a DataArray with the dim "
                "'draw' only: lambda table: uq.functionals.peak(table['flow'], 'time')."
            )
        g = self.sign * (found.values.astype(np.float64) - self.threshold)
        if np.isnan(g).any():
            raise InputError(
                "rare_event: the quantity has no value (NaN) at some inputs; let the function of= define them."
            )
        return np.asarray(g)


@taught
@single_threaded
def rare_event(
    surrogate: Surrogate,
    threshold: float,
    *,
    of: str | Callable[[xr.Dataset], Any] | None = None,
    inputs: ParameterSpace | None = None,
    conditions: Mapping[str, float] | None = None,
    below: bool = False,
    samples: int = 2000,
    functions: int = 64,
    tolerance: float = TOLERANCE,
    rng: RandomState = 0,
) -> RareEvent:
    """Return the probability that a quantity passes a threshold, for events too rare for plain Monte Carlo.

    Use it for probabilities below 1 %. The prior is not cut at the design box: where the event is, there have to be
    runs. Make the design over a wide box, ``uq.sobol(space, n, over=space.box(1 - 1e-6))``, and follow `next_points`.

    Parameters
    ----------
    surrogate
        Anything that `propagate` takes, but no posterior.
    threshold
        In the unit of the quantity.
    of
        An output that is one number (may be left out when it is the only one), or a plain function of a table with the
        dim "draw" that holds outputs and inputs.
    inputs
        The law of the uncertain inputs; by default that of the surrogate.
    conditions
        Known inputs, a number each.
    below
        Whether less than the threshold is meant.
    samples
        Inputs of each level, and twice as many for the importance sample; the Monte Carlo error falls as its root.
    functions
        Of the surrogate.
    tolerance
        Largest standard deviation of the log probability due to the surrogate that still counts as reliable: 0.3 is a
        factor of 1.35 up or down.
    rng
        Whole number or generator.

    Returns
    -------
    RareEvent
        Print it.

    Raises
    ------
    InputError
        A posterior; unknown outputs, inputs or conditions; a quantity that is not one number per draw; settings that
        are not positive.
    SamplingError
        When the event is not reached within 15 levels, a probability of 1e-15.

    References
    ----------
    Au & Beck (2001), doi:10.1016/S0266-8920(01)00019-4; Papaioannou, Betz, Zwirglmaier & Straub (2015),
    doi:10.1016/j.probengmech.2015.06.006.

    Examples
    --------
    >>> import uqms as uq
    >>> space = uq.ParameterSpace(a=uq.Normal(0.0, 1.0), b=uq.Normal(0.0, 1.0))
    >>> simulator = uq.DirectSimulator(lambda a, b: a + b, space=space, outputs={"y": ()}, vectorized=True)
    >>> found = uq.rare_event(simulator, 6.0, rng=1)
    >>> bool(abs(found.probability / 1.10e-5 - 1.0) < 4 * found.variation)
    True
    """
    event = _read(surrogate, threshold, of, inputs, conditions, below)
    for key, count, least in (("samples", samples, 100), ("functions", functions, 2)):
        check.whole("rare_event", key, count, least=least)
    if isinstance(tolerance, bool) or not tolerance > 0.0:
        raise InputError(f"rare_event: tolerance is {tolerance!r}; give a positive number.")
    generator = as_generator(rng)
    v, probability, variation, levels = _climb(event, samples, generator)
    z = v[:, : event.d]
    importance = fit_mixture(z, np.full(len(z), 1.0 / len(z)), generator)
    z = importance.draw(2 * samples, generator)
    log_prior = -0.5 * np.sum(z**2, axis=1) - 0.5 * event.d * np.log(2.0 * np.pi)
    weight = np.exp(log_prior - importance.log_density(z))
    happens = _by_function(event, z, number_of_functions(surrogate, functions), generator)
    parts = crossed((happens * weight)[:, :, None, None], "independent")
    each = (happens @ weight) / len(z)
    mean = float(each.mean())
    values, u = event.inputs(z)
    box = surrogate.domain
    inside = np.ones(len(z), dtype=np.bool_) if design_box(surrogate) is None else _inside(u)
    share_here = happens.mean(axis=0) * weight
    outside = float(share_here[~inside].sum() / share_here.sum()) if mean else 1.0
    error = float(parts.monte_carlo) / mean if mean else np.inf
    shared = float(parts.shared) / mean if mean else np.inf
    spread, sampled = (float(np.sqrt(np.log1p(one**2))) for one in (shared, error))
    lower, upper = _interval(each, shared, sampled)
    points = xr.Dataset(
        {
            **{name: ("sample", values[name], _attributes(surrogate, name)) for name in box.names},
            "weight": ("sample", share_here / max(float(share_here.sum()), 1e-300)),
            "prior_weight": ("sample", weight / weight.sum()),
            "event": ("sample", happens.mean(axis=0)),
        },
        attrs={
            "box": json.dumps(box.to_dict(), allow_nan=False),
            **{key: text for key, text in getattr(surrogate, "attrs", {}).items() if key == "space"},
        },
    )
    reliable, message = _judged(spread, outside, error, mean, probability, variation, tolerance)
    total = spread**2 + sampled**2
    return RareEvent(
        mean,
        lower,
        upper,
        error,
        spread,
        spread**2 / total if total > 0.0 else 0.0,
        outside,
        (probability, variation),
        levels,
        event.evaluations + len(z),
        points,
        reliable,
        message,
    )


def _attributes(surrogate: Surrogate, name: str) -> dict[str, str]:
    """Return what a design says of an input, as far as the surrogate knows it."""
    text = getattr(surrogate, "attrs", {}).get("space")
    space = None if text is None else ParameterSpace.from_json(text)
    known = space is not None and name in space.inputs
    return space.attributes(name) if space is not None and known else {"role": "input", "kind": "parameter", "unit": ""}


def _read(
    surrogate: Any,
    threshold: float,
    of: str | Callable[[xr.Dataset], Any] | None,
    inputs: ParameterSpace | None,
    conditions: Mapping[str, float] | None,
    below: bool,
) -> _Event:
    if not isinstance(surrogate, Surrogate):
        raise InputError(
            f"rare_event: got a {type(surrogate).__name__}; give a surrogate. After a calibration: "
            "uq.propagate(posterior).exceedance(threshold)."
        )
    check_fixed_rows(surrogate, "rare_event")
    space = space_of(surrogate) if inputs is None else inputs
    names, outputs = surrogate.domain.names, list(surrogate.layouts)
    if not isinstance(space, ParameterSpace) or not set(space.names) <= set(names):
        raise InputError(f"rare_event: inputs is {space!r}; give a ParameterSpace of some of {list(names)}.")
    known, scalar = condition_table(conditions, [name for name in names if name not in space.names], names)
    if not scalar:
        raise InputError("rare_event: conditions are one number each; ask once for each condition.")
    function = outputs[0] if of is None and len(outputs) == 1 else of
    if not callable(function) and function not in outputs:
        raise InputError(f"rare_event: of is {of!r}; give a function, or one of the outputs {outputs}.")
    if isinstance(threshold, bool) or not np.isfinite(threshold):
        raise InputError(f"rare_event: threshold is {threshold!r}; give a finite number.")
    numbers = {name: float(value[0]) for name, value in known.items()}
    return _Event(surrogate, space, numbers, function, float(threshold), -1.0 if below else 1.0)


def _climb(event: _Event, n: int, rng: np.random.Generator) -> tuple[Array, float, float, tuple[float, ...]]:
    """Return points of the event (N, D), its probability and coefficient of variation, and the thresholds passed."""
    v = rng.standard_normal((n, event.size))
    g = event.at(v)
    seeds = max(int(STEP * n), FEW)
    log_p, squared, scale, correlation = 0.0, 0.0, 0.6, 0.0
    levels: list[float] = []
    while log_p > (LEVELS - 0.5) * np.log(STEP):
        happened = int(np.count_nonzero(g > 0.0))
        if happened >= seeds:
            share = happened / n
            squared += (1.0 - share) / (share * n) * (1.0 + correlation)
            return v[g > 0.0], float(np.exp(log_p) * share), float(np.sqrt(squared)), tuple(levels)
        last = np.partition(g, n - seeds)[n - seeds]
        # A quantity with few values has many points at the last one: all of them go on, or only those beyond it.
        chosen = g >= last if np.mean(g >= last) <= PLATEAU else g > last
        if not chosen.any():
            raise SamplingError(
                f"rare_event: of {n} inputs {np.mean(g == last):.0%} give {event.threshold + event.sign * last:.4g}, "
                f"none goes beyond it, and the threshold {event.threshold:.4g} is not reached. Take more samples=, or "
                "let of= return a number that changes gradually, such as the one before it was rounded or compared."
            )
        level = float(0.5 * (g[chosen].min() + g[~chosen].max()))
        share = float(chosen.mean())
        squared += (1.0 - share) / (share * n) * (1.0 + correlation)
        log_p += float(np.log(share))
        levels.append(event.threshold + event.sign * level)
        order = np.argsort(-g, kind="stable")[: int(chosen.sum())]
        v, g, scale, correlation = _chains(event, v[order], g[order], level, n, scale, rng)
    raise SamplingError(
        f"rare_event: after {len(levels)} levels the quantity is at {levels[-1]:.4g}, and the threshold at "
        f"{event.threshold:.4g} is not reached: its probability is below {np.exp(log_p):.0e}. Can it be reached at all?"
    )


def _chains(
    event: _Event, v: Array, g: Array, level: float, n: int, scale: float, rng: np.random.Generator
) -> tuple[Array, Array, float, float]:
    """Return n points beyond a level by chains from points there, the scale of steps, and their correlation."""
    own = np.clip(v.std(axis=0), 1e-3, None) if len(v) >= FEW else np.ones(v.shape[1])
    length = -(-n // len(v))
    parts, values = [v], [g]
    for step in range(1, length):
        sd = np.minimum(1.0, scale * own)
        moved = np.sqrt(1.0 - sd**2) * v + sd * rng.standard_normal(v.shape)
        found = event.at(moved)
        taken = found > level
        v, g = np.where(taken[:, None], moved, v), np.where(taken, found, g)
        parts.append(v)
        values.append(g)
        scale *= float(np.exp((taken.mean() - ACCEPTED) / np.sqrt(step)))
    chains = np.stack(values)  # (length, seeds)
    happens = chains > 0.0
    gamma = _correlation(happens if happens.mean() >= STEP else chains >= np.quantile(chains, 1.0 - STEP))
    return np.concatenate(parts)[:n], chains.ravel()[:n], scale, gamma


def _correlation(happened: Bools) -> float:
    """Return by how much correlation along chains (length, seeds) enlarges the variance of a share, over 1."""
    share = happened.mean()
    variance = share * (1.0 - share)
    length = len(happened)
    if variance <= 0.0:
        return 0.0
    off = happened - share
    lags: Ints = np.arange(1, length)
    along = np.array([np.mean(off[:-lag] * off[lag:]) for lag in lags])
    return max(0.0, float(2.0 * np.sum((1.0 - lags / length) * along) / variance))


def _by_function(event: _Event, z: Array, f: int, rng: np.random.Generator) -> Array:
    """Return whether the event happens (F, N), each function of the surrogate at all inputs z (N, d)."""
    values, u = event.inputs(z)
    scores = joint_draws(event.surrogate, f, u, rng)(u)
    numbers = sum(int(np.prod(layout.shape)) for layout in event.surrogate.layouts.values())
    size = max(1, NUMBERS // (len(z) * numbers))
    parts = []
    for start in range(0, f, size):
        some = scores[start : start + size]
        many = {name: np.tile(column, len(some)) for name, column in values.items()}
        omega = rng.standard_normal((len(some) * len(z), event.t))
        parts.append(event.beyond(some.reshape(len(some) * len(z), -1), omega, many).reshape(len(some), len(z)))
    return (np.concatenate(parts) > 0.0).astype(np.float64)


def _inside(u: Array) -> Bools:
    return np.asarray(((u >= -1e-9) & (u <= 1.0 + 1e-9)).all(axis=1))


def _interval(each: Array, shared: float, sampled: float) -> tuple[float, float]:
    """Return the 95 % interval: functions without their Monte Carlo scatter, times a lognormal error."""
    mean, spread = each.mean(), each.std(ddof=1) if len(each) > 1 else 0.0
    shrunk = mean + (min(shared * mean / spread, 1.0) if spread > 0.0 else 0.0) * (each - mean)
    errors = np.exp(sampled * ndtri((np.arange(LAWS) + 0.5) / LAWS))
    low, high = np.quantile(shrunk[:, None] * errors, [0.025, 0.975])
    return float(low), float(min(high, 1.0))


def _judged(
    spread: float, outside: float, error: float, mean: float, subset: float, variation: float, tolerance: float
) -> tuple[bool, str]:
    said = []
    if not spread <= tolerance:
        said.append(
            f"The surrogate is not good enough there: its error alone moves the probability by a factor of "
            f"{np.exp(spread):.2g} (tolerance {np.exp(tolerance):.2g}). Run result.next_points(n) and fit again."
        )
    if outside > OUTSIDE:
        said.append(
            f"{outside:.0%} of the event lies outside of the design box, where the surrogate extrapolates. Run "
            "result.next_points(n), or a design over a wider box, space.box(1 - 1e-6)."
        )
    apart = abs(np.log(max(mean, 1e-300) / subset)) / np.hypot(np.log1p(error), np.log1p(variation) + 1e-9)
    if error > 0.3 or apart > 4.0:
        said.append(
            f"The Monte Carlo error is large (importance sampling {mean:.2g}, subset simulation {subset:.2g}, "
            "coefficients of variation "
            f"{error:.2g} and {variation:.2g}): take more samples=."
        )
    reliable = spread <= tolerance and outside <= OUTSIDE and error <= 0.3 and apart <= 4.0
    return bool(reliable), " ".join(said) or "The surrogate is good enough there."
