"""`Calibration`: what users construct, and the base of the three kinds of problems that it makes."""

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, get_overloads, overload

import pandas as pd
import xarray as xr

from uqms.calibration.base import DerivedQuantities, Expansion, Problem
from uqms.calibration.capabilities import Kind, check_settings
from uqms.calibration.discrepancy import Discrepancies
from uqms.calibration.noise import NoiseModel
from uqms.calibration.observations import Measured, Observations
from uqms.calibration.realisation import Runs
from uqms.errors import InputError
from uqms.parameters import ParameterSpace
from uqms.surrogates.protocol import Surrogate

if TYPE_CHECKING:
    from uqms.calibration.parts import JointCalibration
    from uqms.calibration.population.calibration import PopulationCalibration
    from uqms.calibration.population.population import Population
    from uqms.calibration.single import SingleCalibration
    from uqms.surrogates import FittedProbability

__all__ = ["Calibration"]


class Calibration(Problem):
    """Infer parameters from observations through a surrogate, with the surrogate's error in the likelihood.

    It is one of three kinds of problems. One subject and one surrogate make a `SingleCalibration`. Several experiments
    that have simulators of their own are given as a mapping, `Calibration({"clamp": (s1, observations1), "beat": (s2,
    observations2)}, noise={"clamp": ..., "beat": ...})`, and make a `JointCalibration`. Several subjects are given with
    ``population=uq.Population(...)`` and make a `PopulationCalibration`.

    The likelihood holds the joint error of the surrogate (the same input shares one error, different inputs have
    correlated ones), what its basis leaves out of a curve, the measurement noise, and, of a stochastic simulator whose
    noise the surrogate learned, that the data are one realisation of it.

    Parameters
    ----------
    surrogate
        A fitted surrogate; or the simulator itself, `DirectSimulator(...)`, when it is cheap; or several with their
        observations, by name, see `JointCalibration`.
    observations
        `Observations`; a DataArray named like the output, several in a list, or a Dataset; or values by output,
        ``{"peak": 3.1, "pressure": array}``, where an array without coordinates has the shape of the output's runs.
    noise
        A noise model, e.g. `GaussianNoise(...)`, or one an output in a mapping.
    discrepancy
        What the simulator misses: `GPDiscrepancy()` and its like, one, several in a list, or by output in a mapping.
    realisation
        Of a stochastic simulator, one run is what was observed, not the mean of its runs. "experiment" (default): all
        that is measured in one experiment (label and conditions) is one run, new in another experiment; replicates
        share it. "replicate": each replicate is a run of its own. "none": what was measured is the simulator's *mean*,
        e.g. an average over very many runs. Without noise in the surrogate it says nothing.
    space
        Parameters with their priors; by default those of the ensemble that the surrogate was trained on.
    fixed
        Parameters that are held at a number instead of inferred: ``{"gamma": 0.5}``. In a joint block the others keep
        their distribution given that number.
    constraints
        Inequalities that parameters have to fulfil, such as ``["beta > gamma"]``, of numbers, parameters (fixed ones
        too), ``+ - * / **``, log, exp, sqrt and abs. The prior is conditioned on them, evidence is relative to that.
    derived
        Name → `Derived(...)` or a plain function of the parameters (fixed ones too).
    outside
        What to do when more than 1 % of the prior's mass lies outside of the design box: "error" (default), or
        "extrapolate" to use the whole prior, where the surrogate knows little and chains may wander off. With "error"
        the prior is conditioned on the box; `mass_cut` says how much that cuts. "refined" is for a surrogate of runs
        that `refine` proposed: its box was put around an earlier posterior, so that the prior's mass outside of it
        carries no likelihood; the verdict fails when the posterior comes near an end of it.
    success
        Where runs succeed, `SuccessProbability().fit(ensemble)`: the surrogate was trained on the successes alone. Of a
        `Chain`, for each member whose runs may fail, ``{"patch": SuccessProbability().fit(runs_of_patch)}``: linked
        inputs are what is passed on, averaged over the error of the surrogates.
    failures
        With `success`: "report" (default) tells in summary and verdict how much of the posterior lies where runs fail;
        "impossible" says that what was measured cannot be where the simulator has no answer, as when the measured
        patient is alive and the simulated one is not: the prior is p(θ) P(success | θ), normalised, in all draws,
        samplers and the evidence. Of several conditions the least probable success counts.
    expansion
        How the surrogate's error enters where the surrogate models the logarithm or logit of an output and noise is
        Gaussian in the output's own unit. "first-order" integrates it out in closed form, with the output expanded to
        first order in the error around the surrogate's mean (delta method); "none" samples the error as standard normal
        latents beside the parameters, which is exact and takes several times as long. "measured" (default) expands
        where that changes the log-likelihood by less than 0.05 nats on average, measured at parameters that the data
        leave plausible (a short run with a fixed seed: `expansion_loss`), and samples the error otherwise. The verdict
        measures it again at draws of the posterior. Of other outputs and noise models it says nothing. Of a `Chain` it
        says the same of the errors of its links: expanded to first order, or sampled beside the parameters; "links" and
        "outputs" expand one kind alone.
    missing
        "drop" leaves out observed values that are NaN; by default they are an error.
    population
        Of several subjects, how they differ, `Population(...)`: returns a `PopulationCalibration`. The observations say
        whose each is (`subject`).
    subjects
        Of a population, a table with one row per subject: its covariates.

    Raises
    ------
    InputError
        Unknown outputs, missing conditions, a parameter that the surrogate does not have, noise, discrepancy or
        realisation that do not fit the outputs, a fixed value that the prior rules out, constraints that allow less
        than 1 % of the prior.
    ConformanceError
        Several experiments, and a surrogate of your own that knows no covariance of its errors between inputs.
    ExtrapolationError
        More than 1 % of the prior's mass, a fixed value, a condition or a coordinate outside of what was simulated.
    DataError
        NaN among the observations.

    Warns
    -----
    DataWarning
        When replicates of a stochastic simulator say that its noise is not normal, or more than 1 % of what a
        condition measured with an error may be lies outside of what was simulated.
    PriorConflictWarning
        When an observation lies in a tail of what the prior predicts, with a probability below 0.001.

    References
    ----------
    Kennedy & O'Hagan (2001), doi:10.1111/1467-9868.00294; Bayarri et al. (2007), doi:10.1198/004017007000000092.

    Examples
    --------
    >>> import numpy as np, xarray as xr, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 16, rng=1)
    >>> runs = uq.ensemble.build(design, {"y": np.sin(design["k"].values)})
    >>> surrogate = uq.GaussianProcess().fit(runs)
    >>> problem = uq.Calibration(surrogate, xr.DataArray(0.5, name="y"), noise=uq.GaussianNoise(sd=0.1))
    >>> problem.parameters
    ('k',)
    """

    @overload
    def __new__(
        cls,
        surrogate: Mapping[str, tuple[Surrogate, Measured]],
        *,
        noise: Mapping[str, NoiseModel | Mapping[str, NoiseModel]],
        discrepancy: Mapping[str, Discrepancies] | None = None,
        space: ParameterSpace | None = None,
        derived: DerivedQuantities | None = None,
        outside: Literal["error", "extrapolate", "refined"] = "error",
        expansion: Expansion | Mapping[str, Expansion] = "measured",
    ) -> "JointCalibration": ...

    @overload
    def __new__(  # type: ignore[overload-overlap]  # without a population it is the next
        cls,
        surrogate: Surrogate,
        observations: Measured,
        noise: NoiseModel | Mapping[str, NoiseModel],
        *,
        population: "Population",
        subjects: pd.DataFrame | None = None,
        discrepancy: Discrepancies | None = None,
        derived: DerivedQuantities | None = None,
        outside: Literal["error", "extrapolate", "refined"] = "error",
        surrogate_error: Literal["auto", "exact", "low-rank"] = "auto",
        expansion: Expansion = "measured",
        without_data: Literal["error", "predict"] = "error",
    ) -> "PopulationCalibration": ...

    @overload
    def __new__(
        cls,
        surrogate: Surrogate,
        observations: Measured,
        noise: NoiseModel | Mapping[str, NoiseModel],
        *,
        discrepancy: Discrepancies | None = None,
        realisation: Runs = "experiment",
        space: ParameterSpace | None = None,
        fixed: Mapping[str, float] | None = None,
        constraints: str | Sequence[str] | None = None,
        derived: DerivedQuantities | None = None,
        outside: Literal["error", "extrapolate", "refined"] = "error",
        success: "FittedProbability | Mapping[str, FittedProbability] | None" = None,
        failures: Literal["report", "impossible"] = "report",
        expansion: Expansion = "measured",
        missing: Literal["error", "drop"] = "error",
        population: "Population | None" = None,
        subjects: pd.DataFrame | None = None,
    ) -> "SingleCalibration": ...

    def __new__(cls, surrogate: Any = None, *arguments: Any, **settings: Any) -> Self:
        """Return a problem of the kind that the arguments describe, to be initialised with them."""
        if cls is not Calibration:
            return super().__new__(cls)
        _check_first(surrogate, arguments, settings)
        several = isinstance(surrogate, Mapping)
        kind: Kind = "parts" if several else "population" if settings.get("population") is not None else "one"
        check_settings(kind, settings)
        if several and arguments:
            raise InputError("Calibration of several parts: give noise= by name, after the mapping of parts.")
        # The kinds import this class, so that it cannot import them: it asks Python for its subclasses, and the
        # package imports all three.
        return super().__new__(next(one for one in cls.__subclasses__() if one.kind == kind))


