"""A Gaussian process of many runs: against dense algebra, finite differences, draws of processes and quadrature."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.stats import norm

import uqms as uq
from uqms.errors import DataError, DesignError, FormatError, InputError
from uqms.parameters import Box
from uqms.surrogates.kernels import Matern52, SquaredExponential, correlation
from uqms.surrogates.neighbours import LocalGaussianProcessSurrogate
from uqms.testing import check_surrogate

SPACE = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(2.0, 4.0))


def ensemble(n: int, noise: float = 0.0) -> xr.Dataset:
    design = uq.sobol(SPACE, n, rng=1)
    a, b = design["a"].values, design["b"].values
    y = np.sin(7.0 * a) * b + noise * np.random.default_rng(0).standard_normal(n)
    return uq.ensemble.build(design, {"y": y, "z": np.cos(3.0 * a + b)})


@pytest.fixture(scope="module")
def surrogate() -> LocalGaussianProcessSurrogate:
    return uq.LocalGaussianProcess(neighbours=24, trend="linear").fit(ensemble(512))


def dense(surrogate: LocalGaussianProcessSurrogate, j: int, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (k,) and covariance (k, k) of the errors of universal kriging, by algebra on all runs together."""
    n = len(surrogate.x)
    K = correlation(surrogate.kernel, surrogate.x, surrogate.x, surrogate.ell[j]) + 1e-12 * np.eye(n)
    to = correlation(surrogate.kernel, surrogate.x, u, surrogate.ell[j])
    weights, sd = np.zeros((n, len(u))), np.zeros(len(u))
    for i, point in enumerate(u):
        rows = np.argsort(np.sum(((surrogate.x - point) / surrogate.ell[j]) ** 2, axis=1))[: surrogate.neighbours]
        F = np.column_stack([np.ones(len(rows)), surrogate.x[rows]])
        system = np.block([[K[np.ix_(rows, rows)], F], [F.T, np.zeros((3, 3))]])
        solved = np.linalg.solve(system, np.concatenate([to[rows, i], [1.0], point]))
        weights[rows, i] = solved[: len(rows)]
        beta = np.linalg.lstsq(
            np.linalg.solve(np.linalg.cholesky(K[np.ix_(rows, rows)]), F),
            np.linalg.solve(np.linalg.cholesky(K[np.ix_(rows, rows)]), surrogate.y[rows, j]),
        )[0]
        rest = np.linalg.solve(np.linalg.cholesky(K[np.ix_(rows, rows)]), surrogate.y[rows, j] - F @ beta)
        nu, degrees = surrogate.strength[j], surrogate.neighbours - 3
        ratio = (nu + rest @ rest / surrogate.typical[j]) / (nu + degrees)
        sd[i] = np.sqrt(surrogate.variance[j] * ratio)
    prior = correlation(surrogate.kernel, u, u, surrogate.ell[j])
    gram = prior - weights.T @ to - to.T @ weights + weights.T @ K @ weights
    return weights.T @ surrogate.y[:, j], sd[:, None] * sd * gram


def test_scores_are_those_of_dense_algebra(surrogate: LocalGaussianProcessSurrogate) -> None:
    u = np.random.default_rng(1).random((5, 2))
    u[3] = u[2] + 0.003  # neighbours in common
    scores = surrogate.scores(u)
    for j in range(2):
        mean, covariance = dense(surrogate, j, u)
        size = np.diagonal(covariance).max()
        np.testing.assert_allclose(scores.mean[0, :, j], mean, atol=1e-6)
        np.testing.assert_allclose(scores.covariance[0, j], covariance, atol=2e-3 * size)
    assert scores.covariance[0, 0, 2, 3] > 0.2 * scores.covariance[0, 0, 2, 2]
    marginal = surrogate.marginal_scores(u)
    np.testing.assert_allclose(marginal.covariance, np.diagonal(scores.covariance, axis1=-2, axis2=-1), rtol=1e-12)
    np.testing.assert_array_equal(marginal.mean, scores.mean)


