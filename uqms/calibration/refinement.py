"""More runs where the posterior is: which points, in which box, and whether another round is needed.

==========  ====================================================================  ===========
symbol      meaning                                                               shape
==========  ====================================================================  ===========
u           parameters in the unit cube of the surrogate's box                    (S, d)
C           covariance of the posterior's draws u                                 (d, d)
w           `widen`: candidates have the covariance w² C                          ()
L           L L' = C; distances between points are those of L^-1 u                (d, d)
U           units: subjects on an occasion; 1 without a population                ()
==========  ====================================================================  ===========

A surrogate needs runs where the likelihood is not negligible under its own error, which is more than where the
posterior will be in the end. The posterior of a few runs is honestly wide, since the surrogate's error is in it; so the
box around it holds that of more runs. A posterior that is narrow against the box gets a box of its own: there the
simulator is nearly linear, while length scales and variance that have to serve the whole prior serve no place well.

Of a population each subject is widened about its own median, by what is not known of it: how subjects differ is no
error of theirs, and a population widened as a whole reaches far beyond all of them (measured with 12 subjects: volumes
of 6 to 160 L instead of 17 to 61 L). New subjects are taken as the population's posterior has them.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
import xarray as xr

from uqms import _checks as check
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, Bools, Ints, RandomState, as_generator
from uqms.calibration.checks import Check, Verdict
from uqms.calibration.member_shares import chain_of
from uqms.calibration.misfit import rough_simulator
from uqms.calibration.population.calibration import Individuals
from uqms.calibration.population.layout import from_natural
from uqms.calibration.population.subject_checks import SUBJECT_EDGE_MASS
from uqms.calibration.posterior import Posterior, check_posterior
from uqms.calibration.single import SingleCalibration
from uqms.calibration.verdict import EDGE, EDGE_MASS
from uqms.designs import sobol
from uqms.errors import PACKAGE, ConvergenceWarning, InputError
from uqms.parameters import Box, ParameterSpace

__all__ = ["Round", "another_round", "design_of", "finite_draws", "refine", "widened"]

TAIL = 0.001  # of the draws beyond each end, before widening
FARTHER = 2.0  # boxes that a posterior may go on beyond an end at which all of its draws are
NARROW = 0.5  # of the box: a wider posterior leaves the box as it is in that parameter
FILL = 0.2  # of the points fill the box evenly: in its corners, too, something has to be known
CANDIDATES = (2_000, 10)  # at least so many, and so many for each point
TRIES = 200
POOLED = 8_000  # draws of new subjects
NUMBERS = 6_000_000  # of the draws of all subjects, at most
NEW = 0.25  # of the points near the posterior of a population lie where new subjects would
NEW_TAIL = 0.005  # of the new subjects beyond each end of the box
SHARE, MOVED = 0.25, 0.3
EFFECT = "effect on the posterior"
# Checks that more runs where the posterior is mend. The limit of "surrogate error" is the caller's `share`.
MENDED = frozenset(
    [
        "surrogate validation",
        "size of the surrogate's error",
        "truncation",
        "first-order expansion",
        "edge of the design box",
        EFFECT,
        "weights",
    ]
)


@taught
@single_threaded
def refine(
    posterior: Posterior,
    n: int,
    *,
    widen: float = 1.5,
    member: str | None = None,
    rng: RandomState | None = None,
) -> xr.Dataset:
    """Propose n design points near the posterior, for `uqms.run`.

    Use it when the verdict reports that the surrogate's error limits the precision, and from the start where the
    posterior will be much narrower than the prior. Points are draws of the widened posterior that lie far from each
    other and from the runs so far; a fifth fills the box. Each is at one of the observed conditions. Of a
    population they are draws of its subjects, each widened about its own median, and for a quarter draws of new ones.

    Parameters
    ----------
    posterior
        That of the runs there are.
    n
        Number of points. Ten for each parameter, or more, in each round.
    widen
        By how much the standard deviations of the posterior are enlarged, at least 1.
    member
        Of a chain of surrogates, the member that is to be run: the design has its inputs, and linked inputs are draws
        of what is passed on at the points. By default the member whose error is the largest fraction of a parameter's
        variance (`Posterior.member_share`); the design says which, ``design.attrs["design"]``.
    rng
        Whole number or generator.

    Returns
    -------
    xarray.Dataset
        A design. Its box reaches `widen` times as far from the posterior's median as the draws do, but no further than
        the prior; of a population so far for each subject, and to the central 99 % of new ones. Where the posterior
        leans on an end that is not the prior's it reaches further, by the range of the draws or half of the former box,
        and in other parameters by as much as regression on this one says. A parameter in which the box would be more
        than half of the former one keeps the former range, made longer where the posterior leans on an end. Fit to the
        runs inside of the box and tell the calibration that it was refined:
        ``settings.fit(uq.ensemble.inside(runs))``, ``Calibration(..., outside="refined")``.

    Raises
    ------
    InputError
        When n is no whole number above zero or less than the number of observed conditions, or widen is below 1.

    Warns
    -----
    ConvergenceWarning
        When the chains do not agree, so that the box may miss a part of the posterior.

    References
    ----------
    Kandasamy, Schneider & Póczos (2015), IJCAI, "Bayesian active learning for posterior estimation"; Kennard & Stone
    (1969), doi:10.1080/00401706.1969.10490666, for points far from each other.

    Examples
    --------
    One round: new runs, a surrogate of all that lie in the new box, and the same calibration again::

        design = uq.refine(posterior, 100, rng=2)
        runs = uq.ensemble.combine(runs, uq.run(simulator, design))
        surrogate = uq.GaussianProcess().fit(uq.ensemble.inside(runs))
        posterior = uq.Calibration(surrogate, observations, noise, outside="refined").sample(rng=2)
    """
    check_posterior(posterior, "refine")
    problem = posterior.hierarchy.problem.data if posterior.subjects else posterior.single
    conditions, places = problem.cells.conditions, np.arange(len(problem.cells.conditions))
    if posterior.subjects:  # they may all have been measured at conditions of their own
        places = np.unique(conditions, axis=0, return_index=True)[1]  # in order
        if isinstance(n, int) and 0 < n < len(places):  # all of their range
            places = places[np.linspace(0, len(places) - 1, n).round().astype(int)]
        conditions = conditions[places]
    if not check.is_whole(n, max(1, len(conditions))):
        raise InputError(
            f"refine: n is {n!r}; give a whole number of at least {max(1, len(conditions))}, one point for each of the "
            "observed conditions."
        )
    if member is not None and (posterior.subjects or chain_of(problem) is None):
        raise InputError(
            f"refine: member is {member!r}, but the posterior is none of one subject through a uq.Chain. Leave it out."
        )
    if not np.isfinite(widen) or widen < 1.0:
        raise InputError(f"refine: widen is {widen!r}; give a number of at least 1, such as 1.5.")
    apart = [check for check in posterior.verdict.checks if check.name == "R-hat" and check.status == "fail"]
    if apart:
        warnings.warn(
            f"refine: the chains do not agree ({apart[0].message}), so the points and the new box may miss a part of "
            "the posterior. Sample longer first, or check the next round carefully.",
            ConvergenceWarning,
            skip_file_prefixes=PACKAGE,
        )
    generator = as_generator(rng)
    seed = int(generator.integers(2**31))
    rng = np.random.default_rng(seed)
    cloud = _of_subjects(posterior, rng) if posterior.subjects else _of_one(posterior)
    box = _box_around(problem, cloud, widen)
    near = box.select(problem.parameters)
    u, new = np.asarray(near.to_unit(cloud.theta)), np.asarray(near.to_unit(cloud.new))
    metric = _metric(np.vstack([u.reshape(-1, near.d), new]))
    known = _known_runs(problem, near) @ metric
    even = np.asarray(near.to_unit(_columns(sobol(near, CANDIDATES[0], rng=seed))))
    count = min(round(FILL * n), n - 1)
    chosen = even[far_apart(even @ metric, known, count)]
    candidates = widened(u, widen, max(CANDIDATES[0], CANDIDATES[1] * int(n)), rng)
    inside = new[np.all((new >= 0.0) & (new <= 1.0), axis=1)][: round(NEW * len(candidates))]
    candidates = np.vstack([inside, candidates[len(inside) :]])
    more = candidates[far_apart(candidates @ metric, np.vstack([known, chosen @ metric]), int(n) - count)]
    # By chance, so that each condition and each part of the design has both kinds of points.
    points = rng.permutation(np.vstack([chosen, more]))
    condition = np.arange(n) % max(1, len(conditions))
    recipe = {"method": "refine", "n": int(n), "seed": seed, "over": "posterior", "widen": float(widen)}
    at = conditions[condition]
    if problem.uncertain:  # where the experiments may have been, not where they were measured
        picked = rng.integers(len(cloud.theta), size=int(n))
        for key, (k, column) in problem.uncertain.items():
            here = places[condition] == k
            at[here, column] = cloud.conditions[key][picked][here]
    design = design_of(problem, box, np.asarray(near.from_unit(points)), at, recipe)
    chain = None if posterior.subjects else chain_of(problem)
    if chain is None:
        return design
    return chain.design_of(design, _member(posterior) if member is None else member, rng)


def _member(posterior: Posterior) -> str:
    """Return the member of a chain whose error matters most to some parameter."""
    return str(posterior.member_share().max().idxmax())


class _Cloud(NamedTuple):
    """Draws of the simulator's parameters: of each unit (S, U, d), of new subjects (M, d), of conditions (S,)."""

    theta: Array
    new: Array
    conditions: Mapping[str, Array]


