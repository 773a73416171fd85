"""What a verdict is made of: checks with a status, the figure behind it, and what to do; and what they look at."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, final

import numpy as np

from uqms._typing import Array, Ints
from uqms.errors import UnknownKeyError

__all__ = ["Check", "Sampled", "Status", "Verdict"]

Status = Literal["pass", "note", "warn", "fail"]
ORDER: tuple[Status, ...] = ("fail", "warn", "note", "pass")


@final
@dataclass(frozen=True)
class Check:
    """One check: its name, status, the figure behind it, what it means and what to do.

    A note is worth reading but no reason to doubt: it leaves the verdict as it is.
    """

    name: str
    status: Status
    value: float
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.status.upper():<4}  {self.name}: {self.message}"
        return text if self.status == "pass" else f"{text}\n      → {self.remedy}"


@final
@dataclass(frozen=True)
class Verdict:
    """All checks of a posterior; its status is that of the worst."""

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
        """Checks that passed and have something to say."""
        return tuple(check for check in self.checks if check.status == "note")

    def __getitem__(self, name: str) -> Check:
        for check in self.checks:
            if check.name == name:
                return check
        raise UnknownKeyError(f"verdict: no check {name!r}; there are {[check.name for check in self.checks]}.")

    def __str__(self) -> str:
        head = {
            "pass": "Verdict: PASS. No check objects to this posterior.",
            "warn": "Verdict: WARN. Read these before you use the intervals:",
            "fail": "Verdict: FAIL. These intervals should not be used:",
        }[self.status]
        order = sorted(self.checks, key=lambda check: ORDER.index(check.status))
        return "\n".join([head, *(str(check) for check in order)])


@final
@dataclass(frozen=True, eq=False)
class Sampled:
    """What a sampler returned, as far as the verdict looks at it; what is not told (None, empty) is not judged.

    Attributes
    ----------
    theta
        Draws of everything inferred, own units, each (chains * draws,).
    h
        Hyperparameter draw of each, (chains * draws,).
    shape, asked
        (chains, draws) there are, and that were asked for.
    r_hat, ess
        By parameter: rank-normalised split R-hat, and the smaller of bulk and tail effective sample size.
    mcse
        By parameter: the largest Monte Carlo standard error of mean and 95 % limits, in posterior sds.
    divergences
        Number of divergent draws.
    energy
        Hamiltonian of the draws, (chains, draws).
    deepest
        Share of draws whose trajectory was cut off at the greatest tree depth.
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
