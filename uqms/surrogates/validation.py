"""Whether a surrogate's error bars are true: left-out runs against their predictions, and the law they should follow.

==========  ======================================================================  ===========
symbol      meaning                                                                 shape
==========  ======================================================================  ===========
Q           K^-1 less the part that the estimated trend takes                       (n, n)
e           left-out errors of one score: (Q y)_i / Q_ii, variance 1 / Q_ii         (n,)
D Q D       covariance of e, with D = diag(1 / Q_ii)                                (n, n)
T omega     what the basis of the other runs leaves of a run's curve                (m,)
==========  ======================================================================  ===========

Errors of one function are dependent, so the number of them inside a 95 % interval is not binomial. The coverage that a
right surrogate shows is simulated from the errors' own joint law; the range given is its central 99 %.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import pandas as pd
import xarray as xr

from uqms import ensemble as table
from uqms._typing import Array, Bools, Ints
from uqms.errors import DataError, InputError
from uqms.surrogates.gp import GaussianProcessSurrogate
from uqms.surrogates.outputs import Decoder, Layout
from uqms.surrogates.prediction import Mixture, mixture
from uqms.surrogates.process import ScoreProcess, Scores
from uqms.surrogates.transforms import IDENTITY, check_values

__all__ = ["Validation", "held_out", "leave_one_out"]

LEVELS = (0.5, 0.95)
RANGE = 0.99
BEYOND_4 = 0.002
SIMULATIONS = (1_000, 10_000)
WORK = 1e8  # simulated numbers for each output, when that allows more than the least number of simulations
COORDINATES = 256  # at most so many coordinates of an output are counted

Bounds = dict[float, tuple[Array, Array]]  # by level: ends of the interval about the mean, (n, m)


@final
@dataclass(frozen=True, eq=False)
class Validation:
    """Predictions of runs that the surrogate did not see, against what was simulated.

    Attributes
    ----------
    method
        "leave-one-out" or "held-out".
    observed, mean, sd
        Datasets with dim "run" and the outputs' dims, in the outputs' own units; NaN in runs that lack an output.
    standardised
        (observed - mean) / sd, of transformed outputs on the scale of their transform, where their law is normal.
    table
        By output: q2 (1 - error variance / output variance) and rmse of the mean, in the output's own unit; for 50 %
        and 95 % intervals the coverage, which is the same on the scale of a transform, and the central 99 % range that
        a right surrogate shows; share of errors beyond 4 sd on the scale of the transform (a right surrogate's is
        0.00006).
    point_estimated
        Whether hyperparameters are single values although runs are few (n <= 20 d); intervals are then too narrow.
    runs
        Number of runs the surrogate was trained on.
    """

    method: str
    observed: xr.Dataset
    mean: xr.Dataset
    sd: xr.Dataset
    standardised: xr.Dataset
    table: pd.DataFrame
    point_estimated: bool
    runs: int

    @property
    def too_narrow(self) -> tuple[str, ...]:
        """Outputs whose intervals cover less than a right surrogate's would."""
        return tuple(name for name in map(str, self.table.index) if self._sides(name).count("too narrow"))

    @property
    def too_wide(self) -> tuple[str, ...]:
        """Outputs whose intervals cover more than a right surrogate's would: cautious, not wrong."""
        return tuple(name for name in map(str, self.table.index) if self._sides(name).count("wider than needed"))

    def _sides(self, name: str) -> list[str]:
        row = self.table.loc[name]
        words = []
        for level in LEVELS:
            (low, high), value = row[f"range_{level:.0%}"], row[f"coverage_{level:.0%}"]
            words.append("too narrow" if value < low else "wider than needed" if value > high else "")
        return words

    def __str__(self) -> str:
        lines = [f"{self.method} validation of {self.runs} runs"]
        for name, row in self.table.iterrows():
            parts = [f"{name}: Q² {row['q2']:.5f}, RMSE {row['rmse']:.3g}"]
            for level, side in zip(LEVELS, self._sides(str(name)), strict=True):
                (low, high), value = row[f"range_{level:.0%}"], row[f"coverage_{level:.0%}"]
                text = f"{level:.0%} intervals cover {value:.1%}, a right surrogate's {low:.1%} to {high:.1%}"
                parts.append(f"{text} ({side})" if side else text)
            if row["beyond_4"] > BEYOND_4:
                parts.append(
                    f"{row['beyond_4']:.1%} of the errors lie beyond 4 sd (a right surrogate's 0.006%): the output "
                    "changes faster in some part of the box than elsewhere, so do not trust the intervals there"
                )
            lines.append("  " + "; ".join(parts))
        if self.point_estimated:
            lines.append("  hyperparameters point-estimated with n <= 20 d runs: intervals tend to be too narrow")
        return "\n".join(lines)


