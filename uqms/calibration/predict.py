"""Prediction after calibration: the simulator's output given the data, draw by draw in closed form.

For each posterior draw of the parameters, observed cells and points to predict are jointly Gaussian: their scores'
errors are correlated as their inputs are, truncation is shared where the input is the same. Conditioning on the data
leaves the prediction; draws of the error that ignore the data would make bands several times too wide.

==========  ===============================================================  =================
symbol      meaning                                                          shape
==========  ===============================================================  =================
s           posterior draws                                                  S
T           observed cells and points to predict together, N + P             T
joint       covariance of the output at all T, without noise                 (S, T, T)
==========  ===============================================================  =================
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, final

import numpy as np
import xarray as xr

from uqms._teaching import missing, taught
from uqms._typing import Array, Bools, Ints
from uqms.calibration import _latent_outputs, dense_gaussian
from uqms.calibration._terms import ORTHOGONAL_JITTER
from uqms.calibration.by_input import RowsByInput, rows_by_input
from uqms.calibration.data_model import DataModel
from uqms.calibration.density import covariance_of, noise_covariance, noise_sd
from uqms.calibration.direct import is_exact
from uqms.calibration.discrepancy import NOISE, ORTHOGONAL, Sites, term_covariance
from uqms.calibration.joint_error import OutputLaw
from uqms.calibration.likelihood import (
    Cells,
    Errors,
    check_conditions,
    decoded_at,
    dense,
    merge_close,
    right_factor,
    stacked,
)
from uqms.calibration.markov import MarkovNoise, Series, given_data, noise_of, only_noise
from uqms.calibration.noise import Rows
from uqms.calibration.realisation import residual_rows
from uqms.errors import DataError, InputError
from uqms.functionals import FunctionalDraws, equal_tailed, read_off
from uqms.surrogates.prediction import ELSEWHERE, asked_by_key, shown
from uqms.surrogates.process import Scores
from uqms.surrogates.transforms import Identity, Transform

if TYPE_CHECKING:
    from uqms.calibration.single import SingleCalibration

__all__ = [
    "AnyMoments",
    "FactoredMoments",
    "Moments",
    "PosteriorPrediction",
    "Realised",
    "Targets",
    "conditional_moments",
    "data_moments",
    "own_cells",
]

type Realised = Literal["same", "new", "none"]

TRIES = 100  # of errors for which the means of counts are possible
CHUNK = 4_000_000  # numbers in one covariance block


@final
@dataclass(frozen=True, eq=False)
class Targets:
    """Points to predict: which output and input each belongs to, where it is, and its rows of the decoder."""

    conditions: Array  # (n, conditions), own units
    experiment: Ints  # (P,)
    output: np.ndarray  # (P,)
    coords: Mapping[str, Array]  # (P,)
    offset: Array  # (P,)
    basis: Any  # (P, q), dense or sparse
    truncation: Array  # (P, t)
    run: Ints | None = None  # (P,), of a stochastic simulator; None: the observed one where an experiment has one
    observed: Ints | None = None  # (n,), experiment whose conditions these are; -1 or None: known ones
    unit: Ints | None = None  # (n,), of a population: whose parameters
    group: Ints | None = None  # (P,), noise group whose discrepancy they have; None: the problem's own of the output


@final
@dataclass(frozen=True, eq=False)
class Moments:
    """Mean (S, P) and covariance (S, P, P) of the latent output at the targets, for each posterior draw."""

    mean: Array
    covariance: Array

    @property
    def variance(self) -> Array:
        """Variances (S, P)."""
        return np.maximum(np.diagonal(self.covariance, axis1=1, axis2=2), 0.0)

    @property
    def mean_variance(self) -> Array:
        """Variances (P,) in the mean over the draws."""
        return np.asarray(self.variance.mean(axis=0))

    def of(self, rows: Ints) -> "Moments":
        """Return the moments of some of the draws."""
        return Moments(self.mean[rows], self.covariance[rows])

    def draw(self, rng: np.random.Generator) -> Array:
        """Return one joint draw (S, P) a posterior draw."""
        return next(self.draws(1, rng))

    def draws(self, count: int, rng: np.random.Generator) -> Iterator[Array]:
        """Yield several joint draws (S, P) a posterior draw."""
        p = self.mean.shape[1]
        # Outputs of very different units stand in one covariance: a jitter is relative to each entry, never to their
        # mean.
        sd = np.sqrt(np.maximum(np.diagonal(self.covariance, axis1=1, axis2=2), 1e-300))
        covariance = self.covariance / (sd[:, :, None] * sd[:, None, :])
        covariance[:, np.arange(p), np.arange(p)] += 1e-10
        try:
            root = np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError:
            values, vectors = np.linalg.eigh(covariance)
            root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
        for _ in range(count):
            z = rng.standard_normal(self.mean.shape)
            yield np.asarray(self.mean + sd * np.einsum("spr,sr->sp", root, z))


@final
@dataclass(frozen=True, eq=False)
class FactoredMoments:
    """Mean (S, P), and the covariance as design root root' design', which is smaller where targets are many.

    Attributes
    ----------
    mean
        Shape (S, P).
    design, root
        Shapes (P, r) and (S, r, r).
    """

    mean: Array
    design: Array
    root: Array

    @property
    def covariance(self) -> Array:
        """Covariances (S, P, P)."""
        factor = np.matmul(self.design, self.root)
        return np.asarray(np.matmul(factor, np.swapaxes(factor, 1, 2)))

    @property
    def variance(self) -> Array:
        """Variances (S, P)."""
        return np.stack([np.sum((self.design @ root) ** 2, axis=1) for root in self.root])

    @property
    def mean_variance(self) -> Array:
        """Variances (P,) in the mean over the draws."""
        inner = np.matmul(self.root, np.swapaxes(self.root, 1, 2)).mean(axis=0)
        return np.maximum(np.sum(self.design @ inner * self.design, axis=1), 0.0)

    def of(self, rows: Ints) -> "FactoredMoments":
        """Return the moments of some of the draws."""
        return FactoredMoments(self.mean[rows], self.design, self.root[rows])

    def draw(self, rng: np.random.Generator) -> Array:
        """Return one joint draw (S, P) a posterior draw."""
        return next(self.draws(1, rng))

    def draws(self, count: int, rng: np.random.Generator) -> Iterator[Array]:
        """Yield several joint draws (S, P) a posterior draw."""
        for _ in range(count):
            z = rng.standard_normal((len(self.mean), self.root.shape[2], 1))
            yield np.asarray(self.mean + np.matmul(self.root, z)[..., 0] @ self.design.T)


type AnyMoments = Moments | FactoredMoments


def own_cells(cells: Cells) -> Targets:
    """Return the observed cells themselves as targets."""
    return Targets(
        cells.conditions,
        cells.experiment,
        cells.output,
        cells.coords,
        cells.offset,
        cells.basis,
        cells.truncation,
        cells.run,
        np.arange(cells.experiments),
        cells.unit,
        cells.group,
    )


@final
@dataclass(frozen=True, eq=False)
class _Joint:
    """Observed cells (N first) and targets together; the different inputs K that they have."""

    conditions: Array  # (K, c)
    index: Ints  # (T,)
    output: np.ndarray  # (T,)
    group: Ints  # (T,), -1: of an output that was not observed
    sites: Mapping[str, Array]  # (T,), coordinates and conditions
    offset: Array  # (T,)
    basis: Any  # (T, q), dense or sparse
    truncation: Array  # (T, t)
    rows: Ints  # (T,)
    run: Ints  # (T,), of a stochastic simulator; -1: a new one
    experiment: Ints  # (K,), observed experiment whose true conditions are inferred; -1: conditions are known
    unit: Ints  # (K,), of a population: whose parameters
    by_input: RowsByInput | None = None

    def at(self, group: int) -> tuple[Ints, Sites]:
        """Return the points of a noise group, and where they are."""
        points = np.flatnonzero(self.group == group)
        columns = {name: column[points] for name, column in self.sites.items()}
        known = {name: column for name, column in columns.items() if not np.isnan(column).all()}
        return points, Sites(known, self.index[points], self.rows[points])


def _join(model: DataModel, targets: Targets) -> _Joint:
    cells = model.cells
    both = np.vstack([cells.conditions, targets.conditions])
    if both.shape[1]:
        both = merge_close(model.surrogate, model.condition_names, both)
    # An experiment whose condition was measured with an error is at an input that nothing else is at.
    unit = np.zeros(len(targets.conditions)) if targets.unit is None else targets.unit
    labels = [_inferred(model, targets), np.concatenate([cells.unit, unit])]
    both, place = np.unique(np.column_stack([both, *labels]), axis=0, return_inverse=True)
    conditions, experiment, units = both[:, :-2], both[:, -2].astype(np.int64), both[:, -1].astype(np.int64)
    place = place.reshape(-1)
    index = np.concatenate(
        [place[: cells.experiments][cells.experiment], place[cells.experiments :][targets.experiment]]
    )
    size = len(targets.offset)
    names = dict.fromkeys((*cells.coords, *targets.coords))
    missing = np.full(len(cells.offset), np.nan), np.full(size, np.nan)
    sites = {
        name: np.concatenate([cells.coords.get(name, missing[0]), targets.coords.get(name, missing[1])])
        for name in names
    }
    sites |= {name: conditions[index, i] for i, name in enumerate(model.condition_names)}
    output = np.concatenate([cells.output, targets.output])
    return _Joint(
        conditions,
        index,
        output,
        np.concatenate([cells.group, _groups(model, targets)]),
        sites,
        np.concatenate([cells.offset, targets.offset]),
        stacked([cells.basis, targets.basis]),
        np.vstack([cells.truncation, targets.truncation]),
        np.concatenate([cells.row_of, np.full(size, -1)]),
        np.concatenate([cells.run, _runs(cells, index, targets)]),
        experiment,
        units,
        rows_by_input(model.surrogate, output, sites, index),
    )


def _groups(model: DataModel, targets: Targets) -> Ints:
    """Return the noise group of each target (P,), -1 for outputs that were not observed."""
    if targets.group is not None:
        return targets.group
    known = {name: model.noise.group_of(str(name)) for name in np.unique(targets.output)}
    return np.array([known[name] for name in targets.output], dtype=np.int64)


def _inferred(model: DataModel, targets: Targets) -> Ints:
    """Return of each observed experiment and target input the experiment whose true conditions it has, -1: none."""
    of = np.full(len(targets.conditions), -1) if targets.observed is None else targets.observed
    of = np.concatenate([np.arange(model.cells.experiments), of])
    known = ~np.append((model.cells.conditions_sd > 0.0).any(axis=1), False)  # the last one is that of -1
    return np.where(known[of], -1, of)


def _runs(cells: Cells, index: Ints, targets: Targets) -> Ints:
    """Return the run of each target (P,): the observed one of its input if there is one only, else a new one."""
    if targets.run is not None:
        return targets.run
    observed, own = index[: len(cells.offset)], index[len(cells.offset) :]
    single = [one for one in np.unique(observed) if not cells.run[observed == one].any()]
    return np.where(np.isin(own, single), 0, -1)


@final
@dataclass(frozen=True, eq=False)
class _Run:
    """What a stochastic simulator's run does at cells and targets."""

    scores: Array  # (S, T, q), basis times sd
    correlation: Array  # (q, q)
    residual: Array  # (T, t)
    same: Bools  # (T, T), whether two points are of one run
    wanted: Bools  # (T,), cells, and targets whose prediction holds a run

    def covariance(self) -> Array:
        """Return the covariance (S, T, T)."""
        both = self.same & self.wanted[:, None] & self.wanted[None, :]
        inner = self.scores @ self.correlation @ self.scores.transpose(0, 2, 1)
        return np.asarray(both * (inner + self.residual @ self.residual.T))


