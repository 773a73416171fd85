"""What is checked while the calibration of one subject is made, and the values that the checks return.

`OF_SETTINGS` look at what was passed, `OF_DATA` at the complete data, noise and discrepancy, and `OF_PRIOR` at draws of
the prior and what they predict. `SingleCalibration` runs them in this order. A new check is one function and its line.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from scipy.special import ndtr

from uqms.calibration.base import MASS_CUT_LIMIT, Derived, DerivedQuantities, Expansion
from uqms.calibration.density import latent_draws, possible, term_variance
from uqms.calibration.direct import design_box
from uqms.calibration.discrepancy import PREDICTIVE_SHARE
from uqms.calibration.observations import Observations
from uqms.calibration.scales import check_links
from uqms.calibration.tails import WARN, power_of_ten, two_sided
from uqms.calibration.truncation import DRAWS, check_known_noise, limits_known_noise
from uqms.errors import PACKAGE, DataWarning, ExtrapolationError, InputError, PriorConflictWarning
from uqms.parameters import ParameterSpace, TruncatedNormal
from uqms.surrogates.protocol import Surrogate

if TYPE_CHECKING:
    from uqms.calibration.single import SingleCalibration

__all__ = [
    "OF_DATA",
    "OF_PRIOR",
    "OF_SETTINGS",
    "check_parameters",
    "discrepancy_scale",
    "held",
    "mass_outside",
    "named_derived",
    "space_of",
    "warn_of_conflict",
    "with_link_errors",
]

SIMULATED, REPEATS = 1000, 4  # measurements; draws of noise for each of the output
LEAST_DRAWS = 100  # fewer tell nothing
IMPOSSIBLE = 0.05  # of the means of a count


# ------------------------------------------------------------------------------------------------- what was passed
def check_failures(surrogate: Surrogate, settings: Mapping[str, Any]) -> None:
    """Refuse an unknown setting of failures, and impossible failures without a model of them."""
    failures = settings["failures"]
    if failures not in ("report", "impossible"):
        raise InputError(f"failures is {failures!r}; give 'report' or 'impossible'.")
    if failures == "impossible" and settings["success"] is None:
        raise InputError(
            "failures='impossible': what fails? Give success=uq.SuccessProbability().fit(ensemble) too. (Of a "
            "simulator that is used directly, use DirectSimulator(..., failures='impossible').)"
        )


def check_expansion(surrogate: Surrogate, settings: Mapping[str, Any]) -> None:
    """Refuse an unknown expansion."""
    expansion = settings["expansion"]
    if expansion not in ("measured", "first-order", "links", "outputs", "none"):
        raise InputError(
            f"expansion is {expansion!r}; give 'measured', 'first-order' or 'none', or for a chain of surrogates "
            "'links' or 'outputs'."
        )


def check_outside(surrogate: Surrogate, settings: Mapping[str, Any]) -> None:
    """Refuse an unknown setting of outside, and "refined" of a surrogate that was not refined."""
    outside = settings["outside"]
    if outside not in ("error", "extrapolate", "refined"):
        raise InputError(f"outside is {outside!r}; give 'error', 'extrapolate' or 'refined'.")
    if outside == "refined" and not _is_refined(surrogate):
        raise InputError(
            "outside='refined' is for a surrogate whose newest runs were proposed by uq.refine(posterior, n), or "
            "by waves of history matching: only then it is known that nothing is lost outside of the box. Leave it "
            "out, or refine."
        )


def check_noise_given(surrogate: Surrogate, settings: Mapping[str, Any]) -> None:
    """Refuse a calibration without noise."""
    if settings["noise"] is None:
        raise InputError("Calibration: noise is missing; give e.g. noise=GaussianNoise(sd=HalfNormal(...)).")


OF_SETTINGS: tuple[Callable[[Surrogate, Mapping[str, Any]], None], ...] = (
    check_failures,
    check_expansion,
    check_outside,
    check_noise_given,
)


def _is_refined(surrogate: Surrogate) -> bool:
    """Tell whether the surrogate's box was put around an earlier posterior, or around what waves did not rule out."""
    text = getattr(surrogate, "attrs", {}).get("design")
    design = None if text is None else json.loads(text)
    if isinstance(design, dict) and design.get("method") == "verification":
        design = design.get("of")  # runs that verified a refined posterior lie in its box
    return isinstance(design, dict) and design.get("method") in ("refine", "waves")


def space_of(surrogate: Surrogate) -> ParameterSpace:
    """Return the space that a surrogate was trained on."""
    text = getattr(surrogate, "attrs", {}).get("space")
    if text is None:
        raise InputError("The surrogate does not know its priors; give Calibration(..., space=ParameterSpace(...)).")
    return ParameterSpace.from_json(text)


