"""What a calibration cannot do, and what to do instead: one table for all problems.

`SETTINGS` says which keyword belongs to which kind of problem; `Calibration(...)` consults it first. `LIMITS` says
which call a combination of subjects, noise, discrepancy, surrogate and sampler rules out. The constructor warns of what
would be missed after the sampling; `problem.limitations` has all rows that apply; the call itself raises that text.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, final

from uqms.calibration.direct import has_derivative, is_exact
from uqms.calibration.joint_error import compiled_process
from uqms.errors import PACKAGE, CapabilityWarning, ConformanceError, InputError
from uqms.surrogates.protocol import Surrogate

if TYPE_CHECKING:
    from uqms.calibration.base import Problem

__all__ = [
    "LIMITS",
    "SETTINGS",
    "Features",
    "Kind",
    "Limit",
    "check_settings",
    "has_process",
    "limit_of",
    "limitations",
    "refuse",
    "warn_ahead",
]

type Kind = Literal["one", "parts", "population"]

ONE: frozenset[Kind] = frozenset(["one"])
PARTS: frozenset[Kind] = frozenset(["parts"])
POPULATION: frozenset[Kind] = frozenset(["population"])

KINDS: Mapping[Kind, str] = {
    "one": "a calibration of one subject",
    "parts": "a calibration of several parts",
    "population": "the calibration of a population",
}

# By keyword: which kinds of problems take it, and what to do in the others. All take keywords that are not here.
SETTINGS: Mapping[str, tuple[frozenset[Kind], str]] = {
    "fixed": (
        ONE,
        "Leave the parameter out of space=ParameterSpace(...), and give its value as a column of the observations, "
        "Observations.from_table(..., conditions=[...]): what is not in the space is a known condition.",
    ),
    "constraints": (
        ONE,
        "Infer what is free of them, such as the ratio of two parameters with a prior on (0, 1), and let the simulator "
        "take it.",
    ),
    "success": (
        ONE,
        "Narrow the priors to where runs succeed, or calibrate one part or one subject: Calibration(surrogate, "
        "observations, noise, success=...).",
    ),
    "failures": (ONE, "It belongs to success=, which is for a calibration of one subject."),
    "realisation": (
        ONE,
        "There, what is measured in one experiment is one run, as with realisation='experiment'; name the experiments, "
        "Observations.from_table(..., experiment=column).",
    ),
    "missing": (ONE, "Drop missing values where the table is read: Observations.from_table(..., missing='drop')."),
    "subjects": (POPULATION, "subjects is for a population: Calibration(..., population=uq.Population(...))."),
    "surrogate_error": (POPULATION, "It is for a population: Calibration(..., population=uq.Population(...))."),
    "without_data": (POPULATION, "It is for a population: Calibration(..., population=uq.Population(...))."),
    "population": (POPULATION, "Several surrogates with populations are not joined; calibrate one at a time."),
}


def has_process(surrogate: Surrogate) -> bool:
    """Return whether compiled code can read a surrogate."""
    return compiled_process(surrogate) is not None


@final
@dataclass(frozen=True)
class Features:
    """What decides about a call: the kind of a problem, and what it is made of.

    Attributes
    ----------
    kind
        "one" set of parameters and one surrogate, several "parts", or a "population".
    form
        How the likelihood is computed: normal errors, "independent" or "correlated", or "latent".
    discrepancy
        Whether the simulator has one.
    surrogate
        "process" (the library's Gaussian process), "plugged" (any other), or "exact" (the simulator itself).
    stochastic
        Whether the data are realisations of a stochastic simulator.
    derivative
        Of the surrogate: "everywhere", "not at jumps", or "none" (a black box).
    inexact
        Whether a condition was measured with an error.
    series
        Whether some noise is correlated along a coordinate.
    """

    kind: Kind = "one"
    form: Literal["independent", "correlated", "latent"] = "independent"
    discrepancy: bool = False
    surrogate: Literal["process", "plugged", "exact"] = "process"
    stochastic: bool = False
    derivative: Literal["everywhere", "not at jumps", "none"] = "everywhere"
    inexact: bool = False
    series: bool = False

    @classmethod
    def of(cls, problem: "Problem") -> "Features":
        """Return those of a problem; of several surrogates the one that can do least counts."""
        each = [piece.problem for piece in problem.pieces(dict.fromkeys(problem.priors))]
        forms = {one.data_model.form for one in each}
        exact = [is_exact(one.surrogate) for one in each]
        rough = [not has_derivative(one.surrogate) for one in each]
        box = any(bad and known for bad, known in zip(rough, exact, strict=True))
        own = all(
            known or (has_process(one.surrogate) and one.cells.by_input is None)
            for one, known in zip(each, exact, strict=True)
        )
        return cls(
            kind=problem.kind,
            form="latent" if "latent" in forms else "correlated" if "correlated" in forms else "independent",
            discrepancy=any(one.noise.has_discrepancy for one in each),
            surrogate="exact" if all(exact) else "process" if own else "plugged",
            stochastic=any(one.realisation is not None for one in each),
            derivative="none" if box else "not at jumps" if any(rough) else "everywhere",
            inexact=any(bool(one.uncertain) for one in each),
            series=any(model.process is not None for one in each for model in one.noise.models),
        )

    @property
    def closed_form(self) -> bool:
        """Whether the surrogate's error given all data of a population is in closed form."""
        return self.surrogate != "exact" and self.form == "independent" and not self.stochastic

    @property
    def simulated(self) -> bool:
        """Whether parameters say all of the outputs, and measurements are independent given these."""
        return self.surrogate == "exact" and not self.discrepancy and not self.series and not self.stochastic


@final
@dataclass(frozen=True)
class Limit:
    """One row of the table.

    Attributes
    ----------
    call
        What cannot be done, as it is called.
    applies
        For which problems.
    message
        Why, and what to do instead; {surrogate}, {parts} and {conditions} are filled in.
    error
        Class of the error that the call raises.
    ahead
        Whether the constructor warns, as it would be missed only when the sampling is over.
    """

    call: str
    applies: Callable[[Features], bool]
    message: str
    error: type[InputError] = InputError
    ahead: bool = False


def _population(features: Features) -> bool:
    return features.kind == "population"


def _parts(features: Features) -> bool:
    return features.kind == "parts"


def _no_new_subject(features: Features) -> bool:
    return features.kind == "population" and not (features.closed_form or features.simulated)


NEW_SUBJECT = (
    "What is known of a subject who was not in the calibration is in closed form: it requires the simulator itself "
    "(DirectSimulator) or a surrogate with Gaussian noise on its scale, and no discrepancy. posterior.predict has the "
    "outputs of those who were; for another one calibrate again, with the new subject in the table."
)
OF_A_PART = "This is the posterior of several parts; use posterior.part(name), one of {parts}."

LIMITS: tuple[Limit, ...] = (
    Limit(
        "NUTS",
        lambda one: one.derivative == "not at jumps",
        "NUTS needs derivatives, which a {surrogate} does not have everywhere: where its outputs jump the likelihood "
        "does, and chains with gradients do not cross that. Sample without: problem.sample(uq.SMC()), which also finds "
        "the modes on both sides, or uq.Metropolis().",
        ConformanceError,
    ),
    Limit(
        "NUTS",
        lambda one: one.derivative == "none",
        "NUTS needs derivatives, which this simulator, a black box, does not have. Sample without gradients: "
        "problem.sample(uq.SMC()); or write the function in PyTensor or JAX and use DirectSimulator(..., "
        "backend='pytensor') or backend='jax'; or fit a surrogate, which has derivatives.",
        ConformanceError,
    ),
    Limit(
        "maximum_a_posteriori",
        _population,
        "The mode of a population and of all its subjects together depends on how the subjects are written, and its "
        "spreads are far off. Sample it, problem.sample(uq.NUTS()).",
    ),
    Limit("new_subject", _no_new_subject, NEW_SUBJECT, ahead=True),
    Limit(
        "visual_predictive_check",
        lambda one: _population(one) and one.discrepancy,
        "visual_predictive_check: a discrepancy given the data has no closed form for new subjects; check a "
        "calibration without it.",
        ahead=True,
    ),
    Limit(
        "visual_predictive_check",
        lambda one: _no_new_subject(one) and one.surrogate != "exact",
        NEW_SUBJECT,
        ahead=True,
    ),
    Limit(
        "profile_likelihood",
        _population,
        "profile_likelihood: the likelihood of a population's quantity is an integral over all its subjects, and its "
        "maximum over them misleads (spreads of zero). To see what the data show, use posterior.summary(), "
        "'prior-dominated' in posterior.verdict, posterior.shrinkage(). Of one subject give a Calibration of its rows "
        "alone.",
    ),
    Limit(
        "hierarchy",
        lambda one: not _population(one),
        "This is no posterior of a population: individuals, effects, individual_summary, shrinkage, new_subject and "
        "predict(subjects=...) are of Calibration(..., population=uq.Population(...)).sample().",
    ),
    Limit(
        "log_evidence",
        _population,
        "log_evidence: the prior of a population's subjects is cut at the design box, by a fraction that depends on "
        "the population, so its evidence is not known. Compare populations by posterior.tree['log_likelihood'], "
        "arviz.compare({{name: posterior.tree, ...}}).",
    ),
    Limit(
        "compare_models",
        _population,
        "compare_models: give posteriors of one subject. Those of populations have one term per subject, not a "
        "measurement: arviz.compare({{name: posterior.tree, ...}}).",
    ),
    Limit(
        "predictive_check",
        _population,
        "predictive_check: give the posterior of one subject, as of problem.sample(...). Of a population: "
        "uq.diagnostics.visual_predictive_check(posterior).",
    ),
    Limit(
        "identifiability",
        _population,
        "identifiability: give the posterior of one subject, problem.sample(...). Of a population "
        "posterior.shrinkage() shows how much the data inform each subject's parameters.",
    ),
    Limit(
        "plots.predictive",
        _population,
        "plots.predictive: give the posterior that Calibration(...).sample() returns for one subject. Of a population: "
        "uq.plots.individual_fits, uq.plots.visual_predictive_check.",
    ),
    *(
        Limit(
            f"plots.{plot}",
            _population,
            f"plots.{plot}: give the posterior that Calibration(...).sample() returns for one subject. Of a "
            "population: uq.plots.individuals, uq.plots.effects, ArviZ on posterior.tree.",
        )
        for plot in ("pairs", "prior_posterior")
    ),
    Limit("single", _parts, OF_A_PART),
    Limit(
        "single",
        _population,
        "This is the posterior of a population; one set of parameters is required here. Calibrate one subject, or see "
        "posterior.individuals and posterior.new_subject(...).",
    ),
    Limit("propagate", _parts, "propagate: give one part, posterior.part(name), of {parts}."),
    Limit(
        "propagate",
        _population,
        "propagate: specify whose parameters are meant. Of a subject who was not in it: patient = "
        "posterior.new_subject(...), then uq.propagate(surrogate, patient.draws, conditions={{...}}); of one who was: "
        "posterior.individuals.sel(subject=...). These draw the surrogate's error without the data; "
        "patient.predict(...) and posterior.predict(...) draw it given them.",
    ),
    Limit(
        "rescale_discrepancy",
        lambda one: _parts(one) and one.discrepancy,
        "rescale_discrepancy: take one part: posterior.part(name).rescale_discrepancy().",
    ),
    Limit(
        "rescale_discrepancy",
        lambda one: _population(one) and one.discrepancy,
        "rescale_discrepancy: draws of a population are not reweighted. Calibrate it again with half and twice the "
        "prior scale, Calibration(..., discrepancy=GPDiscrepancy(sd=...)), and compare.",
    ),
    Limit(
        "rescale_discrepancy",
        lambda one: not one.discrepancy,
        "rescale_discrepancy: there is none; give Calibration(..., discrepancy=GPDiscrepancy()).",
    ),
    Limit("observe", _parts, "observe: {parts} have a surrogate each; give problem.parts[name], one a call."),
    Limit(
        "latent_output",
        _parts,
        "latent_output: {parts} have a surrogate each; give problem.parts[name], one a call.",
    ),
    Limit(
        "latent_output",
        _population,
        "latent_output: give the calibration of one subject, or take the population's own likelihood, "
        "uq.observe(problem, ...).",
    ),
    Limit(
        "verification_design",
        lambda one: one.inexact,
        "verification_design: the true conditions {conditions} are unknown, so that the simulator cannot be run at the "
        "observed ones. Test the surrogate with runs of your own: uq.held_out.",
    ),
)


def limitations(problem: "Problem") -> dict[str, str]:
    """Return what a problem cannot do, by call, with the reason and what to do instead."""
    features = Features.of(problem)
    out: dict[str, str] = {}
    for limit in LIMITS:
        if limit.applies(features):
            out.setdefault(limit.call, _text(limit, problem))
    return out


def refuse(problem: "Problem", call: str) -> None:
    """Raise the error of a call that a problem cannot do; nothing where it can.

    Raises
    ------
    InputError
        With the reason and what to do instead; a `ConformanceError` where it is the surrogate that cannot.
    """
    if _rows(problem, call):
        raise limit_of(problem, call)


def limit_of(problem: "Problem", call: str) -> InputError:
    """Return the error of a call that a problem cannot do."""
    limit = _rows(problem, call)[0]
    return limit.error(_text(limit, problem))


def _rows(problem: "Problem", call: str) -> list[Limit]:
    features = Features.of(problem)
    return [limit for limit in LIMITS if limit.call == call and limit.applies(features)]


def warn_ahead(problem: "Problem") -> None:
    """Warn of calls that will be missed when the sampling is over.

    Warns
    -----
    CapabilityWarning
        One for each reason.
    """
    features = Features.of(problem)
    reasons: dict[str, list[str]] = {}
    for limit in LIMITS:
        if limit.ahead and limit.applies(features):
            reasons.setdefault(_text(limit, problem), []).append(limit.call)
    for reason, calls in reasons.items():
        warnings.warn(
            f"The posterior of this calibration will have no {' and no '.join(calls)}: {reason}",
            CapabilityWarning,
            skip_file_prefixes=PACKAGE,
        )


def check_settings(kind: Kind, settings: Mapping[str, Any]) -> None:
    """Refuse keywords that belong to other kinds of problems.

    Raises
    ------
    InputError
        With what to do instead.
    """
    for name, value in settings.items():
        kinds, instead = SETTINGS.get(name, (frozenset(KINDS), ""))
        if value is not None and kind not in kinds:
            raise InputError(f"{name}= does not go with {KINDS[kind]}. {instead}")


def _text(limit: Limit, problem: "Problem") -> str:
    pieces = problem.pieces(dict.fromkeys(problem.priors))
    each = [piece.problem for piece in pieces]
    rough = [type(one.surrogate).__name__ for one in each if not has_derivative(one.surrogate)]
    return limit.message.format(
        surrogate=rough[0] if rough else type(each[0].surrogate).__name__,
        parts=[name for piece in pieces for name in piece.parts],
        conditions=[name for one in each for name in one.uncertain],
    )
