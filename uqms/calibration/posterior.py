"""The posterior: draws in the parameters' own units, tables, predictions and the verdict, around an ArviZ DataTree."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast, final

import numpy as np
import pandas as pd
import xarray as xr

from uqms import _checks as check
from uqms._threads import single_threaded
from uqms._typing import Array, Ints, RandomState, as_generator
from uqms.calibration import assembly
from uqms.calibration.capabilities import limit_of, refuse
from uqms.calibration.computation import MCSE_SHARE
from uqms.calibration.judging import judge
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
from uqms.calibration.rescaling import rescaled
from uqms.calibration.samplers import Sampler
from uqms.calibration.verdict import Verdict
from uqms.errors import InputError

if TYPE_CHECKING:
    from uqms.calibration.parts import JointCalibration
    from uqms.calibration.problem import Calibration

__all__ = ["Evidence", "Posterior", "build_posterior", "thinned"]

type _Problem = Calibration | JointCalibration


class SummaryTable(pd.DataFrame):
    """A pandas DataFrame that prints all its columns, and no digits that the number of draws does not support.

    The values are not rounded. Where a number's own Monte Carlo error exceeds 5 % of the sd, its last digit shown is
    worth about twice that error.
    """

    def __repr__(self) -> str:
        if "mcse" not in self.attrs:
            return pd.DataFrame(self).to_string(float_format=_four)
        shown = pd.DataFrame(self).astype(object)
        for name, row in self.iterrows():
            for column, value in row.items():
                if isinstance(value, float):
                    error = self.attrs["mcse"][name].get("mean" if column == "sd" else str(column), 0.0)
                    shown.loc[name, column] = _supported(value, row["sd"], error)
        return "\n".join([shown.to_string(), *self.attrs.get("remarks", [])])


def _four(value: float) -> str:
    return f"{value:.4g}"


def _supported(value: float, sd: float, mcse: float) -> str:
    """Return a number with the digits that a Monte Carlo error leaves."""
    if not (np.isfinite(value) and 0.0 < mcse < np.inf) or mcse <= MCSE_SHARE * sd:
        return _four(value)
    decimals = int(np.round(-np.log10(2.0 * mcse)))
    return f"{round(value, decimals):.{max(decimals, 0)}f}"


class Evidence(NamedTuple):
    """Log marginal likelihood of the data, log p(observations), and its Monte Carlo standard error."""

    value: float
    mcse: float


@final
@dataclass(frozen=True, eq=False)
class Posterior:
    """What calibration returns.

    Attributes
    ----------
    tree
        ArviZ DataTree with the groups posterior, sample_stats, log_likelihood, log_prior, observed_data, prior,
        prior_predictive and posterior_predictive. Where conditions were measured with an error, the group "conditions"
        has the draws of the true ones by experiment, which "posterior" has one by one.
    problem
        The calibration that it answers.
    verdict
        Whether it should be believed; print it.
    surrogate_share
        By parameter: which share of its variance is due to the surrogate's error.
    """

    tree: Any
    problem: "Calibration | JointCalibration"
    verdict: Verdict
    surrogate_share: xr.Dataset

    def __repr__(self) -> str:
        sizes = self.draws.sizes
        return (
            f"<Posterior of {', '.join(map(str, self.draws.data_vars))}: {sizes['chain']} chains of {sizes['draw']} "
            f"draws, verdict {self.verdict.status}>"
        )

    @property
    def draws(self) -> xr.Dataset:
        """Posterior draws of parameters, noise and derived quantities, dims ("chain", "draw")."""
        draws: xr.Dataset = self.tree["posterior"].dataset
        return draws

    @property
    def log_evidence(self) -> Evidence:
        """Log marginal likelihood with its standard error, from samplers that estimate it (`SMC`, roughly `Laplace`).

        Raises
        ------
        InputError
            When the sampler gave none.
        """
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
        """Return a table of mean, sd, equal-tailed interval, their Monte Carlo error, R-hat and effective sample sizes.

        `mcse` is the largest Monte Carlo standard error of mean and limits, in the quantity's unit. The table prints
        fewer digits where it exceeds 5 % of the sd; its numbers are not rounded.

        Raises
        ------
        InputError
            When `prob` is not between 0 and 1.
        """
        check.probability("summary", "prob", prob)
        tail = 0.5 * (1.0 - prob)
        r_hat, bulk, tails = assembly.convergence(self.draws)
        errors = assembly.monte_carlo_errors(self.draws, prob)
        rows = {}
        for name, values in self.draws.data_vars.items():
            flat = values.values.ravel()
            low, high = np.quantile(flat, [tail, 1.0 - tail])
            rows[str(name)] = {
                "mean": float(flat.mean()),
                "sd": float(flat.std(ddof=1)),
                f"{100 * tail:g}%": float(low),
                f"{100 * (1 - tail):g}%": float(high),
                "mcse": max(errors[str(name)]),
                "r_hat": r_hat[str(name)],
                "ess_bulk": bulk[str(name)],
                "ess_tail": tails[str(name)],
                "unit": values.attrs.get("unit", ""),
            }
        table = SummaryTable(pd.DataFrame.from_dict(rows, orient="index"))
        table.attrs["mcse"] = {
            name: dict(zip(("mean", f"{100 * tail:g}%", f"{100 * (1 - tail):g}%"), found, strict=True))
            for name, found in errors.items()
        }
        found = {check.name: check for check in self.verdict.checks}
        if "failed runs" in found:
            table.attrs["remarks"] = [f"failed runs: {found['failed runs'].message}"]
        return table

    def part(self, name: str) -> "Posterior":
        """Return what the joint posterior of several parts says of one: its quantities, data and surrogate.

        Draws are those of the whole, from the data of all parts; derived quantities of the whole are kept. Use it
        wherever a posterior of one surrogate is wanted: `predict`, figures, `refine`, `verify`. Where other parts have
        the same surrogate, predictions hold what their data say of its error, and their hyperparameters are among the
        draws, called "part_hyperparameter".

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
        (piece,) = (one for one in self.problem.pieces(self._flat(), self.latents) if name in one.parts)
        groups = {}
        for key, group in self.tree.children.items():
            data = group.dataset
            if "part" in data.coords and "observation" in data.dims:
                data = data.isel(observation=np.flatnonzero(data["part"].values == name)).drop_vars("part")
            elif key == "latents":
                shape = (self.draws.sizes["chain"], self.draws.sizes["draw"], -1)
                data = xr.Dataset({"value": (("chain", "draw", "latent"), piece.latents.reshape(shape))})
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
        tree.attrs |= self.tree.attrs | {"box": json.dumps(problem.surrogate.domain.to_dict())}
        share = self.surrogate_share[list(problem.parameters)]
        return Posterior(tree, problem, self.verdict, share)

    @single_threaded
    def predict(
        self,
        *,
        part: str | None = None,
        conditions: Mapping[str, object] | None = None,
        coords: Mapping[str, object] | None = None,
        outputs: str | Sequence[str] | None = None,
        noise: bool = False,
        discrepancy: bool = True,
        realisation: Realised = "same",
        draws: int = assembly.PREDICTIVE_DRAWS,
        rng: RandomState = 0,
    ) -> PosteriorPrediction:
        """Predict outputs given the data, at the observed or other conditions and coordinates.

        The surrogate's error is taken given the data: what the observations say about it at one input carries over to
        others as far as they are correlated.

        Parameters
        ----------
        part
            Of a calibration of several parts: whose surrogate predicts.
        conditions
            Known inputs, numbers or arrays of one length; the observed ones when left out.
        coords
            By dim, one-dimensional; all simulated coordinates when left out.
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
            How many posterior draws to use, spread evenly over the chains.
        rng
            For the draws of curves.

        Returns
        -------
        PosteriorPrediction
            Mean, sd, joint draws and intervals.

        Raises
        ------
        InputError
            Unknown part, outputs, conditions or dims; noise of an output whose noise is not known; another
            `realisation`.
        ExtrapolationError
            Conditions or coordinates outside of what was simulated.
        """
        if realisation not in ("same", "new", "none"):
            raise InputError(
                f"predict: realisation is {realisation!r}; give 'same' (the observed run), 'new' or 'none' (the mean)."
            )
        if part is None and self.problem.kind == "parts":
            raise InputError(f"predict: which part? There are {list(self.problem.named_parts)}; say part=.")
        if part is not None:
            return self.part(part).predict(
                conditions=conditions,
                coords=coords,
                outputs=outputs,
                noise=noise,
                discrepancy=discrepancy,
                realisation=realisation,
                draws=draws,
                rng=rng,
            )
        check.whole("predict", "draws", draws)
        names = self._outputs(outputs, coords)
        theta, h, latents = thinned(self, draws)
        generator = as_generator(rng)
        means, sds, samples = {}, {}, {}
        for name in names:
            grid, layout = make_grid(self.single, name, conditions, coords), self.single.surrogate.layouts[name]
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
    def rescale_discrepancy(self, factors: Sequence[float] = (0.5, 2.0)) -> "SummaryTable":
        """Return how far each quantity moves when the prior scale of the discrepancy is halved or doubled.

        Use it in every report of a calibration with discrepancy: a parameter that moves by its own standard deviation
        is known only as well as the size of the model's error is.

        Parameters
        ----------
        factors
            Times the standard deviation of every discrepancy, or the scale of its prior.

        Returns
        -------
        SummaryTable
            By quantity and factor: `shift`, the change of the mean in posterior sds, and `sd_ratio`; `k_hat` of the
            weights, above 0.7 of which the row is not to be trusted: calibrate with that scale instead.

        Raises
        ------
        InputError
            When the calibration has no discrepancy, or a factor is not positive.
        """
        refuse(self.problem, "rescale_discrepancy")
        if any(not (np.isfinite(factor) and factor > 0) for factor in factors):
            raise InputError(f"rescale_discrepancy: factors are {list(factors)}; give positive numbers.")
        draws = {str(name): values.values.ravel() for name, values in self.draws.data_vars.items()}
        columns: dict[str, dict[str, float]] = {name: {} for name in draws}
        for factor in factors:
            found = rescaled(self.single, draws, self.latents, None, float(factor))  # of a part, not of the whole
            for name, row in columns.items():
                row[f"shift x{factor:g}"], row[f"sd_ratio x{factor:g}"] = found.shift[name], found.ratio[name]
                row[f"k_hat x{factor:g}"] = found.k_hat
        return SummaryTable(pd.DataFrame.from_dict(columns, orient="index"))

    def _run_held(self, realisation: Realised) -> tuple[str, ...]:
        if self.single.realisation is None or realisation == "none":
            return ()
        return ("realisation",) if realisation == "same" else ("new realisation",)

    def to_netcdf(self, path: str | Path) -> None:
        """Write the DataTree to a netCDF file."""
        self.tree.to_netcdf(path, engine="h5netcdf")

    @property
    def single(self) -> "Calibration":
        """The calibration, where it has one surrogate.

        Raises
        ------
        InputError
            When it has several parts.
        """
        if self.problem.kind == "one":
            return cast("Calibration", self.problem)
        raise limit_of(self.problem, "single")

    def _flat(self) -> dict[str, Array]:
        """Draws of everything inferred, each (chain * draw,)."""
        return {name: self.draws[name].values.ravel() for name in self.problem.priors}

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

    @property
    def latents(self) -> Array:
        """Draws (chain * draw, latents) of the standard normal latents; none where all errors are normal."""
        if "latents" not in self.tree.children:
            return np.zeros((self.draws.sizes["chain"] * self.draws.sizes["draw"], 0))
        values = self.tree["latents"]["value"].values
        return np.asarray(values.reshape(-1, values.shape[-1]))

    def _new_noise(self, output: str, targets: Targets, theta: Mapping[str, Array]) -> NewNoise:
        group = self.single.noise.group_of(output)
        if group < 0:
            raise InputError(
                f"predict: output {output!r} was not observed, so its noise is not known; say noise=False."
            )
        return new_noise(self.single, group, targets)


