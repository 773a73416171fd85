"""Over which draws of dependent inputs effects are taken: a prior with its correlations, a posterior, or a user's own.

Notation: x (n, p) draws of the p inputs that vary; u (n, d) the same in the unit cube of the design box, with the fixed
ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pandas as pd
import xarray as xr

from uqms._typing import Array, Bools, Ints
from uqms.calibration import Posterior
from uqms.errors import InputError
from uqms.parameters import Box, Condition, ParameterSpace
from uqms.sensitivity._inputs import OUTSIDE, space_of
from uqms.surrogates import Surrogate

__all__ = ["DependentDraws", "dependent_draws"]

LEAST = 200
REPEATED = 0.02


@final
@dataclass(frozen=True, eq=False)
class DependentDraws:
    """Draws of the inputs that vary, in random order.

    Attributes
    ----------
    names
        Of the inputs that vary.
    u
        (n, d), all inputs in the unit cube of the design box.
    fixed
        By name, the others.
    outside
        Share of the draws that was outside of the box, and left out.
    block
        How many neighbouring draws are about as good as one: 1 for independent draws, more for a chain's.
    """

    names: tuple[str, ...]
    u: Array
    fixed: Mapping[str, float]
    outside: float
    block: int = 1


def dependent_draws(
    surrogate: Surrogate,
    inputs: Any,
    conditions: Mapping[str, Any] | None,
    n: int,
    rng: np.random.Generator,
    who: str,
) -> DependentDraws:
    """Return up to n draws of the inputs within the design box.

    Raises
    ------
    InputError
        When inputs are missing or unknown, too few draws lie inside of the box or they repeat, or a condition is
        neither fixed nor given a range.
    """
    box = surrogate.domain
    given = _conditions(conditions, box, who)
    block = 1
    if isinstance(inputs, Posterior):
        columns, block = _of_posterior(inputs, n)
    elif inputs is None or isinstance(inputs, ParameterSpace):
        columns = _of_space(space_of(surrogate, who) if inputs is None else inputs, box, given, n, rng, who)
    else:
        columns = _of_draws(inputs, box, n, rng, who)
        block = max(1, round(max(_correlation_time(values) for values in columns.values())))
    columns = {name: values for name, values in columns.items() if name in box.names and name not in given}
    count = len(next(iter(columns.values()))) if columns else n
    fixed: dict[str, float] = {}
    for name, value in given.items():
        if isinstance(value, Condition):
            columns[name] = value.low + (value.high - value.low) * rng.random(count)
        else:
            fixed[name] = value
    missing = [name for name in box.names if name not in columns and name not in fixed]
    if missing:
        raise InputError(
            f"{who}: inputs are {', '.join(box.names)}; missing {', '.join(missing)}. Give draws of each, or for known "
            f"ones a value: conditions={{{missing[0]!r}: ...}}."
        )
    # What does not vary is no input of which an effect could be asked.
    fixed |= {name: float(values[0]) for name, values in columns.items() if (values == values[0]).all()}
    names = tuple(name for name in box.names if name not in fixed)
    if not names:
        raise InputError(f"{who}: every input is fixed; let at least one vary.")
    x = np.column_stack([np.full(count, fixed[name]) if name in fixed else columns[name] for name in box.names])
    inside = box.contains(x)
    _check_inside(who, inside)
    u = np.asarray(box.to_unit(x[inside]))
    return DependentDraws(names, _distinct(who, u), fixed, float(1.0 - inside.mean()), block)


def _conditions(conditions: object, box: Box, who: str) -> dict[str, Condition | float]:
    if conditions is None:
        return {}
    if not isinstance(conditions, Mapping):
        raise InputError(f"{who}: conditions is {conditions!r}; give a mapping of name to a number or a range.")
    out: dict[str, Condition | float] = {}
    for name, value in conditions.items():
        if name not in box.names:
            raise InputError(f"{who}: conditions name {name!r}; the inputs are {', '.join(box.names)}.")
        at = box.names.index(name)
        low, high = box.lower[at], box.upper[at]
        slack = 1e-9 * (high - low)
        ends = (value.low, value.high) if isinstance(value, Condition) else (value, value)
        try:
            first, last = (float(end) for end in ends)
        except (TypeError, ValueError) as error:
            raise InputError(f"{who}: {name} is {value!r}; give one number, or uq.Condition(low, high).") from error
        if not (low - slack <= first and last <= high + slack):
            raise InputError(f"{who}: {name} = {value!r} leaves what was simulated, {low:g} to {high:g}.")
        out[name] = value if isinstance(value, Condition) else first
    return out


def _of_space(
    space: ParameterSpace, box: Box, given: Mapping[str, object], n: int, rng: np.random.Generator, who: str
) -> dict[str, Array]:
    """Return n draws of the prior; those outside of the box are left out later."""
    open_ = [name for name in space.conditions if name in box.names and name not in given]
    if open_:
        ends = space.conditions[open_[0]]
        raise InputError(
            f"{who}: {', '.join(open_)} is known, without a distribution. Fix it, conditions={{{open_[0]!r}: "
            f"{0.5 * (ends.low + ends.high):g}}}, or give its range: conditions={{{open_[0]!r}: "
            "uq.Condition(low, high)}."
        )
    drawn = space.draw(n, rng)
    return {name: drawn[name].values for name in space.names}


def _of_posterior(posterior: Posterior, n: int) -> tuple[dict[str, Array], int]:
    """Return draws spread evenly over the chains, and how many of them count as one."""
    problem = posterior.single
    total = posterior.draws.sizes["chain"] * posterior.draws.sizes["draw"]
    picked = _evenly(total, n)
    table = posterior.summary()
    effective = float(table.loc[list(problem.parameters), "ess_bulk"].min())
    names = {str(name): posterior.draws[name].values.ravel()[picked] for name in problem.parameters}
    names |= {name: np.full(len(picked), value) for name, value in problem.fixed.items()}
    return names, max(1, int(np.ceil(len(picked) / max(effective, 1.0)))) if np.isfinite(effective) else 1


def _evenly(total: int, n: int) -> Ints:
    return np.unique(np.linspace(0, total - 1, min(n, total)).astype(np.int64))


def _of_draws(inputs: object, box: Box, n: int, rng: np.random.Generator, who: str) -> dict[str, Array]:
    if not isinstance(inputs, Mapping | pd.DataFrame):
        raise InputError(
            f"{who}: inputs is a {type(inputs).__name__}; give a ParameterSpace, a posterior, or draws by name: a "
            "mapping, a DataFrame or a Dataset."
        )
    columns: dict[str, Array] = {}
    for name in inputs:
        if name not in box.names:
            if isinstance(inputs, xr.Dataset):  # a posterior's group has noise beside the parameters
                continue
            raise InputError(f"{who}: inputs name {name!r}; the surrogate has {', '.join(box.names)}.")
        values = np.asarray(inputs[name], dtype=np.float64).ravel()
        if not np.isfinite(values).all() or not len(values):
            raise InputError(f"{who}: the draws of {name} are not all finite, or there are none.")
        columns[str(name)] = values
    lengths = {name: len(values) for name, values in columns.items() if len(values) > 1}
    if len(set(lengths.values())) > 1:
        raise InputError(f"{who}: draws are joint, so there are equally many of each; got {lengths}.")
    count = max(lengths.values(), default=0)
    if count < LEAST:
        raise InputError(f"{who}: there are {count} draws; give at least {LEAST}, some thousands are better.")
    picked = np.sort(rng.permutation(count)[:n])
    return {name: np.broadcast_to(values, count)[picked] for name, values in columns.items()}


def _correlation_time(x: Array) -> float:
    """Return how many neighbouring draws (n,) are about as good as one, 1 for independent ones.

    Autocorrelations are added up as long as pairs of them are above the noise (Geyer 1992, doi:10.1214/ss/1177011137).
    """
    n, off = len(x), x - x.mean()
    spectrum = np.abs(np.fft.rfft(off, 2 * n)) ** 2
    rho = np.fft.irfft(spectrum)[:n] / max(float(off @ off), 1e-300)
    pairs = rho[: n - n % 2].reshape(-1, 2).sum(axis=1)
    noise = 2.0 / np.sqrt(n)
    last = int(np.argmax(pairs < noise)) if (pairs < noise).any() else len(pairs)
    return max(1.0, 2.0 * float(pairs[:last].sum()) - 1.0)


def _check_inside(who: str, inside: Bools) -> None:
    share = 1.0 - float(inside.mean())
    if share > OUTSIDE:
        raise InputError(
            f"{who}: {share:.1%} of the draws lie outside of the design box, where the surrogate has no runs (at "
            "most 1 % are left out). Narrow the distribution, or simulate a wider design: uq.sobol(space, n, over=box)."
        )
    if int(inside.sum()) < LEAST // 2:
        raise InputError(f"{who}: {int(inside.sum())} draws lie inside of the design box; give at least {LEAST}.")


def _distinct(who: str, u: Array) -> Array:
    """Return the draws without repetitions, in their order: a draw that stands twice would be its own neighbour."""
    _, first = np.unique(u, axis=0, return_index=True)
    if len(first) < (1.0 - REPEATED) * len(u):
        raise InputError(
            f"{who}: {len(u) - len(first)} of {len(u)} draws repeat others in all inputs, which have to take different "
            "values. Of a chain that did not move give fewer, for example every tenth: points=..., or use a sampler "
            "that moves."
        )
    return np.asarray(u[np.sort(first)])
