"""The verdict on the posterior of a population.

==========  ===================================================================  ===========
symbol      meaning                                                              shape
==========  ===================================================================  ===========
D           quantities of the population, then standard normal effects           ()
J           derivative of the cell means by them, each in units of its prior sd  (s, N, D)
C           covariance of the cell means, with or without the surrogate's error  (s, N, N)
==========  ===================================================================  ===========

Around a posterior draw the problem is linear: the posterior's precision is 1 + J' C^-1 J, and what the surrogate's
error adds to the variance of a quantity of the population is its share, with the effects integrated out.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu
from scipy.stats import chi2

from uqms._typing import Array, Ints
from uqms.calibration.answer import check_ends, ends_of
from uqms.calibration.checks import Check, Sampled, Status
from uqms.calibration.context import Context, Linearised, evenly
from uqms.calibration.direct import design_box, is_exact
from uqms.calibration.joint_error import means_given
from uqms.calibration.likelihood import dense
from uqms.calibration.misfit import MISFIT_LEVEL, explained
from uqms.calibration.population.layout import from_natural
from uqms.calibration.population.lowrank import ragged
from uqms.calibration.population.shared_error import QUANTILE
from uqms.calibration.population.subject_prediction import noise_of_scores, some_inputs
from uqms.calibration.predict import data_moments
from uqms.calibration.verdict import EDGE, SHARE_LIMIT
from uqms.surrogates.outputs import Decoder

if TYPE_CHECKING:
    from uqms.calibration.population.calibration import PopulationCalibration

__all__ = [
    "edge_of_subjects",
    "end_of_a_prior",
    "joint_error",
    "linearised",
    "prior_dominated",
    "prior_sd_of",
    "subjects",
    "surrogate_error",
]

FEW_SUBJECTS = 5
SUBJECT_EDGE_MASS = 0.05  # of a subject's draws: it is one of many
CONTRACTION, WIDER = 0.1, -0.25  # of spreads, whose own scale is skew: a quarter more variance than the prior's
DRAWS, FEATURED, NUMBERS = 40, 12, 20_000_000
FEATURES_LIMIT = 0.1  # of a variance: 5 % of a sd
STEP = 1e-4


def linearised(problem: "PopulationCalibration", sampled: Sampled) -> Linearised:
    """Return the problem linearised at a few of its draws, effects integrated out; see `Linearised`."""
    theta, z, h = sampled.theta, sampled.latents, sampled.h
    names = problem.parameters
    n, D = len(problem.data.cells.offset), len(names) + problem.layout.size
    count = FEATURED if problem.lowrank is not None else min(DRAWS, NUMBERS // (n * (n + D)))
    if count < 1:
        reason = "too many measurements to compute its fraction of the variance, and to check misfit and ends of priors"
        return Linearised(np.full(len(names), np.nan), reason=reason)
    picked = evenly(len(z), count)
    some = {name: values[picked] for name, values in theta.items()}
    few = problem.pieces(some, z[picked], h[picked])
    if problem.lowrank is not None:
        variances, misfit = _through_features(problem, some, z[picked], h[picked])
        share = _share(problem, variances)
        return Linearised(share, [share], few, variances=variances[0], misfit=misfit)
    information, variances = _information(problem, some, z[picked], h[picked])
    share = _share(problem, variances)
    return Linearised(share, [share], few, [information], variances=variances[0])


def _population(context: Context) -> "PopulationCalibration | None":
    """Return the problem where it is one of a population."""
    return cast("PopulationCalibration", context.problem) if context.problem.kind == "population" else None


def surrogate_error(context: Context) -> list[Check]:
    """Judge how much of the variance of population parameters is due to the surrogate's error."""
    problem, linear = _population(context), context.linear
    if problem is None:
        return []
    if linear.reason:
        return [Check("surrogate error", "note", np.nan, f"not judged: {linear.reason}")]
    return [_check_share(problem, list(problem.parameters), linear.share)]


def edge_of_subjects(context: Context, i: int) -> Check | None:
    """Judge whether subjects lean on an end of the design box."""
    problem = _population(context)
    return None if problem is None else _check_edge(problem, context.pieces[i].theta)


def joint_error(context: Context) -> list[Check]:
    """Judge the joint error of the surrogate through features against the exact one."""
    problem = _population(context)
    if problem is None or problem.lowrank is None:
        return []
    picked = evenly(len(context.sampled.latents), FEATURED)
    some = {name: values[picked] for name, values in context.sampled.theta.items()}
    return [_check_features(problem, some, context.sampled.latents[picked], context.sampled.h[picked])]


