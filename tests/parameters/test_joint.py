"""Joint blocks against scipy's multivariate normal and against independent priors."""

import json
import pickle

import numpy as np
import pytest
from scipy import stats

import uqms as uq
from uqms.errors import InputError

COVARIANCE = np.array([[0.09, 0.04, 0.01], [0.04, 0.04, -0.02], [0.01, -0.02, 0.25]])
MEAN = np.array([np.log(5.0), 3.0, -0.4])
BLOCK = uq.MultivariateNormal(
    ("CL", "V", "F"), MEAN, COVARIANCE, {"CL": "log", "F": "logit"}, units={"CL": "L/h"}, descriptions={"V": "volume"}
)
SPACE = uq.ParameterSpace(BLOCK, ka=uq.LogNormal(1.0, 0.5), conditions={"dose": uq.Condition(0.0, 1.0)})


def own(s):
    return np.stack([np.exp(s[..., 0]), s[..., 1], 1.0 / (1.0 + np.exp(-s[..., 2]))], axis=-1)


def test_density_is_that_of_scipy_with_the_jacobian():
    s = np.random.default_rng(1).multivariate_normal(MEAN, COVARIANCE, 20)
    x = own(s)
    expected = stats.multivariate_normal(MEAN, COVARIANCE).logpdf(s)
    expected -= np.log(x[:, 0]) + np.log(x[:, 2]) + np.log1p(-x[:, 2])
    np.testing.assert_allclose(BLOCK.log_density(x), expected, rtol=0, atol=1e-11)
    ka = uq.LogNormal(1.0, 0.5)
    whole = SPACE.log_density(np.column_stack([x, np.full(20, 1.3)]))
    np.testing.assert_allclose(whole, expected + ka.log_density(1.3), rtol=0, atol=1e-11)


def test_outside_of_the_support_and_nan():
    assert BLOCK.log_density([-1.0, 3.0, 0.4]) == -np.inf
    assert BLOCK.log_density([5.0, 3.0, 1.5]) == -np.inf
    assert np.isnan(BLOCK.log_density([np.nan, 3.0, 0.4]))


def test_diagonal_covariance_equals_independent_priors():
    priors = {"a": uq.LogNormal(2.0, 0.3), "b": uq.Normal(1.0, 0.5), "c": uq.LogitNormal(0.3, 0.7)}
    joint = uq.ParameterSpace(uq.MultivariateNormal.correlated(np.eye(3), **priors))
    alone = uq.ParameterSpace(**priors)
    x = alone.quantile(np.random.default_rng(2).random((50, 3)))
    np.testing.assert_allclose(joint.log_density(x), alone.log_density(x), rtol=0, atol=1e-10)
    np.testing.assert_allclose(joint.to_cube(x), alone.to_cube(x), rtol=1e-9)
    np.testing.assert_allclose(joint.from_cube(alone.to_cube(x)), x, rtol=1e-9)
    np.testing.assert_allclose(joint.box().lower, alone.box().lower, rtol=1e-9)
    np.testing.assert_allclose(joint.mass_inside(alone.box()), 0.999, rtol=1e-9)


@pytest.mark.parametrize("box", [None, SPACE.box(0.5)])
def test_cube_and_back(box):
    u = np.random.default_rng(3).random((200, 5))
    x = SPACE.from_cube(u, box)
    np.testing.assert_allclose(SPACE.to_cube(x, box), u, rtol=1e-8, atol=1e-9)
    if box is not None:
        assert np.all(box.contains(x))


def test_points_of_the_cube_have_the_law_of_the_block():
    x = np.stack([values.values for values in uq.sobol(SPACE, 4096, rng=1).data_vars.values()], axis=-1)
    s = np.column_stack([np.log(x[:, 0]), x[:, 1], np.log(x[:, 2] / (1.0 - x[:, 2]))])
    np.testing.assert_allclose(np.cov(s.T), COVARIANCE, atol=0.003)  # 0.1 % is cut off
    drawn = SPACE.draw(20_000, rng=2)
    s = np.column_stack([np.log(drawn["CL"]), drawn["V"], np.log(drawn["F"] / (1.0 - drawn["F"]))])
    np.testing.assert_allclose(s.mean(axis=0), MEAN, atol=4 * 0.5 / np.sqrt(20_000))
    np.testing.assert_allclose(np.cov(s.T), COVARIANCE, atol=4 * 0.25 * np.sqrt(2 / 20_000))
    assert drawn["CL"].attrs["unit"] == "L/h"


def test_mass_of_a_box_equals_scipy():
    block = uq.MultivariateNormal.correlated(0.8, a=uq.Normal(0.0, 1.0), b=uq.Normal(0.0, 2.0))
    law = stats.multivariate_normal([0, 0], [[1, 1.6], [1.6, 4]])
    for lower, upper in (((-1.0, -1.0), (2.0, 3.0)), ((1.0, 2.0), (3.0, 2.5)), ((-np.inf, 0.0), (0.5, np.inf))):
        low, high = np.maximum(lower, -40.0), np.minimum(upper, 40.0)
        exact = law.cdf(high) - law.cdf([low[0], high[1]]) - law.cdf([high[0], low[1]]) + law.cdf(low)
        assert block.mass_inside(lower, upper) == pytest.approx(exact, rel=2e-5)
    box = SPACE.box(0.99)
    assert 0.99 < SPACE.mass_inside(box) < 0.995  # correlation only adds to what the margins keep


