"""The posterior: draws in the parameters' own units, tables, predictions and the verdict, around an ArviZ DataTree."""

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, cast, final

import numpy as np
import pandas as pd
import xarray as xr

from uqms import _checks as check
from uqms._teaching import TaughtClass, missing, taught
from uqms._threads import single_threaded
from uqms._typing import Array, Ints, RandomState, as_generator
from uqms.calibration import assembly, refits
from uqms.calibration.base import LeftOut, Problem
from uqms.calibration.capabilities import limit_of, refuse
from uqms.calibration.checks import Check, Verdict
from uqms.calibration.computation import MODES
from uqms.calibration.context import Context, evenly
from uqms.calibration.judging import judge
from uqms.calibration.member_shares import member_shares
from uqms.calibration.observations import Observations
from uqms.calibration.population.hierarchy import Hierarchy
from uqms.calibration.predict import (
    NewNoise,
    PosteriorPrediction,
    Realised,
    Targets,
    conditional_moments,
    make_grid,
    new_noise,
    predicted,
)
from uqms.calibration.progress import progress
from uqms.calibration.regimens import with_asked_regimens, with_regimens, with_regimens_of, without_regimen
from uqms.calibration.rescaling import FACTORS, rescaled
from uqms.calibration.samplers import NUTS, SMC, Sampler
from uqms.calibration.summary import SummaryTable, summary_table
from uqms.errors import InputError, UnknownKeyError
from uqms.parameters import Regimen

if TYPE_CHECKING:
    from uqms.calibration.parts import JointCalibration
    from uqms.calibration.population.calibration import PopulationCalibration
    from uqms.calibration.population.subject import SubjectPosterior
    from uqms.calibration.single import SingleCalibration

__all__ = [
    "Evidence",
    "Posterior",
    "build_posterior",
    "check_posterior",
    "checked_sampler",
    "hierarchy_of",
    "sample",
    "thinned",
]

_logger = logging.getLogger(__name__)
PART_OF = "part"  # attribute of the DataTree of one part: draws are from the data of all parts
FEW = 20  # parameters up to which SMC replaces chains that do not move between modes


# Names of other libraries, and what is meant here.
ELSEWHERE = {
    "mean": "means are in posterior.summary(), draws in posterior.draws",
    "std": "standard deviations are in posterior.summary(), draws in posterior.draws",
    "sd": "standard deviations are in posterior.summary(), draws in posterior.draws",
    "median": "draws are in posterior.draws: posterior.draws.median()",
    "quantile": "intervals are in posterior.summary(0.95), draws in posterior.draws",
    "hdi": "intervals are in posterior.summary(0.95); arviz_stats.hdi(posterior.tree) has others",
    "samples": "draws are in posterior.draws",
    "values": "draws are in posterior.draws",
    "trace": "draws are in posterior.draws, the ArviZ DataTree in posterior.tree",
    "idata": "the ArviZ DataTree is posterior.tree",
    "to_dataframe": "it is posterior.draws.to_dataframe()",
    "to_csv": "it is posterior.draws.to_dataframe().to_csv(path)",
    "sample": "it is posterior.problem.sample(uq.NUTS(), rng=2), which draws anew",
    "plot": "figures are in uq.plots, such as uq.plots.prior_posterior(posterior)",
    "diagnose": "print(posterior.verdict)",
    "diagnostics": "print(posterior.verdict)",
    "load": "it is uq.load_posterior(path)",
    "to_pickle": "it is posterior.save(path)",
    "items": "draws are in posterior.draws",
    "keys": "draws are in posterior.draws",
    "predictions": "it is posterior.predict()",
    "sample_posterior_predictive": "it is posterior.predict(noise=True)",
}


class Evidence(NamedTuple):
    """Log marginal likelihood of the data, log p(observations), and its Monte Carlo standard error."""

    value: float
    mcse: float


