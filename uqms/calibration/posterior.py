"""The posterior: draws in the parameters' own units, tables, predictions and the verdict, around an ArviZ DataTree."""

import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import pandas as pd
import xarray as xr

from uqms._typing import Array, Ints, RandomState, as_generator
from uqms.calibration.answer import log_priors
from uqms.calibration.computation import APPROXIMATION, MCSE_SHARE, sampler_checks
from uqms.calibration.density import draw_rows, row_terms
from uqms.calibration.discrepancy import NOISE
from uqms.calibration.noise import NumPyFunctions
from uqms.calibration.parts import JointCalibration
from uqms.calibration.predict import (
    NewNoise,
    PosteriorPrediction,
    Realised,
    Targets,
    conditional_moments,
    correlated_noise,
    draw_jointly,
    make_grid,
    new_noise,
    own_cells,
    predicted,
)
from uqms.calibration.problem import Calibration, Piece
from uqms.calibration.rescaling import rescaled
from uqms.calibration.samplers import Sampler
from uqms.calibration.verdict import Sampled, Verdict, judge
from uqms.errors import ConformanceError, InputError

__all__ = ["Evidence", "Posterior", "build_posterior", "check_derived"]

type _Problem = Calibration | JointCalibration

PREDICTIVE_DRAWS = 1000
PRIOR_DRAWS = 2000
LOG_TWO_PI = float(np.log(2.0 * np.pi))


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
    problem: Calibration | JointCalibration
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
        if not 0.0 < prob < 1.0:
            raise InputError(f"summary: prob is {prob!r}; give a probability between 0 and 1.")
        tail = 0.5 * (1.0 - prob)
        r_hat, bulk, tails = _convergence(self.draws)
        errors = _monte_carlo_errors(self.draws, prob)
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
        wherever a posterior of one surrogate is wanted: `predict`, figures, `refine`, `verify`.

        Raises
        ------
        InputError
            When there are no parts, or none of that name.
        """
        if not isinstance(self.problem, JointCalibration) or name not in self.problem.parts:
            there = list(self.problem.parts) if isinstance(self.problem, JointCalibration) else "none"
            raise InputError(f"part: {name!r} is no part of this calibration; there are {there}.")
        problem = self.problem.parts[name]
        names = {key if key in problem.parameters else f"{name}_{key}": key for key in problem.priors}
        (piece,) = (one for one in self.problem.pieces(self._flat(), self.latents) if one.name == name)
        groups = {}
        for key, group in self.tree.children.items():
            data = group.dataset
            if "part" in data.coords and "observation" in data.dims:
                data = data.isel(observation=np.flatnonzero(data["part"].values == name)).drop_vars("part")
            elif key == "latents":
                shape = (self.draws.sizes["chain"], self.draws.sizes["draw"], -1)
                data = xr.Dataset({"value": (("chain", "draw", "latent"), piece.latents.reshape(shape))})
            elif key == "sample_stats":
                at = list(self.problem.parts).index(name)
                data = data.assign(hyperparameter_draw=data["hyperparameter_draw"].isel(part=at, drop=True))
                data = data.drop_vars("part", errors="ignore")
            elif key in ("posterior", "prior", "log_prior"):
                kept = [one for one in names if one in data]
                data = data[kept + [one for one in self.problem.derived if one in data]].rename(
                    {one: names[one] for one in kept}
                )
            if key != "conditions" and (key != "latents" or problem.latents):
                groups[key] = data
        groups |= _true_conditions(problem, groups["posterior"])
        tree = xr.DataTree.from_dict(groups)
        tree.attrs |= self.tree.attrs | {"box": json.dumps(problem.surrogate.domain.to_dict())}
        share = self.surrogate_share[list(problem.parameters)]
        return Posterior(tree, problem, self.verdict, share)

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
        draws: int = PREDICTIVE_DRAWS,
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
        if part is None and isinstance(self.problem, JointCalibration):
            raise InputError(f"predict: which part? There are {list(self.problem.parts)}; say part=.")
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
        names = self._outputs(outputs, coords)
        theta, h, latents = self._thinned(draws)
        generator = as_generator(rng)
        means, sds, samples = {}, {}, {}
        for name in names:
            grid, layout = make_grid(self.single, name, conditions, coords), self.single.surrogate.layouts[name]
            add = self._new_noise(name, grid.targets, theta) if noise else None
            mean, variance, sample = (np.empty((len(h), len(grid.targets.offset))) for _ in range(3))
            found = conditional_moments(self.single, theta, h, grid.targets, latents, discrepancy, realisation)
            for rows, moments in found:
                few = {key: values[rows] for key, values in theta.items()}
                mean[rows], variance[rows], sample[rows] = predicted(moments, layout.transform, add, few, generator)
            unit = layout.unit
            means[name] = grid.labelled(mean.mean(axis=0), (), unit)
            sds[name] = grid.labelled(np.sqrt(variance.mean(axis=0) + mean.var(axis=0)), (), unit)
            samples[name] = grid.labelled(sample, ("sample",), unit)
        modelled = any(term.role != NOISE for term in self.single.noise.terms) or bool(self.single.noise.factors)
        holds = (
            "parameters",
            "surrogate",
            *(("discrepancy",) if modelled and discrepancy else ()),
            *self._run_held(realisation),
            *(("noise",) if noise else ()),
        )
        return PosteriorPrediction(xr.Dataset(means), xr.Dataset(sds), xr.Dataset(samples), holds)

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
        if not isinstance(self.problem, Calibration):
            raise InputError("rescale_discrepancy: take one part: posterior.part(name).rescale_discrepancy().")
        if self.problem.discrepancy is None:
            raise InputError("rescale_discrepancy: there is none; give Calibration(..., discrepancy=GPDiscrepancy()).")
        if any(not (np.isfinite(factor) and factor > 0) for factor in factors):
            raise InputError(f"rescale_discrepancy: factors are {list(factors)}; give positive numbers.")
        draws = {str(name): values.values.ravel() for name, values in self.draws.data_vars.items()}
        joint = self.tree["sample_stats"]["joint_log_likelihood"].values.ravel()
        columns: dict[str, dict[str, float]] = {name: {} for name in draws}
        for factor in factors:
            found = rescaled(self.problem, draws, self.latents, joint, float(factor))
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
    def single(self) -> Calibration:
        """The calibration, where it has one surrogate.

        Raises
        ------
        InputError
            When it has several parts.
        """
        if isinstance(self.problem, JointCalibration):
            raise InputError(
                f"This is the posterior of several parts; use posterior.part(name), one of {list(self.problem.parts)}."
            )
        return self.problem

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
                name for name in self.single.noise.outputs if coords is None or set(layouts[name].dims) == set(coords)
            ]
            wrong = [] if outputs else list(self.single.noise.outputs)
        if wrong:
            dims = {name: list(layouts[name].dims) for name in wrong}
            raise InputError(f"predict: coords are given for {sorted(coords or {})}, but the outputs have dims {dims}.")
        return tuple(outputs)

    def _thinned(self, draws: int) -> tuple[dict[str, Array], Ints, Array]:
        if isinstance(draws, bool) or not isinstance(draws, int | np.integer) or draws < 1:
            raise InputError(f"predict: draws is {draws!r}; give a whole number of at least 1.")
        theta = self._flat()
        h = self.tree["sample_stats"]["hyperparameter_draw"].values.ravel()
        picked = np.unique(np.linspace(0, len(h) - 1, min(draws, len(h))).astype(int))
        return {name: values[picked] for name, values in theta.items()}, h[picked], self.latents[picked]

    @property
    def latents(self) -> Array:
        """Draws (chain * draw, latents) of the standard normal latents; none where all errors are normal."""
        if "latents" not in self.tree.children:
            return np.zeros((self.draws.sizes["chain"] * self.draws.sizes["draw"], 0))
        values = self.tree["latents"]["value"].values
        return np.asarray(values.reshape(-1, values.shape[-1]))

    def _new_noise(self, output: str, targets: Targets, theta: Mapping[str, Array]) -> NewNoise:
        groups = self.single.noise
        if output not in groups.outputs:
            raise InputError(
                f"predict: output {output!r} was not observed, so its noise is not known; say noise=False."
            )
        return new_noise(self.single, groups.outputs.index(output), targets)


def _convergence(draws: xr.Dataset) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    import arviz_stats

    if draws.sizes["chain"] < 2:
        r_hat = {str(name): float("nan") for name in draws.data_vars}
    else:
        r_hat = {str(name): float(value) for name, value in arviz_stats.rhat(draws, method="rank").data_vars.items()}
    bulk, tail = (arviz_stats.ess(draws, method=method) for method in ("bulk", "tail"))
    return (
        r_hat,
        {str(name): float(value) for name, value in bulk.data_vars.items()},
        {str(name): float(value) for name, value in tail.data_vars.items()},
    )


def build_posterior(problem: _Problem, sampler: Sampler, trace: Any, seed: int) -> Posterior:
    """Return the posterior of a sampler's trace, with every group of its DataTree and the verdict.

    Raises
    ------
    ConformanceError
        When the trace is not what `Sampler` says.
    """
    _check_trace(problem, sampler, trace)
    raw = trace["posterior"].dataset[list(problem.priors)]
    raw = raw.assign_coords({dim: np.arange(raw.sizes[dim]) for dim in ("chain", "draw") if dim not in raw.coords})
    shape = (raw.sizes["chain"], raw.sizes["draw"])
    theta = {name: np.ascontiguousarray(raw[name].values.reshape(-1)) for name in problem.priors}
    rng = np.random.default_rng(seed)
    latents = _latents_of(problem, trace)
    joint, pointwise, h = _leave_one_out_of_all(problem, theta, latents, rng)
    posterior = _with_derived(problem, raw.drop_attrs())
    stats = _numeric_stats(trace["sample_stats"].dataset) if "sample_stats" in trace else xr.Dataset()
    stats = stats.assign_coords(chain=raw.chain, draw=raw.draw)
    dims = ("chain", "draw")
    stats["joint_log_likelihood"] = (dims, joint.reshape(shape))
    stats["hyperparameter_draw"] = ((*dims, "part")[: h.ndim + 1], h.reshape(*shape, *h.shape[1:]))
    labels = _row_labels(problem)
    likelihood = xr.DataArray(pointwise.reshape(*shape, -1), dims=(*dims, "observation"), coords=labels)
    prior_theta = problem.prior_draws(PRIOR_DRAWS, rng)
    prior = xr.Dataset({name: (dims, values[None]) for name, values in prior_theta.items()}).assign_coords(chain=[0])
    tree = xr.DataTree.from_dict(
        {
            "posterior": posterior.assign_coords(chain=raw.chain, draw=raw.draw),
            "sample_stats": stats,
            "log_prior": _log_prior(problem, theta, shape).assign_coords(chain=raw.chain, draw=raw.draw),
            "log_likelihood": xr.Dataset({"value": likelihood}).assign_coords(chain=raw.chain, draw=raw.draw),
            "observed_data": xr.Dataset({"value": xr.DataArray(_measured(problem), dims="observation", coords=labels)}),
            "prior": _with_derived(problem, prior),
            "prior_predictive": _prior_predictive(problem, prior_theta, rng, labels),
            "posterior_predictive": _posterior_predictive(problem, theta, latents, h, shape, rng, labels),
            **(
                {"latents": xr.Dataset({"value": ((*dims, "latent"), latents.reshape(*shape, -1))})}
                if problem.latents
                else {}
            ),
            **_true_conditions(problem, raw),
        }
    )
    for group in tree.children.values():
        group.attrs |= {"inference_library": "uqms", "interval": "95 % equal-tailed"}
    found = trace["starts"].dataset if "starts" in trace else {}
    starts = {str(name): found[name].values for name in found}
    verdict, share = judge(problem, _sampled(problem, sampler, posterior, theta, latents, stats, starts))
    tree.attrs |= _provenance(problem, sampler, seed, verdict)
    return Posterior(tree, problem, verdict, share)


def _true_conditions(problem: _Problem, draws: xr.Dataset) -> dict[str, xr.Dataset]:
    """Return the group of the true conditions, dims (chain, draw, experiment); none when all are known."""
    variables: dict[str, Any] = {}
    for piece in _parts(problem):
        own, before = piece.problem, f"{piece.name}_" if piece.name else ""
        dim = f"{before}experiment"
        for column, name in enumerate(own.condition_names):
            at = np.flatnonzero(own.cells.conditions_sd[:, column] > 0.0)
            if not len(at):
                continue
            true = xr.concat([draws[f"{before}{name}[{k}]"] for k in at], dim=dim, coords="minimal", compat="override")
            labels = {f"{before}{name}_experiment": at} if len(at) < own.cells.experiments else {dim: at}
            (where,) = labels
            variables[f"{before}{name}"] = true.rename({dim: where}).assign_coords(labels).transpose(..., where)
            variables[f"{before}{name}_measured"] = xr.DataArray(own.cells.conditions[at, column], labels, (where,))
            variables[f"{before}{name}_sd"] = xr.DataArray(own.cells.conditions_sd[at, column], labels, (where,))
    return {"conditions": xr.Dataset(variables).drop_attrs()} if variables else {}


def _latents_of(problem: _Problem, trace: Any) -> Array:
    """Return the trace's draws of the latents (S, latents)."""
    if not problem.latents:
        values = trace["posterior"].dataset[next(iter(problem.priors))]
        return np.zeros((values.size, 0))
    found = trace["posterior"].dataset["latents"].values
    return np.ascontiguousarray(found.reshape(-1, found.shape[-1]))


