"""Decisions under what is not known: expected losses, the best action, and what knowing more would be worth.

==========  ============================================================================  =========
symbol      meaning                                                                       shape
==========  ============================================================================  =========
L           loss of action a for function f of the surrogate and draw s of the inputs     (A, F, S)
z           what would be known: inputs, or a measurement                                 (n, p)
==========  ============================================================================  =========

The value of information is how much lower the expected loss is when one may choose after having learned z:
min_a E L_a - E min_a E(L_a | z). The inner mean is a regression of the losses on z over the draws (Strong, Oakley &
Brennan 2014, doi:10.1177/0272989X13505910; of measurements Strong et al. 2015, doi:10.1177/0272989X15575286), here by
polynomials and kinks of the normal scores of z, as many as leave-one-out errors choose.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement
from math import comb
from typing import Any, final

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import ndtri
from scipy.stats import rankdata

from uqms._teaching import taught
from uqms._typing import Array, RandomState, as_generator
from uqms.errors import DataError, InputError
from uqms.propagation.one_function import OneFunction
from uqms.propagation.variance_parts import Sampling, crossed, nested

__all__ = ["Decision", "decided"]

REPEATS = 1000  # of bootstrap weights
# Regressions that are tried: the total degree, and the number of kinks along each regressor. Losses often have kinks.
FITS = ((1, 0), (2, 0), (3, 0), (2, 3), (3, 3), (3, 7), (3, 15), (4, 15), (3, 31))
COLUMNS = 120  # of a basis at most
SCORES = 4  # of a measurement with many values that losses are regressed on
PER_DRAW = 8  # functions for each draw of the inputs, in the regression on a measurement
COEFFICIENTS = 100

type Loss = Callable[[xr.Dataset, Any], Any]


@taught
@final
@dataclass(frozen=True, eq=False)
class Decision:
    """Expected losses of actions, and the value of information; `Propagation.decide` makes it.

    Attributes
    ----------
    table
        By action: expected `loss`, its errors as standard deviations (`error_surrogate`, `error_monte_carlo`), and
        `probability_best`: the probability that this action has the smallest expected loss, given the surrogate's error
        and the finite number of draws. After a calibration the surrogate's error is the one given the data.
    best
        The action with the smallest expected loss.
    """

    table: pd.DataFrame
    best: Any
    _losses: Array
    _inputs: xr.Dataset
    _outputs: xr.Dataset
    _nested: bool
    _sampling: Sampling

    def __repr__(self) -> str:
        return f"<Decision: best is {self.best!r}\n{self.table.to_string(float_format=lambda v: f'{v:.4g}')}>"

    def value_of_information(self, about: Sequence[str | Sequence[str]] | None = None) -> pd.DataFrame:
        """Return the expected value of knowing inputs before the decision, in the unit of the loss.

        Use it to see what to measure or to simulate: nothing is worth more than its value here costs.

        Parameters
        ----------
        about
            Names of inputs, or groups of names; by default each input alone.

        Returns
        -------
        pandas.DataFrame
            A row each with `value` and its Monte Carlo `error` as a standard deviation: for "everything" (all inputs
            and the surrogate's error), for the "surrogate" (what unlimited runs of the simulator would be worth; not
            after a calibration), and for each input or group.

        Raises
        ------
        InputError
            When a name is unknown.

        References
        ----------
        Strong, Oakley & Brennan (2014), doi:10.1177/0272989X13505910.
        """
        known = [str(name) for name in self._inputs]
        wanted: Sequence[str | Sequence[str]] = known if about is None else about
        groups = [(one,) if isinstance(one, str) else tuple(one) for one in wanted]
        unknown = sorted({name for group in groups for name in group} - set(known))
        if unknown or not all(groups) or isinstance(about, str):
            raise InputError(f"value_of_information: about is {about!r}; give names or groups of {known}.")
        expected = self._losses.mean(axis=(1, 2))
        base = int(np.argmin(expected))
        gain = self._losses[base] - self._losses.min(axis=0)  # (F, S)
        rows = {"everything": (float(gain.mean()), _error(gain, self._nested, self._sampling))}
        if not self._nested and self._losses.shape[1] > 1:
            by_function = self._losses.mean(axis=2)
            better = by_function[base] - by_function.min(axis=0)
            rows["surrogate"] = (float(better.mean()), float(better.std(ddof=1) / np.sqrt(len(better))))
        losses = self._losses.mean(axis=1).T  # (S, A)
        for group in groups:
            z = np.column_stack([self._inputs[name].values for name in group])
            rows[", ".join(group)] = _regressed(z, losses, np.random.default_rng(0))
        return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "error"])

    def value_of_measurement(
        self, measured: str | Callable[[xr.Dataset], Any], sd: float, *, rng: RandomState = 0
    ) -> pd.Series:
        """Return the expected value of a measurement before the decision, in the unit of the loss.

        Parameters
        ----------
        measured
            A quantity, or a function of the table that the loss gets, to what is measured: a DataArray with the dim
            "draw", and others when several values are measured.
        sd
            Standard deviation of the measurement's normal noise; of the mean of r repeats sd / sqrt(r).
        rng
            For the noise.

        Returns
        -------
        pandas.Series
            `value` and its Monte Carlo `error` as a standard deviation.

        Raises
        ------
        InputError
            When `measured` is unknown or returns something else, or sd is not positive.

        References
        ----------
        Strong, Oakley, Brennan & Breeze (2015), doi:10.1177/0272989X15575286.
        """
        if isinstance(sd, bool) or not isinstance(sd, int | float | np.number) or not 0.0 < float(sd) < np.inf:
            raise InputError(f"value_of_measurement: sd is {sd!r}; give a positive, finite number.")
        table = self._outputs
        if isinstance(measured, str) and measured not in table:
            raise InputError(f"value_of_measurement: there is no {measured!r}; there are {[str(n) for n in table]}.")
        value = table[measured] if isinstance(measured, str) else measured(table)
        _, f, s = self._losses.shape
        count = table.sizes["draw"]
        if not isinstance(value, xr.DataArray) or "draw" not in value.dims or value.sizes["draw"] != count:
            raise InputError("value_of_measurement: give a function that returns a DataArray with the dim 'draw'.")
        each = value.transpose("draw", ...).values.reshape(f, s, count // (f * s), -1)[:, :, 0]
        generator = as_generator(rng)
        kept = np.argsort(generator.random((f, s)), axis=0)[:PER_DRAW]  # other functions for each draw
        at = np.arange(s)
        z = (each[kept, at] + sd * generator.standard_normal((len(kept), s, each.shape[2]))).reshape(-1, each.shape[2])
        losses = self._losses[:, kept, at].reshape(len(self._losses), -1).T
        found = _regressed(_compressed(z, sd), losses, generator, len(kept))
        return pd.Series(found, index=["value", "error"])


def decided(
    losses: Array,
    actions: Sequence[Any],
    inputs: xr.Dataset,
    outputs: xr.Dataset,
    of_nested: bool,
    sampling: Sampling,
    known: Array | None,
    one_function: OneFunction | None,
) -> Decision:
    """Return the decision that follows from losses (A, F, S, D, N) of actions.

    After a calibration `known` are those under one function of the surrogate (A, S).
    """
    table = np.stack([losses.mean(axis=(1, 2, 3, 4)), *np.zeros((2, len(losses)))])
    shared = np.zeros((len(losses), len(losses)))
    if known is not None and one_function is not None:
        shared = _shared(losses, known, one_function)
    for a, loss in enumerate(losses):
        parts = nested(loss) if of_nested else crossed(loss, sampling)
        table[1:, a] = np.sqrt(shared[a, a]) if of_nested else float(parts.shared), float(parts.monte_carlo)
    means = losses.mean(axis=(3, 4))
    columns = {
        "loss": table[0],
        "error_surrogate": table[1],
        "error_monte_carlo": table[2],
        "probability_best": _probability_best(means, of_nested, shared),
    }
    frame = pd.DataFrame(columns, index=pd.Index(list(actions), name="action"))
    return Decision(frame, list(actions)[int(np.argmin(table[0]))], means, inputs, outputs, of_nested, sampling)


def _shared(losses: Array, known: Array, one_function: OneFunction) -> Array:
    """Return the covariance (A, A) of the errors of expected losses that are the surrogate's, given the data."""

    def variance(y: Array, m: Array) -> float:
        return float(nested(y, one_function.left(m)).shared) ** 2

    out = np.diag([variance(y, m) for y, m in zip(losses, known, strict=True)])
    for a, b in combinations(range(len(losses)), 2):
        apart = variance(losses[a] - losses[b], known[a] - known[b])
        out[a, b] = out[b, a] = 0.5 * (out[a, a] + out[b, b] - apart)
    return out