@taught
@final
@dataclass(frozen=True, eq=False)
class Posterior(metaclass=TaughtClass):
    """Posterior draws, tables, predictions and verdict of a calibration: one subject, several parts or a population.

    Attributes
    ----------
    tree
        ArviZ DataTree with the groups posterior, sample_stats, log_likelihood, log_prior, observed_data, constant_data
        (coordinates and conditions of each measurement as "x_day", ...), prior, prior_predictive and
        posterior_predictive. Where conditions were measured with an error, the group "conditions" has the draws of the
        true ones by experiment, which "posterior" has one by one; "latents" are the standard normals that were sampled,
        where there are any. Of a population "posterior" has the population, "individuals"
        the parameters of each subject in their own units (dims chain, draw, subject), "effects" its random effects on
        the natural scale, "occasions" its parameters on each occasion where there are any, and log_likelihood has a
        term a subject: log p(its data | all others', population, effects).
    problem
        The calibration that it answers.
    verdict
        The checks of the posterior; print it.
    surrogate_share
        By parameter, or quantity of the population: the fraction of its variance that is due to the surrogate's error.
    """

    tree: Any
    problem: Problem
    verdict: Verdict
    surrogate_share: xr.Dataset

    def __repr__(self) -> str:
        sizes = self.draws.sizes
        subjects = f"{len(self.subjects)} subjects, " if self.subjects else ""
        return (
            f"<Posterior of {subjects}{', '.join(map(str, self.draws.data_vars))}: {sizes['chain']} chains of "
            f"{sizes['draw']} draws, verdict {self.verdict.status}>"
        )

    def __getitem__(self, name: str) -> NoReturn:
        """Raise: draws are in `draws`, groups of the DataTree in `tree`.

        Raises
        ------
        UnknownKeyError
            Always.
        """
        if name in self.tree.children:
            raise UnknownKeyError(f"posterior[{name!r}]: it is a group of the DataTree; use posterior.tree[{name!r}].")
        if name in self.subjects:
            raise UnknownKeyError(
                f"posterior[{name!r}]: the parameters of a subject are in "
                f"posterior.individuals.sel(subject={name!r}), their intervals in posterior.individual_summary()."
            )
        right = name if name in self.draws else next(iter(self.draws.data_vars))
        raise UnknownKeyError(
            f"posterior[{name!r}]: draws are in posterior.draws[{right!r}], dims (chain, draw), their mean and "
            f"interval in posterior.summary(); there are {', '.join(map(str, self.draws.data_vars))}."
        )

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            advice, tree = dict(ELSEWHERE), self.__dict__.get("tree")
            if tree is not None and not name.startswith("_"):
                advice |= {group: f"the group is posterior.tree[{group!r}]" for group in tree.children}
                advice |= {str(one): f"draws are in posterior.draws[{one!r}]" for one in tree["posterior"]}
            raise missing(type(self), "A posterior", name, advice)

    # -------------------------------------------------------------------------------------------------------- the draws
    @property
    def draws(self) -> xr.Dataset:
        """Posterior draws of parameters (of the population), noise and derived quantities, dims ("chain", "draw")."""
        draws: xr.Dataset = self.tree["posterior"].dataset
        return draws

    def flat(self) -> dict[str, Array]:
        """Return the draws of everything in `problem.priors`, each (chain * draw,)."""
        return {name: self.draws[name].values.ravel() for name in self.problem.priors}

    @property
    def latents(self) -> Array:
        """Draws (chain * draw, latents) of the standard normal latents; none where all errors are normal."""
        if "latents" not in self.tree.children:
            return np.zeros((self.draws.sizes["chain"] * self.draws.sizes["draw"], 0))
        values = self.tree["latents"]["value"].values
        return np.asarray(values.reshape(-1, values.shape[-1]))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the posterior to one netCDF file with its surrogate and observations; `load_posterior` reads it.

        Use it to predict, to look at the verdict or to add a figure tomorrow, or on another computer. Classes and
        functions of your own are stored by their import name. ArviZ and xarray read the draws of the same file. The
        file appears whole or not at all.

        Parameters
        ----------
        path
            Where to write, such as "posterior.nc"; "~" is the home folder.

        Returns
        -------
        pathlib.Path
            The file.

        Raises
        ------
        InputError
            When a part has no import name, such as a noise model of lambdas or a surrogate that is no dataclass; of a
            `part` of a joint posterior: save the joint one.
        StorageError
            When the file cannot be written.
        """
        from uqms.calibration.posterior_file import save_posterior

        return save_posterior(self, path)

    def to_netcdf(self, path: str | Path) -> None:
        """Write the DataTree alone to a netCDF file, for ArviZ and xarray; `save` writes what `predict` needs too."""
        self.tree.to_netcdf(path, engine="h5netcdf")

    @property
    def log_evidence(self) -> Evidence:
        """Log marginal likelihood with its standard error, from samplers that estimate it (`SMC`, roughly `Laplace`).

        Raises
        ------
        InputError
            When the sampler gave none; of a population.
        """
        refuse(self.problem, "log_evidence")
        stats = self.tree["sample_stats"].dataset
        if "log_marginal_likelihood" not in stats:
            raise InputError(
                "log_evidence: this sampler draws from the posterior without an estimate of the evidence. Use SMC()."
            )
        runs = stats["log_marginal_likelihood"].values.ravel()
        relative = np.exp(runs - runs.max())
        value = float(np.log(relative.mean()) + runs.max())
        if "log_marginal_likelihood_mcse" in stats:
            return Evidence(
                value, float(np.sqrt(np.mean(stats["log_marginal_likelihood_mcse"].values ** 2) / len(runs)))
            )
        spread = relative.std(ddof=1) / relative.mean() if len(runs) > 1 else math.nan
        return Evidence(value, float(spread / np.sqrt(len(runs))))

    def summary(self, prob: float = 0.95) -> "SummaryTable":
        """Return a table of mean, sd, equal-tailed interval, Monte Carlo error, R-hat and effective sample sizes.

        `mcse_mean` is the Monte Carlo standard error of the mean, in the quantity's unit, as in `arviz.summary`.
        ``table.attrs["mcse"][name]`` has that of the mean and of each limit by column. The table prints fewer digits
        of a number whose own error exceeds 5 % of the sd. Its numbers are not rounded.

        Raises
        ------
        InputError
            When `prob` is not between 0 and 1.
        """
        hidden = [name for name in self.problem.auxiliary if name in self.draws]
        table = summary_table(self.draws.drop_vars(hidden), prob)
        found = {check.name: check for check in self.verdict.checks}
        if "failed runs" in found:
            table.attrs["remarks"] = [f"failed runs: {found['failed runs'].message}"]
        return table

    def member_share(self) -> pd.DataFrame:
        """Return, by parameter and member of a chain, the fraction of the variance that goes with the member's error.

        Use it to see which scale to run next: `uqms.refine(posterior, n, member=...)`. It is what the variance would
        lose without the error of that member alone, of the problem linearised at a few draws; fractions of several
        members need not add up to `surrogate_share`.

        Raises
        ------
        InputError
            When the surrogate is no `Chain`.
        """
        draws = Context.of(self).sampled
        return member_shares(self.problem, draws.theta, draws.h)

    # ------------------------------------------------------------------------------------------------------- what it is
    @property
    def single(self) -> "SingleCalibration":
        """The calibration, where it has one surrogate and one subject.

        Raises
        ------
        InputError
            When it has several parts, or is one of a population.
        """
        if self.problem.kind == "one":
            return cast("SingleCalibration", self.problem)
        raise limit_of(self.problem, "single")

    @cached_property
    def hierarchy(self) -> Hierarchy:
        """The calibration of a population, with what its draws say of subjects.

        Raises
        ------
        InputError
            When it is none of a population.
        """
        refuse(self.problem, "hierarchy")
        return Hierarchy(cast("PopulationCalibration", self.problem), self)

    def part(self, name: str) -> "Posterior":
        """Return the posterior of one part of a joint calibration: its quantities, data and surrogate.

        Draws are those of the whole, from the data of all parts; derived quantities of the whole are kept. Use it
        wherever a posterior of one surrogate is required: `predict`, figures, `refine`, `verify`. Where other parts
        have the same surrogate, predictions include what their data imply for its error, and their hyperparameters are
        among the draws, called "part_hyperparameter".

        Raises
        ------
        InputError
            When there are no parts, or none of that name.
        """
        if self.problem.kind != "parts" or name not in self.problem.named_parts:
            there = list(self.problem.named_parts) if self.problem.kind == "parts" else "none"
            raise InputError(f"part: {name!r} is no part of this calibration; there are {there}.")
        whole = cast("JointCalibration", self.problem)
        part, problem = whole.parts[name], whole.seen_from(name)
        names = {
            f"{name}_{key}" if key in part.priors and key not in part.parameters else key: key for key in problem.priors
        }
        (piece,) = (one for one in self.problem.pieces(self.flat(), self.latents) if name in one.parts)
        groups = {}
        for key, group in self.tree.children.items():
            data = group.dataset
            if "part" in data.coords and "observation" in data.dims:
                data = data.isel(observation=np.flatnonzero(data["part"].values == name)).drop_vars("part")
            elif key == "latents":
                shape = (self.draws.sizes["chain"], self.draws.sizes["draw"], -1)
                data = xr.Dataset({"value": (("chain", "draw", "latent"), piece.latents.reshape(shape))})
            elif key == refits.GROUP:
                same = {one: names.get(one, one) for one in (*names, *map(str, self.problem.derived))}
                data = refits.of_part(data, piece.name, same)
                if data is None:
                    continue
            elif key == "sample_stats":
                at = list(whole.parts).index(name)
                data = data.assign(hyperparameter_draw=data["hyperparameter_draw"].isel(part=at, drop=True))
                data = data.drop_vars("part", errors="ignore")
            elif key in ("posterior", "prior", "log_prior"):
                kept = [one for one in names if one in data]
                data = data[kept + [one for one in self.problem.derived if one in data]].rename(
                    {one: names[one] for one in kept}
                )
            if key != "conditions" and (key != "latents" or problem.latents):
                groups[key] = data
        groups |= assembly.true_conditions(part, groups["posterior"])
        tree = xr.DataTree.from_dict(groups)
        tree.attrs |= self.tree.attrs | {"box": json.dumps(problem.surrogate.domain.to_dict()), PART_OF: name}
        share = self.surrogate_share[list(problem.parameters)]
        return Posterior(tree, problem, self.verdict, share)

    def with_checks(self, checks: Sequence[Check]) -> "Posterior":
        """Return the posterior with further checks in its verdict, in the place of those of the same names.

        Use it to add what `uq.verify` found to the posterior of several parts; of one surrogate,
        ``uq.verify(...).posterior`` has it.

        Parameters
        ----------
        checks
            Such as ``uq.verify(posterior.part(name), runs).verdict.checks``.

        Returns
        -------
        Posterior
            The same draws. `summary`, `another_round` and priors that are made of it go by the new verdict.
        """
        names = {check.name for check in checks}
        verdict = Verdict((*(check for check in self.verdict.checks if check.name not in names), *checks))
        tree = self.tree.copy()
        tree.attrs |= {"verdict": verdict.status, "verdict_text": str(verdict)}
        return Posterior(tree, self.problem, verdict, self.surrogate_share)

    @single_threaded
    def predict(
        self,
        *,
        part: str | None = None,
        subjects: str | Sequence[str] | None = None,
        conditions: Mapping[str, object] | None = None,
        coords: Mapping[str, object] | None = None,
        outputs: str | Sequence[str] | None = None,
        noise: bool = False,
        discrepancy: bool = True,
        realisation: Realised = "same",
        draws: int | None = None,
        rng: RandomState = 0,
    ) -> PosteriorPrediction:
        """Predict outputs given the data, at the observed or other conditions and coordinates.

        The surrogate's error is taken given the data: what the observations say about it at one input carries over to
        others as far as they are correlated. Of a population it predicts its subjects, given the data of all: use it
        for individual fits, for another dose of a patient, for a subject of the table that has no data yet. For a
        patient who is not in the calibration see `new_subject`.

        Parameters
        ----------
        part
            Of a calibration of several parts: whose surrogate predicts.
        subjects
            Of a population: labels; all when left out.
        conditions
            Known inputs, numbers or arrays of one length; the observed ones when left out. Of a population a number or
            one a subject; when left out, those of each subject's measurements: with several of them (or several
            occasions) the first dim is "input", with coords "subject" and "occasion".
        coords
            By dim, one-dimensional; all simulated coordinates when left out. Of a `Superposition`, "regimen" is a
            `Regimen` or a list of them, new ones too: ``coords={"time": hours, "regimen": regimen}``; without it, each
            subject has its own.
        outputs
            Which, by name; by default the observed ones whose dims are those of `coords`.
        noise
            Whether to add measurement noise, for what a new measurement would show.
        discrepancy
            Whether the prediction is of reality (True, default) or of the simulator at its best parameters. Without a
            discrepancy in the calibration the two are the same.
        realisation
            Of a stochastic simulator whose data are a realisation: "same" (default), the run that was observed, given
            the data, where an experiment has one, and a new one elsewhere; "new", another run at the same parameters,
            e.g. the next outbreak; "none", the mean of its runs (the median of an output with a transform).
        draws
            How many posterior draws to use, spread evenly over the chains: 1000 by default, of a population 400.
        rng
            For the draws of curves.

        Returns
        -------
        PosteriorPrediction
            Mean, sd, joint draws and intervals; of a population the first dim is "subject".

        Raises
        ------
        InputError
            Unknown part, subjects, outputs, conditions or dims; noise of an output whose noise is not known; another
            `realisation`; a population whose surrogate's error has no closed form.
        ExtrapolationError
            Conditions or coordinates outside of what was simulated.

        Notes
        -----
        Of a population on other conditions than the measured ones, parameters that change between occasions are those
        of a new one.
        """
        if realisation not in ("same", "new", "none"):
            raise InputError(
                f"predict: realisation is {realisation!r}; give 'same' (the observed run), 'new' or 'none' (the mean)."
            )
        if part is None and self.problem.kind == "parts":
            raise InputError(f"predict: which part? There are {list(self.problem.named_parts)}; pass part=.")
        if part is not None:
            return self.part(part).predict(
                subjects=subjects,
                conditions=conditions,
                coords=coords,
                outputs=outputs,
                noise=noise,
                discrepancy=discrepancy,
                realisation=realisation,
                draws=draws,
                rng=rng,
            )
        check.whole("predict", "draws", draws, optional=True)
        for key, given, example in (("coords", coords, "'time': [1.0]"), ("conditions", conditions, "'dose': 50.0")):
            if given is not None and not isinstance(given, Mapping):
                raise InputError(f"predict: {key} is {given!r}; give a mapping by name: {key}={{{example}}}.")
        asked, coords, alone = with_asked_regimens(self, coords, subjects, conditions is not None)
        if asked is not self:
            whole = asked.predict(
                subjects=subjects,
                conditions=conditions,
                coords=coords,
                outputs=outputs,
                noise=noise,
                discrepancy=discrepancy,
                realisation=realisation,
                draws=draws,
                rng=rng,
            )
            return without_regimen(whole) if alone else whole
        if self.subjects:
            return self.hierarchy.predict(
                subjects, conditions, coords, outputs, noise, draws, as_generator(rng), discrepancy, realisation
            )
        if subjects is not None:
            refuse(self.problem, "hierarchy")
        names = self._outputs(outputs, coords)
        theta, h, latents = thinned(self, assembly.PREDICTIVE_DRAWS if draws is None else draws)
        generator = as_generator(rng)
        means, sds, samples = {}, {}, {}
        for name in names:
            grid, layout = (
                make_grid(self.single.data_model, name, conditions, coords),
                self.single.surrogate.layouts[name],
            )
            add = self._new_noise(name, grid.targets, theta) if noise else None
            mean, sample = (np.empty((len(h), len(grid.targets.offset))) for _ in range(2))
            variance = np.zeros(len(grid.targets.offset))
            found = conditional_moments(self.single, theta, h, grid.targets, latents, discrepancy, realisation)
            with progress(len(h), f"prediction of {name}") as bar:
                for rows, moments in found:
                    few = {key: values[rows] for key, values in theta.items()}
                    mean[rows], own, sample[rows] = predicted(moments, layout.transform, add, few, generator)
                    variance += own * len(moments.mean) / len(h)
                    bar.update(len(moments.mean))
            unit = layout.unit
            means[name] = grid.labelled(mean.mean(axis=0), (), unit)
            sds[name] = grid.labelled(np.sqrt(variance + mean.var(axis=0)), (), unit)
            samples[name] = grid.labelled(sample, ("sample",), unit)
        holds = (
            "parameters",
            "surrogate",
            *(("discrepancy",) if self.single.noise.modelled and discrepancy else ()),
            *self._run_held(realisation),
            *(("noise",) if noise else ()),
        )
        return PosteriorPrediction(xr.Dataset(means), xr.Dataset(sds), xr.Dataset(samples), holds)

    @single_threaded
    def rescale_discrepancy(
        self, factors: Sequence[float] = FACTORS, *, refit: Sampler | None = None, rng: RandomState | None = None
    ) -> "SummaryTable":
        """Return how far each quantity moves when the prior scale of the discrepancy is smaller or larger.

        Use it in every report of a calibration with discrepancy: a parameter that moves by its own standard deviation
        is known only as well as the size of the model's error is. A quarter and four times the scale are known since
        `sample`: by reweighted draws, or by a short refit where their weights cannot be trusted. With other factors the
        draws are reweighted; where that cannot be trusted, give `refit`.

        Parameters
        ----------
        factors
            Times the standard deviation of every discrepancy, or the scale of its prior.
        refit
            Sampler of the posterior with the other scale, ``uq.NUTS(draws=500)``, which is used where the figures
            cannot be trusted without.
        rng
            Whole number or generator of the sampler.

        Returns
        -------
        SummaryTable
            By quantity and factor: `shift`, the change of the mean in posterior sds; `width_ratio`, the width of the
            95 % interval over what it was; `k_hat` of the weights, NaN where the other posterior was sampled. Below
            the table it says of each factor how the figures were found, and whether they may be used
            (``table.attrs["remarks"]``).

        Raises
        ------
        InputError
            When the calibration has no discrepancy, or a factor is not positive; with `refit` of one part of a joint
            calibration, whose draws depend on the data of all parts.

        Examples
        --------
        >>> import numpy as np, xarray as xr, uqms as uq
        >>> space = uq.ParameterSpace(a=uq.Normal(0.0, 1.0))
        >>> day = np.arange(6.0)
        >>> line = uq.DirectSimulator(
        ...     lambda a: a[:, None] * day, space=space, outputs={"y": ("day",)}, coords={"day": day}, vectorized=True
        ... )
        >>> data = xr.DataArray([0.3, 1.1, 2.4, 3.2, 4.3, 5.2], dims="day", coords={"day": day}, name="y")
        >>> problem = uq.Calibration(line, data, uq.GaussianNoise(0.1), discrepancy=uq.OffsetDiscrepancy())
        >>> table = problem.sample(uq.SMC(), rng=1).rescale_discrepancy()
        >>> list(table.columns)[:3]
        ['shift x0.25', 'width_ratio x0.25', 'k_hat x0.25']
        """
        refuse(self.problem, "rescale_discrepancy")
        if any(not (np.isfinite(factor) and factor > 0) for factor in factors):
            raise InputError(f"rescale_discrepancy: factors are {list(factors)}; give positive numbers.")
        if refit is not None and PART_OF in self.tree.attrs:
            raise InputError(
                f"rescale_discrepancy: refit is given for the part {self.tree.attrs[PART_OF]!r}, but its draws depend "
                "on the data of all parts. A quarter and four times the scale are refitted by problem.sample() of the "
                "whole; for other factors calibrate the whole with discrepancy={part: GPDiscrepancy(sd=...)}."
            )
        draws = {str(name): values.values.ravel() for name, values in self.draws.data_vars.items()}
        seed, before = int(as_generator(rng).integers(2**31)), refits.known(self.tree)
        columns: dict[str, dict[str, float]] = {name: {} for name in draws}
        remarks = []
        for factor in map(float, factors):
            found = before.get(factor)
            if found is None:
                found = rescaled(self.single, draws, self.latents, None, factor)  # of a part, not of the whole
            if refit is not None and not found.trusted:
                found = refits.sampled_again(self.problem, ("",), draws, factor, refit, seed)
            for name, row in columns.items():
                row[f"shift x{factor:g}"] = found.shift.get(name, float("nan"))
                row[f"width_ratio x{factor:g}"] = found.width.get(name, float("nan"))
                row[f"k_hat x{factor:g}"] = found.k_hat
            remarks.append(f"x{factor:g}: {found.way}{'' if found.trusted else '; do not use these figures'}")
        table = SummaryTable(pd.DataFrame.from_dict(columns, orient="index"))
        table.attrs["remarks"] = remarks
        return table

    # -------------------------------------------------------------------------------------------------- of a population
    @property
    def subjects(self) -> tuple[str, ...]:
        """Labels of the subjects, in the order of the dim "subject" of `individuals`; none where there is one."""
        return self.problem.subject_labels

    @property
    def individuals(self) -> xr.Dataset:
        """Draws of each subject's parameters in their own units, dims ("chain", "draw", "subject").

        Raises
        ------
        InputError
            When it is no posterior of a population.
        """
        return self.hierarchy.individuals

    @property
    def effects(self) -> xr.Dataset:
        """Draws of the random effects on the natural scale, dims ("chain", "draw", "subject").

        Raises
        ------
        InputError
            When it is no posterior of a population.
        """
        return self.hierarchy.effects

    def individual_summary(self, prob: float = 0.95) -> pd.DataFrame:
        """Return mean, sd and equal-tailed interval of each subject's parameters, by parameter and subject.

        Raises
        ------
        InputError
            When it is no posterior of a population, or `prob` is not between 0 and 1.
        """
        return self.hierarchy.individual_summary(prob)

    def shrinkage(self) -> pd.DataFrame:
        """Return how much the random effects are drawn towards the population, by parameter.

        `shrinkage` is 1 - Var(posterior means of the effects) / omega² at the posterior mean of omega²: 0 where the
        data determine each subject, 1 where they do not inform it, so that individual values are the population's.
        Above about 0.3, plots of individual values against covariates mislead: test the covariate in the model.

        Raises
        ------
        InputError
            When it is no posterior of a population.

        References
        ----------
        Savic & Karlsson (2009), doi:10.1208/s12248-009-9133-0.
        """
        return self.hierarchy.shrinkage()

    @single_threaded
    def new_subject(
        self,
        observations: Observations | xr.DataArray | None = None,
        *,
        covariates: Mapping[str, float] | None = None,
        rng: RandomState = 0,
    ) -> "SubjectPosterior":
        """Return the posterior of a subject who was not in the calibration, given its own measurements and all others'.

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
            No population, covariates that are missing, several subjects, a likelihood without a closed form of the
            error.
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
        known = with_regimens_of(self, observations)
        return known.hierarchy.new_subject(observations, covariates, as_generator(rng))

    def with_regimens(self, *regimens: Regimen) -> "Posterior":
        """Return the same posterior, of whose `Superposition` further regimens can be asked.

        `predict` and `new_subject` add regimens that they are given themselves. Use it before calls that take numbers
        of regimens, such as figures.

        Raises
        ------
        InputError
            When the surrogate is no `Superposition`, or a route has no output.
        """
        return with_regimens(self, *regimens)

    def _run_held(self, realisation: Realised) -> tuple[str, ...]:
        if self.single.realisation is None or realisation == "none":
            return ()
        return ("realisation",) if realisation == "same" else ("new realisation",)

    def _outputs(self, outputs: str | Sequence[str] | None, coords: Mapping[str, object] | None) -> tuple[str, ...]:
        layouts = self.single.surrogate.layouts
        outputs = (outputs,) if isinstance(outputs, str) else outputs
        if outputs is not None:
            unknown = [name for name in outputs if name not in layouts]
            if unknown:
                raise InputError(f"predict: unknown outputs {unknown}; the surrogate has {list(layouts)}.")
            wrong = [name for name in outputs if coords is not None and set(layouts[name].dims) != set(coords)]
        else:
            outputs = [
                name
                for name in self.single.noise.own_outputs
                if coords is None or set(layouts[name].dims) == set(coords)
            ]
            wrong = [] if outputs else list(self.single.noise.own_outputs)
        if wrong:
            dims = {name: list(layouts[name].dims) for name in wrong}
            raise InputError(f"predict: coords are given for {sorted(coords or {})}, but the outputs have dims {dims}.")
        return tuple(outputs)

    def _new_noise(self, output: str, targets: Targets, theta: Mapping[str, Array]) -> NewNoise:
        group = self.single.noise.group_of(output)
        if group < 0:
            raise InputError(
                f"predict: output {output!r} was not observed, so its noise is not known; pass noise=False."
            )
        return new_noise(self.single.data_model, group, targets)


