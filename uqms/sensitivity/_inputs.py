"""Over which inputs indices are taken: independent distributions, ranges of conditions, and values that are fixed.

Notation: v (k, p) in the unit cube, one column an input that varies; u (k, d) in the unit cube of the design box.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from uqms._typing import Array
from uqms.errors import InputError
from uqms.parameters import Box, Condition, ParameterSpace, Prior
from uqms.surrogates import Surrogate
from uqms.surrogates.protocol import check_fixed_rows

__all__ = ["OUTSIDE", "IndependentInputs", "check_surrogate", "independent_inputs", "space_of"]

OUTSIDE = 0.01  # mass outside of the design box that is refused
LEAST_DRAWS = 100
FACTS = "total and first-order indices of dependent inputs do not add up to the variance"


@final
@dataclass(frozen=True, eq=False)
class IndependentInputs:
    """Independent inputs within a design box.

    Attributes
    ----------
    box
        The surrogate's.
    laws
        By name, the distribution of each input that varies: a prior, a range or sorted draws.
    fixed
        By name, the others.
    outside
        Mass of the distributions outside of the box, which is cut off.
    """

    box: Box
    laws: Mapping[str, Prior | Condition | Array]
    fixed: Mapping[str, float]
    outside: float

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the p inputs that vary."""
        return tuple(self.laws)

    def to_box(self, v: Array) -> Array:
        """Return u (k, d) of v (k, p): quantiles of each input within the box."""
        x = np.empty((len(v), self.box.d))
        for i, (name, lower, upper) in enumerate(zip(self.box.names, self.box.lower, self.box.upper, strict=True)):
            if name in self.fixed:
                x[:, i] = self.fixed[name]
                continue
            law, p = self.laws[name], v[:, self.names.index(name)]
            if isinstance(law, Prior):
                low, high = law.cdf(lower), law.cdf(upper)
                x[:, i] = np.clip(law.quantile(low + p * (high - low)), lower, upper)
            elif isinstance(law, Condition):
                x[:, i] = law.low + p * (law.high - law.low)
            else:
                x[:, i] = np.quantile(law, p)
        return np.asarray(self.box.to_unit(x))


def check_surrogate(surrogate: object, who: str, *, independent: bool = True) -> Surrogate:
    """Refuse what is no surrogate, one whose rows depend on the input, or (`independent`) scores are correlated.

    Raises
    ------
    InputError
        When it does not follow the protocol.
    ConformanceError
        When its form is none that indices are computed for.
    """
    if isinstance(surrogate, xr.Dataset) and "state" in surrogate:
        raise InputError(
            f"{who}: got a Dataset of runs; give a fitted surrogate, uq.GaussianProcess().fit(ensemble). Indices from "
            "the runs alone are uq.given_data_indices(ensemble)."
        )
    if not isinstance(surrogate, Surrogate):
        raise InputError(
            f"{who}: got a {type(surrogate).__name__}; give a fitted surrogate, uq.GaussianProcess().fit(ensemble), or "
            "anything that follows uq.Surrogate."
        )
    check_fixed_rows(surrogate, who, independent=independent)
    return surrogate


def space_of(surrogate: Surrogate, who: str) -> ParameterSpace:
    """Return the space that a surrogate was trained in.

    Raises
    ------
    InputError
        When it does not say.
    """
    attrs = getattr(surrogate, "attrs", {})
    if not isinstance(attrs, Mapping) or "space" not in attrs:
        raise InputError(
            f"{who}: the surrogate has no priors of its inputs; give inputs=, a ParameterSpace or a "
            f"mapping of {', '.join(surrogate.domain.names)} to distributions or draws."
        )
    return ParameterSpace.from_json(attrs["space"])


