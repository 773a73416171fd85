"""The design box: where simulator runs are made, and how its points enter a surrogate.

Notation: x (..., d) inputs in their own units; s their log, logit or x itself; u (..., d) in [0, 1] inside of the box.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self, cast, final

import numpy as np

from uqms import _checks as check
from uqms._teaching import taught
from uqms._typing import Array, ArrayLike, Bools, ScaleName
from uqms.errors import InputError
from uqms.parameters.scale import SCALES, UnitMap

__all__ = ["Box"]


@taught
@final
@dataclass(frozen=True)
class Box:
    """A box of inputs, with the map from their own units to the unit cube of a surrogate.

    `ParameterSpace.box` makes the usual one, the central 99.9 % of the prior. Make one by hand to study a smaller or a
    wider region, for example with ``uq.sobol(space, n, over=box)``.

    Parameters
    ----------
    names
        Names of the d inputs.
    lower, upper
        Ends, in the inputs' own units.
    scale
        For each input "identity", "log" or "logit": what comes before the affine map to [0, 1]. Identity by default.
    hard
        For each input whether its lower and its upper end cannot be passed (a bound of the prior, the range of a known
        condition). A posterior at such an end is no sign of a box that is too small. None by default.

    Raises
    ------
    InputError
        When ends are reversed, not finite, or impossible on their scale; when names repeat or lengths differ.

    Examples
    --------
    >>> import uqms as uq
    >>> box = uq.Box(("dose", "rate"), lower=(100.0, 0.01), upper=(400.0, 1.0), scale=("identity", "log"))
    >>> box.to_unit([250.0, 0.1])
    array([0.5, 0.5])
    """

    names: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    scale: tuple[ScaleName, ...] = ()
    hard: tuple[tuple[bool, bool], ...] = ()

    def __post_init__(self) -> None:
        names = tuple(self._list("names"))
        d = len(names)
        if d == 0:
            raise InputError("Box: there are no names; a box needs at least one input.")
        scale = tuple(self._list("scale")) or ("identity",) * d
        hard = tuple(self._list("hard")) or ((False, False),) * d
        parts = {"lower": self._list("lower"), "upper": self._list("upper"), "scale": scale, "hard": hard}
        for key, value in parts.items():
            if len(value) != d:
                raise InputError(f"Box: {key} has {len(value)} entries for the {d} names {', '.join(map(str, names))}.")
        if len(set(names)) < d:
            raise InputError(f"Box: the names {names} repeat; give each input once.")
        for n in names:
            check.text("Box", "a name", n)
        lower, upper = (
            tuple(check.number(f"Box: {n}", key, v) for n, v in zip(names, parts[key], strict=True))
            for key in ("lower", "upper")
        )
        for row in zip(names, lower, upper, scale, hard, strict=True):
            _check_row(*row)
        for key, values in (("names", names), ("lower", lower), ("upper", upper), ("scale", scale)):
            object.__setattr__(self, key, values)
        object.__setattr__(self, "hard", tuple((bool(a), bool(b)) for a, b in hard))
        for n, one in zip(names, self.maps, strict=True):
            if not 0.0 < one.width < math.inf:
                raise InputError(
                    f"Box: {n} has the width {one.width:g} on its {one.scale.name} scale; move its ends apart."
                )

    def _list(self, key: str) -> list[Any]:
        value = getattr(self, key)
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise InputError(f"Box: {key} is {value!r}; give a tuple with one entry for each input.")
        return list(value)

    @property
    def d(self) -> int:
        """Number of inputs."""
        return len(self.names)

    def to_unit(self, x: ArrayLike) -> Array:
        """Return u (..., d) of inputs x (..., d): scale, then affine from the box to [0, 1]; nothing is clipped."""
        return self._by_column("forward", check.columns(x, self.names, "x"))

    def from_unit(self, u: ArrayLike) -> Array:
        """Return inputs x (..., d) of u (..., d), the inverse of `to_unit`."""
        u = check.columns(u, self.names, "u")
        x = self._by_column("inverse", u)
        # exp and expit of a rounded end may miss the end by a last digit.
        x = np.where(u == 0.0, np.asarray(self.lower), x)
        return np.where(u == 1.0, np.asarray(self.upper), x)

    def unit_gradient(self, x: ArrayLike) -> Array:
        """Return du/dx (..., d), elementwise, at inputs x (..., d)."""
        return self._by_column("derivative", check.columns(x, self.names, "x"))

    def contains(self, x: ArrayLike, tolerance: float = 1e-9) -> Bools:
        """Return whether the points x (..., d) are inside, up to `tolerance` in unit coordinates (NaN is outside)."""
        u = self.to_unit(x)
        inside: Bools = np.all((u >= -tolerance) & (u <= 1.0 + tolerance), axis=-1)
        return inside

    def select(self, names: Iterable[str]) -> "Box":
        """Return the box of some of the inputs, in the order of `names`."""
        wanted = (names,) if isinstance(names, str) else tuple(names)
        unknown = [n for n in wanted if n not in self.names]
        if unknown:
            raise InputError(f"The box has no {', '.join(map(str, unknown))}; it has {', '.join(self.names)}.")
        at = [self.names.index(n) for n in wanted]
        rows = (tuple(values[j] for j in at) for values in (self.lower, self.upper, self.scale, self.hard))
        return Box(wanted, *cast(Any, rows))

    def to_dict(self) -> dict[str, Any]:
        """Return the box as a JSON object."""
        keys = ("names", "lower", "upper", "scale")
        return {**{key: list(getattr(self, key)) for key in keys}, "hard": [list(pair) for pair in self.hard]}

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Return the box that `to_dict` wrote.

        Raises
        ------
        InputError
            When keys are missing or unknown, or the box is impossible.
        """
        return cls(**check.fields("Box", data, ["names", "lower", "upper", "scale", "hard"]))

    @cached_property
    def maps(self) -> tuple[UnitMap, ...]:
        """The map of each input to the unit interval."""
        rows = zip(self.scale, self.lower, self.upper, strict=True)
        return tuple(UnitMap(SCALES[scale], lower, upper) for scale, lower, upper in rows)

    def _by_column(self, method: Literal["forward", "inverse", "derivative"], x: Array) -> Array:
        """Return what a method of each input's map makes of its column of x (..., d)."""
        out = np.array(x, dtype=np.float64)
        for j, one in enumerate(self.maps):
            out[..., j] = getattr(one, method)(out[..., j])
        return out


def _check_row(name: str, lower: float, upper: float, scale: object, hard: object) -> None:
    if scale not in SCALES:
        raise InputError(f"Box: {name} has the scale {scale!r}; give one of {', '.join(SCALES)}.")
    if not (isinstance(hard, tuple | list) and len(hard) == 2 and all(isinstance(h, bool | np.bool_) for h in hard)):
        raise InputError(f"Box: {name} has hard = {hard!r}; give (lower, upper) as two bool.")
    if not lower < upper:
        raise InputError(f"Box: {name} goes from {lower:g} to {upper:g}; the lower end has to be below the upper end.")
    low, high = SCALES[cast(str, scale)].domain
    if math.isinf(high) and lower <= low:
        raise InputError(f"Box: {name} has a {scale} scale and begins at {lower:g}; it has to begin above {low:g}.")
    if not (lower > low and upper < high):
        raise InputError(
            f"Box: {name} has a {scale} scale and goes from {lower:g} to {upper:g}; stay between {low:g} and {high:g}."
        )