def _run_at(model: DataModel, joint: _Joint, u: Array, realisation: Realised) -> _Run | None:
    """Return the runs at cells and targets for inputs u (S, K, d), None when the simulator is not stochastic."""
    found = model.realisation
    if found is None:
        return None
    n, run = len(model.cells.offset), joint.run.copy()
    if realisation == "new":
        run[n:] = -1
    same = (joint.index[:, None] == joint.index[None, :]) & (run[:, None] == run[None, :])
    wanted = np.ones(len(run), dtype=np.bool_)
    wanted[n:] = realisation != "none"
    residual = residual_rows(model.surrogate, joint.output, joint.sites)
    return _Run(joint.basis * found.sd(u)[:, joint.index], found.correlation, residual, same, wanted)


def _used(model: DataModel, joint: _Joint) -> Ints:
    """Return the scores whose errors matter to cells or targets."""
    return np.zeros(0, dtype=np.int64) if is_exact(model.surrogate) else np.flatnonzero(joint.basis.any(axis=0))


def _discrepancy_covariance(model: DataModel, joint: _Joint, phi: Mapping[str, Array], slopes: Array) -> Array:
    """Return the covariance (S, T, T) of the discrepancy; `slopes` (S, N, o) for those that are orthogonal to them."""
    total, n = np.zeros((len(slopes), len(joint.index), len(joint.index))), slopes.shape[1]
    for term in model.noise.terms:
        if term.role == NOISE:
            continue
        at, sites = joint.at(term.group)
        place = term.place(sites)
        own = np.zeros_like(total)
        own[:, at[:, None], at[None, :]] = term_covariance(term, phi, place, place)
        if term.role == ORTHOGONAL:
            left = own[:, :, :n] @ slopes  # K J
            inner = slopes.transpose(0, 2, 1) @ left[:, :n]
            size = np.arange(inner.shape[1])
            largest = np.diagonal(inner, axis1=1, axis2=2).max(axis=1)
            inner[:, size, size] += ORTHOGONAL_JITTER * largest[:, None] + 1e-300
            own = own - left @ np.linalg.solve(inner, left.transpose(0, 2, 1))
        total += own
    return total