def leave_one_out(surrogate: GaussianProcessSurrogate, *, rng: int = 0) -> Validation:
    """Predict every training run from all others, in closed form, and compare in the outputs' own units.

    Use it on every surrogate before calibration. Length scales stay as trained on all runs, which flatters few runs.

    Parameters
    ----------
    surrogate
        A fitted Gaussian process.
    rng
        Seed of the simulated reference range.

    Returns
    -------
    Validation
        Predictions, Q², RMSE and coverage with its reference range.

    References
    ----------
    Dubrule (1983), doi:10.1007/BF01033232; Bastos & O'Hagan (2009), doi:10.1198/TECH.2009.08019.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 16, rng=1)
    >>> surrogate = uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": np.sin(design["k"].values)}))
    >>> bool(leave_one_out(surrogate).table.loc["y", "q2"] > 0.999)
    True
    """
    process = surrogate.process
    n, q, draws = len(process.x), process.q, process.draws
    error, variance = np.empty((draws, n, q)), np.empty((draws, n, q))
    roots = np.empty((draws, q, n, n))
    for h in range(draws):
        for j in range(q):
            error[h, :, j], variance[h, :, j], roots[h, j] = left_out_scores(process, h, j)
    law = _Law(-error, variance, process.log_weights, lambda h, j: roots[h, j])
    return _compare("leave-one-out", surrogate, law, None, rng)


def held_out(surrogate: GaussianProcessSurrogate, ensemble: xr.Dataset, *, rng: int = 0) -> Validation:
    """Predict runs that were not used for training and compare with what was simulated.

    The noise of a stochastic simulator, where it was fitted, is part of the intervals, as in `leave_one_out`.

    Parameters
    ----------
    surrogate
        A fitted Gaussian process.
    ensemble
        Completed runs with the same inputs and outputs; others are left out.
    rng
        Seed of the simulated reference range.

    Returns
    -------
    Validation
        Predictions, Q², RMSE and coverage with its reference range.

    Raises
    ------
    InputError
        When outputs or their coordinates differ from the surrogate's.
    DataError
        When fewer than two runs completed, or values lie outside of what an output's transform takes.

    References
    ----------
    Bastos & O'Hagan (2009), doi:10.1198/TECH.2009.08019.

    Examples
    --------
    >>> import numpy as np, uqms as uq
    >>> space = uq.ParameterSpace(k=uq.Uniform(0.0, 2.0))
    >>> runs = [uq.sobol(space, n, rng=n) for n in (16, 8)]
    >>> train, test = (uq.ensemble.build(design, {"y": np.sin(design["k"].values)}) for design in runs)
    >>> bool(held_out(uq.GaussianProcess().fit(train), test).table.loc["y", "q2"] > 0.99)
    True
    """
    table.check(ensemble)
    runs = table.completed(ensemble)
    if runs.sizes["run"] < 2:
        raise DataError(f"held_out: {runs.sizes['run']} completed runs; at least two are needed.")
    completed = np.flatnonzero(ensemble["state"].values == table.RunState.COMPLETED)
    observed = {name: _matching(runs, name, layout, completed) for name, layout in surrogate.layouts.items()}
    u = np.asarray(surrogate.domain.to_unit(table.input_array(runs, surrogate.domain.names)))
    scores = surrogate.scores(u)
    # Runs of a stochastic simulator scatter about the latent mean that is predicted, each by itself.
    noise = surrogate.process.variance * surrogate.process.nugget  # (H, q)
    variance = np.diagonal(scores.covariance, axis1=2, axis2=3).transpose(0, 2, 1) + noise[:, None, :]

    def root(h: int, j: int) -> Array:
        values, vectors = np.linalg.eigh(scores.covariance[h, j] + noise[h, j] * np.eye(len(u)))
        return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))

    return _compare("held-out", surrogate, _Law(scores.mean, variance, scores.log_weights, root), observed, rng)