def _check_trace(problem: _Problem, sampler: Sampler, trace: Any) -> None:
    name = type(sampler).__name__
    wanted = "a DataTree whose group 'posterior' has every quantity of problem.priors with dims ('chain', 'draw')"
    try:
        draws = trace["posterior"].dataset
    except (KeyError, TypeError, AttributeError) as error:
        raise ConformanceError(f"{name}.run returned a {type(trace).__name__}; it must return {wanted}.") from error
    lost = [key for key in problem.priors if key not in draws]
    wrong = {key: draws[key].dims for key in problem.priors if key in draws and draws[key].dims != ("chain", "draw")}
    if lost or wrong or not draws.sizes["chain"] * draws.sizes["draw"]:
        raise ConformanceError(
            f"{name}.run returned a group 'posterior' of sizes {dict(draws.sizes)} that lacks {lost} and has dims "
            f"{wrong}; it must return {wanted}."
        )
    for key in problem.priors:
        values = draws[key].values
        bad = int(np.count_nonzero(~np.isfinite(values)))
        if bad:
            raise ConformanceError(f"{name}.run returned {bad} draws of {key!r} that are not finite.")
        low, high = problem.limits(key)
        slack = 1e-9 * max(1.0, abs(low)) if np.isinf(high - low) else 1e-9 * (high - low)
        outside = int(np.count_nonzero((values < low - slack) | (values > high + slack)))
        if outside:
            raise ConformanceError(
                f"{name}.run returned {outside} draws of {key!r} outside of [{low:g}, {high:g}], where "
                "its prior is zero."
            )
    if problem.constraints:
        broken = ~problem.conditioned_prior.allows({key: draws[key].values.ravel() for key in problem.priors})
        if broken.any():
            raise ConformanceError(
                f"{name}.run returned {int(broken.sum())} draws that break {[c.text for c in problem.constraints]}: "
                "use problem.conditioned_prior.log_terms, or Whitened, which hold the constraints."
            )


