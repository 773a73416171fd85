"""The density of measured rows given the latent outputs of the cells, and draws of new ones.

Written once for arrays and for PyTensor expressions: `xp` has the functions of either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from uqms._typing import Array, Ints
from uqms.calibration import _correlated
from uqms.calibration._terms import terms
from uqms.calibration.discrepancy import Term, term_covariance
from uqms.calibration.likelihood import Cells, NoiseGroups
from uqms.calibration.noise import NumPyFunctions
from uqms.parameters import Prior

if TYPE_CHECKING:
    from uqms.calibration.problem import Calibration

__all__ = ["draw_rows", "outputs_of", "row_terms", "simulate", "term_variance", "total"]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def outputs_of(data: Array, means: Array, covariances: Array, phi: Array, J: Array, eta: Array) -> Array:
    """Return latent outputs (H, S, N) for scores (H, S, K, q) and (H, S, q, K, K), phi, J (H, S, N, o), eta (S, L)."""
    draws, count = means.shape[:2]
    y = np.empty((draws, count, int(data[2])))
    for h in range(draws):
        for s in range(count):
            y[h, s] = _correlated.outputs(data, means[h, s], covariances[h, s], phi[s], J[h, s], eta[s])
    return y


def row_terms(cells: Cells, noise: NoiseGroups, y: Any, phi: Any, z: Any, xp: Any) -> list[tuple[Ints, Any]]:
    """Return, by group, which rows it has and log p(z | y): (..., R) by row, or (...) when rows depend on each other.

    `y` are the latent outputs (..., N) of the cells, `phi` the hyperparameters (..., P), `z` the measured values (R,)
    on the scale of the links. In the data's own units.
    """
    found = []
    for g, model in enumerate(noise.models):
        at = np.flatnonzero(cells.row_group == g)
        rows = cells.rows(g)._replace(z=z[at])
        parameters = {role: phi[..., place, None] for role, place in noise.roles[g].items()}
        values = _response(cells.responses[g], y[..., cells.row_cell[at]], xp)
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


def _response(transform: Any, latent: Any, xp: Any) -> Any:
    """Return the output in its own unit, as `transform.inverse` does, for arrays and expressions."""
    if transform.name == "log":
        return xp.exp(latent)
    if transform.name == "logit":
        return transform.lower + (transform.upper - transform.lower) / (1.0 + xp.exp(-latent))
    return latent


def draw_rows(cells: Cells, noise: NoiseGroups, y: Array, phi: Array, rng: np.random.Generator) -> Array:
    """Return new measurements (S, R), own units, for latent outputs y (S, N) that hold all but the models' noise."""
    out = np.empty((len(y), len(cells.z)))
    for g, model in enumerate(noise.models):
        at = np.flatnonzero(cells.row_group == g)
        parameters = {role: phi[:, place, None] for role, place in noise.roles[g].items()}
        values = np.asarray(_response(cells.responses[g], y[:, cells.row_cell[at]], np))
        out[:, at] = cells.links[g].inverse(model.draw(values, cells.rows(g), parameters, rng))
    return out


def simulate(
    problem: "Calibration", u: Array, phi: Array, rng: np.random.Generator, latents: Array | None = None
) -> Array:
    """Draw new observations (S, R) at inputs u (S, K, d) and hyperparameters (S, P), see `Calibration.simulate`."""
    eta = rng.standard_normal((len(u), len(problem.free))) if latents is None else latents
    y, log_weights = problem.latent_outputs(u, phi, eta)
    h = rng.choice(len(log_weights), size=len(u), p=np.exp(log_weights - np.logaddexp.reduce(log_weights)))
    return draw_rows(problem.cells, problem.noise, y[h, np.arange(len(u))], phi, rng)


def term_variance(problem: "Calibration", term: Term, theta: Mapping[str, Array]) -> Array:
    """Return the variance (S, N) that a term adds to the cells."""
    at, sites = problem.cells.sites(term.output, problem.condition_names)
    place = term.place(sites)
    phi = problem.noise.named(problem.noise.phi(theta, (len(next(iter(theta.values()))),)))
    out = np.zeros((len(next(iter(phi.values()))), len(problem.cells.offset)))
    own = term_covariance(term, phi, place, place)
    out[:, at] = np.diagonal(own, axis1=1, axis2=2)
    return out


def covariance_of(problem: "Calibration", phi: Array, slopes: Array) -> Array:
    """Return the covariance (S, N, N) that noise terms and discrepancy add to the cells; `slopes` as `mean_slopes`."""
    needed = int(problem.structure[6])
    slopes = np.ascontiguousarray(slopes[..., :needed])
    return np.asarray(_all_terms(problem.structure, np.ascontiguousarray(phi), slopes))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _all_terms(data: Array, phi: Array, slopes: Array) -> Array:
    out = np.empty((len(phi), int(data[2]), int(data[2])))
    for s in range(len(phi)):
        out[s] = terms(data, phi[s], slopes[s], True, True)
    return out


def slope_of_density(problem: "Calibration", y: Array, phi: Array, several: Sequence[Cells] | None = None) -> Array:
    """Return d log p(z | y) / d y (S, N) by central differences, for the data or `several` others, one a draw."""
    out = np.zeros_like(y)
    step = 1e-5 * (np.abs(y) + y.std() + 1e-12)
    for s, cells in enumerate([problem.cells] * len(y) if several is None else several):
        values = cells.z
        up, down = (
            row_terms(cells, problem.noise, (y + sign * step)[s], phi[s], values, NumPyFunctions)
            for sign in (1.0, -1.0)
        )
        for (at, above), (_, below) in zip(up, down, strict=True):
            cell = cells.row_cell[at]
            if above.ndim:
                np.add.at(out[s], cell, (above - below) / (2.0 * step[s, cell]))
                continue
            for c in np.unique(cell):  # rows depend on each other: one cell at a time
                shift = np.zeros(y.shape[1])
                shift[c] = step[s, c]
                ends = [
                    dict(
                        (int(rows[0]), value)
                        for rows, value in row_terms(
                            cells, problem.noise, y[s] + sign * shift, phi[s], values, NumPyFunctions
                        )
                    )[int(at[0])]
                    for sign in (1.0, -1.0)
                ]
                out[s, c] += (ends[0] - ends[1]) / (2.0 * step[s, c])
    return out


def noise_sd(problem: "Calibration", y: Array, phi: Array, limits: bool = True, draws: int = 32) -> Array:
    """Return the sd (S, N) of independent normal noise that says as much about the latent output as the data do.

    That of the cell means for additive noise; else 1 / sqrt(Fisher information), from draws with a fixed seed. A value
    beyond a detection limit says less than a measured one; without `limits`, what it would say without them.
    """
    cells = problem.cells
    if problem.form != "latent":
        return np.sqrt(phi[:, cells.group] ** 2 / cells.weight)
    rng = np.random.default_rng(0)
    information = np.zeros_like(y)
    with np.errstate(all="ignore"):
        for _ in range(draws):
            drawn = draw_rows(cells, problem.noise, y, phi, rng)
            if limits:
                several = [problem.cells_of(values) for values in drawn]
            else:
                several = [replace(cells, z=z, side=np.zeros_like(cells.side)) for z in cells.linked(drawn)]
            information += np.nan_to_num(slope_of_density(problem, y, phi, several)) ** 2 / draws
    return np.asarray(1.0 / np.sqrt(np.maximum(information, 1e-300)))


def prior_scale(setting: Prior | float) -> float:
    """Return the standard deviation of a prior, 0 for a number."""
    return float(setting.moments.sd) if isinstance(setting, Prior) else 0.0