def _check_first(surrogate: object, arguments: Sequence[object], settings: Mapping[str, object]) -> None:
    """Refuse what is no surrogate, and arguments that are swapped.

    Raises
    ------
    InputError
        With the call that was meant.
    """
    how = "uq.Calibration(surrogate, observations, noise=uq.GaussianNoise(sd=...))"
    observations = arguments[0] if arguments else settings.get("observations")
    if surrogate is None:
        raise InputError(f"Calibration: surrogate is missing; the call is {how}.")
    if isinstance(surrogate, Observations | xr.DataArray) or (
        isinstance(surrogate, pd.DataFrame | list | float | int) and hasattr(observations, "scores")
    ):
        raise InputError(f"Calibration: observations come second; the call is {how}.")
    if isinstance(surrogate, xr.Dataset | pd.DataFrame):
        raise InputError(
            f"Calibration: surrogate is a {type(surrogate).__name__}, such as a table of runs; fit a surrogate to the "
            "ensemble first: surrogate = uq.GaussianProcess().fit(ensemble)."
        )
    if isinstance(surrogate, Mapping):
        return
    if isinstance(surrogate, type) or not (hasattr(surrogate, "scores") and hasattr(surrogate, "domain")):
        called = surrogate.__name__ if isinstance(surrogate, type) else type(surrogate).__name__
        if callable(getattr(surrogate, "fit", None)):
            raise InputError(
                f"Calibration: surrogate is {called}(...), which was not fitted; give what fit returns: "
                f"uq.{called}(...).fit(ensemble)."
            )
        if callable(surrogate) or callable(getattr(surrogate, "evaluate", None)):
            what = "a function" if callable(surrogate) else f"a {called}"
            raise InputError(
                f"Calibration: surrogate is {what}, a simulator. Where a run takes milliseconds, give "
                "uq.DirectSimulator(function, space=space, outputs={...}); otherwise run a design and fit: "
                "uq.GaussianProcess().fit(uq.run(simulator, uq.sobol(space, 100, rng=1)))."
            )
        raise InputError(f"Calibration: surrogate is a {called}; the call is {how}.")
    if observations is None:
        raise InputError(f"Calibration: observations are missing; the call is {how}.")
    numbers = isinstance(observations, list | tuple) and not any(isinstance(one, xr.DataArray) for one in observations)
    if numbers or isinstance(observations, int | float):
        name = next(iter(getattr(surrogate, "layouts", {"y": 0})))
        raise InputError(
            f"Calibration: observations is {observations!r}; state of which output, and where: {{{name!r}: 2.0}} for a "
            "number, xr.DataArray(values, dims='time', coords={'time': times}, name=...) for a curve."
        )
    if isinstance(observations, pd.DataFrame):
        raise InputError(
            "Calibration: observations is a DataFrame; name its columns: uq.Observations.from_table(df, "
            "output='conc', value='mg_L', coords={'time': 'h'})."
        )


_signature = inspect.signature(get_overloads(Calibration.__new__)[-1])  # that of one subject has the most settings
Calibration.__new__.__signature__ = _signature.replace(return_annotation=Calibration)  # type: ignore[attr-defined]
