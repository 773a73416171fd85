"""Parts of a calibration for a PyMC model that its users write themselves.

==========  ===================================================================  ===========
symbol      meaning                                                              shape
==========  ===================================================================  ===========
K           experiments: different inputs of the surrogate                       ()
R           rows of the observations                                             ()
H           hyperparameter draws of the surrogate, with log weights log w_h      ()
y           latent output at every row: surrogate, its error, discrepancy        (H, R)
==========  ===================================================================  ===========

`observe` adds the whole likelihood; `latent_output` gives y, for a likelihood that this library did not foresee. What
the H draws say of the data is averaged over the whole data set: log sum_h w_h prod_r p(z_r | y_hr).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pytensor.graph.utils import MissingInputError

from uqms._teaching import taught
from uqms._typing import Array
from uqms.calibration import bridge
from uqms.calibration.capabilities import refuse
from uqms.calibration.single import SingleCalibration
from uqms.errors import InputError
from uqms.surrogates.transforms import Identity

if TYPE_CHECKING:
    from uqms.calibration.population.calibration import PopulationCalibration

__all__ = ["LatentOutput", "latent_output", "observe"]


@taught
def observe(
    problem: "SingleCalibration | PopulationCalibration",
    values: Mapping[str, Any],
    *,
    name: str = "observations",
    own_priors: bool = False,
) -> Any:
    """Add a calibration's observations to the PyMC model in context, its parameters being expressions of your own.

    For hierarchies, regressions on covariates, mixtures as priors, inputs that were measured with error. The likelihood
    is the calibration's: joint error of the surrogate, truncation, discrepancy and noise. For another likelihood use
    `latent_output`.

    Parameters
    ----------
    problem
        The calibration, of one subject or of a population. Its own priors are not used, unless `own_priors` says so.
    values
        Name → tensor or number, in the quantity's own unit: every quantity of `problem.priors`. Of a population, an
        individual parameter of shape (subjects,) stands for the subjects' own values, with a law of yours; a number is
        the typical value, around which subjects are added as variables with the population's law. Of one subject,
        inputs of the surrogate may have one value for each experiment, shape (K,), in the order of
        `problem.experiments`; so may known conditions, which then take the place of the recorded ones. Keep parameters
        inside of the design box
        (`problem.limits(name)`, `pymc.Truncated`): outside of it the surrogate knows nothing and chains wander off.
    name
        Of the observed variable. Where errors are not all normal, standard normal latents are added as "latents", or
        `name` + "_latents" for any other name: two problems fit into one model.
    own_priors
        Whether quantities that `values` lacks become variables with the calibration's priors.

    Returns
    -------
    pytensor.tensor.TensorVariable
        The observed variable (R,). `pymc.sample_prior_predictive` and `sample_posterior_predictive` draw it.

    Raises
    ------
    InputError
        Quantities that are missing, unknown or of a wrong shape; a name that the model has already.

    Examples
    --------
    A prior that depends on another quantity:

    >>> import numpy as np, pymc as pm, xarray as xr, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 16, rng=1)
    >>> surrogate = uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": np.sin(design["k"].values)}))
    >>> problem = uq.Calibration(surrogate, xr.DataArray(0.5, name="y"), noise=uq.GaussianNoise(sd=uq.HalfNormal(0.1)))
    >>> with pm.Model() as model:
    ...     share = pm.Beta("share", 2.0, 2.0)
    ...     observed = uq.observe(problem, {"k": 2.0 * share}, own_priors=True)
    >>> [variable.name for variable in model.free_RVs]
    ['share', 'sigma']
    """
    pm.modelcontext(None)
    from uqms.calibration.population.calibration import PopulationCalibration

    if isinstance(problem, PopulationCalibration):
        return _observe_population(problem, values, name, own_priors)
    if getattr(problem, "kind", "") == "parts":
        refuse(problem, "observe")
    if not isinstance(problem, SingleCalibration):
        raise InputError(f"observe: problem is a {type(problem).__name__}; give uq.Calibration(...), one a call.")
    values = _completed(problem, values, set(problem.priors), own_priors, "observe")
    return bridge.likelihood(problem.data_model, _inputs(problem, values, "observe"), values, name, _latents_of(name))


def _observe_population(
    problem: "PopulationCalibration", values: Mapping[str, Any], name: str, own_priors: bool
) -> Any:
    """Add a population's subjects and observations; individual parameters that are vectors are the subjects' own."""
    from uqms.calibration.population import subjects_graph

    population = problem.population
    given = {key: pt.as_tensor(value, dtype="float64") for key, value in values.items()}
    by_hand = {key: given[key] for key in population.individual if key in given and given[key].ndim}
    count = len(problem.layout.subject)
    wrong = {key: shape for key, one in by_hand.items() if (shape := _shape(one)) not in ((None,), (count,))}
    if wrong:
        raise InputError(
            f"observe: {wrong} are not numbers; give one for each of the {count} subjects (or occasions of them), "
            "in the order of problem.subjects, or the typical value."
        )
    torn = set(by_hand) & set(population.together)
    if torn and torn != set(population.together):
        raise InputError(f"observe: {list(population.together)} are correlated; give all of them, or none.")
    by_hand = {key: pt.specify_shape(one, (count,)) for key, one in by_hand.items()}
    law = {f"omega_{key}" for key in by_hand} | {f"omega_{key}_occasion" for key in by_hand} | set(by_hand)
    law |= {one.name for one in population.effects if one.parameter in by_hand}
    law |= {f"lkj_{one}_{other}" for one, other in population.pairs if one in by_hand}
    idle = sorted((law - set(by_hand)) & set(given))
    if idle:
        raise InputError(f"observe: {idle} describe parameters whose values of each subject are given; leave them out.")
    rest = {key: one for key, one in given.items() if key not in by_hand}
    wanted = {key for key in problem.priors if key not in law}
    known = _completed(problem, rest, wanted, own_priors, "observe")  # type: ignore[arg-type]
    before = "" if name == "observations" else f"{name}_"
    own = by_hand | subjects_graph.individual_variables(problem, known, before, tuple(by_hand))
    return subjects_graph.add_likelihood(problem, own, known, name, _latents_of(name))


@taught
@final
@dataclass(frozen=True, eq=False)
class LatentOutput:
    """What the observations would be without noise, as an expression in a PyMC model; made by `latent_output`.

    Attributes
    ----------
    values
        In the output's own unit, at every row of the observations, shape (H, R): a row of values for each draw of the
        surrogate's hyperparameters (H is 1 for a surrogate with point estimates).
    log_weights
        Of the H draws, shape (H,); they sum to one.
    """

    values: Any
    log_weights: Array

    def observe(
        self, name: str, law: Callable[..., Any], *parameters: Any, observed: Any, dtype: str = "float64"
    ) -> Any:
        """Add measured values with a distribution of your own to the PyMC model in context, averaged over the H draws.

        Parameters
        ----------
        name
            Of the observed variable.
        law
            From latent values, shape (..., R), and `parameters` to a PyMC distribution (`pm.Something.dist`) of the
            same shape, whose rows are independent.
        parameters
            Tensors that the law depends on; all random ones must be given here.
        observed
            Measured values (R,), rows as in the calibration's observations.
        dtype
            Of the measured values; "int64" for counts.

        Returns
        -------
        pytensor.tensor.TensorVariable
            The observed variable (R,).

        Raises
        ------
        InputError
            When `observed` has another shape, or holds NaN.
        """
        data = np.asarray(observed, dtype=dtype)
        rows = self.values.type.shape[-1]
        if data.shape != (rows,) or not np.isfinite(data).all():
            raise InputError(
                f"observe: observed has the shape {data.shape}, {np.count_nonzero(~np.isfinite(data))} not finite; "
                f"give {rows} numbers, one for each row of the calibration's observations."
            )
        log_weights = self.log_weights

        def logp(value: Any, y: Any, *given: Any) -> Any:
            each = pt.broadcast_to(value, y.shape)
            return pt.logsumexp(pm.logp(law(y, *given), each).sum(axis=-1) + log_weights)

        def dist(y: Any, *rest: Any) -> Any:
            *given, _ = rest  # the last is PyMC's size of a batch
            h = 0 if len(log_weights) == 1 else pm.Categorical.dist(logit_p=log_weights)
            return law(y[h], *given)

        given = [pt.as_tensor(parameter) for parameter in parameters]
        ndims = [2, *(parameter.ndim for parameter in given)]
        return pm.CustomDist(
            name, self.values, *given, dist=dist, logp=logp, observed=data, ndim_supp=1, ndims_params=ndims
        )


@taught
def latent_output(
    problem: SingleCalibration, values: Mapping[str, Any], *, name: str = "latents", own_priors: bool = False
) -> LatentOutput:
    """Return the output at every observation, surrogate's error and discrepancy included, for your own likelihood.

    For mixtures with outliers, rounded measurements, counts with excess zeros, a lag or gain of the device. The
    surrogate's error, truncation and discrepancy enter through standard normal latents that are sampled, so an output
    with a transform (log, logit) is no obstacle: values are in the output's own unit. The noise is yours to add, with
    `LatentOutput.observe`.

    Parameters
    ----------
    problem
        The calibration; of its noise only autocorrelated one plays a part, as correlated error of the latent output.
    values
        As in `observe`, for parameters and the hyperparameters of the discrepancy; those of the noise may be left out.
    name
        Of the standard normal variable that is added to the model.
    own_priors
        Whether quantities that `values` lacks become variables with the calibration's priors.

    Returns
    -------
    LatentOutput
        Values (H, R) and log weights (H,).

    Raises
    ------
    InputError
        As in `observe`.

    Examples
    --------
    >>> import numpy as np, pymc as pm, xarray as xr, uqms as uq
    >>> design = uq.sobol(uq.ParameterSpace(k=uq.Uniform(0.0, 2.0)), 16, rng=1)
    >>> surrogate = uq.GaussianProcess().fit(uq.ensemble.build(design, {"y": np.sin(design["k"].values)}))
    >>> problem = uq.Calibration(surrogate, xr.DataArray(0.5, name="y"), noise=uq.GaussianNoise(sd=0.1))
    >>> with pm.Model() as model:
    ...     y = uq.latent_output(problem, {}, own_priors=True)
    ...     sd = pm.HalfNormal("sd", 0.1)
    ...     seen = y.observe("seen", lambda y, sd: pm.Laplace.dist(y, sd), sd, observed=[0.5])
    >>> [variable.name for variable in model.free_RVs]
    ['k', 'latents', 'sd']
    """
    pm.modelcontext(None)
    if getattr(problem, "kind", "one") != "one":
        refuse(problem, "latent_output")
    if not isinstance(problem, SingleCalibration):
        raise InputError(f"latent_output: problem is a {type(problem).__name__}; give uq.Calibration(...).")
    noise, cells = problem.noise, problem.cells
    needed = {key for term in problem.data_model.inside.terms for key in (term.amplitude, *term.lengths)}
    needed |= {noise.keys[place] for place in noise.factors.values()}
    wanted = {key for key in problem.priors if key in problem.parameters or key in needed}
    values = _completed(problem, values, wanted, own_priors, "latent_output")
    u = _inputs(problem, values, "latent_output")
    idle = {key: 1.0 for key in noise.unknown if key not in needed}  # sds of independent noise, which y does not have
    outputs, log_weights = bridge.latent_outputs(problem.data_model)
    phi = bridge.hyperparameters(problem.data_model, {**values, **idle})
    y = outputs(u, phi, bridge.latent_variable(problem.data_model, name))
    rows = y[:, cells.row_cell]
    for g, output in enumerate(noise.outputs):
        at, transform = np.flatnonzero(cells.row_group == g), problem.surrogate.layouts[output].transform
        if not isinstance(transform, Identity):
            rows = pt.set_subtensor(rows[:, at], transform.inverse(rows[:, at], bridge.PyTensorFunctions))
    fixed = pt.specify_shape(rows, (len(log_weights), len(cells.z)))
    return LatentOutput(fixed, log_weights - np.logaddexp.reduce(log_weights))


def _latents_of(name: str) -> str:
    return "latents" if name == "observations" else f"{name}_latents"


def _completed(
    problem: SingleCalibration, values: Mapping[str, Any], wanted: set[str], own_priors: bool, asked: str
) -> dict[str, Any]:
    """Return all that is wanted: what was given, and variables with the problem's own priors when asked for."""
    known, replaced = {*problem.priors}, set[str]()
    if isinstance(problem, SingleCalibration):  # conditions of a population are as recorded
        known |= {*problem.condition_names}
        replaced = {key for key, (_, column) in problem.uncertain.items() if problem.condition_names[column] in values}
        wanted = wanted | set(problem.uncertain) | set(problem.link_errors)
    wanted = wanted - replaced
    unknown = sorted(set(values) - known)
    if unknown:
        raise InputError(f"{asked}: unknown quantities {unknown}; this calibration has {sorted(known)}.")
    missing = [key for key in problem.priors if key in wanted and key not in values]
    if missing and not own_priors:
        raise InputError(
            f"{asked}: values lacks {missing}. Give a tensor or a number for each, or pass own_priors=True for the "
            "calibration's own priors of them."
        )
    taken = [key for key in missing if key in pm.modelcontext(None).named_vars]
    if taken:
        raise InputError(
            f"{asked}: the model has variables {taken} already, so they cannot be added with the calibration's priors. "
            "Give them in values if they are meant, or another variable."
        )
    given = {key: pt.as_tensor(value, dtype="float64") for key, value in values.items()}
    if missing and not problem.conditioned_prior.plain:
        raise InputError(
            f"{missing} would have their own priors, but those of this calibration are joint or constrained: give "
            "tensors for all quantities, or sample problem.model()."
        )
    return given | {key: bridge.prior_variable(key, problem.priors[key], *problem.limits(key)) for key in missing}


