"""A surrogate of a simulator with regimes: a process for each, and a classifier for the border between them.

==========  ============================================================================  ==============
symbol      meaning                                                                       shape
==========  ============================================================================  ==============
r           regime                                                                        R of them
m           member: a draw of the whole border and of the hyperparameters of all regimes  (M,)
c           regime of an input in a member                                                (M, k)
S_r         scores of the process of regime r; zero at inputs of other regimes            (M, k, q_r)
1_r         score that is 1 at inputs of regime r, whose basis vector is r's offset       (M, k, 1)
==========  ============================================================================  ==============

Given a member, every input has one regime, and the scores are Gaussian: those of the regime's process, with its
covariances between inputs of that regime, and none across. What an output's law is at an input is the mixture over the
members, bimodal where the border may lie on either side. As a member's border is one function, inputs have their
regimes together: a border that is moved is moved for all of them.
"""

import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike

from uqms import _checks as check
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, Ints, RandomState, as_generator
from uqms.ensemble import LOST, table
from uqms.errors import PACKAGE, ConstantOutputWarning, DataError, DesignError, ExtrapolationWarning, InputError
from uqms.parameters import Box
from uqms.surrogates.archive import Stored, loaded, write
from uqms.surrogates.classification import FittedProbability, LatentDraws, classified, labels_of
from uqms.surrogates.gp import GaussianFunctionDraws, GaussianProcess, GaussianProcessSurrogate
from uqms.surrogates.jumps import find_jumps
from uqms.surrogates.kernels import Kernel, Matern52
from uqms.surrogates.outputs import Decoder, Layout
from uqms.surrogates.prediction import Prediction, named_points
from uqms.surrogates.process import Scores, sobol_points
from uqms.surrogates.stored import rebuilt_attrs

__all__ = ["RegimeSurrogate", "Regimes"]

MEMBERS = 64
ANCHORS, NEAR_BORDER, CANDIDATES = 64, 192, 2048
MOST = 8  # regimes
FORMAT = "uqms-regimes"


