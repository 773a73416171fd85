"""Calibrations whose surrogate states errors with a local scale: dense normals, features, gradients by differences."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from calibration import test_adapted as adapted
from scipy.stats import multivariate_normal

import uqms as uq
from tests.frozen.values import Target
from uqms.calibration.population.shared_error import SharedError
from uqms.calibration.population.subject_prediction import covariances_of, featured, subjects_of

KINDS = ("gaussian", "student", "exact", "low-rank")


@cache
def surrogate() -> Any:
    before = adapted.surrogate()
    H, q, d = before.process.draws, before.process.q, before.process.x.shape[1]
    local = 0.8 * np.random.default_rng(5).standard_normal((H, q, 1 + 2 * d))
    return replace(before, process=before.process.with_local(local))


@cache
def problem(kind: str) -> Any:
    coords: Any = {"output": "y", "value": "value", "coords": {"t": "t"}, "conditions": ["x"]}
    if kind in ("exact", "low-rank"):
        data = uq.Observations.from_table(adapted.table(4), subject="id", **coords)
        noise: Any = uq.GaussianNoise(sd=uq.HalfNormal(0.3))
        return uq.Calibration(surrogate(), data, noise=noise, population=adapted.PEOPLE, surrogate_error=kind)
    data = uq.Observations.from_table(adapted.table(1).drop(columns="id"), **coords)
    noise = {
        "gaussian": uq.GaussianNoise(sd=uq.HalfNormal(0.3)),
        "student": uq.StudentTNoise(scale=uq.HalfNormal(0.3), df=5.0),
    }[kind]
    return uq.Calibration(surrogate(), data, space=adapted.SPACE, noise=noise)


def test_likelihood_is_the_mixture_of_dense_normals() -> None:
    """The covariance of the process without a local scale, times the scales of both inputs from their formula."""
    one, s = problem("gaussian"), surrogate()
    plain = replace(s, process=s.process.with_local(np.zeros((s.process.draws, s.process.q, 0))))
    decoder, z = s.decode("y", {"t": adapted.TIMES}), adapted.table(1)["value"].to_numpy()
    theta = one.prior_draws(3, 1)
    for i in range(3):
        point = {name: float(values[i]) for name, values in theta.items()}
        u = s.domain.to_unit(np.array([[point["a"], point["b"], x] for x in (0.2, 0.7)]))
        found, each = plain.scores(u), []
        v = np.clip(u, 0.0, 1.0) - 0.5
        f = np.column_stack([np.ones(2), v, 2.0 * v**2 - 1.0 / 6.0])
        for mean, covariance, local in zip(found.mean, found.covariance, s.process.local, strict=True):
            scale = np.exp(f @ local.T)  # (2, q)
            whole = np.einsum("mj,aj,jab,bj,nj->ambn", decoder.basis, scale, covariance, scale, decoder.basis)
            whole += np.einsum("ab,mn->ambn", np.eye(2), decoder.truncation @ decoder.truncation.T)
            C = whole.reshape(8, 8) + point["sigma"] ** 2 * np.eye(8)
            each.append(multivariate_normal((decoder.offset + mean @ decoder.basis.T).reshape(8), C).logpdf(z))
        weights = found.log_weights - np.logaddexp.reduce(found.log_weights)
        assert one.log_likelihood(point) == pytest.approx(np.logaddexp.reduce(np.array(each) + weights), abs=1e-7)


@pytest.mark.parametrize("kind", ["gaussian", *(pytest.param(one, marks=pytest.mark.slow) for one in KINDS[1:])])
def test_gradient_is_that_of_differences(kind: str) -> None:
    target = Target(problem(kind))
    rng = np.random.default_rng(3)
    point = {name: np.asarray(v) + rng.uniform(-0.3, 0.3, np.shape(v)) for name, v in target.start.items()}
    _, slopes = target(point)
    norm = np.sqrt(sum(float(np.sum(one**2)) for one in slopes.values()))
    for name in target.names:
        step = 1e-5 * rng.standard_normal(np.shape(point[name]))
        up, down = (target({**point, name: point[name] + sign * step})[0] for sign in (1.0, -1.0))
        assert 0.5 * (up - down) == pytest.approx(np.sum(slopes[name] * step), abs=2e-6 * norm * 1e-5 * 10), name


def test_features_at_the_inputs_themselves_are_exact() -> None:
    exact, few = (problem(kind) for kind in ("exact", "low-rank"))
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
