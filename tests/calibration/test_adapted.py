"""Calibrations through learned directions, amplitudes and local scales: dense normals, gradients by differences."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.stats import multivariate_normal
from surrogates.members import locally_scaled

import uqms as uq
from tests.frozen.values import Target
from uqms.calibration.population.shared_error import SharedError
from uqms.calibration.population.subject_prediction import covariances_of, featured, subjects_of

TIMES = np.linspace(0.0, 1.0, 4)
SPACE = uq.ParameterSpace(a=uq.LogitNormal(0.5, 0.5), b=uq.Uniform(0.0, 1.0), conditions={"x": uq.Condition(0.0, 1.0)})
PEOPLE = uq.Population(SPACE, individual=("a",), spread={"a": uq.HalfNormal(0.3)})


@cache
def surrogate(local: bool) -> Any:
    design = uq.sobol(PEOPLE.box(), 24, rng=1)
    a, b, x = (design[name].values[:, None] for name in ("a", "b", "x"))
    curves = np.sin(5.0 * (a - b) + TIMES) * np.exp(2.0 * x * TIMES)
    runs = uq.ensemble.build(design, {"y": xr.DataArray(curves, dims=("run", "t"), coords={"t": TIMES})})
    found = uq.GaussianProcess(outputs={"y": uq.Curve(max_scores=3)}, scales="auto").fit(runs)
    assert "directions" in repr(found)
    return locally_scaled(found, 5) if local else found


def table(subjects: int) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    rows = [
        {"id": f"p{i}", "x": x, "t": t, "value": np.sin(1.0 + t) + 0.1 * i + 0.2 * rng.standard_normal()}
        for i in range(subjects)
        for x in (0.2, 0.7)
        for t in TIMES
    ]
    return pd.DataFrame(rows)


@cache
def problem(kind: str, local: bool) -> Any:
    coords: Any = {"output": "y", "value": "value", "coords": {"t": "t"}, "conditions": ["x"]}
    if kind in ("exact", "low-rank"):
        data = uq.Observations.from_table(table(4), subject="id", **coords)
        noise: Any = uq.GaussianNoise(sd=uq.HalfNormal(0.3))
        return uq.Calibration(surrogate(local), data, noise=noise, population=PEOPLE, surrogate_error=kind)
    data = uq.Observations.from_table(table(1).drop(columns="id"), **coords)
    noise = {
        "gaussian": uq.GaussianNoise(sd=uq.HalfNormal(0.3)),
        "student": uq.StudentTNoise(scale=uq.HalfNormal(0.3), df=5.0),
    }[kind]
    return uq.Calibration(surrogate(local), data, space=SPACE, noise=noise)


@pytest.mark.parametrize("local", [False, True])
def test_likelihood_is_the_mixture_of_dense_normals(local: bool) -> None:
    one, s = problem("gaussian", local), surrogate(local)
    decoder = s.decode("y", {"t": TIMES})
    for theta in one.prior_draws(3, 1), one.prior_draws(3, 2):
        for i in range(3):
            point = {name: float(values[i]) for name, values in theta.items()}
            sd = point["sigma"]
            u = s.domain.to_unit(np.array([[point["a"], point["b"], x] for x in (0.2, 0.7)]))
            found = s.scores(u)
            each = []
            for mean, covariance in zip(found.mean, found.covariance, strict=True):
                whole = np.einsum("mj,jab,nj->ambn", decoder.basis, covariance, decoder.basis)
                whole += np.einsum("ab,mn->ambn", np.eye(2), decoder.truncation @ decoder.truncation.T)
                C = whole.reshape(8, 8) + sd**2 * np.eye(8)
                m = (decoder.offset + mean @ decoder.basis.T).reshape(8)
                each.append(multivariate_normal(m, C).logpdf(table(1)["value"].to_numpy()))
            weights = found.log_weights - np.logaddexp.reduce(found.log_weights)
            assert one.log_likelihood(point) == pytest.approx(np.logaddexp.reduce(np.array(each) + weights), abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("kind", ["gaussian", "student", "exact", "low-rank"])
def test_gradient_is_that_of_differences(kind: str, local: bool) -> None:
    target = Target(problem(kind, local))
    rng = np.random.default_rng(3)
    point = {name: np.asarray(v) + rng.uniform(-0.3, 0.3, np.shape(v)) for name, v in target.start.items()}
    _, slopes = target(point)
    norm = np.sqrt(sum(float(np.sum(one**2)) for one in slopes.values()))
    for name in target.names:
        step = 1e-5 * rng.standard_normal(np.shape(point[name]))
        up, down = (target({**point, name: point[name] + sign * step})[0] for sign in (1.0, -1.0))
        assert 0.5 * (up - down) == pytest.approx(np.sum(slopes[name] * step), abs=2e-6 * norm * 1e-5 * 10), name


@pytest.mark.parametrize("local", [False, True])
def test_features_at_the_inputs_themselves_are_exact(local: bool) -> None:
    exact, few = (problem(kind, local) for kind in ("exact", "low-rank"))
    theta = exact.prior_draws(1, 1)
    latents = 0.3 * np.random.default_rng(4).standard_normal(exact.latents)
    point = {name: float(values[0]) for name, values in theta.items()}
    u = few.data.unit_inputs(few.individuals(theta, latents[None]))[0]
    error = SharedError.through(covariances_of(few.data.data_model, few.data.cells.used), u)
    lowrank = featured(few.data.data_model, error, few.data.cells.used, subjects_of(few.data))
    sd = point["sigma"]
    found, by_u, _ = lowrank.value_and_slopes(u, np.array([sd]), few.data.cells.z)
    assert found == pytest.approx(exact.log_likelihood(point, latents), abs=1e-6)
    step = 1e-5 * np.random.default_rng(5).standard_normal(u.shape)
    up, down = (lowrank.value_and_slopes(u + s * step, np.array([sd]), few.data.cells.z)[0] for s in (1.0, -1.0))
    assert 0.5 * (up - down) == pytest.approx(np.sum(by_u * step), rel=1e-4)


@pytest.mark.parametrize("local", [False, True])
def test_few_features_leave_the_rest_of_the_variance_to_each_input(local: bool) -> None:
    """Features of every other input: the variance at each is that of the error, and slopes are differences."""
    few = problem("low-rank", local)
    theta, latents = few.prior_draws(1, 1), 0.3 * np.random.default_rng(4).standard_normal(few.latents)
    u = few.data.unit_inputs(few.individuals(theta, latents[None]))[0]
    error = SharedError.through(covariances_of(few.data.data_model, few.data.cells.used), u[::2])
    _, phi, rest = error.at(u)
    variance, cuts = surrogate(local).marginal_scores(u).covariance, np.cumsum([0, *error.ranks])
    for j in range(error.q):
        within = np.sum(phi[:, :, cuts[j] : cuts[j + 1]] ** 2, axis=-1)
        np.testing.assert_allclose(within + rest[:, :, j], variance[:, j], rtol=1e-6, atol=1e-12)
    assert rest[:, 1::2].max() > 1e-3 * variance.max()
    lowrank = featured(few.data.data_model, error, few.data.cells.used, subjects_of(few.data))
    _, by_u, _ = lowrank.value_and_slopes(u, np.array([0.2]), few.data.cells.z)
    step = 1e-5 * np.random.default_rng(5).standard_normal(u.shape)
    up, down = (lowrank.value_and_slopes(u + s * step, np.array([0.2]), few.data.cells.z)[0] for s in (1.0, -1.0))
    assert 0.5 * (up - down) == pytest.approx(np.sum(by_u * step), rel=1e-4)
