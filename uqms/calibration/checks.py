"""Checks with a status, the number behind it and a remedy; the verdict that they form; and the draws that they use."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, NoReturn, final

import numpy as np

from uqms._typing import Array, Ints
from uqms.errors import InputError, UnknownKeyError

__all__ = ["PAGES", "Check", "Rescaled", "Sampled", "Status", "Verdict", "page_of"]

Status = Literal["pass", "note", "warn", "fail"]
ORDER: tuple[Status, ...] = ("fail", "warn", "note", "pass")
About = Literal["draws", "model", "surrogate", "parameters"]
PAGES = "docs/checks"  # a page with a worked example for every name of a check; test_docs compares the two

# What a check is about, in the order of what a remedy costs: sampling again, stating noise or prior anew, runs of the
# simulator, measurements. The first two also come first because the others are judged with these draws and this model.
# Within each a cause stands before what it causes: chains in two places before their R-hat, outliers before a misfit.
# An error that the surrogate understates can be what residuals show, so it stands before `RESIDUALS`.
ABOUT: dict[About, tuple[str, ...]] = {
    "draws": (
        "finite draws", "other modes", "energy", "divergences", "tree depth", "R-hat", "ESS", "moves", "approximation",
        "log evidence of runs", "Monte Carlo error", "sampler", "joint error", "first-order expansion",
    ),
    "model": (
        "prior predictions", "prior against data", "end of a prior", "outliers", "autocorrelated residuals",
        "predictive misfit", "discrepancy",
    ),
    "surrogate": (
        "prior mass cut", "edge of the design box", "failed runs", "truncation", "surrogate validation",
        "surrogate error", "size of the surrogate's error", "runs", "errors of an output", "effect on the posterior",
        "weights",
    ),
    "parameters": ("prior-dominated", "confounded", "prior sensitivity", "subjects"),
}  # fmt: skip
RESIDUALS = ("outliers", "autocorrelated residuals", "predictive misfit")
NAMING = ("prior against data", "end of a prior", "outliers")  # which prior or measurement makes predictions wrong
WITHOUT_DRAWS = ("prior predictions",)  # what no draw of the posterior has a part in: draws of wrong data mean nothing
FAILS: dict[About, str] = {
    "draws": "these draws are not the posterior's",
    "model": "model and data contradict each other",
    "surrogate": "the surrogate does not hold where the posterior is",
    "parameters": "the data do not determine the parameters",
}
WARNS: dict[About, str] = {
    "draws": "Use the intervals as approximate ones: draws are too few, do not agree, or come from an approximation.",
    "model": "Use the intervals only within this model, which does not describe the data well.",
    "surrogate": "Use the intervals for a first look only: the surrogate's error is large, or is not the stated one.",
    "parameters": "Use predictions under conditions like those of the data. Intervals of single parameters depend on "
    "more than the data.",
}
SEVEREST: tuple[About, ...] = ("model", "surrogate", "draws", "parameters")  # what a warning limits the use by most
HELD = "Use the intervals, which hold for the simulator too. The stated error of outputs is not the actual one."
USABLE = "Use the intervals of the parameters, and predictions under conditions like those of the data."
UNDERSTATED = 2.0  # mean square of left-out errors over the stated one, from which on it is named before residuals
NARROWED = 0.1  # of a parameter's variance, by the surrogate's error: above it, runs are what narrows intervals


def kind_of(name: str) -> str:
    """Return the kind of a check by the name that the verdict prints, which may name a part or an output."""
    kind = re.sub(r" \(.*\)$", "", name)  # checks of one of several parts have the name of the part in brackets
    return "errors of an output" if kind.startswith("errors of ") else kind


def about(name: str) -> About:
    """Return what a check is about, by the name that the verdict prints; one of a user's own judges the model."""
    return next((one for one, names in ABOUT.items() if kind_of(name) in names), "model")


def page_of(name: str) -> str:
    """Return the page of a check, by the name that the verdict prints: "docs/checks/r_hat.md" for "R-hat"."""
    return f"{PAGES}/{re.sub('[ -]', '_', kind_of(name).lower().replace("'", ''))}.md"


