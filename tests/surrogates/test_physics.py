"""A cheap model as mean: against universal kriging written down, finite differences and refits; what is refused."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import uqms as uq
from uqms._typing import Array
from uqms.errors import DataError, InputError
from uqms.surrogates import GaussianProcessSurrogate, kernels
from uqms.surrogates.physics import lifted
from uqms.surrogates.process import condition, scores_at
from uqms.surrogates.training import Hyperparameters

HOURS = np.linspace(0.5, 4.0, 6)
SPACE = uq.ParameterSpace(ka=uq.LogNormal(1.0, 0.4), dose=uq.Uniform(1.0, 3.0))


def cheap(at: Mapping[str, Array]) -> dict[str, Array]:
    ka, dose = np.asarray(at["ka"]), np.asarray(at["dose"])
    return {"peak": dose * np.exp(-ka), "conc": dose[:, None] * np.exp(-np.outer(ka, HOURS))}


def cheap_derivative(at: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
    ka, dose = np.asarray(at["ka"]), np.asarray(at["dose"])
    decay = np.exp(-np.outer(ka, HOURS))
    return {
        "peak": {"ka": -dose * np.exp(-ka), "dose": np.exp(-ka)},
        "conc": {"ka": -dose[:, None] * HOURS * decay, "dose": decay},
    }


def truth(at: Mapping[str, Array]) -> dict[str, Array]:
    ka, dose = np.asarray(at["ka"]), np.asarray(at["dose"])
    held = cheap(at)
    conc = 2.0 * held["conc"] + 0.05 * np.log(ka)[:, None] * np.sqrt(HOURS) * dose[:, None]
    return {"peak": 1.0 + 5.0 * held["peak"] + 0.1 * np.log(ka) * dose, "conc": conc}


def table(n: int = 14, seed: int = 1) -> xr.Dataset:
    design = uq.sobol(SPACE, n, rng=seed)
    held = truth({name: design[name].values for name in ("ka", "dose")})
    conc = xr.DataArray(held["conc"], dims=("run", "hour"), coords={"hour": HOURS})
    return uq.ensemble.build(design, {"peak": held["peak"], "conc": conc}, space=SPACE)


PHYSICS = uq.Physics(cheap, derivative=cheap_derivative)


def inner(n: int, seed: int = 3) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {"ka": rng.uniform(0.6, 1.6, n), "dose": rng.uniform(1.2, 2.8, n)}


@pytest.fixture(scope="module")
def surrogate() -> GaussianProcessSurrogate:
    return uq.GaussianProcess(mean=PHYSICS).fit(table())


def test_the_runs_teach_the_scale_and_the_difference(surrogate: GaussianProcessSurrogate) -> None:
    at = inner(200)
    plain = uq.GaussianProcess(scales="given").fit(table())
    for name, values in truth(at).items():
        off = [np.sqrt(np.mean((one.predict(at).mean[name].values - values) ** 2)) for one in (surrogate, plain)]
        print(name, off)
        assert off[0] < 0.5 * off[1]
        z = (surrogate.predict(at).mean[name].values - values) / surrogate.predict(at).sd[name].values
        assert np.mean(np.abs(z) < 1.96) > 0.85
    assert surrogate.process.draws == 16
    # In the output's own unit the coefficient is the scale factor, for the cheap scores have the output's basis.
    assert surrogate.process.beta[:, 0, 1].mean() == pytest.approx(5.0, abs=0.3)


@pytest.mark.parametrize("trend", ["constant", "linear"])
def test_mean_and_covariance_are_those_of_universal_kriging(trend: str) -> None:
    fitted = uq.GaussianProcess(mean=PHYSICS, trend=trend, hyperparameters="point").fit(table())
    p, u = fitted.process, np.random.default_rng(4).random((5, 2))
    at = fitted.domain.from_unit(np.vstack([p.x, u]))
    c = cheap({"ka": at[:, 0], "dose": at[:, 1]})["peak"]
    columns = [np.ones(len(c)), c]
    basis = np.column_stack(columns if trend == "constant" else [*columns, at])
    if trend == "linear":
        basis[:, 2:] = np.vstack([p.x, u])
    f, t = basis[:14], basis[14:]
    ell = p.ell[0, 0]
    k = kernels.correlation(p.kernel, p.x, p.x, ell) + p.jitter[0, 0] * np.eye(14)
    cross, inverse = kernels.correlation(p.kernel, u, p.x, ell), np.linalg.inv(k)
    exact = inverse.astype(np.longdouble)  # Newton's steps: a kernel may leave an inverse few digits
    for _ in range(3):
        exact = exact + exact @ (np.eye(14) - k.astype(np.longdouble) @ exact)
    inverse = exact
    information = np.linalg.inv((f.T @ inverse @ f).astype(float))
    beta = information @ f.T @ inverse @ p.y[:, 0]
    rest = t - cross @ inverse @ f
    mean = t @ beta + cross @ inverse @ (p.y[:, 0] - f @ beta)
    covariance = kernels.correlation(p.kernel, u, u, ell) - cross @ inverse @ cross.T + rest @ information @ rest.T
    scores = fitted.scores(u)
    np.testing.assert_allclose(scores.mean[0, :, 0], mean, atol=1e-6)
    np.testing.assert_allclose(scores.covariance[0, 0], p.variance[0, 0] * covariance, atol=1e-6 * p.variance[0, 0])
    batch = fitted.scores(np.stack([u, u[::-1]]))
    np.testing.assert_allclose(batch.mean[:, 0], scores.mean, atol=1e-12)
    np.testing.assert_allclose(batch.covariance[:, 0], scores.covariance, atol=1e-9 * p.variance.max())


def test_the_reverse_derivative_equals_finite_differences(surrogate: GaussianProcessSurrogate) -> None:
    rng = np.random.default_rng(5)
    u = rng.uniform(0.2, 0.8, (3, 2))
    scores = surrogate.scores(u)
    bars = rng.standard_normal(scores.mean.shape), rng.standard_normal(scores.covariance.shape)
    derivative = surrogate.scores_reverse(u, *bars)
    for i in range(3):
        for c in range(2):
            e = np.zeros_like(u)
            e[i, c] = 1e-4
            high, low = surrogate.scores(u + e), surrogate.scores(u - e)
            numeric = np.sum((high.mean - low.mean) * bars[0]) + np.sum((high.covariance - low.covariance) * bars[1])
            assert derivative[i, c] == pytest.approx(numeric / 2e-4, rel=1e-4, abs=1e-4 * np.abs(derivative).max())
    slope = surrogate.gradient({"ka": 1.1, "dose": 2.0}, {"peak": 1.0})["ka"]
    ends = [surrogate.evaluate({"ka": 1.1 + e, "dose": 2.0})["peak"] for e in (1e-4, -1e-4)]
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-4)


def test_draws_have_the_mean_and_covariance_that_are_said(surrogate: GaussianProcessSurrogate) -> None:
    prediction = surrogate.predict({"ka": [0.7, 0.75, 1.8], "dose": [2.0, 2.0, 1.3]})
    n = 4000
    draws = prediction.draws(n, rng=1)
    for name in ("peak", "conc"):
        values = draws[name].values.reshape(n, -1)
        expected = prediction.covariance(name).reshape(values.shape[1], -1)
        sd = np.sqrt(np.diag(expected))
        assert np.abs((values.mean(axis=0) - prediction.mean[name].values.ravel()) / sd).max() < 4.5 / np.sqrt(n)
        assert np.abs((np.cov(values.T) - expected) / np.outer(sd, sd)).max() < 0.15


def test_left_out_runs_are_those_of_refits(surrogate: GaussianProcessSurrogate) -> None:
    fitted = uq.GaussianProcess(mean=PHYSICS, hyperparameters="point").fit(table())
    p, validation = fitted.process, uq.leave_one_out(fitted)
    c = PHYSICS.scores(fitted.domain, fitted.bases, p.x)
    found = Hyperparameters(p.ell[0, 0], float(p.jitter[0, 0] - 1e-12), 0.0, 0.0, 0, False)
    for i in (0, 5):
        rest = np.delete(np.arange(14), i)
        args = (p.kernel, p.x[rest], p.y[rest, :1], 2, [found], [p.variance[0, 0]])
        alone = condition(*args, cheap=c[rest, :1])
        score = scores_at(lifted(alone, 0), np.append(c[i, 0], p.x[i])[None]).mean.item()
        expected = fitted.bases[0].offset.item() + fitted.bases[0].basis.item() * score
        assert validation.mean["peak"].values[i] == pytest.approx(expected, abs=1e-5)
    assert uq.leave_one_out(surrogate).table.loc["conc", "q2"] > 0.99


def test_held_out_runs_are_judged_by_the_joint_law_of_the_scores() -> None:
    fitted = uq.GaussianProcess(mean=PHYSICS, hyperparameters="point").fit(table(10))
    others = table(6, seed=4)
    found = uq.held_out(fitted, others)
    at = {name: others[name].values for name in ("ka", "dose")}
    np.testing.assert_allclose(found.mean["peak"], fitted.predict(at).mean["peak"], rtol=1e-9)
    joint = fitted.scores(fitted.predict(at).u)
    basis = fitted.bases[0]
    error = (others["peak"].values - basis.offset.item()) / basis.basis.item() - joint.mean[0, :, 0]
    expected = error @ np.linalg.solve(joint.covariance[0, 0], error) / 6
    assert found.table.loc["peak", "mahalanobis"] == pytest.approx(expected, rel=1e-3)


def test_an_expression_in_pymc_has_its_value_and_gradient(surrogate: GaussianProcessSurrogate) -> None:
    import pytensor
    import pytensor.tensor as pt

    ka, dose = pt.dscalar("ka"), pt.dscalar("dose")
    mean = uq.as_tensor(surrogate, {"ka": ka, "dose": dose}, output="peak").mean.sum()
    evaluate = pytensor.function([ka, dose], [mean, pytensor.grad(mean, ka)], mode="FAST_COMPILE")
    value, slope = evaluate(1.1, 2.0)
    assert value == pytest.approx(surrogate.evaluate({"ka": 1.1, "dose": 2.0})["peak"], rel=1e-10)
    assert slope == pytest.approx(surrogate.gradient({"ka": 1.1, "dose": 2.0}, {"peak": 1.0})["ka"], rel=1e-8)


def test_what_a_cheap_model_cannot_do_is_said(surrogate: GaussianProcessSurrogate, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a file without code cannot hold"):
        surrogate.save(tmp_path / "s.npz")
    bare = uq.GaussianProcess(mean=uq.Physics(cheap), hyperparameters="point").fit(table())
    at = {"ka": 1.0, "dose": 2.0}
    assert bare.evaluate(at)["peak"].shape == ()
    with pytest.raises(
        InputError, match=r"no derivative, which gradients and NUTS need: give Physics\(function, deriv"
    ):
        bare.gradient(at, {"peak": 1.0})
    for mean, message in (
        (uq.Physics(lambda at: {"peak": at["ka"]}), r"gives \['peak'\], not 'conc'"),
        (uq.Physics(lambda at: cheap(at) | {"peak": 1.0}), r"gives 'peak' with shape \(\) at 14 points; give \(14,\)"),
        (uq.Physics(lambda at: cheap(at) | {"peak": np.nan * at["ka"]}), "all finite"),
    ):
        with pytest.raises(InputError, match=message):
            uq.GaussianProcess(mean=mean).fit(table())
    with pytest.raises(DataError, match="The scale of the cheap model of 'peak' cannot be found from 14 runs"):
        uq.GaussianProcess(mean=uq.Physics(lambda at: cheap(at) | {"peak": 0.0 * at["ka"]})).fit(table())
    with pytest.raises(InputError, match=r"mean is .*; give Physics\(function\)"):
        uq.GaussianProcess(mean=cheap)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'constant' or 'linear' trend beside it"):
        uq.GaussianProcess(mean=PHYSICS, trend="quadratic")
    less = uq.Physics(cheap, derivative=lambda at: {"Peak": {"ka": at["ka"]}, "conc": {}})
    with pytest.raises(InputError, match=r"gives \['Peak', 'conc'\]; give a mapping for each of the outputs"):
        uq.GaussianProcess(mean=less).fit(table()).gradient(at, {"peak": 1.0})
    with pytest.raises(InputError, match="function is 3; give a function"):
        uq.Physics(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="gives a NoneType; give a mapping"):
        uq.GaussianProcess(mean=uq.Physics(lambda at: None)).fit(table())  # type: ignore[arg-type,return-value]
    wrong = uq.Physics(cheap, derivative=lambda at: {"peak": {"k": at["ka"]}, "conc": {}})
    with pytest.raises(InputError, match="derivative by 'k'; the inputs are"):
        uq.GaussianProcess(mean=wrong, hyperparameters="point").fit(table()).gradient(at, {"peak": 1.0})


def test_what_a_cheap_model_leaves_has_learned_directions() -> None:
    # The cheap model knows a wave; what is left follows the difference of the inputs.
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
    design, new = uq.sobol(space, 32, rng=1), uq.sobol(space, 64, rng=2)

    def truth(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return 2.0 * np.sin(12.0 * a * b) + np.sin(9.0 * (a - b))

    cheap = uq.Physics(lambda theta: {"y": np.sin(12.0 * theta["a"] * theta["b"])})
    runs = uq.ensemble.build(design, {"y": truth(**{name: design[name].values for name in "ab"})})
    points = {name: new[name].values for name in "ab"}
    error = {}
    for scales in ("auto", "given"):
        prediction = uq.GaussianProcess(mean=cheap, scales=scales).fit(runs).predict(points)  # type: ignore[arg-type]
        error[scales] = np.sqrt(np.mean((prediction.mean["y"].values - truth(**points)) ** 2))
    assert error["auto"] < 0.2 * error["given"]