def _of_one(posterior: Posterior) -> _Cloud:
    problem, draws = posterior.single, finite_draws(posterior)
    theta = np.column_stack([draws[name] for name in problem.parameters])
    return _Cloud(theta[:, None], np.empty((0, theta.shape[1])), {name: draws[name] for name in problem.uncertain})


def _of_subjects(posterior: Posterior, rng: np.random.Generator) -> _Cloud:
    problem, layout = posterior.hierarchy.problem, posterior.hierarchy.problem.layout
    theta, z = posterior.flat(), posterior.latents
    finite = _finite(theta)
    names, individual = problem.data.parameters, problem.population.individual
    step = max(1, len(z) * len(layout.subject) * len(names) // NUMBERS)
    theta, z = {name: values[finite][::step] for name, values in theta.items()}, z[finite][::step]
    own = problem.individuals(theta, z)
    measured = problem.subjects.measured[layout.subject]  # others are where new ones are
    size = (len(z), int(measured.sum()))
    columns = [own[n][:, measured] if n in individual else np.broadcast_to(own[n][:, None], size) for n in names]
    picked, unit = rng.integers(len(z), size=POOLED), rng.integers(len(layout.subject), size=POOLED)
    few = {name: values[picked] for name, values in theta.items()}
    width = len(individual) + len(problem.population.occasions)
    natural = layout.one(few, rng.standard_normal((POOLED, width)), layout.subject[unit])
    new = {name: own[name][picked] for name in problem.population.shared}
    for i, (name, scale) in enumerate(zip(individual, problem.population.scales, strict=True)):
        new[name] = from_natural(natural[:, i], scale)
    conditions = {name: own[name] for name in problem.data.uncertain}
    return _Cloud(np.stack(columns, axis=2), np.column_stack([new[name] for name in names]), conditions)


def finite_draws(posterior: Posterior) -> dict[str, Array]:
    """Return all draws of what was inferred, each (S,), without those that are not finite."""
    draws = posterior.flat()
    finite = _finite(draws)
    return {name: values[finite] for name, values in draws.items()}


def _finite(draws: Mapping[str, Array]) -> Array:
    finite = np.all([np.isfinite(values) for values in draws.values()], axis=0)
    if not finite.any():
        raise InputError("The posterior has no finite draws. Sample again.")
    return np.asarray(finite)


def design_of(
    problem: SingleCalibration, box: Box, theta: Array, conditions: Array, recipe: Mapping[str, object]
) -> xr.Dataset:
    """Return the design of parameters (n, d) at conditions (n, c), both in their own units."""
    columns = dict(zip(problem.parameters, theta.T, strict=True))
    columns |= {name: np.full(len(theta), value) for name, value in problem.fixed.items()}
    columns |= dict(zip(problem.condition_names, conditions.T, strict=True))
    space = _space(problem)
    described = {name: space.attributes(name) for name in space.inputs} if space is not None else {}
    plain = {"role": "input", "unit": "", "description": ""}
    kinds = {name: "condition" if name in problem.condition_names else "parameter" for name in box.names}
    names = box.names if space is None else space.inputs
    data = {
        name: ("run", np.ascontiguousarray(columns[name]), described.get(name, {**plain, "kind": kinds[name]}))
        for name in names
    }
    attrs = {"box": json.dumps(box.to_dict(), allow_nan=False), "design": json.dumps(recipe, allow_nan=False)}
    if space is not None:
        attrs = {"space": space.to_json(), **attrs}
    return xr.Dataset(data, attrs=attrs)


def _space(problem: SingleCalibration) -> ParameterSpace | None:
    """Return the space of all inputs: that of the calibration, or of the runs where that lacks a condition."""
    names = set(problem.simulated.domain.names)
    if set(problem.space.inputs) == names:
        return problem.space
    text = getattr(problem.simulated, "attrs", {}).get("space")
    space = None if text is None else ParameterSpace.from_json(text)
    return space if space is not None and set(space.inputs) == names else None


def _columns(design: xr.Dataset) -> Array:
    return np.column_stack([values.values for values in design.data_vars.values()])


def _box_around(problem: SingleCalibration, cloud: _Cloud, widen: float) -> Box:
    """Return the box of the next round: smaller where the posterior is narrow, longer where it leans on an end."""
    old = problem.simulated.domain
    unit = old.select(problem.parameters)
    ends = np.quantile(unit.to_unit(cloud.theta), [TAIL, 0.5, 1.0 - TAIL], axis=0)  # (3, U, d)
    low, high = (ends[1] + widen * (ends[i] - ends[1]) for i in (0, 2))
    support = np.array([_support(problem, name) for name in problem.parameters]).T
    closed = np.stack([unit.lower <= support[0], unit.upper >= support[1]])
    limit = SUBJECT_EDGE_MASS if isinstance(problem, Individuals) else EDGE_MASS
    below, above = _cut_off(np.asarray(unit.to_unit(cloud.theta)), ends[2] - ends[0], closed, limit)
    low = np.minimum(low, np.where(below < 0.0, ends[0] + below, low)).min(axis=0)
    high = np.maximum(high, np.where(above > 0.0, ends[2] + above, high)).max(axis=0)
    if len(cloud.new):
        tails = np.quantile(unit.to_unit(cloud.new), [NEW_TAIL, 1.0 - NEW_TAIL], axis=0)
        low, high = np.minimum(low, tails[0]), np.maximum(high, tails[1])
    wide = high - low > NARROW
    low[wide], high[wide] = np.minimum(low[wide], 0.0), np.maximum(high[wide], 1.0)
    reach = np.asarray(unit.from_unit(np.stack([low, high])))
    lower, upper, hard = list(old.lower), list(old.upper), list(old.hard)
    for column, name in enumerate(problem.parameters):
        first, last = _support(problem, name)
        at = old.names.index(name)
        # Where a former end is kept, it is to the last digit.
        lower[at] = lower[at] if low[column] == 0.0 else max(float(reach[0, column]), first)
        upper[at] = upper[at] if high[column] == 1.0 else min(float(reach[1, column]), last)
        hard[at] = (lower[at] <= first, upper[at] >= last)
    return Box(old.names, tuple(lower), tuple(upper), old.scale, tuple(hard))


def _support(problem: SingleCalibration, name: str) -> tuple[float, float]:
    return problem.support(name) if isinstance(problem, Individuals) else problem.space.priors[name].support


def _cut_off(u: Array, ranges: Array, closed: Bools, limit: float) -> tuple[Array, Array]:
    """Return how far the posterior may go on below and above draws u (S, U, d) with these ranges, each (U, d).

    Where it leans on an end of the box that is not the prior's (`closed`, (2, d)), what the box has cut off may be as
    long as what is there, and longer if most of the draws are at that end. Regression on this parameter, which a cut
    leaves as it is, says where the others go with it.
    """
    at_end = np.stack([u < EDGE, u > 1.0 - EDGE]).mean(axis=1)
    way = np.array([-1.0, 1.0])[:, None, None] * np.maximum(np.minimum(ranges, NARROW), FARTHER * at_end)
    beyond = np.where((at_end > limit) & ~closed[:, None], way, 0.0)  # (2, U, d)
    off = u - u.mean(axis=0)
    covariance = np.einsum("sud,sue->ude", off, off)
    slopes = covariance / np.maximum(np.einsum("udd->ud", covariance), 1e-300)[:, :, None]
    moved = beyond[..., None] * slopes  # of each parameter by each that is cut
    return moved.min(axis=(0, 2), initial=0.0), moved.max(axis=(0, 2), initial=0.0)


def _metric(u: Array) -> Array:
    """Return M (d, d) with which u @ M has the identity as covariance."""
    covariance = np.atleast_2d(np.cov(u.T))
    sd = np.sqrt(np.maximum(np.diagonal(covariance), 1e-24))
    correlation = covariance / np.outer(sd, sd) + 1e-6 * np.eye(len(sd))
    return np.asarray(np.linalg.inv(np.linalg.cholesky(correlation) * sd[:, None]).T)


def _known_runs(problem: SingleCalibration, near: Box) -> Array:
    """Return the parameters of the surrogate's runs in the unit cube of the new box, where they are known."""
    process = getattr(problem.surrogate, "process", None)
    if process is None:
        return np.empty((0, near.d))
    box = problem.simulated.domain
    x = np.asarray(box.from_unit(process.x))[:, [box.names.index(name) for name in near.names]]
    u = np.asarray(near.to_unit(x))
    return u[np.all((u >= -0.5) & (u <= 1.5), axis=1)]


def widened(u: Array, widen: float, count: int, rng: np.random.Generator) -> Array:
    """Return points (count, d) in the unit cube, those of each unit with about widen² times its draws' covariance.

    Each is a draw of `u` (S, U, d) and a normal error, so that bent and separate parts of a posterior keep their shape.
    """
    S, units, d = u.shape
    off = u - u.mean(axis=0)
    covariance = np.einsum("sud,sue->ude", off, off) / max(S - 1, 1)
    ridge = 1e-12 * np.trace(covariance, axis1=1, axis2=2) + 1e-24
    root = np.linalg.cholesky(covariance + ridge[:, None, None] * np.eye(d))
    found, total = [], 0
    for _ in range(TRIES):
        step = rng.standard_normal((count, d)) * np.sqrt(widen**2 - 1.0)
        row = rng.integers(S * units, size=count)
        points = u[row // units, row % units] + np.einsum("nde,ne->nd", root[row % units], step)
        points = points[np.all((points >= 0.0) & (points <= 1.0), axis=1)]
        found.append(points)
        total += len(points)
        if total >= count:
            break
    return np.vstack(found)[:count]


def far_apart(points: Array, known: Array, n: int) -> Ints:
    """Return which n of the points lie far from each other and from the known ones: always the farthest is next."""
    distance = np.full(len(points), np.inf)
    for start in range(0, len(known), 64):
        gap = points[:, None, :] - known[None, start : start + 64]
        distance = np.minimum(distance, np.sum(gap**2, axis=2).min(axis=1))
    if not len(known):  # the first is the one in the middle
        distance = -np.sum((points - points.mean(axis=0)) ** 2, axis=1)
    chosen = np.empty(n, dtype=np.int64)
    for i in range(n):
        chosen[i] = int(np.argmax(distance))
        if i == 0 and not len(known):
            distance = np.full(len(points), np.inf)
        distance = np.minimum(distance, np.sum((points - points[chosen[i]]) ** 2, axis=1))
    return chosen


@final
@dataclass(frozen=True)
class Round:
    """Whether another round of runs is needed; true in an `if` when it is.

    Attributes
    ----------
    needed
        Whether more runs would correct a check that fails or an error that is too large.
    share
        Largest fraction of the variance of a quantity that is due to the surrogate's error.
    moved
        Largest change of a posterior mean since the previous round, in sds; NaN without one.
    reasons
        The reasons, with the remedies.
    remaining
        Checks of the verdict that fail or warn and that more runs do not correct.
    """

    needed: bool
    share: float
    moved: float
    reasons: tuple[str, ...]
    remaining: tuple[Check, ...] = ()

    def __bool__(self) -> bool:
        return self.needed

    def __str__(self) -> str:
        if self.needed:
            head = "Another round is needed"
        elif self.remaining:
            failing = ", ".join(f"{check.name} ({check.status.upper()})" for check in self.remaining)
            head = f"More runs do not help: these checks fail for other reasons: {failing}"
        else:
            head = "No further round is needed"
        lines = [f"{head}: {'; '.join(self.reasons)}."] if self.needed or not self.remaining else [f"{head}."]
        return "\n".join(lines + [f"  {check.name}: {check.message}. {check.remedy}" for check in self.remaining])


@taught
def another_round(
    posterior: Posterior,
    previous: Posterior | None = None,
    *,
    share: float = SHARE,
    moved: float = MOVED,
) -> Round:
    """Return whether more runs near the posterior are needed, and which checks fail for other reasons.

    Use it in a loop of `refine`, `run`, fit and calibration. Every check of the verdict counts: those that more runs
    correct ask for another round, and the others are listed, so that it never reports that all is done while one fails.
    With ``uq.verify(...).posterior`` the checks on the simulator count too.

    Parameters
    ----------
    posterior
        The newest; of a population, its typical values, omegas and effects are compared.
    previous
        That of the round before, if there was one.
    share
        Accepted fraction of a quantity's variance that is due to the surrogate's error; a quarter makes
        intervals 15 % wider than those of the simulator itself.
    moved
        Change of a posterior mean since the previous round, in sds, below which it is accepted.

    Returns
    -------
    Round
        True in an `if` when another round is needed; print it for the reasons.

    Raises
    ------
    InputError
        When the two have different parameters, or a limit is not positive.
    """
    check_posterior(posterior, "another_round")
    for name, value in (("share", share), ("moved", moved)):
        if not value > 0.0:
            raise InputError(f"another_round: {name} is {value!r}; give a number above zero.")
    names = posterior.problem.parameters
    if previous is not None and previous.problem.parameters != names:
        raise InputError(
            f"another_round: the parameters are {list(names)}, those of the previous round "
            f"{list(previous.problem.parameters)}."
        )
    shares = {str(name): float(posterior.surrogate_share[name]) for name in names}
    worst = max(shares, key=lambda name: shares[name])
    reasons = [f"the surrogate's error is {shares[worst]:.0%} of the variance of {worst}, accepted below {share:.0%}"]
    needed = not shares[worst] < share
    change = float("nan")
    if previous is not None:
        new, old = finite_draws(posterior), finite_draws(previous)
        steps = {name: abs(float(new[name].mean() - old[name].mean())) / float(new[name].std()) for name in names}
        most = max(steps, key=lambda name: steps[name])
        change = steps[most]
        reasons.append(f"{most} moved by {change:.2f} sd since the previous round, accepted below {moved:g}")
        needed |= not change < moved
    mended = [check for check in posterior.verdict.warnings if _mended(check, posterior.verdict)]
    reasons += [f"{check.name}: {check.message}. {check.remedy}".rstrip(".") for check in mended]
    needed |= bool(mended)
    if needed:
        reasons += _rough(posterior)
        if chain_of(posterior.problem) is not None:
            table = posterior.member_share()
            member = str(table.max().idxmax())
            reasons.append(
                f"the error of {member!r} is the largest part, {table[member].max():.0%} of the variance of "
                f"{table[member].idxmax()}: uqms.refine(posterior, n, member={member!r})"
            )
    remaining = tuple(check for check in posterior.verdict.warnings if check not in mended)
    return Round(needed, shares[worst], change, tuple(reasons), remaining)


def _mended(check: Check, verdict: Verdict) -> bool:
    """Return whether more runs mend what a check found: not errors that leave the posterior as it is."""
    name = check.name.split(" (")[0]
    if name.startswith("errors of "):
        return check.status == "fail" or any(one.name == EFFECT for one in verdict.warnings)
    return name in MENDED


def _rough(posterior: Posterior) -> list[str]:
    """Return what to do where runs scatter: more of them do not help a surrogate that takes them as exact."""
    words = []
    for part, problem in posterior.problem.named_parts.items():
        found, remedy = rough_simulator(problem.data_model)
        if found:
            words.append(f"the simulator{f' of part {part!r}' if part else ''} is rough: {found}. {remedy}")
    return words
