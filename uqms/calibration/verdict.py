"""The checks of a verdict on the surrogate, the model and the data, each with a message and a remedy."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import numpy as np
from scipy.special import gammaln

from uqms._typing import Array, Ints
from uqms.calibration import _latent_outputs
from uqms.calibration.answer import check_prior_mass, covariance_left, log_priors, on_model_scale
from uqms.calibration.base import Piece, Problem
from uqms.calibration.checks import ORDER, Check, Sampled, Status, Verdict
from uqms.calibration.computation import check_modes, check_places
from uqms.calibration.context import Context, Linearised, evenly
from uqms.calibration.data_model import DataModel
from uqms.calibration.density import covariance_of, expected_outputs, noise_sd, prior_scale, slope_of_density
from uqms.calibration.direct import design_box, is_exact
from uqms.calibration.discrepancy import NOISE
from uqms.calibration.expansion import check_expansion
from uqms.calibration.link_errors import check_links_expansion
from uqms.calibration.markov import Chains, noise_of, only_noise
from uqms.calibration.misfit import NOTED, check_misfit, check_validation, rough_simulator
from uqms.calibration.progress import progress
from uqms.calibration.reweighting import DRAWS, error_weight, reweighted_finite
from uqms.calibration.scales import check_passed_on
from uqms.calibration.success import check_failures
from uqms.calibration.truncation import check_truncation
from uqms.surrogates.kernels import Matern52

if TYPE_CHECKING:
    from uqms.calibration.single import SingleCalibration

__all__ = [
    "Check",
    "Linear",
    "Sampled",
    "Verdict",
    "edge",
    "failed_runs",
    "first_order_expansion",
    "fisher_information",
    "linearise",
    "linearised",
    "misfit",
    "other_modes",
    "prior_mass",
    "residuals",
    "surrogate_error",
    "validation",
]

LINK_STEP = 1e-2  # of an error of a link, in its sds
SHARE_LIMIT = 0.5
HALVED = (0.25, 0.5, 0.75)  # of the variance of the surrogate's error; the first is half of its sd
DEPENDS = 1.0  # posterior sds that a mean moves by
EDGE, EDGE_MASS = 0.02, 0.01
AUTOCORRELATION_LEVEL = 0.005
STRUCTURE = "autocorrelated residuals"
TAIL_LEVEL, FEWEST_TAILED = 0.0025, 8  # of p, and cells of which outliers are looked for
TAILED, TAILED_SCALES = 3.0, np.geomspace(0.05, 1.0, 12)  # degrees of freedom; scales over the root mean square
TAILED_CONSTANT = float(
    gammaln(0.5 * (TAILED + 1.0))
    - gammaln(0.5 * TAILED)
    - 0.5 * math.log(math.pi * TAILED)
    + 0.5 * math.log(2 * math.pi)
)
SMOOTH = (0.3, 1.0)  # length scales of a discrepancy that the residuals are tested for, of each range
FEWEST_SMOOTH, CENTRES = 8, 100  # different places of an output for that test; centres of its low-rank covariance
SHARE_DRAWS, NULL_DRAWS = 200, 2000
LOCAL_DRAWS = 100
BLOCK = 4_000_000  # numbers in one array


def linearised(problem: Problem, sampled: Sampled) -> Linearised:
    """Return the problem linearised at a few of its draws; see `Linearised`."""
    theta, latents, h = sampled.theta, sampled.latents, sampled.h
    picked = evenly(len(h), LOCAL_DRAWS)
    some = {name: values[picked] for name, values in theta.items()}
    information = fisher_information(problem, some, h[picked])
    share = _share(problem, theta, h)
    few = problem.pieces(some, latents[picked], h[picked])
    local = _local_informations(problem, some, h[picked], conditions=True)
    left = [_given_others(i, local, few) for i in range(len(few))]
    return Linearised(share, [share[piece.columns] for piece in few], few, left, information)


def validation(context: Context, i: int) -> Check | None:
    """Judge the surrogate by its left-out errors near the posterior."""
    piece, linear = context.pieces[i], context.linear
    if linear.reason:
        return None
    return check_validation(piece.problem, piece.theta, np.nan_to_num(linear.shares[i]))


def residuals(context: Context, i: int) -> Sequence[Check]:
    """Judge whether residuals are independent and without outliers; subjects have their own, which are not pooled."""
    piece = context.pieces[i]
    return [] if piece.problem.individual else check_residuals(piece.problem, piece.theta, piece.latents)


def misfit(context: Context, i: int) -> Check | None:
    """Judge whether noise and surrogate explain the data."""
    linear = context.linear
    if linear.reason or linear.misfit is not None:
        return linear.misfit
    few = linear.few[i]
    return check_misfit(few.problem, few.theta, few.latents, few.h, linear.left[i])


def first_order_expansion(context: Context, i: int) -> Check | None:
    """Judge the closed form of outputs whose surrogate models a transform of them."""
    linear = context.linear
    if linear.reason or not linear.left:  # through features it costs more than the sampling
        return None
    few = linear.few[i]
    found = [check_expansion(few.problem, few.theta, few.h), check_links_expansion(few.problem, few.theta)]
    return max((one for one in found if one is not None), key=lambda one: one.value, default=None)


def truncation(context: Context, i: int) -> Check | None:
    """Judge what the basis of a curve leaves out."""
    linear = context.linear
    if linear.reason or not linear.left:  # through features it costs more than the sampling
        return None
    few = linear.few[i]
    model, u = few.problem.data_model, few.problem.unit_inputs(few.theta)
    return check_truncation(model, u, model.noise.phi(few.theta, (len(few.h),)), few.h)


def edge(context: Context, i: int) -> Check | None:
    """Judge whether the posterior leans on an end of the design box."""
    piece = context.pieces[i]
    if piece.problem.individual:
        return None
    found = _check_edge(piece.problem, piece.theta)
    first, *others = context.places.groups
    if found.status == "pass" or not others:
        return found
    chain = np.repeat(np.arange(context.returned.shape[0]), context.returned.shape[1])[context.finite]
    most = np.isin(chain, first)
    if _check_edge(piece.problem, {name: values[most] for name, values in piece.theta.items()}).status != "pass":
        return found
    remedy = (
        "Only chains that are apart from the others are near this end: see 'other modes' first. A wider design does "
        "not help."
    )
    return replace(found, remedy=remedy)


def prior_mass(context: Context, i: int) -> Check:
    """Judge what of prior and posterior, and of what links of a chain pass on there, nothing was simulated for."""
    piece = context.pieces[i]
    if design_box(piece.problem.surrogate) is None:
        return Check("prior mass cut", "pass", 0.0, "there is no box: the simulator itself was used")
    box, linked = check_prior_mass(piece.problem, piece.theta), check_passed_on(piece.problem, piece.theta)
    if linked is None:
        return box
    worst = min((box, linked), key=lambda one: ORDER.index(one.status))
    return replace(worst, message=f"{box.message}; {linked.message}")


def failed_runs(context: Context, i: int) -> Check | None:
    """Judge how much of the posterior lies where runs fail."""
    piece = context.pieces[i]
    problem = piece.problem
    allowed = problem.conditioned_prior.allowed.share if problem.failures == "impossible" else None
    return check_failures(problem.success, problem.simulated, piece.theta, context.problem.kind, allowed)


def other_modes(context: Context) -> list[Check]:
    """Judge whether chains sit in one place, and were wherever starting points found mass.

    The latter not of a population: its joint density with all effects is largest where spreads vanish, which is no
    mode.
    """
    if len(context.places.groups) > 1:
        return [check_places(context.places)]
    problem, sampled, density = context.problem, context.sampled, context.density
    if sampled.starts is None or density is None:
        return []
    starts = sampled.starts
    latents = starts.get("latents", np.zeros((len(next(iter(starts.values()))), 0)))
    starts = {name: values for name, values in starts.items() if name != "latents"}
    start_density = problem.log_likelihood(starts, latents) + np.sum(list(log_priors(problem, starts).values()), axis=0)
    start_density -= 0.5 * np.sum(latents**2, axis=1)
    draws, points = (np.column_stack(list(on_model_scale(problem, t).values())) for t in (sampled.theta, starts))
    return [check_modes(draws, density, points, np.nan_to_num(start_density, nan=-np.inf))]


def fisher_information(problem: Problem, theta: Mapping[str, Array], h: Ints) -> Array:
    """Return J' C^-1 J of the parameters (s, d, d), each in units of its prior's sd on the surrogate's scale.

    C holds noise, surrogate error and truncation. The prior's own information is the identity in these units. That of
    several parts, whose errors are independent, adds up.
    """
    d = len(problem.parameters)
    out = np.zeros((len(h), d, d))
    local = _local_informations(problem, theta, h)
    for piece, own in zip(problem.pieces(theta, None, h), local, strict=True):
        out[:, piece.columns[:, None], piece.columns] += own
    return out


def _local_informations(problem: Problem, theta: Mapping[str, Array], h: Ints, conditions: bool = False) -> list[Array]:
    """Return the information of each part on its own parameters; with `conditions` on its true conditions too."""
    found = [(one, _informations(one.problem, one.theta, one.h)[0]) for one in problem.pieces(theta, None, h)]
    return [own if conditions else _reduced(own, len(one.columns)) for one, own in found]


def _reduced(information: Array, d: int) -> Array:
    """Return the information (s, d, d) on the parameters, the true conditions behind them integrated out."""
    if information.shape[-1] == d:
        return information
    cross, own = information[:, :d, d:], information[:, d:, d:] + np.eye(information.shape[-1] - d)
    return np.asarray(information[:, :d, :d] - cross @ np.linalg.solve(own, cross.transpose(0, 2, 1)))


def _informations(problem: "SingleCalibration", theta: Mapping[str, Array], h: Ints) -> tuple[Array, Array]:
    """Return the information (s, d, d) with the surrogate's error, and without it; true conditions come last."""
    found, without = [], []
    problem = problem.with_few_cells()
    for rows in _blocks(problem.data_model, len(h)):
        linear = linearise(problem, {name: values[rows] for name, values in theta.items()}, h[rows])
        scaled = linear.jacobian * linear.prior_sd
        whole = np.concatenate([linear.factor, linear.extra], axis=2)
        transposed = scaled.transpose(0, 2, 1)
        found.append(transposed @ _solve(whole, scaled))
        without.append(transposed @ _solve(linear.extra, scaled))
    return np.concatenate(found), np.concatenate(without)


