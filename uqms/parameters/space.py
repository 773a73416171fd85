"""The space of a study: uncertain parameters with priors, known conditions with ranges, and the maps between them.

Three scales of a parameter, never mixed:

- design: unit cube by prior quantile (`ParameterSpace.to_cube`);
- surrogate input: log, logit or identity, then affine from the design box (`Box.to_unit`);
- sampler: unconstrained space (`ParameterSpace.to_real`).

Notation: theta (..., p) parameters in their own units; x (..., d) inputs, parameters then conditions; u in [0, 1];
z real.
"""

import html
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, final

import numpy as np

from uqms import _checks as check
from uqms._teaching import missing, spelled, taught
from uqms._typing import Array, ArrayLike, Named, RandomState, ScaleName, as_generator
from uqms.errors import FormatVersionError, InputError, UnknownKeyError
from uqms.parameters.box import Box
from uqms.parameters.joint_prior import MultivariateNormal
from uqms.parameters.mixture_prior import Block, NormalMixture, block_from_dict
from uqms.parameters.priors import Prior, has_long_tail, long_tail_message, prior_from_dict
from uqms.parameters.scale import SCALES, Interval

# Methods of other libraries, and what is meant here.
_ELSEWHERE = {
    "sample": "draws of the prior are space.draw(n, rng=1), a design is uq.sobol(space, n, rng=1)",
    "rvs": "draws of the prior are space.draw(n, rng=1)",
    "bounds": "it is space.box(), with lower and upper",
    "parameters": "names are space.names, priors space.priors",
    "keys": "names are space.names",
    "logpdf": "it is space.log_density(values)",
    "log_prob": "it is space.log_density(values)",
}

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Condition", "ParameterSpace", "checked_range"]

_JSON_VERSION = 3  # written where there are mixtures; files with normal blocks only stay version 2, others version 1


@taught
@final
@dataclass(frozen=True)
class Condition:
    """A known input with the range in which it is simulated: dose, heart rate, patient size.

    Parameters
    ----------
    low, high
        Range, in the condition's own unit. The design fills it uniformly.
    unit, description
        Shown in tables and figures.

    Raises
    ------
    InputError
        When low >= high or an end is not a finite number.

    Examples
    --------
    >>> import uqms as uq
    >>> uq.Condition(100, 400, unit="mg")
    Condition(low=100.0, high=400.0, unit='mg', description='')
    """

    low: float
    high: float
    unit: str = field(default="", kw_only=True)
    description: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        low, high = (check.number("Condition", key, getattr(self, key)) for key in ("low", "high"))
        check.ordered("Condition", low, high)
        if math.isinf(high - low):
            raise InputError(f"Condition: the width between {low:g} and {high:g} is beyond the range of a float.")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)
        check.text("Condition", "unit", self.unit)
        check.text("Condition", "description", self.description)

    def to_dict(self) -> dict[str, Any]:
        """Return the condition as a JSON object."""
        return {"low": self.low, "high": self.high, "unit": self.unit, "description": self.description}


