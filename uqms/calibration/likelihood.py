"""From a table of observations to the likelihood's arrays: experiments, cells, rows (letters as in `_marginal`)."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy.stats import studentized_range

from uqms._typing import Array, Ints
from uqms.calibration.direct import is_exact
from uqms.calibration.noise import GaussianNoise
from uqms.calibration.observations import Observations
from uqms.errors import ConformanceError, DataError, DataWarning, ExtrapolationError, InputError, UnitError
from uqms.parameters import Prior
from uqms.surrogates.gp import GaussianProcessSurrogate
from uqms.surrogates.protocol import Surrogate
from uqms.surrogates.transforms import Identity

__all__ = [
    "Cells",
    "NoiseGroups",
    "arrange",
    "by_experiment",
    "check_conditions",
    "check_errors_between",
    "check_scale",
    "merge_close",
]

NOISE_CHANCE = 1e-3
CLOSE = 1e-9
NEAR = 1e-6  # of the unit cube


@final
@dataclass(frozen=True, eq=False)
class NoiseGroups:
    """Standard deviations of the noise: one group an output, each with a prior, a number, or known row by row.

    Attributes
    ----------
    outputs
        Output of each group.
    names
        Name of the group's parameter in the posterior; "" when the sd is known.
    sds
        Prior, number, or 1.0 for outputs whose rows carry their own sd.
    """

    outputs: tuple[str, ...]
    names: tuple[str, ...]
    sds: tuple[Prior | float, ...]

    @property
    def unknown(self) -> dict[str, Prior]:
        """Priors of the unknown standard deviations by parameter name."""
        return {name: sd for name, sd in zip(self.names, self.sds, strict=True) if isinstance(sd, Prior)}

    def values(self, draws: Mapping[str, Array], shape: tuple[int, ...]) -> Array:
        """Return the standard deviations (*shape, groups) for draws of the unknown ones."""
        columns = [draws[n] if isinstance(sd, Prior) else sd for n, sd in zip(self.names, self.sds, strict=True)]
        return np.stack([np.broadcast_to(np.asarray(c, dtype=np.float64), shape) for c in columns], axis=-1)


@final
@dataclass(frozen=True, eq=False)
class Cells:
    """Observations arranged for the likelihood."""

    z: Array  # (R,)
    row_cell: Ints  # (R,)
    row_variance: Array  # (R,), relative to sigma²
    experiment: Ints  # (N,), sorted
    conditions: Array  # (K, conditions), own units
    output: np.ndarray  # (N,)
    coords: Mapping[str, Array]  # (N,)
    group: Ints  # (N,)
    offset: Array  # (N,)
    basis: Array  # (N, q)
    truncation: Array  # (N, t), all latents

    @property
    def experiments(self) -> int:
        """Number of different surrogate inputs K."""
        return len(self.conditions)

    @property
    def weight(self) -> Array:
        """Sum of 1 / row_variance of every cell, shape (N,)."""
        return np.bincount(self.row_cell, 1.0 / self.row_variance, minlength=len(self.offset))

    @property
    def cell_mean(self) -> Array:
        """Weighted mean of each cell's replicates, shape (N,)."""
        return np.bincount(self.row_cell, self.z / self.row_variance, minlength=len(self.offset)) / self.weight

    @property
    def used(self) -> Ints:
        """Scores that some cell depends on; those of outputs that were not observed cost time and change nothing."""
        columns = np.flatnonzero(self.basis.any(axis=0))
        return columns if len(columns) else np.zeros(1, dtype=np.int64)

    def flat(self) -> Array:
        """Return the block of numbers that `_marginal.marginal` reads, with the used scores only."""
        basis = self.basis[:, self.used]
        starts = np.searchsorted(self.experiment, np.arange(self.experiments + 1))
        factors = [compress(self.truncation[a:b]) for a, b in zip(starts[:-1], starts[1:], strict=True)]
        header = [self.experiments, basis.shape[1], len(self.offset), len(self.z), 0]
        parts = [header, starts, [f.shape[1] for f in factors], self.offset, self.group, basis.ravel()]
        parts += [self.row_cell, self.row_variance, *(f.ravel() for f in factors)]
        return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])


