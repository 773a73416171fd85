"""Which level of fidelity to run next, and where: the most of the highest level's variance for the cost.

==========  =======================================================================  ===========
symbol      meaning                                                                  shape
==========  =======================================================================  ===========
v           candidates for the next run                                              (k, d)
u           points over which the variance of the highest level is integrated        (m, d)
C_r         covariance of what is new in level r, given the runs                     ()
P_r(u)²     mean square of the factor with which that enters the highest level       (m,)
==========  =======================================================================  ===========

A run of level t at v, with runs of all lower levels there, takes sum over r <= t of P_r(u)² C_r(u, v)² / C_r(v, v) from
the variance at u: exact for autoregressive levels with given hyperparameters, to first order for nonlinear ones. Where
all levels are one process (designs that are not nested), a run of level t alone takes cov(f(u), f_t(v))² / var f_t(v).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import pandas as pd
import xarray as xr

from uqms._teaching import taught
from uqms._typing import Array, Bools
from uqms.errors import InputError
from uqms.surrogates.fidelity.ladder import Ladder
from uqms.surrogates.fidelity.levels import are_costs
from uqms.surrogates.fidelity.surrogate import MultiFidelitySurrogate
from uqms.surrogates.prediction import named_points
from uqms.surrogates.process import score_at, sobol_points
from uqms.surrogates.run_value import removed

__all__ = ["NextRun", "next_level"]

POINTS, CANDIDATES = 256, 128


@final
@dataclass(frozen=True, eq=False)
class NextRun:
    """What `next_level` proposes.

    Attributes
    ----------
    level
        The level to run.
    inputs
        At which inputs, in their own units.
    also
        Lower levels to run there too, so that designs stay nested.
    table
        One row per level: its best inputs, `reduction` (fraction of the integrated variance removed), `cost` with the
        lower levels that are run too, and `gain`, the reduction per cost.
    """

    level: str
    inputs: dict[str, float]
    also: tuple[str, ...]
    table: pd.DataFrame

    def __str__(self) -> str:
        row = self.table.loc[self.level]
        at = ", ".join(f"{name} = {value:.4g}" for name, value in self.inputs.items())
        also = f", with {', '.join(self.also)} there" if self.also else ""
        return f"run {self.level!r} at {at}{also}: {row['reduction']:.1%} of the variance for a cost of {row['cost']:g}"


@taught
def next_level(
    surrogate: MultiFidelitySurrogate,
    candidates: Mapping[str, object] | xr.Dataset | None = None,
    *,
    cost: Mapping[str, float] | None = None,
) -> NextRun:
    """Propose which level to run next, and at which candidate, for most reduction of variance per cost.

    It is the variance of the highest level, integrated over the box, that counts; outputs count by the fraction of
    their own variance. Nothing is run: run what is proposed, put the run into the ensemble and fit again.

    Parameters
    ----------
    surrogate
        What `MultiFidelity` or `NonlinearMultiFidelity` returned.
    candidates
        Mapping (or a design) of input name to values (k,), in the inputs' own units; 128 Sobol points by default.
    cost
        Cost of a run by level, in any unit; by default that of the surrogate (`costs`).

    Returns
    -------
    NextRun
        Level, inputs, and a table of the best that each level can do.

    Raises
    ------
    InputError
        When it is another surrogate, no costs are known, or candidates lie outside of the design box.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> designs = uq.nested(uq.ParameterSpace(k=uq.Uniform(0.0, 1.0)), {"coarse": 6, "fine": 5}, rng=1)
    >>> def level(name, factor):
    ...     y = factor * np.sin(12.0 * designs[name]["k"].values)
    ...     return uq.ensemble.build(designs[name], {"y": y}, fidelity=name)
    >>> runs = uq.ensemble.combine(level("coarse", 1.0), level("fine", 2.0))
    >>> surrogate = uq.MultiFidelity(levels=("coarse", "fine"), cost={"coarse": 1.0, "fine": 100.0}).fit(runs)
    >>> uq.next_level(surrogate).level
    'coarse'
    """
    if not isinstance(surrogate, MultiFidelitySurrogate):
        raise InputError(
            f"next_level: a {type(surrogate).__name__} has no levels; give what MultiFidelity(...).fit returned."
        )
    costs = _costs(surrogate, cost)
    box = surrogate.domain
    v = sobol_points(CANDIDATES + 1, box.d)[1:]  # the first is a corner
    if candidates is not None:
        x = named_points(box.names, candidates)
        inside = np.asarray(box.contains(x))
        if not inside.all():
            first = dict(zip(box.names, x[int(np.argmin(inside))].tolist(), strict=True))
            raise InputError(
                f"next_level: {int((~inside).sum())} of {len(x)} candidates lie outside of the design box, the first "
                f"at {first}; leave them out, or make the design box wider."
            )
        v = np.asarray(box.to_unit(x))
    u = sobol_points(POINTS, box.d)
    reduction, new, total = _reductions(surrogate, u, v)
    joint = surrogate.ladder.steps[0].kind == "joint"
    price = np.array([costs[level] for level in surrogate.levels])[:, None]
    price = np.broadcast_to(price, reduction.shape) if joint else np.cumsum(np.where(new, price, 0.0), axis=0)
    # A run that is there already tells nothing, and would cost nothing.
    gain = np.where(new & (price > 0.0), reduction / np.where(price > 0.0, price, 1.0), 0.0)
    best = gain.argmax(axis=1)
    each = np.arange(len(best))
    table = pd.DataFrame(
        {
            **dict(zip(box.names, np.asarray(box.from_unit(v[best])).T, strict=True)),
            "reduction": reduction[each, best] / total,
            "cost": price[each, best],
            "gain": gain[each, best] / total,
        },
        index=pd.Index(surrogate.levels, name="level"),
    )
    t = int(gain.max(axis=1).argmax())
    inputs = {name: float(table.iloc[t][name]) for name in box.names}
    also = () if joint else tuple(surrogate.levels[r] for r in range(t) if new[r, best[t]])
    return NextRun(surrogate.levels[t], inputs, also, table)


def _costs(surrogate: MultiFidelitySurrogate, cost: Mapping[str, float] | None) -> Mapping[str, float]:
    costs = dict(surrogate.costs) if cost is None else cost
    if not are_costs(costs, surrogate.levels):
        raise InputError(
            f"next_level: the costs are {costs!r}; give a positive number for each level, such as "
            f"cost={dict.fromkeys(surrogate.levels, 1.0)}."
        )
    return costs


def _reductions(surrogate: MultiFidelitySurrogate, u: Array, v: Array) -> tuple[Array, Bools, float]:
    """Return what a run of each level takes at each candidate (T, k), where it is a new one, and all that there is."""
    levels = len(surrogate.levels)
    ladder = surrogate.ladder.simulated()
    sizes = np.zeros(ladder.top.q)
    for name in surrogate.layouts:
        of_output = np.sum(surrogate.decode(name).basis ** 2, axis=0)
        sizes += of_output / max(float(of_output.sum()), 1e-300)
    weights = np.exp(ladder.log_weights - np.logaddexp.reduce(ladder.log_weights))
    taken, new, total = np.zeros((levels, len(v))), np.zeros((levels, len(v)), dtype=bool), 0.0
    one_of = _jointly if ladder.steps[0].kind == "joint" else _by_level
    for h, weight in enumerate(weights):
        for j in np.flatnonzero(sizes):
            some, fresh, variance = one_of(ladder, h, int(j), u, v, levels)
            taken += weight * sizes[j] * some
            total += float(weight * sizes[j] * variance)
            new |= fresh
    return taken, new, max(total, 1e-300)


def _by_level(ladder: Ladder, h: int, j: int, u: Array, v: Array, levels: int) -> tuple[Array, Bools, float]:
    points, m = np.vstack([u, v])[None], len(u)
    means = ladder.means(h, j, points)
    factor, total = np.ones(m), 0.0
    taken, new = np.zeros((levels, len(v))), np.zeros((levels, len(v)), dtype=bool)
    for t in range(levels - 1, -1, -1):
        step, below = ladder.steps[t], means[t - 1] if t else None
        own = step.given(h, j, points, below, False)[1][0]
        left = np.diagonal(own)[m:]
        process, i, score = step.own(h, j)
        share, new[t] = removed(own[:m, m:], left, process.variance[i, score])
        taken[t] = np.mean(factor[:, None] * share, axis=0)
        total += float(np.mean(factor * np.diagonal(own)[:m]))
        if below is not None:
            slope = step.slope(h, j, points[:, :m], below[:, :m])
            factor = factor * step.amplification(h, j, slope, True)[0]
    return np.cumsum(taken, axis=0), new, total


def _jointly(ladder: Ladder, h: int, j: int, u: Array, v: Array, levels: int) -> tuple[Array, Bools, float]:
    step, m = ladder.steps[0], len(u)
    process, i, score = step.own(h, j)
    taken, new, total = np.zeros((levels, len(v))), np.zeros((levels, len(v)), dtype=bool), 0.0
    for t in range(levels):
        dummies = np.tile(np.eye(levels)[t, 1:], (len(v), 1))
        points = np.vstack([step.inputs(u, None), np.hstack([dummies, v])])
        own = score_at(process, i, score, points[None])[1][0]
        left = np.diagonal(own)[m:]
        share, new[t] = removed(own[:m, m:], left, process.variance[i, score])
        taken[t] = share.mean(axis=0)
        total = float(np.mean(np.diagonal(own)[:m]))
    return taken, new, total
