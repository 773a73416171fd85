"""What another setting would gain on these runs: logarithm or logit of an output, measured by left-out runs.

Both settings predict each run from all others. What is compared is the log density of the output in its own unit, so
that the transform's counts its Jacobian.
"""

import warnings
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float

from uqms import ensemble as table
from uqms._typing import Array
from uqms.parameters import Box
from uqms.surrogates.comparison import compare_surrogates
from uqms.surrogates.gp import GaussianProcess
from uqms.surrogates.outputs import Scalar
from uqms.surrogates.training import subset
from uqms.surrogates.transforms import Log, Logit

__all__ = ["ROUNDING", "TRIED", "Gain", "gain_of_transform", "transform_to_try"]

ROUNDING = 1e-6  # of an output's largest value: a curve that is put together from its scores is so far off
SPREAD = 10.0  # largest over smallest value, or odds, above which the logarithm, or logit, is tried
PER_CENT = ("%", "percent", "per cent")  # units of outputs between 0 and 100
COLUMNS, RUNS = 3, 60  # coordinates of a curve, and runs, that are looked at
TRIED = 6  # outputs of a surrogate at most, those that are predicted worst
CLEAR, LEAST = 3.0, 0.1  # standard errors, and nats, from which on a gain is told


@final
class Gain(NamedTuple):
    """How much better left-out runs are predicted: mean log density a value, in nats, and its standard error."""

    nats: float
    se: float

    @property
    def clear(self) -> bool:
        """Whether it is worth telling."""
        return self.nats > max(LEAST, CLEAR * self.se)


def transform_to_try(unit: str, values: Float[np.ndarray, "n m"]) -> Log | Logit:
    """Return the logit for an output in per cent that stays between 0 and 100, the logarithm for any other.

    The logarithm of per cents near 100 would promise intervals above 100.
    """
    inside = np.nanmin(values, initial=0.0) >= 0.0 and np.nanmax(values, initial=0.0) <= 100.0
    return Logit(0, 100) if unit.strip().lower() in PER_CENT and inside else Log()


def gain_of_transform(
    box: Box,
    x: Float[np.ndarray, "n d"],
    values: Float[np.ndarray, "n m"],
    transform: Log | Logit,
    rounding: float = 0.0,
) -> Gain | None:
    """Return what a transform of an output gains at up to three of its coordinates; None where it is not tried.

    Each coordinate is a scalar of a process with default settings, of runs at `x` in the unit cube of the box. Of many
    runs some are looked at. Values are known up to `rounding` times the largest one.
    """
    rows = np.isfinite(values).all(axis=1)
    x, values = x[rows], values[rows]
    if len(values) < x.shape[1] + 3 or not (values >= -rounding * np.abs(values).max()).all():
        return None
    low, high = values.min(axis=0), values.max(axis=0)
    inside = low > rounding * high.max()
    if isinstance(transform, Logit):
        inside &= high < transform.upper
        with np.errstate(divide="ignore"):
            low, high = low / (transform.upper - low), high / (transform.upper - high)
    wide = np.flatnonzero(inside & (high >= SPREAD * low))
    if not len(wide):
        return None
    some = subset(len(x), RUNS) if len(x) > RUNS else np.arange(len(x))
    return _compared(
        box, transform, x[some], values[some][:, wide[np.unique(np.linspace(0, len(wide) - 1, COLUMNS).astype(int))]]
    )


def _compared(box: Box, transform: Log | Logit, x: Array, values: Array) -> Gain:
    outputs = {f"at_{i}": column for i, column in enumerate(values.T)}
    runs = table.build(dict(zip(box.names, box.from_unit(x).T, strict=True)), outputs, box=box)
    plain = GaussianProcess(hyperparameters="point", scalars="independent")
    other = GaussianProcess(
        hyperparameters="point", scalars="independent", outputs=dict.fromkeys(outputs, Scalar(transform=transform))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fits that nobody asked for
        found = compare_surrogates({"value": plain, "transform": other}, runs).table
    scores = found["log_score"].to_dict()
    gain, se = scores["transform"] - scores["value"], found["standard_error"].max()
    return Gain(float(gain) / len(outputs), float(se) / len(outputs))
