"""Groups of a posterior's DataTree, and what else is computed from a sampler's draws."""

import hashlib
import importlib.metadata
import json
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from uqms._typing import Array, Ints
from uqms.calibration.answer import log_priors
from uqms.calibration.base import Piece, Problem
from uqms.calibration.checks import Check
from uqms.calibration.computation import APPROXIMATION, sampler_checks
from uqms.calibration.context import evenly
from uqms.calibration.data_model import DataModel
from uqms.calibration.dense_gaussian import LOG_TWO_PI
from uqms.calibration.density import correlated_noise, draw_rows, row_terms
from uqms.calibration.predict import conditional_moments, own_cells
from uqms.calibration.progress import progress
from uqms.calibration.samplers import Sampler
from uqms.calibration.verdict import Sampled, Verdict
from uqms.errors import PACKAGE, ConformanceError, InputError, NumericalWarning
from uqms.parameters.functions import NumPyFunctions

if TYPE_CHECKING:
    from uqms.calibration.posterior import Posterior
    from uqms.calibration.single import SingleCalibration

__all__ = [
    "check_derived",
    "check_trace",
    "constant_data",
    "convergence",
    "each_chain",
    "latents_of",
    "leave_one_out",
    "leave_one_out_of_all",
    "log_prior",
    "measured",
    "monte_carlo_errors",
    "new_measurements",
    "new_rows",
    "numeric_stats",
    "prior_predictive",
    "provenance",
    "row_labels",
    "sampled",
    "true_conditions",
    "with_derived",
]

PREDICTIVE_DRAWS = 1000
PRIOR_DRAWS = 2000
MOST_LOST = 0.05  # of the draws, above which it is told
LEAST_PRECISION = 2.0**-53  # of a cell mean, in units of that of its noise: less is rounding
LABELS = ("part", "subject", "output", "replicate")  # columns that are no coordinate or condition


def true_conditions(problem: Problem, draws: xr.Dataset) -> dict[str, xr.Dataset]:
    """Return the group of the true conditions, dims (chain, draw, experiment); none when all are known."""
    variables: dict[str, Any] = {}
    for part, own in problem.named_parts.items():
        before = f"{part}_" if part else ""
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


def latents_of(problem: Problem, trace: Any) -> Array:
    """Return the trace's draws of the latents (S, latents)."""
    if not problem.latents:
        values = trace["posterior"].dataset[next(iter(problem.priors))]
        return np.zeros((values.size, 0))
    found = trace["posterior"].dataset["latents"].values
    return np.ascontiguousarray(found.reshape(-1, found.shape[-1]))


def check_trace(problem: Problem, sampler: Sampler, trace: Any) -> None:
    """Check that a trace is what `Sampler` says.

    Raises
    ------
    ConformanceError
        When it is not.
    """
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
            raise ConformanceError(
                f"{name}.run returned {bad} draws of {key!r} that are not finite. Sample again with another seed "
                "(rng=): a chain broke off."
            )
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


def sampled(
    problem: Problem,
    sampler: Sampler,
    posterior: xr.Dataset,
    theta: Mapping[str, Array],
    latents: Array,
    stats: xr.Dataset,
    starts: Mapping[str, Array],
    predicted: Array,
    notes: tuple[Check, ...] = (),
) -> Sampled:
    """Collect what the verdict looks at; `notes` are checks that are known already."""
    shape = (posterior.sizes["chain"], posterior.sizes["draw"])
    names = list(problem.priors)
    r_hat, bulk, tail = convergence(posterior[names])
    errors = monte_carlo_errors(posterior[names], 0.95)
    of_sampler = (*notes, *sampler_checks(stats))
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
        predicted=predicted,
        derived={str(name): posterior[name].values.ravel() for name in posterior if name not in problem.priors},
        of_sampler=of_sampler,
        approximate=any(check.name == APPROXIMATION for check in of_sampler),
    )


