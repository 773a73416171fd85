"""Designs of experiments: the inputs at which a simulator is run.

A design is a Dataset with dim "run" and one float64 variable for each input. Its attributes hold the space, the design
box, and the recipe (method, number of rows, seed) from which the same points are made again, given the same `accept`.

Notation: u (n, d) points in the unit cube, x (n, d) the same points in the inputs' own units.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, final

import numpy as np

from uqms import _checks as check
from uqms._teaching import taught
from uqms._typing import Array, Bools, Ints, RandomState, as_generator
from uqms.errors import DesignError, InputError
from uqms.parameters import Box, ParameterSpace

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Trajectories", "extend", "halton", "latin_hypercube", "morris_design", "nested", "sobol", "trajectories_of"]

Accept = Callable[[Mapping[str, Array]], Any]
_logger = logging.getLogger(__name__)
_Method = Literal["sobol", "halton", "latin_hypercube", "morris"]
_CONTINUED = ("sobol", "halton", "latin_hypercube")

_MOST_ROWS = 2**24
_LEAST, _TRIED = 0.01, 1000  # share of points that accept must take, and how many are tried before that is judged
_CANDIDATES = 100


@taught
def sobol(
    space: ParameterSpace | Box,
    n: int,
    rng: RandomState | None = None,
    over: Box | None = None,
    *,
    accept: Accept | None = None,
) -> "xr.Dataset":
    """Return n points of a scrambled Sobol sequence; the default choice.

    It fills the space evenly in every projection, and `extend` continues it. Numbers of rows that are powers of two
    (64, 128, 256) are the most even; any other number works and is a prefix of the next power of two.

    Parameters
    ----------
    space
        The space whose inputs are varied, or directly a `Box`.
    n
        Number of runs. Ten for each input is a common beginning.
    rng
        Seed, or a generator from which one is drawn; the seed is kept in the design.
    over
        None for the prior inside of its design box (points lie where the prior does). A `Box` fills that box
        evenly on the scale on which the surrogate sees it.
    accept
        Function of the points, a mapping of input name to numbers (k,) in the inputs' own units, that returns which of
        them to run, True or False (k,). The design goes on until n are accepted, and says how many it rejected in
        ``attrs["design"]``. With runs that failed before: ``lambda points: success.probability(points) > 0.5``.

    Returns
    -------
    xarray.Dataset
        One variable (run) for each input, in its own unit.

    Raises
    ------
    InputError
        When n is no whole number above zero, the box does not fit the space, or accept returns something else.
    DesignError
        When accept takes less than 1 % of the points.

    References
    ----------
    A. B. Owen, "On dropping the first Sobol' point", 2020, doi:10.1007/978-3-030-98319-2_4.

    Examples
    --------
    >>> import uqms as uq
    >>> space = uq.ParameterSpace(k=uq.Uniform(0, 2), conditions={"dose": uq.Condition(100, 400)})
    >>> design = uq.sobol(space, 64, rng=1)
    >>> dict(design.sizes), bool((design.k < 1.0).mean() == 0.5)
    ({'run': 64}, True)
    """
    return _design("sobol", space, n, rng, over, accept)


@taught
def halton(
    space: ParameterSpace | Box,
    n: int,
    rng: RandomState | None = None,
    over: Box | None = None,
    *,
    accept: Accept | None = None,
) -> "xr.Dataset":
    """Return n points of a scrambled Halton sequence.

    Like `sobol`, but no number of rows is better than another; somewhat less even beyond about ten inputs.

    Parameters
    ----------
    space, n, rng, over, accept
        As for `sobol`.

    Returns
    -------
    xarray.Dataset
        One variable (run) for each input, in its own unit.

    Raises
    ------
    InputError
        When n is no whole number above zero, the box does not fit the space, or accept returns something else.
    DesignError
        When accept takes less than 1 % of the points.

    References
    ----------
    A. B. Owen, "A randomized Halton algorithm in R", 2017, arXiv:1706.02808.

    Examples
    --------
    >>> import uqms as uq
    >>> uq.halton(uq.ParameterSpace(k=uq.Uniform(0, 2)), 50, rng=1).sizes["run"]
    50
    """
    return _design("halton", space, n, rng, over, accept)


@taught
def latin_hypercube(
    space: ParameterSpace | Box,
    n: int,
    rng: RandomState | None = None,
    over: Box | None = None,
    *,
    accept: Accept | None = None,
) -> "xr.Dataset":
    """Return a Latin hypercube of n points whose nearest neighbours are far apart (maximin).

    Each input is cut into n layers of equal size and every layer holds one point. Of 100 such random designs the one
    with the largest distance between its closest points (in the unit cube) is taken. Choose it when the number of runs
    is fixed, small and no power of two. With `accept`, layers are those of all points before any were rejected.

    Parameters
    ----------
    space, n, rng, over, accept
        As for `sobol`.

    Returns
    -------
    xarray.Dataset
        One variable (run) for each input, in its own unit.

    Raises
    ------
    InputError
        When n is no whole number above zero, the box does not fit the space, or accept returns something else.
    DesignError
        When accept takes less than 1 % of the points.

    References
    ----------
    M. D. Morris and T. J. Mitchell, "Exploratory designs for computational experiments", J. Stat. Plan. Inference 43,
    1995, doi:10.1016/0378-3758(94)00035-T.

    Examples
    --------
    >>> import uqms as uq
    >>> design = uq.latin_hypercube(uq.ParameterSpace(k=uq.Uniform(0, 5)), 5, rng=1)
    >>> sorted(int(k) for k in design.k)
    [0, 1, 2, 3, 4]
    """
    return _design("latin_hypercube", space, n, rng, over, accept)


@taught
def nested(
    space: ParameterSpace | Box, runs: Mapping[str, int], rng: RandomState | None = None, over: Box | None = None
) -> "dict[str, xr.Dataset]":
    """Return a design for each level of fidelity: each is the beginning of the one before, and fills the space itself.

    Every point at which a costly level runs is then one of the cheaper levels too, which is what autoregressive
    surrogates require. All are beginnings of one scrambled Sobol sequence.

    Parameters
    ----------
    space, rng, over
        As for `sobol`.
    runs
        Level -> number of its runs, the cheapest level first; numbers must not grow.

    Returns
    -------
    dict
        Level -> design.

    Raises
    ------
    InputError
        When a number is no whole number above zero, or larger than the one before.

    Examples
    --------
    >>> import uqms as uq
    >>> space = uq.ParameterSpace(k=uq.Uniform(0, 2))
    >>> designs = uq.nested(space, {"0d": 64, "1d": 16}, rng=1)
    >>> bool((designs["1d"].k == designs["0d"].k[:16]).all())
    True
    """
    if not isinstance(runs, Mapping) or not runs:
        raise InputError(
            f"nested: runs is {runs!r}; give the number of runs of each level, the cheapest first: "
            "uq.nested(space, {'coarse': 64, 'fine': 16}, rng=1)."
        )
    counts = [check.count(f"runs of {level!r}", n) for level, n in runs.items()]
    grows = [i for i in range(1, len(counts)) if counts[i] > counts[i - 1]]
    if grows:
        level = list(runs)[grows[0]]
        raise InputError(
            f"{level!r} has {counts[grows[0]]} runs, more than the level before ({counts[grows[0] - 1]}); list levels "
            "from the cheapest, with most runs, to the costliest."
        )
    seed = _seed(rng)
    return {level: sobol(space, n, seed, over) for level, n in zip(runs, counts, strict=True)}


@taught
def morris_design(
    space: ParameterSpace | Box,
    trajectories: int,
    *,
    levels: int = 4,
    rng: RandomState | None = None,
    over: Box | None = None,
) -> "xr.Dataset":
    """Return trajectories that move one input at a time: the design for screening many inputs with few runs.

    Each trajectory begins at a point of a grid and moves every input once, in random order, by about half of its range:
    d + 1 runs. `elementary_effects` reads the ensemble that comes back. Ten trajectories are a common beginning; the
    first ones of a longer design are those of a shorter one with the same seed, so that a store keeps their results.

    Parameters
    ----------
    space
        The space whose inputs are varied, or directly a `Box`.
    trajectories
        Number of trajectories, at least 2.
    levels
        Levels of the grid of each input, an even number: 4 are the quantiles 0, 1/3, 2/3 and 1 of the prior inside of
        its design box.
    rng
        Seed, or a generator from which one is drawn; the seed is kept in the design.
    over
        None for quantiles of the prior. With a `Box` the grid divides that box evenly on the surrogate's scale: give
        ``space.box(0.95)`` where the ends of the design box are too extreme to be run.

    Returns
    -------
    xarray.Dataset
        One variable (run) for each input, ``trajectories * (d + 1)`` runs, one trajectory after the other.

    Raises
    ------
    InputError
        When a number is not possible, or inputs are correlated and `over` is None: they cannot move one at a time.

    References
    ----------
    M. D. Morris, "Factorial sampling plans for preliminary computational experiments", Technometrics 33, 1991,
    doi:10.1080/00401706.1991.10484804.

    Examples
    --------
    >>> import uqms as uq
    >>> design = uq.morris_design(uq.ParameterSpace(k=uq.Uniform(0, 3), n=uq.Uniform(1, 2)), 10, rng=1)
    >>> design.sizes["run"], sorted(set(design.k.values.round(6).tolist()))
    (30, [0.0, 1.0, 2.0, 3.0])
    """
    region = _Region.of(space, over)
    r = check.count("trajectories", trajectories)
    if r < 2:
        raise InputError(f"trajectories is {r}; a spread needs at least 2, and 10 are a common beginning.")
    if check.count("levels", levels) % 2:
        raise InputError(f"levels is {levels}; give an even number, such as 4: steps are half of the grid then.")
    if region.prior and region.space is not None and region.space.blocks:
        tied = [name for block in region.space.blocks for name in block.names]
        raise InputError(
            f"{', '.join(tied)} are correlated, so that none of them moves alone. Screen with over=space.box(), which "
            "varies each over its own range, or ask for uq.shapley_effects, which are meant for dependent inputs."
        )
    seed, d = _seed(rng), region.box.d
    rows = _limit(r * (d + 1))
    u = _grid_walks(r, d, levels, seed).points.reshape(rows, d)
    return _Recipe(region, "morris", rows, seed, levels=levels).table(region.from_cube(u))


class Trajectories(NamedTuple):
    """Trajectories of a Morris design, and which run of a dataset is which of their points.

    Attributes
    ----------
    points
        In the unit cube, (r, d + 1, d).
    moved
        Which input each step moves, (r, d).
    step
        By how much in the unit cube, with its sign, (r, d).
    rows
        Position of the run at each point, (r, d + 1); -1 where there is none.
    """

    points: Array
    moved: Ints
    step: Array
    rows: Ints


def trajectories_of(design: "xr.Dataset") -> Trajectories:
    """Return the trajectories of a Morris design, or of an ensemble that was made from one, with its runs.

    Runs are found by their inputs, so that some may be missing and their order does not matter.

    Raises
    ------
    DesignError
        When it was not made by `morris_design`.
    """
    recipe = _Recipe.of(design, ("morris",))
    names = recipe.region.box.names
    missing = [name for name in names if name not in design or design[name].dims != ("run",)]
    if missing:
        raise DesignError(f"The dataset has no {', '.join(missing)} along run; its design names {', '.join(names)}.")
    walks = _grid_walks(recipe.n // (len(names) + 1), len(names), recipe.levels, recipe.seed)
    x = np.stack([check.real_array(design[name].values, name) for name in names], axis=-1)
    rows = _same_rows(recipe.region.from_cube(walks.points.reshape(recipe.n, len(names))), x)
    return walks._replace(rows=rows.reshape(walks.points.shape[:2]))


def _grid_walks(r: int, d: int, levels: int, seed: int) -> Trajectories:
    """Return r random walks over the grid, each moving every input once by levels / 2 places."""
    # One row of numbers a trajectory: those of a shorter design are the first ones of a longer.
    numbers = np.random.default_rng(seed).random((r, 2, d))
    start = np.floor(numbers[:, 0] * levels)
    moved = np.argsort(numbers[:, 1], axis=1)
    jump = np.where(start < levels // 2, levels // 2, -(levels // 2))
    # Input j has moved at point s when its place in the order is before s.
    place = np.argsort(moved, axis=1)
    gone = np.arange(d + 1)[None, :, None] > place[:, None, :]
    points = (start[:, None, :] + gone * jump[:, None, :]) / (levels - 1)
    step = np.take_along_axis(jump, moved, axis=1) / (levels - 1)
    return Trajectories(points, moved, step, np.full((r, d + 1), -1))


def _same_rows(wanted: Array, there: Array) -> Ints:
    """Return which row of `there` is each wanted one, -1 for none; equal rows are taken one after the other."""
    codes = np.stack(
        [_places(np.unique(w), t) for w, t in zip(wanted.T, np.vstack([wanted, there]).T, strict=True)], -1
    )
    _, place = np.unique(codes, axis=0, return_inverse=True)
    place = np.where((codes < 0).any(axis=1), -1, place.reshape(-1))

    def turn(values: Ints) -> Ints:
        """Count the equal values before each one."""
        order = np.argsort(values, kind="stable")
        first = np.searchsorted(values[order], values[order], side="left")
        out = np.empty_like(values)
        out[order] = np.arange(len(values)) - first
        return out

    mine, others = place[: len(wanted)], place[len(wanted) :]
    known = {pair: row for row, pair in enumerate(zip(others.tolist(), turn(others).tolist(), strict=True))}
    return np.array([known.get(pair, -1) for pair in zip(mine.tolist(), turn(mine).tolist(), strict=True)])


def _places(values: Array, x: Array) -> Ints:
    """Return which of the increasing values each x is, but for the last digits; -1 for none."""
    at = (
        np.clip(np.searchsorted(values, x), 1, max(len(values) - 1, 1))
        if len(values) > 1
        else np.zeros(len(x), np.int64)
    )
    at = at - (at > 0) * (np.abs(values[at - 1] - x) < np.abs(values[at] - x))
    near = np.abs(values[at] - x) <= 1e-9 * np.abs(values).max()
    return np.where(near, at, -1)


@taught
def extend(
    design: "xr.Dataset", n: int, rng: RandomState | None = None, *, accept: Accept | None = None
) -> "xr.Dataset":
    """Return the design with n more rows; its old rows stay as they are, bit for bit.

    Sobol and Halton designs continue their sequence, so that ``extend(sobol(space, 64, rng=1), 64)`` is
    ``sobol(space, 128, rng=1)``. A Latin hypercube gets the points that fill the layers which are still empty (of the
    finer cut into old + new layers) and keep the largest distance from each other and from the old ones.

    Parameters
    ----------
    design
        A design, or an ensemble that was made from one (outputs are left out of the result).
    n
        Number of rows to add.
    rng
        For Latin hypercubes a new seed; by default it follows from the design's own. Sequences need none.
    accept
        As for `sobol`, for the new rows; a function that has learned meanwhile will do. A design that was made with
        one wants one again, since functions are not kept.

    Returns
    -------
    xarray.Dataset
        The old rows, then the new ones.

    Raises
    ------
    InputError
        When n is no whole number above zero, or accept returns something else.
    DesignError
        When the dataset does not say how it was made, was made with `accept` and none is given, or accept takes less
        than 1 % of the points.

    Examples
    --------
    >>> import uqms as uq
    >>> space = uq.ParameterSpace(k=uq.Uniform(0, 2))
    >>> uq.extend(uq.sobol(space, 64, rng=1), 64).equals(uq.sobol(space, 128, rng=1))
    True
    """
    added = check.count("n", n)
    recipe = _Recipe.of(design)
    _limit(recipe.n + added)
    region = recipe.region
    missing = [name for name in region.box.names if name not in design or design[name].dims != ("run",)]
    if missing:
        raise DesignError(
            f"The design has no {', '.join(missing)} along run; its box names {', '.join(region.box.names)}."
        )
    old = np.stack([check.real_array(design[name].values, name) for name in region.box.names], axis=-1)
    if recipe.rejected and accept is None:
        raise DesignError(
            f"The design was made with accept=, which rejected {recipe.rejected} points; give extend(..., accept=) too."
        )
    extended, start = recipe.extended, recipe.n + recipe.rejected
    if recipe.method == "latin_hypercube":
        seed = recipe.seed if rng is None else _seed(rng)
        before = region.to_cube(old)

        def points(count: int) -> Array:
            return _augment(before, count, np.random.default_rng([seed, start]))

        extended = (*extended, (recipe.n, seed))
    else:

        def points(count: int) -> Array:
            # Counted from the recipe, so that rows which were dropped meanwhile do not come again.
            return _sequence(recipe.method, region.box.d, start + count, recipe.seed)[start:]

    x, rejected = _accepted(points, region, added, accept, recipe.method)
    longer = replace(recipe, n=recipe.n + added, extended=extended, rejected=recipe.rejected + rejected)
    return longer.table(np.concatenate([old, x]))


def _no_space(given: object) -> InputError:
    """Return the error of what is no space."""
    swapped = " (space comes first, then n)" if isinstance(given, int) else ""
    return InputError(
        f"space is {type(given).__name__}; give a uq.ParameterSpace(a=uq.Uniform(0, 1), ...), or a uq.Box{swapped}."
    )


@final
@dataclass(frozen=True)
class _Region:
    """Where points go: the prior inside of its design box, or a box on the surrogate's scale."""

    box: Box
    space: ParameterSpace | None
    prior: bool

    @classmethod
    def of(cls, space: ParameterSpace | Box, over: Box | None) -> Self:
        if isinstance(space, Box):
            if over is not None:
                raise InputError("A Box was given as the space and another one as over; give one of them.")
            return cls(space, None, False)
        if not isinstance(space, ParameterSpace):
            raise _no_space(space)
        if over is None:
            return cls(space.box(), space, True)
        if not isinstance(over, Box):
            raise InputError(f"over is {type(over).__name__}; give None (the prior) or a uq.Box.")
        if set(over.names) != set(space.inputs):
            raise InputError(
                f"The box has {', '.join(over.names)}, the inputs of the space are {', '.join(space.inputs)}; "
                "give the box all of them and no other."
            )
        over = over.select(space.inputs)
        for name, low, high in zip(over.names, over.lower, over.upper, strict=True):
            _check_support(space, name, low, high)
        return cls(over, space, False)

    def from_cube(self, u: Array) -> Array:
        if self.space is None or not self.prior:
            return self.box.from_unit(u)
        return np.clip(self.space.from_cube(u, self.box), self.box.lower, self.box.upper)

    def to_cube(self, x: Array) -> Array:
        if self.space is None or not self.prior:
            return self.box.to_unit(x)
        return self.space.to_cube(x, self.box)

    def attributes(self, name: str) -> dict[str, str]:
        if self.space is not None:
            return self.space.attributes(name)
        return {"role": "input", "kind": "parameter", "unit": "", "description": ""}


