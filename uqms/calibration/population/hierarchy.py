"""What the posterior of a population says of its subjects: predictions, shrinkage, and subjects who are new."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
import pandas as pd
import xarray as xr

from uqms import _checks as check
from uqms._typing import Array, Ints
from uqms.calibration.assembly import each_chain
from uqms.calibration.base import Derived
from uqms.calibration.capabilities import Features, refuse
from uqms.calibration.likelihood import merge_close
from uqms.calibration.observations import Observations
from uqms.calibration.population.asked import asked_conditions, chosen_outputs
from uqms.calibration.population.layout import from_natural
from uqms.calibration.population.subject_outputs import Jointly, Simulated
from uqms.calibration.population.subject_prediction import Asked, Shared, curves
from uqms.calibration.predict import PosteriorPrediction, Realised
from uqms.errors import InputError

if TYPE_CHECKING:
    from uqms.calibration.population.calibration import PopulationCalibration
    from uqms.calibration.population.subject import SubjectPosterior
    from uqms.calibration.posterior import Posterior

__all__ = ["SHARED_DRAWS", "Hierarchy", "Moments", "groups_of_subjects"]

DIMS = ("chain", "draw")
SHARED_DRAWS = 400


class Moments(NamedTuple):
    """Posterior mean and variance of the effects of the measured subjects (J,), and the variance between subjects."""

    mean: Array
    variance: Array
    between: float


@final
@dataclass(frozen=True, eq=False)
class Hierarchy:
    """A population with the draws of its posterior: what is asked of subjects is answered here.

    Attributes
    ----------
    problem
        The calibration.
    posterior
        Its draws.
    """

    problem: "PopulationCalibration"
    posterior: "Posterior"

    @property
    def individuals(self) -> xr.Dataset:
        """Draws of each subject's parameters in their own units, dims ("chain", "draw", "subject")."""
        found: xr.Dataset = self.posterior.tree["individuals"].dataset
        return found

    @property
    def effects(self) -> xr.Dataset:
        """Draws of the random effects on the natural scale, dims ("chain", "draw", "subject")."""
        found: xr.Dataset = self.posterior.tree["effects"].dataset
        return found

    def individual_summary(self, prob: float) -> pd.DataFrame:
        """Return the table of each subject's parameters; see `Posterior.individual_summary`."""
        check.probability("individual_summary", "prob", prob)
        tail, rows = 0.5 * (1.0 - prob), {}
        for name, values in self.individuals.data_vars.items():
            flat = values.values.reshape(-1, values.sizes["subject"])
            low, high = np.quantile(flat, [tail, 1.0 - tail], axis=0)
            labels = self.problem.subject_labels
            columns = zip(labels, flat.mean(axis=0), flat.std(axis=0, ddof=1), low, high, strict=True)
            for label, mean, sd, a, b in columns:
                rows[str(name), label] = {"mean": mean, "sd": sd, f"{100 * tail:g}%": a, f"{100 * (1 - tail):g}%": b}
        table = pd.DataFrame.from_dict(rows, orient="index")
        return table.set_axis(pd.MultiIndex.from_tuples(rows, names=["parameter", "subject"]), axis=0)

    def moments(self, name: str) -> Moments:
        """Return what the posterior says of the random effects of one individual parameter."""
        population, values = self.problem.population, self.effects[name].values
        flat = values.reshape(-1, values.shape[-1])[:, self.problem.subjects.measured]
        freedom = population.tails.get(name)
        factor = 1.0 if freedom is None else freedom / (freedom - 2.0)
        return Moments(flat.mean(axis=0), flat.var(axis=0), float(np.mean(self._omega(name) ** 2)) * factor)

    def _omega(self, name: str) -> Array:
        """Return draws of the spread of a parameter between subjects, one number where it is known."""
        key = f"omega_{name}"
        draws = self.posterior.draws
        return np.asarray(draws[key].values if key in draws else self.problem.population.known[key])

    def shrinkage(self) -> pd.DataFrame:
        """Return how much the random effects are drawn towards the population; see `Posterior.shrinkage`."""
        rows = {}
        for name in self.problem.population.individual:
            found = self.moments(name)
            of_means = float(np.mean(found.mean**2))
            rows[name] = {
                "shrinkage": 1.0 - of_means / found.between,
                "omega": float(np.mean(self._omega(name))),
                "sd of individual means": float(np.sqrt(of_means)),
                "mean posterior sd": float(np.sqrt(found.variance.mean())),
            }
        return pd.DataFrame.from_dict(rows, orient="index")

    @cached_property
    def shared(self) -> Shared:
        """Draws with the surrogate's error given the data, in closed form; made once."""
        found = self.some
        assert isinstance(found, Shared)
        return found

    @cached_property
    def some(self) -> Shared | Simulated | Jointly:
        """Draws with the surrogate's error given the data, for predictions and new subjects; made once."""
        return self.with_error(SHARED_DRAWS, np.random.default_rng(0))

    def with_error(self, draws: int, rng: np.random.Generator) -> Shared | Simulated | Jointly:
        """Return some draws, spread evenly over the chains, with the surrogate's error given the data."""
        problem, features = self.problem, Features.of(self.problem)
        sizes, theta = self.posterior.draws.sizes, self.posterior.flat()
        picked, _ = each_chain((sizes["chain"], sizes["draw"]), -(-draws // sizes["chain"]))
        few, z = {name: values[picked] for name, values in theta.items()}, self.posterior.latents[picked]
        if features.closed_form:
            return Shared.of(problem, few, z, rng)
        own = problem.individuals(few, z)
        if features.simulated:
            return Simulated(problem, few, own, z, np.zeros(len(z), dtype=np.int64), np.zeros((len(z), 0)))
        h = self.posterior.tree["sample_stats"]["hyperparameter_draw"].values
        return Jointly(problem, few, own, z, h.reshape(len(self.posterior.latents), -1)[picked, 0])

    def predict(
        self,
        subjects: str | Sequence[str] | None,
        conditions: Mapping[str, object] | None,
        coords: Mapping[str, object] | None,
        outputs: str | Sequence[str] | None,
        noise: bool,
        draws: int | None,
        rng: np.random.Generator,
        discrepancy: bool = True,
        realisation: Realised = "same",
    ) -> PosteriorPrediction:
        """Predict outputs of the subjects given all data; see `Posterior.predict`."""
        problem, data = self.problem, self.problem.data
        names = chosen_outputs(data.data_model, outputs, coords)
        labels = problem.subjects.labels
        several = not isinstance(subjects, str) and isinstance(subjects, Iterable)
        given = labels if subjects is None else tuple(subjects) if several else (subjects,)
        wanted = tuple(str(label) for label in given)  # labels are text, whatever they were in the table
        if not wanted:
            raise InputError("predict: subjects is empty; name one or more, or leave it out for all.")
        unknown = [label for label in wanted if label not in labels]
        if unknown:
            raise InputError(
                f"predict: unknown subjects {unknown}; there are {list(labels[:6])}{' ...' * (len(labels) > 6)}."
            )
        count = SHARED_DRAWS if draws is None else draws
        some = self.some if count == SHARED_DRAWS else self.with_error(count, np.random.default_rng(0))
        if isinstance(some, Jointly):  # others have neither
            some = replace(some, discrepancy=discrepancy, realisation=realisation)
        place = np.array([labels.index(label) for label in wanted])
        cells, layout = data.cells, problem.layout
        if conditions is None:
            of_input = layout.subject[cells.unit]
            inputs = np.concatenate([np.flatnonzero(of_input == j) for j in place])
            idle = [label for label, j in zip(wanted, place, strict=True) if j not in of_input]
            if idle:
                raise InputError(
                    f"predict: {idle[:5]} have no measurement, so their conditions are not known: give conditions=, or "
                    "the subjects that have."
                )
            u = data.unit_inputs(some.own)[:, inputs]
            own = {k: v[:, cells.unit[inputs]] if np.ndim(v) == 2 else v for k, v in some.own.items()}
            at, owner = cells.conditions[inputs], of_input[inputs]
            dims: dict[str, Any] = {"subject": [labels[j] for j in owner]}
            if len(inputs) > len(place):
                occasion = problem.subjects.occasion[cells.unit[inputs]]
                dims = {"input": np.arange(len(inputs))} | {
                    "subject": ("input", dims["subject"]),
                    "occasion": ("input", occasion),
                }
        else:
            at = asked_conditions(data.data_model, conditions, len(place))
            u, own, inputs = self._at(some, place, at, rng)
            dims = {"subject": list(wanted)}
        dims |= {name: (next(iter(dims)), at[:, i]) for i, name in enumerate(data.condition_names)}
        return curves(some, Asked(u, at, own, inputs, some.measured(cells, inputs, u)), dims, coords, names, noise, rng)

    def _at(
        self, some: Shared | Simulated | Jointly, place: Ints, at: Array, rng: np.random.Generator
    ) -> tuple[Array, dict[str, Array], Ints]:
        """Return inputs (S, n, d) of subjects at given conditions, their parameters, and which measured ones they are.

        That is -1 for inputs that were not measured.
        """
        problem, data, population = self.problem, self.problem.data, self.problem.population
        natural, _ = problem.layout.natural(some.theta, some.z[:, : problem.layout.size])
        natural = natural[:, place].copy()
        for name in population.occasions:
            key = f"omega_{name}_occasion"
            gamma = some.theta.get(key, population.known.get(key))
            assert gamma is not None
            step = np.asarray(gamma).reshape(-1, 1) * rng.standard_normal(natural.shape[:2])
            natural[..., population.individual.index(name)] += step
        own = {name: values for name, values in some.own.items() if np.ndim(values) == 1}
        for i, (name, scale) in enumerate(zip(population.individual, population.scales, strict=True)):
            own[name] = from_natural(natural[..., i], scale)
        u = data.unit_inputs(own, at, units=np.arange(len(place)))
        inputs = np.full(len(place), -1)
        if not population.occasions and not data.uncertain:
            subject, known = problem.layout.subject[data.cells.unit], data.cells.conditions
            both = merge_close(data.surrogate, data.condition_names, np.vstack([known, at]))
            for i, j in enumerate(place):
                same = np.flatnonzero((subject == j) & (both[: len(known)] == both[len(known) + i]).all(axis=1))
                inputs[i] = same[0] if len(same) else -1
        return u, own, inputs

    def new_subject(
        self, observations: Observations | xr.DataArray | None, covariates: Any, rng: np.random.Generator
    ) -> "SubjectPosterior":
        """Return what is known of a subject who was not in the calibration; see `Posterior.new_subject`."""
        from uqms.calibration.population.subject import subject_posterior

        refuse(self.problem, "new_subject")
        if covariates is not None and not isinstance(covariates, Mapping):
            raise InputError(
                f"new_subject: covariates is {covariates!r}; give numbers by column name, {{'weight': 70.0}}."
            )
        return subject_posterior(self.posterior, observations, dict(covariates or {}), rng)


def groups_of_subjects(
    problem: "PopulationCalibration", theta: Mapping[str, Array], z: Array, shape: tuple[int, int]
) -> dict[str, xr.Dataset]:
    """Return the groups "individuals", "effects" and, where there are any, "occasions" of draws (S,)."""
    population, layout, subjects = problem.population, problem.layout, problem.subjects
    natural, units = layout.natural(theta, z[:, : layout.size])
    centre = layout.centre({name: values[:, None] for name, values in theta.items()})
    coords = {"subject": list(subjects.labels)}
    own, effects, occasions = {}, {}, {}
    for i, (name, scale) in enumerate(zip(population.individual, population.scales, strict=True)):
        attrs = {"unit": problem.unit_of(name), "description": population.space.priors[name].description}
        own[name] = ((*DIMS, "subject"), from_natural(natural[..., i], scale).reshape(*shape, -1), attrs)
        effects[name] = ((*DIMS, "subject"), (natural[..., i] - centre[i]).reshape(*shape, -1))
        occasions[name] = ((*DIMS, "unit"), from_natural(units[..., i], scale).reshape(*shape, -1), attrs)
    individuals = xr.Dataset(own, coords=coords)
    for name, derived in problem.derived.items():
        values = _derived(derived, individuals, theta, shape)
        if values is not None:
            individuals[name] = values.assign_attrs(unit=derived.unit, description=derived.description)
    groups = {"individuals": individuals, "effects": xr.Dataset(effects, coords=coords)}
    if population.occasions:
        place = {
            "subject": ("unit", np.array(subjects.labels)[subjects.subject]),
            "occasion": ("unit", subjects.occasion),
        }
        groups["occasions"] = xr.Dataset(occasions, coords=place)
    return groups


def _derived(
    derived: Derived, individuals: xr.Dataset, theta: Mapping[str, Array], shape: tuple[int, int]
) -> xr.DataArray | None:
    """Return a derived quantity of each subject; None when it is one of the population alone."""
    like = next(iter(individuals.data_vars.values()))
    inputs = {name: xr.DataArray(values.reshape(shape), dims=DIMS) for name, values in theta.items()}
    inputs |= {str(name): values.drop_attrs() for name, values in individuals.data_vars.items()}
    found = derived.function(inputs)
    if not isinstance(found, xr.DataArray) or set(found.dims) != set(like.dims):
        return None
    return found.transpose(*like.dims).astype(np.float64)