def _given_others(i: int, local: Sequence[Array], few: Sequence[Piece]) -> Array:
    """Return the information of part i in units of what prior and the other parts leave of its parameters.

    That of the others is summed: taking one's own off from all would leave rounding where it is very large.
    """
    own, columns = local[i], few[i].columns
    d, size = len(columns), 1 + max(int(piece.columns.max()) for piece in few)
    others = np.zeros((len(own), size, size))
    for j, (piece, one) in enumerate(zip(few, local, strict=True)):
        if j != i:
            others[:, piece.columns[:, None], piece.columns] += _reduced(one, len(piece.columns))
    root = np.tile(np.eye(own.shape[-1]), (len(own), 1, 1))  # no other part has anything on true conditions
    left = covariance_left(others, np.eye(size))
    root[:, :d, :d] = np.linalg.cholesky(left[:, columns[:, None], columns])
    return np.asarray(root.transpose(0, 2, 1) @ own @ root)


@final
@dataclass(frozen=True, eq=False)
class Linear:
    """The problem linearised at s values of its parameters; latent outputs in units of their noise.

    The cell means, divided by the sd of their independent noise or whitened by the noise that is a Markov chain, are
    jacobian @ parameters + (factor, extra) @ standard normals + standard normals; the parameters are in the unit cube
    and have standard deviations `prior_sd`. True conditions that are inferred come behind them.
    """

    jacobian: Array  # (s, N, d)
    factor: Array  # (s, N, r), of the surrogate's error
    extra: Array  # (s, N, e), of discrepancy and a stochastic simulator's runs
    prior_sd: Array  # (d,)
    noise_sd: Array  # (s, N), of the independent noise of the cells
    gain: Array  # (s, N), of the measured output by the latent output
    chains: Chains | None  # noise that is autocorrelated; cells are then whitened by it

    def whitened(self, rows: Array) -> Array:
        """Return rows (s, N, m) of latent outputs in the unit of the cells above."""
        if self.chains is not None:
            return self.chains.whiten(self.gain[:, :, None] * rows)
        return np.asarray((self.gain / self.noise_sd)[:, :, None] * rows)

    def independent(self, residual: Array) -> Array:
        """Return what residuals (s, N, m) say of the independent noise in units of its sd, E[noise | all noise]."""
        if self.chains is None:
            return residual
        return self.noise_sd[..., None] * self.chains.whiten_transposed(residual)