@final
@dataclass(frozen=True, eq=False)
class _Law:
    """Joint law of the scores that are predicted: for each hyperparameter draw a mean, a variance, a root."""

    value: Array  # (H, n, q): mean of the score, of left-out runs less what it was
    variance: Array  # (H, n, q)
    log_weights: Array  # (H,)
    root: Callable[[int, int], Array]  # (n, n) for draw h, score j

    @property
    def weights(self) -> Array:
        return np.asarray(np.exp(self.log_weights - np.logaddexp.reduce(self.log_weights)))

    def decoded(self, full: Array, latent: Array) -> Mixture:
        """Return the laws of the values in the output's own unit, without its offset."""
        scores = Scores(self.value, np.swapaxes(self.variance, 1, 2), self.log_weights)
        return mixture(scores, Decoder(np.zeros(len(full)), full, latent))

    def simulate(self, count: int, rng: np.random.Generator) -> Array:
        """Return simulated scores less their mean, (count, n, q)."""
        centre = np.tensordot(self.weights, self.value, 1)
        h = rng.choice(len(self.weights), size=count, p=self.weights)
        out = np.empty((count, *centre.shape))
        for i in np.unique(h):
            rows = np.flatnonzero(h == i)
            for j in range(centre.shape[1]):
                root = self.root(int(i), j)
                shift = self.value[i, :, j] - centre[:, j]
                out[rows, :, j] = shift + rng.standard_normal((len(rows), root.shape[1])) @ root.T
        return out


def left_out_scores(process: ScoreProcess, h: int, j: int) -> tuple[Array, Array, Array]:
    """Return left-out errors, their variances, and a root of their joint covariance."""
    inverse = process.inverse_factor[h, j]
    g, root = process.trend_factor[h, j], process.trend_root[h, j]
    # Q = L^-T (I - G R' R G') L^-1, and I - G R' R G' is a projection or, with a fixed trend, the identity.
    half = inverse - g @ (root.T @ (root @ (g.T @ inverse)))
    diagonal = np.maximum(np.sum(half * half, axis=0), 1e-300)
    diagonal[~process.known(j)] = 1.0  # any number: these runs are not counted
    error = inverse.T @ process.target[h, j] / diagonal
    return error, 1.0 / diagonal, half.T / diagonal[:, None]


def _matching(runs: xr.Dataset, name: str, layout: Layout, positions: Ints) -> Array:
    """Return the output of the runs (n, m) on the scale of its transform."""
    if name not in runs:
        raise InputError(f"held_out: the runs have no output {name!r}; they have {list(table.output_names(runs))}.")
    values = runs[name].transpose("run", *layout.dims)
    for dim in layout.dims:
        if values.sizes[dim] != len(layout.coords[dim]) or not np.allclose(values[dim].values, layout.coords[dim]):
            raise InputError(f"held_out: the runs have other coordinates {dim!r} of {name!r} than the surrogate.")
    check_values(name, values.values, positions, layout.transform, layout.coords)
    flat = np.asarray(values.values, dtype=np.float64).reshape(values.sizes["run"], -1)
    return layout.transform.forward(flat)