def subjects(context: Context) -> list[Check]:
    """Judge whether there are enough subjects to estimate how they differ."""
    problem = _population(context)
    return [] if problem is None else [_check_subjects(problem)]


def prior_dominated(context: Context) -> list[Check]:
    """Judge whether the data inform each population parameter beyond its prior."""
    problem = _population(context)
    return [] if problem is None else [_check_prior(problem, context.sampled.theta)]


def end_of_a_prior(context: Context) -> list[Check]:
    """Judge whether data put what describes a population beyond an end of its prior."""
    problem, variances = _population(context), context.linear.variances
    if variances is None or problem is None:
        return []
    return [_check_ends(problem, context.sampled.theta, variances)]


def _information(
    problem: "PopulationCalibration", theta: Mapping[str, Array], z: Array, h: Ints
) -> tuple[Array, Array]:
    """Return J' C^-1 J (s, D, D), and the variances left of the population with the surrogate's error and without."""
    data, draws = problem.data, np.arange(len(z))
    jacobian = _dense(*_jacobian(problem, theta, z, h), problem.layout.size)
    own = problem.individuals(theta, z)
    found = []
    for errors in (True, False):
        *_, covariances = data_moments(data, own, errors)
        C = np.stack(covariances)[h, draws]
        found.append(jacobian.transpose(0, 2, 1) @ np.linalg.solve(C, jacobian))
    size = len(problem.population.priors)
    at, one = np.arange(size), np.eye(jacobian.shape[2])
    return found[0], np.stack([np.linalg.inv(one + info)[:, at, at].mean(axis=0) for info in found])


def _share(problem: "PopulationCalibration", variances: Array) -> Array:
    """Return the fraction of each population quantity's variance that is due to the surrogate's error."""
    if is_exact(problem.surrogate):
        return np.zeros(variances.shape[1])
    return np.asarray(np.clip(1.0 - variances[1] / variances[0], 0.0, 1.0))


def _through_features(
    problem: "PopulationCalibration", theta: Mapping[str, Array], z: Array, h: Ints
) -> tuple[Array, Check]:
    """Return the variances as `_information` does, and the check of misfit, at a cost linear in the subjects.

    C = B + F F' with B one block an input, and the effects' part of J has one block per subject: with W' W = B^-1, the
    posterior's precision is 1 + (W J)' W J, which is sparse, less something of the rank of the features.
    """
    data, cells, draws = problem.data, problem.data.cells, np.arange(len(z))
    assert problem.lowrank is not None
    error = problem.lowrank.error
    hyper, rest, places = _jacobian(problem, theta, z, h)
    own = problem.individuals(theta, z)
    u = data.unit_inputs(own)
    mean, phi, rho = (one[h, draws] for one in error.at(u))
    N, H, size = len(cells.offset), hyper.shape[2], problem.layout.size
    decoder = _rows(problem, u, h)
    cell, here = ragged(cells.experiment, cells.experiments)
    predicted = decoder.offset + np.einsum("snq,snq->sn", mean[:, cells.experiment], decoder.basis)
    residual, sds = cells.cell_mean - predicted, data.noise.sds(cells.group, data.noise.phi(own, (len(z),)), predicted)
    owner = _owners(problem)
    variances, distances, excess = np.zeros((2, H)), [], []
    for s in draws:
        D, G, E = sds[s] ** 2 / cells.weight, decoder.basis[s], decoder.truncation[s][cell]
        B = error.own_times(rho[s], G[cell]) @ G[cell].transpose(0, 2, 1) + E @ E.transpose(0, 2, 1)
        B = B * (here[:, :, None] & here[:, None, :])
        at = np.arange(here.shape[1])
        B[:, at, at] += np.where(here, D[cell], 1.0)
        inverse = np.linalg.inv(np.linalg.cholesky(B))
        both = here[:, :, None] & here[:, None, :]
        rows, columns = (np.broadcast_to(one, both.shape)[both] for one in (cell[:, :, None], cell[:, None, :]))
        W = sparse.csr_matrix((inverse[both], (rows, columns)), shape=(N, N))
        J = sparse.hstack(
            [
                sparse.csr_matrix(
                    (rest[s].ravel(), (np.repeat(np.arange(N), places.shape[1]), places.ravel())), shape=(N, size)
                ),
                sparse.csr_matrix(hyper[s]),
            ]
        ).tocsr()
        F = error.loadings(G, phi[s, cells.experiment])
        WJ, WF, Wr = (W @ J).tocsr(), W @ F, W @ residual[s]
        A = np.eye(WF.shape[1]) + WF.T @ WF
        root = np.linalg.cholesky(A)
        U = np.linalg.solve(root, np.asarray(WJ.T @ WF).T).T
        one = sparse.identity(size + H, format="csc")
        for i, (scaled, low) in enumerate(((WJ, U), (sparse.diags(1.0 / np.sqrt(D)) @ J, None))):
            precision = (one + scaled.T @ scaled).tocsc()
            solved = splu(precision)
            last = np.zeros((size + H, H))
            last[size:] = np.eye(H)
            last = solved.solve(last)
            covariance = last[size:]
            if low is not None:
                X = solved.solve(low)
                left = np.linalg.inv(np.eye(low.shape[1]) - low.T @ X)
                covariance = covariance + X[size:] @ left @ X[size:].T
                trace = _trace(precision, owner, last) + float(np.sum((X @ left) * X))
                excess.append(size + H - trace)
            variances[i] += np.diag(covariance) / len(z)
        distances.append(float(Wr @ Wr - np.sum(np.linalg.solve(root, WF.T @ Wr) ** 2)))
    # Over posterior draws T is larger than at the posterior's mean by as much as it is smaller there than N.
    freedom = np.maximum(N - np.array(excess), 1.0)
    p = float(np.mean(chi2.sf(np.array(distances) - np.array(excess), freedom)))
    if p < MISFIT_LEVEL:
        message = f"p = {p:.2g}: surrogate error and noise do not explain the distance of data and model"
        remedy = "Look at individual fits: check units, noise sd and outliers, and what the model lacks."
        return variances, Check("predictive misfit", "warn", p, message, remedy)
    return variances, explained(p, p)


