"""Discrepancy, correlated noise and sampled latents, against dense normals and finite differences."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import xarray as xr
from calibration.problems import compiled_at, given_surrogate, matern52
from scipy.stats import multivariate_normal

import uqms as uq
from uqms.calibration import _latent_outputs
from uqms.calibration._terms import _projection
from uqms.calibration.density import covariance_of, term_variance
from uqms.surrogates import GaussianProcessSurrogate

T = 5


def curve(rng: np.random.Generator, columns: int = 1) -> GaussianProcessSurrogate:
    """Return a surrogate of a curve over t = 0..4 in theta and the condition x."""
    x = rng.random((7, 2))
    space = uq.ParameterSpace(theta=uq.Uniform(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0)})
    return given_surrogate(
        x,
        rng.standard_normal((7, 2)),
        ell=0.5,
        basis=rng.standard_normal((T, 2)),
        truncation=0.2 * rng.standard_normal((T, 2)),
        offset=rng.standard_normal(T),
        names=("theta", "x"),
        columns=columns,
        space=space,
    )


def measured(rng: np.random.Generator, replicates: int = 2) -> uq.Observations:
    """Return curves at three conditions, with replicates, one value missing."""
    values = rng.standard_normal((3, replicates, T))
    data = xr.DataArray(
        values,
        dims=("experiment", "replicate", "t"),
        coords={"t": np.arange(T, dtype=float), "x": ("experiment", [0.1, 0.4, 0.9])},
        name="y",
    )
    values[1, 0, 2] = np.nan
    return uq.Observations.from_xarray(data, conditions=("x",), missing="drop")


def dense(problem: uq.Calibration, theta: Mapping[str, float], extra: Any, factor: float = 1.0) -> float:
    """Return the log-density from mean and covariance of all rows, written out; `extra(row, row)` is added."""
    table = problem.observations.table
    scores = problem.surrogate.scores(np.array([[theta["theta"], x] for x in table["x"]]))
    decoder = problem.surrogate.decode("y", {"t": table["t"].to_numpy()})
    rows = len(table)
    mean = decoder.offset + np.sum(decoder.basis * scores.mean[0], axis=1)
    covariance = np.zeros((rows, rows))
    for a in range(rows):
        for b in range(rows):
            value = sum(
                decoder.basis[a, j] * decoder.basis[b, j] * scores.covariance[0, j, a, b]
                for j in range(decoder.basis.shape[1])
            )
            if table["x"][a] == table["x"][b]:
                value += decoder.truncation[a] @ decoder.truncation[b]
            covariance[a, b] = factor**2 * value + extra(table.iloc[a], table.iloc[b])
    covariance += theta["sigma"] ** 2 * np.eye(rows)
    return float(multivariate_normal(factor * mean, covariance).logpdf(table["value"]))


NOISE = uq.GaussianNoise(sd=uq.HalfNormal(1.0))


def test_a_gp_over_time_and_condition_is_the_dense_normal(rng: np.random.Generator) -> None:
    delta = uq.GPDiscrepancy(sd=uq.HalfNormal(0.5))
    problem = uq.Calibration(curve(rng), measured(rng), NOISE, discrepancy=delta)
    assert list(problem.priors) == ["theta", "sigma", "delta_sd", "delta_length_t", "delta_length_x"]
    theta = {"theta": 0.3, "sigma": 0.4, "delta_sd": 0.7, "delta_length_t": 1.5, "delta_length_x": 0.6}

    def extra(a: Any, b: Any) -> float:
        r = np.hypot((a["t"] - b["t"]) / 1.5, (a["x"] - b["x"]) / 0.6)
        return 0.7**2 * float(matern52(np.asarray(r), 1.0))

    assert float(problem.log_likelihood(theta)) == pytest.approx(dense(problem, theta, extra), rel=1e-10)


def test_an_unshared_gp_an_offset_and_a_factor(rng: np.random.Generator) -> None:
    several = [
        uq.GPDiscrepancy(sd=0.7, length={"t": 1.5}, over=["t"], shared=False),
        uq.OffsetDiscrepancy(sd=0.3),
        uq.ScaleDiscrepancy(sd=0.2),
        uq.BasisDiscrepancy([lambda at: at["t"], lambda at: at["x"] ** 2], sd=uq.HalfNormal(1.0)),
    ]
    problem = uq.Calibration(curve(rng), measured(rng), NOISE, discrepancy=several)
    assert list(problem.priors) == ["theta", "sigma", "scale", "basis_sd"]
    theta = {"theta": 0.3, "sigma": 0.4, "scale": -0.15, "basis_sd": 0.6}

    def extra(a: Any, b: Any) -> float:
        own = 0.7**2 * float(matern52(np.asarray(a["t"] - b["t"]), 1.5)) if a["x"] == b["x"] else 0.0
        return own + 0.3**2 + 0.36 * (a["t"] * b["t"] + a["x"] ** 2 * b["x"] ** 2)

    assert float(problem.log_likelihood(theta)) == pytest.approx(dense(problem, theta, extra, 0.85), rel=1e-10)


def test_autocorrelated_noise_is_new_with_each_replicate(rng: np.random.Generator) -> None:
    noise = uq.AutocorrelatedNoise(sd=uq.HalfNormal(1.0), length=1.7, white=uq.HalfNormal(1.0))
    problem = uq.Calibration(curve(rng), measured(rng), noise)
    assert list(problem.priors) == ["theta", "sigma", "sigma_ou"]
    theta = {"theta": 0.3, "sigma": 0.4, "sigma_ou": 0.8}

    def extra(a: Any, b: Any) -> float:
        same = a["x"] == b["x"] and a["replicate"] == b["replicate"]
        return 0.64 * float(np.exp(-abs(a["t"] - b["t"]) / 1.7)) if same else 0.0

    assert float(problem.log_likelihood(theta)) == pytest.approx(dense(problem, theta, extra), rel=1e-10)


@pytest.mark.parametrize("weak", [1.0, 1e-4, 1e-5, 1e-6])
def test_an_orthogonal_gp_has_no_part_along_a_slope_that_is_weak(weak: float) -> None:
    """Slopes of parameters may differ a millionfold: the share of prior variance that is left along each is nought."""
    t = np.arange(12) / 4.0
    K = np.exp(-0.5 * (t[:, None] - t) ** 2)
    J = np.column_stack([np.cos(t), weak * np.sin(2.0 * t)])
    V, KJ = _projection(K, J)
    left = np.diagonal(J.T @ (K - KJ @ V) @ J) / np.diagonal(J.T @ K @ J)
    assert left.max() < 1e-3


def test_an_orthogonal_gp_has_no_part_along_the_slope_of_the_mean(rng: np.random.Generator) -> None:
    problem = uq.Calibration(
        curve(rng), measured(rng), NOISE, discrepancy=uq.GPDiscrepancy(sd=0.7, length=1.0, orthogonal=True)
    )
    u = problem.unit_inputs({"theta": np.array([0.3])})
    slope = problem.data_model.mean_slopes(u)[0]
    step = 1e-6
    ends = [
        problem.cells.offset
        + np.sum(
            problem.surrogate.scores(problem.unit_inputs({"theta": np.array([0.3 + sign * step])})).mean[0, 0][
                problem.cells.experiment
            ]
            * problem.cells.basis,
            axis=1,
        )
        for sign in (1, -1)
    ]
    np.testing.assert_allclose(slope[0, :, 0], (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-7)
    K = covariance_of(problem.data_model, problem.noise.phi({"sigma": np.array([1.0])}, (1,)), slope)[0]
    plain = uq.Calibration(
        curve(np.random.default_rng(0)), measured(rng), NOISE, discrepancy=uq.GPDiscrepancy(sd=0.7, length=1.0)
    )
    whole = covariance_of(plain.data_model, plain.noise.phi({"sigma": np.array([1.0])}, (1,)), slope[..., :0])[0]
    J = slope[0]
    np.testing.assert_allclose(K @ J, 0.0, atol=1e-6 * np.abs(whole @ J).max())
    expected = whole - whole @ J @ np.linalg.inv(J.T @ whole @ J) @ J.T @ whole
    np.testing.assert_allclose(K, expected, atol=1e-8)


DISCREPANCIES = {
    "gp": uq.GPDiscrepancy(),
    "orthogonal": uq.GPDiscrepancy(orthogonal=True, over=["t"]),
    "all": [
        uq.GPDiscrepancy(over=["t"], shared=False),
        uq.OffsetDiscrepancy(),
        uq.ScaleDiscrepancy(),
        uq.BasisDiscrepancy([lambda at: at["t"]]),
    ],
}


def blocks(problem: uq.Calibration, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    surrogate = problem.surrogate
    assert isinstance(surrogate, GaussianProcessSurrogate)
    block = np.concatenate([surrogate.process.select(problem.cells.used).flat(), problem.data_model.structure])
    u = problem.unit_inputs({"theta": np.array(0.37)})
    phi = problem.noise.phi({name: np.array(rng.uniform(0.3, 0.9)) for name in problem.noise.unknown}, ())
    return block, u, phi


def central(function: Any, at: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Return the derivative of a number by an array."""
    out = np.zeros(at.size)
    for i in range(at.size):
        shift = np.zeros(at.size)
        shift[i] = step
        ends = [function(at + sign * shift.reshape(at.shape)) for sign in (1, -1)]
        out[i] = (ends[0] - ends[1]) / (2 * step)
    return out.reshape(at.shape)


