"""The prior as calibration uses it: restricted to the design box, with its joint blocks and its constraints.

==========  ======================================================================  ======
symbol      meaning                                                                 shape
==========  ======================================================================  ======
theta       inferred quantities by name, own units                                  (n,)
u           in the unit cube, one column a quantity                                 (n, P)
rest        1 - u, with the digits that u does not have near 1                      (n, P)
z           standard normal scores: Phi(z) = u, Phi(-z) = rest                      (n, P)
q           law of theta when u is uniform                                          (n,)
p           the prior: q times the weight                                           (n,)
==========  ======================================================================  ======

Independent priors restricted to a box are drawn by their quantiles, and p = q. A joint block is restricted to the box
one parameter after the other, which is not the same as jointly: the weight says how much they differ. A constraint
makes it zero where it is broken, and larger where it is not: p integrates to one. So does a probability of success,
which is a factor of p.

Both u and 1 - u are carried, and so are probabilities below and survival probabilities above a value: each is exact in
one tail. The map from z is exact to 37 sds on either side, where these probabilities are 1e-299.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, final

import numpy as np
from scipy.special import ndtr, ndtri

from uqms._typing import Array, Bools
from uqms.calibration.constraints import Constraint
from uqms.calibration.success import Success
from uqms.errors import InputError
from uqms.parameters import Prior
from uqms.parameters.mixture_prior import Block

__all__ = ["Allowed", "ConditionedPrior", "scores"]

POINTS, REPEATS = 2**12, 8
LEAST_ALLOWED = 0.01
BATCH = 4096


class Allowed(NamedTuple):
    """Fraction of the prior that constraints and success allow, and its Monte Carlo standard error."""

    share: float
    mcse: float


class _Levels(NamedTuple):
    """Mass of a whole prior between its limits, below and above the lower, below and above the upper limit."""

    inside: float
    below_lower: float
    above_lower: float
    below_upper: float
    above_upper: float

    def of(self, below: Array, above: Array) -> Array:
        """Return the level between the limits of values with this mass below and above them, from the nearer tail."""
        if self.below_lower <= 0.5:
            return (below - self.below_lower) / self.inside
        return (self.above_lower - above) / self.inside

    def rest(self, below: Array, above: Array) -> Array:
        """Return 1 - `of`, with all digits where it is tiny."""
        if self.above_upper <= 0.5:
            return (above - self.above_upper) / self.inside
        return (self.below_upper - below) / self.inside


class _Joint(NamedTuple):
    """A block with its columns, its ends and the log of its mass between them."""

    at: slice
    block: Block
    lower: Array
    upper: Array
    log_mass: float


def scores(u: Array, rest: Array) -> Array:
    """Return standard normal scores of levels u = 1 - rest, from the smaller of the two."""
    return np.where(rest < u, -ndtri(rest), ndtri(u))


@final
@dataclass(frozen=True, eq=False)
class ConditionedPrior:
    """Draws, densities and the map to the unit cube of the prior of everything that is inferred."""

    priors: Mapping[str, Prior]
    limits: Mapping[str, tuple[float, float]]
    blocks: tuple[Block, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    fixed: Mapping[str, float] | None = None
    success: Success | None = None

    @property
    def plain(self) -> bool:
        """Whether quantities are independent and unconstrained."""
        return not self.blocks and not self.constraints and self.success is None

    @cached_property
    def levels(self) -> dict[str, _Levels]:
        """Masses of each whole prior at its two limits; that between them as a difference within the nearer tail."""
        out = {}
        for name, prior in self.priors.items():
            ends = np.array(self.limits[name])
            (below_lower, below_upper), (above_lower, above_upper) = prior.cdf(ends).tolist(), prior.sf(ends).tolist()
            inside = below_upper - below_lower if below_lower <= 0.5 else above_lower - above_upper
            out[name] = _Levels(inside, below_lower, above_lower, below_upper, above_upper)
        return out

    @cached_property
    def joint(self) -> tuple[_Joint, ...]:
        """The blocks, restricted to the limits."""
        names, out = list(self.priors), []
        for block in self.blocks:
            first = names.index(block.names[0])
            lower, upper = np.array([self.limits[name] for name in block.names]).T
            whole = all(self.limits[name] == block.priors[name].support for name in block.names)
            log_mass = 0.0 if whole else float(np.log(block.mass_inside(lower, upper)))
            out.append(_Joint(slice(first, first + len(block.names)), block, lower, upper, log_mass))
        return tuple(out)

    def from_cube(self, u: Array, rest: Array | None = None) -> dict[str, Array]:
        """Return theta, each (n,), of u (n, P); from `rest` in the upper tail, where it is given."""
        out = {}
        for column, (name, prior) in enumerate(self.priors.items()):
            one = self.levels[name]
            below = one.below_lower + one.inside * u[:, column]
            if rest is None:
                out[name] = np.asarray(prior.quantile(below))
                continue
            survival = one.above_upper + one.inside * rest[:, column]
            upper_half = survival < below
            out[name] = np.empty(len(u))
            out[name][~upper_half] = prior.quantile(below[~upper_half])
            out[name][upper_half] = prior.isf(survival[upper_half])
            # The quantile of a limit's level may miss the limit by rounding.
            out[name] = np.clip(out[name], *self.limits[name])
        for at, block, lower, upper, _ in self.joint:
            above = None if rest is None else np.ascontiguousarray(rest[:, at])
            x = block.from_cube(np.ascontiguousarray(u[:, at]), lower, upper, above)
            out |= {name: np.clip(x[:, j], lower[j], upper[j]) for j, name in enumerate(block.names)}
        return out

    def alone(self, theta: Mapping[str, Array]) -> Array:
        """Return the level (n, P) of each quantity in its own prior between the limits, whatever the others are."""
        return np.column_stack([self.levels[name].of(*masses) for name, masses in self._masses(theta)])

    def alone_above(self, theta: Mapping[str, Array]) -> Array:
        """Return 1 - `alone` (n, P), with all digits where it is tiny."""
        return np.column_stack([self.levels[name].rest(*masses) for name, masses in self._masses(theta)])

    def _masses(self, theta: Mapping[str, Array]) -> Iterator[tuple[str, tuple[Array, Array]]]:
        """Yield each quantity with the mass (n,) of its whole prior below and above theta."""
        for name, prior in self.priors.items():
            x = np.atleast_1d(theta[name])
            yield name, (np.asarray(prior.cdf(x)), np.asarray(prior.sf(x)))

    def to_cube(self, theta: Mapping[str, Array]) -> Array:
        """Return u (n, P) of theta, the inverse of `from_cube`."""
        u = self.alone(theta)
        for at, block, lower, upper, _ in self.joint:
            u[:, at] = block.to_cube(self._stack(block, theta), lower, upper)
        return u

    def from_normal(self, z: Array) -> dict[str, Array]:
        """Return theta, each (n,), of standard normal scores z (n, P)."""
        return self.from_cube(ndtr(z), ndtr(-z))

    def to_normal(self, theta: Mapping[str, Array]) -> Array:
        """Return z (n, P) of theta, the inverse of `from_normal`; infinite at an end of the prior."""
        rest = self.alone_above(theta)
        for at, block, lower, upper, _ in self.joint:
            rest[:, at] = block.rest(self._stack(block, theta), lower, upper)
        return scores(self.to_cube(theta), rest)

    def alone_normal(self, theta: Mapping[str, Array]) -> Array:
        """Return the standard normal score (n, P) of each quantity alone, see `alone`."""
        return scores(self.alone(theta), self.alone_above(theta))

    def allows(self, theta: Mapping[str, Array]) -> Bools:
        """Return which theta (n,) fulfil all constraints."""
        count = len(np.atleast_1d(next(iter(theta.values()))))
        out: Bools = np.ones(count, dtype=bool)
        for one in self.constraints:
            out &= one.allows({**(self.fixed or {}), **theta})
        return out

    def _box_weight(self, theta: Mapping[str, Array]) -> Array:
        """Return the log of prod_j P(x_j inside | those before), over the blocks."""
        total = np.zeros(len(np.atleast_1d(next(iter(theta.values())))))
        for _, block, lower, upper, _ in self.joint:
            total = total + block.log_inside(self._stack(block, theta), lower, upper)
        return total

    def log_weight(self, theta: Mapping[str, Array]) -> Array:
        """Return log p - log q (n,); -inf where a constraint is broken."""
        total = self._box_weight(theta) - sum(one.log_mass for one in self.joint)
        return np.asarray(total + self._log_allowed(theta) - np.log(self.allowed.share))

    def _log_allowed(self, theta: Mapping[str, Array]) -> Array:
        """Return the log of the factor (n,) of constraints and success, up to its normalising constant."""
        out = np.zeros(len(np.atleast_1d(next(iter(theta.values())))))
        if self.success is not None:
            out = out + self.success.log({name: np.atleast_1d(theta[name]) for name in self.success.names})
        return np.where(self.allows(theta), out, -np.inf) if self.constraints else out

    def log_terms(self, theta: Mapping[str, Array]) -> dict[str, Array]:
        """Return log p as a sum: of each quantity given those before it, and what "constraints" and "success" add."""
        out = {}
        for name, prior in self.priors.items():
            out[name] = np.asarray(prior.log_density(theta[name])) - np.log(self.levels[name].inside)
        for one in self.joint:
            terms = one.block.log_terms(self._stack(one.block, theta))
            out |= {name: terms[..., j] for j, name in enumerate(one.block.names)}
            out[one.block.names[0]] = out[one.block.names[0]] - one.log_mass
        share = -np.log(self.allowed.share)
        if self.constraints:
            out["constraints"] = np.where(self.allows(theta), share, -np.inf)
        if self.success is not None:
            log = self.success.log({name: np.atleast_1d(theta[name]) for name in self.success.names})
            out["success"] = log if self.constraints else log + share
        return out

    def draw(self, n: int, rng: np.random.Generator) -> dict[str, Array]:
        """Return n independent draws of p: by quantiles; by rejection where there are blocks, constraints, success."""
        if self.plain:
            return self.from_cube(np.column_stack([rng.random(n) for _ in self.priors]))
        _ = self.allowed  # raises where rejection would go on for ever
        bound = sum(one.block.largest_log_inside(one.lower, one.upper) for one in self.joint)
        parts: list[dict[str, Array]] = []
        count = 0
        while count < n:
            theta = self.from_cube(rng.random((max(n, BATCH), len(self.priors))))
            kept = self.allows(theta)
            if self.joint:
                kept &= np.log(rng.random(len(kept))) < self._box_weight(theta) - bound
            if self.success is not None:
                kept &= np.log(rng.random(len(kept))) < self._log_allowed(theta)
            parts.append({name: values[kept] for name, values in theta.items()})
            count += int(kept.sum())
        return {name: np.concatenate([part[name] for part in parts])[:n] for name in self.priors}

    @cached_property
    def allowed(self) -> Allowed:
        """Fraction of the prior within the box that constraints and success allow, by randomised quasi Monte Carlo.

        Raises
        ------
        InputError
            When it is below 1 %.
        """
        if not self.constraints and self.success is None:
            return Allowed(1.0, 0.0)
        shares = [float(np.average(np.exp(self._log_allowed(theta)), weights=w)) for theta, w, _ in self._points]
        out = Allowed(float(np.mean(shares)), float(np.std(shares, ddof=1) / np.sqrt(REPEATS)))
        if out.share >= LEAST_ALLOWED:
            return out
        if not self.constraints:
            raise InputError(
                f"failures='impossible': success has {out.share:.2%} of the prior, less than {LEAST_ALLOWED:.0%}. Move "
                "the prior to where the simulator works, or repair the simulator."
            )
        raise InputError(
            f"constraints: {[one.text for one in self.constraints]} allow {out.share:.2%} of the prior, less "
            f"than {LEAST_ALLOWED:.0%}. Check their direction and units; if "
            "they are intended, express them by the prior: infer the difference or the ratio, with a prior of its own."
        )

    @cached_property
    def _points(self) -> list[tuple[dict[str, Array], Array, Array]]:
        """Return theta, weight and u of the points; quantities that no constraint mentions are at their medians."""
        from scipy.stats import qmc

        mentioned = {name for one in self.constraints for name in one.names}
        mentioned |= set(() if self.success is None else self.success.names)
        for block in self.blocks:
            mentioned |= set(block.names)
        columns = [i for i, name in enumerate(self.priors) if name in mentioned]
        out = []
        for seed in range(REPEATS):  # a fixed rule: a normalising constant is the same in each call
            sobol = qmc.Sobol(max(len(columns), 1), scramble=True, rng=np.random.default_rng(seed))
            u = np.full((POINTS, len(self.priors)), 0.5)
            u[:, columns] = sobol.random(POINTS)[:, : len(columns)]
            theta = self.from_cube(u)
            out.append((theta, np.exp(self._box_weight(theta) - sum(one.log_mass for one in self.joint)), u))
        return out

    @cached_property
    def centre(self) -> dict[str, float]:
        """A point in the middle of the prior that constraints allow, where success is as likely as not."""
        u = np.full((1, len(self.priors)), 0.5)
        theta = self.from_cube(u)
        if self._log_allowed(theta)[0] < np.log(0.5):
            points = np.concatenate([p[2] for p in self._points])
            logs = np.concatenate([self._log_allowed(p[0]) for p in self._points])
            allowed = logs > min(np.log(0.5), float(logs.max()) - np.log(2.0))
            far = np.where(allowed, np.sum(ndtri(np.clip(points, 1e-9, 1 - 1e-9)) ** 2, axis=1), np.inf)
            theta = self.from_cube(points[[int(np.argmin(far))]])
        return {name: float(values[0]) for name, values in theta.items()}

    @staticmethod
    def _stack(block: Block, theta: Mapping[str, Any]) -> Array:
        return np.stack([np.asarray(theta[name], dtype=np.float64) for name in block.names], axis=-1)

    def correlation(self, names: tuple[str, ...]) -> Array:
        """Return the prior correlation of parameters on the surrogate's scale, of the blocks (p, p)."""
        out = np.eye(len(names))
        for block in self.blocks:
            at = [names.index(name) for name in block.names]
            out[np.ix_(at, at)] = block.correlation
        return out
