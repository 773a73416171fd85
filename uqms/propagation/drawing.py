"""Draws of outputs, and of functions of them: through a surrogate, or after a calibration.

Arrays have the axes (F, S, D, N, C, m): functions of the surrogate, draws of the inputs, draws of the discrepancy and
of the noise for each, known conditions, coordinates. Axes that nothing is drawn along have length 1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
import xarray as xr

from uqms._typing import Array, Ints
from uqms.calibration.direct import is_exact, number_of_functions
from uqms.calibration.likelihood import stacked
from uqms.calibration.noise import (
    GaussianNoise,
    NoiseModel,
    Rows,
)
from uqms.calibration.posterior import Posterior, thinned
from uqms.calibration.predict import (
    AnyMoments,
    Grid,
    NewNoise,
    Realised,
    Targets,
    conditional_moments,
    make_grid,
    new_noise,
)
from uqms.calibration.single import SingleCalibration
from uqms.calibration.verdict import has_no_error
from uqms.errors import DataError, InputError
from uqms.parameters import Prior
from uqms.propagation.inputs import Points, read_points
from uqms.propagation.joint_draws import joint_draws, outputs_at
from uqms.propagation.variance_parts import Sampling
from uqms.surrogates import Surrogate

__all__ = ["LEAD", "Drawn", "derived", "drawn_from_posterior", "drawn_from_surrogate", "flat_table", "read_noise"]

LEAD = ("function", "sample", "discrepancy", "noise")
MOST = 10**8  # numbers of all outputs together
WITHIN = 2  # draws of discrepancy and noise for each draw of what is outside of them: the fewest that tell a variance
JITTERS = (1e-10, 1e-8, 1e-6)

type Function = Callable[[xr.Dataset], Any]


class Drawn(NamedTuple):
    """Draws of outputs and the inputs that they belong to.

    Attributes
    ----------
    outputs
        With the dims of `LEAD`, "condition" when there are several, and the coordinates.
    inputs
        Draws of parameters, and for a posterior of everything inferred, dim "sample".
    holds
        Which uncertainties are in the draws.
    nested
        Whether functions belong to one draw of the inputs each, as after a calibration.
    outside
        Fraction of prior or draws outside of the design box.
    sampling
        How the draws of the inputs go together.
    known
        After a calibration: outputs with one function of the surrogate in the simulator's place; None where the
        surrogate has no error.
    """

    outputs: xr.Dataset
    inputs: xr.Dataset
    holds: tuple[str, ...]
    nested: bool
    outside: float
    sampling: Sampling
    known: xr.Dataset | None = None


def _coordinates(layout: Any, coords: Mapping[str, object] | None) -> dict[str, Array]:
    """Return the coordinates of each of an output's dims: those given, else those simulated."""
    given = coords or {}
    return {dim: np.atleast_1d(np.asarray(given.get(dim, layout.coords[dim]), dtype=np.float64)) for dim in layout.dims}


def _check_coords(surrogate: Surrogate, names: Sequence[str], coords: Mapping[str, object] | None) -> None:
    dims = {dim for name in names for dim in surrogate.layouts[name].dims}
    unknown = sorted(set(coords or {}) - dims)
    if unknown:
        raise InputError(f"propagate: coords has {unknown}; the outputs {list(names)} have the dims {sorted(dims)}.")


def _check_size(numbers: int) -> None:
    if numbers > MOST:
        raise InputError(
            f"propagate: the draws would hold {numbers:.1e} numbers, more than {MOST:.0e}. Take fewer draws= or "
            "functions=, or fewer coords={...} and conditions."
        )