@taught
@final
@dataclass(frozen=True)
class Regimes:
    """Surrogate of a simulator whose outputs jump between regimes: an arrhythmia starts, an outbreak dies out.

    Use it when `uqms.detect_jump` finds a jump. Each regime has a Gaussian process of its own runs, and a classifier
    tells which regime an input is in; where that is not sure, predictions have two modes.

    Parameters
    ----------
    labels
        Which regime each run is in: the name of a variable or coordinate of the ensemble along "run", or a function of
        the ensemble that returns whole numbers or words (n,). None (default) finds two regimes by themselves, as
        `uqms.detect_jump` does; labels that are known are better.
    regression
        Settings of the process of each regime, `GaussianProcess(...)` with noise="none". Inputs stay on the scales of
        the design box, which all regimes share.
    kernel
        Of the classifier's latent function.
    members
        Number of draws of the border; half of them are mirror images of the others.

    Raises
    ------
    InputError
        When a setting is not one of those.

    References
    ----------
    Sahli Costabal, Perdikaris, Kuhl & Hurtado (2019), doi:10.1016/j.cma.2019.07.033, for the classifier.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 32, rng=1)
    >>> k = design["k"].values
    >>> runs = uq.ensemble.build(design, {"y": np.where(k > 1.3, 5.0, np.sin(k))})
    >>> surrogate = uq.Regimes(labels=lambda runs: runs["y"] > 2.0).fit(runs)
    >>> surrogate.predict({"k": [0.5, 1.9]}).quantile(0.5)["y"].values[0].round(2)
    array([0.48, 5.  ])
    """

    labels: str | Callable[[xr.Dataset], Any] | None = None
    regression: GaussianProcess = field(default_factory=GaussianProcess)
    kernel: Kernel = field(default_factory=Matern52)
    members: int = MEMBERS

    def __post_init__(self) -> None:
        if self.labels is not None and not isinstance(self.labels, str) and not callable(self.labels):
            raise InputError(
                f"labels is {self.labels!r}; give the name of a variable, a function of the runs, or None."
            )
        if not isinstance(self.regression, GaussianProcess):
            raise InputError(f"regression is {self.regression!r}; give GaussianProcess(...).")
        if self.regression.noise not in ("none", "auto"):
            raise InputError(
                f"regression has noise={self.regression.noise!r}; regimes are of a deterministic simulator, so give "
                "GaussianProcess(noise='none')."
            )
        if not isinstance(self.kernel, Kernel):
            raise InputError(
                f"kernel is {self.kernel!r}; give Matern52(), another Matérn kernel or SquaredExponential()."
            )
        if not check.is_whole(self.members, 2) or self.members % 2:
            raise InputError(f"members is {self.members!r}; give an even whole number from 2.")

    @single_threaded
    def fit(self, ensemble: xr.Dataset) -> "RegimeSurrogate":
        """Learn from the completed runs.

        Raises
        ------
        DataError
            When no labels are given and no output jumps, or labels are not one a run, all the same, or more than 8.
        DesignError
            When a regime has fewer than d + 2 runs.
        """
        table.check(ensemble)
        runs = table.completed(ensemble)
        box = table.get_box(runs)
        x = np.asarray(box.to_unit(table.input_array(runs, box.names)))
        runs = runs.assign_attrs(box=json.dumps(box.to_dict(), allow_nan=False))
        labels = self._found(runs) if self.labels is None else labels_of(self.labels, runs, "labels")
        values, labels = np.unique(labels, return_inverse=True)
        labels = labels.reshape(-1).astype(np.int64)
        if not 2 <= len(values) <= MOST:
            raise DataError(
                f"labels: {len(values)} regimes among {len(labels)} runs; give two to {MOST}, or fit GaussianProcess()."
            )
        fitted = []
        for r in range(len(values)):
            rows = np.flatnonzero(labels == r)
            if len(rows) < box.d + 2:
                raise DesignError(
                    f"Regime {values[r]} has {len(rows)} runs of {box.d} inputs; d + 2 = {box.d + 2} are needed"
                    ". Run more points there: uq.extend(design, n, accept=...)."
                )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConstantOutputWarning)  # in one regime outputs may well be constant
                fitted.append(replace(self.regression, noise="none").fit_in_box(runs.isel(run=rows)))
        count = 1 if len(values) == 2 else len(values)
        of = [1] if count == 1 else list(range(count))
        borders = tuple(
            classified(f"regime {values[r]}", box, x, labels == r, self.kernel, "auto", sharp=True) for r in of
        )
        attrs = {key: str(runs.attrs[key]) for key in ("space", "simulator", "design") if key in runs.attrs}
        lost = int(np.isin(table.run_states(ensemble).values, LOST).sum())
        attrs |= {"runs_failed": str(lost)} if lost else {}
        return RegimeSurrogate(
            tuple(fitted), borders, labels, tuple(map(int, values)), self.members, MappingProxyType(attrs)
        )

    def _found(self, runs: xr.Dataset) -> Ints:
        """Return labels of the output that jumps most."""
        settings = replace(self.regression, noise="none", hyperparameters="point", mean=None, scalars="independent")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConstantOutputWarning)
            single = settings.fit(runs)
        if single.runs != runs.sizes["run"]:
            raise DataError("labels: runs repeat the inputs of others; drop them, or give labels.")
        jump = find_jumps(single)
        if not jump.found:
            raise DataError(
                f"labels: no output jumps, so there are no two regimes to be found ({jump}). Fit GaussianProcess(); "
                "or, when you know of regimes, give labels= a variable or a function of the runs that separates them."
            )
        return jump.labels[max(jump.outputs, key=lambda name: jump.gain[name])]