def _sampled(
    problem: _Problem,
    sampler: Sampler,
    posterior: xr.Dataset,
    theta: Mapping[str, Array],
    latents: Array,
    stats: xr.Dataset,
    starts: Mapping[str, Array],
) -> Sampled:
    """Collect what the verdict looks at."""
    shape = (posterior.sizes["chain"], posterior.sizes["draw"])
    names = list(problem.priors)
    r_hat, bulk, tail = _convergence(posterior[names])
    errors = _monte_carlo_errors(posterior[names], 0.95)
    of_sampler = sampler_checks(stats)
    blocks = getattr(sampler, "ess", None) is not None  # of which each was checked
    asked = shape[1] if blocks else getattr(sampler, "draws", shape[1])
    return Sampled(
        theta=theta,
        h=stats["hyperparameter_draw"].values.reshape(shape[0] * shape[1], *stats["hyperparameter_draw"].shape[2:]),
        shape=shape,
        asked=(getattr(sampler, "chains", shape[0]), asked),
        r_hat=r_hat,
        ess={name: min(bulk[name], tail[name]) for name in names},
        mcse={name: max(errors[name]) / max(float(posterior[name].std(ddof=1)), 1e-300) for name in names},
        divergences=int(stats["diverging"].sum()) if "diverging" in stats else None,
        energy=stats["energy"].values if "energy" in stats and shape[1] > 1 else None,
        deepest=float(stats["maxdepth_reached"].mean()) if "maxdepth_reached" in stats else None,
        log_likelihood=stats["joint_log_likelihood"].values.ravel(),
        starts=starts or None,
        latents=latents,
        of_sampler=of_sampler,
        approximate=any(check.name == APPROXIMATION for check in of_sampler),
    )