@final
@dataclass(frozen=True)
class Check:
    """A check of a posterior: its name, status, the number behind it, a message and a remedy.

    A note does not change the status of the verdict.
    """

    name: str
    status: Status
    value: float
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.status.upper():<4}  {self.name}: {self.message}"
        return text if self.status == "pass" else f"{text}\n      → {self.remedy}"


def _rank(check: Check) -> int:
    return ORDER.index(check.status)


def _understated(check: Check) -> bool:
    """Whether left-out errors of the surrogate are clearly larger than it states: data are then not to blame."""
    return kind_of(check.name) == "surrogate validation" and check.value > UNDERSTATED


def _cost(check: Check) -> tuple[int, int]:
    """Return the order in which remedies are named: by what they cost, and within that causes before consequences."""
    kind, group = kind_of(check.name), about(check.name)
    names = ABOUT[group]
    place = names.index(kind) if kind in names else len(names)
    return (-1 if kind in WITHOUT_DRAWS else list(ABOUT).index(group), place)


def _narrowed(checks: Sequence[Check]) -> str:
    """Return what would narrow intervals that may be used."""
    shares = [check.value for check in checks if kind_of(check.name) == "surrogate error"]
    share = max((one for one in shares if np.isfinite(one)), default=0.0)
    if share < NARROWED:
        return f"More measurements would narrow them{'; more runs would hardly do so' if share > 0.0 else ''}."
    return f"More runs near the posterior would narrow them: {share:.0%} of a variance is the surrogate's error."


@final
@dataclass(frozen=True)
class Verdict:
    """All checks of a posterior. The worst check determines the status."""

    checks: tuple[Check, ...]

    @property
    def status(self) -> Status:
        """The worst status: pass, warn or fail (notes count as passed)."""
        found = {check.status for check in self.checks}
        return "fail" if "fail" in found else "warn" if "warn" in found else "pass"

    @property
    def warnings(self) -> tuple[Check, ...]:
        """Checks that did not pass; without notes."""
        return tuple(check for check in self.checks if check.status in ("warn", "fail"))

    @property
    def notes(self) -> tuple[Check, ...]:
        """Checks that passed with a note."""
        return tuple(check for check in self.checks if check.status == "note")

    @property
    def pages(self) -> tuple[str, ...]:
        """Pages with a worked example of each check that warns or fails, in the order in which they are printed."""
        return tuple(dict.fromkeys(page_of(check.name) for check in sorted(self.warnings, key=_rank)))

    def __call__(self) -> NoReturn:
        """Raise: a verdict is printed, not called.

        Raises
        ------
        InputError
            Always.
        """
        raise InputError("verdict: it is no method; print(posterior.verdict), posterior.verdict.warnings.")

    def __getitem__(self, name: str) -> Check:
        for check in self.checks:
            if check.name == name:
                return check
        raise UnknownKeyError(
            f"verdict: no check is named {name!r}; the checks are {[check.name for check in self.checks]}."
        )

    @property
    def conclusion(self) -> str:
        """May the intervals be used, for what, and what improves them at the least cost.

        The worst checks decide. Of these, those whose remedies cost least come first: sampling again, another noise or
        prior, runs of the simulator, measurements. A surrogate that understates its error comes before what residuals
        show, which may be that error.
        """
        worst = [check for check in self.checks if check.status == self.status]
        if self.status == "pass":
            return f"{USABLE} {_narrowed(self.checks)}"
        first = min(worst, key=_cost)
        causes = [check for check in self.warnings if about(check.name) == about(first.name)]
        first = min((first, *causes), key=_cost)  # a funnel warns by the energy where R-hat fails
        if kind_of(first.name) in WITHOUT_DRAWS and first.status == "warn":
            named = [check for check in self.warnings if kind_of(check.name) in NAMING]
            first = min(named, key=_cost, default=first)
        if kind_of(first.name) in RESIDUALS:
            first = next((check for check in self.warnings if _understated(check)), first)
        step = f"First step: {re.split(r'(?<=[.:]) ', first.remedy)[0].rstrip(':.')}."
        if self.status == "fail":
            return f"Do not use these intervals: {FAILS[about(first.name)]}. {step}"
        if {kind_of(check.name) for check in worst} == {"errors of an output"} and self._holds:
            return f"{HELD} {step}"
        limiting = min((about(check.name) for check in worst), key=SEVEREST.index)
        return f"{WARNS['surrogate' if _understated(first) else limiting]} {step}"

    @property
    def _holds(self) -> bool:
        """Whether runs of the simulator have shown that the posterior is its own."""
        return any(kind_of(check.name) == "effect on the posterior" and check.status == "pass" for check in self.checks)

    def __str__(self) -> str:
        head = f"Verdict: {self.status.upper()}. {self.conclusion}"
        pages = (f"Pages: {', '.join(self.pages)}",) if self.pages else ()
        return "\n".join([head, *(str(check) for check in sorted(self.checks, key=_rank)), *pages])


