"""Small populations with a surrogate whose error is as large as the noise: what `populations.py` looks at."""

import warnings
from functools import cache
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr
from arviz_stats.base import array_stats
from scipy.optimize import minimize

import uqms as uq
from uqms._typing import Array
from uqms.calibration.population.layout import WALL
from uqms.calibration.population.subject_prediction import Measured
from uqms.errors import DataWarning
from uqms.parameters import Box
from uqms.surrogates import GaussianProcessSurrogate, Layout, Matern52
from uqms.surrogates.outputs import OutputBasis
from uqms.surrogates.process import ScoreProcess

TIMES = np.array([0.0, 1.0, 2.0])
CONDITIONS = (0.1, 0.35, 0.65, 0.9)
NOISE, SMALL_NOISE = 0.06, 0.03
CLOUDS, LATTICE = 20, 121
FREEDOM, ROUNDS, EARLY, ENOUGH = 10.0, 7, 3, 200
STARTS = (-1.5, 0.0, 1.5)  # prior sds


@cache
def curve_surrogate(runs: int = 14) -> tuple[uq.Surrogate, uq.ParameterSpace]:
    """Return the surrogate of a curve of an individual parameter, a shared one and a condition; few runs."""
    space = uq.ParameterSpace(
        a=uq.Normal(1.0, 0.15), b=uq.LogNormal(median=0.7, sigma=0.15), conditions={"x": uq.Condition(0.0, 1.0)}
    )
    population = uq.Population(space, individual=("a", "b"), spread={"a": 0.2, "b": 0.2})
    design = uq.sobol(population.box(), runs, rng=1)
    a, b, x = (design[name].values[:, None] for name in ("a", "b", "x"))
    y = 1.5 * np.sin(0.7 * a + 0.3 * x) * np.exp(-b * TIMES) + 0.3 * a * TIMES * x
    curves = xr.DataArray(y, dims=("run", "t"), coords={"t": TIMES})
    settings = uq.GaussianProcess(outputs={"y": uq.Curve(max_scores=2)}, hyperparameters="point")
    return settings.fit(uq.ensemble.build(design, {"y": curves})), space


def table(subjects: int, missing: float = 0.2, seed: int = 1) -> uq.Observations:
    """Return the layout of measurements, four conditions in turn, some missing; values are to be replaced."""
    rng = np.random.default_rng(seed)
    rows = [
        {"id": f"s{j:03d}", "t": t, "x": CONDITIONS[j % len(CONDITIONS)], "y": 0.5 + 0.1 * t}
        for j in range(subjects)
        for t in TIMES
        if t == TIMES[j % 3] or rng.random() > missing
    ]
    return uq.Observations.from_table(
        pd.DataFrame(rows), output="y", value="y", coords={"t": "t"}, conditions=["x"], subject="id"
    )


def error_over_noise(problem: uq.PopulationCalibration, noise: float) -> float:
    """Return the surrogate's sd, truncation included, over that of the noise: root mean squares over the prior."""
    data, rng = problem.data, np.random.default_rng(0)
    own = problem.individuals(problem.prior_draws(200, rng), rng.standard_normal((200, problem.latents)))
    u, cells = data.unit_inputs(own), problem.data.cells
    covariance = data.surrogate.scores(u).covariance[0]  # (s, q, k, k)
    variance = np.diagonal(covariance, axis1=2, axis2=3)[..., cells.experiment]
    of_cells = np.einsum("sqn,nq->sn", variance, cells.basis**2) + np.sum(cells.truncation**2, axis=1)
    return float(np.sqrt(of_cells.mean()) / noise)


def small(*, centred: bool, subjects: int = 8) -> uq.PopulationCalibration:
    """Return a population in which two parameters differ."""
    surrogate, space = curve_surrogate()
    spread = {"a": uq.LogNormal(median=0.12, sigma=0.25), "b": uq.LogNormal(median=0.12, sigma=0.25)}
    population = uq.Population(space, individual=("a", "b"), spread=spread, centred=centred)
    return uq.Calibration(surrogate, table(subjects), uq.GaussianNoise(sd=SMALL_NOISE), population=population)


# --- one individual parameter: subjects integrated out by quadrature --------------------------------------------------


