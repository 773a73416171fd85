"""The posterior of a population and of each of its subjects, around an ArviZ DataTree."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import pandas as pd
import xarray as xr

from uqms import _checks as check
from uqms._threads import single_threaded
from uqms._typing import Array, Ints, RandomState, as_generator
from uqms.calibration import assembly
from uqms.calibration.capabilities import limit_of, refuse
from uqms.calibration.judging import judge
from uqms.calibration.likelihood import merge_close
from uqms.calibration.observations import Observations
from uqms.calibration.population.asked import asked_conditions, chosen_outputs
from uqms.calibration.population.layout import from_natural
from uqms.calibration.population.prediction import Shared, curves, has_features
from uqms.calibration.population.terms import subject_terms
from uqms.calibration.posterior import Posterior, SummaryTable
from uqms.calibration.predict import PosteriorPrediction
from uqms.calibration.samplers import Sampler
from uqms.calibration.verdict import Verdict
from uqms.errors import InputError

if TYPE_CHECKING:
    from uqms.calibration.population.problem import PopulationCalibration
    from uqms.calibration.population.subject import SubjectPosterior

__all__ = ["PopulationPosterior", "build_posterior"]

DIMS = ("chain", "draw")
SHARED_DRAWS = 400
WORK, LEAST_DRAWS = 1e11, 40  # of new measurements without features: operations in all, and draws at least


@final
@dataclass(frozen=True, eq=False)
class PopulationPosterior:
    """What the calibration of a population returns.

    Attributes
    ----------
    tree
        ArviZ DataTree. "posterior" has the population, "individuals" the parameters of each subject in their own units
        (dims chain, draw, subject), "effects" its random effects on the natural scale, "occasions" its parameters on
        each occasion where there are any, "latents" the standard normals that were sampled; sample_stats, log_prior,
        log_likelihood (a term a subject: log p(its data | all others', population, effects)), observed_data, prior,
        prior_predictive and posterior_predictive are as in `Posterior`.
    problem
        The calibration that it answers.
    verdict
        Whether it should be believed; print it.
    surrogate_share
        By quantity of the population: which share of its variance is due to the surrogate's error.
    """

    tree: Any
    problem: "PopulationCalibration"
    verdict: Verdict
    surrogate_share: xr.Dataset

    def __repr__(self) -> str:
        sizes = self.draws.sizes
        return (
            f"<PopulationPosterior of {len(self.problem.subjects)} subjects, "
            f"{', '.join(map(str, self.draws.data_vars))}: {sizes['chain']} chains of {sizes['draw']} draws, verdict "
            f"{self.verdict.status}>"
        )

    @property
    def draws(self) -> xr.Dataset:
        """Draws of the population, of noise and derived quantities, dims ("chain", "draw")."""
        found: xr.Dataset = self.tree["posterior"].dataset
        return found

    @property
    def subjects(self) -> tuple[str, ...]:
        """Labels of the subjects, in the order of the dim "subject" of `individuals`."""
        return self.problem.subjects.labels

    @property
    def individuals(self) -> xr.Dataset:
        """Draws of each subject's parameters in their own units, dims ("chain", "draw", "subject")."""
        found: xr.Dataset = self.tree["individuals"].dataset
        return found

    @property
    def effects(self) -> xr.Dataset:
        """Draws of the random effects on the natural scale, dims ("chain", "draw", "subject")."""
        found: xr.Dataset = self.tree["effects"].dataset
        return found

    @property
    def latents(self) -> Array:
        """Draws (chain * draw, latents) of the standard normals."""
        values = self.tree["latents"]["value"].values
        return np.asarray(values.reshape(-1, values.shape[-1]))

    @property
    def single(self) -> Any:
        """What belongs to one subject.

        Raises
        ------
        InputError
            Always: this is the posterior of many.
        """
        raise limit_of(self.problem, "single")

    def flat(self) -> dict[str, Array]:
        """Return the draws of everything in `problem.priors`, each (chain * draw,)."""
        return {name: self.draws[name].values.ravel() for name in self.problem.priors}

    def summary(self, prob: float = 0.95) -> "SummaryTable":
        """Return the table of the population: mean, sd, equal-tailed interval, Monte Carlo error, R-hat, ESS.

        Raises
        ------
        InputError
            When `prob` is not between 0 and 1.
        """
        hidden = [name for name in self.draws.data_vars if str(name).startswith("lkj_")]
        few = xr.DataTree.from_dict({"posterior": self.draws.drop_vars(hidden)})
        return Posterior(few, self.problem, self.verdict, self.surrogate_share).summary(prob)  # type: ignore[arg-type]

    def individual_summary(self, prob: float = 0.95) -> pd.DataFrame:
        """Return mean, sd and equal-tailed interval of each subject's parameters, by parameter and subject.

        Raises
        ------
        InputError
            When `prob` is not between 0 and 1.
        """
        check.probability("individual_summary", "prob", prob)
        tail, rows = 0.5 * (1.0 - prob), {}
        for name, values in self.individuals.data_vars.items():
            flat = values.values.reshape(-1, values.sizes["subject"])
            low, high = np.quantile(flat, [tail, 1.0 - tail], axis=0)
            columns = zip(
                self.problem.subjects.labels, flat.mean(axis=0), flat.std(axis=0, ddof=1), low, high, strict=True
            )
            for label, mean, sd, a, b in columns:
                rows[str(name), label] = {"mean": mean, "sd": sd, f"{100 * tail:g}%": a, f"{100 * (1 - tail):g}%": b}
        table = pd.DataFrame.from_dict(rows, orient="index")
        return table.set_axis(pd.MultiIndex.from_tuples(rows, names=["parameter", "subject"]), axis=0)

    def shrinkage(self) -> pd.DataFrame:
        """Return how much the random effects are drawn towards the population, by parameter.

        `shrinkage` is 1 - Var(posterior means of the effects) / omega² at the posterior mean of omega²: 0 where the
        data say all about each subject, 1 where they say nothing, so that individual values are the population's. Above
        about 0.3, plots of individual values against covariates mislead: test the covariate in the model.

        References
        ----------
        Savic & Karlsson (2009), doi:10.1208/s12248-009-9133-0.
        """
        there = self.problem.subjects.measured
        rows = {}
        for name in self.problem.population.individual:
            values = self.effects[name].values[..., there].reshape(-1, int(there.sum()))
            key = f"omega_{name}"
            omega = self.draws[key].values if key in self.draws else np.array(self.problem.population.known[key])
            freedom = self.problem.population.tails.get(name)
            spread = float(np.mean(omega**2)) * (1.0 if freedom is None else freedom / (freedom - 2.0))
            of_means = float(np.mean((values.mean(axis=0)) ** 2))
            left = values.var(axis=0).mean()
            rows[name] = {
                "shrinkage": 1.0 - of_means / spread,
                "omega": float(np.mean(omega)),
                "sd of individual means": float(np.sqrt(of_means)),
                "mean posterior sd": float(np.sqrt(left)),
            }
        return pd.DataFrame.from_dict(rows, orient="index")

    @cached_property
    def shared(self) -> Shared:
        """Draws with the surrogate's error given the data, for predictions and new subjects; made once.

        Raises
        ------
        InputError
            When the likelihood is none for which that has a closed form.
        """
        return self.with_error(SHARED_DRAWS, np.random.default_rng(0))

    def with_error(self, draws: int, rng: np.random.Generator) -> Shared:
        """Return some draws, spread evenly over the chains, with the surrogate's error given the data."""
        refuse(self.problem, "predict")
        check.whole("predict", "draws", draws)
        theta, z = self.flat(), self.latents
        chains, count = self.draws.sizes["chain"], self.draws.sizes["draw"]
        each = np.unique(np.linspace(0, count - 1, min(count, -(-draws // chains))).astype(int))
        picked = (np.arange(chains)[:, None] * count + each).ravel()
        return Shared.of(self.problem, {name: values[picked] for name, values in theta.items()}, z[picked], rng)

    @single_threaded
    def predict(
        self,
        *,
        subjects: str | Sequence[str] | None = None,
        conditions: Mapping[str, object] | None = None,
        coords: Mapping[str, object] | None = None,
        outputs: str | Sequence[str] | None = None,
        noise: bool = False,
        draws: int = SHARED_DRAWS,
        rng: RandomState = 0,
    ) -> PosteriorPrediction:
        """Predict outputs of the subjects given all data, at the observed or other conditions and coordinates.

        Use it for individual fits, for another dose of a patient, for a subject of the table that has no data yet. The
        surrogate's error is taken given the data of all subjects. For a patient who is not in the calibration see
        `new_subject`.

        Parameters
        ----------
        subjects
            Labels; all when left out.
        conditions
            Known inputs, a number or one a subject. When left out, those of each subject's measurements: with several
            of them (or several occasions) the first dim is "input", with coords "subject" and "occasion".
        coords
            By dim, one-dimensional; all simulated coordinates when left out.
        outputs
            Which, by name; by default the observed ones.
        noise
            Whether to add measurement noise, for what a new measurement would show.
        draws
            How many posterior draws to use, spread evenly over the chains.
        rng
            For the draws of curves.

        Returns
        -------
        PosteriorPrediction
            Mean, sd, joint draws and intervals; the first dim is "subject".

        Raises
        ------
        InputError
            Unknown subjects, outputs or conditions; a likelihood without a closed form of the error.
        ExtrapolationError
            Conditions or coordinates outside of what was simulated.

        Notes
        -----
        On other conditions than the measured ones, parameters that change between occasions are those of a new one.
        """
        problem, data = self.problem, self.problem.data
        names = chosen_outputs(data, outputs, coords)
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
        generator = as_generator(rng)
        shared = self.shared if draws == SHARED_DRAWS else self.with_error(draws, np.random.default_rng(0))
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
            u = data.unit_inputs(shared.own)[:, inputs]
            at, owner = cells.conditions[inputs], of_input[inputs]
            dims: dict[str, Any] = {"subject": [labels[j] for j in owner]}
            if len(inputs) > len(place):
                occasion = problem.subjects.occasion[cells.unit[inputs]]
                dims = {"input": np.arange(len(inputs))} | {
                    "subject": ("input", dims["subject"]),
                    "occasion": ("input", occasion),
                }
        else:
            at = asked_conditions(data, conditions, len(place))
            u, inputs = self._at(shared, place, at, generator)
            dims = {"subject": list(wanted)}
        dims |= {name: (next(iter(dims)), at[:, i]) for i, name in enumerate(data.condition_names)}
        return curves(shared, u, shared.measured(cells, inputs, u), at, dims, coords, names, noise, generator)

    def _at(self, shared: Shared, place: Array, at: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Return inputs (S, n, d) of subjects at given conditions, and which measured inputs they are, -1 for none."""
        problem, data, population = self.problem, self.problem.data, self.problem.population
        natural, _ = problem.layout.natural(shared.theta, shared.z[:, : problem.layout.size])
        natural = natural[:, place].copy()
        for name in population.occasions:
            key = f"omega_{name}_occasion"
            gamma = shared.theta.get(key, population.known.get(key))
            assert gamma is not None
            step = np.asarray(gamma).reshape(-1, 1) * rng.standard_normal(natural.shape[:2])
            natural[..., population.individual.index(name)] += step
        own = {name: values for name, values in shared.own.items() if np.ndim(values) == 1}
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
        return u, inputs

    @single_threaded
    def new_subject(
        self,
        observations: Observations | xr.DataArray | None = None,
        *,
        covariates: Mapping[str, float] | None = None,
        rng: RandomState = 0,
    ) -> "SubjectPosterior":
        """Return what is known of a subject who was not in the calibration, from its own measurements and all others'.

        No sampling of the population: its draws are weighted by how well they foresee the new measurements. It takes
        less than a second, and is what a full refit would say of the new subject.

        Parameters
        ----------
        observations
            Its measurements so far; none for a prediction from the population alone.
        covariates
            By column name.
        rng
            For the draws.

        Raises
        ------
        InputError
            Covariates that are missing, several subjects, a likelihood without a closed form of the error.
        ExtrapolationError
            Coordinates or conditions outside of what was simulated.

        Warns
        -----
        ConvergenceWarning
            When the weights say that the new subject is unlike all others: then refit the population with it.

        References
        ----------
        Vehtari et al. (2024), "Pareto smoothed importance sampling", JMLR 25:72.
        """
        from uqms.calibration.population.subject import subject_posterior

        if covariates is not None and not isinstance(covariates, Mapping):
            raise InputError(
                f"new_subject: covariates is {covariates!r}; give numbers by column name, {{'weight': 70.0}}."
            )
        return subject_posterior(self, observations, dict(covariates or {}), rng)

    def to_netcdf(self, path: str | Path) -> None:
        """Write the DataTree to a netCDF file."""
        self.tree.to_netcdf(path, engine="h5netcdf")


def build_posterior(problem: "PopulationCalibration", sampler: Sampler, trace: Any, seed: int) -> PopulationPosterior:
    """Return the posterior of a sampler's trace, with every group of its DataTree and the verdict.

    Raises
    ------
    ConformanceError
        When the trace is not what `Sampler` says.
    """
    assembly.check_trace(problem, sampler, trace)
    raw = trace["posterior"].dataset[list(problem.priors)]
    raw = raw.assign_coords({dim: np.arange(raw.sizes[dim]) for dim in DIMS if dim not in raw.coords})
    shape = (raw.sizes["chain"], raw.sizes["draw"])
    theta = {name: np.ascontiguousarray(raw[name].values.reshape(-1)) for name in problem.priors}
    rng = np.random.default_rng(seed)
    z = problem.inside(theta, assembly.latents_of(problem, trace), rng)
    joint, by_subject, h = subject_terms(problem, theta, z, rng)
    population = _population(problem, raw.drop_attrs())
    stats = assembly.numeric_stats(trace["sample_stats"].dataset) if "sample_stats" in trace else xr.Dataset()
    stats = stats.assign_coords(chain=raw.chain, draw=raw.draw)
    stats["joint_log_likelihood"] = (DIMS, joint.reshape(shape))
    stats["hyperparameter_draw"] = (DIMS, h.reshape(shape))
    measured = [label for label, there in zip(problem.subjects.labels, problem.subjects.measured, strict=True) if there]
    likelihood = xr.DataArray(by_subject.reshape(*shape, -1), dims=(*DIMS, "subject"), coords={"subject": measured})
    prior_theta = problem.prior_draws(assembly.PRIOR_DRAWS, rng)
    prior = xr.Dataset({name: (DIMS, values[None]) for name, values in prior_theta.items()}).assign_coords(chain=[0])
    labels = row_labels(problem)
    few = {name: values[:100] for name, values in prior_theta.items()}
    predictive = xr.Dataset({"value": ((*DIMS, "observation"), problem.simulate(few, rng)[None])})
    here = {"chain": raw.chain, "draw": raw.draw}
    groups = {
        "posterior": population.assign_coords(here),
        "sample_stats": stats,
        "log_prior": xr.Dataset(
            {name: (DIMS, values.reshape(shape)) for name, values in _log_prior(problem, theta).items()}
        ).assign_coords(here),
        "log_likelihood": xr.Dataset({"value": likelihood}).assign_coords(here),
        "observed_data": xr.Dataset(
            {"value": xr.DataArray(problem.observations.value, dims="observation", coords=labels)}
        ),
        "prior": _population(problem, prior),
        "prior_predictive": predictive.assign_coords(chain=[0], **labels),
        "latents": xr.Dataset({"value": ((*DIMS, "latent"), z.reshape(*shape, -1))}).assign_coords(here),
        **_of_subjects(problem, theta, z, shape, here),
    }
    tree = xr.DataTree.from_dict(groups)
    for group in tree.children.values():
        group.attrs |= {"inference_library": "uqms", "interval": "95 % equal-tailed"}
    sampled = assembly.sampled(problem, sampler, population, theta, z, stats, {})
    verdict, share = judge(problem, sampled)
    tree.attrs |= _provenance(problem, sampler, seed, verdict)
    found = PopulationPosterior(tree, problem, verdict, share)
    if has_features(problem.data):
        rows = found.shared.new_rows(rng).reshape(shape[0], -1, len(problem.observations))
        each = np.unique(np.linspace(0, shape[1] - 1, rows.shape[1]).astype(int))
    else:
        rows, each = _new_rows(problem, theta, z, h, shape, rng)
    predictive = xr.Dataset({"value": ((*DIMS, "observation"), rows)})
    tree["posterior_predictive"] = xr.DataTree(predictive.assign_coords(chain=raw.chain, draw=raw.draw[each], **labels))
    return found


def _new_rows(
    problem: "PopulationCalibration",
    theta: Mapping[str, Array],
    z: Array,
    h: Ints,
    shape: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[Array, Ints]:
    """Return new measurements (chain, few draws, R) given the data, and which draws, by the exact conditional law.

    Its cost grows with the cube of the number of cells, so there are fewer draws of more data.
    """
    chains, draws = shape
    count = int(np.clip(WORK / (2 * len(problem.data.cells.offset)) ** 3, LEAST_DRAWS, SHARED_DRAWS))
    each = np.unique(np.linspace(0, draws - 1, min(draws, -(-count // chains))).astype(int))
    picked = (np.arange(chains)[:, None] * draws + each).ravel()
    part = {name: values[picked] for name, values in theta.items()}
    (piece,) = problem.pieces(part, z[picked], h[picked])
    return assembly.new_rows(piece, rng).reshape(chains, len(each), -1), each


def _log_prior(problem: "PopulationCalibration", theta: Mapping[str, Array]) -> dict[str, Array]:
    return {name: np.asarray(one) for name, one in problem.conditioned_prior.log_terms(theta).items()}


def _population(problem: "PopulationCalibration", draws: xr.Dataset) -> xr.Dataset:
    """Return draws of the population with correlations and derived quantities of the typical subject."""
    out = assembly.with_derived(problem, draws)
    found = problem.layout.correlations({name: draws[name].values for name in problem.priors})
    for name, values in found.items():
        out[name] = (draws[next(iter(problem.priors))].dims, values)
    return out


def _of_subjects(
    problem: "PopulationCalibration",
    theta: Mapping[str, Array],
    z: Array,
    shape: tuple[int, int],
    here: Mapping[str, Any],
) -> dict[str, xr.Dataset]:
    population, layout, subjects = problem.population, problem.layout, problem.subjects
    natural, units = layout.natural(theta, z[:, : layout.size])
    centre = layout.centre({name: values[:, None] for name, values in theta.items()})
    coords = {**here, "subject": list(subjects.labels)}
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
        groups["occasions"] = xr.Dataset(occasions, coords={**here, **place})
    return groups


def _derived(
    derived: Any, individuals: xr.Dataset, theta: Mapping[str, Array], shape: tuple[int, int]
) -> xr.DataArray | None:
    """Return a derived quantity of each subject; None when it is one of the population alone."""
    like = next(iter(individuals.data_vars.values()))
    inputs = {name: xr.DataArray(values.reshape(shape), dims=DIMS) for name, values in theta.items()}
    inputs |= {str(name): values.drop_attrs() for name, values in individuals.data_vars.items()}
    found = derived.function(inputs)
    if not isinstance(found, xr.DataArray) or set(found.dims) != set(like.dims):
        return None
    return found.transpose(*like.dims).astype(np.float64)


def row_labels(problem: "PopulationCalibration") -> dict[str, Any]:
    """Return the coords of the dim "observation": subject, output, coordinates, conditions."""
    table = problem.observations
    labels: dict[str, Any] = {"observation": np.arange(len(table))}
    labels["subject"] = ("observation", table.subject.astype(np.str_))
    labels["output"] = ("observation", table.output.astype(np.str_))
    for name, column in {**table.coords, **table.conditions}.items():
        labels[name] = ("observation", column)
    if table.replicate is not None:
        labels["replicate"] = ("observation", table.replicate)
    return labels


def _provenance(problem: "PopulationCalibration", sampler: Sampler, seed: int, verdict: Verdict) -> dict[str, Any]:
    found = assembly.provenance(problem, sampler, seed, verdict)
    return found | {"population": repr(problem.population), "subjects": json.dumps(list(problem.subjects.labels))}