def test_covariances_do_not_depend_on_what_else_is_asked(surrogate: LocalGaussianProcessSurrogate) -> None:
    u = np.random.default_rng(2).random((6, 2))
    every, some = surrogate.scores(u), surrogate.scores(u[[1, 4]])
    np.testing.assert_array_equal(every.covariance[:, :, [1, 4]][..., [1, 4]], some.covariance)
    batch = surrogate.scores(np.stack([u[:2], u[2:4]]))
    np.testing.assert_array_equal(batch.covariance[0, 1], surrogate.scores(u[2:4]).covariance[0])


@pytest.mark.parametrize("kernel", [Matern52(), SquaredExponential() + Matern52()])
@pytest.mark.parametrize("trend", ["constant", "quadratic"])
def test_the_derivative_is_that_of_finite_differences(kernel: object, trend: str) -> None:
    settings = uq.LocalGaussianProcess(kernel, trend, neighbours=24)  # type: ignore[arg-type]
    fitted = settings.fit(ensemble(96).drop_vars("z"))
    fitted = replace(fitted, ell=np.full(fitted.ell.shape, 0.3))  # errors far above rounding
    rng = np.random.default_rng(3)
    u = 0.2 + 0.6 * rng.random((3, 2))
    u[1] = u[0] + 0.02
    mean_bar, covariance_bar = rng.standard_normal((1, 3, 1)), rng.standard_normal((1, 1, 3, 3))
    covariance_bar /= np.sqrt(np.abs(np.diagonal(fitted.scores(u).covariance[0, 0])).max())

    def value(at: np.ndarray) -> float:
        scores = fitted.scores(at)
        return float(np.sum(scores.mean * mean_bar) + np.sum(scores.covariance * covariance_bar))

    found = fitted.scores_reverse(u, mean_bar, covariance_bar)
    for index in np.ndindex(3, 2):
        step = np.zeros((3, 2))
        step[index] = 1e-5
        for at in (u + step, u - step):  # no neighbour changes on the way
            np.testing.assert_array_equal(np.sort(fitted._nearest(0, at)), np.sort(fitted._nearest(0, u)))
        assert found[index] == pytest.approx((value(u + step) - value(u - step)) / 2e-5, rel=1e-6, abs=1e-6)


def test_it_keeps_the_protocol() -> None:
    few = uq.LocalGaussianProcess(neighbours=16).fit(ensemble(40))
    found = check_surrogate(few, rng=1, draws=2000)
    assert not found.failed, str(found)


@pytest.mark.slow
def test_intervals_cover_draws_of_a_process() -> None:
    """Three functions of a Matérn-5/2 process, 1 200 runs, 400 new inputs; errors far apart are independent."""
    rng = np.random.default_rng(4)
    inside, exact = [], []
    for _ in range(3):
        x = rng.random((1600, 2))
        kappa = correlation(Matern52(), x, x, np.full(2, 0.15)) + 1e-10 * np.eye(len(x))
        y = np.linalg.cholesky(kappa) @ rng.standard_normal(len(x))
        table = xr.Dataset({"a": ("run", x[:1200, 0]), "b": ("run", 2.0 + 2.0 * x[:1200, 1])})
        runs = uq.ensemble.build(table, {"y": y[:1200]}, box=Box(("a", "b"), (0.0, 2.0), (1.0, 4.0)))
        fitted = uq.LocalGaussianProcess(neighbours=32).fit(runs)
        law = fitted.predict({"a": x[1200:, 0], "b": 2.0 + 2.0 * x[1200:, 1]})
        error, sd = y[1200:] - law.mean["y"].values, law.sd["y"].values
        inside.append([np.mean(np.abs(error) < q * sd) for q in (0.6745, 1.96)])
        whole = np.linalg.solve(kappa[:1200, :1200], kappa[:1200, 1200:])
        exact.append(np.mean(error**2) / np.mean((y[1200:] - whole.T @ y[:1200]) ** 2))
    half, most = np.mean(inside, axis=0)
    assert most == pytest.approx(0.95, abs=4.0 * np.sqrt(0.95 * 0.05 / 1200))
    assert half == pytest.approx(0.50, abs=4.0 * np.sqrt(0.25 / 1200))
    assert np.mean(exact) < 1.05  # mean squared error over that of all runs with the hyperparameters of the truth