def held(
    given: Mapping[str, float] | None, space: ParameterSpace, surrogate: Surrogate, *, inside: bool
) -> dict[str, float]:
    """Return the parameters that are held at a number, in the order of the surrogate's inputs."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(f"fixed is {given!r}; give a mapping such as {{'gamma': 0.5}}.")
    box = surrogate.domain
    unknown = [name for name in given if name not in box.names]
    if unknown:
        raise InputError(f"fixed: {unknown} are no inputs of the surrogate, which has {list(box.names)}.")
    for name, value in given.items():
        if name in space.conditions:
            raise InputError(f"fixed: {name!r} is a known condition: give it with the observations, by experiment.")
        number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not number or not np.isfinite(value):
            raise InputError(f"fixed: {name!r} is {value!r}; give a finite number.")
        if name in space.names and not np.isfinite(space.priors[name].log_density(value)):
            raise InputError(
                f"fixed: {name!r} is held at {float(value):g}, which its prior {space.priors[name]!r} rules out. Give "
                "the calibration another space, or check the unit."
            )
        index = box.names.index(name)
        low, high, one = box.lower[index], box.upper[index], box.maps[index]
        if inside and not low <= value <= high:
            raise ExtrapolationError(
                f"fixed: {name!r} is held at {float(value):g}, but was simulated between {low:g} and {high:g}. Run a "
                "design that reaches it."
            )
        if not np.isfinite(one.forward(float(value))):
            raise InputError(f"fixed: {name!r} is {float(value):g}, of which the surrogate takes the {one.scale.name}.")
    if set(space.names) <= set(given):
        raise InputError(f"fixed: all parameters, {', '.join(space.names)}, are held; leave one to be inferred.")
    return {name: float(given[name]) for name in box.names if name in given}


def named_derived(given: DerivedQuantities, taken: tuple[str, ...]) -> dict[str, Derived]:
    """Return derived quantities, functions as `Derived` ones, after a check of their names."""
    out = {}
    for name, value in given.items():
        if name in taken:
            raise InputError(f"derived: {name!r} is the name of a parameter. Choose another.")
        if not isinstance(value, Derived) and not callable(value):
            raise InputError(f"derived: {name!r} is {value!r}; give a function of the parameters or Derived(...).")
        out[name] = value if isinstance(value, Derived) else Derived(value)
    return out


def with_link_errors(
    surrogate: Surrogate, expansion: Expansion, observations: Observations, conditions: Sequence[str]
) -> Surrogate:
    """Return the surrogate; of a chain whose links' errors are to be sampled, the one that has them as inputs.

    Raises
    ------
    InputError
        When conditions were measured with an error: where the errors are is not known then.
    """
    sampled = getattr(surrogate, "sampled", None)
    if sampled is None or expansion not in ("none", "outputs"):
        return surrogate
    if observations.conditions_sd:
        raise InputError(
            f"expansion={expansion!r}: conditions were measured with an error, so that it is unknown where errors "
            "of the chain's links are to be sampled. Leave it out: they are taken to first order."
        )
    known = {name: observations.conditions[name] for name in conditions if name in observations.conditions}
    return cast(Surrogate, sampled(known))


def check_parameters(surrogate: Surrogate, space: ParameterSpace, outside: str) -> None:
    """Refuse parameters that are no inputs of the surrogate, and priors that leave the scale of its inputs."""
    box = surrogate.domain
    lost = [name for name in space.names if name not in box.names]
    if lost:
        raise InputError(
            f"Parameters {lost} are no inputs of the surrogate, which has {list(box.names)}. Leave them out of the "
            "space, or vary them in the runs."
        )
    for name in space.names if outside == "extrapolate" else ():
        one = box.maps[box.names.index(name)]
        low, high = space.priors[name].support
        if not one.takes(low, high):
            raise InputError(
                f"outside='extrapolate': the prior of {name!r} admits [{low:g}, {high:g}], but the surrogate "
                f"takes its {one.scale.name}. Use a prior within that, or a design whose prior is on that scale."
            )


def mass_outside(surrogate: Surrogate, space: ParameterSpace, outside: str) -> float:
    """Return the prior's mass outside of the design box; refuse more than 1 % where `outside` is "error"."""
    box = design_box(surrogate)
    if box is None:
        return 0.0
    inside = float(space.mass_inside(box.select(space.names)))
    cut = max(0.0, 1.0 - inside)
    if cut > MASS_CUT_LIMIT and outside == "error":
        worst = min(space.names, key=lambda name: float(space.mass_inside(box.select((name,)))))
        index = box.names.index(worst)
        raise ExtrapolationError(
            f"{cut:.1%} of the prior's mass lies outside of the design box, most of it along {worst!r} (box "
            f"[{box.lower[index]:g}, {box.upper[index]:g}], prior {space.priors[worst]!r}). Run a design over "
            "the prior, uq.sobol(space, n), or narrow the prior. If you made the runs over this prior, say so when "
            "you make their table: uq.ensemble.build(..., space=space, box=space.box()). Or pass "
            "outside='extrapolate', or outside='refined' where uq.refine made the box."
        )
    return cut