@final
@dataclass(frozen=True)
class _Recipe:
    """All that is needed to make the same points again."""

    region: _Region
    method: _Method
    n: int
    seed: int
    extended: tuple[tuple[int, int], ...] = ()
    rejected: int = 0  # points that were passed over
    levels: int = 0  # of the grid of trajectories

    def table(self, x: Array) -> "xr.Dataset":
        import xarray as xr

        names = self.region.box.names
        columns = {name: ("run", x[:, j].copy(), self.region.attributes(name)) for j, name in enumerate(names)}
        over = "prior" if self.region.prior else "box"
        recipe: dict[str, Any] = {"method": self.method, "n": self.n, "seed": self.seed, "over": over}
        if self.extended:
            recipe["extended"] = [list(pair) for pair in self.extended]
        if self.rejected:
            recipe["rejected"] = self.rejected
        if self.levels:
            recipe["levels"] = self.levels
        attrs = {"box": json.dumps(self.region.box.to_dict(), allow_nan=False), "design": json.dumps(recipe)}
        if self.region.space is not None:
            attrs = {"space": self.region.space.to_json(), **attrs}
        return xr.Dataset(columns, attrs=attrs)

    @classmethod
    def of(cls, design: "xr.Dataset", methods: tuple[str, ...] = _CONTINUED) -> Self:
        attrs = getattr(design, "attrs", None)
        if not isinstance(attrs, Mapping) or "design" not in attrs or "box" not in attrs:
            raise DesignError(
                "The dataset lacks the attributes design or box, so it cannot be extended; make a new design, for "
                "example with uq.sobol(space, n)."
            )
        try:
            space = ParameterSpace.from_json(attrs["space"]) if "space" in attrs else None
            box = Box.from_dict(json.loads(attrs["box"]))
            data = json.loads(attrs["design"])
            region = _Region(box, space, data["over"] == "prior")
            extended = tuple((int(start), int(seed)) for start, seed in data.get("extended", ()))
            count, rejected = check.count("n", data["n"]), int(data.get("rejected", 0))
            levels = int(data.get("levels", 0))
            recipe = cls(region, data["method"], count, _seed(data["seed"]), extended, rejected, levels)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DesignError(f"The attributes that describe the design cannot be read ({error}).") from None
        if region.prior and (space is None or space.inputs != box.names):
            raise DesignError("The space and the box of the design have different inputs; make a new design.")
        if recipe.method not in methods:
            raise DesignError(_other_method(recipe.method, methods))
        return recipe


