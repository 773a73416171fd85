"""Carry out the remedy that a verdict names first, as a user who reads it would, and judge again.

Only the sentence after "First step:" is read. Each phrase that names a step has an action; the first one of
the sentence is carried out. A sentence in which no phrase names a step clears nothing. `uq.verify` is a test: what it
says is followed. A refinement is repeated, as it is meant to be, while the verdict asks for it; so is a step for one of
two parts, for the other.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from _bases import Study, exact_posterior, refined
from _faults import Case, flags_of

import uqms as uq
from uqms.calibration.checks import Check, Verdict
from uqms.calibration.posterior import Posterior
from uqms.diagnostics.verification import with_runs

ROUNDS = 3
WRONG = 2.0
type Action = Callable[[Case, Posterior, Check], tuple[Case, Posterior]]


def first_step(verdict: Verdict) -> str:
    """Return what the verdict says first."""
    found = re.search(r"First step: (.*)$", verdict.conclusion, re.DOTALL)
    return "" if found is None else found.group(1)


def _check_of(verdict: Verdict, step: str) -> Check:
    return next(check for check in verdict.warnings if check.remedy.startswith(step.rstrip(".")))


def _again(case: Case, study: Study) -> tuple[Case, Posterior]:
    study = study.fitted()
    return replace(case, study=study), exact_posterior(study.problem(), study.seed + 1)


def _sample(case: Case, posterior: Posterior, check: Check) -> tuple[Case, Posterior]:
    if not case.study.parts:
        return case, posterior.problem.sample(uq.NUTS(draws=4000), rng=case.study.seed + 1)
    return _again(case, case.study)


def _particles(case: Case, posterior: Posterior, check: Check) -> tuple[Case, Posterior]:
    count = re.search(r"particles=(\d+)", check.remedy)
    return case, posterior.problem.sample(uq.SMC(particles=int(count.group(1)) if count else 2000), rng=1)


def _tighter(case: Case, posterior: Posterior, check: Check) -> tuple[Case, Posterior]:
    return case, posterior.problem.sample(uq.NUTS(target_accept=0.99), rng=1)


def _tighter_prior(case: Case, posterior: Posterior, check: Check) -> tuple[Case, Posterior]:
    """Give the noise a third of its prior's width on the scale of logarithms, around the same median."""
    problem = posterior.single
    prior = problem.priors["sigma"]
    low, middle, high = (float(np.log(prior.quantile(level))) for level in (0.1587, 0.5, 0.8413))
    noise = uq.GaussianNoise(sd=uq.LogNormal(np.exp(middle), (high - low) / 6.0))
    again = uq.Calibration(problem.surrogate, problem.observations, noise, space=problem.space)
    return case, again.sample(uq.NUTS(), rng=1)


def _refine(case: Case, posterior: Posterior, check: Check) -> tuple[Case, Posterior]:
    for _ in range(ROUNDS):
        case, posterior = _again(case, refined(case.study, posterior, case.study.seed))
        if "uq.refine(" not in first_step(posterior.verdict):
            break
    return case, posterior


def _runs(case: Case, posterior: Posterior) -> Any:
    return case.study.table(case.study.parts[0], uq.verification_design(posterior, 20, rng=1))


def _verify(case: Case, posterior: Posterior, check: Check) -> tuple[Case, Posterior]:
    verification = uq.verify(posterior, _runs(case, posterior))
    step = first_step(verification.verdict)
    if "uq.correct(" in step:
        return _correct(case, posterior, check)
    if "uq.refine(" in step:
        return _refine(case, posterior, check)
    if "Fit" in step:
        return _more_runs(case, posterior, check)
    return case, posterior


def _correct(case: Case, posterior: Posterior, check: Check) -> tuple[Case, Posterior]:
    """Do what `uq.correct` does, with exact draws in the sampler's place."""
    found = with_runs(posterior.single.simulated, _runs(case, posterior), rescaled=True)
    return _again(case, replace(case.study, surrogates=(found,)))


def _more_runs(case: Case, posterior: Posterior, check: Check) -> tuple[Case, Posterior]:
    table = uq.ensemble.combine(case.study.tables[0], _runs(case, posterior))
    return _again(case, replace(case.study, tables=(table,), surrogates=(case.study.process.fit(table),)))