def independent_inputs(
    surrogate: Surrogate,
    inputs: object,
    conditions: Mapping[str, object] | None,
    who: str,
) -> IndependentInputs:
    """Return the distributions over which indices are taken.

    Raises
    ------
    InputError
        When inputs are dependent, missing or unknown, lie outside of the design box, or none of them varies.
    """
    space = space_of(surrogate, who) if inputs is None else inputs
    given: dict[str, object] = {}
    if isinstance(space, ParameterSpace):
        dependent = [name for block in space.blocks for name in block.names]
        if dependent:
            raise InputError(
                f"{who}: the prior of {', '.join(dependent)} is joint, and {FACTS}. Use Shapley effects, "
                "uq.shapley_effects(surrogate), or give independent distributions: "
                f"inputs={{{dependent[0]!r}: uq.Normal(...), ...}}."
            )
        given |= space.priors
        ranges = [name for name in space.conditions if name in surrogate.domain.names]
        open_ = [name for name in ranges if name not in (conditions or {})]
        if open_:
            raise InputError(
                f"{who}: {', '.join(open_)} {'is' if len(open_) == 1 else 'are'} known, without a distribution. Fix "
                f"{'it' if len(open_) == 1 else 'them'}, conditions={{{open_[0]!r}: "
                f"{0.5 * (space.conditions[open_[0]].low + space.conditions[open_[0]].high):g}}}, or "
                f"give the range over which its effect counts: conditions={{{open_[0]!r}: uq.Condition(low, high)}}."
            )
    elif isinstance(space, Mapping):
        given |= {str(name): value for name, value in space.items()}
    else:
        _refuse_posterior(who, space)
        raise InputError(
            f"{who}: inputs is a {type(space).__name__}; give a ParameterSpace, or a mapping of input to a prior, "
            "uq.Condition(low, high), a number (fixed) or draws."
        )
    if conditions is not None and not isinstance(conditions, Mapping):
        raise InputError(f"{who}: conditions is {conditions!r}; give a mapping of name to a number or a range.")
    given |= {str(name): value for name, value in (conditions or {}).items()}
    box = surrogate.domain
    unknown = sorted(set(given) - set(box.names)) if not isinstance(space, ParameterSpace) else []
    unknown += sorted(set(conditions or {}) - set(box.names) - set(unknown))
    missing = [name for name in box.names if name not in given]
    if missing or unknown:
        raise InputError(f"{who}: inputs are {', '.join(box.names)}; missing {missing}, unknown {unknown}.")
    laws: dict[str, Prior | Condition | Array] = {}
    fixed: dict[str, float] = {}
    inside = 1.0
    for name, lower, upper in zip(box.names, box.lower, box.upper, strict=True):
        law, mass = _law(who, name, given[name], lower, upper)
        inside *= mass
        if isinstance(law, float):
            fixed[name] = law
        else:
            laws[name] = law
    if not laws:
        raise InputError(f"{who}: every input is fixed; let at least one vary.")
    if inside < 1.0 - OUTSIDE:
        raise InputError(
            f"{who}: {1.0 - inside:.1%} of the distribution of the inputs lies outside of the design box, where "
            "the surrogate has no runs (at most 1 % is cut off). Narrow it, or simulate a wider design: "
            "uq.sobol(space, n, over=box)."
        )
    return IndependentInputs(box, laws, fixed, 1.0 - inside)


def _refuse_posterior(who: str, inputs: object) -> None:
    from uqms.calibration.posterior import Posterior

    if isinstance(inputs, Posterior):
        raise InputError(
            f"{who}: the draws of a posterior are dependent, and {FACTS}: a fraction of the variance that two inputs "
            "have in common belongs to neither. Use Shapley effects, uq.shapley_effects(surrogate, posterior), which "
            f"divide it; or, for indices as if the inputs were independent, give the draws of each: {who}(surrogate, "
            f"posterior.draws[{list(inputs.problem.parameters)}])."
        )


def _law(
    who: str, name: str, value: object, lower: float, upper: float
) -> tuple[Prior | Condition | Array | float, float]:
    """Return one input's distribution or fixed value, and the mass of it inside of the box."""
    slack = 1e-9 * (upper - lower)
    if isinstance(value, Prior):
        return value, float(value.cdf(upper) - value.cdf(lower))
    if isinstance(value, Condition):
        if value.low < lower - slack or value.high > upper + slack:
            raise InputError(
                f"{who}: the range of {name}, {value.low:g} to {value.high:g}, leaves what was simulated, {lower:g} to "
                f"{upper:g}."
            )
        return value, 1.0
    numbers = _numbers(who, name, value)
    if numbers.size == 1:
        only = float(numbers.ravel()[0])
        if not lower - slack <= only <= upper + slack:
            raise InputError(f"{who}: {name} = {only:g} is outside of what was simulated, {lower:g} to {upper:g}.")
        return only, 1.0
    draws = np.sort(numbers.ravel())
    if len(draws) < LEAST_DRAWS:
        raise InputError(f"{who}: {name} has {len(draws)} draws; give at least {LEAST_DRAWS}, a prior or one number.")
    kept = draws[(draws >= lower - slack) & (draws <= upper + slack)]
    return kept, len(kept) / len(draws)


def _numbers(who: str, name: str, value: object) -> Array:
    try:
        numbers = np.asarray(value.values if isinstance(value, xr.DataArray) else _plain(value), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{who}: {name} is {value!r}; give a prior, uq.Condition(low, high), a number (fixed) or an array of draws."
        ) from error
    if not numbers.size or not np.isfinite(numbers).all():
        raise InputError(f"{who}: {name} has values that are not finite, or none.")
    return numbers


def _plain(value: object) -> ArrayLike:
    if isinstance(value, bool | str):
        raise TypeError
    return value  # type: ignore[return-value]
