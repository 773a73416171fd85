"""The posterior: draws in the parameters' own units, tables, predictions and the verdict, around an ArviZ DataTree."""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd
import xarray as xr

from uqms._typing import Array, Ints, RandomState, as_generator
from uqms.calibration.predict import (
    PosteriorPrediction,
    conditional_moments,
    draw_jointly,
    make_grid,
    own_cells,
)
from uqms.calibration.problem import Calibration
from uqms.calibration.samplers import NUTS
from uqms.calibration.verdict import Verdict, judge
from uqms.errors import InputError

__all__ = ["Posterior", "build_posterior", "check_derived"]

PREDICTIVE_DRAWS = 1000
PRIOR_DRAWS = 2000
LOG_TWO_PI = float(np.log(2.0 * np.pi))


class SummaryTable(pd.DataFrame):
    """A pandas DataFrame that prints all its columns."""

    def __repr__(self) -> str:
        return self.to_string(float_format=lambda value: f"{value:.4g}")


@final
@dataclass(frozen=True, eq=False)
class Posterior:
    """What calibration returns.

    Attributes
    ----------
    tree
        ArviZ DataTree with the groups posterior, sample_stats, log_likelihood, observed_data, prior,
        prior_predictive and posterior_predictive.
    problem
        The calibration that it answers.
    verdict
        Whether it should be believed; print it.
    surrogate_share
        By parameter: which share of its variance is due to the surrogate's error.
    """

    tree: Any
    problem: Calibration
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

    def summary(self, prob: float = 0.95) -> "SummaryTable":
        """Return a table of mean, sd, equal-tailed interval, R-hat and effective sample sizes.

        Raises
        ------
        InputError
            When `prob` is not between 0 and 1.
        """
        if not 0.0 < prob < 1.0:
            raise InputError(f"summary: prob is {prob!r}; give a probability between 0 and 1.")
        tail = 0.5 * (1.0 - prob)
        r_hat, bulk, tails = _convergence(self.draws)
        rows = {}
        for name, values in self.draws.data_vars.items():
            flat = values.values.ravel()
            low, high = np.quantile(flat, [tail, 1.0 - tail])
            rows[str(name)] = {
                "mean": float(flat.mean()),
                "sd": float(flat.std(ddof=1)),
                f"{100 * tail:g}%": float(low),
                f"{100 * (1 - tail):g}%": float(high),
                "r_hat": r_hat[str(name)],
                "ess_bulk": bulk[str(name)],
                "ess_tail": tails[str(name)],
                "unit": values.attrs.get("unit", ""),
            }
        return SummaryTable(pd.DataFrame.from_dict(rows, orient="index"))

    def predict(
        self,
        *,
        conditions: Mapping[str, object] | None = None,
        coords: Mapping[str, object] | None = None,
        outputs: str | Sequence[str] | None = None,
        noise: bool = False,
        draws: int = PREDICTIVE_DRAWS,
        rng: RandomState = 0,
    ) -> PosteriorPrediction:
        """Predict outputs given the data, at the observed or other conditions and coordinates.

        The surrogate's error is taken given the data: what the observations say about it at one input carries over to
        others as far as they are correlated.

        Parameters
        ----------
        conditions
            Known inputs, numbers or arrays of one length; the observed ones when left out.
        coords
            By dim, one-dimensional; all simulated coordinates when left out.
        outputs
            Which, by name; by default the observed ones whose dims are those of `coords`.
        noise
            Whether to add measurement noise, for what a new measurement would show.
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
            Unknown outputs, conditions or dims; noise of an output whose noise is not known.
        ExtrapolationError
            Conditions or coordinates outside of what was simulated.
        """
        names = self._outputs(outputs, coords)
        theta, h = self._thinned(draws)
        generator = as_generator(rng)
        means, sds, samples = {}, {}, {}
        for name in names:
            grid, layout = make_grid(self.problem, name, conditions, coords), self.problem.surrogate.layouts[name]
            noise_variance = self._noise_variance(name, theta, len(h)) if noise else np.zeros(len(h))
            size = len(grid.targets.offset)
            mean, variance, sample = (np.empty((len(h), size)) for _ in range(3))
            for rows, moments in conditional_moments(self.problem, theta, h, grid.targets):
                within = np.maximum(np.diagonal(moments.covariance, axis1=1, axis2=2), 0.0)
                mean[rows], variance[rows] = layout.transform.moments(moments.mean, within)
                sample[rows] = layout.transform.inverse(draw_jointly(moments, generator))
            variance += noise_variance[:, None]
            sample += np.sqrt(noise_variance)[:, None] * generator.standard_normal(sample.shape)
            unit = layout.unit
            means[name] = grid.labelled(mean.mean(axis=0), (), unit)
            sds[name] = grid.labelled(np.sqrt(variance.mean(axis=0) + mean.var(axis=0)), (), unit)
            samples[name] = grid.labelled(sample, ("sample",), unit)
        holds = ("parameters", "surrogate", *(("noise",) if noise else ()))
        return PosteriorPrediction(xr.Dataset(means), xr.Dataset(sds), xr.Dataset(samples), holds)

    def to_netcdf(self, path: str | Path) -> None:
        """Write the DataTree to a netCDF file."""
        self.tree.to_netcdf(path, engine="h5netcdf")

    def _outputs(self, outputs: str | Sequence[str] | None, coords: Mapping[str, object] | None) -> tuple[str, ...]:
        layouts = self.problem.surrogate.layouts
        outputs = (outputs,) if isinstance(outputs, str) else outputs
        if outputs is not None:
            unknown = [name for name in outputs if name not in layouts]
            if unknown:
                raise InputError(f"predict: unknown outputs {unknown}; the surrogate has {list(layouts)}.")
            wrong = [name for name in outputs if coords is not None and set(layouts[name].dims) != set(coords)]
        else:
            outputs = [
                name for name in self.problem.noise.outputs if coords is None or set(layouts[name].dims) == set(coords)
            ]
            wrong = [] if outputs else list(self.problem.noise.outputs)
        if wrong:
            dims = {name: list(layouts[name].dims) for name in wrong}
            raise InputError(f"predict: coords are given for {sorted(coords or {})}, but the outputs have dims {dims}.")
        return tuple(outputs)

    def _thinned(self, draws: int) -> tuple[dict[str, Array], Ints]:
        if isinstance(draws, bool) or not isinstance(draws, int | np.integer) or draws < 1:
            raise InputError(f"predict: draws is {draws!r}; give a whole number of at least 1.")
        theta = {name: self.draws[name].values.ravel() for name in self.problem.priors}
        h = self.tree["sample_stats"]["hyperparameter_draw"].values.ravel()
        picked = np.unique(np.linspace(0, len(h) - 1, min(draws, len(h))).astype(int))
        return {name: values[picked] for name, values in theta.items()}, h[picked]

    def _noise_variance(self, output: str, theta: Mapping[str, Array], count: int) -> Array:
        groups = self.problem.noise
        if output not in groups.outputs:
            raise InputError(
                f"predict: output {output!r} was not observed, so its noise is not known; say noise=False."
            )
        group = groups.outputs.index(output)
        cells = self.problem.cells
        relative = cells.row_variance[cells.group[cells.row_cell] == group]
        if not np.allclose(relative, relative[0], atol=0.0):
            raise InputError(
                f"predict: the noise of {output!r} was given row by row, so that of a new measurement is not known; "
                "say noise=False and add it yourself."
            )
        return np.asarray(groups.values(theta, (count,))[:, group] ** 2 * relative[0])


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