@final
@dataclass(frozen=True, eq=False)
class RegimeSurrogate:
    """A fitted surrogate with regimes; it obeys `uqms.Surrogate`, so calibration and prediction take it as it is.

    The likelihood of a member jumps at its border, so samplers with gradients would be wrong: `SMC()` and
    `Metropolis()` are right.

    Attributes
    ----------
    regimes
        The Gaussian process of each regime.
    borders
        Probability of the second of two regimes; of each where there are more.
    labels
        Regime of each run, (n,), counted from 0.
    names
        What the labels were.
    """

    regimes: tuple[GaussianProcessSurrogate, ...]
    borders: tuple[FittedProbability, ...]
    labels: Ints
    names: tuple[int, ...]
    members: int
    attrs: Mapping[str, str] = field(default_factory=dict)

    differentiable: ClassVar[bool] = False  # at the border; `scores_reverse` is right within a regime

    @property
    def domain(self) -> Box:
        """The design box."""
        return self.regimes[0].domain

    @property
    def layouts(self) -> Mapping[str, Layout]:
        """Dims, coordinates and unit of every output."""
        return self.regimes[0].layouts

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return self.domain.names

    @property
    def runs(self) -> int:
        """Number of runs of all regimes."""
        return len(self.labels)

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}: {int((self.labels == r).sum())}" for r, name in enumerate(self.names))
        return (
            f"<RegimeSurrogate: {self.runs} runs of {', '.join(self.inputs)} → {', '.join(self.layouts)}; by regime "
            f"{counts}; left-out Brier score of the border {max(one.brier for one in self.borders):.3f}>"
        )

    # ---------------------------------------------------------------------------------------------------- the members
    @cached_property
    def _draws(self) -> tuple[LatentDraws, ...]:
        """The members' draws of the border: pairs of mirror images, all hyperparameter draws alike."""
        out = []
        candidates = sobol_points(CANDIDATES, self.domain.d)
        for place, border in enumerate(self.borders):
            unsure = np.abs(border.probability_at(candidates) - 0.5)
            near = np.argsort(unsure, kind="stable")[:NEAR_BORDER]
            anchors = candidates[np.union1d(near, np.arange(ANCHORS))]
            rng = np.random.default_rng([place, self.runs])
            half = rng.standard_normal((self.members // 2, len(anchors)))
            h = np.tile(np.arange(self.members // 2) % len(border.ell), 2)
            out.append(LatentDraws(border, anchors, h, np.vstack([half, -half])))
        return tuple(out)

    @cached_property
    def _hyperparameters(self) -> tuple[Ints, ...]:
        """Which draw (M,) of each regime's process a member has."""
        out = []
        for r, one in enumerate(self.regimes):
            weights = np.exp(one.process.log_weights)
            levels = (np.arange(self.members) + 0.5) / self.members
            draws = np.searchsorted(np.cumsum(weights / weights.sum()), levels).clip(0, len(weights) - 1)
            out.append(np.random.default_rng([r, self.members]).permutation(draws))
        return tuple(out)

    @property
    def log_weights(self) -> Array:
        """Log weights (M,) of the members."""
        return np.full(self.members, -np.log(self.members))

    def regime_at(self, u: Array) -> Ints:
        """Return the regime (M, k) of every member at `u` (k, d) in the unit cube."""
        values = [draws(u) for draws in self._draws]
        if len(values) == 1:
            return np.asarray(values[0] > 0.0, dtype=np.int64)
        return np.argmax(np.stack(values), axis=0)

    def probability(self, points: Mapping[str, object] | xr.Dataset) -> pd.DataFrame:
        """Return the probability of every regime at points in the inputs' own units: one row per point.

        Raises
        ------
        InputError
            When an input is missing.
        """
        u = np.asarray(self.domain.to_unit(named_points(self.domain.names, points)))
        each = np.stack([border.probability_at(u) for border in self.borders], axis=1)
        if len(self.borders) == 1:
            each = np.hstack([1.0 - each, each])
        return pd.DataFrame(each / each.sum(axis=1, keepdims=True), columns=list(self.names))

    # --------------------------------------------------------------------------------------------------- the protocol
    @cached_property
    def _columns(self) -> list[slice]:
        """Places of each regime among the scores; the first of them is 1_r."""
        ends = np.cumsum([0, *(1 + one.process.q for one in self.regimes)])
        return [slice(int(a), int(b)) for a, b in zip(ends[:-1], ends[1:], strict=True)]

    def scores(self, u: Array) -> Scores:
        """Return mean (M, ..., k, q) and covariance between inputs (M, ..., q, k, k) at `u` (..., k, d)."""
        return self._scores(np.asarray(u, dtype=np.float64), diagonal=False)

    def marginal_scores(self, u: Array) -> Scores:
        """Return mean (M, ..., k, q) and variance (M, ..., q, k) at `u` (..., k, d), for many unrelated inputs."""
        return self._scores(np.asarray(u, dtype=np.float64), diagonal=True)

    def _scores(self, u: Array, diagonal: bool) -> Scores:
        *batch, k, d = u.shape
        here = self.regime_at(u.reshape(-1, d)).reshape(self.members, *batch, k)
        q = self._columns[-1].stop
        mean = np.zeros((self.members, *batch, k, q))
        covariance = np.zeros((self.members, *batch, q, k) if diagonal else (self.members, *batch, q, k, k))
        for r, (one, columns, h) in enumerate(zip(self.regimes, self._columns, self._hyperparameters, strict=True)):
            inside = (here == r).astype(np.float64)
            own = one.marginal_scores(u) if diagonal else one.scores(u)
            rest = slice(columns.start + 1, columns.stop)
            mean[..., columns.start] = inside
            mean[..., rest] = own.mean[h] * inside[..., None]
            if diagonal:
                covariance[..., rest, :] = own.covariance[h] * inside[..., None, :]
            else:
                both = inside[..., :, None] * inside[..., None, :]
                covariance[..., rest, :, :] = own.covariance[h] * both[..., None, :, :]
        return Scores(mean, covariance, self.log_weights)

    def scores_reverse(self, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
        """Return the derivative (k, d) of sum(mean * mean_bar) + sum(covariance * covariance_bar) within the regimes.

        At the border, where the scores jump, there is none: that is why `differentiable` is False.
        """
        u = np.ascontiguousarray(u, dtype=np.float64)
        here, total = self.regime_at(u), np.zeros_like(u)
        for r, (one, columns, h) in enumerate(zip(self.regimes, self._columns, self._hyperparameters, strict=True)):
            rest = slice(columns.start + 1, columns.stop)
            inside = (here == r).astype(np.float64)
            means = np.zeros((one.process.draws, len(u), one.process.q))
            covariances = np.zeros((one.process.draws, one.process.q, len(u), len(u)))
            np.add.at(means, h, mean_bar[..., rest] * inside[..., None])
            both = inside[:, None, :, None] * inside[:, None, None, :]
            np.add.at(covariances, h, covariance_bar[:, rest] * both)
            total += one.scores_reverse(u, means, covariances)
        return total

    def decode(self, output: str, coords: Mapping[str, ArrayLike] | None = None) -> Decoder:
        """Return the rows of an output at pointwise coordinates (all simulated ones when None).

        The truncation is that of all regimes together: never less than any regime's own.

        Raises
        ------
        InputError
            When there is no such output.
        """
        parts = [one.decode(output, coords) for one in self.regimes]
        basis = np.hstack([np.column_stack([part.offset, part.basis]) for part in parts])
        truncation = np.hstack([part.truncation for part in parts])
        return Decoder(np.zeros(len(basis)), basis, truncation)

    def functions(self, n: int, rng: RandomState) -> "RegimeFunctionDraws":
        """Return n draws of the whole function: of each a member, and draws of its regimes' processes.

        Raises
        ------
        InputError
            When n is not positive.
        """
        if not check.is_whole(n, 1):
            raise InputError(f"functions: n is {n!r}; give a whole number from 1.")
        generator = as_generator(rng)
        members = generator.integers(self.members, size=n)
        draws = []
        for one, h in zip(self.regimes, self._hyperparameters, strict=True):
            drawn = one.functions(n, generator)
            draws.append(replace(drawn, hyperparameters=h[members]))
        return RegimeFunctionDraws(self, members, tuple(draws))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the surrogate to one .npz file of arrays and JSON (no pickle); `RegimeSurrogate.load` reads it.

        Raises
        ------
        InputError
            When the mean of a regime is a cheap model in Python.
        StorageError
            When the file cannot be written.
        """
        return write(FORMAT, self.stored(), path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "RegimeSurrogate":
        """Read what `save` wrote; nothing in the file is run.

        Raises
        ------
        FormatError, FormatVersionError, IntegrityError, UnsafeFileError
            As `load_surrogate`.
        """
        return loaded(path, FORMAT, "surrogate with regimes", RegimeSurrogate.restored)

    def stored(self) -> Stored:
        """Return what a file holds of it: a header of JSON and arrays.

        Raises
        ------
        InputError
            When the mean of a regime is a cheap model in Python.
        """
        regimes, borders = [one.stored() for one in self.regimes], [one.stored() for one in self.borders]
        arrays = {"labels": np.asarray(self.labels, dtype=np.float64)}
        for what, parts in (("regime", regimes), ("border", borders)):
            for i, one in enumerate(parts):
                arrays |= {f"{what}{i}.{name}": values for name, values in one.arrays.items()}
        header = {"regimes": [one.header for one in regimes], "borders": [one.header for one in borders]}
        more = {"names": list(self.names), "members": self.members, "attrs": dict(self.attrs)}
        return Stored(header | more, arrays)

    @classmethod
    def restored(cls, header: Mapping[str, Any], arrays: dict[str, Array]) -> "RegimeSurrogate":
        """Return the surrogate of which a file holds this; arrays are taken out of the mapping."""

        def taken(prefix: str) -> dict[str, Array]:
            return {name.removeprefix(prefix): arrays.pop(name) for name in list(arrays) if name.startswith(prefix)}

        regimes = tuple(
            GaussianProcessSurrogate.restored(one, taken(f"regime{i}.")) for i, one in enumerate(header["regimes"])
        )
        borders = tuple(
            FittedProbability.restored(one, taken(f"border{i}.")) for i, one in enumerate(header["borders"])
        )
        labels, names, members = arrays.pop("labels"), header["names"], header["members"]
        if arrays:
            raise InputError(f"{sorted(arrays)[0]} belongs to nothing")
        count = len(regimes)
        if count < 2 or len(borders) != (1 if count == 2 else count) or len(names) != count:
            raise InputError(f"{count} regimes with {len(borders)} borders and {len(names)} names")
        if type(members) is not int or members < 2 or members % 2 or not all(type(name) is int for name in names):
            raise InputError(f"there are {members!r} members and the names {names!r}")
        if labels.ndim != 1 or not np.isin(labels, range(count)).all():
            raise InputError("labels of the runs that are no regimes")
        if any(box != regimes[0].domain for box in [one.domain for one in regimes] + [one.domain for one in borders]):
            raise InputError("regimes and borders have different design boxes")
        if any(set(one.layouts) != set(regimes[0].layouts) for one in regimes):
            raise InputError("regimes have different outputs")
        attrs = rebuilt_attrs(header)
        return cls(regimes, borders, labels.astype(np.int64), tuple(names), members, attrs)

    @single_threaded
    def predict(self, points: Mapping[str, object] | xr.Dataset | pd.DataFrame) -> Prediction:
        """Predict every output at points given in the inputs' own units; see `GaussianProcessSurrogate.predict`.

        Where the border is not sure the law of an output has two modes: ask for `quantile`, `interval` or `draws`
        rather than for mean and sd.

        Warns
        -----
        ExtrapolationWarning
            When a point lies outside of the design box.
        """
        x = named_points(self.domain.names, points)
        inside = np.asarray(self.domain.contains(x))
        if not inside.all():
            warnings.warn(
                f"{int((~inside).sum())} of {len(x)} points lie outside of the design box: the surrogate extrapolates "
                "there. Simulate there, or restrict the points.",
                ExtrapolationWarning,
                skip_file_prefixes=PACKAGE,
            )
        u = np.asarray(self.domain.to_unit(x))
        return Prediction(self, u, self.marginal_scores(u), inside)


@final
@dataclass(frozen=True, eq=False)
class RegimeFunctionDraws:
    """Draws of the whole function; calling evaluates every draw at inputs `u` (k, d) to (draws, k, q)."""

    surrogate: RegimeSurrogate
    members: Ints  # (draws,)
    draws: tuple[GaussianFunctionDraws, ...]  # one a regime

    def __call__(self, u: Array) -> Array:
        """Return the scores (draws, k, q); the same call gives the same numbers."""
        u = np.asarray(u, dtype=np.float64)
        here = self.surrogate.regime_at(u)[self.members]
        columns = self.surrogate._columns
        out = np.zeros((len(self.members), len(u), columns[-1].stop))
        for r, (draws, place) in enumerate(zip(self.draws, columns, strict=True)):
            inside = (here == r).astype(np.float64)
            out[..., place.start] = inside
            out[..., place.start + 1 : place.stop] = draws(u) * inside[..., None]
        return out
