"""Small calibration problems whose posterior is known: Gaussian processes that are given, not trained."""

from collections.abc import Callable

import numpy as np
import xarray as xr
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import uqms as uq
from uqms.calibration._process_gaussian import at
from uqms.calibration.conditioned import ConditionedPrior
from uqms.parameters import Box
from uqms.surrogates import GaussianProcessSurrogate, Layout, Matern52
from uqms.surrogates.outputs import OutputBasis
from uqms.surrogates.process import ScoreProcess, condition
from uqms.surrogates.training import Hyperparameters


def given_surrogate(
    x: np.ndarray,
    scores: np.ndarray,
    *,
    ell: float = 0.4,
    variance: float = 1.0,
    basis: np.ndarray | None = None,
    truncation: np.ndarray | None = None,
    offset: np.ndarray | None = None,
    names: tuple[str, ...] = ("theta",),
    columns: int = 1,
    space: uq.ParameterSpace | None = None,
) -> GaussianProcessSurrogate:
    """Return a surrogate on the unit cube with hyperparameters that are given; one curve over "t", or a scalar."""
    n, d = x.shape
    q = scores.shape[1]
    one = Hyperparameters(np.full(d, ell), 0.0, 1e-12, 0.0, 1, False)
    process = condition(Matern52(), x, scores, columns, [one] * q, [variance] * q)
    basis = np.eye(q) if basis is None else basis
    m = len(basis)
    truncation = np.zeros((m, 0)) if truncation is None else truncation
    offset = np.zeros(m) if offset is None else offset
    layout = Layout(("t",), {"t": np.arange(m, dtype=float)}) if m > 1 else Layout()
    box = Box(names, (0.0,) * d, (1.0,) * d, ("identity",) * d, ((True, True),) * d)
    output = OutputBasis(
        "y", layout, offset, basis, truncation, np.zeros(max(m - 1, 0)), np.zeros((n, truncation.shape[1]))
    )
    space = space or uq.ParameterSpace(**{name: uq.Uniform(0.0, 1.0) for name in names})
    return GaussianProcessSurrogate(box, process, (output,), {"space": space.to_json()})


def replicates(values: np.ndarray, conditions: np.ndarray | None = None) -> uq.Observations:
    """Return observations of a scalar "y" from values (K, R), one row of conditions "x" an experiment."""
    k, r = values.shape
    data = xr.DataArray(values, dims=("experiment", "replicate"), coords={"experiment": np.arange(k)}, name="y")
    if conditions is None:
        return uq.Observations.from_xarray(data)
    return uq.Observations.from_xarray(data.assign_coords(x=("experiment", conditions)), conditions=("x",))


def compiled_at(
    problem: uq.Calibration, u: np.ndarray, phi: np.ndarray, z: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the compiled log p(z | u, phi) and its derivatives by inputs (K, d) and hyperparameters."""
    value, u_bar, phi_bar = at(problem.data_model.block(), u, phi, z)
    return float(value), u_bar, phi_bar


def dense_covariance(
    problem: uq.Calibration, theta: dict[str, float], sigma: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of the raw rows by brute force, from the definition of the likelihood."""
    cells = problem.cells
    u = problem.unit_inputs({name: np.array(value) for name, value in theta.items()})
    scores = problem.surrogate.scores(u)
    k = cells.experiment
    mean = cells.offset + np.sum(cells.basis * scores.mean[0][k], axis=1)
    joint = np.zeros((len(k), len(k)))
    for a in range(len(k)):
        for b in range(len(k)):
            for j in range(cells.basis.shape[1]):
                joint[a, b] += cells.basis[a, j] * cells.basis[b, j] * scores.covariance[0, j, k[a], k[b]]
            if k[a] == k[b]:
                joint[a, b] += cells.truncation[a] @ cells.truncation[b]
    rows = cells.row_cell
    covariance = joint[np.ix_(rows, rows)] + np.diag(sigma[cells.group][rows] ** 2 * cells.row_variance)
    return mean[rows], covariance


def linear_surrogate(
    slope: float,
    sd: float,
    *,
    ell_x: float = 0.3,
    basis: np.ndarray | None = None,
    truncation: np.ndarray | None = None,
    prior: uq.Normal | None = None,
) -> GaussianProcessSurrogate:
    """Return y = slope * theta + error(x), whose error depends on the known condition x alone, with a fixed sd.

    Its posterior is exactly Gaussian. One training run lies too far away to say anything; the length scale of theta is
    so long that the error does not change along it. The box of theta is [-8, 8], that of x [0, 1].
    """
    basis = np.ones((1, 1)) if basis is None else basis
    truncation = np.zeros((len(basis), 0)) if truncation is None else truncation
    width = 16.0
    process = ScoreProcess(
        kernel=Matern52(),
        x=np.array([[0.5, 1e6]]),
        y=np.zeros((1, 1)),
        ell=np.array([[[1e7, ell_x]]]),
        variance=np.array([[sd**2]]),
        nugget=np.zeros((1, 1)),
        jitter=np.zeros((1, 1)),
        beta=np.array([[[-0.5 * width * slope, width * slope, 0.0]]]),
        target=np.zeros((1, 1, 1)),
        inverse_factor=np.full((1, 1, 1, 1), 1.0 / sd),
        trend_factor=np.zeros((1, 1, 1, 3)),
        trend_root=np.zeros((1, 1, 3, 3)),
        log_weights=np.zeros(1),
    )
    box = Box(("theta", "x"), (-8.0, 0.0), (8.0, 1.0), ("identity",) * 2, ((False, False), (True, True)))
    m = len(basis)
    layout = Layout(("t",), {"t": np.arange(m, dtype=float)}) if m > 1 else Layout()
    output = OutputBasis("y", layout, np.zeros(m), basis, truncation, np.zeros(max(m - 1, 0)))
    space = uq.ParameterSpace(theta=prior or uq.Normal(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0)})
    return GaussianProcessSurrogate(box, process, (output,), {"space": space.to_json()})


