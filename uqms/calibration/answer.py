"""Checks of the answer: what data and prior each contributed, and whether the parameters can be identified separately.

==========  ===================================================================  ===========
symbol      meaning                                                              shape
==========  ===================================================================  ===========
I           Fisher information J' C^-1 J, parameters in units of their prior sd  (s, d, d)
lambda      eigenvalues of I: variance of the prior over that of the data        (s, d)
=========== ==================================================================== ===========

They check the answer, not the computation: an interval may be computed exactly and yet come from the prior.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import numpy as np
import xarray as xr

from uqms._typing import Array
from uqms.calibration.base import Piece, Problem
from uqms.calibration.checks import Check, Rescaled, Sampled, Status
from uqms.calibration.rescaling import FACTORS, rescaled
from uqms.errors import InputError
from uqms.parameters import Prior
from uqms.surrogates.protocol import inputs_of

if TYPE_CHECKING:
    from uqms.calibration.context import Context
    from uqms.calibration.single import SingleCalibration

__all__ = [
    "Sensitivity",
    "check_ends",
    "check_prior_mass",
    "confounded",
    "confounding",
    "contraction",
    "covariance_left",
    "discrepancy",
    "end_of_a_prior",
    "ends_of",
    "log_priors",
    "on_model_scale",
    "power_scaling",
    "prior_dominated",
    "prior_sensitivity",
]

CONTRACTION, SHIFT = 0.1, 0.2
CONFOUNDED = 0.95
SENSITIVITY = 0.05
POWERS = (0.99, 1.01)
MASS_CUT = 0.01
WIDER = 2.0  # times as wide or narrow that an interval becomes, with another scale of the discrepancy
MOVED = 1.0  # posterior sds that a mean moves by, with another scale of the discrepancy
OUTSIDE, OUTSIDE_FAIL = 0.01, 0.05
BEYOND = 3.0  # sds beyond an end of the prior
PRIOR_DRAWS = 4000
ROUNDING = 1e-13  # of the largest eigenvalue of an information: below it there is nothing but rounding


def on_model_scale(problem: Problem, theta: Mapping[str, Array]) -> dict[str, Array]:
    """Return every inferred quantity (S,) on a scale where relations are nearly linear.

    Parameters as the surrogate takes them (unit cube; logarithms of positive ones), positive noise as logarithms.
    """
    found: dict[str, Array] = {}
    for piece in problem.pieces(theta):
        own, box = piece.problem, piece.problem.surrogate.domain
        u = own.unit_inputs({name: piece.theta[name] for name in own.parameters})[..., 0, :]
        found = {name: u[..., box.names.index(name)] for name in own.parameters} | found
    out = {name: found[name] for name in problem.parameters}
    for name, prior in problem.priors.items():
        if name not in out:
            positive = prior.support[0] >= 0
            out[name] = np.log(np.maximum(theta[name], 1e-300)) if positive else np.asarray(theta[name])
    return out


def contraction(problem: Problem, theta: Mapping[str, Array]) -> tuple[dict[str, float], dict[str, float]]:
    """Return 1 - Var_post / Var_prior, and the Kolmogorov distance of posterior and prior, of every quantity."""
    posterior = on_model_scale(problem, theta)
    prior_theta = problem.prior_draws(PRIOR_DRAWS, 0)
    prior = on_model_scale(problem, prior_theta)
    contracted = {name: 1.0 - float(np.var(values) / np.var(prior[name])) for name, values in posterior.items()}
    distance = {}
    law = problem.conditioned_prior
    levels = law.alone(theta)
    for column, name in enumerate(problem.priors):
        level = np.sort(levels[:, column])
        if not law.plain:  # of a quantity alone, a block in a box and constraints make something else
            level = np.searchsorted(np.sort(prior_theta[name]), np.sort(theta[name])) / len(prior_theta[name])
        steps = np.arange(len(level) + 1) / len(level)
        distance[name] = float(max(np.max(steps[1:] - level), np.max(level - steps[:-1])))
    return contracted, distance


def confounding(
    problem: Problem, theta: Mapping[str, Array], information: Array
) -> tuple[tuple[str, ...], Array, Array]:
    """Return names, correlations of the posterior, and the mean size of local ones, both (p, p).

    Two parameters of which only the product is known lie on a curved ridge, whose overall correlation is moderate;
    locally, along the ridge, it is not. Local ones are those of the linearised problem around each of a few draws.
    """
    values = on_model_scale(problem, theta)
    names = tuple(values)
    stacked = np.stack(list(values.values()))
    with np.errstate(invalid="ignore", divide="ignore"):
        overall = np.nan_to_num(np.atleast_2d(np.corrcoef(stacked)))
    covariance = covariance_left(information, problem.conditioned_prior.correlation(problem.parameters))
    sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    local = np.zeros_like(overall)
    d = len(problem.parameters)
    local[:d, :d] = np.mean(np.abs(covariance / (sd[:, :, None] * sd[:, None, :])), axis=0)
    np.fill_diagonal(overall, 1.0)
    np.fill_diagonal(local, 1.0)
    return names, overall, local


def covariance_left(information: Array, prior: Array) -> Array:
    """Return what data leave, (prior^-1 + information)^-1 (s, d, d), of parameters with the covariance `prior` (d, d).

    By eigenvalues: where a noise sd is close to zero, information is so large that the sum could not be inverted.
    """
    root = np.linalg.cholesky(prior)
    values, vectors = np.linalg.eigh(root.T @ information @ root)
    values = np.where(values > ROUNDING * values[:, -1:], values, 0.0)
    scaled = root @ vectors
    return np.asarray((scaled / (1.0 + values)[:, None, :]) @ scaled.transpose(0, 2, 1))


def log_priors(problem: Problem, theta: Mapping[str, Array]) -> dict[str, Array]:
    """Return the log prior density of every quantity, own units, conditioned as in the calibration; they add up.

    Quantities of a joint block are given those before them; "constraints" is what these add.
    """
    return problem.conditioned_prior.log_terms(theta)


@final
@dataclass(frozen=True)
class Sensitivity:
    """Power-scaling sensitivities of one quantity: how fast its posterior moves with the weight of each part."""

    prior: float
    likelihood: float


def power_scaling(
    draws: Mapping[str, Array], log_prior: Array, log_likelihood: Array, shape: tuple[int, int]
) -> dict[str, Sensitivity]:
    """Return the sensitivity of every quantity to prior and likelihood raised to powers near one.

    The likelihood is the joint one: leave-one-out terms do not add up to it where errors are shared.

    References
    ----------
    Kallioinen et al. (2024), doi:10.1007/s11222-023-10366-5.
    """
    import arviz_stats  # noqa: F401 (gives datasets their `azstats`)

    dims = ("chain", "draw")
    posterior = xr.Dataset({name: (dims, np.reshape(values, shape)) for name, values in draws.items()})
    found = {}
    for kind, values in (("prior", log_prior), ("likelihood", log_likelihood)):
        if np.ptp(values) < 1e-9:  # a uniform prior stays what it is at any power
            found[kind] = dict.fromkeys(draws, 0.0)
            continue
        # At powers this close to one weights are nearly equal: there is no tail that would want Pareto smoothing.
        lower, upper = (_weights((alpha - 1.0) * values).reshape(shape) for alpha in POWERS)
        sensed = posterior.azstats.power_scale_sense(
            lower_w=xr.DataArray(lower, dims=dims),
            upper_w=xr.DataArray(upper, dims=dims),
            lower_alpha=POWERS[0],
            upper_alpha=POWERS[1],
            sample_dims=list(dims),
        )
        found[kind] = {name: float(sensed[name]) for name in draws}
    return {name: Sensitivity(found["prior"][name], found["likelihood"][name]) for name in draws}


def _weights(log_weights: Array) -> Array:
    weights = np.exp(log_weights - log_weights.max())
    return np.asarray(weights / weights.sum())


def prior_dominated(context: "Context") -> list[Check]:
    """Judge whether the data inform each parameter beyond its prior."""
    problem = context.problem
    return [] if problem.kind == "population" else [_check_contraction(problem, context.sampled.theta)]


def confounded(context: "Context") -> list[Check]:
    """Judge whether the parameters can be identified separately."""
    information = context.linear.information
    if information is None:
        return []
    return [_check_confounded(context.problem, context.sampled.theta, information)]


def end_of_a_prior(context: "Context") -> list[Check]:
    """Judge whether data put parameters beyond an end of their priors."""
    information = context.linear.information
    return [] if information is None else [_check_ends(context.problem, context.sampled.theta, information)]


def prior_sensitivity(context: "Context") -> list[Check]:
    """Note how fast the answer moves with the weight of the prior; whether the two disagree see `prior_conflict`.

    Of a population the likelihood depends on the effects, whose distribution is part of the prior: it is not judged.
    """
    if context.sampled.log_likelihood is None or context.problem.kind == "population":
        return []
    return [_check_sensitivity(context.problem, context.sampled)]


def discrepancy(context: "Context") -> list[Check]:
    """Judge how far the answer depends on how large the model's error may be."""
    if context.sampled.log_likelihood is None or context.problem.kind == "population":
        return []
    found = []
    for piece in context.pieces:
        if piece.problem.discrepancy is None:
            continue
        name = f" ({piece.name})" if piece.name else ""
        scales = context.sampled.rescaled.get(piece.name)
        if scales is None:
            scales = _reweighted_scales(piece, context.sampled.log_likelihood if not name else None)
        check = _check_discrepancy(piece, scales)
        found.append(replace(check, name=check.name + name))
    return found


