"""The calibration of a population: many subjects, one surrogate, its error joint over all of them.

==========  ===================================================================  ===========
symbol      meaning                                                              shape
==========  ===================================================================  ===========
S           draws                                                                ()
U, K        units (a subject on one occasion), different inputs of the surrogate ()
theta       what is inferred of the population, and of the noise                 by name (S,)
z           standard normal effects, then latents of the likelihood              (S, D)
==========  ===================================================================  ===========

Given theta and z all is as in a `Calibration`, which holds the data (`PopulationCalibration.data`), except that
parameters differ between units: inputs of different subjects have errors of the surrogate that are correlated as far as
the inputs are near to each other. The prior of individual parameters is conditioned on the design box, with a wall that
is 1 % of its width thick.
"""

import copy
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, final

import numpy as np
import pandas as pd
import xarray as xr

from uqms._teaching import taught
from uqms._threads import single_threaded
from uqms._typing import Array, ArrayLike, Ints, RandomState, as_generator
from uqms.calibration import density
from uqms.calibration.base import MASS_CUT_LIMIT, DerivedQuantities, Expansion, LeftOut, Piece
from uqms.calibration.capabilities import Kind, warn_ahead
from uqms.calibration.conditioned import ConditionedPrior
from uqms.calibration.construction import named_derived
from uqms.calibration.direct import design_box, is_exact
from uqms.calibration.discrepancy import Discrepancies
from uqms.calibration.joint_error import averaged_marginals
from uqms.calibration.likelihood import check_errors_between
from uqms.calibration.noise import NoiseModel
from uqms.calibration.observations import Observations
from uqms.calibration.population.layout import WALL, Layout, Subjects, read_subjects
from uqms.calibration.population.lowrank import LowRank
from uqms.calibration.population.population import Population
from uqms.calibration.population.subject_prediction import featured, has_features, low_rank, simulate_rows
from uqms.calibration.problem import Calibration
from uqms.calibration.samplers import NUTS, Sampler
from uqms.calibration.single import SingleCalibration
from uqms.errors import PACKAGE, DataError, DataWarning, ExtrapolationError, ExtrapolationWarning, InputError
from uqms.parameters import Prior
from uqms.parameters.scale import SCALES, UnitMap
from uqms.surrogates.protocol import Surrogate

if TYPE_CHECKING:
    import pymc as pm

    from uqms.calibration.checks import Sampled
    from uqms.calibration.constraints import Constraint
    from uqms.calibration.context import Linearised
    from uqms.calibration.population.subjects_graph import Compiled
    from uqms.calibration.posterior import Posterior

__all__ = ["Individuals", "PopulationCalibration"]

CHECKED = 2048  # draws for the mass outside of the box
EXACT = 100  # inputs times scores: beyond, an exact likelihood takes milliseconds
MAX_SCORES = 30  # beyond, features of each score are more than the inputs of a few subjects
CLOUD = 64  # draws of all subjects
PREDICTED = 25_600  # inputs for the check against the prior
TRIES = 200  # of effects inside of the design box
WORK, LEAST_DRAWS, MOST_DRAWS = 1e11, 40, 400  # of new measurements without features: operations in all, draws


