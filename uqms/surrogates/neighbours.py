"""Many runs: a Gaussian process that predicts each input from the runs around it.

==========  =============================================================  ===============
symbol      meaning                                                        shape
==========  =============================================================  ===============
x, y        inputs in the unit cube, scores of all runs                    (n, d), (n, q)
ell, s2     length scales, variance; of the whole box                      (q, p), (q,)
N(u)        the m runs nearest to u, in units of the length scales         (m,)
==========  =============================================================  ===============

Given hyperparameters, conditioning a Gaussian process on some of its runs, whichever inputs are chosen, is exact: less
is known than from all runs, but intervals are right. So is the covariance of the errors at two inputs, each predicted
from its own runs; see `_neighbours`. Nearest neighbours: Vecchia (1988), doi:10.1111/j.2517-6161.1988.tb01729.x; local
kriging: Gramacy & Apley (2015), doi:10.1080/10618600.2014.914442.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, final

import numpy as np
import xarray as xr
from scipy.optimize import minimize_scalar
from scipy.spatial import cKDTree

from uqms import _checks as check
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, Ints, RandomState, as_generator
from uqms.ensemble import LOST, RunState, table
from uqms.errors import DataError, DesignError, InputError
from uqms.parameters import Box
from uqms.surrogates._neighbours import local_left_out, local_reverse, local_scores
from uqms.surrogates.archive import Stored
from uqms.surrogates.gp import (
    GaussianProcess,
    check_bounds,
    check_one_level,
    check_settings,
    columns_of,
    merge_duplicates,
)
from uqms.surrogates.kernel_files import description_of
from uqms.surrogates.kernels import Matern52, Stationary, hyperparameter_count, split
from uqms.surrogates.outputs import Curve, OutputBasis, Scalar, check_outputs
from uqms.surrogates.plugging import ScoreDraws, draws_from_scores
from uqms.surrogates.pointwise import NamedSurrogate
from uqms.surrogates.process import Scores
from uqms.surrogates.stored import (
    agree,
    arrays_of_bases,
    check_used_up,
    described,
    rebuilt_attrs,
    rebuilt_bases,
    stationary,
)
from uqms.surrogates.training import JITTER_FIRST, trend_columns

__all__ = ["LeftOutRuns", "LocalGaussianProcess", "LocalGaussianProcessSurrogate"]

TRAINED = 1024  # runs that length scales are learned from
TUNED = 512  # runs that are left out to scale them and to find the variance
CHECKED = 1000  # other runs that are left out to see whether intervals cover
EVERYWHERE = 1e9  # nu: the same variance in the whole box
STRENGTHS = (0.1, 0.5, 2.0, 8.0, 32.0, 128.0, EVERYWHERE)  # nu, in runs
# Of what a file holds; the letters as in `stored`.
_STORED = {"x": "nd", "y": "nq", "ell": "qp", "variance": "q", "strength": "q", "typical": "q", "nugget": "q"}
RANGE = 1.5  # of the logarithm of what all length scales are multiplied by
ANCHORS = 16


class LeftOutRuns(NamedTuple):
    """Runs that were predicted from their neighbours without themselves, one entry a score.

    Attributes
    ----------
    runs
        How many.
    inside_50, inside_95
        Fraction of them inside of the 50 and 95 % interval.
    rmse
        Root of their mean squared error, relative to the sd of the score over the runs.
    """

    runs: int
    inside_50: Array
    inside_95: Array
    rmse: Array


@taught
@final
@dataclass(frozen=True)
class LocalGaussianProcess:
    """Gaussian process for thousands to 10^5 runs: each prediction uses the runs nearest to it.

    Use it where `GaussianProcess`, whose time grows with the cube of the runs, takes too long. Length scales are
    learned from 1 024 of the runs; a common factor of them, the variance, and how far it follows the roughness of the
    output from place to place, from 512 that are predicted without themselves. Another 1 000 of these say how many 95 %
    intervals hold (`left_out`, and the surrogate's repr). A prediction takes the same time whatever the number of runs.
    The mean has small steps where the nearest runs change, below the surrogate's sd.

    Parameters
    ----------
    kernel, trend, outputs
        As in `GaussianProcess`.
    noise
        "none" for a deterministic simulator; "fitted", one variance for the whole box, when all outputs are scalars.
    neighbours
        Number of runs that a prediction uses. More are more exact where outputs are smooth or inputs many; time grows
        with the cube.

    Raises
    ------
    InputError
        When a setting is not one of those.

    References
    ----------
    Vecchia (1988), doi:10.1111/j.2517-6161.1988.tb01729.x; Gramacy & Apley (2015), doi:10.1080/10618600.2014.914442.

    Examples
    --------
    >>> import numpy as np
    >>> import uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0)), 4096, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": np.sin(8 * design["a"].values) * design["b"].values})
    >>> surrogate = uq.LocalGaussianProcess(neighbours=32).fit(runs)
    >>> bool(abs(surrogate.predict({"a": 0.3, "b": 0.5}).mean["y"].item() - 0.5 * np.sin(2.4)) < 1e-4)
    True
    """

    kernel: Stationary = field(default_factory=Matern52)
    trend: Literal["constant", "linear", "quadratic"] = "constant"
    noise: Literal["none", "fitted"] = "none"
    outputs: Mapping[str, Curve | Scalar] = field(default_factory=dict)
    neighbours: int = 64

    def __post_init__(self) -> None:
        if self.noise not in ("none", "fitted"):
            raise InputError(f"noise is {self.noise!r}; give 'none' (deterministic simulator) or 'fitted'.")
        if not check.is_whole(self.neighbours, 8):
            raise InputError(f"neighbours is {self.neighbours!r}; give a whole number, at least 8.")
        check_outputs(self.outputs, "LocalGaussianProcess")
        self._exact()
        if not isinstance(self.kernel, Stationary):
            raise InputError(
                f"LocalGaussianProcess takes a kernel of the scaled distance, such as Matern52(); {self.kernel} is a "
                "JaxKernel. Use GaussianProcess, which has all kernels, or choose another one."
            )

    def _exact(self) -> GaussianProcess:
        """Return the settings by which the hyperparameters are learned."""
        return GaussianProcess(
            self.kernel, self.trend, self.noise, "point", outputs=self.outputs, scalars="independent", scales="given"
        )

    @single_threaded
    def fit(self, ensemble: xr.Dataset) -> "LocalGaussianProcessSurrogate":
        """Learn hyperparameters and bases from some of the completed runs, and keep all for prediction.

        Parameters
        ----------
        ensemble
            Dataset with dim "run" (see `uqms.ensemble`); runs that have not given every output are left out.

        Returns
        -------
        LocalGaussianProcessSurrogate
            A frozen value of plain arrays.

        Raises
        ------
        InputError, DataError, DesignError
            As `GaussianProcess.fit`; DesignError also when there are no more runs than neighbours and coefficients.
        """
        table.check(ensemble)
        check_one_level(ensemble)
        used = np.flatnonzero(table.run_states(ensemble).values == RunState.COMPLETED)
        runs = ensemble.isel(run=used)
        check_settings(self.outputs, table.output_names(runs))
        if self.noise == "fitted":
            _check_scalars(runs)
        check_bounds(self.outputs, runs, used)  # of all runs: hyperparameters are learned from some
        box = table.get_box(runs)
        x = np.asarray(box.to_unit(table.input_array(runs, box.names)))
        runs, x = merge_duplicates(runs, x, box.names, self.noise != "none")
        n = len(x)
        if n <= self.neighbours + 1:
            raise DesignError(
                f"{n} different completed runs, and a prediction uses {self.neighbours} of them: GaussianProcess() is "
                "exact and fast for so few."
            )
        generator = np.random.default_rng(0)  # which runs teach the length scales: a rule, not a setting
        order = generator.permutation(n)
        few = runs.isel(run=np.sort(order[:TRAINED])).assign_attrs(box=json.dumps(box.to_dict()))
        first = self._exact().fit(few)
        _check_constants(runs, first.bases)
        y = np.hstack([self._scores(runs, basis) for basis in first.bases])
        columns = columns_of(self.trend, x)
        if self.neighbours < 2 * columns:
            raise DesignError(
                f"A {self.trend} trend has {columns} coefficients, and {self.neighbours} neighbours "
                f"do not determine them; give neighbours={4 * columns} or more, or a shorter trend."
            )
        process = first.process
        attrs = dict(first.attrs) | {"runs_left_out": str(ensemble.sizes["run"] - n)}
        bases = tuple(replace(basis, left_out=basis.left_out[:0]) for basis in first.bases)
        start = LocalGaussianProcessSurrogate(
            box,
            bases,
            self.kernel,
            x,
            y,
            process.ell[0],
            process.variance[0],
            np.full(y.shape[1], EVERYWHERE),
            np.ones(y.shape[1]),
            process.nugget[0],
            columns,
            self.neighbours,
            MappingProxyType(attrs),
        )
        try:
            found = start._tuned(order[-min(TUNED, n) :])
            checked = found.left_out(min(CHECKED, n), generator)
        except np.linalg.LinAlgError as error:
            raise DesignError(
                f"The {self.neighbours} runs nearest to some input do not determine the {columns} coefficients of a "
                f"{self.trend} trend: they repeat few different inputs. Give trend='constant', or more neighbours."
            ) from error
        failed = int(np.isin(table.run_states(ensemble).values, LOST).sum())
        attrs |= {"runs_failed": str(failed)} if failed else {}
        attrs["left_out"] = json.dumps({"runs": checked.runs, "inside_95": checked.inside_95.tolist()})
        return replace(found, attrs=MappingProxyType(attrs))

    @staticmethod
    def _scores(runs: xr.Dataset, basis: OutputBasis) -> Array:
        """Return the scores (n, q) of all runs in the basis of some."""
        values = np.asarray(basis.layout.transform.forward(runs[basis.name].transpose("run", *basis.dims).values))
        size = np.sum(basis.basis**2, axis=0)
        projected = (values.reshape(runs.sizes["run"], -1) - basis.offset) @ basis.basis
        return np.asarray(projected / np.where(size > 0.0, size, 1.0))


@final
@dataclass(frozen=True, eq=False)
class LocalGaussianProcessSurrogate(NamedSurrogate):
    """A Gaussian process of many runs that predicts each input from those around it; see `LocalGaussianProcess`.

    Attributes
    ----------
    domain
        The design box.
    bases
        One basis an output.
    kernel
        Kernel of all scores.
    x, y
        Inputs (n, d) in the unit cube and scores (n, q) of all runs.
    ell, variance, nugget
        Length scales (q, p), variances (q,) and nuggets (q,), relative to the variance.
    strength, typical
        How the variance follows the roughness of the output near an input (q,), see `_neighbours`; 1e9: not at all.
    columns
        Number of trend functions.
    neighbours
        Number of runs that a prediction uses.
    attrs
        Where it came from: space, design and simulator as JSON.
    """

    domain: Box
    bases: tuple[OutputBasis, ...]
    kernel: Stationary
    x: Array
    y: Array
    ell: Array
    variance: Array
    strength: Array
    typical: Array
    nugget: Array
    columns: int
    neighbours: int
    attrs: Mapping[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> int:
        """Number of runs that predictions choose from."""
        return len(self.x)

    def __repr__(self) -> str:
        counts = [f"{b.name}{list(b.dims) if b.dims else ''} ({b.basis.shape[1]} scores)" for b in self.bases]
        held = ""
        if "left_out" in self.attrs:
            found = json.loads(self.attrs["left_out"])
            held = f"; 95 % intervals hold at least {min(found['inside_95']):.0%} of {found['runs']} left-out runs"
        return (
            f"<LocalGaussianProcessSurrogate: {self.runs} runs ({self.attrs.get('runs_left_out', '0')} left out) of "
            f"{', '.join(self.domain.names)} → {', '.join(counts)}; {self.kernel}, {self.neighbours} "
            f"neighbours{held}>"
        )

    def stored(self) -> Stored:
        """Return what a file holds of it: a header of JSON and arrays."""
        local = {"columns": self.columns, "neighbours": self.neighbours}
        header = {"kernel": description_of(self.kernel), "local": local}
        arrays = {f"local.{name}": getattr(self, name) for name in _STORED} | arrays_of_bases(self.bases)
        return Stored(header | described(self.domain, self.bases, self.attrs), arrays)

    @classmethod
    def restored(cls, header: Mapping[str, Any], arrays: dict[str, Array]) -> "LocalGaussianProcessSurrogate":
        """Return the surrogate of which a file holds this; arrays are taken out of the mapping."""
        box = Box.from_dict(header["domain"])
        kernel, local = stationary(header["kernel"]), header["local"]
        columns, neighbours = local["columns"], local["neighbours"]
        parts = {name: arrays.pop(f"local.{name}") for name in _STORED}
        sizes = {"d": box.d, "p": hyperparameter_count(kernel, box.d)}
        for name, letters in _STORED.items():
            agree(f"local.{name}", parts[name].shape, letters, sizes)
        if type(columns) is not int or columns not in trend_columns(box.d).values():
            raise InputError(f"{columns!r} trend functions for {box.d} inputs")
        if type(neighbours) is not int or not 2 * columns <= neighbours < sizes["n"]:
            raise InputError(f"{neighbours!r} neighbours of {sizes['n']} runs")
        if not all((parts[name] > 0.0).all() for name in ("ell", "variance", "strength", "typical")):
            raise InputError("scales that are not positive")
        bases = rebuilt_bases(header, arrays, 0)
        check_used_up(bases, arrays, sizes["q"])
        attrs = rebuilt_attrs(header)
        return cls(box, bases, kernel, **parts, columns=columns, neighbours=neighbours, attrs=attrs)

    @cached_property
    def _kernels(self) -> list[tuple[Array, Array]]:
        """Shares (t,) and inverse length scales (parts, d) of each score's kernel."""
        both = [split(self.kernel, self.domain.d, one) for one in self.ell]
        return [(np.ascontiguousarray(shares), np.ascontiguousarray(1.0 / scales)) for scales, shares in both]

    @cached_property
    def _columns_of_y(self) -> list[Array]:
        return [np.ascontiguousarray(column) for column in self.y.T]

    @cached_property
    def _trees(self) -> list[cKDTree]:
        """One tree a score, of the runs in units of its shortest length scales."""
        return [cKDTree(self.x * scales.max(axis=0)) for _, scales in self._kernels]

    def _nearest(self, j: int, u: Array, more: int = 0) -> Ints:
        """Return the runs (..., m + more) nearest to inputs (..., d), the nearest first."""
        scales = self._kernels[j][1].max(axis=0)
        _, found = self._trees[j].query(u * scales, self.neighbours + more)
        return np.asarray(found, dtype=np.int64)

    def _settings(self, j: int) -> tuple[Array, Array, Array, float, float, float, float, float, int]:
        shares, scales = self._kernels[j]
        return (
            self.kernel.layout(self.domain.d),
            shares,
            scales,
            float(self.variance[j]),
            float(self.strength[j]),
            float(self.typical[j]),
            float(self.nugget[j]),
            JITTER_FIRST,
            self.columns,
        )

    def _scores_at(self, u: Array, joint: bool) -> Scores:
        u = np.ascontiguousarray(u, dtype=np.float64)
        *batch, k, d = u.shape
        members = u.reshape(-1, k, d) if joint else u.reshape(-1, 1, d)
        q = self.y.shape[1]
        mean = np.empty((*members.shape[:2], q))
        covariance = np.empty((len(members), q, members.shape[1], members.shape[1]))
        for j in range(q):
            runs = self._nearest(j, members)
            mean[..., j], covariance[:, j] = local_scores(
                *self._settings(j), self.x, self._columns_of_y[j], runs, members, joint
            )
        shape = (*batch, q, k, k)
        if not joint:
            covariance = np.moveaxis(covariance.reshape(*batch, k, q), -1, -2)
            shape = (*batch, q, k)
        return Scores(mean.reshape(1, *batch, k, q), covariance.reshape(1, *shape), np.zeros(1))

    def scores(self, u: Array) -> Scores:
        """Return mean (1, ..., k, q) and covariance between inputs (1, ..., q, k, k) at `u` (..., k, d).

        Time grows with k² m² for the covariance, and with k m³.
        """
        return self._scores_at(u, True)

    def marginal_scores(self, u: Array) -> Scores:
        """Return mean (1, ..., k, q) and variance (1, ..., q, k) at `u` (..., k, d), for many unrelated inputs."""
        return self._scores_at(u, False)

    def scores_reverse(self, u: Array, mean_bar: Array, covariance_bar: Array) -> Array:
        """Return the derivative (k, d) of sum(mean * mean_bar) + sum(covariance * covariance_bar) at `u` (k, d).

        That of the predictor with its neighbours held: where they change the mean has a step and no derivative.
        """
        u = np.ascontiguousarray(u, dtype=np.float64)
        total = np.zeros(u.shape)
        for j in range(self.y.shape[1]):
            total += local_reverse(
                *self._settings(j),
                self.x,
                self._columns_of_y[j],
                self._nearest(j, u),
                u,
                np.ascontiguousarray(mean_bar[0, :, j]),
                np.ascontiguousarray(covariance_bar[0, j]),
            )
        return total

    def noise_at(self, u: Array) -> Array:
        """Return the variance (1, k, q) of the simulator's noise in every score at `u` (k, d)."""
        return np.tile(self.variance * self.nugget, (1, len(u), 1))

    def noise_draws(self, u: Array, n: int, rng: np.random.Generator) -> Array:
        """Return noise (n, k, q) of the scores of new runs at `u` (k, d)."""
        return np.sqrt(self.noise_at(u)) * rng.standard_normal((n, len(u), len(self.variance)))

    def functions(self, n: int, rng: RandomState) -> ScoreDraws:
        """Return n draws of the whole function of scores, joint within one call; see `draws_from_scores`."""
        return draws_from_scores(self, n, rng, ANCHORS)

    def left_out(self, n: int, rng: RandomState) -> LeftOutRuns:
        """Predict n runs from their neighbours without themselves, and say how many lie inside of their intervals.

        Raises
        ------
        InputError
            When n is not from 1 to the number of runs.
        """
        if not check.is_whole(n, 1) or n > self.runs:
            raise InputError(f"left_out: n is {n!r}; give a whole number from 1 to {self.runs}.")
        rows = as_generator(rng).choice(self.runs, size=n, replace=False)
        pairs = [
            (e, r * self._variance(j, squares))
            for j in range(self.y.shape[1])
            for e, r, squares in [self._left_out(j, rows)]
        ]
        error = np.stack([e for e, _ in pairs])
        z = np.abs(error) / np.sqrt(np.stack([v for _, v in pairs]))
        rmse = np.sqrt(np.mean(error**2, axis=1)) / np.maximum(self.y.std(axis=0), 1e-300)
        return LeftOutRuns(n, np.mean(z < 0.6745, axis=1), np.mean(z < 1.96, axis=1), rmse)

    def _variance(self, j: int, squares: Array) -> Array:
        """Return the variance (N,) of score j where neighbours have such squares."""
        return _followed(self.variance[j], self.strength[j], squares / self.typical[j], self.neighbours - self.columns)

    def _left_out(self, j: int, rows: Ints) -> tuple[Array, Array, Array]:
        """Return errors, variances over s2 and squares, each (N,), of the runs `rows` predicted from others."""
        near = self._nearest(j, self.x[rows], 1)
        own = near == rows[:, None]
        drop = np.where(own.any(axis=1), own.argmax(axis=1), near.shape[1] - 1)
        others = near[np.arange(near.shape[1]) != drop[:, None]].reshape(len(rows), -1)
        code, shares, scales, _, _, _, nugget, jitter, b = self._settings(j)
        found = local_left_out(code, shares, scales, nugget, jitter, b, self.x, self._columns_of_y[j], others, rows)
        return found[0], found[1], found[2]

    def _tuned(self, rows: Ints) -> "LocalGaussianProcessSurrogate":
        """Return the same with what fits left-out runs best: length scales times one number, variance, its strength.

        All maximise the product of the densities of runs given their neighbours; of the variance in closed form.
        """
        found = self
        count = len(self._kernels[0][1]) * self.domain.d
        degrees = self.neighbours - self.columns
        for j in range(self.y.shape[1]):
            if not self.y[:, j].any():
                continue

            def lost(log_factor: float, j: int = j) -> float:
                error, relative, _ = self._scaled(j, log_factor, count)._left_out(j, rows)
                return float(np.mean(np.log(relative)) + np.log(np.mean(error**2 / relative)))

            best = minimize_scalar(lost, bounds=(-RANGE, RANGE), method="bounded", options={"xatol": 0.05})
            factor = float(best.x) if best.fun < lost(0.0) else 0.0
            scaled = self._scaled(j, factor, count)
            error, relative, squares = scaled._left_out(j, rows)
            typical = float(np.mean(squares)) / degrees
            options = []
            # Squares of noisy runs are those of their noise, which is one for the whole box.
            for strength in STRENGTHS if self.nugget[j] == 0.0 else (EVERYWHERE,):
                shape = relative * _followed(1.0, strength, squares / typical, degrees)
                variance = float(np.mean(error**2 / shape))
                options.append((float(np.mean(np.log(shape)) + np.log(variance)), strength, variance))
            _, strength, variance = min(options)
            parts = {"ell": scaled.ell[j], "variance": variance, "strength": strength, "typical": typical}
            changed = {name: getattr(found, name).copy() for name in parts}
            for name, value in parts.items():
                changed[name][j] = value
            found = replace(found, **changed)
        return found

    def _scaled(self, j: int, log_factor: float, count: int) -> "LocalGaussianProcessSurrogate":
        ell = self.ell.copy()
        ell[j, :count] *= np.exp(log_factor)
        return replace(self, ell=ell)