def build_posterior(problem: Calibration, sampler: NUTS, trace: Any, seed: int) -> Posterior:
    """Return the posterior of a sampler's trace, with every group of its DataTree and the verdict."""
    raw = trace["posterior"].dataset[list(problem.priors)]
    shape = (raw.sizes["chain"], raw.sizes["draw"])
    theta = {name: np.ascontiguousarray(raw[name].values.reshape(-1)) for name in problem.priors}
    rng = np.random.default_rng(seed)
    joint, pointwise, h = _leave_one_out(problem, theta, rng)
    posterior = _with_derived(problem, raw.drop_attrs())
    stats = _numeric_stats(trace["sample_stats"].dataset)
    dims = ("chain", "draw")
    stats["joint_log_likelihood"] = (dims, joint.reshape(shape))
    stats["hyperparameter_draw"] = (dims, h.reshape(shape))
    labels = _row_labels(problem)
    likelihood = xr.DataArray(pointwise.reshape(*shape, -1), dims=(*dims, "observation"), coords=labels)
    prior_theta = problem.prior_draws(PRIOR_DRAWS, rng)
    prior = xr.Dataset({name: (dims, values[None]) for name, values in prior_theta.items()}).assign_coords(chain=[0])
    tree = xr.DataTree.from_dict(
        {
            "posterior": posterior.assign_coords(chain=raw.chain, draw=raw.draw),
            "sample_stats": stats,
            "log_likelihood": xr.Dataset({"value": likelihood}).assign_coords(chain=raw.chain, draw=raw.draw),
            "observed_data": xr.Dataset({"value": xr.DataArray(problem.cells.z, dims="observation", coords=labels)}),
            "prior": _with_derived(problem, prior),
            "prior_predictive": _prior_predictive(problem, prior_theta, rng, labels),
            "posterior_predictive": _posterior_predictive(problem, theta, h, shape, rng, labels),
        }
    )
    for group in tree.children.values():
        group.attrs |= {"inference_library": "uqms", "interval": "95 % equal-tailed"}
    r_hat, bulk, tail = _convergence(posterior)
    ess = {name: min(bulk[name], tail[name]) for name in problem.priors}
    divergences = int(stats["diverging"].sum()) if "diverging" in stats else 0
    verdict, share = judge(
        problem,
        theta,
        h,
        {name: r_hat[name] for name in problem.priors},
        ess,
        divergences,
        shape,
        (sampler.chains, sampler.draws) if sampler.ess is None else shape,  # further blocks were checked one by one
    )
    tree.attrs |= _provenance(problem, sampler, seed, verdict)
    return Posterior(tree, problem, verdict, share)