def _other_method(method: str, wanted: tuple[str, ...]) -> str:
    if wanted == ("morris",):
        return (
            f"This is a design of the kind {method!r}, without trajectories; make one with uq.morris_design(space, 10)."
        )
    if method == "morris":
        return (
            "Trajectories are not extended: make the design again with more of them and the same seed. The first ones "
            "are the same, and a store keeps their results."
        )
    return f"A design of the kind {method!r} cannot be extended; {', '.join(wanted)} can."


def _design(
    method: _Method,
    space: ParameterSpace | Box,
    n: int,
    rng: RandomState | None,
    over: Box | None,
    accept: Accept | None,
) -> "xr.Dataset":
    region = _Region.of(space, over)
    rows, seed = _limit(check.count("n", n)), _seed(rng)

    def points(count: int) -> Array:
        if method == "latin_hypercube":
            return _augment(np.empty((0, region.box.d)), count, np.random.default_rng(seed))
        return _sequence(method, region.box.d, count, seed)

    x, rejected = _accepted(points, region, rows, accept, method)
    return _Recipe(region, method, rows, seed, rejected=rejected).table(x)


def _accepted(
    points: Callable[[int], Array], region: _Region, n: int, accept: Accept | None, method: _Method
) -> tuple[Array, int]:
    """Return n points (n, d) in their own units that are accepted, and how many others stood among them.

    `points` returns the first points of a sequence, or a Latin hypercube of that many, of which the surplus is left
    out by chance.
    """
    if accept is None:
        return region.from_cube(points(n)), 0
    count = n
    while True:
        x = region.from_cube(points(_limit(count)))
        kept = _which(accept, dict(zip(region.box.names, x.T, strict=True)), count)
        taken = int(kept.sum())
        if taken >= n:
            break
        if count >= _TRIED and taken < _LEAST * count:
            raise DesignError(
                f"accept takes {taken} of {count} points, fewer than {_LEAST:.0%}. Does it understand the inputs' own "
                "units? If so, give the design a box that fits the accepted region: over=uq.Box(...)."
            )
        # A little more than the share so far asks for, and at least twice as many when nothing is known yet.
        count = max(count + n, int(1.1 * count * n / taken) + 1) if taken else max(2 * count, _TRIED)
        count = min(count, max(_TRIED, int(2 * n / _LEAST)))
    places = np.flatnonzero(kept)
    if method == "latin_hypercube":
        chosen = np.sort(np.random.default_rng(count).permutation(places)[:n])
        rejected = count - n
    else:
        chosen = places[:n]
        rejected = int(chosen[-1]) + 1 - n
    _logger.info("accept= rejected %d of %d points (%.1f %%)", rejected, rejected + n, 100 * rejected / (rejected + n))
    return x[chosen], rejected


