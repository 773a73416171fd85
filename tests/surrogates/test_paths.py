"""Draws at many points by matrix products: against the posterior's mean and covariance, for many kinds of processes."""

import numpy as np
import pytest
import xarray as xr
from calibration.problems import given_surrogate
from surrogates.test_physics import PHYSICS, table

import uqms as uq
from uqms.errors import InputError
from uqms.surrogates import GaussianProcessSurrogate
from uqms.surrogates.adapted import Adapted
from uqms.surrogates.function_draws import _Points, mean_path, paths
from uqms.surrogates.kernels import Kernel, hyperparameter_count
from uqms.surrogates.main_effects import MainEffects
from uqms.surrogates.radial import radial

DRAWS = 4000


def fitted(**settings: object) -> GaussianProcessSurrogate:
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
    design = uq.sobol(space, 10, rng=1)
    a, b = design["a"].values, design["b"].values
    return uq.GaussianProcess(**settings).fit(uq.ensemble.build(design, {"y": np.sin(6.0 * a) * b + b**2}))


def one_process() -> GaussianProcessSurrogate:
    rng = np.random.default_rng(1)
    return given_surrogate(rng.random((7, 2)), rng.standard_normal((7, 2)), names=("a", "b"), columns=3)


KINDS = {
    "linear trend, two scores": one_process,
    "Matérn 3/2 and smooth": lambda: fitted(kernel=uq.Matern32() + uq.SquaredExponential(), hyperparameters="point"),
    "main effects": lambda: fitted(kernel=MainEffects(uq.Matern52()), scales="given"),
    "averaged": lambda: fitted(hyperparameters="averaged"),
    "physics": lambda: uq.GaussianProcess(mean=PHYSICS, hyperparameters="point", scales="given").fit(table()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_paths_have_the_joint_law_of_the_posterior(kind: str) -> None:
    surrogate = KINDS[kind]()
    rng = np.random.default_rng(2)
    u = rng.random((30, surrogate.domain.d))
    found = paths(surrogate, u[:20], DRAWS, rng)
    scores = surrogate.scores(u)
    weights = np.exp(scores.log_weights - np.logaddexp.reduce(scores.log_weights))
    mean = np.tensordot(weights, scores.mean, 1)  # (k, q)
    between = np.einsum("h,hkq,hlq->qkl", weights, scores.mean - mean, scores.mean - mean)
    covariance = np.tensordot(weights, scores.covariance, 1) + between
    for values, exact_at in ((found(u), 20), (found.with_rest(u, range(scores.mean.shape[2])), 30)):
        assert values.shape == (DRAWS, 30, scores.mean.shape[2])
        for j in range(values.shape[2]):
            sd = np.sqrt(np.diag(covariance[j]))
            off = (values[:, :, j].mean(axis=0) - mean[:, j]) / sd
            assert np.abs(off).max() < 4.5 / np.sqrt(DRAWS) + 1e-6
            empirical = np.cov(values[:, :, j].T) / np.outer(sd, sd)
            exact = covariance[j] / np.outer(sd, sd)
            # 20 anchors jointly; what is drawn at the other points is independent, and right by itself.
            np.testing.assert_allclose(empirical[:20, :20], exact[:20, :20], atol=0.12)
            np.testing.assert_allclose(empirical[:exact_at, :20], exact[:exact_at, :20], atol=0.12)
            np.testing.assert_allclose(np.diag(empirical)[:exact_at], 1.0, atol=0.12)


def test_what_is_left_out_is_what_draws_lack() -> None:
    surrogate = one_process()
    rng = np.random.default_rng(3)
    pairs = rng.random((1, 3, 2))
    found = paths(surrogate, rng.random((4, 2)), DRAWS, rng, pairs)
    exact = surrogate.scores(pairs[0]).covariance[0]
    values = found(pairs[0])
    for j in range(2):
        lacking = exact[j] - np.cov(values[:, :, j].T)
        np.testing.assert_allclose(found.rest[0, j], lacking, atol=5.0 * np.diag(exact[j]).max() * np.sqrt(2.0 / DRAWS))
    assert found.rest[0].max() > 0.05


def test_the_same_inputs_give_the_same_numbers_and_others_do_not() -> None:
    rng = np.random.default_rng(4)
    u = rng.random((50, 2))
    found = paths(one_process(), u[:5], 3, rng)
    whole = found.with_rest(u, (1, 2))
    np.testing.assert_allclose(found.with_rest(u[20:30], (1, 2)), whole[:, 20:30], atol=1e-7)
    assert np.abs(found.with_rest(u, (1, 3)) - whole)[..., 1].max() > 0.01
    np.testing.assert_array_equal(found.with_rest(u, (1, 3))[..., 0], whole[..., 0])


def test_the_mean_path_is_the_mean() -> None:
    surrogate = KINDS["averaged"]()
    u = np.random.default_rng(5).random((40, 2))
    for h in (0, 3):
        np.testing.assert_allclose(mean_path(surrogate, h)(u)[0], surrogate.scores(u).mean[h], atol=1e-8)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_correlations_are_right_to_the_last_digits(kind: int) -> None:
    r2 = np.concatenate([np.zeros(1), np.geomspace(1e-18, 4e5, 5000), [-1e-15, 1e9]]).reshape(1, -1)
    x = np.maximum(r2, 0.0)
    a = np.sqrt(x)
    expected = (np.exp(-0.5 * x), (1.0 + a) * np.exp(-a), (1.0 + a + x / 3.0) * np.exp(-a))[kind]
    found = r2.copy()
    radial(kind, found)
    np.testing.assert_allclose(found, expected, rtol=2e-15 if kind else 4e-14, atol=1e-290)


def test_numbers_of_draws_that_cannot_be_meant() -> None:
    with pytest.raises(InputError, match="n is 0"):
        paths(one_process(), np.zeros((0, 2)), 0, 1)


def test_runs_that_lack_an_output_are_not_in_its_paths() -> None:
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0))
    design = uq.sobol(space, 12, rng=1)
    y = np.sin(4.0 * design["a"].values)
    second = np.where(np.arange(12) % 3 == 0, np.nan, y**2)
    outputs = {"y": xr.DataArray(y, dims="run"), "z": xr.DataArray(second, dims="run")}
    states = np.where(np.isnan(second), "partial", "completed")
    surrogate = uq.GaussianProcess(hyperparameters="point").fit(uq.ensemble.build(design, outputs, states=states))
    u = np.linspace(0.05, 0.95, 7)[:, None]
    values = paths(surrogate, u, DRAWS, 1)(u)
    scores = surrogate.scores(u)
    sd = np.sqrt(np.diagonal(scores.covariance[0], axis1=1, axis2=2)).T
    assert (np.abs(values.mean(axis=0) - scores.mean[0]) < 4.5 * sd / np.sqrt(DRAWS) + 1e-6).all()
    np.testing.assert_allclose(values.std(axis=0), sd, rtol=0.08, atol=1e-6)


@pytest.mark.parametrize(
    "kernel", [MainEffects(uq.Matern32()), uq.Matern52() + uq.Matern32(), Adapted(uq.Matern52())], ids=str
)
@pytest.mark.parametrize("repeated", [(0, 1, 2), (1,), ()], ids=str)
def test_inputs_that_repeat_are_correlated_as_others(kernel: Kernel, repeated: tuple[int, ...]) -> None:
    """Points whose inputs have a few values each, more than fill one block, against the matrix as it is defined."""
    rng, d = np.random.default_rng(4), 3
    u, z, weights = rng.random((9000, d)), rng.random((40, d)), rng.standard_normal((40, 5))
    for i in repeated:
        u[:, i] = rng.random(4000)[rng.integers(0, 4000, len(u))]
    ell = np.exp(0.5 * rng.standard_normal(hyperparameter_count(kernel, d)))
    exact = kernel.correlation(u, z, ell) @ weights
    np.testing.assert_allclose(_Points(u).correlated(kernel, z, ell, weights), exact, atol=1e-7 * np.abs(exact).max())