def matern52(distance: np.ndarray, ell: float) -> np.ndarray:
    """Matérn-5/2 correlation, written out."""
    a = np.sqrt(5.0) * np.abs(distance) / ell
    return (1.0 + a + a**2 / 3.0) * np.exp(-a)


class FakeProblem:
    """What samplers see of a calibration, around a function of standard-normal parameters "a", "b", ... and latents."""

    def __init__(self, log_likelihood: Callable[..., np.ndarray], parameters: int, latents: int = 0) -> None:
        self.function, self.latents = log_likelihood, latents
        self.priors = {name: uq.Normal(0.0, 1.0) for name in "abcdefghij"[:parameters]}

    def limits(self, name: str) -> tuple[float, float]:
        return self.priors[name].support

    @property
    def conditioned_prior(self) -> ConditionedPrior:
        return ConditionedPrior(self.priors, {name: self.limits(name) for name in self.priors})

    def log_likelihood(self, theta: dict[str, np.ndarray], **latents: np.ndarray) -> np.ndarray:
        return self.function(theta, **latents)

    def with_wider_noise(self, factor: float) -> "FakeProblem":
        return self

    def pieces(self, theta: dict[str, np.ndarray]) -> list[None]:
        return [None, None]  # several surrogates: no compiled density


def gaussian_target(
    d: int, correlation: float, sd: float, centre: float
) -> tuple[Callable[[np.ndarray], np.ndarray], float, np.ndarray, np.ndarray]:
    """Return a Gaussian log-likelihood of z (n, d); log evidence, mean and sds of its posterior with N(0, 1)^d."""
    covariance = sd**2 * ((1.0 - correlation) * np.eye(d) + correlation)
    m = np.full(d, centre)
    likelihood, marginal = multivariate_normal(m, covariance), multivariate_normal(m, covariance + np.eye(d))
    precision = np.linalg.inv(covariance)
    posterior = np.linalg.inv(precision + np.eye(d))
    evidence = float(marginal.logpdf(np.zeros(d)))
    return likelihood.logpdf, evidence, posterior @ precision @ m, np.sqrt(np.diag(posterior))


def unequal_modes() -> uq.Calibration:
    """Return a problem whose output is (theta - 0.5)²: two modes fit alike, the prior prefers the lower 4 : 1."""
    x = np.linspace(0.0, 1.0, 15)[:, None]
    space = uq.ParameterSpace(theta=uq.Beta(2.0, 3.0))
    surrogate = given_surrogate(x, 10.0 * (x - 0.5) ** 2, ell=0.6, variance=4.0, space=space)
    return uq.Calibration(surrogate, xr.DataArray(0.9, name="y"), uq.GaussianNoise(sd=0.05))


def by_quadrature(problem: uq.Calibration, *grids: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Return log evidence, means, sds, and the posterior's weights on a grid, by the midpoint rule."""
    axes = np.meshgrid(*grids, indexing="ij")
    theta = {name: axis.ravel() for name, axis in zip(problem.priors, axes, strict=True)}
    total = problem.log_likelihood(theta)
    for name, prior in problem.priors.items():
        low, high = problem.limits(name)
        total = total + prior.log_density(theta[name]) - np.log(prior.cdf(high) - prior.cdf(low))
    cell = np.prod([grid[1] - grid[0] for grid in grids])
    evidence = float(logsumexp(total) + np.log(cell))
    weights = np.exp(total - logsumexp(total))
    values = np.stack(list(theta.values()))
    mean = values @ weights
    return evidence, mean, np.sqrt((values - mean[:, None]) ** 2 @ weights), weights
