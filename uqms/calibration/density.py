"""The density of measured rows given the latent outputs of the cells, and draws of new ones.

Written once for arrays and for PyTensor expressions: `xp` has the functions of either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from uqms._compiled import compiled
from uqms._typing import Array, Bools, Ints
from uqms.calibration import _latent_outputs
from uqms.calibration._terms import BASIS, fields, terms
from uqms.calibration.data_model import DataModel
from uqms.calibration.discrepancy import NOISE, Term, term_covariance
from uqms.calibration.joint_error import OutputLaw, outputs_of_scores
from uqms.calibration.likelihood import Cells, NoiseGroups, times_basis
from uqms.calibration.markov import noise_of, only_noise
from uqms.parameters import Prior
from uqms.parameters.functions import NumPyFunctions
from uqms.parameters.priors import typical_sd

__all__ = [
    "correlated_noise",
    "draw_rows",
    "expected_outputs",
    "latent_draws",
    "noise_covariance",
    "possible",
    "row_terms",
    "simulate",
    "term_variance",
    "total",
]

TRIES = 100  # of errors for which the means of counts are possible


def row_terms(cells: Cells, noise: NoiseGroups, y: Any, phi: Any, z: Any, xp: Any) -> list[tuple[Ints, Any]]:
    """Return, by group, which rows it has and log p(z | y): (..., R) by row, or (...) when rows depend on each other.

    `y` are the latent outputs (..., N) of the cells, `phi` the hyperparameters (..., P), `z` the measured values (R,),
    or (..., R) for the library's own models, on the scale of the links. In the data's own units.
    """
    found = []
    for g, model in enumerate(noise.models):
        at = np.flatnonzero(cells.row_group == g)
        rows = cells.rows(g)._replace(z=z[..., at])
        parameters = {role: phi[..., place, None] for role, place in noise.roles[g].items()}
        values = cells.responses[g].inverse(y[..., cells.row_cell[at]], xp)
        density = model.log_density(values, rows, parameters, xp)
        side = cells.side[at]
        if side.any():
            sign = np.where(side == 0, 1, side)
            tail = model.log_tail(values, rows, parameters, sign, xp)  # type: ignore[attr-defined]
            density = xp.where(side == 0, density, tail)
        if cells.links[g].name == "log":
            density = density - np.where(side == 0, 1.0, 0.0) * rows.z
        found.append((at, density))
    return found


def total(terms: list[tuple[Ints, Any]], ndim: int) -> Any:
    """Return the sum over all rows; `ndim` is that of terms by row."""
    sums = [value.sum(axis=-1) if value.ndim == ndim else value for _, value in terms]
    return sum(sums[1:], sums[0])


def draw_rows(
    cells: Cells, noise: NoiseGroups, y: Array, phi: Array, rng: np.random.Generator, process: Array | None = None
) -> Array:
    """Return new measurements (S, R), own units, for latent outputs y (S, N) that hold all but the models' noise.

    `process` (S, N) is correlated noise that they do not hold, in the unit that noise is added in.
    """
    out = np.empty((len(y), len(cells.z)))
    for g, model in enumerate(noise.models):
        at = np.flatnonzero(cells.row_group == g)
        parameters = {role: phi[:, place, None] for role, place in noise.roles[g].items()}
        values = np.asarray(cells.responses[g].inverse(y[:, cells.row_cell[at]]))
        values = values if process is None else values + process[:, cells.row_cell[at]]
        out[:, at] = cells.links[g].inverse(model.draw(values, cells.rows(g), parameters, rng))
    return out


def simulate(model: DataModel, u: Array, phi: Array, rng: np.random.Generator, latents: Array | None = None) -> Array:
    """Draw new observations (S, R) at inputs u (S, K, d) and hyperparameters (S, P), as `simulate` of a model."""
    y = latent_draws(model, u, phi, rng, latents)
    if latents is None:  # counts have no negative mean: the law is the one given that there is none
        for _ in range(TRIES):
            again = np.flatnonzero(~possible(model.cells, model.noise, y).all(axis=1))
            if not len(again):
                break
            y[again] = latent_draws(model, u[again], phi[again], rng)
    outside = [term for term in model.noise.terms if term not in model.inside.terms]
    return draw_rows(model.cells, model.noise, y, phi, rng, correlated_noise(model, phi, rng, outside))


def correlated_noise(
    model: DataModel, phi: Array, rng: np.random.Generator, terms: Sequence[Term] | None = None
) -> Array | None:
    """Return draws (S, N) of noise that is correlated between cells, None without: of `terms`, or of all there are."""
    terms = [term for term in model.noise.terms if term.role == NOISE] if terms is None else terms
    if not terms:
        return None
    return noise_of(model, terms).at(phi).process(rng.standard_normal((len(phi), len(model.cells.offset))))


def latent_draws(
    model: DataModel, u: Array, phi: Array, rng: np.random.Generator, latents: Array | None = None
) -> Array:
    """Return latent outputs (S, N) at inputs u (S, K, d) and hyperparameters (S, P), errors drawn or given.

    They hold all but the models' noise, and but the process of an output whose surrogate models a transform of it.
    """
    eta = rng.standard_normal((len(u), len(model.free))) if latents is None else latents
    if only_noise(model):  # products of matrices: nothing to compile before the first calibration ends
        found = model.joint_error(u)
        h = _hyperparameter_draws(found.scores.log_weights, len(u), rng)
        return _normal_outputs(model, found.given(h), phi, eta)
    several, log_weights = model.latent_outputs(u, phi, eta)
    h = _hyperparameter_draws(log_weights, len(u), rng)
    return np.asarray(several[h, np.arange(len(u))])


def expected_outputs(model: DataModel, u: Array, phi: Array, h: Ints) -> Array:
    """Return the latent output (S, N) at inputs u (S, K, d) with hyperparameter draws h (S,), where errors are zero."""
    return model.joint_error(u).mean_given(h) * model.noise.scales(model.cells.group, phi)


def possible(cells: Cells, noise: NoiseGroups, y: Array) -> Bools:
    """Return which latent outputs (..., N) the noise of their group can have as its mean; all where it has no say."""
    out = np.ones(y.shape, dtype=np.bool_)
    for g, model in enumerate(noise.models):
        if not np.isfinite(model.limits).any():
            continue
        at = np.flatnonzero(cells.group == g)
        out[..., at] = model.possible(cells.responses[g].inverse(y[..., at]))
    return out


def _hyperparameter_draws(log_weights: Array, count: int, rng: np.random.Generator) -> Ints:
    return rng.choice(len(log_weights), size=count, p=np.exp(log_weights - np.logaddexp.reduce(log_weights)))


def _normal_outputs(model: DataModel, law: OutputLaw, phi: Array, eta: Array) -> Array:
    """Return latent outputs (S, N) as `outputs_of`, of a law with S draws, autocorrelated noise in."""
    cells, used = model.cells, model.used
    count, k, q = len(phi), cells.experiments, len(cells.used)
    whole = np.zeros((count, model.latent_count))
    whole[:, model.free] = eta
    scores = law.score_mean
    if len(used):
        scores = scores.copy()
        scores[:, :, used] += _score_errors(law, used, whole[:, : k * q])
    t = cells.compressed.shape[1]
    omega = whole[:, k * q : k * (q + t)].reshape(count, k, t)
    y = outputs_of_scores(law.rows, cells.experiment, scores)
    if law.fixed:
        y += times_basis(cells.compressed, cells.experiment, omega)
    else:
        y += np.einsum("snt,snt->sn", law.rows.truncation, omega[:, cells.experiment])
    inside = model.inside.terms
    return y + noise_of(model, inside).at(phi).process(whole[:, k * (q + t) :]) if inside else y


def _score_errors(law: OutputLaw, used: Ints, eta: Array) -> Array:
    """Return the errors (S, K, q) of the used scores for standard normals (S, K q)."""
    count, k, q = len(eta), law.score_mean.shape[1], len(used)
    if law.correlated:
        whole = law.score_covariance[:, :, used][..., used].reshape(count, k * q, k * q)
        return np.asarray(np.einsum("sab,sb->sa", _latent_outputs.roots(whole, False), eta).reshape(count, k, q))
    own = law.score_covariance[:, used]
    roots = (
        np.sqrt(np.maximum(own, 0.0))
        if k == 1
        else _latent_outputs.roots(own.reshape(-1, k, k), False).reshape(own.shape)
    )
    return np.asarray(np.einsum("sqkm,smq->skq", roots, eta.reshape(count, k, q)))


def term_variance(model: DataModel, term: Term, theta: Mapping[str, Array]) -> Array:
    """Return the variance (S, N) that a term adds to the cells, without their covariance, which may fill the memory."""
    at, sites = model.cells.sites(term.group, model.condition_names)
    place = term.place(sites)
    phi = model.noise.named(model.noise.phi(theta, (len(next(iter(theta.values()))),)))
    own = np.sum(place.basis**2, axis=1) if term.family == BASIS else np.ones(len(at))
    out = np.zeros((len(phi[term.amplitude]), len(model.cells.offset)))
    out[:, at] = phi[term.amplitude][:, None] ** 2 * (own * (place.ids >= 0))
    return out


def noise_covariance(model: DataModel, phi: Mapping[str, Array], count: int, terms: Sequence[Term]) -> Array:
    """Return the covariance (count, N, N) of noise that is correlated between cells, of those of the terms that are."""
    n = len(model.cells.offset)
    total = np.zeros((count, n, n))
    for term in terms:
        if term.role == NOISE:
            at, sites = model.cells.sites(term.group, model.condition_names)
            place = term.place(sites)
            total[:, at[:, None], at[None, :]] += term_covariance(term, phi, place, place)
    return total


def covariance_of(model: DataModel, phi: Array, slopes: Array, gain: Array | None = None) -> Array:
    """Return the covariance (S, N, N) that noise terms and discrepancy add to the cells; `slopes` as `mean_slopes`.

    `gain` (S, N) are the slopes of the cells by their latent outputs, of which a discrepancy is a part; 1 without it.
    """
    needed = int(model.structure[6])
    slopes = np.ascontiguousarray(slopes[..., :needed])
    inside = np.asarray(_all_terms(model.structure, np.ascontiguousarray(phi), slopes))
    if gain is None:
        return inside
    outside = [term for term in model.noise.terms if term not in model.inside.terms]
    inside *= gain[:, :, None] * gain[:, None, :]
    return inside + noise_covariance(model, model.noise.named(phi), len(phi), outside)


@compiled
def _all_terms(data: Array, phi: Array, slopes: Array) -> Array:
    out = np.empty((len(phi), int(data[2]), int(data[2])))
    for s in range(len(phi)):
        out[s] = terms(data[fields(data)[9] :], int(data[5]), int(data[2]), phi[s], slopes[s], True, True)
    return out


def slope_of_density(
    model: DataModel, y: Array, phi: Array, z: Array | None = None, cells: Cells | None = None
) -> Array:
    """Return d log p(z | y) / d y (S, N) by central differences, for measured values z (S, R) or the data.

    `cells` says which rows are beyond a limit, where that is not as in the data.
    """
    cells = model.cells if cells is None else cells
    step = 1e-5 * (np.abs(y) + y.std() + 1e-12)
    if z is None:
        return _slope(cells, model.noise, y, phi, cells.z, step)
    if all(one.broadcasts for one in model.noise.models):
        return _slope(cells, model.noise, y, phi, z, step)
    # A density of one's own takes measured values (R,): one draw at a time.
    rows = [slice(s, s + 1) for s in range(len(y))]
    return np.concatenate([_slope(cells, model.noise, y[at], phi[at], z[at][0], step[at]) for at in rows])


def _slope(cells: Cells, noise: NoiseGroups, y: Array, phi: Array, z: Array, step: Array) -> Array:
    out = np.zeros_like(y)

    def ends(change: Array) -> list[tuple[Ints, Array, Array]]:
        up, down = (row_terms(cells, noise, y + sign * change, phi, z, NumPyFunctions) for sign in (1.0, -1.0))
        return [(at, above, below) for (at, above), (_, below) in zip(up, down, strict=True)]

    for g, (at, above, below) in enumerate(ends(step)):
        cell = cells.row_cell[at]
        if above.ndim == y.ndim:
            np.add.at(out.T, cell, ((above - below) / (2.0 * step[:, cell])).T)
            continue
        for c in np.unique(cell):  # rows depend on each other: one cell at a time
            shift = np.zeros_like(y)
            shift[:, c] = step[:, c]
            _, high, low = ends(shift)[g]
            out[:, c] += (high - low) / (2.0 * step[:, c])
    return out


def noise_sd(model: DataModel, y: Array, phi: Array, limits: bool = True, draws: int = 32) -> Array:
    """Return the sd (S, N) of independent normal noise with as much information on the latent output as the data.

    That of the cell means for additive noise, in its own unit; else 1 / sqrt(Fisher information), from draws with a
    fixed seed. A value beyond a detection limit says less than a measured one; without `limits`, what it would say
    without them.
    """
    cells = model.cells
    if model.closed_form:
        return model.noise.sds(cells.group, phi, cells.responded(y)[0]) / np.sqrt(cells.weight)
    rng = np.random.default_rng(0)
    information = np.zeros_like(y)
    with np.errstate(all="ignore"):
        for _ in range(draws):
            drawn = draw_rows(cells, model.noise, y, phi, rng)
            if limits and any(side.any() for side in model.limited):
                several = [model.cells_of(values) for values in drawn]
                parts = [
                    slope_of_density(model, y[s : s + 1], phi[s : s + 1], one.z[None], one)
                    for s, one in enumerate(several)
                ]
                slope = np.concatenate(parts)
            else:
                free = replace(cells, side=np.zeros_like(cells.side))
                slope = slope_of_density(model, y, phi, cells.linked(drawn), free)
            # infinite beside the end of a density's support
            information += np.where(np.isfinite(slope), slope, 0.0) ** 2 / draws
    return np.asarray(1.0 / np.sqrt(np.maximum(information, 1e-300)))


def prior_scale(setting: Prior | float) -> float:
    """Return the `typical_sd` of a prior, 0 for a number."""
    return typical_sd(setting) if isinstance(setting, Prior) else 0.0
