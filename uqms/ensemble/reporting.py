"""Report how many runs failed, which fraction of the prior they represent, and in which region they lie."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from uqms._teaching import taught
from uqms._typing import Array, Bools
from uqms.ensemble.states import LOST, RunState
from uqms.ensemble.table import check_runs, get_box, get_space, input_array, input_names
from uqms.errors import DataError

__all__ = ["Failures", "Side", "failures"]

_FEWEST = 5  # runs without outputs, and other runs, that are needed to report a region
_GAIN = 0.05  # by which each further side of the region must increase Youden's index
_SIDES = 3
_Z = 1.959964  # normal quantile of a 95 % interval


class Side(NamedTuple):
    """One side of the region where runs fail: ``input`` is above (or at most) ``value``, in the unit of the input."""

    input: str
    above: bool
    value: float
    unit: str

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.input} {'>' if self.above else '<'} {self.value:.3g}{unit}"


@taught
@final
@dataclass(frozen=True)
class Failures:
    """Summary of the runs that gave no outputs, as `failures` returns it.

    Parameters
    ----------
    counts
        Number of runs by state, for the states that occur.
    share
        Fraction of the prior mass in the design box where runs give no outputs (failed, timeout or invalid). Where
        `of_prior` is False, it is the fraction of the runs.
    interval
        95 % interval of this fraction (Wilson 1927, doi:10.1080/01621459.1927.10502953). It holds for independent
        points; for a space-filling design it is conservative.
    of_prior
        Whether the distribution of the points over the prior is known. It is unknown when runs were removed or added.
    region
        Sides of a region that contains most runs without outputs and few others. It is empty when there is no such
        region, or fewer than five runs of one of the two kinds.
    inside, caught
        Number of runs in the region, and number of runs in the region that gave no outputs.
    """

    counts: Mapping[str, int]
    share: float
    interval: tuple[float, float]
    of_prior: bool
    region: tuple[Side, ...] = ()
    inside: int = 0
    caught: int = 0

    @property
    def lost(self) -> int:
        """Number of runs that gave no outputs."""
        return sum(self.counts.get(state.value, 0) for state in LOST)

    def __str__(self) -> str:
        total = sum(self.counts.values())
        lines = [f"{total} runs: " + ", ".join(f"{count} {state}" for state, count in self.counts.items())]
        of = "the prior mass in the design box" if self.of_prior else "the runs"
        low, high = self.interval
        lines.append(f"No outputs for {self.share:.1%} of {of} (95 % interval {low:.1%} to {high:.1%})")
        if self.region:
            lines.append(
                f"Mostly where {' and '.join(map(str, self.region))}: {self.caught} of these {self.lost} runs lie "
                f"there, and {self.inside - self.caught} other runs"
            )
        return "\n".join(lines)


@taught
def failures(ensemble: xr.Dataset) -> Failures:
    """Report how many runs failed, which fraction of the prior mass they represent, and in which region they lie.

    Use it when some runs did not complete, before a surrogate is fitted to the other runs. A surrogate has no
    information about the region where runs fail.

    Parameters
    ----------
    ensemble
        The table of runs. Runs in the state "planned" are ignored.

    Returns
    -------
    Failures
        ``print`` shows it in two or three lines.

    Raises
    ------
    DataError
        When `ensemble` is not an ensemble.

    Examples
    --------
    >>> from uqms.ensemble import build
    >>> a = np.arange(20.0)
    >>> states = np.where(a > 13.0, "failed", "completed")
    >>> print(failures(build({"a": a}, {"y": a}, states=states)))
    20 runs: 14 completed, 6 failed
    No outputs for 30.0% of the runs (95 % interval 14.5% to 51.9%)
    Mostly where a > 13.5: 6 of these 6 runs lie there, and 0 other runs
    """
    state = check_runs(ensemble)  # the outputs are not needed, so they may be in the run store only
    counts = {s.value: int((state == s).sum()) for s in RunState if (state == s).any()}
    ran = state != RunState.PLANNED
    x, lost = input_array(ensemble)[ran], np.isin(state[ran], LOST)
    weights = _weights(ensemble, x)
    share, interval = _share(x, lost, np.ones(len(x)) if weights is None else weights)
    region, inside = _region(ensemble, x, lost)
    return Failures(counts, share, interval, weights is not None, region, int(inside.sum()), int((inside & lost).sum()))


def _weights(ensemble: xr.Dataset, x: Array) -> Array | None:
    """Return the weight of each point, proportional to the prior mass that it represents; None if that is unknown."""
    space = get_space(ensemble)
    try:
        recipe = json.loads(str(ensemble.attrs.get("design", "{}")))
        spread, points = recipe.get("over"), recipe.get("n")
    except (json.JSONDecodeError, AttributeError) as error:
        raise DataError(
            f"uqms did not write the attribute 'design' of this ensemble ({error}); remove it: "
            "del ensemble.attrs['design']."
        ) from error
    # If runs were removed, rejected or added from other designs, the distribution of the points is unknown.
    if space is None or spread is None or points != len(np.unique(input_array(ensemble), axis=0)):
        return None
    if recipe.get("rejected"):
        return None
    if spread == "prior":
        return np.ones(len(x))
    # The points are uniform over the box on the scale of the surrogate's inputs: weight them by the prior density.
    names = input_names(ensemble)
    box = get_box(ensemble).select(names)
    columns = {name: x[:, names.index(name)] for name in space.names}
    stretch = box.unit_gradient(x)[:, [names.index(name) for name in space.names]]
    log = np.asarray(space.log_density(columns)) - np.log(np.abs(stretch)).sum(axis=1)
    weights: Array = np.exp(log - log.max())
    return weights


def _share(x: Array, lost: Bools, weights: Array) -> tuple[float, tuple[float, float]]:
    """Return the weighted fraction of points without outputs, and Wilson's interval at their effective number."""
    if not len(x):
        return 0.0, (0.0, 1.0)
    _, first, point, times = np.unique(x, axis=0, return_index=True, return_inverse=True, return_counts=True)
    rate = np.bincount(point, lost) / times  # the fraction of the replicates of each point
    w = weights[first]
    share = float(w @ rate / w.sum())
    low, high = wilson(np.array(share), np.array(w.sum() ** 2 / (w @ w)))
    return share, (float(low), float(high))


