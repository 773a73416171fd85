"""What another setting would gain on these runs: the logarithm of a positive output, measured by left-out runs.

Both settings predict each run from all others. What is compared is the log density of the output in its own unit, so
that the logarithm's counts its Jacobian.
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

__all__ = ["ROUNDING", "TRIED", "Gain", "gain_of_logarithm"]

ROUNDING = 1e-6  # of an output's largest value: a curve that is put together from its scores is so far off
SPREAD = 10.0  # largest over smallest value, above which the logarithm is tried
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


def gain_of_logarithm(
    box: Box, x: Float[np.ndarray, "n d"], values: Float[np.ndarray, "n m"], rounding: float = 0.0
) -> Gain | None:
    """Return what the logarithm of an output gains at up to three of its coordinates; None where it is not tried.

    Each coordinate is a scalar of a process with default settings, of runs at `x` in the unit cube of the box. Of many
    runs some are looked at. Values are known up to `rounding` times the largest one.
    """
    rows = np.isfinite(values).all(axis=1)
    x, values = x[rows], values[rows]
    if len(values) < x.shape[1] + 3 or not (values >= -rounding * np.abs(values).max()).all():
        return None
    low, high = values.min(axis=0), values.max(axis=0)
    wide = np.flatnonzero((low > rounding * high.max()) & (high >= SPREAD * low))
    if not len(wide):
        return None
    some = subset(len(x), RUNS) if len(x) > RUNS else np.arange(len(x))
    return _compared(box, x[some], values[some][:, wide[np.unique(np.linspace(0, len(wide) - 1, COLUMNS).astype(int))]])


def _compared(box: Box, x: Array, values: Array) -> Gain:
    outputs = {f"at_{i}": column for i, column in enumerate(values.T)}
    runs = table.build(dict(zip(box.names, box.from_unit(x).T, strict=True)), outputs, box=box)
    plain = GaussianProcess(hyperparameters="point", scalars="independent")
    logs = GaussianProcess(
        hyperparameters="point", scalars="independent", outputs=dict.fromkeys(outputs, Scalar(transform="log"))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fits that nobody asked for
        found = compare_surrogates({"value": plain, "logarithm": logs}, runs).table
    scores = found["log_score"].to_dict()
    gain, se = scores["logarithm"] - scores["value"], found["standard_error"].max()
    return Gain(float(gain) / len(outputs), float(se) / len(outputs))
