"""What a kind of fault is, one case of it, and the oracles that know the kind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from _bases import Array, Part, Study, exact_draws, exact_posterior
from scipy.stats import chi2

from uqms.calibration.posterior import Posterior

ORACLE_LEVEL = 0.0025
NULL_DRAWS = 4000


@dataclass(frozen=True, eq=False)
class Case:
    """A faulty calibration as a user meets it.

    Attributes
    ----------
    study
        What the user has, faulty.
    posterior
        The posterior whose verdict is judged; None where it was refused.
    reference
        Draws of the same data without the fault; None where nothing else could be measured.
    oracle
        p-value of a test that knows the kind of fault; NaN where there is none.
    raised
        The error in the posterior's place.
    final
        Draws of the same data with the simulator itself, where the reference has a surrogate's error.
    extra
        Quantities that could be measured too.
    truth
        The true parameters.
    unit
        Of the measurements, over that of the simulator: what is found where units are checked.
    without
        From a subject's name to the posterior of the others.
    accurate
        The same simulators with an accurate solver.
    """

    study: Study
    posterior: Posterior | None
    reference: Mapping[str, Array] | None
    oracle: float = float("nan")
    raised: str = ""
    final: Mapping[str, Array] | None = None
    extra: tuple[Part, ...] = ()
    truth: Mapping[str, float] | None = None
    accurate: tuple[Part, ...] = ()
    unit: float = 1.0
    without: Callable[[str], Posterior] | None = None

    @property
    def text(self) -> str:
        """What the user reads: the verdict, or the error."""
        return self.raised if self.posterior is None else str(self.posterior.verdict)

    @property
    def flags(self) -> tuple[str, ...]:
        """Names of the checks that warn or fail, without their part."""
        if self.posterior is None:
            return ("refused",)
        return flags_of(self.posterior)


def flags_of(posterior: Posterior) -> tuple[str, ...]:
    """Return the names of checks that warn or fail, without their part or output."""
    names = (check.name.split(" (")[0] for check in posterior.verdict.warnings)
    return tuple("errors of an output" if name.startswith("errors of ") else name for name in names)


class Fault(NamedTuple):
    """A kind of fault: from a seed to a case; the checks of which one counts as found; and what its oracle is."""

    draw: Callable[[int], Case]
    wanted: tuple[str, ...]
    oracle: str = ""  # "" where there is none


def faulty(study: Study, right: Study | None, seed: int, **more: Any) -> Case:
    """Return the case of a faulty study with exact draws, beside the posterior of the right one."""
    study = study.fitted()
    posterior = exact_posterior(study.problem(), seed)
    reference = None if right is None else exact_draws(right.problem(), np.random.default_rng([seed, 3]))
    return Case(study, posterior, reference, **more)


def with_draws(study: Study, seed: int) -> tuple[Study, Any, dict[str, Array]]:
    """Return a right study with its surrogates, its problem and exact draws, for faults of the draws."""
    study = study.fitted()
    problem = study.problem()
    return study, problem, exact_draws(problem, np.random.default_rng([seed, 3]))


# -------------------------------------------------------------------------------------------------------------- oracles
def slopes(study: Study, truth: Mapping[str, float]) -> Array:
    """Return the effect (m, d) of a prior sd of each parameter on all outputs, at the truth."""
    rng = np.random.default_rng(0)
    columns = []
    for name in study.space.names:
        sd = float(np.std(study.space.priors[name].draw(rng, 2000)))
        ends = [{**truth, name: truth[name] + sign * 1e-4 * sd} for sign in (1.0, -1.0)]
        up, down = (np.concatenate([part.function(end, part.at) for part in study.parts]) for end in ends)
        columns.append((up - down) / 2e-4)
    return np.column_stack(columns)


def likelihood_ratio(
    study: Study, truth: Mapping[str, float], added: Array, values: Array | None = None, seed: int = 0
) -> float:
    """Return p of the most powerful test: noise as stated against `added` covariance (m, m) beside it.

    The parameters are linearised at the truth and integrated out, under their priors' variances.
    """
    sd = np.concatenate([np.full(len(part.at), part.sd) for part in study.parts])
    means = np.concatenate([part.function(truth, part.at) for part in study.parts])
    data = np.concatenate([one.mean(axis=1) for one in study.values]) if values is None else values
    J = slopes(study, truth)
    null = np.diag(sd**2) + J @ J.T
    other = null + added
    root = np.linalg.cholesky(null)
    form = np.linalg.inv(null) - np.linalg.inv(other)
    drawn = root @ np.random.default_rng(seed).standard_normal((len(sd), NULL_DRAWS))
    statistics = np.einsum("is,ij,js->s", drawn, form, drawn)
    residual = data - means
    return float((1 + np.sum(statistics >= residual @ form @ residual)) / (NULL_DRAWS + 1))


def of_squares(study: Study, truth: Mapping[str, float], factor: float) -> float:
    """Return p of the residual sum of squares where the noise sd is stated `factor` times as large as it is."""
    stated = np.concatenate([np.full(len(part.at), part.sd * factor) for part in study.parts])
    means = np.concatenate([part.function(truth, part.at) for part in study.parts])
    residual = (np.concatenate([one[:, 0] for one in study.values]) - means) / stated
    J = slopes(study, truth) / stated[:, None]
    left = residual - J @ np.linalg.lstsq(J, residual, rcond=None)[0]
    freedom = len(stated) - J.shape[1]
    square = float(left @ left)
    return float(chi2.cdf(square, freedom) if factor > 1.0 else chi2.sf(square, freedom))