def thinned(posterior: Posterior, draws: int) -> tuple[dict[str, Array], Ints, Array]:
    """Return at most `draws` draws (S,), evenly over chains, their hyperparameters' (S,) and latents (S, L)."""
    h = posterior.tree["sample_stats"]["hyperparameter_draw"].values.ravel()
    picked = evenly(len(h), draws)
    theta = {name: values[picked] for name, values in posterior.flat().items()}
    return theta, h[picked], posterior.latents[picked]


def hierarchy_of(given: object, who: str) -> Hierarchy:
    """Return the population and subjects of a posterior, for a call that wants them.

    Raises
    ------
    InputError
        When it is no posterior of a population.
    """
    if isinstance(given, Posterior) and given.problem.kind == "population":
        return given.hierarchy
    what = "a posterior without subjects" if isinstance(given, Posterior) else type(given).__name__
    raise InputError(
        f"{who}: got {what}; give the posterior of a population, Calibration(..., population=...).sample()."
    )


def check_posterior(given: object, who: str) -> None:
    """Raise unless `given` is a posterior.

    Raises
    ------
    InputError
        With the call that returns one.
    """
    if not isinstance(given, Posterior):
        raise InputError(
            f"{who}: got a {type(given).__name__} in the place of a posterior; give what "
            "uq.Calibration(surrogate, observations, noise=...).sample(rng=1) returns."
        )