def uninformed(problem: Problem) -> tuple[str, ...]:
    """Return the parameters that no measured output of any part depends on."""
    informed: set[str] = set()
    for part in problem.named_parts.values():
        for output in part.observations.outputs:
            informed.update(inputs_of(part.surrogate, output))
    return tuple(name for name in problem.parameters if name not in informed)


def _check_contraction(problem: Problem, theta: Mapping[str, Array]) -> Check:
    contracted, distance = contraction(problem, theta)
    alone = uninformed(problem)
    others = [name for name in problem.parameters if name not in alone]
    if alone and (not others or min(contracted[name] for name in others) >= CONTRACTION):
        named, value = ", ".join(alone), min(contracted[name] for name in alone)
        message = f"no measured output depends on {named}: the posterior there is the prior"
        remedy = (
            f"Measure an output that depends on {named}, or hold it at a number, fixed={{name: value}}. Its interval "
            "is that of the prior; those of the other parameters come from the data."
        )
        return Check("prior-dominated", "note", value, message, remedy)
    least = min(others or problem.parameters, key=lambda name: contracted[name])
    # Two modes far apart have a large variance too, but are nowhere near the prior.
    alike = [name for name in problem.parameters if contracted[name] < CONTRACTION and distance[name] < SHIFT]
    message = f"smallest contraction {contracted[least]:.2f} ({least}), limit {CONTRACTION}"
    if alike:
        remedy = (
            f"Measure a quantity that depends on {', '.join(alike)}, fix it, or report that its interval comes from "
            "the prior: the data contain almost no information about it."
        )
        return Check("prior-dominated", "warn", contracted[least], message, remedy)
    if contracted[least] >= CONTRACTION:
        return Check("prior-dominated", "pass", contracted[least], message)
    if contracted[least] < 0.0:
        remedy = (
            f"Look at uq.plots.prior_posterior(posterior), and sample with SMC(), unless it was used. The posterior of "
            f"{least} is wider than its prior: chains are in several modes, or the data contradict the prior."
        )
        return Check("prior-dominated", "warn", contracted[least], message, remedy)
    remedy = (
        f"Look at uq.plots.prior_posterior(posterior): the posterior of {least} is about as wide as its prior, but in "
        "another place."
    )
    return Check("prior-dominated", "note", contracted[least], message, remedy)