def one_parameter(subjects: int, surrogate_error: Literal["exact", "low-rank"]) -> uq.PopulationCalibration:
    """Return a population in which one parameter differs; the surrogate's sd is above the noise's."""
    space = uq.ParameterSpace(a=uq.Normal(1.0, 0.2), conditions={"x": uq.Condition(0.0, 1.0)})
    population = uq.Population(space, individual=("a",), spread=uq.LogNormal(median=0.15, sigma=0.3))
    design = uq.sobol(population.box(), 9, rng=1)
    a, x = (design[name].values[:, None] for name in ("a", "x"))
    y = 1.2 * a + 0.25 * np.sin(5.0 * x + a) + TIMES * (0.4 * a * x + 0.2 * np.cos(4.0 * x - a))
    curves = xr.DataArray(y, dims=("run", "t"), coords={"t": TIMES})
    settings = uq.GaussianProcess(outputs={"y": uq.Curve(max_scores=2)}, hyperparameters="point")
    surrogate = settings.fit(uq.ensemble.build(design, {"y": curves}))
    noise = uq.GaussianNoise(sd=NOISE)
    return uq.Calibration(surrogate, table(subjects), noise, population=population, surrogate_error=surrogate_error)


class Marginal:
    """Density of a population's mean, scale and of the features w of the shared error; its subjects are summed out.

    Given w, the low-rank likelihood is a product over subjects, each a sum over a lattice of values of its parameter
    (the trapezoid rule, whose error is far below rounding for smooth integrands that vanish at the ends). Draws of the
    subjects are points of the lattice, at which the library's likelihoods are evaluated.

    ======  =======================================================================
    p, g    combinations of condition and measured times; points of the lattice
    V       features of the cells over their noise and own error, (p, g, cells, M)
    e       residuals of the data without shared error, likewise, (J, g, cells)
    ======  =======================================================================
    """

    def __init__(self, problem: uq.PopulationCalibration) -> None:
        assert problem.lowrank is not None
        data, error = problem.data, problem.lowrank.error
        cells, self.error = data.cells, error
        self.unit = cells.unit  # inputs are in the order of conditions, subjects in that of the table
        box = data.surrogate.domain
        self.lattice = np.linspace(box.lower[0], box.upper[0], LATTICE)
        ((_, to_unit),) = list(data.walls())
        v = to_unit.forward(self.lattice)
        self.wall = -0.5 * (np.maximum(-v, 0.0) + np.maximum(v - 1.0, 0.0)) ** 2 / WALL**2
        measured = Measured.of(cells, np.arange(cells.experiments))
        key = np.column_stack([cells.conditions[:, 0], measured.basis.reshape(cells.experiments, -1)])
        _, first, self.kind = np.unique(key, axis=0, return_index=True, return_inverse=True)
        self.kind = self.kind.ravel()
        at = cells.conditions[first]
        u = np.stack(
            [data.unit_inputs({"a": np.full((1, len(at)), a)}, at, units=np.arange(len(at)))[0] for a in self.lattice],
            axis=1,
        )
        mean, phi, rho = (one[0] for one in error.at(u))  # (p, g, ...)
        here, B, E = measured.here[first], measured.basis[first], measured.truncation[first]
        C = np.einsum("pcq,pgq,pdq->pgcd", B, rho, B) + (E @ E.transpose(0, 2, 1))[:, None]
        i = np.arange(here.shape[1])
        C[..., i, i] += np.where(here, NOISE**2, 1.0)[:, None]
        root = np.linalg.cholesky(C)
        self.inverse = np.linalg.inv(root)
        by_score = np.zeros((*phi.shape[:2], B.shape[1], phi.shape[2]))
        for j in range(error.q):
            of_score = error.score == j
            by_score[..., of_score] = B[:, None, :, j, None] * phi[:, :, None, of_score]
        self.V = self.inverse @ by_score
        self.centre = measured.offset[first][:, None] + np.einsum("pcq,pgq->pgc", B, mean)
        self.log_det = np.log(np.diagonal(root, axis1=2, axis2=3)).sum(axis=2) + 0.5 * here.sum(axis=1)[
            :, None
        ] * np.log(2.0 * np.pi)
        self.here = measured.here
        self.M = phi.shape[2]
        self.members = [np.flatnonzero(self.kind == p) for p in range(len(first))]
        prior = problem.priors
        self.prior = (prior["a"].mean, prior["a"].sd, np.log(prior["omega_a"].median), prior["omega_a"].sigma)

    def of(self, problem: uq.PopulationCalibration) -> "Data":
        """Return the density for the values of a problem of this layout."""
        cells = problem.data.cells
        values = Measured.of(cells, np.arange(cells.experiments)).mean
        residual = (values[:, None] - self.centre[self.kind]) * self.here[:, None]
        e = np.matmul(self.inverse[self.kind], residual[..., None])[..., 0]
        return Data(self, problem, e, -0.5 * np.sum(e**2, axis=2) - self.log_det[self.kind])