def checked_sampler(sampler: Any, problem: Problem) -> Sampler:
    """Return the sampler, NUTS when it was left out.

    Raises
    ------
    InputError
        When it is none.
    ConformanceError
        When it needs derivatives that a simulator does not have.
    """
    sampler = NUTS() if sampler is None else sampler
    if isinstance(sampler, type) or not callable(getattr(sampler, "run", None)):
        raise InputError(
            f"sample: sampler is {sampler!r}; give NUTS(...), e.g. NUTS(draws=2000), SMC(...), Metropolis(...), "
            "Laplace(...), Pathfinder(...), or an object with run(problem, seed)."
        )
    if isinstance(sampler, NUTS):
        refuse(problem, "NUTS")
    return cast("Sampler", sampler)


def sample(
    problem: Problem, sampler: Sampler | None, rng: RandomState | None, refit_discrepancy: bool = True
) -> Posterior:
    """Draw from the posterior of any problem; see `SingleCalibration.sample`."""
    if not isinstance(refit_discrepancy, bool):
        raise InputError(f"sample: refit_discrepancy is {refit_discrepancy!r}; give True or False.")
    assembly.check_derived(problem)
    chosen = checked_sampler(sampler, problem)
    seed = int(as_generator(rng).integers(2**31))
    if problem.mass_cut > 0:
        _logger.info("the prior is conditioned on the design box, which cuts %.2g of its mass", problem.mass_cut)
    # A population is sampled through features of the error that are where its subjects are.
    problem, trace = chosen.sampled(problem, seed) if type(chosen) is NUTS else (problem, chosen.run(problem, seed))
    posterior = build_posterior(problem, chosen, trace, seed, refit=refit_discrepancy)
    return posterior if sampler is not None else _across_modes(problem, posterior, seed, refit_discrepancy)


