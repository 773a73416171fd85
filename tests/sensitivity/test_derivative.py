"""Derivative-based measures against closed forms, and as bounds of total Sobol indices."""

import numpy as np
import pytest
import xarray as xr
from calibration.problems import given_surrogate
from sensitivity.functions import Given, ishigami

import uqms as uq
from uqms.errors import InputError
from uqms.sensitivity import derivative_measures

LEAD = ("draw", "bootstrap")


def mean(result, key):
    return result["y"][key].mean(LEAD).values


def uniform(d):
    return {name: uq.Uniform(0.0, 1.0) for name in "abcdefghij"[:d]}


def test_bounds_of_ishigami():
    """E[f_j^2] in closed form: Sobol' & Kucherenko (2009), section 6."""
    result = derivative_measures(Given(ishigami, 3), uniform(3), rng=1, draws=2, points=4096)
    a, b, pi = 7.0, 0.1, np.pi
    nu = np.array([0.5 * (1.0 + 2.0 * b * pi**4 / 5.0 + b**2 * pi**8 / 9.0), a**2 / 2.0, 8.0 * b**2 * pi**6 / 7.0])
    variance = a**2 / 8.0 + b * pi**4 / 5.0 + b**2 * pi**8 / 18.0 + 0.5
    np.testing.assert_allclose(mean(result, "bound"), nu * 4.0 / variance, rtol=0.02)
    # slopes are by the inputs of the surrogate, which go from 0 to 1 where x goes from -pi to pi
    np.testing.assert_allclose(mean(result, "slope"), np.sqrt(nu) * 2.0 * pi, rtol=0.02)
    total = np.array([0.5576, 0.4424, 0.2437])
    assert (mean(result, "bound") > total).all()


def linear_surrogate(space, slopes):
    """Return a surrogate without error that is linear on its own scale."""
    d = len(slopes)
    x = np.vstack([np.eye(d), np.zeros((1, d)), np.ones((1, d)), 0.5 * np.ones((1, d))])
    one = given_surrogate(
        x, x @ np.array(slopes)[:, None], variance=1e-12, names=space.names, columns=1 + d, space=space
    )
    box = space.box()
    return type(one)(box, one.process, one.bases, one.attrs)


def test_a_normal_input_of_a_linear_function_has_an_exact_bound():
    space = uq.ParameterSpace(a=uq.Normal(1.0, 2.0), b=uq.LogNormal(1.0, 0.5), c=uq.Uniform(2.0, 5.0))
    box = space.box(0.999)
    result = derivative_measures(linear_surrogate(space, [3.0, 2.0, 1.0]), rng=1, draws=4)
    u = box.to_unit(np.column_stack([space.draw(400_000, 1)[name].values for name in "abc"]))
    u = u[((u >= 0.0) & (u <= 1.0)).all(axis=1)]
    share = (np.array([3.0, 2.0, 1.0]) * u.std(axis=0)) ** 2
    share /= share.sum()
    bound = mean(result, "bound")
    # The law is cut at the box's ends, which takes 1 % of the variance of a normal one.
    np.testing.assert_allclose(bound[:2], share[:2], rtol=0.02)
    np.testing.assert_allclose(bound[2], share[2] * 12.0 / np.pi**2, rtol=0.02)
    assert (bound > share * (1.0 - 1e-2)).all()  # the share is known to 0.2 %
    widths = [box.upper[0] - box.lower[0], np.log(box.upper[1] / box.lower[1]), 3.0]
    np.testing.assert_allclose(mean(result, "slope"), np.array([3.0, 2.0, 1.0]) / widths, rtol=1e-3)
    assert dict(result.constants) == {"a": "normal", "b": "normal", "c": "uniform"}