def test_noise_is_learned_and_left_out_of_the_prediction() -> None:
    fitted = uq.LocalGaussianProcess(neighbours=48, noise="fitted").fit(ensemble(3000, 0.3).drop_vars("z"))
    a, b = np.random.default_rng(5).random((2, 400))
    law = fitted.predict({"a": a, "b": 2.0 + 2.0 * b})
    error = np.sin(7.0 * a) * (2.0 + 2.0 * b) - law.mean["y"].values
    assert np.sqrt(np.mean(error**2)) < 0.12
    assert 0.9 < np.mean(np.abs(error) < 1.96 * law.sd["y"].values) < 0.995
    assert 0.92 < fitted.left_out(1000, 1).inside_95[0] < 0.98
    noise = np.sqrt(fitted.noise_at(np.zeros((2, 2)))[0, :, 0]) * fitted.bases[0].basis[0, 0]
    np.testing.assert_allclose(noise, 0.3, rtol=0.06)  # 4 standard errors of the 512 runs that tell it
    seen = xr.DataArray(2.0, name="y")
    one = uq.Calibration(fitted, seen, uq.GaussianNoise(sd=0.4)).log_likelihood({"a": 0.5, "b": 3.0})
    mean, sd = (getattr(fitted.predict({"a": 0.5, "b": 3.0}), what)["y"].item() for what in ("mean", "sd"))
    wanted = norm.logpdf(2.0, mean, np.sqrt(sd**2 + 0.4**2 + noise[0] ** 2))  # a run, not the simulator's mean
    assert np.ravel(one)[0] == pytest.approx(wanted, rel=1e-6)


def test_a_curve_and_its_calibration_agree_with_the_exact_process() -> None:
    design = uq.sobol(SPACE, 128, rng=2)
    t = np.linspace(0.0, 1.0, 8)
    y = np.sin(5.0 * design["a"].values)[:, None] * np.exp(-t * design["b"].values[:, None])
    runs = uq.ensemble.build(design, {"y": xr.DataArray(y, dims=("run", "t"), coords={"t": t})})
    local, whole = uq.LocalGaussianProcess(neighbours=48).fit(runs), uq.GaussianProcess().fit(runs)
    seen = xr.DataArray(np.sin(1.0) * np.exp(-3.0 * t) + 0.05 * np.cos(40.0 * t), dims="t", coords={"t": t}, name="y")
    a, b = (grid.ravel() for grid in np.meshgrid(np.linspace(0.01, 0.99, 40), np.linspace(2.01, 3.99, 40)))
    means = []
    for one in (local, whole):
        log = uq.Calibration(one, seen, uq.GaussianNoise(sd=0.05)).log_likelihood({"a": a, "b": b})
        weight = np.exp(log - log.max())
        means.append([np.average(a, weights=weight), np.average(b, weights=weight)])
        sd = [np.sqrt(np.average((v - m) ** 2, weights=weight)) for v, m in zip((a, b), means[-1], strict=True)]
    np.testing.assert_allclose((np.array(means[0]) - means[1]) / sd, 0.0, atol=0.02)


def test_what_it_is_not_for_is_refused() -> None:
    with pytest.raises(InputError, match="neighbours is 3"):
        uq.LocalGaussianProcess(neighbours=3)
    with pytest.raises(InputError, match="noise is 'heteroscedastic'"):
        uq.LocalGaussianProcess(noise="heteroscedastic")  # type: ignore[arg-type]
    with pytest.raises(DesignError, match="exact and fast for so few"):
        uq.LocalGaussianProcess(neighbours=64).fit(ensemble(50))
    with pytest.raises(DesignError, match="6 coefficients"):
        uq.LocalGaussianProcess(neighbours=8, trend="quadratic").fit(ensemble(50))
    both = ensemble(200).assign_coords(fidelity=("run", ["coarse"] * 100 + ["fine"] * 100))
    with pytest.raises(DataError, match="several levels of fidelity"):
        uq.LocalGaussianProcess(neighbours=16).fit(both)
    bad = ensemble(200)
    bad["y"][7] = np.nan
    with pytest.raises(DataError):
        uq.LocalGaussianProcess(neighbours=16).fit(bad)
    with pytest.raises(InputError, match="from 1 to"):
        uq.LocalGaussianProcess(neighbours=16).fit(ensemble(200)).left_out(0, 1)