def _inputs(problem: SingleCalibration, values: Mapping[str, Any], asked: str) -> Any:
    """Return the surrogate's inputs (K, d) in the unit cube."""
    count = problem.cells.experiments
    recorded = dict(zip(problem.condition_names, problem.cells.conditions.T, strict=True))
    names = (*problem.parameters, *problem.condition_names, *problem.link_errors)
    values = dict(values)
    for key in values:
        shape, by_experiment = _shape(values[key]), key in names
        if shape not in ((), *(((None,), (count,)) if by_experiment else ())):
            raise InputError(
                f"{asked}: {key!r} has the shape {shape}; required is a number"
                + (f", or one for each of the {count} experiments of problem.experiments." if by_experiment else ".")
                + (_of_labels(problem, shape) if by_experiment else "")
            )
        if shape and problem.link_errors and key not in problem.condition_names:
            raise InputError(
                f"{asked}: {key!r} is given for each experiment, but errors of the chain's links are sampled for one "
                "set of parameters. Give a number, or calibrate with expansion='first-order'."
            )
        if shape:  # a length that is not known yet, as of pm.Data, is checked when the model is evaluated
            values[key] = pt.specify_shape(values[key], (count,))
    theta = {key: values.get(key, recorded.get(key)) for key in names} | problem.fixed
    inferred = {problem.condition_names[column] for _, column in problem.uncertain.values()} - set(values)
    if inferred:
        found = bridge.conditions(problem.data_model, problem.uncertain, values)
        theta |= {key: found[key] for key in inferred}
    return bridge.unit_inputs(problem.surrogate.domain, theta, count)


def _shape(value: Any) -> tuple[int | None, ...]:
    """Return the shape of a tensor, None where it is known only once its inputs are.

    PyMC's dims leave the length of a variable open; evaluating the variable tells it.
    """
    known: tuple[int | None, ...] = value.type.shape
    if None not in known:
        return known
    try:
        return tuple(int(n) for n in value.shape.eval(mode="FAST_COMPILE"))
    except (MissingInputError, NotImplementedError):
        return known


def _of_labels(problem: SingleCalibration, shape: tuple[int | None, ...]) -> str:
    """Return what to do where a tensor has one value for each label of `experiment`, and labels are no experiments."""
    labels = np.unique(problem.observations.experiment)
    if shape != (len(labels),):
        return ""
    return (
        f" The observations have {len(labels)} labels ({', '.join(map(repr, labels[:3].tolist()))}"
        f"{', ...' if len(labels) > 3 else ''}), but measurements under the same conditions are one experiment. For a "
        "value of each label, name the column subject= instead of experiment= in Observations.from_table, and make "
        "the calibration with population=uq.Population(space, individual=[...]): uq.observe then takes one value for "
        "each of problem.subjects, and the surrogate's error stays joint."
    )