def _compare(
    method: str,
    surrogate: GaussianProcessSurrogate,
    law: _Law,
    observed: Mapping[str, Array] | None,
    seed: int,
) -> Validation:
    n = law.value.shape[1]
    data: dict[str, dict[str, xr.DataArray]] = {"observed": {}, "mean": {}, "sd": {}, "standardised": {}}
    rows, parts, at = {}, {}, 0
    for basis in surrogate.bases:
        known = surrogate.process.known(at) if observed is None else np.ones(n, dtype=bool)
        at += basis.basis.shape[1]
        _, full, latent = surrogate.decode(basis.name)
        predicted = law.decoded(full, latent)
        value, variance = predicted.moments()
        sd = np.sqrt(variance)
        if observed is None:
            rest = basis.left_out @ basis.truncation.T
            seen = basis.offset + surrogate.process.y @ full.T + rest
            mean = seen + value - rest
        else:
            seen, mean = observed[basis.name], basis.offset + value
        ends = {level: predicted.interval(level) for level in LEVELS}
        bounds = {level: (low - value, high - value) for level, (low, high) in ends.items()}
        bounds = {level: (low[known], high[known]) for level, (low, high) in bounds.items()}
        parts[basis.name] = (full, latent, known, bounds)
        # Intervals are counted where the law is normal; errors are measured in the output's own unit.
        own = predicted._replace(mean=predicted.mean + (mean - value), transform=basis.layout.transform)
        own_mean, own_variance = (mean, variance) if own.transform is IDENTITY else own.moments()
        own_seen = own.transform.inverse(seen)
        counts = _counts(seen[known], mean[known], sd[known], bounds)
        rows[basis.name] = _accuracy(own_seen[known], own_mean[known]) | counts
        with np.errstate(invalid="ignore", divide="ignore"):
            standardised = (seen - mean) / sd
        for key, values in (("observed", own_seen), ("mean", own_mean), ("sd", np.sqrt(own_variance))):
            data[key][basis.name] = _labelled(np.where(known[:, None], values, np.nan), basis.layout, n)
        standardised[~known] = np.nan
        data["standardised"][basis.name] = _labelled(standardised, basis.layout, n).drop_attrs()
    for name, ranges in _ranges(law, parts, seed).items():
        rows[name] |= ranges
    return Validation(
        method=method,
        observed=xr.Dataset(data["observed"]),
        mean=xr.Dataset(data["mean"]),
        sd=xr.Dataset(data["sd"]),
        standardised=xr.Dataset(data["standardised"]),
        table=pd.DataFrame.from_dict(rows, orient="index"),
        point_estimated=surrogate.point_estimated,
        runs=surrogate.runs,
    )


def _accuracy(seen: Array, mean: Array) -> dict[str, object]:
    error = seen - mean
    total = float(np.mean((seen - seen.mean(axis=0)) ** 2))
    return {
        "q2": 1.0 - float(np.mean(error**2)) / total if total > 0 else float("nan"),
        "rmse": float(np.sqrt(np.mean(error**2))),
    }


def _counts(seen: Array, mean: Array, sd: Array, bounds: Bounds) -> dict[str, object]:
    error = seen - mean
    keep = _counted(error.shape[1])
    row: dict[str, object] = {"beyond_4": float(np.mean(np.abs(error[:, keep]) > 4.0 * sd[:, keep] + 1e-300))}
    for level, (low, high) in bounds.items():
        inside = (error[:, keep] >= low[:, keep] - 1e-300) & (error[:, keep] <= high[:, keep] + 1e-300)
        row[f"coverage_{level:.0%}"] = float(np.mean(inside))
    return row


def _ranges(
    law: _Law, parts: Mapping[str, tuple[Array, Array, Bools, Bounds]], seed: int
) -> dict[str, dict[str, object]]:
    """Return the central 99 % of the coverage that errors of the right law show, by output and level."""
    rng = np.random.default_rng(seed)
    n = law.value.shape[1]
    largest = max(min(len(full), COORDINATES) for full, *_ in parts.values())
    count = int(np.clip(WORK / (n * largest), *SIMULATIONS))
    block = max(1, int(4e6 / (n * largest)))
    shares: dict[tuple[str, float], list[Array]] = {(name, level): [] for name in parts for level in LEVELS}
    for start in range(0, count, block):
        size = min(block, count - start)
        scores = law.simulate(size, rng)
        for name, (full, latent, known, bounds) in parts.items():
            keep = _counted(len(full))
            used = np.flatnonzero(latent.any(axis=0))
            error = scores[:, known] @ full[keep].T
            error += rng.standard_normal((size, int(known.sum()), len(used))) @ latent[np.ix_(keep, used)].T
            for level, (low, high) in bounds.items():
                inside = (error >= low[:, keep] - 1e-300) & (error <= high[:, keep] + 1e-300)
                shares[name, level].append(np.mean(inside, axis=(1, 2)))
    tail = 0.5 * (1.0 - RANGE)
    out: dict[str, dict[str, object]] = {name: {} for name in parts}
    for (name, level), values in shares.items():
        low, high = np.quantile(np.concatenate(values), [tail, 1.0 - tail])
        out[name][f"range_{level:.0%}"] = (float(low), float(high))
    return out


def _counted(m: int) -> Ints:
    return np.unique(np.linspace(0, m - 1, min(m, COORDINATES)).astype(np.int64))


def _labelled(values: Array, layout: Layout, n: int) -> xr.DataArray:
    return xr.DataArray(
        values.reshape(n, *layout.shape),
        dims=("run", *layout.dims),
        coords=dict(layout.coords),
        attrs={"unit": layout.unit},
    )