class Rescaled(NamedTuple):
    """The posterior with another scale of the discrepancy, known by weights or by draws of its own.

    Attributes
    ----------
    factor
        Times the scale.
    shift
        By quantity: mean less mean, in posterior sds.
    width
        By quantity: width of the central 95 % interval over what it was.
    k_hat
        Of the weights; NaN where the other posterior was sampled.
    trusted
        Whether the figures may be used: of weights, k-hat is below 0.7 or they are nearly equal; of draws, the chains
        agree.
    sampler
        Class and size of the sampler of the other posterior, "" where draws were reweighted.
    r_hat
        Largest of the quantities where the other posterior was sampled, else NaN.
    """

    factor: float
    shift: Mapping[str, float]
    width: Mapping[str, float]
    k_hat: float
    trusted: bool
    sampler: str = ""
    r_hat: float = math.nan

    @property
    def way(self) -> str:
        """How the figures were found, for tables and messages."""
        if self.sampler:
            return f"refitted, {self.sampler}, R-hat {self.r_hat:.2f}"
        return f"reweighted, k-hat {self.k_hat:.2f}"


@final
@dataclass(frozen=True, eq=False)
class Sampled:
    """The results of a sampler that the verdict uses. Fields that are None or empty are not checked.

    Attributes
    ----------
    theta
        Draws of all inferred quantities in their units, each (chains * draws,).
    h
        Hyperparameter draw of each, (chains * draws,).
    shape, asked
        (chains, draws) that were returned, and that were requested.
    r_hat, ess
        By parameter: rank-normalised split R-hat, and the smaller of bulk and tail effective sample size.
    mcse
        By parameter: the largest Monte Carlo standard error of mean and 95 % limits, in posterior sds.
    divergences
        Number of divergent draws.
    energy
        Hamiltonian of the draws, (chains, draws).
    deepest
        Fraction of draws whose trajectory reached the maximum tree depth.
    log_likelihood
        Joint log-density of the data, (chains * draws,).
    starts
        Approximate posterior draws that chains could start from, by name.
    latents
        Draws of the latents (chains * draws, latents).
    predicted
        Draws (S, R) of all measurements from the prior predictive.
    derived
        Draws of derived quantities, (chains * draws,).
    of_sampler
        Checks that are particular to the sampler.
    approximate
        Whether the draws come from an approximation, which has no chains.
    rescaled
        How quantities move with other prior scales of the discrepancy, by the name of the piece that has it; in its
        place the reason why that is not known. Draws are reweighted where it is empty.
    """

    theta: Mapping[str, Array]
    h: Ints
    shape: tuple[int, int]
    asked: tuple[int, int]
    r_hat: Mapping[str, float] = field(default_factory=dict)
    ess: Mapping[str, float] = field(default_factory=dict)
    mcse: Mapping[str, float] = field(default_factory=dict)
    divergences: int | None = None
    energy: Array | None = None
    deepest: float | None = None
    log_likelihood: Array | None = None
    starts: Mapping[str, Array] | None = None
    latents: Array = field(default_factory=lambda: np.zeros((0, 0)))
    predicted: Array | None = None
    derived: Mapping[str, Array] = field(default_factory=dict)
    of_sampler: tuple[Check, ...] = ()
    approximate: bool = False
    rescaled: Mapping[str, tuple[Rescaled, ...] | str] = field(default_factory=dict)