def compress(factor: Array) -> Array:
    """Return E with E E' = factor factor' and no more columns than needed."""
    if not factor.any():
        return np.zeros((len(factor), 0))
    left, singular, _ = np.linalg.svd(factor, full_matrices=False)
    keep = singular > 1e-10 * max(float(singular[0]), 1e-300)
    return np.asarray(left[:, keep] * singular[keep])


def by_experiment(truncation: Array, experiment: Ints) -> Array:
    """Return the truncation factor with columns of its own for each experiment, no more than needed."""
    rows = [np.flatnonzero(experiment == k) for k in np.unique(experiment)]
    parts = [compress(truncation[r]) for r in rows]
    out = np.zeros((len(truncation), sum(part.shape[1] for part in parts)))
    start = 0
    for r, part in zip(rows, parts, strict=True):
        out[r, start : start + part.shape[1]] = part
        start += part.shape[1]
    return out


def arrange(
    surrogate: Surrogate,
    observations: Observations,
    noise: GaussianNoise | Mapping[str, GaussianNoise],
    condition_names: tuple[str, ...],
) -> tuple[Cells, NoiseGroups]:
    """Match observations to the surrogate's outputs, coordinates and conditions.

    Raises
    ------
    InputError
        Unknown outputs or conditions, conditions that are missing, several subjects, an output with a transform.
    ExtrapolationError
        Coordinates or conditions outside of what was simulated.
    UnitError
        When the unit of an observation is not that of the output.
    """
    _check_names(surrogate, observations, condition_names)
    groups, row_variance = _noise(observations, noise)
    keys = np.column_stack([observations.conditions[name] for name in condition_names] or [np.zeros(len(observations))])
    if condition_names:
        keys = merge_close(surrogate, condition_names, keys)
    conditions, row_experiment = np.unique(keys, axis=0, return_inverse=True)
    conditions = conditions[:, : len(condition_names)]
    check_conditions(surrogate, condition_names, conditions)
    dims = tuple(observations.coords)
    outputs = list(surrogate.layouts)
    row_output = np.array([outputs.index(str(name)) for name in observations.output])
    columns = [row_experiment.reshape(-1), row_output, *(np.nan_to_num(observations.coords[dim]) for dim in dims)]
    place = np.column_stack([np.asarray(column, dtype=np.float64) for column in columns])
    unique, first, row_cell = np.unique(place, axis=0, return_index=True, return_inverse=True)
    output = np.array([outputs[int(i)] for i in unique[:, 1]])
    coords = {dim: observations.coords[dim][first] for dim in dims}
    offset, basis, truncation = _decode(surrogate, output, coords)
    cells = Cells(
        z=np.asarray(observations.value, dtype=np.float64),
        row_cell=row_cell.reshape(-1).astype(np.int64),
        row_variance=row_variance,
        experiment=unique[:, 0].astype(np.int64),
        conditions=conditions,
        output=output,
        coords=coords,
        group=np.array([groups.outputs.index(str(name)) for name in output], dtype=np.int64),
        offset=offset,
        basis=basis,
        truncation=truncation,
    )
    return cells, groups


def _decode(surrogate: Surrogate, output: np.ndarray, coords: Mapping[str, Array]) -> tuple[Array, Array, Array]:
    parts: list[tuple[Ints, Array, Array, Array]] = []
    for name in dict.fromkeys(str(one) for one in output):
        rows = np.flatnonzero(output == name)
        dims = surrogate.layouts[name].dims
        decoder = surrogate.decode(name, {dim: coords[dim][rows] for dim in dims} if dims else None)
        offset, basis, truncation = decoder
        if not dims:
            offset, basis, truncation = (np.repeat(part, len(rows), axis=0) for part in decoder)
        parts.append((rows, offset, basis, truncation))
    order = np.argsort(np.concatenate([rows for rows, *_ in parts]))
    offset, basis, truncation = (np.concatenate([part[i] for part in parts])[order] for i in (1, 2, 3))
    return offset, basis, truncation


def check_scale(surrogate: Surrogate, output: str, asked: str) -> None:
    """Refuse an output whose error is not normal in its own unit.

    Raises
    ------
    InputError
        When the output has a transform.
    """
    transform = surrogate.layouts[output].transform
    if not isinstance(transform, Identity):
        raise InputError(
            f"{asked}: the surrogate of {output!r} has the transform {transform}, so its error is normal on that scale "
            "and noise on the output's own: their sum has no closed form. Let the simulator return the "
            f"{transform.name} of {output!r} as an output of its own, fit that without a transform, and observe it: "
            f"convert the measurements, and give the noise of their {transform.name}."
        )