def check_ends(draws: Mapping[str, Array], ends: Mapping[str, tuple[float, float]], sd: Mapping[str, float]) -> Check:
    """Return how far beyond an end of their own priors the data put quantities.

    A normal of standard deviation s that is centred k s beyond an end leaves draws d away from it in the mean, and
    k = s / d - 2 d / s up to 0.1 for k of 2 and more. So a truth that happens to lie at an end of a right prior passes.

    Parameters
    ----------
    draws
        Draws of each quantity, on a scale where the problem is nearly linear.
    ends
        Ends of each one's prior on that scale, where its density is not zero; NaN where there is none.
    sd
        What noise, the surrogate's error and the other quantities leave of each, were there no end.
    """
    judged = [name for name in draws if np.isfinite(ends[name]).any()]
    unknown = [name for name in judged if not 0.0 < sd[name] < np.inf]
    if unknown:
        message = f"not judged: the curvature along {', '.join(unknown)} is not finite"
        return Check("end of a prior", "note", np.nan, message, "Look at uq.plots.prior_posterior(posterior).")
    worst, where, beyond = -np.inf, "", []
    for name in judged:
        for side, end in zip(("lower", "upper"), ends[name], strict=True):
            if not np.isfinite(end):
                continue
            relative = max(float(np.mean(np.abs(draws[name] - end))) / sd[name], 1e-12)
            k = 1.0 / relative - 2.0 * relative
            if k > worst:
                worst, where = k, f"{side} end of the prior of {name}"
            if k > BEYOND:
                beyond.append(name)
    if worst <= 1.0:
        return Check("end of a prior", "pass", max(worst, 0.0), "no posterior is concentrated at an end of its prior")
    message = f"the data point to values {worst:.1f} sd beyond the {where}, limit {BEYOND:.0f}"
    remedy = (
        "Check units and what the model lacks, and widen the prior if values beyond its end are possible. Prior and "
        f"data disagree about {', '.join(beyond)}: draws pile up at an end of the prior, which determines the interval."
    )
    return Check("end of a prior", "warn" if beyond else "pass", worst, message, remedy)