def _probability_best(losses: Array, of_nested: bool, shared: Array) -> Array:
    """Return how often each action (A,) is the best one, over functions and over reweighted draws of the inputs."""
    a, f, s = losses.shape
    rng = np.random.default_rng(0)
    weights = rng.exponential(size=(max(REPEATS // f, 1) if not of_nested else REPEATS, s))  # Bayesian bootstrap
    weights /= weights.sum(axis=1, keepdims=True)
    table = (losses.mean(axis=1, keepdims=True) if of_nested else losses) @ weights.T  # (A, F, REPEATS)
    if of_nested:
        values, vectors = np.linalg.eigh(shared)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        table += (root @ rng.standard_normal((a, len(weights))))[:, None]
    best = np.argmin(table, axis=0)
    return np.bincount(best.ravel(), minlength=a) / best.size


def _error(gain: Array, of_nested: bool, sampling: Sampling) -> float:
    y = gain[:, :, None, None]
    return float((nested(y) if of_nested else crossed(y, sampling)).monte_carlo)


def _compressed(z: Array, sd: float) -> Array:
    """Return the main directions (n, p) of what is measured, those that stand out of the noise."""
    if z.shape[1] == 1:
        return z
    centred = z - z.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(z))
    kept = np.flatnonzero(values > 1.02 * sd**2)[-SCORES:]
    return np.asarray(centred @ vectors[:, kept if len(kept) else [-1]])


def _regressed(z: Array, losses: Array, rng: np.random.Generator, copies: int = 1) -> tuple[float, float]:
    """Return the value of knowing z (n, p) and its standard error, from losses (n, A)."""
    if losses.shape[1] == 1 or not np.ptp(z, axis=0).any():
        return 0.0, 0.0
    base = int(np.argmin(losses.mean(axis=0)))
    q, fitted, rest = _fit(z, losses)
    n, columns = q.shape
    value = float(np.mean(fitted[:, base] - fitted.min(axis=1)))
    covariance = rest.T @ rest / max(n - columns, 1) * copies  # copies share their draw of the inputs
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    noise = rng.standard_normal((COEFFICIENTS, columns, losses.shape[1])) @ root.T
    shifted = fitted + q @ noise  # (COEFFICIENTS, n, A)
    spread = np.mean(shifted[:, :, base] - shifted.min(axis=2), axis=1)
    sampled = np.var(fitted[:, base] - fitted.min(axis=1), ddof=1) * copies / n
    return value, float(np.sqrt(np.mean((spread - value) ** 2) + sampled))


def _fit(z: Array, losses: Array) -> tuple[Array, Array, Array]:
    """Return an orthonormal basis (n, c), fitted losses (n, A) and residuals of the best regression."""
    z = z[:, np.ptp(z, axis=0) > 0.0]
    scores = ndtri((rankdata(z, axis=0) - 0.5) / len(z))
    best: tuple[float, Array, Array, Array] | None = None
    for degree, kinks in FITS:
        p = scores.shape[1]
        if comb(p + degree, degree) + kinks * p > min(COLUMNS, len(z) // 5):
            continue
        knots = ndtri(np.arange(1, kinks + 1) / (kinks + 1))
        hinges = np.maximum(scores[:, :, None] - knots, 0.0).reshape(len(z), -1)
        basis = np.hstack([_polynomials(scores, degree), hinges])
        q, _ = np.linalg.qr(basis)
        fitted = q @ (q.T @ losses)
        rest = losses - fitted
        left_out = rest / (1.0 - np.minimum(np.sum(q * q, axis=1), 0.999))[:, None]
        # Actions are compared: what is common to all losses does not matter.
        error = float(np.mean((left_out - left_out.mean(axis=1, keepdims=True)) ** 2))
        if best is None or error < best[0]:
            best = error, q, fitted, rest
    if best is None:
        raise DataError(f"value of information: {len(z)} draws are too few for {z.shape[1]} regressors; take more.")
    return best[1:]


def _polynomials(x: Array, degree: int) -> Array:
    """Return all products (n, c) of Hermite polynomials of the columns up to a total degree."""
    p = x.shape[1]
    each = np.polynomial.hermite_e.hermevander(x, degree)  # (n, p, degree + 1)
    chosen = [one for k in range(degree + 1) for one in combinations_with_replacement(range(p), k)]
    powers = np.array([np.bincount(np.array(one, dtype=np.int64), minlength=p) for one in chosen])
    return np.asarray(np.prod([each[:, j, powers[:, j]] for j in range(p)], axis=0))