def _factors(model: DataModel, joint: _Joint, phi: Array, holds: Bools) -> Array:
    """Return 1 + the scale discrepancy (S, T) at cells and those targets that hold it."""
    out = np.ones((len(phi), len(joint.index)))
    for group, place in model.noise.factors.items():
        at = np.flatnonzero((joint.group == group) & holds)
        out[:, at] += phi[:, place, None]
    return out


def conditional_moments(
    problem: "SingleCalibration",
    theta: Mapping[str, Array],
    h: Ints,
    targets: Targets,
    latents: Array | None = None,
    discrepancy: bool | Bools = True,
    realisation: Realised = "same",
    errors: bool = True,
    given_data: bool = True,
) -> Iterator[tuple[slice, AnyMoments]]:
    """Yield the moments at the targets given the data, a block of posterior draws at a time.

    Through the errors of scores and truncation, of which there are few, or through cells and targets, whichever are
    fewer.

    Parameters
    ----------
    problem
        The calibration.
    theta
        Draws of everything inferred, each (S,).
    h
        Hyperparameter draw of each posterior draw, (S,).
    targets
        Points to predict.
    latents
        Draws of the latents (S, latents), where errors are not all normal: they hold the data's information on the
        errors.
    discrepancy
        Whether it is part of what is predicted, everywhere or by target (P,); it is taken out of the data either way.
    realisation
        Of a stochastic simulator: "same" run as was observed, a "new" one, or "none", the mean of its runs.
    errors
        Whether the surrogate has an error; without it what its mean says were the simulator itself.
    given_data
        Without it the data are left aside: errors and discrepancy are those before any measurement.
    """
    if normal := given_data and only_noise(problem.data_model):
        problem = problem.with_few_cells()
    model, cells = problem.data_model, problem.cells
    joint = _join(model, targets)
    if not errors and joint.by_input is None:
        joint = replace(joint, truncation=np.zeros_like(joint.truncation))
    problem.check_errors_between(joint.conditions, "Prediction at other conditions than the observed one")
    n, total, inputs = len(cells.offset), len(joint.index), len(joint.conditions)
    holds = np.concatenate([np.ones(n, dtype=np.bool_), np.broadcast_to(np.asarray(discrepancy), total - n)])
    any_holds = bool(holds[n:].any())
    used = _used(model, joint) if errors else np.zeros(0, dtype=np.int64)
    if normal and joint.by_input is None:
        errors_of = Errors.of(joint.basis, joint.truncation, joint.index, len(joint.conditions), used)
        if errors_of.size <= total:
            yield from _through_errors(problem, errors_of, joint, theta, h)
            return
    q = cells.basis.shape[1]
    together = model.correlated_scores or joint.by_input is not None
    size = max(1, CHUNK // max(total * total, q * inputs * (max(total, q * inputs) if together else inputs)))
    for start in range(0, len(h), size):
        rows = slice(start, min(start + size, len(h)))
        part = {name: values[rows] for name, values in theta.items()}
        phi = model.noise.phi(part, (len(h[rows]),))
        u = problem.unit_inputs(part, joint.conditions, joint.experiment, joint.unit)
        law = OutputLaw.of(model.surrogate, joint, joint.index, u, used, h[rows])
        law = law if errors else law.without_errors()
        mean, surrogate = law.mean, law.covariance
        run = _run_at(model, joint, u, realisation)
        if run is not None:
            surrogate = surrogate + run.covariance()
        m = _factors(model, joint, phi, holds)
        extra = np.zeros((len(phi), 0, 0))
        if any(term.role != NOISE for term in model.noise.terms):
            slopes = model.mean_slopes(problem.unit_inputs(part))[h[rows], np.arange(len(phi))]
            extra = _discrepancy_covariance(model, joint, model.noise.named(phi), slopes)
            extra *= holds[:, None] & holds[None, :]
        if not given_data:
            both = m[:, :, None] * m[:, None, :] * surrogate
            yield rows, Moments((m * mean)[:, n:], (both + extra if extra.size else both)[:, n:, n:])
            continue
        if not surrogate.any() and not extra.size:  # used directly: the data say nothing of errors that are not there
            yield rows, FactoredMoments((m * mean)[:, n:], np.zeros((total - n, 0)), np.zeros((len(phi), 0, 0)))
            continue
        if not model.closed_form:
            assert latents is not None
            found = _given_latents(model, phi, joint, law, mean, surrogate, m, extra, latents[rows], any_holds, run)
        else:
            found = _given_data(model, phi, mean, surrogate, m, extra, any_holds)
        yield rows, found


def _through_errors(
    problem: "SingleCalibration", errors: Errors, joint: _Joint, theta: Mapping[str, Array], h: Ints
) -> Iterator[tuple[slice, FactoredMoments]]:
    """Yield the moments at the targets given the data: x has the covariance R (1 + R' G' N^-1 G R)^-1 R'."""
    cells, noise = problem.cells, noise_of(problem.data_model)
    n, total, r = len(cells.offset), len(joint.index), errors.size
    G, wanted = errors.design[:n], errors.design[n:]
    size = max(1, CHUNK // max(total, n * (r + 1), r * r, cells.basis.shape[1] * errors.inputs**2))
    for start in range(0, len(h), size):
        rows = slice(start, min(start + size, len(h)))
        part = {name: values[rows] for name, values in theta.items()}
        u = problem.unit_inputs(part, joint.conditions, joint.experiment, joint.unit)
        law = OutputLaw.of(problem.surrogate, joint, joint.index, u, errors.used, h[rows])
        mean = law.mean
        if not r:
            yield rows, FactoredMoments(mean[:, n:], wanted, np.zeros((len(u), 0, 0)))
            continue
        value, slope = cells.responded(mean[:, :n])
        chains = noise.at(problem.noise.phi(part, (len(u),)), value)
        design = slope[..., None] * G if cells.transformed else G
        found = given_data(chains, design, errors.root(law.score_covariance), cells.cell_mean - value)
        x, left = np.matmul(found.left, found.projected[..., None])[..., 0], found.left
        yield rows, FactoredMoments(mean[:, n:] + x @ wanted.T, wanted, left)


def data_moments(
    problem: "SingleCalibration", theta: Mapping[str, Array], errors: bool = True
) -> tuple[Array, Array, list[Array], list[Array]]:
    """Return hyperparameters (S, P), log w_h (H,), and for each h mean (S, N) and covariance (S, N, N) of cell means.

    Without `errors` the covariance lacks what the surrogate adds: its error and what its basis leaves out. Noise that
    is not normal counts as normal noise of equal information, see `noise_sd`: both are then those of latent outputs.
    """
    model, cells, n = problem.data_model, problem.cells, len(problem.cells.offset)
    u = problem.unit_inputs(theta)
    phi = model.noise.phi(theta, (len(u),))
    joint, count = model.joint_error(u), len(u)
    slopes, own = model.mean_slopes(u), model.run_factor(u)
    m = model.noise.scales(cells.group, phi)
    means, covariances = [], []
    for h in range(len(joint.scores.log_weights)):
        law = joint.given(np.full(count, h))
        mean, C = m * law.mean, law.covariance if errors else np.zeros((count, n, n))
        value, slope = model.responded(mean)
        if own.shape[2]:
            runs = model.realisation.by_experiment(own) if model.realisation is not None else own
            C += runs @ runs.transpose(0, 2, 1)
        gain = m * slope
        C *= gain[:, :, None] * gain[:, None, :]
        if model.noise.terms:
            C += covariance_of(model, phi, slopes[h], slope)
        C[:, np.arange(n), np.arange(n)] += noise_sd(model, mean, phi) ** 2
        means.append(value)
        covariances.append(C)
    return phi, np.asarray(joint.scores.log_weights), means, covariances


def _given_data(
    model: DataModel, phi: Array, mean: Array, surrogate: Array, m: Array, extra: Array, discrepancy: bool
) -> Moments:
    """Condition the joint normal law of latent outputs on the cell means, which are linear in them to first order."""
    cells = model.cells
    n = len(cells.offset)
    mean, joint = m * mean, m[:, :, None] * m[:, None, :] * surrogate
    data, cross, own = joint[:, :n, :n], joint[:, :n, n:], joint[:, n:, n:]
    if extra.size:
        data = data + extra[:, :n, :n]
        if discrepancy:
            cross, own = cross + extra[:, :n, n:], own + extra[:, n:, n:]
    value, slope = cells.responded(mean[:, :n])
    cross = slope[:, :, None] * cross
    data = slope[:, :, None] * slope[:, None, :] * data
    data += noise_covariance(model, model.noise.named(phi), len(phi), model.noise.terms)
    data[:, np.arange(n), np.arange(n)] += model.noise.sds(cells.group, phi, value) ** 2 / cells.weight
    found = dense_gaussian.given_data(data, cells.cell_mean - value, cross)
    covariance = own - found.covariance
    return Moments(mean[:, n:] + found.mean, 0.5 * (covariance + covariance.transpose(0, 2, 1)))


def _given_latents(
    model: DataModel,
    phi: Array,
    joint: _Joint,
    law: OutputLaw,
    mean: Array,
    surrogate: Array,
    m: Array,
    extra: Array,
    latents: Array,
    discrepancy: bool,
    run: _Run | None,
) -> Moments:
    """Condition on the latents, which are standard normal: Cov(y*, eta) eta and the rest of the covariance."""
    cells = model.cells
    n, p = len(cells.offset), len(joint.index) - len(cells.offset)
    k, used = cells.experiments, cells.used
    count = len(latents)
    size = int(_latent_outputs.latent_count(model.structure))
    eta = np.zeros((count, size))
    eta[:, model.free] = latents
    gain = np.zeros((count, p, size))
    observed = np.array([joint.index[np.flatnonzero(cells.experiment == e)[0]] for e in range(k)])
    target = joint.index[n:]
    if law.correlated or not law.fixed:
        gain[:, :, : k * len(used)] = _gain_of_scores(law, used, observed, target, n)
    for place, j in enumerate(model.used if law.fixed and not law.correlated else ()):
        covariance = law.score_covariance[:, j]
        root = _latent_outputs.roots(np.ascontiguousarray(covariance[:, observed[:, None], observed[None, :]]), False)
        to_eta = covariance[:, target][:, :, observed] @ _inverse(root).transpose(0, 2, 1)
        gain[:, :, np.arange(k) * len(used) + place] = joint.basis[n:, j, None] * to_eta
    first, width = k * len(used), cells.compressed.shape[1]
    truncation = law.rows.truncation
    for e in range(k):
        right = right_factor(cells.truncation[cells.experiment == e]) if cells.by_input is None else np.eye(width)
        same = np.flatnonzero(target == observed[e])
        gain[:, same, first + e * width : first + e * width + right.shape[1]] = truncation[..., n + same, :] @ right
    if run is not None:
        _gain_of_runs(model, joint, run, observed, gain)
    gain *= m[:, n:, None]
    own = m[:, n:, None] * m[:, None, n:] * surrogate[:, n:, n:]
    if discrepancy and extra.size:
        # The sampler's root is that of all terms on the cells, noise that is correlated included.
        whole = extra[:, :n, :n] + noise_covariance(model, model.noise.named(phi), count, model.noise.terms)
        whole[:, np.arange(n), np.arange(n)] *= 1.0 + _latent_outputs.JITTER
        start = first + k * width
        gain[:, :, start : start + n] = extra[:, n:, :n] @ _inverse(_latent_outputs.roots(whole, True)).transpose(
            0, 2, 1
        )
        own = own + extra[:, n:, n:]
    posterior_mean = m[:, n:] * mean[:, n:] + np.einsum("spl,sl->sp", gain, eta)
    covariance = own - gain @ gain.transpose(0, 2, 1)
    # Where the latents say everything, what is left is rounding: a correlation of it would be nonsense.
    at = np.arange(p)
    left = covariance[:, at, at] > 1e-10 * own[:, at, at]
    covariance *= left[:, :, None] & left[:, None, :]
    return Moments(posterior_mean, 0.5 * (covariance + covariance.transpose(0, 2, 1)))


def _gain_of_scores(law: OutputLaw, used: Ints, observed: Ints, target: Ints, n: int) -> Array:
    """Return Cov(y*, eta) (S, P, K q) of the latents of the scores' errors, where they or the rows are joint."""
    mean = law.score_mean[..., used]
    S, inputs, q = mean.shape
    kept = law.score_covariance
    kept = kept[:, :, used][..., used] if law.correlated else kept[:, used]
    C = Scores(mean, kept, np.zeros(0)).joint.reshape(S, inputs, q, inputs, q)
    seen, k = C[:, :, :, observed], len(observed)
    if law.correlated:
        whole = seen[:, observed].reshape(S, k * q, k * q)
        to_eta = seen.reshape(S, inputs * q, k * q) @ _inverse(_latent_outputs.roots(whole, False)).transpose(0, 2, 1)
    else:
        to_eta = np.zeros((S, inputs, q, k, q))
        for j in range(q):
            root = _latent_outputs.roots(np.ascontiguousarray(seen[:, :, j, :, j][:, observed]), False)
            to_eta[:, :, j, :, j] = seen[:, :, j, :, j] @ _inverse(root).transpose(0, 2, 1)
    rows = dense(law.rows.basis[..., n:, :])[..., used] if law.fixed else law.rows.basis[:, n:][..., used]
    rows = np.broadcast_to(rows, (S, len(target), q))
    to_eta = to_eta.reshape(S, inputs, q, k * q)[:, target]
    return np.asarray(np.einsum("spj,spjl->spl", rows, to_eta))


def _gain_of_runs(model: DataModel, joint: _Joint, run: _Run, observed: Ints, gain: Array) -> None:
    """Fill the columns of gain (S, P, L) that belong to the observed runs, which stand last among the latents."""
    found, n = model.realisation, len(model.cells.offset)
    assert found is not None
    used, width = model.cells.used, found.width
    start = gain.shape[2] - model.cells.experiments * found.columns
    # Noise of all scores given that of the used ones, L xi: C L^-T.
    to_scores = run.correlation[:, used] @ np.linalg.inv(found.root).T
    both = np.concatenate(
        [run.scores[:, n:] @ to_scores, np.tile(run.residual[n:] @ found.right, (len(gain), 1, 1))], axis=2
    )
    for e, place in enumerate(observed):
        for r in range(found.runs):
            cell = np.flatnonzero((model.cells.experiment == e) & (model.cells.run == r))
            if len(cell):
                of = np.flatnonzero(run.same[n:, cell[0]] & run.wanted[n:] & (joint.index[n:] == place))
                at = start + e * found.columns + r * width
                gain[:, of, at : at + width] = both[:, of]


def _inverse(root: Array) -> Array:
    """Return the inverse (S, n, n) of lower roots, zero where they have a zero column."""
    size = np.arange(root.shape[-1])
    zero = root[:, size, size] == 0.0
    filled = root.copy()
    filled[:, size, size] += zero
    return np.asarray(np.linalg.inv(filled) * ~zero[:, :, None])


class NewNoise(NamedTuple):
    """What a new measurement of one output adds, at given targets.

    Attributes
    ----------
    draw
        From the latent output (S, P), hyperparameters (S, P') and a generator to measurements.
    variance
        From hyperparameters to the variance (S,) of normal noise on the latent scale; None when it is something else.
    phi
        From draws of everything inferred to hyperparameters.
    possible
        From the latent output to where it is a mean that the measurement can have.
    """

    draw: Callable[[Array, Array, np.random.Generator], Array]
    variance: Callable[[Array], Array] | None
    phi: Callable[[Mapping[str, Array]], Array]
    possible: Callable[[Array], Bools] = lambda latent: np.ones(np.shape(latent), dtype=np.bool_)


def new_noise(model: DataModel, g: int, targets: Targets) -> NewNoise:
    """Return the noise of a new series of measurements of an output.

    Raises
    ------
    InputError
        When it was given row by row, so that it is not known at other places.
    """
    groups, cells = model.noise, model.cells
    output, noise = groups.outputs[g], groups.models[g]
    own = cells.rows(g)
    for what, column in (("noise", own.sd), ("number of trials", own.trials)):
        if not np.allclose(column, column[0], atol=0.0):
            raise InputError(
                f"predict: the {what} of {output!r} was given row by row, so that of a new measurement is not known; "
                "pass noise=False and add it yourself."
            )
    size = len(targets.offset)
    rows = Rows(np.zeros(size), np.full(size, own.sd[0]), np.full(size, own.trials[0]))
    process = next((term for term in groups.terms if term.group == g and term.role == NOISE), None)
    link, response = cells.links[g], cells.responses[g]

    def draw(latent: Array, phi: Array, rng: np.random.Generator) -> Array:
        values = response.inverse(latent)
        if process is not None:
            points = targets.coords[along_of(noise, model, output)]
            keys = groups.keys.index(process.amplitude), groups.keys.index(process.lengths[0])
            series = Series(np.arange(size), targets.experiment, points, *keys)
            chains = MarkovNoise(np.full(size, g), np.ones(size), (series,)).at(phi)
            values = values + chains.process(rng.standard_normal(np.shape(latent)))
        parameters = {role: phi[:, at, None] for role, at in groups.roles[g].items()}
        return np.asarray(link.inverse(noise.draw(values, rows, parameters, rng)))

    def variance(phi: Array) -> Array:
        total = phi[:, g] ** 2 * own.sd[0] ** 2  # of noise that does not grow
        return np.asarray(total if process is None else total + groups.named(phi)[process.amplitude] ** 2)

    def possible(latent: Array) -> Bools:
        of = getattr(noise, "possible", None)
        return np.ones(np.shape(latent), dtype=np.bool_) if of is None else np.asarray(of(response.inverse(latent)))

    normal = noise.gaussian and noise.growth is None and isinstance(response, Identity)
    return NewNoise(
        draw,
        variance if normal else None,
        lambda theta: groups.phi(theta, (len(next(iter(theta.values()))),)),
        possible,
    )


def predicted(
    moments: AnyMoments,
    transform: Transform,
    noise: NewNoise | None,
    theta: Mapping[str, Array],
    rng: np.random.Generator,
) -> tuple[Array, Array, Array]:
    """Return mean (S, P), variance in the mean over the draws (P,), and joint draws (S, P), in the output's own unit.

    With noise when it is given. Where that is not normal, mean and variance are those of the draws: Monte Carlo
    estimates.
    """
    latent = moments.draw(rng)
    if noise is None:
        return *_moments_of(moments, transform, np.zeros(len(latent))), np.asarray(transform.inverse(latent))
    phi = noise.phi(theta)
    for _ in range(TRIES):  # counts have no negative mean: the law is the one given that there is none
        again = np.flatnonzero(~noise.possible(latent).all(axis=1))
        if not len(again):
            break
        latent[again] = moments.of(again).draw(rng)
    else:
        raise InputError(
            f"predict: at {len(again)} of {len(latent)} posterior draws the mean of a count is next to surely "
            "impossible (negative, or no probability) somewhere, so that there are no new measurements. Fit the "
            "logarithm or logit, uq.Curve(transform=uq.Log()), predict fewer places, or pass noise=False."
        )
    sample = noise.draw(latent, phi, rng)
    if noise.variance is None:  # a count of successes is no probability: measured and latent output may differ in mean
        return sample, np.zeros(sample.shape[1]), sample
    return *_moments_of(moments, transform, noise.variance(phi)), sample


def _moments_of(moments: AnyMoments, transform: Transform, more: Array) -> tuple[Array, Array]:
    """Return mean (S, P), and variance in the mean over the draws (P,), with `more` variance (S,) of each draw."""
    if isinstance(transform, Identity):
        return moments.mean, moments.mean_variance + more.mean()
    mean, variance = transform.moments(moments.mean, moments.variance + more[:, None])
    return mean, np.asarray(variance.mean(axis=0))


def along_of(noise: object, model: DataModel, output: str) -> str:
    """Return the coordinate along which an output's noise is correlated."""
    return str(getattr(noise, "along", None) or model.surrogate.layouts[output].dims[0])


@taught
@final
@dataclass(frozen=True, eq=False)
class PosteriorPrediction:
    """Prediction of outputs after calibration.

    Attributes
    ----------
    mean, sd
        By law of total variance from the closed form of each posterior draw; datasets with the outputs' dims (and
        "condition" when several were asked for).
    draws
        Joint draws of whole curves, with a leading dim "sample".
    holds
        Which uncertainties are in it: "parameters", "surrogate", of a stochastic simulator "realisation" (the observed
        run) or "new realisation", "discrepancy" when there is one and, when asked for, "noise".
    """

    mean: xr.Dataset
    sd: xr.Dataset
    draws: xr.Dataset
    holds: tuple[str, ...]

    def __repr__(self) -> str:
        head = f"Prediction after calibration, {self.draws.sizes.get('sample', 0)} draws: mean ± sd"
        return shown(f"{head} of {', '.join(self.holds)}", self.mean, self.sd)

    def __getitem__(self, name: str) -> NoReturn:
        """Raise: a prediction has a mean, an sd and draws of each output.

        Raises
        ------
        UnknownKeyError
            Always.
        """
        raise asked_by_key("prediction", name, map(str, self.mean.data_vars))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise missing(type(self), "A prediction", name, ELSEWHERE)

    def interval(self, prob: float = 0.95) -> xr.Dataset:
        """Return equal-tailed intervals of the draws, dim "bound" with "lower" and "upper".

        Raises
        ------
        InputError
            When `prob` is not between 0 and 1.
        """
        return equal_tailed(self.draws, prob)

    def functional(
        self, function: Callable[..., Any], output: str | None = None, dim: str | None = None, **options: Any
    ) -> FunctionalDraws:
        """Return draws of a number read off each curve: its peak, area, half-life or a function of your own.

        Parameters
        ----------
        function
            One of `uqms.functionals`, or `function(curves, dim, **options)` from a DataArray to one without `dim`.
        output
            Which; may be left out when one was predicted.
        dim
            The coordinate; may be left out when the output has one.
        **options
            Handed to the function, e.g. `threshold=2.0`.

        Raises
        ------
        InputError
            When output or dim must be named, or the function returns something else.

        Examples
        --------
        ``posterior.predict(conditions={"dose": [50, 100]}).functional(uq.functionals.peak).interval()``
        """
        names = [str(name) for name in self.draws.data_vars]
        if output is None and len(names) > 1:
            raise InputError(f"functional: which output? {names} were predicted; pass output=...")
        output = names[0] if output is None else output
        if output not in names:
            raise InputError(f"functional: {output!r} was not predicted, {names} were.")
        return read_off(self.draws[output], function, dim, options)


@final
@dataclass(frozen=True, eq=False)
class Grid:
    """Targets of one output on the outer product of conditions and coordinates."""

    output: str
    targets: Targets
    conditions: Mapping[str, Array]
    scalar: bool
    coords: Mapping[str, Array]

    def labelled(self, values: Array, lead: tuple[str, ...], unit: str) -> xr.DataArray:
        """Return values (..., P) with named dims."""
        sizes = [len(column) for column in self.coords.values()]
        count = len(self.targets.conditions)
        shaped = values.reshape(*values.shape[:-1], count, *sizes)
        labels = {name: ("condition", column) for name, column in self.conditions.items()}
        out = xr.DataArray(
            shaped,
            dims=(*lead, "condition", *self.coords),
            coords={**self.coords, **labels},
            name=self.output,
            attrs={"unit": unit},
        )
        return out.isel(condition=0) if self.scalar else out


def make_grid(
    model: DataModel,
    output: str,
    conditions: Mapping[str, object] | None,
    coords: Mapping[str, object] | None,
) -> Grid:
    """Return the targets of an output for conditions and coordinates that a user gave (None: all there are).

    Raises
    ------
    InputError
        Unknown or missing conditions or dims.
    ExtrapolationError
        Outside of what was simulated.
    """
    layout = model.surrogate.layouts[output]
    names = model.condition_names
    columns, scalar = _conditions(model, conditions)
    own = _own_experiments(model)
    axes = {dim: np.atleast_1d(np.asarray((coords or layout.coords)[dim], dtype=np.float64)) for dim in layout.dims}
    mesh = np.meshgrid(*axes.values(), indexing="ij")
    points = {dim: grid.ravel() for dim, grid in zip(axes, mesh, strict=True)}
    offset, basis, truncation = decoded_at(model.surrogate, output, points if layout.dims else None)
    count, p = len(columns), len(offset)
    targets = Targets(
        conditions=columns,
        experiment=np.repeat(np.arange(count), p),
        output=np.full(count * p, output),
        coords={dim: np.tile(column, count) for dim, column in points.items()},
        offset=np.tile(offset, count),
        basis=stacked([basis] * count),
        truncation=np.tile(truncation, (count, 1)),
        observed=own if conditions is None else None,
    )
    return Grid(output, targets, dict(zip(names, columns.T, strict=True)), scalar, axes)


def _own_experiments(model: DataModel) -> Ints:
    """Return the experiments that the problem itself observed, without those of other parts with its surrogate."""
    cells = model.cells
    return np.unique(cells.experiment[model.noise.own[cells.group]])


def _conditions(model: DataModel, given: Mapping[str, object] | None) -> tuple[Array, bool]:
    names = model.condition_names
    if given is None:
        own = _own_experiments(model)
        return model.cells.conditions[own], len(own) == 1
    if set(given) != set(names):
        raise InputError(
            f"predict: got conditions {sorted(given)}, the surrogate has {list(names)}. Give each of them."
        )
    arrays = [np.asarray(given[name], dtype=np.float64) for name in names]
    if any(array.ndim > 1 for array in arrays):
        raise DataError("predict: conditions are numbers or one-dimensional arrays of one length.")
    count = max((array.size for array in arrays), default=1)
    if any(array.size not in (1, count) for array in arrays):
        raise DataError(f"predict: conditions have lengths {[array.size for array in arrays]}; give one length.")
    columns = (
        np.column_stack([np.broadcast_to(array.ravel(), count) for array in arrays]) if names else np.zeros((1, 0))
    )
    check_conditions(model.surrogate, names, columns)
    return columns, all(array.ndim == 0 for array in arrays)
