"""Which transform of an output the runs prefer: its value, logarithm, shifted logarithm or logit, by left-out runs.

Each transform predicts each run from all others. What is compared is the log density of the output in its own unit, so
that the transform's counts its Jacobian. They are tried in a fixed order, and each has to be clearly better than the
best of those before it, run by run, so that none is taken by chance. Nor is one whose medians are farther off than
those of the output as it is: a few runs can hide how wide a transform's tails are.

==========  ======================================================================  ==========
symbol      meaning                                                                 shape
==========  ======================================================================  ==========
y           an output of the runs in its own unit, some of its coordinates          (n, m)
z           the same on the scale of a transform                                    (n, m)
l           log density of y of a left-out run, mean over coordinates               (n,)
==========  ======================================================================  ==========
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float

from uqms._typing import Array, Bools
from uqms.surrogates.training import subset
from uqms.surrogates.transforms import IDENTITY, Identity, Log, Logit, Transform

__all__ = [
    "ROUNDING",
    "TRIED",
    "Choice",
    "Gain",
    "choose_transform",
    "described_transforms",
    "noted_transforms",
    "transforms_to_try",
]

ROUNDING = 1e-6  # of an output's largest value: a curve that is put together from its scores is so far off
SPREAD = 10.0  # largest over smallest value, offset included, or odds, above which a transform is tried
OFFSETS = 0.1, 1.0  # of a logarithm, in medians of the output's positive values
PER_CENT = ("%", "percent", "per cent")  # units of outputs between 0 and 100
COLUMNS, RUNS = 3, 60  # coordinates of a curve, and runs, that are looked at
TRIED = 6  # outputs of a surrogate at most, those that are predicted worst
CLEAR, LEAST = 3.0, 0.1  # standard errors, and nats, from which on a gain is told

FARTHER = 1.1  # times the root mean square error of the output as it is that a transform may have

type LeftOut = Callable[[Array, Array], tuple[Array, Array]]
"""From inputs (n, d) in the unit cube and scalars z (n, m) to each run's log density given the others, and median."""


@final
class Gain(NamedTuple):
    """How much better left-out runs are predicted: mean log density a value, in nats, and its standard error."""

    nats: float
    se: float

    @property
    def clear(self) -> bool:
        """Whether it is worth telling."""
        return self.nats > max(LEAST, CLEAR * self.se)

    def __str__(self) -> str:
        return f"{self.nats:+.1f} ± {self.se:.1f} nats a value"


@final
class Choice(NamedTuple):
    """The transform that the runs prefer, and what it gains over the output as it is.

    Where that is the output as it is, `gain` is that of `rejected`, the best of the others.
    """

    transform: Transform
    gain: Gain
    rejected: Transform | None = None


def transforms_to_try(unit: str, values: Float[np.ndarray, "n m"], rounding: float = 0.0) -> list[Transform]:
    """Return the transforms that an output's values allow, in the order in which they are tried.

    The logit of an output in per cent that stays between 0 and 100: the logarithm of per cents near 100 would promise
    intervals above 100. Of others that are nowhere negative the logarithm, and logarithms with offsets, which take
    zeros. Values are known up to `rounding` times the largest one.
    """
    known = values[np.isfinite(values)]
    if not len(known) or not (known >= -rounding * np.abs(known).max()).all() or not (known > 0.0).any():
        return []
    if unit.strip().lower() in PER_CENT and known.max() <= 100.0:
        found: list[Transform] = [Logit(0, 100)]
    else:
        middle = float(np.median(known[known > 0.0]))
        found = [Log(), *(Log(float(f"{factor * middle:.1g}")) for factor in OFFSETS)]
    sure = np.abs(known) > rounding * np.abs(known).max()
    return [one for one in found if not one.outside(known[sure | (known == 0.0)]).any()]


def choose_transform(
    x: Float[np.ndarray, "n d"],
    unit: str,
    values: Float[np.ndarray, "n m"],
    left_out: LeftOut,
    rounding: float = 0.0,
) -> Choice | None:
    """Return the transform that the runs prefer, at up to three of the coordinates; None where none is tried.

    Each coordinate is a scalar of its own, of runs at `x` in the unit cube. Of many runs some are looked at.
    """
    rows = np.isfinite(values).all(axis=1)
    x, values = x[rows], values[rows]
    if len(values) < x.shape[1] + 3:
        return None
    high = np.abs(values).max(axis=0)
    tried, wide = [], np.zeros(values.shape[1], dtype=bool)
    inside = values.min(axis=0) > rounding * high.max() if rounding else np.ones(values.shape[1], dtype=bool)
    for one in transforms_to_try(unit, values, rounding):
        own = inside & _wide(one, values)
        if own.any():
            tried.append(one)
            wide |= own
    if not tried:
        return None
    some = subset(len(x), RUNS) if len(x) > RUNS else np.arange(len(x))
    at = np.flatnonzero(wide)
    columns = at[np.unique(np.linspace(0, len(at) - 1, COLUMNS).astype(int))]
    return _compared(tried, x[some], values[some][:, columns], left_out)


def _wide(transform: Transform, values: Array) -> Bools:
    """Return the coordinates (m,) at which values are so spread that a transform can matter."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        z = transform.forward(values)
        return np.asarray(np.isfinite(z).all(axis=0) & (np.ptp(z, axis=0) >= np.log(SPREAD)))


def _compared(tried: Sequence[Transform], x: Array, values: Array, left_out: LeftOut) -> Choice:
    def scored(transform: Transform) -> tuple[Array, float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fits that nobody asked for
            logs, medians = left_out(x, transform.forward(values))
        logs += transform.log_slope(values)
        squares = np.mean((transform.inverse(medians) - values) ** 2, axis=0)
        return np.asarray(logs.mean(axis=1)), float(np.mean(np.log(squares + np.finfo(float).tiny)))

    plain, plain_error = scored(IDENTITY)
    best: Transform = IDENTITY
    rejected: Transform | None = None
    of_best, highest = plain, Gain(-np.inf, 0.0)
    for transform in tried:
        own, error = scored(transform)
        gain, farther = _gain(own, plain), np.exp(0.5 * (error - plain_error))
        if gain.clear and farther < FARTHER and _gain(own, of_best).clear:
            best, of_best = transform, own
        if gain.nats > highest.nats:
            rejected, highest = transform, gain
    if isinstance(best, Identity):
        return Choice(best, highest, rejected)
    return Choice(best, _gain(of_best, plain))


def _gain(one: Array, other: Array) -> Gain:
    difference = one - other
    return Gain(float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference))))


def noted_transforms(choices: Mapping[str, Choice]) -> dict[str, str]:
    """Return the attribute of a surrogate that says which transforms its runs chose and rejected."""
    words = {}
    for name, one in choices.items():
        if one.rejected is None:
            words[name] = f"{name} by {one.transform} ({one.gain} of left-out runs)"
        else:
            words[name] = f"{name} as it is ({one.rejected} rejected: {one.gain} of left-out runs)"
    return {"transforms": json.dumps(words)} if words else {}


def described_transforms(attrs: Mapping[str, str]) -> list[str]:
    """Return what `noted_transforms` says, in words."""
    return list(json.loads(attrs.get("transforms", "{}")).values())