def ends_of(prior: Prior, limits: tuple[float, float]) -> tuple[bool, bool]:
    """Whether a quantity's own prior ends at each of the limits it is conditioned on, with a density that is not zero.

    Where the box of the runs ends before, it is the edge of the design that is looked at.
    """
    pairs = zip(limits, prior.support, strict=True)
    low, high = (math.isclose(end, last) and bool(np.isfinite(prior.log_density(end))) for end, last in pairs)
    return low, high


def _check_ends(problem: Problem, theta: Mapping[str, Array], information: Array) -> Check:
    prior = problem.conditioned_prior.correlation(problem.parameters)
    left = np.sqrt(np.diagonal(covariance_left(information, prior).mean(axis=0)))
    before = on_model_scale(problem, problem.prior_draws(PRIOR_DRAWS, 0))
    sd = {name: float(s * np.std(before[name])) for name, s in zip(problem.parameters, left, strict=True)}
    with np.errstate(all="ignore"):  # ends at infinity
        at = on_model_scale(problem, {name: np.array(problem.limits(name)) for name in problem.priors})
    ends = {}
    for name, (low, high) in at.items():
        here = ends_of(problem.priors[name], problem.limits(name))
        ends[name] = (float(low) if here[0] else np.nan, float(high) if here[1] else np.nan)
    values = on_model_scale(problem, theta)
    return check_ends({name: values[name] for name in problem.parameters}, ends, sd)


def _check_confounded(problem: Problem, theta: Mapping[str, Array], information: Array) -> Check:
    names, overall, local = confounding(problem, theta, information)
    size = np.triu(np.maximum(np.abs(overall), local), 1)
    first, second = np.unravel_index(int(np.argmax(size)), size.shape)
    worst = float(size[first, second])
    if not np.isfinite(worst):
        return Check("confounded", "note", worst, "not judged: the curvature of the likelihood is not finite")
    pairs = [f"{names[a]} and {names[b]}" for a, b in np.argwhere(size > CONFOUNDED)]
    message = f"largest correlation {worst:.2f}" + (f" ({names[first]}, {names[second]})" if worst > 0 else "")
    shown = "; ".join(pairs[:3]) + (f"; {len(pairs) - 3} more" if len(pairs) > 3 else "")
    remedy = (
        f"Report a combination of {shown} (derived=...), or measure a quantity that separates them: the data identify "
        "the combination far better than each parameter. uq.diagnostics.identifiability(posterior) shows which "
        "combination."
    )
    return Check("confounded", "warn" if pairs else "pass", worst, message, remedy)