def _check_scalars(runs: xr.Dataset) -> None:
    """Refuse noisy curves: the noise of their scores is correlated, and only scalars are judged with noise here."""
    for name in table.output_names(runs):
        dims = [str(dim) for dim in runs[name].dims if dim != "run"]
        if dims:
            raise InputError(
                f"Output {name!r} has dims {dims}; LocalGaussianProcess(noise='fitted') is for scalar outputs only. "
                "Fit some coordinates as scalar outputs, or use GaussianProcess(noise='fitted') with fewer runs."
            )


def _check_constants(runs: xr.Dataset, bases: tuple[OutputBasis, ...]) -> None:
    """Refuse an output that changes, but not in the runs that teach its basis."""
    for basis in bases:
        values = runs[basis.name].transpose("run", ...).values
        if not basis.basis.any() and np.ptp(values, axis=0).any():
            moved = (values != values[:1]).reshape(len(values), -1).any(axis=1)
            few = int(min(moved.sum(), len(moved) - moved.sum()))
            raise DataError(
                f"Output {basis.name!r} is the same in all runs but {few} of {len(moved)}, and none of these are among "
                f"the {TRAINED} that length scales are learned from. Run more points where it changes, or fit those "
                "runs by themselves."
            )


def _followed(variance: float, strength: float, squares: Array, degrees: int) -> Array:
    """Return the variance (N,) that follows squares (N,), which are relative to what is typical of one degree."""
    return np.asarray(variance * (strength + squares) / (strength + degrees))
