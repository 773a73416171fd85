"""Discrepancy against exact references: quadrature over its scale and length, and Gaussian conditioning by hand."""

from collections.abc import Callable
from typing import Any

import arviz_stats
import numpy as np
import pytest
import xarray as xr
from calibration.problems import by_quadrature, given_surrogate, matern52

import uqms as uq
from uqms.calibration.predict import conditional_moments, make_grid

T = 5
SEEN = (0.1, 0.6)
THETA, SIGMA, DELTA, ELL_T, ELL_X = 0.4, 0.3, 0.7, 1.5, 0.6
FREE = uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0)})
NORMAL = uq.CustomNoise(
    logp=lambda z, y, p, xp: -0.5 * ((z - y) / SIGMA) ** 2 - np.log(SIGMA) - 0.5 * np.log(2 * np.pi),
    random=lambda y, p, rng: y + SIGMA * rng.standard_normal(y.shape),
)


def curve() -> uq.Surrogate:
    """Return a surrogate of a curve over t = 0..4 in theta and x, with truncation."""
    rng = np.random.default_rng(3)
    return given_surrogate(
        rng.random((7, 2)),
        rng.standard_normal((7, 2)),
        ell=0.5,
        basis=rng.standard_normal((T, 2)),
        truncation=0.2 * rng.standard_normal((T, 1)),
        offset=rng.standard_normal(T),
        names=("theta", "x"),
        space=FREE,
    )


def measured() -> uq.Observations:
    """Return curves at two conditions, one value missing: the mean at THETA, a smooth discrepancy and noise."""
    surrogate, t = curve(), np.arange(T, dtype=float)
    decoder = surrogate.decode("y", {"t": t})
    scores = surrogate.scores(np.array([[THETA, x] for x in SEEN])).mean[0]
    noise = SIGMA * np.random.default_rng(4).standard_normal((2, T))
    values = decoder.offset + scores @ decoder.basis.T + DELTA * np.cos(t) + noise
    values[1, 2] = np.nan
    coords: dict[str, Any] = {"t": np.arange(T, dtype=float), "x": ("experiment", list(SEEN))}
    data = xr.DataArray(values, dims=("experiment", "t"), coords=coords, name="y")
    return uq.Observations.from_xarray(data, conditions=("x",), missing="drop")


# ------------------------------------------------------------------------------------------------- 3-D quadrature
@pytest.mark.slow
def test_smc_agrees_with_quadrature_over_theta_scale_and_length() -> None:
    delta = uq.GPDiscrepancy(sd=uq.Uniform(0.0, 2.0), length=uq.Uniform(0.3, 4.0), over=["t"])
    problem = uq.Calibration(curve(), measured(), uq.GaussianNoise(sd=SIGMA), discrepancy=delta)
    assert list(problem.priors) == ["theta", "delta_sd", "delta_length_t"]
    grids = [low + (high - low) * (np.arange(40) + 0.5) / 40 for low, high in ((0.0, 1.0), (0.0, 2.0), (0.3, 4.0))]
    evidence, mean, sd, _ = by_quadrature(problem, *grids)
    coarse = by_quadrature(problem, *(grid[::2] + 0.5 * (grid[1] - grid[0]) for grid in grids))
    np.testing.assert_array_less(np.abs(coarse[1] - mean) / sd, 0.02)  # the grid is fine enough
    trace = uq.SMC(particles=1500, chains=4).run(problem, 1)
    found = trace["sample_stats"]["log_marginal_likelihood"].values
    assert abs(found.mean() - evidence) < 4 * found.std(ddof=1) / 2 + 0.01
    for name, centre, spread in zip(problem.priors, mean, sd, strict=True):
        draws = trace["posterior"][name].values
        ess = float(arviz_stats.ess(draws))
        assert draws.mean() == pytest.approx(centre, abs=4 * spread / np.sqrt(ess)), name
        assert 0.95 < draws.std() / spread < 1.05, name


# --------------------------------------------------------------------------------- prediction by Gaussian conditioning
Covariance = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def shared(t: np.ndarray, x: np.ndarray, t2: np.ndarray, x2: np.ndarray) -> np.ndarray:
    """Return the covariance of one Gaussian process over t and x."""
    r = np.hypot((t[:, None] - t2) / ELL_T, (x[:, None] - x2) / ELL_X)
    return DELTA**2 * matern52(r, 1.0)


def unshared(t: np.ndarray, x: np.ndarray, t2: np.ndarray, x2: np.ndarray) -> np.ndarray:
    """Return that of one over t for each condition."""
    return DELTA**2 * matern52(t[:, None] - t2, ELL_T) * (x[:, None] == x2)


def offset(t: np.ndarray, x: np.ndarray, t2: np.ndarray, x2: np.ndarray) -> np.ndarray:
    """Return that of a number everywhere."""
    return np.full((len(t), len(t2)), DELTA**2)


def drift(t: np.ndarray, x: np.ndarray, t2: np.ndarray, x2: np.ndarray) -> np.ndarray:
    """Return that of a slope in t."""
    return DELTA**2 * np.outer(t, t2)


CASES: dict[str, tuple[Any, Covariance]] = {
    "shared": (uq.GPDiscrepancy(sd=DELTA, length={"t": ELL_T, "x": ELL_X}), shared),
    "unshared": (uq.GPDiscrepancy(sd=DELTA, length=ELL_T, over=["t"], shared=False), unshared),
    "orthogonal": (uq.GPDiscrepancy(sd=DELTA, length={"t": ELL_T, "x": ELL_X}, orthogonal=True), shared),
    "offset": (uq.OffsetDiscrepancy(sd=DELTA), offset),
    "basis": (uq.BasisDiscrepancy([lambda at: at["t"]], sd=DELTA), drift),
}
NEW_X = np.array([0.1, 0.6, 0.35])
NEW_T = np.array([0.0, 1.5, 4.0])