def _leave_one_out(
    problem: Calibration, theta: Mapping[str, Array], rng: np.random.Generator
) -> tuple[Array, Array, Ints]:
    """Return log p(z | theta) (S,), log p(z_i | other z, theta) (S, R), and a hyperparameter draw for each (S,).

    Leave-one-out terms of a Gaussian are in closed form: with w_i the precision of row i's noise and P the posterior
    variance of its cell, kappa_i = w_i - w_i² P is the precision of z_i given the rest.
    """
    parts: list[tuple[Array, Array, Ints]] = []
    for sigma, values, alpha, precision in problem.log_likelihood_terms(theta):
        joint = np.logaddexp.reduce(values, axis=0)  # over (H, s)
        terms = np.stack([_row_terms(problem, sigma, a, p) for a, p in zip(alpha, precision, strict=True)])
        without = np.logaddexp.reduce(values[:, :, None] - terms, axis=0)
        weights = np.exp(values - joint)
        chosen = (rng.random(weights.shape[1]) > np.cumsum(weights, axis=0)[:-1]).sum(axis=0)
        parts.append((joint, joint[:, None] - without, chosen))
    joints, pointwise, draws = zip(*parts, strict=True)
    return np.concatenate(joints), np.concatenate(pointwise), np.concatenate(draws)


def _row_terms(problem: Calibration, sigma: Array, alpha: Array, precision: Array) -> Array:
    cells = problem.cells
    c = cells.row_cell
    cell_noise = sigma[:, cells.group] ** 2 / cells.weight
    cell_variance = cell_noise - cell_noise**2 * precision
    w = 1.0 / (sigma[:, cells.group][:, c] ** 2 * cells.row_variance)
    kappa = w - w**2 * cell_variance[:, c]
    a = w * (cells.z - cells.cell_mean[c] + (cell_noise * alpha)[:, c])
    return np.asarray(-0.5 * LOG_TWO_PI + 0.5 * np.log(kappa) - 0.5 * a**2 / kappa)