def thinned(posterior: Posterior, draws: int) -> tuple[dict[str, Array], Ints, Array]:
    """Return at most `draws` draws (S,), evenly over chains, their hyperparameters' (S,) and latents (S, L)."""
    h = posterior.tree["sample_stats"]["hyperparameter_draw"].values.ravel()
    picked = np.unique(np.linspace(0, len(h) - 1, min(draws, len(h))).astype(int))
    theta = {name: posterior.draws[name].values.ravel()[picked] for name in posterior.problem.priors}
    return theta, h[picked], posterior.latents[picked]


def build_posterior(problem: _Problem, sampler: Sampler, trace: Any, seed: int) -> Posterior:
    """Return the posterior of a sampler's trace, with every group of its DataTree and the verdict.

    Raises
    ------
    ConformanceError
        When the trace is not what `Sampler` says.
    """
    assembly.check_trace(problem, sampler, trace)
    raw = trace["posterior"].dataset[list(problem.priors)]
    raw = raw.assign_coords({dim: np.arange(raw.sizes[dim]) for dim in ("chain", "draw") if dim not in raw.coords})
    shape = (raw.sizes["chain"], raw.sizes["draw"])
    theta = {name: np.ascontiguousarray(raw[name].values.reshape(-1)) for name in problem.priors}
    rng = np.random.default_rng(seed)
    latents = assembly.latents_of(problem, trace)
    joint, pointwise, h = assembly.leave_one_out_of_all(problem, theta, latents, rng)
    posterior = assembly.with_derived(problem, raw.drop_attrs())
    stats = assembly.numeric_stats(trace["sample_stats"].dataset) if "sample_stats" in trace else xr.Dataset()
    stats = stats.assign_coords(chain=raw.chain, draw=raw.draw)
    dims = ("chain", "draw")
    stats["joint_log_likelihood"] = (dims, joint.reshape(shape))
    stats["hyperparameter_draw"] = ((*dims, "part")[: h.ndim + 1], h.reshape(*shape, *h.shape[1:]))
    labels = assembly.row_labels(problem)
    likelihood = xr.DataArray(pointwise.reshape(*shape, -1), dims=(*dims, "observation"), coords=labels)
    prior_theta = problem.prior_draws(assembly.PRIOR_DRAWS, rng)
    prior = xr.Dataset({name: (dims, values[None]) for name, values in prior_theta.items()}).assign_coords(chain=[0])
    tree = xr.DataTree.from_dict(
        {
            "posterior": posterior.assign_coords(chain=raw.chain, draw=raw.draw),
            "sample_stats": stats,
            "log_prior": assembly.log_prior(problem, theta, shape).assign_coords(chain=raw.chain, draw=raw.draw),
            "log_likelihood": xr.Dataset({"value": likelihood}).assign_coords(chain=raw.chain, draw=raw.draw),
            "observed_data": xr.Dataset(
                {"value": xr.DataArray(assembly.measured(problem), dims="observation", coords=labels)}
            ),
            "prior": assembly.with_derived(problem, prior),
            "prior_predictive": assembly.prior_predictive(problem, prior_theta, rng, labels),
            "posterior_predictive": assembly.posterior_predictive(problem, theta, latents, h, shape, rng, labels),
            **(
                {"latents": xr.Dataset({"value": ((*dims, "latent"), latents.reshape(*shape, -1))})}
                if problem.latents
                else {}
            ),
            **assembly.true_conditions(problem, raw),
        }
    )
    for group in tree.children.values():
        group.attrs |= {"inference_library": "uqms", "interval": "95 % equal-tailed"}
    found = trace["starts"].dataset if "starts" in trace else {}
    starts = {str(name): found[name].values for name in found}
    verdict, share = judge(problem, assembly.sampled(problem, sampler, posterior, theta, latents, stats, starts))
    tree.attrs |= assembly.provenance(problem, sampler, seed, verdict)
    return Posterior(tree, problem, verdict, share)