def _monte_carlo_errors(draws: xr.Dataset, prob: float) -> dict[str, tuple[float, ...]]:
    """Return the Monte Carlo standard errors of mean and limits of every quantity, in its own unit."""
    import arviz_stats

    tail = 0.5 * (1.0 - prob)
    found = [arviz_stats.mcse(draws, method="mean")]
    found += [arviz_stats.mcse(draws, method="quantile", prob=p) for p in (tail, 1.0 - tail)]
    return {str(name): tuple(float(one[name]) for one in found) for name in draws.data_vars}


def _log_prior(problem: _Problem, theta: Mapping[str, Array], shape: tuple[int, int]) -> xr.Dataset:
    found = log_priors(problem, theta)
    return xr.Dataset({name: (("chain", "draw"), values.reshape(shape)) for name, values in found.items()})


def _measured(problem: _Problem) -> Array:
    return np.concatenate([piece.problem.observations.value for piece in _parts(problem)])


def _parts(problem: _Problem) -> list[Piece]:
    """Return the parts of a problem, without draws."""
    return problem.pieces(dict.fromkeys(problem.priors))


def _leave_one_out_of_all(
    problem: _Problem, theta: Mapping[str, Array], latents: Array, rng: np.random.Generator
) -> tuple[Array, Array, Ints]:
    """Return `_leave_one_out` of all parts: the sum, all rows, and hyperparameter draws (S,) or (S, parts)."""
    found = [_leave_one_out(one.problem, one.theta, one.latents, rng) for one in problem.pieces(theta, latents)]
    joint, pointwise, h = zip(*found, strict=True)
    draws = h[0] if isinstance(problem, Calibration) else np.stack(h, axis=1)
    return np.sum(joint, axis=0), np.concatenate(pointwise, axis=1), draws