def _rows(problem: "PopulationCalibration", u: Array, h: Ints) -> Decoder:
    """Return offset, basis of the scores that are used, and truncation of the cells (s, N, ...) at inputs (s, K, d)."""
    cells, draws = problem.data.cells, np.arange(len(u))
    if cells.by_input is None:
        fixed = Decoder(cells.offset, dense(cells.basis[:, cells.used]), cells.truncation)
        return Decoder(*(np.broadcast_to(one, (len(u), *one.shape)) for one in fixed))
    offset, basis, truncation = (one[h if len(one) > 1 else 0, draws] for one in cells.by_input.at(u))
    return Decoder(offset, basis[..., cells.used], truncation)


def _owners(problem: "PopulationCalibration") -> Ints:
    """Return the subject of every standard normal effect (size,)."""
    layout, (P, Q) = problem.layout, (len(problem.population.individual), len(problem.population.occasions))
    return np.concatenate([np.repeat(np.arange(len(layout.covariates)), P), np.repeat(layout.subject, Q)])


def _trace(precision: Any, owner: Ints, last: Array) -> float:
    """Return the trace of the inverse of a precision whose effects have one block per subject, linear in the subjects.

    `last` are the last columns of the inverse (D, H), those of what all share. With E the blocks and C the covariance
    of what all share, that of the effects is E^-1 + L C^-1 L', where L are their rows of `last`.
    """
    size = len(owner)
    members, real = ragged(owner, int(owner.max()) + 1)
    place = np.empty(size, dtype=np.int64)
    place[members[real]] = np.broadcast_to(np.arange(members.shape[1]), members.shape)[real]
    entries = precision[:size, :size].tocoo()
    blocks = np.zeros((*members.shape, members.shape[1]))
    blocks[owner[entries.row], place[entries.row], place[entries.col]] = entries.data
    at = np.arange(members.shape[1])
    blocks[:, at, at] += ~real
    inner = np.diagonal(np.linalg.inv(blocks), axis1=1, axis2=2)[real].sum()
    effects, shared = last[:size], last[size:]
    return float(inner + np.sum(np.linalg.solve(shared, effects.T) * effects.T) + np.trace(shared))