def test_slopes_of_function_draws_have_the_law_of_the_process():
    """E[f'^2] of a Gaussian process given runs: squared slope of the mean plus the variance of the slope."""
    rng = np.random.default_rng(3)
    surrogate = given_surrogate(np.array([[0.1], [0.4], [0.9]]), rng.standard_normal((3, 1)), ell=0.3, names=("a",))
    result = derivative_measures(surrogate, uniform(1), rng=1, draws=400, bootstrap=10)
    h, u = 1e-3, (np.arange(1000) + 0.5) / 1000
    found = surrogate.scores(np.stack([u - h, u + h], axis=-1)[..., None])
    slope = (found.mean[0, :, 1, 0] - found.mean[0, :, 0, 0]) / (2.0 * h)
    covariance = found.covariance[0, :, 0]
    variance = (covariance[:, 0, 0] + covariance[:, 1, 1] - 2.0 * covariance[:, 0, 1]) / (4.0 * h**2)
    expected = np.mean(slope**2 + variance)
    squares = (result["y"]["slope"] ** 2).mean("bootstrap").values.ravel()
    assert abs(np.mean(squares) - expected) < 4.0 * np.std(squares) / np.sqrt(400)
    # The slope of the mean alone would be too small by more than that.
    assert np.mean(slope**2) < expected - 8.0 * np.std(squares) / np.sqrt(400)


def test_curves_and_transforms():
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
    design = uq.sobol(space, 32, rng=1)
    t = np.array([1.0, 2.0])
    y = np.exp(design["a"].values[:, None] * t + 0.1 * design["b"].values[:, None])
    runs = uq.ensemble.build(design, {"y": ("t", y, t)})
    surrogate = uq.GaussianProcess(outputs={"y": uq.Curve(transform="log")}, hyperparameters="point").fit(runs)
    result = derivative_measures(surrogate, rng=1, draws=10)
    a, b = np.random.default_rng(1).random((2, 200_000))
    for one in t:
        f = np.exp(a * one + 0.1 * b)
        expected = np.array([one**2, 0.01]) * np.mean(f**2) / np.var(f) / np.pi**2
        np.testing.assert_allclose(result["y"]["bound"].sel(t=one).mean(LEAD), expected, rtol=0.03)
    assert result["y"]["bound_whole"].sizes == {"draw": 10, "bootstrap": 50, "parameter": 2}
    assert isinstance(result.interval()["y"]["upper_bound"], xr.DataArray)
    assert list(result.table().columns[:2]) == ["output", "parameter"]
    assert "whole curve" in repr(result)


def test_a_curve_that_starts_at_one_value_has_a_bound_as_a_whole():
    t = np.array([0.0, 1.0, 3.0])
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
    simulator = uq.DirectSimulator(
        lambda a, b: 0.1 + t * a + t**2 * b, space=space, outputs={"y": ("t",)}, coords={"t": t}, units={"y": "mm"}
    )
    one = derivative_measures(simulator, rng=1, draws=2)["y"]
    assert np.isnan(one["bound"].sel(t=0.0)).all()
    weights = np.array([0.5, 1.5, 1.0])  # trapezoidal rule
    squares = np.stack([t, t**2]) ** 2 @ weights
    np.testing.assert_allclose(one["bound_whole"].mean(LEAD), squares / squares.sum() * 12.0 / np.pi**2, rtol=0.01)
    assert one["variance"].attrs["unit"] == "(mm)²"


@pytest.mark.slow
def test_the_monte_carlo_error_is_that_of_other_seeds():
    space = uq.ParameterSpace(a=uq.Uniform(0.0, 1.0), b=uq.Uniform(0.0, 1.0))
    simulator = uq.DirectSimulator(lambda a, b: np.sin(3.0 * a) + b**2, space=space, outputs={"y": ()}, vectorized=True)
    found = [derivative_measures(simulator, rng=seed, points=256, draws=2)["y"]["bound"] for seed in range(60)]
    across = np.std([one.mean(LEAD) for one in found], axis=0, ddof=1)
    said = np.sqrt(np.mean([one.var("bootstrap", ddof=1).mean("draw") for one in found], axis=0))
    np.testing.assert_allclose(said / across, 1.0, atol=0.3)


def test_what_cannot_be_meant_is_refused():
    surrogate = Given(ishigami, 3)
    block = uq.MultivariateNormal(("a", "b"), mean=[0.5, 0.5], covariance=[[0.01, 0.005], [0.005, 0.01]])
    with pytest.raises(InputError, match="joint"):
        derivative_measures(surrogate, uq.ParameterSpace(block, c=uq.Uniform(0.0, 1.0)))
    with pytest.raises(InputError, match="given by draws"):
        derivative_measures(surrogate, {**uniform(3), "a": np.linspace(0.0, 1.0, 500)})
    for points in (0, 10, 1000, True):
        with pytest.raises(InputError, match="power of two"):
            derivative_measures(surrogate, uniform(3), points=points)