def predicted(problem: uq.Calibration, eta: np.ndarray, *, discrepancy: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and sd at (NEW_X, NEW_T) of the library's prediction at THETA, a mixture over the latents (S, L)."""
    grid, count = make_grid(problem.data_model, "y", {"x": NEW_X}, {"t": NEW_T}), len(eta)
    theta, h = {"theta": np.full(count, THETA)}, np.zeros(count, dtype=np.int64)
    parts = [m for _, m in conditional_moments(problem, theta, h, grid.targets, eta, discrepancy)]
    mean = np.concatenate([one.mean for one in parts])
    variance = np.concatenate([np.diagonal(one.covariance, axis1=1, axis2=2) for one in parts])
    sd = np.sqrt(variance.mean(axis=0) + mean.var(axis=0))
    return grid.labelled(mean.mean(axis=0), (), "").values, grid.labelled(sd, (), "").values


def by_hand(
    problem: uq.Calibration, theta: float, kernel: Covariance, *, orthogonal: bool = False, discrepancy: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and sd at (NEW_X, NEW_T) given the data, written out for one value of theta."""
    table = problem.observations.table
    x = np.concatenate([table["x"], np.repeat(NEW_X, len(NEW_T))])
    t = np.concatenate([table["t"], np.tile(NEW_T, len(NEW_X))])
    n = len(table)

    def mean_of(value: float) -> np.ndarray:
        scores = problem.surrogate.scores(np.column_stack([np.full(len(x), value), x]))
        decoder = problem.surrogate.decode("y", {"t": t})
        return decoder.offset + np.sum(decoder.basis * scores.mean[0], axis=1)

    decoder = problem.surrogate.decode("y", {"t": t})
    scores = problem.surrogate.scores(np.column_stack([np.full(len(x), theta), x]))
    simulator = np.einsum("aj,jab,bj->ab", decoder.basis, scores.covariance[0], decoder.basis)
    simulator += (x[:, None] == x) * (decoder.truncation @ decoder.truncation.T)
    delta = kernel(t, x, t, x)
    if orthogonal:  # given that the discrepancy at the data has no part along the slope of the mean
        slope = ((mean_of(theta + 1e-5) - mean_of(theta - 1e-5)) / 2e-5)[:n]
        along = delta[:, :n] @ slope
        delta = delta - np.outer(along, along) / (slope @ along[:n])
    data = (simulator + delta)[:n, :n] + SIGMA**2 * np.eye(n)
    wanted = simulator + delta if discrepancy else simulator
    gain = np.linalg.solve(data, wanted[:n, n:])
    mean = mean_of(theta)
    variance = np.diag(wanted[n:, n:] - wanted[n:, :n] @ gain)
    predicted = mean[n:] + gain.T @ (table["value"].to_numpy() - mean[:n])
    return predicted.reshape(len(NEW_X), -1), np.sqrt(variance).reshape(len(NEW_X), -1)


@pytest.mark.parametrize("name", list(CASES))
def test_prediction_with_and_without_discrepancy_is_gaussian_conditioning(name: str) -> None:
    discrepancy, kernel = CASES[name]
    problem = uq.Calibration(curve(), measured(), uq.GaussianNoise(sd=SIGMA), discrepancy=discrepancy)
    for included in (True, False):
        found = predicted(problem, np.zeros((1, 0)), discrepancy=included)
        mean, sd = by_hand(problem, THETA, kernel, orthogonal=name == "orthogonal", discrepancy=included)
        np.testing.assert_allclose(found[0], mean, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found[1], sd, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["shared", "unshared", "orthogonal"])
def test_prediction_given_latents_averages_to_that_given_data(name: str) -> None:
    """Gaussian noise through the latents: eta of its exact posterior gives the prediction of the closed form."""
    discrepancy, kernel = CASES[name]
    problem = uq.Calibration(curve(), measured(), NORMAL, discrepancy=discrepancy)
    assert problem.data_model.form == "latent"
    size, n = problem.latents, len(problem.cells.z)
    u, phi = problem.unit_inputs({"theta": np.array([THETA])}), problem.noise.phi({}, (1,))

    def outputs(eta: np.ndarray) -> np.ndarray:
        count = len(eta)
        return problem.data_model.latent_outputs(np.repeat(u, count, 0), np.repeat(phi, count, 0), eta)[0][0]

    base = outputs(np.zeros((1, size)))[0]
    root = outputs(np.eye(size)) - base  # (latents, cells): the output is linear in eta
    rows = problem.cells.row_cell
    root, base = root[:, rows], base[rows]
    gain = root @ np.linalg.inv(root.T @ root + SIGMA**2 * np.eye(n))
    centre = gain @ (problem.cells.z - base)
    covariance = np.eye(size) - gain @ root.T
    count = 1000
    half = np.random.default_rng(5).multivariate_normal(np.zeros(size), covariance, count)
    eta = np.concatenate([centre + half, centre - half])  # antithetic: the mean is exact
    for included in (True, False):
        found = predicted(problem, eta, discrepancy=included)
        mean, sd = by_hand(problem, THETA, kernel, orthogonal=name == "orthogonal", discrepancy=included)
        np.testing.assert_allclose(found[0], mean, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found[1], sd, rtol=4 / np.sqrt(2 * count))
