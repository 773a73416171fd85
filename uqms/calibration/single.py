"""The calibration of one subject: a surrogate, observations, noise, and the priors conditioned on the design box."""

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

import numpy as np
import pandas as pd

from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, ArrayLike, Ints, RandomState, as_generator
from uqms.calibration.base import DerivedQuantities, Expansion, Piece
from uqms.calibration.capabilities import Kind
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
    with_link_errors,
)
from uqms.calibration.data_model import DataModel
from uqms.calibration.density import row_terms, simulate, total
from uqms.calibration.direct import design_box, is_exact
from uqms.calibration.discrepancy import NOISE, Discrepancies
from uqms.calibration.joint_error import averaged_marginals
from uqms.calibration.likelihood import Cells, NoiseGroups, add_discrepancy, arrange, check_errors_between
from uqms.calibration.noise import NoiseModel
from uqms.calibration.observations import Measured, Observations, observations_of
from uqms.calibration.problem import Calibration
from uqms.calibration.realisation import Realisation, Runs, runs_of, warn_if_correlation_changes, warn_if_not_normal
from uqms.calibration.samplers import Sampler
from uqms.calibration.scales import warn_of_uninformed, with_all_conditions
from uqms.calibration.sharing import together
from uqms.calibration.success import read_success
from uqms.errors import InputError, OutputError
from uqms.parameters import Normal, ParameterSpace, Prior, TruncatedNormal
from uqms.parameters.functions import NumPyFunctions
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
        self._within: dict[str, tuple[float, float]] = {}
        self.members: Mapping[str, SingleCalibration] = {}  # of several parts with one surrogate, by name
        self.seen_from = ""  # one of them
        space = space if space is not None else space_of(surrogate)
        self.outside = "extrapolate" if design_box(surrogate) is None else outside
        self.fixed = held(fixed, space, surrogate, inside=self.outside != "extrapolate")
        self.space = space.given({name: value for name, value in self.fixed.items() if name in space.names})
        known = {*self.space.names, *self.fixed}
        names = tuple(name for name in surrogate.domain.names if name not in known)
        observations = observations_of(observations, surrogate.layouts, names, missing)
        observations = with_all_conditions(surrogate, observations, names)
        if self.samples_links:
            surrogate = with_link_errors(surrogate, expansion, observations, names)
        self.link_errors: tuple[str, ...] = getattr(surrogate, "errors", ())
        self.observations: Observations = observations
        check_parameters(surrogate, self.space, self.outside)
        warn_of_uninformed(surrogate, observations, self.parameters)
        runs = runs_of(observations, realisation, surrogate)
        units = self._units(observations)
        cells, groups = arrange(surrogate, observations, noise, names, runs, units)
        own = None if runs is None else Realisation(surrogate, cells, realisation)
        self.data_model = DataModel(
            surrogate=surrogate,
            cells=cells,
            noise=groups,
            realisation=own,
            parameters=self.parameters,
            condition_names=names,
            limited=(cells.side == 1, cells.side == -1),
        )
        if own is not None:
            warn_if_not_normal(surrogate)
            warn_if_correlation_changes(surrogate)
        self.constraints = read_constraints(constraints, (*self.priors, *self.fixed))
        self.failures = failures
        self.success = read_success(success, surrogate, self.parameters, self.fixed, names, cells.conditions)
        self.discrepancy: Discrepancies | None = discrepancy
        self.noise_alone = groups
        if discrepancy is not None:
            self.discrepancy_scale = discrepancy_scale(self)
            groups = add_discrepancy(cells, groups, discrepancy, names, self.discrepancy_scale)
            self.data_model = self.data_model.replaced(noise=groups)
            self.__dict__.pop("conditioned_prior", None)  # it has the discrepancy's hyperparameters from here on
            _logger.info("priors of the discrepancy: %s", {k: v for k, v in groups.unknown.items()})
        self.data_model = self.data_model.as_expanded(expansion)
        self.expansion_loss = float("nan")
        for of_data in OF_DATA:
            of_data(self)
        self.derived = named_derived(derived or {}, (*self.parameters, *self.fixed, *self.noise.unknown))
        self.mass_cut = self._mass_cut()
        for of_prior in OF_PRIOR:
            of_prior(self)
        if expansion == "measured" and self.data_model.expanded and self.data_model.closed_form:
            self._measure_expansion()
        self.link_loss = float("nan")
        warn_of_conflict(self)
        if expansion == "measured" and not self.link_errors:
            self._measure_links()

    @property
    def surrogate(self) -> Surrogate:
        """The surrogate."""
        return self.data_model.surrogate

    @property
    def cells(self) -> Cells:
        """Where outputs were measured, and what was measured there."""
        return self.data_model.cells

    @property
    def noise(self) -> NoiseGroups:
        """Noise and discrepancy by output."""
        return self.data_model.noise

    @property
    def realisation(self) -> Realisation | None:
        """Runs of a stochastic simulator that were observed; None for a mean."""
        return self.data_model.realisation

    @property
    def condition_names(self) -> tuple[str, ...]:
        """Names of the inputs that are known with each experiment."""
        return self.data_model.condition_names

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
        return 0 if self.data_model.closed_form else len(self.data_model.free)

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
        if self.data_model.expanded and np.isfinite(self.expansion_loss):
            used = "used" if self.data_model.closed_form else "error sampled"
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
            theta |= bridge.conditions(self.data_model, self.uncertain, values)
            theta |= {name: values[name] for name in self.link_errors}
            u = bridge.unit_inputs(self.surrogate.domain, theta, self.cells.experiments)
            bridge.likelihood(self.data_model, u, values)
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
        if not self.data_model.closed_form:
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
        likelihood = self.data_model.gaussian
        for now in self.data_model.blocks(theta):
            u, phi = self.unit_inputs(now), self.noise.phi(now, (len(next(iter(now.values()))),))
            parts, log_weights = self.data_model.parts(u)
            values, alpha, precision = likelihood.evaluate(parts, phi)
            yield phi, log_weights[:, None] + values, alpha, precision

    def log_likelihood_values(self, theta: Mapping[str, Array]) -> Iterator[Array]:
        """Yield log w_h + log p(z | theta, h), shape (H, s), a block of the S values of `theta` at a time."""
        likelihood = self.data_model.fewest
        for now in self.data_model.blocks(theta):
            u, phi = self.unit_inputs(now), self.noise.phi(now, (len(next(iter(now.values()))),))
            parts, log_weights = self.data_model.parts(u)
            yield log_weights[:, None] + likelihood.evaluate(parts, phi, precisions=False)[0]

    def latent_terms(self, theta: Mapping[str, Array], eta: Array) -> Iterator[tuple[Array, Array]]:
        """Yield, a block at a time, outputs y (H, s, N) and log w_h + log p(z | theta, eta, h), shape (H, s)."""
        start = 0
        for now in self.data_model.blocks(theta):
            u, phi = self.unit_inputs(now), self.noise.phi(now, (len(next(iter(now.values()))),))
            y, log_weights = self.data_model.latent_outputs(u, phi, eta[start : start + len(phi)])
            start += len(phi)
            with np.errstate(all="ignore"):  # values without a density give -inf or NaN, which the callers look for
                values = total(row_terms(self.cells, self.noise, y, phi, self.cells.z, NumPyFunctions), y.ndim)
            yield y, log_weights[:, None] + values

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
        wanted = (len(next(iter(arrays.values()))), len(self.data_model.free))
        if latents is not None and np.shape(np.asarray(latents)) != wanted:
            raise InputError(f"simulate: latents has the shape {np.shape(np.asarray(latents))}, expected {wanted}.")
        parts, start = [], 0
        for now in self.data_model.blocks(arrays):
            phi = self.noise.phi(now, (len(next(iter(now.values()))),))
            eta = None if latents is None else np.asarray(latents)[start : start + len(phi)]
            parts.append(simulate(self.data_model, self.unit_inputs(now), phi, generator, eta))
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
        other = self.with_data_model(cells=self.data_model.cells_of(values))
        side = other.cells.side
        values = np.where(side != 0, self.cells.limit, np.asarray(values, dtype=np.float64))
        censored = None if self.observations.censored is None else np.array(["right", "", "left"])[side + 1]
        other.observations = replace(self.observations, value=values, censored=censored)
        return other

    def with_data_model(self, **changes: Any) -> Self:
        """Return the same problem with other fields of its `DataModel`, such as cells or noise; nothing is checked."""
        other = copy.copy(self)
        other.data_model = self.data_model.replaced(**changes)
        if other.noise is not self.noise:  # it has the priors of the hyperparameters
            other.__dict__.pop("conditioned_prior", None)
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
        cells = replace(self.cells, truncation=truncation * self.cells.truncation)
        return self.with_data_model(surrogate=surrogate, cells=cells)

    def with_few_cells(self) -> "SingleCalibration":
        """Return a problem of fewer cells with the same information on parameters and errors; itself if there is none.

        Under independent noise many cells of one experiment say what a few sums of them say, see `Cells.projected`.
        """
        summed = self.data_model.form == "independent" and not self.noise.growth
        if not summed or is_exact(self.surrogate) or self.cells.by_input is not None:
            return self
        return self.with_data_model(cells=self.cells.projected)

    def with_wider_noise(self, factor: float) -> "SingleCalibration":
        """Return the problem with noise sds that are `factor` times as large, of any model, known or inferred."""
        return self.with_data_model(cells=replace(self.cells, row_variance=factor**2 * self.cells.row_variance))

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
            self.data_model = self.data_model.with_sampled_errors(
                f" The closed form needs a smaller error: its first-order expansion changes the log-likelihood by "
                f"{loss.nats:.2g} nats, limit {LOSS_LIMIT:g}."
            )
        form = self.data_model.form
        _logger.info("first-order expansion of transformed outputs: loss %.2g nats, form %s", loss.nats, form)

    def _mass_cut(self) -> float:
        """Return the prior's mass outside of the design box; that of a population is another."""
        return mass_outside(self.surrogate, self.space, self.outside)

    def prior_predicted(self) -> tuple[dict[str, Array], Array, Array]:
        """Return prior draws (fixed seed: for checks, defaults), and mean and variance (S, N) of the latent output.

        The variance is that of the surrogate's error, and of a stochastic simulator's runs.
        """
        theta, cells = self.prior_draws(256, 0), self.cells
        u = self.unit_inputs(theta)
        predicted, surrogate = averaged_marginals(self.surrogate, cells, cells.experiment, u, self.data_model.used)
        known = np.isfinite(predicted).all(axis=1)  # not where a simulator fails whose failures are allowed
        if not known.any():
            raise OutputError("The simulator fails at all of 256 draws of the prior. Check its units and the prior's.")
        if self.realisation is not None:
            surrogate += np.sum(self.data_model.run_factor(u) ** 2, axis=2)
        return {name: values[known] for name, values in theta.items()}, predicted[known], surrogate[known]