def _check_sensitivity(problem: Problem, sampled: Sampled) -> Check:
    assert sampled.log_likelihood is not None
    log_prior = np.sum(list(log_priors(problem, sampled.theta).values()), axis=0)
    found = power_scaling(sampled.theta, log_prior, sampled.log_likelihood, sampled.shape)
    worst = max(problem.parameters, key=lambda name: found[name].prior)
    strength = found[worst].prior
    message = f"largest power-scaling sensitivity to the prior {strength:.2f} ({worst}), limit {SENSITIVITY}"
    remedy = (
        "Report which prior was used, and why: prior and data both determine the posterior, as is usual with few data."
    )
    return Check("prior sensitivity", "note" if strength > SENSITIVITY else "pass", strength, message, remedy)


def _reweighted_scales(piece: Piece, log_likelihood: Array | None) -> tuple[Rescaled, ...] | str:
    try:
        return tuple(rescaled(piece.problem, piece.theta, piece.latents, log_likelihood, one) for one in FACTORS)
    except InputError as error:  # a prior without a scale; draws are not lost for it
        return str(error)


def _check_discrepancy(piece: Piece, scales: tuple[Rescaled, ...] | str) -> Check:
    if isinstance(scales, str):
        return Check("discrepancy", "note", float("nan"), "how it depends on its scale is not judged", scales)
    names = piece.problem.parameters
    known = [one for one in scales if one.trusted]
    unknown = [f"{one.factor:g} ({one.way})" for one in scales if not one.trusted]
    shift = max((abs(one.shift[name]) for one in known for name in names), default=float("nan"))
    of_part = f"posterior.part({piece.parts[0]!r})" if piece.name else "posterior"
    message, depends = "how far means move with its prior scale is not known", False
    if known:
        worst = max(names, key=lambda name: max(abs(one.shift[name]) for one in known))
        change = {name: max(abs(math.log(max(one.width[name], 1e-300))) for one in known) for name in names}
        widest = max(names, key=lambda name: change[name])
        ratios = " and ".join(f"{one.width[widest]:.2f}" for one in known)
        times = " and ".join(f"{one.factor:g} ({'refitted' if one.sampler else 'reweighted'})" for one in known)
        message = (
            f"the mean of {worst} moves by at most {shift:.2f} sd, and the 95 % interval of {widest} is {ratios} times "
            f"as wide, when its prior scale is {times} times as large, limit {MOVED:g} sd"
        )
        depends = shift > MOVED or change[widest] > math.log(WIDER)
        named = worst if shift > MOVED else widest
    if unknown:
        message += f"; not known of {' and '.join(unknown)} times the scale"
    if depends:
        remedy = (
            f"Report {of_part}.rescale_discrepancy(): {named} depends on how large the model's error may be. Give a "
            "scale that you can defend, GPDiscrepancy(sd=...), or measure what tells the two apart."
        )
        return Check("discrepancy", "warn" if shift > MOVED else "note", shift, message, remedy)
    remedy = (
        "Sample the whole with more draws, and with refit_discrepancy=True."
        if piece.name
        else "Sample the posterior with the other scale: posterior.rescale_discrepancy(refit=uq.NUTS(draws=1000))."
    )
    return Check("discrepancy", "note" if unknown else "pass", shift, message, remedy)


def check_prior_mass(problem: "SingleCalibration", theta: Mapping[str, Array]) -> Check:
    """Mass of the prior that nothing was simulated for, and of the posterior when it was let out of the box."""
    box = problem.surrogate.domain
    columns = [box.names.index(name) for name in problem.parameters]
    u = problem.unit_inputs({name: theta[name] for name in problem.parameters})
    u = u[..., columns] if problem.individual else u[:, :1, columns]
    outside = float(np.mean(np.any((u < 0.0) | (u > 1.0), axis=-1)))
    cut = problem.mass_cut
    doubted = cut > MASS_CUT and problem.outside != "refined"  # that box was made around an earlier posterior
    status: Status = "fail" if outside > OUTSIDE_FAIL else "warn" if outside > OUTSIDE or doubted else "pass"
    message = f"{cut:.2g} of the prior and {outside:.2g} of the posterior lie outside of the design box"
    note = getattr(problem.surrogate, "attrs", {}).get("box_note")
    message += f"; {note}" if note else ""
    remedy = (
        "Run a design over the prior, or narrow the prior. Nothing was simulated outside of the box, and the surrogate "
        "returns to its own prior there."
    )
    return Check("prior mass cut", status, max(cut, outside), message, remedy)