def convergence(draws: xr.Dataset) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Return R-hat, bulk and tail effective sample sizes by name."""
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


def monte_carlo_errors(draws: xr.Dataset, prob: float) -> dict[str, tuple[float, ...]]:
    """Return the Monte Carlo standard errors of mean and limits of every quantity, in its own unit."""
    import arviz_stats

    tail = 0.5 * (1.0 - prob)
    found = [arviz_stats.mcse(draws, method="mean")]
    found += [arviz_stats.mcse(draws, method="quantile", prob=p) for p in (tail, 1.0 - tail)]
    return {str(name): tuple(float(one[name]) for one in found) for name in draws.data_vars}


def log_prior(problem: Problem, theta: Mapping[str, Array], shape: tuple[int, int]) -> xr.Dataset:
    """Return the log-density of each prior at draws."""
    found = log_priors(problem, theta)
    return xr.Dataset({name: (("chain", "draw"), values.reshape(shape)) for name, values in found.items()})


def measured(problem: Problem) -> Array:
    """Return the values of all parts, (R,)."""
    return np.concatenate([part.observations.value for part in problem.named_parts.values()])


def _of_all_rows(pieces: Sequence[Piece], found: Sequence[Array]) -> Array:
    """Return values (S, R) of all measurements from those of each piece."""
    out = np.empty((len(found[0]), sum(len(piece.rows) for piece in pieces)))
    for piece, values in zip(pieces, found, strict=True):
        out[:, piece.rows] = values
    return out


def leave_one_out_of_all(
    problem: Problem, theta: Mapping[str, Array], latents: Array, rng: np.random.Generator
) -> tuple[Array, Array, Ints]:
    """Return `leave_one_out` of all parts: the sum, all rows, and hyperparameter draws (S,) or (S, parts)."""
    pieces = problem.pieces(theta, latents)
    joint, pointwise, h = zip(*(leave_one_out(one.problem, one.theta, one.latents, rng) for one in pieces), strict=True)
    draws = h[0]
    if "" not in problem.named_parts:  # parts with one surrogate have one draw of its hyperparameters
        by_part = {name: own for one, own in zip(pieces, h, strict=True) for name in one.parts}
        draws = np.stack([by_part[name] for name in problem.named_parts], axis=1)
    return np.sum(joint, axis=0), _of_all_rows(pieces, pointwise), draws


def leave_one_out(
    problem: "SingleCalibration", theta: Mapping[str, Array], latents: Array, rng: np.random.Generator
) -> tuple[Array, Array, Ints]:
    """Return log p(z | theta) (S,), log p(z_i | other z, theta) (S, R), and a hyperparameter draw for each (S,).

    Leave-one-out terms of a Gaussian are in closed form: with w_i the precision of row i's noise and P the posterior
    variance of its cell, kappa_i = w_i - w_i² P is the precision of z_i given the rest. With latents, rows are
    independent given them: p(z_i | theta, latents). Rows that depend on each other share their joint density evenly.
    """
    count = len(next(iter(theta.values())))
    joints, draws, pointwise = np.empty(count), np.empty(count, dtype=np.int64), np.empty((count, len(problem.cells.z)))
    start = 0
    with progress(count, "log-likelihood") as bar:
        for values, terms in _value_terms(problem, theta, latents):
            rows = slice(start, start := start + values.shape[1])
            joints[rows] = np.logaddexp.reduce(values, axis=0)  # over (H, s)
            pointwise[rows] = _given_the_rest(values, joints[rows], terms)
            weights = np.exp(values - np.where(np.isfinite(joints[rows]), joints[rows], 0.0))
            draws[rows] = (rng.random(weights.shape[1]) > np.cumsum(weights, axis=0)[:-1]).sum(axis=0)
            bar.update(values.shape[1])
    return joints, pointwise, draws


def _given_the_rest(values: Array, joint: Array, terms: Array) -> Array:
    """Return log p(z_i | other z, theta) (s, R), averaged over the hyperparameter draws given the other rows."""
    # A hyperparameter draw under which the data are impossible (a mean of counts below 0) has no weight.
    possible = np.isfinite(values)[:, :, None]
    if len(values) == 1 and possible.all():
        return np.asarray(terms[0])
    rest = np.where(possible, values[:, :, None] - np.where(possible, terms, 0.0), -np.inf)
    with np.errstate(invalid="ignore"):
        found = joint[:, None] - np.logaddexp.reduce(rest, axis=0)
    return np.where(np.isfinite(joint)[:, None], found, -np.inf)  # a draw without a density: numbers cannot say more


def _value_terms(
    problem: "SingleCalibration", theta: Mapping[str, Array], latents: Array
) -> Iterator[tuple[Array, Array]]:
    """Yield log w_h + log p(z | theta, h) (H, s) and log p(z_i | other z, theta, h) (H, s, R), in own units."""
    if problem.data_model.closed_form:
        jacobian = problem.cells.jacobian
        for phi, values, alpha, precision in problem.log_likelihood_terms(theta):
            terms = np.stack([_row_terms(problem.data_model, phi, a, p) for a, p in zip(alpha, precision, strict=True)])
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


def _row_terms(model: DataModel, phi: Array, alpha: Array, precision: Array) -> Array:
    sigma = phi.copy()
    cells = model.cells
    c = cells.row_cell
    # The noise's sd matters for rows that share a cell only, and those whose noise grows do not.
    sigma[:, list(model.noise.growth)] = 1.0
    w = 1.0 / (sigma[:, cells.group][:, c] ** 2 * cells.row_variance)
    # A row that is alone in its cell has kappa = C^-1 and a = alpha. As a difference from w that would be rounding
    # where the surrogate's variance is 1e16 times the noise's.
    alone = np.bincount(c, minlength=len(cells.offset))[c] == 1
    lost = ~(precision[:, c] > LEAST_PRECISION * w)
    if lost.any(axis=1).mean() > MOST_LOST:
        names = ", ".join(repr(str(name)) for name in dict.fromkeys(cells.output[c[lost.any(axis=0)]]))
        warnings.warn(
            f"The variance of the surrogate's error of {names} is 1e13 times that of the noise, or more, at "
            f"{lost.any(axis=1).mean():.0%} of the draws: log-densities of left-out measurements there are rounding, "
            "and so are the weights of a leave-one-out comparison. Run more points where the posterior is, uq.refine, "
            "or fit the output without its transform.",
            NumericalWarning,
            skip_file_prefixes=PACKAGE,
        )
    part = np.where(alone, 1.0, 1.0 / (cells.row_variance * cells.weight[c]))
    within = np.where(alone, 0.0, cells.z - cells.cell_mean[c])
    kappa = w * (1.0 - part) + part**2 * np.where(lost, LEAST_PRECISION * w, precision[:, c])
    a = w * within + part * alpha[:, c]
    return np.asarray(-0.5 * LOG_TWO_PI + 0.5 * np.log(kappa) - 0.5 * a**2 / kappa)


def with_derived(problem: Problem, draws: xr.Dataset) -> xr.Dataset:
    """Return draws with units, descriptions, derived quantities and correlations."""
    out = draws.copy()
    for name, prior in problem.priors.items():
        out[name] = out[name].assign_attrs(unit=problem.unit_of(name), description=prior.description)
    inputs = {name: draws[name] for name in problem.priors}
    like = next(iter(inputs.values()))
    inputs |= {name: xr.full_like(like, value).drop_attrs() for name, value in problem.fixed.items()}
    for name, derived in problem.derived.items():
        values = _derive(name, derived.function, inputs)
        out[name] = values.assign_attrs(unit=derived.unit, description=derived.description)
    for name, correlation in problem.correlations({key: draws[key].values for key in problem.priors}).items():
        out[name] = (like.dims, correlation)
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
            f"number per draw, here of shape {like.shape}, computed with arithmetic or numpy functions from the "
            "mapping it is given."
        )
    return xr.DataArray(np.asarray(values, dtype=np.float64), dims=like.dims, coords=like.coords)


def check_derived(problem: Problem) -> None:
    """Compute the derived quantities of a few prior draws: a mistake shows before the sampler has run, not after.

    Raises
    ------
    InputError
        When a function fails, or does not return one number per draw.
    """
    draws = problem.prior_draws(6, 0)
    with_derived(problem, xr.Dataset({n: (("chain", "draw"), v.reshape(2, 3)) for n, v in draws.items()}))


def numeric_stats(stats: xr.Dataset) -> xr.Dataset:
    """Return statistics of draws or chains that are numbers."""
    kept = [
        name
        for name, values in stats.data_vars.items()
        if values.dtype.kind in "fiub" and values.dims in (("chain", "draw"), ("chain",))
    ]
    return stats[kept].copy()


def row_labels(problem: Problem) -> dict[str, Any]:
    """Return the coords of the dim "observation"."""
    parts = problem.named_parts
    tables = [part.observations for part in parts.values()]
    sizes = [len(table) for table in tables]
    labels: dict[str, Any] = {"observation": np.arange(sum(sizes))}
    if "" not in parts:
        labels["part"] = ("observation", np.repeat(list(parts), sizes))
    if problem.subject_labels:
        labels["subject"] = ("observation", np.concatenate([table.subject.astype(np.str_) for table in tables]))
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


def constant_data(labels: Mapping[str, Any]) -> xr.Dataset:
    """Return the numeric columns of `row_labels` as variables, which ArviZ uses as the x of a regression.

    Columns without NaN come first, since `arviz_plots.plot_lm` plots against the first variable. Names begin with "x_",
    because it gives the predictions the name of x, and "day" is a coordinate of theirs. Without a numeric column there
    is the number of the row.
    """
    columns = {name: np.asarray(column[1]) for name, column in labels.items() if isinstance(column, tuple)}
    numeric = [(name, one) for name, one in columns.items() if name not in LABELS and one.dtype.kind in "fiu"]
    kept = sorted(numeric, key=lambda column: bool(np.isnan(column[1]).any()))
    found = dict(kept or [("observation", labels["observation"])])
    return xr.Dataset({f"x_{name}": ("observation", one) for name, one in found.items()}, labels)


def prior_predictive(
    problem: Problem, theta: Mapping[str, Array], rng: np.random.Generator, labels: Mapping[str, Any]
) -> xr.Dataset:
    """Return simulated measurements at draws of the prior."""
    count = min(problem.prior_predictive_draws, PRIOR_DRAWS)
    values = problem.simulate({name: values[:count] for name, values in theta.items()}, rng)
    return xr.Dataset({"value": (("chain", "draw", "observation"), values[None])}).assign_coords(chain=[0], **labels)


def each_chain(shape: tuple[int, int], most: int) -> tuple[Ints, Ints]:
    """Return at most `most` draws of each chain, spread evenly: their places among all draws, and in a chain."""
    chains, draws = shape
    each = evenly(draws, most)
    return (np.arange(chains)[:, None] * draws + each).ravel(), each


def new_measurements(posterior: "Posterior", most: int, rng: np.random.Generator) -> tuple[Array, Ints]:
    """Return new measurements (chain, few draws, R) given the data, at `most` draws of each chain, and which draws."""
    problem, shape = posterior.problem, (posterior.draws.sizes["chain"], posterior.draws.sizes["draw"])
    picked, each = each_chain(shape, most)
    h = posterior.tree["sample_stats"]["hyperparameter_draw"].values
    h = h.reshape(shape[0] * shape[1], *h.shape[2:])
    part = {name: values[picked] for name, values in posterior.flat().items()}
    pieces = problem.pieces(part, posterior.latents[picked], h[picked])
    out = _of_all_rows(pieces, [new_rows(piece, rng) for piece in pieces])
    return out.reshape(shape[0], len(each), -1), each


def new_rows(piece: Piece, rng: np.random.Generator) -> Array:
    """Return new measurements (S, R) of the rows of a part, given the data."""
    problem, cells = piece.problem, piece.problem.cells
    phi = problem.noise.phi(piece.theta, (len(piece.h),))
    y = np.empty((len(piece.h), len(cells.offset)))
    with progress(len(y), "posterior predictive") as bar:
        for rows, moments in conditional_moments(problem, piece.theta, piece.h, own_cells(cells), piece.latents):
            y[rows] = moments.draw(rng)
            bar.update(len(moments.mean))
    return draw_rows(cells, problem.noise, y, phi, rng, correlated_noise(problem.data_model, phi, rng))


def provenance(problem: Problem, sampler: Sampler, seed: int, verdict: Verdict) -> dict[str, Any]:
    """Return what a reader needs to compute the posterior again."""
    packages = ("uqms", "pymc", "nutpie", "arviz-stats", "numpy", "numba")
    parts = problem.named_parts
    boxes = {name: part.surrogate.domain.to_dict() for name, part in parts.items()}
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
        "data_sha256": hashlib.sha256(b"".join(part.cells.z.tobytes() for part in parts.values())).hexdigest(),
        "mass_cut": problem.mass_cut,
        "fixed": json.dumps(problem.fixed),
        "constraints": json.dumps([one.text for one in problem.constraints]),
        "failures": "".join(part.failures for part in parts.values() if part.success is not None),
        "prior_allowed": problem.conditioned_prior.allowed.share,
        "prior_allowed_mcse": problem.conditioned_prior.allowed.mcse,
        "verdict": verdict.status,
        "verdict_text": str(verdict),
        "versions": json.dumps(versions),
        "python": platform.python_version(),
        **problem.described,
    }


def _settings(sampler: object) -> dict[str, Any]:
    """Return a sampler's settings, numbers and text as they are and anything else as Python shows it."""
    if not is_dataclass(sampler):
        return {"repr": repr(sampler)}
    plain = (bool, int, float, str, type(None))
    values = {field.name: getattr(sampler, field.name) for field in fields(sampler)}
    values = {key: value.item() if isinstance(value, np.generic) else value for key, value in values.items()}
    return {key: value if isinstance(value, plain) else repr(value) for key, value in values.items()}
