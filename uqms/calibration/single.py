"""The calibration of one subject: a surrogate, observations, noise, and the priors conditioned on the design box."""

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

import numpy as np
import pandas as pd

from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, ArrayLike, Ints, RandomState, as_generator
from uqms.calibration import _mean_slopes
from uqms.calibration.base import DerivedQuantities, Expansion, Piece
from uqms.calibration.capabilities import CompiledError, Kind, compiled_process
from uqms.calibration.conditioned import ConditionedPrior
from uqms.calibration.constraints import read_constraints
from uqms.calibration.construction import (
    OF_DATA,
    OF_PRIOR,
    OF_SETTINGS,
    check_parameters,
    discrepancy_scale,
    held,
    mass_outside,
    named_derived,
    space_of,
    warn_of_conflict,
    with_sampled_errors,
)
from uqms.calibration.density import (
    maps_of,
    outputs_of,
    row_terms,
    simulate,
    total,
)
from uqms.calibration.direct import design_box, is_exact
from uqms.calibration.discrepancy import NOISE, ORTHOGONAL, Discrepancies
from uqms.calibration.gaussian import GaussianLikelihood, cell_means, cell_means_reverse, reduced
from uqms.calibration.joint_error import JointError, averaged_marginals
from uqms.calibration.likelihood import Cells, NoiseGroups, add_discrepancy, arrange, check_errors_between
from uqms.calibration.noise import NoiseModel
from uqms.calibration.observations import Measured, Observations, observations_of
from uqms.calibration.problem import Calibration
from uqms.calibration.realisation import Realisation, Runs, runs_of, warn_if_correlation_changes, warn_if_not_normal
from uqms.calibration.samplers import Sampler
from uqms.calibration.scales import warn_of_uninformed, with_all_conditions
from uqms.calibration.sharing import together
from uqms.calibration.success import read_success
from uqms.errors import (
    InputError,
    OutputError,
)
from uqms.parameters import Normal, ParameterSpace, Prior, TruncatedNormal
from uqms.parameters.functions import NumPyFunctions
from uqms.surrogates.outputs import Decoder
from uqms.surrogates.process import ScoreProcess, Scores
from uqms.surrogates.protocol import Surrogate
from uqms.surrogates.superposition import Superposition
from uqms.surrogates.transforms import Identity

if TYPE_CHECKING:
    import pymc as pm

    from uqms.calibration.checks import Sampled
    from uqms.calibration.context import Linearised
    from uqms.calibration.posterior import Posterior
    from uqms.surrogates import FittedProbability

__all__ = ["SingleCalibration"]

_logger = logging.getLogger(__name__)
SCORE_CHUNK = 2_000_000  # numbers in one cross-covariance block