class Individuals(SingleCalibration):
    """The data of a population with one vector of parameters a unit: the likelihood, without the population's prior."""

    samples_links = False  # errors of links depend on each other between subjects: to first order

    def __init__(
        self, population: Population, table: pd.DataFrame | None, unmeasured: str, *data: Any, **settings: Any
    ) -> None:
        self._population, self._table, self._unmeasured = population, table, unmeasured
        _check_scales(population, data[0])
        super().__init__(*data, space=population.space, **settings)

    def _measure_expansion(self) -> None:
        """Sample the error of transformed outputs: where the subjects are is not known before, nor is the loss.

        That of the variance of noise that grows is small where the surrogate is of any use; the verdict measures it.
        """
        if not self.cells.transformed:
            return
        why = " Its first-order expansion is not measured before a population is sampled."
        self.data_model = self.data_model.with_sampled_errors(why)

    @property
    def individual(self) -> tuple[str, ...]:
        """Names of the parameters that differ between subjects."""
        return tuple(self._population.individual)

    def _units(self, observations: Observations) -> Ints | None:
        labels = list(dict.fromkeys(str(one) for one in observations.subject))
        if labels == [""]:
            raise InputError(
                "population: the observations lack the subject of each row. Name the column of the subjects: "
                "Observations.from_table(df, ..., subject='id')."
            )
        found = read_subjects(self._population, self._table, labels)
        missing = [label for label, there in zip(found.labels, found.measured, strict=True) if not there]
        if missing and self._unmeasured == "error":
            raise DataError(
                f"Subjects {missing[:5]} ({len(missing)} in all) have no measurement. Leave them out of the table of "
                "subjects, or pass without_data='predict' to infer them from the population alone."
            )
        place = {label: j for j, label in enumerate(found.labels)}
        subject = np.array([place[str(one)] for one in observations.subject])
        if not self._population.occasions:
            self.subjects = found
            self.layout = Layout.of(self._population, found)
            return subject
        occasions = [str(one) for one in observations.experiment]
        if set(occasions) == {""}:
            raise InputError(
                f"population: {list(self._population.occasions)} change between occasions, and "
                "the observations lack the occasion of each row. Name their column, Observations.from_table(df, ..., "
                "experiment='visit'), or leave occasions out."
            )
        pairs = dict.fromkeys(zip(subject.tolist(), occasions, strict=True))
        pairs |= dict.fromkeys((j, "") for j, there in enumerate(found.measured) if not there)
        order = sorted(pairs, key=lambda pair: pair[0])
        self.occasions = int(np.bincount([j for j, _ in pairs]).max())
        self.subjects = Subjects(
            found.labels,
            found.covariates,
            np.array([j for j, _ in order]),
            np.array([label for _, label in order]),
            found.measured,
            found.table,
        )
        self.layout = Layout.of(self._population, self.subjects)
        at = {pair: i for i, pair in enumerate(order)}
        return np.array([at[pair] for pair in zip(subject.tolist(), occasions, strict=True)])

    @cached_property
    def law(self) -> ConditionedPrior:
        """Prior of what describes the population; what all subjects share is restricted to the design box."""
        priors = self._population.priors
        limits = {n: self.limits(n) if n in self._population.shared else p.support for n, p in priors.items()}
        return ConditionedPrior(priors, limits, self.space.blocks)

    def prior_draws(self, n: int, rng: RandomState) -> dict[str, Array]:
        """Return draws of what all share (n,) and of the individual parameters (n, U), from the population's prior."""
        generator = as_generator(rng)
        known = self.law.draw(n, generator)
        out = {name: known[name] for name in self._population.shared}
        out |= self.layout.parameters(known, generator.standard_normal((n, self.layout.size)))
        others = {**self.noise.unknown, **self.true_conditions}
        return out | {name: np.asarray(prior.quantile(generator.random(n))) for name, prior in others.items()}

    def check_errors_between(self, conditions: Array, asked: str) -> None:
        """Raise ConformanceError when the surrogate knows no covariance of its errors between inputs."""
        u = self.unit_inputs(self.prior_draws(4, 0))
        check_errors_between(self.surrogate, u[:, :2], self.cells.used, asked)

    def prior_predicted(self) -> tuple[dict[str, Array], Array, Array]:
        """Return prior draws, and mean and variance (S, N) of the latent output; fewer draws of many inputs."""
        theta = self.prior_draws(int(np.clip(PREDICTED // self.cells.experiments, 64, 256)), 0)
        u, cells = self.unit_inputs(theta), self.cells
        predicted, surrogate = averaged_marginals(self.surrogate, cells, cells.experiment, u, self.data_model.used)
        surrogate += np.sum(self.data_model.run_factor(u) ** 2, axis=2)
        return theta, predicted, surrogate

    @single_threaded
    def simulate(self, theta: Mapping[str, ArrayLike], rng: RandomState, latents: ArrayLike | None = None) -> Array:
        """Draw new observations (S, R) for what all share (S,) and individual parameters (S, U)."""
        generator, parts, start = as_generator(rng), [], 0
        arrays = {name: np.asarray(values, dtype=np.float64) for name, values in theta.items()}
        for now in self.data_model.blocks(arrays):
            phi = self.noise.phi(now, (len(next(iter(now.values()))),))
            eta = None if latents is None else np.asarray(latents)[start : start + len(phi)]
            parts.append(density.simulate(self.data_model, self.unit_inputs(now), phi, generator, eta))
            start += len(phi)
        return np.concatenate(parts)

    def _mass_cut(self) -> float:
        """Return the fraction of individuals that the population's prior has outside of the box."""
        box, population = design_box(self.surrogate), self._population
        if box is None:
            return 0.0
        names = [*population.individual]
        shared = 1.0
        for name in population.shared:
            shared *= float(self.space.mass_inside(box.select((name,))))
        theta = self.prior_draws(CHECKED, 0)
        outside = np.zeros(theta[names[0]].shape, dtype=bool)
        each = {}
        for name in names:
            index = box.names.index(name)
            off = (theta[name] < box.lower[index]) | (theta[name] > box.upper[index])
            each[name] = float(off.mean())
            outside |= off
        cut = max(1.0 - shared, float(outside.mean()))
        if cut > MASS_CUT_LIMIT and self.outside == "error":
            worst = max(each, key=lambda name: each[name])
            index = box.names.index(worst)
            box_of = f"population.box({'covariates' if self._population.covariates else ''})"
            raise ExtrapolationError(
                f"{cut:.1%} of the population's prior lies outside of the design box, most of it along {worst!r} (box "
                f"[{box.lower[index]:g}, {box.upper[index]:g}]). Run a design over the population's box, "
                f"uq.sobol({box_of}, n), narrow the priors of typical value or omega, or pass outside='extrapolate', "
                "or outside='refined' where uq.refine made the box."
            )
        return cut

    def support(self, name: str) -> tuple[float, float]:
        """Return where a subject's parameter may be: the prior bounds the typical value, not those that differ from it.

        What all subjects share is where its prior is.
        """
        if name not in self.individual:
            return self.space.priors[name].support
        return SCALES[self._population.scales[self.individual.index(name)]].domain

    def wall(self, theta: Mapping[str, Array]) -> Array:
        """Return the log-density (S,) that keeps individual parameters inside of the design box.

        Those of subjects that have data: where others may be is not what the population is judged by. A wall around
        them too would weigh the population by what it has inside of the box, once for each of them.
        """
        return np.asarray(self.walls_of_subjects(theta)[:, self.subjects.measured].sum(axis=1))

    def walls_of_subjects(self, theta: Mapping[str, Array]) -> Array:
        """Return the soft boundary penalty of the design box for each subject, a log-density (S, J)."""
        total = np.zeros((len(next(iter(theta.values()))), len(self.layout.subject)))
        for name, one in self.walls():
            u = one.forward(theta[name])
            total -= 0.5 * (np.maximum(-u, 0.0) + np.maximum(u - 1.0, 0.0)) ** 2 / WALL**2
        first = np.searchsorted(self.layout.subject, np.arange(len(self.subjects)))  # sorted; each has a unit
        return np.asarray(np.add.reduceat(total, first, axis=1))

    def walls(self) -> Iterator[tuple[str, UnitMap]]:
        """Yield the individual parameters that have walls, each with its map to the unit interval."""
        if self.outside == "extrapolate":
            return
        box = self.surrogate.domain
        for name in self.individual:
            yield name, box.maps[box.names.index(name)]


def _check_scales(population: Population, surrogate: Surrogate) -> None:
    """Refuse a design box on a scale that the population's subjects leave: they would have no likelihood there."""
    box = design_box(surrogate)
    for name, scale in zip(population.individual, population.scales, strict=True):
        if box is None or name not in box.names:
            continue
        one = box.maps[box.names.index(name)]
        if not one.takes(*SCALES[scale].domain):
            taken = one.scale.name
            raise InputError(
                f"population: subjects differ in {name!r} on the {scale} scale, where it may leave the range of the "
                f"design box's {taken} scale. Give Population(..., scale={{{name!r}: {taken!r}}}), or run a "
                "design over population.box(), which has the population's scale."
            )


@taught
@final
class PopulationCalibration(Calibration):
    """Infer a population and each of its subjects; made by ``Calibration(..., population=uq.Population(...))``.

    The surrogate's error is one function for all subjects. Where it is added independently to each, the population's
    mean is confidently wrong: a 95 % interval covers 57 % with 64 patients.

    Parameters
    ----------
    surrogate, observations, noise, discrepancy, derived, outside
        As in `Calibration`; observations have a `subject`. Derived quantities are computed for the typical subject and
        for each.
    population
        How subjects differ.
    subjects
        Table with one row per subject, its index their labels, its columns the covariates.
    surrogate_error
        How the surrogate's joint error is computed: "exact", between all inputs, whose cost grows with the cube of
        their number; "low-rank", linear in it, through features that inputs share, with exact variances; "auto"
        (default): exact up to 100 inputs times scores.
    expansion
        As in `Calibration`; "measured" samples the error of transformed outputs, since where the subjects are is not
        known before. "first-order" takes the closed form, whose loss the verdict measures.
    without_data
        What to do with subjects of the table that have no measurement: "error" (default), or "predict" them from the
        population and their covariates.

    Attributes
    ----------
    data
        The data with one vector of parameters a unit; its `cells`, `noise` and `form` are those of any calibration.

    Raises
    ------
    InputError, ConformanceError, ExtrapolationError
        As `Calibration`; covariates that are missing.
    DataError
        Subjects without data or without covariates, or twice in the table; NaN.

    Warns
    -----
    DataWarning
        When there is one subject, which says nothing of a spread.
    CapabilityWarning
        When predictions of the posterior will have no closed form; see `limitations`.

    References
    ----------
    Gelman et al. (2013), Bayesian Data Analysis, ch. 5 and 19; Wakefield (1996), doi:10.1080/01621459.1996.10476666.
    """

    kind: ClassVar[Kind] = "population"
    prior_predictive_draws: ClassVar[int] = 100

    @single_threaded
    def __init__(
        self,
        surrogate: Surrogate,
        observations: Observations | xr.DataArray,
        noise: NoiseModel | Mapping[str, NoiseModel],
        *,
        population: Population,
        subjects: pd.DataFrame | None = None,
        discrepancy: Discrepancies | None = None,
        derived: DerivedQuantities | None = None,
        outside: Literal["error", "extrapolate", "refined"] = "error",
        surrogate_error: Literal["auto", "exact", "low-rank"] = "auto",
        expansion: Expansion = "measured",
        without_data: Literal["error", "predict"] = "error",
    ) -> None:
        if surrogate_error not in ("auto", "exact", "low-rank"):
            raise InputError(f"surrogate_error is {surrogate_error!r}; give 'auto', 'exact' or 'low-rank'.")
        if not isinstance(population, Population):
            raise InputError(f"population is a {type(population).__name__}; give uq.Population(space, individual=...).")
        if without_data not in ("error", "predict"):
            raise InputError(f"without_data is {without_data!r}; give 'error' or 'predict'.")
        self.population, self.space = population, population.space
        self.fixed: dict[str, float] = {}
        self.constraints: tuple[Constraint, ...] = ()
        settings: dict[str, Any] = {"discrepancy": discrepancy, "outside": outside, "expansion": expansion}
        self.settings: dict[str, Any] = {
            "noise": noise,
            "population": population,
            "subjects": subjects,
            "derived": derived,
            "surrogate_error": surrogate_error,
            "without_data": without_data,
            **settings,
        }
        self.data = Individuals(population, subjects, without_data, surrogate, observations, noise, **settings)
        taken = [*self.data.noise.unknown, *self.data.uncertain, *self.data.condition_names]
        clash = sorted(set(population.settings) & {*taken, "latents", "observations", "subject"})
        if clash:
            raise InputError(f"{clash} name a quantity of the population and another one. Rename the parameter.")
        self.lowrank = self._lowrank(surrogate_error)
        self.derived = named_derived(derived or {}, tuple(self.priors))
        self.mass_cut = self.data.mass_cut
        self._compiled: list[Compiled] = []  # one for this problem and those with other values
        warn_ahead(self)
        if int(self.subjects.measured.sum()) == 1:
            warnings.warn(
                "One subject has data, which contains no information about how subjects differ: the omegas follow "
                "their priors. Calibrate it alone, Calibration(...) without population=, or measure more subjects.",
                DataWarning,
                skip_file_prefixes=PACKAGE,
            )
        if population.occasions and self.data.occasions < 2:
            warnings.warn(
                "No subject was measured on two occasions, so the data cannot separate how "
                f"{list(population.occasions)} change between them from how subjects differ: the priors alone divide "
                "the variation between the two. Leave occasions out, or see whether `experiment` has the visits.",
                DataWarning,
                skip_file_prefixes=PACKAGE,
            )

    def __repr__(self) -> str:
        return (
            f"<PopulationCalibration of {len(self.subjects)} subjects: individual "
            f"{', '.join(self.population.individual)}; from {self.data.observations!r}; individuals outside of the "
            f"design box: {self.mass_cut:.2%}>"
        )

    def _lowrank(self, asked: str) -> LowRank | None:
        """Return the likelihood through features, for a cloud of the prior's inputs; None where errors are exact."""
        data = self.data
        if asked == "exact" or (asked == "auto" and data.cells.experiments * len(data.cells.used) <= EXACT):
            return None
        if not has_features(data):
            few = data.cells.experiments <= EXACT
            if asked == "auto" and (few or is_exact(self.surrogate)):
                return None
            raise InputError(
                f"The surrogate's error at {data.cells.experiments} inputs is joint through features, which require "
                "Gaussian noise on the surrogate's scale and no discrepancy. Give surrogate_error='exact' if you have "
                "the time: its cost grows with the cube of the number of inputs."
            )
        if asked == "auto" and data.cells.experiments <= EXACT and len(data.cells.used) > MAX_SCORES:
            return None
        draws = self.data.prior_draws(CLOUD, 0)
        return low_rank(data, data.unit_inputs(draws), data.noise.phi(draws, (CLOUD,)), np.random.default_rng(0))

    def with_features(
        self, theta: Mapping[str, Array], latents: Array, rng: np.random.Generator
    ) -> "PopulationCalibration":
        """Return the same problem with features of the error for the inputs that draws (S,) have."""
        other = copy.copy(self)
        own = self.individuals(theta, latents)
        phi = self.data.noise.phi(own, (len(latents),))
        other.lowrank = low_rank(self.data, self.data.unit_inputs(own), phi, rng)
        return other

    def with_flat_features(self, block: Array, left_out: Array) -> "PopulationCalibration":
        """Return the same problem with features of the error as a block and its `left_out`, see `SharedError.flat`."""
        other = copy.copy(self)
        assert self.lowrank is not None
        own = self.lowrank.error
        error = replace(own.with_flat(block), left_out=left_out)
        # Compiled code reads these arrays unchecked.
        if (
            len(error.flat()) != len(block)
            or min(error.ranks) < 1
            or max(error.counts) > len(error.points)
            or min(error.counts) < 1
            or len(left_out) != len(own.ranks)
        ):
            raise InputError("the features of its population do not belong together")
        other.lowrank = featured(self.data.data_model, error, self.data.cells.used, self.lowrank.unit)
        return other

    @property
    def surrogate(self) -> Surrogate:
        """The surrogate."""
        return self.data.surrogate

    @property
    def simulated(self) -> Surrogate:
        """The surrogate of what is simulated, of a superposition that of the response to a unit dose."""
        return self.data.simulated

    @property
    def observations(self) -> Observations:
        """The measurements."""
        return self.data.observations

    @property
    def subjects(self) -> Subjects:
        """Labels, covariates and occasions."""
        return self.data.subjects

    @property
    def layout(self) -> Layout:
        """From the population and standardised effects to individual parameters."""
        return self.data.layout

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of what describes the population: typical values, omegas, covariate effects, shared parameters."""
        return tuple(self.population.priors)

    @property
    def priors(self) -> dict[str, Prior]:
        """Priors of everything that has one: the population, noise, discrepancy."""
        return {**self.population.priors, **self.data.noise.unknown, **self.data.true_conditions}

    @cached_property
    def conditioned_prior(self) -> ConditionedPrior:
        """The prior of everything in `priors`; what all subjects share is restricted to the design box."""
        return ConditionedPrior(
            self.priors, {name: self.limits(name) for name in self.priors}, self.population.space.blocks
        )

    @property
    def latents(self) -> int:
        """Number of standard normals that are inferred beside: random effects, then those of the likelihood."""
        return self.layout.size + self.data.latents

    def limits(self, name: str) -> tuple[float, float]:
        """Interval that the prior of a quantity is conditioned on."""
        return self.data.limits(name) if name in self.population.shared else self.priors[name].support

    def linearised(self, sampled: "Sampled") -> "Linearised":
        """Return the problem linearised at a few draws, as the checks of a verdict look at it."""
        from uqms.calibration.population.subject_checks import linearised

        return linearised(self, sampled)

    def unit_of(self, name: str) -> str:
        """Return the unit of an inferred quantity; spreads and effects on a natural scale have none."""
        if name in self.population.priors:
            at = [n for n, s in zip(self.population.individual, self.population.scales, strict=True) if s == "identity"]
            owner = next((n for n in at if name in (f"omega_{n}", f"omega_{n}_occasion")), name)
            return self.population.space.priors[owner].unit if owner in self.population.space.names else ""
        return self.data.unit_of(name)

    def individuals(self, theta: Mapping[str, Array], latents: Array) -> dict[str, Array]:
        """Return the likelihood's arguments: shared and noise (S,), individual (S, U), for z (S, latents)."""
        own = {name: np.asarray(values) for name, values in theta.items() if name not in self.population.priors}
        own |= {name: np.asarray(theta[name]) for name in self.population.shared}
        return own | self.layout.parameters(theta, latents[:, : self.layout.size])

    @property
    def named_parts(self) -> Mapping[str, SingleCalibration]:
        """The data, which have no parts: those of all subjects, called ""."""
        return {"": self.data}

    def pieces(self, theta: Mapping[str, Any], latents: Any = None, h: Any = None) -> list[Piece]:
        """Return the data with their part of the draws; without numbers when there are none."""
        columns, rows = np.arange(len(self.data.parameters)), np.arange(len(self.data.cells.z))
        if latents is None or any(value is None for value in theta.values()):
            return [Piece("", self.data, dict.fromkeys(self.data.priors), None, h, columns, rows)]
        eta = np.asarray(latents)
        return [Piece("", self.data, self.individuals(theta, eta), eta[:, self.layout.size :], h, columns, rows)]

    @single_threaded
    def log_likelihood(self, theta: Mapping[str, ArrayLike], latents: ArrayLike | None = None) -> Array:
        """Return log p(observations | population, effects), every error source included, for many draws at once.

        Parameters
        ----------
        theta
            Everything in `priors`, each (...).
        latents
            Standard normal effects, and latents of the likelihood, (..., latents).

        Raises
        ------
        InputError
            When a quantity is missing or unknown, or latents have another shape.
        """
        if set(theta) != set(self.priors):
            raise InputError(f"log_likelihood: got {sorted(theta)}, expected {sorted(self.priors)}.")
        arrays = np.broadcast_arrays(*(np.asarray(theta[name], dtype=np.float64) for name in self.priors))
        shape = arrays[0].shape
        eta = np.zeros(0) if latents is None else np.asarray(latents, dtype=np.float64)
        if eta.shape != (*shape, self.latents):
            raise InputError(
                f"log_likelihood: the subjects' effects are {self.latents} standard normals: latents has the shape "
                f"{eta.shape}, expected {(*shape, self.latents)}."
            )
        flat = {name: np.ascontiguousarray(one.ravel()) for name, one in zip(self.priors, arrays, strict=True)}
        own = self.individuals(flat, eta.reshape(-1, self.latents))
        return self.of_individuals(own, eta.reshape(-1, self.latents)[:, self.layout.size :]).reshape(shape)

    def of_individuals(self, own: Mapping[str, Array], eta: Array) -> Array:
        """Return log p(observations | individual and shared parameters) (S,), with the soft boundary penalty."""
        data, wall = self.data, self.data.wall(own)
        if self.lowrank is not None:
            phi = data.noise.phi(own, (len(wall),))
            found = self.lowrank.evaluate(data.unit_inputs(own), phi, data.cells.z)
            return np.asarray(found + data.cells.jacobian.sum() + wall)
        with np.errstate(all="ignore"):
            if not data.data_model.closed_form:
                parts = [np.logaddexp.reduce(values, axis=0) for _, values in data.latent_terms(own, eta)]
                return np.concatenate(parts) + wall
            parts = [np.logaddexp.reduce(values, axis=0) for values in data.log_likelihood_values(own)]
        return np.asarray(np.concatenate(parts) + data.cells.jacobian.sum() + wall)

    @property
    def subject_labels(self) -> tuple[str, ...]:
        """Labels of the subjects."""
        return self.subjects.labels

    @property
    def auxiliary(self) -> tuple[str, ...]:
        """Names of the auxiliary variables behind the correlations of random effects."""
        return tuple(name for name in self.priors if name.startswith("lkj_"))

    @property
    def described(self) -> dict[str, str]:
        """The population and its subjects, for the posterior's file."""
        return {"population": repr(self.population), "subjects": json.dumps(list(self.subject_labels))}

    def correlations(self, theta: Mapping[str, Array]) -> dict[str, Array]:
        """Return correlations of random effects, by "corr_a_b", for draws of any shape."""
        return self.layout.correlations(theta)

    def left_out(self, theta: Mapping[str, Array], latents: Array, rng: np.random.Generator) -> LeftOut:
        """Return the log-likelihoods of draws (S,), also of each subject given all others."""
        from uqms.calibration.population.terms import subject_terms

        there = zip(self.subject_labels, self.subjects.measured, strict=True)
        return LeftOut(
            *subject_terms(self, theta, latents, rng), {"subject": [label for label, measured in there if measured]}
        )

    def of_subjects(self, theta: Mapping[str, Array], latents: Array, shape: tuple[int, int]) -> dict[str, xr.Dataset]:
        """Return groups of draws of each subject, dims (chain, draw, subject)."""
        from uqms.calibration.population.hierarchy import groups_of_subjects

        return groups_of_subjects(self, theta, latents, shape)

    def new_measurements(self, posterior: "Posterior", rng: np.random.Generator) -> tuple[Array, Ints]:
        """Return new measurements (chain, few draws, R) given the data, and which draws.

        Without features they have the exact conditional distribution, whose cost grows with the cube of the number of
        cells, so that there are fewer draws of more data.
        """
        from uqms.calibration.assembly import each_chain, new_measurements

        chains, draws = posterior.draws.sizes["chain"], posterior.draws.sizes["draw"]
        if not has_features(self.data):
            count = int(np.clip(WORK / (2 * len(self.data.cells.offset)) ** 3, LEAST_DRAWS, MOST_DRAWS))
            return new_measurements(posterior, -(-count // chains), rng)
        rows = posterior.hierarchy.shared.new_rows(rng).reshape(chains, -1, len(self.observations))
        return rows, each_chain((chains, draws), rows.shape[1])[1]

    def latents_inside(self, theta: Mapping[str, Array], latents: Array, rng: np.random.Generator) -> Array:
        """Return the standard normals (S, latents) with effects of subjects without data that are in the design box.

        Given a draw of the population they have its law, cut at the box, since nothing was simulated outside of it.

        Warns
        -----
        ExtrapolationWarning
            When some draws of the population have next to nobody inside of the box.
        """
        data, layout, free = self.data, self.layout, ~self.subjects.measured
        if not free.any() or not any(True for _ in data.walls()):
            return latents
        owner = np.concatenate(
            [
                np.repeat(np.arange(len(self.subjects)), len(self.population.individual)),
                np.repeat(layout.subject, len(self.population.occasions)),
            ]
        )
        out, rows = latents.copy(), np.arange(len(latents))
        open_ = np.tile(free, (len(out), 1))
        for _ in range(TRIES):
            fresh = rng.standard_normal((len(rows), layout.size))
            out[rows, : layout.size] = np.where(open_[rows][:, owner], fresh, out[rows, : layout.size])
            own = self.individuals({name: values[rows] for name, values in theta.items()}, out[rows])
            open_[rows] &= np.log(rng.random((len(rows), len(free)))) >= data.walls_of_subjects(own)
            rows = np.flatnonzero(open_.any(axis=1))
            if not len(rows):
                return out
        warnings.warn(
            f"{open_.sum() / (free.sum() * len(out)):.1%} of the draws of subjects without data lie outside of the "
            "design box, where nothing was simulated: their predictions extrapolate. Run a design over a wider box, or "
            "look at their covariates.",
            ExtrapolationWarning,
            skip_file_prefixes=PACKAGE,
        )
        return out

    @single_threaded
    def simulate(self, theta: Mapping[str, ArrayLike], rng: RandomState, latents: ArrayLike | None = None) -> Array:
        """Draw new observations (S, R) of the same layout; effects are drawn where `latents` (S, latents) are left out.

        Raises
        ------
        InputError
            When a quantity is missing or unknown, or latents have another shape.
        """
        if set(theta) != set(self.priors):
            raise InputError(f"simulate: got {sorted(theta)}, expected {sorted(self.priors)}.")
        generator = as_generator(rng)
        given = [np.atleast_1d(np.asarray(theta[name], dtype=np.float64)) for name in self.priors]
        arrays = dict(zip(self.priors, np.broadcast_arrays(*given), strict=True))
        count = len(next(iter(arrays.values())))
        size = self.layout.size + len(self.data.data_model.free)
        if latents is None:
            z, eta = generator.standard_normal((count, self.layout.size)), None
        else:
            whole = np.asarray(latents, dtype=np.float64)
            if whole.shape not in ((count, self.latents), (count, size)):
                raise InputError(f"simulate: latents has the shape {whole.shape}, expected {(count, self.latents)}.")
            z = whole[:, : self.layout.size]
            eta = whole[:, self.layout.size :] if whole.shape[1] > self.layout.size else None
        own = self.individuals(arrays, z)
        if self.lowrank is not None:
            phi = self.data.noise.phi(own, (count,))
            return simulate_rows(self.data.data_model, self.lowrank.error, self.data.unit_inputs(own), phi, generator)
        return self.data.simulate(own, generator, eta)

    def with_surrogate(self, surrogate: Surrogate) -> "PopulationCalibration":
        """Return the calibration of the same subjects, with all settings as they were, through another surrogate.

        Raises
        ------
        UqmsError
            What the constructor raises of a surrogate that does not fit.
        """
        return PopulationCalibration(surrogate, self.observations, **self.settings)

    def with_values(self, values: Array) -> Self:
        """Return the same problem with other measured values (R,), in the data's own units."""
        other = copy.copy(self)
        other.data = self.data.with_values(values)
        return other

    @single_threaded
    def sample(self, sampler: Sampler | None = None, *, rng: RandomState | None = None) -> "Posterior":
        """Draw from the posterior of the population and of all subjects.

        Parameters
        ----------
        sampler
            `NUTS(...)`, its defaults when left out. Samplers without gradients are for a handful of subjects.
        rng
            Whole number or generator; stored with the result.

        Returns
        -------
        Posterior
            Draws of the population and of each subject, predictions, new subjects, the verdict.

        Raises
        ------
        InputError, ConformanceError, InitError, SamplingInterrupted, SamplingError
            As `SingleCalibration.sample`.
        """
        from uqms.calibration.posterior import sample

        return sample(self, sampler, rng)

    def with_gradients(self, sampler: NUTS, seed: int) -> tuple["PopulationCalibration", xr.DataTree]:
        """Return the problem with features for where its subjects are, and its draws by a sampler with gradients."""
        from uqms.calibration.population.subjects_graph import run

        return run(self, sampler, seed)

    @property
    def compiled(self) -> "Compiled":
        """The compiled log-density, shared by problems that `with_values` made of one another."""
        from uqms.calibration.population.subjects_graph import Compiled

        if not self._compiled:
            self._compiled.append(Compiled())
        return self._compiled[0]

    def model(self, centring: Array | None = None) -> "pm.Model":
        """Return the PyMC model: the population, its subjects and the observed variable "observations".

        `centring` (subjects, individual parameters) between 0 and 1 says what is sampled, see `Population.centred`.
        """
        import pymc as pm

        from uqms.calibration import bridge
        from uqms.calibration.population import subjects_graph

        with pm.Model(coords={"subject": list(self.subjects.labels)}) as model:
            values = bridge.prior_variables(self.conditioned_prior)
            own = subjects_graph.individual_variables(self, values, centring=centring)
            subjects_graph.add_likelihood(self, own, values, "observations", "latents")
        return model