def _check_names(surrogate: Surrogate, observations: Observations, condition_names: tuple[str, ...]) -> None:
    layouts = surrogate.layouts
    unknown = [name for name in observations.outputs if name not in layouts]
    if unknown:
        raise InputError(
            f"Observations of {unknown}, but the surrogate has outputs {list(layouts)}. Rename one of them."
        )
    for name in observations.outputs:
        check_scale(surrogate, name, "Calibration")
        rows = observations.output == name
        given = {dim for dim, column in observations.coords.items() if not np.isnan(column[rows]).all()}
        wanted = set(layouts[name].dims)
        if given != wanted:
            raise InputError(
                f"Observations of {name!r} have coordinates {sorted(given)}, the surrogate's output has "
                f"{sorted(wanted)}. Name them alike: Observations.from_table(..., coords={{dim: column}})."
            )
        for dim in wanted:
            if np.isnan(observations.coords[dim][rows]).any():
                raise DataError(f"Observations of {name!r}: a row has no {dim!r}; every row needs its coordinate.")
        unit, theirs = observations.units.get(name, ""), layouts[name].unit
        if unit and theirs and unit != theirs:
            raise UnitError(
                f"Observations of {name!r} are in {unit!r}, the simulator's output in {theirs!r}. Convert them."
            )
    extra = sorted(set(observations.conditions) - set(condition_names))
    missing = sorted(set(condition_names) - set(observations.conditions))
    if extra or missing:
        raise InputError(
            f"The surrogate has the conditions {list(condition_names)}; the observations lack {missing} and have "
            f"{extra} beside. Give every condition a column: Observations.from_table(..., conditions={{name: column}})."
        )
    subjects = sorted(set(str(one) for one in observations.subject))
    if len(subjects) > 1:
        raise InputError(
            f"Observations of {len(subjects)} subjects ({', '.join(subjects[:4])}, …), but a Calibration has one set "
            "of parameters. Calibrate one subject at a time."
        )


def merge_close(surrogate: Surrogate, names: tuple[str, ...], values: Array) -> Array:
    """Return conditions (n, c) in which values within 1e-9 of the box's width are one: the first of them.

    0.3 and 0.1 + 0.2 are the same input of the simulator, so what is measured there shares one error.
    """
    out = np.array(values, dtype=np.float64)
    box = surrogate.domain
    for column, name in enumerate(names):
        index = box.names.index(name)
        order = np.argsort(out[:, column], kind="stable")
        apart = np.diff(out[order, column]) > CLOSE * (box.upper[index] - box.lower[index])
        group = np.empty(len(out), dtype=np.int64)
        group[order] = np.concatenate([[0], np.cumsum(apart)])
        first = np.unique(group, return_index=True)[1]
        out[:, column] = out[first[group], column]
    return out


def check_conditions(surrogate: Surrogate, names: tuple[str, ...], conditions: Array) -> None:
    """Raise ExtrapolationError when a known condition lies outside of what was simulated."""
    box = surrogate.domain
    for name, values in zip(names, conditions.T, strict=True):
        inside = box.select((name,)).contains(values[:, None])
        if not np.all(inside):
            index = box.names.index(name)
            raise ExtrapolationError(
                f"Condition {name!r} = {values[~inside][0]:g} is outside of the simulated range "
                f"[{box.lower[index]:g}, {box.upper[index]:g}]. Simulate a wider range, or leave that experiment out."
            )