def drawn_from_surrogate(
    surrogate: Surrogate,
    names: Sequence[str],
    inputs: object,
    conditions: Mapping[str, object] | None,
    coords: Mapping[str, object] | None,
    noise: Mapping[str, object],
    draws: int | None,
    functions: int,
    outside: str,
    rng: np.random.Generator,
) -> Drawn:
    """Return draws of the named outputs: each function of the surrogate at all draws of the inputs."""
    _check_coords(surrogate, names, coords)
    points = read_points(surrogate, inputs, conditions, draws, outside, rng)
    s, c, d = points.u.shape
    f = number_of_functions(surrogate, functions)
    axes = {name: _coordinates(surrogate.layouts[name], coords) for name in names}
    sizes = {name: int(np.prod([len(one) for one in each.values()], dtype=np.int64)) for name, each in axes.items()}
    _check_size(f * s * c * (WITHIN if noise else 1) * sum(sizes.values()))
    u = points.u.reshape(s * c, d)
    where = {name: _pointwise(each) for name, each in axes.items()}
    values = outputs_at(surrogate, joint_draws(surrogate, f, u, rng), u, where, rng)
    parameters = _noise_parameters(noise, s, rng)
    found = {}
    for name in names:
        y = values[name].reshape(f, s, 1, 1, c, sizes[name])
        if noise:
            y = np.repeat(y, WITHIN, axis=3)
            if name in noise:
                y = _measured(name, noise[name], y, parameters[name], rng)
        found[name] = _labelled(y, axes[name], points, surrogate.layouts[name].unit)
    holds = ("parameters", *(() if is_exact(surrogate) else ("surrogate",)), *(("noise",) if noise else ()))
    table = _inputs_table({name: (column, "") for name, column in points.values.items()})
    return Drawn(xr.Dataset(found), table, holds, False, points.outside, points.sampling)


def _pointwise(axes: Mapping[str, Array]) -> dict[str, Array] | None:
    if not axes:
        return None
    mesh = np.meshgrid(*axes.values(), indexing="ij")
    return {dim: grid.ravel() for dim, grid in zip(axes, mesh, strict=True)}


def _inputs_table(columns: Mapping[str, tuple[Array, str]]) -> xr.Dataset:
    return xr.Dataset({name: ("sample", values, {"unit": unit}) for name, (values, unit) in columns.items()})


def _labelled(y: Array, axes: Mapping[str, Array], points: Points, unit: str) -> xr.DataArray:
    shaped = y.reshape(*y.shape[:5], *(len(one) for one in axes.values()))
    labels = {name: ("condition", column) for name, column in points.conditions.items()}
    out = xr.DataArray(shaped, dims=(*LEAD, "condition", *axes), coords={**axes, **labels}, attrs={"unit": unit})
    return out.isel(condition=0) if points.scalar else out


# --------------------------------------------------------------------------------------------------------------- noise
def read_noise(noise: object, names: Sequence[str]) -> dict[str, object]:
    """Return the noise of each output that has some: a number (sd) or a model.

    Raises
    ------
    InputError
        When it is for unknown outputs, or is something else.
    """
    if noise is None or noise is False:
        return {}
    if noise is True:
        raise InputError(
            "propagate: a surrogate does not know how its outputs are measured; give noise={output: sd}. Of a "
            "posterior noise=True is what was inferred."
        )
    given = noise if isinstance(noise, Mapping) else dict.fromkeys(names, noise)
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise InputError(f"propagate: noise is given for {unknown}; the outputs are {list(names)}.")
    for name, one in given.items():
        number = isinstance(one, int | float | np.integer | np.floating) and not isinstance(one, bool)
        if number and 0.0 < float(cast(float, one)) < np.inf:
            continue
        if number or not isinstance(one, NoiseModel) or one.columns or one.process is not None:
            raise InputError(
                f"propagate: the noise of {name!r} is {one!r}; give a positive standard deviation in its unit, or a "
                "noise model whose measurements are independent, such as uq.GaussianNoise(sd=...)."
            )
    return dict(given)


def _noise_parameters(noise: Mapping[str, object], s: int, rng: np.random.Generator) -> dict[str, dict[str, Array]]:
    """Return the parameters (S, 1, 1) of each output's noise; one drawn from its prior for each draw of the inputs."""
    out: dict[str, dict[str, Array]] = {}
    for name, one in noise.items():
        model = one if isinstance(one, NoiseModel) else GaussianNoise(sd=float(one))  # type: ignore[arg-type]
        out[name] = {
            role: (value.draw(rng, s) if isinstance(value, Prior) else np.full(s, float(value)))
            for role, value in model.parameters.items()
        }
    return out