def _which(accept: Accept, points: dict[str, Array], count: int) -> Bools:
    """Return which of the points are accepted."""
    if not callable(accept):
        raise InputError(f"accept is {accept!r}; give a function of the points that returns which of them to run.")
    given = accept({name: values.copy() for name, values in points.items()})
    try:
        found = np.asarray(given)
    except ValueError:  # rows of different lengths
        found = np.asarray(given, dtype=object)
    if found.dtype != np.bool_ or found.shape != (count,):
        raise InputError(
            f"accept returned {found.dtype} of shape {found.shape} for {count} points; it takes a mapping of input "
            f"name to {count} numbers and returns True or False for each, such as "
            "lambda points: success.probability(points) > 0.5."
        )
    return found


def _seed(rng: RandomState | None) -> int:
    """Return the seed itself, or one that is drawn from the generator."""
    generator = as_generator(rng)
    if rng is None or isinstance(rng, np.random.Generator):
        return int(generator.integers(2**53))
    return int(rng)


def _limit(n: int) -> int:
    if n > _MOST_ROWS:
        raise InputError(f"n is {n}; a design has at most {_MOST_ROWS} rows.")
    return n


def _check_support(space: ParameterSpace, name: str, low: float, high: float) -> None:
    if name in space.priors:
        first, last = space.priors[name].support
    else:
        first, last = space.conditions[name].low, space.conditions[name].high
    if low < first or high > last:
        raise InputError(
            f"The box of {name} goes from {low:g} to {high:g}, but the space allows {first:g} to {last:g}; "
            "narrow the box, or give the box alone, in the place of the space."
        )