def _jacobian(
    problem: "PopulationCalibration", theta: Mapping[str, Array], z: Array, h: Ints
) -> tuple[Array, Array, Ints]:
    """Return J: quantities of the population (s, N, .), and what belongs to a cell's own effects, at columns (N, .)."""
    data, population, layout = problem.data, problem.population, problem.layout
    cells = data.cells
    effects = z[:, : layout.size]
    _, units = layout.natural(theta, effects)
    shared = {name: np.asarray(theta[name]) for name in population.shared}
    others = {name: values for name, values in theta.items() if name not in population.priors}

    def means(natural: Array, values: Mapping[str, Array]) -> Array:
        own = {
            name: from_natural(natural[..., i], scale)
            for i, (name, scale) in enumerate(zip(population.individual, population.scales, strict=True))
        }
        u = data.unit_inputs({**others, **values, **own})
        latent = means_given(data.surrogate, cells, cells.experiment, u, h)
        return data.data_model.responded(latent)[0]

    slopes = []  # by natural value of each individual parameter
    for i in range(len(population.individual)):
        shift = np.zeros(len(population.individual))
        shift[i] = STEP
        slopes.append((means(units + shift, shared) - means(units - shift, shared)) / (2.0 * STEP))
    slope = np.stack(slopes, axis=-1)  # (s, N, P)
    unit = cells.unit[cells.experiment]
    prior_sd = prior_sd_of(problem)
    columns = []
    for name in population.priors:
        size = prior_sd[name]
        step = STEP * size
        up, down = ({**theta, name: theta[name] + sign * step} for sign in (1.0, -1.0))
        if name in population.shared:
            change = means(units, {k: up[k] for k in shared}) - means(units, {k: down[k] for k in shared})
        else:
            moved = layout.natural(up, effects)[1] - layout.natural(down, effects)[1]
            change = np.einsum("snp,snp->sn", slope, moved[:, unit])
        columns.append(change * size / (2.0 * step))
    P, Q, first = len(population.individual), len(population.occasions), layout.sizes[0]
    subject = layout.subject[unit]
    rest, places = np.empty((*slope.shape[:2], P + Q)), np.empty((len(unit), P + Q), dtype=np.int64)
    for k in range(P + Q):  # each unit depends on its own effects alone, so all are moved at once
        shift = np.zeros(layout.size)
        if k < P:
            shift[k:first:P] = STEP
            places[:, k] = subject * P + k
        else:
            shift[first + k - P :: Q] = STEP
            places[:, k] = first + unit * Q + k - P
        moved = layout.natural(theta, effects + shift)[1] - layout.natural(theta, effects - shift)[1]
        rest[:, :, k] = np.einsum("snp,snp->sn", slope, moved[:, unit]) / (2.0 * STEP)
    return np.stack(columns, axis=-1), rest, places


def prior_sd_of(problem: "PopulationCalibration") -> dict[str, float]:
    """Return the prior sd of each quantity of the population, in its own unit."""
    draws = problem.prior_draws(2000, 0)
    return {name: float(draws[name].std()) for name in problem.population.priors}


def _dense(hyper: Array, rest: Array, places: Ints, size: int) -> Array:
    """Return J (s, N, D)."""
    out = np.zeros((*rest.shape[:2], size))
    out[:, np.arange(len(places))[:, None], places] = rest
    return np.concatenate([hyper, out], axis=2)


def _check_share(problem: "PopulationCalibration", names: list[str], share: Array) -> Check:
    if is_exact(problem.surrogate):
        return Check("surrogate error", "pass", 0.0, "none: the simulator itself was used")
    worst = int(np.argmax(share))
    message = f"at most {share[worst]:.0%} of the variance of a quantity ({names[worst]}), limit {SHARE_LIMIT:.0%}"
    remedy = (
        "Run more points near the subjects (uq.refine(posterior, n)), fit and calibrate again. The surrogate's error, "
        "not the number of subjects, limits the precision: more subjects would not help."
    )
    status: Status = "pass" if share[worst] <= SHARE_LIMIT else "warn"
    return Check("surrogate error", status, float(share[worst]), message, remedy)


def _check_features(problem: "PopulationCalibration", theta: Mapping[str, Array], z: Array, h: Ints) -> Check:
    """Compare the joint error through features with the exact one, at the subjects of posterior draws."""
    assert problem.lowrank is not None
    data, error = problem.data, problem.lowrank.error
    own = problem.individuals(theta, z)
    u, phi = data.unit_inputs(own), data.noise.phi(own, (len(z),))
    at = some_inputs(data)
    scale = error.covariances.scale(u.reshape(-1, u.shape[-1]))
    noise = noise_of_scores(data.data_model, phi, u, scale, data.cells.used) * len(at) / u.shape[1]
    found = np.array([error.off(one[at], int(k), noise) for one, k in zip(u, h, strict=True)])  # (s, q)
    off = float(np.quantile(found, QUANTILE, axis=0).max())
    message = (
        f"{error.ranks.sum()} features represent the variances that subjects have in common with an error of "
        f"{off:.1%}, limit {FEATURES_LIMIT:.0%}"
    )
    status: Status = "pass" if off <= FEATURES_LIMIT else "warn"
    remedy = "Use Calibration(..., surrogate_error='exact'), which computes the joint error exactly, at a higher cost."
    return Check("joint error", status, off, message, remedy)


