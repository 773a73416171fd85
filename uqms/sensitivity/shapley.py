"""Shapley effects: the variance of an output divided among inputs that go together.

==========  ==================================================================  ==============
symbol      meaning                                                             shape
==========  ==================================================================  ==============
W_u         E[Var(y | x_u)], what the inputs u leave unexplained
Sh_i        mean over all orders of the inputs of the drop of W when i          (players)
            becomes known, over Var(y); they add up to 1
S1, ST      1 - W_i / Var(y) and W_(all but i) / Var(y)
w           coefficients of W in Sh, one row a resample of the orders           (B, P, subsets)
==========  ==================================================================  ==============

Function draws are evaluated at few draws of the inputs, with the mean function, which is evaluated at many, as control
variate.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
import pandas as pd
import xarray as xr

from uqms import _checks as check
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, RandomState, as_generator
from uqms.calibration import Posterior
from uqms.calibration.direct import is_exact
from uqms.sensitivity._dependent import DependentDraws, dependent_draws
from uqms.sensitivity._draws import (
    along,
    check_room,
    flattened,
    interval_of,
    only_indices,
    parts_of,
    wanted_groups,
    wanted_outputs,
)
from uqms.sensitivity._errors_given_data import functions_given_data, room_for
from uqms.sensitivity._functions import mean_of
from uqms.sensitivity._inputs import check_surrogate
from uqms.sensitivity._nearest_inputs import Neighbours, neighbours_of, unexplained
from uqms.sensitivity._resampling import bayesian_weights, one_of
from uqms.surrogates import GaussianProcessSurrogate, Surrogate
from uqms.surrogates.protocol import fixed_rows
from uqms.surrogates.sampled_chain import SampledChain

__all__ = ["ShapleyEffects", "shapley_effects"]

EXACT = 10  # players up to which all subsets are taken
ORDERS = 50  # pairs of an order and its reverse
JOINT = 512  # draws of the inputs at which functions are drawn
LOOKED_UP = 2**19  # draws of the inputs times subsets
LEAST_POINTS, MOST_POINTS = 1024, 8192
BLOCK = 2**23  # numbers that are held at once
LEAST_BLOCKS = 16  # of neighbouring draws that are resampled together
MOST = 2**27  # numbers of a result


@taught
@final
@dataclass(frozen=True, eq=False)
class ShapleyEffects:
    """Shapley effects of every output, as draws.

    ``result["y"]`` is a Dataset of one output with the variables

    - Sh: Shapley effect, the fraction of the variance due to the input; dims ("draw", "bootstrap", "parameter",
      coordinates of the output). They add up to 1;
    - S1: share that goes when the input becomes known, what it has in common with others included;
    - ST: share that stays when all others are known;
    - variance: of the output, dims ("draw", "bootstrap", coordinates);
    - Sh_whole, S1_whole, ST_whole: of a curve as a whole, variances integrated along its coordinates.

    Draws are functions that the runs allow (after calibration: and the data), bootstraps what finitely many draws of
    the inputs and, with many inputs, finitely many orders of them do to each.

    Attributes
    ----------
    indices
        By output.
    inputs
        Names of the inputs that vary.
    fixed
        Values of the others.
    groups
        By name, the inputs of a group.
    settings
        Numbers of draws, points and subsets; the fraction of draws of the inputs outside of the design box; and
        "exact", whether all subsets were taken (1) or random orders (0).
    """

    indices: Mapping[str, xr.Dataset]
    inputs: tuple[str, ...]
    fixed: Mapping[str, float]
    groups: Mapping[str, tuple[str, ...]]
    settings: Mapping[str, float]

    def __getitem__(self, output: str) -> xr.Dataset:
        """Return the effects of one output."""
        return one_of(self.indices, output, "ShapleyEffects")

    def interval(self, prob: float = 0.95) -> dict[str, xr.Dataset]:
        """Return, by output, estimates and equal-tailed intervals of all indices.

        Dim "bound" has "estimate" (the mean over the draws), "lower" and "upper"; both errors are in the interval.

        Raises
        ------
        InputError
            When `prob` is not between 0 and 1.
        """
        prob = check.probability("interval", "prob", prob)
        return {name: interval_of(only_indices(one), prob) for name, one in self.indices.items()}

    def error(self) -> dict[str, xr.Dataset]:
        """Return, by output, the two parts of the sd of every index, dim "source".

        "surrogate" is what more runs of the simulator (or more data) reduce, "monte_carlo" what more points do.
        """
        return {name: parts_of(only_indices(one)) for name, one in self.indices.items()}

    def table(self, prob: float = 0.95, *, pointwise: bool = False) -> pd.DataFrame:
        """Return one row for each output, index and parameter: estimate, interval and the two parts of its sd.

        Of curves those of the whole curve, or with `pointwise` those at every coordinate.

        Raises
        ------
        InputError
            When `prob` is not between 0 and 1.
        """
        between, parts = self.interval(prob), self.error()
        frames = []
        for name in self.indices:
            for kind in ("Sh", "S1", "ST"):
                key = f"{kind}_whole" if f"{kind}_whole" in between[name] and not pointwise else kind
                errors = parts[name][key].to_dataset("source")
                wide = (
                    between[name][key]
                    .to_dataset("bound")
                    .assign(surrogate_sd=errors["surrogate"], monte_carlo_sd=errors["monte_carlo"])
                )
                frame = wide.to_dataframe().reset_index()
                frame.insert(0, "output", name)
                frame.insert(1, "index", kind)
                frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def summary(self, prob: float = 0.95) -> str:
        """Return a table to read: the inputs of each output, the largest effect first."""
        found = self.table(prob)
        lines = []
        for name, one in self.indices.items():
            where = ", whole curve" if "Sh_whole" in one else ""
            if found.loc[found["output"] == name, "estimate"].isna().all():
                lines.append(f"{name}: does not vary, so that nothing drives it")
                continue
            lines.append(f"{name}{where}: fractions of the variance, {prob:.0%} intervals")
            mine = {kind: rows.set_index("parameter") for kind, rows in found[found["output"] == name].groupby("index")}
            order = mine["Sh"].sort_values("estimate", ascending=False, kind="stable").index
            width = max(map(len, order))
            for parameter in order:
                cells = [_cell(kind, mine[kind].loc[parameter]) for kind in ("Sh", "S1", "ST")]
                lines.append(f"  {parameter:<{width}}  " + "   ".join(cells))
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.summary()


def _cell(kind: str, row: pd.Series) -> str:
    return f"{kind} {row['estimate']:.2f} ({row['lower']:.2f} to {row['upper']:.2f})"


@taught
@single_threaded
def shapley_effects(
    surrogate: Surrogate | Posterior,
    inputs: Any = None,
    *,
    conditions: Mapping[str, Any] | None = None,
    outputs: Sequence[str] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    draws: int = 64,
    points: int | None = None,
    bootstrap: int = 50,
    rng: RandomState | None = None,
) -> ShapleyEffects:
    """Divide each output's variance among inputs that may be dependent, with intervals.

    Use it for the draws of a posterior and for correlated priors: what two inputs explain together is divided between
    them, so that effects add up to 1 and none is negative. An input that the model does not use gets its part of what
    it has in common with one that the model does. For independent inputs `sobol_indices` say more, from exact joint
    draws at more points.

    Parameters
    ----------
    surrogate
        What `fit` returned, or one of your own that follows `uq.Surrogate`. Or a posterior, for its own surrogate.
    inputs
        The distribution: by default the prior of the space that the surrogate was trained in, correlations included
        (or the posterior, where that was given). Else a `ParameterSpace`, a posterior, or joint draws by name: a
        mapping, a DataFrame or a Dataset, in the order of their chain if they come from one (how far draws depend on
        those before is in the Monte Carlo error); nothing else is assumed of their distribution. With the posterior of
        the same surrogate, function draws are those that runs and data allow.
    conditions
        Value, or range ``uq.Condition(low, high)``, of each known input.
    outputs
        Names; all by default.
    groups
        Name -> inputs that count as one; other inputs count by themselves.
    draws
        Number of functions that are drawn.
    points
        Number of draws of the inputs at which the mean function is evaluated; by default 1024 to 8192, fewer with more
        inputs. The cost is that of finding neighbours of each in every subset of the inputs.
    bootstrap
        Number of resamples of these draws.
    rng
        Whole number or generator.

    Returns
    -------
    ShapleyEffects
        Print it; ``result["y"]["Sh"]`` are draws.

    Raises
    ------
    InputError
        When inputs are missing, unknown, repeat or lie outside of the design box, a condition is neither fixed nor
        given a range, or numbers are out of range.

    Notes
    -----
    What some inputs leave unexplained is estimated from the differences of nearest neighbours in them (Broto et al.
    2020), after a quadratic function of these inputs was taken out, which changes no conditional variance and nearly
    all of the bias. All subsets up to 10 inputs (or groups), 50 random orders and their reverses beyond. What the
    basis of a curve leaves out is not divided. Estimates are not clipped: of an input that does nothing they may be
    slightly below zero. Outputs with a transform are divided on their own scale. Of a stochastic
    simulator the effects are those of its mean.

    References
    ----------
    Owen & Prieur (2017), doi:10.1137/16M1097717; Song, Nelson & Staum (2016), doi:10.1137/15M1048070; Broto, Bachoc &
    Depecker (2020), doi:10.1137/18M1234631.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> block = uq.MultivariateNormal(("a", "b"), mean=[0.0, 0.0], covariance=[[1.0, 0.8], [0.8, 1.0]])
    >>> space = uq.ParameterSpace(block)
    >>> design = uq.sobol(space, 32, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": 3.0 * design["a"].values})
    >>> effects = uq.shapley_effects(uq.GaussianProcess().fit(runs), rng=1)
    >>> effects["y"]["Sh"].mean(("draw", "bootstrap")).values.round(1)  # b matters as far as it tells of a
    array([0.7, 0.3])
    """
    who = "shapley_effects"
    if isinstance(surrogate, Posterior):
        inputs = surrogate if inputs is None else inputs
        given = surrogate.single.surrogate
        surrogate = given.chain if isinstance(given, SampledChain) else given  # errors of links are no inputs
    surrogate = check_surrogate(surrogate, who, independent=False)
    names = wanted_outputs(surrogate, outputs, who)
    for what, value, least in (("draws", draws, 2), ("bootstrap", bootstrap, 10)):
        check.whole(who, what, value, least=least)
    check.whole(who, "points", points, least=200, optional=True)
    generator = as_generator(rng)
    over = dependent_draws(
        surrogate, inputs, conditions, MOST_POINTS if points is None else int(points), generator, who
    )
    players = wanted_groups(over.names, groups, who)
    columns = [[surrogate.domain.names.index(name) for name in group] for group in players.values()]
    game = _game(len(players), bootstrap, generator)
    if points is None:
        most = max(LEAST_POINTS, min(MOST_POINTS, LOOKED_UP // max(1, len(game.subsets))))
        over = _thinned(over, most)
    check_room(surrogate, names, 3 * int(draws) * int(bootstrap) * len(players), MOST, who)
    u, functions = _function_draws(surrogate, inputs, over, int(draws), generator)
    indices = _indices(surrogate, names, over, u, functions, columns, game, list(players), bootstrap, generator)
    settings = {
        "draws": len(functions),
        "points": len(over.u),
        "joint_points": len(u),
        "bootstrap": bootstrap,
        "subsets": len(game.subsets),
        "exact": float(game.exact),
        "outside": over.outside,
    }
    groups_ = {name: tuple(group) for name, group in players.items()}
    return ShapleyEffects(indices, over.names, dict(over.fixed), groups_, settings)


def _thinned(over: DependentDraws, most: int) -> DependentDraws:
    if len(over.u) <= most:
        return over
    picked = np.unique(np.linspace(0, len(over.u) - 1, most).astype(np.int64))
    block = max(1, math.ceil(over.block * most / len(over.u)))
    return DependentDraws(over.names, over.u[picked], over.fixed, over.outside, block)


# --------------------------------------------------------------------------------------------------------------- game
class _Game(NamedTuple):
    """Which subsets of the players are asked for, and what they count in the effects.

    Attributes
    ----------
    subsets
        Of players, none empty and none whole.
    weights
        Of W in Sh, (B or 1, P, subsets + 2): the last two of the empty and of the whole set.
    exact
        Whether all subsets were taken.
    """

    subsets: list[tuple[int, ...]]
    weights: Array
    exact: bool

    def place(self, subset: tuple[int, ...]) -> int:
        return self.subsets.index(subset)


def _game(count: int, bootstrap: int, rng: np.random.Generator) -> _Game:
    everyone = tuple(range(count))
    if count <= EXACT:
        subsets = [one for size in range(1, count) for one in itertools.combinations(everyone, size)]
        places = _places(subsets, everyone)
        weights = np.zeros((1, count, len(places)))
        for subset, at in places.items():
            for player in set(everyone) - set(subset):
                size = len(subset)
                w = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
                weights[0, player, at] += w
                weights[0, player, places[tuple(sorted((*subset, player)))]] -= w
        return _Game(subsets, weights, True)
    orders = np.array([rng.permutation(count) for _ in range(ORDERS)])
    steps: dict[tuple[int, ...], None] = {(player,): None for player in everyone}
    steps |= {tuple(p for p in everyone if p != player): None for player in everyone}
    walks = [
        [tuple(sorted(map(int, order[:size]))) for size in range(1, count)]
        for pair in orders
        for order in (pair, pair[::-1])
    ]
    steps |= dict.fromkeys(itertools.chain.from_iterable(walks))
    subsets = list(steps)
    places = _places(subsets, everyone)
    by_pair = np.zeros((ORDERS, count, len(places)))
    for i, walk in enumerate(walks):
        order = orders[i // 2] if i % 2 == 0 else orders[i // 2][::-1]
        for player, before, after in zip(order, [(), *walk], [*walk, everyone], strict=True):
            by_pair[i // 2, player, places[before]] += 0.5
            by_pair[i // 2, player, places[after]] -= 0.5
    xi = bayesian_weights(ORDERS, bootstrap, rng) / ORDERS
    return _Game(subsets, np.tensordot(xi, by_pair, 1), False)


def _places(subsets: list[tuple[int, ...]], everyone: tuple[int, ...]) -> dict[tuple[int, ...], int]:
    return {subset: at for at, subset in enumerate([*subsets, (), everyone])}


# ---------------------------------------------------------------------------------------------------------- functions
def _function_draws(
    surrogate: Surrogate, inputs: object, over: DependentDraws, draws: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return draws of the inputs (M, d), and joint draws of the scores there (S, M, q)."""
    posterior = inputs if isinstance(inputs, Posterior) and inputs.single.surrogate is surrogate else None
    if is_exact(surrogate):
        few = _thinned(over, LEAST_POINTS).u[:2]
        return few, np.repeat(surrogate.scores(few).mean[:1], draws, axis=0)
    if posterior is not None:
        u = _thinned(over, room_for(posterior, draws)).u
        return u, functions_given_data(posterior, u, draws, rng)
    u = _thinned(over, JOINT).u
    # One call is joint at all of its points, so that anchors would only cost.
    drawn = (
        surrogate.functions(draws, rng, anchors=0)
        if isinstance(surrogate, GaussianProcessSurrogate)
        else surrogate.functions(draws, rng)
    )
    return u, np.asarray(drawn(u))


class _Cloud(NamedTuple):
    """Draws of the inputs, their neighbours in every subset, and their weights."""

    u: Array
    near: list[Neighbours]
    xi: Array


def _cloud(
    u: Array, columns: list[list[int]], game: _Game, bootstrap: int, block: int, rng: np.random.Generator
) -> _Cloud:
    near = [neighbours_of(u, [c for player in subset for c in columns[player]], rng) for subset in game.subsets]
    block = max(1, min(block, len(u) // LEAST_BLOCKS))
    xi = np.repeat(bayesian_weights(-(-len(u) // block), bootstrap, rng), block, axis=1)[:, : len(u)]
    return _Cloud(u, near, xi)


def _moments(cloud: _Cloud, y: Array) -> Array:
    """Return W (subsets + 2, B, c) of functions y (M, c): the last two of the empty and of the whole set."""
    xi, m = cloud.xi, len(y)
    out = np.zeros((len(cloud.near) + 2, len(xi), y.shape[1]))
    off = y - y.mean(axis=0)
    w = xi / xi.sum(axis=1, keepdims=True)
    out[-2] = flattened((w @ off**2 - (w @ off) ** 2) * m / (m - 1), y.mean(axis=0))
    for at, near in enumerate(cloud.near):
        out[at] = unexplained(near, cloud.u, off, xi)
    return out


def _indices(
    surrogate: Surrogate,
    names: list[str],
    over: DependentDraws,
    u: Array,
    functions: Array,
    columns: list[list[int]],
    game: _Game,
    players: list[str],
    bootstrap: int,
    rng: np.random.Generator,
) -> dict[str, xr.Dataset]:
    many = _cloud(over.u, columns, game, bootstrap, over.block, rng)
    mean = mean_of(surrogate)
    of_mean = mean(over.u)
    exact = is_exact(surrogate)
    few = many if exact else _cloud(u, columns, game, bootstrap, max(1, over.block * len(u) // len(over.u)), rng)
    at_few = mean(u)
    out = {}
    for name in names:
        found, layout, done = _Effects(game, len(players)), surrogate.layouts[name], 0
        weights = along(layout.dims, layout.coords)
        for w in _blocks(surrogate, name, of_mean, at_few, functions, many, few, exact):
            found.add(w, weights[done : done + w.shape[-1]])
            done += w.shape[-1]
        out[name] = found.dataset(surrogate, name, players)
    return out


def _blocks(
    surrogate: Surrogate,
    name: str,
    of_mean: Array,
    at_few: Array,
    functions: Array,
    many: _Cloud,
    few: _Cloud,
    exact: bool,
) -> Iterator[Array]:
    """Yield W (S, subsets, B, c) of the draws, some coordinates at a time."""
    offset, basis, _ = fixed_rows(surrogate, name)
    inverse: Callable[[Array], Array] = surrogate.layouts[name].transform.inverse
    s, m = len(functions), len(at_few)
    size = max(1, BLOCK // (5 * s * max(m, len(of_mean) // s)))
    for start in range(0, len(offset), size):
        rows = slice(start, start + size)

        def decoded(scores: Array, rows: slice = rows) -> Array:
            return np.asarray(inverse(offset[rows] + scores @ basis[rows].T))

        base = _moments(many, decoded(of_mean))
        c = base.shape[-1]
        if exact:
            yield np.repeat(base[None], s, axis=0)
            continue
        y = np.moveaxis(decoded(functions), 0, 1).reshape(m, s * c)
        both = _moments(few, np.hstack([y, decoded(at_few)]))
        of_draws = np.moveaxis(both[..., : s * c].reshape(*both.shape[:2], s, c), 2, 0)
        yield _corrected(of_draws, both[..., s * c :], base)


def _corrected(of_draws: Array, of_mean: Array, base: Array) -> Array:
    """Return W (S, subsets, B, c) of draws at few points, with the mean as control variate, whose W at many is `base`.

    The coefficient is that of the variance, one for all subsets, so that what their W have in common still cancels.
    """
    drawn, mean = of_draws[:, -2], of_mean[-2]  # (S, B, c), (B, c)
    off = mean - mean.mean(axis=0)
    square = (off**2).sum(axis=0)
    slope = (drawn * off).sum(axis=1) / np.where(square > 0.0, square, np.inf)  # (S, c)
    found = of_draws + slope[:, None, None] * (base - of_mean)[None]
    # A variance is positive: where the correction is larger than it, the draw is left as it is.
    kept = found[:, -2] > 0.0
    return np.asarray(np.where(kept[:, None], found, of_draws))


class _Effects:
    """Indices of one output, collected by blocks of its coordinates."""

    def __init__(self, game: _Game, players: int) -> None:
        self.game, self.players = game, players
        self.parts: list[Array] = []  # (4, S, B, P, c)
        self.total: Array | float = 0.0  # W integrated along the coordinates, (S, subsets, B)

    def add(self, w: Array, weights: Array) -> None:
        """Take W (S, subsets, B, c) at some coordinates, which count with `weights` (c,)."""
        self.total = self.total + w @ weights
        self.parts.append(self._of(w))

    def _of(self, w: Array) -> Array:
        """Return Sh, S1, ST and the variance (4, S, B, P, c) of W (S, subsets, B, c)."""
        variance = w[:, -2]
        safe = np.where(variance > 0.0, variance, np.nan)
        weights = np.broadcast_to(self.game.weights, (w.shape[2], *self.game.weights.shape[1:]))
        shapley = np.einsum("bpu,subc->sbpc", weights, w, optimize=True) / safe[:, :, None]
        everyone = range(self.players)
        if self.players == 1:
            one = np.where(np.isnan(shapley), np.nan, 1.0)
            return np.stack([shapley, one, one, np.broadcast_to(variance[:, :, None], shapley.shape)])
        alone = [self.game.place((player,)) for player in everyone]
        others = [self.game.place(tuple(p for p in everyone if p != player)) for player in everyone]
        first = 1.0 - np.moveaxis(w[:, alone], 1, 2) / safe[:, :, None]
        total = np.moveaxis(w[:, others], 1, 2) / safe[:, :, None]
        return np.stack([shapley, first, total, np.broadcast_to(variance[:, :, None], shapley.shape)])

    def dataset(self, surrogate: Surrogate, name: str, players: list[str]) -> xr.Dataset:
        layout = surrogate.layouts[name]
        found = np.concatenate(self.parts, axis=-1)
        lead, shape = ("draw", "bootstrap", "parameter"), layout.shape
        variables: dict[str, Any] = {
            kind: ((*lead, *layout.dims), found[i].reshape(*found[i].shape[:3], *shape))
            for i, kind in enumerate(("Sh", "S1", "ST"))
        }
        variance = found[3, :, :, 0].reshape(*found.shape[1:3], *shape)
        unit = {"unit": f"({layout.unit})²" if layout.unit else ""}
        variables["variance"] = (("draw", "bootstrap", *layout.dims), variance, unit)
        if layout.dims:
            whole = self._of(np.asarray(self.total)[..., None])[..., 0]
            variables |= {f"{kind}_whole": (lead, whole[i]) for i, kind in enumerate(("Sh", "S1", "ST"))}
        return xr.Dataset(variables, coords={"parameter": players, **layout.coords})
