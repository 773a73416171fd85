"""Probability of an event over the design box, learned from runs in which it happened and runs in which it did not.

==========  ============================================================================  =========
symbol      meaning                                                                       shape
==========  ============================================================================  =========
y           label of a run: 1 the event happened, -1 it did not                           (n,)
f           latent function; the event has the probability Phi(f(u))                      (k,)
K           prior covariance of f: s² kappa + c², and what a lower level says of it       (n, n)
h           hyperparameter draw (leading axis): length scales and s                       (H,)
A, b        f has mean m(u) + k' b and covariance k(u, u) - k' A' A k, see `expectation`  (n, n)
==========  ============================================================================  =========

The probability is the mean over everything that is not known, Phi(mean / (1 + variance)^1/2) averaged over h. Where the
boundary is sharp, as that of a deterministic simulator, s is large and Phi(f) is 0 or 1 but next to it; where runs
fail by chance, s is small. The constant c² is the variance of an unknown mean of f.

Of two levels, the latent function of the higher one is rho f_low + delta (Kennedy & O'Hagan 2000): given the labels of
the lower level, f has the prior mean rho m_low and covariance rho² C_low + K_delta.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, final

import numpy as np
import pandas as pd
import xarray as xr
from scipy.optimize import minimize
from scipy.special import log_ndtr, ndtr

from uqms import _checks as check
from uqms._teaching import taught
from uqms._threads import one_thread, single_threaded
from uqms._typing import Array, Bools, Ints, RandomState, as_generator
from uqms.ensemble import table
from uqms.ensemble.states import LOST, RunState
from uqms.errors import DataError, DesignError, InputError
from uqms.parameters import Box
from uqms.surrogates._latent import log_probability_and_slope
from uqms.surrogates.archive import Stored, loaded, write
from uqms.surrogates.averaging import ROUNDS_MORE, draws_of, explore, inverse_curvature
from uqms.surrogates.expectation import Sites, evidence_slope, settle, solved
from uqms.surrogates.kernel_files import description_of
from uqms.surrogates.kernels import (
    Kernel,
    Matern52,
    correlation,
    hyperparameter_count,
    scale_count,
)
from uqms.surrogates.prediction import named_points
from uqms.surrogates.process import scrambled_points, sobol_points
from uqms.surrogates.stored import agree, kernel_of_inputs
from uqms.surrogates.training import bounds_of, prior_of

__all__ = ["EventProbability", "FittedProbability", "LatentDraws", "SuccessProbability", "reliability"]

MEAN_VARIANCE = 1.0  # c²
SD, SD_SHARP, SD_SPREAD = 5.0, 15.0, (1.3, 0.5)  # median of s, and sd of its logarithm: for chance, for a boundary
SD_BOUNDS = (0.1, 100.0)
SCALE_SPREAD = 1.0  # sd of a log length scale
DELTA_SCALE, DELTA_SD, DELTA_SPREAD = (
    2.0,
    0.3,
    1.0,
)  # of delta: length scales and s over those of a level, and its spread
RHO, RHO_SPREAD, RHO_BOUNDS = 1.0, 0.5, (-1.0, 3.0)
SUBSET = 300  # runs that hyperparameters are found from when there are more
AVERAGED = 200  # runs up to which they are averaged
POINTS = 64  # of a round of the average
STARTS = (0.5, 0.15)  # length scales, times sqrt(d)
ANCHORS = 256
FORMAT = "uqms-probability"
# Of what a file holds; the letters as in `stored`.
_STORED = {
    "x": "nd",
    "labels": "n",
    "ell": "Hp",
    "variance": "H",
    "rho": "H",
    "weights": "Hn",
    "factor": "Hnn",
    "log_weights": "H",
    "left_out": "n",
}
STEP = 1e-3
ONE_LEVEL = "choose one: ensemble.isel(run=ensemble.fidelity == {!r})"


# ------------------------------------------------------------------------------------------------------------ settings
@taught
@final
@dataclass(frozen=True)
class SuccessProbability:
    """Probability that a run gives its outputs, learned from the runs that failed and those that did not.

    Use it when a simulator crashes, diverges or runs out of time in a part of the box: a surrogate is trained on the
    successes alone and knows nothing of that part. Give it to designs, `uq.sobol(space, n, accept=lambda points:
    success.probability(points) > 0.5)`, and to a calibration, `uq.Calibration(..., success=success)`.

    Runs that failed, timed out or gave nothing that can be used count as failures; completed runs as successes. Runs
    that were planned only, or not started after a campaign was stopped, count as neither.

    Parameters
    ----------
    partial
        What a run is that gave part of its outputs: "success" (default, as a surrogate learns from it), "failure" or
        "ignore".
    timeout
        What a run is that did not end before its deadline: "failure" (default), or "ignore" when the deadline says
        more of the machine than of the inputs.
    kernel
        Of the latent function, as in `GaussianProcess`.
    hyperparameters
        "averaged" over 16 draws of their posterior, "point" for the most probable ones, or "auto" (default): averaged
        up to 200 runs.

    Raises
    ------
    InputError
        When a setting is not one of those.

    References
    ----------
    Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, section 3.6,
    doi:10.7551/mitpress/3206.001.0001.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 32, rng=1)
    >>> k = design["k"].values
    >>> states = np.where(k > 1.5, "failed", "completed")
    >>> runs = uq.ensemble.build(design, {"y": np.where(k > 1.5, np.nan, k)}, states=states)
    >>> success = uq.SuccessProbability().fit(runs)
    >>> success.probability({"k": [0.5, 1.9]}).round(1)
    array([1., 0.])
    """

    partial: Literal["success", "failure", "ignore"] = "success"
    timeout: Literal["failure", "ignore"] = "failure"
    kernel: Kernel = field(default_factory=Matern52)
    hyperparameters: Literal["auto", "averaged", "point"] = "auto"

    def __post_init__(self) -> None:
        if self.partial not in ("success", "failure", "ignore"):
            raise InputError(f"partial is {self.partial!r}; give 'success', 'failure' or 'ignore'.")
        if self.timeout not in ("failure", "ignore"):
            raise InputError(f"timeout is {self.timeout!r}; give 'failure' or 'ignore'.")
        _check_settings(self.kernel, self.hyperparameters)

    @single_threaded
    def fit(self, ensemble: xr.Dataset) -> "FittedProbability":
        """Learn from the states of the runs.

        Runs of the same inputs count each: a simulator with chance may fail at one of them only.

        Raises
        ------
        DataError
            When no run succeeded, or the table is no ensemble.
        DesignError
            When fewer than two different inputs were run.
        """
        state = table.check_runs(ensemble)
        counted = state != RunState.PLANNED
        failed = np.isin(state, LOST)
        if self.timeout == "ignore":
            counted &= state != RunState.TIMEOUT
        if self.partial == "failure":
            failed |= state == RunState.PARTIAL
        elif self.partial == "ignore":
            counted &= state != RunState.PARTIAL
        runs = ensemble.isel(run=np.flatnonzero(counted))
        _check_one_level(runs, ONE_LEVEL)
        labels = ~failed[counted]
        if len(labels) and not labels.any():
            raise DataError(
                f"None of the {len(labels)} runs gave its outputs, so the region where the simulator works is "
                "unknown. Look at ensemble['message'], repair the simulator or move the design, and run again."
            )
        return _fitted("success", runs, labels, self.kernel, self.hyperparameters, sharp=False)


@taught
@final
@dataclass(frozen=True)
class EventProbability:
    """Probability of an event, such as an arrhythmia or an outbreak, learned from runs with and without it.

    Use it for an outcome that is yes or no. With two fidelity levels, many cheap runs show roughly where the boundary
    is, and a few expensive ones where it really is (Sahli Costabal et al. 2019).

    Parameters
    ----------
    event
        Name of a variable or coordinate of the ensemble along "run" that is True or False (or 1 and 0), or a function
        of the ensemble that returns it, shape (n,).
    levels
        Names of the two fidelities (values of the ensemble's coordinate "fidelity"), the cheap one first; None for one.
    sharp
        Whether the event is decided by the inputs alone (default), as in a deterministic simulator. False when runs of
        the same inputs may differ.
    kernel, hyperparameters
        As in `SuccessProbability`.

    Raises
    ------
    InputError
        When a setting is not one of those.

    References
    ----------
    Sahli Costabal, Perdikaris, Kuhl & Hurtado (2019), doi:10.1016/j.cma.2019.07.033.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 32, rng=1)
    >>> runs = uq.ensemble.build(design, {"peak": np.sin(design["k"].values)})
    >>> event = uq.EventProbability(lambda runs: runs["peak"] > 0.9).fit(runs)
    >>> event.probability({"k": [0.2, 1.5]}).round(1)
    array([0., 1.])
    """

    event: str | Callable[[xr.Dataset], Any]
    levels: tuple[str, str] | None = None
    sharp: bool = True
    kernel: Kernel = field(default_factory=Matern52)
    hyperparameters: Literal["auto", "averaged", "point"] = "auto"

    def __post_init__(self) -> None:
        if not isinstance(self.event, str) and not callable(self.event):
            raise InputError(f"event is {self.event!r}; give the name of a variable, or a function of the ensemble.")
        if self.levels is not None and (
            not isinstance(self.levels, tuple | list)
            or len(self.levels) != 2
            or len(set(self.levels)) != 2
            or not all(isinstance(level, str) for level in self.levels)
        ):
            raise InputError(f"levels is {self.levels!r}; give two names, the cheap level first, or None.")
        _check_settings(self.kernel, self.hyperparameters)

    @single_threaded
    def fit(self, ensemble: xr.Dataset) -> "FittedProbability":
        """Learn from the completed runs; what is returned is the probability at the last of the levels.

        Raises
        ------
        DataError
            When the event is not known in every completed run, or the table is no ensemble.
        DesignError
            When fewer than two different inputs were run, on any level.
        """
        table.check_runs(ensemble)
        runs = table.completed(ensemble)
        given = labels_of(self.event, runs, "event", words=False)
        if not np.isin(given, (0, 1)).all():
            raise DataError(
                f"event holds {sorted(set(given.tolist()))[:5]}; give True where it happened and False where it did "
                "not (or 1 and 0), such as lambda runs: runs['kind'] == 2."
            )
        labels = given > 0
        if self.levels is None:
            _check_one_level(runs, "learn from two: levels=(cheap, costly); or " + ONE_LEVEL)
            return _fitted("event", runs, labels, self.kernel, self.hyperparameters, self.sharp)
        if "fidelity" not in runs.coords and "fidelity" not in runs:
            raise DataError("levels: the ensemble has no coordinate 'fidelity'; give build(..., fidelity=).")
        of = np.asarray(runs["fidelity"].values).astype(str)
        there = sorted(map(str, set(of)))
        lacking = [level for level in self.levels if level not in there]
        if lacking:
            raise DataError(f"levels: no completed run has the fidelity {lacking[0]!r}; there are {there}.")
        more = [level for level in there if level not in self.levels]
        if more:
            raise InputError(
                f"The ensemble has runs of level {more[0]!r} too, which levels={tuple(self.levels)} does not name. "
                "Leave them out: ensemble.isel(run=ensemble.fidelity.isin([...]))."
            )
        # One box for both levels: that of the cheap one may be narrower.
        runs = runs.assign_attrs(box=json.dumps(table.get_box(runs).to_dict(), allow_nan=False))
        base = None
        for level in self.levels:
            rows = np.flatnonzero(of == level)
            base = _fitted(
                "event", runs.isel(run=rows), labels[rows], self.kernel, self.hyperparameters, self.sharp, base
            )
        assert base is not None
        return base


def _check_settings(kernel: object, hyperparameters: str) -> None:
    if not isinstance(kernel, Kernel):
        raise InputError(
            f"kernel is {kernel!r}; give Matern52(), another Matérn kernel or SquaredExponential(), or a sum of them."
        )
    if hyperparameters not in ("auto", "averaged", "point"):
        raise InputError(f"hyperparameters is {hyperparameters!r}; give 'auto', 'averaged' or 'point'.")


def _check_one_level(runs: xr.Dataset, advice: str) -> None:
    """Refuse runs of several levels of fidelity."""
    levels = sorted(set(map(str, runs["fidelity"].values))) if "fidelity" in runs.coords else []
    if len(levels) > 1:
        raise DataError(
            f"The ensemble has runs of several levels of fidelity, {levels}, which one probability would mix: "
            f"{advice.format(levels[-1])}."
        )


def labels_of(given: str | Callable[[xr.Dataset], Any], runs: xr.Dataset, what: str, words: bool = True) -> Ints:
    """Return whole numbers (n,), one per run, from the name of a variable or a function of the runs."""
    if isinstance(given, str):
        if given not in runs.variables:
            raise InputError(
                f"{what}: {given!r} is no variable of the ensemble; it has {sorted(map(str, runs.variables))}. A "
                "condition is a function: lambda runs: runs['peak'] > 1.0."
            )
        values = np.asarray(runs[given].values)
    else:
        values = np.asarray(given(runs))
    if values.shape != (runs.sizes["run"],):
        raise DataError(f"{what} has shape {values.shape} for {runs.sizes['run']} runs; give one value for each.")
    if values.dtype.kind == "f":
        whole = np.isfinite(values) & (values == np.round(values))
        if not whole.all():
            raise DataError(f"{what} holds {values[~whole][0]:g}; give True and False, or whole numbers.")
        values = values.astype(np.int64)
    if values.dtype.kind not in "biu" and not words:
        raise DataError(f"{what} holds {values[:1].tolist()[0]!r}; give True and False, or 1 and 0.")
    if values.dtype.kind not in "biu":
        values = np.unique(values.astype(str), return_inverse=True)[1]
    return np.asarray(values, dtype=np.int64).reshape(-1)


# ------------------------------------------------------------------------------------------------------------ the value
@final
@dataclass(frozen=True, eq=False)
class FittedProbability:
    """Probability of an event over the box, as plain arrays: predicts without a training library, saves without pickle.

    Attributes
    ----------
    event
        What it is the probability of, "success" or "event".
    domain
        The design box.
    kernel
        Of the latent function.
    x, labels
        Inputs in the unit cube (n, d) and whether the event happened (n,).
    left_out
        Probability (n,) of the event in each run, from all others.
    base
        The lower of two levels.
    """

    event: str
    domain: Box
    kernel: Kernel
    x: Array  # (n, d)
    labels: Bools  # (n,)
    ell: Array  # (H, p)
    variance: Array  # (H,)
    rho: Array  # (H,), 0 without a lower level
    weights: Array  # (H, n), b
    factor: Array  # (H, n, n), A
    log_weights: Array  # (H,)
    left_out: Array  # (n,)
    attrs: Mapping[str, str] = field(default_factory=dict)
    base: "FittedProbability | None" = None

    @property
    def runs(self) -> int:
        """Number of runs it was learned from."""
        return len(self.x)

    @property
    def brier(self) -> float:
        """Mean squared difference of left-out probabilities and what happened: 0 is perfect, 0.25 is a coin."""
        return float(np.mean((self.left_out - self.labels) ** 2))

    def reliability(self, bins: int = 10) -> pd.DataFrame:
        """Return how often the event happened where left-out probabilities said so; see `reliability`."""
        return reliability(self.left_out, self.labels, bins)

    def __repr__(self) -> str:
        draws = f", {len(self.ell)} hyperparameter draws" if len(self.ell) > 1 else ""
        lower = f", with a lower level of {self.base.runs} runs" if self.base is not None else ""
        return (
            f"<FittedProbability of {self.event}: {int(self.labels.sum())} of {self.runs} runs over "
            f"{', '.join(self.domain.names)}{lower}; left-out Brier score {self.brier:.3f}{draws}>"
        )

    @single_threaded
    def probability(self, points: Mapping[str, object] | xr.Dataset) -> Array:
        """Return the probability (k,) of the event at points in the inputs' own units.

        Parameters
        ----------
        points
            Mapping (or Dataset, such as a design) of input name to numbers (k,); single numbers are repeated.

        Raises
        ------
        InputError
            When an input is missing.
        """
        return self.probability_at(self._unit(points))

    def _unit(self, points: Mapping[str, object] | xr.Dataset) -> Array:
        if isinstance(points, Mapping) and not isinstance(points, xr.Dataset):
            points = {name: values for name, values in points.items() if name in self.domain.names}
        return np.asarray(self.domain.to_unit(named_points(self.domain.names, points)))

    def probability_at(self, u: Array) -> Array:
        """Return the probability (...) at `u` (..., d) in the unit cube."""
        u = np.asarray(u, dtype=np.float64)
        return np.exp(self.log_probability_at(u))

    def log_probability_at(self, u: Array) -> Array:
        """Return its logarithm."""
        u = np.asarray(u, dtype=np.float64)
        rows, weights = u.reshape(-1, self.domain.d), self.log_weights[:, None]
        size = max(1, 2**22 // max(1, self.runs))
        parts = []
        for start in range(0, len(rows), size):
            mean, variance = self.latent(rows[start : start + size])
            parts.append(np.logaddexp.reduce(weights + log_ndtr(mean / np.sqrt(1.0 + variance)), axis=0))
        return np.concatenate([*parts, np.zeros(0)]).reshape(u.shape[:-1])

    def latent(self, u: Array) -> tuple[Array, Array]:
        """Return mean and variance (H, k) of the latent function at `u` (k, d)."""
        mean, covariance = self._latent(u, u, diagonal=True)
        return mean, np.maximum(covariance, 1e-12)

    def _latent(self, u: Array, v: Array, diagonal: bool) -> tuple[Array, Array]:
        """Return the mean (H, k) at u, and the covariance (H, k, l) between u and v, or (H, k) of u with itself."""
        same = v is u
        to_runs, shift = self.prior(u, self.x)
        halves = [rows @ factor.T for rows, factor in zip(to_runs, self.factor, strict=True)]
        mean = shift + np.stack([rows @ b for rows, b in zip(to_runs, self.weights, strict=True)])
        if diagonal:
            known = np.stack([np.einsum("ij,ij->i", half, half) for half in halves])
            return mean, self.prior_variance(u) - known
        others = halves if same else [r @ f.T for r, f in zip(self.prior(v, self.x)[0], self.factor, strict=True)]
        return mean, self.prior(u, v)[0] - np.stack([a @ b.T for a, b in zip(halves, others, strict=True)])

    def prior(self, u: Array, v: Array) -> tuple[Array, Array]:
        """Return the prior covariance (H, k, l) between u and v and the prior mean (H, k) at u."""
        own = [s2 * correlation(self.kernel, u, v, ell) for s2, ell in zip(self.variance, self.ell, strict=True)]
        total = np.stack(own) + MEAN_VARIANCE
        if self.base is None:
            return total, np.zeros((len(self.ell), len(u)))
        mean, covariance = self.base.moments(u, v)
        return total + self.rho[:, None, None] ** 2 * covariance, self.rho[:, None] * mean

    def prior_variance(self, u: Array) -> Array:
        """Return the prior variance (H, k)."""
        own = np.tile((self.variance + MEAN_VARIANCE)[:, None], (1, len(u)))
        if self.base is None:
            return own
        mean, variance = self.base.latent(u)
        w = np.exp(self.base.log_weights)
        return np.asarray(own + self.rho[:, None] ** 2 * (w @ (variance + (mean - w @ mean) ** 2)))

    def moments(self, u: Array, v: Array) -> tuple[Array, Array]:
        """Return mean (k,) at u and covariance (k, l) between u and v of f, over the hyperparameter draws."""
        w = np.exp(self.log_weights)
        mean, covariance = self._latent(u, v, diagonal=False)
        other = mean if v is u else self.latent(v)[0]
        centre = w @ mean
        between = np.einsum("h,hk,hl->kl", w, mean - centre, other - w @ other)
        return centre, np.tensordot(w, covariance, 1) + between

    @property
    def _one_part(self) -> int | None:
        """Code of the kernel where it has one part and there is no level below: compiled code has its derivative."""
        layout = self.kernel.layout(self.domain.d)
        return None if self.base is not None or layout is None or len(layout) != 2 else int(layout[0])

    def log_slope(self, u: Array) -> Array:
        """Return the derivative (k, d) of the log probability at `u` (k, d) by its inputs."""
        u = np.asarray(u, dtype=np.float64)
        if self._one_part is not None:
            return np.array([self.log_and_slope(row)[1] for row in u]).reshape(u.shape)
        steps = STEP * np.eye(self.domain.d)[:, None, :]
        both = self.log_probability_at(np.stack([u + steps, u - steps]))
        return np.asarray((both[0] - both[1]).T / (2.0 * STEP))

    def log_and_slope(self, u: Array) -> tuple[float, Array]:
        """Return the log probability and its derivative (d,) at one input (d,), as a gradient sampler needs it."""
        if self._one_part is None:
            return float(self.log_probability_at(u)), self.log_slope(u[None])[0]
        value, slope = log_probability_and_slope(
            self._one_part,
            self.x,
            self.ell,
            self.variance,
            MEAN_VARIANCE,
            self.weights,
            self.factor,
            self.log_weights,
            np.ascontiguousarray(u, dtype=np.float64),
        )
        return float(value), np.asarray(slope)

    def functions(self, n: int, rng: RandomState, anchors: int = ANCHORS) -> "LatentDraws":
        """Return n draws of the whole latent function; where a draw is positive the event is the likelier one.

        Calling what is returned at `u` (k, d) in the unit cube gives (n, k). Each draw is a smooth function, exact
        jointly at `anchors` Sobol points of the box; at any other point its law is exact too, and its correlation is
        that which the anchors tell.

        Raises
        ------
        InputError
            When n or anchors is not positive.
        """
        if not check.is_whole(n, 1) or not check.is_whole(anchors, 1):
            raise InputError(f"functions: n is {n!r} and anchors is {anchors!r}; give whole numbers from 1.")
        generator = as_generator(rng)
        h = generator.choice(len(self.ell), size=n, p=np.exp(self.log_weights))
        return LatentDraws(self, sobol_points(anchors, self.domain.d), h, generator.standard_normal((n, anchors)))

    @single_threaded
    def unsure(self, n: int, *, rng: RandomState | None = None, candidates: int = 1024) -> xr.Dataset:
        """Return n inputs whose labels would tell most of where the border is: a design to run next.

        One after the other, of a Sobol sequence, the input where the latent function is least sure to be on its side;
        what is near to those that were chosen counts as known.

        Parameters
        ----------
        n
            Number of inputs.
        rng
            Of the candidates' scrambling.
        candidates
            Number of inputs that are compared.

        Raises
        ------
        InputError
            When n is not a whole number from 1 to the number of candidates.
        """
        if not check.is_whole(candidates, 1) or not check.is_whole(n, 1) or n > candidates:
            raise InputError(f"unsure: n is {n!r} of {candidates!r} candidates; give a whole number from 1 to these.")
        seed = int(as_generator(rng).integers(2**31))
        u = scrambled_points(candidates, self.domain.d, seed)
        mean, covariance = self.moments(u, u)
        variance, chosen = np.diagonal(covariance).copy(), list[int]()
        for _ in range(n):
            score = np.abs(mean) / np.sqrt(np.maximum(variance, 1e-9))
            score[chosen] = np.inf
            chosen.append(int(np.argmin(score)))
            column = covariance[:, chosen[-1]]
            covariance = covariance - np.outer(column, column) / (1.0 + column[chosen[-1]])
            variance = np.diagonal(covariance)
        x = self.domain.from_unit(u[chosen])
        role = {"role": "input", "kind": "parameter", "unit": "", "description": ""}
        attrs = {"box": json.dumps(self.domain.to_dict(), allow_nan=False)}
        attrs |= {"space": self.attrs["space"]} if "space" in self.attrs else {}
        return xr.Dataset({name: ("run", x[:, j], role) for j, name in enumerate(self.domain.names)}, attrs=attrs)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it to one .npz file of arrays and JSON (no pickle); `FittedProbability.load` reads it.

        Raises
        ------
        StorageError
            When the file cannot be written.
        """
        return write(FORMAT, self.stored(), path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "FittedProbability":
        """Read what `save` wrote; nothing in the file is run.

        Raises
        ------
        FormatError, FormatVersionError, IntegrityError, UnsafeFileError
            As `load_surrogate`.
        """
        return loaded(path, FORMAT, "probability of an event", FittedProbability.restored)

    def stored(self) -> Stored:
        """Return what a file holds of it: a header of JSON and arrays."""
        levels = [self] if self.base is None else [self, self.base]
        arrays = {
            f"level{i}.{name}": np.asarray(getattr(one, name)) for i, one in enumerate(levels) for name in _STORED
        }
        header = {"event": self.event, "kernel": description_of(self.kernel), "domain": self.domain.to_dict()}
        return Stored(header | {"levels": len(levels), "attrs": dict(self.attrs)}, arrays)

    @classmethod
    def restored(cls, header: Mapping[str, Any], arrays: dict[str, Array]) -> "FittedProbability":
        """Return the probability of which a file holds this; arrays are taken out of the mapping."""
        box, kernel = Box.from_dict(header["domain"]), kernel_of_inputs(header["kernel"])
        levels = header["levels"]
        if type(levels) is not int or levels not in (1, 2):
            raise InputError(f"there are {levels!r} levels")
        attrs = MappingProxyType({str(key): str(value) for key, value in header["attrs"].items()})
        out: FittedProbability | None = None
        for i in reversed(range(levels)):
            parts: dict[str, Any] = {name: arrays.pop(f"level{i}.{name}") for name in _STORED}
            sizes = {"d": box.d, "p": hyperparameter_count(kernel, box.d)}
            for name, letters in _STORED.items():
                agree(f"level{i}.{name}", parts[name].shape, letters, sizes)
            parts["labels"] = parts["labels"] > 0.5
            out = cls(str(header["event"]), box, kernel, **parts, attrs=attrs, base=out)
        if arrays or out is None:
            raise InputError(f"{sorted(arrays)[:1]} belongs to nothing")
        return out


@final
@dataclass(frozen=True, eq=False)
class LatentDraws:
    """Draws of the whole latent function; calling evaluates every draw at inputs `u` (k, d) to (draws, k).

    A draw deviates from the mean by what its values at the anchors say, stretched to the variance that f has.
    """

    probability: FittedProbability
    anchors: Array  # (a, d)
    hyperparameters: Ints  # (draws,)
    values: Array  # (draws, a), standard normals

    @cached_property
    def _anchored(self) -> tuple[Array, Array]:
        """A k (H, a, n) of the anchors, and the inverse root (H, a, a) of their posterior covariance."""
        fitted, anchors = self.probability, self.anchors
        halves = np.stack([r @ f.T for r, f in zip(fitted.prior(anchors, fitted.x)[0], fitted.factor, strict=True)])
        covariance = fitted.prior(anchors, anchors)[0] - halves @ halves.transpose(0, 2, 1)
        eigenvalues, vectors = np.linalg.eigh(covariance)
        real = eigenvalues > 1e-10 * eigenvalues[:, -1:]
        scaled = np.where(real, np.where(real, eigenvalues, 1.0) ** -0.5, 0.0)
        return halves, vectors * scaled[:, None, :]

    def __call__(self, u: Array) -> Array:
        """Return the latent values (draws, k); the same call gives the same numbers."""
        u = np.asarray(u, dtype=np.float64)
        out = np.empty((len(self.values), len(u)))
        size = max(1, 2**22 // max(1, len(self.anchors) * len(self.probability.ell)))
        for start in range(0, len(u), size):
            out[:, start : start + size] = self._some(u[start : start + size])
        return out

    def _some(self, u: Array) -> Array:
        fitted, (anchored, roots) = self.probability, self._anchored
        to_runs, shift = fitted.prior(u, fitted.x)
        to_anchors = fitted.prior(u, self.anchors)[0]
        own = fitted.prior_variance(u)
        out = np.empty((len(self.values), len(u)))
        for h in np.unique(self.hyperparameters):
            rows = self.hyperparameters == h
            half = to_runs[h] @ fitted.factor[h].T
            variance = np.maximum(own[h] - np.einsum("ij,ij->i", half, half), 1e-12)
            loads = (to_anchors[h] - half @ anchored[h].T) @ roots[h]  # (k, a): deviation = loads @ z
            captured = np.maximum(np.einsum("ij,ij->i", loads, loads), 1e-6 * variance)
            mean = shift[h] + to_runs[h] @ fitted.weights[h]
            out[rows] = mean + (self.values[rows] @ loads.T) * np.sqrt(variance / captured)
        return out


# ------------------------------------------------------------------------------------------------------------- training
class _Found(NamedTuple):
    ell: Array
    sd: float
    rho: float


@final
@dataclass(frozen=True, eq=False)
class _Labelled:
    """Labels with what their latent function is known to be before; hyperparameters p = (log ell, log s[, rho])."""

    x: Array
    y: Array
    kernel: Kernel
    sharp: bool
    base_mean: Array = field(default_factory=lambda: np.zeros(0))  # empty without a lower level
    base_covariance: Array = field(default_factory=lambda: np.zeros((0, 0)))

    @property
    def levels(self) -> bool:
        return len(self.base_mean) > 0

    @cached_property
    def prior(self) -> tuple[Array, Array]:
        """Location and scale of the normal priors of p."""
        d = self.x.shape[1]
        location, scale = (part.copy() for part in prior_of(self.kernel, d, True))
        scale[: scale_count(self.kernel, d)] = SCALE_SPREAD
        location[-1] = np.log(SD_SHARP if self.sharp else SD)
        scale[-1] = SD_SPREAD[self.sharp]
        if not self.levels:
            return location, scale
        # What the levels differ by is smoother, and smaller, than what they have in common.
        scales = scale_count(self.kernel, d)
        location[:scales] += np.log(DELTA_SCALE)
        location[-1] = np.log(max(DELTA_SD * float(np.sqrt(np.mean(self.base_mean**2))), 2.0 * SD_BOUNDS[0]))
        scale[-1] = DELTA_SPREAD
        return np.append(location, RHO), np.append(scale, RHO_SPREAD)

    @property
    def bounds(self) -> Array:
        d = self.x.shape[1]
        own = [*bounds_of(self.kernel, d, False), np.log(SD_BOUNDS)]
        return np.array([*own, RHO_BOUNDS] if self.levels else own)

    def parts(self, p: Array) -> _Found:
        size = hyperparameter_count(self.kernel, self.x.shape[1])
        return _Found(np.exp(p[:size]), float(np.exp(p[size])), float(p[size + 1]) if self.levels else 0.0)

    def covariance(self, found: _Found) -> tuple[Array, Array | float]:
        """Return K and the prior mean at the runs."""
        return self._with_base(found, correlation(self.kernel, self.x, self.x, found.ell))

    def _with_base(self, found: _Found, kappa: Array) -> tuple[Array, Array | float]:
        K = found.sd**2 * kappa + MEAN_VARIANCE
        if not self.levels:
            return K, 0.0
        return K + found.rho**2 * self.base_covariance, found.rho * self.base_mean

    def log_density(self, p: Array, start: Sites | None = None) -> float:
        """Return log evidence plus log prior."""
        location, scale = self.prior
        sites = settle(*self._of(p), start)
        return sites.log_evidence - 0.5 * float(np.sum(((p - location) / scale) ** 2))

    def _of(self, p: Array) -> tuple[Array, Array, Array | float]:
        K, shift = self.covariance(self.parts(p))
        return K, self.y, shift

    def negative(self, p: Array) -> tuple[float, Array]:
        """Return the negative log density and its gradient."""
        location, scale = self.prior
        found = self.parts(p)
        at_runs = self.kernel.linearised(self.x, self.x, found.ell)
        K, shift = self._with_base(found, at_runs.kappa)
        sites = settle(K, self.y, shift)
        slope, b = evidence_slope(K, sites)
        adjoint = found.sd**2 * slope
        gradient = np.append(at_runs.reverse_logs(adjoint), 2.0 * float(np.vdot(adjoint, at_runs.kappa)))
        if self.levels:
            of_rho = float(b @ self.base_mean) + 2.0 * found.rho * float(np.vdot(slope, self.base_covariance))
            gradient = np.append(gradient, of_rho)
        z = (p - location) / scale
        return -(sites.log_evidence - 0.5 * float(z @ z)), -(gradient - z / scale)

    def mode(self) -> tuple[Array, float]:
        """Return the most probable p of two starts."""
        d, best = self.x.shape[1], (np.zeros(0), np.inf)
        for scale in STARTS:
            start = self.prior[0].copy()
            start[: scale_count(self.kernel, d)] = np.log(scale * np.sqrt(d))
            options: Any = {"ftol": 1e-7, "gtol": 1e-3, "maxiter": 60}
            found = minimize(self.negative, start, jac=True, method="L-BFGS-B", bounds=self.bounds, options=options)
            if found.fun < best[1]:
                best = np.asarray(found.x), float(found.fun)
        return best

    def draws(self, mode: Array) -> list[_Found]:
        """Return draws of the hyperparameters around their mode."""
        base = self.negative(mode)[1]
        steps = STEP * np.eye(len(mode))
        curvature = np.array([self.negative(mode + e)[1] - base for e in steps]) / STEP
        start = settle(*self._of(mode))
        found = explore(
            lambda points: np.array([self.log_density(p, start) for p in points]),
            (mode, inverse_curvature(curvature, self.prior[1])),
            self.prior,
            self.bounds,
            POINTS,
            rounds=(1, ROUNDS_MORE),
            enough=POINTS / 4,
        )
        # With noise a number more than length scales is drawn; two more are with it where there are levels.
        if self.levels:
            logs = found._replace(points=found.points.copy())
            logs.points[:, -1] = np.log(found.points[:, -1] - RHO_BOUNDS[0] + 1e-6)
            drawn = draws_of(logs, 1, True, 0)
            return [_Found(one.ell[:-1], float(one.ell[-1]), one.nugget + RHO_BOUNDS[0] - 1e-6) for one in drawn]
        return [_Found(one.ell, one.nugget, 0.0) for one in draws_of(found, 1, True, 0)]


def _fitted(
    event: str,
    runs: xr.Dataset,
    labels: Bools,
    kernel: Kernel,
    hyperparameters: str,
    sharp: bool,
    base: FittedProbability | None = None,
) -> FittedProbability:
    box = table.get_box(runs) if base is None else base.domain
    x = np.asarray(box.to_unit(table.input_array(runs, box.names)))
    attrs = {key: str(runs.attrs[key]) for key in ("space", "simulator", "design") if key in runs.attrs}
    return classified(event, box, x, labels, kernel, hyperparameters, sharp, base, attrs)


def classified(
    event: str,
    box: Box,
    x: Array,
    labels: Bools,
    kernel: Kernel,
    hyperparameters: str,
    sharp: bool,
    base: FittedProbability | None = None,
    attrs: Mapping[str, str] = MappingProxyType({}),
) -> FittedProbability:
    """Return the probability learned from inputs in the unit cube (n, d) and labels (n,)."""
    if len(np.unique(x, axis=0)) < 2:
        raise DesignError(f"{len(x)} runs of fewer than two different inputs; run more points.")
    y = np.where(labels, 1.0, -1.0)
    mean, covariance = (np.zeros(0), np.zeros((0, 0))) if base is None else base.moments(x, x)
    rows = _subset(labels)

    def labelled(which: Ints) -> _Labelled:
        own = () if base is None else (mean[which], covariance[np.ix_(which, which)])
        return _Labelled(np.ascontiguousarray(x[which]), y[which], kernel, sharp, *own)

    whole = labelled(np.arange(len(x)))
    with one_thread():
        some = labelled(rows)
        mode, _ = some.mode()
        averaged = hyperparameters == "averaged" or (hyperparameters == "auto" and len(x) <= AVERAGED)
        found = some.draws(mode) if averaged else [whole.parts(mode)]
        factors, weights, left_out = [], [], []
        for one in found:
            K, shift = whole.covariance(one)
            sites = settle(K, y, shift)
            factor, b = solved(K, sites)
            factors.append(factor)
            weights.append(b)
            left_out.append(ndtr((sites.cavity_mean + shift) / np.sqrt(1.0 + sites.cavity_variance)))
    return FittedProbability(
        event,
        box,
        kernel,
        whole.x,
        np.asarray(labels, dtype=bool),
        np.stack([one.ell for one in found]),
        np.array([one.sd**2 for one in found]),
        np.array([one.rho for one in found]),
        np.stack(weights),
        np.stack(factors),
        np.full(len(found), -np.log(len(found))),
        np.mean(left_out, axis=0),
        MappingProxyType(dict(attrs)),
        base,
    )


def _subset(labels: Bools) -> Ints:
    """Return the runs that hyperparameters are found from: of the rarer label half of them, if there are so many."""
    if len(labels) <= SUBSET:
        return np.arange(len(labels))
    rng = np.random.default_rng(0)
    groups = sorted((np.flatnonzero(labels), np.flatnonzero(~labels)), key=len)
    few = rng.permutation(groups[0])[: SUBSET // 2]
    return np.sort(np.concatenate([few, rng.permutation(groups[1])[: SUBSET - len(few)]]))


# -------------------------------------------------------------------------------------------------------------- honesty
def reliability(probability: Array, happened: Bools, bins: int = 10) -> pd.DataFrame:
    """Return how often an event happened where it was said to have some probability.

    Use it on points that were not learned from, or on left-out probabilities. Honest probabilities have `low` <= said
    <= `high` in about 95 % of the bins.

    Parameters
    ----------
    probability, happened
        Said and seen, (n,).
    bins
        Number of equal parts of [0, 1]; empty ones are left out.

    Returns
    -------
    pandas.DataFrame
        One row per bin: said (mean probability), happened (share), low and high (its 95 % interval, Wilson), count.

    Raises
    ------
    InputError
        When shapes differ, or a probability is none.

    Examples
    --------
    >>> import numpy as np
    >>> reliability(np.array([0.1, 0.1, 0.9, 0.9]), np.array([False, False, True, True]), bins=2)["happened"].tolist()
    [0.0, 1.0]
    """
    from uqms.ensemble.reporting import wilson

    p, seen = np.asarray(probability, dtype=np.float64), np.asarray(happened, dtype=bool)
    if p.shape != seen.shape or p.ndim != 1 or not ((p >= 0.0) & (p <= 1.0)).all() or not check.is_whole(bins, 1):
        raise InputError(f"reliability: probabilities {p.shape} between 0 and 1 and events {seen.shape}, bins from 1.")
    place = np.minimum((p * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    used = np.flatnonzero(count)
    said = np.bincount(place, p, minlength=bins)[used] / count[used]
    share = np.bincount(place, seen, minlength=bins)[used] / count[used]
    low, high = wilson(share, count[used])
    return pd.DataFrame({"said": said, "happened": share, "low": low, "high": high, "count": count[used]})
