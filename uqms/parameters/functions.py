"""The functions that a formula may use when it serves arrays and expressions alike.

A density or a map that is written once takes a namespace `xp` of functions: `NumPyFunctions` for arrays, and
`uqms.calibration.bridge.PyTensorFunctions`, with the same names, for expressions with derivatives.
"""

from typing import Any

import numpy as np
from scipy import special

from uqms import _checks as check
from uqms._typing import Array

__all__ = ["NumPyFunctions"]


class NumPyFunctions:
    """The functions that a formula may use, for arrays.

    `exp`, `log`, `log1p`, `sqrt`, `abs`, `where`, `maximum`, `minimum`, `clip`, `isinf` and `zeros_like` are those of
    NumPy; `gammaln`, `log_ndtr`, `xlogy`, `xlog1py`, `logit` and `expit` those of `scipy.special`; `softplus` is
    log(1 + exp(x)). `sum` and `logsumexp` act on the last axis. `between(low, high, z)` is low + (high - low) expit(z).
    """

    exp, log, log1p, sqrt, abs, where = np.exp, np.log, np.log1p, np.sqrt, np.abs, np.where
    maximum, minimum, clip, isinf, zeros_like = np.maximum, np.minimum, np.clip, np.isinf, np.zeros_like
    gammaln, log_ndtr, xlogy, xlog1py = special.gammaln, special.log_ndtr, special.xlogy, special.xlog1py
    logit, expit = special.logit, special.expit

    @staticmethod
    def asarray(x: Any) -> Array:
        """Return real numbers as float64.

        Raises
        ------
        InputError
            When `x` holds no real numbers.
        """
        return check.real_array(x, "x")

    @staticmethod
    def softplus(x: Any) -> Any:
        """Return log(1 + exp(x))."""
        return np.logaddexp(0.0, x)

    @staticmethod
    def between(low: Any, high: Any, z: Any) -> Any:
        """Return low + (high - low) expit(z), from the nearer end: values near either end keep their digits."""
        distance = (high - low) * special.expit(-np.abs(z))
        return np.where(np.less(z, 0.0), low + distance, high - distance)

    @staticmethod
    def sum(x: Any) -> Any:
        """Return the sum over the last axis."""
        return np.sum(x, axis=-1)

    @staticmethod
    def logsumexp(x: Any) -> Any:
        """Return the log of the sum of exponentials over the last axis."""
        # SciPy's function takes several times as long.
        top = x.max(axis=-1, keepdims=True)
        with np.errstate(all="ignore"):
            total = top[..., 0] + np.log(np.sum(np.exp(x - top), axis=-1))
        return np.where(np.isneginf(top[..., 0]), -np.inf, total)