def _leave_one_out(
    problem: Calibration, theta: Mapping[str, Array], latents: Array, rng: np.random.Generator
) -> tuple[Array, Array, Ints]:
    """Return log p(z | theta) (S,), log p(z_i | other z, theta) (S, R), and a hyperparameter draw for each (S,).

    Leave-one-out terms of a Gaussian are in closed form: with w_i the precision of row i's noise and P the posterior
    variance of its cell, kappa_i = w_i - w_i² P is the precision of z_i given the rest. With latents, rows are
    independent given them: p(z_i | theta, latents). Rows that depend on each other share their joint density evenly.
    """
    parts: list[tuple[Array, Array, Ints]] = []
    for values, terms in _value_terms(problem, theta, latents):
        joint = np.logaddexp.reduce(values, axis=0)  # over (H, s)
        # A hyperparameter draw under which the data are impossible (a mean of counts below 0) has no weight.
        possible = np.isfinite(values)[:, :, None]
        rest = np.where(possible, values[:, :, None] - np.where(possible, terms, 0.0), -np.inf)
        without = np.logaddexp.reduce(rest, axis=0)
        weights = np.exp(values - joint)
        chosen = (rng.random(weights.shape[1]) > np.cumsum(weights, axis=0)[:-1]).sum(axis=0)
        parts.append((joint, joint[:, None] - without, chosen))
    joints, pointwise, draws = zip(*parts, strict=True)
    return np.concatenate(joints), np.concatenate(pointwise), np.concatenate(draws)