def _measured(name: str, one: object, y: Array, parameters: Mapping[str, Array], rng: np.random.Generator) -> Array:
    model = one if isinstance(one, NoiseModel) else GaussianNoise(sd=float(one))  # type: ignore[arg-type]
    rows = Rows(np.zeros(y.shape[-1]), np.ones(y.shape[-1]), np.zeros(y.shape[-1]))
    shaped = {role: value[:, None, None, None, None] for role, value in parameters.items()}
    with np.errstate(invalid="ignore", divide="ignore"):
        if model.link == "log":
            drawn = np.asarray(np.exp(model.draw(np.log(y), rows, shaped, rng)))
        else:
            drawn = np.asarray(model.draw(y, rows, shaped, rng))
    impossible = float(np.mean(~np.isfinite(drawn) & np.isfinite(y)))
    if impossible:
        raise InputError(
            f"propagate: {impossible:.2%} of the draws of {name!r}, the lowest {float(np.nanmin(y)):.4g}, are means "
            f"that a measurement with {type(model).__name__} cannot have. Fit the logarithm or logit, "
            "uq.Scalar(transform=uq.Log()), or give another noise."
        )
    return drawn


# ---------------------------------------------------------------------------------------------------- after calibration
def drawn_from_posterior(
    posterior: Posterior,
    names: Sequence[str],
    conditions: Mapping[str, object] | None,
    coords: Mapping[str, object] | None,
    noise: bool,
    discrepancy: bool,
    realisation: Realised,
    draws: int,
    functions: int,
    rng: np.random.Generator,
) -> Drawn:
    """Return draws of the named outputs given the data, all outputs, conditions and coordinates jointly."""
    problem = posterior.single
    _check_coords(problem.surrogate, names, coords)
    theta, _, latents = thinned(posterior, draws)
    layouts = problem.surrogate.layouts
    axes = {name: _coordinates(layouts[name], coords) for name in names}
    grids = [make_grid(problem.data_model, name, conditions, axes[name] or None) for name in names]
    targets, cuts = _together(grids)
    modelled = discrepancy and problem.noise.modelled
    f = functions if modelled else number_of_functions(problem.surrogate, functions)
    s, p, d, n = len(latents), len(targets.offset), WITHIN if modelled else 1, WITHIN if noise else 1
    _check_size(f * s * d * n * p)
    h = _hyperparameters(problem, theta, latents, f, rng)
    many = {name: np.tile(values, f) for name, values in theta.items()}
    y = np.empty((f * s, d, p))
    wanted = _twice(targets) if modelled else targets
    mask: Any = np.arange(2 * p) >= p if modelled else False
    for rows, moments in conditional_moments(
        problem, many, h.ravel(), wanted, np.tile(latents, (f, 1)), mask, realisation
    ):
        y[rows] = _drawn(moments, d, p, modelled, rng)
    y = y.reshape(f, s, d, 1, p)
    found, known, exact = {}, {}, has_no_error(problem)
    single = np.empty((0, p)) if exact else _of_one_function(problem, theta, latents, targets, modelled, realisation)
    for grid, cut in zip(grids, cuts, strict=True):
        layout, part = layouts[grid.output], np.repeat(y[..., cut], n, axis=3)
        if noise:
            of = _noise_of(problem, grid)
            flat = part.transpose(0, 2, 3, 1, 4).reshape(f * d * n * s, -1)
            repeated = {name: np.tile(values, f * d * n) for name, values in theta.items()}
            if not of.possible(flat).all():
                raise InputError(
                    f"propagate: some draws of {grid.output!r} are means that a measurement cannot have (a negative "
                    "count, say). Fit its logarithm or logit, uq.Curve(transform=uq.Log()), or pass noise=False."
                )
            part = of.draw(flat, of.phi(repeated), rng).reshape(f, d, n, s, -1).transpose(0, 3, 1, 2, 4)
        else:
            part = np.asarray(layout.transform.inverse(part))
        found[grid.output] = grid.labelled(part, LEAD, layout.unit)
        if not exact:
            alone = np.asarray(layout.transform.inverse(single[:, cut]))[None, :, None, None]
            known[grid.output] = grid.labelled(alone, LEAD, layout.unit)
    table = _inputs_table({name: (values, problem.unit_of(name)) for name, values in theta.items()})
    held = [name for name, there in (("surrogate", not exact), ("discrepancy", modelled), ("noise", noise)) if there]
    one = xr.Dataset(known) if known else None
    return Drawn(xr.Dataset(found), table, ("parameters", *held), True, 0.0, "ordered", one)