@taught
@final
class ParameterSpace:
    """Named uncertain parameters with priors, independent or in joint blocks, and known conditions with ranges.

    It is the first line of every study: designs, surrogates and calibrations take names, units and priors from it.

    Parameters
    ----------
    *blocks
        `MultivariateNormal` for parameters that are known together; their names come first.
    conditions
        Known inputs, by name. They have a range and never a prior.
    **priors
        The prior of each parameter, by name; the name is the keyword under which the simulator gets the value.

    Raises
    ------
    InputError
        When there is no parameter, a name cannot be used or is used twice, or a value is no prior.

    Examples
    --------
    >>> import uqms as uq
    >>> space = uq.ParameterSpace(
    ...     beta=uq.LogNormal(median=1.8, sigma=0.3, unit="1/day", description="transmission rate"),
    ...     gamma=uq.LogNormal(median=0.5, sigma=0.3, unit="1/day", description="recovery rate"),
    ...     conditions={"dose": uq.Condition(100, 400, unit="mg")},
    ... )
    >>> space.names, space.inputs
    (('beta', 'gamma'), ('beta', 'gamma', 'dose'))
    >>> float(space.log_density({"beta": 1.8, "gamma": 0.5}))
    0.675...
    """

    __slots__ = ("_blocks", "_conditions", "_priors")

    _blocks: tuple[Block, ...]
    _conditions: dict[str, Condition]
    _priors: dict[str, Prior]  # of each parameter alone, those of the blocks first

    def __init__(self, /, *blocks: Block, conditions: Mapping[str, Condition] | None = None, **priors: Prior) -> None:
        known = {} if conditions is None else conditions
        if not isinstance(known, Mapping):
            raise InputError(f"conditions is {known!r}; give a mapping such as {{'dose': uq.Condition(100, 400)}}.")
        joint: dict[str, Prior] = {}
        for block in blocks:
            _check_block(block)
            twice = [name for name in block.names if name in joint or name in priors]
            if twice:
                raise InputError(f"{', '.join(twice)} has two priors, one of them in a block; leave one out.")
            joint |= block.priors
        priors = {**joint, **priors}
        if not priors:
            raise InputError(
                "The space has no parameters; give at least one with its prior, such as beta=uq.Uniform(0, 1)."
            )
        for name, prior in priors.items():
            _check_parameter(check.name(name, "parameter"), prior)
        for name, condition in known.items():
            _check_condition(check.name(name, "condition"), condition)
            if name in priors:
                raise InputError(
                    f"{name!r} is a parameter and a condition; rename one or leave out the one that is not meant."
                )
        object.__setattr__(self, "_blocks", blocks)
        object.__setattr__(self, "_priors", dict(priors))
        object.__setattr__(self, "_conditions", dict(known))

    # ------------------------------------------------------------------ names

    def __getitem__(self, name: str) -> "Prior | Condition":
        """Return the prior of a parameter, or the range of a condition.

        Raises
        ------
        UnknownKeyError
            When the space has no such input.
        """
        if name in self._priors:
            return self._priors[name]
        if name in self._conditions:
            return self._conditions[name]
        raise UnknownKeyError(f"The space has no input {name!r}; it has {', '.join(self.inputs)}.")

    def __iter__(self) -> Iterator[str]:
        """Yield the names of all inputs."""
        return iter(self.inputs)

    def __contains__(self, name: object) -> bool:
        """Return whether there is an input of that name."""
        return name in self._priors or name in self._conditions

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise missing(type(self), "A ParameterSpace", name, _ELSEWHERE)

    @property
    def priors(self) -> Mapping[str, Prior]:
        """The marginal prior of each parameter (read-only); `blocks` also have their correlation."""
        return MappingProxyType(self._priors)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Joint priors of parameters that are known together."""
        return self._blocks

    @property
    def conditions(self) -> Mapping[str, Condition]:
        """The range of each known condition (read-only)."""
        return MappingProxyType(self._conditions)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the p parameters."""
        return tuple(self._priors)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the d inputs of a simulator: the parameters, then the conditions."""
        return (*self._priors, *self._conditions)

    @property
    def units(self) -> Mapping[str, str]:
        """Unit of each input (read-only)."""
        return MappingProxyType({name: value.unit for name, value in self._items()})

    def _items(self) -> list[tuple[str, Prior | Condition]]:
        return [*self._priors.items(), *self._conditions.items()]

    # ------------------------------------------------------------------ the prior

    def log_density(self, theta: ArrayLike | Named) -> Array:
        """Return the log prior density (...) at theta (..., p); -inf outside of the support, NaN where theta is NaN.

        Raises
        ------
        InputError
            When theta has other columns than `names`.
        """
        theta = check.columns(theta, self.names, "theta")
        terms = _each([prior.log_density for prior in self._priors.values()], theta)
        for at, block in self._places():
            terms[..., at] = block.log_terms(theta[..., at])
        total: Array = terms.sum(axis=-1)
        return total

    def cdf(self, theta: ArrayLike | Named) -> Array:
        """Return the prior's distribution function of each parameter alone, (..., p), at theta (..., p)."""
        theta = check.columns(theta, self.names, "theta")
        return _each([prior.cdf for prior in self._priors.values()], theta)

    def quantile(self, p: ArrayLike | Named) -> Array:
        """Return the prior's quantile of each parameter alone, (..., p), at probabilities (..., p)."""
        p = check.columns(p, self.names, "p")
        return _each([prior.quantile for prior in self._priors.values()], p)

    def draw(self, n: int, rng: RandomState | None = None) -> "xr.Dataset":
        """Return n independent draws of the parameters from the prior, a Dataset with dim "draw".

        Raises
        ------
        InputError
            When n is not a whole number above zero.
        """
        import xarray as xr

        count = check.count("n", n)
        generator = as_generator(rng)
        values = {name: value for block in self._blocks for name, value in _drawn(block, generator, count).items()}
        columns = {
            name: (
                "draw",
                values[name] if name in values else prior.draw(generator, count),
                self.attributes(name),
            )
            for name, prior in self._priors.items()
        }
        return xr.Dataset(columns, attrs={"space": self.to_json()})

    def attributes(self, name: str) -> dict[str, str]:
        """Return the attributes of an input for tables: role, kind, unit and description.

        Raises
        ------
        InputError
            When there is no such input.
        """
        self._known((name,))
        value = self._priors.get(name) or self._conditions[name]
        kind = "parameter" if name in self._priors else "condition"
        return {"role": "input", "kind": kind, "unit": value.unit, "description": value.description}

    # ------------------------------------------------------------------ the maps

    def to_cube(self, x: ArrayLike | Named, box: Box | None = None) -> Array:
        """Return u (..., d) of inputs x (..., d): the prior's distribution function; linear for conditions.

        Within a block it is that of each parameter given those before it. With a box of all inputs, the prior is
        restricted to it, one parameter after the other.
        """
        x = check.columns(x, self.inputs, "x")
        ranges = [_range_to_cube(c) for c in self._conditions.values()]
        functions = [*(prior.cdf for prior in self._priors.values()), *ranges]
        u = _each(functions, x)
        if box is not None:
            low, high = _each(functions, np.array(box.lower)), _each(functions, np.array(box.upper))
            u = (u - low) / (high - low)
        for at, block in self._places():
            ends = () if box is None else (np.array(box.lower)[at], np.array(box.upper)[at])
            u[..., at] = block.to_cube(x[..., at], *ends)
        return u

    def from_cube(self, u: ArrayLike | Named, box: Box | None = None) -> Array:
        """Return inputs x (..., d) of u (..., d), the inverse of `to_cube`."""
        u = check.columns(u, self.inputs, "u")
        ranges = [_range_from_cube(c) for c in self._conditions.values()]
        p = u
        if box is not None:
            functions = [
                *(prior.cdf for prior in self._priors.values()),
                *map(_range_to_cube, self._conditions.values()),
            ]
            low, high = _each(functions, np.array(box.lower)), _each(functions, np.array(box.upper))
            p = low + u * (high - low)
        x = _each([*(prior.quantile for prior in self._priors.values()), *ranges], p)
        for at, block in self._places():
            ends = () if box is None else (np.array(box.lower)[at], np.array(box.upper)[at])
            x[..., at] = block.from_cube(u[..., at], *ends)
        return x

    def _places(self) -> list[tuple[slice, Block]]:
        """Return the blocks with their columns."""
        out, start = [], 0
        for block in self._blocks:
            out.append((slice(start, start := start + len(block.names)), block))
        return out

    def to_real(self, theta: ArrayLike | Named) -> Array:
        """Return unconstrained z (..., p): log or logit of the support, or theta itself where it is unbounded."""
        theta = check.columns(theta, self.names, "theta")
        return _each([interval.to_real for interval in self._intervals()], theta)

    def from_real(self, z: ArrayLike | Named) -> Array:
        """Return theta (..., p) of z (..., p), the inverse of `to_real`."""
        z = check.columns(z, self.names, "z")
        return _each([interval.from_real for interval in self._intervals()], z)

    def log_jacobian(self, z: ArrayLike | Named) -> Array:
        """Return ``log |d theta / d z|`` (...), summed over the parameters, at z (..., p).

        The density of z is ``log_density(from_real(z)) + log_jacobian(z)``.
        """
        z = check.columns(z, self.names, "z")
        total: Array = _each([interval.log_jacobian for interval in self._intervals()], z).sum(axis=-1)
        return total

    def _intervals(self) -> list[Interval]:
        return [Interval.of(*prior.support) for prior in self._priors.values()]

    # ------------------------------------------------------------------ the box

    def box(self, mass: float = 0.999, *, ranges: Mapping[str, tuple[float, float]] | None = None) -> Box:
        """Return the central part of the prior that holds `mass` jointly, over all inputs.

        Each of p parameters keeps ``mass ** (1 / p)``; correlated ones then keep at least `mass` together (Royen 2014,
        arXiv:1408.1028). What is cut is cut in equal parts at the two ends; an end of
        the prior's support that is finite on the surrogate's scale is the box's end and nothing is cut there, so that
        all of it is cut at the other. Conditions keep their range.

        Parameters
        ----------
        mass
            Prior mass inside of the box, between 0 and 1; of the parameters that `ranges` does not name.
        ranges
            Ends for some of the parameters, in their own unit: ``{"k": (0.0, 50.0)}``. Priors with a long tail, such as
            `HalfCauchy`, require them. `mass_inside` and the calibration report the mass that all ends together cut.

        Raises
        ------
        InputError
            When mass is not between 0 and 1; when a prior reaches so near to zero that its quantile is zero, or has so
            long a tail that its central part is no design box; when a range is reversed, outside of its prior's
            support, or of no parameter.

        Examples
        --------
        >>> import uqms as uq
        >>> space = uq.ParameterSpace(k=uq.LogUniform(0.1, 10), noise=uq.HalfNormal(1.0))
        >>> space.box().hard
        ((True, True), (True, False))
        >>> space = uq.ParameterSpace(k=uq.HalfCauchy(1.0))
        >>> box = space.box(ranges={"k": (0.0, 100.0)})
        >>> round(space.mass_inside(box), 4)
        0.9936
        """
        mass = check.number("box", "mass", mass)
        if not 0.0 < mass < 1.0:
            raise InputError(f"box: mass is {mass:g}; give a probability between 0 and 1, such as 0.999.")
        stated = self._stated({} if ranges is None else ranges)
        long = [n for n, prior in self._priors.items() if n not in stated and has_long_tail(prior, mass)]
        if long:
            raise InputError(long_tail_message({n: self._priors[n] for n in long}, mass, stated))
        return self._around(mass, stated)

    def frame(self) -> Box:
        """Return a box with the scales and the hard ends of `box`, for every prior.

        It is a frame of reference and no region of a design: of a prior with a long tail it holds the central 95 %.
        """
        tails = {n: prior for n, prior in self._priors.items() if has_long_tail(prior, 0.999)}
        return self._around(0.999, {n: (prior.support[0], float(prior.quantile(0.95))) for n, prior in tails.items()})

    def _stated(self, ranges: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        """Return checked ranges of parameters."""
        if not isinstance(ranges, Mapping):
            raise InputError(f"box: ranges is {ranges!r}; give a mapping such as ranges={{'k': (0.0, 50.0)}}.")
        out = {}
        for name, given in ranges.items():
            if name in self._conditions:
                raise InputError(f"box: {name!r} is a condition, whose range is that of uq.Condition(low, high).")
            if name not in self._priors:
                raise InputError(f"box: ranges names {name!r}; the parameters are {', '.join(self.names)}.")
            prior = self._priors[name]
            out[name] = checked_range(name, given, *prior.support, f"support of {prior.label}")
        return out

    def _around(self, mass: float, stated: Mapping[str, tuple[float, float]]) -> Box:
        """Return the box of stated ranges, and of the central parts of all other priors that hold `mass` jointly."""
        cut = -math.expm1(math.log(mass) / max(1, len(self._priors) - len(stated)))
        sides = [
            (*stated[name], _hard(prior, *stated[name])) if name in stated else _sides(name, prior, cut)
            for name, prior in self._priors.items()
        ]
        scales: list[ScaleName] = [prior.scale for prior in self._priors.values()]
        for condition in self._conditions.values():
            sides.append((condition.low, condition.high, (True, True)))
            scales.append("identity")
        lower, upper, hard = zip(*sides, strict=True)
        return Box(self.inputs, lower, upper, tuple(scales), hard)

    def mass_inside(self, box: Box) -> float:
        """Return the prior mass inside of a box: the product over those of the space's parameters that the box has.

        That of a joint block is computed by quasi Monte Carlo, to about 1e-6.

        Raises
        ------
        InputError
            When the box has an input that the space has not.
        """
        self._known(box.names)
        mass = 1.0
        ends = {name: ends for name, *ends in zip(box.names, box.lower, box.upper, strict=True)}
        joint = {name for block in self._blocks for name in block.names}
        for name, (low, high) in ends.items():
            if name in self._priors and name not in joint:
                mass *= float(self._priors[name].cdf(high) - self._priors[name].cdf(low))
        for block in self._blocks:
            if any(name in ends for name in block.names):
                support = [block.priors[name].support for name in block.names]
                lower, upper = np.array([ends.get(n, s) for n, s in zip(block.names, support, strict=True)]).T
                mass *= block.mass_inside(lower, upper)
        return mass

    def given(self, values: Mapping[str, float]) -> "ParameterSpace":
        """Return the space of the other parameters when some are known; a block becomes its conditional distribution.

        Raises
        ------
        InputError
            When a name is no parameter, or none is left.
        """
        unknown = [name for name in values if name not in self._priors]
        if unknown:
            raise InputError(f"given: {', '.join(unknown)} is no parameter; the space has {', '.join(self.names)}.")
        joint = {name for block in self._blocks for name in block.names}
        blocks = [block.given({n: v for n, v in values.items() if n in block.names}) for block in self._blocks]
        single = {name: prior for name, prior in self._priors.items() if name not in values and name not in joint}
        return ParameterSpace(*(b for b in blocks if b is not None), conditions=self._conditions, **single)

    def _known(self, names: tuple[str, ...]) -> None:
        unknown = [n for n in names if n not in self._priors and n not in self._conditions]
        if unknown:
            raise InputError(f"The space has no {', '.join(map(str, unknown))}; it has {', '.join(self.inputs)}.")

    # ------------------------------------------------------------------ files

    def to_json(self) -> str:
        """Return the space as JSON, from which `from_json` makes an equal one, bit for bit."""
        joint = {name for block in self._blocks for name in block.names}
        content: dict[str, Any] = {
            "uqms": "ParameterSpace",
            "version": _version(self._blocks),
            "parameters": {name: prior.to_dict() for name, prior in self._priors.items() if name not in joint},
            "conditions": {name: condition.to_dict() for name, condition in self._conditions.items()},
        }
        if self._blocks:
            content["blocks"] = [block.to_dict() for block in self._blocks]
        return json.dumps(content, allow_nan=False)

    @classmethod
    def from_json(cls, source: str | bytes) -> Self:
        """Return the space that `to_json` wrote.

        Raises
        ------
        InputError
            When it is no strict JSON, a key stands twice, keys are missing or unknown, or a prior is impossible.
        FormatVersionError
            When a newer uqms wrote it.
        """
        own = "ParameterSpace.from_json"
        wanted = ["uqms", "version", "parameters", "conditions"]
        data = check.fields(own, check.load_json(source, own), wanted, ["blocks"])
        if data["uqms"] != "ParameterSpace":
            raise InputError(f"{own}: this is the JSON of {data['uqms']!r}, not of a ParameterSpace.")
        if not isinstance(data["version"], float) or data["version"] > _JSON_VERSION:
            raise FormatVersionError(
                f"{own}: version {data['version']!r} of the format is newer than {_JSON_VERSION}; update uqms."
            )
        for key in ("parameters", "conditions"):
            if not isinstance(data[key], Mapping):
                raise InputError(f"{own}: {key} is not a JSON object.")
        priors = {name: _named(name, prior_from_dict, value) for name, value in data["parameters"].items()}
        conditions = {name: _named(name, _condition_from_dict, value) for name, value in data["conditions"].items()}
        if not isinstance(data.get("blocks", []), list):
            raise InputError(f"{own}: blocks is not a JSON array.")
        blocks = [block_from_dict(value) for value in data.get("blocks", [])]
        return cls(*blocks, conditions=conditions, **priors)

    # ------------------------------------------------------------------ shown and compared

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ParameterSpace):
            return NotImplemented
        return self._items() == other._items() and self.names == other.names and self._blocks == other._blocks

    def __hash__(self) -> int:
        return hash((tuple(self._items()), self._blocks))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"A ParameterSpace cannot be changed ({name}); make a new one.")

    def __reduce__(self) -> tuple[Any, ...]:
        joint = {name for block in self._blocks for name in block.names}
        single = {name: prior for name, prior in self._priors.items() if name not in joint}
        return _rebuild, (single, self._conditions, self._blocks)

    def _table(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("name", "prior", "unit", "central 95 %", "description")]
        for name, value in self._items():
            if isinstance(value, Prior):
                low, high = value.quantile([0.025, 0.975])
                middle = (value.label, value.unit, f"{low:.4g} to {high:.4g}")
            else:
                middle = (f"known, {value.low:g} to {value.high:g}", value.unit, "")
            rows.append((name, *(" ".join(cell.split()) for cell in (*middle, value.description))))
        return rows

    def _title(self) -> str:
        counts = ((len(self._priors), "parameter"), (len(self._conditions), "condition"))
        return "ParameterSpace: " + ", ".join(f"{n} {word}{'s' * (n > 1)}" for n, word in counts if n)

    def __repr__(self) -> str:
        rows = self._table()
        widths = [max(len(row[j]) for row in rows) for j in range(len(rows[0]))]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
        joint = [f"  jointly: {block!r}" for block in self._blocks]
        return "\n".join([self._title(), *(f"  {line}" for line in lines), *joint])

    def _repr_html_(self) -> str:
        head, *body = [[html.escape(cell) for cell in row] for row in self._table()]
        lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in body)
        title, heads = html.escape(self._title()), "".join(f"<th>{cell}</th>" for cell in head)
        joint = "".join(f"<p>jointly: {html.escape(repr(block))}</p>" for block in self._blocks)
        return f"<table><caption>{title}</caption><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>{joint}"