@pytest.mark.slow
def test_the_variance_follows_the_roughness_of_the_output() -> None:
    """Waves in one half of the box, almost nothing in the other: intervals cover in both, and are wide in one."""
    design = uq.sobol(SPACE, 2048, rng=1)

    def rough(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.where(a < 0.5, 0.02 * a, 0.02 * a + np.sin(60.0 * (a - 0.5)) * np.sin(9.0 * b))

    fitted = uq.LocalGaussianProcess(neighbours=32).fit(
        uq.ensemble.build(design, {"y": rough(design["a"].values, design["b"].values)})
    )
    assert fitted.strength[0] < 1e6
    assert "95 % intervals hold" in repr(fitted)
    rng = np.random.default_rng(6)
    sds = []
    for low in (0.02, 0.55):
        a, b = low + 0.4 * rng.random(500), 2.05 + 1.9 * rng.random(500)
        law = fitted.predict({"a": a, "b": b})
        sds.append(np.median(law.sd["y"].values))
        assert np.mean(np.abs(rough(a, b) - law.mean["y"].values) < 1.96 * law.sd["y"].values) > 0.9
    assert sds[1] > 20.0 * sds[0]


def test_a_saved_surrogate_predicts_the_same(surrogate: LocalGaussianProcessSurrogate, tmp_path: Path) -> None:
    surrogate.save(tmp_path / "local.npz")
    again = uq.load_surrogate(tmp_path / "local.npz")
    assert isinstance(again, LocalGaussianProcessSurrogate)
    assert repr(again) == repr(surrogate)
    u = np.random.default_rng(7).random((4, 2))
    np.testing.assert_array_equal(again.scores(u).covariance, surrogate.scores(u).covariance)
    np.testing.assert_array_equal(again.scores(u).mean, surrogate.scores(u).mean)
    damaged = replace(surrogate, neighbours=10_000)
    damaged.save(tmp_path / "damaged.npz")
    with pytest.raises(FormatError, match="10000 neighbours of 512 runs"):
        uq.load_surrogate(tmp_path / "damaged.npz")


def _many(y: Any) -> Any:
    design = uq.sobol(uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0)), 1200, rng=2)
    return uq.ensemble.build(design, {"y": y(design["a"].values)})


def test_runs_that_do_not_teach_the_length_scales_are_looked_at_too() -> None:
    rest = np.random.default_rng(0).permutation(1200)[1100:]  # not among the 1 024

    def with_a_few(value: float) -> Any:
        def y(a: Any) -> Any:
            out = np.ones(len(a)) if value > 0.0 else 1.0 + a
            out[rest[:3]] = value
            return out

        return y

    with pytest.raises(DataError, match="requires values above 0"):
        uq.LocalGaussianProcess(neighbours=16, outputs={"y": uq.Scalar(transform="log")}).fit(_many(with_a_few(-1.0)))
    with pytest.warns(uq.errors.ConstantOutputWarning), pytest.raises(DataError, match="all runs but 3 of 1200"):
        uq.LocalGaussianProcess(neighbours=16).fit(_many(with_a_few(2.0)))


def test_neighbours_that_repeat_one_input_do_not_tell_a_trend() -> None:
    a, b = (np.repeat(column, 30) for column in np.random.default_rng(1).random((2, 20)))
    runs = uq.ensemble.build({"a": a, "b": b}, {"y": a + 0.1 * np.random.default_rng(2).standard_normal(600)})
    with pytest.raises(DesignError, match="do not determine the 3 coefficients"):
        uq.LocalGaussianProcess(neighbours=16, noise="fitted", trend="linear").fit(runs)


def test_fitted_noise_of_a_curve_is_refused_with_what_has_it() -> None:
    x = np.random.default_rng(1).random((80, 2))
    curve = xr.DataArray(x @ np.ones((2, 3)), dims=("run", "t"), coords={"t": [0.0, 1.0, 2.0]})
    runs = uq.ensemble.build({"a": x[:, 0], "b": x[:, 1]}, {"y": curve})
    with pytest.raises(InputError, match=r"'y' has dims \['t'\]; LocalGaussianProcess.*use GaussianProcess"):
        uq.LocalGaussianProcess(neighbours=16, noise="fitted").fit(runs)