def _value_terms(problem: Calibration, theta: Mapping[str, Array], latents: Array) -> Iterator[tuple[Array, Array]]:
    """Yield log w_h + log p(z | theta, h) (H, s) and log p(z_i | other z, theta, h) (H, s, R), in own units."""
    if problem.form != "latent":
        jacobian = problem.cells.jacobian
        for phi, values, alpha, precision in problem.log_likelihood_terms(theta):
            terms = np.stack([_row_terms(problem, phi, a, p) for a, p in zip(alpha, precision, strict=True)])
            yield values + jacobian.sum(), terms + jacobian
        return
    start = 0
    for y, values in problem.latent_terms(theta, latents):
        rows = slice(start, start := start + values.shape[1])
        phi = problem.noise.phi({name: column[rows] for name, column in theta.items()}, (values.shape[1],))
        terms = np.empty((*values.shape, len(problem.cells.z)))
        for at, value in row_terms(problem.cells, problem.noise, y, phi, problem.cells.z, NumPyFunctions):
            terms[..., at] = value if value.ndim == 3 else value[..., None] / len(at)
        yield values, terms


def _row_terms(problem: Calibration, sigma: Array, alpha: Array, precision: Array) -> Array:
    cells = problem.cells
    c = cells.row_cell
    cell_noise = sigma[:, cells.group] ** 2 / cells.weight
    cell_variance = cell_noise - cell_noise**2 * precision
    w = 1.0 / (sigma[:, cells.group][:, c] ** 2 * cells.row_variance)
    kappa = w - w**2 * cell_variance[:, c]
    a = w * (cells.z - cells.cell_mean[c] + (cell_noise * alpha)[:, c])
    return np.asarray(-0.5 * LOG_TWO_PI + 0.5 * np.log(kappa) - 0.5 * a**2 / kappa)


def _with_derived(problem: _Problem, draws: xr.Dataset) -> xr.Dataset:
    out = draws.copy()
    for name, prior in problem.priors.items():
        out[name] = out[name].assign_attrs(unit=problem.unit_of(name), description=prior.description)
    inputs = {name: draws[name] for name in problem.priors}
    like = next(iter(inputs.values()))
    inputs |= {name: xr.full_like(like, value).drop_attrs() for name, value in problem.fixed.items()}
    for name, derived in problem.derived.items():
        values = _derive(name, derived.function, inputs)
        out[name] = values.assign_attrs(unit=derived.unit, description=derived.description)
    return out


def _derive(
    name: str, function: Callable[[Mapping[str, Any]], Any], inputs: Mapping[str, xr.DataArray]
) -> xr.DataArray:
    like = next(iter(inputs.values()))
    try:
        values = function(inputs)
    except Exception as error:
        raise InputError(
            f"derived: {name!r} failed with {type(error).__name__}: {error}. It is given {list(inputs)}, an array each."
        ) from error
    if np.shape(values) != like.shape or np.asarray(values).dtype.kind not in "fiub":
        raise InputError(
            f"derived: {name!r} returned {type(values).__name__} of shape {np.shape(values)}; it must return one "
            f"number a draw, here of shape {like.shape}, computed with arithmetic or numpy functions from the mapping "
            "it is given."
        )
    return xr.DataArray(np.asarray(values, dtype=np.float64), dims=like.dims, coords=like.coords)


def check_derived(problem: _Problem) -> None:
    """Compute the derived quantities of a few prior draws: a mistake shows before the sampler has run, not after.

    Raises
    ------
    InputError
        When a function fails, or does not return one number a draw.
    """
    draws = problem.prior_draws(6, 0)
    _with_derived(problem, xr.Dataset({n: (("chain", "draw"), v.reshape(2, 3)) for n, v in draws.items()}))


def _numeric_stats(stats: xr.Dataset) -> xr.Dataset:
    kept = [
        name
        for name, values in stats.data_vars.items()
        if values.dtype.kind in "fiub" and values.dims in (("chain", "draw"), ("chain",))
    ]
    return stats[kept].copy()


def _row_labels(problem: _Problem) -> dict[str, Any]:
    parts = _parts(problem)
    tables = [piece.problem.observations for piece in parts]
    sizes = [len(table) for table in tables]
    labels: dict[str, Any] = {"observation": np.arange(sum(sizes))}
    if not isinstance(problem, Calibration):
        labels["part"] = ("observation", np.repeat([piece.name for piece in parts], sizes))
    labels["output"] = ("observation", np.concatenate([table.output.astype(np.str_) for table in tables]))
    columns = [{**table.coords, **table.conditions} for table in tables]
    for table, column in zip(tables, columns, strict=True):
        if table.replicate is not None:
            column["replicate"] = table.replicate  # type: ignore[assignment]
    for name in dict.fromkeys(key for column in columns for key in column):  # NaN where a part has no such column
        missing = (np.full(size, np.nan) for size in sizes)
        found = [column.get(name, nothing) for column, nothing in zip(columns, missing, strict=True)]
        labels[name] = ("observation", np.concatenate(found))
    return labels