def _across_modes(problem: Problem, posterior: Posterior, seed: int, refit: bool) -> Posterior:
    """Return the posterior, sampled again by SMC where chains of the default sampler do not move between modes.

    Nobody asked for the sampler then; the posterior and its verdict say which one it is, and why.
    """
    apart = [check for check in posterior.verdict.warnings if check.name == MODES]
    if not apart or len(problem.priors) + problem.latents > FEW:
        return posterior
    _logger.info("NUTS did not move between modes (%s); sampling again with SMC", apart[0].message)
    reason = f"NUTS, the default, was replaced by SMC, which weights modes by their mass: {apart[0].message}"
    other = SMC()
    remedy = (
        "Look at uq.plots.pairs(posterior): one interval cannot describe several modes. Choose a sampler to keep it, "
        "sample(uq.NUTS(), rng=1)."
    )
    note = Check("sampler", "note", 1.0, reason, remedy)
    again = build_posterior(problem, other, other.run(problem, seed), seed, (note,), refit=refit)
    better = len(again.verdict.warnings) <= len(posterior.verdict.warnings)
    return again if better and MODES not in {check.name for check in again.verdict.warnings} else posterior


def build_posterior(
    problem: Problem, sampler: Sampler, trace: Any, seed: int, notes: tuple[Check, ...] = (), *, refit: bool = False
) -> Posterior:
    """Return the posterior of a sampler's trace, with every group of its DataTree and the verdict, with `notes` in it.

    With `refit` the posterior with another scale of a discrepancy is sampled where reweighted draws cannot tell it.

    Raises
    ------
    ConformanceError
        When the trace is not what `Sampler` says.
    """
    assembly.check_trace(problem, sampler, trace)
    dims = ("chain", "draw")
    raw = trace["posterior"].dataset[list(problem.priors)]
    raw = raw.assign_coords({dim: np.arange(raw.sizes[dim]) for dim in dims if dim not in raw.coords})
    shape, here = (raw.sizes["chain"], raw.sizes["draw"]), {"chain": raw.chain, "draw": raw.draw}
    theta = {name: np.ascontiguousarray(raw[name].values.reshape(-1)) for name in problem.priors}
    rng = np.random.default_rng(seed)
    latents = problem.latents_inside(theta, assembly.latents_of(problem, trace), rng)
    left = problem.left_out(theta, latents, rng)
    if left is None:
        left = LeftOut(*assembly.leave_one_out_of_all(problem, theta, latents, rng), assembly.row_labels(problem))
    draws = assembly.with_derived(problem, raw.drop_attrs())
    stats = assembly.numeric_stats(trace["sample_stats"].dataset) if "sample_stats" in trace else xr.Dataset()
    stats = stats.assign_coords(here)
    stats["joint_log_likelihood"] = (dims, left.joint.reshape(shape))
    stats["hyperparameter_draw"] = ((*dims, "part")[: left.h.ndim + 1], left.h.reshape(*shape, *left.h.shape[1:]))
    terms = xr.DataArray(left.terms.reshape(*shape, -1), dims=(*dims, next(iter(left.labels))), coords=left.labels)
    labels = assembly.row_labels(problem)
    prior_theta = problem.prior_draws(assembly.PRIOR_DRAWS, rng)
    prior = xr.Dataset({name: (dims, values[None]) for name, values in prior_theta.items()}).assign_coords(chain=[0])
    groups = {
        "posterior": draws.assign_coords(here),
        "sample_stats": stats,
        "log_prior": assembly.log_prior(problem, theta, shape).assign_coords(here),
        "log_likelihood": xr.Dataset({"value": terms}).assign_coords(here),
        "observed_data": xr.Dataset(
            {"value": xr.DataArray(assembly.measured(problem), dims="observation", coords=labels)}
        ),
        "constant_data": assembly.constant_data(labels),
        "prior": assembly.with_derived(problem, prior),
        "prior_predictive": assembly.prior_predictive(problem, prior_theta, rng, labels),
    }
    if problem.latents:
        groups["latents"] = xr.Dataset({"value": ((*dims, "latent"), latents.reshape(*shape, -1))}).assign_coords(here)
    groups |= assembly.true_conditions(problem, raw)
    groups |= {name: group.assign_coords(here) for name, group in problem.of_subjects(theta, latents, shape).items()}
    found = trace["starts"].dataset if "starts" in trace else {}
    starts = {str(name): found[name].values for name in found}
    predicted = groups["prior_predictive"]["value"].values[0]
    sampled = assembly.sampled(problem, sampler, draws, theta, latents, stats, starts, predicted, notes)
    scales = refits.by_piece(problem, sampled, sampler if refit else None, seed)
    tree = xr.DataTree.from_dict(groups | refits.kept(scales))
    verdict, share = judge(problem, replace(sampled, rescaled=scales))
    tree.attrs |= assembly.provenance(problem, sampler, seed, verdict)
    posterior = Posterior(tree, problem, verdict, share)
    rows, each = problem.new_measurements(posterior, rng) or assembly.new_measurements(
        posterior, assembly.PREDICTIVE_DRAWS // shape[0], rng
    )
    new = xr.Dataset({"value": ((*dims, "observation"), rows)})
    new = new.assign_coords(chain=raw.chain, draw=raw.draw[each], **labels)
    tree["posterior_predictive"] = xr.DataTree(new)
    for group in tree.children.values():
        group.attrs |= {"inference_library": "uqms", "interval": "95 % equal-tailed"}
    return posterior