@pytest.mark.parametrize("name", list(DISCREPANCIES))
def test_derivatives_of_the_density(name: str, rng: np.random.Generator) -> None:
    problem = uq.Calibration(curve(rng), measured(rng), NOISE, discrepancy=DISCREPANCIES[name])
    block, u, phi = blocks(problem, rng)
    z = problem.cells.z
    value, u_bar, phi_bar = compiled_at(problem, u, phi, z)
    assert float(value) == pytest.approx(
        float(
            problem.log_likelihood(
                {"theta": 0.37, **{k: v for k, v in zip(problem.noise.keys, phi, strict=True) if k in problem.priors}}
            )
        ),
        rel=1e-10,
    )
    np.testing.assert_allclose(
        u_bar, central(lambda at: float(compiled_at(problem, at, phi, z)[0]), u), rtol=2e-5, atol=2e-5
    )
    np.testing.assert_allclose(
        phi_bar, central(lambda at: float(compiled_at(problem, u, at, z)[0]), phi), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", list(DISCREPANCIES))
def test_derivatives_of_the_latent_outputs(name: str, rng: np.random.Generator) -> None:
    problem = uq.Calibration(curve(rng), measured(rng), uq.StudentTNoise(scale=0.5), discrepancy=DISCREPANCIES[name])
    assert problem.data_model.form == "latent"
    block, u, phi = blocks(problem, rng)
    eta = rng.standard_normal(int(_latent_outputs.latent_count(problem.data_model.structure)))
    weight = rng.standard_normal((1, len(problem.cells.offset)))
    u_bar, phi_bar, eta_bar = _latent_outputs.fused_outputs_reverse(block, u, phi, eta, weight)

    def value(u: np.ndarray, phi: np.ndarray, eta: np.ndarray) -> float:
        return float(np.sum(weight * _latent_outputs.fused_outputs(block, u, phi, eta)))

    np.testing.assert_allclose(eta_bar, central(lambda at: value(u, phi, at), eta), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(u_bar, central(lambda at: value(at, phi, eta), u), rtol=3e-5, atol=3e-5)
    np.testing.assert_allclose(phi_bar, central(lambda at: value(u, at, eta), phi), rtol=2e-5, atol=2e-5)


def test_latents_integrate_to_the_closed_form(rng: np.random.Generator) -> None:
    """Gaussian noise through the latents, averaged over them, is the marginal density."""
    surrogate, data = curve(rng), measured(rng, 1)
    delta = [uq.GPDiscrepancy(sd=0.3, length=1.0), uq.ScaleDiscrepancy(0.1)]
    normal = uq.CustomNoise(
        logp=lambda z, y, p, xp: -0.5 * ((z - y) / p["sigma"]) ** 2 - xp.log(p["sigma"]) - 0.5 * np.log(2 * np.pi),
        random=lambda y, p, rng: y + p["sigma"] * rng.standard_normal(y.shape),
        parameters={"sigma": uq.HalfNormal(1.0)},
    )
    closed = uq.Calibration(surrogate, data, NOISE, discrepancy=delta)
    sampled = uq.Calibration(surrogate, data, normal, discrepancy=delta)
    assert (closed.data_model.form, sampled.data_model.form) == ("correlated", "latent")
    theta = {"theta": 0.3, "sigma": 2.0, "scale": 0.05}
    count = 200_000
    eta = rng.standard_normal((count, sampled.latents))
    value = sampled.log_likelihood({name: np.full(count, one) for name, one in theta.items()}, eta)
    top = value.max()
    weights = np.exp(value - top)
    found, error = top + np.log(weights.mean()), weights.std() / weights.mean() / np.sqrt(count)
    assert error < 0.02
    assert abs(found - float(closed.log_likelihood(theta))) < 4 * error


@pytest.mark.parametrize("name", ["gp", "all"])
def test_variances_of_terms_are_the_diagonal_of_their_covariance(name: str, rng: np.random.Generator) -> None:
    problem = uq.Calibration(curve(rng), measured(rng), NOISE, discrepancy=DISCREPANCIES[name])
    theta = problem.prior_draws(3, 1)
    phi = problem.noise.phi(theta, (3,))
    whole = covariance_of(problem.data_model, phi, np.zeros((3, len(problem.cells.offset), 0)))
    found = sum(term_variance(problem.data_model, term, theta) for term in problem.noise.terms)
    np.testing.assert_allclose(found, np.diagonal(whole, axis1=1, axis2=2), rtol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 300])
def test_the_root_of_many_inputs_that_are_close_to_each_other(count: int) -> None:
    # The error of a surrogate at hundreds of subjects has the rank of its runs, to rounding: without care 40 sds off.
    rng = np.random.default_rng(3)
    runs = rng.random((9, 2))
    x = np.column_stack([rng.normal(0.4, 0.1, count), rng.choice([0.1, 0.35, 0.65, 0.9], count)])

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return 3.0 * np.exp(-0.5 * np.sum((a[:, None] - b) ** 2, axis=2) / 0.7**2)

    inverse = np.linalg.inv(kernel(runs, runs) + 1e-6 * np.eye(9))
    covariance = kernel(x, x) - kernel(x, runs) @ inverse @ kernel(runs, x)
    covariance = 0.5 * (covariance + covariance.T)
    (root,) = _latent_outputs.roots(covariance[None], False)
    assert np.abs(root @ root.T - covariance).max() <= 1.1e-15 * max(count, 4) ** 2 * covariance.max()
    if count == 1:
        assert root[0, 0] == np.sqrt(covariance[0, 0])
