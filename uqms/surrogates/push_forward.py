"""What the links of a chain pass on, and whether the members that take it were simulated there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import pandas as pd
import xarray as xr

from uqms._typing import Array, RandomState
from uqms.designs import sobol
from uqms.errors import InputError
from uqms.parameters import Box, Condition, ParameterSpace, Uniform

__all__ = ["PushForward"]

MARGIN = 0.05  # of the width of what is passed on, on either side of a proposed range


@final
@dataclass(frozen=True, eq=False)
class PushForward:
    """The distribution of every link of a chain, for a distribution of its inputs: `print` it.

    Attributes
    ----------
    links
        Draws of each link, "member.input", in its own unit, shape (n,); the error of the surrogate is in them.
    boxes
        Design box of each member.
    spaces
        Space of each member, where it is known.
    """

    links: Mapping[str, Array]
    boxes: Mapping[str, Box]
    spaces: Mapping[str, ParameterSpace | None]

    @property
    def table(self) -> pd.DataFrame:
        """One row a link: mean, sd and 95 % interval of what is passed on, the range that was simulated, "outside".

        The last is the fraction of what is passed on that lies outside of that range.
        """
        rows = {}
        for target, values in self.links.items():
            low, high = self._range(target)
            rows[target] = {
                "mean": values.mean(),
                "sd": values.std(ddof=1),
                "2.5%": np.quantile(values, 0.025),
                "97.5%": np.quantile(values, 0.975),
                "simulated from": low,
                "to": high,
                "outside": float(np.mean((values < low) | (values > high))),
            }
        return pd.DataFrame(rows).T

    @property
    def outside(self) -> dict[str, float]:
        """By link, the fraction of what is passed on that lies outside of what its member was simulated for."""
        return {str(target): float(value) for target, value in self.table["outside"].items()}

    def __repr__(self) -> str:
        table = self.table
        table["outside"] = [f"{value:.1%}" for value in table["outside"]]
        numbers = table.drop(columns="outside").astype(float).map(lambda value: f"{value:.4g}")
        shown = numbers.assign(outside=table["outside"]).to_string()
        return f"Linked inputs, from the members that give them:\n{shown}"

    def _range(self, target: str) -> tuple[float, float]:
        member, _, name = target.partition(".")
        box = self.boxes[member]
        j = box.names.index(name)
        return box.lower[j], box.upper[j]

    def space(self, member: str, mass: float = 0.999) -> ParameterSpace:
        """Return the inputs of a member with ranges of its links that hold `mass` of what is passed on, and a margin.

        Raises
        ------
        InputError
            When it takes no links, or its space is unknown.
        """
        own = {target.partition(".")[2]: v for target, v in self.links.items() if target.partition(".")[0] == member}
        if not own:
            takers = sorted({target.partition(".")[0] for target in self.links})
            raise InputError(f"{member!r} takes no links; those that do are {', '.join(takers)}.")
        space = self.spaces[member]
        if space is None:
            raise InputError(
                f"The space of {member!r} is unknown: its runs were built without one. Give uq.ensemble.build(..., "
                "space=space), or make a design of your own over the ranges in push_forward().table."
            )
        units, ranges = space.units, {}
        for name, values in own.items():
            low, high = (float(np.quantile(values, p)) for p in (0.5 - 0.5 * mass, 0.5 + 0.5 * mass))
            margin = MARGIN * (high - low)
            lowest = low - margin if low < 0.0 else max(low - margin, 0.5 * low)  # what is positive stays so
            ranges[name] = Condition(lowest, high + margin, unit=units[name])
        kept = {name: prior for name, prior in space.priors.items() if name not in own}
        joint = {name for block in space.blocks for name in block.names}
        conditions = {name: one for name, one in space.conditions.items() if name not in own}
        if not kept:
            # A space has a parameter at least: the first link takes that place, uniform over its range.
            name, one = next(iter(ranges.items()))
            kept[name] = Uniform(one.low, one.high, unit=one.unit)
            del ranges[name]
        free = {name: prior for name, prior in kept.items() if name not in joint}
        return ParameterSpace(*space.blocks, conditions={**conditions, **ranges}, **free)

    def design(self, member: str, n: int, rng: RandomState | None = None) -> xr.Dataset:
        """Return n points at which to run a member, over what its links pass on.

        Use it where `outside` is above 1 %: run these, fit the member to them, and make the chain again. Order of the
        inputs and their other ranges are as before.

        Raises
        ------
        InputError
            When it takes no links, or its space is unknown.
        """
        return sobol(self.space(member), n, rng=rng)