def check_errors_between(surrogate: Surrogate, u: Array, used: Ints, asked: str) -> None:
    """Refuse a surrogate of the user's own that says nothing right of errors at several inputs `u` (s, k, d).

    Either it says that it does not know (NaN), or errors are exactly uncorrelated at inputs next to each other, which
    those of no continuous function are: right surrogates of any length scale pass.

    Raises
    ------
    ConformanceError
        With what is missing.
    """
    if isinstance(surrogate, GaussianProcessSurrogate) or is_exact(surrogate):
        return
    if not surrogate.scores(u[:, :1]).covariance[..., used, :, :].any():
        warnings.warn(
            f"The {type(surrogate).__name__} says that it has no errors at all. Unless it is exact, intervals leave "
            "out its own error and are too narrow: return the covariance of its errors from `scores`.",
            DataWarning,
            stacklevel=4,
        )
    if u.shape[1] < 2:
        return
    first = u[:, 0]
    near = first + np.where(first > 0.5, -NEAR, NEAR)
    covariance = surrogate.scores(np.stack([first, near, first, u[:, 1]], axis=1)).covariance[..., used, :, :]
    what = ""
    if np.isnan(covariance).any():
        what = "says that it does not know the covariance of its errors between different inputs (NaN)"
    variance = np.diagonal(covariance, axis1=-2, axis2=-1)
    for other, where in ((1, "inputs next to each other"), (2, "one and the same input")):
        positive = (variance[..., 0] > 0.0) & (variance[..., other] > 0.0)
        none = (positive & (covariance[..., 0, other] == 0.0)).sum(axis=(0, 1)) == positive.sum(axis=(0, 1))
        if (none & positive.any(axis=(0, 1))).any():
            what = f"says that its errors at {where} are independent, which errors of one function never are"
    if what:
        raise ConformanceError(
            f"{asked} takes the surrogate's joint error at several inputs, but the {type(surrogate).__name__} {what}. "
            "Independent errors would average out over experiments, and intervals be far too narrow. Return the "
            "covariance between inputs from `scores` (uqms.testing.check_surrogate tells what is missing), or use one "
            "input at a time."
        )


def _noise(observations: Observations, noise: GaussianNoise | Mapping[str, GaussianNoise]) -> tuple[NoiseGroups, Array]:
    outputs = observations.outputs
    by_output = dict(noise) if isinstance(noise, Mapping) else dict.fromkeys(outputs, noise)
    for name, model in by_output.items():
        if not isinstance(model, GaussianNoise):
            raise InputError(f"noise of {name!r} is {model!r}; give GaussianNoise(sd=...).")
    if set(by_output) != set(outputs):
        raise InputError(f"noise is given for {sorted(by_output)}, but the observed outputs are {list(outputs)}.")
    if not isinstance(noise, Mapping) and len(outputs) > 1 and noise.sd is not None:
        raise InputError(
            f"One noise sd for the outputs {list(outputs)}: they have their own scales. Give one each: "
            "noise={" + ", ".join(f"{name!r}: GaussianNoise(...)" for name in outputs) + "}."
        )
    variance = np.ones(len(observations))
    names, sds = [], []
    for output in outputs:
        sd = by_output[output].sd
        rows = observations.output == output
        if sd is None:
            if np.isnan(observations.sd[rows]).any():
                raise InputError(
                    f"Noise of {output!r}: rows without a known sd. Name the column, from_table(..., sd=column), or "
                    "give GaussianNoise a number or a prior."
                )
            variance[rows] = observations.sd[rows] ** 2
        elif not np.isnan(observations.sd[rows]).all():
            raise InputError(
                f"Noise of {output!r}: the observations carry known sds, and GaussianNoise(sd=...) gives another. Use "
                "GaussianNoise() for the known ones, or leave the sd column out."
            )
        _warn_if_variance(output, observations.value[rows], observations.sd[rows] if sd is None else sd)
        names.append(("sigma" if len(outputs) == 1 else f"sigma_{output}") if isinstance(sd, Prior) else "")
        sds.append(1.0 if sd is None else sd)
    return NoiseGroups(outputs, tuple(names), tuple(sds)), variance


def _warn_if_variance(output: str, values: Array, sd: Array | float | Prior) -> None:
    if isinstance(sd, Prior) or len(values) < 3:
        return
    size, spread = float(np.mean(sd)), float(np.ptp(values))
    if size <= spread:
        return
    # Chance that pure noise of this sd alone spreads no further; more than 50 values change nothing in the answer.
    if studentized_range(min(len(values), 50), np.inf).cdf(spread / size) < NOISE_CHANCE:
        warnings.warn(
            f"The noise sd of {output!r}, {size:g}, is larger than the whole range of its observations, {spread:g}. "
            "Was a variance given in its place?",
            DataWarning,
            stacklevel=5,
        )