class Data:
    """`Marginal` for given values."""

    def __init__(self, layout: Marginal, problem: uq.PopulationCalibration, e: Array, constant: Array) -> None:
        self.layout, self.problem, self.e, self.constant = layout, problem, e, constant

    def terms(self, eta: Array) -> tuple[Array, Array]:
        """Return log p(z_j | a_g, w) and log of the prior's mass, (J, g) and (g,), at eta = (mean, log scale, w)."""
        one = self.layout
        shift = one.V @ eta[2:]  # (p, g, c)
        likelihood = self.constant + np.einsum("jgc,jgc->jg", self.e, shift[one.kind])
        likelihood -= 0.5 * np.sum(shift**2, axis=2)[one.kind]
        x = (one.lattice - eta[0]) / np.exp(eta[1])
        step = one.lattice[1] - one.lattice[0]
        return likelihood, -0.5 * x**2 - eta[1] - 0.5 * np.log(2.0 * np.pi) + np.log(step) + one.wall

    def log_density(self, eta: Array) -> float:
        """Return the log-density of eta, up to the evidence."""
        likelihood, mass = self.terms(eta)
        joint = likelihood + mass
        top = joint.max(axis=1, keepdims=True)
        return self._value(top, np.exp(joint - top).sum(axis=1), eta)

    def _value(self, top: Array, total: Array, eta: Array) -> float:
        mean, sd, log_median, sigma = self.layout.prior
        prior = ((eta[0] - mean) / sd) ** 2 + ((eta[1] - log_median) / sigma) ** 2 + float(eta[2:] @ eta[2:])
        return float(np.sum(top) + np.sum(np.log(total)) - 0.5 * prior)

    def value_and_slope(self, eta: Array) -> tuple[float, Array]:
        """Return the log-density of eta and its derivative."""
        one = self.layout
        likelihood, mass = self.terms(eta)
        joint = likelihood + mass
        top = joint.max(axis=1, keepdims=True)
        weight = np.exp(joint - top)
        total = weight.sum(axis=1, keepdims=True)
        weight /= total
        x = (one.lattice - eta[0]) / np.exp(eta[1])
        at = weight.sum(axis=0)
        slope = np.empty(len(eta))
        slope[0] = at @ x / np.exp(eta[1])
        slope[1] = at @ (x**2 - 1.0)
        shift = one.V @ eta[2:]
        pull = np.zeros(shift.shape)
        for p, members in enumerate(one.members):
            pull[p] = np.einsum("jg,jgc->gc", weight[members], self.e[members])
            pull[p] -= weight[members].sum(axis=0)[:, None] * shift[p]
        slope[2:] = np.einsum("pgcm,pgc->m", one.V, pull)
        mean, sd, log_median, sigma = one.prior
        slope[0] -= (eta[0] - mean) / sd**2
        slope[1] -= (eta[1] - log_median) / sigma**2
        slope[2:] -= eta[2:]
        return self._value(top, total, eta), slope

    def weighted(self, count: int, rng: np.random.Generator) -> tuple[Array, Array, float]:
        """Return points (n, 2 + M), log weights (n,) that add up to one, and k-hat.

        `count` Student-t draws around the mode; once more around what these say, where the weights are uneven, and
        twice as many as before from the fourth round on.
        """
        centre, root = self._mode()
        for k in range(ROUNDS):
            D, count = len(centre), count if k < EARLY else 2 * count
            normal = rng.standard_normal((count, D))
            stretch = np.sqrt(FREEDOM / rng.chisquare(FREEDOM, count))
            eta = centre + stretch[:, None] * normal @ root.T
            square = np.sum((stretch[:, None] * normal) ** 2, axis=1)
            proposal = -0.5 * (FREEDOM + D) * np.log1p(square / FREEDOM)
            raw = np.array([self.log_density(one) for one in eta]) - proposal
            log_weights, k_hat = array_stats.psislw(raw.max() - raw)
            log_weights -= np.logaddexp.reduce(log_weights)
            weight = np.exp(log_weights)
            if k_hat < 0.5 and 1.0 / np.sum(weight**2) > ENOUGH:
                break
            power = 1.0
            while 1.0 / np.sum(weight**2) < 10 * D:  # too few draws would say that the law is narrow
                power *= 0.7
                weight = np.exp(power * (raw - raw.max()))
                weight /= weight.sum()
            centre = weight @ eta
            off = eta - centre
            root = np.linalg.cholesky((off * weight[:, None]).T @ off + 1e-12 * np.eye(D))
        return eta, log_weights, float(k_hat)

    def _mode(self) -> tuple[Array, Array]:
        mean, sd, log_median, _ = self.layout.prior

        def down(eta: Array) -> tuple[float, Array]:
            value, slope = self.value_and_slope(eta)
            return -value, -slope

        found = [
            minimize(
                down,
                np.concatenate([[mean + step * sd, log_median], np.zeros(self.layout.M)]),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": 500},
            )
            for step in STARTS
        ]
        eta = min(found, key=lambda one: float(one.fun)).x
        steps = 1e-4 * np.eye(len(eta))
        hessian = np.array([(down(eta + one)[1] - down(eta - one)[1]) / 2e-4 for one in steps])
        values, vectors = np.linalg.eigh(0.5 * (hessian + hessian.T))
        return eta, (vectors / np.sqrt(np.maximum(values, 0.5))) @ vectors.T

    def subjects(self, eta: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Return for each eta (S, 2 + M) a draw of all subjects (S, J), and log p(z, w | subjects) (S,)."""
        drawn, logs = [], []
        for one in eta:
            likelihood, mass = self.terms(one)
            joint = likelihood + mass
            weight = np.exp(joint - joint.max(axis=1, keepdims=True))
            levels = np.cumsum(weight, axis=1)
            g = (levels < rng.random((len(weight), 1)) * levels[:, -1:]).sum(axis=1)
            w = one[2:]
            logs.append(likelihood[np.arange(len(g)), g].sum() - 0.5 * w @ w - 0.5 * len(w) * np.log(2.0 * np.pi))
            drawn.append(self.layout.lattice[g])
        return np.array(drawn), np.array(logs)

    def of_library(self, eta: Array, a: Array) -> tuple[Array, Array]:
        """Return the library's log-likelihood and log p(w | subjects, z), both (S,)."""
        theta, z = self.standardised(eta, a)
        own, lowrank = self.problem.individuals(theta, z), self.problem.lowrank
        assert lowrank is not None
        value = self.problem.log_likelihood(theta, z) - self.problem.data.wall(own)
        u, sigma = self.problem.data.unit_inputs(own), np.full((len(a), 1), NOISE)
        law = lowrank.condition(u, sigma, self.problem.data.cells.z)
        half = np.einsum("sji,sj->si", law.factor[0], eta[:, 2:] - law.mean[0])
        log_det = np.log(np.diagonal(law.factor[0], axis1=1, axis2=2)).sum(axis=1)
        return value, log_det - 0.5 * np.sum(half**2, axis=1) - 0.5 * self.layout.M * np.log(2.0 * np.pi)

    def standardised(self, eta: Array, a: Array) -> tuple[dict[str, Array], Array]:
        """Return what is known of the population (S,), and standard normal effects (S, J), for subjects (S, J)."""
        a = a[:, np.argsort(self.layout.unit)]
        return {"a": eta[:, 0], "omega_a": np.exp(eta[:, 1])}, (a - eta[:, :1]) / np.exp(eta[:, 1:2])

    def at_its_features(self, rng: np.random.Generator) -> "Data":
        """Return the same data with features for where the subjects are, as the library's sampler takes them."""
        eta = np.tile(self._mode()[0], (CLOUDS, 1))
        theta, z = self.standardised(eta, self.subjects(eta, rng)[0])
        moved = self.problem.with_features(theta, z, rng)
        return Marginal(moved).of(moved)


# --- a linear simulator, whose posterior is known ---------------------------------------------------------------------

ERROR_SD = NOISE_SD = OMEGA = 0.5
ELL = 2.0  # of the error over the condition, which differs between subjects: their errors are alike


def linear_surrogate() -> uq.Surrogate:
    """Return y = theta + error(x): one run too far away to say anything, an error that does not depend on theta."""
    process = ScoreProcess(
        kernel=Matern52(),
        x=np.array([[0.5, 1e6]]),
        y=np.zeros((1, 1)),
        ell=np.array([[[1e7, ELL]]]),
        variance=np.array([[ERROR_SD**2]]),
        nugget=np.zeros((1, 1)),
        jitter=np.zeros((1, 1)),
        beta=np.array([[[-8.0, 16.0, 0.0]]]),
        target=np.zeros((1, 1, 1)),
        inverse_factor=np.full((1, 1, 1, 1), 1.0 / ERROR_SD),
        trend_factor=np.zeros((1, 1, 1, 3)),
        trend_root=np.zeros((1, 1, 3, 3)),
        log_weights=np.zeros(1),
    )
    box = Box(("theta", "x"), (-8.0, 0.0), (8.0, 1.0), ("identity",) * 2, ((False, False), (True, True)))
    output = OutputBasis("y", Layout(), np.zeros(1), np.ones((1, 1)), np.zeros((1, 0)), np.zeros(0))
    space = uq.ParameterSpace(theta=uq.Normal(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0)})
    return GaussianProcessSurrogate(box, process, (output,), {"space": space.to_json()})