def test_conditional_block():
    rest = BLOCK.given({"V": 3.2})
    gain = COVARIANCE[[0, 2], 1] / COVARIANCE[1, 1]
    np.testing.assert_allclose(rest.mean, MEAN[[0, 2]] + gain * 0.2, rtol=1e-12)
    expected = COVARIANCE[np.ix_([0, 2], [0, 2])] - np.outer(gain, COVARIANCE[1, [0, 2]])
    np.testing.assert_allclose(rest.covariance, expected, atol=1e-14)
    x = np.array([5.5, 3.2, 0.35])
    joint = BLOCK.log_density(x) - BLOCK.priors["V"].log_density(3.2)
    assert rest.log_density(x[[0, 2]]) == pytest.approx(joint, abs=1e-11)
    assert SPACE.given({"V": 3.2, "ka": 1.0}).names == ("CL", "F")
    assert uq.ParameterSpace(BLOCK, k=uq.Normal(0, 1)).given({"CL": 5.0, "V": 3.0, "F": 0.4}).names == ("k",)


def test_files_equality_and_repr():
    again = uq.ParameterSpace.from_json(SPACE.to_json())
    assert again == SPACE
    assert hash(again) == hash(SPACE)
    assert pickle.loads(pickle.dumps(SPACE)) == SPACE
    assert json.loads(SPACE.to_json())["version"] == 2
    assert json.loads(uq.ParameterSpace(a=uq.Normal(0, 1)).to_json())["version"] == 1
    other = uq.ParameterSpace(uq.MultivariateNormal.correlated(0.1, a=uq.Normal(0, 1), b=uq.Normal(0, 1)))
    assert other != uq.ParameterSpace(a=uq.Normal(0, 1), b=uq.Normal(0, 1))
    assert "CL~V 0.67" in repr(SPACE)
    assert "LogitNormal" in SPACE._repr_html_()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: uq.MultivariateNormal(("a", "b"), [0, 0], [[1, 1.1], [1.1, 1]]), "not positive definite"),
        (lambda: uq.MultivariateNormal(("a", "b"), [0, 0], [[1, 0.2], [0.3, 1]]), "not symmetric"),
        (lambda: uq.MultivariateNormal(("a", "b"), [0, 0], [[1, 0.0], [0.0, 0.0]]), "variances of .'b'. are not above"),
        (lambda: uq.MultivariateNormal(("a", "b"), [0, 0, 0], np.eye(3)), "2 names"),
        (lambda: uq.MultivariateNormal(("a", "a"), [0, 0], np.eye(2)), "stands twice"),
        (lambda: uq.MultivariateNormal("ab", [0, 0], np.eye(2)), "give a tuple of names"),
        (lambda: uq.MultivariateNormal(("a",), [np.nan], [[1.0]]), "not finite"),
        (lambda: uq.MultivariateNormal(("a",), [0.0], [[1.0]], {"b": "log"}), "not among a"),
        (lambda: uq.MultivariateNormal(("a",), [0.0], [[1.0]], "square"), "give one of identity, log, logit"),
        (lambda: uq.MultivariateNormal(("a",), [3000.0], [[1.0]], "log"), "Means are those of the log"),
        (lambda: uq.MultivariateNormal.correlated(0.5, a=uq.Uniform(0, 1), b=uq.Normal(0, 1)), "Normal, LogNormal"),
        (lambda: uq.MultivariateNormal.correlated(np.ones((3, 3)), a=uq.Normal(0, 1)), "ones on its diagonal"),
        (lambda: uq.ParameterSpace(BLOCK, CL=uq.Normal(0, 1)), "CL has two priors"),
        (lambda: uq.ParameterSpace(uq.Normal(0, 1)), "no joint prior"),
        (lambda: BLOCK.given({"x": 1.0}), "not in the block"),
        (lambda: BLOCK.given({"CL": -1.0}), "impossible on the scale"),
    ],
)
def test_bad_blocks(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_draws_that_are_normal_on_their_scale_become_a_block():
    s = np.random.default_rng(5).multivariate_normal(MEAN, COVARIANCE, 4000)
    block = uq.MultivariateNormal.from_draws(
        dict(zip(("CL", "V", "F"), own(s).T, strict=True)), scale={"CL": "log", "F": "logit"}
    )
    np.testing.assert_allclose(block.covariance, np.cov(s.T), rtol=1e-9)
    np.testing.assert_allclose(block.mean, s.mean(axis=0), rtol=1e-9)


@pytest.mark.parametrize("kind", ["modes", "ridge", "skewed", "cut", "ring"])
def test_draws_that_are_not_normal_are_refused(kind):
    rng = np.random.default_rng(6)
    z = rng.standard_normal((2000, 2))
    draws = {
        "modes": z + 3.0 * np.sign(rng.random((2000, 1)) - 0.5),
        "ridge": np.column_stack([z[:, 0], 0.2 * z[:, 1] + z[:, 0] ** 2]),
        "skewed": np.exp(z),
        "cut": np.abs(z),
        "ring": z / np.linalg.norm(z, axis=1, keepdims=True) * (1.0 + 0.05 * z[:, :1]),
    }[kind]
    with pytest.raises(InputError, match=r"[Cc]alibrate the earlier and the new data jointly"):
        uq.MultivariateNormal.from_draws({"a": draws[:, 0], "b": draws[:, 1]})


def test_too_few_or_impossible_draws():
    with pytest.raises(InputError, match="at least 100"):
        uq.MultivariateNormal.from_draws({"a": np.arange(50.0)})
    with pytest.raises(InputError, match="not finite on their scale"):
        uq.MultivariateNormal.from_draws({"a": np.linspace(-1, 1, 200)}, scale="log")
