"""Which dose keeps a concentration where it should be, for a patient of the calibration, a new one, or such patients.

All doses are predicted from the same draws, so that probabilities of two doses differ by the doses and not by chance.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from uqms import _checks as check
from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, RandomState, as_generator
from uqms.calibration.events import conditions_of_runs, usual_regimen
from uqms.calibration.population.subject import SubjectPosterior
from uqms.calibration.posterior import Posterior
from uqms.calibration.predict import PosteriorPrediction
from uqms.errors import InputError
from uqms.parameters import Regimen
from uqms.surrogates.superposition import REGIMEN, Superposition

__all__ = ["DoseChoice", "dose_for"]

MOST = 500  # amounts


@final
@dataclass(frozen=True, eq=False)
class DoseChoice:
    """Amounts with the probability that the target is met; made by `dose_for`.

    Attributes
    ----------
    table
        By amount: `probability` that the target is met at all times, its Monte Carlo standard error `mcse`, and the
        median and 95 % interval of the output that decides (the lowest one of the times for a lower limit, else the
        highest): `median`, `low`, `high`.
    chosen
        The smallest amount with the required probability, the largest where there is an upper limit only; None where no
        amount has it.
    regimen
        The regimen with that amount; None where there is none.
    probability
        The required one.
    target
        The target in words.
    """

    table: pd.DataFrame
    chosen: float | None
    regimen: Regimen | None
    probability: float
    target: str

    def __repr__(self) -> str:
        text = self.table.to_string(float_format=lambda value: f"{value:.3g}")
        if self.chosen is None:
            best = self.table["probability"].idxmax()
            found = f"no amount has it; the best is {best:g}, with {self.table['probability'].max():.3g}"
        else:
            found = f"the choice is {self.chosen:g}: {self.regimen!r}"
        return f"{text}\n{self.target} with probability {self.probability:g}: {found}"


@taught
@single_threaded
def dose_for(
    source: Posterior | SubjectPosterior,
    regimen: Callable[[float], Regimen],
    amounts: Sequence[float] | Array,
    *,
    at: ArrayLike,
    above: float | None = None,
    below: float | None = None,
    probability: float = 0.9,
    subject: str | None = None,
    covariates: Mapping[str, float] | None = None,
    conditions: Mapping[str, float] | None = None,
    output: str | None = None,
    noise: bool = False,
    rng: RandomState = 0,
) -> DoseChoice:
    """Return the probability of reaching a target for each amount, and the amount to choose.

    Use it for the next dose of a patient, or for the dose of a label: the probability is over everything that is not
    known, parameters, the surrogate's error given the data and, for a new patient, how patients differ.

    Parameters
    ----------
    source
        Posterior with a `Superposition` as its surrogate, or with one of runs of ``FunctionSimulator(..., regimen=)``,
        of a system that is not linear in the dose; or a `SubjectPosterior` of one.
    regimen
        From an amount to the regimen, ``lambda mg: uq.Regimen.repeated(mg, every=12, doses=6)``; doses that were given
        already go into it: ``lambda mg: given + uq.Regimen.single(mg, time=24.0)``. Where the system is not linear it
        is regular (`Regimen.conditions`), and differs from that of the runs only in what is a condition of the space.
    amounts
        Those to compare.
    at
        Times at which the target has to be met, all of them.
    above, below
        Limits of the output; one or both.
    probability
        The required one.
    subject
        Of a population: a subject of the calibration. When left out, a new patient, with `covariates`.
    covariates
        By column name, of a new patient.
    conditions
        Known inputs, one number each.
    output
        Which one; needed when there are several.
    noise
        Whether the target is on what is measured, with measurement noise, instead of the true concentration.
    rng
        For the draws.

    Returns
    -------
    DoseChoice
        A table by amount, and the choice.

    Raises
    ------
    InputError
        No limit, amounts that are not positive, a surrogate whose regimens are not known, regimens that its runs do not
        cover, unknown subjects or outputs.
    ExtrapolationError
        When the unit response was not simulated for long enough.

    Notes
    -----
    The Monte Carlo standard error counts draws as independent, and those of a `SubjectPosterior` by its `ess`. Amounts
    share their draws, so that differences between them are more precise than that.

    Examples
    --------
    >>> import numpy as np, pandas as pd, uqms as uq
    >>> hours = np.linspace(0.0, 24.0, 25)
    >>> space = uq.ParameterSpace(k=uq.Uniform(0.1, 0.3))
    >>> unit = uq.DirectSimulator(
    ...     lambda k: np.exp(-k * hours), space=space, outputs={"conc": ("time",)}, coords={"time": hours}
    ... )
    >>> given = uq.Regimen.single(100.0)
    >>> rows = {"ID": [1, 1, 1], "TIME": [0.0, 1.0, 6.0], "AMT": [100.0, 0, 0], "DV": [0, 82.0, 31.0]}
    >>> data = uq.Observations.from_events(pd.DataFrame(rows), id="ID", time="TIME", amount="AMT", value="DV")
    >>> problem = uq.Calibration(uq.Superposition(unit, data.regimens), data, uq.GaussianNoise(sd=3.0))
    >>> posterior = problem.sample(uq.SMC(particles=200), rng=1)
    >>> choice = uq.dose_for(
    ...     posterior, lambda mg: given + uq.Regimen.single(mg, time=8.0), [50.0, 100.0, 200.0], at=[16.0], above=20.0
    ... )
    >>> choice.chosen
    100.0
    """
    values = _amounts(amounts)
    times = np.atleast_1d(check.real_array(at, "dose_for: at"))
    check.probability("dose_for", "probability", probability)
    limits = {
        name: check.number("dose_for", name, value)
        for name, value in (("above", above), ("below", below))
        if value is not None
    }
    if not limits:
        raise InputError("dose_for: give a limit of the output, above= or below=, or both.")
    if above is not None and below is not None and not above < below:
        raise InputError(
            f"dose_for: no output is above {above:g} and below {below:g}; give the smaller number as above=, the "
            "larger one as below=."
        )
    regimens = [_regimen(regimen, value) for value in values.tolist()]
    name, surrogate = _output(source, output)
    dim = surrogate.layouts[name].dims[0]
    predict, effective = _prediction(source, subject, covariates, rng)
    seed = rng if isinstance(rng, int) else int(as_generator(rng).integers(2**31))  # the same for all amounts
    asked = {"outputs": name, "noise": noise, "rng": seed}
    if isinstance(surrogate, Superposition):
        found = predict(conditions=conditions, coords={dim: times, REGIMEN: regimens}, **asked)
        y = _draws(found, name, ("sample", dim, REGIMEN))
    else:
        every = [conditions_of_runs(one, surrogate) for one in regimens]
        if twice := sorted(set(every[0]) & set(conditions or {})):
            raise InputError(f"dose_for: {twice[0]!r} is a part of the regimen; leave it out of conditions=.")
        one_by_one = [predict(conditions={**(conditions or {}), **one}, coords={dim: times}, **asked) for one in every]
        y = np.stack([_draws(found, name, ("sample", dim)) for found in one_by_one], axis=2)
    met = np.ones((y.shape[0], y.shape[2]), dtype=np.bool_)
    if "above" in limits:
        met &= (y > limits["above"]).all(axis=1)
    if "below" in limits:
        met &= (y < limits["below"]).all(axis=1)
    fractions = met.mean(axis=0)
    count = min(float(len(y)), effective)
    decides = y.min(axis=1) if "above" in limits else y.max(axis=1)
    low, median, high = np.quantile(decides, [0.025, 0.5, 0.975], axis=0)
    table = pd.DataFrame(
        {
            "probability": fractions,
            "mcse": np.sqrt(fractions * (1.0 - fractions) / count),
            "median": median,
            "low": low,
            "high": high,
        },
        index=pd.Index(values, name="amount"),
    )
    enough = np.flatnonzero(fractions >= probability)
    pick = None if not len(enough) else int(enough[0] if "above" in limits else enough[-1])
    words = " and ".join(f"{key} {value:g}" for key, value in limits.items())
    place = f"{dim} {', '.join(f'{one:g}' for one in times)}"
    return DoseChoice(
        table,
        None if pick is None else float(values[pick]),
        None if pick is None else regimens[pick],
        float(probability),
        f"{name} {words} at {place}",
    )


def _amounts(given: object) -> Array:
    values = np.unique(np.atleast_1d(check.real_array(given, "dose_for: amounts")))  # type: ignore[arg-type]
    if not len(values) or len(values) > MOST or not np.all((values > 0.0) & np.isfinite(values)):
        raise InputError(f"dose_for: amounts is {given!r}; give 1 to {MOST} amounts above 0.")
    return values


def _regimen(make: object, amount: float) -> Regimen:
    if not callable(make):
        raise InputError(
            f"dose_for: regimen is {make!r}; give a function of the amount, lambda mg: uq.Regimen.repeated(mg, ...)."
        )
    made = make(amount)
    if not isinstance(made, Regimen):
        raise InputError(f"dose_for: regimen({amount:g}) is a {type(made).__name__}; return a uq.Regimen.")
    return made


def _output(source: object, output: str | None) -> tuple[str, Any]:
    """Return the output and the surrogate."""
    posterior = source.population if isinstance(source, SubjectPosterior) else source
    if not isinstance(posterior, Posterior):
        raise InputError(f"dose_for: got a {type(source).__name__}; give a posterior, or posterior.new_subject(...).")
    data: Any = posterior.problem
    surrogate = getattr(data, "surrogate", None)
    if surrogate is None or not (isinstance(surrogate, Superposition) or usual_regimen(surrogate)):
        raise InputError(
            "dose_for: which regimens this surrogate was trained for is not known. It is of a uq.Superposition, and of "
            "runs of uq.FunctionSimulator(..., regimen=...). Otherwise predict under several doses: "
            "posterior.predict(conditions={'dose': amounts}, ...)."
        )
    known: list[str] = [name for name, layout in surrogate.layouts.items() if layout.dims]
    name = known[0] if output is None and len(known) == 1 else output
    if name is None or name not in known:
        raise InputError(f"dose_for: output is {output!r}; give one of {known}.")
    return name, surrogate


def _prediction(
    source: Posterior | SubjectPosterior, subject: str | None, covariates: Mapping[str, float] | None, rng: RandomState
) -> tuple[Callable[..., PosteriorPrediction], float]:
    """Return what predicts, and how many independent draws its predictions are worth at most."""
    if isinstance(source, SubjectPosterior) or source.problem.kind != "population":
        if subject is not None or covariates is not None:
            raise InputError("dose_for: subject= and covariates= are for the posterior of a population.")
    if isinstance(source, Posterior) and (source.problem.kind != "population" or subject is not None):
        if covariates is not None:
            raise InputError("dose_for: a subject of the calibration has its covariates; leave covariates= out.")
        return partial(source.predict, subjects=subject), np.inf
    if isinstance(source, Posterior):
        source = source.new_subject(covariates=covariates, rng=rng)
    return source.predict, source.ess


def _draws(found: PosteriorPrediction, output: str, dims: tuple[str, ...]) -> Array:
    """Return the draws of an output of one subject under one condition."""
    draws = found.draws[output]
    alone = [one for one in ("subject", "condition", "input") if one in draws.dims]
    return np.asarray(draws.squeeze(alone).transpose(*dims), dtype=np.float64)
