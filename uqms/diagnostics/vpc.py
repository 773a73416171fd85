"""The pharmacometrician's visual predictive check: quantiles of the data beside those of whole studies of new subjects.

==========  ===================================================================  ===========
symbol      meaning                                                              shape
==========  ===================================================================  ===========
S           replicated studies: a posterior draw of the population each          ()
R           measurements                                                         ()
K, c        inputs of the surrogate; cells of an input, at most                  ()
y*          replicated measurements, of subjects that are drawn anew             (S, R)
w           features of the surrogate's error that all subjects share            (S, M)
B, L        bins along a coordinate; percentiles                                 ()
==========  ===================================================================  ===========

Subjects have the covariates, conditions and coordinates of those that were measured, and effects of their own. The
surrogate's error is one function, drawn given the data, for all subjects of a study.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import pandas as pd
import xarray as xr

from uqms import _checks as check
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, Ints, RandomState, as_generator
from uqms.calibration import PopulationCalibration, Posterior
from uqms.calibration.capabilities import refuse
from uqms.calibration.density import draw_rows
from uqms.calibration.direct import is_exact
from uqms.calibration.population.hierarchy import Hierarchy
from uqms.calibration.population.subject_prediction import Measured, Shared, row_sums
from uqms.calibration.posterior import hierarchy_of
from uqms.errors import ExtrapolationError, InputError

__all__ = ["VisualPredictiveCheck", "rows_of", "visual_predictive_check"]

MOST_BINS, ROWS_A_BIN = 12, 8
TRIES = 1000  # of effects for which a subject lies inside of the design box
NUMBERS = 4_000_000  # in one array
SMALL = 0.01  # of the largest prediction: below, there is no ratio to correct by


@taught
@final
@dataclass(frozen=True, eq=False)
class VisualPredictiveCheck:
    """Percentiles of the data by bin, and where those of replicated studies lie; print it.

    Attributes
    ----------
    quantiles
        Dims ("bin", "level"): "observed" percentiles, "median", "lower" and "upper" end of the replicated ones; coords
        of a bin: its edges "low" and "high", "middle" (median coordinate of its data), "measurements".
    replicated
        Percentiles of each replicated study, dims ("replicate", "bin", "level").
    data
        A row a measurement: subject, coordinate, value (corrected where that was asked for), bin.
    output, along, prob
        What was checked, along which coordinate, and the probability of the intervals.
    corrected
        Whether values are prediction-corrected.
    uncorrected
        How many of them are as they were, since their prediction is next to the lower bound.
    outside
        Fraction of the new subjects that had to be drawn again, since they were outside of the design box.
    """

    quantiles: xr.Dataset
    replicated: xr.DataArray
    data: pd.DataFrame
    output: str
    along: str
    prob: float
    corrected: bool
    uncorrected: int
    outside: float

    @property
    def inside(self) -> xr.DataArray:
        """Whether the observed percentile is in its interval, dims ("bin", "level")."""
        one = self.quantiles
        return (one["observed"] >= one["lower"]) & (one["observed"] <= one["upper"])

    @property
    def summary(self) -> pd.DataFrame:
        """In how many bins the observed percentile is inside, by percentile and for all together.

        `expected` is how many are inside in a replicated study on average, `p` the fraction of replicated studies in
        which as few are: bins are not independent, so it is this and not the count that says whether the model fails.
        """
        one = self.quantiles
        counts = ((self.replicated >= one["lower"]) & (self.replicated <= one["upper"])).sum("bin").values
        found = self.inside.sum("bin").values
        columns = [*(f"{100 * level:g}%" for level in one["level"].values), "all"]
        counts = np.column_stack([counts, counts.sum(axis=1)])
        found = np.append(found, found.sum())
        bins = np.append(np.full(len(columns) - 1, one.sizes["bin"]), one.sizes["bin"] * (len(columns) - 1))
        return pd.DataFrame(
            {"inside": found, "of": bins, "expected": counts.mean(axis=0), "p": np.mean(counts <= found, axis=0)},
            index=pd.Index(columns, name="percentile"),
        )

    @property
    def table(self) -> pd.DataFrame:
        """One row per bin and percentile: edges, measurements, observed percentile, interval, whether it is inside."""
        whole = self.quantiles.assign(inside=self.inside).to_dataframe().reset_index()
        columns = ["low", "high", "measurements", "level", "observed", "median", "lower", "upper", "inside"]
        return whole[columns]

    def __repr__(self) -> str:
        one, summary = self.quantiles, self.summary
        name = "prediction-corrected " if self.corrected else ""
        lines = [
            f"Visual predictive check of {name}{self.output} along {self.along}, "
            f"{self.replicated.sizes['replicate']} studies"
        ]
        levels = [f"{100 * level:g} %" for level in one["level"].values]
        cells = []
        for b in range(one.sizes["bin"]):
            low, high = float(one["low"][b]), float(one["high"][b])
            end = "]" if b + 1 == one.sizes["bin"] else ")"
            row = [f"[{low:.4g}, {high:.4g}{end}", str(int(one["measurements"][b]))]
            for k in range(len(levels)):
                mark = "" if bool(self.inside[b, k]) else " *"
                seen, bottom, top = (float(one[key][b, k]) for key in ("observed", "lower", "upper"))
                row.append(f"{seen:.3g} ({bottom:.3g} to {top:.3g}){mark}")
            cells.append(row)
        header = [self.along, "n", *(f"{level}: observed ({self.prob:.0%} of studies)" for level in levels)]
        lines.append(pd.DataFrame(cells, columns=header).to_string(index=False))
        lines += [
            f"{level} inside in {int(row['inside'])} of {int(row['of'])} bins "
            f"(expected {row['expected']:.1f}; p = {row['p']:.2g})"
            for level, row in summary.iterrows()
        ]
        if self.uncorrected:
            lines.append(f"{self.uncorrected} values not corrected: their prediction is next to the lower bound")
        if self.outside > 0.0:
            lines.append(f"{self.outside:.2%} of the new subjects were outside of the design box and drawn again")
        return "\n".join(lines)


@taught
@single_threaded
def visual_predictive_check(
    posterior: Posterior,
    *,
    output: str | None = None,
    along: str | None = None,
    bins: int | Sequence[float] | None = None,
    corrected: bool = False,
    lower_bound: float = 0.0,
    levels: Sequence[float] = (0.05, 0.5, 0.95),
    prob: float = 0.95,
    replicates: int = 1000,
    rng: RandomState = 0,
) -> VisualPredictiveCheck:
    """Compare percentiles of the data with those of replicated studies, in which all subjects are new.

    Use it to see whether the population is right as a whole: individual fits may be good where typical value, omega or
    noise are wrong. Each replicate is a study with the covariates, conditions and coordinates of the real one, whose
    subjects are drawn from the population. Intervals hold what is unknown about the population, the surrogate's error
    (one function for all subjects, given the data), the draw of the subjects, and noise.

    Parameters
    ----------
    posterior
        Of a population.
    output
        Which one; needed when there are several.
    along
        Coordinate or condition that the bins lie on; by default the output's only dim.
    bins
        How many, with about as many measurements each, or their edges. By default as many as there are measurements a
        subject, at least 8 measurements a bin, at most 12 bins. Equal coordinates are never in two bins.
    corrected
        Whether to correct by the prediction: where doses, covariates or coordinates differ within a bin, percentiles
        mix subjects of whom different things are expected. Each value y with the prediction m of its typical subject
        becomes b + (y - b) (M - b) / (m - b), with the bin's median M of the predictions.
    lower_bound
        b, below which the output cannot be. ``-np.inf`` corrects by the difference, y + M - m.
    levels
        Of the percentiles.
    prob
        Of the intervals.
    replicates
        How many studies.
    rng
        For the draws.

    Returns
    -------
    VisualPredictiveCheck
        Percentiles by bin, their intervals, and in how many bins the data are inside.

    Raises
    ------
    InputError
        When it is no posterior of a population, settings cannot be read, measurements lie outside of the bins, a bin is
        empty, there are detection limits, or the surrogate's error has no closed form.
    ExtrapolationError
        When the population's subjects nearly all lie outside of the design box.

    Notes
    -----
    The same data made the posterior, so few bins outside mean less than many; `summary` has the exact fraction of
    studies in which as few are inside. Time and memory grow linearly with subjects and replicates.

    References
    ----------
    Bergstrand, Hooker, Wallin & Karlsson (2011), doi:10.1208/s12248-011-9255-z; Holford (2005), PAGE 14, abstract 738.
    """
    hierarchy = hierarchy_of(posterior, "visual_predictive_check")
    problem = hierarchy.problem
    refuse(problem, "visual_predictive_check")
    percentiles, count = _checked(levels, prob, replicates, lower_bound)
    observations = problem.observations
    if problem.data.cells.side.any():
        raise InputError("visual_predictive_check: percentiles of values beyond a detection limit are not known.")
    name = _output(problem, output)
    rows = np.flatnonzero(observations.output == name)
    axis = _axis(problem, name, along)
    at = np.asarray({**observations.coords, **observations.conditions}[axis][rows], dtype=np.float64)
    edges = _edges(at, bins, len(np.unique(observations.subject[rows])))
    place = np.clip(np.searchsorted(edges, at, side="right") - 1, 0, len(edges) - 2)
    values, outside = _studies(hierarchy, count, as_generator(rng))
    values, seen, uncorrected = values[:, rows], observations.value[rows], 0
    if corrected:
        typical = _typical(hierarchy)[rows]
        factor, shift, uncorrected = _correction(typical, place, len(edges) - 1, lower_bound)
        values, seen = factor * values + shift, factor * seen + shift
    ends = 0.5 * (1.0 - prob), 0.5 * (1.0 + prob)
    inner = [np.flatnonzero(place == b) for b in range(len(edges) - 1)]
    replicated = np.stack([np.quantile(values[:, one], percentiles, axis=1).T for one in inner], axis=1)
    observed = np.stack([np.quantile(seen[one], percentiles) for one in inner])
    lower, median, upper = np.quantile(replicated, [ends[0], 0.5, ends[1]], axis=0)
    dims = ("bin", "level")
    coords = {
        "level": percentiles,
        "bin": np.arange(len(inner)),
        "low": ("bin", edges[:-1]),
        "high": ("bin", edges[1:]),
        "middle": ("bin", np.array([np.median(at[one]) for one in inner])),
        "measurements": ("bin", np.array([len(one) for one in inner])),
    }
    parts = {"observed": observed, "median": median, "lower": lower, "upper": upper}
    unit = {"unit": problem.surrogate.layouts[name].unit}
    return VisualPredictiveCheck(
        xr.Dataset({key: (dims, one, unit) for key, one in parts.items()}, coords),
        xr.DataArray(replicated, coords, ("replicate", *dims)),
        pd.DataFrame({"subject": observations.subject[rows].astype(str), axis: at, "value": seen, "bin": place}),
        name,
        axis,
        prob,
        corrected,
        uncorrected,
        outside,
    )


# ------------------------------------------------------------------------------------------------------------ settings
def _checked(levels: Sequence[float], prob: float, replicates: int, lower_bound: float) -> tuple[Array, int]:
    found = np.atleast_1d(np.asarray(levels, dtype=np.float64))
    if found.ndim != 1 or not len(found) or not np.all((found > 0.0) & (found < 1.0)) or np.any(np.diff(found) <= 0.0):
        raise InputError(f"visual_predictive_check: levels is {levels!r}; give increasing numbers between 0 and 1.")
    check.probability("visual_predictive_check", "prob", prob)
    if not check.is_whole(replicates, 40):
        raise InputError(
            f"visual_predictive_check: replicates is {replicates!r}; give a whole number of at least 40, since the "
            "ends of the intervals are quantiles of so many studies."
        )
    if np.isnan(lower_bound) or lower_bound == np.inf:
        raise InputError(f"visual_predictive_check: lower_bound is {lower_bound!r}; give a number, or -np.inf.")
    return found, int(replicates)


def _output(problem: PopulationCalibration, output: str | None) -> str:
    known = problem.data.noise.outputs
    if output is None and len(known) == 1:
        return known[0]
    if output not in known:
        raise InputError(f"visual_predictive_check: output is {output!r}; give one of the observed {list(known)}.")
    return str(output)


def _axis(problem: PopulationCalibration, output: str, along: str | None) -> str:
    dims = problem.surrogate.layouts[output].dims
    known = [*dims, *problem.observations.conditions]
    if along is None and len(dims) == 1:
        return dims[0]
    if along is None and not dims and len(known) == 1:
        return known[0]
    if along not in known:
        raise InputError(f"visual_predictive_check: along is {along!r}; bins of {output!r} can lie on {known}.")
    return str(along)


def _edges(at: Array, bins: int | Sequence[float] | None, subjects: int) -> Array:
    """Return increasing edges (B + 1,) that all coordinates lie between, in no empty bin."""
    if bins is None or (isinstance(bins, int | np.integer) and not isinstance(bins, bool)):
        count = int(np.clip(round(len(at) / subjects), 1, min(MOST_BINS, max(1, len(at) // ROWS_A_BIN))))
        if bins is not None and bins < 1:
            raise InputError(f"visual_predictive_check: bins is {bins}; give a number of at least 1, or edges.")
        return _equal_counts(at, count if bins is None else int(bins))
    edges = np.asarray(bins, dtype=np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not np.isfinite(edges).all() or np.any(np.diff(edges) <= 0.0):
        raise InputError(f"visual_predictive_check: bins is {bins!r}; give a whole number, or increasing edges.")
    lost = int(np.sum((at < edges[0]) | (at > edges[-1])))
    if lost:
        raise InputError(
            f"visual_predictive_check: {lost} measurements lie outside of the bins [{edges[0]:g}, {edges[-1]:g}]; the "
            f"coordinates reach from {at.min():g} to {at.max():g}."
        )
    inside = np.histogram(at, edges)[0]
    if not inside.all():
        empty = int(np.argmin(inside))
        raise InputError(
            f"visual_predictive_check: the bin [{edges[empty]:g}, {edges[empty + 1]:g}] has no measurement; leave out "
            "an edge."
        )
    return edges


def _equal_counts(at: Array, count: int) -> Array:
    """Return edges halfway between coordinates, so that bins hold about as many each."""
    values, sizes = np.unique(at, return_counts=True)
    if len(values) == 1:
        return np.array([values[0] - 0.5, values[0] + 0.5])
    below = np.cumsum(sizes)[:-1]  # measurements left of each gap
    wanted = len(at) * np.arange(1, count) / count
    gaps = np.unique(np.abs(below[:, None] - wanted).argmin(axis=0)) if count > 1 else np.zeros(0, dtype=np.int64)
    return np.concatenate([[values[0]], 0.5 * (values[gaps] + values[gaps + 1]), [values[-1]]])


# ---------------------------------------------------------------------------------------------------------- simulation
def _studies(hierarchy: Hierarchy, count: int, rng: np.random.Generator) -> tuple[Array, float]:
    """Return measurements (S, R) of new subjects, in the data's own unit, and the share that were drawn again."""
    problem = hierarchy.problem
    data, cells = problem.data, problem.data.cells
    if is_exact(problem.surrogate):
        flat = hierarchy.posterior.flat()
        picked = _spread(len(hierarchy.posterior.latents), count)
        theta = {name: values[picked] for name, values in flat.items()}
        z, outside = _effects(problem, theta, count, rng)
        return data.simulate(problem.individuals(theta, z), rng), outside
    shared = rows_of(hierarchy.shared, _spread(len(hierarchy.shared.h), count))
    z, outside = _effects(problem, shared.theta, count, rng)
    every = np.arange(cells.experiments)
    design = Measured.of(cells, every)
    residual = design.truncation if cells.by_input is not None else _roots(design.truncation)
    step = max(1, NUMBERS // (cells.experiments * max(_width(hierarchy), design.here.shape[1] + residual.shape[2])))
    out = np.empty((count, len(cells.z)))
    for start in range(0, count, step):
        rows = np.arange(start, min(start + step, count))
        now = rows_of(shared, rows)
        own = problem.individuals(now.theta, z[rows])
        u = data.unit_inputs(own)
        mean, own_law = now.scores(u)
        scores = mean + now.error.own_draw(own_law, rng.standard_normal(mean.shape))
        if cells.by_input is not None:
            design = now.measured(cells, every, u)
            residual = design.truncation
        y = design.offset + row_sums(design.basis, scores)
        if residual.shape[-1]:
            y += row_sums(residual, rng.standard_normal((*scores.shape[:2], residual.shape[-1])))
        phi = data.noise.phi(own, (len(rows),))
        out[rows] = draw_rows(cells, data.noise, y[:, design.here], phi, rng)  # cells stand by input
    return out, outside


def _width(hierarchy: Hierarchy) -> int:
    """Return how many numbers one input of one draw needs on the way to its scores."""
    if is_exact(hierarchy.problem.surrogate):
        return int(hierarchy.problem.data.cells.basis.shape[1])
    error = hierarchy.shared.error
    return max(error.width, error.draws * len(error.score)) * (error.q if error.joint else 1)


def _spread(draws: int, count: int) -> Ints:
    """Return `count` draws, spread evenly; each several times when there are fewer."""
    if count >= draws:
        return np.arange(count) % draws
    return np.linspace(0, draws - 1, count).astype(np.int64)


def rows_of(shared: Shared, rows: Ints) -> Shared:
    """Return some of the draws."""
    return replace(
        shared,
        theta={name: values[rows] for name, values in shared.theta.items()},
        own={name: values[rows] for name, values in shared.own.items()},
        z=shared.z[rows],
        h=shared.h[rows],
        w=shared.w[rows],
    )


def _roots(truncation: Array) -> Array:
    """Return factors (K, c, r) with as few columns as the cells of one input need."""
    if not truncation.any():
        return np.zeros((*truncation.shape[:2], 0))
    left, singular, _ = np.linalg.svd(truncation, full_matrices=False)
    return np.asarray(left * singular[:, None, :])


def _effects(
    problem: PopulationCalibration, theta: Mapping[str, Array], count: int, rng: np.random.Generator
) -> tuple[Array, float]:
    """Return standard normal effects (S, size) of new subjects, given that each lies inside of the design box."""
    layout, data = problem.layout, problem.data
    z = rng.standard_normal((count, layout.size))
    if not any(True for _ in data.walls()):
        return z, 0.0
    population, J = problem.population, len(layout.covariates)
    own_columns = np.repeat(np.arange(J), len(population.individual))
    owner = np.concatenate([own_columns, np.repeat(layout.subject, len(population.occasions))])
    open_ = np.ones((count, J), dtype=np.bool_)
    first = 0.0
    for attempt in range(TRIES):
        rows = np.flatnonzero(open_.any(axis=1))
        own = problem.individuals({name: values[rows] for name, values in theta.items()}, z[rows])
        stay = np.log(rng.random((len(rows), J))) < data.walls_of_subjects(own)
        open_[rows] &= ~stay
        if attempt == 0:
            first = float(open_.mean())
        if not open_.any():
            return z, first
        rows = np.flatnonzero(open_.any(axis=1))
        fresh = rng.standard_normal((len(rows), layout.size))
        z[rows] = np.where(open_[rows][:, owner], fresh, z[rows])
    raise ExtrapolationError(
        f"visual_predictive_check: of {TRIES} new subjects of one draw of the population none lies in the design box, "
        "so that nothing is known of their outputs. Run a design over uq.sobol(population.box(), n)."
    )


# ---------------------------------------------------------------------------------------------------------- correction
def _typical(hierarchy: Hierarchy) -> Array:
    """Return by measurement (R,) what is predicted for the subject whose effects are zero, in the data's own unit."""
    problem = hierarchy.problem
    data, cells = problem.data, problem.data.cells
    exact = is_exact(problem.surrogate)
    if exact:
        flat = hierarchy.posterior.flat()
        picked = _spread(len(hierarchy.posterior.latents), min(500, len(hierarchy.posterior.latents)))
        theta = {name: values[picked] for name, values in flat.items()}
    else:
        theta = dict(hierarchy.shared.theta)
    draws = len(next(iter(theta.values())))
    total = np.zeros(len(cells.offset))
    every = np.arange(cells.experiments)
    step = max(1, NUMBERS // (cells.experiments * _width(hierarchy)))
    for start in range(0, draws, step):
        rows = np.arange(start, min(start + step, draws))
        now = {name: values[rows] for name, values in theta.items()}
        u = data.unit_inputs(problem.individuals(now, np.zeros((len(rows), problem.layout.size))))
        if cells.by_input is not None:
            few = rows_of(hierarchy.shared, rows)
            measured = few.measured(cells, every, u)
            total += (measured.offset + row_sums(measured.basis, few.scores(u)[0]))[:, measured.here].sum(axis=0)
            continue
        scores = data.surrogate.scores(u).mean[0] if exact else rows_of(hierarchy.shared, rows).scores(u)[0]
        total += len(u) * cells.offset + np.einsum("nq,nq->n", scores.sum(axis=0)[cells.experiment], cells.basis)
    latent = total / draws
    out = np.empty_like(latent)
    for name in data.noise.outputs:
        at = cells.output == name
        out[at] = problem.surrogate.layouts[name].transform.inverse(latent[at])
    return np.asarray(out[cells.row_cell])


def _correction(typical: Array, place: Ints, bins: int, bound: float) -> tuple[Array, Array, int]:
    """Return factor and shift (R,) that every value takes, and how many take none."""
    if bound == -np.inf:
        middle = np.array([np.median(typical[place == b]) for b in range(bins)])
        return np.ones(len(typical)), middle[place] - typical, 0
    span = typical - bound
    none = span <= SMALL * span.max(initial=0.0)
    inner = [span[(place == b) & ~none] for b in range(bins)]
    middle = np.array([np.median(one) if len(one) else 1.0 for one in inner])
    factor = np.where(none, 1.0, middle[place] / np.where(none, 1.0, span))
    return factor, bound * (1.0 - factor), int(none.sum())