def _prior_predictive(
    problem: _Problem, theta: Mapping[str, Array], rng: np.random.Generator, labels: Mapping[str, Any]
) -> xr.Dataset:
    count = min(500, PRIOR_DRAWS)
    values = problem.simulate({name: values[:count] for name, values in theta.items()}, rng)
    return xr.Dataset({"value": (("chain", "draw", "observation"), values[None])}).assign_coords(chain=[0], **labels)


def _posterior_predictive(
    problem: _Problem,
    theta: Mapping[str, Array],
    latents: Array,
    h: Ints,
    shape: tuple[int, int],
    rng: np.random.Generator,
    labels: Mapping[str, Any],
) -> xr.Dataset:
    chains, draws = shape
    per_chain = np.unique(np.linspace(0, draws - 1, min(draws, PREDICTIVE_DRAWS // chains)).astype(int))
    picked = (np.arange(chains)[:, None] * draws + per_chain).ravel()
    part = {name: values[picked] for name, values in theta.items()}
    drawn = [_new_rows(piece, rng) for piece in problem.pieces(part, latents[picked], h[picked])]
    out = np.concatenate(drawn, axis=1)
    data = xr.Dataset({"value": (("chain", "draw", "observation"), out.reshape(chains, len(per_chain), -1))})
    return data.assign_coords(chain=np.arange(chains), draw=per_chain, **labels)


def _new_rows(piece: Piece, rng: np.random.Generator) -> Array:
    """Return new measurements (S, R) of the rows of a part, given the data."""
    problem, cells = piece.problem, piece.problem.cells
    phi = problem.noise.phi(piece.theta, (len(piece.h),))
    y = np.empty((len(piece.h), len(cells.offset)))
    for rows, moments in conditional_moments(problem, piece.theta, piece.h, own_cells(cells), piece.latents):
        y[rows] = draw_jointly(moments, rng)
    y += correlated_noise(problem, phi, rng)
    return draw_rows(cells, problem.noise, y, phi, rng)


def _provenance(problem: _Problem, sampler: Sampler, seed: int, verdict: Verdict) -> dict[str, Any]:
    packages = ("uqms", "pymc", "nutpie", "arviz-stats", "numpy", "numba")
    parts = _parts(problem)
    boxes = {piece.name: piece.problem.surrogate.domain.to_dict() for piece in parts}
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # uqms used from a source folder that was not installed
            versions[name] = "not installed"
    return {
        "seed": seed,
        "sampler": json.dumps({type(sampler).__name__: _settings(sampler)}),
        "space": problem.space.to_json(),
        "box": json.dumps(boxes[""] if "" in boxes else boxes),
        "data_sha256": hashlib.sha256(b"".join(piece.problem.cells.z.tobytes() for piece in parts)).hexdigest(),
        "mass_cut": problem.mass_cut,
        "fixed": json.dumps(problem.fixed),
        "constraints": json.dumps([one.text for one in problem.constraints]),
        "failures": "" if getattr(problem, "success", None) is None else problem.failures,
        "prior_allowed": problem.conditioned_prior.allowed.share,
        "prior_allowed_mcse": problem.conditioned_prior.allowed.mcse,
        "verdict": verdict.status,
        "verdict_text": str(verdict),
        "versions": json.dumps(versions),
        "python": platform.python_version(),
    }


def _settings(sampler: object) -> dict[str, Any]:
    """Return a sampler's settings, numbers and text as they are and anything else as Python shows it."""
    if not is_dataclass(sampler):
        return {"repr": repr(sampler)}
    plain = (bool, int, float, str, type(None))
    values = {field.name: getattr(sampler, field.name) for field in fields(sampler)}
    values = {key: value.item() if isinstance(value, np.generic) else value for key, value in values.items()}
    return {key: value if isinstance(value, plain) else repr(value) for key, value in values.items()}