def wilson(share: Array, n: NDArray[np.number]) -> tuple[Array, Array]:
    """Return both ends of the 95 % interval of a fraction `share` of n (Wilson 1927), elementwise."""
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * np.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def _region(ensemble: xr.Dataset, x: Array, lost: Bools) -> tuple[tuple[Side, ...], Bools]:
    """Return the sides of a region that contains the runs without outputs, and which runs are inside of it.

    Sides are added one after the other. Each side is the threshold that maximises Youden's index: the fraction of runs
    without outputs that lie inside, minus the fraction of the other runs that lie inside.
    """
    inside = np.ones(len(x), dtype=np.bool_)
    sides: list[Side] = []
    if min(lost.sum(), (~lost).sum()) < _FEWEST:
        return (), np.zeros(len(x), dtype=np.bool_)
    names = input_names(ensemble)
    box = get_box(ensemble).select(names)
    u = box.to_unit(x)
    index = 0.0
    while len(sides) < _SIDES:
        gain, column, above, cut = max(_best_cut(u[:, j], j, lost, inside) for j in range(len(names)))
        if gain < index + _GAIN:
            break
        index = gain
        inside &= (u[:, column] > cut) == above
        centre = np.full(len(names), 0.5)
        centre[column] = cut
        name = names[column]
        value = float(box.from_unit(centre)[column])
        sides.append(Side(name, above, value, str(ensemble[name].attrs.get("unit", ""))))
    return tuple(sides), inside if sides else ~inside


def _best_cut(u: Array, column: int, lost: Bools, inside: Bools) -> tuple[float, int, bool, float]:
    """Return Youden's index of the best threshold on one input, the input, the side and the threshold."""
    order = np.argsort(u, kind="stable")
    sorted_u = u[order]
    between = np.flatnonzero(np.diff(sorted_u) > 0)
    if not between.size:
        return -1.0, column, True, 0.0
    below_lost = np.cumsum((lost & inside)[order])[between] / lost.sum()
    below_other = np.cumsum((~lost & inside)[order])[between] / (~lost).sum()
    all_lost, all_other = (lost & inside).sum() / lost.sum(), (~lost & inside).sum() / (~lost).sum()
    below = below_lost - below_other
    above = (all_lost - below_lost) - (all_other - below_other)
    best = max((float(values.max()), side, int(values.argmax())) for values, side in ((below, False), (above, True)))
    place = between[best[2]]
    return best[0], column, best[1], float((sorted_u[place] + sorted_u[place + 1]) / 2)