def _rebuild(
    priors: dict[str, Prior], conditions: dict[str, Condition], blocks: tuple[Block, ...] = ()
) -> ParameterSpace:
    return ParameterSpace(*blocks, conditions=conditions, **priors)


def _version(blocks: tuple[Block, ...]) -> int:
    """Return the oldest version of the format that can say this."""
    return _JSON_VERSION if any(isinstance(block, NormalMixture) for block in blocks) else 2 if blocks else 1


def _drawn(block: Block, rng: np.random.Generator, count: int) -> dict[str, Array]:
    return dict(zip(block.names, block.draw(rng, count).T, strict=True))


def _check_block(block: object) -> None:
    if isinstance(block, Mapping):
        raise InputError(
            "ParameterSpace: priors are given by name, not in a mapping; unpack it: ParameterSpace(**priors)."
        )
    if not isinstance(block, MultivariateNormal | NormalMixture):
        raise InputError(
            f"{block!r} ({type(block).__name__}) is no joint prior; give uq.MultivariateNormal(...) without a name, "
            "and priors of single parameters with theirs: beta=uq.Uniform(0, 1)."
        )


def _check_parameter(name: str, prior: object) -> None:
    if isinstance(prior, Condition):
        raise InputError(f"{name} is a Condition; known inputs go into conditions={{{name!r}: ...}}.")
    if isinstance(prior, type) and issubclass(prior, Prior):
        raise InputError(f"{name} is the class {prior.__name__}; give a prior of it, {spelled(prior)}(...).")
    if isinstance(prior, tuple | list) and len(prior) == 2:
        low, high = prior
        raise InputError(f"{name} is {prior!r}; if it lies between the two, give {name}=uq.Uniform({low!r}, {high!r}).")
    if not isinstance(prior, Prior):
        raise InputError(
            f"{name} is {prior!r} ({type(prior).__name__}); give a prior such as uq.LogNormal(median=1.0, sigma=0.3). "
            "A value that is known for sure belongs into the simulator."
        )