def _places(subjects: int) -> Array:
    return (np.arange(subjects) + 0.5) / subjects


def _error_covariance(x: Array) -> Array:
    a = np.sqrt(5.0) * np.abs(x[:, None] - x) / ELL
    return ERROR_SD**2 * (1.0 + a + a**2 / 3.0) * np.exp(-a)


def linear_population(values: Array) -> uq.PopulationCalibration:
    """Return the population of a linear simulator for one measurement of each subject (J,)."""
    frame = pd.DataFrame({"id": [f"s{j:02d}" for j in range(len(values))], "x": _places(len(values)), "y": values})
    data = uq.Observations.from_table(frame, output="y", value="y", conditions=["x"], subject="id")
    space = uq.ParameterSpace(theta=uq.Normal(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0)})
    population = uq.Population(space, individual=("theta",), spread=OMEGA)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # one subject says nothing of a spread, which is known here
        noise = uq.GaussianNoise(sd=NOISE_SD)
        return uq.Calibration(linear_surrogate(), data, noise, population=population)


def linear_values(subjects: int, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return means of populations (n,) and data (n, J), from the definition."""
    mean = rng.standard_normal(n)
    root = np.linalg.cholesky(_error_covariance(_places(subjects)))
    y = mean[:, None] + OMEGA * rng.standard_normal((n, subjects)) + rng.standard_normal((n, subjects)) @ root.T
    return mean, y + NOISE_SD * rng.standard_normal((n, subjects))


def closed_form(values: Array) -> tuple[Array, float]:
    """Return means (n,) and sd of the posterior of the population's mean for data (n, J)."""
    J = values.shape[1]
    covariance = _error_covariance(_places(J)) + (NOISE_SD**2 + OMEGA**2) * np.eye(J)
    weights = np.linalg.solve(covariance, np.ones(J))
    variance = 1.0 / (1.0 + weights.sum())
    return variance * values @ weights, float(np.sqrt(variance))


def linear_posterior(problem: uq.PopulationCalibration, values: Array) -> tuple[Array, float]:
    """Return means (n,) and sd of the population's mean by the library's likelihood.

    Log prior + likelihood is quadratic here, so that differences over steps of 1 are exact derivatives; second ones do
    not depend on the data.
    """
    D = 1 + problem.latents

    def density(at: Array, one: uq.PopulationCalibration) -> Array:
        return one.log_likelihood({"theta": at[:, 0]}, at[:, 1:]) - 0.5 * np.sum(at**2, axis=1)

    eye = np.eye(D)
    first, second = np.tril_indices(D)
    found = density(np.vstack([np.zeros(D), eye, eye[first] + eye[second]]), problem.with_values(values[0]))
    hessian = np.empty((D, D))
    hessian[first, second] = hessian[second, first] = found[1 + D :] - found[1 + first] - found[1 + second] + found[0]
    covariance = np.linalg.inv(-hessian)
    ends = [density(np.vstack([eye, -eye]), problem.with_values(row)) for row in values]
    slopes = np.array([0.5 * (one[:D] - one[D:]) for one in ends])
    return slopes @ covariance[0], float(np.sqrt(covariance[0, 0]))
