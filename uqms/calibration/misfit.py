"""Checks of the model: whether surrogate and noise, with their stated errors, explain runs and measurements.

==========  ===================================================================  ===========
symbol      meaning                                                              shape
==========  ===================================================================  ===========
r           cell means less prediction                                           (N,)
C           covariance of the cell means: surrogate's error, truncation, noise   (N, N)
T           r' C^-1 r, chi-square with N degrees of freedom at the true theta    ()
lambda      eigenvalues of the Fisher information in units of the prior's sds    (d,)
==========  ===================================================================  ===========

At the posterior mean of a linear problem T is chi-square with N - d degrees of freedom plus sum_i chi-square_1 /
(1 + lambda_i); over posterior draws it is larger by sum_i lambda_i / (1 + lambda_i) on average, which is taken off of
its mean.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.stats import chi2

from uqms._typing import Array, Ints
from uqms.calibration.checks import Check
from uqms.calibration.context import evenly
from uqms.calibration.data_model import DataModel
from uqms.calibration.density import draw_rows, expected_outputs, noise_sd, row_terms, total
from uqms.calibration.likelihood import dense
from uqms.calibration.reweighting import error_scaled
from uqms.parameters.functions import NumPyFunctions
from uqms.surrogates.gp import GaussianProcessSurrogate, shares
from uqms.surrogates.local import LocalErrors, local_errors, nearest_runs
from uqms.surrogates.roughness import ROUGH, Roughness, roughness

if TYPE_CHECKING:
    from uqms.calibration.single import SingleCalibration

__all__ = ["NOTED", "check_misfit", "check_validation", "explained", "rough_simulator"]

MISFIT_LEVEL, OVERFIT_LEVEL = 0.005, 0.0025
SUBJECT_LEVEL = 0.0025  # of p, of one subject among all
NOTED = 0.05  # of p: between it and the level a check is a note
VALIDATION_LEVEL = 0.0025
MATTERS = 0.1  # fraction of a parameter's variance that the surrogate's error has, where draws cannot be reweighted
SHIFT, SCALE = 0.1, 0.1  # of a mean in sds, and of an sd, relative, with the surrogate's error as the runs show it
SCORES = 3  # at most, in which a scatter is looked for
LOUD = 0.5  # of the scatter over the noise of all that is measured at an input
NULL_DRAWS = 20_000
LEFT = 3.0  # degrees of freedom
SMALLEST = 1e-4  # factor of a variance
POINTS = 64
REPLICATES = 8  # of the data, for each posterior draw


def check_misfit(
    problem: "SingleCalibration", theta: Mapping[str, Array], latents: Array, h: Ints, information: Array
) -> Check:
    """Compare T with its distribution, which depends on the fitted parameters and on their priors.

    Unknown noise adapts to any misfit unless replicates determine it, so the check is about noise that is known or
    repeated. With replicates their scatter around the cell means is compared with the noise too.
    """
    if not problem.data_model.closed_form:
        return _check_density(problem, theta, latents, h)
    cells = problem.cells
    distances, error, scatter = _distances(problem, theta, h)
    null, excess = _null_distances(len(cells.offset), information, error)
    if problem.individual:
        at_subject = _subject_apart(cells.unit[cells.experiment], distances, excess)
        if at_subject.p < SUBJECT_LEVEL and at_subject.others >= MISFIT_LEVEL:
            return _one_subject(problem, at_subject)
    at = float(np.searchsorted(null, distances.sum() - excess)) / len(null)  # levels of draws would be averaged
    levels, lows = [1.0 - at], [at]
    freedom = len(cells.z) - len(cells.offset)
    if freedom > 0:
        levels.append(float(np.mean(chi2.sf(scatter, freedom))))
        lows.append(float(np.mean(chi2.cdf(scatter, freedom))))
    p = min(1.0, len(levels) * min(levels))
    low = min(1.0, len(lows) * min(lows))
    shown = max(p, 1.0 / len(null))
    if p < MISFIT_LEVEL:
        message = f"p = {shown:.2g}: surrogate error and noise do not explain the distance of data and model"
        remedy = (
            "Infer the noise sd, GaussianNoise(sd=uq.HalfNormal(...)), unless uq.plots.predictive(posterior) shows a "
            "pattern; then add a discrepancy. The measurements scatter more than is stated, or the model lacks a "
            "process: the intervals are too narrow until the cause is found."
        )
        return Check("predictive misfit", "warn", p, message, remedy)
    # With as many parameters as measurements the fit is close whatever the noise.
    if low < OVERFIT_LEVEL and len(cells.offset) - excess >= LEFT:
        message = f"p = {low:.2g}: the measurements are closer to the model than the noise sd implies"
        remedy = (
            "Correct the noise sd, or infer it, GaussianNoise(sd=uq.HalfNormal(...)): it is too large (a variance "
            "given as sd, or another unit), so the intervals are too wide."
        )
        return Check("predictive misfit", "warn", p, message, remedy)
    return explained(p, shown)


class _Apart(NamedTuple):
    """The subject whose measurements are least likely, the probability of any as unlikely, and that of the others."""

    unit: int
    p: float
    others: float


def _subject_apart(unit: Ints, distances: Array, excess: float) -> _Apart:
    """Return the subject whose part of T is the least likely.

    Each has chi-square parts with as many degrees of freedom as it has cells, less its share of what parameters take up
    (of all subjects `excess`, by which posterior draws have more too). Where subjects share the surrogate's error the
    parts are not independent, but add up to T.
    """
    count = np.bincount(unit)
    own = np.bincount(unit, distances)
    taken = excess * count / max(len(unit), 1)
    levels = np.where(count > 0, chi2.sf(own - taken, np.maximum(count - taken, 0.5)), 1.0)
    worst = int(np.argmin(levels))
    rest = np.arange(len(count)) != worst
    others = chi2.sf(np.sum((own - taken)[rest]), max(float(np.sum((count - taken)[rest])), 0.5))
    return _Apart(worst, min(1.0, int(np.count_nonzero(count)) * float(levels[worst])), float(others))


def _one_subject(problem: "SingleCalibration", apart: _Apart) -> Check:
    cells = problem.cells
    row = int(np.flatnonzero(cells.unit[cells.experiment][cells.row_cell] == apart.unit)[0])
    name = str(problem.observations.subject[row])
    message = (
        f"p = {max(apart.p, 1e-12):.2g}: surrogate error and noise do not explain the measurements of subject {name!r}"
    )
    remedy = (
        f"Look at subject {name!r} by itself, uq.plots.individual_fits(posterior, subjects=[{name!r}]), and calibrate "
        "without it unless its units, doses or the noise explain it. A subject for which the simulator does not hold "
        "moves what describes all."
    )
    return Check("predictive misfit", "warn", apart.p, message, remedy)


def explained(p: float, shown: float) -> Check:
    """Return the check of a model that explains the data, with a note where few correct models fit worse."""
    return Check(
        "predictive misfit",
        "note" if p < NOTED else "pass",
        p,
        f"p = {shown:.2g} that a correct model fits worse, limit {MISFIT_LEVEL:g}",
        "Look at uq.plots.predictive(posterior) before you rely on the intervals: "
        f"only {NOTED:.0%} of correct models fit as badly.",
    )


def _check_density(problem: "SingleCalibration", theta: Mapping[str, Array], latents: Array, h: Ints) -> Check:
    """Compare the log-density of the data given the latents with that of data drawn from the same draws.

    Posterior draws have seen the data, so the p-value is drawn towards one half: it warns late rather than wrongly.
    Gelman, Meng & Stern (1996), Statistica Sinica 6:733.
    """
    cells, rng = problem.cells, np.random.default_rng(0)
    phi = problem.noise.phi(theta, (len(h),))
    y = problem.data_model.latent_outputs(problem.unit_inputs(theta), phi, latents)[0][h, np.arange(len(h))]
    with np.errstate(all="ignore"):
        own = total(row_terms(cells, problem.noise, y, phi, cells.z, NumPyFunctions), y.ndim)
        below = []
        for i in range(len(h)):
            drawn = draw_rows(cells, problem.noise, np.repeat(y[i : i + 1], REPLICATES, 0), phi[[i] * REPLICATES], rng)
            for values in drawn:
                other = problem.data_model.cells_of(values)
                terms = row_terms(other, problem.noise, y[i], phi[i], other.z, NumPyFunctions)
                below.append(total(terms, 1) <= own[i])
    p = float(np.mean(below))
    shown = max(p, 1.0 / len(below))
    if p >= MISFIT_LEVEL:
        return explained(p, shown)
    message = f"p = {shown:.2g}: the measurements are less likely than data that the model simulates"
    remedy = (
        "Look at uq.plots.predictive(posterior). Possible causes are a wrong unit, an outlier, noise that is too "
        "small, or a model that lacks a process: then add a discrepancy. The intervals are too narrow until the cause "
        "is found."
    )
    return Check("predictive misfit", "warn", p, message, remedy)


def _distances(problem: "SingleCalibration", theta: Mapping[str, Array], h: Ints) -> tuple[Array, float, Array]:
    """Return each cell's part of T, averaged over draws (N,), the average's Monte Carlo error, and scatter (s,).

    The last is each draw's squared scatter of replicates in units of the noise.
    """
    cells = problem.cells
    deviation = (cells.z - cells.cell_mean[cells.row_cell]) ** 2 / cells.row_variance
    by_group = np.bincount(cells.group[cells.row_cell], deviation, minlength=int(cells.group.max()) + 1)
    distances, scatter = [], []
    start = 0
    for sigma, _, alpha, _ in problem.log_likelihood_terms(theta):
        rows = slice(start, start + len(sigma))
        start += len(sigma)
        at = np.arange(len(sigma))
        u = problem.unit_inputs({name: values[rows] for name, values in theta.items()})
        predicted, _ = cells.responded(expected_outputs(problem.data_model, u, sigma, h[rows]))
        residual = cells.cell_mean - predicted
        distances.append(residual * alpha[h[rows], at])
        repeated = np.flatnonzero(by_group)
        scatter.append(np.sum(by_group[repeated] / sigma[:, repeated] ** 2, axis=1))
    parts = np.concatenate(distances)
    error = float(np.std(parts.sum(axis=1))) / math.sqrt(len(parts))
    return parts.mean(axis=0), error, np.concatenate(scatter)


def _null_distances(n: int, information: Array, error: float) -> tuple[Array, float]:
    """Return sorted draws of T at the posterior mean, and what posterior draws have more on average.

    The former have the Monte Carlo error of an average of T over few draws: where the data leave nothing of as many
    parameters as there are measurements, it is larger than T at the posterior mean.
    """
    values = np.maximum(np.linalg.eigvalsh(information.mean(axis=0))[::-1][:n], 0.0)
    rng = np.random.default_rng(0)
    null = rng.chisquare(1.0, (NULL_DRAWS, len(values))) @ (1.0 / (1.0 + values))
    if n > len(values):
        null = null + rng.chisquare(n - len(values), NULL_DRAWS)
    null += error * rng.standard_normal(NULL_DRAWS)
    return np.sort(null), float(np.sum(values / (1.0 + values)))


def check_validation(problem: "SingleCalibration", theta: Mapping[str, Array], share: Array) -> Check | None:
    """Compare leave-one-out errors of the runs nearest to the posterior with their distribution; None without them.

    Errors of another size than the surrogate states warn where that would change the posterior: draws are reweighted to
    the posterior with variances as the runs show them, score by score. Where they cannot be, the fraction `share` of
    the surrogate's error in each parameter's variance, of the linearised problem, decides.
    """
    name, surrogate = "surrogate validation", problem.surrogate
    if not isinstance(surrogate, GaussianProcessSurrogate):
        return None
    count = len(next(iter(theta.values())))
    picked = evenly(count, POINTS)
    u = problem.unit_inputs({key: theta[key][picked] for key in problem.parameters})
    near = nearest_runs(surrogate, u[:, evenly(u.shape[1], POINTS)].reshape(-1, surrogate.domain.d))
    found = local_errors(surrogate, near, problem.cells.used)
    if found is None:
        return Check(
            name, "pass", float("nan"), "not judged: too few runs to compare the errors with their distribution"
        )
    larger, smaller = found.p < VALIDATION_LEVEL, found.p_least < VALIDATION_LEVEL
    if not larger and not smaller:
        every = _errors_of_all(surrogate, problem.cells.used, found)
        if every is not None:
            found, near = every, np.arange(surrogate.runs)
            larger, smaller = found.p < VALIDATION_LEVEL, found.p_least < VALIDATION_LEVEL
    ratio, p = (found.least, found.p_least) if smaller and not larger else (found.ratio, found.p)
    message = (
        f"leave-one-out errors of {'all' if len(near) == surrogate.runs else 'the'} {len(near)} runs"
        f"{'' if len(near) == surrogate.runs else ' nearest to the posterior'} are {np.sqrt(ratio):.2g} times the "
        f"stated errors, p = {max(p, 1e-12):.2g}"
    )
    if not larger and not smaller:
        scatters = _scatters(problem.data_model)
        loud = _size_in_data(problem, {key: values[picked] for key, values in theta.items()}, scatters)
        if loud <= LOUD:
            return Check(name, "pass", ratio, message)
        rough, smoothed = _told(scatters)
        message += f"; the simulator is rough, {rough}, and in the data it is {loud:.2g} times the noise"
        return Check(name, "warn", ratio, message, f"{smoothed}.")
    matters, words = _effect(problem, theta, found.ratios, ratio, float(share.max()))
    message += f"; {words}"
    if larger:
        remedy = (
            "Run more points near the posterior (uq.refine(posterior, n)), or try another kernel: the surrogate "
            "understates its error there. Look at uq.leave_one_out(surrogate)."
        )
        rough, smoothed = rough_simulator(problem.data_model) if matters else ("", "")
        remedy = f"{smoothed}: the simulator is rough, {rough}." if rough else remedy
        return Check(name, "warn" if matters else "note", ratio, message, remedy)
    remedy = (
        "Narrow the box (uq.refine(posterior, n)), or correct the error, uq.correct(posterior, runs). The stated error "
        f"is {1.0 / np.sqrt(max(ratio, 1e-12)):.2g} times the actual one, so intervals are too wide and an inferred "
        "noise sd is too small."
    )
    return Check(name, "warn" if matters else "pass", ratio, message, remedy)


def _errors_of_all(surrogate: GaussianProcessSurrogate, scores: Ints, near: LocalErrors) -> LocalErrors | None:
    """Return the errors of all runs where they are off, and those near the posterior point the same way.

    None where they are as stated, or those near the posterior are not off by at least half as much (of the logarithm).
    """
    every = local_errors(surrogate, np.arange(surrogate.runs), scores)
    if every is None:
        return None
    if every.p < VALIDATION_LEVEL:
        return every if near.ratio > math.sqrt(every.ratio) else None
    return every if every.p_least < VALIDATION_LEVEL and near.least < math.sqrt(every.least) else None


def _scatters(model: DataModel) -> list[Roughness]:
    """Return how the runs scatter around a smooth function, for each score in which they do.

    The scores that are looked at are the largest of their outputs.
    """
    surrogate = model.surrogate
    if not isinstance(surrogate, GaussianProcessSurrogate) or surrogate.physics is not None:
        return []
    largest = model.used[np.argsort(-shares(surrogate.bases)[model.used], kind="stable")][:SCORES]
    return [one for one in roughness(surrogate.process, largest) if one.gain > ROUGH]


def _size_in_data(problem: "SingleCalibration", theta: Mapping[str, Array], found: Sequence[Roughness]) -> float:
    """Return the sd of a run's scatter divided by that of the combined noise of all measurements at its input.

    The scatter moves an estimate by at most so many of its sds. For several inputs the root mean square is returned.
    """
    if not found:
        return 0.0
    model, count = problem.data_model, len(next(iter(theta.values())))
    cells, phi = model.cells, model.noise.phi(theta, (count,))
    y = expected_outputs(model, problem.unit_inputs(theta), phi, np.zeros(count, dtype=np.int64))
    slope = cells.responded(y)[1] * model.noise.scales(cells.group, phi)
    scatter = dense(cells.basis)[:, [one.score for one in found]] * np.array([one.sd for one in found])
    square = np.sum(scatter**2, axis=1) * (slope / noise_sd(model, y, phi, limits=False)) ** 2
    return math.sqrt(float(np.mean(square.sum(axis=1))) / cells.experiments)


def rough_simulator(model: DataModel) -> tuple[str, str]:
    """Return in words how the runs scatter around a smooth function, and what to do; both "" where they do not."""
    stated = getattr(model.surrogate, "attrs", {}).get("scatter")
    if stated:
        return stated, "Make the solver more accurate; more runs do not lower the scatter"
    scatters = _scatters(model)
    return _told(scatters) if scatters else ("", "")


def _told(scatters: Sequence[Roughness]) -> tuple[str, str]:
    """Return the clearest scatter in words, and what to do."""
    found = max(scatters, key=lambda one: one.gain)
    words = f"a scatter of {found.scatter:.1%} of the sd of its runs makes them {found.gain:.1f} nats more likely"
    remedy = (
        "Fit with uq.GaussianProcess(noise='auto'), which states the scatter as an error, or make the solver more "
        "accurate; more runs alone do not help"
    )
    return words, remedy


def _effect(
    problem: "SingleCalibration", theta: Mapping[str, Array], ratios: Array, ratio: float, share: float
) -> tuple[bool, str]:
    """Return whether the posterior is another one with errors as the runs show them, and how far it moves in words."""
    moved = error_scaled(problem, theta, np.maximum(ratios, SMALLEST))
    if moved is None:
        inflated = share * ratio / (1.0 + share * (ratio - 1.0))
        words = f"errors of that size would be {inflated:.0%} of a parameter's variance"
        return max(inflated, share) > MATTERS, words
    if not moved.trusted:
        return True, f"with errors of that size the posterior changes too much to reweight (k-hat {moved.k_hat:.2f})"
    (first, shift), (second, scale) = moved.furthest, moved.scaled_most
    words = (
        f"with errors of that size the mean of {first} moves by {shift:+z.2f} sd and the sd of {second} becomes "
        f"{scale:.2f} times as large"
    )
    return abs(shift) > SHIFT or abs(scale - 1.0) > SCALE, words