def _blocks(model: DataModel, count: int) -> list[slice]:
    """Return slices of `count` draws whose arrays fit into memory."""
    cells = model.cells
    n, k, q = len(cells.offset), cells.experiments, len(model.used)
    runs = int(getattr(model.surrogate, "runs", 100))
    latents = (
        k * cells.compressed.shape[1] if cells.by_input is not None else sum(one.shape[1] for one in cells.factors)
    )
    each = n * (q * k + latents + len(model.parameters)) + q * k * max(
        runs, q * k if model.correlated_scores or cells.by_input is not None else k
    )
    each += k * cells.basis.shape[1]
    if not only_noise(model):
        each += n * n  # covariance of discrepancy
    size = max(1, BLOCK // each)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def linearise(problem: "SingleCalibration", theta: Mapping[str, Array], h: Ints, limits: bool = True) -> Linear:
    """Return the problem linearised at s values of its parameters, each with a hyperparameter draw."""
    model, cells, box = problem.data_model, problem.cells, problem.surrogate.domain
    e, u = cells.experiment, problem.unit_inputs(theta)
    every = slice(None)
    columns: list[tuple[slice | int, int]] = [(every, box.names.index(name)) for name in problem.parameters]
    columns += [(k, box.names.index(problem.condition_names[place])) for k, place in problem.uncertain.values()]
    phi = model.noise.phi(theta, (len(h),))
    step = 1e-4
    jacobian = np.empty((len(h), len(e), len(columns)))
    for i, column in enumerate(columns):
        shift = np.zeros(u.shape[1:])
        shift[column] = step
        upper, lower = (model.joint_error(u + sign * shift).mean_given(h) for sign in (1.0, -1.0))
        jacobian[:, :, i] = (upper - lower) / (2.0 * step)
    law = model.joint_error(u).given(h)
    mean, factor = law.mean, law.factor
    if problem.link_errors:  # sampled errors of the surrogate, standard normal: its errors all the same
        linked = np.empty((*mean.shape, len(problem.link_errors)))
        for i, name in enumerate(problem.link_errors):
            ends = ({**theta, name: np.asarray(theta[name]) + sign * LINK_STEP} for sign in (1.0, -1.0))
            upper, lower = (model.joint_error(problem.unit_inputs(end)).mean_given(h) for end in ends)
            linked[:, :, i] = (upper - lower) / (2.0 * LINK_STEP)
        factor = np.concatenate([factor, linked], axis=2)
    extra, m, chains = np.zeros((*mean.shape, 0)), model.noise.scales(cells.group, phi), None
    slope = model.responded(m * mean)[1]
    gain = m * slope
    if model.noise.terms and only_noise(model):
        chains = noise_of(model).at(phi, model.responded(m * mean)[0])
    elif model.noise.terms:
        whole = covariance_of(model, phi, jacobian[:, :, : len(problem.parameters)], slope)
        whole[:, np.arange(len(e)), np.arange(len(e))] *= 1.0 + _latent_outputs.JITTER
        extra = _latent_outputs.roots(whole, True)
    for group, place in model.noise.factors.items():
        of_scale = np.where(cells.group == group, slope * mean, 0.0) * prior_scale(model.noise.settings[place])
        extra = np.concatenate([extra, of_scale[:, :, None]], axis=2)
    if model.realisation is not None:  # what a run of a stochastic simulator does is no error of the surrogate
        own = model.realisation.by_experiment(model.run_factor(u))
        extra = np.concatenate([extra, own * gain[:, :, None]], axis=2)
    sd = noise_sd(model, mean * m, phi, limits)
    prior = problem.unit_inputs(problem.prior_draws(4000, 0))
    spread = np.array([prior[:, 0 if k is every else k, column].std() for k, column in columns])
    if chains is not None:
        jacobian, factor = gain[:, :, None] * jacobian, gain[:, :, None] * factor
        return Linear(chains.whiten(jacobian), chains.whiten(factor), extra, spread, sd, gain, chains)
    unit = (gain / sd)[:, :, None]
    return Linear(jacobian * unit, factor * unit, extra / sd[:, :, None], spread, sd, gain, None)


def _solve(factor: Array, right: Array) -> Array:
    """Return (1 + factor factor')^-1 right, through the smaller side."""
    n, r = factor.shape[-2:]
    transposed = np.swapaxes(factor, -1, -2)
    if r < n:
        return np.asarray(right - factor @ np.linalg.solve(np.eye(r) + transposed @ factor, transposed @ right))
    return np.asarray(np.linalg.solve(np.eye(n) + factor @ transposed, right))


def linear_covariances(problem: Problem, theta: Mapping[str, Array], h: Ints) -> tuple[Array, Array]:
    """Return the covariance (d, d) that data leave of the parameters, and that without the surrogate's error.

    Of the problem linearised at a few of the draws, and averaged over them; parameters are those of the unit cube in
    units of their prior's sds.
    """
    picked = evenly(len(h), SHARE_DRAWS)
    prior = problem.conditioned_prior.correlation(problem.parameters)
    full, without = (np.zeros((len(picked), *prior.shape)) for _ in range(2))
    for piece in problem.pieces({name: values[picked] for name, values in theta.items()}, None, h[picked]):
        for total, own in zip((full, without), _informations(piece.problem, piece.theta, piece.h), strict=True):
            total[:, piece.columns[:, None], piece.columns] += _reduced(own, len(piece.columns))
    return covariance_left(full, prior).mean(axis=0), covariance_left(without, prior).mean(axis=0)


def _share(problem: Problem, theta: Mapping[str, Array], h: Ints) -> Array:
    """Return 1 - Var(without the surrogate's error) / Var(with it), for each parameter."""
    if has_no_error(problem):
        return np.zeros(len(problem.parameters))
    full, without = linear_covariances(problem, theta, h)
    return np.asarray(np.clip(1.0 - np.diagonal(without) / np.diagonal(full), 0.0, 1.0))


def _parts(problem: Problem) -> "list[SingleCalibration]":
    return list(problem.named_parts.values())


def has_no_error(problem: Problem) -> bool:
    """Return whether the simulator itself is used, at its own coordinates."""
    return all(is_exact(part.surrogate) and not part.cells.truncation.any() for part in _parts(problem))


def surrogate_error(context: Context) -> list[Check]:
    """Judge how much of the variance of parameters is due to the surrogate's error."""
    problem, share = context.problem, context.linear.share
    if problem.kind == "population":
        return []
    if has_no_error(problem):
        return [Check("surrogate error", "pass", 0.0, "none: the simulator itself was used")]
    worst = int(np.argmax(share))
    name = problem.parameters[worst]
    message = f"at most {share[worst]:.0%} of a parameter's variance ({name}), limit {SHARE_LIMIT:.0%}"
    remedy = (
        "Run more points near the posterior (uq.refine(posterior, n)), fit and calibrate again. The surrogate's error, "
        "not the measurement error, limits the precision."
    )
    if all(is_exact(part.surrogate) for part in _parts(problem)):
        remedy = (
            "Let the simulator return the observed coordinates themselves: interpolation between its coordinates, not "
            "the measurement error, limits the precision."
        )
    status: Status = "pass" if share[worst] <= SHARE_LIMIT else "warn"
    for part in _parts(problem) if status == "warn" else ():
        rough, smoothed = rough_simulator(part.data_model)
        remedy = f"{smoothed}: the simulator is rough, {rough}." if rough else remedy
    return [Check("surrogate error", status, float(share[worst]), message, remedy)]


def size_of_error(context: Context) -> list[Check]:
    """Judge how far any quantity depends on how large the surrogate's error is stated to be, truncation included.

    Noise and derived quantities too: a noise sd takes up what the surrogate's error does not. Draws are reweighted to
    the posterior with half the stated sd; where weights do not bear that, with more, and continued linearly.
    """
    problem, name = context.problem, "size of the surrogate's error"
    if problem.kind == "population" or has_no_error(problem):
        return []
    derived = {key: values for key, values in context.sampled.derived.items() if np.isfinite(values).all()}
    theta = {**context.sampled.theta, **derived}
    picked = evenly(len(next(iter(theta.values()))), DRAWS)
    some = {key: values[picked] for key, values in theta.items()}
    pieces = problem.pieces({key: values[picked] for key, values in context.sampled.theta.items()})
    for factor in HALVED:
        weights = [error_weight(piece.problem, piece.theta, factor, factor) for piece in pieces]
        known = [one for one in weights if one is not None]
        found = reweighted_finite(some, np.sum(known, axis=0)) if len(known) == len(weights) else None
        if found is None:
            return []
        if found.trusted:
            break
    else:
        message = (
            f"not judged: the posterior changes too much with {1.0 - HALVED[-1]:.0%} less of this error's variance"
        )
        remedy = (
            "Run more points near the posterior (uq.refine(posterior, n)). The surrogate's error, not the measurement "
            "error, limits the precision."
        )
        return [Check(name, "note", float("nan"), message, remedy)]
    worst, shift = found.furthest
    shift *= (1.0 - HALVED[0]) / (1.0 - factor)
    message = f"with half the stated sd of this error the mean of {worst} moves by {shift:+z.2f} sd, limit {DEPENDS:g}"
    remedy = (
        "Test the surrogate's error at the posterior, uq.verify(posterior, runs). Then correct it there, "
        "uq.correct(posterior, runs), or refine, uq.refine(posterior, n). The estimate of "
        f"{worst} depends on the stated error, which is one estimate for the whole design box."
    )
    status: Status = "warn" if abs(shift) > DEPENDS else "note" if abs(shift) > 0.5 * DEPENDS else "pass"
    return [Check(name, status, abs(shift), message, remedy)]


def _series(model: DataModel) -> list[Ints]:
    """Return runs of cells that follow each other along the one numeric coordinate of their output."""
    cells = model.cells
    series = []
    for k in range(cells.experiments):
        for group in dict.fromkeys(cells.group.tolist()):
            rows = np.flatnonzero((cells.experiment == k) & (cells.group == group))
            dims = model.surrogate.layouts[model.noise.outputs[group]].dims
            if len(dims) == 1 and len(rows) >= 4:
                series.append(rows[np.argsort(cells.coords[dims[0]][rows])])
    return series


def _lag_one(residual: Array, series: list[Ints]) -> Array:
    """Return the correlation (...) of standardised residuals (..., N) with their successors, pooled over the series."""
    first = residual[..., np.concatenate([rows[:-1] for rows in series])]
    second = residual[..., np.concatenate([rows[1:] for rows in series])]
    first = first - first.mean(axis=-1, keepdims=True)
    second = second - second.mean(axis=-1, keepdims=True)
    norm = np.sqrt(np.sum(first**2, axis=-1) * np.sum(second**2, axis=-1))
    return np.asarray(np.sum(first * second, axis=-1) / norm)


@final
@dataclass(frozen=True, eq=False)
class _Smooth:
    """Features of the smooth functions that a discrepancy could be: of each output's coordinates and conditions.

    Their squared projections are the score of a small discrepancy's variance (Lin 1997, doi:10.1093/biomet/84.2.309),
    whose covariance is the mean of Matérn-5/2 kernels with the length scales `SMOOTH` of each range.
    """

    names: tuple[str, ...]
    rows: list[Ints]
    features: list[Array]  # (n, m) by output; products approximate the covariance (Nyström)

    @classmethod
    def of(cls, model: DataModel) -> "_Smooth":
        names: dict[str, None] = {}
        found: list[Ints] = []
        features: list[Array] = []
        if any(term.role == NOISE for term in model.noise.terms):  # its residuals are judged along its series
            return cls((), found, features)
        for g in range(len(model.noise.outputs)):
            rows, sites = model.cells.sites(g, model.condition_names)
            varying = {
                name: (column - column.min()) / np.ptp(column)
                for name, column in sites.columns.items()
                if not np.isnan(column).any() and np.ptp(column) > 0.0
            }
            points = np.column_stack(list(varying.values())) if varying else np.zeros((1, 1))
            if len(np.unique(points, axis=0)) < FEWEST_SMOOTH:
                continue
            names |= dict.fromkeys(varying)
            found.append(rows)
            features.append(_smooth_features(points))
        return cls(tuple(names), found, features)

    def __call__(self, residual: Array) -> Array:
        """Return the score (...) of standardised residuals (..., N), whatever their size."""
        total = np.zeros(residual.shape[:-1])
        for rows, features in zip(self.rows, self.features, strict=True):
            some = residual[..., rows]
            total += np.sum((some @ features) ** 2, axis=-1) / np.sum(some**2, axis=-1)
        return total


def _smooth_features(points: Array) -> Array:
    """Return features (n, m) of the covariance between points (n, c) of the unit cube, m at most `CENTRES`."""
    places = np.unique(points, axis=0)
    centres = places[evenly(len(places), CENTRES)]

    def covariance(a: Array, b: Array) -> Array:
        lengths = (np.full(a.shape[1], ell) for ell in SMOOTH)
        return np.asarray(np.mean([Matern52().correlation(a, b, ell) for ell in lengths], axis=0))

    values, vectors = np.linalg.eigh(covariance(centres, centres))
    kept = values > 1e-8 * values[-1]
    return np.asarray(covariance(points, centres) @ (vectors[:, kept] / np.sqrt(values[kept])))


def check_residuals(
    problem: "SingleCalibration", theta: Mapping[str, Array], latents: Array | None = None
) -> list[Check]:
    """Compare three statistics of the estimated noise with what the model itself, with independent noise, gives.

    The lag-1 correlation along curves sees rough misfit, the score of a smooth discrepancy sees what curves and
    conditions have in common, and long tails show outliers. The noise is estimated from data minus prediction as
    E[noise | data]: what the surrogate's error and the parameters can explain, which is correlated along a curve, is
    taken out of the data and of the null's draws alike.
    """
    series, smooth = _series(problem.data_model), _Smooth.of(problem.data_model)
    tailed = problem.data_model.closed_form and len(problem.cells.offset) >= FEWEST_TAILED
    if not series and not smooth.rows:
        few = f"no curve with at least 4 observed coordinates, fewer than {FEWEST_SMOOTH} coordinates and conditions"
        checks = [Check(STRUCTURE, "pass", float("nan"), f"not judged: {few}")]
        if not tailed:
            return checks
    centre = {key: np.array([np.mean(values)]) for key, values in theta.items()}
    estimate, h = _estimated_noise(problem, centre, latents)
    linear = linearise(problem, centre, np.array([h]), limits=False)

    def statistics(residual: Array, without_parameters: Array) -> Array:
        lag = [_lag_one(residual, series)] if series else []
        found = [*lag, *([smooth(without_parameters)] if smooth.rows else [])]
        return np.stack([*found, *([_tails(without_parameters)] if tailed else [])], axis=-1)

    without = _without_parameters(linear, estimate)
    found = statistics(estimate, without)
    null = _null_statistics(linear, statistics)
    if not (np.isfinite(found).all() and np.isfinite(null).all()):
        return [Check(STRUCTURE, "pass", float("nan"), "not judged: the simulator fails at or near the posterior mean")]
    levels = np.mean(null >= found, axis=0)
    structured = slice(0, len(levels) - tailed)
    if series or smooth.rows:
        of_structure = _structure(bool(series), smooth.names, found[structured], null[:, structured])
        checks = [_check_structure(of_structure, float(levels[structured].min()), len(levels) - tailed)]
    if tailed:
        checks.append(_check_tails(problem.data_model, without, float(levels[-1])))
    return checks


def _structure(series: bool, names: tuple[str, ...], found: Array, null: Array) -> tuple[str, float]:
    """Return what is least likely of the model, in words and as a number."""
    levels = np.mean(null >= found, axis=0)
    if series and (len(levels) == 1 or levels[0] <= levels[1]):
        return f"lag-1 correlation {found[0]:.2f}", float(found[0])
    value = float(found[-1] / null[:, -1].mean())
    return f"smooth structure over {', '.join(names)}, {value:.1f} times the expected", value


def _check_structure(found: tuple[str, float], level: float, tests: int) -> Check:
    """Judge the smallest p of so many tests, each at a fraction of the level (Bonferroni)."""
    status: Status = "warn" if level <= AUTOCORRELATION_LEVEL / tests else "note" if level < NOTED / tests else "pass"
    message, value = found
    message += f", p = {max(level, 1.0 / NULL_DRAWS):.2g} for independent noise"
    remedy = (
        "Add a model discrepancy, or use a noise model with autocorrelation, and check the simulator's assumptions. "
        "Independent noise does not explain the residuals, so the intervals are too narrow."
    )
    if status == "note":
        remedy = (
            "Look at uq.plots.predictive(posterior) before you rely on the intervals: "
            f"only {NOTED:.0%} of correct models show so much correlation."
        )
    return Check(STRUCTURE, status, value, message, remedy)


def _tails(residual: Array) -> Array:
    """Return log-likelihood ratios of a Student and a normal law of residuals (..., N), at their best scales."""
    rms = np.sqrt(np.mean(residual**2, axis=-1, keepdims=True))
    square = (residual / np.maximum(rms, 1e-300)) ** 2
    n, best = residual.shape[-1], np.full(residual.shape[:-1], -np.inf)
    for scale in TAILED_SCALES:
        value = -0.5 * (TAILED + 1.0) * np.sum(np.log1p(square / (TAILED * scale**2)), axis=-1) - n * np.log(scale)
        best = np.maximum(best, value)
    return np.asarray(best + n * (0.5 + TAILED_CONSTANT))


def _check_tails(model: DataModel, residual: Array, level: float) -> Check:
    """Judge whether a few measurements lie much farther from the model than the others do."""
    cells, row = model.cells, int(np.argmax(np.abs(residual)))
    others = np.delete(residual, row)
    away = float(abs(residual[row]) / max(1.4826 * np.median(np.abs(others)), 1e-300))
    level = max(level, 1.0 / NULL_DRAWS)
    if level > TAIL_LEVEL:
        message = f"p = {level:.2g} for normal noise, limit {TAIL_LEVEL:g}"
        return Check("outliers", "pass", away, message)
    place = [f"{name} = {column[row]:g}" for name, column in cells.coords.items() if np.isfinite(column[row])]
    conditions = cells.conditions[cells.experiment[row]]
    place += [f"{name} = {value:g}" for name, value in zip(model.condition_names, conditions, strict=True)]
    where = f" at ({', '.join(place)})" if place else ""
    message = (
        f"the measurement of {str(cells.output[row])!r}{where} is {away:.1f} robust sds of the others from the model, "
        f"p = {level:.2g} for normal noise, limit {TAIL_LEVEL:g}"
    )
    remedy = (
        "Check these measurements, and use StudentTNoise(scale=uq.HalfNormal(...)), which tolerates outliers, or leave "
        "out what was measured wrongly. A few measurements that are far off move the estimates, or make an inferred "
        "noise sd too large."
    )
    return Check("outliers", "warn", away, message, remedy)


def _estimated_noise(
    problem: "SingleCalibration", centre: Mapping[str, Array], latents: Array | None
) -> tuple[Array, int]:
    """Return E[independent noise | data] (N,) in units of its sd at the posterior mean, and the hyperparameter draw.

    Where noise is not normal, data are replaced by the response of a scoring step at the posterior mean of the output.
    """
    if problem.data_model.closed_form:
        phi, values, alpha, _ = next(problem.log_likelihood_terms(centre))
        weights = np.exp(values[:, 0] - np.logaddexp.reduce(values[:, 0]))
        h = int(np.argmax(weights))
        outputs = expected_outputs(problem.data_model, problem.unit_inputs(centre), phi, np.array([h]))
        return noise_sd(problem.data_model, outputs, phi)[0] * (weights @ alpha[:, 0]), h
    assert latents is not None
    y, values = next(problem.latent_terms(centre, latents.mean(axis=0, keepdims=True)))
    h = int(np.argmax(values[:, 0]))
    linear = linearise(problem, centre, np.array([h]), limits=False)
    phi = problem.noise.phi(centre, (1,))
    flat, _ = problem.data_model.latent_outputs(problem.unit_inputs(centre), phi, np.zeros((1, problem.latents)))
    slope = slope_of_density(problem.data_model, y[h], phi)[0]
    step = slope * linear.noise_sd[0]  # working residual, in units of the noise
    working = (y[h, 0] - flat[h, 0]) / linear.noise_sd[0] + step
    factor = np.concatenate([linear.factor[0], linear.extra[0]], axis=1)
    return _solve(factor, working[:, None])[:, 0], h


def _without_parameters(linear: Linear, estimate: Array) -> Array:
    """Return the estimated noise (N,) without what another value of the parameters would explain.

    The posterior mean is not where the linearised problem has its own, and what is left of a parameter's effect is as
    smooth as a discrepancy.
    """
    errors = np.concatenate([linear.factor[0], linear.extra[0]], axis=1)
    working = estimate + errors @ (errors.T @ estimate)
    whole = np.concatenate([errors, linear.jacobian[0] * linear.prior_sd], axis=1)
    return _solve(whole, working[:, None])[:, 0]


def _null_statistics(linear: Linear, statistics: Callable[[Array, Array], Array]) -> Array:
    """Return statistics of the estimated noise of data that the linearised problem draws."""
    factor = np.concatenate([linear.factor[0], linear.extra[0], linear.jacobian[0] * linear.prior_sd], axis=1)
    n, r = factor.shape
    rng = np.random.default_rng(0)
    found = []
    with progress(NULL_DRAWS, "residuals of simulated data") as bar:
        for start in range(0, NULL_DRAWS, size := max(1, BLOCK // n)):
            count = min(size, NULL_DRAWS - start)
            data = factor @ rng.standard_normal((r, count)) + rng.standard_normal((n, count))
            estimate = linear.independent(_solve(factor, data)[None])[0].T
            found.append(statistics(estimate, estimate))
            bar.update(count)
    return np.concatenate(found)


def _check_edge(problem: "SingleCalibration", theta: Mapping[str, Array]) -> Check:
    box = design_box(problem.surrogate)
    if box is None:
        return Check("edge of the design box", "pass", 0.0, "there is no box: the simulator itself was used")
    unit = problem.unit_inputs({name: theta[name] for name in problem.parameters})[:, 0, :]
    worst, where = 0.0, ""
    for name in problem.parameters:
        column = box.names.index(name)
        hard_low, hard_high = _prior_ends(problem, name)
        low = 0.0 if hard_low else float(np.mean(unit[:, column] < EDGE))
        high = 0.0 if hard_high else float(np.mean(unit[:, column] > 1.0 - EDGE))
        if max(low, high) > worst:
            worst, where = max(low, high), f"{'lower' if low > high else 'upper'} end of {name}"
    message = f"at most {worst:.1%} of the draws within 2 % of an edge" + (f" ({where})" if where else "")
    remedy = (
        "If values beyond are possible, widen the prior there, run a design over it and calibrate again. Many draws "
        f"are at the {where}, beyond which nothing was simulated."
    )
    status: Status = "pass" if worst <= EDGE_MASS else "warn"
    if status == "warn" and problem.outside == "refined":
        status = "fail"  # the prior goes on beyond this box: here it is the runs that end, not what is known before
        remedy = (
            "Refine again, uq.refine(posterior, n), which moves the box, and calibrate again. The box of the last "
            f"refinement cuts the posterior off at the {where}."
        )
    return Check("edge of the design box", status, worst, message, remedy)


def _prior_ends(problem: "SingleCalibration", name: str) -> tuple[bool, bool]:
    """Whether the prior ends at or within the box's lower and upper end, so that nothing lies beyond.

    That of the calibration counts: it may be wider than the prior that the design was made for.
    """
    box = problem.surrogate.domain
    index = box.names.index(name)
    ends = zip(problem.space.priors[name].support, (box.lower[index], box.upper[index]), (1.0, -1.0), strict=True)
    low, high = (inwards * (end - edge) >= 0.0 or math.isclose(end, edge) for end, edge, inwards in ends)
    return low, high