def _with_derived(problem: Calibration, draws: xr.Dataset) -> xr.Dataset:
    out = draws.copy()
    for name, prior in problem.priors.items():
        unit = prior.unit
        if name in problem.noise.unknown:
            output = problem.noise.outputs[problem.noise.names.index(name)]
            unit = unit or problem.surrogate.layouts[output].unit
        out[name] = out[name].assign_attrs(unit=unit, description=prior.description)
    inputs = {name: draws[name] for name in problem.priors}
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


def check_derived(problem: Calibration) -> None:
    """Compute the derived quantities of a few prior draws: a mistake shows before the sampler has run, not after.

    Raises
    ------
    InputError
        When a function fails, or does not return one number a draw.
    """
    draws = problem.prior_draws(6, 0)
    _with_derived(problem, xr.Dataset({n: (("chain", "draw"), v.reshape(2, 3)) for n, v in draws.items()}))


def _numeric_stats(stats: xr.Dataset) -> xr.Dataset:
    kept = [name for name, values in stats.data_vars.items() if values.dtype.kind in "fiub" and values.ndim == 2]
    return stats[kept].copy()


def _row_labels(problem: Calibration) -> dict[str, Any]:
    observations = problem.observations
    labels: dict[str, Any] = {"observation": np.arange(len(observations))}
    labels["output"] = ("observation", observations.output.astype(np.str_))
    for name, column in {**observations.coords, **observations.conditions}.items():
        labels[name] = ("observation", column)
    if observations.replicate is not None:
        labels["replicate"] = ("observation", observations.replicate)
    return labels


def _prior_predictive(
    problem: Calibration, theta: Mapping[str, Array], rng: np.random.Generator, labels: Mapping[str, Any]
) -> xr.Dataset:
    from uqms.calibration.bridge import replicate

    count = min(500, PRIOR_DRAWS)
    part = {name: values[:count] for name, values in theta.items()}
    values = replicate(
        problem.surrogate, problem.cells, problem.unit_inputs(part), problem.noise.values(part, (count,)), rng
    )
    return xr.Dataset({"value": (("chain", "draw", "observation"), values[None])}).assign_coords(chain=[0], **labels)


def _posterior_predictive(
    problem: Calibration,
    theta: Mapping[str, Array],
    h: Ints,
    shape: tuple[int, int],
    rng: np.random.Generator,
    labels: Mapping[str, Any],
) -> xr.Dataset:
    chains, draws = shape
    per_chain = np.unique(np.linspace(0, draws - 1, min(draws, PREDICTIVE_DRAWS // chains)).astype(int))
    picked = (np.arange(chains)[:, None] * draws + per_chain).ravel()
    part = {name: values[picked] for name, values in theta.items()}
    cells = problem.cells
    out = np.empty((len(picked), len(cells.z)))
    for rows, moments in conditional_moments(problem, part, h[picked], own_cells(cells)):
        out[rows] = draw_jointly(moments, rng)[:, cells.row_cell]
    sigma = problem.noise.values(part, (len(picked),))[:, cells.group][:, cells.row_cell]
    out += sigma * np.sqrt(cells.row_variance) * rng.standard_normal(out.shape)
    data = xr.Dataset({"value": (("chain", "draw", "observation"), out.reshape(chains, len(per_chain), -1))})
    return data.assign_coords(chain=np.arange(chains), draw=per_chain, **labels)


def _provenance(problem: Calibration, sampler: NUTS, seed: int, verdict: Verdict) -> dict[str, Any]:
    packages = ("uqms", "pymc", "nutpie", "arviz-stats", "numpy", "numba")
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # uqms used from a source folder that was not installed
            versions[name] = "not installed"
    return {
        "seed": seed,
        "sampler": json.dumps({type(sampler).__name__: asdict(sampler)}),
        "space": problem.space.to_json(),
        "box": json.dumps(problem.surrogate.domain.to_dict()),
        "data_sha256": hashlib.sha256(problem.cells.z.tobytes()).hexdigest(),
        "mass_cut": problem.mass_cut,
        "verdict": verdict.status,
        "verdict_text": str(verdict),
        "versions": json.dumps(versions),
        "python": platform.python_version(),
    }