def _check_edge(problem: "PopulationCalibration", own: Mapping[str, Array]) -> Check:
    box, worst, where = problem.surrogate.domain, 0.0, ""
    data = problem.data
    for name in data.parameters if design_box(problem.surrogate) is not None else ():
        index = box.names.index(name)
        unit = data.unit_inputs({key: own[key] for key in data.parameters}, units=None)[..., index]
        ends = zip((box.lower[index], box.upper[index]), data.support(name), strict=True)
        hard = [end == last for end, last in ends]  # a hard end of the box is one of the typical value
        for end, near in (("lower", unit < EDGE), ("upper", unit > 1.0 - EDGE)):
            if hard[0 if end == "lower" else 1]:
                continue
            shares = near.mean(axis=0)
            k = int(np.argmax(shares))
            if shares[k] > worst:
                label = data.subjects.labels[data.subjects.subject[data.cells.unit[k]]]
                worst, where = float(shares[k]), f"{end} end of {name}"
                where += f", subject {label}" if name in data.individual else ""
    message = f"at most {worst:.1%} of a subject's draws within 2 % of an edge" + (f" ({where})" if where else "")
    remedy = (
        "Run a design over a wider box (a wider prior of the typical value or of omega) and calibrate again. Many "
        f"draws are at the {where}, beyond which nothing was simulated."
    )
    status: Status = "pass" if worst <= SUBJECT_EDGE_MASS else "warn"
    if status == "warn" and data.outside == "refined":
        status = "fail"  # as for one subject: the prior goes on beyond this box, and it is the runs that end here
        remedy = (
            "Refine again, uq.refine(posterior, n), which moves the box, and calibrate again. The box of the last "
            f"refinement cuts the posterior off at the {where}."
        )
    return Check("edge of the design box", status, worst, message, remedy)


def _check_subjects(problem: "PopulationCalibration") -> Check:
    count = int(problem.subjects.measured.sum())
    status: Status = "pass" if count >= FEW_SUBJECTS else "note" if count > 1 else "warn"
    remedy = (
        "Vary the priors of the omegas and compare: with so few subjects they determine the between-subject variation."
    )
    return Check("subjects", status, float(count), f"{count} with data, limit {FEW_SUBJECTS}", remedy)


def _check_ends(problem: "PopulationCalibration", theta: Mapping[str, Array], variances: Array) -> Check:
    prior_sd, ends, sd = prior_sd_of(problem), {}, {}
    for name, variance in zip(prior_sd, variances, strict=True):
        limits = problem.limits(name)
        low, high = ends_of(problem.priors[name], limits)
        ends[name] = (limits[0] if low else np.nan, limits[1] if high else np.nan)
        sd[name] = float(np.sqrt(variance)) * prior_sd[name]
    return check_ends({name: theta[name] for name in prior_sd}, ends, sd)


def _check_prior(problem: "PopulationCalibration", theta: Mapping[str, Array]) -> Check:
    prior = problem.prior_draws(4000, 0)
    found = {}
    for name in problem.population.priors:
        found[name] = 1.0 - float(theta[name].var() / prior[name].var())
    least = min(found, key=lambda name: found[name])
    alike = [name for name, value in found.items() if value < CONTRACTION and not name.startswith("lkj_")]
    wider = [name for name in alike if found[name] < WIDER]
    message = f"smallest contraction {found[least]:.2f} ({least}), limit {CONTRACTION}"
    remedy = (
        f"Report that the interval of {', '.join(alike)} comes from the prior: the data contain almost no information "
        "about it."
    )
    if wider:
        remedy = (
            f"Look at uq.plots.prior_posterior(posterior). The posterior of {', '.join(wider)} is wider than its "
            "prior: chains are in several modes, or the data contradict the prior."
        )
    status: Status = "warn" if wider else "note" if alike else "pass"
    return Check("prior-dominated", status, found[least], message, remedy)
