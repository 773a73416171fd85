"""Normal approximations of the latents given the parameters: closed forms, quadrature, and two modes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from calibration.problems import given_surrogate, replicates
from scipy.stats import multivariate_normal

import uqms as uq
from uqms._typing import Array
from uqms.calibration.latents import Conditional, conditional_latents, has_conditional
from uqms.calibration.noise import NoiseModel
from uqms.surrogates import Layout
from uqms.surrogates.transforms import IDENTITY

X = np.linspace(0.1, 0.9, 4)[:, None]
NORMAL = uq.CustomNoise(
    logp=lambda z, y, p, xp: -0.5 * ((z - y) / p["sigma"]) ** 2 - xp.log(p["sigma"]) - 0.5 * np.log(2 * np.pi),
    random=lambda y, p, rng: y + p["sigma"] * rng.standard_normal(y.shape),
    parameters={"sigma": uq.HalfNormal(1.0)},
)


def surrogate_of_curve() -> uq.Surrogate:
    """Return a surrogate of a curve at five times, far off between four runs."""
    t = np.arange(5.0)
    basis = np.column_stack([np.exp(-0.3 * t), 0.3 * t * np.exp(-0.5 * t)])
    scores = np.column_stack([1.2 * np.sin(5.0 * X[:, 0]), np.cos(4.0 * X[:, 0])])
    return given_surrogate(X, scores, ell=0.25, variance=0.5, basis=basis, truncation=0.05 * np.eye(5)[:, :2])


def curve(noise: NoiseModel = NORMAL, discrepancy: Any = None) -> uq.Calibration:
    """Return a calibration on a curve with two replicates."""
    values = np.array([[1.0, 0.8, 0.5, 0.4, 0.3], [1.1, 0.6, 0.5, 0.5, 0.1]])
    data = xr.DataArray(values, dims=("replicate", "t"), coords={"t": np.arange(5.0)}, name="y")
    return uq.Calibration(surrogate_of_curve(), uq.Observations.from_xarray(data), noise, discrepancy=discrepancy)


def number(noise: NoiseModel, values: list[float]) -> uq.Calibration:
    """Return a calibration on replicates of a number whose surrogate is far off between runs: one latent."""
    plain = given_surrogate(X, 1.2 * np.sin(5.0 * X), ell=0.25, variance=0.5)
    layout = Layout((), {}, transform=uq.Log() if isinstance(noise, uq.PoissonNoise) else IDENTITY)
    surrogate = replace(plain, bases=(replace(plain.bases[0], layout=layout),))
    return uq.Calibration(surrogate, replicates(np.array([values])), noise)


def one(problem: uq.Calibration, theta: dict[str, Array]) -> Conditional:
    (found,) = conditional_latents(problem, theta)
    return found


def by_quadrature(problem: uq.Calibration, theta: dict[str, Array]) -> Array:
    """Return the log-likelihood with the one latent integrated out, (s,)."""
    eta = np.linspace(-9.0, 9.0, 6001)
    wide = {name: np.repeat(values, len(eta)) for name, values in theta.items()}
    s = len(next(iter(theta.values())))
    value = problem.log_likelihood(wide, np.tile(eta, s)[:, None]).reshape(s, -1) - 0.5 * eta**2
    return np.logaddexp.reduce(value, axis=1) + np.log(eta[1] - eta[0]) - 0.5 * np.log(2.0 * np.pi)


@pytest.mark.parametrize("delta", [None, [uq.GPDiscrepancy(sd=0.3, length=1.0), uq.ScaleDiscrepancy(0.1)]])
def test_outputs_are_linear_in_the_latents(delta: object, rng: np.random.Generator) -> None:
    problem = curve(discrepancy=delta)
    theta = problem.prior_draws(5, 1)
    u, phi = problem.unit_inputs(theta), problem.noise.phi(theta, (5,))
    eta = rng.standard_normal((5, problem.latents))
    y0, B, log_weights = problem.data_model.latent_map(u, phi)
    wanted, _ = problem.data_model.latent_outputs(u, phi, eta)
    np.testing.assert_allclose(y0 + np.einsum("hsnl,sl->hsn", B, eta), wanted, rtol=0, atol=1e-12)
    assert log_weights == pytest.approx([0.0])


@pytest.mark.parametrize("delta", [None, [uq.GPDiscrepancy(sd=0.3, length=1.0), uq.ScaleDiscrepancy(0.1)]])
def test_normal_noise_gives_the_closed_form(delta: object) -> None:
    problem = curve(discrepancy=delta)
    closed = curve(uq.GaussianNoise(uq.HalfNormal(1.0)), discrepancy=delta)
    assert (closed.latents, problem.latents > 0) == (0, True)
    theta = problem.prior_draws(200, 1)
    found = one(problem, theta)
    wanted = closed.log_likelihood(theta)
    np.testing.assert_allclose(found.log_marginal, wanted, rtol=1e-6, atol=1e-5)
    eta, log_weight, value = found.draw(3, np.random.default_rng(1))
    np.testing.assert_allclose(value[1], problem.log_likelihood(theta, eta[1]), rtol=1e-10, atol=1e-8)
    # Weights are those of a t law to a normal one: right on average.
    _, log_weight, _ = found.draw(4000, np.random.default_rng(2))
    weight = np.exp(log_weight - wanted)
    error = weight.std(axis=0) / np.sqrt(len(weight))
    assert np.max(np.abs(weight.mean(axis=0) - 1.0) / error) < 4.5  # of 200


LIMITS, SIDES = np.array([0.9, 0.8, 0.5, 0.4, 0.3]), np.array(["right", "left", "left", "left", "left"])


def behind_limits(sd: float) -> uq.Calibration:
    """Return a calibration on limits alone; each row has an error of its own, so that they bind several latents."""
    coords = {"t": np.arange(5.0), "censored": ("t", SIDES)}
    data = xr.DataArray(LIMITS, dims="t", coords=coords, name="y")
    own = uq.GPDiscrepancy(sd=0.4, length=0.5)
    return uq.Calibration(surrogate_of_curve(), data, uq.GaussianNoise(sd=sd), discrepancy=own)


@pytest.mark.parametrize("sd", [0.3, 0.003])
def test_detection_limits_give_the_probability_of_a_normal_law(sd: float) -> None:
    """With a small sd the mode lies at the edge of what the limits allow, far from where the mass is."""
    problem = behind_limits(sd)
    theta = problem.prior_draws(20, 1)
    found = one(problem, theta)
    assert len(found.modes) == 1
    lower, upper = np.where(SIDES == "right", LIMITS, -np.inf), np.where(SIDES == "left", LIMITS, np.inf)
    wanted = [
        multivariate_normal(y0, B @ B.T + sd**2 * np.eye(5), maxpts=10**5, abseps=1e-7, seed=1).cdf(
            upper, lower_limit=lower
        )
        for y0, B in zip(found.y0, found.B, strict=True)
    ]
    likely = np.array(wanted) > 1e-4  # what the numerical integral is precise for
    assert likely.sum() > 10
    wanted_log = np.log(np.array(wanted)[likely])
    np.testing.assert_allclose(found.log_marginal[likely], wanted_log, atol=0.15)
    _, log_weight, _ = found.draw(4000, np.random.default_rng(2))
    weight = np.exp(log_weight[:, likely] - wanted_log)
    error = weight.std(axis=0) / np.sqrt(len(weight))
    assert error.max() < 0.05
    assert np.max(np.abs(weight.mean(axis=0) - 1.0) / error) < 4.5


NOISES: dict[str, tuple[NoiseModel, list[float]]] = {
    "Poisson": (uq.PoissonNoise(), [2.0, 0.0, 1.0]),
    # With an outlier (1.0 for 0.5) one of 40 has a mode that is missed, and its weights a tail that shows it.
    "Student t": (uq.StudentTNoise(uq.LogNormal(0.2, 0.5)), [0.2, 0.5, 0.3]),
    "Laplace": (
        uq.CustomNoise(
            logp=lambda z, y, p, xp: -xp.abs(z - y) / p["scale"] - xp.log(2 * p["scale"]),
            random=lambda y, p, rng: y + p["scale"] * rng.laplace(size=y.shape),
            parameters={"scale": uq.LogNormal(0.2, 0.5)},
        ),
        [0.2, 1.0, 0.3],
    ),
}


@pytest.mark.parametrize("name", list(NOISES))
def test_weights_are_right_on_average_where_the_density_is_not_normal(name: str) -> None:
    problem = number(*NOISES[name])
    assert problem.latents == 1
    theta = problem.prior_draws(40, 1)
    wanted = by_quadrature(problem, theta)
    inside = np.isfinite(wanted)
    found = one(problem, theta)
    assert inside.sum() > 15
    _, log_weight, _ = found.draw(4000, np.random.default_rng(2))
    weight = np.exp(log_weight - wanted)[:, inside]
    error = weight.std(axis=0) / np.sqrt(len(weight)) + 1e-9
    assert np.max(np.abs(weight.mean(axis=0) - 1.0) / error) < 4.5
    assert np.median(error) < 0.03


@pytest.mark.slow
def test_a_second_mode_near_the_data_is_found() -> None:
    # A narrow density with long tails, far from what the surrogate expects: one mode at either.
    noise, theta = uq.StudentTNoise(scale=0.02, df=2.0), {"theta": np.array([0.24, 0.25, 0.26])}
    y0, B, _ = number(noise, [0.0, 0.0]).data_model.latent_map(
        theta["theta"][:, None, None], np.array([[0.02, 2.0]] * 3)
    )
    far = y0[0, 1, 0] - 6.5 * abs(B[0, 1, 0, 0])
    problem = number(noise, [far, far - 0.01])
    found = one(problem, theta)
    assert len(found.modes) == 2
    share = np.exp(found.log_weights)
    apart = np.abs(found.modes[1] - found.modes[0])[:, 0]
    both = np.isfinite(found.log_weights[1])
    assert both.any()
    assert apart[both].min() > 1.0
    np.testing.assert_allclose(share.sum(axis=0), 1.0)
    wanted = by_quadrature(problem, theta)
    np.testing.assert_allclose(found.log_marginal, wanted, atol=0.7)
    _, log_weight, _ = found.draw(20_000, np.random.default_rng(1))
    weight = np.exp(log_weight - wanted)
    error = weight.std(axis=0) / np.sqrt(len(weight))
    assert np.all(np.abs(weight.mean(axis=0) - 1.0) < 4.0 * error)
    assert error.max() < 0.05


def test_where_there_is_no_conditional() -> None:
    assert has_conditional(number(*NOISES["Poisson"]))
    assert not has_conditional(number(uq.GaussianNoise(0.1), [0.2]))  # no latents
    assert not has_conditional(object())
    design = uq.sobol(uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0)), 8, rng=1)
    runs = uq.ensemble.build(design, {"y": np.exp(design["theta"].values)})
    averaged = uq.GaussianProcess(hyperparameters="averaged").fit(runs)
    assert not has_conditional(
        uq.Calibration(averaged, replicates(np.array([[1.2, 1.4]])), uq.StudentTNoise(scale=0.1))
    )