# ------------------------------------------------------------------------------ data, noise and discrepancy
def discrepancy_scale(problem: "SingleCalibration") -> dict[str, float]:
    """Return the default scale of each observed output's discrepancy, on the surrogate's scale.

    It is the standard deviation of the measured values, so that the data decide how large the discrepancy is. What
    was measured at one place only, or hardly varies, has none to speak of: there it is a fraction of the
    prior-predictive standard deviation (a mean over the output's cells).
    """
    _, predicted, surrogate = problem.prior_predicted()
    variance = predicted.var(axis=0) + surrogate.mean(axis=0)
    scale = {}
    for g, (output, model) in enumerate(zip(problem.noise.outputs, problem.noise.models, strict=True)):
        predictive = float(np.sqrt(variance[problem.cells.output == output].mean()))
        scale[output] = max(problem.cells.spread(g, model), PREDICTIVE_SHARE * predictive)
    return scale


def check_condition_errors(problem: "SingleCalibration") -> None:
    """Refuse a discrepancy that is a function of a condition whose true value is unknown; tell of cut errors."""
    for column in sorted({column for _, column in problem.uncertain.values()}):
        name = problem.condition_names[column]
        for term in problem.noise.terms:
            _, sites = problem.cells.sites(term.group, problem.condition_names)
            if name not in sites.columns:
                continue
            other = sites._replace(columns={**sites.columns, name: 1.01 * sites.columns[name] + 0.1})
            before, after = term.place(sites), term.place(other)
            if not (np.array_equal(before.points, after.points) and np.array_equal(before.basis, after.basis)):
                raise InputError(
                    f"discrepancy of {term.output!r} is a function of {name!r}, which was measured with an error, "
                    "so that where it is to be taken is unknown. Leave the condition out of it: "
                    "GPDiscrepancy(over=[...]), or a function of its own for each experiment, shared=False."
                )
    for key, prior in problem.true_conditions.items():
        assert isinstance(prior, TruncatedNormal)
        cut = 1.0 - float(np.diff(ndtr((np.array(prior.support) - prior.mean) / prior.sd))[0])
        if cut > MASS_CUT_LIMIT:
            warnings.warn(
                f"{key}, measured as {prior.mean:g} with an sd of {prior.sd:g}: {cut:.0%} of what it may be lies "
                f"outside of the simulated range [{prior.low:g}, {prior.high:g}] and is taken to be impossible. If "
                "it is not, simulate a wider range, Condition(low, high).",
                DataWarning,
                skip_file_prefixes=PACKAGE,
            )


def check_names(problem: "SingleCalibration") -> None:
    """Refuse names that an input shares with the noise or with the data."""
    own = {"observations", "latents"}
    taken = {*problem.space.names, *problem.fixed, *problem.condition_names, *problem.uncertain, *own}
    clash = sorted(taken & set(problem.noise.unknown)) + sorted(own & {*problem.space.names, *problem.fixed})
    if clash:
        raise InputError(
            f"{clash} are names of the calibration's own noise or data as well as of an input. Rename the "
            "parameter in the space and in the simulator."
        )


OF_DATA: tuple[Callable[["SingleCalibration"], None], ...] = (check_condition_errors, check_names)


# --------------------------------------------------------------------------------------- draws of the prior
def check_constraints(problem: "SingleCalibration") -> None:
    """Refuse constraints that allow next to nothing of the prior."""
    _ = problem.conditioned_prior.allowed


def check_inputs_together(problem: "SingleCalibration") -> None:
    """Refuse several experiments where the surrogate knows no covariance of its errors between them."""
    problem.check_errors_between(problem.cells.conditions, "Calibration of several experiments")