def _of_one_function(
    problem: SingleCalibration,
    theta: Mapping[str, Array],
    latents: Array,
    targets: Targets,
    modelled: bool,
    realisation: Realised,
) -> Array:
    """Return the mean (S, P) of what is predicted if the surrogate's likeliest mean were the simulator itself."""
    likeliest = int(np.argmax(problem.surrogate.scores(np.full((1, problem.surrogate.domain.d), 0.5)).log_weights))
    h = np.full(len(latents), likeliest)
    out = np.empty((len(latents), len(targets.offset)))
    for rows, moments in conditional_moments(problem, theta, h, targets, latents, modelled, realisation, errors=False):
        out[rows] = moments.mean
    return out


def _together(grids: Sequence[Grid]) -> tuple[Targets, list[slice]]:
    """Return the targets of several outputs as one, and which of them belong to each."""
    every = [grid.targets for grid in grids]
    sizes = np.cumsum([0, *(len(one.offset) for one in every)])
    names = dict.fromkeys(name for one in every for name in one.coords)
    coords = {
        name: np.concatenate([one.coords.get(name, np.full(len(one.offset), np.nan)) for one in every])
        for name in names
    }
    joined = Targets(
        every[0].conditions,
        np.concatenate([one.experiment for one in every]),
        np.concatenate([one.output for one in every]),
        coords,
        np.concatenate([one.offset for one in every]),
        stacked([one.basis for one in every]),
        np.vstack([one.truncation for one in every]),
        observed=every[0].observed,
    )
    return joined, [slice(int(a), int(b)) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]


def _twice(targets: Targets) -> Targets:
    """Return every target twice: as the simulator's output, and as what is measured, with the discrepancy."""
    return replace(
        targets,
        experiment=np.tile(targets.experiment, 2),
        output=np.tile(targets.output, 2),
        coords={dim: np.tile(column, 2) for dim, column in targets.coords.items()},
        offset=np.tile(targets.offset, 2),
        basis=stacked([targets.basis] * 2),
        truncation=np.tile(targets.truncation, (2, 1)),
    )


def _hyperparameters(
    problem: SingleCalibration, theta: Mapping[str, Array], latents: Array, f: int, rng: np.random.Generator
) -> Ints:
    """Return draws (F, S) of the surrogate's hyperparameters given the data and each draw of the parameters.

    They are drawn anew: with those of the posterior, what is the surrogate's would seem to be the parameters'.
    """
    if not problem.data_model.closed_form:
        parts = [values for _, values in problem.latent_terms(theta, latents)]
    else:
        parts = list(problem.log_likelihood_values(theta))
    values = np.concatenate(parts, axis=1)
    below = np.cumsum(np.exp(values - np.logaddexp.reduce(values, axis=0)), axis=0)[:-1]
    return np.asarray((rng.random((f, 1, values.shape[1])) > below[None]).sum(axis=1))


def _noise_of(problem: SingleCalibration, grid: Grid) -> NewNoise:
    if (group := problem.noise.group_of(grid.output)) < 0:
        raise InputError(f"propagate: output {grid.output!r} was not observed, so its noise is not known: noise=False.")
    return new_noise(problem.data_model, group, grid.targets)