def _check_condition(name: str, condition: object) -> None:
    if not isinstance(condition, Condition):
        raise InputError(
            f"The condition {name} is {condition!r} ({type(condition).__name__}); give its range: "
            "uq.Condition(low, high)."
        )


def _condition_from_dict(data: object) -> Condition:
    return Condition(**check.fields("Condition", data, ["low", "high"], ["unit", "description"]))


def _named[T](name: str, build: Callable[[object], T], data: object) -> T:
    try:
        return build(data)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _each(functions: list[Callable[[Array], Array]], values: Array) -> Array:
    return np.stack([function(values[..., j]) for j, function in enumerate(functions)], axis=-1)


def _range_to_cube(condition: Condition) -> Callable[[Array], Array]:
    return lambda x: (x - condition.low) / (condition.high - condition.low)


def _range_from_cube(condition: Condition) -> Callable[[Array], Array]:
    return lambda u: np.where(u == 1.0, condition.high, condition.low + u * (condition.high - condition.low))


def checked_range(name: str, given: object, low: float, high: float, what: str) -> tuple[float, float]:
    """Return a stated range of a parameter, between the ends of `what`."""
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise InputError(f"box: the range of {name!r} is {given!r}; give two ends: {{{name!r}: (low, high)}}.")
    first, last = (check.number(f"box: {name}", key, v) for key, v in zip(("low", "high"), given, strict=True))
    check.ordered(f"box: {name}", first, last)
    if not low <= first < last <= high:
        raise InputError(
            f"box: the range of {name!r} is {first:g} to {last:g}, but the {what} goes from {low:g} to {high:g}; give "
            "a range within that."
        )
    return first, last


def _hard(prior: Prior, low: float, high: float) -> tuple[bool, bool]:
    """Return which stated ends are ends of the prior's support that are finite on its scale."""
    first, last = prior.support
    finite = SCALES[prior.scale].domain
    return low == first > finite[0], high == last < finite[1]


def _sides(name: str, prior: Prior, cut: float) -> tuple[float, float, tuple[bool, bool]]:
    """Return the ends of the box for one parameter, and which of them are hard."""
    low, high = prior.support
    finite = SCALES[prior.scale].domain
    hard = (low > finite[0], high < finite[1])
    if not hard[0]:
        low = float(prior.quantile(cut if hard[1] else 0.5 * cut))
    if not hard[1]:
        high = float(prior.quantile(1.0 - (cut if hard[0] else 0.5 * cut)))
    if not finite[0] < low < high < finite[1]:
        raise InputError(
            f"{name}: the central part of {prior.label} goes from {low:g} to {high:g}, which has no end on the "
            f"{prior.scale} scale of a surrogate; choose a prior with less mass near its limit."
        )
    return low, high, hard
