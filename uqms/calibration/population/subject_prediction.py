"""What the data of a population say of the outputs of its subjects, and of any other input.

==========  ===================================================================  ===========
symbol      meaning                                                              shape
==========  ===================================================================  ===========
S           posterior draws                                                      ()
w           features of the surrogate's error that all inputs share              (S, M)
m, rho      mean of the scores given w; variance of an input's own error         (S, n, q)
G, E        rows of an input's cells by scores and truncation                    (n, c, .)
B, E*       rows of the points to predict                                        (P, .)
==========  ===================================================================  ===========

Given a draw of the population, of its subjects and of w, different inputs are independent: what is left to learn of one
is its own error and its truncation, from its own cells. So the cost is linear in the number of subjects.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
import xarray as xr

from uqms._typing import Array, Bools, Ints
from uqms.calibration.by_input import placeholder
from uqms.calibration.capabilities import Features
from uqms.calibration.context import evenly
from uqms.calibration.data_model import DataModel
from uqms.calibration.dense_gaussian import LOG_TWO_PI, given_data
from uqms.calibration.density import draw_rows
from uqms.calibration.gaussian import GaussianLikelihood
from uqms.calibration.joint_error import averaged_marginals, compiled_process
from uqms.calibration.likelihood import Cells, dense
from uqms.calibration.population.covariances import Covariances, ProcessCovariances, SurrogateCovariances
from uqms.calibration.population.lowrank import LowRank, ragged
from uqms.calibration.population.shared_error import SharedError, nystroem
from uqms.calibration.predict import PosteriorPrediction, Targets, new_noise
from uqms.errors import InputError
from uqms.surrogates.outputs import Decoder, InputDecoder
from uqms.surrogates.transforms import Identity

if TYPE_CHECKING:
    from uqms.calibration.population.calibration import Individuals, PopulationCalibration
    from uqms.calibration.population.subject import NewData
    from uqms.calibration.population.subject_outputs import Jointly, Simulated

__all__ = ["Asked", "Measured", "Shared", "curves", "featured", "has_features", "low_rank", "row_sums", "shared_error"]

CLOUD, NUMBERS = 800, 8_000_000
POPULATIONS, BLOCK = 16, 400  # by which features are measured, and about how many inputs of each
FEW = 8  # draws whose rows say how large those that depend on the input are
LIMIT, LEAST = 0.025, 200  # see `nystroem`: of few subjects too, the error at others is wanted


def has_features(data: "Individuals") -> bool:
    """Tell whether the surrogate's error has features, and data and error are jointly normal."""
    return Features.of(data).closed_form


class Asked(NamedTuple):
    """Inputs that outputs are asked for.

    Attributes
    ----------
    u
        In the unit cube, shape (S, n, d).
    conditions
        Shape (n, c).
    own
        Individual parameters at them, each (S, n), or (S,) where all have the same.
    inputs
        Which measured inputs they are, -1 for none, shape (n,).
    measured
        The measurements there, those of a new subject included.
    """

    u: Array
    conditions: Array
    own: Mapping[str, Array]
    inputs: Ints
    measured: "Measured | None"


class Measured(NamedTuple):
    """Cells of n inputs, to one number of cells; what is not there is zero.

    Rows that depend on the input have a leading axis of draws, (S, n, c, ...).
    """

    here: Bools  # (n, c)
    mean: Array  # (n, c)
    offset: Array  # (n, c)
    basis: Array  # (n, c, q)
    truncation: Array  # (n, c, t)
    group: Ints  # (n, c)
    weight: Array  # (n, c)

    @classmethod
    def of(cls, cells: Cells, inputs: Ints, rows: Decoder | None = None) -> "Measured":
        """Return the cells of some inputs, -1 for one that has none; `rows` (S, N, ...) are those of the cells."""
        every, real_ones = ragged(cells.experiment, cells.experiments)
        cell, here = every[inputs], np.asarray(real_ones, dtype=np.bool_)[inputs] & (inputs >= 0)[:, None]
        real = here[..., None]
        offset, basis, truncation = (cells.offset, cells.basis, cells.truncation) if rows is None else rows
        return cls(
            here,
            cells.cell_mean[cell] * here,
            np.where(here, offset[..., cell], 0.0),
            np.where(real, dense(basis)[..., cell, :], 0.0),
            np.where(real, truncation[..., cell, :], 0.0),
            cells.group[cell],
            np.where(here, cells.weight[cell], 1.0),
        )