def _sequence(method: _Method, d: int, n: int, seed: int) -> Array:
    """Return the first n points (n, d) of the scrambled sequence that belongs to the seed."""
    from scipy.stats import qmc

    generator = np.random.default_rng(seed)
    if method == "sobol":
        # Whole powers of two are drawn: the points are the same, and scipy has nothing to warn of.
        points = qmc.Sobol(d, scramble=True, rng=generator).random_base2((n - 1).bit_length())[:n]
    else:
        points = qmc.Halton(d, scramble=True, rng=generator).random(n)
    return np.asarray(points, dtype=np.float64)


def _augment(old: Array, n: int, rng: np.random.Generator) -> Array:
    """Return n points (n, d) that complete `old` to a Latin hypercube, the best of 100 by the nearest two points."""
    layers = len(old) + n
    taken = np.clip((old * layers).astype(int), 0, layers - 1)
    free = [np.setdiff1d(np.arange(layers), column) for column in taken.T]
    best, widest = np.empty((n, old.shape[1])), -1.0
    for _ in range(_CANDIDATES):
        # Old points may share a layer of the finer cut; then more layers are free than there are new points.
        cells = np.stack([rng.permutation(layer)[:n] for layer in free], axis=-1)
        points = (cells + rng.random(cells.shape)) / layers
        distance = _nearest(points, old)
        if distance > widest:
            best, widest = points, distance
    return best


def _nearest(points: Array, old: Array) -> float:
    """Return the smallest distance of one of the points to another one or to an old one."""
    from scipy.spatial import KDTree

    together = np.concatenate([points, old])
    if len(together) == 1:
        return 0.0
    distances, _ = KDTree(together).query(points, k=2)
    return float(np.min(distances[:, 1]))