@taught
class SingleCalibration(Calibration):
    """Infer the parameters of one subject through one surrogate; made by `Calibration(surrogate, observations, noise)`.

    Parameters, errors and warnings are those of `Calibration`.
    """

    kind: ClassVar[Kind] = "one"
    samples_links: ClassVar[bool] = True

    @single_threaded
    def __init__(
        self,
        surrogate: Surrogate,
        observations: Measured | None = None,
        noise: NoiseModel | Mapping[str, NoiseModel] | None = None,
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
        population: None = None,
        subjects: None = None,
    ) -> None:
        self.settings: dict[str, Any] = {
            "noise": noise,
            "discrepancy": discrepancy,
            "realisation": realisation,
            "space": space,
            "fixed": fixed,
            "constraints": constraints,
            "derived": derived,
            "outside": outside,
            "success": success,
            "failures": failures,
            "expansion": expansion,
        }
        for of_settings in OF_SETTINGS:
            of_settings(surrogate, self.settings)
        assert noise is not None  # refused by one of these
        self.surrogate: Surrogate = surrogate
        self._within: dict[str, tuple[float, float]] = {}
        self.members: Mapping[str, SingleCalibration] = {}  # of several parts with one surrogate, by name
        self.seen_from = ""  # one of them
        space = space if space is not None else space_of(surrogate)
        self.outside = "extrapolate" if design_box(surrogate) is None else outside
        self.fixed = held(fixed, space, surrogate, inside=self.outside != "extrapolate")
        self.space = space.given({name: value for name, value in self.fixed.items() if name in space.names})
        known = {*self.space.names, *self.fixed}
        self.condition_names = tuple(name for name in surrogate.domain.names if name not in known)
        observations = observations_of(observations, surrogate.layouts, self.condition_names, missing)
        observations = with_all_conditions(surrogate, observations, self.condition_names)
        if self.samples_links:
            self.surrogate = with_sampled_errors(surrogate, expansion, observations, self.condition_names)
        self.link_errors: tuple[str, ...] = getattr(self.surrogate, "errors", ())
        surrogate = self.surrogate
        self.observations: Observations = observations
        check_parameters(surrogate, self.space, self.outside)
        warn_of_uninformed(surrogate, observations, self.parameters)
        runs = runs_of(observations, realisation, surrogate)
        units = self._units(observations)
        self.cells, self.noise = arrange(surrogate, observations, noise, self.condition_names, runs, units)
        self.realisation = None if runs is None else Realisation(surrogate, self.cells, realisation)
        if self.realisation is not None:
            warn_if_not_normal(surrogate)
            warn_if_correlation_changes(surrogate)
        self.constraints = read_constraints(constraints, (*self.priors, *self.fixed))
        self.failures = failures
        self.success = read_success(
            success, surrogate, self.parameters, self.fixed, self.condition_names, self.cells.conditions
        )
        self.discrepancy: Discrepancies | None = discrepancy
        self.noise_alone = self.noise
        if discrepancy is not None:
            self.discrepancy_scale = discrepancy_scale(self)
            self.noise = add_discrepancy(
                self.cells, self.noise, discrepancy, self.condition_names, self.discrepancy_scale
            )
            self.__dict__.pop("conditioned_prior", None)  # it has the discrepancy's hyperparameters from here on
            _logger.info("priors of the discrepancy: %s", {k: v for k, v in self.noise.unknown.items()})
        self.form = self._form(expansion)
        self.expansion_loss = float("nan")
        self._limited = self.cells.side == 1, self.cells.side == -1
        for of_data in OF_DATA:
            of_data(self)
        self.derived = named_derived(derived or {}, (*self.parameters, *self.fixed, *self.noise.unknown))
        self.mass_cut = self._mass_cut()
        for of_prior in OF_PRIOR:
            of_prior(self)
        if expansion == "measured" and self.expanded and self.closed_form:
            self._measure_expansion()
        self.link_loss = float("nan")
        warn_of_conflict(self)
        if expansion == "measured" and not self.link_errors:
            self._measure_links()

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the inferred parameters (without the noise)."""
        return self.space.names

    @property
    def simulated(self) -> Surrogate:
        """The surrogate of what is simulated.

        It is without the errors that are inputs where links' errors are sampled, and of a superposition that of the
        response to a unit dose.
        """
        if isinstance(self.surrogate, Superposition):
            return self.surrogate.response
        return cast(Surrogate, getattr(self.surrogate, "chain", self.surrogate))

    @property
    def individual(self) -> tuple[str, ...]:
        """Names of the parameters that differ between subjects: none, unless it is the part of a population."""
        return ()

    def _units(self, observations: Observations) -> Ints | None:
        """Return whose parameters each row of the observations has, None where all have the same."""
        return None

    @property
    def priors(self) -> dict[str, Prior]:
        """Prior of everything that is inferred, noise included, of each alone; `conditioned_prior` is the joint one."""
        own = {name: self.space.priors[name] for name in self.parameters}
        errors = dict.fromkeys(self.link_errors, Normal(0.0, 1.0))
        return {**own, **self.noise.unknown, **self.true_conditions, **errors}

    @property
    def auxiliary(self) -> tuple[str, ...]:
        """Errors of the links of a chain, where they are sampled: tables leave them out."""
        return self.link_errors

    @cached_property
    def uncertain(self) -> dict[str, tuple[int, int]]:
        """Inferred true conditions "condition[k]": which experiment (row of `experiments`) and which condition."""
        return {
            f"{self.condition_names[column]}[{k}]": (int(k), int(column))
            for column, k in np.argwhere(self.cells.conditions_sd.T > 0.0)
        }

    @cached_property
    def true_conditions(self) -> dict[str, Prior]:
        """Law of every true condition given its measured value: normal, within the range that was simulated."""
        box = self.surrogate.domain
        out: dict[str, Prior] = {}
        for key, (k, column) in self.uncertain.items():
            name = self.condition_names[column]
            index, known = box.names.index(name), self.space.conditions.get(name)
            out[key] = TruncatedNormal(
                float(self.cells.conditions[k, column]),
                float(self.cells.conditions_sd[k, column]),
                box.lower[index],
                box.upper[index],
                unit="" if known is None else known.unit,
                description=f"true {name} of experiment {k}",
            )
        return out

    @cached_property
    def conditioned_prior(self) -> ConditionedPrior:
        """The joint prior, restricted to the design box, by constraints and to success: draws, densities, the cube."""
        limits = {name: self.limits(name) for name in self.priors}
        success = self.success if self.failures == "impossible" else None
        return ConditionedPrior(self.priors, limits, self.space.blocks, self.constraints, self.fixed, success)

    @property
    def experiments(self) -> pd.DataFrame:
        """Known conditions of the different inputs that were observed, a row for each; no column without conditions.

        Of a condition that was measured with an error it is the measured value; the true one of row k is inferred as
        "condition[k]".
        """
        return pd.DataFrame(self.cells.conditions, columns=list(self.condition_names))

    @property
    def latents(self) -> int:
        """Number of standard normal latents that are sampled beside the parameters: none when all errors are normal."""
        return 0 if self.closed_form else len(self.free)

    @property
    def closed_form(self) -> bool:
        """Whether errors are integrated out in closed form; otherwise rows are independent given sampled latents."""
        return self.form != "latent"

    @property
    def expanded(self) -> bool:
        """Whether the closed form expands rows to first order in the surrogate's error.

        Their noise is on another scale than the surrogate's, or grows with the output.
        """
        return self.cells.transformed or (bool(self.noise.growth) and not is_exact(self.surrogate))

    def responded(self, y: Array) -> tuple[Array, Array]:
        """Return latent outputs (..., N) in the unit that normal noise is added in, and the slope of one by the other.

        Without a closed form noise is added to the latent outputs as they are.
        """
        return self.cells.responded(y) if self.closed_form else (y, np.ones_like(y))

    @property
    def free(self) -> Ints:
        """Which of the latents of `_latent_outputs` are drawn: a simulator that is exact has no error."""
        without = len(self.cells.used) - len(self.used)
        return np.arange(self.cells.experiments * without, self.latent_count)

    @property
    def latent_count(self) -> int:
        """Number of all latents of `_latent_outputs`, those of an error that an exact simulator has not included."""
        k, own = self.cells.experiments, 0 if self.realisation is None else self.realisation.columns
        discrepancy = len(self.cells.offset) if self.inside.terms else 0
        return int(k * (len(self.cells.used) + self.cells.compressed.shape[1] + own) + discrepancy)

    @property
    def inside(self) -> NoiseGroups:
        """The noise with those terms that are part of the latent output.

        The process of autocorrelated noise is not where the surrogate models a transform of the output: noise is in the
        output's own unit, and a discrepancy on the scale of the surrogate.
        """
        noise, cells = self.noise, self.cells
        identity = {o for o, one in zip(noise.outputs, cells.responses, strict=True) if isinstance(one, Identity)}
        return replace(noise, terms=tuple(t for t in noise.terms if t.role != NOISE or t.output in identity))

    @cached_property
    def structure(self) -> Array:
        """The block of numbers that `_latent_outputs` reads."""
        box = self.surrogate.domain
        columns = np.array([box.names.index(name) for name in self.parameters], dtype=np.int64)
        own = 0 if self.realisation is None else self.realisation.columns
        return self.cells.structure(self.inside, self.condition_names, columns, own)

    def limits(self, name: str) -> tuple[float, float]:
        """Interval that the prior of a parameter is conditioned on."""
        if name in self._within:
            return self._within[name]
        prior = self.priors[name]
        if name not in self.parameters or self.outside == "extrapolate":
            return prior.support
        box = self.surrogate.domain
        index = box.names.index(name)
        low, high = prior.support
        return max(low, box.lower[index]), min(high, box.upper[index])

    @property
    def inside_of_a_whole(self) -> bool:
        """Whether it is a part of a joint calibration, which conditions its priors."""
        return bool(self._within)

    def within(self, limits: Mapping[str, tuple[float, float]], mass_cut: float) -> "SingleCalibration":
        """Return the same problem with priors of parameters conditioned on given limits, as a part of a whole."""
        other = copy.copy(self)
        other.__dict__.pop("conditioned_prior", None)
        other._within, other.mass_cut = dict(limits), mass_cut
        return other

    @property
    def named_parts(self) -> Mapping[str, "SingleCalibration"]:
        """The data, which have no parts: themselves, called ""."""
        return {"": self}

    def pieces(self, theta: Mapping[str, Any], latents: Any = None, h: Any = None) -> list[Piece]:
        """Return what belongs to each surrogate: here, of one surrogate, everything."""
        return [Piece("", self, dict(theta), latents, h, np.arange(len(self.parameters)), np.arange(len(self.cells.z)))]

    def linearised(self, sampled: "Sampled") -> "Linearised":
        """Return the problem linearised at a few draws, as the checks of a verdict look at it."""
        from uqms.calibration.verdict import linearised

        return linearised(self, sampled)

    def unit_of(self, name: str) -> str:
        """Return the unit of an inferred quantity; hyperparameters on a logarithmic or other scale have none."""
        unit, noise = self.priors[name].unit, self.noise
        output = noise.unit_of(name) if name in noise.unknown else ""
        if unit or not output or name in self.uncertain:
            return unit
        layout = self.surrogate.layouts[output]
        on_scale = any(term.amplitude == name and term.role != NOISE for term in noise.terms)
        return "" if on_scale and not isinstance(layout.transform, Identity) else layout.unit

    def __repr__(self) -> str:
        noise = ", ".join(self.noise.unknown) or "known"
        more = [f"fixed: {', '.join(f'{n} = {v:g}' for n, v in self.fixed.items())}"] if self.fixed else []
        more += [f"constraints: {', '.join(one.text for one in self.constraints)}"] if self.constraints else []
        inferred = dict.fromkeys(self.condition_names[column] for _, column in self.uncertain.values())
        more += [f"measured with error: {', '.join(inferred)}"] if inferred else []
        more += [f"failures: {self.failures}"] if self.success is not None else []
        if np.isfinite(self.link_loss):
            how = f"{len(self.link_errors)} errors of links sampled" if self.link_errors else "used"
            more.append(f"first-order expansion of links: {how} (loss {self.link_loss:.2g} nats)")
        if self.expanded and np.isfinite(self.expansion_loss):
            used = "used" if self.closed_form else "error sampled"
            more.append(f"first-order expansion: {used} (loss {self.expansion_loss:.2g} nats)")
        return (
            f"<Calibration of {', '.join(self.parameters)} (noise: {noise}) from {self.observations!r}; "
            f"{self.cells.experiments} experiment(s); prior mass outside of the design box: {self.mass_cut:.2%}"
            f"{''.join(f'; {words}' for words in more)}>"
        )

    def unit_inputs(
        self,
        theta: Mapping[str, Array],
        conditions: Array | None = None,
        experiment: Ints | None = None,
        units: Ints | None = None,
    ) -> Array:
        """Return inputs (..., K, d) in the unit cube for parameters of shape (...) and conditions (K, c).

        Of a population, parameters (S, U) differ between units; `units` (K,) says whose the inputs are, by default
        those of the observed experiments.

        `experiment` (K,) says which of them are those of an observed experiment, -1 for none: there the true conditions
        that `theta` holds take the place of measured ones.
        """
        box = self.surrogate.domain
        if conditions is None:
            conditions, experiment = self.cells.conditions, np.arange(self.cells.experiments)
        units = self.cells.unit if units is None else units
        by_unit = [name for name in self.individual if np.ndim(theta[name]) == 2]
        shapes = [np.shape(theta[name])[:-1] if name in by_unit else np.shape(theta[name]) for name in self.parameters]
        lead = np.broadcast_shapes(*shapes)
        x = np.empty((*lead, len(conditions), box.d))
        for column, name in enumerate(box.names):
            if name in by_unit:
                x[..., column] = theta[name][:, units]
            elif name in self.parameters:
                x[..., column] = np.broadcast_to(theta[name], lead)[..., None]
            elif name in self.fixed:
                x[..., column] = self.fixed[name]
            elif name in self.link_errors:
                x[..., column] = np.broadcast_to(theta.get(name, 0.0), lead)[..., None]
            else:
                x[..., column] = conditions[:, self.condition_names.index(name)]
        for key, (k, place) in self.uncertain.items() if experiment is not None else ():
            if key in theta:
                column = box.names.index(self.condition_names[place])
                for row in np.flatnonzero(experiment == k):
                    x[..., row, column] = theta[key]
        return np.asarray(box.to_unit(x))

    def check_errors_between(self, conditions: Array, asked: str) -> None:
        """Raise ConformanceError when the surrogate knows no covariance of its errors between conditions (K, c)."""
        u = self.unit_inputs(self.prior_draws(4, 0), conditions[:2])
        check_errors_between(self.surrogate, u, self.cells.used, asked)

    def model(self) -> "pm.Model":
        """Return the PyMC model: parameters with their priors and the observed variable "observations"."""
        import pymc as pm

        from uqms.calibration import bridge

        with pm.Model() as model:
            values = bridge.prior_variables(self.conditioned_prior)
            theta: dict[str, Any] = {name: values[name] for name in self.parameters} | self.fixed
            theta |= bridge.conditions(self, values)
            theta |= {name: values[name] for name in self.link_errors}
            u = bridge.unit_inputs(self.surrogate.domain, theta, self.cells.experiments)
            bridge.likelihood(self, u, values)
        return model

    @single_threaded
    def log_likelihood(self, theta: Mapping[str, ArrayLike], latents: ArrayLike | None = None) -> Array:
        """Return log p(observations | parameters), every error source included, for many parameter values at once.

        Use it for a grid or an optimiser of your own; `sample` needs none of it.

        Parameters
        ----------
        theta
            Every inferred quantity, noise included, in its own unit: numbers or arrays of one shape (...).
        latents
            Where errors are not all normal (`latents` > 0): standard normal numbers (..., latents), given which the
            density is: the surrogate's error and the discrepancy as the sampler draws them.

        Returns
        -------
        numpy.ndarray
            Shape (...), in the data's own units (a log-density).

        Raises
        ------
        InputError
            When a quantity is missing or unknown.
        """
        if set(theta) != set(self.priors):
            raise InputError(f"log_likelihood: got {sorted(theta)}, expected {sorted(self.priors)}.")
        arrays = np.broadcast_arrays(*(np.asarray(theta[name], dtype=np.float64) for name in self.priors))
        flat = {name: np.ascontiguousarray(array.ravel()) for name, array in zip(self.priors, arrays, strict=True)}
        shape = arrays[0].shape
        if not self.closed_form:
            eta = np.zeros((*shape, 0)) if latents is None else np.asarray(latents, dtype=np.float64)
            if self.latents and eta.shape != (*shape, self.latents):
                raise InputError(
                    f"log_likelihood: errors are not all normal here, so that {self.latents} latents are part of the "
                    f"density: latents has the shape {eta.shape}, expected {(*shape, self.latents)}."
                )
            eta = eta.reshape(int(np.prod(shape)), self.latents)  # -1 is no number when there are none
            parts = [np.logaddexp.reduce(values, axis=0) for _, values in self.latent_terms(flat, eta)]
            return np.concatenate(parts).reshape(shape)
        with np.errstate(invalid="ignore"):  # data that are off by more than numbers can say give NaN, not a warning
            parts = [np.logaddexp.reduce(values, axis=0) for values in self.log_likelihood_values(flat)]
        return (np.concatenate(parts) + self.cells.jacobian.sum()).reshape(shape)

    def log_likelihood_terms(self, theta: Mapping[str, Array]) -> Iterator[tuple[Array, Array, Array, Array]]:
        """Yield, a block of the S values of `theta` at a time, what the likelihood is made of when errors are normal.

        Hyperparameters (s, P); log w_h + log p(z | theta, h), shape (H, s); C^-1 (cell means - prediction) and the
        diagonal of C^-1, shape (H, s, N), with C the covariance of the cell means; on the scale of `cells.z`.
        """
        likelihood = self.gaussian
        for now in self._blocks(theta):
            u, phi = self.unit_inputs(now), self.noise.phi(now, (len(next(iter(now.values()))),))
            parts, log_weights = self.parts(u)
            values, alpha, precision = likelihood.evaluate(parts, phi)
            yield phi, log_weights[:, None] + values, alpha, precision

    def log_likelihood_values(self, theta: Mapping[str, Array]) -> Iterator[Array]:
        """Yield log w_h + log p(z | theta, h), shape (H, s), a block of the S values of `theta` at a time."""
        likelihood = self.fewest
        for now in self._blocks(theta):
            u, phi = self.unit_inputs(now), self.noise.phi(now, (len(next(iter(now.values()))),))
            parts, log_weights = self.parts(u)
            yield log_weights[:, None] + likelihood.evaluate(parts, phi, precisions=False)[0]

    @property
    def gaussian(self) -> GaussianLikelihood:
        """The likelihood where all errors are normal, of the parts that `parts` returns."""
        return self._of_data(
            "gaussian",
            lambda: GaussianLikelihood.of(
                self.cells,
                self.noise,
                self.condition_names,
                columns=len(self.parameters),
                runs=0 if self.realisation is None else self.realisation.columns,
                exact=is_exact(self.surrogate),
                varying=self.cells.by_input is not None,
                correlated=self.correlated_scores,
            ),
        )

    @property
    def fewest(self) -> GaussianLikelihood:
        """The likelihood with as few rows as it depends on, for values alone; `gaussian` where that is not possible."""
        whole = self.gaussian
        return (
            whole
            if whole.varying
            else self._of_data(
                "fewest",
                lambda: reduced(self.cells, self.noise, self.condition_names, self.correlated_scores) or whole,
            )
        )

    def _of_data(self, name: str, made: Callable[[], GaussianLikelihood]) -> GaussianLikelihood:
        """Return what was made for these cells and this noise; copies with other data make it anew."""
        known: dict[str, Any] = self.__dict__.setdefault("_made", {})
        found = known.get(name)
        if found is None or found[0] is not self.cells or found[1] is not self.noise:
            self.__dict__["_made"] = known | {name: (self.cells, self.noise, made())}
        return self.__dict__["_made"][name][2]  # type: ignore[no-any-return]

    @cached_property
    def correlated_scores(self) -> bool:
        """Whether the errors of the surrogate's scores are correlated with each other."""
        return not is_exact(self.surrogate) and self._middle.correlated

    @cached_property
    def _hyperparameter_draws(self) -> int:
        return 1 if is_exact(self.surrogate) else len(self._middle.log_weights)

    @property
    def _middle(self) -> Scores:
        """The scores at the middle of the box: their shapes are the same everywhere."""
        return self.surrogate.scores(np.full((1, self.surrogate.domain.d), 0.5))

    @property
    def process(self) -> ScoreProcess | None:
        """The Gaussian process of the scores where compiled code knows it and the rows of the cells; None otherwise.

        It knows nothing of a stochastic simulator's runs, nor of rows that depend on the input.
        """
        known = self.realisation is None and self.cells.by_input is None
        return compiled_process(self.surrogate) if known else None

    @property
    def compiled_error(self) -> CompiledError | None:
        """What compiled code reads of the mean and joint error of the scores: of a process, or of a chain of them."""
        orthogonal = any(term.role == ORTHOGONAL for term in self.noise.terms)  # asks for slopes of one process
        known = self.realisation is None and self.cells.by_input is None and not orthogonal
        return self.process or (getattr(self.surrogate, "compiled_error", None) if known else None)

    @property
    def used(self) -> Ints:
        """Scores with errors that the data depend on: a simulator that is exact has none."""
        return self.cells.used[:0] if is_exact(self.surrogate) else self.cells.used

    def joint_error(self, u: Array) -> JointError:
        """Return what the surrogate says of the outputs at the cells for inputs u (S, K, d), its joint error."""
        return JointError.of(self.surrogate, self.cells, self.cells.experiment, u, self.used)

    def joint_error_reverse(self, u: Array, bars: Scores, rows: Decoder | None = None) -> Array:
        """Return the derivative (K, d) of sum(scores * bars) + sum(rows of the cells * rows) at inputs u (K, d).

        `rows` (H, N, ...) are needed where rows depend on the input.
        """
        out = np.asarray(self.surrogate.scores_reverse(u, bars.mean, bars.covariance))
        if self.cells.by_input is None:
            return out
        assert rows is not None
        return out + self.cells.by_input.reverse(u, rows)

    def all_scores(self, scores: Scores, mean_bar: Array, covariance_bar: Array) -> Scores:
        """Return derivatives by all scores (H, K, q) from those by the used ones, covariances as in `latent_parts`."""
        used, (H, K, _) = self.cells.used, scores.mean.shape
        mean, covariance = np.zeros_like(scores.mean), np.zeros_like(scores.covariance)
        mean[..., used] = mean_bar
        if scores.correlated:
            at = np.ix_(np.arange(H), np.arange(K), used, np.arange(K), used)
            covariance[at] = covariance_bar.reshape(H, K, len(used), K, len(used))
        else:
            covariance[:, used] = covariance_bar
        return Scores(mean, covariance, scores.log_weights)

    def parts(self, u: Array) -> tuple[Array, Array]:
        """Return the parts (H, S, size) of the surrogate's joint error at inputs u (S, K, d), and log weights (H,)."""
        found, likelihood, cells = self.joint_error(u), self.gaussian, self.cells
        scores, used, slopes = found.scores, found.used, self.mean_slopes(u)
        rows: list[Any] = [None] * len(scores.mean)
        if likelihood.varying:
            runs = self.run_factor(u) if self.realisation is not None else None
            for h in range(len(rows)):
                own = Decoder(*(one[h % len(one)] for one in found.rows)) if cells.by_input is not None else None
                rows[h] = likelihood.rows_of(cells, len(u), own, runs)
            if is_exact(self.surrogate):
                rows = [(cell_means(cells, mean), *one[1:]) for mean, one in zip(scores.mean, rows, strict=True)]
        covariance = _of_used(scores, used)
        parts = [
            likelihood.parts(mean[..., used], *rest)
            for mean, *rest in zip(scores.mean, covariance, rows, slopes, strict=True)
        ]
        return np.stack(parts), np.asarray(scores.log_weights)

    def parts_reverse(self, u: Array, bar: Array) -> Array:
        """Return the derivative (K, d) of `parts` : bar (H, size) at inputs (K, d)."""
        likelihood, cells, scores = self.gaussian, self.cells, self.surrogate.scores(u)
        out, rows = np.zeros_like(u), None
        found = [likelihood.cotangents(one) for one in bar]
        if is_exact(self.surrogate):
            bars = Scores(
                np.stack([cell_means_reverse(cells, one.rows[0]) for one in found if one.rows is not None]),
                np.zeros_like(scores.covariance),
                scores.log_weights,
            )
        else:
            covariances = [one.covariance if scores.correlated else one.by_score() for one in found]
            bars = self.all_scores(scores, np.stack([one.mean for one in found]), np.stack(covariances))
        if likelihood.slopes:
            out += self.slopes_reverse(u, np.stack([one.slopes for one in found]), scores)
        if self.realisation is not None:
            runs = sum(likelihood.runs_of(cells, one.rows[2]) for one in found if one.rows is not None)
            out += self.realisation.reverse(u, np.asarray(runs))
        if cells.by_input is not None:
            each = [likelihood.own_rows(cells, one.rows) for one in found if one.rows is not None]
            rows = Decoder(*(np.stack(several) for several in zip(*each, strict=True)))
        return out + self.joint_error_reverse(u, bars, rows)

    def latent_terms(self, theta: Mapping[str, Array], eta: Array) -> Iterator[tuple[Array, Array]]:
        """Yield, a block at a time, outputs y (H, s, N) and log w_h + log p(z | theta, eta, h), shape (H, s)."""
        start = 0
        for now in self._blocks(theta):
            u, phi = self.unit_inputs(now), self.noise.phi(now, (len(next(iter(now.values()))),))
            y, log_weights = self.latent_outputs(u, phi, eta[start : start + len(phi)])
            start += len(phi)
            with np.errstate(all="ignore"):  # values without a density give -inf or NaN, which the callers look for
                values = total(row_terms(self.cells, self.noise, y, phi, self.cells.z, NumPyFunctions), y.ndim)
            yield y, log_weights[:, None] + values

    def latent_outputs(self, u: Array, phi: Array, eta: Array) -> tuple[Array, Array]:
        """Return the latent output y (H, S, N) at inputs u (S, K, d) given eta (S, free), and the log weights (H,)."""
        whole = np.zeros((len(phi), self.latent_count))
        whole[:, self.free] = eta
        found = self.joint_error(u)
        y = outputs_of(self.structure, *self.latent_parts(found, u, phi), whole)
        return y, np.asarray(found.scores.log_weights)

    def latent_map(self, u: Array, phi: Array) -> tuple[Array, Array, Array]:
        """Return y0 (H, S, N) and B (H, S, N, free), with the latent output y0 + B eta, and the log weights (H,)."""
        found = self.joint_error(u)
        y0, B = maps_of(self.structure, *self.latent_parts(found, u, phi))
        return y0, B[..., self.free], np.asarray(found.scores.log_weights)

    def latent_parts(self, found: JointError, u: Array, phi: Array) -> tuple[Array, ...]:
        """Return what `outputs_of` takes between the structure and the latents."""
        cells, scores = self.cells, found.scores
        covariance = _of_used(scores, cells.used)
        covariance = covariance[:, :, None] if scores.correlated else covariance
        rows: Iterable[Array] = found.rows
        if found.fixed:
            rows = (one[None, None] for one in (cells.offset, cells.used_basis, cells.compressed))
        parts = scores.mean[..., cells.used], covariance, phi, self.mean_slopes(u), self.run_factor(u), *rows
        return tuple(np.ascontiguousarray(one) for one in parts)

    def run_factor(self, u: Array) -> Array:
        """Return the factor (S, N, r) of a stochastic simulator's run at inputs (S, K, d): r = 0 without its noise."""
        if self.realisation is None:
            return np.zeros((len(u), len(self.cells.offset), 0))
        return self.realisation.factor(u)

    def mean_slopes(self, u: Array) -> Array:
        """Return J (H, S, N, o) at inputs (S, K, d): derivatives of the mean by the unit-cube parameters, if needed."""
        cells = self.cells
        if not any(term.role == ORTHOGONAL for term in self.noise.terms):
            return np.zeros((self._hyperparameter_draws, len(u), len(cells.offset), 0))
        columns = [self.surrogate.domain.names.index(name) for name in self.parameters]
        step, slopes = _mean_slopes.STEP, []
        for column in columns:
            shift = np.zeros(u.shape[-1])
            shift[column] = step
            upper, lower = (self.joint_error(u + sign * shift).mean for sign in (1.0, -1.0))
            slopes.append((upper - lower) / (2.0 * step))
        return np.ascontiguousarray(np.stack(slopes, axis=-1))

    def slopes_reverse(self, u: Array, slopes_bar: Array, scores: Scores) -> Array:
        """Return the derivative (K, d) of `mean_slopes` : slopes_bar (H, N, o), that of its central differences."""
        u_bar, cells, experiment = np.zeros_like(u), self.cells, self.cells.experiment
        if slopes_bar.shape[-1] == 0:
            return u_bar
        step, nothing = _mean_slopes.STEP, np.zeros_like(scores.covariance)
        for i, name in enumerate(self.parameters):
            for sign in (1.0, -1.0):
                bar, shifted, rows = sign * slopes_bar[..., i] / (2.0 * step), u.copy(), None
                shifted[:, self.surrogate.domain.names.index(name)] += sign * step
                if cells.by_input is None:
                    mean_bar = np.stack([cell_means_reverse(cells, one) for one in bar])
                else:
                    basis = cells.by_input.at(shifted[None]).basis[:, 0]
                    mean_bar, weighted = np.zeros_like(scores.mean), bar[..., None] * basis
                    for own, one in zip(mean_bar, weighted, strict=True):
                        np.add.at(own, experiment, one)
                    basis_bar = bar[..., None] * self.surrogate.scores(shifted).mean[:, experiment]
                    rows = Decoder(bar, basis_bar, np.zeros((*bar.shape, cells.by_input.latents)))
                bars = Scores(mean_bar, nothing, scores.log_weights)
                u_bar += self.joint_error_reverse(shifted, bars, rows)
        return u_bar

    def _blocks(self, theta: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
        """Yield parts of `theta` whose arrays fit into memory."""
        count = len(next(iter(theta.values())))
        runs = int(getattr(self.surrogate, "runs", 100))
        K = self.cells.experiments
        largest = max(K * max(runs, K), len(self.cells.z), (K * len(self.used)) ** 2 if self.correlated_scores else 0)
        if self.cells.by_input is not None:
            largest = max(largest, self.cells.by_input.points * (self.cells.by_input.scores + self.latent_count))
        if self.realisation is not None:
            largest = max(largest, len(self.cells.offset) * self.realisation.columns)
        size = max(1, SCORE_CHUNK // largest)
        for start in range(0, count, size):
            yield {name: values[start : start + size] for name, values in theta.items()}

    @single_threaded
    def simulate(self, theta: Mapping[str, ArrayLike], rng: RandomState, latents: ArrayLike | None = None) -> Array:
        """Draw new observations (S, R) of the same layout for S parameter values, from the law that is assumed.

        For each value: one hyperparameter draw, one joint draw of the surrogate's error for all inputs, truncation and
        discrepancy, a new run of a stochastic simulator for each that was observed, then noise for each row. Use it for
        simulation-based calibration and power studies.

        Parameters
        ----------
        theta
            Every inferred quantity, noise included, in its own unit: arrays (S,).
        rng
            Whole number or generator.
        latents
            Standard normal numbers (S, latents) to use where errors are not all normal; drawn when left out.

        Returns
        -------
        numpy.ndarray
            In the data's own units. Rows with a detection limit are what would have been measured without it. Counts
            have no negative mean: errors with which one would be are drawn again, as their density is zero; NaN where
            100 tries, or the latents that are given, leave one.

        Raises
        ------
        InputError
            When a quantity is missing or unknown, or latents have another shape.
        """
        generator = as_generator(rng)
        if set(theta) != set(self.priors):
            raise InputError(f"simulate: got {sorted(theta)}, expected {sorted(self.priors)}.")
        given = [np.atleast_1d(np.asarray(theta[name], dtype=np.float64)) for name in self.priors]
        arrays = dict(zip(self.priors, np.broadcast_arrays(*given), strict=True))
        wanted = (len(next(iter(arrays.values()))), len(self.free))
        if latents is not None and np.shape(np.asarray(latents)) != wanted:
            raise InputError(f"simulate: latents has the shape {np.shape(np.asarray(latents))}, expected {wanted}.")
        parts, start = [], 0
        for now in self._blocks(arrays):
            phi = self.noise.phi(now, (len(next(iter(now.values()))),))
            eta = None if latents is None else np.asarray(latents)[start : start + len(phi)]
            parts.append(simulate(self, self.unit_inputs(now), phi, generator, eta))
            start += len(phi)
        return np.concatenate(parts)

    def with_values(self, values: Array) -> Self:
        """Return the same problem with other measured values (R,), in the data's own units.

        Rows that have a detection limit are censored when their value is beyond it.

        Raises
        ------
        InputError
            When there is not one value for each row.
        DataError
            When a value is not finite.
        """
        if np.shape(values) != self.cells.z.shape:
            raise InputError(f"with_values: got the shape {np.shape(values)}; give one value per row.")
        if self.members:
            ends = np.cumsum([len(part.observations) for part in self.members.values()])[:-1]
            each = zip(self.members.items(), np.split(np.asarray(values), ends), strict=True)
            return cast(Self, together({name: part.with_values(own) for (name, part), own in each}, self.seen_from))
        other = copy.copy(self)
        other.cells = self.cells_of(values)
        side = other.cells.side
        values = np.where(side != 0, self.cells.limit, np.asarray(values, dtype=np.float64))
        censored = None if self.observations.censored is None else np.array(["right", "", "left"])[side + 1]
        other.observations = replace(self.observations, value=values, censored=censored)
        return other

    def with_surrogate(self, surrogate: Surrogate) -> "SingleCalibration":
        """Return the calibration of the same data, with all settings as they were, through another surrogate.

        Raises
        ------
        UqmsError
            What the constructor raises of a surrogate that does not fit.
        """
        if self.members:
            raise InputError("with_surrogate: of several parts, make a new calibration with the new surrogates.")
        return SingleCalibration(surrogate, self.observations, **self.settings)

    def with_error(self, surrogate: Surrogate, truncation: float) -> "SingleCalibration":
        """Return the same problem through a surrogate that differs in its variances alone.

        What the bases leave out has `truncation` times its sd. Nothing is checked again, so a copy costs nothing.
        """
        other = copy.copy(self)
        other.surrogate = surrogate
        other.cells = replace(self.cells, truncation=truncation * self.cells.truncation)
        return other

    def with_few_cells(self) -> "SingleCalibration":
        """Return a problem of fewer cells with the same information on parameters and errors; itself if there is none.

        Under independent noise many cells of one experiment say what a few sums of them say, see `Cells.projected`.
        """
        summed = self.form == "independent" and not self.noise.growth
        if not summed or is_exact(self.surrogate) or self.cells.by_input is not None:
            return self
        other = copy.copy(self)
        other.cells = self.cells.projected
        return other

    def with_wider_noise(self, factor: float) -> "SingleCalibration":
        """Return the problem with noise sds that are `factor` times as large, of any model, known or inferred."""
        other = copy.copy(self)
        other.cells = replace(self.cells, row_variance=factor**2 * self.cells.row_variance)
        return other

    def cells_of(self, values: Array) -> Cells:
        """Return the cells with other measured values (R,), in the data's own units."""
        cells, (left, right) = self.cells, self._limited
        values = np.array(values, dtype=np.float64)
        side = np.where(left & (values <= cells.limit), 1, np.where(right & (values >= cells.limit), -1, 0))
        return replace(cells, z=cells.linked(np.where(side != 0, cells.limit, values)), side=side.astype(np.int64))

    @single_threaded
    def sample(
        self, sampler: Sampler | None = None, *, rng: RandomState | None = None, refit_discrepancy: bool = True
    ) -> "Posterior":
        """Draw from the posterior.

        Parameters
        ----------
        sampler
            `NUTS(...)` (its defaults when left out), `SMC(...)`, `Metropolis(...)`, `Laplace(...)`, `Pathfinder(...)`,
            or one of your own that follows `Sampler`.
        rng
            Whole number or generator; stored with the result.
        refit_discrepancy
            With a discrepancy the verdict says how the answer moves with a quarter and four times its prior scale.
            Where reweighted draws cannot tell, the posterior with that scale is sampled too, by the same sampler with
            fewer draws, which takes at most about as long again. False leaves it out; the verdict then says that the
            answer is not known.

        Returns
        -------
        Posterior
            Draws, predictions, tables and the verdict.

        Raises
        ------
        InputError
            When the sampler is none, or a derived quantity cannot be computed.
        ConformanceError
            When a sampler of your own returns other draws than `Sampler` says.
        InitError, SamplingInterrupted, SamplingError
            When there is no posterior that could be used.
        """
        from uqms.calibration.posterior import sample

        return sample(self, sampler, rng, refit_discrepancy)

    def _form(self, expansion: Expansion) -> Literal["independent", "correlated", "latent"]:
        """Return how the likelihood is computed: closed form with independent or correlated errors, or latents.

        Rows that are expanded to first order in the errors are among the correlated ones.

        Raises
        ------
        InputError
            When an expansion is asked for of noise that is not Gaussian, or latents with autocorrelated noise.
        """
        noise, cells = self.noise, self.cells
        normal = all(model.gaussian for model in noise.models) and not cells.side.any()
        if self.expanded and not normal and expansion == "first-order":
            raise InputError(
                "expansion='first-order' is for Gaussian noise without detection limits: with others the surrogate's "
                "error has no closed form. Leave it out, which samples the error."
            )
        if not normal or (self.expanded and expansion in ("none", "links")):
            self._check_sampled("")
            return "latent"
        more = noise.terms or noise.factors or cells.transformed or self.realisation is not None
        return "correlated" if more else "independent"

    def _measure_links(self) -> None:
        """Sample the errors of a chain's links where their first-order expansion is not good enough."""
        from uqms.calibration.expansion import LOSS_LIMIT
        from uqms.calibration.link_errors import link_loss, with_sampled_links

        sampled, settings = with_sampled_links(self), self.settings
        if sampled is None:
            return
        loss = link_loss(self, sampled)
        self.link_loss = loss.nats
        if loss.nats > LOSS_LIMIT:
            self.__dict__ = sampled.__dict__
            self.settings, self.link_loss = settings, loss.nats
        _logger.info(
            "first-order expansion of links: loss %.2g nats, %s", loss.nats, "sampled" if self.link_errors else "used"
        )

    def _measure_expansion(self) -> None:
        """Sample the surrogate's error of transformed outputs where the first-order expansion is not good enough."""
        from uqms.calibration.expansion import LOSS_LIMIT, pilot_loss

        loss = pilot_loss(self)
        self.expansion_loss = loss.nats
        if not loss.small:
            self._check_sampled(
                f" The closed form needs a smaller error: its first-order expansion changes the log-likelihood by "
                f"{loss.nats:.2g} nats, limit {LOSS_LIMIT:g}."
            )
            self.form = "latent"
        _logger.info("first-order expansion of transformed outputs: loss %.2g nats, form %s", loss.nats, self.form)

    def _check_sampled(self, why: str) -> None:
        """Refuse to sample the error of a transformed output whose noise is autocorrelated, in its own unit."""
        lost = [one.output for one in self.noise.terms if one not in self.inside.terms]
        if lost:
            raise InputError(
                f"Autocorrelated noise of {lost[0]!r} is in the output's own unit, while the surrogate models its "
                f"{self.surrogate.layouts[lost[0]].transform.name}: the surrogate's error cannot be sampled beside "
                f"it.{why} Run more points where the data are, fit {lost[0]!r} without a transform, or use "
                "GaussianNoise. expansion='first-order' takes the closed form as it is."
            )

    def _mass_cut(self) -> float:
        """Return the prior's mass outside of the design box; that of a population is another."""
        return mass_outside(self.surrogate, self.space, self.outside)

    def prior_predicted(self) -> tuple[dict[str, Array], Array, Array]:
        """Return prior draws (fixed seed: for checks, defaults), and mean and variance (S, N) of the latent output.

        The variance is that of the surrogate's error, and of a stochastic simulator's runs.
        """
        theta, cells = self.prior_draws(256, 0), self.cells
        u = self.unit_inputs(theta)
        predicted, surrogate = averaged_marginals(self.surrogate, cells, cells.experiment, u, self.used)
        known = np.isfinite(predicted).all(axis=1)  # not where a simulator fails whose failures are allowed
        if not known.any():
            raise OutputError("The simulator fails at all of 256 draws of the prior. Check its units and the prior's.")
        if self.realisation is not None:
            surrogate += np.sum(self.run_factor(u) ** 2, axis=2)
        return {name: values[known] for name, values in theta.items()}, predicted[known], surrogate[known]


def _of_used(scores: Scores, used: Ints) -> Array:
    """Return the covariances (H, S, q', K, K) of some scores, (H, S, K q', K q') of correlated ones."""
    if not scores.correlated:
        return np.asarray(scores.covariance[:, :, used])
    H, S, K, _ = scores.mean.shape
    return np.asarray(scores.covariance[..., used, :, :][..., used].reshape(H, S, K * len(used), K * len(used)))