@final
@dataclass(frozen=True, eq=False)
class Shared:
    """Posterior draws of a population with the surrogate's error, as far as subjects share it, given the data.

    Attributes
    ----------
    problem
        The calibration.
    theta
        Draws of everything in `priors`, each (S,).
    own
        What the data see: shared quantities and noise (S,), individual parameters (S, U).
    z
        Standard normals, shape (S, latents).
    h, w
        Draw of the surrogate's hyperparameters (S,), and of the shared features (S, M).
    error
        The features, of all scores of the surrogate.
    """

    problem: "PopulationCalibration"
    theta: Mapping[str, Array]
    own: Mapping[str, Array]
    z: Array
    h: Ints
    w: Array
    error: SharedError

    @classmethod
    def of(
        cls, problem: "PopulationCalibration", theta: Mapping[str, Array], z: Array, rng: np.random.Generator
    ) -> "Shared":
        """Draw the shared error for S posterior draws."""
        data = problem.data
        own = problem.individuals(theta, z)
        u = data.unit_inputs(own)
        phi = data.noise.phi(own, (len(z),))
        error = shared_error(data, u, phi, rng, max(data.cells.experiments, LEAST))
        likelihood = featured(data.data_model, error, np.arange(error.q), data.cells.unit)
        M = int(error.ranks.sum())
        step = max(1, NUMBERS // (error.draws * (M * M + u.shape[1] * M * (error.q if error.joint else 1))))
        drawn = [
            likelihood.condition(u[start : start + step], phi[start : start + step], data.cells.z).draw(rng)
            for start in range(0, len(u), step)
        ]
        h, w = (np.concatenate(one) for one in zip(*drawn, strict=True))
        return cls(problem, theta, own, z, h, w, error)

    def some(self, draws: Ints) -> "Shared":
        """Return some of the draws."""
        theta, own = ({name: values[draws] for name, values in one.items()} for one in (self.theta, self.own))
        return Shared(self.problem, theta, own, self.z[draws], self.h[draws], self.w[draws], self.error)

    def noise_variance(self, measured: Measured, outputs: Array) -> Array:
        """Return the variance (S, n, c) of the noise of cells' means, at the outputs (S, n, c)."""
        noise, shape = self.problem.data.noise, outputs.shape
        flat = outputs.reshape(len(outputs), -1)
        sds = noise.sds(measured.group.ravel(), noise.phi(self.own, (len(self.h),)), flat)
        return np.asarray(sds.reshape(shape) ** 2 / measured.weight)

    def scores(self, u: Array) -> tuple[Array, Array]:
        """Return m (S, n, q) and rho at inputs (S, n, d); rho (S, n, q, q) where errors of scores are correlated."""
        error, found = self.error, []
        width = error.draws * (error.width + len(error.score)) * (error.q if error.joint else 1)
        step = max(1, NUMBERS // (u.shape[1] * width))  # features of all draws and inputs at once would fill gigabytes
        for start in range(0, len(u), step):
            now = slice(start, start + step)
            h, w = self.h[now], self.w[now]
            mean, phi, own = (one[h, np.arange(len(h))] for one in error.at(u[now]))
            found.append((mean + error.errors(phi, w), own))
        return np.concatenate([one for one, _ in found]), np.concatenate([own for _, own in found])

    def rows(self, decoder: InputDecoder | Decoder, u: Array) -> Decoder:
        """Return the rows of a decoder at inputs (S, n, d), of the hyperparameters of each draw: (S, n, P, ...)."""
        if not isinstance(decoder, InputDecoder):
            return decoder
        return Decoder(*(one[self.h if len(one) > 1 else 0, np.arange(len(u))] for one in decoder.at(u)))

    def means(self, u: Array, decoder: InputDecoder | Decoder) -> Array:
        """Return means of a latent output (S, n, P) at inputs (S, n, d), where own errors are not known."""
        offset, basis, _ = self.rows(decoder, u)
        m = self.scores(u)[0]
        return np.asarray(offset + (m @ basis.T if basis.ndim == 2 else row_sums(basis, m)))

    def measured(self, cells: Cells, inputs: Ints, u: Array) -> Measured:
        """Return the cells of some inputs, see `Measured.of`, which are at u (S, n, d)."""
        if cells.by_input is None:
            return Measured.of(cells, inputs)
        there, whole = inputs >= 0, np.full((len(u), cells.experiments, u.shape[2]), 0.5)
        whole[:, inputs[there]] = u[:, there]
        found = cells.by_input.at(whole)
        rows = Decoder(*(one[self.h if len(one) > 1 else 0, np.arange(len(u))] for one in found))
        return Measured.of(cells, inputs, rows)

    def predict(
        self, u: Array, measured: Measured, decoder: Any, rng: np.random.Generator
    ) -> tuple[Array, Array, Array]:
        """Return mean, variance and joint draws (S, n, P) of a latent output at the rows of a decoder.

        Its arrays are the same for all inputs, (P, ...), or begin with the inputs, (n, P, ...), or with draws before.
        """
        error, (m, rho) = self.error, self.scores(u)
        S, n, q = m.shape
        offset = np.asarray(decoder[0])
        B, E = (np.broadcast_to(one, (*one.shape[:-3], n, *one.shape[-2:])) for one in map(np.asarray, decoder[1:]))
        mean = offset + row_sums(B, m)
        prior = np.sum(B * error.own_times(rho, B), axis=-1) if error.joint else row_sums(B**2, rho)
        prior = prior + np.sum(E**2, axis=-1)
        e = error.own_draw(rho, rng.standard_normal((S, n, q)))
        tau = rng.standard_normal((S, n, E.shape[-1]))
        drawn = mean + row_sums(B, e) + row_sums(E, tau)
        if not measured.here.any():
            return mean, prior, drawn
        here, G, F = measured.here, measured.basis, measured.truncation
        centre = measured.offset + row_sums(G, m)
        D = self.noise_variance(measured, centre)
        weighted = error.own_times(rho, G).swapaxes(-1, -2)
        C = G @ weighted + F @ F.swapaxes(-1, -2)
        at = np.arange(here.shape[1])
        C[:, :, at, at] += np.where(here, D, 1.0)
        residual = here * (measured.mean - centre)
        cross = B @ weighted + E @ F.swapaxes(-1, -2)
        made = row_sums(G, e) + row_sums(F, tau)
        made += here * np.sqrt(D) * rng.standard_normal(D.shape)
        found = given_data(C, residual, np.concatenate([cross.swapaxes(-1, -2), made[..., None]], axis=-1))
        P = B.shape[-2]
        step = found.mean[..., :P]
        undone = np.einsum("sncp,snc->snp", found.cross[..., :P], found.cross[..., P])
        return mean + step, np.maximum(prior - found.variance[..., :P], 0.0), drawn + step - undone

    def given(self, asked: Asked, decoder: Any, targets: Targets, rng: np.random.Generator) -> tuple[Array, ...]:
        """Return mean, variance and draws (S, n, P) of a latent output at the inputs asked for."""
        assert asked.measured is not None
        return self.predict(asked.u, asked.measured, self.rows(decoder, asked.u), rng)

    def log_density(self, data: "NewData", u: Array) -> Array:
        """Return log p(measurements of a new subject) (S,) at inputs u (S, n, d), up to a constant."""
        measured = self.measured(data.cells, np.arange(data.cells.experiments), u)
        return np.asarray(self.log_likelihood(u, measured).sum(axis=1) + self._within(data.cells))

    def _within(self, cells: Cells) -> Array:
        """Return the log-density (S,) of replicates given their cell means."""
        noise = self.problem.data.noise
        sd = noise.phi(self.own, (len(self.h),))[:, cells.group]
        sd[:, np.isin(cells.group, list(noise.growth))] = 1.0  # such cells have one row each
        return np.asarray(cells.log_density_within(sd).sum(axis=1))

    def new_rows(self, rng: np.random.Generator) -> Array:
        """Return new measurements (S, R) of the same rows of the same subjects, given the data."""
        data = self.problem.data
        cells, u = data.cells, data.unit_inputs(self.own)
        measured = self.measured(cells, np.arange(cells.experiments), u)
        decoder = (measured.offset, measured.basis, measured.truncation)
        *_, latent = self.predict(u, measured, decoder, rng)
        cell, here = ragged(cells.experiment, cells.experiments)
        y = np.empty((len(u), len(cells.offset)))
        y[:, cell[here]] = latent[:, here]
        return draw_rows(cells, data.noise, y, data.noise.phi(self.own, (len(u),)), rng)

    def log_likelihood(self, u: Array, measured: Measured) -> Array:
        """Return log p(cell means) (S, n) of each of n inputs (S, n, d), given the draws."""
        m, rho = self.scores(u)
        here, G, F = measured.here, measured.basis, measured.truncation
        C = G @ self.error.own_times(rho, G).swapaxes(-1, -2) + F @ F.swapaxes(-1, -2)
        at = np.arange(here.shape[1])
        centre = measured.offset + row_sums(G, m)
        C[:, :, at, at] += np.where(here, self.noise_variance(measured, centre), 1.0)
        residual = here * (measured.mean - centre)
        # Places without a cell are standard normal, and zero.
        return given_data(C, residual).log_density + 0.5 * LOG_TWO_PI * (~here).sum(axis=1)


def row_sums(rows: Array, values: Array) -> Array:
    """Return rows ([S,] n, P, q) times values (S, n, q): (S, n, P)."""
    if rows.ndim == 3:
        return np.asarray(np.einsum("npq,snq->snp", rows, values))
    return np.asarray(np.einsum("snpq,snq->snp", rows, values))


def low_rank(data: "Individuals", u: Array, phi: Array, rng: np.random.Generator) -> LowRank:
    """Return the likelihood with features of the scores that matter, for a cloud of inputs; see `shared_error`."""
    error = shared_error(data, u, phi, rng, data.cells.experiments, data.cells.used)
    return featured(data.data_model, error, data.cells.used, subjects_of(data))


def featured(model: DataModel, error: SharedError, scores: Ints, unit: Ints) -> LowRank:
    """Return the likelihood of the data through the features of an error of scores; `unit` as in `LowRank`."""
    varying = error.joint or model.cells.by_input is not None
    likelihood = GaussianLikelihood.of(
        model.cells,
        model.noise,
        model.condition_names,
        ranks=error.ranks,
        used=scores,
        varying=varying,
        runs=error.q if error.joint else 0,
    )
    return LowRank(error, likelihood, unit, model.cells if varying else None)


def covariances_of(model: DataModel, scores: Ints | None = None) -> Covariances:
    """Return the covariances of the surrogate's errors between inputs, of scores or all."""
    process = compiled_process(model.surrogate) if model.cells.by_input is None else None
    if process is not None:
        return ProcessCovariances(process if scores is None else process.select(scores))
    return SurrogateCovariances.of(model.surrogate, np.arange(model.cells.basis.shape[1]) if scores is None else scores)


def subjects_of(data: "Individuals") -> Ints:
    """Return for each input the place of its subject among the measured ones, shape (K,)."""
    return np.unique(data.subjects.subject[data.cells.unit], return_inverse=True)[1].reshape(-1)


def simulate_rows(model: DataModel, error: SharedError, u: Array, phi: Array, rng: np.random.Generator) -> Array:
    """Draw new observations (S, R) for inputs (S, K, d), with a new draw of the shared error for each."""
    cells, count = model.cells, len(u)
    out = np.empty((count, len(cells.z)))
    columns = error.width + int(error.ranks.sum())
    step = max(1, NUMBERS // (cells.experiments * columns * (error.q if error.joint else 1)))
    weights = np.exp(error.log_weights - np.logaddexp.reduce(error.log_weights))
    basis, e = dense(cells.basis[:, cells.used]), cells.experiment
    for start in range(0, count, step):
        at = u[start : start + step]
        s = np.arange(len(at))
        h = rng.choice(len(weights), size=len(at), p=weights)
        mean, features, rho = (one[h, s] for one in error.at(at))
        w = rng.standard_normal((len(at), features.shape[-1]))
        m = mean + error.errors(features, w)
        m += error.own_draw(rho, rng.standard_normal(mean.shape))
        rows = Decoder(cells.offset, basis, cells.truncation)
        if cells.by_input is not None:
            offset, whole, truncation = (one[h if len(one) > 1 else 0, s] for one in cells.by_input.at(at))
            rows = Decoder(offset, whole[..., cells.used], truncation)
        tau = rng.standard_normal((len(at), cells.experiments, rows.truncation.shape[-1]))
        y = rows.offset + _rowwise(rows.basis, m[:, e]) + _rowwise(rows.truncation, tau[:, e])
        out[start : start + step] = draw_rows(cells, model.noise, y, phi[start : start + step], rng)
    return out


def _rowwise(rows: Array, values: Array) -> Array:
    """Return the sum over q of rows ([S,] N, q) times values (S, N, q): (S, N)."""
    return np.asarray(np.einsum("nq,snq->sn" if rows.ndim == 2 else "snq,snq->sn", rows, values))


def shared_error(
    data: "Individuals", u: Array, phi: Array, rng: np.random.Generator, inputs: int, scores: Ints | None = None
) -> SharedError:
    """Return the features of the error of scores, or all, for a cloud of inputs: draws (S, K, d), noise (S, P).

    Features that the noise of an input's cells hides are left out; the variance at each input is exact without them.
    """
    apart = len(u) > 2  # every third draw is a population that features are measured by, not made of
    held, rest = (u[::3], u[np.arange(len(u)) % 3 > 0]) if apart else (u, u)
    flat = rest.reshape(-1, u.shape[-1])
    cloud = flat[rng.choice(len(flat), size=min(CLOUD, len(flat)), replace=False)]
    together = min(-(-inputs // u.shape[1]), len(held))  # draws that make one population
    count = len(held) // together
    several = held[: count * together, some_inputs(data)].reshape(count, -1, u.shape[-1])
    populations = several[evenly(count, POPULATIONS)]
    covariances = covariances_of(data.data_model, scores)
    noise = noise_of_scores(data.data_model, phi, u, covariances.scale(cloud), scores)
    return nystroem(covariances, cloud, populations, inputs=inputs, noise=noise, limit=LIMIT)


def some_inputs(data: "Individuals") -> Ints:
    """Return which inputs the features are measured by: all, or all of as many subjects as are enough."""
    subject = subjects_of(data)
    count = int(subject.max()) + 1
    picked = np.linspace(0, count - 1, max(1, min(count, BLOCK * count // len(subject)))).astype(int)
    return np.flatnonzero(np.isin(subject, picked))


def noise_of_scores(model: DataModel, phi: Array, u: Array, scale: Array, scores: Ints | None = None) -> Array:
    """Return the mean variance of the noise in scores, or all, at one input, (q,), for hyperparameters (S, P).

    `u` (S, K, d) are inputs, and `scale` (q,) is a bound of the variance of the scores' errors.
    """
    cells, squares = model.cells, model.cells.basis**2
    if cells.by_input is not None:
        squares = np.mean(cells.by_input.at(u[:: max(1, len(u) // FEW)]).basis ** 2, axis=(0, 1))
    variance = np.mean(phi**2, axis=0)[cells.group]
    if model.noise.growth:
        some = slice(None, None, max(1, len(u) // FEW))
        outputs, _ = averaged_marginals(model.surrogate, cells, cells.experiment, u[some], cells.used)
        variance = np.mean(model.noise.sds(cells.group, phi[some], outputs) ** 2, axis=0)
    precision = cells.weight / variance
    with np.errstate(divide="ignore"):
        noise = cells.experiments / (precision @ squares)
    largest = 1e3 * scale  # a score that nothing was measured of
    return np.asarray(np.minimum(noise if scores is None else noise[scores], largest))


def curves(
    draws: "Shared | Simulated | Jointly",
    asked: Asked,
    dims: Mapping[str, Any],
    coords: Mapping[str, object] | None,
    outputs: Sequence[str],
    noise: bool,
    rng: np.random.Generator,
) -> PosteriorPrediction:
    """Return predictions of outputs at n inputs; `dims` are the coords of the first dim."""
    data, n = draws.problem.data, len(asked.inputs)
    (first, *_), means, sds, samples = dims, {}, {}, {}
    for output in outputs:
        layout = data.surrogate.layouts[output]
        axes = {dim: np.atleast_1d(np.asarray((coords or layout.coords)[dim], dtype=np.float64)) for dim in layout.dims}
        mesh = np.meshgrid(*axes.values(), indexing="ij")
        points = {dim: grid.ravel() for dim, grid in zip(axes, mesh, strict=True)}
        decoder = data.surrogate.decode(output, points if layout.dims else None)
        targets = targets_of(output, asked.conditions, points, decoder, asked.u.shape[-1])
        found = draws.given(asked, decoder, targets, rng)
        mean, variance, latent = (one.reshape(len(asked.u), -1) for one in found)
        if noise:
            if output not in data.noise.outputs:
                raise InputError(
                    f"predict: output {output!r} was not observed, so its noise is not known; pass noise=False."
                )
            group = data.noise.outputs.index(output)
            add = new_noise(data.data_model, group, targets)
            phi = add.phi(draws.own)
            sample = add.draw(latent, phi, rng)
            if data.noise.models[group].gaussian and isinstance(data.cells.responses[group], Identity):
                groups = np.full(mean.shape[1], group)
                variance = variance + data.noise.sds(groups, phi, np.sqrt(mean**2 + variance)) ** 2
                mean, variance = layout.transform.moments(mean, variance)
            else:
                mean, variance = sample, np.zeros_like(sample)
        else:
            sample = np.asarray(layout.transform.inverse(latent))
            mean, variance = layout.transform.moments(mean, variance)
        shape = (n, *(len(axis) for axis in axes.values()))
        names, labels, attrs = (first, *axes), {**dims, **axes}, {"unit": layout.unit}
        means[output] = xr.DataArray(mean.mean(axis=0).reshape(shape), labels, names, attrs=attrs)
        total = np.sqrt(variance.mean(axis=0) + mean.var(axis=0)).reshape(shape)
        sds[output] = xr.DataArray(total, labels, names, attrs=attrs)
        samples[output] = xr.DataArray(sample.reshape(-1, *shape), labels, ("sample", *names), attrs=attrs)
    holds = ("parameters", "surrogate", *(("noise",) if noise else ()))
    return PosteriorPrediction(xr.Dataset(means), xr.Dataset(sds), xr.Dataset(samples), holds)


def targets_of(
    output: str, conditions: Array, coords: Mapping[str, Array], decoder: InputDecoder | Decoder, d: int
) -> Targets:
    """Return the points of an output at n inputs of d numbers, one input after the other; NaN for rows that depend."""
    offset, basis, truncation = placeholder(decoder, d) if isinstance(decoder, InputDecoder) else decoder
    n, p = len(conditions), len(offset)
    return Targets(
        conditions=conditions,
        experiment=np.repeat(np.arange(n), p),
        output=np.full(n * p, output),
        coords={dim: np.tile(column, n) for dim, column in coords.items()},
        offset=np.tile(offset, n),
        basis=np.tile(basis, (n, 1)),
        truncation=np.tile(truncation, (n, 1)),
    )