def _fitted_noise(case: Case, posterior: Posterior, check: Check) -> tuple[Case, Posterior]:
    process = replace(case.study.process, noise="fitted")
    made = tuple(process.fit(table) for table in case.study.tables)
    return _again(case, replace(case.study, process=process, surrogates=made))


def _accurate(case: Case, posterior: Posterior, check: Check) -> tuple[Case, Posterior]:
    return _again(case, replace(case.study, parts=case.accurate, tables=(), surrogates=()))


def _without_subject(case: Case, posterior: Posterior, check: Check) -> tuple[Case, Posterior]:
    found = re.search(r"subject '(\w+)'", check.remedy)
    assert found is not None
    assert case.without is not None
    return case, case.without(found.group(1))


def _more_scores(case: Case, posterior: Posterior, check: Check) -> tuple[Case, Posterior]:
    process = uq.GaussianProcess(outputs={"y": uq.Curve(tolerance=1e-10, max_scores=40)})
    made = tuple(process.fit(table) for table in case.study.tables)
    return _again(case, replace(case.study, process=process, surrogates=made))


def _convert(case: Case, posterior: Posterior, check: Check) -> tuple[Case, Posterior]:
    found = re.search(r"a factor of ([0-9.e+-]+[0-9])", check.remedy)
    assert found is not None
    return _again(case, replace(case.study, values=tuple(one / float(found.group(1)) for one in case.study.values)))


def _infer_noise(case: Case, posterior: Posterior, check: Check) -> tuple[Case, Posterior]:
    """Give the noise a half-normal prior, of five times the sd that was found or stated."""
    flat = posterior.flat()
    noise = []
    for part, own in zip(case.study.parts, case.study.noise, strict=True):
        name = f"{part.name}_sigma" if part.name else "sigma"
        size = float(np.median(flat[name])) if name in flat else float(own.sd)
        noise.append(uq.GaussianNoise(sd=uq.HalfNormal(5.0 * size)))
    return _again(case, replace(case.study, noise=tuple(noise)))


def _wider(prior: Any) -> Any:
    if isinstance(prior, uq.Normal):
        return uq.Normal(prior.mean, 4.0 * prior.sd)
    if isinstance(prior, uq.LogNormal):
        return uq.LogNormal(prior.median, 4.0 * prior.sigma)
    low, high = prior.support
    return uq.Uniform(max(low - 0.5 * (high - low), 0.2 * low) if low > 0.0 else low - 0.5 * (high - low), 1.5 * high)


def _widen(case: Case, posterior: Posterior, check: Check) -> tuple[Case, Posterior]:
    """Widen the priors that the check names, and run a design over them; where units are to be checked, they are."""
    if case.unit != 1.0 and "Check units" in check.remedy:
        return _again(case, replace(case.study, values=tuple(one / case.unit for one in case.study.values)))
    text = f"{check.message} {check.remedy}"
    priors = {
        name: _wider(prior) if re.search(rf"\b{name}\b", text) else prior
        for name, prior in case.study.space.priors.items()
    }
    return _again(case, replace(case.study, space=uq.ParameterSpace(**priors), narrow=None, surrogates=(), options={}))


def _design(case: Case, posterior: Posterior, check: Check) -> tuple[Case, Posterior]:
    return _again(case, replace(case.study, narrow=None, surrogates=(), options={}))


def _discrepancy(case: Case, posterior: Posterior, check: Check) -> tuple[Case, Posterior]:
    one: Any = uq.GPDiscrepancy()
    if len(case.study.parts) > 1:
        parts = [part.name for part in case.study.parts if f"({part.name})" in check.name]
        one = dict.fromkeys(parts or [part.name for part in case.study.parts], one)
        one |= case.study.options.get("discrepancy", {})
    options = {**case.study.options, "discrepancy": one}
    return _again(case, replace(case.study, options=options))


def _long_tails(case: Case, posterior: Posterior, check: Check) -> tuple[Case, Posterior]:
    noise = []
    for part, own in zip(case.study.parts, case.study.noise, strict=True):
        mine = len(case.study.parts) == 1 or f"({part.name})" in check.name
        scale = own.sd if isinstance(own.sd, uq.HalfNormal) else uq.HalfNormal(2.0 * own.sd)
        noise.append(uq.StudentTNoise(scale=scale) if mine else own)
    return _again(case, replace(case.study, noise=tuple(noise)))


