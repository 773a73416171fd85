"""Checks with a status, the number behind it and a remedy; the verdict that they form; and the draws that they use."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, final

import numpy as np

from uqms._typing import Array, Ints
from uqms.errors import UnknownKeyError

__all__ = ["PAGES", "Check", "Sampled", "Status", "Verdict", "page_of"]

Status = Literal["pass", "note", "warn", "fail"]
ORDER: tuple[Status, ...] = ("fail", "warn", "note", "pass")
PAGES = "docs/checks"  # a page with a worked example for every name of a check; test_docs compares the two


def page_of(name: str) -> str:
    """Return the page of a check, by the name that the verdict prints: "docs/checks/r_hat.md" for "R-hat"."""
    kind = re.sub(r" \(.*\)$", "", name)  # checks of one of several parts have the name of the part in brackets
    if kind.startswith("errors of "):  # the name ends with that of an output
        kind = "errors of an output"
    return f"{PAGES}/{re.sub('[ -]', '_', kind.lower().replace("'", ''))}.md"


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

    def __getitem__(self, name: str) -> Check:
        for check in self.checks:
            if check.name == name:
                return check
        raise UnknownKeyError(
            f"verdict: no check is named {name!r}; the checks are {[check.name for check in self.checks]}."
        )

    def __str__(self) -> str:
        head = {
            "pass": "Verdict: PASS. All checks passed.",
            "warn": "Verdict: WARN. Read these warnings before you use the intervals:",
            "fail": "Verdict: FAIL. Do not use these intervals:",
        }[self.status]
        pages = (f"Pages: {', '.join(self.pages)}",) if self.pages else ()
        return "\n".join([head, *(str(check) for check in sorted(self.checks, key=_rank)), *pages])


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