def _drawn(moments: AnyMoments, d: int, p: int, modelled: bool, rng: np.random.Generator) -> Array:
    """Return joint draws (S, D, P); with a discrepancy all D of them share what is drawn of the simulator's output."""
    if not modelled:
        return moments.draw(rng)[:, None]
    mean, covariance = moments.mean, moments.covariance
    count = len(mean)
    if not covariance.any():
        return np.repeat(mean[:, None, -p:], d, axis=1)
    sd = np.sqrt(np.maximum(np.diagonal(covariance, axis1=1, axis2=2), 1e-300))
    root = sd[:, :, None] * _lower(covariance / (sd[:, :, None] * sd[:, None, :]))
    z = np.repeat(rng.standard_normal((count, 1, root.shape[1])), d, axis=1)
    z[:, :, p:] = rng.standard_normal((count, d, p))
    return np.asarray(mean[:, None, p:] + z @ root[:, p:].transpose(0, 2, 1))


def _lower(correlation: Array) -> Array:
    """Return lower roots (S, T, T) of correlations that may be singular."""
    index = np.arange(correlation.shape[1])
    for jitter in JITTERS:
        shifted = correlation.copy()
        shifted[:, index, index] += jitter
        try:
            return np.asarray(np.linalg.cholesky(shifted))
        except np.linalg.LinAlgError:
            continue
    values, vectors = np.linalg.eigh(correlation)
    # R of the QR decomposition of the symmetric root's transpose is a lower root again.
    half = (vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]).transpose(0, 2, 1)
    return np.asarray(np.linalg.qr(half, mode="r").transpose(0, 2, 1))


# ------------------------------------------------------------------------------------------------------------ functions
def derived(drawn: Drawn, of: Mapping[str, Function | str]) -> xr.Dataset:
    """Return draws of the quantities that `of` names: outputs, or plain functions of outputs and of those before.

    Raises
    ------
    InputError
        When a function returns something else than one number (or curve) for each draw.
    """
    sizes = {dim: drawn.outputs.sizes[dim] for dim in LEAD}
    count = int(np.prod(list(sizes.values())))
    table = flat_table(drawn.outputs, drawn.inputs)
    found = {}
    for name, function in of.items():
        value = table[function] if isinstance(function, str) else function(table)
        if not isinstance(value, xr.DataArray) or "draw" not in value.dims or value.sizes["draw"] != count:
            got = f"dims {value.dims}" if isinstance(value, xr.DataArray) else type(value).__name__
            raise InputError(
                f"propagate: the function {name!r} returned {got}; it gets a Dataset and returns a DataArray that has "
                f"the dim 'draw' ({count}), for example lambda y: uq.functionals.peak(y['flow'], 'time')."
            )
        value = value.astype(np.float64).rename(None)
        undefined = float(value.isnull().mean())
        if undefined:
            raise DataError(
                f"propagate: {undefined:.2%} of the draws of {name!r} have no value (NaN). Let "
                "the function define them, for example by .fillna(...)."
            )
        table = table.assign({name: value})
        rest = [str(dim) for dim in value.dims if dim != "draw"]
        shaped = value.transpose("draw", *rest).values.reshape(*sizes.values(), *(value.sizes[dim] for dim in rest))
        kept = {key: one for key, one in value.coords.items() if "draw" not in one.dims}
        found[name] = xr.DataArray(shaped, dims=(*LEAD, *rest), coords=kept, attrs=dict(value.attrs))
    return xr.Dataset(found)


def flat_table(draws: xr.Dataset, inputs: xr.Dataset) -> xr.Dataset:
    """Return quantities and inputs along one dim "draw", for functions of the user's: functions, samples, and so on."""
    sizes = {dim: draws.sizes.get(dim, 1) for dim in LEAD}

    def flat(array: xr.DataArray) -> xr.DataArray:
        missing = [dim for dim in LEAD if dim not in array.dims]
        ordered = array.expand_dims({dim: sizes[dim] for dim in missing}).transpose(*LEAD, ...)
        rest = ordered.dims[len(LEAD) :]
        shaped = ordered.values.reshape(-1, *(ordered.sizes[dim] for dim in rest))
        kept = {key: one for key, one in ordered.coords.items() if not set(one.dims) & set(LEAD)}
        return xr.DataArray(shaped, dims=("draw", *rest), coords=kept, attrs=dict(array.attrs))

    columns = {str(name): flat(array) for name, array in inputs.items()}
    return xr.Dataset(columns | {str(name): flat(array) for name, array in draws.items()})