def _measure(case: Case, posterior: Posterior, check: Check) -> tuple[Case, Posterior]:
    """Measure another quantity, with a simulator of its own."""
    study, (extra,), rng = case.study, case.extra, np.random.default_rng([case.study.seed, 40])
    parts = (*(part._replace(name=part.name or "first") for part in study.parts), extra)
    values = extra.function(case.truth or {}, extra.at) + extra.sd * rng.standard_normal(len(extra.at))
    made = Study((extra,), study.space, study.seed, (), ()).fitted().surrogates
    noise = (*study.noise, uq.GaussianNoise(sd=extra.sd))
    new = replace(
        study, parts=parts, values=(*study.values, values[:, None]), noise=noise, surrogates=(*study.surrogates, *made)
    )
    return _again(case, new)


ACTIONS: Mapping[str, Action] = {
    r"uq\.refine\(": _refine,
    r"uq\.verify\(": _verify,
    r"uq\.correct\(": _correct,
    r"noise='fitted'": _fitted_noise,
    r"Make the solver more accurate": _accurate,
    r"calibrate without it": _without_subject,
    r"Keep more scores|uq\.Curve\(": _more_scores,
    r"SMC\(": _particles,
    r"Sample again|Sample longer|Sample at least 4 chains|Use more draws|NUTS\(draws": _sample,
    r"target_accept=0.99": _tighter,
    r"a tighter prior on the noise": _tighter_prior,
    r"convert one": _convert,
    r"[Gg]ive \w+ a prior with a scale|Infer the noise sd|infer it, GaussianNoise": _infer_noise,
    r"[Ww]iden the prior|widen it": _widen,
    r"Run a design over the prior": _design,
    r"model discrepancy": _discrepancy,
    r"StudentTNoise": _long_tails,
    r"[Mm]easure a quantity": _measure,
}


def action_of(step: str) -> Action | None:
    """Return what carries out a step: the action of the phrase that stands first, None where there is none."""
    places = {}
    for pattern, action in ACTIONS.items():
        found = re.search(pattern, step)
        if found is not None:
            places[found.start()] = action
    return places[min(places)] if places else None


def remedied(case: Case) -> tuple[str, Posterior | None]:
    """Return the step that is named first, and the posterior after it; None where no step is named."""
    if case.posterior is None:
        action = action_of(case.raised)
        if action is None or not case.study.parts:
            return case.raised, None
        return case.raised, _again(case, case.study)[1] if action is _sample else None
    step, posterior = first_step(case.posterior.verdict), case.posterior
    action, now = action_of(step), step
    if action is None:
        return step, None
    mended = set[str]()
    for _ in range(max(1, len(case.study.parts))):  # what is said of one part may be said of the next, in other words
        check = _check_of(posterior.verdict, now)
        mended.add(_part_of(check))
        case, posterior = action(case, posterior, check)
        now = first_step(posterior.verdict)
        following = action_of(now)
        if following is None or (
            following is not action and _part_of(_check_of(posterior.verdict, now)) in {*mended, ""}
        ):
            break
        action = following
    return step, posterior


def _part_of(check: Check) -> str:
    """Return the part of a calibration that a check is about, "" where it is about all."""
    found = re.search(r" \((\w+)\)$", check.name)
    return "" if found is None else found.group(1)


def clears(case: Case, posterior: Posterior | None, wanted: tuple[str, ...]) -> bool:
    """Return whether none of the fault's checks warns or fails after the remedy, and the answer is right.

    A remedy that makes the checks pass around another wrong answer clears nothing: the means without the fault have to
    be within `WRONG` sds of the new ones, an sd being that of both together. A discrepancy may widen intervals.
    """
    if posterior is None or set(flags_of(posterior)) & set(wanted):
        return False
    return not off(case, posterior) > WRONG


def off(case: Case, posterior: Posterior | None) -> float:
    """Return how far means are from those without the fault, in sds of both together, at most."""
    right = case.reference if case.final is None else case.final
    if posterior is None or right is None:
        return float("nan")
    far, flat = 0.0, posterior.flat()
    for name in posterior.problem.parameters:
        if name in right:
            both = np.hypot(np.nanstd(flat[name]), np.std(right[name]))
            far = max(far, float(abs(np.nanmean(flat[name]) - np.mean(right[name])) / both))
    return far