def check_possible(problem: "SingleCalibration") -> None:
    """Refuse counts whose mean is impossible at too large a part of the prior (fixed seed)."""
    if not any(np.isfinite(model.limits).any() for model in problem.noise.models):
        return
    theta, rng = problem.prior_draws(256, 0), np.random.default_rng(0)
    phi = problem.noise.phi(theta, (256,))
    y = latent_draws(problem.data_model, problem.unit_inputs(theta), phi, rng)
    finite = np.isfinite(y)
    allowed = possible(problem.cells, problem.noise, y)
    for g, model in enumerate(problem.noise.models):
        at = problem.cells.group == g
        off = (~allowed & finite)[:, at].sum(axis=0) / np.maximum(finite[:, at].sum(axis=0), 1)
        if float(off.max()) > IMPOSSIBLE:
            output, (low, high) = problem.noise.outputs[g], model.limits
            way = "Logit" if np.isfinite(high) else "Log"
            what = "negative" if (low, high) == (0.0, np.inf) else f"outside of {low:g} to {high:g}"
            raise InputError(
                f"{type(model).__name__} of {output!r}: somewhere the mean is {what} at {off.max():.0%} of the "
                f"prior's draws (limit {IMPOSSIBLE:.0%}), the surrogate's error included, which no count has. Fit "
                f"the {'logit' if way == 'Logit' else 'logarithm'}, GaussianProcess(outputs={{{output!r}: "
                f"uq.Curve(transform=uq.{way}())}}) (uq.Scalar for a number), or run more points."
            )


def check_basis(problem: "SingleCalibration") -> None:
    """Refuse curves of which the basis leaves out too much beside known noise; a population is not asked."""
    model = problem.data_model
    if problem.individual or not limits_known_noise(model):
        return
    theta = problem.prior_draws(DRAWS, 0)
    check_known_noise(model, problem.unit_inputs(theta), model.noise.phi(theta, (DRAWS,)))


OF_PRIOR: tuple[Callable[["SingleCalibration"], None], ...] = (
    check_links,
    check_constraints,
    check_inputs_together,
    check_possible,
    check_basis,
)


def warn_of_conflict(problem: "SingleCalibration") -> None:
    """Compare each observation with draws of what the prior predicts (fixed seed: a check, no result)."""
    cells, rng = problem.cells, np.random.default_rng(0)
    if not problem.data_model.closed_form or problem.data_model.expanded or problem.noise.growth:
        draws, values = cells.linked(problem.simulate(problem.prior_draws(SIMULATED, 0), 0)), cells.z
        draws = draws[np.isfinite(draws).all(axis=1)]
        at, side = cells.row_cell, np.asarray(cells.side, dtype=np.float64)
    else:
        _, predicted, surrogate = problem.prior_predicted()
        theta = problem.prior_draws(REPEATS * len(predicted), 1)  # noise has draws of its own: its tail matters most
        sigma = problem.noise.values(theta, (len(theta[next(iter(theta))]),))[:, cells.group]
        extra = sum((term_variance(problem.data_model, term, theta) for term in problem.noise.terms), np.zeros(1))
        size = np.sqrt(np.tile(surrogate, (REPEATS, 1)) + extra + sigma**2 / cells.weight)
        draws = np.tile(predicted, (REPEATS, 1)) + size * rng.standard_normal(size.shape)
        values, at, side = cells.cell_mean, np.arange(len(cells.offset)), np.zeros(len(cells.offset))
    if len(draws) < LEAST_DRAWS:
        return
    level, middle = two_sided(draws, values), np.median(draws, axis=0)
    # A value below a limit that is far above of what is expected is no conflict.
    level = np.where(side * (values - middle) > 0.0, 1.0, level)
    worst = int(np.argmin(level))
    p = min(1.0, len(level) * float(level[worst]))
    if p < WARN:
        cell = int(at[worst])
        place = {dim: column[cell] for dim, column in cells.coords.items() if not np.isnan(column[cell])}
        place |= zip(problem.condition_names, cells.conditions[cells.experiment[cell]], strict=True)
        where = f" at ({', '.join(f'{name} = {value:g}' for name, value in place.items())})" if place else ""
        name, end = str(cells.output[cell]), "upper" if values[worst] > middle[worst] else "lower"
        own = np.flatnonzero((cells.output[at] == cells.output[cell]) & (side == 0.0))
        factor = power_of_ten(draws[:, own], values[own]) if len(own) and not cells.transformed else 0
        unit = f" Measurements of {name!r} are about {10.0**factor:g} times the prediction: a likely error of units."
        warnings.warn(
            f"The observation of {name!r}{where} lies in the {end} tail of what the prior predicts, p = {p:.2g} "
            f"(limit {WARN:g}).{unit if factor else ''} Check units and scale, or widen the prior.",
            PriorConflictWarning,
            skip_file_prefixes=PACKAGE,
        )
